"""What several test files share: small data sets and small models, made anew for every test."""

from types import SimpleNamespace

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def blobs(rng):
    """Three separate clouds of points in five dimensions: x (90, 5) float32, y (90,) int64."""
    y = np.arange(90) % 3
    centres = 4 * rng.standard_normal((3, 5))
    x = (centres[y] + rng.standard_normal((90, 5))).astype(np.float32)
    return SimpleNamespace(x=x, y=y.astype(np.int64))


@pytest.fixture
def classifier():
    """A trainer for `blobs`."""
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3), seed=3)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))


@pytest.fixture
def regressor():
    """A trainer that maps five numbers to two, in float64."""
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2), dtype="float64", seed=3)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05, momentum=0.9))
