"""Strategies that give each task a part of the network."""

import copy
import inspect
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import EWC, MAS, PackNet, SynapticIntelligence, XdG, _batches, _hidden_units
from thalweg.errors import ArgumentError, UnsupportedError


def make(loss=None, optimizer=None, **options):
    model = nn.Sequential(
        nn.Linear(2, 30), nn.LayerNorm(30), nn.ReLU(), nn.Linear(30, 20), nn.Tanh(),
        nn.Linear(20, 6), dtype="float64", seed=3,
    )  # fmt: skip
    optimizer = optimizer or optim.Adam(lr=0.01, weight_decay=0.01)
    return tw.Trainer(model, loss=loss or nn.CrossEntropyLoss(), optimizer=optimizer, **options)


@pytest.fixture
def by_task(clouds):
    """Three tasks with two outputs each; which task a sample is from is known."""
    return continual.split(*clouds.all, tasks=3, kind="task")


def gates(strategy, task):
    """Which units are silent, from the strategy's seed alone; and a network that multiplies."""
    generator = np.random.default_rng([strategy.seed, task])
    found = []
    for width in (30, 20):
        gate = np.ones(width)
        gate[generator.permutation(width)[: round(strategy.share * width)]] = 0
        found.append(gate)
    return found


def gated(model, x, gates):
    """The outputs, with hidden units times their gates, layer by layer."""
    state = model.state_dict()
    h = x @ state["0.weight"].T + state["0.bias"]
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    h = np.maximum(h * state["1.weight"] + state["1.bias"], 0) * gates[0]
    h = np.tanh(h @ state["3.weight"].T + state["3.bias"]) * gates[1]
    return h @ state["5.weight"].T + state["5.bias"]


def test_xdg_judges_by_units_times_their_gates(by_task):
    strategy = XdG(make(nn.CrossEntropyLoss(heads=by_task.heads)), share=0.7, seed=5)
    strategy.fit(by_task[0], epochs=2)
    x = by_task[0].x_test
    for task in range(3):
        expected = gated(strategy.trainer.model, x, gates(strategy, task))
        np.testing.assert_allclose(strategy.network(task)(x), expected, rtol=1e-12, atol=1e-14)
        among = by_task[task].classes
        found = strategy.predict(x, among, task=task)
        np.testing.assert_array_equal(found, among[0] + expected[:, list(among)].argmax(axis=1))
    # In the middle of a task, when the trainer's model holds the gated weights, too.
    strategy.begin(by_task[1])
    strategy.learn(by_task[1], steps=5)
    others = [strategy.network(task)(x) for task in range(3)]
    strategy.end(by_task[1])
    for task in range(3):
        np.testing.assert_array_equal(strategy.network(task)(x), others[task])


def test_xdg_trains_as_a_gated_network_would(by_task):
    """One step of plain gradient descent, beside the slopes by differences."""
    loss = nn.CrossEntropyLoss(heads=by_task.heads)
    strategy = XdG(make(loss, optim.SGD(lr=1.0)), share=0.5)
    model, task = strategy.trainer.model, by_task[1]
    before = model.flat_parameters

    def value(theta):
        model.flat_parameters = theta
        f = gated(model, task.x, gates(strategy, 1))[:, 2:4]
        f = f - f.max(axis=1, keepdims=True)
        picked = f[np.arange(len(f)), task.y - 2]
        return np.mean(np.log(np.exp(f).sum(axis=1)) - picked)

    slope = np.array(
        [
            (value(before + step) - value(before - step)) / 2e-6
            for step in 1e-6 * np.eye(len(before))
        ]
    )
    model.flat_parameters = before
    strategy.fit(task, steps=1, batch_size=len(task.y))
    moved = before - model.flat_parameters
    # A norm's own sums know of silent units, whose weights are held all the same.
    held = np.zeros(len(before), dtype=bool)
    for units, gate in zip(_hidden_units.hidden(model), gates(strategy, 1), strict=True):
        for leading in units.incoming:
            held[leading[gate == 0]] = True
    assert not moved[held].any()
    np.testing.assert_allclose(moved[~held], slope[~held], atol=1e-8)


