"""Names of parameters: the core's, and the public ones where they differ."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from thalweg.errors import ArgumentError
from thalweg.nn._layers import Embedding, Layer

if TYPE_CHECKING:
    from thalweg.nn._sequential import Sequential

#: Names and shapes, in the order of a flat array.
Blocks: TypeAlias = list[tuple[str, tuple[int, ...]]]


def renamed(layers: Iterable[Layer]) -> Mapping[str, str]:
    """Return the public names of parameters that the core names differently.

    To the core, an `Embedding`, which can only be the first layer, is a table with one column.
    """
    first = next(iter(layers), None)
    return {"0.0.weight": "0.weight"} if isinstance(first, Embedding) else {}


def matches(pattern: str, name: str) -> bool:
    """Return whether a name matches a pattern of `*` and `?`, as the core's groups do."""
    wild = {"*": ".*", "?": "."}
    parts = (wild.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def of_core(model: "Sequential", pattern: str) -> list[str]:
    """Return the core's names of the parameters whose public name matches a pattern.

    Raises
    ------
    ArgumentError
        If no name matches.
    """
    pairs = list(zip(model._blocks(), model._core.blocks(), strict=True))
    found = [core for (public, _), (core, _) in pairs if matches(pattern, public)]
    if not found:
        names = ", ".join(public for (public, _), _ in pairs)
        raise ArgumentError(
            f'pattern is "{pattern}"; it matches no parameter; the parameters are {names}'
        )
    return found


def slices(blocks: Blocks) -> list[slice]:
    """Return the position of each block in the flat array."""
    ends = itertools.accumulate((math.prod(shape) for _, shape in blocks), initial=0)
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def split(values: npt.NDArray[Any], blocks: Blocks) -> dict[str, npt.NDArray[Any]]:
    """Return named views into the last axis of an array."""
    return {
        name: values[..., part].reshape(values.shape[:-1] + shape)
        for (name, shape), part in zip(blocks, slices(blocks), strict=True)
    }
