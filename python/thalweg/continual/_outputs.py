"""Which outputs belong to a task, and which of them is the largest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg import _arrays
from thalweg._trainer import Trainer
from thalweg.continual._task import Task
from thalweg.errors import ArgumentError


def outputs_of(trainer: Trainer, task: Task) -> Sequence[int] | None:
    """Return the outputs that compete while a task is learned; None means all.

    With a head for each task, they are the active outputs of the heads that contain its classes.
    """
    competition = trainer._loss._competition
    if competition.heads is None:
        return competition.active
    if task.classes is None:
        return None
    of_column = competition.heads_of(trainer.model.out_features)
    # The loss refuses classes that are not outputs.
    mine = [of_column[label] for label in task.classes if 0 <= label < len(of_column)]
    competes = np.isin(of_column, mine) & competition.takes_part(len(of_column))
    return tuple(int(column) for column in np.flatnonzero(competes))


def largest(outputs: Any, classes: Sequence[int] | None) -> Any:
    """Return the index of each row's largest output, among `classes` if they are given."""
    if classes is None:
        return outputs.argmax(axis=1)
    places = _arrays.as_array(classes, "classes")
    whole = places.ndim == 1 and places.dtype.kind in "iu" and places.size > 0
    if not whole or not 0 <= places.min() <= places.max() < outputs.shape[1]:
        raise ArgumentError(
            f"classes must name some of the outputs 0 to {outputs.shape[1] - 1}; got {classes!r}"
        )
    return places[outputs[:, places].argmax(axis=1)]
