"""Parts of a model, and models without randomness, as separate float64 models."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg import _habits
from thalweg._arrays import Array
from thalweg.errors import ArgumentError
from thalweg.nn import (
    BatchNorm1d,
    Dropout,
    Embedding,
    Identity,
    Linear,
    Sequential,
    TabularInput,
)
from thalweg.nn._layers import Block, Layer, kind_of, scale_and_shift, width_behind


def checked(model: Any, name: str = "model") -> Sequential:
    """Return `model`, an argument of this name, if it is one."""
    if not isinstance(model, Sequential):
        # A trainer has one, and so does a fitted estimator of tw.sklearn.
        places = [it for it in ("model", "model_") if isinstance(getattr(model, it, 0), Sequential)]
        got = f"{_habits.named(model)}: pass its .{places[0]}" if places else _habits.shown(model)
        if not places and hasattr(model, "steps") and hasattr(model, "named_steps"):
            got += (
                ": pass pipeline[-1].model_ of the fitted pipeline; the layer "
                "nn.Standardize(scaler.mean_, scaler.scale_) replaces a StandardScaler before it"
            )
        raise ArgumentError(f"{name} must be an nn.Sequential; got {got}")
    return model


def width(model: Sequential, index: int) -> int:
    """Return the input width of a layer; for the number of layers, the last one's output width."""
    found = model.in_features
    for layer in model.layers[:index]:
        found = width_behind(layer, found)
    return found


def part(model: Sequential, start: int, stop: int) -> Sequential:
    """Copy layers `start` up to but not including `stop`, with their numbers.

    Only a `Linear` determines the width of the input. If another layer comes first, a `Linear` with
    the identity as its weight is put before it. A table has to be first; if there is no other
    `Linear`, one is put after it.
    """
    layers = model.layers[start:stop]
    first = layers[0] if layers else None
    table = isinstance(first, (Embedding, TabularInput))
    before = 0 if isinstance(first, Linear) or table else 1
    inputs = width(model, start)
    state: dict[str, Array] = {"0.weight": np.eye(inputs)} if before else {}
    for name, values in model.state_dict().items():
        index, _, rest = name.partition(".")
        if start <= int(index) < stop:
            state[f"{int(index) - start + before}.{rest}"] = values
    nothing = (Linear(inputs, inputs, bias=False),) * before
    if table and not any(isinstance(layer, Linear) for layer in layers):
        outputs = width(model, stop)
        state[f"{len(layers)}.weight"] = np.eye(outputs)
        layers = (*layers, Linear(outputs, outputs, bias=False))
    copy = Sequential(*nothing, *layers, dtype="float64", seed=model.seed)
    copy.load_state_dict(state)
    return copy


def frozen(model: Sequential) -> Sequential:
    """Copy a model as in evaluation: each row separately, nothing random.

    A `BatchNorm1d` becomes the affine map of its running averages, a `Dropout` an `Identity`. So
    gradients of this copy are those of what calling the model computes.
    """
    state: dict[str, Array] = {}
    layers = _frozen(model.layers, "", model.state_dict(), state)
    copy = Sequential(*layers, dtype="float64", seed=model.seed)
    copy.load_state_dict(state)
    return copy


def _frozen(
    layers: tuple[Layer, ...], prefix: str, state: Mapping[str, Array], into: dict[str, Array]
) -> list[Layer]:
    made: list[Layer] = []
    for index, layer in enumerate(layers):
        here = f"{prefix}{index}."
        if isinstance(layer, BatchNorm1d):
            own = {n.removeprefix(here): v for n, v in state.items() if n.startswith(here)}
            s, b = scale_and_shift(layer, own)
            into[here + "weight"], into[here + "bias"] = s * np.eye(len(s)), b
            layer = Linear(layer.num_features, layer.num_features)
        elif isinstance(layer, Dropout):
            layer = Identity()
        elif isinstance(layer, Block):
            layer = kind_of(layer)(*_frozen(layer.layers, here, state, into))
        else:
            into.update({n: v for n, v in state.items() if n.startswith(here)})
        made.append(layer)
    return made
