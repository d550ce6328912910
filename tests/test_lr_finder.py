"""The range test of learning rates."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.optim import schedules


def make(optimizer, **options):
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.BatchNorm1d(16), nn.Linear(16, 3), seed=3)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, **options)


def everything(trainer):
    model, optimizer = trainer.model.state_dict(), trainer.optimizer.state_dict()
    arrays = {**model, **optimizer.pop("arrays")}
    return {k: v.tobytes() for k, v in arrays.items()}, optimizer, trainer.history, trainer._epochs


@pytest.mark.parametrize("trained", [0, 3])
def test_nothing_is_touched(trained, blobs):
    trainer = make(optim.Adam(lr=0.02), schedule=schedules.ExponentialLR(0.9))
    if trained:
        trainer.fit(blobs.x, blobs.y, epochs=trained)
    before, twin = everything(trainer), trainer.copy()
    tw.find_lr(trainer, blobs.x, blobs.y)
    assert everything(trainer) == before
    assert trainer.fit(blobs.x, blobs.y)["loss"] == twin.fit(blobs.x, blobs.y)["loss"]


@pytest.mark.parametrize(
    "optimizer", [optim.SGD(0.1), optim.SGD(0.1, momentum=0.9), optim.Adam()], ids=repr
)
def test_training_with_the_suggestion_works(optimizer, blobs):
    trainer = make(optimizer)
    found = tw.find_lr(trainer, blobs.x, blobs.y)
    trainer.optimizer.lr = found.suggestion
    loss = trainer.fit(blobs.x, blobs.y, epochs=30)["loss"]
    assert loss[-1] < loss[0] / 5


def test_rates_beyond_stability_are_found():
    """Gradient descent on y = w x with x = 1: the loss is (w - 1)^2, stable below a rate of 1."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False, init="zeros"), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1.0))
    x = y = np.ones((8, 1))
    found = tw.find_lr(
        trainer, x, y, min_lr=1e-4, max_lr=1e4, steps=81, batch_size=8, smooth=0.0
    )  # fmt: skip
    rates = np.geomspace(1e-4, 1e4, 81)
    # By hand: the error is multiplied by 1 - 2 lr in each step.
    loss = np.cumprod(1 - 2 * rates) ** 2
    end = int(np.argmax(loss - np.minimum.accumulate(loss) > 3))  # the first loss was 1
    np.testing.assert_allclose(found.lr, rates[:end])
    np.testing.assert_allclose(found.after, loss[:end], rtol=1e-9)
    np.testing.assert_allclose(found.before, np.concatenate([[1], loss[: end - 1]]), rtol=1e-9)
    assert found.suggestion < 1 < found.diverged_at == rates[end]


def test_losses_may_be_negative(rng):
    """The density of narrow peaks is above 1."""
    x = rng.standard_normal((300, 3))
    y = 1e-3 * x[:, :1]
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2), seed=1)
    trainer = tw.Trainer(model, loss=nn.GaussianNLLLoss(), optimizer=optim.Adam(lr=0.01))
    trainer.fit(x, y, epochs=60)
    assert trainer.history["loss"][-1] < -1
    found = tw.find_lr(trainer, x, y)
    assert 1e-5 < found.suggestion < 0.1


def test_dropout_drops_the_same_before_and_after(blobs):
    model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3), seed=3)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(0.1))
    found = tw.find_lr(trainer, blobs.x, blobs.y)
    assert abs(found.before - found.after)[:10].max() < 1e-3  # at rates up to 5e-7


def test_few_rates_and_large_batches_will_do(blobs):
    found = tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y, steps=10, batch_size=10**12)
    assert found.diverged_at is None or found.suggestion < found.diverged_at
    assert 1e-3 < found.suggestion < 10


def test_chance_does_not_decide(rng):
    """Suggestions for ten seeds, which draw other weights and other batches, lie close together."""
    x = rng.standard_normal((500, 8))
    y = np.sin(x).sum(axis=1, keepdims=True)
    rates = []
    for seed in range(10):
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), seed=seed)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam())
        rates.append(tw.find_lr(trainer, x, y).suggestion)
    assert max(rates) < 4 * min(rates)


def test_rates_at_which_nothing_is_learned_give_no_suggestion(blobs):
    trainer = make(optim.SGD(0.1))
    with pytest.raises(tw.ArgumentError, match="falls at no rate"):
        tw.find_lr(trainer, blobs.x, blobs.y, min_lr=1e4, max_lr=1e5)


def test_ranges_that_make_no_sense_are_named(blobs):
    trainer = make(optim.SGD(0.1))
    for options, message in [
        ({"min_lr": 0}, "min_lr"),
        ({"min_lr": 1.0, "max_lr": 0.1}, "max_lr"),
        ({"steps": 3}, "steps must be an integer >= 10"),
        ({"smooth": -1.0}, "smooth"),
    ]:
        with pytest.raises(tw.ArgumentError, match=message):
            tw.find_lr(trainer, blobs.x, blobs.y, **options)
    with pytest.raises(tw.ShapeError):
        tw.find_lr(trainer, blobs.x[:, :2], blobs.y)


def test_it_draws(blobs):
    pytest.importorskip("matplotlib").use("Agg")
    found = tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y)
    ax = found.plot()
    assert any("suggestion" in text.get_text() for text in ax.get_legend().get_texts())
    ax = tw.plot.schedule(schedules.OneCycleLR(0.1), schedules.StepLR(100), steps=500)
    assert len(ax.lines) == 2
