"""Matrices of second derivatives beside curvlinops' (Dangel et al. 2025), which is PyTorch's.

Skipped where it is not installed: see CONTRIBUTING.md.
"""

import itertools
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn
from thalweg.curvature import Operator, kfac_factors

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports uses what PyTorch will not have for long
    curvlinops = pytest.importorskip("curvlinops")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")

N, WIDTHS = 224, (6, 12, 8, 4)  # samples, layers
TOLERANCE = 1e-10
LOSSES = {
    "cross-entropy": (nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()),
    "bce": (nn.BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss()),
    "mse": (nn.MSELoss(), torch.nn.MSELoss()),
}
#: What the Fisher information of a sample is multiplied by in the mean of the loss over 4 outputs.
#: Squares without a half have twice the curvature; and slopes twice as large, in products of two.
FACTOR = {
    "exact": {"cross-entropy": 1.0, "bce": 1 / 4, "mse": 2 / 4},
    "empirical": {"cross-entropy": 1.0, "bce": 1 / 4, "mse": 4 / 4},
}


def task(loss, rng, activation="Tanh"):
    """A model, its twin, and samples with targets."""
    layers = []
    for pair in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(*pair), getattr(nn, activation)()]
    layers.pop()
    model = nn.Sequential(*layers, dtype="float64", seed=1)
    twin = tw.torch.to_torch(model)
    x = rng.standard_normal((N, WIDTHS[0]))
    y = {
        "cross-entropy": lambda: rng.integers(0, WIDTHS[-1], N),
        "bce": lambda: rng.integers(0, 2, (N, WIDTHS[-1])).astype(float),
        "mse": lambda: rng.standard_normal((N, WIDTHS[-1])),
    }[loss]()
    return model, twin, x, y


def theirs(kind, twin, loss, x, y, **options):
    """The operator over all parameters, on two batches."""
    parts = zip(torch.tensor(x).split(150), torch.tensor(y).split(150), strict=True)
    parameters = list(twin.parameters())
    return getattr(curvlinops, kind)(twin, LOSSES[loss][1], parameters, list(parts), **options)


def agree(ours, expected):
    assert np.linalg.norm(ours - expected) <= TOLERANCE * np.linalg.norm(expected)


def product(operator, v):
    return (operator @ torch.tensor(v)).detach().numpy()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("kind", "peer"),
    [("hessian", "HessianLinearOperator"), ("gauss_newton", "GGNLinearOperator")],
)
def test_products_are_theirs(kind, peer, loss, rng):
    model, twin, x, y = task(loss, rng)
    operator = Operator(model, x, y, loss=LOSSES[loss][0], kind=kind)
    expected = theirs(peer, twin, loss, x, y)
    for v in rng.standard_normal((3, model.num_parameters)):
        agree(operator @ v, product(expected, v))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_fisher_information_is_what_their_gauss_newton_matrix_is(loss, rng):
    """Of these losses; their own Fisher is an average over draws, which tends to it."""
    model, twin, x, y = task(loss, rng)
    operator = Operator(model, x, y, loss=LOSSES[loss][0], kind="fisher")
    v = rng.standard_normal(model.num_parameters)
    ours = operator @ v
    agree(ours, product(theirs("GGNLinearOperator", twin, loss, x, y), v))
    if loss == "cross-entropy":
        drawn = theirs("FisherMCLinearOperator", twin, loss, x, y, mc_samples=100)
        drawn = product(drawn, v)
        assert np.linalg.norm(drawn - ours) <= 0.1 * np.linalg.norm(ours)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_empirical_diagonal_is_theirs(loss, rng):
    model, twin, x, y = task(loss, rng)
    diagonal = tw.continual.fisher_diagonal(model, x, y, kind="empirical", loss=LOSSES[loss][0])
    peer = theirs("EFLinearOperator", twin, loss, x, y)
    expected = np.diag(product(peer, np.eye(model.num_parameters)))
    agree(FACTOR["empirical"][loss] * diagonal, expected)


@pytest.mark.parametrize("activation", ["Tanh", "ReLU"])
@pytest.mark.parametrize(("kind", "peer"), [("exact", "type-2"), ("empirical", "empirical")])
@pytest.mark.parametrize("loss", LOSSES)
def test_kronecker_factors_are_theirs(loss, kind, peer, activation, rng):
    model, twin, x, y = task(loss, rng, activation)
    options = {"fisher_type": peer, "separate_weight_and_bias": False}
    expected = theirs("KFACLinearOperator", twin, loss, x, y, **options)
    factors = kfac_factors(model, x, y, kind=kind, loss=LOSSES[loss][0])
    v, at, ours = rng.standard_normal(model.num_parameters), 0, []
    for a, g in factors.values():
        n, k = len(g), len(a) - 1
        weight, bias = v[at : at + n * k].reshape(n, k), v[at + n * k : at + n * (k + 1)]
        at += n * (k + 1)
        result = g @ np.c_[weight, bias] @ a
        ours += [result[:, :-1].ravel(), result[:, -1]]
    agree(FACTOR[kind][loss] * np.concatenate(ours), product(expected, v))
