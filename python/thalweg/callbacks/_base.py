"""What a callback is."""

from typing import TYPE_CHECKING, Any

from thalweg._fixed import Fixed
from thalweg.errors import DivergedError

if TYPE_CHECKING:  # at run time, callbacks need not know the trainer
    from typing import Protocol, TypeAlias

    from thalweg._trainer import Trainer

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
else:  # what typing.get_type_hints finds
    AnyCallback = Trainer = Any


class Callback(Fixed):
    """Base of all callbacks. Deriving from it is optional; any one of its methods is enough.

    If callbacks look at epochs only, whole epochs run in the compiled core. One with `on_step_end`
    makes `fit` return to Python after every batch, which takes a few microseconds.

    An error in a callback ends the fit like Ctrl-C: the model keeps what it has learned, and the
    history holds the completed epochs, as a note of the error says.

    Examples
    --------
    Stop as soon as the validation loss is small enough:

    >>> class Enough:
    ...     def on_epoch_end(self, trainer, record):
    ...         return record["val_loss"] < 0.1

    A custom metric becomes a key of the history like any other. `EarlyStopping` can monitor it
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

        After the last batch of an epoch, validation has already been done; but not for batches from
        an iterable, where an epoch is over only when no further batch comes.

        Parameters
        ----------
        trainer : Trainer
            The model may be used and changed.
        record : dict of str to float
            ``"epoch"`` and ``"batch"`` (both from 1), ``"loss"``, before the update, and the
            figures that a custom loss returned for the batch. The mean over the batches of a number
            added to it under another key becomes a figure of the epoch; NaN does not count.

        Returns
        -------
        bool or None
            True stops the training after this batch; anything else goes on, as in `on_epoch_end`.
            An epoch that is not over then has no entry in the history.
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
            in the history. To change those that are there is an error.

        Returns
        -------
        bool or None
            True stops the training after this epoch; anything else goes on, also 1, which may be a
            figure that the method happens to return.
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
            Model and optimizer, with its learning rate, are restored to their state before the fit;
            `history` has the completed epochs. What is changed here remains: for instance, a
            smaller ``trainer.optimizer.lr`` for another fit.
        error : DivergedError
            Add information with ``error.add_note(text)``.
        """


#: The names of a callback's methods.
METHODS = ("on_fit_begin", "on_step_end", "on_epoch_end", "on_fit_end", "on_diverged")


def method_of(callback: Any, name: str) -> Any:
    """Return a callback's method, or None if it is missing or the empty one of `Callback`."""
    method = getattr(callback, name, None)  # may have been set on the object
    return None if getattr(method, "__func__", None) is getattr(Callback, name) else method
