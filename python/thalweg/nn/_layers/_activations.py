"""The element-wise layers."""

import math
from typing import Any, Literal, TypeAlias, get_args

from thalweg import _checks
from thalweg._description import description
from thalweg.nn._layers._base import Activation

#: How `GELU` is computed.
Approximate: TypeAlias = Literal["none", "tanh"]


@description
class ReLU(Activation):
    r"""Rectifier, :math:`y = \max(x, 0)`; its derivative at 0 is taken as 0, as in PyTorch."""

    _kind = "relu"


@description
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


@description
class ELU(Activation):
    r"""Exponential linear unit, :math:`y = x` for :math:`x > 0`, else :math:`\alpha (e^x - 1)`.

    :math:`dy/dx = 1` for :math:`x > 0`, else :math:`\alpha e^x`. Clevert, Unterthiner & Hochreiter
    2016, arXiv:1511.07289.

    Parameters
    ----------
    alpha : float, default 1.0
        :math:`\alpha`, 0 or more. (PyTorch also accepts negative values.)

    Raises
    ------
    ArgumentError
        If `alpha` is negative or not finite.
    """

    _kind = "elu"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        self._check("alpha", 0)


@description
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


@description
class SELU(Activation):
    r"""Scaled ELU, :math:`y = \lambda x` for :math:`x > 0`, else :math:`\lambda\alpha (e^x - 1)`.

    :math:`\lambda = 1.0507\ldots` and :math:`\alpha = 1.6733\ldots` are the values that preserve
    mean 0 and variance 1 from layer to layer, with ``init="lecun_normal"``. Klambauer, Unterthiner,
    Mayr & Hochreiter 2017, arXiv:1706.02515.
    """

    _kind = "selu"


@description
class Tanh(Activation):
    r"""Hyperbolic tangent, :math:`y = \tanh x`, with :math:`dy/dx = 1 - y^2`."""

    _kind = "tanh"


@description
class Sigmoid(Activation):
    r"""Logistic function, :math:`y = 1 / (1 + e^{-x})`, with :math:`dy/dx = y (1 - y)`."""

    _kind = "sigmoid"


@description
class LogSigmoid(Activation):
    r"""Logarithm of the logistic function, :math:`y = -\ln(1 + e^{-x})`.

    :math:`dy/dx = 1 - e^y`; neither overflows nor cancels.
    """

    _kind = "log_sigmoid"


@description
class GELU(Activation):
    r"""Gaussian error linear unit, :math:`y = x\,\Phi(x)`.

    :math:`\Phi(x) = \tfrac12 (1 + \mathrm{erf}(x/\sqrt2))`, and
    :math:`dy/dx = \Phi(x) + x\,\varphi(x)` with the normal density :math:`\varphi`. Hendrycks &
    Gimpel 2016, arXiv:1606.08415.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        ``"tanh"`` is :math:`y = \tfrac{x}{2} (1 + \tanh(\sqrt{2/\pi}\,(x + 0.044715\,x^3)))`, with
        the derivative of this formula. It is off by up to 5e-4, and some pretrained networks use
        it. It is no faster here.

    Raises
    ------
    ArgumentError
        If `approximate` is another value.
    """

    approximate: Approximate = "none"

    def __post_init__(self) -> None:
        self._check("approximate", get_args(Approximate), by=_checks.one_of)

    def _spec(self) -> tuple[Any, ...]:
        return ("gelu",) if self.approximate == "none" else ("gelu_tanh",)


@description
class SiLU(Activation):
    r"""Sigmoid linear unit, also called Swish, :math:`y = x\,\sigma(x) = x / (1 + e^{-x})`.

    :math:`dy/dx = \sigma(x) (1 + x (1 - \sigma(x)))`. Elfwing, Uchibe & Doya 2018,
    arXiv:1702.03118.
    """

    _kind = "silu"


