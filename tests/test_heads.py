"""Heads and active classes of CrossEntropyLoss: what continual learning has outputs for.

`losses` has both among all losses, beside PyTorch with logits of -inf, and by differences.
"""

import dataclasses

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

#: Five tasks of two classes.
FIVE = (2, 2, 2, 2, 2)


def network():
    layers = nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)
    return nn.Sequential(*layers, dtype="float64", seed=3)


def gradient(loss, o, y, dtype="float64"):
    """Value, and gradient by the outputs: a step with a weight that is the outputs shows both."""
    n, k = o.shape
    model = nn.Sequential(nn.Linear(n, k, bias=False), dtype=dtype)
    model.flat_parameters = o.T.ravel()
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=1.0))
    value = trainer.step(np.eye(n), y)
    return value, (o.astype(dtype) - model.flat_parameters.reshape(k, n).T).astype(float)


def mixed(rng, n=40):
    """Outputs and labels of rows of all five tasks."""
    return 3 * rng.standard_normal((n, 10)), rng.permutation(n) % 10


def apart(loss, o, y, part):
    """The loss and its gradient of a part of the columns, as of a network with no others."""
    value, slope = gradient(loss, o[:, part], y)
    whole = np.zeros(o.shape)
    whole[:, part] = slope
    return value, whole


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_batch_of_several_tasks_is_the_sum_of_their_losses(smoothing, rng):
    options = {"label_smoothing": smoothing, "reduction": "sum"}
    o, y = mixed(rng)
    value, slope = gradient(nn.CrossEntropyLoss(heads=FIVE, **options), o, y)
    expected, slopes = 0.0, np.zeros(o.shape)
    for task in range(5):
        rows, part = y // 2 == task, slice(2 * task, 2 * task + 2)
        loss, slopes[rows] = apart(nn.CrossEntropyLoss(**options), o[rows], y[rows] % 2, part)
        expected += loss
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(slope, slopes, rtol=1e-12, atol=1e-15)
    others = np.repeat(np.eye(5, dtype=bool), 2, axis=1)[y // 2]
    assert (slope[~others] == 0).all(), "exactly"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shares", [False, True], ids=["labels", "shares"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_classes_that_are_not_active_might_as_well_not_be_there(dtype, shares, smoothing, rng):
    active = np.array([1, 4, 5, 9])
    o, _ = mixed(rng)
    o[:, 2] += 100  # nor does it matter how large their logits are
    places = rng.integers(0, 4, len(o))
    options = {"label_smoothing": smoothing}
    y, few = active[places], places
    if shares:
        few = rng.dirichlet(np.ones(4), len(o))
        y = np.zeros(o.shape)
        y[:, active] = few
    value, slope = gradient(nn.CrossEntropyLoss(active=active, **options), o, y, dtype=dtype)
    if dtype == "float64":
        expected, slopes = apart(nn.CrossEntropyLoss(**options), o, few, active)
        assert value == pytest.approx(expected, rel=1e-13)
        np.testing.assert_allclose(slope, slopes, rtol=1e-12, atol=1e-15)
    assert (np.delete(slope, active, axis=1) == 0).all(), "exactly"


def test_probabilities_of_one_head_are_its_labels(rng):
    o, y = mixed(rng)
    for options in ({}, {"label_smoothing": 0.1}, {"active": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)}):
        loss = nn.CrossEntropyLoss(heads=FIVE, **options)
        by_label, by_share = gradient(loss, o, y), gradient(loss, o, np.eye(10)[y])
        assert by_share[0] == pytest.approx(by_label[0], rel=1e-13)
        np.testing.assert_allclose(by_share[1], by_label[1], rtol=1e-12, atol=1e-16)


def test_accuracy_and_predictions_are_among_the_classes_that_compete(rng):
    o, y = mixed(rng, 200)
    heads = y // 2
    in_head = 2 * heads + o.reshape(-1, 5, 2)[np.arange(200), heads].argmax(axis=1)
    plain, of_heads = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(heads=FIVE)
    np.testing.assert_array_equal(of_heads.predict(o, head=heads), in_head)
    np.testing.assert_array_equal(of_heads.predict(o, head=3), 6 + o[:, 6:8].argmax(axis=1))
    np.testing.assert_array_equal(of_heads.predict(o), o.argmax(axis=1))
    active = nn.CrossEntropyLoss(active=(0, 1, 5))
    np.testing.assert_array_equal(
        active.predict(o), np.array([0, 1, 5])[o[:, [0, 1, 5]].argmax(axis=1)]
    )
    few = np.isin(y, [0, 1, 5])
    model = nn.Sequential(nn.Linear(10, 10, bias=False), dtype="float64")
    model.flat_parameters = np.eye(10).ravel()
    for loss, rows, right in [
        (plain, slice(None), o.argmax(axis=1)),
        (of_heads, slice(None), in_head),
        (active, few, active.predict(o)),
    ]:
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
        accuracy = trainer.evaluate(o[rows], y[rows])["accuracy"]
        assert accuracy == pytest.approx((right == y)[rows].mean(), abs=1e-15)
        shares = trainer.evaluate(o[rows], np.eye(10)[y[rows]])["accuracy"]
        assert shares == pytest.approx(accuracy, abs=1e-15)


