"""LAMB."""

from thalweg.optim._optimizer import Optimizer


class LAMB(Optimizer):
    r"""Adam's direction, with steps proportional to each block's norm: for large batches.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`: about the relative change of a block in one step.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    eps : float, default 1e-6
        :math:`\varepsilon \ge 0`, added *after* the square root and bias correction.
    weight_decay : float, default 0.01
        :math:`\lambda \ge 0`; it is part of the direction before its length is set. (Optax' default
        is 0.)

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    With the gradient :math:`g_t` of step :math:`t = 1, 2, \dots`, for each weight and each bias
    separately

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}
            + \lambda \theta_{t-1} \\
        \theta_t &= \theta_{t-1} -
            \eta\, \frac{\lVert \theta_{t-1} \rVert}{\lVert u_t \rVert}\, u_t

    The ratio of the norms is taken as 1 where one of them is 0, so that a block of zeros can start
    to move. Optax computes the same; Keras' `Lamb` keeps weight decay out of the direction.

    The norms take a pass of their own, so the update is not fused with the gradient.

    References
    ----------
    You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes",
    arXiv:1904.00962, algorithm 2 with the identity as :math:`\phi`.
    """

    betas: tuple[float, float]
    eps: float
    weight_decay: float

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__("lamb", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
