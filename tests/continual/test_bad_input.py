"""What is wrong in what `continual` is given is said, in words of what was given."""

import copy
import inspect
import json
import pickle
import re
import warnings
from decimal import Decimal

import numpy as np
import pytest

import thalweg as tw
from thalweg import _safetensors, continual, nn, optim
from thalweg.continual import metrics
from thalweg.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError

X = np.random.default_rng(0).standard_normal((20, 2)).astype("float32")
Y = np.arange(20) % 3
R = [[0.9, 0.1], [0.6, 0.9]]


def learner(loss=None):
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    loss = nn.CrossEntropyLoss() if loss is None else loss
    return tw.Trainer(model, loss=loss, optimizer=optim.Adam())


def scenario(tasks=2):
    return continual.from_arrays([(X, Y)] * tasks)


SQUARES = np.concatenate([X, X], axis=1)  # images of 2 by 2 pixels
RAGGED = continual.Task(X[:2], [[1, 2], [0]], X, Y)


class Sparse:
    """As SciPy's arrays: with no length."""

    def toarray(self):
        return X


def herd(features):
    continual.BalancedBuffer(9, select="herding").add(x=X, y=Y, features=features)


def learned(strategy):
    strategy.fit(continual.Task(X, Y, X, Y))
    return strategy


def nearest():
    return learned(continual.NearestMean(continual.Replay(learner(), 9)))


@pytest.mark.parametrize(
    "metric", ["average_accuracy", "incremental_accuracy", "bwt", "forgetting"]
)
def test_matrices_of_scores_are_numbers(metric):
    function = getattr(metrics, metric)
    with pytest.raises(DtypeError, match=r"r must be numbers; got \[\['a', 'b'\]"):
        function([["a", "b"], ["c", "d"]])
    with pytest.raises(ShapeError, match="r cannot be made an array"):
        function([[1], [1, 2]])
    with pytest.raises(ArgumentError, match=r"got a Result: .*result\.r"):
        function(continual.run(learner(), scenario()))
    with pytest.raises(DtypeError, match="baseline must be numbers"):
        metrics.fwt(R, ["a", "b"])


@pytest.mark.parametrize(
    "make",
    [continual.ReservoirBuffer, continual.BalancedBuffer, continual.RecentBuffer],
    ids=lambda m: m.__name__,
)
def test_a_buffer_keeps_rows_of_one_kind(make):
    buffer = make(9)
    buffer.add(x=X, y=Y)
    kept = {name: column.copy() for name, column in buffer.rows().items()}
    for columns, error, message in (
        ({"x": X, "y": Y, "logits": X}, ArgumentError, "keeps x, y; got x, y, logits"),
        ({"x": X[:, :1], "y": Y}, ShapeError, r"rows of x of shape \(2,\); got \(1,\)"),
        ({"x": X, "y": Y[:3]}, ShapeError, "the same number of rows; got .*'y': 3"),
        ({"x": X, "y": Y + 0.5}, DtypeError, "keeps y as int64, which cannot hold float64"),
    ):
        with pytest.raises(error, match=message):
            buffer.add(**columns)
    for name, column in buffer.rows().items():
        np.testing.assert_array_equal(column, kept[name])
    with pytest.raises(ArgumentError, match="size must be an integer >= 0; got -1"):
        buffer.sample(-1)
    assert len(buffer.sample(0)["y"]) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda x_test: continual.split(X, Y, x_test, Y, tasks=3),
        lambda x_test: continual.permuted(X, Y, x_test, Y),
        lambda x_test: continual.from_arrays([(X, Y, x_test, Y)]),
    ],
)
def test_held_out_samples_have_as_many_features(make):
    with pytest.raises(ShapeError, match=r"x_test has 1 features but x has 2; one model"):
        make(X[:, :1])


def test_a_run_looks_first_at_what_it_will_need(tmp_path):
    mine = learner()
    before = mine.model.flat_parameters
    with pytest.raises(FileNotFoundError, match=r"folder of checkpoint=.*does not exist"):
        continual.run(mine, scenario(), checkpoint=tmp_path / "no" / "run")
    with pytest.raises(IsADirectoryError, match="is a folder: give it the name of a file"):
        continual.run(mine, scenario(), checkpoint=tmp_path)
    with pytest.raises(ArgumentError, match="metric must return a number for a task; got 'x'"):
        continual.run(mine, scenario(), metric=lambda *_: "x")
    np.testing.assert_array_equal(mine.model.flat_parameters, before)


def test_a_scenario_shows_tasks_and_not_their_arrays():
    assert repr(scenario()) == (
        "<Scenario of kind 'domain', 2 tasks:\n"
        "  <Task 0 'task 1': 20 rows, 20 held out, classes=(0, 1, 2)>\n"
        "  <Task 1 'task 2': 20 rows, 20 held out, classes=(0, 1, 2)>\n>"
    )
    assert "no rows" in repr(continual.Task(X, None, X, Y))
    with pytest.raises(ArgumentError, match=r"a Strategy or a Trainer; got Scenario$"):
        continual.run(scenario(), learner())


@pytest.mark.parametrize("classes", [[9], [-1], []])
def test_classes_that_compete_are_outputs(classes):
    with pytest.raises(ArgumentError, match="classes must name some of the outputs 0 to 2"):
        continual.Naive(learner()).predict(X, classes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1; got 0"),
        ({"steps": -3}, "steps must be an integer >= 1; got -3"),
        ({"steps": 2.5}, "steps must be an integer >= 1; got 2.5"),
        ({"start": -1}, "start must be an integer >= 0"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1; got 0"),
        ({"shuffle": 1}, "shuffle must be True or False"),
        ({"drop_last": "no"}, "drop_last must be True or False; got 'no'"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        continual.Naive,
        continual.LwF,
        lambda t: continual.Replay(t, 9),
        lambda t: continual.AGEM(t, 9),
        lambda t: continual.DER(t, 9),
        lambda t: continual.FROMP(t, 3, 1.0),
        continual.ContinualBackprop,
    ],
)
def test_how_long_is_looked_at_before_it_is_learned(make, wrong, message):
    strategy, (first, second) = make(learner()), scenario()
    strategy.fit(first)
    strategy.begin(second)
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(ArgumentError, match=message):
        strategy.learn(second, **{"steps": 2, **wrong})
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


def test_passes_of_fit_are_looked_at_first():
    strategy = continual.Naive(learner())
    with pytest.raises(ArgumentError, match="epochs must be an integer >= 1; got -3"):
        strategy.fit(scenario()[0], epochs=-3, steps=2)
    with pytest.raises(ArgumentError, match="batch_size must be an integer >= 1; got 0"):
        strategy.fit(scenario()[0], batch_size=0)
    with pytest.raises(ArgumentError, match="drop_last must be True or False; got 'no'"):
        strategy.fit(scenario()[0], drop_last="no")


@pytest.mark.filterwarnings("ignore:the running averages")
@pytest.mark.parametrize(
    "make", [continual.Naive, continual.LwF, lambda t: continual.Cumulative(t, scenario())]
)
def test_a_last_batch_of_one_row_is_seen_before_the_first(make):
    """Of which BatchNorm1d has no statistics: not after part of the task was trained."""
    strategy, (first, second) = make(averaging()), scenario()
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(ArgumentError, match="batch_size=19, the last batch of 20 rows"):
        strategy.fit(first, batch_size=19)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    strategy.fit(first, batch_size=19, steps=1)
    strategy.fit(second, batch_size=13)
    strategy.fit(second, batch_size=19, drop_last=True)


def test_numbers_are_no_classes():
    """The largest output would be one, always the first of one."""
    model = nn.Sequential(nn.Linear(2, 3))
    strategy = continual.Naive(tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam()))
    with pytest.raises(
        UnsupportedError, match=r"MSELoss.* for regression: strategy\.network\(\)\(x\)"
    ):
        strategy.predict(X)
    np.testing.assert_array_equal(strategy.predict(X, range(3)), model(X).argmax(axis=1))


