"""Arguments of functions on a model's Fisher information: samples, labels, a likelihood."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Array, Labels, Samples
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError
from thalweg.nn import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    GaussianNLLLoss,
    Loss,
    MSELoss,
    PoissonNLLLoss,
    Sequential,
)
from thalweg.nn._losses import loss_of
from thalweg.nn._losses._base import CoreLoss

_LIKELIHOODS = {
    CrossEntropyLoss: "categorical",
    BCEWithLogitsLoss: "bernoulli",
    MSELoss: "gaussian",
    PoissonNLLLoss: "poisson",
    GaussianNLLLoss: "normal",
}


class Prepared(NamedTuple):
    """The arguments as the core takes them, for rows among which the same outputs compete."""

    samples: Samples
    y: Labels | Array | None
    likelihood: str
    classes: list[int] | None
    seed: int
    sample_weight: Array | None
    #: What these rows are of all, by weight: the Fisher information is a mean over rows.
    share: float = 1.0


def prepare(
    model: Sequential,
    x: Any,
    y: Any,
    *,
    loss: Loss | None,
    n_samples: int | None,
    classes: Sequence[int] | None,
    seed: int,
    sample_weight: Any = None,
    any_loss: bool = False,
    batched: bool = False,
) -> list[Prepared]:
    """Check and convert arguments.

    Rows with ignored labels are left out. If classes of several heads compete, there is one result
    for each head, with the rows of its labels; but if `batched`, whose batches mix heads, a single
    one whose likelihood is "any".

    For what needs only gradients, `any_loss` lets the likelihood be "any".
    """
    if not isinstance(model, Sequential):
        raise ArgumentError(f"model must be an nn.Sequential; got {model!r}")
    likelihood = likelihood_of(loss, any_loss=any_loss)
    competition = (loss or CrossEntropyLoss())._competition
    outputs = model.out_features
    if likelihood == "categorical" and outputs == 1:
        raise ArgumentError(
            "a softmax of one output is always 1, and its Fisher information 0: pass"
            " loss=nn.MSELoss() or nn.BCEWithLogitsLoss()"
        )
    samples = model._samples(x, "x")
    if y is not None:
        if likelihood == "categorical":
            y = _arrays.labels_or_shares(y, model.dtype, "y")
        else:
            assert isinstance(loss, CoreLoss)
            y = _arrays.targets(y, model.dtype, loss._target_width(outputs), "y")
        if y.dtype.kind == "f":
            _arrays.finite(y, "y")
    seed = _checks.integer("seed", seed, 0)
    rows = len(samples)
    weight = _arrays.weights(sample_weight, model.dtype, "sample_weight")
    for name, array in (("y", y), ("sample_weight", weight)):
        if array is not None and len(array) != rows:
            raise ShapeError(
                f"x has {rows} rows but {name} has {len(array)}; they must have the same length"
            )
    if weight is not None:
        _arrays.finite(weight, "sample_weight")
    if likelihood == "categorical" and y is not None and y.ndim == 1:
        counts = y != competition.ignored
        if rows and not counts.any():
            raise DataError(f"no row counts: each of {rows} has the ignored label, {y[0]}")
        if not counts.all():
            samples, y, weight = _of_rows(counts, samples, y, weight)
            rows = len(samples)
    if n_samples is not None:
        n_samples = _checks.integer("n_samples", n_samples, 1)
        if n_samples < rows:
            chosen = np.sort(np.random.default_rng(seed).choice(rows, n_samples, replace=False))
            samples, y, weight = _of_rows(chosen, samples, y, weight)
    if weight is not None and not weight.any():
        raise DataError(f"no row counts: each of {len(weight)} has a sample_weight of 0")
    if classes is None:
        classes = competition.active
    else:
        if getattr(classes, "ndim", 1) == 0 or not isinstance(classes, Iterable):
            raise ArgumentError(
                f"classes must be the outputs that compete, e.g. [0, 1]; got {classes!r}"
            )
        classes = [_checks.integer("classes", c, 0) for c in classes]
    ready = Prepared(
        samples, y, likelihood, None if classes is None else list(classes), seed, weight
    )
    if competition.heads is None:
        return [ready]
    if sum(competition.heads) != outputs:
        raise ShapeError(f"heads have {sum(competition.heads)} columns; the model has {outputs}")
    return _by_head(ready, competition.heads_of(outputs), batched)


def _by_head(ready: Prepared, of_column: npt.NDArray[np.int64], batched: bool) -> list[Prepared]:
    """Divide rows by the heads of their labels, if outputs of several heads compete."""
    outputs = len(of_column)
    columns = np.arange(outputs) if ready.classes is None else np.array(ready.classes, int)
    if not len(ready.samples) or not len(columns) or columns.max() >= outputs:
        return [ready]  # the core refuses it
    if (of_column[columns] == of_column[columns[0]]).all():
        return [ready]
    if batched:
        return [ready._replace(likelihood="any")]
    y, weight = ready.y, ready.sample_weight
    if y is None:
        raise ArgumentError(
            "the loss has heads, and a row's label decides in which one outputs compete: pass y, or"
            f" the outputs of one head as classes; those of {len(set(of_column[columns]))} compete"
        )
    labels = y if y.ndim == 1 else y.argmax(axis=1)
    other = ~np.isin(labels, columns)
    if other.any():
        row = int(other.argmax())
        raise DataError(f"y[{row}] is {labels[row]}, but only {columns.tolist()} compete")
    heads = of_column[labels]
    if y.ndim == 2:
        several = (y * (of_column != heads[:, np.newaxis])).any(axis=1)
        if several.any():
            raise UnsupportedError(
                f"y[{several.argmax()}] has shares in several heads, whose Fisher information is"
                " not supported"
            )
    shares = np.ones(len(y)) if weight is None else weight.astype(np.float64)
    parts = []
    for head in np.unique(heads):
        rows = heads == head
        if share := float(shares[rows].sum() / shares.sum()):
            parts.append(
                Prepared(
                    ready.samples[rows],
                    y[rows],
                    ready.likelihood,
                    columns[of_column[columns] == head].tolist(),
                    ready.seed + int(head),  # draws for different heads are independent
                    None if weight is None else weight[rows],
                    share,
                )
            )
    return parts


class OfCore(NamedTuple):
    """What the core computes with."""

    model: Sequential
    samples: Samples
    y: Labels | Array | None
    likelihood: str
    kind: str


def of_core(model: Sequential, ready: Prepared, kind: str, loss: Loss | None) -> OfCore:
    """Return the arguments as the core takes them, which knows three likelihoods.

    For others, it gets the square roots of each output's information; or targets from which the
    outputs differ by the slopes of the loss, in double precision, as of a normal distribution.
    """
    samples, y, likelihood = ready.samples, ready.y, ready.likelihood
    if likelihood in ("poisson", "normal"):
        assert isinstance(loss, PoissonNLLLoss | GaussianNLLLoss)
        if kind == "exact":
            return OfCore(model, samples, roots(loss, model(samples)), "independent", kind)
        if kind == "sampled":
            y, kind = _drawn(loss, model(samples), ready.seed), "empirical"
        likelihood = "any"
    if likelihood != "any":
        return OfCore(model, samples, y, likelihood, kind)
    used = model.astype("float64")
    samples = used._samples(samples, "x")
    if y is not None:
        assert isinstance(loss, CoreLoss)
        plain = replace(loss, reduction="sum")
        if isinstance(plain, CrossEntropyLoss):
            plain = replace(plain, weight=None, label_smoothing=0.0, active=ready.classes)
        outputs = used(samples)
        y = outputs - plain.gradient(outputs, y)
    return OfCore(used, samples, y, "gaussian", kind)


def roots(loss: Loss, outputs: Array) -> Array:
    """Return the square roots of the Fisher information of outputs that are independent.

    Raises
    ------
    DataError
        If the likelihood is not defined for an output.
    """
    if isinstance(loss, BCEWithLogitsLoss):
        found = 0.5 / np.cosh(outputs / 2)
    elif isinstance(loss, PoissonNLLLoss):
        if loss.log_input:
            found = np.exp(outputs / 2)
        else:
            _check_rates(loss, outputs)
            found = np.sqrt(outputs) / (outputs + loss.eps)
    elif isinstance(loss, GaussianNLLLoss):
        _, log = np.split(outputs, 2, axis=1)
        bound = np.maximum(log, np.log(loss.eps))
        found = np.hstack([np.exp(-bound / 2), np.sqrt(0.5) * np.exp(log - bound)])
    else:
        found = np.ones_like(outputs)
    return np.asarray(found, outputs.dtype)


def _drawn(loss: PoissonNLLLoss | GaussianNLLLoss, outputs: Array, seed: int) -> Array:
    """Draw a y for each row from what the outputs say of it."""
    rng, outputs = np.random.default_rng(seed), outputs.astype(np.float64)
    if isinstance(loss, PoissonNLLLoss):
        if not loss.log_input:
            _check_rates(loss, outputs)
        y: Array = rng.poisson(np.exp(outputs) if loss.log_input else outputs).astype(np.float64)
        return y
    mean, log = np.split(outputs, 2, axis=1)
    deviation = np.sqrt(np.maximum(np.exp(log), loss.eps))
    return np.asarray(mean + deviation * rng.standard_normal(mean.shape))


def _check_rates(loss: PoissonNLLLoss, outputs: Array) -> None:
    """Raise if an output, a rate, is negative."""
    if (outputs < 0).any():
        row, column = np.argwhere(outputs < 0)[0]
        raise DataError(
            f"model(x)[{row}, {column}] is {outputs[row, column]:g}, but a rate is never negative: "
            "end the model with nn.Softplus(), or use nn.PoissonNLLLoss()"
        )


def _of_rows(rows: Any, *arrays: Any) -> tuple[Any, ...]:
    """Return some rows of each array, None for None."""
    return tuple(None if array is None else array[rows] for array in arrays)


def likelihood_of(loss: Loss | None, *, any_loss: bool = False) -> str:
    """Return the name of the likelihood that belongs to a loss.

    With `any_loss`, it is "any" for other losses that have a value for each row.

    Raises
    ------
    ArgumentError
        If `loss` is not a loss.
    UnsupportedError
        If there is no such likelihood.
    """
    if loss is None:
        return "categorical"
    found = _LIKELIHOODS.get(type(loss_of(loss)))
    if found is None and any_loss and isinstance(loss, CoreLoss):
        return "any"
    if found is None:
        more = ""
        if any_loss:
            more = (
                ', and with kind="empirical" or "batched" for the other losses of thalweg.nn, which'
                " give a gradient for each row"
            )
        raise UnsupportedError(
            f"the Fisher information is only supported for {known()}{more}; got {loss!r}"
        )
    return found


def known() -> str:
    """Return the names of the losses that stand for a likelihood."""
    *some, last = (f"nn.{kind.__name__}" for kind in _LIKELIHOODS)
    return f"{', '.join(some)} and {last}"
