"""Scenarios and streams hold what their names say."""

import dataclasses
import gc
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from thalweg import continual, nn
from thalweg.errors import ArgumentError, DataError, DtypeError, ShapeError


@pytest.fixture
def data(rng):
    """Ten classes, five samples of each; feature 0 is the number of the sample."""
    y = np.tile(np.arange(10), 5)
    x = rng.standard_normal((50, 16)).astype(np.float32)
    x[:, 0] = np.arange(50)
    return SimpleNamespace(x=x, y=y, all=(x, y, x[:20], y[:20]))


def originals(task):
    """The labels that a task's samples have in `data`."""
    return task.x[:, 0].astype(int) % 10


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [
        ("task", lambda y: y, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]),
        ("class", lambda y: y, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]),
        ("domain", lambda y: y % 2, [(0, 1)] * 5),
    ],
)
def test_split_deals_the_classes_out(data, kind, labels, classes):
    scenario = continual.split(*data.all, tasks=5, kind=kind)
    assert [task.classes for task in scenario] == classes
    assert [task.name for task in scenario] == ["0 1", "2 3", "4 5", "6 7", "8 9"]
    assert [task.index for task in scenario] == [0, 1, 2, 3, 4]
    for task in scenario:
        assert sorted(set(originals(task))) == [2 * task.index, 2 * task.index + 1]
        np.testing.assert_array_equal(task.y, labels(originals(task)))
        np.testing.assert_array_equal(task.y_test, task.y[: len(task.y_test)])
    rows = np.concatenate([task.x[:, 0] for task in scenario])
    assert sorted(rows) == list(range(50))  # each sample is in one task


def test_split_in_an_order_names_classes_by_their_place(data):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    scenario = continual.split(*data.all, tasks=5, kind="class", order=order)
    assert scenario[1].name == "4 0"
    for task in scenario:
        np.testing.assert_array_equal(np.array(order)[task.y], originals(task))


def test_split_draws_an_order_from_a_seed(data):
    names = [[t.name for t in continual.split(*data.all, seed=seed)] for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]


def test_split_into_parts_of_different_sizes_and_of_text(data):
    letters = np.array(list("abcdefghij"))[data.y]
    scenario = continual.split(data.x, letters, data.x, letters, tasks=3)
    assert scenario.heads == (4, 3, 3)
    assert scenario[1].name == "e f g"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("task", {(0, 2): (0, 1), (2, 2): (4, 5), (4, 2): (8, 9)}),
        ("domain", {(0, 2): None, (4, 2): None}),
        ("class", {(0, -1): (0, 1), (0, 1): (0, 1, 2, 3), (2, 1): (0, 1, 2, 3, 4, 5)}),
        # Before anything is learned, among those among which it is judged before its turn.
        ("class", {(2, -1): (0, 1, 2, 3, 4, 5), (4, -1): tuple(range(10))}),
    ],
)
def test_which_classes_compete(data, kind, expected):
    scenario = continual.split(*data.all, tasks=5, kind=kind)
    assert {pair: scenario.competing(*pair) for pair in expected} == expected


def test_permuted_features_are_the_same_ones_in_another_order(data):
    scenario = continual.permuted(*data.all, tasks=3, seed=7)
    np.testing.assert_array_equal(scenario[0].x, data.x)
    for task in scenario[1:]:
        assert not np.array_equal(task.x, data.x)
        np.testing.assert_array_equal(np.sort(task.x, axis=1), np.sort(data.x, axis=1))
        # One order for all rows, training and test.
        np.testing.assert_array_equal(task.x[:20], task.x_test)
    again = continual.permuted(*data.all, tasks=3, seed=7)
    np.testing.assert_array_equal(scenario[2].x, again[2].x)
    assert not np.array_equal(scenario[1].x, scenario[2].x)


