"""Evaluation of data that come in batches, directly and at the end of a fit's epochs."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from thalweg import _core
from thalweg._arrays import Array
from thalweg._figures import Evaluation, Figures, Sums, of_validation
from thalweg._trainer import _frames
from thalweg._trainer._python_fit import PythonFit
from thalweg._trainer._slices import raise_again, undoes
from thalweg._trainer._snapshot import Snapshot
from thalweg._trainer._stream import StreamFit, pair_of
from thalweg._trainer._undefined import explain
from thalweg.errors import DataError, ThalwegError
from thalweg.nn import CrossEntropyLoss

if TYPE_CHECKING:
    from thalweg._trainer._base import TrainerBase


def is_source(data: Any) -> bool:
    """Return whether validation data are batches, and not a tuple or list [x, y] of arrays."""
    if isinstance(data, list):
        return len(data) > 0 and all(isinstance(batch, tuple) for batch in data)
    if isinstance(data, (tuple, str, bytes, dict)) or hasattr(data, "__array__"):
        return False
    return hasattr(data, "__iter__") or callable(data)


def evaluate(
    trainer: "TrainerBase",
    source: Callable[[], Iterable[Any]],
    columns: _frames.Columns,
    name: str = "",
) -> Evaluation:
    """Return loss, accuracy and figures of all batches, in evaluation mode; errors name the batch.

    They equal those of all rows together up to rounding. Frames must have these `columns`.
    """
    core, number = trainer._core, 0
    sums = Sums(trainer._loss, core.has_accuracy)
    for number, batch in enumerate(source(), start=1):
        place = f"{name} batch {number}".lstrip()
        x, y, weight = pair_of(batch, place)
        try:
            columns.check(x, y)
            x, y, w = trainer._ready(x, y, weight)
            added = core.evaluate_sums(x, y, w) or _without_loss(trainer, x, y, w)
            # A fit goes on with a loss of, say, infinity; asked for alone, it is an error.
            if not name and not math.isfinite(added[0]):
                core.evaluate(x, y, w)
        except ThalwegError as error:
            explain(trainer, error, x, weight)
            raise type(error)(f"{place}: {error}") from None
        sums.add(*added)
    if number == 0:
        raise DataError(f"{name or 'x'} yielded no batches")
    if sums.rows == 0:
        raise DataError(f"all rows of {name or 'x'} have a weight of 0")
    return sums.take()


def _without_loss(trainer: "TrainerBase", x: Any, y: Any, weight: Array | None) -> Any:
    """Return what a batch adds that has no loss: with class weights of 0, it has an accuracy."""
    loss, found = trainer._loss, None
    if isinstance(loss, CrossEntropyLoss) and loss.weight is not None:
        model = trainer._model
        spec = dataclasses.replace(loss, weight=None)._spec(model.out_features)
        core = _core.Trainer(model._core, spec, trainer._optimizer._core)
        found = core.evaluate_sums(x, y, weight)
    return (0.0, found[1], 0.0, found[3]) if found else (0.0, 0.0, 0.0, 0.0)


class ValidatedFit:
    """A fit whose validation data come in batches; takes the place of the fit itself.

    The inner fit does not know about them. They are evaluated at the end of each epoch, before
    anything sees its figures.
    """

    def __init__(
        self,
        fit: _core.Fit | PythonFit | StreamFit,
        evaluate: Callable[[], Evaluation],
        before: Snapshot,
    ) -> None:
        self._fit, self._evaluate, self._before = fit, evaluate, before
        self._ended: list[tuple[Any, ...]] = []
        self._failed = False

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self._fit.done

    @property
    def undone(self) -> bool:
        """Whether an error has undone everything."""
        return self._failed or self._fit.undone

    @property
    def last_loss(self) -> float:
        """Loss of the last batch, before its update."""
        return self._fit.last_loss

    @property
    def last_figures(self) -> Figures:
        """Figures of the last batch, if its loss is a function."""
        return {} if isinstance(self._fit, _core.Fit) else self._fit.last_figures

    @property
    def progress(self) -> tuple[int, int, int, float, float | None]:
        """The same as `_core.Fit.progress`."""
        return self._fit.progress

    def run(
        self,
        max_epochs: int | None = None,
        max_seconds: float | None = None,
        max_batches: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Do as `_core.Fit.run`, for one epoch at most; after an error, likewise."""
        for record in self._fit.run(1, max_seconds, max_batches):
            begin = time.perf_counter()
            try:
                *held_out, figures = self._evaluate()
            except Exception as error:
                if undoes(error):
                    self.undo()
                raise_again(error)
            seconds = record[6] + time.perf_counter() - begin
            more = {**(record[7] if len(record) > 7 else {}), **of_validation(figures)}
            self._ended.append((*record[:4], *held_out, seconds, more))
        return self.take_ended()

    def undo(self) -> None:
        """Restore model and optimizer after an error."""
        self._before.restore()
        self._failed = True

    def take_ended(self) -> list[tuple[Any, ...]]:
        """Do as `_core.Fit.take_ended`; without epochs whose validation was interrupted."""
        ended, self._ended = self._ended, []
        return ended
