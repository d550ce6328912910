"""Evaluation on a stream: each batch is first predicted, then learned."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from thalweg import _arrays, _checks
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg.continual._passes import shares_of_rows
from thalweg.continual._scores import Metric, accuracy, learner, metric_of, score
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Scenario, Task, counted
from thalweg.errors import ArgumentError, ShapeError


class PrequentialScore(NamedTuple):
    """The scores on a stream up to a batch; see `prequential`.

    Attributes
    ----------
    score : float
        That of this batch, before it was learned; NaN if the loss ignores all of its labels.
    mean : float
        The mean over all samples so far, the latest of which may count more.
    loss : float
        What the step returned; NaN if that is no number, or there was no step, as no row counts in
        the loss: all labels are ignored, or of classes with weight 0.
    samples : int
        The number of samples so far, including this batch.
    weight : float
        The sum of the samples' weights in `mean`: their number, unless earlier ones fade.
    """

    score: float
    mean: float
    loss: float
    samples: int
    weight: float


@takes("continual.prequential", {})
def prequential(
    strategy: Strategy | Trainer,
    batches: Iterable[Any],
    *,
    metric: Metric | None = None,
    fading: float = 1.0,
    start: PrequentialScore | Sequence[float] | None = None,
    delay: int = 0,
) -> Iterator[PrequentialScore]:
    r"""Predict each batch of a stream, then learn it by a step: prequential evaluation.

    Every sample is a test sample before it is learned, so that no held-out data are needed. With
    the scores :math:`s_i` of batches of :math:`n_i` samples, and the fading factor :math:`\alpha`,

    .. math:: \text{mean}_i = \frac{S_i}{B_i}, \qquad S_i = n_i s_i + \alpha^{n_i} S_{i-1}, \qquad
              B_i = n_i + \alpha^{n_i} B_{i-1}

    Parameters
    ----------
    strategy : Strategy or Trainer
        What learns, by its `step`.
    batches : iterable of tuple
        Pairs ``(x, y)``, such as those of `stream`.
    metric : callable, keyword only, optional
        As for `run`: called as ``metric(strategy, task, None)``, where `x_test` and `y_test` of the
        task are the batch, and its index is that of the task that has begun, or 0. By default, for
        `nn.CrossEntropyLoss`, `nn.BCEWithLogitsLoss` and labels with a custom loss, the accuracy
        (of samples whose label is not ignored); for others the trainer's loss, per sample.
    fading : float, keyword only, default 1.0
        :math:`\alpha`, above 0, at most 1: how much a sample counts after another one has come.
        With 1, all samples count equally, also those from the start, when little had been learned;
        with less, about the latest :math:`1 / (1 - \alpha)` samples count.
    start : PrequentialScore, keyword only, optional
        The latest one of an evaluation that is continued here, with the remaining batches; also as
        the list that JSON makes of it.
    delay : int, keyword only, default 0
        How many batches come between a batch and its targets, as if these were known only later:
        each batch is judged when it comes, and learned after so many others have been judged. Once
        the stream ends, those that still wait are learned. (river counts from a sample to the one
        before which it is learned: its delay is greater by 1.)

    Yields
    ------
    PrequentialScore
        One for each batch, after it was learned.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or `batches` does not consist of pairs.
    ShapeError
        If samples and targets of a batch differ in number, or there are none.
    ThalwegError
        If a batch does not fit or has a NaN, or the strategy does not support `step`; nothing is
        learned from that batch.

    Notes
    -----
    The result is an iterator, and a batch is learned when it is asked for: nothing happens before
    the first. To stop and resume, save the strategy (`Strategy.save`) and the latest score. An
    error ends the iterator, too: to go on behind a batch with a NaN, call this again with the rest
    of the stream and ``start``. With a `delay`, the rest begins with the batches that wait: those
    behind the one of the latest score. They are judged again, when up to `delay` batches more have
    been learned than without the stop, so that their scores may be a little better. Batches that
    wait are kept as they are, and must not be overwritten meanwhile.

    Each batch takes a prediction and some 10 to 25 microseconds in Python beside its step. For
    streams of single rows that are faster, use the loss that `Trainer.step` returns, which is from
    before the update, too.

    The mean over a sliding window follows from the scores, for instance ``np.convolve(scores,
    np.ones(50) / 50, "valid")``. A fading factor needs no window, and has about the same effect.

    References
    ----------
    J. Gama, R. Sebastião and P. P. Rodrigues, "On evaluating stream learning algorithms", Machine
    Learning 90, 2013.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 2)).astype(np.float32)
    >>> drifting = continual.from_arrays([(x, x[:, 0] > 0), (x, x[:, 1] > 0)])
    >>> model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))
    >>> batches = continual.stream(drifting, batch_size=10)
    >>> means = [it.mean for it in continual.prequential(trainer, batches, fading=0.99)]
    >>> len(means), means[99] > 0.9, means[105] < 0.85, means[199] > 0.9
    (200, True, True, True)
    """
    strategy = learner(strategy, metric)
    if isinstance(batches, Scenario):
        raise ArgumentError(
            "batches must yield pairs (x, y); got a Scenario, whose samples"
            " continual.stream(scenario, batch_size=...) yields"
        )
    if not _checks.is_several(batches):
        raise ArgumentError(
            "batches must yield pairs (x, y), like continual.stream(scenario); got"
            f" {_checks.given(batches)}"
        )
    fading = _checks.real("fading", fading, 0, 1, "(]")
    latest = PrequentialScore(math.nan, math.nan, math.nan, 0, 0.0) if start is None else start
    if not (
        isinstance(latest, (tuple, list))
        and len(latest) == len(PrequentialScore._fields)
        and all(isinstance(number, (int, float)) for number in latest)
        and all(0 <= number < math.inf for number in latest[3:])
    ):
        raise ArgumentError(
            "start must be the latest PrequentialScore of the evaluation that is continued; got"
            f" {_checks.given(start)}"
        )
    delay = _checks.integer("delay", delay, 0)
    judged = _judge(strategy, batches, metric, delay)
    return _learn(strategy, judged, fading, PrequentialScore(*latest))


def _judge(
    strategy: Strategy, batches: Iterable[Any], metric: Metric | None, delay: int
) -> Iterator[tuple[Any, int, float, int]]:
    """Judge batches as they come; yield each when its targets are known.

    With each: how many rows it has, its score, and how many of its rows that is of.
    """
    waiting: deque[tuple[Any, int, float, int]] = deque()
    for number, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ArgumentError(
                f"batches must yield pairs (x, y); batch {number} is {_checks.given(batch)}"
            )
        rows = _rows(batch[0], batch[1], number)
        # Between `begin` and `end`, the batch is judged as what it is learned as: the task's.
        task = Task(batch[0], batch[1], batch[0], batch[1], index=strategy._begun or 0)
        waiting.append((batch, rows, *_judged(strategy, task, metric)))
        if len(waiting) > delay:
            yield waiting.popleft()
    yield from waiting


def _learn(
    strategy: Strategy,
    judged: Iterable[tuple[Any, int, float, int]],
    fading: float,
    latest: PrequentialScore,
) -> Iterator[PrequentialScore]:
    """Learn batches that were judged, and yield the scores after each."""
    samples, weight = latest.samples, latest.weight
    total = latest.mean * weight if weight else 0.0
    for (x, y), rows, found, count in judged:
        loss = _number(strategy.step(x, y)) if count and _teaches(strategy.trainer, y) else math.nan
        samples += rows
        if count:
            faded = fading**count
            total, weight = count * found + faded * total, count + faded * weight
        yield PrequentialScore(found, total / weight if weight else math.nan, loss, samples, weight)


def _number(loss: Any) -> float:
    """Return what a step returned, which may be a user's, as one can be saved."""
    try:
        return float(loss)
    except (TypeError, ValueError):
        return math.nan


