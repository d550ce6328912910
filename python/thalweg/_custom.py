"""Training with a loss that is a Python function: the core's interface, over its separate passes.

`CustomTrainer` stands where `_core.Trainer` stands for the losses that the core computes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thalweg import _arrays, _core
from thalweg._arrays import Array, Samples
from thalweg._ascent import Ascent
from thalweg.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    DtypeError,
    ShapeError,
    ThalwegError,
    UnsupportedError,
)
from thalweg.nn import CustomLoss, Sequential
from thalweg.optim import SAM, Optimizer


class CustomTrainer:
    """Steps and evaluations with a custom loss; `ready` converts what is not as it must be.

    `core` makes updates of gradients: it gathers, clips, steps and averages. It never sees a loss.
    """

    whole = False
    has_accuracy = False

    def __init__(
        self,
        core: _core.Trainer,
        model: Sequential,
        loss: CustomLoss,
        optimizer: Optimizer,
        ready: Callable[[Any, Any, Any], tuple[Samples, Any, Array | None]],
    ) -> None:
        self.core = core
        self.ready = ready
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self._ascent = Ascent(model, optimizer) if isinstance(optimizer, SAM) else None

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """Forward, the function, backward, update; gives the loss before it."""
        core = self.model._core
        before = core.averages(), core.passes()
        ascent = self._ascent
        try:
            data = self.ready(x, y, sample_weight)
            value = self._differentiate(*data)
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
        return value

    def _differentiate(self, x: Samples, y: Any, sample_weight: Array | None) -> float:
        """Leave the gradients of a batch in the model; gives its loss."""
        value, gradient = self._forward(x, y, sample_weight)
        self.model.zero_grad()
        self.model._core.backward(gradient, True, False)
        return value

    def train(
        self, x: Samples, y: Any, sample_weight: Array | None
    ) -> tuple[float, None, Mapping[str, float]]:
        """As `step`; there is no accuracy, and there are no other figures."""
        return self.step(x, y, sample_weight), None, {}

    def sums(
        self, x: Samples, y: Any, sample_weight: Array | None = None
    ) -> tuple[float, float, float, float] | None:
        """As `train` of the core's: a batch counts as much as its rows together."""
        if sample_weight is not None and not sample_weight.any():
            return None
        share = total(x, sample_weight)
        return self.step(x, y, sample_weight) * share, 0.0, share, 0.0

    def check(self, x: Samples, y: Any, sample_weight: Array | None, prefix: str = "") -> None:
        """Raise unless these data can be used."""
        check(self.model, x, y, sample_weight, finite=True, prefix=prefix)

    def backward(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[float, None]:
        """Forward, the function, backward; gives the loss, and adds to the model's gradients."""
        before = self.model._core.averages(), self.model._core.passes()
        try:
            value, gradient = self._forward(x, y, sample_weight)
        except BaseException:
            self._restore(*before)
            raise
        self.model._core.backward(gradient, True, False)
        return value, None

    def _restore(self, averages: Array, passes: int) -> None:
        self.model._core.set_averages(averages)
        self.model._core.set_passes(passes)

    def _forward(self, x: Any, y: Any, sample_weight: Any) -> tuple[float, Array]:
        """Give the loss and its gradient by the output of a training pass."""
        check(self.model, x, y, sample_weight)
        output = self.model.forward(x, training=True)
        value, gradient = call(self.loss, output, y, sample_weight)
        if not np.isfinite(value):
            raise DivergedError(
                f"the loss became {value} with lr={self.optimizer.lr}: the learning rate is "
                "too large, or the loss is not defined for these outputs. Weights and "
                "optimizer are as they were before this call"
            )
        return value, gradient

    def evaluate(
        self, x: Samples, y: Any, sample_weight: Array | None = None
    ) -> tuple[float, float | None]:
        """Give the loss of all rows in one call, in evaluation mode; there is no accuracy."""
        check(self.model, x, y, sample_weight)
        value, _ = call(self.loss, self.model(x), y, sample_weight)
        if not np.isfinite(value):
            raise ArgumentError(f"the loss is {value} although the data are finite")
        return value, None

    def flush(self) -> None:
        """As the core's."""
        self.core.flush()

    def forget(self) -> None:
        """As the core's."""
        self.core.forget()

    def average(self) -> tuple[Array, int] | None:
        """As the core's."""
        return self.core.average()

    def set_average(self, values: Array, count: int) -> None:
        """As the core's."""
        self.core.set_average(values, count)

    def penalty_value(self) -> None:
        """There is none."""

    def plan(self, batch_size: int) -> str:
        """There is none."""
        raise UnsupportedError(
            "a step with a custom loss is a forward pass, a call of the function and a backward "
            "pass: there is no plan of it as a whole"
        )


def total(x: Samples, sample_weight: Array | None) -> float:
    """How much rows count together in a mean."""
    return float(len(x) if sample_weight is None else sample_weight.sum(dtype=np.float64))


def targets(y: Any, name: str) -> Any:
    """`y` as an array whose rows can be picked."""
    array = np.asarray(y)
    if array.ndim == 0:
        raise ShapeError(f"{name} must have a row for each row of x; got {y!r}")
    return array


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


def call(loss: CustomLoss, output: Array, target: Any, weight: Array | None) -> tuple[float, Array]:
    """Call the function of a custom loss, and see that it gives what it should."""
    shape, dtype = output.shape, output.dtype
    more = () if weight is None else (weight,)
    result: Any = loss.function(output, target, *more)  # whatever it really gives
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ArgumentError(
            "the loss function must give a tuple (loss, gradient); it gave "
            + (f"{len(result)} items" if isinstance(result, (tuple, list)) else repr(type(result)))
        )
    value = _arrays.as_numeric(result[0], "the loss")
    if value.size != 1:
        raise ShapeError(f"the loss must be one number; its shape is {value.shape}")
    gradient = _arrays.as_numeric(result[1], "the gradient of the loss")
    if gradient.shape != shape:
        raise ShapeError(
            f"the gradient of the loss has shape {gradient.shape}, but the output has {shape}"
        )
    if gradient.dtype.kind != "f":
        raise DtypeError(f"the gradient of the loss has dtype {gradient.dtype}; floats are needed")
    number = float(value.item())
    gradient = _arrays.as_dtype(gradient, dtype, "the gradient of the loss")
    if np.isfinite(number):  # if it is not, that is the news
        _arrays.finite(gradient, "the gradient of the loss")
    return number, gradient
