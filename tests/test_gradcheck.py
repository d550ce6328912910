"""The gradient checker: it must pass what is right and fail, in the right block, what is not.

The mutations below are mistakes that people make. Each is built into a small network written in
NumPy, and each must fail; a checker that passed one of them would be worthless.
"""

import re

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn

# --- functions with known derivatives -----------------------------------------------------------


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
    assert coarse.max_abs_error == pytest.approx(1e-4 / 6 * np.e, rel=1e-3)  # h^2/6 f'''
    # That difference cannot tell more; what it can, it does.
    assert coarse.blocks[0].verdict == "ok to resolution"
    assert not tw.check_gradient(
        lambda t: np.exp(t).sum(), lambda t: 1.01 * np.exp(t), [1.0], h=1e-2
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


def test_theta_and_gradient_are_left_alone(rng):
    theta = rng.standard_normal(5)
    before = theta.copy()

    def spoiling(t):
        value = float((t**2).sum())
        t[:] = 0
        return value

    assert tw.check_gradient(spoiling, lambda t: 2 * t, theta)
    np.testing.assert_array_equal(theta, before)


def test_what_check_gradient_refuses():
    f, theta = (lambda t: t.sum()), np.ones(3)
    for kind, pattern, arguments, options in [
        (tw.ShapeError, r"grad has shape \(2,\)", (f, np.ones(2), theta), {}),
        (tw.ShapeError, r"one number; got shape \(3,\)", (lambda t: t, theta, theta), {}),
        (tw.DataError, "theta.* is nan", (f, theta, [1, np.nan, 1]), {}),
        (tw.DataError, "grad.* is inf", (f, np.full(3, np.inf), theta), {}),
        (tw.DataError, "f is nan", (lambda t: np.nan, theta, theta), {}),
        (tw.DataError, "empty", (f, [], []), {}),
        (tw.DtypeError, "dtype", (f, theta, ["a"]), {}),
        (tw.ArgumentError, 'did you mean "central"', (f, theta, theta), {"method": "centrl"}),
        (tw.ArgumentError, "h must be", (f, theta, theta), {"h": 0}),
        (tw.ArgumentError, "rtol must be", (f, theta, theta), {"rtol": -1}),
        (tw.ArgumentError, "complex", (lambda t: 1.0, theta, theta), {"method": "complex"}),
        (tw.ArgumentError, "keys", (lambda t: 1.0, {"b": 1}, {"a": 1}), {}),
    ]:
        with pytest.raises(kind, match=pattern):
            tw.check_gradient(*arguments, **options)


# --- models -------------------------------------------------------------------------------------

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


# --- directions: models with many parameters -----------------------------------------------------


def deep(dtype="float64", activation=None):
    activation = activation or nn.Tanh()
    return nn.Sequential(
        nn.Linear(20, 64), nn.BatchNorm1d(64), activation, nn.Linear(64, 64), activation,
        nn.Dropout(0.2), nn.Linear(64, 10), dtype=dtype, seed=5,
    )  # fmt: skip


def squared(output, target):
    return float(((output - target) ** 2).mean()), 2 * (output - target) / output.size


@pytest.mark.parametrize("loss", [nn.MSELoss(), squared], ids=["core", "custom"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_directions_of_each_block_pass(loss, dtype, rng):
    model = deep(dtype)
    x, y = rng.standard_normal((64, 20)), rng.standard_normal((64, 10))
    before = model.state_dict()
    report = tw.gradcheck(model, x, y, loss=loss, directions=3)
    assert report.passed, f"\n{report}"
    assert report.norm_rel_error <= 1e-7
    assert {block.directions for block in report.blocks} == {3}
    assert [block.shape for block in report.blocks] == [s for _, s in model._core.blocks()]
    assert "random directions" in str(report)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    if dtype == "float32":
        assert 0 < report.float32_error <= 2e-6 * np.sqrt(3)
    else:
        assert report.float32_error is None


def test_large_models_are_checked_along_directions_by_themselves(rng):
    model = nn.Sequential(nn.Linear(100, 256), nn.ReLU(), nn.Linear(256, 300), seed=1)
    assert model.num_parameters > 100_000
    x, y = rng.standard_normal((16, 100)), rng.integers(0, 300, 16)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    assert report.passed, f"\n{report}"
    assert {block.directions for block in report.blocks} == {3}


def test_directions_that_cross_a_kink_are_drawn_anew_or_left_out():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), dtype="float64")
    model.load_state_dict({"0.weight": [[0]], "0.bias": [0]})
    report = tw.gradcheck(model, [[1]], [[5]], loss=nn.MSELoss(), directions=3)
    assert {block.verdict for block in report.blocks} == {"all kinks"}
    assert report.kinks == 6


@pytest.mark.parametrize("block", ["0.weight", "1.bias", "3.weight", "3.bias", "6.bias"])
@pytest.mark.parametrize("entries", ["all", "one"])
def test_directions_see_a_mistake_in_one_block(block, entries, rng, monkeypatch):
    """All of a block by 1e-6 of itself, or a single entry of it by its own size."""
    from thalweg import _core

    model = deep()
    truth = _core.losses_along

    def mutated(*arguments):
        gradient, values, crossed = truth(*arguments)
        start = 0
        for name, shape in model._core.blocks():
            stop = start + int(np.prod(shape))
            if name == block and entries == "all":
                gradient[start:stop] *= 1 + 1e-6
            elif name == block:
                gradient[start + np.abs(gradient[start:stop]).argmax()] *= 2
            start = stop
        return gradient, values, crossed

    x, y = rng.standard_normal((64, 20)), rng.integers(0, 10, 64)
    monkeypatch.setattr(_core, "losses_along", mutated)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss(), directions=5)
    assert report.failed == (block,), f"\n{report}"


