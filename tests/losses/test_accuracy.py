"""Accuracies, of labels and of several labels at once."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .cases import K, N, identity, network


def test_accuracies():
    o = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 3.0], [-1.0, -2.0, 0.5], [1.0, 1.0, 1.0]])
    trainer = tw.Trainer(identity(3), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0))
    accuracy = lambda *a: trainer.evaluate(*a)["accuracy"]  # noqa: E731
    assert accuracy(o, [0, 1, 2, 0]) == 1
    assert accuracy(o, [0, 2, 2, 1]) == 0.5  # of equal outputs the first counts
    assert accuracy(o, [0, 2, -100, 1]) == 1 / 3  # ignored rows do not count
    assert accuracy(o, [0, 2, 2, 1], [3, 1, 0, 0]) == 0.75  # weights do
    shares = [[0.4, 0.3, 0.3], [0.2, 0.4, 0.4], [0, 1, 0], [1, 0, 0]]
    assert accuracy(o, shares) == 0.75
    for smooth in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss([0, 1, 5])):
        trainer = tw.Trainer(identity(3), loss=smooth, optimizer=optim.SGD(lr=0))
        assert trainer.evaluate(o, [0, 2, 2, 1])["accuracy"] == 0.5
    trainer = tw.Trainer(identity(3), loss=nn.BCEWithLogitsLoss(), optimizer=optim.SGD(lr=0))
    y = [[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert trainer.evaluate(o, y)["accuracy"] == pytest.approx((3 + 2 + 2 + 0) / 12)
    history = trainer.fit(o, y, validation_data=(o, y))
    assert history["accuracy"] == history["val_accuracy"] == [pytest.approx(7 / 12)]
    for loss in (nn.L1Loss(), nn.DistillationLoss()):
        trainer = tw.Trainer(identity(3), loss=loss, optimizer=optim.SGD(lr=0))
        assert set(trainer.evaluate(o, o)) == {"loss"}


def test_one_hot_rows_are_labels(rng):
    x, labels = rng.standard_normal((N, 6)), rng.integers(0, K, N)
    losses = []
    for y in (
        labels,
        np.eye(K)[labels],
        np.eye(K, dtype=int)[labels],
        np.eye(K, dtype=bool)[labels],
    ):
        trainer = tw.Trainer(network(), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        losses.append([trainer.step(x, y) for _ in range(3)])
    np.testing.assert_allclose(losses, np.tile(losses[0], (4, 1)), rtol=1e-13)
