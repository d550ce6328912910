"""The element-wise layers as ONNX operators.

Attributes of operators are float32, and runtimes support fewer operators in float64. Float32 models
therefore use the standard's operators, and float64 models compute the same in several steps; so do
both where the standard has no operator, or where runtimes' implementations overflow.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from thalweg import nn
from thalweg.onnx._graph import Graph

#: Adds the nodes of a layer to a graph, given the input's name, and returns the output's.
Writer: TypeAlias = Callable[[Graph, Any, str], str]


def _nothing(graph: Graph, layer: nn.Layer, x: str) -> str:
    return x


def _leaky_relu(graph: Graph, layer: nn.LeakyReLU, x: str) -> str:
    if graph.single:
        return graph.op("LeakyRelu", x, alpha=layer.negative_slope)
    left = graph.op("Mul", graph.op("Min", x, 0), layer.negative_slope)
    return graph.op("Add", graph.op("Max", x, 0), left)


def _exponential(graph: Graph, x: str, inner: float, outer: float) -> str:
    """Add x for x > 0, else outer (e^(x / inner) - 1)."""
    left = graph.op("Div", graph.op("Min", x, 0), inner)
    left = graph.op("Mul", graph.op("Sub", graph.op("Exp", left), 1), outer)
    return graph.op("Add", graph.op("Max", x, 0), left)


def _elu(graph: Graph, layer: nn.ELU, x: str) -> str:
    if graph.single:
        return graph.op("Elu", x, alpha=layer.alpha)
    return _exponential(graph, x, 1, layer.alpha)


def _celu(graph: Graph, layer: nn.CELU, x: str) -> str:
    if graph.single:
        return graph.op("Celu", x, alpha=layer.alpha)
    return _exponential(graph, x, layer.alpha, layer.alpha)


def _selu(graph: Graph, layer: nn.SELU, x: str) -> str:
    if graph.single:
        return graph.op("Selu", x)
    return graph.op("Mul", _exponential(graph, x, 1, 1.6732632423543772), 1.0507009873554805)


def _softplus(graph: Graph, x: str) -> str:
    """Add max(x, 0) + ln(1 + e^-|x|), which never overflows."""
    power = graph.op("Exp", graph.op("Neg", graph.op("Abs", x)))
    return graph.op("Add", graph.op("Max", x, 0), graph.op("Log", graph.op("Add", power, 1)))


def _scaled_softplus(graph: Graph, layer: nn.Softplus, x: str) -> str:
    if layer.beta == 1:
        return _softplus(graph, x)
    return graph.op("Div", _softplus(graph, graph.op("Mul", x, layer.beta)), layer.beta)


def _log_sigmoid(graph: Graph, layer: nn.LogSigmoid, x: str) -> str:
    return graph.op("Neg", _softplus(graph, graph.op("Neg", x)))


def _softsign(graph: Graph, layer: nn.Softsign, x: str) -> str:
    if graph.single:
        return graph.op("Softsign", x)
    return graph.op("Div", x, graph.op("Add", graph.op("Abs", x), 1))


def _hardsigmoid(graph: Graph, x: str) -> str:
    if graph.single:
        return graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    return graph.op("Clip", graph.op("Div", graph.op("Add", x, 3), 6), 0, 1)


def _hardswish(graph: Graph, layer: nn.Hardswish, x: str) -> str:
    if graph.single:
        return graph.op("HardSwish", x)
    return graph.op("Mul", x, _hardsigmoid(graph, x))


def _silu(graph: Graph, layer: nn.SiLU, x: str) -> str:
    if graph.single:
        return graph.op("Mul", x, graph.op("Sigmoid", x))
    # ONNX Runtime up to 1.22 would fuse the above into an operator that it has only in float32.
    return graph.op("Div", x, graph.op("Add", graph.op("Exp", graph.op("Neg", x)), 1))


def _gelu(graph: Graph, layer: nn.GELU, x: str) -> str:
    if layer.approximate == "tanh":  # (1 + tanh z) / 2 is the logistic function of 2 z
        cubic = graph.op("Add", graph.op("Mul", graph.op("Mul", x, x), 0.044715), 1)
        z = graph.op("Mul", graph.op("Mul", x, cubic), 2 * math.sqrt(2 / math.pi))
        return graph.op("Mul", x, graph.op("Sigmoid", z))
    if graph.single:  # in this order, runtimes fuse it into one operator
        erf = graph.op("Erf", graph.op("Div", x, math.sqrt(2)))
        return graph.op("Mul", graph.op("Mul", x, graph.op("Add", erf, 1)), 0.5)
    return graph.op("Mul", x, _normal_distribution(graph, x))


def _normal_distribution(graph: Graph, x: str) -> str:
    r"""Add Φ(x) for float64, where ``Erf`` cannot be used.

    ONNX Runtime has it only in float32, and ONNX's reference computes it in float32. Φ is computed
    as an integral over t by the midpoint rule with step h, corrected for the poles of the integrand
    where x is not below :math:`-\sqrt2 \pi / h`,

    .. math:: \Phi = \frac{1}{1 + e^{-\sqrt2 \pi x / h}} - \frac{\sqrt2\, h\, x}{\pi} e^{-x^2 / 2}
              \sum_{k=1}^\infty \frac{e^{-t_k^2}}{x^2 + 2 t_k^2}, \quad t_k = (k - \tfrac12) h,

    up to a relative error of about :math:`e^{-\pi^2/h^2}`: D. B. Hunter and T. Regan, "A note on
    the evaluation of the complementary error function", Math. Comp. 26 (1972), 539-541. Nothing
    cancels on the left, where Φ is small. Measured with both runtimes, the relative error is below
    1.2e-15 from -5 to 10, and below :math:`6 \cdot 10^{-17} x^2` from -37 to -5, which is due to
    the rounding of :math:`x^2`.
    """
    h = 0.5
    edge = math.sqrt(2) * math.pi / h
    square = graph.op("Mul", x, x)
    terms = [
        graph.op("Div", math.sqrt(2) * h / math.pi * math.exp(-t2), graph.op("Add", square, 2 * t2))
        for t2 in (((k + 0.5) * h) ** 2 for k in range(12))  # the next term is relatively 1e-17
    ]
    scale = graph.op("Mul", x, graph.op("Exp", graph.op("Mul", square, -0.5)))
    near = graph.op("Mul", scale, graph.op("Sum", *terms))
    # Not Sigmoid, which ONNX Runtime computes in float64 as a difference from 1/2.
    power = graph.op("Exp", graph.op("Mul", x, -edge))
    pole = graph.op("Reciprocal", graph.op("Add", power, 1))
    pole = graph.op("Where", graph.op("Less", x, -edge), 0, pole)
    return graph.op("Sub", pole, near)


def _mish(graph: Graph, layer: nn.Mish, x: str) -> str:
    power = graph.op("Exp", graph.op("Min", x, 40))  # beyond that, n / (n + 2) is 1
    n = graph.op("Mul", power, graph.op("Add", power, 2))
    return graph.op("Mul", x, graph.op("Div", n, graph.op("Add", n, 2)))


ACTIVATIONS: Mapping[type[nn.Layer], Writer] = {
    nn.Identity: _nothing,
    nn.Dropout: _nothing,  # in evaluation
    nn.ReLU: lambda graph, layer, x: graph.op("Relu", x),
    nn.LeakyReLU: _leaky_relu,
    nn.ReLU6: lambda graph, layer, x: graph.op("Clip", x, 0, 6),
    nn.ELU: _elu,
    nn.CELU: _celu,
    nn.SELU: _selu,
    nn.Tanh: lambda graph, layer, x: graph.op("Tanh", x),
    nn.Hardtanh: lambda graph, layer, x: graph.op("Clip", x, layer.min_val, layer.max_val),
    nn.Softsign: _softsign,
    nn.Sigmoid: lambda graph, layer, x: graph.op("Sigmoid", x),
    nn.LogSigmoid: _log_sigmoid,
    nn.Hardsigmoid: lambda graph, layer, x: _hardsigmoid(graph, x),
    nn.GELU: _gelu,
    nn.SiLU: _silu,
    nn.Mish: _mish,
    nn.Hardswish: _hardswish,
    nn.Softplus: _scaled_softplus,
    nn.Sine: lambda graph, layer, x: graph.op("Sin", graph.op("Mul", x, layer.omega)),
}
