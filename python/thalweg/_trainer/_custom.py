"""Training with a loss that is a Python function, on the core's separate passes.

`CustomTrainer` takes the place of `_core.Trainer`, which is for losses that the core computes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from thalweg import _arrays, _core
from thalweg._arrays import Array, Samples
from thalweg._calls import call, check_arguments, names_of, not_finite
from thalweg._figures import Evaluation, Figures
from thalweg._jets import CHANGED, Jets
from thalweg._trainer import _steps
from thalweg._trainer._ascent import Ascent
from thalweg._trainer._stepper import Added, Stepper
from thalweg._warn import warn_maker
from thalweg.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    ShapeError,
    ThalwegError,
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
                "the loss function, or another thread, called model.forward, or another trainer "
                "with a custom loss, which replaced the pass that gradients are to go back "
                "through; the model is as it was before this call. Use model(x) in place of "
                "model.forward(x), and call such a trainer before or after this one; for "
                "gradients at other rows, add these to x and y"
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


class CustomTrainer(Stepper):
    """Steps and evaluations with a loss that is a function.

    The core makes updates from gradients: it accumulates, clips, steps and averages. It never sees
    a loss.
    """

    has_accuracy = False
    kind = "a custom loss"

    def __init__(
        self,
        inner: _core.Trainer,
        model: Sequential,
        optimizer: Optimizer,
        loss: FunctionLoss,
    ) -> None:
        super().__init__(inner, model, optimizer)
        self.set_loss(loss)
        #: What the function returned beside the loss for the latest batch.
        self.figures: Figures = {}
        self._ascent = Ascent(model, optimizer) if isinstance(optimizer, SAM) else None

    def set_loss(self, loss: FunctionLoss) -> None:
        """Set a loss, if its passes go through the model."""
        if isinstance(loss, DerivativeLoss) and "d2u" in names_of(loss):
            _warn_of_kinks(self.model)  # before anything changes: a warning may be raised
        through: Passes = passes(loss, self.model)
        self.passes, self.loss = through, loss  # no call between them, where Ctrl-C could raise

    def step(self, x: Samples, y: Any, sample_weight: Array | None = None) -> float:
        """Run forward, the function, backward and update; return the loss before the update."""
        return self._train(x, y, sample_weight, single=True)[0]

    def train(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Added:
        """Do the same as `step`, but leave gradients undefined after an error."""
        if _is_nothing(sample_weight):
            return None
        return _added(self._train(x, y, sample_weight, single=False), x, sample_weight)

    @_steps.alone("step")
    def _train(
        self, x: Samples, y: Any, sample_weight: Array | None, *, single: bool
    ) -> Evaluation:
        """Take a step; after an error, a `single` one also restores parameters and gradients."""
        core, ascent = self.model._core, self._ascent
        before = core.averages(), core.passes()
        all_before = (core.parameters(), core.gradients()) if single else None
        data = x, y, sample_weight
        taken: list[None] = []
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
            self.take_and(taken)
        except BaseException:  # also Ctrl-C
            if not taken:
                if ascent is not None:
                    ascent.down()
                core.set_averages(before[0])
                core.set_passes(before[1])
                if all_before is not None:
                    self._restore(*all_before)
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
                f"{not_finite(y) or why}. Weights and optimizer are as they were before this call"
            )
        self.passes.backward(gradients)
        return value, figures

    def check(self, x: Samples, y: Any, sample_weight: Array | None, prefix: str) -> None:
        """Raise unless these data can be used; the loss is not called."""
        check(self.model, x, y, sample_weight, finite=True, prefix=prefix)
        check_arguments(self.loss, sample_weight is not None)

    @_steps.alone("backward")
    def backward(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Evaluation:
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

    def backward_sums(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Added:
        """Do the same as the core does."""
        if _is_nothing(sample_weight):
            return None
        return _added(self.backward(x, y, sample_weight), x, sample_weight)

    def _restore(self, parameters: Array, gradients: Array) -> None:
        with contextlib.suppress(DataError):  # non-finite ones cannot be set
            self.model._core.set_parameters(parameters)
        with contextlib.suppress(DataError):
            self.model._core.set_gradients(gradients)

    def evaluate(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Evaluation:
        """Return loss and figures of all rows in one call, in evaluation mode; no accuracy."""
        return self._evaluate(x, y, sample_weight, finite=True)

    def evaluate_sums(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Added:
        """Do the same as the core does; the loss may be infinite or NaN where data are finite."""
        if _is_nothing(sample_weight):
            return None
        return _added(self._evaluate(x, y, sample_weight, finite=False), x, sample_weight)

    def _evaluate(
        self, x: Samples, y: Any, sample_weight: Array | None, *, finite: bool
    ) -> Evaluation:
        check(self.model, x, y, sample_weight)
        # Passes of its own: a step may be under way, of another thread or around this call.
        outputs = passes(self.loss, self.model).predict(x)
        value, _, figures = call(self.loss, outputs, y, sample_weight)
        if not math.isfinite(value):
            why = not_finite(y)
            if why or finite:
                raise ArgumentError(
                    f"the loss is {value}{f': {why}' if why else ', although the data are finite'}"
                )
        return value, None, figures


def _is_nothing(sample_weight: Array | None) -> bool:
    """Return whether no row counts."""
    return sample_weight is not None and not sample_weight.any()


def _added(evaluation: Evaluation, x: Samples, sample_weight: Array | None) -> Added:
    """Return what a batch adds to an epoch: it counts as much as its rows together."""
    value, _, figures = evaluation
    rows = len(x) if sample_weight is None else sample_weight.sum(dtype=np.float64)
    return value * float(rows), 0.0, float(rows), 0.0, figures


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
