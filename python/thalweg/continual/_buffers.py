"""Memories of samples, of a fixed size.

A buffer keeps matching rows of several arrays (``x``, ``y``, and what a strategy adds, such as
logits). It has its own random number generator, so what it keeps does not depend on random numbers
drawn elsewhere.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from thalweg import _arrays, _checks
from thalweg.continual import _state
from thalweg.continual._task import are_labels
from thalweg.errors import ArgumentError, DtypeError, ShapeError

#: What samples belong to besides their class.
_Group: TypeAlias = int | tuple[int, ...]


class Buffer:
    """Base of all buffers.

    A new buffer overrides `add`, `rows` and ``__len__``. Its state is everything that it keeps in
    attributes, so that it can be copied, saved and resumed: arrays, plain data, random generators,
    and anything with `state_dict` and `load_state_dict`. Arguments that its ``__init__`` keeps
    under their names do not belong to the state, except arrays, lists and dicts.

    Parameters
    ----------
    capacity : int
        How many samples it keeps.
    seed : int, keyword only, default 0
        Seed of its random numbers.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or the class lacks one of the three methods.

    Examples
    --------
    A buffer of the latest samples:

    >>> import numpy as np
    >>> from thalweg.continual import Buffer
    >>> class Latest(Buffer):
    ...     def __init__(self, capacity, *, seed=0):
    ...         super().__init__(capacity, seed=seed)
    ...         self.kept = {}
    ...
    ...     def add(self, *, group=0, features=None, **columns):
    ...         for name, new in columns.items():
    ...             both = np.concatenate([self.kept.get(name, new[:0]), new])
    ...             self.kept[name] = both[-self.capacity :]
    ...
    ...     def rows(self):
    ...         return self.kept
    ...
    ...     def __len__(self):
    ...         return len(self.kept["y"]) if self.kept else 0
    >>> buffer = Latest(3)
    >>> buffer.add(x=np.arange(9.0).reshape(-1, 1), y=np.arange(9))
    >>> buffer.rows()["y"]
    array([6, 7, 8])
    """

    #: Keys that a state must have.
    _holds: tuple[str, ...] = ()

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        kind = type(self)
        if kind is Buffer:
            raise ArgumentError(
                "Buffer is only the base of buffers: use ReservoirBuffer or BalancedBuffer, or a"
                " subclass that defines add, rows and __len__"
            )
        needed = ("add", "rows", "__len__")
        missing = [name for name in needed if getattr(kind, name) is getattr(Buffer, name)]
        if missing:
            raise ArgumentError(
                f"{kind.__name__} does not define {', '.join(missing)}: a buffer needs"
                " add(self, *, group=0, features=None, **columns), which takes samples, rows(self),"
                " which returns those that are kept as a dict of arrays, and __len__(self), their"
                " number"
            )
        self.capacity = _checks.integer("capacity", capacity, 1)
        self._seed = _checks.integer("seed", seed, 0)
        self._generator = np.random.default_rng(self._seed)

    def __len__(self) -> int:
        raise NotImplementedError

    def add(
        self,
        *,
        group: int | tuple[int, ...] = 0,
        features: Callable[[Any], Any] | None = None,
        **columns: Any,
    ) -> None:
        """Offer samples.

        Parameters
        ----------
        group : int or tuple of int, keyword only, default 0
            What they belong to besides their labels, usually the task's index.
        features : callable, keyword only, optional
            Computes the features of samples `x`, for buffers that select by features.
        **columns : array_like
            ``x``, ``y`` and others, all with the same number of rows. Samples of different dtypes
            are kept in one that can hold all of them.

        Raises
        ------
        ShapeError, DtypeError, ArgumentError
            If the columns do not match each other or what is kept (for example, numbers where
            labels are kept), or there is no room for them; what is kept stays as it is.
        """
        raise NotImplementedError

    def rows(self) -> dict[str, Any]:
        """Return what is kept, by column; do not write to it."""
        raise NotImplementedError

    def sample(self, size: int) -> dict[str, Any]:
        """Draw samples without replacement; all of them if there are fewer than `size`."""
        size, there = _checks.integer("size", size, 0), len(self)
        return self._take(self._generator.choice(there, min(size, there), replace=False))

    def _take(self, places: Any) -> dict[str, Any]:
        """Return the rows at some positions, by column."""
        return {name: column[places] for name, column in self.rows().items()}

    def _kept(self) -> Mapping[str, Any]:
        """Return columns with the dtypes and row shapes of what is kept; none if it is empty."""
        return self._take(np.zeros(0, np.int64)) if len(self) else {}

    def _labels(self) -> Any:
        """Return the classes of which samples are kept; None if the targets are not labels."""
        y = self.rows()["y"] if len(self) else np.zeros(0, np.int64)
        return np.unique(y) if are_labels(y) else None

    def _check_new(self, group: _Group | None, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return new samples as arrays, if `add` will accept them, perhaps with more columns.

        Without a group, they need no room.
        """
        kept = self._kept()
        return _columns(columns, {name: kept[name] for name in columns if name in kept})

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state, as arrays and plain data; all of it is copied.

        For a buffer of your own, that is everything in its attributes.
        """
        state = {"capacity": self.capacity, "generator": self._generator.bit_generator.state}
        if self._is_custom():
            state["attributes"] = {
                name: _state.given(vars(self)[name]) for name in self._attributes()
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises
        ------
        ArgumentError
            If it is from another kind of buffer, or from one of another capacity.
        """
        self._check_state(state)
        self._generator.bit_generator.state = state["generator"]
        attributes = state.get("attributes")
        if attributes is None:  # those of a subclass with its own `state_dict`, or of ours
            return
        for name in {*self._attributes()} - {*attributes}:  # added since
            delattr(self, name)
        for name, value in attributes.items():
            setattr(self, name, _state.taken(value, vars(self).get(name)))

    def _is_custom(self) -> bool:
        return not type(self).__module__.startswith("thalweg.")

    def _attributes(self) -> list[str]:
        """Return the names of the attributes that belong to the state of a user's subclass."""
        if not self._is_custom():
            return []
        known = {"_seed", "capacity", *(f"_{key}" for key in self._holds), "_generator"}
        parameters = inspect.signature(type(self).__init__).parameters
        known |= {
            name
            for name, value in vars(self).items()
            if (name in parameters or name.removeprefix("_") in parameters)
            and not isinstance(value, (np.ndarray, list, dict))
            and not _state.has_state(value)
        }
        return [name for name in vars(self) if name not in known]

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of an incompatible buffer before anything is loaded."""
        name, needed = type(self).__name__, self._holds
        if self._is_custom() and type(self).state_dict.__module__ == __name__:
            needed = (*needed, "attributes")
        missing = [key for key in needed if key not in state]
        attributes, mine = state.get("attributes", {}), self._attributes()
        if not missing and not {*attributes} <= {*mine}:  # more were added, or it is another kind
            missing = [key for key in mine if key not in attributes]
        if missing:
            raise ArgumentError(
                f"the state does not match this {name}: it has no {', '.join(missing)}; load it"
                " into a buffer of the kind that it came from"
            )
        for key, value in attributes.items():
            _state.check(name, key, value, vars(self).get(key))
        capacity = state.get("capacity", self.capacity)
        if capacity != self.capacity:
            raise ArgumentError(
                f"the state is from a {name} with capacity={capacity}, but this one has"
                f" capacity={self.capacity}"
            )


class ReservoirBuffer(Buffer):
    r"""Keeps a uniform sample of everything it was ever offered.

    Algorithm R: with probability :math:`c/n` for the capacity :math:`c`, the `n`-th sample replaces
    a kept one chosen at random. At any time, each sample so far is therefore kept with the same
    probability. Every sample uses one random number, whether samples come one by one or all at
    once.

    Parameters
    ----------
    capacity : int
        How many samples it keeps.
    seed : int, keyword only, default 0
        Seed of its random numbers.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Vitter 1985, "Random sampling with a reservoir", ACM TOMS 11.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.continual import ReservoirBuffer
    >>> buffer = ReservoirBuffer(3, seed=0)
    >>> buffer.add(x=np.arange(100.0).reshape(-1, 1), y=np.arange(100))
    >>> len(buffer), buffer.rows()["x"].shape
    (3, (3, 1))
    """

    _holds = ("capacity", "generator", "seen", "columns")

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        super().__init__(capacity, seed=seed)
        self._columns: dict[str, Any] = {}
        self._seen = 0

    def __len__(self) -> int:
        return min(self._seen, self.capacity)

    @property
    def seen(self) -> int:
        """How many samples it has been offered."""
        return self._seen

    def add(
        self,
        *,
        group: int | tuple[int, ...] = 0,
        features: Callable[[Any], Any] | None = None,
        **columns: Any,
    ) -> None:
        """Offer samples; `group` and `features` are ignored."""
        arrays = _columns(columns, self._columns)
        count = len(next(iter(arrays.values())))
        if not self._columns:
            self._columns = {
                name: np.zeros((self.capacity, *a.shape[1:]), a.dtype) for name, a in arrays.items()
            }
        self._columns = _as_wide(self._columns, arrays)
        numbers = np.arange(self._seen, self._seen + count)
        # A number in [0, n] for the n-th sample, n from 0, drawn even while the buffer fills.
        places = self._generator.integers(0, numbers + 1)
        places = np.where(numbers < self.capacity, numbers, places)
        kept = places < self.capacity
        for name, array in arrays.items():
            # If several rows get the same place, the last one stays.
            self._columns[name][places[kept]] = array[kept]
        self._seen += count

    def rows(self) -> dict[str, Any]:
        """Return what is kept, by column; do not write to it."""
        return {name: column[: len(self)] for name, column in self._columns.items()}

    def _kept(self) -> Mapping[str, Any]:
        return self._columns

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state, as arrays and plain data."""
        return {**super().state_dict(), "seen": self._seen, "columns": _copied(self._columns)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        super().load_state_dict(state)
        self._seen, self._columns = state["seen"], _copied(state["columns"])


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

    def __init__(
        self, capacity: int, *, per_class: bool = False, select: str = "random", seed: int = 0
    ) -> None:
        super().__init__(capacity, seed=seed)
        self._per_class = _checks.flag("per_class", per_class)
        self._select = _checks.one_of("select", select, ("random", "herding"))
        self._groups: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, int] = {}

    @property
    def _herding(self) -> bool:
        return self._select == "herding"

    def __len__(self) -> int:
        return sum(len(columns["x"]) for columns in self._groups.values())

    def add(
        self,
        *,
        group: int | tuple[int, ...] = 0,
        features: Callable[[Any], Any] | None = None,
        **columns: Any,
    ) -> None:
        """Offer samples; those with the same label and the same `group` form one class."""
        arrays = _columns(columns, self._kept())
        if self._herding and features is None:
            raise ArgumentError(
                'select="herding" needs the features of samples: pass features, a function that'
                " computes them from x, or let Replay fill the buffer"
            )
        parts = {
            key: {name: array[mine] for name, array in arrays.items()}
            for key, mine in _parts(group, arrays["y"]).items()
        }
        seen = dict(self._seen)
        for key, part in parts.items():
            seen[key] = seen.get(key, 0) + len(part["x"])
        self.check_room(len(seen))
        quota = self.capacity if self._per_class else _share(self.capacity, seen.values())
        groups = {
            key: self._shrunk(_as_wide(kept, arrays), quota) for key, kept in self._groups.items()
        }
        for key, part in parts.items():
            groups[key] = self._joined(
                groups.get(key), part, quota, self._seen.get(key, 0), features
            )
        self._groups, self._seen = groups, seen

    def _kept(self) -> Mapping[str, Any]:
        return next(iter(self._groups.values()), {})

    def _check_new(self, group: _Group | None, columns: Mapping[str, Any]) -> dict[str, Any]:
        arrays = super()._check_new(group, columns)
        if group is None:
            return arrays
        if len(self._seen) + len(arrays["y"]) > self.capacity:  # else there is room anyway
            self.check_room(len(self._seen.keys() | _parts(group, arrays["y"]).keys()))
        return arrays

    def check_room(self, classes: int) -> None:
        """Refuse `classes` classes if there is not room for a sample of each.

        Raises
        ------
        ArgumentError
            If `capacity` is less than `classes`.
        """
        if not self._per_class and self.capacity < classes:
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
            chosen = herd(features(part["x"]), quota)
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

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state, as arrays and plain data."""
        groups = {key: _copied(columns) for key, columns in self._groups.items()}
        return {**super().state_dict(), "groups": groups, "seen": dict(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        super().load_state_dict(state)
        self._groups = {key: _copied(columns) for key, columns in state["groups"].items()}
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


def _parts(group: _Group, y: Any) -> dict[str, Any]:
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


def herd(features: Any, count: int) -> Any:
    r"""Choose rows one by one so that their mean stays nearest to that of all rows.

    The `k`-th choice is the row, of those not chosen yet, that minimizes
    :math:`\lVert \mu - \frac1k \sum_{j \le k} \varphi_j \rVert`, where features :math:`\varphi`
    have unit length.
    """
    unit = unit_length(np.asarray(features, dtype=np.float64))
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


def _copied(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: column.copy() for name, column in columns.items()}


def _as_wide(kept: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Cast what is kept to the dtypes of `arrays`, which hold both: no label changes."""
    return {name: column.astype(arrays[name].dtype, copy=False) for name, column in kept.items()}


