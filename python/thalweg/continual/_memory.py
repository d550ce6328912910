"""What strategies that keep samples share."""

from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _joins
from thalweg.continual._buffers import Buffer, ReservoirBuffer
from thalweg.continual._features import body
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import ShapeError

_MASK = (1 << 62) - 1


class Keeping(Strategy):
    """Base of strategies with a buffer of samples, which is a part of their state."""

    buffer: Buffer
    #: Samples of the buffer in each step; None is as many as there are new ones.
    _batch_size: int | None = None

    def _keep_in(self, buffer: Buffer, batch_size: int | None = None) -> None:
        """Take a buffer; to be called when the strategy is made."""
        self._rehearse()
        self.buffer = buffer
        self._batch_size = (
            None if batch_size is None else _checks.integer("batch_size", batch_size, 1)
        )
        if herds(buffer):
            self._does = (*self._does, "looks")
            _joins.check(self)

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered."""
        return {**super().state_dict(), "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self.buffer.load_state_dict(state["buffer"])


class KeepingTasks(Keeping):
    """Base of those whose buffer takes a task's samples in when it ends, and a stream's at once."""

    def end(self, task: Task) -> None:
        """Let the buffer take samples of the task in."""
        super().end(task)
        keep(self.buffer, self.trainer, task)

    def _check_stream(self) -> None:
        """Refuse a step of a stream that the buffer could not take in after it."""
        if herds(self.buffer):
            raise self._no_step('its buffer has select="herding", which needs all rows of a class')


def herds(buffer: Buffer) -> bool:
    """Whether a buffer chooses samples by what the network makes of them."""
    return bool(getattr(buffer, "_herding", False))


def buffer_of(buffer: Buffer | int) -> Buffer:
    """Give a buffer; a number is the capacity of a reservoir."""
    return buffer if isinstance(buffer, Buffer) else ReservoirBuffer(buffer)


def keep(buffer: Buffer, trainer: Trainer, task: Task) -> None:
    """Offer a task's samples to a buffer."""
    features = body(trainer.model) if herds(buffer) else None
    x, y = np.asarray(task.x), np.asarray(task.y)
    buffer.add(group=task.index, features=features, x=x, y=y)


def check_beside(x: Any, buffer: Buffer) -> None:
    """Refuse new samples that cannot be in a batch with those of a buffer."""
    if not len(buffer):
        return
    kept = buffer._take(np.zeros(0, np.int64))["x"].shape[1:]  # without a draw, or a copy of all
    if x.shape[1:] != kept:
        raise ShapeError(f"x has rows of shape {x.shape[1:]}, but those that are kept have {kept}")


def kept_rows(rows: int, index: int, seed: int, start: int, steps: int, size: int) -> Any:
    """Choose rows of a memory for some steps of a task, shape (steps, size); nothing is stored."""
    batches = rows // size
    orders: dict[int, Any] = {}
    chosen = np.empty((steps, size), np.int64)
    for step in range(steps):
        number, batch = divmod(start + step, batches)
        if number not in orders:
            # Another stream than that of the task's own rows.
            orders[number] = _batches.drawn(rows, ~seed & _MASK, (index << 32) + number)
        chosen[step] = orders[number][batch * size : (batch + 1) * size]
    return chosen
