"""The layers that all tests of this folder run through."""

from thalweg import nn

from .layers import FIRST, LAYERS


def with_inside(layers):
    for layer in layers:
        yield layer
        yield from with_inside(getattr(layer, "layers", ()))


def test_every_layer_is_here():
    kinds = {kind for kind in vars(nn).values() if isinstance(kind, type)}
    layers = {kind for kind in kinds if issubclass(kind, nn.Layer)} - {nn.Layer}
    assert layers == {type(layer) for layer in (*with_inside(LAYERS), *(it for it, _ in FIRST))}
