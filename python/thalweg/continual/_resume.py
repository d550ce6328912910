"""A run of continual learning, or a strategy, in one file, to be resumed where it was left.

It can be resumed only with what it was created with: the data of a run, and all arguments of
trainer, strategies and buffers, which the file would otherwise silently override.
"""

import inspect
import itertools
import json
import os
import re
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from thalweg import _arrays, _checks, _safetensors
from thalweg._habits import is_ours
from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.continual import _protocol, _undo
from thalweg.continual._buffers import Buffer
from thalweg.continual._state import changed_arrays, crc, model_changed, without_model
from thalweg.continual._task import Changed, Scenario, Task
from thalweg.errors import ArgumentError, DataError, DivergedError, UnsupportedError
from thalweg.nn import Sequential
from thalweg.optim import Optimizer

if TYPE_CHECKING:
    from thalweg.continual._strategy import Strategy

#: The version of the format that this module writes.
_VERSION = 8
_Progress = TypeVar("_Progress")
#: Stands for what only one of two settings has.
_NOTHING = {"type": "nothing"}


def chosen(strategy: "Strategy", scenario: Scenario | None = None) -> dict[str, Any]:
    """Describe what a run was created with: the data, the model, and all arguments.

    Without a scenario, describe what a strategy was created with.
    """
    checksum = _checksums()
    found = _of_trainer(strategy.trainer)
    if "active" in found["loss"] and any(task.active is not None for task in scenario or ()):
        found["loss"]["active"] = "of the latest task"
    names = [type(link).__name__ for link in _protocol.links(strategy)]
    for place, link in enumerate(_protocol.links(strategy)):
        # If several have the same type, the place in the chain, from the outermost, tells which.
        name = names[place] + (f"[{place}]" if names.count(names[place]) > 1 else "")
        found |= {f"{name}.{key}": value for key, value in _arguments(link, checksum).items()}
    found["strategy"] = names
    return found if scenario is None else found | {"tasks": _data(scenario, checksum)}


def _of_trainer(trainer: Trainer, *, any_loss: bool = False) -> dict[str, Any]:
    """Describe what a trainer was created with."""
    model = trainer.model
    # As the model was made: the numbers of a `Standardize` may have been set since.
    layers = {str(place): repr(layer) for place, layer in enumerate(model._layers)}
    about = {"seed": model.seed, "model": {"dtype": model.dtype.name, "layers": layers}}
    return trainer._settings(any_loss=any_loss) | about


