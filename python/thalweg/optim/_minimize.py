"""Steps of the optimizers on any function of a few numbers, without a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _habits
from thalweg.errors import ArgumentError, DataError, DivergedError, ShapeError, UnsupportedError
from thalweg.nn import Linear, Sequential
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim._levenberg_marquardt import LevenbergMarquardt
from thalweg.optim._optimizer import Optimizer
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg._trainer import Trainer
else:  # what typing.get_type_hints finds
    Axes = Any

_Vector = npt.NDArray[np.float64]


@dataclass(eq=False, slots=True)
class Descent:
    """The result of `minimize`.

    Attributes
    ----------
    path : ndarray, shape (steps + 1, n)
        The parameters before the first step and after each.
    values : ndarray, shape (steps + 1,)
        The values of the function there.
    """

    path: _Vector
    values: _Vector

    @property
    def theta(self) -> _Vector:
        """The parameters after the last step, shape (n,); not necessarily the best on the path."""
        theta: _Vector = self.path[-1]
        return theta

    def plot(
        self, function: Callable[[_Vector], Any] | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw the path of one or two parameters; the same as `thalweg.plot.path`.

        Parameters
        ----------
        function : callable, optional
            What was minimized, to draw its contours, or its graph for one parameter.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ShapeError
            If there are more than two parameters, or one and no function.
        """
        from thalweg import plot

        return plot.path(self, function, ax)

    def __repr__(self) -> str:
        steps = len(self.values) - 1
        return (
            f"Descent({steps} step{'' if steps == 1 else 's'}, value {self.values[0]:.6g} -> "
            f"{self.values[-1]:.6g}, theta={_shown(self.theta)})"
        )


#: Arguments that other libraries' minimizers take.
_OF_MINIMIZERS = {
    **dict.fromkeys(("fun", "f", "func", "loss"), "it is function"),
    **dict.fromkeys(("x0", "init", "params"), "it is theta"),
    **dict.fromkeys(
        ("jac", "grad", "gradient"), "the function returns both, a tuple (value, gradient)"
    ),
    **dict.fromkeys(("max_iter", "maxiter", "num_steps", "epochs"), "it is steps"),
    **dict.fromkeys(("lr", "learning_rate"), "it is the optimizer's: optim.SGD(lr=...)"),
    "method": "it is optimizer, e.g. optim.LBFGS()",
    "callback": "the result has every point: descent.path and descent.values",
}


@_habits.takes("optim.minimize", _OF_MINIMIZERS)
def minimize(
    function: Callable[[_Vector], Any],
    theta: npt.ArrayLike,
    optimizer: Optimizer,
    steps: int,
    *,
    schedule: Schedule | ReduceLROnPlateau | None = None,
) -> Descent:
    r"""Take steps of an optimizer on any function, and record the path.

    .. math:: \theta_{k+1} = \theta_k + \text{step of the optimizer from } \nabla f(\theta_k)

    For pictures of how optimizers move (`thalweg.plot.path`), and for checks of their formulas.
    The steps are those of training, in the compiled core: the parameters are the bias of a
    `thalweg.nn.Linear`, whose output a `thalweg.Trainer` gives to the function as its loss. All
    numbers are float64.

    Parameters
    ----------
    function : callable
        ``function(theta)`` returns a tuple ``(value, gradient)``: a number and an array of shape
        (n,). `theta` is a fresh array.
    theta : array_like, shape (n,)
        Where to start.
    optimizer : Optimizer
        Any of this module except `LevenbergMarquardt`, which needs residuals. It must not have been
        used with a model, and has no groups. Steps are taken by a copy, so that one optimizer can
        start at several points.
    steps : int
        Number of steps, at least 1.
    schedule : schedule of `thalweg.optim.schedules`, keyword only, optional
        Sets the learning rate before each step. What counts epochs counts steps here. The only
        figure that `ReduceLROnPlateau` can monitor is "loss", not its default "val_loss".

    Returns
    -------
    Descent

    Raises
    ------
    ArgumentError
        If an argument is of the wrong kind or out of range, the optimizer belongs to a model or has
        groups, or `function` does not return two items.
    UnsupportedError
        For `LevenbergMarquardt`.
    ShapeError
        If `theta` is not 1-D, or the gradient has another shape.
    DataError, DtypeError
        If `theta` is not finite, or value and gradient at the start are not, or they are not
        numbers.
    DivergedError
        If the value, the gradient or a parameter becomes infinite or NaN later; the message says
        after how many steps.

    Notes
    -----
    The parameters are a vector, so `Shampoo` and `Adafactor` do here what they do with biases, and
    `Muon`, which is for matrices, is rejected. The path of `ScheduleFreeAdamW` is that of
    :math:`y`, where it takes gradients. `SAM` calls the function twice per step, and `LBFGS` at
    each point that it tries, where infinite values make it try shorter steps;
    ``LBFGS(max_iter=1, max_eval=25)`` makes each of its iterations a step of the path. Once it
    makes no more progress, it stays where it is, and a warning says why.

    `thalweg.check_gradient` can check the gradient. Where the minimum has a formula or the function
    is a sum of squares, see `thalweg.solve`.

    Examples
    --------
    Gradient descent on a quadratic multiplies the error along each axis by 1 - lr * curvature:

    >>> import numpy as np
    >>> from thalweg import optim
    >>> curvature = np.array([1.0, 10.0])
    >>> def bowl(theta):
    ...     return (curvature * theta**2).sum() / 2, curvature * theta
    >>> descent = optim.minimize(bowl, [1, 1], optim.SGD(lr=0.15), steps=3)
    >>> descent.path
    array([[ 1.      ,  1.      ],
           [ 0.85    , -0.5     ],
           [ 0.7225  ,  0.25    ],
           [ 0.614125, -0.125   ]])
    >>> bool(descent.values[-1] < descent.values[0])
    True
    """
    from thalweg._trainer import Trainer  # it imports the optimizers
    from thalweg.callbacks._watch import Inner

    _checks.function("function", function)
    given = _arrays.as_numeric(theta, "theta")
    if given.ndim != 1 or given.size == 0:
        more = ": pass theta.ravel()" if given.ndim > 1 else ""
        raise ShapeError(f"theta must have shape (n,), n at least 1; got {given.shape}{more}")
    start: _Vector = given.astype(np.float64)
    _arrays.finite(start, "theta")
    own = _copied(optimizer)
    steps = _checks.integer("steps", steps, 1)

    # With an input of 0, the output is the bias, and the weight has no gradient and remains 0.
    size = start.size
    model = Sequential(Linear(1, size, init="zeros"), dtype="float64")
    model.flat_parameters = np.concatenate([np.zeros(size), start])
    record = _Record(function, start, own)
    trainer = Trainer(model, loss=record.loss, optimizer=own, schedule=schedule)
    nothing = np.zeros((1, 1))
    try:
        trainer.fit(nothing, nothing, epochs=steps, batch_size=None, callbacks=[record, Inner()])
    except DivergedError:
        found = "theta, or an average in the optimizer, became infinite"
        raise record.error or record.diverged(found, len(record.path)) from None
    record.values.append(record.evaluate(record.path[-1].copy())[0])
    if record.error:
        raise record.error
    return Descent(np.array(record.path), np.array(record.values))


