"""Strategies of one's own: what they forget is said by the name of their class."""

import contextlib
import copy
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import Replay, Strategy
from thalweg.errors import ArgumentError, UnsupportedError

X = np.random.default_rng(0).standard_normal((20, 2)).astype("float32")
Y = np.arange(20) % 3
TASK = continual.Task(X, Y, X, Y)
SCENARIO = continual.from_arrays([(X, Y)] * 2)


def learner(**options):
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    options = {"loss": nn.CrossEntropyLoss(), "optimizer": optim.SGD(lr=0.1), **options}
    return tw.Trainer(model, **options)


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
        (NoBegin, r"^NoBegin\.begin did not reach .*must call super\(\)\.begin\(task\)"),
        (NoEnd, r"^NoEnd\.end did not reach Strategy\.end"),
        (EndsLikeItsBase, r"^EndsLikeItsBase\.end did not reach .* each of its bases"),
        (lambda inner: continual.Naive(Counts(NoEnd(inner))), r"^NoEnd\.end did not reach"),
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
        ArgumentError, match=r"^Short\.learn does not accept start, shuffle, drop_last"
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

    with pytest.raises(
        ArgumentError, match=r'^Gives\.learn must return the figures .*\{"loss": 0\.5\}'
    ):
        Gives(learner()).fit(TASK)


@pytest.mark.parametrize("loss", [0.5, np.float32(0.5), [0.5], np.array([0.25, 0.5])])
def test_figures_are_those_of_a_history(loss):
    class Gives(Strategy):
        def learn(self, task, **options):
            return {"loss": loss, "mine": 3}

    history = Gives(learner()).fit(TASK, epochs=2)
    seconds = history.pop("seconds")  # the others do not say how long they took
    assert history == {"loss": [0.5, 0.5], "mine": [3.0, 3.0]}
    result = continual.run(continual.Naive(Gives(learner())), SCENARIO)
    assert result.histories[1]["mine"] == [3.0]
    assert len(seconds) == 2
    assert min(seconds) > 0
    assert 0 < result.seconds < 10


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
    with warnings_of("inside L2 calls optimizer.step, which ignores the penalty") as found:
        for index in range(4):
            strategy.fit(continual.Task(X, Y, X, Y, index))
    assert len(found) == times
    assert len(strategy.ratios) == (0 if how == "optimizer" else 3)


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


class Blind(Strategy):
    """Takes its steps by itself, without the strategies inside."""

    def learn(self, task, *, steps, **options):
        for _ in range(steps):
            self.trainer.model.zero_grad()
            loss = self.trainer.backward(task.x, task.y)
            self.trainer.update()
        return {"loss": loss}


class BySuper(Blind):
    def learn(self, task, **options):
        if not task.index:
            return Strategy.learn(self, task, **options)
        return super().learn(task, **options)


class ByInnerStep(Strategy):
    def learn(self, task, *, steps, **options):
        return {"loss": [self.inner.step(task.x, task.y) for _ in range(steps)]}


class ByInnerLearn(Strategy):
    def learn(self, task, **options):
        return self.inner.learn(task, **options)


class Own(Strategy):
    """Takes part in every step."""

    def step(self, x, y):
        return super().step(x, y)


IN_STEPS = {
    "Replay": lambda t: Replay(t, 9),
    "AGEM": lambda t: continual.AGEM(t, 9),
    "GEM": lambda t: continual.GEM(t, 9),
    "OGD": lambda t: continual.OGD(t, 5),
    "ContinualBackprop": continual.ContinualBackprop,
    "DER": lambda t: continual.DER(t, 9),
    "LwF": continual.LwF,
    "GDumb": lambda t: continual.GDumb(t, 9),
    "Cumulative": lambda t: continual.Cumulative(t, SCENARIO),
    "PackNet": continual.PackNet,
    "Own": Own,
}


@pytest.mark.parametrize("name", IN_STEPS)
@pytest.mark.filterwarnings("ignore:Blind is told which task")
@pytest.mark.parametrize("between", [lambda s: s, continual.Naive])
def test_steps_without_what_takes_part_in_each_are_refused(name, between):
    """It would be switched off, and nothing would say so."""
    message = rf"^Blind\.learn takes its steps without {name} inside it.* super\(\)\.learn"
    strategy = Blind(between(IN_STEPS[name](learner())))
    with pytest.raises(ArgumentError, match=message):
        continual.run(strategy, SCENARIO)
    strategy = continual.Naive(Blind(IN_STEPS[name](learner())))
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(ArgumentError, match=message):
        strategy.fit(TASK)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


