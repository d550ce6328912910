"""Outputs of hidden layers."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from thalweg import _arrays, nn
from thalweg._habits import takes
from thalweg.errors import ArgumentError
from thalweg.nn import Sequential
from thalweg.nn._layers import Block, with_inner
from thalweg.nn._layers._base import Activation

#: Element-wise layers whose outputs are not activations of units.
_NO_UNITS = (nn.Dropout, nn.Flatten, nn.Identity)


def body(model: Sequential) -> Sequential:
    """Copy a model up to its last linear layer: it computes the features for classification.

    Raises
    ------
    ArgumentError
        If there is nothing before that layer.
    """
    places = [i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Linear)]
    before = model.layers[: places[-1]] if places else ()
    if not any(isinstance(layer, nn.Linear) for layer in with_inner(before)):
        raise ArgumentError(
            "the model has no features, which are the inputs of its last nn.Linear, behind others:"
            f" it needs at least 2 nn.Linear layers; got {len(places)}"
        )
    return model[: places[-1]]


@takes("metrics.activations", {})
def activations(model: Sequential, x: npt.ArrayLike) -> list[Any]:
    """Return the output of every activation behind the first linear layer, except `nn.Identity`.

    Parameters
    ----------
    model : Sequential
    x : array_like, shape (n, in_features)

    Returns
    -------
    list of ndarray of shape (n, units)

    Raises
    ------
    ThalwegError
        If the samples do not fit the model.
    ArgumentError
        If `model` is not a model.
    """
    if not isinstance(model, Sequential):
        raise ArgumentError(f"model must be an nn.Sequential; got {type(model).__name__}")
    given: list[Any] = []
    rows = _arrays.as_array(x, "x")
    # The layers from the latest linear one on, which takes `rows`; at first, all from the start.
    first, linear = 0, False
    for place, layer in enumerate(model.layers[:-1]):
        if isinstance(layer, nn.Linear):
            if linear:
                rows, first = model[first:place](rows), place
            linear = True
        elif isinstance(layer, Block):
            linear = linear or any(isinstance(it, nn.Linear) for it in with_inner([layer]))
        elif linear and isinstance(layer, Activation) and not isinstance(layer, _NO_UNITS):
            given.append(model[first : place + 1](rows))
    return given
