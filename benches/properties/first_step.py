"""How long a user waits for the first step of a new trainer, which has nothing to compile.

Each in a fresh process. `first` times `Trainer.step` alone: it plans, allocates, starts threads,
and touches each page for the first time. `make` is what precedes it: creating the model with its
initial weights, the optimizer and the trainer. Arrays are ready beforehand.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass

from ..table import duration
from ..workloads import TRAINING
from .child import fresh
from .report import Options, say, section, verdict

NAMES = ("sklearn", "w45", "ppo", "sac", "pinn8", "mnist128", "mnist400-sgd", "mnist512")
LARGE_NAMES = ("mnist2000", "wide640")
WORKS = {work.name: work for work in TRAINING if work.name in NAMES + LARGE_NAMES}
TARGET_SECONDS, SMALL_PARAMETERS = 5e-3, 1_000_000
PROCESSES, QUICK_PROCESSES = 9, 3
LATER_STEPS = 30


@dataclass(frozen=True)
class Row:
    """Times in seconds, one of each per process."""

    label: str
    parameters: int
    make: list[float]
    first: list[float]
    later: list[float]

    @property
    def small(self) -> bool:
        return self.parameters <= SMALL_PARAMETERS


def measure(options: Options) -> list[Row]:
    rows = []
    for name in NAMES if options.quick else NAMES + LARGE_NAMES:
        work = WORKS[name]
        say(f"  {work.label}")
        got = [
            fresh("first_step", name=name, threads=options.threads)
            for _ in range(QUICK_PROCESSES if options.quick else PROCESSES)
        ]
        times = [[one[key] for one in got] for key in ("make", "first", "later")]
        rows.append(Row(work.label, work.parameters, *times))
    return rows


def in_child(name: str, threads: int) -> dict[str, float]:
    import thalweg as tw

    from ..peers.thalweg import LOSSES, model_of, optimizer_of
    from ..workloads import Data
    from .steps import timed

    work = WORKS[name]
    data = Data(work)
    batches = itertools.cycle(list(zip(data.xs, data.ys, strict=True)))
    start = time.perf_counter()
    # As a user does it. Loading weights, as comparisons do, would pass the core its first array and
    # so take some of the first step's work off the clock.
    tw.set_num_threads(threads)
    trainer = tw.Trainer(
        model_of(work), loss=LOSSES[work.loss](), optimizer=optimizer_of(work.optimizer)
    )
    make = time.perf_counter() - start
    (first,) = timed(trainer.step, batches, 1)
    later = timed(trainer.step, batches, LATER_STEPS)
    return {"make": make, "first": first, "later": statistics.median(later)}


def markdown(rows: list[Row]) -> str:
    median = statistics.median
    target = f"{TARGET_SECONDS * 1e3:g} ms"
    body, misses = [], []
    for row in rows:
        first = median(row.first)
        body.append(
            [
                row.label,
                duration(median(row.make)),
                duration(first),
                duration(max(row.first)),
                target if row.small else "-",
                duration(median(row.later)),
                f"{first / median(row.later):.1f}x",
            ]
        )
        if row.small and first > TARGET_SECONDS:
            misses.append(f"{row.label}, {duration(first)}")
    processes = len(rows[0].first)
    return section(
        "First step",
        [
            f"The very first `Trainer.step` of a process: median of {processes} processes, and the",
            "slowest of them. `make` is the time to construct model and trainer before it, `later`",
            f"the median of the {LATER_STEPS} steps after it.",
        ],
        ["workload", "make", "first", "slowest first", "target", "later", "first / later"],
        body,
        verdict(
            f"a first step within {target} for nets of up to {SMALL_PARAMETERS / 1e6:g} M"
            " parameters (median)",
            misses,
            sum(row.small for row in rows),
        ),
    )
