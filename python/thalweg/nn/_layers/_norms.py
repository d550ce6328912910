"""Normalizations of columns and of rows."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._arrays import Array
from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.nn._layers._base import Layer


@description
class BatchNorm1d(Layer):
    r"""Batch normalization of each column, in PyTorch's conventions.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    In training, :math:`\mu` and :math:`\sigma^2` are the mean and the (biased) variance of the
    column over the batch, and the gradient goes through both. In evaluation (calling the model,
    `thalweg.Trainer.evaluate`, validation) they are running averages, which every training pass
    updates: :math:`r \leftarrow (1 - m)\,r + m\,b` with the batch's mean and its *unbiased*
    variance :math:`\sigma^2 n / (n - 1)`. Ioffe & Szegedy 2015, arXiv:1502.03167.

    Parameters
    ----------
    num_features : int
        Number of columns.
    eps : float, default 1e-5
        :math:`\epsilon`, above 0.
    momentum : float, default 0.1
        :math:`m`, the weight of each batch in the running averages, from 0 to 1. (Keras'
        ``momentum`` is 1 - m.)
    affine : bool, default True
        Whether there are :math:`\gamma` ("weight", initially 1) and :math:`\beta` ("bias",
        initially 0).

    Raises
    ------
    ArgumentError
        If an argument is out of range. A training batch of one row has no statistics and is an
        error when it occurs; `thalweg.Trainer.fit` rejects data whose last batch would have one
        row.

    Notes
    -----
    `Sequential.state_dict` also holds ``running_mean`` and ``running_var``.
    """

    num_features: int
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True

    def __post_init__(self) -> None:
        self._check("num_features", 1, by=_checks.integer)
        self._check("eps", 0, math.inf, "()")
        self._check("momentum", 0, 1, "[]")
        self._check("affine", by=_checks.flag)

    def _spec(self) -> tuple[Any, ...]:
        return ("batch_norm", self.num_features, self.eps, self.momentum, self.affine)


@description
class LayerNorm(Layer):
    r"""Normalization of each row by its own mean and variance.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    with the mean :math:`\mu` and the (biased) variance :math:`\sigma^2` over the columns of the
    row: the same in training and in evaluation, for a batch of any size. Ba, Kiros & Hinton 2016,
    arXiv:1607.06450; PyTorch's conventions.

    Parameters
    ----------
    normalized_shape : int or tuple of one int
        Number of columns.
    eps : float, default 1e-5
        :math:`\epsilon`, above 0.
    elementwise_affine : bool, default True
        Whether there is a :math:`\gamma` ("weight", initially 1).
    bias : bool, default True
        Whether there is also a :math:`\beta` ("bias", initially 0), if there is a :math:`\gamma`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    With :math:`\hat x = (y - \beta) / \gamma`, `g` the gradient of the loss with respect to `y`,
    and means over the columns, the gradient with respect to `x` is
    :math:`(\gamma g - \overline{\gamma g} - \hat x\,\overline{\gamma g \hat x}) /
    \sqrt{\sigma^2 + \epsilon}`; those of :math:`\gamma` and :math:`\beta` are the sums over the
    rows of :math:`g \hat x` and `g`.

    Examples
    --------
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1))
    >>> list(model.state_dict())
    ['0.weight', '0.bias', '1.weight', '1.bias', '3.weight', '3.bias']
    """

    normalized_shape: tuple[int] | int
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        self._check("normalized_shape", by=_width)
        self._check("eps", 0, math.inf, "()")
        self._check("elementwise_affine", by=_checks.flag)
        self._check("bias", by=_checks.flag)

    def _spec(self) -> tuple[Any, ...]:
        scale, shift = self.elementwise_affine, self.elementwise_affine and self.bias
        return ("layer_norm", *_width("", self.normalized_shape), self.eps, scale, shift)


@description
class RMSNorm(Layer):
    r"""Normalization of each row by its root mean square.

    .. math:: y = \gamma\,\frac{x}{\sqrt{\overline{x^2} + \epsilon}}

    with the mean of squares over the columns of the row. Zhang & Sennrich 2019, arXiv:1910.07467;
    PyTorch's conventions.

    Parameters
    ----------
    normalized_shape : int or tuple of one int
        Number of columns.
    eps : float, optional
        :math:`\epsilon`, above 0; by default that of the model's dtype, ``np.finfo(dtype).eps``.
    elementwise_affine : bool, default True
        Whether there is a :math:`\gamma` ("weight", initially 1).

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    The gradients are those of `LayerNorm` without the terms that come from the mean.
    """

    normalized_shape: tuple[int] | int
    eps: float | None = None
    elementwise_affine: bool = True

    def __post_init__(self) -> None:
        self._check("normalized_shape", by=_width)
        if self.eps is not None:
            self._check("eps", 0, math.inf, "()")
        self._check("elementwise_affine", by=_checks.flag)

    def _spec(self) -> tuple[Any, ...]:
        return ("rms_norm", *_width("", self.normalized_shape), self.eps, self.elementwise_affine)


def _width(name: str, shape: Any) -> tuple[int]:
    """Convert a normalized shape to a tuple of one width: samples are rows here."""
    if isinstance(shape, (tuple, list)):
        if len(shape) != 1:
            raise ArgumentError(f"{name} must be one width, since samples are rows; got {shape!r}")
        (shape,) = shape
    return (_checks.integer(name, shape, 1),)


def scale_and_shift(layer: BatchNorm1d, state: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return s and b of the map x -> s x + b of a `BatchNorm1d` in evaluation, in float64."""
    mean = state["running_mean"].astype(np.float64)
    scale: Array = 1 / np.sqrt(state["running_var"].astype(np.float64) + layer.eps)
    shift: Array = np.zeros_like(mean)
    if layer.affine:
        scale, shift = scale * state["weight"], state["bias"].astype(np.float64)
    return scale, shift - scale * mean
