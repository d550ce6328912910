"""AdamW: Adam with decoupled weight decay."""

from typing import ClassVar, Literal

from thalweg.optim._adam import Adam
from thalweg.optim._optimizer import Conventions


class AdamW(Adam):
    r"""Adam with weight decay that acts on the parameters directly, outside the averages.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    eps : float, optional
        :math:`\varepsilon \ge 0`, added *after* the square root and bias correction. By default
        1e-8; 1e-7 in "keras".
    weight_decay : float, optional
        :math:`\lambda \ge 0`; applies to all parameters, biases too, as in PyTorch. By default
        0.01; 1e-4 in "optax", 0.004 in "keras".
    amsgrad : bool, default False
        Whether to divide by the largest average so far; see `Adam`.
    convention : {"torch", "optax", "keras"}, keyword only
        They differ as they do in `Adam`. As an attribute, it can only be read.

    Raises
    ------
    ArgumentError
        If an option is outside its range, or the convention is not one of these.

    Notes
    -----
    With the gradient :math:`g_t` of step :math:`t = 1, 2, \dots`

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
            u_t = \max(u_{t-1}, v_t) \text{ with AMSGrad, else } v_t \\
        \theta_t &= (1 - \eta\lambda)\, \theta_{t-1} -
            \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{u_t / (1 - \beta_2^t)} + \varepsilon}

    The decay per step is :math:`\eta\lambda`, so it follows the learning rate (as in PyTorch, Optax
    and Keras; in the paper, :math:`\lambda` is not multiplied by :math:`\eta`).

    References
    ----------
    Loshchilov & Hutter 2019, "Decoupled weight decay regularization", arXiv:1711.05101, algorithm
    2.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"eps": 1e-8, "weight_decay": 0.01},
        "optax": {"eps": 1e-8, "weight_decay": 1e-4},
        "keras": {"eps": 1e-7, "weight_decay": 0.004},
    }

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        *,
        convention: Literal["torch", "optax", "keras"] = "torch",
    ) -> None:
        super().__init__(
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            decoupled_weight_decay=True,
            convention=convention,
        )
        del self._arguments["decoupled_weight_decay"]  # not an argument here

    @property
    def decoupled_weight_decay(self) -> bool:  # type: ignore[override]
        """True, and can only be read: that is what distinguishes it from `Adam`."""
        return True
