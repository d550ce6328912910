r"""The losses, as light frozen descriptions: the core knows each by its name.

A loss is a mean by default, so that a step size means the same for every batch size. What a mean is
taken over differs: over all elements for losses that compare element by element, over the rows for
those that compare distributions. With weights `w_i` of the samples (``sample_weight`` of `Trainer`)
it is the weighted mean,

.. math:: L = \frac{\sum_i w_i \ell_i}{\sum_i w_i n_i}

where :math:`\ell_i` is the sum over the elements of row `i` and :math:`n_i` their number. So a
weight of 0 is as if the row were not there, a weight of 2 as if it were there twice, and only
ratios matter. PyTorch normalizes class weights in this way, scikit-learn sample weights; Keras
divides by the number of samples instead.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

from thalweg import _checks
from thalweg.errors import ArgumentError

_REDUCTIONS = ("mean", "sum")


class Loss:
    """Base of all loss descriptions."""

    __slots__ = ()


class CoreLoss(Loss):
    """Base of those that the core computes."""

    __slots__ = ()

    #: The name by which the core knows this loss.
    _kind: ClassVar[str]
    #: Whether targets may be class labels (1-D integers) rather than numbers.
    _labels: ClassVar[bool] = False

    reduction: str

    def __post_init__(self) -> None:
        _checks.one_of("reduction", self.reduction, _REDUCTIONS)

    def _set(self, **values: Any) -> None:
        """Set attributes of a frozen object while it is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _columns(self, outputs: int) -> tuple[float, ...]:
        """Numbers that differ from column to column, for a network of so many outputs."""
        return ()

    def _numbers(self) -> tuple[float | bool, ...]:
        """All other numbers, in the order in which the core takes them."""
        return ()

    def _target_width(self, outputs: int) -> int:
        """Columns of the targets for a network of so many outputs."""
        return outputs

    def _spec(self, outputs: int) -> tuple[Any, ...]:
        """Give the core what it makes this loss from."""
        return (self._kind, self.reduction, self._columns(outputs), *self._numbers())


@dataclass(frozen=True, slots=True)
class MSELoss(CoreLoss):
    r"""Mean squared error over *all* elements, as PyTorch's.

    .. math:: L = \frac{1}{n\,k} \sum_{i=1}^{n} \sum_{j=1}^{k} (y_{ij} - t_{ij})^2

    The output `y` and the target `t` both have shape (n, k). A target of shape (n,) is taken as
    (n, 1) when the model has one output, and is an error otherwise; nothing is broadcast. Notice
    the factor: there is no 1/2, and the sum over the `k` outputs is divided by `k` too.

    Parameters
    ----------
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division out.

    Raises
    ------
    ArgumentError
        If `reduction` is something else.
    """

    _: KW_ONLY
    reduction: str = "mean"

    _kind: ClassVar[str] = "mse"


@dataclass(frozen=True, slots=True)
class L1Loss(CoreLoss):
    r"""Mean absolute error over all elements, as PyTorch's.

    .. math:: L = \frac{1}{n\,k} \sum_{i=1}^{n} \sum_{j=1}^{k} |y_{ij} - t_{ij}|

    Shapes are those of `MSELoss`. The gradient where the two are equal is 0.

    Parameters
    ----------
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division out.

    Raises
    ------
    ArgumentError
        If `reduction` is something else.
    """

    _: KW_ONLY
    reduction: str = "mean"

    _kind: ClassVar[str] = "l1"


@dataclass(frozen=True, slots=True)
class HuberLoss(CoreLoss):
    r"""Squares of small errors, absolute values of large ones, as PyTorch's.

    .. math:: L = \frac{1}{n\,k} \sum_{i,j} \begin{cases}
              \frac12 d_{ij}^2 & |d_{ij}| \le \delta \\
              \delta\,(|d_{ij}| - \frac12 \delta) & \text{else} \end{cases},
              \qquad d_{ij} = y_{ij} - t_{ij}

    Shapes are those of `MSELoss`. With ``delta=1`` it is PyTorch's ``SmoothL1Loss`` too.

    Parameters
    ----------
    delta : float, keyword only, default 1.0
        Where the square ends, more than 0.
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division out.

    Raises
    ------
    ArgumentError
        If `delta` or `reduction` is out of range.

    References
    ----------
    Huber 1964, "Robust estimation of a location parameter", Ann. Math. Statist. 35.
    """

    _: KW_ONLY
    delta: float = 1.0
    reduction: str = "mean"

    _kind: ClassVar[str] = "huber"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(delta=_checks.real("delta", self.delta, 0, closed="()"))

    def _numbers(self) -> tuple[float, ...]:
        return (self.delta,)


