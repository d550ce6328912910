"""Arguments of functions on a model's Fisher information: samples, labels, a likelihood."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from thalweg import _arrays, _checks
from thalweg._arrays import Array, Labels, Samples
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError
from thalweg.nn import BCEWithLogitsLoss, CrossEntropyLoss, Loss, MSELoss, Sequential
from thalweg.nn._losses._base import CoreLoss

_LIKELIHOODS = {
    CrossEntropyLoss: "categorical",
    BCEWithLogitsLoss: "bernoulli",
    MSELoss: "gaussian",
}


class Prepared(NamedTuple):
    """The arguments as the core takes them."""

    samples: Samples
    y: Labels | Array | None
    likelihood: str
    classes: list[int] | None
    seed: int
    sample_weight: Array | None


def prepare(
    model: Sequential,
    x: Any,
    y: Any,
    *,
    loss: Loss | None,
    labelled: bool,
    n_samples: int | None,
    classes: Sequence[int] | None,
    seed: int,
    sample_weight: Any = None,
    any_loss: bool = False,
) -> Prepared:
    """Check and convert arguments; `labelled` says whether `y` is used.

    For what needs only gradients, `any_loss` lets the likelihood be "any".
    """
    if not isinstance(model, Sequential):
        raise ArgumentError(f"model must be an nn.Sequential; got {model!r}")
    likelihood = likelihood_of(loss, any_loss=any_loss)
    samples = model._samples(x, "x")
    if y is not None and labelled:
        if likelihood == "categorical":
            y = _arrays.labels_or_shares(y, model.dtype, "y")
        else:
            assert isinstance(loss, CoreLoss)
            y = _arrays.targets(y, model.dtype, loss._target_width(model.out_features), "y")
        if y.dtype.kind == "f":
            _arrays.finite(y, "y")
    else:
        y = None
    seed = _checks.integer("seed", seed, 0)
    rows = len(samples)
    weight = _arrays.weights(sample_weight, model.dtype, "sample_weight")
    if weight is not None:
        if len(weight) != rows:
            raise ShapeError(
                f"x has {rows} rows but sample_weight has {len(weight)}; they must have the same"
                " length"
            )
        _arrays.finite(weight, "sample_weight")
    if n_samples is not None:
        n_samples = _checks.integer("n_samples", n_samples, 1)
        if n_samples < rows:
            chosen = np.sort(np.random.default_rng(seed).choice(rows, n_samples, replace=False))
            samples = samples[chosen]
            y = None if y is None else y[chosen]
            weight = None if weight is None else weight[chosen]
    if weight is not None and not weight.any():
        raise DataError(f"no row counts: each of {len(weight)} has a sample_weight of 0")
    if classes is not None:
        if not isinstance(classes, Iterable):
            raise ArgumentError(
                f"classes must be the outputs that compete, e.g. [0, 1]; got {classes!r}"
            )
        classes = [_checks.integer("classes", c, 0) for c in classes]
    return Prepared(samples, y, likelihood, classes, seed, weight)


def likelihood_of(loss: Loss | None, *, any_loss: bool = False) -> str:
    """Return the name of the likelihood that belongs to a loss.

    With `any_loss`, it is "any" for other losses that have a value for each row.

    Raises
    ------
    UnsupportedError
        If there is none.
    """
    if loss is None:
        return "categorical"
    found = _LIKELIHOODS.get(type(loss))
    if found is None and any_loss and isinstance(loss, CoreLoss):
        return "any"
    if found is None:
        raise UnsupportedError(
            f"the Fisher information is only supported for {known()}; got {loss!r}"
        )
    return found


def known() -> str:
    """Return the names of the losses that stand for a likelihood."""
    *some, last = (f"nn.{kind.__name__}" for kind in _LIKELIHOODS)
    return f"{', '.join(some)} and {last}"
