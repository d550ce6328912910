"""What is run: our optimizers on given gradients and in a network, and how runs are compared."""

import copy
import pickle

import numpy as np

import thalweg as tw
from thalweg import nn

from .tables import CHANGED, FACTOR, SAVED, STEPS, TOLERANCE, make


def gradients(rng):
    """Some small, some large, some that change slowly, in numbers that float32 has."""
    size = make().num_parameters
    scale = 10.0 ** rng.uniform(-3, 2, size)
    drift = np.sin(np.arange(STEPS)[:, np.newaxis] / 20 + np.arange(size))
    noise = rng.standard_normal((STEPS, size))
    return (scale * (noise + drift)).astype(np.float32).astype(float)


def start():
    """Parameters that float32 has."""
    return make("float32").flat_parameters.astype(float)


def our_path(kind, options, dtype, g):
    """Parameters before the first step and after each."""
    model, optimizer = make(dtype), kind(**options)
    model.flat_parameters = start()
    path = [model.flat_parameters]
    for t in range(STEPS):
        if t == SAVED:
            state = pickle.loads(pickle.dumps(optimizer.state_dict()))
            model, optimizer = copy.deepcopy(model), kind(**options)
            optimizer.load_state_dict(state, model)
        if t == CHANGED:
            optimizer.lr *= FACTOR
        model.flat_gradients = g[t].astype(dtype)
        optimizer.step(model)
        path.append(model.flat_parameters)
    return np.array(path, float)


#: Of the batches for the network: with this one, nearly no run of PyTorch's is chaotic.
FOR_TORCH, FOR_OTHERS = 20240229, 9


def data(seed=FOR_OTHERS):
    """A batch for the network, in numbers that float32 has."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((24, 9)), rng.standard_normal((24, 4))
    return x.astype(np.float32).astype(float), y.astype(np.float32).astype(float)


def our_network_path(kind, options, dtype, seed=FOR_OTHERS):
    """The same, fused into the steps of a trainer, which is saved and loaded on the way."""
    model = make(dtype)
    model.flat_parameters = start()
    x, y = (part.astype(dtype) for part in data(seed))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=kind(**options))
    path = [model.flat_parameters]
    for t in range(STEPS):
        if t == SAVED:
            trainer = trainer.copy()
        if t == CHANGED:
            trainer.optimizer.lr *= FACTOR
        trainer.step(x, y)
        path.append(trainer.model.flat_parameters)
    return np.array(path, float)


def slope_of_network():
    """The gradient of the network's loss, in float64, as a function of its parameters."""
    model, (x, y) = make(), data()

    def slope(theta):
        model.flat_parameters = theta
        model.zero_grad()
        model.backward(2 * (model.forward(x) - y) / y.size)
        return model.flat_gradients

    return slope


def jolt(theta, rng, dtype):
    """Every number one unit in the last place of a dtype up or down, by chance."""
    ulp = np.spacing(np.abs(theta).astype(dtype)).astype(float)
    return theta + rng.choice([-1, 1], theta.size) * ulp


#: A path that rounding errors drive apart may be so many times as far from its reference as that is
#: from itself, when its parameters are moved by one unit in the last place in each step.
CHAOS = 4


def distance(path, expected):
    """Of each step, relative to where it should be."""
    return np.linalg.norm(path - expected, axis=1) / np.linalg.norm(expected, axis=1)


def assert_same_path(path, expected, dtype, jolted=()):
    """To the tolerance of the dtype.

    `jolted` is for trainings that are chaotic, and must show that they are: paths of the
    reference that steps moved by one unit in the last place led so far astray that `CHAOS` times as
    much is more than the tolerance.
    """
    assert np.abs(expected[-1] - expected[0]).max() > 0  # something moved
    tolerance = TOLERANCE[dtype]
    if len(jolted):
        astray = max(distance(other, expected).max() for other in jolted)
        assert CHAOS * astray > tolerance, f"not chaotic: the reference is off by {astray:.1e}"
        tolerance = CHAOS * astray
    error = distance(path, expected)
    assert error.max() <= tolerance, f"step {error.argmax()}: {error.max():.1e}"
