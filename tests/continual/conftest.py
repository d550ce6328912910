"""A small scenario of classes, and trainers for it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg._safetensors import load


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

    def make(outputs=6, inputs=2, dropout=0.0, seed=1, lr=0.01, batch_norm=False, **options):
        middle = [nn.BatchNorm1d(16)] if batch_norm else []
        layers = [nn.Linear(inputs, 16), *middle, nn.ReLU(), nn.Dropout(dropout)]
        model = nn.Sequential(*layers, nn.Linear(16, outputs), seed=seed)
        loss = options.pop("loss", nn.CrossEntropyLoss())
        return tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=lr), **options)

    return make


@pytest.fixture
def resumed_is_the_same():
    """A function: a run that is stopped in the middle of the last task, against one that is not."""
    return _resumed_is_the_same


def _resumed_is_the_same(make, scenario, trainer, path, **options):
    """A run that is stopped in the middle of the last task, against one that is not."""
    layers = {"dropout": 0.2, **options}
    options = {"steps": 7, "batch_size": 20, "save_every": 2}
    whole = make(trainer(**layers), scenario)
    result = continual.run(whole, scenario, checkpoint=path / "whole", **options)
    stopped = make(trainer(**layers), scenario)

    def stop(self, task, *, start=0, **others):
        if (task.index, start) == (2, 4):
            raise KeyboardInterrupt
        return type(stopped).learn(stopped, task, start=start, **others)

    stopped.learn = stop.__get__(stopped)
    with pytest.raises(KeyboardInterrupt):
        continual.run(stopped, scenario, checkpoint=path / "parts", **options)
    anew = make(trainer(**layers), scenario)
    parts = continual.run(anew, scenario, checkpoint=path / "parts", resume=True, **options)
    np.testing.assert_array_equal(parts.curve, result.curve)
    (arrays, text), (others, other) = (load(path / name) for name in ("parts", "whole"))
    assert arrays.keys() == others.keys()
    assert all(arrays[name].tobytes() == others[name].tobytes() for name in arrays)
    plain, expected = (json.loads(it["thalweg.continual"])["strategy"] for it in (text, other))
    assert plain == expected
