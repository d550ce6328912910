"""Losses on outputs and their derivatives with respect to the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Array, Targets
from thalweg._description import description
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn._losses._base import LossFunction
from thalweg.nn._losses._custom import FunctionLoss


def checked_order(order: Any) -> int | tuple[int, ...]:
    """Return `order`, the highest derivative for all directions or for each, if it is valid."""
    if not isinstance(order, (list, tuple, np.ndarray)) or getattr(order, "ndim", 1) == 0:
        return _one_order("order", order)
    if len(order) == 0:
        raise ArgumentError(
            "order must be 1 or 2, or a sequence with one of them for each direction; got an "
            "empty sequence"
        )
    return tuple(_one_order(f"order[{k}]", one) for k, one in enumerate(order))


def _one_order(name: str, order: Any) -> int:
    try:
        return _checks.integer(name, order, 1, 2)
    except ArgumentError as error:
        raise ArgumentError(f"{error}. For u_xxx, make u_xx another output of the model") from None


def checked_along(along: Any) -> Array:
    """Return `along`, a matrix with one direction in each row, if it is valid."""
    given = _arrays.finite(_arrays.as_numeric(along, "along"), "along")
    if given.ndim != 2 or given.size == 0:
        # (0, 1) may be a direction, or stand for two inputs.
        advice = ". For a direction v it is [v]; for inputs 0 and 1, np.eye(in_features)[[0, 1]]"
        raise ShapeError(
            "along must have one row per direction, with one number per input; got shape "
            f"{given.shape}{advice if given.ndim == 1 else ''}"
        )
    return given


@description
class DerivativeLoss(FunctionLoss):
    r"""A loss on the outputs and their first and second derivatives with respect to the inputs.

    With it, a network learns the solution of a differential equation: the loss consists of the
    residual of the equation at the points given by the rows of `x`, and of what is known at the
    boundary (Raissi, Perdikaris & Karniadakis 2019, arXiv:1711.10561: physics-informed networks).
    The derivatives are exact: they are propagated through the network along with the outputs, in
    one pass for all directions, and one backward pass propagates the gradients of all of them.

    A trainer works as with `CustomLoss`. On many of these problems, `optim.LBFGS` gets further than
    `optim.Adam`.

    Parameters
    ----------
    function : callable
        Called as ``function(u, du, d2u, target)``, or with ``order=1`` as ``function(u, du,
        target)``; with ``sample_weight``, `weight` is an additional last argument.

        * ``u[i, j]`` is output j of row i, of shape (n, out_features);
        * ``du[k, i, j]`` is its derivative along direction k, with respect to input k unless
          `along` says otherwise, of shape (directions, n, out_features);
        * ``d2u[k, i, j]`` is the second derivative along the same direction, or along the k-th of
          those for which `order` asks for second derivatives.

        They may be overwritten. `target` holds the corresponding rows of `y`, unchanged and
        read-only: the points themselves, source terms, data. If `y` has shape (n,), so has
        `target`, and ``u - target`` would be the differences of all pairs of rows, of shape (n, n):
        give it a column, ``y[:, None]``. The function returns a tuple ``(loss,
        gradients)``: a number, and a tuple with one array for each of ``u``, ``du`` and ``d2u``, of
        the same shape: the derivatives of the loss with respect to its elements. None stands for an
        array of zeros. A third item is a dict of figures for the history, as from `CustomLoss`.

        Rows are shuffled and come in batches. If they are of several kinds, inside and at the
        boundary, with and without a measurement, the function has to distinguish them by the
        contents of `target`, for instance NaN for what is not known, and not by their positions,
        which match those of `y` only with ``batch_size=None``. Rows that belong together come in
        batches of your own, ``fit(batches)``, whose rows stay in order.
    order : {2, 1} or a sequence of these, keyword only
        The highest derivative, or a sequence of the highest along each direction: with ``order=(2,
        1)`` for inputs x and t, `d2u` holds :math:`u_{xx}` alone. Derivatives not asked for are not
        computed. For :math:`u_{xxx}`, make :math:`u_{xx}` another output `w`, with
        :math:`(w - u_{xx})^2` in the loss, and use :math:`w_x`.
    along : array_like, shape (directions, in_features), keyword only, optional
        Directions, one per row, even if there is only one; by default those of the inputs, in
        order. With ``np.eye(3)[:2]``, nothing is differentiated with respect to the last of three
        inputs. Mixed derivatives are
        differences: :math:`u_{xy} = (u_{vv} - u_{ww})/4` along :math:`v = (1, 1)` and
        :math:`w = (1, -1)`.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError, DataError
        If an argument is not as described above.
    UnsupportedError
        From a `Trainer`, if the model has layers that do not support these derivatives. `Linear`,
        `Residual`, `Concatenate`, `Standardize`, element-wise layers except `Dropout`, and
        `FourierFeatures` with nothing but `Standardize` before it support them, and with
        ``order=1`` also `LayerNorm` and `RMSNorm`; in place of `Embedding` or `TabularInput`, use
        one-hot columns, and `along` for the other ones.
        (Activations with kinks have second derivatives of 0, from which nothing is learned: `Tanh`,
        `Sine`, `SiLU`, `GELU` or `Softplus` are usual here. The trainer warns if a model has no
        others and `order` asks for second derivatives.)

    Notes
    -----
    With d directions and s second derivatives, a step takes about 1 + d + s times as long as one on
    the outputs alone, and stores that many times the numbers of all layers and rows: for inputs as
    wide as images, choose the few directions that matter. First derivatives alone, along more than
    twice as many directions as there are outputs, are computed by going back from the outputs:
    then a step takes about 1 + m times as long with m outputs, however many inputs there are.

    Examples
    --------
    The solution of −u″ = sin x between 0 and π, with u = 0 at both ends, is sin x:

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

    function: LossFunction
    _: KW_ONLY
    order: int | Sequence[int] = 2
    along: Any = None

    def __post_init__(self) -> None:
        FunctionLoss.__post_init__(self)  # `description` creates the class anew, so no super()
        self._set(order=checked_order(self.order))
        if self.along is not None:
            along = checked_along(self.along)
            self._set(along=tuple(tuple(float(x) for x in row) for row in along))
        from thalweg import _calls  # it imports the losses

        _calls.check_order(self)

    def __call__(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> float:
        """Return the loss that the function gives.

        Parameters
        ----------
        output : tuple of array_like
            The result of `thalweg.curvature.jet`: the outputs and their derivatives.
        target, sample_weight : array_like
            As ``y`` and ``sample_weight`` of `thalweg.Trainer.fit`.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        ShapeError, DataError, DtypeError, ArgumentError
            If the arrays do not fit, or the function does not return a loss and its gradients.
        """
        from thalweg import _calls  # it imports the losses

        return _calls.of_outputs(self, output, target, sample_weight)[0]

    def gradient(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> tuple[Array, ...]:
        """Return the gradients that the function gives.

        Parameters
        ----------
        output : tuple of array_like
            As in a call.
        target, sample_weight : array_like
            As ``y`` and ``sample_weight`` of `thalweg.Trainer.fit`.

        Returns
        -------
        tuple of ndarray
            The derivatives of the loss with respect to each array of `output`, of the same shape;
            zeros where the function gives None.

        Raises
        ------
        ShapeError, DataError, DtypeError, ArgumentError
            As in a call.
        """
        from thalweg import _calls

        return _calls.of_outputs(self, output, target, sample_weight)[1]
