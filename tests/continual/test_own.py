"""Strategies of one's own: what they forget is said by the name of their class."""

import contextlib
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import Replay, Strategy
from thalweg.errors import ArgumentError

X = np.random.default_rng(0).standard_normal((20, 2)).astype("float32")
Y = np.arange(20) % 3
TASK = continual.Task(X, Y, X, Y)
SCENARIO = continual.from_arrays([(X, Y)] * 2)


def learner():
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))


@contextlib.contextmanager
def warnings_of(text):
    """Give the warnings with some text in them, when it is left, and let no other out."""
    found = []
    with warnings.catch_warnings(record=True, action="always") as caught:
        yield found
    found += [one for one in caught if text in str(one.message)]


class NoBegin(Strategy):
    def begin(self, task):
        pass


class NoEnd(Strategy):
    def end(self, task):
        pass


class EndsLikeItsBase(NoEnd):
    def end(self, task):
        super().end(task)


class Counts(Strategy):
    """Overrides all of them, and calls all of them."""

    def __init__(self, inner):
        super().__init__(inner)
        self.calls = []

    def begin(self, task):
        super().begin(task)
        self.calls.append("begin")

    def learn(self, task, **options):
        self.calls.append("learn")
        return super().learn(task, **options)

    def end(self, task):
        self.calls.append("end")
        super().end(task)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (NoBegin, r"^NoBegin\.begin has not reached .*must call super\(\)\.begin\(task\)"),
        (NoEnd, r"^NoEnd\.end has not reached Strategy\.end"),
        (EndsLikeItsBase, r"^EndsLikeItsBase\.end has not reached .* what that comes to"),
        (lambda inner: continual.Naive(Counts(NoEnd(inner))), r"^NoEnd\.end has not reached"),
    ],
)
@pytest.mark.parametrize(
    "call", [lambda s: s.fit(TASK), lambda s: continual.run(s, SCENARIO)], ids=["fit", "run"]
)
def test_what_does_not_ask_the_inner_one_is_named(make, message, call):
    """Without, it would switch off what it is around, and nothing would say so."""
    with pytest.raises(ArgumentError, match=message):
        call(make(Replay(learner(), 9)))


def test_what_asks_the_inner_one_changes_nothing():
    plain, counting = Replay(learner(), 9), Counts(Replay(learner(), 9))
    for strategy in (plain, counting):
        continual.run(strategy, SCENARIO, epochs=2)
    assert counting.calls == ["begin", "learn", "learn", "end"] * 2
    np.testing.assert_array_equal(
        plain.trainer.model.flat_parameters, counting.trainer.model.flat_parameters
    )


def test_a_base_that_was_not_made_is_asked_for():
    class Unmade(Strategy):
        def __init__(self, inner):
            self.around = inner

    for call in (
        lambda s: s.fit(TASK),
        lambda s: continual.run(s, SCENARIO),
        lambda s: continual.EWC(s, 1.0),
    ):
        with pytest.raises(
            AttributeError, match=r"^Unmade has no \w+ yet: its __init__ must call super\(\)\.__in"
        ):
            call(Unmade(learner()))


def test_learn_takes_what_it_is_called_with():
    with pytest.raises(
        ArgumentError, match=r"^Short\.learn does not take start, shuffle, drop_last"
    ):

        class Short(Strategy):
            def learn(self, task, *, steps, batch_size=32):
                return super().learn(task, steps=steps, batch_size=batch_size)


def test_methods_are_called_as_they_are_written():
    """By whoever knows more of them than `fit` and `run` do."""

    class Mine(Strategy):
        def begin(self, task, rate=None):
            super().begin(task)
            self.trainer.optimizer.lr = rate

        def learn(self, task, steps=2, **options):
            return {"loss": 0.5, "steps": steps}

    strategy = Mine(learner())
    strategy.begin(TASK, 0.25)
    assert strategy.trainer.optimizer.lr == 0.25
    assert strategy.learn(TASK, 3) == {"loss": 0.5, "steps": 3}


