"""How near a training step comes to what the machine can do at all.

    limit = max(flop / peak, bytes / bandwidth)

flop : the multiplications and additions of the step's matrix products; activations, the loss and
    the optimizer count nothing.
peak : the best rate of NumPy's float32 matmul over a few square sizes, with the same threads. It is
    a probe by somebody else's kernels: where those are bad, a fraction may pass 1.
bytes : parameters x bytes per parameter. Weights and moments are read and written once, and
    weights read once more (by the forward pass, long before the update): 20 for SGD with
    momentum, 28 for Adam. They count as 0 if weights and moments (8 or 12 bytes) fit the caches
    that the cores have for themselves. Batches and activations count nothing.
bandwidth : adding 1 in place, all threads, to an array that is larger than the caches. What lies in
    a large shared cache comes faster than that, so this may pass 1, too.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .. import machine
from ..table import duration
from ..workloads import QUICK_MOST_FLOP, TRAINING, Optimizer
from .report import Options, say, section, verdict
from .steps import Steps

TARGET = 0.5
TRAFFIC, RESIDENT = {"sgd": 20, "adam": 28, "adamw": 28}, {"sgd": 8, "adam": 12, "adamw": 12}

ROUNDS, QUICK_ROUNDS = 5, 2
TURN_SECONDS, QUICK_TURN_SECONDS = 0.1, 0.02
MATMUL_SIZES, QUICK_MATMUL_SIZES = (256, 512, 1024, 2048, 4096), (512, 1024)
MATMUL_SECONDS, QUICK_MATMUL_SECONDS = 0.5, 0.1
STREAM_PASSES, QUICK_STREAM_PASSES = 8, 4
STREAM_BYTES, MOST_STREAM_BYTES, QUICK_STREAM_BYTES = 256 << 20, 2 << 30, 128 << 20
GUESSED_CACHE = 1 << 20  # of a core, where the system does not tell


@dataclass(frozen=True)
class Machine:
    """FLOP/s, bytes/s, how both were found, and the bytes of all private caches together."""

    peak: float
    peak_size: int
    bandwidth: float
    stream_bytes: int
    private: int


@dataclass(frozen=True)
class Row:
    label: str
    seconds: float
    by_flop: float
    by_bytes: float
    machine: Machine

    @property
    def limit(self) -> float:
        return max(self.by_flop, self.by_bytes)

    @property
    def fraction(self) -> float:
        return self.limit / self.seconds

    @property
    def bound(self) -> str:
        return "memory" if self.by_bytes > self.by_flop else "arithmetic"


def measure(options: Options) -> list[Row]:
    found = probe(options)
    rows = []
    for work in TRAINING:
        # The quick run leaves out what `pytest benches --quick` leaves out.
        if options.quick and work.flop > QUICK_MOST_FLOP:
            continue
        say(f"  {work.label}")
        seconds = QUICK_TURN_SECONDS if options.quick else TURN_SECONDS
        machine.rest()
        steps = Steps(work, options.threads, seconds)
        turns = [steps.turn() for _ in range(QUICK_ROUNDS if options.quick else ROUNDS)]
        rows.append(
            Row(
                work.label,
                statistics.median(turns),
                work.flop / found.peak,
                traffic(work.parameters, work.optimizer, found.private) / found.bandwidth,
                found,
            )
        )
    return rows


def traffic(parameters: int, optimizer: Optimizer, private: int) -> int:
    """Bytes that must come from beyond the cores' own caches in a step."""
    if parameters * RESIDENT[optimizer.kind] <= private:
        return 0
    return parameters * TRAFFIC[optimizer.kind]


def probe(options: Options) -> Machine:
    quick = options.quick
    say("  probing the peak of arithmetic")
    seconds = QUICK_MATMUL_SECONDS if quick else MATMUL_SECONDS
    rates = {n: matmul(n, seconds) for n in (QUICK_MATMUL_SIZES if quick else MATMUL_SIZES)}
    size = max(rates, key=lambda n: rates[n])
    machine.rest()
    say("  probing the bandwidth of memory")
    private, largest = machine.caches(machine.allowed_cpus()[0]) or (GUESSED_CACHE, 0)
    # Twice the largest cache, as half of what lies there could still be found again.
    stream = min(max(STREAM_BYTES, 2 * largest), MOST_STREAM_BYTES)
    if quick:
        stream = QUICK_STREAM_BYTES
    passes = QUICK_STREAM_PASSES if quick else STREAM_PASSES
    bandwidth = streaming(stream, options.threads, passes)
    return Machine(rates[size], size, bandwidth, stream, options.threads * private)


def matmul(n: int, seconds: float) -> float:
    """The best FLOP/s of n x n float32 products."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    best = np.inf
    deadline = time.perf_counter() + seconds
    while best == np.inf or time.perf_counter() < deadline:
        start = time.perf_counter()
        np.matmul(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def streaming(size: int, threads: int, passes: int) -> float:
    """The best bytes/s, read and written, of adding in place; NumPy lets go of the GIL there."""
    parts = np.array_split(np.ones(size // 4, np.float32), threads)

    def add(part: np.ndarray) -> None:
        np.add(part, np.float32(1), out=part)

    best = np.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            start = time.perf_counter()
            list(pool.map(add, parts))
            best = min(best, time.perf_counter() - start)
    return 2 * size / best


def markdown(rows: list[Row]) -> str:
    body = [
        [row.label, duration(row.seconds), duration(row.limit), f"{row.fraction:.0%}", row.bound]
        for row in rows
    ]
    short = sorted((row.fraction, row.label) for row in rows if row.fraction < TARGET)
    found = rows[0].machine
    return section(
        "Fraction of the machine's limit",
        [
            "`limit` is the longer of two times: the FLOP of the matrix products at the peak rate;"
            " and, at",
            "the bandwidth of memory, 20 bytes a parameter for SGD with momentum, 28 for Adam, none"
            " if",
            f"weights and moments fit the {found.private >> 20} MiB of the cores' own caches.",
            f"Peak: {found.peak / 1e9:.0f} GFLOP/s, NumPy's best matmul (float32,"
            f" {found.peak_size} square, same threads).",
            f"Bandwidth: {found.bandwidth / 1e9:.1f} GB/s, reading and writing"
            f" {found.stream_bytes >> 20} MiB in place.",
        ],
        ["workload", "step", "limit", "fraction", "bound by"],
        body,
        verdict(
            f"at least {TARGET:.0%} of the limit",
            [f"{label}, {fraction:.0%}" for fraction, label in short],
            len(rows),
        ),
    )
