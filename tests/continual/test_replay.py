"""Baselines and replay, against the same training written out by hand."""

import copy

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import BalancedBuffer, ReservoirBuffer
from thalweg.errors import ArgumentError, ShapeError, UnsupportedError


def watched(trainer):
    """Note what `trainer.fit` is given."""
    seen = []
    fit = trainer.fit

    def watching(x, y, **options):
        seen.append((x.copy(), y.copy(), options["sample_weight"], options["batch_size"]))
        return fit(x, y, **options)

    trainer.fit = watching
    return seen


def is_in(rows, data):
    return (rows[:, None] == data[None]).all(axis=2).any(axis=1)


@pytest.mark.parametrize("weighting", ["tasks", "rows"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_every_batch_holds_new_and_kept_samples(weighting, drop_last, scenario, trainer):
    mine = trainer()
    strategy = continual.Replay(mine, 30, batch_size=8, weighting=weighting)
    strategy.fit(scenario[0])
    strategy.fit(scenario[1])
    memory = strategy.buffer.rows()["x"].copy()
    seen = watched(mine)
    strategy.fit(scenario[2], epochs=2, batch_size=50, drop_last=drop_last)  # 120 rows
    kept = []
    sizes = []
    for x, y, weight, size in seen:
        assert size == 58
        for first in range(0, len(x), size):
            rows, labels = x[first : first + size], y[first : first + size]
            new = len(rows) - 8
            sizes.append(new)
            assert is_in(rows[:new], scenario[2].x).all()
            assert is_in(rows[new:], memory).all()
            assert set(labels[:new]) <= {4, 5}
            assert set(labels[new:]) <= {0, 1, 2, 3}
            kept.append(rows[new:])
            if weighting == "rows":
                assert weight is None
            else:  # a third for the third task
                mine_too = weight[first : first + size]
                np.testing.assert_allclose(mine_too[:new], 1 / 3 / new)
                np.testing.assert_allclose(mine_too[new:], 2 / 3 / 8)
    assert sizes == [50, 50] * 2 if drop_last else [50, 50, 20] * 2
    # 30 kept samples are 3 batches of 8 in a pass: no repetition within it.
    assert len(np.unique(np.concatenate(kept[:3]), axis=0)) == 24
    assert not np.array_equal(kept[0], kept[3])  # the next pass has another order


def test_the_weighted_loss_is_the_mixture_of_the_two_means(scenario, trainer):
    """One step equals one by hand along the gradient of (1/k) L_new + (1 - 1/k) L_replay."""
    mine, by_hand = trainer(), trainer()
    strategy = continual.Replay(mine, 20, batch_size=16)
    for task in scenario[:2]:
        strategy.begin(task)
        strategy.end(task)  # kept, without any step
    strategy.begin(scenario[2])
    seen = watched(mine)
    strategy.learn(scenario[2], steps=1, batch_size=10)
    x, y = seen[0][:2]
    gradient = 0
    for rows, share in ((slice(10), 1 / 3), (slice(10, 26), 2 / 3)):
        by_hand.model.zero_grad()
        by_hand.backward(x[rows], y[rows])
        gradient = gradient + share * by_hand.model.flat_gradients
    by_hand.model.flat_gradients = gradient
    by_hand.optimizer.step(by_hand.model)
    np.testing.assert_allclose(mine.model.flat_parameters, by_hand.model.flat_parameters, atol=2e-6)


class Logged(continual.Strategy):
    """Does nothing, by its own step: tasks are learned by it."""

    def step(self, x, y):
        return super().step(x, y)


@pytest.mark.parametrize("inside", [lambda s: s, lambda s: continual.EWC(s, 10.0)])
@pytest.mark.parametrize("how", ["learn", "step"])
def test_steps_of_a_task_weight_the_two_means_too(how, inside, scenario):
    """Each step goes along the gradient of (1/k) L_new + (1 - 1/k) L_replay, by plain passes."""
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6), dtype="float64", seed=1)
    mine = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    inner = inside(mine)
    strategy = Logged(continual.Replay(inner, 20, batch_size=99))  # all that is kept
    for task in scenario[:2]:
        strategy.begin(task)
        strategy.end(task)
    before, kept = model.flat_parameters, strategy.inner.buffer.rows()
    task = scenario[2]
    strategy.begin(task)
    if how == "learn":
        found = strategy.learn(task, steps=1, batch_size=30, shuffle=False)["loss"][0]
    else:
        found = strategy.step(task.x[:30], task.y[:30])
    after = model.flat_parameters
    model.flat_parameters = before
    gradient, loss = 0, 0
    for x, y, share in ((task.x[:30], task.y[:30], 1 / 3), (kept["x"], kept["y"], 2 / 3)):
        model.zero_grad()
        loss += share * mine.backward(x, y)
        gradient = gradient + share * model.flat_gradients
    assert found == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(after, before - 0.1 * gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("how", ["learn", "step"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ignore_index": 4},
        {"weight": [1.0, 2.0, 3.0, 4.0, 5.0, 60.0]},
        {"reduction": "sum"},
        {"reduction": "sum", "ignore_index": 4, "weight": [1.0, 2.0, 3.0, 4.0, 5.0, 60.0]},
    ],
)
def test_tasks_count_equally_whatever_the_loss_counts(options, how, scenario):
    """(1/k) L_new + (1 - 1/k) L_replay by PyTorch's means; a sum is that, per new row."""
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(2, 6), dtype="float64", seed=1)
    mine = tw.Trainer(model, loss=nn.CrossEntropyLoss(**options), optimizer=optim.SGD(lr=0.01))
    strategy = continual.Replay(mine, 20, batch_size=99)  # all that is kept
    domain = continual.Scenario([t.with_data(t.x, t.y) for t in scenario], "domain")
    for task in domain[:2]:
        strategy.begin(task)
        strategy.end(task)
    kept, task = strategy.buffer.rows(), domain[2]
    before = model.flat_parameters
    mine.loss = nn.CrossEntropyLoss(**options)  # all classes compete
    strategy.begin(task.with_data(task.x, task.y))
    if how == "learn":
        strategy.learn(task, steps=1, batch_size=30, shuffle=False)
    else:
        strategy.step(task.x[:30], task.y[:30])
    theta = torch.tensor(before, requires_grad=True)
    weight = options.get("weight")
    weight = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    total = 0
    for x, y, share in ((task.x[:30], task.y[:30], 1 / 3), (kept["x"], kept["y"], 2 / 3)):
        logits = torch.tensor(x, dtype=torch.float64) @ theta[:12].reshape(6, 2).T + theta[12:]
        total = total + share * torch.nn.functional.cross_entropy(
            logits, torch.tensor(y), weight, ignore_index=options.get("ignore_index", -100)
        )
    if "reduction" in options:
        rows = task.y[:30]
        rows = rows[rows != options.get("ignore_index")]
        total = total * (len(rows) if weight is None else weight[rows].sum())
    (gradient,) = torch.autograd.grad(total, theta)
    moved = before - 0.01 * gradient.numpy()
    np.testing.assert_allclose(model.flat_parameters, moved, rtol=1e-12, atol=1e-14)


