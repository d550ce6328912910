"""Levenberg-Marquardt."""

import copy
from typing import cast

import numpy as np

from thalweg import _checks
from thalweg._arrays import Array
from thalweg.errors import DivergedError, UnsupportedError
from thalweg.nn import Sequential
from thalweg.optim._full_batch import FullBatchOptimizer, Problem, Progress, Squares

#: A step ends where the linear model predicts no decrease that float64 can resolve.
_TOLERANCES = (1e-20, 1e-16, 0.0)

#: Why there was no step, by the reason that `_levenberg.step` returns.
_STALLED = {
    "gtol": "the gradient is 0",
    "xtol": "the step is too short compared to the parameters, by xtol=1e-16",
    "ftol": "the decrease that it predicts is too small compared to the loss, by ftol=1e-20",
    "evaluations": "1000 evaluations found no lower loss",
    "damping": "{dtype} can resolve no lower loss nearby, however small the step",
    "uphill": "no step lowers the loss, however small: {dtype} rounds it, or it has a kink there",
}


class LevenbergMarquardt(FullBatchOptimizer):
    r"""Damped Gauss-Newton steps, for small networks that need high accuracy.

    The loss is a sum of squares, :math:`L = \lVert r(\theta) \rVert^2`. Each step solves

    .. math:: \min_\delta \lVert r + J\delta \rVert^2 + \mu \lVert D\delta \rVert^2

    with the Jacobian `J` of all residuals with respect to all parameters, by QR of the stacked
    matrix :math:`[J; \sqrt\mu D]` in float64; this is the method of
    `thalweg.solve.nonlinear_least_squares`, which explains `D`. A step that would not decrease the
    loss is rejected and :math:`\mu` increased, so the training loss never rises; see
    ``history["damping"]`` and ``history["rejected"]``.

    Parameters
    ----------
    damping : float, default 1e-3
        Initial :math:`\mu`, above 0. As an attribute it is that of the next step, and can only be
        read.
    geodesic : bool, default True
        Whether to bend steps by half of the geodesic acceleration.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    For `thalweg.Trainer` with `nn.MSELoss` (weighted or not) and ``batch_size=None``; an epoch is
    one accepted step. A step needs memory for n · out_features · num_parameters numbers, and its
    time is proportional to that number times num_parameters. `BatchNorm1d` and `Dropout`, with
    which rows have no residuals of their own, are not supported; nor are schedules (there is no
    learning rate), clipping, accumulation and averages.

    If a step finds no lower loss, it changes no parameter, and with the same data no later step
    does. A `RuntimeWarning` says so, once per fit, and the fit continues to its last epoch.

    The factorization is NumPy's: with a different BLAS, or a different number of BLAS threads,
    results may differ in the last digits.

    References
    ----------
    Levenberg 1944; Marquardt 1963; Hagan & Menhaj 1994, "Training feedforward networks with the
    Marquardt algorithm".

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1), dtype="float64")
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.LevenbergMarquardt())
    >>> history = trainer.fit(x, np.sin(3 * x), epochs=30, batch_size=None)
    >>> history["loss"][-1] < 1e-8
    True
    """

    _has_lr = False
    _figures = ("damping", "rejected")
    _needs_squares = True

    geodesic: bool

    def __init__(self, damping: float = 1e-3, geodesic: bool = True) -> None:
        from thalweg.solve import _levenberg

        super().__init__(
            1.0,
            damping=_checks.real("damping", damping, 0, closed="()"),
            geodesic=_checks.flag("geodesic", geodesic),
        )
        self._damping = _levenberg.Damping(float(self._arguments["damping"]))
        #: Where no step was found: parameters, the gradient Jᵀr, and why. There is none either the
        #: next time, and to look for one takes dozens of evaluations.
        self._stuck: tuple[Array, Array, str] | None = None

    @property
    def damping(self) -> float:
        r"""The damping :math:`\mu` of the next step; it adapts, and can only be read."""
        return self._damping.damping

    @property
    def lr(self) -> float:
        """Always 1: damping replaces the learning rate."""
        return 1.0

    @lr.setter
    def lr(self, value: float) -> None:
        raise UnsupportedError("LevenbergMarquardt has no learning rate: its damping adapts itself")

    def step(self, model: Sequential) -> None:
        """Raise: a gradient is not enough.

        Parameters
        ----------
        model : Sequential

        Raises
        ------
        UnsupportedError
            Always: `thalweg.Trainer.step` and `fit` compute the residuals.
        """
        raise UnsupportedError(
            "LevenbergMarquardt needs residuals, not a gradient: use Trainer.step or Trainer.fit, "
            "or thalweg.solve.nonlinear_least_squares"
        )

    def _search(self, problem: Problem) -> Progress:
        from thalweg.solve import _levenberg

        state = copy.deepcopy(self._damping)
        squares = cast(Squares, problem)  # since it needs them
        parameters = squares.model.flat_parameters
        theta = parameters.astype(np.float64)
        residual = squares.residual(theta)
        if residual is None:
            raise DivergedError(
                "the loss is not finite before the first step: the weights are too large. They are "
                "as they were before this call"
            )
        before = state.damping
        jacobian = squares.jacobian().astype(np.float64, copy=False)
        # In the precision in which files store it, as the metrics below.
        with np.errstate(over="ignore"):
            gradient: Array = (jacobian.T @ residual).astype(parameters.dtype)
        stuck = self._stuck
        if stuck and np.array_equal(parameters, stuck[0]) and np.array_equal(gradient, stuck[1]):
            outcome = _levenberg.Outcome(theta, residual, 0, 0, stuck[2])
        else:
            outcome = _levenberg.step(
                state,
                theta,
                residual,
                jacobian,
                squares.residual,
                tolerances=_TOLERANCES,
                geodesic=bool(self._arguments["geodesic"]),
                max_evaluations=1000,  # the damping reaches its maximum long before
            )
        for metric in state.metrics:
            if metric.scale is not None:
                metric.scale = metric.scale.astype(problem.model.dtype).astype(np.float64)
        self._damping = state
        self._stuck, stalled = None, ""
        if outcome.stopped:
            stalled = _STALLED[outcome.stopped].format(dtype=parameters.dtype)
            if np.isfinite(gradient).all():  # as files need it
                self._stuck = parameters, gradient, outcome.stopped
        figures = {"damping": before, "rejected": float(outcome.rejected)}
        return Progress(_levenberg.norm2(residual), outcome.theta, figures, stalled)

    def _export(self) -> tuple[dict[str, float], dict[str, Array]]:
        state = self._damping
        scalars: dict[str, float] = {}
        arrays: dict[str, Array] = {}
        if self._stuck is not None:
            where, there, why = self._stuck
            scalars[f"stuck.{why}"] = 1.0
            arrays = {"stuck.theta": where.copy(), "stuck.gradient": there.copy()}
        for i, metric in enumerate(state.metrics):
            if metric.scale is None:
                return scalars, arrays
            numbers = {"damping": metric.damping, "growth": metric.growth, "gain": metric.gain}
            scalars |= {f"{name}.{i}": number for name, number in numbers.items()}
            arrays[f"scale.{i}"] = metric.scale.copy()
        turn = {"active": float(state.active), "turn": float(state.steps), "left": state.left}
        return scalars | turn, arrays

    def _import(self, scalars: dict[str, float], arrays: dict[str, Array]) -> None:
        from thalweg.solve import _levenberg

        state, stuck = _levenberg.Damping(float(self._arguments["damping"])), None
        reasons = [why for why in _STALLED if f"stuck.{why}" in scalars]
        if reasons:
            stuck = arrays["stuck.theta"].copy(), arrays["stuck.gradient"].copy(), reasons[0]
        if len(scalars) > len(reasons):
            state.active, state.steps = int(scalars["active"]), int(scalars["turn"])
            if state.active not in range(len(state.metrics)):
                raise ValueError(f"active is {state.active}")
            state.left = scalars["left"]
            for i, metric in enumerate(state.metrics):
                metric.damping, metric.growth = scalars[f"damping.{i}"], scalars[f"growth.{i}"]
                metric.gain = scalars[f"gain.{i}"]
                metric.scale = arrays[f"scale.{i}"].astype(np.float64)
        self._damping, self._stuck = state, stuck
