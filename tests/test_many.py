"""Several trainings at once."""

import dis
import gc
import itertools
import re
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import thalweg as tw
from thalweg import _many, nn, optim
from thalweg.callbacks import Callback, EarlyStopping, ModelCheckpoint


def make(seed, lr=0.01):
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3), seed=seed)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=lr))


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
def test_every_fit_is_what_it_would_have_been_alone(workers, blobs):
    trainers = [make(seed) for seed in range(6)]
    histories = tw.train_many(trainers, blobs.x, blobs.y, workers=workers, epochs=5, batch_size=8)
    for seed, (trainer, history) in enumerate(zip(trainers, histories, strict=True)):
        alone = make(seed)
        assert alone.fit(blobs.x, blobs.y, epochs=5, batch_size=8)["loss"] == history["loss"]
        np.testing.assert_array_equal(alone.model.flat_parameters, trainer.model.flat_parameters)


@pytest.mark.parametrize(("workers", "share"), [(2, 4), (3, 2), (16, 1)])
def test_every_fit_has_its_share_of_the_threads(workers, share, blobs):
    seen = set()

    class Look:
        def on_epoch_end(self, trainer, record):
            seen.add(tw.get_num_threads())

    before = tw.get_num_threads()
    tw.set_num_threads(8)
    try:
        trainers = [make(seed) for seed in range(16)]
        tw.train_many(trainers, blobs.x, blobs.y, workers=workers, epochs=1,
                      callbacks=lambda _: [Look()])  # fmt: skip
        assert seen == {share}
        seen.clear()
        tw.train_many(trainers[:2], blobs.x, blobs.y, workers=workers, callbacks=lambda _: [Look()])
        assert seen == {4}, "no more workers than there are fits"
        assert tw.get_num_threads() == 8, "of the thread that called, nothing changes"
    finally:
        tw.set_num_threads(before)


def test_fits_run_at_the_same_time(blobs):
    """Each waits at the end of its first epoch until the other is there, too."""
    both = threading.Barrier(2, timeout=20)

    class Meet:
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 1:
                both.wait()

    tw.train_many(
        [make(0), make(1)], blobs.x, blobs.y, workers=2, epochs=3, callbacks=lambda _: [Meet()]
    )  # fmt: skip


