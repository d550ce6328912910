"""FROMP: its kernels and its loss beside what they are made of, and its runs."""

import dataclasses

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.errors import ArgumentError, UnsupportedError

from ..helpers import accuracy_on_permuted_digits


def softmax(values):
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


@pytest.fixture
def tasks(clouds):
    """A function: three tasks of two classes, with or without a head for each."""
    return lambda heads: continual.split(*clouds.all, tasks=3, kind="task" if heads else "class")


def fromp(*arguments, heads=None, **options):
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 6), dtype="float64", seed=2)
    loss = nn.CrossEntropyLoss(heads=heads)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    return continual.FROMP(trainer, *arguments, **options)


def test_yes_and_no_are_labels(clouds):
    """As 0 and 1 are, and not a choice of rows."""
    some, same = fromp(4, 1.0), fromp(4, 1.0)
    for index in range(2):
        y = clouds.y % 2 == index
        some.fit(continual.Task(clouds.x, y, clouds.x, y, index), steps=5)
        y = y.astype(int)
        same.fit(continual.Task(clouds.x, y, clouds.x, y, index), steps=5)
    np.testing.assert_array_equal(
        some.trainer.model.flat_parameters, same.trainer.model.flat_parameters
    )


@pytest.mark.parametrize("heads", [None, (2, 2, 2)])
def test_kernels_are_those_of_the_formula(heads, tasks):
    strategy = fromp(4, 0.7, heads=heads, delta=0.3, jitter=0.01)
    model, precision = strategy.trainer.model, 0.3
    for task in tasks(heads)[:2]:
        strategy.fit(task, steps=5)
        columns = list(task.classes if heads else task.active)
        fisher = continual.fisher_diagonal(model, task.x, classes=columns)
        precision = precision + 120 * fisher
        np.testing.assert_allclose(strategy.state_dict()["precision"], precision, rtol=1e-12)
    theta, moves = model.flat_parameters.copy(), 1e-6 * np.eye(model.num_parameters)
    for task, one in zip(tasks(heads)[:2], strategy.state_dict()["past"], strict=True):
        columns = list(task.classes) if heads else [0, 1, 2, 3]
        assert list(one["columns"]) == columns

        def probabilities(values, x=one["x"], columns=columns):
            model.flat_parameters = values
            return softmax(model(x)[:, columns])

        np.testing.assert_allclose(one["p"], probabilities(theta), rtol=1e-12)
        slopes = np.stack(
            [(probabilities(theta + m) - probabilities(theta - m)) / 2e-6 for m in moves], axis=2
        )
        for c in range(len(columns)):
            kernel = (slopes[:, c] / precision) @ slopes[:, c].T
            kernel += 0.01 * kernel.trace() / 4 * np.eye(4)
            np.testing.assert_allclose(one["inverse"][c] @ kernel, np.eye(4), atol=1e-5)


def test_classes_that_are_held_on_to_compete(scenario):
    strategy = fromp(4, 0.7)
    strategy.fit(scenario[0])
    state = str(strategy.state_dict())
    with pytest.raises(ArgumentError, match=r"FROMP preserves .*the classes \[0, 1\] of earlier"):
        strategy.fit(dataclasses.replace(scenario[1], active=(2, 3)))
    assert str(strategy.state_dict()) == state
    strategy.fit(scenario[1])


def test_memorable_are_the_least_sure(scenario):
    strategy = fromp(7, 1.0)
    strategy.fit(scenario[0], epochs=3)
    p = softmax(strategy.trainer.model(scenario[0].x)[:, :2])
    unsure = (p * (1 - p)).sum(axis=1)
    kept = strategy.state_dict()["past"][0]["x"]
    mine_too = (scenario[0].x[:, None] == kept[None]).all(axis=2).any(axis=1)
    assert mine_too.sum() == 7
    assert unsure[mine_too].min() >= unsure[~mine_too].max() - 1e-6


@pytest.mark.parametrize("heads", [None, (2, 2, 2)])
def test_the_loss_and_its_gradient(heads, tasks, rng):
    strategy = fromp(4, 0.7, heads=heads)
    for task in tasks(heads)[:2]:
        strategy.fit(task, steps=5)
    task, past = tasks(heads)[2], strategy.state_dict()["past"]
    strategy.begin(task)
    loss = strategy._loss([0.0])
    output = rng.standard_normal((5 + 8, 6))
    target = np.r_[rng.choice(task.classes, 5), np.full(8, -1)][:, None].astype(float)
    value, gradient = loss(output.copy(), target)
    columns = [4, 5] if heads else list(range(6))
    expected, labels = 0.0, target[:5, 0].astype(int)
    for row, label in enumerate(labels):
        expected -= np.log(softmax(output[row, columns])[columns.index(label)]) / 5
    for one, rows in zip(past, (slice(5, 9), slice(9, 13)), strict=True):
        d = softmax(output[rows][:, one["columns"]]) - one["p"]
        for c in range(d.shape[1]):
            expected += 0.7 / 2 * d[:, c] @ one["inverse"][c] @ d[:, c]
    assert value == pytest.approx(expected, rel=1e-12)
    numeric = np.zeros_like(output)
    for place in np.ndindex(output.shape):
        for sign in (1, -1):
            moved = output.copy()
            moved[place] += sign * 1e-5
            numeric[place] += sign * loss(moved, target)[0] / 2e-5
    np.testing.assert_allclose(gradient, numeric, atol=1e-6 * np.abs(numeric).max())


