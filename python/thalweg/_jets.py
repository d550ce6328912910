"""Outputs of a model with their derivatives with respect to the inputs, for `DerivativeLoss`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg import _arrays, _core
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, ShapeError, ThalwegError
from thalweg.nn import LayerNorm, RMSNorm, Sequential
from thalweg.nn._layers import with_inner
from thalweg.nn._losses._derivatives import checked_along

#: Users' names for the outputs and their first and second derivatives.
NAMES = ("u", "du", "d2u")
#: Says what a function must not do between `forward` and `backward`.
CHANGED = (
    "the loss function, or another thread, changed the model's parameters, e.g. by a step of "
    "another trainer, so its gradient is no longer that of the loss; the model is as it was before "
    "this call. Make such steps before or after this one"
)
#: Rows of a part of a prediction, times the passes that go through it at the same time.
_PREDICTED = 2**14


class Jets:
    """Forward passes of a model that also propagate derivatives, and backward passes from them.

    `along` has one direction per row, by default those of the inputs, one by one; `order` is the
    highest derivative, for all directions or for each.
    """

    def __init__(self, model: Sequential, order: int | Sequence[int], along: Any = None) -> None:
        inputs, outputs = model.in_features, model.out_features
        if along is None:
            directions = np.eye(inputs, dtype=model.dtype)
        else:
            directions = _arrays.as_dtype(checked_along(along), model.dtype, "along").copy()
            if directions.shape[1] != inputs:
                raise ShapeError(
                    f"along must have one row per direction, with {inputs} numbers each, as many "
                    f"as the model has inputs; got shape {directions.shape}"
                )
        count = len(directions)
        orders = [order] * count if isinstance(order, int) else list(order)
        if len(orders) != count:
            raise ShapeError(
                f"order must be 1 or 2, or a sequence with one of them for each of the {count} "
                f"directions; got {len(orders)}"
            )
        self._model = model
        self._at: Any = None  # the parameters of the last `forward`
        self._way: _Along | _Back
        normed = any(isinstance(it, (LayerNorm, RMSNorm)) for it in with_inner(model.layers))
        if max(orders) == 1 and (normed or count > 2 * outputs):
            self._way, parts = _Back(model, None if along is None else directions), outputs
        else:
            self._way, parts = _Along(model, directions, orders), sum(orders)
        self._rows_at_once = max(_PREDICTED // (1 + parts), 1)

    def forward(self, x: Any) -> tuple[Array, ...]:
        """Return outputs (n, out_features), and derivatives (directions, n, out_features).

        Second derivatives are those along directions of order 2, and left out if there are none.
        """
        self._at = self._model._core.parameters()
        return self._way.forward(self._checked(x))

    def predict(self, x: Any) -> tuple[Array, ...]:
        """Return the same, without keeping what `backward` needs of more than some of the rows.

        It is the same in evaluation: layers that would behave differently there are rejected.
        """
        x = self._checked(x)
        if len(x) <= self._rows_at_once:
            return self._way.forward(x)
        count = self._rows_at_once
        try:
            some = [self._way.forward(x[i : i + count]) for i in range(0, len(x), count)]
        except ThalwegError:
            return self._way.forward(x)  # an error that counts the rows from the first
        return tuple(np.concatenate(of, axis=-2) for of in zip(*some, strict=True))

    def _checked(self, x: Any) -> Array:
        rows = self._model._matrix(x, "x")
        if len(rows) == 0:
            raise ArgumentError("x has no rows; at least one is needed")
        return rows

    def backward(self, gradients: Sequence[Array]) -> None:
        """Add to the model's gradients, given those with respect to the result of `forward`.

        Raises
        ------
        ArgumentError
            If the parameters have changed since then.
        """
        if not np.array_equal(self._model._core.parameters(), self._at):
            raise ArgumentError(CHANGED)
        self._way.backward(gradients)


class _Along:
    """Derivatives that go forward with the numbers, along each direction."""

    def __init__(self, model: Sequential, directions: Any, orders: list[int]) -> None:
        self._count, self._highest = len(directions), max(orders)
        self._core = _core.Jet(model._core, np.ascontiguousarray(directions), orders)

    def forward(self, x: Any) -> tuple[Array, ...]:
        """Return what `Jets.forward` returns."""
        flat = self._core.forward(x)
        parts = flat.reshape(-1, len(x), flat.shape[1])
        firsts, seconds = parts[1 : 1 + self._count], parts[1 + self._count :]
        return (parts[0], firsts) if self._highest == 1 else (parts[0], firsts, seconds)

    def backward(self, gradients: Sequence[Array]) -> None:
        """See `Jets.backward`."""
        flat: Any = np.concatenate([part.reshape(-1, part.shape[-1]) for part in gradients])
        self._core.backward(flat)


class _Back:
    """First derivatives by going back from each output: for more directions than outputs.

    Normalizations over rows have derivatives this way only.

    `along` is None for the inputs, one by one.
    """

    def __init__(self, model: Sequential, along: Array | None) -> None:
        self._along = along
        self._core = _core.Slopes(model._core)

    def forward(self, x: Any) -> tuple[Array, ...]:
        """Return what `Jets.forward` returns."""
        u, slopes = self._core.forward(x)
        by_inputs: Any = slopes.reshape(u.shape[1], *x.shape)
        if self._along is not None:
            # Not a product of BLAS, whose sums depend on its threads.
            by_inputs = np.einsum("knd,sd->kns", by_inputs, self._along)
        return u, by_inputs.transpose(2, 1, 0)

    def backward(self, gradients: Sequence[Array]) -> None:
        """See `Jets.backward`."""
        by_u, by_du = gradients
        if self._along is None:
            by_inputs: Any = by_du.transpose(2, 1, 0)
        else:
            by_inputs = np.einsum("snk,sd->knd", by_du, self._along)
        ready = (_arrays.as_dtype(it, it.dtype, "the gradient") for it in (by_u, by_inputs))
        by_u, by_slopes = ready
        self._core.backward(by_u, by_slopes.reshape(-1, by_slopes.shape[2]))
