"""The columns of frames, which must be in one order throughout a fit."""

from typing import Any, TypeAlias

from thalweg import _arrays
from thalweg.errors import DataError

#: Names of the columns of x and of y.
Columns: TypeAlias = tuple[list[str], list[str]]


def of(x: Any, y: Any) -> Columns:
    """Return the names of the columns; none for what is no frame, or has other names than text."""
    x_names, y_names = (
        found if all(isinstance(name, str) for name in found) else []
        for found in ([*_arrays.columns(x)], [*_arrays.columns(y)])
    )
    return x_names, y_names


def check(first: Columns, others: Columns, whose: str) -> None:
    """Raise if x has other columns than the first x, or y the same ones in another order.

    Where their numbers differ, the shapes have an error of their own. Targets may have other names.
    """
    for what, names, found in zip("xy", first, others, strict=True):
        alike = len if what == "x" else sorted
        if names != found and alike(names) == alike(found):
            k = next(k for k, name in enumerate(names) if name != found[k])
            raise DataError(
                f"column {k} of {what} is {names[k]!r}, but that of {whose} {what} is "
                f"{found[k]!r}: both need the same columns in the same order; frame[names] "
                "selects them"
            )
