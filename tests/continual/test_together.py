"""Penalties of several strategies, with losses, hooks and projections, beside loops in NumPy."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import EWC, L2Init, LwF, Strategy, SynapticIntelligence, Task

from .test_project import network, slope, unpacked
from .test_replay import Logged

RNG = np.random.default_rng(4)
TASKS = [
    Task(x, y, x, y, k)
    for k in range(3)
    for x, y in [(RNG.standard_normal((20, 3)), RNG.integers(0, 4, 20))]
]
LR, STEPS = 0.05, 6


class Held(Strategy):
    """Holds the biases of the first layer where the latest task has left them, by set_penalty."""

    def end(self, task):
        super().end(task)
        importance = self.trainer.model.unflatten(np.zeros(self.trainer.model.num_parameters))
        importance["0.bias"][:] = 3
        self.trainer.set_penalty(importance["0.bias"].base.ravel(), strength=0.5)


def trainer(**options):
    return network(optim.SGD(lr=LR), **options)


def all_rows(strategy, task, start=0, steps=STEPS):
    return strategy.learn(task, steps=steps, start=start, batch_size=20, shuffle=False)


def outputs(theta, x):
    w, u, v, t = unpacked(theta)
    return np.tanh(x @ w.T + u) @ v.T + t


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def fisher(theta, x):
    """The diagonal of the Fisher information, sample by sample and class by class."""
    total = np.zeros(len(theta))
    for row in x:
        p = softmax(outputs(theta, row[None]))[0]
        for y in range(4):
            total += p[y] * slope(theta, row[None], [y]) ** 2
    return total / len(x)


def by_hand(theta, kinds, tasks):
    """Learn with a list of penalties (A, a, s), each added where its formula says so."""
    start, ones = theta, np.ones(len(theta))
    terms, values = {kind: [] for kind in kinds}, []
    omega = np.zeros(len(theta))
    biases = slice(3 * 8, 3 * 8 + 8)
    for task in tasks:
        if "L2Init" in kinds:
            terms["L2Init"] = [(ones, start, 0.3)]
        begin, path = theta, np.zeros(len(theta))
        for _ in range(STEPS):
            g = slope(theta, task.x, task.y)
            pulls = [s * a * (theta - at) for found in terms.values() for a, at, s in found]
            move = -LR * (g + sum(pulls))
            path -= g * move
            theta = theta + move
        values.append(
            sum(s / 2 * a @ (theta - at) ** 2 for found in terms.values() for a, at, s in found)
        )
        if "EWC" in kinds:
            terms["EWC"] = [*terms["EWC"], (fisher(theta, task.x), theta, 50.0)]
        if "SI" in kinds:
            omega = omega + path / ((theta - begin) ** 2 + 0.1)
            terms["SI"] = [(omega, theta, 2 * 4.0)]
        if "Held" in kinds:
            importance = np.zeros(len(theta))
            importance[biases] = 3
            terms["Held"] = [(importance, theta, 0.5)]
    return theta, values


MAKE = {
    "L2Init": lambda inner: L2Init(inner, 0.3),
    "EWC": lambda inner: EWC(inner, 50.0),
    "SI": lambda inner: SynapticIntelligence(inner, 4.0),
    "Held": Held,
}
CHAINS = [
    ("L2Init", "EWC"), ("EWC", "L2Init"), ("SI", "EWC"), ("EWC", "Held"), ("Held", "EWC"),
    ("L2Init", "SI", "Held"), ("SI", "L2Init", "EWC", "Held"),
]  # fmt: skip


def chain(names, inner=None):
    strategy = inner or trainer()
    for name in reversed(names):
        strategy = MAKE[name](strategy)
    return strategy


@pytest.mark.parametrize("names", CHAINS, ids="-".join)
@pytest.mark.filterwarnings("ignore:the penalty of")
def test_penalties_of_strategies_add_up(names):
    strategy = chain(names)
    model = strategy.trainer.model
    wanted, values = by_hand(model.flat_parameters, names, TASKS)
    for number, (task, value) in enumerate(zip(TASKS, values, strict=True)):
        strategy.begin(task)
        history = all_rows(strategy, task)
        if number < 2 or "EWC" not in names:  # EWC leaves out a constant where it has two tasks
            assert strategy.trainer.penalty == pytest.approx(value, rel=1e-10)
            assert history.get("penalty", [0])[-1] == strategy.trainer.penalty
        strategy.end(task)
    np.testing.assert_allclose(model.flat_parameters, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "file"])
@pytest.mark.filterwarnings("ignore:the penalty of")
def test_a_chain_of_penalties_goes_on_to_the_bit(way, tmp_path):
    names = ("SI", "L2Init", "EWC", "Held")
    strategy = chain(names)
    strategy.fit(TASKS[0], steps=STEPS)
    strategy.begin(TASKS[1])
    all_rows(strategy, TASKS[1], steps=2)
    if way == "file":
        strategy.save(tmp_path / "strategy")
        twin = chain(names)
        twin.load(tmp_path / "strategy")
    else:
        twin = (
            copy.deepcopy(strategy) if way == "deepcopy" else pickle.loads(pickle.dumps(strategy))
        )
    for one in (strategy, twin):
        all_rows(one, TASKS[1], start=2)
        one.end(TASKS[1])
        one.fit(TASKS[2], steps=3)
    assert twin.trainer.penalty == strategy.trainer.penalty > 0
    found, wanted = (one.trainer.model.flat_parameters for one in (twin, strategy))
    np.testing.assert_array_equal(found, wanted)


def test_a_task_that_fails_leaves_all_penalties_as_they_were():
    strategy = chain(("L2Init", "EWC", "Held"))
    strategy.fit(TASKS[0], steps=STEPS)
    before = strategy.trainer.penalty
    terms = strategy.trainer._core.penalty()
    strategy.trainer.optimizer.lr = 1e200
    with pytest.raises(tw.DivergedError), pytest.warns(UserWarning, match="rate is 1e"):
        strategy.fit(TASKS[1], steps=STEPS)
    assert strategy.trainer.penalty == before
    for one, other in zip(strategy.trainer._core.penalty(), terms, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_penalty_has_its_own_strength_and_ratio():
    """The warning about one that hardly matters is not silenced by another that does."""
    ewc = EWC(trainer(), 1e-9)
    strategy = L2Init(ewc, 10.0)
    strategy.fit(TASKS[0], steps=STEPS)
    with pytest.warns(UserWarning, match=r"penalty of EWC was .*strength=1e-09 is too small"):
        strategy.fit(TASKS[1], steps=STEPS)
    theta = strategy.trainer.model.flat_parameters
    strategy.begin(TASKS[2])
    loss = all_rows(strategy, TASKS[2], steps=1)["loss"][-1]
    moved = strategy.trainer.model.flat_parameters
    own = [0.5 * s.strength * s.importance @ (moved - s.anchor) ** 2 for s in (ewc, strategy)]
    assert ewc.ratios[-1] == pytest.approx(own[0] / loss, rel=1e-9)
    assert strategy.ratios[-1] == pytest.approx(own[1] / loss, rel=1e-9)
    ewc.strength = 7.0  # that of the inner one leaves the outer one's
    wanted = slope(moved, TASKS[2].x, TASKS[2].y) + 10 * (moved - strategy.anchor)
    wanted += 7 * ewc.importance * (moved - ewc.anchor)
    all_rows(strategy, TASKS[2], start=1, steps=1)
    found = (moved - strategy.trainer.model.flat_parameters) / LR
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    assert not np.array_equal(theta, moved)


@pytest.mark.parametrize("make", [lambda s: EWC(Logged(s), 1e-9), lambda s: Logged(EWC(s, 1e-9))])
def test_a_penalty_that_hardly_matters_is_warned_about_around_any_step(make):
    strategy = make(trainer())
    ewc = strategy if isinstance(strategy, EWC) else strategy.inner
    strategy.fit(TASKS[0], steps=STEPS)
    strategy.begin(TASKS[1])
    loss = all_rows(strategy, TASKS[1])["loss"][-1]
    moved = strategy.trainer.model.flat_parameters - ewc.anchor
    ratio = 1e-9 / 2 * ewc.importance @ moved**2 / loss
    with pytest.warns(UserWarning, match=r"penalty of EWC was .*strength=1e-09 is too small"):
        strategy.end(TASKS[1])
    assert ewc.ratios == [pytest.approx(ratio, rel=1e-9)]


def test_penalties_that_cancel_out_leave_a_slope():
    """An importance of -2, as in synaptic intelligence, with one of 2 elsewhere."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    model.flat_parameters = np.zeros(1)
    it = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.5))
    it.set_penalty([2.0], [1.0])
    it._pull(0, (np.array([-2.0]), np.array([4.0]), 1.0))
    it.step([[0.0]], [0.0])
    # The slope of (w - 1)^2 - (w - 4)^2 is 6 everywhere.
    assert model.flat_parameters[0] == pytest.approx(-3.0, rel=1e-12)
    it._pull(0, (np.array([-1.5]), np.array([4.0]), 1.0))
    assert it.penalty == pytest.approx(16 - 0.75 * 49, rel=1e-12)