def test_a_batch_whose_new_rows_are_all_ignored_is_of_kept_ones(scenario):
    """As the loss of all rows is; there is no mean over no rows."""
    model = nn.Sequential(nn.Linear(2, 6), dtype="float64", seed=1)
    mine = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.01))
    strategy = continual.Replay(mine, 20, batch_size=99)
    strategy.fit(scenario[0])
    kept = strategy.buffer.rows()
    strategy.begin(scenario[1])
    expected = mine.evaluate(kept["x"], kept["y"])["loss"]
    found = strategy.step(scenario[1].x[:9], np.full(9, -100))
    assert found == pytest.approx(expected, rel=1e-12)


def test_tasks_are_counted_and_need_no_index(scenario, trainer):
    """The third task has a third of the loss, also of tasks that all have the index 0."""
    mine = trainer()
    strategy = continual.Replay(mine, 30, batch_size=8)
    for task in scenario:
        seen = watched(mine)
        strategy.fit(continual.Task(task.x, task.y, task.x_test, task.y_test), batch_size=40)
    np.testing.assert_allclose(seen[0][2][:40], 1 / 3 / 40)
    np.testing.assert_allclose(seen[0][2][40:48], 2 / 3 / 8)


@pytest.mark.parametrize("name", ["Replay", "DER", "GDumb"])
def test_a_balanced_buffer_needs_no_index(name, clouds, trainer):
    """Equally many of each class of each task, in tasks that all have the index 0, too."""
    make = getattr(continual, name)
    strategies = [make(trainer(outputs=2), BalancedBuffer(12)) for _ in range(2)]
    for task in continual.split(*clouds.all, tasks=3, kind="domain"):
        alone = continual.Task(task.x, task.y, task.x_test, task.y_test)
        for strategy, one in zip(strategies, (alone, task), strict=True):
            strategy.begin(one)
            strategy.learn(one, steps=4, batch_size=30, shuffle=False)
            strategy.end(one)
    groups = strategies[0].buffer.state_dict()["groups"]
    assert {name: len(columns["y"]) for name, columns in groups.items()} == {
        f"{task}/{label}": 2 for task in range(3) for label in range(2)
    }
    if name != "Replay":  # its kept samples are drawn by the index, too
        return
    for key, columns in strategies[1].buffer.state_dict()["groups"].items():
        np.testing.assert_array_equal(columns["x"], groups[key]["x"])


