"""Optimizers against closed forms, and SGD and Adam against formulas written out in NumPy.

The references follow the docstrings and know nothing of the core. They are given the same
gradients, so what is compared is the optimizer alone. All others are compared with their peers in
`parity`, and with plain formulas in the core's own tests.
"""

import copy
import pickle
from typing import get_args, get_type_hints

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import kinds_in, squares


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


# Every method, with all of its state.
ALL = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "convention": "keras"}),
    (optim.Adagrad, {}),
    (optim.Adagrad, {"convention": "optax"}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"momentum": 0.9, "centered": True, "convention": "keras"}),
    (optim.RMSprop, {"centered": True}),
    (optim.Adadelta, {}),
    (optim.Adam, {}),
    (optim.Adam, {"amsgrad": True, "convention": "optax"}),
    (optim.AdamW, {"weight_decay": 0.0}),
    (optim.NAdam, {}),
    (optim.RAdam, {}),
    (optim.Adamax, {}),
    (optim.Lion, {}),
    (optim.Rprop, {}),
    (optim.LAMB, {"weight_decay": 0.0}),
    (optim.Adafactor, {}),
    (optim.Adafactor, {"convention": "optax", "min_dim_size_to_factor": 5}),
    (optim.Muon, {"matrices": "all", "weight_decay": 0.0}),
    (optim.Shampoo, {}),
    (optim.Shampoo, {"grafting": "adam", "precondition_frequency": 3}),
    (optim.ScheduleFreeAdamW, {}),
    (optim.Prodigy, {}),
]
EVERY = pytest.mark.parametrize(("kind", "options"), ALL, ids=name)


def test_every_method_is_here():
    """But for those that evaluate the loss themselves: test_full_batch.py and test_sam.py."""
    others = {optim.LBFGS, optim.LevenbergMarquardt, optim.SAM}
    assert {kind for kind, _ in ALL} | others == kinds_in(optim, optim.Optimizer)


@EVERY
def test_a_gradient_of_zero_moves_nothing_without_decay(kind, options):
    model, optimizer = make(), kind(**options)
    before = model.flat_parameters
    optimizer.step(model)
    optimizer.step(model)
    np.testing.assert_array_equal(model.flat_parameters, before)


@EVERY
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_without_eps_nothing_is_divided_by_zero(kind, options, dtype, rng):
    """Neither where a parameter has no gradient nor in the gaps between blocks of parameters."""
    eps = {"eps": (0.0, 0.0) if kind is optim.Adafactor else 0.0} if "eps" in repr(kind()) else {}
    model = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 3), dtype=dtype, seed=0)
    model.flat_parameters = np.where(np.arange(model.num_parameters) < 5, -1, model.flat_parameters)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=kind(**{**options, **eps}))
    trainer.optimizer.lr /= 10
    x = np.abs(rng.standard_normal((40, 5)))  # the first unit is never active
    trainer.fit(x, rng.integers(0, 3, 40), epochs=3, batch_size=8)
    assert np.isfinite(model.flat_parameters).all()


@EVERY
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_saved_state_continues_with_the_same_bits(kind, options, dtype, rng):
    def run(model, optimizer, steps):
        for g in steps:
            model.flat_gradients = g
            optimizer.step(model)

    gradients = rng.standard_normal((20, make().num_parameters))
    whole, optimizer = make(dtype), kind(**options)
    run(whole, optimizer, gradients)

    half, first = make(dtype), kind(**options)
    run(half, first, gradients[:10])
    model = copy.deepcopy(half)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = kind(**options)
    second.load_state_dict(state, model)
    assert second.state_dict()["steps"] == 10
    run(model, second, gradients[10:])
    np.testing.assert_array_equal(model.flat_parameters, whole.flat_parameters)


@EVERY
def test_a_state_from_before_the_first_step_is_one_too(kind, options, rng):
    saved = kind(**options)
    saved.lr *= 2
    one, two, g = make(), make(), rng.standard_normal(make().num_parameters)
    loaded = kind(**options)
    loaded.load_state_dict(saved.state_dict(), two)
    for model, optimizer in [(one, saved), (two, loaded)]:
        model.flat_gradients = g
        optimizer.step(model)
    np.testing.assert_array_equal(one.flat_parameters, two.flat_parameters)


