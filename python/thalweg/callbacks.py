"""Callbacks, which `Trainer.fit` calls while it runs."""

import errno
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import _checks, _habits
from thalweg._history import KEYS
from thalweg.errors import ArgumentError
from thalweg.optim import schedules as _schedules

if TYPE_CHECKING:  # at run time, callbacks need not know the trainer
    from typing import Protocol, TypeAlias

    from thalweg._trainer import Trainer
    from thalweg.curvature import StabilityMonitor as StabilityMonitor
    from thalweg.errors import DivergedError

    class _SeesBegin(Protocol):
        def on_fit_begin(self, trainer: Trainer, /) -> None: ...

    class _SeesSteps(Protocol):
        def on_step_end(self, trainer: Trainer, record: dict[str, float], /) -> bool | None: ...

    class _SeesEpochs(Protocol):
        def on_epoch_end(self, trainer: Trainer, record: dict[str, float], /) -> bool | None: ...

    class _SeesEnd(Protocol):
        def on_fit_end(self, trainer: Trainer, /) -> None: ...

    class _SeesDivergence(Protocol):
        def on_diverged(self, trainer: Trainer, error: DivergedError, /) -> None: ...

    #: What `thalweg.Trainer.fit` accepts: anything with at least one of the methods of `Callback`.
    AnyCallback: TypeAlias = _SeesBegin | _SeesSteps | _SeesEpochs | _SeesEnd | _SeesDivergence

__all__ = ["Callback", "EarlyStopping", "ModelCheckpoint", "StabilityMonitor"]


if not TYPE_CHECKING:  # type checkers would take every name for one that is there

    def __getattr__(name: str) -> Any:
        # Import what measures curvature only for those who use it.
        if name == "StabilityMonitor":
            from thalweg.curvature import StabilityMonitor

            return StabilityMonitor
        import sys

        elsewhere = {
            "ReduceLROnPlateau": "optim.schedules has it, and Trainer(schedule=...) takes it",
            "LearningRateScheduler": "optim.schedules.LambdaLR does that, as Trainer(schedule=...)",
            "LambdaCallback": "any object with a method on_epoch_end is a callback",
            **dict.fromkeys(
                ("ProgbarLogger", "ProgressBar", "TQDMProgressBar", "RichProgressBar"),
                "trainer.fit(..., progress=True) shows a bar",
            ),
            "TerminateOnNaN": "a fit whose loss is NaN ends by itself, with DivergedError",
            "BackupAndRestore": "trainer.save(path) and Trainer.load(path) do that",
            "History": "trainer.fit gives it",
            "CSVLogger": "trainer.fit gives a dict of lists, which csv and pandas write",
            "TensorBoard": "a callback of your own can write what on_epoch_end sees",
        }
        return _habits.of_module(sys.modules[__name__], elsewhere, __all__)(name)


class Callback:
    """Base of all callbacks. Deriving from it is optional; any one of its methods is enough.

    If callbacks look at epochs only, whole epochs run in the compiled core. One with `on_step_end`
    makes `fit` return to Python after every batch, which takes a few microseconds.

    Examples
    --------
    Stop as soon as the validation loss is small enough:

    >>> class Enough:
    ...     def on_epoch_end(self, trainer, record):
    ...         return record["val_loss"] < 0.1

    A metric of your own becomes a key of the history like any other. `EarlyStopping` can monitor it
    if it comes later in the list:

    >>> class Largest:
    ...     def on_epoch_end(self, trainer, record):
    ...         record["largest"] = abs(trainer.model.flat_parameters).max()
    """

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Prepare for a fit, after all its arguments have been checked.

        Parameters
        ----------
        trainer : Trainer
            Its history is empty.
        """

    def on_step_end(self, trainer: "Trainer", record: dict[str, float]) -> bool | None:
        """Look at a batch that has just been used.

        After the last batch of an epoch, validation has already been done.

        Parameters
        ----------
        trainer : Trainer
            The model may be used and changed.
        record : dict of str to float
            ``"epoch"`` and ``"batch"`` (both from 1), and ``"loss"``, before the update.

        Returns
        -------
        bool or None
            True stops the training after this batch; anything else goes on.
        """

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> bool | None:
        """Look at an epoch that has just ended.

        Parameters
        ----------
        trainer : Trainer
            ``trainer.history`` already includes this epoch. The model may be used and changed.
        record : dict of str to float
            ``"epoch"`` (from 1) and the figures of this epoch under the keys of `History`. Numbers
            added to it under other keys are seen by the callbacks after this one, and are recorded
            in the history.

        Returns
        -------
        bool or None
            True stops the training after this epoch; anything else goes on.
        """

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Finish, after the last epoch or an early stop, but not after an error or Ctrl-C.

        Parameters
        ----------
        trainer : Trainer
            The model may be used and changed.
        """

    def on_diverged(self, trainer: "Trainer", error: "DivergedError") -> None:
        """Look at the error that will end a fit whose loss became infinite or NaN.

        Parameters
        ----------
        trainer : Trainer
            Model and optimizer are restored to their state before the fit; `history` has the
            completed epochs.
        error : DivergedError
            Add information with ``error.add_note(text)``.
        """


