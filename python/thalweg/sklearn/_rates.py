"""Schedules of an estimator's learning rate."""

from dataclasses import replace
from typing import Any, ClassVar

from thalweg._description import description
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule
from thalweg.optim.schedules._base import Times


@description
class _Scaled(Schedule):
    """A schedule of scikit-learn's rates, for an optimizer whose own are a multiple of them."""

    schedule: Schedule
    scale: float
    _goes_to: ClassVar[str] = ""  # its first argument is no mistake

    @property
    def is_open(self) -> bool:
        """As that of the schedule."""
        return self.schedule.is_open

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        return self.scale * self.schedule._rates(t, base / self.scale, total)


def schedule(value: Any, scale: float) -> Schedule | ReduceLROnPlateau | None:
    """Return the trainer's schedule for `learning_rate`, if that is one, times `scale`."""
    if isinstance(value, ReduceLROnPlateau):
        return replace(value, min_lr=scale * value.min_lr, eps=scale * value.eps)
    if isinstance(value, Schedule):
        return value if scale == 1 else _Scaled(value, scale, per=value.per)
    return None
