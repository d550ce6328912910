"""The first half of a step of `optim.SAM` with a custom loss."""

from typing import Any

import numpy as np

from thalweg._arrays import Array
from thalweg.errors import DataError, DivergedError
from thalweg.nn import Sequential
from thalweg.optim import SAM


class Ascent:
    r"""Moves to :math:`\theta + \epsilon`, where `SAM` takes its gradient, and back.

    For thalweg's own losses, the core does this itself.
    """

    def __init__(self, model: Sequential, sam: SAM) -> None:
        self._model, self._sam = model, sam
        self._theta: Array | None = None  # where it was, if it may have moved

    def up(self) -> None:
        """Move the parameters along the model's gradients, except frozen ones."""
        core, theta = self._model._core, self._model._core.parameters()
        rho, adaptive = self._sam.rho, self._sam.adaptive
        size: Any = np.abs(theta) if adaptive else 1.0
        try:
            if adaptive:
                core.set_gradients(core.gradients() * size)
            # A limit that is never reached: the call zeroes frozen gradients and returns the norm.
            norm = self._sam._core.clip(core, float(np.finfo(np.float64).max), None)
            # Not by rho / norm, which is subnormal for huge gradients.
            direction: Any = core.gradients() / np.float64(norm + 1e-12)
            moved: Any = theta + (rho * size * direction).astype(theta.dtype)
            if np.isfinite(norm):
                self._theta = self._model._unmoved = theta  # first, for Ctrl-C
                core.set_parameters(moved)
                return
        except DataError:  # a gradient, or a parameter, is not finite
            pass
        raise DivergedError(
            f"the gradient became infinite with lr={self._sam.lr}: the learning rate is too large. "
            "Weights and optimizer are as they were before this call"
        )

    def down(self) -> None:
        """Move them back, bit for bit, if they have been moved."""
        if self._theta is not None:
            self._model._core.set_parameters(self._theta)
            self._model._unmoved = None
            self._theta = None  # last, so that this can be called again after Ctrl-C
