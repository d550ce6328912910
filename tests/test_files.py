"""Models and trainings in files."""

import codecs
import copy
import errno
import importlib
import inspect
import io
import json
import os
import pickle
import re
import stat
import tempfile
import threading
import tracemalloc
import zlib

import numpy as np
import pytest

import thalweg as tw
from thalweg import _atomic, continual, nn, optim
from thalweg._trainer._base import ATTRIBUTES
from thalweg.callbacks import ModelCheckpoint
from thalweg.optim import schedules

from .helpers import squares


def make(dtype="float32"):
    return nn.Sequential(
        nn.Linear(5, 16, init="kaiming_normal"), nn.BatchNorm1d(16, momentum=0.3),
        nn.LeakyReLU(0.2), nn.Linear(16, 3, bias=False), dtype=dtype, seed=9,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_to_the_last_bit(dtype, tmp_path, rng):
    model = make(dtype)
    model.forward(rng.standard_normal((8, 5)))  # moves the running averages
    model.save(tmp_path / "model.safetensors")
    again = nn.Sequential.load(tmp_path / "model.safetensors")
    assert (repr(again), again.dtype, again.seed) == (repr(model), model.dtype, 9)
    x = rng.standard_normal((7, 5))
    np.testing.assert_array_equal(again(x), model(x))
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], values, err_msg=name)


@pytest.mark.parametrize("layer", [x for x in vars(nn).values() if isinstance(x, type)])
def test_every_layer_comes_back(layer, tmp_path, rng):
    # Tables are first layers: test_inputs has them.
    first = nn.Embedding, nn.TabularInput
    if not issubclass(layer, nn.Layer) or layer in (nn.Layer, nn.Linear, *first):
        return
    arguments = {
        nn.FourierFeatures: (6,),
        nn.Dropout: (0.25,),
        nn.Standardize: (np.arange(6.0), np.arange(1.0, 7.0) / 3),
        nn.Residual: (nn.Linear(6, 6), nn.Tanh()),
        nn.Concatenate: (nn.Linear(6, 5), nn.Tanh()),
    }
    made = layer(6) if "Norm" in layer.__name__ else layer(*arguments.get(layer, ()))
    model = nn.Sequential(nn.Linear(6, 6), made, seed=3)
    model.save(tmp_path / "model")
    again = nn.Sequential.load(tmp_path / "model")
    assert again.layers == model.layers
    x = rng.standard_normal((9, 6))
    np.testing.assert_array_equal(again.forward(x), model.forward(x))


def test_a_file_is_what_safetensors_says(tmp_path):
    """The format, read with nothing of ours."""
    model, path = make(), tmp_path / "model.safetensors"
    model.save(path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    entry = header["3.weight"]
    start, end = (8 + length + place for place in entry["data_offsets"])
    assert (entry["dtype"], entry["shape"]) == ("F32", [3, 16])
    np.testing.assert_array_equal(
        np.frombuffer(raw[start:end], "<f4").reshape(3, 16), model.state_dict()["3.weight"]
    )
    assert max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__") == (
        len(raw) - 8 - length
    )


def test_a_save_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("something else")
    path.chmod(0o644)
    make().save(path)
    nn.Sequential.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    with pytest.raises(OSError, match="nowhere"):
        make().save(tmp_path / "nowhere" / "model.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 8, 200, -1])
def test_files_that_are_cut_short_are_refused(keep, tmp_path):
    path = tmp_path / "model.safetensors"
    make().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(tw.DataError, match="not a complete safetensors file"):
        nn.Sequential.load(path)


def raw_file(path, entries, size):
    """Write a file of some entries and a number of bytes, as another program might."""
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * size)


def entry(offsets, shape):
    return {"dtype": "F32", "shape": shape, "data_offsets": offsets}


OUTSIDE = "lies outside of the file"
NO_INTEGERS = "a0 has numbers in its header that are not integers"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry([-8, 0], [2])], OUTSIDE),
        ([entry([0, 16], [2])], OUTSIDE),
        ([entry([8, 0], [2])], OUTSIDE),
        ([entry([0, 4], [1])], "4 bytes follow its last array"),
        ([entry([4, 8], [1])], "leave a gap at byte 0"),
        ([entry([0, 8], [2]), entry([4, 8], [1])], "overlap or leave a gap at byte 4"),
        ([entry([0, 8], [-1])], r"a0 has shape \[-1\]"),
        ([entry(["0", 8], [2])], NO_INTEGERS),
        ([entry([0.9, 8.9], [2])], NO_INTEGERS),
        ([entry([False, 8], [2])], NO_INTEGERS),
        ([entry([0, 8], [True, 2])], NO_INTEGERS),
    ],
)
def test_arrays_that_do_not_fill_the_file_are_refused(entries, message, tmp_path):
    """As the package safetensors refuses them: each byte belongs to one array."""
    raw_file(tmp_path / "model", {f"a{i}": one for i, one in enumerate(entries)}, 8)
    with pytest.raises(tw.DataError, match=message):
        nn.Sequential.load(tmp_path / "model")


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    """Or each program would read another array of the two."""
    path = tmp_path / "model"
    raw_file(path, {"a": entry([0, 8], [2]), "b": entry([0, 8], [2])}, 8)
    path.write_bytes(path.read_bytes().replace(b'"b"', b'"a"'))
    with pytest.raises(tw.DataError, match="a name occurs twice in its header"):
        nn.Sequential.load(path)


def test_an_error_does_not_show_all_of_a_file(tmp_path):
    from thalweg import _safetensors

    arrays, text = trained()._content()
    for damage in ({"thalweg": "{}"}, {}):
        _safetensors.save(tmp_path / "file", {"a" * 10**6: np.ones(1)} | arrays, text | damage)
        for load in (nn.Sequential.load, tw.Trainer.load):
            with pytest.raises(tw.DataError, match="is a damaged file: ") as found:
                load(tmp_path / "file")
            assert len(str(found.value)) < 2000


def test_arrays_may_lie_in_another_order_than_their_names(tmp_path):
    from thalweg import _safetensors

    entries = {"a": entry([4, 12], [2]), "none": entry([4, 4], [0]), "b": entry([0, 4], [1])}
    raw_file(tmp_path / "file", entries, 12)
    arrays, text = _safetensors.load(tmp_path / "file")
    assert {name: array.shape for name, array in arrays.items()} == {
        "a": (2,), "none": (0,), "b": (1,)
    }  # fmt: skip
    assert not text


