"""``fit(lr="auto")``: half of the largest stable rate or less, whichever passes a trial."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from thalweg._trainer._stepper import check
from thalweg.errors import ArgumentError, DivergedError, UnsupportedError
from thalweg.optim._full_batch import FullBatchOptimizer

if TYPE_CHECKING:
    from thalweg._trainer import Trainer

#: Samples, targets, and weights or None.
Batch: TypeAlias = tuple[Any, Any, Any]

#: Updates per trial, and how many of their batches, the last ones, are judged.
_UPDATES, _JUDGED = 100, 20

#: Number of rates to try, each half of the previous one, and the fraction of the largest decrease
#: in loss that counts as equally good. It is high because even a dying network still learns how
#: frequent the classes are.
_RATES, _GOOD = 10, 0.9


def safe_lr(trainer: "Trainer", x: Any, y: Any, weight: Any, batch_size: int) -> float:
    """Return half of the largest rate stable on each of three batches, or less; see `fit`.

    A rate that is stable for the local quadratic model of the loss may still kill a network within
    some steps, because the loss is often flat at the start. So halves of the rate are tried as
    well. The largest that lowers the loss about as much as any is chosen, provided that it is still
    stable at the point where its trial ends.
    """
    from thalweg.curvature import max_stable_lr

    check(trainer._core, x, y, weight)  # all rows: an error in a batch would count from its first
    rng = np.random.default_rng([trainer.model.seed, trainer._epochs])
    # Training skips a batch in which every row has weight 0, so such rows show nothing.
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

    try:
        rate = largest(trainer, 1e-6)
    except UnsupportedError as error:
        if isinstance(trainer.optimizer, FullBatchOptimizer):
            raise
        raise UnsupportedError(
            f'lr="auto" is not available here, but tw.find_lr(trainer, x, y) is: {error}'
        ) from None
    if not math.isfinite(rate):
        raise ArgumentError(
            'lr="auto": the loss of a batch does not curve upwards in any direction, so there is '
            "no largest stable rate; pass a number"
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
        end = trial.run(rate)[1]  # run again: keeping ten copies could be too much
        if end is not None and rate < largest(end, 0.01):
            return float(rate)
        del takes[rate]
    raise ArgumentError(
        f'lr="auto": no rate down to {rates[-1]:.2g} lowers the loss in {_UPDATES} updates; it '
        "may already be as low as possible. Pass a number"
    )


class Trial:
    """Some updates of a copy, judged by how much they reduce the losses of the last batches."""

    def __init__(self, trainer: "Trainer", batch: Callable[[int], Batch]) -> None:
        self._trainer, self._batch = trainer, batch
        self._passes = trainer.model._core.passes()
        self._before = self._losses(trainer._twin())

    def run(self, rate: float) -> tuple[float, "Trainer | None"]:
        """Return the decrease in loss, and the copy that made it unless it diverged."""
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
        """Sum training-mode losses, from steps of rate 0, with the same units dropped each time."""
        from thalweg._lr_finder import _plain
        from thalweg.optim import SGD

        probe = _plain(copy, SGD(lr=0.0))
        probe.model._core.set_passes(self._passes)
        return sum(probe.step(*self._batch(k)) for k in range(_UPDATES - _JUDGED, _UPDATES))
