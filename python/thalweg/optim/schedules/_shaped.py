"""Cosines, and rates with a beginning, a middle and an end."""

import math
from dataclasses import KW_ONLY
from typing import Literal, TypeAlias, get_args

import numpy as np

from thalweg import _checks
from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.optim.schedules._base import Schedule, Times

#: The shapes of the parts of `OneCycleLR`, and of the fall of `WarmupStableDecay`.
Strategy: TypeAlias = Literal["cos", "linear"]
Decay: TypeAlias = Literal["linear", "cosine", "1-sqrt"]


@description
class CosineAnnealingLR(Schedule):
    r""":math:`\eta_{\min} + \tfrac12 (\eta_0 - \eta_{\min}) (1 + \cos(\pi t/T))`.

    Beyond `T` it rises again, as in PyTorch.

    Parameters
    ----------
    T_max : int or None, default None
        :math:`T`; None is the length of the fit.
    eta_min : float, default 0
        :math:`\eta_{\min} \ge 0`
    per : {"step", "epoch"}, keyword only
        What `t` counts.

    References
    ----------
    Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts",
    arXiv:1608.03983.
    """

    T_max: int | None = None
    eta_min: float = 0.0

    def _check(self) -> None:
        if self.T_max is not None:
            self._integer("T_max")
        self._real("eta_min", 0)

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        part = t / self._duration("T_max", total)
        return self.eta_min + (base - self.eta_min) * (1 + np.cos(math.pi * part)) / 2


@description
class CosineAnnealingWarmRestarts(Schedule):
    r"""Cosine annealing that restarts after :math:`T_0, T_0 T_m, T_0 T_m^2, \dots`.

    Parameters
    ----------
    T_0 : int
        Length of the first cycle.
    T_mult : int, default 1
        :math:`T_m`: the factor by which each cycle is longer than the previous one.
    eta_min : float, default 0
        The smallest rate, 0 or more.
    per : {"step", "epoch"}, keyword only
        What `t` counts.

    References
    ----------
    Loshchilov & Hutter 2017, arXiv:1608.03983.
    """

    T_0: int
    T_mult: int = 1
    eta_min: float = 0.0

    def _check(self) -> None:
        self._integer("T_0")
        self._integer("T_mult")
        self._real("eta_min", 0)

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        if self.T_mult == 1:
            part: Times = t % self.T_0 / self.T_0
        else:
            # Where cycles start, soon far apart; the last start is after all times.
            starts, length = [0], self.T_0
            while starts[-1] <= t.max(initial=0):
                starts.append(starts[-1] + length)
                length *= self.T_mult
            cycle = np.searchsorted(starts, t, side="right") - 1
            bounds = np.array(starts, dtype=np.float64)
            part = (t - bounds[cycle]) / (bounds[cycle + 1] - bounds[cycle])
        return self.eta_min + (base - self.eta_min) * (1 + np.cos(math.pi * part)) / 2


