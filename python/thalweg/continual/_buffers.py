"""Memories of samples, of a fixed size.

A buffer keeps matching rows of several arrays (``x``, ``y``, and what a strategy adds, such as
logits). It has its own random number generator, so what it keeps does not depend on random numbers
drawn elsewhere. `_balanced` has those that keep classes apart.
"""

from __future__ import annotations

import copy
import inspect
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._fixed import Fixed
from thalweg._habits import is_ours, is_own, our_kind, takes
from thalweg.continual import _protocol, _state
from thalweg.continual._task import are_labels
from thalweg.errors import ArgumentError, DtypeError, ShapeError

#: What samples belong to besides their class.
Group: TypeAlias = int | tuple[int, ...]

#: Held while a buffer changes or is drawn from: threads would mix up its rows. One for all buffers,
#: since a fork has to wait for each of them: in the child process, NumPy's lock of a random
#: generator that another thread draws from would stay locked. Whoever holds it calls nothing of a
#: user's, which could fork or wait for a thread that needs it, and nothing of the core; except
#: for `rows` and ``__len__`` in a subclass of one of ours, whose rows would be mixed up without it.
LOCK = threading.RLock()


def _unlock_child() -> None:
    global LOCK
    LOCK = threading.RLock()  # a signal's handler may have forked while its thread held the old one


if hasattr(os, "register_at_fork"):
    # The last registered comes first: a fork gets this lock before it holds up calls of the core.
    os.register_at_fork(
        before=lambda: LOCK.acquire(),
        after_in_parent=lambda: LOCK.release(),
        after_in_child=_unlock_child,
    )


