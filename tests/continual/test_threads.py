"""Every strategy learns the same, bit for bit, on any number of threads."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg._safetensors import load
from thalweg.continual import Scenario, Task

from .strategies import STRATEGIES

#: Rows of a task. A step on all of them is large enough for 64 threads, one on 40 for two of them,
#: and the network has enough parameters for loops over these to be on several threads, too.
ROWS = 1280

#: Those that do something else on so many rows, or with other arguments, take these.
MADE = STRATEGIES | {
    "GDumb": lambda t, s: continual.GDumb(t, 200),
    "OnlineEWC": lambda t, s: continual.OnlineEWC(t, 1e4, convention="avalanche", batch_size=40),
}


@pytest.fixture
def threads():
    """A function that sets their number, for a test."""
    before = tw.get_num_threads()
    yield tw.set_num_threads
    tw.set_num_threads(before)


# Too few steps to diverge, or to move far.
@pytest.mark.filterwarnings("ignore:the learning rate is", "ignore:the penalty of FROMP")
@pytest.mark.parametrize("name", MADE)
def test_any_number_of_threads_gives_the_same_bits(name, threads, tmp_path):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3 * ROWS, 64)).astype("float32")
    y = rng.integers(0, 5, 3 * ROWS)
    parts = [slice(k * ROWS, (k + 1) * ROWS) for k in range(3)]
    scenario = Scenario([Task(x[p], y[p], x[:9], y[:9], k) for k, p in enumerate(parts)])

    def learned(count):
        """All that learning leaves: parameters and what was gathered, figures, answers."""
        threads(count)
        model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 5), seed=1)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.05))
        if count > 1:
            assert f"on {count} threads" in str(trainer.plan(ROWS))
            assert "on 2 threads" in str(trainer.plan(40))
        strategy = MADE[name](trainer, scenario)
        losses = []
        for task, steps, batch_size in zip(scenario, (3, 2, 2), (40, ROWS, ROWS), strict=True):
            history = strategy.fit(task, steps=steps, batch_size=batch_size)
            losses.append(history["loss"])
        strategy.save(tmp_path / "strategy")
        arrays, text = load(tmp_path / "strategy")
        saved = {name: array.tobytes() for name, array in arrays.items()}
        answers = strategy.predict(x[:ROWS], task=1).tolist()
        return saved, text["thalweg.continual"], losses, answers

    alone = learned(1)
    for count in (2, 3, 8, 64):
        for one, other in zip(learned(count), alone, strict=True):
            assert one == other, f"on {count} threads"
