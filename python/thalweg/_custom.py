"""Training with a loss that is a Python function, on the core's separate passes.

`CustomTrainer` takes the place of `_core.Trainer`, which is for losses that the core computes.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from thalweg import _arrays, _core, _figures, _steps
from thalweg._arrays import Array, Samples
from thalweg._ascent import Ascent
from thalweg._figures import Figures
from thalweg._jets import CHANGED, NAMES, Jets
from thalweg._targets import parts, shown, targets
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
    """What a loss takes, and the backward pass from there."""

    def forward(self, x: Any) -> tuple[Array, ...]:
        """Return what the loss takes, in training mode; `x` is prepared for the core."""

    def backward(self, gradients: Sequence[Array]) -> None:
        """Add to the model's gradients, given those with respect to the result of `forward`.

        Raises
        ------
        ArgumentError
            If the model has changed since then in a way that makes them wrong.
        """

    def predict(self, x: Any) -> tuple[Array, ...]:
        """Return what the loss takes, in evaluation mode."""


class Outputs:
    """The passes of a `CustomLoss`, which takes the model's outputs."""

    def __init__(self, model: Sequential) -> None:
        self._model = model
        self._kept = 0  # passes up to the one that gradients go back through

    def forward(self, x: Any) -> tuple[Array, ...]:
        """See `Passes`."""
        output = self._model._core.forward(x)
        self._kept = self._model._core.kept()
        return (output,)

    def backward(self, gradients: Sequence[Array]) -> None:
        """See `Passes`."""
        if self._model._core.kept() != self._kept:
            raise ArgumentError(
                "the loss function called model.forward, or another trainer with a custom loss, "
                "which replaced the pass that gradients are to go back through; the model is as it "
                "was before this call. Use model(x) in place of model.forward(x), and call such a "
                "trainer before or after this one; for gradients at other rows, add these to x "
                "and y"
            )
        try:
            self._model._core.backward(gradients[0], True, False)
        except ArgumentError:  # other parameters have ended its pass
            raise ArgumentError(CHANGED) from None
        self._model._core.forget()  # or model.backward would go back through this pass again

    def predict(self, x: Any) -> tuple[Array, ...]:
        """See `Passes`."""
        return (self._model(x),)


def passes(loss: FunctionLoss, model: Sequential) -> Passes:
    """Return the passes for a loss."""
    if isinstance(loss, DerivativeLoss):
        return Jets(model, loss.order, loss.along)
    return Outputs(model)


