"""Base of the layers: light frozen descriptions of what the core computes.

A layer holds no numbers: `Sequential` owns them all in one flat array. One description may
therefore be used several times; each use has its own parameters.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, ClassVar, Self

from thalweg import _checks, _habits
from thalweg._description import Description
from thalweg.errors import ArgumentError, UnsupportedError

#: What to do instead of writing a layer.
OWN = (
    "layers are computed in the core, which knows only those of thalweg.nn; call a custom "
    "function between two models, in a hand-written loop with model.forward and model.backward"
)

#: Attributes of other libraries' layers; a description has none of them.
_ELSEWHERE = {
    **dict.fromkeys(
        ("weight", "weights", "kernel", "gamma", "beta", "get_weights", "parameters", "state_dict"),
        'a layer holds no numbers; a model does: model.state_dict()["0.weight"] for layer 0',
    ),
    **dict.fromkeys(
        ("grad", "requires_grad", "trainable"),
        "gradients belong to a model, model.flat_gradients; optimizer.add_group(pattern, "
        "frozen=True) freezes parameters",
    ),
    **dict.fromkeys(
        ("forward", "call", "backward", "output"),
        "layers are computed by models; nn.Sequential(*model.layers[:2]) has the first "
        "two layers of one, with new weights",
    ),
}


class Layer(Description):
    """Base of all layer descriptions."""

    __slots__ = ()
    _uncalled: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("forward", "__call__", "call", "backward"), OWN
    )

    if not TYPE_CHECKING:  # type checkers would take every name for one that is there

        def __getattr__(self, name: str) -> Any:
            """Say where to find it."""
            # Layers are often asked for what only some have, so do not search for similar names.
            more = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            kind = type(self).__name__
            raise AttributeError(f"{kind} has no attribute {name!r}{more}", name=name, obj=self)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Say what computes a layer."""
            raise TypeError(
                f"{self!r} is a description, and is computed as a layer of a model: "
                "nn.Sequential(nn.Linear(...), ...)(x)"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it is immutable, and models are copied often

    def _check(self, name: str, *limits: Any, by: Callable[..., Any] = _checks.real) -> None:
        """Convert a field to its type, by default to a float within an interval, or raise."""
        value = by(f"{type(self).__name__}: {name}", getattr(self, name), *limits)
        self._set(**{name: value})

    def _spec(self) -> tuple[Any, ...]:
        """Describe this layer to the core."""
        raise UnsupportedError(f"{self!r} is a custom layer: {OWN}")


class Activation(Layer):
    """Base of the element-wise layers; their fields are numbers, in the core's order."""

    __slots__ = ()
    _kind: ClassVar[str]

    def _spec(self) -> tuple[Any, ...]:
        return (self._kind, *astuple(self))


def kind_of(layer: Layer) -> type[Layer]:
    """Return the thalweg class that defines how a layer is computed.

    The user may have derived a class from it.
    """
    return _habits.our_kind(type(layer))


def check_layer(owner: str, index: int, layer: Any) -> None:
    """Raise if `layer` is not a layer, and name the likely mistake."""
    if isinstance(layer, Layer):
        return
    whole = owner.rstrip(": ") or "Sequential"
    raise ArgumentError(
        f"{owner}layer {index} is not one of thalweg.nn's layers: {_slip(layer, whole)}"
    )


def _slip(layer: Any, whole: str) -> str:
    """Say what `layer` is instead of a layer of `whole`, and what to write."""
    if isinstance(layer, type) and issubclass(layer, Layer):
        return f"it is the class {layer.__name__}; make a layer of it: {layer.__name__}(...)"
    if isinstance(layer, (list, tuple)):
        return f"it is a list; unpack it: {whole}(*layers)"
    if isinstance(layer, dict):
        return (
            "it is a dict, but layers are identified by position only; unpack it: "
            f"{whole}(*layers.values())"
        )
    if isinstance(layer, Iterator):
        return f"it is a {type(layer).__name__}; unpack it: {whole}(*layers)"
    if isinstance(getattr(layer, "layers", None), (list, tuple)):
        return f"it is a model; use its layers, {whole}(..., *model.layers), which get new weights"
    if (home := type(layer).__module__).partition(".")[0] in ("torch", "keras", "flax"):
        more = ", or tw.torch.from_torch(module)" if home.startswith("torch") else ""
        return f"it is {home}.{type(layer).__name__}; use that of thalweg.nn{more}"
    meant = _habits.kind_meant(layer, Layer, "nn")
    kind = layer if isinstance(layer, type) else type(layer)
    if not meant and callable(layer) and not _habits.is_ours(kind):
        meant = f": {OWN}"
    return f"got {layer!r}{meant}"
