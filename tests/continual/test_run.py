"""Runs: what is learned, how it is judged, and that a run can be left and taken up anywhere."""

import csv
import dataclasses
import json

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg._safetensors import load, save
from thalweg.errors import ArgumentError, DataError, UnsupportedError


class Stopped(Exception):
    """Ends a run in the middle."""


class Fragile(continual.Strategy):
    """Breaks when it is asked for a step beyond `limit`."""

    limit = None

    def learn(self, task, *, steps, start=0, **options):
        if self.limit is not None and task.index * 1000 + start + steps > self.limit:
            raise Stopped
        return super().learn(task, steps=steps, start=start, **options)


def test_a_run_is_the_same_as_fits_by_hand(scenario, trainer):
    run, by_hand = trainer(), trainer()
    result = continual.run(run, scenario, epochs=3, batch_size=25)
    strategy = continual.Strategy(by_hand)
    for task in scenario:
        strategy.fit(task, epochs=3, batch_size=25)
    np.testing.assert_array_equal(run.model.flat_parameters, by_hand.model.flat_parameters)
    assert result.ends == [15, 30, 45]  # 120 rows are 5 batches, the last of 20 rows
    assert [history.epochs for history in result.histories] == [3, 3, 3]


def test_each_pass_takes_every_row_once_in_an_order_of_its_own(scenario):
    from thalweg.continual import _batches

    def rows(start, steps, **options):
        parts = _batches.chunks(
            scenario[1], seed=3, steps=steps, start=start, batch_size=25, **options
        )
        return np.concatenate([x[:, 0] for x, _, _ in parts])

    whole = rows(0, 10)
    first, second = whole[:120], whole[120:]
    np.testing.assert_array_equal(np.sort(first), np.sort(scenario[1].x[:, 0]))
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    assert not np.array_equal(first, second)
    # The next task, too.
    again = continual.Task(scenario[1].x, scenario[1].y, None, None, index=2)
    other = next(_batches.chunks(again, seed=3, steps=5, batch_size=25))[0][:, 0]
    assert not np.array_equal(other, first)
    # However the steps are dealt out, and however many are gathered at once.
    np.testing.assert_array_equal(np.concatenate([rows(0, 3), rows(3, 4), rows(7, 3)]), whole)
    np.testing.assert_array_equal(rows(0, 10, most=1), whole)
    # Without the last batch, passes are shorter; in order, they are the rows themselves.
    np.testing.assert_array_equal(rows(0, 4, drop_last=True), first[:100])
    np.testing.assert_array_equal(rows(0, 5, shuffle=False), scenario[1].x[:, 0])


def test_steps_and_epochs_agree(scenario, trainer):
    by_epochs, by_steps = trainer(), trainer()
    continual.run(by_epochs, scenario, epochs=2, batch_size=32, drop_last=True)
    result = continual.run(by_steps, scenario, steps=6, batch_size=32, drop_last=True)
    np.testing.assert_array_equal(by_epochs.model.flat_parameters, by_steps.model.flat_parameters)
    assert result.ends == [6, 12, 18]


@pytest.mark.parametrize("kind", ["task", "domain", "class"])
def test_the_matrix_holds_accuracies_among_the_classes_that_compete(kind, clouds, trainer):
    scenario = continual.split(*clouds.all, tasks=3, kind=kind)
    loss = nn.CrossEntropyLoss(heads=scenario.heads if kind == "task" else None)
    mine = trainer(outputs=2 if kind == "domain" else 6, loss=loss)
    result = continual.run(mine, scenario, epochs=5)
    for task in scenario:
        outputs = mine.model(task.x_test).astype(float)
        if kind == "task":
            outputs[:, [c for c in range(6) if c not in task.classes]] = -np.inf
        expected = np.mean(outputs.argmax(axis=1) == task.y_test)
        assert result.r[-1, task.index] == expected
    np.testing.assert_array_equal(result.curve[-1], result.r[-1])
    assert np.isfinite(result.r).all()
    np.testing.assert_array_equal(
        result.baseline,
        continual.run(trainer(outputs=mine.model.out_features, loss=loss), scenario).baseline,
    )
    assert result.metrics()["average_accuracy"] == pytest.approx(result.r[-1].mean())
    assert result.metrics()["forgetting_first"] == pytest.approx(-result.metrics()["bwt_gem"])


