"""Pictures of training: histories, wrong predictions, range tests of learning rates."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _habits
from thalweg._history import History
from thalweg.errors import ArgumentError, ShapeError
from thalweg.optim import Descent
from thalweg.plot._axes import axes, expect, legend, palette, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thalweg import LRFinder
else:  # what typing.get_type_hints finds
    Axes = Figure = LRFinder = Any

#: Maximum number of misclassified images that `training` shows.
_SHOWN = 24
#: Maximum number of lines whose legend is within the axes.
_LEGEND = 6
#: Where an axis ends: matplotlib's margins and ticks would overflow above.
_HIGHEST = 1e250

_Run: TypeAlias = History | Descent


class _Values(History):
    """The values along the path of `thalweg.optim.minimize`, one more than there are steps."""


@_habits.takes("plot.history", {})
def history(
    run: _Run | Sequence[_Run] | Mapping[Any, _Run],
    keys: str | Sequence[str] | Axes | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the losses of one or several runs, or other figures, against the epochs.

    Of results of `thalweg.optim.minimize` it draws the values, against the steps.

    The scale of losses is logarithmic if every finite one is above 0. Otherwise it is linear:
    likelihoods may be negative, and a logarithmic scale would leave those losses out. The scale of
    other figures is linear. With ``"stability"``, a line at 1 marks the limit. Epochs without a
    finite figure are left out; the others are then marked by dots, as a single one is.
    `History.plot` is the same for one run.

    Parameters
    ----------
    run : History, sequence of History, or mapping of labels to History
        Runs are distinguished by colour, and by their labels if given, as in
        ``{"Adam": first, "SGD": second}``; figures of validation data are dashed. Each may also be
        a `thalweg.optim.Descent`.
    keys : str or sequence of str, default "loss"
        What to draw: ``"accuracy"``, ``"sharpness"``, a figure of your own. With ``"loss"`` also
        ``"val_loss"`` is drawn if it is there, and so with others. Runs that lack a figure are left
        out. (Axes are taken as `ax`.)
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib Axes
        A legend of many lines names only the colours; in a new figure, it is beside the axes.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ArgumentError
        If `run` is neither a History nor a sequence or mapping of them, or none has a figure of
        `keys`.
    ShapeError, DtypeError
        If figures are not one number per epoch.
    """
    runs = _runs(run)
    steps = bool(runs) and all(isinstance(one, _Values) for one in runs.values())
    if ax is None and not _has_text(keys):
        keys, ax = None, keys  # checked below
    names = ["value"] if steps and keys is None else _keys(keys, runs)
    curves = [
        (called, name, key, _figures(one, key))
        for called, one in runs.items()
        for name in names
        for key in (name, f"val_{name}")
        if key in one
    ]
    own, ax = ax is None, axes(ax)
    drawn = {(called, name, key) for called, name, key, _ in curves}
    groups = dict.fromkeys((called, name) for called, name, *_ in curves)
    colors = dict(zip(groups, palette(len(groups)), strict=True))
    shown = np.concatenate([figures[np.isfinite(figures)] for *_, figures in curves] or [[]])
    log = (steps or set(names) <= {"loss", "val_loss"}) and bool((shown > 0).all())
    if np.abs(shown).max(initial=0) > _HIGHEST:
        low = min(max(shown.min(), -_HIGHEST), _HIGHEST / 10)
        ax.set_ylim(low, max(min(shown.max(), _HIGHEST), low + _HIGHEST / 10))
    many = len(curves) > _LEGEND
    for called, name, key, figures in curves:
        validation = key.startswith("val_")
        label: str | None
        label = key if len(names) > 1 else "validation" if validation else "training"
        if called is not None:
            alone = len(names) == 1 and (steps or many)
            label = str(called) if alone else f"{label}, {called}"
        elif steps:
            label = key
        if many and key != name and (called, name, name) in drawn:
            label = None  # the same colour, dashed
        there = np.flatnonzero(np.isfinite(figures))  # some are only of every few epochs
        marker = "." if len(there) < max(2, len(figures)) else ""
        style = marker + ("--" if validation else "-")
        color = colors[called, name]
        ax.plot(there + (not steps), figures[there], style, color=color, label=label)
    if "stability" in names:
        ax.axhline(1, color="0.6", ls=":", label="limit")
    ax.set(xlabel="step" if steps else "epoch", yscale="log" if log else "linear")
    ax.set_ylabel(", ".join(names))
    if ax.lines:  # a failed fit has no epochs, and matplotlib warns of empty legends
        legend(ax, beside=own and many)
    return ax


