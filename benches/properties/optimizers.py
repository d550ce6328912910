"""What a step of each optimizer costs, compared with moving its data through memory.

    bound = bytes / bandwidth

bytes : the gradient is read, parameters and every array of state are read and written: 4 bytes per
    parameter and direction, in float32. The arrays are those of `state_dict`.
    Optimizers that first need sums over a block read some of it twice, see `BYTES`.
bandwidth : of adding 1 in place, with all threads, to an array larger than the caches, as in
    `limit`, in turns with the steps: the ratio is the median of the turns' ratios.

Muon and Shampoo are bound by arithmetic, at the peak of NumPy's matmul, as in `limit`. For an n × n
matrix:

Muon : 5 steps of 3 products of 2·n³ operations.
Shampoo : 4 products, for the factors and with their roots. When roots are recomputed, 2 more, and
    10·n³ for the eigenvectors of each side, which are not products: one thread does each side.

The step is that of manual loops, on gradients that are in memory: `optimizer.step(model)`.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

import thalweg as tw
from thalweg import nn, optim

from .. import machine
from ..table import duration
from .limit import Machine, Probe
from .report import Options, say, section, verdict

TARGET = 1.5
WIDTH, QUICK_WIDTH = 4096, 1024  # 16.8 and 1.0 million parameters
ROUNDS, QUICK_ROUNDS = 15, 3

OPTIMIZERS = {
    "SGD": lambda: optim.SGD(lr=1e-4),
    "SGD, momentum": lambda: optim.SGD(lr=1e-4, momentum=0.9),
    "SGD, Nesterov, decay": lambda: optim.SGD(
        lr=1e-4, momentum=0.9, nesterov=True, weight_decay=1e-4
    ),
    "Adagrad": optim.Adagrad,
    "RMSprop": optim.RMSprop,
    "RMSprop, centered, momentum": lambda: optim.RMSprop(centered=True, momentum=0.9),
    "Adadelta": optim.Adadelta,
    "Adam": optim.Adam,
    "Adam, AMSGrad": lambda: optim.Adam(amsgrad=True),
    "AdamW": optim.AdamW,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "Adamax": optim.Adamax,
    "Lion": optim.Lion,
    "Rprop": optim.Rprop,
    "Schedule-Free AdamW": optim.ScheduleFreeAdamW,
    "LAMB": optim.LAMB,
    "Adafactor": optim.Adafactor,
    "Prodigy": optim.Prodigy,
    "Muon": lambda: optim.Muon(matrices="all"),
    "Shampoo": lambda: optim.Shampoo(precondition_frequency=10**6, start_preconditioning_step=1),
    "Shampoo, roots each step": optim.Shampoo,
}

#: Widths, and operations per step on an n × n matrix, in units of n³.
FLOP = {"Muon": (1024, 5 * 6), "Shampoo": (1024, 8), "Shampoo, roots each step": (512, 32)}

#: Bytes per parameter for optimizers that pass over the parameters more than once, pass by pass.
BYTES = {
    "LAMB": 24 + 16,  # gradient, parameter, both moments; parameter, both moments
    "Adafactor": 8 + 4 + 12,  # gradient, parameter; gradient; gradient, parameter
    "Prodigy": 32 + 24,  # gradient, way, three averages; parameter, way, both moments
}


@dataclass(frozen=True)
class Row:
    """Medians over turns."""

    label: str
    parameters: int
    bytes_each: int
    flop: float
    seconds: float
    bound: float
    ratio: float
    machine: Machine

    @property
    def each(self) -> str:
        """Return the time per parameter."""
        if self.flop:
            return f"{self.flop / self.parameters / 1e3:.1f} kFLOP"
        return f"{self.bytes_each} B"


def measure(options: Options) -> list[Row]:
    probe = Probe(options)
    full = QUICK_WIDTH if options.quick else WIDTH
    if full * full * 4 < probe.private:
        say("  the arrays fit in the cores' caches: bounds by memory mean nothing here")
    tw.set_num_threads(options.threads)
    rows = []
    for label, make in OPTIMIZERS.items():
        say(f"  {label}")
        side, operations = FLOP.get(label, (full, 0))
        width = min(full, side)
        model = nn.Sequential(nn.Linear(width, width, bias=False), dtype="float32")
        rng = np.random.default_rng(0)
        model.flat_gradients = rng.standard_normal(model.num_parameters, dtype=np.float32)
        optimizer = make()
        optimizer.step(model)
        arrays = len(optimizer.state_dict()["arrays"])
        bytes_each = BYTES.get(label, 4 * (1 + 2 * (1 + arrays)))
        flop, moved = operations * width**3, bytes_each * model.num_parameters
        turns = []
        for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
            bound = flop / probe.peak() if flop else moved / probe.bandwidth()
            machine.rest()  # NumPy's threads spin for a while
            start = time.perf_counter()
            optimizer.step(model)
            turns.append((time.perf_counter() - start, bound))
        seconds, bound = (statistics.median(each) for each in zip(*turns, strict=True))
        ratio = statistics.median(seconds / bound for seconds, bound in turns)
        rows.append((label, model.num_parameters, bytes_each, flop, seconds, bound, ratio))
    return [Row(*row, probe.found()) for row in rows]


def markdown(rows: list[Row]) -> str:
    found = rows[0].machine
    body = [
        [
            row.label,
            row.each,
            duration(row.seconds),
            duration(row.bound),
            f"{row.ratio:.2f}x",
        ]
        for row in rows
    ]
    slow = sorted((-row.ratio, row.label) for row in rows if row.ratio > TARGET)
    return section(
        "Optimizers",
        [
            f"`optimizer.step(model)` on {rows[0].parameters / 1e6:.1f} million float32",
            "parameters, compared with the time to move its bytes at memory bandwidth"
            f" (at best {found.bandwidth / 1e9:.1f} GB/s,",
            "reading and writing in place). Muon and Shampoo have 1.0 million parameters, or 0.3",
            "million with roots in each step, and are compared with the time of their operations",
            f"at peak arithmetic (at best {found.peak / 1e9:.0f} GFLOP/s). Measurements of",
            "bandwidth and peak alternate with the steps.",
        ],
        ["optimizer", "a parameter", "step", "bound", "step / bound"],
        body,
        verdict(
            f"at most {TARGET} times the bound",
            [f"{label}, {-ratio:.2f}x" for ratio, label in slow],
            len(rows),
        ),
    )
