"""How close a training step comes to the limits of the machine.

    limit = max(flop / peak, bytes / bandwidth)

flop : the multiplications and additions of the step's matrix products; activations, the loss and
    the optimizer count as 0.
peak : the best rate of NumPy's float32 matmul over a few square sizes, with the same threads. The
    probe uses another library's kernels: where those are slow, the fraction may exceed 1.
bytes : parameters x bytes per parameter. Weights and moments are read and written once, and
    weights read once more (by the forward pass, long before the update): 20 for SGD with
    momentum, 28 for Adam. They count as 0 if weights and moments (8 or 12 bytes) fit the cores'
    private caches. Batches and activations count as 0.
bandwidth : adding 1 in place, with all threads, to an array larger than the caches. Data in a large
    shared cache arrive faster, so this fraction may exceed 1, too.

Both are probed once to find the best matrix size, and then again along with every turn of steps, so
that whatever slows the machine for a while slows both.
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
PROBE_SECONDS = 0.02  # along with a turn
STREAM_PASSES, QUICK_STREAM_PASSES = 8, 4
STREAM_BYTES, MOST_STREAM_BYTES, QUICK_STREAM_BYTES = 256 << 20, 2 << 30, 128 << 20
GUESSED_CACHE = 1 << 20  # per core, if the system does not tell


@dataclass(frozen=True)
class Machine:
    """The best FLOP/s and bytes/s, how they were found, and bytes of all private caches."""

    peak: float
    peak_size: int
    bandwidth: float
    stream_bytes: int
    private: int


@dataclass(frozen=True)
class Row:
    """Medians over turns, in seconds; `fraction` is the median of the turns' fractions."""

    label: str
    seconds: float
    by_flop: float
    by_bytes: float
    fraction: float
    machine: Machine

    @property
    def limit(self) -> float:
        return max(self.by_flop, self.by_bytes)

    @property
    def bound(self) -> str:
        return "memory" if self.by_bytes > self.by_flop else "arithmetic"


def measure(options: Options) -> list[Row]:
    probe = Probe(options)
    rows = []
    for work in TRAINING:
        # The quick run leaves out what `pytest benches --quick` leaves out.
        if options.quick and work.flop > QUICK_MOST_FLOP:
            continue
        say(f"  {work.label}")
        seconds = QUICK_TURN_SECONDS if options.quick else TURN_SECONDS
        machine.rest()
        steps = Steps(work, options.threads, seconds)
        moved = traffic(work.parameters, work.optimizer, probe.private)
        turns = []
        for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
            turns.append((steps.turn(), work.flop / probe.peak(), moved / probe.bandwidth()))
            machine.rest()
        fraction = statistics.median(max(limits) / seconds for seconds, *limits in turns)
        medians = (statistics.median(each) for each in zip(*turns, strict=True))
        rows.append((work.label, *medians, fraction))
    return [Row(*row, probe.found()) for row in rows]


def traffic(parameters: int, optimizer: Optimizer, private: int) -> int:
    """Count the bytes of a step that must come from beyond the cores' private caches."""
    if parameters * RESIDENT[optimizer.kind] <= private:
        return 0
    return parameters * TRAFFIC[optimizer.kind]


class Probe:
    """The speed of the machine, now and at best."""

    def __init__(self, options: Options) -> None:
        quick = options.quick
        say("  probing the peak of arithmetic")
        seconds = QUICK_MATMUL_SECONDS if quick else MATMUL_SECONDS
        sizes = {n: Matmul(n) for n in (QUICK_MATMUL_SIZES if quick else MATMUL_SIZES)}
        rates = {n: matmul.best(seconds) for n, matmul in sizes.items()}
        self._peak_size = max(rates, key=lambda n: rates[n])
        self._matmul = sizes[self._peak_size]
        self._best_peak = rates[self._peak_size]
        machine.rest()
        say("  probing the bandwidth of memory")
        private, largest = machine.caches(machine.allowed_cpus()[0]) or (GUESSED_CACHE, 0)
        self.private = options.threads * private
        # Twice the largest cache, as part of a smaller array could still be in it.
        size = min(max(STREAM_BYTES, 2 * largest), MOST_STREAM_BYTES)
        self._stream = Stream(QUICK_STREAM_BYTES if quick else size, options.threads)
        passes = QUICK_STREAM_PASSES if quick else STREAM_PASSES
        self._best_bandwidth = max(self._stream.rate() for _ in range(passes))

    def found(self) -> Machine:
        return Machine(
            self._best_peak, self._peak_size, self._best_bandwidth, self._stream.size, self.private
        )

    def peak(self) -> float:
        """Measure the current FLOP/s."""
        rate = self._matmul.best(PROBE_SECONDS)
        self._best_peak = max(self._best_peak, rate)
        return rate

    def bandwidth(self) -> float:
        """Measure the current bytes/s."""
        rate = self._stream.rate()
        self._best_bandwidth = max(self._best_bandwidth, rate)
        return rate


class Matmul:
    """NumPy's product of two float32 n × n matrices."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self._a, self._b = (rng.standard_normal((n, n), dtype=np.float32) for _ in range(2))
        self._out = np.empty_like(self._a)

    def best(self, seconds: float) -> float:
        """Return the best FLOP/s within the given time."""
        best = np.inf
        deadline = time.perf_counter() + seconds
        while best == np.inf or time.perf_counter() < deadline:
            start = time.perf_counter()
            np.matmul(self._a, self._b, out=self._out)
            best = min(best, time.perf_counter() - start)
        return 2 * len(self._a) ** 3 / best


class Stream:
    """Adding to an array in place, for which NumPy releases the GIL."""

    def __init__(self, size: int, threads: int) -> None:
        self.size = size
        self._parts = np.array_split(np.ones(size // 4, np.float32), threads)
        self._pool = ThreadPoolExecutor(threads)

    def rate(self) -> float:
        """Return the bytes/s read and written."""
        start = time.perf_counter()
        list(self._pool.map(self._add, self._parts))
        return 2 * self.size / (time.perf_counter() - start)

    @staticmethod
    def _add(part: np.ndarray) -> None:
        np.add(part, np.float32(1), out=part)


def markdown(rows: list[Row]) -> str:
    body = [
        [row.label, duration(row.seconds), duration(row.limit), f"{row.fraction:.0%}", row.bound]
        for row in rows
    ]
    found = rows[0].machine
    short = sorted((row.fraction, row.label) for row in rows if row.fraction < TARGET)
    return section(
        "Fraction of the machine's limit",
        [
            "`limit` is the longer of two times: that of the FLOP of the matrix products at the",
            "peak rate, and that of moving 20 bytes per parameter for SGD with momentum, or 28 for",
            "Adam, at memory bandwidth (none if weights and moments fit the",
            f"{found.private >> 20} MiB of the cores' own caches). Peak and bandwidth are measured",
            "anew with each turn of steps.",
            f"Peak: at best {found.peak / 1e9:.0f} GFLOP/s, NumPy's matmul (float32,"
            f" {found.peak_size} square, same threads).",
            f"Bandwidth: at best {found.bandwidth / 1e9:.1f} GB/s, reading and writing"
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
