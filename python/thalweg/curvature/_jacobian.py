"""Derivatives of a model's outputs with respect to its parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _calls, _checks, _core, _parts
from thalweg._arrays import Array, Targets
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg.errors import ArgumentError, ShapeError, UnsupportedError
from thalweg.nn import DerivativeLoss, Loss, Sequential
from thalweg.nn._losses import FunctionLoss, LossFunction, loss_of
from thalweg.optim import SGD


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
    ArgumentError
        If `model` is not an `nn.Sequential`.
    ShapeError, DataError, DtypeError
        If `x` does not fit the model.
    MemoryError
        If there is not enough memory: pass fewer rows at a time.

    See Also
    --------
    sample_gradients : of a loss instead of every output.
    thalweg.diagnostics.jacobian : with respect to the inputs.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> tw.curvature.jacobian(model, np.zeros((5, 3))).shape
    (5, 2, 8)
    """
    model = _parts.checked(model)
    output, found = model._core.jacobian(model._samples(x, "x"), False)
    return found.reshape(*output.shape, model.num_parameters)


@takes("curvature.sample_gradients", {})
def sample_gradients(
    model: Sequential,
    x: npt.ArrayLike,
    y: Targets,
    *,
    loss: Loss | LossFunction,
    sample_weight: npt.ArrayLike | None = None,
) -> Array:
    r"""Compute what each sample contributes to the gradient of a loss, in evaluation.

    Parameters
    ----------
    model : Sequential
        Left unchanged. `nn.BatchNorm1d` uses its running averages; nothing is dropped.
    x : array_like, shape (n, in_features)
        The samples.
    y : array_like, or dict of these
        Their targets, as for `Trainer.step`.
    loss : Loss or callable, keyword only
        As for `Trainer`, except `nn.DerivativeLoss`. With ``reduction="sum"``, the contributions
        are the gradients of each sample's own loss, times its weight; with ``"mean"``, these are
        divided as the loss of the batch is.
    sample_weight : array_like, shape (n,), keyword only, optional
        As for `Trainer.step`.

    Returns
    -------
    ndarray, shape (n, num_parameters), of the model's dtype
        :math:`\sum_k \frac{\partial L}{\partial f_k(x_i)}
        \frac{\partial f_k(x_i)}{\partial \theta}`, with the parameters in the order of
        `Sequential.flat_parameters`. The sum over all samples is the gradient of the loss.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError
        If an argument is not as above.
    UnsupportedError
        If the loss is one on derivatives of the outputs.
    MemoryError
        If there is not enough memory: pass fewer rows at a time.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> x, y = np.eye(3), [0, 1, 1]
    >>> loss = nn.CrossEntropyLoss(reduction="sum")
    >>> each = tw.curvature.sample_gradients(model, x, y, loss=loss)
    >>> np.linalg.norm(each, axis=1).shape
    (3,)
    """
    model = _parts.checked(model)
    loss = loss_of(loss)
    if isinstance(loss, DerivativeLoss):
        raise UnsupportedError(
            f"sample_gradients needs a loss of the outputs alone; got {loss!r}. For each sample, "
            "call model.zero_grad() and trainer.backward(x[i:i+1], y[i:i+1]), and read "
            "model.flat_gradients"
        )
    trainer = Trainer(model, loss=loss, optimizer=SGD(lr=0.0))  # knows how to read these arguments
    samples, targets, weight = trainer._ready(x, y, sample_weight)
    trainer.evaluate(samples, targets, weight)  # raises if they do not fit, or it is not finite
    output = model(x)
    if isinstance(loss, FunctionLoss):
        slopes = _calls.call(loss, (output,), targets, weight)[1][0]
    else:
        slopes = loss.gradient(output, targets, weight)
    return model._core.row_gradients(samples, slopes)


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
    output : ndarray, shape (n, out_features), of the model's dtype
        :math:`f(x, \theta)`
    derivative : ndarray, shape (n, out_features), of the model's dtype
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