@dataclass(frozen=True, slots=True)
class CrossEntropyLoss(CoreLoss):
    r"""Softmax followed by the negative log-likelihood of the right class, as PyTorch's.

    .. math:: L = -\frac{\sum_i w_{t_i} \log p_{i t_i}}{\sum_i w_{t_i}},
              \qquad p_{ij} = \frac{e^{y_{ij}}}{\sum_l e^{y_{il}}}

    The output `y` has shape (n, classes) and holds logits: the model must *not* end in a softmax.
    The target `t` has shape (n,) and holds integer labels from 0 to classes - 1. A column of shape
    (n, 1) is an error, as in PyTorch: pass ``t.ravel()``.

    Or the target has shape (n, classes) and holds a probability per class (or any numbers from 0
    on; they need not sum to 1). Then, with `n` as the divisor whatever the class weights,

    .. math:: L = -\frac{1}{n} \sum_i \sum_j w_j\, t_{ij} \log p_{ij}.

    Label smoothing :math:`\varepsilon` replaces the target, where a label is taken as the row that
    is 1 in its place, by :math:`(1 - \varepsilon)\,t_{ij} + \varepsilon/\text{classes}`; the
    divisor stays.

    The accuracy is the share of rows whose largest output is in the place of the label, or of the
    largest probability, the first of equal ones. Rows that are ignored do not count in it, and
    class weights do not either; weights of samples do.

    Parameters
    ----------
    weight : array_like of shape (classes,), optional
        Weights of the classes, 0 or more; all are 1 by default.
    ignore_index : int, keyword only, default -100
        Rows with this label do not count, as if they were not there.
    label_smoothing : float, keyword only, default 0.0
        From 0 to 1.
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division out.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Szegedy et al. 2016, "Rethinking the Inception architecture", section 7 (label smoothing).

    Examples
    --------
    >>> from thalweg import nn
    >>> nn.CrossEntropyLoss([1, 5], label_smoothing=0.1)
    CrossEntropyLoss(weight=(1.0, 5.0), ignore_index=-100, label_smoothing=0.1, reduction='mean')
    """

    weight: Any = None
    _: KW_ONLY
    ignore_index: int = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"

    _kind: ClassVar[str] = "cross_entropy"
    _labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        weight = None if self.weight is None else _floats("weight", self.weight, 0)
        self._set(
            weight=weight,
            ignore_index=_checks.integer("ignore_index", self.ignore_index, -(2**63), 2**63 - 1),
            label_smoothing=_checks.real("label_smoothing", self.label_smoothing, 0, 1, "[]"),
        )

    def _columns(self, outputs: int) -> tuple[float, ...]:
        return self.weight or ()

    def _numbers(self) -> tuple[float, ...]:
        return self.label_smoothing, self.ignore_index


