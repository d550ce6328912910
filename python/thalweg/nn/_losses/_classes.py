"""Losses of classes: cross-entropies of several kinds."""

import dataclasses
from dataclasses import KW_ONLY
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Array, Labels
from thalweg._description import description
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn._losses._base import CoreLoss, floats


@description
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

    With `heads` the columns are cut into groups, one per task, each with a softmax of its own: the
    sum over `l` in :math:`p_{ij}` runs over the head that holds the label. So a batch may mix
    tasks, without any mark of whose a row is, and the gradient of a row is exactly 0 in all other
    columns.
    With `active` only some classes compete: others have the probability 0, as if their logits were
    :math:`-\infty`, and a gradient of exactly 0. (Of probabilities as targets the loss is the sum
    over the heads in which a row has any; those of classes that are not active must be 0.)

    Label smoothing :math:`\varepsilon` replaces the target, where a label is taken as the row that
    is 1 in its place, by :math:`(1 - \varepsilon)\,t_{ij} + \varepsilon/\text{classes}`,
    over the classes that compete with the label; the divisor stays.

    The accuracy is the share of rows whose largest output is in the place of the label, or of the
    largest probability, the first of equal ones, among the classes that compete. Rows that are
    ignored do not count in it, and class weights do not either; weights of samples do.

    Parameters
    ----------
    weight : array_like of shape (classes,), optional
        Weights of the classes, 0 or more; all are 1 by default.
    ignore_index : int, keyword only, default -100
        Rows with this label do not count, as if they were not there.
    label_smoothing : float, keyword only, default 0.0
        From 0 to 1.
    heads : sequence of int, keyword only, optional
        How many columns each head has, the first ones for the first head and so on; all together
        as many as the model has outputs. One head by default.
    active : sequence of int, keyword only, optional
        The classes that compete; all by default. A label of another class is an error. To activate
        more of them between fits, set `Trainer.loss`.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` leaves the division out; ``"none"``, a number per sample, is for
        calls of the loss alone, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Szegedy et al. 2016, "Rethinking the Inception architecture", section 7 (label smoothing); for
    heads and active classes van de Ven, Tuytelaars & Tolias 2022, "Three types of incremental
    learning", Nature Machine Intelligence 4.

    Examples
    --------
    >>> from thalweg import nn
    >>> nn.CrossEntropyLoss([1, 5], label_smoothing=0.1)
    CrossEntropyLoss([1.0, 5.0], label_smoothing=0.1)

    Two tasks of two classes each:

    >>> loss = nn.CrossEntropyLoss(heads=(2, 2))
    >>> loss.predict([[1, 2, 8, 9], [1, 2, 8, 9]], head=[0, 1])
    array([1, 3])
    """

    weight: Any = None
    _: KW_ONLY
    ignore_index: int = -100
    label_smoothing: float = 0.0
    heads: Any = None
    active: Any = None
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
            heads=_integers("heads", self.heads, 1),
            active=_integers("active", self.active, 0),
        )
        if self.active is not None:
            if len(set(self.active)) < len(self.active):
                raise ArgumentError(f"active must name each class once; got {self.active}")
            self._set(active=tuple(sorted(self.active)))

    def __repr__(self) -> str:
        weight = [] if self.weight is None else [repr(list(self.weight))]
        named = [(f.name, f.default) for f in dataclasses.fields(self) if f.name != "weight"]
        changed = [f"{n}={getattr(self, n)!r}" for n, usual in named if getattr(self, n) != usual]
        return f"CrossEntropyLoss({', '.join(weight + changed)})"

    def predict(self, output: Any, head: Any = None) -> Labels:
        """Classes of the largest outputs, among those that compete.

        Parameters
        ----------
        output : array_like, shape (n, classes)
            Logits, ``model(x)``.
        head : int or array_like of shape (n,), optional
            Which head says it, for all rows or for each, counted from 0; by default all together,
            as where nobody knows a row's task.

        Returns
        -------
        ndarray of int64, shape (n,)
            Labels as those of the targets; the first of equal outputs.

        Raises
        ------
        ArgumentError
            If there is no such head, or no class in it is active.
        ShapeError
            If `output` is not 2-D, or of other columns than `heads` and `active` speak of.
        DataError
            If an output is NaN.
        """
        output, competes = self._competing(output, head)
        best = np.where(competes, output, -np.inf).argmax(axis=1)
        return np.asarray(best, dtype=np.int64)

    def probabilities(self, output: Any, head: Any = None) -> Array:
        """Softmax of the outputs, over the classes that compete; scikit-learn's ``predict_proba``.

        Parameters
        ----------
        output : array_like, shape (n, classes)
            Logits, ``model(x)``.
        head : int or array_like of shape (n,), optional
            As for `predict`.

        Returns
        -------
        ndarray, shape (n, classes), of the output's dtype
            Each row sums to 1; classes that do not compete have 0.

        Raises
        ------
        ArgumentError, ShapeError, DataError
            As from `predict`.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> nn.CrossEntropyLoss().probabilities(np.log([[1, 3], [4, 1]]))
        array([[0.25, 0.75],
               [0.8 , 0.2 ]])
        """
        output, competes = self._competing(output, head)
        logits = np.where(competes, _floats(output), -np.inf)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))  # which cannot overflow
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def _competing(self, output: Any, head: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Give logits as an array, and which of them compete."""
        output = _arrays.as_numeric(output, "output")
        if output.ndim != 2:
            raise ShapeError(f"output must be 2-D, (rows, classes); got shape {output.shape}")
        if np.isnan(output).any():
            row, column = (int(i) for i in np.argwhere(np.isnan(output))[0])
            raise DataError(
                f"output[{row}, {column}] is NaN, which is neither more nor less than others"
            )
        rows, classes = output.shape
        sizes = self.heads or (classes,)
        if sum(sizes) != classes:
            raise ShapeError(f"heads have {sum(sizes)} columns; output has {classes}")
        competes = np.ones((rows, classes), dtype=bool)
        if self.active is not None:
            competes &= np.isin(np.arange(classes), self._active(classes))
        if head is not None:
            number = _arrays.as_numeric(head, "head")
            good = number.dtype.kind in "iu" and number.shape in ((), (rows,))
            if not good or (number < 0).any() or (number >= len(sizes)).any():
                raise ArgumentError(
                    f"head must be an integer from 0 to {len(sizes) - 1}, or {rows} of them; "
                    f"got {head!r}"
                )
            of_column = np.repeat(np.arange(len(sizes)), sizes)
            competes &= of_column == number.reshape(-1, 1)
        if not competes.any(axis=1).all():
            row = int(competes.any(axis=1).argmin())
            raise ArgumentError(
                f"head {np.broadcast_to(head, rows)[row]} of row {row} has no active class; "
                f"active are {self.active}"
            )
        return output, competes

    def _active(self, outputs: int) -> tuple[int, ...]:
        active: tuple[int, ...] = self.active
        if active[-1] >= outputs:
            raise ShapeError(
                f"CrossEntropyLoss: active has class {active[-1]}, but the network has {outputs} "
                "outputs"
            )
        return active

    def _columns(self, outputs: int) -> tuple[float, ...]:
        weight: tuple[float, ...] = self.weight or ()
        if self.active is None or len(weight) not in (0, outputs):  # which the core refuses
            return weight
        active = set(self._active(outputs))
        weight = weight or (1.0,) * outputs
        return tuple(w if j in active else -1.0 for j, w in enumerate(weight))

    def _numbers(self) -> tuple[Any, ...]:
        ends = [] if self.heads is None else np.cumsum(self.heads).tolist()
        return self.label_smoothing, self.ignore_index, ends


@description
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
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` leaves the division out; ``"none"``, a number per sample, is for
        calls of the loss alone, see `nn.Loss`.

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

    def predict(self, output: Any) -> npt.NDArray[np.bool_]:
        """Say yes or no: which probabilities are above 1/2.

        Parameters
        ----------
        output : array_like, any shape
            Logits, ``model(x)``.

        Returns
        -------
        ndarray of bool, of the same shape
            So of one output it is a column, (n, 1).

        Warnings
        --------
        `fit` and `evaluate` take labels of shape (n,) beside one output, but NumPy compares a
        column with such a row of labels pair by pair, to (n, n), and the mean of that says
        nothing. Compare ``loss.predict(model(x)).ravel() == y``, or ask `Trainer.evaluate`.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> output, y = np.array([[3.0], [-3.0], [2.0]]), np.array([1, 0, 0])
        >>> said = nn.BCEWithLogitsLoss().predict(output)
        >>> said.shape
        (3, 1)
        >>> int((said.ravel() == y).sum())
        2
        """
        return _arrays.as_numeric(output, "output") > 0

    def probabilities(self, output: Any) -> Array:
        r"""Logistic function of the outputs, :math:`\sigma(y)`.

        Parameters
        ----------
        output : array_like, any shape
            Logits, ``model(x)``.

        Returns
        -------
        ndarray of the same shape, of the output's dtype
            The probability of each output, by itself.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> nn.BCEWithLogitsLoss().probabilities([[0.0], [np.log(3)], [-1000.0]])
        array([[0.5 ],
               [0.75],
               [0.  ]])
        """
        logits = _floats(_arrays.as_numeric(output, "output"))
        power = np.exp(-np.abs(logits))  # which cannot overflow
        shares: Array = np.where(logits >= 0, 1, power) / (1 + power)
        return shares

    def _columns(self, outputs: int) -> tuple[float, ...]:
        weight: tuple[float, ...] = self.pos_weight or ()
        return weight * outputs if len(weight) == 1 else weight


@description
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
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` leaves the division by `n` out; ``"none"``, a number per sample, is for
        calls of the loss alone, see `nn.Loss`.

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


def _floats(output: npt.NDArray[Any]) -> Array:
    """Give outputs of a model as they are; whole numbers as float64."""
    return output if output.dtype.kind == "f" else output.astype(np.float64)


def _integers(name: str, value: Any, low: int) -> tuple[int, ...] | None:
    """Make a sequence of at least one integer from `low` on a tuple; None is None."""
    if value is None:
        return None
    if isinstance(value, (int, np.integer)):
        raise ArgumentError(f"{name} must be a sequence of integers; got {value!r}")
    numbers = _checks.sequence(name, value)
    if not numbers:
        raise ArgumentError(f"{name} must have at least one number; got {value!r}")
    return tuple(_checks.integer(f"{name}[{i}]", n, low) for i, n in enumerate(numbers))