def test_arrays_at_odd_places_are_read(tmp_path):
    """Another program may leave the header at any length; the core takes whole addresses."""
    from thalweg import _safetensors

    make().save(tmp_path / "model")
    raw = (tmp_path / "model").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    odd = (start - 7).to_bytes(8, "little") + raw[8:start] + b" " + raw[start:]
    (tmp_path / "odd").write_bytes(odd)
    (arrays, _), (odd, _) = (_safetensors.load(tmp_path / name) for name in ("model", "odd"))
    for name, array in odd.items():
        assert array.flags.aligned
        np.testing.assert_array_equal(array, arrays[name])


def test_a_damaged_bit_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "training"
    trainer = make_trainer()
    trainer.save(path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    lr = whole.index(b'\\"lr\\": ') + len(b'\\"lr\\": ')
    for place in (lr, start, start + 777, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(tw.DataError, match=r"do not match the checksum thalweg\.crc32"):
            tw.Trainer.load(path)
    # Files of earlier versions and of other programs have no checksum.
    path.write_bytes(whole.replace(b"thalweg.crc32", b"of-the-others"))
    again = tw.Trainer.load(path).model.flat_parameters
    np.testing.assert_array_equal(again, trainer.model.flat_parameters)


def test_the_checksum_is_what_the_manual_says(tmp_path):
    make().save(tmp_path / "model")
    raw = (tmp_path / "model").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    checksum = header["__metadata__"].pop("thalweg.crc32")
    assert int(checksum, 16) == zlib.crc32(
        json.dumps(header, sort_keys=True).encode() + raw[start:]
    )


def test_files_take_their_size_in_memory_once(tmp_path):
    """Writing takes none beside the arrays; reading takes the file, and the arrays are in it."""
    from thalweg import _safetensors

    arrays = {str(i): np.arange(2.0**17) for i in range(4)}
    size, path = 4 * 2**20, tmp_path / "file"
    tracemalloc.start()
    try:
        _safetensors.save(path, arrays, {})
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        again, _ = _safetensors.load(path)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < 0.2 * size
    assert read < 1.2 * size
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_files_of_others_and_of_the_future_are_named(tmp_path):
    from thalweg import _safetensors

    path = tmp_path / "model.safetensors"
    _safetensors.save(path, {"0.weight": np.zeros((2, 2), np.float32)}, {})
    with pytest.raises(tw.DataError, match="not which layers they belong to"):
        nn.Sequential.load(path)
    description = make()._description()
    for change, message in [
        ({"version": 99}, "format 99"),
        ({"layers": [{"type": "Attention"}]}, "'Attention'"),
    ]:
        text = {"thalweg": json.dumps(description | change)}
        trainer = {"spec": {"loss": {"type": "MSELoss"}}}
        _safetensors.save(path, {}, text | {"thalweg.trainer": json.dumps(trainer)})
        for load in (nn.Sequential.load, tw.Trainer.load):
            with pytest.raises(tw.UnsupportedError, match=f"{path}': .*{message}"):
                load(path)


def trained(model=None):
    return tw.Trainer(model or make(), loss=nn.MSELoss(), optimizer=optim.Adam())


@pytest.mark.parametrize(
    ("kind", "make_one", "instead"),
    [
        (nn.Sequential, make, r"model\.follow\(nn\.Sequential\.load\(path\)\)"),
        (tw.Trainer, trained, r"trainer = tw\.Trainer\.load\(path\)"),
        (
            continual.Result,
            lambda: continual.run(
                continual.Naive(trained()), continual.from_arrays([(np.eye(5), np.ones((5, 3)))])
            ),
            r"result = Result\.load\(path\)",
        ),
    ],
)
def test_what_load_returns_is_new_and_objects_say_so(kind, make_one, instead, tmp_path):
    """`trainer.load(path)` alone would go on with the old numbers, without a word."""
    thing, path = make_one(), tmp_path / "file"
    thing.save(path)
    for call in (lambda: thing.load(path), lambda: thing.load(path=path), lambda: thing.load()):
        with pytest.raises(
            tw.ArgumentError, match=rf"^{kind.__name__}\.load returns a new.*{instead}"
        ):
            call()
    assert type(kind.load(path)) is kind
    assert inspect.signature(thing.load) == inspect.signature(kind.load)
    assert thing.load.__doc__ == kind.load.__doc__

    class Own(kind):
        @classmethod
        def load(cls, path):
            return super().load(path)

    assert isinstance(Own.load(path), kind)


def test_a_model_in_use_takes_the_numbers_of_a_file(tmp_path):
    model, path = make(), tmp_path / "file"
    model.save(path)
    expected, trainer = model.flat_parameters, trained(model)
    model.flat_parameters = 0 * expected
    model.follow(nn.Sequential.load(path))
    np.testing.assert_array_equal(trainer.model.flat_parameters, expected)


def test_files_of_other_formats_say_how_they_are_read(tmp_path):
    path = tmp_path / "net.npz"
    for write, message in [
        (
            lambda: np.savez(path, **make().state_dict()),
            r"zip archive; .*np\.load\(path",
        ),
        (lambda: path.write_bytes(pickle.dumps(make())), r"a pickle: .*pickle\.load$"),
        (lambda: path.write_bytes(b"epoch,loss\n"), "not a complete safetensors file: "),
    ]:
        write()
        with pytest.raises(tw.DataError, match=rf"net\.npz' is .*{message}"):
            nn.Sequential.load(path)
    # What the first of these says does it.
    model, twin = make(), nn.Sequential(*make().layers)
    np.savez(path, **model.state_dict())
    twin.load_state_dict(np.load(path))
    np.testing.assert_array_equal(twin.flat_parameters, model.flat_parameters)


@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "before"])
def test_files_of_pytorchs_say_how_they_are_read(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    path, model = tmp_path / "net.pt", make()
    module = tw.torch.to_torch(model)
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=zipped)
    message = (
        r"is a file of PyTorch.*model\.load_state_dict\(torch\.load\(path, weights_only=True\)\).*"
        r"tw\.torch\.from_torch\(torch\.load\(path, weights_only=False\)\)$"
    )
    for load in (nn.Sequential.load, tw.Trainer.load):
        with pytest.raises(tw.DataError, match=message):
            load(path)
    twin = nn.Sequential(*make().layers)
    twin.load_state_dict(torch.load(path, weights_only=True))
    np.testing.assert_array_equal(twin.flat_parameters, model.flat_parameters)
    torch.save(module, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(tw.DataError, match=message):
        nn.Sequential.load(path)
    twin = tw.torch.from_torch(torch.load(path, weights_only=False))
    np.testing.assert_array_equal(twin.flat_parameters, model.flat_parameters)


def own_loss(output, target):
    """Squares, as a function that can be imported."""
    return float(((output - target) ** 2).mean()), 2 * (output - target) / output.size


def own_jet_loss(u, du, d2u, target):
    """Squares of all that there is."""
    loss = sum(float((a**2).sum()) for a in (u - target, du, d2u))
    return loss, (2 * (u - target), 2 * du, 2 * d2u)


@pytest.mark.parametrize("again", ["function", "loss"])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CustomLoss(own_loss),
        nn.DerivativeLoss(own_jet_loss, order=(2, 1), along=[[1, 0, 1], [0, 1, 0]]),
    ],
    ids=["custom", "derivatives"],
)
def test_a_training_with_a_loss_of_ones_own_is_given_the_function_again(loss, again, tmp_path, rng):
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam(), clip_grad_norm=1.0)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    trainer.fit(x, y, epochs=2, batch_size=4)
    trainer.save(tmp_path / "training")
    given = loss.function if again == "function" else loss
    twin = tw.Trainer.load(tmp_path / "training", loss=given)
    assert twin.loss == loss
    assert twin.history == trainer.history
    for one in (trainer, twin):
        one.fit(x, y, epochs=2, batch_size=4)
    assert np.array_equal(twin.model.flat_parameters, trainer.model.flat_parameters)
    with pytest.raises(
        tw.ArgumentError, match=r"whose function is not in the file: .*Trainer\.load\("
    ):
        tw.Trainer.load(tmp_path / "training")
    other = nn.CustomLoss(own_loss) if isinstance(loss, nn.DerivativeLoss) else nn.MSELoss()
    kind = type(loss).__name__
    with pytest.raises(
        tw.ArgumentError, match=rf"with an nn\.{kind}: .*got {type(other).__name__}"
    ):
        tw.Trainer.load(tmp_path / "training", loss=other)


