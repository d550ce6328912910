"""Loops by hand: `Trainer.update`, an update of gradients that the model holds, and what waits."""

import copy
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.optim import schedules

from .helpers import squares

X = np.linspace(-1, 1, 40).reshape(-1, 1)
Y = np.sin(3 * X)


def make(loss=None, optimizer=None, *, penalty=False, **options):
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1), dtype="float64", seed=2)
    loss = {None: nn.MSELoss(), "none": None}.get(loss, loss)
    trainer = tw.Trainer(model, loss=loss, optimizer=optimizer or optim.Adam(lr=0.02), **options)
    if penalty:
        size = model.num_parameters
        trainer.set_penalty(np.linspace(0, 2, size), np.linspace(-1, 1, size), strength=0.3)
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": squares},
        {"clip_grad_norm": 0.1},
        {"clip_grad_value": 0.01},
        {"schedule": schedules.LinearWarmup(7)},
        {"average": optim.EMA(0.8)},
        {"accumulate_grad_batches": 3},
        {"penalty": True},
        {"penalty": True, "clip_grad_norm": 0.1, "schedule": schedules.StepLR(4)},
        {"optimizer": optim.Muon(lr=0.02, matrices="all")},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_backward_and_update_are_a_step(options):
    """With all that the trainer was made with; `optimizer.step` would know of none of it."""
    stepped, updated = make(**copy.deepcopy(options)), make(**copy.deepcopy(options))
    for start in range(0, 360, 9):
        rows = np.arange(start, start + 9) % 40
        updated.model.zero_grad()
        losses = stepped.step(X[rows], Y[rows]), updated.backward(X[rows], Y[rows])
        updated.update()
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert updated.optimizer.steps == stepped.optimizer.steps
    assert updated.optimizer.lr == stepped.optimizer.lr
    for one, other in zip(models(updated), models(stepped), strict=True):
        np.testing.assert_allclose(
            one.flat_parameters, other.flat_parameters, rtol=1e-9, atol=1e-12
        )


def models(trainer):
    average = trainer._averaging
    return [trainer.model] if average is None else [trainer.model, trainer.average_model()]


def test_gradients_of_several_losses_make_one_update():
    """Half of the rows each: the mean of both is the loss of all."""
    whole, parts = make(clip_grad_norm=0.5), make(clip_grad_norm=0.5)
    for _ in range(20):
        whole.step(X, Y)
        parts.model.zero_grad()
        parts.backward(X[:20], Y[:20])
        parts.backward(X[20:], Y[20:])
        parts.model.flat_gradients = parts.model.flat_gradients / 2
        parts.update()
    np.testing.assert_allclose(
        parts.model.flat_parameters, whole.model.flat_parameters, rtol=1e-9, atol=1e-12
    )


def test_what_is_not_finite_changes_nothing():
    trainer = make(schedule=schedules.LinearWarmup(7))
    trainer.step(X, Y)
    before, rate = trainer.model.flat_parameters, trainer.optimizer.lr
    trainer.model.forward(X)
    trainer.model.backward(np.full((40, 1), 1e308))  # whose sum is the gradient of a bias
    with pytest.raises(tw.DivergedError):
        trainer.update()
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert (trainer.optimizer.lr, trainer.optimizer.steps) == (rate, 1)


@pytest.mark.parametrize(
    "optimizer", [optim.SAM(optim.SGD(0.1)), optim.LBFGS(), optim.LevenbergMarquardt()], ids=repr
)
def test_optimizers_that_look_at_the_loss_again_are_refused(optimizer):
    trainer = make(optimizer=optimizer)
    trainer.backward(X, Y)
    with pytest.raises(tw.UnsupportedError, match="evaluates the loss more than once"):
        trainer.update()
    with pytest.raises(tw.UnsupportedError, match=r"more than once per update.* with loss=None"):
        make("none", optimizer=copy.deepcopy(optimizer))


@pytest.mark.parametrize("loss", [None, squares], ids=["core", "function"])
def test_the_norm_of_the_latest_gradient_is_told_where_it_is_clipped(loss):
    trainer, plain = make(loss, clip_grad_norm=0.05, accumulate_grad_batches=2), make(loss)
    assert trainer.grad_norm is None
    for batch in ((X[:20], Y[:20]), (X[20:], Y[20:])):
        plain.backward(*batch)
        assert trainer.grad_norm is None
        trainer.step(*batch)
    mean = plain.model.flat_gradients / 2
    assert trainer.grad_norm == pytest.approx(np.linalg.norm(mean), rel=1e-12)
    assert trainer.grad_norm > 0.05  # before it was clipped
    plain.step(X, Y)
    assert plain.grad_norm is None


def saved(trainer, folder):
    trainer.save(folder / "trainer")
    of_function = isinstance(trainer.loss, nn.CustomLoss)
    return tw.Trainer.load(folder / "trainer", loss=squares if of_function else None)


