"""Pulling parameters back to where they were: the base, and what keeps all of them alike."""

from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import DivergedError, ShapeError, UnsupportedError
from thalweg.nn import CrossEntropyLoss

Flat = npt.NDArray[np.float64]

#: Below this share of the loss, a penalty is reported as one that hardly matters.
NEGLIGIBLE = 1e-4
#: So many of the latest `Quadratic.ratios` are kept.
LATEST = 1000


class Quadratic(Strategy):
    """What they share: one penalty s/2 sum A (theta - a)^2, which `_add` makes stronger.

    Several tasks' penalties are one, with the sum of their importances and the mean of their
    anchors in those weights; so the memory does not grow with the number of tasks.
    """

    gathers: tuple[str, ...] = ("_importance", "_anchor", "ratios")
    _does: tuple[str, ...] = ("penalty", "importance")

    def __init__(self, inner: "Trainer | Strategy", strength: float) -> None:
        super().__init__(inner)
        self.trainer._elementary("penalty")  # what there is none for is refused before it trains
        self._strength = _checks.real("strength", strength, 0)
        #: What the formula's strength is, in terms of the half that the trainer's penalty has.
        self._factor = 1.0
        #: Penalty over loss, at the end of each part of a task in which there was a penalty: of the
        #: latest thousand parts. A part is one call of `learn`, which some strategies make for
        #: every step.
        self.ratios: list[float] = []
        self._importance: Flat | None = None
        self._anchor: Flat | None = None
        self._told_of_steps_by_hand = False

    @property
    def strength(self) -> float:
        """How much the penalty counts; what is set counts at once, from the next step on."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = _checks.real("strength", value, 0)
        if self._importance is not None:
            self._set(self._importance, self._anchor)

    @property
    def importance(self) -> Flat | None:
        """How much each parameter matters for the tasks so far; None before the first."""
        return self._importance

    @property
    def anchor(self) -> Flat | None:
        """Where each parameter is pulled to."""
        return self._anchor

    def _check(self, task: Task) -> None:
        self._check_sole()
        super()._check(task)

    def _check_sole(self) -> None:
        """Refuse a trainer whose penalty is another's than the one that was set."""
        there, mine = self.trainer._elementary("penalty").penalty(), self._mine()
        same = there is None and mine is None
        if there is not None and mine is not None:
            same = all(np.array_equal(one, other) for one, other in zip(there, mine, strict=True))
        if not same:
            raise UnsupportedError(
                f"the trainer's penalty is not the one of this {type(self).__name__}: a trainer has"
                " one, and another strategy around it, or set_penalty, has changed it. Take another"
                " trainer, or trainer.set_penalty(None) before the first task"
            )

    def _learn(self, task: Task, **options: Any) -> History:
        by_hand = self.trainer.optimizer._steps_by_hand
        try:
            history = super()._learn(task, **options)
        except DivergedError as error:
            if self._importance is not None:
                most = self._factor * self.strength * float(self._importance.max())
                rate = 2 / (most or np.inf)
                error.add_note(
                    f"The penalty of {type(self).__name__} curves by up to {most:.1e}: on it, plain"
                    f" gradient descent diverges above a rate of {rate:.1e}. Take a smaller"
                    " strength or rate, or an optimizer that scales, as optim.Adam."
                )
            raise
        loss = abs(history["loss"][-1]) if "loss" in history else 0
        if self._importance is not None and "penalty" in history and loss:
            self.ratios.append(history["penalty"][-1] / loss)
            del self.ratios[:-LATEST]
        if self.trainer.optimizer._steps_by_hand > by_hand and "penalty" not in history:
            self._warn_of_steps_by_hand()
        return history

    def _warn_of_steps_by_hand(self) -> None:
        if self._told_of_steps_by_hand or not self.trainer.penalty:
            return
        self._told_of_steps_by_hand = True
        warn(
            f"a strategy inside of {type(self).__name__} calls optimizer.step, which knows of no"
            " penalty: call trainer.update, which does; or, if its gradient is among yours, give"
            ' "penalty": trainer.penalty with the figures of learn',
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

    def _set(self, importance: Flat | None, anchor: Flat | None) -> None:
        self._importance, self._anchor = importance, anchor
        mine = self._mine()
        if mine is None:
            self.trainer.set_penalty(None)
        else:
            self.trainer._pull(*mine)

    def _mine(self) -> tuple[Any, Any, float] | None:
        """Give what the trainer's penalty is made of; its importances may be negative."""
        if self._importance is None or self._anchor is None:
            return None
        dtype = self.trainer.model.dtype
        importance, anchor = self._importance.astype(dtype), self._anchor.astype(dtype)
        return importance, anchor, self._factor * self.strength

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self._set(self._importance, self._anchor)

    def _check_state(self, state: Any) -> None:
        super()._check_state(state)
        for name in ("importance", "anchor"):
            shape, count = np.shape(state[name]), self.trainer.model.num_parameters
            if state[name] is not None and shape != (count,):
                raise ShapeError(
                    f"this is the {name} of a model with {shape} parameters, and this"
                    f" {type(self).__name__} is of one with {count}"
                )


class Consolidating(Quadratic):
    """Those that hold on to what was learned: they say so where that cannot help."""

    gathers: tuple[str, ...] = ("_seen",)

    def __init__(self, inner: "Trainer | Strategy", strength: float) -> None:
        super().__init__(inner, strength)
        self._seen: list[int] = []  # classes of the tasks so far
        self._told = self._told_of_averages = False

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        loss, seen = self.trainer.loss, set(self._seen)
        new = set(task.classes or ()) - seen
        if (
            seen
            and new
            and not self._told
            and not self._rehearses
            and isinstance(loss, CrossEntropyLoss)
            and loss.heads is None
            and (loss.active is None or seen & set(loss.active))
        ):
            self._told = True
            warn(
                f"task {task.index} brings new classes {sorted(new)} that compete with those of "
                f"earlier tasks: {type(self).__name__} keeps weights, but nothing tells old classes"
                " from new ones, and accuracy falls to that of the latest task (about 20 % on split"
                " MNIST, in every publication). Replay of earlier samples is what helps; or let the"
                " task be known (one head for each task)",
            )
        self._seen = sorted(seen | new)

        if self._importance is not None and not self._told_of_averages and self._has_averages():
            self._told_of_averages = True
            warn(
                "the running averages of nn.BatchNorm1d go on with every task, and no penalty holds"
                f" them: what the model gives for earlier tasks changes even where"
                f" {type(self).__name__} keeps all weights. nn.LayerNorm has none",
            )

    def _has_averages(self) -> bool:
        return any("running_" in name for name in self.trainer.model.state_dict())

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        if self.ratios and self.strength > 0 and 0 <= self.ratios[-1] < NEGLIGIBLE:
            mean = 0.0 if self._importance is None else float(self._importance.mean())
            warn(
                f"the penalty of {type(self).__name__} was {self.ratios[-1]:.1e} of the loss at the"
                f" end of task {task.index}, less than {NEGLIGIBLE:g}: if earlier tasks are being"
                f" forgotten, strength={self.strength:g} is too small for importances of this size"
                f" (the mean is {mean:.1e}{self._kind()})",
            )
        super().end(task)

    def _kind(self) -> str:
        """Say more about importances that are too small."""
        return ""


class L2(Consolidating):
    r"""Every parameter is kept alike: what importances are worth is seen beside this.

    .. math:: \frac{\lambda}{2} \lVert \theta - \theta^* \rVert^2

    with the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. Hsu et al., whose baseline it is, leave the half out.

    References
    ----------
    Y.-C. Hsu, Y.-C. Liu, A. Ramasamy and Z. Kira, "Re-evaluating continual learning scenarios",
    2018, arXiv:1810.12488.
    """

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        super().end(task)
        theta = self._parameters()
        self._set(np.ones_like(theta), theta)


class L2Init(Quadratic):
    r"""Pulls all parameters to where they began, so that the network stays able to learn.

    .. math:: \frac{\lambda}{2} \lVert \theta - \theta_0 \rVert^2

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`; the publication leaves the half out.

    References
    ----------
    S. Kumar, H. Marklund and B. Van Roy, "Maintaining plasticity in continual learning via
    regenerative regularization", 2023, arXiv:2308.11958.
    """

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        if self._anchor is None:
            theta = self._parameters()
            self._set(np.ones_like(theta), theta)
