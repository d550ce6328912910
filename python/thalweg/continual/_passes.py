"""Training: the steps on a task, taken by a trainer in passes over the rows, or by `step`.

`_batches` determines which rows a step takes.
"""

import time
from typing import Any

import numpy as np

from thalweg import _core
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches
from thalweg.continual._task import Task
from thalweg.errors import ArgumentError


def by_step(strategy: Any, task: Task, **options: Any) -> History:
    """Take some steps on a task by a strategy's `step`, on the batches that `train` would take."""
    trainer, rows, parts = strategy.trainer, len(task.y), []
    steps, start = options["steps"], options["start"]
    _batches.check_last(trainer, rows, steps, start, options["batch_size"], options["drop_last"])
    for x, y, _ in _batches.chunks(task, seed=trainer.model.seed, most=1, **options):
        began = time.perf_counter()
        loss = strategy.step(x, y)
        seconds = time.perf_counter() - began
        try:
            figures = History(loss=[float(loss)], seconds=[seconds])
        except (TypeError, ValueError):
            raise ArgumentError(
                f"{type(strategy).__name__}.step must return the loss of the batch, such as what"
                f" super().step(x, y) returns; got {loss!r}"
            ) from None
        parts.append((len(x), figures))
    return mean_history(parts)


def train(
    trainer: Trainer,
    task: Task,
    *,
    steps: int,
    start: int,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
) -> History:
    """Let a trainer take some steps on a task, and return their figures as one entry."""
    task = task.with_data(np.asarray(task.x), np.asarray(task.y), task.sample_weight)
    rows = len(task.x)
    _batches.check_last(trainer, rows, steps, start, batch_size, drop_last)
    batches = _batches.per_pass(rows, batch_size, drop_last)
    # A complete pass is one fit of the trainer, which gathers rows batch by batch. Passes that are
    # not complete, or leave rows out, are gathered here.
    uneven = drop_last and rows > batch_size and rows % batch_size > 0
    in_core = shuffle and not uneven and isinstance(trainer._core, _core.Trainer)
    parts = []
    at, end = start, start + steps
    while at < end:
        number, place = divmod(at, batches)
        take = min(batches - place, end - at)
        if in_core and take == batches:
            order = _batches.order_number(task, number)
            history = trainer._pass(task.x, task.y, task.sample_weight, batch_size, order)
            parts.append((rows, history))
        else:
            for x, y, weight in _batches.chunks(
                task, seed=trainer.model.seed, steps=take, start=at, batch_size=batch_size,
                shuffle=shuffle, drop_last=drop_last,
                most=_batches.steps_of_chunk(trainer, batch_size),
            ):  # fmt: skip
                history = trainer.fit(
                    x, y, batch_size=batch_size, shuffle=False, sample_weight=weight
                )
                parts.append((len(x), history))
        at += take
    return mean_history(parts)


def mean_history(parts: list[tuple[int, History]]) -> History:
    """Merge several fits into one entry.

    That has means weighted by rows, the sum of seconds, and the penalty at the end, as in an entry
    of `Trainer.fit`.
    """
    rows = np.array([count for count, _ in parts], dtype=np.float64)
    history = History()
    for key in parts[0][1] if parts else ():
        values = np.array([one[key][-1] for _, one in parts])
        if key == "penalty":
            history[key] = [float(values[-1])]
            continue
        history[key] = [float(values.sum() if key == "seconds" else values @ rows / rows.sum())]
    return history
