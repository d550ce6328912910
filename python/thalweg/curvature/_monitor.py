"""A callback that watches whether the learning rate is stable."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.callbacks import Callback
from thalweg.curvature._operator import Operator
from thalweg.curvature._stability import Stability, check_known, max_stable_lr
from thalweg.errors import ArgumentError, DataError, DivergedError, ThalwegError
from thalweg.optim import SGD
from thalweg.optim.schedules import Schedule

Action: TypeAlias = Literal["record", "warn", "stop", "lower"]


class StabilityMonitor(Callback):
    r"""Measures at the end of epochs how close the learning rate is to divergence.

    The history gets two more figures: ``"sharpness"``, the largest eigenvalue :math:`\lambda` of
    the Hessian (preconditioned if the optimizer divides its steps), and ``"stability"``, the
    learning rate relative to the largest stable one: above 1, steps diverge on a quadratic. Both
    are NaN in epochs between measurements, and where steps have diverged too far to be measured.
    See `thalweg.curvature.max_stable_lr` for the formulas.

    Parameters
    ----------
    x, y : array_like
        The data to measure on, as in `Trainer.fit`. A few hundred rows say a lot, but the
        sharpness is that of these rows.
    every : int, keyword only, default 1
        Epochs from one measurement to the next. One takes as long as some tens of gradients.
    action : {"record", "warn", "stop", "lower"}, keyword only, default "warn"
        What to do when steps diverge: nothing but to record the figures; emit a `RuntimeWarning`
        each time divergence begins; end the fit after that epoch; or set the learning rate to
        `margin` times the largest stable one.
    margin : float, keyword only, default 0.9
        For ``"lower"``, in (0, 1].
    sample_weight : array_like, keyword only, optional
        As in `Trainer.fit`.

    Attributes
    ----------
    reports : list of Stability
        Those of the latest fit; the first is from before its first step, if the optimizer can be
        measured then. ``print(monitor.reports[-1])`` explains one in words: step, sharpest block,
        :math:`\eta\lambda`, and a safe rate.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or `x` or `y` is None; when a fit begins, if the rate cannot
        be lowered because a schedule sets it.
    ShapeError, DataError, DtypeError
        When a fit begins, before its first step, if the data do not fit the model and the loss.
    UnsupportedError
        When a fit begins, for optimizers, losses and penalties that `max_stable_lr` does not know.

    Notes
    -----
    With a schedule, the rate that is judged is the one scheduled for the coming step; see
    `Stability.lr`.

    If a fit raises `DivergedError`, the latest report is added to the error as a note.

    A network trained on all of its data at once tends to the threshold and stays there, for
    thousands of steps, while the loss falls: ``"warn"`` is the default because a ratio of 1.02 is
    not a failure. To watch this without a warning whenever it is passed, use ``"record"``.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x, y = np.diag([1.0, 3.0]), np.ones(2)
    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), dtype="float64")
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1.0))
    >>> monitor = tw.callbacks.StabilityMonitor(x, y, action="lower")
    >>> history = trainer.fit(x, y, epochs=200, batch_size=2, callbacks=[monitor])
    >>> round(monitor.reports[0].max_lr, 4), round(trainer.optimizer.lr, 4)
    (0.2222, 0.2)
    >>> history["loss"][-1] < 1e-9
    True
    """

    @takes("StabilityMonitor", {})
    def __init__(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        every: int = 1,
        action: Action = "warn",
        margin: float = 0.9,
        sample_weight: npt.ArrayLike | None = None,
    ) -> None:
        for name, value in (("x", x), ("y", y)):
            if value is None:
                raise ArgumentError(
                    f"StabilityMonitor: {name} is None; pass arrays x and y to measure on, such as "
                    "a few hundred rows of the data"
                )
        self.x, self.y, self.sample_weight = x, y, sample_weight
        self.every: int = _checks.integer("StabilityMonitor: every", every, 1)
        self.action: str = _checks.one_of("StabilityMonitor: action", action, get_args(Action))
        self.margin: float = _checks.real("StabilityMonitor: margin", margin, 0, 1, "(]")
        self.reports: list[Stability] = []

    def __repr__(self) -> str:
        """Show the settings, and the latest measurement."""
        margin = f", margin={self.margin:g}" if self.action == "lower" else ""
        text = f"StabilityMonitor(every={self.every}, action={self.action!r}{margin}"
        if self.reports:
            text += f"; latest: {self.reports[-1].ratio:.3g} of the largest stable rate"
        return text + ")"

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Measure before the first step, if that is possible."""
        if self.action == "lower" and isinstance(trainer.schedule, Schedule):
            raise ArgumentError(
                "StabilityMonitor: action='lower' does not work with a schedule, which sets the "
                "learning rate before every step; use another action, or no schedule"
            )
        self.reports = []
        self._beyond = False
        try:
            check_known(trainer)
            # Before its first step an optimizer has no average of squared gradients to divide by.
            if trainer.optimizer.steps > 0 or isinstance(trainer.optimizer, SGD):
                self._measure(trainer)
            else:  # fail now, not after an epoch, if the data do not fit
                operator = Operator(
                    trainer.model, self.x, self.y, loss=trainer.loss,
                    sample_weight=self.sample_weight,
                )  # fmt: skip
                operator.matvec(np.zeros(operator.shape[0]))
        except ThalwegError as error:
            raise type(error)(f"StabilityMonitor: {error}") from None

    def on_epoch_end(self, trainer: Trainer, record: dict[str, float]) -> bool:
        """Measure, if due, and act; return True if the fit is to stop."""
        due = int(record["epoch"]) % self.every == 0
        report = self._measure(trainer) if due else None
        record["sharpness"] = report.sharpness if report else float("nan")
        record["stability"] = report.ratio if report else float("nan")
        return self._beyond and self.action == "stop"  # as last measured

    def on_diverged(self, trainer: Trainer, error: DivergedError) -> None:
        """Add the latest report to the error."""
        if self.reports:
            error.add_note(f"StabilityMonitor, last measured at {self.reports[-1]}")

    def _measure(self, trainer: Trainer) -> Stability | None:
        """Add a report, and act on it; return None if the weights are too large to measure."""
        try:
            report = max_stable_lr(trainer, self.x, self.y, self.sample_weight)
        except (ArgumentError, DataError, DivergedError):
            if not self.reports:
                raise
            # These data could be measured before: now the weights are too large for products.
            if not self._beyond and self.action == "warn":
                warn(
                    "StabilityMonitor: the weights have become too large to measure the curvature, "
                    f"last measured at {self.reports[-1]}",
                    RuntimeWarning,
                )
            self._beyond = True
            return None
        self.reports.append(report)
        began = report.verdict == "diverging" and not self._beyond
        self._beyond = report.verdict == "diverging"
        if began and self.action == "warn":
            warn(f"StabilityMonitor, {report}", RuntimeWarning)
        if self._beyond and self.action == "lower":
            trainer.optimizer.lr = self.margin * report.max_lr
            self._beyond = False
        return report
