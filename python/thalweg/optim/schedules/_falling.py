"""Rates that rise or fall by a simple rule."""

from collections.abc import Sequence

import numpy as np

from thalweg import _checks
from thalweg._description import description
from thalweg.optim.schedules._base import Schedule, Times


@description
class ConstantLR(Schedule):
    r"""A reduced rate at first: :math:`f\,\eta_0` for :math:`t < T`, then :math:`\eta_0`.

    Parameters
    ----------
    factor : float, default 1/3
        :math:`f`, from 0 to 1.
    total_iters : int, default 5
        :math:`T`
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    factor: float = 1 / 3
    total_iters: int = 5

    def _check(self) -> None:
        self._real("factor", 0, 1, "[]")
        self._integer("total_iters", 0)

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        return np.where(t < self.total_iters, base * self.factor, base)


@description
class LinearLR(Schedule):
    r"""Linear from :math:`s\,\eta_0` at 0 to :math:`e\,\eta_0` at :math:`T`, then constant.

    Parameters
    ----------
    start_factor : float, default 1/3
        :math:`s`, from 0 to 1. (In PyTorch, it must be above 0.)
    end_factor : float, default 1
        :math:`e`, from 0 to 1.
    total_iters : int or None, default 5
        :math:`T`; None is the length of the fit.
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    start_factor: float = 1 / 3
    end_factor: float = 1.0
    total_iters: int | None = 5

    def _check(self) -> None:
        self._real("start_factor", 0, 1, "[]")
        self._real("end_factor", 0, 1, "[]")
        if self.total_iters is not None:
            self._integer("total_iters")

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        part = np.minimum(t / self._duration("total_iters", total), 1)
        return base * (self.start_factor + (self.end_factor - self.start_factor) * part)


@description
class StepLR(Schedule):
    r""":math:`\eta_0\,\gamma^{\lfloor t/k \rfloor}`: a factor every `k` steps (or epochs).

    Parameters
    ----------
    step_size : int
        :math:`k`
    gamma : float, default 0.1
        :math:`\gamma \ge 0`
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    step_size: int
    gamma: float = 0.1

    def _check(self) -> None:
        self._integer("step_size")
        self._real("gamma", 0)

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        return base * self.gamma ** (t // self.step_size)


@description
class MultiStepLR(Schedule):
    r""":math:`\eta_0\,\gamma^{k(t)}`, where `k(t)` is the number of milestones up to `t`.

    Parameters
    ----------
    milestones : sequence of int
        Times, at least 0, in any order.
    gamma : float, default 0.1
        :math:`\gamma \ge 0`
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    def _check(self) -> None:
        given = _checks.sequence("MultiStepLR: milestones", self.milestones, ordered=False)
        times = [_checks.integer("MultiStepLR: a milestone", m, 0) for m in given]
        self._set(milestones=tuple(sorted(times)))
        self._real("gamma", 0)

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        return base * self.gamma ** np.searchsorted(self.milestones, t, side="right")


@description
class ExponentialLR(Schedule):
    r""":math:`\eta_0\,\gamma^t`.

    Parameters
    ----------
    gamma : float
        :math:`\gamma > 0`
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    gamma: float

    def _check(self) -> None:
        self._real("gamma", 0, closed="()")

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        with np.errstate(under="ignore"):  # to 0, in the end
            return base * self.gamma**t


@description
class PolynomialLR(Schedule):
    r""":math:`\eta_0\,(1 - \min(t, T)/T)^p`.

    Parameters
    ----------
    total_iters : int or None, default 5
        :math:`T`; None is the length of the fit.
    power : float, default 1
        :math:`p > 0`
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    total_iters: int | None = 5
    power: float = 1.0

    def _check(self) -> None:
        if self.total_iters is not None:
            self._integer("total_iters")
        self._real("power", 0, closed="()")

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        end = self._duration("total_iters", total)
        return base * (1 - np.minimum(t, end) / end) ** self.power
