"""Blocks of layers."""

from collections.abc import Iterable, Iterator
from typing import Any

from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.nn._layers._base import Layer, check_layer
from thalweg.nn._layers._tables import Embedding


@description
class Residual(Layer):
    r"""A block that is added to its own input, :math:`y = x + f(x)`.

    `f` is a list of layers, applied one after another as in `Sequential`. Its output is as wide as
    its input. With `g` the gradient of the loss with respect to `y`, that with respect to `x` is
    `g` plus what `f` carries back of it. He, Zhang, Ren & Sun 2016, arXiv:1512.03385; with the
    normalization first in the block, the "pre-activation" of arXiv:1603.05027.

    Parameters
    ----------
    *layers : Layer
        The layers of `f` in order, at least one. Another `Residual` may be among them.

    Raises
    ------
    ArgumentError
        If there is no layer, or something is not a layer.
    ShapeError
        From `Sequential`, if a layer does not fit the one before it, or the block does not give the
        width that it takes.

    Notes
    -----
    The parameters of layer 0 of a block that is layer 2 of the model are called ``"2.0.weight"``
    and ``"2.0.bias"``: PyTorch's names for a module whose child 2 is an ``nn.Sequential`` (a
    subclass whose ``forward`` adds its input).

    Examples
    --------
    >>> from thalweg import nn
    >>> block = nn.Residual(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    >>> model = nn.Sequential(nn.Linear(2, 8), block, block, nn.Linear(8, 1))
    >>> list(model.state_dict())[2:8]
    ['1.0.weight', '1.0.bias', '1.1.weight', '1.1.bias', '1.3.weight', '1.3.bias']
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ArgumentError("Residual: layers is empty; a block needs at least one layer")
        for index, layer in enumerate(layers):
            check_layer("Residual: ", index, layer)
            if isinstance(layer, Embedding):
                raise ArgumentError(
                    f"Residual: layer {index} is {layer!r}, whose codes are an input: it must be "
                    "the first layer of the model"
                )
        object.__setattr__(self, "layers", layers)  # the dataclass is frozen

    def __repr__(self) -> str:
        return f"Residual({', '.join(map(repr, self.layers))})"

    def _spec(self) -> tuple[Any, ...]:
        return ("residual", [layer._spec() for layer in self.layers])


def with_inner(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Give layers, and in the place of each block those in it."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from with_inner(layer.layers)
        else:
            yield layer
