"""Training: steps, epochs, batches, evaluation, callbacks, history."""

import contextlib
import copy
import errno
import gc
import io
import itertools
import math
import pickle
import subprocess
import sys
import warnings
import weakref
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim

from .helpers import squares


def test_fit_learns(classifier, blobs):
    assert classifier.evaluate(blobs.x, blobs.y)["accuracy"] < 0.9
    history = classifier.fit(blobs.x, blobs.y, epochs=30)
    assert history["loss"][-1] < history["loss"][0] / 5
    assert classifier.evaluate(blobs.x, blobs.y)["accuracy"] > 0.97
    assert (classifier.model(blobs.x).argmax(axis=1) == blobs.y).mean() > 0.97


def test_step_returns_the_loss_before_it(regressor, rng):
    x, y = rng.standard_normal((16, 5)), rng.standard_normal((16, 2))
    losses = []
    for _ in range(5):
        expected = regressor.evaluate(x, y)["loss"]
        losses.append(regressor.step(x, y))
        assert losses[-1] == pytest.approx(expected, rel=1e-13)
        assert isinstance(losses[-1], float)
    assert losses == sorted(losses, reverse=True)


def test_step_is_forward_backward_and_update(regressor, rng):
    """The fused step does what the same step by hand does."""
    x, y = rng.standard_normal((16, 5)), rng.standard_normal((16, 2))
    model = copy.deepcopy(regressor.model)
    by_hand = optim.SGD(lr=0.05, momentum=0.9)
    for _ in range(10):
        regressor.step(x, y)
        model.zero_grad()
        model.backward(2 * (model.forward(x) - y) / y.size)
        by_hand.step(model)
    np.testing.assert_allclose(
        regressor.model.flat_parameters, model.flat_parameters, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("batch_size", [1, 7, 32, 90, 1000])
def test_fit_without_shuffling_is_a_series_of_steps(batch_size, blobs):
    def trainer():
        model = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 3), seed=3)
        return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.AdamW(lr=0.01))

    whole, single = trainer(), trainer()
    history = whole.fit(blobs.x, blobs.y, epochs=2, batch_size=batch_size, shuffle=False)
    for epoch in range(2):
        losses, sizes = [], []
        for start in range(0, 90, batch_size):
            rows = slice(start, start + batch_size)  # the last batch may be short; none is dropped
            losses.append(single.step(blobs.x[rows], blobs.y[rows]))
            sizes.append(len(blobs.y[rows]))
        # A short last batch weighs less.
        mean = np.average(losses, weights=sizes)
        assert history["loss"][epoch] == pytest.approx(mean, rel=1e-6)
    np.testing.assert_array_equal(whole.model.flat_parameters, single.model.flat_parameters)


def test_shuffling_uses_every_row_once_an_epoch():
    """With x = one-hot rows and one step per row, a row's weight moves when that row is used."""
    n = 37
    model = nn.Sequential(nn.Linear(n, 1, bias=False, init="zeros"), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.25))
    for epoch in range(1, 4):
        trainer.fit(np.eye(n), np.ones((n, 1)), batch_size=1)
        # w <- w + (1 - w) / 2 in each use
        np.testing.assert_array_equal(model.flat_parameters, np.full(n, 1 - 0.5**epoch))


def test_shuffling_uses_another_order_in_every_fit():
    """With one row a step and momentum, the weights at the end show the order of the rows."""
    n = 64
    model = nn.Sequential(nn.Linear(n, 1, bias=False, init="zeros"), dtype="float64")
    ends = set()
    for _ in range(2):  # a new trainer starts the same series again
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.25, momentum=0.5))
        for _ in range(4):
            model.flat_parameters = np.zeros(n)
            trainer.optimizer.load_state_dict(optim.SGD(lr=0.25, momentum=0.5).state_dict(), model)
            trainer.fit(np.eye(n), np.ones((n, 1)), batch_size=1)
            ends.add(model.flat_parameters.tobytes())
    assert len(ends) == 4


def test_shuffling_uses_another_order_in_every_epoch():
    """As above; two epochs in the same order would move the weights of the same rows most."""
    n = 64
    ends = []

    class Reset:
        def on_epoch_end(self, trainer, record):
            ends.append(trainer.model.flat_parameters.tobytes())
            trainer.model.flat_parameters = np.zeros(n)

    model = nn.Sequential(nn.Linear(n, 1, bias=False, init="zeros"), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.25))
    trainer.fit(np.eye(n), np.ones((n, 1)), epochs=4, batch_size=1, callbacks=[Reset()])
    assert len(set(ends)) == 4
    # The same four epochs unshuffled differ too, as Adam's averages go on: so look at the ranks.
    ranks = [tuple(np.argsort(np.frombuffer(end))) for end in ends]
    assert len(set(ranks)) == 4


def test_equal_seeds_give_equal_runs_and_other_seeds_others(blobs):
    def run(seed):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3), seed=seed)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        losses = trainer.fit(blobs.x, blobs.y, epochs=3)["loss"]
        return losses, model.flat_parameters.tobytes()

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_the_figures_of_an_epoch(classifier, blobs):
    train, held_out = (blobs.x[:60], blobs.y[:60]), (blobs.x[60:], blobs.y[60:])
    history = classifier.fit(*train, epochs=4, validation_data=held_out)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert all(len(values) == 4 for values in history.values())
    assert all(0 < seconds < 10 for seconds in history["seconds"])
    found = classifier.evaluate(*held_out)
    assert found["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-6)
    assert found["accuracy"] == history["val_accuracy"][-1]
    assert classifier.history is history


def test_a_regressor_has_no_accuracy(regressor, rng):
    x, y = rng.standard_normal((16, 5)), rng.standard_normal((16, 2))
    assert list(regressor.fit(x, y, validation_data=(x, y))) == ["loss", "val_loss", "seconds"]
    assert list(regressor.evaluate(x, y)) == ["loss"]


def test_the_loss_of_an_epoch_is_that_seen_by_its_steps(blobs):
    """With a learning rate of zero nothing moves, and it must be the loss of the whole set."""
    model = nn.Sequential(nn.Linear(5, 3), seed=3)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.0))
    expected = trainer.evaluate(blobs.x, blobs.y)
    history = trainer.fit(blobs.x, blobs.y, batch_size=32)  # 32 + 32 + 26
    assert history["loss"][0] == pytest.approx(expected["loss"], rel=1e-6)
    assert history["accuracy"][0] == pytest.approx(expected["accuracy"], rel=1e-12)


def test_validation_and_evaluation_learn_nothing(blobs):
    def run(validation_data):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        trainer.fit(blobs.x, blobs.y, epochs=3, validation_data=validation_data)
        before = model.flat_parameters.tobytes()
        trainer.evaluate(blobs.x, blobs.y)
        assert model.flat_parameters.tobytes() == before
        return before

    assert run(None) == run((blobs.x[:9], blobs.y[:9]))


