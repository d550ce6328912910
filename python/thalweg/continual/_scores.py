"""How well a task is solved: the scores that `run` chooses from."""

from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg import _arrays, _checks
from thalweg._trainer import Trainer
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, counted
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn import BCEWithLogitsLoss, CrossEntropyLoss, CustomLoss

Metric = Callable[[Strategy, Task, "tuple[int, ...] | None"], float]


def accuracy(strategy: Strategy, task: Task, classes: tuple[int, ...] | None) -> float:
    """Compute the share of held-out samples whose class is right, where `classes` compete.

    Labels are what the trainer accepts as labels, and those that its loss ignores do not count; for
    class probabilities, the largest is the right class. With `nn.BCEWithLogitsLoss`, it is the
    share of right answers among all outputs, where an output above 0 means yes, as in
    `Trainer.evaluate`.
    """
    trainer = strategy.trainer
    if isinstance(trainer.loss, BCEWithLogitsLoss):
        outputs = strategy.network(task.index)(task.x_test)
        return float(
            np.mean((outputs > 0) == (_like(np.asarray(task.y_test), outputs, task) > 0.5))
        )
    target = _arrays.labels_or_shares(task.y_test, trainer.model.dtype, "y_test")
    found, target = counted(
        trainer.loss, strategy.predict(task.x_test, classes, task=task.index), target
    )
    if not len(target):
        raise DataError(
            f"task {task.index} ({task.name!r}) cannot be evaluated: all labels in y_test are the"
            f" ignore_index of {trainer.loss!r}"
        )
    return float(np.mean(found == (target if target.ndim == 1 else target.argmax(axis=1))))


def r2(strategy: Strategy, task: Task, classes: tuple[int, ...] | None) -> float:
    """Compute the coefficient of determination on held-out samples, over all outputs; 1 is best."""
    outputs = strategy.network(task.index)(task.x_test)
    target = _like(np.asarray(task.y_test, dtype=np.float64), outputs, task)
    error = ((outputs - target) ** 2).sum()
    spread = ((target - target.mean(axis=0)) ** 2).sum()
    if spread == 0:
        return 1.0 if error == 0 else 0.0
    return float(1 - error / spread)


def _like(target: Any, outputs: Any, task: Task) -> Any:
    """Return targets in the shape of the outputs."""
    rows = target.reshape(len(target), -1)
    if rows.shape != outputs.shape:
        raise ShapeError(
            f"task {task.index} ({task.name!r}): y_test has shape {target.shape}, but the outputs"
            f" have shape {outputs.shape}; pass metric=, a function that compares them"
        )
    return rows


def learner(strategy: Strategy | Trainer, metric: Metric | None) -> Strategy:
    """Return what learns as a strategy, if it is one, or a trainer, and a metric can judge it."""
    if not isinstance(strategy, Trainer | Strategy):
        raise ArgumentError(
            f"strategy must be a Strategy or a Trainer; got {type(strategy).__name__}"
        )
    if metric is not None and not callable(metric):
        raise ArgumentError(
            f"metric must be a function of (strategy, task, classes); got {metric!r}"
        )
    return Strategy(strategy) if isinstance(strategy, Trainer) else strategy


def metric_of(strategy: Strategy, task: Task) -> Metric:
    """Choose the metric that suits a trainer's loss; for a custom loss, that suits the targets."""
    loss = strategy.trainer.loss
    if isinstance(loss, CrossEntropyLoss | BCEWithLogitsLoss):
        return accuracy
    labelled = isinstance(loss, CustomLoss) and task.classes is not None
    return accuracy if labelled and strategy.trainer.model.out_features > 1 else r2


def score(value: Any) -> float:
    """Convert what a metric returned to a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"metric must return a number for a task; got {_checks.given(value)}"
        ) from None