def test_a_trainer_is_saved_with_all_penalties(tmp_path):
    it = chain(("L2Init", "EWC", "Held"))
    it.fit(TASKS[0], steps=STEPS)
    it.trainer.model.flat_parameters = it.trainer.model.flat_parameters + 0.1
    it.trainer.save(tmp_path / "trainer")
    for other in (tw.Trainer.load(tmp_path / "trainer"), it.trainer.copy()):
        assert other.penalty == it.trainer.penalty > 0
    it.trainer.set_penalty(None)
    assert it.trainer.penalty == 0


def lwf_slope(theta, task, old):
    """Of the loss of LwF on the second task of a domain, with T = 2 and strength 1."""
    z = outputs(theta, task.x)
    d = (softmax(z) - np.eye(4)[task.y]) / len(z)
    d += (softmax(z / 2) - softmax(outputs(old, task.x) / 2)) / (2 * len(z))
    return slope(theta, task.x, task.y, d)


@pytest.mark.parametrize("outer", ["EWC", "SI"])
def test_a_penalty_around_a_strategy_with_its_own_loss(outer):
    strategy = chain((outer,), LwF(trainer()))
    model = strategy.trainer.model
    theta, path = model.flat_parameters, 0
    start = theta
    for _ in range(STEPS):
        g = slope(theta, TASKS[0].x, TASKS[0].y)
        path, theta = path + LR * g**2, theta - LR * g
    old = anchor = theta
    a, s = fisher(theta, TASKS[0].x), 50.0
    if outer == "SI":
        a, s = path / ((theta - start) ** 2 + 0.1), 8.0
    for _ in range(STEPS):
        theta = theta - LR * (lwf_slope(theta, TASKS[1], old) + s * a * (theta - anchor))
    strategy.begin(TASKS[0])
    all_rows(strategy, TASKS[0])
    strategy.end(TASKS[0])
    strategy.begin(TASKS[1])
    history = all_rows(strategy, TASKS[1])
    np.testing.assert_allclose(model.flat_parameters, theta, rtol=1e-10, atol=1e-13)
    value = s / 2 * a @ (theta - anchor) ** 2
    assert strategy.trainer.penalty == pytest.approx(value, rel=1e-9)
    assert history["penalty"] == [strategy.trainer.penalty]


