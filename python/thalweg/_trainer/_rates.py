"""Learning rates of a schedule, at the times a trainer counts."""

import numpy as np

from thalweg._warn import warn
from thalweg.errors import ArgumentError
from thalweg.optim.schedules import LinearLR, PolynomialLR, Schedule

#: Number of rates computed at once for manual steps.
_BLOCK = 1024

#: Maximum number of rates in a fit: some gigabytes of Python floats.
_MOST = 10**8


class Rates:
    """A schedule's rates, at the times a trainer counts."""

    def __init__(self, schedule: Schedule, base: float) -> None:
        self.schedule = schedule
        self.base = base
        self._start = 0
        self._block: list[float] = []
        self._warned = False

    @property
    def by_epoch(self) -> bool:
        """Whether time is counted in epochs."""
        return self.schedule.per == "epoch"

    def of_fit(self, steps: int, ended: int, epochs: int, updates: int) -> list[float]:
        """Return the rates of a fit of so many `epochs`, with so many `updates` each.

        Raises
        ------
        ArgumentError
            If they would not fit into memory.
        """
        length = epochs if self.by_epoch else epochs * updates
        units = "epochs" if self.by_epoch else "updates"
        if length > _MOST:
            raise ArgumentError(
                f"{self.schedule!r} over {length} {units}: with a schedule, whose rates are all "
                f"computed in advance, a fit can have at most {_MOST}; call fit several times, or "
                "set optimizer.lr in a callback"
            )
        # An open schedule begins with this fit and is as long.
        start = 0 if self.schedule.is_open else (ended if self.by_epoch else steps)
        times = np.arange(start, start + length, dtype=np.float64)
        rates = self.schedule._rates(times, self.base, length)
        zeros = length - np.count_nonzero(rates)
        # A warm-up may begin with one.
        if zeros > max(1, length // 2) and self.base > 0 and not self._warned:
            self._warned = True
            default = isinstance(self.schedule, (LinearLR, PolynomialLR))
            more = "; total_iters=None makes it as long as the fit" if default else ""
            warn(
                f"{self.schedule!r} gives a rate of 0 for {zeros} of the {length} {units} of this "
                f"fit, in which nothing is learned{more}"
            )
        return rates.tolist()  # type: ignore[no-any-return]

    def at(self, steps: int, ended: int) -> float:
        """Return the rate of one manual update, after `steps` updates and `ended` epochs."""
        time = ended if self.by_epoch else steps
        if not 0 <= time - self._start < len(self._block):
            self._start = time
            try:
                self._block = self._some(_BLOCK)
            except Exception:  # a user-defined function may not know the future yet
                self._block = self._some(1)
        return self._block[time - self._start]

    def _some(self, count: int) -> list[float]:
        times = np.arange(self._start, self._start + count, dtype=np.float64)
        rates: list[float] = self.schedule._rates(times, self.base, None).tolist()
        return rates
