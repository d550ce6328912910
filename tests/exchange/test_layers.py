"""The layers that all tests of this folder run through."""

from thalweg import nn

from .layers import FIRST, LAYERS


def test_every_layer_is_here():
    kinds = {kind for kind in vars(nn).values() if isinstance(kind, type)}
    layers = {kind for kind in kinds if issubclass(kind, nn.Layer)} - {nn.Layer}
    assert layers == {type(layer) for layer in (*LAYERS, *(layer for layer, _ in FIRST))}
