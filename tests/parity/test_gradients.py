"""The same gradients for ours and for a peer's."""

import numpy as np
import pytest

from thalweg import optim

from ..helpers import kinds_in
from .keras import KERAS, Keras
from .runs import assert_same_path, gradients, our_path
from .tables import CHANGED, FACTOR, OPTAX, STEPS, TORCH, blocks, name

#: Optimizers that no peer here has, or that evaluate the loss themselves, and where else they are
#: compared with a formula or a peer.
ELSEWHERE = {
    optim.Shampoo: "test_optim_whole.py, its published formula",
    optim.SAM: "test_sam.py, its formula",
    optim.LBFGS: "test_full_batch.py, PyTorch",
    optim.LevenbergMarquardt: "test_full_batch.py, SciPy",
}


def test_every_optimizer_is_here_or_compared_elsewhere():
    compared = {kind for kind, *_ in (*TORCH, *OPTAX)}
    assert not compared & ELSEWHERE.keys()
    assert compared | ELSEWHERE.keys() == kinds_in(optim, optim.Optimizer)


@pytest.mark.parametrize(("kind", "options"), TORCH, ids=name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pytorch(kind, options, dtype, torch, rng):
    g = gradients(rng)
    path = our_path(kind, options, dtype, g)
    theta = [torch.tensor(part, requires_grad=True) for part in blocks(path[0])]
    peer = getattr(torch.optim, kind.__name__)(theta, **options)
    expected = [path[0]]
    for t in range(STEPS):
        if t == CHANGED:
            peer.param_groups[0]["lr"] *= FACTOR
        for part, slope in zip(theta, blocks(g[t]), strict=True):
            part.grad = torch.tensor(slope)
        peer.step()
        expected.append(torch.cat([part.detach().ravel() for part in theta]).numpy())
    assert_same_path(path, np.array(expected), dtype)


@pytest.mark.parametrize("row", range(len(OPTAX)), ids=lambda i: f"{OPTAX[i][0].__name__}{i}")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_optax(row, dtype, optax):
    kind, options, _ = OPTAX[row]
    g, found = optax
    ours = {"convention": "optax", **options} if kind._conventions else options
    assert_same_path(our_path(kind, ours, dtype, g), found[row][0], dtype)


@pytest.mark.parametrize(("kind", "rule", "options"), KERAS, ids=name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_keras(kind, rule, options, dtype, rng):
    g = gradients(rng)
    ours = options if kind is optim.Lion else {"convention": "keras", **options}
    path = our_path(kind, ours, dtype, g)
    peer, expected = Keras(rule, **options), [path[0]]
    for t in range(STEPS):
        if t == CHANGED:
            peer.lr *= FACTOR
        expected.append(peer.step(expected[-1], g[t], t + 1))
    assert_same_path(path, np.array(expected), dtype)


def test_the_conventions_differ(rng):
    """As far as this: conventions that are not told apart here would be tested in vain above."""
    g = gradients(rng)

    def distance(kind, options, *conventions):
        paths = [our_path(kind, {**options, "convention": c}, "float64", g) for c in conventions]
        start = paths[0][0]
        return np.linalg.norm(paths[0] - paths[1]) / np.linalg.norm(paths[0] - start)

    momentum = {"lr": 0.05, "momentum": 0.9}
    assert distance(optim.SGD, momentum, "torch", "keras") > 1e-3  # once lr has changed
    assert distance(optim.SGD, momentum, "torch", "optax") == 0
    assert distance(optim.SGD, momentum, "textbook", "keras") == 0
    assert distance(optim.SGD, {**momentum, "weight_decay": 0.1}, "textbook", "keras") > 1e-4
    assert distance(optim.SGD, momentum, "torch", "ema") > 0.5
    assert distance(optim.Adagrad, {}, "torch", "optax") > 1e-3
    assert distance(optim.RMSprop, {"alpha": 0.9, "eps": 1e-2}, "torch", "optax") > 1e-2
    assert distance(optim.Adam, {"amsgrad": True}, "torch", "optax") > 1e-2
    assert distance(optim.Adam, {"amsgrad": True}, "torch", "textbook") > 1e-2
    assert distance(optim.Adam, {"eps": 1e-3}, "torch", "keras") > 1e-3
    assert distance(optim.NAdam, {}, "torch", "optax") > 1e-2
    assert distance(optim.NAdam, {}, "torch", "keras") > 1e-2
    assert distance(optim.RAdam, {"eps": 1e-3}, "torch", "optax") > 1e-4
    assert distance(optim.Adamax, {"eps": 1e-3}, "torch", "keras") > 1e-6
