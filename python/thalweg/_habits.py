"""Names of other libraries, and where here is what they stand for.

Python would only say that there is no such name. And it would let it be assigned to, so that a
``trainer.lr = 0.1`` would do nothing, without a word.
"""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar


class Guided:
    """Base of classes that tell what a wrong name may have meant, and let none be assigned to."""

    __slots__ = ()

    #: What belongs to a name of another library's.
    _elsewhere: ClassVar[Mapping[str, str]] = {}

    def _advice(self, name: str) -> str:
        """Say what a wrong name may have meant, or nothing."""
        there = (known for known in dir(type(self)) if not known.startswith("_"))
        return advice(name, self._elsewhere, there)

    if not TYPE_CHECKING:  # type checkers would take every name for one that is there

        def __getattr__(self, name: str) -> Any:
            """Say where it is."""
            what = type(self).__name__
            # Protocols of Python's look for names of theirs: they need no advice.
            more = "" if name.startswith("_") else self._advice(name)
            raise AttributeError(f"{what} has no attribute {name!r}{more}", name=name, obj=self)

        def __setattr__(self, name: str, value: Any) -> None:
            """Set what there is, and let a class of the user's own have what it likes."""
            known = name.startswith("_") or hasattr(type(self), name)
            if known or not type(self).__module__.startswith("thalweg."):
                return object.__setattr__(self, name, value)
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r} that could be set"
                f"{self._advice(name)}",
                name=name,
                obj=self,
            )


def of_module(
    module: types.ModuleType, elsewhere: Mapping[str, str], more: Iterable[str] = ()
) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module, which tells what a wrong name may have meant."""

    def missing(name: str) -> Any:
        public = (known for known in (*vars(module), *more) if not known.startswith("_"))
        text = "" if name.startswith("_") else advice(name, elsewhere, public)
        raise AttributeError(
            f"module {module.__name__!r} has no attribute {name!r}{text}", name=name, obj=module
        )

    return missing


def advice(name: str, elsewhere: Mapping[str, str], there: Iterable[str]) -> str:
    """``'; did you mean ReLU?'``, or what is said of `name` in `elsewhere`, or nothing."""
    if name in elsewhere:
        return f": {elsewhere[name]}"
    import difflib  # only needed once something is wrong already

    plain = {known.replace("_", "").lower(): known for known in there}
    close = difflib.get_close_matches(name.replace("_", "").lower(), list(plain), n=1, cutoff=0.75)
    return f"; did you mean {plain[close[0]]}?" if close else ""