@pytest.mark.parametrize("allowed", [0, 1])
def test_fewer_threads_than_asked_for_do_all_the_same(allowed, blobs, monkeypatch):
    """A container may limit the threads of a process; the data were checked, so all is trained."""
    start, started, seen = threading.Thread.start, [], []

    def begin(thread):
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    class Look:
        def on_epoch_end(self, trainer, record):
            seen.append(threading.current_thread())

    trainers = [make(seed) for seed in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", begin)
        histories = tw.train_many(
            trainers, blobs.x, blobs.y, workers=3, callbacks=lambda _: [Look()]
        )
    assert set(seen) == set(started or [threading.current_thread()])
    for seed, (trainer, history) in enumerate(zip(trainers, histories, strict=True)):
        assert make(seed).fit(blobs.x, blobs.y)["loss"] == history["loss"]
        assert trainer.epochs == 1


def test_ctrl_c_ends_fits_on_the_calling_thread(blobs, monkeypatch):
    def begin(thread):
        raise RuntimeError("can't start new thread")

    class Press:
        def on_epoch_end(self, trainer, record):
            raise KeyboardInterrupt

    trainers = [make(seed) for seed in range(3)]
    monkeypatch.setattr(threading.Thread, "start", begin)
    with pytest.raises(KeyboardInterrupt):
        tw.train_many(trainers, blobs.x, blobs.y, workers=3, callbacks=lambda _: [Press()])
    assert [trainer.epochs for trainer in trainers] == [1, 0, 0]


def test_an_error_ends_all_and_is_raised(blobs):
    """Also in the middle of an epoch: this one has a batch for each of a million rows."""
    begun = threading.Event()

    class Broken:
        def on_fit_begin(self, trainer):
            if trainer is bad:
                assert begun.wait(20)
                raise KeyError("mine")
            begun.set()

    good, bad = make(0), make(1)
    x, y = np.tile(blobs.x, (10_000, 1)), np.tile(blobs.y, 10_000)
    with pytest.raises(KeyError, match="mine") as error:
        tw.train_many(
            [good, bad], x, y, workers=2, batch_size=1, epochs=100, callbacks=lambda _: [Broken()]
        )
    assert error.value.__notes__ == ["This happened in the fit of trainers[1]."]
    assert good.epochs == good.history.epochs == 0
    assert 0 <= good.optimizer.steps < len(x)


def of_rates(*rates):
    """Trainers, some of which diverge."""
    return [
        tw.Trainer(
            nn.Sequential(nn.Linear(5, 1)), loss=nn.MSELoss(), optimizer=optim.SGD(lr=rate)
        )
        for rate in rates
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fit_that_diverges_lets_the_others_finish(workers, blobs):
    """How far these were depended on the time."""
    trainers = of_rates(0.01, 1e20, 0.02, 1e10, 0.03)
    before = trainers[1].model.flat_parameters
    data = blobs.x, blobs.x[:, :1]
    with pytest.raises(tw.DivergedError) as error:
        tw.train_many(trainers, *data, epochs=20, workers=workers)
    assert error.value.index == 1
    assert error.value.__notes__ == [
        "2 of the 5 fits diverged, those of trainers[1], trainers[3].",
        "This happened in the fit of trainers[1].",
    ]
    assert [trainer.epochs for trainer in trainers] == [20, 0, 20, 0, 20]
    np.testing.assert_array_equal(trainers[1].model.flat_parameters, before)

    trainers = of_rates(0.01, 1e20, 0.02)
    histories = tw.train_many(trainers, *data, epochs=20, workers=workers, diverged="keep")
    assert [history.epochs for history in histories] == [20, trainers[1].history.epochs, 20]
    assert histories[1].epochs < 20

    trainers = of_rates(0.01, 3e38)
    history = tw.train_many(trainers, *data, epochs=20, diverged="keep")[1]
    assert history.epochs == 0
    with pytest.raises(KeyError, match=r"no figures 'loss'; .* no epoch was completed\"$"):
        history["loss"]  # trainer.figures has nothing without a custom loss
    with pytest.raises(tw.errors.ArgumentError, match=r"diverged must be .*got 'ignore'"):
        tw.train_many(trainers, *data, diverged="ignore")


@pytest.mark.parametrize("given", ["targets", "weights"])
def test_the_data_of_all_are_checked_before_anything_is_trained(given, blobs):
    """The last fit found out after the others were over."""
    trainers = [make(seed) for seed in range(3)]
    x, y, options = [blobs.x] * 3, [blobs.y, blobs.y, blobs.y + 1], {}
    if given == "weights":
        x, y = blobs.x, blobs.y
        options = {"sample_weight": [np.ones(90), np.ones(90), np.zeros(90)]}
    with pytest.raises(tw.ThalwegError) as error:
        tw.train_many(trainers, x, y, workers=1, **options)
    assert error.value.__notes__ == ["This happened in the fit of trainers[2]."]
    assert [trainer.optimizer.steps for trainer in trainers] == [0, 0, 0]


def test_each_can_have_weights_of_its_own_for_the_same_data(blobs, rng):
    """As for a bootstrap."""
    weights = [rng.exponential(size=len(blobs.x)) for _ in range(3)]
    trainers = [make(0) for _ in range(3)]
    tw.train_many(trainers, blobs.x, blobs.y, sample_weight=weights, epochs=2)
    for trainer, weight in zip(trainers, weights, strict=True):
        alone = make(0)
        alone.fit(blobs.x, blobs.y, sample_weight=weight, epochs=2)
        np.testing.assert_array_equal(alone.model.flat_parameters, trainer.model.flat_parameters)
    with pytest.raises(tw.errors.ArgumentError, match="sample_weight must be a list of 2; got 3"):
        tw.train_many(trainers[:2], blobs.x, blobs.y, sample_weight=weights)


def test_each_fit_has_callbacks_of_its_own(blobs):
    def run(trainers):
        stops = {}

        def callbacks(trainer):
            stops[id(trainer)] = EarlyStopping("loss", patience=2, restore_best_weights=True)
            return [stops[id(trainer)]]

        tw.train_many(
            trainers, blobs.x, blobs.y, workers=3, epochs=60, batch_size=8, callbacks=callbacks
        )  # fmt: skip
        return [stops[id(t)].best_epoch for t in trainers]

    trainers = [make(seed, lr=0.2) for seed in range(3)]
    together = run(trainers)
    for seed, trainer in enumerate(trainers):
        alone = make(seed, lr=0.2)
        assert run([alone]) == [together[seed]]
        np.testing.assert_array_equal(alone.model.flat_parameters, trainer.model.flat_parameters)


@pytest.mark.parametrize("of", ["all", "each"])
def test_each_can_have_data_of_its_own(blobs, of):
    """Also of other lengths: folds, of which another part is held out each."""
    folds = [np.arange(90) % 7 == fold for fold in range(3)]
    weight = np.linspace(0.5, 2, 90)
    xs, ys, ws = ([a[~fold] for fold in folds] for a in (blobs.x, blobs.y, weight))
    held_out = [(blobs.x[fold], blobs.y[fold]) for fold in folds]
    if of == "all":
        held_out = (blobs.x, blobs.y)
    trainers = [make(seed) for seed in range(3)]
    histories = tw.train_many(
        trainers, xs, ys, sample_weight=ws, validation_data=held_out, epochs=3, workers=2
    )
    for i, (trainer, history) in enumerate(zip(trainers, histories, strict=True)):
        alone = make(i)
        mine = held_out if of == "all" else held_out[i]
        expected = alone.fit(xs[i], ys[i], sample_weight=ws[i], validation_data=mine, epochs=3)
        assert history["loss"] == expected["loss"]
        assert history["val_loss"] == expected["val_loss"]
        np.testing.assert_array_equal(alone.model.flat_parameters, trainer.model.flat_parameters)


def test_lists_of_rows_are_for_all(blobs):
    trainers = [make(0), make(1)]
    rows = list(blobs.x)  # arrays, but each is a row
    tw.train_many(trainers, rows, list(blobs.y), epochs=2)
    alone = make(1)
    alone.fit(blobs.x, blobs.y, epochs=2)
    np.testing.assert_array_equal(alone.model.flat_parameters, trainers[1].model.flat_parameters)


def test_data_of_each_must_be_as_many_as_there_are(blobs):
    trainers, (x, y) = [make(0), make(1)], (blobs.x, blobs.y)
    for wrong, message in (
        (([x] * 3, [y] * 3), "x must be a list of 2; got 3"),
        (([x] * 2, [y]), "y must be a list of 2; got 1"),
        (([x] * 2, [y] * 2, {"sample_weight": np.ones(90)}), "sample_weight must be a list of 2"),
        (([x] * 2, [y] * 2, {"validation_data": [(x, y)]}), "validation_data must .* 2; got 1"),
    ):
        x_, y_, *more = wrong
        with pytest.raises(tw.ArgumentError, match=message):
            tw.train_many(trainers, x_, y_, **(more[0] if more else {}))
    assert trainers[0].optimizer.steps == trainers[1].optimizer.steps == 0
    with pytest.raises(tw.ShapeError, match="89") as caught:  # names whose it was
        tw.train_many(trainers, [x, x], [y, y[:89]])
    assert caught.value.__notes__ == ["This happened in the fit of trainers[1]."]


def test_a_sweep_that_was_stopped_goes_on(blobs):
    """From wherever each was; those that are ready train no more."""
    data = blobs.x, blobs.y
    trainers, alone = ([make(seed) for seed in range(4)] for _ in range(2))
    first = tw.train_many(trainers, *data, epochs=[5, 3, 0, 1])
    assert [trainer.epochs for trainer in trainers] == [5, 3, 0, 1]
    left = 5 - np.array([trainer.epochs for trainer in trainers])
    rest = tw.train_many(trainers, *data, epochs=left)
    for trainer, a, b, whole in zip(trainers, first, rest, alone, strict=True):
        assert (a + b)["loss"] == whole.fit(*data, epochs=5)["loss"]
        np.testing.assert_array_equal(whole.model.flat_parameters, trainer.model.flat_parameters)


def test_each_can_have_a_batch_size_of_its_own(blobs):
    sizes = (8, 32, None)
    trainers = [make(0) for _ in sizes]  # no twins
    histories = tw.train_many(trainers, blobs.x, blobs.y, batch_size=sizes, epochs=2)
    for size, history in zip(sizes, histories, strict=True):
        alone = make(0).fit(blobs.x, blobs.y, batch_size=size, epochs=2)
        assert history["loss"] == alone["loss"]


def test_each_can_have_batches_of_its_own(blobs):
    def batches(rows):
        return [(blobs.x[i : i + rows], blobs.y[i : i + rows]) for i in range(0, 90, rows)]

    held_out = [(blobs.x, blobs.y), batches(20)]
    sources = [batches(30), lambda: iter(batches(45))]
    trainers = [make(0), make(1)]
    histories = tw.train_many(trainers, sources, None, epochs=2, validation_data=held_out)
    for i, history in enumerate(histories):
        alone = make(i).fit(sources[i], epochs=2, validation_data=held_out[i])
        assert history["loss"] == alone["loss"]
        assert history["val_loss"] == alone["val_loss"]
    iterators = [iter(batches(30)), iter(batches(45))]  # each is for one
    tw.train_many(trainers, iterators, None)
    assert [trainer.optimizer.steps for trainer in trainers] == [9, 6]
    with pytest.raises(tw.ArgumentError, match="x is an iterator"):
        tw.train_many(trainers, [iter(batches(30))] * 2, None)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_lists_of_options_are_checked_before_anything_is_trained(name, blobs):
    trainers = [make(0), make(1)]
    with pytest.raises(tw.ArgumentError, match=f"{name} must be a list of 2; got 3"):
        tw.train_many(trainers, blobs.x, blobs.y, **{name: [1, 2, 3]})
    with pytest.raises(tw.ArgumentError, match=f"{name} must be .*got -1") as caught:
        tw.train_many(trainers, blobs.x, blobs.y, **{name: [1, -1]})
    assert caught.value.__notes__ == ["This happened in the fit of trainers[1]."]
    assert trainers[0].optimizer.steps == 0


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (lambda x, y, w: (np.stack([x, x]), np.stack([y, y])), "pass x=list(x), y=list(y); got"),
        (lambda x, y, w: (np.stack([x, x]), y), "pass x=list(x), y=[y] * 2; got"),
        (lambda x, y, w: ([x, x], y), "pass y=[y] * 2; got y of shape (90,)"),
        (lambda x, y, w: (x, np.stack([y, y])), "pass x=[x] * 2, y=list(y); got"),
        (lambda x, y, w: (x, y, np.stack([w, w])), "pass sample_weight=list(sample_weight); got"),
        (
            lambda x, y, w: (np.stack([x, x]), np.stack([y, y]), w),
            "pass x=list(x), y=list(y), sample_weight=[sample_weight] * 2; got",
        ),
        (lambda x, y, w: ([x, x], [y, y], np.stack([w, w])), "a list of 2, list(sample_weight);"),
        (lambda x, y, w: ([x, x], [y, y], (w, w)), "a list of 2, list(sample_weight);"),
        (lambda x, y, w: ([x, x], [y, y], w), "a list of 2, [sample_weight] * 2;"),
        (lambda x, y, w: ([x, x], [y, y], tuple(w)), "a list of 2, [sample_weight] * 2;"),
    ],
)
def test_data_that_are_stacked_are_advised_to_be_lists(data, advice, blobs):
    """As `jax.vmap` takes them; x.reshape, the advice for one model, would mix the trainers."""
    x, y, *weight = data(blobs.x, blobs.y, np.ones(90))
    with pytest.raises(tw.ThalwegError, match=re.escape(advice)) as caught:
        tw.train_many([make(0), make(1)], x, y, sample_weight=weight[0] if weight else None)
    assert "reshape" not in str(caught.value)


