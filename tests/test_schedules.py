"""Schedules: against PyTorch's, against closed forms, and in training."""

import itertools
import json
import re
import subprocess
import sys
import textwrap
import tracemalloc
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.optim import schedules


def rates(schedule, times, base=1.0, total=None):
    return np.array([schedule.lr(t, base=base, total=total) for t in range(times)])


# Ours, and PyTorch's for an optimizer with lr=0.4.
PAIRS = {
    "constant": (
        schedules.ConstantLR(0.25, 7),
        lambda o, s: s.ConstantLR(o, 0.25, 7),
    ),
    "linear": (
        schedules.LinearLR(0.1, 0.8, 12),
        lambda o, s: s.LinearLR(o, 0.1, 0.8, 12),
    ),
    "step": (schedules.StepLR(6, 0.3), lambda o, s: s.StepLR(o, 6, 0.3)),
    "multi-step": (
        schedules.MultiStepLR([20, 5, 11], 0.5),
        lambda o, s: s.MultiStepLR(o, [5, 11, 20], 0.5),
    ),
    "exponential": (schedules.ExponentialLR(0.93), lambda o, s: s.ExponentialLR(o, 0.93)),
    "polynomial": (
        schedules.PolynomialLR(30, 2.0),
        lambda o, s: s.PolynomialLR(o, 30, 2.0),
    ),
    "cosine, and beyond its end": (
        schedules.CosineAnnealingLR(25, 0.01),
        lambda o, s: s.CosineAnnealingLR(o, 25, 0.01),
    ),
    "warm restarts": (
        schedules.CosineAnnealingWarmRestarts(4, 2, 0.02),
        lambda o, s: s.CosineAnnealingWarmRestarts(o, 4, 2, 0.02),
    ),
    "warm restarts of one length": (
        schedules.CosineAnnealingWarmRestarts(7),
        lambda o, s: s.CosineAnnealingWarmRestarts(o, 7),
    ),
    "one cycle": (
        schedules.OneCycleLR(2.0, total_steps=50),
        lambda o, s: s.OneCycleLR(o, 2.0, total_steps=50, cycle_momentum=False),
    ),
    "one cycle, linear": (
        schedules.OneCycleLR(
            2.0, total_steps=50, pct_start=0.2, anneal_strategy="linear",
            div_factor=10, final_div_factor=100,
        ),
        lambda o, s: s.OneCycleLR(
            o, 2.0, total_steps=50, pct_start=0.2, anneal_strategy="linear",
            div_factor=10, final_div_factor=100, cycle_momentum=False,
        ),
    ),
    "one cycle, three phases": (
        schedules.OneCycleLR(2.0, total_steps=50, three_phase=True),
        lambda o, s: s.OneCycleLR(o, 2.0, total_steps=50, three_phase=True, cycle_momentum=False),
    ),
    "one cycle, three phases, linear": (
        schedules.OneCycleLR(
            2.0, total_steps=50, pct_start=0.4, anneal_strategy="linear", three_phase=True
        ),
        lambda o, s: s.OneCycleLR(
            o, 2.0, total_steps=50, pct_start=0.4, anneal_strategy="linear", three_phase=True,
            cycle_momentum=False,
        ),
    ),
    "one cycle without a way up": (
        schedules.OneCycleLR(2.0, total_steps=50, pct_start=0.0),
        lambda o, s: s.OneCycleLR(o, 2.0, total_steps=50, pct_start=0.0, cycle_momentum=False),
    ),
    "one cycle, three phases, two of them before the first step": (
        schedules.OneCycleLR(2.0, total_steps=50, pct_start=0.01, three_phase=True),
        lambda o, s: s.OneCycleLR(
            o, 2.0, total_steps=50, pct_start=0.01, three_phase=True, cycle_momentum=False
        ),
    ),
    "lambda": (
        schedules.LambdaLR(lambda t: 1 / (1 + t)),
        lambda o, s: s.LambdaLR(o, lambda t: 1 / (1 + t)),
    ),
    "one after another": (
        schedules.SequentialLR(
            [schedules.ConstantLR(0.1, 10), schedules.ExponentialLR(0.9)], [10]
        ),
        lambda o, s: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 10), s.ExponentialLR(o, 0.9)], [10]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_rates_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours, make = PAIRS[name]
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.4)
    scheduler = make(optimizer, torch.optim.lr_scheduler)
    expected = []
    for _ in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < 50:  # beyond its end PyTorch's one-cycle schedule raises
            scheduler.step()
    # PyTorch multiplies step by step, which rounds otherwise.
    np.testing.assert_allclose(rates(ours, 50, base=0.4), expected, rtol=1e-11, atol=1e-15)