#: The names of a callback's methods.
METHODS = ("on_fit_begin", "on_step_end", "on_epoch_end", "on_fit_end", "on_diverged")


def method(callback: Any, name: str) -> Any:
    """Return a callback's method, or None if it is missing or the empty one of `Callback`."""
    if getattr(type(callback), name, None) is getattr(Callback, name):
        return None
    return getattr(callback, name, None)


def check(callbacks: "Iterable[AnyCallback]") -> "tuple[AnyCallback, ...]":
    """Return the callbacks as a tuple, after checking each."""

    def is_callback(value: Any) -> bool:
        has = any(callable(getattr(value, name, None)) for name in METHODS)
        return has and not isinstance(value, type)

    if is_callback(callbacks):
        raise ArgumentError("callbacks must be a sequence: write callbacks=[...]")
    try:
        found = tuple(callbacks)
    except TypeError:
        raise ArgumentError(f"callbacks must be a sequence; got {callbacks!r}") from None
    for callback in found:
        if not is_callback(callback):
            raise ArgumentError(
                f"a callback needs one of the methods {', '.join(METHODS)}; got {callback!r}"
                f"{_meant(callback)}"
            )
        _refuse_others(callback)
    return found


#: Methods of callbacks in Keras and Lightning, and what is called here at that time.
_ELSEWHERE = {
    **dict.fromkeys(
        ("on_train_begin", "on_train_start", "on_fit_start", "on_training_start"), "on_fit_begin"
    ),
    **dict.fromkeys(("on_train_end", "on_training_end"), "on_fit_end"),
    **dict.fromkeys(("on_batch_end", "on_train_batch_end"), "on_step_end"),
    **dict.fromkeys(
        ("on_train_epoch_end", "on_validation_end", "on_validation_epoch_end", "on_test_end"),
        "on_epoch_end",
    ),
    **dict.fromkeys(
        (
            "on_epoch_begin", "on_epoch_start", "on_train_epoch_start", "on_batch_begin",
            "on_batch_start", "on_train_batch_begin", "on_train_batch_start", "on_step_begin",
            "on_step_start",
        ),
        "",
    ),
}  # fmt: skip


def _refuse_others(callback: Any) -> None:
    """Raise if a callback's method would never be called because its name is another library's."""
    for name, ours in _ELSEWHERE.items():
        if callable(getattr(callback, name, None)):
            instead = f"it is {ours} here" if ours else f"there are {', '.join(METHODS)}"
            raise ArgumentError(
                f"{type(callback).__name__}.{name} would not be called by Trainer.fit: {instead}"
            )


def _meant(value: Any) -> str:
    """Say what to write instead of something that is not a callback, where that is clear."""
    if isinstance(value, type) and any(hasattr(value, name) for name in METHODS):
        return f": make one of this class, {value.__name__}(...)"
    if isinstance(value, (_schedules.Schedule, _schedules.ReduceLROnPlateau)):
        return ": a schedule is given to the trainer, Trainer(..., schedule=...)"
    if callable(value):
        return ": write a class with a method on_epoch_end(self, trainer, record)"
    return ""


