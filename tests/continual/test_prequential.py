"""Prequential evaluation: each batch is judged as it is before it is learned."""

import json

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import prequential
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError


@pytest.fixture
def batches(scenario):
    return list(continual.stream(scenario, batch_size=7, fuzziness=50, seed=1))


def test_scores_are_of_the_network_before_the_step(batches, trainer):
    learner, twin = trainer(), trainer()
    found = list(prequential(learner, batches))
    right = []
    for (x, y), one in zip(batches, found, strict=True):
        right.extend(twin.model(x).argmax(axis=1) == y)
        assert one.score == np.mean(right[-len(y) :])
        assert one.mean == pytest.approx(np.mean(right), rel=1e-12)
        assert one.loss == twin.step(x, y)
        assert one.samples == one.weight == len(right)
    np.testing.assert_array_equal(learner.model.flat_parameters, twin.model.flat_parameters)


@pytest.mark.parametrize("size", [1, 7])
def test_fading_by_its_definition(size, scenario, trainer):
    """Gama, Sebastião and Rodrigues (2013): S_i = L_i + alpha S, B_i = n_i + alpha B."""
    alpha, total, weight = 0.97, 0.0, 0.0
    stream = continual.stream(scenario, batch_size=size)
    for one in prequential(trainer(), stream, fading=alpha):
        rows = one.samples % size or size
        total = alpha**rows * total + rows * one.score
        weight = alpha**rows * weight + rows
        assert one.weight == pytest.approx(weight, rel=1e-12)
        assert one.mean == pytest.approx(total / weight, rel=1e-10)
    assert one.weight == pytest.approx(size / (1 - alpha**size), rel=0.1)


def test_stopped_and_resumed(batches, trainer, tmp_path):
    make = lambda: continual.Replay(trainer(), 20)  # noqa: E731
    whole = list(prequential(make(), batches, fading=0.99))
    first = make()
    *_, last = prequential(first, batches[:20], fading=0.99)
    first.save(tmp_path / "strategy")
    second, last = make(), json.loads(json.dumps(last))
    second.load(tmp_path / "strategy")
    rest = list(prequential(second, batches[20:], fading=0.99, start=last))
    np.testing.assert_allclose([one.mean for one in rest], [one.mean for one in whole[20:]])
    for one, other in zip(rest, whole[20:], strict=True):
        assert (one.score, one.loss, one.samples) == (other.score, other.loss, other.samples)


@pytest.mark.parametrize("delay", [1, 3, 99])
def test_batches_whose_targets_come_late(delay, batches, trainer):
    """Each is judged when it comes, and learned after `delay` others have been judged."""
    learner, twin = trainer(), trainer()
    batches = batches[:20]
    right = [twin.model(x).argmax(axis=1) == y for x, y in batches[: delay + 1]]
    losses = []
    for number, batch in enumerate(batches):
        losses.append(twin.step(*batch))
        for x, y in batches[number + delay + 1 : number + delay + 2]:
            right.append(twin.model(x).argmax(axis=1) == y)
    found = list(prequential(learner, batches, delay=delay))
    assert [one.score for one in found] == [np.mean(some) for some in right]
    assert [one.loss for one in found] == losses
    assert found[-1].mean == pytest.approx(np.mean(np.concatenate(right)), rel=1e-12)
    np.testing.assert_array_equal(learner.model.flat_parameters, twin.model.flat_parameters)


def test_late_targets_go_on_with_the_batches_that_wait(batches, trainer):
    """Those are judged again: what has been learned meanwhile can make their scores better."""
    learner, twin, other = trainer(), trainer(), trainer()
    scores = prequential(learner, iter(batches), delay=2)
    first = [next(scores) for _ in range(5)]
    rest = list(prequential(learner, batches[5:9], delay=2, start=first[-1]))
    whole = list(prequential(twin, batches[:9], delay=2))
    assert [one.loss for one in first + rest] == [one.loss for one in whole]
    assert rest[-1].samples == whole[-1].samples == 63
    for batch in batches[:5]:
        other.step(*batch)
    again = [np.mean(other.model(x).argmax(axis=1) == y) for x, y in batches[5:7]]
    assert [one.score for one in rest[:2]] == again != [one.score for one in whole[5:7]]
    assert [one.score for one in rest[2:]] == [one.score for one in whole[7:]]


