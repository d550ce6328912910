"""What `train_many` gains: several small networks at once, compared with one after another.

A round fits copies of the same trainers both ways, one right after the other, so that drift of the
machine does not affect the ratio. Alone, a net of this size uses one thread, or two if that is
faster; together, each uses one.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

import thalweg as tw
from thalweg import nn, optim

from ..table import duration
from .report import Options, say, section, verdict

TARGET = 0.9  # times the number of CPUs
NETS, ROWS, BATCH = 8, 2048, 32
EPOCHS, QUICK_EPOCHS = 40, 4
ROUNDS, QUICK_ROUNDS = 9, 3
WIDTHS = ((10, 64, 1), (20, 128, 128, 1))


@dataclass(frozen=True)
class Row:
    label: str
    threads: int
    alone: float
    together: float
    gain: float


def trainers(widths: tuple[int, ...]) -> list[tw.Trainer]:
    made = []
    for seed in range(NETS):
        layers: list[nn.Layer] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.Tanh()]
        model = nn.Sequential(*layers[:-1], seed=seed)
        made.append(tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam()))
    return made


def measure(options: Options) -> list[Row]:
    tw.set_num_threads(options.threads)
    epochs = QUICK_EPOCHS if options.quick else EPOCHS
    rng = np.random.default_rng(0)
    rows = []
    for widths in WIDTHS:
        label = "-".join(map(str, widths))
        say(f"  {NETS} nets of {label}")
        x = rng.standard_normal((ROWS, widths[0]), dtype=np.float32)
        y = np.sin(x.sum(axis=1, keepdims=True))
        alone, together = [], []
        for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
            start = time.perf_counter()
            for trainer in trainers(widths):
                trainer.fit(x, y, epochs=epochs, batch_size=BATCH)
            middle = time.perf_counter()
            tw.train_many(trainers(widths), x, y, epochs=epochs, batch_size=BATCH)
            alone.append(middle - start)
            together.append(time.perf_counter() - middle)
        gain = statistics.median(a / b for a, b in zip(alone, together, strict=True))
        rows.append(
            Row(
                label,
                options.threads,
                statistics.median(alone),
                statistics.median(together),
                gain,
            )
        )
    return rows


def markdown(rows: list[Row]) -> str:
    threads = rows[0].threads
    misses = [f"{r.label}, {r.gain:.2f}x" for r in rows if r.gain < TARGET * threads]
    return section(
        "Many at once",
        [
            f"`train_many` with {NETS} networks, batch {BATCH}, {threads} threads, compared with",
            "calling `fit` on one after another.",
        ],
        ["nets", "one after another", "at once", "gain"],
        [[r.label, duration(r.alone), duration(r.together), f"{r.gain:.2f}x"] for r in rows],
        verdict(
            f"at least {TARGET} times as fast per CPU", misses, len(rows) if threads > 1 else 0
        ),
    )
