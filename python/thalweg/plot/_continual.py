"""Pictures of continual learning: scores over time, and as a matrix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg._habits import takes
from thalweg.errors import ArgumentError
from thalweg.plot._axes import COLORS, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.continual import Result
else:  # what typing.get_type_hints finds
    Axes = Result = Any

#: What axes call a score, where it is not the name of the metric.
_NAMES = {"r2": "R²"}


@takes("plot.tasks", {})
def tasks(result: "Result | Sequence[Result]", ax: "Axes | None" = None) -> "Axes":
    """Draw the score on each task over the steps of a run of continual learning, and their mean.

    `Result.plot` is the same for one run.

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
            "the runs were not judged at the same steps: use the same epochs, batch_size and "
            "evaluate_every for all, and let all of them finish"
        )
    own, ax = ax is None, axes(ax)
    steps, curves = np.array(result.steps), np.stack([one.curve for one in results])
    begins = [0, *result.ends][: len(result.names)]
    many = len(begins) > COLORS
    for task, begin in enumerate(begins):
        end = result.ends[task] if task < len(result.ends) else steps[-1]
        # If there are more tasks than colours: from the first, dark, to the last, bright.
        color = _viridis(task / (len(begins) - 0.5)) if many else f"C{task}"
        named = task % -(-len(begins) // COLORS) == 0 or task == len(begins) - 1
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
    _band(ax, steps[1:], seen[:, 1:], color="k", lw=1, label="mean of tasks learned so far")
    ax.set(xlabel="step", ylabel=_score(result))
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


@takes("plot.task_matrix", {})
def task_matrix(result: "Result | Sequence[Result]", ax: "Axes | None" = None) -> "Axes":
    """Draw the score on each task (columns) after each task was learned (rows).

    `Result.plot_matrix` is the same for one run.

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
    ax = axes(ax)
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
    ax.set(xlabel=f"{_score(result)} on task", ylabel="after learning task")
    ax.set_xticks(places, result.names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, result.names)
    return ax


def _band(ax: Any, steps: Any, curves: Any, **style: Any) -> None:
    """Draw the mean of curves, shape (runs, steps), and if several their standard deviation."""
    mean = curves.mean(axis=0)
    (line,) = ax.plot(steps, mean, **style)
    if len(curves) > 1:
        spread, color = curves.std(axis=0, ddof=1), line.get_color()
        ax.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)


def _score(result: "Result") -> str:
    """Return what is drawn, for an axis."""
    return _NAMES.get(result.metric, result.metric)


def _viridis(share: float) -> Any:
    """Return a colour for a position between first and last."""
    from matplotlib import colormaps

    return colormaps["viridis"](share)


def _judged(result: "Result", count: int) -> None:
    """Raise if there is nothing to draw."""
    if not count:
        raise ArgumentError(f"no task has been learned yet: {result!r} has nothing to draw")
