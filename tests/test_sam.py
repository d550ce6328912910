"""Sharpness-aware minimization beside NumPy's arithmetic on separate passes."""

import copy

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

BASES = [
    lambda: optim.SGD(lr=0.05, momentum=0.9, weight_decay=1e-3),
    lambda: optim.Adam(lr=5e-3),
    lambda: optim.AdamW(lr=5e-3).add_group("*.bias", weight_decay=0.0, lr_scale=2.0),
    lambda: optim.LAMB(lr=5e-3),  # whose steps need whole layers
]


@pytest.fixture
def data(rng):
    x = rng.standard_normal((48, 3))
    return x, np.sin(x @ rng.standard_normal((3, 2)))


def make(optimizer, layers=(), dtype="float64", **options):
    # A bias before BatchNorm has a gradient of rounding errors, which Adam makes as large as any.
    first = nn.Linear(3, 7, bias=not layers)
    model = nn.Sequential(first, *layers, nn.Tanh(), nn.Linear(7, 2), dtype=dtype, seed=5)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer, **options)


class ByHand:
    """The formulas, with one gradient after the other."""

    def __init__(self, base, rho, adaptive, layers=(), frozen=()):
        self.trainer = make(base, layers)
        self.rho, self.adaptive = rho, adaptive
        names = self.trainer.model.state_dict()
        parts = [
            np.full(v.size, name not in frozen)
            for name, v in names.items()
            if "running" not in name
        ]
        self.free = np.concatenate(parts)

    def gradient(self, x, y):
        """The loss, and the gradient that the base steps along."""
        model = self.trainer.model
        core, theta, passes = model._core, model.flat_parameters, model._core.passes()
        model.zero_grad()
        loss = self.trainer.backward(x, y)
        averages = core.averages()
        g = model.flat_gradients * self.free
        weight = np.abs(theta) if self.adaptive else 1.0
        epsilon = self.rho * weight**2 * g / (np.linalg.norm(weight * g) + 1e-12)
        model.flat_parameters = theta + epsilon
        core.set_passes(passes)
        model.zero_grad()
        self.trainer.backward(x, y)
        model.flat_parameters = theta
        core.set_averages(averages)  # those of the first pass, and none of the second
        return loss

    def step(self, x, y):
        loss = self.gradient(x, y)
        self.trainer.optimizer.step(self.trainer.model)
        return loss


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", BASES)
def test_two_hundred_steps_are_those_of_the_formulas(data, base, adaptive):
    x, y = data
    layers = [nn.BatchNorm1d(7), nn.Dropout(0.2)]
    rho = 0.5 if adaptive else 0.05
    trainer, expected = make(optim.SAM(base(), rho, adaptive), layers), None
    expected = ByHand(base(), rho, adaptive, layers)
    start = trainer.model.flat_parameters
    for step in range(200):
        rows = np.arange(16) + 16 * (step % 3)
        found, wanted = trainer.step(x[rows], y[rows]), expected.step(x[rows], y[rows])
        assert found == pytest.approx(wanted, rel=1e-10), step
    ours, theirs = trainer.model, expected.trainer.model
    np.testing.assert_allclose(ours.flat_parameters, theirs.flat_parameters, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ours._core.averages(), theirs._core.averages(), rtol=1e-9)
    assert ours._core.passes() == theirs._core.passes() == 200
    assert trainer.optimizer.steps == 200
    plain = make(base(), layers)  # and it is not just the base
    for step in range(200):
        rows = np.arange(16) + 16 * (step % 3)
        plain.step(x[rows], y[rows])
    moved = np.linalg.norm(ours.flat_parameters - start)
    assert np.linalg.norm(ours.flat_parameters - plain.model.flat_parameters) > 1e-3 * moved


@pytest.mark.parametrize("base", BASES)
def test_without_a_radius_it_is_the_base(data, base):
    x, y = data
    layers = [nn.BatchNorm1d(7), nn.Dropout(0.2)]
    trainers = [make(o, layers, clip_grad_norm=1e9) for o in (optim.SAM(base(), 0.0), base())]
    for trainer in trainers:
        trainer.fit(x, y, epochs=5, batch_size=16)
    assert trainers[0].history["loss"] == trainers[1].history["loss"]
    for ours, theirs in zip(*(t.model.state_dict().values() for t in trainers), strict=True):
        assert np.array_equal(ours, theirs)


