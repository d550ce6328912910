"""A loss of one's own with every optimizer and every kind of data: as that of the core, or refused.

An optimizer that is new to `thalweg.optim` has to be entered here, or the first test fails.
"""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.optim import schedules

from ..helpers import kinds_in
from .cases import K

N = 40


def mse(output, target, weight=None):
    d = output - target
    w = np.full((len(d), 1), 1 / d.size) if weight is None else weight[:, None] / weight.sum() / K
    return (w * d**2).sum(), 2 * w * d


# How each is made, by name; those of one class begin with its name.
OPTIMIZERS = {
    "SGD": lambda: optim.SGD(lr=0.05, momentum=0.9),
    "Adagrad": lambda: optim.Adagrad(lr=0.05),
    "RMSprop": lambda: optim.RMSprop(lr=0.005),
    "Adadelta": lambda: optim.Adadelta(),
    "Adam": lambda: optim.Adam(lr=0.01),
    "AdamW": lambda: optim.AdamW(lr=0.01).add_group("*.bias", weight_decay=0.0),
    "NAdam": lambda: optim.NAdam(lr=0.01),
    "RAdam": lambda: optim.RAdam(lr=0.01),
    "Adamax": lambda: optim.Adamax(lr=0.01),
    "Lion": lambda: optim.Lion(lr=0.001),
    "LAMB": lambda: optim.LAMB(lr=0.01),
    "Adafactor": lambda: optim.Adafactor(lr=0.01),
    "Muon": lambda: optim.Muon(lr=0.01, matrices="all"),
    "Shampoo": lambda: optim.Shampoo(lr=0.01),
    "ScheduleFreeAdamW": lambda: optim.ScheduleFreeAdamW(lr=0.01),
    "Prodigy": lambda: optim.Prodigy(),
    "Rprop": lambda: optim.Rprop(),
    "LBFGS": lambda: optim.LBFGS(max_iter=4),
    "LBFGS without a search": lambda: optim.LBFGS(lr=0.1, line_search_fn=None, max_iter=4),
    "LevenbergMarquardt": lambda: optim.LevenbergMarquardt(),
    "SAM of SGD": lambda: optim.SAM(optim.SGD(lr=0.05, momentum=0.9), rho=0.1),
    "SAM of AdamW, adaptive": lambda: optim.SAM(optim.AdamW(lr=0.01), rho=0.5, adaptive=True),
    "SAM of LAMB": lambda: optim.SAM(optim.LAMB(lr=0.01)),
    "SAM, a part frozen": lambda: optim.SAM(
        optim.SGD(lr=0.05).add_group("0.weight", frozen=True), rho=0.3
    ),
    "SAM of no radius": lambda: optim.SAM(optim.Adam(lr=0.01), rho=0.0),
}

#: Needs residuals, of which a function that gives a loss and a gradient says nothing.
REFUSED = {"LevenbergMarquardt": (tw.ArgumentError, r"sum of squares: loss must be nn\.MSELoss")}

WHOLE = {name for name in OPTIMIZERS if name.startswith("LBFGS")}


def test_every_optimizer_is_here():
    optimizers = {kind.__name__ for kind in kinds_in(optim, optim.Optimizer)}
    assert optimizers == {name.split()[0].rstrip(",") for name in OPTIMIZERS}


def make(name, loss, **options):
    layers = [nn.Linear(6, 9), nn.Dropout(0.2), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, K)]
    model = nn.Sequential(*layers, dtype="float64", seed=3)
    return tw.Trainer(model, loss=loss, optimizer=OPTIMIZERS[name](), **options)


def arrays(trainer, x, y, w):
    size = None if isinstance(trainer.optimizer, optim.LBFGS) else 12
    options = {"batch_size": size, "sample_weight": w}
    trainer.fit(x, y, epochs=4, **options)
    return trainer.fit(x, y, epochs=4, validation_data=(x, y), **options)["val_loss"]


