"""What a newcomer gets wrong is said before it is trained; what is learned is what is judged."""

import copy
import dataclasses
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.errors import ArgumentError, DataError, DtypeError, ShapeError, UnsupportedError
from thalweg.optim import schedules

from .strategies import NAMES
from .test_replay import Logged


def learner(outputs, loss, inputs=2, **options):
    model = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs), seed=1)
    return tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=0.01), **options)


# --- the score is of what the loss learns ---------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "float32", "bool"])
def test_yes_or_no_is_judged_as_evaluate_does(dtype, clouds):
    """One output, whose largest is always the first."""
    y = (clouds.y % 2).astype(dtype)
    scenario = continual.from_arrays([(clouds.x, y), (clouds.x + 1, y)])
    mine = learner(1, nn.BCEWithLogitsLoss())
    result = continual.run(mine, scenario, epochs=20)
    assert result.metric == "accuracy"
    for task in scenario:
        expected = np.mean((mine.model(task.x)[:, 0] > 0) == (y > 0))
        assert result.r[-1, task.index] == expected
        assert mine.evaluate(task.x, task.y)["accuracy"] == pytest.approx(expected)
        found = continual.Naive(mine).predict(task.x)
        np.testing.assert_array_equal(found, mine.model(task.x)[:, 0] > 0)
    assert result.r[-1, -1] > 0.7


def test_several_answers_are_judged_one_by_one(clouds):
    y = np.stack([clouds.y % 2, clouds.y % 3 == 0], axis=1).astype("float32")
    mine = learner(2, nn.BCEWithLogitsLoss())
    result = continual.run(mine, continual.from_arrays([(clouds.x, y)]), epochs=20)
    assert result.r[0, 0] == np.mean((mine.model(clouds.x) > 0) == (y > 0))
    assert result.r[0, 0] == pytest.approx(mine.evaluate(clouds.x, y)["accuracy"])


def test_shares_of_classes_are_judged_by_the_largest(clouds):
    by_label, by_share = (
        continual.run(
            learner(6, nn.CrossEntropyLoss()), continual.from_arrays([(clouds.x, y)]), epochs=5
        )
        for y in (clouds.y, np.eye(6)[clouds.y])
    )
    np.testing.assert_array_equal(by_label.r, by_share.r)
    assert by_share.metric == "accuracy"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda y: y[:, None], ShapeError, r"y_test must be 1-D class labels.*column \(480, 1\)"),
        (lambda y: y + 0.5, DtypeError, "y_test has dtype float64, but class labels are integers"),
    ],
)
def test_what_labels_are_judged_by_is_what_a_trainer_takes(change, error, message, clouds):
    task = continual.Task(clouds.x, clouds.y, clouds.x, change(clouds.y))
    mine = learner(6, nn.CrossEntropyLoss())
    before = mine.model.flat_parameters
    with pytest.raises(error, match=message) as caught:
        continual.run(mine, continual.Scenario([task]))
    assert caught.value.__notes__ == ["While task 0 ('task 1') was being evaluated on x_test."]
    np.testing.assert_array_equal(mine.model.flat_parameters, before)


def test_rows_whose_label_is_ignored_are_not_judged(clouds, trainer):
    y = clouds.y.copy()
    y[::2] = -100
    mine = trainer()
    result = continual.run(mine, continual.from_arrays([(clouds.x, y)]))
    assert result.r[0, 0] == pytest.approx(mine.evaluate(clouds.x, y)["accuracy"])
    none = continual.from_arrays([(clouds.x, clouds.y, clouds.x, np.full(480, -100))])
    with pytest.raises(DataError, match=r"task 0 \('task 1'\) cannot be evaluated: all labels"):
        continual.run(trainer(), none)


def test_whole_numbers_may_be_what_is_predicted(clouds):
    y = np.round(clouds.x[:, 0]).astype(int)
    scenario = continual.from_arrays([(clouds.x, y)])
    result = continual.run(learner(1, nn.MSELoss()), scenario, epochs=60)
    assert result.metric == "r2"
    assert result.r[0, 0] > 0.9


