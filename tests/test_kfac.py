"""Kronecker factors: beside sums over samples, and beside the matrix where they are exact."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn
from thalweg.curvature import Operator, kfac_factors

from .helpers import off

LOSSES = {
    "categorical": nn.CrossEntropyLoss(),
    "bernoulli": nn.BCEWithLogitsLoss(),
    "gaussian": nn.MSELoss(),
}
#: How many times as large the Fisher information is as that of the loss, with 4 outputs: of a mean
#: over outputs or targets, and for squares without the half.
FACTOR = {"categorical": 1, "bernoulli": 4, "gaussian": 2, "counts": 4, "own variance": 2}
#: With those whose information depends on the outputs in other ways.
ALL = LOSSES | {"counts": nn.PoissonNLLLoss(), "own variance": nn.GaussianNLLLoss()}

NETS = {
    "deep linear": lambda: (nn.Linear(6, 7), nn.Linear(7, 5, bias=False), nn.Linear(5, 4)),
    "deep": lambda: (
        nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 30, bias=False), nn.Tanh(), nn.Linear(30, 4),
    ),
    "norms": lambda: (
        nn.Linear(6, 20), nn.BatchNorm1d(20), nn.SiLU(), nn.Dropout(0.5),
        nn.Linear(20, 9), nn.LayerNorm(9), nn.Linear(9, 4),
    ),
    "residual": lambda: (
        nn.Linear(6, 10),
        nn.Residual(nn.LayerNorm(10), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)),
        nn.ReLU(), nn.Linear(10, 4),
    ),
    "beside": lambda: (
        nn.Concatenate(nn.Linear(6, 10), nn.Tanh()), nn.ReLU(), nn.Linear(16, 4),
    ),
    "wide": lambda: (
        nn.Linear(6, 300), nn.Tanh(), nn.Linear(300, 150), nn.Tanh(), nn.Linear(150, 4),
    ),
    "features": lambda: (nn.FourierFeatures(6, 5), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 4)),
}  # fmt: skip


def make(name, dtype="float64"):
    model = nn.Sequential(*NETS[name](), dtype=dtype, seed=1)
    rng = np.random.default_rng(5)
    model.flat_parameters = model.flat_parameters + 0.1 * rng.standard_normal(model.num_parameters)
    if name == "norms":
        state = model.state_dict()
        state["1.running_mean"] = rng.standard_normal(20)
        state["1.running_var"] = rng.uniform(0.5, 2, 20)
        model.load_state_dict(state)
    return model


def blocks(model):
    """Where each Linear's parameters are among all: rows of [W b], one after another."""
    result, start = {}, 0
    for name, value in model.state_dict().items():
        if "running" in name or "frequencies" in name:
            continue
        at = np.arange(start, start := start + value.size).reshape(value.shape)
        layer, kind = name.rsplit(".", 1)
        if kind == "weight" and value.ndim == 2:
            result[layer] = at
        elif layer in result:
            result[layer] = np.column_stack([result[layer], at])
    return {layer: at.ravel() for layer, at in result.items()}


