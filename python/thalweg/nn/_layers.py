"""The layers, as light frozen descriptions. These say what; the core computes.

A layer holds no numbers: `Sequential` owns them all in one flat array. One description may
therefore be used several times; each use gets parameters of its own.
"""

import math
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

from thalweg import _checks
from thalweg.errors import ArgumentError
from thalweg.nn import init as _init


class Layer:
    """Base of all layer descriptions."""

    __slots__ = ()

    def _spec(self) -> tuple[Any, ...]:
        """Describe this layer to the core."""
        raise NotImplementedError


class Activation(Layer):
    """Base of the element-wise layers: their fields are numbers, in the core's order."""

    __slots__ = ()
    _kind: ClassVar[str]

    def _spec(self) -> tuple[Any, ...]:
        return (self._kind, *astuple(self))  # type: ignore[call-overload]

    def _check(self, name: str, *interval: Any) -> None:
        """Make a field a float of an interval, or raise."""
        value = _checks.real(f"{type(self).__name__}: {name}", getattr(self, name), *interval)
        object.__setattr__(self, name, value)  # the dataclass is frozen


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
class LayerNorm(Layer):
    r"""Normalization of each row by its own mean and variance.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    with the mean :math:`\mu` and the (biased) variance :math:`\sigma^2` over the columns of the
    row: the same in training and in evaluation, for a batch of any size. Ba, Kiros & Hinton 2016,
    arXiv:1607.06450; PyTorch's conventions.

    Parameters
    ----------
    normalized_shape : int or tuple of one int
        Number of columns.
    eps : float, default 1e-5
        :math:`\epsilon`, above 0.
    elementwise_affine : bool, default True
        Whether there is a :math:`\gamma` ("weight", at first 1).
    bias : bool, default True
        Whether there is then a :math:`\beta` ("bias", at first 0), too.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    With :math:`\hat x = (y - \beta) / \gamma`, `g` the gradient of the loss with respect to `y`,
    and means over the columns, the gradient with respect to `x` is
    :math:`(\gamma g - \overline{\gamma g} - \hat x\,\overline{\gamma g \hat x}) /
    \sqrt{\sigma^2 + \epsilon}`; those of :math:`\gamma` and :math:`\beta` are the sums over the
    rows of :math:`g \hat x` and `g`.

    Examples
    --------
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1))
    >>> list(model.state_dict())
    ['0.weight', '0.bias', '1.weight', '1.bias', '3.weight', '3.bias']
    """

    normalized_shape: tuple[int] | int
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen
        put(self, "normalized_shape", _width("LayerNorm", self.normalized_shape))
        put(self, "eps", _checks.real("LayerNorm: eps", self.eps, 0, closed="()"))
        affine = _checks.flag("LayerNorm: elementwise_affine", self.elementwise_affine)
        put(self, "elementwise_affine", affine)
        put(self, "bias", _checks.flag("LayerNorm: bias", self.bias))

    def _spec(self) -> tuple[Any, ...]:
        scale, shift = self.elementwise_affine, self.elementwise_affine and self.bias
        return ("layer_norm", *_width("", self.normalized_shape), self.eps, scale, shift)


@dataclass(frozen=True, slots=True)
class RMSNorm(Layer):
    r"""Normalization of each row by its root mean square.

    .. math:: y = \gamma\,\frac{x}{\sqrt{\overline{x^2} + \epsilon}}

    with the mean of squares over the columns of the row. Zhang & Sennrich 2019, arXiv:1910.07467;
    PyTorch's conventions.

    Parameters
    ----------
    normalized_shape : int or tuple of one int
        Number of columns.
    eps : float, optional
        :math:`\epsilon`, above 0; by default that of the model's dtype, ``np.finfo(dtype).eps``.
    elementwise_affine : bool, default True
        Whether there is a :math:`\gamma` ("weight", at first 1).

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    The gradients are those of `LayerNorm` without the terms that come from the mean.
    """

    normalized_shape: tuple[int] | int
    eps: float | None = None
    elementwise_affine: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen
        put(self, "normalized_shape", _width("RMSNorm", self.normalized_shape))
        if self.eps is not None:
            put(self, "eps", _checks.real("RMSNorm: eps", self.eps, 0, closed="()"))
        affine = _checks.flag("RMSNorm: elementwise_affine", self.elementwise_affine)
        put(self, "elementwise_affine", affine)

    def _spec(self) -> tuple[Any, ...]:
        return ("rms_norm", *_width("", self.normalized_shape), self.eps, self.elementwise_affine)


