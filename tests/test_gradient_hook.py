"""Functions that change gradients between the backward pass and the update."""

import contextlib
import copy

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    DtypeError,
    ShapeError,
    UnsupportedError,
)

from .helpers import cut, squares

RNG = np.random.default_rng(5)
X = RNG.standard_normal((60, 4))
Y = RNG.integers(0, 3, 60)
T = RNG.standard_normal((60, 3))


def trainer(loss=None, optimizer=None, layers=(), **options):
    inside = layers or (nn.Tanh(),)
    model = nn.Sequential(nn.Linear(4, 8), *inside, nn.Linear(8, 3), seed=0, dtype="float64")
    return tw.Trainer(
        model,
        loss=loss or nn.CrossEntropyLoss(),
        optimizer=optimizer or optim.Adam(lr=0.01),
        **options,
    )


def same(gradient):
    return gradient


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": (nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))},
        {"optimizer": optim.SGD(lr=0.1, momentum=0.9)},
        {"accumulate_grad_batches": 3, "clip_grad_norm": 0.1},
        {"average": optim.EMA(0.9)},
        {"schedule": optim.schedules.CosineAnnealingLR(T_max=30)},
    ],
)
def test_a_hook_that_changes_nothing_leaves_training_as_it_is(options):
    plain, hooked = trainer(**copy.deepcopy(options)), trainer(**copy.deepcopy(options))
    weight = RNG.uniform(0.5, 2, 60)
    held_out = {"validation_data": (X[:20], Y[:20]), "sample_weight": weight}
    history = plain.fit(X, Y, epochs=3, batch_size=7, **held_out)
    with hooked.gradient_hook(same):
        found = hooked.fit(X, Y, epochs=3, batch_size=7, **held_out)
    # Accumulated gradients are sums of sums here, and one long sum in the core.
    rtol = 1e-12 if "accumulate_grad_batches" in options else 0
    one, other = hooked.model.flat_parameters, plain.model.flat_parameters
    np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)
    assert found.keys() == history.keys()
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(found[key], history[key], rtol=1e-12)
    assert type(hooked._core) is type(plain._core)  # the core's own again


LOSSES = {
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "class weights": nn.CrossEntropyLoss(weight=[1.0, 0.2, 3.0]),
    "a class that weighs nothing": nn.CrossEntropyLoss(weight=[1.0, 0.0, 3.0]),
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
    "sum of squares": nn.MSELoss(reduction="sum"),
}
#: Those for which the second batch below has no rows.
LEAVE_OUT = [LOSSES["a class that weighs nothing"], LOSSES["ignored labels"]]