def test_data_of_a_wrong_shape_are_not_taken_for_stacked_ones(blobs):
    images = np.ones((2, 3, 5))
    for x, y in ((images, np.zeros(2, int)), (images, np.ones((2, 4))), (blobs.x, blobs.y[:2])):
        with pytest.raises(tw.ShapeError) as alone:
            make(0).fit(x, y)
        with pytest.raises(tw.ShapeError) as caught:
            tw.train_many([make(0), make(1)], x, y)
        assert str(caught.value) == str(alone.value)


def test_fits_that_would_replace_each_others_files_are_refused(blobs, tmp_path, monkeypatch):
    """The best model of all was not what the file had."""
    monkeypatch.chdir(tmp_path)
    trainers = [make(0), make(1)]

    def fit(path):
        tw.train_many(
            trainers, blobs.x, blobs.y,
            callbacks=lambda trainer: [ModelCheckpoint(path(trainers.index(trainer)))],
        )  # fmt: skip

    for same in (
        lambda i: "best.safetensors",
        lambda i: tmp_path / "best.safetensors" if i else "best.safetensors",
        lambda i: "model-{epoch}.safetensors",
    ):
        with pytest.raises(
            tw.ArgumentError, match=r"trainers\[0\] and trainers\[1\] .*trainers.index"
        ):
            fit(same)
    assert not list(tmp_path.iterdir())
    assert trainers[0].optimizer.steps == 0
    fit(lambda i: f"best-{i}.safetensors")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_run_side_by_side_is_refused(blobs):
    trainer = make(0)
    with pytest.raises(tw.ArgumentError, match="share their model"):
        tw.train_many([trainer, trainer], blobs.x, blobs.y)
    shared = EarlyStopping("loss")
    with pytest.raises(tw.ArgumentError, match=r"share the callback EarlyStopping.*in each call"):
        tw.train_many([trainer, make(1)], blobs.x, blobs.y, callbacks=lambda _: [shared])
    assert trainer.optimizer.steps == 0
    with pytest.raises(tw.ArgumentError, match=r"trainers\[1\] must be a Trainer"):
        tw.train_many([trainer, None], blobs.x, blobs.y)
    with pytest.raises(tw.ArgumentError, match="trainers must be a sequence"):
        tw.train_many(5, blobs.x, blobs.y)
    for wrong in ([EarlyStopping()], EarlyStopping()):
        with pytest.raises(tw.ArgumentError, match="callbacks must be a function"):
            tw.train_many([trainer], blobs.x, blobs.y, callbacks=wrong)
    for wrong in (lambda _: None, lambda _: EarlyStopping(), lambda _: [3]):
        with pytest.raises(tw.ArgumentError, match="callback"):
            tw.train_many([trainer, make(1)], blobs.x, blobs.y, callbacks=wrong)
    for rates in ([0.1, 0.2], np.array([0.1, 0.2])):
        with pytest.raises(tw.ArgumentError, match=r"lr is one rate .*optim\.AdamW\(lr=rate\)"):
            tw.train_many([trainer, make(1)], blobs.x, blobs.y, lr=rates)
    assert tw.train_many([], blobs.x, blobs.y) == []


