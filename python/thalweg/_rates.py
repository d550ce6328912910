"""Learning rates of a schedule, at the times that a trainer knows."""

import numpy as np

from thalweg.optim.schedules import Schedule

#: Rates that are computed at once for steps by hand.
_BLOCK = 1024


class Rates:
    """A schedule's rates, by the times that a trainer knows."""

    def __init__(self, schedule: Schedule, base: float) -> None:
        self.schedule = schedule
        self.base = base
        self._start = 0
        self._block: list[float] = []

    def of_fit(self, steps: int, ended: int, epochs: int, updates: int) -> list[float]:
        """Give the rate of each update of a fit of so many epochs, of so many updates each."""
        by_step = self.schedule.per == "step"
        length = epochs * updates if by_step else epochs
        # An open schedule is as long as this fit, and begins with it.
        start = 0 if self.schedule.is_open else (steps if by_step else ended)
        times = np.arange(start, start + length, dtype=np.float64)
        rates = self.schedule._rates(times, self.base, length)
        each: list[float] = (rates if by_step else np.repeat(rates, updates)).tolist()
        return each

    def at(self, steps: int, ended: int) -> float:
        """Give the rate of one update by hand, after so many updates and epochs."""
        time = steps if self.schedule.per == "step" else ended
        if not 0 <= time - self._start < len(self._block):
            self._start = time
            times = np.arange(time, time + _BLOCK, dtype=np.float64)
            self._block = self.schedule._rates(times, self.base, None).tolist()
        return self._block[time - self._start]