def of_numbers(outputs=1):
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, outputs))
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=tw.optim.Adam())


@pytest.mark.parametrize(
    "make",
    [
        lambda t: continual.Replay(t, 20),
        lambda t: continual.Naive(continual.AGEM(t, 20)),
        lambda t: continual.GDumb(t, 20),
    ],
)
def test_what_cannot_be_kept_together_is_refused_before_it_is_learned(make, scenario, trainer):
    """Not at its end; but any order of types that go together is learned."""
    first, second, _ = scenario
    shares = np.eye(6, dtype=np.float32)[second.y]
    strategy = make(trainer())
    strategy.fit(first)
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(ShapeError, match=r"keeps rows of y of shape \(\); got \(6,\)"):
        strategy.fit(second.with_data(second.x, shares))
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    assert strategy.trainer.loss.active == first.active
    bytes_, places = (first.x * 9 + 99).astype(np.uint8), first.y.astype(np.uint8)
    for parts in ([(bytes_, places), (first.x, first.y)], [(first.x, first.y), (bytes_, places)]):
        strategy = make(trainer())
        for index, (x, y) in enumerate(parts):
            strategy.fit(continual.Task(x, y, x, y, index))
        kept = strategy.inner.buffer if strategy.inner else strategy.buffer
        assert [kept.rows()[name].dtype for name in "xy"] == [np.float32, np.int64]


@pytest.mark.parametrize(
    "make",
    [
        lambda t: continual.Replay(t, 9),
        lambda t: continual.Replay(t, BalancedBuffer(4)),
        lambda t: continual.AGEM(t, 9),
    ],
)
def test_whole_numbers_are_no_labels_where_the_loss_takes_numbers(make):
    """A stream, and tasks, are kept as the trainer reads them, whatever comes first."""
    targets = [[1], [0.5], [[2]], [[0.25]], [True], np.array([7], np.uint8)]
    mixed, plain = make(of_numbers()), make(of_numbers())
    for number, y in enumerate(targets):
        x, column = [[number, 1]], np.reshape(y, (1, 1)).astype(np.float32)
        assert mixed.step(x, y) == plain.step(x, column)
    for name, kept in plain.buffer.rows().items():
        np.testing.assert_array_equal(mixed.buffer.rows()[name], kept)
    assert kept.dtype == np.float32
    x, whole = np.ones((30, 2), np.float32), np.arange(-9, 21)  # more numbers than places
    for learner in (make(of_numbers()), continual.GDumb(of_numbers(), 9)):
        for index, y in enumerate([whole, whole[:, np.newaxis] / 2]):
            learner.fit(continual.Task(x, y, x, y, index))
        assert learner.buffer.rows()["y"].shape == (len(learner.buffer), 1)