def test_numbers_are_judged_by_r2(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    x = rng.standard_normal((100, 3))
    scenario = continual.from_arrays([(x, x[:, :2] ** 2), (x, x[:, 1:])])
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.01))
    result = continual.run(trainer, scenario, epochs=3)
    assert result.metric == "r2"
    for task in scenario:
        expected = metrics.r2_score(
            task.y_test, model(task.x_test), multioutput="variance_weighted"
        )
        assert result.r[-1, task.index] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 24, 200])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_are_the_same_in_parts_and_in_whole_passes(
    batch_size, drop_last, accumulate, scenario, trainer
):
    """Whole passes are gathered by the core, parts of one in Python; 120 rows a task."""
    if accumulate > 1 and batch_size == 24:
        pytest.skip("parts would cut an update of three batches in two")
    task = scenario[1]
    per_pass = max(1, 120 // batch_size if drop_last else -(-120 // batch_size))
    options = {"batch_size": batch_size, "drop_last": drop_last}
    whole, parts = (
        continual.Strategy(trainer(dropout=0.3, accumulate_grad_batches=accumulate))
        for _ in range(2)
    )
    for strategy in (whole, parts):
        strategy.begin(task)
    history = whole.learn(task, steps=3 * per_pass, **options)
    cut, losses, at = max(1, per_pass // 3 // accumulate * accumulate), [], 0
    while at < 3 * per_pass:  # never a whole pass in one, unless it is one step
        count = min(cut, 3 * per_pass - at, per_pass - at % per_pass)
        part = parts.learn(task, steps=count, start=at, **options)
        losses.append((count, part["loss"][0]))
        at += count
    one, other = (s.trainer.model.flat_parameters for s in (whole, parts))
    np.testing.assert_array_equal(one, other)
    if not 120 % batch_size:
        mean = sum(count * loss for count, loss in losses) / (3 * per_pass)
        assert history["loss"][0] == pytest.approx(mean, rel=1e-6)


def test_no_update_is_cut_where_rows_are_gathered(scenario, trainer, monkeypatch):
    """20 steps of 24 in a pass are gathered 15 and 5 at a time, though 16 could be."""
    monkeypatch.setattr("thalweg.continual._batches._ROWS", 0)
    strategy = continual.Naive(trainer(accumulate_grad_batches=3))
    strategy.fit(scenario[0], steps=20, batch_size=5)
    assert strategy.trainer.optimizer.steps == 7  # of three batches, and the last of two


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=[1.0, 0.2, 3.0, 1.0, 1.0, 0.0]),  # 0: batches are skipped
        nn.CrossEntropyLoss(ignore_index=1),
    ],
    ids=["sum", "class weights", "ignored labels"],
)
def test_figures_of_many_steps_are_those_of_one_fit(loss, drop_last, clouds, trainer, monkeypatch):
    """They are gathered from fits of 80 rows, of which one may have only rows that do not count."""
    monkeypatch.setattr("thalweg.continual._batches._ROWS", 0)  # no more steps than needed
    x, y = clouds.x, np.sort(clouds.y % 2 * 5)  # classes 0 and 5
    y[170:330] = 1
    rows = 475 if drop_last else 480
    plain, learner = (trainer(loss=loss) for _ in "ab")
    expected = plain.fit(x[:rows], y[:rows], batch_size=5, shuffle=False)
    task = continual.Task(x[: rows + 3], y[: rows + 3], x, y)
    strategy = continual.Naive(learner)
    strategy.begin(task)
    options = {"batch_size": 5, "shuffle": False, "drop_last": drop_last}
    found = strategy.learn(task, steps=rows // 5, **options)
    for key in ("loss", "accuracy"):
        assert found[key] == pytest.approx(expected[key], rel=1e-12)


def test_figures_of_an_epoch_in_parts_are_those_of_the_whole(scenario, trainer, tmp_path):
    """Also if some rows count more than others, and the run continues from a file."""
    made = {"loss": nn.CrossEntropyLoss(weight=[1.0, 0.2, 3.0, 1.0, 4.0, 0.5]), "lr": 0.001}
    options = {"epochs": 2, "batch_size": 25}
    whole = continual.run(trainer(**made), scenario, **options)
    options |= {"save_every": 2, "checkpoint": tmp_path / "parts"}
    fragile = Fragile(trainer(**made))
    fragile.limit = 4
    with pytest.raises(Stopped):
        continual.run(fragile, scenario, **options)
    parts = continual.run(Fragile(trainer(**made)), scenario, resume=True, **options)
    for one, other in zip(whole.histories, parts.histories, strict=True):
        for key in ("loss", "accuracy"):
            assert other[key] == pytest.approx(one[key], rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        continual.Naive,
        lambda t: continual.EWC(t, 1.0),
        lambda t: continual.AGEM(t, 20),
        # Which adds rows that count to those of a task.
        lambda t: continual.AGEM(continual.Replay(t, 20, weighting="rows", batch_size=2), 20),
        lambda t: continual.ContinualBackprop(t, replacement_rate=0.1, maturity=2),
        continual.PackNet,
    ],
    ids=["Naive", "EWC", "AGEM", "AGEM of Replay", "ContinualBackprop", "PackNet"],
)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.filterwarnings("ignore:the penalty of", "ignore:PackNet is told")
def test_steps_in_which_no_row_counts_are_skipped_also_where_each_is_saved(
    make, every, accumulate, clouds, trainer, tmp_path
):
    y = np.where(np.arange(480) % 7 < 5, -100, clouds.y)  # of two rows, often none counts
    tasks = [continual.Task(clouds.x, y, clouds.x, clouds.y, index) for index in range(2)]
    scenario = continual.Scenario([task.with_data(clouds.x[:40], y[:40]) for task in tasks])
    options = {"epochs": 2, "batch_size": 2}
    if accumulate > 1 and isinstance(make(trainer()), continual.ContinualBackprop):
        pytest.skip("each of its steps is an update")
    whole, parts = (make(trainer(accumulate_grad_batches=accumulate)) for _ in range(2))
    one = continual.run(whole, scenario, **options)
    other = continual.run(
        parts, scenario, save_every=every, checkpoint=tmp_path / "parts", **options
    )
    np.testing.assert_array_equal(
        parts.trainer.model.flat_parameters, whole.trainer.model.flat_parameters
    )
    for found, wanted in zip(other.histories, one.histories, strict=True):
        assert found.keys() == wanted.keys()
        for key in found.keys() - {"seconds"}:
            assert found[key] == pytest.approx(wanted[key], rel=1e-6)
    assert np.isfinite(other.seconds)


def test_an_accumulated_update_is_of_the_batches_at_its_positions(clouds, trainer):
    """Its gradient is the mean over those of them in which rows count; there may be none."""
    model = nn.Sequential(nn.Linear(2, 6), dtype="float64")
    loss, optimizer = nn.CrossEntropyLoss(), optim.SGD(lr=0.1)
    mine = tw.Trainer(model, loss=loss, optimizer=optimizer, accumulate_grad_batches=2)
    theta, x, y = model.flat_parameters, clouds.x[:14].astype(float), clouds.y[:14].copy()
    y[[0, 1, 4, 5, 6, 7]] = -100  # of seven batches, the first, third and fourth
    slopes = tw.Trainer(model[:], loss=loss, optimizer=optim.SGD(lr=0.1))
    for update in ([1], [], [4, 5], [6]):
        gradients = []
        for batch in update:
            slopes.model.flat_parameters = theta
            slopes.model.zero_grad()
            slopes.backward(x[2 * batch :][:2], y[2 * batch :][:2])
            gradients.append(slopes.model.flat_gradients)
        if update:
            theta = theta - 0.1 * np.mean(gradients, axis=0)
    strategy = continual.Naive(mine)
    task = continual.Task(x, y, x, y)
    strategy.begin(task)
    strategy.learn(task, steps=7, batch_size=2, shuffle=False)
    np.testing.assert_allclose(model.flat_parameters, theta, rtol=1e-12)
    assert optimizer.steps == 3


