"""How much the layers of a network stretch some directions more than others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _centre, _checks, _parts
from thalweg._habits import takes
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import BatchNorm1d, Linear, Sequential

_Vector = npt.NDArray[np.float64]
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class StageConditioning:
    r"""The conditioning of one stage of a network: the input, or the output of a layer.

    Attributes
    ----------
    name : str
        ``"input"``, or the layer's position and kind, such as ``"1 BatchNorm1d"``.
    width : int
        The number of columns.
    rank : int
        The number of directions in which the samples differ: less than `width` if columns are
        constant, like pixels at the margin and dead units, or depend on each other. The conditions
        are then infinite.
    spread : ndarray, shape (min(rows, width),)
        Standard deviations along the principal directions, descending: singular values of the
        centered activations divided by :math:`\sqrt N`.
    condition : float
        The first of them divided by the last; infinite if a direction is missing.
    standardized : float
        The same after each column is scaled to variance 1, as by `nn.BatchNorm1d` or a scaler of
        the inputs: **what a normalization of columns leaves**. No other scaling of the columns
        makes it smaller by more than a factor of :math:`\sqrt{\text{width}}` (van der Sluis 1969,
        "Condition numbers and equilibration of matrices"). It is 1 only if the columns are
        uncorrelated. Only whitening, which rotates, always makes it 1.
    hessian : float
        Condition of :math:`\frac1N [h\ 1]^\top [h\ 1]`: the Hessian of least squares for an
        `nn.Linear` with a bias that reads this stage. It is squared, and includes the means.
    jacobian : ndarray, shape (min(width, width before),)
        Singular values of the layer's own Jacobian, root mean square over the samples; for an
        `nn.BatchNorm1d`, with its statistics held fixed. Empty for the input.
    """

    name: str
    width: int
    rank: int
    spread: _Vector
    condition: float
    standardized: float
    hessian: float
    jacobian: _Vector

    @property
    def jacobian_condition(self) -> float:
        """The largest singular value of the layer divided by the smallest; NaN for the input."""
        return _ratio(self.jacobian) if self.jacobian.size else float("nan")


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Where a network stretches some directions more than others; print it to see a table.

    Attributes
    ----------
    stages : tuple of StageConditioning
        The input, then the output of every layer.
    jacobian : ndarray, shape (min(out_features, in_features),)
        Singular values of the Jacobian of the whole network, root mean square over the samples.
    """

    stages: tuple[StageConditioning, ...]
    jacobian: _Vector

    def __getitem__(self, index: int) -> StageConditioning:
        return self.stages[index]

    def __str__(self) -> str:
        head = (
            "stage",
            "width",
            "rank",
            "condition",
            "standardized",
            "Hessian",
            "Jacobian",
            "its cond.",
        )
        rows: list[tuple[str, ...]] = [head]
        for s in self.stages:
            jacobian = ("-", "-")
            if s.jacobian.size:
                jacobian = (
                    f"{s.jacobian[0]:.3g}..{s.jacobian[-1]:.3g}",
                    f"{s.jacobian_condition:.4g}",
                )
            figures = (f"{v:.4g}" for v in (s.condition, s.standardized, s.hessian))
            rows.append((s.name, str(s.width), str(s.rank), *figures, *jacobian))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        )

    def __repr__(self) -> str:
        worst = max(self.stages, key=lambda s: s.condition)
        place = f"worst {worst.condition:.3g} at {worst.name!r}"
        return f"Conditioning({len(self.stages)} stages, {place})"


@takes("diagnostics.conditioning", {})
def conditioning(model: Sequential, x: npt.ArrayLike, *, samples: int = 32) -> Conditioning:
    r"""Measure how a network stretches its activations, layer by layer.

    Gradient descent needs on the order of :math:`\kappa` steps to learn what lies along the weakest
    of the directions that a layer reads, where :math:`\kappa` is the condition of the Hessian
    there.

    Parameters
    ----------
    model : Sequential
        Left unchanged. `nn.BatchNorm1d` uses the statistics of `x`, as in training; nothing is
        dropped.
    x : array_like, shape (n, in_features)
        At least 2 rows; a few hundred say more.
    samples : int, keyword only, default 32
        Jacobians are computed at this many of the first rows.

    Returns
    -------
    Conditioning

    Raises
    ------
    ShapeError, DataError, DtypeError
        If `x` does not fit the model.
    ArgumentError
        If `model` is not an `nn.Sequential`, or `samples` is not positive.

    Notes
    -----
    A normalization divides each column by its own deviation. It undoes a stretch along the axes,
    but hardly affects the same stretch rotated. Compare `standardized` with `condition` to tell
    them apart.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> x = np.random.default_rng(0).standard_normal((500, 2)) * [10, 1]
    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    >>> report = tw.diagnostics.conditioning(model, x)
    >>> bool(report[0].condition > 9), bool(report[1].condition < 1.1)
    (True, True)
    """
    _parts.checked(model)
    h: Any = _arrays.finite(_arrays.matrix(model._rows(x, "x"), np.dtype(np.float64), "x"), "x")
    rows = len(h)
    if h.shape[1] != model.in_features or rows < 2:
        raise ShapeError(
            f"x must have at least 2 rows of {model.in_features} columns; got shape {h.shape}"
        )
    count = _checks.integer("samples", samples, 1)
    model = model.astype("float64")
    # BatchNorm1d layers get the statistics of all of x, in a copy of the model.
    stages = [_stage("input", h, np.empty(0))]
    whole = np.broadcast_to(
        np.eye(model.in_features), (min(count, rows), *(model.in_features,) * 2)
    )
    for index, layer in enumerate(model.layers):
        piece = _parts.part(model, index, index + 1)
        if any(name.endswith("running_mean") for name, _ in piece._core.average_blocks()):
            piece.recalibrate(h, batch_size=rows)
            _biased(piece, rows)
        still = _parts.frozen(piece)
        own = jacobian(still, h[:count])
        whole = own @ whole
        h = np.asarray(still(h))
        name = f"{index} {type(layer).__name__}"
        stages.append(_stage(name, h, _mean_singular(own)))
    return Conditioning(tuple(stages), _mean_singular(whole))


