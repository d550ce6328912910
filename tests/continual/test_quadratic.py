"""Strategies that pull parameters back, beside closed forms and hand-made examples."""

import copy
import functools
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import EWC, L2, MAS, L2Init, OnlineEWC, SynapticIntelligence, Task

from ..helpers import accuracy_on_permuted_digits, off, squares


def linear(d, lr=0.05, **options):
    model = nn.Sequential(nn.Linear(d, 1, bias=False), dtype="float64", seed=1)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=lr), **options)


def task(x, y, index=0, **options):
    return Task(x, y, x, y, index, **options)


def regressions(rng, rotate):
    """Two linear tasks; with `rotate`, in coordinates where the first one's Hessian is diagonal."""
    mix = np.eye(5) + 0.3 * rng.standard_normal((5, 5))
    xs = [rng.standard_normal((60, 5)) @ mix, rng.standard_normal((60, 5))]
    if rotate:
        axes = np.linalg.eigh(xs[0].T @ xs[0])[1]
        xs = [x @ axes for x in xs]
    return [(x, x @ rng.standard_normal(5) + rng.standard_normal(60)) for x in xs]


def learn_by_ewc(tasks):
    # The Fisher information has variance 1, the loss no half: twice as strong is the same.
    ewc = EWC(linear(5, lr=0.1), strength=2)
    for index, (x, y) in enumerate(tasks):
        ewc.fit(task(x, y, index), epochs=4000, batch_size=60)
    return ewc.trainer.model.flat_parameters


def joint(tasks):
    x, y = (np.concatenate(parts) for parts in zip(*tasks, strict=True))
    return np.linalg.lstsq(x, y)[0]


def test_with_the_whole_hessian_it_is_as_if_tasks_were_learned_together(rng):
    tasks = regressions(rng, rotate=True)
    assert off(learn_by_ewc(tasks), joint(tasks)) < 1e-12
    tasks = regressions(rng, rotate=False)  # the diagonal is not all of it
    assert off(learn_by_ewc(tasks), joint(tasks)) > 0.02


def test_any_number_of_tasks_is_one_penalty(rng):
    ewc, terms = EWC(linear(4), strength=3.0), []
    model = ewc.trainer.model
    for index in range(4):
        x, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
        ewc.fit(task(x, y, index), epochs=2)
        terms.append(((x**2).mean(axis=0), model.flat_parameters))

    def penalty(theta):
        model.flat_parameters = theta
        return ewc.trainer.penalty, sum(1.5 * np.sum(f * (theta - a) ** 2) for f, a in terms)

    found, expected = np.array([penalty(rng.standard_normal(4)) for _ in range(5)]).T
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-12)  # but for a constant


def test_online_ewc_lets_old_tasks_fade(rng):
    xs = [rng.standard_normal((30, 4)) for _ in range(3)]
    f = [(x**2).mean(axis=0) for x in xs]
    for convention, factor in (("paper", 0.5 * 0.5), ("avalanche", 1.0), ("mammoth", 1.0)):
        ewc = OnlineEWC(linear(4), strength=3.0, decay=0.5, convention=convention, fisher="exact")
        for index, x in enumerate(xs):
            ewc.fit(task(x, rng.standard_normal(30), index))
        expected = f[2] + 0.5 * (f[1] + 0.5 * f[0])
        np.testing.assert_allclose(ewc.importance, expected, rtol=1e-12)
        last = ewc.trainer.model.flat_parameters
        np.testing.assert_array_equal(ewc.anchor, last)
        ewc.trainer.model.flat_parameters = last + 2
        assert ewc.trainer.penalty == pytest.approx(factor * 3 * 4 * expected.sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("convention", "factor"), [("paper", 0.5), ("avalanche", 1), ("mammoth", 1)]
)
def test_ewc_by_the_name_of_its_convention(convention, factor, rng):
    ewc = EWC(linear(1), strength=7.0, convention=convention, fisher="exact")
    ewc.fit(task([[2.0]], [1.0]))
    ewc.trainer.model.flat_parameters = ewc.trainer.model.flat_parameters + 0.5
    assert ewc.trainer.penalty == pytest.approx(factor * 7 * 4 * 0.25, rel=1e-12)


def classifier(batch_norm=False, loss=None):
    middle = [nn.BatchNorm1d(5)] if batch_norm else []
    model = nn.Sequential(
        nn.Linear(4, 5), *middle, nn.Tanh(), nn.Linear(5, 3), dtype="float64", seed=2
    )
    return tw.Trainer(model, loss=loss or nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))


