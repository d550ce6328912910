"""A range test of learning rates."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.errors import ArgumentError, DataError, DivergedError, UnsupportedError
from thalweg.optim import SGD, Optimizer
from thalweg.optim._full_batch import FullBatchOptimizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: A loss that has risen by so many times the size of the losses, from where it was best, has
#: diverged.
_DIVERGED = 3.0

#: From one update of a copy to its next the rate grows by this factor or the one of the grid that
#: is nearest: all updates before together have then gone as far as this one.
_RISE = 2.0


@dataclass(frozen=True, eq=False)
class LRFinder:
    """What `find_lr` saw.

    Attributes
    ----------
    lr : ndarray, shape (n,)
        Rates that were tried, rising.
    before, after : ndarray, shape (n,)
        Loss of a batch that the update did not use, before and after the update.
    gain : ndarray, shape (n,)
        What the update took from it, averaged over neighbouring rates.
    suggestion : float
        The rate with the largest gain, up to that after which the loss was lowest.
    diverged_at : float or None
        The first rate after which the loss of a batch was not finite, or had risen by more than
        three times the mean size of losses from where it was best, each measured from that batch's
        loss at the start; None if there was none. It is not among `lr`.
    unstable_at : float or None
        With ``sharpness=True``, the first rate of the grid that is at or beyond the largest stable
        one, of the start and of the first batch; None if all are below.
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
        """The argument that `suggestion` is at, ``"min_lr"`` or ``"max_lr"``; None if at neither.

        There the gain is largest at the end of the range, and beyond may be larger yet: widen it.
        """
        if self.suggestion == self.lr[-1] and self.diverged_at is None:
            return "max_lr"
        return "min_lr" if self.suggestion == self.lr[0] else None

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws loss and gain over the rate; see `thalweg.plot.lr_finder`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

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