def test_an_interval_in_which_no_row_counts_has_no_figures(clouds, trainer, tmp_path):
    y = clouds.y.copy()
    y[:60] = -100
    task = continual.Task(clouds.x[:80], y[:80], clouds.x, clouds.y)
    inner = continual.ContinualBackprop(trainer())
    strategy = continual.Naive(inner)
    strategy.begin(task)
    options = {"batch_size": 20, "shuffle": False}
    assert strategy.learn(task, steps=3, **options) == {}
    assert strategy.trainer.optimizer.steps == 0
    assert not inner._age[0].any()
    assert strategy.learn(task, steps=1, start=3, **options)["loss"][0] > 0

    class InOrder(continual.Strategy):
        def learn(self, task, **options):
            return super().learn(task, **{**options, "shuffle": False})

    result = continual.run(
        InOrder(trainer()), continual.Scenario([task]), batch_size=20, epochs=2, evaluate_every=2,
        save_every=1, checkpoint=tmp_path / "run",
    )  # fmt: skip
    losses = np.array(result.histories[0]["loss"])
    assert result.steps == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(np.isnan(losses), [True, False, True, False])
    result.scores[1] = [np.nan]  # as a metric may be
    result.save(tmp_path / "run.json")
    written = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert written["histories"][0]["loss"][0] is None  # JSON has no NaN
    loaded = continual.Result.load(tmp_path / "run.json")
    np.testing.assert_array_equal(loaded.histories[0]["loss"], losses)
    np.testing.assert_array_equal(loaded.scores, result.scores)
    with pytest.raises(DataError, match="no row counts in 1 steps on task 0: each has a sample_w"):
        continual.Naive(trainer()).fit(task.with_data(clouds.x, np.where(clouds.y, -100, 0)),
                                       steps=1, batch_size=1)  # fmt: skip


def test_samples_that_are_made_on_the_way_are_made_once_a_task(clouds, trainer):
    """Not once for each chunk of steps: a permutation of a large data set takes long."""
    made = []

    class Counted(continual.Task):
        x = property(lambda self: (made.append(1), clouds.x)[1], lambda self, value: None)

    tasks = [Counted(clouds.x, clouds.y, clouds.x, clouds.y, index) for index in range(2)]
    for make in (
        continual.Strategy, lambda t: continual.Replay(t, 20), lambda t: continual.AGEM(t, 20)
    ):  # fmt: skip
        strategy = make(trainer())
        strategy.fit(tasks[0], epochs=1)
        strategy.begin(tasks[1])  # which looks at them, too
        made.clear()
        strategy.learn(tasks[1], steps=90, batch_size=10)
        assert len(made) == 1


@pytest.mark.parametrize(
    "make",
    [
        continual.Naive,
        lambda t: continual.Replay(t, 20),
        lambda t: continual.AGEM(t, 20),
        lambda t: continual.EWC(t, 1.0),
        lambda t: continual.ContinualBackprop(t),
    ],
    ids=["Naive", "Replay", "AGEM", "EWC", "ContinualBackprop"],
)
def test_a_run_makes_the_samples_of_a_task_once(make, clouds, trainer, monkeypatch):
    """Not for each step or part; what a task is judged by is made when it is judged only."""
    scenario = continual.permuted(*clouds.all, tasks=3)
    made, kind = [], type(scenario[0].x_from.change)
    change = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, x: made.append(len(x)) or change(self, x))
    result = continual.run(make(trainer()), scenario, epochs=1, evaluate_every=5)
    assert made.count(360) == 3
    assert made.count(120) == 3 * len(result.steps)
    assert len(made) == 3 + 3 * len(result.steps)


@pytest.mark.parametrize(
    "make",
    [
        continual.Cumulative,
        lambda t, s: continual.LwF(t),
        lambda t, s: continual.ContinualBackprop(continual.Replay(t, 20)),
    ],
    ids=["Cumulative", "LwF", "ContinualBackprop(Replay)"],
)
def test_samples_made_on_demand_are_learned_as_arrays(make, clouds, trainer):
    demand = continual.permuted(*clouds.all, tasks=3)
    arrays = continual.from_arrays([(t.x, t.y, t.x_test, t.y_test) for t in demand])
    results = [continual.run(make(trainer(), s), s, evaluate_every=5) for s in (demand, arrays)]
    np.testing.assert_array_equal(results[0].curve, results[1].curve)


def test_a_metric_of_ones_own(scenario, trainer):
    def count(strategy, task, classes):
        assert isinstance(strategy, continual.Strategy)
        return 100 * task.index + len(classes)

    result = continual.run(trainer(), scenario, metric=count)
    assert result.metric == "count"
    assert result.r.tolist() == [[2, 104, 204], [4, 104, 206], [6, 106, 206]]


