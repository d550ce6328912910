"""Training: a model, a loss and an optimizer put together.

Here is `Trainer` and what can be read of it. `_base` makes one and makes data ready, `_batch` is
what it does with a batch, `_fit` with epochs of them, `_penalty` pulls parameters to given values,
`_file` saves and resumes.
"""

from thalweg import _checks, _core, _habits
from thalweg._custom import CustomTrainer
from thalweg._history import History
from thalweg._plan import Plan
from thalweg._trainer._base import TrainerBase
from thalweg._trainer._batch import Batching
from thalweg._trainer._file import Resumable
from thalweg._trainer._fit import Fitting
from thalweg._trainer._penalty import Penalized
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Loss, Sequential
from thalweg.nn._losses import FunctionLoss, loss_of
from thalweg.optim import Optimizer
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule


class Trainer(Batching, Fitting, Penalized, Resumable):
    r"""Trains a model.

    Parameters
    ----------
    model : Sequential
        Is trained in place.
    loss : Loss or callable, keyword only
        ``nn.CrossEntropyLoss()`` for class labels, ``nn.BCEWithLogitsLoss()`` for several labels at
        once, ``nn.MSELoss()`` for numbers; or one of your own, see `nn.CustomLoss`.
    optimizer : Optimizer, keyword only
        E.g. ``optim.AdamW(lr=1e-3)``; belongs to this model from now on, and another model needs
        another one. Several trainers of one model may share it.
    schedule : Schedule or ReduceLROnPlateau, keyword only, optional
        How the learning rate changes, e.g. ``schedules.OneCycleLR(max_lr=0.01)``; see
        `thalweg.optim.schedules`. It starts from the rate that the optimizer has now, counts the
        optimizer's steps, and sets ``optimizer.lr`` before each of them.
    clip_grad_norm : float, keyword only, optional
        The gradient of all parameters together is scaled down to at most this Euclidean norm
        before each update: :math:`g \leftarrow g \min(1, c / (\lVert g \rVert + 10^{-6}))`,
        as by PyTorch's ``clip_grad_norm_``.
    clip_grad_value : float, keyword only, optional
        Each component of the gradient is kept within plus and minus this.
    accumulate_grad_batches : int, keyword only, default 1
        Batches whose gradients are averaged for one update; at the end of an epoch of `fit`, as
        many as are left.
    average : optim.EMA or optim.SWA, keyword only, optional
        Keeps an average of the parameters over the updates, which `average_model` gives.
    precision : str, keyword only, optional
        Precision of the products of training; by default that of the model, "float32" or "float64".
        Models of float32 can train in "bfloat16" on CPUs with AVX-512 BF16 (Xeons since 2023, AMD's
        Zen 4 and later), and in "bf16x3" or "bf16x6" on those with tiles (AMX), see Notes.

    Raises
    ------
    ArgumentError
        If an argument is of the wrong kind, or the optimizer belongs to another model.
    ShapeError
        If the loss needs another number of outputs.
    UnsupportedError
        If this machine or version does not have the precision; never is another one used silently.

    Notes
    -----
    Without clipping and accumulation a parameter's gradient is used up on the spot, while it is in
    cache. With them it is written, and the update is a second pass over the parameters.

    In a precision that splits numbers, those that a dense layer multiplies are written as sums of
    one, two or three parts, each what bfloat16 makes of what is left, :math:`x = x_0 + x_1 + x_2`,
    and the products of parts that matter are added up in float32:

    ============  ==========================================================  =====================
    "bfloat16"    :math:`x_0 y_0`                                              some 0.3 % off
    "bf16x3"      :math:`x_0 y_0 + x_0 y_1 + x_1 y_0`                          some :math:`10^{-5}`
    "bf16x6"      :math:`\ldots + x_1 y_1 + x_0 y_2 + x_2 y_0`                 about as float32
    ============  ==========================================================  =====================

    (Henry, Tang & Heinecke 2019, arXiv:1904.06376; the names are those of JAX.) Parameters, their
    updates, activations, losses and normalizations stay in float32, and so do layers of fewer than
    32 inputs or outputs, batches of fewer than 32 rows, and all that does not train: `evaluate` and
    the model itself. Products of bfloat16 take numbers below :math:`2^{-126}` for 0.

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

    # Read-only, because the core holds on to the objects that it was made with.
    @property
    def model(self) -> Sequential:
        """The model that is trained."""
        return self._model

    @property
    def loss(self) -> Loss:
        """The loss that is made small; `nn.CustomLoss` if a function was given.

        Another one may be set between fits and steps, e.g. with other classes active; everything
        else goes on.

        Examples
        --------
        >>> import dataclasses, thalweg as tw
        >>> from thalweg import nn, optim
        >>> loss = nn.CrossEntropyLoss(active=(0, 1))
        >>> model = nn.Sequential(nn.Linear(2, 4))
        >>> trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
        >>> trainer.loss = dataclasses.replace(trainer.loss, active=(0, 1, 2))
        """
        return self._loss

    @loss.setter
    def loss(self, loss: Loss) -> None:
        loss = loss_of(loss)
        if self._fitting:
            raise ArgumentError("the loss cannot change during a fit: set it between fits")
        if isinstance(loss, FunctionLoss) and isinstance(self._core, CustomTrainer):
            self._core.set_loss(loss)
            self._loss = loss
            return
        if isinstance(loss, FunctionLoss) or not isinstance(self._core, _core.Trainer):
            raise UnsupportedError(
                "loss can be set only where the optimizer takes batches, and both, the old and the "
                "new, are losses of thalweg.nn or both functions; make another Trainer here"
            )
        self._core.set_loss(loss._spec(self._model.out_features))
        self._loss = loss

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; its `lr` may be changed between steps and between epochs.

        Not under a `schedule` that is a function of time, which sets it before each step: it is
        based on the rate that the optimizer had when the trainer was made, or on that of
        ``fit(..., lr=...)``. What was set in between counts for nothing, and `fit` warns of it.
        """
        return self._optimizer

    @property
    def schedule(self) -> Schedule | ReduceLROnPlateau | None:
        """How the learning rate changes, if it does."""
        return self._schedule

    @property
    def precision(self) -> str:
        """The precision of the products of training."""
        return self._precision or self._model.dtype.name

    @property
    def history(self) -> History:
        """The figures of the latest `fit` alone, also if it was interrupted or failed halfway."""
        return self._history

    @property
    def grad_norm(self) -> float | None:
        """Norm of the gradient of the latest update, before ``clip_grad_norm`` made it shorter.

        None before the first one, and for trainers that do not clip by the norm: a gradient that is
        used up on the spot is nowhere as a whole.
        """
        return self._core.grad_norm()

    def average_model(self) -> Sequential:
        """Give the model with averaged parameters.

        They are those of the ``average`` that this trainer was made with, or of
        `optim.ScheduleFreeAdamW`.

        Returns
        -------
        Sequential
            A copy; the trained model stays as it is. Running averages of `nn.BatchNorm1d` are those
            of the trained model, which fit other parameters: see `nn.Sequential.recalibrate`.

        Raises
        ------
        ArgumentError
            If there is no average, or nothing has been taken in yet.
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
                f"{self._average!r} has taken nothing in yet, after {self._optimizer.steps} updates"
            )
        return self._model._with_parameters(values)

    def plan(self, batch_size: int) -> Plan:
        """How the core runs a step of `batch_size` rows: kernels, tiles, threads.

        Parameters
        ----------
        batch_size : int
            Rows of the batch, at least 1.

        Returns
        -------
        Plan
            ``plan.explain()`` prints it, and ``plan.workspace_bytes`` is the memory that it takes.
        """
        return Plan(*self._core.plan(_checks.integer("batch_size", batch_size, 1)))

    def __repr__(self) -> str:
        given = {**self._description(), "loss": None, "optimizer": None}
        usual = (None, 1)  # what is not in use is not shown
        more = "".join(f"  {name}={x!r},\n" for name, x in given.items() if x not in usual)
        model = repr(self._model).replace("\n", "\n  ")
        done = f"{self._epochs} epochs" if self._epochs != 1 else "1 epoch"
        return (
            f"Trainer(\n  model={model},\n  loss={self._loss!r},\n"
            f"  optimizer={self._optimizer!r},\n{more}"
            f")  # after {done}, {self._optimizer.steps} updates"
        )


_habits.name_methods("Trainer", TrainerBase, Batching, Fitting, Penalized, Resumable)
