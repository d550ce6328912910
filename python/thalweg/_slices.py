"""What the fits with a Python loop have in common: slices, and what happens after an error."""

import itertools
import time
from abc import ABC, abstractmethod
from typing import Any, NoReturn, TypeAlias

import numpy as np

from thalweg._figures import Figures, Means
from thalweg._snapshot import Snapshot

#: (epoch, loss, accuracy, penalty, val_loss, val_accuracy, seconds, other figures)
Record: TypeAlias = tuple[
    int, float, float | None, float | None, float | None, float | None, float, Figures
]


def raise_again(error: Exception) -> NoReturn:
    """Raise an error, but not one that whoever called would take as the end of a loop (PEP 479)."""
    if isinstance(error, StopIteration):
        raise RuntimeError(
            "a function or an iterable of yours raised StopIteration, as next(...) does at the end "
            "of an iterator; model and optimizer are as they were before this fit"
        ) from error
    raise error


def undone(fit: Any) -> bool:
    """Return whether an error has undone a fit, and not left it as Ctrl-C does."""
    return bool(getattr(fit, "undone", fit.done))  # the core's has nothing left to run then


class SlicedFit(ABC):
    """A fit that can be left between steps and resumed, like `_core.Fit`."""

    def __init__(self, epochs: int, before: Snapshot) -> None:
        self._epochs, self._before = epochs, before
        self._epoch = self._batch = self._updates = 0
        self.last_loss = np.nan
        self.last_figures: Figures = {}
        self._figures = Means()
        self._seconds = 0.0
        self._ended: list[Record] = []
        self._begun = False
        #: Whether an error has undone everything.
        self.undone = False

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self._epoch == self._epochs

    def run(
        self,
        max_epochs: int | None = None,
        max_seconds: float | None = None,
        max_batches: int | None = None,
    ) -> list[Record]:
        """Do as `_core.Fit.run`; after an error, restore model and optimizer."""
        end = self._epochs if max_epochs is None else min(self._epochs, self._epoch + max_epochs)
        try:
            self._slice(end, max_seconds, max_batches)
        except Exception as error:
            if self._begun:
                self._before.restore()
            self._epoch, self.undone = self._epochs, True  # nothing is left to run
            raise_again(error)
        return self.take_ended()

    def _slice(self, end: int, max_seconds: float | None, max_batches: int | None) -> None:
        begin = time.perf_counter()
        turns = itertools.count(1)
        while self._epoch < end:
            self._turn()
            if next(turns) == max_batches:
                break
            if max_seconds is not None and time.perf_counter() - begin >= max_seconds:
                break

    @abstractmethod
    def _turn(self) -> None:
        """Train on a batch, or end the epoch."""

    def take_ended(self) -> list[Record]:
        """Do as `_core.Fit.take_ended`."""
        ended, self._ended = self._ended, []
        return ended
