"""Calls to strategies, which may be user-defined: errors name the class and what it left out.

Each strategy calls the one inside it; `run` and `Strategy.fit` call the outermost one.
"""

import functools
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from thalweg._habits import is_ours
from thalweg._history import History
from thalweg.continual import _passes, _undo
from thalweg.continual._state import note_arrays
from thalweg.continual._task import Task
from thalweg.errors import ArgumentError

#: What `Strategy.learn` is called with, besides the task.
OPTIONS = ("steps", "start", "batch_size", "shuffle", "drop_last")
#: What takes part in every step, of what `Strategy._does` may list: see `_compatibility`.
#: Others act when a task begins or ends, or through the trainer: penalties, gates.
_IN_STEPS = {"rows", "own rows", "place", "projection", "loss", "renew"}


def links(strategy: Any) -> list[Any]:
    """Return a strategy and those inside it, the outermost first."""
    found = []
    while strategy is not None:
        found.append(strategy)
        strategy = strategy.inner
    return found


def inside(strategy: Any) -> list[Any]:
    """Return the strategies inside one, the outermost first."""
    return links(strategy.inner)


def begin(strategy: Any, task: Any) -> None:
    """Let a strategy get ready for a task.

    Raises
    ------
    ArgumentError
        If the call did not reach the strategies inside it.
    """
    note_arrays(strategy)  # before a user's own `begin` changes any
    strategy.begin(task)
    if strategy._begun is None:
        raise _not_reached(strategy, "begin")


def learn(strategy: Any, task: Any, **options: Any) -> History:
    """Let a strategy take steps, and return their figures as a history of one entry.

    Raises
    ------
    ArgumentError
        If the strategy returns anything that is not such figures, or leaves out one inside that
        takes part in every step.
    """
    links = inside(strategy)
    for link in links:
        link._asked = False
    began = time.perf_counter()
    with _undo.saying_after_which_step(strategy.trainer):
        given = strategy.learn(task, **options)
    seconds = time.perf_counter() - began
    if not any(link._asked for link in links):
        _check_left_out(strategy, links)
    try:
        if not isinstance(given, Mapping):
            raise TypeError
        history = given if isinstance(given, History) else _history(given)
        if "seconds" not in history and not _passes.were_skipped(history):
            history["seconds"] = [seconds]
        return history
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{type(strategy).__name__}.learn must return the figures of its steps, such as"
            f' {{"loss": 0.5}}, or what super().learn(task, ...) returns; got {given!r}'
        ) from None


def learned(links: Iterable[Any], task: Any) -> Any:
    """Return the task whose rows strategies learn, the outermost first, of a task given to them.

    Raises
    ------
    ArgumentError
        If one of them, which may be user-defined, returns anything else.
    """
    for link in links:
        given = link.task_to_learn(task)
        if not isinstance(given, Task) or given.index != task.index:
            raise ArgumentError(
                f"{type(link).__name__}.task_to_learn must return a task with the same index, such"
                f" as task.with_data(x, y); for {task!r}, got {given!r}"
            )
        task = given
    return task


def _history(figures: Mapping[Any, Any]) -> History:
    return History(
        {
            str(key): [float(it) for it in (value if isinstance(value, Iterable) else [value])]
            for key, value in figures.items()
        }
    )


def _check_left_out(strategy: Any, links: list[Any]) -> None:
    """Refuse steps that did not reach a strategy inside that takes part in every step."""
    needed = {*_IN_STEPS}
    if not strategy._by_step:  # else they were asked for the rows of the steps
        needed.add("choice")
    for link in links:
        kind = type(link)  # of whose methods one may be of a base of ours, and another a user's
        if needed & {*link._does} or overrides(kind, "learn") or overrides(kind, "step"):
            name, how = type(strategy).__name__, "step" if strategy._by_step else "learn"
            raise ArgumentError(
                f"{name}.{how} takes its steps without {type(link).__name__} inside it, which"
                " therefore has no effect: let it call super().learn(task, **options) or"
                f" super().step(x, y), which reach the strategies inside, or use {name} directly"
                " around a Trainer"
            )


def overrides(cls: type[Any], *names: str) -> str | None:
    """Return which method a user's class overrides, the first one found from it to its bases."""
    for kind in cls.__mro__:
        for name in names:
            if name in vars(kind):
                return None if is_ours(kind) else name
    return None


def learns_by(cls: type[Any]) -> str | None:
    """Return the method of the user's by which a class learns a task; None if it is one of ours.

    Raises
    ------
    ArgumentError
        If a base of ours learns without the `step` of a user's base behind it.
    """
    name = overrides(cls, "learn", "_learn", "step")
    if name is None:
        for kind in cls.__mro__:
            if "step" in vars(kind) and not is_ours(kind):
                raise ArgumentError(
                    f"{cls.__name__} would learn without {kind.__name__}.step, since a base of"
                    f" thalweg comes first: put {kind.__name__} before it,"
                    f" class {cls.__name__}({kind.__name__}, ...)"
                )
    return name


def end(strategy: Any, task: Any) -> None:
    """Let a strategy record what must not be forgotten of a task.

    Raises
    ------
    ArgumentError
        If the call did not reach the strategies inside it.
    """
    strategy.end(task)
    if strategy._begun is not None:
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
            f"{cls.__name__}.learn does not accept {', '.join(missing)}, but is called with them:"
            f" define learn(self, task, *, {', '.join(OPTIONS)}), or learn(self, task, **options)"
            " and pass them on with super().learn(task, **options)"
        )


def _not_reached(strategy: Any, name: str) -> ArgumentError:
    return ArgumentError(
        f"{type(strategy).__name__}.{name} did not reach Strategy.{name}, which calls the"
        f" strategies inside: it must call super().{name}(task), and so must each of its bases"
    )


def noting(
    cls: type[Any],
    name: str,
    note: Callable[[Any], None],
    *,
    first: Callable[[Any], None] | None = None,
) -> None:
    """Let a method that a user's class defines note something afterwards, and perhaps first."""
    method: Any = vars(cls).get(name)
    if not inspect.isfunction(method):
        return

    @functools.wraps(method)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if first is not None:
            first(self)
        given = method(self, *args, **kwargs)
        note(self)
        return given

    setattr(cls, name, noted)


def note(strategy: Any) -> None:
    """Note that a strategy was called, for `learn`."""
    strategy._asked = True