def test_steps_that_reach_what_is_inside_in_the_first_task_only():
    with pytest.raises(ArgumentError, match=r"^BySuper\.learn takes its steps without Replay"):
        continual.run(BySuper(Replay(learner(), 9)), SCENARIO)


@pytest.mark.parametrize(
    "inside",
    [
        lambda t: t,
        continual.Naive,
        lambda t: continual.L2(t, 0.1),
        lambda t: continual.SynapticIntelligence(t, 0.1),
        continual.XdG,
        continual.FromScratch,
        continual.ShrinkAndPerturb,
    ],
)
def test_own_steps_are_fine_around_what_acts_through_the_trainer(inside):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = continual.run(Blind(inside(learner())), SCENARIO)
    assert len(result.ends) == 2


def test_the_choice_of_rows_is_not_left_out_either():
    message = r"^Blind\.learn takes its steps without OwnRows inside it.* super\(\)\.learn"
    with pytest.raises(ArgumentError, match=message):
        Blind(OwnRows(learner())).fit(TASK)

    class Alone(Strategy):
        def step(self, x, y):
            sizes.append(len(x))
            return self.trainer.step(x, y)

    sizes = []
    Alone(OwnRows(learner())).fit(TASK)  # which is asked for the rows of the steps
    assert sizes == [7]


@pytest.mark.parametrize("make", [ByInnerLearn, ByInnerStep, Counts])
def test_steps_may_reach_what_is_inside_in_several_ways(make):
    for inside in (lambda t: Replay(t, 9), lambda t: continual.DER(t, 9), Own):
        continual.run(make(inside(learner())), SCENARIO)
    if make is not ByInnerStep:
        continual.run(make(Blind(learner())), SCENARIO)


class Steps(Strategy):
    """Overrides only `step`, and counts the rows that it sees."""

    gathers = ("seen",)

    def __init__(self, inner):
        super().__init__(inner)
        self.seen = []

    def step(self, x, y):
        self.seen.append(len(x))
        return super().step(x, y)


