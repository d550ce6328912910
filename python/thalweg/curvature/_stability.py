r"""The learning rate from which an optimizer diverges on the local quadratic model of the loss.

Along an eigenvector with eigenvalue :math:`\lambda`, a step with momentum multiplies (error,
previous error) by a 2 × 2 matrix. With :math:`s = \eta\lambda`, the roots of

.. math::

    z^2 - (1 + \beta - s) z + \beta = 0 \quad\text{(heavy ball)}, \qquad
    z^2 - (1 + \beta)(1 - s) z + \beta(1 - s) = 0 \quad\text{(Nesterov)}

lie within the unit circle while :math:`s < 2(1 + \beta)` and
:math:`s < 2(1+\beta)/(1+2\beta)`, respectively, where one passes :math:`-1`. Where steps are
divided by the elements of a diagonal :math:`P`, the same holds for the eigenvalues of
:math:`P^{-1/2} H P^{-1/2}` (Cohen et al. 2022, "Adaptive gradient methods at the edge of
stability", arXiv:2207.14484).

Decoupled decay multiplies the parameters by :math:`1 - e`, with :math:`e = \eta d`, and leaves the
gradient as it is:

.. math::

    z^2 - (1 + \beta - e - s) z + \beta(1 - e) = 0 \quad\text{(heavy ball)}, \qquad
    z^2 - (1 + \beta - e - (1 + \beta) s) z + \beta(1 - e - s) = 0 \quad\text{(Nesterov)}

At :math:`z = -1`, the first is 0 where :math:`s + (1 + \beta) e = 2(1 + \beta)`, the second where
:math:`s + e(1 + \beta)/(1 + 2\beta)` is the threshold: with the threshold :math:`T` without decay,
both where :math:`\eta(\lambda + dT/2) = T`. The product of the roots is above -1 until then, unless
:math:`-\lambda > (1 - \beta) d`, where no rate is stable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks, optim
from thalweg._arrays import Targets
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg.curvature._eigenvalues import top_eigenvalues
from thalweg.curvature._lanczos import Vector
from thalweg.curvature._operator import Operator
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.optim.schedules import Schedule

_KNOWN = (optim.SGD, optim.Adagrad, optim.RMSprop, optim.Adam, optim.AdamW)

#: Within this relative distance of the threshold, a measured sharpness counts as equal to it.
_AT_LIMIT = 1e-5

#: Longer than any fit. A schedule as long as the fit starts at the same rate for every length.
_LONG = 10**8


@dataclass(frozen=True)
class Stability:
    r"""How a learning rate compares with the one from which steps diverge.

    Attributes
    ----------
    lr : float
        :math:`\eta` of the coming step: the schedule's, if there is one, otherwise the optimizer's.
        A schedule without a duration restarts with each fit, and only the fit knows its length: for
        such a schedule, this is its first rate, and, from the end of a fit's first epoch until the
        fit ends, that of the latest step.
    sharpness : float
        :math:`\lambda`, the largest eigenvalue of the Hessian, or of
        :math:`P^{-1/2} H P^{-1/2}` for an optimizer that divides by :math:`P`; including what
        penalty and weight decay add, see `max_stable_lr`.
    threshold : float
        What :math:`\eta\lambda` must stay below.
    overshoot : float
        The :math:`\eta\lambda` from which the error changes its sign; 1 without momentum. With
        decoupled weight decay and momentum, it holds for this rate.
    block : str
        The parameter with the largest part in the eigenvector, such as ``"0.weight"``.
    share : float
        That part, as a share of the eigenvector's squared length.
    step : int
        The number of steps that the optimizer had taken.
    """

    lr: float
    sharpness: float
    threshold: float
    overshoot: float
    block: str
    share: float
    step: int

    @property
    def max_lr(self) -> float:
        """The rate from which steps diverge; infinite where nothing curves upwards."""
        return self.threshold / self.sharpness if self.sharpness > 0 else math.inf

    @property
    def ratio(self) -> float:
        """The rate relative to `max_lr`: above 1, steps diverge."""
        return max(0.0, self.lr * self.sharpness / self.threshold)

    @property
    def verdict(self) -> str:
        """``"converging"``, ``"oscillating"`` (but still converging) or ``"diverging"``.

        Or ``"at the limit"``, where `ratio` is 1 to within 1e-5 and errors neither shrink nor grow.
        This is about the directions in which the loss curves upwards. In others, which networks
        have away from a minimum, steps lead away from a stationary point at every rate. Where
        nothing curves upwards, it is "converging": no rate is too large for the quadratic.
        """
        if math.isclose(self.ratio, 1, rel_tol=_AT_LIMIT):
            return "at the limit"
        if self.ratio > 1:
            return "diverging"
        return "oscillating" if self.lr * self.sharpness > self.overshoot else "converging"

    def __str__(self) -> str:
        if self.sharpness <= 0:
            return (
                f"step {self.step}: nothing curves upwards here, as the largest eigenvalue is "
                f"{self.sharpness:.4g}: the quadratic limits no learning rate, lr={self.lr:.4g} "
                "included, and tells nothing about a good one"
            )
        text = (
            f"step {self.step}: lr * sharpness = {self.lr:.4g} * {self.sharpness:.4g} = "
            f"{self.lr * self.sharpness:.4g}, {{}}; the largest part of the sharpest direction is "
            f"in {self.block} ({self.share:.0%}); steps diverge from lr={self.max_lr:.4g} on, and "
            f"{self.max_lr / 2:.2g} is safe while the curvature stays as it is"
        )
        return text.format(
            {
                "diverging": f"beyond {self.threshold:.4g}: on a quadratic, steps diverge",
                "at the limit": f"at the limit {self.threshold:.4g}: on a quadratic, errors "
                "neither shrink nor grow",
                "oscillating": f"below {self.threshold:.4g}, above {self.overshoot:.4g}: errors "
                # With momentum, a change of sign takes several steps.
                + (
                    "change sign"
                    if math.isclose(self.threshold, 2 * self.overshoot)
                    else "swing through 0"
                )
                + ", and shrink, along this direction",
                "converging": f"below {self.threshold:.4g}: errors shrink along this direction",
            }[self.verdict]
        )


@takes("curvature.max_stable_lr", {})
def max_stable_lr(
    trainer: Trainer,
    x: npt.ArrayLike,
    y: Targets,
    sample_weight: npt.ArrayLike | None = None,
    *,
    tol: float = 1e-6,
) -> Stability:
    r"""Measure the learning rate from which a trainer's steps diverge.

    Parameters
    ----------
    trainer : Trainer
        Its model, loss, optimizer, schedule and penalty are used as they are; nothing is changed.
    x, y, sample_weight : array_like
        The batch, as in `Trainer.fit`. The rate holds for this batch, which may differ from the
        whole data set if it is small.
    tol : float, keyword only, default 1e-6
        Relative error of the sharpness.

    Returns
    -------
    Stability
        ``.max_lr`` is the rate; ``print`` it for an explanation.

    Raises
    ------
    ArgumentError
        If an optimizer that divides by an average of squared gradients has none yet, or `tol` is
        out of range.
    UnsupportedError
        For optimizers other than those in the table, groups of parameters, and penalties that
        couple parameters, as that of `continual.OnlineLaplace`.
    ShapeError, DataError, DtypeError
        If the arrays do not fit.

    Notes
    -----
    With the largest eigenvalue :math:`\lambda` of the Hessian :math:`H`, and momentum
    :math:`\beta`, steps on a quadratic diverge once :math:`\eta\lambda` reaches

    ====================================== ==========================================
    `optim.SGD`                            2
    with momentum (heavy ball)             :math:`2(1 + \beta)`, over 1 − dampening
    with Nesterov's                        :math:`2(1 + \beta)/(1 + 2\beta)`
    with ``convention="ema"``              :math:`2(1 + \beta)/(1 - \beta)`
    `optim.RMSprop`, `optim.Adagrad`       as `optim.SGD`, with :math:`P`
    `optim.Adam`, `optim.AdamW`            :math:`2(1 + \beta_1)/(1 - \beta_1)`, with :math:`P`
    ====================================== ==========================================

    where "with :math:`P`", the diagonal that steps are divided by, :math:`\lambda` is that of
    :math:`P^{-1/2} H P^{-1/2}`; for Adam, :math:`P = (1 - \beta_1^t)(\sqrt{\hat v} + \varepsilon)`.
    A penalty set by `Trainer.set_penalty` adds the diagonal :math:`sA` to :math:`H`, and weight
    decay that is added to the gradient adds :math:`d`. Decoupled decay, :math:`\theta \leftarrow
    (1 - \eta d)\theta`, lowers the rate from which steps diverge exactly as
    :math:`\lambda + dT/2` in place of :math:`\lambda` would, with the threshold :math:`T` of the
    table: without momentum, that is :math:`\lambda + d`. Gradient clipping is not taken into
    account.

    This is a theorem for quadratics. Networks trained on all data at once continue beyond it for
    long: the sharpness grows until :math:`\eta\lambda` is at the threshold and stays there (Cohen
    et al. 2021, "Gradient descent on neural networks typically occurs at the edge of stability",
    arXiv:2103.00065). Below the threshold, steps may oscillate, but converge wherever the loss
    curves upwards.

    It also holds only for the current weights. Networks often start in a flat region, and some tens
    of steps later are ten times as curved: before the first step, even half of the rate may be too
    large for what follows. ``fit(lr="auto")`` tries it out.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.3))
    >>> found = tw.curvature.max_stable_lr(trainer, [[2.0]], [0.0])  # (2 w)^2, whose H is 8
    >>> round(found.max_lr, 6), found.verdict
    (0.25, 'diverging')
    """
    if not isinstance(trainer, Trainer):
        raise ArgumentError(f"trainer must be a Trainer; got {_checks.given(trainer)}")
    tol = _checks.real("tol", tol, 0, 1, "()")
    added = check_known(trainer)
    optimizer, lr = trainer.optimizer, _coming_lr(trainer)
    decay = float(optimizer._options.get("weight_decay", 0.0))
    if not (apart := _decoupled(optimizer)):
        added = added + decay
    threshold, overshoot, divisor = _limits(optimizer, lr * decay if apart else 0.0)
    model = trainer.model
    operator = Operator(model, x, y, loss=trainer.loss, sample_weight=sample_weight)
    scale = np.ones(model.num_parameters) if divisor is None else 1 / np.sqrt(divisor)

    def matvec(v: Vector) -> Vector:
        v = scale * v
        product: Vector = scale * (operator.matvec(v) + added * v)
        return product

    # The products have the rounding errors of the model's dtype.
    tol = max(tol, 10 * float(np.finfo(model.dtype).eps))
    found = top_eigenvalues(matvec, size=model.num_parameters, tol=tol)
    parts = model.unflatten(found.vectors[:, 0])
    shares = {name: float(np.vdot(part, part)) for name, part in parts.items()}
    block = max(shares, key=lambda name: shares[name])
    sharpness = float(found.values[0]) + (decay * threshold / 2 if apart else 0.0)
    return Stability(
        lr, sharpness, threshold, overshoot, block, shares[block], optimizer.steps
    )  # fmt: skip


def _coming_lr(trainer: Trainer) -> float:
    """Return the learning rate of the coming step, as far as it is known; see `Stability.lr`."""
    schedule, lr = trainer.schedule, trainer.optimizer.lr
    if not isinstance(schedule, Schedule):
        return lr
    if schedule.is_open:  # it restarts with each fit, and only the fit knows its length
        if trainer._fitting and trainer.history.epochs > 0:
            return lr
        return schedule.lr(0, base=trainer._base_lr, total=_LONG)
    time = trainer._epochs if schedule.per == "epoch" else trainer.optimizer.steps
    try:
        return schedule.lr(time, base=trainer._base_lr)
    except Exception:  # a user's function may not be defined beyond the fit
        return lr


def _decoupled(optimizer: optim.Optimizer) -> bool:
    options = optimizer._options
    return (
        isinstance(optimizer, optim.AdamW)
        or bool(options.get("decoupled_weight_decay", False))
        or options.get("convention") == "keras"
    )


def check_known(trainer: Trainer) -> Vector:
    """Check that a trainer is supported; return what its penalty adds to the Hessian's diagonal.

    Raises
    ------
    UnsupportedError
        If the threshold of its optimizer, or derivatives of its penalty, are not known.
    """
    optimizer = trainer.optimizer
    if not isinstance(optimizer, _KNOWN):
        raise UnsupportedError(
            f"the stability threshold of {type(optimizer).__name__} is not known; those of SGD, "
            "Adagrad, RMSprop, Adam and AdamW are"
        )
    if optimizer._groups:
        raise UnsupportedError(
            "the optimizer has groups of parameters, which may differ in learning rate, so that "
            "there is no single rate to find"
        )
    return _of_penalty(trainer)


def _of_penalty(trainer: Trainer) -> Vector:
    """Return the second derivatives of the trainer's penalty, none of which are mixed."""
    core = trainer._updating()
    assert core is not None  # others have losses or optimizers refused above
    if core.has_coupled_penalty():
        raise UnsupportedError(
            "the trainer has a penalty of parameters that depend on each other, which "
            "continual.OnlineLaplace sets: its curvature is not supported; that of "
            "Trainer.set_penalty is"
        )
    penalty = core.penalty()
    if penalty is None:
        return np.zeros(trainer.model.num_parameters)
    importance, _, strength = penalty
    return strength * np.asarray(importance, np.float64)


