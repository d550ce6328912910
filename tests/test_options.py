"""Options of optimizers as attributes: to read, and to change between steps."""

import copy
import inspect
import threading
from typing import get_type_hints

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import kinds_in

ALL = sorted(kinds_in(optim, optim.Optimizer), key=lambda kind: kind.__name__)
#: Those whose steps are the core's, which must be told.
FUSED = [kind for kind in ALL if kind not in (optim.LBFGS, optim.LevenbergMarquardt, optim.SAM)]
#: A value for each option, other than the default.
OTHER = {
    "momentum": 0.7,
    "dampening": 0.2,
    "weight_decay": 0.3,
    "nesterov": True,
    "betas": (0.6, 0.9),
    "eps": 0.01,
    "amsgrad": True,
    "decoupled_weight_decay": True,
    "rho": 0.5,
    "beta2_decay": -0.5,
    "d": 3.0,
    "min_dim_size_to_factor": 100,
    "lr_decay": 0.5,
    "initial_accumulator_value": 0.5,
    "momentum_decay": 0.1,
    "alpha": 0.5,
    "centered": True,
    "etas": (0.3, 1.5),
    "step_sizes": (1e-3, 0.01),
    "weight_lr_power": 1.0,
    "ns_coefficients": (3.0, -4.0, 2.0),
    "ns_steps": 3,
    "adjust_lr_fn": "match_rms_adamw",
    "adam_betas": (0.6, 0.9),
    "adam_eps": 0.01,
    "adam_lr_scale": 3.0,
    "adam_beta2": 0.9,
    "beta3": 0.9,
    "d0": 0.01,
    "d_coef": 2.0,
    "use_bias_correction": True,
    "safeguard_warmup": True,
    "max_preconditioner_dim": 4,
    "precondition_frequency": 2,
    "start_preconditioning_step": 2,
    "grafting": "adam",
}
#: And where one name means several things.
OTHER_OF = {
    (optim.Adafactor, "eps"): (0.1, 1e-3),
    (optim.Muon, "nesterov"): False,
}
#: Those that decide which averages there are, or what they begin from.
OF_THE_STATE = {
    "amsgrad",
    "min_dim_size_to_factor",
    "initial_accumulator_value",
    "centered",
    "max_preconditioner_dim",
    "d0",
}
#: Those that a few steps of this problem do not show.
SILENT = {
    (optim.Adafactor, "d"),  # no update is that large
    (optim.Lion, "betas"),  # no sign changes
    (optim.Muon, "eps"),
    (optim.Prodigy, "use_bias_correction"),
    (optim.Prodigy, "safeguard_warmup"),
    (optim.Shampoo, "start_preconditioning_step"),  # which is behind them
    *((kind, "decoupled_weight_decay") for kind in (optim.Adam, optim.NAdam, optim.RAdam)),
}


def other(kind, name):
    return OTHER_OF.get((kind, name), OTHER[name])


def made(kind, **options):
    if kind is optim.SAM:
        return optim.SAM(optim.SGD(0.1), **options)
    if kind is optim.SGD and "nesterov" in options:
        options.setdefault("momentum", 0.5)
    return kind(**options)


def settable(kind):
    names = [name for name in inspect.signature(kind).parameters if name != "lr"]
    return [name for name in names if name not in kind._fixed]


def problem(optimizer):
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    rng = np.random.default_rng(3)
    return trainer, rng.standard_normal((20, 5)), rng.standard_normal((20, 3))


def steps(trainer, x, y, count=4):
    for _ in range(count):
        trainer.step(x, y)
    return trainer.model.flat_parameters