def test_the_state_is_named_as_in_pytorch(rng):
    adam = {"exp_avg", "exp_avg_sq"}
    scalars = {
        optim.NAdam: {"mu_product"},
        optim.ScheduleFreeAdamW: {"lr_max", "weight_sum"},
        optim.Prodigy: {"d", "d_numerator"},
    }
    of_blocks = {"row_var", "col_var", "variance", "factors", "roots"}
    for optimizer, names in [
        (optim.SGD(lr=0.1), set()),
        (optim.SGD(lr=0.1, momentum=0.9), {"momentum_buffer"}),
        (optim.Adagrad(), {"sum"}),
        (optim.RMSprop(), {"square_avg"}),
        (optim.RMSprop(centered=True), {"square_avg", "grad_avg"}),
        (optim.RMSprop(momentum=0.1), {"square_avg", "momentum_buffer"}),
        (optim.Adadelta(), {"square_avg", "acc_delta"}),
        (optim.Adam(amsgrad=True), {*adam, "max_exp_avg_sq"}),
        (optim.AdamW(), adam),
        (optim.NAdam(), adam),
        (optim.RAdam(), adam),
        (optim.Adamax(), {"exp_avg", "exp_inf"}),
        (optim.Lion(), {"exp_avg"}),
        (optim.LAMB(), adam),
        (optim.Adafactor(), {"row_var", "col_var", "variance"}),
        (optim.Muon(matrices="all"), {"momentum_buffer", "exp_avg_sq"}),
        (optim.Shampoo(), {*adam, "factors", "roots"}),
        (optim.ScheduleFreeAdamW(), {"exp_avg_sq", "z_minus_y"}),
        (optim.Prodigy(), {*adam, "s", "p0_minus_p"}),
        (optim.Rprop(), {"prev", "step_size"}),
        (optim.Adam(), adam),
    ]:
        model = make()
        model.flat_gradients = np.ones(model.num_parameters)
        optimizer.step(model)
        state = optimizer.state_dict()
        assert state["steps"] == 1
        assert set(state["arrays"]) == names
        assert set(state["scalars"]) == scalars.get(type(optimizer), set())
        for name, array in state["arrays"].items():
            assert array.shape == (model.num_parameters,) or name in of_blocks
    np.testing.assert_allclose(state["arrays"]["exp_avg"], 0.1, rtol=1e-14)
    np.testing.assert_allclose(state["arrays"]["exp_avg_sq"], 0.001, rtol=1e-12)


def test_a_state_without_its_number_is_refused(rng):
    model, optimizer = make(), optim.NAdam()
    optimizer.step(model)
    state = optimizer.state_dict()
    assert state["scalars"]["mu_product"] == pytest.approx(0.9 * (1 - 0.5 * 0.96**0.004))
    bad = [{}, {"mu": 0.5}, {"mu_product": 0.5, "more": 1.0}]
    bad += [{"mu_product": value} for value in (np.nan, 1.5, -0.1, "0.5")]
    for scalars in bad:
        with pytest.raises(tw.ArgumentError, match=r"mu_product|scalars"):
            optimizer.load_state_dict({**state, "scalars": scalars}, model)
    assert optimizer.state_dict()["scalars"] == state["scalars"]