def test_ewc_by_the_code_of_avalanche_and_mammoth(rng):
    """Their loops, with the gradients of `Trainer.backward`; the last batch is short."""
    x, y = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)

    def gradient(trainer, rows):
        trainer.model.zero_grad()
        trainer.backward(x[rows], y[rows])
        return trainer.model.flat_gradients

    for online in (False, True):
        for convention in ("avalanche", "mammoth"):
            options = {"batch_size": 16, "convention": convention}
            kind, more = (OnlineEWC, {"decay": 0.5}) if online else (EWC, {})
            ewc = kind(classifier(), 3.0, **options, **more)
            model, terms = ewc.trainer.model, []
            for index in range(2):
                ewc.fit(task(x, y, index), epochs=2)
                if convention == "avalanche":  # training/plugins/ewc.py: compute_importances
                    parts = [np.arange(50)[i : i + 16] for i in range(0, 50, 16)]
                    fisher = sum(gradient(ewc.trainer, rows) ** 2 for rows in parts) / len(parts)
                else:  # models/ewc_on.py: end_task, but divided by the number of samples
                    logits = model(x)
                    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                    weights = p[np.arange(50), y]
                    one = [gradient(ewc.trainer, np.array([row])) ** 2 for row in range(50)]
                    fisher = weights @ np.array(one) / 50
                terms.append((fisher, model.flat_parameters))

            def penalty(theta, model=model, terms=terms, ewc=ewc, online=online):
                model.flat_parameters = theta
                if online:
                    (old, _), (new, anchor) = terms
                    return ewc.trainer.penalty, 3 * (new + 0.5 * old) @ (theta - anchor) ** 2
                return ewc.trainer.penalty, sum(3 * f @ (theta - a) ** 2 for f, a in terms)

            n = model.num_parameters
            found, expected = np.array([penalty(rng.standard_normal(n)) for _ in range(4)]).T
            np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-10)


@pytest.mark.parametrize("fisher", ["weighted", "predicted"])
def test_a_fisher_information_of_classes_is_refused_for_numbers(fisher):
    """Before the first task, not at its end."""
    with pytest.raises(tw.UnsupportedError, match=f'fisher="{fisher}" .*(class|CrossEntropy)'):
        EWC(classifier(loss=nn.MSELoss()), 1.0, fisher=fisher)


@pytest.mark.parametrize("options", [{"n_samples": 0}, {"batch_size": 0}, {"seed": -1}])
def test_options_of_the_fisher_information_are_looked_at_first(options):
    name = next(iter(options))
    with pytest.raises(tw.ArgumentError, match=name):
        EWC(classifier(), 1.0, **options)


@pytest.mark.filterwarnings("ignore:the penalty of MAS")
def test_mas_by_the_code_of_avalanche(rng):
    """training/plugins/mas.py: sizes of batches' mean slopes, and an average over tasks."""
    mas = MAS(classifier(), strength=2.0, convention="avalanche", batch_size=16)
    model, expected = mas.trainer.model, None
    for index in range(3):
        x = rng.standard_normal((40, 4))
        mas.fit(task(x, rng.integers(0, 3, 40), index))
        total = 0.0
        for rows in (x[:16], x[16:32], x[32:]):
            model.zero_grad()
            model.backward(2 * model.forward(rows, training=True) / len(rows))
            total = total + np.abs(model.flat_gradients)
        expected = total / 3 if expected is None else 0.5 * expected + 0.5 * total / 3
        np.testing.assert_allclose(mas.importance, expected, rtol=1e-10)
        np.testing.assert_array_equal(mas.anchor, model.flat_parameters)
    model.flat_parameters = mas.anchor + 1
    assert mas.trainer.penalty == pytest.approx(2 * expected.sum(), rel=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: EWC(t, strength=10.0), continual.LwF, continual.XdG, continual.PackNet,
        lambda t: continual.GEM(t, 9), lambda t: continual.AGEM(t, 9),
        lambda t: continual.XdG(SynapticIntelligence(t, 1e3)),
    ],
    ids=["EWC", "LwF", "XdG", "PackNet", "GEM", "AGEM", "both"],
)  # fmt: skip
def test_running_averages_that_nothing_holds_are_warned_about_once(make, rng):
    tasks = [task(rng.standard_normal((40, 4)), rng.integers(0, 3, 40), k) for k in range(3)]
    strategy = make(classifier(batch_norm=True))
    strategy.fit(tasks[0])
    with pytest.warns(UserWarning, match=r"running averages of nn\.BatchNorm1d") as caught:
        strategy.fit(tasks[1])
    assert len(caught) == 1
    strategy.fit(tasks[2])  # warnings are errors
    plain = make(classifier())
    for one in tasks:
        plain.fit(one)


@pytest.mark.parametrize(
    ("convention", "strength", "why"),
    [
        ("paper", 100, "decay=0 is the cause"),
        ("avalanche", 1e-9, "strength=1e-09 is too small"),
    ],
)
def test_a_decay_of_0_leaves_no_penalty_and_that_is_said(convention, strength, why, rng):
    """In the paper's formula; others leave that of the latest task."""
    one = task(rng.standard_normal((40, 4)), rng.integers(0, 3, 40), 0)
    strategy = continual.OnlineEWC(classifier(), strength, decay=0, convention=convention)
    strategy.fit(one)
    with pytest.warns(UserWarning, match=f"the penalty of OnlineEWC was .*{why}"):
        strategy.fit(one)


def test_a_strength_for_another_fisher_information_does_nothing_and_that_is_said(rng):
    """The same strength, with "batched" instead of "empirical": sizes are far apart."""
    x, y = rng.standard_normal((512, 4)), rng.integers(0, 3, 512)
    sizes = {
        kind: continual.fisher_diagonal(classifier().model, x, y, kind=kind, batch_size=128).mean()
        for kind in ("empirical", "batched")
    }
    assert sizes["empirical"] > 10 * sizes["batched"]
    ewc = EWC(classifier(), strength=1e-3, fisher="batched")
    ewc.fit(task(x, y))
    with pytest.warns(UserWarning, match=r'from fisher="batched"; .* needs a strength of its own'):
        ewc.fit(task(-x, y, 1))


