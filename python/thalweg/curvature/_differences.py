r"""Products with second derivatives of a loss that is a function: differences of its gradient.

With slopes g = ∂L/∂f with respect to the outputs, the Hessian is :math:`J^T (\nabla_f^2 L) J` and
what the network's own curvature adds, :math:`\sum g\, \nabla^2 f`. Only :math:`\\nabla_f^2 L` is
not known of a function, and only along one direction, J v: `OfOutputs` takes differences there, and
leaves the rest to the core, which is exact. `OfDerivatives`, for losses on derivatives of the
outputs, takes differences of whole gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _core
from thalweg._calls import call
from thalweg._gradcheck import _task
from thalweg._gradcheck._differences import EPS
from thalweg._warn import warn
from thalweg.nn import DerivativeLoss, MSELoss, Sequential
from thalweg.nn._losses import FunctionLoss

Vector = npt.NDArray[np.float64]

#: Steps are tried from the best one on a unit scale down to this many times smaller ones, each a
#: tenth of the one before: a function may bend on a smaller scale.
_SMALLER = 5
#: A product is doubted if twice the step changes it by more than this, relative to its size.
_DOUBTED = 1e-3
#: The loss whose Hessian with respect to outputs is 2, and whose gradient there is 2 (f - y).
_SQUARES = MSELoss(reduction="sum")


def of(
    model: Sequential, x: Any, y: Any, loss: FunctionLoss, weight: Any, training: bool
) -> OfOutputs | OfDerivatives:
    """Return what multiplies by the second derivatives of a loss at the model's parameters."""
    task = _task.of(model, x, y, loss, weight)
    kind = OfDerivatives if isinstance(loss, DerivativeLoss) else OfOutputs
    return kind(model, task, training)


class OfOutputs:
    """Products for a loss on the outputs."""

    def __init__(self, model: Sequential, task: _task.Task, training: bool) -> None:
        self._model, self._task, self._training = model, task, training
        self._copy = task.trainer.model
        self._loss: Any = task.trainer.loss
        self._point = _core.Point()
        self._output: Any = None

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return len(self._task.x)

    def product(self, v: Vector, whole: bool) -> Vector:
        """Multiply a vector by the `whole` Hessian, or by its part without the network's own.

        For a sum of squares with the same slopes g, whose targets are f - g / 2, that part is known
        to be 2 JᵀJ. So H v is the product with its Hessian, and Jᵀ times what is missing.
        """
        self._move()
        output, slopes = self._output, self._slopes(self._output)
        _, along = _core.jvp(self._copy._core, self._task.x, v, self._training)
        size = float(np.abs(along).max(initial=0.0))
        known: Any = np.zeros_like(v)
        factor = 0.0
        if whole:
            known = _core.curvature_product(  # in float64, as the copy is
                self._point, self._copy._core, _SQUARES._spec(self._copy.out_features),
                self._task.x, output - slopes / 2, v, "hessian", self._training,
            )  # fmt: skip
            factor = 2.0
        bent = np.zeros_like(output)
        if size > 0:
            unit = along / size
            bent = size * _difference(
                lambda h: self._slopes(output + h * unit), _scale(output), "outputs"
            )
        product: Vector = known + self._transposed(bent - factor * along)
        return product

    def _move(self) -> None:
        """Take the copy to the model's parameters, averages and dropped units."""
        self._copy._core.set_parameters(self._model.flat_parameters.astype(np.float64))
        self._copy._core.set_averages(self._model._core.averages().astype(np.float64))
        self._forward()

    def _forward(self) -> None:
        averages = self._copy._core.averages()
        self._copy._core.set_passes(self._model._core.passes())
        self._output = self._copy._core.forward(self._task.x, self._training)
        self._copy._core.set_averages(averages)
        self._copy._core.set_passes(self._model._core.passes())

    def _slopes(self, output: Any) -> Any:
        """Return the gradient with respect to outputs."""
        return call(self._loss, (output.copy(),), self._task.y, self._task.weight)[1][0]

    def _transposed(self, slopes: Any) -> Vector:
        """Multiply slopes by the transposed Jacobian with respect to the parameters."""
        core = self._copy._core
        core.zero_grad()
        core.backward(np.ascontiguousarray(slopes), True, False)
        return core.gradients().astype(np.float64, copy=False)  # as it is


class OfDerivatives:
    """Products for a loss on derivatives of the outputs."""

    def __init__(self, model: Sequential, task: _task.Task, training: bool) -> None:
        self._model, self._task = model, task

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return len(self._task.x)

    def product(self, v: Vector, whole: bool) -> Vector:
        """Multiply a vector by the Hessian."""
        length = float(np.linalg.norm(v))
        if length == 0:
            return np.zeros_like(v)
        theta, unit = self._model.flat_parameters.astype(np.float64), v / length
        slope = _difference(lambda h: self._gradient(theta + h * unit), _scale(theta), "parameters")
        product: Vector = length * slope
        return product

    def _gradient(self, theta: Vector) -> Vector:
        core, trainer = self._task.trainer.model._core, self._task.trainer
        core.set_parameters(theta)
        core.zero_grad()
        trainer._core.backward(self._task.x, self._task.y, self._task.weight)
        return core.gradients().astype(np.float64, copy=False)  # as it is


def _scale(values: Any) -> float:
    """Return the scale of numbers, at least 1: they are rounded to multiples of ε times them."""
    return max(1.0, float(np.sqrt(np.mean(np.square(values)))))


def _difference(slopes: Callable[[float], Any], scale: float, of: str) -> Any:
    """Return the central difference of a function of a step, with a step for its own scale.

    Truncation errors grow with the square of the step h, and rounding errors as 1/h: on a unit
    scale, both are about ε^(2/3) for h = ε^(1/3). With twice the step the former are four times as
    large; where the two differences are far apart, smaller steps are tried.
    """

    def central(h: float) -> Any:
        return (slopes(h) - slopes(-h)) / (2 * h)

    h = float(np.cbrt(EPS)) * scale
    best, least = None, np.inf
    for _ in range(_SMALLER):
        found, twice = central(h), central(2 * h)
        off = float(np.linalg.norm(twice - found))
        size = float(np.linalg.norm(found))
        if off < least:
            best, least, relative = found, off, off / size if size > 0 else 0.0
        if off <= 1e-7 * size:
            break
        h /= 10
    if relative > _DOUBTED:
        warn(
            f"second derivatives of the loss are uncertain: along a direction of the {of}, the "
            f"differences of its gradient with a step and with twice the step are {relative:.1g} "
            "of their size apart. It may be noise, have kinks, or bend on a tiny scale: scale the "
            "inputs"
        )
    return best
