"""The loop of fits whose steps are taken in Python: custom losses, full-batch optimizers.

`PythonFit` takes the place of `_core.Fit`, which is for everything else. It goes through the data
in the same way: the same rows in the same order.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from thalweg import _core, _steps
from thalweg._arrays import Array, Samples
from thalweg._custom import total
from thalweg._figures import Evaluation, Figures, of_validation
from thalweg._slices import SlicedFit
from thalweg._snapshot import Averaging, Snapshot
from thalweg.nn import Sequential
from thalweg.optim import Optimizer


class PythonTrainer(Averaging, Protocol):
    """What `PythonFit` needs from a trainer."""

    model: Sequential
    #: See `Stepping`.
    kind: str
    #: Whether a step uses all rows at once.
    whole: bool

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that takes the steps."""

    def check(self, x: Samples, y: Any, sample_weight: Array | None, prefix: str = "") -> None:
        """Raise unless these data can be used for training or validation."""

    def train(self, x: Samples, y: Any, sample_weight: Array | None) -> Evaluation:
        """Train on a batch; return its loss, accuracy and other figures."""

    def evaluate(
        self, x: Samples, y: Any, sample_weight: Array | None = None, finite: bool = True
    ) -> Evaluation:
        """Return loss, accuracy and other figures, in evaluation mode, as `CustomTrainer` does."""

    def penalty_value(self) -> float | None:
        """Return the penalty of the current parameters, if there is one."""

    def flush(self) -> None:
        """Make an update from accumulated gradients."""


class PythonFit(SlicedFit):
    """A fit to arrays."""

    def __init__(
        self,
        trainer: PythonTrainer,
        x: Samples,
        y: Any,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        validation_x: Samples | None = None,
        validation_y: Any = None,
        sample_weight: Array | None = None,
        validation_weight: Array | None = None,
        rates: Sequence[float] | None = None,
        rates_by_epoch: bool = False,
        earlier_epochs: int = 0,
    ) -> None:
        self._trainer, self.model, self.kind = trainer, trainer.model, trainer.kind
        self._data = x, y, sample_weight
        self._validation = None
        trainer.check(x, y, sample_weight)
        if validation_x is not None:
            self._validation = validation_x, validation_y, validation_weight
            trainer.check(*self._validation, prefix="validation ")
        super().__init__(epochs, Snapshot(trainer, trainer.model, trainer.optimizer))
        self._batch_size = batch_size
        self._shuffle, self._seed = shuffle and not trainer.whole, seed
        self._rates, self._by_epoch, self._earlier = rates, rates_by_epoch, earlier_epochs
        self._order: Any = None
        #: Weight, loss and accuracy of each batch.
        self._losses: list[tuple[float, float, float | None]] = []

    @property
    def progress(self) -> tuple[int, int, int, float, float | None]:
        """The same as `_core.Fit.progress`."""
        batches = -(-len(self._data[0]) // self._batch_size)
        return self._epoch, self._batch, batches, *self._means()

    @_steps.alone("fit")
    def _slice(self, end: int, max_seconds: float | None, max_batches: int | None) -> None:
        if not self._begun:
            self._begun = True
            self._trainer.forget()  # discard what an interrupted fit left behind
        super()._slice(end, max_seconds, max_batches)

    def _means(self) -> tuple[float, float | None]:
        """Return loss and accuracy so far in this epoch: weighted means over the rows."""
        all_of = sum(n for n, _, _ in self._losses) or 1.0
        loss = sum(n * loss for n, loss, _ in self._losses) / all_of
        right = [n * accuracy for n, _, accuracy in self._losses if accuracy is not None]
        return loss, sum(right) / all_of if right else None

    def _turn(self) -> None:
        begin = time.perf_counter()
        x, y, weight = self._data
        if self._batch == 0 and self._shuffle:
            self._order = _core.epoch_order(len(x), self._seed, self._earlier + self._epoch)
        start = self._batch * self._batch_size
        stop = min(start + self._batch_size, len(x))
        rows = self._order[start:stop] if self._shuffle else slice(start, stop)
        w = None if weight is None else weight[rows]
        optimizer = self._trainer.optimizer
        if self._rates is not None:
            at = self._epoch if self._by_epoch else self._updates
            optimizer._core.set_lr(self._rates[at])
        self.last_loss = np.nan
        before = optimizer.steps
        if w is None or w.any():  # skip batches in which every weight is 0
            loss, accuracy, figures = self._trainer.train(x[rows], y[rows], w)
            self.last_loss, self.last_figures = loss, figures
            count = total(x[rows], w)
            self._losses.append((count, loss, accuracy))
            self._figures.add(figures, count)
        if stop == len(x):
            self._trainer.flush()  # gradients are not carried over to the next epoch
            self._before.check()
        self._updates += optimizer.steps - before
        self._batch += 1
        held_out: tuple[float | None, float | None, Figures] = (None, None, {})
        if stop == len(x):
            if self._validation is not None:
                held_out = self._trainer.evaluate(*self._validation, finite=False)
            self._epoch += 1
            self._batch = 0
        self._seconds += time.perf_counter() - begin
        if self._batch == 0:
            penalty = self._trainer.penalty_value()
            figures = {**self._figures.take(), **of_validation(held_out[2])}
            self._ended.append(
                (self._epoch, *self._means(), penalty, *held_out[:2], self._seconds, figures)
            )
            self._losses, self._seconds = [], 0.0
