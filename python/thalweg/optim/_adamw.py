"""AdamW: Adam with decoupled weight decay."""

from thalweg.optim._optimizer import AdamBase


class AdamW(AdamBase):
    r"""Adam whose weight decay shrinks the parameters themselves and stays out of the averages.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    eps : float, default 1e-8
        :math:`\varepsilon \ge 0`, added *after* the square root and bias correction.
    weight_decay : float, default 0.01
        :math:`\lambda \ge 0`; applies to all parameters, biases too, as in PyTorch.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    With the gradient :math:`g_t` of step :math:`t = 1, 2, \dots`

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \eta\lambda)\, \theta_{t-1} -
            \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}

    The decay of a step is :math:`\eta\lambda`, so it follows the learning rate (PyTorch's
    convention; the paper's :math:`\lambda` is not multiplied by :math:`\eta`).

    References
    ----------
    Loshchilov & Hutter 2019, "Decoupled weight decay regularization", arXiv:1711.05101, algorithm
    2.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__("adamw", lr, betas, eps, weight_decay)
