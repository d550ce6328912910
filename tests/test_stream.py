"""Batches from an iterable: the same bits as from arrays."""

import contextlib
import itertools
import types

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.optim import schedules

from .helpers import cut, squares


@pytest.fixture
def data(rng):
    x = rng.standard_normal((50, 4)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int64), rng.uniform(0.5, 2, 50).astype(np.float32)


def make(optimizer=None, loss=None, **options):
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)]
    model = nn.Sequential(*layers, seed=2)
    optimizer = optimizer or optim.Adam(lr=0.01)
    return tw.Trainer(model, loss=loss or nn.CrossEntropyLoss(), optimizer=optimizer, **options)


OPTIONS = {
    "plain": {},
    "a schedule as long as the fit": {"schedule": schedules.OneCycleLR(max_lr=0.05)},
    "a schedule by epochs": {"schedule": schedules.CosineAnnealingLR(per="epoch")},
    "a schedule with a length": {"schedule": schedules.CosineAnnealingLR(9)},
    "accumulation and clipping": {"accumulate_grad_batches": 3, "clip_grad_norm": 0.5},
    "accumulation and a schedule": {
        "accumulate_grad_batches": 3,
        "schedule": schedules.OneCycleLR(max_lr=0.05),
    },
    "an average": {"average": optim.EMA(0.8)},
    "a sum": {"loss": nn.CrossEntropyLoss(reduction="sum")},
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_batches_give_the_bits_of_arrays(data, options, weighted):
    x, y, w = data
    arrays, stream = make(**options), make(**options)
    w = w if weighted else None
    batches = cut(x, y) if w is None else cut(x, y, w)
    common = {"epochs": 3, "validation_data": (x, y)}
    one = arrays.fit(x, y, sample_weight=w, batch_size=16, shuffle=False, **common)
    other = stream.fit(batches, **common)
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert one[key] == other[key], key
    for name, value in arrays.model.state_dict().items():
        assert np.array_equal(value, stream.model.state_dict()[name]), name
    assert repr(arrays.optimizer.state_dict()) == repr(stream.optimizer.state_dict())
    assert arrays.model._core.passes() == stream.model._core.passes()
    assert "penalty" not in other
    if "average" in options:
        ours, theirs = (t.average_model().flat_parameters for t in (stream, arrays))
        assert np.array_equal(ours, theirs)


def test_a_penalty_goes_along(data):
    x, y, _ = data
    arrays, stream = make(), make()
    for trainer in (arrays, stream):
        n = trainer.model.num_parameters
        trainer.set_penalty(np.linspace(0, 1, n), np.full(n, 0.1), strength=0.3)
    arrays.fit(x, y, epochs=2, batch_size=16, shuffle=False)
    stream.fit(cut(x, y), epochs=2)
    assert stream.history["penalty"] == arrays.history["penalty"]
    assert np.array_equal(stream.model.flat_parameters, arrays.model.flat_parameters)


def test_a_function_makes_the_batches_of_an_epoch_which_may_reuse_memory(data):
    x, y, _ = data
    place, labels = np.empty((10, 4), np.float32), np.empty(10, np.int64)

    def batches():
        for i in range(0, 50, 10):
            place[:], labels[:] = x[i : i + 10], y[i : i + 10]
            yield place, labels

    arrays, stream = make(), make()
    arrays.fit(x, y, epochs=2, batch_size=10, shuffle=False)
    stream.fit(batches, epochs=2)
    assert stream.history["loss"] == arrays.history["loss"]
    once = make()
    once.fit(batches(), epochs=1)
    assert once.history["loss"] == arrays.history["loss"][:1]


def test_callbacks_and_progress_see_what_they_see_with_arrays(data):
    pytest.importorskip("tqdm")
    x, y, _ = data

    class Record:
        def __init__(self):
            self.seen = []

        def on_step_end(self, trainer, record):
            self.seen.append(record)

        def on_epoch_end(self, trainer, record):
            self.seen.append({k: v for k, v in record.items() if k != "seconds"})
            return record["epoch"] == 2

    seen = []
    for arguments in ((x, y), (cut(x, y),)):
        seen.append(Record())
        options = {} if len(arguments) == 1 else {"batch_size": 16, "shuffle": False}
        make().fit(*arguments, epochs=5, callbacks=[seen[-1]], progress=True, **options)
    assert seen[0].seen == seen[1].seen
    assert len(seen[0].seen) == 2 * (4 + 1)


def test_a_bar_counts_all_batches_whose_number_it_learns_by_counting(data, monkeypatch):
    tqdm = pytest.importorskip("tqdm.auto")
    bars = []

    class Bar(tqdm.tqdm):
        def close(self):
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    x, y, _ = data
    make().fit(lambda: iter(cut(x, y)), epochs=3, progress=True)
    assert set(bars) == {(12, None)}  # closed once more when it is deleted


@pytest.mark.parametrize("kind", ["core", "custom", "hook", "stream"])
def test_a_fit_discards_what_waited_for_its_update(data, kind):
    """Of a fit that Ctrl-C ended, for instance; not if it fails before its first step."""
    x, _, _ = data
    y = x[:, :2]

    def trained(gathers):
        trainer = tw.Trainer(
            nn.Sequential(nn.Linear(4, 2)),
            loss=squares if kind == "custom" else nn.MSELoss(),
            optimizer=optim.SGD(lr=0.1),
            accumulate_grad_batches=2,
        )
        hook = trainer.gradient_hook(lambda gradient: gradient)
        with hook if kind == "hook" else contextlib.nullcontext():
            if gathers:
                trainer.step(x, y)
                bad = ([x],) if kind == "stream" else (x[:, :3], y)
                with pytest.raises(tw.ThalwegError, match=r"must be|expected"):
                    trainer.fit(*bad)
                assert trainer._core.gathered()[1] == 1
            good, more = ((cut(x, y),), {}) if kind == "stream" else ((x, y), {"batch_size": 16})
            trainer.fit(*good, epochs=2, **more)
        return trainer.model.flat_parameters

    assert np.array_equal(trained(gathers=True), trained(gathers=False))


@pytest.mark.parametrize("loss", [nn.MSELoss(), squares], ids=["of the core", "custom"])
def test_a_fit_that_fails_leaves_nothing_for_the_next_update(data, loss):
    x, _, _ = data
    trainer = make(loss=loss, accumulate_grad_batches=4)
    before = trainer.model.flat_parameters

    def batches():
        yield from cut(x, x[:, :2])[:2]
        assert trainer._core.gathered()[1] == 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit(batches)
    assert trainer._core.gathered() is None
    assert np.array_equal(trainer.model.flat_parameters, before)


@pytest.mark.parametrize("loss", [None, squares], ids=["stream", "custom"])
def test_an_epoch_takes_its_own_time(data, loss, monkeypatch):
    """Each look at the clock takes a second, and all epochs look equally often."""
    x, _, _ = data
    y, seconds = x[:, :2], itertools.count()
    fake = types.SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr("thalweg._trainer._slices.time", fake)
    trainer = make(loss=loss or nn.MSELoss())
    arguments = (x, y) if loss else (cut(x, y),)
    history = trainer.fit(*arguments, epochs=3, validation_data=(x, y))
    first, *others = history["seconds"]
    assert others == [first] * 2
    assert first > 0


def test_an_error_names_the_batch_and_leaves_all_as_it_was(data):
    x, y, _ = data
    batches = cut(x, y)
    worse = x[16:32].copy()
    worse[3, 1] = np.nan
    for second, error, message in (
        ((worse, y[16:32]), tw.DataError, r"batch 2 of epoch 1: x\[3, 1\]"),
        ((x[16:32, :3], y[16:32]), tw.ShapeError, "batch 2 of epoch 1: "),
        (x[16:32], tw.ArgumentError, r"batch 2 of epoch 1 must be \(x, y\)"),
    ):
        trainer = make(average=optim.EMA(0.9))
        trainer.fit(batches, epochs=1)
        before, state = trainer.model.state_dict(), repr(trainer.optimizer.state_dict())
        average = trainer.average_model().flat_parameters
        with pytest.raises(error, match=message):
            trainer.fit([batches[0], second], epochs=2)
        for name, value in trainer.model.state_dict().items():
            assert np.array_equal(value, before[name])
        assert repr(trainer.optimizer.state_dict()) == state
        assert np.array_equal(trainer.average_model().flat_parameters, average)


#: Their loss is a float32, and so are its gradients, but not the squares of these.
LARGE = np.array([[1e15, 1.0], [1e15, -1.0]]), np.array([[1.0], [-1.0]])


def linear(loss, optimizer):
    return tw.Trainer(nn.Sequential(nn.Linear(2, 1), seed=2), loss=loss, optimizer=optimizer)


@pytest.mark.parametrize("loss", [nn.MSELoss(), squares])
def test_an_error_about_a_batch_comes_out_whatever_overflowed(loss):
    """A step by hand may have left an infinite square of a gradient in the optimizer."""
    trainer = linear(loss, optim.Adam())
    trainer.step(*LARGE)
    before, state = trainer.model.flat_parameters, repr(trainer.optimizer.state_dict())
    assert "inf" in state

    def batches():
        yield np.array([[1.0, 1.0], [1.0, -1.0]]), LARGE[1]
        yield np.array([[1.0, 1.0], [1.0, np.nan]]), LARGE[1]

    with pytest.raises(tw.DataError, match=r"x\[1, 1\] is NaN"):
        trainer.fit(batches)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert trainer.optimizer.steps == 1
    assert repr(trainer.optimizer.state_dict()) == state


@pytest.mark.parametrize("source", ["stream", "arrays"])
def test_state_that_overflows_ends_a_fit(source):
    trainer = linear(nn.MSELoss() if source == "stream" else squares, optim.Adam())
    before = trainer.model.flat_parameters
    with pytest.raises(tw.DivergedError, match=r"exp_avg_sq\[0\] is inf in step 1 .*clip"):
        trainer.fit(*([[LARGE]] if source == "stream" else LARGE), epochs=2)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert trainer.optimizer.steps == trainer.history.epochs == 0


def test_no_stream_begins_with_infinite_weights():
    """It could not go back to them."""
    trainer = linear(nn.MSELoss(), optim.SGD(lr=3e38))
    batch = np.ones((2, 2)), 100 * np.ones((2, 1))
    trainer.step(*batch)
    with pytest.raises(tw.DivergedError, match=r"flat_parameters\[0\] is inf before the first"):
        trainer.fit([batch])
    assert trainer.optimizer.steps == 1


def test_what_is_no_source_of_batches_is_refused(data):
    x, y, w = data
    with pytest.raises(tw.DtypeError, match=r"y is missing: y is None, .*iterable of batches"):
        make().fit(x)  # it was forgotten
    for bad in (3, None):
        with pytest.raises(tw.ArgumentError, match="y is missing"):
            make().fit(bad)
    with pytest.raises(tw.ArgumentError, match="exhausted"):
        make().fit(iter(cut(x, y)), epochs=2)
    with pytest.raises(tw.DataError, match="no batches in epoch 1"):
        make().fit([])
    for options in ({"batch_size": 8}, {"batch_size": 32}, {"shuffle": False}):
        with pytest.raises(tw.ArgumentError, match="its own batches"):
            make().fit(cut(x, y), **options)
    with pytest.raises(tw.ArgumentError, match="its own batches"):
        make().fit(cut(x, y), sample_weight=w)
    with pytest.raises(tw.ArgumentError, match="length"):
        make(schedule=schedules.OneCycleLR(max_lr=0.1)).fit(lambda: iter(cut(x, y)))
    with pytest.raises(
        tw.UnsupportedError, match=r"LBFGS takes all samples at once.*arrays x and y"
    ):
        make(optim.LBFGS()).fit(cut(x, y))