def _biased(model: Sequential, rows: int) -> None:
    """Make running variances biased, as training divides by the biased variance of a batch."""
    state = model.state_dict()
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name] * ((rows - 1) / rows)
    model.load_state_dict(state)


@takes("diagnostics.jacobian", {})
def jacobian(model: Sequential, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    r"""Compute a model's Jacobian with respect to its input, in evaluation, for each row.

    Parameters
    ----------
    model : Sequential
        Left unchanged. `nn.BatchNorm1d` uses its running averages; nothing is dropped.
    x : array_like, shape (n, in_features)
        The rows.

    Returns
    -------
    ndarray, shape (n, out_features, in_features), float64
        :math:`\partial y_{ij} / \partial x_{ik}`, by one backward pass for each output.

    Raises
    ------
    ArgumentError
        If `model` is not an `nn.Sequential`.
    ShapeError, DataError, DtypeError
        If `x` does not fit the model.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> tw.diagnostics.jacobian(model, np.zeros((5, 3))).shape
    (5, 2, 3)
    """
    model = _parts.frozen(_parts.checked(model))
    outputs = model.out_features
    rows = len(model.forward(x))
    found = np.empty((rows, outputs, model.in_features))
    for j in range(outputs):
        one = np.zeros((rows, outputs))
        one[:, j] = 1
        found[:, j] = model.backward(one, parameters=False).reshape(rows, -1)
    return found


@takes("diagnostics.batch_jacobian", {})
def batch_jacobian(layer: BatchNorm1d, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    r"""Compute the Jacobian of an `nn.BatchNorm1d` over a whole batch, including its statistics.

    In training, the output for a row depends on all rows. For each column, the Jacobian is the
    projection

    .. math:: \frac{1}{\sqrt{\sigma^2 + \epsilon}}
              \left( I - \tfrac1N \mathbf 1 \mathbf 1^\top
              - \tfrac1N \frac{\sigma^2}{\sigma^2 + \epsilon} \hat x \hat x^\top \right)

    with :math:`\hat x = (x - \mu) / \sigma`, without :math:`\epsilon`: onto what neither shifts nor
    scales the batch, of rank N - 2 apart from :math:`\epsilon`, and with condition 1 outside its
    null space. The map with fixed statistics is one factor per column
    and hides this.

    Parameters
    ----------
    layer : BatchNorm1d
        Taken in its initial state, with weight 1 and bias 0.
    x : array_like, shape (n, num_features)
        The batch, at least 2 rows.

    Returns
    -------
    ndarray, shape (num_features, n, n), float64
        Computed by one backward pass for each row.

    Raises
    ------
    ArgumentError
        If `layer` is not a `BatchNorm1d`, or `x` is a single row.
    ShapeError, DataError, DtypeError
        If `x` does not fit the layer.
    DivergedError
        If `x` is so large that its variance is infinite.
    """
    if not isinstance(layer, BatchNorm1d):
        raise ArgumentError(f"layer must be a BatchNorm1d; got {_checks.given(layer)}")
    k = layer.num_features
    model = Sequential(Linear(k, k, bias=False), layer, dtype="float64")
    state = model.state_dict()
    state["0.weight"] = np.eye(k)
    model.load_state_dict(state)
    rows = len(model.forward(x))
    found = np.empty((k, rows, rows))
    for i in range(rows):
        one = np.zeros((rows, k))
        one[i] = 1
        found[:, i] = model.backward(one, parameters=False).T
    return found


def _stage(name: str, h: _Vector, jacobian: _Vector) -> StageConditioning:
    n = len(h)
    rest, mean = _centre.centred(h)
    centred = np.where(_centre.constant(rest, mean, h.dtype), 0.0, rest)
    size = float(np.abs(centred).max()) or 1.0  # squares may overflow or underflow
    deviation = size * np.sqrt(((centred / size) ** 2).mean(axis=0))
    spread = np.linalg.svd(centred / np.sqrt(n), compute_uv=False)
    scaled = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    full = np.linalg.svd(np.column_stack([h, np.ones(n)]), compute_uv=False)
    width = h.shape[1]
    return StageConditioning(
        name,
        width,
        int((spread > len(spread) * _EPS * spread[0]).sum()),
        spread,
        _ratio(spread) if n > width else float("inf"),
        _ratio(np.linalg.svd(scaled, compute_uv=False)) if n > width else float("inf"),
        _ratio(full) ** 2 if n > width else float("inf"),
        jacobian,
    )


def _mean_singular(jacobians: npt.NDArray[np.float64]) -> _Vector:
    values: _Vector = np.sqrt((np.linalg.svd(jacobians, compute_uv=False) ** 2).mean(axis=0))
    return values


def _ratio(values: _Vector) -> float:
    smallest = float(values[-1])
    return (
        float(values[0]) / smallest if smallest > len(values) * _EPS * values[0] else float("inf")
    )
