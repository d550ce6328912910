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

    def weights_out(self, theta: Any) -> Any:
        """Give the weights that lead away, shape (outputs, width): a view of flat parameters."""
        first = int(self.outgoing[0, 0])  # a layer's weight is one run
        return theta[first : first + self.outgoing.size].reshape(self.outgoing.shape)


def places(model: Sequential) -> dict[str, Any]:
    """Give where each array of parameters is in ``model.flat_parameters``, by its name."""
    found, start = {}, 0
    for name, shape in model._blocks():
        size = int(np.prod(shape))
        found[name] = np.arange(start, start + size).reshape(shape)
        start += size
    return found


def hidden(model: Sequential) -> list[Units]:
    """Give the hidden units, in the order of the layers.

    Raises
    ------
    ArgumentError
        If there are none.
    UnsupportedError
        If there are blocks, whose units have more than one way out, or waves of units.
    """
    if any(isinstance(layer, nn.Residual) for layer in model.layers):
        raise UnsupportedError("hidden units of a model with nn.Residual are not told apart yet")
    linear = [i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Linear)]
    if len(linear) < 2:
        raise ArgumentError("the model has no hidden units: it needs two nn.Linear or more")
    at = places(model)
    found = []
    for before, place in itertools.pairwise(linear):
        if any(isinstance(layer, nn.FourierFeatures) for layer in model.layers[before:place]):
            raise UnsupportedError(
                "nn.FourierFeatures makes waves of all hidden units together, which are not told"
                " apart behind it: let it stand in front of the first nn.Linear"
            )
        names = [name for name in at if before <= int(name.split(".")[0]) < place]
        found.append(Units(place, [at[name] for name in names], at[f"{place}.weight"]))
    return found


class Given:
    """What units give for some samples, in evaluation mode, as a model goes on being trained.

    The copies of its parts are made once and follow its parameters, which is many times as fast as
    to make them anew for each batch.
    """

    def __init__(self, model: Sequential, units: list[Units]) -> None:
        self._model = model
        firsts = [0, *(some.place for some in units)]
        self._bounds = list(itertools.pairwise(firsts))
        self._parts = [part(model, *pair) for pair in self._bounds]
        self._averages = any("running_" in name for name in model.state_dict())

    def __call__(self, x: Any) -> list[Any]:
        """Give an array of shape (n, width) for each layer of units."""
        if self._averages:  # are no parameters, and go on too
            self._parts = [part(self._model, *pair) for pair in self._bounds]
        rows, found, start = np.asarray(x), [], 0
        theta = None if self._averages else self._model.flat_parameters
        for one in self._parts:
            if theta is not None:
                stop = start + one.num_parameters
                one.flat_parameters, start = theta[start:stop], stop
            rows = one(rows)
            found.append(rows)
        return found


def fresh(model: Sequential, seed: int) -> Any:
    """Give flat parameters as a new model of this kind begins with, by another seed."""
    return Sequential(*model.layers, dtype=model.dtype.name, seed=seed).flat_parameters
