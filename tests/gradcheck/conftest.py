"""What the rooms of the gradient checker's tests share."""

import pytest

from thalweg import nn


@pytest.fixture
def deep():
    """Make a net with batch normalization and dropout."""

    def make(dtype="float64", activation=None):
        activation = activation or nn.Tanh()
        return nn.Sequential(
            nn.Linear(20, 64), nn.BatchNorm1d(64), activation, nn.Linear(64, 64), activation,
            nn.Dropout(0.2), nn.Linear(64, 10), dtype=dtype, seed=5,
        )  # fmt: skip

    return make