@_habits.takes("plot.training", {})
def training(
    run: History | Sequence[History] | Mapping[Any, History],
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    predicted: npt.ArrayLike,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw loss curves beside the images that a classifier got wrong.

    Parameters
    ----------
    run : History, sequence of History, or mapping of labels to History
        As in `history`.
    images : array_like, shape (n, side * side), real numbers
        Square images, one per row.
    labels, predicted : array_like, shape (n,)
        The correct classes and the predicted ones: numbers or names.
    path : path-like, optional
        Where to save the figure; the format follows from the file name.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ArgumentError
        If `run` is neither a History nor a sequence or mapping of them.
    ShapeError
        If images are not square, there are not as many labels and predictions as images, or losses
        are not one number per epoch.
    DataError, DtypeError
        If images have masked entries, or images or losses are not numbers.
    """
    run = _runs(run)
    for one in run.values():
        for key in ("loss", "val_loss"):
            if key in one:
                _figures(one, key)
    images = _arrays.as_numeric(images, "images")
    if images.ndim != 2:
        more = f"; pass images.reshape({len(images)}, -1)" if images.ndim > 2 else ""
        raise ShapeError(f"images must be 2-D, (rows, side * side); got shape {images.shape}{more}")
    rows, pixels = images.shape
    side = math.isqrt(pixels)
    if not pixels or side**2 != pixels:
        raise ShapeError(
            f"images must be square, (rows, side * side); got shape {images.shape}, and {pixels} "
            "is not a square number: reshape or crop them first"
        )
    labels, predicted = _classes(labels, "labels", rows), _classes(predicted, "predicted", rows)
    wrong = np.flatnonzero(labels != predicted)
    shown = wrong[:_SHOWN]

    figure: Figure = pyplot().figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    history(run, ax=left.add_subplot(title="loss"))
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


@_habits.takes("plot.lr_finder", {})
def lr_finder(found: LRFinder, ax: Axes | None = None) -> Axes:
    """Draw the result of a range test of learning rates, and its suggestion.

    `LRFinder.plot` is the same.

    Parameters
    ----------
    found : LRFinder
        From `thalweg.find_lr`.
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
        If `found` is something else.
    """
    from thalweg import LRFinder

    expect("found", found, LRFinder, "thalweg.find_lr")
    ax = axes(ax)
    ax.plot(found.lr, found.after, color="C0", label="loss after the update")
    ax.plot(found.lr, found.gain, color="C2", label="reduction by the update")
    ax.axvline(found.suggestion, color="C1", label=f"suggestion {found.suggestion:.2g}")
    if found.unstable_at is not None:
        ax.axvline(
            found.unstable_at, color="C4", ls=":", label=f"unstable from {found.unstable_at:.2g} on"
        )
    if found.diverged_at is not None:
        ax.axvline(
            found.diverged_at, color="C3", ls="--", label=f"diverged at {found.diverged_at:.2g}"
        )
    ax.set(xlabel="learning rate", ylabel="loss", xscale="log")
    ax.legend()
    return ax


def _has_text(keys: Any) -> bool:
    """Whether these are meant as names: text, or a list or tuple with text."""
    sequence = isinstance(keys, (list, tuple))
    return isinstance(keys, str) or (sequence and any(isinstance(key, str) for key in keys))


def _keys(keys: Any, runs: Mapping[Any, History]) -> list[str]:
    """Return the names of figures to draw, each of which a run must have."""
    if keys is None:
        return ["loss"]
    names = [keys] if isinstance(keys, str) else list(dict.fromkeys(_checks.sequence("keys", keys)))
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f'keys must be names of figures, e.g. "accuracy" or ["loss", "accuracy"]; got {keys!r}'
        )
    there = list(dict.fromkeys(key for one in runs.values() for key in one))
    for name in names:
        # A fit that failed in its first epoch has none.
        if there and name not in there and f"val_{name}" not in there:
            raise ArgumentError(
                f"there are no figures {name!r} to draw; there are {', '.join(there)}"
                f"{_habits.did_you_mean(name, there)}"
            )
    beside = {f"val_{name}" for name in names}  # drawn beside the others anyway
    return [name for name in names if name not in beside]


def _runs(run: Any) -> dict[Any, History]:
    """Return the histories of one or several runs by label, None for a single one."""
    if isinstance(run, History) or not isinstance(run, Iterable):
        runs: dict[Any, Any] = {None: run}
    elif not isinstance(run, Mapping):
        given = _checks.sequence("run", run)
        runs = {f"run {k + 1}" if len(given) > 1 else None: one for k, one in enumerate(given)}
    elif any(isinstance(one, (History, Descent)) for one in run.values()):
        runs = dict(run)
    else:  # one run's figures
        runs = {None: run}
    descents = {called for called, one in runs.items() if isinstance(one, Descent)}
    if descents and len(descents) < len(runs):
        raise ArgumentError(
            "some runs are histories, over epochs, and some are results of optim.minimize, over "
            "steps: draw them separately"
        )
    for called, one in runs.items():
        if called in descents:
            runs[called] = _Values(value=list(one.values))
        elif not isinstance(one, History):
            got = _checks.given(one)
            if isinstance(one, Mapping):
                got += ": convert it with thalweg.History(...)"
            elif isinstance(getattr(one, "history", None), History):
                got = f"a {type(one).__name__}: pass its .history"
            raise ArgumentError(
                f"run must be a History, a dict {{label: History}} or a sequence of them; got {got}"
            )
    return runs


def _figures(run: History, key: str) -> npt.NDArray[Any]:
    """Return the figures of a run with this name."""
    figures = _arrays.as_numeric(run[key], f"history[{key!r}]")
    if figures.ndim != 1:
        raise ShapeError(f"history[{key!r}] must be 1-D, (epochs,); got shape {figures.shape}")
    return figures


def _classes(value: npt.ArrayLike, name: str, rows: int) -> npt.NDArray[Any]:
    """Return classes, numbers or names, one for each image."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = _arrays.as_numeric(value, name, labels=True)  # raises
    if array.ndim != 1:
        from thalweg import _bad_arrays

        written = _bad_arrays.code(value, name)
        more = ""
        if array.ndim == 2:
            column = array.shape[1] == 1
            more = f": pass {written}.{'ravel()' if column else 'argmax(axis=1)'}"
        raise ShapeError(
            f"{name} must be 1-D, one class for each of {rows} images; got shape "
            f"{array.shape}{more}"
        )
    if len(array) != rows:
        raise ShapeError(
            f"images has {rows} rows but {name} has {len(array)}: one class is needed for each "
            "image"
        )
    return array
