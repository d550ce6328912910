"""Steps of the Levenberg-Marquardt method, for NumPy functions and for networks.

At parameters `θ` with residuals `r` and their Jacobian `J`, a step `δ` solves the damped least
squares problem

    min ‖r + Jδ‖² + μ‖Dδ‖²

by QR of the stacked matrix [J; √μ D], never through JᵀJ, whose condition number is the square of
J's. The damping `μ` follows the gain, the true decrease over the predicted one, by Nielsen's rule
(1999). Half of the geodesic acceleration (Transtrum & Sethna 2012, arXiv:1201.5885), the second
derivative along the step, is added while it is small; if it is not, the step is rejected.

`D` has the norms of J's columns, so that the scale of a parameter does not matter (Marquardt 1963,
Moré 1978), or it is the identity, times the largest norm (Levenberg 1944). Each fails where the
other does not. If norms follow a column that vanishes although the residuals are curved along it
(Brown & Dennis's problem; saturated units of a network), only a large μ holds its parameter, and
holds all others, too. With the identity, steps are short where parameters differ in scale by orders
of magnitude (NIST's MGH10). So both have a μ of their own and take turns of some steps: the other
one goes on if the cost fell less than in its last turn. Norms are the largest so far, which decay,
or those of a bad start would keep steps short forever.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]
#: Residuals at a point; None where they are not defined.
Residual: TypeAlias = Callable[[Vector], Vector | None]

#: The root of smaller damping is rounding relative to J's columns; larger damping leaves no step.
_LEAST, _MOST = 1e-32, 1e20
#: What damping is multiplied by until a step is not short for no other reason.
_RELIEF = 1e-3
#: A step is accepted only if its gain exceeds this.
_GAIN = 1e-4
#: The largest acceleration relative to the step, and the h of its difference quotient.
_BENDING, _PROBE = 0.75, 0.1
#: Cosines above this are far from orthogonal, and relative residuals below this close to rounding.
_SLANTED, _ROUNDED = 1e-3, 1e-6
#: How much of the largest norms so far is left after a step.
_MEMORY = 0.7
#: How many steps a turn has, and the share of the cost that the other D may first hope to remove.
_TURN, _HOPE = 10, 0.5
#: A change of the cost by more than this share is not rounding.
_CERTAIN = 100 * float(np.finfo(np.float64).eps)


@dataclass
class Metric:
    """A choice of `D` and the damping that goes with it."""

    is_common: bool  # whether all parameters have the largest norm
    damping: float  # μ
    growth: float = 2.0  # a rejection multiplies the damping by this, and doubles it
    scale: Vector | None = None  # the diagonal of D; 0 where J never had but zeros
    gain: float = _HOPE  # the share of the cost that the last turn removed

    def follow(self, norms: Vector) -> Vector:
        """Update and return the diagonal of `D`."""
        if self.is_common:
            norms = np.full_like(norms, norms.max())
        if self.scale is not None:
            norms = np.maximum(_MEMORY * self.scale, norms).astype(np.float64)
        self.scale = norms
        return norms


class Damping:
    """The state that carries over from one step to the next."""

    def __init__(self, damping: float) -> None:
        damping = min(max(damping, _LEAST), _MOST)
        self.metrics = [Metric(False, damping), Metric(True, damping)]
        self.active = 0
        self.steps = 0  # in this turn
        self.left = 1.0  # the share of the cost before this turn

    @property
    def damping(self) -> float:
        """The damping of the next step."""
        return self.metrics[self.active].damping

    def count(self, ratio: float) -> None:
        """Count a step to this share of the cost; after a turn, the better metric goes on."""
        self.steps, self.left = self.steps + 1, self.left * ratio
        if self.steps < _TURN:
            return
        gain, other = 1 - self.left, self.metrics[1 - self.active]
        if gain < other.gain:
            self.switch(gain)
        else:
            self.steps, self.left = 0, 1.0

    def switch(self, gain: float) -> None:
        """Begin a turn of the other metric, after this gain of the active one."""
        self.metrics[self.active].gain = gain
        self.active, self.steps, self.left = 1 - self.active, 0, 1.0


@dataclass(frozen=True)
class Outcome:
    """The result of a step."""

    theta: Vector
    residual: Vector
    rejected: int
    evaluations: int
    #: Why no better point was found; "" if a step was taken.
    stopped: str


@np.errstate(under="ignore")
def norm2(x: Vector) -> float:
    """Compute the sum of squares."""
    return float(x @ x)


@np.errstate(under="ignore")
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

    If none is found, `state` is as before: a later step, of other residuals, then begins with
    damping that was right here, and not with the one that ended the search.

    `tolerances` are ftol, xtol and gtol, for the relative predicted decrease, the relative step,
    and the cosines of the angles between residuals and J's columns. The method stops at or below
    the last, or if with either metric, no step is better or a tolerance is met: by a step that is
    not short only because the damping is large, unless longer ones were rejected.
    """
    ftol, xtol, gtol = tolerances
    size = len(theta)
    before = copy.deepcopy(state.metrics), state.active, state.steps, state.left
    # QR of J, with Qᵀr in the last column; stacked below, this is QR of the stacked J.
    full: Any = np.linalg.qr(np.column_stack([jacobian, r]), mode="r")
    upper, rotated = full[:size, :size], full[:size, size]
    norms: Any = np.linalg.norm(upper, axis=0)
    scales = [metric.follow(norms) for metric in state.metrics]
    cost, evaluations, rejected = norm2(r), 0, 0
    cosines = np.abs(upper.T @ rotated) / np.where(norms > 0, norms, 1.0)
    if cosines.max() <= gtol * np.sqrt(cost):  # at r = 0, too
        state.metrics = before[0]
        return Outcome(theta, r, 0, 0, "gtol")
    ended = False  # with one metric: the other may still find a better point
    refused = False  # a step of the active metric
    shortest, contradicted = np.inf, False
    while True:
        metric, scale = state.metrics[state.active], scales[state.active]
        root: Vector = float(np.sqrt(metric.damping)) * np.where(scale > 0, scale, 1.0)
        triangle, right = _stacked(upper, rotated, root)
        solution: Any = np.linalg.solve(triangle, right)
        delta: Vector = -solution
        length = float(np.linalg.norm(scale * delta))
        flat, bent = norm2(upper @ delta), norm2(root * delta)
        predicted = flat + 2 * bent
        why = ""
        if metric.damping > _MOST:
            metric.damping, metric.growth, why = _MOST, 2.0, "damping"
        elif length <= xtol * float(np.linalg.norm(scale * theta)):
            why = "xtol"
        elif predicted <= ftol * cost:
            why = "ftol"
        if why and not refused and metric.damping > _LEAST:
            metric.damping = max(_RELIEF * metric.damping, _LEAST)
            continue
        if why and not ended:
            ended, refused = True, False
            state.switch(0.0)
            continue
        if not why and evaluations + 1 + geodesic > max_evaluations:
            why = "evaluations"
        if why:
            break
        move: Vector | None = delta
        share, tried = 1.0, None  # of the step, and the residuals there
        if geodesic:
            evaluations += 1
            share, tried = _PROBE, residual(theta + _PROBE * delta)
            bend = None if tried is None else _bend(r, tried, jacobian, delta, triangle)
            move = None
            if bend is not None and 2 * np.linalg.norm(scale * bend) <= _BENDING * length:
                move = delta + bend / 2
        if move is not None:
            evaluations += 1
            new = residual(theta + move)
            gain = -1.0 if new is None else (cost - norm2(new)) / predicted
            if new is not None and gain > _GAIN:
                shrunk = metric.damping * max(1 / 3, 1 - (2 * min(gain, 1.0) - 1) ** 3)
                metric.damping, metric.growth = max(shrunk, _LEAST), 2.0
                state.count(norm2(new) / cost)
                return Outcome(theta + move, new, rejected, evaluations, "")
            tried = tried if geodesic else new
        rejected, refused = rejected + 1, True
        metric.damping *= metric.growth
        metric.growth *= 2
        slope = 2 * share * (flat + bent)  # the decrease along the tangent
        if tried is not None and 16 * _CERTAIN * cost < slope < shortest:
            # The parabola through both costs with this slope falls by slope² / 4(rise + slope). At
            # a minimum that is rounding; if it is more on the shortest step, the slope is wrong.
            shortest, rise = slope, norm2(tried) - cost
            contradicted = rise >= 0 and slope**2 > 4 * _CERTAIN * cost * (rise + slope)
    # A Jacobian that is right leads downhill until residuals are orthogonal to it or, relative to
    # the parameters, nothing but rounding.
    slanted = cosines.max() > _SLANTED * np.sqrt(cost)
    rounded = np.sqrt(cost) <= _ROUNDED * np.linalg.norm(norms * theta)
    if why != "evaluations" and contradicted and slanted and not rounded:
        why = "uphill"
    state.metrics, state.active, state.steps, state.left = before
    return Outcome(theta, r, rejected, evaluations, why)


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
    r: Vector, ahead: Vector, jacobian: Vector, delta: Vector, triangle: Vector
) -> Vector | None:
    """Compute the geodesic acceleration from residuals ahead; return None if it is not finite."""
    second = 2 / _PROBE * ((ahead - r) / _PROBE - jacobian @ delta)
    # Only a correction, so the triangle alone is accurate enough (seminormal equations).
    solved = np.linalg.solve(triangle.T, jacobian.T @ second)
    bend: Vector = -np.linalg.solve(triangle, solved)
    return bend if np.isfinite(bend).all() else None