def test_a_file_with_a_loss_of_ours_takes_no_other(tmp_path):
    make_trainer().save(tmp_path / "training")
    with pytest.raises(tw.ArgumentError, match=r"has an nn\.\w+: leave loss out, and set trainer"):
        tw.Trainer.load(tmp_path / "training", loss=own_loss)


def test_a_training_with_a_loss_of_ones_own_is_pickled_with_it():
    trainer = tw.Trainer(make(), loss=own_loss, optimizer=optim.Adam())
    width = trainer.model.in_features
    x, y = np.ones((4, width)), np.zeros((4, trainer.model.out_features))
    trainer.step(x, y)
    twin = pickle.loads(pickle.dumps(trainer))
    assert twin.step(x, y) == trainer.step(x, y)
    assert np.array_equal(twin.model.flat_parameters, trainer.model.flat_parameters)


def test_a_layer_of_the_users_own_is_not_saved_silently(tmp_path):
    class Mine(nn.ReLU):
        pass

    with pytest.raises(tw.UnsupportedError, match=r"Mine.* not one of thalweg's own objects"):
        nn.Sequential(nn.Linear(2, 2), Mine()).save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def make_trainer(optimizer=None, schedule=None, model=None, **options):
    return tw.Trainer(
        model or make("float64"),
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer or optim.Adam(lr=0.01),
        schedule=schedule,
        **options,
    )


def changed(optimizer, lr):
    optimizer.lr = lr
    return optimizer


TRAININGS = {
    "Adam": lambda: make_trainer(),
    "SGD": lambda: make_trainer(optim.SGD(0.05, momentum=0.9, nesterov=True)),
    "SGD without state": lambda: make_trainer(optim.SGD(0.05)),
    "warm-up": lambda: make_trainer(
        optim.AdamW(betas=(0.8, 0.99)),
        schedules.LinearWarmup(4, then=schedules.StepLR(3, 0.5)),
        clip_grad_norm=0.5,
    ),
    "NAdam, whose momentum is scheduled": lambda: make_trainer(optim.NAdam()),
    "RMSprop as Optax has it": lambda: make_trainer(
        optim.RMSprop(centered=True, momentum=0.5, convention="optax")
    ),
    "groups": lambda: make_trainer(
        optim.AdamW().add_group("*.bias", weight_decay=0.0).add_group("0.*", frozen=True)
    ),
    "dropout": lambda: make_trainer(
        model=nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))
    ),
    "averaged": lambda: make_trainer(average=optim.EMA(0.9, every=2)),
    "a rate that was changed before": lambda: make_trainer(
        changed(optim.SGD(0.3), lr=0.02), schedules.StepLR(3, 0.5)
    ),
    "by epochs": lambda: make_trainer(schedule=schedules.ExponentialLR(0.7, per="epoch")),
    "plateau": lambda: make_trainer(
        schedule=schedules.ReduceLROnPlateau(patience=0, threshold=0.5, monitor="loss"),
        accumulate_grad_batches=2,
    ),
}


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(training, tmp_path, rng):
    x, y = rng.standard_normal((50, 5)), rng.integers(0, 3, 50)
    whole, part = TRAININGS[training](), TRAININGS[training]()
    history = whole.fit(x, y, epochs=5, batch_size=8)
    first = part.fit(x, y, epochs=2, batch_size=8)
    part.save(tmp_path / "training")
    resumed = tw.Trainer.load(tmp_path / "training")
    assert resumed.history == first
    rest = resumed.fit(x, y, epochs=3, batch_size=8)
    assert first["loss"] + rest["loss"] == history["loss"]
    for name, values in whole.model.state_dict().items():
        np.testing.assert_array_equal(resumed.model.state_dict()[name], values, err_msg=name)
    assert resumed.optimizer.lr == whole.optimizer.lr
    assert resumed.optimizer.steps == whole.optimizer.steps
    assert resumed.step(x, y) == whole.step(x, y)
    assert repr(resumed) == repr(whole)
    if training == "averaged":
        np.testing.assert_array_equal(
            resumed.average_model().flat_parameters, whole.average_model().flat_parameters
        )


@pytest.mark.parametrize("training", [t for t in TRAININGS if t not in ("plateau", "by epochs")])
def test_a_loop_by_hand_goes_on_in_the_middle_of_an_epoch(training, tmp_path, rng):
    """After the fourth of seven batches. What `fit` does is saved between epochs only."""
    x, y = rng.standard_normal((50, 5)), rng.integers(0, 3, 50)
    order = rng.permutation(50)
    batches = [order[start : start + 8] for start in range(0, 50, 8)]
    whole, part = TRAININGS[training](), TRAININGS[training]()
    losses = [whole.step(x[rows], y[rows]) for rows in batches * 2]
    seen = [part.step(x[rows], y[rows]) for rows in batches[:4]]
    part.save(tmp_path / "training")
    part = tw.Trainer.load(tmp_path / "training")
    seen += [part.step(x[rows], y[rows]) for rows in batches[4:] + batches]
    assert seen == losses
    for name, values in whole.model.state_dict().items():
        np.testing.assert_array_equal(part.model.state_dict()[name], values, err_msg=name)