def test_training_goes_on_where_it_stopped(blobs):
    """Two fits of one epoch are not a new start: the optimizer keeps its averages."""
    model = nn.Sequential(nn.Linear(5, 3), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))
    for _ in range(3):
        trainer.fit(blobs.x, blobs.y, batch_size=30)
    assert trainer.optimizer.state_dict()["steps"] == 9


def test_the_learning_rate_may_be_changed_between_epochs(classifier, blobs):
    classifier.fit(blobs.x, blobs.y)
    before = classifier.model.flat_parameters
    classifier.optimizer.lr = 0.0
    classifier.fit(blobs.x, blobs.y)
    np.testing.assert_array_equal(classifier.model.flat_parameters, before)


class Recorder:
    """A callback that remembers what it saw and stops after a given epoch."""

    def __init__(self, stop_after=None):
        self.records = []
        self.lengths = []
        self.stop_after = stop_after

    def on_epoch_end(self, trainer, record):
        self.records.append(record)
        self.lengths.append(trainer.history.epochs)
        return record["epoch"] == self.stop_after


def test_a_callback_sees_every_epoch(classifier, blobs):
    recorder = Recorder()
    history = classifier.fit(
        blobs.x, blobs.y, epochs=4, validation_data=(blobs.x, blobs.y), callbacks=[recorder]
    )
    assert [record["epoch"] for record in recorder.records] == [1, 2, 3, 4]
    assert recorder.lengths == [1, 2, 3, 4]
    for key, values in history.items():
        assert [record[key] for record in recorder.records] == values


def test_a_callback_can_stop_the_training_and_all_are_told(classifier, blobs):
    first, second = Recorder(stop_after=2), Recorder()
    history = classifier.fit(blobs.x, blobs.y, epochs=10, callbacks=[first, second])
    assert history.epochs == len(first.records) == len(second.records) == 2


def test_a_callback_does_not_change_the_result(blobs):
    def run(**options):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        trainer.fit(blobs.x, blobs.y, epochs=5, batch_size=8, **options)
        return model.flat_parameters.tobytes()

    assert run() == run(callbacks=[Recorder()])


def test_an_error_in_a_callback_comes_through_and_the_model_stays_usable(classifier, blobs):
    class Broken:
        def on_epoch_end(self, trainer, record):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        classifier.fit(blobs.x, blobs.y, epochs=5, callbacks=[Broken()])
    assert classifier.history.epochs == 1
    assert classifier.fit(blobs.x, blobs.y, epochs=2).epochs == 2


class CtrlC:
    """Comes before one of the bytecodes by which a fit keeps count of its epochs."""

    def __init__(self, place):
        self.place, self.seen = place, 0

    def __enter__(self):
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for such a frame only here
        sys.settrace(self.enter)

    def __exit__(self, *_):
        sys.settrace(None)

    def enter(self, frame, event, argument):
        if frame.f_code.co_name not in ("_run", "_take_notes", "_columns", "_put"):
            return None
        frame.f_trace_opcodes = True
        return self.look

    def look(self, frame, event, argument):
        if event == "opcode":
            self.seen += 1
            if self.seen == self.place:
                raise KeyboardInterrupt
        return self.look


@pytest.mark.parametrize("kind", ["core", "at once", "python", "stream"])
def test_ctrl_c_loses_no_epoch(kind, blobs):
    """Wherever it comes, history, count of epochs and steps agree."""
    x, y = blobs.x[:8], blobs.y[:8]
    data = ([(x, y)],) if kind == "stream" else (x, y)

    def mine(output, target):
        return float((output**2).sum()), 2 * output

    def run(place):
        model = nn.Sequential(nn.Linear(5, 3))
        loss = mine if kind == "python" else nn.CrossEntropyLoss()
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.01))
        finished = True
        with CtrlC(place):
            try:
                trainer.fit(*data, epochs=3, callbacks=[Recorder()] * (kind != "at once"))
            except KeyboardInterrupt:
                finished = False
        history = trainer.history
        assert {len(figures) for figures in history.values()} <= {history.epochs}
        assert history.epochs == trainer._epochs == trainer.optimizer.steps, place
        return finished

    # All places take half a minute; these are others in every epoch. Without callbacks, all epochs
    # are recorded at once.
    place = 1
    while not run(place):
        place += 1 if kind == "at once" else 7
    assert place > 100


def test_epochs_that_nobody_has_seen_are_counted_after_ctrl_c(classifier, blobs, monkeypatch):
    """Without callbacks they all come at once, at the end."""
    from thalweg._trainer import _fit

    classifier.fit(blobs.x, blobs.y)
    calls, columns = [], _fit._columns

    def interrupted(ended):
        calls.append(ended)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return columns(ended)

    monkeypatch.setattr(_fit, "_columns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(blobs.x, blobs.y, epochs=5)
    assert (classifier.history.epochs, classifier._epochs) == (5, 6)
    assert {len(figures) for figures in classifier.history.values()} == {5}


def test_an_epoch_costs_no_python_if_nothing_looks_at_it(classifier, blobs):
    """It took longer than a step of a small network."""

    def calls(epochs):
        count = 0

        def see(frame, event, argument):
            nonlocal count
            count += 1

        sys.setprofile(see)
        try:
            classifier.fit(blobs.x, blobs.y, epochs=epochs)
        finally:
            sys.setprofile(None)
        return count

    calls(2)  # imports
    assert calls(200) == calls(2)


@pytest.mark.parametrize("rate", [0.01, 30.0])
def test_epochs_recorded_at_once_are_those_recorded_one_by_one(rate, blobs):
    """Also those before one that diverges."""

    def run(callbacks):
        trainer = tw.Trainer(
            nn.Sequential(nn.Linear(5, 3)), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(rate)
        )
        trainer.set_penalty(np.full(trainer.model.num_parameters, 0.1))
        data = blobs.x, blobs.y
        trainer.fit(*data, epochs=2, callbacks=callbacks)
        caught = contextlib.nullcontext() if rate < 1 else pytest.raises(tw.DivergedError)
        with caught:
            trainer.fit(*data, epochs=90, validation_data=data, callbacks=callbacks)
        history = trainer.history
        assert {type(figure) for figures in history.values() for figure in figures} == {float}
        assert {len(figures) for figures in history.values()} == {history.epochs}
        assert len(history.pop("seconds")) > 5
        return list(history.items()), trainer.epochs

    at_once = run([])
    assert at_once == run([Recorder()])
    names = ["loss", "accuracy", "penalty", "val_loss", "val_accuracy"]
    assert [name for name, _ in at_once[0]] == names


@pytest.mark.parametrize("kind", ["core", "python", "stream"])
def test_no_epochs_train_nothing(kind, blobs):
    """As what is left of a run that is complete; arrays are checked, and callbacks called."""
    x, y = blobs.x, blobs.y
    seen = []

    class Look:
        def on_fit_begin(self, trainer):
            seen.append("begin")

        def on_epoch_end(self, trainer, record):
            seen.append("epoch")

        def on_fit_end(self, trainer):
            seen.append("end")

    # An open schedule is as long as the fit, and this one needs 8 updates or more.
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(5, 3)),
        loss=nn.CrossEntropyLoss(),
        optimizer=optim.SGD(),
        schedule=optim.schedules.WarmupStableDecay(4, 4),
    )
    expected = trainer.copy()
    with contextlib.ExitStack() as hooks:
        if kind == "python":
            for each in (trainer, expected):
                hooks.enter_context(each.gradient_hook(np.sign))
        data = ([(x, y)],) if kind == "stream" else (x, y)
        history = trainer.fit(*data, epochs=0, callbacks=[Look()], validation_data=(x, y))
        assert (history, trainer.history, trainer.epochs) == ({}, {}, 0)
        assert trainer.optimizer.steps == 0
        assert seen == ["begin", "end"]
        if kind != "stream":
            with pytest.raises(tw.ShapeError, match="90 rows but y has 3"):
                trainer.fit(x, y[:3], epochs=0)
        assert trainer.fit(x, y, epochs=3)["loss"] == expected.fit(x, y, epochs=3)["loss"]


