"""Ctrl-C leaves strategies as they were before what it ended, and in step with their trainer."""

import itertools

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim

from ..helpers import squares
from ..test_interrupts import interrupted

X = np.random.default_rng(0).standard_normal((24, 2)).astype("float32")
Y = np.arange(24) % 2
TASK = continual.Task(X, Y, X, Y)


def learner(**options):
    options = {"loss": nn.CrossEntropyLoss(), "optimizer": optim.SGD(lr=0.1), **options}
    return tw.Trainer(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)), **options)


class Stops(continual.Strategy):
    """Is interrupted at the end of a task, when the strategies inside have recorded it."""

    stops = True

    def end(self, task):
        super().end(task)
        if self.stops:
            raise KeyboardInterrupt


def run(strategy):
    continual.run(strategy, continual.Scenario((TASK,), kind="task"))


@pytest.mark.parametrize("learn", [lambda s: s.fit(TASK), run], ids=["fit", "run"])
@pytest.mark.parametrize(
    ("make", "gathered"),
    [
        (lambda t: continual.EWC(t, 1.0), lambda s: s.importance is not None),
        (lambda t: continual.SynapticIntelligence(t, 1.0), lambda s: s.importance is not None),
        (
            lambda t: continual.OnlineLaplace(t, 1.0),
            lambda s: s.trainer._core.has_coupled_penalty(),
        ),
        (lambda t: continual.Replay(t, 9), lambda s: len(s.buffer)),
        (lambda t: continual.OGD(t, 5), lambda s: s.directions is not None),
        (lambda t: continual.PackNet(t), lambda s: (s.owner >= 0).any()),
    ],
    ids=["EWC", "SynapticIntelligence", "OnlineLaplace", "Replay", "OGD", "PackNet"],
)
def test_a_task_has_ended_for_all_strategies_or_for_none(make, gathered, learn):
    inner = make(learner())
    strategy = Stops(inner)
    with pytest.raises(KeyboardInterrupt):
        learn(strategy)
    assert (inner._ended, inner._begun, strategy._begun) == (0, None, None)
    assert not gathered(inner)
    steps = inner.trainer.optimizer.steps
    assert steps
    strategy.stops = False
    strategy.fit(TASK)
    assert inner._ended == 1
    assert gathered(inner)
    assert inner.trainer.optimizer.steps > steps


def test_an_end_that_cannot_be_undone_is_noted():
    class Forgetful(Stops):
        def load_state_dict(self, state):
            raise RuntimeError("lost")

    with pytest.raises(KeyboardInterrupt) as caught:
        Forgetful(learner()).fit(TASK)
    assert caught.value.__notes__ == [
        "The steps that were taken remain, but what Forgetful has gathered could not be restored:"
        " lost"
    ]


def test_a_task_that_is_looked_at_changes_no_competing_classes():
    class Samples:
        def __len__(self):
            return len(X)

        def __array__(self, *_, **__):
            raise KeyboardInterrupt

    strategy = continual.Naive(learner())
    before = strategy.trainer.loss
    with pytest.raises(KeyboardInterrupt):
        strategy.fit(continual.Task(Samples(), Y, X, Y, active=(0, 1)))
    assert strategy.trainer.loss == before


@pytest.mark.parametrize("make", [continual.L2, continual.OnlineLaplace])
def test_a_strength_is_set_in_the_trainer_too_or_not_at_all(make):
    """Else the strategy would take its own penalty for that of another, and refuse the next."""
    found = []
    for calls in itertools.count():
        strategy = make(learner(), 1.0)
        strategy.fit(TASK)
        trainer = strategy.trainer
        trainer.model.flat_parameters += np.float32(0.1)
        penalty = trainer.penalty
        error = interrupted(lambda strategy=strategy: setattr(strategy, "strength", 2.0), calls)
        ratio = trainer.penalty / penalty
        assert ratio == pytest.approx(strategy.strength), f"after {calls} calls"
        strategy.begin(TASK)
        found.append(strategy.strength)
        if error is None:
            break
    assert found == sorted(found)
    assert {*found} == {1.0, 2.0}


@pytest.mark.parametrize(
    ("loss", "y"), [(nn.CrossEntropyLoss(), Y), (squares, X)], ids=["core", "custom"]
)
def test_a_strategy_is_restored_if_the_optimizer_refuses_the_model(loss, y):
    """Loss and state could not be set again, which hid what was wrong and ended the rest."""
    options = {"loss": loss, "optimizer": optim.Muon(lr=0.5), "accumulate_grad_batches": 3}
    strategy = continual.Replay(learner(**options), 9, weighting="rows")
    with pytest.raises(tw.ArgumentError, match="Muon has no weight to work on") as caught:
        strategy.fit(continual.Task(X, y, X, y), batch_size=8)
    assert caught.value.__context__ is None
    assert (strategy._ended, strategy._begun, len(strategy.buffer)) == (0, None, 0)
    optimizer = strategy.trainer.optimizer
    assert (optimizer.lr, optimizer.steps) == (0.5, 0)


@pytest.mark.parametrize("make", [continual.GEM, continual.AGEM, continual.OGD])
def test_gradients_are_projected_no_longer_than_a_step(make):
    """They were for as long as the traceback was kept, also those of the trainer alone."""
    seen = set()
    for calls in itertools.count():
        strategy = make(learner(), 9)
        strategy.fit(TASK)
        trainer = strategy.trainer
        error = interrupted(lambda strategy=strategy: strategy.step(X, 1 - Y), calls)
        alone = trainer.copy()
        for it in (trainer, alone):
            it.step(X, 1 - Y)
        ours, others = (it.model.flat_parameters for it in (trainer, alone))
        np.testing.assert_array_equal(ours, others, f"after {calls} calls")
        seen.add(trainer.optimizer.steps)
        if error is None:
            break
    assert len(seen) == 2


def test_of_an_interrupted_end_changed_weights_remain():
    """As the documentation of `fit` says of those that PackNet has pruned."""
    inner = continual.PackNet(learner(), prune=0.5, retrain=0)
    with pytest.raises(KeyboardInterrupt):
        Stops(inner).fit(TASK)
    weights = inner.trainer.model.state_dict()["0.weight"]
    assert (weights == 0).sum() == weights.size // 2
    assert (inner.owner == -1).all()


def test_gradients_for_an_update_that_is_not_made_any_more_are_dropped():
    """They are of a task that will not end, and would be an update when the next one is learned."""

    class Interrupted(continual.Strategy):
        stops = True

        def step(self, x, y):
            loss = super().step(x, y)
            if self.stops:
                raise KeyboardInterrupt
            return loss

    strategy = Interrupted(learner(accumulate_grad_batches=2))
    with pytest.raises(KeyboardInterrupt):
        run(strategy)
    strategy.stops = False
    strategy.fit(TASK, steps=2, batch_size=12)
    assert strategy.trainer.optimizer.steps == 1


@pytest.mark.parametrize("learn", [lambda s: s.fit(TASK), run], ids=["fit", "run"])
def test_gradients_of_a_stream_wait_on_if_a_task_did_not_begin(learn):
    class Interrupted(continual.Strategy):
        def begin(self, task):
            raise KeyboardInterrupt

    strategy = Interrupted(learner(accumulate_grad_batches=2))
    strategy.step(X, Y)
    with pytest.raises(KeyboardInterrupt):
        learn(strategy)
    strategy.step(X, Y)
    assert strategy.trainer.optimizer.steps == 1
