"""Scenarios made from arrays."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg.continual._elsewhere import OF_ARRAYS, OF_SCENARIOS, Kind, kind_of
from thalweg.continual._incomplete import called
from thalweg.continual._task import (
    Changed,
    Scenario,
    Task,
    Transformed,
    are_labels,
)
from thalweg.errors import ArgumentError, DataError, DtypeError, ShapeError


@called("continual.split", OF_SCENARIOS)
def split(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    x_test: npt.ArrayLike,
    y_test: npt.ArrayLike,
    tasks: int = 5,
    kind: Kind = "task",
    *,
    seed: int | None = None,
    order: Sequence[Any] | None = None,
) -> Scenario:
    """Distribute the classes of a data set over tasks, as split MNIST does.

    Parameters
    ----------
    x, y : array_like, shapes (n, in_features) and (n,)
        Samples and their labels, of any type that can be sorted.
    x_test, y_test : array_like
        Held-out samples and their labels.
    tasks : int, default 5
        The number of tasks; if it does not divide the number of classes, the first tasks have one
        more.
    kind : {"task", "domain", "class"}, default "task"
        See `Scenario`. With ``"domain"``, labels are the positions of classes within their task,
        from 0; otherwise, their positions in the order of classes. The classes of a task are
        therefore consecutive, as ``nn.CrossEntropyLoss(heads=scenario.heads)`` needs them.
    seed : int, keyword only, optional
        Draws a random order of the classes.
    order : sequence, keyword only, optional
        The order of the classes, by their labels in `y`; sorted by default.

    Returns
    -------
    Scenario
        Tasks are named after their classes, such as ``"0 1"``.

    Raises
    ------
    ArgumentError
        If there are fewer classes than tasks, or `order` is not an order of the classes.
    ShapeError
        If the arrays do not match.
    DtypeError
        If samples are not numbers, or labels not all of one type that can be sorted.
    DataError
        If an array has masked entries, or labels are tested that are never learned.

    References
    ----------
    The three kinds: van de Ven & Tolias 2019, "Three scenarios for continual learning".

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import continual
    >>> x, y = np.eye(6), np.arange(6)
    >>> [task.y.tolist() for task in continual.split(x, y, x, y, tasks=3, kind="class")]
    [[0, 1], [2, 3], [4, 5]]
    >>> [task.y.tolist() for task in continual.split(x, y, x, y, tasks=3, kind="domain")]
    [[0, 1], [0, 1], [0, 1]]
    """
    kind = kind_of(kind)
    samples, labels, others, tested = _both(x, y, x_test, y_test)
    try:
        classes = np.unique(labels)
        unknown = np.setdiff1d(tested, classes)
    except (TypeError, ArithmeticError):  # as of text and numbers; of Decimal("NaN")
        kinds = sorted({type(label).__name__ for label in labels.tolist() + tested.tolist()})
        raise DtypeError(
            "the labels in y and y_test must have one type, by which they can be sorted; got"
            f" {', '.join(kinds)}{'' if len(kinds) > 1 else ' without an order'}"
        ) from None
    tasks = _checks.integer("tasks", tasks, 1, len(classes))
    if len(unknown):
        raise DataError(f"y_test has the labels {unknown.tolist()}, which do not occur in y")
    if order is not None and seed is not None:
        raise ArgumentError("pass seed or order, not both: seed draws an order at random")
    if seed is not None:
        seed = _checks.integer("seed", seed, 0)
        classes = np.random.default_rng(seed).permutation(classes)
    elif order is not None:
        given = _arrays.as_array(order, "order")
        listed = given.tolist()
        once = given.ndim == 1 and len(given) == len(classes)
        if not once or not all(label in listed for label in classes.tolist()):
            raise ArgumentError(
                f"order must hold each of the classes {classes.tolist()} once; got {order!r}"
            )
        classes = given
    made, first = [], 0
    for index, mine in enumerate(np.array_split(classes, tasks)):
        base = 0 if kind == "domain" else first
        first += len(mine)
        pairs = []
        for those, targets in ((samples, labels), (others, tested)):
            rows = np.flatnonzero(np.isin(targets, mine))
            places = (targets[rows, None] == mine).argmax(axis=1)
            pairs.append((those[rows], base + places.astype(np.int64)))
        name = " ".join(str(label) for label in mine.tolist())
        numbers = tuple(range(base, base + len(mine)))
        made.append(Task(*pairs[0], *pairs[1], index, name, numbers))
    return Scenario(tuple(made), kind)


@called("continual.permuted", OF_SCENARIOS)
def permuted(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    x_test: npt.ArrayLike,
    y_test: npt.ArrayLike,
    tasks: int = 10,
    kind: Kind = "domain",
    *,
    seed: int = 0,
) -> Scenario:
    """Permute the features of a data set differently for every task, as permuted MNIST does.

    Parameters
    ----------
    x, y, x_test, y_test : array_like
        As in `split`; labels are integers from 0.
    tasks : int, default 10
        The number of tasks. The first keeps the original order of features.
    kind : {"task", "domain", "class"}, default "domain"
        With ``"task"`` and ``"class"``, every task has its own outputs: labels continue where those
        of the previous task ended.
    seed : int, keyword only, default 0
        Seed of the permutations.

    Returns
    -------
    Scenario
        Tasks make their samples on demand, so that all together need the memory of one.

    Raises
    ------
    ArgumentError, ShapeError
        If an argument is out of range, or the arrays do not match.
    DtypeError, DataError
        If samples are not numbers, labels are not integers from 0, or an array has masked entries.
    """
    generator = np.random.default_rng(_checks.integer("seed", seed, 0))
    base = _base(x, y, x_test, y_test)
    width = np.asarray(base.x).shape[1]
    tasks = _checks.integer("tasks", tasks, 1)
    orders = [np.arange(width)] + [generator.permutation(width) for _ in range(tasks - 1)]
    changes = [_Permuted(order) for order in orders]
    return _transformed(base, changes, [f"permutation {i}" for i in range(tasks)], kind)


@called("continual.rotated", OF_SCENARIOS)
def rotated(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    x_test: npt.ArrayLike,
    y_test: npt.ArrayLike,
    angles: Sequence[float] | None = None,
    kind: Kind = "domain",
    *,
    tasks: int | None = None,
    seed: int = 0,
) -> Scenario:
    """Rotate the images of a data set by a different angle for every task, as rotated MNIST does.

    Parameters
    ----------
    x, y, x_test, y_test : array_like
        As in `permuted`; samples are square images, one per row.
    angles : sequence of float, optional
        In degrees, counter-clockwise; by default, `tasks` of them are drawn from [0, 180) and
        sorted, as in the GEM paper.
    kind : {"task", "domain", "class"}, default "domain"
        As in `permuted`.
    tasks : int, keyword only, optional
        The number of tasks if no angles are given; 10 by default.
    seed : int, keyword only, default 0
        Seed of the angles.

    Returns
    -------
    Scenario
        Tasks make their samples on demand. Images are rotated about their center and interpolated
        bilinearly, with 0 around them.

    Raises
    ------
    ArgumentError, ShapeError
        If images are not square, an argument is out of range, or the arrays do not match.
    DtypeError, DataError
        As for `permuted`.

    References
    ----------
    Lopez-Paz & Ranzato 2017, "Gradient episodic memory for continual learning".
    """
    base = _base(x, y, x_test, y_test)
    pixels = np.asarray(base.x).shape[1]
    side = round(pixels**0.5)
    if side * side != pixels:
        raise ShapeError(f"x must hold square images to be rotated; got {pixels} columns")
    if angles is None:
        generator = np.random.default_rng(_checks.integer("seed", seed, 0))
        count = 10 if tasks is None else _checks.integer("tasks", tasks, 1)
        angles = np.sort(generator.uniform(0, 180, count)).tolist()
    elif tasks is not None:
        raise ArgumentError("pass angles or tasks, not both: there is one task for each angle")
    angles = [_checks.real("angles", angle) for angle in _checks.sequence("angles", angles)]
    changes = [_Rotated(side, angle) for angle in angles]
    return _transformed(base, changes, [f"{angle:.0f}°" for angle in angles], kind)


@called("continual.from_arrays", OF_ARRAYS)
def from_arrays(
    tasks: Iterable[Any], kind: Kind = "domain", *, names: Sequence[str] | None = None
) -> Scenario:
    """Make a scenario from your own arrays: labels or numbers, images or tables.

    Parameters
    ----------
    tasks : iterable of tuple (x, y, x_test, y_test), or (x, y)
        One for each task. Without held-out samples, a task is judged by those it learns from.
    kind : {"task", "domain", "class"}, default "domain"
        See `Scenario`. In regression, where no outputs compete, it must be ``"domain"``. With
        ``"task"`` and one head for each task, labels continue from task to task.
    names : sequence of str, keyword only, optional
        One for each task.

    Returns
    -------
    Scenario
        One-dimensional targets of an integer type are class labels, all others are numbers. If `y`
        has labels, `y_test` may have labels or class probabilities.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        If arrays or tasks do not match each other, or do not hold numbers.
    DataError
        If an array has masked entries.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import continual
    >>> x = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> waves = continual.from_arrays([(x, np.sin(x)), (x, np.cos(x))], names=["sin", "cos"])
    >>> [(task.name, task.classes) for task in waves]
    [('sin', None), ('cos', None)]
    """
    kind = kind_of(kind)
    made: list[Task] = []
    given = [
        _checks.sequence(f"tasks[{place}]", task)
        for place, task in enumerate(_checks.sequence("tasks", tasks))
    ]
    if names is not None and not isinstance(names, str):  # a str names tasks by its letters
        names = _checks.sequence("names", names)
    if names is not None and len(names) != len(given):
        raise ArgumentError(f"there are {len(given)} tasks but {len(names)} names")
    for index, arrays in enumerate(given):
        if len(arrays) not in (2, 4):
            raise ArgumentError(
                f"tasks[{index}] must be (x, y, x_test, y_test) or (x, y); got {len(arrays)} items"
            )
        x, y = _rows(f"tasks[{index}].x", arrays[0], "y", arrays[1], None)
        x_test, y_test = _rows(f"tasks[{index}].x_test", arrays[-2], "y_test", arrays[-1], None)
        _same_width(f"tasks[{index}].x_test", x_test, "x", x)
        classes = _labels(y, y_test, f"tasks[{index}].y_test") if are_labels(y) else None
        name = f"task {index + 1}" if names is None else str(names[index])
        made.append(Task(x, y, x_test, y_test, index, name, classes))
    for task in made:
        if task.x.shape[1] != made[0].x.shape[1]:
            raise ShapeError(
                f"{task.name} has {task.x.shape[1]} features but {made[0].name} has "
                f"{made[0].x.shape[1]}; one model must learn both"
            )
        if (task.classes is None) != (made[0].classes is None):
            raise ArgumentError(
                f"{task.name} and {made[0].name} must both have labels or both have numbers"
            )
        if task.classes is None and task.y.shape[1:] != made[0].y.shape[1:]:
            raise ShapeError(
                f"{task.name} has y of shape {task.y.shape} but {made[0].name} has"
                f" {made[0].y.shape}; one model must learn both, so their rows must have one shape"
            )
    if kind != "domain" and made and made[0].classes is None:
        raise ArgumentError(
            f'kind="{kind}" needs class labels, but y holds numbers: use kind="domain"'
        )
    return Scenario(tuple(made), kind)


def _labels(y: Any, y_test: Any, name: str) -> tuple[int, ...]:
    """Return the classes in `y` and `y_test`, after checking that `y_test` names classes."""
    shares = y_test.ndim == 2 and y_test.shape[1] > 1
    if not are_labels(y_test) and not shares:
        raise DtypeError(
            f"{name} has dtype {y_test.dtype} and shape {y_test.shape}, but y has class labels: "
            "pass both as integers of shape (n,) or, if they are numbers rather than labels, y as "
            "floats"
        )
    found = y if shares else np.union1d(y, y_test)
    return tuple(int(label) for label in np.unique(found) if label >= 0)


def _rows(x_name: str, x: Any, y_name: str, y: Any, dims: int | None) -> tuple[Any, Any]:
    """Check that samples and targets have equally many rows, at least one."""
    x, y = _arrays.as_numeric(x, x_name), _arrays.as_array(y, y_name)
    if dims is None and y.dtype.kind not in "iubf":
        raise DtypeError(
            f"{y_name}, passed with {x_name}, must hold labels from 0 or numbers; got dtype"
            f" {y.dtype}. continual.split takes labels of any type, and"
            " np.unique(y, return_inverse=True)[1] numbers them"
        )
    if x.ndim != 2 or y.ndim not in ((1, 2) if dims is None else (dims,)):
        wanted = "(n,)" if dims == 1 else "(n,) or (n, k)"
        raise ShapeError(
            f"{x_name} must have shape (n, in_features) and {y_name} {wanted}; "
            f"got {x.shape} and {y.shape}"
        )
    if len(x) != len(y) or not len(x):
        raise ShapeError(
            f"{x_name} has {len(x)} rows but {y_name} has {len(y)}; they must have the same number,"
            " at least 1"
        )
    return x, y


def _both(x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[Any, Any, Any, Any]:
    """Check training and held-out arrays."""
    x, y = _rows("x", x, "y", y, 1)
    x_test, y_test = _rows("x_test", x_test, "y_test", y_test, 1)
    _same_width("x_test", x_test, "x", x)
    return x, y, x_test, y_test


def _same_width(name: str, rows: Any, other: str, others: Any) -> None:
    if rows.shape[1] != others.shape[1]:
        raise ShapeError(
            f"{name} has {rows.shape[1]} features but {other} has {others.shape[1]}; one model must"
            " take both"
        )


def _base(x: Any, y: Any, x_test: Any, y_test: Any) -> Task:
    """Make the task from which the others are derived."""
    x, y, x_test, y_test = _both(x, y, x_test, y_test)
    y, y_test = _arrays.labels(y, "y"), _arrays.labels(y_test, "y_test")
    classes = tuple(range(int(max(y.max(), y_test.max())) + 1))
    return Task(x, y, x_test, y_test, classes=classes)


def _transformed(base: Task, changes: list[Any], names: list[str], kind: Kind) -> Scenario:
    """Make one task for each change."""
    kind = kind_of(kind)
    made: list[Task] = []
    for index, (change, name) in enumerate(zip(changes, names, strict=True)):
        shift = 0 if kind == "domain" else index * len(base.classes or ())
        made.append(
            Transformed(
                y=base.y + shift,
                y_test=base.y_test + shift,
                index=index,
                name=name,
                classes=tuple(label + shift for label in base.classes or ()),
                x_from=Changed(base.x, change),
                x_test_from=Changed(base.x_test, change),
            )
        )
    return Scenario(tuple(made), kind)


@dataclass(frozen=True, eq=False, repr=False)
class _Permuted:
    """Puts features in another order."""

    order: Any

    def __repr__(self) -> str:
        return f"an order of {len(self.order)} features with checksum {zlib.crc32(self.order):08x}"

    def __call__(self, rows: Any) -> Any:
        # `take`, as indexing columns would give arrays in column-major order.
        return rows.take(self.order, 1)


@dataclass(frozen=True, eq=False, repr=False)
class _Rotated:
    """Rotates images counter-clockwise, seen with row 0 on top."""

    side: int
    degrees: float

    def __repr__(self) -> str:
        return f"a rotation by {self.degrees}°"

    def __call__(self, images: Any) -> Any:
        dtype = images.dtype if images.dtype.kind == "f" else np.dtype(np.float32)
        result = np.zeros(images.shape, dtype)
        for place, share in self._corners():
            result += images[:, place] * share.astype(dtype)
        return result

    def _corners(self) -> list[tuple[Any, Any]]:
        """Return the four source pixels of each pixel, and the share of each."""
        side, angle = self.side, np.deg2rad(self.degrees)
        middle = (side - 1) / 2
        row, column = np.array(np.divmod(np.arange(side * side), side)) - middle
        # Where each pixel of the result comes from: the inverse rotation.
        down = np.cos(angle) * row + np.sin(angle) * column + middle
        right = -np.sin(angle) * row + np.cos(angle) * column + middle
        # Undo rounding errors, so that a rotation by 90° moves whole pixels.
        down, right = np.round(down, 9), np.round(right, 9)
        top, left = np.floor(down).astype(int), np.floor(right).astype(int)
        corners = []
        for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            share = (1 - abs(down - y)) * (1 - abs(right - x))
            share[(y < 0) | (y >= side) | (x < 0) | (x >= side)] = 0
            place = np.clip(y, 0, side - 1) * side + np.clip(x, 0, side - 1)
            corners.append((place, share))
        return corners