@pytest.mark.parametrize("kind", ["task", "class"])
def test_permuted_tasks_may_have_outputs_of_their_own(data, kind):
    scenario = continual.permuted(*data.all, tasks=3, kind=kind)
    np.testing.assert_array_equal(scenario[2].y, data.y + 20)
    assert scenario[2].classes == tuple(range(20, 30))
    assert scenario.heads == (10, 10, 10)


@pytest.fixture(params=["permuted", "rotated"])
def made_on_demand(request, data):
    """Three tasks that make their samples when they are asked for."""
    return getattr(continual, request.param)(*data.all, tasks=3, kind="class")


def test_tasks_made_on_demand_are_replaced_copied_and_pickled(made_on_demand):
    always = [dataclasses.replace(task, active=None) for task in made_on_demand]
    for copies in (always, pickle.loads(pickle.dumps(made_on_demand))):
        for task, copy in zip(made_on_demand, copies, strict=True):
            np.testing.assert_array_equal(copy.x, task.x)
            np.testing.assert_array_equal(copy.x_test, task.x_test)
            assert (copy.index, copy.name, copy.classes) == (task.index, task.name, task.classes)
    assert [task.active for task in always] == [None] * 3
    assert made_on_demand[1].active == tuple(range(20))


def test_samples_are_made_once_for_as_long_as_they_are_in_use(made_on_demand, monkeypatch):
    made = []
    kind = type(made_on_demand[1].x_from.change)
    make = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, x: made.append(len(x)) or make(self, x))
    task = made_on_demand[1]
    x = task.x
    for size in (1, 2):
        part = task.with_data(task.x[:size], task.y[:size], np.ones(size), [3])
        assert (len(part.x), len(part.y), part.classes, part.active) == (
            size,
            size,
            (3,),
            task.active,
        )
    assert made == [50]  # and none of what it is judged by
    np.testing.assert_array_equal(part.x_test, task.x_test)
    assert made == [50, 20, 20]
    # Copies of it, too.
    other = dataclasses.replace(part, active=None)
    np.testing.assert_array_equal(other.x, x[:2])
    assert dataclasses.replace(task, active=None).x is x
    assert made == [50, 20, 20]
    del x, part, other
    gc.collect()
    assert len(task.x) == 50
    assert made == [50, 20, 20, 50]


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("angle", [0, 30, 90, 137.5, 180, -45])
def test_rotation_against_scipy(rng, side, angle):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = rng.random((3, side * side))
    y = np.zeros(3, np.int64)
    task = continual.rotated(x, y, x, y, angles=[angle])[0]
    images = x.reshape(3, side, side)
    expected = ndimage.rotate(images, angle, (2, 1), order=1, reshape=False, mode="grid-constant")
    np.testing.assert_allclose(task.x.reshape(expected.shape), expected, atol=1e-7)


def test_angles_are_drawn_in_order_and_90_degrees_move_pixels_whole(data):
    scenario = continual.rotated(*data.all, tasks=4, seed=1)
    angles = [float(task.name[:-1]) for task in scenario]
    assert angles == sorted(angles)
    assert 0 <= angles[0] < angles[-1] <= 180
    quarter = continual.rotated(*data.all, angles=[90])[0]
    turned = np.rot90(data.x.reshape(-1, 4, 4), axes=(1, 2)).reshape(50, 16)
    np.testing.assert_array_equal(quarter.x, turned)


def test_arrays_of_ones_own(rng):
    x = rng.standard_normal((6, 3))
    numbers = continual.from_arrays([(x, x[:, :2]), (x, x[:, 1:], x[:2], x[:2, 1:])], names="ab")
    assert [task.name for task in numbers] == ["a", "b"]
    assert [task.classes for task in numbers] == [None, None]
    assert numbers[0].x_test is numbers[0].x
    assert len(numbers[1].y_test) == 2
    labels = continual.from_arrays([(x, [0, 1, 0, 1, 0, 1]), (x, [2, 3, 3, 2, 3, 2])], "class")
    assert [task.classes for task in labels] == [(0, 1), (2, 3)]
    assert labels.competing(0, 1) == (0, 1, 2, 3)


