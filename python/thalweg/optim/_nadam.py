"""NAdam: Adam with Nesterov's momentum."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class NAdam(Optimizer):
    r"""Adam with Nesterov momentum: steps along the gradient average of the step to come.

    Parameters
    ----------
    lr : float, default 2e-3
        Learning rate :math:`\eta \ge 0`.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    eps : float, optional
        :math:`\varepsilon \ge 0`, added *after* the square root and bias correction. By default
        1e-8; 1e-7 in "keras".
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient.
    momentum_decay : float, optional
        :math:`\psi \ge 0`. By default 4e-3; 1 in "keras"; in "optax" 0, the only value allowed.
    decoupled_weight_decay : bool, default False
        Whether to multiply :math:`\theta` by :math:`1 - \eta\lambda` instead, as `AdamW` does.
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

        \mu_t &= \beta_1 \bigl(1 - \tfrac12 \, 0.96^{t\psi}\bigr), \quad
            \Pi_t = \mu_1 \cdots \mu_t \\
        d_t &= g_t + \lambda \theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 \\
        \theta_t &= \theta_{t-1} - \eta\,
            \frac{\mu_{t+1} m_t / (1 - \Pi_{t+1}) + (1 - \mu_t) d_t / (1 - \Pi_t)}
            {\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}

    - In "optax" there is no schedule: :math:`\mu_t = \beta_1`.
    - "keras" has the schedule with :math:`\psi = 1`, and its weight decay is always decoupled.
    - :math:`\Pi_t` is part of the state; PyTorch keeps it in its default dtype.

    With decoupled weight decay this is NAdamW.

    References
    ----------
    Dozat 2016, "Incorporating Nesterov momentum into Adam", ICLR workshop.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"eps": 1e-8, "momentum_decay": 4e-3},
        "optax": {"eps": 1e-8, "momentum_decay": 0.0},
        "keras": {"eps": 1e-7, "momentum_decay": 1.0},
    }

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    momentum_decay: float
    decoupled_weight_decay: bool
    convention: str

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        momentum_decay: float | None = None,
        decoupled_weight_decay: bool = False,
        *,
        convention: Literal["torch", "optax", "keras"] = "torch",
    ) -> None:
        super().__init__(
            "nadam",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            convention=convention,
        )