def test_targets_that_are_no_outputs_ask_for_a_metric(clouds):
    scenario = continual.from_arrays([(clouds.x, clouds.x[:, 0])])
    mine = learner(2, nn.GaussianNLLLoss())
    with pytest.raises(ShapeError, match=r"\(480,\).* outputs have shape \(480, 2\); pass metric="):
        continual.run(mine, scenario)

    def minus_loss(strategy, task, classes):
        return -strategy.trainer.evaluate(task.x_test, task.y_test)["loss"]

    result = continual.run(mine, scenario, epochs=20, metric=minus_loss)
    assert result.metric == "minus_loss"
    assert result.r[0, 0] > result.baseline[0]


# --- scenario, network and loss -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["task", "class"])
def test_too_few_outputs_are_counted(kind, clouds, trainer):
    scenario = continual.split(*clouds.all, tasks=3, kind=kind)
    with pytest.raises(ArgumentError, match=r"task 2 \('4 5'\) has the class 5.* 4 outputs"):
        continual.run(trainer(outputs=4), scenario)


def test_heads_are_those_of_the_tasks(clouds, trainer):
    known = continual.split(*clouds.all, tasks=3, kind="task")
    with pytest.raises(ArgumentError, match=r"\(2, 3\), which are in the heads \[0, 1\]"):
        continual.run(trainer(loss=nn.CrossEntropyLoss(heads=(3, 3))), known)
    with pytest.warns(UserWarning, match=r"all outputs compete.*heads=\(2, 2, 2\)") as seen:
        continual.run(trainer(), known)
    assert seen[0].filename == __file__  # the line that called run
    unknown = continual.split(*clouds.all, tasks=3, kind="class")
    with pytest.warns(UserWarning, match="but all compete at evaluation"):
        continual.run(trainer(loss=nn.CrossEntropyLoss(heads=(2, 2, 2))), unknown)


@pytest.mark.parametrize(
    "labels",
    [((0, 2), (1, 3)), ((0, 1), (1, 2))],
    ids=["in another order", "overlapping"],
)
def test_labels_that_heads_cannot_have_are_to_be_numbered_anew(labels, clouds, trainer):
    """Rather than to use the heads that are in use."""
    rows = [np.isin(clouds.y, classes) for classes in labels]
    scenario = continual.from_arrays([(clouds.x[r], clouds.y[r]) for r in rows], kind="task")
    mine = trainer(outputs=4, loss=nn.CrossEntropyLoss(heads=scenario.heads))
    with pytest.raises(ArgumentError, match="Number the labels on from task to task") as caught:
        continual.run(mine, scenario)
    assert "Use heads" not in str(caught.value)