def test_a_strategy_with_only_a_step_learns_tasks_by_it():
    """On the batches that the trainer would have taken, and with the same result."""
    options = {"epochs": 3, "batch_size": 8}
    plain, own = continual.Naive(learner()), Steps(learner())
    one, other = (continual.run(s, SCENARIO, **options) for s in (plain, own))
    assert own.seen == [8, 8, 4] * 6
    np.testing.assert_allclose(
        own.trainer.model.flat_parameters, plain.trainer.model.flat_parameters, rtol=1e-5
    )
    assert [len(history["loss"]) for history in other.histories] == [3, 3]
    np.testing.assert_allclose(other.histories[1]["loss"], one.histories[1]["loss"], rtol=1e-5)
    assert 0 < other.seconds < 10
    assert Steps(learner()).fit(TASK, steps=5, batch_size=8, drop_last=True).epochs == 1


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_in_which_no_row_counts_are_not_given_to_a_step(accumulate):
    """They would be refused there; updates are of the batches at their positions, as for others."""
    y = np.where(np.arange(20) % 7 < 5, -100, Y)
    scenario, found = continual.Scenario([continual.Task(X, y, X, Y)]), []
    for kind in (continual.Naive, Steps):
        strategy = kind(learner(accumulate_grad_batches=accumulate))
        result = continual.run(strategy, scenario, epochs=3, batch_size=1)
        found.append((strategy.trainer.model.flat_parameters, result.histories[0]["loss"]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert len(strategy.seen) == 3 * np.count_nonzero(y >= 0)


class OwnRows(Strategy):
    """Learns a third of a task's rows."""

    def task_to_learn(self, task):
        return task.with_data(task.x[::3], task.y[::3])


@pytest.mark.parametrize(
    "make",
    [
        OwnRows,
        lambda t: Steps(OwnRows(t)),
        lambda t: continual.EWC(OwnRows(t), 1.0),
        lambda t: continual.AGEM(OwnRows(t), 12, batch_size=2),
        lambda t: OwnRows(Replay(t, 9)),
    ],
    ids=["alone", "in steps", "inside EWC", "inside AGEM", "around Replay"],
)
@pytest.mark.filterwarnings("ignore:the penalty of")
def test_pauses_do_not_matter_where_other_rows_are_learned(make):
    """Passes are over 7 rows, so updates of two batches end after 2, 4, 6, 7, 9, ... steps."""
    found = []
    for options in ({}, {"evaluate_every": 3}, {"evaluate_every": 5}):
        strategy = make(learner(accumulate_grad_batches=2))
        continual.run(strategy, SCENARIO, steps=20, batch_size=1, **options)
        found.append(strategy.trainer.model.flat_parameters)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_other_rows_are_those_of_a_task_that_has_them():
    """Steps, passes and orders are the same."""
    found = []
    for strategy, task in (
        (continual.Naive(learner()), TASK.with_data(X[::3], Y[::3])),
        (OwnRows(learner()), TASK),
    ):
        strategy.begin(task)
        strategy.learn(task, steps=10, batch_size=2)
        found.append(strategy.trainer.model.flat_parameters)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "given", [(X, Y), None, continual.Task(X, Y, X, Y, 1)], ids=["arrays", "None", "another index"]
)
def test_other_rows_come_with_the_index_of_the_task(given):
    class Wrong(Strategy):
        def task_to_learn(self, task):
            return given

    strategy = Wrong(learner())
    message = r"^Wrong\.task_to_learn must return a task with the same index, .*with_data"
    with pytest.raises(ArgumentError, match=message):
        strategy.fit(TASK)
    assert strategy.trainer.optimizer.steps == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: Replay(OwnRows(t), 9), "in pieces.*; put OwnRows around Replay instead$"),
        (lambda t: Replay(continual.L2(OwnRows(t), 1.0), 9), "; put OwnRows around Replay"),
        (lambda t: OwnRows(continual.GDumb(t, 9)), "those of OwnRows would be left out$"),
        (lambda t: OwnRows(continual.Cumulative(t, SCENARIO)), "those of OwnRows would be left"),
        (lambda t: OwnRows(continual.Joint(t, SCENARIO)), "those of OwnRows would be left out$"),
    ],
    ids=["inside Replay", "deep inside Replay", "around GDumb", "around Cumulative", "Joint"],
)
def test_rows_cannot_be_chosen_of_pieces_nor_where_others_are_learned(make, message):
    """Which rows of a piece were learned would depend on where a run pauses."""
    with pytest.raises(UnsupportedError, match=rf"around \w+ is not supported: .*{message}"):
        make(learner())
    OwnRows(OwnRows(learner())).fit(TASK)


def test_what_a_base_behind_one_of_ours_overrides_counts_too():
    class Chooses(continual.L2, OwnRows):
        pass

    class TakesSteps(continual.Naive, Steps):
        pass

    with pytest.raises(UnsupportedError, match="put Chooses around Replay instead"):
        Replay(Chooses(learner(), 1.0), 9)
    strategy = TakesSteps(learner())
    strategy.fit(TASK, batch_size=8)
    assert strategy.seen == [8, 8, 4]


@pytest.mark.parametrize("base", [OwnRows, ByInnerLearn])
def test_steps_without_what_such_a_base_overrides_are_refused(base):
    """That one defines `step`, but what matters is `task_to_learn` or `learn`."""

    class Behind(continual.EWC, base):
        pass

    with pytest.raises(ArgumentError, match=r"^Blind\.learn takes its steps without Behind inside"):
        Blind(Behind(learner(), 1.0)).fit(TASK)


@pytest.mark.parametrize("base", [continual.Cumulative, continual.Joint])
def test_rows_of_all_tasks_are_chosen_task_by_task(base):
    class Half(base):
        def task_to_learn(self, task):
            task = super().task_to_learn(task)
            return task.with_data(task.x[::2], task.y[::2])

    with pytest.raises(UnsupportedError, match=r"^Half cannot override task_to_learn.* scenario"):
        Half(learner(), SCENARIO)
    halves = continual.Scenario([task.with_data(task.x[::2], task.y[::2]) for task in SCENARIO])
    continual.run(base(learner(), halves), halves)


