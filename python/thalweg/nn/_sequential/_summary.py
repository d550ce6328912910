"""The table of a model's layers."""

from collections.abc import Mapping

import numpy as np

from thalweg.nn import _layers
from thalweg.nn._layers import Layer
from thalweg.nn._sequential._base import SequentialBase

#: Maximum number of characters shown of a layer.
_SHOWN = 80


class Summarized(SequentialBase):
    """The part of a model that shows it as a table."""

    def summary(self) -> str:
        """Make a table of the layers with their shapes and numbers of parameters.

        Returns
        -------
        str
            One line per layer, shortened if long, and the total. At a prompt and in a notebook it
            is displayed as it is, without quotes.

        Examples
        --------
        >>> from thalweg import nn
        >>> nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).summary()
        layer                                                output  parameters
        0  Linear(in_features=2, out_features=8, bias=True)  (n, 8)          24
        1  Tanh()                                            (n, 8)           0
        2  Linear(in_features=8, out_features=1, bias=True)  (n, 1)           9
        total: 33 parameters, float32
        """
        sizes = {name: int(np.prod(shape)) for name, shape in self._blocks()}
        rows = [("layer", "output", "parameters")]
        rows += _summary(self.layers, "", self.in_features, sizes)
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows
        ]
        total = f"total: {self.num_parameters:,} parameters, {self._dtype.name}"
        return _Table("\n".join([*table, total]))


def _summary(
    layers: tuple[Layer, ...], prefix: str, width: int, sizes: Mapping[str, int]
) -> list[tuple[str, str, str]]:
    """Make the rows of a table of layers, with the layers of a block below it."""
    rows = []
    for index, layer in enumerate(layers):
        here = f"{prefix}{index}"
        inside = layer.layers if isinstance(layer, _layers.Block) else ()
        below = _summary(inside, f"{here}.", width, sizes)
        width = _layers.width_behind(layer, width)
        indent = "   " * prefix.count(".")
        count = sum(size for name, size in sizes.items() if name.startswith(f"{here}."))
        text = type(layer).__name__ if inside else repr(layer)
        text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]}...)"
        rows.append((f"{indent}{here}  {text}", f"(n, {width})", f"{count:,}"))
        rows += below
    return rows


class _Table(str):
    """Text of several lines, which a prompt displays without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
