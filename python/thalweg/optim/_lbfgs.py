"""L-BFGS."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from thalweg import _checks
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, DivergedError
from thalweg.nn import Sequential
from thalweg.optim._full_batch import (
    FullBatchOptimizer,
    Problem,
    Progress,
    Visit,
    warn_of_stall,
)
from thalweg.optim._line_search import Point, strong_wolfe
from thalweg.optim._optimizer import expect_model

#: How a step's length is found.
LineSearch: TypeAlias = Literal["strong_wolfe"]

#: How to continue after a step that ended at a tolerance or began at a gradient of 0.
_GOES_ON = (
    "LBFGS(tolerance_change=0, tolerance_grad=0) in a new Trainer of the same model, or in another "
    "call of optim.minimize, continues as far as rounding allows"
)
_FLAT = "the gradient is 0"


@dataclass(eq=False, repr=False)
class _Memory:
    """The state that determines the next direction."""

    iterations: int = 0
    #: The last direction, and the gradient where it began.
    direction: Array | None = None
    gradient: Array | None = None
    #: How far the last iteration went, if the gradient there is not known yet; else 0.
    step: float = 0.0
    scale: float = 1.0  # of the initial inverse Hessian
    #: (y, s, 1/s'y): differences of gradients, and the steps that caused them
    pairs: list[tuple[Array, Array, float]] = field(default_factory=list)


class LBFGS(FullBatchOptimizer):
    r"""Limited-memory BFGS with a line search: a quasi-Newton method for the loss on all data.

    .. math:: \theta \leftarrow \theta - t\,H g

    `H` approximates the inverse Hessian, based on the most recent pairs of steps `s` and gradient
    differences `y` (Nocedal 1980); a pair with :math:`s^\top y \le 0`, which would make it
    indefinite, is rejected. The strong Wolfe line search finds `t` with
    :math:`f(t) \le f(0) + 10^{-4} t f'(0)` and :math:`|f'(t)| \le 0.9\,|f'(0)|`. Algorithm,
    arguments and defaults are PyTorch's, with two exceptions: PyTorch's default for
    `line_search_fn` is None, and it rejects pairs up to :math:`s^\top y = 10^{-10}`, which depends
    on the units of loss and parameters, whereas here the limit is
    :math:`\epsilon\,\lVert s \rVert \lVert y \rVert` with the machine epsilon.

    Parameters
    ----------
    lr : float, default 1
        The step that the line search tries first, or the step itself without a line search; the
        very first one is :math:`\min(1, 1/\lVert g \rVert_1)` times this.
    max_iter : int, default 20
        Iterations per step of the optimizer, which is an epoch of `thalweg.Trainer.fit`.
    max_eval : int, optional
        Evaluations of loss and gradient per step; by default ``max_iter * 5 // 4``.
    tolerance_grad : float, default 1e-7
        A step ends when no component of the gradient is larger than this.
    tolerance_change : float, default 1e-9
        A step also ends when no parameter moved by more than this in an iteration, or the loss
        changed by less, or its slope along the direction is smaller.
    history_size : int, default 100
        Number of pairs to keep, each of them two arrays of the size of the parameters.
    line_search_fn : {"strong_wolfe", None}
        None takes a step of length `lr`, which may raise the loss.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    Gradients of different batches differ by more than the effect of curvature. Therefore
    `thalweg.Trainer.fit` accepts this optimizer only with ``batch_size=None`` (all data at once).
    Both gradients of a pair are of the same step, so data and weights may change between steps:
    data by new points of an equation, weights by another optimizer. (In PyTorch, the gradient at
    the beginning of the next step completes the last pair.) Only if `line_search_fn` is None, the
    last point of a step is not evaluated, and its pair is completed as in PyTorch, so that nothing
    may change. Clipping, accumulation and averages are for other optimizers. `Dropout` drops the
    same elements at all points of a step, and the running averages of `BatchNorm1d` are updated
    only at the first one.

    The tolerances are absolute, as in PyTorch, and losses of smooth functions without noise become
    smaller than the tolerances allow for. Then a step changes no parameter, and with the same data
    no later step does. A `RuntimeWarning` says so, once per fit; the fit continues to its last
    epoch. (Not with `Dropout`, which makes the loss a different function in each step.)
    ``LBFGS(tolerance_change=0, tolerance_grad=0)`` continues as far as rounding allows.

    References
    ----------
    Nocedal 1980, "Updating quasi-Newton matrices with limited storage"; Liu & Nocedal 1989;
    Nocedal & Wright 2006, "Numerical optimization", algorithms 3.5, 3.6, 7.4 and 7.5.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1), dtype="float64")
    >>> optimizer = optim.LBFGS(tolerance_change=0)
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    >>> history = trainer.fit(x, np.sin(3 * x), epochs=20, batch_size=None)
    >>> history["loss"][-1] < 1e-6
    True
    """

    max_iter: int
    max_eval: int | None
    tolerance_grad: float
    tolerance_change: float
    history_size: int
    line_search_fn: LineSearch | None

    def __init__(
        self,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: LineSearch | None = "strong_wolfe",
    ) -> None:
        if line_search_fn is not None:
            _checks.one_of("line_search_fn", line_search_fn, get_args(LineSearch), also="None")
        if max_eval is not None:
            max_eval = _checks.integer("max_eval", max_eval, 1)
        super().__init__(
            lr,
            max_iter=_checks.integer("max_iter", max_iter, 1),
            max_eval=max_eval,
            tolerance_grad=_checks.real("tolerance_grad", tolerance_grad, 0),
            tolerance_change=_checks.real("tolerance_change", tolerance_change, 0),
            history_size=_checks.integer("history_size", history_size, 1),
            line_search_fn=line_search_fn,
        )
        self._memory = _Memory()

    def step(  # type: ignore[override]
        self, model: Sequential, closure: Callable[[], Any] | None = None
    ) -> float:
        """Take one step of up to `max_iter` iterations, for hand-written training loops.

        Parameters
        ----------
        model : Sequential
            Its parameters are changed; it keeps the gradients of the last call of `closure`.
        closure : callable
            Computes the loss at the model's parameters, adds its gradient to the model's gradients,
            which are zero on entry, and returns the loss: ``lambda: trainer.backward(x, y)``.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        ArgumentError
            If there is no closure, it does not return a number, or this optimizer belongs to
            another model.
        DivergedError
            If the loss at the beginning is infinite or NaN. After any error, model and optimizer
            are unchanged.
        """
        if not callable(closure):
            raise ArgumentError(
                "LBFGS needs the loss at several points: call optimizer.step(model, closure), "
                "where closure() computes the loss and the model's gradients, e.g. lambda: "
                "trainer.backward(x, y)"
            )
        expect_model(model)
        problem, before = _Closure(model, closure), (self._memory, self._steps)
        try:
            model._unmoved = problem.theta
            progress = self._advance(problem)
            problem.leave(progress.theta)
        except BaseException:  # also Ctrl-C
            problem.leave()
            self._memory, self._steps = before
            raise
        self._belong(model)
        if progress.stalled:
            warn_of_stall(self, model, progress.stalled)
        return progress.loss

    def _search(self, problem: Problem) -> Progress:
        options, lr = self._arguments, self.lr
        max_iter: int = options["max_iter"]
        max_eval = options["max_eval"] or max_iter * 5 // 4
        small_gradient, small_change = (
            float(options[name]) for name in ("tolerance_grad", "tolerance_change")
        )
        memory = dataclasses.replace(self._memory, pairs=list(self._memory.pairs))
        start = theta = problem.model.flat_parameters
        loss, gradient = problem.gradient(theta)
        if gradient is None:
            raise DivergedError(
                f"the loss is {loss} before the first step: the weights are too large. They are as "
                "they were before this call"
            )
        first, evaluations, wrong = loss, 1, False
        if (largest := float(np.abs(gradient).max())) <= small_gradient:
            why = f"no component of the gradient is larger than tolerance_grad={small_gradient:g}"
            return Progress(first, theta, stalled=f"{why}. {_GOES_ON}" if largest else _FLAT)
        self._include(memory, memory.step, gradient)
        for iteration in range(1, max_iter + 1):
            with _quiet():
                direction = self._direction(memory, gradient)
            memory.iterations += 1
            memory.direction, memory.gradient, memory.step = direction, gradient, 0.0
            step = lr
            if memory.iterations == 1:
                step *= min(1.0, 1.0 / _sum(np.abs(gradient)))
            slope = _dot(gradient, direction)
            if slope > -small_change:
                break
            here = Point(0.0, loss, slope, gradient)
            size = float(np.abs(direction).max())

            tried: list[tuple[float, float, float]] = []  # steps, values and slopes

            def along(
                t: float, origin: Array = theta, direction: Array = direction, tried: Any = tried
            ) -> Point:
                with _quiet():  # the loss is not finite then
                    place = origin + t * direction
                value, slope = problem.gradient(place)
                point = Point(t, value, np.inf if slope is None else _dot(slope, direction), slope)
                tried.append(point[:3])
                return point

            known, count = True, 0
            if options["line_search_fn"] == "strong_wolfe":
                most = int(max_eval) - evaluations
                point, count = strong_wolfe(along, here, step, size, small_change, most)
            elif iteration < max_iter:
                point, count = along(step), 1
            else:  # do not evaluate the last point
                known, point = False, Point(step, loss, slope, gradient)
            evaluations += count
            with _quiet():
                theta = theta + point.step * direction
            if point.gradient is None or not np.isfinite(theta).all():
                what = "the loss" if point.gradient is None else "a parameter"
                raise DivergedError(
                    f"{what} became infinite with lr={lr}: use a smaller rate, or "
                    'line_search_fn="strong_wolfe". Weights and optimizer are as they were before '
                    "this call"
                )
            failed = point.step == 0 and evaluations < int(max_eval)  # and was not cut short
            wrong = failed and _contradicted(here, tried, float(np.finfo(theta.dtype).eps))
            if known:  # at once: the loss of the next step may be that of other data
                self._include(memory, point.step, point.gradient)
            else:
                memory.step = point.step
            change, loss, gradient = abs(point.value - loss), point.value, point.gradient
            if (
                iteration == max_iter
                or evaluations >= int(max_eval)
                or np.abs(gradient).max() <= small_gradient
                or abs(point.step) * size <= small_change
                or change < small_change
            ):
                break
        self._memory = memory
        stalled, searched = "", evaluations > 1
        # After the very first iteration, the search begins at another length, so it may succeed.
        if np.array_equal(theta, start) and (wrong or memory.iterations > 1 or not searched):
            if wrong:
                stalled = (
                    f"the loss does not fall along -Hg, although the gradient, up to {largest:.3g},"
                    f" says so here and there: {theta.dtype} rounds the loss, it has a jump or a "
                    "kink, or a gradient of your own is wrong, which tw.check_gradient tells"
                )
            elif searched and evaluations >= int(max_eval):
                stalled = (
                    f"no lower loss was found in max_eval={max_eval} evaluations; a larger "
                    f"max_eval may find one, if {theta.dtype} can resolve it"
                )
            elif small_change > 0:
                stalled = f"it stopped at tolerance_change={small_change:g}. {_GOES_ON}"
            else:
                stalled = f"{theta.dtype} can resolve no lower loss nearby"
        return Progress(first, theta, stalled=stalled)

    def _include(self, memory: _Memory, step: float, gradient: Array) -> None:
        """Remember a step along the last direction, to a point with this gradient, as a pair."""
        if not step or memory.direction is None or memory.gradient is None:
            return
        with _quiet():
            y, s = gradient - memory.gradient, step * memory.direction
        curvature, size = _dot(y, s), _dot(y, y)
        info = np.finfo(y.dtype)
        # The cosine of the angle between them, which has no unit, must be above rounding, and
        # squares that underflow have no digits left to divide by.
        lengths = math.sqrt(size) * math.sqrt(_dot(s, s))
        if curvature > info.eps * lengths and min(curvature, size) > info.tiny:
            memory.pairs.append((y, s, 1.0 / curvature))
            del memory.pairs[: -int(self._arguments["history_size"])]
            memory.scale = curvature / size

    def _direction(self, memory: _Memory, gradient: Array) -> Array:
        """Return -Hg by the two-loop recursion."""
        q, shares = -gradient, []
        for y, s, inverse in reversed(memory.pairs):
            share = _dot(s, q) * inverse
            shares.append(share)
            q = q - share * y
        r = memory.scale * q
        for (y, s, inverse), share in zip(memory.pairs, reversed(shares), strict=True):
            r = r + (share - _dot(y, r) * inverse) * s
        return r

    def _export(self) -> tuple[dict[str, float], dict[str, Array]]:
        memory = self._memory
        if memory.direction is None or memory.gradient is None:
            return {}, {}
        scalars = {"n_iter": memory.iterations, "t": memory.step, "H_diag": memory.scale}
        arrays = {"d": memory.direction, "prev_flat_grad": memory.gradient}
        for i, (y, s, inverse) in enumerate(memory.pairs):
            arrays |= {f"old_dirs.{i}": y, f"old_stps.{i}": s}
            scalars[f"ro.{i}"] = inverse
        return scalars, {name: array.copy() for name, array in arrays.items()}

    def _import(self, scalars: dict[str, float], arrays: dict[str, Array]) -> None:
        if not scalars:
            self._memory = _Memory()
            return
        count = sum(name.startswith("ro.") for name in scalars)
        pairs = [
            (arrays[f"old_dirs.{i}"].copy(), arrays[f"old_stps.{i}"].copy(), scalars[f"ro.{i}"])
            for i in range(count)
        ]
        self._memory = _Memory(
            int(scalars["n_iter"]), arrays["d"].copy(), arrays["prev_flat_grad"].copy(),
            scalars["t"], scalars["H_diag"], pairs,
        )  # fmt: skip


def _contradicted(start: Point, tried: list[tuple[float, float, float]], eps: float) -> bool:
    """Whether the shortest step with a decrease to speak of has none, though its slope is negative.

    Where a smooth loss is not lower, its slope has changed sign, unless there is a hill in between:
    a search that has not been cut short has tried shorter steps then.
    """
    least = math.sqrt(eps) * abs(start.value)
    _, value, slope = min((p for p in tried if -p[0] * start.slope > least), default=(0, 0, 0))
    return slope < 0 and value >= start.value


def _quiet() -> np.errstate:
    """Let badly scaled data overflow without a warning; infinite results are handled."""
    return np.errstate(over="ignore", invalid="ignore")


class _Closure(Visit):
    """A `Problem` of a closure that computes the loss at the model's parameters."""

    def __init__(self, model: Sequential, closure: Callable[[], Any]) -> None:
        super().__init__(model)
        self._closure = closure

    def gradient(self, theta: Array) -> tuple[float, Array | None]:
        if not np.isfinite(theta).all():
            return np.inf, None
        self._go(theta)
        try:
            value = self._closure()
        except DivergedError:
            return np.inf, None
        self._been()
        try:
            loss = float(value)
        except (TypeError, ValueError):
            raise ArgumentError(
                f"closure() must return the loss, a number; got {value!r}"
            ) from None
        gradient = self.model.flat_gradients
        finite = np.isfinite(loss) and np.isfinite(gradient).all()
        return (loss, gradient) if finite else (np.inf, None)


def _sum(x: Array) -> float:
    # NumPy's pairwise sums: the same bits for any number of threads, unlike a BLAS's.
    return float(x.sum(dtype=np.float64))


def _dot(a: Array, b: Array) -> float:
    with _quiet():
        return _sum(a * b)
