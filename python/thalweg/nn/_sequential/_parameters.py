"""The numbers of a model: all in one array, or each by its name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg import _arrays, _habits
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import _names
from thalweg.nn._sequential._base import SequentialBase


class Parameters(SequentialBase):
    """The part of a model that holds its numbers."""

    @property
    def flat_parameters(self) -> Array:
        """All parameters, shape (num_parameters,), in the order of `state_dict`: a copy.

        Assigning sets them, so ``model.flat_parameters -= 0.1 * model.flat_gradients`` is a step of
        gradient descent. Values must be finite, else nothing is set.
        """
        return self._core.parameters()

    @flat_parameters.setter
    def flat_parameters(self, values: Any) -> None:
        self._core.set_parameters(
            _arrays.flat(values, self._dtype, self.num_parameters, "flat_parameters")
        )

    @property
    def flat_gradients(self) -> Array:
        """Gradients of all parameters, in the same order: a copy.

        They are those of `backward`: a step of `thalweg.Trainer` uses its own up and never writes
        them here. Assigning sets them, e.g. to clip them between `backward` and an optimizer's
        `step`.
        """
        return self._core.gradients()

    @flat_gradients.setter
    def flat_gradients(self, values: Any) -> None:
        self._core.set_gradients(
            _arrays.flat(values, self._dtype, self.num_parameters, "flat_gradients")
        )

    def state_dict(self) -> dict[str, Array]:
        """Give the parameters, and the running averages of normalizations, by name.

        Returns
        -------
        dict of str to ndarray
            Copies; ``"0.weight"`` has shape (out_features, in_features) and ``"0.bias"``
            (out_features,), where 0 is the layer's position. A `BatchNorm1d` has ``"1.weight"``,
            ``"1.bias"``, ``"1.running_mean"`` and ``"1.running_var"``, all (num_features,). Layer 0
            of a `Residual` at position 2 has ``"2.0.weight"``.
        """
        parameters = _names.cut(self._blocks(), self._core.parameters())
        averages = _names.cut(self._core.average_blocks(), self._core.averages())
        # In the order of the layers, a layer's parameters before its averages.
        names = sorted(
            [*parameters, *averages], key=lambda name: [int(i) for i in name.split(".")[:-1]]
        )
        return {name: (parameters | averages)[name] for name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Set everything by name; the names and shapes must be exactly those of `state_dict`.

        Only ``num_batches_tracked``, which PyTorch lists too, is passed over: nothing needs it.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Values are converted to the model's dtype.

        Raises
        ------
        ArgumentError
            If names are missing or unexpected; all of them are listed.
        ShapeError, DataError, DtypeError
            If an array has another shape, or is not of finite real numbers. After any error the
            model is unchanged.
        """
        if not isinstance(state_dict, Mapping):
            raise ArgumentError(
                f"state_dict must have an array for each name; got {_habits.named(state_dict)}"
            )
        blocks = self._blocks()
        average_blocks = self._core.average_blocks()
        names = [name for name, _ in blocks + average_blocks]
        missing = [name for name in names if name not in state_dict]
        unexpected = [
            name
            for name in state_dict
            if name not in names and not str(name).endswith(".num_batches_tracked")
        ]
        if missing or unexpected:
            raise ArgumentError(
                "state_dict does not belong to this model: "
                f"missing {missing or 'none'}, unexpected {unexpected or 'none'}"
            )
        # All is checked before anything is set; a negative variance is found by the core.
        parameters = self._flat(blocks, state_dict)
        self._core.set_averages(self._flat(average_blocks, state_dict))
        self._core.set_parameters(parameters)

    def _flat(self, blocks: list[tuple[str, tuple[int, ...]]], values: Mapping[str, Any]) -> Array:
        """Put named arrays into one, checked and converted."""
        parts = [np.empty(0, self._dtype)]
        for name, shape in blocks:
            array = _arrays.as_numeric(values[name], name)
            if array.shape != shape:
                raise ShapeError(f"{name} has shape {array.shape}; this model's is {shape}")
            parts.append(_arrays.finite(_arrays.as_dtype(array, self._dtype, name), name).ravel())
        return np.concatenate(parts)
