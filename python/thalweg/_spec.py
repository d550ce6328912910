"""Descriptions of layers, losses and schedules as plain data for files, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from thalweg import _habits
from thalweg.errors import UnsupportedError


def describe(thing: Any) -> Any:
    """Return `thing` in terms of JSON types.

    A dataclass becomes a dict of its fields, with its ``"type"``; an optimizer becomes a dict of
    the arguments it was made with.

    Raises
    ------
    UnsupportedError
        If it, or something in it, is none of these: a function, for instance.
    """
    # A class of the user's could be written, but not found again.
    if dataclasses.is_dataclass(thing) and _habits.is_ours(type(thing)):
        fields = dataclasses.fields(thing)
        values = {f.name: describe(getattr(thing, f.name)) for f in fields}
        return {"type": type(thing).__name__, **values}
    if isinstance(thing, (list, tuple)):
        return [describe(item) for item in thing]
    if isinstance(thing, dict):
        return {str(key): describe(value) for key, value in thing.items()}
    if hasattr(thing, "_arguments") and _habits.is_ours(type(thing)):
        return {"type": type(thing).__name__, **describe(thing._arguments)}
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    raise UnsupportedError(
        f"{thing!r} cannot be saved to a file, since it is not one of thalweg's own objects; use "
        "pickle, which saves functions and classes that can be imported"
    )


def classes(*modules: Any) -> dict[str, type]:
    """Return thalweg's classes in some modules, by name."""
    found = [thing for module in modules for thing in vars(module).values()]
    mine = [x for x in found if isinstance(x, type) and _habits.is_ours(x)]
    return {kind.__name__: kind for kind in mine}


def rebuild(spec: Any, known: Mapping[str, Any]) -> Any:
    """Make what was described; `known` has the permitted classes.

    Raises
    ------
    UnsupportedError
        If a class is not among them.
    """
    if isinstance(spec, list):
        return tuple(rebuild(item, known) for item in spec)
    if not isinstance(spec, dict):
        return spec
    if "type" not in spec:
        return {key: rebuild(value, known) for key, value in spec.items()}
    name = spec["type"]
    if name not in known:
        raise UnsupportedError(
            f"the file contains a {name!r}, which this version of thalweg does not know; "
            "a later version may read it"
        )
    arguments = {k: rebuild(v, known) for k, v in spec.items() if k != "type"}
    # A layer takes its inner layers as ``*layers``.
    return known[name](*arguments.pop("layers", ()), **arguments)
