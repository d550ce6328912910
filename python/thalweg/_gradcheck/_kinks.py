"""Detecting unknown kinks of a function by differences on both sides of a point."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg._gradcheck._blocks import Vector
from thalweg._gradcheck._differences import UNDEFINED

#: Returns a function's values at steps along a direction, and a slope that is not needed here.
Line = Callable[[Vector, Vector], tuple[npt.NDArray[Any], float]]

_SCALES = np.array([1.0, 2.0, 4.0, 8.0])


def look(
    line: Line,
    analytic: Vector,
    steps: Vector,
    where: npt.NDArray[np.bool_],
    value: float,
    eps: float,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    r"""Return for each parameter whether a kink is within its steps, and whether it explains `a`.

    The slopes on both sides, :math:`(f(\theta + s) - f)/s` and :math:`(f - f(\theta - s))/s`,
    differ by :math:`s f''` where `f` is smooth, which doubles with `s`; by rounding, which halves;
    and by the jump of a kink, which does neither. A kink explains a gradient that lies between the
    two slopes.
    """
    kinked, explained = np.zeros_like(where), np.zeros_like(where)
    for i in np.flatnonzero(where):
        s = steps[i] * _SCALES
        direction = np.zeros(where.size)
        direction[i] = 1
        try:
            with np.errstate(all="ignore"):
                f, _ = line(direction, np.concatenate([s, -s]))
        except UNDEFINED:
            continue
        up, down = (f[: s.size].real - value) / s, (value - f[s.size :].real) / s
        jump = up - down
        rounding = 100 * eps * max(abs(value), float(np.abs(f).max())) / s
        with np.errstate(all="ignore"):
            growth = jump[2:] / jump[1:-1]
        # If the kink is near the end of the first step, that step sees hardly any of the jump.
        kinked[i] = bool(
            (np.abs(jump[1:]) > rounding[1:]).all() and ((growth > 0.75) & (growth < 1.5)).all()
        )
        off = abs(analytic[i] - (up[0] + down[0]) / 2)
        explained[i] = kinked[i] and bool(off <= 0.55 * abs(jump[0]))
    return kinked, explained
