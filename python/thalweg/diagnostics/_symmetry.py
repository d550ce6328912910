r"""Networks with different weights that compute the same function.

An `nn.ReLU` unit may have its input weights multiplied and its output weights divided by the same
number, and the units of a layer may be permuted. Individual weights therefore say little, and two
networks can be compared only after removing what does not matter.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _parts
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg.callbacks import Callback
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Dropout, Identity, LeakyReLU, Linear, ReLU, Sequential
from thalweg.nn._layers import Activation

_Vector = npt.NDArray[np.float64]

#: Element-wise, with f(c x) = c f(x) for c > 0.
_HOMOGENEOUS = (ReLU, LeakyReLU, Identity, Dropout)


def hidden(model: Sequential, homogeneous: bool = True) -> list[tuple[int, int]]:
    """Return the positions of each two `Linear` with a hidden layer of units between them."""
    places = [
        i for i, layer in enumerate(_parts.checked(model).layers) if isinstance(layer, Linear)
    ]
    pairs = list(itertools.pairwise(places))
    allowed = _HOMOGENEOUS if homogeneous else (Activation, Identity, Dropout)
    for index, layer in enumerate(model.layers):
        inside = any(a < index < b for a, b in pairs)
        if inside and not isinstance(layer, allowed):
            what = "scaled only through ReLU or LeakyReLU"
            if not homogeneous:
                what = "permuted only through layers that work element by element"
            raise UnsupportedError(
                f"layer {index}, {layer!r}, is between two Linear layers, but hidden units can be "
                f"{what}; model.fold() folds a BatchNorm1d into the Linear before it"
            )
    if not pairs:
        raise UnsupportedError(
            "there are no hidden units: the model needs at least two Linear layers"
        )
    return pairs


def rebuilt(model: Sequential, state: dict[str, Any]) -> Sequential:
    """Copy a model with another state."""
    copy = model.astype(model.dtype)
    copy.load_state_dict(state)
    return copy


@takes("diagnostics.rescale", {})
def rescale(model: Sequential, factors: npt.ArrayLike, *, layer: int = 0) -> Sequential:
    r"""Copy a model with hidden units scaled and the next layer compensating: the same function.

    .. math:: W_{in} \to \operatorname{diag}(c) W_{in},\quad b_{in} \to c\,b_{in},\quad
              W_{out} \to W_{out} \operatorname{diag}(1/c)

    since :math:`\max(cz, 0) = c \max(z, 0)` for :math:`c > 0`. Gradients are divided by `c` where
    weights are multiplied, and vice versa.

    Parameters
    ----------
    model : Sequential
        Left unchanged. Its hidden layers must be `nn.ReLU` or `nn.LeakyReLU`.
    factors : array_like, shape (units,), or a number
        :math:`c`, above 0.
    layer : int, keyword only, default 0
        Which hidden layer, counted from the input.

    Returns
    -------
    Sequential
        Its output is the same up to rounding; with powers of two as factors, to the last bit.

    Raises
    ------
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    ArgumentError, ShapeError, DataError, DtypeError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> other = tw.diagnostics.rescale(model, [1, 2, 0.25])
    >>> bool((other(np.ones((4, 2))) == model(np.ones((4, 2)))).all())
    True
    """
    pairs = hidden(model)
    before, behind = pairs[_checks.integer("layer", layer, 0, len(pairs) - 1)]
    state = {name: values.astype(np.float64) for name, values in model.state_dict().items()}
    units = len(state[f"{before}.weight"])
    c = _arrays.as_numeric(factors, "factors")
    c = _arrays.flat(
        np.full(units, c) if c.ndim == 0 else c, np.dtype(np.float64), units, "factors"
    )
    if (c <= 0).any():
        raise ArgumentError(f"factors must be above 0; got {float(c.min()):g}")
    _scale(state, before, behind, c)
    return rebuilt(model, state)


def _scale(state: dict[str, Any], before: int, behind: int, c: _arrays.Array) -> None:
    state[f"{before}.weight"] = c[:, np.newaxis] * state[f"{before}.weight"]
    if f"{before}.bias" in state:
        state[f"{before}.bias"] = c * state[f"{before}.bias"]
    state[f"{behind}.weight"] = state[f"{behind}.weight"] / c


def _squares(state: dict[str, Any], before: int, behind: int) -> tuple[_Vector, _Vector]:
    """Compute the squared norms of each unit's input weights, with bias, and output weights."""
    come = (state[f"{before}.weight"].astype(np.float64) ** 2).sum(axis=1)
    if f"{before}.bias" in state:
        come = come + state[f"{before}.bias"].astype(np.float64) ** 2
    return come, (state[f"{behind}.weight"].astype(np.float64) ** 2).sum(axis=0)