class CustomTrainer:
    """Steps and evaluations with a loss that is a function; `ready` converts the data.

    `core` makes updates from gradients: it accumulates, clips, steps and averages. It never sees a
    loss.
    """

    whole = False
    has_accuracy = False
    kind = "a custom loss"

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
        #: What the function returned beside the loss for the latest batch.
        self.figures: Figures = {}
        self._ascent = Ascent(model, optimizer) if isinstance(optimizer, SAM) else None

    def set_loss(self, loss: FunctionLoss) -> None:
        """Set a loss, if its passes go through the model."""
        self.passes: Passes = passes(loss, self.model)
        self.loss = loss
        if isinstance(loss, DerivativeLoss) and "d2u" in names_of(loss):
            _warn_of_kinks(self.model)

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """Run forward, the function, backward and update; return the loss before the update."""
        return self._train(*self.ready(x, y, sample_weight), True)[0]

    def train(self, x: Samples, y: Any, sample_weight: Array | None) -> tuple[float, None, Figures]:
        """Do the same as `step`, but leave gradients undefined after an error.

        Also returns the function's figures; there is no accuracy.
        """
        return self._train(x, y, sample_weight, False)

    @_steps.alone("step")
    def _train(
        self, x: Samples, y: Any, sample_weight: Array | None, single: bool
    ) -> tuple[float, None, Figures]:
        """Do the same; after an error, a `single` step also restores parameters and gradients."""
        core, ascent = self.model._core, self._ascent
        before = core.averages(), core.passes()
        all_before = (core.parameters(), core.gradients()) if single else None
        data, taken = (x, y, sample_weight), None
        try:
            core.zero_grad()  # before the function, which may add gradients of its own
            value, figures = self._differentiate(*data)
            if ascent is not None:
                averages = core.averages()  # they include only the first of the two passes
                ascent.up()
                core.set_passes(before[1])  # so that dropout drops the same
                core.zero_grad()
                self._differentiate(*data)
                ascent.down()
                core.set_averages(averages)
            taken = taken_by(self.optimizer, self.core)
            self.core.take()
        except BaseException as error:  # also Ctrl-C
            if taken is None or taken == taken_by(self.optimizer, self.core):
                if ascent is not None:
                    ascent.down()
                core.set_averages(before[0])
                core.set_passes(before[1])
                if all_before is not None:
                    self._restore(*all_before)
                if isinstance(error, DivergedError):
                    self.forget()  # as the core does
            raise
        self.figures = figures
        return value, None, figures

    def _differentiate(self, x: Any, y: Any, sample_weight: Any) -> tuple[float, Figures]:
        """Add the gradients of a batch to the model's; return its loss and figures."""
        check(self.model, x, y, sample_weight)
        outputs = self.passes.forward(x)
        value, gradients, figures = call(self.loss, outputs, y, sample_weight)
        if not math.isfinite(value):
            why = "the learning rate is too large, or the loss is not defined for these outputs"
            raise DivergedError(
                f"the loss became {value} with lr={self.optimizer.lr}: "
                f"{_not_finite(y) or why}. Weights and optimizer are as they were before this call"
            )
        self.passes.backward(gradients)
        return value, figures

    def sums(
        self, x: Samples, y: Any, sample_weight: Array | None = None
    ) -> tuple[float, float, float, float, Figures] | None:
        """Train as the core does, with figures: a batch counts as much as its rows together."""
        if sample_weight is not None and not sample_weight.any():
            return None
        share = total(x, sample_weight)
        value, _, figures = self.train(x, y, sample_weight)
        return value * share, 0.0, share, 0.0, figures

    def check(self, x: Samples, y: Any, sample_weight: Array | None, prefix: str = "") -> None:
        """Raise unless these data can be used."""
        check(self.model, x, y, sample_weight, finite=True, prefix=prefix)
        check_arguments(self.loss, sample_weight is not None)

    @_steps.alone("backward")
    def backward(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[float, None, Figures]:
        """Run forward, the function and backward, adding to the gradients; return the loss."""
        core = self.model._core
        before = core.parameters(), core.gradients()
        averages, passes = core.averages(), core.passes()
        try:
            value, figures = self._differentiate(x, y, sample_weight)
        except BaseException:
            self._restore(*before)
            core.set_averages(averages)
            core.set_passes(passes)
            raise
        self.figures = figures
        return value, None, figures

    def _restore(self, parameters: Array, gradients: Array) -> None:
        with contextlib.suppress(DataError):  # non-finite ones cannot be set
            self.model._core.set_parameters(parameters)
        with contextlib.suppress(DataError):
            self.model._core.set_gradients(gradients)

    def evaluate(
        self, x: Samples, y: Any, sample_weight: Array | None = None
    ) -> tuple[float, None, Figures]:
        """Return loss and figures of all rows in one call, in evaluation mode; no accuracy."""
        check(self.model, x, y, sample_weight)
        # Passes of its own: a step may be under way, of another thread or around this call.
        outputs = passes(self.loss, self.model).predict(x)
        value, _, figures = call(self.loss, outputs, y, sample_weight)
        if not math.isfinite(value):
            why = _not_finite(y)
            raise ArgumentError(
                f"the loss is {value}{f': {why}' if why else ', although the data are finite'}"
            )
        return value, None, figures

    def take(self) -> None:
        """Do as the core does."""
        self.core.take()

    def flush(self) -> None:
        """Do as the core does."""
        self.core.flush()

    def forget(self) -> None:
        """Do as the core does."""
        self.core.forget()

    def average(self) -> tuple[Array, int] | None:
        """Do as the core does."""
        return self.core.average()

    def grad_norm(self) -> float | None:
        """Do as the core does."""
        return self.core.grad_norm()

    def gathered(self) -> tuple[Array, int] | None:
        """Do as the core does."""
        return self.core.gathered()

    def set_gathered(self, values: Array, batches: int) -> None:
        """Do as the core does."""
        self.core.set_gathered(values, batches)

    def set_average(self, values: Array, count: int) -> None:
        """Do as the core does."""
        self.core.set_average(values, count)

    def penalty_value(self) -> float | None:
        """Do as the core does."""
        return self.core.penalty_value()

    def plan(self, batch_size: int) -> tuple[str, int]:
        """There is none."""
        raise UnsupportedError(
            "plan is not supported with a custom loss, whose steps are a forward pass, a call of "
            "the function and a backward pass instead of one pass of the core"
        )


_AFFINE = (Linear, Standardize, Flatten, Identity)
#: Piecewise linear layers, whose second derivatives are 0.
_STRAIGHT = (*_AFFINE, ReLU, LeakyReLU, ReLU6, Hardtanh, Hardsigmoid)


def _warn_of_kinks(model: Sequential) -> None:
    """Warn if all second derivatives are 0 where they exist."""
    layers = list(with_inner(model.layers))
    if not all(isinstance(layer, _STRAIGHT) for layer in layers):
        return
    kinds = {type(it).__name__ for it in layers if not isinstance(it, _AFFINE)}
    there = f"as {', '.join(sorted(kinds))} and nn.Linear are" if kinds else "as nn.Linear is"
    warn_maker(
        "the second derivatives of this network are 0, since all its layers are piecewise linear, "
        f"{there}: nothing can be learned from d2u. Use nn.Tanh(), nn.Sine(), nn.SiLU() or "
        "nn.Softplus(); or nn.DerivativeLoss(function, order=1) if the function does not need d2u"
    )


def taken_by(optimizer: Optimizer, core: _core.Trainer) -> tuple[int, int]:
    """Count what `core.take` has taken: updates, and batches gathered for the next one.

    Ctrl-C during that call raises after it, when what it did must not be undone by half.
    """
    return optimizer.steps, (core.gathered() or (None, 0))[1]


def total(x: Samples, sample_weight: Array | None) -> float:
    """Return the total weight of the rows in a mean."""
    return float(len(x) if sample_weight is None else sample_weight.sum(dtype=np.float64))


def check(
    model: Sequential,
    x: Samples,
    y: Any,
    sample_weight: Array | None,
    finite: bool = False,
    prefix: str = "",
) -> None:
    """Check that lengths match and weights are valid; with `finite`, also all of x."""
    for name, array in (("y", y), ("sample_weight", sample_weight)):
        if array is not None and len(array) != len(x):
            raise ShapeError(
                f"{prefix}x has {len(x)} rows but {name} has {len(array)}; they must have the "
                "same length"
            )
    if len(x) == 0:
        raise DataError(f"{prefix}x has no rows; at least one is needed")
    if finite:  # a prediction checks every number, and the width
        try:
            model(x)
        except ThalwegError as error:
            raise type(error)(f"{prefix}{error}") from None
    if sample_weight is not None:
        _arrays.finite(sample_weight, f"{prefix}sample_weight")
        if not sample_weight.any():
            raise DataError(f"{prefix}no row counts: each has a sample_weight of 0")


def of_outputs(
    loss: FunctionLoss, outputs: Any, target: Any, sample_weight: Any
) -> tuple[float, tuple[Array, ...]]:
    """Return the loss of precomputed outputs, and its gradients with respect to them."""
    arrays = _copies(loss, outputs)
    weight = _arrays.weights(sample_weight, arrays[0].dtype, "sample_weight")
    value, gradients, _ = call(loss, arrays, targets(target, "target"), weight)
    return value, tuple(gradients)


def _copies(loss: FunctionLoss, outputs: Any) -> tuple[Array, ...]:
    """Return copies of a loss's arguments, since the function may write to them."""
    names = names_of(loss)
    if not isinstance(outputs, (tuple, list)) or len(outputs) != len(names):
        raise ArgumentError(
            f"output must be a tuple ({', '.join(names)}), as curvature.jet returns it; got "
            f"{_number_of(outputs)}"
        )
    copies = (np.array(_arrays.as_numeric(*pair)) for pair in zip(outputs, names, strict=True))
    return tuple(copy if copy.dtype.kind == "f" else copy.astype(np.float64) for copy in copies)


def names_of(loss: FunctionLoss) -> tuple[str, ...]:
    """Name the arrays that a loss takes."""
    if not isinstance(loss, DerivativeLoss):
        return ("output",)
    return NAMES[: 1 + (loss.order if isinstance(loss.order, int) else max(loss.order))]


def check_order(loss: DerivativeLoss) -> None:
    """Raise if a loss's function is written for derivatives of another order."""
    signature = _signature(loss)
    if signature is None:
        return
    names = (*names_of(loss), "target")
    other = 2 if len(names) == 3 else 1
    fits, others = (
        _binds(signature, *given) or _binds(signature, *given, "weight")
        for given in (names, (*NAMES[: 1 + other], "target"))
    )
    arguments = list(signature.parameters)
    weights, last, place = (["weight"], ["sample_weight"]), names[-2], len(names) - 1
    advice = ""
    if arguments[place - 1 : place] == [last] and arguments[place : place + 1] in ([], *weights):
        advice = f"add target after {last}, for the rows of y"
    elif other == 2 and arguments[2:3] == ["d2u"]:
        advice = "pass order=2, or remove d2u"
    elif others and (not fits or (other == 1 and arguments[3:4] in weights)):
        advice = f"pass order={other}"  # such a weight is in the place of the target
    if advice:
        raise ArgumentError(
            f"nn.DerivativeLoss with order={loss.order!r} calls f({', '.join(names)}), but "
            f"{_shown(loss, signature)}: {advice}"
        )
    if not fits:
        check_arguments(loss, False)


def _signature(loss: FunctionLoss) -> inspect.Signature | None:
    try:
        # Not that of a wrapped function, which is called differently.
        return inspect.signature(loss.function, follow_wrapped=False)
    except (TypeError, ValueError):  # compiled functions may not tell
        return None


def _binds(signature: inspect.Signature, *given: str) -> bool:
    try:
        signature.bind(*given)
    except TypeError:
        return False
    return True


def _shown(loss: FunctionLoss, signature: inspect.Signature) -> str:
    name = getattr(loss.function, "__name__", type(loss.function).__name__)
    return f"{name} takes ({', '.join(map(str, signature.parameters.values()))})"


def check_arguments(loss: FunctionLoss, weighted: bool) -> None:
    """Raise unless a loss's function accepts as many arrays as it is given."""
    signature = _signature(loss)
    if signature is None:
        return
    takes = partial(_binds, signature)
    names = (*names_of(loss), "target")
    given = (*names, "weight") if weighted else names
    if takes(*given):
        return
    kind = f"{'with' if weighted else 'without'} sample_weight, a custom loss"
    if isinstance(loss, DerivativeLoss):
        kind += f" (nn.DerivativeLoss with order={loss.order!r})"
    what = f"{kind} is called as f({', '.join(given)})"
    more = ""
    if weighted and takes(*names):
        more = ": add a last argument, weight, or leave sample_weight out"
    elif not weighted and takes(*names, "weight"):
        more = ": pass sample_weight, or give its last argument a default, weight=None"
        if names[1:] == ("du", "target"):
            more += ". If its third argument is d2u, pass order=2 instead"
    raise ArgumentError(f"{what}, but {_shown(loss, signature)}{more}")


def call(
    loss: FunctionLoss, outputs: tuple[Array, ...], target: Any, weight: Array | None
) -> tuple[float, list[Array], Figures]:
    """Call the function of a loss, and check what it returns."""
    expected = [(output.shape, output.dtype) for output in outputs]  # the function may write to it
    more = () if weight is None else (shown(weight),)
    try:
        result: Any = loss.function(*outputs, shown(target), *more)  # may be anything
    except TypeError:
        check_arguments(loss, weight is not None)  # Python's error would not mention weights
        raise
    several = isinstance(loss, DerivativeLoss)
    by = "gradients" if several else "gradient"
    if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
        raise ArgumentError(
            f"the loss function must return a tuple (loss, {by}), or (loss, {by}, figures) with a "
            f"dict of numbers for the history; it returned {_number_of(result)}"
        )
    value = _one_number(result[0])
    finite = math.isfinite(value)
    if several:
        ready = _gradients(names_of(loss), result[1], expected, target, finite)
    else:
        what = "the gradient of the loss", "the output"
        ready = [_gradient(what, result[1], *expected[0], target, finite)]
    # If the loss is not finite, figures may be anything.
    figures = _figures.checked(result[2]) if len(result) == 3 and finite else {}
    return value, ready, figures


def _one_number(given: Any) -> float:
    """Return a function's loss as a float."""
    if isinstance(given, float):  # the usual case
        return float(given)
    _real(given, "the loss")
    number = _arrays.as_numeric(given, "the loss")
    if number.size != 1:
        raise ShapeError(f"the loss must be one number; got shape {number.shape}")
    return float(number.item())


def _real(given: Any, name: str) -> None:
    if np.iscomplexobj(given):
        raise DtypeError(
            f"{name} must be real; got complex numbers. Compute it from z.real and z.imag of what "
            "is complex in it: abs(z)**2 is z.real**2 + z.imag**2"
        )


def _gradients(
    names: tuple[str, ...],
    given: Any,
    expected: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
    target: Any,
    finite: bool,
) -> list[Array]:
    """Return a function's gradients with respect to several arrays, if they fit."""
    if not isinstance(given, (tuple, list)) or len(given) != len(names):
        raise ArgumentError(
            f"the gradients of the loss must be a tuple with one for each of {', '.join(names)}, "
            f"or None for one that is 0; the function returned {_number_of(given)}"
        )
    return [
        np.zeros(*of)
        if gradient is None
        else _gradient(
            (f"the gradient of the loss with respect to {name}", name),
            gradient,
            *of,
            target,
            finite,
        )
        for gradient, name, of in zip(given, names, expected, strict=True)
    ]


def _gradient(
    what: tuple[str, str],
    given: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    target: Any,
    finite: bool,
) -> Array:
    """Return a function's gradient, if it fits."""
    name, by = what
    _real(given, name)
    gradient = _arrays.as_numeric(given, name)
    if gradient.shape != shape:
        text = f"{name} has shape {gradient.shape}, but {by} has {shape}"
        raise ShapeError(text + _of_broadcasting(gradient.shape, shape, target))
    if gradient.dtype.kind != "f":
        raise DtypeError(f"{name} has dtype {gradient.dtype}; floats are needed")
    ready = _arrays.as_dtype(gradient, dtype, name)
    if finite and (found := _arrays.not_finite(ready, name)):  # otherwise report that first
        raise DataError(
            f"{found}, although the loss is finite. Usual causes are a square root or a logarithm "
            "at 0, 0/0, and an overflow in values that np.where or a mask leaves out"
        )
    return ready


def _of_broadcasting(found: tuple[int, ...], shape: tuple[int, ...], target: Any) -> str:
    """Say which target was broadcast as a row, although it was meant as a column."""
    rows = shape[0]
    if shape != (rows, 1) or found != (rows, rows):
        return ""
    for name, array in parts(target).items():
        if np.shape(array) == (rows,):
            written = name.replace("y", "target", 1)
            return (
                f": {name} of shape ({rows},) was broadcast to a row; use {written}[:, None], a "
                "column like the output"
            )
    return ""


def _not_finite(target: Any) -> str:
    """Say which target is not finite, or nothing."""
    for name, array in parts(target).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            off = ~np.isfinite(array).reshape(len(array), -1)
            row = int(off.any(axis=1).argmax())
            kind = "NaN" if np.isnan(array[row]).any() else "an infinite number"
            return f"{name} has {kind} in row {row} of the batch"
    return ""


def _number_of(given: Any) -> str:
    return f"{len(given)} items" if isinstance(given, (tuple, list)) else repr(type(given))
