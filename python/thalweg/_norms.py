"""Norms of vectors whose squares may be too large or too small for float64."""

from typing import Any

import numpy as np


def length(v: Any) -> float:
    """Give the Euclidean norm, of numbers of any size: squares of 1e200 or 1e-200 are none."""
    largest = float(np.abs(v).max(initial=0.0))
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(v / largest))
