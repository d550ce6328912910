"""What a step costs when batch, width or depth doubles, compared with its multiplications."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..table import duration
from ..workloads import Training
from .report import Options, section, verdict
from .steps import in_rounds, ratio

BASE = Training("scaling", (64, 256, 256, 10), 128, "doubled")
DOUBLINGS = {"batch": 5, "width": 3, "depth": 4}
QUICK_DOUBLINGS = 2
ROUNDS, QUICK_ROUNDS = 15, 5
TURN_SECONDS, QUICK_TURN_SECONDS = 0.05, 0.01
# Time may grow as FLOP do, times this factor, for noise.
SLACK = 1.1


@dataclass(frozen=True)
class Row:
    """`time_ratio` and `flop_ratio` are relative to the previous row, None in a series' first."""

    series: str
    label: str
    seconds: float
    time_ratio: float | None
    flop_ratio: float | None


def grown(series: str, doublings: int) -> Iterator[Training]:
    first, hidden, hidden_too, last = BASE.widths
    for factor in (2**i for i in range(doublings + 1)):
        if series == "batch":
            yield replace(BASE, batch=BASE.batch * factor)
        elif series == "width":
            yield replace(BASE, widths=(first, hidden * factor, hidden_too * factor, last))
        else:
            yield replace(BASE, widths=(first, *[hidden, hidden_too] * factor, last))


def measure(options: Options) -> list[Row]:
    rows = []
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    seconds = QUICK_TURN_SECONDS if options.quick else TURN_SECONDS
    for series, most in DOUBLINGS.items():
        works = list(grown(series, min(most, QUICK_DOUBLINGS) if options.quick else most))
        times = in_rounds(works, options.threads, rounds, seconds)
        for i, work in enumerate(works):
            rows.append(
                Row(
                    series,
                    work.label,
                    statistics.median(times[i]),
                    ratio(times[i], times[i - 1]) if i else None,
                    work.flop / works[i - 1].flop if i else None,
                )
            )
    return rows


def markdown(rows: list[Row]) -> str:
    body, misses, judged = [], [], 0
    for row in rows:
        cells = [row.series, row.label, duration(row.seconds)]
        if row.time_ratio is None or row.flop_ratio is None:
            body.append([*cells, "-", "-", ""])
            continue
        judged += 1
        over = row.time_ratio > SLACK * row.flop_ratio
        mark = "over" if over else ""
        body.append([*cells, f"{row.time_ratio:.2f}x", f"{row.flop_ratio:.2f}x", mark])
        if over:
            misses.append(f"{row.label}, {row.time_ratio:.2f}x for {row.flop_ratio:.2f}x FLOP")
    return section(
        "Scaling",
        [
            f"Starting from {BASE.label}, either the batch, the hidden width or the number of",
            "hidden layers doubles from row to row. Ratios are relative to the row before; `FLOP`",
            "counts the matrix products of a step.",
        ],
        ["doubles", "workload", "step", "time", "FLOP", ""],
        body,
        verdict(
            f"time grows no faster than FLOP, within {SLACK - 1:.0%} for noise", misses, judged
        ),
    )