@description
class OneCycleLR(Schedule):
    r"""A rise from a fraction of the largest rate to it, then a fall to almost nothing.

    From :math:`\eta_{\max}/d` to :math:`\eta_{\max}`, then to :math:`\eta_{\max}/(d f)`. With `T`
    steps, the peak is at :math:`t = pT - 1` and the end at :math:`t = T - 1`; if :math:`pT` is
    below 1, the first step is already on the way down. The optimizer's own learning rate is not
    used. As in PyTorch with ``cycle_momentum=False``; a callback can set
    ``trainer.optimizer.momentum``.

    Parameters
    ----------
    max_lr : float
        :math:`\eta_{\max} > 0`
    total_steps : int or None, keyword only
        `T`; None is the length of the fit. After it, the rate stays constant (PyTorch raises an
        error).
    pct_start : float, keyword only, default 0.3
        :math:`p`, between 0 and 1.
    anneal_strategy : {"cos", "linear"}, keyword only
        The shape of both parts.
    div_factor : float, keyword only, default 25
        :math:`d`
    final_div_factor : float, keyword only, default 1e4
        :math:`f`
    three_phase : bool, keyword only, default False
        Whether the fall first mirrors the rise, back to the initial rate, until
        :math:`t = 2pT - 2`.
    per : {"step", "epoch"}, keyword only
        What `t` counts.

    References
    ----------
    Smith & Topin 2018, "Super-convergence", arXiv:1708.07120.
    """

    max_lr: float
    _: KW_ONLY
    total_steps: int | None = None
    pct_start: float = 0.3
    anneal_strategy: Strategy = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def _check(self) -> None:
        self._real("max_lr", 0, closed="()")
        if self.total_steps is not None:
            self._integer("total_steps")
        self._real("pct_start", 0, 1, "[]")
        _checks.one_of("OneCycleLR: anneal_strategy", self.anneal_strategy, get_args(Strategy))
        self._real("div_factor", 0, closed="()")
        self._real("final_div_factor", 0, closed="()")
        self._set(three_phase=_checks.flag("OneCycleLR: three_phase", self.three_phase))
        if self.three_phase and self.pct_start > 0.5:
            raise ArgumentError(
                "OneCycleLR: pct_start must be at most 0.5 with three_phase, since the way down "
                f"is as long as the way up; got {self.pct_start!r}"
            )

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        end = self._duration("total_steps", total) - 1.0
        # May be before the first step, which is then on the way down already, as in PyTorch.
        peak = self.pct_start * (end + 1) - 1
        t = np.minimum(t, end)
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        rates = self._way(t, 0.0, peak, first, self.max_lr)
        if self.three_phase:
            back = 2 * peak
            rates = np.where(t > peak, self._way(t, peak, back, self.max_lr, first), rates)
            return np.where(t > back, self._way(t, back, end, first, last), rates)
        return np.where(t > peak, self._way(t, peak, end, self.max_lr, last), rates)

    def _way(self, t: Times, start: float, end: float, low: float, high: float) -> Times:
        """Return the rates on the way from one rate to another."""
        part = np.clip((t - start) / (end - start) if end > start else np.ones_like(t), 0, 1)
        if self.anneal_strategy == "cos":
            part = (1 - np.cos(math.pi * part)) / 2
        return low + (high - low) * part


@description
class WarmupStableDecay(Schedule):
    r"""A linear rise from 0, a plateau at :math:`\eta_0`, and a fall to :math:`m\,\eta_0`.

    Parameters
    ----------
    warmup_steps : int
        Length of the rise, 0 or more.
    decay_steps : int
        Length of the fall, 1 or more.
    total_steps : int or None, default None
        Length of all three; None is the length of the fit.
    decay : {"linear", "cosine", "1-sqrt"}, keyword only
        With `x` the fraction of the fall that is over, the rate is :math:`1 - x`,
        :math:`(1 + \cos \pi x)/2` or :math:`1 - \sqrt{x}` of the way from the final rate up to the
        plateau.
    min_factor : float, keyword only, default 0
        :math:`m`, from 0 to 1.
    per : {"step", "epoch"}, keyword only
        What `t` counts.

    References
    ----------
    Hu et al. 2024, "MiniCPM", arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392 (the root).
    """

    warmup_steps: int
    decay_steps: int
    total_steps: int | None = None
    _: KW_ONLY
    decay: Decay = "linear"
    min_factor: float = 0.0

    def _check(self) -> None:
        self._integer("warmup_steps", 0)
        self._integer("decay_steps")
        _checks.one_of("WarmupStableDecay: decay", self.decay, get_args(Decay))
        self._real("min_factor", 0, 1, "[]")
        if self.total_steps is not None:
            self._integer("total_steps", self.warmup_steps + self.decay_steps)

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        end = self._duration("total_steps", total)
        if end < self.warmup_steps + self.decay_steps:
            raise ArgumentError(
                f"WarmupStableDecay: {self.warmup_steps} steps of warm-up and {self.decay_steps} "
                f"of decay are more than the total of {end} steps"
            )
        rise = np.minimum(t / self.warmup_steps, 1) if self.warmup_steps else np.ones_like(t)
        x = np.clip((t - (end - self.decay_steps)) / self.decay_steps, 0, 1)
        left = {
            "linear": 1 - x,
            "cosine": (1 + np.cos(math.pi * x)) / 2,
            "1-sqrt": 1 - np.sqrt(x),
        }[self.decay]
        return base * rise * (self.min_factor + (1 - self.min_factor) * left)
