"""RAdam: rectified Adam."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class RAdam(Optimizer):
    r"""Adam with a built-in warm-up: it uses the mean square once enough gradients are averaged.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    eps : float, default 1e-8
        :math:`\varepsilon \ge 0`, added after the square root and *before* the bias correction.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient.
    decoupled_weight_decay : bool, default False
        Whether to multiply :math:`\theta` by :math:`1 - \eta\lambda` instead, as `AdamW` does.
    convention : {"torch", "optax"}, keyword only
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
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 \\
        \rho_t &= \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t), \quad
            \rho_\infty = 2 / (1 - \beta_2) - 1 \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
            {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \\
        \theta_t &= \theta_{t-1} - \eta\, \frac{m_t}{1 - \beta_1^t} \begin{cases}
            r_t \sqrt{1 - \beta_2^t} / (\sqrt{v_t} + \varepsilon) & \text{if } \rho_t > 5 \\
            1 & \text{else}
        \end{cases}

    "optax" adds :math:`\varepsilon` after the bias correction,
    :math:`r_t / (\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon)`. The paper has no
    :math:`\varepsilon`, and 4 in place of 5.

    References
    ----------
    Liu et al. 2020, "On the variance of the adaptive learning rate and beyond", arXiv:1908.03265,
    algorithm 2.
    """

    _conventions: ClassVar[Conventions] = {"torch": {}, "optax": {}}

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled_weight_decay: bool
    convention: str

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        convention: Literal["torch", "optax"] = "torch",
    ) -> None:
        super().__init__(
            "radam",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            convention=convention,
        )
