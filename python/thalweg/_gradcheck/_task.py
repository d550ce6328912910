"""The loss of a model on a batch, as a function of its parameters."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _core
from thalweg._calls import call
from thalweg._gradcheck import _blocks
from thalweg._gradcheck._blocks import Blocks, Vector
from thalweg._trainer._custom import CustomTrainer, check
from thalweg.nn import DerivativeLoss, Sequential
from thalweg.nn._losses import FunctionLoss

if TYPE_CHECKING:
    from thalweg._trainer import Trainer


def of(model: Sequential, x: Any, y: Any, loss: Any, weight: Any) -> "Task":
    """Prepare the data for a float64 copy of a model."""
    from thalweg._trainer import Trainer
    from thalweg.optim import SGD

    copy = model.astype("float64")
    trainer = Trainer(copy, loss=loss, optimizer=SGD(lr=0.0))
    x, y, weight = trainer._ready(x, y, weight)
    x = _arrays.finite(copy._matrix(x, "x"), "x")
    # A user-defined loss decides what targets mean; NaN may mark missing ones.
    if isinstance(trainer._loss, FunctionLoss):
        check(copy, x, y, weight)
    else:
        if y.dtype.kind == "f":
            y = _arrays.finite(y, "y")
        trainer.evaluate(x, y, weight)  # raises if no row counts, or the loss is not defined
    kind = TaskOfDerivatives if isinstance(trainer._loss, DerivativeLoss) else Task
    return kind(trainer, x, y, weight)


@dataclass(frozen=True, slots=True)
class Task:
    """The loss of a float64 model on a batch, as a function of its parameters."""

    trainer: "Trainer"
    x: Any
    y: Any
    weight: Any

    @property
    def blocks(self) -> Blocks:
        return self.trainer.model._blocks()

    def differences(self, h: float) -> tuple[Vector, Vector, npt.NDArray[np.bool_]]:
        core, loss = self.trainer.model._core, self.trainer._loss
        if isinstance(loss, FunctionLoss):
            function = partial(_call, loss, self.y, self.weight)
            return _core.central_differences_of(core, function, self.x, h)
        spec = loss._spec(core.out_features)
        return _core.central_differences(core, spec, self.x, self.y, h, self.weight)

    def losses(
        self, start: int, direction: Vector, steps: Vector
    ) -> tuple[Vector, npt.NDArray[np.bool_], Vector]:
        """Return values at steps along a direction, whether kinks lie in between, the gradient."""
        core, loss = self.trainer.model._core, self.trainer._loss
        if isinstance(loss, FunctionLoss):
            function = partial(_call, loss, self.y, self.weight)
            gradient, values, crossed = _core.losses_along_of(
                core, function, self.x, start, direction, steps
            )
        else:
            gradient, values, crossed = _core.losses_along(
                core, loss._spec(core.out_features), self.x, self.y, start, direction, steps,
                self.weight,
            )  # fmt: skip
        return values, crossed, gradient

    def lines(self, block: int, direction: Vector, steps: Vector) -> tuple[Vector, float]:
        part = _blocks.slices(self.blocks)[block]
        values, _, gradient = self.losses(part.start, direction, steps)
        return values, float(gradient[part] @ direction)


class TaskOfDerivatives(Task):
    """The same for a `DerivativeLoss`. Kinks are not detected."""

    __slots__ = ()

    def differences(self, h: float) -> tuple[Vector, Vector, npt.NDArray[np.bool_]]:
        theta, gradient = self._home()
        numeric = np.empty_like(theta)
        for i, here in enumerate(theta):
            ends = here + np.array([h, -h]) * max(1.0, abs(here))
            up, down = (self._value(theta, slice(i, i + 1), end) for end in ends)
            numeric[i] = (up - down) / (ends[0] - ends[1])  # the step actually taken
        self.trainer.model._core.set_parameters(theta)
        return gradient, numeric, np.zeros(len(theta), bool)

    def losses(
        self, start: int, direction: Vector, steps: Vector
    ) -> tuple[Vector, npt.NDArray[np.bool_], Vector]:
        theta, gradient = self._home()
        part = slice(start, start + len(direction))
        values = [self._value(theta, part, theta[part] + step * direction) for step in steps]
        self.trainer.model._core.set_parameters(theta)
        return np.array(values), np.zeros(len(steps), bool), gradient

    @property
    def _core(self) -> CustomTrainer:
        core = self.trainer._core
        assert isinstance(core, CustomTrainer)
        return core

    def _home(self) -> tuple[Vector, Vector]:
        """Return the parameters, and the gradient there from a backward pass."""
        model = self.trainer.model
        model.zero_grad()
        self._core.backward(self.x, self.y, self.weight)
        theta, gradient = model.flat_parameters, model.flat_gradients
        return theta.astype(np.float64), gradient.astype(np.float64)

    def _value(self, theta: Vector, part: slice, values: Any) -> float:
        """Return the loss at `theta` with `values` in one part."""
        moved = theta.copy()
        moved[part] = values
        self.trainer.model._core.set_parameters(moved)
        return self._core.evaluate(self.x, self.y, self.weight)[0]


def _call(loss: FunctionLoss, y: Any, weight: Any, output: Any) -> tuple[float, Any]:
    value, gradients, _ = call(loss, (output,), y, weight)
    return value, gradients[0]