@EVERY
def test_a_state_with_negative_squares_is_refused(kind, options):
    """Their roots would be NaN, and only in the next step."""
    model, optimizer = make(), kind(**options)
    optimizer.step(model)
    state = optimizer.state_dict()
    signed = {"momentum_buffer", "exp_avg", "grad_avg", "prev", "s", "p0_minus_p", "z_minus_y"}
    signed |= {"factors", "roots"}
    for array in state["arrays"]:
        arrays = {**state["arrays"], array: np.full(state["arrays"][array].size, -0.5)}
        if array in signed:
            optimizer.load_state_dict({**state, "arrays": arrays}, model)
        else:
            with pytest.raises(tw.ArgumentError, match=array + r".*negative"):
                optimizer.load_state_dict({**state, "arrays": arrays}, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: None, "state_dict must be what optimizer.state_dict"),
        (lambda s: [*s], "state_dict must be what optimizer.state_dict"),
        (lambda s: {}, "state_dict lacks"),
        (lambda s: s | {"options": None}, r"state_dict\['options'\] must be a dict"),
        (lambda s: s | {"scalars": [1]}, r"state_dict\['scalars'\] must be a dict"),
        (lambda s: s | {"arrays": None}, r"state_dict\['arrays'\] must be a dict"),
        (lambda s: s | {"groups": None}, "must be a list of groups"),
        (lambda s: s | {"steps": None}, "steps must be an integer"),
    ],
)
def test_what_is_no_state_is_refused(change, message, rng):
    optimizer, model = optim.Adam(), nn.Sequential(nn.Linear(2, 1))
    optimizer.step(model)
    before = optimizer.state_dict()
    with pytest.raises(tw.ArgumentError, match=message):
        optimizer.load_state_dict(change(before), model)
    with pytest.raises(tw.ArgumentError, match=r"model must be the nn\.Sequential"):
        optimizer.load_state_dict(before, None)
    assert repr(optimizer.state_dict()) == repr(before)


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
        optim.Adagrad(convention="keras"),
        optim.Rprop(step_sizes=(0.1, 1)),
        *(kind(**options) for kind, options in ALL),
    ):
        assert repr(eval(repr(optimizer), vars(optim).copy())) == repr(optimizer)
    assert repr(optim.RMSprop(convention="keras")) == (
        "RMSprop(lr=0.01, alpha=0.9, eps=1e-07, weight_decay=0.0, momentum=0.0, centered=False, "
        "convention='keras')"
    )


AGAIN = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.Adam(betas=(0.8, 0.9)).add_group("0.*", lr_scale=0.5),
        lambda: optim.Muon().add_group("0.weight", muon=True),
        lambda: optim.Prodigy(),
    ],
)
def test_what_holds_a_model_and_its_optimizer_is_copied_with_both(make, again, rng):
    """As an agent that learns by hand does."""

    class Agent:
        pass

    agent = Agent()
    agent.model = nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 2))
    agent.optimizer = make()

    def step(agent, gradient):
        agent.model.flat_gradients = gradient
        agent.optimizer.step(agent.model)

    gradients = rng.standard_normal((4, agent.model.num_parameters))
    step(agent, gradients[0])
    agent.optimizer.lr = 0.02
    twin = Agent()
    vars(twin).update(again(vars(agent)))
    assert repr(twin.optimizer) == repr(agent.optimizer)
    before = agent.model.flat_parameters
    for gradient in gradients[1:]:
        step(twin, gradient)
    np.testing.assert_array_equal(agent.model.flat_parameters, before)
    assert (agent.optimizer.steps, twin.optimizer.steps) == (1, 4)
    for gradient in gradients[1:]:
        step(agent, gradient)
    np.testing.assert_array_equal(agent.model.flat_parameters, twin.model.flat_parameters)


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_optimizers_without_a_model_and_around_others_are_copied(again, rng):
    fresh = again(optim.SGD(0.1, momentum=0.9).add_group("*.bias", weight_decay=0.1))
    assert repr(fresh) == repr(optim.SGD(0.1, momentum=0.9).add_group("*.bias", weight_decay=0.1))
    fresh.step(nn.Sequential(nn.Linear(2, 1)))  # it belongs to none yet
    x, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 2))
    for make in (lambda: optim.SAM(optim.Adam()), optim.LBFGS, optim.LevenbergMarquardt):
        trainer = tw.Trainer(
            nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2), dtype="float64"),
            loss=nn.MSELoss(),
            optimizer=make(),
        )
        trainer.fit(x, y, epochs=2, batch_size=None)
        optimizer, twin = again((trainer.optimizer, trainer))
        assert twin.optimizer is optimizer is not trainer.optimizer
        if isinstance(optimizer, optim.SAM):
            assert optimizer.base is not trainer.optimizer.base
        losses = [t.fit(x, y, epochs=2, batch_size=None)["loss"] for t in (twin, trainer)]
        assert losses[0] == losses[1]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("loss", [nn.MSELoss(), squares], ids=["in the core", "in Python"])
