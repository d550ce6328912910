"""Steps that consist of several calls of the core: one at a time for each model.

Between these calls, other threads may run, and functions of the user's do. `alone` therefore leaves
a note in the model's `_steps` while such a step is under way: by process, since a forked one has
none of its parent's threads, the trainer, its thread, and the note of a step around this one.
"""

import functools
import os
from _thread import get_ident  # in place of threading, which few programs need
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from thalweg.errors import ArgumentError
from thalweg.nn import Sequential


class Stepping(Protocol):
    """What makes steps in several calls."""

    model: Sequential

    @property
    def kind(self) -> str:
        """What these steps have, such as ``"a custom loss"``."""


_Self = TypeVar("_Self", bound=Stepping)
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def alone(
    name: str, *, within: bool = False
) -> Callable[
    [Callable[Concatenate[_Self, _Given], _Result]],
    Callable[Concatenate[_Self, _Given], _Result],
]:
    """Let a method run only where `check` allows it, and leave a note meanwhile.

    Functions in a step of the same object may call it if it may run `within` one.
    """

    def noted(
        method: Callable[Concatenate[_Self, _Given], _Result],
    ) -> Callable[Concatenate[_Self, _Given], _Result]:
        @functools.wraps(method)
        def run(self: _Self, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
            notes, process = self.model._steps, os.getpid()
            outer = check(self.model, None if within else self, name) if notes else None
            mine = self, get_ident(), outer
            try:
                if outer is not None:
                    notes[process] = mine
                elif (found := notes.setdefault(process, mine)) is not mine:
                    raise _busy(found[0])  # since just now
                return method(self, *args, **kwargs)
            finally:  # without a call, so that Ctrl-C cannot come in between
                if process in notes and notes[process] is mine:
                    if outer is None:
                        del notes[process]
                    else:
                        notes[process] = outer

        return run

    return noted


def check(model: Sequential, trainer: Any, name: str) -> Any:
    """Return the note of the step of a model that is under way, None if there is none.

    Raises
    ------
    ArgumentError
        If it is another thread's, or this trainer's. Nothing has changed then.
    """
    found = note = model._steps.get(os.getpid())
    if note is not None and note[1] != get_ident():
        raise _busy(note[0])
    while note is not None:
        if note[0] is trainer:
            raise ArgumentError(
                f"trainer.{name} was called by a function within a step of the same trainer, with "
                f"{trainer.kind}; this call has changed nothing. Call it between steps, e.g. in a "
                "callback; for the gradients of another loss, the function can call backward of "
                "another trainer"
            )
        note = note[2]
    return found


def _busy(other: Stepping) -> ArgumentError:
    return ArgumentError(
        f"another thread is in a step of this model with {other.kind}. Such steps run in Python, "
        "one at a time: make all steps of a model in one thread, or guard them by a threading.Lock"
    )