def test_a_fit_that_was_saved_in_the_middle_of_an_epoch_begins_it_again(tmp_path, rng):
    """With the updates made so far, and the same batches in the same order."""
    x, y, seen = rng.standard_normal((50, 5)), np.arange(50.0)[:, np.newaxis], []

    def loss(output, target):
        seen.append(target[:, 0].tolist())
        return squares(output, target)

    class Saves:
        def on_step_end(self, trainer, record):
            if (record["epoch"], record["batch"]) == (2, 3):
                trainer.save(tmp_path / "training")

    model = nn.Sequential(nn.Linear(5, 1), seed=9)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    trainer.fit(x, y, epochs=2, batch_size=8, callbacks=[Saves()])
    second = seen[7:]
    seen.clear()
    again = tw.Trainer.load(tmp_path / "training", loss=loss)
    assert (again.epochs, again.optimizer.steps) == (1, 7 + 3)
    again.fit(x, y, batch_size=8)
    assert seen == second
    assert (again.epochs, again.optimizer.steps) == (2, 7 + 3 + 7)


COPIES = {
    "copy()": tw.Trainer.copy,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda trainer: pickle.loads(pickle.dumps(trainer)),
}


@pytest.mark.parametrize("again", COPIES)
@pytest.mark.parametrize("training", TRAININGS)
def test_a_copy_goes_on_by_itself(training, again, rng):
    """So trainers can be sent to other processes and back, as joblib does."""
    x, y = rng.standard_normal((50, 5)), rng.integers(0, 3, 50)
    trainer = TRAININGS[training]()
    trainer.fit(x, y, epochs=2, batch_size=8)
    before, steps = trainer.model.flat_parameters, trainer.optimizer.steps
    twin = COPIES[again](trainer)
    assert repr(twin) == repr(trainer)
    ahead = twin.fit(x, y, epochs=2, batch_size=8)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert (trainer.optimizer.steps, trainer.history.epochs) == (steps, 2)
    assert trainer.fit(x, y, epochs=2, batch_size=8)["loss"] == ahead["loss"]
    np.testing.assert_array_equal(trainer.model.flat_parameters, twin.model.flat_parameters)


class Named(tw.Trainer):
    """With arguments of its own, and what it notes beside."""

    def __init__(self, name):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        super().__init__(model, loss=nn.CrossEntropyLoss(), optimizer=Warm(0.01))
        self.name, self.notes, self.me = name, [], self


class Warm(optim.Adam):
    def __init__(self, warm):
        super().__init__(lr=2 * warm, betas=(0.8, 0.9))
        self.warm, self.notes = warm, []


@pytest.mark.parametrize("again", COPIES)
def test_classes_of_the_users_own_are_copied_with_what_they_have_beside(again, rng):
    x, y = rng.standard_normal((50, 5)), rng.integers(0, 3, 50)
    trainer = Named("first")
    trainer.fit(x, y)
    trainer.optimizer.lr = 0.05
    twin = COPIES[again](trainer)
    assert (type(twin), twin.name, twin.me) == (Named, "first", twin)
    assert (type(twin.optimizer), twin.optimizer.warm, twin.optimizer.lr) == (Warm, 0.01, 0.05)
    for ours, theirs in ((trainer, twin), (trainer.optimizer, twin.optimizer)):
        ours.notes.append("here")
        assert theirs.notes == []
    assert twin.fit(x, y)["loss"] == trainer.fit(x, y)["loss"]
    twin.lock = threading.Lock()  # of which there is no copy: trials leave it out
    assert tw.find_lr(twin, x, y).suggestion > 0
    sam = optim.SAM(Warm(0.1))
    assert COPIES["copy.deepcopy"](sam).base.warm == 0.1


def test_what_a_trainer_has_of_itself_is_known():
    """Anything else would be taken for what a class of the user's has added."""
    assert set(vars(make_trainer(optim.SGD(0.1)))) == set(ATTRIBUTES)


class Counting:
    """A loss with a state, which may know its trainer."""

    def __init__(self):
        self.calls, self.trainer = 0, None

    def __call__(self, output, target):
        self.calls += 1
        return squares(output, target)


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.LBFGS])
def test_a_loss_with_a_state_is_copied_with_it(optimizer):
    """`Trainer.copy` shared it, unlike `copy.deepcopy`."""
    loss = Counting()
    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=loss, optimizer=optimizer(0.1))
    loss.trainer = trainer
    twin = trainer.copy()
    twin.step(np.eye(2), np.ones((2, 1)))
    assert loss.calls == 0 < twin.loss.function.calls
    assert twin.loss.function.trainer is twin
    assert tw.Trainer(trainer.model, loss=squares, optimizer=trainer.optimizer).copy().loss == (
        nn.CustomLoss(squares)
    )


def test_an_optimizer_around_another_is_copied_with_it(rng):
    x, y = rng.standard_normal((50, 5)), rng.integers(0, 3, 50)
    trainer = make_trainer(optim.SAM(optim.SGD(0.1, momentum=0.9)).add_group("0.*", lr_scale=0.5))
    trainer.fit(x, y)
    twin = pickle.loads(pickle.dumps(trainer))
    assert twin.optimizer is not trainer.optimizer
    assert repr(twin.optimizer) == repr(trainer.optimizer)
    assert twin.fit(x, y)["loss"] == trainer.fit(x, y)["loss"]


@pytest.mark.parametrize("again", ["copy.deepcopy", "pickle"])
def test_what_holds_a_trainer_s_model_holds_that_of_its_copy(again, rng):
    """An object with both, as anybody's may be: after a copy its parts still belong together."""
    trainer = make_trainer(optim.Adam(lr=0.01))
    model, twin = COPIES[again]([trainer.model, trainer])
    assert twin.model is model is not trainer.model
    twin.fit(rng.standard_normal((50, 5)), rng.integers(0, 3, 50))
    assert (twin.model.flat_parameters != trainer.model.flat_parameters).any()