@pytest.mark.parametrize("around", [lambda t: Replay(t, 9), Steps])
def test_weights_of_other_rows_are_not_lost_silently(around):
    class Weighted(Strategy):
        def task_to_learn(self, task):
            return task.with_data(task.x, task.y, np.linspace(0, 1, len(task.y)))

    plain, weighted = continual.Naive(learner()), Weighted(learner())
    for strategy in (plain, weighted):
        strategy.fit(TASK)
    found, other = (strategy.trainer.model.flat_parameters for strategy in (plain, weighted))
    assert (found != other).any()
    inside = around(learner())
    with pytest.raises(UnsupportedError, match=rf"^{type(inside).__name__} does not .*weight"):
        Weighted(inside).fit(TASK)
    assert inside.trainer.optimizer.steps == 0


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("make", [continual.Naive, Steps])
@pytest.mark.parametrize("ignored", [-100, 0], ids=["ignored labels", "classes of weight 0"])
def test_steps_in_which_no_row_counts_have_no_figures(ignored, make, accumulate):
    """For parts of a pass, a complete one and several, in any order."""
    none = TASK.with_data(X, np.full(20, ignored))
    for options in ({"steps": 1}, {"steps": 4}, {"steps": 9}, {"steps": 4, "shuffle": False}):
        trainer = learner(accumulate_grad_batches=accumulate)
        trainer.loss = nn.CrossEntropyLoss(weight=[0.0, 1.0, 1.0])
        strategy = make(trainer)
        strategy.begin(TASK)
        history = strategy.learn(none, batch_size=5, **options)
        assert (history, trainer.optimizer.steps) == ({}, 0)
        with pytest.raises(KeyError, match="there are none, as no row counts in any of the steps"):
            history["loss"]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.tile([1.0, -1.0], 10), tw.DataError, r"\[1\] is -1; a finite number >= 0"),
        (np.zeros((20, 2)), tw.ShapeError, r"must be 1-D.* \(20, 2\)"),
        (np.full(20, "a"), tw.DtypeError, "expected real numbers"),
    ],
    ids=["negative", "2-D", "text"],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_wrong_weights_are_not_taken_for_weights_of_nothing(weights, error, message, steps):
    strategy = continual.Naive(learner())
    strategy.begin(TASK)
    with pytest.raises(error, match=f"^sample_weight.*{message}"):
        strategy.learn(TASK.with_data(X, Y, weights), steps=steps, batch_size=5)


@pytest.mark.parametrize(
    "make",
    [
        Steps,
        lambda t: continual.Naive(Steps(t)),
        lambda t: Replay(t, 9),
        lambda t: continual.GDumb(t, 9),
        lambda t: continual.AGEM(t, 9),
        lambda t: continual.GEM(t, 9),
        lambda t: continual.OGD(t, 5),
        lambda t: continual.DER(t, 9),
        continual.LwF,
    ],
)
@pytest.mark.parametrize("tasks", [0, 1])
def test_weights_that_begin_has_not_seen_are_refused_too(make, tasks):
    """Else they would be used in the first task, and ignored in the next ones, or in all."""
    strategy = make(learner())
    for task in SCENARIO[:tasks]:
        strategy.fit(task)
    task = SCENARIO[tasks]
    strategy.begin(task)
    before = strategy.trainer.model.flat_parameters
    weighted = task.with_data(X, Y, np.linspace(0, 1, 20))
    for call in (lambda: strategy.learn(weighted, steps=4), lambda: strategy.end(weighted)):
        with pytest.raises(UnsupportedError, match="does not support tasks with sample_weight"):
            call()
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    strategy.learn(task, steps=4)
    strategy.end(task)


@pytest.mark.parametrize(
    "inside", [lambda t: continual.OGD(t, 5), lambda t: continual.OnlineLaplace(t, 1.0)]
)
def test_weights_of_replay_reach_those_that_take_none_with_a_task(inside):
    """They are weights of steps; what these two compute when a task ends has none."""
    strategy = Replay(inside(learner()), 9)
    for task in SCENARIO:
        strategy.fit(task)
    assert strategy.trainer.optimizer.steps == 2


def test_errors_about_a_choice_of_rows_name_its_rows():
    """And not those of a batch of it: all are looked at before the first step of a task."""

    class Gives(Strategy):
        x = X

        def task_to_learn(self, task):
            return task.with_data(self.x, Y)

    strategy = Gives(learner())
    strategy.fit(SCENARIO[0])
    strategy.x = np.where(np.arange(20)[:, None] == 13, np.nan, X)
    for around in (strategy, Steps(strategy)):
        around.begin(SCENARIO[1])
        with pytest.raises(tw.DataError, match=r"^x\[13, 0\] is NaN"):
            around.learn(SCENARIO[1], steps=1, batch_size=5)
    assert strategy.trainer.optimizer.steps == 1