class Losses:
    """Collects what `on_step_end` sees."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, trainer, record):
        self.seen.append(record["loss"])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("source", ["arrays", "stream"])
@pytest.mark.parametrize("weighted", [False, True])
def test_figures_count_rows_as_the_core_does(loss, source, weighted):
    """A hook that changes nothing also leaves losses and accuracies as they are.

    The second batch has only rows of class 1, which some losses leave out.
    """
    y = T if isinstance(loss, nn.MSELoss) else np.where((np.arange(60) // 7) == 1, 1, Y)
    w = RNG.uniform(0, 2, 60)
    seen = []
    for hook in (None, same):
        one, steps = trainer(loss, optim.SGD(lr=0.01)), Losses()
        with one.gradient_hook(hook) if hook else contextlib.nullcontext():
            more = {"epochs": 2, "callbacks": [steps], "validation_data": (X[:21], y[:21])}
            if source == "stream":
                history = one.fit(cut(X, y, *([w] if weighted else []), size=7), **more)
            else:
                weight = w if weighted else None
                history = one.fit(X, y, batch_size=7, shuffle=False, sample_weight=weight, **more)
        del history["seconds"]
        seen.append((history, steps.seen, one.model.flat_parameters.tolist()))
    assert seen[1] == seen[0]
    assert len(seen[0][1]) == (16 if loss in LEAVE_OUT else 18)


@pytest.mark.parametrize("loss", LEAVE_OUT, ids=["weight 0", "ignored"])
def test_a_step_in_which_no_row_counts_is_refused(loss):
    """As without a hook: only fits skip it."""
    hooked = trainer(loss)
    before = hooked.model.flat_parameters
    with hooked.gradient_hook(same), pytest.raises(DataError, match="no row counts"):
        hooked.step(X[:4], np.ones(4, int))
    np.testing.assert_array_equal(hooked.model.flat_parameters, before)
    assert hooked.optimizer.steps == 0


def test_steps_and_streams_call_it_too():
    batches = [(X[:30], Y[:30]), (X[30:], Y[30:])]
    plain, hooked, seen = trainer(), trainer(), []
    plain.step(X, Y)
    plain.fit(batches, epochs=2)
    with hooked.gradient_hook(lambda gradient: seen.append(gradient.copy()) or gradient):
        loss = hooked.step(X, Y)
        history = hooked.fit(batches, epochs=2)
    assert len(seen) == 1 + 4
    assert seen[0].shape == (hooked.model.num_parameters,)
    np.testing.assert_array_equal(hooked.model.flat_parameters, plain.model.flat_parameters)
    assert loss == pytest.approx(trainer().evaluate(X, Y)["loss"])
    np.testing.assert_allclose(history["accuracy"], plain.history["accuracy"])


def test_the_update_uses_what_it_returns():
    """Gradient descent in a subspace: theta stays in theta_0 + span(basis), by NumPy alone."""
    it = trainer(nn.MSELoss(), optim.SGD(lr=0.2))
    start, model = it.model.flat_parameters, copy.deepcopy(it.model)
    basis = np.linalg.qr(RNG.standard_normal((len(start), 5)))[0]
    with it.gradient_hook(lambda g: basis @ (basis.T @ g)):
        it.fit(X, T, epochs=3, batch_size=None)
    theta = start
    for _ in range(3):
        model.flat_parameters = theta
        model.zero_grad()
        output = model.forward(X)
        model.backward(2 * (output - T) / T.size)
        theta = theta - 0.2 * basis @ (basis.T @ model.flat_gradients)
    np.testing.assert_allclose(it.model.flat_parameters, theta, rtol=1e-12, atol=1e-14)


def test_hooks_come_in_order_and_before_penalty_and_clipping():
    it = trainer(nn.MSELoss(), optim.SGD(lr=1.0), clip_grad_norm=0.5)
    start = it.model.flat_parameters
    it.set_penalty(np.ones_like(start), np.zeros_like(start), 0.1)
    with it.gradient_hook(lambda g: g * 0), it.gradient_hook(lambda g: g + 1):
        it.step(X, T)
    gradient = 1 + 0.1 * start
    assert it.grad_norm == pytest.approx(np.linalg.norm(gradient))
    wanted = start - gradient * 0.5 / (np.linalg.norm(gradient) + 1e-6)
    np.testing.assert_allclose(it.model.flat_parameters, wanted, rtol=1e-9)


def test_a_hook_does_not_write_to_what_an_earlier_one_returned():
    mine = trainer()
    own = np.ones(mine.model.num_parameters)

    def halve(gradient):
        gradient /= 2
        return gradient

    with mine.gradient_hook(lambda gradient: own), mine.gradient_hook(halve):
        for _ in range(2):
            mine.step(X, Y)
            np.testing.assert_array_equal(mine.model.flat_gradients, 0.5)
    np.testing.assert_array_equal(own, 1)


def test_figures_of_a_custom_loss_are_there():
    def loss(output, target):
        return *squares(output, target), {"mean": output.mean()}

    it = trainer(loss)
    expected = it.model(X).mean()
    with it.gradient_hook(same):
        it.step(X, T)
        assert it.figures == pytest.approx({"mean": expected})
        assert "mean" in it.fit(X, T)
    plain = trainer()
    with plain.gradient_hook(same):
        plain.step(X, Y)
        assert plain.figures == {}


def test_custom_losses_have_it_too():
    plain, hooked = trainer(squares), trainer(squares)
    plain.fit(X, T, epochs=2)
    with hooked.gradient_hook(same):
        hooked.fit(X, T, epochs=2)
    np.testing.assert_array_equal(hooked.model.flat_parameters, plain.model.flat_parameters)


@pytest.mark.parametrize("make", [continual.AGEM, continual.Replay])
def test_strategies_compose_with_it(make):
    """A hook around a strategy changes the gradient; the strategy does its part as usual."""
    data = continual.from_arrays([(X, Y), (X + 1, Y), (X - 1, Y)])
    plain, hooked = make(trainer(), 30), make(trainer(), 30)
    continual.run(plain, data, epochs=2)
    with hooked.trainer.gradient_hook(same):
        continual.run(hooked, data, epochs=2)
    np.testing.assert_allclose(
        hooked.trainer.model.flat_parameters, plain.trainer.model.flat_parameters, rtol=1e-9
    )
    frozen = make(trainer(), 30)
    start = frozen.trainer.model.flat_parameters
    with frozen.trainer.gradient_hook(lambda g: g * 0):
        continual.run(frozen, data, epochs=1)
    np.testing.assert_array_equal(frozen.trainer.model.flat_parameters, start)


@pytest.mark.parametrize(
    ("hook", "error", "message"),
    [
        (lambda g: None, ArgumentError, "must return the gradient .* it returned None"),
        (lambda g: g[:3], ShapeError, r"the hook returned must have shape \(67,\); got \(3,\)"),
        (lambda g: g * np.nan, DataError, "the gradient that the hook returned.*is nan"),
        (lambda g: g.astype(complex), DtypeError, "that the hook returned"),
        (lambda g: 1 / 0, ZeroDivisionError, "division by zero"),
    ],
)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), None])
def test_after_an_error_the_model_is_as_it_was(hook, error, message, loss):
    layers = nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)
    it = trainer(loss or squares, layers=layers)
    y = T if loss is None else Y
    it.step(X, y)
    if it.model.num_parameters != 67:
        message = message.replace("67", str(it.model.num_parameters))
    model = it.model

    def state():
        return *model.state_dict().values(), model.flat_gradients, model._core.passes()

    before, steps = state(), it.optimizer.steps
    for train in (it.step, it.fit):
        with it.gradient_hook(hook), pytest.raises(error, match=message):
            train(X, y)
        for now, was in zip(state(), before, strict=True):
            np.testing.assert_array_equal(now, was)
        assert it.optimizer.steps == steps


@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize("loss", [nn.MSELoss(), squares], ids=["of the core", "custom"])
def test_a_batch_that_diverges_can_be_given_again(loss, hooked):
    """What was gathered before it is still there; those in Python discarded it."""
    fails, other = (trainer(loss, accumulate_grad_batches=2) for _ in range(2))
    for it in (fails, other):
        with it.gradient_hook(same) if hooked else contextlib.nullcontext():
            it.step(X, T)
            if it is fails:
                with np.errstate(over="ignore"), pytest.raises(DivergedError):
                    it.step(X, T * 1e200)
            it.step(X, T)
            assert it.optimizer.steps == 1
    np.testing.assert_array_equal(fails.model.flat_parameters, other.model.flat_parameters)


@pytest.mark.parametrize("where", ["hook", "custom loss"])
def test_an_update_that_overflows_leaves_the_model_as_it_was(where):
    """Two gradients that are finite, and their sum is not: the averages of its batch remained."""

    def huge(gradient):
        return np.full_like(gradient, 1e308)

    def loss(output, target):
        return 0.0, huge(output) / len(output)

    def state():
        core = it.model._core
        return core.parameters(), core.averages(), core.passes(), core.gradients()

    layers = nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU()
    it = trainer(loss if where == "custom loss" else None, layers=layers, accumulate_grad_batches=2)
    y = T if where == "custom loss" else Y
    with it.gradient_hook(huge) if where == "hook" else contextlib.nullcontext():
        it.step(X, y)
        before = state()
        with pytest.raises(DivergedError):
            it.step(X, y)
    for now, was in zip(state(), before, strict=True):
        np.testing.assert_array_equal(now, was)
    assert it._core.gathered() is None  # which could not be used
    assert it.optimizer.steps == 0


@pytest.mark.parametrize("loss", [nn.MSELoss(), squares], ids=["of the core", "custom"])
def test_a_hook_may_call_backward_of_its_trainer(loss):
    """For a gradient of other rows, here added to that of the batch."""
    both, alone = trainer(loss, optim.SGD(lr=1.0)), trainer(loss)

    def with_others(gradient):
        both.model.zero_grad()
        both.backward(X[:5], T[:5])
        return gradient + both.model.flat_gradients

    before = both.model.flat_parameters
    with both.gradient_hook(with_others):
        both.step(X, T)
    alone.backward(X, T)
    alone.backward(X[:5], T[:5])
    found = before - both.model.flat_parameters
    np.testing.assert_allclose(found, alone.model.flat_gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["step", "fit", "update"])
def test_a_hook_cannot_train_within_its_own_step(name):
    it = trainer(nn.MSELoss())

    def again(gradient):
        getattr(it, name)(*() if name == "update" else (X, T))
        return gradient

    before = it.model.flat_parameters
    message = (
        f"^trainer.{name} was called by a function within a step of the same.* a gradient hook"
    )
    with it.gradient_hook(again), pytest.raises(ArgumentError, match=message):
        it.step(X, T)
    np.testing.assert_array_equal(it.model.flat_parameters, before)
    assert it.optimizer.steps == 0


def test_what_has_no_single_gradient_is_refused():
    for optimizer in (optim.LBFGS(), optim.SAM(optim.SGD(lr=0.1))):
        it = trainer(optimizer=optimizer)
        kind = type(optimizer).__name__
        with (
            pytest.raises(UnsupportedError, match=f"with {kind}, which evaluates the loss more"),
            it.gradient_hook(same),
        ):
            pass
    with (
        pytest.raises(ArgumentError, match="hook must be a function of the gradient; got 3"),
        trainer().gradient_hook(3),
    ):
        pass
    with trainer().gradient_hook(same) as nothing:
        assert nothing is None


def test_it_cannot_begin_during_a_fit():
    class Begin(tw.callbacks.Callback):
        def on_epoch_end(self, trainer, record):
            with trainer.gradient_hook(same):
                pass

    it = trainer()
    with pytest.raises(ArgumentError, match="cannot be set during a fit"):
        it.fit(X, Y, callbacks=[Begin()])


def test_the_loss_may_change_inside():
    it = trainer()
    with it.gradient_hook(same):
        it.loss = nn.CrossEntropyLoss(active=(0, 1))
        it.step(X[Y < 2], Y[Y < 2])
        with pytest.raises(UnsupportedError, match="plan is not supported with a gradient hook"):
            it.plan(8)
    assert it.plan(8).workspace_bytes > 0


def test_a_hook_that_adds_two_gradients_ties_their_weights():
    """An autoencoder, as in PyTorch with one parameter in two places."""
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4), seed=0, dtype="float64")
    model.load_state_dict(model.state_dict() | {"2.weight": model.state_dict()["0.weight"].T})
    w, b, c = (torch.tensor(model.state_dict()[n]) for n in ("0.weight", "0.bias", "2.bias"))
    theirs = torch.optim.Adam([it.requires_grad_() for it in (w, b, c)], lr=0.01)
    autoencoder = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.01))

    def tied(gradient):
        parts = model.unflatten(gradient)
        both = parts["0.weight"] + parts["2.weight"].T
        parts["0.weight"][:], parts["2.weight"][:] = both, both.T
        return gradient

    x = torch.tensor(X)
    with autoencoder.gradient_hook(tied):
        for _ in range(20):
            theirs.zero_grad()
            torch.nn.functional.mse_loss((x @ w.T + b).tanh() @ w + c, x).backward()
            theirs.step()
            autoencoder.step(X, X)
    found = model.state_dict()
    for ours, expected in zip(found.values(), (w, b, w.T, c), strict=True):
        np.testing.assert_allclose(ours, expected.detach(), rtol=1e-9, atol=1e-12)


def test_blocks_may_end_in_any_order():
    """As with an `ExitStack` for each: a hook is called from its block's beginning to its end."""
    it, seen = trainer(), []

    def noted(name):
        return lambda gradient: (seen.append(name), gradient)[1]

    twice = noted("a")
    hooks = [twice, noted("b"), twice]
    blocks = [it.gradient_hook(hook) for hook in hooks]
    plain = type(it._core)
    for block in blocks:
        block.__enter__()
    for k, wanted in ((None, "aba"), (0, "ba"), (2, "b"), (1, "")):
        if k is not None:
            blocks[k].__exit__(None, None, None)
        seen.clear()
        it.step(X, Y)
        assert "".join(seen) == wanted
    assert type(it._core) is plain