def test_a_wrong_float32_gradient_fails_though_that_in_float64_is_right(rng, monkeypatch):
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3), seed=4)
    x, y = rng.standard_normal((30, 5)), rng.integers(0, 3, 30)
    truth = tw.Trainer.backward

    def mutated(self, *arguments):
        value = truth(self, *arguments)
        gradients = self.model.flat_gradients
        gradients[40:48] *= 1 + 1e-4  # 0.bias
        self.model.flat_gradients = gradients
        return value

    assert tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    monkeypatch.setattr(tw.Trainer, "backward", mutated)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    assert report.failed == ("0.bias",)
    assert report.blocks[1].verdict == "FAILED in float32"
    assert report.blocks[1].float32_error == pytest.approx(1e-4, rel=0.01)


def test_a_kink_within_rounding_is_no_mistake_in_float32():
    """0.1 * 3 - 0.3 is 0 in one precision and not in the other: so is the mask of the ReLU."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), dtype="float32")
    model.load_state_dict({"0.weight": [[0.1]], "0.bias": [-0.3], "2.weight": [[1]], "2.bias": [0]})
    report = tw.gradcheck(model, [[3.0], [5.0]], [[5.0], [6.0]], loss=nn.MSELoss())
    assert "FAILED in float32" not in {block.verdict for block in report.blocks}


@pytest.mark.parametrize("directions", [-1, 1.5])
def test_what_gradcheck_refuses(directions):
    model = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(tw.ArgumentError, match="directions"):
        tw.gradcheck(model, [[1]], [[1]], loss=nn.MSELoss(), directions=directions)


# --- mutations ----------------------------------------------------------------------------------


class Network:
    """6-5-5-3, ReLU, softmax cross-entropy, L2 penalty; its gradient may have a named mistake."""

    DECAY = 1e-2

    def __init__(self, rng, mistake=None):
        self.x = rng.standard_normal((20, 6))
        self.labels = rng.integers(0, 3, 20)
        self.mistake = mistake
        self.theta = {
            "w0": rng.standard_normal((5, 6)),
            "b0": rng.standard_normal(5),
            "w1": rng.standard_normal((5, 5)),
            "b1": rng.standard_normal(5),
            "w2": rng.standard_normal((3, 5)),
            "b2": rng.standard_normal(3),
        }

    def forward(self, t):
        z0 = self.x @ t["w0"].T + t["b0"]
        h0 = np.maximum(z0, 0)
        z1 = h0 @ t["w1"].T + t["b1"]
        h1 = np.maximum(z1, 0)
        y = h1 @ t["w2"].T + t["b2"]
        return z0, h0, z1, h1, y

    def loss(self, t):
        y = self.forward(t)[-1]
        log_sum = np.log(np.exp(y).sum(axis=1))
        penalty = self.DECAY * sum((t[w] ** 2).sum() for w in ("w0", "w1", "w2"))
        return (log_sum - y[np.arange(20), self.labels]).mean() + penalty

    def grad(self, t):
        z0, h0, z1, h1, y = self.forward(t)
        n = 20
        p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
        target = np.eye(3)[self.labels]
        if self.mistake == "softmax without its cross terms":
            d2 = (p - target) * target / n
        else:
            d2 = (p - target) / n
        if self.mistake == "last partial batch dropped":
            d2[16:] = 0
        d1 = (d2 @ t["w2"]) * ((z0 if self.mistake == "mask of another layer" else z1) > 0)
        d0 = (d1 @ t["w1"]) * (z0 > 0)
        factor = 1 if self.mistake == "decay without its 2" else 2
        g = {
            "w0": d0.T @ self.x,
            "b0": d0.sum(axis=0),
            "w1": d1.T @ h0,
            "b1": d1.sum(axis=0),
            "w2": d2.T @ h1,
            "b2": d2.sum(axis=0),
        }
        for w in ("w0", "w1", "w2"):
            g[w] += factor * self.DECAY * t[w]
        if self.mistake == "layer scaled by 1 + 1e-6":
            g["w1"] *= 1 + 1e-6
        if self.mistake == "bias without 1/N":
            g["b1"] *= n
        if self.mistake == "weight transposed":
            g["w1"] = g["w1"].T.copy()
        return g


MUTATIONS = {
    "layer scaled by 1 + 1e-6": {"w1"},
    "bias without 1/N": {"b1"},
    "weight transposed": {"w1"},
    "mask of another layer": {"w0", "b0", "w1", "b1"},
    "decay without its 2": {"w0", "w1", "w2"},
    "softmax without its cross terms": {"w0", "b0", "w1", "b1", "w2", "b2"},
    "last partial batch dropped": {"w0", "b0", "w1", "b1", "w2", "b2"},
}


def test_the_network_without_mistakes_passes(rng):
    network = Network(rng)
    report = tw.check_gradient(network.loss, network.grad, network.theta)
    assert report.passed, f"\n{report}"
    assert report.norm_rel_error < 1e-8


@pytest.mark.parametrize(("mistake", "blocks"), MUTATIONS.items())
def test_a_mistake_fails_in_its_blocks(mistake, blocks, rng):
    network = Network(rng, mistake)
    report = tw.check_gradient(network.loss, network.grad, network.theta)
    assert set(report.failed) == blocks, f"\n{report}"


@pytest.mark.parametrize("constant", ["none", "mean", "both"])
def test_batch_normalization_with_constant_statistics_fails_where_it_goes_through(constant, rng):
    """Behind the normalization all is right; before it, the statistics were moved."""
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 3))

    def forward(t):
        z = x @ t["w0"].T
        spread = np.sqrt(z.var(axis=0) + 1e-5)
        xhat = (z - z.mean(axis=0)) / spread
        return xhat, spread, np.tanh(t["gamma"] * xhat + t["beta"])

    def f(t):
        return ((forward(t)[2] @ t["w1"].T - y) ** 2).mean()

    def grad(t):
        xhat, spread, h = forward(t)
        d = 2 * (h @ t["w1"].T - y) / y.size
        inner = (d @ t["w1"]) * (1 - h**2)
        g = inner * t["gamma"]
        if constant == "none":
            g = g - g.mean(axis=0) - xhat * (g * xhat).mean(axis=0)
        elif constant == "mean":
            g = g - xhat * (g * xhat).mean(axis=0)
        return {
            "w0": (g / spread).T @ x,
            "gamma": (inner * xhat).sum(axis=0),
            "beta": inner.sum(axis=0),
            "w1": d.T @ h,
        }

    theta = {
        "w0": rng.standard_normal((5, 4)),
        "gamma": rng.standard_normal(5),
        "beta": rng.standard_normal(5),
        "w1": rng.standard_normal((3, 5)),
    }
    report = tw.check_gradient(f, grad, theta)
    assert report.failed == (() if constant == "none" else ("w0",)), f"\n{report}"


@pytest.mark.parametrize("block", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_a_mistake_of_the_core_would_fail_in_its_block(block, blobs, monkeypatch):
    """The core's own gradient, scaled by 1 + 1e-6 in one block on its way to the report."""
    from thalweg import _core

    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3), dtype="float64", seed=4)
    truth = _core.central_differences

    def mutated(*arguments):
        analytic, numeric, kinked = truth(*arguments)
        start = 0
        for name, shape in model._core.blocks():
            stop = start + int(np.prod(shape))
            if name == block:
                analytic[start:stop] *= 1 + 1e-6
            start = stop
        return analytic, numeric, kinked

    assert tw.gradcheck(model, blobs.x, blobs.y, loss=nn.CrossEntropyLoss())
    monkeypatch.setattr(_core, "central_differences", mutated)
    report = tw.gradcheck(model, blobs.x, blobs.y, loss=nn.CrossEntropyLoss())
    assert report.failed == (block,)


