"""Ctrl-C within a step that Python makes: the step has been made, or nothing has changed."""

import contextlib
import itertools
import signal
import sys

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import squares

X = np.random.default_rng(0).normal(size=(8, 3))
Y = np.sin(X)
NORM = nn.BatchNorm1d(5), nn.Dropout(0.2)


def make(loss, optimizer, *layers, **options):
    layers = nn.Linear(3, 5), *layers, nn.Tanh(), nn.Linear(5, 3)
    model = nn.Sequential(*layers, dtype="float64", seed=0)
    return tw.Trainer(model, loss=loss, optimizer=optimizer, **options)


def of_derivatives(u, du, target):
    loss, gradient = squares(u, target)
    return loss, (gradient, None)


DERIVATIVES = nn.DerivativeLoss(of_derivatives, order=1)
TRAINERS = {
    "the core": lambda: make(nn.MSELoss(), optim.Adam(), *NORM),
    "a custom loss": lambda: make(squares, optim.Adam(), *NORM),
    "SAM": lambda: make(squares, optim.SAM(optim.Adam(), rho=0.5), *NORM),
    "derivatives and SAM": lambda: make(DERIVATIVES, optim.SAM(optim.Adam(), rho=0.5)),
    "gathered": lambda: make(squares, optim.Adam(), *NORM, accumulate_grad_batches=2),
    "a hook": lambda: make(nn.MSELoss(), optim.Adam(), *NORM),
    "a hook and a custom loss": lambda: make(squares, optim.Adam(), *NORM),
    "LBFGS": lambda: make(nn.MSELoss(), optim.LBFGS(lr=0.1, max_iter=2), *NORM),
    "LBFGS and a custom loss": lambda: make(squares, optim.LBFGS(lr=0.1, max_iter=2), *NORM),
    "LevenbergMarquardt": lambda: make(nn.MSELoss(), optim.LevenbergMarquardt()),
}


def hooked(name, trainer):
    return trainer.gradient_hook(lambda g: g) if "hook" in name else contextlib.nullcontext()


def state(trainer):
    """A number that stands for everything that a step changes."""
    model, gathered = trainer.model, trainer._core.gathered()
    arrays = [*model.state_dict().values(), *trainer.optimizer.state_dict()["arrays"].values()]
    arrays += [] if gathered is None else gathered[:1]
    numbers = tuple(array.tobytes() for array in arrays)
    return hash((numbers, model._core.passes(), trainer.optimizer.steps))


def interrupted(function, calls):
    """Raise KeyboardInterrupt after so many calls, which is where Python looks for signals.

    Return it, since a traceback that is kept, as in a notebook, keeps all that it passed through.
    """
    count = itertools.count()

    def watch(frame, event, _):  # it is not told of calls of `functools.partial`
        file = frame.f_code.co_filename
        inside = "thalweg" in file or file == contextlib.__file__
        # Before an `__exit__` begins, nothing can be done about it: that call is Python's own.
        inside = inside and not (event == "call" and frame.f_code.co_name == "__exit__")
        if inside and event in ("call", "c_return") and next(count) == calls:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(watch)
    try:
        function()
    except KeyboardInterrupt as error:
        return error
    finally:
        sys.setprofile(None)
    return None


@pytest.mark.parametrize(
    ("method", "name", "ends"),
    [("step", name, {1, 2}) for name in TRAINERS]
    + [("fit", name, {1, 2, 3}) for name in ("a custom loss", "SAM", "a hook", "LBFGS")]
    + [("fit", "the core", {1, 3})],  # a single call
)
def test_a_step_is_made_or_not(method, name, ends):
    """Not weights of one step with running averages of another, nor those that SAM moved to."""
    straight, states = TRAINERS[name](), []
    with hooked(name, straight):
        for _ in range(4):
            states.append(state(straight))
            straight.step(X, Y)
    found = set()
    for calls in itertools.count():
        trainer = TRAINERS[name]()
        with hooked(name, trainer):
            trainer.step(X, Y)

            def train(trainer=trainer):
                if method == "step":
                    trainer.step(X, Y)
                else:
                    trainer.fit(X, Y, epochs=2, batch_size=None, shuffle=False)

            error = interrupted(train, calls)
            found.add(states.index(state(trainer)))
            assert trainer.model._steps == {}
            assert trainer.model._unmoved is None
            assert not trainer._fitting
        if error is None:
            break
    # From one step on, the last interrupt comes after the whole call.
    assert found == ends


ONES = np.ones(38)
ACTIVE = nn.CrossEntropyLoss(active=(0, 1)), nn.CrossEntropyLoss(active=(0, 1, 2))


def classifier():
    return make(ACTIVE[0], optim.AdamW(), nn.Residual(nn.Linear(5, 5)))


def abs_loss(output, target):
    return float(np.abs(output - target).sum()), np.sign(output - target)


