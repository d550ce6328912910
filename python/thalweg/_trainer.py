"""Training: a model, a loss and an optimizer put together."""

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from thalweg import _arrays, _checks, _core, _safetensors, _spec, optim
from thalweg import callbacks as _callbacks
from thalweg._arrays import Array, Samples
from thalweg._custom import CustomTrainer, targets
from thalweg._full_batch import FullBatchTrainer
from thalweg._history import KEYS, History
from thalweg._plan import Plan
from thalweg._python_fit import PythonFit
from thalweg._rates import Rates
from thalweg._stream import StreamFit, batches_of
from thalweg.callbacks import Callback
from thalweg.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    ThalwegError,
    UnsupportedError,
)
from thalweg.nn import Loss, MSELoss, Sequential, _losses
from thalweg.nn._losses import CoreLoss, CustomLoss, loss_of
from thalweg.optim import EMA, SAM, SWA, Optimizer, ScheduleFreeAdamW, _averages
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule

#: How often a fit comes back to Python to move the progress bar, in seconds.
_REFRESH = 0.1


class Trainer:
    r"""Trains a model.

    Parameters
    ----------
    model : Sequential
        Is trained in place.
    loss : Loss or callable, keyword only
        ``nn.CrossEntropyLoss()`` for class labels, ``nn.BCEWithLogitsLoss()`` for several labels at
        once, ``nn.MSELoss()`` for numbers; or one of your own, see `nn.CustomLoss`.
    optimizer : Optimizer, keyword only
        E.g. ``optim.AdamW(lr=1e-3)``; belongs to this model from its first step on.
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
        Precision of the arithmetic. By default, and in this version always, that of the model.

    Raises
    ------
    ArgumentError
        If an argument is of the wrong kind.
    ShapeError
        If the loss needs another number of outputs.
    UnsupportedError
        If this machine or version does not have the precision; never is another one used silently.

    Notes
    -----
    Without clipping and accumulation a parameter's gradient is used up on the spot, while it is in
    cache. With them it is written, and the update is a second pass over the parameters.

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

    def __init__(
        self,
        model: Sequential,
        *,
        loss: Loss | Callable[..., tuple[float, Any]],
        optimizer: Optimizer,
        schedule: Schedule | ReduceLROnPlateau | None = None,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        accumulate_grad_batches: int = 1,
        average: EMA | SWA | None = None,
        precision: str | None = None,
    ) -> None:
        _expect("model", model, Sequential, "nn.Sequential(...)")
        loss = loss_of(loss)
        _expect("optimizer", optimizer, Optimizer, "optim.AdamW(lr=1e-3)")
        if precision is not None and precision != model.dtype.name:
            raise UnsupportedError(
                f"precision {precision!r} is not there for this model; it computes in "
                f'"{model.dtype.name}", the dtype that it was made with: "float32" or "float64"'
            )
        if schedule is not None and not isinstance(schedule, (Schedule, ReduceLROnPlateau)):
            raise ArgumentError(
                "schedule must be one of thalweg.optim.schedules, e.g. "
                f"schedules.CosineAnnealingLR(); got {schedule!r}"
            )
        if clip_grad_norm is not None and clip_grad_value is not None:
            raise ArgumentError("give clip_grad_norm or clip_grad_value, not both")
        self._model = model
        self._loss: CoreLoss | CustomLoss = loss
        self._optimizer = optimizer
        self._schedule = schedule
        self._clip_norm = _limit("clip_grad_norm", clip_grad_norm)
        self._clip_value = _limit("clip_grad_value", clip_grad_value)
        self._accumulate = _checks.integer("accumulate_grad_batches", accumulate_grad_batches, 1)
        _averages.check(average)
        base = optimizer.base if isinstance(optimizer, SAM) else optimizer
        self._averaging = base if isinstance(base, ScheduleFreeAdamW) else None
        if average is not None and self._averaging is not None:
            raise ArgumentError("ScheduleFreeAdamW averages by itself: leave average out")
        self._average = average
        self._core: _core.Trainer | CustomTrainer | FullBatchTrainer
        clip = self._clip_norm, self._clip_value
        sam = None
        if isinstance(optimizer, SAM):
            sam = optimizer._rho, optimizer._adaptive
        if isinstance(loss, CustomLoss):
            if sam is not None:
                raise UnsupportedError("SAM is not there for a loss of one's own")
            if average is not None or self._accumulate > 1:
                raise UnsupportedError(
                    "average and accumulate_grad_batches are not there for a loss of one's own"
                )
            self._core = CustomTrainer(model, loss, optimizer, *clip, self._ready)
        else:
            spec = loss._spec(model.out_features)
            step = (*clip, self._accumulate, sam)
            self._core = _core.Trainer(model._core, spec, optimizer._core, *step)
            if average is not None:
                decay = average.decay if isinstance(average, EMA) else None
                self._core.start_average(decay, average.start, average.every)
        if isinstance(optimizer, FullBatchOptimizer):
            self._core = self._full_batch(self._core, optimizer)
        self._history = History()
        self._epochs = 0  # ended so far: each has an order of its own, and schedules count them
        self._base_lr = optimizer.lr
        self._plateau = schedule.start() if isinstance(schedule, ReduceLROnPlateau) else {}
        self._rates = Rates(schedule, self._base_lr) if isinstance(schedule, Schedule) else None

    def _full_batch(
        self, core: _core.Trainer | CustomTrainer, optimizer: FullBatchOptimizer
    ) -> FullBatchTrainer:
        """Put an optimizer that compares losses in front of what computes them."""
        kind = type(optimizer).__name__
        options = (self._clip_norm, self._clip_value, self._average)
        if options != (None, None, None) or self._accumulate > 1:
            raise UnsupportedError(
                f"clip_grad_norm, clip_grad_value, accumulate_grad_batches and average are not "
                f"there for {kind}: its steps follow from the loss of all data and its gradient"
            )
        if not optimizer._has_lr and self._schedule is not None:
            raise UnsupportedError(f"{kind} has no learning rate that a schedule could change")
        reduction = "mean"
        if optimizer._needs_squares:
            if not isinstance(self._loss, MSELoss):
                raise ArgumentError(
                    f"{kind} needs a sum of squares: loss must be nn.MSELoss(); got {self._loss!r}"
                )
            reduction = self._loss.reduction
        return FullBatchTrainer(core, self._model, optimizer, reduction, self._ready)

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
        if isinstance(loss, CustomLoss) or not isinstance(self._core, _core.Trainer):
            raise UnsupportedError(
                "loss can be set only where both, the old and the new, are losses of thalweg.nn "
                "other than CustomLoss and the optimizer takes batches; make another Trainer here"
            )
        self._core.set_loss(loss._spec(self._model.out_features))
        self._loss = loss

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; its `lr` may be changed between steps and between epochs."""
        return self._optimizer

    @property
    def schedule(self) -> Schedule | ReduceLROnPlateau | None:
        """How the learning rate changes, if it does."""
        return self._schedule

    @property
    def history(self) -> History:
        """The figures of the latest `fit`, also if it was interrupted or failed halfway."""
        return self._history

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """One step on one batch: forward, backward and update in a single pass.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            As in `fit`.
        y : array_like
            As in `fit`.
        sample_weight : array_like, shape (n,), optional
            As in `fit`.

        Returns
        -------
        float
            The loss of the batch before the step.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays are not such, or no row counts; the model is unchanged.
        DivergedError
            If the loss is infinite or NaN; the model is unchanged.

        Notes
        -----
        An update that makes a parameter infinite, which takes a huge learning rate, is noticed by
        the next step; `fit` looks at the end of each epoch, and can go back.

        C-contiguous arrays of the model's dtype (weights too, and int64 labels) are read in place.
        C-contiguous uint8, float16, float32 and float64 samples are converted by the core, a batch
        at a time; others are converted in every call, so convert once what is used for many steps.
        """
        # The usual case takes no detour: this call is made thousands of times a second.
        if self._rates is not None:
            self._optimizer._core.set_lr(self._rates.at(self._optimizer.steps, self._epochs))
        loss = self._core.step(x, y, sample_weight)
        if loss is None:
            loss = self._core.step(*self._ready(x, y, sample_weight))
            assert loss is not None  # they are ready now
        return loss

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int = 1,
        batch_size: int | None = 32,
        validation_data: tuple[Any, ...] | None = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        callbacks: Iterable[Callback] = (),
        progress: bool = False,
    ) -> History:
        """Trains for a number of epochs.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            The samples, one a row. Booleans, integers and floats of any width and memory order are
            converted to the model's dtype; an array that has it and is C-contiguous is read in
            place.
        y : array_like
            For `nn.CrossEntropyLoss` the labels, shape (n,), integers from 0 to out_features - 1,
            or probabilities, shape (n, out_features). For other losses numbers, mostly of the shape
            of the output, (n, out_features), and (n,) if there is one; each loss says which.
            Without `y`, `x` is an iterable that yields batches ``(x, y)`` or
            ``(x, y, sample_weight)``, once for each epoch, or a function that gives one: data
            larger than memory, or made on the way. Each batch is a step, and looked at when it
            comes; an error says which it was. For losses other than `nn.CustomLoss`.
        epochs : int, keyword only, default 1
            How many times every sample is used.
        batch_size : int or None, keyword only, default 32
            Samples per step. The last batch of an epoch holds what is left; none is dropped. None
            takes all samples at once, in their order, as `optim.LBFGS` and
            `optim.LevenbergMarquardt` need. Of arrays only, as are `shuffle` and `sample_weight`.
        validation_data : tuple (x, y) or (x, y, sample_weight), keyword only, optional
            Evaluated at the end of every epoch; nothing is learned from it.
        shuffle : bool, keyword only, default True
            Whether every epoch uses the samples in a new random order. The order follows from the
            model's seed and the number of earlier epochs, so runs can be repeated exactly, and two
            fits in a row shuffle as one of as many epochs.
        sample_weight : array_like, shape (n,), keyword only, optional
            How much each sample counts: finite numbers from 0 on, not all 0. The loss of a batch is
            the weighted mean, sum(w * l) / sum(w), so that only ratios within a batch matter; with
            ``reduction="sum"`` it is sum(w * l). So is that of an epoch, and accuracies are
            weighted likewise. A batch of samples that all weigh 0 is passed over.
        callbacks : iterable of Callback, keyword only
            Called after every epoch in this order; one that returns True ends the training.
        progress : bool, keyword only, default False
            Whether to show a progress bar; needs tqdm.

        Returns
        -------
        History
            The figures of each epoch; also kept as `history`.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays are not such. All of them are checked before the first step: the model is
            unchanged.
        ArgumentError
            If an option is outside its range.
        DivergedError
            If the loss becomes infinite or NaN. Model and optimizer are then as they were before
            this call; `history` holds the epochs that ended.
        ImportError
            If ``progress=True`` and tqdm is not installed.

        Notes
        -----
        The whole run happens in the compiled core without holding Python's global lock. Ctrl-C ends
        it between two steps: `KeyboardInterrupt` is raised, the model keeps what it has learned,
        and `history` holds the epochs that ended.
        """
        epochs = _checks.integer("epochs", epochs, 1)
        if batch_size is not None:
            batch_size = _checks.integer("batch_size", batch_size, 1)
        shuffle = _checks.flag("shuffle", shuffle) and batch_size is not None
        progress = _checks.flag("progress", progress)
        callbacks = _callbacks.check(callbacks)
        _callbacks.check_monitors((*callbacks, self._schedule), validation_data is not None)
        vx, vy, validation_weight = self._ready_to_validate(validation_data)
        run: _core.Fit | PythonFit | StreamFit
        if y is None and not hasattr(x, "__array__"):
            validation = None if vx is None else (vx, vy, validation_weight)
            if sample_weight is not None or batch_size not in (None, 32):
                raise ArgumentError(
                    "sample_weight and batch_size are of arrays; an iterable yields its own "
                    "batches, (x, y) or (x, y, sample_weight)"
                )
            run = self._stream(x, epochs, validation)
            return self._run(run, epochs, callbacks, progress)
        x, y, weight = self._ready(x, y, sample_weight)
        if batch_size is None:
            batch_size = max(len(x), 1)
        elif isinstance(self._core, FullBatchTrainer) and batch_size < len(x):
            raise ArgumentError(
                f"{type(self._optimizer).__name__} takes all samples at once, since gradients of "
                f"different batches do not show the curvature: pass batch_size=None; got "
                f"batch_size={batch_size} for {len(x)} samples"
            )
        updates = -(-max(len(x), 1) // batch_size)
        updates = -(-updates // self._accumulate)
        rates = None
        if self._rates is not None:
            rates = self._rates.of_fit(self._optimizer.steps, self._epochs, epochs, updates)
        options = (
            epochs, batch_size, shuffle, self._model.seed, vx, vy, weight, validation_weight,
            rates, self._rates is not None and self._rates.by_epoch, self._epochs,
        )  # fmt: skip
        if isinstance(self._core, _core.Trainer):
            run = _core.Fit(self._core, x, y, *options)
        else:
            run = PythonFit(self._core, x, y, *options)
        return self._run(run, epochs, callbacks, progress)

    def _stream(
        self, x: Any, epochs: int, validation: tuple[Samples, Any, Array | None] | None
    ) -> StreamFit:
        """Begin a fit to batches that come from an iterable."""
        source = batches_of(x, epochs)
        if not isinstance(self._core, _core.Trainer):
            raise UnsupportedError(
                "batches from an iterable are for losses of thalweg.nn other than CustomLoss, and "
                "for optimizers that take batches; pass arrays x and y"
            )
        rate, rates = None, self._rates
        if rates is not None:
            length = len(x) if hasattr(x, "__len__") else None
            if not rates.by_epoch and rates.schedule.is_open and length is None:
                raise ArgumentError(
                    f"{rates.schedule!r} is as long as the fit, and an iterable without a length "
                    "does not say how long that is: give the schedule its length"
                )
            known = None
            if length is not None or rates.by_epoch:
                updates = -(-(length or 0) // self._accumulate)
                known = rates.of_fit(self._optimizer.steps, self._epochs, epochs, updates)
            steps, ended = self._optimizer.steps, self._epochs

            def rate(update: int, epoch: int) -> float:
                if known:
                    return known[min(epoch if rates.by_epoch else update, len(known) - 1)]
                return rates.at(steps + update, ended + epoch)

        return StreamFit(
            self._core, self._model, self._optimizer, self._loss, source, self._ready, epochs,
            validation, rate,
        )  # fmt: skip

    def _run(
        self,
        run: "_core.Fit | PythonFit | StreamFit",
        epochs: int,
        callbacks: tuple[Callback, ...],
        progress: bool,
    ) -> History:
        """Go through a fit with all that looks at it."""
        watch = _callbacks.Watch(self, callbacks)

        with contextlib.ExitStack() as stack:
            bar = None
            if progress:
                from thalweg._progress import ProgressBar

                bar = stack.enter_context(ProgressBar(run, epochs))
            self._history = History()
            watch.begin()
            stop = False
            # Without anything to show or to ask, the whole fit is one call of the core.
            max_epochs = 1 if watch.epochs else None
            max_seconds = _REFRESH if progress else None
            max_batches = 1 if watch.steps else None
            before, restored = (self._epochs, dict(self._plateau)), False
            try:
                while not (stop or run.done):
                    try:
                        ended = [_record(e) for e in run.run(max_epochs, max_seconds, max_batches)]
                    except Exception as error:
                        restored = True  # model and optimizer are as they were
                        if isinstance(error, DivergedError):
                            watch.diverged(error)
                        raise
                    stop = watch.step(run, ended) if watch.steps else False
                    for record in ended:
                        self._ended(record)
                        stop = watch.epoch(record) or stop
                    if bar is not None:
                        bar.update(self._history)
            finally:  # Ctrl-C and errors leave epochs that ended and that nobody has seen yet
                for late in run.take_ended():
                    self._ended(_record(late))
                self._core.forget()
                if restored:
                    self._epochs, self._plateau = before
            watch.end()
        return self._history

    def _ended(self, record: dict[str, float]) -> None:
        """Take note of an epoch."""
        self._history.append(record)
        self._epochs += 1
        if isinstance(self._schedule, ReduceLROnPlateau):
            figure = _callbacks.monitored(record, self._schedule.monitor, "ReduceLROnPlateau")
            self._optimizer.lr = self._schedule.update(self._plateau, figure, self._optimizer.lr)

    def backward(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the loss of a batch and its gradients, and leave the update to you.

        Parameters
        ----------
        x, y, sample_weight : array_like
            As in `fit`.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays are not such; gradients are as they were.
        DivergedError
            If the loss is infinite or NaN; likewise.

        Notes
        -----
        Gradients of the parameters are *added* to ``model.flat_gradients``, as by `model.backward`;
        limits, accumulation and schedules of this trainer are for its own updates. With all of
        it, `step` is faster, since it uses up each gradient while it is in cache.

        Examples
        --------
        >>> import numpy as np, thalweg as tw
        >>> from thalweg import nn, optim
        >>> x = np.linspace(-1, 1, 32).reshape(-1, 1)
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
        >>> for _ in range(100):
        ...     model.zero_grad()
        ...     loss = trainer.backward(x, np.sin(x))
        ...     trainer.optimizer.step(model)
        >>> loss < 0.01
        True
        """
        return self._core.backward(*self._ready(x, y, sample_weight))[0]

    def evaluate(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """Compute the loss, and for classifiers the accuracy, on given data; nothing is learned.

        Parameters
        ----------
        x, y, sample_weight : array_like
            As in `fit`.

        Returns
        -------
        dict of str to float
            ``"loss"``, that of all rows as one batch, and with `nn.CrossEntropyLoss` and
            `nn.BCEWithLogitsLoss` ``"accuracy"``; the losses say of what.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays are not such, or no row counts.
        """
        loss, accuracy = self._core.evaluate(*self._ready(x, y, sample_weight))
        return {"loss": loss} if accuracy is None else {"loss": loss, "accuracy": accuracy}

    def set_penalty(self, importance: Any, anchor: Any = None, strength: float = 1.0) -> None:
        r"""Pull the parameters towards given values from now on, each as strongly as it matters.

        Every update is of the loss and of

        .. math:: \frac{s}{2} \sum_j A_j (\theta_j - a_j)^2

        whose gradient, :math:`s A_j (\theta_j - a_j)`, is added while the parameter is in cache.

        Parameters
        ----------
        importance : array_like, shape (num_parameters,), or None
            A, numbers from 0 on, in the order of ``model.flat_parameters``; None ends the penalty.
        anchor : array_like, shape (num_parameters,), optional
            a; by default the parameters as they are now.
        strength : float, default 1.0
            s, from 0 on.

        Raises
        ------
        ArgumentError, ShapeError, DataError, DtypeError
            If the arrays do not fit the model, or a number is negative.
        UnsupportedError
            If the loss is one of your own.

        Notes
        -----
        Only updates know of it: losses that are returned, kept and evaluated are without it. After
        each epoch of `fit`, ``history["penalty"]`` has its value. It counts before gradients are
        clipped. It belongs to what `save` writes.

        The sum of several such penalties is one, but for a constant, with
        :math:`A = \sum_k A_k` and :math:`a = \sum_k A_k a_k / A`: however many tasks a parameter is
        to remember, one is enough.
        """
        core = self._elementary("penalty")
        if importance is None:
            core.set_penalty(None)
            return
        model = self._model
        size = model.num_parameters
        importance = _arrays.flat(importance, model.dtype, size, "importance")
        if anchor is None:
            anchor = model.flat_parameters
        anchor = _arrays.flat(anchor, model.dtype, size, "anchor")
        strength = _checks.real("strength", strength, 0)
        if (importance < 0).any():
            place = int((importance < 0).argmax())
            raise ArgumentError(
                f"importance[{place}] is {importance[place]:g}; numbers from 0 on are needed"
            )
        core.set_penalty((importance, anchor, strength))

    # For strategies of thalweg.continual.

    def _pull(self, importance: Array, anchor: Array, strength: float) -> None:
        """Set a penalty whose importances may be negative."""
        self._elementary("penalty").set_penalty((importance, anchor, strength))

    def _follow(self, with_penalty: bool | None, path: Array | None = None) -> None:
        """Begin the integral of -gradient along the way of each parameter; None ends it."""
        core = self._elementary("path integral")
        core.start_path(with_penalty)
        if path is not None:
            core.set_path(path)

    def _path(self) -> Array | None:
        """Give that integral, if it was begun."""
        return self._elementary("path integral").path()

    def _elementary(self, what: str) -> _core.Trainer:
        """Give the core's trainer, which makes each update by itself."""
        if not isinstance(self._core, _core.Trainer):
            raise UnsupportedError(
                f"a {what} is not there for a loss of one's own, nor for optimizers that take all "
                "data at once"
            )
        return self._core

    @property
    def penalty(self) -> float:
        """The penalty of the parameters as they are; 0 if there is none."""
        if not isinstance(self._core, _core.Trainer):
            return 0.0
        return self._core.penalty_value() or 0.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that further training depends on to a file.

        Model, loss, optimizer with its averages, schedule, counts and history: a training that is
        saved between two fits, or by a callback at the end of an epoch, and loaded goes on as if
        it had never stopped, to the last bit. A schedule that leaves its length out begins anew
        with each fit, also then; and gradients that were gathered for an update to come
        (``accumulate_grad_batches``, between steps by hand) are left out.

        Parameters
        ----------
        path : str or path-like
            The file; its format is that of `nn.Sequential.save`, which it can be read as too.

        Raises
        ------
        OSError
            If the file cannot be written.
        UnsupportedError
            If something in it is a function, or a class, of the user's own.
        """
        _safetensors.save(path, *self._content())

    def _content(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Give the arrays and the text of a file."""
        spec, state = self._description(), self._optimizer.state_dict()
        arrays = {f"optimizer.{name}": array for name, array in state.pop("arrays").items()}
        if (average := self._core.average()) is not None:
            arrays["optimizer.average"], state["averaged"] = average
        penalty = self._core.penalty() if isinstance(self._core, _core.Trainer) else None
        if penalty is not None:
            arrays["optimizer.importance"], arrays["optimizer.anchor"], state["penalty"] = penalty
        mine = {"spec": _spec.describe(spec), "counts": self._counts(), "optimizer_state": state}
        text = {
            "thalweg": json.dumps(self._model._description()),
            "thalweg.trainer": json.dumps(mine),
        }
        return self._model.state_dict() | arrays, text

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trainer":
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        Trainer
            With a model and an optimizer of its own.

        Raises
        ------
        OSError
            If the file cannot be read.
        DataError
            If it is not a whole file of that kind.
        UnsupportedError
            If a later version of thalweg wrote it.
        """
        arrays, text = _safetensors.load(path)
        if "thalweg.trainer" not in text:
            raise DataError(
                f"{os.fspath(path)!r} holds no trainer; nn.Sequential.load reads models"
            )
        of_optimizer = {
            name.removeprefix("optimizer."): arrays.pop(name)
            for name in list(arrays)
            if name.startswith("optimizer.")
        }
        # A strategy of continual learning puts arrays of its own beside these.
        arrays = {n: array for n, array in arrays.items() if not n.startswith("strategy.")}
        try:
            model = Sequential._from_description(json.loads(text["thalweg"]))
            saved = json.loads(text["thalweg.trainer"])
            spec = _spec.rebuild(saved["spec"], _spec.classes(_losses, optim, optim.schedules))
            state = saved["optimizer_state"]
            average = None
            if "averaged" in state:
                average = of_optimizer.pop("average"), state.pop("averaged")
            penalty = None
            if "penalty" in state:
                pulls = of_optimizer.pop("importance"), of_optimizer.pop("anchor")
                penalty = (*pulls, state.pop("penalty"))
            state["arrays"] = of_optimizer
            model.load_state_dict(arrays)
            return cls(model, **spec)._continue(state, saved["counts"], average, penalty)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ThalwegError):
                raise
            raise DataError(f"{os.fspath(path)!r} is a damaged file: {error!r}") from None

    def copy(self) -> "Trainer":
        """Make a trainer that goes on from here with a model and an optimizer of its own.

        Returns
        -------
        Trainer
            What happens to either does not concern the other. Gradients gathered for an update to
            come are left out.
        """
        spec = self._description()
        spec["optimizer"] = self._optimizer._fresh()
        twin = type(self)(copy.deepcopy(self._model), **spec)
        counts = copy.deepcopy(self._counts())
        core = self._core
        penalty = core.penalty() if isinstance(core, _core.Trainer) else None
        return twin._continue(self._optimizer.state_dict(), counts, core.average(), penalty)

    def _description(self) -> dict[str, Any]:
        """Give the arguments that make this trainer, besides the model."""
        return {
            "loss": self._loss,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
            "clip_grad_norm": self._clip_norm,
            "clip_grad_value": self._clip_value,
            "accumulate_grad_batches": self._accumulate,
            "average": self._average,
        }

    def _counts(self) -> dict[str, Any]:
        """Give what has changed since it was made, besides model and optimizer, as plain data."""
        return {
            "groups": self._optimizer._groups,
            "base_lr": self._base_lr,
            "epochs": self._epochs,
            "plateau": self._plateau,
            "history": dict(self._history),
        }

    def _become(self, other: "Trainer") -> None:
        """Go on from where another trainer is that was made in the same way."""
        self._model.load_state_dict(other._model.state_dict())
        self._model._core.set_passes(other._model._core.passes())
        counts = {**copy.deepcopy(other._counts()), "groups": []}  # they are here already
        core = other._core
        penalty = core.penalty() if isinstance(core, _core.Trainer) else None
        average = core.average()
        self._continue(other._optimizer.state_dict(), counts, average, penalty)

    def _continue(
        self,
        optimizer_state: dict[str, Any],
        counts: dict[str, Any],
        average: tuple[Any, int] | None,
        penalty: tuple[Any, Any, float] | None,
    ) -> "Trainer":
        """Make a new trainer what another one was."""
        if average is not None and isinstance(self._core, _core.Trainer):
            self._core.set_average(*average)
        if isinstance(self._core, _core.Trainer):
            self._core.set_penalty(penalty)
        for group in counts["groups"]:
            self._optimizer.add_group(**group)
        self._optimizer.load_state_dict(optimizer_state, self._model)
        self._base_lr = counts["base_lr"]
        if self._rates is not None:
            self._rates.base = self._base_lr
        self._epochs = counts["epochs"]
        self._plateau = counts["plateau"]
        self._history = History(counts["history"])
        return self

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
            ``plan.explain()`` prints it.
        """
        return Plan(self._core.plan(_checks.integer("batch_size", batch_size, 1)))

    def __repr__(self) -> str:
        return (
            f"Trainer(\n  model={self._model!r},\n  loss={self._loss!r},\n"
            f"  optimizer={self._optimizer!r}\n)"
        )

    def _ready(
        self, x: Any, y: Any, sample_weight: Any, prefix: str = ""
    ) -> tuple[Samples, Any, Array | None]:
        """Make samples, targets and weights ready for the core."""
        model, loss = self._model, self._loss
        samples = model._samples(x, f"{prefix}x")
        name = f"{prefix}y"
        if isinstance(loss, CustomLoss):
            y = targets(y, name)
        elif loss._labels:
            y = _arrays.labels_or_shares(y, model.dtype, name)
        else:
            y = _arrays.targets(y, model.dtype, loss._target_width(model.out_features), name)
        return samples, y, _arrays.weights(sample_weight, model.dtype, f"{prefix}sample_weight")

    def _ready_to_validate(self, data: Any) -> tuple[Samples | None, Any, Array | None]:
        """Make the validation data ready for the core; None three times if there is none."""
        if data is None:
            return None, None, None
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ArgumentError(
                "validation_data must be a tuple (x, y) or (x, y, sample_weight); got "
                + (f"{len(data)} items" if isinstance(data, (tuple, list)) else repr(type(data)))
            )
        x, y, *weight = data
        return self._ready(x, y, weight[0] if weight else None, "validation ")


def _record(ended: tuple[Any, ...]) -> Any:
    """Name the figures of an epoch, without those that there are not; others come last."""
    names = ("epoch", *KEYS)
    figures = zip(names, ended, strict=False)
    more = ended[len(names)] if len(ended) > len(names) else {}
    return {key: value for key, value in figures if value is not None} | dict(more)


def _expect(name: str, value: Any, kind: type, example: str) -> None:
    """Raise unless `value` is a `kind`, with what to write instead."""
    if not isinstance(value, kind):
        what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise ArgumentError(f"{name} must be a {kind.__name__}, e.g. {example}; got {what}")


def _limit(name: str, value: float | None) -> float | None:
    """Give a limit of gradients as a number above 0, if there is one."""
    return None if value is None else _checks.real(name, value, 0, closed="()")
