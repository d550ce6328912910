"""What least squares returns: coefficients, and how far noise moves them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thalweg import _arrays
from thalweg.errors import ArgumentError, ShapeError
from thalweg.solve import _covariance

_Matrix = npt.NDArray[np.float64]
_F64 = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class LinearFit:
    r"""A linear model, :math:`y ≈ x w + b`.

    Attributes
    ----------
    coef : ndarray, shape (p,) or (p, k)
        :math:`w`; one column for each column of the targets. (The transpose of the weight of an
        `thalweg.nn.Linear`.)
    intercept : ndarray, shape () or (k,)
        :math:`b`; zero if no intercept was requested.
    sum_of_squares : float
        Sum of the squared residuals, each multiplied by its sample's weight.
    rank : int
        Rank of the samples, after subtracting their mean if there is an intercept; if truncated,
        what is left of it.
    condition : float
        Largest singular value of the same matrix divided by the smallest that counts as nonzero.
        About log10 of it digits are lost. With ``"QR"``, columns are first scaled to length 1, so
        that units do not matter.
    method : str
        ``"QR"`` or ``"SVD"``.
    alpha : float
        The penalty, as passed to `ridge` or chosen by it; 0 without one.
    dof : float
        Effective degrees of freedom, the trace of the matrix that maps targets to fitted values,
        :math:`\sum_i \sigma_i^2 / (\sigma_i^2 + \lambda)` plus 1 for an intercept: the number of
        coefficients without a penalty, and less with one. Hastie, Tibshirani & Friedman 2009, "The
        elements of statistical learning", section 3.4.1. The variance of the noise is about
        ``sum_of_squares / (n - dof)``, and the score of generalized cross-validation is
        ``n * sum_of_squares / (n - dof) ** 2``, of `n` rows (of a weight above 0) and one column of
        targets. NaN where fitted values are not linear in the targets, as through a bottleneck of
        `network`.

    Notes
    -----
    Standard errors are ``np.sqrt(np.diag(fit.covariance()))``, see `covariance`.
    """

    coef: _Matrix
    intercept: _Matrix
    sum_of_squares: float
    rank: int
    condition: float
    method: str
    alpha: float = 0.0
    dof: float = float("nan")
    _spread: Spread | None = None

    def predict(self, x: npt.ArrayLike) -> _Matrix:
        """Compute the output for rows of features.

        Parameters
        ----------
        x : array_like, shape (n, p)

        Returns
        -------
        ndarray, shape (n,) or (n, k)

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` does not fit.
        """
        x = _arrays.finite(_arrays.matrix(x, _F64, "x"), "x")
        if x.shape[1] != len(self.coef):
            raise ShapeError(f"x has {x.shape[1]} columns; this fit takes {len(self.coef)}")
        with np.errstate(under="ignore"):
            result: _Matrix = x @ self.coef + self.intercept
        return result

    def covariance(self, noise: float | None = None) -> _Matrix:
        r"""Compute the covariance of the coefficients and the intercept.

        .. math:: \hat\sigma^2 \, A A^\top, \qquad \hat\sigma^2 = \frac{\sum_i v_i r_i^2}{n -
                  \mathrm{dof}}, \qquad A = (X^\top X + \lambda I_w)^{-1} X^\top

        if the noise of the targets is independent, with the variance :math:`\sigma^2 / v_i` in row
        `i`. `X` has the rows :math:`\sqrt{v_i}\,(x_i, 1)`, without the 1 if there is no intercept;
        :math:`I_w` is the identity, but 0 for the intercept; `r` are the residuals; and `n` counts
        the rows of a weight above 0, as in R's ``lm`` (statsmodels' ``WLS`` counts all). A weight
        of 2 is a row of half the variance, not two rows: repeat a row that was seen twice. Without
        a penalty this is :math:`\hat\sigma^2 (X^\top X)^{-1}`, as of R's ``vcov(lm(...))`` and
        statsmodels' ``cov_params()``.

        Parameters
        ----------
        noise : float, optional
            The standard deviation :math:`\sigma` of a row of weight 1, if it is known; by default
            it is estimated for each column of the targets, as above. With 1, the result is the
            unscaled :math:`A A^\top`.

        Returns
        -------
        ndarray, shape (q, q) or (k, q, q)
            With the coefficients in their order, then the intercept, if there is one: q is p + 1,
            or p. One matrix for each column, if the targets had columns.

        Raises
        ------
        ArgumentError
            If `noise` is negative or not finite; there are no more rows than degrees of freedom, so
            that it must be passed; or the fit does not have what this takes, since its coefficients
            are not linear in the targets, as through a bottleneck of `network`, or it was not made
            by `thalweg.solve`.
        DataError
            If the result is too large for float64.

        Notes
        -----
        This is the spread of the estimates from one draw of the noise to another. With a penalty, a
        truncation or dependent columns, they are also biased, which it does not contain; directions
        that the samples leave undetermined count as known to be 0. The rows of `A` for `w` are then
        :math:`X^+`, the pseudoinverse; with an intercept, that of the centred samples,
        :math:`\sqrt{v_i}\,(x_i - \bar x)`; and of rank `r` if truncated. (The posterior covariance
        with the penalty as the prior, of scikit-learn's ``BayesianRidge``, is larger:
        :math:`\sigma^2 (X^\top X + \lambda I_w)^{-1}`.) Of a penalty or a rank that was chosen by
        the targets, this does not contain the choice.

        References
        ----------
        Seber & Lee 2003, "Linear regression analysis", section 3.2; for the penalty Hoerl & Kennard
        1970, Technometrics 12:55, section 4.

        Examples
        --------
        Standard errors of a slope and an intercept:

        >>> import numpy as np, thalweg as tw
        >>> fit = tw.solve.least_squares([[0.0], [1.0], [2.0], [3.0]], [1, 3, 5, 6])
        >>> np.sqrt(np.diag(fit.covariance())).round(3)
        array([0.173, 0.324])
        """
        spread = self._spread
        if spread is None:
            raise ArgumentError(
                "this fit has no covariance: through a bottleneck, coefficients are not linear in "
                "the targets; or it was not made by thalweg.solve, whose fits keep what it takes"
            )
        return _covariance.scaled(spread.root(), noise, spread.squares, spread.rows, self.dof)

    def __repr__(self) -> str:
        penalty = f", alpha {self.alpha:.3g}" if self.alpha else ""
        return (
            f"LinearFit({self.coef.shape[0]} features, sum_of_squares {self.sum_of_squares:.6g}, "
            f"rank {self.rank}, condition {self.condition:.3g}, {self.method}{penalty})"
        )


@dataclass(frozen=True, eq=False)
class Spread:
    """What the covariance of a fit is computed from: not the n samples."""

    v: _Matrix  # (p, r), with r <= min(n, p): the estimated directions,
    gains: _Matrix  # (r,): and by how much noise is multiplied there
    x_mean: _Matrix | None  # if there is an intercept
    total: float
    rows: int
    squares: _Matrix  # of the residuals: their sum, (), or that of each column

    @np.errstate(all="ignore")  # checked by the caller
    def root(self) -> _Matrix:
        """Return a matrix which times its transpose is the covariance for noise of variance 1."""
        root: _Matrix = self.v * self.gains
        if self.x_mean is None:
            return root
        # b = mean(y) - mean(x) w, and the mean of y is independent of w.
        mean = np.zeros((len(root) + 1, 1))
        mean[-1] = 1 / np.sqrt(self.total)
        return np.hstack([np.vstack([root, -self.x_mean @ root]), mean])
