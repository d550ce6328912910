"""Losses of classes: cross-entropies of several kinds."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from thalweg import _checks
from thalweg.nn._losses._base import CoreLoss, floats


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
        weight = None if self.weight is None else floats("weight", self.weight, 0)
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
            self._set(pos_weight=floats("pos_weight", self.pos_weight, 0))

    def _columns(self, outputs: int) -> tuple[float, ...]:
        weight: tuple[float, ...] = self.pos_weight or ()
        return weight * outputs if len(weight) == 1 else weight


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