#: Ways to another trainer that goes on alike.
WAYS = {
    "saved": saved,
    "pickled": lambda trainer, _: pickle.loads(pickle.dumps(trainer)),
    "copied": lambda trainer, _: trainer.copy(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss", [None, squares], ids=["core", "function"])
def test_gradients_that_wait_for_an_update_are_kept(loss, way, tmp_path):
    trainer = make(loss, accumulate_grad_batches=3)
    for start in (0, 10, 20, 30):  # an update, and one batch more
        trainer.step(X[start : start + 10], Y[start : start + 10])
    twin = WAYS[way](trainer, tmp_path)
    for one in (trainer, twin):
        for start in (5, 15):
            one.step(X[start : start + 10], Y[start : start + 10])
        assert one.optimizer.steps == 2
    np.testing.assert_array_equal(twin.model.flat_parameters, trainer.model.flat_parameters)


def by_hand(trainer, rows):
    """The update of a squared error, whose gradient the trainer is given."""
    model = trainer.model
    model.zero_grad()
    error = model.forward(X[rows]) - Y[rows]
    model.backward(2 * error / error.size, inputs=False)
    trainer.update()


@pytest.mark.parametrize("way", WAYS)
def test_a_trainer_without_a_loss_makes_updates(way, tmp_path):
    """With all else that a trainer has, and goes on after it was saved, copied or pickled."""
    options = {
        "clip_grad_norm": 0.3, "accumulate_grad_batches": 3, "schedule": schedules.StepLR(4),
        "average": optim.EMA(0.8), "penalty": True,
    }  # fmt: skip
    stepped, updated = make(**options), make("none", **options)
    assert updated.loss is None
    assert "loss=None" in repr(updated)
    for start in range(0, 360, 9):
        rows = np.arange(start, start + 9) % 40
        stepped.step(X[rows], Y[rows])
        by_hand(updated, rows)
        if start == 180:
            updated = WAYS[way](updated, tmp_path)
            assert updated.loss is None
    assert updated.optimizer.steps == stepped.optimizer.steps == 13
    assert updated.grad_norm == pytest.approx(stepped.grad_norm, rel=1e-9)
    for one, other in ((updated, stepped), (updated.average_model(), stepped.average_model())):
        one, other = (getattr(it, "model", it).flat_parameters for it in (one, other))
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.step(X, Y),
        lambda t: t.fit(X, Y),
        lambda t: t.fit([(X, Y)]),
        lambda t: t.fit(X, Y, lr="auto"),
        lambda t: t.evaluate(X, Y),
        lambda t: t.evaluate([(X, Y)]),
        lambda t: t.backward(X, Y),
        lambda t: tw.find_lr(t, X, Y),
    ],
)
def test_what_needs_a_loss_says_so(call):
    trainer = make("none")
    before = trainer.model.flat_parameters
    with pytest.raises(tw.UnsupportedError, match=r"made with loss=None: .* trainer\.update\(\)"):
        call(trainer)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    with pytest.raises(tw.UnsupportedError, match="plan is not supported"):
        trainer.plan(3)


def test_a_file_of_a_trainer_without_a_loss_takes_none(tmp_path):
    make("none").save(tmp_path / "trainer")
    with pytest.raises(tw.ArgumentError, match="has none: leave loss out, and make a Trainer"):
        tw.Trainer.load(tmp_path / "trainer", loss=squares)


class Agent:
    """Models, optimizers, trainers and a generator, as in reinforcement learning."""

    def __init__(self):
        def network(seed):
            return nn.Sequential(nn.Linear(1, 16), nn.Dropout(0.1), nn.Linear(16, 1), seed=seed)

        self.rng = np.random.default_rng(0)
        self.actor, self.critic, self.target = network(0), network(1), network(2)
        self.adam = optim.Adam(lr=0.01)
        self.trainer = tw.Trainer(self.critic, loss=squares, optimizer=optim.Adam(lr=0.01))
        self.updates = tw.Trainer(self.target, loss=None, optimizer=optim.SGD(momentum=0.9))

    def learn(self):
        for _ in range(5):
            x = self.rng.uniform(-1, 1, (10, 1)).astype("float32")
            self.trainer.step(x, np.sin(x))
            for model, step in ((self.actor, self.adam.step), (self.target, None)):
                model.zero_grad()
                model.backward(model.forward(x) - self.critic(x), inputs=False)
                step(model) if step else self.updates.update()
            self.target.follow(self.critic, 0.1)
        return [m.flat_parameters for m in (self.actor, self.critic, self.target)]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_an_agent_that_is_copied_or_pickled_goes_on_bit_for_bit(copied):
    agent = Agent()
    agent.learn()
    twin = copied(agent)
    assert twin.trainer.model is twin.critic
    assert twin.updates.model is twin.target
    np.testing.assert_array_equal(twin.learn(), agent.learn())


@pytest.mark.parametrize("again", ["file", "copy", "deepcopy", "pickle"])
def test_gradients_that_wait_for_an_update_are_not_in_files_and_copies(again, tmp_path):
    """They belong to the loop that adds them up, which begins with `zero_grad`."""
    trainer = make()
    trainer.backward(X, Y)
    before = trainer.model.flat_gradients
    trainer.save(tmp_path / "trainer")
    other = {
        "file": lambda: tw.Trainer.load(tmp_path / "trainer"),
        "copy": trainer.copy,
        "deepcopy": lambda: copy.deepcopy(trainer),
        "pickle": lambda: pickle.loads(pickle.dumps(trainer)),
    }[again]()
    assert not other.model.flat_gradients.any()
    assert before.any()
    np.testing.assert_array_equal(trainer.model.flat_gradients, before)
