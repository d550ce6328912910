r"""Learning rates that change during training.

A schedule is a function of time: with the learning rate :math:`\eta_0` that the optimizer was made
with, it gives :math:`\eta(t)` for :math:`t = 0, 1, 2, \dots`, the number of updates done so far, or
of epochs if it was made with ``per="epoch"``. It holds no state, so it can be shared, plotted and
looked at before a training begins:

>>> from thalweg.optim import schedules
>>> warm = schedules.LinearWarmup(10, then=schedules.CosineAnnealingLR())
>>> [float(round(warm.lr(t, base=1.0, total=100), 12)) for t in (0, 5, 10, 55, 100)]
[0.0, 0.5, 1.0, 0.5, 0.0]

Names, arguments and defaults are those of ``torch.optim.lr_scheduler``, whose schedulers count
calls of their method ``step``. `thalweg.Trainer` takes one as ``schedule``.

Durations that are left out (None) are those of the `thalweg.Trainer.fit` in which the schedule is
used: it then begins anew with each fit, while others go on counting.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg.errors import ArgumentError

_Times: TypeAlias = npt.NDArray[Any]

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "LinearWarmup",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "Schedule",
    "SequentialLR",
    "StepLR",
    "WarmupStableDecay",
]


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules.

    Parameters
    ----------
    per : {"step", "epoch"}, keyword only
        What `t` counts: updates of the parameters, or epochs of `thalweg.Trainer.fit`.
    """

    _: KW_ONLY
    per: str = "step"

    def __post_init__(self) -> None:
        _checks.one_of(f"{type(self).__name__}: per", self.per, ("step", "epoch"))
        self._check()

    def lr(self, t: int, *, base: float, total: int | None = None) -> float:
        """Give the learning rate at time `t`.

        Parameters
        ----------
        t : int
            Updates, or epochs, done so far.
        base : float, keyword only
            The optimizer's own learning rate.
        total : int, keyword only, optional
            For durations that were left out: the length of the fit.

        Returns
        -------
        float

        Raises
        ------
        ArgumentError
            If a duration was left out and `total` is not given.
        """
        _checks.integer("t", t, 0)
        base = _checks.real("base", base, 0)
        return float(self._rates(np.array([t], dtype=np.float64), base, total)[0])

    @property
    def is_open(self) -> bool:
        """Whether a duration was left out, and is that of each fit."""
        return any(getattr(self, field.name) is None for field in fields(self))

    def _check(self) -> None:
        """Raise if an argument makes no sense."""

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        """Give the learning rates at several times."""
        raise NotImplementedError

    # For the checks in subclasses: every message names the schedule.
    def _integer(self, name: str, low: int = 1) -> None:
        _checks.integer(f"{type(self).__name__}: {name}", getattr(self, name), low)

    def _real(self, name: str, low: float, high: float = math.inf, closed: str = "[)") -> None:
        _checks.real(f"{type(self).__name__}: {name}", getattr(self, name), low, high, closed)

    def _duration(self, name: str, total: int | None) -> int:
        given = getattr(self, name)
        if given is None and total is None:
            raise ArgumentError(
                f"{type(self).__name__}: {name} was left out, so it is known only during a fit; "
                f"give it, or a total"
            )
        return int(total if given is None else given)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ConstantLR(Schedule):
    r"""A smaller rate at first: :math:`f\,\eta_0` for :math:`t < T`, then :math:`\eta_0`.

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

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        return np.where(t < self.total_iters, base * self.factor, base)


@dataclass(frozen=True)
class LinearLR(Schedule):
    r"""A straight line from :math:`s\,\eta_0` at 0 to :math:`e\,\eta_0` at :math:`T`, then level.

    Parameters
    ----------
    start_factor : float, default 1/3
        :math:`s`, from 0 to 1. (PyTorch's must be above 0.)
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

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        part = np.minimum(t / self._duration("total_iters", total), 1)
        return base * (self.start_factor + (self.end_factor - self.start_factor) * part)


@dataclass(frozen=True)
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

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        return base * self.gamma ** (t // self.step_size)


@dataclass(frozen=True)
class MultiStepLR(Schedule):
    r""":math:`\eta_0\,\gamma^{k(t)}`, where `k(t)` is how many milestones are not after `t`.

    Parameters
    ----------
    milestones : sequence of int
        Times from 0 on.
    gamma : float, default 0.1
        :math:`\gamma \ge 0`
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    def _check(self) -> None:
        given = _checks.sequence("MultiStepLR: milestones", self.milestones)
        times = [_checks.integer("MultiStepLR: a milestone", m, 0) for m in given]
        object.__setattr__(self, "milestones", tuple(sorted(times)))
        self._real("gamma", 0)

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        return base * self.gamma ** np.searchsorted(self.milestones, t, side="right")


@dataclass(frozen=True)
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

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        return base * self.gamma**t


@dataclass(frozen=True)
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

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        end = self._duration("total_iters", total)
        return base * (1 - np.minimum(t, end) / end) ** self.power


@dataclass(frozen=True)
class CosineAnnealingLR(Schedule):
    r""":math:`\eta_{\min} + \tfrac12 (\eta_0 - \eta_{\min}) (1 + \cos(\pi t/T))`.

    Beyond `T` it rises again, as PyTorch's does.

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

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        part = t / self._duration("T_max", total)
        return self.eta_min + (base - self.eta_min) * (1 + np.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class CosineAnnealingWarmRestarts(Schedule):
    r"""Cosine annealing that starts again after :math:`T_0, T_0 T_m, T_0 T_m^2, \dots`.

    Parameters
    ----------
    T_0 : int
        Length of the first cycle.
    T_mult : int, default 1
        :math:`T_m`: each cycle is so many times as long as the one before.
    eta_min : float, default 0
        The least rate, 0 or more.
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

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        # Where cycles start; the last is behind all times.
        starts, length = [0], self.T_0
        while starts[-1] <= t.max(initial=0):
            starts.append(starts[-1] + length)
            length *= self.T_mult
        cycle = np.searchsorted(starts, t, side="right") - 1
        bounds = np.array(starts, dtype=np.float64)
        part: _Times = (t - bounds[cycle]) / (bounds[cycle + 1] - bounds[cycle])
        return self.eta_min + (base - self.eta_min) * (1 + np.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class OneCycleLR(Schedule):
    r"""Up from a fraction of the largest rate to it, then down to almost nothing.

    From :math:`\eta_{\max}/d` to :math:`\eta_{\max}`, then to :math:`\eta_{\max}/(d f)`. With
    `T` steps, the peak is at :math:`t = pT - 1` and the end at :math:`t = T - 1`. The optimizer's
    own learning rate is not used. PyTorch's, with ``cycle_momentum=False``: the momentum stays as
    it is.

    Parameters
    ----------
    max_lr : float
        :math:`\eta_{\max} > 0`
    total_steps : int or None, keyword only
        `T`; None is the length of the fit. Beyond it the rate stays (PyTorch raises an error).
    pct_start : float, keyword only, default 0.3
        :math:`p`, between 0 and 1.
    anneal_strategy : {"cos", "linear"}, keyword only
        The form of both parts.
    div_factor : float, keyword only, default 25
        :math:`d`
    final_div_factor : float, keyword only, default 1e4
        :math:`f`
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
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def _check(self) -> None:
        self._real("max_lr", 0, closed="()")
        if self.total_steps is not None:
            self._integer("total_steps")
        self._real("pct_start", 0, 1, "[]")
        _checks.one_of("OneCycleLR: anneal_strategy", self.anneal_strategy, ("cos", "linear"))
        self._real("div_factor", 0, closed="()")
        self._real("final_div_factor", 0, closed="()")

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        end = self._duration("total_steps", total) - 1.0
        peak = min(max(self.pct_start * (end + 1) - 1, 0.0), end)
        first, last = self.max_lr / self.div_factor, self.max_lr / self.div_factor
        last /= self.final_div_factor
        up = np.clip(t / peak if peak > 0 else np.ones_like(t), 0, 1)
        down = np.clip((t - peak) / (end - peak) if end > peak else np.zeros_like(t), 0, 1)
        if self.anneal_strategy == "cos":
            up, down = (1 - np.cos(math.pi * up)) / 2, (1 - np.cos(math.pi * down)) / 2
        rising = first + (self.max_lr - first) * up
        return np.where(t <= peak, rising, self.max_lr + (last - self.max_lr) * down)


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    r"""A straight line from :math:`s\,\eta_0` to :math:`\eta_0` in `T` steps, then `then`.

    Parameters
    ----------
    warmup_steps : int
        `T`; the full rate is reached at :math:`t = T`.
    then : Schedule, optional
        Begins at `T` with its own :math:`t = 0`; by default the rate stays :math:`\eta_0`. A length
        that it leaves out is what remains of the fit.
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
        """Whether a duration was left out, and is that of each fit."""
        return self.then is not None and self.then.is_open

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        rise = self.start_factor + (1 - self.start_factor) * t / self.warmup_steps
        after = np.maximum(t - self.warmup_steps, 0)
        level = np.full_like(t, base)
        if self.then is not None:
            rest = None if total is None else max(total - self.warmup_steps, 1)
            level = self.then._rates(after, base, rest)
        return np.where(t < self.warmup_steps, base * rise, level)


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    r"""A line up from 0, a plateau at :math:`\eta_0`, and a fall to :math:`m\,\eta_0` at the end.

    Parameters
    ----------
    warmup_steps : int
        Length of the rise, 0 or more.
    decay_steps : int
        Length of the fall, 1 or more.
    total_steps : int or None, default None
        Length of all three; None is the length of the fit.
    decay : {"linear", "cosine", "1-sqrt"}, keyword only
        With the part `x` of the fall that is over, the rate is :math:`1 - x`,
        :math:`(1 + \cos \pi x)/2` or :math:`1 - \sqrt{x}` of the way from the end to the plateau.
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
    decay: str = "linear"
    min_factor: float = 0.0

    def _check(self) -> None:
        self._integer("warmup_steps", 0)
        self._integer("decay_steps")
        _checks.one_of("WarmupStableDecay: decay", self.decay, ("linear", "cosine", "1-sqrt"))
        self._real("min_factor", 0, 1, "[]")
        if self.total_steps is not None:
            self._integer("total_steps", self.warmup_steps + self.decay_steps)

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        end = self._duration("total_steps", total)
        if end < self.warmup_steps + self.decay_steps:
            raise ArgumentError(
                f"WarmupStableDecay: {self.warmup_steps} steps of warm-up and {self.decay_steps} "
                f"of decay are more than the {end} steps that there are"
            )
        rise = (
            np.minimum(t / max(self.warmup_steps, 1), 1) if self.warmup_steps else np.ones_like(t)
        )
        x = np.clip((t - (end - self.decay_steps)) / self.decay_steps, 0, 1)
        left = {
            "linear": 1 - x,
            "cosine": (1 + np.cos(math.pi * x)) / 2,
            "1-sqrt": 1 - np.sqrt(x),
        }[self.decay]
        return base * rise * (self.min_factor + (1 - self.min_factor) * left)


@dataclass(frozen=True)
class SequentialLR(Schedule):
    """Several schedules one after another, each with its own beginning.

    Parameters
    ----------
    schedulers : sequence of Schedule
        In their order; all count the same (steps or epochs).
    milestones : sequence of int
        When the second, third ... begin; one fewer than schedules, rising.
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    schedulers: Sequence[Schedule]
    milestones: Sequence[int]

    def _check(self) -> None:
        parts = _checks.sequence("SequentialLR: schedulers", self.schedulers)
        _expect_schedules("SequentialLR: schedulers", parts, self.per)
        given = _checks.sequence("SequentialLR: milestones", self.milestones)
        times = tuple(_checks.integer("SequentialLR: a milestone", m, 1) for m in given)
        rising = all(a < b for a, b in itertools.pairwise(times))
        if len(times) != len(self.schedulers) - 1 or not rising:
            raise ArgumentError(
                "SequentialLR: milestones must be rising and one fewer than schedulers; got "
                f"{list(times)} for {len(self.schedulers)} schedulers"
            )
        object.__setattr__(self, "schedulers", tuple(self.schedulers))
        object.__setattr__(self, "milestones", times)

    @property
    def is_open(self) -> bool:
        """Whether a duration was left out, and is that of each fit."""
        return self.schedulers[-1].is_open  # milestones are the lengths of the others

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        starts = (0, *self.milestones)
        ends = (*self.milestones, total)
        rates = np.empty_like(t)
        for schedule, start, end in zip(self.schedulers, starts, ends, strict=True):
            length = None if end is None else max(end - start, 1)
            part = t >= start
            rates[part] = schedule._rates(t[part] - start, base, length)
        return rates


@dataclass(frozen=True)
class LambdaLR(Schedule):
    r""":math:`\eta_0\,f(t)` with a function of the user's.

    Parameters
    ----------
    lr_lambda : callable
        `f`, from an int to a float that is 0 or more.
    per : {"step", "epoch"}, keyword only
        What `t` counts.
    """

    lr_lambda: Callable[[int], float]

    def _check(self) -> None:
        if not callable(self.lr_lambda):
            raise ArgumentError(f"LambdaLR: lr_lambda must be callable; got {self.lr_lambda!r}")

    def _rates(self, t: _Times, base: float, total: int | None) -> _Times:
        factors = [_checks.real(f"lr_lambda({int(i)})", self.lr_lambda(int(i)), 0) for i in t]
        return base * np.array(factors)


@dataclass(frozen=True)
class ReduceLROnPlateau:
    """Lowers the rate when a figure of the training has stopped getting better.

    This one looks at the history instead of the time, at the end of every epoch of
    `thalweg.Trainer.fit`: after more than `patience` epochs without a better figure the rate is
    multiplied by `factor`.

    Parameters
    ----------
    mode : {"min", "max"}
        Whether smaller or larger is better.
    factor : float, default 0.1
        Below 1.
    patience : int, default 10
        Epochs without improvement that are let pass.
    threshold : float, default 1e-4
        What counts as better: in ``"rel"`` mode by this part of the best figure, in ``"abs"`` mode
        by this much.
    threshold_mode : {"rel", "abs"}
        See `threshold`.
    cooldown : int, default 0
        Epochs after a reduction in which none are counted.
    min_lr : float, default 0
        The rate is not made smaller than this.
    eps : float, default 1e-8
        A change of the rate by less than this is not made.
    monitor : str, keyword only, default "val_loss"
        A key of `thalweg.History`. (PyTorch is given the figure in each call.)

    Raises
    ------
    ArgumentError
        If an argument is out of range; in a fit, if there is no such figure.
    """

    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    _: KW_ONLY
    monitor: str = "val_loss"

    def __post_init__(self) -> None:
        name = "ReduceLROnPlateau: "
        if not isinstance(self.monitor, str):
            raise ArgumentError(f"{name}monitor must be a key of History; got {self.monitor!r}")
        _checks.one_of(name + "mode", self.mode, ("min", "max"))
        _checks.real(name + "factor", self.factor, 0, 1)
        _checks.integer(name + "patience", self.patience, 0)
        _checks.real(name + "threshold", self.threshold, 0)
        _checks.one_of(name + "threshold_mode", self.threshold_mode, ("rel", "abs"))
        _checks.integer(name + "cooldown", self.cooldown, 0)
        _checks.real(name + "min_lr", self.min_lr, 0)
        _checks.real(name + "eps", self.eps, 0)

    def start(self) -> dict[str, Any]:
        """Give the state before the first epoch: plain numbers, which `update` moves on."""
        return {"best": None, "bad": 0, "cooldown": 0}

    def update(self, state: dict[str, Any], figure: float, lr: float) -> float:
        """Look at an epoch's figure; change the state, and give the rate for the next epoch."""
        best = state["best"]
        if best is None or self._is_better(figure, best):
            state["best"], state["bad"] = figure, 0
        else:
            state["bad"] += 1
        if state["cooldown"] > 0:
            state["cooldown"] -= 1
            state["bad"] = 0
        if state["bad"] > self.patience:
            state["bad"], state["cooldown"] = 0, self.cooldown
            lower = max(lr * self.factor, self.min_lr)
            return lower if lr - lower > self.eps else lr
        return lr

    def _is_better(self, figure: float, best: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        margin = self.threshold * (best if self.threshold_mode == "rel" else 1)
        return sign * figure < sign * best - margin


def _expect_schedules(name: str, schedules: Sequence[Any], per: str) -> None:
    """Raise unless all are functions of the same time."""
    if not schedules:
        raise ArgumentError(f"{name} must not be empty")
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise ArgumentError(
                f"{name}: {schedule!r} is not a schedule that depends on time alone"
            )
        if schedule.per != per:
            raise ArgumentError(
                f'{name}: {schedule!r} counts per "{schedule.per}", the whole per "{per}"; '
                "they must count the same"
            )
