"""Networks that least squares can train: linear ones, and the last layer of any."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _centre, _checks, _parts
from thalweg._habits import takes
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError
from thalweg.nn import Identity, Linear, Sequential, Standardize
from thalweg.solve._choice import Method
from thalweg.solve._linear import (
    Problem,
    RankDeficient,
    Reduction,
    chosen,
    decomposed,
    fit,
    penalized,
    problem,
)
from thalweg.solve._linear_fit import LinearFit

_Matrix = npt.NDArray[np.float64]
_F64 = np.dtype(np.float64)
_EPS = float(np.finfo(np.float64).eps)


@takes("solve.network", {})
def network(
    model: Sequential,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    rank_deficient: RankDeficient = "raise",
    rcond: float | None = None,
) -> LinearFit:
    r"""Set the weights of a linear network to the optimum, in one call.

    A network of only `nn.Linear` and `nn.Identity` is one affine map, whose weight is the product
    of the layers' weights. The squared error has no bad local minima there, but gradient descent
    may take long; this function computes its minimum and writes it into the model. (For a single
    `nn.Linear` with a penalty, use `last_layer`; for several, a penalty on their weights is not one
    on their product.)

    If an intermediate layer is narrower than both the input and the output, the product has at most
    that rank, `r`. The optimum is then the projection of the least-squares fit onto the first `r`
    principal directions of its own predictions (reduced-rank regression).

    Parameters
    ----------
    model : Sequential
        Its weights are replaced. The factors are balanced,
        :math:`W_{l+1}^\top W_{l+1} = W_l W_l^\top`, and so have the smallest
        :math:`\sum_l \lVert W_l \rVert^2` among all with this product. Only the last bias is used:
        others are 0, and layers behind it pass its outputs on.
    x : array_like, shape (n, in_features)
        The samples.
    y : array_like, shape (n, out_features), or (n,) for one output
        The targets.
    sample_weight, rank_deficient
        As in `least_squares`.
    rcond : float, keyword only, optional
        As in `least_squares`; by default the larger of its default there and
        :math:`4 \varepsilon \sqrt p`, with the :math:`\varepsilon` of the model's dtype, which then
        also tells constant columns. A float32 model rounds its input: anything smaller than that is
        rounding.

    Returns
    -------
    LinearFit
        The affine map that the model now computes, in float64. A float32 model holds it rounded,
        which makes its sum of squares slightly larger than `sum_of_squares`.

    Raises
    ------
    UnsupportedError
        If a layer is not linear; or if only an early layer has a bias and later ones are too narrow
        to carry it to every output.
    ArgumentError
        As for `least_squares`. After any error, the model is unchanged.
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model.

    References
    ----------
    Baldi & Hornik 1989, Neural Networks 2:53; Izenman 1975, J. Multivariate Analysis 5:248.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 1), dtype="float64")
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    >>> fit = tw.solve.network(model, x, x @ [1, 2] + 3)
    >>> bool(np.allclose(model(x), [[3], [5], [4], [6]]))
    True
    """
    _checks.one_of("rank_deficient", rank_deficient, get_args(RankDeficient))
    rcond = None if rcond is None else _checks.real("rcond", rcond, 0, 1, "[)")
    for index, layer in enumerate(_parts.checked(model).layers):
        if not isinstance(layer, (Linear, Identity)):
            raise UnsupportedError(
                f"layer {index}, {layer!r}, is not linear: only networks of Linear and Identity "
                "have a formula. Call model.fold() if it is a BatchNorm1d after a Linear, or refit "
                "only the last layer with thalweg.solve.last_layer"
            )
    places = [i for i, layer in enumerate(model.layers) if isinstance(layer, Linear)]
    linear = [layer for layer in model.layers if isinstance(layer, Linear)]
    widths = [linear[0].in_features, *(layer.out_features for layer in linear)]
    # The last bias can do everything that those before it could.
    biased = max((i for i, layer in enumerate(linear) if layer.bias), default=None)
    if biased is not None and min(widths[biased + 1 :]) < widths[-1]:
        raise UnsupportedError(
            f"the last bias is in layer {places[biased]}, but a later layer is narrower than the "
            "output, which is not supported: give the last Linear a bias"
        )
    y = _arrays.targets(y, _F64, widths[-1], "y")
    _fits(model, y)
    x = _arrays.matrix(x, _F64, "x")
    if x.shape[1] != widths[0]:
        raise ShapeError(f"x has {x.shape[1]} columns; this model takes {widths[0]}")
    dtype = model.dtype if rcond is None else _F64
    data = problem(x, y, biased is not None, sample_weight, dtype)
    found = fit(data, rank_deficient, _resolved(model, data) if rcond is None else rcond)
    rank = min(widths)
    if rank < min(found.rank, widths[-1]):
        found = _reduced(data, found, rank)

    # Layers after the last bias pass its outputs on; those up to it form the product.
    last = len(linear) - 1 if biased is None else biased
    behind = itertools.pairwise(widths[last + 1 :])
    weights = [*_balanced(found.coef.T, widths[: last + 2]), *(np.eye(b, a) for a, b in behind)]
    state = {name: np.zeros(shape) for name, shape in model._blocks()}
    for place, weight in zip(places, weights, strict=True):
        state[f"{place}.weight"] = weight
    if biased is not None:
        state[f"{places[biased]}.bias"][: widths[-1]] = found.intercept
    _holds(model, *state.values())
    model.load_state_dict(state)
    return found


@takes("solve.last_layer", {})
def last_layer(
    model: Sequential,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    alpha: float | Method = 0.0,
    reduction: Reduction = "sum",
    sample_weight: npt.ArrayLike | None = None,
    rank_deficient: RankDeficient = "raise",
    rcond: float | None = None,
) -> LinearFit:
    r"""Refit the last `nn.Linear` of a model to the squared error, with earlier layers fixed.

    This is `ridge`, or `least_squares` without a penalty, with the outputs of the earlier layers
    for `x` (in evaluation: running averages, nothing dropped) as samples.

    Parameters
    ----------
    model : Sequential
        The weight and bias of its last `Linear` are replaced. Behind it there may be an
        `nn.Standardize`, as ``inverse=True`` for raw targets: the fit, its penalty and its sum of
        squares are then those of the standardized targets.
    x : array_like, shape (n, in_features)
        The samples.
    y : array_like, shape (n, out_features), or (n,) for one output
        The targets: numbers. For classes, one column of 0 and 1 per class is one choice.
    alpha : float, "gcv" or "l_curve", keyword only, default 0
        The penalty on the weight, never on the bias, or how to choose it, as in `ridge`.
    reduction, sample_weight
        As in `ridge`.
    rank_deficient : {"raise", "min_norm"}, keyword only
        As in `least_squares`, if there is no penalty: units that are always 0 are common after
        ReLU.
    rcond : float, keyword only, optional
        As in `least_squares`, also with a penalty; by default the larger of its default there and
        :math:`4 \varepsilon \sqrt p` for `p` features, with the :math:`\varepsilon` of the model's
        dtype, which then also tells constant features. The outputs of earlier layers are rounded to
        that precision: if one float32 unit is three times another, what distinguishes them beyond
        that is rounding.

    Returns
    -------
    LinearFit
        In float64. A float32 model holds it rounded, which makes its sum of squares slightly larger
        than `sum_of_squares`.

    Raises
    ------
    UnsupportedError
        If the last layer, apart from `nn.Identity` and `nn.Standardize`, is not a `Linear`.
    ArgumentError
        If the earlier layers do not provide enough independent features and there is no penalty, or
        nothing to choose one by. After any error, the model is unchanged.
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> fit = tw.solve.last_layer(model, x, np.sin(3 * x), alpha=1e-6)
    >>> bool(np.abs(model(x) - np.sin(3 * x)).max() < 0.01)
    True
    """
    method = None
    if isinstance(alpha, str):
        method, alpha = _checks.one_of("alpha, if not a number,", alpha, get_args(Method)), 0.0
    alpha = _checks.real("alpha", alpha, 0)
    _checks.one_of("reduction", reduction, get_args(Reduction))
    _checks.one_of("rank_deficient", rank_deficient, get_args(RankDeficient))
    rcond = None if rcond is None else _checks.real("rcond", rcond, 0, 1, "[)")
    end = len(_parts.checked(model).layers)
    scales: list[Standardize] = []
    while end and isinstance(layer := model.layers[end - 1], (Identity, Standardize)):
        scales += [layer] if isinstance(layer, Standardize) else []
        end -= 1
    last = model.layers[end - 1] if end else None
    if not isinstance(last, Linear):
        raise UnsupportedError(
            f"the last layer is {last!r}; only a Linear can be refit by least squares"
        )
    y = _arrays.as_numeric(y, "y")
    if y.ndim == 1 and (outputs := last.out_features) > 1:
        raise ShapeError(
            f"y has shape {y.shape}, but the model has {outputs} outputs, each fitted to a "
            f"column of y; turn labels into columns of 0 and 1 with np.eye({outputs})[y]"
        )
    y = _arrays.targets(y, _F64, last.out_features, "y")
    _fits(model, y)
    for layer in scales:  # back through them, to what the Linear should return
        y = y * layer.std + layer.mean if not layer.inverse else (y - layer.mean) / layer.std
    features = _parts.part(model, 0, end - 1)(model._rows(x, "x"))
    dtype = model.dtype if rcond is None else _F64
    data = problem(features, y, last.bias, sample_weight, dtype)
    scale = data.total if reduction == "mean" else 1.0
    rcond = _resolved(model, data) if rcond is None else rcond
    try:
        svd = decomposed(data, rcond) if method or alpha else None
        if svd and method:
            alpha = chosen(method, data, svd) / scale
        found = (
            replace(penalized(data, alpha * scale, svd), alpha=alpha)
            if svd
            else fit(data, rank_deficient, rcond)
        )
    except ArgumentError as error:
        raise ArgumentError(f"with the outputs of the earlier layers as x, {error}") from None
    _holds(model, found.coef, found.intercept)
    state = model.state_dict()
    state[f"{end - 1}.weight"] = found.coef.T
    if last.bias:
        state[f"{end - 1}.bias"] = found.intercept
    model.load_state_dict(state)
    return found


def _fits(model: Sequential, y: Any) -> None:
    if y.shape[1] != model.out_features:
        raise ShapeError(f"y has {y.shape[1]} columns; this model has {model.out_features} outputs")


def _resolved(model: Sequential, data: Problem) -> float:
    """Return the share of the largest singular value that is rounding in the model's dtype."""
    own = _centre.rounding(model.dtype, data.x.shape[1])
    return max(own, _EPS * float(max(data.x.shape)))


