"""Callbacks, which `Trainer.fit` calls while it runs."""

import typing as _typing

from thalweg.callbacks._base import Callback as Callback
from thalweg.callbacks._monitored import EarlyStopping as EarlyStopping
from thalweg.callbacks._monitored import ModelCheckpoint as ModelCheckpoint

if _typing.TYPE_CHECKING:
    from thalweg.callbacks._base import AnyCallback as AnyCallback
    from thalweg.curvature import StabilityMonitor as StabilityMonitor

__all__ = ["Callback", "EarlyStopping", "ModelCheckpoint", "StabilityMonitor"]


if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits

    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            "ReduceLROnPlateau": "optim.schedules has it, and Trainer(schedule=...) takes it",
            "LearningRateScheduler": "optim.schedules.LambdaLR does that, as Trainer(schedule=...)",
            "LambdaCallback": "any object with a method on_epoch_end is a callback",
            **dict.fromkeys(
                ("ProgbarLogger", "ProgressBar", "TQDMProgressBar", "RichProgressBar"),
                "trainer.fit(..., progress=True) shows a bar",
            ),
            **dict.fromkeys(
                ("EMA", "SWA", "SwapEMAWeights", "StochasticWeightAveraging", "WeightAveraging"),
                "Trainer(..., average=optim.EMA()) keeps an average of the parameters, and "
                "trainer.average_model() returns it",
            ),
            "TerminateOnNaN": "a fit whose loss is NaN ends by itself, with DivergedError",
            "BackupAndRestore": "trainer.save(path) and Trainer.load(path) do that",
            "History": "trainer.fit returns it",
            "CSVLogger": "trainer.fit returns a dict of lists, which csv and pandas write",
            "TensorBoard": "write a callback whose on_epoch_end logs the record",
        },
        # What measures curvature is only imported for those who use it.
        lazy={"StabilityMonitor": "..curvature"},
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
