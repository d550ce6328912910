"""Kronecker factors of the Fisher information."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy.typing as npt

from thalweg import _checks, _core, _parts
from thalweg._arrays import Array
from thalweg._habits import takes
from thalweg._likelihood import of_core, prepare, rounded
from thalweg.nn import Loss, Sequential

Kind: TypeAlias = Literal["exact", "sampled", "empirical"]


class KroneckerFactors(NamedTuple):
    """The two factors of an `nn.Linear` layer, as `kfac_factors` computes them."""

    #: Second moments of the layer's inputs, shape (in + 1, in + 1): of the inputs with a 1
    #: **appended** for the bias; (in, in) without a bias.
    A: Array
    #: Second moments of the gradients with respect to the layer's outputs, shape (out, out).
    G: Array


@takes("curvature.kfac_factors", {})
def kfac_factors(
    model: Sequential,
    x: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    kind: Kind = "exact",
    loss: Loss | None = None,
    n_samples: int | None = None,
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, KroneckerFactors]:
    r"""Compute the Kronecker factors of the Fisher information of each `nn.Linear` layer.

    .. math:: F_\ell \approx G_\ell \otimes A_\ell, \qquad
              A_\ell = \frac1N \sum_{n=1}^N \bar a_n \bar a_n^\top, \qquad
              G_\ell = \frac1N \sum_{n=1}^N
                       \mathbb{E}_{y \sim p(\cdot \mid x_n)} [\delta_n \delta_n^\top]

    with :math:`\bar a = (a, 1)`, the layer's inputs with a 1 appended for its bias, and
    :math:`\delta = -\partial \ln p(y \mid x) / \partial z` for its outputs
    :math:`z = [W\ b]\,\bar a`.

    Parameters
    ----------
    model : Sequential
        Left unchanged. It is used as in evaluation: nothing is dropped, and `nn.BatchNorm1d` uses
        its running averages, since batch statistics would couple samples.
    x : array_like, shape (n, in_features)
        The samples.
    y : array_like, optional
        Labels or targets as for the loss. Only ``"empirical"`` needs them, and a loss with several
        heads, as in `thalweg.continual.fisher_diagonal`; rows with ignored labels are left out.
    kind : str, keyword only, default "exact"
        - ``"exact"``: the formula above, with the expectation as a sum over all outputs. Other
          libraries call it type 2, without sampling.
        - ``"sampled"``: one y for each sample, drawn from the model; elsewhere type 1 or Monte
          Carlo.
        - ``"empirical"``: the y of the data. This is not the Fisher information.
    loss : Loss, keyword only, optional
        Which likelihood the outputs represent: `nn.CrossEntropyLoss` (the default) is softmax,
        `nn.BCEWithLogitsLoss` an independent yes or no for each output, `nn.MSELoss` a normal
        distribution of variance 1, so that -ln p is *half* the squared error, summed over outputs,
        `nn.GaussianNLLLoss` one of the variance that the model predicts, `nn.PoissonNLLLoss` a
        count. Its `heads`, `active` and `ignore_index` count. Weights, label smoothing and the
        reduction of the loss do not: both factors are means over samples, whatever the loss.
    n_samples : int, keyword only, optional
        Use this many of the samples, drawn without replacement; all by default.
    classes : sequence of int, keyword only, optional
        Outputs that compete, instead of the loss's `active`; the others are left out, as in a
        network with one head for each task.
    seed : int, keyword only, default 0
        Seed of what ``"sampled"`` and `n_samples` draw.

    Returns
    -------
    dict of str to KroneckerFactors
        Keyed by the layer's position, as in the names of its parameters (``"0"``, ``"2.1"`` in a
        block), in their order. ``A`` and ``G`` are exactly symmetric, and of the model's dtype.
        Parameters of other layers have no factors.

    Raises
    ------
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model; for ``"sampled"`` also if it predicts a rate above 1e10,
        or a variance that is infinite in float64.
    ArgumentError
        If an argument is out of range, or `y` is missing; for a softmax of one output; if second
        moments are too large for the model's dtype.
    UnsupportedError
        If the loss is not one of the likelihoods above.

    See Also
    --------
    thalweg.continual.fisher_diagonal : the exact diagonal, for the same likelihoods.
    Operator : products with the whole matrix.

    Notes
    -----
    ``numpy.kron(G, A)`` refers to the elements of :math:`[W\ b]`, (out, in + 1), row by row: a
    weight (out, in) and its bias are ``numpy.c_[weight, bias]``. (Where matrices are vectorized
    column by column, as in [1]_, it is :math:`A \otimes G`.)

    The product equals the layer's block of the Fisher information where inputs and gradients are
    independent: for one sample, and for linear networks with `nn.MSELoss`, whose expected
    :math:`\delta \delta^\top` does not depend on the sample. Otherwise it is an approximation.
    Blocks between layers are left out.

    ``Operator(..., loss=nn.MSELoss(), kind="fisher")`` is 2 / outputs times as large, since that
    loss is the mean of squares over samples and outputs; 1 / outputs times for
    `nn.BCEWithLogitsLoss`; and equal for `nn.CrossEntropyLoss`.

    References
    ----------
    .. [1] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015, arXiv:1503.05671.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(1, 1), dtype="float64")
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> factors = tw.curvature.kfac_factors(model, x, loss=nn.MSELoss())
    >>> factors["0"].A  # means of x squared, x and 1
    array([[4.66666667, 2.        ],
           [2.        , 1.        ]])
    >>> factors["0"].G
    array([[1.]])
    """
    _checks.one_of("kind", kind, get_args(Kind))
    labelled = kind == "empirical"
    parts = prepare(
        _parts.checked(model),
        x,
        y,
        loss=loss,
        n_samples=n_samples,
        classes=classes,
        seed=seed,
    )
    found = []
    for ready in parts:
        of = of_core(model, ready if labelled else ready._replace(y=None), kind, loss)
        found.append(
            _core.kronecker(
                of.model._core, of.samples, of.y, of.likelihood, of.kind, ready.classes, ready.seed
            )
        )
    shares = [model.dtype.type(ready.share) for ready in parts]

    def mean(layer: str, matrices: Iterable[Array]) -> Array:
        total = sum(s * one for s, one in zip(shares, matrices, strict=True))
        return rounded(total, model.dtype, f"second moments for {layer}.weight")

    factors = {}
    for same in zip(*found, strict=True):
        (name, *_), inputs, slopes = zip(*same, strict=True)
        factors[name] = KroneckerFactors(mean(name, inputs), mean(name, slopes))
    return factors
