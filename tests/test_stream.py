"""Batches from an iterable: the same bits as from arrays."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.optim import schedules


@pytest.fixture
def data(rng):
    x = rng.standard_normal((50, 4)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int64), rng.uniform(0.5, 2, 50).astype(np.float32)


def make(optimizer=None, loss=None, **options):
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)]
    model = nn.Sequential(*layers, seed=2)
    optimizer = optimizer or optim.Adam(lr=0.01)
    return tw.Trainer(model, loss=loss or nn.CrossEntropyLoss(), optimizer=optimizer, **options)


def cut(*arrays, size=16):
    """Batches of 16, 16, 16 and 2 rows."""
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


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


def test_what_is_no_source_of_batches_is_refused(data):
    x, y, w = data
    with pytest.raises(tw.DtypeError, match="y is None"):  # it was forgotten
        make().fit(x)
    for bad in (3, None):
        with pytest.raises(tw.ArgumentError, match="y is missing"):
            make().fit(bad)
    with pytest.raises(tw.ArgumentError, match="used up"):
        make().fit(iter(cut(x, y)), epochs=2)
    with pytest.raises(tw.DataError, match="no batch in epoch 1"):
        make().fit([])
    with pytest.raises(tw.ArgumentError, match="its own batches"):
        make().fit(cut(x, y), batch_size=8)
    with pytest.raises(tw.ArgumentError, match="its own batches"):
        make().fit(cut(x, y), sample_weight=w)
    with pytest.raises(tw.ArgumentError, match="length"):
        make(schedule=schedules.OneCycleLR(max_lr=0.1)).fit(lambda: iter(cut(x, y)))
    with pytest.raises(
        tw.UnsupportedError, match=r"LBFGS takes all samples at once.*arrays x and y"
    ):
        make(optim.LBFGS()).fit(cut(x, y))
