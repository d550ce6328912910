r"""Base of the losses, which are light frozen descriptions: the core knows each by name.

By default a loss is a mean, so that a step size means the same for every batch size: a mean over
all elements for losses that compare element by element, and over the rows for those that compare
distributions. With weights `w_i` of the samples (``sample_weight`` of `Trainer`), it is the
weighted mean,

.. math:: L = \frac{\sum_i w_i \ell_i}{\sum_i w_i n_i}

where :math:`\ell_i` is the sum over the elements of row `i` and :math:`n_i` their number. A weight
of 0 is thus equivalent to leaving the row out, a weight of 2 to including it twice, and only ratios
matter. (The batch statistics of `thalweg.nn.BatchNorm1d` include every row once, whatever it
weighs.) The sum of weights is that of a batch, so if weights are unequal, mini-batches do not
minimize the weighted mean over all samples: a batch of small weights counts as much as one of large
weights. With ``reduction="sum"`` and weights divided by the batch size they do, since on average
over batches the loss is then :math:`\frac1n \sum_i w_i \ell_i` over all `n` samples.
PyTorch normalizes class weights in the same way as here, and scikit-learn sample weights; Keras
divides by the number of samples instead.

A loss can be called with precomputed outputs, ``loss(model(x), y)``. With ``reduction="none"``,
which is for such calls only, it returns one number per sample: the mean over the elements of its
row, :math:`\ell_i / n_i`, or for losses that compare distributions :math:`\ell_i` itself. (PyTorch
returns one number per element where it compares element by element; these are the means of those
over each row.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, SupportsFloat, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Array, Labels, Targets
from thalweg._description import Description
from thalweg._habits import Guided
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn._losses._competition import Competition

#: Whether a loss is one number, and which, or one per sample.
Reduction: TypeAlias = Literal["mean", "sum", "none"]
#: Predictions as they are; numbers to convert into predictions, for which one must know the loss;
#: logits of classes; or what a teacher has.
Outputs: TypeAlias = Literal["predictions", "convert", "logits", "teacher"]
#: A user's function: what it returns is the loss, its gradient or gradients, and perhaps figures.
LossFunction: TypeAlias = Callable[
    ..., tuple[SupportsFloat, Any] | tuple[SupportsFloat, Any, Mapping[str, SupportsFloat]]
]

#: What to say about other subclasses of `Loss`.
OWN = (
    "a custom loss is a function (output, target) -> (loss, gradient), passed as tw.Trainer(..., "
    "loss=function), see nn.CustomLoss"
)


class Loss(Description, Guided):
    """Base of all loss descriptions."""

    __slots__ = ()

    _uncalled: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("__call__", "forward", "call", "backward"), OWN
    )
    _elsewhere: ClassVar[Mapping[str, str]] = {
        "backward": "loss.gradient(output, target) returns the gradient with respect to the "
        "outputs; trainer.backward(x, y) computes those of the model, and "
        "trainer.step trains",
        "forward": "call it: loss(model(x), y)",
        "predict_proba": "classification losses have probabilities(model(x))",
        "item": "calling a loss returns a float",
        "predict": "outputs of the model are the predictions: model(x)",
        "probabilities": "with this loss, the outputs of the model are not logits of classes",
    }

    @property
    def _competition(self) -> Competition:
        """Which outputs compete for a label."""
        return Competition()

    def __call__(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> Any:  # a float, or an array with reduction="none"
        """Compute the loss of precomputed outputs, without training.

        Parameters
        ----------
        output : array_like, shape (n, out_features)
            ``model(x)``.
        target, sample_weight : array_like
            As ``y`` and ``sample_weight`` of `thalweg.Trainer.fit`.

        Returns
        -------
        float, or ndarray of shape (n,)
            The loss, or with ``reduction="none"`` that of each sample, float32 or float64 like the
            output: the mean over the elements of its row, as `nn.MSELoss` on this row alone. For
            `nn.CrossEntropyLoss` and `nn.DistillationLoss`, which have one number per row, it is
            that number times the weight of the class, and 0 where the label is ignored, as in
            PyTorch.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> logits, labels = np.log([[1, 3], [4, 1]]), [1, 1]
        >>> nn.CrossEntropyLoss(reduction="none")(logits, labels).round(4)
        array([0.2877, 1.6094])
        >>> round(nn.CrossEntropyLoss()(logits, labels), 4)
        0.9486
        """
        raise UnsupportedError(f"{self!r} computes nothing: {OWN}")

    def gradient(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> Any:
        r"""Compute the gradient of the loss with respect to the outputs, without training.

        Parameters
        ----------
        output : array_like, shape (n, out_features)
            ``model(x)``.
        target, sample_weight : array_like
            As ``y`` and ``sample_weight`` of `thalweg.Trainer.fit`.

        Returns
        -------
        ndarray, shape (n, out_features), float32 or float64 as the output
            :math:`\partial L / \partial o_{ij}`, where :math:`L` is ``loss(output, target)``, or
            with `sample_weight` the weighted mean that training minimizes. Pass it to
            ``model.backward``, or add it to others in a custom loss.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays do not fit.
        ArgumentError
            With ``reduction="none"``, which gives more than one number.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> logits, labels = np.log([[1, 3], [4, 1]]), [1, 1]
        >>> nn.CrossEntropyLoss().gradient(logits, labels)  # (softmax - one-hot) / rows
        array([[ 0.125, -0.125],
               [ 0.4  , -0.4  ]])
        """
        raise UnsupportedError(f"{self!r} computes nothing: {OWN}")

    def _why_nan(self, name: str, output: Array | None, weight: Array | None) -> str:
        """Say which output makes the loss NaN, in rows that count, and what to do; or nothing.

        `name` is what the user calls the outputs, which are None if they are not known.
        """
        return ""


class CoreLoss(Loss):
    """Base of the losses that the core computes."""

    __slots__ = ()

    #: The name by which the core knows this loss.
    _kind: ClassVar[str]
    #: What its outputs are.
    _outputs: ClassVar[Outputs]
    #: Whether targets may be class labels (1-D integers) rather than numbers.
    _labels: ClassVar[bool] = False
    #: How another library's call of this loss is written here, where the two differ.
    _call_elsewhere: ClassVar[str] = ""

    reduction: Reduction

    def __post_init__(self) -> None:
        _checks.one_of("reduction", self.reduction, get_args(Reduction))

    def _columns(self, outputs: int) -> tuple[float, ...]:
        """Return the numbers that differ by column, for a network with this many outputs."""
        return ()

    def _numbers(self) -> tuple[Any, ...]:
        """Return all other numbers, in the order in which the core takes them."""
        return ()

    def _target_width(self, outputs: int) -> int:
        """Return the number of target columns for a network with this many outputs."""
        return outputs

    def _ready(self, y: Any, dtype: np.dtype[Any], outputs: int, name: str) -> Labels | Array:
        """Prepare the targets `y`, which users know by a `name`, for the core."""
        if self._labels:
            return _arrays.labels_or_shares(y, dtype, name)
        return _arrays.targets(y, dtype, self._target_width(outputs), name)

    def __call__(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> Any:  # a float, or an array with reduction="none"
        """Compute the loss of precomputed outputs; see `Loss.__call__`."""
        from thalweg.nn._losses import _values  # most losses are only used for training

        return _values.value(self, output, target, sample_weight)

    def gradient(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """Compute the gradient with respect to the outputs; see `Loss.gradient`."""
        from thalweg.nn._losses import _values

        return _values.gradient(self, output, target, sample_weight)

    def _spec(self, outputs: int) -> tuple[Any, ...]:
        """Return what the core makes this loss from."""
        if self.reduction == "none":
            raise ArgumentError(
                f'{type(self).__name__} has reduction="none", which gives one number per sample, '
                'but one number is needed here: use reduction="mean" or "sum". For the loss of '
                "each sample, call it: loss(model(x), y)"
            )
        return (self._kind, self.reduction, self._columns(outputs), *self._numbers())


def floats(
    name: str, value: Any, low: float, high: float = math.inf, closed: str = "[)"
) -> tuple[float, ...]:
    """Return a number or a sequence as a tuple of floats in an interval; see `_checks.real`."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        from thalweg import _bad_arrays

        raise ArgumentError(_bad_arrays.masked(value, name))
    try:
        array = np.asarray(value, dtype=object)
    except ValueError:
        raise ArgumentError(f"{name} must be numbers of shape (k,); got {value!r}") from None
    if array.ndim > 1 or array.size == 0:
        raise ArgumentError(f"{name} must be numbers of shape (k,); got shape {array.shape}")
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # a scalar of NumPy or PyTorch
    if array.ndim == 0 and not isinstance(value, (int, float)):
        raise ArgumentError(
            f"{name} must be numbers, in the order of the columns, e.g. [1.0, 5.0]; got {value!r}"
        )
    if array.ndim == 0:
        return (_checks.real(name, value, low, high, closed),)
    return tuple(
        _checks.real(f"{name}[{i}]", number, low, high, closed) for i, number in enumerate(array)
    )
