"""Penalties that know of pairs of parameters, beside closed forms and dense matrices."""

import re

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import OnlineEWC, OnlineLaplace, Task
from thalweg.errors import UnsupportedError

from ..helpers import accuracy_on_permuted_digits, off


def task(x, y, index=0):
    return Task(x, y, x, y, index)


def regressions(rng, d=5):
    mix = np.eye(d) + 0.3 * rng.standard_normal((d, d))
    xs = [rng.standard_normal((60, d)) @ mix for _ in range(3)]
    return [(x, x @ rng.standard_normal(d) + rng.standard_normal(60)) for x in xs]


@pytest.mark.parametrize(("structure", "bias"), [("full", False), ("full", True), ("kron", False)])
def test_linear_regressions_are_learned_as_if_together(structure, bias, rng):
    """Three tasks. With one output, the factors of a linear layer are its Hessian, too."""
    tasks, d = regressions(rng), 5
    for make, exact in (
        (lambda t: OnlineLaplace(t, 2, structure=structure), True),
        (lambda t: OnlineEWC(t, 2), False),
    ):
        model = nn.Sequential(nn.Linear(d, 1, bias=bias), dtype="float64", seed=1)
        # The Fisher information has variance 1, the loss no half: twice as strong is the same.
        strategy = make(tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05)))
        for index, (x, y) in enumerate(tasks):
            strategy.fit(task(x, y, index), epochs=4000, batch_size=60)
        x, y = (np.concatenate(parts) for parts in zip(*tasks, strict=True))
        joint = np.linalg.lstsq(np.c_[x, np.ones(len(x))] if bias else x, y)[0]
        if exact:
            assert off(model.flat_parameters, joint) < 1e-12
        else:
            assert off(model.flat_parameters, joint) > 0.02


LAYERS = (
    lambda: [nn.Linear(4, 40), nn.Tanh(), nn.LayerNorm(40), nn.Linear(40, 3, bias=False)],
    lambda: [nn.Linear(4, 7, bias=False), nn.SiLU(), nn.Residual(nn.Linear(7, 7), nn.Tanh()),
             nn.Linear(7, 3)],
)  # fmt: skip


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("factors", ["tasks", "summed"])
def test_the_kronecker_penalty_and_its_gradient_are_the_dense_ones(layers, factors, rng):
    model = nn.Sequential(*layers(), dtype="float64", seed=2)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    strategy = OnlineLaplace(trainer, 3.0, factors=factors, decay=0.5)
    pairs = []
    for index in range(3):
        x, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
        strategy.fit(task(x, y, index))
        pairs.append(tw.curvature.kfac_factors(model, x))
    anchor = model.flat_parameters.copy()
    # What fades by half with each task is the product, where it is one of sums.
    fade = np.array([0.25, 0.5, 1.0]) ** (1 if factors == "tasks" else 0.5)
    rest = np.ones(len(anchor))
    names, starts, at = [], {}, 0
    for name, value in model.state_dict().items():
        starts[name], at = at, at + value.size
        names.append(name)
    dense = np.zeros((len(anchor), len(anchor)))
    for layer in pairs[0]:
        w = model.state_dict()[f"{layer}.weight"]
        places = starts[f"{layer}.weight"] + np.arange(w.size).reshape(w.shape)
        if f"{layer}.bias" in starts:
            places = np.c_[places, starts[f"{layer}.bias"] + np.arange(len(w))]
        places = places.ravel()
        rest[places] = 0
        if factors == "tasks":
            block = sum(
                f * np.kron(p[layer].G, p[layer].A) for f, p in zip(fade, pairs, strict=True)
            )
        else:
            a, g = (sum(f * p[layer][i] for f, p in zip(fade, pairs, strict=True)) for i in (0, 1))
            block = np.kron(g, a)
        dense[np.ix_(places, places)] = block
    np.testing.assert_array_equal(np.diag(dense) == 0, rest > 0)
    dense += np.diag(strategy.importance * rest)
    np.testing.assert_allclose(strategy.importance, np.diag(dense), rtol=1e-12)
    # The value, anywhere; and the gradient, from a step on data that pull by themselves.
    moved = anchor + 0.3 * rng.standard_normal(len(anchor))
    model.flat_parameters = moved
    d = moved - anchor
    assert trainer.penalty == pytest.approx(1.5 * d @ dense @ d, rel=1e-12)
    x, y = rng.standard_normal((9, 4)), rng.integers(0, 3, 9)
    model.zero_grad()
    trainer.backward(x, y)
    g = model.flat_gradients + 3 * dense @ d
    trainer.step(x, y)
    np.testing.assert_allclose(model.flat_parameters, moved - 0.1 * g, atol=1e-12)


