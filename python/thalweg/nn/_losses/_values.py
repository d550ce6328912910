"""Losses of outputs that are there already, and their gradients, by the core's own formulas.

The core computes losses of a model's outputs, so that it is given a model that does nothing: a
block that adds zeros to its input. It gives gradients by parameters, so that for these the outputs
are parameters themselves: a table in front of that block, of which a batch is all rows.
"""

import dataclasses
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _core
from thalweg._arrays import Array
from thalweg.errors import ShapeError, ThalwegError
from thalweg.nn._losses._base import CoreLoss


def value(loss: CoreLoss, output: Any, target: Any) -> float | npt.NDArray[Any]:
    """Give the loss, or with ``reduction="none"`` that of each row; see `Loss.__call__`."""
    output = _outputs(output)
    # A label has one number, which a mean would divide by the weight of its class.
    by_row = "sum" if loss._labels else "mean"
    single = loss.reduction == "none"
    judge = _judge(dataclasses.replace(loss, reduction=by_row) if single else loss, output)
    target = _targets(loss, output, target)
    if not single:
        return _evaluate(judge, output, target)
    losses = np.zeros(len(output), output.dtype)
    for row, one in enumerate(loss._each(target, output)):
        if one is not None:
            losses[row] = _evaluate(judge, output[row : row + 1], one, first=row)
    return losses


def gradient(loss: CoreLoss, output: Any, target: Any, sample_weight: Any) -> Array:
    """Give the derivatives of the loss by the outputs; see `Loss.gradient`."""
    given = _outputs(output)
    # In float64, which tells all rows of a table apart.
    output = given.astype(np.float64)
    judge = _judge(loss, output)
    target = _targets(loss, output, target)
    weight = _arrays.weights(sample_weight, output.dtype, "sample_weight")
    _evaluate(judge, output, target, weight)  # raises, if there is no gradient
    rows, width = output.shape
    model, trainer = _trainer(loss, output, [("tabular", 1, [[0, rows, width]], [])])
    model.set_parameters(np.concatenate([output.ravel(), np.zeros(2 * width)]))
    trainer.backward(np.arange(rows, dtype=np.float64)[:, np.newaxis], target, weight)
    found = model.gradients()[: output.size].reshape(output.shape)
    return _arrays.as_dtype(found, given.dtype, "the gradient")


def _outputs(output: Any) -> Array:
    """Make outputs rows of float32 or float64."""
    array = _arrays.as_numeric(output, "output")
    if array.ndim != 2:
        raise ShapeError(f"output must be 2-D, (rows, features); got shape {array.shape}")
    if 0 in array.shape:
        raise ShapeError(f"output is empty; its shape is {array.shape}")
    single = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    dtype = np.dtype(np.float32 if single else np.float64)
    return _arrays.finite(_arrays.as_dtype(array, dtype, "output"), "output")


def _targets(loss: CoreLoss, output: Array, target: Any) -> Any:
    """Make targets ready for the core, if they belong to the outputs."""
    width, dtype = output.shape[1], output.dtype
    if loss._labels:
        target = _arrays.labels_or_shares(target, dtype, "target")
    else:
        target = _arrays.targets(target, dtype, loss._target_width(width), "target")
    if len(target) != len(output):
        raise ShapeError(
            f"output has {len(output)} rows but target has {len(target)}; they must be of one "
            "length"
        )
    wide = loss._target_width(width) if not loss._labels else width
    if target.ndim == 2 and target.shape[1] != wide:
        raise ShapeError(
            f"output has shape {output.shape} and target {target.shape}; for "
            f"{type(loss).__name__} the target has {wide} columns then"
        )
    return target


def _judge(loss: CoreLoss, output: Array) -> _core.Trainer:
    """Make what evaluates a loss of its inputs, if it can be of such outputs."""
    model, trainer = _trainer(loss, output, [])
    model.set_parameters(np.zeros(2 * output.shape[1], output.dtype))
    return trainer


def _trainer(loss: CoreLoss, output: Array, before: list[Any]) -> tuple[_core.Model, _core.Trainer]:
    """Make a model that ends with a block that does nothing, and a trainer with this loss."""
    width = output.shape[1]
    narrow = [("linear", *sizes, False, "kaiming_uniform") for sizes in ((width, 1), (1, width))]
    model = _core.Model([*before, ("residual", narrow)], output.dtype.name, 0)
    none = {"lr": 0.0, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    optimizer = _core.Optimizer("sgd", {**none, "convention": "torch"})
    try:
        return model, _core.Trainer(model, loss._spec(width), optimizer)
    except ShapeError as error:  # there is no network here
        text = re.sub(
            r"the network has \d+ outputs?", f"output has shape {output.shape}", str(error)
        )
        raise ShapeError(text) from None


def _evaluate(
    judge: _core.Trainer, output: Array, target: Any, weight: Array | None = None, first: int = 0
) -> float:
    """Evaluate rows; errors call the arrays what the user does, and count from the first row."""
    try:
        return judge.evaluate(output, target, weight)[0]
    except ThalwegError as error:
        text = re.sub(r"\by\b", "target", re.sub(r"\bx\b", "output", str(error)))
        text = re.sub(r"(output|target)\[0", rf"\1[{first}", text) if first else text
        raise type(error)(text) from None
