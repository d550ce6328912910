"""Copies and pickles of strategies, and strategies that do not go around each other."""

import copy
import itertools
import pickle
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError

from .strategies import NAMES, STRATEGIES


class Rehearsing(continual.Strategy):
    """A strategy of the user's that learns earlier samples again."""

    replays = True


def test_every_strategy_is_here():
    assert {*STRATEGIES} == NAMES


def learner(outputs=6):
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, outputs), seed=1)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings("ignore:task . brings new", "ignore:the penalty of")
def test_a_copy_goes_on_as_the_original(name, way, scenario):
    """In the middle of a task, when masks, paths and couplings are in the core."""
    strategy = STRATEGIES[name](learner(), scenario)
    first, second, third = scenario
    strategy.begin(first)
    strategy.learn(first, steps=6, batch_size=16)
    strategy.end(first)
    strategy.begin(second)
    strategy.learn(second, steps=3, batch_size=16)
    twin = copy.deepcopy(strategy) if way == "deepcopy" else pickle.loads(pickle.dumps(strategy))
    assert twin.trainer is not strategy.trainer

    def rest(one):
        one.learn(second, steps=3, start=3, batch_size=16)
        one.end(second)
        one.begin(third)
        one.learn(third, steps=4, batch_size=16)
        one.end(third)
        return one.trainer.model.flat_parameters

    before = twin.trainer.model.flat_parameters.copy()
    expected = rest(strategy)
    np.testing.assert_array_equal(twin.trainer.model.flat_parameters, before)
    np.testing.assert_array_equal(rest(twin), expected)
    for task in scenario:
        found, wanted = (s.predict(task.x_test, task=task.index) for s in (twin, strategy))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("inside", STRATEGIES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_can_be_put_together_can_be_run(inside, scenario):
    """A pair is refused when it is made, or learns: nothing breaks in the second task."""
    two = continual.Scenario(scenario[:2], scenario.kind)
    for make in STRATEGIES.values():
        inner = STRATEGIES[inside](learner(), two)
        try:
            both = make(inner, two)
        except UnsupportedError:
            continue
        result = continual.run(both, two, steps=2, batch_size=16)
        assert np.isfinite(result.r).all()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda t, s: continual.EWC(continual.FromScratch(t), 1), "penalty of EWC useless"),
        (lambda t, s: continual.L2Init(continual.GDumb(t, 9), 1), "penalty of L2Init useless"),
        (lambda t, s: continual.FromScratch(continual.EWC(t, 1)), "penalty of EWC useless"),
        (lambda t, s: continual.PackNet(continual.FromScratch(t)), "belong to earlier tasks"),
        (lambda t, s: continual.FromScratch(continual.PackNet(t)), "belong to earlier tasks"),
        (lambda t, s: continual.Replay(continual.Cumulative(t, s), 9), "would be left out"),
        (lambda t, s: continual.Replay(continual.GDumb(t, 9), 9), "would be left out"),
        (lambda t, s: continual.Replay(continual.Replay(t, 9), 9), "rows with weights"),
        (
            lambda t, s: continual.Replay(continual.Replay(t, 9), 9, weighting="rows"),
            "pieces that each start anew; a single one with a larger buffer",
        ),
        (lambda t, s: continual.GEM(continual.OGD(t, 9), 9), "only one strategy can project"),
        (lambda t, s: continual.AGEM(continual.GEM(t, 9), 9), "only one strategy can project"),
        (
            lambda t, s: continual.RWalk(continual.SynapticIntelligence(t, 1), 1),
            "follow the path of each",
        ),
        (
            lambda t, s: continual.OnlineLaplace(continual.L2Init(t, 1), 1),
            "which couples parameters",
        ),
        (lambda t, s: continual.EWC(continual.OnlineLaplace(t, 1), 1), "which couples parameters"),
        (lambda t, s: continual.PackNet(continual.ContinualBackprop(t)), "belong to earlier tasks"),
        (lambda t, s: continual.ContinualBackprop(continual.PackNet(t)), "belong to earlier tasks"),
        (lambda t, s: continual.PackNet(continual.ShrinkAndPerturb(t)), "belong to earlier tasks"),
        (lambda t, s: continual.PackNet(continual.OGD(t, 10)), "keeps a part of each update"),
        (lambda t, s: continual.OGD(continual.PackNet(t), 10), "keeps a part of each update"),
        (lambda t, s: continual.ShrinkAndPerturb(continual.PackNet(t)), "belong to earlier tasks"),
        (lambda t, s: continual.XdG(continual.ContinualBackprop(t)), "silent units"),
        (lambda t, s: continual.ContinualBackprop(continual.XdG(t)), "silent units"),
        (
            lambda t, s: continual.ShrinkAndPerturb(continual.FromScratch(t)),
            "undoes the changes of",
        ),
        (lambda t, s: continual.ShrinkAndPerturb(continual.GDumb(t, 9)), "undoes the changes of"),
        (lambda t, s: continual.Replay(continual.PackNet(t), 9), "use PackNet without Replay"),
        (lambda t, s: continual.PackNet(continual.Replay(t, 9)), "the latest task's part"),
        (lambda t, s: continual.PackNet(continual.DERpp(t, 9)), "the latest task's part"),
        (lambda t, s: continual.PackNet(continual.FROMP(t, 5, 1)), "the latest task's part"),
        (lambda t, s: continual.PackNet(continual.Joint(t, s)), "the latest task's part"),
        (lambda t, s: continual.Cumulative(continual.PackNet(t), s), "the latest task's part"),
        (lambda t, s: continual.XdG(continual.Replay(t, 9)), "the latest task's part"),
        (lambda t, s: continual.XdG(continual.GEM(t, 9)), "the latest task's part"),
        (lambda t, s: continual.AGEM(continual.XdG(t), 9), "the latest task's part"),
        (lambda t, s: continual.XdG(Rehearsing(t)), "the latest task's part"),
        (lambda t, s: Rehearsing(continual.Naive(continual.XdG(t))), "the latest task's part"),
        (lambda t, s: continual.Cumulative(continual.Joint(t, s), s), "would be left out"),
        (lambda t, s: continual.FromScratch(continual.LwF(t)), "instead of what was learned"),
        (lambda t, s: continual.GDumb(continual.LwF(t), 9), "would be left out|what was learned"),
        (lambda t, s: continual.ShrinkAndPerturb(continual.LwF(t)), "instead of what was learned"),
        (lambda t, s: continual.FromScratch(continual.ContinualBackprop(t)), "units that are gone"),
        (lambda t, s: continual.ContinualBackprop(continual.GDumb(t, 9)), "units that are gone"),
        (
            lambda t, s: continual.Replay(continual.AGEM(t, 9), 9, weighting="rows"),
            "AGEM around Re",
        ),
        (lambda t, s: continual.Replay(continual.ERACE(t, 9), 9, weighting="rows"), "a whole task"),
        (lambda t, s: continual.Replay(continual.LwF(t), 9, weighting="rows"), "a whole task"),
        (lambda t, s: continual.XdG(continual.FROMP(t, 5, 1)), "use the whole network"),
        (lambda t, s: continual.XdG(continual.LwF(t)), "use the whole network"),
        (lambda t, s: continual.XdG(continual.OGD(t, 5)), "use the whole network"),
        (lambda t, s: continual.OGD(continual.XdG(t), 5), "use the whole network"),
        (
            lambda t, s: continual.XdG(
                continual.Replay(t, continual.BalancedBuffer(9, select="herding"))
            ),
            "use the whole network",
        ),
        (
            lambda t, s: continual.XdG(
                continual.AGEM(t, continual.BalancedBuffer(9, select="herding"))
            ),
            "use the whole network",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(make, why, scenario):
    with pytest.raises(UnsupportedError, match=rf"\w+ around \w+ is not supported: .*{why}"):
        make(learner(), scenario)


@pytest.mark.parametrize("make", [
    lambda t: continual.Replay(t, 20),
    lambda t: continual.Replay(t, continual.BalancedBuffer(20)),
    lambda t: continual.AGEM(t, 20),
    lambda t: continual.DERpp(t, 20),
    lambda t: continual.L2Init(continual.Replay(t, 20), 1),
    continual.ContinualBackprop,
])  # fmt: skip
def test_what_learns_a_stream_is_saved_and_goes_on(make, scenario, tmp_path):
    strategy, anew = make(learner()), make(learner())
    batches = list(continual.stream(scenario, batch_size=20, seed=1))
    for x, y in batches[:7]:
        strategy.step(x, y)
    strategy.save(tmp_path / "strategy")
    anew.load(tmp_path / "strategy")
    for x, y in batches[7:]:
        assert strategy.step(x, y) == anew.step(x, y)
    np.testing.assert_array_equal(
        strategy.trainer.model.flat_parameters, anew.trainer.model.flat_parameters
    )
    model = nn.Sequential.load(tmp_path / "strategy")
    anew.load(tmp_path / "strategy")
    np.testing.assert_array_equal(anew.trainer.model.flat_parameters, model.flat_parameters)


def test_a_strategy_whose_scales_were_set_is_loaded_into_one_as_it_was_made(tmp_path):
    """The numbers of a `Standardize` belong to what is loaded, as weights do."""

    def make():
        model = nn.Sequential(nn.Standardize([0, 0], [1, 1]), nn.Linear(2, 3))
        return continual.Naive(
            tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        )

    strategy, anew = make(), make()
    model = strategy.trainer.model
    model.load_state_dict(model.state_dict() | {"0.mean": [5, 6], "0.std": [7, 8]})
    for name in ("strategy", "again"):
        strategy.save(tmp_path / name)
        anew.load(tmp_path / name)
        assert anew.trainer.model[0] == nn.Standardize([5, 6], [7, 8])
        strategy, anew = anew, make()


@pytest.mark.parametrize("optimizer", [optim.Adam, lambda lr: optim.SAM(optim.SGD(lr=lr))])
def test_a_rate_that_was_set_is_loaded(optimizer, tmp_path):
    """Into a strategy as it was made, as `Trainer.load` and `run` restore it."""

    def make(lr=0.5, **options):
        model = nn.Sequential(nn.Linear(2, 3))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer(lr=lr))
        return continual.Replay(trainer, 20, **options)

    batch = np.ones((2, 2)), [0, 1]
    strategy, path = make(), tmp_path / "strategy"
    strategy.trainer.optimizer.lr = 0.25
    strategy.step(*batch)
    strategy.save(path)
    same, other, set_since = make(), make(0.125), make(0.125)
    same.load(path)
    assert same.trainer.optimizer.lr == 0.25
    assert same.trainer.evaluate(*batch) == strategy.trainer.evaluate(*batch)
    message = r"lr was 0\.25, now it is 0\.125\. .*; a rate or a strength can also be set to what"
    with pytest.raises(ArgumentError, match=message):
        other.load(path)
    assert other.trainer.optimizer.lr == 0.125
    other = make(0.125, batch_size=7)
    other.trainer.optimizer.lr = 0.25
    with pytest.raises(ArgumentError, match=r"batch_size was None, .* everything as before$"):
        other.load(path)  # which cannot be set
    set_since.trainer.optimizer.lr = 0.25
    set_since.load(path)
    assert set_since.step(*batch) == same.step(*batch) == strategy.step(*batch)


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda strength: continual.L2(learner(), strength), "a strength can also be set to what"),
        (lambda strength: continual.LwF(learner(), strength=strength), "everything as before$"),
        (lambda strength: continual.FROMP(learner(), 3, strength), "everything as before$"),
    ],
    ids=["L2", "LwF", "FROMP"],
)
def test_a_strength_that_cannot_be_set_is_not_to_be_set(make, advice, tmp_path):
    make(1.0).save(tmp_path / "strategy")
    with pytest.raises(ArgumentError, match=rf"strength was 1\.0, now it is 2\.0\. .*{advice}"):
        make(2.0).load(tmp_path / "strategy")


