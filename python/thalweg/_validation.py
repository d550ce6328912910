"""Evaluation of data that come in batches, directly and at the end of a fit's epochs."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from thalweg import _core, _custom
from thalweg._arrays import Array
from thalweg._custom import total
from thalweg._figures import Evaluation, Figures, Means, of_validation
from thalweg._python_fit import PythonFit
from thalweg._slices import raise_again, undone
from thalweg._snapshot import Snapshot
from thalweg._stream import StreamFit, pair_of
from thalweg.errors import ArgumentError, DataError, ThalwegError
from thalweg.nn import CrossEntropyLoss, Loss

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
    trainer: "TrainerBase", source: Callable[[], Iterable[Any]], name: str = ""
) -> Evaluation:
    """Return loss, accuracy and figures of all batches, in evaluation mode; errors name the batch.

    Means are combined by the weights of their rows, and so equal those of all rows up to rounding.
    """
    batches = source()
    if not hasattr(batches, "__iter__"):
        raise ArgumentError(
            f"{name or 'x'} is a function, which must return an iterable of batches (x, y) or (x, "
            f"y, sample_weight); it returned {batches!r}"
        )
    loss, dtype = trainer._loss, trainer._model.dtype
    is_sum = getattr(loss, "reduction", "mean") == "sum"
    number, sums, accuracy, means = 0, np.zeros(4), None, Means()
    for number, batch in enumerate(batches, start=1):
        place = f"{name} batch {number}".lstrip()
        x, y, *weight = pair_of(batch, place)
        try:
            x, y, w = trainer._ready(x, y, weight[0] if weight else None)
            rows, counted = _totals(loss, x, y, w, dtype)
            if len(x) and rows == 0:  # such a batch is skipped, as in training
                if counted:  # class weights of 0 do not affect accuracies
                    accuracy = _accuracy(trainer, x, y, w)
                    sums += 0, 0, accuracy * counted, counted
                continue
            # A fit goes on with a loss of, say, infinity; asked for alone, it is an error.
            found = _custom.evaluate(trainer._core, x, y, w, finite=not name)
            value, accuracy, figures = found
        except ThalwegError as error:
            raise type(error)(f"{place}: {error}") from None
        share = 1.0 if is_sum else rows
        sums += value * share, share, (accuracy or 0.0) * counted, counted
        means.add(figures, share)
    if number == 0:
        raise DataError(f"{name or 'x'} yielded no batches")
    of_loss, shares, right, counted = sums.tolist()
    if shares == 0:
        raise DataError(f"all rows of {name or 'x'} have a weight of 0")
    value = of_loss if is_sum else of_loss / shares
    return value, None if accuracy is None else right / counted, means.take()


def _accuracy(trainer: "TrainerBase", x: Any, y: Any, weight: Array | None) -> float:
    """Return the accuracy of rows with class weights of 0, which have no loss."""
    model = trainer._model
    loss = dataclasses.replace(cast("CrossEntropyLoss", trainer._loss), weight=None)
    core = _core.Trainer(model._core, loss._spec(model.out_features), trainer._optimizer._core)
    return cast("float", core.evaluate(x, y, weight)[1])


def _totals(
    loss: Loss, x: Any, y: Any, weight: Array | None, dtype: np.dtype[Any]
) -> tuple[float, float]:
    """Return the weight of the rows in the mean loss, and in the accuracy, as in the core."""
    rows = total(x, weight)
    if not isinstance(loss, CrossEntropyLoss) or y.ndim != 1 or len(y) != len(x):
        return rows, rows
    each = np.ones(len(y)) if weight is None else weight.astype(np.float64)
    if len(each) != len(y):  # the core raises the error
        return rows, rows
    each = np.where(y == loss.ignore_index, 0.0, each)
    classes = np.ones(1) if loss.weight is None else np.asarray(loss.weight, dtype)
    # A label that is not a class is an error raised by the core; any weight will do here.
    return float(each @ classes[y.clip(0, len(classes) - 1)]), float(each.sum())


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
        return self._failed or undone(self._fit)

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
        """Do as `_core.Fit.run`, for one epoch at most; after an error, restore everything."""
        for record in self._fit.run(1, max_seconds, max_batches):
            begin = time.perf_counter()
            try:
                *held_out, figures = self._evaluate()
            except Exception as error:
                self._before.restore()
                self._failed = True
                raise_again(error)
            seconds = record[6] + time.perf_counter() - begin
            more = {**(record[7] if len(record) > 7 else {}), **of_validation(figures)}
            self._ended.append((*record[:4], *held_out, seconds, more))
        return self.take_ended()

    def take_ended(self) -> list[tuple[Any, ...]]:
        """Do as `_core.Fit.take_ended`; without epochs whose validation was interrupted."""
        ended, self._ended = self._ended, []
        return ended
