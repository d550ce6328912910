"""Losses of precomputed outputs, and their gradients, from the core's own formulas."""

import re
from typing import Any

import numpy as np

from thalweg import _arrays, _core
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, DataError, ShapeError, ThalwegError
from thalweg.nn._losses._base import CoreLoss


def value(loss: CoreLoss, output: Any, target: Any, sample_weight: Any) -> float | Any:
    """Return the loss, or with ``reduction="none"`` that of each row; see `Loss.__call__`."""
    output = _outputs(loss, output)
    target = _targets(loss, output, target)
    weight = _arrays.weights(sample_weight, output.dtype, "sample_weight")
    if weight is not None and loss.reduction == "none":
        raise ArgumentError(
            'sample_weight is for a mean or a sum; with reduction="none", multiply the returned '
            "numbers by the weights yourself"
        )
    value, of_rows, _ = _found(loss, output, target, weight)
    return of_rows if loss.reduction == "none" else value


def gradient(loss: CoreLoss, output: Any, target: Any, sample_weight: Any) -> Array:
    """Return the gradient of the loss with respect to the outputs; see `Loss.gradient`."""
    output = _outputs(loss, output)
    target = _targets(loss, output, target)
    weight = _arrays.weights(sample_weight, output.dtype, "sample_weight")
    loss._spec(output.shape[1])  # raises if the loss is one number per row
    found = _found(loss, output, target, weight, gradient=True)[2]
    assert found is not None  # it was asked for
    return _arrays.finite(found, "the gradient")


def _outputs(loss: CoreLoss, output: Any) -> Array:
    """Convert outputs to rows of float32 or float64."""
    array = _arrays.as_numeric(output, "output")
    if array.ndim != 2:
        raise ShapeError(
            f"output must be 2-D, (rows, features); got shape {array.shape}{loss._call_elsewhere}"
        )
    if 0 in array.shape:
        raise ShapeError(f"output is empty; its shape is {array.shape}")
    single = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    dtype = np.dtype(np.float32 if single else np.float64)
    return _arrays.finite(_arrays.as_dtype(array, dtype, "output"), "output")


def _targets(loss: CoreLoss, output: Array, target: Any) -> Any:
    """Prepare targets for the core, if they match the outputs."""
    target = loss._ready(target, output.dtype, output.shape[1], "target")
    if loss._call_elsewhere and target.size == output.size:
        raise ShapeError(
            f"output has shape {output.shape} and target {target.shape}{loss._call_elsewhere}"
        )
    if len(target) != len(output):
        raise ShapeError(
            f"output has {len(output)} rows but target has {len(target)}; they must have the same "
            "length"
        )
    return target


def _found(
    loss: CoreLoss, output: Array, target: Any, weight: Array | None = None, gradient: bool = False
) -> tuple[float, Array, Array | None]:
    """Ask the core; errors use the user's names for the arrays."""
    reduction = "mean" if loss.reduction == "mean" else "sum"
    spec = (loss._kind, reduction, loss._columns(output.shape[1]), *loss._numbers())
    try:
        found = _core.loss_of(spec, output, target, weight, gradient=gradient)
    except ThalwegError as error:  # which speaks of the network and of y
        shape, text = f"output has shape {output.shape}", str(error)
        if text.startswith("y has"):
            wide = output.shape[1] if loss._labels else loss._target_width(output.shape[1])
            text = (
                f"{shape} and target {target.shape}; for {type(loss).__name__} the target must "
                f"have {wide} columns"
            )
        text = re.sub(r"the network has \d+ outputs?", shape, text)
        raise type(error)(re.sub(r"\by\b", "target", text)) from None
    why = loss._why_nan("output", output, weight) if np.isnan(found[0]) else ""
    if why:
        raise DataError(f"the loss is {found[0]}: {why}")
    if not np.isfinite(found[0]):
        raise DataError(
            f"the loss is {found[0]} although the outputs are finite: they are too large for it in "
            f"{output.dtype}"
        )
    return found
