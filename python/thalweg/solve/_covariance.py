"""The covariance of least-squares estimates, from the residuals or from known noise."""

from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg.errors import ArgumentError, DataError

_Matrix = npt.NDArray[np.float64]


def scaled(unscaled: _Matrix, noise: Any, squares: _Matrix, rows: int, dof: float) -> _Matrix:
    """Return covariances for noise of this deviation, or one estimated from squared residuals.

    `unscaled`, (q, q), is for noise of variance 1; `squares` are sums, () or one for each of k
    columns of targets, and so are the results, (q, q) or (k, q, q).
    """
    if noise is not None:
        deviation = _checks.real("noise", noise, 0)
        variance: Any = np.full_like(squares, deviation * deviation)
    elif rows - dof <= 1e-8 * rows:  # what is left is rounding, as are then the residuals
        raise ArgumentError(
            f"{rows} rows and {dof:.6g} degrees of freedom leave nothing to estimate the noise by: "
            "pass its standard deviation, covariance(noise=...)"
        )
    else:
        variance = squares / (rows - dof)
    with np.errstate(all="ignore"):  # checked below
        covariance: _Matrix = variance[..., np.newaxis, np.newaxis] * unscaled
    if not np.isfinite(covariance).all():
        raise DataError("the covariance is too large for float64; scale the problem")
    return covariance
