"""Whether smaller or larger values of a figure are better."""

import re
from typing import Any, Literal, TypeAlias, get_args

from thalweg import _checks, _habits
from thalweg._history import KEYS
from thalweg.errors import ArgumentError

#: Which values are better; "auto" goes by the figure's name.
Mode: TypeAlias = Literal["auto", "min", "max"]

#: Words in the names of figures for which smaller is better, and larger.
_LESS = {
    "loss", "logloss", "error", "err", "mse", "rmse", "msle", "mae", "mape", "nll", "perplexity",
    "ppl", "brier", "penalty", "damping", "rejected", "sharpness", "seconds", "time",
}  # fmt: skip
_MORE = {
    "accuracy", "acc", "auc", "auroc", "roc", "ap", "map", "f1", "r2", "precision", "recall",
    "score", "sensitivity", "specificity", "iou", "dice", "mcc", "kappa", "ndcg",
}  # fmt: skip


def by_name(monitor: str) -> str | None:
    """Say whether smaller or larger is better for a figure, if its name tells."""
    words = set(re.split(r"[^a-z0-9]+", monitor.lower()))
    less, more = bool(words & _LESS), bool(words & _MORE)
    # For negated errors, as scikit-learn has them, larger is better.
    if less == more or words & {"neg", "negative", "minus"}:
        return None
    return "min" if less else "max"


def which(kind: str, monitor: Any, mode: Any) -> str:
    """Return "min" or "max" for a figure that a `kind` of object monitors.

    Raises
    ------
    ArgumentError
        If `monitor` or `mode` is invalid, or the mode is "auto" and the name does not tell.
    """
    if not isinstance(monitor, str):
        raise ArgumentError(f"{kind}: monitor must be a key of History; got {monitor!r}")
    given = _checks.one_of(f"{kind}: mode", mode, get_args(Mode))
    better = by_name(monitor) if given == "auto" else given
    if better is None:
        raise ArgumentError(
            f"{kind}: the name {monitor!r} does not tell whether smaller or larger is better: pass "
            f'mode="min" or mode="max"{_habits.did_you_mean(monitor, KEYS)}'
        )
    return better