def test_two_threads_that_write_the_same_file_do_not_mix(tmp_path):
    """The file is the one that was completed last."""
    path = tmp_path / "model"

    def write(contents):
        with _atomic.replacing(path) as file:
            file.write(contents)

    with _atomic.replacing(path) as file:
        file.write(b"one")
        other = threading.Thread(target=write, args=(b"other",))
        other.start()
        other.join()
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_signal_handler_that_writes_the_same_file_does_not_mix_with_what_it_interrupts(tmp_path):
    """It runs in the same thread, and wrote to the same unfinished file."""
    path, model = tmp_path / "model", make()
    with _atomic.replacing(path) as file:
        file.write(b"one")
        model.save(path)
        np.testing.assert_array_equal(
            nn.Sequential.load(path).flat_parameters, model.flat_parameters
        )
    assert path.read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "model").touch()
    for load in (nn.Sequential.load, tw.Trainer.load):
        with pytest.raises(tw.DataError, match=r"not a complete safetensors file: it is empty$"):
            load(tmp_path / "model")


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    """The name in the error is the user's, not that of the file that is written first."""
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(tmp_path / "no" / "model")))):
        make().save(tmp_path / "no" / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=re.escape(repr(str(tmp_path / "folder")))):
        make().save(tmp_path / "folder")
    for name in ("none/", "none/."):  # meant as a folder: it became the file "none"
        with pytest.raises(OSError, match=re.escape(name)):
            make().save(f"{tmp_path}/{name}")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_link_stays_one_and_permissions_remain(tmp_path):
    """What is replaced is a file, with all that its owner has decided about it."""
    for name in ("model", "latest"):
        path = tmp_path / name
        if name == "latest":
            path.symlink_to("model")
        else:
            make().save(path)
            path.chmod(0o600)
        model = make("float64")
        model.save(path)
        np.testing.assert_array_equal(
            nn.Sequential.load(tmp_path / "model").flat_parameters, model.flat_parameters
        )
        assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o600
    assert (tmp_path / "latest").is_symlink()
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    make().save(tmp_path / "dangling")
    assert (tmp_path / "new").is_file()
    assert (tmp_path / "dangling").is_symlink()


def test_a_private_file_is_not_replaced_by_one_that_others_can_read_until_then(
    tmp_path, monkeypatch
):
    """Whoever opens it in between keeps it open, and reads what is written to it."""
    path, steps = tmp_path / "model", {}
    path.touch(0o600)

    def noting(name):
        function = getattr(_atomic, name)

        def noted(*args):
            (unfinished,) = tmp_path.glob("*.part")
            steps[name] = stat.S_IMODE(unfinished.stat().st_mode) & 0o077
            return function(*args)

        monkeypatch.setattr(_atomic, name, noted)

    noting("_give")
    noting("_sweep")
    before = os.umask(0)
    try:
        make().save(path)
    finally:
        os.umask(before)
    assert steps == {"_give": 0, "_sweep": 0}


def test_what_is_no_file_is_written_to(tmp_path):
    """A pipe, here: as a device, it is not replaced by a file."""
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    make().save(path)
    reader.join()
    make().save(tmp_path / "model")
    assert read == [(tmp_path / "model").read_bytes()]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_file_that_is_mounted_by_itself_is_overwritten(tmp_path, monkeypatch):
    """A container may see a single file of the host, which cannot be replaced there."""
    path = tmp_path / "model"
    path.write_text("of the host")
    same = path.stat().st_ino

    def busy(old, new):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), old, None, new)

    monkeypatch.setattr(os, "replace", busy)
    make().save(path)
    nn.Sequential.load(path)
    assert path.stat().st_ino == same
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_takes_no_file_is_named(tmp_path, monkeypatch):
    """Even if the file could be written: the folder is what is in the way."""
    path = tmp_path / "model"
    path.write_text("as it was")

    def denied(name, mode, opener):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)

    monkeypatch.setattr(_atomic, "open", denied, raising=False)
    with pytest.raises(PermissionError, match="can be made in this folder") as found:
        make().save(path)
    assert found.value.filename == str(tmp_path)
    assert path.read_text() == "as it was"


def test_a_file_that_must_not_be_replaced_is_named(tmp_path, monkeypatch):
    """As one that is open on Windows, or another user's in a folder like /tmp: not the folder."""
    path = tmp_path / "model"

    def denied(old, new):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), old, None, new)

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(PermissionError, match="not permitted: '") as found:
        make().save(path)
    assert found.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def watch(monkeypatch):
    """Return a list that gets the size of each file that is synced, and "folder" for a folder."""
    events, sync = [], os.fsync

    def record(file):
        found = os.fstat(file)
        events.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        sync(file)

    monkeypatch.setattr(os, "fsync", record)
    return events


def test_what_was_written_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    """And the name before `save` returns: or a power cut would bring back the old file."""
    path, events, replace = tmp_path / "model", watch(monkeypatch), os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("named"), replace(*names)))
    make().save(path)
    assert events == [path.stat().st_size, "named", "folder"]


def test_what_a_mounted_file_is_overwritten_with_is_on_the_disk(tmp_path, monkeypatch):
    path, events = tmp_path / "model", watch(monkeypatch)
    path.write_text("of the host")

    def busy(old, new):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), old, None, new)

    monkeypatch.setattr(os, "replace", busy)
    make().save(path)
    assert events == [path.stat().st_size] * 2