def test_a_strategy_is_loaded_as_it_was_made(scenario, tmp_path):
    run, path = continual.Replay(learner(), 20), tmp_path / "run"
    continual.run(run, scenario, checkpoint=path)
    other = continual.Replay(learner(), 20)
    other.load(path)  # what a run has left, to predict by
    assert str(other.state_dict()) == str(run.state_dict())
    assert other.trainer.loss == run.trainer.loss
    for wrong, message in (
        (continual.Replay(learner(), 30), r"Replay\.buffer\.capacity was 20, now it is 30\. To"),
        (continual.AGEM(learner(), 20), r"strategy was \['Replay'\], now it is \['AGEM'\]"),
        (continual.Replay(learner(7), 20), r"model\.layers\.2 was .*out_features=6.* now .*=7"),
    ):
        before = wrong.trainer.model.flat_parameters
        with pytest.raises(ArgumentError, match=message):
            wrong.load(path)
        np.testing.assert_array_equal(wrong.trainer.model.flat_parameters, before)
        assert wrong._ended == 0
    run.trainer.save(path)
    with pytest.raises(DataError, match=r"holds neither a checkpoint .* nor a strategy"):
        run.load(path)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings("ignore:task . brings new", "ignore:the penalty of")
def test_a_state_is_a_copy(name, scenario):
    """What is learned later does not change it, nor does what is loaded from it."""
    strategy, other = (STRATEGIES[name](learner(), scenario) for _ in range(2))
    strategy.fit(scenario[0], steps=4)
    strategy.begin(scenario[1])
    strategy.learn(scenario[1], steps=2)
    state = strategy.state_dict()
    before = pickle.dumps(state)
    other.trainer._become(strategy.trainer)
    other.trainer.loss = strategy.trainer.loss
    other.load_state_dict(state)
    for one in (strategy, other):
        one.learn(scenario[1], steps=4, start=2)
        one.end(scenario[1])
        one.fit(scenario[2], steps=3)
    assert _same(state, pickle.loads(before))
    np.testing.assert_array_equal(
        strategy.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


#: Attributes that are no part of what a strategy has gathered, or have a state of their own.
NOT_GATHERED = {
    *("_logits", "_twin", "_union", "_known", "_units"),  # made again
    *("_admitted", "_asked", "_looked", "_given", "_mine"),  # of one call
    *("_made_with", "_noted"),  # how it was made
    *("trainer", "inner", "_initial", "buffer", "_buffer"),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings("ignore:task . brings new", "ignore:the penalty of")
def test_a_state_has_all_that_was_gathered(name, scenario, tmp_path):
    """In the middle of a task: what differs from a new strategy is loaded into one."""
    strategy, anew = (STRATEGIES[name](learner(), scenario) for _ in range(2))
    strategy.fit(scenario[0], steps=4)
    strategy.begin(scenario[1])
    strategy.learn(scenario[1], steps=2)
    strategy.save(tmp_path / "strategy")
    anew.load(tmp_path / "strategy")
    for attribute, value in vars(strategy).items():
        if attribute not in NOT_GATHERED and not attribute.startswith("_told"):
            assert _same(getattr(anew, attribute), value), attribute


@pytest.mark.parametrize("name", ["EWC", "LwF", "Replay", "AGEM", "PackNet", "XdG"])
@pytest.mark.filterwarnings("ignore:task . brings new", "ignore:the running averages")
@pytest.mark.filterwarnings("ignore:.* is told which task", "ignore:the penalty of")
def test_running_averages_are_resumed(name, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(STRATEGIES[name], scenario, trainer, tmp_path, batch_norm=True)


OF_PARAMETERS = [
    *("EWC", "SynapticIntelligence", "RWalk", "L2Init", "OnlineLaplace", "OGD", "FROMP"),
    *("XdG", "PackNet", "ContinualBackprop"),
]


@pytest.mark.parametrize("tasks", [0, 1])
@pytest.mark.parametrize("name", OF_PARAMETERS)
@pytest.mark.filterwarnings("ignore:task . brings new", "ignore:the penalty of")
def test_a_state_of_another_network_is_refused(name, tasks, scenario):
    """Before anything of it is loaded, also in the middle of the first task."""
    strategy, other = (STRATEGIES[name](learner(), scenario) for _ in range(2))
    model = nn.Sequential(nn.Linear(2, 17), nn.ReLU(), nn.Linear(17, 6), seed=1)
    wider = STRATEGIES[name](
        tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01)), scenario
    )
    for one in (strategy, wider, other):
        for task in scenario[:tasks]:
            one.fit(task, steps=3)
        one.begin(scenario[tasks])
        one.learn(scenario[tasks], steps=2)
    if tasks == 0 and name in ("EWC", "OnlineLaplace", "OGD", "FROMP"):
        strategy.load_state_dict(wider.state_dict())  # nothing is gathered yet
        return
    with pytest.raises(ShapeError, match=rf"in the state .* the model of this {name} has"):
        strategy.load_state_dict(wider.state_dict())
    assert _same(strategy.state_dict(), other.state_dict())
    for one in (strategy, other):
        one.learn(scenario[tasks], steps=2, start=2)
        one.end(scenario[tasks])
    np.testing.assert_array_equal(
        strategy.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


def _same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return np.array_equal(one, other)


def test_a_strategy_of_ones_own_names_what_it_gathers(scenario, tmp_path):
    class Counting(continual.Strategy):
        gathers = ("counts", "_latest")

        def __init__(self, inner):
            super().__init__(inner)
            self.counts, self._latest = [], None

        def learn(self, task, **options):
            self.counts.append(options["steps"])
            self._latest = np.array(self.counts)
            return super().learn(task, **options)

    strategy = Counting(continual.Naive(learner()))
    options = {"steps": 6, "save_every": 2, "checkpoint": tmp_path / "run"}
    continual.run(strategy, scenario, **options)
    assert strategy.state_dict()["latest"].tolist() == strategy.counts == [2] * 9
    again = Counting(continual.Naive(learner()))
    continual.run(again, scenario, resume=True, **options)
    assert again.counts == strategy.counts
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again.state_dict()))["latest"], [2] * 9)