def _holds(model: Sequential, *arrays: _Matrix) -> None:
    """Refuse weights that the model's dtype cannot hold, and say what can be changed."""
    largest = max(float(np.abs(array).max(initial=0.0)) for array in arrays)
    if largest > float(np.finfo(model.dtype).max):
        raise DataError(
            f"the weights of the fit are up to {largest:.1e}, too large for a {model.dtype} model; "
            'scale y, or x, or use dtype="float64"'
        )


def _reduced(data: Problem, full: LinearFit, rank: int) -> LinearFit:
    """Return the best fit of at most this rank, by Eckart and Young for the predictions."""
    *_, vt = np.linalg.svd(data.x @ full.coef, full_matrices=False)
    keep = vt[:rank]
    return data.fit(full.coef @ keep.T @ keep, rank, full.condition, full.method, float("nan"))


def _balanced(product: _Matrix, widths: list[int]) -> list[_Matrix]:
    """Factor a matrix (out, in) over layers of these widths, the input's first.

    If the last width exceeds `out`, the remaining rows are 0.
    """
    layers, outputs = len(widths) - 1, len(product)
    if layers == 1:
        only = np.zeros((widths[1], widths[0]))
        only[:outputs] = product
        return [only]
    u, s, vt = np.linalg.svd(product, full_matrices=False)
    rank = min(*widths, outputs)
    share = s[:rank] ** (1 / layers)
    matrices = [np.zeros((b, a)) for a, b in itertools.pairwise(widths)]
    for matrix in matrices[1:-1]:
        matrix[range(rank), range(rank)] = share
    matrices[0][:rank] = share[:, np.newaxis] * vt[:rank]
    matrices[-1][:outputs, :rank] = u[:, :rank] * share
    return matrices
