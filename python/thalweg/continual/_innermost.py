"""The base of strategies that train with their own loss."""

import numpy as np

from thalweg._trainer import Trainer
from thalweg.continual import _mixed
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import DataError, UnsupportedError


class Innermost(Strategy):
    """Base of strategies that train with their own loss."""

    _does: tuple[str, ...] = ("loss", "plain rows")

    def __init__(self, inner: Trainer) -> None:
        if not isinstance(inner, Trainer):
            raise UnsupportedError(
                f"{type(self).__name__} trains with a loss of its own: it goes around a Trainer, "
                f"not around {type(inner).__name__}"
            )
        super().__init__(inner)
        # Fail now, not after the first task, if the trainer cannot take such a loss.
        _mixed.with_loss(inner, lambda output, target: (0.0, output), type(self).__name__)

    def _check(self, task: Task) -> None:
        """Refuse a task without labels; checked at each `learn`, as others may change the rows."""
        super()._check(task)
        y = np.asarray(task.y)
        if y.ndim != 1 or y.dtype.kind not in "iub":
            raise UnsupportedError(
                f"{type(self).__name__} needs labels: y of shape (n,) and of an integer type; got "
                f"shape {y.shape} of {y.dtype}"
            )
        outputs = self.trainer.model.out_features
        ignored = getattr(self.trainer.loss, "ignore_index", None)
        if (y == ignored).any():
            raise UnsupportedError(
                f"{type(self).__name__} counts all rows, also those whose label is"
                f" ignore_index={ignored}: leave them out of the task"
            )
        if len(y) and not 0 <= y.min() <= y.max() < outputs:
            raise DataError(
                f"y has labels from {y.min()} to {y.max()}, but the network has {outputs} outputs: "
                f"labels must be from 0 to {outputs - 1}"
            )
        if "whole" not in self._does or task.classes is None:
            return
        others = sorted({*np.unique(y).tolist()} - {*task.classes})
        if others:
            raise DataError(
                f"task {task.index} has the labels {others}, but classes={task.classes}, by which"
                f" {type(self).__name__} goes: name all that occur, or leave classes out"
            )
