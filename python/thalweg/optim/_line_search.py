"""A line search for the strong Wolfe conditions, as in minFunc and PyTorch."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

#: Sufficient decrease, f(t) ≤ f(0) + C1·t·f'(0), and flatness, |f'(t)| ≤ −C2·f'(0).
C1, C2 = 1e-4, 0.9


class Point(NamedTuple):
    """A function along a line: a step, the value there (infinite if there is none) and slope."""

    step: float
    value: float
    slope: float
    gradient: Any


def strong_wolfe(
    evaluate: Callable[[float], Point],
    start: Point,
    step: float,
    size: float,
    tolerance: float,
    most: int,
) -> tuple[Point, int]:
    """Find a point that meets both conditions, else the lowest; also return the evaluations.

    An interval that contains such a point is bracketed and then shrunk by cubic interpolation
    (Nocedal & Wright 2006, algorithms 3.5 and 3.6). `size` is the largest component of the
    direction: shrinking stops when the interval moves no parameter by `tolerance`. There are at
    most ``most + 1`` evaluations.
    """

    def descends(point: Point) -> bool:
        return point.value <= start.value + C1 * point.step * start.slope

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -C2 * start.slope

    before, new, count = start, evaluate(step), 0
    while True:
        if count >= most:
            low, high = _sorted(start, new)
            break
        if not descends(new) or (count > 1 and new.value >= before.value):
            low, high = _sorted(before, new)
            break
        if flat(new):
            return new, count + 1
        if new.slope >= 0:
            low, high = _sorted(before, new)
            break
        least, largest = new.step + 0.01 * (new.step - before.step), 10 * new.step
        before, new = new, evaluate(_cubic(before, new, least, largest))
        count += 1

    close = False
    while count < most and abs(high.step - low.step) * size >= tolerance:
        left, right = min(low.step, high.step), max(low.step, high.step)
        first, second = (low, high) if low.step <= high.step else (high, low)
        t = _cubic(first, second, left, right)
        # If close to an end twice in a row, or at it, move a tenth of the interval away from that
        # end.
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            if close or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                close = False
            else:
                close = True
        else:
            close = False
        new = evaluate(t)
        count += 1
        if not descends(new) or new.value >= low.value:
            low, high = _sorted(low, new)
            continue
        if flat(new):
            return new, count + 1
        if new.slope * (high.step - low.step) >= 0:
            high = low
        low = new
    return low, count + 1


def _sorted(a: Point, b: Point) -> tuple[Point, Point]:
    return (a, b) if a.value <= b.value else (b, a)


def _cubic(a: Point, b: Point, least: float, largest: float) -> float:
    """Return the minimum of the cubic through two points and their slopes, within bounds."""
    if math.isfinite(a.value) and math.isfinite(b.value) and a.step != b.step:
        d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
        square = d1 * d1 - a.slope * b.slope
        if square >= 0:
            d2 = math.sqrt(square)
            below = b.slope - a.slope + 2 * d2
            lowest = math.nan
            if below != 0:
                lowest = b.step - (b.step - a.step) * ((b.slope + d2 - d1) / below)
            if math.isfinite(lowest):
                return min(max(lowest, least), largest)
    return (least + largest) / 2