def steps(trainer, x, y, w):
    whole = isinstance(trainer.optimizer, optim.LBFGS)
    parts = [slice(None)] * 4 if whole else [slice(i, i + 12) for i in range(0, N, 12)] * 5
    return [trainer.step(x[p], y[p], None if w is None else w[p]) for p in parts]


def batches(trainer, x, y, w):
    cut = range(0, N, 12)

    def source():
        for i in cut:
            rows = slice(i, i + 12)
            yield (x[rows], y[rows]) if w is None else (x[rows], y[rows], w[rows])

    history = trainer.fit(source, epochs=5, validation_data=(x, y))
    return history["val_loss"] + (history["loss"] if w is None else [])


def by_hand(trainer, x, y, w):
    losses = []
    for _ in range(5):
        trainer.model.zero_grad()
        if isinstance(trainer.optimizer, optim.LBFGS):
            closure = lambda: trainer.backward(x, y, w)  # noqa: E731
            losses.append(trainer.optimizer.step(trainer.model, closure))
        else:
            losses.append(trainer.backward(x, y, w))
            trainer.optimizer.step(trainer.model)
    return losses


WAYS = {"arrays": arrays, "steps": steps, "batches": batches, "by hand": by_hand}


def refusal(name, way):
    """What is refused whatever the loss is."""
    if name in WHOLE and way == "batches":
        return tw.UnsupportedError, "LBFGS takes all samples at once.*pass arrays x and y"
    if name.startswith("SAM") and way == "by hand":
        return tw.UnsupportedError, "SAM needs two gradients per step"
    return None


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_as_the_same_loss_of_the_core(name, way, weighted, rng):
    x, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K))
    w = rng.uniform(0.5, 2, N) if weighted else None
    if name in REFUSED:
        kind, message = REFUSED[name]
        with pytest.raises(kind, match=message):
            make(name, mse)
        return
    if (refused := refusal(name, way)) is not None:
        for loss in (nn.MSELoss(), mse):
            with pytest.raises(refused[0], match=refused[1]):
                WAYS[way](make(name, loss), x, y, w)
        return
    ends = []
    for loss in (nn.MSELoss(), mse):
        trainer = make(name, loss)
        before = trainer.model.flat_parameters
        losses = WAYS[way](trainer, x, y, w)
        after = trainer.model.flat_parameters
        assert np.abs(after - before).max() > 1e-6  # something was learned
        ends.append([after, losses, trainer.optimizer.steps, trainer.model._core.passes()])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("way", ["arrays", "batches"])
@pytest.mark.parametrize("name", ["Adam", "SAM of SGD", "SAM of AdamW, adaptive"])
def test_schedules_limits_averages_and_gathering_go_along(name, way, rng):
    x, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K))
    ends = []
    for loss in (nn.MSELoss(), mse):
        trainer = make(
            name, loss, accumulate_grad_batches=3, clip_grad_norm=0.3, average=optim.EMA(0.8),
            schedule=schedules.CosineAnnealingLR(20),
        )  # fmt: skip
        WAYS[way](trainer, x, y, None)
        trainer = trainer.copy()
        WAYS[way](trainer, x, y, None)
        model = trainer.average_model()
        ends.append([trainer.model.flat_parameters, model.flat_parameters, trainer.optimizer.lr])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-11)


