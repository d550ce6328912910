"""The callbacks of a fit: which objects are some, and when each is called."""

import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import _checks
from thalweg._figures import Means
from thalweg._history import added
from thalweg.callbacks._base import METHODS, Callback, method_of
from thalweg.errors import ArgumentError
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule

if TYPE_CHECKING:  # at run time, callbacks need not know the trainer
    from collections.abc import Iterable

    from thalweg._trainer import Trainer
    from thalweg.callbacks._base import AnyCallback
    from thalweg.errors import DivergedError


def check(callbacks: "Iterable[AnyCallback]") -> "tuple[AnyCallback, ...]":
    """Return the callbacks as a tuple, after checking each."""

    def is_callback(value: Any) -> bool:
        has = any(callable(getattr(value, name, None)) for name in METHODS)
        return has and not isinstance(value, type)

    if is_callback(callbacks):
        raise ArgumentError("callbacks must be a sequence: write callbacks=[...]")
    try:
        found = tuple(callbacks)
    except TypeError:
        got = _checks.short(callbacks)
        raise ArgumentError(f"callbacks must be a sequence; got {got}") from None
    for callback in found:
        if not isinstance(callback, type):
            _refuse_others(callback)
        if not is_callback(callback):
            raise ArgumentError(
                f"a callback needs one of the methods {', '.join(METHODS)}; got "
                f"{_checks.short(callback)}"
                f"{_meant(callback)}"
            )
        _refuse_suspended(callback)
    return found


#: Methods of callbacks in Keras and Lightning, and what is called here at that time.
_ELSEWHERE = {
    **dict.fromkeys(
        ("on_train_begin", "on_train_start", "on_fit_start", "on_training_start"), "on_fit_begin"
    ),
    **dict.fromkeys(("on_train_end", "on_training_end"), "on_fit_end"),
    **dict.fromkeys(("on_batch_end", "on_train_batch_end"), "on_step_end"),
    **dict.fromkeys(
        ("on_train_epoch_end", "on_validation_end", "on_validation_epoch_end", "on_test_end"),
        "on_epoch_end",
    ),
    **dict.fromkeys(
        (
            "on_epoch_begin", "on_epoch_start", "on_train_epoch_start", "on_batch_begin",
            "on_batch_start", "on_train_batch_begin", "on_train_batch_start", "on_step_begin",
            "on_step_start",
        ),
        "",
    ),
}  # fmt: skip


def _refuse_others(callback: Any) -> None:
    """Raise if a callback's method would never be called because its name is another library's."""
    for name, ours in _ELSEWHERE.items():
        if callable(getattr(callback, name, None)):
            instead = f"it is {ours} here" if ours else f"the methods are {', '.join(METHODS)}"
            raise ArgumentError(
                f"{type(callback).__name__}.{name} would not be called by Trainer.fit: {instead}"
            )


def _refuse_suspended(callback: Any) -> None:
    """Raise if calling a method would only prepare a coroutine or a generator, and run nothing."""
    for name in METHODS:
        method = method_of(callback, name)
        kinds = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
        if any(is_one(method) for is_one in kinds):
            raise ArgumentError(
                f"{type(callback).__name__}.{name} would not run when Trainer.fit calls it, since "
                "it is an async function or contains yield: write a plain function"
            )


def _meant(value: Any) -> str:
    """Say what to write instead of something that is not a callback, where that is clear."""
    if isinstance(value, type) and any(hasattr(value, name) for name in METHODS):
        return f": pass an instance, {value.__name__}(...)"
    if isinstance(value, (Schedule, ReduceLROnPlateau)):
        return ": pass a schedule to the trainer, Trainer(..., schedule=...)"
    if callable(value):
        return ": write a class with a method on_epoch_end(self, trainer, record)"
    return ""


class Cancel(Callback):
    """Ends fits between two steps, soon after `now` is set, by whatever thread."""

    now = False


class Inner(Callback):
    """Marks a fit within a call that decides what an error leaves.

    An error of the user's also undoes it if its steps are made in Python, and has no note.
    """


class Watch:
    """The callbacks of a fit, sorted by the events they want to see."""

    def __init__(self, trainer: "Trainer", callbacks: "tuple[AnyCallback, ...]") -> None:
        self._trainer = trainer
        self._of = {
            name: [m for c in callbacks if (m := method_of(c, name)) is not None]
            for name in METHODS
        }
        self.steps = bool(self._of["on_step_end"])
        # A schedule that follows a figure also looks at every epoch.
        plateau = isinstance(trainer.schedule, ReduceLROnPlateau)
        self.epochs = plateau or bool(self._of["on_epoch_end"])
        self.is_inner = any(isinstance(c, Inner) for c in callbacks)
        self._cancel = next((c for c in callbacks if isinstance(c, Cancel)), None)
        self._means = Means()  # of what callbacks add to the records of batches
        #: Whether `cancelled` may change at any time.
        self.is_asked = self._cancel is not None

    @property
    def cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.now

    def begin(self) -> None:
        for method in self._of["on_fit_begin"]:
            method(self._trainer)

    def step(self, run: Any, ended: bool) -> bool:
        """Show a batch, and whether it ended its epoch; return whether a callback stops the fit."""
        epochs, batch, batches, *_ = run.progress
        if ended:
            epochs, batch = epochs - 1, batches
        if math.isnan(run.last_loss):  # a skipped batch
            return False
        figures = getattr(run, "last_figures", {})  # the core's fits have none
        record = {**figures, "epoch": epochs + 1, "batch": batch, "loss": run.last_loss}
        there = dict(record)
        stop = self._ask("on_step_end", record)
        self._means.add(added(record, there), 1.0)
        return stop

    def epoch(self, record: dict[str, float]) -> bool:
        """Show an epoch, with figures added to its batches; return whether a callback stops."""
        means = self._means.take()
        if taken := [name for name in means if name in record]:
            raise ArgumentError(
                f"a callback added {taken[0]!r} to the records of batches, but the fit itself has "
                "such a figure for the epoch: choose another name"
            )
        record.update(means)
        return self._ask("on_epoch_end", record)

    def end(self) -> None:
        for method in self._of["on_fit_end"]:
            method(self._trainer)

    def diverged(self, error: "DivergedError") -> None:
        for method in self._of["on_diverged"]:
            method(self._trainer, error)

    def _ask(self, name: str, record: dict[str, float]) -> bool:
        # Ask every callback, even after an earlier one has stopped the fit. 1 does not count as
        # True: it may be a figure that a function happens to return.
        answers = [method(self._trainer, record) for method in self._of[name]]
        return any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)
