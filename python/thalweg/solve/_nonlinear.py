"""Nonlinear least squares for functions of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._habits import takes
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.solve import _covariance, _levenberg, _linear
from thalweg.solve._levenberg import Vector

_MESSAGES = {
    "gtol": "the residuals are orthogonal to the columns of the Jacobian (gtol)",
    "ftol": "the linear model predicts no further decrease (ftol)",
    "xtol": "the steps are as small as xtol",
    "damping": "no step decreases the sum of squares, however small",
    "uphill": "no step decreases the sum of squares, however small, although the Jacobian says so: "
    "check it with tw.check_gradient, or the residuals are not smooth there",
    "evaluations": "another step would call residual more than max_evaluations times",
}


@dataclass(frozen=True, eq=False)
class LeastSquaresFit:
    """The result of `nonlinear_least_squares`.

    Attributes
    ----------
    theta : ndarray, shape (p,)
        The parameters with the smallest sum of squares found.
    residual : ndarray, shape (m,)
        The residuals there.
    sum_of_squares : float
        Their sum of squares.
    converged : bool
        Whether one of the tolerances was met. Not if no step leads downhill although the residuals
        are not orthogonal to the Jacobian, which is then wrong, or not that of a smooth function.
    message : str
        Why the method stopped.
    evaluations : int
        The number of calls of `residual`.
    history : dict of str to list
        One entry for each Jacobian: ``"sum_of_squares"`` and ``"damping"`` before the step, and
        how many steps were ``"rejected"`` until one was taken.
    jacobian : ndarray, shape (m, p)
        The Jacobian at `theta`.

    Notes
    -----
    Standard errors are ``np.sqrt(np.diag(fit.covariance()))``, see `covariance`.
    """

    theta: Vector
    residual: Vector
    sum_of_squares: float
    converged: bool
    message: str
    evaluations: int
    history: dict[str, list[float]]
    jacobian: Vector

    @np.errstate(all="ignore")  # checked by `scaled`
    def covariance(self, noise: float | None = None) -> Vector:
        r"""Compute the covariance of the parameters.

        .. math:: \hat\sigma^2 (J^\top J)^{-1}, \qquad
                  \hat\sigma^2 = \frac{\lVert r \rVert^2}{m - p}

        if the noise of the residuals is independent and of equal size, and the model is close to
        linear over the range that the parameters then have. As ``pcov`` of scipy's ``curve_fit``,
        R's ``vcov(nls(...))``, and the standard deviations that NIST certifies.

        Parameters
        ----------
        noise : float, optional
            The standard deviation :math:`\sigma` of the residuals, if it is known, as 1 if each was
            divided by its own; by default it is estimated as above.

        Returns
        -------
        ndarray, shape (p, p)

        Raises
        ------
        ArgumentError
            If the residuals do not determine all parameters there (the message names some); `noise`
            is negative or not finite; or there are no more residuals than parameters, so that it
            must be passed.
        DataError
            If the result is too large for float64.

        Notes
        -----
        It is that of the linear model at `theta`, and means little if the fit has not converged.

        References
        ----------
        Bates & Watts 1988, "Nonlinear regression analysis and its applications".
        """
        rows, size = self.jacobian.shape
        scale, _ = _linear.lengths(self.jacobian)
        _, s, vt = np.linalg.svd(np.linalg.qr(self.jacobian / scale, mode="r"))
        rank = int((s > np.finfo(np.float64).eps * max(rows, size) * s[0]).sum())
        if rank < size:
            raise ArgumentError(
                f"the residuals determine {rank} of {size} parameters at theta: to first order, "
                f"those at {_linear.dependent(rank, vt)} can change without changing any residual. "
                "Hold some of them fixed"
            )
        root = vt.T / s / scale[:, np.newaxis]
        squares = np.asarray(self.sum_of_squares)
        return _covariance.scaled(root, noise, squares, rows, size)

    def __repr__(self) -> str:
        return (
            f"LeastSquaresFit(theta={self.theta}, sum_of_squares={self.sum_of_squares:.6g}, "
            f"{self.message})"
        )


@takes("solve.nonlinear_least_squares", {})
def nonlinear_least_squares(
    residual: Callable[[Vector], Any],
    jacobian: Callable[[Vector], Any],
    theta: npt.ArrayLike,
    *,
    damping: float = 1e-3,
    geodesic: bool = True,
    ftol: float = 1e-18,
    xtol: float = 1e-12,
    gtol: float = 1e-14,
    max_evaluations: int | None = None,
) -> LeastSquaresFit:
    r"""Minimize a sum of squares by the Levenberg-Marquardt method.

    .. math:: \min_\theta \lVert r(\theta) \rVert^2

    Each step solves :math:`\min_\delta \lVert r + J\delta \rVert^2 + \mu \lVert D\delta \rVert^2`
    by QR of the stacked matrix :math:`[J; \sqrt\mu D]`, where the diagonal of `D` has the norms of
    the columns of `J`, or everywhere the largest of them; every ten steps, the choice that
    decreased the sum of squares more goes on. Norms are the largest so far, but decay to the
    current ones. A step that does not decrease the sum is rejected and the damping :math:`\mu`
    grows; after a good step it shrinks. Each choice has a damping of its own.

    Parameters
    ----------
    residual : callable
        ``residual(theta)`` returns `r`, shape (m,); where it is NaN or infinite, a step is
        rejected.
    jacobian : callable
        ``jacobian(theta)`` returns :math:`J_{ij} = \partial r_i / \partial \theta_j`, shape (m, p).
        `thalweg.check_gradient` can check it.
    theta : array_like, shape (p,)
        Where to start.
    damping : float, keyword only, default 1e-3
        The initial :math:`\mu`, relative to the squared norms of the columns of `J`.
    geodesic : bool, keyword only, default True
        Whether steps are bent by half of the geodesic acceleration, at the cost of one more
        evaluation of the residuals each. That helps far from the solution: of NIST's problems, one
        is solved from its far start only so (BoxBOD), and one in 1600 evaluations in place of 5600
        (MGH10). Most others take fewer without it.
    ftol, xtol, gtol : float, keyword only
        The method stops when the predicted decrease is at most `ftol` times the sum of squares,
        when :math:`\lVert D\delta \rVert` is at most `xtol` times :math:`\lVert D\theta \rVert`, or
        when the cosine of the angle between `r` and each column of `J` is at most `gtol`. A step
        that is short only because :math:`\mu` is large does not count, unless longer ones were
        rejected. (MINPACK's tests and scipy's names; the defaults are close to what float64 can
        resolve.)
    max_evaluations : int, keyword only, optional
        The largest number of calls of `residual`; by default 2000 (p + 1).

    Returns
    -------
    LeastSquaresFit

    Raises
    ------
    DataError
        If the residuals at the start, or a Jacobian, or their squares are not finite; or the
        squares of residuals at the start, which are not 0, all are.
    ShapeError
        If shapes do not agree.
    DtypeError
        If `theta`, the residuals or the Jacobian are not real numbers.
    ArgumentError
        If `residual` or `jacobian` cannot be called, or an option is out of range.

    References
    ----------
    Levenberg 1944; Marquardt 1963; Moré 1978, "The Levenberg-Marquardt algorithm: implementation
    and theory"; Nielsen 1999, IMM-REP-1999-05; Transtrum & Sethna 2012, arXiv:1201.5885.

    Examples
    --------
    An exponential through three points:

    >>> import numpy as np
    >>> from thalweg import solve
    >>> t, y = np.array([0.0, 1.0, 2.0]), np.array([2.0, 1.0, 0.5])
    >>> fit = solve.nonlinear_least_squares(
    ...     lambda b: b[0] * np.exp(b[1] * t) - y,
    ...     lambda b: np.stack([np.exp(b[1] * t), b[0] * t * np.exp(b[1] * t)], axis=1),
    ...     [1.0, 0.0],
    ... )
    >>> np.allclose(fit.theta, [2.0, -np.log(2)])
    True
    """
    _checks.function("residual", residual)
    _checks.function("jacobian", jacobian)
    start = _arrays.as_numeric(theta, "theta")
    if start.ndim != 1 or start.size == 0:
        raise ShapeError(f"theta must have shape (p,), p at least 1; got {start.shape}")
    point: Vector = _arrays.finite(start.astype(np.float64), "theta")
    state = _levenberg.Damping(_checks.real("damping", damping, 0, closed="()"))
    geodesic = _checks.flag("geodesic", geodesic)
    pairs = (("ftol", ftol), ("xtol", xtol), ("gtol", gtol))
    f, x, g = (_checks.real(name, value, 0) for name, value in pairs)
    limit = 2000 * (point.size + 1)
    if max_evaluations is not None:
        limit = _checks.integer("max_evaluations", max_evaluations, 1)

    shape: tuple[int, ...] = ()

    def call(at: Vector) -> npt.NDArray[np.float64]:
        with np.errstate(all="ignore"):  # checked below
            value = _arrays.as_numeric(residual(at.copy()), "the residual").astype(np.float64)
        if value.ndim != 1 or value.size == 0 or shape not in ((), value.shape):
            wanted = shape or "(m,), m at least 1"
            raise ShapeError(f"the residual must have shape {wanted}; got {value.shape}")
        return value

    def tried(at: Vector) -> Vector | None:
        value = call(at)
        return value if _squares(value) else None

    r = call(point)
    _arrays.finite(r, "residual(theta)")
    if not _squares(r):
        raise DataError(
            f"the residuals at theta are up to {np.abs(r).max():.1e}, and the sum of their squares "
            "is too large for float64; scale them"
        )
    if r.any() and _levenberg.norm2(r) == 0:
        raise DataError(
            f"the residuals at theta are at most {np.abs(r).max():.1e}, and their squares are too "
            "small for float64; scale them"
        )
    shape = r.shape
    history: dict[str, list[float]] = {"sum_of_squares": [], "damping": [], "rejected": []}
    evaluations, stopped = 1, ""
    while not stopped:
        slope = _arrays.as_numeric(jacobian(point.copy()), "the Jacobian").astype(np.float64)
        if slope.shape != (r.size, point.size):
            raise ShapeError(
                f"the Jacobian must have shape {(r.size, point.size)}; got {slope.shape}"
            )
        if not np.isfinite(slope).all():
            raise DataError(f"the Jacobian at theta = {point} is not finite")
        if not _squares(slope):
            raise DataError(
                f"the sum of squares of the Jacobian at theta = {point} is too large for float64; "
                "scale the residuals"
            )
        history["sum_of_squares"].append(_levenberg.norm2(r))
        history["damping"].append(state.damping)
        outcome = _levenberg.step(
            state, point, r, slope, tried, tolerances=(f, x, g), geodesic=geodesic,
            max_evaluations=limit - evaluations,
        )  # fmt: skip
        history["rejected"].append(outcome.rejected)
        point, r, stopped = outcome.theta, outcome.residual, outcome.stopped
        evaluations += outcome.evaluations
    return LeastSquaresFit(
        point, r, _levenberg.norm2(r), stopped in ("ftol", "xtol", "gtol"), _MESSAGES[stopped],
        evaluations, history, slope,
    )  # fmt: skip


def _squares(values: npt.NDArray[np.float64]) -> bool:
    """Whether the sum of squares is finite."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.square(values).sum()))
