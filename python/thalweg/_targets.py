"""Targets of custom losses: an array of anything, or several arrays by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg import _arrays, _habits
from thalweg.errors import ArgumentError, ShapeError


class Columns:
    """Arrays with equally many rows, which are indexed together like one array."""

    __slots__ = ("_rows", "named")

    def __init__(self, named: dict[str, Any], rows: int) -> None:
        self.named = named
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: Any) -> "Columns":
        picked = {name: array[rows] for name, array in self.named.items()}
        return Columns(picked, len(next(iter(picked.values()))))


def targets(y: Any, name: str, rows: int | None = None) -> Any:
    """Return `y` as one or several arrays whose rows can be indexed; `rows` is the length of x."""
    if type(y) is np.ndarray and y.ndim:  # the usual case
        return y
    if isinstance(y, Columns):  # already converted
        return y
    if isinstance(y, Mapping):
        return _columns(y, name)
    if isinstance(y, (tuple, list)) and y and rows != len(y) and _are_columns(y, rows):
        raise ArgumentError(
            f"{name} has {len(y)} arrays of {rows} rows: pass several arrays as a dict, "
            f'{name.rpartition(" ")[2]}={{"action": ..., "advantage": ...}}, and the loss gets '
            'target["action"]'
        )
    array = _arrays.as_array(y, name)
    if array.ndim == 0:
        raise ShapeError(f"{name} must have a row for each row of x; got {_habits.shown(y)}")
    return array


def _are_columns(parts: Any, rows: int | None) -> bool:
    return all(isinstance(part, np.ndarray) and part.ndim and len(part) == rows for part in parts)


def _columns(parts: Mapping[Any, Any], name: str) -> Columns:
    if not parts or not all(isinstance(key, str) and key for key in parts):
        raise ArgumentError(
            f"{name} must be a dict of arrays, with a non-empty string as the key of "
            f"each; got the keys {list(parts)}"
        )
    named = {key: targets(part, f"{name}[{key!r}]") for key, part in parts.items()}
    lengths = {key: len(array) for key, array in named.items()}
    rows = next(iter(lengths.values()))
    if set(lengths.values()) != {rows}:
        raise ShapeError(f"all arrays of {name} must have the same number of rows; got {lengths}")
    return Columns(named, rows)


def shown(y: Any) -> Any:
    """Return what the user's function sees: read-only views, those of several arrays in a new dict.

    Rows of a batch may be the user's own memory, which a function could destroy in a single pass.
    The dict is a plain one: compiled functions of JAX take no other.
    """
    if isinstance(y, Columns):
        return {name: shown(part) for name, part in y.named.items()}
    view = y.view()
    view.flags.writeable = False
    return view


def explain(error: KeyError, y: Any) -> None:
    """Add which names there are, if a function asked for one that `y` does not have."""
    name = error.args[0] if error.args else None
    if isinstance(y, Columns) and isinstance(name, str) and name not in y.named:
        error.add_note(f"y has no {name!r}; it has {', '.join(y.named)}")


def parts(y: Any) -> dict[str, Any]:
    """Return the arrays by the user's names: ``y``, or ``y['advantage']`` and so on."""
    if isinstance(y, Columns):
        return {f"y[{name!r}]": array for name, array in y.named.items()}
    return {"y": y}
