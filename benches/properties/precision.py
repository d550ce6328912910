"""What a training step costs in each precision, and how accurate its gradients are.

Libraries and precisions take turns on each net. The table shows the time of a step, that of float32
in the same round divided by it, and the relative distance of the gradients from float64's. The peer
is PyTorch (eager, fused Adam), in float32 and, by autocast, in bfloat16, each compared with the
precisions of similar accuracy. Precisions that the CPU does not support are left out.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import thalweg as tw
from thalweg import nn, optim

from .. import machine
from ..table import duration
from .layers import turn
from .report import Options, say, section, verdict

NETS = {
    "2-256-256-256-256-3": ([2, 256, 256, 256, 256, 3], 4096),
    "784-400-400-10": ([784, 400, 400, 10], 128),
    "640-640-640-640": ([640, 640, 640, 640], 512),
    "784-2000-2000-10": ([784, 2000, 2000, 10], 256),
    "1024-4096-4096-1024": ([1024, 4096, 4096, 1024], 512),
}
#: Each with the PyTorch precision of about the same accuracy.
PEERS = {"float32": "float32", "bf16x6": "float32", "bf16x3": "float32", "bfloat16": "bfloat16"}
ROUNDS, QUICK_ROUNDS = 7, 2
SECONDS = 0.3  # of a turn, approximately


@dataclass(frozen=True)
class Row:
    """`peer` is the time of PyTorch's step divided by ours; None if it is not installed."""

    net: str
    precision: str
    seconds: float
    over_float32: float
    error: float
    peer: float | None


def ours(widths: list[int], precision: str, act: type[nn.Layer] = nn.ReLU) -> tw.Trainer:
    layers: list[nn.Layer] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    dtype = "float64" if precision == "float64" else "float32"
    model = nn.Sequential(*layers[:-1], dtype=dtype)
    if dtype == "float64":  # the same initial weights
        model.flat_parameters = ours(widths, "float32", act).model.flat_parameters
    loss, adam = nn.MSELoss(), optim.Adam(lr=1e-4)
    return tw.Trainer(model, loss=loss, optimizer=adam, precision=precision)


def torchs(widths: list[int], precision: str, threads: int) -> Callable[[Any, Any], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    loss_of, half = torch.nn.MSELoss(), precision == "bfloat16"

    def step(x: Any, y: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = model(torch.from_numpy(x))
        loss = loss_of(output.float(), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def gradient_error(widths: list[int], precision: str, x: Any, y: Any) -> float:
    found = []
    for each in ("float64", precision):
        trainer = ours(widths, each, nn.Tanh)  # no kinks, where rounding decides the side
        trainer.backward(x, y)
        found.append(trainer.model.flat_gradients.astype(np.float64))
    exact, gradient = found
    return float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))


def measure(options: Options) -> list[Row]:
    tw.set_num_threads(options.threads)
    here = tw.show_config("dicts")
    assert here is not None
    rng, rows = np.random.default_rng(0), []
    for net, (widths, batch) in NETS.items():
        say(f"  {net}")
        x = rng.standard_normal((batch, widths[0]), dtype=np.float32)
        y = rng.standard_normal((batch, widths[-1]), dtype=np.float32)
        names = [name for name in PEERS if name in here["precisions"]]
        steps: dict[str, Any] = {name: ours(widths, name).step for name in names}
        for name in {PEERS[name] for name in names}:
            if (theirs := torchs(widths, name, options.threads)) is not None:
                steps[f"PyTorch {name}"] = theirs
        flops = 6 * batch * sum(a * b for a, b in itertools.pairwise(widths))
        count = max(3, min(60, int(SECONDS * 1e11 * options.threads / flops)))
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
            for name, step in steps.items():
                times[name].append(turn(step, x, y, count))
                if name.startswith("PyTorch"):
                    machine.rest()
        for name in names:
            own, peer = times[name], times.get(f"PyTorch {PEERS[name]}")
            gain = [a / b for a, b in zip(times["float32"], own, strict=True)]
            lead = None if peer is None else [a / b for a, b in zip(peer, own, strict=True)]
            rows.append(
                Row(
                    f"{net}, batch {batch}",
                    name,
                    statistics.median(own),
                    statistics.median(gain),
                    gradient_error(widths, name, x, y),
                    None if lead is None else statistics.median(lead),
                )
            )
    return rows


def markdown(rows: list[Row]) -> str:
    body = [
        [
            row.net,
            row.precision,
            duration(row.seconds),
            f"{row.over_float32:.2f}x",
            f"{row.error:.1e}",
            "-" if row.peer is None else f"{PEERS[row.precision]}, {row.peer:.2f}x",
        ]
        for row in rows
    ]
    split = [row for row in rows if row.precision != "float32"]
    return section(
        "Precisions",
        [
            "A training step (ReLU, MSE, Adam) in each precision of the products, and the error of",
            "the first gradient, relative to that in float64, for the same network with tanh.",
        ],
        ["net", "precision", "step", "float32 / it", "error of the gradient", "PyTorch / it"],
        body,
        verdict(
            "no precision slower than float32",
            [f"{r.net}: {r.precision}, {r.over_float32:.2f}x" for r in split if r.over_float32 < 1],
            len(split),
        ),
    )
