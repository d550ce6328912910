"""The diagonal Fisher information of a classifier, compared with what PyTorch offers for it.

vmap : `torch.func.vmap` of the gradient, for several samples (and classes) at once. The square
    roots of probabilities are factors of what is differentiated, and squares are added in one pass.
compiled : the same, including squares and sums, by `torch.compile`; if there is a C++ compiler.
loop : a backward pass for each sample (and class), as in most implementations of EWC, without
    needless copies.

A warm-up finds how many samples and classes at once are fastest for the first two. All must agree
to 1e-4 before the clock starts. Times are per sample, for one call on `SAMPLES` rows, or fewer
(`FEWER`).
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg import nn, set_num_threads
from thalweg.continual import fisher_diagonal

from .. import machine
from ..table import duration
from .report import Options, section, verdict

WIDTHS = (784, 400, 400, 10)
SAMPLES, QUICK_SAMPLES = 4096, 512
FEWER = {"vmap": 512, "loop": 64}  # for slow methods, whose time per sample is constant
FEWEST = 64  # in the warm-up and the comparison of results
# Samples, and classes of each, at once. Few are fastest: the gradients of many leave the caches.
# All divide the numbers of samples above.
PARTS = {
    "empirical": tuple((1 << i, 1) for i in range(7)),
    "exact": ((1, 2), (1, 5), (1, 10), (2, 10), (4, 1), (8, 1), (16, 1), (64, 1)),
}
COMPILED_PARTS = (16, 64)  # samples, with all their classes: gradients need not be stored
ROUNDS, QUICK_ROUNDS = 9, 2
TARGETS = {"vmap": 10, "compiled": 10, "loop": 40}

Fisher = Callable[[int], Any]  # of that many first samples


@dataclass(frozen=True)
class Row:
    kind: str
    seconds: float  # per sample
    vmap: float | None
    compiled: float | None
    loop: float | None
    parts: dict[str, str]  # how many each takes at once


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
        peers, parts = _peers(model, x, y, kind, options.threads)
        ours = lambda n, kind=kind: fisher_diagonal(model, x[:n], y[:n], kind=kind)  # noqa: E731
        expected = ours(FEWEST)
        for name, peer in peers.items():
            found = peer(FEWEST)
            off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            if not off < 1e-4:
                raise SystemExit(f"{name}, {kind}: its result differs by {off:.1e}")
        ours(samples)
        times: dict[str, list[float]] = {}
        for _ in range(rounds):  # in turns, so that a slow minute is slow for all
            for name, call in {"thalweg": ours, **peers}.items():
                n = FEWER.get(name, samples)
                machine.rest()
                start = time.perf_counter()
                call(n)
                times.setdefault(name, []).append((time.perf_counter() - start) / n)
        median = {name: statistics.median(t) for name, t in times.items()}
        vmap, compiled, loop = (median.get(name) for name in ("vmap", "compiled", "loop"))
        rows.append(Row(kind, median["thalweg"], vmap, compiled, loop, parts))
    return rows


def _peers(
    model: nn.Sequential, x: Any, y: Any, kind: str, threads: int
) -> tuple[dict[str, Fisher], dict[str, str]]:
    """Return PyTorch's methods, and how many samples and classes each takes at once."""
    try:
        import torch
    except ImportError:
        return {}, {}
    from torch.func import functional_call, vjp, vmap

    from ..peers.torch import MISSING

    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in model.state_dict().items()})
    xs, ys = torch.from_numpy(x), torch.from_numpy(y)
    parameters = {k: v.detach() for k, v in net.named_parameters()}
    count = 1 if kind == "empirical" else WIDTHS[-1]

    def directions(n: int) -> Any:
        """Of each sample, the sums of log-probabilities whose squared slopes are wanted."""
        if kind == "empirical":
            return torch.nn.functional.one_hot(ys[:n], WIDTHS[-1]).float()[:, None]
        with torch.no_grad():
            return torch.diag_embed(torch.softmax(net(xs[:n]), 1).sqrt())

    def gradients(parameters: Any, sample: Any, along: Any) -> Any:
        def logs(parameters: Any) -> Any:
            return torch.log_softmax(functional_call(net, parameters, (sample[None],)), 1)[0]

        _, back = vjp(logs, parameters)
        if len(along) == 1:
            return {k: g[None] for k, g in back(along[0])[0].items()}
        return vmap(back)(along)[0]

    slopes = vmap(gradients, in_dims=(None, 0, 0))

    def with_vmap(n: int, samples: int, classes: int) -> Any:
        total, along = {k: torch.zeros_like(v) for k, v in parameters.items()}, directions(n)
        for i in range(0, n, samples):
            rows = slice(i, i + samples)
            for c in range(0, count, classes):
                for k, each in slopes(parameters, xs[rows], along[rows, c : c + classes]).items():
                    for g in each.flatten(0, 1):
                        total[k].addcmul_(g, g)
        return flat(total.values(), n)

    def squares(parameters: Any, samples: Any, along: Any) -> Any:
        each = slopes(parameters, samples, along)
        return {k: g.square().sum((0, 1)) for k, g in each.items()}

    def with_compiled(samples: int) -> Fisher:
        compiled = torch.compile(squares, fullgraph=True, dynamic=False)

        def call(n: int) -> Any:
            total, along = {k: torch.zeros_like(v) for k, v in parameters.items()}, directions(n)
            for i in range(0, n, samples):
                rows = slice(i, i + samples)
                for k, v in compiled(parameters, xs[rows], along[rows]).items():
                    total[k] += v
            return flat(total.values(), n)

        return call

    def with_loop(n: int) -> Any:
        weights = list(net.parameters())
        total = [torch.zeros_like(v) for v in weights]
        for sample, label in zip(xs[:n], ys[:n].tolist(), strict=True):
            logs = torch.log_softmax(net(sample[None]), 1)[0]
            shares = {label: 1.0}
            if kind == "exact":
                shares = dict(enumerate(logs.detach().exp().tolist()))
            for c, share in shares.items():
                again = c != next(reversed(shares))
                each = torch.autograd.grad(logs[c], weights, retain_graph=again)
                for into, g in zip(total, each, strict=True):
                    into.addcmul_(g, g, value=share)
        return flat(total, n)

    def flat(total: Iterable[Any], n: int) -> Any:
        return np.concatenate([v.numpy().ravel() for v in total]) / n

    peers, parts = {}, {}
    peers["vmap"], parts["vmap"] = _quickest(
        {_part(*p): functools.partial(with_vmap, samples=p[0], classes=p[1]) for p in PARTS[kind]}
    )
    if not MISSING:
        torch.compiler.reset()
        peers["compiled"], parts["compiled"] = _quickest(
            {_part(samples, count): with_compiled(samples) for samples in COMPILED_PARTS}
        )
    peers["loop"] = with_loop
    return peers, parts


