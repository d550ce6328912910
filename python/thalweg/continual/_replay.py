"""Replay: some of what was learned is learned again, together with what is new."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches
from thalweg.continual._balanced import BalancedBuffer, unit_length
from thalweg.continual._buffers import Buffer
from thalweg.continual._features import body
from thalweg.continual._memory import (
    Drawing,
    Keeping,
    KeepingTasks,
    as_kept,
    buffer_of,
    keep,
    kept_rows,
    size_of,
)
from thalweg.continual._outputs import largest
from thalweg.continual._passes import mean_history, shares_of_rows, were_skipped
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, are_labels, replaced
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import CrossEntropyLoss, CustomLoss, Sequential

Weighting: TypeAlias = Literal["tasks", "rows"]


class Replay(KeepingTasks):
    r"""Mixes samples of earlier tasks into every batch: experience replay.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`. A task's samples
        are stored when the task ends.
    batch_size : int, keyword only, optional
        Buffer samples in each step; by default as many as new ones. If fewer are kept, all of them.
    weighting : {"tasks", "rows"}, keyword only
        ``"tasks"``: on the `k`-th task the loss is
        :math:`\frac1k L_\mathrm{new} + (1 - \frac1k) L_\mathrm{replay}`, each a mean over its rows
        (weighted by class, and without ignored rows, as in the loss), as in van de Ven's code, so
        that all tasks count equally (samples kept before the first task, of a stream or added by
        hand, count as one task then); a loss with ``reduction="sum"`` is that, times the number of
        new rows (or their classes' weights, summed). ``"rows"``: the mean over all rows, as in
        Avalanche and mammoth.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or the buffer is an inner strategy's; when a task begins, if
        the buffer has samples of classes that do not compete in the loss, or no room for the
        task's.
    ShapeError, DtypeError
        When a task begins, if its samples or targets cannot be kept with those already in the
        buffer.
    UnsupportedError
        If the inner strategy needs the rows of a whole task (see there), or, with
        ``weighting="tasks"``, does not accept weighted rows; for tasks with sample weights; for
        steps on a stream with a buffer that selects by ``"herding"``.

    Notes
    -----
    Rows whose label the loss ignores are not kept. For losses of numbers, such as `nn.MSELoss`, the
    targets are kept in the model's dtype with a column for each output, also whole ones. Each pass
    over the buffer is without repetition, in its own order, and leaves out a last batch that would
    be short. Batches are gathered for many steps at once and trained in one call of the core, so
    that a step costs little more than its arithmetic.

    On a stream whose samples get other targets over time, what a reservoir keeps is wrong, and
    replay does harm: a `RecentBuffer` keeps only the latest samples.

    References
    ----------
    Chaudhry et al. 2019, "On tiny episodic memories in continual learning"; van de Ven, Tuytelaars
    & Tolias 2022, "Three types of incremental learning".

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
    >>> strategy = continual.Replay(trainer, continual.BalancedBuffer(100, per_class=True))
    """

    def __init__(
        self,
        inner: Trainer | Strategy,
        buffer: Buffer | int,
        *,
        batch_size: int | None = None,
        weighting: Weighting = "tasks",
    ) -> None:
        self.weighting: str = _checks.one_of("weighting", weighting, get_args(Weighting))
        weights = ("weights",) if weighting == "tasks" else ()
        self._does = ("rows", "pieces", "plain rows", *weights)
        super().__init__(inner)
        self._keep_in(buffer_of(buffer))
        self.batch_size: int | None = _checks.optional_integer("batch_size", batch_size, 1)

    def _learn(
        self, task: Task, *, steps: int, start: int, batch_size: int, **options: Any
    ) -> History:
        options["batch_size"] = batch_size
        if not len(self.buffer):
            return super()._learn(task, steps=steps, start=start, **options)
        seed, memory = self.trainer.model.seed, self.buffer.rows()
        more = min(self.batch_size or batch_size, len(self.buffer))
        size = batch_size + more
        y = np.asarray(as_kept(self.buffer, self.trainer, task.y))
        new, old = [np.asarray(task.x), y], [memory["x"], memory["y"]]
        chunk = _batches.steps_of_chunk(self.trainer, size)
        self.buffer._check_new(self._ended, {"x": new[0][:1], "y": new[1][:1]})
        room = []  # reused: allocating memory costs more than filling it
        for place, (fresh, kept) in enumerate(zip(new, old, strict=True)):
            dtype = np.result_type(fresh, kept)
            new[place], old[place] = fresh.astype(dtype, copy=False), kept.astype(dtype, copy=False)
            room.append(np.empty((chunk * size, *fresh.shape[1:]), dtype))
        parts = []
        for rows in _batches.rows_of_steps(
            task, len(new[0]), seed=seed, steps=steps, start=start, most=chunk, **options
        ):
            count = -(-len(rows) // batch_size)
            again = kept_rows(len(self.buffer), task.index, seed, start, count, more)
            start += count
            filled = len(rows) + count * more
            for step in range(count):
                mine = rows[step * batch_size : (step + 1) * batch_size]
                at = step * size
                for array, fresh, kept in zip(room, new, old, strict=True):
                    middle = at + len(mine)
                    # All indices are in range; with "raise", NumPy would fill a copy first.
                    fresh.take(mine, 0, array[at:middle], "clip")
                    kept.take(again[step], 0, array[middle : middle + more], "clip")
            weight = self._weights(room[1][:filled], len(rows), count, batch_size, more)
            mixed = task.with_data(room[0][:filled], room[1][:filled], weight)
            mixed = replaced(mixed, _weighted=True)
            history = super()._learn(
                mixed, steps=count, start=0, batch_size=size, shuffle=False, drop_last=False
            )
            parts.append(history)
        return mean_history(self.trainer.loss, parts)

    def _weights(self, y: Any, rows: int, steps: int, size: int, more: int) -> Any:
        """Compute the weights of the rows of some steps, each with `size` new and `more` kept.

        `rows` is the number of new ones in all steps, and `y` has all targets.
        """
        if self.weighting == "rows":
            return None
        # What is in the buffer before any task has ended, from a stream or by hand, counts as one.
        loss, share = self.trainer._loss, 1 / (max(self._ended, 1) + 1)
        counts = np.tile([size, more], steps)
        counts[-2] = rows - size * (steps - 1)  # the last batch of a pass may be short
        # What a mean of the loss divides by, for each part; one that is 0 has no mean.
        totals = np.add.reduceat(shares_of_rows(self.trainer, y), np.cumsum(counts) - counts)
        weights = np.tile([share, 1 - share], steps) / np.where(totals == 0, np.inf, totals)
        if getattr(loss, "reduction", "mean") == "sum":
            weights *= totals[::2].repeat(2)
        return np.repeat(weights, counts)

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step on new samples with kept ones; those of a stream are kept then.

        Parameters
        ----------
        x, y : array_like
            New samples, as `Trainer.step` takes them. Between `begin` and `end`, they are the
            task's, whose samples are stored when it ends, and `weighting` applies; on a stream, all
            rows count equally.

        Returns
        -------
        float
            The loss of all rows before the step.

        Raises
        ------
        ShapeError, DataError, DtypeError, ArgumentError
            If the samples are invalid, empty, or do not match what is kept; weights and buffer are
            then unchanged.
        UnsupportedError
            If `weighting` applies, and the trainer accumulates gradients.
        """
        new = self._new_rows(x, y)
        if not len(self.buffer):
            loss = super().step(new["x"], new["y"])
        else:
            with Drawing(self.buffer):
                kept = self.buffer.sample(self.batch_size or len(new["x"]))
                x, y = (np.concatenate([new[name], kept[name]]) for name in "xy")
                if self._begun is not None and self.weighting == "tasks":
                    loss = self._weighted_step(x, y, len(new["x"]))
                else:
                    loss = super().step(x, y)
        self._keep_new(new)
        return loss

    def _weighted_step(self, x: Any, y: Any, new: int) -> float:
        """Take a step of a task on new rows and kept ones, by `learn`, which takes weights."""
        if self.trainer._accumulate > 1:
            raise UnsupportedError(
                'Replay with weighting="tasks" takes each step of a task as an update of its own,'
                f" but the trainer has accumulate_grad_batches={self.trainer._accumulate}: use"
                ' weighting="rows", or leave accumulate_grad_batches at 1'
            )
        self._asked = True
        weight = self._weights(y, new, 1, new, len(x) - new)
        mixed = Task(x, y, x, y, index=self._begun or 0, sample_weight=weight)
        mixed = replaced(mixed, _weighted=True)
        history = super()._learn(
            mixed, steps=1, start=0, batch_size=len(x), shuffle=False, drop_last=False
        )
        if were_skipped(history):
            return super().step(x, y)  # raises: no row counts
        return float(history["loss"][-1])


class GDumb(Keeping):
    """Keeps a balanced memory and, for every task, trains a fresh network on that memory alone.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training; starts every task as it was when the strategy was created. Options
        of its optimizer that are set later do not outlast the beginning of the next task, also of
        the first: set them before.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `BalancedBuffer`.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        As for `Replay`.
    UnsupportedError
        For tasks with sample weights.

    Notes
    -----
    The paper trains once, at the end, with its own schedule. Here a network is trained for every
    task, so that there is something to judge, for as many steps as with any other strategy.

    References
    ----------
    Prabhu, Torr & Dokania 2020, "GDumb: a simple approach that questions our progress in continual
    learning".
    """

    gathers = ("_before",)
    _does = ("rows", "own rows", "plain rows", "restart")
    _only_learns = "it trains a new network on its buffer for each task"

    def __init__(self, inner: Trainer | Strategy, buffer: Buffer | int) -> None:
        super().__init__(inner)
        self._keep_in(buffer if isinstance(buffer, Buffer) else BalancedBuffer(size_of(buffer)))
        self._initial = self.trainer.copy()
        self._before: Any = None  # the buffer's state before the current task

    def begin(self, task: Task) -> None:
        """Keep samples of the task, and reset the network."""
        self._admit(task)
        if self._before is not None:  # the samples of a task that has not ended
            self.buffer.load_state_dict(self._before)
        self._before = self.buffer.state_dict()
        keep(self.buffer, self.trainer, task, self._ended)
        self.trainer._become(self._initial)
        super().begin(task)

    def end(self, task: Task) -> None:
        """Record that the task was learned."""
        super().end(task)
        self._before = None

    def _abandon(self) -> None:
        super()._abandon()
        if self._before is not None:  # else learning the task again would store its samples twice
            self.buffer.load_state_dict(self._before)
            self._before = None

    def task_to_learn(self, task: Task) -> Task:
        """Return the task, which must have begun, with the rows that the buffer holds."""
        self._check_begun(task, "cannot be learned")
        rows = self.buffer.rows()
        classes = np.unique(rows["y"]).tolist() if are_labels(rows["y"]) else None
        return task.with_data(rows["x"], rows["y"], None, classes)


class NearestMean(Strategy):
    """Classifies by the nearest mean of kept samples' features, as iCaRL does.

    Goes around a strategy with a buffer, as in ``NearestMean(Replay(trainer, BalancedBuffer(2000,
    select="herding")))``. Training is that of the inner strategy; iCaRL's own loss, binary
    cross-entropy with distillation, is not included.

    Parameters
    ----------
    inner : Strategy
        A strategy with a ``buffer``; the means of its samples represent the classes.

    Raises
    ------
    ArgumentError
        If the strategy has no buffer, or the model has nothing before its last `nn.Linear`.
    UnsupportedError
        If the trainer's loss does not assign one class to each sample: with `nn.BCEWithLogitsLoss`,
        a sample may have several, or none.

    References
    ----------
    Rebuffi et al. 2017, "iCaRL: incremental classifier and representation learning", algorithm 1:
    features and means are divided by their lengths.
    """

    def __init__(self, inner: Strategy) -> None:
        if not isinstance(getattr(inner, "buffer", None), Buffer):
            raise ArgumentError(
                "NearestMean must go around a strategy with a buffer, such as Replay(trainer, ...);"
                f" got {type(inner).__name__}"
            )
        super().__init__(inner)
        if not isinstance(self.trainer.loss, CrossEntropyLoss | CustomLoss):
            raise UnsupportedError(
                "NearestMean assigns one class to each sample, so it needs a loss that does, such"
                f" as nn.CrossEntropyLoss(); the trainer has {self.trainer.loss!r}"
            )
        self._buffer: Buffer = inner.__dict__["buffer"]
        #: Labels and their means, after what they were computed from.
        self._known: tuple[Any, Any, Any, Any] | None = None
        body(self.trainer.model)  # fail now, not after the first task, if there is none

    def _judge(self, network: Sequential, x: Any, classes: Any) -> Any:
        """Return the class with the nearest mean; the inner strategy's until samples are kept."""
        if not len(self._buffer):
            return super()._judge(network, x, classes)
        features = body(network)
        labels, means = self._means(features)
        found = features(x)
        # Among vectors of equal length, the nearest has the largest product. Classes without kept
        # samples are never nearest.
        nearness = np.full((len(found), self.trainer.model.out_features), -np.inf)
        nearness[:, labels] = found @ means.T
        return largest(nearness, classes)

    def _means(self, features: Sequential) -> tuple[Any, Any]:
        """Return the labels of kept samples and their mean features, computed when they change."""
        content, state = self._buffer._content(), features.state_dict()
        if self._known is not None and content is not None and content is self._known[0]:
            before = self._known[1]
            if all(np.array_equal(before[name], array) for name, array in state.items()):
                return self._known[2:]
        rows = self._buffer.rows()
        kept = unit_length(features(rows["x"]).astype(np.float64))
        # For class probabilities, the class is the largest, as for a score.
        y = rows["y"] if rows["y"].ndim == 1 else rows["y"].argmax(axis=1)
        labels = np.unique(y).astype(np.int64)
        means = unit_length(np.stack([kept[y == label].mean(axis=0) for label in labels]))
        self._known = content, state, labels, means
        return labels, means

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_known": None}  # they are computed again