def test_what_leads_to_and_from_silent_units_stays_to_the_last_bit(by_task):
    """Also under Adam with weight decay, whose averages would go on moving it."""
    strategy = XdG(make(nn.CrossEntropyLoss(heads=by_task.heads)), share=0.5)
    model = strategy.trainer.model
    for task in by_task:
        before = model.flat_parameters
        strategy.fit(task, epochs=2)
        same = model.flat_parameters == before
        layers = _hidden_units.hidden(model)
        for units, gate in zip(layers, gates(strategy, task.index), strict=True):
            silent = gate == 0
            assert same[units.outgoing[:, silent]].all()
            assert all(same[leading[silent]].all() for leading in units.incoming)
        assert same.mean() < 0.9


def test_a_task_that_begins_twice_loses_nothing(by_task):
    """As after an error in the middle of it."""
    strategy = XdG(make(nn.CrossEntropyLoss(heads=by_task.heads)), share=0.5)
    before = strategy.trainer.model.flat_parameters
    strategy.begin(by_task[0])
    strategy.begin(by_task[1])
    strategy.begin(by_task[1])
    strategy.end(by_task[1])
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


def test_weights_that_a_gate_holds_at_0_are_no_part_of_the_penalty(by_task):
    """For the whole network they are where they were, and nothing pulls them."""
    inner = SynapticIntelligence(make(nn.CrossEntropyLoss(heads=by_task.heads)), 3.0)
    strategy = XdG(inner, share=0.5)
    strategy.fit(by_task[0], epochs=3)
    penalty, anchor = inner.trainer._core.penalty(), inner.anchor
    for _ in range(2):
        strategy.begin(by_task[1])
        strategy.learn(by_task[1], steps=5)
        moved = strategy._ungated() - anchor
        assert inner.trainer.penalty == pytest.approx(3.0 * inner.importance @ moved**2, rel=1e-9)
    strategy._open()
    for now, then in zip(inner.trainer._core.penalty(), penalty, strict=True):
        np.testing.assert_array_equal(now, then)
    strategy.begin(by_task[1])
    strategy.end(by_task[1])


def test_xdg_goes_by_the_latest_task_where_none_is_named(by_task):
    """The whole network is no part that was ever trained."""
    strategy = XdG(make(nn.CrossEntropyLoss(heads=by_task.heads)), share=0.5)
    x, whole = by_task[0].x_test, strategy.trainer.model
    np.testing.assert_array_equal(strategy.network()(x), whole(x))
    strategy.fit(by_task[1], epochs=2)
    strategy.fit(by_task[0], epochs=2)
    np.testing.assert_array_equal(strategy.network()(x), strategy.network(0)(x))
    np.testing.assert_array_equal(strategy.predict(x), strategy.predict(x, task=0))
    strategy.begin(by_task[2])
    np.testing.assert_array_equal(strategy.network()(x), strategy.network(2)(x))


@pytest.mark.parametrize("again", [lambda s: s, copy.deepcopy], ids=["original", "copy"])
def test_penalties_pull_only_the_part_that_learns(again, by_task):
    """Those of a strategy and of set_penalty, also if they are set while a task is learned."""
    loss = nn.CrossEntropyLoss(heads=by_task.heads)
    strategy = XdG(SynapticIntelligence(make(loss, optim.SGD(lr=0.1)), 1.0), share=0.5)
    ones = np.ones(strategy.trainer.model.num_parameters)
    strategy.trainer.set_penalty(ones, strength=0.3)
    strategy.fit(by_task[0])
    strategy.begin(by_task[1])
    strategy = again(strategy)
    trainer, inner = strategy.trainer, strategy.inner
    counts = np.ones(len(ones))
    at = trainer.model.unflatten(np.arange(len(ones)))
    for name, gate in zip(("3.weight", "5.weight"), gates(strategy, 1), strict=True):
        counts[at[name][:, gate == 0]] = 0
    assert counts.mean() < 0.9
    for strength, held in ((1.0, None), (5.0, 0.3), (5.0, 0.2)):
        inner.strength = strength
        if held is not None:
            trainer.set_penalty(ones, ones, held)
            history = strategy.learn(by_task[1], steps=1)
            theta = trainer.model.flat_parameters
            mine = strength * (counts * inner.importance) @ (theta - inner.anchor) ** 2
            own = held / 2 * counts @ (theta - 1) ** 2
            assert trainer.penalty == pytest.approx(mine + own, rel=1e-9)
            assert history["penalty"] == [trainer.penalty]
            assert inner.ratios[-1] == pytest.approx(mine / history["loss"][0], rel=1e-9)
    strategy.end(by_task[1])
    own = 0.1 * np.sum((trainer.model.flat_parameters - 1) ** 2)  # the other's anchors are here
    assert trainer.penalty == pytest.approx(own, rel=1e-9)


