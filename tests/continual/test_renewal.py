"""Against the loss of plasticity."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import ContinualBackprop, ShrinkAndPerturb, _hidden_units, metrics
from thalweg.errors import ArgumentError, UnsupportedError


def make(optimizer=None, act=nn.ReLU, seed=1):
    model = nn.Sequential(
        nn.Linear(3, 8), act(), nn.Linear(8, 6), act(), nn.Linear(6, 2), dtype="float64", seed=seed
    )
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer or optim.SGD(lr=0.01))


def batches(rng, count):
    return [(rng.standard_normal((4, 3)), rng.standard_normal((4, 2))) for _ in range(count)]


def test_utilities_are_those_of_the_formula(rng):
    learner = ContinualBackprop(make(act=nn.Tanh), replacement_rate=0, decay=0.9)
    model, expected = learner.trainer.model, np.zeros(6)
    for x, y in batches(rng, 20):
        state = model.state_dict()
        h = np.tanh(x @ state["0.weight"].T + state["0.bias"])
        h = np.tanh(h @ state["2.weight"].T + state["2.bias"])
        learner.step(x, y)
        out = np.abs(model.state_dict()["4.weight"]).sum(axis=0)
        expected = 0.9 * expected + 0.1 * np.abs(h).mean(axis=0) * out
    np.testing.assert_allclose(learner.state_dict()["utility"][1], expected, rtol=1e-12)
    assert learner.replaced == 0


@pytest.mark.parametrize(
    "optimizer", [lambda: optim.SGD(lr=0.01, momentum=0.9), lambda: optim.Adam(lr=0.01)]
)
def test_the_least_useful_of_the_mature_units_begins_anew(optimizer, rng):
    """Rate 1/16 of 8 units: one every second step, once they have lived for 5.

    Units of tanh are never silent, so that the optimizer has gathered something about each.
    """
    begun = make(optimizer(), nn.Tanh)
    learner = ContinualBackprop(begun, replacement_rate=1 / 16, maturity=5, seed=3)
    twin = make(optimizer(), nn.Tanh)
    model = learner.trainer.model
    first, second = _hidden_units.hidden(model)
    for number, (x, y) in enumerate(batches(rng, 7)):
        if number == 6:
            utility = learner.state_dict()["utility"][0] * 0.99
        h = np.tanh(x @ model.state_dict()["0.weight"].T + model.state_dict()["0.bias"])
        learner.step(x, y)
        twin.step(x, y)
        if number < 6:  # none yet
            np.testing.assert_array_equal(model.flat_parameters, twin.model.flat_parameters)
    assert learner.replaced == 1
    before, after = twin.model.flat_parameters, model.flat_parameters
    out = np.abs(before[first.outgoing]).sum(axis=0)
    worst = int((utility + 0.01 * np.abs(h).mean(axis=0) * out).argmin())
    changed = np.flatnonzero(before != after)
    incoming = np.concatenate([places[worst].ravel() for places in first.incoming])
    allowed = np.concatenate([incoming, first.outgoing[:, worst]])
    assert set(incoming) <= set(changed) <= set(allowed)
    assert not after[first.outgoing[:, worst]].any()
    assert np.abs(after[incoming]).max() <= 1 / np.sqrt(3)  # as PyTorch draws them
    gathered = learner.trainer.optimizer.state_dict()["arrays"]
    of_twin = twin.optimizer.state_dict()["arrays"]
    assert gathered
    for name, array in gathered.items():
        assert of_twin[name][allowed].all()
        assert not array[allowed].any()
        assert array[second.outgoing].any()
    # It is safe again for as long as any new unit.
    assert learner.state_dict()["age"][0][worst] == 0


@pytest.mark.parametrize(
    ("groups", "renewed"),
    [({"0.weight": True}, 6), ({"4.*": True}, 8), ({"*": True, "0.*": False}, 0)],
)
def test_units_with_frozen_parameters_are_not_replaced(groups, renewed, rng):
    """Of 8 + 6 units, those that lead into a frozen matrix, or out of one, are left out."""
    trainer = make()
    for pattern, frozen in groups.items():
        trainer.optimizer.add_group(pattern, frozen=frozen)
    learner = ContinualBackprop(trainer, replacement_rate=1, maturity=0)
    before = trainer.model.state_dict()
    ((x, y),) = batches(rng, 1)
    learner.step(x, y)
    assert learner.replaced == renewed
    for name, array in trainer.model.state_dict().items():
        if groups.get(name) or groups.get(f"{name[0]}.*"):
            np.testing.assert_array_equal(array, before[name])


def test_several_units_of_a_layer_are_renewed_in_one_step_and_fractions_add_up(rng):
    """5/16 of 8 units are 2.5 per step, of 6 units 1.875."""
    learner = ContinualBackprop(make(), replacement_rate=5 / 16, maturity=0)
    replaced = []
    for x, y in batches(rng, 4):
        learner.step(x, y)
        replaced.append(learner.replaced)
    assert replaced == [2 + 1, 5 + 3, 7 + 5, 10 + 7]


#: What is no parameter, though a state has it: in front, between, and behind.
BESIDE = {
    "FourierFeatures": lambda: [nn.FourierFeatures(3, 4), nn.Linear(8, 6), nn.ReLU()],
    "Standardize": lambda: [
        nn.Standardize(np.ones(3), np.full(3, 2.0)), nn.Linear(3, 6), nn.ReLU(),
        nn.Standardize(np.ones(6), np.full(6, 2.0)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_units_are_found_beside_numbers_that_are_not_trained(name, rng):
    model = nn.Sequential(*BESIDE[name](), nn.Linear(6, 2), dtype="float64", seed=2)
    at = _hidden_units.places(model)
    state, theta = model.state_dict(), model.flat_parameters
    for key, places in at.items():
        np.testing.assert_array_equal(theta[places], state[key])
    [units] = _hidden_units.hidden(model)
    assert (units.width, units.outgoing.shape) == (6, (2, 6))
    x, y = rng.standard_normal((30, 3)), np.arange(30) % 2
    assert 0 <= metrics.plasticity(model, x).dead_units < 1
    for kind in (continual.XdG, continual.PackNet, lambda t: ContinualBackprop(t, maturity=2)):
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        kind(trainer).fit(continual.Task(x, y, x, y))


@pytest.mark.parametrize("kind", [continual.XdG, ContinualBackprop])
def test_waves_of_units_are_not_told_apart(kind):
    model = nn.Sequential(nn.Linear(3, 4), nn.FourierFeatures(4, 5), nn.Linear(10, 2))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    with pytest.raises(UnsupportedError, match="FourierFeatures mixes all hidden units"):
        kind(trainer)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_what_units_give_follows_a_model_that_is_trained(norm, rng):
    """Running averages too, which are no parameters."""
    model = nn.Sequential(
        nn.Linear(3, 8), norm(8), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 2)
    )
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    given = _hidden_units.Given(model, _hidden_units.hidden(model))
    x = rng.standard_normal((4, 3)).astype("float32")
    for _ in range(3):
        first, second = given(x)
        np.testing.assert_array_equal(first, model[:3](x))
        np.testing.assert_array_equal(second, model[3:5](first))
        theta = model.flat_parameters
        for units, name in zip(_hidden_units.hidden(model), ("3.weight", "5.weight"), strict=True):
            np.testing.assert_array_equal(units.weights_out(theta), model.state_dict()[name])
        trainer.step(x, np.ones((4, 2)))


def test_dead_units_come_back():
    """A network most of whose units give 0 for every sample uses all of them again."""

    def learn(wrap):
        rng = np.random.default_rng(0)
        model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 1), seed=1)
        state = model.state_dict()
        state["0.bias"][:36] = -20  # nothing reaches these
        model.load_state_dict(state)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.01))
        x = rng.standard_normal((400, 4))
        y = np.abs(x).sum(axis=1)
        before = metrics.plasticity(model, x)
        task = continual.Task(x, y, x, y)
        wrap(trainer).fit(task, epochs=60)
        return before, metrics.plasticity(model, x), trainer.evaluate(x, y)["loss"]

    before, plain, loss = learn(continual.Naive)
    assert before.dead_units == plain.dead_units == 0.9
    _, renewed, better = learn(lambda t: ContinualBackprop(t, replacement_rate=0.002, maturity=20))
    assert renewed.dead_units < 0.1
    assert renewed.effective_rank > 3 * plain.effective_rank
    assert better < loss / 3


def test_shrink_and_perturb_by_its_formula(rng):
    tasks = [continual.Task(x, y, x, y, k) for k, (x, y) in enumerate(batches(rng, 3))]
    strategy = ShrinkAndPerturb(make(), shrink=0.4, perturb=0.1, seed=7)
    model = strategy.trainer.model
    noises = []
    for task in tasks:
        before = model.flat_parameters
        strategy.begin(task)
        noises.append((model.flat_parameters - 0.4 * before) / 0.1)
        strategy.learn(task, steps=3)
        strategy.end(task)
    start = nn.Sequential(*model.layers, dtype="float64", seed=1).flat_parameters
    np.testing.assert_allclose(0.1 * noises[0] + 0.4 * start, start, rtol=1e-12)  # left alone
    for noise in noises[1:]:  # within the bounds of PyTorch's initial weights, and fills them
        weight = noise[_hidden_units.places(model)["2.weight"]]
        assert 0.85 < np.abs(weight).max() * np.sqrt(8) <= 1 + 1e-12
    assert not np.isclose(noises[1], noises[2]).any()


def test_frozen_parameters_are_neither_shrunk_nor_perturbed(rng):
    trainer = make(optim.SGD(lr=0.01).add_group("2.*", frozen=True))
    model = trainer.model
    strategy = ShrinkAndPerturb(trainer, shrink=0.5, perturb=0)
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    strategy.fit(continual.Task(x, y, x, y))
    before = model.state_dict()
    strategy.begin(continual.Task(x, y, x, y, 1))
    for name, array in model.state_dict().items():
        factor = 1 if name.startswith("2.") else 0.5
        np.testing.assert_array_equal(array, factor * before[name])


def test_its_ends_are_plain_training_and_a_new_network(scenario, trainer):
    plain, kept = trainer(), trainer()
    continual.run(plain, scenario)
    continual.run(ShrinkAndPerturb(kept, shrink=1, perturb=0), scenario)
    np.testing.assert_array_equal(kept.model.flat_parameters, plain.model.flat_parameters)
    strategy = ShrinkAndPerturb(trainer(), shrink=0, perturb=1)
    strategy.fit(scenario[0])
    strategy.begin(scenario[1])
    model = strategy.trainer.model
    assert np.abs(model.state_dict()["0.weight"]).max() <= 1 / np.sqrt(2)


STRATEGIES = {
    "ContinualBackprop": lambda t, s: ContinualBackprop(t, replacement_rate=0.05, maturity=3),
    "ShrinkAndPerturb": lambda t, s: ShrinkAndPerturb(t),
    "both": lambda t, s: ShrinkAndPerturb(ContinualBackprop(continual.Replay(t, 20))),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_stopped_and_resumed(name, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(STRATEGIES[name], scenario, trainer, tmp_path)


def test_what_is_wrong_is_said(trainer):
    for name, value in (("replacement_rate", 1.5), ("maturity", -1), ("decay", 1), ("seed", 0.5)):
        with pytest.raises(ArgumentError, match=name):
            ContinualBackprop(trainer(), **{name: value})
    for name, value in (("shrink", 1.1), ("perturb", -1), ("seed", "x")):
        with pytest.raises(ArgumentError, match=name):
            ShrinkAndPerturb(trainer(), **{name: value})
