"""Odd shapes: there should be no size at which one more, or one less, makes a step much slower.

Starting from a few base networks, one size at a time grows by one, over runs of neighbors around
the sizes of registers, tiles and blocks. Reported for each run are its worst step up,
t(n+1) / t(n), and its worst step down, t(n) / t(n+1), where a size is slower than a larger one.
Another table is of all hidden widths together.

Times of neighbors are taken within the same round and compared there. The worst of a hundred noisy
ratios is noise, so the worst few of each row are measured once more, longer, and the figures are
from that second measurement only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from ..workloads import ADAMW, NORM, ROW_NORM, TANH, TRAINING, Training
from .report import Options, section, verdict
from .steps import in_rounds, ratio

MOST_JUMP = 1.25
CONFIRMED = 3  # how many of the worst of each row are measured again
ROUNDS, CONFIRM_ROUNDS, QUICK_ROUNDS = 15, 31, 5
TURN_SECONDS, QUICK_TURN_SECONDS = 0.004, 0.001

Run = range


def through(first: int, last: int) -> Run:
    return range(first, last + 1)


HIDDEN = (
    *(through(15, 18), through(31, 50), through(62, 67)),
    *(through(97, 104), through(127, 131), through(255, 258)),
)
OUTPUTS = (through(1, 17),)
BATCH = (through(1, 10), through(13, 18), through(31, 34), through(63, 66))
BATCH_OF_TWO = (through(2, 10), *BATCH[1:])  # a single row has no statistics of a batch
# After the first nine, primes between their neighbors.
INPUTS = (through(1, 9), *(through(p - 1, p + 1) for p in (13, 17, 31, 47, 61, 97, 127, 211)))
QUICK_RUNS = 1


def with_one_hidden(base: Training, n: int) -> Training:
    """Change the middle one, or the second of two."""
    middle = len(base.widths) // 2
    return replace(base, widths=(*base.widths[:middle], n, *base.widths[middle + 1 :]))


def with_all_hidden(base: Training, n: int) -> Training:
    return replace(base, widths=(base.widths[0], *[n] * len(base.widths[1:-1]), base.widths[-1]))


def with_outputs(base: Training, n: int) -> Training:
    return replace(base, widths=(*base.widths[:-1], n))


def with_batch(base: Training, n: int) -> Training:
    return replace(base, batch=n)


def with_inputs(base: Training, n: int) -> Training:
    return replace(base, widths=(n, *base.widths[1:]))


BASES = (
    Training("shapes-small", (64, 100, 10), 200, "MLPClassifier's defaults"),
    Training("shapes-wide", (200, 256, 256, 1), 200, "a critic", loss="mse"),
    Training("shapes-norm", (54, 64, 64, 7), 256, "forest cover types", NORM, optimizer=ADAMW),
    Training("shapes-rows", (54, 64, 64, 7), 256, "with LayerNorm", ROW_NORM, optimizer=ADAMW),
    Training("shapes-deep", (1, 32, 32, 32, 1), 128, "DeepXDE, full batch", TANH, loss="mse"),
)
PAIR = tuple(work for work in TRAINING if work.name in ("w45", "w46"))


@dataclass(frozen=True)
class Jump:
    """From one size to another: `ratio` times the time for `flop` times the work."""

    start: int
    end: int
    ratio: float
    flop: float

    @property
    def marked(self) -> bool:
        return self.ratio > MOST_JUMP

    def back(self) -> Jump:
        return Jump(self.end, self.start, 1 / self.ratio, 1 / self.flop)

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x at {self.start} to {self.end} (FLOP {self.flop:.2f}x)"


@dataclass(frozen=True)
class Row:
    """The worst t(n+1) / t(n) and t(n) / t(n+1), worst first, of those measured twice."""

    label: str
    together: bool  # whether all hidden widths grow, instead of one size
    sizes: str
    up: list[Jump]
    down: list[Jump]


@dataclass(frozen=True)
class Series:
    """Sizes that grow by one within each run, and the workload for a size."""

    label: str
    together: bool
    runs: tuple[Run, ...]
    work: Callable[[int], Training]

    def jumps(self, options: Options, pairs: list[tuple[int, int]], rounds: int) -> list[Jump]:
        """Measure the upward jumps of these pairs of neighbors, with both sizes measured anew."""
        sizes = sorted({size for pair in pairs for size in pair})
        seconds = QUICK_TURN_SECONDS if options.quick else TURN_SECONDS
        works = [self.work(size) for size in sizes]
        measured = in_rounds(works, options.threads, rounds, seconds)
        times = dict(zip(sizes, measured, strict=True))
        return [
            Jump(a, b, ratio(times[b], times[a]), self.work(b).flop / self.work(a).flop)
            for a, b in pairs
        ]

    def row(self, options: Options) -> Row:
        quick = options.quick
        runs = self.runs[:QUICK_RUNS] if quick else self.runs
        pairs = [pair for run in runs for pair in pairwise(run)]
        found = self.jumps(options, pairs, QUICK_ROUNDS if quick else ROUNDS)
        found.sort(key=lambda jump: jump.ratio)
        again = {(jump.start, jump.end) for jump in found[:CONFIRMED] + found[-CONFIRMED:]}
        found = self.jumps(options, sorted(again), QUICK_ROUNDS if quick else CONFIRM_ROUNDS)
        up = sorted(found, key=lambda jump: -jump.ratio)
        down = [jump.back() for jump in reversed(up)]
        return Row(
            self.label,
            self.together,
            ", ".join(f"{run[0]}-{run[-1]}" for run in runs),
            up[:CONFIRMED],
            down[:CONFIRMED],
        )


def series_of(base: Training) -> list[Series]:
    batch = BATCH_OF_TWO if "batchnorm" in base.hidden else BATCH
    found = [
        Series(f"{base.label}, {name}", False, runs, partial(change, base))
        for name, change, runs in (
            ("one hidden width", with_one_hidden, HIDDEN),
            ("outputs", with_outputs, OUTPUTS),
            ("batch", with_batch, batch),
            ("inputs", with_inputs, INPUTS),
        )
    ]
    if len(base.widths) > 3:
        found.append(Series(base.label, True, HIDDEN, partial(with_all_hidden, base)))
    return found


def measure(options: Options) -> list[Row]:
    series = [one for base in BASES for one in series_of(base)]
    of_pair = {work.widths[1]: work for work in PAIR}
    run = through(min(of_pair), max(of_pair))
    label = " and ".join("-".join(map(str, work.widths)) for work in PAIR)
    series.append(Series(f"{label} ({PAIR[0].source})", True, (run,), of_pair.__getitem__))
    return [one.row(options) for one in series]


def table(title: str, about: list[str], rows: list[Row]) -> str:
    def told(jumps: list[Jump]) -> str:
        """Describe the worst, and whatever else exceeds the target."""
        shown = [jumps[0], *(jump for jump in jumps[1:] if jump.marked)]
        return ", ".join(f"{jump}{' !' if jump.marked else ''}" for jump in shown)

    body = [[row.label, row.sizes, told(row.up), told(row.down)] for row in rows]
    misses = [
        f"{row.label}, {jumps[0]}"
        for row in rows
        for jumps in (row.up, row.down)
        if jumps[0].marked
    ]
    return section(
        title,
        about,
        ["what grows", "sizes", "worst up", "worst down"],
        body,
        verdict(f"no jump above {MOST_JUMP:g}x up or down", misses, 2 * len(rows)),
    )


def markdown(rows: list[Row]) -> str:
    one = table(
        "Odd shapes",
        [
            "One size at a time grows by one. `worst up`: how much longer a step takes at n + 1",
            "than at n; `worst down`: how much longer at n than at n + 1. In brackets: the factor",
            f"by which the work changes. `!` marks more than {MOST_JUMP:g}x; a cell shows up to"
            f" {CONFIRMED} of these.",
            f"The worst {CONFIRMED} in each direction were measured again, and the figures are",
            "from the second time. Of several hidden widths, the middle one grows, or the second",
            "of two.",
        ],
        [row for row in rows if not row.together],
    )
    together = table(
        "Odd shapes, all hidden widths",
        [
            "All hidden widths grow by one together, which the target does not mean: it is about",
            "any one size. A vector of AVX-512 holds 16 numbers, so a 17th or 33rd column takes",
            "another one: here in all hidden layers at once, so that little of a step stays as it",
            "was.",
        ],
        [row for row in rows if row.together],
    )
    return f"{one}\n\n{together}"
