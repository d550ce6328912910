"""The layer that draws random numbers in training."""

from thalweg._description import description
from thalweg.nn._layers._base import Activation


@description
class Dropout(Activation):
    r"""Sets elements to zero at random in training, each with probability `p`.

    In training :math:`y = x\,m` with a factor :math:`m` that is 0 with probability `p`, else
    :math:`1 / (1 - p)`, so that the mean of `y` is `x`; :math:`dy/dx = m`. In evaluation
    :math:`y = x`. Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, JMLR 15; as in
    PyTorch and Keras.

    Parameters
    ----------
    p : float, default 0.5
        Probability that an element is set to zero, from 0 to 1.

    Raises
    ------
    ArgumentError
        If `p` is not such a number.

    Notes
    -----
    The factors follow from the model's seed, its number of training passes so far (steps of a
    trainer and calls of `forward`), the layer, the row's place in the batch and the column, and not
    from the number of threads. Copies and pickles of the model include the count of passes, and
    continue with the original's factors; like the state of PyTorch's generator, it is not in
    `Sequential.state_dict`. A failed fit restores it. `thalweg.gradcheck` keeps the factors fixed.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4, bias=False))
    >>> model.load_state_dict({"1.weight": np.eye(4)})
    >>> sorted(set(model.forward(np.ones((50, 4))).ravel().tolist()))
    [0.0, 2.0]
    >>> model(np.ones((1, 4)))
    array([[1., 1., 1., 1.]], dtype=float32)
    """

    _kind = "dropout"
    p: float = 0.5

    def __post_init__(self) -> None:
        self._check("p", 0, 1, "[]")
