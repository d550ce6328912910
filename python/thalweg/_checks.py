"""Checks of single arguments. Each returns the value in its plain Python type, or raises.

They raise `ArgumentError`, with messages of one form: the argument, what is accepted, what was
given.
"""

import io
import math
import operator
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Literal

import numpy as np

from thalweg import _habits
from thalweg.errors import ArgumentError

#: Maximum number of characters that an error shows of a value.
_SHOWN = 200


def short(value: Any) -> str:
    """Return how an error shows a value: as it is, or its kind and shape if it is long."""
    text = repr(value)
    if len(text) <= _SHOWN:
        return text
    shape = getattr(value, "shape", None)
    return _habits.named(value) + (f" of shape {tuple(shape)}" if shape is not None else "")


def clipped(text: str) -> str:
    """Return how an error shows text of a file, which may be of any length."""
    return text if len(text) <= 5 * _SHOWN else f"{text[: 5 * _SHOWN]}..."


def given(value: Any) -> str:
    """Return how an error shows what was given where an object is needed."""
    return f"the class {value.__name__}" if isinstance(value, type) else short(value)


def how_many(value: Any) -> str:
    """Return how an error shows what is not a tuple of the right length."""
    return f"{len(value)} items" if isinstance(value, (tuple, list)) else repr(type(value))


def one_of(name: str, value: Any, known: Iterable[str], *, also: str = "") -> str:
    """Return `value` if it is one of the `known` names.

    `also` is what else the argument may be, which the caller has checked.
    """
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    listed = ", ".join(f'"{k}"' for k in known) + (f" or {also}" if also else "")
    raise ArgumentError(
        f"{name} must be one of {listed}; got {short(value)}{_habits.did_you_mean(value, known)}"
    )


def integer(name: str, value: Any, low: int, high: int = sys.maxsize, *, also: str = "") -> int:
    """Return `value` as an int with ``low <= value <= high``; by default, up to `sys.maxsize`.

    `also` is what else the argument may be, which the caller has checked.
    """
    wanted = f"an integer >= {low}" if high == sys.maxsize else f"an integer from {low} to {high}"
    wanted = f"{also} or {wanted}" if also else wanted
    # True is 1 to Python, but nobody means epochs=True.
    if isinstance(value, bool):
        raise ArgumentError(f"{name} must be {wanted}; got {short(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} must be {wanted}; got {short(value)}") from None
    if not low <= number <= high:
        end = f", more than {high}" if number > high else ""
        raise ArgumentError(f"{name} must be {wanted}; got {number}{end}")
    return number


def optional_integer(name: str, value: Any, low: int) -> int | None:
    """Return `value` as an int with ``low <= value``, or None if it is None."""
    return None if value is None else integer(name, value, low)


def real(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, closed: str = "[)"
) -> float:
    """Return `value` as a finite float in the interval from `low` to `high`.

    `closed` tells which ends are included, in mathematical notation: ``"[)"`` is
    ``low <= value < high``.
    """
    try:
        # Text that could be parsed is a mistake in a configuration file, not a number. Of complex
        # numbers, NumPy's would convert to their real parts.
        is_complex = isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind == "c"
        is_other = isinstance(value, (str, bytes, bool)) or is_complex
        number = math.nan if is_other else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    above = number >= low if closed[0] == "[" else number > low
    below = number <= high if closed[1] == "]" else number < high
    if not (math.isfinite(number) and above and below):
        wanted = ""
        if high < math.inf:
            wanted = f" in {closed[0]}{low:g}, {high:g}{closed[1]}"
        elif low > -math.inf:
            wanted = f" {'>=' if closed[0] == '[' else '>'} {low:g}"
        raise ArgumentError(f"{name} must be a finite number{wanted}; got {short(value)}")
    return number


def norm_limit(name: str, value: Any) -> float:
    """Return `value` as a finite float above 0; the largest one stands for infinity, no limit."""
    if isinstance(value, float) and value == math.inf:
        return sys.float_info.max
    return real(name, value, 0, closed="()")


def is_several(value: Any) -> bool:
    """Return whether `value` can be iterated over (and is not text)."""
    # Of NumPy's array(3.0), only the class can.
    has_axis = getattr(value, "ndim", 1) != 0
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and has_axis


def sequence(name: str, value: Any, *, ordered: bool = True) -> tuple[Any, ...]:
    """Return `value` as a tuple, if it is a sequence (and not text).

    Unless `ordered` is false, a set is an error: it has an order, but not one that was chosen. So
    is a dict, whose keys are hardly meant.
    """
    unordered = (dict, set, frozenset) if ordered else dict
    if is_several(value) and not isinstance(value, unordered):
        return tuple(value)
    raise ArgumentError(f"{name} must be a sequence; got {short(value)}")


def two(name: str, value: Any, what: str) -> tuple[Any, ...]:
    """Return `value` as a tuple of two, if it is a sequence of two; `what` describes the two."""
    given = sequence(name, value) if is_several(value) else ()
    if len(given) != 2:
        raise ArgumentError(f"{name} must be two numbers{what}; got {short(value)}")
    return given


def function(name: str, value: Any, of: str = "theta") -> Callable[..., Any]:
    """Return `value` if it can be called; `of` names its argument."""
    if callable(value):
        return value  # type: ignore[no-any-return]
    raise ArgumentError(f"{name} must be a function of {of}; got {short(value)}")


def path(name: str, value: Any, *, also: str = "") -> str:
    """Return the path of a file as text, if it is given as text or an object such as `Path`.

    `also` is what else the argument may be, which the caller has checked.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        wanted = f"text, a path or {also}" if also else "text or a path"
        raise ArgumentError(f"{name} must be {wanted}; got {short(value)}")
    if not text:
        raise ArgumentError(f"{name} must name a file; it is empty")
    try:
        if b"\0" not in os.fsencode(text):
            return text
    except UnicodeEncodeError:  # a lone surrogate
        pass
    raise ArgumentError(f"{name} must name a file; no name is like {short(text)}")


def file(name: str, value: Any, method: Literal["read", "write"]) -> str | BinaryIO:
    """Return a path as text, or a file object of bytes that has the `method`."""
    if isinstance(value, (str, os.PathLike)):
        return path(name, value)
    is_text = hasattr(value, "encoding")  # those of tempfile and codecs are no io.TextIOBase
    # Unbuffered files may write a part of what they are given, and go on.
    in_parts = method == "write" and isinstance(value, io.RawIOBase)
    if hasattr(value, method) and not is_text and not in_parts:
        return value  # type: ignore[no-any-return]
    mode = {"read": "rb", "write": "wb"}[method]
    also = f'a file object like open(..., "{mode}") and io.BytesIO()'
    if isinstance(value, (bytes, bytearray, memoryview)) and method == "read":
        raise ArgumentError(f"{name} must be text, a path or {also}; for bytes, io.BytesIO({name})")
    return path(name, value, also=also)


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False (Python's or NumPy's)."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ArgumentError(f"{name} must be True or False; got {short(value)}")
