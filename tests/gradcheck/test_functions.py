"""Gradients of any function of NumPy arrays, beside derivatives that are known."""

import numpy as np
import pytest

import thalweg as tw

#: What the norm-relative error of a right gradient may be.
METHODS = {"forward": 1e-6, "central": 1e-9, "fourth": 1e-11, "richardson": 1e-12, "complex": 1e-14}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("f", "grad"),
    [
        (lambda t: np.sin(t).sum(), np.cos),
        (lambda t: (t**3).sum(), lambda t: 3 * t**2),
        (lambda t: np.exp(t).prod(), lambda t: np.full(t.shape, np.exp(t).prod())),
    ],
    ids=["sine", "cube", "exponential"],
)
def test_right_gradients_pass(f, grad, method, rng):
    theta = rng.standard_normal((3, 2))
    report = tw.check_gradient(f, grad, theta, method=method)
    assert report.passed, f"\n{report}"
    assert report.norm_rel_error < METHODS[method]
    assert report.method == method
    assert bool(report) is True
    assert tw.check_gradient(f, grad(theta), theta, method=method)  # its value does as well


@pytest.mark.parametrize("method", list(METHODS)[1:])
@pytest.mark.parametrize("factor", [1 + 1e-6, 1 - 1e-6, -1, 2, 0])
def test_wrong_gradients_fail(factor, method, rng):
    theta = rng.standard_normal(9)
    report = tw.check_gradient(
        lambda t: np.sin(t).sum(), lambda t: factor * np.cos(t), theta, method=method
    )
    assert not report
    assert report.failed == ("theta",)
    assert report.norm_rel_error == pytest.approx(abs(factor - 1), rel=1e-2)


def test_the_step_is_the_cube_root_of_epsilon_scaled_and_representable():
    """The points that the function is asked for are those that the report says."""
    seen = []

    def f(t):
        seen.append(float(t[0]))
        return np.exp(t[0])

    for at in (1.0, 100.0, -0.25):
        seen.clear()
        report = tw.check_gradient(f, np.exp, [at], atol=0)
        up, down = max(seen), min(seen)
        h = np.finfo(float).eps ** (1 / 3) * max(1, abs(at))
        assert report.blocks[0].h == (h, h)
        assert (up - down) / 2 == pytest.approx(h, rel=1e-8)
        assert report.passed
        # What was divided by is the difference of the points, not 2h.
        assert report.blocks[0].worst_numeric == (np.exp(up) - np.exp(down)) / (up - down)


def test_the_error_of_the_default_step_is_as_small_as_theory_says():
    report = tw.check_gradient(lambda t: np.exp(t).sum(), np.exp, [1.0])
    assert report.max_abs_error < 2e-10
    coarse = tw.check_gradient(lambda t: np.exp(t).sum(), np.exp, [1.0], h=1e-2)
    assert coarse.blocks[0].truncation == pytest.approx(1e-4 / 6 * np.e, rel=1e-3)  # h^2/6 f'''
    # It is subtracted, and leaves h^4/30 of the fifth derivative.
    assert coarse.max_abs_error == pytest.approx(1e-8 / 30 * np.e, rel=1e-3)
    assert coarse.norm_rel_error < coarse.blocks[0].resolution < 100 * coarse.norm_rel_error
    assert coarse.passed
    # Where the user vouches for the differences, they are left as they are.
    plain = tw.check_gradient(lambda t: np.exp(t).sum(), np.exp, [1.0], h=1e-2, atol=1e-3)
    assert plain.max_abs_error == pytest.approx(1e-4 / 6 * np.e, rel=1e-3)
    assert not tw.check_gradient(
        lambda t: np.exp(t).sum(), lambda t: (1 + 1e-6) * np.exp(t), [1.0], h=1e-2
    )


