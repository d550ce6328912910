"""Training: a model, a loss and an optimizer put together.

This module holds `Trainer` and its readable properties. `_base` constructs a trainer and prepares
data, `_batch` handles a single batch, `_fit` handles epochs, `_penalized` pulls parameters towards
given values, and `_file` saves and resumes.

Steps run in the core, or in a `_stepper`: one of `_custom`, `_hooked` and `_full_batch`. The
epochs of those, and all that come from iterables, are `_slices`: `_python_fit` and `_stream`.
"""

import math
import sys
from typing import Any

from thalweg import _checks, _habits
from thalweg._history import History
from thalweg._trainer import _logits
from thalweg._trainer._base import TrainerBase
from thalweg._trainer._batch import Batching
from thalweg._trainer._file import Resumable
from thalweg._trainer._fit import Fitting
from thalweg._trainer._penalized import Penalized
from thalweg._trainer._plan import Plan
from thalweg._trainer._stepper import Stepper
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Loss, Sequential
from thalweg.nn._losses import FunctionLoss, NoLoss, loss_of
from thalweg.optim import Optimizer
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule


class Trainer(Batching, Fitting, Penalized, Resumable):
    r"""Trains a model.

    Parameters
    ----------
    model : Sequential
        Trained in place.
    loss : Loss or callable, keyword only
        ``nn.CrossEntropyLoss()`` for class labels, ``nn.BCEWithLogitsLoss()`` for several labels at
        once, ``nn.MSELoss()`` for numbers; or a custom one, see `nn.CustomLoss`. None if the
        gradients always come from elsewhere: only `update` makes steps then.
    optimizer : Optimizer, keyword only
        E.g. ``optim.AdamW(lr=1e-3)``. It belongs to this model from now on; another model needs an
        optimizer of its own. Several trainers of the same model may share it.
    schedule : Schedule or ReduceLROnPlateau, keyword only, optional
        How the learning rate changes, e.g. ``schedules.OneCycleLR(max_lr=0.01)``; see
        `thalweg.optim.schedules`. It starts from the optimizer's current rate, counts the
        optimizer's steps, and sets ``optimizer.lr`` before each of them.
    clip_grad_norm : float, keyword only, optional
        The gradient of all parameters together is scaled down to at most this Euclidean norm
        before each update: :math:`g \leftarrow g \min(1, c / (\lVert g \rVert + 10^{-6}))`,
        as in PyTorch's ``clip_grad_norm_``. With ``math.inf`` nothing is scaled; `grad_norm` is
        still known.
    clip_grad_value : float, keyword only, optional
        Each component of the gradient is clipped to between minus and plus this value. Not together
        with `clip_grad_norm`.
    accumulate_grad_batches : int, keyword only, default 1
        Number of batches whose gradients are averaged for one update. The last update of an epoch
        of `fit` averages the batches that remain. `fit` drops gradients of earlier calls of `step`
        or `update` that still wait for an update.
    average : optim.EMA or optim.SWA, keyword only, optional
        Keeps an average of the parameters over the updates; see `average_model`.
    precision : str, keyword only, optional
        Precision of the matrix products in training; by default that of the model, "float32" or
        "float64". Models in float32 can train in "bfloat16" on CPUs with AVX-512 BF16 (Xeons since
        2023, AMD's Zen 4 and later), and in "bf16x3" or "bf16x6" on CPUs with tiles (AMX); see
        Notes.

    Raises
    ------
    ArgumentError
        If an argument is of the wrong kind, both kinds of clipping are given, or the optimizer
        belongs to another model.
    ShapeError
        If the loss needs a different number of outputs.
    UnsupportedError
        If this machine or version does not support the precision; another is never used silently.
        Or if there is no loss, and the optimizer evaluates it more than once per update.

    Notes
    -----
    Without clipping and accumulation, each parameter's gradient is used immediately, while it is in
    cache. With them, it is written to memory, and the update is a second pass over the parameters.

    In a reduced precision, the operands of a dense layer's products are written as sums of one, two
    or three parts, each of them what remains, rounded to bfloat16, :math:`x = x_0 + x_1 + x_2`, and
    the significant products of parts are summed in float32:

    ============  ==========================================================  =====================
    "bfloat16"    :math:`x_0 y_0`                                              some 0.4 % off
    "bf16x3"      :math:`x_0 y_0 + x_0 y_1 + x_1 y_0`                          some :math:`10^{-5}`
    "bf16x6"      :math:`\ldots + x_1 y_1 + x_0 y_2 + x_2 y_0`                 about as float32
    ============  ==========================================================  =====================

    (Henry, Tang & Heinecke 2019, arXiv:1904.06376; the names are those of JAX.) Parameters, their
    updates, activations, losses and normalizations stay in float32. So do layers with fewer than 32
    inputs or outputs, batches of fewer than 32 rows, and everything that does not train: `evaluate`
    and the model itself. Products in bfloat16 treat numbers below :math:`2^{-126}` as 0.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.05))
    >>> history = trainer.fit(x, x[:, 0] ^ x[:, 1], epochs=200, batch_size=4)
    >>> model(x).argmax(axis=1)
    array([0, 1, 1, 0])
    """

    # Read-only, because the core holds on to the objects it was made with.
    @property
    def model(self) -> Sequential:
        """The model being trained."""
        return self._model

    @property
    def loss(self) -> Loss | Any:  # rather than `| None`: nearly every trainer has one
        """The loss being minimized; `nn.CustomLoss` if a function was given, None if there is none.

        It may be replaced between fits and steps, e.g. by one with other active classes; everything
        else continues.

        Examples
        --------
        >>> import dataclasses, thalweg as tw
        >>> from thalweg import nn, optim
        >>> loss = nn.CrossEntropyLoss(active=(0, 1))
        >>> model = nn.Sequential(nn.Linear(2, 4))
        >>> trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
        >>> trainer.loss = dataclasses.replace(trainer.loss, active=(0, 1, 2))
        """
        return None if isinstance(self._loss, NoLoss) else self._loss

    @loss.setter
    def loss(self, loss: Loss) -> None:
        loss = loss_of(loss)
        if self._fitting:
            raise ArgumentError("the loss cannot change during a fit: set it between fits")
        functions = isinstance(loss, FunctionLoss), isinstance(self._loss, FunctionLoss)
        if isinstance(self._optimizer, FullBatchOptimizer) or functions[0] != functions[1]:
            raise UnsupportedError(
                "loss can be set only if the optimizer takes batches, and if the old and the new "
                "loss are both losses of thalweg.nn or both functions; make another Trainer "
                "instead"
            )
        _logits.check(self._model, loss)  # before anything changes: a warning may be raised
        self._set_loss(loss)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; its `lr` may be changed between steps and between epochs.

        This does not apply under a `schedule` that is a function of time, which sets the rate
        before each step: it is based on the rate that the optimizer had when the trainer was made,
        or on that of ``fit(..., lr=...)``. A rate set in between has no effect, and `fit` warns
        about it.
        """
        return self._optimizer

    @property
    def schedule(self) -> Schedule | ReduceLROnPlateau | None:
        """How the learning rate changes, if it does."""
        return self._schedule

    @property
    def precision(self) -> str:
        """The precision of the matrix products in training."""
        return self._precision or self._model.dtype.name

    @property
    def history(self) -> History:
        """The figures of the latest `fit` only, even if it was interrupted or failed."""
        return self._history

    @property
    def epochs(self) -> int:
        """The number of epochs completed, over all fits; those that were undone do not count."""
        return self._epochs

    @property
    def grad_norm(self) -> float | None:
        """Norm of the gradient of the latest update, before ``clip_grad_norm`` scaled it down.

        None before the first update, and for trainers that do not clip by norm: without clipping, a
        gradient is usually consumed part by part and never exists as a whole.
        """
        return self._core.grad_norm()

    @property
    def figures(self) -> dict[str, float]:
        """Figures that the loss function returned for the latest batch; see `nn.CustomLoss`.

        The batch may be one of `step`, `backward` or `fit`. With `optim.LBFGS` and
        `optim.LevenbergMarquardt`, also the figures of the optimizer's latest step, which the
        history has too. Empty if there are none; a trainer that was copied or loaded begins anew.
        """
        return dict(self._core.figures) if isinstance(self._core, Stepper) else {}

    def average_model(self) -> Sequential:
        """Return the model with averaged parameters.

        The average is the ``average`` that this trainer was made with, or that of
        `optim.ScheduleFreeAdamW`.

        Returns
        -------
        Sequential
            A copy; the trained model is unchanged. The running averages of `nn.BatchNorm1d` are
            still those of the trained model and do not match the averaged parameters: see
            `nn.Sequential.recalibrate`.

        Raises
        ------
        ArgumentError
            If there is no average, or it does not contain any parameters yet.
        """
        if self._averaging is not None:
            return self._averaging.average_model(self._model)
        average = self._core.average()
        if average is None:
            raise ArgumentError(
                "this trainer was made without an average, e.g. average=optim.EMA()"
            )
        values, count = average
        if count == 0:
            raise ArgumentError(
                f"{self._average!r} has not averaged any parameters yet, after "
                f"{self._optimizer.steps} updates"
            )
        return self._model._with_parameters(values)

    @_habits.takes("Trainer.plan()", {"x": "it is batch_size, a number of rows"})
    def plan(self, batch_size: int) -> Plan:
        """Describe how the core runs a step of `batch_size` rows: kernels, tiles, threads.

        Parameters
        ----------
        batch_size : int
            Number of rows in the batch, at least 1.

        Returns
        -------
        Plan
            ``plan.explain()`` prints it, and ``plan.workspace_bytes`` is the memory it takes.

        Raises
        ------
        UnsupportedError
            With a custom loss or a gradient hook, or for `optim.LBFGS` and
            `optim.LevenbergMarquardt`: their steps are several passes.
        """
        return Plan(*self._core.plan(_checks.integer("batch_size", batch_size, 1)))

    def __repr__(self) -> str:
        given = {**self._description(), "loss": None, "optimizer": None}
        if given["accumulate_grad_batches"] == 1:
            given["accumulate_grad_batches"] = None
        if given["clip_grad_norm"] == sys.float_info.max:
            given["clip_grad_norm"] = math.inf  # as it was given
        # Unused options are not shown.
        more = "".join(f"  {name}={x!r},\n" for name, x in given.items() if x is not None)
        model = repr(self._model).replace("\n", "\n  ")
        done = f"{self._epochs} epochs" if self._epochs != 1 else "1 epoch"
        return (
            f"Trainer(\n  model={model},\n  loss={self._loss!r},\n"
            f"  optimizer={self._optimizer!r},\n{more}"
            f")  # after {done}, {self._optimizer.steps} updates"
        )


_habits.name_methods("Trainer", TrainerBase, Batching, Fitting, Penalized, Resumable)
