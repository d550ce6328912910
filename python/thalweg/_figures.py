"""What batches come to together: loss, accuracy, and figures that a custom loss returns."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from thalweg import _arrays
from thalweg._history import KEYS
from thalweg.errors import ArgumentError, DataError, ShapeError

Figures: TypeAlias = Mapping[str, float]
#: Loss, accuracy and figures.
Evaluation: TypeAlias = tuple[float, float | None, Figures]


def checked(given: Any) -> Figures:
    """Return the third item of a function's result, if it is a valid dict of figures."""
    if not isinstance(given, Mapping):
        raise ArgumentError(
            "the third item that the loss function returns must be a dict of figures, numbers by "
            f"name; got {type(given)!r}"
        )
    return {_name(name): _number(name, figure) for name, figure in given.items()}


def _name(name: Any) -> str:
    own = ("epoch", "batch", *KEYS)
    if not isinstance(name, str) or name in own or name.startswith("val_"):
        raise ArgumentError(
            f"the loss function returned a figure named {name!r}; a name must be a string, must "
            f"not be one that the records of a fit already have ({', '.join(own)}), and must not "
            "begin with val_, which marks the figures of validation data"
        )
    return name


def _number(name: str, figure: Any) -> float:
    what = f"the figure {name!r} of the loss function"
    number = _arrays.as_numeric(figure, what)
    if number.size != 1:
        raise ShapeError(f"{what} must be one number; got shape {number.shape}")
    value = float(number.item())
    if math.isinf(value):
        raise DataError(
            f"{what} is {value}; return a finite number, or NaN for a batch that has none"
        )
    return value


def complete(evaluation: tuple[Any, ...]) -> Evaluation:
    """Add empty figures where there are none: the core returns only loss and accuracy."""
    loss, accuracy, *figures = evaluation
    return loss, accuracy, figures[0] if figures else {}


def of_validation(figures: Figures) -> dict[str, float]:
    """Rename figures as those of validation data."""
    return {f"val_{name}": figure for name, figure in figures.items()}


class Sums:
    """What batches come to as if they were one: their loss, accuracy and means of figures."""

    def __init__(self, loss: Any, has_accuracy: bool) -> None:
        self._is_sum, self._has_accuracy = is_sum(loss), has_accuracy
        self._figures = Means()
        self._begin()

    def _begin(self) -> None:
        self._loss = self._right = self.rows = self._counted = 0.0

    def add(
        self,
        loss: float,
        right: float,
        rows: float,
        counted: float,
        figures: Figures | None = None,
    ) -> float:
        """Add a batch, and return its own loss.

        Parameters
        ----------
        loss, right : float
            The sum of its losses, and of the rows that are right.
        rows, counted : float
            What its rows count in the means of these two.
        figures : dict of str to float, optional
            Other figures, whose means are over the rows, too.
        """
        self._loss, self._right = self._loss + loss, self._right + right
        self.rows, self._counted = self.rows + rows, self._counted + counted
        self._figures.add(figures or {}, rows)
        return self._value(loss, rows)

    def _value(self, loss: float, rows: float) -> float:
        if self._is_sum:
            return loss
        return loss / rows if rows else math.nan

    def means(self) -> tuple[float, float | None]:
        """Return loss and accuracy so far."""
        accuracy = self._right / self._counted if self._counted else math.nan
        return self._value(self._loss, self.rows), accuracy if self._has_accuracy else None

    def take(self) -> Evaluation:
        """Return everything so far, and start again."""
        evaluation = *self.means(), self._figures.take()
        self._begin()
        return evaluation


def is_sum(loss: Any) -> bool:
    """Return whether the loss of a batch is the sum of those of its rows."""
    return getattr(loss, "reduction", "mean") == "sum"


class Means:
    """Weighted means of figures over batches; NaN and missing ones do not count."""

    def __init__(self) -> None:
        self._means: dict[str, tuple[float, float]] = {}  # mean and total weight so far

    def add(self, figures: Figures, count: float) -> None:
        """Add the figures of a batch with this weight."""
        for name, figure in figures.items():
            mean, so_far = self._means.get(name, (math.nan, 0.0))
            if not math.isnan(figure):
                so_far += count
                # Move towards the figure, so that the mean over one batch is exactly its figure.
                mean = figure if so_far == count else mean + (figure - mean) * count / so_far
            self._means[name] = mean, so_far

    def take(self) -> Figures:
        """Return the means, and start again."""
        means, self._means = self._means, {}
        return {name: mean for name, (mean, _) in means.items()}
