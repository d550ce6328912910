"""The gradient checker must fail, in the right block, what is not right.

The mutations below are mistakes that people make. Each is built into a small network written in
NumPy, and each must fail; a checker that passed one of them would be worthless.
"""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn


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


def softmax_loss(mistake):
    """Cross-entropy as users write it, with a mistake; the network is the core's."""

    def loss(output, labels):
        n = len(output)
        p = np.exp(output - output.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        target = np.eye(output.shape[1])[labels]
        slope = (p - target) / n
        if mistake == "without its cross terms":
            slope = slope * target
        if mistake == "without 1/N":
            slope = slope * n
        if mistake == "last rows dropped":
            slope[-2:] = 0
        return float(-np.log((p * target).sum(axis=1)).mean()), slope

    return loss


@pytest.mark.parametrize("directions", [0, 3])
@pytest.mark.parametrize(
    "mistake", [None, "without its cross terms", "without 1/N", "last rows dropped"]
)
def test_a_mistake_in_a_loss_of_one_s_own_fails_in_every_block(mistake, directions, blobs):
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3), dtype="float64", seed=4
    )
    loss = softmax_loss(mistake)
    report = tw.gradcheck(model, blobs.x[:20], blobs.y[:20], loss=loss, directions=directions)
    # A bias before BatchNorm1d moves nothing: its gradient is 0, whatever comes back.
    wrong = ("0.weight", "1.weight", "1.bias", "3.weight", "3.bias")
    assert report.failed == (() if mistake is None else wrong), f"\n{report}"


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
