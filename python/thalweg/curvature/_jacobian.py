"""Derivatives of a model's outputs with respect to its parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _core, _parts
from thalweg._arrays import Array
from thalweg._habits import takes
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import Sequential


@takes("curvature.jacobian", {})
def jacobian(model: Sequential, x: npt.ArrayLike) -> Array:
    r"""Compute the Jacobian of the outputs with respect to the parameters, in evaluation.

    It is as large as all gradients of all outputs of all rows, and takes about as long as that many
    gradients of single rows. Where its product with a vector is enough, `jvp` is one pass.

    Parameters
    ----------
    model : Sequential
        Left unchanged. `nn.BatchNorm1d` uses its running averages; nothing is dropped.
    x : array_like, shape (n, in_features)
        The samples.

    Returns
    -------
    ndarray, shape (n, out_features, num_parameters), of the model's dtype
        :math:`\partial f_k(x_i, \theta) / \partial \theta_p`, with the parameters in the order of
        `Sequential.flat_parameters`.

    Raises
    ------
    ShapeError, DataError, DtypeError
        If `x` does not fit the model.
    MemoryError
        If there is not enough memory: pass fewer rows at a time.

    See Also
    --------
    thalweg.diagnostics.jacobian : with respect to the inputs.

    Examples
    --------
    The gradient of each sample's own loss is a product with the slopes of the loss, here of
    two classes:

    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 2), dtype="float64")
    >>> x, y = np.eye(3), [0, 1, 1]
    >>> slopes = nn.CrossEntropyLoss(reduction="sum").gradient(model(x), y)
    >>> each = np.einsum("nk,nkp->np", slopes, tw.curvature.jacobian(model, x))
    >>> each.shape
    (3, 8)
    """
    model = _parts.checked(model)
    output, found = model._core.jacobian(model._matrix(x, "x"), False)
    return found.reshape(*output.shape, model.num_parameters)


@takes("curvature.jvp", {})
def jvp(
    model: Sequential,
    x: npt.ArrayLike,
    v: npt.ArrayLike | None = None,
    *,
    dx: npt.ArrayLike | None = None,
    training: bool = False,
) -> tuple[Array, Array]:
    r"""Differentiate the outputs in a direction of the parameters, of the inputs, or of both.

    Parameters
    ----------
    model : Sequential
        Left unchanged.
    x : array_like, shape (n, in_features)
        The samples.
    v : array_like, shape (num_parameters,), optional
        The direction of the parameters, in the order of `Sequential.flat_parameters`; 0 if only
        `dx` is given.
    dx : array_like, shape (n, in_features), keyword only, optional
        The direction of the inputs; 0 if only `v` is given. It is ignored in the categorical
        columns of `nn.TabularInput`, where the derivative with respect to a code is 0.
    training : bool, keyword only, default False
        As for `Operator`, but with another default: this function differentiates what ``model(x)``
        returns, in evaluation, while `hvp`, `gnvp` and `Operator` refer to the loss that training
        lowers. To combine products of both, pass the same `training` to both.

    Returns
    -------
    output : ndarray, shape (n, out_features)
        :math:`f(x, \theta)`
    derivative : ndarray, shape (n, out_features)
        :math:`\partial_\theta f \cdot v + \partial_x f \cdot dx`

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError
        If an argument is not as above, or there is no direction.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Sine(), dtype="float64")
    >>> output, derivative = tw.curvature.jvp(model, [[0.5, 0.0]], dx=[[1.0, 0.0]])
    >>> derivative.shape
    (1, 2)
    """
    x = _parts.checked(model)._matrix(x, "x")
    if v is None and dx is None:
        raise ArgumentError(
            "jvp needs a direction: v, of the parameters, or dx, of the inputs, or both"
        )
    n = model.num_parameters
    v = np.zeros(n, model.dtype) if v is None else _arrays.flat(v, model.dtype, n, "v")
    if dx is not None:
        dx = _arrays.finite(model._matrix(dx, "dx"), "dx")
        if dx.shape != x.shape:
            raise ShapeError(f"dx must have the shape of x, {x.shape}; got {dx.shape}")
    return _core.jvp(model._core, x, v, _checks.flag("training", training), dx)