def test_one_fit_may_call_a_callback_twice(blobs):
    class Count(Callback):
        def __init__(self):
            self.calls = 0

        def on_epoch_end(self, trainer, record):
            self.calls += 1

    counts = []

    def callbacks(trainer):
        counts.append(Count())
        return counts[-1:] * 2

    tw.train_many([make(0), make(1)], blobs.x, blobs.y, epochs=3, callbacks=callbacks)
    assert [count.calls for count in counts] == [6, 6]


def test_an_iterator_is_not_for_several(blobs):
    """Each would get some of the batches, and nobody would see it."""
    trainers, batches = [make(0), make(1)], [(blobs.x[i::3], blobs.y[i::3]) for i in range(3)]
    for data in ({"x": iter(batches), "y": None}, {"validation_data": iter(batches)}):
        with pytest.raises(tw.ArgumentError, match=f"{next(iter(data))} is an iterator"):
            tw.train_many(trainers, **{"x": blobs.x, "y": blobs.y} | data)
    assert trainers[0].optimizer.steps == 0
    alone = make(0)
    tw.train_many([alone], iter(batches), None)
    for source in (batches, lambda: iter(batches)):
        trainers = [make(0), make(1)]
        tw.train_many(trainers, source, None)
        np.testing.assert_array_equal(
            trainers[0].model.flat_parameters, alone.model.flat_parameters
        )