@pytest.mark.parametrize(
    ("method", "order", "h", "error", "smallest"),
    [  # of exp at 1: the textbook's best step, the error there, and the least of all
        ("forward", 1, 2.98e-8, 6e-8, 2e-8),
        ("central", 2, 8.7e-6, 1e-10, 2e-11),
        ("fourth", 4, 1e-3, 2e-12, 1e-12),
    ],
)
def test_errors_over_the_step_are_a_v(method, order, h, error, smallest):
    """Truncation rises with the order's slope, round-off falls with -1; the best step between."""
    report = tw.check_gradient(lambda t: np.exp(t).sum(), np.exp, [1.0], method=method)
    assert report.max_abs_error < error
    block = report.blocks[0]
    assert block.truncation + block.round_off < 10 * error
    curve = report.curve()
    assert curve.order == order
    assert curve.truncation_slope == pytest.approx(order, abs=0.02)
    assert curve.round_off_slope == pytest.approx(-1, abs=0.06)
    # C is a derivative of exp over exp: 1/2, 1/6, 1/30.
    assert 1 / curve.truncation == pytest.approx({1: 2, 2: 6, 4: 30}[order], rel=0.01)
    assert 2**-56 < curve.round_off < 2**-52  # a typical one, below the worst
    assert h / 4 < curve.theory_h < h * 2
    assert h / 20 < curve.best_h < h * 5
    assert curve.error.min() < smallest


@pytest.mark.parametrize(
    ("method", "typical"),
    [("forward", 2e-8), ("central", 1e-11), ("fourth", 1e-13), ("richardson", 1e-14)],
)
def test_the_manual_s_table_of_errors_is_true(method, typical):
    """Of exp around 1, at the default steps, relative."""

    def error(method, at):
        report = tw.check_gradient(lambda t: np.exp(t).sum(), np.exp, [at], method=method)
        return report.max_abs_error / np.exp(at)

    places = np.linspace(0.9, 1.1, 41)
    assert typical / 10 < np.median([error(method, at) for at in places]) < typical
    assert max(error("complex", at) for at in places) < 3e-16


def test_a_wrong_gradient_has_a_plateau_and_no_v():
    right, wrong = (
        tw.check_gradient(lambda t: np.exp(t).sum(), c * np.exp([1.0]), [1.0]).curve()
        for c in (1, 1.001)
    )
    assert right.error.min() < 1e-10
    middle = (wrong.h > 1e-10) & (wrong.h < 1e-3)
    np.testing.assert_allclose(wrong.error[middle], 1e-3, rtol=0.02)
    assert right.error[middle].max() < 1e-4
    # The estimates do not look at the gradient.
    assert wrong.truncation == pytest.approx(right.truncation, rel=2e-3)


def test_a_function_without_truncation_has_none():
    """The central difference of a quadratic is exact."""
    curve = tw.check_gradient(lambda t: (t**2).sum(), lambda t: 2 * t, [0.3, 0.7]).curve()
    assert np.isnan(curve.truncation_slope)
    assert curve.round_off_slope == pytest.approx(-1, abs=0.1)


def test_the_estimates_in_the_report_are_of_the_size_of_the_errors(rng):
    theta = rng.standard_normal(40)
    coarse = tw.check_gradient(lambda t: np.sin(t).sum(), np.cos, theta, h=1e-3)
    # The error is h²/6 |cos|.
    typical = 1e-6 / 6 * np.median(np.maximum(1, np.abs(theta)) ** 2 * np.abs(np.cos(theta)))
    assert coarse.blocks[0].truncation == pytest.approx(typical, rel=0.5)
    assert coarse.blocks[0].round_off < 1e-3 * typical
    fine = tw.check_gradient(lambda t: 1e3 + np.sin(t).sum(), np.cos, theta, h=1e-9)
    assert fine.blocks[0].round_off == pytest.approx(1e3 * 2.2e-16 / 1e-9, rel=0.2)
    assert np.median(fine.max_abs_error) < 3 * fine.blocks[0].round_off


def test_reports_can_be_pickled_but_for_their_function():
    import pickle

    report = tw.check_gradient(lambda t: t.sum(), np.ones(3), np.ones(3))
    again = pickle.loads(pickle.dumps(report))
    assert again == report
    with pytest.raises(tw.ArgumentError, match="unpickled"):
        again.curve()
    with pytest.raises(tw.ArgumentError, match="block must be one of"):
        report.curve("thetta")


