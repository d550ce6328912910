"""Every strategy learns the same, bit for bit, on any number of threads."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg._safetensors import load
from thalweg.continual import BalancedBuffer, Replay, Scenario, Task

#: Rows of a task. A step on all of them is large enough for 64 threads, one on 40 for two of them,
#: and the network has enough parameters for loops over these to be on several threads, too.
ROWS = 1280

STRATEGIES = {
    "Naive": lambda t, s: continual.Naive(t),
    "FromScratch": lambda t, s: continual.FromScratch(t),
    "Cumulative": continual.Cumulative,
    "Joint": continual.Joint,
    "Replay": lambda t, s: Replay(t, 60),
    "GDumb": lambda t, s: continual.GDumb(t, 200),
    "NearestMean": lambda t, s: continual.NearestMean(
        Replay(t, BalancedBuffer(60, select="herding"))
    ),
    "DER": lambda t, s: continual.DER(t, 60),
    "DERpp": lambda t, s: continual.DERpp(t, 60),
    "ERACE": lambda t, s: continual.ERACE(t, 60),
    "LwF": lambda t, s: continual.LwF(t),
    "FROMP": lambda t, s: continual.FROMP(t, 4, 1e-3),
    "EWC": lambda t, s: continual.EWC(t, 10.0),
    "OnlineEWC": lambda t, s: continual.OnlineEWC(t, 1e4, convention="avalanche", batch_size=40),
    "SynapticIntelligence": lambda t, s: continual.SynapticIntelligence(t, 1000.0),
    "MAS": lambda t, s: continual.MAS(t, 100.0),
    "RWalk": lambda t, s: continual.RWalk(t, 100.0, every=2),
    "L2": lambda t, s: continual.L2(t, 1.0),
    "L2Init": lambda t, s: continual.L2Init(t, 1.0),
    "OnlineLaplace": lambda t, s: continual.OnlineLaplace(t, 1.0),
    "AGEM": lambda t, s: continual.AGEM(t, 60),
    "GEM": lambda t, s: continual.GEM(t, 50),
    "OGD": lambda t, s: continual.OGD(t, 4),
    "XdG": lambda t, s: continual.XdG(t),
    "PackNet": lambda t, s: continual.PackNet(t),
    "ContinualBackprop": lambda t, s: continual.ContinualBackprop(
        t, replacement_rate=0.01, maturity=1
    ),
    "ShrinkAndPerturb": lambda t, s: continual.ShrinkAndPerturb(t),
}


def test_no_strategy_is_left_out():
    kinds = {
        name
        for name, kind in vars(continual).items()
        if isinstance(kind, type) and issubclass(kind, continual.Strategy)
    }
    assert {*STRATEGIES} == kinds - {"Strategy"}


@pytest.fixture
def threads():
    """A function that sets their number, for a test."""
    before = tw.get_num_threads()
    yield tw.set_num_threads
    tw.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:the learning rate is")  # too few steps to diverge
@pytest.mark.parametrize("name", STRATEGIES)
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
        strategy = STRATEGIES[name](trainer, scenario)
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
