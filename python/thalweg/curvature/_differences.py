"""Products with the Hessian of a loss that is a function, from differences of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg._gradcheck import _task
from thalweg._gradcheck._differences import EPS
from thalweg.errors import UnsupportedError
from thalweg.nn import BatchNorm1d, Dropout, Sequential
from thalweg.nn._layers import with_inner
from thalweg.nn._losses import FunctionLoss

Vector = npt.NDArray[np.float64]


class Differences:
    """The loss of a model on a batch, whose gradients are computed on a float64 copy."""

    def __init__(
        self, model: Sequential, x: Any, y: Any, loss: FunctionLoss, weight: Any, training: bool
    ) -> None:
        if not training:
            for layer in with_inner(model.layers):
                if isinstance(layer, (BatchNorm1d, Dropout)):
                    raise UnsupportedError(
                        f"training=False is not supported for a custom loss of a model with {layer}"
                        ": its gradients are those of training steps. Leave training out, or use "
                        "a copy without that layer; model.fold() merges BatchNorm1d"
                    )
        self._model = model
        self._task = _task.of(model, x, y, loss, weight)

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return len(self._task.x)

    def product(self, v: Vector) -> Vector:
        """Multiply a vector by the Hessian at the model's current parameters.

        With a unit vector u and h = ε^(1/3), the product Hu is (g(θ + hu) - g(θ - hu)) / 2h up to
        h² / 6 of its second derivative along u, and rounding errors of ε / h of the gradient.
        """
        length = float(np.linalg.norm(v))
        if length == 0:
            return np.zeros_like(v)
        theta = self._model.flat_parameters.astype(np.float64)
        # Larger where the parameters are: theirs would be rounded to multiples of ε times them.
        h = float(np.cbrt(EPS)) * max(1.0, float(np.sqrt(np.mean(theta**2)))) / length
        up, down = (self._gradient(theta + step * v) for step in (h, -h))
        product: Vector = (up - down) / (2 * h)
        return product

    def _gradient(self, theta: Vector) -> Vector:
        """Return the gradient at parameters, with the units that the model's next pass drops."""
        copy, trainer = self._task.trainer.model, self._task.trainer
        core = copy._core
        core.set_parameters(theta)
        core.set_passes(self._model._core.passes())
        core.zero_grad()
        trainer._core.backward(self._task.x, self._task.y, self._task.weight)
        return core.gradients().astype(np.float64, copy=False)  # as it is
