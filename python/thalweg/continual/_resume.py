"""A run of continual learning, or a strategy, in one file, to be resumed where it was left.

It can be resumed only with what it was created with: the data of a run, and all arguments of
trainer, strategies and buffers, which the file would otherwise silently override.
"""

import inspect
import itertools
import json
import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg import _safetensors
from thalweg._trainer import Trainer
from thalweg.continual._buffers import Buffer
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Changed, Scenario, Task
from thalweg.errors import ArgumentError, DataError, UnsupportedError

#: The version of the format that this module writes.
_VERSION = 4
#: Stands for what only one of two settings has.
_NOTHING = {"type": "nothing"}


def links(strategy: Strategy) -> list[Strategy]:
    """Return a strategy and those inside it, the outermost first."""
    inside = [] if strategy.inner is None else links(strategy.inner)
    return [strategy, *inside]


def chosen(strategy: Strategy, scenario: Scenario | None = None) -> dict[str, Any]:
    """Describe what a run was created with: the data, the model, and all arguments.

    Without a scenario, describe what a strategy was created with.
    """
    checksum, model = _checksums(), strategy.trainer.model
    found = strategy.trainer._made_with()
    if "active" in found["loss"] and any(task.active is not None for task in scenario or ()):
        found["loss"]["active"] = "of the latest task"
    names = [type(link).__name__ for link in links(strategy)]
    for place, link in enumerate(links(strategy)):
        # If several have the same type, the place in the chain, from the outermost, tells which.
        name = names[place] + (f"[{place}]" if names.count(names[place]) > 1 else "")
        found |= {f"{name}.{key}": value for key, value in _arguments(link, checksum).items()}
    found["strategy"], found["seed"] = names, model.seed
    layers = {str(place): repr(layer) for place, layer in enumerate(model.layers)}
    found["model"] = {"dtype": model.dtype.name, "layers": layers}
    return found if scenario is None else found | {"tasks": _data(scenario, checksum)}


def _arguments(thing: Strategy | Buffer, checksum: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the arguments that something was created with, which it keeps under their names."""
    found: dict[str, Any] = {}
    gathered = thing._names_gathered() if isinstance(thing, Strategy) else ()
    for name in inspect.signature(type(thing).__init__).parameters:
        for kept in (name, f"_{name}"):
            if kept in vars(thing) and kept not in gathered:
                value = _compared(vars(thing)[kept], checksum)
                if value is not _NOTHING:
                    found[name] = value
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
            array = np.ascontiguousarray(value)
            of = f"{array.dtype} {array.shape} with checksum {zlib.crc32(array.data):08x}"
            known[id(value)] = value, of  # kept alive, so that its id is not reused
        return known[id(value)][1]

    return checksum


def save(
    path: str | os.PathLike[str],
    strategy: Strategy,
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


def load(
    path: str | os.PathLike[str], strategy: Strategy, setting: dict[str, Any]
) -> dict[str, Any]:
    """Restore strategy and trainer, and return the progress of the run.

    For a strategy alone, whose setting includes no data, the file may come from any run.

    Raises
    ------
    OSError
        If the file cannot be read.
    DataError
        If it holds no such run.
    UnsupportedError
        If a version of thalweg with another format wrote it.
    ArgumentError
        If the run has another setting, model or optimizer.
    """
    arrays, text = _safetensors.load(path)
    if "thalweg.continual" not in text:
        raise DataError(f"{os.fspath(path)!r} holds no run of thalweg.continual.run, or strategy")
    saved = json.loads(text["thalweg.continual"])
    if saved["version"] != _VERSION:
        raise UnsupportedError(
            f"this run has format {saved['version']}; this version of thalweg reads {_VERSION}"
        )
    was, now = saved["setting"], json.loads(json.dumps(setting))
    if "tasks" not in now:
        was = {key: value for key, value in was.items() if key in now}
        for one in (was, now):
            one["loss"].pop("active", None)  # depends on what was learned last
    other = _differences(was, now)
    if other:
        raise ArgumentError(
            f"{os.fspath(path)!r} is of another run: {'; '.join(other)}. Make everything as it was"
            " to go on, or choose another checkpoint (or resume=False) to begin anew"
        )
    state = _unpack(saved["strategy"], arrays)
    strategy._check_state(state)
    loaded = Trainer.load(path)
    trainer: Any = strategy.trainer
    trainer._become(loaded)
    if trainer.loss != loaded.loss:
        trainer.loss = loaded.loss  # the classes that compete, for instance
    strategy.load_state_dict(state)
    progress: dict[str, Any] = saved["progress"]
    return progress


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


def packed(strategy: Strategy, arrays: dict[str, Any]) -> Any:
    """Return what strategies have gathered as plain data, and add their arrays to `arrays`.

    Raises
    ------
    UnsupportedError
        If something in it is neither.
    """
    try:
        return _pack(strategy.state_dict(), "strategy", arrays)
    except _NoFile as error:
        value, name = error.args
        inside = itertools.takewhile("inner".__eq__, name.split(".")[1:])
        who = type(links(strategy)[len(list(inside))]).__name__
        raise UnsupportedError(
            f"the state of {who} holds {value!r} ({name}), which no file can hold: let"
            f" {who}.state_dict give arrays and plain data in its place, and {who}.load_state_dict"
            " make it of them again"
        ) from None


class _NoFile(Exception):
    """Something that is neither an array nor plain data, and where it was."""


def _pack(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """Move the arrays out of nested plain data."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(key): _pack(item, f"{name}.{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, f"{name}.{place}", arrays) for place, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise _NoFile(value, name)


def _unpack(value: Any, arrays: dict[str, Any]) -> Any:
    """Put the arrays back."""
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]].copy()
        return {key: _unpack(item, arrays) for key, item in value.items()}
    return value