def _width(layer: str, shape: Any) -> tuple[int]:
    """Make a normalized shape a tuple of one width: samples are rows here."""
    if isinstance(shape, (tuple, list)):
        if len(shape) != 1:
            raise ArgumentError(
                f"{layer}: normalized_shape must be one width, for samples are rows; got {shape!r}"
            )
        (shape,) = shape
    return (_checks.integer(f"{layer}: normalized_shape", shape, 1),)


@dataclass(frozen=True, slots=True)
class ReLU(Activation):
    r"""Rectifier, :math:`y = \max(x, 0)`; its derivative at 0 is taken as 0, as in PyTorch."""

    _kind = "relu"


@dataclass(frozen=True, slots=True)
class LeakyReLU(Activation):
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

    _kind = "leaky_relu"
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        self._check("negative_slope", 0)


@dataclass(frozen=True, slots=True)
class ELU(Activation):
    r"""Exponential linear unit, :math:`y = x` for :math:`x > 0`, else :math:`\alpha (e^x - 1)`.

    :math:`dy/dx = 1` for :math:`x > 0`, else :math:`\alpha e^x`. Clevert, Unterthiner & Hochreiter
    2016, arXiv:1511.07289.

    Parameters
    ----------
    alpha : float, default 1.0
        :math:`\alpha`, 0 or more. (PyTorch takes negative ones, too.)

    Raises
    ------
    ArgumentError
        If `alpha` is negative or not finite.
    """

    _kind = "elu"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        self._check("alpha", 0)


@dataclass(frozen=True, slots=True)
class CELU(Activation):
    r"""Continuously differentiable ELU, for :math:`x \le 0` :math:`y = \alpha (e^{x/\alpha} - 1)`.

    For :math:`x > 0`, :math:`y = x`; :math:`dy/dx` is 1 there, else :math:`e^{x/\alpha}`. Barron
    2017, arXiv:1704.07483.

    Parameters
    ----------
    alpha : float, default 1.0
        :math:`\alpha`, above 0.

    Raises
    ------
    ArgumentError
        If `alpha` is not a positive finite number.
    """

    _kind = "celu"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        self._check("alpha", 0, math.inf, "()")


@dataclass(frozen=True, slots=True)
class SELU(Activation):
    r"""Scaled ELU, :math:`y = \lambda x` for :math:`x > 0`, else :math:`\lambda\alpha (e^x - 1)`.

    :math:`\lambda = 1.0507\ldots` and :math:`\alpha = 1.6733\ldots` are those that hold mean 0 and
    variance 1 from layer to layer, with ``init="lecun_normal"``. Klambauer, Unterthiner, Mayr &
    Hochreiter 2017, arXiv:1706.02515.
    """

    _kind = "selu"


@dataclass(frozen=True, slots=True)
class Tanh(Activation):
    r"""Hyperbolic tangent, :math:`y = \tanh x`, with :math:`dy/dx = 1 - y^2`."""

    _kind = "tanh"


@dataclass(frozen=True, slots=True)
class Sigmoid(Activation):
    r"""Logistic function, :math:`y = 1 / (1 + e^{-x})`, with :math:`dy/dx = y (1 - y)`."""

    _kind = "sigmoid"


@dataclass(frozen=True, slots=True)
class LogSigmoid(Activation):
    r"""Logarithm of the logistic function, :math:`y = -\ln(1 + e^{-x})`.

    :math:`dy/dx = 1 - e^y`; neither overflows nor cancels.
    """

    _kind = "log_sigmoid"


@dataclass(frozen=True, slots=True)
class GELU(Activation):
    r"""Gaussian error linear unit, :math:`y = x\,\Phi(x)`.

    :math:`\Phi(x) = \tfrac12 (1 + \mathrm{erf}(x/\sqrt2))`, and
    :math:`dy/dx = \Phi(x) + x\,\varphi(x)` with the normal density :math:`\varphi`. Hendrycks &
    Gimpel 2016, arXiv:1606.08415.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        ``"tanh"`` is :math:`y = \tfrac{x}{2} (1 + \tanh(\sqrt{2/\pi}\,(x + 0.044715\,x^3)))`, with
        the derivative of that; it is off by up to 5e-4, and what some pretrained networks have.
        It is no faster here.

    Raises
    ------
    ArgumentError
        If `approximate` is another name.
    """

    approximate: str = "none"

    def __post_init__(self) -> None:
        _checks.one_of("GELU: approximate", self.approximate, ("none", "tanh"))

    def _spec(self) -> tuple[Any, ...]:
        return ("gelu",) if self.approximate == "none" else ("gelu_tanh",)


