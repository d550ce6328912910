"""Callbacks: when they are called, and those that come with the library."""

import contextlib
import re
import tracemalloc

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.callbacks import Callback, EarlyStopping, ModelCheckpoint


class Journal(Callback):
    def __init__(self):
        self.lines = []

    def on_fit_begin(self, trainer):
        self.lines.append("begin")

    def on_step_end(self, trainer, record):
        self.lines.append((record["epoch"], record["batch"]))

    def on_epoch_end(self, trainer, record):
        self.lines.append(f"epoch {record['epoch']}")

    def on_fit_end(self, trainer):
        self.lines.append("end")


def test_a_callback_is_told_of_everything_in_order(classifier, blobs):
    journal = Journal()
    classifier.fit(blobs.x, blobs.y, epochs=2, batch_size=40, callbacks=[journal])
    assert journal.lines == [
        "begin",
        (1, 1), (1, 2), (1, 3), "epoch 1",
        (2, 1), (2, 2), (2, 3), "epoch 2",
        "end",
    ]  # fmt: skip


def test_methods_may_be_set_on_a_callback(classifier, blobs):
    """They were passed over silently, behind the empty ones of the class."""
    one, epochs = Callback(), []
    one.on_epoch_end = lambda trainer, record: epochs.append(record["epoch"]) or len(epochs) == 2
    history = classifier.fit(blobs.x, blobs.y, epochs=5, callbacks=[one])
    assert epochs == [1, 2]
    assert history.epochs == 2


def test_methods_that_would_not_run_are_refused(classifier, blobs):
    class Coroutine:
        async def on_step_end(self, trainer, record):
            raise AssertionError

    class Generator(Callback):
        def on_epoch_end(self, trainer, record):
            yield

    for one in (Coroutine(), Generator()):
        message = rf"{type(one).__name__}\.on_(step|epoch)_end would not run .* a plain function"
        with pytest.raises(tw.errors.ArgumentError, match=message):
            classifier.fit(blobs.x, blobs.y, callbacks=[one])
    assert classifier.optimizer.steps == 0


def test_the_losses_of_batches_make_up_that_of_the_epoch(classifier, blobs):
    losses = []

    class Losses:
        def on_step_end(self, trainer, record):
            losses.append(record["loss"])

    history = classifier.fit(blobs.x, blobs.y, epochs=1, batch_size=40, callbacks=[Losses()])
    assert history["loss"][0] == pytest.approx(np.average(losses, weights=[40, 40, 10]), rel=1e-12)


def test_watching_does_not_change_the_training(blobs):
    ends = []
    for callbacks in ([], [Journal()], [EarlyStopping("loss", patience=100)]):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        trainer.fit(blobs.x, blobs.y, epochs=3, callbacks=callbacks)
        ends.append(model.flat_parameters.tobytes())
    assert len(set(ends)) == 1


def test_a_fit_can_be_stopped_after_a_batch(classifier, blobs):
    class Stop:
        def on_step_end(self, trainer, record):
            return record["epoch"] == 2 and record["batch"] == 1

    history = classifier.fit(blobs.x, blobs.y, epochs=5, batch_size=40, callbacks=[Stop()])
    assert history.epochs == 1
    assert classifier.optimizer.steps == 4


class Script(Callback):
    """Sets the only weight of each epoch beforehand, so that its figures are known."""

    def __init__(self, values):
        self.values = iter(values)

    def on_fit_begin(self, trainer):
        trainer.model.flat_parameters = [next(self.values)]

    def on_epoch_end(self, trainer, record):
        trainer.model.flat_parameters = [next(self.values, 0)]


