"""What each kind of layer adds to a training step, here and in PyTorch.

The net is 256-256-256-256, batch 256, MSE and SGD, with the layer after each hidden Linear. The
table shows the time of a step, and that of PyTorch's (eager, fused optimizer) divided by it. Both
libraries take turns on each layer. Layers that PyTorch has no module for are not in the list.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import thalweg as tw
from thalweg import nn, optim

from .. import machine
from ..table import duration
from .report import Options, say, section, verdict

TARGET = 1.0
WIDTH, BATCH = 256, 256
ROUNDS, QUICK_ROUNDS = 9, 3
STEPS, QUICK_STEPS = 60, 10

LAYERS: dict[str, Callable[[Any], Any]] = {
    "Identity": lambda nn: nn.Identity(),
    "ReLU": lambda nn: nn.ReLU(),
    "LeakyReLU": lambda nn: nn.LeakyReLU(),
    "ELU": lambda nn: nn.ELU(),
    "SELU": lambda nn: nn.SELU(),
    "Tanh": lambda nn: nn.Tanh(),
    "Sigmoid": lambda nn: nn.Sigmoid(),
    "GELU": lambda nn: nn.GELU(),
    "GELU, tanh": lambda nn: nn.GELU(approximate="tanh"),
    "SiLU": lambda nn: nn.SiLU(),
    "Mish": lambda nn: nn.Mish(),
    "Softplus": lambda nn: nn.Softplus(),
    "Softsign": lambda nn: nn.Softsign(),
    "Hardswish": lambda nn: nn.Hardswish(),
    "Dropout": lambda nn: nn.Dropout(0.5),
    "BatchNorm1d": lambda nn: nn.BatchNorm1d(WIDTH),
    "LayerNorm": lambda nn: nn.LayerNorm(WIDTH),
    "RMSNorm": lambda nn: nn.RMSNorm(WIDTH),
}


@dataclass(frozen=True)
class Row:
    """`peer` is PyTorch's step, None if it is not installed."""

    label: str
    seconds: float
    over_identity: float
    peer: float | None
    ratio: float | None


def ours(make: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    model = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), make(nn), nn.Linear(WIDTH, WIDTH), make(nn),
        nn.Linear(WIDTH, WIDTH),
    )  # fmt: skip
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e-3)).step


def torchs(make: Callable[[Any], Any], threads: int) -> Callable[[Any, Any], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    of = torch.nn
    model = of.Sequential(
        of.Linear(WIDTH, WIDTH), make(of), of.Linear(WIDTH, WIDTH), make(of),
        of.Linear(WIDTH, WIDTH),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    loss_of = of.MSELoss()

    def step(x: Any, y: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def turn(step: Callable[[Any, Any], Any], x: Any, y: Any, count: int) -> float:
    times = []
    for i in range(count + 3):
        start = time.perf_counter()
        step(x, y)
        if i >= 3:  # at first, caches hold the previous turn's data
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(options: Options) -> list[Row]:
    tw.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, BATCH, WIDTH), dtype=np.float32)
    rounds, count = (QUICK_ROUNDS, QUICK_STEPS) if options.quick else (ROUNDS, STEPS)
    plain = ours(LAYERS["Identity"])
    rows = []
    for label, make in LAYERS.items():
        say(f"  {label}")
        mine, theirs = ours(make), torchs(make, options.threads)
        own, base, peer = [], [], []
        for _ in range(rounds):
            base.append(turn(plain, x, y, count))
            own.append(turn(mine, x, y, count))
            if theirs is not None:
                peer.append(turn(theirs, x, y, count))
                machine.rest()
        rows.append(
            Row(
                label,
                statistics.median(own),
                statistics.median(a / b for a, b in zip(own, base, strict=True)),
                statistics.median(peer) if peer else None,
                statistics.median(p / o for p, o in zip(peer, own, strict=True)) if peer else None,
            )
        )
    return rows


def markdown(rows: list[Row]) -> str:
    judged = [row for row in rows if row.ratio is not None]
    body = [
        [
            row.label,
            duration(row.seconds),
            f"{row.over_identity:.2f}x",
            "-" if row.peer is None else duration(row.peer),
            "-" if row.ratio is None else f"{row.ratio:.2f}x",
        ]
        for row in rows
    ]
    return section(
        "Layers",
        [
            f"A step of {WIDTH}-{WIDTH}-{WIDTH}-{WIDTH}, batch {BATCH}, float32, MSE, SGD, with",
            "the layer after each hidden Linear. `over none` compares with steps without it, in",
            "turns with them, since the speed of the machine varies from row to row.",
        ],
        ["layer", "step", "over none", "PyTorch", "PyTorch / thalweg"],
        body,
        verdict(
            "no layer slower than PyTorch's",
            [f"{r.label}, {r.ratio:.2f}x" for r in judged if r.ratio and r.ratio < TARGET],
            len(judged),
        ),
    )