@dataclass(frozen=True, slots=True)
class BCEWithLogitsLoss(CoreLoss):
    r"""Logistic function followed by the cross-entropy of each output by itself, as PyTorch's.

    .. math:: L = -\frac{1}{n\,k} \sum_{i,j} \bigl(p_j\, t_{ij} \log \sigma(y_{ij})
              + (1 - t_{ij}) \log \sigma(-y_{ij})\bigr), \qquad \sigma(y) = \frac{1}{1 + e^{-y}}

    For yes or no (one output) and for several labels at once (one output for each). The output `y`
    and the target `t` both have shape (n, k), the target also (n,) if there is one output. `y`
    holds logits: the model must *not* end in a `Sigmoid`. Targets are probabilities, so 0, 1 or
    between. Nothing overflows or cancels, however large the logits are.

    The accuracy is the share of all `n k` elements that are on the right side: logit above 0 where
    the target is above 1/2, and not above it elsewhere (as Keras' ``BinaryAccuracy``).

    Parameters
    ----------
    pos_weight : float or array_like of shape (k,), keyword only, optional
        The factors `p` of what is positive, 0 or more; 1 by default.
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division out.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    _: KW_ONLY
    pos_weight: Any = None
    reduction: str = "mean"

    _kind: ClassVar[str] = "bce_with_logits"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        if self.pos_weight is not None:
            self._set(pos_weight=_floats("pos_weight", self.pos_weight, 0))

    def _columns(self, outputs: int) -> tuple[float, ...]:
        weight: tuple[float, ...] = self.pos_weight or ()
        return weight * outputs if len(weight) == 1 else weight


@dataclass(frozen=True, slots=True)
class GaussianNLLLoss(CoreLoss):
    r"""Negative log-likelihood of a normal distribution whose variance is predicted too.

    .. math:: L = \frac{1}{2\,n\,k} \sum_{i,j} \Bigl(\log v_{ij}
              + \frac{(m_{ij} - t_{ij})^2}{v_{ij}} \Bigr),
              \qquad v_{ij} = \max(e^{s_{ij}}, \varepsilon)

    The target `t` has shape (n, k), the output (n, 2k): the first k columns are the means `m`, the
    others the *logarithms* of the variances, `s`. So any output is a variance, and none overflows.
    This is PyTorch's ``GaussianNLLLoss()(y[:, :k], t, y[:, k:].exp())``, value and gradient, where
    PyTorch takes the variance as an argument of its own: as there, the gradient passes through the
    bound :math:`\varepsilon` as if it were not there.

    Parameters
    ----------
    full : bool, keyword only, default False
        Whether the constant :math:`\frac12 \log 2\pi` is added.
    eps : float, keyword only, default 1e-6
        The least variance, more than 0.
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division by `n k` out.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution";
    for the logarithm Kendall & Gal 2017, "What uncertainties do we need ...?", section 3.2.
    """

    _: KW_ONLY
    full: bool = False
    eps: float = 1e-6
    reduction: str = "mean"

    _kind: ClassVar[str] = "gaussian_nll"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        eps = _checks.real("eps", self.eps, 0, closed="()")
        self._set(full=_checks.flag("full", self.full), eps=eps)

    def _numbers(self) -> tuple[float | bool, ...]:
        return self.full, self.eps

    def _target_width(self, outputs: int) -> int:
        return outputs // 2


@dataclass(frozen=True, slots=True)
class PoissonNLLLoss(CoreLoss):
    r"""Negative log-likelihood of counts, as PyTorch's.

    .. math:: L = \frac{1}{n\,k} \sum_{i,j} \bigl(e^{y_{ij}} - t_{ij}\, y_{ij}\bigr)
              \qquad\text{or}\qquad
              \frac{1}{n\,k} \sum_{i,j} \bigl(y_{ij} - t_{ij} \log(y_{ij} + \varepsilon)\bigr)

    The output `y` and the target `t` both have shape (n, k), the target also (n,) if there is one
    output. Targets are counts, so 0 or more. An output is the logarithm of a rate, or with
    ``log_input=False`` a rate; then let the model end in a `Softplus`, for a rate below
    :math:`-\varepsilon` has no loss. A logarithm above 88 (709 in float64) is a rate too large to
    be represented, and an error.

    Parameters
    ----------
    log_input : bool, default True
        Whether outputs are logarithms.
    full : bool, default False
        Whether :math:`\log t!`, which depends on the target alone, is added for t > 1, by
        Stirling's approximation :math:`t \log t - t + \frac12 \log 2\pi t`.
    eps : float, keyword only, default 1e-8
        Keeps the logarithm of a rate of 0 finite; more than 0.
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division out.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    log_input: bool = True
    full: bool = False
    _: KW_ONLY
    eps: float = 1e-8
    reduction: str = "mean"

    _kind: ClassVar[str] = "poisson_nll"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(
            log_input=_checks.flag("log_input", self.log_input),
            full=_checks.flag("full", self.full),
            eps=_checks.real("eps", self.eps, 0, closed="()"),
        )

    def _numbers(self) -> tuple[float | bool, ...]:
        return self.log_input, self.full, self.eps