def test_plateaus_are_pytorchs():
    torch = pytest.importorskip("torch")
    figures = [1.0, 0.9, 0.95, 0.9, 0.89999, 0.91, 0.5, 0.6, 0.6, 0.6, 0.4, 0.41, 0.42, 0.43, 0.44]
    options = itertools.product(
        ("min", "max"), (0, 2), ("rel", "abs"), (0, 3), (0.0, 0.05), (1e-4, 0.2)
    )
    for mode, patience, threshold_mode, cooldown, least, threshold in options:
        given = {
            "mode": mode, "factor": 0.5, "patience": patience, "threshold": threshold,
            "threshold_mode": threshold_mode, "cooldown": cooldown, "min_lr": least,
        }  # fmt: skip
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **given)
        ours, lr = schedules.ReduceLROnPlateau(**given), 0.4
        state = ours.start()
        for figure in figures * 3:
            scheduler.step(figure)
            lr = ours.update(state, figure, lr)
            assert lr == optimizer.param_groups[0]["lr"], given


@pytest.mark.parametrize(
    ("monitor", "figures"),
    [("val_loss", [3.0, 2.0, 1.0, 1.0, 1.0]), ("val_accuracy", [0.7, 0.8, 0.9, 0.9, 0.9])],
)
def test_which_figures_are_better_follows_from_their_names(monitor, figures):
    """The rate falls after the second epoch that is not better, none before."""
    plateau, lr, seen = schedules.ReduceLROnPlateau(patience=1, monitor=monitor), 1.0, []
    state = plateau.start()
    for figure in figures:
        seen.append(lr := plateau.update(state, figure, lr))
    assert seen == [1.0, 1.0, 1.0, 1.0, 0.1]
    with pytest.raises(tw.ArgumentError, match="ReduceLROnPlateau: the name 'flow' does not tell"):
        schedules.ReduceLROnPlateau(monitor="flow")
    assert schedules.ReduceLROnPlateau(mode="max", monitor="flow").mode == "max"