def test_a_buffer_that_was_filled_by_hand_keeps_its_shape():
    buffer = ReservoirBuffer(9)
    buffer.add(x=[[1.0, 2.0]], y=[0.5])
    strategy = continual.Replay(of_numbers(), buffer)
    strategy.step([[2, 1]], [[1]])
    assert buffer.rows()["y"].tolist() == [0.5, 1]


def test_yes_and_no_are_classes_to_a_buffer():
    trainer = tw.Trainer(of_numbers().model, loss=nn.BCEWithLogitsLoss(), optimizer=optim.Adam())
    strategy = continual.Replay(trainer, BalancedBuffer(4))
    for label in [0] * 20 + [1] * 2:
        strategy.step([[label, 1]], [label])
    assert sorted(strategy.buffer.rows()["y"]) == [0, 0, 1, 1]


def test_gdumb_keeps_samples_of_tasks_that_it_learns(scenario):
    """Not of one that is refused when it is learned; else they would be there twice."""
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), seed=0)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=tw.optim.Adam())
    strategy, first = continual.GDumb(trainer, 33), scenario[0]
    task = continual.Task(first.x[:33], first.y[:33], first.x, first.y)
    with pytest.raises(ArgumentError, match="needs 2 rows or more"):
        strategy.fit(task, batch_size=32)
    assert len(strategy.buffer) == 0
    strategy.fit(task, batch_size=33)
    assert len(strategy.buffer) == 33


def test_what_gdumb_learns_is_known_once_a_task_has_begun(scenario, trainer):
    strategy, (first, second, _) = continual.GDumb(trainer(), 33), scenario
    with pytest.raises(ArgumentError, match=r"^task 0 cannot be learned, .* strategy\.begin"):
        strategy.task_to_learn(first)
    strategy.fit(first)
    with pytest.raises(ArgumentError, match=r"^task 1 cannot be learned, .* strategy\.begin"):
        strategy.task_to_learn(second)
    strategy.begin(second)
    assert {*strategy.task_to_learn(second).y.tolist()} == {0, 1, 2, 3}


@pytest.mark.parametrize("saved", [False, True])
def test_gdumb_keeps_no_samples_of_a_task_that_did_not_end(saved, scenario, trainer, tmp_path):
    strategy, plain = (continual.GDumb(trainer(), 40) for _ in "ab")
    strategy.begin(scenario[0])
    strategy.learn(scenario[0], steps=2)
    if saved:
        strategy.save(tmp_path / "strategy")
        strategy = continual.GDumb(trainer(), 40)
        strategy.load(tmp_path / "strategy")
    strategy.begin(scenario[0])
    plain.begin(scenario[0])
    assert len(strategy.buffer) == len(plain.buffer) == 40
    assert strategy.buffer._seen == plain.buffer._seen
    strategy.learn(scenario[0], steps=2)
    strategy.end(scenario[0])
    strategy.begin(scenario[1])  # now the samples of the first stay
    assert len(strategy.buffer._seen) == 4


@pytest.mark.parametrize("how", ["fit", "begin", "step"])
def test_logits_of_another_number_of_outputs_are_refused_before_anything_is_learned(
    how, scenario, trainer
):
    buffer = continual.ReservoirBuffer(9)
    continual.DERpp(trainer(outputs=4), buffer).fit(scenario[0])
    wider = continual.DERpp(trainer(outputs=6), buffer)
    before, task = str(buffer.state_dict()), scenario[1]
    arguments = (task.x, task.y) if how == "step" else (task,)
    with pytest.raises(ShapeError, match=r"rows of logits of shape \(4,\); got \(6,\)"):
        getattr(wider, how)(*arguments)
    assert str(buffer.state_dict()) == before
    assert wider.trainer.optimizer.steps == 0


