"""Figures that a function gives beside its loss, in the history and in what evaluates."""

import contextlib

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .cases import K

N = 40


def parts(output, target, weight=None):
    """A squared error of two parts; the second is not there in batches without marks."""
    d, w = output - target["value"], np.ones(len(output)) if weight is None else weight
    w = w[:, np.newaxis] / w.sum() / K
    first, second = (
        float((w[:, 0] * (part**2).sum(axis=1)).sum()) for part in (d[:, :2], d[:, 2:])
    )
    marked = d[target["marked"]]
    figures = {"first": first, "second": np.float32(second)}
    figures["largest"] = np.abs(marked).max() if len(marked) else np.nan
    return first + second, 2 * w * d, figures


def data(rng, rows=N):
    y = {"value": rng.standard_normal((rows, K)), "marked": np.arange(rows) < 5}
    return rng.standard_normal((rows, 6)), y


def make(loss=parts, optimizer=None, **options):
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, K), dtype="float64", seed=3)
    optimizer = optim.SGD(lr=0.05) if optimizer is None else optimizer
    return tw.Trainer(model, loss=loss, optimizer=optimizer, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("way", ["arrays", "batches", "validation batches"])
def test_the_history_has_their_means_over_the_rows(way, weighted, rng):
    """Of batches of different sizes; of weights as of the loss."""
    x, y = data(rng)
    w = rng.uniform(0.5, 2, N) if weighted else None
    trainer = make(optimizer=optim.SGD(lr=0.0))
    cuts = [slice(0, 24), slice(24, 40)]
    batches = [
        (x[c], {name: part[c] for name, part in y.items()}, *([] if w is None else [w[c]]))
        for c in cuts
    ]
    whole = (x, y) if w is None else (x, y, w)
    if way == "arrays":
        history = trainer.fit(
            x, y, sample_weight=w, batch_size=24, shuffle=False, validation_data=whole
        )
    else:
        held_out = batches if way == "validation batches" else whole
        history = trainer.fit(batches, validation_data=held_out)
    assert history["first"][0] + history["second"][0] == pytest.approx(history["loss"][0])
    evaluated = trainer.evaluate(*whole)
    assert set(evaluated) == {"loss", "first", "second", "largest"}
    assert trainer.evaluate(batches) == pytest.approx(evaluated)
    for name, figure in evaluated.items():
        assert history[name][0] == pytest.approx(figure)
        assert history[f"val_{name}"][0] == pytest.approx(figure)
    assert list(history)[-6:] == [f"{v}{n}" for v in ("", "val_") for n in list(evaluated)[1:]]


def test_they_are_there_with_every_kind_of_step(rng):
    x, y = data(rng)
    for optimizer in (optim.SGD(lr=0.01), optim.SAM(optim.SGD(lr=0.01)), optim.LBFGS(max_iter=4)):
        trainer = make(optimizer=optimizer)
        before = trainer.evaluate(x, y)
        history = trainer.fit(x, y, epochs=2, batch_size=None, validation_data=(x, y))
        for name in ("loss", "first", "second", "largest"):  # of the pass before the update
            assert history[name][0] == pytest.approx(before[name])
            assert history[name][1] == pytest.approx(history[f"val_{name}"][0])
        assert trainer.step(x, y) == pytest.approx(history["val_loss"][1])


def test_gradcheck_and_calls_leave_them_aside(rng):
    x, y = data(rng, 8)
    trainer = make()
    assert tw.gradcheck(trainer.model, x, y, loss=parts)
    output = trainer.model(x)
    value, gradient, _ = parts(output, y)
    assert trainer.loss(output, y) == value
    np.testing.assert_array_equal(trainer.loss.gradient(output, y), gradient)


def test_derivatives_have_them_too_and_callbacks_follow_them(rng):
    def flat(u, du, target):
        left_over, off = du[0] - 1, u - target
        loss = np.mean(left_over**2) + np.mean(off**2)
        figures = {"left_over": np.mean(left_over**2), "off": np.mean(off**2)}
        return loss, (2 * off / off.size, 2 * left_over[np.newaxis] / off.size), figures

    x = rng.standard_normal((20, 1))
    model = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1), dtype="float64")
    assert tw.gradcheck(model, x, x, loss=nn.DerivativeLoss(flat, order=1))
    loss = nn.DerivativeLoss(flat, order=1)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=0.01))
    stop = tw.callbacks.EarlyStopping("val_left_over", mode="min", patience=1, min_delta=1e9)
    history = trainer.fit(x, x, epochs=9, callbacks=[stop], validation_data=(x, x))
    assert history.epochs == 2
    np.testing.assert_allclose(np.add(history["off"], history["left_over"]), history["loss"])


