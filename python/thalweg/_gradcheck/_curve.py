"""The error of differences against their step: truncation at large steps, round-off at small."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from thalweg._gradcheck import _blocks
from thalweg._gradcheck._blocks import Vector
from thalweg._gradcheck._differences import METHODS, Method
from thalweg.errors import ArgumentError

if TYPE_CHECKING:
    from thalweg._gradcheck._report import GradcheckReport

#: The range of steps of a curve, and their number per factor of ten.
_LARGEST, _SMALLEST, _PER_DECADE = 1e0, 1e-13, 8


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    r"""The error of differences for many steps, along one direction of a block.

    For a correct gradient, the curve is a V on logarithmic axes: from small steps on, it falls as
    round-off, :math:`R/h`, and then rises as truncation, :math:`C h^p`. For a wrong gradient, it
    ends on a plateau, the error of the gradient itself.

    Attributes
    ----------
    block : str
        Name of the block.
    h : ndarray, shape (n,)
        The steps, in descending order.
    error : ndarray, shape (n,)
        :math:`|a - n(h)| / |a|`, where `a` is the slope according to the gradient under test.
    order : int
        The order `p` of the difference.
    truncation, round_off : float
        `C` and `R`, relative to `a`, estimated from differences at neighbouring steps without using
        `a`. NaN where the curve does not show them.
    truncation_slope, round_off_slope : float
        Slopes of the two branches, by least squares; they should be `p` and -1. NaN if a branch is
        missing: a quadratic has no truncation.
    """

    block: str
    h: Vector
    error: Vector
    order: int
    truncation: float
    round_off: float
    truncation_slope: float
    round_off_slope: float

    @property
    def best_h(self) -> float:
        """The step with the smallest error."""
        return float(self.h[self.error.argmin()])

    @property
    def theory_h(self) -> float:
        r"""The minimum of :math:`C h^p + R/h`, at :math:`h = (R / pC)^{1/(p+1)}`."""
        return float((self.round_off / (self.order * self.truncation)) ** (1 / (self.order + 1)))

    def __repr__(self) -> str:
        return (
            f"ErrorCurve({self.block!r}, smallest error {self.error.min():.1e} at h="
            f"{self.best_h:.1e}, slopes {self.truncation_slope:+.2f} and "
            f"{self.round_off_slope:+.2f})"
        )


def measure(report: "GradcheckReport", block: int) -> ErrorCurve:
    """Measure the curve of one block."""
    lines = report._lines
    if lines is None:
        raise ArgumentError(
            "this report has no function to evaluate: it was unpickled, or checks products with a "
            "Hessian. Run check_gradient or gradcheck, and call curve() on the report it returns"
        )
    here = report.blocks[block]
    # Methods that are not differences of one step are shown together with central differences.
    rule = METHODS.get(report.method, METHODS["central"])
    direction = _blocks.unit(np.random.default_rng(0), here.size)
    count = round(_PER_DECADE * np.log10(_LARGEST / _SMALLEST)) + 1
    h = np.geomspace(_LARGEST, _SMALLEST, count)

    values, slope = lines(block, direction, np.outer(h, rule.points).ravel())
    rows = zip(h, values.reshape(count, -1), strict=True)
    found = np.array([rule(partial(_known, row), float(s), report.value) for s, row in rows])
    size = abs(slope) or float(np.abs(found).min()) or 1.0
    error = np.abs(found - slope) / size
    return ErrorCurve(here.name, h, error, rule.order, *_branches(h, found / size, rule))


def _known(values: Vector, points: Vector) -> tuple[Vector, Vector]:
    return values, points


def _branches(h: Vector, found: Vector, rule: Method) -> tuple[float, float, float, float]:
    """Return C, R and the slopes of both branches, from neighbours on the curve."""
    power = rule.order
    # Points this far apart clearly differ in error.
    apart = _PER_DECADE // 2
    change = np.abs(found[apart:] - found[:-apart])
    large, small = h[:-apart], h[apart:]
    if not change.any():
        return (np.nan,) * 4
    bottom = int(_smooth(np.log(np.maximum(change, 1e-300))).argmin())
    left = change[bottom + _PER_DECADE :]
    down = np.flatnonzero(left > 0) + bottom + _PER_DECADE
    round_off = truncation = round_slope = truncation_slope = np.nan
    if len(down) >= _PER_DECADE:
        round_off = float(np.median(change[down] * small[down]))
        round_slope = _slope(small[down], change[down])
    up = np.arange(0, bottom)
    floor = 30 * (0.0 if np.isnan(round_off) else round_off) / small[up]
    up = up[(change[up] > floor) & (large[up] < 0.1) & (change[up] < 0.1)]
    if len(up) >= apart:
        truncation = float(np.median(change[up] / (large[up] ** power - small[up] ** power)))
        truncation_slope = _slope(large[up], change[up])
    return truncation, round_off, truncation_slope, round_slope


def _slope(h: Vector, error: Vector) -> float:
    return float(np.polyfit(np.log(h), np.log(error), 1)[0])


def _smooth(values: Vector) -> Vector:
    """Average over neighbours, since a single difference may be zero by chance."""
    return np.convolve(np.pad(values, 2, mode="edge"), np.ones(5) / 5, mode="valid")
