"""Pictures of training runs, drawn with matplotlib."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._history import History
from thalweg._lr_finder import LRFinder
from thalweg.errors import ArgumentError, ShapeError
from thalweg.optim.schedules import LinearWarmup, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thalweg._gradcheck import BlockReport, GradcheckReport
    from thalweg.continual import Result
    from thalweg.curvature import SpectralDensity
    from thalweg.diagnostics import SpectralBias

#: Maximum number of blocks that `gradcheck` draws.
_CURVES = 8

#: Number of points at which `spectrum` draws a density: about one per pixel.
_PLACES = 1000

#: Maximum number of misclassified images that `training` shows.
_SHOWN = 24

#: Number of colours of matplotlib's lines before they repeat.
_COLORS = 10

#: Axis labels for the scores of a run of continual learning.
_NAMES = {"r2": "R²"}


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("plotting needs matplotlib: pip install matplotlib") from None
    return plt


def _axes(ax: "Axes | None") -> Any:
    """Return the axes to draw on: those given, or those of a new figure."""
    return _pyplot().figure(layout="constrained").add_subplot() if ax is None else ax


def lr_finder(found: LRFinder, ax: "Axes | None" = None) -> "Axes":
    """Draw the result of a range test of learning rates, and its suggestion.

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
    """
    ax = _axes(ax)
    ax.plot(found.lr, found.after, color="C0", label="loss after the update")
    ax.plot(found.lr, found.gain, color="C2", label="what the update took from it")
    ax.axvline(found.suggestion, color="C1", label=f"suggestion {found.suggestion:.2g}")
    if found.unstable_at is not None:
        ax.axvline(
            found.unstable_at, color="C4", ls=":", label=f"unstable from {found.unstable_at:.2g} on"
        )
    if found.diverged_at is not None:
        ax.axvline(
            found.diverged_at, color="C3", ls="--", label=f"diverged {found.diverged_at:.2g}"
        )
    ax.set(xlabel="learning rate", ylabel="loss", xscale="log")
    ax.legend()
    return ax


def spectrum(
    found: "SpectralDensity", ax: "Axes | None" = None, *, sigma: float | None = None
) -> "Axes":
    """Draw a density of eigenvalues, on a logarithmic scale that also shows single ones.

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
        If `sigma` is not above 0.
    """
    low, high = found.range
    # For a single eigenvalue, rounded differently by each probe, the range is just that rounding.
    room = max(0.05 * (high - low), 1e-3 * max(abs(low), abs(high))) or 1.0
    at = np.linspace(low - room, high + room, _PLACES)
    if sigma is None:
        sigma = max((high - low) / 100, at[1] - at[0])
    density = found.density(at, sigma)
    own, ax = ax is None, _axes(ax)
    ax.semilogy(at, density, color="C0")
    # Below a thousandth of an eigenvalue, there are only the tails of the blur.
    ax.set(xlabel="eigenvalue", ylabel="density")
    if own:
        ax.locator_params(axis="x", nbins=5)  # numbers near a single eigenvalue are long
    ax.set_ylim(bottom=float(density.max()) / (1e3 * found.size), top=2 * float(density.max()))
    return ax


def schedule(
    *shown: Schedule, base: float = 1.0, steps: int = 1000, ax: "Axes | None" = None
) -> "Axes":
    """Draw learning rates against time.

    Parameters
    ----------
    *shown : Schedule
        From `thalweg.optim.schedules`.
    base : float, keyword only, default 1
        The optimizer's own learning rate.
    steps : int, keyword only, default 1000
        Duration, in updates or epochs; also the length of schedules without a length of their own.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib Axes
        In a new figure, the legend is beside the axes, since curves can be anywhere.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ArgumentError
        If no schedule is given, something is not a schedule, or `base`, `steps` or a schedule of
        that length is invalid.
    UnsupportedError
        If a user-defined schedule gives no rates.
    """
    if not shown:
        raise ArgumentError("there is nothing to draw: give a schedule of thalweg.optim.schedules")
    for one in shown:
        if not isinstance(one, Schedule):
            raise ArgumentError(
                f"what is drawn must be a schedule that depends on time alone, as those of "
                f"thalweg.optim.schedules; got {_checks.given(one)}"
            )
    base = _checks.real("base", base, 0)
    steps = _checks.integer("steps", steps, 1)
    times = np.arange(steps, dtype=np.float64)
    rates = [one._rates(times, base, steps) for one in shown]
    own, ax = ax is None, _axes(ax)
    for one, line in zip(shown, rates, strict=True):
        ax.plot(times, line, label=_name(one))
    ax.set(xlabel=shown[0].per, ylabel="learning rate")
    if own:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    else:
        ax.legend()
    return ax


def _name(schedule: Schedule) -> str:
    """Return the name of a schedule in a legend."""
    name = type(schedule).__name__
    if isinstance(schedule, LinearWarmup) and schedule.then is not None:
        return f"{name},\nthen {_name(schedule.then)}"
    return name


def gradcheck(report: "GradcheckReport", ax: "Axes | None" = None) -> "Axes":
    """Draw the error of differences against their step, a curve for each of up to eight blocks.

    A correct gradient gives a V: round-off falls with slope -1, and truncation rises with the order
    of the difference. A wrong one ends on a plateau, at the size of its error. If there are more
    than eight blocks, those that did not pass come first, then those with the largest norm-relative
    errors, and the legend gives the total. The slopes shown are those of the first curve.

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
        If the report has no function to evaluate; see `thalweg.GradcheckReport.curve`.
    """
    count, blocks = len(report.blocks), report.blocks
    if count > _CURVES:
        blocks = tuple(sorted(blocks, key=_urgency)[:_CURVES])
    curves = [report.curve(block.name) for block in blocks]
    ax = _axes(ax)
    for curve in curves:
        ax.plot(curve.h, np.maximum(curve.error, 1e-17), ".-", lw=0.8, ms=3, label=curve.block)
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
    title = f"{len(blocks)} of {count} blocks" if len(blocks) < count else None
    ax.legend(fontsize="small", title=title, title_fontsize="small")
    return ax


def _urgency(block: "BlockReport") -> tuple[bool, float]:
    """Return a key that sorts blocks from the worst to the best."""
    error = block.norm_rel_error
    return block.passed, -math.inf if math.isnan(error) else -error


def spectral_bias(found: "SpectralBias", ax: "Axes | None" = None) -> "Axes":
    """Draw how much of each frequency is still missing, against the updates.

    White marks show where less than a tenth is missing for the first time.

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
        If nothing has been recorded yet.
    """
    if not found.steps:
        raise ArgumentError(
            f"nothing was recorded yet by {found!r}: give it to Trainer.fit as one of callbacks"
        )
    ax = _axes(ax)
    rows = np.arange(len(found.frequencies) + 1) - 0.5
    # A record covers the updates until the next one. The last gets the width of the one before it;
    # a single one, from a fit that ended early, gets the planned interval.
    last = int(np.diff(found.steps)[-1]) if len(found.steps) > 1 else found._every
    edges = np.append(found.steps, found.steps[-1] + last)
    mesh = ax.pcolormesh(
        edges, rows, np.minimum(found.relative.T, 1), vmin=0, vmax=1, cmap="viridis"
    )
    learned = found.learned_at()
    there = np.isfinite(learned)
    ax.plot(learned[there], np.flatnonzero(there), "w|", ms=18, mew=2)
    ax.set(xlabel="update", ylabel="frequency, periods", yticks=rows[:-1] + 0.5)
    ax.set_yticklabels([str(k) for k in found.frequencies])
    ax.figure.colorbar(mesh, ax=ax, label="residual, relative to the target")
    return ax


def history(
    run: History | Sequence[History] | Mapping[Any, History], ax: "Axes | None" = None
) -> "Axes":
    """Draw the losses of one or several runs against the epochs.

    The scale is logarithmic if every finite loss is above 0. Otherwise it is linear: likelihoods
    may be negative, and a logarithmic scale would leave those losses out.

    Parameters
    ----------
    run : History, sequence of History, or mapping of labels to History
        Runs are distinguished by colour, and by their labels if given, as in
        ``{"Adam": first, "SGD": second}``; losses on validation data are dashed.
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
        If `run` is neither a History nor a sequence or mapping of them.
    ShapeError, DtypeError
        If losses are not one number per epoch.
    """
    runs = {name: _losses(one) for name, one in _runs(run).items()}
    ax = _axes(ax)
    positive = True
    for index, (called, one) in enumerate(runs.items()):
        name = "" if called is None else f", {called}"
        for key, style, label in (("loss", "-", "training"), ("val_loss", "--", "held out")):
            if key in one:
                losses = one[key]
                epochs = range(1, len(losses) + 1)
                ax.plot(epochs, losses, style, color=f"C{index}", label=label + name)
                positive &= bool((losses[np.isfinite(losses)] > 0).all())
    ax.set(xlabel="epoch", ylabel="loss", yscale="log" if positive else "linear")
    if ax.lines:  # a failed fit has no epochs, and matplotlib warns of empty legends
        ax.legend()
    return ax


def _runs(run: Any) -> dict[Any, History]:
    """Return the histories of one or several runs by label, None for a single one."""
    if isinstance(run, History) or not isinstance(run, Iterable):
        runs: dict[Any, Any] = {None: run}
    elif not isinstance(run, Mapping):
        given = _checks.sequence("run", run)
        runs = {f"run {k + 1}" if len(given) > 1 else None: one for k, one in enumerate(given)}
    elif any(isinstance(one, History) for one in run.values()):
        runs = dict(run)
    else:  # one run's figures
        runs = {None: run}
    for one in runs.values():
        if not isinstance(one, History):
            got = _checks.given(one)
            if isinstance(one, Mapping):
                got += ": thalweg.History(...) makes one of it"
            elif isinstance(getattr(one, "history", None), History):
                got = f"a {type(one).__name__}: pass its .history"
            raise ArgumentError(
                f"run must be a History, a dict {{label: History}} or a sequence of them; got {got}"
            )
    return runs


def _losses(run: History) -> dict[str, npt.NDArray[Any]]:
    """Return the losses of a run by name."""
    found = {}
    for key in ("loss", "val_loss"):
        if key in run:
            found[key] = _arrays.as_numeric(run[key], f"history[{key!r}]")
            if found[key].ndim != 1:
                raise ShapeError(
                    f"history[{key!r}] must be 1-D, (epochs,); got shape {found[key].shape}"
                )
    return found


def tasks(result: "Result | Sequence[Result]", ax: "Axes | None" = None) -> "Axes":
    """Draw the score on each task over the steps of a run of continual learning, and their mean.

    Parameters
    ----------
    result : Result or sequence of Result
        From `thalweg.continual.run`; with ``evaluate_every``, lines have more points. For several
        runs, e.g. with different seeds, lines are means, with bands of one standard deviation on
        each side.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib Axes
        A task's line is dotted until the task is learned, and bold while it is being learned. The
        black line is the mean over the tasks learned so far, including the current one. An R² below
        -1 is outside the axes.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ArgumentError
        If no task has been evaluated yet, or runs were not evaluated at the same steps.
    """
    from thalweg.continual._result import of_the_same_tasks

    results = of_the_same_tasks(result, "result")
    result = results[0]
    _judged(result, len(result.scores))
    if any((one.steps, one.ends) != (result.steps, result.ends) for one in results):
        raise ArgumentError(
            "the runs were not judged at the same steps: give all the same epochs, batch_size and"
            " evaluate_every, and let all come to their end"
        )
    own, ax = ax is None, _axes(ax)
    steps, curves = np.array(result.steps), np.stack([one.curve for one in results])
    begins = [0, *result.ends][: len(result.names)]
    many = len(begins) > _COLORS
    for task, begin in enumerate(begins):
        end = result.ends[task] if task < len(result.ends) else steps[-1]
        # If there are more tasks than colours: from the first, dark, to the last, bright.
        color = _viridis(task / (len(begins) - 0.5)) if many else f"C{task}"
        named = task % -(-len(begins) // _COLORS) == 0 or task == len(begins) - 1
        label = result.names[task] if named else None
        for shown, style in (
            (steps <= begin, {"ls": ":", "lw": 1}),
            ((steps >= begin) & (steps <= end), {"lw": 2.5, "label": label}),
            (steps >= end, {"lw": 1}),
        ):
            _band(ax, steps[shown], curves[:, shown, task], color=color, **style)
        ax.axvline(begin, color="0.85", zorder=0)
    learned = np.searchsorted(begins[1:], steps)
    seen = np.stack([curves[:, at, : last + 1].mean(axis=1) for at, last in enumerate(learned)], 1)
    _band(ax, steps[1:], seen[:, 1:], color="k", lw=1, label="mean of those learned")
    ax.set(xlabel="step", ylabel=_NAMES.get(result.metric, result.metric))
    if result.metric == "accuracy":
        ax.set_ylim(-0.02, 1.02)
    elif result.metric == "r2":
        ax.set_ylim(max(-1.05, ax.get_ylim()[0]), 1.05)
    # Lines can be anywhere, so the legend is beside them if there is room for it.
    if own:
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    else:
        ax.legend(fontsize=8)
    return ax


def _band(ax: Any, steps: Any, curves: Any, **style: Any) -> None:
    """Draw the mean of curves, shape (runs, steps), and if several their standard deviation."""
    mean = curves.mean(axis=0)
    (line,) = ax.plot(steps, mean, **style)
    if len(curves) > 1:
        spread, color = curves.std(axis=0, ddof=1), line.get_color()
        ax.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)


def task_matrix(result: "Result | Sequence[Result]", ax: "Axes | None" = None) -> "Axes":
    """Draw the score on each task (columns) after each task was learned (rows).

    Parameters
    ----------
    result : Result or sequence of Result
        From `thalweg.continual.run`; for several runs, e.g. with different seeds, the mean is
        shown.
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
        If no task has been learned yet, or runs do not have the same tasks.
    """
    from thalweg.continual._result import of_the_same_tasks

    results = of_the_same_tasks(result, "result")
    result = results[0]
    for one in results:
        _judged(one, len(one.ends))
    ax = _axes(ax)
    matrix = np.mean([one.r for one in results], axis=0)
    bounds = float(np.nanmin(matrix)), float(np.nanmax(matrix))
    if result.metric in ("accuracy", "r2"):
        bounds = max(min(bounds[0], 0.0), -1.0), 1.0
    ax.imshow(matrix, cmap="viridis", vmin=bounds[0], vmax=bounds[1])
    places = range(len(matrix))
    size = min(8, 100 / len(matrix))  # for a hundred tasks, colours say enough
    for row, column in np.argwhere(np.isfinite(matrix)).tolist() if size > 2 else ():
        value = matrix[row, column]
        # Dark text on bright squares.
        color = "k" if value - bounds[0] > 0.6 * (bounds[1] - bounds[0]) else "w"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, size=size)
    ax.set(xlabel="task that is judged", ylabel="after learning")
    ax.set_xticks(places, result.names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, result.names)
    return ax


def _viridis(share: float) -> Any:
    """Return a colour for a position between first and last."""
    from matplotlib import colormaps

    return colormaps["viridis"](share)


def _judged(result: "Result", count: int) -> None:
    if not count:
        raise ArgumentError(f"no task was learned yet: {result!r} has nothing to draw")


def training(
    run: History | Sequence[History] | Mapping[Any, History],
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    predicted: npt.ArrayLike,
    path: str | os.PathLike[str] | None = None,
) -> "Figure":
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
        _losses(one)
    images = _arrays.as_numeric(images, "images")
    if images.ndim != 2:
        more = f"; pass images.reshape({len(images)}, -1)" if images.ndim > 2 else ""
        raise ShapeError(f"images must be 2-D, (rows, side * side); got shape {images.shape}{more}")
    rows, pixels = images.shape
    side = math.isqrt(pixels)
    if not pixels or side**2 != pixels:
        raise ShapeError(
            f"images must be square, (rows, side * side); got shape {images.shape}, and {pixels} "
            "is no square: reshape or crop them first"
        )
    labels, predicted = _classes(labels, "labels", rows), _classes(predicted, "predicted", rows)
    wrong = np.flatnonzero(labels != predicted)
    shown = wrong[:_SHOWN]

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


def _classes(value: npt.ArrayLike, name: str, rows: int) -> npt.NDArray[Any]:
    """Return classes, numbers or names, one for each image."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = _arrays.as_numeric(value, name, labels=True)  # raises
    if array.ndim != 1:
        from thalweg import _advice

        written = _advice.code(value, name)
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
