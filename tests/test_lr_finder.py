"""The range test of learning rates."""

import itertools

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
    # By hand: the error is multiplied by 1 - 2 lr in each step. Ten rates a decade are three for a
    # factor of two, so that three copies take turns.
    loss, before = np.ones(81), np.ones(81)
    for copy in range(3):
        loss[copy::3] = np.cumprod(1 - 2 * rates[copy::3]) ** 2
        before[copy::3][1:] = loss[copy::3][:-1]
    end = int(np.argmax(loss - np.minimum.accumulate(loss) > 3))  # the first loss was 1
    np.testing.assert_allclose(found.lr, rates[:end])
    np.testing.assert_allclose(found.after, loss[:end], rtol=1e-9)
    np.testing.assert_allclose(found.before, before[:end], rtol=1e-9)
    assert found.suggestion < 1 < found.diverged_at == rates[end]


def test_the_sharpness_tells_of_instability_before_the_loss_does(rng):
    """A quadratic of curvatures from 1 to 100: unstable from 0.02 on, and within a step of that."""
    values = np.geomspace(1, 100, 12)
    q, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    x, y = np.sqrt(6 * values)[:, np.newaxis] * q, np.zeros(12)  # 2/n X'X = q' diag(values) q
    model = nn.Sequential(nn.Linear(12, 1, bias=False), dtype="float64", seed=1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    before = everything(trainer)
    found = tw.find_lr(trainer, x, y, batch_size=12, sharpness=True)
    assert everything(trainer) == before
    step = found.lr[1] / found.lr[0]
    assert 0.02 <= found.unstable_at < 0.02 * step
    # What is small at first takes some updates to be seen.
    assert found.diverged_at > 2 * found.unstable_at
    assert tw.find_lr(trainer, x, y, batch_size=12).unstable_at is None
    low = tw.find_lr(trainer, x, y, batch_size=12, max_lr=0.01, sharpness=True)
    assert low.unstable_at is None
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam())
    with pytest.raises(tw.ArgumentError, match=r"before its first step.*without sharpness=True"):
        tw.find_lr(trainer, x, y, sharpness=True)


def chebyshev(degree, seed):
    """The nets of test_edge_of_stability.py, with all rows at each update."""
    x = np.linspace(-1, 1, 20).reshape(-1, 1)
    y = np.cos(degree * np.arccos(x))
    model = nn.Sequential(
        nn.Linear(1, 100, init="xavier_normal"), nn.Tanh(),
        nn.Linear(100, 1, init="xavier_normal"), dtype="float64", seed=seed,
    )  # fmt: skip
    state = model.state_dict()
    model.load_state_dict({k: v if k.endswith("weight") else 0 * v for k, v in state.items()})
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD()), x, y


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degree", [3, 4, 5])
def test_the_suggestion_is_of_the_size_of_the_largest_stable_rate(degree, seed):
    """It was 0.08 of it before rates doubled from update to update: most was learned before.

    A run at it learns, and is thrown back from the edge of stability now and then, as are those at
    the rates of test_edge_of_stability.py, which are larger: for less than two updates in a hundred
    is the loss above that of the start.
    """
    trainer, x, y = chebyshev(degree, seed)
    largest = tw.curvature.max_stable_lr(trainer, x, y).max_lr
    found = tw.find_lr(trainer, x, y, batch_size=20)
    assert 0.1 <= found.suggestion / largest <= 1
    trainer.optimizer.lr = found.suggestion
    loss = np.array(trainer.fit(x, y, epochs=20_000, batch_size=20, shuffle=False)["loss"])
    assert loss[-1] < loss[0] / 2
    assert np.median(loss[10_000:]) < loss[0] / 2
    assert (loss[1:] > loss[0]).mean() < 0.02


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degree", [3, 4, 5])
def test_a_finer_grid_suggests_the_same(degree, seed):
    """With a single copy it went down with the grid, sixfold from 50 to 400 rates."""
    trainer, x, y = chebyshev(degree, seed)
    suggestions = [
        tw.find_lr(trainer, x, y, batch_size=20, steps=steps).suggestion
        for steps in (50, 100, 200, 400)
    ]
    assert max(suggestions) < 2 * min(suggestions)


def test_batches_of_a_trained_model_differ_without_diverging():
    """Some are fitted, some are not: losses differ by far more than an update changes them."""
    pytest.importorskip("sklearn")
    x, y, *_ = tw.datasets.digits()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    trainer = tw.Trainer(
        model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.05, momentum=0.9)
    )
    trainer.fit(x, y, epochs=20)
    found = tw.find_lr(trainer, x, y)
    assert found.before.max() > 5 * found.before.min()
    assert found.diverged_at is None or found.diverged_at > 0.1
    assert len(found.lr) > 70


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
    of_all = tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y, steps=10, batch_size=None)
    np.testing.assert_array_equal(of_all.after, found.after)


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
    with pytest.raises(tw.ArgumentError, match="does not fall at any rate"):
        tw.find_lr(trainer, blobs.x, blobs.y, min_lr=1e4, max_lr=1e5)


def test_inputs_that_are_badly_scaled_are_told_how_to_be_standardized(rng):
    x = 1e6 + 1e3 * rng.standard_normal((300, 4))
    y = np.sin(x[:, :1] / 1e3)
    first = nn.Standardize.of(x)
    layers = nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)
    trainers = [
        tw.Trainer(nn.Sequential(*model), loss=nn.MSELoss(), optimizer=optim.SGD(0.1))
        for model in ((nn.Linear(4, 1),), (first, *layers))
    ]
    with pytest.raises(tw.ArgumentError, match=r"begin with nn\.Standardize\.of\(x\)"):
        tw.find_lr(trainers[0], x, y)
    assert tw.find_lr(trainers[1], x, y).suggestion > 1e-3