@pytest.mark.parametrize("kind", [optim.Adam, optim.Prodigy, optim.ScheduleFreeAdamW])
def test_a_first_fit_that_is_undone_leaves_an_optimizer_before_its_first_step(kind, loss, rng):
    """It had averages of 0, and numbers, where there had been none."""
    x, y = rng.standard_normal((16, 4)), rng.standard_normal((16, 2))
    model = nn.Sequential(nn.Linear(4, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=kind())
    before = trainer.optimizer.state_dict()

    class Blow:
        def on_epoch_end(self, trainer, record):
            model.flat_parameters = np.full(model.num_parameters, 1e300)

    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=3, callbacks=[Blow()])
    assert trainer.optimizer.state_dict() == before


def test_spectral_bias_that_diverges_leaves_an_optimizer_before_its_first_step():
    model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 1), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(1e9, momentum=0.9))
    before = trainer.optimizer.state_dict()

    def wave(x):
        return np.sin(2 * np.pi * x)

    with pytest.raises(tw.DivergedError):
        tw.diagnostics.spectral_bias(trainer, np.arange(16) / 16, wave, [1], steps=99)
    assert trainer.optimizer.state_dict() == before


def test_type_checkers_know_the_conventions():
    kinds = {it for it in vars(optim).values() if "_conventions" in getattr(it, "__dict__", ())}
    kinds -= {optim.Optimizer, optim.LBFGS.__base__}  # which users do not make
    assert optim.Adam in kinds
    for kind in kinds:
        listed = get_type_hints(kind.__init__)["convention"]
        assert get_args(listed) == tuple(kind._conventions)
    memories = get_type_hints(optim.EMA.memory)["definition"]
    assert get_args(memories) == tuple(optim._averages._MEMORIES)


