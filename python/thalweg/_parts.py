"""Pieces of a model as float64 models of their own."""

import numpy as np

from thalweg._arrays import Array
from thalweg.nn import Linear, Sequential


def width(model: Sequential, index: int) -> int:
    """How wide the input of a layer is; with the number of layers, the output of the last."""
    found = model.in_features
    for layer in model.layers[:index]:
        found = getattr(layer, "out_features", found)
    return found


def part(model: Sequential, start: int, stop: int) -> Sequential:
    """Copy the layers from `start` to before `stop`, with their numbers.

    Only a `Linear` says how wide its input is. Before others stands one that does nothing: its
    weight is the identity.
    """
    layers = model.layers[start:stop]
    before = 0 if layers and isinstance(layers[0], Linear) else 1
    inputs = width(model, start)
    state: dict[str, Array] = {"0.weight": np.eye(inputs)} if before else {}
    for name, values in model.state_dict().items():
        index, _, rest = name.partition(".")
        if start <= int(index) < stop:
            state[f"{int(index) - start + before}.{rest}"] = values
    nothing = (Linear(inputs, inputs, bias=False),) * before
    copy = Sequential(*nothing, *layers, dtype="float64", seed=model.seed)
    copy.load_state_dict(state)
    return copy