def test_a_choice_of_rows_is_looked_at_once_a_task(monkeypatch):
    """There may be very many, and a task may be learned in many parts of a few steps."""
    looked = []
    monkeypatch.setattr(OwnRows, "_look_at", lambda self, task: looked.append(len(task.y)))
    strategy = OwnRows(learner())
    for task in SCENARIO:
        strategy.begin(task)
        for start in range(3):
            strategy.learn(task, steps=1, start=start, batch_size=2)
        strategy.end(task)
    looks_of_one = [20, 7, 20]  # when it begins, the choice, and when it ends
    assert looked == looks_of_one * 2


def nothing_to_learn(task):
    return task.with_data(X, np.full(20, -100))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda task: task.with_data(X[:, :1], Y), "expected"),
        (lambda task: task.with_data(X * np.nan, Y), "is NaN"),
        # Not even if they could be taken for the class that does not count.
        (lambda task: task.with_data(X, Y + 9), "3 outputs"),
        # Their sum is that of rows of which none counts.
        (lambda task: task.with_data(X, Y, np.tile([1.0, -1.0], 10)), "sample_weight"),
        (lambda task: task.with_data(X, Y, np.ones((20, 2))), "sample_weight"),
        (nothing_to_learn, None),
    ],
    ids=["shape", "NaN", "labels", "negative weights", "2-D weights", "nothing"],
)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("make", [continual.Naive, Steps, lambda t: continual.GEM(t, 9)])
def test_an_update_that_waits_is_not_made_before_bad_rows_are_refused(make, inside, bad, message):
    """Else the model would have changed; it is made if there is just nothing to learn."""

    class Gives(Strategy):
        given = staticmethod(lambda task: task)

        def task_to_learn(self, task):
            return self.given(task)

    loss = nn.CrossEntropyLoss(weight=[1, 1, 0])
    inner = Gives(learner(loss=loss, accumulate_grad_batches=3))
    strategy, trainer = make(inner), inner.trainer
    strategy.fit(TASK)
    strategy.begin(TASK)
    strategy.step(X, Y)
    before, steps = trainer.model.flat_parameters, trainer.optimizer.steps
    if inside:
        inner.given = bad
    task = TASK if inside else bad(TASK)
    if message is None:
        assert strategy.learn(task, steps=2) == {}
        assert trainer.optimizer.steps == steps + 1
        return
    with pytest.raises(tw.ThalwegError, match=message):
        strategy.learn(task, steps=2)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    inner.given = lambda task: task
    strategy.end(TASK)
    assert trainer.optimizer.steps == steps + 1


@pytest.mark.parametrize("make", [continual.Naive, Steps])
def test_an_update_that_waits_is_not_made_before_a_batch_of_one_row_is_refused(make):
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    options = {"loss": nn.CrossEntropyLoss(), "optimizer": optim.SGD(lr=0.1)}
    strategy = make(tw.Trainer(model, **options, accumulate_grad_batches=3))
    strategy.begin(TASK)
    strategy.step(X, Y)
    with pytest.raises(ArgumentError, match="the last batch of 20 rows has only 1"):
        strategy.learn(TASK, steps=2, batch_size=19)
    assert strategy.trainer.optimizer.steps == 0


