"""The network of an estimator, and the first weights that scikit-learn draws for it."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._arrays import Array
from thalweg.errors import ArgumentError
from thalweg.nn import Identity, Linear, ReLU, Sequential, Sigmoid, Tanh
from thalweg.nn._layers import Layer

ACTIVATIONS = {"identity": Identity, "logistic": Sigmoid, "tanh": Tanh, "relu": ReLU}


def layers(
    width: int, hidden: Any, activation: Any, out_features: int
) -> tuple[list[Any], list[int]]:
    """Give all layers of an estimator, and the places of dense ones that were made of numbers."""
    if not isinstance(activation, Layer):
        activation = ACTIVATIONS[_checks.one_of("activation", activation, ACTIVATIONS)]()
    if not isinstance(hidden, Iterable) or isinstance(hidden, (str, bytes)):
        hidden = (hidden,)
    found: list[Any] = []
    made = []
    for place, size in enumerate(hidden):
        if isinstance(size, Layer):
            found.append(size)
            width = getattr(size, "out_features", width)  # most leave it as it is
            continue
        try:
            size = _checks.integer(f"hidden_layer_sizes[{place}]", size, 1)
        except ArgumentError as error:
            raise ArgumentError(f"{error}; layers of thalweg.nn are taken, too") from None
        made.append(len(found))
        found += [Linear(width, size), activation]
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


def linear_layers(model: Sequential) -> list[int]:
    """Give the places of the dense layers."""
    return [i for i, layer in enumerate(model.layers) if isinstance(layer, Linear)]


def matrices(model: Sequential) -> Array:
    """Give 1 for each parameter of a matrix and 0 for others, biases for instance."""
    parts = [np.full(math.prod(shape), len(shape) == 2) for _, shape in model._blocks()]
    marks: Array = np.concatenate(parts).astype(model.dtype)
    return marks