BAD = [
    (lambda: optim.Adam(convention="Keras"), 'convention must be one of "torch".*mean "keras"'),
    (lambda: optim.RAdam(convention="keras"), 'must be one of "torch", "optax"; got'),
    (lambda: optim.Adagrad(convention=None), "convention must be one of"),
    (lambda: optim.SGD(lr=np.complex64(0.5 + 2j)), "lr must be a finite number.*2j"),
    (lambda: optim.SGD(momentum=np.array(0.5 + 0j)), r"momentum must be .*0\.j"),
    (lambda: optim.Adagrad(lr_decay=-1), r"lr_decay must be a finite number >= 0; got -1"),
    (lambda: optim.Adagrad(initial_accumulator_value=-1), "initial_accumulator_value"),
    (lambda: optim.RMSprop(alpha=1), r"alpha must be .*\[0, 1\); got 1"),
    (lambda: optim.RMSprop(momentum="much"), "momentum.*'much'"),
    (lambda: optim.RMSprop(centered=1), "centered must be True or False; got 1"),
    (lambda: optim.Adadelta(rho=-0.1), r"rho.*got -0\.1"),
    (lambda: optim.Adadelta(lr=None), "lr.*None"),
    (lambda: optim.Adam(amsgrad="yes"), "amsgrad.*'yes'"),
    (lambda: optim.NAdam(momentum_decay=np.nan), "momentum_decay.*nan"),
    (lambda: optim.NAdam(momentum_decay=0.1, convention="optax"), "momentum_decay is 0.1;.*optax"),
    (lambda: optim.RAdam(eps=None), "eps.*None"),
    (lambda: optim.Adamax(betas=(0.9, 1)), r"betas\[1\].*got 1"),
    (lambda: optim.Lion(betas="no numbers"), "betas must be two numbers"),
    (lambda: optim.Rprop(etas=(0.5, 1)), r"etas\[1\] .*number > 1; got 1"),
    (lambda: optim.Rprop(etas=0.5), r"etas must be two numbers in \(0, 1\) and above 1; got 0.5"),
    (lambda: optim.Rprop(step_sizes=(1, 0.1)), r"step_sizes\[1\] is 0.1; a number >= step_sizes"),
    (lambda: optim.Adafactor(d=0.5), r"d must be .*number >= 1; got 0.5"),
    (lambda: optim.Adafactor(beta2_decay=0.8), r"beta2_decay.*got 0.8"),
    (lambda: optim.Adafactor(eps=1e-3), "eps must be two numbers.*None"),
    (lambda: optim.Adafactor(eps=(None, -1)), r"eps\[1\].*got -1"),
    (lambda: optim.Adafactor(min_dim_size_to_factor=0), "min_dim_size_to_factor.*>= 1"),
    (lambda: optim.Muon(ns_steps=100), "ns_steps is 100"),
    (lambda: optim.Muon(ns_coefficients=(1, 2)), "ns_coefficients must be three numbers"),
    (lambda: optim.Muon(adjust_lr_fn="rms"), '"original", "match_rms_adamw" or None; got "?\'rms'),
    (lambda: optim.LBFGS(line_search_fn="x"), '"strong_wolfe" or None; got .x'),
    (lambda: optim.Muon(matrices="0.weight"), 'matrices must be one of "hidden", "all", "none"'),
    (lambda: optim.Shampoo(betas=(0.9, 1.1)), r"betas\[1\] must be a finite number in \[0, 1\]"),
    (lambda: optim.Shampoo(betas={0.9, 0.8}), "betas must be a sequence"),
    (lambda: optim.Shampoo(betas=0.9), r"betas must be two numbers, in \[0, 1\) and in \[0, 1\]"),
    (lambda: optim.Shampoo(grafting="adm"), '"none", "adam" or None.*did you mean "adam"'),
    (lambda: optim.Shampoo(precondition_frequency=0), "precondition_frequency must be an integer"),
    (lambda: optim.Muon().add_group("*", muon="yes"), "muon must be True or False; got 'yes'"),
    (lambda: optim.ScheduleFreeAdamW(betas=(0, 0.9)), r"betas\[0\] is 0; a number in \(0, 1\)"),
    (lambda: optim.Prodigy(d0=0), r"d0 must be .*number > 0; got 0"),
    (lambda: optim.Prodigy(beta3=1), r"beta3 .*got 1"),
    (lambda: optim.SGD(momentum=0.9, dampening=0.1, convention="keras"), "dampening.*keras"),
    (lambda: optim.SGD(momentum=0.9, nesterov=True, convention="ema"), "nesterov.*ema"),
]


@pytest.mark.parametrize(("build", "pattern"), BAD, ids=[pattern for _, pattern in BAD])
def test_bad_options(build, pattern):
    with pytest.raises(tw.ArgumentError, match=pattern):
        build()


# --- Closed forms ------------------------------------------------------------------------------


