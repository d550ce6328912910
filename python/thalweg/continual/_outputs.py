"""Which outputs belong to a task."""

from collections.abc import Sequence

import numpy as np

from thalweg._trainer import Trainer
from thalweg.continual._task import Task


def outputs_of(trainer: Trainer, task: Task) -> Sequence[int] | None:
    """Return the outputs that compete while a task is learned; None means all.

    With a head for each task, they are the outputs of the heads that contain its classes.
    """
    heads: Sequence[int] | None = getattr(trainer.loss, "heads", None)
    if heads is None:
        active: Sequence[int] | None = getattr(trainer.loss, "active", None)
        return active
    if task.classes is None:
        return None
    of_column = np.repeat(np.arange(len(heads)), heads)
    # The loss refuses classes that are not outputs.
    mine = [of_column[label] for label in task.classes if 0 <= label < len(of_column)]
    return tuple(int(column) for column in np.flatnonzero(np.isin(of_column, mine)))
