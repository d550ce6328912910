"""Steps whose gradients functions change between the backward pass and the update."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg import _arrays, _core, _steps
from thalweg._arrays import Array, Samples
from thalweg._custom import CustomTrainer, evaluate, taken_by, total
from thalweg._figures import Evaluation, Figures, complete
from thalweg.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    ThalwegError,
    UnsupportedError,
)
from thalweg.nn import Sequential, _names
from thalweg.optim import Optimizer


def frozen(model: Sequential, optimizer: Optimizer) -> Any:
    """Mark the flat parameters that an optimizer leaves unchanged, ``frozen=True``."""
    marks = np.zeros(model.num_parameters, dtype=bool)
    places = model.unflatten(np.arange(model.num_parameters))
    for group in optimizer._groups:  # the last one that matches counts
        for name, place in places.items():
            if _names.matches(group["pattern"], name):
                marks[place] = group["frozen"]
    return marks


class HookedTrainer:
    """Steps in two passes, with the hooks in between; `inner` does the rest."""

    whole = False
    kind = "a gradient hook"

    def __init__(
        self,
        inner: _core.Trainer | CustomTrainer,
        model: Sequential,
        optimizer: Optimizer,
        ready: Callable[[Any, Any, Any], tuple[Samples, Any, Array | None]],
        hooks: tuple[Callable[[Any], Any], ...],
    ) -> None:
        self.inner = inner
        #: The core's trainer, which makes the updates.
        self.core = inner.core if isinstance(inner, CustomTrainer) else inner
        self.model, self.optimizer, self.hooks = model, optimizer, hooks
        self._ready = ready

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """Run forward, backward, the hooks and the update; return the loss before it."""
        return self.train(*self._ready(x, y, sample_weight))[0]

    @_steps.alone("step")
    def train(self, x: Samples, y: Any, sample_weight: Array | None) -> Evaluation:
        """Do the same, and also return accuracy and other figures."""
        core = self.model._core
        before = core.averages(), core.passes(), core.gradients()
        taken = None
        try:
            core.zero_grad()
            evaluation = complete(self.inner.backward(x, y, sample_weight))
            if any(group["frozen"] for group in self.optimizer._groups):
                fixed = frozen(self.model, self.optimizer)
                core.set_gradients(np.where(fixed, 0, core.gradients()))
            for hook in self.hooks:
                core.set_gradients(self._changed(hook, core.gradients()))
            taken = taken_by(self.optimizer, self.core)
            self.core.take()
        except BaseException as error:  # also Ctrl-C
            if taken is None or taken == taken_by(self.optimizer, self.core):
                core.set_averages(before[0])
                core.set_passes(before[1])
                with contextlib.suppress(DataError):  # non-finite ones cannot be set
                    core.set_gradients(before[2])
                if isinstance(error, DivergedError):
                    self.core.forget()  # as the core does
            raise
        return evaluation

    def _changed(self, hook: Callable[[Any], Any], gradient: Array) -> Array:
        """Return the gradient that a hook makes of one, if it fits."""
        found = hook(gradient)
        if found is None:
            raise ArgumentError(
                "a gradient hook must return the gradient that the update uses; it returned None"
            )
        name = "the gradient that the hook returned"
        return _arrays.flat(found, self.model.dtype, self.model.num_parameters, name)

    def sums(
        self, x: Samples, y: Any, sample_weight: Array | None = None
    ) -> tuple[float, float, float, float, Figures] | None:
        """Train on a batch of a stream; return sums of losses, right rows and weights."""
        if sample_weight is not None and not sample_weight.any():
            return None
        share = total(x, sample_weight)
        loss, accuracy, figures = self.train(x, y, sample_weight)
        right = 0.0 if accuracy is None else accuracy * share
        return loss * share, right, share, 0.0 if accuracy is None else share, figures

    def check(self, x: Samples, y: Any, sample_weight: Array | None, prefix: str = "") -> None:
        """Raise unless these data can be used."""
        if isinstance(self.inner, CustomTrainer):
            self.inner.check(x, y, sample_weight, prefix)
            return
        try:
            self.evaluate(x, y, sample_weight, finite=not prefix)
        except ThalwegError as error:
            raise type(error)(f"{prefix}{error}") from None

    @_steps.alone("backward", within=True)  # a hook may call it
    def backward(self, x: Any, y: Any, sample_weight: Any = None) -> Evaluation:
        """Add the gradients of a batch to the model's, without the hooks."""
        return complete(self.inner.backward(x, y, sample_weight))

    def evaluate(
        self, x: Samples, y: Any, sample_weight: Array | None = None, finite: bool = True
    ) -> Evaluation:
        """Return loss, accuracy and figures, in evaluation mode, as `CustomTrainer` does."""
        return evaluate(self.inner, x, y, sample_weight, finite)

    def plan(self, batch_size: int) -> tuple[str, int]:
        """There is none."""
        raise UnsupportedError(
            "plan is not supported inside gradient_hook, where a step is a backward pass, the hook"
            " and an update instead of one pass of the core"
        )

    def __getattr__(self, name: str) -> Any:
        """Leave averages, accumulation, the penalty and whether there is an accuracy to `inner`."""
        return getattr(self.inner, name)