def scripted(values, stop):
    """A fit whose validation loss is the square of these values."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.0))
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    history = trainer.fit(
        one, zero, epochs=len(values), validation_data=(one, zero),
        callbacks=[stop, Script(values)],
    )  # fmt: skip
    return model.flat_parameters[0], history


def test_training_stops_when_the_figure_gets_no_better():
    stop = EarlyStopping(patience=2)
    _, history = scripted([5, 3, 4, 2, 3, 2, 9, 9], stop)
    assert history["val_loss"] == [25, 9, 16, 4, 9, 4]
    assert (stop.best, stop.best_epoch, stop.stopped_epoch) == (4, 4, 6)


def test_the_best_weights_come_back():
    stop = EarlyStopping(patience=2, restore_best_weights=True)
    last, history = scripted([5, 3, 1, 4, 4], stop)
    assert (last, history.epochs, stop.stopped_epoch) == (1, 5, 5)
    # Also if patience never ran out.
    stop = EarlyStopping(patience=9, restore_best_weights=True)
    last, history = scripted([5, 3, 1, 4, 4], stop)
    assert (last, history.epochs, stop.stopped_epoch) == (1, 5, 0)


class CtrlC:
    """Interrupts the fit after this epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, trainer, record):
        if record["epoch"] == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", [optim.Adam, optim.ScheduleFreeAdamW])
def test_after_an_interruption_the_best_weights_can_be_restored(optimizer, blobs):
    """A fit that ends by itself restores the same ones."""

    class Error:
        def on_epoch_end(self, trainer, record):
            record["error"] = abs(record["epoch"] - 4)

    def fit(stop, *others):
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer(lr=0.5))
        with contextlib.suppress(KeyboardInterrupt):
            trainer.fit(
                blobs.x, blobs.y, epochs=9, batch_size=8, callbacks=[Error(), stop, *others]
            )
        return trainer

    whole = EarlyStopping("error", patience=99, restore_best_weights=True)
    expected = fit(whole)
    stop = EarlyStopping("error", patience=99, restore_best_weights=True)
    trainer = fit(stop, CtrlC(6))
    assert stop.best_epoch == whole.best_epoch == 4
    best, last = expected.model.state_dict(), trainer.model.state_dict()
    assert not np.array_equal(last["0.weight"], best["0.weight"])
    stop.restore(trainer)
    for model in (trainer.model, expected.model):
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value, best[name])
    for done, of in ((whole, expected), (stop, trainer)):  # both have been restored
        of.model.flat_parameters = other = np.ones(of.model.num_parameters)
        done.restore(of)
        np.testing.assert_array_equal(of.model.flat_parameters, other)
    trainer.fit(blobs.x, blobs.y, epochs=2, callbacks=[Error(), stop])


@pytest.mark.parametrize("how", ["stop", "error", "Ctrl-C"])
def test_a_fit_that_ends_within_an_epoch_leaves_nothing_for_the_next_update(how, blobs):
    """Gradients of its last batches wait for others, which will not come."""

    class Ends:
        def on_step_end(self, trainer, record):
            assert trainer._core.gathered()[1] == 1
            if how == "error":
                raise ZeroDivisionError
            if how == "Ctrl-C":
                raise KeyboardInterrupt
            return True

    model = nn.Sequential(nn.Linear(5, 3))
    loss, optimizer = nn.CrossEntropyLoss(), optim.SGD()
    trainer = tw.Trainer(model, loss=loss, optimizer=optimizer, accumulate_grad_batches=3)
    with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt):
        trainer.fit(blobs.x, blobs.y, batch_size=8, callbacks=[Ends()])
    assert trainer._core.gathered() is None


def test_other_callbacks_do_not_add_figures_of_a_fit(classifier, blobs):
    """Others may come from one, but these only with data: refused before the first epoch."""

    class Adds:
        def on_epoch_end(self, trainer, record):
            record["error"] = 1.0

    for name in ("val_loss", "val_accuracy"):
        stop = EarlyStopping(name)
        with pytest.raises(tw.ArgumentError, match=f"monitors '{name}'; pass validation_data"):
            classifier.fit(blobs.x, blobs.y, callbacks=[Adds(), stop])
    assert classifier.optimizer.steps == 0


@pytest.mark.parametrize("change", [lambda record: record.pop("val_loss"), dict.clear, None])
def test_the_figures_of_a_record_stay(change, classifier, blobs):
    """Later callbacks saw the changed figure, and the history had the other one."""

    class Changes:
        def on_epoch_end(self, trainer, record):
            if change:
                change(record)
            else:
                record["val_loss"] = 0.9 * record["val_loss"]

    message = (
        r"'(val_loss|epoch)' was removed; copy the record first: dict\(record\)\n"
        if change
        else "may only add to the record; it changed 'val_loss' from .*another name"
    )
    with pytest.raises(tw.ArgumentError, match=message):
        classifier.fit(
            blobs.x, blobs.y, validation_data=(blobs.x, blobs.y), callbacks=[Changes()]
        )  # fmt: skip
    assert classifier.history["val_loss"][0] > 0


