"""A range test of learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks, _habits
from thalweg._arrays import Targets
from thalweg._trainer import Trainer
from thalweg.errors import ArgumentError, DataError, DivergedError, UnsupportedError
from thalweg.optim import SGD, Optimizer
from thalweg.optim._full_batch import FullBatchOptimizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # what typing.get_type_hints finds
    Axes = Any


#: A loss has diverged if it has risen from its best value by this many times the typical size of
#: the losses.
_DIVERGED = 3.0

#: Between consecutive updates of a copy, the rate grows by this factor, or by the nearest one on
#: the grid. The earlier updates together have then moved the copy as far as the current one does.
_RISE = 2.0


@dataclass(frozen=True, eq=False)
class LRFinder:
    """The result of `find_lr`.

    Attributes
    ----------
    lr : ndarray, shape (n,)
        The rates that were tried, in ascending order.
    before, after : ndarray, shape (n,)
        Loss of a batch that the update did not use, before and after the update.
    gain : ndarray, shape (n,)
        How much the update reduced that loss, averaged over neighbouring rates.
    suggestion : float
        The rate with the largest gain, among those up to the one after which the loss was lowest.
    diverged_at : float or None
        The first rate after which the loss of a batch was not finite, or had risen from its best
        value by more than three times the mean size of the losses, all relative to the same batch's
        loss at the start; None if there was none. It is not included in `lr`.
    unstable_at : float or None
        With ``sharpness=True``, the first rate of the grid that is at or above the largest stable
        rate at the start, on the first batch; None if all are below.
    """

    lr: npt.NDArray[np.float64]
    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]
    gain: npt.NDArray[np.float64]
    suggestion: float
    diverged_at: float | None
    unstable_at: float | None = None

    @property
    def at_edge(self) -> str | None:
        """The limit that `suggestion` is at, ``"min_lr"`` or ``"max_lr"``; None if at neither.

        The gain is then largest at the end of the range and may be larger beyond it: widen the
        range.
        """
        if self.suggestion == self.lr[-1] and self.diverged_at is None:
            return "max_lr"
        return "min_lr" if self.suggestion == self.lr[0] else None

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw loss and gain against the rate; the same as `thalweg.plot.lr_finder`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from thalweg import plot

        return plot.lr_finder(self, ax)

    def __repr__(self) -> str:
        end = "" if self.diverged_at is None else f", diverged at {self.diverged_at:.3g}"
        edge = {
            None: "",
            "max_lr": " at the end of the range, where the gain is largest: raise max_lr",
            "min_lr": " at the beginning of the range, where the gain is largest: lower min_lr",
        }[self.at_edge]
        return f"LRFinder({len(self.lr)} rates, suggestion {self.suggestion:.3g}{edge}{end})"


#: Arguments that other range tests take.
_OF_RANGE_TESTS = {
    **dict.fromkeys(("start_lr", "init_value"), "it is min_lr"),
    **dict.fromkeys(("end_lr", "final_value"), "it is max_lr"),
    **dict.fromkeys(("num_training", "num_iter", "num_it"), "it is steps"),
    **dict.fromkeys(("smooth_f", "beta"), "it is smooth"),
    "epochs": "the test makes so many steps, whatever the number of samples",
}


@_habits.takes("find_lr", _OF_RANGE_TESTS)
def find_lr(
    trainer: Trainer,
    x: npt.ArrayLike,
    y: Targets | None = None,
    sample_weight: npt.ArrayLike | None = None,
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    batch_size: int | None = 32,
    smooth: float = 3.0,
    sharpness: bool = False,
) -> LRFinder:
    r"""Try a series of increasing learning rates and measure how each affects the loss.

    Update `k` of `steps` has the rate
    :math:`\eta_k = \eta_{\min} (\eta_{\max}/\eta_{\min})^{k/(n-1)}`, until the loss is far above
    the best one. Copies of the trainer take turns, as many as needed for the rate of each copy to
    about double from one of its updates to the next; the trainer itself is not changed. For each
    update, the decrease in loss on the *next* batch, which it has not seen, is measured; the rate
    with the largest such gain is suggested.

    Parameters
    ----------
    trainer : Trainer
        The trainer, usually before its first step. Its schedule, average and gradient accumulation
        are not used here; a penalty (`Trainer.set_penalty`) is included in the updates.
    x, y : array_like
        As for `Trainer.fit`, but arrays only. Batches are drawn in an order determined by the
        model's seed.
    sample_weight : array_like, shape (n,), optional
        As for `Trainer.fit`. Rows of weight 0 are left out.
    min_lr, max_lr : float, keyword only, default 1e-7 and 10
        The range, above 0.
    steps : int, keyword only, default 100
        Number of rates, at least 10.
    batch_size : int or None, keyword only, default 32
        As in the training to come: the best rate depends on it. None means all rows, as in
        `Trainer.fit`; each update is then measured on the same rows it used.
    smooth : float, keyword only, default 3
        Gains are averaged with weights :math:`e^{-d^2/2s^2}` at a distance of `d` updates, where
        `s` is this value, at most `steps`; 0 means no averaging.
    sharpness : bool, keyword only, default False
        Whether to measure the largest stable rate as well, with `thalweg.curvature.max_stable_lr`,
        for the optimizers and losses that it supports.

    Returns
    -------
    LRFinder
        The suggestion, whether it is at an end of the range, and a plot to judge it by.

    Raises
    ------
    ArgumentError
        If an argument is out of range, no rate has a gain, or the loss is infinite or NaN before
        the first step; with `sharpness`, also for an optimizer that rescales its steps, before its
        first step.
    UnsupportedError
        For `optim.LBFGS` and `optim.LevenbergMarquardt`; with `sharpness`, also for what
        `thalweg.curvature.max_stable_lr` does not support.
    ShapeError, DataError, DtypeError
        As in `Trainer.fit`.

    Notes
    -----
    Other implementations look for where the curve of the batch losses is steepest (Smith 2017).
    Batches differ more from each other than an update changes any one of them, so that the result
    depends on chance and on how the curve is smoothed. Comparing each batch with itself avoids
    this.

    What is easily learned is learned on the way up, and a rate can gain only what the earlier ones
    have left. In a valley of curvature :math:`\lambda`, a single copy whose rate grows by a factor
    :math:`r` per update would gain most at about :math:`\ln r / 2\lambda`: the finer the grid, the
    smaller the rate. In copies whose rates double, the earlier updates together have done as much
    as the current one does, whatever the grid; a finer grid needs more copies (four for 100 rates
    over eight decades), each in memory.

    The test tries each rate for one update only, so it gives a starting point, not a verdict. An
    instability takes some updates to grow, and shows in the loss only at several times the largest
    stable rate; `sharpness` shows it at once. With momentum, most of the effect of an update comes
    in the updates after it, which have other rates, so the suggestion can be far too low: for `SGD`
    with momentum, use ``trainer.fit(x, y, lr="auto")``, whose trials take 100 updates each. With
    `Adam` and other optimizers that rescale their steps, the rate that gains most at first may be
    several times the constant rate with the lowest final loss: let a schedule lower it.

    References
    ----------
    Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 256).reshape(-1, 1)
    >>> model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam())
    >>> found = tw.find_lr(trainer, x, np.sin(3 * x))
    >>> trainer.optimizer.lr = found.suggestion
    >>> 3e-3 < found.suggestion < 3e-2
    True
    """
    if not isinstance(trainer, Trainer):
        raise ArgumentError(f"trainer must be a Trainer; got {_checks.given(trainer)}")
    if isinstance(trainer.optimizer, FullBatchOptimizer):
        raise UnsupportedError(
            f"find_lr is for optimizers that take batches; {type(trainer.optimizer).__name__} "
            "finds the length of its steps by itself"
        )
    if y is None:
        raise ArgumentError(
            "y is missing: find_lr takes arrays x and y. From an iterable of batches, pass the "
            "rows of some: x, y = map(np.concatenate, zip(*itertools.islice(batches, 50)))"
        )
    min_lr = _checks.real("min_lr", min_lr, 0, closed="()")
    max_lr = _checks.real("max_lr", max_lr, min_lr, closed="()")
    steps = _checks.integer("steps", steps, 10)
    if batch_size is not None:
        batch_size = _checks.integer("batch_size", batch_size, 1)
    smooth = _checks.real("smooth", smooth, 0)
    if smooth > steps:
        raise ArgumentError(
            f"smooth, a distance in updates, must be at most steps={steps}; got {smooth:g}"
        )
    samples, targets, weight = trainer._ready(x, y, sample_weight)
    if weight is not None or len(samples) != len(targets) or len(samples) == 0:
        trainer.evaluate(samples, targets, weight)  # raises if something is wrong

    rates = np.geomspace(min_lr, max_lr, steps)
    order = np.random.default_rng(trainer.model.seed).permutation(len(samples))
    if weight is not None:
        order = order[weight[order] > 0]
    batch_size = len(order) if batch_size is None else min(batch_size, len(order))
    # How often the rate can rise; if not even once, each rate but the last has a copy of its own.
    rises = math.log(max_lr / min_lr) / math.log(_RISE)
    ramps = max(1, round((steps - 1) / max(rises, 1.0)))
    trials = [_plain(trainer._twin()) for _ in range(ramps)]
    # Their steps only return losses in training mode.
    probes = [_plain(trial, SGD(lr=0.0)) for trial in trials]
    start = _plain(trainer._twin(), SGD(lr=0.0))

    def batch(k: int) -> tuple[Any, Any, Any]:
        rows = order.take(range(k * batch_size, (k + 1) * batch_size), mode="wrap")
        return samples[rows], targets[rows], None if weight is None else weight[rows]

    unstable = None
    if _checks.flag("sharpness", sharpness):
        from thalweg.curvature import max_stable_lr

        try:
            stable = max_stable_lr(trials[0], *batch(0)).max_lr
        except UnsupportedError as error:
            raise UnsupportedError(
                f"sharpness=True is not available here; find_lr works without it: {error}"
            ) from None
        beyond = rates[rates >= stable]
        unstable = float(beyond[0]) if len(beyond) else None
    before: list[float] = []
    after: list[float] = []
    sizes: list[float] = []
    best = 0.0
    diverged = False
    for k, lr in enumerate(rates):
        trial, probe = trials[k % ramps], probes[k % ramps]
        trial.optimizer.lr = lr
        core = trial.model._core
        passes = core.passes()
        try:
            start.model._core.set_passes(passes)  # the same dropout in all three steps
            own = start.step(*batch(k + 1))
            first = probe.step(*batch(k + 1))
            trial.step(*batch(k))
            core.set_passes(passes)
            second = probe.step(*batch(k + 1))
        except DivergedError:
            own = first = second = math.inf
        except DataError:
            trainer.evaluate(samples, targets, weight)  # raises, and names the row in x
            raise
        core.set_passes(passes + 2)
        # Batches differ, and those of a trained model by more than an update changes them, so each
        # is compared with itself at the start. The scale is the losses' own; they may be negative.
        sizes.append(abs(own))
        best = min(best, first - own)
        diverged = not second - own - best <= _DIVERGED * np.mean(sizes)
        if diverged:
            break
        best = min(best, second - own)
        before.append(first)
        after.append(second)
    found = _best(np.array(before), np.array(after), smooth)
    if found is None:
        trainer.evaluate(samples, targets, weight)  # raises if it is undefined, whatever the rate
        raise ArgumentError(
            f"the loss does not fall at any rate from {min_lr:g} to {max_lr:g}; inputs or targets "
            "may be far from 0 and 1 in magnitude: let the model begin with nn.Standardize.of(x), "
            "or end with nn.Standardize.of(y, inverse=True); otherwise, try smaller rates"
        )
    gain, place = found
    return LRFinder(
        rates[: len(after)],
        np.array(before),
        np.array(after),
        gain,
        float(rates[place]),
        float(rates[len(after)]) if diverged else None,
        unstable,
    )


def _best(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], smooth: float
) -> tuple[npt.NDArray[np.float64], int] | None:
    """Return the averaged gains and the index of the largest; None if none is above 0."""
    if not len(before):
        return None
    # The last rates before a divergence may do great harm: count at most the loss there was.
    gain = _smooth(np.maximum(before - after, -np.abs(before)), smooth)
    # Beyond the lowest loss, a gain may only undo the harm of the previous update.
    end = int(_smooth(np.minimum(after, before[0]), smooth).argmin()) + 1
    place = int(gain[:end].argmax())
    return (gain, place) if gain[place] > 0 else None


def _plain(trainer: Trainer, optimizer: Optimizer | None = None) -> Trainer:
    """Make a trainer of the same model without schedule, average and accumulation."""
    plain = {"schedule": None, "accumulate_grad_batches": 1, "average": None}
    spec = trainer._description() | plain
    made = Trainer(trainer.model, **spec | ({"optimizer": optimizer} if optimizer else {}))
    of, to = trainer._updating(), made._updating()
    if of is not None and to is not None:
        to.set_penalty(of.penalty())
    return made


def _smooth(values: npt.NDArray[np.float64], width: float) -> npt.NDArray[np.float64]:
    """Average over neighbours, extending the first and the last value beyond the ends."""
    if width == 0:
        return values
    reach = math.ceil(4 * width)
    weights = np.exp(-((np.arange(-reach, reach + 1) / width) ** 2) / 2)
    return np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), mode="valid")
