r"""Networks with different weights that are the same function.

A unit of `nn.ReLU` may have its input weights multiplied and its output weights divided by the same
number; the units of a layer may change places. So weights say little one by one, and two networks
are compared only after what does not matter has been taken out.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg.callbacks import Callback
from thalweg.errors import ArgumentError, ShapeError, UnsupportedError
from thalweg.nn import Dropout, Identity, LeakyReLU, Linear, ReLU, Sequential
from thalweg.nn._layers import Activation

if TYPE_CHECKING:
    from thalweg._trainer import Trainer

_Vector = npt.NDArray[np.float64]

#: Element by element, and f(c x) = c f(x) for c > 0.
_HOMOGENEOUS = (ReLU, LeakyReLU, Identity, Dropout)


def _pairs(model: Sequential, homogeneous: bool = True) -> list[tuple[int, int]]:
    """Give the positions of each two `Linear` with a hidden layer of units between them."""
    places = [i for i, layer in enumerate(model.layers) if isinstance(layer, Linear)]
    pairs = list(itertools.pairwise(places))
    allowed = _HOMOGENEOUS if homogeneous else (Activation, Identity, Dropout)
    outside = [i for i in range(len(model.layers)) if not places or i < places[0] or i > places[-1]]
    for index, layer in enumerate(model.layers):
        inside = index not in outside and index not in places
        if inside and not isinstance(layer, allowed):
            what = "scaled (ReLU, LeakyReLU)" if homogeneous else "permuted (element by element)"
            raise UnsupportedError(
                f"layer {index}, {layer!r}, stands between units that can be {what} and their next "
                "Linear; BatchNorm1d behind a Linear can be folded into it by model.fold()"
            )
    if not pairs:
        raise UnsupportedError("there are no hidden units: the model has a single Linear")
    return pairs


def _copy(model: Sequential, state: dict[str, Any]) -> Sequential:
    copy = model.astype(model.dtype.name)
    copy.load_state_dict(state)
    return copy


def rescale(model: Sequential, factors: Any, *, layer: int = 0) -> Sequential:
    r"""Copy a model with hidden units scaled, and undone in the next layer: the same function.

    .. math:: W_{in} \to \operatorname{diag}(c) W_{in},\quad b_{in} \to c\,b_{in},\quad
              W_{out} \to W_{out} \operatorname{diag}(1/c)

    since :math:`\max(cz, 0) = c \max(z, 0)` for :math:`c > 0`. The gradients are divided by `c`
    where the weights are multiplied, and the other way round.

    Parameters
    ----------
    model : Sequential
        Is not changed. Hidden layers are `nn.ReLU` or `nn.LeakyReLU`.
    factors : array_like, shape (units,), or a number
        :math:`c`, above 0.
    layer : int, keyword only, default 0
        Which hidden layer, counted from the input.

    Returns
    -------
    Sequential
        Its output is the same to rounding; with powers of two as factors, to the last bit.

    Raises
    ------
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    ArgumentError, ShapeError, DataError
        If the factors, or `layer`, are not such.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> other = tw.diagnostics.rescale(model, [1, 2, 0.25])
    >>> bool((other(np.ones((4, 2))) == model(np.ones((4, 2)))).all())
    True
    """
    pairs = _pairs(model)
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
    return _copy(model, state)


def _scale(state: dict[str, Any], before: int, behind: int, c: _arrays.Array) -> None:
    state[f"{before}.weight"] = c[:, np.newaxis] * state[f"{before}.weight"]
    if f"{before}.bias" in state:
        state[f"{before}.bias"] = c * state[f"{before}.bias"]
    state[f"{behind}.weight"] = state[f"{behind}.weight"] / c


def _squares(state: dict[str, Any], before: int, behind: int) -> tuple[_Vector, _Vector]:
    """Squared norms of what comes into each unit, bias included, and of what goes out."""
    come = (state[f"{before}.weight"].astype(np.float64) ** 2).sum(axis=1)
    if f"{before}.bias" in state:
        come = come + state[f"{before}.bias"].astype(np.float64) ** 2
    return come, (state[f"{behind}.weight"].astype(np.float64) ** 2).sum(axis=0)


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
        Hidden layers are `nn.ReLU` or `nn.LeakyReLU`.

    Returns
    -------
    tuple of ndarray, each of shape (units,)
        One for each hidden layer.

    Raises
    ------
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    """
    state = model.state_dict()
    squares = [_squares(state, *pair) for pair in _pairs(model)]
    return tuple(come - go for come, go in squares)