@pytest.mark.parametrize("optimizer", [optim.LBFGS, optim.LevenbergMarquardt])
def test_steps_are_on_batches(optimizer):
    model = nn.Sequential(nn.Linear(2, 3))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer())
    for make in (continual.Naive, lambda t: continual.run(t, scenario())):
        with pytest.raises(UnsupportedError, match=f"{optimizer.__name__} takes all data at once"):
            make(trainer)


@pytest.mark.filterwarnings("ignore:task 1 brings new classes", "ignore:the penalty of")
@pytest.mark.parametrize(
    "make",
    [
        continual.Strategy,
        continual.LwF,
        lambda t: continual.GDumb(t, 9),
        lambda t: continual.DER(t, 9),
        lambda t: continual.EWC(t, 1),
        lambda t: continual.L2Init(t, 1),
        lambda t: continual.Naive(continual.L2Init(continual.Replay(t, 9), 1)),
    ],
)
def test_a_task_is_learned_between_its_beginning_and_its_end(make):
    """Else LwF has no teacher, GDumb another task's memory, and L2Init nothing to pull to."""
    strategy = make(learner())
    for task in scenario():
        before = strategy.trainer.model.flat_parameters
        with pytest.raises(
            ArgumentError, match=r"cannot be learned, as it has not begun: call .*begin"
        ):
            strategy.learn(task, steps=1)
        np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
        strategy.begin(task)
        assert len(strategy.learn(task, steps=1)["loss"]) == 1
        strategy.end(task)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: continual.SynapticIntelligence(t, 1),
        lambda t: continual.RWalk(t, 1),
        continual.XdG,
        continual.PackNet,
        continual.Strategy,
        continual.LwF,
        lambda t: continual.EWC(t, 1),
        lambda t: continual.OnlineEWC(t, 1),
        lambda t: continual.L2(continual.Replay(t, 9), 1),
        lambda t: continual.GEM(t, 5),
        lambda t: continual.Naive(continual.DER(t, 9)),
        lambda t: continual.Naive(continual.Replay(t, 9)),
    ],
)
def test_a_task_ends_once_and_only_if_it_has_begun(make):
    """Else importances and gates would be none; and a second end would count the task twice."""
    task, other = scenario()
    strategy = make(learner())
    with pytest.raises(
        ArgumentError, match=r"task 0 cannot end, as it has not begun: call .*begin"
    ):
        strategy.end(task)
    if strategy.needs_task:
        with pytest.raises(ArgumentError, match="task 0 cannot be learned, as it has not begun"):
            strategy.learn(task, steps=1)
    strategy.fit(task)
    assert strategy.predict(X, task=0).shape == (20,)
    state = str(strategy.state_dict())
    for again in (task, other):
        with pytest.raises(ArgumentError, match=r"cannot end, as it has not begun"):
            strategy.end(again)
    assert str(strategy.state_dict()) == state


@pytest.mark.parametrize("make", [continual.XdG, continual.PackNet, lambda t: continual.EWC(t, 1)])
def test_the_task_that_is_learned_and_ends_is_the_one_that_began(make):
    """Else it would be trained with the gates of one task and judged with those of another."""
    strategy, (one, two) = make(learner()), scenario()
    strategy.begin(one)
    learned = r"task 1 cannot be learned, as task 0 has begun and not ended: pass the task that"
    with pytest.raises(ArgumentError, match=learned):
        strategy.learn(two, steps=1)
    with pytest.raises(ArgumentError, match="task 1 cannot end, as task 0 has begun"):
        strategy.end(two)
    strategy.learn(one.with_data(X[:9], Y[:9]), steps=1)
    restored = copy.deepcopy(strategy)
    with pytest.raises(ArgumentError, match="task 1 cannot end, as task 0 has begun"):
        restored.end(two)
    restored.end(one)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("train", "strategy.fit"),
        ("observe", "continual.run"),
        ("eval", "evaluates"),
        ("partial_fit", "strategy.step"),
        ("model", "strategy.trainer.model"),
        ("checkpoint", "checkpoint=path"),
        ("ewc_lambda", ".strength"),
        ("predictt", "predict"),
    ],
)
def test_names_of_other_libraries_say_where_it_is(name, where):
    strategy = continual.EWC(learner(), 1)
    with pytest.raises(AttributeError, match=f"EWC has no attribute '{name}'.*{where}"):
        getattr(strategy, name)
    assert not hasattr(strategy, "__array__")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda t: continual.EWC(t, ewc_lambda=1.0), "EWC has no argument 'ewc_lambda': it is str"),
        (lambda t: continual.SynapticIntelligence(t, si_lambda=1.0), "'si_lambda': it is strength"),
        (lambda t: continual.OnlineEWC(t, 1, gamma=0.9), r"'gamma': OnlineEWC\(.*, decay="),
        (lambda t: continual.Replay(t, mem_size=100), "'mem_size': it is buffer: a number of"),
        (lambda t: continual.GEM(t, patterns_per_exp=9), "'patterns_per_exp': it is per_task"),
        (lambda t: continual.EWC(t, 1, epochs=3), "'epochs': pass epochs, .* to continual.run"),
        (lambda t: continual.EWC(t, 1, stength=3), "did you mean strength"),
        (lambda t: continual.Naive(model=t.model), "'model': a strategy goes around a trainer"),
    ],
)
def test_arguments_of_other_libraries_say_what_they_are_here(make, text):
    with pytest.raises(TypeError, match=text):
        make(learner())


def test_a_model_an_optimizer_and_a_loss_are_a_trainer_s():
    trainer = learner()
    with pytest.raises(ArgumentError, match="a Trainer, which has model, loss and optimizer"):
        continual.EWC(trainer.model, trainer.optimizer, trainer.loss, 0.4)


TASK = continual.Task(X, Y, X, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.fit(), r"strategy\.fit needs task, .*: write strategy\.fit\(task\)$"),
        (
            lambda s: continual.Task(X, Y),
            r"^Task needs x_test and y_test, the samples .*: write Task\(x, y, x_test, y_test\)$",
        ),
        (
            lambda s: continual.split(X, Y, tasks=5),
            r"^continual\.split needs x_test and y_test.*write continual\.split\(x, y, x_test,",
        ),
        (lambda s: continual.permuted(X, Y, X), r"continual\.permuted needs y_test"),
        (lambda s: continual.run(s), r"needs scenario.*write continual\.run\(strategy, scenario\)"),
        (
            lambda s: continual.EWC(s.trainer),
            r"^EWC needs strength, the weight .*: write EWC\(trainer, strength=1\.0\)$",
        ),
        (lambda s: continual.Replay(s.trainer), r"^Replay needs buffer.*\(trainer, buffer=200\)$"),
        (lambda s: continual.DER(s.trainer), r"^DER needs buffer, .*DER\(trainer, buffer=200\)$"),
        (lambda s: continual.DERpp(s.trainer), r"^DERpp needs buffer"),
        (lambda s: continual.GEM(s.trainer), r"^GEM needs per_task, .*\(trainer, per_task=20\)$"),
        (
            lambda s: continual.FROMP(s.trainer),
            r"^FROMP needs per_task and strength, .*\(trainer, per_task=20, strength=1\.0\)$",
        ),
        (
            lambda s: continual.Cumulative(s.trainer),
            r"^Cumulative needs scenario, .*split.*: write Cumulative\(trainer, scenario\)$",
        ),
        (lambda s: continual.Naive(), r"^Naive needs inner, .*: write Naive\(trainer\)$"),
    ],
)
def test_what_is_missing_is_written_out(call, message):
    with pytest.raises(TypeError, match=message):
        call(continual.Naive(learner()))


