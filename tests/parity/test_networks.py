"""The same network to train for ours and for a peer's."""

import numpy as np
import pytest

from thalweg import optim

from .keras import KERAS, Keras
from .runs import (
    FOR_TORCH,
    assert_same_path,
    data,
    jolt,
    our_network_path,
    slope_of_network,
    start,
)
from .tables import CHANGED, CHAOTIC, FACTOR, OPTAX, STEPS, TORCH, blocks

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


@pytest.mark.parametrize("row", range(len(TORCH)), ids=lambda i: f"{TORCH[i][0].__name__}{i}")
@DTYPES
def test_pytorch(row, dtype, torch):
    """PyTorch computes its own gradients, in float64."""
    kind, options = TORCH[row]
    x, y = (torch.tensor(part) for part in data(FOR_TORCH))

    def run(disturb=lambda theta: theta):
        twin = torch.nn.Sequential(
            torch.nn.Linear(9, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4, bias=False)
        )
        peer = getattr(torch.optim, kind.__name__)(twin.parameters(), **options)

        def put(theta):
            with torch.no_grad():
                for parameter, values in zip(twin.parameters(), blocks(theta), strict=True):
                    parameter.copy_(torch.tensor(values))

        path = [start()]
        put(path[0])
        for t in range(STEPS):
            if t == CHANGED:
                peer.param_groups[0]["lr"] *= FACTOR
            peer.zero_grad()
            torch.nn.functional.mse_loss(twin(x), y).backward()
            peer.step()
            flat = torch.cat([p.detach().ravel() for p in twin.parameters()]).numpy()
            path.append(disturb(flat))
            put(path[-1])
        return np.array(path)

    jolted = ()
    if dtype in CHAOTIC["torch"].get(row, ()):
        jolted = [run(jolter(seed, dtype)) for seed in range(3)]
    path = our_network_path(kind, options, dtype, FOR_TORCH)
    assert_same_path(path, run(), dtype, jolted)


def jolter(seed, dtype):
    rng = np.random.default_rng(seed)
    return lambda theta: jolt(theta, rng, dtype)


@pytest.mark.parametrize("row", range(len(OPTAX)), ids=lambda i: f"{OPTAX[i][0].__name__}{i}")
@DTYPES
def test_optax(row, dtype, optax):
    kind, options, _ = OPTAX[row]
    _, expected, jolted = optax[1][row]
    ours = {"convention": "optax", **options} if kind._conventions else options
    path = our_network_path(kind, ours, dtype)
    assert_same_path(path, expected, dtype, jolted.get(dtype, ()))


@pytest.mark.parametrize("row", range(len(KERAS)), ids=lambda i: f"{KERAS[i][0].__name__}{i}")
@DTYPES
def test_keras(row, dtype):
    kind, rule, options = KERAS[row]
    slope = slope_of_network()

    def run(disturb=lambda theta: theta):
        peer, path = Keras(rule, **options), [start()]
        for t in range(STEPS):
            if t == CHANGED:
                peer.lr *= FACTOR
            path.append(disturb(peer.step(path[-1], slope(path[-1]), t + 1)))
        return np.array(path)

    jolted = ()
    if dtype in CHAOTIC["keras"].get(row, ()):
        jolted = [run(jolter(seed, dtype)) for seed in range(3)]
    ours = options if kind is optim.Lion else {"convention": "keras", **options}
    assert_same_path(our_network_path(kind, ours, dtype), run(), dtype, jolted)
