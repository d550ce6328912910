"""Clipping gradients in training loops written by hand, and what `nn.TabularInput` needs.

`thalweg.Trainer` has options for clipping. Functions for it are named as in ``torch.nn.utils``, and
given the model where PyTorch is given its parameters.
"""

from typing import Any

import numpy as np

from thalweg import _arrays, _checks
from thalweg._habits import named
from thalweg.errors import ArgumentError, DataError
from thalweg.nn._sequential import Sequential

__all__ = ["clip_grad_norm_", "clip_grad_value_", "quantile_edges"]


def clip_grad_norm_(model: Sequential, max_norm: float) -> float:
    r"""Scale all gradients of a model down together, so that their norm is at most `max_norm`.

    .. math:: g \leftarrow g\,\min\!\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right)

    Parameters
    ----------
    model : Sequential
        Its `flat_gradients` are changed in place.
    max_norm : float
        The largest Euclidean norm `c`, above 0.

    Returns
    -------
    float
        The norm of the gradients before.

    Raises
    ------
    ArgumentError
        If `max_norm` is not such a number, or `model` is none.
    DataError
        If a gradient is NaN or infinite; nothing is changed then.

    References
    ----------
    Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks",
    arXiv:1211.5063.

    Examples
    --------
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), dtype="float64")
    >>> model.flat_gradients = [3.0, 4.0]
    >>> nn.utils.clip_grad_norm_(model, 1.0)
    5.0
    >>> model.flat_gradients.round(4)
    array([0.6, 0.8])
    """
    limit = _checks.real("max_norm", max_norm, 0, closed="()")
    _expect_model(model)
    return model._core.clip_gradients(limit, None)


def clip_grad_value_(model: Sequential, clip_value: float) -> None:
    r"""Keep each gradient of a model between minus and plus `clip_value`.

    Parameters
    ----------
    model : Sequential
        Its `flat_gradients` are changed in place.
    clip_value : float
        The largest size, above 0.

    Raises
    ------
    ArgumentError
        If `clip_value` is not such a number, or `model` is none.
    DataError
        If a gradient is NaN or infinite; nothing is changed then.
    """
    limit = _checks.real("clip_value", clip_value, 0, closed="()")
    _expect_model(model)
    model._core.clip_gradients(None, limit)


def _expect_model(model: Any) -> None:
    if not isinstance(model, Sequential):
        raise ArgumentError(
            f"model must be an nn.Sequential, whose flat_gradients are clipped; got {named(model)}"
        )


def quantile_edges(column: Any, pieces: int = 16) -> list[float]:
    r"""Cut the range of a column where pieces hold equally many samples.

    Parameters
    ----------
    column : array_like, shape (n,)
        Numbers of the training data, at least two different ones.
    pieces : int, default 16
        How many. Where many samples have the same value, quantiles coincide, and there are fewer.

    Returns
    -------
    list of float
        The quantiles :math:`0, 1/T, \dots, 1` without repetitions, for `nn.TabularInput`.

    Raises
    ------
    ArgumentError
        If `pieces` is below 1.
    DtypeError, DataError
        If the column is not one of finite numbers, or all are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> x = np.column_stack([np.arange(101) ** 2, np.zeros(101)])
    >>> edges = nn.utils.quantile_edges(x[:, 0], pieces=4)
    >>> edges
    [0.0, 625.0, 2500.0, 5625.0, 10000.0]
    >>> nn.TabularInput(2, pieces={0: edges}).out_features
    5
    """
    count = _checks.integer("pieces", pieces, 1)
    values = _arrays.as_numeric(column, "column").astype(np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError(
            f"column must hold finite numbers, one for each sample; got shape {values.shape}"
            f" with {np.count_nonzero(~np.isfinite(values))} that are not finite"
        )
    # As float32, which is what most models round them to: equal ones make no piece.
    quantiles = np.quantile(values, np.linspace(0, 1, count + 1)) if values.size else values
    edges = np.unique(quantiles.astype(np.float32)).astype(np.float64)
    if len(edges) < 2:
        raise DataError(f"all {values.size} numbers of the column are equal: there are no pieces")
    return [float(edge) for edge in edges]