def test_a_penalty_that_is_removed_under_gates_does_not_come_back(by_task):
    strategy = XdG(make(nn.CrossEntropyLoss(heads=by_task.heads)), share=0.5)
    trainer = strategy.trainer
    trainer.set_penalty(np.ones(trainer.model.num_parameters))
    strategy.begin(by_task[0])
    trainer.set_penalty(None)
    assert "penalty" not in strategy.learn(by_task[0], steps=2)
    strategy.end(by_task[0])
    assert trainer.penalty == 0
    assert "penalty" not in trainer.fit(by_task[0].x, by_task[0].y)


@pytest.mark.parametrize("call", ["begin", "fit"])
def test_a_task_that_is_refused_leaves_the_gates_of_the_one_at_hand(call, by_task):
    strategy = XdG(
        SynapticIntelligence(make(nn.CrossEntropyLoss(heads=by_task.heads)), 1.0), share=0.5
    )
    other = copy.deepcopy(strategy)
    for one in (strategy, other):
        one.fit(by_task[0])
        one.begin(by_task[1])
        one.learn(by_task[1], steps=3)
    with pytest.raises(ArgumentError, match="task 0 was learned already"):
        getattr(strategy, call)(by_task[0])
    for one in (strategy, other):
        one.learn(by_task[1], steps=3, start=3)
        one.end(by_task[1])
    np.testing.assert_array_equal(
        strategy.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


class Stops(continual.Strategy):
    """Fails in the middle of every task."""

    def learn(self, task, **options):
        super().learn(task, **options)
        raise KeyboardInterrupt


@pytest.mark.parametrize("run", [False, True], ids=["fit", "run"])
@pytest.mark.parametrize(
    "kind", [XdG, PackNet, lambda t: SynapticIntelligence(t, 1.0), lambda t: continual.RWalk(t, 1)]
)
def test_a_task_that_fails_leaves_a_trainer_of_the_whole_network(kind, run, by_task):
    strategy = kind(Stops(make(nn.CrossEntropyLoss(heads=by_task.heads))))
    trainer, task = strategy.trainer, by_task[0]
    with pytest.raises(KeyboardInterrupt):
        continual.run(strategy, by_task) if run else strategy.fit(task)
    assert trainer._path() is trainer._core.walk() is None
    weights = trainer.model.state_dict()["3.weight"]
    assert weights.all()
    trainer.fit(task.x, task.y)
    assert (trainer.model.state_dict()["3.weight"] != weights).all()
    with pytest.raises(ArgumentError, match="has not begun"):
        strategy.end(task)


@pytest.mark.parametrize("kind", [XdG, PackNet])
def test_a_part_belongs_to_an_index(kind, by_task):
    """Tasks that all have the default would share it, or be judged by another's."""
    strategy = kind(make(nn.CrossEntropyLoss(heads=by_task.heads)))
    unnumbered = [continual.Task(t.x, t.y, t.x_test, t.y_test) for t in by_task]
    strategy.fit(unnumbered[0])
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(ArgumentError, match=r"task 0 was learned already.*Task\(\.\.\., index=1\)"):
        strategy.fit(unnumbered[1])
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    strategy.fit(by_task[1])


def test_xdg_forgets_less(by_task):
    """Tasks whose labels are swapped, so that one network cannot have both."""
    x, y = by_task[0].x, by_task[0].y
    x_test, y_test = by_task[0].x_test, by_task[0].y_test
    tasks = [(x, y, x_test, y_test), (x, 1 - y, x_test, 1 - y_test)]
    scenario = continual.from_arrays(tasks, kind="task")
    plain = continual.run(make(), scenario, epochs=20).r[-1]
    gated = continual.run(XdG(make(), share=0.5), scenario, epochs=20).r[-1]
    both = XdG(SynapticIntelligence(make(), 1.0), share=0.5)
    stabilized = continual.run(both, scenario, epochs=20).r[-1]
    assert plain.mean() < 0.6
    assert gated.mean() > plain.mean() + 0.1
    assert stabilized.mean() > 0.85


def test_packnet_never_forgets(by_task):
    """What it gives for a task is the same to the last bit, whatever is learned after."""
    strategy = PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads)), prune=0.6)
    outputs = []
    for task in by_task:
        strategy.fit(task, epochs=15)
        classes = list(task.classes)
        for earlier, there in enumerate(outputs):
            columns = list(by_task[earlier].classes)
            now = strategy.network(earlier)(by_task[earlier].x_test)[:, columns]
            np.testing.assert_array_equal(now, there)
        outputs.append(strategy.network(task.index)(task.x_test)[:, classes])
        found = strategy.predict(task.x_test, task.classes, task=task.index)
        assert np.mean(found == task.y_test) > 0.8  # a later task learns with what is left
    result = continual.run(
        PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads))), by_task, epochs=5
    )
    assert result.metrics()["forgetting_max"] == 0


