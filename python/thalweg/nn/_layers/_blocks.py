"""Blocks of layers."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from thalweg import _habits
from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.nn._layers._base import Layer, check_layer, kind_of
from thalweg.nn._layers._tables import Embedding


def _elsewhere(name: str) -> dict[str, str]:
    """Return other libraries' names for the arguments of a block."""
    said = f"layers come one by one: nn.{name}(*layers)"
    return {**_habits.OF_LAYERS, **dict.fromkeys(("module", "block", "fn"), said)}


class Block(Layer):
    """Base of the layers that consist of others, which are applied in order."""

    __slots__ = ()

    if TYPE_CHECKING:  # each block defines it, as its field
        layers: tuple[Layer, ...]

    def _set_layers(self, layers: tuple[Layer, ...]) -> None:
        """Check the layers and keep them."""
        name = kind_of(self).__name__
        if not layers:
            raise ArgumentError(f"{name}: layers is empty; a block needs at least one layer")
        for index, layer in enumerate(layers):
            check_layer(f"{name}: ", index, layer)
            if isinstance(layer, Embedding):
                raise ArgumentError(
                    f"{name}: layer {index} is {layer!r}, whose input is codes: it must be the "
                    "first layer of the model"
                )
        self._set(layers=layers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"

    def _spec(self) -> tuple[Any, ...]:
        return (kind_of(self).__name__.lower(), [layer._spec() for layer in self.layers])


@description
class Residual(Block):
    r"""A block of layers whose output is added to its input, :math:`y = x + f(x)`.

    `f` is a list of layers, applied in order as in `Sequential`. Its output has the width of its
    input. With `g` the gradient of the loss with respect to `y`, the gradient with respect to `x`
    is `g` plus what `f` propagates back from it. He, Zhang, Ren & Sun 2016, arXiv:1512.03385; with
    the normalization first in the block, it is the "pre-activation" block of arXiv:1603.05027.

    Parameters
    ----------
    *layers : Layer
        The layers of `f` in order, at least one. They may include other blocks.

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

    @_habits.takes("Residual", _elsewhere("Residual"))
    def __init__(self, *layers: Layer) -> None:
        self._set_layers(layers)


@description
class Concatenate(Block):
    r"""A block of layers whose output comes after its input, :math:`y = (x, f(x))`.

    `f` is a list of layers, applied in order as in `Sequential`. With `d` columns of `x` and `k` of
    `f(x)`, `y` has `d + k`, those of `x` first. The gradient with respect to `x` is that with
    respect to the first `d` columns of `y`, plus what `f` propagates back from the others. So the
    layer behind the block sees the input again, as in DeepSDF and NeRF (arXiv:1901.05103,
    arXiv:2003.08934), in wide & deep models of tables (arXiv:1606.07792), and, block by block, in
    DenseNet (arXiv:1608.06993).

    Parameters
    ----------
    *layers : Layer
        The layers of `f` in order, at least one. They may include other blocks.

    Raises
    ------
    ArgumentError
        If there is no layer, or something is not a layer.
    ShapeError
        From `Sequential`, if a layer does not fit the previous one, or the next layer does not
        expect `d + k` columns.

    Notes
    -----
    Parameters are named as those of `Residual`.

    Examples
    --------
    A network whose third dense layer also sees the coordinates, and one with a linear part:

    >>> from thalweg import nn
    >>> deep = [nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    >>> field = nn.Sequential(
    ...     nn.Concatenate(*deep), nn.Linear(3 + 64, 64), nn.ReLU(), nn.Linear(64, 1)
    ... )
    >>> wide_and_deep = nn.Sequential(nn.Concatenate(*deep), nn.Linear(3 + 64, 1))
    >>> list(wide_and_deep.state_dict())
    ['0.0.weight', '0.0.bias', '0.2.weight', '0.2.bias', '1.weight', '1.bias']

    Coordinates, and waves of three octaves along each of them:

    >>> waves = nn.Concatenate(nn.FourierFeatures(3, bands=[1, 2, 4]))
    >>> nn.Sequential(waves, nn.Linear(3 + 18, 1)).num_parameters
    22
    """

    layers: tuple[Layer, ...]

    @_habits.takes("Concatenate", _elsewhere("Concatenate"))
    def __init__(self, *layers: Layer) -> None:
        self._set_layers(layers)


def width_behind(layer: Layer, width: int) -> int:
    """Return how many columns a layer makes of `width` columns."""
    if isinstance(layer, Concatenate):
        inside = width
        for it in layer.layers:
            inside = width_behind(it, inside)
        return width + inside
    found: int = getattr(layer, "out_features", width)  # most keep the width
    return found


def with_inner(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Yield the layers, replacing each block by the layers in it."""
    for layer in layers:
        if isinstance(layer, Block):
            yield from with_inner(layer.layers)
        else:
            yield layer