def test_a_buffer_is_of_one_strategy(scenario, trainer):
    buffer = ReservoirBuffer(9)
    with pytest.raises(ArgumentError, match="buffer is already used by Replay inside AGEM"):
        continual.AGEM(continual.Naive(continual.Replay(trainer(), buffer)), buffer)
    buffer.add(x=scenario[0].x, y=scenario[0].y)
    with pytest.raises(ArgumentError, match=r"DERpp keeps x, y, logits .* this buffer has x, y:"):
        continual.DERpp(trainer(), buffer)
    continual.Replay(trainer(), buffer).fit(scenario[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda t: continual.Replay(t, 20),
        lambda t: continual.AGEM(t, 20),
        lambda t: continual.GEM(t, 20),
        lambda t: continual.GDumb(t, 20),
        lambda t: continual.DERpp(t, 20),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has learned 3 tasks before")
def test_kept_samples_of_classes_that_do_not_compete_are_said_to_be_such(make, scenario, trainer):
    """As of a run that was begun again with the same strategy: the rows are not those of a task."""
    strategy = make(trainer())
    continual.run(strategy, scenario)
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(
        ArgumentError,
        match=r"keeps samples of the classes \[2, 3, 4, 5\] .* but only the classes \(0, 1\)",
    ):
        continual.run(strategy, scenario)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: continual.Replay(t, 60),
        lambda t: continual.Replay(t, BalancedBuffer(60)),
        lambda t: continual.AGEM(t, 60),
        lambda t: continual.GDumb(t, 60),
        lambda t: continual.GEM(t, 60),
        lambda t: continual.NearestMean(
            continual.Replay(t, BalancedBuffer(60, select="herding"))
        ),
    ],
)  # fmt: skip
def test_rows_whose_label_is_ignored_are_not_kept(make, scenario, trainer):
    """They would take the place of others, and be a class of their own."""
    strategy = make(trainer())
    for task in scenario:
        y = task.y.copy()
        y[::3] = -100
        strategy.fit(continual.Task(task.x, y, task.x_test, task.y_test, task.index))
    if isinstance(strategy, continual.GEM):
        kept = np.concatenate([memory["y"] for memory in strategy._memories])
    else:
        kept = getattr(strategy, "buffer", None) or strategy.inner.buffer
        kept = kept.rows()["y"]
    assert set(kept.tolist()) == set(range(6))
    if not isinstance(strategy, continual.GEM | continual.NearestMean | continual.GDumb):
        strategy.step(scenario[0].x[:2], [-100, 3])
    assert set(strategy.predict(scenario[0].x).tolist()) <= set(range(6))


def test_replay_remembers(scenario, trainer):
    naive = continual.run(continual.Naive(trainer()), scenario, epochs=20)
    replay = continual.run(continual.Replay(trainer(), 60), scenario, epochs=20)
    assert continual.metrics.average_accuracy(naive.r) < 0.45
    assert continual.metrics.average_accuracy(replay.r) > 0.75


def test_cumulative_learns_the_union(scenario, trainer):
    """The second task is as a task of all the rows so far."""
    one, other = trainer(), trainer()
    cumulative = continual.Cumulative(one, scenario)
    cumulative.fit(scenario[0])
    cumulative.fit(scenario[1], steps=9)
    strategy = continual.Strategy(other)
    strategy.fit(scenario[0])
    x, y = (np.concatenate([getattr(t, n) for t in scenario[:2]]) for n in "xy")
    strategy.fit(scenario[1].with_data(x, y), steps=9)
    np.testing.assert_array_equal(one.model.flat_parameters, other.model.flat_parameters)


def test_joint_learns_everything_from_the_beginning(scenario, trainer):
    result = continual.run(continual.Joint(trainer(), scenario), scenario, epochs=20)
    assert (result.r[0] > 0.5).all()
    assert continual.metrics.average_accuracy(result.r) > 0.8