class Keeps(continual.Strategy):
    """A strategy of one's own with a buffer, random numbers and another network."""

    gathers = ("buffer", "_rng", "other")

    def __init__(self, inner, capacity=9, other=None):
        super().__init__(inner)
        self.buffer = continual.ReservoirBuffer(capacity)
        self._rng = np.random.default_rng(0)
        self.other = nn.Sequential(nn.Linear(2, 3)) if other is None else other

    def learn(self, task, **options):
        rows = self._rng.choice(len(task.y), 7)
        self.buffer.add(x=task.x[rows], y=task.y[rows])
        self.other.flat_parameters = self._rng.random(9)
        return super().learn(task, **options)


def test_a_strategy_of_ones_own_gathers_what_has_a_state(scenario, tmp_path, resumed_is_the_same):
    resumed_is_the_same(
        lambda t, s: Keeps(continual.Naive(t)), scenario, lambda **_: learner(), tmp_path
    )
    strategy = Keeps(learner())
    strategy.fit(scenario[0])
    for twin in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy)), Keeps(learner())):
        twin.load_state_dict(strategy.state_dict())
        np.testing.assert_array_equal(twin.buffer.rows()["x"], strategy.buffer.rows()["x"])
        assert twin._rng is not strategy._rng
        assert str(twin.state_dict()) == str(strategy.state_dict())
    other = Keeps(learner(), other=[])
    before = str(other.state_dict())
    with pytest.raises(
        ArgumentError, match=r"other is the state of a Sequential, but here it is plain data"
    ):
        other.load_state_dict(strategy.state_dict())
    smaller = Keeps(learner(), capacity=8)
    with pytest.raises(ArgumentError, match="capacity=9, but this one has capacity=8"):
        smaller.load_state_dict(strategy.state_dict())
    assert before == str(other.state_dict())