def test_labels_are_the_classes_of_a_task_that_names_none(rng):
    x, y = rng.standard_normal((6, 3)), np.array([4, 2, 2, -100, 4, 2])
    assert continual.Task(x, y, x, y).classes == (2, 4)  # -100 is left out by the loss
    assert continual.Task(x, y.tolist(), x, y).classes == (2, 4)
    assert continual.Task(x, y, x, y, classes=(2, 3, 4)).classes == (2, 3, 4)
    for numbers in (x[:, 0], x, y[:, None]):
        assert continual.Task(x, numbers, x, numbers).classes is None
    hand = [continual.Task(x, np.full(6, k), x, np.full(6, k)) for k in range(3)]
    assert continual.Scenario(hand, "task").heads == (1, 1, 1)
    assert continual.Scenario(hand, "class").competing(1, 0) == (0, 1)


def test_heads_are_in_the_order_of_outputs_and_come_back_with_their_classes(data):
    tasks = continual.split(*data.all, tasks=3, kind="task")
    assert tasks.heads == (4, 3, 3)
    assert continual.Scenario(tasks[::-1], "task").heads == (4, 3, 3)
    assert continual.Scenario([*tasks, tasks[1], tasks[0]], "task").heads == (4, 3, 3)
    # In whatever order a task names them, and how often.
    named = [dataclasses.replace(t, classes=t.classes[::-1] + t.classes[:1]) for t in tasks]
    assert continual.Scenario([*named, tasks[1]], "task").heads == (4, 3, 3)
    # Labels that begin anew in every task are not told apart by them.
    assert continual.split(*data.all, tasks=5, kind="domain").heads == (2,) * 5


def test_classes_that_were_seen_compete_in_another_order_too(data):
    tasks = continual.split(*data.all, tasks=5, kind="class")
    turned = continual.Scenario(tasks[::-1], "class")
    assert [task.active for task in turned] == [tuple(range(8 - 2 * k, 10)) for k in range(5)]
    assert [task.active for task in tasks] == [tuple(range(2 + 2 * k)) for k in range(5)]
    always = [dataclasses.replace(task, active="all") for task in tasks[::-1]]
    assert [task.active for task in continual.Scenario(always, "class")] == ["all"] * 5
    some = [always[0], *tasks[::-1][1:]]
    assert [task.active for task in continual.Scenario(some, "class")] == [
        "all", *[tuple(range(8 - 2 * k, 10)) for k in range(1, 5)]
    ]  # fmt: skip
    # More than those that were seen is a choice.
    every = [dataclasses.replace(task, active=tuple(range(10))) for task in tasks]
    assert {task.active for task in continual.Scenario(every, "class")} == {tuple(range(10))}


def test_a_class_scenario_made_by_hand_is_that_of_split(data):
    """Also while it is learned: the classes so far compete, if a task does not say otherwise."""
    tasks = continual.split(*data.all, tasks=5, kind="class")
    hand = [continual.Task(task.x, task.y, task.x_test, task.y_test) for task in tasks]
    made = continual.Scenario(hand, "class")
    assert [task.active for task in made] == [task.active for task in tasks]
    for kind in ("task", "domain"):
        assert [task.active for task in continual.Scenario(hand, kind)] == [None] * 5
    hand[2] = dataclasses.replace(hand[2], active=range(10))
    assert continual.Scenario(hand, "class")[2].active == tuple(range(10))
    # Shares of classes do not say of which they are.
    hand[1] = continual.Task(data.x, np.eye(10)[data.y], data.x, data.y)
    assert [task.active for task in continual.Scenario(hand, "class")][:2] == [None, None]


def test_all_outputs_compete_where_a_task_says_so(clouds, trainer):
    mine = trainer(loss=nn.CrossEntropyLoss(active=(0, 1)))
    tasks = continual.split(*clouds.all, tasks=3, kind="class")
    continual.Naive(mine).fit(dataclasses.replace(tasks[2], active="all"))
    assert mine.loss.active is None


