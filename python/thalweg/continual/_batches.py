"""Which rows each step of a task takes.

Every pass over a task's rows has its own order, determined by the model's seed, the task's index
and the number of the pass alone. A position in a task is therefore one number, the steps taken, and
training that stopped there resumes with the rows that would have come next.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from thalweg import _core
from thalweg._trainer import Trainer
from thalweg.continual._task import Task
from thalweg.errors import ArgumentError

#: The most steps in one chunk, unless they are of few rows.
MOST = 16
#: Rows that a chunk may always have: one call of the core costs as much as many small steps.
_ROWS = 2048
#: Passes per task that have their own orders: the orders of task t start at t times this.
_PASSES = 1 << 32


def per_pass(rows: int, batch_size: int, drop_last: bool = False) -> int:
    """Count the batches in a pass over `rows` rows, at least 1."""
    return max(1, rows // batch_size if drop_last else -(-rows // batch_size))


def check_last(
    trainer: Trainer, rows: int, steps: int, start: int, batch_size: int, drop_last: bool
) -> None:
    """Refuse steps on a single row if the model takes statistics over rows.

    Raises
    ------
    ArgumentError
        If one of the steps would be such a step.
    """
    batches = per_pass(rows, batch_size, drop_last)
    to_come = batches - 1 - start % batches  # until the last of a pass
    single = rows - (batches - 1) * batch_size == 1 < batch_size
    if single and to_come < steps and trainer.model._core.average_blocks():
        raise ArgumentError(
            f"with batch_size={batch_size}, the last batch of {rows} rows has only 1"
            " row, but BatchNorm1d needs 2 rows or more for the statistics of a batch: choose"
            " another batch_size, or drop_last=True"
        )


def steps_of_chunk(trainer: Trainer, batch_size: int) -> int:
    """Count the steps that are gathered at once and run as one fit, which cuts no update short."""
    most, accumulate = max(MOST, _ROWS // batch_size), trainer._accumulate
    return accumulate * max(1, most // accumulate)


def end_of_update(step: int, per_pass: int, accumulate: int, pause: int = 0) -> int:
    """Return the step at which the update under way after `step` steps of a task ends.

    An update takes `accumulate` batches, or what is left of a pass; the first one begins where a
    pass does, or after the latest pause, `pause` steps.
    """
    begin = max(pause, step - step % per_pass)
    end = step + -(step - begin) % accumulate
    return min(end, step - step % per_pass + per_pass)


def order_number(task: Task, number: int) -> int:
    """Return what identifies the order of the rows in a pass over a task; passes are from 0."""
    return task.index * _PASSES + number


@functools.lru_cache(maxsize=4)
def drawn(rows: int, seed: int, number: int) -> Any:
    """Return a random order of rows, read-only and cached: single steps ask for it repeatedly."""
    found = _core.epoch_order(rows, seed, number)
    found.flags.writeable = False
    return found


def rows_of_steps(
    task: Task,
    count: int,
    *,
    seed: int,
    steps: int,
    start: int = 0,
    batch_size: int = 32,
    shuffle: bool = True,
    drop_last: bool = False,
    most: int = MOST,
) -> Iterator[Any]:
    """Yield the indices of the rows that steps take, many steps at a time; see `chunks`.

    `count` is how many rows there are.
    """
    batches = per_pass(count, batch_size, drop_last)
    current = -1
    rows: Any = None
    at, end = start, start + steps
    while at < end:
        number, batch = divmod(at, batches)
        if number != current:
            current = number
            order = order_number(task, number)
            rows = drawn(count, seed, order) if shuffle else np.arange(count)
        take = min(most, end - at, batches - batch)
        yield rows[batch * batch_size : (batch + take) * batch_size]
        at += take


def chunks(task: Task, *, shuffle: bool = True, **options: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Gather the rows of many steps at once, for ``trainer.fit(..., shuffle=False)``.

    Parameters
    ----------
    task : Task
        The task whose rows are gathered.
    seed : int
        The model's.
    steps, start : int
        How many steps to take, and how many have been taken on this task before (default 0).
    batch_size : int, default 32
        Rows of a step.
    shuffle : bool, default True
        Whether every pass has a random order.
    drop_last : bool, default False
        Whether to leave out a short last batch of a pass, as in PyTorch's ``DataLoader``.
    most : int, default 16
        The most steps in one chunk; 1 gives single batches. A chunk ends where a pass ends.

    Yields
    ------
    x, y, sample_weight
        The rows of ``ceil(len(x) / batch_size)`` steps; `sample_weight` is None if the task has
        none.
    """
    arrays = [np.asarray(task.x), np.asarray(task.y)]
    if task.sample_weight is not None:
        arrays.append(np.asarray(task.sample_weight))
    for rows in rows_of_steps(task, len(arrays[0]), shuffle=shuffle, **options):
        if shuffle:
            parts = [array.take(rows, 0) for array in arrays]
        else:  # consecutive rows need no copy
            parts = [array[int(rows[0]) : int(rows[-1]) + 1] for array in arrays]
        yield parts[0], parts[1], parts[2] if len(parts) == 3 else None