def find_lr(
    trainer: Trainer,
    x: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    batch_size: int | None = 32,
    smooth: float = 3.0,
    sharpness: bool = False,
) -> LRFinder:
    r"""Try learning rates, each a little larger than the one before, and see how the loss takes it.

    The `k`-th of `steps` updates has the rate
    :math:`\eta_k = \eta_{\min} (\eta_{\max}/\eta_{\min})^{k/(n-1)}`, until the loss is far above
    the best one. Copies of the trainer take turns with them, as many as it takes for the rate of
    each to double, or nearly so, from one of its updates to the next; the trainer itself is not
    touched. Of each update is measured what it takes from the loss of the *next* batch, which it
    has not seen; the rate with the largest such gain is suggested.

    Parameters
    ----------
    trainer : Trainer
        What is to be trained, usually before its first step. Its schedule, its average and its
        accumulation are left out here; a penalty (`Trainer.set_penalty`) counts in the updates.
    x, y : array_like
        As for `Trainer.fit`. Batches are drawn in an order that the model's seed decides.
    sample_weight : array_like, shape (n,), optional
        As for `Trainer.fit`. Rows of weight 0 are left out.
    min_lr, max_lr : float, keyword only, default 1e-7 and 10
        The range, above 0.
    steps : int, keyword only, default 100
        How many rates, at least 10.
    batch_size : int or None, keyword only, default 32
        As it will be in training: the rate that fits depends on it. None is all rows, as in
        `Trainer.fit`; then each update is measured on the rows that it used.
    smooth : float, keyword only, default 3
        Gains are averaged with weights :math:`e^{-d^2/2s^2}` at a distance of `d` updates, where
        `s` is this, at most `steps`; 0 is no average.
    sharpness : bool, keyword only, default False
        Whether to measure the largest stable rate as well, by `thalweg.curvature.max_stable_lr`,
        for optimizers and losses that it knows.

    Returns
    -------
    LRFinder
        With the suggestion, whether it is at an end of the range, and a plot to judge it by.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or there is a gain at none of the rates; with `sharpness`
        also for an optimizer that divides its steps, before its first one.
    UnsupportedError
        For `optim.LBFGS` and `optim.LevenbergMarquardt`; and with `sharpness`, for what
        `thalweg.curvature.max_stable_lr` does not know.
    ShapeError, DataError, DtypeError
        As `Trainer.fit` does.

    Notes
    -----
    Others look at where the curve of the batches' losses is steepest (Smith 2017). Batches differ
    more from each other than an update changes one of them, so that this depends on chance and on
    how the curve is smoothed; comparing each batch with itself does not.

    What is easily learned is learned on the way up, and a rate can gain only what the ones before
    have left. On a valley of curvature :math:`\lambda` a single copy, whose rate grows by a factor
    :math:`r` per update, would gain most at about :math:`\ln r / 2\lambda`: ever less, the finer
    the grid. Copies whose rates double have done as much before as the update at hand does, with
    any grid; a finer one has more copies (four for 100 rates of eight decades), each in memory.

    The test sees a rate for one update only, so it is a start, not a verdict. An instability takes
    some updates to grow, and is seen in the loss at several times the largest stable rate only;
    `sharpness` tells of it at once. With momentum most of what an update does comes in those after
    it, which have other rates, so that the suggestion can be far too low, by a factor of fifty in
    one example: for `SGD` with momentum take ``trainer.fit(x, y, lr="auto")``, whose trials are of
    100 updates each. With `Adam` and others that divide their steps, what gains most at first may
    be several times the constant rate that ends lowest: let a schedule bring it down.

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
        raise ArgumentError(f"trainer must be a Trainer; got {trainer!r}")
    if isinstance(trainer.optimizer, FullBatchOptimizer):
        raise UnsupportedError(
            "find_lr is for optimizers that take batches; the length of its steps "
            f"{type(trainer.optimizer).__name__} finds by itself"
        )
    min_lr = _checks.real("min_lr", min_lr, 0, closed="()")
    max_lr = _checks.real("max_lr", max_lr, min_lr, closed="()")
    steps = _checks.integer("steps", steps, 10)
    if batch_size is not None:
        batch_size = _checks.integer("batch_size", batch_size, 1)
    smooth = _checks.real("smooth", smooth, 0)
    if smooth > steps:
        raise ArgumentError(
            f"smooth, a distance in updates, must be at most steps, {steps}; got {smooth:g}"
        )
    x, y, weight = trainer._ready(x, y, sample_weight)
    if weight is not None or len(x) != len(y) or len(x) == 0:
        trainer.evaluate(x, y, weight)  # raises if something is wrong, and says what

    rates = np.geomspace(min_lr, max_lr, steps)
    order = np.random.default_rng(trainer.model.seed).permutation(len(x))
    if weight is not None:
        order = order[weight[order] > 0]
    batch_size = len(order) if batch_size is None else min(batch_size, len(order))
    # How often it can do so; where not even once, each rate but the last has a copy of its own.
    rises = math.log(max_lr / min_lr) / math.log(_RISE)
    ramps = max(1, round((steps - 1) / max(rises, 1.0)))
    trials = [_plain(trainer._twin()) for _ in range(ramps)]
    # Their steps are losses in training mode, and nothing else.
    probes = [_plain(trial, SGD(lr=0.0)) for trial in trials]
    start = _plain(trainer._twin(), SGD(lr=0.0))

    def batch(k: int) -> tuple[Any, Any, Any]:
        rows = order.take(range(k * batch_size, (k + 1) * batch_size), mode="wrap")
        return x[rows], y[rows], None if weight is None else weight[rows]

    unstable = None
    if _checks.flag("sharpness", sharpness):
        from thalweg.curvature import max_stable_lr

        beyond = rates[rates >= max_stable_lr(trials[0], *batch(0)).max_lr]
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
            start.model._core.set_passes(passes)  # dropout drops the same in all three
            own = start.step(*batch(k + 1))
            first = probe.step(*batch(k + 1))
            trial.step(*batch(k))
            core.set_passes(passes)
            second = probe.step(*batch(k + 1))
        except DivergedError:
            own = first = second = math.inf
        except DataError:
            trainer.evaluate(x, y, weight)  # raises, and names the row of x, not of the batch
            raise
        core.set_passes(passes + 2)
        # Batches differ, and those of a trained model by more than an update changes them: each is
        # compared with itself at the start. On the scale of the losses, which may be negative.
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
        raise ArgumentError(
            f"the loss falls at no rate from {min_lr:g} to {max_lr:g}; try smaller ones"
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
    """Give the averaged gains and where the largest is; None if there is none above 0."""
    if not len(before):
        return None
    # The last rates before a divergence may spoil much: at most as much counts as was there.
    gain = _smooth(np.maximum(before - after, -np.abs(before)), smooth)
    # Beyond the lowest loss, a gain may be what the update before had spoilt.
    end = int(_smooth(np.minimum(after, before[0]), smooth).argmin()) + 1
    place = int(gain[:end].argmax())
    return (gain, place) if gain[place] > 0 else None


def _plain(trainer: Trainer, optimizer: Optimizer | None = None) -> Trainer:
    """Train the same model without what comes between gradients and updates over time."""
    plain = {"schedule": None, "accumulate_grad_batches": 1, "average": None}
    spec = trainer._description() | plain
    made = Trainer(trainer.model, **spec | ({"optimizer": optimizer} if optimizer else {}))
    of, to = trainer._updating(), made._updating()
    if of is not None and to is not None:
        to.set_penalty(of.penalty())
    return made


def _smooth(values: npt.NDArray[np.float64], width: float) -> npt.NDArray[np.float64]:
    """Average over neighbours; the first and the last value go on beyond the ends."""
    if width == 0:
        return values
    reach = math.ceil(4 * width)
    weights = np.exp(-((np.arange(-reach, reach + 1) / width) ** 2) / 2)
    return np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), mode="valid")