class Watch:
    """The callbacks of a fit, sorted by the events they want to see."""

    def __init__(self, trainer: "Trainer", callbacks: "tuple[AnyCallback, ...]") -> None:
        self._trainer = trainer
        self._of = {
            name: [m for c in callbacks if (m := method(c, name)) is not None] for name in METHODS
        }
        self.steps = bool(self._of["on_step_end"])
        # A schedule that follows a figure also looks at every epoch.
        plateau = isinstance(trainer.schedule, _schedules.ReduceLROnPlateau)
        self.epochs = plateau or bool(self._of["on_epoch_end"])

    def begin(self) -> None:
        for method in self._of["on_fit_begin"]:
            method(self._trainer)

    def step(self, run: Any, ended: bool) -> bool:
        """Show a batch, and whether it ended its epoch; return whether a callback stops the fit."""
        epochs, batch, batches, *_ = run.progress
        if ended:
            epochs, batch = epochs - 1, batches
        if math.isnan(run.last_loss):  # a skipped batch
            return False
        record = {"epoch": epochs + 1, "batch": batch, "loss": run.last_loss}
        return self._ask("on_step_end", record)

    def epoch(self, record: dict[str, float]) -> bool:
        """Show an epoch; return whether a callback stops the fit."""
        return self._ask("on_epoch_end", record)

    def end(self) -> None:
        for method in self._of["on_fit_end"]:
            method(self._trainer)

    def diverged(self, error: "DivergedError") -> None:
        for method in self._of["on_diverged"]:
            method(self._trainer, error)

    def _ask(self, name: str, record: dict[str, float]) -> bool:
        # Ask every callback, even after an earlier one has stopped the fit. 1 does not count as
        # True: it may be a figure that a function happens to return.
        answers = [method(self._trainer, record) for method in self._of[name]]
        return any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)


def check_figures(
    callbacks: "Sequence[AnyCallback]", schedule: Any, there: Sequence[str], own_loss: bool
) -> None:
    """Raise if something monitors a figure that an epoch cannot have.

    A fit itself has the figures in `there`. Callbacks may add others for the callbacks after them,
    and so may a user-defined loss, whose figures are known only once it has been called.
    """
    if isinstance(schedule, _schedules.ReduceLROnPlateau):
        key = schedule.monitor
        if key not in there and (key in KEYS or not own_loss):
            raise _missing(schedule, key, there)
    adds = False
    for callback in callbacks:
        if isinstance(callback, _Monitor):
            callback._check(there, own_loss, adds)
        if type(callback) not in (EarlyStopping, ModelCheckpoint):
            adds = adds or method(callback, "on_epoch_end") is not None


def _missing(watcher: Any, key: str, there: Iterable[str]) -> ArgumentError:
    """Make the error for a missing figure, which says how to get it."""
    text = f"{type(watcher).__name__} monitors {key!r}"
    figures = [name for name in there if name not in ("epoch", "seconds")]
    comes = key not in KEYS or key.removeprefix("val_") in figures
    if key.startswith("val_") and "val_loss" not in figures and comes:
        text += "; pass validation_data to fit"
    else:
        text += f", but the figures of this fit are {', '.join(figures)}"
    if key not in KEYS:
        text += (
            "; those that callbacks add come too late for it, but a callback can set optimizer.lr"
            if isinstance(watcher, _schedules.ReduceLROnPlateau)
            else "; a callback that adds it must come before this one, and do so in every epoch"
        )
        text += _habits.did_you_mean(key, [*KEYS, *figures])
    return ArgumentError(text)


#: Other libraries' names for arguments of callbacks.
_OF_CALLBACKS = {
    **dict.fromkeys(("metric", "key"), "it is monitor"),
    **dict.fromkeys(("tol", "delta", "threshold"), "it is min_delta"),
    **dict.fromkeys(("n_iter_no_change", "wait"), "it is patience"),
    **dict.fromkeys(("filepath", "filename", "dirpath"), "it is path"),
    "save_weights_only": "a file of a model holds its layers and weights, and no optimizer",
    "verbose": "trainer.fit(..., progress=True) shows a bar",
}


#: Words in the names of figures for which smaller is better, and larger.
_LESS = {
    "loss", "logloss", "error", "err", "mse", "rmse", "msle", "mae", "mape", "nll", "perplexity",
    "ppl", "brier", "penalty", "damping", "rejected", "sharpness", "seconds", "time",
}  # fmt: skip
_MORE = {
    "accuracy", "acc", "auc", "auroc", "roc", "ap", "map", "f1", "r2", "precision", "recall",
    "score", "sensitivity", "specificity", "iou", "dice", "mcc", "kappa", "ndcg",
}  # fmt: skip


def _auto(monitor: str) -> str | None:
    """Say whether smaller or larger is better for a figure, if its name tells."""
    words = set(re.split(r"[^a-z0-9]+", monitor.lower()))
    less, more = bool(words & _LESS), bool(words & _MORE)
    # For negated errors, as scikit-learn has them, larger is better.
    if less == more or words & {"neg", "negative", "minus"}:
        return None
    return "min" if less else "max"


