"""Adadelta."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class Adadelta(Optimizer):
    r"""Steps scaled to the size of earlier steps, relative to averages of squared gradients.

    Parameters
    ----------
    lr : float, default 1.0
        Learning rate :math:`\eta \ge 0`; the paper has none.
    rho : float, optional
        :math:`\rho` in [0, 1). By default 0.9; 0.95 in "keras".
    eps : float, optional
        :math:`\varepsilon \ge 0`, added under both roots; with 0 nothing ever moves. By default
        1e-6; 1e-7 in "keras".
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
        v_t &= \rho v_{t-1} + (1 - \rho) d_t^2 \\
        \Delta_t &= \frac{\sqrt{u_{t-1} + \varepsilon}}{\sqrt{v_t + \varepsilon}}\, d_t \\
        u_t &= \rho u_{t-1} + (1 - \rho) \Delta_t^2 \\
        \theta_t &= \theta_{t-1} - \eta \Delta_t

    "optax" is the same. In "keras" weight decay is decoupled: it stays out of :math:`d_t`, and
    first :math:`\theta` is multiplied by :math:`1 - \eta\lambda`.

    References
    ----------
    Zeiler 2012, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701, algorithm 1.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"rho": 0.9, "eps": 1e-6},
        "optax": {"rho": 0.9, "eps": 1e-6},
        "keras": {"rho": 0.95, "eps": 1e-7},
    }

    rho: float
    eps: float
    weight_decay: float
    convention: str

    def __init__(
        self,
        lr: float = 1.0,
        rho: float | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        convention: Literal["torch", "optax", "keras"] = "torch",
    ) -> None:
        super().__init__(
            "adadelta", lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, convention=convention
        )
