"""Memories with equally many samples of each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._habits import takes
from thalweg.continual import _buffers
from thalweg.continual._buffers import Buffer, Group, as_columns, as_wide, copied, matching
from thalweg.continual._task import are_labels
from thalweg.errors import ArgumentError, ShapeError

Select: TypeAlias = Literal["random", "herding"]


class BalancedBuffer(Buffer):
    r"""Keeps equally many samples of each class of each task.

    Parameters
    ----------
    capacity : int
        How many samples it keeps, in equal shares for the classes so far. When a new class comes,
        the others make room. Room that classes with fewer samples leave unused is shared by the
        others: the share `q` is the largest whole number with :math:`\sum_c \min(q, n_c)` at most
        the capacity, for :math:`n_c` samples of class `c` so far.
    per_class : bool, keyword only, default False
        Whether `capacity` applies to each class instead, as van de Ven's budget does.
    select : {"random", "herding"}, keyword only
        Which samples of a class to keep: a uniform sample of all of them, or those whose mean
        feature stays nearest to that of the class, in the order in which they were chosen (from
        the samples that are offered together and those already kept).
    seed : int, keyword only, default 0
        Seed of its random numbers.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    Labels are classes. For targets that are class probabilities (not negative, summing to 1), the
    class is the largest; all other targets of a task form one class.

    GDumb's greedy sampler (Prabhu et al. 2020, algorithm 1) takes a new sample if its class has
    less than an equal share, and lets it replace a random one of the largest class. It also fills
    the last few places, so that classes may differ by one; but if classes with few samples came
    first, it leaves empty the places that they do not need, and it keeps the earliest samples of
    each class. The authors' code takes the first samples of each class, too, and an equal whole
    number of each.

    References
    ----------
    Rebuffi et al. 2017, "iCaRL", algorithms 4 and 5 (herding, on features of unit length).
    """

    _holds = ("capacity", "generator", "groups", "seen")

    @takes("BalancedBuffer", {})
    def __init__(
        self, capacity: int, *, per_class: bool = False, select: Select = "random", seed: int = 0
    ) -> None:
        super().__init__(capacity, seed=seed)
        self.per_class: bool = _checks.flag("per_class", per_class)
        self.select: str = _checks.one_of("select", select, get_args(Select))
        self._groups: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, int] = {}

    def __repr__(self) -> str:
        kept = "of each class" if self.per_class else "rows"
        classes = len(self._groups)
        return (
            f"<{type(self).__name__}: {len(self)} rows of {classes} classes, at most"
            f" {self.capacity} {kept}, select={self.select!r}>"
        )

    @property
    def _herding(self) -> bool:
        return self.select == "herding"

    def __len__(self) -> int:
        return sum(len(columns["x"]) for columns in self._groups.values())

    def add(
        self,
        *,
        group: int | tuple[int, ...] = 0,
        features: Callable[[Any], Any] | None = None,
        **columns: npt.ArrayLike,
    ) -> None:
        """Offer samples; those with the same label and the same `group` form one class.

        With ``select="herding"``, `features` returns finite numbers of shape (n, k) for n samples;
        it is called again if another thread has added to this buffer meanwhile.
        """
        new = as_columns(columns)
        if not self._herding:
            with _buffers.LOCK:
                groups, seen = self._groups, self._seen
                self._groups, self._seen = self._with(groups, seen, new, group)
            return
        if features is None:
            raise ArgumentError(
                'select="herding" needs the features of samples: pass features, a function that'
                " computes them from x, or let Replay fill the buffer"
            )
        _checks.function("features", features, "x")
        added = False
        while not added:
            with _buffers.LOCK:
                before, seen = self._groups, self._seen
            groups, seen = self._with(before, seen, new, group, features)
            with _buffers.LOCK:
                added = self._groups is before
                if added:
                    self._groups, self._seen = groups, seen

    def _with(
        self,
        groups: dict[str, dict[str, Any]],
        seen: dict[str, int],
        new: dict[str, Any],
        group: Group,
        features: Callable[[Any], Any] | None = None,
    ) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
        """Return what is kept of each class, and how many it was offered, with new samples."""
        arrays = matching(new, next(iter(groups.values()), {}))
        parts = {
            key: {name: array[mine] for name, array in arrays.items()}
            for key, mine in _parts(group, arrays["y"]).items()
        }
        counts = dict(seen)
        for key, part in parts.items():
            counts[key] = counts.get(key, 0) + len(part["x"])
        self.check_room(len(counts))
        quota = self.capacity if self.per_class else _share(self.capacity, counts.values())
        kept = {
            key: self._shrunk(as_wide(columns, arrays), quota) for key, columns in groups.items()
        }
        for key, part in parts.items():
            kept[key] = self._joined(kept.get(key), part, quota, seen.get(key, 0), features)
        return kept, counts

    def sample(self, size: int) -> dict[str, Any]:
        """Draw samples without replacement; all of them if there are fewer than `size`."""
        with _buffers.LOCK:  # none is added meanwhile
            return super().sample(size)

    def _kept(self) -> Mapping[str, Any]:
        return next(iter(self._groups.values()), {})

    def _check_new(self, group: Group | None, columns: Mapping[str, Any]) -> dict[str, Any]:
        arrays = super()._check_new(group, columns)
        if group is None:
            return arrays
        if len(self._seen) + len(arrays["y"]) > self.capacity:  # else there is room anyway
            self.check_room(len(self._seen.keys() | _parts(group, arrays["y"]).keys()))
        return arrays

    def check_room(self, classes: int) -> None:
        """Refuse `classes` classes if there is not room for a sample of each.

        Parameters
        ----------
        classes : int
            How many; a class counts again in each task.

        Raises
        ------
        ArgumentError
            If `capacity` is less than `classes`.
        """
        if not self.per_class and self.capacity < classes:
            raise ArgumentError(
                f"capacity={self.capacity} has no room for a sample of each of {classes} classes;"
                f" it must be at least {classes} (a class counts again in each task)"
            )

    def _shrunk(self, columns: dict[str, Any], quota: int) -> dict[str, Any]:
        """Return at most `quota` samples of a group: the first of a herd, or random ones."""
        if len(columns["x"]) <= quota:
            return columns
        kept: Any = slice(quota)
        if not self._herding:
            kept = np.sort(self._generator.choice(len(columns["x"]), quota, replace=False))
        return {name: column[kept].copy() for name, column in columns.items()}

    def _joined(
        self,
        old: dict[str, Any] | None,
        part: dict[str, Any],
        quota: int,
        seen: int,
        features: Callable[[Any], Any] | None,
    ) -> dict[str, Any]:
        """Take samples into a group that has seen `seen` before."""
        if self._herding:
            assert features is not None
            if old is not None:
                part = {name: np.concatenate([old[name], part[name]]) for name in part}
            chosen = herd(_features(features, part["x"]), quota)
            return {name: column[chosen] for name, column in part.items()}
        count = len(part["x"])
        if old is None:
            old = {name: column[:0] for name, column in part.items()}
        room = max(0, min(quota - len(old["x"]), count))
        # What was kept is a uniform sample of what came before; continuing the reservoir with
        # the new samples keeps it uniform.
        columns = {name: np.concatenate([old[name], part[name][:room]]) for name in part}
        numbers = np.arange(seen + room, seen + count)
        places = self._generator.integers(0, numbers + 1)
        kept = places < len(columns["x"])
        for name, column in columns.items():
            column[places[kept]] = part[name][room:][kept]
        return columns

    def rows(self) -> dict[str, Any]:
        """Return what is kept, by column; do not write to it."""
        groups = list(self._groups.values())
        if not groups:
            return {}
        return {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}

    def _take(self, places: Any) -> dict[str, Any]:
        """Return the rows at some positions of `rows`, without concatenating all groups."""
        groups = list(self._groups.values())
        if not groups:
            return {}
        ends = np.cumsum([len(group["x"]) for group in groups])
        found = {
            name: np.empty((len(places), *column.shape[1:]), column.dtype)
            for name, column in groups[0].items()
        }
        of = np.searchsorted(ends, places, side="right")
        for number in np.unique(of).tolist():
            mine, group = np.flatnonzero(of == number), groups[number]
            rows = places[mine] - (ends[number] - len(group["x"]))
            for name, column in found.items():
                column[mine] = group[name][rows]
        return found

    def _content(self) -> Any:
        return None if self._is_custom() else self._groups

    def _state_kept(self) -> dict[str, Any]:
        groups = {key: copied(columns) for key, columns in self._groups.items()}
        return {"groups": groups, "seen": dict(self._seen)}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        groups, seen = state["groups"], state["seen"]
        first: Mapping[str, Any] = next(iter(groups.values()), {})
        for key in groups.keys() | seen.keys():
            rows = len(matching(as_columns(groups[key]), first)["y"])
            _checks.integer(f"seen[{key!r}]", seen[key], rows)

    def _keep_state(self, state: Mapping[str, Any]) -> None:
        self._groups = {key: copied(columns) for key, columns in state["groups"].items()}
        self._seen = dict(state["seen"])


def _share(capacity: int, counts: Iterable[int]) -> int:
    """Return the largest equal share of a capacity, where none takes more than its count."""
    counts = sorted(counts)
    for place, count in enumerate(counts):
        share = capacity // (len(counts) - place)
        if count > share:
            return share
        capacity -= count
    return counts[-1] if counts else capacity


def _parts(group: Group, y: Any) -> dict[str, Any]:
    """Return the indices of each class's rows, keyed by the names of group and class."""
    labels = classes_of(y)
    return {
        f"{group}/{label}": np.flatnonzero(labels == label) for label in np.unique(labels).tolist()
    }