@pytest.mark.parametrize("stop", [1, 7, 8, 15, 1004, 1015, 2008, 2014])
def test_a_run_that_is_stopped_and_resumed_is_the_same_to_the_last_bit(
    stop, scenario, trainer, tmp_path
):
    """Weights, optimizer, dropout's masks, order of the rows, figures: the files are equal."""
    options = {"epochs": 3, "batch_size": 25, "evaluate_every": 4, "save_every": 3}
    whole = continual.run(
        Fragile(trainer(dropout=0.3)), scenario, checkpoint=tmp_path / "whole", **options
    )
    fragile = Fragile(trainer(dropout=0.3))
    fragile.limit = stop
    path = tmp_path / "parts"
    with pytest.raises(Stopped):
        continual.run(fragile, scenario, checkpoint=path, **options)
    anew = Fragile(trainer(dropout=0.3))
    parts = continual.run(anew, scenario, checkpoint=path, resume=True, **options)
    assert parts.steps == whole.steps
    np.testing.assert_array_equal(parts.curve, whole.curve)
    assert [h["loss"] for h in parts.histories] == [h["loss"] for h in whole.histories]
    arrays, others = load(path)[0], load(tmp_path / "whole")[0]
    assert arrays.keys() == others.keys()
    assert all(arrays[name].tobytes() == others[name].tobytes() for name in arrays)
    # A run that has ended is read back.
    again = continual.run(
        Fragile(trainer(dropout=0.3)), scenario, checkpoint=path, resume=True, **options
    )
    np.testing.assert_array_equal(again.r, whole.r)


def test_a_checkpoint_is_a_trainer_and_a_model_too(scenario, trainer, tmp_path):
    mine = trainer()
    continual.run(mine, scenario, checkpoint=tmp_path / "run")
    for model in (tw.Trainer.load(tmp_path / "run").model, nn.Sequential.load(tmp_path / "run")):
        np.testing.assert_array_equal(model.flat_parameters, mine.model.flat_parameters)


def test_arrays_of_objects_are_told_apart_by_their_numbers(tmp_path):
    """As a table of several types gives them; their bytes are places in memory."""
    x, y = np.random.default_rng(0).standard_normal((2, 20, 3))
    path = tmp_path / "run"

    def run(x, **options):
        scenario = continual.Scenario([continual.Task(x.astype(object), y, x, y)])
        model = nn.Sequential(nn.Linear(3, 3))
        learner = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
        return continual.run(continual.Naive(learner), scenario, checkpoint=path, **options)

    first = run(x)
    np.testing.assert_array_equal(run(x, resume=True).r, first.r)
    with pytest.raises(ArgumentError, match=r"tasks\.0\.x"):
        run(x + 1, resume=True)


def test_a_checkpoint_of_another_run_is_refused(scenario, trainer, tmp_path):
    path = tmp_path / "run"
    continual.run(trainer(), scenario, checkpoint=path)
    mine = trainer()
    before = mine.model.flat_parameters.copy()
    with pytest.raises(ArgumentError, match="batch_size was 32, now it is 16"):
        continual.run(mine, scenario, batch_size=16, checkpoint=path, resume=True)
    with pytest.raises(ArgumentError, match=r"strategy was \['Strategy'\], now .* \['Fragile'\]"):
        continual.run(Fragile(mine), scenario, checkpoint=path, resume=True)
    with pytest.raises(ArgumentError, match=r"other settings: seed was 1, now it is 2\. To"):
        continual.run(trainer(seed=2), scenario, checkpoint=path, resume=True)
    dropping = r"settings: model\.layers\.2 was 'Drop.*p=0.*', now it is 'Drop.*p=0\.5.*'\. To"
    with pytest.raises(ArgumentError, match=dropping):
        continual.run(trainer(dropout=0.5), scenario, checkpoint=path, resume=True)
    np.testing.assert_array_equal(mine.model.flat_parameters, before)
    chained = tmp_path / "chained"
    continual.run(continual.GEM(continual.Replay(mine, 20), 5), scenario, checkpoint=chained)
    for margin, weighting, message in (
        (0.2, "tasks", r"GEM\.margin was 0\.5, now it is 0\.2\. To"),
        (0.5, "rows", r"Replay\.weighting was 'tasks', now it is 'rows'\. To"),
    ):
        other = continual.Replay(trainer(), 20, weighting=weighting)
        with pytest.raises(ArgumentError, match=message):
            continual.run(
                continual.GEM(other, 5, margin=margin), scenario, checkpoint=chained, resume=True
            )
    mine.save(path)
    with pytest.raises(DataError, match="holds neither a checkpoint"):
        continual.run(mine, scenario, checkpoint=path, resume=True)


def _made(**options):
    """A trainer in a strategy, of which one thing is another way."""
    options = {"lr": 0.01, "strength": 3.0, "capacity": 20, "clip": None, "set": None} | options
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 6), seed=1)
    optimizer = options.get("optimizer", optim.Adam)(lr=options["lr"])
    if "group" in options:
        optimizer.add_group("0.*", lr_scale=options["group"])
    trainer = tw.Trainer(
        model,
        loss=nn.CrossEntropyLoss(label_smoothing=options.get("label_smoothing", 0.0)),
        optimizer=optimizer,
        schedule=options.get("schedule"),
        clip_grad_norm=options["clip"],
    )
    if options["set"] is not None:
        trainer.optimizer.lr = options["set"]
    buffer = options.get("buffer", continual.ReservoirBuffer)(options["capacity"])
    return continual.L2(continual.Replay(trainer, buffer), options["strength"])


