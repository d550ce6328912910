"""Losses defined by the user."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Array, Targets
from thalweg._description import description
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn._losses._base import OWN, Loss, LossFunction


@description
class FunctionLoss(Loss):
    """Base of losses that are user-defined functions, which also return their gradients."""

    function: LossFunction

    def __post_init__(self) -> None:
        if isinstance(self.function, (type, Loss)) or not callable(self.function):
            more = f": {OWN}" if isinstance(self.function, Loss) else ""
            raise ArgumentError(
                f"function must be callable; got {_checks.given(self.function)}{more}"
            )


@description
class CustomLoss(FunctionLoss):
    """A custom loss: a function that returns its value and its gradient at the outputs.

    A `Trainer` also takes the bare function. Steps are then a forward pass, a call of the function,
    a backward pass and a step of the optimizer: correct, but without the savings from fusing them.
    They leave the gradients of the update in ``model.flat_gradients``, averaged if several batches
    make one update, and clipped. Everything else in a trainer works the same: schedules, clipping,
    averages, batches from an iterable, and all optimizers except `optim.LevenbergMarquardt`, which
    needs residuals. `optim.SAM` calls the function twice per step, `optim.LBFGS` at each point that
    it evaluates.

    Parameters
    ----------
    function : callable
        Called as ``function(output, target)``; returns a tuple ``(loss, gradient)``, a number and
        an array of the shape of `output`, where ``gradient[i, j]`` is the derivative of the loss
        with respect to ``output[i, j]``. `output` is a fresh array of shape (n, out_features) and
        the model's dtype, which may be overwritten. `target` holds the corresponding rows of `y`,
        unchanged and read-only: to change them, copy them. They may be NaN, if the function handles
        that. If `y` is a dict of arrays with equally many rows, `target` is a dict of the
        corresponding rows of each: ``target["advantage"]``. `fit` shuffles rows into batches, so a
        row must be identified by its contents, not by its position; batches that are given to
        `fit` keep their rows in order.

        With ``sample_weight`` it is called as ``function(output, target, weight)``; with the
        default ``weight=None``, one function serves both. How to use the weights, and whether to
        average over the batch, is up to the function. The loss of an epoch is the mean over its
        batches, weighted by their numbers of rows or the sums of their weights.

        A third item, ``(loss, gradient, figures)``, is a dict of named numbers, such as the parts
        of the loss. Their means over the batches of each epoch, computed like that of the loss, are
        recorded in the history (for validation data as ``"val_..."``), and `Trainer.evaluate`
        returns them too; `Trainer.figures` has those of the latest batch. A figure that is NaN or
        left out in a batch does not count in its mean.

        Evaluations, line searches and `gradcheck` call the function as steps do, so it must change
        nothing but `output`. It may call ``model(x)``, but not ``model.forward(x)`` or a trainer
        with a custom loss, which would replace the pass that its gradient goes back through, nor
        take steps: to add up gradients of several losses, call `Trainer.backward` of each and then
        `Trainer.update`. `gradcheck` tells whether the gradient is that of the loss. A file written
        by `Trainer.save` does not contain the function; ``Trainer.load(path, loss=function)``
        restores it.

    Raises
    ------
    ArgumentError
        If `function` cannot be called.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> def log_cosh(output, target):
    ...     d = output - target
    ...     return np.log(np.cosh(d)).mean(), np.tanh(d) / d.size
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> bool(tw.gradcheck(model, np.eye(3), np.ones((3, 2)), loss=log_cosh))
    True
    >>> trainer = tw.Trainer(model, loss=nn.CustomLoss(log_cosh), optimizer=optim.Adam(lr=0.1))
    >>> losses = trainer.fit(np.eye(3), np.ones((3, 2)), epochs=50)["loss"]
    >>> losses[-1] < 0.01 * losses[0]
    True
    """

    def __call__(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> float:
        """Return the function's loss; see `Loss.__call__`."""
        from thalweg import _calls  # it imports the losses

        return _calls.of_outputs(self, (output,), target, sample_weight)[0]

    def gradient(
        self, output: npt.ArrayLike, target: Targets, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """Return the function's gradient; see `Loss.gradient`."""
        from thalweg import _calls

        return _calls.of_outputs(self, (output,), target, sample_weight)[1][0]


def _refuse(*_: Any) -> Any:
    raise UnsupportedError(
        "this trainer was made with loss=None: it can only use trainer.update(), which makes an "
        "update from the gradients in the model; everything else needs a loss"
    )


@description
class NoLoss(FunctionLoss):
    """Takes the place of a loss in a trainer that has none and only makes updates."""

    function: LossFunction = _refuse

    def __repr__(self) -> str:
        return "None"
