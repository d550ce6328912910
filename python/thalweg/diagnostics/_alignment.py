"""Permutations of hidden units, and distances between models modulo symmetries."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks, _parts
from thalweg._arrays import Targets
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg.diagnostics._symmetry import balance, hidden, rebuilt
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import Layer, Sequential
from thalweg.nn._layers import Block

#: Fields of layers that only concern initialization or training.
_OF_TRAINING = {"init", "momentum", "p"}


@takes("diagnostics.align", {})
def align(model: Sequential, reference: Sequential, *, seed: int = 0) -> Sequential:
    r"""Copy a model with its hidden units in the order that best matches another model.

    By weight matching (Ainsworth, Hayase & Srinivasa 2023, arXiv:2209.04836, algorithm 1): for one
    layer after another, the permutation that maximizes :math:`\langle \theta, \theta_{ref} \rangle`
    is found exactly, with those of the other layers fixed, until none changes.

    Parameters
    ----------
    model, reference : Sequential
        Models with the same layers, except for how these are initialized or trained; neither is
        changed. Activations must work element by element.
    seed : int, keyword only, default 0
        Seed of the order in which layers are visited.

    Returns
    -------
    Sequential
        A model of the same function as `model`.

    Raises
    ------
    ImportError
        If SciPy is not installed.
    ArgumentError
        If one is not an `nn.Sequential`, or `seed` is out of range.
    UnsupportedError
        If a layer between two `nn.Linear` does not work element by element.
    ShapeError
        If the layers of the two differ.

    Notes
    -----
    With several hidden layers, this is a local optimum; finding the global one is NP-hard. Bring
    rescaled models to a common scale with `balance` first.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ImportError("aligning models needs SciPy: pip install scipy") from None
    _same(model, reference, ("model", "reference"))
    pairs = hidden(model, homogeneous=False)
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
    return rebuilt(model, a)


def _same(a: Sequential, b: Sequential, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise unless two models, which the user calls by these names, have the same layers."""
    for name, model in zip(names, (a, b), strict=True):
        _parts.checked(model, name)
    pairs = itertools.zip_longest(a.layers, b.layers)
    for index, (one, other) in enumerate(pairs):
        if one is None or other is None or _computed(one) != _computed(other):
            got = ("none" if layer is None else repr(layer) for layer in (one, other))
            raise ShapeError(
                f"the two models must have the same layers; layer {index} is {' and '.join(got)}"
            )


def _computed(layer: Layer) -> tuple[Any, ...]:
    """Return what determines the function of a layer in evaluation, except for its weights."""
    kind = type(layer)
    if isinstance(layer, Block):
        return (kind, *map(_computed, layer.layers))
    # A layer without arguments need not be a dataclass.
    fields = getattr(kind, "__dataclass_fields__", ())
    return (kind, *(getattr(layer, name) for name in fields if name not in _OF_TRAINING))


@dataclass(frozen=True)
class Distance:
    r"""How far apart two models are, in four senses. All are relative to the second model.

    Attributes
    ----------
    raw : float
        :math:`\lVert \theta_a - \theta_b \rVert / \lVert \theta_b \rVert`, for the weights as they
        are.
    scaled : float
        The same after `balance` of both models, which removes rescalings.
    aligned : float
        The same after `align` as well, which removes permutations. It is an upper bound of the
        distance modulo both, as alignment finds a local optimum.
    function : float
        :math:`\lVert f_a(x) - f_b(x) \rVert / \lVert f_b(x) \rVert` over the given samples.
    """

    raw: float
    scaled: float
    aligned: float
    function: float


@takes("diagnostics.distance", {})
def distance(a: Sequential, b: Sequential, x: npt.ArrayLike) -> Distance:
    """Compare two models: their weights, their weights modulo symmetry, and their functions.

    Parameters
    ----------
    a, b : Sequential
        Models with the same layers, with `nn.ReLU` or `nn.LeakyReLU` between the linear ones.
    x : array_like, shape (n, in_features)
        Samples at which the functions are compared, at least one.

    Returns
    -------
    Distance

    Raises
    ------
    ImportError
        If SciPy is not installed.
    ArgumentError
        If `a` or `b` is not an `nn.Sequential`.
    UnsupportedError
        If a layer between two `nn.Linear` is not homogeneous.
    ShapeError, DataError, DtypeError
        If the models' layers differ, also in arguments such as the slope of an `nn.LeakyReLU`; or
        `x` does not fit.

    Examples
    --------
    A network, and the same network with its units reversed and rescaled:

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
    outputs = a.astype("float64")(x), b.astype("float64")(x)
    if len(outputs[0]) == 0:
        raise ShapeError(f"x must have at least one row; got shape {np.shape(x)}")
    one, other = balance(a.astype("float64")), balance(b.astype("float64"))
    matched = align(one, other)
    return Distance(
        _relative(a.flat_parameters, b.flat_parameters),
        _relative(one.flat_parameters, other.flat_parameters),
        _relative(matched.flat_parameters, other.flat_parameters),
        _relative(*outputs),
    )


def _relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    unit = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) or 1.0  # squares could overflow
    size = float(np.linalg.norm(b / unit))
    difference = float(np.linalg.norm(a / unit - b / unit))
    return difference / size if size > 0 else (0.0 if difference == 0 else float("inf"))


@takes("diagnostics.barrier", {})
def barrier(
    a: Sequential,
    b: Sequential,
    trainer: Trainer,
    x: npt.ArrayLike,
    y: Targets,
    *,
    points: int = 11,
) -> float:
    r"""Measure the loss barrier: how much worse the models between two models are.

    .. math:: \max_t \; L((1-t)\,\theta_a + t\,\theta_b) - (1-t)\,L(\theta_a) - t\,L(\theta_b)

    Running averages of `nn.BatchNorm1d` are interpolated like the parameters. Frankle et al. 2020,
    arXiv:1912.05671, with the linear interpolation of Entezari et al. 2022.

    Parameters
    ----------
    a, b : Sequential
        Models with the same layers.
    trainer : Trainer
        Its loss is `L`; its model is not used.
    x, y : array_like
        As for `Trainer.evaluate`.
    points : int, keyword only, default 11
        The number of values `t` from 0 to 1, at least 3.

    Returns
    -------
    float
        At least 0, the value at both ends.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError
        If an argument is not as above.
    """
    from thalweg.optim import SGD

    _same(a, b)
    if not isinstance(trainer, Trainer):
        raise ArgumentError(f"trainer must be a Trainer; got {_checks.given(trainer)}")
    t = np.linspace(0, 1, _checks.integer("points", points, 3))
    middle = a.astype("float64")
    judge = Trainer(middle, loss=trainer.loss, optimizer=SGD(lr=0.0))
    one, other = (m.astype("float64").state_dict() for m in (a, b))
    losses = []
    for s in t:
        # Including running averages, so that both ends are the given models.
        middle.load_state_dict({n: (1 - s) * v + s * other[n] for n, v in one.items()})
        losses.append(judge.evaluate(x, y)["loss"])
    return float(np.max(losses - (1 - t) * losses[0] - t * losses[-1]))