@pytest.mark.parametrize("strategy", ["FromScratch", "GDumb"])
def test_beginning_anew(strategy, scenario, trainer):
    """The last task is learned as if there had been none before."""
    mine, fresh = trainer(dropout=0.2), trainer(dropout=0.2)
    make = {"FromScratch": continual.FromScratch, "GDumb": lambda t: continual.GDumb(t, 60)}
    begun = make[strategy](mine)
    for task in scenario:
        begun.fit(task, epochs=2)
    last = scenario[2]
    if strategy == "GDumb":
        rows = begun.buffer.rows()
        assert np.bincount(rows["y"]).tolist() == [10] * 6
        last = last.with_data(rows["x"], rows["y"])
    continual.Strategy(fresh).fit(last, steps=8)  # two passes over 120 rows
    np.testing.assert_array_equal(mine.model.flat_parameters, fresh.model.flat_parameters)


def test_the_nearest_mean_by_hand(scenario, trainer):
    mine = trainer()
    strategy = continual.NearestMean(
        continual.Replay(mine, BalancedBuffer(12, select="herding"), batch_size=6)
    )
    before = strategy.predict(scenario[0].x_test, (0, 1))
    np.testing.assert_array_equal(before, mine.model(scenario[0].x_test)[:, :2].argmax(axis=1))
    for task in scenario:
        strategy.fit(task, epochs=5)
    state = mine.model.state_dict()

    def features(x):
        hidden = np.maximum(x @ state["0.weight"].T + state["0.bias"], 0)
        return hidden / np.linalg.norm(hidden, axis=1, keepdims=True)

    rows = strategy.inner.buffer.rows()
    means = np.stack([features(rows["x"][rows["y"] == c]).mean(axis=0) for c in range(6)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    x = scenario[1].x_test
    distances = np.linalg.norm(features(x)[:, None] - means[None], axis=2)
    np.testing.assert_array_equal(strategy.predict(x), distances.argmin(axis=1))
    np.testing.assert_array_equal(strategy.predict(x, (2, 3)), 2 + distances[:, 2:4].argmin(axis=1))


@pytest.mark.parametrize("buffer", [ReservoirBuffer, BalancedBuffer])
def test_means_are_computed_when_they_change(buffer, clouds, trainer, monkeypatch):
    """Whatever changes them: each time, they are those of a copy, which has computed none."""
    scenario = continual.split(*clouds.all, tasks=3, kind="task")
    strategy = continual.NearestMean(continual.Replay(trainer(), buffer(30)))
    strategy.fit(scenario[0], epochs=3)
    x, mine = scenario[1].x_test, strategy.trainer
    model, kept, state = mine.model, strategy.inner.buffer, strategy.state_dict()
    later = scenario[1]

    def change_one_weight():
        theta = model.flat_parameters
        theta[3] += 0.5
        model.flat_parameters = theta

    changes = [
        lambda: strategy.step(later.x[:9], later.y[:9]),
        lambda: mine.step(later.x, later.y),
        change_one_weight,
        lambda: strategy.begin(later),
        lambda: strategy.learn(later, steps=2),
        lambda: strategy.end(later),
        lambda: kept.add(x=later.x, y=later.y),
        lambda: kept.load_state_dict(state["inner"]["buffer"]["its state"]),
        lambda: strategy.load_state_dict(state),
    ]
    rows, asked = type(kept).rows, []
    monkeypatch.setattr(type(kept), "rows", lambda self: asked.append(self) or rows(self))
    features = later.x[:60]
    for change in changes:
        change()
        fresh = copy.deepcopy(strategy)
        np.testing.assert_array_equal(strategy.predict(features), fresh.predict(features))
        asked.clear()
        strategy.predict(x), strategy.predict(x, (0, 1))
        assert not asked


def test_the_nearest_mean_judges_inside_of_others_too(clouds, trainer):
    known = continual.split(*clouds.all, tasks=3, kind="task")
    loss = nn.CrossEntropyLoss(heads=known.heads)
    strategy = continual.Naive(continual.NearestMean(continual.Replay(trainer(loss=loss), 60)))
    for task in known:
        strategy.fit(task, epochs=2)
    rows = strategy.inner.inner.buffer.rows()
    for task in known:
        state = strategy.network(task.index).state_dict()

        def features(x, state=state):
            hidden = np.maximum(x @ state["0.weight"].T + state["0.bias"], 0)
            return hidden / np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-30)

        first, second = task.classes
        means = [features(rows["x"][rows["y"] == c]).mean(axis=0) for c in (first, second)]
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        near = features(task.x_test) @ means.T
        found = strategy.predict(task.x_test, task.classes, task=task.index)
        assert np.mean(found == np.where(near[:, 0] >= near[:, 1], first, second)) > 0.98


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.MSELoss()])
def test_the_nearest_mean_needs_a_loss_of_classes(loss, trainer):
    """The score would be of the outputs, and the means without effect."""
    with pytest.raises(UnsupportedError, match="assigns one class to each sample"):
        continual.NearestMean(continual.Replay(trainer(loss=loss), 20))


