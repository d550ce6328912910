"""Training with a loss that is a Python function: the core's interface, over its separate passes.

`CustomTrainer` stands where `_core.Trainer` stands for the losses that the core computes.
"""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _core, _figures, _habits
from thalweg._arrays import Array, Samples
from thalweg._ascent import Ascent
from thalweg._figures import Figures
from thalweg._jets import NAMES, Jets
from thalweg._warn import warn_maker
from thalweg.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    DtypeError,
    ShapeError,
    ThalwegError,
    UnsupportedError,
)
from thalweg.nn import (
    DerivativeLoss,
    Flatten,
    Hardsigmoid,
    Hardtanh,
    Identity,
    LeakyReLU,
    Linear,
    ReLU,
    ReLU6,
    Sequential,
    Standardize,
)
from thalweg.nn._layers import with_inner
from thalweg.nn._losses import FunctionLoss
from thalweg.optim import SAM, Optimizer


class Passes(Protocol):
    """What a loss is of, and the way back from there."""

    def forward(self, x: Any) -> tuple[Array, ...]:
        """Give what the loss is of, for training."""

    def backward(self, gradients: Sequence[Array]) -> None:
        """Add to the model's gradients, from those by what `forward` gave."""

    def predict(self, x: Any) -> tuple[Array, ...]:
        """Give what the loss is of, in evaluation mode."""


class Outputs:
    """The passes of a `CustomLoss`, which is of a model's outputs."""

    def __init__(self, model: Sequential) -> None:
        self._model = model

    def forward(self, x: Any) -> tuple[Array, ...]:
        """See `Passes`."""
        return (self._model.forward(x, training=True),)

    def backward(self, gradients: Sequence[Array]) -> None:
        """See `Passes`."""
        self._model._core.backward(gradients[0], True, False)

    def predict(self, x: Any) -> tuple[Array, ...]:
        """See `Passes`."""
        return (self._model(x),)


def passes(loss: FunctionLoss, model: Sequential) -> Passes:
    """Those that belong to a loss."""
    if isinstance(loss, DerivativeLoss):
        return Jets(model, loss.order, loss.along)
    return Outputs(model)


