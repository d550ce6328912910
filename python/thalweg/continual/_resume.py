"""A run of continual learning in one file, so that it can go on from wherever it was left.

It goes on only with what it was made of: the data, and all that trainer, strategies and buffers
were made with, which the file would silently win over.
"""

import inspect
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

#: Of what this module writes.
_VERSION = 2
#: In the place of what only one of two settings has.
_NOTHING = {"type": "nothing"}


def links(strategy: Strategy) -> list[Strategy]:
    """Give a strategy and those inside, the outermost first."""
    inside = [] if strategy.inner is None else links(strategy.inner)
    return [strategy, *inside]


def chosen(strategy: Strategy, scenario: Scenario) -> dict[str, Any]:
    """Give what a run is made of: the data, and the arguments of trainer and strategies."""
    checksum = _checksums()
    found = strategy.trainer._made_with()
    if "active" in found["loss"] and any(task.active is not None for task in scenario):
        found["loss"]["active"] = "of the latest task"
    for link in links(strategy):
        if type(link).__module__.startswith("thalweg."):
            name = type(link).__name__
            found |= {f"{name}.{key}": value for key, value in _arguments(link, checksum).items()}
    return found | {"tasks": _data(scenario, checksum)}


def _arguments(thing: Strategy | Buffer, checksum: Callable[[Any], Any]) -> dict[str, Any]:
    """Give the arguments that something was made with, which it keeps under their names."""
    found: dict[str, Any] = {}
    for name in inspect.signature(type(thing).__init__).parameters:
        for kept in (name, f"_{name}"):
            if kept in vars(thing):
                value = vars(thing)[kept]
                if isinstance(value, Buffer):
                    value = {"type": type(value).__name__, **_arguments(value, checksum)}
                elif isinstance(value, Scenario):
                    value = _data(value, checksum)
                if value is None or isinstance(value, bool | int | float | str | dict):
                    found[name] = value
    return found


def _data(scenario: Scenario, checksum: Callable[[Any], Any]) -> dict[str, Any]:
    """Give by what the tasks of a scenario are recognized."""
    return {str(task.index): _of_task(task, checksum) for task in scenario}


def _of_task(task: Task, checksum: Callable[[Any], Any]) -> dict[str, Any]:
    content = {name: checksum(value) for name, value in task._content().items()}
    of = {"name": task.name, "rows": len(task.y), "classes": task.classes, "active": task.active}
    return of | content


def _checksums() -> Callable[[Any], Any]:
    """Give a function that tells arrays apart; of tasks that share one it is computed once."""
    known: dict[int, tuple[Any, str]] = {}

    def checksum(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Changed):  # whose source is that of other tasks, too
            return f"{checksum(value.source)}, by {value.change!r}"
        if id(value) not in known:
            array = np.ascontiguousarray(value)
            of = f"{array.dtype} {array.shape} with checksum {zlib.crc32(array.data):08x}"
            known[id(value)] = value, of  # kept, so that no other one has its number
        return known[id(value)][1]

    return checksum


def save(
    path: str | os.PathLike[str],
    strategy: Strategy,
    setting: dict[str, Any],
    progress: dict[str, Any],
) -> None:
    """Write a trainer, what its strategies have gathered, and how far the run is.

    `setting` must be the same when the run is continued. The file is one of `Trainer.save`, with
    more in it.
    """
    arrays, text = strategy.trainer._content()
    plain = _pack({"strategy": strategy.state_dict(), "progress": progress}, "strategy", arrays)
    text["thalweg.continual"] = json.dumps({"version": _VERSION, "setting": setting, **plain})
    _safetensors.save(path, arrays, text)


def load(
    path: str | os.PathLike[str], strategy: Strategy, setting: dict[str, Any]
) -> dict[str, Any]:
    """Put strategy and trainer where they were, and give how far the run was.

    Raises
    ------
    OSError
        If the file cannot be read.
    DataError
        If it holds no such run.
    UnsupportedError
        If a version of thalweg with another format wrote it.
    ArgumentError
        If it is a run with another setting, or of another model or optimizer.
    """
    arrays, text = _safetensors.load(path)
    if "thalweg.continual" not in text:
        raise DataError(f"{os.fspath(path)!r} holds no run of thalweg.continual.run")
    saved = json.loads(text["thalweg.continual"])
    if saved["version"] != _VERSION:
        raise UnsupportedError(
            f"this run has format {saved['version']}; this version of thalweg reads {_VERSION}"
        )
    other = _differences(saved["setting"], json.loads(json.dumps(setting)))
    if other:
        raise ArgumentError(
            f"{os.fspath(path)!r} is of another run: {'; '.join(other)}. Make everything as it was"
            " to go on, or choose another checkpoint (or resume=False) to begin anew"
        )
    loaded = Trainer.load(path)
    trainer: Any = strategy.trainer
    trainer._become(loaded)
    if trainer.loss != loaded.loss:
        trainer.loss = loaded.loss  # the classes that compete, for instance
    strategy.load_state_dict(_unpack(saved["strategy"], arrays))
    progress: dict[str, Any] = _unpack(saved["progress"], arrays)
    return progress


def _differences(was: Any, now: Any, name: str = "") -> list[str]:
    """Say what is not as it was, by the smallest parts that differ."""
    both = isinstance(was, dict) and isinstance(now, dict)
    if both and was.get("type") == now.get("type"):
        parts = [
            _differences(was.get(key, _NOTHING), now.get(key, _NOTHING), f"{name}.{key}".strip("."))
            for key in was | now
        ]
        return [part for found in parts for part in found]
    return [] if was == now else [f"{name} was {_said(was)}, now it is {_said(now)}"]


def _said(value: Any) -> str:
    """Show what was described as it would be written."""
    if value == _NOTHING:
        return "nothing"
    if isinstance(value, dict) and "type" in value:
        arguments = (f"{key}={_said(item)}" for key, item in value.items() if key != "type")
        return f"{value['type']}({', '.join(arguments)})"
    return repr(value)


def _pack(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """Take the arrays out of nested plain data."""
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
    raise UnsupportedError(f"state_dict holds {value!r} ({name}), which no file can hold")


def _unpack(value: Any, arrays: dict[str, Any]) -> Any:
    """Put the arrays back."""
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]].copy()
        return {key: _unpack(item, arrays) for key, item in value.items()}
    return value
