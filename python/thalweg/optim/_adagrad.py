"""Adagrad."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class Adagrad(Optimizer):
    r"""Steps divided by the root of the sum of all squared gradients so far.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate :math:`\eta \ge 0`.
    lr_decay : float, default 0
        :math:`\delta \ge 0`: the rate of step t is divided by :math:`1 + (t - 1)\delta`.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient.
    initial_accumulator_value : float, optional
        :math:`a_0 \ge 0`. By default 0; 0.1 in "optax" and "keras".
    eps : float, optional
        :math:`\varepsilon \ge 0`, added *after* the root. By default 1e-10; 1e-7 in "optax" and
        "keras".
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
        a_t &= a_{t-1} + d_t^2 \\
        \theta_t &= \theta_{t-1} -
            \frac{\eta}{1 + (t - 1)\delta}\, \frac{d_t}{\sqrt{a_t} + \varepsilon}

    - "optax" and "keras" add :math:`\varepsilon` before the root, :math:`\sqrt{a_t + \varepsilon}`.
      In "keras" weight decay is decoupled: it stays out of :math:`d_t`, and first :math:`\theta` is
      multiplied by :math:`1 - \eta\lambda`.
    - Steps decrease as :math:`\eta/\sqrt t` while gradients stay the same; T of them cover
      :math:`2\eta\sqrt T - 1.46\eta`.

    References
    ----------
    Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"initial_accumulator_value": 0.0, "eps": 1e-10},
        "optax": {"initial_accumulator_value": 0.1, "eps": 1e-7},
        "keras": {"initial_accumulator_value": 0.1, "eps": 1e-7},
    }

    lr_decay: float
    weight_decay: float
    initial_accumulator_value: float
    eps: float
    convention: str

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float | None = None,
        eps: float | None = None,
        *,
        convention: Literal["torch", "optax", "keras"] = "torch",
    ) -> None:
        super().__init__(
            "adagrad",
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            convention=convention,
        )