@pytest.mark.parametrize("refused", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_is_no_error(refused, tmp_path, monkeypatch):
    """On Windows folders are not opened, on some shares not synced: the file is complete."""
    path, descriptors = tmp_path / "model", len(os.listdir("/dev/fd"))
    usual = getattr(os, refused)

    def refuse(file, *rest):
        if stat.S_ISDIR(os.stat(file).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return usual(file, *rest)

    monkeypatch.setattr(os, refused, refuse)
    make().save(path)
    nn.Sequential.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert len(os.listdir("/dev/fd")) == descriptors


def half(path, age):
    """Write what a process leaves that is killed while it saves, some seconds ago."""
    path.write_text("half")
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path.name


def test_what_killed_processes_have_left_is_removed_later(tmp_path):
    """Once it is so old that nobody can still be writing it; with names by step, of any name."""
    half(tmp_path / "model.123-0123456789abcdef.part", 3660)
    half(tmp_path / "step-7.45-0000000000000000.part", 3660)
    kept = {
        half(tmp_path / name, age)
        for name, age in {
            "model.678-0123456789abcdef.part": 3540,  # somebody may be writing it
            "model.final.part": 7200,
            "model.part": 7200,
            ".123-0123456789abcdef.part": 7200,  # of no name
            "model.123-0123456789abcde.part": 7200,
            "model.123-0123456789abcdef0.part": 7200,
            "model.123-0123456789ABCDEF.part": 7200,
            "model.x-0123456789abcdef.part": 7200,
            "model.123-0123456789abcdef.part.bin": 7200,
            "model-123-0123456789abcdef.part": 7200,
            "step-7": 7200,
        }.items()
    }
    folder, link = tmp_path / "a.1-0123456789abcdef.part", tmp_path / "b.1-0123456789abcdef.part"
    folder.mkdir()
    link.symlink_to("step-7")
    os.utime(folder, (0, 0))
    os.utime(link, (0, 0), follow_symlinks=False)
    make().save(tmp_path / "model")
    assert {p.name for p in tmp_path.iterdir()} == {"model", folder.name, link.name, *kept}


def test_abandoned_files_are_removed_before_anything_is_written(tmp_path):
    """Or a disk that is full of them would stay full: no save would succeed again."""
    half(tmp_path / "model.123-0123456789abcdef.part", 7200)
    with _atomic.replacing(tmp_path / "model"):
        assert len(os.listdir(tmp_path)) == 1  # the new one


def test_an_abandoned_file_that_cannot_be_removed_does_not_keep_others(tmp_path, monkeypatch):
    """It may be another user's, in a folder like /tmp."""
    names = [half(tmp_path / f"{it}.1-0123456789abcdef.part", 7200) for it in "abc"]
    unlink, refused = os.unlink, []

    def first_refused(path):
        refused[:] = refused or [path]
        if path == refused[0]:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", first_refused)
    make().save(tmp_path / "model")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"model", os.path.basename(refused[0])} < {"model", *names}


@pytest.mark.parametrize("name", ["m" * 255, "\N{SNOWMAN}" * 85], ids=["ascii", "three bytes each"])
def test_the_longest_names_are_names_too(name, tmp_path):
    """The name of the unfinished file, which is longer than it is short, is shortened."""
    with _atomic.replacing(tmp_path / name):
        (unfinished,) = tmp_path.iterdir()
    half(unfinished, 7200)  # as if that process had been killed
    make().save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_number_is_no_file(tmp_path):
    """It would be that of a file that something else has open."""
    make().save(tmp_path / "model")
    with (tmp_path / "model").open("rb") as file:
        for load in (nn.Sequential.load, tw.Trainer.load):
            with pytest.raises(tw.ArgumentError, match=r"^path must be text, a path or a file obj"):
                load(file.fileno())
        assert file.read(1)  # still open


def test_models_and_trainings_come_and_go_through_file_objects(tmp_path, rng):
    """As over a network, where there is no file."""
    x, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 3))
    trainer = trained()
    trainer.fit(x, y)
    for thing, load in ((trainer.model, nn.Sequential.load), (trainer, tw.Trainer.load)):
        thing.save(tmp_path / "file")
        thing.save(memory := io.BytesIO())
        assert memory.getvalue() == (tmp_path / "file").read_bytes()
        with (tmp_path / "file").open("rb") as file:
            again = [load(file), load(io.BytesIO(memory.getvalue()))]
        for one in again:
            model = one if isinstance(one, nn.Sequential) else one.model
            np.testing.assert_array_equal(model(x), trainer.model(x))
    assert again[1].epochs == 1


@pytest.mark.parametrize("load", [nn.Sequential.load, tw.Trainer.load])
def test_errors_name_file_objects(load):
    trained().save(memory := io.BytesIO())
    with pytest.raises(tw.DataError, match=r"^<_io\.BytesIO .*nothing left to read; seek\(0\)"):
        load(memory)  # it is at its end
    with pytest.raises(tw.DataError, match=r"^<_io\.BytesIO .* is not a complete safetensors file"):
        load(io.BytesIO(memory.getvalue()[:-1]))
    with pytest.raises(tw.ArgumentError, match=r"^path must .*; for bytes, io\.BytesIO\(path\)$"):
        load(memory.getvalue())


def test_files_of_text_are_refused(tmp_path):
    """Not all of them are an `io.TextIOBase`."""
    coded = codecs.getreader("utf-8"), codecs.getwriter("utf-8")
    with (
        open(tmp_path / "text", "w+") as plain,
        tempfile.NamedTemporaryFile("w+") as named,
        tempfile.SpooledTemporaryFile(mode="w+") as spooled,
        codecs.StreamReaderWriter(io.BytesIO(), *coded) as of_codecs,
    ):
        for file in (plain, named, spooled, of_codecs):
            with pytest.raises(tw.ArgumentError, match=r'^path must be .*open\(\.\.\., "wb"\)'):
                make().save(file)
            with pytest.raises(tw.ArgumentError, match=r'^path must be .*open\(\.\.\., "rb"\)'):
                nn.Sequential.load(file)


def test_unbuffered_files_are_read_and_temporary_ones_written(tmp_path):
    with tempfile.NamedTemporaryFile() as named, tempfile.SpooledTemporaryFile() as spooled:
        for file in (named, spooled):
            make().save(file)
            file.seek(0)
            assert nn.Sequential.load(file).num_parameters == make().num_parameters
    make().save(tmp_path / "model")
    with open(tmp_path / "model", "rb", buffering=0) as file:
        assert nn.Sequential.load(file).num_parameters == make().num_parameters


def test_a_file_object_that_takes_a_part_of_the_bytes_is_not_taken_for_written():
    class Limited(io.BytesIO):
        def write(self, data):
            return super().write(bytes(data)[:100])

    with pytest.raises(OSError, match=r"Limited object at .*> took 100 of \d+ bytes"):
        make().save(Limited())


class ByLength:
    """A file in pure Python that goes on by ``len(data)``, as paramiko's over SFTP."""

    def __init__(self):
        self.bytes = bytearray()
        self.place = 0

    def write(self, data):
        self.bytes[self.place : self.place + len(data)] = bytes(data)
        self.place += len(data)
        return len(data)


@pytest.mark.parametrize("kept", ["model", "trainer"])
def test_file_objects_are_given_bytes_one_by_one(kept):
    """They were given rows, and `len` of what has 48 bytes was 4: files were damaged."""
    trainer, file = trained(), ByLength()
    (trainer if kept == "trainer" else trainer.model).save(file)
    for load in (nn.Sequential.load, tw.Trainer.load)[: 1 + (kept == "trainer")]:
        again = load(io.BytesIO(file.bytes))
        model = again.model if isinstance(again, tw.Trainer) else again
        np.testing.assert_array_equal(model.flat_parameters, trainer.model.flat_parameters)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("load", [nn.Sequential.load, tw.Trainer.load])
def test_file_objects_that_give_no_bytes_or_are_to_be_awaited_are_refused(load):
    """Nothing was written, without a word; what was read had no such attribute."""

    class Other:
        def __init__(self, given):
            self.given = given

        def read(self):
            return self.given

    class Later:
        async def read(self):
            return b""

        async def write(self, data):
            pass

    for given in ("text", None, 3):
        with pytest.raises(tw.ArgumentError, match=rf"Other .*read must .*; it returned {given!r}"):
            load(Other(given))
    with pytest.raises(tw.ArgumentError, match=r"it returned <coroutine .*BytesIO\(await"):
        load(Later())
    for one in (make(), trained()):
        with pytest.raises(tw.ArgumentError, match=r"Later .*write must .*it returned <coroutine"):
            one.save(Later())
    trained().save(memory := io.BytesIO())
    for known in (memory.getbuffer(), bytearray(memory.getvalue())):
        assert type(load(Other(known))) is load.__self__


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "\0" * 10**6], ids=["NUL", "half", "long"])
def test_what_no_file_can_be_called_is_refused(path):
    for call in (make().save, trained().save, nn.Sequential.load, tw.Trainer.load):
        with pytest.raises(tw.ArgumentError, match=r"^path must name a file; no name is ") as found:
            call(path)
        assert len(str(found.value)) < 300


