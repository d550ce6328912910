"""Whether two gradients agree, and whether differences were exact enough to say so."""

import math
from collections.abc import Callable

#: A block is checked if differences resolve this fraction of its gradient: larger errors fail.
LIMIT = 1e-2

#: What a block whose gradient is zero may hide, as a fraction of the gradient of all blocks.
_HIDDEN = 1e-4


def judge(
    distance: float,
    analytic: float,
    numeric: float,
    delta: float,
    *,
    rtol: float,
    whole: float,
    curvature: Callable[[], tuple[float, float]] | None,
) -> tuple[float, float, str]:
    """Return error and resolution, relative to the numeric gradient, and the verdict.

    All positional arguments are norms: of the difference of the two gradients, of each gradient,
    and of what differences cannot resolve; `whole` is that of the numeric gradient of all blocks.
    `curvature` returns how much the gradient changes over a step, and over the rounding of a
    parameter; None means that the user has vouched for the resolution.
    """
    error, resolution = share(distance, numeric), share(delta, numeric)
    if not math.isfinite(distance):
        return error, resolution, "FAILED"
    if distance <= rtol * numeric and delta <= rtol * numeric and numeric > 0:
        return error, resolution, "ok"
    inside = distance <= max(rtol * numeric, delta)
    known = (
        delta <= LIMIT * numeric
        # The function did not move at all, and the gradient agrees.
        or analytic == numeric == 0
        # As for a bias before BatchNorm1d, where terms cancel.
        or (analytic <= LIMIT * delta and delta <= _HIDDEN * whole)
        or curvature is None
    )
    if not (inside and known) and curvature is not None:
        over_step, over_rounding = curvature()
        # If rounding hides the gradient because the function is large, it hides this change too. It
        # does not, so this is a minimum, a maximum or a saddle.
        known = known or delta <= LIMIT * over_step
        # A gradient cannot be more exact than its parameters.
        inside = inside or distance <= over_rounding
    if not inside:
        return error, resolution, "FAILED"
    return error, resolution, "ok to resolution" if known else "unresolved"


def share(part: float, whole: float) -> float:
    """Divide; 0 divided by 0 is 0."""
    return part / whole if whole > 0 else (0.0 if part == 0 else math.inf)
