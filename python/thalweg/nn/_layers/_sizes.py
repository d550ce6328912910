"""How many numbers layers keep, known before any are allocated."""

from collections.abc import Iterable

from thalweg.nn._layers._base import Layer
from thalweg.nn._layers._blocks import Block
from thalweg.nn._layers._inputs import FourierFeatures
from thalweg.nn._layers._linear import Linear
from thalweg.nn._layers._norms import BatchNorm1d, LayerNorm, RMSNorm
from thalweg.nn._layers._standardize import Standardize
from thalweg.nn._layers._tables import Embedding, TabularInput


def count_numbers(layers: Iterable[Layer]) -> int:
    """Return how many numbers the arrays of `state_dict` have, for a model of these layers."""
    return sum(map(_of, layers))


def _of(layer: Layer) -> int:
    match layer:
        case Linear():
            return (layer.in_features + layer.bias) * layer.out_features
        case BatchNorm1d():
            return (2 + 2 * layer.affine) * layer.num_features
        case LayerNorm() | RMSNorm():
            (width,) = layer._spec()[1:2]
            return layer.elementwise_affine * (1 + getattr(layer, "bias", False)) * int(width)
        case FourierFeatures():
            return layer.in_features * layer.num_frequencies
        case Standardize():
            return 2 * len(layer.mean)
        case Embedding():
            return layer.num_embeddings * layer.embedding_dim
        case TabularInput():
            return sum(codes * length for _, codes, length in layer.categories)
        case Block():
            return count_numbers(layer.layers)
        case _:
            return 0