SAME = optim.schedules.StepLR(4, 0.5, per="step")


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({}, {"lr": 0.1}, r"optimizer\.lr was 0\.01, now it is 0\.1\. To"),
        ({}, {"set": 0.1}, r"optimizer\.lr was 0\.01, now it is 0\.1\. To"),
        ({"set": 0.1}, {"lr": 0.1}, None),
        ({}, {"strength": 4}, r"L2\.strength was 3\.0, now it is 4\.0"),
        ({}, {"capacity": 30}, r"Replay\.buffer\.capacity was 20, now it is 30"),
        ({}, {"buffer": continual.BalancedBuffer}, r"Replay\.buffer was Res.*, now it is Balanced"),
        ({}, {"clip": 1}, r"clip_grad_norm was None, now it is 1\.0"),
        ({}, {"label_smoothing": 0.1}, r"loss\.label_smoothing was 0\.0, now it is 0\.1"),
        ({}, {"optimizer": optim.SGD}, r"optimizer was Adam\(lr=0\.01.*, now it is SGD\(lr=0\.01"),
        ({"group": 0.5}, {"group": 0.1}, r"'lr_scale': 0\.5.*, now it is .*'lr_scale': 0\.1"),
        ({"schedule": SAME}, {"schedule": SAME}, None),
        ({"schedule": SAME}, {"schedule": SAME, "lr": 0.1}, r"lr was 0\.01, now it is 0\.1\. To"),
        ({"schedule": SAME}, {}, r"schedule was StepLR\(.*, now it is None"),
    ],
)  # fmt: skip
def test_a_run_goes_on_only_as_it_was_made(first, then, message, scenario, tmp_path):
    """The file's rate would win over the new one, and the new clipping over the file's."""
    path = tmp_path / "run"
    options = {"epochs": 2, "checkpoint": path}
    whole = continual.run(_made(**first), scenario, **options)
    strategy = _made(**then)
    before = strategy.trainer.model.flat_parameters.copy()
    if message is None:
        found = continual.run(strategy, scenario, resume=True, **options)
        np.testing.assert_array_equal(found.r, whole.r)
        return
    with pytest.raises(ArgumentError, match=message) as caught:
        continual.run(strategy, scenario, resume=True, **options)
    assert "resume=False" in str(caught.value)
    assert str(caught.value).count(" was ") == 1, "only what differs"
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


def test_a_run_goes_on_with_the_trainer_that_a_schedule_has_slowed_down(scenario, tmp_path):
    """What counts is the rate that it began with."""
    strategy = _made(schedule=SAME)
    options = {"epochs": 2, "checkpoint": tmp_path / "run"}
    whole = continual.run(strategy, scenario, **options)
    assert strategy.trainer.optimizer.lr < 0.01
    found = continual.run(strategy, scenario, resume=True, **options)
    np.testing.assert_array_equal(found.r, whole.r)


def test_all_that_a_checkpoint_says_is_compared(scenario, tmp_path):
    """What only one of both says is another run, too; another format is not read at all."""
    path = tmp_path / "run"
    continual.run(_made(), scenario, checkpoint=path)
    arrays, text = load(path)
    for name in ("optimizer", "L2.strength", "Replay.buffer"):
        content = json.loads(text["thalweg.continual"])
        del content["setting"][name]
        save(path, arrays, text | {"thalweg.continual": json.dumps(content)})
        with pytest.raises(
            ArgumentError, match=rf"settings: {name} was nothing, now it is .*\. To"
        ):
            continual.run(_made(), scenario, checkpoint=path, resume=True)
    content["version"] = 3
    save(path, arrays, text | {"thalweg.continual": json.dumps(content)})
    with pytest.raises(UnsupportedError, match=r"has format 3; .* reads format 8\. Continue with"):
        continual.run(_made(), scenario, checkpoint=path, resume=True)


def _stopped(strategy, scenario, path, limit=4):
    """A run that ends in its first task."""
    fragile = Fragile(strategy)
    fragile.limit = limit
    with pytest.raises(Stopped):
        continual.run(fragile, scenario, epochs=3, checkpoint=path, save_every=3)


class Weighing(continual.Strategy):
    """A strategy of one's own, whose arguments are kept under their names."""

    gathers = ("counted",)

    def __init__(self, inner, shares, mask, counted=0):
        super().__init__(inner)
        self.shares, self._mask, self.counted = shares, mask, counted

    def begin(self, task):
        super().begin(task)
        self.counted += 1  # which is gathered, and no setting


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        (
            lambda t: continual.Replay(t, 50),
            lambda t: continual.Replay(t, 50, batch_size=5),
            "Replay.batch_size was None, now it is 5",
        ),
        (
            lambda t: continual.EWC(t, 1, n_samples=10),
            lambda t: continual.EWC(t, 1),
            "EWC.n_samples was 10, now it is None",
        ),
        (
            lambda t: continual.GDumb(t, continual.BalancedBuffer(60, seed=1)),
            lambda t: continual.GDumb(t, continual.BalancedBuffer(60, select="herding", seed=2)),
            "buffer.select was 'random', now it is 'herding'; GDumb.buffer.seed was 1, now it is 2",
        ),
        (
            lambda t: continual.ShrinkAndPerturb(continual.ShrinkAndPerturb(t, shrink=0.9)),
            lambda t: continual.ShrinkAndPerturb(continual.ShrinkAndPerturb(t, shrink=0.5)),
            r"other settings: ShrinkAndPerturb\[2\]\.shrink was 0\.9, now it is 0\.5",
        ),
        (
            lambda t: continual.ShrinkAndPerturb(continual.ShrinkAndPerturb(t), shrink=0.9),
            lambda t: continual.ShrinkAndPerturb(continual.ShrinkAndPerturb(t), shrink=0.5),
            r"other settings: ShrinkAndPerturb\[1\]\.shrink was 0\.9, now it is 0\.5",
        ),
        (
            lambda t: Weighing(t, (1, 2), np.ones(3)),
            lambda t: Weighing(t, (1, 3), np.zeros(3)),
            r"Weighing\.shares was \[1, 2\], now it is \[1, 3\]; Weighing\.mask was .* checksum .*",
        ),
    ],
    ids=["batch_size", "n_samples", "buffer", "inner", "outer", "own"],
)
def test_arguments_that_were_left_out_are_compared(
    first, then, message, scenario, trainer, tmp_path
):
    _stopped(first(trainer()), scenario, tmp_path / "run")
    with pytest.raises(ArgumentError, match=rf"{message}\. To continue"):
        continual.run(
            Fragile(then(trainer())), scenario, epochs=3, checkpoint=tmp_path / "run", resume=True
        )


