"""Losses of outputs and their derivatives by the inputs."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any

import numpy as np

from thalweg import _arrays, _checks
from thalweg._arrays import Array
from thalweg._description import description
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn._losses._custom import FunctionLoss


def checked_order(order: Any) -> int | tuple[int, ...]:
    """Give the highest derivatives, of all directions or of each, if they are such."""
    if not isinstance(order, (list, tuple, np.ndarray)):
        return _checks.integer("order", order, 1, 2)
    if len(order) == 0:
        raise ArgumentError("order must be 1 or 2, or one of them for each direction; got none")
    return tuple(_checks.integer(f"order[{k}]", one, 1, 2) for k, one in enumerate(order))


@description
class DerivativeLoss(FunctionLoss):
    r"""A loss of the outputs and their first and second derivatives by the inputs.

    So a network learns the solution of a differential equation: the loss is what the equation
    leaves over, at points that the rows of `x` are, and what is known at the boundary (Raissi,
    Perdikaris & Karniadakis 2019, arXiv:1711.10561: physics-informed networks). Derivatives are
    exact: they go through the network along with the outputs, in one pass for all directions, and
    gradients come back from all of them in one.

    A trainer works as with `CustomLoss`. `optim.LBFGS` takes many of these problems further than
    steps of `optim.Adam` do.

    Parameters
    ----------
    function : callable
        Called as ``function(u, du, d2u, target)``, or with ``order=1`` as ``function(u, du,
        target)``; with ``sample_weight`` there is one argument more behind them, `weight`.

        * ``u[i, j]`` is output j of row i, of shape (n, out_features);
        * ``du[k, i, j]`` is its derivative along direction k, by input k unless `along` says
          otherwise, of shape (directions, n, out_features);
        * ``d2u[k, i, j]`` is the second derivative along the same direction, or the k-th of those
          that `order` asks second ones of.

        `target` holds the rows of `y` that belong to these, as they are: the points themselves,
        what acts on them, data. The function gives a tuple ``(loss, gradients)``: a number, and a
        tuple with an array for each of these, of the same shape: the derivatives of the loss by its
        elements. None in the place of one is an array of zeros. A third item is a dict of figures
        for the history, as from `CustomLoss`.

        Rows come shuffled and in parts, as batches. Where they are of several kinds, points inside
        and at the boundary, with and without a measurement, the function has to tell them by what
        `target` holds, for instance NaN for what is not known, and not by their places: these are
        those of `y` only with ``batch_size=None``.
    order : {2, 1} or a sequence of these, keyword only
        The highest derivatives; in a sequence those along each direction: with ``order=(2, 1)`` for
        inputs x and t, `d2u` holds :math:`u_{xx}` alone. What is not needed is not computed.
    along : array_like, shape (directions, in_features), keyword only, optional
        Directions, one in each row; those of the inputs, one after the other, by default. Mixed
        derivatives are differences: :math:`u_{xy} = (u_{vv} - u_{ww})/4` along
        :math:`v = (1, 1)` and :math:`w = (1, -1)`.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError, DataError
        If an argument is not as above.
    UnsupportedError
        By a `Trainer`, if the model has layers that these derivatives do not go through: they do
        through `Linear`, `Residual`, `Standardize`, `FourierFeatures` in front, and layers that
        work element by element, but `Dropout`. (Those with kinks have second derivatives of 0, from
        which nothing is learned: `Tanh`, `Sine`, `SiLU`, `GELU` or `Softplus` are usual here. Where
        a model has no others and `order` asks for second derivatives, the trainer warns.)

    Notes
    -----
    With d directions and s second derivatives a step takes about 1 + d + s times what one on the
    outputs takes, and keeps as many times the numbers of all layers and rows: for inputs as wide as
    images, give the few directions that matter.

    Examples
    --------
    −u″ = sin x between 0 and π, with u = 0 at both ends, is solved by sin x:

    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(0, np.pi, 50).reshape(-1, 1)
    >>> def poisson(u, du, d2u, x):
    ...     left_over, ends = -d2u[0] - np.sin(x), u * ((x == 0) | (x == np.pi))
    ...     loss = np.mean(left_over**2 + 50 * ends**2)
    ...     return loss, (100 * ends / len(x), None, -2 * left_over[np.newaxis] / len(x))
    >>> model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1), dtype="float64")
    >>> optimizer = optim.LBFGS(tolerance_change=0)  # or it would end before
    >>> trainer = tw.Trainer(model, loss=nn.DerivativeLoss(poisson), optimizer=optimizer)
    >>> history = trainer.fit(x, x, epochs=15, batch_size=None)
    >>> bool(np.abs(model(x) - np.sin(x)).max() < 1e-3)
    True
    """

    function: Callable[..., tuple[float, Any]]
    _: KW_ONLY
    order: int | Sequence[int] = 2
    along: Any = None

    def __post_init__(self) -> None:
        FunctionLoss.__post_init__(self)  # the class is made anew by `description`
        self._set(order=checked_order(self.order))
        if self.along is not None:
            along = np.atleast_2d(_arrays.finite(_arrays.as_numeric(self.along, "along"), "along"))
            if along.ndim != 2 or along.size == 0:
                raise ShapeError(
                    "along must have a row for each direction, with a number for each input; its "
                    f"shape is {np.shape(self.along)}"
                )
            self._set(along=tuple(tuple(float(x) for x in row) for row in along))

    def __call__(self, output: Any, target: Any) -> float:
        """Give the loss that the function says.

        Parameters
        ----------
        output : tuple of array_like
            What `thalweg.curvature.jet` gives: the outputs, and their derivatives.
        target : array_like
            As ``y`` of `thalweg.Trainer.fit`.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        ShapeError, DataError, DtypeError, ArgumentError
            If the arrays are not such, or the function gives something else than a loss and its
            gradients.
        """
        from thalweg import _custom  # which needs the losses

        return _custom.value(self, output, target)

    def gradient(self, output: Any, target: Any, sample_weight: Any = None) -> tuple[Array, ...]:
        """Give the gradients that the function says.

        Parameters
        ----------
        output : tuple of array_like
            As in a call.
        target, sample_weight : array_like
            As ``y`` and ``sample_weight`` of `thalweg.Trainer.fit`.

        Returns
        -------
        tuple of ndarray
            The derivatives of the loss by each array of `output`, of the same shape; zeros where
            the function gives None.

        Raises
        ------
        ShapeError, DataError, DtypeError, ArgumentError
            As from a call.
        """
        from thalweg import _custom

        return _custom.gradients(self, output, target, sample_weight)