def test_nothing_keeps_what_diverged(blobs):
    """Not even until the garbage is collected: the error knows where it came from."""
    trainers = of_rates(0.01, 1e20)
    gone = [weakref.ref(trainer) for trainer in trainers]
    gc.disable()
    try:
        tw.train_many(trainers, blobs.x, blobs.x[:, :1], epochs=3, diverged="keep")
        del trainers
        assert [it() for it in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("lr", [0.01, 0.02])
def test_the_same_fit_twice_is_a_warning(lr, blobs):
    """Seeds that are left out are all 0, and an ensemble of such models is one model."""
    trainers = [make(0), make(1), make(1, lr)]
    if lr == 0.01:
        with pytest.warns(UserWarning, match=r"trainers\[1\] and trainers\[2\] .*seed 1; give"):
            tw.train_many(trainers, blobs.x, blobs.y)
    else:
        tw.train_many(trainers, blobs.x, blobs.y)


@pytest.mark.parametrize("second", ["300", "301"])
def test_the_same_fit_twice_may_have_its_number_of_epochs_twice(second, blobs):
    """As from a file of settings: equal numbers, but two objects."""
    epochs, data = [int("300"), int(second)], (blobs.x[:4], blobs.y[:4])
    if second == "300":
        assert epochs[0] is not epochs[1]
        with pytest.warns(UserWarning, match=r"trainers\[0\] and trainers\[1\] will train iden"):
            tw.train_many([make(0), make(0)], *data, epochs=epochs)
    else:
        tw.train_many([make(0), make(0)], *data, epochs=epochs)


def test_penalties_and_hooks_also_make_a_difference(blobs):
    """Neither is shown by a trainer."""
    pulled = [make(0), make(0)]
    pulled[1].set_penalty(np.ones(pulled[1].model.num_parameters))
    tw.train_many(pulled, blobs.x, blobs.y)
    hooked = [make(0), make(0)]
    with hooked[0].gradient_hook(np.sign), hooked[1].gradient_hook(np.tanh):
        tw.train_many(hooked, blobs.x, blobs.y)


def test_limits_of_one_also_make_a_difference(blobs):
    """Such a limit was not shown."""
    trainers = [
        tw.Trainer(
            nn.Sequential(nn.Linear(5, 3)),
            loss=nn.CrossEntropyLoss(),
            optimizer=optim.SGD(),
            **options,
        )
        for options in ({}, {"clip_grad_norm": 1.0}, {"clip_grad_value": 1.0})
    ]  # fmt: skip
    tw.train_many(trainers, blobs.x, blobs.y)


def test_each_fit_has_one_bar(blobs, monkeypatch):
    """And the check of its data has none."""
    tqdm = pytest.importorskip("tqdm.auto")
    bars = []
    monkeypatch.setattr(tqdm, "tqdm", lambda *args, **kwargs: bars.append(1) or Bar())

    class Bar:
        n = 0

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    tw.train_many([make(0), make(1)], blobs.x, blobs.y, progress=True)
    assert len(bars) == 2


def test_a_schedule_of_zeros_is_told(blobs):
    """The check of all data, which warns of nothing, had already told it."""
    schedule = optim.schedules.LinearLR(1.0, 0.0, total_iters=2)
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(5, 3)),
        loss=nn.CrossEntropyLoss(),
        optimizer=optim.SGD(),
        schedule=schedule,
    )
    with pytest.warns(UserWarning, match="gives a rate of 0"):
        tw.train_many([trainer], blobs.x, blobs.y, epochs=9)