class _Monitor(Callback):
    """Base of callbacks that monitor a figure: which values are better, and the best so far."""

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        kind = type(self).__name__
        if not isinstance(monitor, str):
            raise ArgumentError(f"{kind}: monitor must be a key of History; got {monitor!r}")
        self.monitor = monitor
        mode = _checks.one_of(f"{kind}: mode", mode, ("auto", "min", "max"))
        if mode == "auto":
            known = _auto(monitor)
            if known is None:
                raise ArgumentError(
                    f"{kind}: whether smaller or larger is better of {monitor!r}, its name does "
                    f'not tell: pass mode="min" or mode="max"{_habits.did_you_mean(monitor, KEYS)}'
                )
            mode = known
        self._sign = 1.0 if mode == "min" else -1.0
        self._min_delta = _checks.real(f"{kind}: min_delta", min_delta, 0)
        #: The best figure so far; None before the first epoch.
        self.best: float | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self._shown().items())})"

    def _shown(self) -> dict[str, Any]:
        """Return what `repr` shows: the arguments by name, if they differ from the defaults."""
        mode = "min" if self._sign > 0 else "max"
        usual = {"mode": _auto(self.monitor), "min_delta": 0.0}
        given = {"mode": mode, "min_delta": self._min_delta}
        return {"monitor": self.monitor} | {n: v for n, v in given.items() if v != usual[n]}

    def on_fit_begin(self, trainer: "Trainer") -> None:
        self.best = None

    def _check(self, there: Sequence[str], own_loss: bool, adds: bool) -> None:
        """Raise if no fit, user-defined loss or callback can supply the figure."""
        key = self.monitor
        # The fit itself has these if it is given validation data.
        of_fit = key == "val_loss" or (key == "val_accuracy" and "accuracy" in there)
        may_come = (adds and not of_fit) or (own_loss and key not in KEYS)
        if key not in there and not may_come:
            raise _missing(self, key, there)

    def _improves(self, record: dict[str, float]) -> bool:
        """Return whether an epoch is the best so far, and remember it if so."""
        figure = monitored(record, self.monitor, self)
        if math.isnan(figure):  # no number would compare as better
            return False
        if self.best is not None:
            least = self._sign * self.best - self._min_delta
            if not self._sign * figure < least:
                return False
        self.best = figure
        return True


def monitored(record: dict[str, float], key: str, watcher: Any) -> float:
    """Return a figure of an epoch, or raise `ArgumentError` and list the ones there are."""
    if key not in record:
        raise _missing(watcher, key, record)
    return record[key]


class EarlyStopping(_Monitor):
    """Ends the training when a figure has stopped improving.

    Parameters
    ----------
    monitor : str, default "val_loss"
        A key of `History`, including those added by callbacks before this one.
    min_delta : float, keyword only, default 0
        An improvement by less than this does not count.
    patience : int, keyword only, default 0
        Number of epochs without improvement to tolerate: training stops after ``patience`` of them
        in a row, or after the first one if it is 0.
    mode : {"auto", "min", "max"}, keyword only
        Whether smaller or larger is better; by default, this follows from words in the figure's
        name, such as ``loss``, ``error`` and ``rmse``, or ``accuracy``, ``auc`` and ``score``. For
        other names it is required.
    restore_best_weights : bool, keyword only, default False
        Whether to restore the weights and running averages of the best epoch when the fit ends,
        whether stopped early or not. The optimizer is not restored, nor is the trainer's
        ``average``, except that `optim.ScheduleFreeAdamW`, which holds the average of the weights,
        is restored with them.
    start_from_epoch : int, keyword only, default 0
        Number of initial epochs to ignore.

    Attributes
    ----------
    best : float or None
        The best figure of the latest fit.
    best_epoch : int
        Its epoch, from 1; 0 if there is none.
    stopped_epoch : int
        The epoch after which training stopped; 0 if it was not stopped.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or `mode` is required but missing; before the first step, if
        nothing can supply the figure; after the first epoch, if no callback has added it.

    Notes
    -----
    Names and defaults follow Keras, but epochs are counted from 1. NaN is never an improvement.

    Examples
    --------
    >>> from thalweg.callbacks import EarlyStopping
    >>> stop = EarlyStopping("val_loss", patience=5, restore_best_weights=True)
    """

    @_habits.takes("EarlyStopping", _OF_CALLBACKS)
    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self._patience = _checks.integer("EarlyStopping: patience", patience, 0)
        self._restore = _checks.flag("EarlyStopping: restore_best_weights", restore_best_weights)
        self._from = _checks.integer("EarlyStopping: start_from_epoch", start_from_epoch, 0)
        self.best_epoch = self.stopped_epoch = 0
        self._weights: dict[str, Any] | None = None
        self._state: Any = None

    def _shown(self) -> dict[str, Any]:
        restore = {"restore_best_weights": True} if self._restore else {}
        return {**super()._shown(), "patience": self._patience, **restore}

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Reset the state of the previous fit."""
        super().on_fit_begin(trainer)
        self.best_epoch = self.stopped_epoch = 0
        self._weights = self._state = None
        self._waited = 0

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> bool:
        """Check the figure; return True if patience has run out."""
        epoch = int(record["epoch"])
        if epoch <= self._from:
            return False
        if self._improves(record):
            self.best_epoch, self._waited = epoch, 0
            if self._restore:
                self._weights = trainer.model.state_dict()
                if trainer._averaging is not None:
                    self._state = trainer.optimizer._state()
            return False
        self._waited += 1
        if self._waited < self._patience:
            return False
        self.stopped_epoch = epoch
        return True

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Restore the best weights."""
        if self._weights is not None:
            trainer.model.load_state_dict(self._weights)
            if self._state is not None:
                optimizer = trainer.optimizer
                optimizer._set_state(trainer.model, optimizer.lr, *self._state)
            self._weights = self._state = None


