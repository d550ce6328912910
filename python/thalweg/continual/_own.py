"""Strategies of one's own: what they must not forget is said, with the name of their class."""

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from thalweg._history import History
from thalweg.errors import ArgumentError

#: What `Strategy.learn` is called with, besides the task.
OPTIONS = ("steps", "start", "batch_size", "shuffle", "drop_last")


def watch(cls: type[Any]) -> None:
    """Let a class say so where its `begin` or `end` is not the inner one's, too, or `learn` fails.

    Raises
    ------
    ArgumentError
        If its `learn` does not take what it will be called with.
    """
    for name in ("begin", "end"):
        if inspect.isfunction(vars(cls).get(name)):
            setattr(cls, name, _reaching(cls, name, vars(cls)[name]))
    if inspect.isfunction(learn := vars(cls).get("learn")):
        _check_options(cls, learn)
        cls.learn = _giving(cls, learn)


def _reaching(cls: type[Any], name: str, method: Any) -> Any:
    """Make the method that says so if it has not called that of its base."""

    @functools.wraps(method)
    def reaching(self: Any, task: Any) -> None:
        self._reached = None
        method(self, task)
        if self._reached != name:
            raise ArgumentError(
                f"{cls.__name__}.{name} did not call super().{name}(task), without which what is"
                f" inside of it has not heard of the {'beginning' if name == 'begin' else 'end'} of"
                f" task {task.index}"
            )

    return reaching


def _check_options(cls: type[Any], learn: Any) -> None:
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


def _giving(cls: type[Any], learn: Any) -> Any:
    """Make the method that gives the figures of the steps as a history of one entry."""

    @functools.wraps(learn)
    def giving(self: Any, task: Any, **options: Any) -> History:
        return _history(cls, learn(self, task, **options))

    return giving


def _history(cls: type[Any], given: Any) -> History:
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
            f'{cls.__name__}.learn must give figures of its steps, as {{"loss": 0.5}}, or what'
            f" super().learn(task, ...) gives; got {given!r}"
        ) from None
