"""Learning rates of a schedule, at the times a trainer counts."""

import numpy as np

from thalweg._warn import warn
from thalweg.errors import ArgumentError
from thalweg.optim.schedules import LinearLR, PolynomialLR, Schedule
from thalweg.optim.schedules._base import Times

#: Number of rates computed at once for manual steps.
_BLOCK = 1024

#: At this share of the largest rate so far, or less, almost nothing is learned.
_LOW = 1e-4

#: Maximum number of rates in a fit: some gigabytes of Python floats.
_MOST = 10**8


class Rates:
    """A schedule's rates, at the times a trainer counts."""

    def __init__(self, schedule: Schedule, base: float) -> None:
        self.schedule = schedule
        self.base = base
        self._start = 0
        self._block: list[float] = []
        #: Of all fits so far: the largest rate, how many there were, and how many were low.
        self._largest, self._count, self._low = 0.0, 0, 0
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
            If they would not fit into memory, or one is not finite.
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
        with np.errstate(over="ignore"):  # checked here
            rates = self.schedule._rates(times, self.base, length)
        if not (finite := np.isfinite(rates)).all():
            first = int(finite.argmin())
            raise ArgumentError(
                f"{self.schedule!r}, based on {self.base:g}, gives a rate of {rates[first]} for "
                f"t={start + first}, which this fit of {length} {units} reaches"
            )
        self._warn_if_low(rates, units)
        return rates.tolist()  # type: ignore[no-any-return]

    def _warn_if_low(self, rates: Times, units: str) -> None:
        """Warn, once, if hardly anything is learned at most of the rates.

        They are compared with earlier ones, since some schedules do not use the base, and over all
        fits, since the last of many short ones may be the end of a cosine.
        """
        length, zeros = len(rates), len(rates) - np.count_nonzero(rates)
        largest = np.maximum(np.maximum.accumulate(rates), self._largest)
        self._low += int(np.count_nonzero(rates <= _LOW * largest))
        self._count += length
        self._largest = float(largest.max(initial=self._largest))
        if self._warned or self.base == 0:
            return
        if zeros > max(1, length // 2):  # a warm-up may begin with one
            what = f"a rate of 0 for {zeros} of the {length} {units} of this fit, in which nothing"
        elif self._low > max(1, self._count // 2):
            what = (
                f"at most {_LOW:g} of its largest rate, {self._largest:g}, for {self._low} of the "
                f"{self._count} {units} up to the end of this fit, in which almost nothing"
            )
        else:
            return
        self._warned = True
        more = ""
        if not self.by_epoch:
            more += '; per="epoch" counts epochs, as PyTorch\'s does if stepped once in each'
        if isinstance(self.schedule, (LinearLR, PolynomialLR)):
            more += "; total_iters=None makes it as long as the fit"
        warn(f"{self.schedule!r} gives {what} is learned{more}")

    def at(self, steps: int, ended: int) -> float:
        """Return the rate of one manual update, after `steps` updates and `ended` epochs."""
        time = ended if self.by_epoch else steps
        if not 0 <= time - self._start < len(self._block):
            try:
                block = self._some(time, _BLOCK)
            except Exception:  # a user-defined function may not know the future yet
                block = self._some(time, 1)
            self._start, self._block = time, block
        return self._block[time - self._start]

    def _some(self, start: int, count: int) -> list[float]:
        times = np.arange(start, start + count, dtype=np.float64)
        with np.errstate(over="ignore"):  # in the distant future
            rates: list[float] = self.schedule._rates(times, self.base, None).tolist()
        return rates