def test_a_loss_that_is_undefined_is_not_blamed_on_the_scale(rng):
    """Rates below 0 have no Poisson loss, whatever the learning rate."""
    x = rng.standard_normal((300, 4))
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    rates = nn.PoissonNLLLoss(log_input=False)
    trainer = tw.Trainer(model, loss=rates, optimizer=optim.Adam())
    with pytest.raises(tw.ArgumentError, match=r"is -[\d.]+, but with log_input=False"):
        tw.find_lr(trainer, x, rng.poisson(1, (300, 1)))


def test_a_row_that_is_not_finite_is_named_as_it_is_in_the_data(blobs):
    """Not by its place in a shuffled batch."""
    x = blobs.x.copy()
    x[17, 2] = np.nan
    with pytest.raises(tw.DataError, match=r"x\[17, 2\] is NaN"):
        tw.find_lr(make(optim.SGD(0.1)), x, blobs.y, batch_size=len(x))


def test_a_penalty_counts_in_the_updates(blobs):
    """One of strength s has the curvature s, with which steps of more than 2/s diverge."""
    trainer = make(optim.SGD(0.1))
    without = tw.find_lr(trainer, blobs.x, blobs.y)
    trainer.set_penalty(np.ones(trainer.model.num_parameters), strength=1e4)
    found = tw.find_lr(trainer, blobs.x, blobs.y)
    assert found.suggestion < 2e-4 < without.suggestion
    assert trainer.penalty == 0  # it is at its anchor


def test_weights_of_samples_count(blobs):
    weight = np.where(np.arange(90) < 60, 2.0, 0.0)
    for found, expected in (
        (tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y, np.full(90, 3.0)),
         tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y)),
        # Of one batch, which rows of weight 0 are not in.
        (tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y, sample_weight=weight, batch_size=90),
         tw.find_lr(make(optim.SGD(0.1)), blobs.x[:60], blobs.y[:60], batch_size=60)),
    ):  # fmt: skip
        np.testing.assert_allclose(found.before, expected.before, rtol=1e-4)
    other = tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y, 1.0 + blobs.y, sharpness=True)
    assert other.unstable_at != tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y).unstable_at
    for weight, error, message in (
        (np.zeros(90), tw.DataError, "count|weigh"),
        (-np.ones(90), tw.DataError, r"sample_weight\[0\] is -1"),
        (np.ones(3), tw.ShapeError, "sample_weight has 3"),
    ):
        with pytest.raises(error, match=message):
            tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y, weight)


def test_a_suggestion_at_the_end_of_the_range_says_so(blobs):
    trainer = make(optim.SGD(0.1))
    found = tw.find_lr(trainer, blobs.x, blobs.y)
    assert found.at_edge is None
    assert "range" not in repr(found)
    low = tw.find_lr(trainer, blobs.x, blobs.y, max_lr=found.suggestion / 100)
    assert (low.at_edge, low.suggestion) == ("max_lr", found.suggestion / 100)
    assert "where the gain is largest: raise max_lr" in repr(low)
    # (w - 1)^2 is at its minimum after one step of 0.5.
    model = nn.Sequential(nn.Linear(1, 1, bias=False, init="zeros"), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1.0))
    one = np.ones((8, 1))
    high = tw.find_lr(trainer, one, one, min_lr=0.5, max_lr=5.0, batch_size=8, smooth=0.0)
    assert (high.at_edge, high.suggestion) == ("min_lr", 0.5)
    assert "lower min_lr" in repr(high)


def test_ranges_that_make_no_sense_are_named(blobs):
    trainer = make(optim.SGD(0.1))
    for options, message in [
        ({"min_lr": 0}, "min_lr"),
        ({"min_lr": 1.0, "max_lr": 0.1}, "max_lr"),
        ({"steps": 3}, "steps must be an integer >= 10"),
        ({"smooth": -1.0}, "smooth"),
        ({"smooth": 1e9}, "smooth, a distance in updates, must be at most steps=100; got 1e.09"),
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
    found = tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y, sharpness=True)
    assert found.plot().get_legend().get_texts()[3].get_text().startswith("unstable from")
    ax = tw.plot.schedule(schedules.OneCycleLR(0.1), schedules.StepLR(100), steps=500)
    assert len(ax.lines) == 2


def test_a_narrow_range_takes_no_more_copies_than_rates(blobs, monkeypatch):
    """From 0.1 to 0.1000001 it took seventy million."""
    made = []
    copy = tw.Trainer.copy
    monkeypatch.setattr(tw.Trainer, "copy", lambda self: made.append(self) or copy(self))
    for high in 0.1000001, np.nextafter(0.1, 1), 0.15:
        made.clear()
        trainer = make(optim.SGD(0.1))
        found = tw.find_lr(trainer, blobs.x, blobs.y, min_lr=0.1, max_lr=high, steps=10)
        assert 0.1 <= found.suggestion <= high
        assert len(made) <= 10


def test_of_batches_it_takes_the_rows(blobs):
    batches = [(blobs.x[:50], blobs.y[:50]), (blobs.x[50:], blobs.y[50:])]
    with pytest.raises(
        tw.ArgumentError, match=r"y is missing.*pass the rows of some: (.*)"
    ) as error:
        tw.find_lr(make(optim.SGD(0.1)), batches)
    scope = {"np": np, "itertools": itertools, "batches": batches}
    exec(str(error.value).rpartition("some: ")[2], scope)  # what it says works
    found = tw.find_lr(make(optim.SGD(0.1)), scope["x"], scope["y"])
    assert found.suggestion == tw.find_lr(make(optim.SGD(0.1)), blobs.x, blobs.y).suggestion
