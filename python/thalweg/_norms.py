"""Norms of vectors whose squares may be too large or too small for float64."""

from typing import Any

import numpy as np


@np.errstate(under="ignore")
def length(v: Any) -> float:
    """Return the Euclidean norm, even if squares overflow or underflow, as of 1e200 or 1e-200."""
    largest = float(np.abs(v).max(initial=0.0))
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(v / largest))