def test_a_block_may_begin_again_once_it_has_ended():
    it, seen = trainer(), []
    block = it.gradient_hook(lambda gradient: (seen.append(1), gradient)[1])
    for _ in range(2):
        with block:
            it.step(X, Y)
            with pytest.raises(tw.ArgumentError, match="has already begun"), block:
                pass
            it.step(X, Y)
        it.step(X, Y)
    assert len(seen) == 4


def test_frozen_parameters_have_no_gradient_in_a_hook():
    """Clipping by a hook is then what the trainer's own clipping is."""

    def of(**options):
        frozen = optim.SGD(lr=1.0).add_group("0.*", frozen=True)
        return trainer(nn.MSELoss(), frozen, **options)

    seen = []

    def clip(gradient):
        seen.append(gradient.copy())
        return gradient * min(1, 0.1 / (np.linalg.norm(gradient) + 1e-6))

    ours, by_hook = of(clip_grad_norm=0.1), of()
    ours.step(X, T)
    with by_hook.gradient_hook(clip):
        by_hook.step(X, T)
    parts = by_hook.model.unflatten(seen[0])
    assert not parts["0.weight"].any()
    assert parts["2.weight"].all()
    np.testing.assert_allclose(
        by_hook.model.flat_parameters, ours.model.flat_parameters, rtol=1e-14
    )
