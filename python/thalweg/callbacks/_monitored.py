"""Callbacks that monitor a figure of the epochs."""

import errno
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from thalweg import _better, _checks, _habits
from thalweg._better import Mode
from thalweg._history import KEYS
from thalweg.callbacks._base import AnyCallback, Callback, method_of
from thalweg.errors import ArgumentError
from thalweg.optim.schedules import ReduceLROnPlateau

if TYPE_CHECKING:  # at run time, callbacks need not know the trainer
    from thalweg._trainer import Trainer
else:  # what typing.get_type_hints finds
    Trainer = Any


def check_figures(
    callbacks: "Sequence[AnyCallback]", schedule: Any, there: Sequence[str], own_loss: bool
) -> None:
    """Raise if something monitors a figure that an epoch cannot have.

    A fit itself has the figures in `there`. Callbacks may add others for the callbacks after them,
    and so may a user-defined loss, whose figures are known only once it has been called.
    """
    if isinstance(schedule, ReduceLROnPlateau):
        key = schedule.monitor
        if key not in there and (key in KEYS or not own_loss):
            raise _missing(schedule, key, there, may_add=False)
    # The batches of an epoch come before all that looks at it.
    adds = any(method_of(callback, "on_step_end") is not None for callback in callbacks)
    may_add = [
        type(callback) not in (EarlyStopping, ModelCheckpoint)
        and method_of(callback, "on_epoch_end") is not None
        for callback in callbacks
    ]
    for place, callback in enumerate(callbacks):
        if isinstance(callback, Monitor):
            callback._check(there, own_loss, adds or any(may_add[:place]), any(may_add[place:]))


def _missing(watcher: Any, key: str, there: Iterable[str], may_add: bool) -> ArgumentError:
    """Make the error for a missing figure, which says how to get it.

    `may_add` is whether a callback may be meant to add it, but comes too late or leaves epochs out.
    """
    text = f"{type(watcher).__name__} monitors {key!r}"
    figures = [name for name in there if name not in ("epoch", "seconds")]
    own = key.removeprefix("val_")
    comes = own in figures or not (may_add or key in KEYS)
    if key.startswith("val_") and "val_loss" not in figures and comes:
        text += "; pass validation_data to fit"
        if own in figures:
            text += f', or monitor="{own}"'
    else:
        text += f", but the figures of this fit are {', '.join(figures)}"
    if key not in KEYS:
        text += (
            (
                "; figures that callbacks add come too late for it, but a callback can set "
                "optimizer.lr"
            )
            if isinstance(watcher, ReduceLROnPlateau)
            else "; a callback that adds it must come before this one, and do so in every epoch, "
            "with NaN where it has none"
        )
        text += _habits.did_you_mean(key, [*KEYS, *figures])
    return ArgumentError(text)


#: Other libraries' names for arguments of callbacks.
_OF_CALLBACKS = {
    **dict.fromkeys(("metric", "key"), "it is monitor"),
    **dict.fromkeys(("tol", "delta", "threshold"), "it is min_delta"),
    **dict.fromkeys(("n_iter_no_change", "wait"), "it is patience"),
    **dict.fromkeys(("filepath", "filename", "dirpath"), "it is path"),
    "save_weights_only": "a model file contains only layers and weights, no optimizer",
    "verbose": "trainer.fit(..., progress=True) shows a bar",
    "baseline": "a callback whose on_epoch_end compares record[monitor] with it, and returns True, "
    "stops the fit",
    **dict.fromkeys(
        ("save_freq", "every_n_epochs", "every_n_train_steps"),
        "a file is written after each epoch; a callback whose on_epoch_end or on_step_end calls "
        "trainer.save(path) does so at other times",
    ),
}


