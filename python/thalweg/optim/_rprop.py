"""Rprop: resilient backpropagation."""

from thalweg.optim._optimizer import Optimizer


class Rprop(Optimizer):
    r"""A separate step size for each parameter, which grows while its gradient keeps its sign.

    It uses only signs, so it is for full batches: the noise of small batches flips signs.

    Parameters
    ----------
    lr : float, default 1e-2
        The initial step size, :math:`s_0 = \eta \ge 0`; without effect later.
    etas : tuple of two floats, default (0.5, 1.2)
        :math:`\eta_-` in (0, 1) and :math:`\eta_+ > 1`.
    step_sizes : tuple of two floats, default (1e-6, 50)
        The smallest and the largest step.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    With the gradient :math:`g_t` of step :math:`t = 1, 2, \dots`

    .. math::

        c_t &= \operatorname{sign}(g_t h_{t-1}), \qquad h_0 = 0 \\
        s_t &= \text{clamp}\bigl(s_{t-1} \cdot \{\eta_-, 1, \eta_+\}
            \text{ for } c_t = -1, 0, 1\bigr) \\
        h_t &= 0 \text{ if } c_t < 0, \text{ else } g_t \\
        \theta_t &= \theta_{t-1} - s_t \operatorname{sign}(h_t)

    This is PyTorch's convention. (Optax steps along the update of the step before.)

    References
    ----------
    Riedmiller & Braun 1993, "A direct adaptive method for faster backpropagation learning: the
    RPROP algorithm"; Igel & Hüsken 2000, "Improving the Rprop learning algorithm" (iRprop−).
    """

    etas: tuple[float, float]
    step_sizes: tuple[float, float]

    def __init__(
        self,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
    ) -> None:
        super().__init__("rprop", lr=lr, etas=etas, step_sizes=step_sizes)
