"""Derivatives of the outputs with respect to the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import numpy.typing as npt

from thalweg import _parts
from thalweg._arrays import Array
from thalweg._habits import takes
from thalweg._jets import Jets
from thalweg.nn import Sequential
from thalweg.nn._losses._derivatives import checked_order


@overload
def jet(
    model: Sequential,
    x: npt.ArrayLike,
    *,
    order: Literal[2] = 2,
    along: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array]: ...
@overload
def jet(
    model: Sequential, x: npt.ArrayLike, *, order: Literal[1], along: npt.ArrayLike | None = None
) -> tuple[Array, Array]: ...
@overload
def jet(
    model: Sequential, x: npt.ArrayLike, *, order: Sequence[int], along: npt.ArrayLike | None = None
) -> tuple[Array, ...]: ...
@takes("curvature.jet", {})
def jet(
    model: Sequential,
    x: npt.ArrayLike,
    *,
    order: int | Sequence[int] = 2,
    along: npt.ArrayLike | None = None,
) -> tuple[Array, ...]:
    r"""Compute outputs and their exact first and second derivatives with respect to the inputs.

    `nn.DerivativeLoss` trains a model on functions of them.

    Parameters
    ----------
    model : Sequential
        Left unchanged, and used as in evaluation.
    x : array_like, shape (n, in_features)
        The samples.
    order : {2, 1} or a sequence of these, keyword only
        The order of the highest derivatives; a sequence gives it for each direction. What is not
        needed is not computed.
    along : array_like, shape (directions, in_features), keyword only, optional
        Directions, one in each row, even if there is only one; by default each input in turn.

    Returns
    -------
    u : ndarray, shape (n, out_features), of the model's dtype, as are the others
        The outputs.
    du : ndarray, shape (directions, n, out_features)
        Their derivatives along each direction v, :math:`\partial u / \partial x \cdot v`.
    d2u : ndarray, shape (directions, n, out_features)
        The second derivatives, :math:`v^\top \, \partial^2 u / \partial x^2 \, v`, along the
        directions whose order is 2; left out if there are none.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError
        If an argument is not as above.
    UnsupportedError
        If the model has layers without such derivatives; see `nn.DerivativeLoss`.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), dtype="float64")
    >>> x = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    >>> u, du, d2u = tw.curvature.jet(model, x)
    >>> laplacian = d2u.sum(axis=0)
    >>> laplacian.shape
    (3, 1)
    """
    return Jets(_parts.checked(model), checked_order(order), along).predict(x)
