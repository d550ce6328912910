"""A small scenario of classes, and trainers for it."""

from types import SimpleNamespace

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim


@pytest.fixture
def clouds():
    """Six classes as clouds on a circle, with some noise that overlaps: (x, y, x_test, y_test)."""
    rng = np.random.default_rng(5)
    y = np.arange(480) % 6
    centres = 3 * np.stack([np.cos(np.arange(6)), np.sin(np.arange(6))], axis=1)
    x = (centres[y] + rng.standard_normal((480, 2))).astype(np.float32)
    return SimpleNamespace(x=x, y=y, all=(x[:360], y[:360], x[360:], y[360:]))


@pytest.fixture
def scenario(clouds):
    """Three tasks of two classes each, 120 rows to learn each; all seen classes compete."""
    return continual.split(*clouds.all, tasks=3, kind="class")


@pytest.fixture
def trainer():
    """A function that makes a fresh trainer, the same each time."""

    def make(outputs=6, inputs=2, dropout=0.0, seed=1, lr=0.01, **options):
        model = nn.Sequential(
            nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, outputs), seed=seed
        )
        loss = options.pop("loss", nn.CrossEntropyLoss())
        return tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=lr), **options)

    return make