class Monitor(Callback):
    """Base of callbacks that monitor a figure: which values are better, and the best so far."""

    def __init__(self, monitor: str, mode: Mode, min_delta: float) -> None:
        kind = type(self).__name__
        self.mode: str = _better.which(kind, monitor, mode)
        self._sign = 1.0 if self.mode == "min" else -1.0
        #: The figure, a key of `History`.
        self.monitor: str = monitor
        self.min_delta: float = _checks.real(f"{kind}: min_delta", min_delta, 0)
        #: The best figure so far; None before the first epoch.
        self.best: float | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self._shown().items())})"

    def _shown(self) -> dict[str, Any]:
        """Return what `repr` shows: the arguments by name, if they differ from the defaults."""
        usual = {"mode": _better.by_name(self.monitor), "min_delta": 0.0}
        given = {"mode": self.mode, "min_delta": self.min_delta}
        return {"monitor": self.monitor} | {n: v for n, v in given.items() if v != usual[n]}

    def _check(self, there: Sequence[str], own_loss: bool, adds: bool, later: bool) -> None:
        """Raise if no fit, user-defined loss or callback can supply the figure.

        `adds` is whether a callback may add figures before this one, `later` after it.
        """
        key = self.monitor
        # The fit itself has these if it is given validation data.
        of_fit = key == "val_loss" or (key == "val_accuracy" and "accuracy" in there)
        may_come = (adds and not of_fit) or (own_loss and key not in KEYS)
        if key not in there and not may_come:
            raise _missing(self, key, there, later)

    def _improves(self, record: dict[str, float]) -> bool:
        """Return whether an epoch is the best so far, and remember it if so."""
        figure = monitored(record, self.monitor, self)
        if math.isnan(figure):  # no number would compare as better
            return False
        if self.best is not None:
            least = self._sign * self.best - self.min_delta
            if not self._sign * figure < least:
                return False
        self.best = figure
        return True


def monitored(record: dict[str, float], key: str, watcher: Any) -> float:
    """Return a figure of an epoch, or raise `ArgumentError` and list the ones there are."""
    if key not in record:
        raise _missing(watcher, key, record, may_add=True)
    return record[key]