def _with(scenario, **changes):
    """A scenario with another first task."""
    return continual.Scenario(
        [dataclasses.replace(scenario[0], **changes), *scenario[1:]], scenario.kind
    )


@pytest.mark.parametrize("name", ["x", "y", "x_test", "y_test", "sample_weight", "active"])
def test_a_run_goes_on_with_the_same_data_only(name, scenario, trainer, tmp_path):
    scenario = _with(scenario, sample_weight=np.ones(120))
    _stopped(trainer(), scenario, tmp_path / "run")
    value = getattr(scenario[0], name)
    other = (0, 1, 2) if name == "active" else value.copy()
    if name != "active":
        other[-1] = 1 - other[-1]
    message = "was .0, 1., now it is .0, 1, 2." if name == "active" else "was .* with checksum"
    with pytest.raises(ArgumentError, match=rf"other settings: tasks\.0\.{name} {message}"):
        continual.run(
            Fragile(trainer()), _with(scenario, **{name: other}), epochs=3,
            checkpoint=tmp_path / "run", resume=True,
        )  # fmt: skip


def test_a_run_goes_on_with_the_same_transformations_only(clouds, trainer, tmp_path):
    x = np.repeat(clouds.x, 2, axis=1)
    arrays = (x[:360], clouds.y[:360], x[360:], clouds.y[360:])
    path = tmp_path / "run"
    for make, one, other in (
        (continual.permuted, {"seed": 0}, {"seed": 5}),
        (continual.rotated, {"angles": [0, 10.1, 20]}, {"angles": [0, 10.2, 20]}),
    ):
        names = [task.name for task in make(*arrays, tasks=3, **one)] if "seed" in one else None
        options = {"tasks": 3} if "seed" in one else {}
        scenario, same, others = (make(*arrays, **how, **options) for how in (one, one, other))
        assert names is None or names == [task.name for task in others]
        _stopped(trainer(inputs=4), scenario, path)
        with pytest.raises(
            ArgumentError,
            match=r"settings: tasks\.1\.x was '.*, by an?\b.*, now it is '.*, by an?\b",
        ):
            continual.run(
                Fragile(trainer(inputs=4)), others, epochs=3, checkpoint=path, resume=True
            )
        continual.run(Fragile(trainer(inputs=4)), same, epochs=3, checkpoint=path, resume=True)


def test_the_tasks_of_cumulative_are_those_of_the_run(scenario, trainer, tmp_path):
    _stopped(continual.Cumulative(trainer(), scenario), scenario, tmp_path / "run")
    other = _with(scenario, x=scenario[0].x + 1)
    with pytest.raises(ArgumentError, match=r"other settings: Cumulative\.scenario\.0\.x was"):
        continual.run(
            Fragile(continual.Cumulative(trainer(), other)), scenario, epochs=3,
            checkpoint=tmp_path / "run", resume=True,
        )  # fmt: skip


@pytest.mark.parametrize("amount", [{"epochs": 2}, {"steps": 19}])
@pytest.mark.parametrize("make", [continual.Naive, lambda t: continual.Replay(t, 20)])
def test_judging_and_saving_do_not_change_what_is_learned(
    make, amount, scenario, trainer, tmp_path
):
    """Updates of four batches are not cut in two: passes are of 13, the last update of one."""
    found = []
    for options in ({}, {"evaluate_every": 3}, {"checkpoint": tmp_path / "run", "save_every": 5}):
        mine = trainer(accumulate_grad_batches=4)
        result = continual.run(
            make(mine), scenario, batch_size=9, drop_last=True, **amount, **options
        )
        found.append(mine.model.flat_parameters)
        if "evaluate_every" in options:
            stops = [4, 8, 12, 13, 17, 21, 25, 26] if "epochs" in amount else [4, 8, 12, 13, 17, 19]
            judged = [step for step in result.steps if 0 < step <= stops[-1]]
            assert judged == [s for s in stops if s != 13] or judged == stops
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("amount", [{"epochs": 2}, {"steps": 19}])
@pytest.mark.parametrize(
    "make",
    [
        lambda t, s: continual.GDumb(t, 50),
        lambda t, s: continual.GDumb(continual.AGEM(t, 20), 50),
        continual.Joint,
    ],
)
def test_updates_are_whole_in_passes_over_other_rows_too(make, amount, scenario, trainer, tmp_path):
    """Passes over 50 or 360 rows are of 6 or 40 batches, with updates of four; epochs are of 14."""
    found = []
    for options in (
        {}, {"evaluate_every": 3}, {"evaluate_every": 5},
        {"checkpoint": tmp_path / "run", "save_every": 7},
    ):  # fmt: skip
        mine = trainer(accumulate_grad_batches=4)
        strategy = make(mine, scenario)
        result = continual.run(strategy, scenario, batch_size=9, **amount, **options)
        found.append(mine.model.flat_parameters)
        assert result.ends == [
            sum(amount.values()) * (14 if "epochs" in amount else 1) * k for k in (1, 2, 3)
        ]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_penalty_in_a_history_is_that_at_the_end_however_often_it_is_saved(
    scenario, trainer, tmp_path
):
    values = []

    class Watch(continual.EWC):
        def learn(self, task, **options):
            history = super().learn(task, **options)
            values.append(self.trainer.penalty)
            return history

    result = continual.run(
        Watch(trainer(), 100.0), continual.Scenario([scenario[0]] * 2), epochs=1, batch_size=25,
        checkpoint=tmp_path / "run", save_every=2,
    )  # fmt: skip
    assert len(values) == 6  # after 2, 4 and 5 steps of each task
    assert values[3] != values[5]
    assert result.histories[1]["penalty"] == [pytest.approx(values[5], rel=1e-6)]


