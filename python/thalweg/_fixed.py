"""Arguments that are fixed when an object is made."""

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


class Fixed:
    """Base of classes whose arguments can be read later, but not set, which might have no effect.

    The constructor keeps each under its own name. One that may be set is a property that checks it.
    A user's subclass may set any but properties: it may have attributes of these names. Its own
    property of such a name is what is read then, instead of the argument. Its own method stays,
    too, where the constructor has kept the argument under a private name before, to be read there.
    """

    #: What arguments were made with that a user's subclass has set since, or has a property for.
    _made_with: Mapping[str, Any] = {}

    if not TYPE_CHECKING:  # type checkers would let any attribute be set

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse to set an argument again."""
            kind = type(self)
            if name.startswith("_") or name not in arguments(kind):
                super().__setattr__(name, value)
                return
            kept, there = vars(self), getattr(kind, name, None)
            fixed = False
            if isinstance(there, property | functools.cached_property):
                fixed = getattr(there, "fset", None) is None
                if fixed and name not in self._made_with and not _is_ours(_owner(kind, name)):
                    # Our constructor sets it.
                    self._made_with = {**self._made_with, name: value}
                    return
            elif callable(there) and kept.get(f"_{name}", kept) is value:
                return
            elif name in kept and kept[name] is not value:
                fixed = _is_ours(kind)
            if fixed:
                raise AttributeError(
                    f"{kind.__name__}.{name} cannot be set: make another one, "
                    f"{kind.__name__}(..., {name}=...)",
                    name=name,
                    obj=self,
                )
            if name in kept:
                self._made_with = {name: kept[name], **self._made_with}
            super().__setattr__(name, value)


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("thalweg.")


def _owner(kind: type, name: str) -> type:
    """Return the class that an attribute of a class is from."""
    return next(it for it in kind.__mro__ if name in vars(it))


@functools.cache
def arguments(kind: type) -> frozenset[str]:
    """Return the names of the arguments of a class, or of its nearest base that is thalweg's."""
    ours = next(it for it in kind.__mro__ if _is_ours(it))
    return frozenset(inspect.signature(ours).parameters)
