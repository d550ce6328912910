"""What differences cannot resolve does not pass, unless the gradient is zero there."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, solve

DIFFERENCES = ("central", "forward", "fourth", "richardson")


def verdicts(report):
    return {block.verdict for block in report.blocks}


def test_a_function_that_bends_within_a_step_is_not_checked():
    """1/θ at 1e-6: the step of 6e-6 goes across the pole, and any small gradient passed."""
    theta = np.full(3, 1e-6)
    f = lambda t: (1 / t).sum()  # noqa: E731
    nothing = tw.check_gradient(f, lambda t: 0 * t, theta)
    assert nothing.unresolved == nothing.failed == ("theta",)
    assert nothing.norm_rel_error == 1
    assert nothing.blocks[0].resolution > 1
    assert "\nunresolved: theta (" in str(nothing)
    assert "varies a lot within a step, try a smaller h" in str(nothing)
    # A right one is told what is wrong with the step.
    right = tw.check_gradient(f, lambda t: -1 / t**2, theta)
    assert not right
    assert "try a smaller h" in str(right)
    assert tw.check_gradient(f, lambda t: -1 / t**2, theta, h=1e-11)
    assert verdicts(tw.check_gradient(f, lambda t: 0 * t, theta, h=1e-11)) == {"FAILED"}


@pytest.mark.parametrize("slope", [0.0, 5.0])
@pytest.mark.parametrize("method", DIFFERENCES)
def test_noise_has_no_gradient(method, slope):
    for seed in range(20):
        noise = np.random.default_rng(seed)
        report = tw.check_gradient(
            lambda t, noise=noise: noise.random(), np.full(3, slope), np.ones(3), method=method
        )
        assert not report, f"\n{report}"


@pytest.mark.parametrize("directions", [0, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e8, 1e10, 1e12, 1e14, 1e16])
def test_a_loss_that_hides_its_gradient_is_unresolved(scale, dtype, directions, rng):
    """Right or -0.5 times that, nothing passes beside a loss that is so large."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2), dtype=dtype, seed=1)
    x, y = rng.standard_normal((20, 4)), scale * rng.standard_normal((20, 2))

    def wrong(output, target):
        return float(((output - target) ** 2).mean()), -(output - target) / output.size

    report = tw.gradcheck(model, x, y, loss=nn.MSELoss(), directions=directions)
    assert verdicts(report) == {"unresolved"}
    assert "scale the targets" in str(report)
    report = tw.gradcheck(model, x, y, loss=wrong, directions=directions)
    assert not any(block.passed for block in report.blocks)
    assert verdicts(report) == ({"FAILED"} if scale < 1e9 else {"unresolved"})


@pytest.mark.parametrize("directions", [0, 3])
@pytest.mark.parametrize("kind", ["noisy", "exact", "large"])
def test_a_minimum_passes(kind, directions, rng):
    """Both gradients are rounding there, which is no sign of a mistake."""
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    if kind == "exact":
        y = x @ rng.standard_normal((4, 2))
    if kind == "large":
        y = 1e12 * y
    model = nn.Sequential(nn.Linear(4, 2), dtype="float64")
    solve.network(model, x, y)
    report = tw.gradcheck(model, x, y, loss=nn.MSELoss(), directions=directions)
    assert verdicts(report) == {"ok to resolution"}, f"\n{report}"
    assert report.norm_rel_error == 0  # zero is not counted


@pytest.mark.parametrize("method", ["central", "fourth", "richardson"])
@pytest.mark.parametrize("at", [0, 1e-12, 1e-9])
@pytest.mark.parametrize("least", [0.0, 1.0])
def test_beside_a_minimum_the_right_gradient_passes_and_others_fail(least, at, method):
    def f(t):
        return least + (t**2).sum()

    assert tw.check_gradient(f, lambda t: 2 * t, np.full(3, at), method=method)
    for wrong in (1e-3, -1e-6):
        report = tw.check_gradient(f, lambda t, w=wrong: 2 * t + w, np.full(3, at), method=method)
        assert verdicts(report) == {"FAILED"}


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_a_small_gradient_beside_a_large_one_is_not_taken_for_zero(factor):
    """Only one that is zero, as far as differences can tell, may hide among them."""
    theta = {"a": np.array([0.3, 0.7]), "b": np.array([0.2, 0.4])}

    def f(t):
        return 1e8 * np.sin(t["a"]).sum() + 1e-3 * np.sin(3 * t["b"]).sum()

    def grad(t):
        return {"a": 1e8 * np.cos(t["a"]), "b": factor * 3e-3 * np.cos(3 * t["b"])}

    report = tw.check_gradient(f, grad, theta)
    assert {block.name: block.verdict for block in report.blocks} == {"a": "ok", "b": "unresolved"}
    assert not report


def test_atol_is_taken_at_its_word():
    report = tw.check_gradient(lambda t: 1e6 + t.sum() / 1e4, np.zeros(3), np.ones(3), atol=1e-3)
    assert verdicts(report) == {"ok to resolution"}


def test_products_that_rounding_hides_are_unresolved():
    for factor in (1, -0.5):
        report = tw.check_hvp(
            lambda t: 1e12 + np.cos(t), lambda t, v, c=factor: -c * np.sin(t) * v, np.ones(3)
        )
        assert report.failed == report.unresolved == ("theta",)
    assert tw.check_hvp(lambda t: 3 + 0 * t, lambda t, v: 0 * v, np.ones(3))


def test_errors_are_relative_to_the_gradient():
    """They were relative to the resolution, if that was larger."""
    report = tw.check_gradient(lambda t: 1e4 + 0.01 * t.sum(), np.full(3, 0.01), np.ones(3))
    (block,) = report.blocks
    assert block.verdict == "ok to resolution"
    assert 1e-7 < block.norm_rel_error < block.resolution < 1e-3
    coarse = tw.check_gradient(lambda t: np.exp(t).sum(), np.exp, [1.0], h=1e-2, atol=1e-3)
    assert coarse.norm_rel_error == pytest.approx(1e-4 / 6, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "name", "given"),
    [
        (lambda: tw.check_gradient(3, np.ones(2), np.ones(2)), "f", "theta; got 3"),
        (lambda: tw.check_hvp(3, np.cos, np.ones(2)), "grad", "theta; got 3"),
        (lambda: tw.check_hvp(np.cos, 3, np.ones(2)), "hvp", "theta and v; got 3"),
        (lambda: solve.nonlinear_least_squares(3, np.cos, [1.0]), "residual", "theta; got 3"),
        (lambda: solve.nonlinear_least_squares(np.cos, None, [1.0]), "jacobian", "theta; got None"),
    ],
)
def test_what_is_no_function_is_named(call, name, given):
    with pytest.raises(tw.ArgumentError, match=f"^{name} must be a function of {given}"):
        call()
