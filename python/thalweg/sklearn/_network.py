"""The network of an estimator, and the first weights that scikit-learn draws for it."""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from thalweg import _checks, _habits
from thalweg._arrays import Array
from thalweg.errors import ArgumentError
from thalweg.nn import Identity, Linear, ReLU, Residual, Sequential, Sigmoid, Tanh
from thalweg.nn._layers import Layer
from thalweg.sklearn import _arguments

ACTIVATIONS = {"identity": Identity, "logistic": Sigmoid, "tanh": Tanh, "relu": ReLU}
#: What Keras calls one of them; here it would be taken for `nn.Linear`.
_ALIASES = {"linear": "Identity"}


def hidden_layers(sizes: Any) -> tuple[Any, ...]:
    """Give `hidden_layer_sizes` as a tuple of numbers and layers, or raise."""
    if isinstance(sizes, Sequential):
        raise ArgumentError(
            "hidden_layer_sizes is a model; hidden_layer_sizes=model.layers takes its layers, "
            "which start anew, and have a last one, to the outputs, behind them"
        )
    if not isinstance(sizes, Iterable) or isinstance(sizes, (str, bytes)):
        sizes = (sizes,)
    found: list[Any] = []
    for place, size in enumerate(sizes):
        if isinstance(size, Layer):
            found.append(size)
            continue
        try:
            found.append(_checks.integer(f"hidden_layer_sizes[{place}]", size, 1))
        except ArgumentError as error:
            meant = _habits.kind_meant(size, Layer, "nn")
            raise ArgumentError(f"{error}; layers of thalweg.nn are taken, too{meant}") from None
    return tuple(found)


def activation(value: Any) -> Layer:
    """Give the layer that an `activation` is, or raise."""
    if isinstance(value, Layer):
        return value
    name = _arguments.named_or_made("activation", value, ACTIVATIONS, Layer, "nn", _ALIASES)
    return ACTIVATIONS[name]()


def layers(
    width: int, hidden: Iterable[Any], behind: Layer, out_features: int
) -> tuple[list[Any], list[int]]:
    """Give all layers of an estimator, and the places of dense ones that were made of numbers."""
    found: list[Any] = []
    made = []
    for size in hidden:
        if isinstance(size, Layer):
            found.append(size)
            width = getattr(size, "out_features", width)  # most leave it as it is
            continue
        made.append(len(found))
        found += [Linear(width, size), behind]
        width = size
    made.append(len(found))
    return [*found, Linear(width, out_features)], made


def build(layers: list[Any], made: list[int], factor: float, dtype: str, random: Any) -> Sequential:
    """Make the network, and draw from `random` what scikit-learn draws.

    So one seed begins with the same numbers here and there, for the layers that were `made`: those
    that were given as such begin as they always do.
    """
    drawn = {}
    for index in made:
        i, o = layers[index].in_features, layers[index].out_features
        bound = math.sqrt(factor / (i + o))
        drawn[f"{index}.weight"] = random.uniform(-bound, bound, (i, o)).T
        drawn[f"{index}.bias"] = random.uniform(-bound, bound, o)
    # A copy draws the seed: what comes next from `random` is what scikit-learn draws next.
    seed = int(copy.deepcopy(random).randint(2**31 - 1))
    model = Sequential(*layers, dtype=dtype, seed=seed)
    model.load_state_dict(model.state_dict() | drawn)
    return model


def dense(model: Sequential) -> dict[str, Linear]:
    """Give the dense layers, also those in a `Residual`, by their places, such as ``"2.0"``."""
    return dict(_dense(model.layers, ""))


def _dense(layers: Iterable[Layer], prefix: str) -> Iterator[tuple[str, Linear]]:
    for index, layer in enumerate(layers):
        if isinstance(layer, Linear):
            yield f"{prefix}{index}", layer
        elif isinstance(layer, Residual):
            yield from _dense(layer.layers, f"{prefix}{index}.")


def penalized(model: Sequential) -> Array:
    """Give 1 for each parameter of the penalty, a weight of a dense layer, and 0 for others."""
    names = {f"{place}.weight" for place in dense(model)}
    parts = [np.full(math.prod(shape), name in names) for name, shape in model._blocks()]
    marks: Array = np.concatenate(parts).astype(model.dtype)
    return marks
