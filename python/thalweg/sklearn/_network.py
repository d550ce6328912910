"""The network of an estimator, and the initial weights that scikit-learn would draw for it."""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from thalweg import _checks, _habits
from thalweg._arrays import Array
from thalweg.errors import ArgumentError
from thalweg.nn import Identity, Linear, ReLU, Sequential, Sigmoid, Tanh
from thalweg.nn._layers import Block, Layer, width_behind
from thalweg.sklearn import _arguments

ACTIVATIONS = {"identity": Identity(), "logistic": Sigmoid(), "tanh": Tanh(), "relu": ReLU()}
#: Keras's name for one of them, which would otherwise be taken for `nn.Linear`.
_ALIASES = {"linear": "Identity"}


def hidden_layers(sizes: Any) -> tuple[Any, ...]:
    """Return `hidden_layer_sizes` as a tuple of numbers and layers, or raise."""
    if isinstance(sizes, Sequential):
        raise ArgumentError(
            "hidden_layer_sizes must be sizes or layers; got a model. Use its layers with "
            "hidden_layer_sizes=model.layers: they are initialized anew, and a Linear to the "
            "outputs follows them"
        )
    several = _checks.is_several(sizes)
    given = _checks.sequence("hidden_layer_sizes", sizes) if several else (sizes,)
    found: list[Any] = []
    for place, size in enumerate(given):
        if isinstance(size, Layer):
            found.append(size)
            continue
        try:
            found.append(_checks.integer(f"hidden_layer_sizes[{place}]", size, 1))
        except ArgumentError as error:
            meant = _habits.kind_meant(size, Layer, "nn")
            raise ArgumentError(f"{error}; it may also be a layer of thalweg.nn{meant}") from None
    return tuple(found)


def activation(value: Any) -> Layer:
    """Return the layer for an `activation`, or raise."""
    if isinstance(value, Layer):
        return value
    name = _arguments.named_or_made("activation", value, ACTIVATIONS, Layer, "nn", _ALIASES)
    return ACTIVATIONS[name]


def layers(
    width: int, hidden: Iterable[Any], behind: Layer, out_features: int
) -> tuple[list[Any], list[int]]:
    """Return all layers of an estimator, and the positions of dense ones made from numbers."""
    found: list[Any] = []
    made = []
    for size in hidden:
        if isinstance(size, Layer):
            found.append(size)
            width = width_behind(size, width)
            continue
        made.append(len(found))
        found += [Linear(width, size), behind]
        width = size
    made.append(len(found))
    return [*found, Linear(width, out_features)], made


def build(
    layers: list[Any], made: list[int], factor: float, dtype: np.dtype[Any], random: Any
) -> Sequential:
    """Make the network, and draw from `random` what scikit-learn draws.

    For the layers at `made`, a seed thus gives the same initial weights as in scikit-learn; layers
    that were passed in are initialized as usual.
    """
    drawn = {}
    for index in made:
        i, o = layers[index].in_features, layers[index].out_features
        bound = math.sqrt(factor / (i + o))
        drawn[f"{index}.weight"] = random.uniform(-bound, bound, (i, o)).T
        drawn[f"{index}.bias"] = random.uniform(-bound, bound, o)
    # A copy draws the seed, so that `random` continues with what scikit-learn draws next.
    seed = int(copy.deepcopy(random).randint(2**31 - 1))
    model = Sequential(*layers, dtype=dtype, seed=seed)
    model.load_state_dict(model.state_dict() | drawn)
    return model


def dense(model: Sequential) -> dict[str, Linear]:
    """Return the dense layers, also those in a block, by position, such as ``"2.0"``."""
    return dict(_dense(model.layers, ""))


def _dense(layers: Iterable[Layer], prefix: str) -> Iterator[tuple[str, Linear]]:
    for index, layer in enumerate(layers):
        if isinstance(layer, Linear):
            yield f"{prefix}{index}", layer
        elif isinstance(layer, Block):
            yield from _dense(layer.layers, f"{prefix}{index}.")


def penalized(model: Sequential) -> Array:
    """Return 1 for each penalized parameter, a weight of a dense layer, and 0 for others."""
    marks: Array = np.zeros(model.num_parameters, model.dtype)
    parts = model.unflatten(marks)
    for place in dense(model):
        parts[f"{place}.weight"][:] = 1
    return marks