@dataclass(frozen=True, slots=True)
class SiLU(Activation):
    r"""Sigmoid linear unit, also called Swish, :math:`y = x\,\sigma(x) = x / (1 + e^{-x})`.

    :math:`dy/dx = \sigma(x) (1 + x (1 - \sigma(x)))`. Elfwing, Uchibe & Doya 2018,
    arXiv:1702.03118.
    """

    _kind = "silu"


@dataclass(frozen=True, slots=True)
class Mish(Activation):
    r"""Mish, :math:`y = x \tanh(\ln(1 + e^x))`.

    With :math:`n = e^x (e^x + 2)` that is :math:`x\,n / (n + 2)`, and
    :math:`dy/dx = n / (n + 2) + 4 x e^x (1 + e^x) / (n + 2)^2`. Misra 2020, arXiv:1908.08681.
    """

    _kind = "mish"


@dataclass(frozen=True, slots=True)
class Softplus(Activation):
    r"""Smooth rectifier, :math:`y = \ln(1 + e^{\beta x}) / \beta`.

    :math:`dy/dx = 1 / (1 + e^{-\beta x})`. There is no ``threshold`` as PyTorch's, from which on
    (20 by default) it gives `x` for `y` and 1 for the derivative: both are exact here, and nothing
    overflows. The difference is at most :math:`e^{-20} / \beta`, about 2e-9.

    Parameters
    ----------
    beta : float, default 1.0
        :math:`\beta`, above 0.

    Raises
    ------
    ArgumentError
        If `beta` is not a positive finite number.
    """

    _kind = "softplus"
    beta: float = 1.0

    def __post_init__(self) -> None:
        self._check("beta", 0, math.inf, "()")


@dataclass(frozen=True, slots=True)
class Softsign(Activation):
    r"""Softsign, :math:`y = x / (1 + |x|)`, with :math:`dy/dx = 1 / (1 + |x|)^2`."""

    _kind = "softsign"


@dataclass(frozen=True, slots=True)
class Sine(Activation):
    r"""Sine, :math:`y = \sin(\omega x)`, with :math:`dy/dx = \omega \cos(\omega x)`.

    What SIREN networks are made of, which represent signals and solutions of differential
    equations: Sitzmann, Martel, Bergman, Lindell & Wetzstein 2020, arXiv:2006.09661. The `Linear`
    before the first has ``init="siren_first"``, the others ``init="siren"``. (PyTorch has no such
    layer; the paper's code has ``omega_0``.)

    Parameters
    ----------
    omega : float, default 30.0
        :math:`\omega`, above 0; the initializations are for the default.

    Raises
    ------
    ArgumentError
        If `omega` is not a positive finite number.

    Notes
    -----
    The sine is that of the product :math:`\omega x` in the model's precision, however large.

    Examples
    --------
    >>> from thalweg import nn
    >>> model = nn.Sequential(
    ...     nn.Linear(2, 64, init="siren_first"), nn.Sine(),
    ...     nn.Linear(64, 64, init="siren"), nn.Sine(),
    ...     nn.Linear(64, 3, init="siren"),
    ... )
    >>> model([[0.5, -0.25]]).shape
    (1, 3)
    """

    _kind = "sine"
    omega: float = 30.0

    def __post_init__(self) -> None:
        self._check("omega", 0, math.inf, "()")


@dataclass(frozen=True, slots=True)
class Hardtanh(Activation):
    r"""Clamp, :math:`y = \min(\max(x, a), b)`; the derivative is 1 strictly between, else 0.

    Parameters
    ----------
    min_val, max_val : float, default -1.0 and 1.0
        :math:`a < b`.

    Raises
    ------
    ArgumentError
        If they are not finite numbers in that order.
    """

    _kind = "hardtanh"
    min_val: float = -1.0
    max_val: float = 1.0

    def __post_init__(self) -> None:
        self._check("min_val")
        self._check("max_val", self.min_val, math.inf, "()")


@dataclass(frozen=True, slots=True)
class ReLU6(Activation):
    r"""Rectifier with a ceiling, :math:`y = \min(\max(x, 0), 6)`."""

    _kind = "relu6"


@dataclass(frozen=True, slots=True)
class Hardsigmoid(Activation):
    r"""Sigmoid of three pieces, :math:`y = \min(\max(x/6 + 1/2, 0), 1)`, as in PyTorch."""

    _kind = "hardsigmoid"