def test_arrays_are_not_a_task():
    with pytest.raises(ArgumentError, match=r"be a Task, .*Task\(x, y, x_test, y_test\); got nda"):
        continual.Naive(learner()).fit(X, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.fit(TASK, shuffle=True), r"'shuffle': every pass .*.* takes task, epochs"),
        (lambda s: s.fit(TASK, 5), r"takes only task without a name; .*: epochs=\.\.\."),
        (lambda s: s.fit(x=X, y=Y), r"'x': pass the data as a task, .*Task\(x, y"),
        (
            lambda s: s.fit(TASK, sample_weight=X),
            r"'sample_weight': .*Task\(\.\.\., sample_weight=",
        ),
        (lambda s: continual.run(s, None, plugins=[]), r"'plugins': .*EWC\(Replay\(trainer, 200\)"),
        (lambda s: continual.run(s, None, validation_data=(X, Y)), "'validation_data': each task"),
        (lambda s: continual.run(s, None, n_epochs=3), "'n_epochs': it is epochs"),
        (lambda s: continual.run(s, None, epoch=3), r"'epoch'; did you mean epochs\?"),
        (lambda s: continual.run(s, None, 5), r"continual\.run takes only strategy, scenario with"),
        (lambda s: continual.split(X, Y, X, Y, class_order=[1]), "'class_order': it is order"),
        (lambda s: continual.split(X, Y, n_experiences=5), "'n_experiences': it is tasks"),
        (lambda s: continual.rotated(X, Y, X, Y, rotations_list=[1]), "it is angles"),
        (lambda s: continual.from_arrays(X=X, y=Y), r"'X': .*, tasks=\[\(x, y, x_test, y_test\), "),
        (lambda s: continual.Task(X, Y, X, Y, task_label=1), "'task_label': it is index"),
        (lambda s: s.predict(X, task_id=1), "'task_id': it is task"),
        (lambda s: s.predict(X, [0], 1), r"predict takes only x, classes without a name"),
        (lambda s: s.network(context=1), "'context': it is task"),
        (lambda s: continual.EWC(s, 1, "exact"), "EWC takes only inner, strength without a name"),
        (lambda s: continual.L2(s, 1, 2), "^L2 takes only inner, strength; got 3 arguments$"),
    ],
)
def test_what_calls_of_other_libraries_are_given(call, message):
    with pytest.raises(TypeError, match=message):
        call(continual.Naive(learner()))


def test_an_error_from_inside_a_call_stays_what_it_is():
    def metric(strategy, task, classes):
        raise TypeError("of my own")

    with pytest.raises(TypeError, match=r"^of my own$"):
        continual.run(learner(), scenario(), metric=metric)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cil", "class"), ("Class-IL", "class"), ("til", "task"), ("domain-incremental", "domain")],
)
def test_kinds_by_their_other_names(name, kind):
    for make in (
        lambda: continual.split(X, Y, X, Y, tasks=3, kind=name),
        lambda: continual.permuted(X, Y, X, Y, kind=name),
        lambda: continual.from_arrays([(X, Y)], kind=name),
        lambda: continual.Scenario([TASK], kind=name),
    ):
        with pytest.raises(ArgumentError, match=f'^kind must be .* got .*which is kind="{kind}"$'):
            make()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("accuracy", r'result\.metrics\(\)\["average_accuracy"\]'),
        ("bwt", r'\["bwt_gem"\]'),
        ("matrix", r"it is result\.r"),
        ("curves", r"did you mean curve\?"),
    ],
)
def test_what_results_of_others_have(name, where):
    result = continual.run(learner(), scenario())
    assert "average_accuracy" in result.metrics()
    with pytest.raises(AttributeError, match=f"Result has no attribute '{name}'.*{where}"):
        getattr(result, name)
    assert repr(copy.deepcopy(result)) == repr(pickle.loads(pickle.dumps(result))) == repr(result)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": X[:, :1]}, "input has shape"),
        ({"x": X[:, 0]}, "x must be 2-D"),
        ({"x": X[:0], "y": Y[:0]}, "at least 1"),
        ({"x": [[1], [1, 2]], "y": [0, 1]}, "x cannot be made an array"),
        ({"x": np.where(X[3, 1] == X, np.nan, X)}, r"x\[3, 1\] is NaN"),
        ({"y": Y[:5]}, "x has 20 rows but y has 5"),
        ({"y": Y + 1}, r"y\[2\] is 3, but the network has 3 outputs"),
        ({"y": Y.astype(str)}, "number the classes"),
        (
            {"y": np.stack([Y, Y], axis=1)},
            "2 columns but the network has 3 outputs|keeps rows of y",
        ),
        ({"active": (0, 1)}, "which is not an active class"),
        ({"active": (7,)}, "active has class 7"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        continual.Naive,
        continual.FromScratch,
        continual.ShrinkAndPerturb,
        continual.XdG,
        continual.PackNet,
        lambda t: continual.GDumb(t, 9),
        lambda t: continual.Replay(t, 9),
        lambda t: continual.AGEM(t, 9),
        lambda t: continual.SynapticIntelligence(t, 1e4),
        continual.ContinualBackprop,
    ],
)
def test_a_task_that_is_refused_has_changed_nothing(make, wrong, message):
    first, second = continual.Task(X, Y, X, Y, 0), continual.Task(X, Y, X, Y, 1)
    one, other = make(learner()), make(learner())
    one.fit(first), other.fit(first)
    before, loss = one.trainer.model.flat_parameters, one.trainer.loss
    with pytest.raises(tw.ThalwegError, match=message):
        one.fit(continual.Task(**{"x": X, "y": Y, "x_test": X, "y_test": Y, "index": 1, **wrong}))
    np.testing.assert_array_equal(one.trainer.model.flat_parameters, before)
    assert one.trainer.loss == loss
    one.fit(second), other.fit(second)
    np.testing.assert_array_equal(
        one.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


ENDS = {
    "EWC": lambda t: continual.EWC(t, 1.0),
    "MAS": lambda t: continual.MAS(t, 1.0),
    "SynapticIntelligence": lambda t: continual.SynapticIntelligence(t, 1.0),
    "RWalk": lambda t: continual.RWalk(t, 1.0),
    "OnlineLaplace": lambda t: continual.OnlineLaplace(t, 1.0),
    "OGD": lambda t: continual.OGD(t, 5),
    "GEM": lambda t: continual.GEM(t, 5),
    "FROMP": lambda t: continual.FROMP(t, 5, 1.0),
    "LwF": continual.LwF,
    "XdG": continual.XdG,
    "PackNet": continual.PackNet,
    "EWC of Replay": lambda t: continual.EWC(continual.Replay(t, 9), 1.0),
}


@pytest.mark.parametrize(
    "kind", [list, np.array, lambda it: pytest.importorskip("torch").tensor(it)]
)
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((X, Y[:5], X, Y), "^x has 20 rows but y has 5; they must have the same number$"),
        ((X, Y, X[:7], Y), "^x_test has 7 rows but y_test has 20; they"),
        ((X, Y, X, Y, 0, "", None, Y[:3]), "^x has 20 rows but sample_weight has 3; they"),
    ],
)
def test_lengths_of_a_task_are_compared_when_it_is_made(kind, arrays, message):
    arrays = [kind(it) if isinstance(it, np.ndarray) else it for it in arrays]
    with pytest.raises(ShapeError, match=message):
        continual.Task(*arrays)


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.filterwarnings("ignore:the penalty of", "ignore:XdG is told")
def test_a_task_whose_end_is_refused_has_not_ended(name):
    """It goes on as if that had not been asked, and so do later tasks."""
    tasks = [continual.Task(X, Y, X, Y, index) for index in range(3)]
    one, other = (ENDS[name](learner()) for _ in range(2))
    for strategy in (one, other):
        strategy.fit(tasks[0])
        strategy.begin(tasks[1])
        strategy.learn(tasks[1], steps=2)
    state = str(one.state_dict())
    for wrong in (
        continual.Task(X[:, :1], Y, X, Y, 1),
        continual.Task(X, Y + 1, X, Y, 1),
        continual.Task(np.full_like(X, np.nan), Y, X, Y, 1),
    ):
        with pytest.raises(tw.ThalwegError):
            one.end(wrong)
        assert str(one.state_dict()) == state
    for strategy in (one, other):
        strategy.end(tasks[1])
        strategy.fit(tasks[2])
    np.testing.assert_array_equal(
        one.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


@pytest.mark.parametrize(
    "make",
    [
        continual.Naive,
        lambda t: continual.L2(continual.Naive(continual.Replay(t, 9)), 1.0),
        lambda t: continual.Naive(continual.XdG(t)),
        lambda t: continual.Naive(continual.GDumb(t, 9)),
    ],
)
def test_rows_are_looked_at_once_whatever_is_around_what(make, monkeypatch):
    """All of them, which takes as long as a good part of an epoch."""
    looked, look = [], continual.Strategy._look_at
    monkeypatch.setattr(
        continual.Strategy, "_look_at", lambda s, task: looked.append(task) or look(s, task)
    )
    strategy = make(learner())
    for task in (TASK, continual.Task(X, Y, X, Y, 1)):
        for call in (strategy.begin, strategy.end):
            looked.clear()
            call(task)
            assert looked == [task]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: continual.FromScratch(continual.Cumulative(t, DOMAINS)), "not in the scenario"),
        (lambda t: continual.ShrinkAndPerturb(continual.Joint(t, DOMAINS)), "not in the scenario"),
        (lambda t: continual.ShrinkAndPerturb(continual.EWC(t, 1.0)), "penalty is not the one"),
    ],
)
def test_what_an_inner_strategy_refuses_has_changed_nothing(make, message):
    strategy = make(learner())
    strategy.fit(DOMAINS[0])
    mine = strategy.trainer
    before, loss = mine.model.flat_parameters, mine.loss
    if "penalty" in message:
        mine.set_penalty(None)
    for _ in range(2):
        with pytest.raises(tw.ThalwegError, match=message):
            strategy.fit(continual.Task(X, Y, X, Y, 7))
    np.testing.assert_array_equal(mine.model.flat_parameters, before)
    assert mine.loss == loss


