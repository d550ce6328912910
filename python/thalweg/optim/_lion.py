"""Lion."""

from thalweg.optim._optimizer import Optimizer


class Lion(Optimizer):
    r"""Steps of constant size along the sign of an average of gradients.

    Parameters
    ----------
    lr : float, default 1e-4
        Learning rate :math:`\eta \ge 0`; a third to a tenth of Adam's is usual.
    betas : tuple of two floats, default (0.9, 0.99)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled: multiplies :math:`\theta` by :math:`1 - \eta\lambda`.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    With the gradient :math:`g_t` of step :math:`t = 1, 2, \dots`

    .. math::

        \theta_t &= (1 - \eta\lambda)\, \theta_{t-1} -
            \eta \operatorname{sign}\bigl(\beta_1 m_{t-1} + (1 - \beta_1) g_t\bigr) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    The sign of 0 is 0. PyTorch has no Lion; Optax and Keras compute the same, with
    :math:`\lambda` = 1e-3 by default in Optax.

    References
    ----------
    Chen et al. 2023, "Symbolic discovery of optimization algorithms", arXiv:2302.06675, algorithm
    2.
    """

    betas: tuple[float, float]
    weight_decay: float

    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__("lion", lr=lr, betas=betas, weight_decay=weight_decay)
