"""Schedules of an estimator's learning rate."""

from dataclasses import fields, replace
from typing import Any

from thalweg.optim.schedules import LinearWarmup, ReduceLROnPlateau, Schedule, SequentialLR

#: The arguments of schedules that are rates themselves; the others are relative to the base.
_ABSOLUTE = ("eta_min", "max_lr", "min_lr", "eps")


def schedule(value: Any, scale: float) -> Any:
    """Return the trainer's schedule for `learning_rate`, if that is one, times `scale`."""
    if not isinstance(value, (Schedule, ReduceLROnPlateau)):
        return None
    if scale == 1:
        return value
    names = {field.name for field in fields(value)}
    changes: dict[str, Any] = {n: scale * getattr(value, n) for n in _ABSOLUTE if n in names}
    if isinstance(value, LinearWarmup):
        changes["then"] = schedule(value.then, scale)
    elif isinstance(value, SequentialLR):
        changes["schedulers"] = [schedule(part, scale) for part in value.schedulers]
    return replace(value, **changes)
