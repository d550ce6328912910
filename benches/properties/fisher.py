"""The diagonal Fisher information of a classifier, beside what PyTorch offers for it.

vmap : `torch.func.vmap(grad(...))`, gradients of many samples at once, squared and summed; for the
    exact one, once for each class.
loop : a backward pass for each sample (and class), as most implementations of EWC do it.

All three must agree to 1e-4 before the clock starts. Times are per sample, of one call on `SAMPLES`
rows; the loop is timed on fewer.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg import nn, set_num_threads
from thalweg.continual import fisher_diagonal

from .. import machine
from ..table import duration
from .report import Options, section, verdict

WIDTHS = (784, 400, 400, 10)
SAMPLES, QUICK_SAMPLES, LOOPED = 4096, 512, 64
PART = 128  # samples that vmap takes at once; more do not fit the memory of small machines
ROUNDS, QUICK_ROUNDS = 5, 2
TARGETS = {"vmap": 10, "loop": 40}


@dataclass(frozen=True)
class Row:
    kind: str
    seconds: float  # per sample
    vmap: float | None
    loop: float | None


def measure(options: Options) -> list[Row]:
    set_num_threads(options.threads)
    samples = QUICK_SAMPLES if options.quick else SAMPLES
    rng = np.random.default_rng(0)
    x = rng.random((samples, WIDTHS[0]), dtype=np.float32)
    y = rng.integers(0, WIDTHS[-1], samples)
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    rows = []
    for kind in ("empirical", "exact"):
        peers = _peers(model, x, y, kind, options.threads)
        ours = lambda n, kind=kind: fisher_diagonal(model, x[:n], y[:n], kind=kind)  # noqa: E731
        expected = ours(LOOPED)
        for name, peer in peers.items():
            found = peer(LOOPED)
            off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            if not off < 1e-4:
                raise SystemExit(f"{name}, {kind}: another result, off by {off:.1e}")
        ours(samples)
        times: dict[str, list[float]] = {}
        for _ in range(rounds):  # in turns, so that a slow minute is slow for all
            for name, call, n in [
                ("thalweg", ours, samples),
                *(
                    (name, peer, LOOPED if name == "loop" else samples)
                    for name, peer in peers.items()
                ),
            ]:
                if name != "thalweg" and len(times.get(name, ())) == 2:
                    continue  # they take long
                machine.rest()
                start = time.perf_counter()
                call(n)
                times.setdefault(name, []).append((time.perf_counter() - start) / n)
        median = {name: statistics.median(t) for name, t in times.items()}
        rows.append(Row(kind, median["thalweg"], median.get("vmap"), median.get("loop")))
    return rows


def _peers(
    model: nn.Sequential, x: Any, y: Any, kind: str, threads: int
) -> dict[str, Callable[[int], Any]]:
    try:
        import torch
    except ImportError:
        return {}
    from torch.func import functional_call, grad, vmap

    torch.set_num_threads(threads)
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in model.state_dict().items()})
    xs, ys = torch.from_numpy(x), torch.from_numpy(y)
    parameters = {k: v.detach() for k, v in net.named_parameters()}

    def log_likelihood(parameters: Any, sample: Any, label: Any) -> Any:
        output = functional_call(net, parameters, (sample[None],))
        return torch.log_softmax(output, 1)[0].gather(0, label[None])[0]

    slopes = vmap(grad(log_likelihood), in_dims=(None, 0, 0))

    def with_vmap(n: int) -> Any:
        total = {k: torch.zeros_like(v) for k, v in parameters.items()}
        for start in range(0, n, PART):
            part, labels = xs[start : min(n, start + PART)], ys[start : min(n, start + PART)]
            if kind == "empirical":
                for k, g in slopes(parameters, part, labels).items():
                    total[k] += (g * g).sum(0)
                continue
            with torch.no_grad():
                p = torch.softmax(net(part), 1)
            for c in range(WIDTHS[-1]):
                each = slopes(parameters, part, torch.full_like(labels, c))
                for k, g in each.items():
                    total[k] += torch.einsum("n,n...,n...->...", p[:, c], g, g)
        return np.concatenate([v.numpy().ravel() for v in total.values()]) / n

    def with_loop(n: int) -> Any:
        total = [torch.zeros_like(v) for v in net.parameters()]
        for sample, label in zip(xs[:n], ys[:n], strict=True):
            logs = torch.log_softmax(net(sample[None]), 1)[0]
            for c in [int(label)] if kind == "empirical" else range(WIDTHS[-1]):
                net.zero_grad()
                logs[c].backward(retain_graph=True)
                weight = 1.0 if kind == "empirical" else float(logs[c].detach().exp())
                for into, v in zip(total, net.parameters(), strict=True):
                    into += weight * v.grad**2
        return np.concatenate([v.numpy().ravel() for v in total]) / n

    return {"vmap": with_vmap, "loop": with_loop}


def markdown(rows: list[Row]) -> str:
    def cell(row: Row, time: float | None) -> str:
        return "-" if time is None else f"{duration(time)} ({time / row.seconds:.1f}x)"

    body = [
        [row.kind, duration(row.seconds), cell(row, row.vmap), cell(row, row.loop)] for row in rows
    ]
    pairs = [
        (f"{row.kind}, {name}", ratio / row.seconds, TARGETS[name])
        for row in rows
        for name, ratio in (("vmap", row.vmap), ("loop", row.loop))
        if ratio is not None
    ]
    return section(
        "Fisher information",
        [
            f"Diagonal for {'-'.join(map(str, WIDTHS))} with ReLU and softmax, in float32: time",
            "per sample, in brackets as a multiple of thalweg's.",
        ],
        ["kind", "thalweg", "torch, vmap", "torch, sample by sample"],
        body,
        verdict(
            "at least 10 times as fast as vmap, 40 times as fast as the loop",
            [f"{name}, {ratio:.1f}x" for name, ratio, least in pairs if ratio < least],
            len(pairs),
        ),
    )
