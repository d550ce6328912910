"""What a gradient check found: the comparison, and the table of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._gradcheck import _blocks
from thalweg._gradcheck._blocks import Blocks, Vector
from thalweg._gradcheck._differences import EPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg._gradcheck._curve import ErrorCurve

#: The values of the function at theta + step * direction in one block, by its number, and the
#: gradient's slope along it.
Lines: TypeAlias = Callable[[int, Vector, npt.NDArray[Any]], tuple[npt.NDArray[Any], float]]

#: Central differences of smooth networks agree to about 1e-9; wrong formulas are off by far more.
RTOL = 1e-7


@dataclass(frozen=True, slots=True)
class BlockReport:
    r"""The comparison for one block of parameters, such as one weight matrix.

    Attributes
    ----------
    name : str
        E.g. ``"0.weight"``.
    shape : tuple of int
        Shape of the block.
    h : tuple of two floats
        The smallest and the largest step that was used.
    max_abs_error : float
        The largest :math:`|a_i - n_i|`.
    max_rel_error : float
        The largest :math:`|a_i - n_i| / \max(|a_i|, |n_i|, \delta_i / r)`. Below
        :math:`\delta_i / r` its own errors are all that a difference shows.
    norm_rel_error : float
        :math:`\lVert a - n \rVert / \max(\lVert n \rVert, \lVert\delta\rVert / r)`; the block
        passes if it is at most `r`.
    worst_index : tuple of int
        Where in the block the largest absolute error is; with directions, the number of that one.
    worst_analytic, worst_numeric : float
        The two values there.
    truncation : float or None
        Error of a typical difference that comes from the size of its step, estimated from that with
        twice the step, round-off included; None if ``atol`` was given.
    round_off : float
        The most that rounding of the function's values to their last bit does to a typical
        difference. What rounding *inside* the function does comes on top.
    kinks : int
        Parameters, or directions, left out because a ReLU-like kink lies between the points.
    directions : int
        How many random directions were compared; 0 if every parameter was.
    float32_error : float or None
        For a float32 model, :math:`\\lVert a_{32} - a_{64} \\rVert / \\lVert a_{64} \\rVert`
        of its own gradient and that of its float64 copy.
    verdict : str
        ``"ok"``; ``"ok to resolution"`` if differences are not exact enough to resolve `r`;
        ``"FAILED"``; ``"FAILED in float32"`` if only the float32 gradient is wrong;
        ``"all kinks"`` if nothing was left to compare.
    """

    name: str
    shape: tuple[int, ...]
    h: tuple[float, float]
    max_abs_error: float
    max_rel_error: float
    norm_rel_error: float
    worst_index: tuple[int, ...]
    worst_analytic: float
    worst_numeric: float
    truncation: float | None
    round_off: float
    kinks: int
    directions: int
    float32_error: float | None
    verdict: str

    @property
    def size(self) -> int:
        """How many parameters the block has."""
        return int(np.prod(self.shape))

    @property
    def passed(self) -> bool:
        """Whether analytic and numeric gradients agree."""
        return self.verdict.startswith("ok")


@dataclass(frozen=True, repr=False)
class GradcheckReport:
    """What a gradient check found; true if everything passed. Print it to see the table.

    Attributes
    ----------
    blocks : tuple of BlockReport
        One for each block of parameters, in order.
    method : str
        How the numeric gradient was had.
    rtol : float
        The tolerance `r`.
    value : float
        The function, or loss, at the point of the check.
    """

    blocks: tuple[BlockReport, ...]
    method: str
    rtol: float
    value: float
    _lines: Lines | None = field(default=None, compare=False)

    def curve(self, block: str | None = None) -> "ErrorCurve":
        """Measure the error along one random direction of a block for many steps.

        Parameters
        ----------
        block : str, optional
            Its name; by default the one with the largest norm-relative error.

        Returns
        -------
        ErrorCurve
            With the slopes of truncation and round-off. The function is evaluated some hundred
            times, as it is now.

        Raises
        ------
        ArgumentError
            If there is no such block; or the report has no function, for it was unpickled, or is
            one of `check_hvp` or `gradgradcheck`.
        """
        from thalweg._gradcheck._curve import measure

        names = [b.name for b in self.blocks]
        worst = max(self.blocks, key=lambda b: b.norm_rel_error).name
        block = _checks.one_of("block", worst if block is None else block, names)
        return measure(self, names.index(block))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws errors over the step, block by block; see `thalweg.plot.gradcheck`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

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
        """Names of the blocks that did not pass."""
        return tuple(block.name for block in self.blocks if not block.passed)

    @property
    def max_abs_error(self) -> float:
        """The largest absolute error of all blocks."""
        return max(block.max_abs_error for block in self.blocks)

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of all blocks; see `BlockReport`."""
        return max(block.max_rel_error for block in self.blocks)

    @property
    def norm_rel_error(self) -> float:
        """The largest norm-relative error of all blocks: what the verdict is taken from."""
        return max(block.norm_rel_error for block in self.blocks)

    @property
    def kinks(self) -> int:
        """How many parameters were left out because of a kink."""
        return sum(block.kinks for block in self.blocks)

    @property
    def float32_error(self) -> float | None:
        """The largest error of float32 gradients; None if the model was not float32."""
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
            ("block", "size", "h", "max abs", "max rel", "norm rel", "worst at", "analytic",
             "numeric", "truncation", "round-off", "kinks", "verdict")
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
        end = "passed" if self.passed else f"FAILED: {', '.join(self.failed)}"
        lines.append(
            f"{end} ({self.method} differences in float64, tolerance {self.rtol:g}, "
            f"largest norm-relative error {self.norm_rel_error:.1e})"
        )
        if any(b.directions for b in self.blocks):
            lines.append(
                "compared along random directions of each block, not parameter by parameter"
            )
        if self.float32_error is not None:
            lines.append(f"float32 gradients differ from float64 ones by {self.float32_error:.1e}")
        return "\n".join(lines)


