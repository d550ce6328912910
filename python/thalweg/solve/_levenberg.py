"""Steps of the Levenberg-Marquardt method, for NumPy functions and for networks.

At parameters `θ` with residuals `r` and their Jacobian `J`, a step `δ` solves the damped least
squares problem

    min ‖r + Jδ‖² + μ‖Dδ‖²

by QR of the stacked matrix [J; √μ D], never through JᵀJ, whose condition number is the square of
J's. `D` has the norms of J's columns, so that the scale of a parameter does not matter, or larger
earlier norms, which decay: Moré's (1978) running maximum keeps steps short forever after a bad
start (NIST's MGH10), and the current norms alone let parameters run away (MGH17). The damping `μ`
follows the gain, the true decrease over the predicted one, by Nielsen's rule (1999). Half of the
geodesic acceleration (Transtrum & Sethna 2012, arXiv:1201.5885), the second derivative along the
step, is added while it is small; if it is not, the step is rejected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]
#: Residuals at a point; None where they are not defined.
Residual: TypeAlias = Callable[[Vector], Vector | None]

#: Smaller damping has no effect in double precision, and larger damping leaves no step.
_LEAST, _MOST = 1e-20, 1e20
#: A step is accepted only if its gain exceeds this.
_GAIN = 1e-4
#: The largest acceleration relative to the step, and the h of its difference quotient.
_BENDING, _PROBE = 0.75, 0.1
#: Cosines above this are far from orthogonal, and relative residuals below this close to rounding.
_SLANTED, _ROUNDED = 1e-3, 1e-6
#: How much of the largest norms so far is left after a step.
_MEMORY = 0.7


@dataclass
class Damping:
    """The state that carries over from one step to the next."""

    damping: float  # μ
    growth: float = 2.0  # a rejection multiplies the damping by this, and doubles it
    scale: Vector | None = None  # the diagonal of D


@dataclass(frozen=True)
class Outcome:
    """The result of a step."""

    theta: Vector
    residual: Vector
    rejected: int
    evaluations: int
    #: Why no better point was found; "" if a step was taken.
    stopped: str


def norm2(x: Vector) -> float:
    """Compute the sum of squares."""
    return float(x @ x)


def step(
    state: Damping,
    theta: Vector,
    r: Vector,
    jacobian: Vector,
    residual: Residual,
    *,
    tolerances: tuple[float, float, float],
    geodesic: bool,
    max_evaluations: int,
) -> Outcome:
    """Take one accepted step, after as many rejected ones as necessary; update `state`.

    `tolerances` are ftol, xtol and gtol, for the relative predicted decrease, the relative step,
    and the cosines of the angles between residuals and J's columns. The method stops at or below
    any of them.
    """
    ftol, xtol, gtol = tolerances
    size = len(theta)
    # QR of J, with Qᵀr in the last column; stacked below, this is QR of the stacked J.
    full: Any = np.linalg.qr(np.column_stack([jacobian, r]), mode="r")
    upper, rotated = full[:size, :size], full[:size, size]
    norms: Any = np.linalg.norm(upper, axis=0)
    norms[norms == 0] = 1.0
    scale: Vector = norms
    if state.scale is not None:
        scale = np.maximum(_MEMORY * state.scale, norms).astype(np.float64)
    state.scale = scale
    cost, evaluations, rejected = norm2(r), 0, 0

    def end(why: str) -> Outcome:
        # A Jacobian that is right leads downhill until residuals are orthogonal to it or, relative
        # to the parameters, nothing but rounding.
        slanted = cosines.max() > _SLANTED * np.sqrt(cost)
        rounded = np.sqrt(cost) <= _ROUNDED * np.linalg.norm(scale * theta)
        if rejected and why != "evaluations" and slanted and not rounded:
            why = "uphill"
        return Outcome(theta, r, rejected, evaluations, why)

    cosines = np.abs(upper.T @ rotated) / norms
    if cosines.max() <= gtol * np.sqrt(cost):  # at r = 0, too
        return end("gtol")
    while state.damping <= _MOST:
        root: Vector = float(np.sqrt(state.damping)) * scale
        triangle, right = _stacked(upper, rotated, root)
        solution: Any = np.linalg.solve(triangle, right)
        delta: Vector = -solution
        length = float(np.linalg.norm(scale * delta))
        if length <= xtol * float(np.linalg.norm(scale * theta)):
            return end("xtol")
        predicted = norm2(upper @ delta) + 2 * norm2(root * delta)
        if predicted <= ftol * cost:
            return end("ftol")
        if evaluations + 1 + geodesic > max_evaluations:
            return end("evaluations")
        move: Vector | None = delta
        if geodesic:
            evaluations += 1
            bend = _bend(theta, r, jacobian, residual, delta, triangle)
            move = None
            if bend is not None and 2 * np.linalg.norm(scale * bend) <= _BENDING * length:
                move = delta + bend / 2
        if move is not None:
            evaluations += 1
            new = residual(theta + move)
            gain = -1.0 if new is None else (cost - norm2(new)) / predicted
            if new is not None and gain > _GAIN:
                shrunk = state.damping * max(1 / 3, 1 - (2 * min(gain, 1.0) - 1) ** 3)
                state.damping, state.growth = max(shrunk, _LEAST), 2.0
                return Outcome(theta + move, new, rejected, evaluations, "")
        rejected += 1
        state.damping *= state.growth
        state.growth *= 2
    state.damping, state.growth = _MOST, 2.0
    return end("damping")


def _stacked(upper: Vector, rotated: Vector, root: Vector) -> tuple[Vector, Vector]:
    """Factor the triangle with a diagonal below it by QR: new triangle and right-hand side."""
    rows, size = upper.shape
    stacked = np.zeros((rows + size, size + 1))
    stacked[:rows, :size] = upper
    stacked[:rows, size] = rotated
    stacked[range(rows, rows + size), range(size)] = root
    factor: Any = np.linalg.qr(stacked, mode="r")
    return factor[:size, :size], factor[:size, size]


def _bend(
    theta: Vector,
    r: Vector,
    jacobian: Vector,
    residual: Residual,
    delta: Vector,
    triangle: Vector,
) -> Vector | None:
    """Compute the geodesic acceleration; return None where it is not defined."""
    ahead = residual(theta + _PROBE * delta)
    if ahead is None:
        return None
    second = 2 / _PROBE * ((ahead - r) / _PROBE - jacobian @ delta)
    # Only a correction, so the triangle alone is accurate enough (seminormal equations).
    solved = np.linalg.solve(triangle.T, jacobian.T @ second)
    bend: Vector = -np.linalg.solve(triangle, solved)
    return bend if np.isfinite(bend).all() else None
