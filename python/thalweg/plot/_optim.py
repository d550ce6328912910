"""Pictures of optimizers: the paths they take, and schedules of learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._habits import takes
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.optim import Descent
from thalweg.optim.schedules import LinearWarmup, Schedule
from thalweg.plot._axes import COLORS, axes, legend, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # what typing.get_type_hints finds
    Axes = Any

#: Points along each side of the grid on which `path` evaluates a function, and its contours.
_GRID, _LEVELS = 120, 20
#: Up to which ratio of the sides of a picture a unit is as long upwards as sideways.
_EQUAL = 6


@takes("plot.path", {})
def path(
    descent: Descent | npt.ArrayLike | Sequence[Descent] | Mapping[Any, Descent | npt.ArrayLike],
    function: Callable[[npt.NDArray[np.float64]], Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw paths of two parameters, and the contours of the function that they descend.

    For a single parameter, its values are drawn on the graph of the function.

    Contours are at values that are evenly spaced on a logarithmic scale above the smallest one that
    is shown, so that narrow valleys and steep slopes can both be seen. The range is that of the
    paths with a margin of a quarter, at least a tenth of the longer side. Units of both parameters
    are equally long, so that ellipses look as long as they are and gradients are perpendicular to
    contours; unless one range is more than six times as long. Dots mark steps, a ring the start and
    a star the end. `Descent.plot` is the same for one result.

    Parameters
    ----------
    descent : Descent, array_like of shape (steps + 1, 2) or (steps + 1, 1), or several
        From `thalweg.optim.minimize`, or points in their order. Several are a sequence of results,
        or a mapping of labels to results or arrays, as in ``{"Adam": first, "SGD": second}``.
    function : callable, optional
        What is descended: ``function(theta)`` returns its value, or a tuple ``(value, gradient)``
        as for `thalweg.optim.minimize`. It is called at 120 x 120 points; those where it is not
        finite are left blank. By default, there are no contours. For a single parameter, it is
        needed.
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
        If there are no paths, or `function` cannot be called.
    ShapeError
        If a path is not of two parameters, or of one and there is a function; if paths differ in
        this; if a value of the function is not one number.
    DataError, DtypeError
        If a path is not finite, the function is not finite anywhere, or something is not numbers.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import optim
    >>> def bowl(theta):
    ...     return theta[0] ** 2 + 10 * theta[1] ** 2, np.array([2, 20]) * theta
    >>> descent = optim.minimize(bowl, [2.0, 1.0], optim.SGD(lr=0.08), steps=20)
    >>> ax = tw.plot.path(descent, bowl)  # doctest: +SKIP
    """
    if function is not None:
        _checks.function("function", function)
    paths = _paths(descent, function)
    points = np.concatenate(list(paths.values()))
    low, high = points.min(axis=0), points.max(axis=0)
    with np.errstate(over="ignore"):
        size = high - low
        margin = np.maximum(size / 4, size.max() / 10)
        if not size.any():  # a single point
            margin += max(1.0, np.abs(low).max() / 10)
        low, high = low - margin, high + margin
    if not np.isfinite([low, high, high - low]).all():
        raise DataError("the path is too long for float64: draw its beginning, e.g. path[:10]")
    graph = contours = None
    if len(low) == 1:
        graph = _on_graph(function, np.linspace(low, high, 10 * _GRID))
        paths = {called: _on_graph(function, one) for called, one in paths.items()}
    elif function is not None:
        contours = _contours(function, low, high)
    ax = axes(ax)
    if contours is not None:
        x, y, z, levels = contours
        ax.contour(x, y, z, levels=levels, cmap="viridis", linewidths=0.7, alpha=0.7, zorder=0)
    if graph is not None:
        ax.plot(*graph.T, color="0.6", lw=1.2, zorder=0)
    for index, (called, one) in enumerate(paths.items()):
        color = f"C{(index + 1) % COLORS}"  # low contours are blue
        label = None if called is None else str(called)
        ax.plot(*one.T, ".-", color=color, lw=1.2, ms=4, label=label)
        ax.plot(*one[0], "o", color=color, mfc="none", ms=8)
        ax.plot(*one[-1], "*", color=color, ms=11)
    ax.set(xlabel="theta[0]", xlim=(low[0], high[0]))
    if graph is None:
        ax.set(ylabel="theta[1]", ylim=(low[1], high[1]))
        width, height = high - low
        if max(width, height) <= _EQUAL * min(width, height):
            ax.set_aspect("equal")
    else:
        ax.set(ylabel="value")
    if None not in paths:
        ax.legend()
    return ax