def test_labels_that_begin_anew_are_in_one_head(clouds, trainer):
    """As people have them; learned so, all tasks would share the first head."""
    parts = [clouds.y // 2 == k for k in range(3)]
    again = [(clouds.x[rows], clouds.y[rows] % 2) for rows in parts]
    scenario = continual.from_arrays(again, kind="task")
    with pytest.raises(ArgumentError, match=r"all 3 tasks have .* head 0 of heads=\(2, 2, 2\)"):
        continual.run(trainer(loss=nn.CrossEntropyLoss(heads=scenario.heads)), scenario)
    # A task that comes again has its head again.
    known = continual.split(*clouds.all, tasks=3, kind="task")
    twice = continual.Scenario([*known, known[0]], "task")
    result = continual.run(trainer(loss=nn.CrossEntropyLoss(heads=known.heads)), twice, epochs=5)
    np.testing.assert_array_equal(result.r[:, 0], result.r[:, 3])
    # It may do so before all heads are in use.
    early = continual.Scenario([known[0], known[1], known[0]], "task")
    strategy = continual.Naive(trainer(loss=nn.CrossEntropyLoss(heads=known.heads)))
    continual.run(strategy, early)
    hand = continual.Naive(trainer(loss=nn.CrossEntropyLoss(heads=known.heads)))
    for task in early:
        hand.fit(task)
    np.testing.assert_array_equal(
        strategy.trainer.model.flat_parameters, hand.trainer.model.flat_parameters
    )


@pytest.mark.parametrize("kind", ["task", "class"])
def test_tasks_that_name_no_classes_are_judged_among_those_of_their_labels(kind, clouds, trainer):
    known = continual.split(*clouds.all, tasks=3, kind=kind)
    hand = continual.Scenario(
        [continual.Task(t.x, t.y, t.x_test, t.y_test, active=t.active) for t in known], kind
    )
    assert hand.heads == known.heads
    loss = nn.CrossEntropyLoss(heads=known.heads if kind == "task" else None)
    one, other = (continual.run(trainer(loss=loss), s, epochs=3) for s in (known, hand))
    np.testing.assert_array_equal(one.curve, other.curve)


def test_shares_do_not_say_whose_outputs_are_a_task_s(clouds, trainer):
    shares = np.eye(6)[clouds.y]
    plain = continual.Task(clouds.x, shares, clouds.x, shares)
    for task, loss, what in (
        (plain, nn.CrossEntropyLoss(heads=(2, 4)), r"the loss has heads=\(2, 4\)"),
        (
            dataclasses.replace(plain, active=(0, 1)),
            nn.CrossEntropyLoss(),
            r"it has active=\(0, 1\)",
        ),
    ):
        with pytest.raises(
            ArgumentError, match=rf"task 0 .* class probabilities.*{what}: pass classes"
        ):
            continual.run(trainer(loss=loss), continual.Scenario([task], "task"))


@pytest.mark.parametrize(
    "make",
    [
        lambda t: continual.GDumb(t, 5),
        lambda t: continual.L2(continual.Replay(t, continual.BalancedBuffer(5)), 1.0),
    ],
)
def test_a_buffer_has_room_for_the_classes_of_all_tasks(make, scenario, trainer):
    """It would be full when the last task ends."""
    mine = trainer()
    before = mine.model.flat_parameters
    with pytest.raises(
        ArgumentError, match="capacity=5 has no room for a sample of each of 6 classes"
    ):
        continual.run(make(mine), scenario)
    np.testing.assert_array_equal(mine.model.flat_parameters, before)
    buffer = continual.BalancedBuffer(1, per_class=True)
    continual.run(continual.Replay(trainer(), buffer), scenario)
    assert len(buffer) == 6


def test_room_is_for_the_classes_that_a_buffer_tells_apart(clouds, trainer):
    """Probabilities are of the largest class; whole numbers, for a loss of numbers, of one."""
    mine = trainer()
    shares = continual.from_arrays([(clouds.x, np.eye(6)[clouds.y])] * 2)
    with pytest.raises(ArgumentError, match=r"capacity=8 has no room .* of each of 12 classes"):
        continual.run(continual.Replay(mine, continual.BalancedBuffer(8)), shares)
    assert mine.optimizer.steps == 0
    regression = trainer(outputs=1, loss=nn.MSELoss())
    replay = continual.Replay(regression, continual.BalancedBuffer(4))
    continual.run(replay, continual.from_arrays([(clouds.x, clouds.y)] * 2))
    assert len(replay.buffer) == 4
    text = continual.Scenario([continual.Task(clouds.x, clouds.y.astype(str), clouds.x, clouds.y)])
    with pytest.raises(DtypeError) as raised:
        continual.run(replay, text)
    assert raised.value.__notes__ == ["While task 0 ('task 1') was being looked at."]


@pytest.mark.parametrize("make", [continual.XdG, continual.PackNet])
def test_a_task_that_nobody_knows_is_not_told_in_silence(make, clouds, trainer):
    known = continual.split(*clouds.all, tasks=3, kind="task")
    strategy = make(trainer(loss=nn.CrossEntropyLoss(heads=known.heads)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        continual.run(strategy, known)
    for kind in ("domain", "class"):
        scenario = continual.split(*clouds.all, tasks=3, kind=kind)
        # Also around another strategy, whose network it is.
        with pytest.warns(UserWarning, match="is told which task"):
            continual.run(continual.Naive(make(trainer())), scenario)


def test_texts_are_not_labels(clouds):
    names = np.array(["a", "b", "c", "d", "e", "f"])[clouds.y]
    with pytest.raises(DtypeError, match=r"labels from 0 or numbers; got dtype <U1.*np\.unique"):
        continual.from_arrays([(clouds.x, names)])
    assert len(continual.split(clouds.x, names, clouds.x, names, tasks=3)) == 3


def test_what_is_no_task_no_metric_no_label_is_named(clouds, scenario, trainer):
    with pytest.raises(ArgumentError, match=r"task must be a Task.*got tuple"):
        continual.Naive(trainer()).fit((clouds.x, clouds.y))
    with pytest.raises(ArgumentError, match=r"metric must be a function.*got 'accuracy'"):
        continual.run(trainer(), scenario, metric="accuracy")
    with pytest.raises(ArgumentError, match="scenario must be a Scenario; got list"):
        continual.stream([clouds.x])
    with pytest.raises(DataError, match="labels from 4 to 5, but the network has 4 outputs"):
        continual.DER(trainer(outputs=4), 9).step(clouds.x[4:6], clouds.y[4:6])
    with pytest.raises(ArgumentError, match="task 0 cannot end, as it has not begun"):
        continual.PackNet(trainer()).end(scenario[0])


def test_what_is_wrapped_is_a_trainer(trainer):
    with pytest.raises(ArgumentError, match=r"inner must be a Trainer, .* or a Strategy; got Seq"):
        continual.EWC(trainer().model, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda t: continual.SynapticIntelligence(continual.XdG(t), 1),
            "put XdG around SynapticIntelligence",
        ),
        (lambda t: continual.PackNet(continual.XdG(t)), "only one of them can"),
        (lambda t: continual.XdG(continual.Naive(continual.PackNet(t))), "only one of them can"),
    ],
)
def test_strategies_that_would_undo_each_other_are_refused(make, message, trainer):
    with pytest.raises(UnsupportedError, match=message):
        make(trainer())


# --- fits of a few steps --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.StepLR(step_size=2, per="epoch"),
        schedules.CosineAnnealingLR(),
        schedules.OneCycleLR(max_lr=0.1),
        schedules.ReduceLROnPlateau(monitor="loss"),
    ],
    ids=lambda s: type(s).__name__,
)
def test_schedules_that_count_fits_are_refused(schedule, trainer, scenario):
    """A task is learned by fits of 16 steps: their rates would go down many times as fast."""
    with pytest.raises(UnsupportedError, match=f"{type(schedule).__name__}.*many short fits"):
        continual.run(trainer(schedule=schedule), scenario)


