"""Optimizers beside their peers: the same steps for the same gradients, to the last digits.

Every run takes 200 steps, changes the learning rate on the way, and goes on from a saved state.
What PyTorch and Optax compute in float64 is the reference, for float32 too; without them those
tests are skipped. Keras is compared with the formulas of its manual, written out here.
"""

import copy
import importlib.util
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

STEPS, SAVED, CHANGED = 200, 90, 130
FACTOR = 0.3  # of the learning rate from step CHANGED on
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def name(value):
    return repr(value) if isinstance(value, dict) else getattr(value, "__name__", None)


def make(dtype="float64"):
    """70 parameters: whole vectors and remainders on every instruction set."""
    layers = [nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)]
    return nn.Sequential(*layers, dtype=dtype, seed=1)


def gradients(rng):
    """Some small, some large, some that change slowly, in numbers that float32 has."""
    size = make().num_parameters
    scale = 10.0 ** rng.uniform(-3, 2, size)
    drift = np.sin(np.arange(STEPS)[:, np.newaxis] / 20 + np.arange(size))
    noise = rng.standard_normal((STEPS, size))
    return (scale * (noise + drift)).astype(np.float32).astype(float)


def our_path(kind, options, dtype, g):
    """Parameters before the first step and after each."""
    model, optimizer = make(dtype), kind(**options)
    model.flat_parameters = make("float32").flat_parameters
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


def blocks(flat):
    """Cut into arrays as the network does."""
    parts, start = [], 0
    for array in make().state_dict().values():
        parts.append(flat[start : start + array.size].reshape(array.shape))
        start += array.size
    return parts


def assert_same_path(path, expected, dtype):
    assert np.abs(expected[-1] - expected[0]).max() > 0  # something moved
    error = np.linalg.norm(path - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() <= TOLERANCE[dtype], f"step {error.argmax()}: {error.max():.1e}"


# --- PyTorch -----------------------------------------------------------------------------------

# Options are given to both as they are: names and defaults must be the same, too.
TORCH = [
    (optim.SGD, {}),
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.9, "weight_decay": 0.1}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adagrad, {}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.1}),
    (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 0.1}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"alpha": 0.9, "eps": 1e-2, "weight_decay": 0.1}),
    (optim.RMSprop, {"momentum": 0.9}),
    (optim.RMSprop, {"centered": True}),
    (optim.RMSprop, {"centered": True, "momentum": 0.5, "eps": 1e-2, "weight_decay": 0.1}),
    (optim.Adadelta, {}),
    (optim.Adadelta, {"lr": 0.5, "rho": 0.95, "eps": 1e-3, "weight_decay": 0.1}),
    (optim.Adam, {}),
    (optim.Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1}),
    (optim.Adam, {"amsgrad": True}),
    (optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "amsgrad": True, "weight_decay": 0.1}),
    (optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.AdamW, {}),
    (optim.AdamW, {"lr": 0.005, "betas": (0.5, 0.9), "weight_decay": 0.3, "amsgrad": True}),
    (optim.NAdam, {}),
    (optim.NAdam, {"betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1, "momentum_decay": 0.1}),
    (optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-2}),
    (optim.RAdam, {}),
    (optim.RAdam, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-2}),
    (optim.RAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.RAdam, {"betas": (0.9, 0.5)}),  # never rectified
    (optim.Adamax, {}),
    (optim.Adamax, {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1}),
    (optim.Rprop, {}),
    (optim.Rprop, {"lr": 0.05, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.1)}),
    (optim.Adafactor, {}),
    (optim.Adafactor, {"lr": 0.2, "weight_decay": 0.1}),
    (optim.Adafactor, {"lr": 0.2, "beta2_decay": -0.5, "eps": (0.1, 0.5), "d": 1.5}),
]


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of momenta in this
    yield torch
    torch.set_default_dtype(before)


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


