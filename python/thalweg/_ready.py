"""Data as the core, or a custom loss, takes them."""

from typing import Any

from thalweg import _arrays
from thalweg._arrays import Array, Samples
from thalweg._targets import targets
from thalweg.nn import Sequential
from thalweg.nn._losses import CoreLoss, FunctionLoss, NoLoss


def ready(
    model: Sequential,
    loss: CoreLoss | FunctionLoss,
    x: Any,
    y: Any,
    sample_weight: Any,
    prefix: str = "",
) -> tuple[Samples, Any, Array | None]:
    """Prepare samples, targets and weights for a model and a loss."""
    samples = model._samples(x, f"{prefix}x")
    name = f"{prefix}y"
    if isinstance(loss, FunctionLoss):
        if isinstance(loss, NoLoss):
            loss.function()  # says so
        y = targets(y, name, len(samples))
    elif loss._labels:
        y = _arrays.labels_or_shares(y, model.dtype, name)
    else:
        y = _arrays.targets(y, model.dtype, loss._target_width(model.out_features), name)
    return samples, y, _arrays.weights(sample_weight, model.dtype, f"{prefix}sample_weight")
