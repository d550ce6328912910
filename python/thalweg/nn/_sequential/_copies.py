"""Models made from a model: of some of its layers, without normalizations, in another dtype."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from thalweg import _arrays
from thalweg._arrays import Array
from thalweg.errors import ArgumentError
from thalweg.nn import _layers
from thalweg.nn._layers import Layer
from thalweg.nn._sequential._base import Dtype, dtype_name, plain
from thalweg.nn._sequential._parameters import Parameters

if TYPE_CHECKING:
    from thalweg.nn._sequential import Sequential
else:  # what typing.get_type_hints finds
    Sequential = Any


class Copied(Parameters):
    """The part of a model that makes other models."""

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> "Layer | Sequential":
        """Return the description of a layer, or for a slice a model of these layers.

        That model is a copy with the same numbers, including running averages and the like, the
        same dtype, and gradients of zero: ``model[:2](x)`` is the output of the first two layers.

        Raises
        ------
        ArgumentError, ShapeError
            If these layers do not make a model: there are none, none of them is a `Linear`, or,
            with a step, they do not fit each other.
        """
        if not isinstance(index, slice):
            return self.layers[index]
        places = range(len(self))[index]
        if not places:
            raise ArgumentError(f"there are no layers in this slice; the model has {len(self)}")
        if not _has_linear([self._layers[place] for place in places]):
            here = [k for k, layer in enumerate(self._layers) if _has_linear([layer])]
            nearest = min(here, key=lambda k: min(abs(k - place) for place in places))
            raise ArgumentError(
                f"layers {list(places)} make no model, since none of them is a Linear: take the "
                f"nearest one with them, layer {nearest}, or compute what they do with NumPy"
            )
        part = plain([self.layers[place] for place in places], self._dtype, self._seed)
        state = self.state_dict()
        part.load_state_dict(
            {
                f"{new}.{name}": state[f"{old}.{name}"]
                for new, old in enumerate(places)
                for name in _names(state, f"{old}.")
            }
        )
        part._core.set_passes(self._core.passes())
        return part

    def fold(self) -> "Sequential":
        r"""Copy this model for inference, with normalizations folded into adjacent weights.

        In evaluation, a `BatchNorm1d` is an affine map with slope
        :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}`, where :math:`\mu` and :math:`\sigma^2` are
        the running averages. Directly after a `Linear`, the two together are a `Linear` with

        .. math::

            W' = \operatorname{diag}(s)\,W, \quad b' = s\,(b - \mu) + \beta

        (Jacob et al. 2018, arXiv:1712.05877, section 3.2; PyTorch's ``fuse_linear_bn_eval``).
        Directly before one, for instance where it standardizes the inputs, they are one with

        .. math::

            W' = W \operatorname{diag}(s), \quad b' = b + W (\beta - s\,\mu).

        Returns
        -------
        Sequential
            A model without those normalizations, so later layers have smaller numbers; its output
            equals that of calling this model, up to rounding. Everything else is the same.
            Normalizations in blocks, such as `Residual`, are folded, too.

        Raises
        ------
        DataError
            If a folded weight is too large for the model's dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        >>> folded, x = model.fold(), np.ones((3, 2))
        >>> [type(layer).__name__ for layer in folded.layers]
        ['Linear', 'ReLU', 'Linear']
        >>> np.allclose(folded(x), model(x), atol=1e-6)
        True
        """
        state: dict[str, Array] = {}
        layers = _folded(self._layers, "", "", self.state_dict(), state)
        copy = plain(layers, self._dtype, self._seed)
        copy.load_state_dict(state)
        copy._core.set_passes(self._core.passes())
        return copy

    def astype(self, dtype: Dtype) -> "Sequential":
        """Copy this model into another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}

        Returns
        -------
        Sequential
            With the parameters rounded to `dtype` and gradients of zero.

        Raises
        ------
        ArgumentError
            If the dtype is unknown, or edges of a `TabularInput` do not ascend in it.
        DataError
            If a parameter is too large for float32.
        """
        copy = plain(self._layers, dtype_name(dtype), self._seed)
        copy.flat_parameters = self.flat_parameters
        copy._core.set_passes(self._core.passes())
        copy._core.set_averages(
            _arrays.finite(
                _arrays.as_dtype(self._core.averages(), copy._dtype, "averages"), "averages"
            )
        )
        return copy

    def _with_parameters(self, flat: Array) -> "Sequential":
        """Copy with other parameters."""
        twin = plain(self._layers, self._dtype, self._seed)
        twin.flat_parameters = flat
        twin._core.set_averages(self._core.averages())
        return twin


def _folded(
    layers: tuple[Layer, ...], old: str, new: str, state: dict[str, Array], into: dict[str, Array]
) -> list[Layer]:
    """Fold the normalizations of `state`, numbered from `old`, into `into`, numbered from `new`."""
    made: list[Layer] = []
    for index, layer in enumerate(layers):
        here, before = f"{old}{index}.", layers[index - 1] if index else None
        own = {name: state[here + name] for name in _names(state, here)}
        if isinstance(layer, _layers.BatchNorm1d) and isinstance(before, _layers.Linear):
            scale, shift = _layers.scale_and_shift(layer, own)
            place = f"{new}{len(made) - 1}."
            bias = into.get(place + "bias", np.zeros(1))
            into[place + "weight"] = scale[:, None] * into[place + "weight"]
            into[place + "bias"] = scale * bias + shift
            made[-1] = dataclasses.replace(before, bias=True)
            continue
        linear = isinstance(layer, _layers.Linear)
        while linear and made and isinstance(norm := made[-1], _layers.BatchNorm1d):
            made.pop()
            place = f"{new}{len(made)}."
            scale, shift = _layers.scale_and_shift(
                norm, {n: into.pop(place + n) for n in _names(into, place)}
            )
            own["bias"] = own.get("bias", 0.0) + own["weight"] @ shift
            own["weight"] = own["weight"] * scale
            layer = dataclasses.replace(layer, bias=True)
        place = f"{new}{len(made)}."
        if isinstance(layer, _layers.Block):
            layer = _layers.kind_of(layer)(*_folded(layer.layers, here, place, state, into))
        else:
            into.update({place + name: values for name, values in own.items()})
        made.append(layer)
    return made


def _has_linear(layers: Iterable[Layer]) -> bool:
    """Whether there is a `Linear` among layers, also within a block."""
    return any(
        isinstance(layer, _layers.Linear)
        or (isinstance(layer, _layers.Block) and _has_linear(layer.layers))
        for layer in layers
    )


def _names(state: dict[str, Array], place: str) -> list[str]:
    """Return the names of the entries of a state that belong to the layer at `place`."""
    return [name.removeprefix(place) for name in state if name.startswith(place)]