def test_accumulation_and_clipping_come_after_both_gradients(data):
    x, y = data
    options = {"accumulate_grad_batches": 3, "clip_grad_norm": 0.05}
    trainer = make(optim.SAM(optim.SGD(lr=0.5), 0.1), **options)
    by_hand = ByHand(optim.SGD(lr=0.5), 0.1, adaptive=False)
    trainer.fit(x, y, epochs=2, batch_size=16, shuffle=False)
    model = by_hand.trainer.model
    for _ in range(2):
        gradients = []
        for start in (0, 16, 32):
            by_hand.gradient(x[start : start + 16], y[start : start + 16])
            gradients.append(model.flat_gradients)
        mean = np.mean(gradients, axis=0)
        norm = np.linalg.norm(mean)
        assert norm > 0.05  # or nothing is clipped
        model.flat_parameters -= 0.5 * mean * 0.05 / (norm + 1e-6)
    np.testing.assert_allclose(trainer.model.flat_parameters, model.flat_parameters, rtol=1e-11)


def test_frozen_parameters_are_not_moved(data):
    x, y = data
    frozen = ("0.weight", "0.bias")

    def base():
        return optim.SGD(lr=0.1).add_group("0.*", frozen=True)

    trainer, by_hand = make(optim.SAM(base(), 0.3)), ByHand(base(), 0.3, False, frozen=frozen)
    before = trainer.model.state_dict()
    for _ in range(20):
        trainer.step(x, y)
        by_hand.step(x, y)
    after = trainer.model.state_dict()
    assert np.array_equal(before["0.weight"], after["0.weight"])
    theirs = by_hand.trainer.model.flat_parameters
    np.testing.assert_allclose(trainer.model.flat_parameters, theirs, rtol=1e-11)


def test_a_training_that_is_saved_or_copied_goes_on_to_the_last_bit(data, tmp_path):
    x, y = data

    def sam():
        return optim.SAM(optim.Adam(lr=0.01), 0.1, adaptive=True).add_group("*.bias", lr_scale=0.5)

    whole, part = make(sam(), average=optim.EMA(0.9)), make(sam(), average=optim.EMA(0.9))
    whole.fit(x, y, epochs=6, batch_size=16)
    part.fit(x, y, epochs=2, batch_size=16)
    part.save(tmp_path / "file")
    loaded = tw.Trainer.load(tmp_path / "file")
    assert repr(loaded.optimizer) == repr(part.optimizer)
    for trainer in (loaded, part.copy()):
        trainer.fit(x, y, epochs=4, batch_size=16)
        assert np.array_equal(trainer.model.flat_parameters, whole.model.flat_parameters)
        average = trainer.average_model().flat_parameters
        assert np.array_equal(average, whole.average_model().flat_parameters)


def test_the_rate_is_that_of_the_base():
    """Groups give the base another core where names differ; a rate that was set then was lost."""
    base = optim.SGD(lr=0.1).add_group("0.weight", lr_scale=0.5)
    sam = optim.SAM(base)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 1))
    tw.Trainer(model, loss=nn.MSELoss(), optimizer=base).step([[0], [1]], [0.0, 1.0])
    sam.lr = 0.7
    assert (base.lr, sam.steps) == (0.7, 1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=sam)
    assert trainer.optimizer.lr == 0.7


def test_a_rate_of_the_base_that_the_schedule_undoes_is_a_warning():
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(1, 1)),
        loss=nn.MSELoss(),
        optimizer=optim.SAM(optim.SGD(lr=0.1)),
        schedule=optim.schedules.ConstantLR(),
    )
    trainer.optimizer.base.lr = 0.5
    with pytest.warns(UserWarning, match="set to 0.5, which has no effect"):
        trainer.fit([[0.0]], [1.0])


@pytest.mark.parametrize("bad", [np.nan, 1e200])
def test_bad_data_change_nothing(data, bad):
    x, y = data
    trainer = make(optim.SAM(optim.Adam(), 0.1), layers=[nn.BatchNorm1d(7)])
    trainer.step(x, y)
    before, state = trainer.model.state_dict(), repr(trainer.optimizer.state_dict())
    worse = copy.copy(y)
    worse[0, 0] = bad
    with pytest.raises(tw.ThalwegError):
        trainer.step(x, worse)
    for name, value in trainer.model.state_dict().items():
        assert np.array_equal(value, before[name])
    assert repr(trainer.optimizer.state_dict()) == state