@description
class Mish(Activation):
    r"""Mish, :math:`y = x \tanh(\ln(1 + e^x))`.

    With :math:`n = e^x (e^x + 2)`, this is :math:`x\,n / (n + 2)`, and
    :math:`dy/dx = n / (n + 2) + 4 x e^x (1 + e^x) / (n + 2)^2`. Misra 2020, arXiv:1908.08681.
    """

    _kind = "mish"


@description
class Softplus(Activation):
    r"""Smooth rectifier, :math:`y = \ln(1 + e^{\beta x}) / \beta`.

    :math:`dy/dx = 1 / (1 + e^{-\beta x})`. There is no ``threshold``, above which PyTorch (by
    default at 20) returns `x` for `y` and 1 for the derivative: both are exact here, and nothing
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


@description
class Softsign(Activation):
    r"""Softsign, :math:`y = x / (1 + |x|)`, with :math:`dy/dx = 1 / (1 + |x|)^2`."""

    _kind = "softsign"


@description
class Sine(Activation):
    r"""Sine, :math:`y = \sin(\omega x)`, with :math:`dy/dx = \omega \cos(\omega x)`.

    The activation of SIREN networks, which represent signals and solutions of differential
    equations: Sitzmann, Martel, Bergman, Lindell & Wetzstein 2020, arXiv:2006.09661. Use
    ``init="siren_first"`` for the `Linear` before the first one, and ``init="siren"`` for the
    others. (PyTorch has no such layer; the paper's code calls the parameter ``omega_0``.)

    Parameters
    ----------
    omega : float, default 30.0
        :math:`\omega`, above 0. That of the first sine sets the highest frequency of the initial
        network, :math:`\omega / \pi` periods of a single coordinate from -1 to 1, and can be
        changed by itself. The initialization ``"siren"`` is for weights that lead to a `Sine` of
        the default. To keep the spread of the paper, multiply those that lead to another one by 30
        / omega: ``state["2.weight"] *= 30 / omega`` for ``state = model.state_dict()``, before
        ``model.load_state_dict(state)``, if layer 3 is that sine.

    Raises
    ------
    ArgumentError
        If `omega` is not a positive finite number.

    Notes
    -----
    The sine is that of :math:`\omega x`, computed in the model's precision, however large it is.

    For signals of many periods, such as sound, make the first omega large, 1000 or so, and leave
    the others at 30, with nothing multiplied. The larger an omega, the faster outputs change with
    the weights before it, and the lower the learning rate has to be: `Adam` needs about 1e-4 then,
    and about 3e-5 with 1000 in all layers.

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


@description
class Hardtanh(Activation):
    r"""Clamp, :math:`y = \min(\max(x, a), b)`; the derivative is 1 strictly between, else 0.

    Parameters
    ----------
    min_val, max_val : float, default -1.0 and 1.0
        :math:`a < b`.

    Raises
    ------
    ArgumentError
        If they are not finite numbers in ascending order.
    """

    _kind = "hardtanh"
    min_val: float = -1.0
    max_val: float = 1.0

    def __post_init__(self) -> None:
        self._check("min_val")
        self._check("max_val", self.min_val, math.inf, "()")


@description
class ReLU6(Activation):
    r"""Rectifier with a ceiling, :math:`y = \min(\max(x, 0), 6)`."""

    _kind = "relu6"


@description
class Hardsigmoid(Activation):
    r"""Piecewise linear sigmoid, :math:`y = \min(\max(x/6 + 1/2, 0), 1)`, as in PyTorch."""

    _kind = "hardsigmoid"


@description
class Hardswish(Activation):
    r"""SiLU with a piecewise linear sigmoid, :math:`y = x \min(\max(x/6 + 1/2, 0), 1)`.

    The derivative at -3 is taken as 0, at 3 as 1. Howard et al. 2019, arXiv:1905.02244.
    """

    _kind = "hardswish"


@description
class Identity(Activation):
    """Passes its input through unchanged; can replace a layer without renumbering the others."""

    _kind = "identity"
