"""What arguments of strategies mean that other tests leave at their defaults.

Sample `i` is the unit vector `i`, and the model has a weight for each: what becomes of a weight
shows whether a strategy has seen its sample.
"""

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim

ROWS = 8


def linear(loss, outputs=1, lr=0.0):
    model = nn.Sequential(nn.Linear(ROWS, outputs, bias=False), dtype="float64", seed=2)
    return tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=lr))


def task(y, index):
    return continual.Task(np.eye(ROWS), y, np.eye(ROWS), y, index)


def important(strategy):
    """Weights that a penalty holds after a task."""
    strategy.fit(task(np.zeros(ROWS), 0))
    return strategy.importance != 0


def unmoved(strategy):
    """Weights that are kept where a second task pulls all of them away from the first."""
    model = strategy.trainer.model
    theta = model.flat_parameters
    strategy.fit(task(theta + 1, 0))
    strategy.trainer.optimizer.lr = 0.1
    strategy.fit(task(theta - 1, 1), steps=1, batch_size=ROWS)
    return abs(model.flat_parameters - theta) < 1e-9


STRATEGIES = {
    "OnlineEWC": (important, lambda inner, n, **seed: (
        continual.OnlineEWC(inner, 1.0, fisher="exact", n_samples=n, **seed)
    )),
    "MAS": (important, lambda inner, n, **seed: continual.MAS(inner, 1.0, n_samples=n, **seed)),
    "OnlineLaplace": (important, lambda inner, n, **seed: (
        continual.OnlineLaplace(inner, 1.0, structure="full", n_samples=n, **seed)
    )),
    "GEM": (unmoved, lambda inner, n, **seed: continual.GEM(inner, n, margin=0.0, **seed)),
    "OGD": (unmoved, lambda inner, n, **seed: continual.OGD(inner, n, **seed)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the penalty of")  # nothing moves in the first task
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_draws_so_many_samples_of_a_task_by_its_seed(name):
    remembered, make = STRATEGIES[name]

    def drawn(n, **seed):
        strategy = make(linear(nn.MSELoss()), n, **seed)
        return tuple(np.flatnonzero(remembered(strategy)))

    assert drawn(ROWS) == tuple(range(ROWS))
    draws = [drawn(3, seed=seed) for seed in range(5)]
    assert {len(rows) for rows in draws} == {3}
    assert draws[0] == drawn(3)
    assert draws[4] == drawn(3, seed=4)
    assert len(set(draws)) > 1


@pytest.mark.parametrize(("batch_size", "kept"), [(None, 2), (1, 1), (4, 4)])
def test_er_ace_learns_so_many_kept_samples_beside_new_ones(batch_size, kept):
    trainer = linear(nn.CrossEntropyLoss(), outputs=2, lr=0.1)
    strategy = continual.ERACE(trainer, 6, batch_size=batch_size)
    x, y = np.eye(ROWS), np.arange(ROWS) % 2
    strategy.step(x[:6], y[:6])
    before = trainer.model.state_dict()["0.weight"]
    strategy.step(x[6:], y[6:])
    moved = (trainer.model.state_dict()["0.weight"] != before).any(axis=0)
    assert moved[6:].all()
    assert moved[:6].sum() == kept