@dataclass(frozen=True, slots=True)
class QuantileLoss(CoreLoss):
    r"""Pinball loss: what makes it small is a quantile of the target, or several.

    .. math:: L = \frac{1}{n\,m\,k} \sum_{i,q,j} \max\bigl(q\,u_{iqj}, (q - 1)\,u_{iqj}\bigr),
              \qquad u_{iqj} = t_{ij} - y_{iqj}

    The target `t` has shape (n, k), also (n,) if k is 1. The output has shape (n, m k) for `m`
    quantiles: the first k columns are the first quantile of each target, the next k the second, and
    so on. Nothing forbids that quantiles cross. For ``quantiles=0.5`` it is half of `L1Loss`.

    With one quantile it is scikit-learn's ``mean_pinball_loss`` with ``alpha=q``.

    Parameters
    ----------
    quantiles : float or sequence of float, default 0.5
        Each between 0 and 1, ends excluded.
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division out.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Koenker & Bassett 1978, "Regression quantiles", Econometrica 46.
    """

    quantiles: Any = 0.5
    _: KW_ONLY
    reduction: str = "mean"

    _kind: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(quantiles=_floats("quantiles", self.quantiles, 0, 1, "()"))

    def _columns(self, outputs: int) -> tuple[float, ...]:
        quantiles: tuple[float, ...] = self.quantiles
        return quantiles

    def _target_width(self, outputs: int) -> int:
        return outputs // len(self.quantiles)


@dataclass(frozen=True, slots=True)
class DistillationLoss(CoreLoss):
    r"""Divergence from a teacher: the outputs are to say what its logits say.

    .. math:: L = \frac{T^2}{n} \sum_i \sum_j q_{ij} \log \frac{q_{ij}}{p_{ij}}, \qquad
              q_i = \mathrm{softmax}(t_i / T), \quad p_i = \mathrm{softmax}(y_i / T)

    The output `y` and the target `t` both have shape (n, classes) and hold logits, the target those
    of the teacher. For a teacher that gives probabilities pass their logarithms. The factor
    :math:`T^2` keeps gradients of one size for every temperature `T`. In PyTorch it is
    ``T**2 * F.kl_div((y / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")``.

    To fit labels too, mix them into a `CrossEntropyLoss` of probabilities.

    Parameters
    ----------
    temperature : float, default 2.0
        More than 0.
    reduction : {"mean", "sum"}, keyword only
        ``"sum"`` leaves the division by `n` out.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network".
    """

    temperature: float = 2.0
    _: KW_ONLY
    reduction: str = "mean"

    _kind: ClassVar[str] = "distillation"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(temperature=_checks.real("temperature", self.temperature, 0, closed="()"))

    def _numbers(self) -> tuple[float, ...]:
        return (self.temperature,)


