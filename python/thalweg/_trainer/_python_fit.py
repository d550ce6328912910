"""The loop of fits to arrays whose steps are made in Python, by a `Stepper`.

`PythonFit` takes the place of `_core.Fit`, which is for everything else. It goes through the data
in the same way: the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thalweg import _core
from thalweg._arrays import Array, Samples
from thalweg._trainer import _steps
from thalweg._trainer._slices import SlicedFit
from thalweg._trainer._stepper import Stepper, check


class PythonFit(SlicedFit):
    """A fit to arrays."""

    def __init__(
        self,
        trainer: Stepper,
        loss: Any,
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
        check(trainer, x, y, sample_weight)
        validation = None
        if validation_x is not None:
            validation = validation_x, validation_y, validation_weight
        super().__init__(trainer, trainer.model, trainer.optimizer, loss, epochs, validation)
        self.kind = trainer.kind
        self._data = x, y, sample_weight
        self._batch_size = batch_size
        self._shuffle, self._seed = shuffle and not trainer.whole, seed
        self._rates, self._by_epoch, self._earlier = rates, rates_by_epoch, earlier_epochs
        self._order: Any = None

    @property
    def _batches(self) -> int:
        return -(-len(self._data[0]) // self._batch_size)

    @_steps.alone("fit")
    def _slice(self, end: int, max_seconds: float | None, max_batches: int | None) -> None:
        if not self._begun:
            self._begun = True
            self._trainer.forget()  # discard what an interrupted fit left behind
        super()._slice(end, max_seconds, max_batches)

    def _step(self) -> bool:
        x, y, weight = self._data
        if self._batch == 0 and self._shuffle:
            self._order = _core.epoch_order(len(x), self._seed, self._earlier + self._epoch)
        start = self._batch * self._batch_size
        stop = min(start + self._batch_size, len(x))
        rows = self._order[start:stop] if self._shuffle else slice(start, stop)
        if self._rates is not None:
            at = self._epoch if self._by_epoch else self._updates
            self._optimizer._core.set_lr(self._rates[at])
        self._train(x[rows], y[rows], None if weight is None else weight[rows])
        return stop == len(x)