@pytest.mark.parametrize(
    ("options", "epochs"),
    [({"epochs": 3}, 3), ({"steps": 11}, 1), ({"epochs": 3, "evaluate_every": 4}, 6)],
)
def test_an_entry_of_a_history_is_an_epoch_however_often_it_is_saved(
    options, epochs, scenario, trainer, tmp_path
):
    """Its figures are means over the rows of the whole: 5 batches of 120 rows, the last of 20."""
    whole = continual.run(trainer(), scenario, batch_size=25, **options)
    saved = continual.run(
        trainer(), scenario, batch_size=25, checkpoint=tmp_path / "run", save_every=2, **options
    )
    assert [history.epochs for history in saved.histories] == [epochs] * 3
    for one, other in zip(saved.histories, whole.histories, strict=True):
        assert one.keys() == other.keys()
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-6)


def test_forward_transfer_is_of_what_was_learned(scenario, trainer):
    """Who learns nothing transfers nothing: a task is judged among the same classes both times."""

    class Idle(continual.Strategy):
        def learn(self, task, **options):
            before = self.trainer.model.flat_parameters
            history = super().learn(task, **options)
            self.trainer.model.flat_parameters = before
            return history

    result = continual.run(Idle(trainer()), scenario)
    assert result.baseline.tolist() == [result.r[0, 0], result.r[0, 1], result.r[1, 2]]
    assert result.metrics()["fwt_gem"] == 0


def test_a_trainer_that_has_learned_in_another_run_is_warned_about(clouds, trainer):
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    mine = trainer(outputs=2)
    continual.run(mine, scenario)
    for strategy in (mine, continual.Replay(mine, 20)):
        with pytest.warns(
            UserWarning, match="trained in another run before.*create a new model"
        ) as seen:
            continual.run(strategy, scenario)
        assert seen[0].filename == __file__
    # Not if it has only learned something else.
    other = trainer(outputs=2)
    other.fit(scenario[0].x, scenario[0].y)
    continual.run(other, scenario)


def test_what_no_file_can_hold_is_said_before_the_training(scenario, tmp_path):
    seen = []

    def own(outputs, targets):
        seen.append(len(outputs))
        return 0.0, np.zeros_like(outputs)

    model = nn.Sequential(nn.Linear(2, 6))
    trainer = tw.Trainer(model, loss=own, optimizer=optim.SGD(lr=0.1))
    with pytest.raises(UnsupportedError, match="cannot be saved"):
        continual.run(trainer, scenario, checkpoint=tmp_path / "run")
    assert not seen

    class Optimizing(continual.Naive):
        gathers = ("other",)
        other = object()

    plain = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    before = model.flat_parameters
    with pytest.raises(
        UnsupportedError, match=r"state of Optimizing contains .*Optimizing\.load_state_"
    ):
        continual.run(continual.Naive(Optimizing(plain)), scenario, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(model.flat_parameters, before)


@pytest.mark.parametrize("where", ["learned", "judged"])
def test_a_run_that_breaks_off_leaves_what_it_has_found(where, scenario, trainer):
    """Figures of hours, of which one would else see nothing."""
    fragile, calls = Fragile(trainer()), []
    fragile.limit = 1000 + 7 if where == "learned" else None

    def metric(strategy, task, classes):
        calls.append(task)
        if where == "judged" and len(calls) == 8:  # the second task, after it was learned
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises((Stopped, KeyboardInterrupt)):
        continual.run(fragile, scenario, epochs=3, batch_size=30, metric=metric)
    found = fragile.result
    assert (found.ends, found.steps) == ([12], [0, 12])
    assert found.r[0].tolist() == [0.5] * 3
    assert np.isnan(found.r[1:]).all()
    assert len(found.histories) == 2
    fragile.limit = None
    assert continual.run(continual.Naive(trainer()), scenario).r.shape == (3, 3)
    whole = continual.Naive(trainer())
    assert continual.run(whole, scenario) is whole.result


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"save_every": 3}, "needs a checkpoint"),
        ({"resume": True}, "needs the checkpoint"),
        ({"evaluate_every": 0}, "evaluate_every must be"),
    ],
)
def test_what_is_wrong_is_said(options, message, scenario, trainer):
    with pytest.raises(ArgumentError, match=message):
        continual.run(trainer(), scenario, **options)


def test_scenario_and_strategy_are_such(scenario, trainer):
    with pytest.raises(ArgumentError, match="strategy must be a Strategy"):
        continual.run(trainer().model, scenario)
    with pytest.raises(ArgumentError, match="scenario must be a Scenario"):
        continual.run(trainer(), list(scenario))


