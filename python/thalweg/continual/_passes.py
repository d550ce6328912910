"""Training: the steps on a task, taken by a trainer in passes over the rows, or by `step`.

`_batches` determines which rows a step takes.
"""

import itertools
import time
from typing import Any

import numpy as np

from thalweg import _core
from thalweg._figures import is_sum
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.callbacks._watch import Inner
from thalweg.continual import _batches
from thalweg.continual._task import Task, are_labels
from thalweg.errors import ArgumentError
from thalweg.nn import CrossEntropyLoss


def by_step(strategy: Any, task: Task, **options: Any) -> History:
    """Take some steps on a task by a strategy's `step`, on the batches that `train` would take."""
    trainer, rows, parts = strategy.trainer, len(task.y), []
    steps, start = options["steps"], options["start"]
    _batches.check_last(trainer, rows, steps, start, options["batch_size"], options["drop_last"])
    per_pass = _batches.per_pass(rows, options["batch_size"], options["drop_last"])
    finish(strategy, task)
    for at, (x, y, _) in enumerate(
        _batches.chunks(task, seed=trainer.model.seed, most=1, **options), start + 1
    ):
        began, counts = time.perf_counter(), _counts(trainer, y, None, len(y))[:2]
        loss = strategy.step(x, y) if counts[0] else np.nan  # which is left out of the mean
        # As in `train`, an update ends at its position, whichever of its batches count.
        if at in (_batches.end_of_update(at, per_pass, trainer._accumulate, start), start + steps):
            finish(strategy)
        seconds = time.perf_counter() - began
        try:
            figures = entry(loss, seconds, *counts)
        except (TypeError, ValueError):
            raise ArgumentError(
                f"{type(strategy).__name__}.step must return the loss of the batch, such as what"
                f" super().step(x, y) returns; got {loss!r}"
            ) from None
        parts.append(figures)
    return mean_history(trainer.loss, parts)


def finish(strategy: Any, task: Task | None = None) -> None:
    """Make the update for which gradients of some batches wait, if there is one.

    A task that is learned next is checked before: after an error, the model is unchanged.
    """
    trainer = strategy.trainer
    if trainer._accumulate == 1 or trainer._core.gathered() is None:
        return
    if task is not None:
        look(strategy, task)
    while strategy is not None and "projection" not in strategy._does:
        strategy = strategy.inner
    if strategy is None:
        trainer._core.flush()
    else:  # there is only one in a chain
        strategy._project_rest()


def look(strategy: Any, task: Task) -> None:
    """Refuse rows that the trainer cannot take; those of which none counts are skipped instead."""
    if _counts(strategy.trainer, task.y, task.sample_weight)[0]:
        strategy._look_at(task)


def train(
    strategy: Any,
    task: Task,
    *,
    steps: int,
    start: int,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
) -> History:
    """Let a strategy's trainer take some steps on a task, and return their figures as one entry.

    The entry is empty if no row counts in any of them: such batches are skipped.
    """
    trainer: Trainer = strategy.trainer
    weights = None if task.sample_weight is None else np.asarray(task.sample_weight)
    task = task.with_data(np.asarray(task.x), np.asarray(task.y), weights)
    rows = len(task.x)
    _batches.check_last(trainer, rows, steps, start, batch_size, drop_last)
    finish(strategy, task)
    batches = _batches.per_pass(rows, batch_size, drop_last)
    # An accumulated update is of the batches at its positions, whichever of them count: it must not
    # matter where training pauses. A fit passes over the others, so it must end with the update.
    counting = np.ones(steps, bool)
    if trainer._accumulate > 1:
        counting = counting_steps(
            trainer, task, steps=steps, start=start, batch_size=batch_size, shuffle=shuffle,
            drop_last=drop_last,
        )  # fmt: skip
    most = _batches.steps_of_chunk(trainer, batch_size)
    # A complete pass is one fit of the trainer, which gathers rows batch by batch. Passes that are
    # not complete, or leave rows out, are gathered here.
    uneven = drop_last and rows > batch_size and rows % batch_size > 0
    in_core = shuffle and not uneven and isinstance(trainer._core, _core.Trainer)
    at, end, parts = start, start + steps, []
    while at < end:
        number, place = divmod(at, batches)
        take = min(batches - place, end - at)
        here = counting[at - start :][:take]
        if in_core and take == batches and here.all():
            counts = _counts(trainer, task.y, task.sample_weight)
            if counts[0]:  # a fit would refuse rows of which none counts
                order = _batches.order_number(task, number)
                history = trainer._pass(task.x, task.y, task.sample_weight, batch_size, order)
                history._counts = counts
                parts.append(history)
        else:
            for x, y, weight in itertools.chain.from_iterable(
                _batches.chunks(
                    task, seed=trainer.model.seed, steps=until - first, start=at + first,
                    batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, most=most,
                )
                for first, until in itertools.pairwise(_fits(here, trainer._accumulate))
            ):  # fmt: skip
                counts = _counts(trainer, y, weight, batch_size)
                if counts[0] == 0:
                    continue
                history = trainer.fit(
                    x, y, batch_size=batch_size, shuffle=False, sample_weight=weight,
                    callbacks=[Inner()],
                )  # fmt: skip
                history._counts = counts
                parts.append(history)
        at += take
    return mean_history(trainer.loss, parts)