SETTERS = {
    "a penalty": (
        lambda: make(nn.MSELoss(), optim.Adam()),
        lambda trainer: trainer.set_penalty(ONES, 0 * ONES),
        lambda trainer: (trainer._penalties.total is not None, trainer._core.penalty() is not None),
    ),
    "no penalty": (
        lambda: penalized(make(nn.MSELoss(), optim.Adam())),
        lambda trainer: trainer.set_penalty(None),
        lambda trainer: (trainer._penalties.total is None, trainer._core.penalty() is None),
    ),
    "a loss": (
        classifier,
        lambda trainer: setattr(trainer, "loss", ACTIVE[1]),
        lambda trainer: (trainer.loss == ACTIVE[1], can_be_trained_on(trainer, 2)),
    ),
    "a custom loss": (
        lambda: make(squares, optim.Adam()),
        lambda trainer: setattr(trainer, "loss", abs_loss),
        lambda trainer: (
            trainer.loss.function is abs_loss,
            trainer._core.loss.function is abs_loss,
        ),
    ),
    "a group": (
        lambda: make(nn.MSELoss(), optim.AdamW(), nn.Residual(nn.Linear(5, 5))),
        lambda trainer: trainer.optimizer.add_group("*.weight", lr_scale=0),
        lambda trainer: (bool(trainer.optimizer._groups), stays(trainer)),
    ),
    "a rate": (
        lambda: make(nn.MSELoss(), optim.SAM(optim.Adam())),
        lambda trainer: setattr(trainer.optimizer, "lr", 0.5),
        lambda trainer: (trainer.optimizer.lr == 0.5, trainer.optimizer._by_hand.lr == 0.5),
    ),
    "a first step by hand": (
        lambda: by_hand(),
        lambda parts: parts[1].step(parts[0]),
        lambda parts: (parts[1]._owner is parts[0], parts[1].steps == 1),
    ),
}


def by_hand():
    model = nn.Sequential(nn.Linear(2, 1))
    model.flat_gradients = np.ones(3)
    return model, optim.Adam()


def penalized(trainer):
    trainer.set_penalty(ONES)
    return trainer


def can_be_trained_on(trainer, label):
    """Whether the core knows a class, after a step on it."""
    try:
        trainer._core.step(X, np.full(len(X), label), None)
    except tw.ThalwegError:
        return False
    return True


def stays(trainer):
    """Whether all weights stay the same in a step."""
    before = trainer.model.state_dict()
    trainer.step(X, Y)
    after = trainer.model.state_dict()
    same = {name: (array == after[name]).all() for name, array in before.items()}
    weights = {same[name] for name in same if name.endswith("weight")}
    assert len(weights) == 1  # the patterns of a group are several names to the core
    return weights.pop()


@pytest.mark.parametrize("name", SETTERS)
def test_a_setting_is_made_or_not(name):
    """The core had it, and the trainer that reports, copies and saves it had not."""
    make_one, change, looks = SETTERS[name]
    found = []
    for calls in itertools.count():
        trainer = make_one()
        error = interrupted(lambda trainer=trainer: change(trainer), calls)
        known, done = looks(trainer)
        assert known == done, f"after {calls} calls"
        found.append(done)
        if error is None:
            break
    assert found[-1]
    assert not found[0]
    assert found == sorted(found)


@pytest.mark.parametrize("others", [0, 1])
def test_a_hook_ends_with_its_block(others):
    """It stayed for as long as the traceback was kept, or forever."""
    ends = set()
    for calls in itertools.count():
        trainer, seen = make(nn.MSELoss(), optim.Adam()), []

        def block(trainer=trainer, seen=seen):
            with trainer.gradient_hook(lambda g: seen.append(1) or g):
                trainer.step(X, Y)

        with contextlib.ExitStack() as stack:
            for _ in range(others):
                stack.enter_context(trainer.gradient_hook(lambda g: g))
            error = interrupted(block, calls)
            ends.add(len(seen))
            trainer.step(X, Y)
            assert len(seen) in ends, f"after {calls} calls"
            assert isinstance(trainer._core, tw._core.Trainer) == (others == 0)
        if error is None:
            break
    assert ends == {0, 1}


class TimeLimit(Exception):
    """As task queues raise it from a signal handler."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer signal")
@pytest.mark.parametrize("validation", ["none", "arrays"])
def test_an_error_of_a_signal_handler_leaves_a_fit_of_the_core_as_ctrl_c_does(validation):
    """The weights stayed, but epochs, rate and schedule went back to those before."""
    schedule = optim.schedules.ExponentialLR(0.99999)
    options = {"schedule": schedule, "accumulate_grad_batches": 3}
    trainer = make(nn.MSELoss(), optim.SGD(lr=0.1), **options)
    twin = make(nn.MSELoss(), optim.SGD(lr=0.1), **options)
    before = trainer.model.flat_parameters

    def handle(*_):
        if trainer.optimizer.steps > 0:  # once, and while the core is training
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TimeLimit

    class Begin:
        def on_fit_begin(self, trainer):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

    held_out = (X, Y) if validation == "arrays" else None
    earlier = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(TimeLimit):
            trainer.fit(
                X, Y, epochs=200_000, batch_size=2, validation_data=held_out, callbacks=[Begin()]
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert (trainer.model.flat_parameters != before).any()
    assert trainer.epochs == trainer.history.epochs == trainer.optimizer.steps // 2
    assert trainer._core.gathered() is None
    assert trainer.optimizer.lr < 0.1
    if trainer.optimizer.steps % 2 == 0:  # between two epochs: it is as if the fit had been shorter
        twin.fit(X, Y, epochs=trainer.epochs, batch_size=2)
        np.testing.assert_array_equal(trainer.model.flat_parameters, twin.model.flat_parameters)


def test_an_error_of_a_signal_handler_leaves_a_fit_that_is_made_in_python_likewise():
    calls = itertools.count(1)

    def late(output, target):
        if next(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return squares(output, target)

    def handle(*_):
        raise TimeLimit

    trainer, twin = make(late, optim.Adam()), make(squares, optim.Adam())
    earlier = signal.signal(signal.SIGINT, handle)
    try:
        with pytest.raises(TimeLimit):
            trainer.fit(X, Y, epochs=5)
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert trainer.epochs == trainer.optimizer.steps == trainer.history.epochs == 2
    twin.fit(X, Y, epochs=2)
    np.testing.assert_array_equal(trainer.model.flat_parameters, twin.model.flat_parameters)