def _columns(columns: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns as arrays, if they have equally many rows and match what is kept.

    Their dtypes can hold what is kept, too.
    """
    arrays: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for name, column in columns.items():
        arrays[name] = _arrays.as_array(column, name)
        if not arrays[name].ndim:
            raise ShapeError(
                f"a buffer needs arrays with a row for each sample; {name} is not one: its shape"
                " is ()"
            )
        lengths[name] = len(arrays[name])
    if "x" not in arrays or "y" not in arrays or len(set(lengths.values())) > 1:
        raise ShapeError(
            "a buffer needs x and y, and all of its arrays must have the same number of rows; got"
            f" {lengths}"
        )
    if kept and arrays.keys() != kept.keys():
        raise ArgumentError(
            f"this buffer keeps {', '.join(kept)}; got {', '.join(arrays)}. Give each strategy a"
            " buffer of its own"
        )
    for name, column in kept.items():
        new = arrays[name]
        if new.shape[1:] != column.shape[1:]:
            raise ShapeError(
                f"this buffer keeps rows of {name} of shape {column.shape[1:]}; got {new.shape[1:]}"
            )
        if new.dtype == column.dtype:
            continue
        wide = _wide(new.dtype, column.dtype)
        # Labels cast to floating point would no longer be classes.
        if wide is None or (name == "y" and are_labels(column) and wide.kind == "f"):
            raise DtypeError(
                f"this buffer keeps {name} as {column.dtype}, which cannot hold {new.dtype}; give"
                f" {name} the same dtype in all tasks and steps"
            )
        arrays[name] = new.astype(wide, copy=False)
    return arrays


def _wide(one: Any, other: Any) -> Any:
    """Return the dtype that holds both, if there is one of the same kind as either."""
    try:
        wide = np.promote_types(one, other)
    except TypeError:
        return None
    return wide if wide.kind in one.kind + other.kind else None
