"""The loop of a fit whose data come in batches from an iterable."""

import numbers
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from thalweg import _core
from thalweg._arrays import Array, Samples
from thalweg._custom import CustomTrainer, evaluate
from thalweg._figures import Figures, of_validation
from thalweg._hooked import HookedTrainer
from thalweg._slices import SlicedFit
from thalweg._snapshot import Snapshot
from thalweg.errors import ArgumentError, DataError, DivergedError, DtypeError, ThalwegError
from thalweg.nn import Loss, Sequential
from thalweg.optim import Optimizer

Ready: TypeAlias = tuple[Samples, Any, Array | None]


def batches_of(
    source: Any, epochs: int, name: str = "x", method: str = "fit"
) -> Callable[[], Iterable[Any]]:
    """Return a function that makes an epoch's batches, from an iterable or such a function."""
    is_array = hasattr(source, "__array__")
    if callable(source) and not is_array and not hasattr(source, "__iter__"):
        return source  # type: ignore[no-any-return]
    if is_array or _is_of_rows(source) or not hasattr(source, "__iter__"):
        raise (DtypeError if is_array else ArgumentError)(
            f"y is missing: y is None, but {method} takes arrays x and y, or in place of both an "
            "iterable of batches (x, y) or (x, y, sample_weight), or a function that returns one"
        )
    if epochs > 1 and isinstance(source, Iterator):
        raise ArgumentError(
            f"{name} is an iterator, which is exhausted after the first of {epochs} epochs: pass "
            "a function that returns a new iterator for each"
        )
    return lambda: source


def pair_of(batch: Any, place: str) -> tuple[Any, ...] | list[Any]:
    """Return a batch, if it is a pair (x, y), or a triple with weights."""
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        return batch
    what = f"{len(batch)} items" if isinstance(batch, (tuple, list)) else repr(type(batch))
    raise ArgumentError(f"{place} must be (x, y) or (x, y, sample_weight); got {what}")


def _is_of_rows(source: Any) -> bool:
    """Return whether `source` is a list of rows of numbers instead of batches."""
    if not isinstance(source, (list, tuple)) or not source:
        return False
    row = source[0]
    return isinstance(row, (list, tuple)) and any(isinstance(x, numbers.Number) for x in row)


class StreamFit(SlicedFit):
    """A fit to batches.

    A batch is requested only after the previous one has been used, so that a source may reuse the
    same array; the end of an epoch is noticed when no further batch comes.
    """

    def __init__(
        self,
        core: _core.Trainer | CustomTrainer | HookedTrainer,
        model: Sequential,
        optimizer: Optimizer,
        loss: Loss,
        source: Callable[[], Iterable[Any]],
        ready: Callable[[Any, Any, Any], Ready],
        epochs: int,
        validation: Ready | None,
        rate: Callable[[int, int], float] | None,
    ) -> None:
        self._core, self._optimizer, self._loss = core, optimizer, loss
        self._source, self._ready = source, ready
        self._validation, self._rate = validation, rate
        self._train = core.train if isinstance(core, _core.Trainer) else core.sums
        if not isinstance(core, _core.Trainer):
            if validation is not None:
                core.check(*validation, prefix="validation ")
        elif validation is not None:
            try:
                evaluate(core, *validation, finite=False)
            except ThalwegError as error:
                raise type(error)(f"validation {error}") from None
        self._iterator: Iterator[Any] | None = None
        super().__init__(epochs, Snapshot(core, model, optimizer))
        self._longest = 0
        self._sums = [0.0, 0.0, 0.0, 0.0]

    @property
    def progress(self) -> tuple[int, int, int, float, float | None]:
        """The same as `_core.Fit.progress`; batches per epoch as far as known."""
        return self._epoch, self._batch, self._longest, *self._means()

    def _turn(self) -> None:
        """Train on a batch, or end the epoch if there is none."""
        begin = time.perf_counter()
        if self._iterator is None:
            batches = self._source()
            if not hasattr(batches, "__iter__"):
                raise ArgumentError(
                    "x is a function, which must return an iterable of batches (x, y) or (x, y, "
                    f"sample_weight); it returned {batches!r}"
                )
            self._iterator = iter(batches)
        self.last_loss = np.nan
        ended = True
        for batch in self._iterator:
            self._use(batch)
            ended = False
            break
        held_out: tuple[float | None, float | None, Figures] = (None, None, {})
        if ended:
            held_out = self._end()
        self._seconds += time.perf_counter() - begin
        if ended:
            penalty = self._core.penalty_value()
            figures = {**self._figures.take(), **of_validation(held_out[2])}
            self._ended.append(
                (self._epoch, *self._means(), penalty, *held_out[:2], self._seconds, figures)
            )
            self._sums, self._seconds = [0.0, 0.0, 0.0, 0.0], 0.0

    def _use(self, batch: Any) -> None:
        place = f"batch {self._batch + 1} of epoch {self._epoch + 1}"
        batch = pair_of(batch, place)
        before = self._optimizer.steps
        try:
            ready = self._ready(batch[0], batch[1], (*batch, None)[2])
            if not self._begun:
                self._begun = True
                self._core.forget()  # discard what an interrupted fit left behind
            self._set_rate()
            sums = self._train(*ready)
        except DivergedError:
            raise
        except ThalwegError as error:
            raise type(error)(f"{place}: {error}") from None
        if sums is not None:  # None if every weight is 0
            self._sums = [a + b for a, b in zip(self._sums, sums[:4], strict=True)]
            if len(sums) == 5:  # the core's have no figures
                self.last_figures = sums[4]
                self._figures.add(sums[4], sums[2])
            self.last_loss = self._mean(sums[0], sums[2])
        self._updates += self._optimizer.steps - before
        self._batch += 1
        self._longest = max(self._longest, self._batch)

    def _end(self) -> tuple[float | None, float | None, Figures]:
        """End the epoch; return loss, accuracy and figures of the validation data."""
        if self._batch == 0:
            raise DataError(f"x yielded no batches in epoch {self._epoch + 1}")
        if self._sums[2] == 0:
            raise DataError(f"all rows of epoch {self._epoch + 1} have a weight of 0")
        before = self._optimizer.steps
        self._core.flush()
        self._updates += self._optimizer.steps - before
        self._before.check()
        self._epoch, self._batch, self._iterator = self._epoch + 1, 0, None
        if self._validation is None:
            return None, None, {}
        return evaluate(self._core, *self._validation, finite=False)

    def _set_rate(self) -> None:
        if self._rate is not None:
            self._optimizer._core.set_lr(self._rate(self._updates, self._epoch))

    def _mean(self, total: float, weight: float) -> float:
        if getattr(self._loss, "reduction", "mean") == "sum":
            return total
        return total / weight if weight else np.nan

    def _means(self) -> tuple[float, float | None]:
        loss, right, rows, counted = self._sums
        accuracy = None
        if self._core.has_accuracy:
            accuracy = right / counted if counted else np.nan
        return self._mean(loss, rows), accuracy
