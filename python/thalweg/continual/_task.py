"""What is learned: tasks, and sequences of them."""

import contextlib
import copy
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, SupportsIndex, overload

import numpy as np

from thalweg import _checks
from thalweg._habits import takes
from thalweg.continual._elsewhere import OF_TASKS, Kind, kind_of
from thalweg.continual._incomplete import called
from thalweg.errors import ArgumentError, ShapeError, ThalwegError


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Data that arrive together: samples to learn, and samples to judge by.

    Parameters
    ----------
    x, y : array_like
        What is learned, as `Trainer.fit` takes it.
    x_test, y_test : array_like
        What the task is judged by.
    index : int
        Its position in the scenario, from 0.
    name : str
        For tables and plots.
    classes : tuple of int, optional
        The labels that occur in it. By default, the non-negative ones in `y`, if that has one
        dimension and an integer type; otherwise None, as in regression.
    sample_weight : array_like, shape (n,), optional
        How much each sample counts in its batch, as `Trainer.fit` takes it.
    active : tuple of int or "all", optional
        The classes that compete while the task is learned, for ``nn.CrossEntropyLoss(active=...)``;
        ``"all"`` means all outputs. None, the default, leaves the loss as it is; but a `Scenario`
        with ``kind="class"`` replaces None by the classes so far.

    Raises
    ------
    ArgumentError
        If `index`, `classes` or `active` are not non-negative whole numbers (`active` may be
        ``"all"``), or `name` is not text.
    ShapeError
        If samples and their targets or weights differ in number. Everything else about arrays is
        checked when they are put into a `Scenario`, or learned.
    """

    x: Any
    y: Any
    x_test: Any
    y_test: Any
    index: int = 0
    name: str = ""
    classes: tuple[int, ...] | None = None
    sample_weight: Any = None
    active: "tuple[int, ...] | Literal['all'] | None" = None
    #: Whether its weights are not a task's, but those that a strategy gives to rows of its steps.
    _weighted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        # Bounded, as the numbers of passes are derived from it: see `_batches`.
        index = _checks.integer("index", self.index, 0, (1 << 31) - 1)
        object.__setattr__(self, "index", index)
        if not isinstance(self.name, str):
            raise ArgumentError(f"name must be text; got {_checks.short(self.name)}")
        classes = _numbers("classes", self.classes)
        # In one order, each once: tasks with the same classes share a head.
        object.__setattr__(self, "classes", classes and tuple(sorted({*classes})))
        if not isinstance(self.active, str) or self.active != "all":  # an array, for instance
            object.__setattr__(self, "active", _numbers("active", self.active))
        if not isinstance(self, Transformed):  # made from a task that was checked
            for x, *others in (("x", "y", "sample_weight"), ("x_test", "y_test")):
                for name in others:
                    _expect_same_rows(x, getattr(self, x), name, getattr(self, name))
        if self.classes is None and are_labels(self.y):
            # Negative labels are not outputs: `nn.CrossEntropyLoss(ignore_index=-100)`.
            labels = tuple(int(label) for label in np.unique(self.y) if label >= 0)
            object.__setattr__(self, "classes", labels)

    def __repr__(self) -> str:
        # Without the arrays: tasks appear in error messages, which a data set would bury.
        classes = "" if self.classes is None else f", classes={self.classes}"
        rows, others = (len(y) if hasattr(y, "__len__") else "no" for y in (self.y, self.y_test))
        return f"<Task {self.index} {self.name!r}: {rows} rows, {others} held out{classes}>"

    def with_data(
        self, x: Any, y: Any, sample_weight: Any = None, classes: Iterable[int] | None = None
    ) -> "Task":
        """Return this task with other data to learn, and with `classes` if its classes change.

        Parameters
        ----------
        x, y : array_like
            What is learned, as `Trainer.fit` takes it.
        sample_weight : array_like, shape (n,), optional
            How much each sample counts in its batch; None, the default, weights all alike.
        classes : iterable of int, optional
            The labels that occur in it, of a task that has classes; None keeps those it has.

        Returns
        -------
        Task
        """
        return Task(x, y, self.x_test, self.y_test, **self._others(sample_weight, classes))

    def _others(self, sample_weight: Any, classes: Iterable[int] | None) -> dict[str, Any]:
        """Return the attributes of this task for a copy with other data to learn."""
        found = self.classes
        if classes is not None and found is not None:
            found = tuple(int(label) for label in classes)
        return {
            "index": self.index,
            "name": self.name,
            "classes": found,
            "sample_weight": sample_weight,
            "active": self.active,
        }

    def _row(self) -> Any:
        """Return one row of the samples, which tells their dtype."""
        return np.asarray(self.x)[:1]

    def _content(self) -> dict[str, Any]:
        """Return what identifies its data."""
        names = ("x", "y", "x_test", "y_test", "sample_weight")
        return {name: getattr(self, name) for name in names}


def _numbers(name: str, classes: Any) -> tuple[int, ...] | None:
    """Return classes as plain numbers, if there are any."""
    if classes is None:
        return None
    try:
        found = tuple(map(operator.index, classes))
    except TypeError:
        found = (-1,)
    if min(found, default=0) < 0:
        raise ArgumentError(f"{name} must hold integers >= 0, such as (0, 1); got {classes!r}")
    return found


Task.__init__ = called("Task", OF_TASKS)(Task.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True, eq=False)
class Changed:
    """Samples that are made from others on demand.

    Parameters
    ----------
    source : ndarray
        The samples that they are made from.
    change : callable
        Makes the samples, row by row. Callables that do different things must differ in their
        ``repr``.
    """

    source: Any
    change: Callable[[Any], Any]

    def made(self) -> Any:
        """Make all of them."""
        return self.change(self.source)


#: Samples made for learning, for as long as they are referenced: a task is learned in many parts,
#: but made once for all consecutive ones. The samples of other tasks take no memory.
_MADE: "weakref.WeakValueDictionary[Changed, Any]" = weakref.WeakValueDictionary()


@dataclass(frozen=True, eq=False, repr=False)
class Transformed(Task):
    """A task whose samples are made on demand.

    Ten permutations of a data set therefore need the memory of one.

    Parameters
    ----------
    x_from, x_test_from : Changed or array_like
        What `x` and `x_test` are made from, or the samples themselves.
    """

    x: Any = field(init=False)
    x_test: Any = field(init=False)
    x_from: Any = None
    x_test_from: Any = None

    def __getattr__(self, name: str) -> Any:
        if name not in ("x", "x_test"):
            raise AttributeError(f"a task has no attribute {name!r}", name=name, obj=self)
        of = self.x_from if name == "x" else self.x_test_from
        if not isinstance(of, Changed):
            return of
        made = _MADE.get(of)
        if made is None:
            made = of.made()
            if name == "x":
                _MADE[of] = made
        return made

    def with_data(
        self, x: Any, y: Any, sample_weight: Any = None, classes: Iterable[int] | None = None
    ) -> Task:
        """Return this task with other data to learn; what it is judged by is made on demand."""
        return replace(self, x_from=x, y=y, **self._others(sample_weight, classes))

    def _row(self) -> Any:
        """Return one row of the samples, which tells their dtype."""
        of = self.x_from
        return of.change(of.source[:1]) if isinstance(of, Changed) else np.asarray(of)[:1]

    def _content(self) -> dict[str, Any]:
        """Return what identifies its data."""
        found = {name: getattr(self, name) for name in ("y", "y_test", "sample_weight")}
        return found | {"x": self.x_from, "x_test": self.x_test_from}


def are_labels(y: Any) -> bool:
    """Whether targets are class labels: one-dimensional and of an integer type."""
    try:
        array = np.asarray(y)
    except (TypeError, ValueError):  # reported where the array is read
        return False
    return array.ndim == 1 and array.dtype.kind in "iub"


def counted(loss: Any, x: Any, y: Any, *others: Any) -> tuple[Any, ...]:
    """Return samples, targets and others as arrays, without rows whose label a loss ignores."""
    x, y, *more = (None if rows is None else np.asarray(rows) for rows in (x, y, *others))
    ignored = loss._competition.ignored
    out = y == ignored if ignored is not None and are_labels(y) else np.False_
    if not out.any():
        return x, y, *more
    return tuple(None if rows is None else rows[~out] for rows in (x, y, *more))


def growing(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """Let all classes so far compete while a task is learned, unless its `active` says otherwise.

    If the `active` of any task misses an earlier class, as after reordering tasks, all that name
    classes are set anew.
    """
    seen: set[int] = set()
    made, less = [], False
    for task in tasks:
        if task.classes is None:  # perhaps class probabilities, which do not tell which classes
            return tasks
        seen |= set(task.classes)
        said = isinstance(task.active, tuple)
        less = less or (said and not seen <= set(task.active or ()))
        made.append((task, replaced(task, active=tuple(sorted(seen))), said))
    return tuple(
        new if task.active is None or (said and less) else task for task, new, said in made
    )


def replaced(task: Task, **changes: Any) -> Task:
    """Return a copy of the same type with other values; what is made on demand stays so."""
    other = copy.copy(task)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return other


def not_begun(task: Task, what: str) -> ArgumentError:
    """Make the error for a call that needs `begin` to have been called first."""
    return ArgumentError(
        f"task {task.index} {what}, as it has not begun: call strategy.begin(task) first, as fit"
        " and continual.run do"
    )


@contextlib.contextmanager
def naming(task: Task, what: str) -> Iterator[None]:
    """Add to an error which task it occurred with."""
    try:
        yield
    except ThalwegError as error:
        notes = getattr(error, "__notes__", ())
        if not any(note.startswith("While task ") for note in notes):
            error.add_note(f"While task {task.index} ({task.name!r}) {what}.")
        raise


def _expect_same_rows(x_name: str, x: Any, name: str, array: Any) -> None:
    """Raise if two arguments have rows, but not the same number."""
    rows, others = _rows(x), _rows(array)
    if rows is not None and others is not None and rows != others:
        raise ShapeError(
            f"{x_name} has {rows} rows but {name} has {others}; they must have the same number"
        )


def _rows(array: Any) -> int | None:
    """Return the number of rows, if there are any."""
    if isinstance(array, Mapping):  # of arrays, for a custom loss
        return None
    try:
        return len(array)
    except TypeError:
        return None


def check_rows(task: Task, place: int) -> None:
    """Refuse a task without rows.

    Raises
    ------
    ShapeError
        If the task is such a task.
    """
    if isinstance(task, Transformed):  # made from a task that was checked
        return
    for name in ("x", "y", "x_test", "y_test"):
        value = getattr(task, name)
        rows = _rows(value)
        if rows is None:
            raise ShapeError(
                f"tasks[{place}].{name} must be an array with a row for each sample; got "
                f"{_checks.given(value)}"
            )
        if not rows:
            raise ShapeError(f"tasks[{place}].{name} has no rows; at least 1 is needed")


@dataclass(frozen=True, eq=False, repr=False)
class Scenario(Sequence[Task]):
    """A sequence of tasks.

    Parameters
    ----------
    tasks : sequence of Task
        The tasks.
    kind : str
        What is known when a sample is judged: ``"task"`` (which task it is from, so that only that
        task's outputs compete), ``"domain"`` (all tasks share the outputs) or ``"class"`` (all
        classes seen so far compete, also during learning: see `Task.active`).

    Raises
    ------
    ArgumentError
        If there are no tasks, an item is not a task, or there is no such kind.
    ShapeError
        If a task has no rows.

    Notes
    -----
    Tasks are renumbered by their positions in the scenario. A slice from the first task on, such as
    ``scenario[:2]``, is a scenario of the same kind; other slices are tuples of tasks, which keep
    their numbers.

    With ``kind="class"``, if all tasks name their classes, the scenario sets an unset `Task.active`
    to the classes so far; ``Task(..., active="all")`` lets all outputs compete instead. If the
    `active` of a task leaves out a class that comes before it, as after reordering tasks, all are
    set anew except ``"all"``.
    """

    tasks: tuple[Task, ...]
    kind: Kind = "domain"

    def __post_init__(self) -> None:
        kind_of(self.kind)
        tasks = _checks.sequence("tasks", self.tasks)
        for place, task in enumerate(tasks):
            if not isinstance(task, Task):
                raise ArgumentError(f"tasks[{place}] must be a Task; got {type(task).__name__}")
            check_rows(task, place)
        if not tasks:
            raise ArgumentError("a scenario needs at least one task")
        numbered = tuple(
            replaced(task, index=place, name=task.name or f"task {place + 1}")
            for place, task in enumerate(tasks)
        )
        if self.kind == "class":
            numbered = growing(numbered)
        object.__setattr__(self, "tasks", numbered)

    def __repr__(self) -> str:
        tasks = "".join(f"\n  {task!r}" for task in self.tasks)
        return f"<Scenario of kind {self.kind!r}, {len(self)} tasks:{tasks}\n>"

    def __len__(self) -> int:
        return len(self.tasks)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> "Scenario | tuple[Task, ...]": ...
    def __getitem__(self, index: Any) -> Any:
        found = self.tasks[index]
        if isinstance(index, slice) and found == self.tasks[: max(len(found), 1)]:
            return Scenario(found, self.kind)
        return found

    @property
    def heads(self) -> tuple[int, ...]:
        """How many outputs belong to each task, for ``nn.CrossEntropyLoss(heads=...)``.

        Heads are in the order of the classes. A task whose classes occurred before shares their
        head; if all tasks have the same classes, there is one head for each task.
        """
        classes = [task.classes or () for task in self.tasks]
        different = sorted(set(classes))
        return tuple(len(labels) for labels in (different if len(different) > 1 else classes))

    def competing(self, index: int, learned: int) -> tuple[int, ...] | None:
        """Return which outputs compete when task `index` is judged after learning task `learned`.

        Parameters
        ----------
        index : int
            The index of the task that is judged.
        learned : int
            The index of the latest task that was learned; -1 if there is none.

        Returns
        -------
        tuple of int or None
            Classes; None means all outputs. With ``kind="class"``, the judged task's own classes
            always compete, even before it is learned, since nothing could be right without them.
            Before anything was learned, each task is judged among the same classes as just before
            it is learned, so that the two scores can be compared, as in `metrics.fwt`.
        """
        if learned < 0:
            learned = index - 1
        if self.kind == "domain" or self.tasks[index].classes is None:
            return None
        if self.kind == "task":
            return self.tasks[index].classes
        seen = {c for task in self.tasks[: learned + 1] for c in task.classes or ()}
        return tuple(sorted(seen | set(self.tasks[index].classes or ())))


Scenario.__init__ = takes("Scenario", {})(Scenario.__init__)  # type: ignore[method-assign]