def test_gradients_that_cannot_be_projected_are_refused_before_weights_are_reset():
    """By the strategy outside, as soon as its first task begins."""
    mine = learner(loss=nn.CustomLoss(lambda output, target: (0.0, output)))
    strategy = continual.FromScratch(continual.AGEM(mine, 9))
    mine.model.flat_parameters = before = np.ones(mine.model.num_parameters, np.float32)
    with pytest.raises(UnsupportedError, match="cannot project the gradients of custom losses"):
        strategy.begin(TASK)
    np.testing.assert_array_equal(mine.model.flat_parameters, before)


@pytest.mark.parametrize(
    "task",
    [continual.Task(X, Y, X, Y, active=(0, 1, 2)), continual.Task(X, np.eye(3)[Y], X, Y)],
    ids=["labels", "shares"],
)
@pytest.mark.parametrize("make", [continual.GDumb, continual.Replay, continual.AGEM])
def test_a_task_that_a_buffer_has_no_room_for_changes_nothing(make, task):
    strategy = make(learner(), continual.BalancedBuffer(2))
    before, loss = strategy.trainer.model.flat_parameters, strategy.trainer.loss
    for call in (strategy.begin, strategy.fit):
        with pytest.raises(ArgumentError, match="no room for a sample of each of 3 classes"):
            call(task)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    assert strategy.trainer.loss == loss
    assert len(strategy.buffer) == 0


