"""Named blocks of parameters in one flat vector."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg import _arrays
from thalweg._norms import length as length
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn._names import Blocks as Blocks
from thalweg.nn._names import slices as slices
from thalweg.nn._names import split as split

Vector: TypeAlias = npt.NDArray[np.float64]

#: The name of a block given without one.
ALONE = "theta"


def of(theta: Any) -> tuple[Blocks, Vector, bool]:
    """Return the blocks of an array or a mapping of arrays, their values, and if they were named.

    Raises
    ------
    ShapeError, DataError, DtypeError
        If they are not finite numbers, or a list of arrays of different shapes.
    """
    named = isinstance(theta, Mapping)
    arrays = {str(k): v for k, v in theta.items()} if named else {ALONE: theta}
    blocks = [(name, _shape(array)) for name, array in arrays.items()]
    return blocks, join(arrays, blocks, "theta"), named


def _shape(array: Any) -> tuple[int, ...]:
    try:
        return np.shape(array)
    except ValueError:  # rows of different lengths
        raise ShapeError(
            "theta must be one array or a dict of arrays; got a list of arrays of different "
            'shapes. Pass a dict, such as {"weight": w, "bias": b}: your functions then receive '
            "such a dict, and must return their derivatives as one"
        ) from None


def join(arrays: Any, blocks: Blocks, what: str) -> Vector:
    """Join the arrays of all blocks in one float64 vector; each must fit and be finite."""
    if not isinstance(arrays, Mapping) or list(arrays) != [name for name, _ in blocks]:
        raise ArgumentError(
            f"{what} must be a mapping with the keys {[name for name, _ in blocks]} in this order; "
            f"got {list(arrays) if isinstance(arrays, Mapping) else type(arrays).__name__}"
        )
    parts = []
    for name, shape in blocks:
        label = what if name == ALONE else f"{what}[{name!r}]"
        array = _arrays.as_numeric(arrays[name], label)
        if array.shape != shape:
            raise ShapeError(f"{label} must have shape {shape}, as in theta; got {array.shape}")
        if array.size == 0:
            raise DataError(f"{label} is empty: there is nothing to check")
        array = _arrays.as_dtype(array, np.dtype(np.float64), label)
        parts.append(_arrays.finite(array, label).ravel())
    if not parts:
        raise DataError(f"{what} is empty: there is nothing to check")
    flat: Vector = np.concatenate(parts)
    return flat


def shaped(values: npt.NDArray[Any], blocks: Blocks, named: bool) -> Any:
    """Return a copy of the vector in the form that the user's functions take."""
    parts = split(values.copy(), blocks)
    return parts if named else parts[ALONE]


def unit(rng: np.random.Generator, size: int) -> Vector:
    """Draw a direction uniformly from the sphere."""
    v = rng.standard_normal(size)
    length = float(np.linalg.norm(v))
    return v / length if length > 0 else np.ones(size) / np.sqrt(size)
