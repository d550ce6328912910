"""What all pictures share: the axes to draw on, and colours."""

from typing import Any

import numpy as np

from thalweg import _checks
from thalweg.errors import ArgumentError

#: Number of colours of matplotlib's lines before they repeat.
COLORS = 10


def pyplot() -> Any:
    """Import matplotlib, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("plotting needs matplotlib: pip install matplotlib") from None
    return plt


def expect(name: str, value: Any, kind: type, source: str) -> None:
    """Raise unless `value` is what `source` returns."""
    if not isinstance(value, kind):
        raise ArgumentError(
            f"{name} must be a {kind.__name__}, which {source} returns; got {_checks.given(value)}"
        )


def axes(ax: Any) -> Any:
    """Return the axes to draw on: those given, or those of a new figure."""
    plt = pyplot()
    if ax is None:
        return plt.figure(layout="constrained").add_subplot()
    if isinstance(ax, plt.Axes):
        return ax
    if isinstance(ax, plt.Figure):
        got = "a Figure: pass figure.add_subplot()"
    elif isinstance(ax, np.ndarray):
        got = f"an array of shape {ax.shape}: pass one of its items"
    elif isinstance(ax, tuple) and any(isinstance(one, plt.Figure) for one in ax):
        got = "a tuple with a Figure, as plt.subplots() returns it: pass its second item"
    else:
        got = _checks.given(ax)
    raise ArgumentError(f"ax must be Axes of matplotlib, e.g. plt.gca(); got {got}")


def legend(ax: Any, *, beside: bool) -> None:
    """Add a legend, beside the axes if it would hide too much within them."""
    if beside:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    else:
        ax.legend()


def palette(count: int) -> list[Any]:
    """Return colours that differ: matplotlib's own as long as there are enough of them."""
    if count <= COLORS:
        return [f"C{k}" for k in range(count)]
    return list(pyplot().colormaps["turbo"](np.linspace(0.03, 0.97, count)))