def test_a_stream_with_replay(scenario, trainer):
    mine, plain = trainer(), trainer()
    strategy = continual.Replay(mine, 40, batch_size=9)
    for x, y in continual.stream(scenario, batch_size=1, seed=1):
        strategy.step(x, y)
    for x, y in continual.stream(scenario, batch_size=1, seed=1):
        continual.Naive(plain).step(x, y)
    x = np.concatenate([task.x_test for task in scenario])
    y = np.concatenate([task.y_test for task in scenario])
    assert strategy.buffer.seen == 360
    assert np.mean(strategy.predict(x) == y) > 0.7 > np.mean(plain.model(x).argmax(1) == y)


@pytest.mark.parametrize("how", ["stream", "hand"])
def test_what_is_kept_before_the_first_task_counts_as_a_task(how, scenario, trainer):
    """Until one has ended: then it is that which counts, and what came before belongs to it."""
    mine = trainer()
    strategy = continual.Replay(mine, 40, batch_size=8)
    first, *others = scenario
    if how == "stream":
        strategy.step(first.x, first.y)
    else:
        strategy.buffer.add(x=first.x, y=first.y)
    for task, share in zip(others, (1 / 2, 1 / 2), strict=True):
        seen = watched(mine)
        strategy.fit(task, batch_size=40)
        np.testing.assert_allclose(seen[0][2][:40], share / 40)
        np.testing.assert_allclose(seen[0][2][40:48], (1 - share) / 8)


#: Strategies that store a task's samples when it ends, with room for all of them.
KEEP = {
    "Replay": lambda t: continual.Replay(t, 400),
    "Replay balanced": lambda t: continual.Replay(t, BalancedBuffer(400)),
    "AGEM": lambda t: continual.AGEM(t, 400),
    "AGEM of Replay": lambda t: continual.AGEM(continual.Replay(t, 400), 400),
    "EWC of Replay": lambda t: continual.EWC(continual.Replay(t, 400), 1.0),
    "Replay of EWC": lambda t: continual.Replay(continual.EWC(t, 1.0), 400),
}


def buffers(strategy):
    """What is in the buffers of a chain, and how many samples they were offered."""
    found, link = [], strategy
    while link is not None:
        if "buffer" in vars(link):
            state = link.buffer.state_dict()
            found.append({name: state[name] for name in state if name != "generator"})
        link = link.inner
    return found


@pytest.mark.filterwarnings("ignore:the penalty of")
@pytest.mark.parametrize("how", ["learn", "step", "both", "resumed", "neither"])
@pytest.mark.parametrize("name", KEEP)
def test_a_row_of_a_task_is_kept_once(name, how, scenario, trainer, tmp_path):
    """However it was learned, and however often: as by `fit`."""
    strategy, fitted = KEEP[name](trainer()), KEEP[name](trainer())
    for task in scenario[:2]:
        fitted.fit(task)
        strategy.begin(task)
        if how in ("learn", "both"):
            strategy.learn(task, steps=5)
        if how in ("step", "both", "resumed"):
            for at in (0, 40, 80, 0, 40, 80):
                strategy.step(task.x[at : at + 40], task.y[at : at + 40])
        if how == "resumed":
            strategy.save(tmp_path / "stopped")
            strategy = KEEP[name](trainer())
            strategy.load(tmp_path / "stopped")
        strategy.end(task)
        np.testing.assert_equal(buffers(strategy), buffers(fitted))
    # Of a stream, each is kept when it comes.
    strategy.step(scenario[1].x[:7], scenario[1].y[:7])
    strategy.step(scenario[1].x[:7], scenario[1].y[:7])
    holder = strategy if "buffer" in vars(strategy) else strategy.inner
    assert len(holder.buffer) == 240 + 14