def test_schedules_that_count_steps_are_those_of_one_fit(trainer, scenario):
    task = scenario[0]
    plain, mine = (
        trainer(schedule=schedules.CosineAnnealingLR(60), loss=nn.CrossEntropyLoss(active=(0, 1)))
        for _ in range(2)
    )
    strategy = continual.Naive(mine)
    strategy.fit(task, epochs=3, batch_size=6)
    for _ in range(3):
        plain.fit(task.x, task.y, batch_size=6)
    assert mine.optimizer.lr == plain.optimizer.lr < 1e-4


@pytest.mark.parametrize(
    "make", [continual.Naive, lambda t: continual.Replay(t, 40), lambda t: continual.AGEM(t, 40)]
)
def test_gradients_are_accumulated_across_short_fits(make, scenario):
    """60 steps, three to an update: 20 updates, though fits are of 16 steps or of 64."""
    mine = learner(6, nn.CrossEntropyLoss(), accumulate_grad_batches=3)
    strategy = make(mine)
    for task in scenario[:2]:
        before = mine.optimizer.steps
        strategy.fit(task, epochs=3, batch_size=6)
        assert mine.optimizer.steps - before == 3 * 7  # 20 batches a pass: the last update is of 2
    with pytest.raises(UnsupportedError, match="leave accumulate_grad_batches at 1"):
        continual.ContinualBackprop(mine)


def test_steps_that_would_each_be_an_update_are_refused_where_gradients_are_accumulated(scenario):
    def make(weighting):
        mine = learner(6, nn.CrossEntropyLoss(), accumulate_grad_batches=3)
        return Logged(continual.Replay(mine, 40, weighting=weighting))

    strategy = make("rows")
    for number in range(2):
        strategy.fit(scenario[number], steps=6)
        # Of three batches, of the one left of the pass, and of two of the next one.
        assert strategy.trainer.optimizer.steps == 3 * (number + 1)
    strategy = make("tasks")
    strategy.fit(scenario[0], steps=6)
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(UnsupportedError, match=r'accumulate_grad_batches=3: use weighting="rows"'):
        strategy.fit(scenario[1], steps=6)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


