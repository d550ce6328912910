"""scikit-learn's penalty in the steps of a trainer, also of one whose loss is a function."""

from typing import Any

import numpy as np

from thalweg import Trainer
from thalweg._arrays import Array, Samples
from thalweg._custom import CustomTrainer
from thalweg._figures import Figures


def pull(trainer: Trainer, marks: Array, strength: float) -> float:
    """Pull the parameters that are marked by 1 to 0 from now on; give the penalty as it is."""
    core = trainer._core
    if not isinstance(core, CustomTrainer):
        trainer.set_penalty(marks, np.zeros_like(marks), strength)
        return trainer.penalty
    pulled = PulledTrainer(core.core, core.model, core.loss, core.optimizer, core.ready)
    pulled.decay = strength * marks
    trainer._core = pulled
    return pulled.penalty_value()


class PulledTrainer(CustomTrainer):
    """Steps of a loss that is a function, and of a penalty that it knows nothing of.

    `Trainer.set_penalty` is there for the core's losses only. A trainer that was pickled has no
    pull any more, but each fit of an estimator sets it anew.
    """

    #: The strength on each parameter.
    decay: Array

    def penalty_value(self) -> float:  # type: ignore[override]  # a base without one gives None
        """Give the penalty of the parameters as they are."""
        theta = self.model.flat_parameters
        return 0.5 * float((self.decay * theta) @ theta)

    def _differentiate(
        self, x: Samples, y: Any, sample_weight: Array | None
    ) -> tuple[float, Figures]:
        found = super()._differentiate(x, y, sample_weight)
        model = self.model
        model.flat_gradients = model.flat_gradients + self.decay * model.flat_parameters
        return found
