"""Well-trained networks: their gradients nearly cancel, and are still right or wrong.

Truncation of central differences is as large as the gradient's tolerance there, and a float32
gradient may consist of rounding. Neither is a mistake, and a mistake must not hide behind either.
"""

import functools
import math
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import _core, nn, optim

SEEDS = range(10)
X = np.linspace(-1, 1, 200)[:, np.newaxis]
Y = np.sin(3 * X)


@functools.cache
def trained(dtype, seed):
    model = nn.Sequential(
        nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1),
        dtype=dtype, seed=seed,
    )  # fmt: skip
    optimizer = optim.LBFGS(tolerance_change=0, tolerance_grad=0)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    with warnings.catch_warnings():
        # In float32, it may end where no step improves the loss.
        warnings.filterwarnings("ignore", "a step of LBFGS changed no parameter")
        trainer.fit(X, Y, epochs=10, batch_size=None)
    assert trainer.evaluate(X, Y)["loss"] < 1e-5
    return model


def parts(model):
    ends = np.cumsum([0, *(int(np.prod(shape)) for _, shape in model._core.blocks())])
    names = [name for name, _ in model._core.blocks()]
    return {name: slice(*ends[i : i + 2]) for i, name in enumerate(names)}


def without_a_derivative(model, x):
    """Gradients where the second tanh is passed backward as if it were the identity."""
    p = {name: np.asarray(value, np.float64) for name, value in model.state_dict().items()}
    h0 = np.tanh(x @ p["0.weight"].T + p["0.bias"])
    h1 = np.tanh(h0 @ p["2.weight"].T + p["2.bias"])
    d2 = 2 * (h1 @ p["4.weight"].T + p["4.bias"] - np.sin(3 * x)) / len(x)
    d1 = d2 @ p["4.weight"]
    d0 = (d1 @ p["2.weight"]) * (1 - h0**2)
    found = [d0.T @ x, d0.sum(0), d1.T @ h0, d1.sum(0), d2.T @ h1, d2.sum(0)]
    return np.concatenate([np.ravel(part) for part in found])


def scaled(block, factor):
    def mistake(model, x, gradient):
        part = parts(model)[block]
        gradient[part] = factor * gradient[part]
        return gradient

    return mistake


#: What goes wrong, and in which blocks.
MISTAKES = {
    **{
        f"{block} scaled by 1 + 1e-4": (scaled(block, 1 + 1e-4), {block})
        for block in ("0.weight", "4.weight")
    },
    "a bias with the wrong sign": (scaled("2.bias", -1), {"2.bias"}),
    "an activation without its derivative": (
        lambda model, x, gradient: without_a_derivative(model, x),
        {"0.weight", "0.bias", "2.weight", "2.bias"},
    ),
}


def of_core(monkeypatch, model, mistake):
    """Make the core's float64 gradient wrong."""
    truth = _core.central_differences

    def mutated(core, loss, x, *rest):
        analytic, *others = truth(core, loss, x, *rest)
        return mistake(model, x, analytic), *others

    monkeypatch.setattr(_core, "central_differences", mutated)


def of_float32(monkeypatch, mistake):
    """Make the float32 gradient wrong."""
    truth = tw.Trainer.backward

    def mutated(self, x, *rest):
        value = truth(self, x, *rest)
        model = self.model
        gradient = mistake(model, np.asarray(x, np.float64), model.flat_gradients)
        model.flat_gradients = gradient.astype(np.float32)
        return value

    monkeypatch.setattr(tw.Trainer, "backward", mutated)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("directions", [0, 3])
def test_the_right_gradient_passes_in_float64(seed, directions):
    report = tw.gradcheck(
        trained("float64", seed), X, Y, loss=nn.MSELoss(), directions=directions, seed=seed
    )
    assert report.passed, f"\n{report}"
    # Truncation alone was up to 5e-4.
    assert report.norm_rel_error < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_the_right_gradient_never_fails_in_float32(seed):
    report = tw.gradcheck(trained("float32", seed), X, Y, loss=nn.MSELoss())
    assert report.failed == report.unresolved, f"\n{report}"
    for block in report.blocks:
        assert (block.verdict == "unresolved in float32") == (block.float32_error > 1e-2)
    assert ("astype" in str(report)) == (not report.passed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("mistake", "blocks"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_fails_in_float64(mistake, blocks, seed, monkeypatch):
    model = trained("float64", seed)
    of_core(monkeypatch, model, mistake)
    report = tw.gradcheck(model, X[::5], Y[::5], loss=nn.MSELoss())
    assert set(report.failed) == blocks, f"\n{report}"
    assert not report.unresolved


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("mistake", "blocks"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_float32_alone_fails_though_rounding_would_hide_it(
    mistake, blocks, seed, monkeypatch
):
    of_float32(monkeypatch, mistake)
    report = tw.gradcheck(trained("float32", seed), X[::5], Y[::5], loss=nn.MSELoss())
    wrong = {block.name for block in report.blocks if block.verdict == "FAILED in float32"}
    assert wrong == blocks, f"\n{report}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_of_a_sine_network_pass_in_float32(order, seed):
    """Its float32 gradients err as much as PyTorch's, by up to 5e-6 before any training."""

    def loss(u, *given):
        *derivatives, y = given
        residual = derivatives[-1][0] - y
        slope = 2 * residual / residual.size
        return np.mean(residual**2), (None,) * order + (slope[np.newaxis],)

    model = nn.Sequential(
        nn.Linear(1, 20, init="siren_first"), nn.Sine(), nn.Linear(20, 20, init="siren"),
        nn.Sine(), nn.Linear(20, 1, init="siren"), seed=seed,
    )  # fmt: skip
    report = tw.gradcheck(model, X[::4], Y[::4], loss=nn.DerivativeLoss(loss, order=order))
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_classifier_that_is_certain_never_fails(seed, rng):
    """Its gradient is p - 1, of a p that is nearly 1."""
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 4), seed=seed)
    x, y = rng.standard_normal((30, 20)), rng.integers(0, 4, 30)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(1e-2))
    trainer.fit(x, y, epochs=1000, batch_size=None)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    assert report.failed == report.unresolved, f"\n{report}"
    assert report.float32_error > 1e-4


@pytest.mark.parametrize("root", [np.sqrt, np.vectorize(math.sqrt)], ids=["nan", "error"])
def test_a_function_that_ends_within_four_steps_is_checked(root):
    """Its truncation is not known then, but no error or warning of its own ends the check."""
    theta = np.full(2, 3.5e-6)
    for factor, verdict in ((0.5, "unresolved"), (50, "FAILED")):
        report = tw.check_gradient(
            lambda t: root(t).sum(), lambda t, c=factor: c / np.sqrt(t), theta, h=1e-6
        )
        assert report.blocks[0].verdict == verdict, f"\n{report}"
