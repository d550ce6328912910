"""Arguments that are fixed when an object is made."""

import functools
import inspect
from typing import TYPE_CHECKING, Any


class Fixed:
    """Base of classes whose arguments can be read later, but not set, which might have no effect.

    The constructor keeps each under its own name. One that may be set is a property that checks it.
    A user's subclass may set any but properties: it may have attributes of these names.
    """

    if not TYPE_CHECKING:  # type checkers would let any attribute be set

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse to set an argument again."""
            if not name.startswith("_"):
                kind, kept = type(self), vars(self)
                there = getattr(kind, name, None)
                if isinstance(there, property):
                    fixed = there.fset is None
                else:
                    again = name in kept and kept[name] is not value
                    fixed = again and kind.__module__.startswith("thalweg.")
                if fixed and name in _arguments(kind):
                    raise AttributeError(
                        f"{kind.__name__}.{name} cannot be set: make another one, "
                        f"{kind.__name__}(..., {name}=...)",
                        name=name,
                        obj=self,
                    )
            super().__setattr__(name, value)


@functools.cache
def _arguments(kind: type) -> frozenset[str]:
    """Return the names of the arguments of a class, or of its nearest base that is thalweg's."""
    ours = next(it for it in kind.__mro__ if it.__module__.startswith("thalweg."))
    return frozenset(inspect.signature(ours).parameters)
