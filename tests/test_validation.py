"""Validation data that come batch by batch."""

import contextlib

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.callbacks import EarlyStopping
from thalweg.optim import schedules

from .helpers import cut


@pytest.fixture
def data(rng):
    x = rng.standard_normal((50, 4)).astype(np.float32)
    y = rng.integers(0, 3, 50)
    y[[3, 20]] = -100  # which does not count
    return x, y, rng.uniform(0, 2, 50).astype(np.float32)


def make(loss=None, optimizer=None, **options):
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)]
    loss = nn.CrossEntropyLoss() if loss is None else loss
    optimizer = optimizer or optim.Adam(lr=0.01)
    return tw.Trainer(nn.Sequential(*layers, seed=2), loss=loss, optimizer=optimizer, **options)


class Loader:
    """Can be gone through again and again, and gives lists, as PyTorch's DataLoader."""

    def __init__(self, batches):
        self.batches, self.times = batches, 0

    def __iter__(self):
        self.times += 1
        return map(list, self.batches)


def squares(output, target, weight=None):
    weight = np.ones(len(output)) if weight is None else weight.astype(np.float64)
    share = (weight / weight.sum())[:, None] / output.shape[1]
    return float((share * (output - target) ** 2).sum()), 2 * share * (output - target)


LOSSES = {
    "labels": nn.CrossEntropyLoss(),
    "weights of classes": nn.CrossEntropyLoss([1.0, 0.1, 3.0]),
    "a sum": nn.CrossEntropyLoss([1.0, 0.1, 3.0], reduction="sum"),
    "shares": nn.CrossEntropyLoss(),
    "several labels": nn.BCEWithLogitsLoss(),
    "numbers": nn.MSELoss(),
    "a function": squares,
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
def test_figures_of_batches_are_those_of_arrays(data, rng, kind, weighted):
    x, y, w = data
    loss = LOSSES[kind]
    if kind in ("shares", "several labels", "numbers", "a function"):
        y = rng.uniform(size=(50, 3)).astype(np.float32)
    w[16:32] = 0  # a whole batch does not count
    data = (x, y, w) if weighted else (x, y)
    one, other = make(loss), make(loss)
    first = one.fit(x, y, epochs=3, validation_data=data)
    second = other.fit(x, y, epochs=3, validation_data=cut(*data))
    assert set(first) == set(second)
    for key in set(first) - {"seconds"}:
        exact = key in ("loss", "accuracy")  # the training itself is the same, to the last bit
        np.testing.assert_allclose(first[key], second[key], rtol=0 if exact else 1e-13)
    np.testing.assert_array_equal(one.model.flat_parameters, other.model.flat_parameters)
    whole, batches = one.evaluate(*data), one.evaluate(cut(*data))
    assert list(whole) == list(batches)
    np.testing.assert_allclose(list(whole.values()), list(batches.values()), rtol=1e-13)


@pytest.mark.parametrize("source", [Loader, list, lambda b: lambda: iter(b)])
@pytest.mark.parametrize("training", ["arrays", "batches", "all rows at once"])
def test_whatever_fit_takes_as_data_it_takes_to_validate(data, source, training):
    x, y, _ = data
    whole = training == "all rows at once"
    trainer = make(optimizer=optim.LBFGS() if whole else None)
    given = (cut(x, y),) if training == "batches" else (x, y)
    options = {"batch_size": None} if whole else {}
    history = trainer.fit(*given, epochs=3, validation_data=source(cut(x, y)), **options)
    assert history.epochs == len(history["val_loss"]) == 3
    now = trainer.evaluate(x, y)
    assert history["val_loss"][-1] == pytest.approx(now["loss"], rel=1e-13)
    assert history["val_accuracy"][-1] == pytest.approx(now["accuracy"], rel=1e-13)


def test_everybody_who_looks_at_an_epoch_sees_its_validation(data):
    pytest.importorskip("tqdm")
    x, y, _ = data
    seen, loader = [], Loader(cut(x, y))

    class Look:
        def on_step_end(self, trainer, record):
            seen.append(loader.times)

        def on_epoch_end(self, trainer, record):
            assert record["val_loss"] == trainer.history["val_loss"][-1]

    plateau = schedules.ReduceLROnPlateau(
        patience=0, threshold=9.0, threshold_mode="abs", monitor="val_loss"
    )
    trainer = make(schedule=plateau)
    stop = EarlyStopping("val_loss", patience=3, min_delta=9.0)
    callbacks = [Look(), stop]
    history = trainer.fit(
        x, y, epochs=9, batch_size=25, validation_data=loader, callbacks=callbacks, progress=True
    )
    assert history.epochs == loader.times == 4  # the first is the best
    assert seen == [0, 1, 1, 2, 2, 3, 3, 4]
    assert trainer.optimizer.lr < 0.01


def test_an_iterator_is_refused_where_it_would_be_used_up(data):
    x, y, _ = data
    trainer = make()
    for one_shot in (iter(cut(x, y)), (pair for pair in cut(x, y))):
        with pytest.raises(tw.ArgumentError, match=r"validation_data is an iterator.*exhausted.*2"):
            trainer.fit(x, y, epochs=2, validation_data=one_shot)
    assert trainer.optimizer.steps == 0
    trainer.fit(x, y, epochs=1, validation_data=(pair for pair in cut(x, y)))


def test_an_error_in_a_batch_names_it_and_leaves_all_as_it_was(data):
    x, y, w = data
    worse = x[16:32].copy()
    worse[3, 1] = np.nan
    for second, error, message in (
        ((worse, y[16:32]), tw.DataError, r"validation_data batch 2: x\[3, 1\]"),
        ((x[16:32], y[:5]), tw.ShapeError, "validation_data batch 2: .*16.*5"),
        ((x[16:32], y[16:32], w[:5]), tw.ShapeError, "validation_data batch 2: .*16.*5"),
        ((x[:1],), tw.ArgumentError, r"validation_data batch 2 must be \(x, y\).*1 items"),
    ):
        trainer = make(average=optim.EMA(0.9))
        trainer.fit(x, y)
        before, state = trainer.model.state_dict(), repr(trainer.optimizer.state_dict())
        average = trainer.average_model().flat_parameters
        with pytest.raises(error, match=message):
            trainer.fit(x, y, epochs=2, validation_data=[(x[:16], y[:16]), second], lr=0.5)
        for name, value in trainer.model.state_dict().items():
            np.testing.assert_array_equal(value, before[name])
        assert repr(trainer.optimizer.state_dict()) == state
        np.testing.assert_array_equal(trainer.average_model().flat_parameters, average)
        assert trainer._epochs == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_of_classes_that_weigh_nothing_have_an_accuracy(data, weighted):
    """As all rows together have, which accuracies count alike."""
    x, y, w = data
    order = np.argsort(y)  # the last of the batches are all of class 2
    batches = cut(x[order], y[order], *([w[order]] if weighted else []), size=4)
    trainer = make(nn.CrossEntropyLoss([1.0, 0.5, 0.0]))
    whole = trainer.evaluate(x, y, w if weighted else None)
    assert trainer.evaluate(batches) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("loss", [nn.MSELoss(), squares], ids=["of the core", "custom"])
def test_an_infinite_loss_of_a_batch_is_an_error_where_it_is_asked_for(loss, rng):
    """As of arrays; a fit goes on."""
    model = nn.Sequential(nn.Linear(4, 3), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD())
    x, y = rng.standard_normal((8, 4)), np.full((8, 3), 1e200)
    with np.errstate(over="ignore"):
        with pytest.raises(tw.ArgumentError, match=r"^the loss is inf"):
            trainer.evaluate(x, y)
        with pytest.raises(tw.ArgumentError, match=r"^batch 2: the loss is inf"):
            trainer.evaluate([(x, x[:, :3]), (x, y)])


def test_what_yields_nothing_is_refused(data):
    x, y, w = data
    trainer = make()
    with pytest.raises(tw.DataError, match="validation_data yielded no batches"):
        trainer.fit(x, y, validation_data=lambda: iter(()))
    with pytest.raises(tw.ArgumentError, match="validation_data is a function, which must return"):
        trainer.fit(x, y, validation_data=lambda: 5)
    nothing = np.full(50, -100)
    with pytest.raises(tw.DataError, match="all rows of validation_data have a weight of 0"):
        trainer.fit(x, y, validation_data=cut(x, nothing))
    with pytest.raises(tw.DataError, match="x yielded no batches"):
        trainer.evaluate([])
    with pytest.raises(tw.DtypeError, match=r"y is missing.*evaluate takes"):
        trainer.evaluate(x)
    with pytest.raises(tw.ArgumentError, match="its own batches"):
        trainer.evaluate(cut(x, y), sample_weight=w)
    assert trainer.optimizer.steps == 0


def counts(output, target):
    """`nn.PoissonNLLLoss` as a loss of the user's own."""
    with np.errstate(over="ignore"):
        rates = np.exp(output)
    return float(np.mean(rates - target * output)), (rates - target) / output.size


@pytest.mark.parametrize("where", ["arrays", "batches", "with a hook", "trained on batches"])
@pytest.mark.parametrize("loss", [nn.PoissonNLLLoss(), counts], ids=["of thalweg", "a function"])
def test_an_infinite_loss_of_held_out_rows_does_not_end_a_fit(loss, where, rng):
    """One odd row undid a training that was well."""
    x = rng.standard_normal((64, 3)).astype(np.float32)
    y = rng.poisson(1.0, (64, 1)).astype(np.float32)
    odd = x.copy()
    odd[0] = 1000.0
    model = nn.Sequential(nn.Linear(3, 1))
    model.flat_parameters = [1.0, 1.0, 1.0, 0.0]
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=1e-3))
    held_out = [(odd[:32], y[:32]), (odd[32:], y[32:])] if where == "batches" else (odd, y)
    data = (cut(x, y),) if where == "trained on batches" else (x, y)
    hook = trainer.gradient_hook(lambda gradient: gradient)
    with hook if where == "with a hook" else contextlib.nullcontext():
        history = trainer.fit(*data, epochs=2, validation_data=held_out)
    assert history["val_loss"] == [np.inf, np.inf]
    assert trainer.epochs == 2
    with pytest.raises(tw.errors.ArgumentError, match="the loss is inf"):  # asked for alone
        trainer.evaluate(odd, y)
    with pytest.raises(tw.errors.DataError):  # these are no figures, but mistakes
        trainer.fit(x, y, validation_data=(x * np.nan, y))


def test_a_tuple_of_batches_is_told_to_be_a_list(data):
    """It is taken for arrays (x, y), and the error was that of an array of arrays."""
    x, y, _ = data
    trainer = make()
    with pytest.raises(tw.ShapeError, match=r"validation x .*of batches, pass a list, not a tuple"):
        trainer.fit(x, y, validation_data=((x, y), (x, y)))
    assert trainer.fit(x, y, validation_data=[(x, y), (x, y)]).epochs == 1