class CustomTrainer:
    """Steps and evaluations with a loss that is a function; `ready` converts what has to be.

    `core` makes updates of gradients: it gathers, clips, steps and averages. It never sees a loss.
    """

    whole = False
    has_accuracy = False

    def __init__(
        self,
        core: _core.Trainer,
        model: Sequential,
        loss: FunctionLoss,
        optimizer: Optimizer,
        ready: Callable[[Any, Any, Any], tuple[Samples, Any, Array | None]],
    ) -> None:
        self.core = core
        self.ready = ready
        self.model = model
        self.optimizer = optimizer
        self.set_loss(loss)
        self._ascent = Ascent(model, optimizer) if isinstance(optimizer, SAM) else None

    def set_loss(self, loss: FunctionLoss) -> None:
        """Take a loss, if its passes go through the model."""
        self.passes: Passes = passes(loss, self.model)
        self.loss = loss
        if isinstance(loss, DerivativeLoss) and "d2u" in names_of(loss):
            _warn_of_kinks(self.model)

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """Forward, the function, backward, update; gives the loss before it."""
        data = self.ready(x, y, sample_weight)
        gradients = self.model._core.gradients()
        try:
            return self.train(*data)[0]
        except BaseException:
            with contextlib.suppress(DataError):  # they were not finite, which cannot be set
                self.model._core.set_gradients(gradients)
            raise

    def train(self, x: Samples, y: Any, sample_weight: Array | None) -> tuple[float, None, Figures]:
        """As `step`, but that gradients after an error are whatever they are.

        Gives the figures of the function, too; there is no accuracy.
        """
        core = self.model._core
        before = core.averages(), core.passes()
        ascent = self._ascent
        data = x, y, sample_weight
        try:
            value, figures = self._differentiate(*data)
            if ascent is not None:
                averages = core.averages()  # they take in the first of the two passes
                ascent.up()
                core.set_passes(before[1])  # what is dropped is the same
                self._differentiate(*data)
                ascent.down()
                core.set_averages(averages)
            self.core.take()
        except BaseException as error:  # Ctrl-C, too
            if ascent is not None:
                ascent.down()
            self._restore(*before)
            if isinstance(error, DivergedError):
                self.forget()  # as the core does
            raise
        return value, None, figures

    def _differentiate(
        self, x: Samples, y: Any, sample_weight: Array | None
    ) -> tuple[float, Figures]:
        """Leave the gradients of a batch in the model; gives its loss and figures."""
        value, gradients, figures = self._forward(x, y, sample_weight)
        self.model.zero_grad()
        self.passes.backward(gradients)
        return value, figures

    def sums(
        self, x: Samples, y: Any, sample_weight: Array | None = None
    ) -> tuple[float, float, float, float, Figures] | None:
        """As `train` of the core's, with figures: a batch counts as much as its rows together."""
        if sample_weight is not None and not sample_weight.any():
            return None
        share = total(x, sample_weight)
        value, _, figures = self.train(x, y, sample_weight)
        return value * share, 0.0, share, 0.0, figures

    def check(self, x: Samples, y: Any, sample_weight: Array | None, prefix: str = "") -> None:
        """Raise unless these data can be used."""
        check(self.model, x, y, sample_weight, finite=True, prefix=prefix)
        check_arguments(self.loss, sample_weight is not None)

    def backward(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[float, None, Figures]:
        """Forward, the function, backward; gives the loss, and adds to the model's gradients."""
        before = self.model._core.averages(), self.model._core.passes()
        try:
            value, gradients, figures = self._forward(x, y, sample_weight)
        except BaseException:
            self._restore(*before)
            raise
        self.passes.backward(gradients)
        return value, None, figures

    def _restore(self, averages: Array, passes: int) -> None:
        self.model._core.set_averages(averages)
        self.model._core.set_passes(passes)

    def _forward(self, x: Any, y: Any, sample_weight: Any) -> tuple[float, list[Array], Figures]:
        """Give the loss, its gradients by what a training pass gives, and figures."""
        check(self.model, x, y, sample_weight)
        value, gradients, figures = call(self.loss, self.passes.forward(x), y, sample_weight)
        if not np.isfinite(value):
            raise DivergedError(
                f"the loss became {value} with lr={self.optimizer.lr}: the learning rate is "
                "too large, or the loss is not defined for these outputs. Weights and "
                "optimizer are as they were before this call"
            )
        return value, gradients, figures

    def evaluate(
        self, x: Samples, y: Any, sample_weight: Array | None = None
    ) -> tuple[float, None, Figures]:
        """Give loss and figures of all rows in one call, in evaluation mode; no accuracy."""
        check(self.model, x, y, sample_weight)
        value, _, figures = call(self.loss, self.passes.predict(x), y, sample_weight)
        if not np.isfinite(value):
            raise ArgumentError(f"the loss is {value} although the data are finite")
        return value, None, figures

    def take(self) -> None:
        """As the core's."""
        self.core.take()

    def flush(self) -> None:
        """As the core's."""
        self.core.flush()

    def forget(self) -> None:
        """As the core's."""
        self.core.forget()

    def average(self) -> tuple[Array, int] | None:
        """As the core's."""
        return self.core.average()

    def grad_norm(self) -> float | None:
        """As the core's."""
        return self.core.grad_norm()

    def gathered(self) -> tuple[Array, int] | None:
        """As the core's."""
        return self.core.gathered()

    def set_gathered(self, values: Array, batches: int) -> None:
        """As the core's."""
        self.core.set_gathered(values, batches)

    def set_average(self, values: Array, count: int) -> None:
        """As the core's."""
        self.core.set_average(values, count)

    def penalty_value(self) -> float | None:
        """As the core's."""
        return self.core.penalty_value()

    def plan(self, batch_size: int) -> tuple[str, int]:
        """There is none."""
        raise UnsupportedError(
            "a step with a custom loss is a forward pass, a call of the function and a backward "
            "pass: there is no plan of it as a whole"
        )


_AFFINE = (Linear, Standardize, Flatten, Identity)
#: Layers that are linear, piece by piece: second derivatives do not come from them.
_STRAIGHT = (*_AFFINE, ReLU, LeakyReLU, ReLU6, Hardtanh, Hardsigmoid)


def _warn_of_kinks(model: Sequential) -> None:
    """Warn if second derivatives are 0 wherever they are."""
    layers = list(with_inner(model.layers))
    if not all(isinstance(layer, _STRAIGHT) for layer in layers):
        return
    kinds = {type(it).__name__ for it in layers if not isinstance(it, _AFFINE)}
    there = f"as {', '.join(sorted(kinds))} and nn.Linear are" if kinds else "as nn.Linear is"
    warn_maker(
        "the second derivatives of this network are 0, for all of its layers are linear piece by "
        f"piece, {there}: nothing is learned from d2u. Use nn.Tanh(), nn.Sine(), nn.SiLU() or "
        "nn.Softplus(); or nn.DerivativeLoss(function, order=1), if the function needs no d2u"
    )


def total(x: Samples, sample_weight: Array | None) -> float:
    """How much rows count together in a mean."""
    return float(len(x) if sample_weight is None else sample_weight.sum(dtype=np.float64))


def targets(y: Any, name: str) -> Any:
    """`y` as an array whose rows can be picked; several arrays by name are one of records."""
    if isinstance(y, Mapping):
        return _records(y, name)
    array = _arrays.as_array(y, name)
    if array.ndim == 0:
        raise ShapeError(f"{name} must have a row for each row of x; got {_habits.shown(y)}")
    return array


def _records(parts: Mapping[Any, Any], name: str) -> npt.NDArray[Any]:
    """Arrays of the same rows as one, which has each of them by its name."""
    if not parts or not all(isinstance(key, str) and key for key in parts):
        raise ArgumentError(
            f"{name} is a dict, and must have names, each with an array; got {list(parts)}"
        )
    columns = {key: targets(part, f"{name}[{key!r}]") for key, part in parts.items()}
    lengths = {key: len(column) for key, column in columns.items()}
    rows = next(iter(lengths.values()))
    if set(lengths.values()) != {rows}:
        raise ShapeError(f"all arrays of {name} must have the same number of rows; got {lengths}")
    fields = [(key, column.dtype, column.shape[1:]) for key, column in columns.items()]
    records = np.empty(rows, np.dtype(fields, align=True))
    for key, column in columns.items():
        records[key] = column
    return records


def check(
    model: Sequential,
    x: Samples,
    y: Any,
    sample_weight: Array | None,
    finite: bool = False,
    prefix: str = "",
) -> None:
    """Check that lengths agree and weights are such; with `finite` also all of x."""
    for name, array in (("y", y), ("sample_weight", sample_weight)):
        if array is not None and len(array) != len(x):
            raise ShapeError(
                f"{prefix}x has {len(x)} rows but {name} has {len(array)}; they must be of one "
                "length"
            )
    if len(x) == 0:
        raise DataError(f"{prefix}x has no rows; at least one is needed")
    if finite:  # a prediction looks at every number, and at the width
        try:
            model(x)
        except ThalwegError as error:
            raise type(error)(f"{prefix}{error}") from None
    if sample_weight is not None:
        _arrays.finite(sample_weight, f"{prefix}sample_weight")
        if (sample_weight < 0).any():
            row = int((sample_weight < 0).argmax())
            raise DataError(
                f"{prefix}sample_weight[{row}] is {sample_weight[row]}; a finite number >= 0 is "
                "needed"
            )
        if not sample_weight.any():
            raise DataError(f"{prefix}no row counts: each has a sample_weight of 0")


def value(loss: FunctionLoss, outputs: Any, target: Any) -> float:
    """Give the loss of what it is of, which is there already."""
    return call(loss, _copies(loss, outputs), targets(target, "target"), None)[0]


def gradients(
    loss: FunctionLoss, outputs: Any, target: Any, sample_weight: Any
) -> tuple[Array, ...]:
    """Give the derivatives of the loss by what it is of, which is there already."""
    arrays = _copies(loss, outputs)
    weight = _arrays.weights(sample_weight, arrays[0].dtype, "sample_weight")
    return tuple(call(loss, arrays, targets(target, "target"), weight)[1])


def _copies(loss: FunctionLoss, outputs: Any) -> tuple[Array, ...]:
    """Give copies of what a loss is of, for the function may write to them."""
    names = names_of(loss)
    if not isinstance(outputs, (tuple, list)) or len(outputs) != len(names):
        raise ArgumentError(
            f"output must be a tuple ({', '.join(names)}), as curvature.jet gives it; got "
            f"{_number_of(outputs)}"
        )
    copies = (np.array(_arrays.as_numeric(*pair)) for pair in zip(outputs, names, strict=True))
    return tuple(copy if copy.dtype.kind == "f" else copy.astype(np.float64) for copy in copies)


def names_of(loss: FunctionLoss) -> tuple[str, ...]:
    """Name what a loss is of."""
    if not isinstance(loss, DerivativeLoss):
        return ("output",)
    return NAMES[: 1 + (loss.order if isinstance(loss.order, int) else max(loss.order))]


def check_arguments(loss: FunctionLoss, weighted: bool) -> None:
    """Raise unless the function of a loss can be called with as many arrays as it is given."""
    try:
        # Not what it wraps, which is called in another way.
        signature = inspect.signature(loss.function, follow_wrapped=False)
    except (TypeError, ValueError):  # it is compiled, and does not say
        return
    names = (*names_of(loss), "target")

    def takes(*given: str) -> bool:
        try:
            signature.bind(*given)
        except TypeError:
            return False
        return True

    given = (*names, "weight") if weighted else names
    if takes(*given):
        return
    kind = f"{'with' if weighted else 'without'} sample_weight a loss of your own"
    if isinstance(loss, DerivativeLoss):
        kind += f", nn.DerivativeLoss with order={loss.order!r},"
    what = f"{kind} is called as f({', '.join(given)})"
    name = getattr(loss.function, "__name__", type(loss.function).__name__)
    arguments = ", ".join(map(str, signature.parameters.values()))
    more = ""
    if weighted and takes(*names):
        more = ": give it one argument more, weight, or leave sample_weight out"
    elif not weighted and takes(*names, "weight"):
        more = ": pass sample_weight, or give its last argument a default, weight=None"
    raise ArgumentError(f"{what}, but {name} takes ({arguments}){more}")


def call(
    loss: FunctionLoss, outputs: tuple[Array, ...], target: Any, weight: Array | None
) -> tuple[float, list[Array], Figures]:
    """Call the function of a loss, and see that it gives what it should."""
    expected = [(output.shape, output.dtype) for output in outputs]  # it may write to them
    more = () if weight is None else (weight,)
    try:
        result: Any = loss.function(*outputs, target, *more)  # whatever it really gives
    except TypeError:
        check_arguments(loss, weight is not None)  # Python names no weights
        raise
    several = isinstance(loss, DerivativeLoss)
    by = "gradients" if several else "gradient"
    if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
        raise ArgumentError(
            f"the loss function must give a tuple (loss, {by}), or (loss, {by}, figures) with a "
            f"dict of numbers for the history; it gave {_number_of(result)}"
        )
    number = _arrays.as_numeric(result[0], "the loss")
    if number.size != 1:
        raise ShapeError(f"the loss must be one number; its shape is {number.shape}")
    names = names_of(loss)
    gradients = result[1] if several else (result[1],)
    if not isinstance(gradients, (tuple, list)) or len(gradients) != len(names):
        raise ArgumentError(
            f"the gradients of the loss must be a tuple of those by {', '.join(names)}, None where "
            f"there is none; the function gave {_number_of(gradients)}"
        )
    value = float(number.item())
    ready = []
    for gradient, name, (shape, dtype) in zip(gradients, names, expected, strict=True):
        if several and gradient is None:
            ready.append(np.zeros(shape, dtype))
            continue
        what = f"the gradient of the loss by {name}" if several else "the gradient of the loss"
        gradient = _arrays.as_numeric(gradient, what)
        if gradient.shape != shape:
            whose = name if several else "the output"
            raise ShapeError(f"{what} has shape {gradient.shape}, but {whose} has {shape}")
        if gradient.dtype.kind != "f":
            raise DtypeError(f"{what} has dtype {gradient.dtype}; floats are needed")
        gradient = _arrays.as_dtype(gradient, dtype, what)
        if np.isfinite(value):  # if it is not, that is the news
            _arrays.finite(gradient, what)
        ready.append(gradient)
    # Of a loss that is not finite figures may be anything.
    figures = _figures.checked(result[2]) if len(result) == 3 and np.isfinite(value) else {}
    return value, ready, figures


def _number_of(given: Any) -> str:
    return f"{len(given)} items" if isinstance(given, (tuple, list)) else repr(type(given))