@pytest.mark.parametrize("figures", [None, 0.5, {"loss": "low"}, [0.5]])
def test_learn_gives_figures(figures):
    class Gives(Strategy):
        def learn(self, task, **options):
            return figures

    with pytest.raises(ArgumentError, match=r'^Gives\.learn must give figures .*\{"loss": 0\.5\}'):
        Gives(learner()).fit(TASK)


@pytest.mark.parametrize("loss", [0.5, np.float32(0.5), [0.5], np.array([0.25, 0.5])])
def test_figures_are_those_of_a_history(loss):
    class Gives(Strategy):
        def learn(self, task, **options):
            return {"loss": loss, "mine": 3}

    history = Gives(learner()).fit(TASK, epochs=2)
    assert history == {"loss": [0.5, 0.5], "mine": [3.0, 3.0]}
    result = continual.run(continual.Naive(Gives(learner())), SCENARIO)
    assert result.histories[1]["mine"] == [3.0]


@pytest.mark.parametrize("replays", [False, True])
def test_one_that_replays_says_so(replays):
    """Its samples of earlier tasks tell old classes from new ones."""

    class Mine(Strategy):
        pass

    Mine.replays = replays
    scenario = continual.split(X, Y, X, Y, tasks=3, kind="class")
    for make in (
        lambda: Mine(continual.L2(learner(), 1.0)),
        lambda: continual.L2(continual.Naive(Mine(learner())), 1.0),
    ):
        with warnings_of("brings new classes") as found:
            continual.run(make(), scenario)
        assert bool(found) == (not replays)


class OwnUpdates(Strategy):
    """Makes its updates by itself."""

    def __init__(self, inner, how="optimizer"):
        super().__init__(inner)
        self.how = how

    def learn(self, task, *, steps, start, batch_size, shuffle=True, drop_last=False):
        trainer = self.trainer
        if self.how == "fit":
            return {"loss": trainer.fit(task.x, task.y)["loss"]}
        if self.how == "step":
            return {"loss": trainer.step(task.x, task.y)}
        trainer.model.zero_grad()
        loss = trainer.backward(task.x, task.y)
        trainer.update() if self.how == "update" else trainer.optimizer.step(trainer.model)
        return {"loss": loss, **({"penalty": trainer.penalty} if self.how == "said" else {})}


@pytest.mark.parametrize(
    ("how", "times"), [("optimizer", 1), ("said", 0), ("update", 0), ("step", 0), ("fit", 0)]
)
def test_updates_that_do_not_know_of_the_penalty_are_warned_about_once(how, times):
    strategy = continual.L2(OwnUpdates(learner(), how), 1.0)
    with warnings_of("inside of L2 calls optimizer.step, which knows of no penalty") as found:
        for index in range(4):
            strategy.fit(continual.Task(X, Y, X, Y, index))
    assert len(found) == times
    assert len(strategy.ratios) == (3 if how == "said" else 0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda t: continual.EWC(Replay(t, 200), 100),
            "EWC(Replay(Trainer(...), 200), 100, fisher='exact')",
        ),
        (
            lambda t: continual.GDumb(t, continual.BalancedBuffer(9)),
            "GDumb(Trainer(...), BalancedBuffer(9))",
        ),
        (lambda t: continual.XdG(t, share=0.5), "XdG(Trainer(...), share=0.5)"),
        (lambda t: continual.OnlineEWC(t, 0.5), "OnlineEWC(Trainer(...), 0.5, fisher='exact')"),
        (lambda t: Replay(t, 9, batch_size=7), "Replay(Trainer(...), 9, batch_size=7)"),
        (lambda t: continual.Joint(t, SCENARIO), "Joint(Trainer(...), Scenario(...))"),
        (lambda t: OwnUpdates(Counts(t)), "OwnUpdates(Counts(Trainer(...)))"),
    ],
)
def test_a_strategy_is_shown_as_it_was_made(make, text):
    assert repr(make(learner())) == text
