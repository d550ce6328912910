"""Schedules composed of other schedules, or of a function."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.optim.schedules._base import Schedule, Times
from thalweg.optim.schedules._plateau import ReduceLROnPlateau


@description
class LinearWarmup(Schedule):
    r"""A linear rise from :math:`s\,\eta_0` to :math:`\eta_0` in `T` steps, then `then`.

    Parameters
    ----------
    warmup_steps : int
        `T`; the full rate is reached at :math:`t = T`.
    then : Schedule, optional
        Begins at `T` with its own :math:`t = 0`; by default the rate stays at :math:`\eta_0`. A
        duration it leaves out is the rest of the fit.
    start_factor : float, keyword only, default 0
        :math:`s`, from 0 to 1.
    per : {"step", "epoch"}, keyword only
        What `t` counts, here and in `then`.

    References
    ----------
    Goyal et al. 2017, "Accurate, large minibatch SGD", arXiv:1706.02677.
    """

    warmup_steps: int
    then: Schedule | None = None
    _: KW_ONLY
    start_factor: float = 0.0

    def _check(self) -> None:
        self._integer("warmup_steps")
        self._real("start_factor", 0, 1, "[]")
        if self.then is not None:
            _expect_schedules("LinearWarmup: then", [self.then], self.per)

    @property
    def is_open(self) -> bool:
        """Whether a duration was left out, so that it is the length of each fit."""
        return self.then is not None and self.then.is_open

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        rise = self.start_factor + (1 - self.start_factor) * t / self.warmup_steps
        after = np.maximum(t - self.warmup_steps, 0)
        level = np.full_like(t, base)
        if self.then is not None:
            rest = None if total is None else max(total - self.warmup_steps, 1)
            level = self.then._rates(after, base, rest)
        return np.where(t < self.warmup_steps, base * rise, level)


@description
class SequentialLR(Schedule):
    """Several schedules in sequence, each starting from its own time 0.

    Parameters
    ----------
    schedulers : sequence of Schedule
        In order; all must count the same (steps or epochs).
    milestones : sequence of int
        When the second, third, ... begin, in ascending order; one fewer than schedules.
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    schedulers: Sequence[Schedule]
    milestones: Sequence[int]

    def _check(self) -> None:
        parts: tuple[Schedule, ...] = _checks.sequence("SequentialLR: schedulers", self.schedulers)
        _expect_schedules("SequentialLR: schedulers", parts, self.per)
        given = _checks.sequence("SequentialLR: milestones", self.milestones)
        times = tuple(_checks.integer("SequentialLR: a milestone", m, 1) for m in given)
        rising = all(a < b for a, b in itertools.pairwise(times))
        if len(times) != len(parts) - 1 or not rising:
            raise ArgumentError(
                "SequentialLR: milestones must be increasing and one fewer than schedulers; got "
                f"{list(times)} for {len(parts)} schedulers"
            )
        self._set(schedulers=parts, milestones=times)

    @property
    def is_open(self) -> bool:
        """Whether a duration was left out, so that it is the length of each fit."""
        return self.schedulers[-1].is_open  # milestones set the lengths of the others

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        starts = (0, *self.milestones)
        ends = (*self.milestones, total)
        rates = np.empty_like(t)
        place = np.searchsorted(self.milestones, t, side="right")
        for k, (schedule, start, end) in enumerate(zip(self.schedulers, starts, ends, strict=True)):
            length = None if end is None else max(end - start, 1)
            part = place == k  # only these: a function may not know times after its own
            rates[part] = schedule._rates(t[part] - start, base, length)
        return rates


@description
class LambdaLR(Schedule):
    r""":math:`\eta_0\,f(t)` with a user-defined function.

    Parameters
    ----------
    lr_lambda : callable
        `f`, from an int to a non-negative float. It must depend on its argument only: a fit calls
        it for all its times before the first step, and `thalweg.Trainer.step` for the next 1024 at
        once. To make the rate depend on how training goes, set ``optimizer.lr`` in a callback.
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    lr_lambda: Callable[[int], float]

    def _check(self) -> None:
        given: Any = self.lr_lambda
        if isinstance(given, Schedule) or not callable(given):
            raise ArgumentError(f"LambdaLR: lr_lambda must be callable; got {self.lr_lambda!r}")

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        factors = [_checks.real(f"lr_lambda({int(i)})", self.lr_lambda(int(i)), 0) for i in t]
        return base * np.array(factors)


def _expect_schedules(name: str, schedules: Sequence[Any], per: str) -> None:
    """Raise unless all are functions of the same time."""
    if not schedules:
        raise ArgumentError(f"{name} must not be empty")
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            more = ""
            if isinstance(schedule, ReduceLROnPlateau):
                more = (
                    ": first use those that do in a fit of its own, then continue in a second "
                    f"Trainer of the same model and optimizer with schedule={schedule!r}"
                )
            raise ArgumentError(
                f"{name}: {schedule!r} is not a schedule that depends on time alone{more}"
            )
        if schedule.per != per:
            raise ArgumentError(
                f'{name}: {schedule!r} has per="{schedule.per}", but the schedule around it has '
                f'per="{per}"; they must be equal'
            )