@pytest.mark.filterwarnings("ignore:the penalty of MAS")  # nothing moves here
def test_mas_by_hand():
    """f = w x: the slope of its square by w is 2 w x^2; x is 1 and 3, w stays 0.5."""
    mas = MAS(linear(1, lr=0.0), strength=2.0)
    mas.trainer.model.flat_parameters = np.array([-0.5])
    mas.fit(task([[1.0], [3.0]], [0.0, 0.0]))
    np.testing.assert_allclose(mas.importance, [(1 + 9) / 2], rtol=1e-12)
    mas.fit(task([[2.0]], [0.0], 1))
    np.testing.assert_allclose(mas.importance, [5 + 4], rtol=1e-12)
    mas.trainer.model.flat_parameters = np.array([0.5])
    assert mas.trainer.penalty == pytest.approx(2 * 9 * 1.0, rel=1e-12)


def test_mas_of_a_network_is_the_mean_size_of_each_sample_s_slope(rng):
    model = nn.Sequential(nn.Linear(3, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 2),
                          dtype="float64")  # fmt: skip
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.0))
    x = rng.standard_normal((8, 3))
    sizes = []
    for row in x:
        model.zero_grad()
        model.backward(2 * model.forward(row[None], training=True))
        sizes.append(np.abs(model.flat_gradients))
    mas = MAS(trainer, strength=1.0)
    mas.fit(task(x, np.zeros((8, 2))))
    assert off(mas.importance, np.mean(sizes, axis=0)) < 1e-12


def by_hand(xs, c, xi, with_penalty, lr=0.05):
    """Synaptic intelligence on f = w x, y = 1, one row and 5 steps a task."""
    w, omega, anchor = 0.25, 0.0, 0.0
    for x in xs:
        path, start = 0.0, w
        for _ in range(5):
            task_slope, pull = 2 * x * (w * x - 1), 2 * c * omega * (w - anchor)
            step = -lr * (task_slope + pull)
            path -= (task_slope + (pull if with_penalty else 0)) * step
            w += step
        omega, anchor = omega + path / ((w - start) ** 2 + xi), w
    return w, omega


@pytest.mark.parametrize("convention", ["paper", "van_de_ven"])
def test_synaptic_intelligence_by_hand(convention):
    si = SynapticIntelligence(linear(1), strength=3.0, xi=0.1, convention=convention)
    si.trainer.model.flat_parameters = np.array([0.25])
    xs = (1.0, 2.0, 0.5)
    for index, x in enumerate(xs):
        si.fit(task([[x]], [1.0], index), epochs=5)
    w, omega = by_hand(xs, 3.0, 0.1, convention == "van_de_ven")
    np.testing.assert_allclose(si.trainer.model.flat_parameters, [w], rtol=1e-12)
    np.testing.assert_allclose(si.importance, [omega], rtol=1e-12)


def avalanche(tasks, theta, strength, eps, lr=0.05, momentum=0.9, epochs=5):
    """training/plugins/synaptic_intelligence.py, callback by callback, on f = theta x.

    The gradient that a step leaves behind is that of the loss to which `before_backward` has added
    the penalty; signs are as there.
    """
    importance, minimum, total, velocity = (np.zeros_like(theta) for _ in range(4))
    for x, y in tasks:
        minimum, trajectory = theta.copy(), np.zeros_like(theta)  # before_training_exp
        for _ in range(epochs):
            old = theta.copy()  # before_training_iteration
            gradient = 2 * x.T @ (x @ theta - y) / len(y)
            gradient += strength / 2 * importance * 2 * (theta - minimum)  # before_backward
            velocity = momentum * velocity + gradient
            theta = theta - lr * velocity
            trajectory += gradient * (theta - old)  # after_training_iteration
        total += trajectory / (np.square(theta - minimum) + eps)  # after_training_exp
        importance = np.minimum(-total, 0.001)
    return theta, importance


@pytest.mark.parametrize("xi", [None, 2e3])
def test_synaptic_intelligence_by_the_code_of_avalanche(xi, rng):
    """Its eps is 1e-7; importances of both signs, some of them at the bound."""
    tasks = [(rng.standard_normal((6, 4)), rng.standard_normal(6)) for _ in range(5)]
    model = nn.Sequential(nn.Linear(4, 1, bias=False), dtype="float64", seed=1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05, momentum=0.9))
    si = SynapticIntelligence(trainer, strength=500.0, xi=xi, convention="avalanche")
    start, bounded = model.flat_parameters, []
    for index, (x, y) in enumerate(tasks):
        si.fit(task(x, y, index), epochs=5, batch_size=6)
        bounded.append(si.importance == 0.001)
        theta, importance = avalanche(tasks[: index + 1], start, 500.0, 1e-7 if xi is None else xi)
        np.testing.assert_allclose(model.flat_parameters, theta, rtol=1e-9)
        np.testing.assert_allclose(si.importance, importance, rtol=1e-9)
    assert np.any(bounded)
    assert not np.all(bounded)