@pytest.mark.parametrize("path", [3, True, None, b"model", "", io.StringIO(), io.RawIOBase()])
def test_what_is_no_path_is_refused_before_anything_is_written(path, tmp_path, monkeypatch):
    """A number would be that of an open file; an unbuffered file may take a part of the bytes."""
    monkeypatch.chdir(tmp_path)
    thing = "name a file; it is empty" if path == "" else "be text, a path or a file object"
    with pytest.raises(tw.ArgumentError, match=rf"^path must {thing}"):
        make().save(path)
    with pytest.raises(tw.ArgumentError, match=rf"^path must {thing}"):
        trained().save(path)
    assert not list(tmp_path.iterdir())


class Npc(nn.Sequential):
    """With a method, and an attribute that only its ``__init__`` knows."""

    def __init__(self, name):
        self.name = name
        super().__init__(nn.Linear(2, 3))

    def act(self, x):
        return self(x).argmax(axis=1)


def test_a_class_of_the_users_own_loads_its_own(tmp_path):
    """It was a plain model, without the methods."""
    npc = Npc("Bob")
    npc.save(tmp_path / "model")
    again = Npc.load(tmp_path / "model")
    assert type(again) is Npc
    np.testing.assert_array_equal(again.act(np.eye(2)), npc.act(np.eye(2)))
    assert not hasattr(again, "name")  # which is not in the file
    assert type(nn.Sequential.load(tmp_path / "model")) is nn.Sequential


OVERFLOWED = {
    "the optimizer": (optim.Adam, r"the optimizer's exp_avg_sq\[\d\] is inf.*clip.*\"float64\""),
    "the model": (lambda: optim.SGD(lr=3e38), r"0\.weight\[\d, 0\] is -?inf: .*smaller learning"),
}


@pytest.mark.parametrize("part", OVERFLOWED)
def test_what_has_overflowed_is_not_kept_and_the_file_stays(part, tmp_path):
    """It would not be read again: here of times in ns, beside a y of some hundreds."""
    optimizer, message = OVERFLOWED[part]
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), seed=2)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer())
    trainer.step(np.array([[1.7e18, 0.5], [1.7e18, -0.5]]), [100.0, -100.0])
    path = tmp_path / "kept"
    path.write_text("of another training")
    calls = [
        lambda: trainer.save(path),
        lambda: trainer.copy(),
        lambda: pickle.dumps(trainer),
        lambda: copy.deepcopy(trainer.optimizer),
        lambda: tw.find_lr(trainer, np.ones((4, 2)), np.ones(4)),
    ]
    if part == "the model":
        calls[-2:] = [lambda: model.save(path), lambda: copy.deepcopy(model)]
    for call in calls:
        with pytest.raises(tw.DivergedError, match=message):
            call()
    assert path.read_text() == "of another training"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_the_model_of_a_saved_training_can_be_read_alone(tmp_path, rng):
    trainer = make_trainer()
    trainer.step(rng.standard_normal((9, 5)), rng.integers(0, 3, 9))
    trainer.save(tmp_path / "training")
    model = nn.Sequential.load(tmp_path / "training")
    np.testing.assert_array_equal(model.flat_parameters, trainer.model.flat_parameters)


def test_what_is_no_training_is_refused(tmp_path):
    make().save(tmp_path / "model")
    with pytest.raises(tw.DataError, match="holds no trainer"):
        tw.Trainer.load(tmp_path / "model")
    trainer = make_trainer(schedule=schedules.LambdaLR(lambda t: 1.0))
    with pytest.raises(tw.UnsupportedError, match="cannot be saved"):
        trainer.save(tmp_path / "training")


def test_damaged_trainings_are_refused(tmp_path):
    from thalweg import _safetensors

    path = tmp_path / "training"
    make_trainer().save(path)
    arrays, text = _safetensors.load(path)
    saved = json.loads(text["thalweg.trainer"])
    for change in (
        {"spec": {**saved["spec"], "loss": {"type": "Adam", "weight": 1}}},
        {"spec": {**saved["spec"], "loss": {"type": "np"}}},
        {"spec": {**saved["spec"], "loss": {"type": "function", "of": "MSELoss"}}},
        {"spec": {**saved["spec"], "loss": None}},
        {"counts": {}},
    ):
        damaged = {**text, "thalweg.trainer": json.dumps({**saved, **change})}
        _safetensors.save(path, arrays, damaged)
        with pytest.raises(tw.ThalwegError):
            tw.Trainer.load(path)
    _safetensors.save(path, arrays, {**text, "thalweg": "{"})
    with pytest.raises(tw.DataError, match="damaged"):
        tw.Trainer.load(path)