def test_the_same_figures_are_no_change(blobs):
    """NaN is none either, though it is not equal to itself."""

    def loss(output, target):
        return 0.0, np.zeros_like(output), {"gap": float("nan")}

    class Same:
        def on_epoch_end(self, trainer, record):
            for key in record:
                record[key] = np.float64(record[key])

    model = nn.Sequential(nn.Linear(blobs.x.shape[1], 1))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD())
    history = trainer.fit(blobs.x, blobs.y[:, None], callbacks=[Same()])
    assert np.isnan(history["gap"]).all()


def test_weights_that_were_not_kept_cannot_be_restored(classifier, blobs):
    stop = EarlyStopping("loss", patience=99)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(blobs.x, blobs.y, epochs=3, callbacks=[stop, CtrlC(2)])
    with pytest.raises(tw.ArgumentError, match="restore_best_weights=True before the fit"):
        stop.restore(classifier)


def test_patience_begins_anew_with_each_improvement_and_each_fit():
    stop = EarlyStopping(patience=2, min_delta=1.5)
    _, history = scripted([5, 4.9, 4, 3.9, 3.9, 0], stop)  # 25, 24.01, 16, 15.21, 15.21
    assert (history.epochs, stop.best) == (5, 16)
    _, history = scripted([9, 8, 7], stop)
    assert (history.epochs, stop.best, stop.stopped_epoch) == (3, 49, 0)


def test_no_patience_and_a_late_start():
    assert scripted([1, 2, 3], EarlyStopping())[1].epochs == 2
    assert scripted([1, 2, 3, 4], EarlyStopping(start_from_epoch=2))[1].epochs == 4


def test_more_accuracy_is_better(classifier, blobs):
    stop = EarlyStopping("val_accuracy", patience=3)
    history = classifier.fit(
        blobs.x, blobs.y, epochs=200, validation_data=(blobs.x, blobs.y), callbacks=[stop]
    )
    assert stop.best == max(history["val_accuracy"])
    assert history.epochs == stop.stopped_epoch == stop.best_epoch + 3


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (
            "val_loss",
            "EarlyStopping monitors 'val_loss'; pass validation_data to fit, or monitor=\"loss\"",
        ),
        ("val_los", "monitors 'val_los'; pass validation_data to fit"),
        ("los", 'did you mean "loss"'),
    ],
)
def test_a_figure_that_is_not_there_is_named(monitor, message, classifier, blobs):
    with pytest.raises(tw.ArgumentError, match=message):
        classifier.fit(blobs.x, blobs.y, callbacks=[EarlyStopping(monitor, mode="min")])
    assert classifier.optimizer.steps == 0  # all figures that there will be are known before


class Auc:
    """Adds a figure of one's own, which is larger in later epochs."""

    def on_epoch_end(self, trainer, record):
        record["val_auc"] = 1 - 1 / record["epoch"]


def test_a_figure_of_a_callback_may_have_any_name(classifier, blobs):
    """Also one that begins with val_, without validation data."""
    stop = EarlyStopping("val_auc", patience=2)
    history = classifier.fit(blobs.x, blobs.y, epochs=4, callbacks=[Auc(), stop])
    assert (history.epochs, stop.best, stop.best_epoch) == (4, 0.75, 4)


def test_the_callback_that_adds_a_figure_comes_first(classifier, blobs):
    with pytest.raises(
        tw.ArgumentError, match=r"'val_auc'.* adds it must come before this one"
    ) as e:
        classifier.fit(blobs.x, blobs.y, callbacks=[EarlyStopping("val_auc"), Auc()])
    assert "validation_data" not in str(e.value)  # which would not help
    assert classifier.optimizer.steps == 0
    # Whether one that comes before adds it, is seen at the end of the first epoch.
    with pytest.raises(tw.ArgumentError, match=r"'val_f1'.* adds it must come before this one"):
        classifier.fit(blobs.x, blobs.y, callbacks=[Auc(), EarlyStopping("val_f1")])
    assert classifier.history.epochs == 1