def covariance(likelihood, f):
    """The covariance of the slope of the log-likelihood by the outputs, for each sample."""
    if likelihood == "categorical":
        p = np.exp(f - f.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p[:, :, None] * np.eye(f.shape[1]) - p[:, :, None] * p[:, None, :]
    spread = 1 / (2 + np.exp(f) + np.exp(-f)) if likelihood == "bernoulli" else np.ones_like(f)
    return spread[:, :, None] * np.eye(f.shape[1])


@pytest.mark.parametrize("likelihood", ALL)
@pytest.mark.parametrize("net", ["deep linear", "deep", "norms", "residual", "features"])
def test_with_one_sample_they_are_the_blocks_of_the_fisher_information(net, likelihood, rng):
    """Inputs and slopes are then independent, for every net and every likelihood."""
    model, x = make(net), rng.standard_normal((1, 6))
    y = np.zeros(1, int) if likelihood == "categorical" else np.zeros((1, 4))
    y = y[:, :2] if likelihood == "own variance" else y
    operator = Operator(model, x, y, loss=ALL[likelihood], kind="fisher", training=False)
    matrix = FACTOR[likelihood] * operator.dense()
    factors = kfac_factors(model, x, loss=ALL[likelihood])
    assert list(factors) == list(blocks(model))
    for layer, at in blocks(model).items():
        a, g = factors[layer]
        assert off(np.kron(g, a), matrix[np.ix_(at, at)]) < 1e-12


def test_for_squares_of_a_deep_linear_net_they_are_the_blocks_of_the_gauss_newton_matrix(rng):
    model, x = make("deep linear"), rng.standard_normal((50, 6))
    y = rng.standard_normal((50, 4))
    matrix = 2 * Operator(model, x, y, loss=nn.MSELoss(), kind="gauss_newton").dense()
    factors = kfac_factors(model, x, loss=nn.MSELoss())
    for layer, at in blocks(model).items():
        a, g = factors[layer]
        assert off(np.kron(g, a), matrix[np.ix_(at, at)]) < 1e-12
    # Not so where slopes depend on the sample.
    bent = make("deep")
    matrix = 2 * Operator(bent, x, y, loss=nn.MSELoss(), kind="gauss_newton").dense()
    a, g = kfac_factors(bent, x, loss=nn.MSELoss())["0"]
    at = blocks(bent)["0"]
    assert 0.01 < off(np.kron(g, a), matrix[np.ix_(at, at)]) < 1


def passes(model, x):
    """What each Linear of a tanh net takes, and the slopes of every output by what it gives."""
    state, taken, slopes = model.state_dict(), {}, {}
    h, steps = x, []
    for place, layer in enumerate(model.layers):
        if isinstance(layer, nn.Linear):
            ones = np.ones((len(x), 1 if layer.bias else 0))
            taken[str(place)] = np.c_[h, ones]
            steps.append((str(place), state[f"{place}.weight"]))
            h = h @ state[f"{place}.weight"].T + state.get(f"{place}.bias", 0)
        else:
            h = np.tanh(h)
            steps.append((None, 1 - h**2))
    back = np.broadcast_to(np.eye(h.shape[1]), (len(x), h.shape[1], h.shape[1]))
    for place, what in reversed(steps):
        if place is None:
            back = back * what[:, None, :]
        else:
            slopes[place] = back
            back = back @ what
    return h, taken, slopes


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("likelihood", LOSSES)
@pytest.mark.parametrize("net", ["deep", "wide"])
def test_they_are_second_moments_over_all_samples(net, likelihood, dtype, rng):
    """In NumPy: of tiles that are whole and in part, and of more samples than go at once."""
    model, x = make(net), rng.standard_normal((1300, 6)).astype("float32")
    f, taken, slopes = passes(model, x.astype("float64"))
    c = covariance(likelihood, f)
    y = rng.integers(0, 4, len(x))
    targets = y if likelihood == "categorical" else rng.integers(0, 2, (len(x), 4)).astype(dtype)
    loss, tolerance = LOSSES[likelihood], {"float64": 1e-12, "float32": 2e-6}[dtype]
    model = model.astype(dtype)
    exact = kfac_factors(model, x, loss=loss)
    empirical = kfac_factors(model, x, targets, kind="empirical", loss=loss)
    p = {
        "categorical": lambda: np.exp(f) / np.exp(f).sum(axis=1, keepdims=True),
        "bernoulli": lambda: 1 / (1 + np.exp(-f)),
        "gaussian": lambda: f,
    }[likelihood]()
    residual = p - (np.eye(4)[y] if likelihood == "categorical" else targets)
    for layer, a in taken.items():
        j = slopes[layer]
        g = np.einsum("nko,nkl,nlp->op", j, c, j, optimize=True) / len(x)
        d = np.einsum("nk,nko->no", residual, j)
        for found, expected in ((exact, g), (empirical, d.T @ d / len(x))):
            assert off(found[layer].A, a.T @ a / len(x)) < tolerance
            assert off(found[layer].G, expected) < tolerance
            assert found[layer].A.dtype == found[layer].G.dtype == dtype
            for factor in found[layer]:
                assert np.array_equal(factor, factor.T)


SLOPES = {
    "counts": lambda f, y: np.exp(f) - y,
    "own variance": lambda f, y: np.hstack(
        [
            (f[:, :2] - y[:, :2]) / np.exp(f[:, 2:]),
            0.5 - 0.5 * (f[:, :2] - y[:, :2]) ** 2 / np.exp(f[:, 2:]),
        ]
    ),
}


@pytest.mark.parametrize("likelihood", SLOPES)
def test_empirical_ones_are_of_the_slopes_of_the_data(likelihood, rng):
    model = nn.Sequential(nn.Linear(6, 4), dtype="float64", seed=1)
    x, y = rng.standard_normal((50, 6)), rng.poisson(1, (50, 4)).astype(float)
    given = y[:, :2] if likelihood == "own variance" else y
    found = kfac_factors(model, x, given, kind="empirical", loss=ALL[likelihood])["0"]
    d = SLOPES[likelihood](model(x), y)
    assert off(found.G, d.T @ d / len(x)) < 1e-12


@pytest.mark.parametrize("likelihood", ALL)
def test_sampled_tends_to_exact(likelihood, rng):
    model, loss = make("deep"), ALL[likelihood]
    x = np.repeat(rng.standard_normal((3, 6)), 20_000, axis=0)
    exact, sampled, again = (
        kfac_factors(model, x, kind=kind, loss=loss) for kind in ("exact", "sampled", "sampled")
    )
    # Squares of squares of normal numbers vary more.
    most = 0.04 if likelihood == "own variance" else 0.02
    for layer in exact:
        assert 1e-6 < off(sampled[layer].G, exact[layer].G) < most
        assert np.array_equal(sampled[layer].G, again[layer].G)
        assert np.array_equal(sampled[layer].A, exact[layer].A)


def test_the_diagonal_of_the_fisher_information_agrees_where_the_product_is_exact(rng):
    """Where there is one sample, and so of a Linear behind embedded categories, too."""
    layers = nn.TabularInput(3, {1: (4, 2)}), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)
    model = nn.Sequential(*layers, dtype="float64", seed=3)
    x = np.array([[0.3, 3.0, -1.2]])
    factors = kfac_factors(model, x)
    diagonal = tw.continual.fisher_diagonal(model, x)
    assert list(factors) == ["1", "3"]
    for layer, at in blocks(model).items():
        if layer in factors:
            a, g = factors[layer]
            assert off(np.kron(np.diag(g), np.diag(a)), diagonal[at]) < 1e-12


