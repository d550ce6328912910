"""Arguments of strategies, buffers and callbacks: they can be read, and hardly any can be set."""

import copy
import functools
import inspect
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import callbacks, continual, curvature, diagnostics, nn, optim
from thalweg._fixed import Fixed

X, Y = np.arange(12.0).reshape(6, 2) / 12, np.arange(6) % 3
SCENARIO = continual.from_arrays([(X, Y)])
WAVE = np.linspace(-1, 1, 8, endpoint=False)


def trainer():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), seed=1)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))


def buffer(capacity=5):
    return continual.ReservoirBuffer(capacity)


#: Arguments that differ from their defaults; those that strategies go around are added.
ARGUMENTS = {
    continual.AGEM: {"buffer": buffer(), "batch_size": 3, "eps": 0.5},
    continual.BalancedBuffer: {"capacity": 9, "per_class": True, "select": "herding", "seed": 4},
    continual.ContinualBackprop: {
        "replacement_rate": 0.5, "maturity": 3, "decay": 0.5, "seed": 4,
    },
    continual.Cumulative: {"scenario": SCENARIO},
    continual.DER: {"buffer": buffer(), "alpha": 0.7, "beta": 0.3, "batch_size": 3},
    continual.DERpp: {"buffer": buffer(), "alpha": 0.7, "beta": 0.3, "batch_size": 3},
    continual.ERACE: {"buffer": buffer(), "batch_size": 3},
    continual.EWC: {
        "strength": 2.0, "fisher": "empirical", "n_samples": 3, "batch_size": 2,
        "convention": "avalanche", "seed": 4,
    },
    continual.FROMP: {"per_task": 3, "strength": 2.0, "delta": 0.1, "jitter": 0.2},
    continual.FromScratch: {},
    continual.GDumb: {"buffer": buffer()},
    continual.GEM: {"per_task": 3, "margin": 0.25, "convention": "avalanche", "seed": 4},
    continual.Joint: {"scenario": SCENARIO},
    continual.L2: {"strength": 2.0},
    continual.L2Init: {"strength": 2.0},
    continual.LwF: {"strength": 2.0, "temperature": 3.0},
    continual.MAS: {
        "strength": 2.0, "n_samples": 3, "seed": 4, "batch_size": 2, "convention": "avalanche",
    },
    continual.Naive: {},
    continual.NearestMean: {},
    continual.OGD: {"n_samples": 3, "outputs": "all", "seed": 4},
    continual.OnlineEWC: {
        "strength": 2.0, "decay": 0.5, "fisher": "empirical", "n_samples": 3, "batch_size": 2,
        "convention": "avalanche", "seed": 4,
    },
    continual.OnlineLaplace: {
        "strength": 2.0, "structure": "full", "factors": "summed", "decay": 0.5, "n_samples": 3,
        "seed": 4,
    },
    continual.PackNet: {"prune": 0.25, "retrain": 0.75},
    continual.RecentBuffer: {"capacity": 9, "seed": 4},
    continual.Replay: {"buffer": buffer(), "batch_size": 3, "weighting": "rows"},
    continual.ReservoirBuffer: {"capacity": 9, "seed": 4},
    continual.RWalk: {"strength": 2.0, "alpha": 0.5, "every": 3, "eps": 0.1},
    continual.ShrinkAndPerturb: {"shrink": 0.3, "perturb": 0.2, "seed": 4},
    continual.SynapticIntelligence: {"strength": 2.0, "xi": 0.3, "convention": "avalanche"},
    continual.XdG: {"share": 0.5, "seed": 4},
    callbacks.EarlyStopping: {
        "monitor": "accuracy", "min_delta": 0.1, "patience": 3, "mode": "max",
        "restore_best_weights": True, "start_from_epoch": 2,
    },
    callbacks.ModelCheckpoint: {
        "path": "model-{epoch}", "monitor": "accuracy", "save_best_only": True, "mode": "max",
    },
    callbacks.StabilityMonitor: {
        "x": X, "y": Y, "every": 3, "action": "lower", "margin": 0.5, "sample_weight": np.ones(6),
    },
    diagnostics.BalanceMonitor: {},
    diagnostics.SpectralBias: {
        "x": WAVE, "y": np.sin(np.pi * WAVE), "frequencies": [1], "inputs": WAVE[:, np.newaxis],
        "every": 3,
    },
}  # fmt: skip


def make(kind):
    """One of a kind, with the arguments above."""
    given = dict(ARGUMENTS[kind])
    if kind is continual.NearestMean:
        given["inner"] = continual.Replay(trainer(), buffer())
    elif issubclass(kind, continual.Strategy):
        given["inner"] = trainer()
    return kind(**given), given


