"""Adam."""

from typing import ClassVar, Literal

from thalweg.optim._optimizer import Conventions, Optimizer


class Adam(Optimizer):
    r"""Steps scaled by running averages of the gradient and of its square.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1, \beta_2`, each in [0, 1).
    eps : float, optional
        :math:`\varepsilon \ge 0`, added *after* the square root and bias correction. By default
        1e-8; 1e-7 in "keras".
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient; usually you want `AdamW` instead.
    amsgrad : bool, default False
        Whether to divide by the largest average so far. In "optax" and "textbook" denominators then
        never decrease; in the others they may in the first steps, since the correction comes last.
    decoupled_weight_decay : bool, keyword only, default False
        Whether to multiply :math:`\theta` by :math:`1 - \eta\lambda` instead, as `AdamW` does.
    convention : {"torch", "optax", "keras", "textbook"}, keyword only
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
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) d_t^2, \quad
            u_t = \max(u_{t-1}, v_t) \text{ with AMSGrad, else } v_t \\
        \theta_t &= \theta_{t-1} -
            \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{u_t / (1 - \beta_2^t)} + \varepsilon}

    - "keras" adds :math:`\varepsilon` before the bias correction (the paper's
      :math:`\hat\varepsilon`): the step is :math:`\eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)
      \cdot m_t / (\sqrt{u_t} + \varepsilon)`. Weight decay is always decoupled.
    - "optax" differs with AMSGrad: the maximum is that of the corrected
      :math:`v_t / (1 - \beta_2^t)`.
    - "textbook" differs with AMSGrad: as in its paper, nothing is corrected, and the step is
      :math:`\eta\, m_t / (\sqrt{u_t} + \varepsilon)`.

    References
    ----------
    Kingma & Ba 2015, "Adam: a method for stochastic optimization", arXiv:1412.6980, algorithm 1;
    Reddi, Kale & Kumar 2018, "On the convergence of Adam and beyond", arXiv:1904.09237, algorithm
    2.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"eps": 1e-8},
        "optax": {"eps": 1e-8},
        "keras": {"eps": 1e-7},
        "textbook": {"eps": 1e-8},
    }

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool
    decoupled_weight_decay: bool
    convention: str

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float | None = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        convention: Literal["torch", "optax", "keras", "textbook"] = "torch",
    ) -> None:
        super().__init__(
            "adam",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            convention=convention,
        )