def test_a_strategy_with_only_a_step_is_resumed(scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(lambda t, s: Steps(Replay(t, 9)), scenario, trainer, tmp_path)


def test_what_a_step_of_ones_own_does_inside_others():
    for outside in (
        lambda s: continual.EWC(s, 1.0), continual.Naive, Counts,
        lambda s: Replay(s, 9, weighting="rows"),
    ):  # fmt: skip
        own = Steps(learner())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            continual.run(outside(own), SCENARIO, batch_size=10)
        assert len(own.seen) == 4

    class Alone(Strategy):
        def step(self, x, y):
            return self.trainer.step(x, y)

    with pytest.raises(ArgumentError, match=r"^Alone\.step takes its steps without Replay"):
        Alone(Replay(learner(), 9)).fit(TASK)


def test_what_a_step_cannot_do_is_said():
    weighted = continual.Task(X, Y, X, Y, sample_weight=np.ones(20))
    message = r"^Steps does not support tasks with sample_weight: .*, or let Steps override learn"
    with pytest.raises(UnsupportedError, match=message):
        Steps(learner()).fit(weighted)
    message = r"^Replay around Steps.* rows with weights.*: put Steps around Replay instead"
    with pytest.raises(UnsupportedError, match=message):
        Replay(Steps(learner()), 9)
    Steps(Replay(learner(), 9)).fit(TASK)
    own = Steps(continual.GDumb(learner(), 9))
    with pytest.raises(UnsupportedError, match=r"^Steps learns by step, which GDumb inside it"):
        own.fit(TASK)
    assert not len(own.inner.buffer)

    class Silent(Strategy):
        def step(self, x, y):
            super().step(x, y)

    with pytest.raises(ArgumentError, match=r"^Silent\.step must return the loss.* got None"):
        Silent(learner()).fit(TASK)


class Forgets(Strategy):
    """Keeps state that it does not name in `gathers`."""

    def __init__(self, inner, **attributes):
        super().__init__(inner)
        vars(self).update(attributes)

    def step(self, x, y):
        for name, value in vars(self).items():
            if name == "ema":
                value.flat_parameters = 0.5 * value.flat_parameters
            if name in ("anchor", "_latest"):
                setattr(self, name, x[0].copy())
        return super().step(x, y)


def network():
    return nn.Sequential(nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("attributes", "what"),
    [
        ({"buffer": continual.ReservoirBuffer(9)}, r"ReservoirBuffer Forgets\.buffer"),
        ({"_rng": np.random.default_rng(0)}, r"Generator Forgets\._rng"),
        ({"ema": network()}, r"Sequential Forgets\.ema"),
    ],
)
def test_state_that_is_not_gathered_is_not_lost_silently(attributes, what, tmp_path):
    strategy = continual.Naive(Forgets(learner(), **attributes))
    strategy.step(X, Y)
    message = rf'^the {what} would not be saved.* gathers = \("{next(iter(attributes))}",\)'
    with pytest.raises(UnsupportedError, match=message):
        strategy.save(tmp_path / "file")
    with pytest.raises(UnsupportedError, match=message):
        continual.run(strategy, SCENARIO, checkpoint=tmp_path / "file")
    assert not (tmp_path / "file").exists()


class Logs(Strategy):
    """Keeps a log in an array, which no later step needs."""

    def __init__(self, inner):
        super().__init__(inner)
        self.learned = np.zeros(2)

    def end(self, task):
        super().end(task)
        self.learned[task.index] = len(task.y)


@pytest.mark.parametrize("anchor", [None, np.zeros(2), np.zeros(2, object)])
def test_arrays_that_are_not_gathered_are_told_of_once(anchor, tmp_path):
    """They may be state, or the notes of a user: nothing that was learned is lost for them."""
    strategy, path = continual.Naive(Forgets(learner(), anchor=anchor)), tmp_path / "file"
    strategy.save(path)  # nothing can have changed before the first step
    strategy.step(X, Y)
    message = r'^the array Forgets\.anchor is not in the file: .* \("anchor",\); .*_anchor$'
    with pytest.warns(UserWarning, match=message):
        strategy.save(path)
    strategy.step(2 * X, Y)
    strategy.save(path)
    again = continual.Naive(Forgets(learner(), anchor=anchor))
    again.load(path)
    assert again.trainer.evaluate(X, Y) == strategy.trainer.evaluate(X, Y)


def test_a_log_in_an_array_does_not_stop_a_run(tmp_path):
    strategy = Logs(learner())
    with warnings_of("Logs.learned is not in the file") as told:
        continual.run(strategy, SCENARIO, checkpoint=tmp_path / "file")
    assert len(told) == 1
    assert strategy.learned.all()
    again = continual.run(Logs(learner()), SCENARIO, checkpoint=tmp_path / "file", resume=True)
    np.testing.assert_array_equal(again.r, strategy.result.r)


def test_arrays_of_the_first_task_are_told_of(tmp_path):
    """Made before its begin reaches that of the base, or changed in calls by hand."""

    class Starts(Strategy):
        start = None

        def begin(self, task):
            if self.start is None:
                self.start = self.trainer.model.flat_parameters
            super().begin(task)

    starts, logs = Starts(learner()), Logs(learner())
    starts.fit(TASK)
    logs.begin(TASK)
    logs.learn(TASK, steps=1)
    logs.end(TASK)
    for strategy, name in ((starts, r"Starts\.start"), (logs, r"Logs\.learned")):
        with pytest.warns(UserWarning, match=f"{name} is not in the file"):
            strategy.save(tmp_path / "file")


class Notes(Strategy):
    """Has arrays that are no state."""

    def __init__(self, inner, of_file):
        super().__init__(inner)
        self.data = np.load(of_file, mmap_mode="r")
        self.names, self.days = np.array(["a" * 9], object), np.array(["2020"], "datetime64[D]")
        self.empty, self.scales, self._latest = np.zeros((0, 2)), np.ones(2), None
        self.mask = np.ones(3)  # its copies can be written to
        self.mask.flags.writeable = False

    def step(self, x, y):
        self._latest = x[0].copy()
        return super().step(x, y)


def test_arrays_that_stay_as_they_were_or_serve_a_moment_are_no_state(tmp_path):
    np.save(tmp_path / "data.npy", np.ones(1_000_000))
    strategy, path = Notes(learner(), tmp_path / "data.npy"), tmp_path / "file"
    strategy.note, strategy.large = np.arange(3), np.ones((1000, 1000))
    tracemalloc.start()
    strategy.step(X, Y)
    strategy.save(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6  # none of them is copied
    assert strategy._latest is not None
    for twin in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        twin.step(X, Y)
        twin.save(path)
    continual.run(Notes(learner(), tmp_path / "data.npy"), SCENARIO, checkpoint=path)


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.array(["a", "b"]), "an array of dtype <U1"),
        (np.array([1j]), "an array of dtype complex128"),
        (np.array([None, 1]), "an array of dtype object"),
        (np.array([("a", 1)], [("b", "U1"), ("c", int)]), r"an array of dtype \[\('b',"),
        (np.ma.array([1, 2], mask=[0, 1]), "a masked array of dtype int64"),
    ],
)
def test_arrays_that_no_file_can_hold_are_refused(array, what, tmp_path):
    """Before training, and with the name of what has them."""

    class Notes(Strategy):
        gathers = ("notes",)

        def __init__(self, inner):
            super().__init__(inner)
            self.notes = [array]

    strategy, path = continual.Naive(Notes(learner())), tmp_path / "file"
    before = strategy.trainer.model.flat_parameters
    message = rf"^the state of Notes contains {what}.* \(strategy\.inner\.notes\.0\), which cannot"
    with pytest.raises(UnsupportedError, match=message):
        strategy.save(path)
    with pytest.raises(UnsupportedError, match=message):
        continual.run(strategy, SCENARIO, checkpoint=path)
    assert not path.exists()
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


