"""Losses of the user's own."""

from collections.abc import Callable
from typing import Any

from thalweg._arrays import Array
from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.nn._losses._base import OWN, Loss


@description
class FunctionLoss(Loss):
    """Base of losses that are functions of the user's own, which give their gradients, too."""

    function: Callable[..., tuple[float, Any]]

    def __post_init__(self) -> None:
        if isinstance(self.function, (type, Loss)) or not callable(self.function):
            more = f": {OWN}" if isinstance(self.function, Loss) else ""
            raise ArgumentError(f"function must be callable; got {self.function!r}{more}")


@description
class CustomLoss(FunctionLoss):
    """A loss of your own: a function that gives its value and its gradient by the outputs.

    A `Trainer` takes the bare function as well. Steps are then a forward pass, a call of the
    function, a backward pass and a step of the optimizer: correct, but without what fusing them
    saves. They leave their gradients in ``model.flat_gradients``: those of the update, where
    several batches make one, clipped. Whatever else a trainer does it does here: schedules, limits,
    averages, batches from an iterable, every optimizer but `optim.LevenbergMarquardt`, which needs
    residuals. `optim.SAM` calls the function twice a step, `optim.LBFGS` for each point that it
    looks at.

    Parameters
    ----------
    function : callable
        Called as ``function(output, target)`` and gives a tuple ``(loss, gradient)``, a number and
        an array of the shape of `output`, ``gradient[i, j]`` being the derivative of the loss by
        ``output[i, j]``. `output` is a fresh array of shape (n, out_features) and of the model's
        dtype, which may be overwritten; `target` holds the rows of `y` that belong to it, as they
        are: they may be NaN, where the function says what that means. Where `y` is a dict of arrays
        of as many rows, `target` is an array of records, with the rows of each under its name:
        ``target["advantage"]``. Rows come shuffled and in parts, so that what a row is must be told
        by what it holds, and not by its place.

        With ``sample_weight`` it is called as ``function(output, target, weight)``; with a default,
        ``weight=None``, one function serves both. What becomes of the weights is its own affair.
        Any mean over the batch is too; the loss of an epoch is the mean of its batches', by their
        numbers of rows or the sums of their weights.

        A third item, ``(loss, gradient, figures)``, is a dict of numbers by name, such as the parts
        of the loss. Their means over the batches of each epoch, taken as those of the loss, are in
        the history, of validation data as ``"val_..."``, and `Trainer.evaluate` gives them too. A
        figure that a batch does not have is NaN, or left out, and does not count in its mean.

        Evaluations, line searches and `gradcheck` call the function as steps do, so that it must
        change nothing but what it is given. `gradcheck` tells whether the gradient is that of the
        loss. A file of `Trainer.save` is without the function; ``Trainer.load(path,
        loss=function)`` puts it back.

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

    def __call__(self, output: Any, target: Any) -> float:
        """Give the loss that the function says; see `Loss.__call__`."""
        from thalweg import _custom  # which needs the losses

        return _custom.value(self, (output,), target)

    def gradient(self, output: Any, target: Any, sample_weight: Any = None) -> Array:
        """Give the gradient that the function says; see `Loss.gradient`."""
        from thalweg import _custom

        return _custom.gradients(self, (output,), target, sample_weight)[0]
