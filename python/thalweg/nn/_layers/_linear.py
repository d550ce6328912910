"""The dense layer."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY
from itertools import takewhile
from typing import Any

from thalweg import _checks
from thalweg._description import description
from thalweg._warn import warn_maker
from thalweg.nn import init as _init
from thalweg.nn._layers._activations import Identity, Sine
from thalweg.nn._layers._base import Layer
from thalweg.nn._layers._inputs import Flatten
from thalweg.nn._layers._standardize import Standardize


@description
class Linear(Layer):
    r"""An affine map, :math:`y = x W^\top + b`.

    Parameters
    ----------
    in_features, out_features : int
        Width of a row of the input and of the output.
    bias : bool, default True
        Whether there is a `b`.
    init : str, keyword only, default "kaiming_uniform"
        Distribution of the initial weights: a name from `thalweg.nn.init`. Before a `Sine`, use
        "siren_first" for the first layer, which takes coordinates, and "siren" for all others; a
        model whose first one uses "siren" gives a warning.

    Raises
    ------
    ArgumentError
        If a width is not a positive integer or the initialization is unknown.

    Notes
    -----
    `W` has shape (out_features, in_features), as in PyTorch. With `x` of shape (n, in_features) and
    `g`, the gradient of the loss with respect to `y`, the gradients are :math:`g W` for `x`,
    :math:`g^\top x` for `W` and the column sums of `g` for `b`.

    Examples
    --------
    >>> from thalweg import nn
    >>> nn.Linear(64, 10)
    Linear(in_features=64, out_features=10, bias=True)
    """

    in_features: int
    out_features: int
    bias: bool = True
    _: KW_ONLY
    init: _init._Init = "kaiming_uniform"

    def __post_init__(self) -> None:
        self._check("in_features", 1, by=_checks.integer)
        self._check("out_features", 1, by=_checks.integer)
        self._check("bias", by=_checks.flag)
        self._check("init", by=_init.check)

    def __repr__(self) -> str:
        drawn = "" if self.init == "kaiming_uniform" else f", init={self.init!r}"
        return (
            f"Linear(in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias}{drawn})"
        )

    def _spec(self) -> tuple[Any, ...]:
        return ("linear", self.in_features, self.out_features, self.bias, self.init)


#: Fewer inputs than this are taken as coordinates; more may come from features.
_COORDINATES = 8


def check_sines(layers: Sequence[Layer]) -> None:
    """Warn if a SIREN's first layer is initialized as a hidden one: its frequencies are too low."""
    # After these, it still gets the coordinates.
    before = takewhile(lambda layer: isinstance(layer, (Standardize, Identity, Flatten)), layers)
    place = sum(1 for _ in before)
    match layers[place:]:
        case [Linear(init="siren", in_features=inputs) as first, Sine(), *_] if (
            inputs < _COORDINATES
        ):
            warn_maker(
                f'layer {place} is {first!r}, but init="siren" is for later layers: on '
                "coordinates, the first Sine then has frequencies "
                f"{30 / math.sqrt(6 * inputs):.1f} times lower than in the paper. Use "
                'init="siren_first" there'
            )
