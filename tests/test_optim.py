"""Optimizers against their formulas, written out in NumPy in float64, over 50 steps.

The references follow the docstrings and know nothing of the core. They are given the same
gradients, so what is compared is the optimizer alone.
"""

import copy
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim


def sgd(lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    """Gives the reference: a function of (theta, g, t) that keeps its own state."""
    buffer = None

    def step(theta, g, t):
        nonlocal buffer
        d = g + weight_decay * theta
        if momentum == 0:
            return theta - lr * d
        buffer = d if t == 1 else momentum * buffer + (1 - dampening) * d
        return theta - lr * (d + momentum * buffer if nesterov else buffer)

    return step


def adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    m = v = 0.0
    beta1, beta2 = betas

    def step(theta, g, t):
        nonlocal m, v
        if decoupled:
            theta = theta - lr * weight_decay * theta
        else:
            g = g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        return theta - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)

    return step


def adamw(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    return adam(lr, betas, eps, weight_decay, decoupled=True)


CASES = [
    (optim.SGD, sgd, {"lr": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.05}),
    (optim.SGD, sgd, {"lr": 0.05, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.05, "momentum": 0.9, "dampening": 0.9}),
    (optim.SGD, sgd, {"lr": 0.05, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    (optim.SGD, sgd, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"lr": 0.05, "weight_decay": 0.1}),
    (optim.Adam, adam, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 0.1}),
    (optim.Adam, adam, {"lr": 0.01, "betas": (0.0, 0.999)}),
    (optim.AdamW, adamw, {}),
    (optim.AdamW, adamw, {"lr": 0.05, "weight_decay": 0.3}),
    (optim.AdamW, adamw, {"lr": 0.01, "betas": (0.5, 0.0), "eps": 0.5, "weight_decay": 0.0}),
]


def name(value):
    return repr(value) if isinstance(value, dict) else getattr(value, "__name__", None)


def make(dtype="float64"):
    """67 and 33 columns: whole vectors and remainders on every instruction set."""
    return nn.Sequential(nn.Linear(67, 33), nn.Tanh(), nn.Linear(33, 5), dtype=dtype, seed=1)


@pytest.mark.parametrize(("kind", "reference", "options"), CASES, ids=name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fifty_steps_by_hand(kind, reference, options, dtype, rng):
    model, optimizer, step = make(dtype), kind(**options), reference(**options)
    theta = model.flat_parameters.astype(float)
    for t in range(1, 51):
        # Gradients that depend on the parameters, so that an error would grow.
        g = (np.sin(3 * theta) + rng.standard_normal(theta.size)).astype(dtype)
        model.flat_gradients = g
        optimizer.step(model)
        theta = step(theta, g.astype(float), t)
        np.testing.assert_array_equal(model.flat_gradients, g)  # a step leaves them alone
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(model.flat_parameters, theta, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("kind", "reference", "options"), CASES, ids=name)
def test_fifty_fused_steps(kind, reference, options, rng):
    """The step fused into backpropagation is the step by hand."""
    model, step = make(), reference(**options)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=kind(**options))
    shadow = make()  # gives the gradients at the reference's parameters
    theta = shadow.flat_parameters
    x, y = rng.standard_normal((20, 67)), rng.standard_normal((20, 5))
    for t in range(1, 51):
        shadow.flat_parameters = theta
        shadow.zero_grad()
        shadow.backward(2 * (shadow.forward(x) - y) / y.size)
        trainer.step(x, y)
        theta = step(theta, shadow.flat_gradients, t)
    # Adam divides by the square root of tiny squares at first, which magnifies rounding.
    np.testing.assert_allclose(model.flat_parameters, theta, rtol=0, atol=1e-10)


def test_the_first_step_of_adam_is_the_sign_of_the_gradient(rng):
    model = make()
    before, g = model.flat_parameters, rng.standard_normal(model.num_parameters)
    model.flat_gradients = g
    optim.Adam(lr=0.25, eps=0.0).step(model)
    np.testing.assert_allclose(model.flat_parameters - before, -0.25 * np.sign(g), atol=1e-14)


def test_a_gradient_of_zero_moves_nothing_without_decay():
    for optimizer in (
        optim.SGD(lr=1, momentum=0.9),
        optim.Adam(lr=1),
        optim.AdamW(1, weight_decay=0),
    ):
        model = make()
        before = model.flat_parameters
        optimizer.step(model)
        np.testing.assert_array_equal(model.flat_parameters, before)


@pytest.mark.parametrize(("kind", "reference", "options"), CASES, ids=name)
def test_a_saved_state_continues_with_the_same_bits(kind, reference, options, rng):
    def run(model, optimizer, steps):
        for g in steps:
            model.flat_gradients = g
            optimizer.step(model)

    gradients = rng.standard_normal((20, make().num_parameters))
    whole, optimizer = make(), kind(**options)
    run(whole, optimizer, gradients)

    half, first = make(), kind(**options)
    run(half, first, gradients[:10])
    model = copy.deepcopy(half)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = kind(**options)
    second.load_state_dict(state, model)
    assert second.state_dict()["steps"] == 10
    run(model, second, gradients[10:])
    np.testing.assert_array_equal(model.flat_parameters, whole.flat_parameters)


def test_the_state_is_named_as_in_pytorch(rng):
    for optimizer, names in [
        (optim.SGD(lr=0.1), set()),
        (optim.SGD(lr=0.1, momentum=0.9), {"momentum_buffer"}),
        (optim.Adam(), {"exp_avg", "exp_avg_sq"}),
        (optim.AdamW(), {"exp_avg", "exp_avg_sq"}),
    ]:
        model = make()
        model.flat_gradients = np.ones(model.num_parameters)
        optimizer.step(model)
        state = optimizer.state_dict()
        assert state["steps"] == 1
        assert set(state["arrays"]) == names
        for array in state["arrays"].values():
            assert array.shape == (model.num_parameters,)
    np.testing.assert_allclose(state["arrays"]["exp_avg"], 0.1, rtol=1e-14)
    np.testing.assert_allclose(state["arrays"]["exp_avg_sq"], 0.001, rtol=1e-12)


def test_the_learning_rate_can_be_read_set_and_saved():
    optimizer = optim.AdamW(lr=0.5)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    model = make()
    model.flat_gradients = np.ones(model.num_parameters)
    before = model.flat_parameters
    optimizer.step(model)
    np.testing.assert_allclose(
        model.flat_parameters, before * (1 - 0.25 * 0.01) - 0.25, rtol=0, atol=1e-7
    )
    assert "lr=0.25" in repr(optimizer)
    other = optim.AdamW(lr=0.5)
    other.load_state_dict(optimizer.state_dict(), copy.deepcopy(model))
    assert other.lr == 0.25


def test_the_representation_is_what_one_would_type():
    for optimizer in (
        optim.SGD(0.1, 0.9, nesterov=True),
        optim.Adam(),
        optim.AdamW(betas=(0.5, 0)),
    ):
        assert repr(eval(repr(optimizer), vars(optim).copy())) == repr(optimizer)
    assert repr(optim.Adam()) == "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)"


def test_an_optimizer_is_not_copied_without_its_model():
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="state_dict"):
            duplicate(optim.Adam())
