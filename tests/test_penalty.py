"""What goes along with updates: a quadratic penalty, the path integral, parameters that stay."""

import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import off, squares


def sgd(theta, g, state, lr=0.05, momentum=0.9):
    state["v"] = momentum * state.get("v", 0) + g
    return theta - lr * state["v"]


def adam(theta, g, state, lr=0.01):
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    root = np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-8
    return theta - lr * state["m"] / (1 - 0.9**t) / root


OPTIMIZERS = {
    "SGD": (lambda: optim.SGD(lr=0.05, momentum=0.9), sgd),
    "Adam": (lambda: optim.Adam(lr=0.01), adam),
}


def make(optimizer="SGD", dtype="float64", **options):
    model = nn.Sequential(
        nn.Linear(5, 40), nn.LayerNorm(40), nn.Tanh(), nn.Linear(40, 3), dtype=dtype, seed=3
    )
    if isinstance(optimizer, str):
        optimizer = OPTIMIZERS[optimizer][0]()
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, **options)


def data(rng, rows=24):
    return rng.standard_normal((rows, 5)), rng.integers(0, 3, rows)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("way", ["plain", "norm", "value", "accumulate"])
def test_updates_are_those_of_the_formula(optimizer, way, rng):
    options = {
        "plain": {}, "norm": {"clip_grad_norm": 0.5}, "value": {"clip_grad_value": 0.02},
        "accumulate": {"accumulate_grad_batches": 2},
    }[way]  # fmt: skip
    trainer, twin = make(optimizer, **options), make()
    x, y = data(rng)
    n, s = trainer.model.num_parameters, 0.7
    importance, anchor = rng.random(n), rng.standard_normal(n)
    trainer.set_penalty(importance, anchor, s)
    theta, state, gathered = twin.model.flat_parameters, {}, []
    for step in range(100):
        twin.model.flat_parameters = theta
        twin.model.zero_grad()
        loss = twin.backward(x, y)
        assert trainer.step(x, y) == pytest.approx(loss, rel=1e-10)  # without the penalty
        gathered.append(twin.model.flat_gradients)
        if way == "accumulate" and step % 2 == 0:
            continue
        g = np.mean(gathered, axis=0) + s * importance * (theta - anchor)
        gathered = []
        if way == "norm":
            g *= min(1, 0.5 / (np.linalg.norm(g) + 1e-6))
        if way == "value":
            g = np.clip(g, -0.02, 0.02)
        theta = OPTIMIZERS[optimizer][1](theta, g, state)
    assert off(trainer.model.flat_parameters, theta) < 1e-12
    value = s / 2 * np.sum(importance * (theta - anchor) ** 2)
    assert trainer.penalty == pytest.approx(value, rel=1e-12)


