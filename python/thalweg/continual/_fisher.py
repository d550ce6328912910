"""How much each parameter matters for what a model has learned."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg import _checks, _core
from thalweg._arrays import Array
from thalweg._likelihood import likelihood_of, prepare
from thalweg.errors import UnsupportedError
from thalweg.nn import Loss, Sequential

KINDS = ("exact", "sampled", "predicted", "empirical", "batched", "weighted")


def fisher_diagonal(
    model: Sequential,
    x: Any,
    y: Any = None,
    *,
    kind: str = "exact",
    loss: Loss | None = None,
    n_samples: int | None = None,
    classes: Sequence[int] | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> Array:
    r"""Compute the diagonal of the Fisher information matrix at the model's parameters.

    .. math:: F_j = \frac1N \sum_{n=1}^N \mathbb{E}_{y \sim p(\cdot \mid x_n)}
              \left(\frac{\partial}{\partial\theta_j} \ln p(y \mid x_n)\right)^2

    Parameters
    ----------
    model : Sequential
        Is left as it is. It is used as in evaluation: nothing is dropped, and `nn.BatchNorm1d`
        takes its running averages, since statistics of a batch would tie samples together.
    x : array_like, shape (n, in_features)
        The samples.
    y : array_like, optional
        Labels or targets as for the loss; ``"exact"``, ``"sampled"`` and ``"predicted"`` do
        without.
    kind : str, keyword only, default "exact"
        - ``"exact"``: the formula above, the expectation as a sum over all outputs.
        - ``"sampled"``: one y for each sample, drawn from the model.
        - ``"predicted"``: the most probable y of each sample, as GT-RIPL's code has it. Of a model
          that is sure, this is about 1 - p times smaller than ``"sampled"``. Not for `nn.MSELoss`,
          where it would be 0.
        - ``"empirical"``: the y of the data. This is not the Fisher information: it vanishes where
          the data are fitted (Kunstner, Hennig and Balles 2019).
        - ``"batched"``: the square of the mean gradient of each batch of `batch_size`, as it is in
          Avalanche. About `batch_size` times smaller than ``"empirical"``.
        - ``"weighted"``: as ``"empirical"``, but each sample counts by the probability that the
          model gives its label, as in mammoth. For `nn.CrossEntropyLoss` and labels only.
    loss : Loss, keyword only, optional
        Which likelihood the outputs stand for: `nn.CrossEntropyLoss` (the default) is softmax,
        `nn.BCEWithLogitsLoss` an independent yes or no for each output, `nn.MSELoss` a normal
        distribution of variance 1, so that -ln p is *half* the squared error. Weights, label
        smoothing and the reduction of the loss do not matter.
    n_samples : int, keyword only, optional
        Use so many of the samples, drawn without replacement; all by default.
    classes : sequence of int, keyword only, optional
        Outputs that compete; the others are left out, as in a network with one head for each task.
    batch_size : int, keyword only, default 128
        Of ``"batched"``.
    seed : int, keyword only, default 0
        Decides what ``"sampled"`` and `n_samples` draw.

    Returns
    -------
    ndarray, shape (num_parameters,)
        In the order of ``model.flat_parameters``.

    Raises
    ------
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model.
    ArgumentError
        If an argument is out of range, or `y` is missing.
    UnsupportedError
        If the loss is no likelihood of those above.

    Notes
    -----
    No sample's gradient is ever formed. The square of a weight's gradient is a product of a slope
    and an input, so that the sum over samples is one product of matrices,
    :math:`(\delta^2)^T (a^2)` (Goodfellow 2015), and the expectation over C outputs can be taken of
    :math:`\delta^2` before it: C - 1 passes of slopes through the upper layers, and one product per
    layer, instead of C.

    A strength of EWC that is right for one `kind` is not for another: the sizes differ by orders of
    magnitude, above all between ``"batched"`` and the others (van de Ven 2025, arXiv:2502.11756).

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
    check_kind("kind", kind, likelihood_of(loss))
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
    )


def check_kind(name: str, kind: str, likelihood: str) -> str:
    """Give a kind of Fisher information, if there is such a one of this likelihood.

    Raises
    ------
    ArgumentError
        If it is no kind.
    UnsupportedError
        If the kind is of classes, and the likelihood is not.
    """
    kind = _checks.one_of(name, kind, KINDS)
    if kind == "weighted" and likelihood != "categorical":
        raise UnsupportedError(
            f'{name}="weighted" counts each sample by the probability of its label: it is for'
            ' nn.CrossEntropyLoss() only. "empirical" is there for all likelihoods'
        )
    if kind == "predicted" and likelihood == "gaussian":
        raise UnsupportedError(
            f'{name}="predicted" needs classes: where y is a number, the most probable one is the'
            " output itself, whose slope is 0"
        )
    return kind


def some_samples(n_samples: int | None) -> int | None:
    """Give how many samples are used; None is all."""
    return None if n_samples is None else _checks.integer("n_samples", n_samples, 1)


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
) -> Array:
    """Compute `fisher_diagonal`, or the mean size of the slope of the outputs' squared norm.

    That is of kind ``"norm"``, or ``"batched_norm"`` with the slope of each batch's mean.
    """
    samples, targets, likelihood, chosen, seed = prepare(
        model,
        x,
        y,
        loss=loss,
        labelled=kind in ("empirical", "batched", "weighted"),
        n_samples=n_samples,
        classes=classes,
        seed=seed,
    )
    batch_size = _checks.integer("batch_size", batch_size, 1)
    if kind == "predicted":
        kind, targets = "empirical", _most_probable(model(samples), likelihood, chosen)
    return _core.importance(
        model._core, samples, targets, likelihood, kind, chosen, seed, batch_size
    )


def _most_probable(outputs: Array, likelihood: str, classes: Sequence[int] | None) -> Any:
    """Give the y that a model thinks most likely, among some classes if they are given."""
    if likelihood == "bernoulli":
        return (outputs > 0).astype(outputs.dtype)
    if classes is not None:
        others = np.ones(outputs.shape[1], bool)
        others[[c for c in classes if c < len(others)]] = False  # what is wrong the core will say
        outputs = np.where(others, -np.inf, outputs)
    return outputs.argmax(axis=1)