def test_a_penalty_around_a_strategy_that_takes_single_steps():
    """DER with all samples kept, so that draws are in any order the same."""
    strategy = EWC(continual.DERpp(trainer(), 40, alpha=0.2, beta=0.5, batch_size=99), 50.0)
    model = strategy.trainer.model
    strategy.begin(TASKS[0])
    strategy.step(TASKS[0].x, TASKS[0].y)
    strategy.end(TASKS[0])
    anchor = theta = model.flat_parameters
    a, kept = fisher(theta, TASKS[0].x), strategy.trainer and strategy.inner.buffer.rows()
    z = outputs(theta, kept["x"])
    g = slope(theta, TASKS[1].x, TASKS[1].y) + 0.5 * slope(theta, kept["x"], kept["y"])
    g += slope(theta, kept["x"], kept["y"], 0.2 * 2 * (z - kept["logits"]) / z.size)
    strategy.begin(TASKS[1])
    strategy.step(TASKS[1].x, TASKS[1].y)
    np.testing.assert_allclose(model.flat_parameters, theta - LR * g, rtol=1e-10, atol=1e-13)
    # Now the penalty pulls, too; the kept samples of the second task take part from now on.
    theta, kept = model.flat_parameters, strategy.inner.buffer.rows()
    z = outputs(theta, kept["x"])
    g = slope(theta, TASKS[1].x, TASKS[1].y) + 0.5 * slope(theta, kept["x"], kept["y"])
    g += slope(theta, kept["x"], kept["y"], 0.2 * 2 * (z - kept["logits"]) / z.size)
    g += 50 * a * (theta - anchor)
    strategy.step(TASKS[1].x, TASKS[1].y)
    np.testing.assert_allclose(model.flat_parameters, theta - LR * g, rtol=1e-10, atol=1e-13)


