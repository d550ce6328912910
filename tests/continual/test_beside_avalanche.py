"""The experiment that runs in thalweg and in Avalanche: the same task for both."""

from argparse import Namespace

import numpy as np
import pytest
from benches.continual import __main__ as command
from benches.continual import thalweg_

from thalweg import continual

ARGS = Namespace(
    tasks=2, rows=150, epochs=20, batch_size=32, strength=100.0, threads=1, hidden=[16]
)


@pytest.fixture
def tasks(rng):
    y = rng.integers(0, 3, 200)
    x = (np.eye(3)[y] @ rng.standard_normal((3, 12)) + 0.3 * rng.standard_normal((200, 12))).astype(
        "float32"
    )
    return command.tasks_of((x[:150], y[:150], x[150:], y[150:]), ARGS, seed=1)


def test_it_learns_and_gives_accuracies_and_seconds(tasks):
    first, second = tasks
    np.testing.assert_array_equal(np.sort(first[0], axis=1), np.sort(second[0], axis=1))
    assert all(x.flags.c_contiguous for x, _, _, _ in tasks)
    accuracies, seconds = thalweg_.run(tasks, ARGS, seed=1)
    assert len(accuracies) == 2
    assert accuracies[1] > 0.6
    assert seconds > 0


def test_importances_are_avalanche_s_own(tasks):
    """Its plugin's code on the same network; the last of five batches is short."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("avalanche")
    from avalanche.training.plugins import EWCPlugin
    from benches.continual import avalanche_

    x, y, _, _ = tasks[0]
    model = thalweg_.network(tasks, ARGS, 1)
    net = avalanche_.network_of(model)
    found = EWCPlugin(1.0).compute_importances(
        net, torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=0.1),
        avalanche_.dataset(x, y), "cpu", 32,
    )  # fmt: skip
    theirs = np.concatenate([value.data.numpy().ravel() for value in found.values()])
    ours = continual.fisher_diagonal(model, x, y, kind="batched", batch_size=32)
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)
