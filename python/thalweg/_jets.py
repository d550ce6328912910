"""Outputs of a model with their derivatives by the inputs: what a `nn.DerivativeLoss` is of."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg import _arrays, _core
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import Sequential

#: Outputs, and their first and second derivatives, as users see them.
NAMES = ("u", "du", "d2u")


class Jets:
    """Passes forward of a model that derivatives go along with, and backward from all of that.

    `along` has a direction in each row, those of the inputs one by one by default; `order` is the
    highest derivative, of all of them or of each.
    """

    def __init__(self, model: Sequential, order: int | Sequence[int], along: Any = None) -> None:
        inputs = model.in_features
        if along is None:
            directions = np.eye(inputs, dtype=model.dtype)
        else:
            directions = np.atleast_2d(_arrays.as_numeric(along, "along")).astype(model.dtype)
        if directions.ndim != 2 or directions.shape[1] != inputs or len(directions) == 0:
            raise ShapeError(
                f"along must have a row for each direction, of {inputs} numbers as the inputs of "
                f"the model have; its shape is {np.shape(along)}"
            )
        count = len(directions)
        orders = [order] * count if isinstance(order, int) else list(order)
        if len(orders) != count:
            raise ShapeError(
                f"order must be 1 or 2, or one of them for each of {count} directions; got "
                f"{len(orders)} of them"
            )
        self._model, self._count, self._highest = model, count, max(orders)
        self._core = _core.Jet(model._core, np.ascontiguousarray(directions), orders)

    def forward(self, x: Any) -> tuple[Array, ...]:
        """Give outputs (n, out_features), and derivatives (directions, n, out_features).

        Second ones are of those directions whose order is 2, and left out if there is none.
        """
        x = self._model._matrix(x, "x")
        if len(x) == 0:
            raise ArgumentError("x has no rows; at least one is needed")
        flat = self._core.forward(x)
        parts = flat.reshape(-1, len(x), flat.shape[1])
        firsts, seconds = parts[1 : 1 + self._count], parts[1 + self._count :]
        return (parts[0], firsts) if self._highest == 1 else (parts[0], firsts, seconds)

    #: A network in evaluation is the same: what makes a difference is not let through.
    predict = forward

    def backward(self, gradients: Sequence[Array]) -> None:
        """Add the gradient by the parameters to the model's, from those by what `forward` gave."""
        rows = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        flat: Any = np.concatenate(rows)
        self._core.backward(flat)