@pytest.mark.parametrize("make", [continual.Cumulative, continual.Joint])
def test_tasks_of_another_scenario_are_not_those_that_are_learned(make):
    """Equal sizes and numbers are not enough; equal rows are, whoever holds them."""
    others = continual.Scenario([continual.Task(X[::-1], Y, X, Y)] * 3)
    with pytest.raises(
        ArgumentError, match=f"not in the scenario that {make.__name__} was created"
    ):
        continual.run(make(learner(), DOMAINS), others)
    # Seeds 2 and 3 permute two features otherwise.
    turned = [continual.permuted(X, Y, X, Y, tasks=2, seed=seed) for seed in (2, 3, 3)]
    with pytest.raises(ArgumentError, match="not in the scenario"):
        continual.run(make(learner(), turned[0]), turned[1])
    continual.run(make(learner(), turned[1]), turned[2])
    copies = [continual.Task(t.x.copy(), t.y.tolist(), X, Y) for t in turned[1]]
    continual.run(make(learner(), turned[1]), continual.Scenario(copies))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"index": -1}, "index must be an integer from 0 to .*; got -1"),
        ({"index": "zero"}, "index must be an integer from 0 to .*; got 'zero'"),
        ({"classes": 3}, r"classes must hold integers >= 0, such as \(0, 1\); got 3"),
        ({"classes": (0.5, 1)}, r"classes must hold integers >= 0.* got \(0\.5, 1\)"),
        ({"active": "01"}, "active must hold integers >= 0.* got '01'"),
        ({"active": (-1,)}, r"active must hold integers >= 0.* got \(-1,\)"),
    ],
)
def test_what_a_task_says_of_itself_is_whole_numbers(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        continual.Task(X, Y, X, Y, **wrong)
    task = continual.Task(X, Y, X, Y, index=np.int64(2), classes=[np.int64(0), 1, 2])
    assert (task.index, task.classes) == (2, (0, 1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: continual.Scenario(5), "tasks must be a sequence; got 5"),
        (lambda: continual.from_arrays(None), "tasks must be a sequence; got None"),
        (lambda: continual.from_arrays([1]), r"tasks\[0\] must be a sequence; got 1"),
        (lambda: continual.from_arrays([(X, Y)], names=3), "names must be a sequence; got 3"),
        (lambda: continual.from_arrays([([[1], [1, 2]], [0, 1])]), r"tasks\[0\]\.x cannot be made"),
        (lambda: continual.split([[1], [1, 2]], [0, 1], X, Y), "x cannot be made an array"),
        (
            lambda: continual.split(X, np.array(["a", 1] * 10, object), X, Y),
            "must have one type, by which they can be sorted; got int, str",
        ),
        (
            lambda: continual.split(X, [Decimal("NaN")] * 20, X, Y),
            "by which they can be sorted; got Decimal, int",
        ),
        (
            lambda: continual.split(X, [Decimal("NaN")] * 20, X, [Decimal(1)] * 20),
            "by which they can be sorted; got Decimal without an order",
        ),
        (
            lambda: continual.split(X, Y, X, np.array([None] * 20)),
            "by which they can be sorted; got NoneType, int",
        ),
        (
            lambda: continual.split(X, np.zeros(20, [("label", int)]), X, Y),
            "by which they can be sorted; got int, tuple",
        ),
        (
            lambda: continual.split(X, Y, X, Y, 3, order=[[1, 2], [0]]),
            "order cannot be made an array",
        ),
        (
            lambda: continual.split(X, Y, X, Y, 3, order=np.array([0, "a", None], object)),
            r"order must hold each of the classes \[0, 1, 2\] once",
        ),
        (lambda: continual.split(X, Y, X, Y, 3, order=[0, 1, 1]), "each of the classes"),
        (lambda: continual.permuted(SQUARES * 1j, Y, SQUARES, Y), "x has dtype complex"),
        (lambda: continual.rotated(SQUARES * 1j, Y, SQUARES, Y), "x has dtype complex"),
        (lambda: continual.rotated(SQUARES, Y, SQUARES.astype(str), Y), "x_test has dtype <U"),
        (lambda: continual.rotated(SQUARES.astype("M8[s]"), Y, SQUARES, Y), "x has dtype datetime"),
        (lambda: continual.ReservoirBuffer(9).add(x=3, y=4), "a row for each sample"),
        (lambda: continual.ReservoirBuffer(9).add(x=X * 1j, y=Y), "x has dtype complex"),
        (lambda: continual.BalancedBuffer(9).add(x=X, y=Y.astype(str)), "y .*number the classes"),
        (lambda: continual.ReservoirBuffer(9).load_state_dict(None), "must be a dict, .*got None"),
        (lambda: continual.BalancedBuffer(9).load_state_dict("x"), "must be a dict, .*got 'x'"),
        (lambda: herd(X), "features must be a function of x; got an ndarray"),
        (lambda: herd(lambda x: None), r"features\(x\) is None"),
        (lambda: herd(lambda x: x[:, 0]), r"features\(x\) must be 2-D"),
        (lambda: herd(lambda x: x * 1j), r"features\(x\) has dtype complex"),
        (lambda: herd(lambda x: x.astype(str)), r"features\(x\) has dtype <U"),
        (lambda: herd(lambda x: x[:1]), r"features\(x\) must have a row for each of the 7 samples"),
        (lambda: herd(lambda x: x * np.nan), r"features\(x\)\[0, 0\] is nan"),
        (
            lambda: continual.BalancedBuffer(9).add(x=[[1], [1, 2]], y=Y),
            "x cannot be made an array",
        ),
        (lambda: continual.run(learner(), DOMAINS, resume="yes"), "resume must be True or False"),
        (lambda: continual.Naive(learner()).predict(X, [0.5]), r"outputs 0 to 2; got \[0\.5\]"),
        (lambda: continual.Naive(learner()).predict(X, "01"), "outputs 0 to 2; got '01'"),
        (lambda: continual.Naive(learner()).predict(X, [[1, 2], [0]]), "classes cannot be made"),
        (lambda: continual.LwF(learner()).fit(RAGGED), "y cannot be made an array"),
        (lambda: continual.ERACE(learner(), 9).fit(RAGGED), "y cannot be made an array"),
        (lambda: continual.DER(learner(), 9, alpha=1).step(5, Y), "x is not one: its shape is"),
        (lambda: continual.DER(learner(), 9, alpha=1).step(X, 5), "y is not one: its shape is"),
        (lambda: learned(continual.GEM(learner(), 5)).step(5, Y), "x must be 2-D"),
        (lambda: learned(continual.OGD(learner(), 5)).step(Sparse(), Y), r"pass x\.toarray\(\)"),
        (lambda: nearest().predict(None), "x is None"),
        (lambda: nearest().predict(Sparse()), r"pass x\.toarray\(\)"),
        (lambda: continual.Task(X, Y, X, Y, name=np.zeros((2, 2))), "name must be text; got array"),
        (lambda: continual.Task(X, Y, X, Y, active=np.zeros((2, 2), int)), "active must hold"),
        (
            lambda: continual.SynapticIntelligence(learner(), 1.0, convention=np.zeros(2)),
            "convention must be one of",
        ),
        (
            lambda: continual.PackNet(learner(), retrain=1e308),
            r"retrain must be .* in \[0, 1e\+06\]",
        ),
        (
            lambda: continual.Replay(learner(), 0),
            "buffer must be a Buffer or an integer >= 1; got 0",
        ),
        (lambda: continual.GDumb(learner(), -1), "buffer must be a Buffer or an integer >= 1; got"),
        (
            lambda: continual.Result(None, "domain", "accuracy"),
            "names must be a sequence; got None",
        ),
        (lambda: continual.XdG(learner()).predict(X, task="a"), "task must be an integer >= 0"),
        (lambda: continual.PackNet(learner()).network(-1), "task must be an integer >= 0; got -1"),
        (lambda: ewc().end(X), r"must be a Task, such as .*Task\(.*got ndarray"),
    ],
)
def test_what_is_given_is_looked_at(call, message):
    with pytest.raises(tw.ThalwegError, match=message):
        call()


@pytest.mark.parametrize("make", [continual.Replay, continual.DER, continual.ERACE])
def test_samples_of_a_stream_are_like_those_that_are_kept(make):
    strategy = make(learner(), 9)
    strategy.step(X, Y)
    before, state = strategy.trainer.model.flat_parameters, strategy.state_dict()
    with pytest.raises(ShapeError, match=r"keeps rows of x of shape \(2,\); got \(1,\)"):
        strategy.step(X[:, :1], Y)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    assert str(strategy.state_dict()) == str(state)


BUFFERED = {
    "Replay": lambda t: continual.Replay(t, 9),
    "AGEM": lambda t: continual.AGEM(t, 9),
    "AGEM(Replay)": lambda t: continual.AGEM(continual.Naive(continual.Replay(t, 5)), 9),
    "DERpp": lambda t: continual.DERpp(t, 9),
    "ERACE": lambda t: continual.ERACE(t, 9),
    "full": lambda t: continual.Replay(t, continual.BalancedBuffer(3)),
}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"x": X[:4], "y": [9, 9, 9, 9]}, tw.ThalwegError),
        ({"x": X[:4], "y": np.eye(3)[Y[:4]]}, tw.ThalwegError),
        ({"x": X[:4], "y": Y[:4] + 0.5}, tw.ThalwegError),
        ({"x": X[:4], "y": Y[:3]}, ShapeError),
        ({"x": X[:0], "y": Y[:0]}, ShapeError),
        ({"x": X[:4, 0], "y": Y[:4]}, ShapeError),
        ({"x": np.full((4, 2), np.nan), "y": Y[:4]}, tw.ThalwegError),
        ({"x": np.ma.masked_less(X[:4], 0), "y": Y[:4]}, tw.ThalwegError),
    ],
    ids=["label", "shares", "numbers", "fewer", "none", "flat", "nan", "masked"],
)
@pytest.mark.parametrize("make", BUFFERED.values(), ids=BUFFERED)
def test_a_step_that_is_refused_has_changed_nothing(make, wrong, error):
    """Not the weights, and not the random numbers by which the buffer goes on."""
    one, other = make(learner()), make(learner())
    for first in range(0, 20, 5):
        if first:
            before = one.trainer.model.flat_parameters
            with pytest.raises(error):
                one.step(**wrong)
            np.testing.assert_array_equal(one.trainer.model.flat_parameters, before)
        for strategy in (one, other):
            strategy.step(X[first : first + 5], Y[first : first + 5])
    np.testing.assert_array_equal(
        one.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )
    assert str(one.state_dict()) == str(other.state_dict())


def test_a_step_is_refused_before_the_buffer_has_no_room_for_its_classes():
    strategy = continual.Replay(learner(), continual.BalancedBuffer(2))
    strategy.step(X[Y < 2], Y[Y < 2])
    before = strategy.trainer.model.flat_parameters
    with pytest.raises(ArgumentError, match="no room for a sample of each of 3 classes"):
        strategy.step(X, Y)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)