def test_curves_can_be_drawn():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    report = tw.check_gradient(
        lambda t: np.sin(t["a"]).sum() * np.exp(t["b"][0]),
        lambda t: {
            "a": np.cos(t["a"]) * np.exp(t["b"][0]),
            "b": np.array([np.sin(t["a"]).sum() * np.exp(t["b"][0])]),
        },
        {"a": np.ones(3), "b": np.ones(1)},
    )
    axes = report.plot()
    assert [line.get_label() for line in axes.lines] == [
        "a", "b", "round-off, slope -1", "truncation, slope +2",
    ]  # fmt: skip
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.lines[0].get_ydata().min() < 1e-9
    plt.close("all")


def test_blocks_are_reported_by_name_and_place():
    theta = {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(4)}

    def grad(t):
        g = {"w": np.cos(t["w"]) * t["b"].sum(), "b": np.full(4, np.sin(t["w"]).sum())}
        g["w"][1, 2] += 1e-3
        return g

    report = tw.check_gradient(lambda t: np.sin(t["w"]).sum() * t["b"].sum(), grad, theta)
    assert report.failed == ("w",)
    w, b = report.blocks
    assert (w.name, w.shape, w.size, w.worst_index) == ("w", (2, 3), 6, (1, 2))
    assert w.max_abs_error == pytest.approx(1e-3, rel=1e-5)
    assert w.worst_analytic - w.worst_numeric == pytest.approx(1e-3, rel=1e-5)
    assert b.passed


def test_one_wrong_number_is_not_diluted_by_many_right_ones(rng):
    theta = {"large": rng.standard_normal(500), "small": np.ones(1)}

    def grad(t):
        return {"large": np.cos(t["large"]), "small": np.zeros(1)}

    report = tw.check_gradient(
        lambda t: np.sin(t["large"]).sum() + 1e-5 * t["small"][0], grad, theta
    )
    assert report.failed == ("small",)


def test_gradients_that_are_zero():
    theta = np.ones(3)
    zero = np.zeros(3)
    # Zero where the function moves: wrong. Not zero where it stands still: wrong. Both zero: right.
    assert not tw.check_gradient(lambda t: t.sum(), zero, theta)
    assert not tw.check_gradient(lambda t: 1.0, np.full(3, 1e-3), theta)
    assert not tw.check_gradient(lambda t: 0.0, np.full(3, 1e-100), theta)
    assert tw.check_gradient(lambda t: 1.0, zero, theta).blocks[0].verdict == "ok to resolution"
    assert tw.check_gradient(lambda t: 0.0, zero, theta)


def test_round_off_is_told_from_error():
    """f is large and its gradient small: differences err by 1e-16 * 1e6 / 6e-6 = 2e-5 or so."""
    report = tw.check_gradient(lambda t: 1e6 + 0.01 * t.sum(), np.full(3, 0.01), np.ones(3))
    assert report.blocks[0].verdict == "ok to resolution"
    assert not tw.check_gradient(lambda t: 1e6 + 0.01 * t.sum(), np.full(3, 0.0105), np.ones(3))
    # Who knows better how exact f is says so.
    assert not tw.check_gradient(
        lambda t: 1e6 + 0.01 * t.sum(), np.full(3, 0.01), np.ones(3), atol=0
    )


@pytest.mark.parametrize("method", [m for m in METHODS if m != "complex"])
def test_float32_values_are_compared_as_such(method):
    """Steps of float64 would be lost in their rounding."""

    def f(w):
        return np.float32((w**2).sum())

    for seed in range(20):
        w = np.random.default_rng(seed).standard_normal(5)
        report = tw.check_gradient(f, lambda w: 2 * w, w, method=method)
        assert report.blocks[0].verdict == "ok to resolution", f"\n{report}"
        assert not tw.check_gradient(f, lambda w: 2.2 * w, w, method=method)
    assert f"{method} differences in float32" in str(report)


