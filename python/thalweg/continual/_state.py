"""State: what a strategy or buffer gathers, as arrays and plain data, exported and restored.

`_resume` writes it to files.
"""

import copy
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._habits import is_ours
from thalweg._spec import classes, rebuild
from thalweg._trainer import Trainer
from thalweg._trainer._file import _FUNCTION, _described
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError
from thalweg.nn import Sequential, _losses
from thalweg.optim import Optimizer

#: The key of the state of something that has its own `state_dict`.
_STATE = "its state"
#: The key under which a copy or pickle carries what `Strategy.state_dict` returned.
_GATHERED = "state_dict()"
#: Stands for the note of an array that was not there.
_NEW = object()


def has_state(value: Any) -> bool:
    """Whether something has a state that it can load, such as a buffer or a model."""
    both = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    return both or isinstance(value, np.random.Generator | Trainer)


def given(value: Any) -> Any:
    """Return a copy of what was gathered, or of its state."""
    if not has_state(value):
        return copy.deepcopy(value)
    if isinstance(value, np.random.Generator):
        state = value.bit_generator.state
    else:
        state = _of_trainer(value) if isinstance(value, Trainer) else value.state_dict()
    return {"of": type(value).__name__, _STATE: _copied(state, value)}


def check(owner: str, name: str, value: Any, there: Any) -> None:
    """Refuse what `given` returned, if `there` cannot take it.

    Raises
    ------
    ArgumentError
        If one has its own state and the other does not, or one of another kind.
    """
    if value is None:
        return
    is_state = isinstance(value, Mapping) and _STATE in value
    was = f"the state of a {value['of']}" if is_state else "plain data"
    now = f"the state of a {type(there).__name__}" if has_state(there) else "plain data"
    if was != now:
        both = is_state and has_state(there)
        advice = (
            "load it into one of the kind that it came from"
            if both
            else "create objects that have a state of their own in __init__"
        )
        raise ArgumentError(
            f"the state does not match this {owner}: its {name} is {was}, but here it is {now};"
            f" {advice}"
        )
    if hasattr(there, "_check_state"):  # a buffer
        there._check_state(value[_STATE])


def taken(value: Any, there: Any) -> Any:
    """Return a copy of what `given` returned, or `there` itself after it has loaded its state."""
    if value is None or not has_state(there):
        return copy.deepcopy(value)
    state = _copied(value[_STATE], there)
    if isinstance(there, np.random.Generator):
        there.bit_generator.state = state
    elif isinstance(there, Trainer):
        _to_trainer(there, state)
    else:
        there.load_state_dict(state)
    return there


def _of_trainer(trainer: Trainer) -> dict[str, Any]:
    """Return what `Trainer.save` keeps, except what the trainer was made with."""
    model = trainer.model
    return {
        "model": model.state_dict(),
        "passes": model._core.passes(),
        "loss": _described(trainer._loss),
        "optimizer": trainer.optimizer.state_dict(),
        "counts": copy.deepcopy({**trainer._counts(), "groups": []}),  # it was made with them
        "held": copy.deepcopy(trainer._held()),
    }


def _to_trainer(trainer: Trainer, state: dict[str, Any]) -> None:
    """Restore what `_of_trainer` returned."""
    trainer.model.load_state_dict(state["model"])
    trainer.model._core.set_passes(state["passes"])
    # The classes that compete may have changed; a function is not kept, as in `Trainer.save`.
    if state["loss"]["type"] != _FUNCTION and state["loss"] != _described(trainer._loss):
        trainer.loss = rebuild(state["loss"], classes(_losses))
    trainer._continue(state["optimizer"], *copy.deepcopy((state["counts"], state["held"])))


def _copied(state: Any, of: Any) -> Any:
    """Return a copy of a state, which our own classes make themselves: buffers can be large."""
    return state if is_ours(type(of)) else copy.deepcopy(state)


