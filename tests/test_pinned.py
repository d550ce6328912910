"""What files and seeds give is what they gave: numbers and bytes that are kept in tests/data.

The files are in the format of a version that is not released yet. After a change that is meant,
write them anew with ``python tests/test_pinned.py``, and look at what differs. From the first
release on, keep the old ones: files of every released version can be read.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import _core, nn, optim

DATA = Path(__file__).parent / "data"
MODEL, TRAINER, NUMBERS = DATA / "model.safetensors", DATA / "trainer.safetensors", "pinned.json"

X = np.sin(np.arange(60.0)).reshape(20, 3)
Y = np.cos(np.arange(40.0)).reshape(20, 2)


def first_model():
    """A model of many layers, with averages and a pass behind it."""
    inside = nn.Residual(nn.Linear(8, 8), nn.Softplus(beta=2.0))
    model = nn.Sequential(
        nn.Standardize(np.arange(3.0), np.full(3, 2.0)), nn.Linear(3, 8, init="kaiming_normal"),
        nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Dropout(0.25), inside, nn.LayerNorm(8),
        nn.Linear(8, 2, bias=False), dtype="float64", seed=11,
    )  # fmt: skip
    model.forward(X)
    return model


def first_trainer():
    """A trainer with everything that one can hold, in the middle of an update."""
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2), seed=5)
    optimizer = optim.Adam(lr=0.02, amsgrad=True)
    optimizer.add_group("*.bias", lr_scale=0.5)
    trainer = tw.Trainer(
        model, loss=nn.HuberLoss(), optimizer=optimizer, clip_grad_norm=1.0,
        schedule=optim.schedules.ReduceLROnPlateau(monitor="loss", patience=1),
        accumulate_grad_batches=2, average=optim.EMA(0.9),
    )  # fmt: skip
    trainer.set_penalty(np.linspace(0, 1, model.num_parameters), model.flat_parameters, 0.1)
    trainer.fit(X, Y, epochs=3, batch_size=8)
    trainer.step(X[:5], Y[:5])
    return trainer


def further(trainer):
    """What a trainer does next: its losses, and some of what it predicts then."""
    losses = [trainer.step(X[5:10], Y[5:10])]
    losses += trainer.fit(X, Y, epochs=4, batch_size=8)["loss"]
    return {
        "losses": losses,
        "outputs": trainer.model(X[:4]).tolist(),
        "average": trainer.average_model()(X[:4]).tolist(),
    }


def initial(name):
    model = nn.Sequential(nn.Linear(4, 3, init=name), dtype="float64", seed=7)
    return model.flat_parameters[:10]


def order():
    """Rows of an epoch, as a fit goes through them."""
    return _core.epoch_order(30, 7, 2)


def renew():
    """Write all files anew."""
    model, trainer = first_model(), first_trainer()
    model.save(MODEL)
    trainer.save(TRAINER)
    numbers = {
        "outputs": model(X[:4]).tolist(),
        "further": further(tw.Trainer.load(TRAINER)),
        "initial": {name: initial(name).tolist() for name in nn.init.NAMES},
        "order": order().tolist(),
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in numbers.items()]
    (DATA / NUMBERS).write_text("{\n" + ",\n".join(lines) + "\n}\n")


@pytest.fixture(scope="module")
def numbers():
    return json.loads((DATA / NUMBERS).read_text())


def test_a_kept_model_gives_what_it_gave(numbers):
    model = nn.Sequential.load(MODEL)
    np.testing.assert_allclose(model(X[:4]), numbers["outputs"], rtol=1e-12)


def test_a_kept_trainer_goes_on_as_it_did(numbers):
    """Up to the order of sums, which depends on the machine."""
    for key, values in further(tw.Trainer.load(TRAINER)).items():
        np.testing.assert_allclose(values, numbers["further"][key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "path"), [(nn.Sequential, MODEL), (tw.Trainer, TRAINER)])
def test_what_was_read_is_written_as_it_was(kind, path, tmp_path):
    """Reader and writer do not change together."""
    kind.load(path).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", nn.init.NAMES)
def test_a_seed_gives_the_same_weights_on_every_machine(name, numbers):
    np.testing.assert_array_equal(initial(name), numbers["initial"][name])


def test_a_seed_gives_the_same_order_of_rows_on_every_machine(numbers):
    assert order().tolist() == numbers["order"]


if __name__ == "__main__":
    renew()
