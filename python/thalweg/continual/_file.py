"""A run of continual learning in one file, so that it can go on from wherever it was left."""

import json
import os
from typing import Any

import numpy as np

from thalweg import _safetensors
from thalweg._trainer import Trainer
from thalweg.continual._strategy import Strategy
from thalweg.errors import ArgumentError, DataError, UnsupportedError

#: Of what this module writes.
_VERSION = 1


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
        If a later version of thalweg wrote it.
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
    wanted = json.loads(json.dumps(setting))
    known = saved["setting"].keys()  # of an earlier version, perhaps not all
    was = {key: value for key, value in saved["setting"].items() if key in wanted}
    other = _differences(was, {key: wanted[key] for key in known & wanted.keys()})
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
    if both and was.keys() == now.keys() and was.get("type") == now.get("type"):
        parts = [_differences(was[key], now[key], f"{name}.{key}".strip(".")) for key in was]
        return [part for found in parts for part in found]
    return [] if was == now else [f"{name} was {_said(was)}, now it is {_said(now)}"]


def _said(value: Any) -> str:
    """Show what was described as it would be written."""
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