@pytest.mark.parametrize("kind", ["core", "python", "stream"])
def test_no_epochs_leave_gradients_and_the_rate_as_they_are(kind, blobs):
    """Those that wait for an update; the rate is that of steps which are not made."""
    x, y = blobs.x, blobs.y
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(5, 3), seed=0),
        loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1), accumulate_grad_batches=2,
    )  # fmt: skip
    expected = trainer.copy()
    with contextlib.ExitStack() as hooks:
        for each in (trainer, expected):
            if kind == "python":
                hooks.enter_context(each.gradient_hook(np.sign))
            each.step(x[:30], y[:30])
        if kind == "stream":
            trainer.fit([(x, y)], epochs=0)
        else:
            trainer.fit(x, y, epochs=0)
            if kind == "core":
                trainer.fit(x, y, epochs=0, lr="auto")
                tw.train_many([trainer], x, y, epochs=[0])
        assert trainer.optimizer.lr == 0.1
        for each in (trainer, expected):
            each.step(x[30:60], y[30:60])
    assert trainer.optimizer.steps == 1
    np.testing.assert_array_equal(trainer.model.flat_parameters, expected.model.flat_parameters)


def test_the_callback_may_use_the_model(classifier, blobs):
    class Watcher:
        def __init__(self):
            self.losses = []

        def on_epoch_end(self, trainer, record):
            self.losses.append(trainer.evaluate(blobs.x, blobs.y)["loss"])
            trainer.optimizer.lr *= 0.5
            assert np.isfinite(trainer.model(blobs.x)).all()

    watcher = Watcher()
    history = classifier.fit(
        blobs.x, blobs.y, epochs=3, validation_data=(blobs.x, blobs.y), callbacks=[watcher]
    )
    assert watcher.losses == pytest.approx(history["val_loss"], rel=1e-6)
    assert classifier.optimizer.lr == 0.01 / 8


def test_the_progress_bar_shows_epochs_and_figures(classifier, blobs, capsys):
    pytest.importorskip("tqdm")
    classifier.fit(blobs.x, blobs.y, epochs=3, validation_data=(blobs.x, blobs.y), progress=True)
    shown = capsys.readouterr().err
    assert "epoch 3/3: 100%" in shown
    assert "9/9" in shown
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert f"{key}={classifier.history[key][-1]:.4f}" in shown


def test_no_epochs_show_no_progress(classifier, blobs, capsys):
    pytest.importorskip("tqdm")
    classifier.fit(blobs.x, blobs.y, epochs=0, progress=True)
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_without_a_place_to_show_it_is_silent(classifier, blobs, monkeypatch):
    """As with pythonw. It was an error of tqdm's."""
    pytest.importorskip("tqdm")
    with monkeypatch.context() as context:
        context.setattr("sys.stderr", None)
        history = classifier.fit(blobs.x, blobs.y, epochs=3, progress=True)
    assert history.epochs == 3


@pytest.mark.parametrize("writes", [0, 3])
def test_training_goes_on_when_the_place_of_its_progress_bar_is_gone(
    writes, classifier, blobs, monkeypatch
):
    """A closed pipe, a full disk: it was an error of tqdm's, which also kept its lock."""
    tqdm = pytest.importorskip("tqdm.auto").tqdm
    written, seen = [], []

    class Stream(io.StringIO):
        def write(self, text):
            if len(written) == writes:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            written.append(text)

    class Look:
        def on_epoch_end(self, trainer, record):
            seen.extend(bar for bar in tqdm._instances if bar.fp == sys.stderr)

    with monkeypatch.context() as context:
        context.setattr("sys.stderr", Stream())
        history = classifier.fit(blobs.x, blobs.y, epochs=3, callbacks=[Look()], progress=True)
    assert history.epochs == 3
    assert len(seen) == 3, "tqdm.write finds the bar"
    assert len(written) == writes


def test_training_goes_on_when_the_place_of_its_progress_bar_was_gone_before(
    classifier, blobs, monkeypatch
):
    """Such as that of `print`, with what it could not write: tqdm flushes both first."""
    pytest.importorskip("tqdm.auto")

    class Stream(io.StringIO):
        def flush(self):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    for name in ("sys.stderr", "sys.stdout"):
        with monkeypatch.context() as context:
            context.setattr(name, Stream())
            fits = [classifier.fit(blobs.x, blobs.y, progress=True) for _ in range(2)]
        assert [history.epochs for history in fits] == [1, 1]


def test_a_missing_progress_bar_says_what_to_install(classifier, blobs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    before = classifier.model.flat_parameters
    with pytest.raises(ImportError, match=r"needs tqdm: pip install tqdm$"):
        classifier.fit(blobs.x, blobs.y, progress=True)
    np.testing.assert_array_equal(classifier.model.flat_parameters, before)


def test_inputs_of_any_dtype_and_layout_give_the_same_bits(blobs):
    """Values that float32 holds exactly, so that every conversion is exact."""
    x = np.round(blobs.x * 4) / 4
    wide = np.zeros((180, 10), np.float32)
    wide[::2, ::2] = x
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    read_only = x.copy()
    read_only.flags.writeable = False
    variants = {
        "float32": x,
        "float64": x.astype(np.float64),
        "float16": x.astype(np.float16),
        "longdouble": x.astype(np.longdouble),
        "list": x.tolist(),
        "Fortran": np.asfortranarray(x),
        "strided": wide[::2, ::2],
        "reversed": x[::-1][::-1],
        "read-only": read_only,
        "big-endian": x.astype(">f4"),
        "unaligned": unaligned,
        "subclass": np.ma.masked_array(x),
    }
    assert not unaligned.flags.aligned
    labels = {
        "int64": blobs.y,
        "int8": blobs.y.astype(np.int8),
        "uint64": blobs.y.astype(np.uint64),
        "list": blobs.y.tolist(),
        "strided": np.repeat(blobs.y, 2)[::2],
    }

    def run(x, y):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        trainer.step(x, y)
        trainer.fit(x, y, epochs=2)
        return model(x).tobytes()

    expected = run(x, blobs.y)
    assert {
        name for name, variant in variants.items() if run(variant, blobs.y) != expected
    } == set()
    assert {name for name, variant in labels.items() if run(x, variant) != expected} == set()


def test_targets_of_one_output_may_be_flat(rng):
    def run(y):
        model = nn.Sequential(nn.Linear(5, 1), dtype="float64")
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
        return trainer.step(x, y), trainer.evaluate(x, y), trainer.fit(x, y)["loss"]

    x, y = rng.standard_normal((12, 5)), rng.standard_normal(12)
    assert run(y) == run(y[:, None])


def test_integer_and_boolean_features_are_numbers():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), dtype="float64")
    model.load_state_dict({"0.weight": [[1, 10]]})
    np.testing.assert_array_equal(model(np.array([[1, 2]], np.int8)), [[21]])
    np.testing.assert_array_equal(model(np.array([[True, False]])), [[1]])