def test_what_is_not_state_is_no_false_alarm(tmp_path):
    """A model that stays as it was made, the trainer's own, and what a strategy inside keeps."""
    inner = Replay(learner(), 9)
    trainer = inner.trainer
    strategy = Forgets(inner, teacher=network(), model=trainer.model, kept=inner.buffer)
    strategy.step(X, Y)
    strategy.save(tmp_path / "file")
    gathering = type("Gathers", (Forgets,), {"gathers": ("buffer", "ema")})
    strategy = gathering(learner(), buffer=continual.ReservoirBuffer(9), ema=network())
    strategy.step(X, Y)
    strategy.save(tmp_path / "file")

    class Knows(Forgets):
        def state_dict(self):
            return {**super().state_dict(), "mine": self.ema.state_dict()}

    strategy = Knows(learner(), ema=network())
    strategy.step(X, Y)
    strategy.save(tmp_path / "file")


class Dreams(Strategy):
    """Generative replay: a second network, trained beside the first, makes earlier samples."""

    gathers, replays = ("generator", "rng"), True

    def __init__(self, inner, lr=0.01):
        super().__init__(inner)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2), seed=3)
        loss = nn.CustomLoss(lambda o, t: (((o - t) ** 2).mean(), 2 * (o - t) / o.size))
        self.generator = tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=lr))
        self.rng = np.random.default_rng(0)

    def step(self, x, y):
        dreamt = self.rng.integers(3, size=len(y))
        rows = self.generator.model(np.eye(3, dtype=np.float32)[dreamt])
        loss = super().step(np.concatenate([x, rows]), np.concatenate([y, dreamt]))
        self.generator.step(np.eye(3, dtype=np.float32)[y], x)
        return loss


def test_a_trainer_of_its_own_is_resumed(clouds, trainer, tmp_path, resumed_is_the_same):
    """With the moments of its Adam and its count of dropout masks, not only its weights."""
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    resumed_is_the_same(lambda t, s: Dreams(t), scenario, trainer, tmp_path)
    options = {"steps": 7, "batch_size": 20, "checkpoint": tmp_path / "parts", "resume": True}
    with pytest.raises(ArgumentError, match=r"Dreams\.generator\.optimizer\.lr was 0\.01, now"):
        continual.run(Dreams(trainer(dropout=0.2), lr=0.1), scenario, **options)


