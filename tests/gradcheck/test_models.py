"""Gradients of models, parameter by parameter: kinks, float32, and what is left alone."""

import dataclasses
import re

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn

CLASSES = nn.CrossEntropyLoss(), lambda rng, n: rng.integers(0, 4, n)
NUMBERS = nn.MSELoss(), lambda rng, n: rng.standard_normal((n, 4))


@pytest.mark.parametrize(("loss", "targets"), [CLASSES, NUMBERS], ids=["classes", "numbers"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Tanh(),
        nn.Sigmoid(),
        nn.GELU(),
        nn.SiLU(),
        nn.Softplus(),
        nn.Identity(),
        nn.SELU(),
        nn.Mish(),
        nn.Sine(2.0),
        nn.Dropout(0.3),
        nn.ReLU(),
        nn.LeakyReLU(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_models_pass(layer, loss, targets, dtype, rng):
    model = nn.Sequential(
        nn.Linear(20, 32), layer, nn.Linear(32, 16), layer, nn.Linear(16, 4), dtype=dtype, seed=9
    )
    report = tw.gradcheck(model, rng.standard_normal((32, 20)), targets(rng, 32), loss=loss)
    assert report.passed, f"\n{report}"
    assert report.norm_rel_error <= 1e-7
    assert [block.name for block in report.blocks] == list(model.state_dict())
    assert report.kinks == 0


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm])
def test_normalizations_pass(make, rng):
    model = nn.Sequential(
        make(6), nn.Linear(6, 9), make(9), nn.Tanh(), nn.Dropout(0.2), nn.Linear(9, 4), seed=9
    )
    x, y = rng.standard_normal((32, 6)), rng.integers(0, 4, 32)
    before = model.state_dict()
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    assert report.passed, f"\n{report}"
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])


def test_the_model_is_left_alone(classifier, blobs):
    model = classifier.model
    model.flat_gradients = np.arange(model.num_parameters)
    before = model.flat_parameters.tobytes(), model.flat_gradients.tobytes()
    assert tw.gradcheck(model, blobs.x, blobs.y, loss=nn.CrossEntropyLoss())
    assert (model.flat_parameters.tobytes(), model.flat_gradients.tobytes()) == before
    assert model.dtype == np.float32


def test_kinks_are_left_out_and_counted():
    """A unit exactly at its kink: the slope is 0 below, 1 above; no difference says which."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1), dtype="float64")
    model.load_state_dict(
        {"0.weight": [[1, -1], [1, 1]], "0.bias": [0, 0], "2.weight": [[1, 1]], "2.bias": [0]}
    )
    report = tw.gradcheck(model, [[1, 1]], [[5]], loss=nn.MSELoss())
    assert report.passed
    weight, bias, *rest = report.blocks
    # The first unit's two weights and its bias move it across.
    assert (weight.kinks, bias.kinks) == (2, 1)
    assert [block.kinks for block in rest] == [0, 0]
    assert report.kinks == 3


def test_kinks_of_a_loss_of_ones_own_are_found():
    """One of |output - target| where one output is its target; nobody knows of them beforehand."""

    def loss(output, target):
        off = output - target
        return float(np.abs(off).mean()), np.where(off >= 0, 1.0, -1.0) / off.size

    model = nn.Sequential(nn.Linear(3, 2), dtype="float64", seed=0)
    x = np.eye(3)
    y = model(x) + np.array([[1, 1], [1, 1], [1, 0]])
    report = tw.gradcheck(model, x, y, loss=loss)
    assert report.passed, f"\n{report}"
    assert [block.kink_at for block in report.blocks] == [(1, 2), (1,)]
    assert report.kinks == 2


def test_a_block_of_nothing_but_kinks_does_not_pass():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), dtype="float64")
    model.load_state_dict({"0.weight": [[0]], "0.bias": [0]})
    report = tw.gradcheck(model, [[1]], [[5]], loss=nn.MSELoss())
    assert not report
    assert {block.verdict for block in report.blocks} == {"all kinks"}


def test_float32_gradients_are_the_float64_ones_rounded(rng):
    """Float32 differences could not see this; the float64 gradient, checked above, can."""
    for layer in (nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.ReLU(), nn.Sine(2.0)):
        single = nn.Sequential(
            nn.Linear(20, 64), layer, nn.Linear(64, 64), layer, nn.Linear(64, 10), seed=2
        )
        double = single.astype("float64")
        x = rng.standard_normal((64, 20)).astype(np.float32)
        g = rng.standard_normal((64, 10)).astype(np.float32) / 64
        for model in (single, double):
            model.forward(x)
            model.backward(g)
        error = np.linalg.norm(single.flat_gradients - double.flat_gradients)
        assert error <= 2e-6 * np.sqrt(3) * np.linalg.norm(double.flat_gradients)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_of_a_model_are_measured_over_the_steps(dtype, rng):
    """The V: of order h², and below the best step of order 1/h; in float64 for both dtypes."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), dtype=dtype, seed=0)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 1))
    curve = tw.gradcheck(model, x, y, loss=nn.MSELoss()).curve("0.weight")
    assert curve.truncation_slope == pytest.approx(2, abs=0.05)
    assert curve.round_off_slope == pytest.approx(-1, abs=0.3)
    assert curve.error.min() < 1e-9


