"""Arguments that are fixed when an object is made."""

import inspect
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from thalweg._habits import is_ours
from thalweg.errors import ArgumentError


class Fixed:
    """Base of classes whose arguments can be read later, but not set, which might have no effect.

    The constructor keeps each under its own name. One that may be set is a property that checks it.
    A user's subclass may set any, but define nothing of such a name: the argument would hide it.
    """

    #: The names of the arguments, of a user's subclass those of the base that is thalweg's.
    _fixed: frozenset[str] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        """Look for the arguments, and for what they would hide."""
        super().__init_subclass__(**options)
        if is_ours(cls):
            cls._fixed = frozenset(inspect.signature(cls).parameters)
            return
        refuse_hidden(cls, cls._fixed)

    if not TYPE_CHECKING:  # type checkers would let any attribute be set

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse to set an argument again."""
            kind, kept = type(self), vars(self).get(name, value)
            if kept is not value and name in kind._fixed and is_ours(kind):
                raise AttributeError(
                    f"{kind.__name__}.{name} cannot be set: make another one, "
                    f"{kind.__name__}(..., {name}=...)",
                    name=name,
                    obj=self,
                )
            super().__setattr__(name, value)


def refuse_hidden(kind: type, arguments: Iterable[str]) -> None:
    """Raise if a user's class has something else under the name of an argument of its base.

    Raises
    ------
    ArgumentError
        Unless it can be set.
    """
    users = list(itertools.takewhile(lambda base: not is_ours(base), kind.__mro__))
    for name in arguments:
        there = next((vars(base)[name] for base in users if name in vars(base)), None)
        can_be_set = (
            there.fset is not None if isinstance(there, property) else hasattr(there, "__set__")
        )
        if there is not None and not can_be_set:
            raise ArgumentError(
                f"{kind.__name__}.{name} needs another name: the argument {name} is kept under "
                f"this one; for another default, call super().__init__({name}=...)"
            )