def test_objects_that_are_numbers_are_numbers(blobs):
    """As pandas makes of columns of different kinds, and databases of decimals."""

    def run(x, y):
        model = nn.Sequential(nn.Linear(5, 3), dtype="float64", seed=1)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        trainer.fit(x, y)
        return model.flat_parameters, model(x)

    x = blobs.x.round(2).astype(object)
    x[:, 0] = blobs.x[:, 0] > 0
    x[:, 1] = [Fraction(int(8 * v), 8) for v in blobs.x[:, 1]]
    x[:, 2] = [Decimal(f"{v:.2f}") for v in blobs.x[:, 2]]
    x[:, 3] = [int(v) for v in blobs.x[:, 3]]
    x[0, 3] = 2**70
    expected = run(x.astype(float), blobs.y)
    for objects in (x, x.tolist(), np.asfortranarray(x)):
        for ours, theirs in zip(run(objects, blobs.y.astype(object)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_inputs_are_never_written_to(classifier, blobs):
    x, y = blobs.x.copy(), blobs.y.copy()
    classifier.fit(x, y, epochs=2)
    np.testing.assert_array_equal(x, blobs.x)
    np.testing.assert_array_equal(y, blobs.y)


def test_the_plan_can_be_printed(classifier, capsys):
    plan = classifier.plan(32)
    plan.explain()
    assert capsys.readouterr().out == f"{plan}\n"
    assert str(plan).startswith("training step of 32 rows on ")
    assert str(plan).isascii()  # not every terminal shows more
    assert plan == classifier.plan(32) != classifier.plan(33)


def test_the_plan_says_what_the_options_of_a_trainer_change():
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3))
    size = 4 * model.num_parameters

    def plan(optimizer=None, **options):
        options["optimizer"] = optimizer or optim.SGD()
        return tw.Trainer(model, loss=nn.MSELoss(), **options).plan(50)

    plain = plan()
    assert "each a weight gradient and its update" in str(plain)
    for other, says, more in [
        (plan(clip_grad_norm=1.0), "since the norm of all gradients must be known first", 1),
        (plan(clip_grad_value=1.0), "since gradients are clipped first", 1),
        (plan(optim.LAMB()), "since the optimizer takes whole layers", 1),
        (plan(optim.SAM(optim.SGD(), rho=0.3)), "at a distance of 0.3 from them", 3),
    ]:
        assert says in str(other)
        assert "update: a pass of its own" in str(other)
        assert "its update" not in str(other)
        assert other.workspace_bytes - plain.workspace_bytes == pytest.approx(more * size, abs=512)
    assert "every 4th makes an update" in str(plan(accumulate_grad_batches=4))
    assert "; backward" in str(plain)
    assert "; backward" not in str(plan(optim.SGD().add_group("0.*", frozen=True)))


def test_the_plan_tells_the_memory_of_a_step(classifier):
    plan = classifier.plan(8)
    assert str(plan).endswith(f"workspace: {plan.workspace_bytes} bytes")
    assert 0 < plan.workspace_bytes < classifier.plan(4096).workspace_bytes


def test_the_trainer_shows_and_keeps_what_it_is_made_of(classifier):
    for part in (classifier.model, classifier.loss, classifier.optimizer):
        assert repr(part) in repr(classifier).replace("\n  ", "\n")
    for name in ("model", "optimizer", "history"):
        with pytest.raises(AttributeError):
            setattr(classifier, name, None)


@pytest.mark.parametrize(
    ("last", "loss", "words"),
    [
        (nn.Sigmoid(), nn.BCEWithLogitsLoss(), "from 0 to 1, but BCEWithLogitsLoss takes"),
        (nn.Sigmoid(), nn.CrossEntropyLoss(), "from 0 to 1, but CrossEntropyLoss takes"),
        (nn.ReLU(), nn.CrossEntropyLoss(), ">= 0"),
        (nn.Tanh(), nn.CrossEntropyLoss(), None),
        (nn.ReLU(), nn.PoissonNLLLoss(), None),
        (nn.Sigmoid(), nn.MSELoss(), None),
    ],
)
def test_an_activation_that_the_loss_has_already_is_told(last, loss, words):
    model = nn.Sequential(nn.Linear(2, 3), last, nn.Identity())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        tw.Trainer(model, loss=loss, optimizer=optim.SGD())
    assert len(found) == (words is not None)
    for it in found:
        assert it.filename == __file__
        assert str(it.message).startswith(f"layer 1, {last!r}, gives numbers {words}")


def test_who_made_a_doubtful_trainer_is_told_and_nobody_of_its_copies(blobs, tmp_path):
    def make():
        model = nn.Sequential(nn.Linear(5, 3), nn.Sigmoid())
        return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(0.1))

    class Mine(tw.Trainer):
        def __init__(self):
            super().__init__(trainer.model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD())

    with pytest.warns(UserWarning, match="takes logits"):
        trainer = make()
    with pytest.warns(UserWarning, match="takes logits") as told:
        Mine()
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.copy().save(tmp_path / "training")
        tw.Trainer.load(tmp_path / "training")
        pickle.loads(pickle.dumps(trainer))
        tw.find_lr(trainer, blobs.x, blobs.y, steps=10)
        trainer.fit(blobs.x, blobs.y, lr="auto")
        tw.gradcheck(trainer.model, blobs.x, blobs.y, loss=trainer.loss)


def test_a_history_is_a_dict_that_can_be_copied(classifier, blobs):
    history = classifier.fit(blobs.x, blobs.y, epochs=2)
    assert pickle.loads(pickle.dumps(history)) == history == copy.deepcopy(history)
    assert type(copy.deepcopy(history)) is tw.History
    assert repr(history).startswith(f"History(2 epochs, loss {history['loss'][-1]:.4g}, accuracy ")
    assert repr(tw.History(loss=[3.9e-6])) == "History(1 epoch, loss 3.9e-06)"
    assert repr(tw.History(loss=[1.0], seconds=[0.00123])) == "History(1 epoch, loss 1, 1.2 ms)"
    assert repr(tw.History(loss=[1.0], seconds=[0.0999])) == "History(1 epoch, loss 1, 0.10 s)"
    assert history.epochs == 2
    assert repr(tw.History()) == "History(0 epochs)"


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_of_other_types_are_what_they_would_be_converted_up_front(kind, dtype, rng):
    """To the bit: steps, a shuffled fit with validation, evaluation and predictions."""
    x = rng.integers(0, 256, (70, 9)).astype(kind)  # whole numbers that all types hold
    y = rng.integers(0, 3, 70)

    def run(x):
        model = nn.Sequential(nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3), dtype=dtype, seed=4)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        losses = [trainer.step(x[:20], y[:20])]
        history = trainer.fit(x, y, epochs=2, batch_size=16, validation_data=(x, y))
        losses += [*history["loss"], *history["val_loss"], trainer.evaluate(x, y)["loss"]]
        out = model.forward(x[:5])
        return losses, model(x), out, model.backward(np.ones_like(out)), model.flat_gradients

    for ours, converted in zip(run(x), run(x.astype(dtype)), strict=True):
        np.testing.assert_array_equal(ours, converted)


