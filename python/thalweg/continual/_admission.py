"""Admission: what a strategy refuses, before anything is changed for it.

A task is checked once by the outermost strategy, for all strategies inside; steps and ends of tasks
are checked where they are called, and so is the data of each `learn`, which may differ from what a
task began with. A strategy adds checks of its own to `_check`, `_check_data`, `_check_kept` or
`_check_end`, and calls ``super()`` there.
"""

import dataclasses
from typing import Any

import numpy as np

from thalweg import _arrays
from thalweg._trainer import Trainer
from thalweg._trainer._penalties import OWN
from thalweg._warn import warn
from thalweg.continual import _protocol
from thalweg.continual._passes import finish
from thalweg.continual._task import Task, check_rows, not_begun
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import CrossEntropyLoss, Sequential
from thalweg.optim import SAM
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim.schedules import ReduceLROnPlateau


class Admission:
    """The part of a strategy that refuses tasks and steps."""

    inner: Any
    trainer: Trainer
    _begun: int | None
    _by_step: bool
    _told_of_waiting: bool
    #: What it does that others may not tolerate: see `_compatibility`.
    _does: tuple[str, ...] = ()
    #: Why it can only learn tasks, by `learn`, and takes no `step`; empty if it takes some.
    _only_learns: str = ""
    #: Why it takes a `step` only between `begin` and `end`; empty if it takes any.
    _only_in_tasks: str = ""
    #: The task that begins or ends now and was checked, here or by the strategy outside.
    _admitted: Task | None = None
    #: Whether the latest task that it was to admit was refused.
    _refused: bool = False

    def _admit(self, task: Task) -> None:
        """Let the classes of a task compete, or refuse it before anything is changed for it.

        This also checks all strategies inside, which then need not check the same task again.
        """
        if task is self._admitted:
            return
        self._refused = True
        check_task(task)
        if self._admitted is None:  # else one around this has, of a task that it changed
            self._check_penalties()
        self._check(task)
        self._check_data(task)
        trainer = self.trainer
        before: Any = trainer.loss
        try:
            if task.active is not None and isinstance(before, CrossEntropyLoss):
                active = None if task.active == "all" else task.active
                trainer.loss = dataclasses.replace(before, active=active)
            self._look_at(task)
            self._check_kept(task)
        except BaseException:
            if trainer.loss is not before:
                trainer.loss = before
            raise
        self._admitted, self._refused = task, False

    def _check_penalties(self) -> None:
        """Refuse a trainer with the penalties of strategies that are not among these."""
        links = [link for link in _protocol.links(self) if "penalty" in link._does]
        others = {*self.trainer._penalties.terms} - {OWN, *(link._place for link in links)}
        if links and others:
            raise UnsupportedError(
                f"the trainer's penalty is not the one of this {type(links[0]).__name__}: another"
                " strategy around the same trainer has left one. Use another trainer, or call"
                " trainer.set_penalty(None) before the first task"
            )

    def _look_at(self, task: Task) -> None:
        """Refuse rows that the trainer cannot take."""
        check_rows(task, task.index)
        trainer: Any = self.trainer
        # Preparing a fit, without running it, checks all rows.
        x, y, weight = trainer._ready(task.x, task.y, task.sample_weight)
        trainer._arrays_fit(x, y, weight, None, None, None, 1, len(x), False)

    def _check(self, task: Task) -> None:
        """Refuse a task that this strategy, or one inside, cannot learn."""
        for link in _protocol.inside(self) if self._by_step else ():
            if link._only_learns:
                raise UnsupportedError(
                    f"{type(self).__name__} learns by step, which {type(link).__name__} inside it"
                    f" does not support: {link._only_learns}. Let {type(self).__name__} override"
                    " learn instead, and call super().learn there"
                )
        if self.inner is not None:
            self.inner._check(task)

    def _check_data(self, task: Task) -> None:
        """Refuse labels or weights that this strategy, or one inside, cannot learn."""
        plain = {"plain rows"} if task._weighted else {"plain rows", "plain tasks"}
        if task.sample_weight is not None and plain & {*self._does}:
            name, why, else_ = type(self).__name__, "it weights all samples equally", ""
            if self._by_step:
                why = "it learns by step, which takes no weights"
                else_ = f", or let {name} override learn instead, and call super().learn there"
            raise UnsupportedError(
                f"{name} does not support tasks with sample_weight: {why}. Leave sample_weight out"
                f" of task {task.index}{else_}"
            )
        if self.inner is not None:
            self.inner._check_data(task)
        else:  # wrong weights could seem to count for nothing, and their rows be skipped
            _arrays.weights(task.sample_weight, self.trainer.model.dtype, "sample_weight")

    def _check_kept(self, task: Task) -> None:
        """Refuse a task, whose classes compete now, that does not match what is kept."""
        if self.inner is not None:
            self.inner._check_kept(task)

    def _ready_to_end(self, task: Task) -> None:
        """Refuse the end of a task before anything is changed for it; make its last update."""
        if task is not self._admitted:
            self._check_end(task)
            self._check_data(task)
            finish(self)
            self._admitted = task

    def _check_end(self, task: Task) -> None:
        """Refuse a task that this strategy, or one inside, could not consolidate."""
        check_task(task)
        self._check_begun(task, "cannot end")
        if self.inner is not None:
            self.inner._check_end(task)
        else:
            self._look_at(task)

    def _check_begun(self, task: Task, what: str) -> None:
        """Refuse a call that needs `begin` to have been called for the task first."""
        if self._begun is None:
            raise not_begun(task, what)
        if self._begun != task.index:
            raise ArgumentError(
                f"task {task.index} {what}, as task {self._begun} has begun and not ended: pass the"
                " task that begin was called with, or one made from it by task.with_data, which has"
                " the same index"
            )

    def _check_step(self) -> None:
        """Refuse a step that this strategy could never affect, and warn if it has no effect yet."""
        if self._only_learns:
            raise UnsupportedError(
                f"{type(self).__name__} does not support step: {self._only_learns}; use"
                " strategy.fit(task), or begin, learn and end"
            )
        if self._begun is not None:
            return
        if self._only_in_tasks:
            raise UnsupportedError(
                f"{type(self).__name__} does not support step outside a task:"
                f" {self._only_in_tasks}; call strategy.begin(task) before and strategy.end(task)"
                " after the steps of each task, or use fit or continual.run"
            )
        if not self._told_of_waiting and self._waits():
            self._told_of_waiting = True
            warn(
                f"{type(self).__name__} protects nothing yet: it records what to protect when a"
                " task ends, and none has ended, so this step is the same without it. Call"
                " strategy.begin(task) before and strategy.end(task) after the steps of each task,"
                " or use fit or continual.run",
            )

    def _waits(self) -> bool:
        """Whether its steps do nothing of their own until it has gathered something from a task."""
        return False