def test_a_schedule_that_is_too_long_for_one_of_the_fits_is_seen_before_all(blobs):
    trainers = [
        tw.Trainer(
            nn.Sequential(nn.Linear(5, 3), seed=seed),
            loss=nn.CrossEntropyLoss(),
            optimizer=optim.SGD(),
            schedule=optim.schedules.WarmupStableDecay(4, 4),
            accumulate_grad_batches=batches,
        )
        for seed, batches in enumerate([1, 9])
    ]
    with pytest.raises(tw.ArgumentError, match="more than the total of 2 steps"):
        tw.train_many(trainers, blobs.x, blobs.y, epochs=2, batch_size=10, workers=1)
    assert [trainer.optimizer.steps for trainer in trainers] == [0, 0]


def test_the_same_trainers_with_other_data_or_weights_are_not_the_same(blobs):
    tw.train_many([make(0), make(0)], [blobs.x, blobs.x[:60]], [blobs.y, blobs.y[:60]])
    trainers = [make(0), make(0)]
    trainers[1].model.flat_parameters = -trainers[1].model.flat_parameters
    tw.train_many(trainers, blobs.x, blobs.y)


def interrupted(function, place):
    """Raise KeyboardInterrupt at the `place`-th place where Python runs a signal's handler.

    That is once a function has begun, after calls and jumps back, here those of `train_many` and of
    the threads that it starts. Return the name of the function.
    """
    places, latest, where = itertools.count(), {}, []
    checks = re.compile("RESUME|CALL(?!_INTRINSIC)|(POP_)?JUMP_BACKWARD")

    def watch(frame, event, _):
        code = frame.f_code
        if code.co_filename not in (_many.__file__, threading.__file__):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if checks.match(latest.get(frame, "")) and next(places) == place:
                sys.settrace(None)
                where.append(code.co_name)
                raise KeyboardInterrupt
            latest[frame] = dis.opname[code.co_code[frame.f_lasti]]
        return watch

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for such a frame only here
    sys.settrace(watch)
    try:
        with pytest.raises(KeyboardInterrupt):
            function()
    finally:
        sys.settrace(before)
    return where[0]