def _counts(
    trainer: Trainer, y: Any, weight: Any = None, batch_size: int | None = None
) -> tuple[float, float, float]:
    """Return what rows count in the means of loss and accuracy, as in the core; see `History`.

    It skips batches in which no row counts for the loss.
    """
    loss, y = trainer.loss, np.asarray(y)
    each = np.ones(len(y)) if weight is None else _as_taken(trainer, weight)
    of_loss = each * shares_of_rows(trainer, y)
    if isinstance(loss, CrossEntropyLoss) and are_labels(y):
        each = np.where(y == loss.ignore_index, 0.0, each)
    if batch_size is not None:
        firsts = np.arange(0, len(y), batch_size)
        skipped = np.repeat(np.add.reduceat(of_loss, firsts) == 0, batch_size)[: len(y)]
        each = np.where(skipped, 0.0, each)
    return float(of_loss.sum()), float(each.sum()), 0.0


def counting_steps(trainer: Trainer, task: Task, **options: Any) -> Any:
    """Return, for each of some steps on a task, whether any of its rows counts in the loss.

    Looks only at the rows of these steps: a task may be learned in many parts.
    """
    y, weight, steps = np.asarray(task.y), task.sample_weight, options["steps"]
    labels = isinstance(trainer.loss, CrossEntropyLoss) and are_labels(y)
    if weight is None and not labels:
        return np.ones(steps, bool)
    weight, found = None if weight is None else np.asarray(weight), []
    for rows in _batches.rows_of_steps(
        task, len(y), seed=trainer.model.seed, most=steps, **options
    ):
        shares = shares_of_rows(trainer, y[rows])
        if weight is not None:
            shares *= _as_taken(trainer, weight[rows])
        firsts = np.arange(0, len(rows), options["batch_size"])
        found.append(np.logical_or.reduceat(shares != 0, firsts))
    return np.concatenate(found)


def _fits(counting: Any, accumulate: int) -> list[int]:
    """Return the first steps of fits, and the end of the last one.

    A fit ends with each update in which no row of some batch counts, and goes on otherwise.
    """
    firsts = np.arange(0, len(counting), accumulate)
    short = ~np.logical_and.reduceat(counting, firsts)
    ends = np.minimum(firsts[short] + accumulate, len(counting))
    return np.unique([0, *ends, len(counting)]).tolist()  # type: ignore[no-any-return]


def _as_taken(trainer: Trainer, weight: Any) -> Any:
    """Return weights of rows as the core takes them: small ones may be 0."""
    return np.asarray(weight, trainer.model.dtype).astype(np.float64)


def shares_of_rows(trainer: Trainer, y: Any) -> Any:
    """Return how much each row counts in the mean of a trainer's loss: 0 for ignored labels."""
    loss, shares = trainer.loss, np.ones(len(y))
    if not isinstance(loss, CrossEntropyLoss) or not are_labels(y):
        return shares
    if loss.weight is not None:
        of_class = np.asarray(loss.weight, trainer.model.dtype).astype(np.float64)
        # Labels that are no classes count: rows that seem to count for nothing are passed over,
        # but these have to be refused.
        there = (y >= 0) & (y < len(of_class))
        shares = np.where(there, of_class.take(y.astype(np.int64), mode="clip"), 1.0)
    return np.where(y == loss.ignore_index, 0.0, shares)


def entry(loss: Any, seconds: float, rows: float, right: float | None = None) -> History:
    """Return an entry with the loss of a step, and what its rows count there and in accuracies."""
    history = History(loss=[float(loss)], seconds=[seconds])
    history._counts = rows, rows if right is None else right, 0.0
    return history


def were_skipped(part: History) -> bool:
    """Whether no row counts in any step of a part, so that none was taken."""
    return part._counts is not None and not any(part._counts[:2])


def mean_history(loss: Any, parts: list[History]) -> History:
    """Merge several fits with a loss into one entry, as if they were one.

    That has means weighted by what rows count, or updates, the sum of seconds, and the penalty at
    the end, as in an entry of `Trainer.fit`; also the sum of losses that are sums. Parts that were
    skipped have no figures, and if there are no others, the entry is empty.
    """
    parts = [part for part in parts if not were_skipped(part)]
    history = History()
    if not parts:
        history._counts = 0.0, 0.0, 0.0
        return history
    known = np.array([part._counts or (1.0, 1.0, 1.0) for part in parts])
    counts = dict(zip(("loss", "accuracy", "projected"), known.T, strict=True))
    for key in parts[0]:
        values = np.array([part[key][-1] for part in parts])
        if key == "penalty":
            merged = values[-1]
        elif key == "seconds" or (key == "loss" and is_sum(loss)):
            merged = values.sum()
        else:
            weights = counts.get(key, counts["loss"])
            there = weights > 0
            merged = values[there] @ weights[there] / weights.sum() if there.any() else np.nan
        history[key] = [float(merged)]
    of_loss, of_accuracy, updates = known.sum(axis=0).tolist()
    history._counts = of_loss, of_accuracy, updates
    return history
