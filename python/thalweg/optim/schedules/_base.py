"""Base of the schedules."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._description import Description, description
from thalweg._habits import Guided
from thalweg.errors import ArgumentError, UnsupportedError

_OWN = "write a custom schedule as a function of time: schedules.LambdaLR(lambda t: ...)"

#: Attributes of PyTorch's schedulers.
OF_SCHEDULERS = {
    "step": "tw.Trainer(..., schedule=...) sets the rate: of each update, or where epochs count, "
    "of each epoch of fit; in a hand-written loop over epochs, call fit(..., epochs=1) for each, "
    "or set optimizer.lr",
    **dict.fromkeys(("get_lr", "get_last_lr", "last_epoch"), "the rate is trainer.optimizer.lr"),
    **dict.fromkeys(
        ("state_dict", "load_state_dict"), "trainer.save(path) saves everything it depends on"
    ),
}

#: What a schedule counts.
Per: TypeAlias = Literal["step", "epoch"]

Times: TypeAlias = npt.NDArray[Any]


@description
class Schedule(Description, Guided):
    """Base of all schedules.

    Parameters
    ----------
    per : {"step", "epoch"}, keyword only
        What `t` counts: updates of the parameters, or epochs of `thalweg.Trainer.fit`. Where there
        is no fit, `thalweg.Trainer.step` and `thalweg.Trainer.update` raise for the latter.
    """

    _: KW_ONLY
    per: Per = "step"

    _uncalled: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("lr", "get_lr", "__call__", "step"), _OWN
    )
    _elsewhere: ClassVar[Mapping[str, str]] = OF_SCHEDULERS
    _goes_to: ClassVar[str] = "tw.Trainer(model, loss=..., optimizer=..., schedule=...)"

    def __post_init__(self) -> None:
        _checks.one_of(f"{type(self).__name__}: per", self.per, get_args(Per))
        self._check()

    def lr(self, t: int, *, base: float, total: int | None = None) -> float:
        """Return the learning rate at time `t`.

        Parameters
        ----------
        t : int
            Number of updates, or epochs, done so far.
        base : float, keyword only
            The optimizer's own learning rate.
        total : int, keyword only, optional
            The length of the fit, at least 1, for durations that were left out.

        Returns
        -------
        float

        Raises
        ------
        ArgumentError
            If a number is out of range, or a duration was left out and `total` is not given.
        """
        _checks.integer("t", t, 0)
        base = _checks.real("base", base, 0)
        if total is not None:
            total = _checks.integer("total", total, 1)
        return float(self._rates(np.array([t], dtype=np.float64), base, total)[0])

    if not TYPE_CHECKING:  # type checkers would take it for something that can be called

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Say how to get the rate."""
            raise TypeError(
                f"a schedule cannot be called: {type(self).__name__}(...).lr(t, base=..., "
                "total=...) returns the rate at time t, given the optimizer's own rate and the "
                "length of the fit"
            )

    @property
    def is_open(self) -> bool:
        """Whether a duration was left out, so that it is the length of each fit."""
        return any(getattr(self, field.name) is None for field in fields(self))

    def _check(self) -> None:
        """Raise if an argument is invalid."""

    def _rates(self, t: Times, base: float, total: int | None) -> Times:
        """Return the learning rates at several times: for trainers, and `thalweg.plot.schedule`.

        As `lr`, for an array of times as floats, and without checks of the arguments.
        """
        raise UnsupportedError(f"{self!r} gives no rates: {_OWN}")

    # For the checks in subclasses: every message names the schedule, and values are stored as plain
    # Python numbers, which can be saved.
    def _integer(self, name: str, low: int = 1) -> None:
        what = f"{type(self).__name__}: {name}"
        self._set(**{name: _checks.integer(what, getattr(self, name), low)})

    def _real(self, name: str, low: float, high: float = math.inf, closed: str = "[)") -> None:
        what = f"{type(self).__name__}: {name}"
        self._set(**{name: _checks.real(what, getattr(self, name), low, high, closed)})

    def _duration(self, name: str, total: int | None) -> int:
        given = getattr(self, name)
        if given is None and total is None:
            raise ArgumentError(
                f"{type(self).__name__}: {name} was left out, so it is known only during a fit: "
                f"make the schedule with {name}=..., or pass total=... to its method lr"
            )
        return int(total if given is None else given)  # type: ignore[arg-type]