def test_every_kind_is_here():
    modules = callbacks, continual, curvature, diagnostics
    public = [thing for module in modules for thing in vars(module).values()]
    bases = continual.Buffer, continual.Strategy, callbacks.Callback
    kinds = {it for it in public if isinstance(it, type) and issubclass(it, Fixed)} - {*bases}
    assert kinds <= ARGUMENTS.keys()
    for kind, arguments in ARGUMENTS.items():
        assert {*inspect.signature(kind).parameters} - {"inner"} == {*arguments}, kind


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
def test_arguments_can_be_read_under_their_names(kind):
    made, given = make(kind)
    inner = given.pop("inner", None)
    if inner is not None:
        assert inner in (made.inner, made.trainer)
    for name, value in given.items():
        np.testing.assert_array_equal(getattr(made, name), value, strict=name != "frequencies")


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
def test_an_argument_that_is_set_has_an_effect_or_is_refused(kind):
    made, given = make(kind)
    for name in given:
        before = getattr(made, name)
        if name == "strength" and kind not in (continual.LwF, continual.FROMP):
            made.strength = 5  # the only one that can be set; tests of penalties see its effect
            assert made.strength == 5.0
            with pytest.raises(tw.ArgumentError, match=r"strength must be .* got -1"):
                made.strength = -1
            continue
        what = kind.__name__
        message = rf"^{what}\.{name} cannot be set: make another one, {what}\(\.\.\., {name}=\.\.\."
        with pytest.raises(AttributeError, match=message):
            setattr(made, name, object())
        assert getattr(made, name) is before


class Fading(continual.DER):
    def begin(self, task):
        self.alpha = 0.5 if task.index == 0 else 0.0
        super().begin(task)


def losses(strategy):
    tasks = [continual.Task(X, Y, X, Y, index) for index in (0, 1)]
    return [strategy.fit(task, epochs=3, batch_size=2)["loss"] for task in tasks]


def test_a_subclass_may_change_arguments_between_tasks(tmp_path):
    """They are read when they are used: the draws for a factor of 0 are left out.

    Files and representations tell what it was made with.
    """
    strategy = Fading(trainer(), buffer(), alpha=0.5)
    fading, steady = losses(strategy), losses(continual.DER(trainer(), buffer(), alpha=0.5))
    assert fading[0] == steady[0]
    assert fading[1] != steady[1]
    assert repr(strategy) == "Fading(Trainer(...), 5, alpha=0.5, beta=0)"
    strategy.save(tmp_path / "file")
    again, other = (Fading(trainer(), buffer(), alpha=alpha) for alpha in (0.5, 0.25))
    again.load(tmp_path / "file")
    assert again.trainer.evaluate(X, Y) == strategy.trainer.evaluate(X, Y)
    with pytest.raises(tw.ArgumentError, match=r"Fading\.alpha was 0\.5, now it is 0\.25"):
        other.load(tmp_path / "file")


class Grows(continual.ReservoirBuffer):
    def add(self, **columns):
        super().add(**columns)
        self.capacity += 2


def test_a_buffer_may_change_its_arguments_between_tasks(tmp_path):
    """A file tells what it was made with, and what they have become."""
    strategy, again = (continual.Replay(trainer(), Grows(2)) for _ in range(2))
    losses(strategy)
    strategy.save(tmp_path / "file")
    again.load(tmp_path / "file")
    assert again.buffer.capacity == strategy.buffer.capacity == 6
    assert losses(again) == losses(strategy)
    other = continual.Replay(trainer(), Grows(3))
    with pytest.raises(tw.ArgumentError, match=r"buffer\.capacity was 2, now it is 3"):
        other.load(tmp_path / "file")


def test_what_a_subclass_sets_in_its_constructor_is_what_it_was_made_with(tmp_path):
    class Own(continual.Replay):
        def __init__(self, inner, batch_size):
            super().__init__(inner, 20)
            self.batch_size = batch_size

    Own(trainer(), 3).save(tmp_path / "file")
    Own(trainer(), 3).load(tmp_path / "file")
    with pytest.raises(tw.ArgumentError, match=r"Own\.batch_size was 3, now it is 4"):
        Own(trainer(), 4).load(tmp_path / "file")


@pytest.mark.parametrize(
    "there",
    [property, functools.cached_property, lambda method: method, lambda method: 2],
    ids=["property", "cached property", "method", "value"],
)
@pytest.mark.parametrize(
    ("base", "name"),
    [
        (continual.Replay, "batch_size"), (continual.BalancedBuffer, "select"),
        (callbacks.ModelCheckpoint, "path"),
    ],
)  # fmt: skip
def test_a_subclass_defines_nothing_that_an_argument_would_hide(base, name, there):
    """Nor inherits it: the argument would be found instead."""
    mine = {name: there(lambda self: 2)}
    other = type("Other", (), mine)
    message = rf"^Own\.{name} needs another name: the argument {name} is kept under this one"
    for bases, body in (((base,), mine), ((other, base), {})):
        with pytest.raises(tw.ArgumentError, match=message):
            type("Own", bases, body)


def test_a_property_that_can_be_set_may_have_the_name_of_an_argument():
    class Few(continual.Replay):
        @property
        def batch_size(self):
            return self.kept

        @batch_size.setter
        def batch_size(self, value):
            self.kept = value or 2

    few, same = Few(trainer(), 5), continual.Replay(trainer(), 5, batch_size=2)
    assert losses(few) == losses(same)
    few.batch_size = 3
    assert few.batch_size == copy.deepcopy(few).batch_size == 3


def test_a_target_function_is_used_once_and_needs_no_pickle():
    bias = diagnostics.SpectralBias(WAVE, lambda x: np.sin(np.pi * x), [1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(bias)).y, np.sin(np.pi * WAVE))


@pytest.mark.parametrize("kind", [continual.AGEM, continual.DER, continual.ERACE, continual.Replay])
def test_a_step_needs_kept_rows_if_their_number_is_given(kind):
    with pytest.raises(tw.ArgumentError, match="batch_size must be an integer >= 1; got 0"):
        kind(trainer(), 5, batch_size=0)