def test_running_averages_take_the_first_pass_of_sam_in(rng):
    x, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K))
    ends = []
    for loss in (nn.MSELoss(), mse):
        layers = nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, K)
        model = nn.Sequential(*layers, dtype="float64", seed=3)
        optimizer = optim.SAM(optim.SGD(lr=0.05), rho=0.2)
        tw.Trainer(model, loss=loss, optimizer=optimizer).fit(x, y, epochs=4, batch_size=10)
        ends.append(model.state_dict())
    for name, one in ends[0].items():
        np.testing.assert_allclose(ends[1][name], one, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("call", [1, 2], ids=["at the parameters", "beside them"])
@pytest.mark.parametrize("what", ["an error", "no number", "a slope of huge numbers"])
def test_a_step_of_sam_that_fails_changes_nothing(what, call, rng):
    x, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K))
    calls = 0

    def loss(output, target):
        nonlocal calls
        calls += 1
        value, slope = mse(output, target)
        if calls == 2 + call:
            if what == "an error":
                raise KeyError("mine")
            return (np.nan, slope) if what == "no number" else (value, 1e308 * np.sign(slope))
        return value, slope

    trainer = make("SAM of SGD", loss)
    trainer.step(x, y)
    before, state = trainer.model.flat_parameters, repr(trainer.optimizer.state_dict())
    kind = KeyError if what == "an error" else tw.DivergedError
    with pytest.raises(kind):
        trainer.step(x, y)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert repr(trainer.optimizer.state_dict()) == state
    assert trainer.model._core.passes() == 1


# --- batches of an iterable -----------------------------------------------------------------------


def test_batches_of_an_iterable_are_checked_as_they_come(rng):
    x, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K))
    trainer = make("Adam", mse)
    before = trainer.model.flat_parameters
    bad = x[:5].copy()
    bad[3, 2] = np.nan
    for batches, kind, message in [
        ([(x, y), (bad, y[:5])], tw.DataError, r"batch 2 of epoch 1: x\[3, 2\] is NaN"),
        ([(x, y), (x, y[:5])], tw.ShapeError, "batch 2 of epoch 1: x has 40 rows but y has 5"),
        ([], tw.DataError, "no batches in epoch 1"),
        ([(x, y, 0 * y[:, 0])], tw.DataError, "all rows of epoch 1 have a weight of 0"),
    ]:
        with pytest.raises(kind, match=message):
            trainer.fit(batches)
        np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    with pytest.raises(tw.DataError, match=r"validation x\[3, 2\]"):
        trainer.fit([(x, y)], validation_data=(bad, y[:5]))


def test_targets_of_an_iterable_are_whatever_the_function_takes(rng):
    x = rng.standard_normal((6, 6))
    y = np.array([(i, f"row {i}") for i in range(6)], dtype="i8,U8")
    seen = []

    def loss(output, target):
        seen.extend(target["f1"].tolist())
        return mse(output, np.zeros_like(output))

    make("Adam", loss).fit([(x[:4], y[:4]), (x[4:], y[4:])])
    assert seen == [f"row {i}" for i in range(6)]


# --- another loss in its place --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adam", "SAM of SGD"])
def test_a_function_takes_the_place_of_another(name, rng):
    x, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K))
    trainer, twin = make(name, lambda o, t: (0.0, 0 * o)), make(name, mse)
    trainer.loss = mse
    assert trainer.loss == nn.CustomLoss(mse)
    for one in (trainer, twin):
        one.fit(x, y)
    np.testing.assert_array_equal(trainer.model.flat_parameters, twin.model.flat_parameters)
    for other in (nn.MSELoss(), "mse"):
        with pytest.raises(tw.ThalwegError, match="loss"):
            trainer.loss = other
    with pytest.raises(tw.UnsupportedError, match="both functions"):
        make(name, nn.MSELoss()).loss = mse


def test_not_during_a_fit(rng):
    trainer = make("Adam", mse)
    before = trainer.model.flat_parameters

    class Meddler(tw.callbacks.Callback):
        def on_epoch_end(self, trainer, record):
            trainer.loss = lambda output, target: mse(output, target)

    with pytest.raises(tw.ArgumentError, match="loss cannot change during a fit"):
        trainer.fit(rng.standard_normal((N, 6)), np.ones((N, K)), callbacks=[Meddler()])
    assert not np.array_equal(trainer.model.flat_parameters, before)  # the epoch had ended