def test_gradients_of_a_strategy_with_its_own_loss_are_projected():
    strategy = continual.AGEM(LwF(trainer()), 20, batch_size=99)
    model = strategy.trainer.model
    strategy.fit(TASKS[0], steps=60)
    old = theta = model.flat_parameters
    opposite = Task(TASKS[0].x, (TASKS[0].y + 1) % 4, TASKS[0].x, TASKS[0].y, 1)
    for _ in range(STEPS):
        g, ref = lwf_slope(theta, opposite, old), slope(theta, TASKS[0].x, TASKS[0].y)
        theta = theta - LR * (g - min(0, g @ ref) / (ref @ ref) * ref)
    strategy.begin(opposite)
    history = all_rows(strategy, opposite)
    np.testing.assert_allclose(model.flat_parameters, theta, rtol=1e-9, atol=1e-12)
    assert history["projected"] == [1.0]


@pytest.mark.filterwarnings("ignore:the penalty of FROMP")  # which is 0 if nothing moves
@pytest.mark.parametrize(
    "make",
    [
        LwF, lambda t: continual.DERpp(t, 20), lambda t: continual.ERACE(t, 20),
        lambda t: continual.FROMP(t, 5, 1.0), lambda t: continual.Replay(t, 20),
    ],
)  # fmt: skip
def test_hooks_around_strategies_with_their_own_loss(make):
    """Each step calls all hooks, in every task, and its update uses what the last one returns."""

    class Frozen(Strategy):
        calls = 0

        def nothing(self, gradient):
            self.calls += 1
            return 0 * gradient

        def learn(self, task, **options):
            with self.trainer.gradient_hook(self.nothing):
                return super().learn(task, **options)

    strategy = Frozen(make(trainer()))
    before = strategy.trainer.model.flat_parameters
    for number, task in enumerate(TASKS):
        strategy.fit(task, epochs=2, batch_size=5)
        assert strategy.calls == 8 * (number + 1)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    strategy.inner.fit(TASKS[0])  # and none after the block has ended
    assert strategy.calls == 24
    assert not np.array_equal(strategy.trainer.model.flat_parameters, before)


@pytest.mark.parametrize("make", [LwF, lambda t: continual.DERpp(t, 20)])
def test_a_hook_changes_the_gradient_of_a_strategy_s_own_loss(make):
    plain, hooked = make(trainer()), make(trainer())
    hooked.trainer.optimizer.lr = LR / 2
    plain.fit(TASKS[0], epochs=2)
    plain.fit(TASKS[1], epochs=2)
    with hooked.trainer.gradient_hook(lambda g: 2 * g):
        hooked.fit(TASKS[0], epochs=2)
        hooked.fit(TASKS[1], epochs=2)
    found, wanted = (one.trainer.model.flat_parameters for one in (hooked, plain))
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("make", [LwF, lambda t: continual.DERpp(t, 20)])
def test_the_average_follows_a_strategy_s_own_loss(make):
    strategy = make(trainer(average=optim.EMA(0.8)))
    model = strategy.trainer.model
    average = None
    for task in TASKS[:2]:
        strategy.begin(task)
        for step in range(4):
            all_rows(strategy, task, start=step, steps=1)
            theta = model.flat_parameters
            average = theta if average is None else 0.8 * average + 0.2 * theta
        strategy.end(task)
    found = strategy.trainer.average_model().flat_parameters
    np.testing.assert_allclose(found, average, rtol=1e-12, atol=1e-14)


