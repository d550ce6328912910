"""Losses on numbers: how far the outputs are from the targets."""

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, ClassVar

from thalweg import _checks
from thalweg._description import description
from thalweg.nn._losses._base import CoreLoss, Reduction, floats


@description
class MSELoss(CoreLoss):
    r"""Mean squared error over *all* elements, as in PyTorch.

    .. math:: L = \frac{1}{n\,k} \sum_{i=1}^{n} \sum_{j=1}^{k} (y_{ij} - t_{ij})^2

    The output `y` and the target `t` both have shape (n, k). A target of shape (n,) is treated as
    (n, 1) if the model has one output, and is an error otherwise; nothing is broadcast. Note the
    factor: there is no 1/2, and the sum over the `k` outputs is divided by `k` too.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division; ``"none"`` gives one number per sample, and is only
        for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If `reduction` is another value.
    """

    _: KW_ONLY
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "mse"
    _outputs = "predictions"


@description
class L1Loss(CoreLoss):
    r"""Mean absolute error over all elements, as in PyTorch.

    .. math:: L = \frac{1}{n\,k} \sum_{i=1}^{n} \sum_{j=1}^{k} |y_{ij} - t_{ij}|

    Shapes are as for `MSELoss`. The gradient is 0 where the two are equal.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division; ``"none"`` gives one number per sample, and is only
        for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If `reduction` is another value.
    """

    _: KW_ONLY
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "l1"
    _outputs = "predictions"


@description
class HuberLoss(CoreLoss):
    r"""Squares of small errors, absolute values of large ones, as in PyTorch.

    .. math:: L = \frac{1}{n\,k} \sum_{i,j} \begin{cases}
              \frac12 d_{ij}^2 & |d_{ij}| \le \delta \\
              \delta\,(|d_{ij}| - \frac12 \delta) & \text{else} \end{cases},
              \qquad d_{ij} = y_{ij} - t_{ij}

    Shapes are as for `MSELoss`. PyTorch's ``SmoothL1Loss(beta=b)`` is ``HuberLoss(delta=b)``
    divided by `b`; by default, with 1 in both, the two are the same.

    Parameters
    ----------
    delta : float, keyword only, default 1.0
        The error at which the square ends, above 0.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division; ``"none"`` gives one number per sample, and is only
        for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If `delta` or `reduction` is out of range.

    References
    ----------
    Huber 1964, "Robust estimation of a location parameter", Ann. Math. Statist. 35.
    """

    _: KW_ONLY
    delta: float = 1.0
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "huber"
    _outputs = "predictions"
    _arguments_elsewhere: ClassVar[Mapping[str, str]] = {
        "beta": "SmoothL1Loss(beta=b) is HuberLoss(delta=b) divided by b"
    }

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(delta=_checks.real("delta", self.delta, 0, closed="()"))

    def _numbers(self) -> tuple[float, ...]:
        return (self.delta,)


@description
class QuantileLoss(CoreLoss):
    r"""Pinball loss, which is minimized by a quantile of the target, or by several.

    .. math:: L = \frac{1}{n\,m\,k} \sum_{i,q,j} \max\bigl(q\,u_{iqj}, (q - 1)\,u_{iqj}\bigr),
              \qquad u_{iqj} = t_{ij} - y_{iqj}

    The target `t` has shape (n, k), or (n,) if k is 1. For `m` quantiles, the output has shape (n,
    m k): the first k columns are the first quantile of each target, the next k the second, and so
    on. Nothing prevents quantiles from crossing. With ``quantiles=0.5`` it is half of `L1Loss`.

    With one quantile, it is scikit-learn's ``mean_pinball_loss`` with ``alpha=q``.

    Parameters
    ----------
    quantiles : float or sequence of float, default 0.5
        Each between 0 and 1, ends excluded.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division; ``"none"`` gives one number per sample, and is only
        for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Koenker & Bassett 1978, "Regression quantiles", Econometrica 46.
    """

    quantiles: Any = 0.5
    _: KW_ONLY
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "quantile"
    _outputs = "convert"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(quantiles=floats("quantiles", self.quantiles, 0, 1, "()"))

    def _columns(self, outputs: int) -> tuple[float, ...]:
        quantiles: tuple[float, ...] = self.quantiles
        return quantiles

    def _target_width(self, outputs: int) -> int:
        return outputs // len(self.quantiles)