def test_what_makes_no_sense_is_refused(data):
    for base in ("adam", optim.LBFGS(), optim.SAM(optim.SGD()), optim.Adam):
        with pytest.raises(tw.ArgumentError, match="base must be"):
            optim.SAM(base)
    for rho in (-0.1, np.inf, "0.1"):
        with pytest.raises(tw.ArgumentError, match="rho"):
            optim.SAM(optim.SGD(), rho)
    trainer = make(optim.SAM(optim.SGD()))
    with pytest.raises(tw.UnsupportedError, match="two gradients"):
        trainer.optimizer.step(trainer.model)
    state = trainer.optimizer.state_dict()
    with pytest.raises(tw.ArgumentError, match=r"rho=0\.05, but this one has 0\.5"):
        optim.SAM(optim.SGD(), rho=0.5).load_state_dict(state, trainer.model)


def test_own_outputs_as_targets_hide_nothing_from_it(rng):
    """As the page on getting started warns of in Q-learning; a loss with gradients of 0 does."""

    def first_only(output, target):
        d = (output - target) * [1, 0, 0]
        return np.mean(d**2) / 2, d / d.size

    x = rng.standard_normal((64, 4))
    for loss, optimizer, hidden in (
        (nn.HuberLoss(delta=2), optim.SGD(lr=1.0), True),
        (nn.HuberLoss(delta=2), optim.SAM(optim.SGD(lr=1.0), rho=0.1), False),
        (first_only, optim.SAM(optim.SGD(lr=1.0), rho=0.1), True),
    ):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), dtype="float64")
        before, target = model.state_dict()["2.bias"], model(x)
        target[:, 0] += 1
        tw.Trainer(model, loss=loss, optimizer=optimizer).step(x, target)
        moved = model.state_dict()["2.bias"] != before
        assert moved.tolist() == [True, not hidden, not hidden]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", 1e30), ("float32", 1e38), ("float64", 1e200), ("float64", 1e308)],
)
def test_a_huge_gradient_leads_as_far_as_any(dtype, size):
    """To w = (rho, 0): there, and not at w = 0, the second row's output is above its target.

    The first row's input is so large that squares of its gradient, and their inverse, overflow.
    """
    model = nn.Sequential(nn.Linear(2, 1, bias=False), dtype=dtype)
    model.flat_parameters = [0.0, 0.0]
    optimizer = optim.SAM(optim.SGD(lr=0.5), rho=0.05)
    trainer = tw.Trainer(model, loss=nn.L1Loss(reduction="sum"), optimizer=optimizer)
    trainer.step(np.array([[size, 0], [1, 1]], dtype), np.array([[-1], [0.02]], dtype))
    assert model.flat_parameters.tolist() == [np.array(-0.5 * size, dtype), -0.5]


@pytest.mark.parametrize("loss", [nn.L1Loss(reduction="sum"), lambda f, y: absolute(f, y)])
def test_a_small_step_up_a_huge_gradient_has_its_length(loss):
    """To w = (1e-7, 0), where rho over the norm of the gradient is not a normal number."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model.flat_parameters = [0.0, 0.0]
    optimizer = optim.SAM(optim.SGD(lr=0.5), rho=1e-7)
    trainer = tw.Trainer(model, loss=loss, optimizer=optimizer)
    x = np.array([[1e38, 0], [1, 1]], "float32")
    for target, sign in [(0.9999e-7, -1), (1.0001e-7, 1)]:  # below what is there, and above
        model.flat_parameters = [0.0, 0.0]
        trainer.step(x, np.array([[-1], [target]], "float32"))
        assert model.flat_parameters[1] == sign * 0.5


def absolute(outputs, targets):
    return float(np.abs(outputs - targets).sum()), np.sign(outputs - targets)


def test_what_is_done_to_the_base_by_hand_is_done_to_sam():
    """A strategy warns about steps without its penalty, and a fit about rates without effect."""
    model = nn.Sequential(nn.Linear(2, 1))
    optimizer = optim.SAM(optim.SGD(lr=0.1))
    tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    optimizer.base.step(model)
    optimizer.base.lr = 0.2
    assert (optimizer._by_hand.steps, optimizer._by_hand.lr) == (1, 0.2)