@pytest.mark.parametrize("options", [{"clip_grad_norm": 0.5}, {"accumulate_grad_batches": 2}])
def test_clipping_and_accumulation_know_of_it(options, rng):
    made = []
    for more in (options, {}):
        model = nn.Sequential(nn.Linear(3, 2), dtype="float64", seed=1)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1), **more)
        strategy = OnlineLaplace(trainer, 5.0, structure="full")
        x, y = np.random.default_rng(1).standard_normal((2, 40, 3))
        strategy.fit(task(x, y[:, :2]), steps=2, batch_size=40)
        model.flat_parameters = model.flat_parameters + 1.0
        before = model.flat_parameters.copy()
        trainer.fit(x, y[:, :2], batch_size=20 if "accumulate_grad_batches" in more else 40,
                    shuffle=False)  # fmt: skip
        made.append((before - model.flat_parameters) / 0.1)
    found, g = made
    assert np.linalg.norm(g) > 0.5
    if "clip_grad_norm" in options:
        # The anchors differ: steps before were clipped, too; so does the direction, but not here.
        assert np.linalg.norm(found) == pytest.approx(0.5, rel=1e-5)
    else:
        np.testing.assert_allclose(found, g, rtol=1e-10)


def test_the_whole_matrix_is_that_of_products_with_it(rng):
    for loss, y in (
        (nn.CrossEntropyLoss(), rng.integers(0, 3, 25)),
        (nn.MSELoss(), rng.standard_normal((25, 3))),
        (nn.BCEWithLogitsLoss(), rng.integers(0, 2, (25, 3)).astype(float)),
        (nn.PoissonNLLLoss(), rng.poisson(2, (25, 3)).astype(float)),
        (nn.GaussianNLLLoss(), rng.standard_normal((25, 2))),
    ):
        outputs = 4 if isinstance(loss, nn.GaussianNLLLoss) else 3
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outputs), dtype="float64")
        strategy = OnlineLaplace(
            tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.0)), 1.0, structure="full"
        )
        x = rng.standard_normal((25, 2))
        strategy.begin(task(x, y))
        strategy.end(task(x, y))
        diagonal = continual.fisher_diagonal(model, x, loss=loss)
        whole = strategy.state_dict()["terms"][0][""]["G"]
        np.testing.assert_allclose(np.diag(whole), diagonal, rtol=1e-10)
        operator = tw.curvature.Operator(model, x, y, loss=loss, kind="fisher")
        v = rng.standard_normal(model.num_parameters)
        product = operator @ v
        scale = (whole @ v) @ product / (product @ product)
        np.testing.assert_allclose(whole @ v, scale * product, atol=1e-12)


@pytest.mark.filterwarnings("ignore:task . brings new classes", "ignore:the penalty of")
@pytest.mark.parametrize(
    "make",
    [
        lambda t, s: OnlineLaplace(t, 1.0),
        lambda t, s: OnlineLaplace(t, 1.0, factors="summed", decay=0.9),
        lambda t, s: continual.Replay(OnlineLaplace(t, 1.0), 20),
    ],
)  # fmt: skip
def test_stopped_and_resumed(make, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(make, scenario, trainer, tmp_path)


def test_permuted_digits_are_remembered():
    """A margin of the mean accuracy over three tasks and seeds; measured: .16."""
    pytest.importorskip("sklearn")
    plain = accuracy_on_permuted_digits(continual.Naive)
    assert accuracy_on_permuted_digits(lambda t: OnlineLaplace(t, 30)) >= plain + 0.1


@pytest.mark.filterwarnings("ignore:task . brings new classes")
def test_what_it_is_not_for_is_said(scenario, trainer):
    model = nn.Sequential(nn.Linear(70, 70))
    wide = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    with pytest.raises(UnsupportedError, match="at most 4096 parameters"):
        OnlineLaplace(wide, 1.0, structure="full")
    with pytest.raises(UnsupportedError, match="Dropout"):
        OnlineLaplace(trainer(dropout=0.5), 1.0, structure="full")


def test_importances_of_the_full_matrix_are_its_diagonal(rng):
    """Of a linear regression, F is X'X/n; so much is in the warning about one that is too small."""
    x, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    model = nn.Sequential(nn.Linear(4, 1, bias=False), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    strategy = OnlineLaplace(trainer, 1e-9, structure="full")
    assert strategy.importance is None
    strategy.fit(task(x, y, 0))
    diagonal = (x**2).mean(axis=0)
    np.testing.assert_allclose(strategy.importance, diagonal, rtol=1e-12)
    with pytest.warns(UserWarning, match=re.escape(f"of this size (mean {diagonal.mean():.1e})")):
        strategy.fit(task(-x, y, 1))
