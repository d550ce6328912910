"""Hidden units: the parameters that lead into and out of them, and their outputs."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg import nn
from thalweg._trainer import Trainer, _hooked
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Sequential
from thalweg.nn._layers import Block, kind_of


@dataclass(frozen=True)
class Units:
    """The units that one linear layer takes as inputs.

    Attributes
    ----------
    place : int
        The index of that layer.
    incoming : list of ndarray of int, shapes (width, ...)
        The indices in the flat parameters that lead into each unit: rows of the previous linear
        layer, its bias, and a normalization in between.
    outgoing : ndarray of int, shape (outputs, width)
        The indices that lead out of each unit.
    """

    place: int
    incoming: list[Any]
    outgoing: Any

    @property
    def width(self) -> int:
        """How many units there are."""
        return int(self.outgoing.shape[1])

    def having(self, marked: Any) -> Any:
        """Mark the units with a marked parameter that leads in or out."""
        found = marked[self.outgoing].any(axis=0)
        for places in self.incoming:
            found |= marked[places].reshape(self.width, -1).any(axis=1)
        return found

    def weights_out(self, theta: Any) -> Any:
        """Return the outgoing weights, shape (outputs, width): a view of flat parameters."""
        first = int(self.outgoing[0, 0])  # a layer's weight is contiguous
        return theta[first : first + self.outgoing.size].reshape(self.outgoing.shape)


def places(model: Sequential) -> dict[str, Any]:
    """Return the indices of each array of parameters in ``model.flat_parameters``, by name."""
    return model.unflatten(np.arange(model.num_parameters))


def frozen(trainer: Trainer) -> Any:
    """Mark the flat parameters that the optimizer leaves unchanged, ``frozen=True``."""
    return _hooked.frozen(trainer.model, trainer.optimizer)


def has_averages(model: Sequential) -> bool:
    """Whether a model has running averages: not parameters, and updated in training, too."""
    return any("running_" in name for name in model.state_dict())


def hidden(model: Sequential) -> list[Units]:
    """Return the hidden units, in the order of the layers.

    Raises
    ------
    ArgumentError
        If there are none.
    UnsupportedError
        If there are blocks, whose units have more than one way out, or Fourier features of units.
    """
    if blocks := [layer for layer in model.layers if isinstance(layer, Block)]:
        raise UnsupportedError(
            f"models with nn.{kind_of(blocks[0]).__name__} are not supported yet: their hidden "
            "units cannot be told apart"
        )
    linear = [i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Linear)]
    if len(linear) < 2:
        raise ArgumentError(
            f"the model has no hidden units: it needs at least 2 nn.Linear; got {len(linear)}"
        )
    at = places(model)
    found = []
    for before, place in itertools.pairwise(linear):
        if any(isinstance(layer, nn.FourierFeatures) for layer in model.layers[before:place]):
            raise UnsupportedError(
                "nn.FourierFeatures mixes all hidden units, so they cannot be told apart behind it:"
                " put it before the first nn.Linear"
            )
        names = [name for name in at if before <= int(name.split(".")[0]) < place]
        found.append(Units(place, [at[name] for name in names], at[f"{place}.weight"]))
    return found


class Given:
    """Outputs of the units for some samples, in evaluation mode, while a model is being trained.

    Copies of the model's parts are made once and updated with its parameters, which is many times
    faster than making them anew for each batch.
    """

    def __init__(self, model: Sequential, units: list[Units]) -> None:
        self._model = model
        firsts = [0, *(some.place for some in units)]
        self._pieces = [slice(*pair) for pair in itertools.pairwise(firsts)]
        self._parts = [model[piece] for piece in self._pieces]
        self._averages = has_averages(model)

    def __call__(self, x: Any) -> list[Any]:
        """Compute an array of shape (n, width) for each layer of units."""
        if self._averages:
            self._parts = [self._model[piece] for piece in self._pieces]
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
    """Return the initial flat parameters of a new model of this kind with another seed."""
    return Sequential(*model.layers, dtype=model.dtype, seed=seed).flat_parameters