def test_the_report_is_a_table_with_a_verdict(classifier, blobs):
    report = tw.gradcheck(classifier.model, blobs.x, blobs.y, loss=nn.CrossEntropyLoss())
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["block", "size", "h"]
    assert [line.split()[0] for line in lines[1:-2]] == list(classifier.model.state_dict())
    assert lines[-2].startswith("passed (central differences in float64, tolerance 1e-07")
    assert lines[-1].startswith("float32 gradients differ from float64 ones by ")
    assert repr(report).startswith("GradcheckReport(passed=True, norm_rel_error=")
    loss = classifier.evaluate(blobs.x, blobs.y)["loss"]
    assert report.value == pytest.approx(loss, rel=1e-5)
    failing = tw.check_gradient(lambda t: t.sum(), np.zeros(3), np.ones(3))
    assert re.search(r"theta .* FAILED\nFAILED: theta \(", str(failing))


@pytest.mark.parametrize("check", [tw.gradcheck, tw.gradgradcheck])
def test_what_is_not_finite_is_named(check, rng):
    """Behind a tanh an infinite input made no loss infinite, and passed."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), seed=1)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    for value in (np.nan, np.inf):
        bad = x.copy()
        bad[3, 1] = value
        with pytest.raises(tw.DataError, match=r"x\[3, 1\] is (nan|inf)"):
            check(model, bad, y, loss=nn.MSELoss())
        bad = y.copy()
        bad[2, 0] = value
        with pytest.raises(tw.DataError, match=r"y\[2, 0\] is (nan|inf)"):
            check(model, x, bad, loss=nn.MSELoss())


@pytest.mark.parametrize("check", [tw.gradcheck, tw.gradgradcheck])
@pytest.mark.parametrize(
    "model", [nn.Linear(3, 2), nn.Sequential, None, [nn.Linear(3, 2)]], ids=str
)
def test_what_is_no_model_is_refused(check, model):
    with pytest.raises(tw.ArgumentError, match=r"model must be an nn\.Sequential; got"):
        check(model, np.ones((2, 3)), [0, 1], loss=nn.CrossEntropyLoss())


@pytest.mark.parametrize("check", [tw.gradcheck, tw.gradgradcheck])
def test_what_has_no_loss_is_said(check, rng):
    model = nn.Sequential(nn.Linear(3, 2), seed=1)
    x, y = rng.standard_normal((6, 3)), np.ones((6, 2))
    with pytest.raises(tw.ArgumentError, match=r"loss must be a Loss, .*; got None"):
        check(model, x, y, loss=None)
    with pytest.raises(tw.DataError, match="no row counts"):
        check(model, x, y, loss=nn.MSELoss(), sample_weight=np.zeros(6))
    with pytest.raises(tw.ArgumentError, match=r"model\(x\)\[\d, \d\] is -.* outputs are rates"):
        check(model, x, y, loss=nn.PoissonNLLLoss(log_input=False))


def test_reports_cannot_be_changed():
    report = tw.check_gradient(lambda t: t.sum(), np.ones(3), np.ones(3))
    for part in (report, report.blocks[0]):
        for name in ("verdict", "note"):
            with pytest.raises(dataclasses.FrozenInstanceError, match=name):
                setattr(part, name, "ok")


def test_differences_that_are_not_numbers_do_not_pass(rng):
    """With them the error was NaN, and told to be 0."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    far = tw.gradcheck(model, x, y, loss=nn.MSELoss(), h=1e300)
    assert np.isnan(far.blocks[2].worst_numeric)
    assert far.failed == ("0.weight", "0.bias", "2.weight", "2.bias")
    for check in tw.gradcheck, tw.gradgradcheck:
        with pytest.raises(tw.ArgumentError, match="h must be"):
            check(model, x, y, loss=nn.MSELoss(), h=1e-17)