class Stateful:
    """The part of a strategy that exports and restores what it has gathered.

    A subclass lists attributes in `gathers`; what the trainer holds for it can be a property.
    """

    inner: Any
    trainer: Trainer
    _fixed: frozenset[str]
    gathers: tuple[str, ...]
    #: Those of a class that are arrays with a number for each parameter, in their last dimension.
    _by_parameter: tuple[str, ...] = ()
    #: Checksums of models that a user's constructor has made, by the names of attributes.
    _made: Mapping[str, int] = {}
    #: What `note_arrays` has noted, by the names of attributes.
    _noted: Mapping[str, Any] | None = None
    #: Arguments as they were then: a user's class may set them later.
    _made_with: Mapping[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Some of the state is in the core's trainer, which copies and pickles leave out.
        plain = {name for name in self._names_gathered() if not has_state(getattr(self, name))}
        others = {name: value for name, value in vars(self).items() if name not in plain}
        return {**others, _GATHERED: self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        gathered = state.pop(_GATHERED)
        vars(self).update(state)
        self.load_state_dict(gathered)

    def state_dict(self) -> dict[str, Any]:
        """Return what this strategy has gathered (not the trainer's), as arrays and plain data.

        All of it is copied, here and by `load_state_dict`.

        Raises
        ------
        UnsupportedError
            If it gathers an optimizer without its model.
        """
        values = {name: getattr(self, name) for name in self._names_gathered()}
        for name, value in values.items():
            if isinstance(value, Optimizer):
                raise without_model(self, name)
        state = {name.strip("_"): given(value) for name, value in values.items()}
        return state if self.inner is None else {**state, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Parameters
        ----------
        state : dict
            That state.

        Raises
        ------
        ArgumentError
            If it is not from such a strategy around such others; nothing is loaded then.
        ShapeError
            If it is from one whose model has other parameters; nothing is loaded then.
        DataError
            If it holds numbers that are not finite; nothing is loaded then.
        """
        self._check_state(state)
        for name in self._names_gathered():
            setattr(self, name, taken(state[name.strip("_")], vars(self).get(name)))
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])

    def _check_state(self, state: Any) -> None:
        """Refuse the state of a different strategy, or chain, before anything is loaded."""
        name = type(self).__name__
        if not isinstance(state, Mapping):
            raise ArgumentError(
                f"state must be a dict, as returned by {name}.state_dict(); got"
                f" {_checks.short(state)}"
            )
        needed = [name.strip("_") for name in self._names_gathered()]
        needed += [] if self.inner is None else ["inner"]
        missing = [part for part in needed if part not in state]
        if missing:
            raise ArgumentError(
                f"the state does not match this {name}: it has no {', '.join(missing)}; load it"
                " into strategies nested like those it came from"
            )
        if self.inner is None and "inner" in state:
            raise ArgumentError(
                f"the state does not match this {name}: it comes from one around another strategy,"
                " but this one is around a Trainer"
            )
        for attribute in self._names_gathered():
            value, there = state[attribute.strip("_")], vars(self).get(attribute)
            check(name, attribute, value, there)
            # A user's class may begin with a list, say, and go on with an array; ours only with
            # None, between tasks.
            fixed = is_ours(type(self)) and type(there) in (int, list) and value is not None
            if fixed and type(value) is not type(there):
                raise ArgumentError(
                    f"the state does not match this {name}: its {attribute.strip('_')} must be of"
                    f" type {type(there).__name__}; got {_checks.short(value)}"
                )
        for attribute in self._names_of("_by_parameter"):
            self._check_by_parameter(attribute.strip("_"), state[attribute.strip("_")])
        if self.inner is not None:
            self.inner._check_state(state["inner"])

    def _check_by_parameter(self, name: str, array: Any) -> None:
        """Refuse an array of a state that has no finite number for each of the parameters."""
        if array is None:
            return
        model, what = self.trainer.model, f"{name} in the state"
        array = _arrays.as_numeric(array, what)
        if array.shape[-1:] != (model.num_parameters,):
            raise ShapeError(
                f"{what} has shape {array.shape}, but the model of this {type(self).__name__} has"
                f" {model.num_parameters} parameters"
            )
        try:
            _arrays.finite(_arrays.as_dtype(array, model.dtype, name), name)
        except DataError as error:
            raise DataError(f"in the state, {error}") from None

    @classmethod
    def _names_gathered(cls) -> list[str]:
        """Return the names of the attributes that belong to the state."""
        return cls._names_of("gathers")

    @classmethod
    def _names_of(cls, listed: str) -> list[str]:
        """Return the names that an attribute of the class lists, with those of all bases."""
        return [name for kind in cls.__mro__ for name in vars(kind).get(listed, ())]


def note_made(strategy: Stateful) -> None:
    """Note what a constructor has made: models, those of trainers, and what it was given."""
    kept = vars(strategy)
    strategy._made = {
        name: _checksum(value)
        for name, value in kept.items()
        if isinstance(value, Sequential | Trainer)
    }
    strategy._made_with = {name: kept[name] for name in strategy._fixed & kept.keys()}


def model_changed(strategy: Stateful, name: str) -> bool:
    """Whether a model, or that of a trainer, is not as the constructor made it."""
    return strategy._made.get(name) != _checksum(vars(strategy)[name])


def note_arrays(strategy: Stateful) -> None:
    """Note the arrays of a user's strategy when it begins to learn."""
    if strategy._noted is None:
        strategy._noted = {name: _mark(array) for name, array in _arrays_of(strategy)}


def changed_arrays(strategy: Stateful, held: set[int]) -> list[str]:
    """Return the names of arrays that are not as they were then; each of them once.

    `held` are the ids of what is in the state. The note of one that was returned becomes None.
    """
    if strategy._noted is None:
        return []
    found = []
    for name, array in _arrays_of(strategy):
        if id(array) in held:
            continue
        was, now = strategy._noted.get(name, _NEW), _mark(array)
        if isinstance(was, np.ndarray) and isinstance(now, int) and not was.dtype.hasobject:
            was = crc(was)  # this may be a copy of it, which can be written to
        same = was is now or (isinstance(was, int) and isinstance(now, int) and was == now)
        if was is not None and not same:
            found.append(name)
    strategy._noted = {**strategy._noted, **dict.fromkeys(found)}
    return found


def _mark(array: npt.NDArray[Any]) -> Any:
    """Return a checksum, or the array itself if it stays as it is, or whoever has made it keeps it.

    These are arrays that cannot be written to, and those in files. Objects have no checksum.
    """
    kept = not array.flags.writeable or isinstance(array, np.memmap) or array.dtype.hasobject
    return array if kept else crc(array)


def _arrays_of(strategy: Stateful) -> list[tuple[str, npt.NDArray[Any]]]:
    """Return the arrays of a user's strategy that may be state, but are not gathered.

    Those with private names serve a moment only, as some of ours do.
    """
    if is_ours(type(strategy)):
        return []
    gathered = strategy._names_gathered()
    return [
        (name, value)
        for name, value in vars(strategy).items()
        if isinstance(value, np.ndarray) and name not in gathered and not name.startswith("_")
    ]


def without_model(strategy: Stateful, name: str) -> UnsupportedError:
    """Make the error for an optimizer whose averages would be restored without their model."""
    who, what = type(strategy).__name__, type(getattr(strategy, name)).__name__
    return UnsupportedError(
        f"the state of the optimizer {who}.{name} belongs to a model, and cannot be saved without"
        f" it: keep both in a trainer, self.{name} = tw.Trainer(model, loss=...,"
        f" optimizer=optim.{what}(...)), in __init__, and list that in the class, as in"
        f' gathers = ("{name}",)'
    )


def _checksum(of: Sequential | Trainer) -> int:
    return crc((of.model if isinstance(of, Trainer) else of).flat_parameters)


def crc(array: npt.NDArray[Any]) -> int:
    """Return a checksum of an array's bytes, which are not copied if they are contiguous."""
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.nbytes else 0
