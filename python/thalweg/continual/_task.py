"""What is learned: tasks, and sequences of them."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg import _checks
from thalweg.errors import ArgumentError, ShapeError

#: What may be known when a sample is judged.
KINDS = ("task", "domain", "class")


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        # Not the arrays: a task stands in errors, and a data set would bury what they say.
        classes = "" if self.classes is None else f", classes={self.classes}"
        rows, others = (len(y) if hasattr(y, "__len__") else "no" for y in (self.y, self.y_test))
        return f"<Task {self.index} {self.name!r}: {rows} rows, {others} held out{classes}>"

    def with_data(
        self, x: Any, y: Any, sample_weight: Any = None, classes: Iterable[int] | None = None
    ) -> "Task":
        """Give this task with other data to learn, and if they have others, of these classes."""
        found = self.classes
        if classes is not None and found is not None:
            found = tuple(sorted({int(label) for label in classes}))
        same = self.x_test, self.y_test, self.index, self.name
        return Task(x, y, *same, found, sample_weight, self.active)


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


def not_begun(task: Task, what: str) -> ArgumentError:
    """Make the error of what a strategy is asked for before it has got ready for a task."""
    return ArgumentError(f"task {task.index} {what}, but has not begun: call begin first")


def check_rows(task: Task, place: int) -> None:
    """Refuse a task without rows, or whose samples and targets are not as many.

    Raises
    ------
    ShapeError
        If it is such a one.
    """
    if isinstance(task, Transformed):  # which is made of one that was looked at
        return
    for x_name, y_name in (("x", "y"), ("x_test", "y_test")):
        counts = []
        for name in (x_name, y_name):
            value = getattr(task, name)
            if not hasattr(value, "__len__"):
                raise ShapeError(
                    f"tasks[{place}].{name} must be an array with a row for each sample; got "
                    f"{_checks.given(value)}"
                )
            counts.append(len(value))
        if counts[0] != counts[1] or not counts[0]:
            raise ShapeError(
                f"tasks[{place}].{x_name} has {counts[0]} rows but {y_name} has {counts[1]}; they "
                "must have as many, at least 1"
            )


def _placed(task: Task, place: int) -> Task:
    """Give a task that knows its place, and has a name."""
    if task.index == place and task.name:
        return task
    other = copy.copy(task)
    object.__setattr__(other, "index", place)
    object.__setattr__(other, "name", task.name or f"task {place + 1}")
    return other


@dataclass(frozen=True, eq=False, repr=False)
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
    ShapeError
        If a task has no rows, or not as many targets as samples.

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
            check_rows(task, place)
        if not tasks:
            raise ArgumentError("a scenario needs at least one task")
        numbered = tuple(_placed(task, place) for place, task in enumerate(tasks))
        object.__setattr__(self, "tasks", numbered)

    def __repr__(self) -> str:
        tasks = "".join(f"\n  {task!r}" for task in self.tasks)
        return f"<Scenario of kind {self.kind!r}, {len(self)} tasks:{tasks}\n>"

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
