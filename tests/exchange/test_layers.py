"""The layers that all tests of this folder run through."""

from thalweg import nn
from thalweg.nn._layers import count_numbers

from .layers import FIRST, LAYERS, WIDTH


def with_inside(layers):
    for layer in layers:
        yield layer
        yield from with_inside(getattr(layer, "layers", ()))


def test_every_layer_is_here():
    kinds = {kind for kind in vars(nn).values() if isinstance(kind, type)}
    layers = {kind for kind in kinds if issubclass(kind, nn.Layer)} - {nn.Layer}
    assert layers == {type(layer) for layer in (*with_inside(LAYERS), *(it for it, _ in FIRST))}


def test_the_numbers_of_every_layer_are_known_before_they_are_made():
    """Which tells of a file whether it can hold them."""
    before = nn.Linear(WIDTH, WIDTH)
    models = [(before, layer) for layer in LAYERS]
    models += [(layer, nn.Linear(layer.out_features, 1)) for layer, _ in FIRST]
    for layers in models:
        arrays = nn.Sequential(*layers).state_dict()
        assert count_numbers(layers) == sum(array.size for array in arrays.values()), layers
