"""How long a step takes while two other processes compete for the CPUs, thalweg and PyTorch.

Each library has its own process, with two threads on two CPUs, one library after the other: alone,
then with two pure Python loops that never sleep. A fair scheduler gives each of the two sides half
of the time, so that the mean step takes twice as long; anything more is threads waiting for one
another. PyTorch's threads spin by default while they wait, and sleep if `OMP_WAIT_POLICY` is
`PASSIVE`, which costs time when alone: it is measured both ways. The median looks better than the
mean if whole time slices fall between steps, so both are shown.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import machine
from ..table import duration
from ..workloads import SGD, Data, Training
from .child import fresh
from .report import Options, say, section, verdict

WORKS = {
    "small": Training("sklearn", (64, 100, 10), 200, "MLPClassifier's defaults on its digits"),
    "mnist": Training(
        "mnist400-sgd", (784, 400, 400, 10), 128, "continual learning", optimizer=SGD
    ),
}
#: What to call it in the table, which library it is, and its process's additional environment.
LIBRARIES = {
    "thalweg": ("thalweg", {}),
    "torch": ("torch", {}),
    "torch, OMP_WAIT_POLICY=PASSIVE": ("torch", {"OMP_WAIT_POLICY": "PASSIVE"}),
}
THREADS = BUSY_PROCESSES = 2
ROUNDS, QUICK_ROUNDS = 5, 1
SECONDS, QUICK_SECONDS = 2.0, 0.5
WARM_SECONDS = 0.2
# A fair scheduler alone makes steps twice as long.
MOST = 3.0

# Ends by itself when its parent process is gone, for whatever reason.
BUSY_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Times:
    """Seconds of a step: medians over rounds of the median, the 90th percentile and the mean."""

    median: float
    p90: float
    mean: float


@dataclass(frozen=True)
class Row:
    label: str
    library: str
    threads: int
    alone: Times | None = None
    contended: Times | None = None
    missing: str = ""

    def slowdown(self, figure: str) -> float | None:
        if self.alone is None or self.contended is None:
            return None
        return float(getattr(self.contended, figure) / getattr(self.alone, figure))


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` processes that keep a CPU busy, and end them whatever happens."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            loop = subprocess.Popen([sys.executable, "-c", BUSY_LOOP])
            stack.callback(loop.wait)  # after the kill
            stack.callback(loop.kill)
        time.sleep(WARM_SECONDS)
        yield


def measure(options: Options) -> list[Row]:
    allowed = machine.allowed_cpus()
    threads = min(THREADS, options.threads)
    # Children and loops are confined to the same two CPUs, but not to one each.
    machine.confine(allowed[:threads])
    try:
        return [
            compare(work_key, name, threads, options) for work_key in WORKS for name in LIBRARIES
        ]
    finally:
        machine.confine(allowed)


def compare(key: str, name: str, threads: int, options: Options) -> Row:
    label = WORKS[key].label
    say(f"  {label}, {name}")
    library, environment = LIBRARIES[name]
    seconds = QUICK_SECONDS if options.quick else SECONDS
    task = {"library": library, "key": key, "threads": threads, "seconds": seconds}
    alone, contended = [], []
    for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
        alone.append(fresh("contention", environment, **task))
        if missing := alone[0].get("missing"):
            return Row(label, name, threads, missing=missing)
        with busy(BUSY_PROCESSES):
            contended.append(fresh("contention", environment, **task))
    return Row(label, name, threads, _over_rounds(alone), _over_rounds(contended))


def _over_rounds(rounds: list[dict[str, Any]]) -> Times:
    return Times(*(statistics.median(r[key] for r in rounds) for key in ("median", "p90", "mean")))


def in_child(library: str, key: str, threads: int, seconds: float) -> dict[str, Any]:
    from .. import peers
    from .steps import timed

    loaded = peers.load(library)
    if not loaded.modes:
        return {"missing": loaded.missing}
    work = WORKS[key]
    data = Data(work)
    contestant: Any = loaded.modes[0].make(work, data, threads)
    if library == "thalweg":
        step, xs, ys = contestant.trainer.step, data.xs, data.ys
    else:
        step, xs, ys = torch_step(contestant), contestant.xs, contestant.ys
    batches = itertools.cycle(list(zip(xs, ys, strict=True)))

    def run(seconds: float) -> list[float]:
        # One pass at a time, so that the overall clock is not read between steps.
        times: list[float] = []
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            times += timed(step, batches, work.batches)
        return times

    run(WARM_SECONDS)
    times = run(seconds)
    return {
        "median": statistics.median(times),
        "p90": statistics.quantiles(times, n=10)[-1],
        "mean": statistics.fmean(times),
    }


def torch_step(contestant: Any) -> Any:
    """Take one step, as peers/torch.py does within its loop."""
    loss_of, optimizer = contestant.loss, contestant.optimizer
    contestant.model.train()

    def step(x: Any, y: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def markdown(rows: list[Row]) -> str:
    body, misses, judged = [], [], 0
    means = {(row.label, row.library): row.slowdown("mean") for row in rows}
    for row in rows:
        if row.alone is None or row.contended is None:
            body.append([row.label, row.library, row.missing, *["-"] * 6])
            continue
        slow = [row.slowdown(figure) for figure in ("median", "mean")]
        body.append(
            [
                row.label,
                row.library,
                duration(row.alone.median),
                duration(row.alone.p90),
                duration(row.contended.median),
                duration(row.contended.p90),
                duration(row.contended.mean),
                *(f"{s:.2f}x" for s in slow),
            ]
        )
    for label in dict.fromkeys(row.label for row in rows):
        own = means[label, "thalweg"]
        if own is not None:
            judged += 1
            if own > MOST:
                misses.append(f"{label}, {own:.2f}x")
    threads = rows[0].threads
    columns = ("alone", "p90", "contended", "p90", "mean")
    return section(
        "Contention",
        [
            f"A step alone, and next to {BUSY_PROCESSES} busy processes on the same CPUs; each"
            " library in a process",
            f"of its own, with {threads} threads on {threads} CPUs. With as many threads as busy",
            "processes, a fair scheduler alone doubles the mean time of a step.",
        ],
        ["workload", "library", *columns, "median slower", "mean slower"],
        body,
        verdict(
            f"thalweg's mean step takes at most {MOST:.0f} times as long",
            misses,
            judged,
        ),
    )