def test_a_state_is_that_of_such_a_strategy():
    strategy, other = ewc(), continual.Replay(learner(), 9)
    fit(TASK)(strategy)
    before = str(strategy.state_dict())
    with pytest.raises(ArgumentError, match=r"does not match this EWC: it has no .*importance"):
        strategy.load_state_dict(other.state_dict())
    with pytest.raises(ArgumentError, match="does not match this Naive: it has no inner"):
        continual.Naive(strategy).load_state_dict(strategy.state_dict())
    assert str(strategy.state_dict()) == before


def _learned(make):
    strategy = make(learner())
    strategy.fit(TASK, steps=2)
    return strategy


def _narrow():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())


@pytest.mark.parametrize(
    ("make", "other", "message"),
    [
        (lambda t: continual.Replay(t, 9), continual.Naive, "match this Replay: it has no buffer"),
        (
            lambda t: continual.EWC(continual.Replay(t, 9), 1),
            lambda t: continual.EWC(continual.GEM(t, 9), 1),
            "match this Replay: it has no buffer",
        ),
        (
            continual.Naive,
            lambda t: continual.Naive(continual.Naive(t)),
            "around another strategy, but",
        ),
        (continual.LwF, continual.Naive, "match this LwF: it has no .*teacher"),
        (
            lambda t: continual.Naive(continual.SynapticIntelligence(t, 1)),
            lambda t: continual.Naive(continual.L2(t, 1)),
            "it has no .*path",
        ),
        (
            lambda t: continual.L2(continual.Replay(t, 9), 1),
            lambda t: continual.L2(continual.Replay(t, 10), 1),
            "with capacity=10, but this one has capacity=9",
        ),
        (
            lambda t: continual.Replay(t, continual.BalancedBuffer(9)),
            lambda t: continual.Replay(t, 9),
            "match this Replay: its buffer is the state of a Reservoir.*, but .* a BalancedBuffer;",
        ),
        (
            lambda t: continual.L2(t, 1),
            lambda t: continual.L2(_narrow(), 1),
            r"importance in the state has shape \(27,\), but .* this L2 has 51 parameters",
        ),
    ],
)
def test_of_a_wrong_state_nothing_is_taken(make, other, message):
    strategy, state = _learned(make), _learned(other).state_dict()
    state["ended"] = 99
    before = str(strategy.state_dict())
    with pytest.raises(tw.ThalwegError, match=message):
        strategy.load_state_dict(state)
    assert str(strategy.state_dict()) == before
    state = strategy.state_dict()
    if "importance" in state:
        state["importance"][3] = np.nan
        with pytest.raises(
            tw.DataError, match=r"^in the state, importance\[3\] is nan; only finite"
        ):
            strategy.load_state_dict(state)
    with pytest.raises(ArgumentError, match=r"state must be a dict, .*state_dict\(\); got None"):
        strategy.load_state_dict(None)


def test_what_is_learned_with_all_before_it_is_of_their_scenario():
    """Else its own rows would be left out, without a word."""
    strategy = continual.Cumulative(learner(), DOMAINS)
    for task in (continual.Task(X, Y, X, Y, 3), continual.Task(X[:5], Y[:5], X, Y, 0)):
        with pytest.raises(
            ArgumentError, match="is not in the scenario that Cumulative was created"
        ):
            strategy.fit(task)


def state(strategy):
    """Everything that decides how a strategy and its trainer go on."""
    trainer = strategy.trainer
    return (
        trainer.model.flat_parameters.tobytes(),
        trainer.model._core.passes(),  # the masks of dropout
        trainer._epochs,
        str(trainer.optimizer.state_dict()),
        str(strategy.state_dict()),  # whether a task has begun, too
    )


@pytest.mark.filterwarnings("ignore:the penalty of", "ignore:XdG is told")
@pytest.mark.parametrize(
    "make",
    [
        continual.Naive,
        continual.XdG,
        lambda t: continual.Replay(t, 9),
        lambda t: continual.AGEM(t, 9),
        lambda t: continual.RWalk(t, 1.0),
        lambda t: continual.EWC(continual.Replay(t, 9), 1.0),
        continual.ContinualBackprop,
    ],
)
def test_a_task_that_diverges_has_not_begun(make):
    """In none of the strategies: all is as before, and it cannot be learned without its begin."""
    layers = nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)
    loss, optimizer = nn.CrossEntropyLoss(), optim.Adam()
    mine = tw.Trainer(nn.Sequential(*layers, seed=1), loss=loss, optimizer=optimizer)
    strategy, (first, second) = make(mine), scenario()

    def diverge(call, *arguments):
        lr, optimizer.lr = optimizer.lr, 1e38
        with pytest.raises(tw.DivergedError):
            call(*arguments, batch_size=5)
        optimizer.lr = lr
        with pytest.raises(ArgumentError, match="has not begun"):
            strategy.learn(first, steps=1)

    diverge(continual.run, strategy, scenario())
    strategy.fit(first)
    before = state(strategy)
    diverge(strategy.fit, second)
    assert state(strategy) == before
    strategy.fit(second)


@pytest.mark.parametrize("call", ["begin", "learn"])
def test_parts_of_a_task_are_of_a_task(call):
    strategy = continual.Naive(learner())
    with pytest.raises(ArgumentError, match=r"must be a Task, such as .*Task\(.*got ndarray"):
        getattr(strategy, call)(X, **({"steps": 1} if call == "learn" else {}))


CLASSES = continual.split(X, Y, X, Y, tasks=3, kind="class")
HEADS = continual.split(X, Y, X, Y, tasks=3, kind="task")
DOMAINS = scenario(3)


class Mine(continual.Naive):
    """A strategy of the user's, around others."""


def averaging():
    """A trainer whose model has running averages."""
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())


def pulled():
    """A trainer with a penalty of the user's."""
    trainer = learner()
    zeros = np.zeros(trainer.model.num_parameters)
    trainer.set_penalty(zeros + 1, zeros)
    return trainer


def ewc():
    return continual.EWC(learner(), 1.0)


def chain():
    """A strategy that warns, inside of others."""
    return Mine(continual.ContinualBackprop(ewc()))


def hardly():
    """A strategy whose penalty is next to nothing."""
    return continual.L2(learner(), 1e-12)


def fast():
    """A strategy that gives nearly all weights to the first task."""
    return continual.PackNet(learner(), prune=0.001)


def run(tasks):
    return lambda learner: continual.run(learner, tasks)


def fit(*tasks):
    return lambda strategy: [strategy.fit(task) for task in tasks]


def nothing(_):
    """What comes before the first call."""


def begun(strategy):
    fit(DOMAINS[0])(strategy)
    strategy.begin(DOMAINS[1])
    strategy.learn(DOMAINS[1], steps=1)


