"""Samples, targets and weights in the forms that scikit-learn's users pass them in."""

import numbers
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import column_or_1d

from thalweg import _arrays
from thalweg._arrays import Array
from thalweg.errors import DataError, ShapeError


def refuse_lost(X: Any, y: Any = None) -> None:
    """Raise for masked entries, dates and times, of which scikit-learn's checks make numbers."""
    _arrays.refuse_masked(X, "X")
    _arrays.refuse_masked(y, "y")
    if getattr(getattr(X, "dtype", None), "kind", "") in ("M", "m"):
        _arrays.as_numeric(X, "X")  # raises
    _arrays.refuse_times(X, "X")
    if len(_arrays.columns(y)) > 1:  # one column of them may be the classes
        _arrays.refuse_times(y, "y")


def dense(array: Any) -> Any:
    """Return a dense array."""
    return array.toarray(order="C") if issparse(array) else array


def flat(y: Any) -> Any:
    """Return targets in a single column as a vector, with scikit-learn's warning."""
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def plain(y: Any) -> bool:
    """Whether targets are an array that scikit-learn's checks would accept unchanged."""
    return (
        type(y) is np.ndarray
        and 1 <= y.ndim <= 2
        and (y.dtype.kind in "biuU" or (y.dtype.kind == "f" and bool(np.isfinite(y).all())))
    )


def weights(value: Any, dtype: np.dtype[Any], rows: int) -> Array | None:
    """Return sample weights, checked here since the penalty depends on their mean."""
    if isinstance(value, numbers.Real):
        value = np.full(rows, value)
    weight = _arrays.weights(value, dtype, "sample_weight")
    if weight is None:
        return None
    if len(weight) != rows:
        raise ShapeError(f"sample_weight has {len(weight)} values, but X has {rows} rows")
    _arrays.finite(weight, "sample_weight")
    if not weight.any():
        raise DataError("sample_weight is zero for all samples; at least one must be above zero")
    return weight
