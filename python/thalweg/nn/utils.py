"""Gradient clipping for hand-written training loops, and bin edges for `nn.TabularInput`.

`thalweg.Trainer` has options for clipping. These functions are named as in ``torch.nn.utils``, and
take the model where PyTorch's take its parameters.
"""

from __future__ import annotations

import math
import sys
import typing as _typing
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _core
from thalweg._habits import named, takes
from thalweg.errors import ArgumentError, DataError
from thalweg.nn._sequential import Sequential
from thalweg.nn._sequential._base import Dtype, dtype_name

__all__ = ["clip_grad_norm_", "clip_grad_value_", "quantile_edges"]


def __dir__() -> list[str]:
    return __all__


#: Other arguments of PyTorch's functions.
_OF_CLIPPING = {
    "norm_type": "the norm is the Euclidean one; scale by another one yourself: "
    "model.flat_gradients can be read and set",
    "error_if_nonfinite": "leave it out: gradients that are not finite always raise DataError",
    "foreach": "leave it out: there is nothing to choose",
    "parameters": "the first argument is the model",
}


@takes("clip_grad_norm_()", _OF_CLIPPING)
def clip_grad_norm_(model: Sequential | Iterable[Sequential], max_norm: float) -> float:
    r"""Scale all gradients of a model down together, to a norm of at most `max_norm`.

    .. math:: g \leftarrow g\,\min\!\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right)

    Parameters
    ----------
    model : Sequential or iterable of Sequential
        Its `flat_gradients` are changed in place. For several models, for instance an actor and a
        critic, the norm is that of all their gradients together.
    max_norm : float
        The largest Euclidean norm `c`, above 0. With ``math.inf`` nothing is scaled.

    Returns
    -------
    float
        The norm of the gradients before scaling.

    Raises
    ------
    ArgumentError
        If `max_norm` is not such a number, something is not a model, or a model appears twice.
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
    limit = _checks.norm_limit("max_norm", max_norm)
    cores = _cores(model)
    if len(cores) == 1:
        return cores[0].clip_gradients(limit, None)
    norms = _norms(cores)
    total = math.hypot(*norms)
    for core, norm in zip(cores, norms, strict=True):
        # The limit that makes the formula scale this model by the common factor.
        core.clip_gradients(limit * ((norm + 1e-6) / (total + 1e-6)), None)
    return total


@takes("clip_grad_value_()", _OF_CLIPPING)
def clip_grad_value_(model: Sequential | Iterable[Sequential], clip_value: float) -> None:
    r"""Clip each gradient component of a model to between minus and plus `clip_value`.

    Parameters
    ----------
    model : Sequential or iterable of Sequential
        Its `flat_gradients` are changed in place.
    clip_value : float
        The largest magnitude, above 0.

    Raises
    ------
    ArgumentError
        If `clip_value` is not such a number, something is not a model, or a model appears twice.
    DataError
        If a gradient is NaN or infinite; nothing is changed then.
    """
    limit = _checks.real("clip_value", clip_value, 0, closed="()")
    cores = _cores(model)
    _norms(cores)
    for core in cores:
        core.clip_gradients(None, limit)


def _cores(model: Any) -> list[_core.Model]:
    """Return the core objects that hold the gradients of a model, or of several."""
    several = _checks.is_several(model) and not isinstance(model, Sequential)
    models = list(model) if several else [model]
    for index, one in enumerate(models):
        if not isinstance(one, Sequential):
            place = f", which holds {named(one)}" if several else ""
            raise ArgumentError(
                "model must be an nn.Sequential, whose flat_gradients are clipped, or a sequence "
                f"of several; got {named(model)}{place}"
            )
        if any(one is other for other in models[:index]):
            raise ArgumentError(f"model[{index}] is given twice: its gradients would count twice")
    return [one._core for one in models]


def _norms(cores: list[_core.Model]) -> list[float]:
    """Return the norm of each model's gradients, all of which must be finite."""
    norms = []
    for index, core in enumerate(cores):
        try:  # a limit that is never reached; only the norm is wanted
            norms.append(core.clip_gradients(sys.float_info.max, None))
        except DataError as error:
            place = f"model[{index}]: " if len(cores) > 1 else ""
            raise DataError(f"{place}{error}") from None
    return norms


@takes("quantile_edges", {"n_bins": "it is pieces"})
def quantile_edges(
    column: npt.ArrayLike, pieces: int = 16, *, dtype: Dtype = "float32"
) -> list[float]:
    r"""Cut the range of a column into pieces that hold equally many samples.

    Parameters
    ----------
    column : array_like, shape (n,)
        Numbers from the training data, at least two of them different.
    pieces : int, default 16
        Number of pieces. There are fewer if many samples have the same value, so that quantiles
        coincide.
    dtype : {"float32", "float64"}, keyword only
        The model's dtype, to which the edges are rounded; edges that become equal are merged.

    Returns
    -------
    list of float
        The quantiles :math:`0, 1/T, \dots, 1` without repetitions, for `nn.TabularInput`.

    Raises
    ------
    ArgumentError
        If `pieces` is below 1, or `dtype` is unknown.
    ShapeError, DtypeError, DataError
        If the column is not one of finite numbers, a number is too large for `dtype`, or all are
        equal in that dtype.

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
    name = dtype_name(dtype)
    _arrays.as_dtype(values, np.dtype(name), "column")  # raises if one is too large
    quantiles = np.quantile(values, np.linspace(0, 1, count + 1)) if values.size else values
    edges = np.unique(quantiles.astype(name))
    if len(edges) < 2:
        text = f"all {values.size} numbers of the column are equal"
        if values.size and values.min() < values.max():
            text += f" in {name}: subtract their common offset"
            text += ', or use dtype="float64", here and for the model' if name == "float32" else ""
            raise DataError(text)
        raise DataError(f"{text}: it cannot be cut into pieces")
    return [float(edge) for edge in edges]


if not _typing.TYPE_CHECKING:  # type checkers would take every name for one that is there
    from thalweg import _habits

    _FLAT = "it is model.flat_parameters, which can be read and set"
    __getattr__ = _habits.of_module(
        sys.modules[__name__],
        {
            "clip_grad_norm": "it is clip_grad_norm_(model, max_norm)",
            "clip_grad_value": "it is clip_grad_value_(model, clip_value)",
            **dict.fromkeys(("parameters_to_vector", "vector_to_parameters"), _FLAT),
            **dict.fromkeys(("get_total_norm", "grad_norm"), "clip_grad_norm_ returns the norm"),
            "fuse_linear_bn_eval": "it is model.fold()",
            **dict.fromkeys(
                ("weight_norm", "spectral_norm", "parametrizations", "parametrize", "prune", "rnn"),
                "not supported; a hand-written loop can set model.flat_parameters after each step",
            ),
        },
    )