def walk(optimizer, slopes):
    """What one parameter does under these gradients, from 0."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    model.flat_parameters = [0.0]
    path = [0.0]
    for g in slopes:
        model.flat_gradients = [float(g(path[-1]) if callable(g) else g)]
        optimizer.step(model)
        path.append(model.flat_parameters[0])
    return np.array(path)


def test_adagrad_goes_as_far_as_a_sum_of_inverse_roots():
    """Under equal gradients 2 lr √T + ζ(1/2) lr, and its last step is lr/√T."""
    path = walk(optim.Adagrad(lr=0.1, eps=0), [3.7] * 10_000)
    zeta = -1.4603545088095868
    assert -path[-1] == pytest.approx(2 * 0.1 * 100 + zeta * 0.1 + 0.1 / 200, rel=1e-8)
    assert path[-2] - path[-1] == pytest.approx(0.1 / 100, rel=1e-10)


def test_rmsprop_recovers_where_adagrad_does_not():
    """Gradients fall from 10 to 0.1: when steps are 90% of lr again, the formula says."""
    rho, steps = 0.99, 1060
    wanted = np.log((100 - 0.01) / (0.01 * (1 / 0.81 - 1))) / -np.log(rho)
    assert wanted == pytest.approx(steps, abs=1)
    slopes = [10.0] * 3000 + [0.1] * 2000
    moved = -np.diff(walk(optim.RMSprop(lr=1e-3, alpha=rho, eps=0), slopes))[3000:] / 1e-3
    assert np.flatnonzero(moved >= 0.9)[0] + 1 == pytest.approx(wanted, abs=1)
    adagrad = -np.diff(walk(optim.Adagrad(lr=1e-3, eps=0), slopes))[3000:] / 1e-3
    assert adagrad[steps] < 2e-4


@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({}, 2),
        ({"momentum": 0.9}, 2 * 1.9),
        ({"momentum": 0.9, "convention": "textbook"}, 2 * 1.9),
        ({"momentum": 0.9, "nesterov": True}, 2 * 1.9 / 2.8),
        ({"momentum": 0.9, "nesterov": True, "convention": "keras"}, 2 * 1.9 / 2.8),
        ({"momentum": 0.9, "convention": "ema"}, 2 * 1.9 / 0.1),
        ({"momentum": 0.5, "convention": "ema"}, 2 * 1.5 / 0.5),
    ],
    ids=name,
)
def test_where_gradient_descent_stops_converging(options, threshold):
    """On curvature 4; around its minimum at 1."""
    for factor, converges in ((0.99, True), (1.01, False)):
        optimizer = optim.SGD(lr=factor * threshold / 4, **options)
        path = np.abs(walk(optimizer, [lambda p: 4 * (p - 1)] * 3000) - 1)
        assert (path[-20:].max() < 1e-6) == converges
        assert (path[-20:].max() > 1e3) != converges


def test_the_rate_inside_or_outside_of_the_velocity():
    """v ← βv + ηg and η·(βv + g) part when η changes: -8.370 and -4.934."""
    for convention, end in (("textbook", -8.370), ("torch", -4.934)):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
        model.flat_parameters = [0.0]
        optimizer = optim.SGD(lr=0.1, momentum=0.9, convention=convention)
        for step in range(20):
            optimizer.lr = 0.1 if step < 10 else 0.01
            model.flat_gradients = [1.0]
            optimizer.step(model)
        assert model.flat_parameters[0] == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_centered_variance_that_vanishes_is_no_error(dtype, rng):
    """Equal gradients: rounding makes v - m² negative here and there, and PyTorch's root NaN."""
    model, optimizer = make(dtype), optim.RMSprop(lr=1e-6, alpha=0.5, centered=True)
    model.flat_gradients = rng.standard_normal(model.num_parameters)
    for _ in range(200):
        optimizer.step(model)
    assert np.isfinite(model.flat_parameters).all()


def test_lion_stands_still_at_zero_and_rprop_turns():
    assert walk(optim.Lion(lr=0.5), [0.0, 2.0, 0.0]).tolist() == [0, 0, -0.5, -1.0]
    # Grows by 1.2; turned around, it shrinks by half and waits for a step.
    path = walk(optim.Rprop(lr=0.5), [1.0, 9.0, -1.0, -1.0])
    np.testing.assert_allclose(path, [0, -0.5, -1.1, -1.1, -0.8], rtol=1e-15)


def test_an_optimizer_whose_first_step_fails_is_still_free():
    """It belonged to the model for good, although it had not changed it."""
    optimizer = optim.Adam(lr=0.1)
    bad, good = nn.Sequential(nn.Linear(2, 1)), nn.Sequential(nn.Linear(3, 1))
    bad.forward(np.full((4, 2), 1e30, np.float32))
    bad.backward(np.full((4, 1), 1e20, np.float32))
    with pytest.raises(tw.DataError, match=r"gradients\[0\] is inf"):
        optimizer.step(bad)
    before = good.flat_parameters
    good.flat_gradients = np.ones(4)
    optimizer.step(good)
    np.testing.assert_allclose(good.flat_parameters, before - 0.1, rtol=1e-5)