def test_l2_keeps_the_end_and_l2_init_the_beginning(rng):
    one, two = (task(rng.standard_normal((20, 4)), rng.standard_normal(20), k) for k in (0, 1))
    l2, init = L2(linear(4), strength=0.5), L2Init(linear(4), strength=0.5)
    start = init.trainer.model.flat_parameters
    assert l2.fit(one).get("penalty") is None
    end = l2.trainer.model.flat_parameters
    assert init.fit(one)["penalty"][-1] > 0
    for strategy, anchor in ((l2, end), (init, start)):
        strategy.fit(two)
        if strategy is init:
            d = strategy.trainer.model.flat_parameters - anchor
            assert strategy.trainer.penalty == pytest.approx(0.25 * d @ d, rel=1e-12)
        else:
            assert strategy.trainer.penalty == 0  # the anchor has moved to the end of this one


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("first", ["step", "begin"])
def test_l2_init_needs_no_tasks(first, optimizer, rng):
    """On a stream, it pulls to the parameters at the first step, or at `begin` if that is first."""
    xs, ys, strength = rng.standard_normal((30, 5, 4)), rng.standard_normal((30, 5)), 1.5
    trainer = linear(4)
    if optimizer == "Adam":
        trainer = tw.Trainer(trainer.model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.05))
    init, model = L2Init(trainer, strength), trainer.model
    trainer.step(xs[0], ys[0])  # not by the strategy
    start = theta = model.flat_parameters.copy()
    mean, square = np.zeros(4), np.zeros(4)
    if first == "begin":
        init.begin(task(xs[0], ys[0]))
    else:
        with pytest.raises(tw.ShapeError):
            init.step(xs[0, :, :3], ys[0])
        assert init.anchor is None  # a step that is refused has changed nothing
    if optimizer == "Adam":
        gathered = trainer.optimizer.state_dict()["arrays"]
        mean, square = (np.array(gathered[name]) for name in ("exp_avg", "exp_avg_sq"))
    for t, (x, y) in enumerate(zip(xs, ys, strict=True), 2):
        loss = init.step(x, y)
        error = x @ theta - y
        assert loss == pytest.approx(np.mean(error**2), rel=1e-9)  # without the penalty
        g = 2 * x.T @ error / len(y) + strength * (theta - start)
        if optimizer == "Adam":
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
            g = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        theta = theta - 0.05 * g
        np.testing.assert_allclose(model.flat_parameters, theta, rtol=1e-9)
        d = theta - start
        assert trainer.penalty == pytest.approx(strength / 2 * d @ d, rel=1e-9)
    np.testing.assert_array_equal(init.anchor, start)
    init.fit(task(xs[0], ys[0], 1))
    np.testing.assert_array_equal(init.anchor, start)  # a task does not begin it anew


def test_l2_init_does_not_replace_a_penalty_of_others(rng):
    trainer, xs, ys = linear(4), rng.standard_normal((5, 4)), rng.standard_normal(5)
    continual.L2(trainer, 1.0).fit(task(xs, ys))
    with pytest.raises(tw.UnsupportedError, match="not the one of this L2Init"):
        L2Init(trainer, 1.0).step(xs, ys)