@pytest.mark.parametrize("returned", [np.float32(0.25), None, "0.25?"])
def test_the_latest_score_goes_on_whatever_a_step_returns(returned, trainer):
    class Mine(continual.Strategy):
        def step(self, x, y):
            super().step(x, y)
            return returned

    strategy, batch = Mine(trainer()), (np.ones((2, 2), np.float32), [0, 1])
    (one,) = prequential(strategy, [batch])
    assert one.loss == 0.25 if isinstance(returned, np.float32) else np.isnan(one.loss)
    (other,) = prequential(strategy, [batch], start=json.loads(json.dumps(one)))
    assert other.samples == 4


@pytest.mark.parametrize("label", [6, -5])
def test_labels_that_are_no_classes_are_not_passed_over(label, trainer):
    """As if they were of a class that does not count."""
    learner = trainer(loss=nn.CrossEntropyLoss(weight=[0, 1, 1, 1, 1, 0]))
    x = np.ones((2, 2), np.float32)
    with pytest.raises(DataError, match=f"is {label}, but the network has 6 outputs"):
        list(prequential(learner, [(x, [label, label])]))


def test_a_batch_of_classes_that_do_not_count_is_judged_but_not_learned(trainer):
    """As `learn` and `fit` pass over it; `step` would refuse it."""
    x = np.ones((1, 2), np.float32)
    learner = trainer(loss=nn.CrossEntropyLoss(weight=[1, 0, 1, 1, 1, 1]))
    right = learner.model(x).argmax() == 1
    one, other = prequential(learner, [(x, [1]), (x, [0])])
    assert (one.score, one.samples, one.weight) == (right, 1, 1)
    assert np.isnan(one.loss)
    assert np.isfinite(other.loss)
    assert learner.optimizer.steps == 1


def test_a_batch_is_learned_when_it_is_asked_for(batches, trainer):
    learner = trainer()
    scores = prequential(learner, batches)
    assert learner.optimizer.steps == 0
    next(scores)
    assert learner.optimizer.steps == 1


def test_samples_whose_label_is_ignored_do_not_count(trainer):
    learner = trainer(loss=nn.CrossEntropyLoss(ignore_index=5))
    x = np.ones((4, 2), np.float32)
    scores = prequential(learner, [(x, [0, 5, 5, 1]), (x, [1, 1, 1, 5])])
    assert [one.weight for one in scores] == [2, 5]


@pytest.mark.parametrize("metric", [None, lambda strategy, task, classes: 1.0])
def test_a_batch_without_a_label_is_passed_over(metric, trainer):
    """As the answers of a stream may be late, or never come."""
    x = np.ones((2, 2), np.float32)
    batches = [(x, [0, 1]), (x, [-100, -100]), (x[:1], [-100]), (x, [1, 1])]
    learner, twin = trainer(), trainer()
    first, *missing, last = prequential(learner, batches, metric=metric)
    for one in missing:
        assert np.isnan([one.score, one.loss]).all()
        assert (one.mean, one.weight) == (first.mean, 2)
    assert [one.samples for one in missing] == [4, 5]
    assert (last.samples, last.weight) == (7, 4)
    assert [first.loss, last.loss] == [twin.step(*batches[0]), twin.step(*batches[3])]


def test_a_batch_that_is_refused_can_be_passed_over(trainer):
    x = np.ones((2, 2), np.float32)
    stream = iter([(x, [0, 1]), (x * np.nan, [0, 1]), (x, [1, 1])])
    learner = trainer()
    scores = prequential(learner, stream)
    first = next(scores)
    with pytest.raises(DataError, match=r"x\[0, 0\] is NaN"):
        next(scores)
    (last,) = prequential(learner, stream, start=first)
    assert (first.samples, last.samples, learner.optimizer.steps) == (2, 4, 2)


def test_targets_by_name(rng):
    def loss(output, target):
        error = output[:, 0] - target["goal"]
        return float((error**2).mean()), 2 * error[:, np.newaxis] / len(error)

    x, y = np.ones((3, 2), np.float32), np.arange(3.0)
    model = nn.Sequential(nn.Linear(2, 1), dtype="float64")
    learner = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    expected = np.mean((model(x)[:, 0] - y) ** 2)
    (one,) = prequential(learner, [(x, {"goal": y, "other": y})])
    assert one.samples == 3
    assert one.score == one.loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        (nn.MSELoss(), 1), (nn.MSELoss(reduction="sum"), 1), (nn.GaussianNLLLoss(), 2),
        (lambda f, y: (float(((f[:, 0] - y) ** 2).mean()), 0 * f), 1),
    ],
)  # fmt: skip
def test_numbers_are_judged_by_the_loss(loss, outputs, rng):
    x = rng.standard_normal((30, 3)).astype(np.float32)
    y = x.sum(axis=1)
    model = nn.Sequential(nn.Linear(3, outputs), seed=1)
    learner = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.001))
    expected = learner.evaluate(x[:10], y[:10])["loss"]
    if getattr(loss, "reduction", "mean") == "sum":
        expected /= 10
    scores = prequential(learner, [(x[k : k + 10], y[k : k + 10]) for k in (0, 10, 20)])
    assert next(scores).score == pytest.approx(expected, rel=1e-6)


