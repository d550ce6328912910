"""RMSprop."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class RMSprop(Optimizer):
    r"""Steps divided by the root of a running average of squared gradients.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate :math:`\eta \ge 0`.
    alpha : float, optional
        :math:`\alpha` in [0, 1). By default 0.99; 0.9 in "optax" and "keras".
    eps : float, optional
        :math:`\varepsilon \ge 0`, added *after* the root. By default 1e-8; 1e-7 in "keras".
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient.
    momentum : float, default 0
        :math:`\mu` in [0, 1).
    centered : bool, default False
        Whether to divide by the gradients' standard deviation instead of their root mean square.
    convention : {"torch", "optax", "keras"}, keyword only
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
        v_t &= \alpha v_{t-1} + (1 - \alpha) d_t^2 \\
        m_t &= \alpha m_{t-1} + (1 - \alpha) d_t, \quad
            \hat v_t = v_t - m_t^2 \text{ if centered, else } v_t \\
        b_t &= \mu b_{t-1} + d_t / (\sqrt{\hat v_t} + \varepsilon) \\
        \theta_t &= \theta_{t-1} - \eta b_t

    - "optax" and "keras" divide by :math:`\sqrt{\hat v_t + \varepsilon}` and have the learning
      rate in the buffer, :math:`b_t = \mu b_{t-1} + \eta d_t / \sqrt{\hat v_t + \varepsilon}`,
      which matters when `lr` changes. In "keras" weight decay is decoupled: it stays out of
      :math:`d_t`, and first :math:`\theta` is multiplied by :math:`1 - \eta\lambda`.
    - If rounding makes :math:`v_t - m_t^2` negative, it counts as 0 (PyTorch returns NaN).
      Centered steps are large where gradients hardly change: a larger `eps` limits them.

    References
    ----------
    Tieleman & Hinton 2012, "Neural networks for machine learning", lecture 6.5; Graves 2013,
    "Generating sequences with recurrent neural networks", arXiv:1308.0850 (centered).
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"alpha": 0.99, "eps": 1e-8},
        "optax": {"alpha": 0.9, "eps": 1e-8},
        "keras": {"alpha": 0.9, "eps": 1e-7},
    }

    alpha: float
    eps: float
    weight_decay: float
    momentum: float
    centered: bool
    convention: str

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        convention: Literal["torch", "optax", "keras"] = "torch",
    ) -> None:
        super().__init__(
            "rmsprop",
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            convention=convention,
        )