def test_a_pull_to_the_beginning_says_nothing_of_forgetting(rng):
    """L2Init keeps a network able to learn, and does not hold on to what it knows."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.01))
    init = L2Init(trainer, strength=1e-7)
    x = rng.standard_normal((40, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in (0, 1):
            init.fit(task(x, 2 * k + np.arange(40) % 2, k))
    assert init.ratios[-1] < 1e-4


@pytest.mark.parametrize("make", [SynapticIntelligence, continual.RWalk, L2])
def test_parameters_are_held_as_they_were_left(make, clouds, trainer):
    """A strategy inside prunes when the task ends: not where they were before that."""
    known = continual.split(*clouds.all, tasks=3, kind="task")
    strategy = make(continual.PackNet(trainer(loss=nn.CrossEntropyLoss(heads=known.heads))), 1.0)
    strategy.fit(known[0], epochs=2)
    theta = strategy.trainer.model.flat_parameters.astype("float64")
    np.testing.assert_array_equal(strategy.anchor, theta)
    assert (theta == 0).sum() == 16  # half of the first layer


def test_new_classes_that_compete_are_warned_about_once(rng):
    def trainer():
        return tw.Trainer(
            nn.Sequential(nn.Linear(2, 4)), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1)
        )

    x = rng.standard_normal((20, 2))
    tasks = [task(x, 2 * k + np.arange(20) % 2, k, classes=(2 * k, 2 * k + 1)) for k in (0, 1)]
    ewc = EWC(trainer(), strength=10.0)
    ewc.fit(tasks[0])
    with pytest.warns(UserWarning, match=r"new classes \[2, 3\].*Replay"):
        ewc.fit(tasks[1])
    same = [task(x, np.arange(20) % 2, k, classes=(0, 1)) for k in (0, 1)]
    ewc = EWC(trainer(), strength=10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in same:
            ewc.fit(one)


@pytest.mark.parametrize(
    "make",
    [
        lambda trainer, scenario: L2(continual.Replay(trainer, 20), 1.0),
        lambda trainer, scenario: continual.Replay(L2(trainer, 1.0), 20),
        lambda trainer, scenario: continual.AGEM(L2(trainer, 1.0), 20),
        lambda trainer, scenario: L2(continual.Cumulative(trainer, scenario), 1.0),
    ],
)
def test_new_classes_that_are_rehearsed_are_not_warned_about(make, rng):
    """To advise replay where there is some would help nobody."""
    x, y = rng.standard_normal((40, 3)).astype("float32"), np.arange(40) % 4
    scenario = continual.split(x, y, x, y, tasks=2, kind="class")
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="task 1 brings new classes")
        warnings.filterwarnings("ignore", message="the penalty of")
        continual.run(make(trainer, scenario), scenario)


def test_a_penalty_that_hardly_matters_is_warned_about(rng):
    tasks = [task(rng.standard_normal((20, 4)), rng.standard_normal(20), k) for k in (0, 1)]
    ewc = EWC(linear(4), strength=1e-7)
    ewc.fit(tasks[0])
    with pytest.warns(UserWarning, match=r"strength=1e-07 is too small"):
        history = ewc.fit(tasks[1])
    assert ewc.ratios[-1] == history["penalty"][-1] / history["loss"][-1] < 1e-4


@pytest.mark.parametrize("index", [0, 1])  # tasks that arrive one by one need no index
def test_a_penalty_that_hardly_matters_to_steps_is_warned_about(index, rng, tmp_path):
    """As after `learn`: the penalty at the end, over the mean loss of the steps of the task."""
    tasks = [task(rng.standard_normal((20, 4)), rng.standard_normal(20), k) for k in (0, index)]
    found = []
    for stopped in (False, True):
        ewc = EWC(linear(4), strength=1e-7)
        losses = []
        for one in tasks:
            ewc.begin(one)
            for at in range(0, 20, 4):
                losses.append(ewc.step(one.x[at : at + 4], one.y[at : at + 4]))
                if stopped and at == 8:
                    ewc.save(tmp_path / "ewc")
                    ewc = EWC(linear(4), strength=1e-7)
                    ewc.load(tmp_path / "ewc")
            if one is tasks[0]:
                ewc.end(one)
                assert ewc.ratios == []  # there was no penalty
        penalty = ewc.trainer.penalty
        with pytest.warns(UserWarning, match=rf"of task {index}, .*strength=1e-07 is too small"):
            ewc.end(tasks[1])
        assert ewc.ratios == [pytest.approx(penalty / np.mean(losses[5:]), rel=1e-12)]
        found += ewc.ratios
    assert found[0] == found[1]


def test_a_part_of_steps_ends_where_learn_goes_on(rng):
    one, two = (task(rng.standard_normal((20, 4)), rng.standard_normal(20), k) for k in (0, 1))
    ewc = EWC(linear(4), strength=10.0)
    ewc.fit(one)
    ewc.step(two.x, two.y)  # of no task
    ewc.begin(two)
    losses = [ewc.step(two.x, two.y) for _ in range(3)]
    by_steps = ewc.trainer.penalty / np.mean(losses)
    history = ewc.learn(two, steps=5)
    by_learn = history["penalty"][-1] / history["loss"][-1]
    ewc.end(two)
    assert ewc.ratios == pytest.approx([by_steps, by_learn], rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: EWC(t, 10.0), lambda t: OnlineEWC(t, 10.0, decay=0.9), lambda t: L2(t, 1.0),
        lambda t: L2Init(t, 1.0), lambda t: MAS(t, 1.0),
        lambda t: EWC(t, 10.0, convention="avalanche", batch_size=20),
        lambda t: OnlineEWC(t, 10.0, convention="mammoth"),
        lambda t: MAS(t, 1.0, convention="avalanche"), lambda t: SynapticIntelligence(t, 1.0),
        lambda t: SynapticIntelligence(t, 1.0, convention="van_de_ven"),
    ],
)  # fmt: skip
def test_stopped_and_resumed(make, clouds, trainer, tmp_path, resumed_is_the_same):
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    resumed_is_the_same(lambda t, s: make(t), scenario, trainer, tmp_path)


def test_permuted_digits_are_remembered():
    """Margins of the mean accuracy over three tasks and seeds: plain, L2 at its best, EWC.

    Measured: 0.601; 0.784, 0.799 and 0.779 for the strengths of L2; 0.814. Its best one is near the
    middle: 2e-2 and 4e-2 reach 0.797 and 0.796. The margin over L2 is small: over ten seeds, EWC
    reaches 0.808 (standard error 0.014) and L2 0.780 (0.015).
    """
    pytest.importorskip("sklearn")
    accuracy = functools.partial(accuracy_on_permuted_digits, hidden=(256, 256), epochs=20)
    plain = accuracy(continual.Strategy)
    kept_alike = [accuracy(lambda t, s=s: L2(t, s)) for s in (1e-2, 3e-2, 1e-1)]
    exact = accuracy(lambda t: EWC(t, 1e2))
    assert max(kept_alike) == kept_alike[1]  # neither weaker nor stronger would be better
    assert exact >= plain + 0.12
    assert exact > max(kept_alike) + 0.005


def test_with_a_head_for_each_task_only_its_classes_compete(rng):
    x = rng.standard_normal((40, 3)).astype("float32")
    scenario = continual.split(x, np.arange(40) % 4, x, np.arange(40) % 4, tasks=2, kind="task")
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    loss = nn.CrossEntropyLoss(heads=scenario.heads)
    ewc = EWC(tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1)), strength=1.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="task 1 brings new classes")
        warnings.filterwarnings("ignore", message="the penalty of EWC")
        ewc.fit(scenario[0])
        first = continual.fisher_diagonal(model, scenario[0].x, classes=scenario[0].classes).astype(
            "float64"
        )
        np.testing.assert_array_equal(ewc.importance, first)
        ewc.fit(scenario[1])
    biases = list(scenario[1].classes)
    assert not first[-4:][biases].any()
    assert (ewc.importance[-4:] > 0).all()


@pytest.mark.parametrize("fisher", ["empirical", "batched"])
def test_a_penalty_may_be_of_the_gradients_of_the_data(fisher):
    """Counts, whose slope is exp(output) - y; one batch of two rows."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.PoissonNLLLoss(), optimizer=optim.SGD(lr=0.1))
    ewc = EWC(trainer, 1.0, fisher=fisher)
    x, y = np.array([[1.0], [2.0]]), np.array([3.0, 0.0])
    ewc.fit(continual.Task(x, y, x, y))
    slopes = (np.exp(model(x)[:, 0]) - y) * x[:, 0]
    expected = (slopes**2).mean() if fisher == "empirical" else slopes.mean() ** 2
    np.testing.assert_allclose(ewc.importance, [expected], rtol=1e-12)