def test_a_figure_of_some_epochs_is_nan_in_the_others(classifier, blobs):
    class Rarely(Auc):
        def __init__(self, otherwise):
            self.otherwise = otherwise

        def on_epoch_end(self, trainer, record):
            if record["epoch"] % 2 == 1:
                record.update(self.otherwise)
            else:
                super().on_epoch_end(trainer, record)

    stop = EarlyStopping("val_auc", patience=2)
    with pytest.raises(tw.ArgumentError, match="in every epoch, with NaN where it has none") as e:
        classifier.fit(blobs.x, blobs.y, epochs=9, callbacks=[Rarely({}), stop])
    assert "validation_data" not in str(e.value)
    rarely = Rarely({"val_auc": np.nan})
    history = classifier.fit(blobs.x, blobs.y, epochs=9, callbacks=[rarely, stop])
    assert (history.epochs, stop.best_epoch) == (9, 8)
    np.testing.assert_array_equal(history["val_auc"][:4], [np.nan, 1 / 2, np.nan, 3 / 4])


def test_what_is_no_argument_of_a_callback_can_be_set_later(tmp_path):
    ModelCheckpoint(tmp_path / "model").best = None  # begins anew

    class Own(EarlyStopping):
        def __init__(self, patience):
            super().__init__(patience=patience)
            self.patience = patience

    assert Own(3).patience == 3


def test_a_figure_that_cannot_come_is_refused_before_the_first_step(regressor, rng):
    x, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 2))
    for watch in ({"callbacks": [EarlyStopping("val_accuracy")]}, {"monitor": "val_accuracy"}):
        trainer = regressor
        if "monitor" in watch:  # a schedule looks at an epoch before callbacks add to it
            schedule, watch = optim.schedules.ReduceLROnPlateau(**watch), {"callbacks": [Auc()]}
            model, loss = nn.Sequential(nn.Linear(5, 2)), nn.MSELoss()
            trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(), schedule=schedule)
        with pytest.raises(tw.ArgumentError, match=r"'val_accuracy', but .* are loss, val_loss"):
            trainer.fit(x, y, validation_data=(x, y), **watch)
        assert trainer.optimizer.steps == 0


def test_figures_of_a_loss_of_ones_own_come_with_the_first_epoch(rng):
    """What a function gives is known once it was called; but it cannot give an accuracy."""

    def squares(output, target):
        d = output - target
        return np.mean(d**2), 2 * d / d.size, {"mae": np.abs(d).mean()}

    x = rng.standard_normal((20, 3))
    model = nn.Sequential(nn.Linear(3, 1))
    trainer = tw.Trainer(model, loss=squares, optimizer=optim.SGD(lr=0.01))
    stop = EarlyStopping("val_mae", patience=5)
    history = trainer.fit(x, x[:, :1], epochs=3, validation_data=(x, x[:, :1]), callbacks=[stop])
    assert stop.best == min(history["val_mae"])
    with pytest.raises(tw.ArgumentError, match=r"'val_accuracy', but .* are loss, val_loss"):
        trainer.fit(
            x, x[:, :1], validation_data=(x, x[:, :1]), callbacks=[EarlyStopping("val_accuracy")]
        )
    assert trainer.history is history


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val_loss", "min"), ("error", "min"), ("val_rmse", "min"), ("perplexity", "min"),
        ("seconds", "min"), ("top5_accuracy", "max"), ("val_auc", "max"), ("F1", "max"),
        ("r2_score", "max"),
    ],
)  # fmt: skip
def test_names_of_figures_tell_which_are_better(monitor, mode):
    assert repr(EarlyStopping(monitor)) == repr(EarlyStopping(monitor, mode=mode))


@pytest.mark.parametrize("monitor", ["largest", "brier_score", "neg_mean_squared_error", "losses"])
def test_of_other_names_the_mode_must_be_given(monitor, tmp_path):
    for make in (EarlyStopping, lambda key: ModelCheckpoint(tmp_path / "m", monitor=key)):
        with pytest.raises(tw.ArgumentError, match=f'{monitor}.* pass mode="min" or mode="max"'):
            make(monitor)


