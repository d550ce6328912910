"""The loss of a model on a batch, as a function of its parameters."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _core
from thalweg._custom import call
from thalweg._gradcheck import _blocks
from thalweg._gradcheck._blocks import Blocks, Vector
from thalweg.nn import CustomLoss, Sequential

if TYPE_CHECKING:
    from thalweg._trainer import Trainer


def of(model: Sequential, x: Any, y: Any, loss: Any, weight: Any) -> "Task":
    """Make the data ready for a float64 copy of a model."""
    from thalweg._trainer import Trainer
    from thalweg.optim import SGD

    copy = model.astype("float64")
    trainer = Trainer(copy, loss=loss, optimizer=SGD(lr=0.0))
    x, y, weight = trainer._ready(x, y, weight)
    x = _arrays.finite(copy._matrix(x, "x"), "x")
    if y.dtype.kind == "f":
        y = _arrays.finite(y, "y")
    return Task(trainer, x, y, weight)


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
        if isinstance(loss, CustomLoss):
            function = partial(_call, loss, self.y, self.weight)
            return _core.central_differences_of(core, function, self.x, h)
        spec = loss._spec(core.out_features)
        return _core.central_differences(core, spec, self.x, self.y, h, self.weight)

    def losses(
        self, start: int, direction: Vector, steps: Vector
    ) -> tuple[Vector, npt.NDArray[np.bool_], Vector]:
        """Values at steps along a direction, whether there are kinks between, the gradient."""
        core, loss = self.trainer.model._core, self.trainer._loss
        if isinstance(loss, CustomLoss):
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


def _call(loss: CustomLoss, y: Any, weight: Any, output: Any) -> tuple[float, Any]:
    return call(loss, output, y, weight)