def check_task(task: Any) -> None:
    """Refuse anything but a task."""
    if not isinstance(task, Task):
        raise ArgumentError(
            "task must be a Task, such as continual.Task(x, y, x_test, y_test); got"
            f" {type(task).__name__}"
        )


def check_trainer(trainer: Trainer) -> None:
    """Refuse trainers that take no steps on batches, or miscount them over many short fits."""
    if isinstance(trainer.optimizer, FullBatchOptimizer):
        raise UnsupportedError(
            f"{type(trainer.optimizer).__name__} takes all data at once, but a strategy learns a"
            " task in steps on batches: use an optimizer for batches, such as optim.Adam"
        )
    schedule, why = trainer._schedule, None
    if isinstance(schedule, ReduceLROnPlateau):
        why = "waits for the epochs of one fit (use a schedule that counts steps)"
    elif schedule is not None and schedule.per == "epoch":
        why = 'counts the epochs of one fit (use per="step")'
    elif schedule is not None and schedule.is_open:
        why = "is as long as one fit (give its length, in steps)"
    if why is not None:
        raise UnsupportedError(
            f"{schedule!r} {why}, but a strategy learns a task in many short fits"
        )


def check_elementwise(trainer: Trainer, who: str) -> None:
    """Refuse an optimizer whose update of a parameter depends on others.

    Raises
    ------
    UnsupportedError
        If the trainer's optimizer does not work element by element.
    """
    optimizer = trainer.optimizer
    if optimizer._core.is_elementwise:
        return
    named = optimizer.base if isinstance(optimizer, SAM) else optimizer
    raise UnsupportedError(
        f"{who} tracks or freezes each parameter separately, but {type(named).__name__} updates"
        " those of a layer together: use an optimizer that works element by element, such as"
        " optim.Adam or optim.SGD"
    )


def check_derivatives(model: Sequential, who: str, instead: str = "another strategy") -> None:
    """Refuse a model without derivatives of its outputs for single rows, before it trains.

    Raises
    ------
    UnsupportedError
        If it has `nn.BatchNorm1d` or `nn.Dropout`.
    """
    try:
        model._core.jacobian(np.zeros((1, model.in_features), model.dtype), True)
    except UnsupportedError:
        raise UnsupportedError(
            f"{who} needs the derivatives of outputs for single rows, which a network with"
            " BatchNorm1d or Dropout does not have in training: leave these layers out, use"
            f" nn.LayerNorm, or {instead}"
        ) from None
