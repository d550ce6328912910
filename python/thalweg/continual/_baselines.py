"""Baselines for comparison: doing nothing, keeping everything, starting over."""

import dataclasses
from typing import Any

import numpy as np

from thalweg._trainer import Trainer
from thalweg.continual import _protocol
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Changed, Scenario, Task
from thalweg.errors import ArgumentError, UnsupportedError


class Naive(Strategy):
    """Learns one task after another and does nothing against forgetting: the lower bound.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    """


class FromScratch(Strategy):
    """Starts every task with the weights and the optimizer as they were when it was created.

    Like Avalanche's ``FromScratchTraining``. Around `Cumulative`, it trains a fresh network on
    all rows so far whenever a new task arrives. Options of the optimizer that are set later do not
    outlast the beginning of the next task, also of the first: set them before.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.

    Raises
    ------
    ArgumentError
        If `inner` is neither.
    UnsupportedError
        If combined with strategies that depend on the discarded parameters: penalties, `PackNet`,
        `ContinualBackprop`, or around `LwF`; in `step`, outside a task.
    """

    _does = ("restart",)
    _only_in_tasks = "it only acts when a task begins, by resetting the network"

    def __init__(self, inner: Trainer | Strategy) -> None:
        super().__init__(inner)
        self._initial = self.trainer.copy()

    def begin(self, task: Task) -> None:
        """Reset the network and the optimizer to their initial state."""
        self._admit(task)
        self.trainer._become(self._initial)
        super().begin(task)


class Cumulative(Strategy):
    """Learns each task together with all earlier ones: what is possible without a memory limit.

    Every task takes as many steps as with any other strategy, on batches drawn from all rows so
    far.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    scenario : Scenario
        Provides the earlier tasks.

    Raises
    ------
    ArgumentError
        If `scenario` is not a scenario, or a task is not part of it.
    UnsupportedError
        If a subclass overrides `task_to_learn`.
    """

    replays = True
    _does = ("own rows",)
    _only_learns = "it learns the rows of several tasks together"

    def __init__(self, inner: Trainer | Strategy, scenario: Scenario) -> None:
        super().__init__(inner)
        if _protocol.overrides(type(self), "task_to_learn"):
            raise UnsupportedError(
                f"{type(self).__name__} cannot override task_to_learn, by which its base combines"
                " the rows of tasks: choose among the rows of each task instead, with"
                " task.with_data(x, y), and make a scenario of these tasks"
            )
        if not isinstance(scenario, Scenario):
            raise ArgumentError(f"scenario must be a Scenario; got {scenario!r}")
        self.scenario: Scenario = scenario
        self._union: Task | None = None
        self._known: Task | None = None  # the latest that was seen to be of the scenario

    def _check(self, task: Task) -> None:
        if task is not self._union:
            self._check_known(task)
        super()._check(task)

    def begin(self, task: Task) -> None:
        """Combine the rows of the tasks so far."""
        super().begin(self.task_to_learn(task))

    def _sources(self, task: Task) -> list[Task]:
        """Return the tasks whose rows are learned."""
        return list(self.scenario.tasks[: task.index + 1])

    def _check_known(self, task: Task) -> None:
        """Refuse a task of another scenario: its own rows would be left out."""
        if task is self._known:
            return
        if task.index >= len(self.scenario) or not _same(task, self.scenario[task.index]):
            raise ArgumentError(
                f"{task!r} is not in the scenario that {type(self).__name__} was created with, or"
                f" has other rows there. Create {type(self).__name__} with the scenario that is to"
                f" be learned; got {self.scenario!r}"
            )
        self._known = task

    def task_to_learn(self, task: Task) -> Task:
        """Return the task with the rows of all sources; the latest result is cached."""
        self._check_known(task)
        if self._union is None or self._union.index != task.index:
            sources = self._sources(task)
            x, y = (np.concatenate([getattr(t, name) for t in sources]) for name in ("x", "y"))
            weight = None
            if any(t.sample_weight is not None for t in sources):
                weight = np.concatenate(
                    [
                        np.ones(len(t.y)) if t.sample_weight is None else t.sample_weight
                        for t in sources
                    ]
                )
            classes = [label for t in sources for label in t.classes or ()]
            active = dataclasses.replace(task, active=sources[-1].active)
            self._union = active.with_data(x, y, weight, classes)
        return self._union


def _same(one: Task, other: Task) -> bool:
    """Whether two tasks have the same rows to learn."""
    mine, others = one._content(), other._content()
    return all(_equal(mine[name], others[name]) for name in ("x", "y", "sample_weight"))


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Changed) and isinstance(other, Changed):
        return repr(one.change) == repr(other.change) and _equal(one.source, other.source)
    return np.array_equal(*(it.made() if isinstance(it, Changed) else it for it in (one, other)))


class Joint(Cumulative):
    """Learns all tasks of a scenario together from the start: the upper bound.

    It takes as many steps per task as other strategies do, so the last row of the matrix comes
    after as many steps on everything as they took in total.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    scenario : Scenario
        What is learned.

    Raises
    ------
    ArgumentError
        If `scenario` is not a scenario, or a task is not part of it.
    """

    def _sources(self, task: Task) -> list[Task]:
        return list(self.scenario)