def test_a_part_of_samples_and_of_outputs(rng):
    model, x = make("deep"), rng.standard_normal((50, 6))
    part = kfac_factors(model, x, n_samples=20, seed=4)
    chosen = np.sort(np.random.default_rng(4).choice(50, 20, replace=False))
    whole = kfac_factors(model, x[chosen])
    assert all(np.array_equal(part[layer].G, whole[layer].G) for layer in whole)
    head = kfac_factors(model, x, classes=(3, 1))
    f, _, slopes = passes(model, x)
    j = slopes["0"][:, [3, 1]]
    g = np.einsum("nko,nkl,nlp->op", j, covariance("categorical", f[:, [3, 1]]), j) / len(x)
    assert off(head["0"].G, g) < 1e-12


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(heads=(2, 2)), nn.CrossEntropyLoss(active=(0, 2))],
    ids=["heads", "active"],
)
@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_outputs_compete_as_in_the_loss(loss, kind, rng):
    """The last layer's G is the second moment of the loss's own slopes; -100 does not count."""
    model, x = make("deep"), rng.standard_normal((8, 6))
    y = np.array([0, 2, 2, -100, 0, 2, 0, -100])
    there = y >= 0
    found = kfac_factors(model, x, y, kind=kind, loss=loss)
    expected = np.zeros((4, 4))
    for row in np.flatnonzero(there):
        output, label = model(x[row : row + 1]), y[row]
        columns = [0, 2] if loss.heads is None else [0, 1] if label < 2 else [2, 3]
        p = np.exp(output[0, columns]) / np.exp(output[0, columns]).sum()
        slopes = {c: loss.gradient(output, [c])[0] for c in columns}
        outer = {c: np.outer(slope, slope) for c, slope in slopes.items()}
        if kind == "empirical":
            expected += outer[label] / 6
        else:
            expected += sum(q * outer[c] for q, c in zip(p, columns, strict=True)) / 6
    assert off(found["4"].G, expected) < 1e-12
    np.testing.assert_allclose(found["0"].A[:6, :6], x[there].T @ x[there] / 6, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_bits_are_the_same_for_any_number_of_threads(dtype, rng):
    model, x = make("wide").astype(dtype), rng.standard_normal((1500, 6))
    before, found = tw.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            tw.set_num_threads(threads)
            factors = kfac_factors(model, x)
            found.append(b"".join(m.tobytes() for pair in factors.values() for m in pair))
    finally:
        tw.set_num_threads(before)
    assert len(set(found)) == 1


def test_the_model_stays_as_it_was(rng):
    model, x = make("norms"), rng.standard_normal((20, 6))
    model.backward(np.ones_like(model.forward(x, training=True)))
    before = {name: value.copy() for name, value in model.state_dict().items()}
    gradients = model.flat_gradients.copy()
    kfac_factors(model, x)
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    assert np.array_equal(gradients, model.flat_gradients)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "batched"}, tw.ArgumentError, 'kind must be one of "exact"'),
        ({"kind": "empirical"}, tw.ArgumentError, "y is None"),
        ({"kind": "empirical", "y": [0, 1]}, tw.ShapeError, "x has 3 rows but y has 2"),
        ({"classes": (0, 4)}, tw.ArgumentError, "outputs from 0 to 3"),
        ({"n_samples": 0}, tw.ArgumentError, "n_samples"),
        ({"loss": nn.L1Loss()}, tw.UnsupportedError, "nn.MSELoss"),
        ({"x": np.zeros((3, 5))}, tw.ShapeError, "expected .3, 6."),
        ({"x": np.full((3, 6), np.nan)}, tw.DataError, r"x\[0, 0\] is NaN"),
        ({"x": np.full((3, 6), 1e200)}, tw.ThalwegError, "too large for this precision"),
        ({"model": "net"}, tw.ArgumentError, "nn.Sequential"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(options, error, message):
    arguments = {"model": make("deep"), "x": np.ones((3, 6)), **options}
    with pytest.raises(error, match=message):
        kfac_factors(**arguments)