class EarlyStopping(Monitor):
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
        whether stopped early or not; after Ctrl-C, `restore` does that. The trainer's ``average``
        is restored with them. The optimizer is not, except for `optim.ScheduleFreeAdamW`, which
        holds the average of the weights.
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
    Names and defaults follow Keras, but epochs are counted from 1. NaN is never an improvement, so
    patience also runs in epochs without a figure, where the callback that adds it adds NaN.

    With the trainer's ``average``, the figures and the weights to restore are still those of the
    weights in training; a callback can add figures of ``trainer.average_model()``.

    Examples
    --------
    >>> from thalweg.callbacks import EarlyStopping
    >>> stop = EarlyStopping("val_loss", patience=5, restore_best_weights=True)

    Keep the best weights also if Ctrl-C ends the fit, which leaves the latest ones:

    >>> def fit(trainer, x, y, held_out):
    ...     try:
    ...         trainer.fit(x, y, epochs=500, validation_data=held_out, callbacks=[stop])
    ...     except KeyboardInterrupt:
    ...         stop.restore(trainer)
    """

    @_habits.takes("EarlyStopping", _OF_CALLBACKS)
    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 0,
        mode: Mode = "auto",
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        kind = "EarlyStopping"
        self.patience: int = _checks.integer(f"{kind}: patience", patience, 0)
        self.restore_best_weights: bool = _checks.flag(
            f"{kind}: restore_best_weights", restore_best_weights
        )
        self.start_from_epoch: int = _checks.integer(
            f"{kind}: start_from_epoch", start_from_epoch, 0
        )
        self.best_epoch = self.stopped_epoch = 0
        self._weights: dict[str, Any] | None = None
        self._state: Any = None
        self._average: Any = None

    def _shown(self) -> dict[str, Any]:
        restore = {"restore_best_weights": True} if self.restore_best_weights else {}
        return {**super()._shown(), "patience": self.patience, **restore}

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Reset the state of the previous fit."""
        self.best = None
        self.best_epoch = self.stopped_epoch = 0
        self._weights = self._state = self._average = None
        self._waited = 0

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> bool:
        """Check the figure; return True if patience has run out."""
        epoch = int(record["epoch"])
        if epoch <= self.start_from_epoch:
            return False
        if self._improves(record):
            self.best_epoch, self._waited = epoch, 0
            if self.restore_best_weights:
                self._weights = trainer.model.state_dict()
                self._average = trainer._core.average()
                if trainer._averaging is not None:
                    self._state = trainer.optimizer._state()
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        self.stopped_epoch = epoch
        return True

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Restore the best weights, if `restore_best_weights` was set."""
        if self.restore_best_weights:
            self.restore(trainer)

    def restore(self, trainer: "Trainer") -> None:
        """Restore the best weights after Ctrl-C or an error, when the fit itself does not.

        Does nothing if the fit has restored them, or ended before an epoch had a figure.

        Parameters
        ----------
        trainer : Trainer
            That of the latest fit.

        Raises
        ------
        ArgumentError
            If `restore_best_weights` is False: no weights were kept.
        """
        if not self.restore_best_weights:
            raise ArgumentError(
                "EarlyStopping kept no weights to restore: set restore_best_weights=True before "
                "the fit"
            )
        if self._weights is not None:
            trainer.model.load_state_dict(self._weights)
            if self._state is not None:
                optimizer = trainer.optimizer
                optimizer._set_state(trainer.model, optimizer._given(), *self._state)
            if self._average is not None:
                trainer._core.set_average(*self._average)
            self._weights = self._state = self._average = None


class ModelCheckpoint(Monitor):
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
        Whether to save only when the figure is the best so far, also in earlier fits with this
        callback, whose file a worse model would replace. A new callback begins anew.
    mode : {"auto", "min", "max"}, keyword only
        Whether smaller or larger is better, as for `EarlyStopping`.

    Attributes
    ----------
    best : float or None
        The best figure so far, with ``save_best_only``; set it to None to begin anew.

    Raises
    ------
    ArgumentError
        If an argument is of the wrong kind, or `mode` is required but missing; before the first
        step, if the placeholders of the path or the figure cannot be supplied.
    FileNotFoundError, IsADirectoryError
        Before the first step, if the folder does not exist, or the path is that of a folder.
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
        mode: Mode = "auto",
    ) -> None:
        super().__init__(monitor, mode, 0.0)
        self.path: str | os.PathLike[str] = _checks.path("ModelCheckpoint: path", path)
        self.save_best_only = _checks.flag("ModelCheckpoint: save_best_only", save_best_only)

    def _shown(self) -> dict[str, Any]:
        best = {**super()._shown(), "save_best_only": True} if self.save_best_only else {}
        return {"path": self.path, **best}

    def _check(self, there: Sequence[str], own_loss: bool, adds: bool, later: bool) -> None:
        if self.save_best_only:
            super()._check(there, own_loss, adds, later)
        figures = {"epoch": 1.0, **dict.fromkeys(there, 0.0)}
        self._filled(defaultdict(float, figures) if own_loss or adds else figures)

    def _filled(self, figures: dict[str, float]) -> str:
        """Return the path for an epoch."""
        try:
            return os.fspath(self.path).format_map(figures | {"epoch": int(figures["epoch"])})
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise ArgumentError(
                f"ModelCheckpoint: path {self.path!r} cannot be filled in ({error!r}); the "
                f"figures are {', '.join(figures)}"
            ) from None

    def on_fit_begin(self, trainer: "Trainer") -> None:
        """Check that the folder exists; the best figure is still that of all fits so far."""
        # Up to the first placeholder whose figure is not known yet.
        path = os.fspath(self.path)  # which may be a subclass's
        known = re.split(r"\{(?!epoch\b)", path)[0]
        folder = os.path.dirname(known).format(epoch=1)
        if known == path and os.path.isdir(first := known.format(epoch=1)):
            raise IsADirectoryError(
                errno.EISDIR, "ModelCheckpoint: path must name a file; this is a folder", first
            )
        if folder and not os.path.isdir(folder):
            raise FileNotFoundError(
                errno.ENOENT, "ModelCheckpoint: there is no such folder; make it first", folder
            )

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> None:
        """Save the model, if this epoch calls for it."""
        before = self.best
        if self.save_best_only and not self._improves(record):
            return
        try:
            trainer.model.save(self._filled(record))
        except BaseException:  # a better model of a later fit would not be saved
            self.best = before
            raise
