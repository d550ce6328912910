"""Steps whose gradients functions change between the backward pass and the update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thalweg import _arrays, _core
from thalweg._arrays import Array, Samples
from thalweg._figures import Evaluation, Figures, complete
from thalweg._trainer import _steps
from thalweg._trainer._base import TrainerBase
from thalweg._trainer._custom import CustomTrainer
from thalweg._trainer._stepper import Added, Stepper
from thalweg.errors import ArgumentError, DataError
from thalweg.nn import Sequential, _names
from thalweg.optim import Optimizer


def frozen(model: Sequential, optimizer: Optimizer) -> Any:
    """Mark the flat parameters that an optimizer leaves unchanged, ``frozen=True``."""
    marks = np.zeros(model.num_parameters, dtype=bool)
    places = model.unflatten(np.arange(model.num_parameters))
    for group in optimizer._groups:  # the last one that says something counts
        if group["frozen"] is None:
            continue
        for name, place in places.items():
            if _names.matches(group["pattern"], name):
                marks[place] = group["frozen"]
    return marks


class HookedTrainer(Stepper):
    """Steps in two passes, with the hooks in between; `inner` does the rest."""

    kind = "a gradient hook"

    def __init__(
        self,
        inner: _core.Trainer | CustomTrainer,
        model: Sequential,
        optimizer: Optimizer,
        hooks: Mapping[object, Callable[[Any], Any]],
    ) -> None:
        super().__init__(inner, model, optimizer)
        #: By the blocks that they are for, in the order in which these began.
        self.hooks = dict(hooks)

    @property
    def figures(self) -> Figures:
        """Those of `inner`; the core has none."""
        return getattr(self.inner, "figures", {})

    def step(self, x: Samples, y: Any, sample_weight: Array | None = None) -> float:
        """Run forward, backward, the hooks and the update; return the loss before it."""
        loss: float = self._train(self.inner.backward, x, y, sample_weight)[0]
        return loss

    def train(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Added:
        """Do the same in an epoch."""
        added: Added = self._train(self.inner.backward_sums, x, y, sample_weight)
        return added

    @_steps.alone("step")
    def _train(self, backward: Callable[..., Any], *batch: Any) -> Any:
        core = self.model._core
        before = core.averages(), core.passes(), core.gradients()
        taken: list[None] = []
        try:
            core.zero_grad()
            found = backward(*batch)
            if found is None:  # no row counts
                return None
            core.set_gradients(self._changed(core.gradients()))
            self.take_and(taken)
        except BaseException:  # also Ctrl-C
            if not taken:
                core.set_averages(before[0])
                core.set_passes(before[1])
                with contextlib.suppress(DataError):  # non-finite ones cannot be set
                    core.set_gradients(before[2])
            raise
        return found

    def _changed(self, gradient: Array) -> Array:
        """Return the gradient that the hooks make of one, if it fits."""
        if any(group["frozen"] for group in self.optimizer._groups):
            gradient[frozen(self.model, self.optimizer)] = 0
        for place, hook in enumerate(tuple(self.hooks.values())):
            # What an earlier one returned may be its own, and this one may write to what it gets.
            found = hook(gradient.copy() if place else gradient)
            if found is None:
                raise ArgumentError(
                    "a gradient hook must return the gradient that the update uses; it returned "
                    "None"
                )
            name = "the gradient that the hook returned"
            gradient = _arrays.flat(found, self.model.dtype, self.model.num_parameters, name)
        return gradient

    @_steps.alone("backward", within=True)  # a hook may call it
    def backward(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Evaluation:
        """Add the gradients of a batch to the model's, without the hooks."""
        return complete(self.inner.backward(x, y, sample_weight))


class Block:
    """A ``with`` block in which a hook changes the gradients of a trainer's steps.

    Python finds out about Ctrl-C where something is called: nothing is called after the beginning
    has taken effect, nor in the end, where only the call of `__exit__` itself remains.
    """

    def __init__(self, trainer: TrainerBase, hook: Callable[[Any], Any]) -> None:
        self._hook, self._trainer, self._of = hook, trainer, vars(trainer)

    def __enter__(self) -> None:
        core = self._of["_core"]
        if self._trainer._fitting:
            raise ArgumentError("a gradient hook cannot be set during a fit: set it before")
        if not isinstance(core, HookedTrainer):
            arguments = core, self._of["_model"], self._of["_optimizer"]
            self._of["_core"] = HookedTrainer(*arguments, {self: self._hook})
        elif self in core.hooks:
            raise ArgumentError("the block of this gradient hook has already begun")
        else:
            core.hooks[self] = self._hook

    def __exit__(self, *error: object) -> None:
        core = self._of["_core"]
        del core.hooks[self]  # blocks may end in any order
        if not core.hooks:
            self._of["_core"] = core.inner