def _limits(optimizer: Any, fade: float) -> tuple[float, float, Vector | None]:
    """Return the products of rate and sharpness at which steps diverge and overshoot, and P.

    `fade` is the share by which decoupled decay shrinks the parameters in a step.
    """
    options: dict[str, Any] = optimizer._options
    if isinstance(optimizer, optim.SGD):
        beta = options["momentum"]
        if options["nesterov"]:
            return *_products(beta, fade, nesterov=True), None
        part = 1 - beta if options["convention"] == "ema" else 1 - options["dampening"]
        threshold, overshoot = _products(beta, fade)
        if beta == 0:
            part = 1.0
        if part <= 0:
            dampening = options["dampening"]
            raise UnsupportedError(
                "SGD with momentum and dampening=1 uses no gradient but the first: there is no "
                "learning rate from which its steps diverge"
                if part == 0
                else f"SGD with momentum and dampening={dampening:g}, above 1, adds gradients with "
                "the wrong sign: no rate is stable; use a dampening in [0, 1)"
            )
        return threshold / part, overshoot / part, None
    if isinstance(optimizer, (optim.Adam, optim.AdamW)):
        beta = options["beta1"]
        threshold, overshoot = _products(beta, fade)
        return threshold / (1 - beta), overshoot / (1 - beta), _divisor_of_adam(optimizer)
    if isinstance(optimizer, optim.RMSprop):
        beta = options["momentum"]
        arrays, eps = _state(optimizer), options["eps"]
        v = arrays["square_avg"]
        if options["centered"]:
            v = np.maximum(v - arrays["grad_avg"] ** 2, 0)
        inside = options["convention"] != "torch"
        divisor = np.sqrt(v + eps) if inside else np.sqrt(v) + eps
        return *_products(beta, fade), _positive(divisor)
    eps, v = options["eps"], _state(optimizer)["sum"]  # Adagrad
    inside = options["convention"] != "torch"
    slowed = 1 + optimizer.steps * options["lr_decay"]
    return 2.0 * slowed, slowed, _positive(np.sqrt(v + eps) if inside else np.sqrt(v) + eps)


