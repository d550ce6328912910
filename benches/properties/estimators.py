"""The whole `fit` of an estimator compared with scikit-learn's, including checks of the data.

Both start from the same weights and take the same number of Adam steps, with the defaults of both
except the number of epochs. Data are float32, in which scikit-learn is faster than in float64. A
round fits one right after the other, so that drift of the machine does not affect the ratio.
"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

import thalweg as tw

from .. import machine
from ..table import duration
from .report import Options, say, section, verdict

TARGET = 2  # times as fast as scikit-learn's
EPOCHS, QUICK_EPOCHS = 20, 2
ROUNDS, QUICK_ROUNDS = 9, 3
#: Hidden layers, and other arguments; on the digits, 1797 rows of 64 pixels.
WORK: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((100,), {}),
    ((100,), {"early_stopping": True}),
    ((20,), {"batch_size": 32}),
    ((400, 400), {}),
)


@dataclass(frozen=True)
class Row:
    label: str
    seconds: float
    theirs: float
    ratio: float


def measure(options: Options) -> list[Row]:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        return []
    tw.set_num_threads(options.threads)
    data = tw.datasets.digits()
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    epochs = QUICK_EPOCHS if options.quick else EPOCHS
    rows = []
    for hidden, more in WORK:
        label = "-".join(map(str, (64, *hidden, 10)))
        label = ", ".join([label, *(f"{name}={value}" for name, value in more.items())])
        say(f"  {label}")
        given = {"hidden_layer_sizes": hidden, "max_iter": epochs, "random_state": 0, **more}
        times: dict[Any, list[float]] = {tw.sklearn.MLPClassifier: [], MLPClassifier: []}
        for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
            for kind, taken in times.items():
                machine.rest()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    start = time.perf_counter()
                    kind(**given).fit(x, y)
                    taken.append(time.perf_counter() - start)
        ours, theirs = times.values()
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        rows.append(Row(label, statistics.median(ours), statistics.median(theirs), ratio))
    return rows


def markdown(rows: list[Row]) -> str:
    misses = [f"{r.label}, {r.ratio:.1f}x" for r in rows if r.ratio < TARGET]
    return section(
        "Estimators",
        [
            f"`fit` of `MLPClassifier` on the digits for {EPOCHS} epochs, with ReLU, Adam and",
            "batch 200, in float32. The last column is scikit-learn's time divided by thalweg's.",
        ],
        ["network", "thalweg", "scikit-learn", "ratio"],
        [[r.label, duration(r.seconds), duration(r.theirs), f"{r.ratio:.1f}x"] for r in rows],
        verdict(f"at least {TARGET} times as fast as scikit-learn's", misses, len(rows)),
    )