def test_packnet_never_forgets_tasks_that_do_not_name_their_classes_nor_come_in_order(by_task):
    strategy = PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads)))
    outputs = {}
    for place in (2, 0, 1):
        task = by_task[place]
        strategy.fit(
            continual.Task(task.x, task.y, task.x_test, task.y_test, index=place), epochs=5
        )
        outputs[place] = strategy.network(place)(task.x_test)[:, list(task.classes)]
    for place, there in outputs.items():
        task = by_task[place]
        now = strategy.network(place)(task.x_test)[:, list(task.classes)]
        np.testing.assert_array_equal(now, there)
        found = strategy.predict(task.x_test, task.classes, task=place)
        assert np.mean(found == task.y_test) > 0.8


def test_packnet_leaves_frozen_weights_to_all_tasks(by_task):
    """They are neither trained nor pruned, and no task is judged without them."""
    loss = nn.CrossEntropyLoss(heads=by_task.heads)
    trainer = make(loss, optim.Adam(lr=0.01).add_group("3.*", frozen=True))
    before = trainer.model.state_dict()["3.weight"]
    strategy = PackNet(trainer)
    outputs = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a frozen layer is not one that tasks have filled
        for task in by_task:
            strategy.fit(task, epochs=3)
            outputs.append(strategy.network(task.index)(task.x_test)[:, list(task.classes)])
    owner = trainer.model.unflatten(strategy.owner)["3.weight"]
    assert (owner == -1).all()
    for task, expected in zip(by_task, outputs, strict=True):
        network = strategy.network(task.index)
        np.testing.assert_array_equal(network.state_dict()["3.weight"], before)
        np.testing.assert_array_equal(network(task.x_test)[:, list(task.classes)], expected)


def test_packnet_says_when_no_weights_are_free(by_task):
    strategy = PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads)), prune=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strategy.fit(by_task[0], steps=3)
        strategy.fit(by_task[1], steps=3)
    strategy.owner[_hidden_units.places(strategy.trainer.model)["0.weight"]] = 0
    with pytest.warns(UserWarning, match="no free weights left in 1 of 3 layers: there, task 2"):
        strategy.fit(by_task[2], steps=3)


