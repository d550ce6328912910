"""Quadratic penalties that pull parameters back: the base class, `L2` and `L2Init`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Targets
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg._trainer._penalties import Penalty
from thalweg._warn import warn
from thalweg.continual import _protocol
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import DivergedError, UnsupportedError
from thalweg.nn import CrossEntropyLoss
from thalweg.optim import SGD

Flat = npt.NDArray[np.float64]

#: Below this share of the loss, a warning says that a penalty hardly matters.
NEGLIGIBLE = 1e-4
#: How many of the latest `Quadratic.ratios` are kept.
LATEST = 1000


class Quadratic(Strategy):
    """Common base: one penalty s/2 sum A (theta - a)^2, to which `_add` adds others.

    The sum of several tasks' penalties is one penalty, with the sum of their importances and the
    mean of their anchors weighted by importance; so memory does not grow with the number of tasks.
    The trainer adds to it those of strategies inside and outside, and that of its `set_penalty`.
    """

    gathers: tuple[str, ...] = ("_importance", "_anchor", "ratios", "_stepped", "strength")
    _by_parameter: tuple[str, ...] = ("_importance", "_anchor")
    _does: tuple[str, ...] = ("penalty", "importance")

    def __init__(self, inner: Trainer | Strategy, strength: float) -> None:
        super().__init__(inner)
        self.trainer._elementary("penalty")  # refuse trainers without penalties before training
        self._strength = _checks.real("strength", strength, 0)
        #: Where its penalty is among the trainer's.
        self._place = len(_protocol.inside(self))
        #: Converts the formula's strength to that of the trainer's penalty, which has a factor 1/2.
        self._factor = 1.0
        #: Penalty over loss, at the end of each of the latest thousand parts of tasks in which
        #: there was a penalty. A part is one call of `learn`, which some strategies make for every
        #: step, or all consecutive calls of `step`.
        self.ratios: list[float] = []
        #: The sum of the losses in a part that consists of calls of `step`, and their number.
        self._stepped: list[float] = [0.0, 0]
        self._importance: Flat | None = None
        self._anchor: Flat | None = None
        self._told_of_steps_by_hand = self._told_of_rate = False

    @property
    def strength(self) -> float:
        """How much the penalty counts; a new value applies from the next step on, and is saved."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        value = _checks.real("strength", value, 0)
        if self._importance is None:
            self._strength = value
        else:
            self._set(self._importance, self._anchor, value)

    @property
    def importance(self) -> Flat | None:
        """How much each parameter matters for the tasks so far; None before the first."""
        return self._importance

    @property
    def anchor(self) -> Flat | None:
        """The value that each parameter is pulled to."""
        return self._anchor

    def _check(self, task: Task) -> None:
        self._check_mine()
        super()._check(task)

    def _check_end(self, task: Task) -> None:
        self._check_mine()
        super()._check_end(task)

    def _check_mine(self) -> None:
        """Refuse a trainer on which this strategy's penalty is not the one that it set."""
        there = self.trainer._penalties.terms.get(self._place)
        mine = self._mine(self._importance, self._anchor, self._strength)
        same = there is None and mine is None
        if there is not None and mine is not None:
            parts: Any = zip(there, mine, strict=True)
            same = all(np.array_equal(one, other) for one, other in parts)
        coupled = self.trainer._elementary("penalty").has_coupled_penalty()
        if not same or coupled != self._couples():
            raise UnsupportedError(
                f"the trainer's penalty is not the one of this {type(self).__name__}: another"
                " strategy around the same trainer has set its own, or set_penalty(None) has"
                " removed it. Use another trainer, or call trainer.set_penalty(None) before the"
                " first task"
            )

    def _couples(self) -> bool:
        """Whether it has set a penalty that couples parameters."""
        return False

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        self._set(self._importance, self._anchor)  # a strategy inside may have ended all of them
        self._stepped = [0.0, 0]
        self._warn_of_rate()

    def _learn(self, task: Task, **options: Any) -> History:
        self._end_of_steps()
        by_hand = self.trainer.optimizer._by_hand.steps
        try:
            history = super()._learn(task, **options)
        except DivergedError as error:
            self._note_curvature(error)
            raise
        if self.trainer.optimizer._by_hand.steps > by_hand and "penalty" not in history:
            self._warn_of_steps_by_hand()
        elif self._importance is not None and "loss" in history:
            penalty = history["penalty"][-1] if "penalty" in history else self.trainer.penalty
            self._record(penalty, history["loss"][-1])
        return history

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step on a batch of a stream, or of a task; see `Strategy.step`."""
        try:
            loss = super().step(x, y)
        except DivergedError as error:
            self._note_curvature(error)
            raise
        if self._begun is not None and self._importance is not None:
            self._stepped[0] += loss
            self._stepped[1] += 1
        return loss

    def _note_curvature(self, error: DivergedError) -> None:
        """Add to an error above which rate the penalty alone diverges."""
        if (most := self._curvature()) > 0:
            error.add_note(f"The {self._diverging(most)}.")

    def _warn_of_rate(self) -> None:
        """Warn if plain gradient descent with the penalty alone would diverge."""
        trainer, optimizer = self.trainer, self.trainer.optimizer
        plain = type(optimizer) is SGD and not optimizer._arguments["momentum"]
        # With rates that vary, limits of gradients, or parameters that are held, it may converge.
        changed = (trainer._schedule, trainer._clip_norm, trainer._clip_value, optimizer._groups)
        if self._told_of_rate or not plain or any(changed) or "part" in self._among:
            return
        if optimizer.lr * (most := self._curvature()) > 2:
            self._told_of_rate = True
            warn(f"the learning rate is {optimizer.lr:g}, but the {self._diverging(most)}")

    def _curvature(self) -> float:
        """Return the largest curvature of the penalty along a parameter."""
        found = self.importance
        return 0.0 if found is None else self._factor * self.strength * float(found.max())

    def _diverging(self, curvature: float) -> str:
        return (
            f"penalty of {type(self).__name__} has a curvature of up to {curvature:.1e}: with it,"
            f" plain gradient descent diverges above a learning rate of {2 / curvature:.1e}. Use a"
            " smaller strength or learning rate, or an adaptive optimizer such as optim.Adam"
        )

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        self._ready_to_end(task)
        self._end_of_steps()
        self._check_ratio(task)
        super().end(task)

    def _end_of_steps(self) -> None:
        """Record the ratio for a part of a task that was learned by `step`."""
        total, count = self._stepped
        if count:
            self._record(self.trainer.penalty, total / count)
            self._stepped = [0.0, 0]

    def _record(self, penalty: float, loss: float) -> None:
        """Record the ratio of penalty to loss for a part of a task; `penalty` is the trainer's."""
        if not math.isfinite(penalty):
            error = DivergedError(
                f"the penalty became {penalty} after {self.trainer.optimizer.steps} optimizer"
                " steps, although weights and loss are finite: the weights are far from its anchor"
            )
            self._note_curvature(error)
            raise error
        if loss:
            self.ratios.append(self._share(penalty) / abs(loss))
            del self.ratios[:-LATEST]

    def _share(self, penalty: float) -> float:
        """Return what this strategy's penalty is of the trainer's."""
        together = self.trainer._penalties
        if [*together.terms] == [self._place]:
            return penalty
        return together.value(self._place, self.trainer.model.flat_parameters)

    def _check_ratio(self, task: Task) -> None:
        """Warn if the penalty hardly mattered in a task; overridden by `Consolidating`."""

    def _warn_of_steps_by_hand(self) -> None:
        if self._told_of_steps_by_hand or not self.trainer.penalty:
            return
        self._told_of_steps_by_hand = True
        warn(
            f"a strategy inside {type(self).__name__} calls optimizer.step, which ignores the"
            " penalty: call trainer.update, which includes it; or, if your gradients include it"
            ' already, let learn return "penalty": trainer.penalty among its figures',
        )

    def _parameters(self) -> Flat:
        return self.trainer.model.flat_parameters.astype(np.float64)

    def _add(self, importance: Flat, theta: Flat) -> None:
        """Add the penalty of a task."""
        if self._importance is None or self._anchor is None:
            self._set(importance, theta)
            return
        total = self._importance + importance
        pulled = np.where(total == 0, 1, total)
        weight = np.where(total == 0, 1, importance / pulled)
        self._set(total, self._anchor + weight * (theta - self._anchor))

    def _set(
        self, importance: Flat | None, anchor: Flat | None, strength: float | None = None
    ) -> None:
        """Set the penalty, here and in the trainer, which Ctrl-C does not separate."""
        if strength is None:
            strength = self._strength
        mine = {"_importance": importance, "_anchor": anchor, "_strength": strength}
        self.trainer._pull(
            self._place,
            self._mine(importance, anchor, strength),
            partial(vars(self).update, mine),
            *self._more(anchor, strength),
        )

    def _more(self, anchor: Flat | None, strength: float) -> list[Callable[[], None]]:
        """Return what else has to be set in the core."""
        return []

    def _mine(
        self, importance: Flat | None, anchor: Flat | None, strength: float
    ) -> Penalty | None:
        """Return the components of the trainer's penalty; its importances may be negative."""
        if importance is None or anchor is None:
            return None
        dtype = self.trainer.model.dtype
        return (
            _copied(importance, dtype, "importance"),
            _copied(anchor, dtype, "anchor"),
            self._factor * strength,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        super().load_state_dict(state)
        self._set(self._importance, self._anchor)


def _copied(values: Flat, dtype: Any, name: str) -> Any:
    """Return a copy of numbers, in a dtype."""
    found = _arrays.as_dtype(values, dtype, name)
    return found.copy() if found is values else found


class Consolidating(Quadratic):
    """Base of those that preserve what was learned: they warn where that cannot help."""

    gathers: tuple[str, ...] = ("_seen",)

    def __init__(self, inner: Trainer | Strategy, strength: float) -> None:
        super().__init__(inner, strength)
        self._seen: list[int] = []  # classes of the tasks so far
        self._told = False

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        loss, seen = self.trainer.loss, set(self._seen)
        new = set(task.classes or ()) - seen
        if (
            seen
            and new
            and not self._told
            and "replays" not in self._among
            and isinstance(loss, CrossEntropyLoss)
            and loss.heads is None
            and (loss.active is None or seen & set(loss.active))
        ):
            self._told = True
            warn(
                f"task {task.index} brings new classes {sorted(new)} that compete with those of"
                f" earlier tasks: {type(self).__name__} preserves weights, but nothing teaches the"
                " network to tell old classes from new ones, and accuracy falls to that of the"
                " latest task (about 20 % on split MNIST, in every publication). Replay earlier"
                ' samples, e.g. with Replay, or use kind="task" with one head for each task',
            )

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        super().end(task)
        self._seen = sorted({*self._seen, *(task.classes or ())})  # a failed task teaches nothing

    def _preserves(self) -> bool:
        return self._importance is not None

    def _waits(self) -> bool:
        return self._importance is None

    def _check_ratio(self, task: Task) -> None:
        warn_if_negligible(self, task, self._why_negligible)

    def _why_negligible(self) -> str:
        """Return why a penalty is negligible."""
        found = self.importance
        mean = 0.0 if found is None else float(found.mean())
        return (
            f"strength={self.strength:g} is too small for importances of this size"
            f" (mean {mean:.1e}{self._kind()})"
        )

    def _kind(self) -> str:
        """Return more about importances that are too small, for the warning."""
        return ""


def warn_if_negligible(strategy: Any, task: Task, why: Callable[[], str]) -> None:
    """Warn if a strategy's penalty hardly mattered in a task, by its `strength` and `ratios`."""
    if strategy.ratios and strategy.strength > 0 and 0 <= strategy.ratios[-1] < NEGLIGIBLE:
        warn(
            f"the penalty of {type(strategy).__name__} was {strategy.ratios[-1]:.1e} of the loss at"
            f" the end of task {task.index}, less than {NEGLIGIBLE:g}: if earlier tasks are"
            f" forgotten, {why()}",
        )


class L2(Consolidating):
    r"""Preserves all parameters equally: the baseline that shows what importances are worth.

    .. math:: \frac{\lambda}{2} \lVert \theta - \theta^* \rVert^2

    with the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. Hsu et al., whose baseline it is, omit the factor ½.

    References
    ----------
    Y.-C. Hsu, Y.-C. Liu, A. Ramasamy and Z. Kira, "Re-evaluating continual learning scenarios",
    2018, arXiv:1810.12488.
    """

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        super().end(task)
        theta = self._parameters()
        self._set(np.ones_like(theta), theta)


class L2Init(Quadratic):
    r"""Pulls all parameters to their initial values, so that the network stays able to learn.

    .. math:: \frac{\lambda}{2} \lVert \theta - \theta_0 \rVert^2

    with the parameters before the first task or, on a stream, the first step.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`; the publication omits the factor ½.

    References
    ----------
    S. Kumar, H. Marklund and B. Van Roy, "Maintaining plasticity in continual learning via
    regenerative regularization", 2023, arXiv:2308.11958.
    """

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        if self._anchor is None:
            self._pull_to(self._parameters())

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step on a batch of a stream, or of a task; see `Strategy.step`."""
        if self._anchor is not None:
            return super().step(x, y)
        self._check_mine()
        before = self._parameters()
        loss = super().step(x, y)  # first: the penalty would be 0 yet, and the step may be refused
        self._pull_to(before)
        return loss

    def _pull_to(self, theta: Flat) -> None:
        self._set(np.ones_like(theta), theta)