class Latest(continual.Buffer):
    """A buffer of one's own, with a state of its own, too."""

    latest = None

    def __len__(self):
        return 0 if self.latest is None else len(self.latest["y"])

    def add(self, *, group=0, features=None, **columns):
        self.latest = {name: column[-self.capacity :] for name, column in columns.items()}

    def rows(self):
        return self.latest or {}

    def state_dict(self):
        return {"latest": self.latest}

    def load_state_dict(self, state):
        self.latest = state["latest"]


def test_a_buffer_of_ones_own(scenario, tmp_path, resumed_is_the_same):
    make = lambda t, s: continual.Replay(t, Latest(9))  # noqa: E731
    resumed_is_the_same(make, scenario, lambda **_: learner(), tmp_path)
    strategy = make(learner(), scenario)
    strategy.step(scenario[0].x, scenario[0].y)
    strategy.step(scenario[0].x, scenario[0].y)
    assert len(strategy.buffer) == 9


def test_all_seen_classes_compete_where_all_rows_are_learned(clouds):
    """ER-ACE takes a task's classes from the task: those of all its rows."""
    scenario = continual.split(*clouds.all, tasks=3, kind="task")
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 6), seed=1)
    loss = nn.CrossEntropyLoss(heads=scenario.heads)
    for outside in ("Cumulative", "Joint", "GDumb"):
        trainer = tw.Trainer(copy.deepcopy(model), loss=loss, optimizer=optim.Adam(lr=0.01))
        both = STRATEGIES[outside](continual.ERACE(trainer, 20), scenario)
        result = continual.run(both, scenario, steps=30, batch_size=16)
        assert result.r[-1].mean() > 0.8


