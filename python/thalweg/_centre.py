"""Columns minus their means, and what of them is no more than rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Matrix = npt.NDArray[np.float64]


def centred(a: _Matrix, share: _Matrix | None = None) -> tuple[_Matrix, _Matrix]:
    """Return columns minus their means, and these, weighted by a share of each row.

    A sum of many rows far from 0 loses digits, more than their differences may have. What the first
    mean is off by is the mean of what it leaves.
    """
    mean = np.average(a, axis=0, weights=share)
    rest = a - mean
    off = np.average(rest, axis=0, weights=share)
    rest -= off
    return rest, mean + off


def constant(rest: _Matrix, mean: _Matrix, dtype: np.dtype[Any]) -> npt.NDArray[np.bool_]:
    """Return which columns, given without their means, differ from these by rounding to `dtype`."""
    found: npt.NDArray[np.bool_] = np.abs(rest).max(axis=0) <= rounding(dtype, len(mean)) * np.abs(
        mean
    )
    return found


def rounding(dtype: np.dtype[Any], columns: int) -> float:
    """Return the share of a size that may be rounding to `dtype`, with so many columns.

    The errors are random, so that they do not grow with the rows.
    """
    return 4 * float(np.finfo(dtype).eps) * float(np.sqrt(columns))