@pytest.mark.parametrize("kind", ALL)
def test_every_argument_is_an_attribute_with_a_type(kind):
    optimizer, hints = made(kind), get_type_hints(kind)
    for name, parameter in inspect.signature(kind).parameters.items():
        value = getattr(optimizer, name)
        if name != "base" and parameter.default is not None:
            assert value == parameter.default
        typed = name in hints or get_type_hints(getattr(kind, name).fget) != {}
        assert typed, f"{kind.__name__} does not declare {name}, which type checkers then refuse"
        assert inspect.getdoc(getattr(kind, name)), name


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in FUSED for name in settable(kind)]
)
def test_a_value_set_before_the_first_step_is_as_one_given(kind, name):
    first = {
        (optim.SGD, "nesterov"): {"momentum": 0.5},
        (optim.Shampoo, "precondition_frequency"): {"start_preconditioning_step": 1},
    }.get((kind, name), {})
    given, late = made(kind, **first, **{name: other(kind, name)}), made(kind, **first)
    trainer = problem(late)  # it belongs to a model now
    setattr(late, name, other(kind, name))
    assert getattr(late, name) == other(kind, name)
    assert repr(late) == repr(given)
    assert late.state_dict()["options"] == given.state_dict()["options"]
    np.testing.assert_array_equal(steps(*trainer), steps(*problem(given)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in FUSED
        for name in settable(kind)
        if name not in OF_THE_STATE and (kind, name) != (optim.RMSprop, "momentum")
    ],
)
def test_a_value_set_between_steps_continues_from_the_averages_so_far(kind, name):
    """As another optimizer does that takes over the state, and not as if nothing had been set."""
    start = {"momentum": 0.5} if kind is optim.SGD else {}
    trainer, x, y = problem(made(kind, **start))
    steps(trainer, x, y)
    unchanged, taken = copy.deepcopy(trainer), copy.deepcopy(trainer)
    setattr(trainer.optimizer, name, other(kind, name))
    second = made(kind, **(start | {name: other(kind, name)}))
    state = taken.optimizer.state_dict() | {"options": second.state_dict()["options"]}
    second.load_state_dict(state, taken.model)
    taken = tw.Trainer(taken.model, loss=taken.loss, optimizer=second)
    after = steps(trainer, x, y)
    np.testing.assert_array_equal(after, steps(taken, x, y))
    same = np.array_equal(after, steps(unchanged, x, y))
    assert not same or (kind, name) in SILENT


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in FUSED for name in settable(kind) if name in OF_THE_STATE),
        (optim.RMSprop, "momentum"),
        (optim.SGD, "momentum"),
    ],
)
def test_averages_that_are_not_kept_cannot_be_had_later(kind, name):
    trainer, x, y = problem(made(kind))
    steps(trainer, x, y)
    before, twin = trainer.optimizer.state_dict(), copy.deepcopy(trainer)
    with pytest.raises(tw.ArgumentError, match=r"set it before the first step, or make another"):
        setattr(trainer.optimizer, name, other(kind, name))
    assert trainer.optimizer.state_dict()["options"] == before["options"]
    np.testing.assert_array_equal(steps(trainer, x, y), steps(twin, x, y))


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (optim.SGD, "momentum", 1.5, r"momentum must be a finite number in \[0, 1\); got 1\.5"),
        (optim.SGD, "momentum", None, "momentum"),
        (optim.SGD, "nesterov", True, r"needs momentum > 0"),
        (optim.Adam, "betas", (0.9, 1), r"betas\[1\] must be"),
        (optim.AdamW, "weight_decay", -1, "weight_decay must be"),
        (optim.LBFGS, "max_iter", 0, "max_iter must be"),
    ],
)
def test_what_a_constructor_refuses_cannot_be_set(kind, name, value, message):
    optimizer = kind()
    before = repr(optimizer)
    with pytest.raises(tw.ArgumentError, match=message):
        setattr(optimizer, name, value)
    assert repr(optimizer) == before


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, "convention", "torch") for kind in FUSED if kind._conventions),
        (optim.ScheduleFreeAdamW, "betas", (0.5, 0.9)),  # which is where its averages are
        (optim.Muon, "matrices", "all"),
        (optim.SAM, "rho", 0.1),  # its trainer has been told
        (optim.SAM, "adaptive", True),
        (optim.SAM, "base", optim.SGD()),
        (optim.AdamW, "decoupled_weight_decay", False),
        (optim.LevenbergMarquardt, "damping", 1.0),  # it adapts
    ],
)
def test_what_can_only_be_read(kind, name, value):
    with pytest.raises(AttributeError, match=f"{name} can only be read"):
        setattr(made(kind), name, value)
    said = f"{inspect.getdoc(kind)} {inspect.getdoc(getattr(kind, name))}"
    assert "can only be read" in " ".join(said.split())


def test_none_is_the_default_of_the_convention():
    optimizer = optim.AdamW(eps=0.5, weight_decay=0.5, convention="keras")
    optimizer.eps = optimizer.weight_decay = None
    assert (optimizer.eps, optimizer.weight_decay) == (1e-7, 0.004)


def test_groups_keep_what_they_were_given():
    """A decay of zero for biases stays when all others get one, also those of other groups."""
    optimizer = optim.AdamW(weight_decay=0.0).add_group("*.bias", weight_decay=0.0)
    trainer, x, y = problem(optimizer.add_group("0.weight", lr_scale=1.0))
    plain, *_ = problem(optim.AdamW(weight_decay=0.0))
    steps(trainer, x, y)
    steps(plain, x, y)
    before = plain.model.state_dict()
    trainer.optimizer.weight_decay = 0.5
    for it in (trainer, plain):
        it.step(x, y)
    decayed, expected = trainer.model.state_dict(), plain.model.state_dict()
    for name, values in expected.items():
        more = 0.0 if name.endswith("bias") else 1e-3 * 0.5 * before[name]
        np.testing.assert_allclose(decayed[name], values - more, rtol=1e-6, atol=1e-9)


