"""A rate that is lowered when training no longer improves."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal

from thalweg import _better, _checks
from thalweg._better import Mode
from thalweg._description import Description, description
from thalweg._habits import Guided
from thalweg.optim.schedules._base import OF_SCHEDULERS


@description
class ReduceLROnPlateau(Description, Guided):
    """Lowers the rate when a figure of the training has stopped improving.

    It follows the history instead of the time, at the end of every epoch of `thalweg.Trainer.fit`:
    after more than `patience` epochs without improvement, the rate is multiplied by `factor`. A
    hand-written loop can call ``fit(..., epochs=1)`` for each epoch, or set ``optimizer.lr``. For a
    warm-up before it, fit with `LinearWarmup` first, and continue in a second Trainer of the same
    model and optimizer.

    Parameters
    ----------
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; by default, this follows from the figure's name, as for
        `thalweg.callbacks.EarlyStopping`. (In PyTorch, the default is "min".)
    factor : float, default 0.1
        Below 1.
    patience : int, default 10
        Number of epochs without improvement to tolerate.
    threshold : float, default 1e-4
        The smallest improvement that counts: in ``"rel"`` mode as a fraction of the absolute value
        of the best figure, in ``"abs"`` mode as a difference. (In PyTorch, the fraction has the
        sign of that figure, so that below 0 an epoch without a change counts as an improvement.)
    threshold_mode : {"rel", "abs"}
        See `threshold`.
    cooldown : int, default 0
        Number of epochs after a reduction during which epochs without improvement are not counted.
    min_lr : float, default 0
        The rate is not lowered below this.
    eps : float, default 1e-8
        A change of the rate by less than this is not made.
    monitor : str, keyword only, default "val_loss"
        A key of `thalweg.History` that the fit or the loss supplies. Figures added by callbacks
        come too late: the rate is set before callbacks see the epoch. (In PyTorch, the figure is
        passed in each call.)

    Raises
    ------
    ArgumentError
        If an argument is out of range, or `mode` is "auto" but the name does not tell; before the
        first step of a fit, if there is no such figure.
    """

    mode: Mode = "auto"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    _: KW_ONLY
    monitor: str = "val_loss"

    _elsewhere: ClassVar[Mapping[str, str]] = OF_SCHEDULERS
    _goes_to: ClassVar[str] = "tw.Trainer(model, loss=..., optimizer=..., schedule=...)"

    def __post_init__(self) -> None:
        name = "ReduceLROnPlateau: "
        _better.which("ReduceLROnPlateau", self.monitor, self.mode)
        _checks.one_of(name + "threshold_mode", self.threshold_mode, ("rel", "abs"))
        self._set(  # plain Python numbers can be saved
            factor=_checks.real(name + "factor", self.factor, 0, 1),
            patience=_checks.integer(name + "patience", self.patience, 0),
            threshold=_checks.real(name + "threshold", self.threshold, 0),
            cooldown=_checks.integer(name + "cooldown", self.cooldown, 0),
            min_lr=_checks.real(name + "min_lr", self.min_lr, 0),
            eps=_checks.real(name + "eps", self.eps, 0),
        )

    def start(self) -> dict[str, Any]:
        """Return the state before the first epoch: plain numbers, which `update` changes."""
        return {"best": None, "bad": 0, "cooldown": 0}

    def update(self, state: dict[str, Any], figure: float, lr: float) -> float:
        """Process an epoch's figure: change the state, and return the rate for the next epoch.

        Parameters
        ----------
        state : dict
            What `start` returned, as earlier epochs have changed it.
        figure : float
            What is watched, after this epoch; NaN is no improvement.
        lr : float
            The rate of this epoch.

        Returns
        -------
        float
        """
        best = state["best"]
        # NaN is never an improvement, not even over nothing: no number would compare as better.
        if not math.isnan(figure) and (best is None or self._is_better(figure, best)):
            state["best"], state["bad"] = figure, 0
        else:
            state["bad"] += 1
        if state["cooldown"] > 0:
            state["cooldown"] -= 1
            state["bad"] = 0
        if state["bad"] > self.patience:
            state["bad"], state["cooldown"] = 0, self.cooldown
            lower = max(lr * self.factor, self.min_lr)
            return lower if lr - lower > self.eps else lr
        return lr

    def _is_better(self, figure: float, best: float) -> bool:
        sign = 1 if _better.which("ReduceLROnPlateau", self.monitor, self.mode) == "min" else -1
        relative = self.threshold_mode == "rel" and math.isfinite(best)  # as of an odd row
        margin = self.threshold * (abs(best) if relative else 1)
        return sign * figure < sign * best - margin
