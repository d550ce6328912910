"""Strategies that change options of the optimizer, as they go."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import Strategy

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 8)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + 2 * (X[:, 1] > 0)
SCENARIO = continual.from_arrays([(X, Y)] * 2)


def learner():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), seed=1)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.AdamW(weight_decay=0.01))


class Decays(Strategy):
    """Sets the weight decay of each task."""

    stop_at = None

    def learn(self, task, *, steps, start=0, **options):
        if start == 0:
            self.trainer.optimizer.weight_decay = 0.1 * (task.index + 1)
        if (task.index, start) == self.stop_at:
            raise KeyboardInterrupt
        return super().learn(task, steps=steps, start=start, **options)


def test_a_run_is_resumed_with_what_was_set(tmp_path):
    options = {"epochs": 3, "batch_size": 25, "save_every": 5}
    whole = Decays(learner())
    continual.run(whole, SCENARIO, **options, checkpoint=tmp_path / "whole")
    stopped = Decays(learner())
    stopped.stop_at = (1, 5)
    with pytest.raises(KeyboardInterrupt):
        continual.run(stopped, SCENARIO, **options, checkpoint=tmp_path / "part")
    again = Decays(learner())
    continual.run(again, SCENARIO, **options, checkpoint=tmp_path / "part", resume=True)
    assert again.trainer.optimizer.weight_decay == 0.2
    model, expected = again.trainer.model, whole.trainer.model
    np.testing.assert_array_equal(model.flat_parameters, expected.flat_parameters)


@pytest.mark.parametrize(
    "make", [continual.FromScratch, lambda trainer: continual.GDumb(trainer, 50)]
)
def test_one_that_begins_anew_begins_with_the_first_options(make):
    strategy = make(learner())
    strategy.fit(SCENARIO[0])
    strategy.trainer.optimizer.weight_decay = 0.3
    strategy.fit(SCENARIO[1])
    assert strategy.trainer.optimizer.weight_decay == 0.01


def test_a_task_that_is_undone_has_set_nothing():
    class Wild(Strategy):
        def learn(self, task, **options):
            if task.index == 1:
                optimizer = self.trainer.optimizer
                optimizer.weight_decay, optimizer.betas, optimizer.lr = 0.9, (0.1, 0.2), 1e38
            return super().learn(task, **options)

    strategy = Wild(learner())
    strategy.fit(SCENARIO[0])
    before = repr(strategy.trainer.optimizer)
    with pytest.raises(tw.DivergedError):
        strategy.fit(SCENARIO[1])
    assert repr(strategy.trainer.optimizer) == before
    strategy.trainer.step(X, Y)


def test_a_second_trainer_has_them_in_its_state():
    class Helped(Strategy):
        gathers = ("helper",)

        def __init__(self, inner):
            super().__init__(inner)
            self.helper = learner()

        def step(self, x, y):
            self.helper.optimizer.weight_decay = 0.5
            self.helper.step(x, y)
            return super().step(x, y)

    strategy, again = Helped(learner()), Helped(learner())
    strategy.step(X, Y)
    again.load_state_dict(strategy.state_dict())
    again.trainer.model.follow(strategy.trainer.model)
    assert again.helper.optimizer.weight_decay == 0.5
    for one in (strategy, again):
        one.step(X, Y)
    model, expected = again.helper.model, strategy.helper.model
    np.testing.assert_array_equal(model.flat_parameters, expected.flat_parameters)