def resolution(
    numeric: Vector,
    doubled: Vector,
    kinked: npt.NDArray[np.bool_],
    steps: Vector,
    value: float,
    blocks: Blocks,
) -> Vector:
    """Estimate the error of each difference from that with twice the step, without the gradient."""
    # As an error of f, which for round-off is one number whatever the parameter and its step. The
    # last bit of f is the least that there can be.
    errors = np.abs(doubled - numeric) * steps
    floor = EPS / 2 * abs(value)
    if not kinked.all():
        floor = max(floor, float(np.median(errors[~kinked])))
    delta = np.empty_like(steps)
    for indices in _blocks.split(np.arange(steps.size), blocks).values():
        kept = errors[indices][~kinked[indices]]
        # A median, for a kink that nobody knows of makes a single error huge. Twice that is about
        # one and a half standard deviations: enough on average over many, and not over few, as
        # three directions are.
        typical = max(floor, float(np.median(kept))) if kept.size else floor
        delta[indices] = 2 * (1 + 1 / max(1, kept.size) ** 0.5) * typical / steps[indices]
    return delta


@dataclass(frozen=True, slots=True)
class Columns:
    """Gradients and differences, one of each for every parameter or direction of all blocks."""

    blocks: Blocks
    analytic: Vector
    numeric: Vector
    steps: Vector
    kinked: npt.NDArray[np.bool_]
    #: The differences with twice the step, and whether there is a kink between their points; or,
    #: if there are none, an estimate of their errors.
    doubled: Vector | None = None
    also_kinked: npt.NDArray[np.bool_] | None = None
    estimate: Vector | None = None


def report(
    found: Columns,
    *,
    value: float,
    method: str,
    order: int = 0,
    noise: float = 0.0,
    rtol: float,
    atol: float | None,
    lines: Lines | None,
) -> GradcheckReport:
    """Compare two gradients block by block."""
    kinked = found.kinked if found.also_kinked is None else found.kinked | found.also_kinked
    if atol is not None:
        delta = np.full_like(found.steps, atol)
    elif found.doubled is not None:
        delta = resolution(found.numeric, found.doubled, kinked, found.steps, value, found.blocks)
    else:
        assert found.estimate is not None
        delta = found.estimate
    spread = found.estimate
    if found.doubled is not None:
        spread = np.abs(found.doubled - found.numeric) / (2**order - 1)
    reports = []
    for (name, shape), part in zip(found.blocks, _blocks.slices(found.blocks), strict=True):
        kept = ~kinked[part]
        steps = found.steps[part]
        block = _compare(
            name,
            found.analytic[part].reshape(shape),
            found.numeric[part].reshape(shape),
            found.kinked[part].reshape(shape),
            steps.reshape(shape),
            delta[part].reshape(shape),
            rtol=rtol,
        )
        rounding = noise * EPS * abs(value) / float(np.median(steps))
        if spread is not None and kept.any():
            block = replace(block, truncation=float(np.median(spread[part][kept])))
        reports.append(replace(block, round_off=rounding))
    return GradcheckReport(tuple(reports), method, rtol, value, lines)


def _compare(
    name: str,
    analytic: Vector,
    numeric: Vector,
    kinked: npt.NDArray[np.bool_],
    steps: Vector,
    delta: Vector,
    *,
    rtol: float,
) -> BlockReport:
    """Compare one block; the head of this package has the criterion."""
    kinks = int(kinked.sum())
    error = np.where(kinked, 0.0, np.abs(analytic - numeric))
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), delta / rtol)
    # Where even delta is zero (f = 0), equal numbers agree and all others do not.
    relative = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))

    kept = ~kinked
    size = _blocks.length(numeric[kept])
    floor = _blocks.length(delta[kept])
    distance = _blocks.length(error)
    reference = max(size, floor / rtol)
    # Where a difference is NaN, so are these.
    norm_relative = distance / reference if reference > 0 else (0.0 if distance == 0 else np.inf)
    if kinks == analytic.size:
        verdict = "all kinks"
    elif not norm_relative <= rtol:  # nor if it is NaN
        verdict = "FAILED"
    else:
        verdict = "ok" if size * rtol > floor else "ok to resolution"
    return BlockReport(
        name=name,
        shape=analytic.shape,
        h=(float(steps.min()), float(steps.max())),
        max_abs_error=float(error.max()),
        max_rel_error=float(relative.max()),
        norm_rel_error=float(norm_relative),
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