def balance(model: Sequential) -> Sequential:
    r"""Copy a model with the smallest sum of squares among all that are rescalings of it.

    That is the one that weight decay moves to, and the representative by which `distance` compares
    models: each unit is scaled until :math:`D_j = 0` (see `balancedness`). With several hidden
    layers this is repeated until nothing changes.

    Parameters
    ----------
    model : Sequential
        Is not changed. Hidden layers are `nn.ReLU` or `nn.LeakyReLU`.

    Returns
    -------
    Sequential
        The same function. Units without any input or output weight have none on the other side
        either.

    Raises
    ------
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    """
    pairs = _pairs(model)
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
    return _copy(model, state)


def align(model: Sequential, reference: Sequential, *, seed: int = 0) -> Sequential:
    r"""Copy a model with its hidden units in the order that fits another one best.

    By weight matching (Ainsworth, Hayase & Srinivasa 2023, arXiv:2209.04836, algorithm 1): layer
    after layer, the permutation that makes :math:`\langle \theta, \theta_{ref} \rangle` largest is
    found exactly while those of the other layers stay, until none changes.

    Parameters
    ----------
    model, reference : Sequential
        Of the same layers; neither is changed. Activations are element by element.
    seed : int, keyword only, default 0
        Seed of the order in which layers are visited.

    Returns
    -------
    Sequential
        The same function as `model`.

    Raises
    ------
    ImportError
        If SciPy is not installed.
    UnsupportedError
        If a layer between two `nn.Linear` is not element by element.
    ShapeError
        If the two have other layers.

    Notes
    -----
    With several hidden layers this is a local optimum; the global one is NP-hard. Rescaled models
    should be brought to one scale by `balance` first.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ImportError(
            'aligning models needs SciPy; install it with: pip install "thalweg[diagnostics]"'
        ) from None
    _same(model, reference)
    pairs = _pairs(model, homogeneous=False)
    a = {name: values.astype(np.float64) for name, values in model.state_dict().items()}
    b = {name: values.astype(np.float64) for name, values in reference.state_dict().items()}
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    for _ in range(100):
        changed = False
        for k in rng.permutation(len(pairs)):
            before, behind = pairs[k]
            gain = b[f"{before}.weight"] @ a[f"{before}.weight"].T
            gain = gain + b[f"{behind}.weight"].T @ a[f"{behind}.weight"]
            if f"{before}.bias" in a:
                gain = gain + np.outer(b[f"{before}.bias"], a[f"{before}.bias"])
            _, order = linear_sum_assignment(gain, maximize=True)
            if gain[range(len(order)), order].sum() <= np.trace(gain) + 1e-12 * np.abs(gain).max():
                continue
            changed = True
            a[f"{before}.weight"] = a[f"{before}.weight"][order]
            if f"{before}.bias" in a:
                a[f"{before}.bias"] = a[f"{before}.bias"][order]
            a[f"{behind}.weight"] = a[f"{behind}.weight"][:, order]
        if not changed:
            break
    return _copy(model, a)


def _same(a: Sequential, b: Sequential) -> None:
    if a._core.blocks() != b._core.blocks() or len(a) != len(b):
        raise ShapeError(
            "the two models must have the same layers; got "
            f"{[type(layer).__name__ for layer in a.layers]}, {a.num_parameters} parameters, and "
            f"{[type(layer).__name__ for layer in b.layers]}, {b.num_parameters} parameters"
        )


@dataclass(frozen=True)
class Distance:
    r"""How far two models are apart, in four senses. All are relative to the second model.

    Attributes
    ----------
    raw : float
        :math:`\lVert \theta_a - \theta_b \rVert / \lVert \theta_b \rVert`, weights as they are.
    scaled : float
        The same of both models' `balance`: rescalings do not count.
    aligned : float
        The same after `align` as well: nor do permutations. It is an upper bound of the distance
        modulo both, for alignment finds a local optimum.
    function : float
        :math:`\lVert f_a(x) - f_b(x) \rVert / \lVert f_b(x) \rVert` over given samples.
    """

    raw: float
    scaled: float
    aligned: float
    function: float


def distance(a: Sequential, b: Sequential, x: Any) -> Distance:
    """Compare two models: their weights, their weights modulo symmetry, and what they compute.

    Parameters
    ----------
    a, b : Sequential
        Of the same layers, with `nn.ReLU` or `nn.LeakyReLU` between.
    x : array_like, shape (n, in_features)
        Samples at which the functions are compared.

    Returns
    -------
    Distance

    Raises
    ------
    ImportError
        If SciPy is not installed.
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    ShapeError, DataError, DtypeError
        If the models have other layers, or `x` is not such an array.

    Examples
    --------
    A network and the same one with its units reversed and rescaled:

    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> a = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1), dtype="float64")
    >>> b = tw.diagnostics.rescale(a, [8, 4, 2, 1])
    >>> state = b.state_dict()
    >>> b.load_state_dict({"0.weight": state["0.weight"][::-1], "0.bias": state["0.bias"][::-1],
    ...                    "2.weight": state["2.weight"][:, ::-1], "2.bias": state["2.bias"]})
    >>> d = tw.diagnostics.distance(a, b, np.eye(2))
    >>> d.raw > 0.5, d.aligned < 1e-12, d.function < 1e-12
    (True, True, True)
    """
    _same(a, b)
    one, other = balance(a.astype("float64")), balance(b.astype("float64"))
    matched = align(one, other)
    return Distance(
        _relative(a.flat_parameters, b.flat_parameters),
        _relative(one.flat_parameters, other.flat_parameters),
        _relative(matched.flat_parameters, other.flat_parameters),
        _relative(a.astype("float64")(x), b.astype("float64")(x)),
    )


def _relative(a: Any, b: Any) -> float:
    size = float(np.linalg.norm(b))
    difference = float(np.linalg.norm(np.asarray(a, np.float64) - b))
    return difference / size if size > 0 else (0.0 if difference == 0 else float("inf"))


def barrier(
    a: Sequential, b: Sequential, trainer: "Trainer", x: Any, y: Any, *, points: int = 11
) -> float:
    r"""Measure how much worse the models between two models are.

    .. math:: \max_t \; L((1-t)\,\theta_a + t\,\theta_b) - (1-t)\,L(\theta_a) - t\,L(\theta_b)

    Frankle et al. 2020, arXiv:1912.05671, with the linear interpolation of Entezari et al. 2022.

    Parameters
    ----------
    a, b : Sequential
        Of the same layers.
    trainer : Trainer
        Whose loss `L` is; its model is not used.
    x, y : array_like
        As for `Trainer.evaluate`.
    points : int, keyword only, default 11
        How many `t` from 0 to 1, at least 3.

    Returns
    -------
    float
        At least 0, the value at both ends.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError
        If the arguments are not such.
    """
    from thalweg._trainer import Trainer
    from thalweg.optim import SGD

    _same(a, b)
    t = np.linspace(0, 1, _checks.integer("points", points, 3))
    middle = a.astype("float64")
    judge = Trainer(middle, loss=trainer.loss, optimizer=SGD(lr=0.0))
    ends = a.flat_parameters.astype(np.float64), b.flat_parameters.astype(np.float64)
    losses = []
    for s in t:
        middle.flat_parameters = (1 - s) * ends[0] + s * ends[1]
        losses.append(judge.evaluate(x, y)["loss"])
    return float(np.max(losses - (1 - t) * losses[0] - t * losses[-1]))


class BalanceMonitor(Callback):
    r"""Records `balancedness` during a fit, to see what the training conserves.

    Attributes
    ----------
    values : list of tuple of ndarray
        At the beginning of the fit, and after each epoch.

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

    def __init__(self) -> None:
        self.values: list[tuple[_Vector, ...]] = []

    @property
    def drift(self) -> float:
        """The Euclidean norm of the change from the first record to the last."""
        if len(self.values) < 2:
            return 0.0
        parts = zip(self.values[-1], self.values[0], strict=True)
        return float(np.sqrt(sum(float(((b - a) ** 2).sum()) for b, a in parts)))

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Forget the fit before, and record the beginning."""
        self.values = [balancedness(trainer.model)]

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> None:
        """Record an epoch."""
        self.values.append(balancedness(trainer.model))
