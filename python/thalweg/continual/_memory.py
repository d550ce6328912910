"""What strategies that keep samples share."""

from typing import Any

import numpy as np

from thalweg import _arrays, _checks
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _buffers, _compatibility, _protocol
from thalweg.continual._balanced import classes_of
from thalweg.continual._buffers import Buffer, ReservoirBuffer
from thalweg.continual._features import body
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, counted
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn import BCEWithLogitsLoss
from thalweg.nn._losses import CoreLoss

_MASK = (1 << 62) - 1


class Drawing:
    """Restores a buffer's random generator if the step that drew from it is refused.

    Draws of other threads since are undone, too, and come again.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._generator = buffer._generator.bit_generator
        with _buffers.LOCK:
            self._before = self._generator.state

    def __enter__(self) -> None:
        pass

    def __exit__(self, error: object, *where: object) -> None:
        if error is not None:
            with _buffers.LOCK:
                self._generator.state = self._before


class Keeping(Strategy):
    """Base of strategies with a buffer of samples, which is part of their state."""

    gathers: tuple[str, ...] = ("buffer",)
    replays = True
    buffer: Buffer
    #: The columns of its buffer.
    _keeps: tuple[str, ...] = ("x", "y")

    def _keep_in(self, buffer: Buffer) -> None:
        """Take a buffer; to be called from the constructor."""
        name, there = type(self).__name__, tuple(buffer.rows()) if len(buffer) else self._keeps
        if set(there) != set(self._keeps):
            raise ArgumentError(
                f"{name} keeps {', '.join(self._keeps)} of each sample, but this buffer has"
                f" {', '.join(there)}: give each strategy a buffer of its own"
            )
        for link in _protocol.inside(self):
            if vars(link).get("buffer") is buffer:
                raise ArgumentError(
                    f"this buffer is already used by {type(link).__name__} inside {name}, and both"
                    " would add every sample to it: give each strategy a buffer of its own"
                )
        self.buffer = buffer
        if herds(buffer):
            self._does = (*self._does, "looks")
            needs = 'its buffer has select="herding", which needs all rows of a class at once'
            self._only_learns = self._only_learns or needs
            _compatibility.check(self)

    def _check_state(self, state: Any) -> None:
        super()._check_state(state)
        if state["buffer"] is None:
            raise DataError(f"the state of this {type(self).__name__} has no buffer")

    def _check_kept(self, task: Task) -> None:
        """Refuse a task that cannot be learned, or kept, together with what is in the buffer."""
        super()._check_kept(task)
        x, y = counted(self.trainer.loss, task.x, as_kept(self.buffer, self.trainer, task.y))
        _, some = np.unique(classes_of(y), return_index=True)  # one per class: not all may fit
        self.buffer._check_new(self._ended, self._columns(x[some], y[some]))
        check_competing(self, self.buffer._labels())

    def _columns(self, x: Any, y: Any) -> dict[str, Any]:
        """Return what would be kept of some samples; their logits, not known yet, are 0."""
        columns = {"x": x, "y": y}
        if "logits" in self._keeps:
            model = self.trainer.model
            columns["logits"] = np.zeros((*x.shape[:1], model.out_features), model.dtype)
        return columns

    def _new_rows(self, x: Any, y: Any, group: int | None = 0) -> dict[str, Any]:
        """Return samples of a step as arrays, if the buffer will accept them, in that group."""
        x, y = _arrays.as_numeric(x, "x"), _arrays.as_numeric(y, "y")
        y = as_kept(self.buffer, self.trainer, y)
        rows = self.buffer._check_new(group, self._columns(x, y))
        if not len(rows["x"]):
            raise ShapeError("x has 0 rows, and a step needs at least 1")
        return rows


class KeepingTasks(Keeping):
    """Base of those that store a task's samples when it ends, and a stream's immediately.

    Between `begin` and `end`, `step` therefore stores nothing: `end` offers each row of the task to
    the buffer once, whether it was learned by `learn` or `step`, and however often.
    """

    def end(self, task: Task) -> None:
        """Store samples of the task in the buffer."""
        super().end(task)
        keep(self.buffer, self.trainer, task, self._ended - 1)

    def _new_rows(self, x: Any, y: Any, group: int | None = 0) -> dict[str, Any]:
        # For the rows of a task, `begin` has made sure that there is room.
        return super()._new_rows(x, y, group if self._begun is None else None)

    def _keep_new(self, rows: dict[str, Any]) -> None:
        """Store samples of a stream in the buffer, except those with ignored labels."""
        if self._begun is not None:
            return
        x, y = counted(self.trainer.loss, rows["x"], rows["y"])
        if len(y):
            self.buffer.add(x=x, y=y)


def herds(buffer: Buffer) -> bool:
    """Whether a buffer selects samples by the features that the network computes."""
    return bool(getattr(buffer, "_herding", False))


def buffer_of(buffer: Buffer | int) -> Buffer:
    """Return a buffer; a number is the capacity of a reservoir."""
    return buffer if isinstance(buffer, Buffer) else ReservoirBuffer(size_of(buffer))


def size_of(buffer: Any) -> int:
    """Return the capacity of a buffer that is given by it."""
    return _checks.integer("buffer", buffer, 1, also="a Buffer")


def as_kept(buffer: Buffer, trainer: Trainer, y: Any) -> Any:
    """Return targets as a buffer keeps them.

    If the loss takes numbers, they get the model's dtype and a column for each output: without
    that, whole numbers would be taken for labels.
    """
    model, loss = trainer.model, trainer._loss
    # A buffer can balance the labels 0 and 1, too; and a custom loss may take anything.
    if not isinstance(loss, CoreLoss) or loss._labels or isinstance(loss, BCEWithLogitsLoss):
        return y
    y = _arrays.targets(y, model.dtype, loss._target_width(model.out_features), "y")
    kept = buffer._kept().get("y")
    if kept is not None and kept.ndim == 1 == y.shape[1]:  # it was filled by hand
        return y[:, 0]
    return y


def keep(buffer: Buffer, trainer: Trainer, task: Task, group: int) -> None:
    """Offer a task's samples to a buffer, except those with ignored labels.

    Their group is the number of tasks before it: tasks that were made one by one may all have the
    index 0.
    """
    features = body(trainer.model) if herds(buffer) else None
    x, y = counted(trainer.loss, task.x, as_kept(buffer, trainer, task.y))
    if len(y):
        buffer.add(group=group, features=features, x=x, y=y)


def check_competing(strategy: Strategy, labels: Any) -> None:
    """Refuse kept samples of classes that do not compete in the loss.

    Raises
    ------
    ArgumentError
        If there are such samples.
    """
    competition = strategy.trainer._loss._competition
    active = competition.active
    if active is None or labels is None:
        return
    others = np.setdiff1d(labels, [*active, competition.ignored]).tolist()
    if others:
        raise ArgumentError(
            f"{type(strategy).__name__} keeps samples of the classes {others} and would use them"
            f" again, but only the classes {active} compete in the loss: if the samples are"
            " from an earlier run, create a new model, trainer, buffer and strategy; otherwise let"
            ' their classes compete, for example with Task(..., active="all")'
        )


def kept_rows(rows: int, index: int, seed: int, start: int, steps: int, size: int) -> Any:
    """Choose rows of a memory for some steps of a task, shape (steps, size); keeps no state."""
    batches = rows // size
    orders: dict[int, Any] = {}
    chosen = np.empty((steps, size), np.int64)
    for step in range(steps):
        number, batch = divmod(start + step, batches)
        if number not in orders:
            # A different random stream from that of the task's own rows.
            orders[number] = _batches.drawn(rows, ~seed & _MASK, (index << 32) + number)
        chosen[step] = orders[number][batch * size : (batch + 1) * size]
    return chosen
