"""Losses of classes: cross-entropies of several kinds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Array, Labels
from thalweg._description import description
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn._losses._base import CoreLoss, Reduction, floats
from thalweg.nn._losses._competition import Competition, softmax


@description
class CrossEntropyLoss(CoreLoss):
    r"""Softmax followed by the negative log-likelihood of the correct class, as in PyTorch.

    .. math:: L = -\frac{\sum_i w_{t_i} \log p_{i t_i}}{\sum_i w_{t_i}},
              \qquad p_{ij} = \frac{e^{y_{ij}}}{\sum_l e^{y_{il}}}

    The output `y` has shape (n, classes) and holds logits: the model must *not* end in a softmax.
    The target `t` has shape (n,) and holds integer labels from 0 to classes - 1. A column of shape
    (n, 1) is an error, as in PyTorch: pass ``t.ravel()``.

    Alternatively, the target has shape (n, classes) and holds a probability per class (or any
    non-negative numbers; they need not sum to 1). Then, with `n` as the divisor whatever the class
    weights,

    .. math:: L = -\frac{1}{n} \sum_i \sum_j w_j\, t_{ij} \log p_{ij}.

    With `heads`, the columns are divided into groups, one per task, each with its own softmax: the
    sum over `l` in :math:`p_{ij}` runs over the head that contains the label. So a batch may mix
    tasks without marking which task a row belongs to, and the gradient of a row is exactly 0 in all
    other columns. With `active`, only some classes compete: the others have probability 0, as if
    their logits were :math:`-\infty`, and a gradient of exactly 0. (With probabilities as targets,
    the loss is the sum over the heads in which a row has any; those of inactive classes must be 0.)

    Label smoothing :math:`\varepsilon` replaces the target, for a label its one-hot row, by
    :math:`(1 - \varepsilon)\,t_{ij} + \varepsilon/\text{classes}`, over the classes that compete
    with the label; the divisor is unchanged.

    The accuracy is the fraction of rows where the largest output among the competing classes, the
    first of equal ones, is that of the label, or of the largest target probability. Ignored rows
    and class weights do not affect it; sample weights do.

    Parameters
    ----------
    weight : array_like of shape (classes,), optional
        Weights of the classes, 0 or more; by default all 1. If they are very unequal and batches
        small, divide them by the batch size and take ``reduction="sum"``, see Notes.
    ignore_index : int, keyword only, default -100
        Rows with this label are ignored, as if they were not there. (Only batch statistics of
        `nn.BatchNorm1d` include them.)
    label_smoothing : float, keyword only, default 0.0
        From 0 to 1.
    heads : sequence of int, keyword only, optional
        Number of columns of each head, starting from the first column; the numbers must sum to the
        model's number of outputs. By default, there is one head.
    active : sequence of int, keyword only, optional
        The classes that compete; by default all. A label of another class is an error. To activate
        more classes between fits, set `Trainer.loss`.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division; ``"none"`` gives one number per sample, and is only
        for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    As in PyTorch, the mean is over the weights of a batch, so mini-batches do not minimize that
    over all rows: batches without a rare class count as much as those with it. With 1 % of the rows
    in one of two classes, weights that balance them and batches of 32, the probabilities, corrected
    for the weights, give that class about 0.3 %. ``CrossEntropyLoss(weight / 32, reduction="sum")``
    with ``fit(..., batch_size=32)`` gives 1 %.

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
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "cross_entropy"
    _outputs = "logits"
    _labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        weight = None if self.weight is None else floats("weight", self.weight, 0)
        self._set(
            weight=weight,
            ignore_index=_checks.integer("ignore_index", self.ignore_index, -(2**63), 2**63 - 1),
            label_smoothing=_checks.real("label_smoothing", self.label_smoothing, 0, 1, "[]"),
            heads=_integers("heads", self.heads, 1),
            active=_integers("active", self.active, 0, ordered=False),
        )
        if self.active is not None:
            if len(set(self.active)) < len(self.active):
                raise ArgumentError(f"active must name each class once; got {self.active}")
            self._set(active=tuple(sorted(self.active)))

    def __repr__(self) -> str:
        weight = [] if self.weight is None else [repr(list(self.weight))]
        named = [(f.name, f.default) for f in dataclasses.fields(self) if f.name != "weight"]
        changed = [f"{n}={getattr(self, n)!r}" for n, usual in named if getattr(self, n) != usual]
        return f"{type(self).__name__}({', '.join(weight + changed)})"

    def predict(self, output: npt.ArrayLike, head: npt.ArrayLike | None = None) -> Labels:
        """Return the classes of the largest outputs, among those that compete.

        Parameters
        ----------
        output : array_like, shape (n, classes)
            Logits, ``model(x)``.
        head : int or array_like of shape (n,), optional
            Which head decides, for all rows or for each row, counted from 0; by default all heads
            together, for when the task of a row is unknown.

        Returns
        -------
        ndarray of int64, shape (n,)
            Labels like those of the targets; the first of equal outputs.

        Raises
        ------
        ArgumentError
            If there is no such head, or it has no active class.
        ShapeError
            If `output` is not 2-D, or its number of columns does not match `heads` and `active`.
        DataError
            If an output is NaN.
        """
        output, competes = self._competing(output, head)
        best = np.where(competes, output, -np.inf).argmax(axis=1)
        return np.asarray(best, dtype=np.int64)

    def probabilities(self, output: npt.ArrayLike, head: npt.ArrayLike | None = None) -> Array:
        """Return the softmax over the competing classes, like scikit-learn's ``predict_proba``.

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
            As from `predict`. Also if the largest output of a row is infinite.

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
        largest = logits.max(axis=1, initial=-np.inf)
        if not np.isfinite(largest).all():
            row = int(np.flatnonzero(~np.isfinite(largest))[0])
            raise DataError(
                f"the largest output of row {row} is {largest[row]}: shares cannot be computed"
            )
        return softmax(logits)

    @property
    def _competition(self) -> Competition:
        return Competition(self.heads, self.active, self.ignore_index)

    def _competing(self, output: Any, head: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the logits as an array, and which of them compete."""
        output = _comparable(output)
        if output.ndim != 2:
            raise ShapeError(f"output must be 2-D, (rows, classes); got shape {output.shape}")
        rows, classes = output.shape
        sizes = self.heads or (classes,)
        if sum(sizes) != classes:
            raise ShapeError(f"heads have {sum(sizes)} columns; output has {classes}")
        if self.active is not None:
            self._active(classes)  # checks it
        competes = np.tile(self._competition.takes_part(classes), (rows, 1))
        if head is not None:
            number = _arrays.as_numeric(head, "head")
            good = number.dtype.kind in "iu" and number.shape in ((), (rows,))
            if not good or (number < 0).any() or (number >= len(sizes)).any():
                raise ArgumentError(
                    f"head must be an integer from 0 to {len(sizes) - 1}, or {rows} of them; "
                    f"got {head!r}"
                )
            competes &= self._competition.heads_of(classes) == number.reshape(-1, 1)
        if not competes.any(axis=1).all():
            row = int(competes.any(axis=1).argmin())
            raise ArgumentError(
                f"head {np.broadcast_to(head, rows)[row]} of row {row} has no active class; the "
                f"active classes are {self.active}"
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
        if self.active is None or len(weight) not in (0, outputs):  # the core rejects the latter
            return weight
        active = set(self._active(outputs))
        weight = weight or (1.0,) * outputs
        return tuple(w if j in active else -1.0 for j, w in enumerate(weight))

    def _numbers(self) -> tuple[Any, ...]:
        ends = [] if self.heads is None else np.cumsum(self.heads).tolist()
        return self.label_smoothing, self.ignore_index, ends


@description
class BCEWithLogitsLoss(CoreLoss):
    r"""Logistic function followed by the cross-entropy of each output separately, as in PyTorch.

    .. math:: L = -\frac{1}{n\,k} \sum_{i,j} \bigl(p_j\, t_{ij} \log \sigma(y_{ij})
              + (1 - t_{ij}) \log \sigma(-y_{ij})\bigr), \qquad \sigma(y) = \frac{1}{1 + e^{-y}}

    For binary classification (one output) and for several labels at once (one output each). The
    output `y` and the target `t` both have shape (n, k), the target also (n,) if there is one
    output. `y` holds logits: the model must *not* end in a `Sigmoid`. Targets are probabilities,
    from 0 to 1. Nothing overflows or cancels, however large the logits are.

    The accuracy is the fraction of all `n k` elements on the correct side: logit above 0 where the
    target is above 1/2, and not above 0 elsewhere (as in Keras' ``BinaryAccuracy``).

    Parameters
    ----------
    pos_weight : float or array_like of shape (k,), keyword only, optional
        The factors `p` of the positive terms, 0 or more; 1 by default. They are not in the divisor,
        so mini-batches minimize the mean over all rows, also if positive targets are rare.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division; ``"none"`` gives one number per sample, and is only
        for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    _: KW_ONLY
    pos_weight: Any = None
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "bce_with_logits"
    _outputs = "logits"
    _arguments_elsewhere: ClassVar[Mapping[str, str]] = {
        "weight": "fit(..., sample_weight=...) weighs the samples, and pos_weight the targets of "
        "1; to weigh whole outputs, write a function, see nn.CustomLoss"
    }

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        if self.pos_weight is not None:
            self._set(pos_weight=floats("pos_weight", self.pos_weight, 0))

    def predict(self, output: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return which probabilities are above 1/2.

        Parameters
        ----------
        output : array_like, any shape
            Logits, ``model(x)``.

        Returns
        -------
        ndarray of bool, of the same shape
            For one output it is a column, (n, 1).

        Raises
        ------
        DataError, DtypeError
            If an output is NaN, or they are not numbers.

        Warnings
        --------
        With one output, `fit` and `evaluate` take labels of shape (n,), but NumPy broadcasts a
        comparison of a column with such labels to (n, n), and the mean of that is meaningless.
        Compare ``loss.predict(model(x)).ravel() == y``, or use `Trainer.evaluate`.

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
        return _comparable(output) > 0

    def probabilities(self, output: npt.ArrayLike) -> Array:
        r"""Return the logistic function of the outputs, :math:`\sigma(y)`.

        Parameters
        ----------
        output : array_like, any shape
            Logits, ``model(x)``.

        Returns
        -------
        ndarray of the same shape, of the output's dtype
            The probability of each output, separately.

        Raises
        ------
        DataError, DtypeError
            As from `predict`.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> nn.BCEWithLogitsLoss().probabilities([[0.0], [np.log(3)], [-1000.0]])
        array([[0.5 ],
               [0.75],
               [0.  ]])
        """
        logits = _floats(_comparable(output))
        with np.errstate(under="ignore"):  # to 0, the nearest number; it cannot overflow
            power = np.exp(-np.abs(logits))
            shares: Array = np.where(logits >= 0, 1, power) / (1 + power)
        return shares

    def _columns(self, outputs: int) -> tuple[float, ...]:
        weight: tuple[float, ...] = self.pos_weight or ()
        return weight * outputs if len(weight) == 1 else weight


@description
class DistillationLoss(CoreLoss):
    r"""Divergence of the outputs' distribution from that of a teacher.

    .. math:: L = \frac{T^2}{n} \sum_i \sum_j q_{ij} \log \frac{q_{ij}}{p_{ij}}, \qquad
              q_i = \mathrm{softmax}(t_i / T), \quad p_i = \mathrm{softmax}(y_i / T)

    The output `y` and the target `t` both have shape (n, classes) and hold logits, the target those
    of the teacher. For a teacher that gives probabilities, pass their logarithms. The factor
    :math:`T^2` keeps the size of the gradients independent of the temperature `T`. In PyTorch, this
    is ``T**2 * F.kl_div((y / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")``.

    Parameters
    ----------
    temperature : float, default 2.0
        Above 0.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division by `n`; ``"none"`` gives one number per sample, and is
        only for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network".

    Examples
    --------
    To fit labels too, add the two losses and their gradients in a custom one, whose target is a
    dict:

    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> a, hard, soft = 0.5, nn.CrossEntropyLoss(), nn.DistillationLoss(4.0)
    >>> def both(output, target):
    ...     y, t = target["y"], target["t"]
    ...     loss = a * hard(output, y) + (1 - a) * soft(output, t)
    ...     return loss, a * hard.gradient(output, y) + (1 - a) * soft.gradient(output, t)
    >>> x = np.random.default_rng(0).standard_normal((64, 2))
    >>> teacher, student = (nn.Sequential(nn.Linear(2, 3), seed=seed) for seed in (0, 1))
    >>> trainer = tw.Trainer(student, loss=both, optimizer=optim.Adam())
    >>> history = trainer.fit(x, {"y": np.arange(64) % 3, "t": teacher(x)}, epochs=2)
    """

    temperature: float = 2.0
    _: KW_ONLY
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "distillation"
    _outputs = "teacher"

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(temperature=_checks.real("temperature", self.temperature, 0, closed="()"))

    def _numbers(self) -> tuple[float, ...]:
        return (self.temperature,)


def _comparable(output: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return outputs as an array of numbers, none of which is NaN."""
    array = _arrays.as_numeric(output, "output")
    if np.isnan(array).any():
        place = [int(i) for i in np.argwhere(np.isnan(array))[0]]
        raise DataError(f"output{place or ''} is NaN, which cannot be compared with other outputs")
    return array


def _floats(output: npt.NDArray[Any]) -> Array:
    """Return a model's outputs unchanged, or whole numbers as float64."""
    return output if output.dtype.kind == "f" else output.astype(np.float64)


def _integers(name: str, value: Any, low: int, *, ordered: bool = True) -> tuple[int, ...] | None:
    """Convert a sequence of one or more integers from `low` up to a tuple, and None to None."""
    if value is None:
        return None
    if isinstance(value, (int, np.integer)):
        raise ArgumentError(f"{name} must be a sequence of integers; got {value!r}")
    numbers = _checks.sequence(name, value, ordered=ordered)
    if not numbers:
        raise ArgumentError(f"{name} must have at least one number; got {value!r}")
    return tuple(_checks.integer(f"{name}[{i}]", n, low) for i, n in enumerate(numbers))