@pytest.mark.parametrize("allowed", [1, 2])
def test_wherever_ctrl_c_comes_no_fit_goes_on(allowed, blobs, monkeypatch):
    """It comes to the calling thread, for instance while that starts another one."""
    start, started = threading.Thread.start, []

    def begin(thread):
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    class Steps(Callback):  # after each, a fit looks whether it is to end
        def on_step_end(self, trainer, record):
            return False

    def fit(trainers):
        started.clear()
        tw.train_many(
            trainers, blobs.x, blobs.y, workers=2, epochs=20_000, callbacks=lambda _: [Steps()]
        )

    where, left = [], []

    def try_each_place():
        while where.count("_listen") < 4:  # where it waits for the fits, which does not end
            trainers = [make(seed) for seed in range(3)]
            where.append(interrupted(lambda trainers=trainers: fit(trainers), len(where)))
            assert not any(trainer._fitting for trainer in trainers), where[-1]
            left.extend((trainer, trainer.optimizer.steps) for trainer in trainers)

    # Errors that a trace raises where an `except` ends remain the context of all later ones of
    # their thread, in Python 3.11: so this is a thread of its own.
    with ThreadPoolExecutor(1) as own:
        own.submit(int).result()  # now it is there
        monkeypatch.setattr(threading.Thread, "start", begin)
        own.submit(try_each_place).result()
    assert all(trainer.optimizer.steps == steps for trainer, steps in left)
    assert "wait" in where, "for a thread to begin"


#: How these scripts begin.
BEGINNING = """
import os, signal, threading, time
import numpy as np, thalweg as tw
from thalweg import nn, optim
from thalweg.callbacks import Callback

def trainer(seed):
    model = nn.Sequential(nn.Linear(2, 1), seed=seed)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(0.01))
"""


def run(script):
    """Run a script; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout.split()


def test_who_presses_ctrl_c_again_also_waits_for_the_steps_that_are_made():
    """Fits that go on would train while the models are being saved or looked at."""
    script = """
signal.signal(signal.SIGINT, signal.default_int_handler)
begun = threading.Barrier(3, timeout=20)

class Slow(Callback):
    def on_step_end(self, trainer, record):
        begun.wait()
        time.sleep(0.5)

def interrupt():
    begun.wait()
    for _ in range(4):
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
trainers = [trainer(0), trainer(1)]
try:
    tw.train_many(trainers, np.ones((4, 2)), np.ones(4), workers=2, epochs=9,
                  callbacks=lambda _: [Slow()])
except KeyboardInterrupt:
    print("interrupted", *(it._fitting for it in trainers), threading.active_count())
"""
    assert run(script) == ["interrupted", "False", "False", "1"]


def test_a_process_ends_while_a_daemon_trains_many():
    """As it does while such a thread is in a fit."""
    script = """
begun = threading.Event()

class Begun(Callback):
    def on_epoch_end(self, trainer, record):
        begun.set()

def train():
    tw.train_many([trainer(0)], np.ones((4, 2)), np.ones(4), epochs=10**9,
                  callbacks=lambda _: [Begun()])

threading.Thread(target=train, daemon=True).start()
begun.wait(20)
print("ends")
"""
    assert run(script) == ["ends"]


def test_ctrl_c_also_ends_fits_where_signals_restart_system_calls():
    """As they do once Polars is imported: a wait without a limit would not notice the signal."""
    script = """
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.siginterrupt(signal.SIGINT, False)
begun = threading.Barrier(3, timeout=20)

class Slow(Callback):
    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 1:
            begun.wait()
        time.sleep(0.01)

def interrupt():
    begun.wait()
    time.sleep(0.2)  # the main thread waits for the fits by now
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
trainers = [trainer(0), trainer(1)]
try:
    tw.train_many(trainers, np.ones((4, 2)), np.ones(4), workers=2, epochs=500,
                  callbacks=lambda _: [Slow()])
except KeyboardInterrupt:
    print("interrupted", *(0 < it.history.epochs < 250 for it in trainers))
"""
    assert run(script) == ["interrupted", "True", "True"]