def test_a_callback_changes_them_between_epochs():
    class Fade(tw.callbacks.Callback):
        def on_epoch_end(self, trainer, record):
            trainer.optimizer.weight_decay = 0.1 * record["epoch"]
            record["decay"] = trainer.optimizer.weight_decay

    trainer, x, y = problem(optim.AdamW(weight_decay=0.0))
    twin = copy.deepcopy(trainer)
    history = trainer.fit(x, y, epochs=3, batch_size=5, callbacks=[Fade()])
    assert history["decay"] == pytest.approx([0.1, 0.2, 0.3])
    for decay in (0.0, 0.1, 0.2):
        twin.optimizer.weight_decay = decay
        twin.fit(x, y, epochs=1, batch_size=5)
    np.testing.assert_array_equal(trainer.model.flat_parameters, twin.model.flat_parameters)


def test_callbacks_may_set_any_before_the_first_step():
    """Also what needs other averages, since there are none yet."""

    class Warm(tw.callbacks.Callback):
        def on_fit_begin(self, trainer):
            trainer.optimizer.momentum = 0.5

    trainer, x, y = problem(optim.SGD(0.1))
    given = problem(optim.SGD(0.1, momentum=0.5))[0]
    trainer.fit(x, y, epochs=0)
    trainer.backward(x, y)
    for one, options in ((trainer, {"callbacks": [Warm()]}), (given, {})):
        one.fit(x, y, epochs=3, **options)
    np.testing.assert_array_equal(trainer.model.flat_parameters, given.model.flat_parameters)


def test_averages_that_a_failed_first_step_began_are_forgotten(rng):
    """The loss sets a momentum in each step; its third gradient is infinite."""
    calls = []

    def loss(outputs, targets):
        calls.append(0)
        trainer.optimizer.momentum = 0.5
        slope = 2 * (outputs - targets) / outputs.size
        return float(np.mean((outputs - targets) ** 2)), slope * (np.inf if len(calls) == 3 else 1)

    model = nn.Sequential(nn.Linear(5, 3))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(0.1))
    before = repr(trainer.optimizer), model.flat_parameters
    with pytest.raises(tw.DataError, match="the gradient of the loss"):
        trainer.fit(rng.standard_normal((200, 5)), rng.standard_normal((200, 3)), batch_size=20)
    assert repr(trainer.optimizer) == before[0]
    np.testing.assert_array_equal(model.flat_parameters, before[1])
    assert trainer.optimizer.state_dict()["arrays"] == {}


@pytest.mark.parametrize("wrap", [lambda base: base, optim.SAM])
def test_a_fit_that_is_undone_has_set_nothing(wrap):
    """After an error in the first epoch, everything is as it was before the fit."""

    class Wild(tw.callbacks.Callback):
        def on_fit_begin(self, trainer):
            optimizer = getattr(trainer.optimizer, "base", trainer.optimizer)
            optimizer.momentum, optimizer.lr = 0.9, 1e30

    trainer, x, y = problem(wrap(optim.SGD(0.1, momentum=0.5).add_group("*.bias", lr_scale=0.5)))
    steps(trainer, x, y)
    twin = copy.deepcopy(trainer)
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=5, callbacks=[Wild()])
    assert repr(trainer.optimizer) == repr(twin.optimizer)
    np.testing.assert_array_equal(steps(trainer, x, y), steps(twin, x, y))


def test_copies_and_files_have_them(tmp_path):
    trainer, x, y = problem(optim.SGD(0.1, momentum=0.5))
    steps(trainer, x, y)
    trainer.optimizer.momentum, trainer.optimizer.weight_decay = 0.8, 0.01
    trainer.save(tmp_path / "run")
    again, twin = tw.Trainer.load(tmp_path / "run"), trainer.copy()
    expected = steps(trainer, x, y)
    np.testing.assert_array_equal(steps(again, x, y), expected)
    np.testing.assert_array_equal(steps(twin, x, y), expected)


def test_full_batch_steps_read_them(rng):
    trainer, x, y = problem(optim.LBFGS(max_iter=5))
    twin = copy.deepcopy(trainer)
    trainer.fit(x, y, batch_size=None)
    trainer.optimizer.max_iter = 1
    trainer.fit(x, y, batch_size=None)
    twin.fit(x, y, batch_size=None)
    twin.fit(x, y, batch_size=None)
    assert trainer.evaluate(x, y)["loss"] > twin.evaluate(x, y)["loss"]  # one iteration, not five