@pytest.mark.parametrize("kind", ["task", "class"])
def test_a_slice_of_a_scenario_is_one_of_the_same_kind(kind, clouds, trainer):
    whole = continual.split(*clouds.all, tasks=3, kind=kind)
    first = whole[:2]
    assert isinstance(first, continual.Scenario)
    assert (first.kind, len(first)) == (kind, 2)
    assert all(one.x is other.x for one, other in zip(first, whole, strict=False))
    loss = nn.CrossEntropyLoss(heads=whole.heads if kind == "task" else None)
    result = continual.run(trainer(loss=loss), whole[:2])
    assert result.r.tolist() == continual.run(trainer(loss=loss), whole).r[:2, :2].tolist()
    # Others keep their numbers, for strategies that have learned those before them.
    assert whole[1:] == whole.tasks[1:]
    assert whole[::2] == whole.tasks[::2]
    assert whole[3:] == ()


X, Y = np.zeros((4, 9)), np.arange(4) % 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: continual.split(X, Y, X, Y, tasks=3), ArgumentError, "tasks must be .* 1 to 2"),
        (lambda: continual.split(X, Y, X, Y, tasks=2, kind="tsk"), ArgumentError, "mean .task"),
        (lambda: continual.split(X, Y, X, Y + 1, tasks=2), DataError, r"\[2\], which do not occur"),
        (lambda: continual.split(X, Y[:3], X, Y, 2), ShapeError, "4 rows but y has 3"),
        (lambda: continual.split(X, Y, X, Y, 2, order=[0, 0]), ArgumentError, r"\[0, 1\] once"),
        (lambda: continual.split(X, Y, X, Y, 2, order=[0, 1], seed=1), ArgumentError, "not both"),
        (lambda: continual.split(X[0], Y, X, Y, 2), ShapeError, r"\(n, in_features\)"),
        (lambda: continual.split(X + 1j, Y, X, Y, 2), DtypeError, r"x has dtype complex.* x\.real"),
        (lambda: continual.split(X, Y, X + 1j, Y, 2), DtypeError, "x_test has dtype complex"),
        (lambda: continual.from_arrays([(X + 1j, Y)]), DtypeError, r"tasks\[0\]\.x has dtype comp"),
        (lambda: continual.rotated(X[:, :8], Y, X[:, :8], Y), ShapeError, "square"),
        (lambda: continual.rotated(X, Y, X, Y, angles=[np.inf]), ArgumentError, "finite"),
        (
            lambda: continual.rotated(X, Y, X, Y, angles=[0, 90], tasks=5),
            ArgumentError,
            "angles or tasks, not both",
        ),
        (
            lambda: continual.from_arrays([(X, Y, X, Y[:, None])]),
            DtypeError,
            r"tasks\[0\].y_test has dtype int64 and shape \(4, 1\), but y has class labels",
        ),
        (lambda: continual.from_arrays([(X, Y, X, Y + 0.5)]), DtypeError, "y_test has dtype float"),
        (lambda: continual.from_arrays([]), ArgumentError, "at least one task"),
        (lambda: continual.from_arrays([(X, Y, X)]), ArgumentError, "3 items"),
        (lambda: continual.from_arrays([(X, Y), (X[:, 1:], Y)]), ShapeError, "8 features"),
        (
            lambda: continual.from_arrays([(X, Y * 0.1), (X, Y[:, None] * 0.1)]),
            ShapeError,
            r"task 2 has y of shape \(4, 1\) but task 1 has \(4,\)",
        ),
        (lambda: continual.from_arrays([(X, Y), (X, X)]), ArgumentError, "both have labels"),
        (lambda: continual.from_arrays([(X, X)], "class"), ArgumentError, "needs class labels"),
        (lambda: continual.from_arrays([(X, Y)], names=["a", "b"]), ArgumentError, "2 names"),
    ],
)
def test_what_is_wrong_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()


def streamed(scenario, **options):
    x, y = zip(*continual.stream(scenario, **options), strict=True)
    return np.concatenate(x), np.concatenate(y)


