"""Pictures of training runs, drawn with matplotlib."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg._history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How many misclassified images `training` shows at most.
_SHOWN = 24


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            'plotting needs matplotlib; install it with: pip install "thalweg[plot]"'
        ) from None
    return plt


def history(run: History | Sequence[History], ax: "Axes | None" = None) -> "Axes":
    """Draws the losses of one or several runs over the epochs, on a logarithmic scale.

    Parameters
    ----------
    run : History or sequence of History
        Runs are told apart by colour; losses on validation data are dashed.
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
    if ax is None:
        ax = _pyplot().figure(layout="constrained").add_subplot()
    runs = [run] if isinstance(run, History) else list(run)
    for index, one in enumerate(runs):
        name = f", run {index + 1}" if len(runs) > 1 else ""
        for key, style, label in (("loss", "-", "training"), ("val_loss", "--", "held out")):
            if key in one:
                epochs = range(1, len(one[key]) + 1)
                ax.plot(epochs, one[key], style, color=f"C{index}", label=label + name)
    ax.set(xlabel="epoch", ylabel="loss", yscale="log")
    ax.legend()
    return ax


def training(
    run: History | Sequence[History],
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    predicted: npt.ArrayLike,
    path: str | os.PathLike[str] | None = None,
) -> "Figure":
    """Draws loss curves beside the images that a classifier got wrong.

    Parameters
    ----------
    run : History or sequence of History
        As in `history`.
    images : array_like, shape (n, side * side)
        Square images, one a row.
    labels, predicted : array_like, shape (n,)
        The right classes and the ones that were predicted.
    path : path-like, optional
        Where to save the figure; the format follows from the name.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    images, labels, predicted = np.asarray(images), np.asarray(labels), np.asarray(predicted)
    wrong = np.flatnonzero(labels != predicted)
    shown = wrong[:_SHOWN]
    side = round(images.shape[1] ** 0.5)

    figure: Figure = _pyplot().figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    history(run, left.add_subplot(title="loss"))
    right.suptitle(
        f"{len(wrong)} of {len(labels)} misclassified"
        + (f", the first {len(shown)}" if len(shown) < len(wrong) else "")
    )
    columns = 6
    for position, index in enumerate(shown):
        ax = right.add_subplot(-(-len(shown) // columns), columns, position + 1)
        ax.imshow(images[index].reshape(side, side), cmap="gray_r")
        ax.set_title(f"{labels[index]}, not {predicted[index]}", fontsize=8)
        ax.set_axis_off()
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