#: A fit of its own process, whose peak of resident memory is compared with that before.
FIT_IN_LITTLE_MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
import thalweg as tw
from thalweg import nn, optim

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

kind, rows, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = nn.Sequential(nn.Linear(784, 4), nn.ReLU(), nn.Linear(4, 10))
trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=1e-6))
if file:
    x = np.lib.format.open_memmap(file, "w+", kind, (rows, 784))
else:
    x = np.empty((rows, 784), kind)
for part in np.array_split(x, 500):  # all of it is resident from here on
    part[:] = np.arange(part.size).reshape(part.shape) % 251
y = np.arange(rows) % 10
options = {"epochs": 1, "batch_size": 256}
trainer.fit(x[:600], y[:600], **options, validation_data=(x[:300], y[:300]))  # work space
before = peak()
trainer.fit(x, y, **options, validation_data=(x, y))
trainer.evaluate(x, y)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak from")
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64"])
def test_a_fit_takes_no_memory_for_the_whole_array(kind, mapped, tmp_path):
    """It is not copied, and converted one batch at a time; nor if it is on a disk.

    By the peak of a process: copies made in the core are unknown to Python.
    """
    rows = 20_000
    arguments = kind, str(rows), str(tmp_path / "x.npy") if mapped else ""
    done = subprocess.run(
        [sys.executable, "-c", FIT_IN_LITTLE_MEMORY, *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # What is allocated in passing: order of rows, labels, allocators of threads.
    assert int(done.stdout) < rows * 784 * np.dtype(np.float32).itemsize / 8


@pytest.mark.parametrize(("kind", "value"), [("float64", 1e300), ("float16", np.nan)])
def test_samples_that_cannot_be_converted_are_named(kind, value, rng):
    x = rng.standard_normal((30, 4)).astype(kind)
    x[17, 2] = value
    y = rng.standard_normal((30, 1)).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    before = model.flat_parameters
    for call in (
        lambda: trainer.step(x, y),
        lambda: trainer.fit(x, y),
        lambda: trainer.evaluate(x, y),
        lambda: model(x),
        lambda: model.forward(x),
    ):
        with pytest.raises(tw.errors.DataError, match=r"x\[17, 2\]"):
            call()
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_batch_normalization_needs_two_rows_to_train():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    x, y = np.ones((5, 3), np.float32), np.ones((5, 1), np.float32)
    before = model.state_dict()
    for call in (
        lambda: trainer.step(x[:1], y[:1]),
        lambda: trainer.fit(x, y, batch_size=4),  # the last batch would be one row
        lambda: trainer.fit(x, y, batch_size=1),
        lambda: model.forward(x[:1]),
    ):
        with pytest.raises(tw.errors.ArgumentError, match="2 rows or more"):
            call()
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    assert model(x[:1]).shape == (1, 1)


def test_running_averages_are_as_before_when_a_step_or_a_fit_fails(rng):
    x = rng.standard_normal((40, 3)).astype(np.float32)
    y = rng.standard_normal((40, 1)).astype(np.float32)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e30))
    before = model.state_dict()
    with pytest.raises(tw.errors.DivergedError):
        trainer.fit(x, y, epochs=20, batch_size=8)
    bad = x.copy()
    bad[3, 1] = np.nan
    with pytest.raises(tw.errors.DataError):
        trainer.step(bad, y)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_a_variance_that_overflows_is_an_error_and_not_an_average(rng):
    """An infinite variance makes its column 0, so that loss and outputs would look harmless."""
    x = (1e20 * rng.standard_normal((30, 3))).astype(np.float32)  # finite; its squares are not
    y = np.zeros((30, 1), np.float32)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e-3))
    before = model.state_dict()
    with pytest.raises(tw.errors.DivergedError):
        trainer.step(x, y)
    with pytest.raises(tw.errors.DivergedError):
        trainer.fit(x, y)
    with pytest.raises(tw.ThalwegError, match="variance"):
        model.forward(x)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), lambda o, t: (((o - t) ** 2).mean(), 2 * (o - t) / o.size)]
)
def test_a_variance_that_overflows_is_divergence_for_every_loss(loss, rng):
    x, y = rng.normal(size=(40, 4)), 100 * rng.normal(size=(40, 1))
    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
    trainer = tw.Trainer(nn.Sequential(*layers, seed=0), loss=loss, optimizer=optim.SGD(lr=1e6))
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=200, batch_size=10)


def test_an_evaluation_leaves_a_forward_pass_to_its_backward_pass(regressor, rng):
    x, g = rng.normal(size=(6, 3)), rng.normal(size=(6, regressor.model.out_features))
    model = regressor.model
    x, g = rng.normal(size=(6, model.in_features)), rng.normal(size=(6, model.out_features))
    model.forward(x)
    expected = model.backward(g)
    model.forward(x)
    regressor.evaluate(2 * x, g)
    assert np.array_equal(model.backward(g), expected)


def test_a_rate_of_a_fit_that_failed_is_taken_back(blobs):
    """The optimizer is as it was, and its learning rate is a part of it."""
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2), seed=3)
    schedule = optim.schedules.StepLR(1000)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.02), schedule=schedule)
    targets = blobs.x[:, :2]
    before = model.flat_parameters
    with pytest.raises(tw.DivergedError):
        trainer.fit(blobs.x, targets, lr=1e30, epochs=50)
    assert trainer.optimizer.lr == 0.02
    np.testing.assert_array_equal(model.flat_parameters, before)
    trainer.fit(blobs.x, targets)
    assert trainer.optimizer.lr == 0.02  # the schedule goes by it, too
    trainer.fit(blobs.x, targets, lr=0.01)
    assert trainer.optimizer.lr == 0.01