@pytest.mark.parametrize(
    ("make", "before", "call", "message"),
    [
        (
            lambda: continual.EWC(continual.Replay(learner(), 9), 0.0),
            nothing,
            lambda t: continual.run(t, HEADS),
            'EWC(Replay): the scenario is of kind="task", but all outputs compete in the loss',
        ),
        (
            learner,
            nothing,
            lambda t: continual.run(t, HEADS),
            'Trainer: the scenario is of kind="task", but all outputs compete in the loss',
        ),
        (pulled, nothing, lambda t: continual.run(t, DOMAINS), "has a penalty already"),
        (learner, run(DOMAINS), lambda t: continual.run(t, DOMAINS), "in another run before"),
        (ewc, run(DOMAINS), lambda s: continual.run(s, DOMAINS), "EWC has learned 3 tasks before"),
        (ewc, nothing, lambda s: continual.run(s, CLASSES), "brings new classes"),
        (ewc, fit(CLASSES[0]), lambda s: s.fit(CLASSES[1]), "brings new classes"),
        (ewc, fit(CLASSES[0]), lambda s: s.begin(CLASSES[1]), "brings new classes"),
        (chain, nothing, lambda s: continual.run(s, CLASSES), "brings new classes"),
        (chain, fit(CLASSES[0]), lambda s: s.fit(CLASSES[1]), "brings new classes"),
        (chain, fit(CLASSES[0]), lambda s: s.begin(CLASSES[1]), "brings new classes"),
        (hardly, fit(DOMAINS[0]), lambda s: s.fit(DOMAINS[1]), "strength=1e-12 is too small"),
        (hardly, begun, lambda s: s.end(DOMAINS[1]), "strength=1e-12 is too small"),
        (fast, fit(*DOMAINS[:2]), lambda s: s.fit(DOMAINS[2]), "no free weights left"),
        (fast, fit(*DOMAINS[:2]), lambda s: s.begin(DOMAINS[2]), "no free weights left"),
        (fast, nothing, lambda s: continual.run(s, DOMAINS), "is told which task a sample is from"),
        (
            lambda: continual.L2(averaging(), 1.0),
            fit(DOMAINS[0]),
            lambda s: s.fit(DOMAINS[1]),
            "running averages of nn.BatchNorm1d",
        ),
    ],
)
def test_a_warning_is_of_the_line_that_called(make, before, call, message):
    strategy = make()
    with warnings.catch_warnings(action="ignore"):
        before(strategy)
    with warnings.catch_warnings(record=True, action="always") as caught:
        call(strategy)
    lines = [(one.filename, one.lineno) for one in caught if message in str(one.message)]
    assert {(__file__, call.__code__.co_firstlineno)} == set(lines)


def test_a_warning_is_of_the_line_of_a_strategy_of_one_s_own():
    class Begins(continual.EWC):
        def begin(self, task):
            super().begin(task)

    strategy = Begins(learner(), 1.0)
    with warnings.catch_warnings(record=True, action="always") as caught:
        continual.run(strategy, CLASSES)
    [one] = [one for one in caught if "brings new classes" in str(one.message)]
    assert one.lineno == Begins.begin.__code__.co_firstlineno + 1


def test_the_error_for_the_fisher_information_names_the_losses_that_it_supports():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(
        UnsupportedError,
        match=r"known for nn\.CrossEntropyLoss, nn\.BCEWithLogitsLoss, nn\.MSELoss,"
        r" nn\.PoissonNLLLoss and nn\.GaussianNLLLoss; got HuberLoss",
    ):
        continual.fisher_diagonal(model, X, loss=nn.HuberLoss())


def test_a_result_says_how_long_it_took_before_the_first_step_of_a_task():
    class Fails(continual.Strategy):
        def learn(self, task, **options):
            if task.index:
                raise ArgumentError("no")
            return {"loss": 0.5}

    strategy = Fails(learner())
    with pytest.raises(ArgumentError, match="no"):
        continual.run(strategy, scenario())
    assert strategy.result.seconds > 0
    assert "1 of 2 tasks" in repr(strategy.result)


def test_tensors_with_a_gradient_are_told_to_detach():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    square = torch.tensor(R, requires_grad=True)
    for call, name in (
        (lambda: continual.permuted(x, Y, X, Y), "x"),
        (lambda: continual.split(x, Y, X, Y), "x"),
        (lambda: continual.split(X, Y, x, Y), "x_test"),
        (lambda: continual.ReservoirBuffer(5).add(x=x, y=Y), "x"),
        (lambda: metrics.activations(learner().model, x), "x"),
        (lambda: metrics.average_accuracy(square), "r"),
    ):
        with pytest.raises(DtypeError, match=rf"^{name} cannot be made .*pass {name}\.detach\(\)"):
            call()
    with pytest.raises(ArgumentError, match=r"must be an nn\.Sequential; got NoneType"):
        metrics.activations(None, X)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'\\"strategy', b'\\"strategx'),
        (b'\\"version', b'\\"versiom'),
        (b'\\"progress', b'\\"progresS'),
        (b"strategy.importance", b"strategy.importancf"),
        (b'{\\"version\\"', b'[\\"version\\"'),
    ],
)
def test_a_damaged_file_of_a_strategy_is_named(old, new, tmp_path):
    """Also one without a checksum, by which damage of later files is found at once."""
    path, strategy = tmp_path / "strategy", continual.EWC(learner(), 1.0)
    strategy.fit(continual.Task(X, Y, X, Y), epochs=1)
    strategy.save(path)
    whole = path.read_bytes().replace(b"thalweg.crc32", b"of-the-others")
    again = continual.EWC(learner(), 1.0)
    assert old in whole
    path.write_bytes(whole.replace(old, new, 1))
    with pytest.raises(tw.DataError, match="is a damaged file: "):
        again.load(path)
    assert again.trainer.optimizer.steps == 0
    path.write_bytes(whole)
    again.load(path)
    assert again.trainer.optimizer.steps == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("importance", np.nan, "is nan"),
        ("anchor", np.inf, "is inf"),
        ("importance", 1e300, "is too large for float32"),
    ],
)
def test_a_file_with_numbers_that_no_strategy_has_gathered_is_damaged(
    name, value, message, dtype, tmp_path
):
    """Before anything is loaded; without a warning of NumPy."""

    def make():
        trainer = learner()
        trainer = tw.Trainer(trainer.model.astype(dtype), loss=trainer.loss, optimizer=optim.Adam())
        return continual.EWC(trainer, 1.0)

    path, strategy, again = tmp_path / "strategy", learned(make()), make()
    strategy.save(path)
    arrays, text = _safetensors.load(path)
    changed = arrays[f"strategy.{name}"] = arrays[f"strategy.{name}"].copy()
    changed[3] = value
    _safetensors.save(path, arrays, text)
    if np.isfinite(value) and dtype == "float64":
        again.load(path)
        assert again.importance[3] == value
        return
    with pytest.raises(tw.DataError, match=rf"is a damaged file: .*{name}.*\[3\].*{message}"):
        again.load(path)
    assert again.trainer.optimizer.steps == 0
    assert again.importance is None


def edited(path, change):
    """Change what a file says besides its arrays; its checksum is right again."""
    arrays, text = _safetensors.load(path)
    plain = json.loads(text["thalweg.continual"])
    change(plain)
    _safetensors.save(path, arrays, text | {"thalweg.continual": json.dumps(plain)})


def reservoir():
    return continual.Replay(learner(), continual.ReservoirBuffer(9))


def balanced():
    return continual.Replay(learner(), continual.BalancedBuffer(9))


def laplace():
    return continual.OnlineLaplace(learner(), 1.0)


def renewing():
    return continual.ContinualBackprop(learner())


DAMAGED_STATES = {
    "a strength that is text": (lambda: continual.EWC(learner(), 1.0), "strength", "mean"),
    "figures that are no list": (lambda: continual.EWC(learner(), 1.0), "ratios", {}),
    "no buffer": (reservoir, "buffer", None),
    "a buffer of no kind": (reservoir, "buffer", {"its state": {}}),
    "a generator that is none": (reservoir, "buffer/its state/generator", {}),
    "a seen that is text": (reservoir, "buffer/its state/seen", "a"),
    "fewer samples than were seen": (reservoir, "buffer/its state/columns", {}),
    "a column of another length": (
        reservoir,
        "buffer/its state/columns/y",
        {"array": "0.bias"},
    ),
    "fewer classes than were seen": (balanced, "buffer/its state/groups", {}),
    "classes that are none": (balanced, "buffer/its state/seen", {"a": 3}),
    "factors of no layer": (laplace, "terms", [{}]),
    "factors of other layers": (laplace, "terms", [{"9": {"G": 1, "A": 1}}]),
    "factors of another shape": (laplace, "terms", [{"0": {"G": [[1.0]], "A": [[1.0]]}}]),
    "no factors": (laplace, "terms", []),
    "utilities that are none": (renewing, "utility", 3),
    "ages of other units": (renewing, "age", []),
}


