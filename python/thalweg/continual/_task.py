"""What is learned: tasks, and sequences of them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg import _checks
from thalweg.errors import ArgumentError

#: What may be known when a sample is judged.
KINDS = ("task", "domain", "class")


@dataclass(frozen=True, eq=False)
class Task:
    """Data that come together: something to learn, and something to be judged by.

    Parameters
    ----------
    x, y : array_like
        What is learned, as `Trainer.fit` takes it.
    x_test, y_test : array_like
        What it is judged by.
    index : int
        Its place in the scenario, from 0.
    name : str
        For tables and pictures.
    classes : tuple of int or None
        The labels that occur in it; None in regression.
    sample_weight : array_like, shape (n,), optional
        How much each sample counts in its batch, as `Trainer.fit` takes it.
    active : tuple of int, optional
        The classes that compete while it is learned, for ``nn.CrossEntropyLoss(active=...)``; None
        leaves the loss as it is.
    """

    x: Any
    y: Any
    x_test: Any
    y_test: Any
    index: int = 0
    name: str = ""
    classes: tuple[int, ...] | None = None
    sample_weight: Any = None
    active: tuple[int, ...] | None = None

    def with_data(self, x: Any, y: Any, sample_weight: Any = None) -> "Task":
        """Give this task with other data to learn."""
        same = self.x_test, self.y_test, self.index, self.name, self.classes
        return Task(x, y, *same, sample_weight, self.active)


class Transformed(Task):
    """A task whose samples are those of another, changed by a function whenever they are asked for.

    So ten permutations of a data set need the memory of one.
    """

    def __init__(self, base: Task, transform: Callable[[Any], Any], index: int, name: str) -> None:
        values = {"y": base.y, "y_test": base.y_test, "index": index, "name": name}
        values |= {"classes": base.classes, "active": base.active}
        values |= {"sample_weight": base.sample_weight}
        self.__dict__.update(values, _base=base, _transform=transform)

    @property
    def x(self) -> Any:
        """The samples to learn."""
        return self.__dict__["_transform"](self.__dict__["_base"].x)

    @property
    def x_test(self) -> Any:
        """The samples to be judged by."""
        return self.__dict__["_transform"](self.__dict__["_base"].x_test)


def _placed(task: Task, place: int) -> Task:
    """Give a task that knows its place, and has a name."""
    if task.index == place and task.name:
        return task
    other = copy.copy(task)
    object.__setattr__(other, "index", place)
    object.__setattr__(other, "name", task.name or f"task {place + 1}")
    return other


@dataclass(frozen=True, eq=False)
class Scenario(Sequence[Task]):
    """Tasks in their order.

    Parameters
    ----------
    tasks : sequence of Task
        The tasks.
    kind : str
        What is known when a sample is judged: ``"task"`` (which task it is from, so that only that
        task's outputs compete), ``"domain"`` (all tasks share the outputs) or ``"class"`` (all
        classes seen so far compete, also while they are learned: `Task.active`).

    Raises
    ------
    ArgumentError
        If there is no task, something is none, or there is no such kind.

    Notes
    -----
    Tasks are numbered by their places here, whatever numbers they came with.
    """

    tasks: tuple[Task, ...]
    kind: str = "domain"

    def __post_init__(self) -> None:
        _checks.one_of("kind", self.kind, KINDS)
        tasks = tuple(self.tasks)
        for place, task in enumerate(tasks):
            if not isinstance(task, Task):
                raise ArgumentError(f"tasks[{place}] must be a Task; got {type(task).__name__}")
        if not tasks:
            raise ArgumentError("a scenario needs at least one task")
        numbered = tuple(_placed(task, place) for place, task in enumerate(tasks))
        object.__setattr__(self, "tasks", numbered)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: Any) -> Any:
        return self.tasks[index]

    @property
    def heads(self) -> tuple[int, ...]:
        """How many outputs belong to each task, for ``nn.CrossEntropyLoss(heads=...)``."""
        return tuple(len(task.classes or ()) for task in self.tasks)

    def competing(self, index: int, learned: int) -> tuple[int, ...] | None:
        """Which outputs compete when task `index` is judged after task `learned` was learned.

        Parameters
        ----------
        index : int
            Of the task that is judged.
        learned : int
            Of the latest task that was learned; -1 if there is none.

        Returns
        -------
        tuple of int or None
            Classes; None means all outputs. With ``kind="class"`` those of a task that lies ahead
            compete too, since nothing of it could be right without them.
        """
        if self.kind == "domain" or self.tasks[index].classes is None:
            return None
        if self.kind == "task":
            return self.tasks[index].classes
        seen = {c for task in self.tasks[: learned + 1] for c in task.classes or ()}
        return tuple(sorted(seen | set(self.tasks[index].classes or ())))
