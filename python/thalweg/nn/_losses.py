"""The losses, as light frozen descriptions: the core knows each by its name.

A loss is a mean over the batch, so that a step size means the same for every batch size.
"""

from dataclasses import dataclass
from typing import ClassVar


class Loss:
    """Base of all loss descriptions."""

    __slots__ = ()

    #: The name by which the core knows this loss.
    _kind: ClassVar[str]
    #: Whether targets are class labels (1-D integers) rather than arrays shaped as the output.
    _labels: ClassVar[bool]


@dataclass(frozen=True, slots=True)
class MSELoss(Loss):
    r"""Mean squared error over *all* elements, as PyTorch's.

    .. math:: L = \frac{1}{n\,k} \sum_{i=1}^{n} \sum_{j=1}^{k} (y_{ij} - t_{ij})^2

    The output `y` and the target `t` both have shape (n, k). A target of shape (n,) is taken as
    (n, 1) when the model has one output, and is an error otherwise; nothing is broadcast. Notice
    the factor: there is no 1/2, and the sum over the `k` outputs is divided by `k` too.
    """

    _kind: ClassVar[str] = "mse"
    _labels: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class CrossEntropyLoss(Loss):
    r"""Softmax followed by the negative log-likelihood of the right class, as PyTorch's.

    .. math:: L = -\frac{1}{n} \sum_{i=1}^{n} \log \frac{e^{y_{i t_i}}}{\sum_j e^{y_{ij}}}

    The output `y` has shape (n, classes) and holds logits: the model must *not* end in a softmax.
    The target `t` has shape (n,) and holds integer labels from 0 to classes - 1. A column of shape
    (n, 1) is an error, as in PyTorch: pass ``t.ravel()``.
    """

    _kind: ClassVar[str] = "cross_entropy"
    _labels: ClassVar[bool] = True