def test_an_update_under_way_ends_with_the_pass_and_with_the_task(scenario):
    """Also where tasks are learned by `step`: no gradient of one is left for the next."""

    class BySteps(continual.Strategy):
        def step(self, x, y):
            return super().step(x, y)

    found = []
    for make in (continual.Naive, BySteps):
        mine = learner(6, nn.CrossEntropyLoss(), accumulate_grad_batches=3)
        strategy = make(mine)
        for task in scenario[:2]:
            strategy.fit(
                task, epochs=2, batch_size=12
            )  # 10 batches a pass: the last update is of 1
        assert mine.optimizer.steps == 2 * 2 * 4
        found.append(mine.model.flat_parameters)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ["OGD", "XdG", "AGEM"])
def test_the_last_update_of_a_task_is_like_the_others(name, scenario):
    mine = tw.Trainer(
        nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6), dtype="float64"),
        loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1), accumulate_grad_batches=2,
    )  # fmt: skip
    make = {"OGD": continual.OGD, "XdG": continual.XdG, "AGEM": lambda t: continual.AGEM(t, 300)}
    strategy = make[name](mine)
    strategy.fit(scenario[0], epochs=3)
    known, steps, task = getattr(strategy, "directions", None), mine.optimizer.steps, scenario[1]
    strategy.begin(task)
    theta = strategy._ungated() if name == "XdG" else mine.model.flat_parameters
    strategy.step(task.x[:20], task.y[:20])
    assert mine.optimizer.steps == steps
    reference = None
    if name == "AGEM":
        apart, buffer = mine.copy(), copy.deepcopy(strategy.buffer)
        assert len(buffer) > 20
        kept = buffer.sample(20)  # as many as in the latest step
        apart.model.zero_grad()
        apart.backward(kept["x"], kept["y"])
        reference = apart.model.flat_gradients
    strategy.end(task)
    assert mine.optimizer.steps == steps + 1
    moved = mine.model.flat_parameters - theta
    assert abs(moved).max() > 1e-3
    if name == "OGD":
        np.testing.assert_allclose(known @ moved, 0, atol=1e-12)
    elif name == "XdG":
        assert not moved[~strategy._gates(1)[1]].any()
    else:
        assert reference @ moved == pytest.approx(0, abs=1e-12)  # it was against it


@pytest.mark.parametrize("by_step", [False, True])
def test_an_update_that_waits_is_made_before_a_task_is_learned_further(by_step, scenario):
    """Its gradients were dropped without a word, and those of a user's steps joined the next."""

    class BySteps(continual.Strategy):
        def step(self, x, y):
            return super().step(x, y)

    task, found = scenario[0], []
    for waits in (False, True):
        mine = learner(6, nn.CrossEntropyLoss(), accumulate_grad_batches=3)
        strategy = (BySteps if by_step else continual.Naive)(mine)
        strategy.begin(task)
        parts = [(task.x[rows], task.y[rows]) for rows in (slice(0, 9), slice(9, 12))]
        if waits:
            for part in parts:
                strategy.step(*part)
        else:  # the update is of the mean of their gradients
            apart = mine.copy()
            for part in parts:
                apart.backward(*part)
            mine.model.flat_gradients = apart.model.flat_gradients / 2
            mine.optimizer.step(mine.model)
        strategy.learn(task, steps=4, batch_size=12)
        assert mine.optimizer.steps == 3
        found.append(mine.model.flat_parameters)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_a_fresh_start_drops_accumulated_gradients(scenario):
    """They are of the network before."""
    plain, mine = (learner(6, nn.CrossEntropyLoss(), accumulate_grad_batches=2) for _ in range(2))
    strategy = continual.FromScratch(mine)
    task = scenario[0]
    mine.step(task.x[:5], task.y[:5])
    strategy.begin(task)
    for trainer in (plain, mine):
        trainer.step(task.x[5:10], task.y[5:10])
    np.testing.assert_array_equal(mine.model.flat_parameters, plain.model.flat_parameters)