@pytest.mark.parametrize(("kind", "options"), TORCH, ids=name)
def test_pytorch_in_a_network(kind, options, torch, rng):
    """Fused into the step of a trainer.

    With larger rates or a smaller eps than those above some of these trainings are chaotic: in
    PyTorch alone, a rounding of the first weights grows to more than the tolerance.
    """
    model = make()
    twin = torch.nn.Sequential(
        torch.nn.Linear(9, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4, bias=False)
    )
    twin.load_state_dict({key: torch.tensor(value) for key, value in model.state_dict().items()})
    optimizer = kind(**options)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    peer = getattr(torch.optim, kind.__name__)(twin.parameters(), **options)
    x, y = rng.standard_normal((24, 9)), rng.standard_normal((24, 4))
    path, expected = [], []
    for t in range(STEPS):
        if t == SAVED:
            model, state = copy.deepcopy(model), optimizer.state_dict()
            optimizer = kind(**options)
            optimizer.load_state_dict(state, model)
            trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
        if t == CHANGED:
            optimizer.lr *= FACTOR
            peer.param_groups[0]["lr"] *= FACTOR
        trainer.step(x, y)
        peer.zero_grad()
        torch.nn.functional.mse_loss(twin(torch.tensor(x)), torch.tensor(y)).backward()
        peer.step()
        path.append(model.flat_parameters)
        expected.append(torch.cat([p.detach().ravel() for p in twin.parameters()]).numpy())
    assert_same_path(np.array(path), np.array(expected), "float64")


# --- Optax -------------------------------------------------------------------------------------


def decayed(optax, weight_decay, rest):
    """Weight decay added to the gradient."""
    return optax.chain(optax.add_decayed_weights(weight_decay), rest)


def adafactor(o, lr, min_dim=128, weight_decay=None, tau=0.8, d=1.0, eps=1e-30):
    """``optax.adafactor``, but for the decay rate, which that computes in float32 always."""
    from optax._src import factorized

    scale = factorized.scale_by_factored_rms(
        True, tau, 0, min_dim, eps, decay_rate_fn=lambda t, power: 1 - (t + 1.0) ** -power
    )
    steps = [scale, o.clip_by_block_rms(d), o.scale_by_learning_rate(lr, flip_sign=False)]
    steps.append(o.scale_by_param_block_rms())
    if weight_decay is not None:
        steps.append(o.add_decayed_weights(weight_decay))
    return o.chain(*steps, o.scale(-1))


def muon(o, lr, adam_weight_decay, **options):
    """Weights as (out, in)."""
    import jax

    wide = o.contrib.MuonDimensionNumbers(1, 0)

    def dimensions(params):
        return jax.tree.map(lambda p: wide if p.ndim == 2 else None, params)

    options["muon_weight_dimension_numbers"] = dimensions
    return o.contrib.muon(lr, adam_weight_decay=adam_weight_decay, **options)


