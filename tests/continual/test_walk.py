"""RWalk beside its formula in NumPy, and its runs."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import RWalk, Task
from thalweg.errors import UnsupportedError

from ..helpers import accuracy_on_permuted_digits


def walked(tasks, theta, slope, lr, momentum, strength, alpha, every, eps):
    """RWalk by NumPy, from the paper's equations: full batches, gradient descent."""
    fisher = scores = importance = anchor = None
    velocity = 0.0
    for x, y, steps in tasks:
        place, gain, new = theta.copy(), 0.0, np.zeros_like(theta)
        for step in range(steps):
            g = slope(theta, x, y)
            fisher = g**2 if fisher is None else alpha * g**2 + (1 - alpha) * fisher
            pull = 0 if importance is None else 2 * strength * importance * (theta - anchor)
            before, velocity = theta, momentum * velocity + g + pull
            theta = theta - lr * velocity
            gain = gain - g * (theta - before)
            if (step + 1) % every == 0:
                new += gain / (fisher * (theta - place) ** 2 / 2 + eps)
                place, gain = theta, 0.0
        scores = new if scores is None else (scores + new) / 2
        importance = fisher / fisher.max() + np.maximum(scores, 0) / np.maximum(scores, 0).max()
        anchor = theta
    return theta, importance


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("alpha", [0.9, 0.3])
def test_rwalk_is_its_formula(alpha, every, momentum, rng):
    """With momentum, parameters move against their gradients: scores may be negative."""
    model = nn.Sequential(nn.Linear(6, 1, bias=False), dtype="float64", seed=1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(0.1, momentum))
    strategy = RWalk(trainer, 0.4, alpha=alpha, every=every, eps=1e-3)
    start = model.flat_parameters.copy()
    tasks = [(rng.standard_normal((20, 6)), rng.standard_normal(20), n) for n in (7, 8, 5)]
    for index, (x, y, steps) in enumerate(tasks):
        strategy.fit(Task(x, y, x, y, index), steps=steps, batch_size=20)

    def slope(w, x, y):
        return 2 * x.T @ (x @ w - y) / len(y)

    theta, importance = walked(tasks, start, slope, 0.1, momentum, 0.4, alpha, every, 1e-3)
    np.testing.assert_allclose(model.flat_parameters, theta, rtol=1e-11)
    np.testing.assert_allclose(strategy.importance, importance, rtol=1e-10)
    assert strategy.importance.min() > 0
    assert 1 <= strategy.importance.max() <= 2
    if (alpha, every, momentum) == (0.3, 3, 0.9):
        assert strategy.state_dict()["scores"].min() < 0
    assert trainer._core.walk() is None  # nothing is left of it after a task


@pytest.mark.filterwarnings("ignore:task . brings new classes", "ignore:the penalty of")
@pytest.mark.parametrize(
    "make",
    [
        lambda t, s: RWalk(t, 1.0, every=3),
        lambda t, s: continual.Replay(RWalk(t, 1.0, every=2), 20),
    ],
)
def test_stopped_and_resumed(make, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(make, scenario, trainer, tmp_path)


def test_permuted_digits_are_remembered():
    """A margin of the mean accuracy over three tasks and seeds; measured: .06."""
    pytest.importorskip("sklearn")
    plain = accuracy_on_permuted_digits(continual.Naive)
    assert accuracy_on_permuted_digits(lambda t: RWalk(t, 1.0)) >= plain + 0.03


def test_it_needs_an_optimizer_that_works_element_by_element():
    muon = optim.Muon(matrices="all")
    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 6)), loss=nn.MSELoss(), optimizer=muon)
    with pytest.raises(UnsupportedError, match="element by element"):
        RWalk(trainer, 1.0)


def test_of_a_failed_task_nothing_is_left(rng):
    x, y = rng.standard_normal((20, 3)), np.arange(20) % 4
    scenario = continual.split(x, y, x, y, 2, "class")
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(1e38))
    strategy = RWalk(trainer, 1.0)
    before = str(strategy.state_dict())
    with pytest.raises(tw.errors.DivergedError):
        continual.run(strategy, scenario, epochs=5)
    assert str(strategy.state_dict()) == before


@pytest.mark.filterwarnings("ignore:the penalty of RWalk was 0.0")
def test_the_first_update_of_all_may_be_that_of_a_later_task(rng):
    """No row of the first one counts, so it has no step, and the average begins with the second."""
    x, y = rng.standard_normal((4, 2)), np.array([0, 1, 2, 0])
    found = []
    for labels in ([], [[-100, -100, 1, 2]]):
        model = nn.Sequential(nn.Linear(2, 3), dtype="float64", seed=0)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        strategy = RWalk(trainer, 1.0, alpha=0.3, every=1)
        for index, (those, batch_size) in enumerate([*((it, 2) for it in labels), (y, 4)]):
            task = Task(x, np.array(those), x, y, index, classes=(0, 1, 2))
            strategy.begin(task)
            strategy.learn(task, steps=1, batch_size=batch_size, shuffle=False)
            strategy.end(task)
        assert trainer.optimizer.steps == 1
        found.append(strategy.state_dict()["fisher"])
    np.testing.assert_array_equal(*found)


def test_intervals_go_on_where_a_strategy_resets_the_optimizer(rng):
    """As that of docs/continual/custom.md, which begins each task with a new one: without momentum,
    that changes nothing but the count of its updates."""

    class Reset(continual.Strategy):
        def __init__(self, inner):
            super().__init__(inner)
            self.fresh = self.trainer.optimizer.state_dict()

        def begin(self, task):
            super().begin(task)
            self.trainer.optimizer.load_state_dict(self.fresh, self.trainer.model)

    y, draws = np.arange(40) % 4, rng.standard_normal((2, 40, 5))
    tasks = [Task(x, y, x, y, index) for index, x in enumerate(draws)]
    found = []
    for wrap in (continual.Naive, Reset):
        model = nn.Sequential(nn.Linear(5, 4), dtype="float64", seed=0)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        walk = RWalk(trainer, 1.0, every=5)
        strategy = wrap(walk)
        for task in tasks:
            strategy.fit(task, steps=20, batch_size=10)
        found.append((walk._scores, model.flat_parameters))
    for plain, reset in zip(*found, strict=True):
        np.testing.assert_array_equal(reset, plain)
