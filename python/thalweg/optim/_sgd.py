"""Stochastic gradient descent."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class SGD(Optimizer):
    r"""Gradient descent with optional momentum.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    momentum : float, default 0
        :math:`\mu` in [0, 1); 0.9 is usual.
    dampening : float, default 0
        :math:`\tau`, any finite number, usually in [0, 1]; with :math:`\tau = \mu` the buffer is
        nearly an average of gradients. With 1, no gradient but the first enters it; with more,
        later ones enter with the wrong sign, and no rate is stable. Without momentum it does
        nothing.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient.
    nesterov : bool, default False
        Whether to use the gradient at the point that momentum is about to reach; needs momentum > 0
        and dampening 0.
    convention : {"torch", "optax", "keras", "textbook", "ema"}, keyword only
        See the notes. As an attribute, it can only be read.

    Raises
    ------
    ArgumentError
        If an option is outside its range, or the convention is not one of these.

    Notes
    -----
    With the gradient :math:`g_t` of step :math:`t = 1, 2, \dots`

    .. math::

        d_t &= g_t + \lambda \theta_{t-1} \\
        b_t &= \mu b_{t-1} + (1 - \tau) d_t, \qquad b_1 = d_1 \\
        \theta_t &= \theta_{t-1} - \eta \begin{cases}
            d_t & \text{if } \mu = 0 \\
            d_t + \mu b_t & \text{with Nesterov} \\
            b_t & \text{else}
        \end{cases}

    - Dampening is skipped in the first step, as in PyTorch. The convention "optax" is the same
      without dampening.
    - :math:`\lambda` adds :math:`\lambda\theta` to the gradient, which corresponds to the penalty
      :math:`\tfrac\lambda2 \lVert\theta\rVert^2`, half of :math:`\lambda\lVert\theta\rVert^2`.
    - The learning rate is outside the buffer. In "textbook" and "keras" it is inside:

      .. math::

          b_t = \mu b_{t-1} - \eta d_t, \qquad \theta_t = \theta_{t-1} + \begin{cases}
              \mu b_t - \eta d_t & \text{with Nesterov} \\
              b_t & \text{else}
          \end{cases}

      which is the same until `lr` changes. In "keras" weight decay is decoupled: it stays out of
      :math:`d_t`, and first :math:`\theta` is multiplied by :math:`1 - \eta\lambda`.
    - In "ema" the buffer is an average, :math:`b_t = \mu b_{t-1} + (1 - \mu) d_t` with
      :math:`b_0 = 0`, so that steps are :math:`1 - \mu` times as long; it has no Nesterov form.

    Along an eigenvector of a quadratic with curvature :math:`h`, it converges while :math:`\eta h`
    is below 2 without momentum, :math:`2(1 + \mu)` with it, :math:`2(1 + \mu)/(1 + 2\mu)` with
    Nesterov, and :math:`2(1 + \mu)/(1 - \mu)` in "ema".

    References
    ----------
    Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; Sutskever et
    al. 2013, "On the importance of initialization and momentum in deep learning" (Nesterov);
    Goodfellow, Bengio & Courville 2016, "Deep learning", algorithms 8.2 and 8.3.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {},
        "optax": {},
        "keras": {},
        "textbook": {},
        "ema": {},
    }

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    convention: str

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        convention: Literal["torch", "optax", "keras", "textbook", "ema"] = "torch",
    ) -> None:
        super().__init__(
            "sgd",
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            convention=convention,
        )