# Ours; Optax' own, given the module and the learning rate. Options that are missing are defaults.
OPTAX = [
    (optim.SGD, {"lr": 0.05}, lambda o, lr: o.sgd(lr)),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9}, lambda o, lr: o.sgd(lr, 0.9)),
    (
        optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.sgd(lr, 0.9, nesterov=True)),
    ),
    (optim.Adagrad, {"lr": 0.1}, lambda o, lr: o.adagrad(lr)),
    (
        optim.Adagrad,
        {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 0.1, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.adagrad(lr, 0.5, 0.1)),
    ),
    (optim.RMSprop, {"lr": 0.01}, lambda o, lr: o.rmsprop(lr)),
    (
        optim.RMSprop,
        {"lr": 0.01, "alpha": 0.95, "eps": 1e-2, "momentum": 0.9},
        lambda o, lr: o.rmsprop(lr, 0.95, 1e-2, momentum=0.9),
    ),
    (
        optim.RMSprop,
        {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-4},
        lambda o, lr: o.rmsprop(lr, eps=1e-4, centered=True, momentum=0.5),
    ),
    (optim.Adadelta, {"lr": 0.5}, lambda o, lr: o.adadelta(lr)),
    (
        optim.Adadelta,
        {"lr": 1, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
        lambda o, lr: o.adadelta(lr, 0.8, 1e-3, 0.1),
    ),
    (optim.Adam, {"lr": 0.01}, lambda o, lr: o.adam(lr)),
    (optim.Adam, {"lr": 0.01, "amsgrad": True}, lambda o, lr: o.amsgrad(lr)),
    (
        optim.Adam,
        {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-2, "amsgrad": True, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.amsgrad(lr, 0.5, 0.9, 1e-2)),
    ),
    (optim.AdamW, {"lr": 0.01}, lambda o, lr: o.adamw(lr)),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.3}, lambda o, lr: o.adamw(lr, weight_decay=0.3)),
    (optim.NAdam, {"lr": 0.01}, lambda o, lr: o.nadam(lr)),
    (
        optim.NAdam,
        {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.3, "decoupled_weight_decay": True},
        lambda o, lr: o.nadamw(lr, 0.5, 0.9, weight_decay=0.3),
    ),
    (optim.RAdam, {"lr": 0.01}, lambda o, lr: o.radam(lr)),
    (
        optim.RAdam,
        {"lr": 0.01, "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.radam(lr, 0.5, 0.9, 0.1)),
    ),
    (optim.Adamax, {"lr": 0.01}, lambda o, lr: o.adamax(lr)),
    (
        optim.Adamax,
        {"lr": 0.01, "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.adamax(lr, 0.5, 0.9, 0.1)),
    ),
    (optim.Lion, {"lr": 0.01}, lambda o, lr: o.lion(lr, weight_decay=0)),
    (
        optim.Lion,
        {"lr": 0.01, "betas": (0.5, 0.8), "weight_decay": 0.3},
        lambda o, lr: o.lion(lr, 0.5, 0.8, weight_decay=0.3),
    ),
    (optim.LAMB, {"lr": 0.01}, lambda o, lr: o.lamb(lr, weight_decay=0.01)),
    (
        optim.LAMB,
        {"lr": 0.03, "betas": (0.5, 0.8), "eps": 0.1, "weight_decay": 0.3},
        lambda o, lr: o.lamb(lr, 0.5, 0.8, 0.1, weight_decay=0.3),
    ),
    (optim.Adafactor, {"lr": 0.005}, lambda o, lr: adafactor(o, lr)),
    (
        optim.Adafactor,
        {"lr": 0.005, "min_dim_size_to_factor": 1},
        lambda o, lr: adafactor(o, lr, 1),
    ),
    (
        optim.Adafactor,
        {
            "lr": 0.005,
            "beta2_decay": -0.5,
            "eps": (1e-4, 1e-3),
            "d": 2,
            "weight_decay": 1e-3,
            "min_dim_size_to_factor": 5,
        },
        lambda o, lr: adafactor(o, lr, 5, 1e-3, 0.5, 2, 1e-4),
    ),
    (
        optim.Muon,
        {"lr": 0.001, "matrices": "all", "adam_betas": (0.9, 0.999), "eps": 1e-8},
        lambda o, lr: muon(o, lr, 0.1, weight_decay=0.1),
    ),
    (
        optim.Muon,
        {
            "lr": 0.01,
            "matrices": "all",
            "momentum": 0.8,
            "nesterov": False,
            "weight_decay": 0.0,
            "adjust_lr_fn": "match_rms_adamw",
            "ns_coefficients": (2, -1.5, 0.5),
            "ns_steps": 4,
            "eps": 0.1,
            "adam_eps": 0.1,
            "adam_betas": (0.5, 0.9),
        },
        lambda o, lr: muon(
            o,
            lr,
            0.0,
            beta=0.8,
            nesterov=False,
            consistent_rms=0.2,
            ns_steps=4,
            eps=0.1,
            ns_coeffs=(2.0, -1.5, 0.5),
            adam_b1=0.5,
            adam_b2=0.9,
        ),
    ),
    (
        optim.ScheduleFreeAdamW,
        {"lr": 0.01},
        lambda o, lr: o.contrib.schedule_free_adamw(lr),
    ),
    (
        optim.ScheduleFreeAdamW,
        {"lr": 0.02, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.3, "weight_lr_power": 1},
        lambda o, lr: o.contrib.schedule_free_adamw(
            lr, b1=0.7, b2=0.9, eps=0.1, weight_decay=0.3, weight_lr_power=1
        ),
    ),
    (
        optim.Prodigy,
        {"lr": 0.2, "d0": 1e-3, "eps": 1e-2, "use_bias_correction": True},
        lambda o, lr: o.contrib.prodigy(lr, estim_lr0=1e-3, eps=1e-2),
    ),
    (
        optim.Prodigy,
        {
            "lr": 0.1,
            "betas": (0.8, 0.95),
            "beta3": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "d0": 1e-4,
            "d_coef": 1.5,
            "use_bias_correction": True,
            "safeguard_warmup": True,
        },
        lambda o, lr: o.contrib.prodigy(lr, (0.8, 0.95), 0.9, 1e-3, 1e-4, 1.5, 0.1, True),
    ),
    # The convention of AMSGrad's paper.
    (
        optim.Adam,
        {"lr": 0.001, "amsgrad": True, "convention": "textbook"},
        lambda o, lr: o.amsgrad(lr, bias_correction_mu=False, bias_correction_nu=False),
    ),
]


def net_gradients():
    """The gradient of a small net's loss, as a function of its parameters."""
    rng, model = np.random.default_rng(9), make()
    x, y = rng.standard_normal((24, 9)), rng.standard_normal((24, 4))

    def slope(theta):
        model.flat_parameters = theta
        model.zero_grad()
        model.backward(2 * (model.forward(x) - y) / y.size)
        return model.flat_gradients

    return slope, x, y


def optax_path(theirs, lr, theta, slope):
    """Parameters before the first step and after each; `slope` is of time and parameters."""
    import jax
    import optax

    peer = theirs(optax, lambda t: jax.numpy.where(t < CHANGED, lr, lr * FACTOR))
    path, theta = [theta], blocks(theta)
    state, update = peer.init(theta), jax.jit(peer.update)
    for t in range(STEPS):
        step, state = update(blocks(slope(t, path[-1])), state, theta)
        theta = optax.apply_updates(theta, step)
        path.append(np.concatenate([np.ravel(part) for part in theta]))
    return np.array(path)


@pytest.fixture(scope="module")
def optax():
    """Gradients, and Optax' paths under them and in a network for every row of the table.

    They are computed by this file run as a program, because no process that has JAX in it can fork,
    as other tests do.
    """
    if importlib.util.find_spec("optax") is None:
        pytest.skip("Optax is not installed")
    g = gradients(np.random.default_rng(5))
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    given = pickle.dumps((make("float32").flat_parameters.astype(float), g))
    run = [sys.executable, __file__]
    done = subprocess.run(run, input=given, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return g, *pickle.loads(done.stdout)


@pytest.mark.parametrize("row", range(len(OPTAX)), ids=lambda i: f"{OPTAX[i][0].__name__}{i}")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_optax(row, dtype, optax):
    kind, options, _ = OPTAX[row]
    g, expected, _ = optax
    ours = {"convention": "optax", **options} if kind._conventions else options
    assert_same_path(our_path(kind, ours, dtype, g), expected[row], dtype)


# Those that PyTorch does not have, or not in this convention.
NEW = (optim.LAMB, optim.Adafactor, optim.Muon, optim.ScheduleFreeAdamW, optim.Prodigy)
WHOLE = [i for i, (kind, _, _) in enumerate(OPTAX) if kind in NEW]


@pytest.mark.parametrize("row", WHOLE, ids=lambda i: f"{OPTAX[i][0].__name__}{i}")
def test_optax_in_a_network(row, optax):
    """As part of a trainer, which is saved and loaded on the way."""
    kind, options, _ = OPTAX[row]
    ours = {"convention": "optax", **options} if kind._conventions else options
    model = make()
    model.flat_parameters = make("float32").flat_parameters
    trainer, path = tw.Trainer(model, loss=nn.MSELoss(), optimizer=kind(**ours)), []
    _, x, y = net_gradients()
    for t in range(STEPS):
        if t == SAVED:
            trainer = trainer.copy()
        if t == CHANGED:
            trainer.optimizer.lr *= FACTOR
        path.append(trainer.model.flat_parameters)
        trainer.step(x, y)
    path.append(trainer.model.flat_parameters)
    assert_same_path(np.array(path), optax[2][row], "float64")


# --- Keras -------------------------------------------------------------------------------------


class Keras:
    """The formulas of Keras' manual. `a`, `b`, `c` are what a method remembers."""

    a = b = c = 0.0
    product = 1.0

    def __init__(self, rule, lr, weight_decay=0.0, **options):
        self.rule, self.lr, self.weight_decay = rule, lr, weight_decay
        self.options = options

    def step(self, theta, g, t):
        theta = theta - theta * self.weight_decay * self.lr
        return theta + self.rule(self, g, t, **self.options)

    def average(self, g, t, betas):
        self.a = self.a + (g - self.a) * (1 - betas[0])
        self.b = self.b + (g**2 - self.b) * (1 - betas[1])
        return 1 - betas[0] ** t, 1 - betas[1] ** t

    def sgd(self, g, t, momentum=0.0, nesterov=False):
        self.a = momentum * self.a - self.lr * g
        return momentum * self.a - self.lr * g if nesterov else self.a

    def adagrad(self, g, t, initial_accumulator_value=0.1, eps=1e-7):
        self.a = (initial_accumulator_value if t == 1 else self.a) + g**2
        return -self.lr * g / np.sqrt(self.a + eps)

    def rmsprop(self, g, t, alpha=0.9, eps=1e-7, momentum=0.0, centered=False):
        self.a = alpha * self.a + (1 - alpha) * g**2
        self.b = alpha * self.b + (1 - alpha) * g
        variance = self.a - self.b**2 if centered else self.a
        self.c = momentum * self.c + self.lr * g / np.sqrt(variance + eps)
        return -self.c

    def adadelta(self, g, t, rho=0.95, eps=1e-7):
        self.a = rho * self.a + (1 - rho) * g**2
        delta = -np.sqrt(self.b + eps) * g / np.sqrt(self.a + eps)
        self.b = rho * self.b + (1 - rho) * delta**2
        return self.lr * delta

    def adam(self, g, t, betas=(0.9, 0.999), eps=1e-7, amsgrad=False):
        mean, square = self.average(g, t, betas)
        self.c = np.maximum(self.c, self.b)
        root = np.sqrt(self.c if amsgrad else self.b)
        return -self.lr * np.sqrt(square) / mean * self.a / (root + eps)

    def adamax(self, g, t, betas=(0.9, 0.999), eps=1e-7):
        self.a = self.a + (g - self.a) * (1 - betas[0])
        self.b = np.maximum(betas[1] * self.b, np.abs(g))
        return -self.lr * self.a / ((1 - betas[0] ** t) * (self.b + eps))

    def nadam(self, g, t, betas=(0.9, 0.999), eps=1e-7):
        _, square = self.average(g, t, betas)
        u, ahead = (betas[0] * (1 - 0.5 * 0.96**s) for s in (t, t + 1))
        self.product *= u
        mean = ahead * self.a / (1 - self.product * ahead) + (1 - u) * g / (1 - self.product)
        return -self.lr * mean / (np.sqrt(self.b / square) + eps)

    def lion(self, g, t, betas=(0.9, 0.99)):
        sign = np.sign(self.a * betas[0] + g * (1 - betas[0]))
        self.a = self.a * betas[1] + g * (1 - betas[1])
        return -self.lr * sign


KERAS = [
    (optim.SGD, Keras.sgd, {"lr": 0.05}),
    (optim.SGD, Keras.sgd, {"lr": 0.05, "weight_decay": 0.1}),
    (optim.SGD, Keras.sgd, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    (optim.SGD, Keras.sgd, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    (optim.Adagrad, Keras.adagrad, {"lr": 0.1}),
    (optim.Adagrad, Keras.adagrad, {"lr": 0.1, "initial_accumulator_value": 1, "eps": 0.1}),
    (optim.Adagrad, Keras.adagrad, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.RMSprop, Keras.rmsprop, {"lr": 0.01}),
    (optim.RMSprop, Keras.rmsprop, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    (optim.RMSprop, Keras.rmsprop, {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-4}),
    (optim.Adadelta, Keras.adadelta, {"lr": 0.5}),
    (optim.Adadelta, Keras.adadelta, {"lr": 1, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    (optim.Adam, Keras.adam, {"lr": 0.01}),
    (optim.Adam, Keras.adam, {"lr": 0.01, "eps": 0.1, "weight_decay": 0.1}),
    (optim.Adam, Keras.adam, {"lr": 0.01, "betas": (0.5, 0.9), "amsgrad": True}),
    (optim.AdamW, Keras.adam, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    (optim.NAdam, Keras.nadam, {"lr": 0.01}),
    (optim.NAdam, Keras.nadam, {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1}),
    (optim.Adamax, Keras.adamax, {"lr": 0.01}),
    (optim.Adamax, Keras.adamax, {"lr": 0.01, "eps": 0.1, "weight_decay": 0.1}),
    (optim.Lion, Keras.lion, {"lr": 0.01, "weight_decay": 0.1}),
]


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


if __name__ == "__main__":  # see the fixture `optax`
    start, slopes = pickle.load(sys.stdin.buffer)
    slope, _, _ = net_gradients()
    given = [
        optax_path(theirs, options["lr"], start, lambda t, _: slopes[t])
        for _, options, theirs in OPTAX
    ]
    nets = {
        row: optax_path(OPTAX[row][2], OPTAX[row][1]["lr"], start, lambda _, theta: slope(theta))
        for row in WHOLE
    }
    pickle.dump((given, nets), sys.stdout.buffer)
