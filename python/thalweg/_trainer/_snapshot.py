"""What fits with a Python loop restore after an error, and check at the end of an epoch."""

import contextlib

from thalweg import _arrays, _core
from thalweg._trainer._stepper import Stepper
from thalweg.errors import ArgumentError, DataError, DivergedError
from thalweg.nn import Sequential
from thalweg.optim import Optimizer

_AS_BEFORE = "Weights and optimizer are as they were before this call"


class Snapshot:
    """Model, gradients, optimizer, average, and integrals along the path, before a fit.

    `restore` runs while an error is propagating, and raises none of its own: the state of the
    optimizer is restored as it was, overflowed or not, and parameters were finite.

    Raises
    ------
    DivergedError
        If parameters are not finite, which no step could repair.
    """

    def __init__(
        self, core: _core.Trainer | Stepper, model: Sequential, optimizer: Optimizer
    ) -> None:
        inner = model._core
        self._core, self._model, self._optimizer = core, model, optimizer
        self._before = inner.parameters(), inner.averages(), inner.passes()
        self._gradients = inner.gradients()
        if found := _arrays.not_finite(self._before[0], "flat_parameters"):
            raise DivergedError(
                f"{found} before the first step: an earlier learning rate was too large, or "
                "gradients were. Set finite weights, e.g. from an earlier file"
            )
        self._given, self._state = optimizer._given(), optimizer._state()
        self._average, self._path, self._walk = core.average(), core.path(), core.walk()

    def restore(self) -> None:
        """Restore everything; accumulated gradients belong to what failed."""
        self._core.forget()
        inner, (parameters, averages, passes) = self._model._core, self._before
        inner.set_parameters(parameters)
        inner.set_averages(averages)
        inner.set_passes(passes)
        with contextlib.suppress(DataError):  # non-finite ones cannot be set
            inner.set_gradients(self._gradients)
        try:
            self._optimizer._set_state(self._model, self._given, *self._state)
        except ArgumentError:
            if self._state[0]:
                raise
            # It refuses the model, like Muon without a weight to work on.
            self._optimizer._put_back(self._given)
        if self._average is not None:
            self._core.set_average(*self._average)
        if self._path is not None:
            self._core.set_path(self._path)
        if self._walk is not None:
            self._core.set_walk(*self._walk)

    def check(self) -> None:
        """Raise `DivergedError` if an update has made a number infinite or NaN."""
        optimizer = self._optimizer
        if found := _arrays.not_finite(self._model._core.parameters(), "flat_parameters"):
            raise DivergedError(
                f"{found} after {optimizer.steps} steps with lr={optimizer.lr}: the learning rate "
                f"is too large. {_AS_BEFORE}"
            )
        optimizer._check_finite(optimizer._state()[2], _AS_BEFORE)
