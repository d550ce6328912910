"""Checking a model's gradients of a loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks, _parts
from thalweg._arrays import Targets
from thalweg._gradcheck import _blocks, _float32, _task
from thalweg._gradcheck._blocks import Blocks, Vector
from thalweg._gradcheck._differences import EPS, METHODS
from thalweg._gradcheck._hvp import compare
from thalweg._gradcheck._report import RTOL, Columns, GradcheckReport, report
from thalweg._gradcheck._task import Task
from thalweg._habits import takes
from thalweg.nn import Loss, Sequential
from thalweg.nn._losses import LossFunction, loss_of

#: Above this number of parameters, directions are compared by default instead of parameters.
_MANY = 10_000
_DIRECTIONS = 3


@takes("gradcheck", {})
def gradcheck(
    model: Sequential,
    x: npt.ArrayLike,
    y: Targets,
    *,
    loss: Loss | LossFunction,
    sample_weight: npt.ArrayLike | None = None,
    h: float | None = None,
    rtol: float = RTOL,
    atol: float | None = None,
    directions: int | None = None,
    seed: int = 0,
) -> GradcheckReport:
    r"""Check a model's gradients of a loss, for every parameter, by central differences.

    Parameters
    ----------
    model : Sequential
        Not changed. A float32 model is checked through a float64 copy of it, and its own gradient
        is then compared with that of the copy.
    x, y : array_like
        A batch, as in `Trainer.fit`. It is evaluated four to six times per parameter or direction;
        ten rows or so are enough.
    loss : Loss or callable, keyword only
        As for `Trainer`. A custom loss is called in float64 just as often, and must not use the
        model in the meantime.
    sample_weight : array_like, shape (n,), keyword only, optional
        As in `Trainer.fit`.
    h : float, keyword only, optional
        The step is ``h * max(1, abs(theta))``, with `h` at least ``eps``, by default
        ``eps**(1/3)``. Along a direction, it is h times the larger of 1 and the block's norm.
    rtol, atol : float, keyword only
        As in `check_gradient`.
    directions : int, keyword only, optional
        Number of random directions *in each block* to compare instead of every parameter; 0 for
        every parameter. By default 0 for up to 10 000 parameters, and 3 otherwise. (A single
        direction through all parameters would hide errors in a small block.)
    seed : int, keyword only, default 0
        Seed of the directions.

    Returns
    -------
    GradcheckReport
        A block that differences cannot resolve well enough is "unresolved" and does not pass, as in
        `check_gradient`.

        Parameters with a kink between the two points are left out and counted: a kink of a
        ReLU-like activation, or of `nn.L1Loss`, `nn.HuberLoss`, `nn.QuantileLoss` or the bound of
        `nn.GaussianNLLLoss`. Directions with a kink are redrawn, up to ten times. The kinks of a
        custom loss are unknown: where every parameter is compared, they are detected as in
        `check_gradient`.

    Raises
    ------
    ArgumentError
        If an option is outside its range, or the loss is infinite, or not defined for an output.
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model, or every row has weight 0.

    Notes
    -----
    Random elements are held fixed: dropout drops the same elements in every evaluation, and
    `nn.BatchNorm1d` uses the batch's statistics, as in training, but does not update its running
    averages.

    Where a variance is below the bound of `nn.GaussianNLLLoss`, the check fails rightly: the loss
    does not depend on it there, but its gradient ignores the bound, by intention. The same holds
    for `gradgradcheck`.

    A float32 gradient passes if its norm-relative distance from the float64 one is at most 2e-6
    times the root of the number of linear layers, or 2^-23 of the whole gradient. In well-trained
    models it is larger, since residuals are differences of nearly equal numbers. Both gradients are
    then also compared at nine points around newly drawn parameters: if their difference is the same
    there, beyond its spread, this is a mistake, and the block fails. If not, it counts as rounding:
    the block passes with a distance of up to 1%; beyond, it is "unresolved in float32". (A mistake
    below 1% that is made only at certain parameters, as by a function of outputs above 10, would
    pass.)

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> report = tw.gradcheck(model, np.eye(3), [0, 1, 1], loss=nn.CrossEntropyLoss())
    >>> report.passed
    True
    """
    from thalweg._trainer import Trainer
    from thalweg.optim import SGD

    rule = METHODS["central"]
    h = rule.step() if h is None else _checks.real("h", h, EPS)
    rtol = _checks.real("rtol", rtol, 0, closed="()")
    atol = None if atol is None else _checks.real("atol", atol, 0)
    _parts.checked(model)
    if directions is None:
        directions = _DIRECTIONS if model.num_parameters > _MANY else 0
    directions = _checks.integer("directions", directions, 0)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))

    loss = loss_of(loss)
    own = Trainer(model.astype(model.dtype), loss=loss, optimizer=SGD(lr=0.0))
    x, y, weight = own._ready(x, y, sample_weight)
    x = model._matrix(x, "x")  # rounded as by the model
    task = _task.of(model, x, y, loss, weight)

    value = task.losses(0, np.zeros(1), np.zeros(1))[0][0]
    if directions:
        found, gradient = _directions(task, h, directions, rng, atol is None)
    else:
        found, gradient = _parameters(task, h, atol is None)
    made = report(
        found,
        value=float(value),
        method="central",
        order=rule.order,
        noise=rule.noise,
        rtol=rtol,
        atol=atol,
        lines=task.lines,
        shapes=task.blocks if directions else None,
    )
    if model.dtype == np.float64:
        return made

    def single(model: Sequential, x: Any) -> Vector:
        own = Trainer(model.astype("float32"), loss=loss, optimizer=SGD(lr=0.0))
        own.backward(x, y, weight)
        return own.model.flat_gradients.astype(np.float64)

    return _float32.compare(made, model, single, task, gradient, rng)


@takes("gradgradcheck", {})
def gradgradcheck(
    model: Sequential,
    x: npt.ArrayLike,
    y: Targets,
    *,
    loss: Loss | LossFunction,
    sample_weight: npt.ArrayLike | None = None,
    directions: int = 3,
    h: float | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
) -> GradcheckReport:
    r"""Check a model's products with its Hessian, `thalweg.curvature.hvp`, as `check_hvp` does.

    Parameters
    ----------
    model : Sequential
        Not changed. A float32 model is checked through a float64 copy of it.
    x, y, sample_weight
        A batch, as in `gradcheck`.
    loss : Loss or callable, keyword only
        As for `Trainer`. Of a custom loss, products themselves are differences, of the gradient
        with respect to the outputs; see `thalweg.curvature.Operator`.
    directions, h, rtol, seed
        As in `check_hvp`; the differences are central.

    Returns
    -------
    GradcheckReport
        Directions with a kink are redrawn, and after ten attempts left out and counted.

    Raises
    ------
    ArgumentError
        If an option is outside its range, the loss is infinite, or not defined for an output, or
        there are kinks in every direction.
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model, or every row has weight 0.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> tw.gradgradcheck(model, np.eye(3), [0, 1, 1], loss=nn.CrossEntropyLoss()).passed
    True
    """
    from thalweg.curvature import Operator

    rule = METHODS["central"]
    h = rule.step() if h is None else _checks.real("h", h, EPS)
    directions = _checks.integer("directions", directions, 1)
    rtol = _checks.real("rtol", rtol, 0, closed="()")
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    loss = loss_of(loss)
    task = _task.of(_parts.checked(model), x, y, loss, sample_weight)
    copy = task.trainer.model
    hessian = Operator(copy, task.x, task.y, loss=loss, sample_weight=task.weight)
    point = np.asarray(copy.flat_parameters, np.float64)
    nowhere = np.zeros(1)

    def slope(at: Vector) -> Vector:
        copy.flat_parameters = at
        gradient = task.losses(0, nowhere, nowhere)[2]
        copy.flat_parameters = point
        return gradient

    def product(v: Vector) -> Vector:
        return np.asarray(hessian @ v, np.float64)

    def crosses(part: slice, v: Vector, steps: Vector) -> bool:
        return bool(task.losses(part.start, v, steps)[1].any())

    return compare(slope, product, task.blocks, point, rule, h, directions, rtol, rng, crosses)


def _parameters(task: Task, h: float, twice: bool) -> tuple[Columns, Vector]:
    """Compare every parameter."""
    theta = task.trainer.model.flat_parameters
    analytic, numeric, kinked = task.differences(h)
    steps = h * np.maximum(1.0, np.abs(theta)).astype(np.float64)
    found = Columns(task.blocks, analytic, numeric, steps, kinked)
    if twice:
        _, doubled, also = task.differences(2 * h)
        further = lambda: task.differences(4 * h)[1:]  # noqa: E731
        found = replace(found, doubled=doubled, also_kinked=also, further=further)
    return found, analytic


def _directions(
    task: Task, h: float, count: int, rng: np.random.Generator, twice: bool
) -> tuple[Columns, Vector]:
    """Compare random directions in each block."""
    theta = task.trainer.model.flat_parameters.astype(np.float64)
    factors = (1, 2, 4) if twice else (1,)
    rows, gradient = [], theta
    for part in _blocks.slices(task.blocks):
        here = theta[part]
        step = h * max(1.0, _blocks.length(here))
        for _ in range(count):
            for _attempt in range(10):
                v = _blocks.unit(rng, here.size)
                points = step * np.array([s * k for k in factors for s in (1, -1)])
                values, crossed, gradient = task.losses(part.start, v, points)
                near = crossed[:4]
                if not near.any():
                    break
            # Parameters are rounded: compare along the step actually taken.
            gone = [(here + s * v) - (here - s * v) for s in points[::2]]
            slopes = (values[::2] - values[1::2]) / (2 * points[::2])
            truth = float(gradient[part] @ gone[0]) / (2 * step)
            kinks = near[:2].any(), near.any(), crossed.any()
            rows.append((truth, *slopes, step, *kinks))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    analytic, numeric, *more, steps, kinked, also, beyond = columns
    blocks: Blocks = [(name, (count,)) for name, _ in task.blocks]
    found = Columns(blocks, analytic, numeric, steps, kinked)
    if twice:
        doubled, four = more
        found = replace(found, doubled=doubled, also_kinked=also, further=lambda: (four, beyond))
    return found, gradient