# --- products with the Hessian ------------------------------------------------------------------


class Product:
    """f = sum(sin(a)) * exp(b · c) / 2, whose Hessian couples a and b; it may have a mistake."""

    C = np.array([0.3, -0.7])

    def grad(self, t):
        e = np.exp(t["b"] @ self.C) / 2
        return {"a": np.cos(t["a"]) * e, "b": np.sin(t["a"]).sum() * e * self.C}

    def hvp(self, t, v, mistake=None):
        e, s = np.exp(t["b"] @ self.C) / 2, np.sin(t["a"]).sum()
        along = self.C @ v["b"]
        coupled = 0 if mistake == "blocks apart" else 1
        a = -np.sin(t["a"]) * v["a"] * e + coupled * np.cos(t["a"]) * e * along
        b = (coupled * np.cos(t["a"]) @ v["a"] + s * along) * e * self.C
        if mistake == "not symmetric":
            b = b + np.array([1e-3 * v["b"][1], 0])
        if mistake == "scaled":
            a = a * (1 + 1e-5)
        if mistake == "diagonal squared":
            a = np.cos(t["a"]) ** 2 * v["a"] + coupled * np.cos(t["a"]) * e * along
        return {"a": a, "b": b}


@pytest.mark.parametrize("method", ["forward", "central", "fourth"])
def test_right_products_pass(method, rng):
    product, theta = Product(), {"a": rng.standard_normal(6), "b": rng.standard_normal(2)}
    report = tw.check_hvp(product.grad, product.hvp, theta, method=method)
    assert report.passed, f"\n{report}"
    assert [block.name for block in report.blocks] == ["a", "b", "symmetry"]
    assert report.blocks[-1].max_abs_error < 1e-14
    if method != "forward":
        assert max(block.max_abs_error for block in report.blocks) < 1e-8