def test_a_training_whose_optimizer_refuses_the_model_comes_back(tmp_path):
    """It has no state to restore but its rate, and says what is wrong when it is to step."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))  # nothing between the two
    trainer = make_trainer(optim.Muon(lr=0.1), model=model)
    trainer.optimizer.lr = 0.3
    trainer.save(tmp_path / "training")
    again = tw.Trainer.load(tmp_path / "training")
    for twin in (again, trainer.copy(), pickle.loads(pickle.dumps(trainer))):
        assert twin.optimizer.lr == 0.3
        np.testing.assert_array_equal(twin.model.flat_parameters, model.flat_parameters)
        with pytest.raises(tw.ArgumentError, match=r"^Muon has no weight to work on"):
            twin.step(np.ones((2, 5)), [0, 1])


def damage(path, part, change):
    """Change a part of what a file says of a training."""
    from thalweg import _safetensors

    arrays, text = _safetensors.load(path)
    saved = json.loads(text["thalweg.trainer"])
    saved[part] |= change
    _safetensors.save(path, arrays, {**text, "thalweg.trainer": json.dumps(saved)})


@pytest.mark.parametrize("change", [{"steps": 1}, {"options": {"lr": 0.3}}, {"scalars": {"a": 1}}])
def test_damaged_states_of_optimizers_are_refused(change, tmp_path):
    path = tmp_path / "training"
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    for optimizer in (optim.Adam(), optim.Muon()):  # which takes the model, and which does not
        make_trainer(optimizer, model=model[:]).save(path)
        damage(path, "optimizer_state", change)
        with pytest.raises(tw.DataError, match="is a damaged file: "):
            tw.Trainer.load(path)


DAMAGED_MODELS = {
    "no layers": {"layers": None},
    "a layer that is a list": {"layers": [["Linear", 5, 3]]},
    "a layer that is none": {"layers": [{"type": "Linear", "in_features": -5, "out_features": 3}]},
    "a layer of other arguments": {"layers": [{"type": "Linear", "width": 3}]},
    "passes below 0": {"passes": -1},
    "passes that are text": {"passes": "a"},
    "a seed that is text": {"seed": "a"},
    "a dtype that is none": {"dtype": "float16"},
}


@pytest.mark.parametrize("change", DAMAGED_MODELS.values(), ids=DAMAGED_MODELS)
def test_damaged_descriptions_of_models_are_refused(change, tmp_path):
    from thalweg import _safetensors

    model, path = make(), tmp_path / "model"
    text = json.dumps(model._description() | change)
    _safetensors.save(path, model.state_dict(), {"thalweg": text})
    with pytest.raises(tw.DataError, match="is a damaged file: "):
        nn.Sequential.load(path)
    for text in ("[]", "3", "{", "[" * 100_000):
        _safetensors.save(path, model.state_dict(), {"thalweg": text})
        with pytest.raises(tw.DataError, match="is a damaged file: "):
            nn.Sequential.load(path)
    _safetensors.save(path, {}, {"thalweg": json.dumps(model._description())})
    with pytest.raises(tw.DataError, match=r"is a damaged file: .*missing"):
        nn.Sequential.load(path)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(10**6, 10**6)],
        [nn.Linear(1, 10**12, bias=False), nn.Residual(nn.BatchNorm1d(10**12))],
    ],
    ids=["a layer", "in a block"],
)
def test_layers_whose_numbers_are_not_in_the_file_are_not_made(layers, tmp_path):
    """A few bytes would fill the memory."""
    from thalweg import _safetensors, _spec

    trainer, path = make_trainer(), tmp_path / "file"
    arrays, text = trainer._content()
    text["thalweg"] = json.dumps(json.loads(text["thalweg"]) | {"layers": _spec.describe(layers)})
    _safetensors.save(path, arrays, text)
    for load in (nn.Sequential.load, tw.Trainer.load):
        with pytest.raises(tw.DataError, match=r"is a damaged file: .* of them are missing"):
            load(path)


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(active=[0]), nn.BCEWithLogitsLoss(pos_weight=2.0)], ids=repr
)
@pytest.mark.parametrize(("blocks", "taken"), [(20, True), (21, False)])
def test_outputs_that_no_numbers_stand_behind_take_little_memory(loss, blocks, taken, tmp_path):
    """Each block that copies its inputs doubles them; these losses have a number for each."""
    model = nn.Sequential(nn.Linear(1, 1), *[nn.Concatenate(nn.Identity())] * blocks)
    tw.Trainer(model, loss=loss, optimizer=optim.SGD()).save(tmp_path / "file")
    assert os.path.getsize(tmp_path / "file") < 4096
    tracemalloc.start()
    try:
        if taken:
            assert tw.Trainer.load(tmp_path / "file").model.out_features == 2**20
        else:
            with pytest.raises(tw.DataError, match="have 2097152 outputs, but only 2 numbers"):
                tw.Trainer.load(tmp_path / "file")
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_many_outputs_of_many_numbers_are_fine(tmp_path):
    model = nn.Sequential(nn.Linear(1, 2**20, bias=False), nn.Concatenate(nn.Identity()))
    model.save(tmp_path / "file")
    assert nn.Sequential.load(tmp_path / "file").out_features == 2**21


DAMAGED_COUNTS = {
    "epochs below 0": {"epochs": -1},
    "epochs that are text": {"epochs": "3"},
    "no base of the rate": {"base_lr": None},
    "a state of the schedule that is text": {"plateau": {"best": "a", "bad": 0, "cooldown": 0}},
    "a history that is none": {"history": [1, 2]},
    "a figure that is text": {"history": {"loss": ["a"]}},
}


@pytest.mark.parametrize("change", DAMAGED_COUNTS.values(), ids=DAMAGED_COUNTS)
def test_damaged_counts_of_trainings_are_refused(change, tmp_path):
    path = tmp_path / "training"
    make_trainer(average=optim.EMA()).save(path)
    damage(path, "counts", change)
    with pytest.raises(tw.DataError, match="is a damaged file: "):
        tw.Trainer.load(path)


def test_what_a_file_is_not_to_blame_for(tmp_path):
    trainer, path = make_trainer(), tmp_path / "training"
    trainer.history["accuracy"] = [float("nan")]  # of an epoch whose labels were all ignored
    trainer.save(path)
    assert np.isnan(tw.Trainer.load(path).history["accuracy"]).all()
    with pytest.raises(tw.ArgumentError, match=r'^precision must be one of "float32"'):
        tw.Trainer.load(path, precision="double")


def test_averages_that_are_not_finite_are_refused(tmp_path):
    from thalweg import _safetensors

    path = tmp_path / "training"
    make_trainer(average=optim.EMA()).save(path)
    arrays, text = _safetensors.load(path)
    arrays["optimizer.average"] = np.full_like(arrays["optimizer.average"], np.nan)
    _safetensors.save(path, arrays, text)
    with pytest.raises(tw.DataError, match=r"damaged file: average\[0\] is nan"):
        tw.Trainer.load(path)


def test_checkpoints_are_saved_at_the_end_of_epochs(tmp_path, rng):
    x, y = rng.standard_normal((20, 5)), rng.integers(0, 3, 20)
    every = ModelCheckpoint(tmp_path / "{epoch:02d}-{loss:.3f}.safetensors")
    best = ModelCheckpoint(tmp_path / "best.safetensors", monitor="loss", save_best_only=True)
    trainer = make_trainer(optim.SGD(lr=0.0))  # nothing gets better than the first epoch
    loss = trainer.fit(x, y, epochs=2, batch_size=20, callbacks=[every, best])["loss"][0]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"01-{loss:.3f}.safetensors", f"02-{loss:.3f}.safetensors", "best.safetensors"]
    # The running averages are those of the first epoch.
    saved = nn.Sequential.load(tmp_path / "best.safetensors").state_dict()
    first = nn.Sequential.load(tmp_path / names[0]).state_dict()
    np.testing.assert_array_equal(saved["1.running_var"], first["1.running_var"])
    assert (saved["1.running_var"] != trainer.model.state_dict()["1.running_var"]).any()


@pytest.mark.parametrize(
    ("module", "name"),
    [("nn._sequential", "Sequential"), ("nn._layers._inputs", "TabularInput")],
)
def test_pickles_of_earlier_versions_find_their_classes(module, name):
    """These were written in other files once, which pickles name."""
    found = importlib.import_module(f"thalweg.{module}")
    assert getattr(found, name) is getattr(nn, name)
