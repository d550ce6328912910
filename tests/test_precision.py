"""Training in precisions that split numbers into parts of bfloat16, where the CPU has those."""

import os
import subprocess
import sys

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

SPLIT = ("bfloat16", "bf16x3", "bf16x6")
#: Relative errors of gradients that are still fine; of bfloat16, what the documentation says.
BOUNDS = {"bfloat16": 4e-3, "bf16x3": 3e-5, "bf16x6": 2e-6}

HERE = tw.show_config("dicts")["precisions"]
#: The one of most parts that is here.
MOST = next((name for name in reversed(SPLIT) if name in HERE), None)
bfloat16 = pytest.mark.skipif(MOST is None, reason="this CPU has no products of bfloat16")


def in_each(test):
    """Runs a test in each precision that is here; the others are skipped."""

    def param(name):
        reason = f"this CPU has no {name}: bfloat16 needs AVX-512 BF16, more parts AMX"
        return pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason=reason))

    return pytest.mark.parametrize("precision", [param(name) for name in SPLIT])(test)


def trainer_in(precision, dtype="float32", hidden=96, **options):
    model = nn.Sequential(
        nn.Linear(40, hidden), nn.GELU(), nn.Linear(hidden, 50), nn.Tanh(), nn.Linear(50, 3),
        dtype=dtype, seed=4,
    )  # fmt: skip
    adam = optim.AdamW(lr=1e-2)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=adam, precision=precision, **options)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(300, 40)).astype(np.float32)
    return x, np.sin(x[:, :3] + x[:, 3:6])


@in_each
def test_gradients_are_as_exact_as_the_precision_says(precision, data):
    gradients = {}
    for name, dtype in ((precision, "float32"), ("float64", "float64")):
        trainer = trainer_in(name, dtype)
        trainer.model.flat_parameters = trainer_in("float32").model.flat_parameters
        trainer.backward(*data)
        gradients[name] = trainer.model.flat_gradients
    exact = gradients["float64"]
    error = np.linalg.norm(gradients[precision] - exact) / np.linalg.norm(exact)
    assert error < BOUNDS[precision]
    if precision != "bf16x6":  # which is as good as float32, not worse than it
        assert error > BOUNDS[precision] / 100


@in_each
def test_it_learns_as_well(precision, data):
    losses = {}
    for name in ("float32", precision):
        trainer = trainer_in(name)
        assert trainer.precision == name
        trainer.fit(*data, epochs=30, batch_size=64)
        losses[name] = trainer.evaluate(*data)["loss"]
    assert losses["float32"] < 0.05
    assert losses[precision] < 1.3 * losses["float32"]


@bfloat16
def test_only_training_is_in_that_precision(data):
    trainer, plain = trainer_in("bfloat16"), trainer_in("float32")
    x, y = data
    assert trainer.evaluate(x, y) == plain.evaluate(x, y)
    np.testing.assert_array_equal(trainer.model(x), plain.model(x))
    assert trainer.step(x, y) != plain.step(x, y)


@bfloat16
def test_layers_and_batches_that_are_too_small_stay_in_float32(data):
    x, y = data
    narrow, plain = trainer_in("bfloat16", hidden=31), trainer_in("float32", hidden=31)
    assert narrow.step(x, y) == plain.step(x, y)
    few, plain = trainer_in("bfloat16"), trainer_in("float32")
    assert few.step(x[:31], y[:31]) == plain.step(x[:31], y[:31])
    assert few.step(x[:32], y[:32]) != plain.step(x[:32], y[:32])


@bfloat16
def test_any_number_of_threads_gives_the_same_bits(data):
    before, found = tw.get_num_threads(), []
    try:
        for threads in (1, 3):
            tw.set_num_threads(threads)
            trainer = trainer_in(MOST, hidden=500)
            trainer.fit(*data, epochs=2, batch_size=150)
            found.append(trainer.model.flat_parameters)
    finally:
        tw.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@bfloat16
