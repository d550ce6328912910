"""The base of strategies that train with their own loss."""

import numpy as np

from thalweg import _arrays
from thalweg._trainer import Trainer
from thalweg.continual import _losses
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import DataError, UnsupportedError


class Innermost(Strategy):
    """Base of strategies that train with their own loss."""

    _does: tuple[str, ...] = ("loss", "plain rows")

    def __init__(self, inner: Trainer) -> None:
        if not isinstance(inner, Trainer):
            raise UnsupportedError(
                f"{type(self).__name__} trains with its own loss, so it must go directly around a"
                f" Trainer; got {type(inner).__name__}"
            )
        super().__init__(inner)
        # Fail now, not after the first task, if the trainer cannot take such a loss.
        _losses.with_loss(inner, lambda output, target: (0.0, output), type(self).__name__)

    def _check_data(self, task: Task) -> None:
        """Refuse data without labels."""
        super()._check_data(task)
        y = _arrays.as_array(task.y, "y")
        if y.ndim != 1 or y.dtype.kind not in "iub":
            raise UnsupportedError(
                f"{type(self).__name__} needs labels: y must have shape (n,) and an integer dtype;"
                f" got shape {y.shape} and dtype {y.dtype}"
            )
        outputs = self.trainer.model.out_features
        ignored = self.trainer._loss._competition.ignored
        if (y == ignored).any():
            raise UnsupportedError(
                f"{type(self).__name__} cannot ignore rows, but some labels in y are"
                f" ignore_index={ignored}: leave these rows out of the task"
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
                f"task {task.index} has the labels {others}, but classes={task.classes}, which"
                f" {type(self).__name__} relies on: list all classes that occur, or omit classes"
            )
