"""Arguments of functions on a model's Fisher information: samples, labels, a likelihood."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from thalweg import _arrays, _checks
from thalweg._arrays import Array, Labels, Samples
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import BCEWithLogitsLoss, CrossEntropyLoss, Loss, MSELoss, Sequential

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
) -> Prepared:
    """Check and convert arguments; `labelled` says whether `y` is used."""
    if not isinstance(model, Sequential):
        raise ArgumentError(f"model must be an nn.Sequential; got {model!r}")
    likelihood = likelihood_of(loss)
    samples = model._samples(x, "x")
    if y is not None and labelled:
        if likelihood == "categorical":
            y = _arrays.labels_or_shares(y, model.dtype, "y")
        else:
            y = _arrays.targets(y, model.dtype, model.out_features, "y")
        if y.dtype.kind == "f":
            _arrays.finite(y, "y")
    else:
        y = None
    seed = _checks.integer("seed", seed, 0)
    if n_samples is not None:
        rows = len(samples)
        n_samples = _checks.integer("n_samples", n_samples, 1)
        if n_samples < rows:
            chosen = np.sort(np.random.default_rng(seed).choice(rows, n_samples, replace=False))
            samples = samples[chosen]
            y = None if y is None else y[chosen]
    if classes is not None:
        if not isinstance(classes, Iterable):
            raise ArgumentError(
                f"classes must be the outputs that compete, e.g. [0, 1]; got {classes!r}"
            )
        classes = [_checks.integer("classes", c, 0) for c in classes]
    return Prepared(samples, y, likelihood, classes, seed)


def likelihood_of(loss: Loss | None) -> str:
    """Return the name of the likelihood that belongs to a loss."""
    if loss is None:
        return "categorical"
    found = _LIKELIHOODS.get(type(loss))
    if found is None:
        *some, last = (f"nn.{kind.__name__}" for kind in _LIKELIHOODS)
        raise UnsupportedError(
            f"the Fisher information is only supported for {', '.join(some)} and {last}; got"
            f" {loss!r}"
        )
    return found
