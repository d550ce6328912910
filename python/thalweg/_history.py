"""The figures of a training run, epoch by epoch."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thalweg import _arrays, _habits
from thalweg.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The keys in the order in which they are shown; the core gives them in this order too.
KEYS = ("loss", "accuracy", "penalty", "val_loss", "val_accuracy", "seconds")


class History(dict[str, list[float]]):
    """A dict of lists with one number per epoch.

    Keys are ``"loss"`` (mean over the samples of the epoch, each taken just before the step that
    used it, as in Keras; weighted if they are, and a sum if the loss is), ``"accuracy"`` (likewise,
    for losses that have one), ``"penalty"`` (at the end of the epoch, where
    `Trainer.set_penalty` set one), ``"val_loss"`` and
    ``"val_accuracy"`` (at the end of the epoch, where validation data was given) and ``"seconds"``;
    with `optim.LevenbergMarquardt` also ``"damping"``, before the step, and ``"rejected"`` steps.
    Others are figures that a loss of your own gives (`nn.CustomLoss`), and what callbacks add to
    the record of an epoch, see `callbacks.Callback.on_epoch_end`; where one is missing in an epoch,
    it is NaN.

    Examples
    --------
    >>> from thalweg import History
    >>> History(loss=[0.5, 0.25], seconds=[0.1, 0.1])
    History(2 epochs, loss 0.25, 0.20 s)
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say where it is."""
            if name == "history":
                more = ': this is the dict itself, history["loss"]'
            elif name in self:
                more = f": it is a key, history[{name!r}]"
            else:
                more = "" if name.startswith("_") else _habits.advice(name, {}, dir(History))
            raise AttributeError(f"History has no attribute {name!r}{more}", name=name, obj=self)

    @property
    def epochs(self) -> int:
        """How many epochs there are figures for."""
        return len(self.get("loss", ()))

    def __missing__(self, key: str) -> list[float]:
        """Say which figures there are."""
        there = ", ".join(self) or "none, before the first fit"
        known = str(key).removeprefix("val_") in self
        more = _habits.did_you_mean(key, self)
        if known and str(key).startswith("val_"):
            more = ": those of validation data are there after fit(..., validation_data=(x, y))"
        raise KeyError(f"there are no figures {key!r}; there are {there}{more}")

    def append(self, record: dict[str, float]) -> None:
        """Add the figures of one epoch; its number is its position and not kept."""
        epochs = self.epochs
        self._add({})
        for key in [*KEYS, *(key for key in record if key not in KEYS)]:
            if key in record and key != "epoch":
                self.setdefault(key, [math.nan] * epochs).append(record[key])

    def _add(self, more: Mapping[str, Any]) -> None:
        """Add figures of callbacks to the latest epoch, so that each has a number for all."""
        for key, value in more.items():
            if not _arrays.is_real(type(value)):
                raise ArgumentError(
                    f"what a callback adds to the record is a number with a name; got {key!r}: "
                    f"{value!r}"
                )
            figures = self.setdefault(key, [])
            figures += [math.nan] * (self.epochs - 1 - len(figures))
            figures.append(float(value))
        for figures in self.values():
            figures += [math.nan] * (self.epochs - len(figures))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the losses over the epochs; see `thalweg.plot.history`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from thalweg import plot

        return plot.history(self, ax)

    def __repr__(self) -> str:
        parts = [f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"]
        parts += [f"{key} {self[key][-1]:.4g}" for key in KEYS[:-1] if self.get(key)]
        if self.get("seconds"):
            time = sum(self["seconds"])
            parts.append(f"{time:.2f} s" if time >= 0.0995 else f"{1000 * time:.2g} ms")
        return f"History({', '.join(parts)})"

    def __reduce__(self) -> Any:
        return (History, (dict(self),))