def test_a_trainer_of_its_own_is_copied_and_put_back_after_an_error():
    strategy = Dreams(learner())
    strategy.fit(TASK)
    before = strategy.generator.model.flat_parameters
    twin = Dreams(learner())
    twin.load_state_dict(strategy.state_dict())
    np.testing.assert_array_equal(twin.generator.model.flat_parameters, before)

    def fails(x, y):
        Dreams.step(strategy, x, y)
        raise ArgumentError("stop")

    strategy.step = fails
    with pytest.raises(ArgumentError, match="stop"):
        strategy.fit(continual.Task(X, Y, X, Y, 1))
    np.testing.assert_array_equal(strategy.generator.model.flat_parameters, before)
    assert strategy.generator.optimizer.steps == twin.generator.optimizer.steps == 1


def test_the_loss_and_the_penalty_of_a_trainer_of_its_own_are_restored(tmp_path):
    class Second(Strategy):
        gathers = ("second",)

        def __init__(self, inner):
            super().__init__(inner)
            self.second = learner()

    one, other = Second(learner()), Second(learner())
    one.second.loss = nn.CrossEntropyLoss(active=(0, 2))
    one.second.set_penalty(np.arange(51), strength=2.0)
    one.second.step(X[:9], np.zeros(9, int))
    one.save(tmp_path / "file")
    other.load(tmp_path / "file")
    assert other.second.loss == one.second.loss
    assert other.second.penalty == one.second.penalty > 0


def test_the_model_of_a_trainer_without_its_optimizer_is_not_saved(tmp_path):
    mine = learner()
    half = type("Half", (Forgets,), {"gathers": ("model",)})
    strategy = half(learner(), mine=mine, model=mine.model)
    strategy.save(tmp_path / "untrained")
    mine.step(X, Y)
    message = r'the Trainer Half\.mine would not be saved.*gathers = \("mine",\), and create it in'
    with pytest.raises(UnsupportedError, match=message):
        strategy.save(tmp_path / "file")


@pytest.mark.parametrize("gathers", [("opt",), ()])
def test_an_optimizer_without_its_model_is_not_saved(gathers, tmp_path):
    strategy = type("Half", (Forgets,), {"gathers": gathers})(learner(), opt=optim.Adam())
    model = network()
    model.flat_gradients = np.ones(9)
    strategy.opt.step(model)
    message = (
        r'^the state of the optimizer Half\.opt.* keep both in a trainer.* gathers = \("opt",\)'
    )
    with pytest.raises(UnsupportedError, match=message):
        strategy.save(tmp_path / "file")


def test_what_our_own_classes_keep_is_no_false_alarm(tmp_path):
    class Mine(continual.GDumb):
        pass

    strategy = Mine(learner(), 9)
    strategy.fit(TASK)
    strategy.save(tmp_path / "file")


@pytest.mark.parametrize("by_step", [False, True])
def test_the_last_update_needs_no_method_that_a_user_could_have(by_step):
    """A method named `_finish` was called for it."""

    class Mine(Strategy):
        def _finish(self, path):
            raise AssertionError(path)

    class BySteps(Mine):
        def step(self, x, y):
            return super().step(x, y)

    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(2, 3)), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1),
        accumulate_grad_batches=2,
    )  # fmt: skip
    strategy = (BySteps if by_step else Mine)(Mine(trainer))
    strategy.begin(TASK)
    strategy.learn(TASK, steps=1)
    strategy.step(X, Y)
    strategy.end(TASK)
    assert trainer.optimizer.steps == 2


def test_a_step_behind_a_base_of_ours_is_not_left_out():
    """It was, in `learn`, without a word."""

    class Counting(Strategy):
        steps = 0

        def step(self, x, y):
            self.steps += 1
            return super().step(x, y)

    with pytest.raises(ArgumentError, match=r"without Counting\.step.*class Both\(Counting, "):

        class Both(continual.L2, Counting):
            pass

    class First(Counting, continual.L2):
        pass

    strategy = First(learner(), 1.0)
    strategy.begin(TASK)
    strategy.learn(TASK, steps=3, batch_size=2)
    assert strategy.steps == 3