def test_what_cannot_be_predicted():
    o = np.zeros((2, 4))
    loss = nn.CrossEntropyLoss(heads=(2, 2), active=(0, 1))
    with pytest.raises(tw.ArgumentError, match="head must be an integer from 0 to 1"):
        loss.predict(o, head=2)
    with pytest.raises(tw.ArgumentError, match="head must be an integer from 0 to 1, or 2 of them"):
        loss.predict(o, head=[0, 1, 1])
    with pytest.raises(tw.ArgumentError, match="head 1 of row 1 has no active class"):
        loss.predict(o, head=[0, 1])
    with pytest.raises(tw.ShapeError, match="heads have 4 columns; output has 5"):
        loss.predict(np.zeros((2, 5)))
    with pytest.raises(tw.ShapeError, match="active has class 9"):
        nn.CrossEntropyLoss(active=[9]).predict(o)


@pytest.mark.parametrize(
    ("y", "pattern"),
    [
        (np.array([0, 3]), r"y\[1\] is 3, which is not an active class"),
        (np.array([[1, 0, 0, 0], [0.5, 0, 0, 0.5]]), r"y\[1, 3\] is 0.5, .* not active"),
    ],
    ids=["a label", "a share"],
)
@pytest.mark.parametrize("heads", [None, (1, 3)])
def test_targets_that_are_not_active_change_nothing(y, pattern, heads):
    model = network()
    before = model.flat_parameters
    loss = nn.CrossEntropyLoss(active=[0, 1, 2], heads=heads)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    for call in (trainer.step, trainer.fit, trainer.evaluate):
        with pytest.raises(tw.DataError, match=pattern):
            call(np.ones((2, 6)), y)
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_the_loss_of_a_trainer_can_be_changed_between_fits(rng, tmp_path):
    """Two classes, then four: those to come do not learn yet, and nothing starts anew."""
    model = network()
    x, y = rng.standard_normal((40, 6)), np.arange(40) % 4
    loss = nn.CrossEntropyLoss(active=(0, 1))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1, momentum=0.9))
    before = model.state_dict()
    trainer.fit(x[y < 2], y[y < 2], epochs=3)
    after = model.state_dict()
    np.testing.assert_array_equal(after["2.weight"][2:], before["2.weight"][2:])
    assert (after["2.weight"][:2] != before["2.weight"][:2]).all()
    with pytest.raises(tw.DataError, match="not an active class"):
        trainer.fit(x, y)
    with pytest.raises(tw.ShapeError, match="heads have 3 columns"):
        trainer.loss = nn.CrossEntropyLoss(heads=(2, 1))
    assert trainer.loss == loss

    trainer.loss = dataclasses.replace(trainer.loss, active=range(4), heads=(2, 2))
    trainer.save(tmp_path / "trainer.safetensors")
    loaded = tw.Trainer.load(tmp_path / "trainer.safetensors")
    assert loaded.loss == trainer.loss == nn.CrossEntropyLoss(active=range(4), heads=(2, 2))
    for each in (trainer, loaded, trainer.copy()):
        each.fit(x, y, epochs=2)
        np.testing.assert_array_equal(each.model.flat_parameters, trainer.model.flat_parameters)
    assert trainer.optimizer.steps == 3 + 2 * 2


def test_a_loss_of_another_kind_may_follow(rng):
    trainer = tw.Trainer(network(), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    x = rng.standard_normal((8, 6))
    trainer.step(x, np.arange(8) % 4)
    trainer.loss = nn.MSELoss()
    assert trainer.step(x, np.zeros((8, 4))) > 0
    assert list(trainer.evaluate(x, np.zeros((8, 4)))) == ["loss"]
    with pytest.raises(tw.ShapeError, match=r"y must have shape \(rows, 4\).*\(8,\)"):
        trainer.step(x, np.arange(8) % 4)
    with pytest.raises(tw.UnsupportedError, match="both functions"):
        trainer.loss = lambda output, target: (0.0, output)


def test_the_loss_cannot_change_during_a_fit(rng):
    loss = nn.CrossEntropyLoss()
    trainer = tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.1))

    class Meddler(tw.callbacks.Callback):
        def on_epoch_end(self, trainer, record):
            trainer.loss = nn.CrossEntropyLoss(active=[0])

    x, y = rng.standard_normal((8, 6)), np.arange(8) % 4
    for data in ((x, y), ([(x, y)],)):
        with pytest.raises(tw.ArgumentError, match="the loss cannot change during a fit"):
            trainer.fit(*data, epochs=2, callbacks=[Meddler()])
        assert trainer.loss is loss
        assert trainer.history.epochs == 1  # as after any error in a callback
    trainer.loss = nn.CrossEntropyLoss(active=[0])  # between fits it can
