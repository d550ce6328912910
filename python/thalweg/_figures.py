"""Figures that a custom loss returns beside the loss, and their means over batches."""

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
    own = ("epoch", *KEYS)
    if not isinstance(name, str) or name in own or name.startswith("val_"):
        raise ArgumentError(
            f"the loss function returned a figure named {name!r}; a name must be a string, must "
            f"not be one that the history already has ({', '.join(own)}), and must not begin with "
            "val_, which marks the figures of validation data"
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