class ModelCheckpoint(_Monitor):
    """Saves the model at the end of epochs; load it with ``nn.Sequential.load``.

    Parameters
    ----------
    path : str or path-like
        The file, e.g. ``"model-{epoch:03d}-{val_loss:.3f}.safetensors"``, into which the figures of
        the epoch are filled. Without placeholders, each save replaces the last. The folder must
        exist.
    monitor : str, keyword only, default "val_loss"
        A key of `History`; needed only with ``save_best_only``.
    save_best_only : bool, keyword only, default False
        Whether to save only when the figure is the best so far in this fit.
    mode : {"auto", "min", "max"}, keyword only
        Whether smaller or larger is better, as for `EarlyStopping`.

    Raises
    ------
    ArgumentError
        If an argument is of the wrong kind, or `mode` is required but missing; before the first
        step, if the placeholders of the path or the figure cannot be supplied.
    FileNotFoundError
        Before the first step, if the folder does not exist.
    OSError
        During the fit, if the file cannot be written.
    """

    @_habits.takes("ModelCheckpoint", _OF_CALLBACKS)
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
    ) -> None:
        super().__init__(monitor, mode, 0.0)
        given: Any = path
        if not isinstance(given, (str, os.PathLike)) or isinstance(os.fspath(given), bytes):
            raise ArgumentError(f"ModelCheckpoint: path must be text or a path; got {given!r}")
        self._path: str = os.fspath(given)
        self.save_best_only = _checks.flag("ModelCheckpoint: save_best_only", save_best_only)

    def _shown(self) -> dict[str, Any]:
        best = {**super()._shown(), "save_best_only": True} if self.save_best_only else {}
        return {"path": self._path, **best}

    def _check(self, there: Sequence[str], own_loss: bool, adds: bool) -> None:
        if self.save_best_only:
            super()._check(there, own_loss, adds)
        figures = {"epoch": 1.0, **dict.fromkeys(there, 0.0)}
        self._filled(defaultdict(float, figures) if own_loss or adds else figures)

    def _filled(self, figures: dict[str, float]) -> str:
        """Return the path for an epoch."""
        try:
            return self._path.format_map(figures | {"epoch": int(figures["epoch"])})
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise ArgumentError(
                f"ModelCheckpoint: path {self._path!r} cannot be filled in ({error!r}); there "
                f"are {', '.join(figures)}"
            ) from None

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Reset the state of the previous fit, and check that the folder exists."""
        super().on_fit_begin(trainer)
        # Up to the first placeholder whose figure is not known yet.
        folder = os.path.dirname(re.split(r"\{(?!epoch\b)", self._path)[0]).format(epoch=1)
        if folder and not os.path.isdir(folder):
            raise FileNotFoundError(
                errno.ENOENT, "ModelCheckpoint: there is no such folder; make it first", folder
            )

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> None:
        """Save the model, if this epoch calls for it."""
        if not self.save_best_only or self._improves(record):
            trainer.model.save(self._filled(record))