@pytest.mark.parametrize(
    ("mistake", "blocks"),
    {
        "blocks apart": {"a", "b"},
        "not symmetric": {"b", "symmetry"},
        "scaled": {"a", "symmetry"},
        "diagonal squared": {"a"},
    }.items(),
)
def test_wrong_products_fail_in_their_blocks(mistake, blocks, rng):
    product, theta = Product(), {"a": rng.standard_normal(6), "b": rng.standard_normal(2)}
    report = tw.check_hvp(product.grad, lambda t, v: product.hvp(t, v, mistake), theta)
    assert set(report.failed) == blocks, f"\n{report}"


def test_products_that_are_no_vectors_are_refused():
    for kind, pattern, options in [
        (tw.ShapeError, "hvp has shape", {}),
        (tw.ArgumentError, "directions", {"directions": 0}),
        (tw.ArgumentError, "method", {"method": "complex"}),
    ]:
        with pytest.raises(kind, match=pattern):
            tw.check_hvp(np.cos, lambda t, v: v[:2], np.ones(3), **options)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.ReLU()], ids=repr)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=["classes", "numbers"])
def test_the_hessian_of_models_passes(activation, loss, rng):
    model = deep("float32", activation)
    labels = isinstance(loss, nn.CrossEntropyLoss)
    y = rng.integers(0, 10, 32) if labels else rng.standard_normal((32, 10))
    report = tw.gradgradcheck(model, rng.standard_normal((32, 20)), y, loss=loss)
    assert report.passed, f"\n{report}"
    assert report.kinks == 0
    assert [block.name for block in report.blocks] == [
        *(name for name, _ in model._core.blocks()), "symmetry",
    ]  # fmt: skip


def test_a_gauss_newton_product_is_no_hessian(rng, monkeypatch):
    from thalweg import curvature

    class Mistaken(curvature.Operator):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options, kind="gauss_newton")

    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    assert tw.gradgradcheck(model, x, y, loss=nn.MSELoss())
    monkeypatch.setattr(curvature, "Operator", Mistaken)
    report = tw.gradgradcheck(model, x, y, loss=nn.MSELoss())
    # The last layer is linear in its own weights: only what couples with the first is wrong there.
    assert {"0.weight", "0.bias"} <= set(report.failed)
    assert "symmetry" not in report.failed