def test_steps_of_a_task_need_no_room_besides_that_of_the_task(clouds, trainer):
    """Its rows are of the group of the task, and not, as a stream's, of another one."""
    _, one, two = continual.split(*clouds.all, tasks=3, kind="task")
    strategy = continual.Replay(trainer(), BalancedBuffer(4))
    strategy.fit(one)
    strategy.begin(two)
    strategy.step(two.x, two.y)
    with pytest.raises(ShapeError, match="rows of x of shape"):
        strategy.step(two.x[:, :1], two.y)
    strategy.end(two)
    assert len(strategy.buffer) == 4
    with pytest.raises(ArgumentError, match="no room for a sample of each of 6 classes"):
        strategy.step(two.x, two.y)


STRATEGIES = {
    "Replay": lambda t, s: continual.Replay(t, 30, batch_size=7),
    "Replay balanced": lambda t, s: continual.Replay(t, BalancedBuffer(5, per_class=True)),
    "herding": lambda t, s: continual.NearestMean(
        continual.Replay(t, BalancedBuffer(12, select="herding"))
    ),
    "GDumb": lambda t, s: continual.GDumb(t, 12),
    "Cumulative": lambda t, s: continual.Cumulative(t, s),
    "FromScratch of Joint": lambda t, s: continual.FromScratch(continual.Joint(t, s)),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_stopped_and_resumed(name, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(STRATEGIES[name], scenario, trainer, tmp_path)


def test_what_is_wrong_is_said(scenario, trainer):
    with pytest.raises(ArgumentError, match="weighting must be one of"):
        continual.Replay(trainer(), 5, weighting="1/k")
    with pytest.raises(ArgumentError, match="around a strategy with a buffer"):
        continual.NearestMean(trainer())
    linear = tw.Trainer(
        nn.Sequential(nn.Linear(2, 6)), loss=nn.CrossEntropyLoss(), optimizer=tw.optim.Adam()
    )
    with pytest.raises(ArgumentError, match="no features"):
        continual.NearestMean(continual.Replay(linear, 5))
    with pytest.raises(ArgumentError, match="scenario must be"):
        continual.Joint(trainer(), None)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: continual.GDumb(t, 30),
        lambda t: continual.Replay(t, 30),
        lambda t: continual.AGEM(t, 30),
        lambda t: continual.GEM(t, 10),
        lambda t: continual.OGD(t, 5),
        lambda t: continual.DER(t, 30),
        lambda t: continual.DERpp(t, 30),
        lambda t: continual.ERACE(t, 30),
        continual.LwF,
        lambda t: continual.FROMP(t, 6, 1.0),
        lambda t: continual.OnlineLaplace(t, 100.0),
        lambda t: continual.ShrinkAndPerturb(continual.Replay(t, 30)),
    ],
)
@pytest.mark.filterwarnings("ignore:task 1 brings new classes")
def test_weights_of_samples_are_refused_in_the_first_task_and_later(make, scenario):
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 6))
    strategy = make(tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam()))
    for task in scenario[:2]:
        before, active = strategy.trainer.model.flat_parameters, strategy.trainer.loss.active
        with pytest.raises(UnsupportedError, match="does not support tasks with sample_weight"):
            strategy.fit(task.with_data(task.x, task.y, np.ones(len(task.y))))
        np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
        assert strategy.trainer.loss.active == active
        strategy.fit(task)