class Refuses:
    def on_fit_begin(self, trainer):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"x": [1]}, tw.ArgumentError),  # no batch is one
        ({"y": np.zeros(3, int)}, tw.ShapeError),
        ({"progress": True}, ImportError),
        ({"callbacks": [Refuses()]}, RuntimeError),
        ({"callbacks": [tw.callbacks.EarlyStopping("val_loss")]}, tw.ArgumentError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "-".join(value),
)
def test_a_fit_that_does_not_begin_leaves_all_as_it_was(options, error, blobs, monkeypatch):
    """Also rates, the history, and gradients that wait for an update."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)

    def run(wrong):
        model = nn.Sequential(nn.Linear(5, 3))
        optimizer = optim.SGD(lr=0.1)
        trainer = tw.Trainer(
            model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, accumulate_grad_batches=2
        )
        history = trainer.fit(blobs.x, blobs.y)
        trainer.step(blobs.x[:20], blobs.y[:20])
        if wrong is not None:
            data = {"x": blobs.x, "y": None if "x" in wrong else blobs.y}
            with pytest.raises(error):
                trainer.fit(**data | wrong, lr=5.0)
        if wrong is None or "x" not in wrong:  # batches are looked at as they come, in a fit
            assert trainer.history is history
        trainer.step(blobs.x[20:], blobs.y[20:])
        assert optimizer.lr == 0.1
        return model.flat_parameters

    np.testing.assert_array_equal(run(options), run(None))


@pytest.mark.parametrize("watch", ["epochs", "steps"])
def test_a_fit_that_is_refused_within_a_fit_leaves_that_as_it_is(watch, blobs):
    """Its rate, and the gradients that it has gathered."""

    class Again:
        def on_step_end(self, trainer, record):
            if watch == "steps":
                self.again(trainer)

        def on_epoch_end(self, trainer, record):
            self.again(trainer)

        def again(self, trainer):
            for data in ((blobs.x, blobs.y), ([(blobs.x, blobs.y)],)):
                with pytest.raises(tw.UnsupportedError, match="already in a fit"):
                    trainer.fit(*data, lr=5.0)

    ends = []
    for callbacks in ((), (Again(),)):
        model = nn.Sequential(nn.Linear(5, 3))
        optimizer = optim.SGD(lr=0.1)
        trainer = tw.Trainer(
            model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, accumulate_grad_batches=3
        )
        data = [(blobs.x[i::4], blobs.y[i::4]) for i in range(4)]
        trainer.fit(data, epochs=2, callbacks=callbacks)
        assert optimizer.lr == 0.1
        ends.append(model.flat_parameters)
    np.testing.assert_array_equal(*ends)


def test_a_fit_within_a_fit_is_refused(classifier, blobs):
    """The two would share one history, and the outer one would return the inner one's."""

    class Again:
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                trainer.fit(blobs.x, blobs.y)

    # Not by trainer.step: a schedule as long as the fit knows no rate for it.
    with pytest.raises(tw.UnsupportedError, match=r"already in a fit.*use trainer\.copy\(\)\.fit"):
        classifier.fit(blobs.x, blobs.y, epochs=5, callbacks=[Again()])
    assert classifier.history.epochs == 2
    assert classifier.fit(blobs.x, blobs.y, epochs=3).epochs == 3  # it is free again


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.fit(verbose=1), r"Trainer\.fit\(\).*'verbose': progress=True"),
        (lambda t: t.step(), r"Trainer\.step\(\)"),
        (lambda t: type(t)(t.model), r"Trainer\.__init__\(\)"),
        (lambda t: type(t).load(), r"Trainer\.load\(\)"),
    ],
)
def test_errors_of_pythons_name_the_trainer(call, message, regressor):
    with pytest.raises(TypeError, match=f"^{message}"):
        call(regressor)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"optimizer": "adam"}, "must be an Optimizer.*got 'adam'"),
        ({"optimizer": optim.Adam}, r"the class Adam; pass an instance: optim\.Adam\(...\)"),
        ({"loss": nn.MSELoss}, r"pass an instance: nn\.MSELoss\(...\)"),
        (
            {"schedule": optim.schedules.StepLR},
            r"the class StepLR; pass an instance: schedules\.StepLR\(...\)",
        ),
        ({"schedule": lambda t: 0.9**t}, "schedules.LambdaLR turns a function into a schedule"),
    ],
)
def test_what_a_trainer_is_not_made_of(argument, message):
    model = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(tw.ArgumentError, match=message):
        tw.Trainer(model, **{"loss": nn.MSELoss(), "optimizer": optim.SGD(), **argument})


def test_the_trainer_shows_what_is_in_use_and_how_far_it_is(blobs):
    model = nn.Sequential(nn.Linear(5, 3))
    trainer = tw.Trainer(
        model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(), clip_grad_norm=1.5
    )
    trainer.fit(blobs.x, blobs.y, batch_size=45)
    text = repr(trainer)
    assert "clip_grad_norm=1.5" in text
    assert "schedule" not in text  # there is none
    assert text.endswith(")  # after 1 epoch, 2 updates")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, None),
        ({"clip_grad_norm": 1.0}, "clip_grad_norm=1.0"),
        ({"clip_grad_value": 1.0}, "clip_grad_value=1.0"),
        ({"clip_grad_norm": math.inf}, "clip_grad_norm=inf"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2"),
    ],
)
def test_a_limit_of_one_is_no_default(options, shown):
    """As one batch per update is, which is not shown: the limit was taken for that."""
    model = nn.Sequential(nn.Linear(5, 3))
    text = repr(tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(), **options))
    optional = [line.strip() for line in text.splitlines() if "clip" in line or "accum" in line]
    assert optional == ([f"{shown},"] if shown else [])


@pytest.mark.parametrize("outer", ["a custom loss", "a gradient hook", "LBFGS"])
def test_what_steps_in_python_can_be_copied(outer):
    """It took the names that copies look up for those of a trainer that it did not have yet."""
    model = nn.Sequential(nn.Linear(2, 1))
    loss = nn.MSELoss() if outer == "LBFGS" else squares
    optimizer = optim.LBFGS() if outer == "LBFGS" else optim.SGD()
    trainer = tw.Trainer(model, loss=loss, optimizer=optimizer)
    with contextlib.ExitStack() as stack:
        if outer == "a gradient hook":
            stack.enter_context(trainer.gradient_hook(lambda gradient: gradient))
        stepper = trainer._core
        assert stepper.kind == outer
        assert copy.copy(stepper).inner is stepper.inner
        with pytest.raises(AttributeError):
            type(stepper).__new__(type(stepper)).inner  # noqa: B018