def test_packnet_retrains_as_long_as_it_was_asked_in_all(by_task):
    """Half of all steps, in however many calls they came, wherever those began."""
    strategy = PackNet(continual.Naive(make(nn.CrossEntropyLoss(heads=by_task.heads))))
    for task in by_task[:2]:
        before = strategy.trainer.optimizer.steps
        strategy.begin(task)
        for _ in range(3):
            strategy.learn(task, steps=4, batch_size=8)
        strategy.end(task)
        assert strategy.trainer.optimizer.steps == before + 12 + 6


@pytest.mark.parametrize("stopped", [False, True])
def test_packnet_retrains_after_steps_as_after_learn(stopped, by_task, tmp_path):
    """In batches as large as those of the steps, also if one of them was stopped and resumed."""
    stepped, learned = (PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads))) for _ in range(2))
    for task in by_task[:2]:
        before = stepped.trainer.optimizer.steps
        stepped.begin(task)
        batches = list(_batches.chunks(task, seed=3, steps=12, batch_size=40, most=1))
        for at, (x, y, _) in enumerate(batches):
            stepped.step(x, y)
            if stopped and at == 5:
                stepped.save(tmp_path / "stopped")
                stepped = PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads)))
                stepped.load(tmp_path / "stopped")
        stepped.end(task)
        assert stepped.trainer.optimizer.steps == before + 12 + 6
        learned.begin(task)
        learned.learn(task, steps=12, batch_size=40)
        learned.end(task)
        np.testing.assert_array_equal(
            stepped.trainer.model.flat_parameters, learned.trainer.model.flat_parameters
        )
        np.testing.assert_array_equal(stepped.owner, learned.owner)


@pytest.mark.parametrize("sizes", [(40, 40, 40, 8), (8, 40), ("learn", 8)])
def test_packnet_retrains_in_batches_as_large_as_the_largest(sizes, by_task):
    seen = []

    class Sees(continual.Naive):
        def learn(self, task, **options):
            seen.append(options["batch_size"])
            return super().learn(task, **options)

    task = by_task[0]
    strategy = PackNet(Sees(make(nn.CrossEntropyLoss(heads=by_task.heads))))
    strategy.begin(task)
    for size in sizes:
        if size == "learn":
            strategy.learn(task, steps=3, batch_size=40)
        else:
            strategy.step(task.x[:size], task.y[:size])
    seen.clear()
    strategy.end(task)
    assert seen == [40]


def test_packnet_retrains_in_batches_that_its_steps_could_have_been(by_task):
    """A last batch of one row has no statistics, and is left out."""
    task = by_task[0].with_data(by_task[0].x[:41], by_task[0].y[:41])
    model = nn.Sequential(nn.Linear(2, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 6))
    strategy = PackNet(tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam()))
    strategy.begin(task)
    for at in (0, 10, 20, 30, 0, 10, 20, 30):
        strategy.step(task.x[at : at + 10], task.y[at : at + 10])
    strategy.end(task)
    assert strategy.trainer.optimizer.steps == 8 + 4


