"""Kronecker factors of the Fisher information."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from thalweg import _checks, _core, _parts
from thalweg._arrays import Array
from thalweg._likelihood import prepare
from thalweg.nn import Loss, Sequential

KINDS = ("exact", "sampled", "empirical")


class KroneckerFactors(NamedTuple):
    """The two factors of a `nn.Linear` layer, as `kfac_factors` finds them."""

    #: Second moments of the layer's inputs, shape (in + 1, in + 1): those of the inputs with a 1
    #: **behind** them, for the bias; (in, in) if it has none.
    A: Array
    #: Second moments of the slopes by what the layer gives, shape (out, out).
    G: Array


def kfac_factors(
    model: Sequential,
    x: Any,
    y: Any = None,
    *,
    kind: str = "exact",
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

    with :math:`\bar a = (a, 1)`, what the layer takes with a 1 behind it for its bias, and
    :math:`\delta = -\partial \ln p(y \mid x) / \partial z` of what it gives,
    :math:`z = [W\ b]\,\bar a`.

    Parameters
    ----------
    model : Sequential
        Is left as it is. It is used as in evaluation: nothing is dropped, and `nn.BatchNorm1d`
        takes its running averages, since statistics of a batch would tie samples together.
    x : array_like, shape (n, in_features)
        The samples.
    y : array_like, optional
        Labels or targets as for the loss; only ``"empirical"`` needs them.
    kind : str, keyword only, default "exact"
        - ``"exact"``: the formula above, the expectation as a sum over all outputs. In other
          libraries it is type 2, without samples.
        - ``"sampled"``: one y for each sample, drawn from the model; type 1 or Monte Carlo.
        - ``"empirical"``: the y of the data. This is not the Fisher information.
    loss : Loss, keyword only, optional
        Which likelihood the outputs stand for: `nn.CrossEntropyLoss` (the default) is softmax,
        `nn.BCEWithLogitsLoss` an independent yes or no for each output, `nn.MSELoss` a normal
        distribution of variance 1, so that -ln p is *half* the squared error, summed over outputs.
        Weights, label smoothing and the reduction of the loss do not matter: both factors are
        means over samples, whatever the loss is.
    n_samples : int, keyword only, optional
        Use so many of the samples, drawn without replacement; all by default.
    classes : sequence of int, keyword only, optional
        Outputs that compete; the others are left out, as in a network with one head for each task.
    seed : int, keyword only, default 0
        Decides what ``"sampled"`` and `n_samples` draw.

    Returns
    -------
    dict of str to KroneckerFactors
        By the layer's place, as in the names of its parameters (``"0"``, ``"2.1"`` in a block), in
        their order. ``A`` and ``G`` are exactly symmetric, and of the model's dtype. Parameters of
        other layers have no factors.

    Raises
    ------
    ShapeError, DataError, DtypeError
        If the arrays do not fit the model.
    ArgumentError
        If an argument is out of range, or `y` is missing.
    UnsupportedError
        If the loss is no likelihood of those above.

    See Also
    --------
    thalweg.continual.fisher_diagonal : the diagonal, exactly; of the same likelihoods.
    Operator : products with the whole matrix.

    Notes
    -----
    ``numpy.kron(G, A)`` is over the elements of :math:`[W\ b]`, (out, in + 1), row by row: a weight
    (out, in) is ``numpy.c_[weight, bias]`` there. (Where vectors are stacked column by column, as
    in [1]_, it is :math:`A \otimes G`.)

    The product is the layer's block of the Fisher information where inputs and slopes are
    independent: for one sample, and for linear networks with `nn.MSELoss`, whose slopes do not
    depend on the sample. Else it is an approximation. Blocks between layers are left out.

    ``Operator(..., loss=nn.MSELoss(), kind="fisher")`` is 2 / outputs times as large, since that
    loss is the mean of squares over samples and outputs; for `nn.BCEWithLogitsLoss` 1 / outputs
    times, for `nn.CrossEntropyLoss` it is the same.

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
    _checks.one_of("kind", kind, KINDS)
    labelled = kind == "empirical"
    samples, targets, likelihood, chosen, seed = prepare(
        _parts.checked(model),
        x,
        y,
        loss=loss,
        labelled=labelled,
        n_samples=n_samples,
        classes=classes,
        seed=seed,
    )
    found = _core.kronecker(model._core, samples, targets, likelihood, kind, chosen, seed)
    return {layer: KroneckerFactors(a, g) for layer, a, g in found}
