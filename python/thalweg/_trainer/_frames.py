"""The columns of frames, which must be in one order throughout a fit."""

from typing import Any

from thalweg import _arrays
from thalweg.errors import DataError


class Columns:
    """The columns of the first frames that a fit or an evaluation has seen, as x and as y."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[list[str], str]] = {}

    def check(self, x: Any, y: Any, where: str = "an earlier batch", prefix: str = "") -> None:
        """Raise if x has other columns than the first x, or y the same ones in another order.

        Where their numbers differ, the shapes have an error of their own. Targets may have other
        names. An error in what comes later calls this x and y what is `where`, and one in these
        begins their names with the `prefix`.
        """
        for what, value in (("x", x), ("y", y)):
            found = [*_arrays.columns(value)]
            if not found or not all(isinstance(name, str) for name in found):
                continue  # no frame, or one without names
            names, first = self._first.setdefault(what, (found, where))
            alike = len if what == "x" else sorted
            if names != found and alike(names) == alike(found):
                k = next(k for k, name in enumerate(names) if name != found[k])
                raise DataError(
                    f"column {k} of {prefix}{what} is {found[k]!r}, but {names[k]!r} in {first}: "
                    "both need the same columns in the same order; frame[names] selects them"
                )
