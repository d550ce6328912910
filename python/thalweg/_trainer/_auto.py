"""A learning rate that is measured: half of the largest stable one, if a trial bears it out."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from thalweg.errors import ArgumentError, DivergedError

if TYPE_CHECKING:
    from thalweg._trainer import Trainer

#: Samples, targets, and weights or None.
Batch: TypeAlias = tuple[Any, Any, Any]

#: Updates of a trial, and how many of their batches are judged, the last ones.
_UPDATES, _JUDGED = 100, 20

#: Rates that are tried, each half of the one before; and which part of the most that any of them
#: takes from the loss is as good. A network that dies still learns how frequent the classes are.
_RATES, _GOOD = 10, 0.9


def safe_lr(trainer: "Trainer", x: Any, y: Any, weight: Any, batch_size: int) -> float:
    """Give half of the largest rate that is stable on each of three batches, or less; see `fit`.

    What is stable on the quadratic that the loss is nearby may kill a network within some steps:
    it is often flat where it begins. So halves of the rate are tried, too, and the largest is taken
    that lowers the loss as well as any, and ends where it is stable still.
    """
    from thalweg.curvature import max_stable_lr

    rng = np.random.default_rng([trainer.model.seed, trainer._epochs])
    # A batch of rows that all weigh nothing is passed over in training, and shows nothing.
    counted = np.arange(len(x)) if weight is None else np.flatnonzero(weight > 0)
    size = min(batch_size, len(counted))

    def batch(rows: Any) -> Batch:
        if size == len(x):
            return x, y, weight
        rows = np.sort(rows)
        return x[rows], y[rows], None if weight is None else weight[rows]

    draws = 1 if size == len(counted) else 3
    batches = [batch(rng.choice(counted, size, replace=False)) for _ in range(draws)]

    def largest(of: "Trainer", tol: float) -> float:
        return min(max_stable_lr(of, *each, tol=tol).max_lr for each in batches)

    rate = largest(trainer, 1e-6)
    if not math.isfinite(rate):
        raise ArgumentError(
            'lr="auto": the loss of a batch curves upwards in no direction, so that no rate '
            "is the largest stable one; pass a number"
        )
    order = rng.permutation(counted)
    trial = Trial(
        trainer, lambda k: batch(order.take(range(k * size, (k + 1) * size), mode="wrap"))
    )
    rates = [rate / 2**k for k in range(1, _RATES + 1)]
    takes = {rate: taken for rate in rates if (taken := trial.run(rate)[0]) > 0}
    while takes:
        most = max(takes.values())
        rate = max(rate for rate, taken in takes.items() if taken >= _GOOD * most)
        end = trial.run(rate)[1]  # again, for ten copies of a large model are many
        if end is not None and rate < largest(end, 0.01):
            return float(rate)
        del takes[rate]
    raise ArgumentError(
        f'lr="auto": {_UPDATES} updates lower the loss with no rate down to {rates[-1]:.2g}; '
        "perhaps it is as low as it can be. Pass a number"
    )


class Trial:
    """Some updates of a copy, judged by what they take from the losses of the last batches."""

    def __init__(self, trainer: "Trainer", batch: Callable[[int], Batch]) -> None:
        self._trainer, self._batch = trainer, batch
        self._passes = trainer.model._core.passes()
        self._before = self._losses(trainer._twin())

    def run(self, rate: float) -> tuple[float, "Trainer | None"]:
        """Give what the updates took, and the copy that made them, if it could."""
        from thalweg._lr_finder import _plain

        copy = _plain(self._trainer._twin())
        copy.optimizer.lr = rate
        try:
            for k in range(_UPDATES):
                copy.step(*self._batch(k))
            return self._before - self._losses(copy._twin()), copy
        except DivergedError:
            return -math.inf, None

    def _losses(self, copy: "Trainer") -> float:
        """Sum losses in training mode: of steps of rate 0, in which dropout drops the same."""
        from thalweg._lr_finder import _plain
        from thalweg.optim import SGD

        probe = _plain(copy, SGD(lr=0.0))
        probe.model._core.set_passes(self._passes)
        return sum(probe.step(*self._batch(k)) for k in range(_UPDATES - _JUDGED, _UPDATES))
