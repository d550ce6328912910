r"""Least squares, plain and with a penalty, by orthogonal factorizations.

Never through the normal equations :math:`X^\top X w = X^\top y`, whose condition is the square of
that of `X`: if that is 1e9, they yield no correct digit in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args, overload

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _centre, _checks
from thalweg._habits import takes
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.solve import _choice
from thalweg.solve._choice import Method
from thalweg.solve._linear_fit import LinearFit, Spread

Reduction: TypeAlias = Literal["sum", "mean"]
RankDeficient: TypeAlias = Literal["raise", "min_norm"]
_Matrix = npt.NDArray[np.float64]
#: u, s, of vᵀ as many rows as the numerical rank, and this rank.
_Decomposed = tuple[_Matrix, _Matrix, _Matrix, int]
_F64 = np.dtype(np.float64)
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Problem:
    """Samples and targets in float64, weighted and centered as the fit needs them."""

    x: _Matrix  # √v (x − mean), with the mean only if there is an intercept
    y: _Matrix  # likewise; 2-D
    x_mean: _Matrix
    y_mean: _Matrix
    total: float  # Σ v, or the number of rows without weights
    centred: bool
    one: bool  # targets were 1-D

    @property
    def degrees(self) -> int:
        """How many rows there are, less one for an intercept."""
        return len(self.y) - int(self.centred)

    def fit(
        self, coef: _Matrix, rank: int, condition: float, method: str, dof: float,
        spread: tuple[_Matrix, _Matrix] | None = None,
    ) -> LinearFit:  # fmt: skip
        """Return the result with these coefficients, (p, k), and degrees of freedom without `b`.

        `spread` has the first two parts of a `Spread`, if coefficients are linear in the targets.
        """
        if not np.isfinite(coef).all():
            raise DataError("the coefficients are too large for float64; scale x and y")
        with np.errstate(all="ignore"):  # checked below; the intercept is no larger than y and x w
            intercept = self.y_mean - self.x_mean @ coef
            squares = ((self.y - self.x @ coef) ** 2).sum(axis=0)
            total = float(squares.sum())
        if not np.isfinite(total):
            raise DataError("the sum of squared residuals is too large for float64; scale y")
        if self.one:
            coef, intercept, squares = coef[:, 0], intercept[0], squares[0]
        dof += float(self.centred)
        b = np.asarray(intercept)
        kept = spread and Spread(
            *spread, self.x_mean if self.centred else None, self.total, len(self.y),
            np.asarray(squares),
        )  # fmt: skip
        return LinearFit(coef, b, total, rank, condition, method, dof=dof, _spread=kept)


def problem(
    x: Any, y: Any, intercept: bool, sample_weight: Any, dtype: np.dtype[Any] = _F64
) -> Problem:
    """Check and prepare the data of a fit, whose samples may be rounded to `dtype`."""
    x = _arrays.finite(_arrays.matrix(x, _F64, "x"), "x")
    y = _arrays.as_numeric(y, "y")
    one = y.ndim == 1
    y = _arrays.finite(_arrays.matrix(y[:, np.newaxis] if one else y, _F64, "y"), "y")
    if len(x) != len(y):
        raise ShapeError(f"x has {len(x)} rows but y has {len(y)}; they must have the same length")
    if 0 in x.shape or 0 in y.shape:
        raise DataError(f"there is nothing to fit: x has shape {x.shape}, y {y.shape}")
    weight = _arrays.weights(sample_weight, _F64, "sample_weight")
    if weight is not None:
        _arrays.finite(weight, "sample_weight")
        if weight.shape != (len(x),):
            raise ShapeError(f"sample_weight has {len(weight)} values; x has {len(x)} rows")
        if not weight.any():
            raise DataError("sample_weight is 0 in every row; at least one must be above 0")
        there = weight > 0  # rows of weight 0 count as absent
        x, y, weight = x[there], y[there], weight[there]
    x_mean, y_mean = np.zeros(x.shape[1]), np.zeros(y.shape[1])
    centred = _checks.flag("intercept", intercept)
    with np.errstate(all="ignore"):  # checked below
        total = float(len(x) if weight is None else weight.sum())
        if centred:
            share = None if weight is None else weight / weight.max()
            x, x_mean = _centre.centred(x, share)
            y, y_mean = _centre.centred(y, share)
        for mean, name in ((x_mean, "x"), (y_mean, "y"), (total, "sample_weight")):
            if not np.isfinite(mean).all():
                raise DataError(f"the sum of {name} is too large for float64; scale it")
        # What is left of a constant column is rounding, which is not a feature.
        x = np.where(_centre.constant(x, x_mean, dtype), 0.0, x)
        if weight is not None:
            root = np.sqrt(weight)[:, np.newaxis]
            x, y = root * x, root * y
    for array, name in ((x, "x"), (y, "y")):
        if not np.isfinite(array).all():
            raise DataError(f"{name} is too large for float64; scale it, or sample_weight")
    return Problem(x, y, x_mean, y_mean, total, centred, one)


@takes("solve.least_squares", {})
def least_squares(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    intercept: bool = True,
    sample_weight: npt.ArrayLike | None = None,
    rank_deficient: RankDeficient = "raise",
    rcond: float | None = None,
    rank: int | None = None,
) -> LinearFit:
    r"""Fit a linear model by least squares.

    .. math:: \min_{w, b} \sum_i v_i \lVert x_i w + b - y_i \rVert^2

    by a QR factorization of the samples, with columns scaled to length 1. Golub & Van Loan 2013,
    "Matrix computations", section 5.3.

    Parameters
    ----------
    x : array_like, shape (n, p)
        The samples.
    y : array_like, shape (n,) or (n, k)
        The targets.
    intercept : bool, keyword only, default True
        Whether there is a `b`. The means are then subtracted before the fit; nothing is left of a
        column that differs from its mean by at most :math:`4 \varepsilon \sqrt p` of it: rounding.
    sample_weight : array_like, shape (n,), keyword only, optional
        :math:`v`, not negative.
    rank_deficient : {"raise", "min_norm"}, keyword only
        What to do if many `w` are equally good: fewer rows than columns, or linearly dependent
        columns. ``"min_norm"`` returns the one with the smallest :math:`\lVert w \rVert`, by the
        SVD. Without an intercept, gradient descent from 0 finds the same; with one, it finds the
        smallest :math:`\lVert w \rVert^2 + \lVert b \rVert^2`.
    rcond : float, keyword only, optional
        A singular value counts as 0 if it is at most this times the largest; by default
        :math:`\varepsilon \max(n, p)`.
    rank : int, keyword only, optional
        How many singular values to keep, the largest ones: truncated SVD, :math:`w = \sum_{i \le
        r} v_i\, u_i^\top y / \sigma_i`, the smallest fit to the nearest matrix of rank `r`. Where
        small singular values are mostly noise, as in ill-posed problems, it regularizes like a
        penalty (`ridge`), but leaves the directions that it keeps as they are.

    Returns
    -------
    LinearFit

    Raises
    ------
    ArgumentError
        If the samples do not determine `w` (the message says why, and names columns), an option is
        out of range, or `rank` exceeds the rank of the samples.
    ShapeError, DataError, DtypeError
        If the arrays do not fit.

    References
    ----------
    For truncation: Hansen 1987, BIT 27:534.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> x = np.array([[0.0], [1.0], [2.0]])
    >>> fit = tw.solve.least_squares(x, [1, 3, 5])
    >>> fit.predict([[10.0]]).round(12)
    array([21.])
    >>> tw.solve.least_squares(np.ones((3, 2)), [1, 3, 5], intercept=False)
    Traceback (most recent call last):
    thalweg.errors.ArgumentError: the rank of x is 1, but it has 2 columns: columns 0, 1 depend ...
    """
    _checks.one_of("rank_deficient", rank_deficient, get_args(RankDeficient))
    rcond = None if rcond is None else _checks.real("rcond", rcond, 0, 1, "[)")
    rank = _checks.optional_integer("rank", rank, 1)
    data = problem(x, y, intercept, sample_weight)
    return fit(data, rank_deficient, rcond) if rank is None else truncated(data, rank, rcond)


@np.errstate(under="ignore")
def fit(
    data: Problem, rank_deficient: RankDeficient = "raise", rcond: float | None = None
) -> LinearFit:
    """Solve a prepared problem."""
    rows, columns = data.x.shape
    rcond = _EPS * max(rows, columns) if rcond is None else rcond
    if rank_deficient == "min_norm":
        svd = _svd(data.x, rcond)
        return _of_rank(data, svd, svd[-1])
    if rows - int(data.centred) < columns:
        raise ArgumentError(
            f"{rows} rows do not determine {columns} coefficients"
            f"{' and an intercept' if data.centred else ''}: there are many exact fits. Use a "
            'penalty (alpha= in ridge or last_layer), or rank_deficient="min_norm" for the '
            "smallest fit"
        )
    scale, empty = lengths(data.x)
    q, r = np.linalg.qr(data.x / scale)
    _, s, vt = np.linalg.svd(r)
    rank = int((s > rcond * s[0]).sum())
    if rank < columns:
        raise ArgumentError(_why(rank, vt, empty, data.centred))
    coef = np.linalg.solve(r, q.T @ data.y) / scale[:, np.newaxis]
    spread = vt.T / scale[:, np.newaxis], 1 / s
    return data.fit(coef, rank, _ratio(s, rank), "QR", rank, spread)


def truncated(data: Problem, rank: int, rcond: float | None) -> LinearFit:
    """Solve a prepared problem with so many singular values."""
    svd = decomposed(data, rcond)
    if rank > svd[-1]:
        mean = " minus its mean" if data.centred else ""
        raise ArgumentError(f"the rank of x{mean} is {svd[-1]}, less than rank={rank}")
    return _of_rank(data, svd, rank)


@np.errstate(under="ignore")
def _of_rank(data: Problem, svd: _Decomposed, rank: int) -> LinearFit:
    u, s, vt, _ = svd
    v, gains = _first(rank, vt).T, 1 / s[:rank]
    coef = v @ (gains[:, np.newaxis] * (u[:, :rank].T @ data.y))
    return data.fit(coef, rank, _ratio(s, rank), "SVD", rank, (v, gains))


@overload
def ridge(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    alpha: float | Method | Literal["discrepancy"],
    reduction: Reduction = "sum",
    intercept: bool = True,
    sample_weight: npt.ArrayLike | None = None,
    noise: float | None = None,
) -> LinearFit: ...


@overload
def ridge(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    alpha: Sequence[float] | npt.NDArray[Any],
    reduction: Reduction = "sum",
    intercept: bool = True,
    sample_weight: npt.ArrayLike | None = None,
) -> list[LinearFit]: ...


@takes("solve.ridge", {})
def ridge(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    alpha: Any,
    reduction: Reduction = "sum",
    intercept: bool = True,
    sample_weight: npt.ArrayLike | None = None,
    noise: float | None = None,
) -> LinearFit | list[LinearFit]:
    r"""Fit a linear model by least squares with a penalty on its coefficients.

    .. math:: \min_{w, b} \; \sum_i v_i \lVert x_i w + b - y_i \rVert^2
              + \lambda \lVert w \rVert^2

    by the SVD. The intercept `b` is never penalized, and nothing is scaled: columns in large units
    are penalized less, so standardize those that should count equally.

    Parameters
    ----------
    x, y, intercept, sample_weight
        As in `least_squares`.
    alpha : float, "gcv", "l_curve", "discrepancy", or sequence of float, shape (m,), keyword only
        The penalty, at least 0. At 0, this is `least_squares`, including its errors; as it tends to
        0, the coefficients tend to those of ``rank_deficient="min_norm"`` there, whose default
        `rcond` decides here, too, which singular values count as 0. For several penalties, the SVD
        is computed once.

        ``"gcv"`` chooses it by generalized cross-validation: the least :math:`n \lVert y - \hat y
        \rVert^2 / (n - \mathrm{tr}\,A)^2`, where :math:`\hat y = A y` are the fitted values. It
        estimates the error on new samples, and needs noise that is independent and of equal size in
        all rows, or with weights of a variance of :math:`1 / v_i`, up to a factor: a weight of 2 is
        a more precise row here, not two rows. It may be flat, and for some draws of the noise least
        at far too small a penalty: a warning tells if a larger one is nearly as good with much
        smaller coefficients.
        ``"l_curve"`` takes the point where :math:`\ln \lVert w \rVert` over :math:`\ln
        \lVert y - \hat y \rVert` is most convex: a larger penalty raises the residual, and a
        smaller one the coefficients. It is a rule of thumb for ill-posed problems, where noise
        makes coefficients huge, and also works with correlated noise. ``"discrepancy"`` takes the
        largest penalty whose residual is no larger than `noise`. All of them choose one penalty for
        all columns of `y`; the result's `alpha` tells which.
    reduction : {"sum", "mean"}, keyword only
        Whether `alpha` is :math:`\lambda` itself, as in scikit-learn's ``Ridge(alpha=)``, or is
        relative to the *mean* of the squares: :math:`\lambda = \alpha \sum_i v_i`, so that
        :math:`\alpha_{mean} = \alpha_{sum} / n` without weights.
    noise : float, keyword only, optional
        For ``"discrepancy"``, the standard deviation :math:`\sigma` of the noise in each target, of
        a row of weight 1: the sum of squares of the fit is then :math:`(n - 1)\,k\,\sigma^2` for k
        columns of `y`, or :math:`n\,k\,\sigma^2` without an intercept. Pass a fifth more than the
        noise is believed to have: where a draw of it happens to be smaller than expected, the right
        :math:`\sigma` leaves hardly any penalty. With few more rows than columns, least squares
        itself may leave more, and no penalty is small enough.

    Returns
    -------
    LinearFit, or list of m of them
        One for each penalty, in their order, with the rank and condition of `x` without it.

    Raises
    ------
    ArgumentError
        If an option is out of range, `x` does not vary so that there is nothing to choose by, the
        L-curve has no corner, or no penalty leaves a residual of the size of `noise`.
    ShapeError, DataError, DtypeError
        If the arrays do not fit.

    Notes
    -----
    `thalweg.optim.SGD(weight_decay=d)` adds :math:`d\,w` to the gradient, half of what
    :math:`d \lVert w \rVert^2` would add, and `thalweg.nn.MSELoss` divides by the number of all
    :math:`n k` targets. Training with both, without decay on biases, therefore converges to
    ``alpha = d * k / 2`` with ``reduction="mean"``.

    The map from `y` to `w` has the norm :math:`\max \sigma / (\sigma^2 + \lambda) \le
    1 / (2 \sqrt\lambda)`, which bounds the effect of a small change of the targets.

    The score of ``"gcv"`` is that of leaving out one row at a time if all rows have the same
    leverage; scikit-learn's ``RidgeCV`` computes the latter. It is searched from a millionth of the
    smallest squared singular value to a million times the largest, and the L-curve between the two.
    At the lower end this is least squares; at the upper end the coefficients are 0: `x` explains
    nothing.

    References
    ----------
    Hoerl & Kennard 1970, Technometrics 12:55; Golub, Heath & Wahba 1979, "Generalized
    cross-validation as a method for choosing a good ridge parameter", Technometrics 21:215; Hansen
    1992, "Analysis of discrete ill-posed problems by means of the L-curve", SIAM Review 34:561;
    Morozov 1966, "On the solution of functional equations by the method of regularization", Soviet
    Mathematics Doklady 7:414 (the discrepancy principle).

    Examples
    --------
    >>> import thalweg as tw
    >>> tw.solve.ridge([[1.0], [2.0]], [1, 2], alpha=5, intercept=False).coef
    array([0.5])
    >>> fits = tw.solve.ridge([[1.0], [2.0]], [1, 2], alpha=[0, 1, 10], intercept=False)
    >>> [round(float(fit.coef[0]), 3) for fit in fits]
    [1.0, 0.833, 0.333]

    A picture blurred by a Gaussian, with noise: least squares would return nothing but noise.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> t = np.linspace(0, 1, 50)
    >>> blur = np.exp(-(((t[:, None] - t) / 0.1) ** 2)) / 50
    >>> picture = np.sin(np.pi * t) ** 2
    >>> seen = blur @ picture + 1e-4 * rng.standard_normal(50)
    >>> fit = tw.solve.ridge(blur, seen, alpha="gcv", intercept=False)
    >>> bool(0 < fit.alpha < 1e-4 and np.abs(fit.coef - picture).max() < 0.2)
    True
    """
    method = None
    if isinstance(alpha, str):
        known = (*get_args(Method), "discrepancy")
        method, alpha = _checks.one_of("alpha, if not a number,", alpha, known), 0.0
    if (noise is None) == (method == "discrepancy"):
        raise ArgumentError(
            'alpha="discrepancy" needs noise=, the standard deviation of the noise in y'
            if noise is None
            else 'noise= is for alpha="discrepancy": leave it out'
        )
    noise = None if noise is None else _checks.real("noise", noise, 0, closed="()")
    several = _checks.is_several(alpha)
    given = _checks.sequence("alpha", alpha) if several else (alpha,)
    alphas = [
        _checks.real(f"alpha[{i}]" if several else "alpha", value, 0)
        for i, value in enumerate(given)
    ]
    _checks.one_of("reduction", reduction, get_args(Reduction))
    data = problem(x, y, intercept, sample_weight)
    scale = data.total if reduction == "mean" else 1.0
    svd = decomposed(data) if method or any(alphas) else None
    if svd and noise is not None:
        u, s, _, rank = svd
        alphas = [_choice.explaining(data.y, u, s, rank, data.degrees, noise) / scale]
    elif svd and method:
        alphas = [chosen(method, data, svd) / scale]
    fits = [
        replace(penalized(data, value * scale, svd), alpha=value) if svd and value else fit(data)
        for value in alphas
    ]
    return fits if several else fits[0]


def decomposed(data: Problem, rcond: float | None = None) -> _Decomposed:
    """Return u, s, vᵀ and the rank of a prepared problem."""
    return _svd(data.x, _EPS * max(data.x.shape) if rcond is None else rcond)


def chosen(method: str, data: Problem, svd: _Decomposed) -> float:
    """Return the penalty, the λ of the sum, that a method chooses for a prepared problem."""
    u, s, _, rank = svd
    return _choice.chosen(method, data.y, u, s, rank, data.degrees)


@np.errstate(under="ignore")
def penalized(data: Problem, penalty: float, svd: _Decomposed) -> LinearFit:
    """Solve a prepared problem with a penalty, above 0, which is the λ of the sum."""
    u, s, vt, rank = svd
    # Beyond the rank there is only rounding, which a small penalty would multiply.
    kept = s[:rank]
    with np.errstate(over="ignore"):  # nothing is left then
        shrunk = 1 / (kept + penalty / kept)  # s / (s² + penalty), whose square may overflow
    v = vt.T
    coef = v @ (shrunk[:, np.newaxis] * (u[:, :rank].T @ data.y))
    dof = float((kept * shrunk).sum())
    return data.fit(coef, rank, _ratio(s, rank), "SVD", dof, (v, shrunk))


def _svd(x: _Matrix, rcond: float) -> _Decomposed:
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rank = int((s > rcond * s[0]).sum())
    return u, s, _first(rank, vt), rank


def _first(rank: int, vt: _Matrix) -> _Matrix:
    """Return so many rows, without keeping the others: fits hold on to them."""
    return vt[:rank].copy() if rank < len(vt) else vt


@np.errstate(under="ignore")
def lengths(x: _Matrix) -> tuple[_Matrix, npt.NDArray[np.bool_]]:
    """Return the norms of columns, with 1 for those of zeros, and which these are."""
    size = np.abs(x).max(axis=0)
    size[size == 0] = 1.0
    norms = size * np.linalg.norm(x / size, axis=0)  # avoids squares of 1e±200
    empty = norms == 0
    return np.where(empty, 1.0, norms), empty


def _ratio(s: _Matrix, rank: int) -> float:
    return float(s[0] / s[rank - 1]) if rank else float("inf")


def _why(rank: int, vt: _Matrix, empty: npt.NDArray[np.bool_], centred: bool) -> str:
    """Explain why samples do not determine the coefficients, and which columns are to blame."""
    if empty.any():
        constant = "constant" if centred else "zero"
        reason = f"columns {np.flatnonzero(empty).tolist()} are {constant}"
    else:
        reason = f"columns {dependent(rank, vt)} depend on each other"
    mean = " minus its mean" if centred else ""
    return (
        f"the rank of x{mean} is {rank}, but it has {vt.shape[1]} columns: {reason}, so that many "
        "coefficients fit equally well. Leave columns out, use a penalty (alpha= in ridge or "
        'last_layer), or use rank_deficient="min_norm"'
    )


def dependent(rank: int, vt: _Matrix) -> str:
    """List the columns that make a matrix with these right singular vectors rank-deficient."""
    # Each column's share in the directions that no row covers.
    share = np.sqrt((vt[rank:] ** 2).sum(axis=0))
    columns = [int(i) for i in np.flatnonzero(share > 1e-3 * share.max())]
    return ", ".join(map(str, columns[:8])) + (", ..." if len(columns) > 8 else "")