@dataclass(frozen=True, slots=True)
class CustomLoss(Loss):
    """A loss of your own: a function that gives its value and its gradient by the outputs.

    A `Trainer` takes the bare function as well. Steps are then a forward pass, a call of the
    function, a backward pass and a step of the optimizer: correct, but without what fusing them
    saves. They leave their gradients in ``model.flat_gradients``.

    Parameters
    ----------
    function : callable
        Called as ``function(output, target)`` and gives a tuple ``(loss, gradient)``, a number and
        an array of the shape of `output`, ``gradient[i, j]`` being the derivative of the loss by
        ``output[i, j]``. `output` is a fresh array of shape (n, out_features) and of the model's
        dtype, which may be overwritten; `target` holds the rows of `y` that belong to it, as they
        are. With ``sample_weight`` it is called as ``function(output, target, weight)``, and what
        becomes of the weights is its own affair. Any mean over the batch is too; the loss of an
        epoch is the mean of its batches', by their numbers of rows. `gradcheck` tells whether the
        gradient is that of the loss.

    Raises
    ------
    ArgumentError
        If `function` cannot be called.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> def log_cosh(output, target):
    ...     d = output - target
    ...     return np.log(np.cosh(d)).mean(), np.tanh(d) / d.size
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> bool(tw.gradcheck(model, np.eye(3), np.ones((3, 2)), loss=log_cosh))
    True
    >>> trainer = tw.Trainer(model, loss=nn.CustomLoss(log_cosh), optimizer=optim.Adam(lr=0.1))
    >>> losses = trainer.fit(np.eye(3), np.ones((3, 2)), epochs=50)["loss"]
    >>> losses[-1] < 0.01 * losses[0]
    True
    """

    function: Callable[..., tuple[float, Any]]

    def __post_init__(self) -> None:
        if isinstance(self.function, type) or not callable(self.function):
            raise ArgumentError(f"function must be callable; got {self.function!r}")


def loss_of(value: Any) -> CoreLoss | CustomLoss:
    """`value` as a loss: what is one, or a function.

    Raises
    ------
    ArgumentError
        If it is neither; with the name that may have been meant.
    """
    if isinstance(value, (CoreLoss, CustomLoss)):
        return value
    if callable(value) and not isinstance(value, type):
        return CustomLoss(value)
    what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    hint = ""
    if isinstance(value, type) and issubclass(value, Loss):
        hint = f"; make one: nn.{value.__name__}(...)"
    elif isinstance(value, str):
        hint = _meant(value)
    raise ArgumentError(
        "loss must be a Loss, e.g. nn.CrossEntropyLoss() or nn.MSELoss(), or a function "
        f"(output, target) -> (loss, gradient); got {what}{hint}"
    )


#: What other libraries call the losses, without case, spaces and underscores.
_ALIASES = {
    "mae": "L1Loss",
    "meanabsoluteerror": "L1Loss",
    "meansquarederror": "MSELoss",
    "squarederror": "MSELoss",
    "smoothl1": "HuberLoss",
    "logloss": "CrossEntropyLoss",
    "categoricalcrossentropy": "CrossEntropyLoss",
    "sparsecategoricalcrossentropy": "CrossEntropyLoss",
    "softmax": "CrossEntropyLoss",
    "binarycrossentropy": "BCEWithLogitsLoss",
    "bce": "BCEWithLogitsLoss",
    "nll": "CrossEntropyLoss",
    "pinball": "QuantileLoss",
    "kldiv": "DistillationLoss",
    "kldivergence": "DistillationLoss",
}


def _meant(text: str) -> str:
    """``'; did you mean nn.MSELoss()?'`` if a loss has nearly that name, else all names."""
    import difflib  # only needed once something is wrong already

    names = {kind.__name__: kind.__name__ for kind in CoreLoss.__subclasses__()}
    known = {n.lower(): n for n in names} | {n.lower().removesuffix("loss"): n for n in names}
    known |= _ALIASES
    plain = "".join(c for c in text.lower() if c.isalnum())
    close = difflib.get_close_matches(plain, list(known), n=1)
    if close:
        return f"; did you mean nn.{known[close[0]]}()?"
    return f"; there are {', '.join(sorted(names))}"


def _floats(
    name: str, value: Any, low: float, high: float = math.inf, closed: str = "[)"
) -> tuple[float, ...]:
    """One number or a sequence of them as a tuple of floats in an interval, see `_checks.real`."""
    try:
        array = np.asarray(value, dtype=object)
    except ValueError:
        raise ArgumentError(f"{name} must be numbers of shape (k,); got {value!r}") from None
    if array.ndim > 1 or array.size == 0:
        raise ArgumentError(f"{name} must be numbers of shape (k,); got shape {array.shape}")
    if array.ndim == 0:
        return (_checks.real(name, value, low, high, closed),)
    return tuple(
        _checks.real(f"{name}[{i}]", number, low, high, closed) for i, number in enumerate(array)
    )
