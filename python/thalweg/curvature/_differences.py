r"""Products with second derivatives of a loss that is a function: differences of its gradient.

With slopes g = ∂L/∂f with respect to the outputs, the Hessian is :math:`J^T (\nabla_f^2 L) J` and
what the network's own curvature adds, :math:`\sum g\, \nabla^2 f`. Only :math:`\nabla_f^2 L` is
not known of a function, and only along one direction, J v: `OfOutputs` takes differences there, and
leaves the rest to the core, which is exact. `OfDerivatives`, for losses on derivatives of the
outputs, takes differences of whole gradients.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _core
from thalweg._calls import call
from thalweg._gradcheck import _task
from thalweg._warn import warn
from thalweg.errors import DataError, DivergedError
from thalweg.nn import DerivativeLoss, MSELoss, Sequential
from thalweg.nn._losses import FunctionLoss

Vector = npt.NDArray[np.float64]

#: Steps are tried from the best one on a unit scale down to this many times smaller ones, each a
#: tenth of the one before: a function may bend on a smaller scale.
_SMALLER = 5
#: A difference is good if twice the step changes it by less than this multiple of ε^(2/3), the
#: error that the best step leaves, relative to its size; and doubted from the second multiple on.
_GOOD, _DOUBTED = 3e3, 3e7
#: The loss whose Hessian with respect to outputs is 2, and whose gradient there is 2 (f - y).
_SQUARES = MSELoss(reduction="sum")


def of(
    model: Sequential, x: Any, y: Any, loss: FunctionLoss, weight: Any, training: bool
) -> Differences:
    """Return what multiplies by the second derivatives of a loss at the model's parameters."""
    task = _task.of(model, x, y, replace(loss, function=_Watched(loss.function)), weight)
    kind = OfDerivatives if isinstance(loss, DerivativeLoss) else OfOutputs
    return kind(model, task, training)


class _Watched:
    """A loss function, of which it is noted whether it computes in float32, as JAX's usually do."""

    def __init__(self, function: Any) -> None:
        self._function = function
        functools.update_wrapper(self, function)  # for its signature
        self.single = False

    def __call__(self, *args: Any) -> Any:
        result = self._function(*args)
        with contextlib.suppress(Exception):  # what is wrong with it is said later
            several = isinstance(result[1], (tuple, list))
            dtypes = {
                str(getattr(it, "dtype", None)) for it in (result[1] if several else result[1:2])
            }
            self.single = bool(dtypes & {"float16", "bfloat16", "float32"})
        return result


class Differences(ABC):
    """Products for a loss on a batch, computed by a float64 copy of a model."""

    def __init__(self, model: Sequential, task: _task.Task, training: bool) -> None:
        self._model, self._task, self._training = model, task, training
        self._copy = task.trainer.model
        self.__setstate__({})
        loss: Any = task.trainer.loss
        with self._lock:
            self._here()
        #: Whether the function's gradient has the digits of float32 only.
        self.single: bool = loss.function.single

    def __getstate__(self) -> dict[str, Any]:
        # A copy computes again what products share.
        return {name: it for name, it in vars(self).items() if name not in ("_lock", "_point")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()  # the copy of the model is one for all products
        self._point = _core.Point()

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
        size = float(np.abs(v).max(initial=0.0))
        if size == 0:
            return np.zeros_like(v)
        with self._lock:
            product: Vector = _finite(size * self._of_unit(v / size, whole))
        return product

    @abstractmethod
    def _here(self) -> Any:
        """Return the function's gradient at the model's parameters: data that do not fit raise."""

    @abstractmethod
    def _of_unit(self, v: Vector, whole: bool) -> Vector:
        """Return a product, given a vector whose largest element is 1."""

    def _difference(self, slopes: Callable[[float], Any], scale: float, of: str) -> Any:
        """Return the central difference of a function of a step, with a step for its own scale.

        Truncation errors grow with the square of the step h, and rounding errors as 1/h: on a unit
        scale, both are about ε^(2/3) for h = ε^(1/3). With twice the step the former are four times
        as large; where the two differences are far apart, smaller steps are tried.
        """
        eps = float(np.finfo(np.float32 if self.single else np.float64).eps)

        def central(h: float) -> Any:
            return (slopes(h) - slopes(-h)) / (2 * h)

        h, error = float(np.cbrt(eps)) * scale, eps ** (2 / 3)
        best, least = None, np.inf
        for _ in range(1 if self.single else _SMALLER):
            found = _finite(central(h))
            off, size = (float(np.linalg.norm(it)) for it in (central(2 * h) - found, found))
            relative = off / size if size > 0 else off
            if best is None or relative < least:
                best, least = found, relative
            if least <= _GOOD * error:
                break
            h /= 10
        if least > min(_DOUBTED * error, 0.1):
            warn(
                f"second derivatives of the loss are uncertain: along a direction of the {of}, "
                "differences of its gradient with a step and with twice the step do not agree. It "
                "may be noise, have kinks, or bend on a tiny scale: scale the inputs"
            )
        return best


class OfOutputs(Differences):
    """Products for a loss on the outputs."""

    def _here(self) -> Any:
        return self._slopes(self._forward())

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
        u = float(np.abs(slopes).max(initial=0.0)) / max(1.0, float(np.abs(output).max(initial=0)))
        known: Any = np.zeros_like(v)
        if whole and u > 0:
            known = u * _core.curvature_product(  # in float64, as the copy is
                self._point, core, _SQUARES._spec(self._copy.out_features), self._task.x,
                output - slopes / u / 2, v, "hessian", self._training,
            )  # fmt: skip
        else:
            u = 0.0
        bent, size = np.zeros_like(output), float(np.abs(along).max(initial=0.0))
        if size > 0:
            unit = along / size
            bent = size * self._difference(
                lambda h: self._slopes(output + h * unit), _scale(output), "outputs"
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
        return _finite(gradients[0])


class OfDerivatives(Differences):
    """Products for a loss on derivatives of the outputs."""

    def _here(self) -> Any:
        return self._gradient(self._model.flat_parameters.astype(np.float64))

    def _of_unit(self, v: Vector, whole: bool) -> Vector:
        length = float(np.linalg.norm(v))
        theta, unit = self._model.flat_parameters.astype(np.float64), v / length
        slope = self._difference(
            lambda h: self._gradient(theta + h * unit), _scale(theta), "parameters"
        )
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


def _scale(values: Any) -> float:
    """Return the scale of numbers, at least 1: they are rounded to multiples of ε times them."""
    return max(1.0, float(np.abs(values).mean()))
