"""Fitting: epochs over arrays or streams, and everything that watches them."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy.typing as npt

from thalweg import _checks, _core, _habits
from thalweg._arrays import Array, Batches, Samples, Targets
from thalweg._figures import Evaluation
from thalweg._history import KEYS, History, added
from thalweg._trainer import _frames, _steps
from thalweg._trainer._auto import safe_lr
from thalweg._trainer._base import WHEN_MADE, TrainerBase
from thalweg._trainer._rates import Rates
from thalweg._trainer._undefined import explain
from thalweg.callbacks import _monitored, _watch
from thalweg.callbacks._base import AnyCallback
from thalweg.errors import ArgumentError, DivergedError, UnsupportedError
from thalweg.nn._losses import FunctionLoss
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim.schedules import ReduceLROnPlateau

if TYPE_CHECKING:
    from thalweg._trainer import Trainer
    from thalweg._trainer._evaluation import ValidatedFit
    from thalweg._trainer._progress import ProgressBar
    from thalweg._trainer._python_fit import PythonFit
    from thalweg._trainer._stream import StreamFit

#: How often a fit returns to Python for its progress bar, or to be cancelled, in seconds.
_REFRESH = 0.1


#: Arguments that other libraries' fit methods take.
OF_FITS = {
    **dict.fromkeys(("max_iter", "max_epochs", "n_epochs", "nb_epoch"), "it is epochs"),
    **dict.fromkeys(("loss", "optimizer", "schedule"), "tw.Trainer(model, ...) takes it"),
    "verbose": "progress=True shows a bar",
    "validation_freq": "validation data are evaluated after every epoch; a callback can call "
    "trainer.evaluate(x, y) less often",
    "validation_split": "split the arrays yourself: validation_data=(x[k:], y[k:])",
    "class_weight": _habits.CLASS_WEIGHT,
    "steps_per_epoch": "an epoch of an iterable is all batches that it yields",
    "learning_rate": "it is lr; without it, fit uses the optimizer's",
    "early_stopping": "callbacks=[callbacks.EarlyStopping(patience=5)] stops early",
    "metrics": _habits.METRICS,
    **{
        name: WHEN_MADE.format(f"{name}=...")
        for name in ("clip_grad_norm", "clip_grad_value", "accumulate_grad_batches")
    },
    "drop_last": "the last batch may be smaller; pass x[:k] and y[:k], with k a multiple of "
    "batch_size, to go without it",
    "initial_epoch": "a fit continues from where the trainer is; trainer.epochs counts the epochs "
    "of all fits",
    **_habits.OF_THREADS,
}


class _Usual(int):
    """The default of an argument, which differs from the same number when that is given."""


class Fitting(TrainerBase):
    """The part of a trainer that goes through data in epochs."""

    @_habits.takes("Trainer.fit()", OF_FITS)
    def fit(
        self,
        x: npt.ArrayLike | Batches,
        y: Targets | None = None,
        *,
        epochs: int = 1,
        batch_size: int | None = _Usual(32),
        validation_data: Batches | None = None,
        shuffle: bool = True,
        sample_weight: npt.ArrayLike | None = None,
        callbacks: Iterable[AnyCallback] = (),
        progress: bool = False,
        lr: float | Literal["auto"] | None = None,
    ) -> History:
        r"""Train for a number of epochs.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            The samples, one per row. Booleans, integers and floats of any width and memory order
            are converted to the model's dtype; a C-contiguous array of that dtype is read in place.
        y : array_like
            For `nn.CrossEntropyLoss` labels, shape (n,), integers from 0 to out_features - 1, or
            probabilities, shape (n, out_features). For other losses numbers, usually in the shape
            of the output, (n, out_features), or (n,) if there is one output; see each loss. For a
            custom loss any array with one row per sample, or a dict of such arrays. Without `y`,
            `x` is an iterable that yields batches ``(x, y)`` or ``(x, y, sample_weight)`` once per
            epoch, or a function that returns such an iterable: for data larger than memory, or
            generated on the fly. Each batch is one step, and is checked when it arrives; an error
            names the batch.
        epochs : int, keyword only, default 1
            How many times each sample is used. With 0, arrays are checked and nothing is trained;
            batches are not drawn.
        batch_size : int or None, keyword only, default 32
            Samples per step. The last batch of an epoch holds what remains; none is dropped. None
            takes all samples at once, in order, as `optim.LBFGS` and `optim.LevenbergMarquardt`
            need. Like ``shuffle=False`` and `sample_weight`, it is for arrays only.
        validation_data : tuple (x, y) or (x, y, sample_weight), or iterable, keyword only, optional
            Evaluated at the end of every epoch; not trained on. A tuple holds arrays. An iterable
            of batches, such as a loader or a list of tuples, or a function that returns one, works
            like `x` without `y`, whatever the training data are. Its figures are those of all rows
            together, up to rounding, and each batch is checked when it arrives.
        shuffle : bool, keyword only, default True
            Whether every epoch uses the samples in a new random order. The order follows from the
            model's seed and the number of earlier epochs, so runs can be repeated exactly, and two
            consecutive fits shuffle as one fit with as many epochs in total would.
        sample_weight : array_like, shape (n,), keyword only, optional
            Weight of each sample: finite numbers from 0 up, not all 0. The loss of a batch is the
            weighted mean, sum(w * l) / sum(w), so only ratios within a batch matter, and a batch of
            small weights counts as much as one of large weights. If weights are very unequal, and
            all rows together should count by their weights, take a loss with ``reduction="sum"``,
            which is sum(w * l), and divide the weights by `batch_size`. The loss of an epoch is
            formed in the same way, and accuracies are weighted likewise. A batch whose weights are
            all 0 is skipped. Weights between 0 and the smallest normal number of the model's dtype,
            1.2e-38 in float32, are an error, since arithmetic would treat them as 0.
        callbacks : iterable of Callback, keyword only
            Called after every epoch, in this order; one that returns True ends the training. A
            callback can monitor the figures of this fit and those added by callbacks before it.
        progress : bool, keyword only, default False
            Whether to show a progress bar; needs tqdm.
        lr : float or "auto", keyword only, optional
            The optimizer's learning rate from now on, which its schedule is also based on; by
            default the rate stays as it is. "auto" measures it: half of the smallest rate at which
            steps diverge (`curvature.max_stable_lr`) on any of three batches of this size, drawn
            with the model's seed. For plain gradient descent that is :math:`1/\lambda`, which
            removes an error along the sharpest direction in one step. Since the loss is often flat
            at the start and more curved after some steps, that rate and successive halves of it,
            down to a thousandth, are tried on copies for 100 updates each. The largest is chosen
            that lowers the loss about as much as any and is still stable where it ends. This takes
            about as long as a thousand steps or so, and needs arrays. With 0 epochs, nothing is
            measured and the rate stays. `callbacks.StabilityMonitor` monitors stability later on.

        Returns
        -------
        History
            The figures of each epoch of this fit; also kept as `history` until the next fit.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays do not fit. Or, of frames, if the columns of `x` have other names or
            another order in the validation data or a later batch, or those of `y` another order.
            Arrays are checked before the first step, batches when they come; the model is
            unchanged.
        ArgumentError
            If an option is out of range, or for arrays and given with an iterable, or a callback or
            schedule monitors a figure that this fit cannot have; for ``lr="auto"`` also if the loss
            curves upwards in no direction, or an optimizer that divides by an average of squared
            gradients has no average yet. And while a step of this model is under way, as in `step`.
        UnsupportedError
            For ``lr="auto"``, where `curvature.max_stable_lr` is not available.
        DivergedError
            If the loss, a parameter or a number in the optimizer becomes infinite or NaN. Model and
            optimizer are then restored to their state before this call; `history` holds the
            completed epochs.
        ImportError
            If ``progress=True`` and tqdm is not installed.

        Notes
        -----
        The whole run happens in the compiled core without holding Python's global lock. Ctrl-C ends
        it between two steps: `KeyboardInterrupt` is raised, the model keeps what it has learned,
        and `history` holds the completed epochs. The same holds for an error of yours, which has a
        note that says so: in a callback, in what yields batches, in a custom loss or a gradient
        hook, or of a signal handler, such as a time limit. Only thalweg's own errors
        (`ThalwegError`), about a batch, a loss or numbers that diverge, undo the fit, unless a
        callback raises them.

        In all of these but signal handlers, `epochs` and `history` count the epochs that this fit
        has completed so far.

        Gradients of calls of `step` or `update` that still wait for an update when a fit begins
        (``accumulate_grad_batches``) are dropped, unless it has 0 epochs.

        Another thread ends a fit by a callback whose `on_step_end` or `on_epoch_end` returns True,
        e.g. ``return event.is_set()`` of a `threading.Event`. Exceptions that another thread sends
        through the interpreter (``PyThreadState_SetAsyncExc``) do not reach the core.

        A loss of the validation data that is infinite, as of one odd row, is recorded as it is, and
        the fit goes on.
        """
        epochs = _checks.integer("epochs", epochs, 0)
        if not (batch_size is None or isinstance(batch_size, _Usual)):
            batch_size = _checks.integer("batch_size", batch_size, 1)
        shuffle = _checks.flag("shuffle", shuffle)
        progress = _checks.flag("progress", progress)
        callbacks = _watch.check(callbacks)

        def train(restore: Callable[[], None]) -> History:
            if callbacks or isinstance(self._schedule, ReduceLROnPlateau):
                there = self._keys(validation_data is not None)
                own = isinstance(self._loss, FunctionLoss)
                _monitored.check_figures(callbacks, self._schedule, there, own)
            run = self._begin(x, y, sample_weight, validation_data, epochs, batch_size, shuffle, lr)
            return self._run(run, epochs, callbacks, progress, restore)

        return self._alone(train)

    def _begin(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Any,
        epochs: int,
        batch_size: int | None,
        shuffle: bool,
        lr: Any,
    ) -> _core.Fit | PythonFit | StreamFit | ValidatedFit:
        """Begin a fit to arrays or to batches, after checking them."""
        held_out, columns = None, _frames.Columns()
        if y is not None:
            columns.check(x, y, "the training data")
        if validation_data is not None and not isinstance(validation_data, tuple):
            held_out = self._batches_to_validate(validation_data, epochs, columns)
        arrays = None if held_out is not None else validation_data
        vx, vy, validation_weight = self._ready_to_validate(arrays)
        if arrays is not None:
            columns.check(arrays[0], arrays[1], "validation_data", "validation ")
        run: _core.Fit | PythonFit | StreamFit
        if y is None:
            from thalweg._trainer._stream import batches_of

            source = batches_of(x, epochs)
            usual = batch_size is None or isinstance(batch_size, _Usual)
            if sample_weight is not None or not (usual and shuffle):
                raise ArgumentError(
                    "sample_weight, batch_size and shuffle are for arrays; an iterable yields its "
                    "own batches, (x, y) or (x, y, sample_weight), in its own order"
                )
            if isinstance(lr, str):
                raise ArgumentError(
                    f"for an iterable of batches, lr must be a number; got {lr!r}, which needs "
                    "arrays"
                )
            self._set_base_lr(lr)
            validation = None if vx is None else (vx, vy, validation_weight)
            run = self._stream(x, source, epochs, validation, columns)
            return self._validated(run, held_out)
        x, y, weight = self._ready(x, y, sample_weight)
        if batch_size is None:
            batch_size, shuffle = max(len(x), 1), False
        elif isinstance(self._optimizer, FullBatchOptimizer) and batch_size < len(x):
            raise ArgumentError(
                f"{type(self._optimizer).__name__} takes all samples at once, since gradients of "
                f"different batches do not show the curvature: pass batch_size=None; got "
                f"batch_size={batch_size} for {len(x)} samples"
            )
        if isinstance(lr, str):
            _checks.one_of("lr, if it is not a number,", lr, ["auto"])
            self._check_last_batch(len(x), batch_size)  # before a long search
            auto = cast("Trainer", self), x, y, weight, batch_size
            lr = safe_lr(*auto) if epochs else None
        self._set_base_lr(lr)
        run = self._arrays_fit(x, y, weight, vx, vy, validation_weight, epochs, batch_size, shuffle)
        return self._validated(run, held_out)

    def _keys(self, validated: bool) -> list[str]:
        """Name the figures that every epoch of a fit has without callbacks."""
        core = self._core
        of_both = ["loss", "accuracy"] if core.has_accuracy else ["loss"]
        held_out = [f"val_{name}" for name in of_both] if validated else []
        of_penalty = ["penalty"] if core.penalty_value() is not None else []
        return [*of_both, *of_penalty, *held_out, "seconds", *self._optimizer._figures]

    def _set_base_lr(self, lr: Any) -> None:
        """Set the base rate of a fit, or warn about a rate that a schedule would override."""
        optimizer = self._optimizer
        if lr is not None:
            optimizer.lr = lr  # checks it
            self._base_lr = optimizer.lr
            if self._rates is not None:
                self._rates = Rates(self._rates.schedule, self._base_lr)
        self._warn_of_lr()

    def _warn_of_lr(self) -> bool:
        """Warn if a rate was set that the schedule will override; return whether it was."""
        optimizer = self._optimizer
        by_hand, optimizer._by_hand.lr = optimizer._by_hand.lr, None
        overridden = self._rates is not None and by_hand == optimizer.lr != self._base_lr
        if overridden:
            from thalweg._warn import warn  # rarely needed

            warn(
                f"optimizer.lr was set to {by_hand:g}, which has no effect: the schedule, "
                f"which is based on {self._base_lr:g}, sets it before each step. To base it on "
                f"the new rate, use fit(..., lr={by_hand:g}); to set each rate yourself, leave "
                "the schedule out"
            )
        return overridden

    def _batches_to_validate(
        self, data: Any, epochs: int, columns: _frames.Columns
    ) -> Callable[[], Evaluation] | None:
        """Return a function that evaluates validation data, if they come in batches."""
        from thalweg._trainer import _evaluation, _stream

        if not _evaluation.is_source(data):
            return None
        source = _stream.batches_of(data, epochs, "validation_data")
        return lambda: _evaluation.evaluate(self, source, columns, "validation_data")

    def _validated(
        self,
        run: _core.Fit | PythonFit | StreamFit,
        evaluate: Callable[[], Evaluation] | None,
    ) -> _core.Fit | PythonFit | StreamFit | ValidatedFit:
        """Add validation at the end of each epoch, if its data come in batches."""
        if evaluate is None:
            return run
        from thalweg._trainer._evaluation import ValidatedFit
        from thalweg._trainer._snapshot import Snapshot

        return ValidatedFit(run, evaluate, Snapshot(self._core, self._model, self._optimizer))

    def _arrays_fit(
        self, x: Samples, y: Any, weight: Array | None, vx: Samples | None, vy: Any,
        validation_weight: Array | None, epochs: int, batch_size: int, shuffle: bool,
        first: int | None = None,
    ) -> _core.Fit | PythonFit:  # fmt: skip
        """Begin a fit to prepared arrays; `first` is the number that decides the first order."""
        self._check_last_batch(len(x), batch_size)
        updates = -(-max(len(x), 1) // batch_size)
        updates = -(-updates // self._accumulate)
        rates = None
        if self._rates is not None and epochs:
            rates = self._rates.of_fit(self._optimizer.steps, self._epochs, epochs, updates)
        options = (
            max(epochs, 1),  # the core knows no fit of 0 epochs; `_run` does not begin this one
            batch_size, shuffle, self._model.seed, vx, vy, weight, validation_weight, rates,
            self._rates is not None and self._rates.by_epoch,
            self._epochs if first is None else first,
        )  # fmt: skip
        if isinstance(self._core, _core.Trainer):
            return _core.Fit(self._core, x, y, *options)
        from thalweg._trainer._python_fit import PythonFit  # most fits run in the core

        return PythonFit(self._core, self._loss, x, y, *options)

    def _check_last_batch(self, rows: int, batch_size: int) -> None:
        """Raise if the last batch would have no statistics that the model needs."""
        if rows % batch_size == 1 < batch_size and self._model._core.average_blocks():
            raise ArgumentError(
                f"with batch_size={batch_size}, the last batch of {rows} rows of data has only "
                "1 row, but BatchNorm1d needs 2 rows or more for the statistics of a batch: "
                "choose another batch_size, or leave a row out"
            )

    def _pass(self, x: Any, y: Any, sample_weight: Any, batch_size: int, number: int) -> History:
        """Train for one epoch, in the row order with this number."""

        def train(restore: Callable[[], None]) -> History:
            data = self._ready(x, y, sample_weight)
            run = self._arrays_fit(*data, None, None, None, 1, batch_size, True, number)
            return self._run(run, 1, (_watch.Inner(),), False, restore)

        return self._alone(train)

    def _stream(
        self,
        x: Any,
        source: Callable[[], Iterable[Any]],
        epochs: int,
        validation: tuple[Samples, Any, Array | None] | None,
        columns: _frames.Columns,
    ) -> StreamFit:
        """Begin a fit to batches from an iterable, x."""
        from thalweg._trainer._stream import StreamFit

        if isinstance(self._optimizer, FullBatchOptimizer):
            raise UnsupportedError(
                f"{type(self._optimizer).__name__} takes all samples at once, since gradients of "
                "different batches do not show the curvature: pass arrays x and y, and "
                "batch_size=None"
            )
        rate, rates = None, self._rates
        if rates is not None and epochs:
            length = _length(x)
            if not rates.by_epoch and rates.schedule.is_open and length is None:
                raise ArgumentError(
                    f"{rates.schedule!r} is as long as the fit, which is unknown for an iterable "
                    "without a length: give the schedule its length"
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
            validation, rate, columns,
        )  # fmt: skip

    def _run(
        self,
        run: _core.Fit | PythonFit | StreamFit | ValidatedFit,
        epochs: int,
        callbacks: tuple[AnyCallback, ...],
        progress: bool,
        restore: Callable[[], None],
    ) -> History:
        """Run a fit with everything that watches it; `restore` resets counts and rates."""
        watch = _watch.Watch(cast("Trainer", self), callbacks)

        with _bar(run, epochs) if progress and epochs else contextlib.nullcontext() as bar:
            earlier, self._history = self._history, History()
            try:
                watch.begin()
            except BaseException:
                self._history = earlier
                raise
            idle = stop = watch.cancelled or epochs == 0
            restored = False
            # With nothing to show or ask, the whole fit is one call into the core. Where functions
            # of the user's run in it, they see the epochs so far.
            max_epochs = None if isinstance(run, _core.Fit) and not watch.epochs else 1
            max_seconds = _REFRESH if progress or watch.is_asked else None
            max_batches = 1 if watch.steps else None
            slices = [max_epochs], [max_seconds], [max_batches]
            before = self._epochs
            ended: list[tuple[Any, ...]] = []  # epochs not recorded yet

            def catch_up() -> None:
                """Record the epochs that an error has left unrecorded."""
                ended.extend(run.take_ended())
                if ended:
                    self._take_notes(ended, before)
                self._history._add({})

            try:
                self._untouched = told = False
                while not (stop or run.done):
                    told = told or self._warn_of_lr()
                    try:
                        # A single call as seen from here: Ctrl-C cannot fall between the end of an
                        # epoch and its entry in `ended`.
                        ended.extend(chain.from_iterable(map(run.run, *slices)))
                    except Exception as error:
                        if watch.is_inner and not isinstance(run, _core.Fit):
                            run.undo()
                        restored = self._untouched = run.undone
                        catch_up()
                        if restored:
                            restore()
                        self._untouched = False  # what callbacks set from here on remains
                        explain(self, error)
                        if isinstance(error, DivergedError):
                            watch.diverged(error)
                        raise
                    stop = watch.step(run, bool(ended)) if watch.steps else False
                    if ended:  # only one, if anything looks at it
                        record = self._take_notes(ended, before)
                        there = dict(record)
                        stop = watch.epoch(record) or stop
                        self._history._add(added(record, there))
                    if bar is not None:
                        bar.update(self._history)
                    stop = stop or watch.cancelled
            except Exception as error:
                if not (restored or watch.is_inner):
                    catch_up()
                    error.add_note(_kept(self._history.epochs))
                raise
            finally:  # Ctrl-C and errors leave completed epochs unrecorded
                catch_up()
                if not (restored or idle):
                    self._core.forget()  # gradients left by a stop within an epoch
            watch.end()
        return self._history

    def _alone(self, train: Callable[[Callable[[], None]], History]) -> History:
        """Prevent a concurrent fit: its epochs would be counted and shown as this one's.

        After an error that leaves the model unchanged, counts and rates are restored too, by the
        function that `train` is given.
        """
        optimizer = self._optimizer
        # Rates know whether they have warned; a fit that did not take place has not.
        before = self._base_lr, copy.copy(self._rates), self._epochs, dict(self._plateau)
        given, by_hand = optimizer._given(), optimizer._by_hand.lr

        def restore() -> None:
            self._base_lr, self._rates, self._epochs, self._plateau = before
            optimizer._by_hand.lr = by_hand
            optimizer._put_back(given)

        mine, process = vars(self), os.getpid()
        if self._fits_in == process:
            raise UnsupportedError(
                "this trainer is already in a fit, which must end first: in a callback, use "
                "trainer.copy().fit; to fit several trainers at once, use thalweg.train_many"
            )
        # Ctrl-C and other threads come where something is called: never between this, what follows,
        # and the end.
        mine["_fits_in"], mine["_untouched"] = process, True
        try:
            if self._model._steps:
                _steps.check(self._model, self._core, "fit")
            return train(restore)
        except BaseException as error:
            if self._untouched:
                restore()
            explain(self, error)
            raise
        finally:
            mine["_fits_in"] = None

    def _take_notes(self, ended: list[tuple[Any, ...]], before: int) -> dict[str, float]:
        """Record the epochs that ended, and return the last; `before` epochs preceded this fit.

        Ctrl-C may come at any point: until `clear`, everything can be repeated safely.
        """
        columns = _columns(ended)
        if "penalty" in columns:
            constant = self._penalties.constant
            columns["penalty"] = [figure + constant for figure in columns["penalty"]]
        first, last = ended[0][0], ended[-1][0]
        self._history._put(first - 1, columns)
        self._epochs = before + last
        ended.clear()
        record = {"epoch": last, **{key: figures[-1] for key, figures in columns.items()}}
        if isinstance(self._schedule, ReduceLROnPlateau):
            figure = _monitored.monitored(record, self._schedule.monitor, self._schedule)
            lr = self._schedule.update(self._plateau, figure, self._optimizer.lr)
            self._optimizer._core.set_lr(lr)
        return record


def _kept(epochs: int) -> str:
    """Say what a fit that an error ended has left."""
    count = "1 whole epoch" if epochs == 1 else f"{epochs} whole epochs"
    return (
        "This ended the fit as Ctrl-C does: the model keeps what it has learned, and "
        f"trainer.history has the figures of {count}."
    )


def _bar(run: Any, epochs: int) -> ProgressBar:
    """Make the progress bar of a fit."""
    from thalweg._trainer._progress import ProgressBar

    return ProgressBar(run, epochs)


def _length(source: Any) -> int | None:
    """Return the number of batches of an iterable, if it knows."""
    try:
        return len(source)
    except TypeError:  # loaders over data of unknown length raise
        return None


def _columns(ended: list[tuple[Any, ...]]) -> dict[str, list[float]]:
    """Name the figures of some epochs, without the missing ones; user-defined ones come last.

    All epochs of a fit have the same figures, but for user-defined ones, which come one epoch at a
    time.
    """
    first = ended[0]
    columns = {
        key: [epoch[place] for epoch in ended]
        for place, key in enumerate(KEYS, start=1)
        if first[place] is not None
    }
    more = first[len(KEYS) + 1] if len(first) > len(KEYS) + 1 else {}
    return columns | {key: [figure] for key, figure in more.items()}