def test_a_second_run_with_what_was_learned_is_warned_about(clouds):
    """The cell of a notebook that is run twice."""
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    strategy = continual.L2(continual.Replay(learner(), 20), 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        continual.run(strategy, continual.Scenario(scenario[:2], scenario.kind))
    with pytest.warns(UserWarning, match="L2 has learned 2 tasks before this run.*resume=True"):
        continual.run(strategy, continual.Scenario(scenario[:2], scenario.kind))


def test_two_strategies_around_one_trainer(clouds):
    """What one has left would stay in the other's run."""
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    trainer = learner(2)
    one, other = continual.L2(trainer, 1.0), continual.MAS(trainer, 1.0)
    one.fit(scenario[0])
    for strategy in (other, continual.EWC(trainer, 1.0)):
        with pytest.raises(UnsupportedError, match="trainer's penalty is not the one of this"):
            strategy.fit(scenario[1])
    one.fit(scenario[1])  # is as it was
    trainer.set_penalty(None)
    with pytest.raises(UnsupportedError, match=r"not the one of this L2: .*set_penalty"):
        one.fit(scenario[2])
    trainer.set_penalty(2 * np.ones(trainer.model.num_parameters))
    trainer.model.flat_parameters = trainer.model.flat_parameters + 1
    with pytest.warns(UserWarning, match="has a penalty already"):
        continual.run(continual.Replay(trainer, 9), scenario)
    trainer.set_penalty(None)
    fresh = continual.MAS(trainer, 1.0)
    fresh.fit(scenario[0])
    fresh.fit(scenario[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, r"tasks\[1\].x has no rows; at least 1"),
        (
            {"x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)},
            r"tasks\[1\].x_test has no rows",
        ),
        ({"y": None}, r"tasks\[1\].y must be an array.*got None"),
        ({"x_test": None}, r"tasks\[1\].x_test must be an array.*got None"),
    ],
)
def test_tasks_without_rows_or_labels_are_refused_when_they_are_put_together(changes, message):
    whole = {"x": np.zeros((4, 2)), "y": np.zeros(4, int)}
    whole |= {"x_test": whole["x"], "y_test": whole["y"]}
    good, bad = continual.Task(**whole), continual.Task(**{**whole, **changes}, index=1)
    with pytest.raises(ShapeError, match=message):
        continual.Scenario((good, bad))
    if "x" in changes or "y" in changes:
        with pytest.raises(ShapeError, match=message):
            continual.DER(learner(), 9).fit(bad)


@pytest.mark.parametrize("where", ["x", "x_test"])
def test_an_error_in_the_data_says_which_task_it_is_in(where, clouds):
    def task(index, **changes):
        arrays = {"x": clouds.x, "y": clouds.y, "x_test": clouds.x, "y_test": clouds.y}
        return continual.Task(**{**arrays, **changes}, index=index, name=f"day {index}")

    broken = clouds.x.copy()
    broken[3, 0] = np.nan
    scenario = continual.Scenario((task(0), task(1, **{where: broken})))
    with pytest.raises(tw.DataError, match=r"x\[\d+, 0\] is NaN") as caught:
        continual.run(learner(), scenario)
    what = "was being learned" if where == "x" else "was being evaluated on x_test"
    assert caught.value.__notes__ == [f"While task 1 ('day 1') {what}."]


@pytest.mark.parametrize("y", ["shares", "bool"])
def test_the_nearest_mean_of_shares_and_of_yes_and_no(y, clouds):
    target = np.eye(6, dtype="float32")[clouds.y] if y == "shares" else clouds.y < 3
    scenario = continual.from_arrays([(clouds.x, target), (clouds.x + 1, target)])
    strategy = continual.NearestMean(continual.Replay(learner(), 60))
    result = continual.run(strategy, scenario, epochs=3)
    labels = clouds.y if y == "shares" else target
    assert np.mean(strategy.predict(clouds.x) == labels) == result.r[1, 0] > 0.5


class Ring(continual.Buffer):
    """The latest samples, with nothing but the three methods; its state is what it keeps."""

    def __init__(self, capacity, *, seed=0, share=0.5):
        super().__init__(capacity, seed=seed)
        self.share, self.kept, self.counts, self.rng = share, {}, {}, np.random.default_rng(1)

    def add(self, *, group=0, features=None, **columns):
        rows = self.rng.random(len(columns["y"])) < self.share
        for name, column in columns.items():
            old = self.kept.get(name, column[:0])
            self.kept[name] = np.concatenate([old, column[rows]])[-self.capacity :]
        self.counts[group] = (self.counts.get(group, (0,))[0] + 1, "times")
        self.latest = group  # which a new one does not have

    def rows(self):
        return self.kept

    def __len__(self):
        return len(self.kept["y"]) if self.kept else 0


@pytest.mark.parametrize(
    "make", [lambda t, b: continual.Replay(t, b), lambda t, b: continual.DERpp(t, b)]
)
def test_a_buffer_of_three_methods_is_resumed(make, scenario, tmp_path, resumed_is_the_same):
    resumed_is_the_same(lambda t, s: make(t, Ring(20)), scenario, lambda **_: learner(), tmp_path)
    strategy = make(learner(), Ring(20))
    strategy.fit(scenario[0], steps=4)
    strategy.save(tmp_path / "strategy")
    loaded, changed = (make(learner(), Ring(20)) for _ in range(2))
    loaded.load(tmp_path / "strategy")
    changed.fit(scenario[1], steps=3)
    changed.load_state_dict(strategy.state_dict())
    for twin in (loaded, changed, copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        assert _same(twin.buffer.state_dict(), strategy.buffer.state_dict())
        assert twin.buffer.counts == strategy.buffer.counts  # keys are numbers, values tuples
        assert twin.buffer.latest == 0
        assert twin.buffer.kept["x"] is not strategy.buffer.kept["x"]
    before = loaded.buffer.state_dict()
    strategy.fit(scenario[1], steps=2)
    assert _same(loaded.buffer.state_dict(), before)


def test_the_state_of_a_buffer_of_ones_own_is_of_its_kind(scenario, tmp_path):
    buffer = Ring(20)
    for other in (continual.ReservoirBuffer(20), continual.BalancedBuffer(20), Latest(20)):
        with pytest.raises(ArgumentError, match=r"^the state does not match this Ring: it has no"):
            buffer.load_state_dict(other.state_dict())
    state = Ring(20).state_dict()
    state["attributes"] = {"other": 3}
    with pytest.raises(ArgumentError, match=r"it has no kept, counts, rng"):
        buffer.load_state_dict(state)
    buffer.load_state_dict(Ring(20, share=0.1).state_dict())
    assert buffer.share == 0.5  # an argument, like all others, is that of this one

    class Counting(continual.ReservoirBuffer):
        calls = 0

        def add(self, **columns):
            super().add(**columns)
            self.calls += 1

    one, twin = (continual.Replay(learner(), Counting(9)) for _ in range(2))
    one.fit(scenario[0])
    one.save(tmp_path / "strategy")
    twin.load(tmp_path / "strategy")
    assert twin.buffer.calls == 1
    np.testing.assert_array_equal(twin.buffer.rows()["x"], one.buffer.rows()["x"])

    one.buffer.score = lambda x: x
    with pytest.raises(
        UnsupportedError, match=r"^the state of Counting contains <function .*score"
    ):
        one.save(tmp_path / "strategy")


@pytest.mark.parametrize(
    ("has", "message"),
    [
        ((), r"^Bare does not define add, rows, __len__: a buffer needs add\(self, \*, group=0"),
        (("add", "rows"), r"^Bare does not define __len__:"),
    ],
)
def test_a_buffer_of_ones_own_needs_three_methods(has, message):
    kind = type("Bare", (continual.Buffer,), {name: lambda self: None for name in has})
    with pytest.raises(ArgumentError, match=message):
        kind(5)
    with pytest.raises(ArgumentError, match="only the base of buffers: use ReservoirBuffer or"):
        continual.Buffer(5)


def test_keys_and_tuples_of_what_is_gathered_stay_such(scenario, tmp_path):
    class Notes(continual.Strategy):
        gathers = ("notes",)

        def __init__(self, inner):
            super().__init__(inner)
            self.notes = {}

    one, twin = Notes(learner()), Notes(learner())
    one.notes = {
        1: np.ones(2), "1": np.zeros(3), (0, 1): (2, 3), "more": {"array": [1], "tuple": 2},
        "one": {"array": "name"}, "two": {"dict": [(1,)]}, None: {},
    }  # fmt: skip
    one.save(tmp_path / "strategy")
    twin.load(tmp_path / "strategy")
    assert _same(twin.notes, one.notes)
    assert str(twin.notes) == str(one.notes)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings("ignore:task . brings new", "ignore:the penalty of")
@pytest.mark.parametrize("error", [tw.DivergedError("no"), ValueError("no")])
def test_a_fit_that_fails_late_has_changed_nothing(name, error, scenario):
    """Neither weights, optimizer and loss nor what is gathered, as for `Trainer.fit`."""
    strategy, twin = (STRATEGIES[name](learner(), scenario) for _ in range(2))
    for one in (strategy, twin):
        one.fit(scenario[0], steps=4)
    before, loss = pickle.dumps(strategy.state_dict()), strategy.trainer.loss

    def fails(self, task, *, start=0, **options):
        if start >= 6:
            raise error
        return type(strategy).learn(strategy, task, start=start, **options)

    strategy.learn = fails.__get__(strategy)
    with pytest.raises(type(error), match="no"):
        strategy.fit(scenario[1], epochs=3, batch_size=40)
    del strategy.learn
    assert _same(strategy.state_dict(), pickle.loads(before))
    assert strategy.trainer.loss == loss
    for one in (strategy, twin):
        one.fit(scenario[1], epochs=2, batch_size=40)
    assert _same(strategy.state_dict(), twin.state_dict())
    np.testing.assert_array_equal(
        strategy.trainer.model.flat_parameters, twin.trainer.model.flat_parameters
    )
    assert strategy.trainer.optimizer.steps == twin.trainer.optimizer.steps


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings("ignore:task . brings new", "ignore:the penalty of")
def test_a_hook_that_fails_has_changed_nothing_and_no_note_says_otherwise(name, scenario):
    """The fits that a task consists of would have said that they keep what was learned."""
    strategy, calls = STRATEGIES[name](learner(), scenario), itertools.count()

    def fails(gradient):
        if next(calls) == 3:
            raise OSError("the disk is gone")
        return gradient

    strategy.fit(scenario[0], steps=4)
    before, theta = strategy.state_dict(), strategy.trainer.model.flat_parameters
    with (
        strategy.trainer.gradient_hook(fails),
        pytest.raises(OSError, match="the disk is gone") as error,
    ):
        strategy.fit(scenario[1], epochs=2, batch_size=10)
    assert not hasattr(error.value, "__notes__")
    assert _same(strategy.state_dict(), before)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, theta)


class Faster(continual.Strategy):
    """Diverges in the second part of a task."""

    def learn(self, task, *, start=0, **options):
        if start and self.trainer.optimizer.lr < 1:
            self.trainer.optimizer.lr = 1e30
        return super().learn(task, start=start, **options)


def test_what_an_error_of_a_late_epoch_says_is_true(scenario):
    task = scenario[0]
    strategy = Faster(continual.Replay(learner(), 20))
    before, lr = strategy.trainer.model.flat_parameters, strategy.trainer.optimizer.lr
    with pytest.raises(tw.DivergedError, match="are as they were before this call") as caught:
        strategy.fit(task, epochs=3)
    assert "after" not in str(caught.value).split("Weights")[-1]
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    assert (strategy.trainer.optimizer.steps, strategy.trainer.optimizer.lr) == (0, lr)
    strategy.begin(task)
    strategy.learn(task, steps=4)
    with pytest.raises(tw.DivergedError, match=r"are as they were after 4 optimizer steps$"):
        strategy.learn(task, steps=4, start=4)
    assert strategy.trainer.optimizer.steps == 4
    strategy = Faster(continual.Naive(learner()))
    with pytest.raises(tw.DivergedError, match="are as they were after 4 optimizer steps"):
        continual.run(strategy, scenario, epochs=3)
    assert strategy.trainer.optimizer.steps == 4


class Unready(continual.Strategy):
    """Changes everything when it begins a later task, and then fails."""

    gathers = ("begun",)

    def __init__(self, inner):
        super().__init__(inner)
        self.begun = []

    def begin(self, task):
        super().begin(task)
        self.begun.append(task.index)
        self.trainer.model.flat_parameters = 0 * self.trainer.model.flat_parameters
        if task.index > 0:
            raise ValueError("not ready")


class Deaf(Unready):
    """Does not tell those inside of a later task."""

    def begin(self, task):
        if task.index == 0:
            super().begin(task)
        self.trainer.model.flat_parameters = 0 * self.trainer.model.flat_parameters


@pytest.mark.parametrize("kind", [Unready, Deaf])
@pytest.mark.parametrize("inside", ["SynapticIntelligence", "XdG", "GDumb", "ShrinkAndPerturb"])
@pytest.mark.filterwarnings("ignore:task . brings new")
def test_a_task_that_cannot_begin_has_changed_nothing(kind, inside, scenario):
    strategy = kind(STRATEGIES[inside](learner(), scenario))
    strategy.fit(scenario[0])
    before, theta = strategy.state_dict(), strategy.trainer.model.flat_parameters
    loss = strategy.trainer.loss
    with pytest.raises((ValueError, ArgumentError), match=r"not ready|did not reach"):
        strategy.fit(scenario[1])
    assert _same(strategy.state_dict(), before)
    assert (strategy._begun, strategy.inner._begun) == (None, None)
    assert strategy.trainer.loss == loss
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, theta)


def test_an_error_that_does_not_say_what_is_left_is_noted(scenario):
    class Fails(continual.Strategy):
        def learn(self, task, **options):
            super().learn(task, **options)
            raise tw.DivergedError("a parameter is infinite")

    with pytest.raises(tw.DivergedError) as caught:
        Fails(learner()).fit(scenario[0])
    assert caught.value.__notes__ == ["Strategy and trainer are as they were before this call."]


def test_a_state_that_cannot_be_restored_does_not_hide_the_error(scenario):
    class Odd(continual.Strategy):
        gathers = ("late",)  # which __init__ does not make

        def learn(self, task, **options):
            raise ValueError("mine")

    strategy = Odd(learner())
    with pytest.raises(ValueError, match="mine") as caught:
        strategy.fit(scenario[0])
    assert "what Odd has gathered could not be restored: Odd has no attribute 'late'" in str(
        caught.value.__notes__
    )
    assert strategy.trainer.optimizer.steps == 0
