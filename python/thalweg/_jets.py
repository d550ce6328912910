"""Outputs of a model with their derivatives with respect to the inputs, for `DerivativeLoss`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg import _arrays, _core
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import Sequential

#: Users' names for the outputs and their first and second derivatives.
NAMES = ("u", "du", "d2u")


class Jets:
    """Forward passes of a model that also propagate derivatives, and backward passes from them.

    `along` has one direction per row, by default those of the inputs, one by one; `order` is the
    highest derivative, for all directions or for each.
    """

    def __init__(self, model: Sequential, order: int | Sequence[int], along: Any = None) -> None:
        inputs = model.in_features
        if along is None:
            directions = np.eye(inputs, dtype=model.dtype)
        else:
            directions = np.atleast_2d(_arrays.as_numeric(along, "along")).astype(model.dtype)
        if directions.ndim != 2 or directions.shape[1] != inputs or len(directions) == 0:
            raise ShapeError(
                f"along must have one row per direction, with {inputs} numbers each, as many as "
                f"the model has inputs; got shape {np.shape(along)}"
            )
        count = len(directions)
        orders = [order] * count if isinstance(order, int) else list(order)
        if len(orders) != count:
            raise ShapeError(
                f"order must be 1 or 2, or a sequence with one of them for each of the {count} "
                f"directions; got {len(orders)}"
            )
        self._model, self._count, self._highest = model, count, max(orders)
        self._core = _core.Jet(model._core, np.ascontiguousarray(directions), orders)

    def forward(self, x: Any) -> tuple[Array, ...]:
        """Return outputs (n, out_features), and derivatives (directions, n, out_features).

        Second derivatives are those along directions of order 2, and left out if there are none.
        """
        x = self._model._matrix(x, "x")
        if len(x) == 0:
            raise ArgumentError("x has no rows; at least one is needed")
        flat = self._core.forward(x)
        parts = flat.reshape(-1, len(x), flat.shape[1])
        firsts, seconds = parts[1 : 1 + self._count], parts[1 + self._count :]
        return (parts[0], firsts) if self._highest == 1 else (parts[0], firsts, seconds)

    #: The same in evaluation: layers that would behave differently there are rejected.
    predict = forward

    def backward(self, gradients: Sequence[Array]) -> None:
        """Add to the model's gradients, given those with respect to the result of `forward`."""
        rows = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        flat: Any = np.concatenate(rows)
        self._core.backward(flat)
