"""The minimum of a quadratic function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._habits import takes
from thalweg._norms import length
from thalweg.errors import ArgumentError, DataError, ShapeError

_Vector = npt.NDArray[np.float64]
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Minimum:
    """The minimum of a quadratic function, and its curvature.

    Attributes
    ----------
    x : ndarray, shape (n,)
        The position of the minimum.
    value : float
        The function's value there.
    gradient_norm : float
        :math:`‖Hx + b‖`, which is zero up to rounding.
    eigenvalues : ndarray, shape (n,)
        Those of `H`, ascending. Gradient descent is stable up to a learning rate of 2 divided by
        the last of them.
    """

    x: _Vector
    value: float
    gradient_norm: float
    eigenvalues: _Vector

    @property
    def condition(self) -> float:
        """The largest eigenvalue divided by the smallest."""
        return float(self.eigenvalues[-1] / self.eigenvalues[0])

    def __repr__(self) -> str:
        return (
            f"Minimum(value={self.value:.6g}, {self.x.size} variables, "
            f"condition {self.condition:.3g}, gradient {self.gradient_norm:.1e})"
        )


@takes("solve.quadratic", {})
def quadratic(h: npt.ArrayLike, b: npt.ArrayLike, c: float = 0.0) -> Minimum:
    r"""Find the minimum of a quadratic function.

    .. math:: q(x) = \tfrac12 x^\top H x + b^\top x + c, \qquad H x^* = -b

    by a Cholesky factorization. Note the ½ and the sign of `b`.

    Parameters
    ----------
    h : array_like, shape (n, n)
        :math:`H`, symmetric.
    b : array_like, shape (n,)
        The gradient at 0.
    c : float, default 0
        The value at 0.

    Returns
    -------
    Minimum

    Raises
    ------
    ArgumentError
        If there is no unique minimum: an eigenvalue of `H` is negative (the message says which), or
        zero to working precision, at most :math:`n ε λ_{max}`; or if `H` is not symmetric.
    ShapeError, DataError, DtypeError
        If an argument is not such an array.

    Examples
    --------
    >>> import thalweg as tw
    >>> tw.solve.quadratic([[2, 0], [0, 4]], [-2, -4]).x
    array([1., 1.])
    >>> tw.solve.quadratic([[1, 0], [0, -3]], [0, 0])
    Traceback (most recent call last):
    thalweg.errors.ArgumentError: h is indefinite: its smallest eigenvalue is -3, ...
    """
    h = _arrays.finite(_arrays.matrix(h, np.dtype(np.float64), "h"), "h")
    if h.shape[0] != h.shape[1] or h.shape[0] == 0:
        raise ShapeError(f"h must be square, (n, n) with n at least 1; got shape {h.shape}")
    b = _arrays.flat(b, np.dtype(np.float64), len(h), "b")
    c = _checks.real("c", c)
    largest = float(np.abs(h).max())
    with np.errstate(over="ignore"):  # infinity counts as unequal
        unequal = np.abs(h - h.T)
    if unequal.max() > 1e-10 * largest:
        i, j = (int(k) for k in np.unravel_index(int(unequal.argmax()), h.shape))
        raise ArgumentError(
            f"h must be symmetric, but h[{i}, {j}] = {h[i, j]:g} and h[{j}, {i}] = {h[j, i]:g}; "
            "pass (h + h.T) / 2, which has the same values of x.T @ h @ x"
        )
    h = h / 2 + h.T / 2  # halved first, as a sum may overflow

    values: npt.NDArray[Any] = np.linalg.eigvalsh(h)
    low, high = float(values[0]), float(values[-1])
    floor = len(h) * _EPS * max(abs(low), abs(high))
    if low < -floor:
        kind = "indefinite" if high > floor else "negative"
        count = int((values < -floor).sum())
        raise ArgumentError(
            f"h is {kind}: its smallest eigenvalue is {low:.6g}, {count} of {len(h)} are below 0. "
            "The function decreases without bound along that eigenvector, so that the solution of "
            "h @ x = -b is a saddle or a maximum, not a minimum"
        )
    if low <= floor:
        raise ArgumentError(
            f"h is singular: its smallest eigenvalue, {low:.3g}, is zero compared with the "
            f"largest, {high:.3g}. There is no minimum, or more than one; add a multiple of the "
            "identity to h"
        )
    try:
        factor = np.linalg.cholesky(h)
    except np.linalg.LinAlgError:  # possible only through rounding at the very edge
        raise ArgumentError(
            f"h is not positive definite to working precision: eigenvalues from {low:.3g} to "
            f"{high:.3g}"
        ) from None
    # Reversed, the lower triangle is an upper one, which LU factorization leaves unchanged: numpy's
    # solve is then back substitution.
    half = np.linalg.solve(factor[::-1, ::-1], -b[::-1])[::-1]
    x: _Vector = np.linalg.solve(factor.T, half)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        slope = h @ x + b
        value = c + float(b / 2 @ x)  # for Hx = -b; xᵀHx/2 + bᵀx would cancel
    if not np.isfinite(slope).all():
        raise DataError("the minimum is too far away for float64; scale h and b")
    if not np.isfinite(value):
        raise DataError("the value at the minimum is too low for float64; scale h and b")
    return Minimum(x, value, length(slope), values)