def test_logs_hold_every_score(scenario, trainer, tmp_path):
    path = tmp_path / "log.csv"
    seen = []

    def watched(strategy, task, classes):
        # The log grows while the run goes on.
        seen.append(len(path.read_text().splitlines()) if path.exists() else 0)
        return 0.5 * task.index

    result = continual.run(
        trainer(), scenario, epochs=2, evaluate_every=3, metric=watched, log=path
    )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == result.curve.ravel().tolist()
    # 120 rows are 4 steps of 32, twice: judged at the beginning, at 3, 6 and 8.
    steps = [0, 3, 6, 8, 11, 14, 16, 19, 22, 24]
    assert result.steps == steps
    assert [int(row["step"]) for row in rows[::3]] == steps
    assert [int(row["learned"]) for row in rows[::3]] == [-1, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {row["name"] for row in rows} == {"0 1", "2 3", "4 5"}
    assert seen == [n for k in range(10) for n in [3 * k + 1 if k else 0] * 3]
    result.save(tmp_path / "log.json")
    assert json.loads((tmp_path / "log.json").read_text())["scores"] == result.curve.tolist()
    again = continual.Result.load(tmp_path / "log.json")
    assert again == result
    assert (repr(again), again.metrics()) == (repr(result), result.metrics())
    (tmp_path / "other.json").write_text('{"names": ["a"], "scores": [[1, 2]], "steps": [0]}')
    (tmp_path / "list.json").write_text("[]")
    for name in ("log.csv", "other.json", "list.json"):
        with pytest.raises(
            DataError, match=rf"{name}' does not contain the result of a run: Result\.load"
        ):
            continual.Result.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        continual.Result.load(tmp_path / "none.json")


def test_the_progress_bar_shows_tasks_and_scores(scenario, trainer, capsys):
    pytest.importorskip("tqdm")
    result = continual.run(trainer(), scenario, progress=True)
    shown = capsys.readouterr().err
    assert "task 3/3 4 5: 100%" in shown
    assert " ".join(f"{score:.3f}" for score in result.r[-1]) in shown


def test_pictures(scenario, trainer):
    pytest.importorskip("matplotlib").use("agg")
    result = continual.run(trainer(), scenario, epochs=2, evaluate_every=2)
    lines = result.plot().get_lines()
    mean = lines[-1]
    assert mean.get_label() == "mean of tasks learned so far"
    # While task 1 is learned, two tasks are or were.
    step = result.steps.index(result.ends[0] + 2)
    assert mean.get_ydata()[step - 1] == pytest.approx(result.curve[step, :2].mean())
    texts = [text.get_text() for text in result.plot_matrix().texts]
    assert texts == [f"{value:.2f}" for value in result.r.ravel()]


def test_pictures_of_many_tasks_of_numbers_and_of_none(clouds, trainer):
    pytest.importorskip("matplotlib").use("agg")
    many = continual.permuted(*clouds.all, tasks=25)
    result = continual.run(trainer(), many)
    ax = result.plot()
    colors = [line.get_color() for line in ax.get_lines() if line.get_lw() == 2.5]
    assert len(set(colors)) == 25
    assert len(ax.get_legend().get_texts()) <= 12  # and the mean
    # Another's picture keeps its legend inside.
    assert result.plot(ax.figure.add_subplot(2, 1, 2)).get_legend().get_frame_on()

    far = continual.Result(
        ("a", "b"), "domain", "r2", [0, 1, 2], [[-9, 0], [1, -50], [0.5, 0.9]], [1, 2]
    )
    assert far.plot().get_ylim() == (-1.05, 1.05)
    shown = far.plot_matrix()
    assert shown.images[0].get_clim() == (-1, 1)
    assert [text.get_text() for text in shown.texts] == ["1.00", "-50.00", "0.50", "0.90"]
    assert [text.get_color() for text in shown.texts] == ["k", "w", "k", "k"]

    half = continual.Result(("a", "b"), "domain", "accuracy", [0, 1], [[0.5, 0.5], [0.9, 0.5]], [1])
    assert len(half.plot_matrix().texts) == 2
    for draw in (half.plot, half.plot_matrix):
        draw()
    nothing = continual.Result(("a", "b"), "domain", "accuracy")
    for draw in (nothing.plot, nothing.plot_matrix):
        with pytest.raises(ArgumentError, match="no task has been learned yet"):
            draw()


def test_pictures_of_several_seeds_show_means_and_deviations(scenario, trainer):
    pytest.importorskip("matplotlib").use("agg")
    results = [continual.run(trainer(seed=seed), scenario, epochs=2) for seed in range(3)]
    ax = tw.plot.tasks(results)
    curves = np.stack([result.curve for result in results])
    last = ax.get_lines()[-1]  # the mean of tasks learned so far
    np.testing.assert_allclose(last.get_ydata()[-1], curves[:, -1].mean())
    band = ax.collections[-1].get_paths()[0].get_extents()
    spread = curves[:, 1, 0].std(ddof=1)
    assert band.height >= spread
    assert len(tw.plot.tasks(results[0]).collections) == 0
    shown = tw.plot.task_matrix(results)
    mean = np.mean([result.r for result in results], axis=0)
    assert [text.get_text() for text in shown.texts] == [f"{value:.2f}" for value in mean.ravel()]
    longer = continual.run(trainer(), scenario, epochs=3)
    with pytest.raises(ArgumentError, match="not judged at the same steps"):
        tw.plot.tasks([results[0], longer])
    other = continual.Result(
        ("a", "b"), "domain", "accuracy", [0, 1], [[0.5, 0.5], [0.9, 0.5]], [1]
    )
    with pytest.raises(ArgumentError, match=r"same tasks and metric; got .* and \('a', 'b'\)"):
        tw.plot.task_matrix([results[0], other])
    for wrong in ([], [1], results[0].r):
        with pytest.raises(ArgumentError, match="result must"):
            tw.plot.tasks(wrong)


def test_active_classes_grow_with_the_tasks(scenario, trainer):
    """In class-incremental learning, the softmax of training is over the classes seen so far."""
    assert [task.active for task in scenario] == [(0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5)]
    mine = trainer()
    unseen = mine.model.state_dict()["3.bias"][4:].copy()
    strategy = continual.Strategy(mine)
    for task in scenario[:2]:
        strategy.fit(task)
    assert mine.loss.active == (0, 1, 2, 3)
    np.testing.assert_array_equal(mine.model.state_dict()["3.bias"][4:], unseen)


def test_a_metric_that_raises_after_the_end_of_a_task_leaves_it_ended(scenario, trainer):
    """As the documentation says: but it has no scores."""

    def metric(strategy, task, classes):
        if strategy._ended == 2:
            raise RuntimeError("mine")
        return 0.5

    strategy = continual.Naive(trainer())
    with pytest.raises(RuntimeError, match="mine"):
        continual.run(strategy, scenario, steps=2, metric=metric)
    assert (strategy._ended, strategy._begun) == (2, None)
    assert len(strategy.result.ends) == 1
