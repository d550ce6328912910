"""Learning rates of a schedule, at the times that a trainer knows."""

import numpy as np

from thalweg.errors import ArgumentError
from thalweg.optim.schedules import Schedule

#: Rates that are computed at once for steps by hand.
_BLOCK = 1024

#: Rates that a fit can have: some gigabytes of Python's numbers.
_MOST = 10**8


class Rates:
    """A schedule's rates, by the times that a trainer knows."""

    def __init__(self, schedule: Schedule, base: float) -> None:
        self.schedule = schedule
        self.base = base
        self._start = 0
        self._block: list[float] = []

    @property
    def by_epoch(self) -> bool:
        """Whether times are epochs."""
        return self.schedule.per == "epoch"

    def of_fit(self, steps: int, ended: int, epochs: int, updates: int) -> list[float]:
        """Give the rates of a fit of so many epochs, of so many updates each.

        Raises
        ------
        ArgumentError
            If these would not fit into memory.
        """
        length = epochs if self.by_epoch else epochs * updates
        if length > _MOST:
            raise ArgumentError(
                f"{self.schedule!r} over {length} {'epochs' if self.by_epoch else 'updates'}: a "
                f"fit has at most {_MOST} with a schedule, all of whose rates are computed before; "
                "call fit several times, or set optimizer.lr in a callback"
            )
        # An open schedule is as long as this fit, and begins with it.
        start = 0 if self.schedule.is_open else (ended if self.by_epoch else steps)
        times = np.arange(start, start + length, dtype=np.float64)
        rates: list[float] = self.schedule._rates(times, self.base, length).tolist()
        return rates

    def at(self, steps: int, ended: int) -> float:
        """Give the rate of one update by hand, after so many updates and epochs."""
        time = ended if self.by_epoch else steps
        if not 0 <= time - self._start < len(self._block):
            self._start = time
            try:
                self._block = self._some(_BLOCK)
            except Exception:  # a function of the user's may not know the future yet
                self._block = self._some(1)
        return self._block[time - self._start]

    def _some(self, count: int) -> list[float]:
        times = np.arange(self._start, self._start + count, dtype=np.float64)
        rates: list[float] = self.schedule._rates(times, self.base, None).tolist()
        return rates
