"""Prodigy."""

from thalweg.optim._optimizer import Optimizer


class Prodigy(Optimizer):
    r"""AdamW that finds its learning rate, from an estimate of the distance to the solution.

    Parameters
    ----------
    lr : float, default 1
        Factor :math:`\gamma \ge 0` of the rate it finds. Keep the default, and let a schedule lower
        it to 0.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    beta3 : float, optional
        :math:`\beta_3` in [0, 1), for the estimate; by default :math:`\sqrt{\beta_2}`.
    eps : float, default 1e-8
        :math:`\varepsilon \ge 0`
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled.
    d0 : float, keyword only, default 1e-6
        The initial estimate :math:`d_0`, above 0, far below the true distance.
    d_coef : float, keyword only, default 1
        Factor :math:`c > 0` of the estimates: the option to tune, from 0.5 to 2.
    use_bias_correction : bool, keyword only, default False
        Whether to apply Adam's bias correction to the rate, as Optax always does.
    safeguard_warmup : bool, keyword only, default False
        Whether to leave the learning rate out of :math:`s`, which prevents a long warm-up from
        making the estimates too large.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    With the gradient :math:`g` of step :math:`t` and
    :math:`a = d\gamma` (times :math:`\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)` with bias correction)

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1)\, d g, \qquad
            v \leftarrow \beta_2 v + (1 - \beta_2)\, d^2 g^2 \\
        s &\leftarrow \beta_3 s + \tfrac{d}{d_0} a g, \qquad
            r \leftarrow \beta_3 r + \tfrac{d}{d_0} a \langle g, \theta_0 - \theta \rangle \\
        d' &= \max(d,\; c\, r / \lVert s \rVert_1) \\
        \theta &\leftarrow \theta - a \left(\frac{m}{\sqrt v + d' \varepsilon}
            + \lambda \theta\right), \qquad d \leftarrow d'

    where sums are over all parameters that are not frozen. The estimate is
    ``state_dict()["scalars"]["d"]``. Instead of :math:`\theta_0`, the state holds its difference to
    :math:`\theta`, ``"p0_minus_p"``.

    References
    ----------
    Mishchenko & Defazio 2024, "Prodigy: an expeditiously adaptive parameter-free learner",
    arXiv:2306.06101, and the authors' code ``prodigyopt``, whose names these are.
    """

    betas: tuple[float, float]
    beta3: float | None
    eps: float
    weight_decay: float
    d0: float
    d_coef: float
    use_bias_correction: bool
    safeguard_warmup: bool

    def __init__(
        self,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
    ) -> None:
        super().__init__(
            "prodigy",
            lr=lr,
            betas=betas,
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            d0=d0,
            d_coef=d_coef,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
        )