def _arguments(thing: "Strategy | Buffer", checksum: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the arguments that something was created with, which it keeps under their names."""
    found: dict[str, Any] = {}
    gathered = () if isinstance(thing, Buffer) else thing._names_gathered()
    attributes = {**vars(thing), **getattr(thing, "_made_with", {})}
    for name in inspect.signature(type(thing).__init__).parameters:
        for kept in (name, f"_{name}"):
            value = attributes.get(kept, _NOTHING)
            # What is gathered changes, but not the arguments that a buffer was created with.
            if kept in gathered and not isinstance(value, Buffer):
                continue
            compared = _compared(value, checksum)
            if compared is not _NOTHING:
                found[name] = compared
    for name in gathered:
        if isinstance(value := vars(thing).get(name), Trainer):
            found[name] = _of_trainer(value, any_loss=True)
            found[name]["loss"].pop("active", None)  # which is part of its state
    return found


def _compared(value: Any, checksum: Callable[[Any], Any]) -> Any:
    """Return an argument as plain data, or `_NOTHING` if it cannot be compared."""
    if isinstance(value, Buffer):
        return {"type": type(value).__name__, **_arguments(value, checksum)}
    if isinstance(value, Scenario):
        return _data(value, checksum)
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return checksum(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        items = [_compared(item, checksum) for item in value]
        return _NOTHING if _NOTHING in items else items
    return value if value is None or isinstance(value, (bool, int, float, str)) else _NOTHING


def _data(scenario: Scenario, checksum: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what identifies the tasks of a scenario."""
    return {str(task.index): _of_task(task, checksum) for task in scenario}


def _of_task(task: Task, checksum: Callable[[Any], Any]) -> dict[str, Any]:
    content = {name: checksum(value) for name, value in task._content().items()}
    of = {"name": task.name, "rows": len(task.y), "classes": task.classes, "active": task.active}
    return of | content


def _checksums() -> Callable[[Any], Any]:
    """Return a function that tells arrays apart; arrays shared by tasks are read only once."""
    known: dict[int, tuple[Any, str]] = {}

    def checksum(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Changed):  # its source is shared with other tasks
            return f"{checksum(value.source)}, by {value.change!r}"
        if id(value) not in known:
            array = np.asarray(value)
            if array.dtype.hasobject:  # whose bytes are places in memory
                array = _arrays.as_numeric(array, "data")
            of = f"{array.dtype} {array.shape} with checksum {crc(array):08x}"
            known[id(value)] = value, of  # kept alive, so that its id is not reused
        return known[id(value)][1]

    return checksum


def save(
    path: str | os.PathLike[str],
    strategy: "Strategy",
    setting: dict[str, Any],
    progress: dict[str, Any],
) -> None:
    """Write a trainer, what its strategies have gathered, and the progress of the run.

    `setting` must be the same when the run is resumed. The file is one that `Trainer.save` writes,
    with additional content.
    """
    arrays, text = strategy.trainer._content()
    plain = {"strategy": packed(strategy, arrays), "progress": progress}
    text["thalweg.continual"] = json.dumps({"version": _VERSION, "setting": setting, **plain})
    _safetensors.save(path, arrays, text)
    for link in _users(strategy):  # now that nothing can be lost
        for name in changed_arrays(link, _held(strategy)):
            warn(
                f"the array {type(link).__name__}.{name} is not in the file: if later steps need"
                f' it, list it in the class, as in gathers = ("{name}",); if none does, call it'
                f" _{name}"
            )


def load(
    path: str | os.PathLike[str],
    strategy: "Strategy",
    setting: dict[str, Any],
    read: Callable[[Any], _Progress],
) -> _Progress:
    """Restore strategy and trainer, and return the progress of the run, as `read` returns it.

    For a strategy alone, whose setting includes no data, the file may come from any run. After an
    error, both are as they were; only if the model had diverged, there is nothing to go back to.

    Raises
    ------
    OSError
        If the file cannot be read.
    DataError
        If it holds no such run, or is damaged.
    UnsupportedError
        If a version of thalweg with another format wrote it.
    ArgumentError
        If the run has another setting, model or optimizer.
    """
    arrays, text = _safetensors.load(path)
    if "thalweg.continual" not in text:
        raise DataError(
            f"{os.fspath(path)!r} holds neither a checkpoint of continual.run nor a strategy saved"
            " with strategy.save"
        )
    with _safetensors.whole(path):
        saved = json.loads(text["thalweg.continual"])
        if saved["version"] != _VERSION:
            raise UnsupportedError(
                f"this file has format {saved['version']}; this version of thalweg reads"
                f" format {_VERSION}. Continue with the version that wrote the file, or learn anew"
            )
        was, now = saved["setting"], json.loads(json.dumps(setting))
        if "tasks" not in now:
            was = {key: value for key, value in was.items() if key in now}
            made_with = json.loads(text["thalweg.trainer"])["counts"]["base_lr"]
            for one in (was, now):
                one["loss"].pop("active", None)  # depends on what was learned last
                if made_with == strategy.trainer._base_lr:  # a rate that was set since is restored
                    one["optimizer"].get("base", one["optimizer"]).pop("lr", None)
        if was["strategy"] != now["strategy"]:  # then all arguments differ, too
            was, now = ({"strategy": one["strategy"]} for one in (was, now))
        other = _differences(was, now)
        progress, state = saved["progress"], _unpack(saved["strategy"], arrays)
    if other:
        advice = "To continue from it, create everything as before"
        if "tasks" in now:
            advice += "; to start a new run, use another checkpoint, or resume=False"
        elif any(_can_be_set(part, strategy) for part in other):
            advice += "; a rate or a strength can also be set to what it was, before loading"
        listed = _checks.clipped("; ".join(other))
        raise ArgumentError(f"{os.fspath(path)!r} has other settings: {listed}. {advice}")
    mismatch = None
    with _safetensors.whole(path):
        found = read(progress)
        try:
            strategy._check_state(state)
        except ArgumentError as error:  # a user's class gathers something else now
            mismatch = error
    if mismatch is not None:
        raise ArgumentError(f"{os.fspath(path)!r}: {mismatch}")
    loaded, trainer = Trainer.load(path), strategy.trainer
    try:
        before = _undo.Before(strategy)
    except DivergedError:
        before = None
    try:
        with _safetensors.whole(path, unless=_is_users):
            trainer._become(loaded)
            if trainer.loss != loaded.loss:
                trainer.loss = loaded.loss  # the classes that compete, for instance
            strategy.load_state_dict(state)
    except BaseException as error:
        if before is not None:
            before.restore(error)
        raise
    return found


def _is_users(error: BaseException) -> bool:
    """Whether an error is a mistake in a user's `load_state_dict`: not ours, that it calls."""
    users: Any = None  # the object whose own method is being called
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "load_state_dict":
            of = frame.f_locals.get((*frame.f_code.co_varnames, "")[0])
            if not frame.f_globals["__name__"].startswith("thalweg."):
                users = of
            elif of is users:  # super().load_state_dict(state)
                users = None
    return users is not None


def _can_be_set(difference: str, strategy: "Strategy") -> bool:
    """Whether what differs is a rate or a strength that can be set: not that of `LwF`."""
    name = difference.partition(" ")[0]
    kinds = {
        type(link).__name__
        for link in _protocol.links(strategy)
        if isinstance(getattr(type(link), "strength", None), property)
    }
    owner, _, what = re.sub(r"\[\d+\]", "", name).rpartition(".")
    return what == "lr" or (what == "strength" and owner in kinds)


def _differences(was: Any, now: Any, name: str = "") -> list[str]:
    """List the differences, by the smallest parts that differ."""
    both = isinstance(was, dict) and isinstance(now, dict)
    if both and was.get("type") == now.get("type"):
        parts = [
            _differences(was.get(key, _NOTHING), now.get(key, _NOTHING), f"{name}.{key}".strip("."))
            for key in was | now
        ]
        return [part for found in parts for part in found]
    return [] if was == now else [f"{name} was {_said(was)}, now it is {_said(now)}"]


def _said(value: Any) -> str:
    """Show a described value as it would be written in code."""
    if value == _NOTHING:
        return "nothing"
    if isinstance(value, dict) and "type" in value:
        arguments = (f"{key}={_said(item)}" for key, item in value.items() if key != "type")
        return f"{value['type']}({', '.join(arguments)})"
    return repr(value)


def packed(strategy: "Strategy", arrays: dict[str, Any]) -> Any:
    """Return what strategies have gathered as plain data, and add their arrays to `arrays`.

    Raises
    ------
    UnsupportedError
        If something in it is neither, or a user's strategy does not say that it belongs to it.
    """
    if (found := _unsaved(strategy)) is not None:
        link, name = found
        value = vars(link)[name]
        if isinstance(value, Optimizer):
            raise without_model(link, name)
        who, what = type(link).__name__, type(value).__name__
        made = ", and create it in __init__" if isinstance(value, Sequential | Trainer) else ""
        raise UnsupportedError(
            f"the {what} {who}.{name} would not be saved, so it would be lost when the file is"
            f' loaded: list it in the class, as in gathers = ("{name}",){made}'
        )
    try:
        return _pack(strategy.state_dict(), "strategy", arrays)
    except _NoFile as error:
        value, name = error.args
        path = name.split(".")[1:]
        inside = list(itertools.takewhile("inner".__eq__, path))
        owner: Any = _protocol.links(strategy)[len(inside)]
        within = vars(owner).get(path[len(inside)])
        who = type(within if isinstance(within, Buffer) else owner).__name__
        if isinstance(value, np.ndarray):
            masked = "a masked array" if isinstance(value, np.ma.MaskedArray) else "an array"
            raise UnsupportedError(
                f"the state of {who} contains {masked} of dtype {value.dtype} ({name}), which"
                " cannot be saved to a file: keep numbers as float64, int64 or another dtype of at"
                " most 8 bytes, text in lists, and a mask as an array of its own"
            ) from None
        raise UnsupportedError(
            f"the state of {who} contains {value!r} ({name}), which cannot be saved to a file: let"
            f" {who}.state_dict return arrays and plain data instead, and {who}.load_state_dict"
            " rebuild it from them"
        ) from None


def _unsaved(strategy: "Strategy") -> tuple["Strategy", str] | None:
    """Find a strategy of the user's, and an attribute of it that no file would hold.

    That is a buffer, a random generator, an optimizer that has taken steps, or a model, alone or in
    a trainer, that is not as the constructor made it, which is not in `gathers`.
    """
    held = _held(strategy)
    for link in _users(strategy):
        for name, value in vars(link).items():
            if id(value) in held:
                continue
            if isinstance(value, Sequential | Trainer):
                lost = model_changed(link, name)
            elif isinstance(value, Optimizer):
                lost = value.steps > 0
            else:
                lost = isinstance(value, Buffer | np.random.Generator)
            if lost:
                return link, name
    return None


def _held(strategy: "Strategy") -> set[int]:
    """Return the ids of what a file holds of a trainer and its strategies."""
    saved: list[Any] = [strategy.trainer]
    for link in _protocol.links(strategy):
        saved += [vars(link).get(name) for name in link._names_gathered()]
    parts = [(one.model, one.optimizer) for one in saved if isinstance(one, Trainer)]
    return {id(one) for one in [*saved, *itertools.chain.from_iterable(parts)]}


def _users(strategy: "Strategy") -> "list[Strategy]":
    """Return the user's strategies, except those that override `state_dict`.

    These are trusted to return what they need.
    """
    return [
        link
        for link in _protocol.links(strategy)
        if not _protocol.overrides(kind := type(link), "state_dict") and not is_ours(kind)
    ]


class _NoFile(Exception):
    """Something that is neither an array that a file can hold nor plain data, and where it was."""


def _pack(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """Move the arrays out of nested plain data."""
    if isinstance(value, np.ndarray):
        if not _safetensors.can_hold(value):
            raise _NoFile(value, name)
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not _is_tagged(value):
            return {key: _pack(item, f"{name}.{key}", arrays) for key, item in value.items()}
        # JSON has only text as keys.
        return {"dict": _pack([list(pair) for pair in value.items()], name, arrays)}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{name}.{place}", arrays) for place, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise _NoFile(value, name)


def _is_tagged(value: dict[str, Any]) -> bool:
    """Whether a dict looks like what `_pack` returns for something else."""
    return len(value) == 1 and not value.keys().isdisjoint(("array", "tuple", "dict"))


def _unpack(value: Any, arrays: dict[str, Any]) -> Any:
    """Put the arrays back."""
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]].copy()
        if value.keys() == {"tuple"}:
            return tuple(_unpack(value["tuple"], arrays))
        if value.keys() == {"dict"}:
            return dict(_unpack(pair, arrays) for pair in value["dict"])
        return {key: _unpack(item, arrays) for key, item in value.items()}
    return value
