"""Training with optimizers that use all data in each step."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import _core
from thalweg._arrays import Array, Samples
from thalweg._figures import Evaluation, Figures, complete, is_sum
from thalweg._trainer import _steps
from thalweg._trainer._stepper import Added, Stepper
from thalweg.errors import DivergedError, ThalwegError
from thalweg.nn import Sequential
from thalweg.nn._losses import CoreLoss, FunctionLoss
from thalweg.optim._full_batch import FullBatchOptimizer, Vector, Visit, warn_of_stall


class FullBatchTrainer(Stepper):
    """Steps of a full-batch optimizer; `inner` computes losses and gradients.

    Nothing is accumulated or averaged there, and there is no penalty.
    """

    whole = True
    optimizer: FullBatchOptimizer

    def __init__(
        self,
        inner: _core.Trainer | Stepper,
        model: Sequential,
        optimizer: FullBatchOptimizer,
        loss: CoreLoss | FunctionLoss,
    ) -> None:
        super().__init__(inner, model, optimizer)
        self._is_sum = is_sum(loss)
        self._told = False  # whether a warning has been given
        self.kind = type(optimizer).__name__
        #: Of the latest step, beside its loss.
        self.figures: Figures = {}

    def step(self, x: Samples, y: Any, sample_weight: Array | None = None) -> float:
        """Take one step of the optimizer; return the loss before it."""
        return self._train(x, y, sample_weight)[0]

    def train(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Added:
        """Do the same in an epoch, whose only batch it is."""
        loss, accuracy, figures = self._train(x, y, sample_weight)
        return loss, accuracy or 0.0, 1.0, 1.0, figures

    @_steps.alone("step")
    def _train(self, x: Samples, y: Any, sample_weight: Array | None) -> Evaluation:
        problem = _Batch(self.inner, self.model, x, y, sample_weight, self._is_sum)
        before = dict(vars(self.optimizer))
        try:
            self.model._unmoved = problem.theta
            progress = self.optimizer._advance(problem)
            problem.leave(progress.theta)
        except BaseException:  # also Ctrl-C
            problem.leave()
            vars(self.optimizer).update(before)
            raise
        if progress.stalled and not self._told:
            self._told = warn_of_stall(self.optimizer, self.model, progress.stalled)
        self.figures = {**progress.figures, **problem.figures}
        return progress.loss, problem.accuracy, self.figures

    @_steps.alone("backward")
    def backward(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Evaluation:
        """Do as the core does."""
        evaluation = complete(self.inner.backward(x, y, sample_weight))
        self.figures = evaluation[2]
        return evaluation

    def forget(self) -> None:
        """Allow another warning in the next fit."""
        self._told = False


class _Batch(Visit):
    """The loss of some rows as a function of the parameters, until `leave`."""

    def __init__(
        self,
        core: _core.Trainer | Stepper,
        model: Sequential,
        x: Samples,
        y: Any,
        sample_weight: Array | None,
        is_sum: bool,
    ) -> None:
        super().__init__(model)
        self.accuracy: float | None = None
        self.figures: Figures = {}  # if the loss is a function
        self._core, self._is_sum = core, is_sum
        self._x, self._y, self._weight = x, y, sample_weight
        self._roots: Vector | None = None

    def gradient(self, theta: Array) -> tuple[float, Array | None]:
        """Return loss and gradient at `theta`."""
        if not np.isfinite(theta).all():
            return np.inf, None
        self._go(theta)
        try:
            found = complete(self._core.backward(self._x, self._y, self._weight))
        except DivergedError:
            if self._after is None:
                raise
            return np.inf, None
        loss, accuracy, figures = found
        if self._been():
            self.accuracy, self.figures = accuracy, figures
        gradient = self.model._core.gradients()
        return (loss, gradient) if np.isfinite(gradient).all() else (np.inf, None)

    def residual(self, theta: Vector) -> Vector | None:
        """Return residuals at `theta`, which the model keeps; their squares sum to the loss."""
        inner = self.model._core
        with np.errstate(over="ignore"):
            rounded: Any = theta.astype(self.model.dtype)
        if not np.isfinite(rounded).all():
            return None
        inner.set_parameters(rounded)
        if self._after is None:  # also checks the data
            self._core.evaluate(self._x, self._y, self._weight)
            self._after = self._before[0], self._before[1] + 1
        try:
            output = self.model(self._x)
        except ThalwegError:  # overflow
            return None
        if self._roots is None:
            weight = np.ones(len(output))
            if self._weight is not None:
                weight = self._weight.astype(np.float64)
            if not self._is_sum:
                weight = weight / (weight.sum() * output.shape[1])
            self._roots = np.sqrt(weight)[:, np.newaxis]
        target = np.asarray(self._y, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            residual: Vector = (self._roots * (output.astype(np.float64) - target)).ravel()
            return residual if np.isfinite(residual @ residual) else None

    def jacobian(self) -> Vector:
        """Return the Jacobian of the residuals, at the parameters passed to `residual`."""
        assert self._roots is not None  # residual is called first
        _, slope = self.model._core.jacobian(self._x, True)
        roots = np.repeat(self._roots.ravel(), len(slope) // len(self._roots))
        scaled: Vector = roots[:, np.newaxis] * slope.astype(np.float64, copy=False)
        return scaled

    def leave(self, theta: Array | Vector | None = None) -> None:
        """Do so, and restore the gradients, which steps leave alone."""
        super().leave(theta)
        self._recall_gradients()
