"""Training steps of thalweg, timed one by one."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..peers.thalweg import Thalweg
from ..workloads import Data, Training
from .report import say

# A turn warms up first, as the previous workload has left its data in the caches.
WARM_STEPS = 4
FEWEST_STEPS, MOST_STEPS = 5, 400

Step = Callable[[Any, Any], float]
Batches = Iterator[tuple[Any, Any]]


def timed(step: Step, batches: Batches, count: int) -> list[float]:
    """Return the seconds of each of `count` steps."""
    clock, times = time.perf_counter, []
    collects = gc.isenabled()
    gc.disable()
    try:
        for x, y in itertools.islice(batches, count):
            start = clock()
            step(x, y)
            times.append(clock() - start)
    finally:
        if collects:
            gc.enable()
    return times


class Steps:
    """One workload as thalweg trains it: `Trainer.step` on NumPy arrays, batch after batch.

    Parameters
    ----------
    work : Training
    threads : int
    turn_seconds : float
        How long a turn should take; it has at least `FEWEST_STEPS`.
    """

    def __init__(self, work: Training, threads: int, turn_seconds: float) -> None:
        data = Data(work)
        self._step: Step = Thalweg(work, data, threads).trainer.step
        self._batches: Batches = itertools.cycle(list(zip(data.xs, data.ys, strict=True)))
        # The first step allocates and plans; the second one tells how many fit into a turn.
        second = timed(self._step, self._batches, 2)[1]
        self._count = min(MOST_STEPS, max(FEWEST_STEPS, round(turn_seconds / second)))

    def turn(self) -> float:
        """Return the median seconds of a step in one turn."""
        timed(self._step, self._batches, WARM_STEPS)
        return statistics.median(timed(self._step, self._batches, self._count))


def in_rounds(
    works: Sequence[Training], threads: int, rounds: int, turn_seconds: float
) -> list[list[float]]:
    """Measure, for each workload, the seconds of a step in each round.

    A round goes once through all workloads, the next one in reverse: neighbors are timed within
    moments of each other, so that drift of the machine does not affect their ratio in a round.
    """
    say(f"  {len(works)} shapes from {works[0].label}, {rounds} rounds")
    steps = [Steps(work, threads, turn_seconds) for work in works]
    times: list[list[float]] = [[] for _ in works]
    for turn in range(rounds):
        order = range(len(works)) if turn % 2 == 0 else reversed(range(len(works)))
        for i in order:
            times[i].append(steps[i].turn())
    return times


def ratio(after: Sequence[float], before: Sequence[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(after, before, strict=True))
