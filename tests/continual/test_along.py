"""What is gathered along the way is of the loss's own gradient, whatever an update makes of it."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.continual import AGEM, RWalk, SynapticIntelligence, Task

RATE, STRENGTH, XI = 0.05, 0.3, 0.1
ROWS, FEATURES = 24, 4


@pytest.fixture
def tasks(rng):
    return [
        (rng.standard_normal((ROWS, FEATURES)), rng.standard_normal((ROWS, 1))) for _ in range(3)
    ]


def trainer(**options):
    model = nn.Sequential(nn.Linear(FEATURES, 1, bias=False), dtype="float64", seed=0)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=RATE), **options)


def clipped(g, clip_grad_norm=None, clip_grad_value=None):
    if clip_grad_norm is not None:
        return g * min(1.0, clip_grad_norm / (np.linalg.norm(g) + 1e-6))  # as PyTorch has it
    return g if clip_grad_value is None else g.clip(-clip_grad_value, clip_grad_value)


@pytest.mark.parametrize(
    "limit",
    [{}, {"clip_grad_norm": 1e9}, {"clip_grad_norm": 0.5}, {"clip_grad_value": 0.2}],
    ids=str,
)
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("convention", ["paper", "van_de_ven"])
def test_synaptic_intelligence_by_hand(convention, accumulate, limit, tasks):
    """Zenke, Poole and Ganguli (2017), eq. 3 to 5, on linear regression."""
    learner = SynapticIntelligence(
        trainer(accumulate_grad_batches=accumulate, **limit), STRENGTH, xi=XI, convention=convention
    )
    theta = np.array(learner.trainer.model.flat_parameters)
    importance, anchor = np.zeros(FEATURES), theta.copy()
    for x, y in tasks:
        task = Task(x, y, x, y)
        learner.begin(task)
        learner.learn(task, steps=4 * ROWS // 4, batch_size=4, shuffle=False)
        learner.end(task)
        gained, start = np.zeros(FEATURES), theta.copy()
        for _ in range(4):
            for first in range(0, ROWS, 4 * accumulate):
                rows = slice(first, first + 4 * accumulate)  # a mean of means of as many rows each
                g = 2 * x[rows].T @ (x[rows] @ theta - y[rows, 0]) / len(x[rows])
                pull = 2 * STRENGTH * importance * (theta - anchor)
                move = -RATE * clipped(g + pull, **limit)
                gained -= (g + pull if convention == "van_de_ven" else g) * move
                theta = theta + move
        importance += gained / ((theta - start) ** 2 + XI)
        anchor = theta.copy()
        np.testing.assert_allclose(learner.trainer.model.flat_parameters, theta, rtol=1e-12)
        np.testing.assert_allclose(learner.importance, importance, rtol=1e-11, atol=1e-13)
    assert np.abs(importance).max() > 0.1


@pytest.mark.parametrize("limit", [{"clip_grad_norm": 1e9}, {"clip_grad_value": 1e9}], ids=str)
@pytest.mark.parametrize("make", [RWalk, SynapticIntelligence])
def test_a_limit_that_is_never_reached_changes_no_importance(make, limit, tasks):
    learners = make(trainer(), STRENGTH), make(trainer(**limit), STRENGTH)
    for x, y in tasks:
        for learner in learners:
            learner.fit(Task(x, y, x, y), epochs=3, batch_size=4)
    plain, limited = (learner.importance for learner in learners)
    assert plain.max() > 0.1
    np.testing.assert_allclose(limited, plain, rtol=1e-12)


def test_a_projected_gradient_is_not_the_loss_s(tasks):
    """A-GEM turns the gradient of the update; what the tasks' own gradients gained is another."""
    learners = {
        convention: AGEM(
            SynapticIntelligence(trainer(), STRENGTH, xi=XI, convention=convention), ROWS
        )
        for convention in ("paper", "van_de_ven")
    }
    for x, y in tasks:
        for learner in learners.values():
            learner.fit(Task(x, y, x, y), epochs=4, batch_size=4)
    paper, van_de_ven = (learner.inner.importance for learner in learners.values())
    assert np.abs(paper - van_de_ven).max() > 1e-3 * paper.max()


def test_synaptic_intelligence_of_mammoth_is_van_de_ven_s_with_gradient_descent(tasks):
    """Its models/si.py: omega grows by lr g², with the penalty's gradient in g, within -1 to 1."""
    learner = trainer()
    strategy = SynapticIntelligence(learner, STRENGTH, xi=XI, convention="van_de_ven")
    theta = learner.model.flat_parameters
    big, checkpoint = np.zeros(FEATURES), theta.copy()
    for x, y in tasks:
        y = y / 4  # so that no gradient is clipped
        task = Task(x, y, x, y)
        strategy.begin(task)
        small = np.zeros(FEATURES)
        for _ in range(5):
            strategy.step(x, y)
            g = 2 * x.T @ (x @ theta - y[:, 0]) / ROWS + 2 * STRENGTH * big * (theta - checkpoint)
            assert np.abs(g).max() < 1
            theta = theta - RATE * g
            small += RATE * g**2
        strategy.end(task)
        big += small / ((theta - checkpoint) ** 2 + XI)
        checkpoint = theta
        np.testing.assert_allclose(strategy.importance, big, rtol=1e-10)