@pytest.mark.parametrize("batch_size", [1, 7, 5000])
@pytest.mark.parametrize("fuzziness", [0, 10, 1e6])
def test_a_stream_gives_every_sample_once_with_its_target(data, batch_size, fuzziness):
    scenario = continual.split(*data.all, kind="class")
    x, y = streamed(scenario, batch_size=batch_size, fuzziness=fuzziness, seed=3)
    assert sorted(x[:, 0]) == list(range(50))
    np.testing.assert_array_equal(y, x[:, 0].astype(int) % 10)
    if fuzziness == 0:
        np.testing.assert_array_equal(y // 2, np.repeat(np.arange(5), 10))


def test_tasks_of_a_fuzzy_stream_go_over_linearly():
    """Near a boundary the share of the next task rises from 0 to 1 over `fuzziness` samples."""
    x, ones = np.zeros((20_000, 1), np.float32), np.ones(20_000)
    scenario = continual.from_arrays([(x, 0 * ones), (x, ones)])
    _, y = streamed(scenario, batch_size=100, fuzziness=10_000)
    assert not y[:15_000].any()
    assert y[25_000:].all()
    shares = y[15_000:25_000].reshape(10, 1000).mean(axis=1)
    # Of the middle of each tenth; 4 standard deviations of a share of 1000 samples are 0.063.
    np.testing.assert_allclose(shares, np.linspace(0.05, 0.95, 10), atol=0.063)


def test_a_stream_of_tasks_made_on_demand(data):
    scenario = continual.permuted(*data.all, tasks=3)
    x, y = streamed(scenario, batch_size=4)
    for index in range(3):
        mine = slice(50 * index, 50 * index + 50)
        rows = [int(np.flatnonzero((scenario[index].x == row).all(axis=1))[0]) for row in x[mine]]
        assert sorted(rows) == list(range(50))
        np.testing.assert_array_equal(y[mine], data.y[rows])


def test_a_stream_is_of_a_type_that_holds_all_tasks(rng):
    whole, half = np.ones((3, 2), np.uint8), np.full((3, 2), 0.5, np.float32)
    scenario = continual.from_arrays([(whole, whole[:, 0] + 0.0), (half, half[:, 0])])
    x, y = streamed(scenario)
    np.testing.assert_array_equal(x, np.repeat([[1, 1], [0.5, 0.5]], 3, axis=0))
    np.testing.assert_array_equal(y, np.repeat([1, 0.5], 3))
    assert (x.dtype, y.dtype) == (np.float32, np.float64)
    # Images that are rotated are no bytes any more.
    turned = continual.rotated(*[np.zeros((2, 4), np.uint8), [0, 1]] * 2, angles=[45])
    assert streamed(turned)[0].dtype == np.float32


def test_tasks_of_your_own_are_numbered_by_their_places(clouds):
    """All that is by task, from heads to memories, goes by these numbers, which begin as 0."""
    mine = [continual.Task(clouds.x, clouds.y, clouds.x, clouds.y, name=n) for n in ("a", "", "c")]
    scenario = continual.Scenario(mine)
    assert [(task.index, task.name) for task in scenario] == [(0, "a"), (1, "task 2"), (2, "c")]
    assert [task.index for task in mine] == [0, 0, 0]
    # A part of another scenario, also of one that makes its samples when they are asked for.
    shuffled = continual.permuted(*clouds.all, tasks=3)
    back = continual.Scenario(shuffled[::-1], shuffled.kind)
    assert [task.index for task in back] == [0, 1, 2]
    np.testing.assert_array_equal(back[0].x, shuffled[2].x)
    assert back[0].name == "permutation 2"
    for tasks, kind, message in (
        ([], "domain", "at least one task"),
        ([(clouds.x, clouds.y)], "domain", r"tasks\[0\] must be a Task; got tuple"),
        (mine, "tasks", 'kind must be one of "task"'),
    ):
        with pytest.raises(ArgumentError, match=message):
            continual.Scenario(tasks, kind)