def test_float32_values_that_became_python_floats_are_found():
    def f(w):
        return float(np.float32((w**2).sum()))

    w = np.random.default_rng(0).standard_normal(5)
    report = tw.check_gradient(f, lambda w: 2 * w, w)
    assert report
    assert "differences in float32" in str(report)
    assert not tw.check_gradient(f, lambda w: 2 * w, w, h=1e-6)  # that was asked for
    # Of a function that jumps at most, or has few digits by chance, nothing follows.
    assert "float64" in str(tw.check_gradient(lambda w: 1.0, 0 * w, w))
    assert "float64" in str(tw.check_gradient(lambda w: w.sum(), np.ones(3), np.ones(3)))


def test_where_a_function_is_noisy_a_larger_step_is_advised():
    def f(w):
        return float(np.float32((w**2).sum())) + 1e-9

    w = np.random.default_rng(1).standard_normal(30)
    report = tw.check_gradient(f, lambda w: 2 * w, w)
    assert report.unresolved
    assert "If the function is noisy, as with float32 inside, try a larger h" in str(report)
    assert tw.check_gradient(f, lambda w: 2 * w, w, h=5e-3)


@pytest.mark.parametrize("method", ["central", "fourth"])
@pytest.mark.parametrize("place", [0, 1e-9, -4e-6])
def test_kinks_are_found_where_they_explain_a_difference(place, method):
    """Steps are 6e-6 and more: |w| bends within them."""

    def f(w):
        return np.abs(w).sum()

    theta = [place, 1, -2]
    right = np.array([1.0 if place >= 0 else -1.0, 1.0, -1.0])
    report = tw.check_gradient(f, right, theta, method=method)
    (block,) = report.blocks
    assert (report.passed, block.kinks, block.kink_at) == (True, 1, (0,))
    assert "\ntheta: kink at [0], " in str(report)
    assert tw.check_gradient(f, right[:2], theta[:2], method=method)  # half of the differences
    for wrong in ([5, 1, -1], [right[0], 1.01, -1]):  # no slope of either side; and elsewhere
        assert not tw.check_gradient(f, wrong, theta, method=method)


def test_many_kinks_within_a_step_are_suggested_as_a_cause(rng):
    """A right gradient cannot be checked at absolute residuals about as small as the steps."""
    features, residuals = rng.standard_normal((2, 50, 8))
    theta = rng.standard_normal(8)

    def report_at(size):
        left = features @ theta - size * residuals[:, 0]
        f = lambda w: np.abs(features @ w - left).mean()  # noqa: E731
        slope = lambda w: features.T @ np.sign(features @ w - left) / 50  # noqa: E731
        return tw.check_gradient(f, slope, theta)

    report = report_at(5e-5)
    assert (report.passed, report.kinks) == (False, 0)
    assert "absolute values of residuals about as small as the step, check it" in str(report)
    assert report_at(1)


def test_a_block_that_is_one_kink_does_not_pass():
    report = tw.check_gradient(np.abs, np.ones(()), 0.0)
    assert (report.passed, report.blocks[0].verdict, report.kinks) == (False, "all kinks", 1)


def test_smooth_functions_and_noise_have_no_kinks(rng):
    for f in (lambda t: np.exp(t).sum(), lambda t: rng.random(), lambda t: 1e9 + t.sum()):
        report = tw.check_gradient(f, 5 * np.ones(10), rng.standard_normal(10))
        assert not report
        assert report.kinks == 0


def test_theta_and_gradient_are_left_alone(rng):
    theta = rng.standard_normal(5)
    before = theta.copy()

    def spoiling(t):
        value = float((t**2).sum())
        t[:] = 0
        return value

    assert tw.check_gradient(spoiling, lambda t: 2 * t, theta)
    np.testing.assert_array_equal(theta, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-250, 1e-200, 1e-20, 1e20, 1e200, 1e300])
def test_functions_of_any_size_are_judged(scale, method, rng):
    """Squares of 1e200 and 1e-200 are infinity and 0: norms of such must not be taken from them."""
    theta = rng.standard_normal(5)

    def f(t):
        return scale * np.sin(t).sum()

    assert tw.check_gradient(f, scale * np.cos(theta), theta, method=method)
    for wrong in (1 + 1e-5, 1.5, 0):
        grad = wrong * scale * np.cos(theta)
        assert not tw.check_gradient(f, grad, theta, method=method), wrong
    assert tw.check_hvp(lambda t: scale * np.cos(t), lambda t, v: -scale * np.sin(t) * v, theta)
    assert not tw.check_hvp(
        lambda t: scale * np.cos(t), lambda t, v: -1.01 * scale * np.sin(t) * v, theta
    )


