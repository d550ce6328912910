"""Training: a model, a loss and an optimizer put together."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from thalweg import _arrays, _checks, _core
from thalweg._arrays import Array, Samples
from thalweg._custom import CustomFit, CustomTrainer, targets
from thalweg._history import KEYS, History
from thalweg._plan import Plan
from thalweg.callbacks import Callback
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Loss, Sequential
from thalweg.nn._losses import CoreLoss, CustomLoss, loss_of
from thalweg.optim import Optimizer

#: How often a fit comes back to Python to move the progress bar, in seconds.
_REFRESH = 0.1


class Trainer:
    """Trains a model.

    Parameters
    ----------
    model : Sequential
        Is trained in place.
    loss : Loss or callable, keyword only
        ``nn.CrossEntropyLoss()`` for class labels, ``nn.BCEWithLogitsLoss()`` for several labels at
        once, ``nn.MSELoss()`` for numbers; or one of your own, see `nn.CustomLoss`.
    optimizer : Optimizer, keyword only
        E.g. ``optim.AdamW(lr=1e-3)``; belongs to this model from its first step on.
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
        self._model = model
        self._loss: CoreLoss | CustomLoss = loss
        self._optimizer = optimizer
        self._core: _core.Trainer | CustomTrainer
        if isinstance(loss, CustomLoss):
            self._core = CustomTrainer(model, loss, optimizer, self._ready)
        else:
            spec = loss._spec(model.out_features)
            self._core = _core.Trainer(model._core, spec, optimizer._core)
        self._history = History()
        self._fits = 0  # started so far; each gets another seed, so that it shuffles otherwise

    # Read-only, because the core holds on to the objects that it was made with.
    @property
    def model(self) -> Sequential:
        """The model that is trained."""
        return self._model

    @property
    def loss(self) -> Loss:
        """The loss that is made small; `nn.CustomLoss` if a function was given."""
        return self._loss

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; its `lr` may be changed between steps and between epochs."""
        return self._optimizer

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
        C-contiguous arrays of the model's dtype (weights too, and int64 labels) are read in place.
        C-contiguous uint8, float16, float32 and float64 samples are converted by the core, a batch
        at a time; others are converted in every call, so convert once what is used for many steps.
        """
        # The usual case takes no detour: this call is made thousands of times a second.
        loss = self._core.step(x, y, sample_weight)
        if loss is None:
            loss = self._core.step(*self._ready(x, y, sample_weight))
            assert loss is not None  # they are ready now
        return loss

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 1,
        batch_size: int = 32,
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
        epochs : int, keyword only, default 1
            How many times every sample is used.
        batch_size : int, keyword only, default 32
            Samples per step. The last batch of an epoch holds what is left; none is dropped.
        validation_data : tuple (x, y) or (x, y, sample_weight), keyword only, optional
            Evaluated at the end of every epoch; nothing is learned from it.
        shuffle : bool, keyword only, default True
            Whether every epoch uses the samples in a new random order. The order follows from the
            model's seed and the number of earlier calls, so runs can be repeated exactly.
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
        batch_size = _checks.integer("batch_size", batch_size, 1)
        shuffle = _checks.flag("shuffle", shuffle)
        progress = _checks.flag("progress", progress)
        callbacks = _check_callbacks(callbacks)
        x, y, weight = self._ready(x, y, sample_weight)
        vx, vy, validation_weight = self._ready_to_validate(validation_data)
        seed = (self._model.seed + self._fits) % 2**64
        options = (epochs, batch_size, shuffle, seed, vx, vy, weight, validation_weight)
        run: _core.Fit | CustomFit
        if isinstance(self._core, CustomTrainer):
            run = CustomFit(self._core, x, y, *options)
        else:
            run = _core.Fit(self._core, x, y, *options)

        with contextlib.ExitStack() as stack:
            bar = None
            if progress:
                from thalweg._progress import ProgressBar

                bar = stack.enter_context(ProgressBar(run, epochs))
            self._fits += 1
            self._history = History()
            stop = False
            # Without anything to show or to ask, the whole fit is one call of the core.
            max_epochs = 1 if callbacks else None
            max_seconds = _REFRESH if progress else None
            try:
                while not (stop or run.done):
                    for ended in run.run(max_epochs, max_seconds):
                        record = _record(ended)
                        self._history.append(record)
                        # Every callback is told of it, also when an earlier one stops here.
                        answers = [callback.on_epoch_end(self, record) for callback in callbacks]
                        stop = True in answers
                    if bar is not None:
                        bar.update(self._history)
            finally:  # Ctrl-C and errors leave epochs that ended and that nobody has seen yet
                for ended in run.take_ended():
                    self._history.append(_record(ended))
        return self._history

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
        samples = _arrays.samples(x, model.dtype, f"{prefix}x")
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


def _record(ended: tuple[int, float, float | None, float | None, float | None, float]) -> Any:
    """Name the core's figures of an epoch, without those that there are not."""
    figures = zip(("epoch", *KEYS), ended, strict=True)
    return {key: value for key, value in figures if value is not None}


def _expect(name: str, value: Any, kind: type, example: str) -> None:
    """Raise unless `value` is a `kind`, with what to write instead."""
    if not isinstance(value, kind):
        what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise ArgumentError(f"{name} must be a {kind.__name__}, e.g. {example}; got {what}")


def _check_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """Make the callbacks a tuple, each seen to be one."""
    if isinstance(callbacks, Callback) and not isinstance(callbacks, type):
        raise ArgumentError("callbacks must be a sequence: write callbacks=[...]")
    try:
        found = tuple(callbacks)
    except TypeError:
        raise ArgumentError(f"callbacks must be a sequence; got {callbacks!r}") from None
    for callback in found:
        if isinstance(callback, type) or not isinstance(callback, Callback):
            raise ArgumentError(f"a callback needs a method on_epoch_end; got {callback!r}")
    return found
