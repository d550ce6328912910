"""How much each parameter matters for what a model has learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _checks, _core, _warn
from thalweg._arrays import Array
from thalweg._habits import takes
from thalweg._likelihood import Prepared, known, likelihood_of, of_core, prepare, rounded
from thalweg.errors import UnsupportedError
from thalweg.nn import Loss, MSELoss, Sequential

Kind: TypeAlias = Literal["exact", "sampled", "predicted", "empirical", "batched", "weighted"]
#: The kinds that need the gradients of a loss, but no distribution of y.
_OF_GRADIENTS = ("empirical", "batched")


@takes("continual.fisher_diagonal", {})
def fisher_diagonal(
    model: Sequential,
    x: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    kind: Kind = "exact",
    loss: Loss | None = None,
    n_samples: int | None = None,
    classes: Sequence[int] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    sample_weight: npt.ArrayLike | None = None,
) -> Array:
    r"""Compute the diagonal of the Fisher information matrix at the model's parameters.

    .. math:: F_j = \frac1N \sum_{n=1}^N \mathbb{E}_{y \sim p(\cdot \mid x_n)}
              \left(\frac{\partial}{\partial\theta_j} \ln p(y \mid x_n)\right)^2

    Parameters
    ----------
    model : Sequential
        Left unchanged. It is used as in evaluation: nothing is dropped, and `nn.BatchNorm1d` uses
        its running averages. With batch statistics, an output would depend on the other samples of
        its batch, and a single sample would have no p(y | x); with the averages, which are
        constants, each sample has its own. Averages that no training pass has set say nothing about
        the data; a warning tells.
    x : array_like, shape (n, in_features)
        The samples.
    y : array_like, optional
        Labels or targets as for the loss; not needed for ``"exact"``, ``"sampled"`` and
        ``"predicted"``, unless outputs of several heads compete: a row's label says in which one.
        Rows with ignored labels are left out.
    kind : str, keyword only, default "exact"
        - ``"exact"``: the formula above, with the expectation as a sum over all outputs.
        - ``"sampled"``: one y for each sample, drawn from the model.
        - ``"predicted"``: the most probable y of each sample, as in GT-RIPL's code. For a confident
          model with top probability p, this is about 1 - p times ``"sampled"``. For classes only:
          for `nn.MSELoss`, it would be 0.
        - ``"empirical"``: the y of the data. This is not the Fisher information: it vanishes where
          the data are fitted (Kunstner, Hennig and Balles 2019).
        - ``"batched"``: the square of the mean gradient of each batch of `batch_size`, as in
          Avalanche. About `batch_size` times smaller than ``"empirical"``.
        - ``"weighted"``: as ``"empirical"``, but each sample is weighted by the probability that
          the model gives its label, as in mammoth. For `nn.CrossEntropyLoss` and labels only.
    loss : Loss, keyword only, optional
        Which likelihood the outputs represent: `nn.CrossEntropyLoss` (the default) is softmax,
        `nn.BCEWithLogitsLoss` an independent yes or no for each output, `nn.MSELoss` a normal
        distribution of variance 1, so that -ln p is *half* the squared error, `nn.GaussianNLLLoss`
        one of the variance that the model predicts, `nn.PoissonNLLLoss` a count (the information
        on an output that is a rate f is f / (f + eps)², the variance of the slope). The `heads`,
        `active` and `ignore_index` of a softmax count, as in
        ``curvature.Operator(kind="fisher")``; weights, label smoothing and the reduction of the
        loss do not. For ``"empirical"`` and ``"batched"``, which need no distribution, it may be
        another loss of `thalweg.nn`, such as `nn.HuberLoss`: the sum over a row's outputs then
        stands for -ln p.
    n_samples : int, keyword only, optional
        Use this many of the samples, drawn without replacement; all by default.
    classes : sequence of int, keyword only, optional
        Outputs that compete, instead of the loss's `active`; the others are left out, as in a
        network with one head for each task.
    batch_size : int, keyword only, default 128
        The batch size of ``"batched"``.
    seed : int, keyword only, default 0
        Seed of what ``"sampled"`` and `n_samples` draw.
    sample_weight : array_like, shape (n,), keyword only, optional
        How much each row counts: the mean over samples is weighted, as that of the loss is. For
        ``"batched"``, it weights the rows of a batch.

    Returns
    -------
    ndarray, shape (num_parameters,)
        In the order of ``model.flat_parameters``.

    Raises
    ------
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model; for ``"sampled"`` also if it predicts a rate above 1e10,
        or a variance that is infinite in float64.
    ArgumentError
        If an argument is out of range, or `y` is missing; for a softmax of one output, which is
        always 1; if squares are too large for the model's dtype.
    UnsupportedError
        If the loss is not one of those above, or a row of `y` has shares in several heads.

    Notes
    -----
    No sample's gradient is ever formed. For one sample, the gradient of a weight is the product of
    a slope and an input, so that the sum of squares over samples is one matrix product,
    :math:`(\delta^2)^T (a^2)` (Goodfellow 2015). The expectation over C outputs can be taken of
    :math:`\delta^2` beforehand: C - 1 passes of slopes through the upper layers, and one product
    per layer instead of C.

    A strength of EWC that suits one `kind` does not suit another: their magnitudes differ widely,
    above all between ``"batched"`` and the others (van de Ven 2025, arXiv:2502.11756).

    References
    ----------
    I. Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799.
    F. Kunstner, P. Hennig and L. Balles, "Limitations of the empirical Fisher approximation",
    NeurIPS 2019, arXiv:1905.12558.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> from thalweg.continual import fisher_diagonal
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> fisher_diagonal(model, x, loss=nn.MSELoss())  # the mean of x squared
    array([4.66666667])
    """
    check_kind("kind", kind, loss)
    return importance(
        model,
        x,
        y,
        kind,
        loss,
        n_samples=n_samples,
        classes=classes,
        batch_size=batch_size,
        seed=seed,
        sample_weight=sample_weight,
    )


def check_kind(name: str, kind: str, loss: Loss | None) -> str:
    """Return `kind`, if the Fisher information for this loss has such a kind.

    Raises
    ------
    ArgumentError
        If there is no such kind.
    UnsupportedError
        If the kind needs classes, and the likelihood has none; if the loss is no likelihood.
    """
    kind = _checks.one_of(name, kind, get_args(Kind))
    likelihood = likelihood_of(loss, any_loss=True)
    if likelihood == "any" and kind not in _OF_GRADIENTS:
        raise UnsupportedError(
            f'{name}="{kind}" needs the distribution of y that a loss stands for, which is known'
            f' for {known()}; got {loss!r}. Use {name}="empirical" or "batched", which need only'
            " the gradients of the loss"
        )
    if kind == "weighted" and likelihood != "categorical":
        raise UnsupportedError(
            f'{name}="weighted" weights each sample by the probability of its label, so it needs'
            f' nn.CrossEntropyLoss(); got a {likelihood} likelihood. Use {name}="empirical", which'
            " works for all likelihoods"
        )
    if kind == "predicted" and likelihood not in ("categorical", "bernoulli"):
        raise UnsupportedError(
            f'{name}="predicted" needs classes; got a {likelihood} likelihood, whose most probable'
            f' y is about the output, where the gradient is 0. Use {name}="exact" or "empirical"'
        )
    return kind


def importance(
    model: Sequential,
    x: Any,
    y: Any,
    kind: str,
    loss: Loss | None,
    *,
    n_samples: int | None = None,
    classes: Sequence[int] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    sample_weight: Any = None,
) -> Array:
    """Compute `fisher_diagonal`, or the mean magnitude of the outputs' squared norm's gradient.

    The latter has kind ``"norm"``, or ``"batched_norm"`` for the gradient of each batch's mean.
    """
    norm = kind in ("norm", "batched_norm")
    labelled = kind in ("empirical", "batched", "weighted")
    parts = prepare(
        model,
        x,
        None if norm else y,  # a norm is of the outputs as they are
        loss=MSELoss() if norm else loss,
        n_samples=n_samples,
        classes=classes,
        seed=seed,
        sample_weight=sample_weight,
        any_loss=kind in _OF_GRADIENTS,
        batched=kind == "batched",
    )
    batch_size = _checks.integer("batch_size", batch_size, 1)
    _doubt_averages(model)
    total = sum(
        ready.share
        * _of_part(model, ready if labelled else ready._replace(y=None), kind, loss, batch_size)
        for ready in parts
    )
    return rounded(total, model.dtype, "squares of gradients")


def _of_part(
    model: Sequential, ready: Prepared, kind: str, loss: Loss | None, batch_size: int
) -> Array:
    """Compute `importance` for rows among which the same outputs compete."""
    if kind == "predicted":
        y = _most_probable(model(ready.samples), ready.likelihood, ready.classes)
        kind, ready = "empirical", ready._replace(y=y)
    of = of_core(model, ready, kind, loss)
    weight = None if ready.sample_weight is None else ready.sample_weight.astype(of.model.dtype)
    return _core.importance(
        of.model._core, of.samples, of.y, of.likelihood, of.kind, ready.classes, ready.seed,
        batch_size, weight,
    )  # fmt: skip


def _doubt_averages(model: Sequential) -> None:
    """Warn about a BatchNorm1d whose running averages still have their initial values."""
    state = model.state_dict() if model._core.average_blocks() else {}
    for name, mean in state.items():
        layer = name.removesuffix(".running_mean")
        if layer != name and not mean.any() and (state[f"{layer}.running_var"] == 1).all():
            _warn.warn(
                f"layer {layer}, BatchNorm1d, is used with its running averages, but these still"
                " have their initial values, mean 0 and variance 1: train the model first, or"
                " compute them with model.recalibrate(x)"
            )
            return


def _most_probable(outputs: Array, likelihood: str, classes: Sequence[int] | None) -> Any:
    """Return the y that the model finds most likely, among `classes` if they are given."""
    if likelihood == "bernoulli":
        return (outputs > 0).astype(outputs.dtype)
    if classes is not None:
        others = np.ones(outputs.shape[1], bool)
        others[[c for c in classes if c < len(others)]] = False  # the core refuses the others
        outputs = np.where(others, -np.inf, outputs)
    return outputs.argmax(axis=1)
