"""The layers, as light frozen descriptions. These say what; the core computes.

A layer holds no numbers: `Sequential` owns them all in one flat array. One description may
therefore be used several times; each use gets parameters of its own.
"""

from dataclasses import dataclass
from typing import Any

from thalweg import _checks
from thalweg.nn import init as _init


class Layer:
    """Base of all layer descriptions."""

    __slots__ = ()

    def _spec(self) -> tuple[Any, ...]:
        """Describe this layer to the core."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, repr=False)
class Linear(Layer):
    r"""An affine map, :math:`y = x W^\top + b`.

    Parameters
    ----------
    in_features, out_features : int
        Width of a row of the input and of the output.
    bias : bool, default True
        Whether there is a `b`.
    init : str, keyword only, default "kaiming_uniform"
        Distribution of the initial weights: a name of `thalweg.nn.init`.

    Raises
    ------
    ArgumentError
        If a width is not a positive integer or the initialization is unknown.

    Notes
    -----
    `W` has shape (out_features, in_features), as PyTorch's. With `x` of shape (n, in_features) and
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
    bias: bool
    init: str

    # Written out, for `init` is keyword only and the values are checked.
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: str = "kaiming_uniform",
    ) -> None:
        put = object.__setattr__  # the dataclass is frozen
        put(self, "in_features", _checks.integer("Linear: in_features", in_features, 1))
        put(self, "out_features", _checks.integer("Linear: out_features", out_features, 1))
        put(self, "bias", _checks.flag("Linear: bias", bias))
        put(self, "init", _checks.one_of("Linear: init", init, _init.NAMES))

    def __repr__(self) -> str:
        drawn = "" if self.init == "kaiming_uniform" else f", init={self.init!r}"
        return (
            f"Linear(in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias}{drawn})"
        )

    def _spec(self) -> tuple[Any, ...]:
        return ("linear", self.in_features, self.out_features, self.bias, self.init)


@dataclass(frozen=True, slots=True)
class BatchNorm1d(Layer):
    r"""Batch normalization of each column, in PyTorch's conventions.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    While training, :math:`\mu` and :math:`\sigma^2` are the mean and the (biased) variance of the
    column over the batch, and the gradient goes through both. In evaluation (a call of the model,
    `thalweg.Trainer.evaluate`, validation) they are running averages, which every training pass
    moves: :math:`r \leftarrow (1 - m)\,r + m\,b` with the batch's mean and its *unbiased*
    variance :math:`\sigma^2 n / (n - 1)`. Ioffe & Szegedy 2015, arXiv:1502.03167.

    Parameters
    ----------
    num_features : int
        Number of columns.
    eps : float, default 1e-5
        :math:`\epsilon`, above 0.
    momentum : float, default 0.1
        :math:`m`, the part of a batch in the running averages, from 0 to 1. (Keras' ``momentum`` is
        1 - m.)
    affine : bool, default True
        Whether there are :math:`\gamma` ("weight", at first 1) and :math:`\beta` ("bias", 0).

    Raises
    ------
    ArgumentError
        If an argument is out of range. A training batch of one row has no statistics and is an
        error where it is met; `thalweg.Trainer.fit` refuses data whose last batch would be one.

    Notes
    -----
    `Sequential.state_dict` holds ``running_mean`` and ``running_var`` too.
    """

    num_features: int
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen
        name = "BatchNorm1d: "
        put(self, "num_features", _checks.integer(name + "num_features", self.num_features, 1))
        put(self, "eps", _checks.real(name + "eps", self.eps, 0, closed="()"))
        put(self, "momentum", _checks.real(name + "momentum", self.momentum, 0, 1, "[]"))
        put(self, "affine", _checks.flag(name + "affine", self.affine))

    def _spec(self) -> tuple[Any, ...]:
        return ("batch_norm", self.num_features, self.eps, self.momentum, self.affine)


@dataclass(frozen=True, slots=True)
class ReLU(Layer):
    r"""Rectifier, :math:`y = \max(x, 0)`; its derivative at 0 is taken as 0, as in PyTorch."""

    def _spec(self) -> tuple[Any, ...]:
        return ("relu",)


@dataclass(frozen=True, slots=True)
class LeakyReLU(Layer):
    r"""Leaky rectifier, :math:`y = x` for :math:`x > 0`, else :math:`y = s x`.

    Parameters
    ----------
    negative_slope : float, default 0.01
        The slope `s`, 0 or more. The derivative at 0 is taken as `s`, as in PyTorch.

    Raises
    ------
    ArgumentError
        If the slope is negative or not finite.
    """

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        slope = _checks.real("LeakyReLU: negative_slope", self.negative_slope, 0)
        object.__setattr__(self, "negative_slope", slope)

    def _spec(self) -> tuple[Any, ...]:
        return ("leaky_relu", self.negative_slope)


@dataclass(frozen=True, slots=True)
class Tanh(Layer):
    r"""Hyperbolic tangent, :math:`y = \tanh x`, with :math:`dy/dx = 1 - y^2`."""

    def _spec(self) -> tuple[Any, ...]:
        return ("tanh",)


@dataclass(frozen=True, slots=True)
class Sigmoid(Layer):
    r"""Logistic function, :math:`y = 1 / (1 + e^{-x})`, with :math:`dy/dx = y (1 - y)`."""

    def _spec(self) -> tuple[Any, ...]:
        return ("sigmoid",)


@dataclass(frozen=True, slots=True)
class GELU(Layer):
    r"""Gaussian error linear unit in its exact form, :math:`y = x\,\Phi(x)`.

    :math:`\Phi(x) = \tfrac12 (1 + \mathrm{erf}(x/\sqrt2))`, and
    :math:`dy/dx = \Phi(x) + x\,\varphi(x)` with the normal density :math:`\varphi`. This is
    PyTorch's ``GELU(approximate="none")``, not the tanh approximation. Hendrycks & Gimpel 2016,
    arXiv:1606.08415.
    """

    def _spec(self) -> tuple[Any, ...]:
        return ("gelu",)


@dataclass(frozen=True, slots=True)
class SiLU(Layer):
    r"""Sigmoid linear unit, also called Swish, :math:`y = x\,\sigma(x) = x / (1 + e^{-x})`.

    :math:`dy/dx = \sigma(x) (1 + x (1 - \sigma(x)))`. Elfwing, Uchibe & Doya 2018,
    arXiv:1702.03118.
    """

    def _spec(self) -> tuple[Any, ...]:
        return ("silu",)


@dataclass(frozen=True, slots=True)
class Softplus(Layer):
    r"""Smooth rectifier, :math:`y = \ln(1 + e^x)`, with :math:`dy/dx = 1 / (1 + e^{-x})`.

    PyTorch's with ``beta=1``, but without its ``threshold`` of 20, beyond which PyTorch gives `x`
    for `y` and 1 for the derivative: both are exact here, and nothing overflows. The difference is
    at most :math:`e^{-20}`, about 2e-9.
    """

    def _spec(self) -> tuple[Any, ...]:
        return ("softplus",)


@dataclass(frozen=True, slots=True)
class Identity(Layer):
    """Passes its input through unchanged; useful to switch a layer off without renumbering."""

    def _spec(self) -> tuple[Any, ...]:
        return ("identity",)