def test_a_penalty_that_does_nothing_is_warned_about(scenario):
    strategy = fromp(4, 1e-9)
    strategy.fit(scenario[0])
    assert strategy.ratios == []
    with pytest.warns(UserWarning, match="penalty of FROMP was .*task 1.* strength=1e-09 is too"):
        strategy.fit(scenario[1], epochs=3)
    assert all(0 < ratio < 1e-4 for ratio in strategy.ratios)
    assert len(strategy.ratios) == 3


def test_ratios_are_of_the_penalty_to_the_rest_of_the_loss(scenario):
    """At the last step, beside the same step without a penalty."""
    strategy, plain = fromp(4, 9.0), fromp(4, 0)
    for one in (strategy, plain):
        one.fit(scenario[0])
        one.begin(scenario[1])
    strategy.learn(scenario[1], steps=3)
    plain.trainer.model.flat_parameters = strategy.trainer.model.flat_parameters
    whole = strategy.learn(scenario[1], steps=1, start=3)["loss"][0]
    rest = plain.learn(scenario[1], steps=1, start=3)["loss"][0]
    assert strategy.ratios[1] == pytest.approx((whole - rest) / rest, rel=1e-9)
    assert strategy.ratios[1] > 1e-3
    assert plain.ratios == [0.0]


def test_each_head_of_a_task_has_a_penalty_of_its_own(clouds):
    """Beside one softmax for each row, over the head of its label."""
    x, y, *held_out = clouds.all
    strategy = fromp(7, 0.7, heads=(2, 4), jitter=0.01)
    model = strategy.trainer.model
    strategy.fit(continual.Task(x, y, *held_out), epochs=2)
    precision = strategy.state_dict()["precision"]
    expected = 1e-5 + len(y) * continual.fisher_diagonal(
        model, x, y, loss=nn.CrossEntropyLoss(heads=(2, 4))
    )
    np.testing.assert_allclose(precision, expected, rtol=1e-12)
    heads = {0: [0, 1], 1: [2, 3, 4, 5]}
    p = [softmax(model(x[i : i + 1])[0, heads[int(y[i] > 1)]]) for i in range(len(y))]
    unsure = np.array([(one * (1 - one)).sum() for one in p])
    kept = np.sort(np.argsort(-unsure, kind="stable")[:7])
    past = strategy.state_dict()["past"]
    assert [list(one["columns"]) for one in past] == [heads[h] for h in np.unique(y[kept] > 1)]
    for one in past:
        head = int(one["columns"][0] > 1)
        mine = kept[(y[kept] > 1) == head]
        np.testing.assert_array_equal(one["x"], x[mine])
        np.testing.assert_allclose(one["p"], [p[i] for i in mine], rtol=1e-12)
    # A row's outputs in the other head may be anything.
    strategy.begin(continual.Task(x, y, *held_out, index=1))
    loss = strategy._loss([0.0])
    output = np.concatenate([model(x[:3]), *(model(one["x"]) for one in past)])
    target = np.r_[y[:3], np.full(7, -1)][:, None].astype(float)
    free, at = output.copy(), 3
    for one in past:
        rows = slice(at, at + len(one["x"]))
        free[rows, np.setdiff1d(range(6), one["columns"])] += 5
        at = rows.stop
    assert loss(free, target)[0] == pytest.approx(loss(output, target)[0], rel=1e-12)


def test_stopped_and_resumed(scenario, tmp_path, resumed_is_the_same):
    def plain(dropout):  # FROMP is not for dropout
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 6), seed=1)
        return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))

    resumed_is_the_same(lambda t, s: continual.FROMP(t, 6, 1.0), scenario, plain, tmp_path)


def test_permuted_digits_are_remembered():
    """The margin over plain training, the mean of three tasks and seeds; measured: .17."""
    pytest.importorskip("sklearn")
    plain = accuracy_on_permuted_digits(continual.Naive)
    assert accuracy_on_permuted_digits(lambda t: continual.FROMP(t, 20, 1.0)) >= plain + 0.1


def test_what_it_is_not_for_is_said(trainer):
    with pytest.raises(UnsupportedError, match="Dropout"):
        continual.FROMP(trainer(dropout=0.1), 5, 1.0)
    with pytest.raises(UnsupportedError, match="go directly around a Trainer; got Replay"):
        continual.FROMP(continual.Replay(trainer(), 5), 5, 1.0)
