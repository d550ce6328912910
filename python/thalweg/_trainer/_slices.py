"""What the fits with a Python loop have in common: slices, and what happens after an error."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from typing import Any, NoReturn, TypeAlias

import numpy as np

from thalweg import _core
from thalweg._arrays import Array, Samples
from thalweg._figures import Evaluation, Figures, Sums, of_validation
from thalweg._trainer._snapshot import Snapshot
from thalweg._trainer._stepper import Stepper, check
from thalweg.errors import ThalwegError
from thalweg.nn import Sequential
from thalweg.optim import Optimizer

#: (epoch, loss, accuracy, penalty, val_loss, val_accuracy, seconds, other figures)
Record: TypeAlias = tuple[
    int, float, float | None, float | None, float | None, float | None, float, Figures
]

#: Samples, targets and weights, as a trainer's core takes them.
Data: TypeAlias = tuple[Samples, Any, Array | None]


def undoes(error: Exception) -> bool:
    """Return whether an error undoes a fit: one of thalweg's does, anyone else's ends it."""
    return isinstance(error, ThalwegError)


def raise_again(error: Exception) -> NoReturn:
    """Raise an error, but not one that whoever called would take as the end of a loop (PEP 479)."""
    if isinstance(error, StopIteration):
        raise RuntimeError(
            "a function or an iterable of yours raised StopIteration, as next(...) does at the end "
            "of an iterator"
        ) from error
    raise error


class SlicedFit(ABC):
    """A fit that can be left between steps and resumed, like `_core.Fit`."""

    def __init__(
        self,
        trainer: _core.Trainer | Stepper,
        model: Sequential,
        optimizer: Optimizer,
        loss: Any,
        epochs: int,
        validation: Data | None,
    ) -> None:
        self._trainer, self.model, self._optimizer = trainer, model, optimizer
        self._loss, self._validation = loss, validation
        if validation is not None:
            check(trainer, *validation, prefix="validation ")
        self._epochs, self._before = epochs, Snapshot(trainer, model, optimizer)
        self._epoch = self._batch = self._updates = 0
        self.last_loss = np.nan
        self.last_figures: Figures = {}
        self._sums = self._no_sums()
        self._seconds = 0.0
        self._ended: list[Record] = []
        self._begun = False
        #: Whether an error has undone everything.
        self.undone = False

    def _no_sums(self) -> Sums:
        return Sums(self._loss, self._trainer.has_accuracy)

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self._epoch == self._epochs

    @property
    def progress(self) -> tuple[int, int, int, float, float | None]:
        """The same as `_core.Fit.progress`."""
        return self._epoch, self._batch, self._batches, *self._sums.means()

    @property
    @abstractmethod
    def _batches(self) -> int:
        """Batches per epoch, as far as known."""

    def run(
        self,
        max_epochs: int | None = None,
        max_seconds: float | None = None,
        max_batches: int | None = None,
    ) -> list[Record]:
        """Do as `_core.Fit.run`; after an error of thalweg's, restore model and optimizer."""
        end = self._epochs if max_epochs is None else min(self._epochs, self._epoch + max_epochs)
        try:
            self._slice(end, max_seconds, max_batches)
        except Exception as error:
            nothing = self._epoch == self._batch == 0  # has been learned
            if undoes(error) or nothing:
                self.undo()
            raise_again(error)
        return self.take_ended()

    def undo(self) -> None:
        """Restore model and optimizer after an error."""
        if self._begun:
            self._before.restore()
        self.undone = True

    def _slice(self, end: int, max_seconds: float | None, max_batches: int | None) -> None:
        begin = time.perf_counter()
        turns = itertools.count(1)
        while self._epoch < end:
            self._turn()
            if next(turns) == max_batches:
                break
            if max_seconds is not None and time.perf_counter() - begin >= max_seconds:
                break

    def _turn(self) -> None:
        """Train on a batch, or end the epoch, or both."""
        begin = time.perf_counter()
        self.last_loss = np.nan
        ended = self._step()
        held_out: Evaluation | tuple[None, None, Figures] = None, None, {}
        if ended:
            before = self._optimizer.steps
            self._trainer.flush()  # gradients are not carried over to the next epoch
            self._updates += self._optimizer.steps - before
            self._before.check()
            if self._validation is not None:
                sums = self._no_sums()
                sums.add(*self._trainer.evaluate_sums(*self._validation) or (0.0, 0.0, 0.0, 0.0))
                held_out = sums.take()
            self._epoch, self._batch = self._epoch + 1, 0
        self._seconds += time.perf_counter() - begin
        if ended:
            penalty = self._trainer.penalty_value()
            *means, figures = self._sums.take()
            figures = {**figures, **of_validation(held_out[2])}
            self._ended.append(
                (self._epoch, *means, penalty, *held_out[:2], self._seconds, figures)
            )
            self._seconds = 0.0

    @abstractmethod
    def _step(self) -> bool:
        """Train on a batch if one is left; return whether the epoch is over."""

    def _train(self, x: Samples, y: Any, sample_weight: Array | None) -> None:
        """Train on a batch."""
        before = self._optimizer.steps
        if (added := self._trainer.train(x, y, sample_weight)) is not None:
            self.last_loss = self._sums.add(*added)
            self.last_figures = added[4] if len(added) == 5 else {}  # the core's have none
        self._updates += self._optimizer.steps - before
        self._batch += 1

    def take_ended(self) -> list[Record]:
        """Do as `_core.Fit.take_ended`."""
        ended, self._ended = self._ended, []
        return ended
