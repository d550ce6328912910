"""Comparing a float32 model's own gradient with that of its float64 copy.

Rounding hides more of a float32 gradient the better a model is trained: residuals are differences
of nearly equal numbers there, and slopes of saturated activations are, too. A large error at the
model's parameters is therefore no sign of a mistake. Whether there is one is told from newly drawn
parameters: around them, rounding errors differ from point to point, and a mistake stays.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg._gradcheck import _blocks
from thalweg._gradcheck._blocks import Blocks, Vector
from thalweg._gradcheck._report import GradcheckReport
from thalweg._gradcheck._task import Task
from thalweg._gradcheck._verdict import LIMIT
from thalweg.nn import Linear, Sequential
from thalweg.nn._sequential._base import plain

#: Float32 gradients of untrained models are within 3e-7 or so of float64 ones; this is the
#: tolerance, to be multiplied by the root of the number of linear layers.
_FLOAT32 = 2e-6

#: Points beside the newly drawn parameters at which errors are compared, how far they are apart,
#: and how much larger than their spread the median error must be to be a mistake.
_POINTS, _APART, _SAFETY = 9, 1e-3, 5.0

#: Returns the gradient of a float32 model for an x.
Single: TypeAlias = Callable[[Sequential, npt.NDArray[np.float32]], Vector]


def compare(
    made: GradcheckReport,
    model: Sequential,
    single: Single,
    task: Task,
    gradient: Vector,
    rng: np.random.Generator,
) -> GradcheckReport:
    """Judge the gradient that `single` computes with the float32 `model`, block by block.

    `gradient` is the same in float64, by `task`.
    """
    limit = _FLOAT32 * np.sqrt(max(1, sum(isinstance(it, Linear) for it in model.layers)))
    errors = _errors(
        single(model, task.x.astype(np.float32)) - gradient, gradient, task.blocks, limit
    )
    wrong = unknown = np.zeros(errors.size, bool)
    if not (errors <= limit).all():
        found = _mistakes(model, single, task, limit, rng)
        unknown = ~(errors <= (limit if found is None else LIMIT))
        wrong = wrong if found is None else found & ~(errors <= limit)
    blocks = []
    for block, error, bad, unclear in zip(made.blocks, errors, wrong, unknown, strict=True):
        verdict = block.verdict
        if block.passed and bad:
            verdict = "FAILED in float32"
        elif block.passed and unclear:
            verdict = "unresolved in float32"
        elif block.passed and not error <= limit:
            verdict = "ok to resolution"
        blocks.append(replace(block, float32_error=float(error), verdict=verdict))
    judged = replace(made, blocks=tuple(blocks))
    vars(judged).update(_lines=made._lines, _eps=made._eps)  # which `replace` leaves out
    return judged


def _errors(error: Vector, gradient: Vector, blocks: Blocks, limit: float) -> Vector:
    """Return the error of each block relative to its gradient."""
    whole = _blocks.length(gradient)
    errors = []
    for part in _blocks.slices(blocks):
        distance = _blocks.length(error[part])
        # If terms cancel, as for a bias before BatchNorm1d, the error is relative to the terms.
        size = max(_blocks.length(gradient[part]), 2**-23 / limit * whole)
        errors.append(distance / size if size > 0 else (np.inf if distance > 0 else 0.0))
    return np.array(errors)


def _mistakes(
    model: Sequential, single: Single, task: Task, limit: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_] | None:
    """Return which blocks are wrong at newly drawn parameters; None if that cannot be told."""
    other, copy = model.astype("float32"), task.trainer.model
    home, nowhere = copy.flat_parameters, np.zeros(1)

    def beside(values: Vector) -> Vector:
        return values * (1 + _APART * rng.uniform(-1, 1, values.shape))

    drawn, found = _drawn(model, rng), []
    try:
        for _ in range(_POINTS):
            other.flat_parameters = beside(drawn)
            # Integers may be categories.
            x = np.where(task.x == np.rint(task.x), task.x, beside(task.x)).astype(np.float32)
            copy.flat_parameters = other.flat_parameters
            here = replace(task, x=x.astype(np.float64))
            gradient = here.losses(0, nowhere, nowhere)[2]
            found.append((single(other, x), gradient))
    except Exception:  # a user-defined loss may be undefined there
        return None
    finally:
        copy.flat_parameters = home
    errors = np.array([one - two for one, two in found])
    if not np.isfinite(errors).all():
        return None
    # Medians, since rounding may move a single point across a kink.
    typical = np.median(errors, axis=0)
    spread = np.median(np.abs(errors - typical), axis=0)
    gradient = found[0][1]
    error, noise = (_errors(e, gradient, task.blocks, limit) for e in (typical, spread))
    return error > np.maximum(limit, _SAFETY * noise)


def _drawn(model: Sequential, rng: np.random.Generator) -> Vector:
    """Initialize all parameters again, and make those that start at 0 small numbers."""
    fresh = plain(model.layers, "float64", int(rng.integers(2**31)))
    values: Vector = fresh.flat_parameters.astype(np.float64)
    for (_, shape), part in zip(fresh._blocks(), _blocks.slices(fresh._blocks()), strict=True):
        inputs = shape[-1] if len(shape) > 1 else 1
        values[part] += 0.1 / inputs**0.5 * rng.standard_normal(part.stop - part.start)
    return values
