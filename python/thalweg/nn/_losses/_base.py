r"""What losses have in common. They are light frozen descriptions: the core knows each by its name.

A loss is a mean by default, so that a step size means the same for every batch size. What a mean is
taken over differs: over all elements for losses that compare element by element, over the rows for
those that compare distributions. With weights `w_i` of the samples (``sample_weight`` of `Trainer`)
it is the weighted mean,

.. math:: L = \frac{\sum_i w_i \ell_i}{\sum_i w_i n_i}

where :math:`\ell_i` is the sum over the elements of row `i` and :math:`n_i` their number. So a
weight of 0 is as if the row were not there, a weight of 2 as if it were there twice, and only
ratios matter. PyTorch normalizes class weights in this way, scikit-learn sample weights; Keras
divides by the number of samples instead.
"""

import math
from typing import Any, ClassVar

import numpy as np

from thalweg import _checks
from thalweg._description import Description
from thalweg.errors import ArgumentError

_REDUCTIONS = ("mean", "sum")


class Loss(Description):
    """Base of all loss descriptions."""

    __slots__ = ()


class CoreLoss(Loss):
    """Base of those that the core computes."""

    __slots__ = ()

    #: The name by which the core knows this loss.
    _kind: ClassVar[str]
    #: Whether targets may be class labels (1-D integers) rather than numbers.
    _labels: ClassVar[bool] = False

    reduction: str

    def __post_init__(self) -> None:
        _checks.one_of("reduction", self.reduction, _REDUCTIONS)

    def _columns(self, outputs: int) -> tuple[float, ...]:
        """Numbers that differ from column to column, for a network of so many outputs."""
        return ()

    def _numbers(self) -> tuple[Any, ...]:
        """All other numbers, in the order in which the core takes them."""
        return ()

    def _target_width(self, outputs: int) -> int:
        """Columns of the targets for a network of so many outputs."""
        return outputs

    def _spec(self, outputs: int) -> tuple[Any, ...]:
        """Give the core what it makes this loss from."""
        return (self._kind, self.reduction, self._columns(outputs), *self._numbers())


def floats(
    name: str, value: Any, low: float, high: float = math.inf, closed: str = "[)"
) -> tuple[float, ...]:
    """One number or a sequence of them as a tuple of floats in an interval, see `_checks.real`."""
    try:
        array = np.asarray(value, dtype=object)
    except ValueError:
        raise ArgumentError(f"{name} must be numbers of shape (k,); got {value!r}") from None
    if array.ndim > 1 or array.size == 0:
        raise ArgumentError(f"{name} must be numbers of shape (k,); got shape {array.shape}")
    if array.ndim == 0 and not isinstance(value, (int, float, np.number)):
        raise ArgumentError(
            f"{name} must be numbers, in the order of the columns, e.g. [1.0, 5.0]; got {value!r}"
        )
    if array.ndim == 0:
        return (_checks.real(name, value, low, high, closed),)
    return tuple(
        _checks.real(f"{name}[{i}]", number, low, high, closed) for i, number in enumerate(array)
    )
