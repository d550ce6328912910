"""Penalties on a trainer's parameters, and the path integrals that some are based on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt

from thalweg import _arrays, _checks, _core, _habits
from thalweg._arrays import Array
from thalweg._at_once import at_once
from thalweg._trainer._base import TrainerBase
from thalweg._trainer._penalties import OWN, Penalties, Penalty
from thalweg.errors import ArgumentError, UnsupportedError

#: Other libraries' names for penalties on parameters.
_OF_PENALTIES = {
    **dict.fromkeys(("fisher", "omega"), "it is importance"),
    **dict.fromkeys(("lambda_", "ewc_lambda"), "it is strength"),
    "weight_decay": "it is the optimizer's: optim.AdamW(weight_decay=...)",
}


class Penalized(TrainerBase):
    """The part of a trainer that pulls parameters towards given values."""

    @_habits.takes("Trainer.set_penalty()", _OF_PENALTIES)
    def set_penalty(
        self,
        importance: npt.ArrayLike | None,
        anchor: npt.ArrayLike | None = None,
        strength: float = 1.0,
    ) -> None:
        r"""Pull the parameters towards given values from now on, each with its own importance.

        Every update then minimizes the loss plus

        .. math:: \frac{s}{2} \sum_j A_j (\theta_j - a_j)^2

        whose gradient, :math:`s A_j (\theta_j - a_j)`, is added while the parameter is in cache.

        Parameters
        ----------
        importance : array_like, shape (num_parameters,), or None
            A, non-negative numbers in the order of ``model.flat_parameters``; None ends this
            penalty and all others of the trainer, also those that strategies have left.
        anchor : array_like, shape (num_parameters,), optional
            a; by default the current parameters.
        strength : float, default 1.0
            s, at least 0.

        Raises
        ------
        ArgumentError, ShapeError, DataError, DtypeError
            If the arrays do not fit the model, or a number is negative.
        UnsupportedError
            For optimizers that take all data at once.

        Notes
        -----
        Only updates include the penalty: losses that are returned, recorded and evaluated do not.
        After each epoch of `fit`, ``history["penalty"]`` has its value. It is added before
        gradients are clipped. `save` writes it. Strategies of `thalweg.continual`, such as `EWC`,
        have penalties of their own, to which it is added.

        The sum of several such penalties is again one, up to a constant, with
        :math:`A = \sum_k A_k` and :math:`a = \sum_k A_k a_k / A`: however many tasks a parameter is
        to remember, one penalty is enough.
        """
        core = self._elementary("penalty")
        if importance is None:
            none = Penalties(counts=self._penalties.counts)
            self._penalize(none, partial(core.set_coupled, None))
            return
        model = self._model
        size = model.num_parameters
        importance = _arrays.flat(importance, model.dtype, size, "importance")
        if anchor is None:
            anchor = model.flat_parameters
        anchor = _arrays.flat(anchor, model.dtype, size, "anchor")
        strength = _checks.real("strength", strength, 0)
        if (importance < 0).any():
            place = int((importance < 0).argmax())
            raise ArgumentError(f"importance[{place}] must be >= 0; got {importance[place]:g}")
        self._pull(OWN, (importance.copy(), anchor.copy(), strength))

    # For strategies of thalweg.continual.

    def _pull(self, place: int, penalty: Penalty | None, *more: Callable[[], None]) -> None:
        """Set one of several penalties, whose importances may be negative; None removes it.

        Ctrl-C does not separate that from `more` changes.
        """
        self._penalize(self._penalties.but(place, penalty), *more)

    def _count(self, counts: Array | None) -> None:
        """Leave parameters out of all penalties where `counts` is false; None leaves out none."""
        self._penalize(Penalties(self._penalties.terms, counts))

    def _penalize(self, penalties: Penalties, *more: Callable[[], None]) -> None:
        """Set all penalties, and make `more` changes."""
        core = self._elementary("penalty")
        at_once(
            partial(core.set_penalty, penalties.total),
            partial(object.__setattr__, self, "_penalties", penalties),
            *more,
        )

    def _follow(self, with_penalty: bool | None, path: Array | None = None) -> None:
        """Begin integrating -gradient along each parameter's path; None ends it."""
        core = self._elementary("path integral")
        core.start_path(with_penalty)
        if path is not None:
            core.set_path(path)

    def _path(self) -> Array | None:
        """Return that integral, if it was begun."""
        return self._elementary("path integral").path()

    def _hold(self, free: Any) -> None:
        """Train only the parameters where `free` is true; None is all of them."""
        if free is not None:
            free = free.astype(self._model.dtype)
        self._elementary("mask").set_mask(free)

    def _elementary(self, what: str) -> _core.Trainer:
        """Return the core's trainer if it makes the updates, each from one gradient."""
        core = self._updating()
        if core is None:
            raise UnsupportedError(
                f"a {what} is not supported with {type(self._optimizer).__name__}, which takes "
                "all data at once"
            )
        return core

    @property
    def penalty(self) -> float:
        """The penalty of the current parameters; 0 if there is none."""
        return (self._core.penalty_value() or 0.0) + self._penalties.constant