def test_files_and_copies_go_on_in_the_same_precision(data, tmp_path):
    trainer = trainer_in(MOST)
    trainer.fit(*data, epochs=1, batch_size=64)
    trainer.save(tmp_path / "trainer.safetensors")
    twins = [trainer.copy(), tw.Trainer.load(tmp_path / "trainer.safetensors")]
    other = tw.Trainer.load(tmp_path / "trainer.safetensors", precision="float32")
    for each in (trainer, *twins, other):
        each.fit(*data, epochs=1, batch_size=64)
    for twin in twins:
        assert twin.precision == MOST
        np.testing.assert_array_equal(twin.model.flat_parameters, trainer.model.flat_parameters)
    assert other.precision == "float32"
    assert (other.model.flat_parameters != trainer.model.flat_parameters).any()


@bfloat16
@pytest.mark.parametrize(
    "optimizer",
    [optim.LBFGS(), optim.SAM(optim.SGD(lr=0.1)), optim.Muon(lr=1e-2)],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_every_kind_of_optimizer_takes_it(optimizer, data):
    model = trainer_in("float32").model
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer, precision=MOST)
    before = trainer.evaluate(*data)["loss"]
    trainer.fit(*data, epochs=5, batch_size=300)
    assert trainer.evaluate(*data)["loss"] < before


@bfloat16
def test_values_that_are_not_finite_are_found_as_ever(data):
    trainer = trainer_in(MOST)
    before = trainer.model.flat_parameters.copy()
    x, y = data[0].copy(), data[1]
    x[7, 2] = np.nan
    with pytest.raises(tw.DataError, match="x"):
        trainer.step(x, y)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)


@bfloat16
def test_the_plan_says_so(data):
    text = str(trainer_in(MOST).plan(300))
    assert f"numbers split into {SPLIT.index(MOST) + 1} bfloat16" in text
    assert ("by tiles" if "bf16x6" in HERE else "by vectors") in text
    assert "weights split" in text


def test_by_default_it_is_that_of_the_model():
    for dtype in ("float32", "float64"):
        assert trainer_in(None, dtype).precision == dtype
        assert trainer_in(dtype, dtype).precision == dtype
    with pytest.raises(tw.UnsupportedError, match=r"astype\('float64'\)"):
        trainer_in("float64")


def test_what_is_not_there_is_refused():
    with pytest.raises(tw.ArgumentError, match=r"did you mean .bf16x"):
        trainer_in("bf16x4")
    with pytest.raises(tw.ArgumentError, match=r'"bfloat16"; got "bf16"$'):
        trainer_in("bf16")
    for precision in SPLIT:
        with pytest.raises(tw.UnsupportedError, match=f"{precision}.*float64"):
            trainer_in(precision, "float64")
    # A CPU without tiles, or kernels of an instruction set below them.
    code = (
        "import thalweg as tw; from thalweg import nn, optim; "
        "tw.Trainer(nn.Sequential(nn.Linear(2, 2)), loss=nn.MSELoss(), optimizer=optim.SGD(lr=1), "
        "precision='bf16x6')"
    )
    environment = os.environ | {"THALWEG_ISA": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "UnsupportedError" in done.stderr
    assert any(what in done.stderr for what in ("avx2", "AMX", "AVX-512 BF16"))


@pytest.mark.parametrize("make", [nn.CustomLoss, nn.DerivativeLoss])
@pytest.mark.parametrize("precision", SPLIT)
def test_passes_of_a_loss_of_ones_own_are_not_silently_in_another(precision, make):
    model, loss = nn.Sequential(nn.Linear(3, 2)), make(lambda *arrays: None)
    with pytest.raises(tw.UnsupportedError, match=f"{precision}.*a custom loss, whose"):
        tw.Trainer(model, loss=loss, optimizer=optim.Adam(), precision=precision)