def test_what_has_no_penalty_is_refused_before_it_trains():
    model = nn.Sequential(nn.Linear(2, 1))

    def trainer(loss, optimizer=None):
        return tw.Trainer(model, loss=loss, optimizer=optimizer or optim.SGD(lr=0.1))

    own = trainer(lambda f, y: (0.0, 0 * f))
    for kind in (EWC, OnlineEWC):
        with pytest.raises(tw.UnsupportedError, match=r"supported for nn\.Cross"):
            kind(own, 1.0)
    with pytest.raises(tw.UnsupportedError, match="all data at once"):
        EWC(trainer(nn.MSELoss(), optim.LBFGS()), 1.0)
    for kind in (EWC, OnlineEWC):
        with pytest.raises(
            tw.UnsupportedError, match=r'nn\.GaussianNLLLoss; got L1.*fisher="empirical"'
        ):
            kind(trainer(nn.L1Loss()), 1.0)
    assert isinstance(L2(trainer(nn.L1Loss()), 1.0), L2)  # needs none
    for options, message in (
        ({"strength": -1}, "strength"), ({"convention": "si"}, "convention"),
        ({"fisher": "norm"}, "fisher must be one of"),
    ):  # fmt: skip
        with pytest.raises(tw.ArgumentError, match=message):
            EWC(trainer(nn.MSELoss()), **{"strength": 1.0, **options})


@pytest.mark.parametrize(
    "make",
    [
        lambda trainer: L2(trainer, 0.5),
        lambda trainer: L2Init(trainer, 0.5),
        lambda trainer: MAS(trainer, 0.5),
        lambda trainer: SynapticIntelligence(trainer, 0.5),
        lambda trainer: continual.RWalk(trainer, 0.5),
    ],
    ids=["L2", "L2Init", "MAS", "SynapticIntelligence", "RWalk"],
)
def test_a_function_as_loss_is_held_on_to_as_the_library_s_own(make, rng):
    x = rng.standard_normal((3, 60, 4))
    y = np.sin(x.sum(axis=2, keepdims=True) + np.arange(3)[:, None, None])
    found = []
    for loss in (nn.MSELoss(), squares):
        model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 1), dtype="float64")
        strategy = make(tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=0.01)))
        for index in range(3):
            strategy.fit(Task(x[index], y[index], x[index], y[index], index), epochs=5)
        assert len(strategy.ratios) == 5 * (3 if isinstance(strategy, L2Init) else 2)  # by epoch
        found.append(model.flat_parameters)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", [EWC, L2, continual.OnlineLaplace])
@pytest.mark.parametrize("change", ["another", "none", "its strength"])
def test_a_penalty_of_others_is_refused_in_every_part_of_it(make, change, clouds, trainer):
    """It would count in the place of the one that was gathered."""
    tasks = continual.split(*clouds.all, tasks=3, kind="domain")
    strategy = make(trainer(outputs=2), 1.0)
    mine = strategy.trainer
    strategy.fit(tasks[0])
    if change == "none":
        mine.set_penalty(None)
    elif make is continual.OnlineLaplace:
        return  # of all linear layers nothing is left to a diagonal, and nobody sets the rest
    importance, anchor, strength = mine._core.penalty() or (None, None, None)
    if change == "another":
        mine._pull(0, (importance + 1, anchor, strength))
    elif change == "its strength":
        mine._pull(0, (importance, anchor, 99.0))
    before, penalty = mine.model.flat_parameters, mine.penalty
    with pytest.raises(tw.UnsupportedError, match="penalty is not the one of this"):
        strategy.fit(tasks[1])
    np.testing.assert_array_equal(mine.model.flat_parameters, before)
    assert mine.penalty == penalty


