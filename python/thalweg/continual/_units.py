"""Hidden units: which parameters lead to them, which away from them, and what they give."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg import nn
from thalweg.continual._features import part
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Sequential


@dataclass(frozen=True)
class Units:
    """The units that one linear layer takes.

    Attributes
    ----------
    place : int
        The layer that takes them.
    incoming : list of ndarray of int, shapes (width, ...)
        Where in the flat parameters those are that lead to each unit: rows of the linear layer
        before, its bias, and a normalization in between.
    outgoing : ndarray of int, shape (outputs, width)
        Where those are that lead away.
    """

    place: int
    incoming: list[Any]
    outgoing: Any

    @property
    def width(self) -> int:
        """How many units there are."""
        return int(self.outgoing.shape[1])


def places(model: Sequential) -> dict[str, Any]:
    """Give where each array of parameters is in ``model.flat_parameters``, by its name."""
    found, start = {}, 0
    for name, value in model.state_dict().items():
        if "running_" in name:  # averages are no parameters
            continue
        found[name] = np.arange(start, start + value.size).reshape(value.shape)
        start += value.size
    assert start == model.num_parameters
    return found


def hidden(model: Sequential) -> list[Units]:
    """Give the hidden units, in the order of the layers.

    Raises
    ------
    ArgumentError
        If there are none.
    UnsupportedError
        If there are blocks, whose units have more than one way out.
    """
    if any(isinstance(layer, nn.Residual) for layer in model.layers):
        raise UnsupportedError("hidden units of a model with nn.Residual are not told apart yet")
    linear = [i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Linear)]
    if len(linear) < 2:
        raise ArgumentError("the model has no hidden units: it needs two nn.Linear or more")
    at = places(model)
    found = []
    for before, place in itertools.pairwise(linear):
        names = [name for name in at if before <= int(name.split(".")[0]) < place]
        found.append(Units(place, [at[name] for name in names], at[f"{place}.weight"]))
    return found


def given(model: Sequential, units: list[Units], x: Any) -> list[Any]:
    """Give what the units give for some samples, in evaluation mode; shapes (n, width)."""
    rows, first, found = np.asarray(x), 0, []
    for some in units:
        rows = part(model, first, some.place)(rows)
        first = some.place
        found.append(rows)
    return found


def fresh(model: Sequential, seed: int) -> Any:
    """Give flat parameters as a new model of this kind begins with, by another seed."""
    return Sequential(*model.layers, dtype=model.dtype.name, seed=seed).flat_parameters
