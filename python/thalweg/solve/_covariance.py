"""The covariance of least-squares estimates, from the residuals or from known noise."""

from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._norms import length
from thalweg.errors import ArgumentError, DataError

_Matrix = npt.NDArray[np.float64]


@np.errstate(all="ignore")  # checked at the end
def scaled(root: _Matrix, noise: Any, squares: _Matrix, rows: int, dof: float) -> _Matrix:
    """Return covariances for noise of this deviation, or one estimated from squared residuals.

    `root`, (q, r), times its transpose is that for noise of variance 1; `squares` are sums, () or
    one for each of k columns of targets, and so are the results, (q, q) or (k, q, q).
    """
    if noise is not None:
        deviation: Any = np.full_like(squares, _checks.real("noise", noise, 0))
    elif rows - dof <= 1e-8 * rows:  # what is left is rounding, as are then the residuals
        raise ArgumentError(
            f"{rows} rows and {dof:.6g} degrees of freedom leave nothing to estimate the noise by: "
            "pass its standard deviation, covariance(noise=...)"
        )
    else:
        deviation = np.sqrt(squares / (rows - dof))
    # As correlations and standard errors: squares of the noise, or of the root, may be no numbers.
    lengths = np.array([length(row) for row in root])
    unit = root / np.where(lengths == 0, 1.0, lengths)[:, np.newaxis]
    errors = deviation[..., np.newaxis] * lengths
    covariance: _Matrix = (unit @ unit.T) * (errors[..., np.newaxis] * errors[..., np.newaxis, :])
    if not np.isfinite(covariance).all():
        raise DataError("the covariance is too large for float64; scale the problem")
    return covariance
