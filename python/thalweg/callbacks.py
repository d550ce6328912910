"""What `Trainer.fit` calls while it runs."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # the trainer calls callbacks; at run time they need not know it
    from thalweg._trainer import Trainer


@runtime_checkable
class Callback(Protocol):
    """Anything with an `on_epoch_end`; deriving from this class is not needed.

    Examples
    --------
    Stop as soon as the loss on the validation data is small enough:

    >>> class Enough:
    ...     def on_epoch_end(self, trainer, record):
    ...         return record["val_loss"] < 0.1
    """

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> bool | None:
        """Look at an epoch that has just ended.

        Parameters
        ----------
        trainer : Trainer
            ``trainer.history`` includes this epoch already. The model may be used and changed.
        record : dict of str to float
            ``"epoch"`` (from 1) and the figures of this epoch under the keys of `History`.

        Returns
        -------
        bool or None
            True stops the training after this epoch; anything else goes on.
        """
        ...