def test_nan_is_never_the_best(classifier, blobs):
    figures = iter([np.nan, 3.0, np.nan, 2.0, 5.0])

    class Error:
        def on_epoch_end(self, trainer, record):
            record["error"] = next(figures)

    stop = EarlyStopping("error", patience=9)
    classifier.fit(blobs.x, blobs.y, epochs=5, callbacks=[Error(), stop])
    assert (stop.best, stop.best_epoch) == (2.0, 4)


@pytest.mark.parametrize(
    ("answer", "epochs"), [(True, 1), (np.True_, 1), (1, 3), (1.0, 3), (np.ones(3), 3), (None, 3)]
)
def test_only_true_stops(answer, epochs, classifier, blobs):
    class Answers:
        def on_epoch_end(self, trainer, record):
            return answer

    assert classifier.fit(blobs.x, blobs.y, epochs=3, callbacks=[Answers()]).epochs == epochs


def test_the_best_weights_and_the_average_of_schedule_free_belong_together(blobs):
    model = nn.Sequential(nn.Linear(5, 3))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.ScheduleFreeAdamW())
    averages = []

    class Rising:
        def on_epoch_end(self, trainer, record):
            averages.append(trainer.average_model().flat_parameters)
            record["error"] = record["epoch"]

    stop = EarlyStopping("error", patience=3, restore_best_weights=True)
    trainer.fit(blobs.x, blobs.y, epochs=9, callbacks=[Rising(), stop])
    assert (stop.best_epoch, len(averages)) == (1, 4)
    np.testing.assert_array_equal(trainer.average_model().flat_parameters, averages[0])


@pytest.mark.parametrize("path", ["{los}", "{epoch.x}", "{epoch[0]}", "{loss:q}", "{}", "{loss"])
def test_paths_that_cannot_be_filled_in_are_named(path, classifier, blobs, tmp_path):
    with pytest.raises(
        tw.ArgumentError, match=rf"'{re.escape(path)}'.*the figures are .*loss, accuracy"
    ):
        classifier.fit(blobs.x, blobs.y, callbacks=[ModelCheckpoint(path)])
    assert classifier.optimizer.steps == 0


def test_what_is_no_path_or_figure_is_refused():
    for path in (b"/tmp/x", 3, None):
        with pytest.raises(tw.ArgumentError, match="ModelCheckpoint: path must be text or a path"):
            ModelCheckpoint(path)
    with pytest.raises(tw.ArgumentError, match="monitor"):
        EarlyStopping(monitor=3)


def test_figures_of_callbacks_go_into_paths(classifier, blobs, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}-{val_auc:.2f}")
    classifier.fit(blobs.x, blobs.y, epochs=2, callbacks=[Auc(), checkpoint])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-0.00", "2-0.50"]


def test_batches_that_are_passed_over_have_no_loss_to_show(classifier, blobs):
    seen = []

    class Losses:
        def on_step_end(self, trainer, record):
            seen.append((record["batch"], record["loss"]))

    weight = np.repeat([0.0, 1.0, 0.0], 30)
    classifier.fit(
        blobs.x, blobs.y, batch_size=30, shuffle=False, sample_weight=weight, callbacks=[Losses()]
    )  # fmt: skip
    assert [batch for batch, _ in seen] == [2]
    assert np.isfinite(seen[0][1])