# --- steps of a stream ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [continual.DER, continual.DERpp, continual.ERACE])
def test_replay_with_a_loss_of_its_own_works_on_streams(make, clouds, trainer):
    """As by a task whose batches are those of the stream, but for the group in the buffer."""
    strategy = make(trainer(), 40)
    other = make(trainer(), 40)
    x, y = clouds.x[:200], clouds.y[:200]
    losses = [strategy.step(x[i : i + 10], y[i : i + 10]) for i in range(0, 200, 10)]
    assert len(strategy.buffer) == 40
    assert np.isfinite(losses).all()
    for i in range(0, 200, 10):
        rows = slice(i, i + 10)
        mine = tuple(np.unique(y[rows]).tolist())
        task = continual.Task(x[rows], y[rows], x, y, classes=mine)
        other.begin(task)
        other.learn(task, steps=1, batch_size=10, shuffle=False)
        other.end(task)
    np.testing.assert_array_equal(
        strategy.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


@pytest.mark.parametrize("make", [lambda t: continual.GEM(t, 30), lambda t: continual.OGD(t, 10)])
def test_steps_of_a_stream_are_projected_too(make, clouds):
    """A step of 120 rows is what a task of one step is."""
    tasks = continual.split(*clouds.all, tasks=3, kind="domain")
    found = []
    for how in ("stream", "task", "plain"):
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2), seed=1)
        strategy = make(tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.5)))
        strategy.fit(tasks[0], epochs=5)
        if how == "stream":
            strategy.step(tasks[1].x, tasks[1].y)
        elif how == "task":
            strategy.begin(tasks[1])
            strategy.learn(tasks[1], steps=1, batch_size=120, shuffle=False)
        else:
            strategy.trainer.step(tasks[1].x, tasks[1].y)
        found.append(model.flat_parameters)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


@pytest.fixture
def domains(clouds):
    return continual.split(*clouds.all, tasks=3, kind="domain")


def of_domains():
    return learner(2, nn.CrossEntropyLoss())


#: Strategies that have a part in `learn` only, and those that have one in the steps of tasks only.
ONLY_LEARN = {
    "LwF": lambda t, s: continual.LwF(t),
    "FROMP": lambda t, s: continual.FROMP(t, 5, 1e-3),
    "GDumb": lambda t, s: continual.GDumb(t, 40),
    "Joint": continual.Joint,
    "Cumulative": continual.Cumulative,
    "Naive of LwF": lambda t, s: continual.Naive(continual.LwF(t)),
}
ONLY_IN_TASKS = {
    "XdG": lambda t, s: continual.XdG(t),
    "PackNet": lambda t, s: continual.PackNet(t),
    "FromScratch": lambda t, s: continual.FromScratch(t),
    "ShrinkAndPerturb": lambda t, s: continual.ShrinkAndPerturb(t),
    "AGEM of ShrinkAndPerturb": lambda t, s: continual.AGEM(continual.ShrinkAndPerturb(t), 20),
    "L2Init of ShrinkAndPerturb": lambda t, s: continual.L2Init(continual.ShrinkAndPerturb(t), 1),
}


@pytest.mark.parametrize("name", [*ONLY_LEARN, *ONLY_IN_TASKS])
def test_steps_that_a_strategy_could_have_no_part_in_are_refused(name, domains):
    """Also before a first task, which would be learned as by `Naive`."""
    mine = of_domains()
    strategy = (ONLY_LEARN | ONLY_IN_TASKS)[name](mine, domains)
    why = "step: (its?|what)" if name in ONLY_LEARN else "step outside a task: it"
    what = (
        "or begin, learn and end" if name in ONLY_LEARN else r"call .*begin\(task\) .*end\(task\)"
    )
    for task in domains[:2]:
        before, state = mine.model.flat_parameters, str(strategy.state_dict())
        penalty = mine.penalty
        with pytest.raises(UnsupportedError, match=rf"does not support {why} .*; .*{what}"):
            strategy.step(task.x[:8], task.y[:8])
        np.testing.assert_array_equal(mine.model.flat_parameters, before)
        assert str(strategy.state_dict()) == state
        assert mine.penalty == penalty
        strategy.fit(task)