def test_packnet_gives_back_the_smallest_weights_of_each_layer(by_task):
    strategy = PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads)), prune=0.75, retrain=0)
    model = strategy.trainer.model
    at = _hidden_units.places(model)
    strategy.begin(by_task[0])
    strategy.learn(by_task[0], steps=20)
    before = model.flat_parameters
    strategy.end(by_task[0])
    for name, size in (("0.weight", 60), ("3.weight", 600)):
        order = np.argsort(np.abs(before[at[name]]).ravel())
        after = model.flat_parameters[at[name]].ravel()
        assert not after[order[: size * 3 // 4]].any()
        np.testing.assert_array_equal(
            after[order[size * 3 // 4 :]], before[at[name]].ravel()[order[size * 3 // 4 :]]
        )
        assert (strategy.owner[at[name]] == 0).sum() == size // 4
    head = strategy.owner[at["5.weight"]]
    assert (head[:2] == 0).all()
    assert (head[2:] == -1).all()
    # Three quarters of what is free then: 3/16 of all belong to the second task.
    strategy.fit(by_task[1], epochs=1)
    assert (strategy.owner[at["3.weight"]] == 1).sum() == 112  # 450 - round(337.5)


def test_packnet_retrains_only_what_it_keeps(by_task):
    strategy = PackNet(make(nn.CrossEntropyLoss(heads=by_task.heads)), retrain=1.0)
    model = strategy.trainer.model
    strategy.begin(by_task[0])
    strategy.learn(by_task[0], steps=10)
    before, steps = model.flat_parameters, strategy.trainer.optimizer.steps
    strategy.end(by_task[0])
    assert strategy.trainer.optimizer.steps == steps + 10
    weight = _hidden_units.places(model)["3.weight"]
    mine = strategy.owner[weight] == 0
    after = model.flat_parameters[weight]
    assert not after[~mine].any()
    assert (after[mine] != before[weight][mine]).all()


STRATEGIES = {
    "XdG": lambda t, s: XdG(t, share=0.5, seed=2),
    "XdG of SI": lambda t, s: XdG(SynapticIntelligence(t, 0.1), share=0.5),
    "PackNet": lambda t, s: PackNet(t),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings(
    "ignore:task . brings new classes", "ignore:.* is told which task", "ignore:the penalty of"
)
def test_stopped_and_resumed(name, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(STRATEGIES[name], scenario, trainer, tmp_path)


EACH_BY_ITSELF = [
    XdG,
    PackNet,
    lambda t: SynapticIntelligence(t, 1.0),
    lambda t: continual.RWalk(t, 1.0),
]
ARGUMENTS = {"SAM": (optim.SGD(lr=0.1),), "SGD": (0.1,)}
#: Those that take steps on batches.
OPTIMIZERS = [
    kind
    for name, kind in vars(optim).items()
    if inspect.isclass(kind) and issubclass(kind, optim.Optimizer)
    if name not in ("Optimizer", "LBFGS", "LevenbergMarquardt")
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_what_works_on_whole_layers_is_refused_before_it_trains(optimizer, by_task):
    """All others learn: what is refused here is what the core has no masks and integrals for."""
    made = optimizer(*ARGUMENTS.get(optimizer.__name__, ()))
    refused = []
    for kind in EACH_BY_ITSELF:
        trainer = make(nn.CrossEntropyLoss(heads=by_task.heads), made._fresh())
        try:
            strategy = kind(trainer)
        except UnsupportedError as error:
            refused.append(str(error))
        else:
            strategy.fit(by_task[0], steps=2)
        trainer.fit(by_task[0].x, by_task[0].y)
    whole = {"Adafactor", "LAMB", "Muon", "Prodigy", "Shampoo"}
    assert len(refused) == 4 * (optimizer.__name__ in whole)
    assert all(optimizer.__name__ in text for text in refused)


def test_whole_layers_inside_of_sam_are_whole_layers(by_task):
    with pytest.raises(UnsupportedError, match="XdG tracks or freezes each parameter separately"):
        XdG(make(optimizer=optim.SAM(optim.Muon())))


def test_what_is_wrong_is_said(trainer):
    for inner in (EWC(trainer(), 1.0), MAS(trainer(), 1.0)):
        with pytest.raises(UnsupportedError, match="use SynapticIntelligence"):
            XdG(inner)
    for wrong in ({"share": 1.0}, {"share": -0.1}, {"seed": -1}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            XdG(trainer(), **wrong)
    for wrong in ({"prune": 0}, {"prune": 1}, {"retrain": -1}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            PackNet(trainer(), **wrong)
    for block, width in ((nn.Residual, 4), (nn.Concatenate, 8)):
        blocks = nn.Sequential(
            nn.Linear(2, 4), block(nn.Linear(4, 4), nn.ReLU()), nn.Linear(width, 2)
        )
        blocks = tw.Trainer(blocks, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        for kind in (XdG, PackNet):
            with pytest.raises(UnsupportedError, match=block.__name__):
                kind(blocks)
    flat = tw.Trainer(nn.Sequential(nn.Linear(2, 2)), loss=nn.MSELoss(), optimizer=optim.Adam())
    with pytest.raises(ArgumentError, match="no hidden units"):
        XdG(flat)
