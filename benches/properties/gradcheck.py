"""How long it takes to check the gradient of a net of 100 000 parameters.

directions : three random directions in each block, which is what `tw.gradcheck` does from 10 000
    parameters on.
every : each parameter separately, ``directions=0``: four evaluations of the loss for each.

On one thread, and on all. A wrong gradient is checked, too, as a checker that is fast because it
detects nothing would be useless.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

import thalweg as tw
from thalweg import nn

from .. import machine
from ..table import duration
from .report import Options, say, section, verdict

ROWS = 10
#: With most parameters in one layer, and spread over several.
NETS = ((784, 126, 10), (64, 256, 256, 64, 10))
#: What "within seconds" means, in seconds.
TARGET = 10.0
ROUNDS, QUICK_ROUNDS = 3, 1


@dataclass(frozen=True)
class Row:
    net: str
    parameters: int
    threads: int
    directions: float
    every: float


def measure(options: Options) -> list[Row]:
    rows = []
    for widths, act in itertools.product(NETS, (nn.Tanh, nn.ReLU)):
        layers: list[Any] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), act()]
        model = nn.Sequential(*layers[:-1])
        rng = np.random.default_rng(0)
        x = rng.standard_normal((ROWS, widths[0])).astype("float32")
        y = rng.integers(0, widths[-1], ROWS)
        net = f"{'-'.join(map(str, widths))} {act.__name__}"
        _sees(model, x, y)
        for threads in sorted({1, options.threads}):
            say(f"  {net}, {threads} threads")
            tw.set_num_threads(threads)
            times = [
                _time(model, x, y, count, QUICK_ROUNDS if options.quick else ROUNDS)
                for count in (3, 0)
            ]
            rows.append(Row(net, model.num_parameters, threads, times[0], times[1]))
    return rows


def _time(model: nn.Sequential, x: Any, y: Any, directions: int, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        machine.rest()
        start = time.perf_counter()
        report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss(), directions=directions)
        times.append(time.perf_counter() - start)
        if not report.passed:
            raise SystemExit(f"a right gradient failed:\n{report}")
    return statistics.median(times)


def _sees(model: nn.Sequential, x: Any, y: Any) -> None:
    """Stop unless a gradient with a relative error of 1e-5 fails the check."""

    def wrong(output: Any, target: Any) -> tuple[float, Any]:
        shifted = np.exp(output - output.max(axis=1, keepdims=True))
        p = shifted / shifted.sum(axis=1, keepdims=True)
        chosen = p[np.arange(len(p)), target]
        slope = p - np.eye(p.shape[1])[target]
        return float(-np.log(chosen).mean()), slope * (1 + 1e-5) / len(p)

    if tw.gradcheck(model, x, y, loss=wrong).passed:
        raise SystemExit("a wrong gradient passed")


def markdown(rows: list[Row]) -> str:
    body = [
        [
            row.net,
            f"{row.parameters:,}",
            str(row.threads),
            duration(row.directions),
            duration(row.every),
        ]
        for row in rows
    ]
    judged = [row for row in rows if row.threads == max(r.threads for r in rows)]
    return section(
        "Checking gradients",
        [
            f"Softmax cross-entropy of {ROWS} rows, with a float32 model: its float64 copy is",
            "checked by finite differences, and its own gradient against that of the copy.",
        ],
        ["net", "parameters", "threads", "three directions a block", "every parameter"],
        body,
        verdict(
            f"every parameter in {TARGET:g} s or less on all threads",
            [f"{r.net}, {r.every:.1f} s" for r in judged if r.every > TARGET],
            len(judged),
        ),
    )