@pytest.mark.parametrize("wrap", [lambda base: base, optim.SAM])
def test_a_state_has_them(wrap):
    """As in PyTorch: what was set is part of what continues."""
    trainer, x, y = problem(wrap(optim.AdamW(eps=1e-3)))
    base = getattr(trainer.optimizer, "base", trainer.optimizer)
    fresh = trainer.optimizer.state_dict()
    steps(trainer, x, y)
    base.weight_decay, base.betas = 0.3, (0.5, 0.9)
    again, twin = wrap(optim.AdamW()), copy.deepcopy(trainer.model)
    again.load_state_dict(trainer.optimizer.state_dict(), twin)
    assert repr(again) == repr(trainer.optimizer)
    resumed = tw.Trainer(twin, loss=trainer.loss, optimizer=again)
    np.testing.assert_array_equal(steps(resumed, x, y), steps(trainer, x, y))
    trainer.optimizer.load_state_dict(fresh, trainer.model)  # forgets everything
    assert repr(trainer.optimizer) == repr(wrap(optim.AdamW(eps=1e-3)))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (optim.AdamW, {"convention": "optax"}, "convention='torch', but this one has 'optax'"),
        (optim.Adam, {}, r"with the options \['amsgrad'"),
        (optim.SAM, {}, "saved with rho=None, but this one has 0.05"),
    ],
)
def test_a_state_of_another_kind_is_refused(kind, options, message):
    trainer, x, y = problem(optim.AdamW())
    steps(trainer, x, y)
    state = trainer.optimizer.state_dict()
    if kind is optim.Adam:
        del state["options"]["beta1"]
    with pytest.raises(tw.ArgumentError, match=message):
        made(kind, **options).load_state_dict(state, trainer.model)


def test_a_state_of_adam_is_one_of_adamw_only_with_its_decay():
    """Which AdamW has no argument for; Adam has, and takes it over."""
    model = problem(optim.Adam())[0].model
    coupled, decoupled = (
        optim.Adam(weight_decay=0.1, decoupled_weight_decay=flag).state_dict()
        for flag in (False, True)
    )
    message = "decoupled_weight_decay=False, but this one has True, which AdamW"
    with pytest.raises(tw.ArgumentError, match=message):
        optim.AdamW().load_state_dict(coupled, model)
    adamw, adam = optim.AdamW(), optim.Adam()
    adamw.load_state_dict(decoupled, model)
    adam.load_state_dict(adamw.state_dict(), model)
    assert adam.decoupled_weight_decay


def test_two_threads_may_set_two_options():
    """One set while the other is being set, which waits for a fit, is not lost."""
    trainer, x, y = problem(optim.SGD(1e-3, momentum=0.5))
    optimizer = trainer.optimizer
    for i in range(1, 40):
        both = threading.Barrier(2)

        def put(name, value, both=both):
            both.wait()
            setattr(optimizer, name, value)

        values = {"momentum": i / 100, "weight_decay": i / 1000}
        threads = [threading.Thread(target=put, args=item) for item in values.items()]
        threads.append(threading.Thread(target=trainer.fit, args=(x, y)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (optimizer.momentum, optimizer.weight_decay) == tuple(values.values())
        twin = copy.deepcopy(trainer)  # from the attributes
        np.testing.assert_array_equal(steps(trainer, x, y), steps(twin, x, y))


@pytest.mark.parametrize("value", [None, 7])
def test_options_of_a_state_of_lbfgs_are_its_arguments(value):
    options = optim.LBFGS(max_eval=value, line_search_fn=None).state_dict()["options"]
    assert repr(optim.LBFGS(**options)) == repr(optim.LBFGS(max_eval=value, line_search_fn=None))
    assert optim.Prodigy().state_dict()["options"]["beta3"] is None


def test_options_are_those_of_the_constructor_of_the_base():
    class Early(optim.SGD):
        def __init__(self, momentum):
            self.momentum = momentum
            super().__init__(momentum=momentum)

    class Asks(optim.SGD):
        def __init__(self):
            super().__init__(0.1 * self.lr)

    for make in (lambda: Early(0.9), Asks):
        with pytest.raises(AttributeError, match=r"no options yet: .* super\(\).__init__ before"):
            make()


@pytest.mark.parametrize("there", [0.5, lambda self: 0.5, property(lambda self: 0.5)])
def test_a_subclass_cannot_hide_an_option(there):
    with pytest.raises(
        tw.ArgumentError, match=r"Own\.momentum needs another name.*momentum=\.\.\."
    ):
        type("Own", (optim.SGD,), {"momentum": there})


def test_options_of_what_sam_steps_with_are_its_base_s():
    with pytest.raises(AttributeError, match=r"it is sam\.base\.momentum"):
        _ = optim.SAM(optim.SGD()).momentum
