"""Losses that are NaN because they are not defined for an output, whatever the learning rate."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.errors import ThalwegError
from thalweg.nn import ReLU, Sigmoid, Softplus

if TYPE_CHECKING:
    from thalweg._trainer._base import TrainerBase

#: What the core says, which does not know the outputs any more: its reasons, in the middle.
_REASONS = re.compile(r"(?<=the loss )((?:became|is) NaN[^:]*: )\(a\).*?(?=\. Weights|$)")


def explain(
    trainer: TrainerBase, error: BaseException, x: Any = None, sample_weight: Any = None
) -> None:
    """Let an error about a loss of NaN say which output it is not defined for, if there is one.

    `x` and `sample_weight` are the rows that it concerns, as far as known.
    """
    model = trainer._model
    if not isinstance(error, ThalwegError) or not (found := _REASONS.search(str(error))):
        return
    if isinstance(model.layers[-1], (Softplus, ReLU, Sigmoid)):  # never negative
        return
    why = trainer._loss._why_nan("model(x)", None, None)
    if why and x is not None:
        weight = None if sample_weight is None else np.asarray(sample_weight)
        with contextlib.suppress(ThalwegError):  # outputs that are not finite have no place
            why = trainer._loss._why_nan("model(x)", model(x), weight)
    if why:
        text = str(error)
        error.args = (f"{text[: found.end(1)]}{why}{text[found.end() :]}",)
