r"""Learning rates that change during training.

A schedule is a function of time: with the learning rate :math:`\eta_0` that the optimizer was made
with, it gives :math:`\eta(t)` for :math:`t = 0, 1, 2, \dots`, the number of updates done so far, or
of epochs if it was made with ``per="epoch"``. It holds no state, so it can be shared, plotted and
looked at before a training begins:

>>> from thalweg.optim import schedules
>>> warm = schedules.LinearWarmup(10, then=schedules.CosineAnnealingLR())
>>> [float(round(warm.lr(t, base=1.0, total=100), 12)) for t in (0, 5, 10, 55, 100)]
[0.0, 0.5, 1.0, 0.5, 0.0]

Names, arguments and defaults are those of ``torch.optim.lr_scheduler``, whose schedulers count
calls of their method ``step``. `thalweg.Trainer` takes one as ``schedule``.

Durations that are left out (None) are those of the `thalweg.Trainer.fit` in which the schedule is
used: it then begins anew with each fit, while others go on counting.
"""

from thalweg.optim.schedules._base import Schedule as Schedule
from thalweg.optim.schedules._combined import LambdaLR as LambdaLR
from thalweg.optim.schedules._combined import LinearWarmup as LinearWarmup
from thalweg.optim.schedules._combined import SequentialLR as SequentialLR
from thalweg.optim.schedules._falling import ConstantLR as ConstantLR
from thalweg.optim.schedules._falling import ExponentialLR as ExponentialLR
from thalweg.optim.schedules._falling import LinearLR as LinearLR
from thalweg.optim.schedules._falling import MultiStepLR as MultiStepLR
from thalweg.optim.schedules._falling import PolynomialLR as PolynomialLR
from thalweg.optim.schedules._falling import StepLR as StepLR
from thalweg.optim.schedules._plateau import ReduceLROnPlateau as ReduceLROnPlateau
from thalweg.optim.schedules._shaped import CosineAnnealingLR as CosineAnnealingLR
from thalweg.optim.schedules._shaped import (
    CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts,
)
from thalweg.optim.schedules._shaped import OneCycleLR as OneCycleLR
from thalweg.optim.schedules._shaped import WarmupStableDecay as WarmupStableDecay

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "LinearWarmup",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "Schedule",
    "SequentialLR",
    "StepLR",
    "WarmupStableDecay",
]