@dataclass(frozen=True, slots=True)
class Hardswish(Activation):
    r"""SiLU with a sigmoid of three pieces, :math:`y = x \min(\max(x/6 + 1/2, 0), 1)`.

    The derivative at -3 is taken as 0, at 3 as 1. Howard et al. 2019, arXiv:1905.02244.
    """

    _kind = "hardswish"


@dataclass(frozen=True, slots=True)
class Dropout(Activation):
    r"""Sets elements to zero at random while training, each with probability `p`.

    In training :math:`y = x\,m` with a factor :math:`m` that is 0 with probability `p`, else
    :math:`1 / (1 - p)`, so that the mean of `y` is `x`; :math:`dy/dx = m`. In evaluation
    :math:`y = x`. Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, JMLR 15; as in
    PyTorch and Keras.

    Parameters
    ----------
    p : float, default 0.5
        Probability of zero, from 0 to 1.

    Raises
    ------
    ArgumentError
        If `p` is not such a number.

    Notes
    -----
    The factors follow from the model's seed, the number of training passes that it has made (steps
    of a trainer, and calls of `forward`), the layer, the row's place in the batch and the column:
    not from the number of threads. The count of passes is a part of copies and pickles of the
    model, which go on with the factors of the original; like the state of PyTorch's generator it
    is not in `Sequential.state_dict`. A fit that fails takes it back. `thalweg.gradcheck` holds
    the factors fixed.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4, bias=False))
    >>> model.load_state_dict({"1.weight": np.eye(4)})
    >>> sorted(set(model.forward(np.ones((50, 4))).ravel().tolist()))
    [0.0, 2.0]
    >>> model(np.ones((1, 4)))
    array([[1., 1., 1., 1.]], dtype=float32)
    """

    _kind = "dropout"
    p: float = 0.5

    def __post_init__(self) -> None:
        self._check("p", 0, 1, "[]")


@dataclass(frozen=True, slots=True)
class Identity(Activation):
    """Passes its input through unchanged; useful to switch a layer off without renumbering."""

    _kind = "identity"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Residual(Layer):
    r"""A block that is added to its own input, :math:`y = x + f(x)`.

    `f` is a list of layers, applied one after another as in `Sequential`. Its output is as wide as
    its input. With `g` the gradient of the loss with respect to `y`, that with respect to `x` is
    `g` plus what `f` carries back of it. He, Zhang, Ren & Sun 2016, arXiv:1512.03385; with the
    normalization first in the block, the "pre-activation" of arXiv:1603.05027.

    Parameters
    ----------
    *layers : Layer
        The layers of `f` in order, at least one. Another `Residual` may be among them.

    Raises
    ------
    ArgumentError
        If there is no layer, or something is not a layer.
    ShapeError
        From `Sequential`, if a layer does not fit the one before it, or the block does not give the
        width that it takes.

    Notes
    -----
    The parameters of layer 0 of a block that is layer 2 of the model are called ``"2.0.weight"``
    and ``"2.0.bias"``: PyTorch's names for a module whose child 2 is an ``nn.Sequential`` (a
    subclass whose ``forward`` adds its input).

    Examples
    --------
    >>> from thalweg import nn
    >>> block = nn.Residual(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    >>> model = nn.Sequential(nn.Linear(2, 8), block, block, nn.Linear(8, 1))
    >>> list(model.state_dict())[2:8]
    ['1.0.weight', '1.0.bias', '1.1.weight', '1.1.bias', '1.3.weight', '1.3.bias']
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ArgumentError("Residual: layers is empty; a block needs at least one layer")
        for index, layer in enumerate(layers):
            check_layer("Residual: ", index, layer)
        object.__setattr__(self, "layers", layers)  # the dataclass is frozen

    def __repr__(self) -> str:
        return f"Residual({', '.join(map(repr, self.layers))})"

    def _spec(self) -> tuple[Any, ...]:
        return ("residual", [layer._spec() for layer in self.layers])


def check_layer(owner: str, index: int, layer: Any) -> None:
    """Raise if `layer` is not a layer, with the likely slip named."""
    if isinstance(layer, Layer):
        return
    if isinstance(layer, type) and issubclass(layer, Layer):
        advice = f"it is the class {layer.__name__}; make a layer of it: {layer.__name__}(...)"
    elif isinstance(layer, (list, tuple)):
        advice = f"it is a list; unpack it: {owner.rstrip(': ') or 'Sequential'}(*layers)"
    else:
        advice = f"got {layer!r}"
    raise ArgumentError(f"{owner}layer {index} is not one of thalweg.nn's layers: {advice}")