@pytest.mark.parametrize(
    ("thing", "advice"),
    [
        (EarlyStopping, r"pass an instance, EarlyStopping\(...\)"),
        (lambda trainer, record: None, "a class with a method on_epoch_end"),
        (optim.schedules.ReduceLROnPlateau(), r"Trainer\(..., schedule=...\)"),
    ],
)
def test_what_is_nearly_a_callback_says_what_to_write(thing, advice, classifier, blobs):
    with pytest.raises(tw.ArgumentError, match=advice):
        classifier.fit(blobs.x, blobs.y, callbacks=[thing])


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("on_train_batch_end", "it is on_step_end here"),  # Keras, Lightning
        ("on_train_begin", "it is on_fit_begin here"),
        ("on_train_epoch_end", "it is on_epoch_end here"),
        ("on_epoch_begin", "the methods are on_fit_begin, on_step_end"),
    ],
)
def test_methods_that_would_not_be_called_are_told_ours(name, ours, classifier, blobs):
    """A class derived from Callback is one whatever it has, and nothing would happen."""
    message = rf"Other\.{name} would not be called by Trainer\.fit: {ours}"
    for base in (Callback, object):
        other = type("Other", (base,), {name: lambda self, *args: None})()
        with pytest.raises(tw.ArgumentError, match=message):
            classifier.fit(blobs.x, blobs.y, callbacks=[other])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(metric="loss"), "EarlyStopping .*'metric': it is monitor"),
        (
            lambda: EarlyStopping(restore_best=True),
            r"'restore_best'; did you mean restore_best_weights\?.* takes monitor, min_delta",
        ),
        (lambda: ModelCheckpoint(filepath="a"), "ModelCheckpoint .*'filepath': it is path"),
    ],
)
def test_arguments_of_others_callbacks(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_callbacks_show_what_they_do():
    stop = EarlyStopping(patience=5, restore_best_weights=True)
    assert repr(stop) == (
        "EarlyStopping(monitor='val_loss', patience=5, restore_best_weights=True)"
    )
    assert repr(ModelCheckpoint("a.safetensors")) == "ModelCheckpoint(path='a.safetensors')"


def test_what_is_no_callback_is_refused(classifier, blobs):
    for wrong in ([print], [EarlyStopping], EarlyStopping(), 3):
        with pytest.raises(tw.ArgumentError, match="callback"):
            classifier.fit(blobs.x, blobs.y, callbacks=wrong)


class Counted:
    """Adds the number of an epoch to its record, up to three, or in some epochs only."""

    def __init__(self, epochs=range(1, 100)):
        self.epochs = epochs

    def on_epoch_end(self, trainer, record):
        if record["epoch"] in self.epochs:
            record["count"] = np.float32(min(record["epoch"], 3))


def test_figures_of_callbacks_are_in_the_history(classifier, blobs):
    stop = EarlyStopping("count", mode="max", patience=2)
    history = classifier.fit(blobs.x, blobs.y, epochs=50, callbacks=[Counted(), stop])
    assert history["count"] == [1, 2, 3, 3, 3]
    assert {type(value) for value in history["count"]} == {float}
    assert stop.best_epoch == 3
    assert classifier.history is history


def test_the_history_is_whole_when_a_callback_is_told_of_a_divergence(rng):
    seen = []

    class Told:
        def on_diverged(self, trainer, error):
            seen.append(list(trainer.history["loss"]))

    x = rng.standard_normal((20, 3))
    model = nn.Sequential(nn.Linear(3, 1), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=5.0))
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, x[:, 0], epochs=5000, callbacks=[Told()])
    assert seen == [trainer.history["loss"]]
    assert len(seen[0]) > 1


@pytest.mark.parametrize("schedule", [None, optim.schedules.StepLR(10**6)])
def test_a_callback_that_is_told_of_a_divergence_may_choose_another_rate(schedule, rng):
    """It sees the rate from before the fit, and the one that it sets stays."""
    seen = []

    class Halved:
        def on_diverged(self, trainer, error):
            seen.append((trainer.optimizer.lr, trainer.optimizer.steps, trainer._epochs))
            trainer.optimizer.lr /= 2

    x = rng.standard_normal((20, 3))
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(3, 1)),
        loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.125), schedule=schedule,
    )  # fmt: skip
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, 1e3 * x[:, 0], epochs=5000, callbacks=[Halved()], lr=50.0)
    assert seen == [(0.125, 0, 0)]
    assert trainer.optimizer.lr == 0.0625


def test_an_error_in_a_callback_keeps_what_was_learned(classifier, blobs):
    class Fails:
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                raise tw.ArgumentError("here")

    before = classifier.model.flat_parameters
    with pytest.raises(tw.ArgumentError, match="here"):
        classifier.fit(blobs.x, blobs.y, epochs=5, callbacks=[Fails()])
    assert (classifier.model.flat_parameters != before).any()
    assert classifier.history.epochs == 2


def test_an_epoch_is_recorded_without_a_look_at_all_those_before():
    """Else a fit of n epochs would take n^2 time."""
    record = {"loss": 1.0, "accuracy": 0.5, "seconds": 0.1}
    history = tw.History({key: [0.0] * 50_000 for key in record})
    history.append(record)  # the lists grow, and then have room for more
    tracemalloc.start()
    try:
        history.append(record)
        assert tracemalloc.get_traced_memory()[1] < 10_000  # bytes
    finally:
        tracemalloc.stop()
    assert {len(figures) for figures in history.values()} == {50_002}


