r"""Learning rates that change during training.

A schedule is a function of time: with the learning rate :math:`\eta_0` that the optimizer was made
with, it gives :math:`\eta(t)` for :math:`t = 0, 1, 2, \dots`, the number of updates done so far, or
of epochs with ``per="epoch"``. It has no state, so it can be shared, plotted and inspected before
training:

>>> from thalweg.optim import schedules
>>> warm = schedules.LinearWarmup(10, then=schedules.CosineAnnealingLR())
>>> [float(round(warm.lr(t, base=1.0, total=100), 12)) for t in (0, 5, 10, 55, 100)]
[0.0, 0.5, 1.0, 0.5, 0.0]

Names, arguments and defaults are those of ``torch.optim.lr_scheduler``, whose schedulers count
calls of their method ``step``: where that is called once per epoch, ``per="epoch"`` does the same.
`thalweg.Trainer` takes one as ``schedule``.

Durations of None are those of the `thalweg.Trainer.fit` in which the schedule is used: such a
schedule starts anew with each fit, also in training that was interrupted and resumed, while others
continue counting. `LinearLR` and `PolynomialLR`
have PyTorch's default of 5 instead: ``LinearLR(1.0, 0.0)`` reaches 0 after 5 updates, and
``LinearLR(1.0, 0.0, None)`` at the end of the fit.
"""

import typing as _typing

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

if not _typing.TYPE_CHECKING:  # type checkers would take every name for one that is there
    import sys as _sys

    from thalweg import _habits

    _LAMBDA = "LambdaLR turns a function of time into a schedule"
    _WARMUP = "it is LinearWarmup(steps, then=CosineAnnealingLR())"
    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(
                ("CosineDecay", "CosineLR", "CosineSchedule", "cosine_decay_schedule"),
                "it is CosineAnnealingLR",
            ),
            **dict.fromkeys(
                ("CosineDecayRestarts", "sgdr_schedule"), "it is CosineAnnealingWarmRestarts"
            ),
            **dict.fromkeys(("ExponentialDecay", "exponential_decay"), "it is ExponentialLR"),
            **dict.fromkeys(
                ("PolynomialDecay", "PolyLR", "polynomial_schedule"), "it is PolynomialLR"
            ),
            **dict.fromkeys(("LinearDecay", "linear_schedule"), "it is LinearLR"),
            **dict.fromkeys(
                ("PiecewiseConstantDecay", "piecewise_constant_schedule"), "it is MultiStepLR"
            ),
            **dict.fromkeys(
                ("cosine_onecycle_schedule", "linear_onecycle_schedule"),
                "it is OneCycleLR",
            ),
            "join_schedules": "it is SequentialLR",
            "ChainedScheduler": "its factors apply at once: LambdaLR of the product of their "
            "factors, lambda t: a.lr(t, base=1) * b.lr(t, base=1)",
            **dict.fromkeys(("constant_schedule", "constant"), "it is ConstantLR"),
            **dict.fromkeys(("WarmupLR", "Warmup", "GradualWarmupScheduler"), "it is LinearWarmup"),
            **dict.fromkeys(
                ("warmup_cosine_decay_schedule", "get_cosine_schedule_with_warmup", "WarmupCosine"),
                _WARMUP,
            ),
            **dict.fromkeys(
                ("CyclicLR", "MultiplicativeLR", "NoamLR", "InverseTimeDecay"), _LAMBDA
            ),
            **dict.fromkeys(("LRScheduler", "LearningRateSchedule"), _LAMBDA),
        },
    )