@pytest.mark.parametrize(("make", "place", "value"), DAMAGED_STATES.values(), ids=DAMAGED_STATES)
def test_a_file_with_a_wrong_field_is_named_and_nothing_changes(make, place, value, tmp_path):
    """Whatever is found only once the model has been replaced."""
    path, strategy, again = tmp_path / "strategy", learned(make()), make()
    strategy.save(path)

    def change(plain):
        *outer, last = place.split("/")
        part = plain["strategy"]
        for name in outer:
            part = part[name]
        part[last] = value

    edited(path, change)
    before = again.trainer.model.flat_parameters, pickle.dumps(again.state_dict())
    with pytest.raises((tw.DataError, ArgumentError), match=re.escape(str(path))):
        again.load(path)
    assert again.trainer.optimizer.steps == 0
    np.testing.assert_array_equal(again.trainer.model.flat_parameters, before[0])
    assert pickle.dumps(again.state_dict()) == before[1]


class Mistaken(continual.Replay):
    """Its own part of the state needs attributes that it does not have."""

    def state_dict(self):
        return {**super().state_dict(), "mine": 3}

    def load_state_dict(self, state):
        self.mine = state["mine"]
        super().load_state_dict({key: value for key, value in state.items() if key != "mine"})
        self.names["mine"] = self.mine


class MistakenBuffer(continual.ReservoirBuffer):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.share = state["share"]


class Refusing(continual.Replay):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        raise UnsupportedError("not on Mondays")


@pytest.mark.parametrize(
    ("make", "error", "line"),
    [
        (lambda: Mistaken(learner(), 9), AttributeError, 'self.names["mine"] = self.mine'),
        (
            lambda: continual.Replay(learner(), MistakenBuffer(9)),
            KeyError,
            'self.share = state["share"]',
        ),
        (lambda: Refusing(learner(), 9), UnsupportedError, 'raise UnsupportedError("not on'),
    ],
)
def test_a_mistake_in_loading_a_state_of_one_s_own_is_no_damage(make, error, line, tmp_path):
    """It comes out where it is, and everything is as it was before."""
    path, again = tmp_path / "strategy", make()
    learned(make()).save(path)
    before = again.trainer.model.flat_parameters
    with pytest.raises(error) as caught:
        again.load(path)
    assert any(line in str(entry) for entry in caught.traceback)
    assert all("this call, but" in note for note in getattr(caught.value, "__notes__", ()))
    np.testing.assert_array_equal(again.trainer.model.flat_parameters, before)
    assert (again.trainer.optimizer.steps, len(again.buffer), again._ended) == (0, 0, 0)


@pytest.mark.parametrize("make", [lambda: Mistaken(learner(), 9), lambda: Refusing(learner(), 9)])
def test_damage_that_thalweg_finds_is_damage_also_in_a_class_of_one_s_own(make, tmp_path):
    path, again = tmp_path / "strategy", make()
    learned(make()).save(path)
    edited(path, lambda plain: plain["strategy"]["buffer"]["its state"].update(generator={}))
    with pytest.raises(tw.DataError, match=rf"{re.escape(str(path))}.* is a damaged file: "):
        again.load(path)


DAMAGED_PLACES = {
    "none": None,
    "a task that is a list": {"task": []},
    "a task before the first": {"task": -5},
    "a task after the last": {"task": 10**9},
    "steps below 0": {"taken": -1},
    "more steps than a task has": {"taken": 3},
    "steps of no task": {"task": 0, "taken": 0},
    "a total of other tasks": {"total": 99},
    "counts that are a number": {"counts": 3},
    "two counts": {"counts": [1, 2]},
    "a result that is a list": {"result": []},
}


@pytest.mark.parametrize("change", DAMAGED_PLACES.values(), ids=DAMAGED_PLACES)
def test_a_checkpoint_at_a_place_where_no_run_was_is_damaged(change, tmp_path):
    """And does not pass for a run that has ended."""
    path, trainer = tmp_path / "run", learner()
    continual.run(learner(), scenario(), checkpoint=path)
    edited(path, lambda plain: plain.update(progress=change and plain["progress"] | change))
    before = trainer.model.flat_parameters
    with pytest.raises(tw.DataError, match=rf"{re.escape(str(path))}.* is a damaged file: "):
        continual.run(trainer, scenario(), checkpoint=path, resume=True)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert trainer.optimizer.steps == 0


def test_a_file_replaces_a_model_that_has_diverged(tmp_path):
    """To which there is nothing to go back."""

    def make():
        return continual.Naive(
            tw.Trainer(learner().model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=3e38))
        )

    strategy, diverged = make(), make()
    strategy.save(tmp_path / "strategy")
    diverged.trainer.step(X, 1e3 * np.ones((20, 3)))
    assert not np.isfinite(diverged.trainer.model.flat_parameters).all()
    diverged.load(tmp_path / "strategy")
    np.testing.assert_array_equal(
        diverged.trainer.model.flat_parameters, strategy.trainer.model.flat_parameters
    )


def test_the_result_of_a_run_is_no_nested_list(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("[" * 10**6)
    with pytest.raises(tw.DataError, match="does not contain the result of a run"):
        continual.Result.load(path)


def test_paths_may_be_bytes(tmp_path):
    for name, checks in (("log.json", "log"), ("scores.csv", "log"), ("run", "checkpoint")):
        path = str(tmp_path / name).encode()
        continual.run(learner(), scenario(), **{checks: path})
        assert (tmp_path / name).exists()
    found = continual.Result.load(str(tmp_path / "log.json").encode())
    assert found.names == ("task 1", "task 2")
    found.save(str(tmp_path / "again.csv").encode())
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()


def test_samples_that_are_too_large_for_directions_are_named():
    model, task = learner().model, continual.Task(X * 1e38, Y, X, Y)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    before, strategy = model.flat_parameters, continual.OGD(trainer, 5)
    with pytest.raises(tw.DataError, match="x of task 0 are not finite in float32 arithmetic"):
        strategy.fit(task)
    np.testing.assert_array_equal(model.flat_parameters, before)
    assert strategy._ended == 0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda path: continual.Naive(learner()).save(path), "path"),
        (lambda path: continual.Naive(learner()).load(path), "path"),
        (lambda path: continual.run(learner(), scenario(), log=path), "log"),
        (lambda path: continual.run(learner(), scenario(), checkpoint=path), "checkpoint"),
        (lambda path: continual.Result(("a",), "task", "accuracy").save(path), "path"),
        (continual.Result.load, "path"),
    ],
)
def test_what_is_no_path_is_refused_by_its_argument(call, name):
    for wrong in (True, 3, np.ones(1)):
        with pytest.raises(ArgumentError, match=rf"^{name} must be text or a path; got "):
            call(wrong)


def test_errors_of_calls_name_classes_that_users_know():
    """And not the bases that these share."""
    public = {name for name, thing in vars(continual).items() if isinstance(thing, type)}
    for kind in (vars(continual)[name] for name in public):
        for base in kind.__mro__:
            if base.__module__.startswith("thalweg.continual"):
                for thing in filter(inspect.isfunction, vars(base).values()):
                    assert thing.__qualname__.partition(".")[0] in public, thing
    for call, message in (
        (lambda: continual.RecentBuffer(3).add(X), r"^Buffer\.add\(\) takes 1"),
        (lambda: continual.DER(learner(), 9).step(X), r"^Strategy\.step\(\) missing .* 'y'"),
        (lambda: continual.GEM(learner(), 9).begin(), r"^Strategy\.begin\(\) missing .* 'task'"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
