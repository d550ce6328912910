"""Asking strategies, which may be of one's own: what these forget is said, with their class's name.

Strategies ask those inside of them, `run` and `Strategy.fit` the outermost one.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from thalweg._history import History
from thalweg.errors import ArgumentError

#: What `Strategy.learn` is called with, besides the task.
OPTIONS = ("steps", "start", "batch_size", "shuffle", "drop_last")


def begin(strategy: Any, task: Any) -> None:
    """Let a strategy get ready for a task.

    Raises
    ------
    ArgumentError
        If that did not reach those inside of it.
    """
    strategy.begin(task)
    if not strategy._begun:
        raise _not_reached(strategy, "begin")


def learn(strategy: Any, task: Any, **options: Any) -> History:
    """Let a strategy take steps, and give their figures as a history of one entry.

    Raises
    ------
    ArgumentError
        If it gives others.
    """
    given = strategy.learn(task, **options)
    if isinstance(given, History):
        return given
    try:
        if not isinstance(given, Mapping):
            raise TypeError
        return History(
            {
                str(key): [float(it) for it in (value if isinstance(value, Iterable) else [value])]
                for key, value in given.items()
            }
        )
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{type(strategy).__name__}.learn must give figures of its steps, as"
            f' {{"loss": 0.5}}, or what super().learn(task, ...) gives; got {given!r}'
        ) from None


def end(strategy: Any, task: Any) -> None:
    """Let a strategy take to heart what must not be forgotten of a task.

    Raises
    ------
    ArgumentError
        If that did not reach those inside of it.
    """
    strategy.end(task)
    if strategy._begun:
        raise _not_reached(strategy, "end")


def check_learn(cls: type[Any]) -> None:
    """Refuse a class whose `learn` does not take what it is called with.

    Raises
    ------
    ArgumentError
        If it is such a one.
    """
    learn = vars(cls).get("learn")
    if not inspect.isfunction(learn):
        return
    parameters = inspect.signature(learn).parameters
    if any(it.kind is it.VAR_KEYWORD for it in parameters.values()):
        return
    missing = [name for name in OPTIONS if name not in parameters]
    if missing:
        raise ArgumentError(
            f"{cls.__name__}.learn does not take {', '.join(missing)}, which it is called with:"
            f" write learn(self, task, *, {', '.join(OPTIONS)}), or learn(self, task, **options)"
            " and super().learn(task, **options)"
        )


def _not_reached(strategy: Any, name: str) -> ArgumentError:
    return ArgumentError(
        f"{type(strategy).__name__}.{name} has not reached Strategy.{name}, which asks what is"
        f" inside: it must call super().{name}(task), and so must what that comes to"
    )
