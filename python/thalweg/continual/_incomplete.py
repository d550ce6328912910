"""Errors for incomplete calls, which say what is missing and how the call may be written."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from thalweg._habits import argument_names, takes

_F = TypeVar("_F", bound=Callable[..., Any])

_JUDGED_BY = "the samples for evaluation (x and y again, if none are held out)"
#: What required arguments are, and how they may be written.
_NEEDED = {
    "inner": ("the trainer or strategy that does the training", "trainer"),
    "strength": ("the weight of its penalty relative to the loss", "strength=1.0"),
    "buffer": ("the number of samples to keep, or a buffer", "buffer=200"),
    "per_task": ("the number of samples to keep of each task", "per_task=20"),
    "scenario": ("the tasks, such as continual.split(x, y, x_test, y_test)", "scenario"),
    "strategy": ("the strategy or trainer that learns", "strategy"),
    "x_test": (_JUDGED_BY, "x_test"),
    "y_test": (_JUDGED_BY, "y_test"),
    "task": ("a Task(x, y, x_test, y_test)", "task"),
    "tasks": ("the arrays of each task", "[(x, y, x_test, y_test), ...]"),
}


def called(
    what: str, elsewhere: Mapping[str, str], first: Callable[[Any], None] | None = None
) -> Callable[[_F], _F]:
    """Let a function say what is wrong with a call, and what is missing, before Python does.

    For a method, `first` checks the first argument before the others are counted: if there are too
    many, that may be because it is the wrong kind of thing.
    """

    def decorate(function: _F) -> _F:
        parameters = inspect.signature(function).parameters
        placed = [it for it in parameters.values() if it.kind is it.POSITIONAL_OR_KEYWORD]
        named = [it.name for it in placed]
        needed = [it.name for it in placed if it.default is it.empty and it.name != "self"]
        guided = takes(what, elsewhere)(function)

        @functools.wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
            if first is not None and len(args) > 1:
                first(args[1])
            if len(args) > len(named) == len(parameters):
                names = ", ".join(argument_names(function))
                count = len(args) - ("self" in named)
                raise TypeError(f"{what} takes only {names}; got {count} arguments")
            given = {*named[: len(args)], *kwargs}
            missing = [name for name in needed if name not in given]
            if missing and kwargs.keys() <= parameters.keys():
                said = dict.fromkeys(_NEEDED[name][0] for name in missing if name in _NEEDED)
                why = f", {' and '.join(said)}" if said else ""
                example = ", ".join(_NEEDED.get(name, (name, name))[1] for name in needed)
                raise TypeError(
                    f"{what} needs {' and '.join(missing)}{why}: write {what}({example})"
                )
            return guided(*args, **kwargs)

        return cast("_F", told)

    return decorate
