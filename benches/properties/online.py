"""Learning sample by sample, as from a stream: how long one sample takes.

One call for each sample, on existing arrays of one row: `Trainer.step`, PyTorch's four lines
(`zero_grad`, forward and loss, `backward`, `step`; eager autograd, on existing tensors), and
`partial_fit` of scikit-learn's estimator and of ours. All with plain SGD and the squared error.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import thalweg as tw
from thalweg import nn, optim

from .. import machine
from ..table import duration
from .report import Options, section, verdict

# The first is the slowly changing regression of Dohare et al. 2024.
WIDTHS = ((20, 5, 1), (20, 64, 64, 1), (64, 100, 10), (784, 100, 10))
SAMPLES, QUICK_SAMPLES, WARM = 4000, 400, 50
ROUNDS, QUICK_ROUNDS = 5, 2
TARGET = 10  # times as fast as PyTorch's

Learn = Callable[[int], Any]


@dataclass(frozen=True)
class Row:
    label: str
    seconds: float
    late: float  # exceeded by one sample in a hundred
    estimator: float | None  # thalweg.sklearn's
    torch: float | None
    sklearn: float | None


def measure(options: Options) -> list[Row]:
    tw.set_num_threads(options.threads)
    samples = QUICK_SAMPLES if options.quick else SAMPLES
    rng = np.random.default_rng(0)
    rows = []
    for widths in WIDTHS:
        x = rng.standard_normal((samples, 1, widths[0]), dtype=np.float32)
        y = np.sin(x[..., :1] + np.arange(widths[-1], dtype=np.float32))
        learners = {"thalweg": _thalweg(widths, x, y)}
        learners |= _torch(widths, x, y, options.threads) | _estimators(widths, x, y)
        times: dict[str, list[float]] = {name: [] for name in learners}
        for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
            for name, learn in learners.items():
                machine.rest()
                count = samples if name == "thalweg" else samples // 4
                times[name] += _timed(learn, count)[WARM:]
        median = {name: statistics.median(values) for name, values in times.items()}
        rows.append(
            Row(
                "-".join(map(str, widths)),
                median["thalweg"],
                float(np.quantile(times["thalweg"], 0.99)),
                median.get("estimator"),
                median.get("torch"),
                median.get("sklearn"),
            )
        )
    return rows


def _timed(learn: Learn, count: int) -> list[float]:
    clock, times = time.perf_counter, []
    for i in range(count):
        start = clock()
        learn(i)
        times.append(clock() - start)
    return times


def _thalweg(widths: tuple[int, ...], x: Any, y: Any) -> Learn:
    layers: list[nn.Layer] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    step = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e-3)).step
    return lambda i: step(x[i], y[i])


def _torch(widths: tuple[int, ...], x: Any, y: Any, threads: int) -> dict[str, Learn]:
    try:
        import torch
    except ImportError:
        return {}
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    layers: list[Any] = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    xs, ys = torch.from_numpy(x), torch.from_numpy(y)

    def learn(i: int) -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(xs[i]), ys[i])
        loss.backward()
        optimizer.step()

    return {"torch": learn}


def _estimators(widths: tuple[int, ...], x: Any, y: Any) -> dict[str, Learn]:
    try:
        from sklearn.neural_network import MLPRegressor
    except ImportError:
        return {}
    targets = y[:, :, 0] if widths[-1] == 1 else y

    def learn(net: Any, i: int) -> None:
        net.partial_fit(x[i], targets[i])

    learners = {}
    for name, kind in (("estimator", tw.sklearn.MLPRegressor), ("sklearn", MLPRegressor)):
        net = kind(
            hidden_layer_sizes=widths[1:-1],
            solver="sgd",
            learning_rate_init=1e-3,
            momentum=0,
            alpha=0,
            batch_size=1,
        )
        learners[name] = partial(learn, net)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            learners[name](0)
    return learners


def markdown(rows: list[Row]) -> str:
    def cell(row: Row, seconds: float | None) -> str:
        return "-" if seconds is None else f"{duration(seconds)} ({seconds / row.seconds:.1f}x)"

    body = [
        [
            row.label,
            duration(row.seconds),
            duration(row.late),
            cell(row, row.estimator),
            cell(row, row.torch),
            cell(row, row.sklearn),
        ]
        for row in rows
    ]
    judged = [(row.label, row.torch / row.seconds) for row in rows if row.torch is not None]
    return section(
        "Learning sample by sample",
        [
            "One step on one row with ReLU, SGD and squared error, in float32: medians, and for",
            "thalweg's `Trainer.step` also the 99th percentile. In brackets: the time as a",
            "multiple of that step's. torch is eager autograd. Both estimators learn by",
            "`partial_fit`.",
        ],
        ["network", "thalweg", "99 %", "thalweg.sklearn", "torch", "scikit-learn"],
        body,
        verdict(
            f"at least {TARGET} times as fast as torch",
            [f"{label}, {ratio:.1f}x" for label, ratio in judged if ratio < TARGET],
            len(judged),
        ),
    )