def small():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 6), seed=1)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *((EWC, {"fisher": fisher}) for fisher in ("exact", "empirical", "sampled")),
        *((OnlineEWC, {"convention": convention}) for convention in ("mammoth", "avalanche")),
        (continual.OnlineLaplace, {}),
        (continual.OnlineLaplace, {"structure": "full"}),
    ],
)
def test_rows_that_do_not_count_are_no_part_of_importances(make, options, clouds):
    """Half of the labels are the loss's ignore_index: as if these rows were not there."""
    x, y = clouds.x[:60], clouds.y[:60]
    some = np.where(np.arange(60) % 2, y, -100)
    strategy, other = (make(small(), 1.0, **options) for _ in range(2))
    strategy.fit(task(x, some), steps=5)
    other.begin(task(x[1::2], y[1::2]))
    other.trainer.model.flat_parameters = strategy.trainer.model.flat_parameters
    other.end(task(x[1::2], y[1::2]))
    np.testing.assert_equal(strategy.state_dict(), other.state_dict())
    with pytest.raises(tw.DataError, match=r"no row counts: .* an ignored label"):
        strategy.begin(task(x, np.full(60, -100), 1))


def test_a_path_may_be_one_over_weighted_samples(clouds):
    weighted = task(clouds.x, clouds.y, sample_weight=np.ones(480))
    SynapticIntelligence(small(), 1.0).fit(weighted, steps=2)


