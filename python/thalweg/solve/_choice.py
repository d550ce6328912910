"""Choices of ridge's penalty from the data, as functions of the SVD."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg import _warn
from thalweg.errors import ArgumentError, DataError

_Vector = npt.NDArray[np.float64]

#: The methods that `chosen` knows.
Method: TypeAlias = Literal["gcv", "l_curve"]

#: Generalized cross-validation looks this far beyond the squares of the singular values.
_BEYOND = 1e6
#: Points of the first search over the logarithm of the penalty, and of each finer one.
_POINTS, _FINER, _ROUNDS = 401, 33, 6
#: The discrepancy principle looks so far beyond the squares of the singular values, in logarithms,
#: and halves that range so often.
_FAR, _HALVINGS = 80.0, 64
#: Coefficients are doubted if another penalty fits about as well with this many times smaller ones.
#: So the blur of docs/science.md warns in the draws whose error is above a hundred times the best,
#: and in none where it is below ten times.
_SMALLER = 15.0


def chosen(method: str, y: _Vector, left: _Vector, s: _Vector, rank: int, degrees: int) -> float:
    """Return the penalty, the λ of the sum, that a method chooses for targets y, (n, k).

    `left` are the left singular vectors, and `degrees` is the number of rows, less one if there is
    an intercept.
    """
    if rank == 0:
        raise ArgumentError(
            f'alpha="{method}" has nothing to choose by: x does not vary, so that the coefficients '
            "are 0 for any alpha; pass a number"
        )
    # Relative to their largest, so that no square overflows.
    relative = s[:rank] / s[0]
    size = float(np.abs(y).max()) or 1.0
    shares = left[:, :rank].T @ (y / size)
    rest = degrees - rank
    outside = 0.0  # of the column space; without rest, only by rounding
    if rest > 0:
        outside = float(((y / size - left[:, :rank] @ shares) ** 2).sum())
    powers: _Vector = (shares**2).sum(axis=1)
    squares: _Vector = relative**2
    ends = float(squares[-1]), 1.0
    if method == "gcv":
        log = _least(
            lambda t: _gcv(np.exp(t), squares, powers, outside, max(rest, 0)),
            np.log(ends[0] / _BEYOND),
            np.log(ends[1] * _BEYOND),
        )
    else:
        with np.errstate(invalid="ignore", divide="ignore"):  # of targets that are all 0
            log = _least(lambda t: -_bend(np.exp(t), squares, powers, outside), *np.log(ends))
            bend = _bend(np.exp(np.array([log])), squares, powers, outside)[0]
        if not bend > 0:
            raise ArgumentError(
                'alpha="l_curve" finds no corner: the norm of the coefficients falls as fast as '
                'the residual rises. Use alpha="gcv", or pass a number'
            )
    share = float(np.exp(log))
    if method == "gcv":
        _doubt_flatness(share, squares, powers, outside, max(rest, 0), y.shape[1])
    return _penalty(method, share, s)


def _penalty(method: str, share: float, s: _Vector) -> float:
    """Return a penalty that is this share of the largest squared singular value."""
    with np.errstate(over="ignore"):  # checked below
        penalty = float(share * s[0] * s[0])
    if not (np.isfinite(penalty) and penalty > 0):
        raise DataError(
            f"the alpha that {method} chooses, {share:.3g} times the square of {s[0]:.3g}, is too "
            "large or too small for float64; scale x"
        )
    return penalty


def explaining(
    y: _Vector, left: _Vector, s: _Vector, rank: int, degrees: int, noise: float
) -> float:
    """Return the largest penalty, the λ of the sum, that leaves no more than `noise` of targets.

    That is a residual of the expected size of the noise, whose standard deviation is given, in
    each of the `degrees` rows and each column of y: the discrepancy principle.
    """
    size = float(np.abs(y).max()) or 1.0
    shares = left[:, :rank].T @ (y / size)
    powers: _Vector = (shares**2).sum(axis=1)
    relative = s[:rank] / s[0] if rank else s[:0]
    outside = 0.0
    if degrees > rank:
        outside = float(((y / size - left[:, :rank] @ shares) ** 2).sum())
    count = max(degrees, 1) * y.shape[1]
    with np.errstate(over="ignore"):  # of noise that is far larger than y
        goal = float(count * np.square(noise / size))
    given = f'alpha="discrepancy" with noise={noise:g}: '
    least, most = size * np.sqrt(np.array([outside, outside + powers.sum()]) / count)
    if outside > goal:
        raise ArgumentError(
            f"{given}even the fit of least squares leaves more, {least:.3g} by the same measure. "
            "Pass a larger noise, as draws of it differ, or columns of x that explain more"
        )
    if outside + float(powers.sum()) <= goal:
        raise ArgumentError(
            f"{given}y itself is no larger, {most:.3g} by the same measure, so that coefficients "
            "of 0 explain it. Pass a smaller noise, or a number as alpha"
        )
    # The residual rises with the penalty: bisection, of its logarithm.
    low, high = 2 * np.log(relative[-1]) - _FAR, _FAR
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        kept = 1 / (1 + relative**2 * np.exp(-middle))
        low, high = (middle, high) if kept**2 @ powers + outside <= goal else (low, middle)
    return _penalty("discrepancy", float(np.exp(low)), s)


def _least(function: Callable[[_Vector], _Vector], low: float, high: float) -> float:
    """Return where a function is least, of a grid that becomes finer around the best point."""
    points = _POINTS
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, points)
        best = int(function(grid).argmin())
        low, high, points = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], _FINER
    return float(grid[best])


def _doubt_flatness(
    share: float, squares: _Vector, powers: _Vector, outside: float, rest: int, targets: int
) -> None:
    """Warn if a larger penalty has a score as good but for chance, and much smaller coefficients.

    These are compared relative to the fitted values: where a larger penalty shrinks both alike, the
    coefficients are not huge ones that cancel.
    """
    larger = np.geomspace(share, max(squares[0] * _BEYOND, share), _POINTS)
    score = _gcv(larger, squares, powers, outside, rest)
    column = larger[:, np.newaxis]
    # By chance: by two standard deviations, √(2/ν) of a sum of squares with ν degrees of freedom.
    freedom = targets * (rest + float((share / (squares + share)).sum()))
    last = int(np.flatnonzero(score <= (1 + 2 * np.sqrt(2 / freedom)) * score[0])[-1])
    with np.errstate(invalid="ignore", divide="ignore"):  # of targets that are all 0
        coefs = (squares / (squares + column) ** 2) @ powers
        fitted = (squares / (squares + column)) ** 2 @ powers
        sizes = np.sqrt(coefs / fitted)
    if sizes[0] > _SMALLER * sizes[last]:
        _warn.warn(
            f'alpha="gcv" is uncertain here: its score at {larger[last] / share:.2g} times the'
            " chosen alpha exceeds the least by no more than chance, and the coefficients there are"
            f" {sizes[0] / sizes[last]:.2g} times smaller, so that those of the fit may be noise."
            ' Use alpha="l_curve", or, if you know the size of the noise, solve.ridge with'
            ' alpha="discrepancy"'
        )


def _gcv(penalty: _Vector, squares: _Vector, powers: _Vector, outside: float, rest: int) -> _Vector:
    """Compute the score of generalized cross-validation, up to a factor."""
    # λ / (σ² + λ): how much of each component is left in the residual
    left = 1 / (1 + squares / penalty[:, np.newaxis])
    score: _Vector = (left**2 @ powers + outside) / (left.sum(axis=1) + rest) ** 2
    return score


def _bend(penalty: _Vector, squares: _Vector, powers: _Vector, outside: float) -> _Vector:
    """Compute the curvature of the L-curve, positive where it is convex.

    The curve (ln R, ln E)/2 has R = ‖y − xw‖² and E = ‖w‖². With respect to λ,
    E' = −2 Σ β²σ²/(σ² + λ)³, E'' = 6 Σ β²σ²/(σ² + λ)⁴ and R' = −λE'; the curve is parametrized by
    ln λ.
    """
    column = penalty[:, np.newaxis]
    # With 1/(σ² + λ) as λ⁻¹ · left, E is λ⁻² times sums that are neither too large nor too small.
    left = 1 / (1 + squares / column)
    r = left**2 @ powers + outside
    weighted = squares * powers
    # λE and its derivatives by ln λ: λ·λE', λ·(λE' + λ²E'').
    e = left**2 @ weighted / penalty
    first = -2 * left**3 @ weighted / penalty
    second = first + 6 * left**4 @ weighted / penalty
    # R' = −λE' → R_t = −λ E_t, R_tt = −λ(E_t + E_tt); with λE in place of E the factor is gone.
    r1, r2 = -first, -(first + second)
    x1, y1 = r1 / r / 2, first / e / 2
    x2, y2 = (r2 / r - (r1 / r) ** 2) / 2, (second / e - (first / e) ** 2) / 2
    bend: _Vector = (x1 * y2 - y1 * x2) / (x1**2 + y1**2) ** 1.5
    return bend