def test_what_belongs_to_earlier_tasks_stays_with_a_loss_of_its_own():
    """Masks are in the core, as penalties are."""
    strategy = continual.PackNet(LwF(trainer()))
    strategy.fit(TASKS[0], epochs=3)
    owned, before = strategy.owner == 0, strategy.trainer.model.flat_parameters
    strategy.fit(TASKS[1], epochs=3)
    after = strategy.trainer.model.flat_parameters
    assert owned.any()
    np.testing.assert_array_equal(after[owned], before[owned])
    assert not np.array_equal(after, before)


class Removes(Strategy):
    """Ends its penalty at some point, as if there were no other."""

    def __init__(self, inner, when):
        super().__init__(inner)
        self.when = when

    def begin(self, task):
        super().begin(task)
        if self.when == "begin":
            self.trainer.set_penalty(None)

    def learn(self, task, **options):
        if self.when == "learn":
            self.trainer.set_penalty(None)
        return super().learn(task, **options)


def test_a_strategy_that_ends_its_penalty_when_a_task_begins_ends_no_other():
    plain, other = EWC(trainer(), 50.0), EWC(Removes(trainer(), "begin"), 50.0)
    for strategy in (plain, other):
        for task in TASKS:
            strategy.fit(task, steps=STEPS)
    found, wanted = (one.trainer.model.flat_parameters for one in (other, plain))
    np.testing.assert_array_equal(found, wanted)


def test_a_penalty_that_is_removed_while_a_task_is_learned_is_not_lost_silently():
    strategy = EWC(Removes(trainer(), "learn"), 50.0)
    strategy.fit(TASKS[0], steps=STEPS)
    before, penalty = strategy.trainer.model.flat_parameters, strategy.trainer._core.penalty()
    with pytest.raises(tw.UnsupportedError, match=r"set_penalty\(None\) has removed it"):
        strategy.fit(TASKS[1], steps=STEPS)
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    for one, other in zip(strategy.trainer._core.penalty(), penalty, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("joins", [continual.Cumulative, continual.Joint])
def test_penalties_may_be_around_and_inside_a_strategy_that_passes_on_another_task(joins):
    """The penalty outside was taken for one that others have left, at the second task."""
    scenario, found = continual.Scenario(TASKS), []
    for make in (
        lambda t: L2Init(joins(EWC(t, 5.0), scenario), 0.1),
        lambda t: joins(L2Init(EWC(t, 5.0), 0.1), scenario),
    ):
        strategy = make(trainer())
        continual.run(strategy, scenario, steps=STEPS)
        assert len(strategy.trainer._penalties.terms) == 2
        found.append(strategy.trainer.model.flat_parameters)
    np.testing.assert_array_equal(*found)


def test_a_penalty_that_others_have_left_is_refused():
    """One strategy's penalty would count in the place of, or besides, another's."""
    mine = trainer()
    EWC(continual.Naive(mine), 1.0).fit(TASKS[0], steps=2)
    before = mine.model.flat_parameters
    for strategy in (EWC(mine, 1.0), L2Init(continual.Naive(mine), 1.0)):
        with pytest.raises(tw.UnsupportedError, match=r"not the one of this .*set_penalty\(None\)"):
            strategy.fit(TASKS[1], steps=2)
        np.testing.assert_array_equal(mine.model.flat_parameters, before)
    mine.set_penalty(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        L2Init(mine, 1.0).fit(TASKS[1], steps=2)
