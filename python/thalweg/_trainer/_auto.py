"""A learning rate that is measured: half of the largest stable one, if a trial bears it out."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.errors import ArgumentError, DivergedError

if TYPE_CHECKING:
    from thalweg._trainer import Trainer

#: Updates of a trial, and how many of the last ones are judged.
_UPDATES, _JUDGED = 40, 10

#: Rates that are tried, each half of the one before; and how much more half of a rate has to take
#: from the loss to be preferred. A network that dies still learns how frequent the classes are.
_RATES, _BETTER = 20, 1.1


def safe_lr(trainer: "Trainer", x: Any, y: Any, weight: Any, batch_size: int) -> float:
    """Give half of the largest rate that is stable on each of three batches, or less; see `fit`.

    What is stable on the quadratic that the loss is nearby may kill a network within some steps:
    it is often flat where it begins. So the rate is halved until a trial with it lowers the loss,
    and ends where it is stable still, and half of it would not take clearly more.
    """
    from thalweg.curvature import max_stable_lr

    rng = np.random.default_rng([trainer.model.seed, trainer._epochs])
    size = min(batch_size, len(x))

    def batch(rows: Any) -> tuple[Any, Any, Any]:
        return x[rows], y[rows], None if weight is None else weight[rows]

    drawn = [np.sort(rng.choice(len(x), size, replace=False)) for _ in range(3)]
    batches = [batch(rows) for rows in (drawn[:1] if size == len(x) else drawn)]

    def largest(of: "Trainer") -> float:
        return min(max_stable_lr(of, *each).max_lr for each in batches)

    rate = largest(trainer)
    if not math.isfinite(rate):
        raise ArgumentError(
            'lr="auto": the loss of a batch curves upwards in no direction, so that no rate '
            "is the largest stable one; pass a number"
        )
    order = rng.permutation(len(x))
    parts = (order.take(range(k * size, (k + 1) * size), mode="wrap") for k in range(_UPDATES))
    trial = Trial(trainer, [batch(np.sort(rows)) for rows in parts])
    taken = -math.inf
    for _ in range(_RATES):
        rate /= 2
        before, (taken, tried) = taken, trial.run(rate)
        if before > 0 and taken <= _BETTER * before:
            return 2 * rate
        if tried is None or rate >= largest(tried):
            taken = -math.inf
    raise ArgumentError(
        f'lr="auto": {_UPDATES} updates lower the loss with no rate down to {rate:.2g}; perhaps it '
        "is as low as it can be. Pass a number"
    )


class Trial:
    """Some updates of a copy, judged by what they do to the loss of the last batches."""

    def __init__(self, trainer: "Trainer", batches: list[tuple[Any, Any, Any]]) -> None:
        from thalweg._lr_finder import _plain
        from thalweg.optim import SGD

        self._trainer, self._batches = trainer, batches
        # A step of rate 0 is a loss in training mode; dropout drops what it will in the trial.
        probe = _plain(trainer.copy(), SGD(lr=0.0))
        core = probe.model._core
        core.set_passes(core.passes() + len(batches) - _JUDGED)
        self._before = sum(probe.step(*batch) for batch in batches[-_JUDGED:])

    def run(self, rate: float) -> tuple[float, "Trainer | None"]:
        """Give what the updates took from the loss, and the copy that made them, if it could."""
        from thalweg._lr_finder import _plain

        copy = _plain(self._trainer.copy())
        copy.optimizer.lr = rate
        try:
            losses = [copy.step(*batch) for batch in self._batches]
        except DivergedError:
            return -math.inf, None
        return self._before - sum(losses[-_JUDGED:]), copy
