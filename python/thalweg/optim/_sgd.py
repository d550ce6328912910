"""Stochastic gradient descent."""

from thalweg import _checks
from thalweg.errors import ArgumentError
from thalweg.optim._optimizer import Optimizer, learning_rate


class SGD(Optimizer):
    r"""Gradient descent with optional momentum, in PyTorch's convention.

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta \ge 0`.
    momentum : float, default 0
        :math:`\mu \ge 0`; 0.9 is usual.
    dampening : float, default 0
        :math:`\tau`; with :math:`\tau = \mu` the buffer is an average of gradients.
    nesterov : bool, default False
        Steps along the gradient at the point that momentum is about to reach; needs momentum > 0
        and dampening 0.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the gradient.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    With the gradient :math:`g_t` of step :math:`t = 1, 2, \dots`

    .. math::

        d_t &= g_t + \lambda \theta_{t-1} \\
        b_t &= \mu b_{t-1} + (1 - \tau) d_t, \qquad b_1 = d_1 \\
        \theta_t &= \theta_{t-1} - \eta \begin{cases}
            d_t & \text{if } \mu = 0 \\
            d_t + \mu b_t & \text{with Nesterov} \\
            b_t & \text{else}
        \end{cases}

    - Dampening is skipped in the first step, as in PyTorch.
    - :math:`\lambda` adds :math:`\lambda\theta` to the gradient: that of
      :math:`\tfrac\lambda2 \lVert\theta\rVert^2`, and of half of
      :math:`\lambda\lVert\theta\rVert^2`.
    - The learning rate stands outside the buffer: when `lr` changes during training this differs
      from :math:`v \leftarrow \mu v + \eta g`, the form of Keras.

    References
    ----------
    Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; Sutskever et
    al. 2013, "On the importance of initialization and momentum in deep learning" (Nesterov).
    """

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        options: dict[str, float | bool] = {
            "lr": learning_rate(lr),
            "momentum": _checks.real("momentum", momentum, 0),
            "dampening": _checks.real("dampening", dampening),
            "nesterov": _checks.flag("nesterov", nesterov),
            "weight_decay": _checks.real("weight_decay", weight_decay, 0),
        }
        if options["nesterov"] and not (options["momentum"] > 0 and options["dampening"] == 0):
            raise ArgumentError(
                "nesterov=True needs momentum > 0 and dampening = 0; "
                f"got momentum={momentum!r}, dampening={dampening!r}"
            )
        super().__init__("sgd", options)
