"""What layers have in common: light frozen descriptions. These say what; the core computes.

A layer holds no numbers: `Sequential` owns them all in one flat array. One description may
therefore be used several times; each use gets parameters of its own.
"""

from dataclasses import astuple
from typing import Any, ClassVar

from thalweg import _checks
from thalweg.errors import ArgumentError


class Layer:
    """Base of all layer descriptions."""

    __slots__ = ()

    def _spec(self) -> tuple[Any, ...]:
        """Describe this layer to the core."""
        raise NotImplementedError


class Activation(Layer):
    """Base of the element-wise layers: their fields are numbers, in the core's order."""

    __slots__ = ()
    _kind: ClassVar[str]

    def _spec(self) -> tuple[Any, ...]:
        return (self._kind, *astuple(self))  # type: ignore[call-overload]

    def _check(self, name: str, *interval: Any) -> None:
        """Make a field a float of an interval, or raise."""
        value = _checks.real(f"{type(self).__name__}: {name}", getattr(self, name), *interval)
        object.__setattr__(self, name, value)  # the dataclass is frozen


def check_layer(owner: str, index: int, layer: Any) -> None:
    """Raise if `layer` is not a layer, with the likely slip named."""
    if isinstance(layer, Layer):
        return
    if isinstance(layer, type) and issubclass(layer, Layer):
        advice = f"it is the class {layer.__name__}; make a layer of it: {layer.__name__}(...)"
    elif isinstance(layer, (list, tuple)):
        advice = f"it is a list; unpack it: {owner.rstrip(': ') or 'Sequential'}(*layers)"
    else:
        advice = f"got {layer!r}{_checks.kind_meant(layer, Layer, 'nn')}"
    raise ArgumentError(f"{owner}layer {index} is not one of thalweg.nn's layers: {advice}")