class Buffer(Fixed):
    """Base of all buffers.

    A new buffer overrides `add`, `rows` and ``__len__``. Its state is everything that it keeps in
    attributes, so that it can be copied, saved and resumed: arrays, plain data, random generators,
    and anything with `state_dict` and `load_state_dict`. Arguments that its ``__init__`` keeps
    under their names do not belong to the state, except arrays, lists, dicts, and numbers, flags
    and text that are set to something else later.

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
    A buffer of the latest samples, as `RecentBuffer` is one:

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
    #: Arguments as its constructor has kept them: a user's class may set them later.
    _made_with: Mapping[str, Any] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Note what constructors keep."""
        super().__init_subclass__(**options)
        _protocol.noting(cls, "__init__", Buffer._note_made)

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
        self.capacity: int = _checks.integer("capacity", capacity, 1)
        self.seed: int = _checks.integer("seed", seed, 0)
        self._generator = np.random.default_rng(self.seed)
        self._note_made()

    def _note_made(self) -> None:
        if self._is_custom():
            kept, names = vars(self), inspect.signature(type(self)).parameters
            there = [it for name in names for it in (name, f"_{name}") if it in kept]
            self._made_with = {name: kept[name] for name in there}

    def __len__(self) -> int:
        raise NotImplementedError

    def add(
        self,
        *,
        group: int | tuple[int, ...] = 0,
        features: Callable[[Any], Any] | None = None,
        **columns: npt.ArrayLike,
    ) -> None:
        """Offer samples.

        Parameters
        ----------
        group : int or tuple of int, keyword only, default 0
            What they belong to besides their labels, usually the task's index.
        features : callable, keyword only, optional
            Computes the features of samples `x`, for buffers that select by features.
        **columns : array_like
            ``x``, ``y`` and others, numbers with the same number of rows. Samples of different
            dtypes are kept in one that can hold all of them; longer floats as float64.

        Raises
        ------
        ShapeError, DtypeError, ArgumentError
            If the columns are not numbers, do not match each other or what is kept (for example,
            numbers where labels are kept), or there is no room for them; what is kept stays as it
            is.
        """
        raise NotImplementedError

    def rows(self) -> dict[str, Any]:
        """Return what is kept, by column; do not write to it."""
        raise NotImplementedError

    def sample(self, size: int) -> dict[str, Any]:
        """Draw samples without replacement; all of them if there are fewer than `size`.

        Parameters
        ----------
        size : int
            How many, 0 or more.

        Returns
        -------
        dict of str to array
            Columns as `rows` gives them, in a random order.

        Raises
        ------
        ArgumentError
            If `size` is not such a number.
        """
        size = _checks.integer("size", size, 0)
        there = len(self)
        with LOCK:
            places = self._generator.choice(there, min(size, there), replace=False)
        return self._take(places)

    def _content(self) -> Any:
        """Return an object that is another one whenever what is kept has changed; None if unknown.

        It is not known of a user's class.
        """
        return None

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

    def _check_new(self, group: Group | None, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return new samples as arrays, if `add` will accept them, perhaps with more columns.

        Without a group, they need no room.
        """
        kept = self._kept()
        kept = {name: kept[name] for name in columns if name in kept}
        return matching(as_columns(columns), kept)

    if not TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name

        def __getattr__(self, name: str) -> Any:
            """Say why there is nothing to draw with."""
            if is_own(self, name):
                return object.__getattribute__(self, name)
            more = ": its __init__ must call super().__init__(capacity)" * (name == "_generator")
            text = f"{type(self).__name__} has no attribute {name!r}{more}"
            raise AttributeError(text, name=name, obj=self)

    def __getstate__(self) -> dict[str, Any]:
        with LOCK:  # all of one moment: others may draw before this is copied or written
            generator = vars(self).get("_generator")  # none without our __init__
            drawn = copy.deepcopy(generator)
            # A subclass may have it under another name, too.
            return {k: drawn if value is generator else value for k, value in vars(self).items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state, as arrays and plain data; all of it is copied.

        For a buffer of your own, that is everything in its attributes.
        """
        with LOCK:
            generator = self._generator.bit_generator.state
            state = {
                "kind": self._kind(),
                "capacity": self._capacity_made(),
                "generator": generator,
            }
            state |= self._state_kept()
        if self._is_custom():
            state["attributes"] = {
                name: _state.given(vars(self)[name]) for name in self._attributes()
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Parameters
        ----------
        state : dict
            That state.

        Raises
        ------
        ArgumentError
            If it is from another kind of buffer, or from one of another capacity.
        ShapeError
            If its columns do not match each other, or the number of samples; nothing is loaded
            then.
        """
        self._check_state(state)
        with LOCK:
            self._generator.bit_generator.state = state["generator"]
            self._keep_state(state)
        attributes = state.get("attributes")
        if attributes is None:  # those of a subclass with its own `state_dict`, or of ours
            return
        for name in {*self._attributes()} - {*attributes}:  # added, or set to something else since
            if name in self._made_with:
                setattr(self, name, self._made_with[name])
            else:
                delattr(self, name)
        for name, value in attributes.items():
            setattr(self, name, _state.taken(value, vars(self).get(name)))

    def _state_kept(self) -> dict[str, Any]:
        """Return a copy of what it keeps, under the names of its state; for our own buffers."""
        return {}

    def _keep_state(self, state: Mapping[str, Any]) -> None:
        """Keep a copy of what `_state_kept` returned."""

    def _capacity_made(self) -> int:
        """Return the capacity that it was made with."""
        capacity: int = self._made_with.get("capacity", self.capacity)
        return capacity

    def _kind(self) -> str:
        """Return the name of its class, or of the nearest base that is thalweg's."""
        return our_kind(type(self)).__name__

    def _is_custom(self) -> bool:
        return not is_ours(type(self))

    def _attributes(self) -> list[str]:
        """Return the names of the attributes that belong to the state of a user's subclass."""
        if not self._is_custom():
            return []
        known = {*self._holds, *(f"_{key}" for key in self._holds), "_generator", "_made_with"}
        parameters = inspect.signature(type(self)).parameters
        known |= {
            name
            for name, value in vars(self).items()
            if (name in parameters or name.removeprefix("_") in parameters)
            and not isinstance(value, (np.ndarray, list, dict))
            and not _state.has_state(value)
        }
        known -= self._set_since()
        return [name for name in vars(self) if name not in known]

    def _set_since(self) -> set[str]:
        """Return the names of arguments that have become another number, flag or text, or None."""
        kept, plain = vars(self), (bool, int, float, str, type(None))
        both = [(name, was, kept[name]) for name, was in self._made_with.items() if name in kept]
        return {
            name
            for name, was, now in both
            if isinstance(now, plain) and not (isinstance(was, plain) and now == was)
        }

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of an incompatible buffer before anything is loaded."""
        name, needed = type(self).__name__, self._holds
        if not isinstance(state, Mapping):
            raise ArgumentError(
                f"state must be a dict, as returned by {name}.state_dict(); got"
                f" {_checks.short(state)}"
            )
        if self._is_custom() and type(self).state_dict.__module__.startswith("thalweg."):
            needed = (*needed, "attributes")
        missing = [key for key in needed if key not in state]
        attributes, mine = state.get("attributes", {}), self._attributes()
        if not missing and not {*attributes} <= {*mine}:  # more were added, or it is another kind
            known = attributes.keys() | self._set_since()
            missing = [key for key in mine if key not in known]
        if missing:
            raise ArgumentError(
                f"the state does not match this {name}: it has no {', '.join(missing)}; load it"
                " into a buffer of the kind that it came from"
            )
        if state.get("kind", self._kind()) != self._kind():
            raise ArgumentError(
                f"the state is from a {state['kind']}, but this is a {self._kind()}; load it into a"
                " buffer of the kind that it came from"
            )
        for key, value in attributes.items():
            _state.check(name, key, value, vars(self).get(key))
        here = self._capacity_made()
        capacity = state.get("capacity", here)
        if capacity != here:
            raise ArgumentError(
                f"the state is from a {name} with capacity={capacity}, but this one has"
                f" capacity={here}"
            )


class _OverwritingBuffer(Buffer):
    """Base of those that give each new sample a place, where it replaces the one that was there."""

    _holds = ("capacity", "generator", "seen", "columns")
    #: What `_finish` has to write: columns, places in them, rows by column, and how many samples
    #: have been offered then.
    _unwritten: tuple[dict[str, Any], Any, dict[str, Any], int] | None = None

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        super().__init__(capacity, seed=seed)
        self._columns: dict[str, Any] = {}
        self._seen = 0

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} of at most {self.capacity} rows>"

    @property
    def seen(self) -> int:
        """How many samples it has been offered."""
        self._finish()
        return self._seen

    def add(
        self,
        *,
        group: int | tuple[int, ...] = 0,
        features: Callable[[Any], Any] | None = None,
        **columns: npt.ArrayLike,
    ) -> None:
        """Offer samples; `group` and `features` are ignored."""
        new = as_columns(columns)
        with LOCK:
            arrays = matching(new, self._kept())
            count = len(next(iter(arrays.values())))
            kept = self._columns or {name: array[:0] for name, array in arrays.items()}
            most = min(self._seen + count, self.capacity)
            roomy = {
                name: self._with_room(column, most)
                for name, column in as_wide(kept, arrays).items()
            }
            places = self._places(np.arange(self._seen, self._seen + count))
            enters = places < self.capacity
            entering = {name: array[enters] for name, array in arrays.items()}
            self._unwritten = roomy, places[enters], entering, self._seen + count
            self._finish()

    def sample(self, size: int) -> dict[str, Any]:
        """Draw samples without replacement; all of them if there are fewer than `size`."""
        with LOCK:  # none is added meanwhile
            return super().sample(size)

    def _places(self, numbers: Any) -> Any:
        """Return the places of samples by their numbers, from 0; outside, they are not kept."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what `add` has decided on, if anything is left of it.

        A signal handler may raise between two columns: what uses the buffer next then writes all
        of them again, or a row of one would stay beside that of another sample.
        """
        if self._unwritten is None:
            return
        with LOCK:
            if self._unwritten is not None:  # else another thread has
                columns, places, arrays, seen = self._unwritten
                for name, array in arrays.items():
                    columns[name][places] = array  # of rows with the same place, the last one stays
                self._columns, self._seen, self._unwritten = columns, seen, None

    def _with_room(self, column: Any, rows: int) -> Any:
        """Return a column with at least some rows: twice as many if it has to grow."""
        if len(column) >= rows:
            return column
        rows = min(max(rows, 2 * len(column)), self.capacity)
        room = np.zeros((rows, *column.shape[1:]), column.dtype)
        room[: len(column)] = column
        return room

    def rows(self) -> dict[str, Any]:
        """Return what is kept, by column; do not write to it. `add` may change it."""
        with LOCK:
            return {name: column[: len(self)] for name, column in self._kept().items()}

    def _kept(self) -> Mapping[str, Any]:
        self._finish()
        return self._columns

    def _content(self) -> Any:
        return None if self._is_custom() else self._kept()

    def _attributes(self) -> list[str]:
        return [name for name in super()._attributes() if name != "_unwritten"]

    def __getstate__(self) -> dict[str, Any]:
        with LOCK:
            kept = copied(_OverwritingBuffer.rows(self))  # without empty rows
            return {**super().__getstate__(), "_columns": kept}

    def _state_kept(self) -> dict[str, Any]:
        kept = copied(_OverwritingBuffer.rows(self))
        return {"seen": self._seen, "columns": kept}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        seen = _checks.integer("seen", state["seen"], 0)
        rows = len(as_columns(state["columns"])["y"]) if state["columns"] else 0
        if rows != min(seen, self.capacity) and not self._is_custom():  # whose length may differ
            raise ShapeError(
                f"the state has {rows} of {seen} samples, but a buffer with"
                f" capacity={self.capacity} keeps {min(seen, self.capacity)} of them"
            )

    def _keep_state(self, state: Mapping[str, Any]) -> None:
        columns = copied(state["columns"])
        self._seen, self._columns, self._unwritten = state["seen"], columns, None


class ReservoirBuffer(_OverwritingBuffer):
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

    @takes("ReservoirBuffer", {})
    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        super().__init__(capacity, seed=seed)

    def _places(self, numbers: Any) -> Any:
        # A number in [0, n] for the n-th sample, n from 0, drawn even while the buffer fills.
        places = self._generator.integers(0, numbers + 1)
        return np.where(numbers < self.capacity, numbers, places)


class RecentBuffer(_OverwritingBuffer):
    r"""Keeps the latest samples: a sliding window over a stream.

    Replay of a `ReservoirBuffer` holds on to what a stream was like before it changed, which is
    wrong if the same samples have other targets now. With this one, what is replayed is never older
    than `capacity` samples.

    Parameters
    ----------
    capacity : int
        How many samples it keeps.
    seed : int, keyword only, default 0
        Seed of its random numbers, by which `sample` draws.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Examples
    --------
    The `n`-th sample, `n` from 0, is row `n` modulo `capacity`:

    >>> import numpy as np
    >>> from thalweg.continual import RecentBuffer
    >>> buffer = RecentBuffer(4)
    >>> for part in np.split(np.arange(6), 3):
    ...     buffer.add(x=part.reshape(-1, 1), y=part)
    >>> buffer.rows()["y"]
    array([4, 5, 2, 3])
    """

    @takes("RecentBuffer", {})
    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        super().__init__(capacity, seed=seed)

    def _places(self, numbers: Any) -> Any:
        return numbers % self.capacity


def copied(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: column.copy() for name, column in columns.items()}


def as_wide(kept: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Cast what is kept to the dtypes of `arrays`, which hold both: no label changes."""
    return {name: column.astype(arrays[name].dtype, copy=False) for name, column in kept.items()}


def as_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns as arrays, if they have equally many rows."""
    arrays: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for name, column in columns.items():
        array = _arrays.as_numeric(column, name, labels=name == "y")
        # A file holds no longer floats, which are longer than any model's.
        arrays[name] = (
            _arrays.as_dtype(array, np.dtype(np.float64), name)
            if array.dtype.itemsize > 8
            else array
        )
        if not array.ndim:
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
    return arrays


def matching(arrays: dict[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns in dtypes that can hold what is kept, too, if they match that."""
    if kept and arrays.keys() != kept.keys():
        raise ArgumentError(
            f"this buffer keeps {', '.join(kept)}; got {', '.join(arrays)}. Give each strategy a"
            " buffer of its own"
        )
    wider = dict(arrays)
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
        wider[name] = new.astype(wide, copy=False)
    return wider


def _wide(one: Any, other: Any) -> Any:
    """Return the dtype that holds both, if there is one of the same kind as either."""
    try:
        wide = np.promote_types(one, other)
    except TypeError:
        return None
    return wide if wide.kind in one.kind + other.kind else None