def classes_of(y: Any) -> Any:
    """Return the class of each row; 0 if targets are neither labels nor class probabilities."""
    if are_labels(y):
        return y
    if y.ndim == 2 and y.shape[1] > 1 and (y >= 0).all() and np.allclose(y.sum(axis=1), 1):
        return y.argmax(axis=1)
    return np.zeros(len(y), np.int64)


def _features(features: Callable[[Any], Any], x: Any) -> Any:
    """Return the features of samples, if they are such: else a herd would mean nothing."""
    name = "features(x)"
    rows = _arrays.matrix(features(x), np.dtype(np.float64), name)
    if len(rows) != len(x):
        raise ShapeError(
            f"{name} must have a row for each of the {len(x)} samples; got shape {rows.shape}"
        )
    return _arrays.finite(rows, name)


def herd(features: Any, count: int) -> Any:
    r"""Choose rows one by one so that their mean stays nearest to that of all rows.

    The `k`-th choice is the row, of those not chosen yet, that minimizes
    :math:`\lVert \mu - \frac1k \sum_{j \le k} \varphi_j \rVert`, where features :math:`\varphi`
    have unit length.
    """
    unit = unit_length(features)
    mean = unit.mean(axis=0)
    total = np.zeros_like(mean)
    chosen = np.zeros(min(count, len(unit)), dtype=np.int64)
    free = np.ones(len(unit), dtype=bool)
    squares = (unit**2).sum(axis=1) / 2
    for k in range(len(chosen)):
        # |(k+1) mean - total - f|^2 is least where f.((k+1) mean - total) - |f|^2 / 2 is greatest.
        gain = np.where(free, unit @ ((k + 1) * mean - total) - squares, -np.inf)
        chosen[k] = gain.argmax()
        free[chosen[k]] = False
        total += unit[chosen[k]]
    return chosen


def unit_length(rows: Any) -> Any:
    """Divide rows by their lengths; rows of zeros stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)
