"""The figures of a training run, epoch by epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thalweg import _arrays, _checks, _habits
from thalweg.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # what typing.get_type_hints finds
    Axes = Any

#: The keys in display order, which is also the order in which the core gives them.
KEYS = ("loss", "accuracy", "penalty", "val_loss", "val_accuracy", "seconds")


def added(record: Mapping[str, Any], there: Mapping[str, float]) -> dict[str, float]:
    """Return what callbacks have added to a record, beside the figures that were there.

    Raises
    ------
    ArgumentError
        If it is no number, or a figure that was there is another one now, or removed.
    """
    for key, value in there.items():
        if key not in record:
            raise ArgumentError(
                f"a callback may only add to the record; {key!r} was removed; copy the record "
                "first: dict(record)"
            )
        now = record[key]
        if not (now is value or (_arrays.is_real(type(now)) and _same(now, value))):
            raise ArgumentError(
                f"a callback may only add to the record; it changed {key!r} from {value!r} to "
                f"{_checks.short(now)}: add that under another name, which callbacks after it can "
                "monitor"
            )
    more = {key: value for key, value in record.items() if key not in there}
    for key, value in more.items():
        if not _arrays.is_real(type(value)):
            never = value is None and key == "grad_norm"
            raise ArgumentError(
                f"a callback may only add numbers to the record; got {key!r}: {value!r}"
                + (": trainer.grad_norm needs Trainer(..., clip_grad_norm=math.inf)" * never)
            )
    return {key: float(value) for key, value in more.items()}


def _same(a: float, b: float) -> bool:
    """Return whether both are the same number, or NaN."""
    return a == b or (a != a and b != b)


class History(dict[str, list[float]]):
    """A dict of lists with one number per epoch.

    The keys are ``"loss"`` (mean over the samples of the epoch, each taken just before the step
    that used it, as in Keras; weighted if the samples are, and a sum if the loss is),
    ``"accuracy"`` (likewise, for losses that have one), ``"penalty"`` (at the end of the epoch, if
    `Trainer.set_penalty` has set one), ``"val_loss"`` and ``"val_accuracy"`` (at the end of the
    epoch, if validation data are given) and ``"seconds"``; with `optim.LevenbergMarquardt` also
    ``"damping"``, before the step, and ``"rejected"``, the number of rejected steps. Further keys
    are figures returned by a custom loss (`nn.CustomLoss`) and those that callbacks add to the
    record of an epoch, see `callbacks.Callback.on_epoch_end`. A figure missing in an epoch is NaN.

    The sum of two histories has the epochs of one after those of the other, with the figures of
    both, also NaN where one lacks a figure.

    Examples
    --------
    >>> from thalweg import History
    >>> History(loss=[0.5, 0.25], seconds=[0.1, 0.1])
    History(2 epochs, loss 0.25, 0.20 s)
    >>> (History(loss=[0.5, 0.25]) + History(loss=[0.125], val_loss=[0.2]))["val_loss"]
    [nan, nan, 0.2]
    """

    #: What the only entry counts in means, where it is known: its rows in that of the loss and in
    #: that of the accuracy, and the updates among which some were projected.
    _counts: tuple[float, float, float] | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say where to find it."""
            if name == "history":
                more = ': this is the dict itself, history["loss"]'
            elif name in self:
                more = f": it is a key, history[{name!r}]"
            else:
                more = "" if name.startswith("_") else _habits.advice(name, {}, dir(History))
            raise AttributeError(f"History has no attribute {name!r}{more}", name=name, obj=self)

    @property
    def epochs(self) -> int:
        """The number of epochs recorded."""
        return len(self.get("loss", ()))

    def __missing__(self, key: str) -> list[float]:
        """Say which figures there are."""
        there = ", ".join(self)
        if not there and self._counts is not None:  # of a strategy, which has skipped all steps
            there = (
                "none, as no row counts in any of the steps: each has a sample_weight of 0, an"
                " ignored label, or a label whose class has weight 0"
            )
        elif not there:
            there = "none, as no epoch was completed"
            if key not in KEYS:
                there += "; trainer.figures has what a custom loss returned for its latest batch"
        known = str(key).removeprefix("val_") in self
        more = _habits.did_you_mean(key, self)
        if known and str(key).startswith("val_"):
            more = ": figures of validation data need fit(..., validation_data=(x, y))"
        raise KeyError(f"there are no figures {key!r}; there are {there}{more}")

    def __add__(self, other: "History") -> "History":
        """Return the epochs of both."""
        if not isinstance(other, History):
            return NotImplemented
        parts = (self, self.epochs), (other, other.epochs)
        both = [*KEYS, *(key for key in {**self, **other} if key not in KEYS)]
        return History(
            {
                key: [figure for part, n in parts for figure in part.get(key, [math.nan] * n)]
                for key in both
                if key in self or key in other
            }
        )

    def copy(self) -> "History":
        """Return a history with the same lists, as `dict.copy` does."""
        return History(self)

    def append(self, record: dict[str, float]) -> None:
        """Add the figures of one epoch; its number is its position and is not stored.

        Parameters
        ----------
        record : dict of str to float
            Numbers under the keys of a history.

        Raises
        ------
        ArgumentError
            If it is no dict, or a figure is no number.
        """
        given: Any = record
        if not isinstance(given, Mapping):
            raise ArgumentError(f"record must be a dict of numbers; got {_checks.short(given)}")
        for key, value in given.items():
            if not _arrays.is_real(type(value)):
                raise ArgumentError(f"figures must be numbers; got {key!r}: {_checks.short(value)}")
        self._add({})
        self._put(self.epochs, {key: [figure] for key, figure in record.items() if key != "epoch"})

    def _put(self, start: int, columns: Mapping[str, list[float]]) -> None:
        """Set figures of the epochs from `start` on, counted from 0; this can be repeated."""
        for key in [*KEYS, *(key for key in columns if key not in KEYS)]:
            if key in columns:
                figures = self.setdefault(key, [])
                figures += [math.nan] * (start - len(figures))
                figures[start:] = columns[key]

    def _add(self, more: Mapping[str, float]) -> None:
        """Add callbacks' figures to the latest epoch, and pad so that each has one per epoch."""
        for key, value in more.items():
            figures = self.setdefault(key, [])
            figures += [math.nan] * (self.epochs - 1 - len(figures))
            figures.append(value)
        for figures in self.values():
            figures += [math.nan] * (self.epochs - len(figures))

    def plot(
        self, keys: "str | Sequence[str] | Axes | None" = None, ax: "Axes | None" = None
    ) -> "Axes":
        """Draw losses, or other figures, against the epochs; the same as `thalweg.plot.history`.

        Parameters
        ----------
        keys : str or sequence of str, default "loss"
            What to draw, e.g. ``"accuracy"`` or ``["loss", "penalty"]``; figures of validation data
            are drawn beside them. (Axes are taken as `ax`.)
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ArgumentError
            If there are no figures of this name.
        """
        from thalweg import plot

        return plot.history(self, keys, ax)

    def __repr__(self) -> str:
        parts = [f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"]
        parts += [f"{key} {self[key][-1]:.4g}" for key in KEYS[:-1] if self.get(key)]
        if self.get("seconds"):
            time = sum(self["seconds"])
            parts.append(f"{time:.2f} s" if time >= 0.0995 else f"{1000 * time:.2g} ms")
        return f"History({', '.join(parts)})"

    def __reduce__(self) -> Any:
        return (History, (dict(self),))
