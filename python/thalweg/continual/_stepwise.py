"""Replay whose buffer changes with every step, and what it keeps beside the samples."""

import time
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _mixed
from thalweg.continual._buffers import Buffer
from thalweg.continual._innermost import Innermost
from thalweg.continual._memory import Keeping, buffer_of
from thalweg.continual._strategy import mean_history
from thalweg.continual._task import Task


class _Stepwise(Innermost, Keeping):
    """Base of strategies whose buffer takes part in every step, and takes samples in after it."""

    def __init__(self, inner: Trainer, buffer: Buffer | int, batch_size: int | None) -> None:
        super().__init__(inner)
        self._keep_in(buffer_of(buffer), batch_size)

    def learn(
        self,
        task: Task,
        *,
        steps: int,
        start: int = 0,
        batch_size: int = 32,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> History:
        """Take some steps; see `Strategy.learn`."""
        self._check(task)
        stepper = self._stepper(task)
        seed, parts = self.trainer.model.seed, []
        for x, y, _ in _batches.chunks(
            task, seed=seed, steps=steps, start=start, batch_size=batch_size, shuffle=shuffle,
            drop_last=drop_last, most=1,
        ):  # fmt: skip
            begin = time.perf_counter()
            loss = stepper(x, np.asarray(y, dtype=np.int64))
            seconds = time.perf_counter() - begin
            parts.append((len(x), History(loss=[loss], seconds=[seconds])))
        return mean_history(parts)

    def step(self, x: Any, y: Any) -> float:
        """Take a step of a stream: learn new samples with kept ones, then keep the new ones.

        Parameters
        ----------
        x, y : array_like
            New samples and their labels, as `Trainer.step` takes them. In the buffer they are all
            of one group.

        Returns
        -------
        float
            The loss before the step, with all its terms.
        """
        x, y = np.asarray(x), np.asarray(y)
        batch = Task(x, y, x, y, classes=tuple(np.unique(y).tolist()))
        self._check(batch)
        return float(self._stepper(batch)(x, y.astype(np.int64)))

    def _stepper(self, task: Task) -> Any:
        """Make the function of a batch that takes one step and gives the loss."""
        raise NotImplementedError


class DER(_Stepwise):
    r"""Dark experience replay: kept samples are to give the logits that they gave when they came.

    .. math:: L = \mathrm{CE}(\text{new}) + \alpha\, \mathrm{MSE}(y(x'), z')
              + \beta\, \mathrm{CE}(x'', t'')

    with two independent draws from the buffer. The mean of squares is over all rows and outputs.
    Samples enter the buffer after each step, with the logits that the step computed, before its
    update. `DERpp` is the same with another default of `beta`.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss is an `nn.CrossEntropyLoss`.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`.
    alpha : float, keyword only, default 0.1
        Factor of the logits' term.
    beta : float, keyword only
        Factor of the labels' term; 0, and 0.5 for `DERpp`.
    batch_size : int, keyword only, optional
        Samples in each draw; by default as many as new ones.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; during a task, if it has a
        penalty, or the task has weights of samples or no labels.

    Notes
    -----
    New and kept rows go through the network as one batch, which matters to `nn.BatchNorm1d` alone.
    Each step is a call from Python, and its loss is computed by NumPy.

    References
    ----------
    Buzzega et al. 2020, "Dark experience for general continual learning: a strong, simple
    baseline". Defaults are Avalanche's.
    """

    def __init__(
        self,
        inner: Trainer,
        buffer: Buffer | int,
        *,
        alpha: float = 0.1,
        beta: float = 0.0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(inner, buffer, batch_size)
        self._alpha = _checks.real("alpha", alpha, 0)
        self._beta = _checks.real("beta", beta, 0)

    def _stepper(self, task: Task) -> Any:
        outputs = self.trainer.model.out_features
        competing = _mixed.competing(self.trainer, outputs)
        seen: list[Any] = []
        alpha, beta = self._alpha, self._beta

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            # Columns of the target: label, weight of its cross-entropy, of squares, old logits.
            labels, weights, squares = target[:, 0].astype(np.int64), target[:, 1], target[:, 2]
            seen[:] = [output.copy()]
            value, gradient = _mixed.cross_entropy(output, labels, weights, competing(labels))
            difference = output - target[:, 3:]
            value += (squares[:, None] * difference**2).sum()
            return value, gradient + 2 * squares[:, None] * difference

        twin = _mixed.with_loss(self.trainer, loss, type(self).__name__)

        def packed(y: Any, weight: float, square: float, logits: Any) -> Any:
            columns = np.empty((len(y), 3 + outputs))
            columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3:] = y, weight, square, logits
            return columns

        def step(x: Any, y: Any) -> float:
            rows, targets = [x], [packed(y, 1 / len(y), 0, 0)]
            size = self._batch or len(x)
            if len(self.buffer):
                if alpha:
                    kept = self.buffer.sample(size)
                    square = alpha / (len(kept["y"]) * outputs)
                    rows.append(kept["x"])
                    targets.append(packed(kept["y"], 0, square, kept["logits"]))
                if beta:
                    kept = self.buffer.sample(size)
                    rows.append(kept["x"])
                    targets.append(packed(kept["y"], beta / len(kept["y"]), 0, 0))
            value = twin.step(np.concatenate(rows), np.concatenate(targets))
            self.buffer.add(group=task.index, x=x, y=y, logits=seen[0][: len(x)])
            return value

        return step


class DERpp(DER):
    r"""Dark experience replay with labels: `DER` with :math:`\beta = 1/2`.

    Parameters
    ----------
    inner, buffer, alpha, batch_size
        As of `DER`.
    beta : float, keyword only, default 0.5
        Factor of the labels' term.

    Raises
    ------
    ArgumentError, UnsupportedError
        As by `DER`.
    """

    def __init__(
        self,
        inner: Trainer,
        buffer: Buffer | int,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(inner, buffer, alpha=alpha, beta=beta, batch_size=batch_size)


class ERACE(_Stepwise):
    r"""Replay with an asymmetric cross-entropy: new samples do not push the old classes away.

    .. math:: L = \mathrm{CE}_{C}(\text{new}) + \mathrm{CE}(\text{kept})

    where the softmax of new samples is over the classes `C` of the task alone, and that of kept
    ones over those that compete in the trainer's loss. Samples enter the buffer after each step.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss is an `nn.CrossEntropyLoss`.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`.
    batch_size : int, keyword only, optional
        Samples of the buffer in each step; by default as many as new ones.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; during a task, if it has a
        penalty, or the task has weights of samples or no labels.

    Notes
    -----
    The paper's `C` are the classes of the batch; a task's batches have them all but for chance.
    Each step is a call from Python, and its loss is computed by NumPy.

    References
    ----------
    Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual
    learning".
    """

    def __init__(
        self, inner: Trainer, buffer: Buffer | int, *, batch_size: int | None = None
    ) -> None:
        super().__init__(inner, buffer, batch_size)

    def _stepper(self, task: Task) -> Any:
        outputs = self.trainer.model.out_features
        competing = _mixed.competing(self.trainer, outputs)
        mine = np.isin(np.arange(outputs), task.classes or range(outputs))

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            # Columns of the target: label, weight, whether it is new.
            labels, new = target[:, 0].astype(np.int64), target[:, 2:].astype(bool)
            competes = competing(labels) & (mine | ~new)
            return _mixed.cross_entropy(output, labels, target[:, 1], competes)

        twin = _mixed.with_loss(self.trainer, loss, "ERACE")

        def step(x: Any, y: Any) -> float:
            ones = np.ones(len(y))
            rows, targets = [x], [np.column_stack([y, ones / len(y), ones])]
            if len(self.buffer):
                kept = self.buffer.sample(self._batch or len(x))
                ones = np.ones(len(kept["y"]))
                rows.append(kept["x"])
                targets.append(np.column_stack([kept["y"], ones / len(ones), 0 * ones]))
            value = twin.step(np.concatenate(rows), np.concatenate(targets))
            self.buffer.add(group=task.index, x=x, y=y)
            return value

        return step