def test_what_check_gradient_refuses():
    f, theta = (lambda t: t.sum()), np.ones(3)
    for kind, pattern, arguments, options in [
        (tw.ShapeError, r"grad must have shape \(3,\), .*; got \(2,\)", (f, np.ones(2), theta), {}),
        (tw.ShapeError, r"one number; got shape \(3,\)", (lambda t: t, theta, theta), {}),
        (tw.DataError, "theta.* is nan", (f, theta, [1, np.nan, 1]), {}),
        (tw.DataError, "grad.* is inf", (f, np.full(3, np.inf), theta), {}),
        (tw.DataError, "f is nan", (lambda t: np.nan, theta, theta), {}),
        (tw.DataError, "empty", (f, [], []), {}),
        (tw.DataError, r"theta\['b'\] is empty", (f, {}, {"a": [1.0], "b": []}), {}),
        (tw.DtypeError, "a number; got None", (lambda t: None, theta, theta), {}),
        (tw.DtypeError, "a number; got 'a'", (lambda t: "a", theta, theta), {}),
        (tw.DtypeError, "a real number; got", (lambda t: 1j * t.sum(), theta, theta), {}),
        (tw.DtypeError, "dtype", (f, theta, ["a"]), {}),
        (tw.ArgumentError, 'did you mean "central"', (f, theta, theta), {"method": "centrl"}),
        (tw.ArgumentError, "h must be", (f, theta, theta), {"h": 0}),
        (tw.ArgumentError, "rtol must be", (f, theta, theta), {"rtol": -1}),
        (
            tw.ArgumentError,
            r'returned the real number 1\.0\. Use method="central"',
            (lambda t: 1.0, theta, theta),
            {"method": "complex"},
        ),
        (
            tw.ArgumentError,
            r'raised "ufunc .logaddexp.*"\. Use method="central"',
            (lambda t: np.logaddexp(t, 0).sum(), theta, theta),
            {"method": "complex"},
        ),
        (tw.ShapeError, "shapes. Pass a dict", (f, theta, [np.ones(2), np.ones(3)]), {}),
        (tw.ArgumentError, "keys", (lambda t: 1.0, {"b": 1}, {"a": 1}), {}),
    ]:
        with pytest.raises(kind, match=pattern):
            tw.check_gradient(*arguments, **options)


def test_the_complex_step_takes_functions_that_are_complex_everywhere():
    """One that starts from a complex array gives a complex number at real points, too."""

    def f(t):
        return (np.zeros(3, complex) + t**2).sum()

    report = tw.check_gradient(f, lambda t: 2 * t, np.ones(3), method="complex")
    assert report
    assert report.curve().truncation_slope != 0


@pytest.mark.parametrize("method", METHODS)
def test_steps_that_do_not_move_theta_are_refused(method, rng):
    """Differences were 0/0 there, and NaN passed for any gradient."""
    theta = rng.uniform(1, 2, 4)
    with pytest.raises(tw.ArgumentError, match="h must be"):
        tw.check_gradient(np.sum, 2 * np.ones(4), theta, method=method, h=0)
    if method == "complex":
        assert tw.check_gradient(np.sum, np.ones(4), theta, method=method, h=1e-300)
        return
    least = np.finfo(float).eps * (512 if method == "richardson" else 1)
    with pytest.raises(tw.ArgumentError, match="h must be"):
        tw.check_gradient(np.sum, 2 * np.ones(4), theta, method=method, h=least / 2)
    found = tw.check_gradient(np.sum, np.ones(4), theta, method=method, h=least)
    assert np.isfinite(found.blocks[0].worst_numeric)
    if method in ("forward", "central", "fourth"):
        with pytest.raises(tw.ArgumentError, match="h must be"):
            tw.check_hvp(np.cos, lambda t, v: v, theta, method=method, h=least / 2)