@pytest.mark.parametrize("make", [EWC, OnlineEWC, MAS])
def test_importances_are_of_samples_that_count_as_their_weights(make, clouds):
    """A sample of weight 2 counts as two, in the importance as in the loss."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 3, 480)
    y = np.where(rng.random(480) < 0.1, -100, clouds.y)  # some labels are ignored
    weighted, repeated = make(small(), 1), make(small(), 1)
    weighted.fit(task(clouds.x, y, sample_weight=weight), steps=3)
    repeated.begin(task(np.repeat(clouds.x, weight, 0), np.repeat(y, weight)))
    repeated.trainer.model.flat_parameters = weighted.trainer.model.flat_parameters
    repeated.end(task(np.repeat(clouds.x, weight, 0), np.repeat(y, weight)))
    np.testing.assert_allclose(weighted.importance, repeated.importance, rtol=1e-5, atol=1e-8)


def test_ratios_are_of_the_latest_parts(clouds, trainer):
    """A strategy that asks for every step by itself would make them grow without an end."""
    ewc = EWC(trainer(), 1.0)
    strategy = continual.ContinualBackprop(ewc)
    strategy.fit(task(clouds.x, clouds.y), steps=1)
    strategy.fit(task(clouds.x, clouds.y, 1), steps=1010, batch_size=1)
    assert len(ewc.ratios) == 1000


def test_a_penalty_too_steep_for_a_rate_is_named(clouds):
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2), seed=1)
    plain = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    strategy = continual.EWC(plain, 1e6)
    told = pytest.warns(UserWarning, match=r"rate is 0\.1, but the penalty of EWC has a curvature")
    with pytest.raises(tw.errors.DivergedError) as caught, told:
        continual.run(strategy, scenario, epochs=5)
    note, place = caught.value.__notes__
    assert place == "While task 1 ('2 3') was being learned."
    most = float(note.split("above a learning rate of ")[1].split()[0].rstrip("."))
    assert most == pytest.approx(2 / (1e6 * strategy.importance.max()), rel=0.05)
    assert most < 0.1


def take_steps(strategy, one, how):
    for at in range(100):
        if how == "learn":
            strategy.learn(one, steps=1, start=at)
        else:
            strategy.step(one.x, one.y)


@pytest.mark.parametrize("how", ["learn", "step", "stream"])
@pytest.mark.parametrize(
    "name", ["EWC", "Replay of EWC", "L2Init", "MAS", "SynapticIntelligence", "RWalk"]
)
def test_a_penalty_too_steep_for_steps_is_named_too(name, how, clouds):
    """The formulas of the last three have no factor 1/2."""
    factor = 2 if name in ("MAS", "SynapticIntelligence", "RWalk") else 1
    one, two, _ = continual.split(*clouds.all, tasks=3, kind="domain")
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2), seed=1)
    plain = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    pull = getattr(continual, name.removeprefix("Replay of "))(plain, 1.0)
    strategy = continual.Replay(pull, 30) if name.startswith("Replay") else pull
    strategy.fit(one)
    pull.strength = 1e6
    if how != "stream":
        with pytest.warns(UserWarning, match=r"rate is 0\.1, but the penalty of \w+ has a curv"):
            strategy.begin(two)
    with pytest.raises(tw.errors.DivergedError) as caught:
        take_steps(strategy, two, how)
    (note,) = caught.value.__notes__
    assert note.startswith(f"The penalty of {type(pull).__name__} has a curvature of up to")
    assert f"a curvature of up to {factor * 1e6 * pull.importance.max():.1e}:" in note
    assert f"a learning rate of {2 / (factor * 1e6 * pull.importance.max()):.1e}." in note


@pytest.mark.parametrize("how", ["learn", "step"])
def test_a_penalty_that_is_flat_is_not_named(how, rng):
    pull = L2Init(linear(4, lr=1e9), 0.0)
    one = task(rng.standard_normal((20, 4)), rng.standard_normal(20))
    pull.begin(one)
    with pytest.raises(tw.errors.DivergedError) as caught:
        take_steps(pull, one, how)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("make", [L2, EWC, continual.OnlineLaplace])
def test_a_strength_that_is_set_counts_from_the_next_step_on(make, scenario, trainer):
    """Not only after the next task, while the attribute says otherwise."""
    changed, made = make(trainer(), 1.0), make(trainer(), 1e4)
    changed.fit(scenario[0]), made.fit(scenario[0])
    changed.strength = 1e4
    with warnings.catch_warnings(action="ignore"):
        changed.fit(scenario[1]), made.fit(scenario[1])
    theta = changed.trainer.model.flat_parameters
    np.testing.assert_array_equal(theta, made.trainer.model.flat_parameters)
    with pytest.raises(tw.ThalwegError, match="strength must be a finite number"):
        changed.strength = -1
    assert changed.strength == 1e4


class Fading(continual.Strategy):
    """Makes the penalty inside weaker after each task."""

    def end(self, task):
        super().end(task)
        self.inner.strength *= 0.1


@pytest.mark.parametrize("make", [EWC, continual.OnlineLaplace])
def test_a_strength_that_was_set_is_resumed(make, clouds, trainer, tmp_path, resumed_is_the_same):
    """As a learning rate is that was set."""
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    resumed_is_the_same(lambda t, s: Fading(make(t, 50.0)), scenario, trainer, tmp_path)
    pull = make(trainer(dropout=0.2), 50.0)
    strategy = Fading(pull)
    continual.run(
        strategy, scenario, checkpoint=tmp_path / "parts", resume=True, steps=7, batch_size=20
    )
    assert pull.strength == pytest.approx(0.05)
    assert copy.deepcopy(strategy).inner.strength == pull.strength
    # What is compared is still what it was made with.
    with pytest.raises(tw.ArgumentError, match=r"strength was 50\.0, now it is 5\.0\."):
        continual.run(
            Fading(make(trainer(dropout=0.2), 5.0)), scenario, checkpoint=tmp_path / "parts",
            resume=True, steps=7, batch_size=20,
        )  # fmt: skip


@pytest.mark.parametrize("by", ["fit", "step"])
def test_a_penalty_beyond_all_numbers_is_an_error(by, clouds):
    """After two steps, weights and loss are still finite, and without any sense."""
    one, two, _ = continual.split(*clouds.all, tasks=3, kind="domain")
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2), seed=1)
    ewc = EWC(tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1)), 1e36)
    ewc.fit(one)
    before = model.flat_parameters
    told = pytest.warns(UserWarning, match=r"rate is 0\.1, but the penalty of EWC has a curvature")
    raised = pytest.raises(tw.DivergedError, match="the penalty became inf after 6")
    if by == "fit":
        with told, raised as caught:
            ewc.fit(two, steps=2)
        np.testing.assert_array_equal(model.flat_parameters, before)
    else:
        with told:
            ewc.begin(two)
        ewc.step(two.x, two.y), ewc.step(two.x, two.y)
        with raised as caught:
            ewc.end(two)
    assert "diverges above a learning rate of" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("optimizer", "options", "around"),
    [
        (optim.SGD(lr=0.1, momentum=0.9), {}, EWC),
        (optim.Adam(lr=0.1), {}, EWC),
        (optim.SGD(lr=0.1), {"clip_grad_norm": 1.0}, EWC),
        (optim.SGD(lr=0.1), {"schedule": optim.schedules.StepLR(9, per="step")}, EWC),
        (optim.SGD(lr=0.1).add_group("*", lr_scale=1e-4), {}, EWC),
        (optim.SGD(lr=0.1), {}, lambda t, s: continual.PackNet(EWC(t, s))),
        (optim.SGD(lr=0.1), {}, lambda t, s: EWC(continual.PackNet(t), s)),
        (optim.SGD(lr=1e-6), {}, EWC),
    ],
)  # fmt: skip
def test_rates_that_may_do_are_not_warned_of(optimizer, options, around, clouds):
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2), seed=1)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, **options)
    strategy = around(trainer, 1e3)
    strategy.fit(scenario[0])
    strategy.begin(scenario[1])  # warnings are errors


@pytest.mark.parametrize("convention", ["paper", "avalanche"])
def test_mas_leaves_out_rows_whose_label_is_ignored(convention, clouds):
    rows = np.arange(480) % 3 > 0
    some = MAS(small(), 1.0, convention=convention, batch_size=50)
    some.fit(task(clouds.x, np.where(rows, clouds.y, -100)), steps=3)
    only = MAS(small(), 1.0, convention=convention, batch_size=50)
    only.begin(task(clouds.x[rows], clouds.y[rows]))
    only.trainer.model.flat_parameters = some.trainer.model.flat_parameters
    only.end(task(clouds.x[rows], clouds.y[rows]))
    np.testing.assert_array_equal(some.importance, only.importance)