def test_a_figure_that_is_missing_is_nan(classifier, blobs):
    history = classifier.fit(blobs.x, blobs.y, epochs=4, callbacks=[Counted([2, 3])])
    np.testing.assert_array_equal(history["count"], [np.nan, 2, 3, np.nan])


def test_each_figure_has_a_number_for_each_epoch_also_after_a_failure(classifier, blobs):
    class Fails:
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 3:
                raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        classifier.fit(blobs.x, blobs.y, epochs=5, callbacks=[Counted(), Fails()])
    np.testing.assert_array_equal(classifier.history["count"], [1, 2, np.nan])
    assert classifier.history.epochs == 3


def test_a_figure_is_a_number(classifier, blobs):
    class Text:
        def on_epoch_end(self, trainer, record):
            record["note"] = "good"

    with pytest.raises(
        tw.ArgumentError, match="only add numbers to the record; got 'note': 'good'"
    ):
        classifier.fit(blobs.x, blobs.y, callbacks=[Text()])


def test_a_training_with_figures_of_callbacks_is_saved(classifier, blobs, tmp_path):
    classifier.fit(blobs.x, blobs.y, epochs=3, callbacks=[Counted([1, 2])])
    classifier.save(tmp_path / "training")
    loaded = tw.Trainer.load(tmp_path / "training")
    np.testing.assert_array_equal(loaded.history["count"], [1, 2, np.nan])


def test_a_folder_may_be_named_by_a_figure(classifier, blobs, tmp_path):
    """Which nobody knows before the first step; that of 0 need not be there."""
    path = tmp_path / "{epoch}-{kind}" / "model"

    class Kind:
        def on_epoch_end(self, trainer, record):
            record["kind"] = 7

    (tmp_path / "1-7").mkdir()
    classifier.fit(blobs.x, blobs.y, callbacks=[Kind(), ModelCheckpoint(path)])
    assert (tmp_path / "1-7" / "model").exists()


@pytest.mark.parametrize("name", ["no/model", "no/{epoch}/model", "{epoch}/model", "model-{epoch}"])
def test_a_folder_that_is_not_there_is_seen_before_the_first_step(
    name, classifier, blobs, tmp_path
):
    before, lr = classifier.model.flat_parameters, classifier.optimizer.lr
    checkpoint = ModelCheckpoint(tmp_path / name)
    if name == "model-{epoch}":
        classifier.fit(blobs.x, blobs.y, callbacks=[checkpoint])
        assert (tmp_path / "model-1").exists()
        return
    with pytest.raises(FileNotFoundError, match=r"no such folder|No such file"):
        classifier.fit(blobs.x, blobs.y, lr=0.5, callbacks=[checkpoint])
    np.testing.assert_array_equal(classifier.model.flat_parameters, before)
    assert classifier.optimizer.lr == lr


def test_early_stopping_shows_what_is_not_usual():
    stop = EarlyStopping("val_accuracy", mode="min", min_delta=0.1)
    assert repr(stop) == (
        "EarlyStopping(monitor='val_accuracy', mode='min', min_delta=0.1, patience=0)"
    )
    usual = EarlyStopping("val_accuracy", mode="max")
    assert repr(usual) == "EarlyStopping(monitor='val_accuracy', patience=0)"


def test_a_folder_is_no_file_to_save_to(classifier, blobs, tmp_path):
    (tmp_path / "epoch-1").mkdir()
    before = classifier.model.flat_parameters
    for path in (tmp_path, f"{tmp_path}/", tmp_path / "epoch-{epoch}"):
        with pytest.raises(IsADirectoryError, match="path must name a file; this is a folder"):
            classifier.fit(blobs.x, blobs.y, callbacks=[ModelCheckpoint(path)])
    with pytest.raises(tw.ArgumentError, match="path must name a file; it is empty"):
        ModelCheckpoint("")
    np.testing.assert_array_equal(classifier.model.flat_parameters, before)


