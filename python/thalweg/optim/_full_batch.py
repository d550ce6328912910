"""Base of the optimizers that use all data in every step."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg._arrays import Array
from thalweg._habits import name_methods
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError
from thalweg.nn import Dropout, Sequential
from thalweg.nn._layers import with_inner
from thalweg.optim._arguments import for_core
from thalweg.optim._optimizer import Conventions, Given, Optimizer

#: In float64, whatever the model's dtype.
Vector: TypeAlias = npt.NDArray[np.float64]


class Problem(Protocol):
    """A loss over all data, as a function of a model's flat parameters."""

    model: Sequential

    def gradient(self, theta: Array) -> tuple[float, Array | None]:
        """Return the loss and its gradient; infinity and None where the loss is not finite."""


class Squares(Problem, Protocol):
    """A loss that is a sum of squares."""

    def residual(self, theta: Vector) -> Vector | None:
        """Return float64 numbers whose squares sum to the loss; None where not finite."""

    def jacobian(self) -> Vector:
        """Return the Jacobian of the residuals, in float64, at the model's parameters."""


class Visit:
    """A model at one point after the other, until `leave`.

    All points see the same `Dropout`; running averages and counts are updated once, at the first.
    """

    def __init__(self, model: Sequential) -> None:
        self.model = model
        inner = model._core
        self.theta, self._gradients = inner.parameters(), inner.gradients()
        self._before = inner.averages(), inner.passes()
        #: The same after the first point.
        self._after: tuple[Array, int] | None = None

    def _go(self, theta: Array) -> None:
        """Set finite parameters, and gradients of 0, for a training pass."""
        inner = self.model._core
        inner.set_parameters(theta)
        self._recall(self._before)
        inner.zero_grad()

    def _been(self) -> bool:
        """Keep what that pass has changed, if it was the first; return whether it was."""
        first = self._after is None
        if first:
            self._after = self.model._core.averages(), self.model._core.passes()
        return first

    def leave(self, theta: Array | Vector | None = None) -> None:
        """Set the parameters found, or after an error restore everything."""
        found = self.theta if theta is None else theta.astype(self.model.dtype)
        self.model._core.set_parameters(found)
        after = self._before if theta is None or self._after is None else self._after
        self._recall(after)
        if theta is None:
            self._recall_gradients()
        self.model._unmoved = None

    def _recall(self, state: tuple[Array, int]) -> None:
        self.model._core.set_averages(state[0])
        self.model._core.set_passes(state[1])

    def _recall_gradients(self) -> None:
        with contextlib.suppress(DataError):  # non-finite ones cannot be set
            self.model._core.set_gradients(self._gradients)


class Progress(NamedTuple):
    """The result of a step: loss before, parameters after, and figures for `History`."""

    loss: float
    theta: Array | Vector
    figures: Mapping[str, float] = {}
    #: Why no parameter has changed, and what to do; "" if one has.
    stalled: str = ""


def warn_of_stall(optimizer: "FullBatchOptimizer", model: Sequential, why: str) -> bool:
    """Warn that a step has changed no parameter, unless the next may; return whether it did."""
    from thalweg._warn import warn  # rarely needed

    if any(isinstance(layer, Dropout) and layer.p for layer in with_inner(model.layers)):
        return False  # it makes the loss a different function in each step
    warn(
        f"a step of {type(optimizer).__name__} changed no parameter, and another with the same "
        f"data will not either: {why}",
        RuntimeWarning,
    )
    return True


class FullBatchOptimizer(Optimizer, ABC):
    """Base of the optimizers that compare the loss at several points, on all data each time.

    `thalweg.Trainer.fit` requires ``batch_size=None`` for them, which is one step per epoch.
    """

    _conventions: ClassVar[Conventions] = {"torch": {}}
    #: Whether there is a learning rate that can be scheduled.
    _has_lr: ClassVar[bool] = True
    #: Whether its problems must be `Squares`, which trainers see to.
    _needs_squares: ClassVar[bool] = False

    def __init__(self, lr: float, **arguments: Any) -> None:
        # The core object only stores the rate; it takes no steps.
        plain = {"momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False}
        super().__init__("sgd", lr=lr, **plain, convention="torch")
        self._arguments = {**({"lr": self.lr} if self._has_lr else {}), **arguments}
        self._options = {}
        for name, value in self._arguments.items():
            self._options |= for_core(name, value)
        self._steps = 0

    def _telling_options(self, options: dict[str, Any]) -> list[Callable[[], None]]:
        # Each step reads them.
        return [partial(self._core.set_lr, options["lr"])] if "lr" in options else []

    @property
    def steps(self) -> int:
        """Number of steps taken, each with several evaluations."""
        return self._steps

    def add_group(self, pattern: str, **options: Any) -> NoReturn:
        """Raise: the curvature is that of all parameters together.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no groups: it moves all parameters together; use one of "
            "the other optimizers for groups"
        )

    def _advance(self, problem: Problem) -> Progress:
        """Take a step from the model's parameters; the caller sets the new ones."""
        self._meet(problem.model)
        progress = self._search(problem)
        self._steps += 1
        return progress

    @abstractmethod
    def _search(self, problem: Problem) -> Progress:
        """Find better parameters. After an error, nothing has changed."""

    @abstractmethod
    def _export(self) -> tuple[dict[str, float], dict[str, Array]]:
        """Return the state as numbers and flat arrays."""

    @abstractmethod
    def _import(self, scalars: dict[str, float], arrays: dict[str, Array]) -> None:
        """Set such a state; after an error, nothing has changed."""

    def _state(self) -> tuple[int, dict[str, float], dict[str, Array]]:
        return (self._steps, *self._export())

    def _set_state(
        self,
        model: Sequential,
        given: Given,
        steps: int,
        scalars: dict[str, float],
        arrays: dict[str, Array],
    ) -> None:
        for name, array in arrays.items():
            if array.shape != (model.num_parameters,):
                raise ShapeError(
                    f"{name} has shape {array.shape}, expected ({model.num_parameters},)"
                )
        try:
            self._import(scalars, arrays)
        except (KeyError, ValueError) as error:
            raise ArgumentError(
                f"the state is not that of {type(self).__name__}: {error!r}"
            ) from None
        self._put_back(given)
        self._steps = steps

    def __repr__(self) -> str:
        arguments = dict(self._arguments)
        if self._has_lr:
            arguments["lr"] = self.lr
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"


name_methods("Optimizer", FullBatchOptimizer)
