"""Blocks of layers."""

from collections.abc import Iterable, Iterator
from typing import Any

from thalweg import _habits
from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.nn._layers._base import Layer, check_layer
from thalweg.nn._layers._tables import Embedding

#: Other libraries' names for the arguments of `Residual`.
_ELSEWHERE = {
    **_habits.OF_LAYERS,
    **dict.fromkeys(("module", "block", "fn"), "layers come one by one: nn.Residual(*layers)"),
}


@description
class Residual(Layer):
    r"""A block of layers whose output is added to its input, :math:`y = x + f(x)`.

    `f` is a list of layers, applied in order as in `Sequential`. Its output has the width of its
    input. With `g` the gradient of the loss with respect to `y`, the gradient with respect to `x`
    is `g` plus what `f` propagates back from it. He, Zhang, Ren & Sun 2016, arXiv:1512.03385; with
    the normalization first in the block, it is the "pre-activation" block of arXiv:1603.05027.

    Parameters
    ----------
    *layers : Layer
        The layers of `f` in order, at least one. They may include another `Residual`.

    Raises
    ------
    ArgumentError
        If there is no layer, or something is not a layer.
    ShapeError
        From `Sequential`, if a layer does not fit the previous one, or the block's output and input
        differ in width.

    Notes
    -----
    If the block is layer 2 of the model, the parameters of its layer 0 are named ``"2.0.weight"``
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

    @_habits.takes("Residual", _ELSEWHERE)
    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ArgumentError("Residual: layers is empty; a block needs at least one layer")
        for index, layer in enumerate(layers):
            check_layer("Residual: ", index, layer)
            if isinstance(layer, Embedding):
                raise ArgumentError(
                    f"Residual: layer {index} is {layer!r}, whose input is codes: it must be the "
                    "first layer of the model"
                )
        object.__setattr__(self, "layers", layers)  # the dataclass is frozen

    def __repr__(self) -> str:
        return f"Residual({', '.join(map(repr, self.layers))})"

    def _spec(self) -> tuple[Any, ...]:
        return ("residual", [layer._spec() for layer in self.layers])


def with_inner(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Yield the layers, replacing each block by the layers in it."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from with_inner(layer.layers)
        else:
            yield layer
