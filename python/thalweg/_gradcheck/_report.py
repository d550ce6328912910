"""The result of a gradient check: the comparison, and its table."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._gradcheck import _blocks, _kinks
from thalweg._gradcheck._blocks import Blocks, Vector
from thalweg._gradcheck._differences import EPS, UNDEFINED
from thalweg._gradcheck._verdict import LIMIT, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg._gradcheck._curve import ErrorCurve
else:  # what typing.get_type_hints finds
    Axes = ErrorCurve = Any

#: For the block with this number, the function's values at theta + step * direction, and the
#: gradient's slope along the direction.
Lines: TypeAlias = Callable[[int, Vector, npt.NDArray[Any]], tuple[npt.NDArray[Any], float]]

#: Names of dtypes by machine epsilon.
_FLOATS = {float(np.finfo(kind).eps): kind for kind in ("float16", "float32", "float64")}

#: Central differences of smooth networks agree to about 1e-9; wrong formulas are off by far more.
RTOL = 1e-7


@dataclass(frozen=True)
class BlockReport:
    r"""The comparison for one block of parameters, such as one weight matrix.

    Attributes
    ----------
    name : str
        E.g. ``"0.weight"``.
    shape : tuple of int
        Shape of the block.
    h : tuple of two floats
        The smallest and the largest step used.
    max_abs_error : float
        The largest :math:`|a_i - n_i|`.
    max_rel_error : float
        The largest :math:`|a_i - n_i| / \max(|a_i|, |n_i|, \delta_i / r)`. Below
        :math:`\delta_i / r`, a difference only shows its own errors.
    norm_rel_error : float
        :math:`\lVert a - n \rVert / \lVert n \rVert`, infinite if only `n` is zero. Where plain
        differences do not show that the gradient is right, their truncation error is subtracted
        from `n`, if four times the step confirms it.
    resolution : float
        :math:`\lVert\delta\rVert / \lVert n \rVert`, what differences cannot resolve. The block
        fails if `norm_rel_error` is above both `r` and this.
    worst_index : tuple of int
        The position of the largest absolute error in the block; with directions, the number of the
        direction.
    worst_analytic, worst_numeric : float
        The two values there, `a` and `n`.
    truncation : float or None
        Truncation error of a typical plain difference, estimated from twice the step, and including
        round-off; None if ``atol`` was given.
    round_off : float
        The largest effect on a typical difference of rounding the function's values to their last
        bit. Rounding *inside* the function comes on top.
    kinks : int
        Parameters, or directions, left out because a ReLU-like kink lies between the points.
    kink_at : tuple of int or None
        The position in the block of the first unknown kink, detected by differences on both sides
        of a parameter whose gradient disagrees with them.
    directions : int
        Number of random directions compared; 0 if every parameter was.
    float32_error : float or None
        For a float32 model, :math:`\lVert a_{32} - a_{64} \rVert / \lVert a_{64} \rVert` for its
        own gradient and that of its float64 copy.
    verdict : str
        ``"ok"``; ``"ok to resolution"`` if differences do not resolve `r`, but resolve 1% of the
        gradient, or if the gradient is zero, or if a float32 gradient has up to 1% of rounding;
        ``"unresolved"``, which is not a pass, if none of this holds: any gradient of that size
        agrees with them; ``"unresolved in float32"`` if only the float32 gradient is mostly
        rounding; ``"FAILED"``; ``"FAILED in float32"`` if only the float32 gradient is wrong;
        ``"all kinks"`` if nothing was left to compare.
    """

    name: str
    shape: tuple[int, ...]
    h: tuple[float, float]
    max_abs_error: float
    max_rel_error: float
    norm_rel_error: float
    resolution: float
    worst_index: tuple[int, ...]
    worst_analytic: float
    worst_numeric: float
    truncation: float | None
    round_off: float
    kinks: int
    directions: int
    float32_error: float | None
    verdict: str
    kink_at: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """The number of parameters in the block."""
        return int(np.prod(self.shape))

    @property
    def passed(self) -> bool:
        """Whether analytic and numeric gradients agree."""
        return self.verdict.startswith("ok")


@dataclass(frozen=True, repr=False)
class GradcheckReport:
    """The result of a gradient check; true if everything passed. Print it to see the table.

    Attributes
    ----------
    blocks : tuple of BlockReport
        One for each block of parameters, in order.
    method : str
        How the numeric gradient was computed.
    rtol : float
        The tolerance `r`.
    value : float
        The function, or loss, at the point checked; of `check_hvp` and `gradgradcheck`, which check
        derivatives of a gradient, the norm of that.
    """

    blocks: tuple[BlockReport, ...]
    method: str
    rtol: float
    value: float
    _lines: Lines | None = field(default=None, init=False, compare=False)
    #: The machine epsilon of the function's values.
    _eps: float = field(default=EPS, init=False)

    def curve(self, block: str | None = None) -> "ErrorCurve":
        """Measure the error along one random direction of a block, for many steps.

        Parameters
        ----------
        block : str, optional
            Its name; by default one that did not pass, or the one with the largest norm-relative
            error.

        Returns
        -------
        ErrorCurve
            With the slopes of truncation and round-off. This evaluates the function some hundred
            times, in its present state.

        Raises
        ------
        ArgumentError
            If there is no such block, or the report has no function, because it was unpickled or
            comes from `check_hvp` or `gradgradcheck`.
        """
        from thalweg._gradcheck._curve import measure

        names = [b.name for b in self.blocks]
        # Errors of zero gradients are as large as the gradients.
        order = [(not b.passed, b.resolution <= LIMIT, b.norm_rel_error) for b in self.blocks]
        worst = names[order.index(max(order))]
        block = _checks.one_of("block", worst if block is None else block, names)
        return measure(self, names.index(block))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw errors against the step, block by block; the same as `thalweg.plot.gradcheck`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from thalweg import plot

        return plot.gradcheck(self, ax)

    @property
    def passed(self) -> bool:
        """Whether every block passed."""
        return all(block.passed for block in self.blocks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the blocks that did not pass, including unresolved ones."""
        return tuple(block.name for block in self.blocks if not block.passed)

    @property
    def unresolved(self) -> tuple[str, ...]:
        """Names of the blocks for which differences are not exact enough to judge the gradient."""
        return tuple(block.name for block in self.blocks if block.verdict.startswith("unresolved"))

    @property
    def max_abs_error(self) -> float:
        """The largest absolute error in all blocks."""
        return max(block.max_abs_error for block in self.blocks)

    @property
    def max_rel_error(self) -> float:
        """The largest relative error in all blocks; see `BlockReport`."""
        return max(block.max_rel_error for block in self.blocks)

    @property
    def norm_rel_error(self) -> float:
        """The largest norm-relative error in all blocks, except those that passed as zero."""
        # In those, it is one rounding error relative to another.
        counted = (b for b in self.blocks if not (b.passed and b.resolution > LIMIT))
        return max((b.norm_rel_error for b in counted), default=0.0)

    @property
    def kinks(self) -> int:
        """The number of parameters left out because of a kink."""
        return sum(block.kinks for block in self.blocks)

    @property
    def float32_error(self) -> float | None:
        """The largest error of a float32 gradient; None if the model was not float32."""
        return max(
            (b.float32_error for b in self.blocks if b.float32_error is not None), default=None
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lines": None}  # functions cannot be pickled

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return (
            f"GradcheckReport(passed={self.passed}, norm_rel_error={self.norm_rel_error:.1e}, "
            f"failed={list(self.failed)}, kinks={self.kinks})"
        )

    def __str__(self) -> str:
        rows = [
            ("block", "size", "h", "max abs", "max rel", "norm rel", "resolution", "worst at",
             "analytic", "numeric", "truncation", "round-off", "kinks", "verdict")
        ]  # fmt: skip
        for b in self.blocks:
            low, high = (f"{h:.1e}" for h in b.h)
            rows.append(
                (
                    b.name,
                    str(b.size),
                    low if low == high else f"{low}..{high}",
                    f"{b.max_abs_error:.1e}",
                    f"{b.max_rel_error:.1e}",
                    f"{b.norm_rel_error:.1e}",
                    f"{b.resolution:.1e}",
                    str(list(b.worst_index)),
                    f"{b.worst_analytic:.6e}",
                    f"{b.worst_numeric:.6e}",
                    "-" if b.truncation is None else f"{b.truncation:.1e}",
                    f"{b.round_off:.1e}",
                    str(b.kinks),
                    b.verdict,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        wrong = [name for name in self.failed if name not in self.unresolved]
        ends = [f"FAILED: {', '.join(wrong)}"] if wrong else []
        if self.unresolved:
            ends.append(f"unresolved: {', '.join(self.unresolved)}")
        end = "; ".join(ends) or "passed"
        lines.append(
            f"{end} ({self.method} differences in {_FLOATS.get(self._eps, 'float64')}, "
            f"tolerance {self.rtol:g}, "
            f"largest norm-relative error {self.norm_rel_error:.1e})"
        )
        lines.extend(self._advice())
        if any(b.directions for b in self.blocks):
            lines.append(
                "compared along random directions of each block, not parameter by parameter"
            )
        if self.float32_error is not None:
            lines.append(f"float32 gradients differ from float64 ones by {self.float32_error:.1e}")
        return "\n".join(lines)

    def _advice(self) -> list[str]:
        """Say what to do where differences do not resolve the gradient."""
        coarse = [b for b in self.blocks if not b.passed and b.resolution > LIMIT]
        single = [b.name for b in self.blocks if b.verdict == "unresolved in float32"]
        rounded: list[str] = []
        bent: list[str] = []
        for b in coarse:
            # Errors above rounding come from the step, or from noise. For products, it is unknown.
            above = b.truncation is not None and b.truncation > 100 * b.round_off > 0
            (bent if above else rounded).append(b.name)
        advice = [
            f"{b.name}: kink at {list(b.kink_at)}, where the slopes on both sides differ; a "
            "parameter whose gradient lies between them is left out, and counted as a kink"
            for b in self.blocks
            if b.kink_at is not None
        ]
        if rounded:
            advice.append(
                f"{', '.join(rounded)}: a step changes the value, {self.value:.3g}, by little more "
                "than rounding does. Try a larger h, remove large constants from the function (or "
                'scale the targets), or, in check_gradient, use method="fourth" or "complex"'
            )
        if bent:
            advice.append(
                f"{', '.join(bent)}: doubling the step (h in the table) changes the differences. "
                "If the function is noisy, as with float32 inside, try a larger h, such as 5e-3. "
                "If it varies a lot within a step, try a smaller h, another method, or parameters "
                "scaled to about 1. If it has kinks there, as of absolute values of residuals "
                "about as small as the step, check it where these are larger, as before training"
            )
        if single:
            advice.append(
                f"{', '.join(single)}: more than 1% of the float32 gradient is rounding here, as "
                "near a minimum; the float64 gradient agrees with differences. Check a model that "
                'is not trained yet, or model.astype("float64")'
            )
        return advice


def resolution(
    errors: Vector,
    kinked: npt.NDArray[np.bool_],
    steps: Vector,
    value: float,
    blocks: Blocks,
    eps: float,
) -> Vector:
    """Return what differences cannot resolve, from an estimate of the error of each."""
    # As errors of f, which for round-off do not depend on the parameter and its step. They are at
    # least the last bit of f.
    errors = errors * steps
    floor = eps / 2 * abs(value)
    if not kinked.all():
        floor = max(floor, float(np.median(errors[~kinked])))
    delta = np.empty_like(steps)
    for indices in _blocks.split(np.arange(steps.size), blocks).values():
        kept = errors[indices][~kinked[indices]]
        # A median, since an unknown kink makes a single error huge. Twice the median is about one
        # and a half standard deviations: enough on average over many, but not over few, such as
        # three directions.
        typical = max(floor, float(np.median(kept))) if kept.size else floor
        delta[indices] = 2 * (1 + 1 / max(1, kept.size) ** 0.5) * typical / steps[indices]
    return delta


def extrapolated(
    once: Vector, twice: Vector, four: Vector, order: int
) -> tuple[Vector, Vector, npt.NDArray[np.bool_]]:
    """Subtract the truncation error of differences, where it can be told from noise and kinks.

    Returns the differences, an estimate of their errors, and whether it was subtracted: where the
    change from twice the step to four times the step is 2^p times that from once to twice.
    """
    near, far = twice - once, four - twice
    growth = 2.0**order
    seen = np.isfinite(far) & (np.abs(far - growth * near) <= 0.5 * np.abs(far))
    better, worse = once - near / (growth - 1), twice - far / (growth - 1)
    # Two differences may agree by chance, where the function's values are multiples of a last bit.
    noise = np.fmax(np.abs(near), np.abs(far))
    return np.where(seen, better, once), np.where(seen, np.abs(worse - better), noise), seen


@dataclass(frozen=True, slots=True)
class Columns:
    """Gradients and differences, one each per parameter or direction of all blocks."""

    blocks: Blocks
    analytic: Vector
    numeric: Vector
    steps: Vector
    kinked: npt.NDArray[np.bool_]
    #: The differences with twice the step, and whether there is a kink between their points; or,
    #: without these, an estimate of the errors.
    doubled: Vector | None = None
    also_kinked: npt.NDArray[np.bool_] | None = None
    estimate: Vector | None = None
    #: Returns the differences with four times the step, and whether there is a kink in between.
    further: Callable[[], tuple[Vector, npt.NDArray[np.bool_]]] | None = None


def report(
    found: Columns,
    *,
    value: float,
    method: str,
    order: int = 0,
    noise: float = 0.0,
    rtol: float,
    atol: float | None,
    lines: Lines,
    shapes: Blocks | None = None,
    eps: float = EPS,
) -> GradcheckReport:
    """Compare two gradients block by block; `shapes` are the blocks' if along directions.

    `eps` is the relative precision of the function's values.
    """
    parts = _blocks.slices(found.blocks)
    nothing = np.zeros_like(found.kinked)
    four: Vector | None = None  # differences with four times the step

    def compared(
        more_kinks: npt.NDArray[np.bool_], four: Vector | None = None
    ) -> list[BlockReport]:
        kinks = found.kinked | more_kinks
        kinked = kinks if found.also_kinked is None else kinks | found.also_kinked
        numeric = found.numeric
        if atol is not None:
            delta = np.full_like(found.steps, atol)
        elif found.doubled is not None:
            errors, seen = np.abs(found.doubled - numeric), nothing
            if four is not None:
                numeric, errors, seen = extrapolated(numeric, found.doubled, four, order)
            delta = resolution(errors, kinked, found.steps, value, found.blocks, eps)
            # Where truncation remains, it differs a lot between the parameters of a block.
            delta = np.where(seen, np.maximum(delta, errors), delta)
        else:
            assert found.estimate is not None
            delta = found.estimate
        spread = found.estimate
        if found.doubled is not None:
            spread = np.abs(found.doubled - found.numeric) / (2**order - 1)
        whole = _blocks.length(numeric[~kinked])
        reports = []
        named = zip(found.blocks, shapes or found.blocks, parts, strict=True)
        for number, ((name, shape), (_, true), part) in enumerate(named):
            kept, steps = ~kinked[part], found.steps[part]
            line, size = partial(lines, number), int(np.prod(true))
            block = _compare(
                name,
                found.analytic[part].reshape(shape),
                numeric[part].reshape(shape),
                kinks[part].reshape(shape),
                steps.reshape(shape),
                delta[part].reshape(shape),
                rtol=rtol,
                whole=whole,
                curvature=None
                if atol is not None
                else partial(_curvature, line, size, steps[kept], value, eps),
            )
            if shapes is not None:
                block = replace(block, shape=true, directions=int(kept.sum()))
            rounding = noise * eps * abs(value) / float(np.median(steps))
            if spread is not None and kept.any():
                block = replace(block, truncation=float(np.median(spread[part][kept])))
            reports.append(replace(block, round_off=rounding))
        return reports

    def judged(more_kinks: npt.NDArray[np.bool_]) -> list[BlockReport]:
        nonlocal four
        reports = compared(more_kinks)
        if found.further is None or all(block.verdict == "ok" for block in reports):
            return reports
        if four is None:
            four, crossed = found.further()
            four = np.where(crossed | found.kinked, np.nan, four)
            if found.also_kinked is not None:
                four[found.also_kinked] = np.nan
        pairs = zip(reports, compared(more_kinks, four), strict=True)
        return [block if block.verdict == "ok" else finer for block, finer in pairs]

    reports = judged(nothing)
    if shapes is None and found.estimate is None:
        there, explained = nothing.copy(), nothing.copy()
        off = np.abs(found.analytic - found.numeric) > rtol * np.abs(found.numeric)
        for number, (block, part) in enumerate(zip(reports, parts, strict=True)):
            if not block.passed:
                there[part], explained[part] = _kinks.look(
                    partial(lines, number), found.analytic[part], found.steps[part],
                    off[part] & ~found.kinked[part], value, eps,
                )  # fmt: skip
        if there.any():
            reports = [
                replace(block, kink_at=_first(there[part].reshape(block.shape)))
                for block, part in zip(judged(explained), parts, strict=True)
            ]
    made = GradcheckReport(tuple(reports), method, rtol, value)
    vars(made).update(_lines=lines, _eps=eps)
    return made


def _first(marks: npt.NDArray[np.bool_]) -> tuple[int, ...] | None:
    """Return the position of the first mark."""
    places = np.argwhere(marks)
    return tuple(int(i) for i in places[0]) if len(places) else None


def _compare(
    name: str,
    analytic: Vector,
    numeric: Vector,
    kinked: npt.NDArray[np.bool_],
    steps: Vector,
    delta: Vector,
    *,
    rtol: float,
    whole: float,
    curvature: Callable[[], tuple[float, float]] | None,
) -> BlockReport:
    """Compare one block, by the criterion in the docstring of this package."""
    kinks = int(kinked.sum())
    error = np.where(kinked, 0.0, np.abs(analytic - numeric))
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), delta / rtol)
    # If delta is zero too (f = 0), only equal numbers agree.
    relative = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))

    kept = ~kinked
    size, truth, floor = (_blocks.length(v[kept]) for v in (analytic, numeric, delta))
    distance = _blocks.length(error)
    judged = judge(distance, size, truth, floor, rtol=rtol, whole=whole, curvature=curvature)
    norm_relative, resolved, verdict = judged
    if kinks == analytic.size:
        verdict = "all kinks"
    return BlockReport(
        name=name,
        shape=analytic.shape,
        h=(float(steps.min()), float(steps.max())),
        max_abs_error=float(error.max()),
        max_rel_error=float(relative.max()),
        norm_rel_error=float(norm_relative),
        resolution=float(resolved),
        worst_index=worst,
        worst_analytic=float(analytic[worst]),
        worst_numeric=float(numeric[worst]),
        truncation=None,
        round_off=0.0,
        kinks=kinks,
        directions=0,
        float32_error=None,
        verdict=verdict,
    )


def _curvature(
    line: Callable[[Vector, Vector], tuple[npt.NDArray[Any], float]],
    size: int,
    steps: Vector,
    value: float,
    eps: float,
) -> tuple[float, float]:
    """Return the gradient's change over a step, and over rounding the parameters at 1.

    From second differences along one direction of the block; 0 if they are not those of a parabola,
    but of noise, or of a function that varies within a step.
    """
    step = float(np.median(steps))
    v = _blocks.unit(np.random.default_rng(0), size)
    try:
        with np.errstate(all="ignore"):
            f, _ = line(v, step * np.array([1.0, -1.0, 2.0, -2.0]))
    except UNDEFINED:
        return 0.0, 0.0
    with np.errstate(all="ignore"):
        f = f.real - value
        once, twice = float(f[0] + f[1]), float(f[2] + f[3])
        if not abs(twice - 4 * once) <= 0.1 * abs(twice):  # also if it is NaN
            return 0.0, 0.0
        change = abs(once) / step * steps.size**0.5
        return change, 4 * eps * change / step