def test_the_first_step_runs_no_code_of_numpys():
    """The first use of NumPy by compiled code looks up its version, where Ctrl-C was a panic."""
    code = """
import sys
import numpy as np, thalweg as tw
from thalweg import nn, optim

model = nn.Sequential(nn.Linear(2, 3))
trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
x, y = np.zeros((4, 2)), np.zeros(4, np.int64)
files = set()
sys.setprofile(lambda frame, *_: files.add(frame.f_code.co_filename))
trainer.step(x, y)
model(x)
sys.setprofile(None)
assert not [name for name in files if "thalweg" not in name and name != "<string>"], files
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class RunsDry:
    """Functions and iterables that take items from a source, which has three."""

    def __init__(self):
        self.items = iter(range(3))

    def loss(self, output, target):
        next(self.items)
        return squares(output, target)

    def hook(self, gradient):
        next(self.items)
        return gradient

    def batches(self):
        next(self.items)
        return [(X2, Y2)]


X2, Y2 = np.eye(2), np.ones((2, 1))


@pytest.mark.parametrize("where", ["loss", "hook", "loader", "loader to validate"])
def test_a_source_that_ends_too_early_does_not_end_a_fit_in_silence(where):
    """Its StopIteration became the end of the fit, which returned as if it had been whole."""
    source = RunsDry()
    loss = source.loss if where == "loss" else nn.MSELoss()
    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=loss, optimizer=optim.SGD(lr=0.1))
    data = (source.batches,) if where == "loader" else (X2, Y2)
    held_out = source.batches if "validate" in where else None
    hook = trainer.gradient_hook(source.hook) if where == "hook" else contextlib.nullcontext()
    with hook, pytest.raises(RuntimeError, match="raised StopIteration") as error:
        trainer.fit(*data, epochs=5, validation_data=held_out)
    assert isinstance(error.value.__cause__, StopIteration)
    assert trainer.epochs == trainer.history.epochs == 3


#: Where functions of the user's run in a fit.
INSIDE = ("loader", "loss", "derivatives", "hook", "loader to validate", "loss to validate")


class Inside:
    """A fit of two batches per epoch that calls a function, once per epoch or more often."""

    def __init__(self, where, call):
        def loss(output, target):
            if ("validate" in where) == (len(output) == 3):
                call()
            return squares(output, target)

        def derivatives(u, du, target):
            call()
            value, gradient = squares(u, target)
            return value, (gradient, None)

        def hook(gradient):
            call()
            return gradient

        def batches():
            yield X2, Y2
            call()
            yield X2, Y2

        self.model = nn.Sequential(nn.Linear(2, 1), seed=0)
        own = {"derivatives": nn.DerivativeLoss(derivatives, order=1)}
        self.own = (own | dict.fromkeys(("loss", "loss to validate"), loss)).get(where)
        self.trainer = tw.Trainer(
            self.model, loss=self.own or nn.MSELoss(), optimizer=optim.SGD(lr=0.1)
        )
        data = np.tile(X2, (2, 1)), np.tile(Y2, (2, 1))
        self.data = (batches,) if where == "loader" else data
        three = np.ones((3, 2)), np.ones((3, 1))
        held_out = {"loader to validate": batches, "loss to validate": three}
        self.options = {"batch_size": 2, "shuffle": False} if where != "loader" else {}
        self.options["validation_data"] = held_out.get(where)
        self.hook = hook if where == "hook" else None

    def fit(self, **options):
        hooked = self.trainer.gradient_hook(self.hook) if self.hook else contextlib.nullcontext()
        with hooked:
            return self.trainer.fit(*self.data, **self.options, **options)


class Nothing:
    def on_epoch_end(self, trainer, record):
        pass


@pytest.mark.parametrize("callbacks", [(), (Nothing(),)])
@pytest.mark.parametrize("where", INSIDE)
def test_functions_in_a_fit_see_the_epochs_so_far(where, callbacks, tmp_path):
    """Without a callback, epochs and history stood still."""
    seen, path = [], tmp_path / "trainer"

    def look():
        run.trainer.save(path)
        saved = tw.Trainer.load(path, loss=run.own)
        counted = run.trainer.epochs, saved.epochs, saved.history.epochs
        if not seen or seen[-1] != counted:
            seen.append(counted)

    run = Inside(where, look)
    run.trainer.fit(np.eye(2), np.ones((2, 1)))
    seen.clear()
    run.fit(epochs=3, callbacks=callbacks)
    assert seen == [(1, 1, 0), (2, 2, 1), (3, 3, 2)]


@pytest.mark.parametrize("last", [1, 5, 6])
@pytest.mark.parametrize("where", INSIDE)
def test_an_error_of_a_function_ends_a_fit_as_ctrl_c_does(where, last):
    """It undid everything, but the history went on showing the epochs that were undone."""

    def fitted(error):
        calls = itertools.count(1)

        def fail():
            if next(calls) == last:
                raise error

        run = Inside(where, fail)
        before = run.model.flat_parameters
        with pytest.raises(type(error)):
            run.fit(epochs=100, lr=0.05)
        return run, (run.model.flat_parameters != before).any()

    error = OSError("the disk is gone")
    (run, moved), (other, _) = fitted(error), fitted(KeyboardInterrupt())
    np.testing.assert_array_equal(run.model.flat_parameters, other.model.flat_parameters)
    assert run.trainer.optimizer.steps == other.trainer.optimizer.steps
    assert run.trainer.epochs == run.trainer.history.epochs == other.trainer.epochs
    at_once = last == 1 and where in ("loss", "derivatives", "hook")
    assert moved != at_once
    if at_once:  # nothing was learned: it is as before the call
        assert run.trainer.optimizer.lr == 0.1
        assert not hasattr(error, "__notes__")
    else:
        (note,) = error.__notes__
        count = run.trainer.epochs
        assert f"the figures of {count} whole epoch{'' if count == 1 else 's'}." in note


def test_errors_of_thalweg_undo_a_fit_with_its_counts():
    """They are about data that do not fit, or about training that cannot go on."""

    def batches():
        yield X2, Y2 if trainer.epochs < 3 else Y2[:1]

    trainer = Inside("", None).trainer
    before = trainer.model.flat_parameters
    with pytest.raises(tw.ShapeError, match="batch 1 of epoch 4") as error:
        trainer.fit(batches, epochs=5)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert trainer.epochs == trainer.optimizer.steps == 0
    assert trainer.history.epochs == 3  # they show what led there
    assert not hasattr(error.value, "__notes__")


@pytest.mark.parametrize("call", ["strategy", "minimize"])
def test_calls_that_keep_nothing_do_not_say_so(call):
    """The fits that they consist of would have."""
    calls = itertools.count(1)

    def fail(*given):
        if next(calls) == 6:
            raise OSError("the disk is gone")
        return squares(*given) if call == "strategy" else (given[0] @ given[0], 2 * given[0])

    model = nn.Sequential(nn.Linear(2, 1))
    trainer, before = tw.Trainer(model, loss=fail, optimizer=optim.SGD()), model.flat_parameters
    task = continual.Task(X2, Y2, X2, Y2, 0, "the only one")
    calls_of = {
        "strategy": lambda: continual.Naive(trainer).fit(task, epochs=9, batch_size=1),
        "minimize": lambda: optim.minimize(fail, [1.0, 1.0], optim.SGD(lr=0.1), steps=9),
    }
    with pytest.raises(OSError, match="the disk") as error:
        calls_of[call]()
    assert not hasattr(error.value, "__notes__")
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_an_error_of_a_callback_says_what_is_left():
    class Fails:
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                raise ZeroDivisionError

    trainer = Inside("", None).trainer
    with pytest.raises(ZeroDivisionError) as error:
        trainer.fit(X2, Y2, epochs=5, callbacks=[Fails()])
    assert trainer.epochs == trainer.optimizer.steps == trainer.history.epochs == 2
    assert "keeps what it has learned" in error.value.__notes__[0]


def test_epochs_are_counted_over_all_fits(classifier, blobs):
    histories = [classifier.fit(blobs.x, blobs.y, epochs=n) for n in (2, 3)]
    assert classifier.epochs == 5
    with pytest.raises(AttributeError, match="epochs can only be read"):
        classifier.epochs = 0
    both = histories[0] + histories[1]
    assert both.epochs == 5
    assert both["loss"] == histories[0]["loss"] + histories[1]["loss"]
    assert histories[0].epochs == 2


def test_histories_are_added_with_the_figures_of_both():
    first, second = tw.History(mine=[1.0], loss=[0.5]), tw.History(loss=[0.4, 0.3], val_loss=[1, 2])
    both = first + second
    assert list(both) == ["loss", "val_loss", "mine"]
    np.testing.assert_array_equal(both["loss"], [0.5, 0.4, 0.3])
    np.testing.assert_array_equal(both["val_loss"], [np.nan, 1, 2])
    np.testing.assert_array_equal(both["mine"], [1, np.nan, np.nan])
    assert sum([first, second], tw.History()) == both
    with pytest.raises(TypeError):
        first + {"loss": [1.0]}


def test_a_history_stays_one():
    history = tw.History(loss=[0.5])
    assert type(history.copy()) is type(copy.copy(history)) is tw.History
    assert history.copy() == history
    history.append({"epoch": 2, "loss": np.float32(0.25)})
    for record, message in (
        (3, "record must be a dict of numbers; got 3"),
        ({"loss": "abc"}, "figures must be numbers; got 'loss': 'abc'"),
        ({"loss": 0.1, "mine": [1.0]}, r"figures must be numbers; got 'mine': \[1\.0\]"),
    ):
        with pytest.raises(tw.ArgumentError, match=message):
            history.append(record)
    assert history == {"loss": [0.5, 0.25]}


class Frame:
    """As pandas and Polars have them."""

    def __init__(self, array, columns):
        self.array, self.columns = array, columns

    def __array__(self, *args, **options):
        return np.array(self.array, *args, **options)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a", "b"], None),
        (["b", "a"], "column 0 of validation x is 'b', but 'a' in the training data"),
        (["a", "c"], "column 1 of validation x is 'c', but 'b' in the training data"),
        ([0, 1], None),  # no names
        (None, None),
    ],
)
def test_columns_of_validation_data_are_those_of_the_training_data(columns, message):
    """Frames became arrays, and columns in another order were taken for each other."""
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(2, 1)), loss=nn.MSELoss(), optimizer=optim.SGD(0.1)
    )
    held_out = X2 if columns is None else Frame(X2, columns)
    refused = pytest.raises(tw.DataError, match=message) if message else contextlib.nullcontext()
    with refused:
        trainer.fit(Frame(X2, ["a", "b"]), Y2, validation_data=(held_out, Y2))
    assert trainer.epochs == (0 if message else 1)


#: A fit to frames, or an evaluation, in the forms that data come in; where an error in the second
#: frame is, and where it says that the first is.
EARLIER = "an earlier batch"
WAYS_OF_FRAMES = {
    "training": (lambda t, a, b: t.fit([a, b]), "batch 2 of epoch 1: ", EARLIER),
    "after an array": (
        lambda t, a, b: t.fit([(X2, X2), a, b]), "batch 3 of epoch 1: ", EARLIER,
    ),
    "validation": (
        lambda t, a, b: t.fit(*a, validation_data=[b]),
        "validation_data batch 1: ", "the training data",
    ),
    "arrays": (lambda t, a, b: t.fit(*a, validation_data=b), "validation ", "the training data"),
    "both": (
        lambda t, a, b: t.fit([a], validation_data=[b]), "validation_data batch 1: ", EARLIER,
    ),
    "validation arrays": (
        lambda t, a, b: t.fit([b], validation_data=a), "batch 1 of epoch 1: ", "validation_data",
    ),
    "evaluation": (lambda t, a, b: t.evaluate([a, b]), "batch 2: ", EARLIER),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS_OF_FRAMES)
@pytest.mark.parametrize(
    ("x_columns", "y_columns", "wrong"),
    [
        ("ab", "uv", None),
        ("ba", "uv", ("x", "b", "a")),
        ("ab", "vu", ("y", "v", "u")),
        ("ab", "uw", None),  # another name for the same
    ],
)
def test_frames_have_one_order_of_columns_in_a_fit(way, x_columns, y_columns, wrong):
    """Batches in another order trained the wrong weights, and targets were taken for each other."""
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(2, 2)), loss=nn.MSELoss(), optimizer=optim.SGD(0.1)
    )
    first = Frame(X2, list("ab")), Frame(X2, list("uv"))
    second = Frame(X2, list(x_columns)), Frame(X2, list(y_columns))
    use, place, where = WAYS_OF_FRAMES[way]
    before = trainer.model.flat_parameters
    if wrong is None:
        use(trainer, first, second)
        return
    with pytest.raises(tw.DataError) as error:
        use(trainer, first, second)
    name, found, expected = wrong
    column = "column 0 of "
    place = column + place if way == "arrays" else place + column
    said = f"{place}{name} is {found!r}, but {expected!r} in {where}: both need the same columns"
    assert str(error.value).startswith(said)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_leaves_all_as_it_was():
    """The optimizer belonged to the model of the trainer that was refused, the loss was set."""
    optimizer = optim.Adam()
    doubtful = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    with pytest.raises(UserWarning, match="takes logits"):
        tw.Trainer(doubtful, loss=nn.BCEWithLogitsLoss(), optimizer=optimizer)
    tw.Trainer(nn.Sequential(nn.Linear(4, 1)), loss=nn.BCEWithLogitsLoss(), optimizer=optimizer)
    trainer = tw.Trainer(doubtful, loss=nn.MSELoss(), optimizer=optim.Adam())
    with pytest.raises(UserWarning, match="takes logits"):
        trainer.loss = nn.BCEWithLogitsLoss()
    assert trainer.loss == nn.MSELoss()

    def slopes(u, du, target):
        return 0.0, (np.zeros_like(u), None)

    def bends(u, du, d2u, target):
        return 0.0, (np.zeros_like(u), None, None)

    loss = nn.DerivativeLoss(slopes, order=1)
    straight = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    trainer = tw.Trainer(straight, loss=loss, optimizer=optim.Adam())
    with pytest.raises(UserWarning, match="second derivatives of this network are 0"):
        trainer.loss = nn.DerivativeLoss(bends)
    assert trainer.loss is trainer._core.loss is loss


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [
        (nn.MSELoss(), optim.Adam),
        (squares, optim.Adam),
        (nn.MSELoss(), lambda: optim.LBFGS(lr=0.1, max_iter=1)),
        (squares, lambda: optim.LBFGS(lr=0.1, max_iter=1)),
        (nn.MSELoss(), optim.LevenbergMarquardt),
    ],
)
def test_a_trainer_goes_at_once(loss, optimizer):
    """Some were reference cycles: their memory stayed until the garbage was next collected."""
    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=loss, optimizer=optimizer())
    trainer.step(X2, Y2)
    trainer.fit(X2, Y2, batch_size=None)
    gone = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()
