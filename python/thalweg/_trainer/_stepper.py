"""What takes the place of the core's trainer where steps are made in Python."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import numpy as np

from thalweg import _core
from thalweg._arrays import Array, Samples
from thalweg._at_once import at_once
from thalweg._figures import Figures
from thalweg.errors import ThalwegError, UnsupportedError
from thalweg.nn import Sequential
from thalweg.optim import Optimizer

#: What a batch adds to an epoch, as from the core's trainer, and figures; None if no row counts.
Added: TypeAlias = tuple[float, float, float, float, Figures] | None


class Stepper:
    """Base of trainers around another one, `inner`, and in the end around that of the core.

    They have the methods of the core's trainer. Those that one does not define are of `inner`:
    losses, evaluations, accumulated gradients, averages, penalties.
    """

    #: What its steps have, see `_steps.Stepping`.
    kind: str
    #: Whether a step uses all rows at once.
    whole = False

    def __init__(
        self, inner: _core.Trainer | Stepper, model: Sequential, optimizer: Optimizer
    ) -> None:
        self.inner, self.model, self.optimizer = inner, model, optimizer
        _keep_memory(model)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # copies look up names before they have one
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.inner, name)

    def train(self, x: Samples, y: Any, sample_weight: Array | None = None) -> Added:
        """Train on one batch of an epoch."""
        raise NotImplementedError

    def check(self, x: Samples, y: Any, sample_weight: Array | None, prefix: str) -> None:
        """Raise unless these data can be used; see the function."""
        check(self.inner, x, y, sample_weight, prefix)

    def plan(self, batch_size: int) -> tuple[str, int]:
        """There is none."""
        raise UnsupportedError(
            f"plan is not supported with {self.kind}, where a step is several passes instead of one"
        )

    def take_and(self, note: list[None]) -> None:
        """Use the gradients in the model, as the core's `take` does, and note that it has.

        Ctrl-C during it raises after both, when what was done must not be undone by half. After an
        error, nothing is noted.
        """
        at_once(self.take, partial(note.append, None))


def _keep_memory(model: Sequential) -> None:
    """Let the allocator keep the memory of the flat arrays that each step makes and drops.

    glibc returns to the system what is free beyond twice the largest block that it has mapped and
    unmapped so far, and to get it back, page by page, takes longer than the step of most networks.
    Elsewhere this has no effect.
    """
    size = 4 * model.num_parameters * model.dtype.itemsize
    np.empty(min(size, 31 << 20), np.uint8)  # larger blocks than 32 MiB do not count


def innermost(trainer: _core.Trainer | Stepper) -> _core.Trainer:
    """Return the core's trainer."""
    return innermost(trainer.inner) if isinstance(trainer, Stepper) else trainer


def check(
    trainer: _core.Trainer | Stepper,
    x: Samples,
    y: Any,
    sample_weight: Array | None,
    prefix: str = "",
) -> None:
    """Raise unless data can be used for training, or with a prefix for validation.

    The loss of the latter may be infinite.
    """
    if isinstance(trainer, Stepper):
        trainer.check(x, y, sample_weight, prefix)
        return
    try:
        if not prefix or trainer.evaluate_sums(x, y, sample_weight) is None:
            trainer.evaluate(x, y, sample_weight)
    except ThalwegError as error:
        raise type(error)(f"{prefix}{error}") from None