@takes("diagnostics.balancedness", {})
def balancedness(model: Sequential) -> tuple[_Vector, ...]:
    r"""Compute what gradient flow conserves for each hidden unit.

    .. math:: D_j = \lVert w^{in}_j \rVert^2 + b_j^2 - \lVert w^{out}_j \rVert^2

    Du, Hu & Lee 2018, arXiv:1806.00900. A step of plain gradient descent changes it by
    :math:`\eta^2 (\lVert g^{in}_j \rVert^2 - \lVert g^{out}_j \rVert^2)`, so that its drift over a
    fixed time is proportional to :math:`\eta`; weight decay, :math:`\frac\lambda2
    \lVert\theta\rVert^2`, shrinks it as :math:`e^{-2 \lambda t}`. Momentum and Adam do not conserve
    it.

    Parameters
    ----------
    model : Sequential
        Its hidden layers must be `nn.ReLU` or `nn.LeakyReLU`.

    Returns
    -------
    tuple of ndarray, each of shape (units,)
        One for each hidden layer.

    Raises
    ------
    ArgumentError
        If `model` is not an `nn.Sequential`.
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    """
    pairs = hidden(model)
    state = model.state_dict()
    squares = [_squares(state, *pair) for pair in pairs]
    return tuple(come - go for come, go in squares)


@takes("diagnostics.balance", {})
def balance(model: Sequential) -> Sequential:
    r"""Copy a model with the smallest sum of squared weights among its rescalings.

    This is the rescaling that weight decay moves to, and the representative by which `distance`
    compares models: each unit is scaled so that :math:`D_j = 0` (see `balancedness`). With several
    hidden layers, this is repeated until nothing changes.

    Parameters
    ----------
    model : Sequential
        Left unchanged. Its hidden layers must be `nn.ReLU` or `nn.LeakyReLU`.

    Returns
    -------
    Sequential
        A model of the same function. Units whose input or output weights are all 0 have only zeros
        on the other side, too.

    Raises
    ------
    ArgumentError
        If `model` is not an `nn.Sequential`.
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    """
    pairs = hidden(model)
    state = {name: values.astype(np.float64) for name, values in model.state_dict().items()}
    for _ in range(1000):
        largest = 0.0
        for before, behind in pairs:
            come, go = _squares(state, before, behind)
            dead = (come == 0) | (go == 0)
            state[f"{before}.weight"][dead] = 0
            if f"{before}.bias" in state:
                state[f"{before}.bias"][dead] = 0
            state[f"{behind}.weight"][:, dead] = 0
            c = np.where(dead, 1.0, (np.where(dead, 1, go) / np.where(dead, 1, come)) ** 0.25)
            _scale(state, before, behind, c)
            largest = max(largest, float(np.abs(np.log(c)).max()))
        if largest < 1e-14:
            break
    return rebuilt(model, state)


class BalanceMonitor(Callback):
    r"""Records `balancedness` during a fit, to see what the training conserves.

    Attributes
    ----------
    values : list of tuple of ndarray
        The balancedness at the start of the fit, and after each epoch.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 32).reshape(-1, 1)
    >>> model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e-3))
    >>> monitor = tw.diagnostics.BalanceMonitor()
    >>> history = trainer.fit(x, x**2, epochs=10, batch_size=32, callbacks=[monitor])
    >>> monitor.drift < 1e-4
    True
    """

    @takes("BalanceMonitor", {})
    def __init__(self) -> None:
        self.values: list[tuple[_Vector, ...]] = []

    def __repr__(self) -> str:
        """Show how much has changed so far."""
        return f"BalanceMonitor({len(self.values)} records; drift: {self.drift:.3g})"

    @property
    def drift(self) -> float:
        """The Euclidean norm of the change from the first record to the last."""
        if len(self.values) < 2:
            return 0.0
        parts = zip(self.values[-1], self.values[0], strict=True)
        return float(np.sqrt(sum(float(((b - a) ** 2).sum()) for b, a in parts)))

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Discard the previous fit's records, and record the start."""
        self.values = [balancedness(trainer.model)]

    def on_epoch_end(self, trainer: Trainer, record: dict[str, float]) -> None:
        """Record the end of an epoch."""
        self.values.append(balancedness(trainer.model))
