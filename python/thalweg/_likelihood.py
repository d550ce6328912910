"""Arguments of functions on a model's Fisher information: samples, labels, a likelihood."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _habits, _parts
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

#: The largest rate of which counts are drawn. Beyond, the slope of a loss of rates, about one over
#: its root, is lost in the rounding of the rate; from 1e14 on, the variance of NumPy's is wrong.
_MOST_COUNTED = 1e10


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
    _parts.checked(model)
    likelihood = likelihood_of(loss, any_loss=any_loss)
    own = loss or CrossEntropyLoss()
    assert isinstance(own, CoreLoss)  # others have no likelihood
    competition = own._competition
    outputs = model.out_features
    if likelihood == "categorical" and outputs == 1:
        raise ArgumentError(
            "a softmax of one output is always 1, and its Fisher information 0: pass"
            " loss=nn.MSELoss() or nn.BCEWithLogitsLoss()"
        )
    samples = model._samples(x, "x")
    if y is not None:
        y = own._ready(y, model.dtype, outputs, "y")
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
    if likelihood not in ("poisson", "normal", "any"):
        return OfCore(model, samples, y, likelihood, kind)
    assert isinstance(loss, CoreLoss)
    if kind == "exact":
        return OfCore(model, samples, roots(loss, model(samples)), "independent", kind)
    used = model.astype("float64")
    samples = used._samples(samples, "x")
    outputs = used(samples)
    if kind == "sampled":
        y, kind = _drawn(loss, outputs, ready.seed), "empirical"
    if y is not None:
        plain = replace(loss, reduction="sum")
        if isinstance(plain, CrossEntropyLoss):
            plain = replace(plain, weight=None, label_smoothing=0.0, active=ready.classes)
        y = outputs - plain.gradient(outputs, y)
    return OfCore(used, samples, y, "gaussian", kind)


def rounded(values: Any, dtype: np.dtype[Any], what: str) -> Array:
    """Return results of double precision as `dtype`, if they are not too large for it.

    Raises
    ------
    ArgumentError
        Otherwise, as the core does where sums are of that precision.
    """
    with np.errstate(over="ignore"):
        found = np.asarray(values).astype(dtype, copy=False)
    if not np.isfinite(found).all():
        raise ArgumentError(
            f'{what} are too large for this precision: use a model with dtype="float64"'
        )
    return found


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
            with np.errstate(over="ignore"):  # the core refuses infinity
                found = np.exp(outputs / 2)
        else:
            _check_rates(loss, outputs)
            found = np.sqrt(outputs) / (outputs + loss.eps)
    elif isinstance(loss, GaussianNLLLoss):
        _, log = _halves(outputs)
        bound = np.maximum(log, np.log(loss.eps))
        found = np.hstack([np.exp(-bound / 2), np.sqrt(0.5) * np.exp(log - bound)])
    else:
        found = np.ones_like(outputs)
    return np.asarray(found, outputs.dtype)


def _drawn(loss: Loss, outputs: Array, seed: int) -> Array:
    """Draw a y for each row from what the outputs, in double precision, say of it."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):  # infinity is checked
        if isinstance(loss, PoissonNLLLoss):
            if not loss.log_input:
                _check_rates(loss, outputs)
            rate = np.exp(outputs) if loss.log_input else outputs
            _check_size(outputs, rate, _MOST_COUNTED, "rate")
            # The slope of a loss of rates is 0 at the rate + eps; drawn so, its mean is 0.
            return rng.poisson(rate) + (0.0 if loss.log_input else loss.eps)
        assert isinstance(loss, GaussianNLLLoss)
        mean, log = _halves(outputs)
        variance = np.maximum(np.exp(log), loss.eps)
    _check_size(outputs, variance, np.finfo(np.float64).max, "variance")
    return np.asarray(mean + np.sqrt(variance) * rng.standard_normal(mean.shape))


def _halves(outputs: Array) -> tuple[Array, Array]:
    """Divide the outputs for a `GaussianNLLLoss` into means and log-variances."""
    if outputs.shape[1] % 2:
        raise ShapeError(
            "GaussianNLLLoss takes an even number of outputs, means and then as many "
            f"log-variances, but the network has {outputs.shape[1]} outputs"
        )
    mean, log = np.split(outputs, 2, axis=1)
    return mean, log


def _check_size(outputs: Array, found: Array, most: float, what: str) -> None:
    """Raise if a rate or variance, which the last outputs stand for, is above `most`."""
    large = ~(found <= most)
    if large.any():
        row, column = np.argwhere(large)[0]
        k = column + outputs.shape[1] - found.shape[1]
        raise DataError(
            f"model(x)[{row}, {k}] is {outputs[row, k]:g}, and a {what} of {found[row, column]:g} "
            'is too large to draw y from: use "exact" instead of "sampled", which draws none'
        )


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
    found = _LIKELIHOODS.get(_habits.our_kind(type(loss_of(loss))))
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
