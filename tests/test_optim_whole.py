"""Optimizers that work on whole blocks: in trainers, in groups, on many threads.

That their steps are those of the peers is shown in `test_optim_parity.py`.
"""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

METHODS = {
    "LAMB": lambda: optim.LAMB(lr=0.02, weight_decay=0.1),
}
EVERY = pytest.mark.parametrize("method", METHODS)


def make(dtype="float64", widths=(20, 70, 40, 3)):
    """Panels of 32 outputs, and what is left of them."""
    a, b, c, d = widths
    layers = [nn.Linear(a, b), nn.LayerNorm(b), nn.Tanh(), nn.Linear(b, c), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(c, d), dtype=dtype, seed=3)


def trainer_of(method, model, **options):
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=METHODS[method](), **options)


def data(rng, rows=60):
    return rng.standard_normal((rows, 20)), rng.standard_normal((rows, 3))


@EVERY
def test_a_trainers_step_is_the_step_by_hand(method, rng):
    """From the same gradients: clipped, accumulated, with a schedule."""
    x, y = data(rng)
    schedule = optim.schedules.LinearWarmup(4)
    trainer = trainer_of(
        method, make(), clip_grad_norm=0.5, accumulate_grad_batches=2, schedule=schedule
    )
    model, optimizer = make(), METHODS[method]()
    base = optimizer.lr
    for t in range(8):
        model.zero_grad()
        for half in (slice(0, 30), slice(30, 60)):
            trainer.step(x[half], y[half])
            model.backward(2 * (model.forward(x[half]) - y[half]) / y[half].size)
        model.flat_gradients = model.flat_gradients / 2
        nn.utils.clip_grad_norm_(model, 0.5)
        optimizer.lr = schedule.lr(t, base=base)
        optimizer.step(model)
    assert trainer.optimizer.steps == 8
    np.testing.assert_allclose(
        trainer.model.flat_parameters, model.flat_parameters, rtol=0, atol=1e-12
    )


@EVERY
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_bits_for_any_number_of_threads(method, dtype, rng):
    """Also of a block that is cut into several pieces, each larger than a thread's share."""
    model = make(dtype, widths=(20, 400, 900, 3))
    start = model.flat_parameters
    g = rng.standard_normal((3, start.size)).astype(dtype)
    before, found = tw.get_num_threads(), []
    for threads in (1, 2, 5):
        tw.set_num_threads(threads)
        model, optimizer = make(dtype, widths=(20, 400, 900, 3)), METHODS[method]()
        for slopes in g:
            model.flat_gradients = slopes
            optimizer.step(model)
        found.append(model.flat_parameters.tobytes())
    tw.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    assert np.frombuffer(found[0], dtype) != pytest.approx(start)


@EVERY
def test_a_fit_goes_on_from_a_file_with_the_same_bits(method, rng, tmp_path):
    x, y = data(rng)
    whole, part = trainer_of(method, make("float32")), trainer_of(method, make("float32"))
    whole.fit(x, y, epochs=4, batch_size=16)
    part.fit(x, y, epochs=2, batch_size=16)
    part.save(tmp_path / "half")
    part = tw.Trainer.load(tmp_path / "half")
    part.fit(x, y, epochs=2, batch_size=16)
    np.testing.assert_array_equal(part.model.flat_parameters, whole.model.flat_parameters)
    assert whole.history["loss"][-1] < whole.history["loss"][0]


@EVERY
def test_frozen_parameters_stay(method, rng):

    x, y = data(rng)
    trainer = trainer_of(method, make())
    trainer.optimizer.add_group("*.bias", lr_scale=0.5).add_group("0.*", frozen=True)
    before = trainer.model.state_dict()
    trainer.fit(x, y, epochs=2, batch_size=16)
    for name, array in trainer.model.state_dict().items():
        assert np.array_equal(array, before[name]) == name.startswith("0."), name


@EVERY
def test_a_fit_that_diverges_leaves_all_as_it_was(method, rng):
    x, y = data(rng)
    trainer = trainer_of(method, make("float32"))
    trainer.fit(x, y, epochs=1, batch_size=16)
    before, state = trainer.model.flat_parameters, trainer.optimizer.state_dict()
    trainer.optimizer.lr = 1e30
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=3, batch_size=16)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    for name, array in trainer.optimizer.state_dict()["arrays"].items():
        np.testing.assert_array_equal(array, state["arrays"][name])


# --- LAMB --------------------------------------------------------------------------------------


def test_a_step_of_lamb_is_as_long_as_the_block(rng):
    """‖Δθ‖ = lr·‖θ‖, whatever the gradient; lr times the direction where a block is zero."""
    model = make()
    model.load_state_dict({**model.state_dict(), "1.bias": np.zeros(70)})
    before = model.state_dict()
    model.flat_gradients = rng.standard_normal(model.num_parameters) * 1e3
    optim.LAMB(lr=0.1, eps=0.0, weight_decay=0.0).step(model)
    for name, array in model.state_dict().items():
        moved = np.linalg.norm(array - before[name])
        if name == "1.bias":
            np.testing.assert_allclose(np.abs(array), 0.1, rtol=1e-14)
        else:
            assert moved == pytest.approx(0.1 * np.linalg.norm(before[name]), rel=1e-13)