@takes("plot.schedule", {})
def schedule(
    *shown: Schedule | Axes, base: float = 1.0, steps: int = 1000, ax: Axes | None = None
) -> Axes:
    """Draw learning rates against time.

    Parameters
    ----------
    *shown : Schedule
        From `thalweg.optim.schedules`. (Axes at the end are taken as `ax`.)
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
    schedules: list[Any] = [*shown]
    if ax is None and schedules and isinstance(schedules[-1], pyplot().Axes):
        ax = schedules.pop()
    if not schedules:
        raise ArgumentError("there is nothing to draw: pass a schedule of thalweg.optim.schedules")
    for one in schedules:
        if not isinstance(one, Schedule):
            raise ArgumentError(
                "each argument must be a schedule that depends on time alone, as those of "
                f"thalweg.optim.schedules do; got {_checks.given(one)}"
            )
    base = _checks.real("base", base, 0)
    steps = _checks.integer("steps", steps, 1)
    times = np.arange(steps, dtype=np.float64)
    rates = [one._rates(times, base, steps) for one in schedules]
    own, ax = ax is None, axes(ax)
    for one, line in zip(schedules, rates, strict=True):
        ax.plot(times, line, label=_name(one))
    ax.set(xlabel=schedules[0].per, ylabel="learning rate")
    legend(ax, beside=own)
    return ax


def _paths(descent: Any, function: Any) -> dict[Any, npt.NDArray[np.float64]]:
    """Return the points of one or several paths by label, None for a single one."""
    given: dict[Any, Any] = {None: descent}
    if isinstance(descent, Mapping):
        given = dict(descent)
    elif isinstance(descent, (list, tuple)) and any(isinstance(one, Descent) for one in descent):
        given = {
            f"path {k + 1}" if len(descent) > 1 else None: one for k, one in enumerate(descent)
        }
    if not given:
        raise ArgumentError("there are no paths to draw")
    paths = {}
    for called, one in given.items():
        name = "path" if called is None else f"path {called!r}"
        array = _arrays.as_numeric(one.path if isinstance(one, Descent) else one, name)
        width = array.shape[1] if array.ndim == 2 else 0
        if width not in (1, 2) or len(array) == 0 or (width == 1 and function is None):
            more = ""
            if width > 2:
                more = ": choose two parameters, e.g. path[:, :2], without a function"
            elif width == 1 and len(array):
                more = ": pass the function, on whose graph a single parameter is drawn"
            raise ShapeError(f"{name} must have shape (steps + 1, 2); got {array.shape}{more}")
        paths[called] = _arrays.finite(array.astype(np.float64), name)
    widths = {one.shape[1] for one in paths.values()}
    if len(widths) > 1:
        raise ShapeError("some paths are of one parameter and some of two: draw them separately")
    return paths


def _value(function: Any, theta: npt.NDArray[np.float64]) -> Any:
    """Return the value of a function that returns it alone, or with the gradient."""
    result = function(theta)
    value = result[0] if isinstance(result, (tuple, list)) else result
    number = _arrays.as_numeric(value, "the value of the function")
    if number.size != 1:
        raise ShapeError(f"the value of the function must be one number; got {number.shape}")
    return number.item()


def _on_graph(function: Any, theta: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return points (n, 1) with the values of a function, those not finite as NaN."""
    with np.errstate(all="ignore"):  # checked below
        values = np.array([_value(function, one.copy()) for one in theta], np.float64)
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        raise DataError("the function is not finite anywhere near the path")
    return np.column_stack([theta, values])


def _contours(function: Any, low: Any, high: Any) -> tuple[Any, Any, Any, Any] | None:
    """Return x, y and values on a grid, and the levels of contours; None if it is constant."""
    x, y = (np.linspace(*ends, _GRID) for ends in zip(low, high, strict=True))
    z = np.empty((_GRID, _GRID))
    with np.errstate(all="ignore"):  # checked below
        for row, column in np.ndindex(z.shape):
            z[row, column] = _value(function, np.array([x[column], y[row]]))
    there = np.isfinite(z)
    if not there.any():
        raise DataError("the function is not finite anywhere near the path")
    z = np.ma.masked_array(z, ~there)
    least, most = float(z.min()), float(z.max())
    with np.errstate(over="ignore"):
        levels = least + (most - least) * np.logspace(-4, 0, _LEVELS + 1)[:-1]
    # Neighbouring levels are the same number if the function hardly varies compared with its size.
    levels = np.unique(levels[np.isfinite(levels)])
    levels = levels[(least < levels) & (levels < most)]
    return (x, y, z, levels) if len(levels) else None


def _name(schedule: Schedule) -> str:
    """Return the name of a schedule in a legend."""
    name = type(schedule).__name__
    if isinstance(schedule, LinearWarmup) and schedule.then is not None:
        return f"{name},\nthen {_name(schedule.then)}"
    return name