@pytest.mark.parametrize("make", [continual.FromScratch, continual.ShrinkAndPerturb])
def test_what_is_done_when_a_task_begins_is_done_for_its_steps(make, domains):
    one, other = make(of_domains()), make(of_domains())
    for task in domains:
        for strategy in (one, other):
            strategy.begin(task)
            if strategy is one:
                strategy.step(task.x, task.y)
            else:
                strategy.learn(task, steps=1, batch_size=len(task.x), shuffle=False)
            strategy.end(task)
    np.testing.assert_array_equal(
        one.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


#: Strategies that act by what they gathered when tasks ended, and those that act on any stream.
GATHER = {
    "EWC": lambda t: continual.EWC(t, 1.0),
    "OnlineEWC": lambda t: continual.OnlineEWC(t, 1.0),
    "SynapticIntelligence": lambda t: continual.SynapticIntelligence(t, 1.0),
    "MAS": lambda t: continual.MAS(t, 1.0),
    "RWalk": lambda t: continual.RWalk(t, 1.0),
    "L2": lambda t: continual.L2(t, 1.0),
    "OnlineLaplace": lambda t: continual.OnlineLaplace(t, 1.0),
    "GEM": lambda t: continual.GEM(t, 20),
    "OGD": lambda t: continual.OGD(t, 5),
    "EWC of Replay": lambda t: continual.EWC(continual.Replay(t, 20), 1.0),
    "Replay of EWC": lambda t: continual.Replay(continual.EWC(t, 1.0), 20),
}
ACT = {
    "Replay": lambda t: continual.Replay(t, 20),
    "DER": lambda t: continual.DER(t, 20),
    "DERpp": lambda t: continual.DERpp(t, 20),
    "ERACE": lambda t: continual.ERACE(t, 20),
    "AGEM": lambda t: continual.AGEM(t, 20),
    "L2Init": lambda t: continual.L2Init(t, 1.0),
    "ContinualBackprop": lambda t: continual.ContinualBackprop(t, replacement_rate=0.1, maturity=1),
}


@pytest.mark.filterwarnings("ignore:the penalty of")
@pytest.mark.parametrize("name", GATHER)
def test_a_stream_that_nothing_protects_yet_is_warned_about_once(name, domains):
    first, second = domains[:2]
    strategy, plain = GATHER[name](of_domains()), of_domains()
    with pytest.warns(
        UserWarning, match=r"protects nothing yet: .*Call .*begin\(task\) .*end\("
    ) as w:
        strategy.step(first.x, first.y)
    assert len(w) == 1
    assert w[0].filename == __file__
    strategy.step(first.x, first.y)
    if "Replay" not in name:
        for _ in range(2):
            plain.step(first.x, first.y)
        np.testing.assert_array_equal(
            strategy.trainer.model.flat_parameters, plain.model.flat_parameters
        )
    # Nothing is said of steps of a task, nor of those after it, which are not plain ones.
    strategy, plain = GATHER[name](of_domains()), GATHER[name](of_domains()).trainer
    strategy.begin(first)
    strategy.step(first.x, first.y)
    strategy.end(first)
    plain.step(first.x, first.y)
    for _ in range(3):
        for any_of_them in (strategy, plain):
            any_of_them.step(second.x, second.y)
    assert not np.allclose(
        strategy.trainer.model.flat_parameters, plain.model.flat_parameters, rtol=1e-6
    )


@pytest.mark.parametrize("name", ACT)
def test_what_acts_on_streams_does_so_without_a_task(name, domains):
    strategy, plain = ACT[name](of_domains()), of_domains()
    for x, y in continual.stream(domains, batch_size=6):
        strategy.step(x, y)
        plain.step(x, y)
    assert not np.allclose(
        strategy.trainer.model.flat_parameters, plain.model.flat_parameters, rtol=1e-3
    )


def test_of_every_strategy_it_is_known_what_it_does_on_a_stream():
    known = {*ONLY_LEARN, *ONLY_IN_TASKS, *GATHER, *ACT}
    # Those with which plain steps are right: NearestMean judges by what the one inside has stored.
    assert NAMES - known == {"Naive", "NearestMean"}
