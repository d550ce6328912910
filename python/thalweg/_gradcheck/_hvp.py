"""Checking products of a Hessian with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._gradcheck import _blocks
from thalweg._gradcheck._blocks import Blocks, Vector
from thalweg._gradcheck._differences import EPS, METHODS, Method, Name
from thalweg._gradcheck._report import BlockReport, GradcheckReport
from thalweg._gradcheck._verdict import judge, share
from thalweg._habits import takes
from thalweg.errors import ArgumentError

#: How much two products that should be equal may differ, relative to the largest product.
_SYMMETRIC = 1e-10


@takes("check_hvp", {})
def check_hvp(
    grad: Callable[[Any], Any],
    hvp: Callable[[Any, Any], Any],
    theta: Targets,
    *,
    directions: int = 3,
    method: Name = "central",
    h: float | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
) -> GradcheckReport:
    r"""Check products of a Hessian with vectors by differences of the gradient.

    For random unit directions `v` in each block of the parameters, :math:`H v` is compared with

    .. math:: \frac{\nabla f(\theta + h v) - \nabla f(\theta - h v)}{2 h}

    in every block, so that a product that ignores the coupling of two blocks fails; and
    :math:`u^\top H v` is compared with :math:`v^\top H u`, which are equal for a Hessian.

    Parameters
    ----------
    grad : callable
        Computes the gradient, in the form of `theta`, from an argument of that form.
    hvp : callable
        ``hvp(theta, v)``, with arguments and result of that form as well.
    theta : array_like, or mapping of str to array_like
        Where to check, converted to float64.
    directions : int, keyword only, default 3
        Number of directions per block, at least 1.
    method : {"forward", "central", "fourth"}, keyword only
        As in `check_gradient`.
    h : float, keyword only, optional
        The step is h times the larger of 1 and the norm of the block; at least ε, and by default as
        in `check_gradient`.
    rtol : float, keyword only, default 1e-6
        Tolerance for the norm-relative error of a block of :math:`H v`, over all directions.
    seed : int, keyword only, default 0
        Seed of the directions.

    Returns
    -------
    GradcheckReport
        One row for each block of :math:`H v`, and one named ``"symmetry"``, whose numbers are
        :math:`u^\top H v` and :math:`v^\top H u`; its tolerance is 1e-10.

    Raises
    ------
    ArgumentError
        If `grad` or `hvp` cannot be called, or an option is outside its range.
    ShapeError
        If a result does not have the form of `theta`.
    DataError
        If something is not finite, or a block of `theta` is empty.
    DtypeError
        If something does not hold real numbers.

    Notes
    -----
    What differences cannot resolve is estimated as in `check_gradient`, from twice the step; if
    this is more than 1% of a product, the block does not pass, either. A Gauss-Newton or Fisher
    product in place of a Hessian fails, unless the two are equal at that point.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> report = tw.check_hvp(np.cos, lambda t, v: -np.sin(t) * v, np.ones(4))  # f = sum(sin)
    >>> report.passed
    True
    >>> tw.check_hvp(np.cos, lambda t, v: np.sin(t) * v, np.ones(4)).failed
    ('theta',)
    """
    _checks.function("grad", grad)
    _checks.function("hvp", hvp, "theta and v")
    rule = METHODS[_checks.one_of("method", method, get_args(Name))]
    h = rule.step() if h is None else _checks.real("h", h, EPS)
    directions = _checks.integer("directions", directions, 1)
    rtol = _checks.real("rtol", rtol, 0, closed="()")
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    blocks, point, named = _blocks.of(theta)

    def flat(result: Any, what: str) -> Vector:
        return _blocks.join(result if named else {_blocks.ALONE: result}, blocks, what)

    def slope(at: Vector) -> Vector:
        return flat(grad(_blocks.shaped(at, blocks, named)), "grad")

    def product(v: Vector) -> Vector:
        parts = (_blocks.shaped(a, blocks, named) for a in (point, v))
        return flat(hvp(*parts), "hvp")

    return compare(slope, product, blocks, point, rule, h, directions, rtol, rng)


def compare(
    slope: Callable[[Vector], Vector],
    product: Callable[[Vector], Vector],
    blocks: Blocks,
    point: Vector,
    rule: Method,
    h: float,
    directions: int,
    rtol: float,
    rng: np.random.Generator,
    crosses: Callable[[slice, Vector, Vector], bool] | None = None,
) -> GradcheckReport:
    """Compare products with differences of the gradient, along directions of each block.

    `crosses` tells whether a kink lies within the steps: such directions are redrawn, up to ten
    times, and then left out.
    """
    here = slope(point)
    kinks = dict.fromkeys((name for name, _ in blocks), 0)
    tried: list[tuple[Vector, Vector]] = []
    rows: list[tuple[Vector, Vector, Vector, float]] = []
    for (name, _), part in zip(blocks, _blocks.slices(blocks), strict=True):
        step = h * max(1.0, _blocks.length(point[part]))
        for _ in range(directions):
            v = np.zeros_like(point)
            reach = 2 * step * np.array([1.0, -1.0]) * max(rule.points)
            for _attempt in range(10):
                v[part] = _blocks.unit(rng, v[part].size)
                crossed = crosses is not None and crosses(part, v[part], reach)
                if not crossed:
                    break
            if crossed:
                kinks[name] += 1
                continue
            one, two = (_slopes(rule, slope, point, v, k * step, here) for k in (1, 2))
            tried.append((v, product(v)))
            # It is at least the last bit of the gradient.
            spread = np.maximum(np.abs(two - one), EPS / 2 * np.abs(here) / step)
            rows.append((tried[-1][1], one, spread, step))

    if not rows:
        raise ArgumentError(
            "every direction that was tried crosses a kink within a step, so that there is no "
            "second derivative to check here: try a smaller h, or other rows of x"
        )
    columns: list[Vector] = [np.array([row[k] for row in rows]) for k in range(3)]
    steps = [row[3] for row in rows]
    whole = _blocks.length(columns[1])
    found = [
        replace(
            _block(name, shape, [column[:, part] for column in columns], steps, rtol, whole),
            kinks=kinks[name],
        )
        for (name, shape), part in zip(blocks, _blocks.slices(blocks), strict=True)
    ]
    found.append(_symmetry(tried))
    return GradcheckReport(tuple(found), rule.name, rtol, _blocks.length(here))


def _slopes(
    rule: Method, slope: Callable[[Vector], Vector], at: Vector, v: Vector, h: float, here: Vector
) -> Vector:
    """Return the difference of a gradient, component by component."""
    f = [slope(at + h * k * v) for k in rule.points]
    if rule.name == "forward":
        result: Vector = (f[0] - here) / h
    elif rule.name == "central":
        result = (f[0] - f[1]) / (2 * h)
    else:
        result = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h)
    return result


def _block(
    name: str,
    shape: tuple[int, ...],
    columns: list[Vector],
    steps: list[float],
    rtol: float,
    whole: float,
) -> BlockReport:
    """Compare one block of the products, over all directions."""
    analytic, numeric, spread = columns
    # Errors up to this are attributed to the differences.
    floor = 2 * np.maximum(spread, float(np.median(spread)))
    norms = (_blocks.length(v) for v in (analytic - numeric, analytic, numeric, floor))
    judged = judge(*norms, rtol=rtol, whole=whole, curvature=lambda: (0.0, 0.0))
    return _compared(
        name, shape, analytic, numeric, floor / rtol, steps, judged, float(np.median(floor) / 2)
    )


def _symmetry(tried: list[tuple[Vector, Vector]]) -> BlockReport:
    """Compare uᵀHv with vᵀHu for neighbouring directions."""
    pairs = list(zip(tried, tried[1:] + tried[:1], strict=True))
    one = np.array([u @ hv for (u, _), (_, hv) in pairs])[:, np.newaxis]
    other = np.array([v @ hu for (_, hu), (v, _) in pairs])[:, np.newaxis]
    size = max(_blocks.length(hv) for _, hv in tried)
    # Products of two directions may cancel, so the error is relative to the size of Hv.
    floor = np.full_like(one, size)
    allowed = _SYMMETRIC * _blocks.length(floor)
    distance = _blocks.length(one - other)
    verdict = "ok" if distance <= allowed else "FAILED"
    judged = share(distance, _blocks.length(floor)), _SYMMETRIC, verdict
    return _compared("symmetry", (len(pairs),), one, other, floor, [0.0], judged, None)


def _compared(
    name: str,
    shape: tuple[int, ...],
    analytic: Vector,
    numeric: Vector,
    least: Vector,
    steps: list[float],
    judged: tuple[float, float, str],
    truncation: float | None,
) -> BlockReport:
    """Compare rows, one per direction; numbers smaller than `least` count as `least`."""
    error = np.abs(analytic - numeric)
    relative, resolution, verdict = judged
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), least)
    each = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)
    return BlockReport(
        name=name,
        shape=shape,
        h=(min(steps), max(steps)),
        max_abs_error=float(error.max()),
        max_rel_error=float(each.max()),
        norm_rel_error=relative,
        resolution=resolution,
        worst_index=tuple(int(i) for i in np.unravel_index(worst[1], shape)),
        worst_analytic=float(analytic[worst]),
        worst_numeric=float(numeric[worst]),
        truncation=truncation,
        round_off=0.0,
        kinks=0,
        directions=len(analytic),
        float32_error=None,
        verdict=verdict,
    )