def _copied(optimizer: Any) -> Optimizer:
    """Return a copy that can be used with any model."""
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(
            "optimizer must be one of thalweg.optim, e.g. optim.SGD(lr=0.1); got "
            f"{_checks.given(optimizer)}"
        )
    kind = type(optimizer).__name__
    if isinstance(optimizer, LevenbergMarquardt):
        raise UnsupportedError(
            f"{kind} needs residuals, and a function has only a value: use "
            "solve.nonlinear_least_squares(residual, jacobian, theta)"
        )
    if optimizer._groups:
        raise ArgumentError(
            f"optimizer {kind} has groups, but the parameters of a function have no names that "
            "they could match: pass one without groups"
        )
    if optimizer._bound_to() is not None:
        raise ArgumentError(
            f"optimizer {kind} belongs to a model, and its averages are those of that model: make "
            "a new one"
        )
    return copy.deepcopy(optimizer)


class _Record:
    """The function as a trainer's loss, and what is seen of it after each step."""

    def __init__(
        self, function: Callable[[_Vector], Any], start: _Vector, optimizer: Optimizer
    ) -> None:
        self._function = function
        self._optimizer = optimizer
        # A line search is told of infinite values, and tries shorter steps.
        self._searches = isinstance(optimizer, FullBatchOptimizer)
        self._size = start.size
        self.path = [start]
        self.values: list[float] = []
        self._called = False
        #: Why there are no further steps, if anything has become infinite.
        self.error: DivergedError | None = None

    def evaluate(self, theta: _Vector) -> tuple[float, _Vector]:
        """Call the function and check what it returns; infinity where that is not finite."""
        first, self._called = not self._called, True
        at = theta.copy()  # the function may write to it
        with np.errstate(all="ignore"):  # checked below
            result = self._function(theta)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            got = f"{len(result)} items" if isinstance(result, (tuple, list)) else f"{result!r:.80}"
            raise ArgumentError(
                f"function must return a tuple (value, gradient), e.g. lambda t: ((t**2).sum(), "
                f"2 * t); it returned {got}"
            )
        value = _arrays.as_numeric(result[0], "the value of the function")
        if value.size != 1:
            raise ShapeError(f"the value of the function must be one number; got {value.shape}")
        gradient = _arrays.as_numeric(result[1], "the gradient").astype(np.float64)
        if gradient.shape != at.shape:
            raise ShapeError(
                f"the gradient must have the shape of theta, {at.shape}; got {gradient.shape}"
            )
        number = float(value.item())
        found = "" if math.isfinite(number) else f"the value of the function is {number}"
        found = found or _arrays.not_finite(gradient, "gradient")
        if not found:
            return number, gradient
        if first:
            raise DataError(f"{found} at the start, theta = {_shown(at)}; start elsewhere")
        if not self._searches:
            self.error = self.diverged(f"{found} at theta = {_shown(at)}", len(self.path) - 1)
        return math.inf, np.zeros_like(at)

    def loss(self, output: Any, _: Any) -> tuple[float, Any]:
        """Do the same for the only row of a model's output."""
        value, gradient = self.evaluate(output[0])
        return value, gradient[np.newaxis]

    def on_step_end(self, trainer: Trainer, record: dict[str, float]) -> None:
        """Record the parameters after a step, and the value before it."""
        theta = trainer.model.flat_parameters[-self._size :].astype(np.float64)
        self.path.append(theta)
        self.values.append(record["loss"])

    def diverged(self, found: str, done: int) -> DivergedError:
        """Return the error that says what became infinite after so many steps."""
        name, lr = type(self._optimizer).__name__, self._optimizer.lr
        shorter = f"; steps={done - 1} returns the path until then" if done > 1 else ""
        return DivergedError(
            f"{found} after {done} step{'' if done == 1 else 's'} of {name} with lr={lr:g}: the "
            f"learning rate is too large, or the function is not defined there{shorter}"
        )


def _shown(theta: _Vector) -> str:
    """Show parameters, of many only the first and last."""
    return np.array2string(theta, precision=6, threshold=8, edgeitems=3)
