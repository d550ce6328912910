"""Adamax."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class Adamax(Optimizer):
    r"""Adam with the largest recent gradient in place of the root mean square.

    Parameters
    ----------
    lr : float, default 2e-3
        Learning rate :math:`\eta \ge 0`.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    eps : float, optional
        :math:`\varepsilon \ge 0`, added to the absolute gradient. By default 1e-8; 1e-7 in "keras".
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient.
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
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        u_t &= \max(\beta_2 u_{t-1}, |d_t| + \varepsilon) \\
        \theta_t &= \theta_{t-1} - \frac{\eta}{1 - \beta_1^t}\, \frac{m_t}{u_t}

    "optax" is the same. "keras" has :math:`u_t = \max(\beta_2 u_{t-1}, |d_t|)` and divides by
    :math:`u_t + \varepsilon`; its weight decay is decoupled: it stays out of :math:`d_t`, and first
    :math:`\theta` is multiplied by :math:`1 - \eta\lambda`. The paper has no
    :math:`\varepsilon`.

    References
    ----------
    Kingma & Ba 2015, "Adam: a method for stochastic optimization", arXiv:1412.6980, algorithm 2.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"eps": 1e-8},
        "optax": {"eps": 1e-8},
        "keras": {"eps": 1e-7},
    }

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    convention: str

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        convention: Literal["torch", "optax", "keras"] = "torch",
    ) -> None:
        super().__init__(
            "adamax",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            convention=convention,
        )
