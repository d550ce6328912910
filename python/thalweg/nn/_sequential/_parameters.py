"""The numbers of a model: all in one array, or by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _habits
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import _names
from thalweg.nn._sequential._base import SequentialBase

#: How to set some arrays only.
_SOME = "model.load_state_dict(model.state_dict() | arrays) sets only some"
#: PyTorch's arguments of `Parameters.load_state_dict`.
_OF_LOAD = {"strict": _SOME, "assign": "leave it out: arrays are copied"}


class Parameters(SequentialBase):
    """The part of a model that holds its numbers."""

    @property
    def flat_parameters(self) -> Array:
        """A copy of all parameters, shape (num_parameters,), in the order of `state_dict`.

        What is not trained, such as running averages and the frequencies of `FourierFeatures`, is
        only in `state_dict`.

        Assigning sets them, so ``model.flat_parameters -= 0.1 * model.flat_gradients`` is a step of
        gradient descent. Values must be finite; otherwise nothing is set. Changing elements of the
        copy, as in ``model.flat_parameters[:9] = 0``, leaves the model as it is: name the copy,
        change it, and assign it back.
        """
        return self._core.parameters()

    @flat_parameters.setter
    def flat_parameters(self, values: npt.ArrayLike) -> None:
        self._core.set_parameters(
            _arrays.flat(values, self._dtype, self.num_parameters, "flat_parameters")
        )

    def follow(self, other: Parameters, tau: float = 1.0) -> None:
        """Move towards another model with the same layers: θ ← (1 − τ) θ + τ θ_other.

        Running averages of normalizations move too, and the numbers of `Standardize` and
        `FourierFeatures`. This is how a target network in reinforcement
        learning follows the learning one (Lillicrap et al. 2016, arXiv:1509.02971, section 3), in
        one pass over the numbers.

        Parameters
        ----------
        other : Sequential
            A model with parameters of the same names, shapes and dtype. It is not changed.
        tau : float, default 1.0
            From 0, which changes nothing, to 1, which copies: whatever this model held, even NaN.

        Raises
        ------
        ArgumentError
            If `other` is not a `Sequential` or differs in shapes or dtype, or `tau` is not between
            0 and 1.
        DivergedError
            If `other` holds NaN or infinity, as after a step that diverged. This model keeps its
            numbers in either case.

        Examples
        --------
        >>> from thalweg import nn
        >>> critic = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2), seed=0)
        >>> target = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2), seed=1)
        >>> target.follow(critic)                  # the same numbers
        >>> target.follow(critic, 0.005)           # after every update of the critic
        """
        if not issubclass(kind := type(other), Parameters):
            raise ArgumentError(
                f"a model can only follow another nn.Sequential; got a {kind.__name__}"
            )
        tau = _checks.real("tau", tau, 0.0, 1.0, closed="[]")
        try:
            self._core.follow(other._core, tau)
        except ArgumentError:
            raise ArgumentError(self._unlike(other)) from None

    def _unlike(self, other: Parameters) -> str:
        """Return why this model cannot follow another one."""
        if self._dtype != other._dtype:
            return (
                f"a model can only follow one of the same dtype: this one has {self._dtype}, the "
                f"other {other._dtype}; convert one of them, e.g. this one with "
                f'astype("{other._dtype}")'
            )
        mine, theirs = ([*it._blocks(), *it._core.average_blocks()] for it in (self, other))
        pair = next(pair for pair in zip_longest(mine, theirs) if pair[0] != pair[1])
        own, others = (f"{it[0]} of shape {it[1]}" if it else "no more" for it in pair)
        return (
            f"a model can only follow one with the same layers: this one has {own}, where the "
            f"other has {others}"
        )

    @property
    def flat_gradients(self) -> Array:
        """A copy of the gradients of all parameters, in the same order.

        They are those of `backward`. A step of `thalweg.Trainer` with a loss of `thalweg.nn` does
        not write its gradients here; one with a custom loss does, see `CustomLoss`. Assigning sets
        them, e.g. to clip them between `backward` and an optimizer's `step`. Changing elements of
        the copy, as in ``model.flat_gradients[mask] = 0``, does not: name the copy, change it, and
        assign it back, as the example of `unflatten` does.
        """
        return self._core.gradients()

    @flat_gradients.setter
    def flat_gradients(self, values: npt.ArrayLike) -> None:
        self._core.set_gradients(
            _arrays.flat(values, self._dtype, self.num_parameters, "flat_gradients")
        )

    def unflatten(self, values: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
        """Return the parts of a flat array by name, in the shapes of `state_dict`.

        Parameters
        ----------
        values : array_like, shape (..., num_parameters)
            Numbers in the order of `flat_parameters`: gradients, an eigenvector, marks, or several
            of these in rows.

        Returns
        -------
        dict of str to ndarray
            An array of shape ``(..., *shape)`` for each parameter. If `values` is an array, these
            are views into it: setting their elements sets those of `values`.

        Raises
        ------
        ShapeError, DtypeError
            If there is not a number for each parameter.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> model.unflatten(np.arange(model.num_parameters))["0.bias"]  # where they are
        array([6, 7])

        The gradients of a layer by itself, here set to 0:

        >>> gradients = model.flat_gradients
        >>> model.unflatten(gradients)["0.weight"][:] = 0
        >>> model.flat_gradients = gradients
        """
        array = _arrays.as_numeric(values, "values")
        if array.shape[-1:] != (self.num_parameters,):
            raise ShapeError(
                f"values must have a number for each of the {self.num_parameters} parameters of "
                f"this model along the last axis; got shape {array.shape}"
            )
        return _names.split(array, self._blocks())

    def state_dict(self) -> dict[str, Array]:
        """Return the parameters, and the running averages of normalizations, by name.

        Returns
        -------
        dict of str to ndarray
            Copies, which `load_state_dict` sets: changing one leaves the model as it is. They share
            the memory of one copy of all numbers, so keep a ``.copy()`` to keep only one of them.
            ``"0.weight"`` has shape (out_features, in_features) and ``"0.bias"``
            (out_features,), where 0 is the layer's position. A `BatchNorm1d` has ``"1.weight"``,
            ``"1.bias"``, ``"1.running_mean"`` and ``"1.running_var"``, all (num_features,). Layer 0
            of a block, such as a `Residual`, at position 2 has ``"2.0.weight"``.
        """
        parameters, averages = self._core.numbers()
        arrays = _names.split(parameters, self._blocks())
        arrays |= _names.split(averages, self._core.average_blocks())
        # In the order of the layers; a layer's parameters come before its averages.
        names = sorted(arrays, key=lambda name: [int(i) for i in name.split(".")[:-1]])
        return {name: arrays[name] for name in names}

    @_habits.takes("Sequential.load_state_dict()", _OF_LOAD)
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Set everything by name; names and shapes must be exactly those of `state_dict`.

        The only exception is ``num_batches_tracked``, which PyTorch lists too: it is ignored. To
        set only some arrays, for instance all but those of a new head, combine them with the
        model's own: ``model.load_state_dict(model.state_dict() | arrays)``.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Values are converted to the model's dtype.

        Raises
        ------
        ArgumentError
            If names are missing or unexpected; all such names are listed.
        ShapeError, DataError, DtypeError
            If an array has another shape, or does not hold finite real numbers. After any error,
            the model is unchanged.
        """
        self._set_all(*self._checked(state_dict))

    def _checked(self, state_dict: Mapping[str, Any]) -> tuple[Array, Array]:
        """Return what `_set_all` sets; raise what `load_state_dict` does."""
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
            some = len(missing) < len(names)
            hint = f"; {_SOME}" if some and not unexpected else ""
            raise ArgumentError(
                "state_dict does not belong to this model: "
                f"missing {missing or 'none'}, unexpected {unexpected or 'none'}{hint}"
            )
        return self._flat(blocks, state_dict), self._flat(average_blocks, state_dict)

    def _set_all(self, parameters: Array, averages: Array) -> None:
        """Set what has been checked; the core finds negative variances, before anything is set."""
        self._core.set_numbers(parameters, averages)

    def _flat(self, blocks: list[tuple[str, tuple[int, ...]]], values: Mapping[str, Any]) -> Array:
        """Combine named arrays into one, checked and converted."""
        flat = np.empty(sum(math.prod(shape) for _, shape in blocks), self._dtype)
        for name, part in _names.split(flat, blocks).items():
            array = _arrays.as_numeric(values[name], name)
            if array.shape != part.shape:
                raise ShapeError(f"{name} has shape {array.shape}; this model's is {part.shape}")
            part[...] = _arrays.finite(_arrays.as_dtype(array, self._dtype, name), name)
        return flat
