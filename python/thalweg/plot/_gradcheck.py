"""Pictures of gradient checks: the error of differences against their step."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg._habits import takes
from thalweg.plot._axes import axes, expect

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg import BlockReport, GradcheckReport
else:  # what typing.get_type_hints finds
    Axes = GradcheckReport = Any

#: Maximum number of blocks that `gradcheck` draws.
_CURVES = 8
#: Maximum number of blocks without a gradient that the legend names.
_NAMED = 3


@takes("plot.gradcheck", {})
def gradcheck(report: "GradcheckReport", ax: "Axes | None" = None) -> "Axes":
    """Draw the error of differences against their step, a curve for each of up to eight blocks.

    A correct gradient gives a V: round-off falls with slope -1, and truncation rises with the order
    of the difference. A wrong one ends on a plateau, at the size of its error. If there are more
    than eight blocks, those that did not pass come first, then those with the largest norm-relative
    errors, and the legend gives the total. Blocks that passed because their gradient is zero, such
    as a bias before `nn.BatchNorm1d`, have no relative error: the legend names them. The slopes
    shown are those of the first curve. `GradcheckReport.plot` is the same.

    Parameters
    ----------
    report : GradcheckReport
        From a check in this process; see `thalweg.GradcheckReport.curve`.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ArgumentError
        If `report` is something else, or has no function to evaluate; see
        `thalweg.GradcheckReport.curve`.
    """
    from thalweg import GradcheckReport
    from thalweg._gradcheck._verdict import LIMIT

    expect("report", report, GradcheckReport, "a check such as thalweg.check_gradient")
    count = len(report.blocks)
    zero = [b.name for b in report.blocks if b.passed and b.resolution > LIMIT]
    if len(zero) == count:  # at a minimum
        zero = []
    blocks = [block for block in report.blocks if block.name not in zero]
    if len(blocks) > _CURVES:
        blocks = sorted(blocks, key=_urgency)[:_CURVES]
    curves = [report.curve(block.name) for block in blocks]
    ax = axes(ax)
    for curve in curves:
        ax.plot(curve.h, np.maximum(curve.error, 1e-17), ".-", lw=0.8, ms=3, label=curve.block)
    if zero:
        more = ", ..." if len(zero) > _NAMED else ""
        ax.plot([], [], " ", label=f"{', '.join(zero[:_NAMED])}{more}: gradient 0")
    curve = curves[0]
    for height, power, name in (
        (curve.round_off, -1, "round-off"),
        (curve.truncation, curve.order, "truncation"),
    ):
        if np.isfinite(height):
            line = height * curve.h ** float(power)
            shown = (line > 1e-17) & (line < 10)
            label = f"{name}, slope {power:+d}"
            ax.plot(curve.h[shown], line[shown], "k--" if power < 0 else "k:", lw=1, label=label)
    used = [h for block in report.blocks for h in block.h]
    ax.axvspan(min(used), max(used), color="0.9", zorder=0, label="steps of the check")
    ax.set(xlabel="step h", ylabel="relative error", xscale="log", yscale="log")
    title = f"{len(blocks)} of {count} blocks" if len(blocks) + len(zero) < count else None
    ax.legend(fontsize="small", title=title, title_fontsize="small")
    return ax


def _urgency(block: "BlockReport") -> tuple[bool, float]:
    """Return a key that sorts blocks from the worst to the best."""
    error = block.norm_rel_error
    return block.passed, -math.inf if math.isnan(error) else -error
