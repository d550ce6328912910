"""Replay whose buffer changes with every step, and may keep more than the samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _losses
from thalweg.continual._buffers import Buffer
from thalweg.continual._innermost import Innermost
from thalweg.continual._memory import Drawing, Keeping, buffer_of, herds
from thalweg.continual._passes import entry, mean_history
from thalweg.continual._task import Task, are_labels
from thalweg.errors import DataError, UnsupportedError


class _Stepwise(Innermost, Keeping):
    """Base of strategies that use the buffer in every step, and store samples after it."""

    gathers = ("_classes",)

    def __init__(self, inner: Trainer, buffer: Buffer | int, batch_size: int | None) -> None:
        super().__init__(inner)
        name, buffer = type(self).__name__, buffer_of(buffer)
        if herds(buffer):
            raise UnsupportedError(
                f'{name} stores samples after each step, but a buffer with select="herding" needs'
                ' all rows of a class at once: use select="random", or Replay'
            )
        self._keep_in(buffer)
        self.batch_size: int | None = _checks.optional_integer("batch_size", batch_size, 1)
        #: The trainer with this strategy's loss, preceded by what it was made for.
        self._twin: tuple[Any, Trainer] | None = None
        self._classes: tuple[int, ...] | None = None  # of the task that has begun

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        self._classes = task.classes

    def _columns(self, x: Any, y: Any) -> dict[str, Any]:
        # Labels of any integer type are kept in one.
        return super()._columns(x, y.astype(np.int64) if are_labels(y) else y)

    def _learn(self, task: Task, **options: Any) -> History:
        parts = []
        for x, y, _ in _batches.chunks(task, seed=self.trainer.model.seed, most=1, **options):
            begin = time.perf_counter()
            loss = self._take(x, np.asarray(y, dtype=np.int64), task.classes, self._ended)
            seconds = time.perf_counter() - begin
            parts.append(entry(loss, seconds, len(x)))
        return mean_history(self.trainer.loss, parts)

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step: learn new samples with kept ones, then keep the new ones.

        Parameters
        ----------
        x, y : array_like
            New samples and their labels, as `Trainer.step` takes them. Between `begin` and `end`
            they are the task's, and so are their classes. On a stream, their classes are those of
            the batch; and in the buffer, they all belong to one group.

        Returns
        -------
        float
            The loss before the step, with all its terms.

        Raises
        ------
        ShapeError, DataError, DtypeError, ArgumentError, UnsupportedError
            If the samples are invalid, empty, or do not match what is kept; weights and buffer are
            then unchanged.
        """
        begun = self._begun is not None
        group = self._ended if begun else 0
        x, y = (self._new_rows(x, y, group)[name] for name in "xy")
        batch = Task(x, y, x, y, self._begun or 0, classes=self._classes if begun else None)
        self._check_data(batch)
        self._check_active(y)
        self._asked = True
        return self._take(x, y, batch.classes, group)

    def _check_active(self, y: Any) -> None:
        """Refuse labels of a step that do not compete, as the trainer's loss does by itself."""
        competes = self.trainer._loss._competition.takes_part(self.trainer.model.out_features)
        if not competes[y].all():
            row = int(np.flatnonzero(~competes[y])[0])
            raise DataError(
                f"y[{row}] is {y[row]}, which is not an active class: its probability would be 0"
                f" and the loss infinite; add {y[row]} to the loss's `active`"
            )

    def _take(self, x: Any, y: Any, classes: Any, group: int) -> float:
        """Take one step on new and kept samples, then keep the new ones; return the loss."""
        with Drawing(self.buffer):
            rows, targets = zip(*self._mixture(x, y, classes), strict=True)
            loss = self._alone().step(np.concatenate(rows), np.concatenate(targets))
        self.buffer.add(group=group, x=x, y=y, **self._beside(len(x)))
        return float(loss)

    def _alone(self) -> Trainer:
        """Return the trainer with this strategy's loss; making one costs about a small step."""
        trainer = self.trainer
        made_for = trainer.loss, trainer._base_lr, trainer.optimizer._core
        if self._twin is None or self._twin[0] != made_for:
            self._twin = made_for, _losses.with_loss(trainer, self._loss(), type(self).__name__)
        twin = self._twin[1]
        _losses.update_like(twin, trainer)  # hooks, and penalties, may be others at each step
        return twin

    def _mixture(self, x: Any, y: Any, classes: Any) -> Iterator[tuple[Any, Any]]:
        """Yield new samples and some kept ones, each with the targets that the loss takes."""
        raise NotImplementedError

    def _loss(self) -> Any:
        """Make the loss, as a function of outputs and targets."""
        raise NotImplementedError

    def _beside(self, rows: int) -> dict[str, Any]:
        """Return what is kept besides the new samples themselves."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_twin": None}  # it is made again


class DER(_Stepwise):
    r"""Dark experience replay: kept samples shall keep the logits they had when they arrived.

    .. math:: L = \mathrm{CE}(\text{new}) + \alpha\, \mathrm{MSE}(y(x'), z')
              + \beta\, \mathrm{CE}(x'', t'')

    with two independent draws from the buffer. The mean of squares is over all rows and outputs.
    Samples enter the buffer after each step, with the logits that the step computed before its
    update. `DERpp` is the same with another default of `beta`.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss must be an `nn.CrossEntropyLoss`.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`.
    alpha : float, keyword only, default 0.1
        Factor of the logits' term.
    beta : float, keyword only, optional
        Factor of the labels' term; by default 0, and 0.5 for `DERpp`.
    batch_size : int, keyword only, optional
        Samples in each draw; by default as many as new ones.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; for tasks with sample
        weights or no labels.

    Notes
    -----
    New and kept rows go through the network as one batch, which matters only to `nn.BatchNorm1d`.
    Each step is a call from Python, and its loss is computed in NumPy.

    References
    ----------
    Buzzega et al. 2020, "Dark experience for general continual learning: a strong, simple
    baseline". Defaults are Avalanche's.
    """

    _usual_beta = 0.0
    _keeps = ("x", "y", "logits")

    def __init__(
        self,
        inner: Trainer,
        buffer: Buffer | int,
        *,
        alpha: float = 0.1,
        beta: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(inner, buffer, batch_size)
        self.alpha: float = _checks.real("alpha", alpha, 0)
        self.beta: float = _checks.real("beta", self._usual_beta if beta is None else beta, 0)
        self._given: Any = None  # the outputs of the latest step

    def _loss(self) -> Any:
        competing = _losses.competing(self.trainer, self.trainer.model.out_features)

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            # Columns of the target: label, weight of cross-entropy, weight of squares, old logits.
            labels, weights, squares = target[:, 0].astype(np.int64), target[:, 1], target[:, 2]
            self._given = output.copy()
            value, gradient = _losses.cross_entropy(output, labels, weights, competing(labels))
            difference = output - target[:, 3:]
            value += (squares[:, None] * difference**2).sum()
            return value, gradient + 2 * squares[:, None] * difference

        return loss

    def _mixture(self, x: Any, y: Any, classes: Any) -> Iterator[tuple[Any, Any]]:
        yield x, self._packed(y, 1 / len(y), 0, 0)
        size = self.batch_size or len(x)
        if self.alpha and len(self.buffer):
            kept = self.buffer.sample(size)
            square = self.alpha / kept["logits"].size
            yield kept["x"], self._packed(kept["y"], 0, square, kept["logits"])
        if self.beta and len(self.buffer):
            kept = self.buffer.sample(size)
            yield kept["x"], self._packed(kept["y"], self.beta / len(kept["y"]), 0, 0)

    def _packed(self, y: Any, weight: float, square: float, logits: Any) -> Any:
        columns = np.empty((len(y), 3 + self.trainer.model.out_features))
        columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3:] = y, weight, square, logits
        return columns

    def _beside(self, rows: int) -> dict[str, Any]:
        return {"logits": self._given[:rows]}


class DERpp(DER):
    r"""Dark experience replay with labels: `DER` with :math:`\beta = 1/2` and the same arguments.

    Raises
    ------
    ArgumentError, UnsupportedError
        As for `DER`.
    """

    _usual_beta = 0.5


class ERACE(_Stepwise):
    r"""Replay with an asymmetric cross-entropy: new samples do not push the old classes away.

    .. math:: L = \mathrm{CE}_{C}(\text{new}) + \mathrm{CE}(\text{kept})

    where the softmax of new samples is only over the classes `C` of the task, and that of kept ones
    over those that compete in the trainer's loss. Samples enter the buffer after each step.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss must be an `nn.CrossEntropyLoss`.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`.
    batch_size : int, keyword only, optional
        Buffer samples in each step; by default as many as new ones.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; for tasks with sample
        weights or no labels.

    Notes
    -----
    In the paper, `C` are the classes of the batch; a task's batches usually contain all of its
    classes. On a stream, by `step` outside a task, `C` are those of the batch here, too: new
    samples that are all of one class, such as a single one, then have no gradient (their softmax
    is 1) until they are drawn from the buffer. Each step is a call from Python, and its loss is
    computed in NumPy.

    References
    ----------
    Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual
    learning".
    """

    _does = (*Innermost._does, "whole")

    def __init__(
        self, inner: Trainer, buffer: Buffer | int, *, batch_size: int | None = None
    ) -> None:
        super().__init__(inner, buffer, batch_size)
        self._mine: Any = None  # marks the outputs among which new samples compete

    def _loss(self) -> Any:
        competing = _losses.competing(self.trainer, self.trainer.model.out_features)

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            # Columns of the target: label, weight, whether it is new.
            labels, new = target[:, 0].astype(np.int64), target[:, 2:].astype(bool)
            competes = competing(labels) & (self._mine | ~new)
            return _losses.cross_entropy(output, labels, target[:, 1], competes)

        return loss

    def _mixture(self, x: Any, y: Any, classes: Any) -> Iterator[tuple[Any, Any]]:
        self._mine = np.isin(np.arange(self.trainer.model.out_features), classes)
        yield x, np.column_stack([y, np.full(len(y), 1 / len(y)), np.ones(len(y))])
        if len(self.buffer):
            kept = self.buffer.sample(self.batch_size or len(x))
            rows = len(kept["y"])
            yield kept["x"], np.column_stack([kept["y"], np.full(rows, 1 / rows), np.zeros(rows)])