def _products(beta: float, e: float, nesterov: bool = False) -> tuple[float, float]:
    """Return the products at which steps with momentum diverge and overshoot, with decay e.

    The roots of the polynomials above become complex where (1 + β - e - k s)² = 4β(1 - e - j s),
    with k the factor of s in the middle term and j that in the last.
    """
    k, j = (1 + beta, 1) if nesterov else (1.0, 0)
    threshold = 2 * (1 + beta) / (1 + 2 * beta * j)
    a = 1 + beta - e
    b = a * k - 2 * beta * j
    under = b * b - k * k * (a * a - 4 * beta * (1 - e))
    # With so much decay that all roots are real, the larger is negative once their sum is.
    s = (b - math.sqrt(under)) / k**2 if under >= 0 else a / k
    return threshold, s + e * threshold / 2


def _divisor_of_adam(optimizer: optim.Optimizer) -> Vector:
    arrays, options, t = _state(optimizer), optimizer._options, optimizer.steps
    convention, amsgrad, eps = (
        options["convention"],
        bool(options["amsgrad"]),
        float(options["eps"]),
    )
    first, second = (1 - float(options[name]) ** t for name in ("beta1", "beta2"))
    v = arrays["max_exp_avg_sq"] if amsgrad else arrays["exp_avg_sq"]
    if convention == "textbook" and amsgrad:
        return _positive(np.sqrt(v) + eps)
    if convention == "keras":
        return _positive(first * (np.sqrt(v) + eps) / math.sqrt(second))
    corrected = v if convention == "optax" and amsgrad else v / second
    return _positive(first * (np.sqrt(corrected) + eps))


def _state(optimizer: optim.Optimizer) -> dict[str, Vector]:
    arrays = optimizer.state_dict()["arrays"]
    if not arrays or optimizer.steps == 0:  # in a copy they exist, but are zero
        raise ArgumentError(
            f"{type(optimizer).__name__} divides its steps by an average of squared gradients, and "
            "has none before its first step. Train some steps first, if need be with a copy, "
            "trial = trainer.copy(); or use thalweg.find_lr without sharpness=True, which needs "
            "none"
        )
    return {name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()}


def _positive(divisor: Vector) -> Vector:
    if not (divisor > 0).all():
        raise ArgumentError(
            "the optimizer divides by 0: some gradients have always been 0, and its eps is 0; use "
            "an eps above 0"
        )
    return divisor