def test_the_best_checkpoint_of_earlier_fits_is_not_replaced_by_a_worse_one(tmp_path):
    """It was, since each fit began anew."""
    path = tmp_path / "best"
    x, y = np.ones((4, 1)), np.ones(4)

    class Given:
        def __init__(self, *figures):
            self.figures = figures

        def on_epoch_end(self, trainer, record):
            record["given_loss"] = self.figures[int(record["epoch"]) - 1]

    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(1, 1)), loss=nn.MSELoss(), optimizer=optim.SGD(0.1)
    )
    best = ModelCheckpoint(path, monitor="given_loss", save_best_only=True)
    trainer.fit(x, y, epochs=2, callbacks=[Given(0.5, 0.3), best])
    kept = trainer.model.flat_parameters
    trainer.fit(x, y, epochs=2, callbacks=[Given(0.4, 0.35), best])
    np.testing.assert_array_equal(nn.Sequential.load(path).flat_parameters, kept)
    assert best.best == 0.3
    trainer.fit(x, y, callbacks=[Given(0.2), best])
    np.testing.assert_array_equal(
        nn.Sequential.load(path).flat_parameters, trainer.model.flat_parameters
    )


def test_a_checkpoint_that_was_not_written_is_not_the_best(classifier, blobs, tmp_path):
    folder = tmp_path / "there"
    best = ModelCheckpoint(folder / "best", monitor="loss", save_best_only=True)

    class Away:
        def on_epoch_end(self, trainer, record):
            if int(record["epoch"]) == 2:
                folder.rename(tmp_path / "elsewhere")

    folder.mkdir()
    with pytest.raises(FileNotFoundError):
        classifier.fit(blobs.x, blobs.y, epochs=3, callbacks=[Away(), best])
    first, second = classifier.history["loss"]
    assert first > second
    assert best.best == first


@pytest.mark.parametrize("average", [optim.EMA(0.9), optim.SWA()])
def test_the_average_of_the_best_epoch_comes_back_with_its_weights(average, classifier, blobs):
    """Its figure may be what was monitored, but it stayed that of the last epoch."""
    averages = []

    class Average:
        def on_epoch_end(self, trainer, record):
            averages.append(trainer.average_model())
            record["mine_loss"] = abs(record["epoch"] - 3)  # the third epoch is the best

    trainer = tw.Trainer(
        classifier.model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(), average=average
    )
    stop = EarlyStopping("mine_loss", patience=9, restore_best_weights=True)
    trainer.fit(blobs.x, blobs.y, epochs=6, callbacks=[Average(), stop])
    found, best = trainer.average_model().flat_parameters, averages[2].flat_parameters
    np.testing.assert_array_equal(found, best)
    assert (best != averages[-1].flat_parameters).any()


def test_figures_added_to_batches_are_those_of_the_epoch(classifier, blobs):
    """They vanished."""
    seen = []

    class Norm:
        def on_step_end(self, trainer, record):
            record["norm"] = float(np.linalg.norm(trainer.model.flat_parameters))
            record["first"] = 1.0 if record["batch"] == 1 else np.nan
            seen.append(record["norm"])

    stop = EarlyStopping("norm", mode="min", patience=9)
    history = classifier.fit(
        blobs.x, blobs.y, epochs=2, batch_size=40, callbacks=[stop, Norm()]
    )  # fmt: skip
    np.testing.assert_allclose(history["norm"], np.reshape(seen, (2, 3)).mean(axis=1), rtol=1e-14)
    assert history["first"] == [1.0, 1.0]
    assert stop.best == min(history["norm"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("accuracy", 0.5, "a callback added 'accuracy' to the records of batches, but the fit"),
        ("text", "0.5", "may only add numbers to the record; got 'text': '0.5'"),
        ("loss", 0.5, r"may only add to the record; it changed 'loss' from [\d.]+ to 0\.5: add"),
        (
            "grad_norm",
            None,
            r"got 'grad_norm': None: trainer\.grad_norm needs Trainer\(.*math\.inf",
        ),
    ],
)
def test_what_is_no_figure_of_batches_is_refused(name, value, message, classifier, blobs):
    class Adds:
        def on_step_end(self, trainer, record):
            record[name] = value

    with pytest.raises(tw.errors.ArgumentError, match=message):
        classifier.fit(blobs.x, blobs.y, callbacks=[Adds()])
