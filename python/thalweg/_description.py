"""Frozen dataclasses that are cheap to define: the form of layers, losses and schedules.

`dataclasses.dataclass` generates and compiles methods for each class it defines, which takes some
ten times as long as the class itself. There are about sixty such classes here, all defined by
``import thalweg``. So they inherit their methods. In all other respects they are dataclasses: for
`dataclasses.fields`, for type checkers and for `match`, and for `replace`, except those with their
own ``__init__``, for instance `nn.Residual`.
"""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from thalweg import _habits
from thalweg.errors import ArgumentError

_Kind = TypeVar("_Kind", bound="Description")


class _SignatureOfFields:
    """Tells `inspect.signature`, and thus `help`, what a class takes: its fields."""

    def __get__(self, instance: object, owner: type["Description"]) -> inspect.Signature:
        if owner.__init__ is not Description.__init__:
            raise AttributeError("__signature__")  # the class defines its own
        fields = _fields(owner)
        # Where a module postpones its annotations, choices would be hidden behind a name.
        postponed = str in [type(field.type) for field in fields]
        hints = typing.get_type_hints(owner) if postponed else {}
        given, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(
                field.name,
                named if field.kw_only else given,
                default=inspect.Parameter.empty
                if field.default is dataclasses.MISSING
                else field.default,
                annotation=hints.get(field.name, field.type),
            )
            for field in fields
        ]
        # A base's fields come first, but keyword-only ones must be last.
        return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))


class Description(_habits.Extended):
    """Base of the classes made by `description`; equality and hash follow from their fields."""

    __slots__ = ()
    #: Where an object goes, if other libraries construct it from a model or an optimizer.
    _goes_to: ClassVar[str] = ""
    #: What other libraries' arguments of this kind are here, beside those of all kinds.
    _arguments_elsewhere: ClassVar[Mapping[str, str]] = {}
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    __signature__: ClassVar[Any] = _SignatureOfFields()

    if not TYPE_CHECKING:  # type checkers write it themselves, from the fields

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if self._goes_to and args and _habits.is_part(args[0]):
                raise ArgumentError(
                    f"{type(self).__name__} takes no {type(args[0]).__name__}: make it without, "
                    f"and pass it to {self._goes_to}"
                )
            try:
                bound = inspect.signature(type(self)).bind(*args, **kwargs)
            except TypeError as error:
                known = tuple(inspect.signature(type(self)).parameters)
                elsewhere = {**_habits.OF_LAYERS, **self._arguments_elsewhere}
                _habits.refuse_unknown(type(self).__name__, known, kwargs, elsewhere)
                parameters = inspect.signature(type(self)).parameters.values()
                _habits.refuse_unnamed(type(self).__name__, parameters, args)
                takes = ", ".join(known) or "no arguments"
                raise TypeError(f"{type(self).__name__}: {error}; it takes {takes}") from None
            bound.apply_defaults()
            self._set(**bound.arguments)
            self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields, and convert each to its type."""

    def _set(self, **values: Any) -> None:
        """Set fields during construction."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(
            f"cannot assign to field {name!r}; make another {type(self).__name__}, for instance "
            "with dataclasses.replace"
        )

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in _fields(type(self)))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        values = zip(_fields(type(self)), self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{f.name}={v!r}' for f, v in values)})"

    def __getstate__(self) -> list[Any]:
        return list(self._values())

    def __setstate__(self, state: list[Any]) -> None:
        self._set(**{f.name: v for f, v in zip(_fields(type(self)), state, strict=True)})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def description(kind: type[_Kind]) -> type[_Kind]:
    """Make a class, whose annotations are its fields, a frozen dataclass with slots."""
    return dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(kind)


def _fields(kind: type[Description]) -> tuple[dataclasses.Field[Any], ...]:
    # A base, such as `nn.Layer`, need not be a dataclass itself.
    return dataclasses.fields(kind) if hasattr(kind, "__dataclass_fields__") else ()