def _teaches(trainer: Trainer, y: Any) -> bool:
    """Whether any row counts in the loss: not, if all are of classes with weight 0."""
    weighted = getattr(trainer.loss, "weight", None) is not None
    return not weighted or bool(shares_of_rows(trainer, np.asarray(y)).any())


def _rows(x: Any, y: Any, number: int) -> int:
    """Return how many rows a batch has."""
    some = next(iter(y.values()), ()) if isinstance(y, Mapping) else y  # one of several targets
    shape = _arrays.as_array(x, f"batch {number}: x").shape
    other = _arrays.as_array(some, f"batch {number}: y").shape
    if not shape or not shape[0] or shape[:1] != other[:1]:
        raise ShapeError(
            f"batch {number}: x has shape {shape} and y has shape {other}, but both must have the"
            " same number of rows, at least 1; a single row is ([x], [y])"
        )
    return int(shape[0])


def _judged(strategy: Strategy, batch: Task, metric: Metric | None) -> tuple[float, int]:
    """Return the score of a batch, and how many of its rows count."""
    trainer = strategy.trainer
    loss = trainer.loss
    count = len(counted(loss, batch.x, batch.y)[0])
    if not count:
        return math.nan, 0
    if metric is not None:
        return score(metric(strategy, batch, None)), len(batch.x)
    if metric_of(strategy, batch) is accuracy:
        return accuracy(strategy, batch, None), count
    value = trainer.evaluate(batch.x, batch.y)["loss"]
    return value / count if getattr(loss, "reduction", "mean") == "sum" else value, count
