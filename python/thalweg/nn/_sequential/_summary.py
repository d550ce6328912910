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
        rows += _summary(self.layers, "", self.in_features, sizes)[0]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows
        ]
        total = f"total: {self.num_parameters:,} parameters, {self._dtype.name}"
        return _Table("\n".join([*table, total]))


def _summary(
    layers: tuple[Layer, ...], prefix: str, width: int, sizes: Mapping[str, int]
) -> tuple[list[tuple[str, str, str]], int]:
    """Make the rows of a table of layers, with a block's below it; return them and the width."""
    rows = []
    for index, layer in enumerate(layers):
        here = f"{prefix}{index}"
        inside = layer.layers if isinstance(layer, _layers.Block) else ()
        below, within = _summary(inside, f"{here}.", width, sizes)
        width = getattr(layer, "out_features", width)
        if isinstance(layer, _layers.Concatenate):
            width += within
        indent = "   " * prefix.count(".")
        count = sum(size for name, size in sizes.items() if name.startswith(f"{here}."))
        text = type(layer).__name__ if inside else repr(layer)
        text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]}...)"
        rows.append((f"{indent}{here}  {text}", f"(n, {width})", f"{count:,}"))
        rows += below
    return rows, width


class _Table(str):
    """Text of several lines, which a prompt displays without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
