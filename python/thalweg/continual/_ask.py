"""Calls to strategies, which may be user-defined: errors name the class and what it left out.

Each strategy calls the one inside it; `run` and `Strategy.fit` call the outermost one.
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
        If the call did not reach the strategies inside it.
    """
    strategy.begin(task)
    if not strategy._begun:
        raise _not_reached(strategy, "begin")


def learn(strategy: Any, task: Any, **options: Any) -> History:
    """Let a strategy take steps, and return their figures as a history of one entry.

    Raises
    ------
    ArgumentError
        If the strategy returns anything that is not such figures.
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
    """Let a strategy record what must not be forgotten of a task.

    Raises
    ------
    ArgumentError
        If the call did not reach the strategies inside it.
    """
    strategy.end(task)
    if strategy._begun:
        raise _not_reached(strategy, "end")


def check_learn(cls: type[Any]) -> None:
    """Refuse a class whose `learn` does not take the arguments it is called with.

    Raises
    ------
    ArgumentError
        If an argument is missing from its signature.
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