def _part(samples: int, classes: int) -> str:
    return f"{samples} x {classes}"


def _quickest(calls: dict[str, Fisher]) -> tuple[Fisher, str]:
    """Return the call whose best time on few samples is smallest, and its name."""
    least = {}
    for name, call in calls.items():
        times = []
        for _ in range(4):  # the first may compile
            start = time.perf_counter()
            call(FEWEST)
            times.append(time.perf_counter() - start)
        least[name] = min(times)
    best = min(least, key=least.__getitem__)
    return calls[best], best


def markdown(rows: list[Row]) -> str:
    def cell(row: Row, time: float | None) -> str:
        return "-" if time is None else f"{duration(time)} ({time / row.seconds:.1f}x)"

    body = [
        [row.kind, duration(row.seconds), *(cell(row, getattr(row, name)) for name in TARGETS)]
        for row in rows
    ]
    pairs = [
        (f"{row.kind}, {name}", seconds / row.seconds, least)
        for row in rows
        for name, least in TARGETS.items()
        if (seconds := getattr(row, name)) is not None
    ]
    at_once = [f"{row.kind}, {name} {part}" for row in rows for name, part in row.parts.items()]
    return section(
        "Fisher information",
        [
            f"Diagonal for {'-'.join(map(str, WIDTHS))} with ReLU and softmax, in float32: time",
            "per sample, in brackets as a multiple of thalweg's. vmap takes as many samples and",
            "classes of each at once as were quickest in a warm-up:",
            f"{'; '.join(at_once) or 'there is no PyTorch here'}.",
        ],
        ["kind", "thalweg", "torch, vmap", "torch, vmap compiled", "torch, sample by sample"],
        body,
        verdict(
            "at least 10 times as fast as vmap, compiled or not, 40 times as fast as the loop",
            [f"{name}, {ratio:.1f}x" for name, ratio, least in pairs if ratio < least],
            len(pairs),
        ),
    )