def test_the_penalty_of_one_parameter_by_hand():
    """A step of 0.1 on 1/2 (w - 1)^2 + 3/2 * 2 (w + 1)^2 from w = 0: by -0.1 (-1 + 6)."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    model.flat_parameters = np.zeros(1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    trainer.set_penalty([2.0], [-1.0], 3.0)
    assert trainer.penalty == 3.0
    trainer.step([[0.5**0.5]], [0.5**0.5])
    assert model.flat_parameters[0] == pytest.approx(-0.5, rel=1e-12)
    trainer.set_penalty(None)
    assert trainer.penalty == 0
    assert "penalty" not in trainer.fit([[1.0]], [1.0])


def test_the_history_has_it_at_the_end_of_each_epoch(rng):
    trainer, (x, y) = make(), data(rng)
    trainer.set_penalty(np.ones(trainer.model.num_parameters), strength=2)
    start = trainer.model.flat_parameters
    values = []

    class Watch(tw.callbacks.Callback):
        def on_epoch_end(self, trainer, record):
            values.append(np.sum((trainer.model.flat_parameters - start) ** 2))

    history = trainer.fit(x, y, epochs=3, batch_size=8, callbacks=[Watch()])
    np.testing.assert_allclose(history["penalty"], values, rtol=1e-12)
    whole = make()
    whole.set_penalty(np.ones(whole.model.num_parameters), strength=2)
    assert whole.fit(x, y, epochs=3, batch_size=8)["penalty"] == history["penalty"]


def test_frozen_parameters_are_not_pulled(rng):
    x, y = data(rng)
    for options in ({}, {"clip_grad_norm": 0.1}):
        optimizer = optim.SGD(lr=0.05).add_group("0.*", frozen=True)
        trainer = make(optimizer, **options)
        before = trainer.model.state_dict()["0.weight"].copy()
        one = np.ones(trainer.model.num_parameters)
        trainer.set_penalty(one, one, 5)
        for _ in range(3):
            trainer.step(x, y)
        np.testing.assert_array_equal(trainer.model.state_dict()["0.weight"], before)


def test_the_path_integral_is_minus_gradient_times_move(rng):
    x, y = data(rng)
    for with_penalty in (True, False):
        trainer, twin = make(), make()
        n = trainer.model.num_parameters
        importance, anchor = rng.random(n), rng.standard_normal(n)
        trainer.set_penalty(importance, anchor, 0.3)
        trainer._core.start_path(with_penalty)
        path = np.zeros(n)
        for _ in range(20):
            twin.model.flat_parameters = before = trainer.model.flat_parameters
            twin.model.zero_grad()
            twin.backward(x, y)
            g = twin.model.flat_gradients
            if with_penalty:
                g = g + 0.3 * importance * (before - anchor)
            trainer.step(x, y)
            path -= g * (trainer.model.flat_parameters - before)
        assert off(trainer._core.path(), path) < 1e-12


def test_masked_parameters_stay_and_others_do_not_notice(rng):
    x, y = data(rng)
    trainer, free = make("Adam"), make("Adam")
    start = trainer.model.flat_parameters
    mask = (rng.random(len(start)) < 0.5).astype(float)
    trainer._core.set_mask(mask)
    trainer.step(x, y)
    free.step(x, y)
    after = trainer.model.flat_parameters
    np.testing.assert_array_equal(after[mask == 0], start[mask == 0])
    np.testing.assert_array_equal(after[mask == 1], free.model.flat_parameters[mask == 1])
    assert not np.any(after[mask == 1] == start[mask == 1])


@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 1.0}])
def test_the_bits_are_the_same_for_any_number_of_threads(options, rng):
    x, y = rng.standard_normal((300, 64)).astype("float32"), rng.integers(0, 10, 300)
    found, before = [], tw.get_num_threads()
    try:
        for threads in (1, 2, 3):
            tw.set_num_threads(threads)
            model = nn.Sequential(nn.Linear(64, 500), nn.ReLU(), nn.Linear(500, 10))
            trainer = tw.Trainer(
                model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(), **options
            )
            trainer.set_penalty(np.random.default_rng(0).random(model.num_parameters), strength=9)
            trainer._core.start_path(True)
            trainer.fit(x, y, epochs=2, batch_size=128)
            found.append((model.flat_parameters, trainer._core.path(), trainer.penalty))
    finally:
        tw.set_num_threads(before)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_it_is_saved_and_copied(tmp_path, rng):
    x, y = data(rng)
    trainer = make("Adam", dtype="float32")
    n = trainer.model.num_parameters
    trainer.set_penalty(rng.random(n), rng.standard_normal(n), 0.1)
    trainer.step(x, y)
    trainer.save(tmp_path / "t")
    others = [tw.Trainer.load(tmp_path / "t"), trainer.copy()]
    for each in (trainer, *others):
        for _ in range(3):
            each.step(x, y)
    for other in others:
        np.testing.assert_array_equal(other.model.flat_parameters, trainer.model.flat_parameters)
        assert other.penalty == trainer.penalty > 0


def test_a_fit_that_diverges_takes_the_path_back(rng):
    x, y = data(rng)
    trainer = make()
    trainer._core.start_path(True)
    trainer.fit(x, y)
    before = trainer._core.path()
    trainer.optimizer.lr = 1e300
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=9)
    np.testing.assert_array_equal(trainer._core.path(), before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0],), tw.ShapeError, "importance must have shape"),
        ((-1.0,), tw.ArgumentError, "importance.0. must be >= 0; got -1"),
        ((np.nan,), tw.DataError, "importance"),
        ((1.0, np.inf), tw.DataError, "anchor"),
        ((1.0, 0.0, -1.0), tw.ArgumentError, "strength"),
    ],
)
def test_what_is_no_penalty_is_refused(arguments, error, message):
    trainer = make()
    n = trainer.model.num_parameters
    full = [np.full(n, a) if isinstance(a, float) else a for a in arguments[:2]]
    with pytest.raises(error, match=message):
        trainer.set_penalty(*full, *arguments[2:])
    assert trainer.penalty == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_grad_norm": 0.05}, {"accumulate_grad_batches": 2}, {"average": optim.EMA(0.9)}],
    ids=lambda options: ", ".join(options) or "plain",
)
@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW, optim.LAMB])
def test_with_a_function_as_loss_it_is_the_same(kind, options, rng, tmp_path):
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))

    def train(loss):
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), dtype="float64", seed=1)
        trainer = tw.Trainer(model, loss=loss, optimizer=kind(lr=0.02), **options)
        n = model.num_parameters
        trainer.set_penalty(np.linspace(0, 2, n), np.linspace(-1, 1, n), 0.5)
        history = trainer.fit(x, y, epochs=5, batch_size=10)
        if loss is squares:  # what is saved or pickled goes on with it
            trainer.save(tmp_path / "trainer")
            trainer = tw.Trainer.load(tmp_path / "trainer", loss=squares)
            trainer = pickle.loads(pickle.dumps(trainer)).copy()
        trainer.step(x, y)
        trainer.step(x, y)
        return trainer, history

    (trainer, history), (twin, expected) = train(squares), train(nn.MSELoss())
    assert off(trainer.model.flat_parameters, twin.model.flat_parameters) < 1e-11
    assert trainer.penalty == pytest.approx(twin.penalty, rel=1e-10)
    for name in ("loss", "penalty"):  # losses are without it
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-10)
    trainer.set_penalty(None)
    assert trainer.penalty == 0


@pytest.mark.parametrize("where", ["batches", "validation"])
@pytest.mark.parametrize("loss", [nn.MSELoss(), squares], ids=["of the core", "custom"])
def test_a_fit_that_is_undone_leaves_integrals_along_the_path(loss, where, rng):
    """Fits in the core did so, and those in Python kept what undone updates had added."""

    def fails():
        yield x, y
        yield x, y[:1]

    model = nn.Sequential(nn.Linear(5, 3), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    x, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 3))
    trainer._follow(True)
    trainer._core.start_walk((0.9, 1e-3, 1))
    trainer.fit(x, y, epochs=3)
    before = [trainer._path(), *trainer._core.walk()[0]]
    data = (fails,) if where == "batches" else (x, y)
    validation = None if where == "batches" else fails
    with pytest.raises(tw.ShapeError):
        trainer.fit(*data, validation_data=validation)
    for now, was in zip([trainer._path(), *trainer._core.walk()[0]], before, strict=True):
        np.testing.assert_array_equal(now, was)
    assert before[0].all()
    assert before[1].all()


def test_a_trainer_that_goes_back_keeps_what_counts():
    """Strategies close gates; a penalty for the whole network would pull at weights of 0."""
    trainer = make(accumulate_grad_batches=2)
    n = trainer.model.num_parameters
    trainer.set_penalty(np.ones(n), np.zeros(n))
    before, counts = trainer.copy(), np.arange(n) % 2
    trainer._count(counts)
    gated = trainer.penalty
    trainer.step(np.ones((4, 5)), np.ones(4, int))
    trainer._become(before)
    assert trainer._core.gathered() is None
    assert trainer.penalty == gated
    assert gated < before.penalty


def test_optimizers_of_all_data_have_none():
    model = nn.Sequential(nn.Linear(1, 1))
    for loss in (nn.MSELoss(), squares):
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.LBFGS())
        with pytest.raises(tw.UnsupportedError, match="penalty is not supported with LBFGS"):
            trainer.set_penalty(np.ones(2))


@pytest.mark.parametrize("name", ["LAMB", "Lion", "RMSprop", "AdamW"])
def test_other_optimizers_take_it_as_a_part_of_the_gradient(name, rng):
    """Beside loops by hand, which add it to gradients that lie in memory."""
    x, y = data(rng)
    trainer, twin = (make(getattr(optim, name)(lr=0.01)) for _ in range(2))
    n = trainer.model.num_parameters
    importance, anchor = rng.random(n), rng.standard_normal(n)
    trainer.set_penalty(importance, anchor, 0.4)
    for _ in range(30):
        trainer.step(x, y)
        twin.model.zero_grad()
        twin.backward(x, y)
        pull = 0.4 * importance * (twin.model.flat_parameters - anchor)
        twin.model.flat_gradients = twin.model.flat_gradients + pull
        twin.optimizer.step(twin.model)
    assert off(trainer.model.flat_parameters, twin.model.flat_parameters) < 1e-12
