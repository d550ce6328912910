"""Pictures of diagnostics: what is learned first."""

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg._habits import takes
from thalweg.errors import ArgumentError
from thalweg.plot._axes import axes, expect

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.diagnostics import SpectralBias
else:  # what typing.get_type_hints finds
    Axes = SpectralBias = Any


@takes("plot.spectral_bias", {})
def spectral_bias(found: "SpectralBias", ax: "Axes | None" = None) -> "Axes":
    """Draw how much of each frequency is still missing, against the updates.

    White marks show where less than a tenth is missing for the first time.
    `SpectralBias.plot` is the same.

    Parameters
    ----------
    found : SpectralBias
        From `thalweg.diagnostics.spectral_bias`, or a callback after a fit.
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
        If `found` is something else, or nothing has been recorded yet.
    """
    from thalweg.diagnostics import SpectralBias

    expect("found", found, SpectralBias, "thalweg.diagnostics.spectral_bias")
    if not found.steps:
        raise ArgumentError(
            f"{found!r} has not recorded anything yet: pass it to Trainer.fit as one of "
            "its callbacks"
        )
    ax = axes(ax)
    rows = np.arange(len(found.frequencies) + 1) - 0.5
    mesh = ax.pcolormesh(
        found._edges, rows, np.minimum(found.relative.T, 1), vmin=0, vmax=1, cmap="viridis"
    )
    learned = found.learned_at()
    there = np.isfinite(learned)
    ax.plot(learned[there], np.flatnonzero(there), "w|", ms=18, mew=2)
    ax.set(xlabel="update", ylabel="frequency, periods", yticks=rows[:-1] + 0.5)
    ax.set_yticklabels([str(k) for k in found.frequencies])
    ax.figure.colorbar(mesh, ax=ax, label="residual, relative to the target")
    return ax