def test_a_metric_of_ones_own(batches, trainer):
    """The same function as for `run`."""

    def errors(strategy, task, classes):
        assert classes is None
        return np.mean(strategy.predict(task.x_test) != task.y_test)

    wrong = [one.mean for one in prequential(trainer(), batches, metric=errors)]
    right = [one.mean for one in prequential(continual.Naive(trainer()), batches)]
    np.testing.assert_allclose(np.add(wrong, right), 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t, s: prequential(t.model, []), ArgumentError, "a Strategy or a Trainer; got Seq"),
        (lambda t, s: prequential(t, s), ArgumentError, r"got a Scenario.* continual\.stream\(sc"),
        (lambda t, s: prequential(t, 3), ArgumentError, r"pairs \(x, y\), like .*got 3"),
        (lambda t, s: prequential(t, [], metric="r2"), ArgumentError, "a function of .*got 'r2'"),
        (lambda t, s: prequential(t, [], fading=0), ArgumentError, "fading"),
        (lambda t, s: prequential(t, [], start=0.5), ArgumentError, "the latest PrequentialScore"),
        (lambda t, s: prequential(t, [], start=[1, 2]), ArgumentError, r"Score .*got \[1, 2\]"),
        (lambda t, s: prequential(t, [], start="12345"), ArgumentError, "the latest Prequential"),
        (lambda t, s: prequential(t, [], start=["1"] * 5), ArgumentError, "the latest Prequential"),
        (lambda t, s: prequential(t, [], start=[0.5, 0.5, 0.5, 4, np.nan]), ArgumentError, "nan"),
        (lambda t, s: prequential(t, [], start=[0.5, 0.5, 0.5, 4, -1]), ArgumentError, "-1"),
        (lambda t, s: prequential(t, [], start=[0.5, 0.5, 0.5, -4, 4]), ArgumentError, "-4"),
        (lambda t, s: prequential(t, [], delay=-1), ArgumentError, "delay must be"),
        (lambda t, s: prequential(t, np.array(3.0)), ArgumentError, r"pairs .* got array\(3\.0*\)"),
        (lambda t, s: list(prequential(t, [s[0].x])), ArgumentError, r"pairs .*batch 0 is"),
        (lambda t, s: list(prequential(t, [(s[0].x[:, :1], s[0].y)])), ShapeError, "expected"),
        (lambda t, s: list(prequential(t, [(s[0].x[0], 1)])), ShapeError,
         r"batch 0: x has shape \(2,\) and y has shape \(\), .* a single row is \(\[x\], \[y\]\)"),
        (lambda t, s: list(prequential(t, [(s[0].x, [1, -100])])), ShapeError,
         r"batch 0: x has shape \(120, 2\) and y has shape \(2,\), .*the same number"),
        (lambda t, s: list(prequential(t, [(s[0].x[:0], [])])), ShapeError, "at least 1"),
        (lambda t, s: list(prequential(continual.LwF(t), [(s[0].x, s[0].y)])), UnsupportedError,
         "LwF does not support step"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(call, error, message, scenario, trainer):
    learner = trainer()
    with pytest.raises(error, match=message):
        call(learner, scenario)
    assert learner.optimizer.steps == 0


def test_batches_of_a_task_are_judged_by_its_part_of_the_network(scenario, trainer):
    """Between `begin` and `end`, a step trains the part that belongs to the task."""
    gated = continual.XdG(trainer(), share=0.5)
    gated.fit(scenario[0])
    task = scenario[1]
    gated.begin(task)
    for at in range(0, 120, 40):
        x, y = task.x[at : at + 40], task.y[at : at + 40]
        right = np.mean(gated.network(1)(x).argmax(axis=1) == y)
        assert right != np.mean(gated.network(0)(x).argmax(axis=1) == y)
        (found,) = prequential(gated, [(x, y)])
        assert found.score == right
