"""The other layers as ONNX operators, and sequences of layers."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from thalweg import nn
from thalweg.errors import UnsupportedError
from thalweg.nn._layers import kind_of
from thalweg.onnx._activations import ACTIVATIONS, Writer
from thalweg.onnx._graph import Graph


def write(graph: Graph, layers: Iterable[nn.Layer], x: str) -> str:
    """Add the nodes of layers one after another to a graph.

    Parameters
    ----------
    graph : Graph
    layers : iterable of Layer
    x : str
        Name of the first layer's input.

    Returns
    -------
    str
        Name of the last layer's output, which is `x` if none of them computes anything.

    Raises
    ------
    UnsupportedError
        If a layer is not one of thalweg's.
    """
    for index, layer in enumerate(layers):
        here = graph.at(index)
        kind = kind_of(layer)
        if kind not in _WRITERS:
            raise UnsupportedError(
                f"layer {here.place}: {type(layer).__name__} cannot be exported to ONNX"
            )
        x = _WRITERS[kind](here, layer, x)
    return x


def _linear(graph: Graph, layer: nn.Linear, x: str) -> str:
    bias = [graph.parameter("bias")] if layer.bias else []
    return graph.op("Gemm", x, graph.parameter("weight"), *bias, transB=1)


def _residual(graph: Graph, layer: nn.Residual, x: str) -> str:
    return graph.op("Add", x, write(graph, layer.layers, x))


def _concatenate(graph: Graph, layer: nn.Concatenate, x: str) -> str:
    return graph.op("Concat", x, write(graph, layer.layers, x), axis=1)


def _batch_norm(graph: Graph, layer: nn.BatchNorm1d, x: str) -> str:
    width = layer.num_features
    scale = graph.parameter("weight") if layer.affine else graph.array(np.ones(width))
    shift = graph.parameter("bias") if layer.affine else graph.array(np.zeros(width))
    mean = graph.parameter("running_mean")
    # Added here, as the attribute epsilon is float32.
    variance = graph.array(graph.own("running_var") + graph.dtype.type(layer.eps), "variance")
    return graph.op("BatchNormalization", x, scale, shift, mean, variance, epsilon=0.0)


def _layer_norm(graph: Graph, layer: nn.LayerNorm, x: str) -> str:
    affine = layer.elementwise_affine
    scale = graph.parameter("weight") if affine else None
    shift = graph.parameter("bias") if affine and layer.bias else None
    if graph.single:
        scale = scale or graph.array(np.ones(layer.normalized_shape))
        shifts = [shift] if shift else []
        return graph.op("LayerNormalization", x, scale, *shifts, axis=-1, epsilon=layer.eps)
    centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=[-1]))
    y = _over_its_root_mean_square(graph, centred, layer.eps)
    y = graph.op("Mul", y, scale) if scale else y
    return graph.op("Add", y, shift) if shift else y


def _rms_norm(graph: Graph, layer: nn.RMSNorm, x: str) -> str:
    eps = float(np.finfo(graph.dtype).eps) if layer.eps is None else layer.eps
    y = _over_its_root_mean_square(graph, x, eps)
    return graph.op("Mul", y, graph.parameter("weight")) if layer.elementwise_affine else y


def _over_its_root_mean_square(graph: Graph, x: str, eps: float) -> str:
    squares = graph.op("ReduceMean", graph.op("Mul", x, x), axes=[-1])
    return graph.op("Div", x, graph.op("Sqrt", graph.op("Add", squares, eps)))


def _flatten(graph: Graph, layer: nn.Flatten, x: str) -> str:
    return graph.op("Flatten", x, axis=1)


def _fourier(graph: Graph, layer: nn.FourierFeatures, x: str) -> str:
    turns = graph.op("MatMul", x, graph.parameter("frequencies"))
    # Whole turns are subtracted first, which is exact: large angles would lose their digits.
    part = graph.op("Sub", turns, graph.op("Round", turns))
    # cos, which not all runtimes have in float64, is the sine of a quarter turn minus |angle|.
    quarter = graph.op("Sub", 0.25, graph.op("Abs", part))
    return graph.op("Sin", graph.op("Mul", graph.op("Concat", part, quarter, axis=1), 2 * math.pi))


def _standardize(graph: Graph, layer: nn.Standardize, x: str) -> str:
    mean, std = graph.parameter("mean"), graph.parameter("std")
    if layer.inverse:
        return graph.op("Add", graph.op("Mul", x, std), mean)
    return graph.op("Div", graph.op("Sub", x, mean), std)


def _embedding(graph: Graph, layer: nn.Embedding, x: str) -> str:
    return _look_up(graph, "weight", x)


def _look_up(graph: Graph, name: str, codes: str) -> str:
    """Add the rows of a table that codes choose; to Gather, -1 would be the last one."""
    table = graph.parameter(name)
    none = graph.array(np.array(len(graph.own(name))))  # too large by one: an error of the runtime
    negative = graph.op("Less", codes, graph.array(np.array(0)))
    return graph.op("Gather", table, graph.op("Where", negative, none, codes), axis=0)


def _tabular(graph: Graph, layer: nn.TabularInput, x: str) -> str:
    parts = [_numbers(graph, layer, x)]
    for column, _, _ in layer.categories:
        codes = graph.cast(graph.op("Gather", x, graph.array(column), axis=1), np.int64)
        parts.append(_look_up(graph, f"{column}.weight", codes))
    present = [part for part in parts if part]
    return graph.op("Concat", *present, axis=1) if len(present) > 1 else present[0]


def _numbers(graph: Graph, layer: nn.TabularInput, x: str) -> str:
    """Add the numeric columns; return "" if there are none."""
    edges = dict(layer.pieces)
    coded = {column for column, *_ in layer.categories}
    # For each column of the output: the input's column, two edges, and its limits.
    rows: list[tuple[int, float, float, float, float]] = []
    for column in range(layer.in_features):
        if column in edges:
            ends = edges[column]
            last = len(ends) - 2
            for t in range(last + 1):
                limits = 0.0 if t > 0 else -math.inf, 1.0 if t < last else math.inf
                rows.append((column, ends[t], ends[t + 1], *limits))
        elif column not in coded:
            rows.append((column, 0.0, 1.0, -math.inf, math.inf))
    if not rows:
        return ""
    columns, *numbers = zip(*rows, strict=True)
    y = graph.op("Gather", x, graph.array(np.array(columns)), axis=1)
    if edges:
        start, stop, low, high = (np.array(values, graph.dtype) for values in numbers)
        y = graph.op("Sub", y, graph.array(start, "start"))
        y = graph.op("Div", y, graph.array(stop - start, "width"))
        y = graph.op("Max", y, graph.array(low, "low"))
        y = graph.op("Min", y, graph.array(high, "high"))
    return y


_WRITERS: Mapping[type, Writer] = {
    **ACTIVATIONS,
    nn.Linear: _linear,
    nn.Residual: _residual,
    nn.Concatenate: _concatenate,
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.Flatten: _flatten,
    nn.FourierFeatures: _fourier,
    nn.Standardize: _standardize,
    nn.Embedding: _embedding,
    nn.TabularInput: _tabular,
}
