"""Clipping gradients in training loops written by hand; `thalweg.Trainer` has options for it.

Named as in ``torch.nn.utils``, and given the model where PyTorch is given its parameters.
"""

from thalweg import _checks
from thalweg.nn._sequential import Sequential

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def clip_grad_norm_(model: Sequential, max_norm: float) -> float:
    r"""Scale all gradients of a model down together, so that their norm is at most `max_norm`.

    .. math:: g \leftarrow g\,\min\!\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right)

    Parameters
    ----------
    model : Sequential
        Its `flat_gradients` are changed in place.
    max_norm : float
        The largest Euclidean norm `c`, above 0.

    Returns
    -------
    float
        The norm of the gradients before.

    Raises
    ------
    ArgumentError
        If `max_norm` is not such a number.
    DataError
        If a gradient is NaN or infinite; nothing is changed then.

    References
    ----------
    Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks",
    arXiv:1211.5063.

    Examples
    --------
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), dtype="float64")
    >>> model.flat_gradients = [3.0, 4.0]
    >>> nn.utils.clip_grad_norm_(model, 1.0)
    5.0
    >>> model.flat_gradients.round(4)
    array([0.6, 0.8])
    """
    limit = _checks.real("max_norm", max_norm, 0, closed="()")
    return model._core.clip_gradients(limit, None)


def clip_grad_value_(model: Sequential, clip_value: float) -> None:
    r"""Keep each gradient of a model between minus and plus `clip_value`.

    Parameters
    ----------
    model : Sequential
        Its `flat_gradients` are changed in place.
    clip_value : float
        The largest size, above 0.

    Raises
    ------
    ArgumentError
        If `clip_value` is not such a number.
    DataError
        If a gradient is NaN or infinite; nothing is changed then.
    """
    model._core.clip_gradients(None, _checks.real("clip_value", clip_value, 0, closed="()"))
