"""The loop of a fit whose data come in batches from an iterable."""

import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from thalweg import _checks, _core
from thalweg._trainer import _frames
from thalweg._trainer._slices import Data, SlicedFit
from thalweg._trainer._stepper import Stepper
from thalweg.errors import ArgumentError, DataError, DivergedError, DtypeError, ThalwegError
from thalweg.nn import Sequential
from thalweg.optim import Optimizer


def batches_of(
    source: Any, epochs: int, name: str = "x", method: str = "fit"
) -> Callable[[], Iterable[Any]]:
    """Return a function that makes an epoch's batches, from an iterable or such a function."""
    is_array = hasattr(source, "__array__")
    if callable(source) and not is_array and not hasattr(source, "__iter__"):

        def batches() -> Iterable[Any]:
            found = source()
            if not hasattr(found, "__iter__"):
                raise ArgumentError(
                    f"{name} is a function, which must return an iterable of batches (x, y) or "
                    f"(x, y, sample_weight); it returned {found!r}"
                )
            return found  # type: ignore[no-any-return]

        return batches
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


def pair_of(batch: Any, place: str) -> tuple[Any, Any, Any]:
    """Return a batch as (x, y, sample_weight), if it is a pair without weights or such a triple."""
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        return (*batch, None)[:3]
    got = _checks.how_many(batch)
    raise ArgumentError(f"{place} must be (x, y) or (x, y, sample_weight); got {got}")


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
        trainer: _core.Trainer | Stepper,
        model: Sequential,
        optimizer: Optimizer,
        loss: Any,
        source: Callable[[], Iterable[Any]],
        ready: Callable[[Any, Any, Any], Data],
        epochs: int,
        validation: Data | None,
        rate: Callable[[int, int], float] | None,
        columns: _frames.Columns,
    ) -> None:
        super().__init__(trainer, model, optimizer, loss, epochs, validation)
        self._source, self._ready, self._rate = source, ready, rate
        self._iterator: Iterator[Any] | None = None
        self._longest = 0
        self._columns = columns

    @property
    def _batches(self) -> int:
        return self._longest

    def _step(self) -> bool:
        if self._iterator is None:
            self._iterator = iter(self._source())
        for batch in self._iterator:
            self._use(batch)
            return False
        if self._batch == 0:
            raise DataError(f"x yielded no batches in epoch {self._epoch + 1}")
        if self._sums.rows == 0:
            raise DataError(f"all rows of epoch {self._epoch + 1} have a weight of 0")
        self._iterator = None
        return True

    def _use(self, batch: Any) -> None:
        place = f"batch {self._batch + 1} of epoch {self._epoch + 1}"
        x, y, weight = pair_of(batch, place)
        try:
            self._columns.check(x, y)
            ready = self._ready(x, y, weight)
            if not self._begun:
                self._begun = True
                self._trainer.forget()  # discard what an interrupted fit left behind
            if self._rate is not None:
                self._optimizer._core.set_lr(self._rate(self._updates, self._epoch))
            self._train(*ready)
        except DivergedError:
            raise
        except ThalwegError as error:
            raise type(error)(f"{place}: {error}") from None
        self._longest = max(self._longest, self._batch)
