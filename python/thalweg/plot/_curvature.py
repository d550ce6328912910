"""Pictures of curvature: densities of eigenvalues."""

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg._habits import takes
from thalweg.plot._axes import axes, expect

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.curvature import SpectralDensity
else:  # what typing.get_type_hints finds
    Axes = SpectralDensity = Any

#: Number of points at which `spectrum` draws a density: about one per pixel.
_PLACES = 1000


@takes("plot.spectrum", {})
def spectrum(
    found: "SpectralDensity", ax: "Axes | None" = None, *, sigma: float | None = None
) -> "Axes":
    """Draw a density of eigenvalues, on a logarithmic scale that also shows single ones.

    `SpectralDensity.plot` is the same.

    Parameters
    ----------
    found : SpectralDensity
        From `thalweg.curvature.spectral_density`.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    sigma : float, keyword only, optional
        Width by which nodes are blurred; by default as in `SpectralDensity.density`, but at least a
        thousandth of the width of the plot. With less, nodes may fall between pixels.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ArgumentError
        If `found` is something else, or `sigma` is not above 0.
    """
    from thalweg.curvature import SpectralDensity

    expect("found", found, SpectralDensity, "thalweg.curvature.spectral_density")
    low, high = found.range
    # For a single eigenvalue, rounded differently by each probe, the range is just that rounding.
    room = max(0.05 * (high - low), 1e-3 * max(abs(low), abs(high))) or 1.0
    at = np.linspace(low - room, high + room, _PLACES)
    if sigma is None:
        sigma = max((high - low) / 100, at[1] - at[0])
    density = found.density(at, sigma)
    own, ax = ax is None, axes(ax)
    ax.semilogy(at, density, color="C0")
    # Below a thousandth of an eigenvalue, there are only the tails of the blur.
    ax.set(xlabel="eigenvalue", ylabel="density")
    if own:
        ax.locator_params(axis="x", nbins=5)  # numbers near a single eigenvalue are long
    ax.set_ylim(bottom=float(density.max()) / (1e3 * found.size), top=2 * float(density.max()))
    return ax