def test_known_rates():
    """Figures that others have published for these shapes."""
    cycle = rates(schedules.OneCycleLR(1.0, total_steps=100), 100)
    assert cycle[0] == pytest.approx(0.04)
    assert cycle.argmax() == 29
    assert cycle[29] == 1
    assert cycle[-1] == pytest.approx(4e-6)
    cosine = schedules.CosineAnnealingLR(100)
    assert [cosine.lr(t, base=1.0) for t in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    warm = schedules.LinearWarmup(10, then=cosine, start_factor=0.5)
    assert [warm.lr(t, base=1.0) for t in (0, 5, 10, 60, 110)] == pytest.approx(
        [0.5, 0.75, 1, 0.5, 0]
    )


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("first", [1, 7, 10])
def test_warm_restarts_are_where_counting_the_cycles_finds_them(first, factor):
    start, length, expected = 0, first, []
    for t in range(3000):
        if t == start + length:
            start, length = t, length * factor
        expected.append((1 + np.cos(np.pi * ((t - start) / length))) / 2)
    schedule = schedules.CosineAnnealingWarmRestarts(first, factor)
    np.testing.assert_allclose(rates(schedule, 3000), expected, rtol=0, atol=1e-15)


def test_restarts_long_ago_are_not_counted_one_by_one():
    """Every block of steps of a long training would take as long as all before it."""
    schedule = schedules.CosineAnnealingWarmRestarts(2)
    tracemalloc.start()
    try:
        assert schedule.lr(10**6, base=1) == 1
        assert schedule.lr(10**6 + 1, base=1) == 0.5
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1e5


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_warm_up_plateau_and_decay(decay):
    got = rates(schedules.WarmupStableDecay(10, 20, 100, decay=decay, min_factor=0.1), 101)
    np.testing.assert_allclose(got[:11], np.arange(11) / 10)
    np.testing.assert_array_equal(got[10:81], 1)
    half = {"linear": 0.5, "cosine": 0.5, "1-sqrt": 1 - np.sqrt(0.5)}[decay]
    assert got[90] == pytest.approx(0.1 + 0.9 * half)
    assert got[100] == pytest.approx(0.1)
    assert (np.diff(got[80:]) < 0).all()


def make(schedule=None, lr=0.5, **options):
    """A model of one weight that every step moves by lr times a gradient of -1."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False, init="zeros"), dtype="float64")
    trainer = tw.Trainer(
        model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=lr), schedule=schedule, **options
    )
    # With the target half above the output, 2 (w x - y) x = -1 for x = 1.
    return trainer, lambda: (np.ones((1, 1)), model.flat_parameters.reshape(1, 1) + 0.5)


def test_steps_by_hand_follow_the_schedule():
    schedule = schedules.LinearWarmup(3, then=schedules.ExponentialLR(0.5))
    trainer, batch = make(schedule)
    expected, before = rates(schedule, 1500, base=0.5), 0.0
    for t in range(1500):
        trainer.step(*batch())
        after = trainer.model.flat_parameters[0]
        assert after - before == pytest.approx(expected[t], abs=1e-14)
        assert trainer.optimizer.lr == expected[t]
        before = after


def test_steps_by_hand_that_are_taken_back_follow_the_schedule_again():
    """Rates are computed in blocks, and the block of earlier steps had gone."""
    schedule = schedules.ExponentialLR(0.999)
    trainer, batch = make(schedule)
    trainer.step(*batch())
    state = trainer.optimizer.state_dict()
    for _ in range(1100):
        trainer.step(*batch())
    trainer.optimizer.load_state_dict(state, trainer.model)
    trainer.step(*batch())
    assert trainer.optimizer.lr == rates(schedule, 2, base=0.5)[1]


class Rates:
    """Notes the rate of every batch."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, trainer, record):
        self.seen.append(trainer.optimizer.lr)


X, Y = np.linspace(-1, 1, 10).reshape(-1, 1), np.linspace(1, 2, 10).reshape(-1, 1)


def test_a_fit_follows_the_schedule_over_epochs_and_goes_on_in_the_next():
    schedule = schedules.StepLR(4, 0.5)
    trainer, _ = make(schedule)
    rate = Rates()
    for _ in range(2):
        trainer.fit(X, Y, epochs=2, batch_size=4, callbacks=[rate])  # 3 steps an epoch
    np.testing.assert_array_equal(rate.seen, rates(schedule, 12, base=0.5))


def test_a_fit_in_one_go_uses_the_same_rates_as_one_batch_by_batch():
    ends = []
    for callbacks in ([], [Rates()]):
        trainer, _ = make(schedules.CosineAnnealingLR())
        trainer.fit(X, Y, epochs=7, batch_size=3, callbacks=callbacks)
        ends.append(trainer.model.flat_parameters)
        assert trainer.optimizer.lr == rates(schedules.CosineAnnealingLR(28), 28, base=0.5)[-1]
    np.testing.assert_array_equal(*ends)


def test_a_rate_that_the_schedule_undoes_is_a_warning_again_after_a_fit_that_is_undone():
    trainer, _ = make(schedules.ExponentialLR(0.5))
    trainer.optimizer.lr = 0.3
    told = r"lr was set to 0\.3"
    with pytest.warns(UserWarning, match=told), pytest.raises(tw.DivergedError):
        trainer.fit(X * 1e150, Y * 1e150, epochs=5)
    assert trainer.optimizer.lr == 0.3
    with pytest.warns(UserWarning, match=told):
        trainer.fit(X, Y)


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_a_rate_that_overflows_is_named_before_the_first_step(per):
    """NumPy warned of an overflow, and the error named neither the schedule nor the time."""
    schedule = schedules.ExponentialLR(10.0, per=per)
    trainer, _ = make(schedule)
    before = trainer.model.flat_parameters
    units = "updates" if per == "step" else "epochs"
    message = rf"ExponentialLR.*, based on 0\.5, .* rate of inf for t=309, .* fit of 400 {units}"
    with pytest.raises(tw.ArgumentError, match=message):
        trainer.fit(X, Y, epochs=400, batch_size=None)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert trainer.optimizer.lr == 0.5
    trainer, _ = make(schedule, lr=1e-300)
    trainer.fit(X, Y, epochs=10, batch_size=None)
    with pytest.raises(tw.ArgumentError, match=r"for t=309,"):
        trainer.fit(X, Y, epochs=400, batch_size=None)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.step(X, Y)  # although rates are computed in advance
    assert not seen


def test_a_step_that_fails_leaves_the_rate_as_it_was():
    trainer, _ = make(schedules.LinearWarmup(10))
    with pytest.raises(tw.ShapeError):
        trainer.step(X, Y[:3])
    assert trainer.optimizer.lr == 0.5
    trainer.step(X, Y)
    assert trainer.optimizer.lr == 0


def test_a_rate_that_the_schedule_undoes_is_a_warning():
    trainer, _ = make(schedules.ExponentialLR(0.5))
    trainer.fit(X, Y, epochs=2)
    trainer.optimizer.lr = 0.3
    with pytest.warns(UserWarning, match=r"lr was set to 0\.3.*based on 0\.5,.* fit\(.*lr=0\.3\)"):
        trainer.fit(X, Y)
    assert trainer.optimizer.lr == 0.5**3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(X, Y)
        trainer.optimizer.lr = 0.3
        trainer.fit(X, Y, lr=0.4)
        trainer.optimizer.lr = 0.3
        trainer.step(X, Y)  # undoes it
        trainer.fit(X, Y)
        again, _ = make(schedules.ReduceLROnPlateau(monitor="loss"))  # goes on from any rate
        again.optimizer.lr = 0.2
        again.fit(X, Y)


class Sets:
    """Sets rates itself, as Keras' LearningRateScheduler."""

    def __init__(self, name, rate=0.3):
        self._rate = rate
        setattr(self, name, self._set)

    def _set(self, trainer, record=None):
        trainer.optimizer.lr = self._rate


@pytest.mark.parametrize("name", ["on_fit_begin", "on_step_end", "on_epoch_end"])
def test_a_rate_that_the_schedule_undoes_within_a_fit_is_one_warning(name):
    """It had no effect, and nothing said so."""
    for data in ((X, Y), ([(X, Y)],)):
        trainer, _ = make(schedules.ExponentialLR(0.5))
        with pytest.warns(UserWarning, match=r"lr was set to 0\.3, .*yourself, leave") as caught:
            trainer.fit(*data, epochs=4, callbacks=[Sets(name), Rates()])
        assert [warning.filename for warning in caught] == [__file__]
        assert trainer.optimizer.steps == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in (None, schedules.ReduceLROnPlateau(monitor="loss")):
            trainer, _ = make(schedule)
            trainer.fit(X, Y, epochs=4, callbacks=[Sets(name)])
            assert trainer.optimizer.lr == 0.3
        trainer, _ = make(schedules.ExponentialLR(0.5))
        trainer.fit(X, Y, epochs=4, callbacks=[Sets(name, 0.5)])  # what the schedule is based on


def test_a_fit_to_batches_can_be_given_the_rate_of_its_schedule():
    trainer, _ = make(schedules.ExponentialLR(0.5))
    trainer.fit([(X, Y)], epochs=2, lr=0.25)
    assert trainer.optimizer.lr == 0.125
    with pytest.raises(tw.ArgumentError, match="lr must be a number; got 'auto'"):
        trainer.fit([(X, Y)], lr="auto")


class Loader:
    """Batches of data that do not know how many they are, as PyTorch's loaders of streams."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)

    def __len__(self):
        raise TypeError("object of type 'IterableDataset' has no len()")


def test_a_loader_may_not_know_its_length():
    trainer, _ = make(schedules.ExponentialLR(0.5))
    trainer.fit(Loader([(X, Y)] * 3))
    assert trainer.optimizer.lr == 0.125
    trainer, _ = make(schedules.CosineAnnealingLR())
    with pytest.raises(tw.ArgumentError, match="an iterable without a length"):
        trainer.fit(Loader([(X, Y)] * 3))


def test_a_trainer_that_becomes_another_has_its_rates():
    trainer, batch = make(schedules.ExponentialLR(0.5))
    other, _ = make(schedules.ExponentialLR(0.5), lr=0.25)
    trainer.step(*batch())
    trainer._become(other)
    trainer.step(*batch())
    assert trainer.optimizer.lr == 0.25


def test_rprop_sets_out_from_the_rate_of_its_first_step():
    """As PyTorch's does; later ones have no effect."""
    torch = pytest.importorskip("torch")
    peer = torch.nn.Linear(2, 1).double()
    ends = []
    for way in ("fit", "step", "batches"):
        model = nn.Sequential(nn.Linear(2, 1), dtype="float64")
        if way == "fit":
            peer.weight.data.copy_(torch.from_numpy(model.state_dict()["0.weight"]))
            peer.bias.data.copy_(torch.from_numpy(model.state_dict()["0.bias"]))
        trainer = tw.Trainer(
            model, loss=nn.MSELoss(), optimizer=optim.Rprop(lr=0.1),
            schedule=schedules.LambdaLR(lambda t: 0.5 + t),
        )  # fmt: skip
        x, y = np.array([[1.0, 2.0], [-3.0, 0.5]]), np.array([[1.0], [-2.0]])
        if way == "step":
            for _ in range(3):
                trainer.step(x, y)
        else:
            trainer.fit(*((x, y) if way == "fit" else ([(x, y)],)), epochs=3)
        ends.append(model.flat_parameters.copy())
    optimizer = torch.optim.Rprop(peer.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 + t)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(peer(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
        schedule.step()
    expected = np.concatenate([p.detach().numpy().ravel() for p in peer.parameters()])
    for end in ends:
        np.testing.assert_allclose(end, expected, rtol=1e-13)


def test_epochs_can_be_counted_instead_of_steps():
    schedule = schedules.ExponentialLR(0.5, per="epoch")
    trainer, batch = make(schedule)
    rate = Rates()
    trainer.fit(X, Y, epochs=2, batch_size=5, callbacks=[rate])
    trainer.fit(X, Y, epochs=1, batch_size=5, callbacks=[rate])
    assert rate.seen == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    trainer.step(*batch())  # in the fourth epoch, so to speak
    assert trainer.optimizer.lr == 0.0625


@pytest.mark.parametrize(
    ("schedule", "instead"),
    [
        (schedules.StepLR(1, per="epoch"), 'make the schedule with per="step", or leave'),
        (schedules.ReduceLROnPlateau(monitor="loss", patience=0), "each epoch, or leave"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["step", "update"])
def test_a_loop_by_hand_has_no_epochs_to_count(schedule, instead, method):
    """The rate would stay as it is, and nothing would say so."""
    trainer, batch = make(schedule)
    trainer.backward(*batch())
    act = {"step": lambda: trainer.step(*batch()), "update": trainer.update}[method]
    text = rf"counts epochs of fit.*epochs=1\).*{instead} the schedule out and set optimizer\.lr"
    with pytest.raises(tw.ArgumentError, match=text):
        act()
    assert (trainer.model.flat_parameters[0], trainer.optimizer.steps) == (0, 0)

    class Step(tw.callbacks.Callback):
        def on_step_end(self, trainer, record):
            rate = trainer.optimizer.lr
            act()  # within the first epoch
            assert trainer.optimizer.lr == rate

    trainer.fit(X, Y, epochs=1, batch_size=5, callbacks=[Step()])
    act()
    assert trainer.optimizer.steps == 5


def test_a_fit_for_each_epoch_lets_epochs_be_counted():
    trainer, _ = make(schedules.StepLR(2, 0.5, per="epoch"))
    rate = Rates()
    for _ in range(5):
        trainer.fit(X, Y, callbacks=[rate])
    assert rate.seen == [0.5, 0.5, 0.25, 0.25, 0.125]


def test_a_schedule_of_several_factors_is_a_function_of_their_product():
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    ours = schedules.LinearLR(0.1, 1.0, 4), schedules.ExponentialLR(0.9)
    both = schedules.LambdaLR(lambda t: ours[0].lr(t, base=1) * ours[1].lr(t, base=1))
    lr = torch.optim.lr_scheduler
    chain = lr.ChainedScheduler([lr.LinearLR(theirs, 0.1, 1.0, 4), lr.ExponentialLR(theirs, 0.9)])
    for t in range(10):
        assert both.lr(t, base=0.5) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        theirs.step()
        chain.step()


def test_a_schedule_without_a_length_is_as_long_as_each_fit():
    trainer, _ = make(schedules.LinearWarmup(2, then=schedules.PolynomialLR(None)), lr=0.25)
    rate = Rates()
    for epochs in (2, 3):
        trainer.fit(X, Y, epochs=epochs, batch_size=5, callbacks=[rate])
    first = [0, 0.125, 0.25, 0.125]  # up in two, down in the two that remain
    second = [0, 0.125, 0.25, 0.1875, 0.125, 0.0625]
    assert rate.seen == pytest.approx(first + second)


def test_a_schedule_without_a_length_has_none_in_steps_by_hand():
    trainer, batch = make(schedules.OneCycleLR(0.1))
    text = r"total_steps was left out, .*make the schedule with total_steps=\.\.\., or pass total="
    with pytest.raises(tw.ArgumentError, match=text):
        trainer.step(*batch())
    assert trainer.model.flat_parameters[0] == 0


def test_a_fit_that_mostly_stands_still_is_a_warning():
    """PyTorch's default length is 5: a line to 0 ends there, and fits are mostly longer."""
    text = r"^LinearLR\(.*\) gives a rate of 0 for 25 of the 30 updates of this fit.*s=None makes"
    trainer, _ = make(schedules.LinearLR(1.0, 0.0))
    with pytest.warns(UserWarning, match=text) as caught:
        trainer.fit(X, Y, epochs=30, batch_size=10)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="for 15 of the 20 epochs"):
        make(schedules.PolynomialLR(per="epoch"))[0].fit([(X, Y)], epochs=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(X, Y, epochs=30, batch_size=10)  # it has been said
        for schedule in (
            schedules.LinearLR(1.0, 0.0, None), schedules.LinearLR(), schedules.PolynomialLR(15),
            schedules.LinearWarmup(40),
        ):  # fmt: skip
            make(schedule)[0].fit(X, Y, epochs=30, batch_size=10)
        make(schedules.LinearWarmup(40))[0].fit(X, Y)  # of one update, at a rate of 0
        make(schedules.LinearLR(1.0, 0.0), lr=0.0)[0].fit(X, Y, epochs=30)  # as it was asked to


LOW = r"for (\d+) of the (\d+) updates up to the end of this fit.*; per=\"epoch\" counts epochs"


@pytest.mark.parametrize(
    ("schedule", "low", "largest"),
    [
        (schedules.StepLR(30), "250", "0.5"),
        (schedules.ExponentialLR(0.95), "220", "0.5"),
        (schedules.OneCycleLR(0.01, total_steps=20), "381", "0.01"),  # does not use the base
    ],
    ids=repr,
)
def test_a_fit_that_hardly_learns_is_a_warning(schedule, low, largest):
    """Schedules that count epochs in PyTorch's loops, as they were ported, count updates."""
    trainer, _ = make(schedule)
    with pytest.warns(UserWarning, match=LOW) as caught:
        trainer.fit(X, Y, epochs=400, batch_size=10)
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(f"{schedule!r} gives at most 0.0001 of its largest rate, {largest}, ")
    assert re.search(LOW, message).groups() == (low, "400")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(X, Y, epochs=400, batch_size=10)  # it has been said
    trainer, _ = make(schedule)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(20):  # the same in a loop over epochs
            trainer.fit(X, Y, epochs=20, batch_size=10)
    assert [bool(re.search(LOW, str(warning.message))) for warning in seen] == [True]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fits", [1, 200])
@pytest.mark.parametrize(
    "schedule",
    [
        schedules.CosineAnnealingLR(400),
        schedules.CosineAnnealingLR(),
        schedules.OneCycleLR(1e-6, total_steps=400),
        schedules.PolynomialLR(400, 4.0),
        schedules.WarmupStableDecay(50, 100, 400, decay="1-sqrt"),
        schedules.LinearWarmup(10**6),
        schedules.ExponentialLR(1.1),  # as for finding a rate
        schedules.LambdaLR(lambda t: 1e-5),
        schedules.StepLR(60, per="epoch"),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_rates_that_are_low_in_the_end_are_no_warning(schedule, fits):
    trainer, _ = make(schedule, lr=1e-20)
    for _ in range(fits):  # at the end of a cosine, one of many short ones is all low
        trainer.fit(X, Y, epochs=200 // fits, batch_size=5)


def test_a_plateau_lowers_the_rate_at_the_end_of_an_epoch():
    """Rates so small that nothing is learned, so nothing gets better."""

    def seen(**options):
        trainer, _ = make(schedules.ReduceLROnPlateau(monitor="loss", **options), lr=2e-17)
        rate = Rates()
        trainer.fit(X, Y, epochs=6, batch_size=10, callbacks=[rate])
        return rate.seen

    expected = [2e-17, 2e-17, 2e-17, 1e-17, 1e-17, 5e-18]
    assert seen(factor=0.5, patience=1, eps=0) == expected
    assert seen(factor=0.5, patience=1) == [2e-17] * 6  # a change below eps is not made


def test_rates_by_epoch_do_not_slip_where_batches_are_passed_over():
    trainer, _ = make(schedules.StepLR(1, 0.5, per="epoch"))
    seen = []

    class Epochs:
        def on_step_end(self, trainer, record):
            seen.append((record["epoch"], trainer.optimizer.lr))

    weight = np.repeat([0.0, 1.0, 0.0, 1.0, 0.0], 2)
    trainer.fit(
        X, Y, epochs=3, batch_size=2, shuffle=False, sample_weight=weight, callbacks=[Epochs()]
    )  # fmt: skip
    assert seen == [(1, 0.5), (1, 0.5), (2, 0.25), (2, 0.25), (3, 0.125), (3, 0.125)]


def test_a_function_is_not_asked_about_a_future_that_never_comes():
    table = [0.5, 0.25]
    trainer, batch = make(schedules.LambdaLR(table.__getitem__))
    for rate in table:
        trainer.step(*batch())
        assert trainer.optimizer.lr == 0.5 * rate
    for _ in range(2):  # the second time, an earlier rate was used in place of the missing one
        with pytest.raises(IndexError):
            trainer.step(*batch())
    assert trainer.optimizer.steps == 2


def test_a_function_in_a_sequence_is_asked_about_its_own_times_only():
    table = [0.5, 0.25]
    schedule = schedules.SequentialLR(
        [schedules.LambdaLR(table.__getitem__), schedules.ConstantLR(0.1, 1)], [2]
    )
    assert rates(schedule, 4).tolist() == [0.5, 0.25, 0.1, 1.0]
    trainer, _ = make(schedule)
    trainer.fit(X, Y, epochs=2, batch_size=5)


def test_only_the_last_of_a_sequence_can_be_as_long_as_the_fit():
    schedule = schedules.SequentialLR(
        [schedules.LinearLR(total_iters=None), schedules.ConstantLR(1.0, 0)], [8]
    )
    trainer, _ = make(schedule, lr=0.9)
    rate = Rates()
    for _ in range(2):
        trainer.fit(X, Y, epochs=2, batch_size=5, callbacks=[rate])
    assert rate.seen == pytest.approx(0.3 + 0.6 * np.arange(8) / 8)


@pytest.mark.parametrize(("mode", "improved"), [("min", -200.0), ("max", -50.0)])
def test_a_figure_below_0_can_also_stop_improving(mode, improved):
    """As of a likelihood; with PyTorch's threshold, every epoch without a change improved on it."""
    schedule = schedules.ReduceLROnPlateau(mode, factor=0.5, patience=1)
    figures = [-100.0, -100.0, improved, improved, improved, improved]
    state, lr, found = schedule.start(), 1.0, []
    for figure in figures:
        lr = schedule.update(state, figure, lr)
        found.append(lr)
    assert found == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_any_figure_improves_on_an_infinite_one(threshold_mode):
    """As of an odd row of the validation data, in the first epoch; then nothing ever improved."""
    schedule = schedules.ReduceLROnPlateau(patience=0, threshold_mode=threshold_mode)
    state = schedule.start()
    assert [schedule.update(state, f, 1.0) for f in (np.inf, 3.0, 2.0, 2.0)] == [1, 1, 1, 0.1]


def test_a_plateau_needs_its_figure():
    trainer, _ = make(schedules.ReduceLROnPlateau())
    before = trainer.model.flat_parameters
    with pytest.raises(tw.ArgumentError, match="monitors 'val_loss'; pass validation_data"):
        trainer.fit(X, Y)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)


def test_nan_is_never_better():
    schedule = schedules.ReduceLROnPlateau(factor=0.5, patience=1)
    state, lr, seen = schedule.start(), 1.0, []
    for figure in (np.nan, 3.0, 2.0, np.nan, 2.0):
        lr = schedule.update(state, figure, lr)
        seen.append((state["best"], lr))
    assert seen == [(None, 1.0), (3.0, 1.0), (2.0, 1.0), (2.0, 1.0), (2.0, 0.5)]


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": schedules.StepLR(np.int64(3), np.float32(0.5))},
        {"schedule": schedules.OneCycleLR(np.float64(0.1), three_phase=np.bool_(True))},
        {"schedule": schedules.LinearWarmup(np.int64(2), start_factor=np.float32(0.5))},
        {"schedule": schedules.ReduceLROnPlateau(patience=np.int64(3), monitor="loss")},
        {"average": optim.EMA(np.float32(0.5), start=np.int64(1))},
        {"average": optim.SWA(every=np.int32(2))},
    ],
    ids=lambda options: repr(*options.values()),
)
def test_numbers_of_numpy_are_saved_as_pythons(options, tmp_path):
    model = nn.Sequential(nn.Linear(1, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(0.1), **options)
    trainer.fit(X, Y)
    trainer.save(tmp_path / "training")
    again = tw.Trainer.load(tmp_path / "training")
    assert (again.schedule, again._average) == (trainer.schedule, trainer._average)


def test_a_sequence_may_be_made_by_an_iterator():
    parts = [schedules.ConstantLR(0.1, 10), schedules.ExponentialLR(0.9)]
    assert schedules.SequentialLR(iter(parts), [10]) == schedules.SequentialLR(parts, [10])


def test_a_divergence_takes_the_schedule_back():
    """Also over epochs that had ended before it."""
    trainer, _ = make(schedules.ExponentialLR(2.0, per="epoch"), lr=1e-3)
    with pytest.raises(tw.DivergedError):
        trainer.fit(X, Y, epochs=100, batch_size=10)
    assert trainer.history.epochs > 0
    assert (trainer.optimizer.lr, trainer.optimizer.steps) == (1e-3, 0)
    rate = Rates()
    trainer.fit(1e-3 * X, Y, callbacks=[rate])
    assert rate.seen == [1e-3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.StepLR(0), "StepLR: step_size must be an integer >= 1; got 0"),
        (lambda: schedules.ExponentialLR(-1), "ExponentialLR: gamma"),
        (lambda: schedules.ExponentialLR(0.9, per="batch"), 'per must be one of "step", "epoch"'),
        (lambda: schedules.OneCycleLR(1.0, anneal_strategy="cosine"), 'did you mean "cos"'),
        (
            lambda: schedules.OneCycleLR(1.0, pct_start=0.6, three_phase=True),
            "pct_start must be at most 0.5 with three_phase",
        ),
        (lambda: schedules.LinearWarmup(5, then=0.1), "not a schedule"),
        (
            lambda: schedules.LinearWarmup(5, then=schedules.ReduceLROnPlateau()),
            r"not a schedule that depends on time alone: first .* in a fit of its own, then .* a "
            r"second Trainer of the same model and optimizer with schedule=ReduceLROnPlateau\(",
        ),
        (
            lambda: schedules.LinearWarmup(5, then=schedules.StepLR(2, per="epoch")),
            "they must be equal",
        ),
        (lambda: schedules.SequentialLR([schedules.StepLR(2)], [3]), "one fewer"),
        (lambda: schedules.WarmupStableDecay(9, 9, 10), "total_steps must be an integer >= 18"),
        (
            lambda: schedules.WarmupStableDecay(9, 9).lr(0, base=1, total=10),
            "more than the total of 10",
        ),
        (lambda: schedules.LambdaLR(lambda t: -t).lr(1, base=1), r"lr_lambda\(1\)"),
        (lambda: schedules.ReduceLROnPlateau(factor=1.0), "factor"),
        (lambda: schedules.MultiStepLR(5), "milestones must be a sequence"),
        (
            lambda: schedules.SequentialLR([schedules.ConstantLR()] * 2, {3}),
            "milestones must be a sequence",  # in order, with which a set has nothing to do
        ),
        (lambda: schedules.SequentialLR(5, [1]), "schedulers must be a sequence"),
        (lambda: schedules.SequentialLR((schedules.StepLR(k) for k in (1, 2)), []), "one fewer"),
        (lambda: schedules.StepLR(3).lr(0, base=-1), "base"),
        (lambda: schedules.CosineAnnealingLR().lr(0, base=1, total=0), "total must be an integer"),
        (lambda: schedules.PolynomialLR(None).lr(0, base=1, total=-3), "total must be an integer"),
        (lambda: schedules.StepLR(3).lr(0, base=1, total="a"), "total must be an integer"),
        (lambda: schedules.ReduceLROnPlateau(monitor=3), "monitor"),
        (lambda: make(0.1), "schedule must be one of thalweg.optim.schedules"),
    ],
)
def test_what_makes_no_sense_is_named(make, message):
    with pytest.raises(tw.ArgumentError, match=message):
        make()


def test_milestones_may_be_a_set():
    """They are sorted: its order means nothing."""
    assert schedules.MultiStepLR({6, 3}) == schedules.MultiStepLR([3, 6])


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_a_fit_of_more_updates_than_rates_have_room_for_is_refused(per):
    model = nn.Sequential(nn.Linear(2, 1))
    schedule = schedules.CosineAnnealingLR(per=per)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(0.1), schedule=schedule)
    for data in ((np.ones((4, 2)), np.ones(4)), ([(np.ones((4, 2)), np.ones(4))],)):
        with pytest.raises(tw.ArgumentError, match=f"CosineAnnealingLR.* over {2**40} .*at most"):
            trainer.fit(*data, epochs=2**40)
    assert trainer.fit(np.ones((4, 2)), np.ones(4)).epochs == 1


def test_optax_one_cycle_peaks_and_ends_one_update_later():
    """As the page of names says; with one more step, it is the same."""
    if find_spec("optax") is None:
        pytest.skip("could not import 'optax'")
    steps = (7, 33, 100)
    script = f"""
        import optax
        for n in {steps}:
            rate = optax.cosine_onecycle_schedule(n, 2.0)
            print([float(rate(t)) for t in range(n)])
    """  # another process, because none that has JAX in it can fork, as other tests do
    script = [sys.executable, "-c", textwrap.dedent(script)]
    printed = subprocess.run(script, capture_output=True, check=True).stdout.splitlines()
    for n, theirs in zip(steps, map(json.loads, printed), strict=True):
        pct_start = (int(0.3 * n) + 1) / (n + 1)
        ours = rates(schedules.OneCycleLR(2.0, total_steps=n + 1, pct_start=pct_start), n)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    same_length = rates(schedules.OneCycleLR(2.0, total_steps=100), 100)
    assert (same_length.argmax(), np.argmax(theirs)) == (29, 30)
    assert 0.02 < abs(same_length - theirs).max() / 2 < 0.03
