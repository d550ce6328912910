r"""Products with second derivatives of a loss that is a function: differences of its gradient.

With slopes g = ∂L/∂f with respect to the outputs, the Hessian is :math:`J^T (\nabla_f^2 L) J` and
what the network's own curvature adds, :math:`\sum g\, \nabla^2 f`. Only :math:`\nabla_f^2 L` is
not known of a function, and only along one direction, J v: `OfOutputs` takes differences there, and
leaves the rest to the core, which is exact. `OfDerivatives`, for losses on derivatives of the
outputs, takes differences of whole gradients.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _core
from thalweg._calls import call, is_single
from thalweg._gradcheck import _task
from thalweg._warn import warn
from thalweg.errors import DataError, DivergedError
from thalweg.nn import DerivativeLoss, MSELoss, Sequential
from thalweg.nn._losses import FunctionLoss

Vector = npt.NDArray[np.float64]

#: How many steps are tried at most, each a tenth of the one before: a function may bend on a scale
#: that is so much smaller.
_STEPS = 13
#: Instead of a size of 0.
_TINY = float(np.finfo(np.float64).tiny)
#: The loss whose Hessian with respect to outputs is 2, and whose gradient there is 2 (f - y).
_SQUARES = MSELoss(reduction="sum")


def of(
    model: Sequential, x: Any, y: Any, loss: FunctionLoss, weight: Any, training: bool
) -> Differences:
    """Return what multiplies by the second derivatives of a loss at the model's parameters."""
    task = _task.of(model, x, y, loss, weight)
    kind = OfDerivatives if isinstance(loss, DerivativeLoss) else OfOutputs
    return kind(model, task, training)