def test_a_figure_may_come_and_go(rng):
    """In epochs without it, as in batches, it is NaN."""
    x, y = rng.standard_normal((4, 6)), rng.standard_normal((4, K))
    given = iter([{}, {"new": 1.0}, {"new": 3}, {}, {"new": np.nan}, {"new": np.nan}])

    def loss(output, target):
        return 0.0, 0 * output, next(given)

    history = make(loss).fit(x, y, epochs=3, batch_size=2)
    np.testing.assert_array_equal(history["new"], [1.0, 3.0, np.nan])


class Seen:
    """Keeps the records of batches, and stops when a figure is above a limit."""

    def __init__(self, limit=np.inf):
        self.records, self.limit = [], limit

    def on_step_end(self, trainer, record):
        assert trainer.figures["kl"] == record["kl"]
        self.records.append(record)
        return record["kl"] > self.limit


@pytest.mark.parametrize("way", ["arrays", "batches", "batches to validate", "a hook", "SAM"])
def test_callbacks_and_the_trainer_have_those_of_the_batch(way, rng):
    """Here the largest target of each batch, at which a fit stops."""

    def loss(output, target):
        return 0.0, 0 * output, {"kl": target.max()}

    x, y = rng.standard_normal((8, 6)), np.arange(8.0).repeat(K).reshape(8, K)
    trainer = make(loss, optim.SAM(optim.SGD(lr=0.1)) if way == "SAM" else None)
    assert trainer.figures == {}
    seen = Seen(limit=4)
    batches = [(x[i : i + 2], y[i : i + 2]) for i in range(0, 8, 2)]
    hook = trainer.gradient_hook(lambda g: g) if way == "a hook" else contextlib.nullcontext()
    with hook:
        if way == "batches":
            trainer.fit(batches, epochs=2, callbacks=[seen])
        else:
            held_out = batches if way == "batches to validate" else None
            trainer.fit(
                x, y, epochs=2, batch_size=2, shuffle=False, callbacks=[seen],
                validation_data=held_out,
            )  # fmt: skip
    assert [record["kl"] for record in seen.records] == [1, 3, 5]
    assert [record["batch"] for record in seen.records] == [1, 2, 3]
    assert trainer.figures["kl"] == 5


@pytest.mark.parametrize("optimizer", [None, optim.LBFGS(max_iter=2)], ids=["SGD", "LBFGS"])
def test_the_trainer_has_those_of_steps_and_of_gradients(optimizer, rng):
    x, y = data(rng)
    trainer = make(optimizer=optimizer)
    expected = trainer.evaluate(x, y)
    assert trainer.figures == {}
    for method in (trainer.backward, trainer.step):
        assert method(x, y) == expected["loss"]
        assert expected.items() <= {**trainer.figures, "loss": expected["loss"]}.items()
        before = trainer.figures
        trainer.figures.clear()  # a copy
        with pytest.raises(tw.ThalwegError):
            method(x, {**y, "value": y["value"] * np.nan})
        assert trainer.figures == before
        if method == trainer.backward:
            x, y = data(rng)
            expected = trainer.evaluate(x, y)
    with pytest.raises(AttributeError, match="figures can only be read"):
        trainer.figures = {}
    own = tw.Trainer(trainer.model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    own.step(x, y["value"])
    assert own.figures == trainer.copy().figures == {}


def test_where_those_of_a_fit_that_ended_in_its_first_epoch_are_is_said(rng):
    class Ends:
        def on_step_end(self, trainer, record):
            return True

    trainer = make()
    history = trainer.fit(*data(rng), callbacks=[Ends()])
    with pytest.raises(KeyError, match=r"none, as no epoch was completed; trainer\.figures has"):
        history["first"]
    assert trainer.figures["first"] > 0


def test_figures_of_a_loss_that_is_not_finite_are_not_the_news(rng):
    def loss(output, target):
        return np.inf, output, {"part": np.inf}

    x, y = rng.standard_normal((4, 6)), rng.standard_normal((4, K))
    with pytest.raises(tw.DivergedError, match="the loss became inf"):
        make(loss).step(x, y)