class Differences(ABC):
    """Products for a loss on a batch, computed by a float64 copy of a model."""

    def __init__(self, model: Sequential, task: _task.Task, training: bool) -> None:
        self._model, self._task, self._training = model, task, training
        self._copy = task.trainer.model
        self.__setstate__({})
        loss: Any = task.trainer.loss
        with self._alone():
            self._here()
            #: Whether the function's gradient has the digits of float32 only.
            self.single = is_single(loss, self._arguments(), task.y, task.weight)

    def __getstate__(self) -> dict[str, Any]:
        # A copy computes again what products share.
        return {name: it for name, it in vars(self).items() if name not in ("_locks", "_point")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._locks: dict[int, Any] = {}
        self._point = _core.Point()

    def _alone(self) -> Any:
        """Return a lock on the copy of the model, which is one for all products.

        Each process has its own: after a fork, no thread of the child will release the parent's.
        """
        return self._locks.setdefault(os.getpid(), threading.RLock())

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return len(self._task.x)

    def product(self, v: Vector, whole: bool) -> Vector:
        """Multiply a vector by the `whole` Hessian, or by its part without the network's own.

        Raises
        ------
        DataError
            If the loss or a gradient is not finite.
        """
        size = _size(v)
        if size == 0:
            return np.zeros_like(v)
        with self._alone(), np.errstate(all="ignore"):
            product: Vector = _finite(size * self._of_unit(v / size, whole))
        return product

    @abstractmethod
    def _here(self) -> Any:
        """Return the function's gradient at the model's parameters: data that do not fit raise."""

    @abstractmethod
    def _arguments(self) -> tuple[Any, ...]:
        """Return what the function is called with there."""

    @abstractmethod
    def _of_unit(self, v: Vector, whole: bool) -> Vector:
        """Return a product, given a vector whose largest element is 1."""

    @np.errstate(all="ignore")  # steps may lead to where the loss is not defined
    def _difference(
        self, slopes: Callable[[Any], Any], at: Any, along: Any, of: str, scaled: str
    ) -> Any:
        """Return the derivative of slopes at a point along a direction, with a step for its scale.

        The error of a central difference is a series in the square of the step: two of them, of
        which one step is ten times the other, give one without the first term. What is left and
        rounding errors are balanced, on a unit scale, by steps of about ε^(1/5). There, the two are
        about ε^(2/5) apart; where they are much further apart, smaller steps are tried.
        """
        eps = float(np.finfo(np.float32 if self.single else np.float64).eps)
        # Numbers are rounded to multiples of ε times their size.
        scale = max(1.0, float(np.abs(at).mean()))

        def central(h: float) -> Any:
            try:
                up, down = slopes(at + h * along), slopes(at - h * along)
            except DataError:
                return np.nan, np.nan
            return (up - down) / (2 * h), _size(up)

        h, good = eps**0.2 * scale, 10 * eps**0.4
        best, least, doubted = None, np.inf, False
        wide, _ = central(h)
        for _ in range(_STEPS - 1):
            h /= 10
            narrow, steep = central(h)
            off, size = _size(narrow - wide), _size(narrow)
            if (relative := off / max(size, _TINY)) <= least:
                best, least = narrow + (narrow - wide) / 99, relative
                # Unless the error is small beside the slopes themselves, of which some may be lost.
                doubted = relative > min(20 * good, 0.1) and off * scale > good * steep
            if off <= max(good * size, 10 * eps * steep / h):  # the latter is rounding
                break
            if size == 0 and 20 * h * _size(wide) < good * steep:
                break  # no kinks have been left behind, but the last digits of a coarser function
            wide = narrow
        if best is None:
            raise DataError(_NOT_FINITE)
        if doubted:
            warn(
                f"second derivatives of the loss are uncertain: along a direction of the {of}, "
                "differences of its gradient over a step and over a tenth of it do not agree. It "
                f"may have kinks, bend on a tiny scale (if so, scale the {scaled}), or be noisy, "
                "as numbers in float32 are that are returned in float64"
            )
        return best


class OfOutputs(Differences):
    """Products for a loss on the outputs."""

    def _here(self) -> Any:
        return self._slopes(*self._arguments())

    def _arguments(self) -> tuple[Any, ...]:
        return (self._forward(),)

    def _of_unit(self, v: Vector, whole: bool) -> Vector:
        """Return a product.

        For u times a sum of squares with the same slopes g, whose targets are f - g / 2u, the part
        without the network's own curvature is known to be 2u JᵀJ. So H v is the product with that
        Hessian, and Jᵀ times what is missing. With the u below, neither outputs nor targets are
        rounded away beside the other.
        """
        core = self._copy._core
        output = self._forward()
        slopes = self._slopes(output)
        _, along = _core.jvp(core, self._task.x, v, self._training)
        u = _size(slopes) / max(1.0, _size(output))
        known: Any = np.zeros_like(v)
        if whole and u > 0:
            known = u * _core.curvature_product(  # in float64, as the copy is
                self._point, core, _SQUARES._spec(self._copy.out_features), self._task.x,
                output - slopes / u / 2, v, "hessian", self._training,
            )  # fmt: skip
        else:
            u = 0.0
        bent, size = np.zeros_like(output), _size(along)
        if size > 0:
            bent = size * self._difference(
                self._slopes, output, along / size, "outputs", "outputs and the targets"
            )
        core.zero_grad()
        core.backward(np.ascontiguousarray(bent - 2 * u * along), True, False)
        return known + core.gradients()  # type: ignore[no-any-return]

    def _forward(self) -> Any:
        """Take the copy to where the model is; return its outputs."""
        core, model = self._copy._core, self._model._core
        averages = model.averages().astype(np.float64)
        core.set_parameters(self._model.flat_parameters.astype(np.float64))
        core.set_averages(averages)
        core.set_passes(model.passes())
        output = core.forward(self._task.x, self._training)
        core.set_averages(averages)
        core.set_passes(model.passes())  # so that all that follows drops the same
        return output

    def _slopes(self, output: Any) -> Any:
        """Return the gradient with respect to outputs."""
        loss: Any = self._task.trainer.loss
        value, gradients, _ = call(loss, (output.copy(),), self._task.y, self._task.weight)
        if not np.isfinite(value):
            raise DataError(_NOT_FINITE)
        return _finite(gradients[0].copy())  # the function may return the same array each time


class OfDerivatives(Differences):
    """Products for a loss on derivatives of the outputs."""

    def _here(self) -> Any:
        return self._gradient(self._model.flat_parameters.astype(np.float64))

    def _arguments(self) -> tuple[Any, ...]:
        core: Any = self._task.trainer._core
        return core.passes.predict(self._task.x)  # type: ignore[no-any-return]

    def _of_unit(self, v: Vector, whole: bool) -> Vector:
        length = float(np.linalg.norm(v))
        theta = self._model.flat_parameters.astype(np.float64)
        slope = self._difference(self._gradient, theta, v / length, "parameters", "inputs")
        product: Vector = length * slope
        return product

    def _gradient(self, theta: Vector) -> Any:
        core, trainer = self._copy._core, self._task.trainer
        core.set_parameters(theta)
        core.zero_grad()
        try:
            trainer._core.backward(self._task.x, self._task.y, self._task.weight)
        except DivergedError:  # which blames a learning rate
            raise DataError(_NOT_FINITE) from None
        return _finite(core.gradients())


_NOT_FINITE = (
    "the loss or its gradient is infinite or NaN at these parameters and data, so that there are "
    "no second derivatives"
)


def _finite(values: Any) -> Any:
    """Return numbers, if they are."""
    if not np.isfinite(values).all():
        raise DataError(_NOT_FINITE)
    return values


def _size(values: Any) -> float:
    """Return the largest magnitude."""
    return float(np.abs(values).max(initial=0.0))
