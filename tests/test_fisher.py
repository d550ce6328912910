"""The diagonal of the Fisher information, beside one that is put together sample by sample."""

import dataclasses
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import fisher_diagonal

from .helpers import off

LOSSES = {
    "categorical": nn.CrossEntropyLoss,
    "bernoulli": nn.BCEWithLogitsLoss,
    "gaussian": nn.MSELoss,
}
#: With those whose information depends on the outputs in other ways.
ALL = LOSSES | {"counts": nn.PoissonNLLLoss, "own variance": lambda: nn.GaussianNLLLoss(eps=0.9)}
NETS = {
    "linear": lambda: (nn.Linear(6, 4),),
    "deep": lambda: (
        nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 30, bias=False), nn.ReLU(),
        nn.Linear(30, 4), nn.GELU(),
    ),
    "norms": lambda: (
        nn.Linear(6, 20), nn.LayerNorm(20), nn.SiLU(),
        nn.Linear(20, 9), nn.RMSNorm(9), nn.Linear(9, 4),
    ),
    "residual": lambda: (
        nn.Linear(6, 10),
        nn.Residual(nn.LayerNorm(10), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)),
        nn.ReLU(), nn.Linear(10, 4),
    ),
    "beside": lambda: (
        nn.Concatenate(nn.Linear(6, 10), nn.Tanh(), nn.LayerNorm(10)),
        nn.ReLU(), nn.Linear(16, 4),
    ),
    "wide": lambda: (
        nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 700), nn.Tanh(), nn.Linear(700, 4),
    ),
}  # fmt: skip


def make(name, dtype="float64"):
    model = nn.Sequential(*NETS[name](), dtype=dtype, seed=1)
    # Scales and shifts of normalizations that are not 1 and 0.
    rng = np.random.default_rng(5)
    model.flat_parameters = model.flat_parameters + 0.1 * rng.standard_normal(model.num_parameters)
    return model


def slopes(model, x):
    """Each sample's gradient of each output, (rows, outputs, parameters), one at a time."""
    outputs = np.eye(model.out_features, dtype=model.dtype)
    result = np.empty((len(x), len(outputs), model.num_parameters))
    for row, sample in enumerate(x):
        for k in range(len(outputs)):
            model.forward(sample[np.newaxis], training=True)
            model.zero_grad()
            model.backward(outputs[k : k + 1])
            result[row, k] = model.flat_gradients
    model.zero_grad()
    return result


def says(likelihood, f):
    """What the outputs say of y, and the covariance of the slope of its log-likelihood."""
    if likelihood == "categorical":
        p = np.exp(f - f.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p, p[:, :, None] * np.eye(f.shape[1]) - p[:, :, None] * p[:, None, :]
    if likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-f))
        return p, (p * (1 - p))[:, :, None] * np.eye(f.shape[1])
    if likelihood == "counts":  # the variance of a count is its mean
        return np.exp(f), np.exp(f)[:, :, None] * np.eye(f.shape[1])
    if likelihood == "own variance":  # 1/v of the mean, and half of the log-variance
        mean, s = f[:, :2], f[:, 2:]
        v = np.maximum(np.exp(s), 0.9)
        assert 0 < (np.exp(s) < 0.9).mean() < 1, "the bound counts for some"
        through = np.hstack([1 / v, 0.5 * (np.exp(s) / v) ** 2])
        return mean, through[:, :, None] * np.eye(f.shape[1])
    return f, np.broadcast_to(np.eye(f.shape[1]), (*f.shape, f.shape[1]))


@pytest.mark.parametrize("likelihood", ALL)
@pytest.mark.parametrize("net", NETS)
def test_exact_is_the_sum_over_samples_and_outputs(net, likelihood, rng):
    model, x = make(net), rng.standard_normal((11, 6))
    if net == "wide":
        x = x[:5]
    j = slopes(model, x)
    _, covariance = says(likelihood, model(x))
    expected = np.einsum("nkj,nkl,nlj->j", j, covariance, j, optimize=True) / len(x)
    found = fisher_diagonal(model, x, loss=ALL[likelihood]())
    assert off(found, expected) < 1e-12
    single = model.astype("float32")
    found = fisher_diagonal(single, x.astype("float32"), loss=ALL[likelihood]())
    assert off(found, expected) < 1e-6


@pytest.mark.parametrize("likelihood", LOSSES)
@pytest.mark.parametrize("net", ["deep", "norms"])
def test_empirical_and_batched_are_squares_of_the_data_s_gradients(net, likelihood, rng):
    model, x, loss = make(net), rng.standard_normal((11, 6)), LOSSES[likelihood]()
    labels = rng.integers(0, 4, 11)
    y = labels if likelihood == "categorical" else rng.integers(0, 2, (11, 4)).astype(float)
    target = np.eye(4)[labels] if likelihood == "categorical" else y
    p, _ = says(likelihood, model(x))
    g = np.einsum("nk,nkj->nj", p - target, slopes(model, x))
    found = fisher_diagonal(model, x, y, kind="empirical", loss=loss)
    assert off(found, (g**2).mean(axis=0)) < 1e-12
    if likelihood == "categorical":
        found = fisher_diagonal(model, x, y, kind="weighted", loss=loss)
        assert off(found, p[np.arange(11), labels] @ g**2 / 11) < 1e-12
    batches = [g[:4], g[4:8], g[8:]]
    expected = np.mean([b.mean(axis=0) ** 2 for b in batches], axis=0)
    found = fisher_diagonal(model, x, y, kind="batched", batch_size=4, loss=loss)
    assert off(found, expected) < 1e-12


#: Other losses, and the slopes of the sum over a row's outputs, from their definitions.
OTHERS = {
    "poisson": (nn.PoissonNLLLoss(), lambda f, y: np.exp(f) - y),
    "huber": (nn.HuberLoss(delta=0.5), lambda f, y: np.clip(f - y, -0.5, 0.5)),
    "l1": (nn.L1Loss(), lambda f, y: np.sign(f - y)),
    "quantile": (nn.QuantileLoss(0.9), lambda f, y: np.where(f < y, -0.9, 0.1)),
    "gaussian of its own variance": (
        nn.GaussianNLLLoss(reduction="sum"),
        lambda f, y: np.concatenate(
            [
                (f[:, :2] - y) / np.exp(f[:, 2:]),
                0.5 - 0.5 * (f[:, :2] - y) ** 2 / np.exp(f[:, 2:]),
            ],
            axis=1,
        ),
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OTHERS)
def test_losses_that_are_no_likelihoods_have_gradients(name, dtype, rng):
    """The reduction does not count, nor does rounding where outputs are larger than slopes."""
    loss, slope = OTHERS[name]
    model, x = make("norms"), rng.standard_normal((11, 6)).astype(dtype)
    y = rng.poisson(1.0, (11, 2 if "variance" in name else 4)).astype(float)
    g = np.einsum("nk,nkj->nj", slope(model(x), y), slopes(model, x))
    model, tolerance = model.astype(dtype), 1e-12 if dtype == "float64" else 1e-6
    found = fisher_diagonal(model, x, y, kind="empirical", loss=loss)
    assert found.dtype == dtype
    assert off(found, (g**2).mean(axis=0)) < tolerance
    expected = np.mean([b.mean(axis=0) ** 2 for b in (g[:4], g[4:8], g[8:])], axis=0)
    found = fisher_diagonal(model, x, y, kind="batched", batch_size=4, loss=loss)
    assert off(found, expected) < tolerance
    part = fisher_diagonal(model, x, y, kind="empirical", loss=loss, n_samples=5, seed=4)
    chosen = np.sort(np.random.default_rng(4).choice(11, 5, replace=False))
    assert off(part, (g[chosen] ** 2).mean(axis=0)) < tolerance


@pytest.mark.parametrize("likelihood", ALL)
def test_a_loss_that_is_derived_from_another_stands_for_the_same_distribution(likelihood, rng):
    loss, model, x = ALL[likelihood](), make("deep"), rng.standard_normal((5, 6))

    class Mine(type(loss)):
        pass

    mine = Mine(**{it.name: getattr(loss, it.name) for it in dataclasses.fields(loss)})
    found = fisher_diagonal(model, x, kind="exact", loss=mine)
    np.testing.assert_array_equal(found, fisher_diagonal(model, x, kind="exact", loss=loss))
    assert repr(mine) == repr(loss).replace(type(loss).__name__, "Mine")


def test_many_rows_go_through_in_parts(rng):
    model, x = make("deep"), rng.standard_normal((2500, 6))
    every = [fisher_diagonal(model, x[i : i + 1]) for i in range(0, 2500)]
    assert off(fisher_diagonal(model, x), np.mean(every, axis=0)) < 1e-12
    single = fisher_diagonal(model.astype("float32"), x.astype("float32"))
    assert single.dtype == np.float32
    assert off(single, np.mean(every, axis=0)) < 1e-6


def test_rates_have_the_information_of_counts():
    """Of y about the rate f, 1/f; with a bound on the logarithm's argument."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    model.flat_parameters = np.array([3.0])
    loss = nn.PoissonNLLLoss(log_input=False, eps=1e-3)
    x = np.array([[1.0], [2.0]])
    expected = np.mean([f / (f + 1e-3) ** 2 * x * x for x, f in ((1, 3), (2, 6))])
    np.testing.assert_allclose(fisher_diagonal(model, x, loss=loss), [expected], rtol=1e-14)
    for kind in ("exact", "sampled"):
        with pytest.raises(tw.DataError, match=r"model\(x\)\[1, 0\] is -6, .*Softplus"):
            fisher_diagonal(model, [[1.0], [-2.0]], kind=kind, loss=loss)


@pytest.mark.parametrize(("rate", "eps"), [(0.0, 1e-8), (0.01, 0.01), (0.001, 0.1), (3.0, 0.5)])
def test_near_eps_the_information_of_rates_is_the_variance_of_the_slope(rate, eps):
    """A mean of squares of slopes of counts of that rate would also have (eps/(rate + eps))^2."""
    counts = np.arange(60)
    p = np.exp(-rate) * np.cumprod([1.0, *(rate / counts[1:])])
    slope = 1 - counts / (rate + eps)
    assert abs(p.sum() - 1) < 1e-14
    expected = p @ (slope - p @ slope) ** 2
    model = nn.Sequential(nn.Linear(1, 1), dtype="float64")
    model.flat_parameters = np.array([0.0, rate])
    loss = nn.PoissonNLLLoss(log_input=False, eps=eps)
    _, exact = fisher_diagonal(model, [[1.0]], loss=loss)
    np.testing.assert_allclose(exact, expected, rtol=1e-12)
    _, sampled = fisher_diagonal(model, np.ones((200_000, 1)), kind="sampled", loss=loss)
    # The largest relative deviation of a squared slope is 1/sqrt(rate), of rare counts.
    np.testing.assert_allclose(sampled, expected, rtol=4 / np.sqrt(200_000 * (rate or 1)))


def test_sampled_is_of_the_outputs_that_are_drawn_from(rng):
    """Drawn from outputs in float32, y was further from those in float64 than it should be."""
    model, loss = nn.Sequential(nn.Linear(1, 2)), nn.GaussianNLLLoss()
    model.flat_parameters = np.array([0.7, 0.0, 1e6, -4.6])  # a mean of 1e6, a deviation of 0.1
    x = np.repeat(rng.standard_normal((50, 1)), 2000, axis=0)
    sampled = fisher_diagonal(model, x, kind="sampled", loss=loss)
    np.testing.assert_allclose(sampled, fisher_diagonal(model, x, loss=loss), rtol=0.05)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("outputs", "loss", "message"),
    [
        ([1.0, 44.0], nn.PoissonNLLLoss(), r"model\(x\)\[0, 1\] is 44, and a rate of 1\.28.*e\+19"),
        ([800.0, 1.0], nn.PoissonNLLLoss(), r"model\(x\)\[0, 0\] is 800, and a rate of inf"),
        ([1.0, 1e20], nn.PoissonNLLLoss(log_input=False), r"\[0, 1\] is 1e\+20, and a rate of 1e"),
        ([1.0, 800.0], nn.GaussianNLLLoss(), r"\[0, 1\] is 800, and a variance of inf"),
    ],
)  # fmt: skip
def test_what_is_too_large_to_be_drawn_from_is_named(outputs, loss, message):
    """NumPy did not name it, or the target was said to be infinite, which nobody had given."""
    model = nn.Sequential(nn.Linear(1, 2))
    model.flat_parameters = np.array([0.0, 0.0, *outputs])
    for find in (fisher_diagonal, tw.curvature.kfac_factors):
        with pytest.raises(tw.DataError, match=message):
            find(model, [[1.0]], kind="sampled", loss=loss)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("log_rate", [10.0, 200.0])
def test_what_is_too_large_for_the_precision_is_not_infinite(kind, log_rate):
    """What is computed in double precision was infinite when rounded, with only NumPy's warning."""
    model = nn.Sequential(nn.Linear(1, 1))
    model.flat_parameters = np.array([0.0, log_rate])
    x, y, options = [[1e19]], [[1.0]], {"kind": kind, "loss": nn.PoissonNLLLoss()}
    error = tw.DataError if (kind, log_rate) == ("sampled", 200.0) else tw.ArgumentError
    said = "draw y from" if error is tw.DataError else 'too large for this precision: .*"float64"'
    with pytest.raises(error, match=said):
        fisher_diagonal(model, x, y, **options)
    with pytest.raises(error, match=said):
        tw.curvature.kfac_factors(model, [[1e20]], y, **options)


@pytest.mark.parametrize("likelihood", ALL)
def test_sampled_tends_to_exact(likelihood, rng):
    model, loss = make("deep"), ALL[likelihood]()
    x = np.repeat(rng.standard_normal((3, 6)), 20_000, axis=0)
    exact, sampled = (
        fisher_diagonal(model, x, kind=kind, loss=loss) for kind in ("exact", "sampled")
    )
    assert off(sampled, exact) < 0.02  # 1/sqrt(60000) is 0.004, and fourth moments are larger
    again = fisher_diagonal(model, x, kind="sampled", loss=loss)
    np.testing.assert_array_equal(sampled, again)
    other = fisher_diagonal(model, x, kind="sampled", loss=loss, seed=1)
    assert not np.array_equal(sampled, other)


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_predicted_takes_the_most_probable_y_for_the_true_one(likelihood, rng):
    model, x, loss = make("deep"), rng.standard_normal((11, 6)), LOSSES[likelihood]()
    p, _ = says(likelihood, model(x))
    y = p.argmax(axis=1) if likelihood == "categorical" else np.round(p)
    found = fisher_diagonal(model, x, kind="predicted", loss=loss)
    expected = fisher_diagonal(model, x, y, kind="empirical", loss=loss)
    np.testing.assert_array_equal(found, expected)
    assert not np.allclose(found, fisher_diagonal(model, x, 1 - y % 2, kind="empirical", loss=loss))
    # With one head for each task it is the most probable class of the task's, not of all.
    if likelihood == "categorical":
        mine = np.array([0, 3])
        found = fisher_diagonal(model, x, kind="predicted", loss=loss, classes=mine)
        y = mine[p[:, mine].argmax(axis=1)]
        expected = fisher_diagonal(model, x, y, kind="empirical", loss=loss, classes=mine)
        np.testing.assert_array_equal(found, expected)


def test_a_confident_model_has_no_less_precision():
    """1 - p cancels where p is nearly 1, and is all that is left of the information."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    model.flat_parameters = np.array([9.0, -9.0], "float32")
    q = 1 / (1 + np.exp(18.0))
    np.testing.assert_allclose(fisher_diagonal(model, [[1.0]]), [q * (1 - q)] * 2, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["exact", "empirical", "weighted", "predicted", "batched"])
def test_a_row_of_weight_two_counts_as_two_rows(kind, dtype, rng):
    x, y = rng.standard_normal((50, 6)).astype(dtype), rng.integers(0, 3, 50)
    weight = rng.integers(0, 4, 50)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3), dtype=dtype, seed=1)
    options = {"kind": kind, "batch_size": 1000}
    found = fisher_diagonal(model, x, y, sample_weight=weight, **options)
    want = fisher_diagonal(model, np.repeat(x, weight, 0), np.repeat(y, weight), **options)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, want, rtol={"float32": 2e-5, "float64": 1e-12}[dtype])
    # Their scale does not matter, and one for all is none.
    scaled = fisher_diagonal(model, x, y, sample_weight=0.3 * weight, **options)
    np.testing.assert_allclose(scaled, found, rtol={"float32": 2e-5, "float64": 1e-12}[dtype])
    plain = fisher_diagonal(model, x, y, **options)
    ones = fisher_diagonal(model, x, y, sample_weight=np.ones(50), **options)
    np.testing.assert_array_equal(ones, plain)


def test_weights_are_those_of_the_loss_in_each_batch(rng):
    """Squared gradients of a trainer's weighted batches, whose rows may all have weight 0."""
    x, y, weight = rng.standard_normal((30, 4)), rng.standard_normal((30, 2)), rng.uniform(0, 2, 30)
    weight[10:20] = 0
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2), dtype="float64", seed=1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    squares = []
    for rows in (slice(10), slice(20, 30)):
        model.zero_grad()
        trainer.backward(x[rows], y[rows], weight[rows])
        squares.append(model.flat_gradients**2)  # of half the sum over two outputs: the mean
    found = fisher_diagonal(
        model, x, y, kind="batched", loss=nn.MSELoss(), batch_size=10, sample_weight=weight
    )
    np.testing.assert_allclose(found, np.mean(squares, axis=0), rtol=1e-11)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.ones(4), tw.ShapeError, "x has 5 rows but sample_weight has 4"),
        (np.zeros(5), tw.DataError, "no row counts: each of 5 has"),
        ([1, -1, 1, 1, 1], tw.DataError, "negative"),
        ([1, np.nan, 1, 1, 1], tw.DataError, r"sample_weight\[1\] is nan"),
    ],
)
def test_weights_are_looked_at(weight, error, message):
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(error, match=message):
        fisher_diagonal(model, np.ones((5, 2)), sample_weight=weight)


def test_samples_that_are_drawn_must_count():
    model, weight = nn.Sequential(nn.Linear(2, 3)), np.eye(1, 100).ravel()
    with pytest.raises(tw.DataError, match="no row counts: each of 2 has a sample_weight of 0"):
        fisher_diagonal(model, np.ones((100, 2)), sample_weight=weight, n_samples=2)


def test_only_the_classes_of_a_head_compete(rng):
    model, x = make("deep"), rng.standard_normal((9, 6))
    j = slopes(model, x)[:, [3, 1]]
    _, covariance = says("categorical", model(x)[:, [3, 1]])
    expected = np.einsum("nkj,nkl,nlj->j", j, covariance, j) / 9
    assert off(fisher_diagonal(model, x, classes=(3, 1)), expected) < 1e-12
    y = np.array([1, 3, 1, 3, 1, 3, 1, 1, 1])
    p, _ = says("categorical", model(x)[:, [1, 3]])
    g = np.einsum("nk,nkj->nj", p - np.eye(2)[y // 2], j[:, ::-1])
    found = fisher_diagonal(model, x, y, kind="empirical", classes=(1, 3))
    assert off(found, (g**2).mean(axis=0)) < 1e-12


#: Losses with which not all outputs compete for each label, and labels that they take.
COMPETING = {
    "heads": (nn.CrossEntropyLoss(heads=(2, 2)), [0, 1, 2, 3, 3, 2, 2, 0, 2, 3]),
    "heads of different sizes": (nn.CrossEntropyLoss(heads=(3, 1)), [0, 1, 2, 3, 3, 2, 2, 0, 2, 3]),
    "active": (nn.CrossEntropyLoss(active=(0, 3)), [0, 3, 0, 0, 3, 3, 3, 0, 3, 3]),
    "heads of active": (
        nn.CrossEntropyLoss(heads=(2, 2), active=(0, 2, 3)), [0, 0, 2, 3, 3, 2, 2, 0, 2, 3],
    ),
    "ignored": (nn.CrossEntropyLoss(heads=(2, 2)), [0, -100, 2, 3, -100, 2, 2, 0, 2, 3]),
    "ignored class": (nn.CrossEntropyLoss(ignore_index=1), [0, 1, 2, 3, 1, 2, 2, 0, 2, 3]),
}  # fmt: skip


def gradients(model, x, y, loss):
    """Each sample's gradient of the loss, those of ignored rows left out; and their rows."""
    trainer, found, rows = tw.Trainer(model, loss=loss, optimizer=optim.SGD()), [], []
    for row in np.flatnonzero(y != loss.ignore_index):
        model.zero_grad()
        trainer.backward(x[row : row + 1], y[row : row + 1])
        found.append(model.flat_gradients.copy())
        rows.append(row)
    return np.array(found), rows


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", COMPETING)
def test_the_outputs_of_a_label_s_head_compete_as_in_the_loss(name, weighted, rng):
    loss, y = COMPETING[name][0], np.array(COMPETING[name][1])
    model, x = make("deep"), rng.standard_normal((10, 6))
    weight = rng.uniform(0.5, 2, 10) if weighted else None
    # The same as of kind "fisher" for a softmax.
    operator = tw.curvature.Operator(
        model, x, y, loss=loss, kind="gauss_newton", sample_weight=weight
    )
    found = fisher_diagonal(model, x, y, loss=loss, sample_weight=weight)
    assert off(found, np.diag(operator.dense())) < 1e-12
    g, rows = gradients(model, x, y, loss)
    share = np.ones(len(rows)) if weight is None else weight[rows]
    share = share / share.sum()
    options = {"loss": loss, "sample_weight": weight}
    found = fisher_diagonal(model, x, y, kind="empirical", **options)
    assert off(found, share @ g**2) < 1e-12
    p = np.exp(-dataclasses.replace(loss, reduction="none")(model(x), y)[rows])
    found = fisher_diagonal(model, x, y, kind="weighted", **options)
    assert off(found, share @ (p[:, None] * g**2)) < 1e-12
    found = fisher_diagonal(model, x, y, kind="batched", batch_size=10, **options)
    assert off(found, (share @ g) ** 2) < 1e-12
    # The most probable label of each head in place of that of the data; a row's head stays.
    if loss.ignore_index < 0:
        competition = loss._competition
        of_column = competition.heads_of(4)
        mine = competition.takes_part(4) & (of_column[y[rows], None] == of_column)
        best = np.where(mine, model(x)[rows], -np.inf).argmax(axis=1)
        g, _ = gradients(model, x[rows], best, loss)
        found = fisher_diagonal(model, x, y, kind="predicted", **options)
        assert off(found, share @ g**2) < 1e-12


def test_labels_are_drawn_within_each_head(rng):
    model, loss = make("deep"), nn.CrossEntropyLoss(heads=(2, 2))
    x = np.repeat(rng.standard_normal((4, 6)), 15_000, axis=0)
    y = np.repeat([0, 2, 1, 3], 15_000)
    exact, sampled = (
        fisher_diagonal(model, x, y, kind=kind, loss=loss) for kind in ("exact", "sampled")
    )
    assert off(sampled, exact) < 0.02


def test_rows_of_one_hot_targets_are_labels(rng):
    model, x, y = make("deep"), rng.standard_normal((10, 6)), rng.integers(0, 4, 10)
    loss = nn.CrossEntropyLoss(heads=(2, 2))
    for kind in ("exact", "empirical"):
        labels = fisher_diagonal(model, x, y, kind=kind, loss=loss)
        np.testing.assert_array_equal(
            fisher_diagonal(model, x, np.eye(4)[y], kind=kind, loss=loss), labels
        )


def test_weights_of_classes_and_smoothing_do_not_count_in_batches_of_several_heads(rng):
    model, x, y = make("deep"), rng.standard_normal((10, 6)), rng.integers(0, 4, 10)
    plain = nn.CrossEntropyLoss(heads=(2, 2))
    loss = nn.CrossEntropyLoss([1, 2, 3, 4], label_smoothing=0.1, heads=(2, 2), reduction="sum")
    np.testing.assert_array_equal(
        fisher_diagonal(model, x, y, kind="batched", batch_size=4, loss=loss),
        fisher_diagonal(model, x, y, kind="batched", batch_size=4, loss=plain),
    )


@pytest.mark.parametrize("name", ["EWC", "full", "kron", "FROMP"])
def test_strategies_whose_task_has_several_heads_use_the_same(name, rng):
    model, x, y = make("deep"), rng.standard_normal((12, 6)), np.arange(12) % 4
    loss = nn.CrossEntropyLoss(heads=(2, 2))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.0))
    strategy = {
        "EWC": lambda: continual.EWC(trainer, 1.0),
        "full": lambda: continual.OnlineLaplace(trainer, 1.0, structure="full"),
        "kron": lambda: continual.OnlineLaplace(trainer, 1.0),
        "FROMP": lambda: continual.FROMP(trainer, 3, 1.0),
    }[name]()
    strategy.fit(continual.Task(x, y, x, y))
    dense = tw.curvature.Operator(model, x, y, loss=loss, kind="fisher").dense()
    if name == "EWC":
        assert off(strategy.importance, np.diag(dense)) < 1e-12
    elif name == "full":
        assert off(strategy._terms[0][""]["G"], dense) < 1e-12
    elif name == "kron":
        pair = tw.curvature.kfac_factors(model, x, y, loss=loss)["4"]
        np.testing.assert_array_equal(strategy._terms[0]["4"]["G"], pair.G)
    else:
        assert off(strategy._precision - strategy.delta, 12 * np.diag(dense)) < 1e-12


def test_of_a_task_s_head_only_the_active_outputs_compete(rng):
    model, x, y = make("deep"), rng.standard_normal((12, 6)), np.arange(12) % 2
    loss = nn.CrossEntropyLoss(heads=(3, 1), active=(0, 1, 3))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.0))
    strategy = continual.EWC(trainer, 1.0)
    strategy.fit(continual.Task(x, y, x, y))
    operator = tw.curvature.Operator(model, x, y, loss=loss, kind="gauss_newton")
    assert off(strategy.importance, np.diag(operator.dense())) < 1e-12


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.Dropout(0.5)])
@pytest.mark.parametrize(
    ("make_strategy", "who"),
    [
        (lambda t: continual.OGD(t), "OGD needs .*BatchNorm1d or Dropout.*another strategy"),
        (lambda t: continual.FROMP(t, 3, 1.0), "FROMP needs .*BatchNorm1d or Dropout"),
        (
            lambda t: continual.OnlineLaplace(t, 1.0, structure="full"),
            r'OnlineLaplace\(structure="full"\) needs .*use nn\.LayerNorm, or structure="kron"',
        ),
    ],
)
def test_a_strategy_that_needs_derivatives_says_that_it_does(layer, make_strategy, who):
    model = nn.Sequential(nn.Linear(6, 5), layer, nn.Linear(5, 4))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD())
    with pytest.raises(tw.UnsupportedError, match=who):
        make_strategy(trainer)


@pytest.mark.parametrize("find", [fisher_diagonal, tw.curvature.kfac_factors])
def test_a_softmax_of_one_output_has_no_information(find):
    """The default loss, with a network for regression."""
    model = nn.Sequential(nn.Linear(2, 1), dtype="float64")
    with pytest.raises(tw.ArgumentError, match=r"always 1.*pass loss=nn\.MSELoss\(\) or nn\.BCE"):
        find(model, np.ones((3, 2)))
    find(model, np.ones((3, 2)), loss=nn.BCEWithLogitsLoss())


def test_it_is_that_of_the_model_in_evaluation(rng):
    """BatchNorm1d by its running averages: an affine map; and nothing is dropped."""
    x = rng.standard_normal((40, 6))
    model = nn.Sequential(
        nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Dropout(0.5), nn.Linear(10, 4),
        dtype="float64", seed=2,
    )  # fmt: skip
    for _ in range(5):
        model.forward(2 + 3 * x, training=True)
    before = {name: value.copy() for name, value in model.state_dict().items()}
    found = model_blocks(model, fisher_diagonal(model, x))
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    folded = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4), dtype="float64")
    state = model.state_dict()
    inverse = 1 / np.sqrt(state["1.running_var"] + 1e-5)
    factor = state["1.weight"] * inverse
    shift = state["1.bias"] + factor * (state["0.bias"] - state["1.running_mean"])
    folded.load_state_dict(
        {
            "0.weight": factor[:, None] * state["0.weight"], "0.bias": shift,
            "2.weight": state["4.weight"], "2.bias": state["4.bias"],
        }
    )  # fmt: skip
    plain = model_blocks(folded, fisher_diagonal(folded, x))
    assert off(found["0.weight"], factor[:, None] ** 2 * plain["0.weight"]) < 1e-12
    assert off(found["0.bias"], factor**2 * plain["0.bias"]) < 1e-12
    assert off(found["1.bias"], plain["0.bias"]) < 1e-12
    assert off(found["4.weight"], plain["2.weight"]) < 1e-12
    # The scale's slope is that of the shift times the normalized input.
    z = (x @ state["0.weight"].T + state["0.bias"] - state["1.running_mean"]) * inverse
    by_row = [model_blocks(folded, fisher_diagonal(folded, row[None]))["0.bias"] for row in x]
    assert off(found["1.weight"], np.mean(np.array(by_row) * z**2, axis=0)) < 1e-12


@pytest.mark.parametrize("remedy", ["recalibrate", "train"])
def test_averages_that_nothing_has_set_are_warned_of(remedy, rng):
    x, y = rng.standard_normal((40, 6)), rng.integers(0, 4, 40)
    layers = nn.Linear(6, 6), nn.Residual(nn.BatchNorm1d(6), nn.Tanh()), nn.Linear(6, 4)
    model = nn.Sequential(*layers, dtype="float64", seed=2)
    with pytest.warns(
        UserWarning, match=r"layer 1\.0, BatchNorm1d.* model\.recalibrate\(x\)"
    ) as told:
        untrained = fisher_diagonal(model, x)
    assert len(told) == 1
    assert told[0].filename == __file__
    if remedy == "recalibrate":
        model.recalibrate(x)
    else:
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=tw.optim.SGD(lr=0.1))
        trainer.step(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.array_equal(fisher_diagonal(model, x), untrained)
        fisher_diagonal(make("norms"), x)  # statistics of each row


def model_blocks(model, flat):
    """A flat vector by the names of parameters."""
    names, start = {}, 0
    for name, value in model.state_dict().items():
        if "running" not in name:
            names[name] = flat[start : start + value.size].reshape(value.shape)
            start += value.size
    return names


def test_tables_of_categories_have_one_too(rng):
    layers = nn.TabularInput(3, {0: (4, 2), 2: (3, 1)}), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)
    model = nn.Sequential(*layers, dtype="float64", seed=1)
    x = np.c_[rng.integers(0, 4, 30), rng.standard_normal(30), rng.integers(0, 3, 30)]
    j = slopes(model, x)
    _, covariance = says("categorical", model(x))
    expected = np.einsum("nkj,nkl,nlj->j", j, covariance, j, optimize=True) / len(x)
    assert (expected > 0).all()
    assert off(fisher_diagonal(model, x), expected) < 1e-12


def test_codes_are_checked_wherever_they_are(rng):
    """Once, before the first of the parts in which the rows are taken."""
    model = nn.Sequential(nn.TabularInput(2, {0: (4, 2)}), nn.Linear(3, 2))
    x = np.c_[rng.integers(0, 4, 5000), rng.standard_normal(5000)].astype("float32")
    x[4321, 0] = 4
    for kind in ("exact", "sampled"):
        with pytest.raises(tw.DataError, match=r"x\[4321, 0\] is 4.*codes must be .* to 3"):
            fisher_diagonal(model, x, kind=kind)
    with pytest.raises(tw.DataError, match=r"x\[4321, 0\] is 4.*codes must be .* to 3"):
        tw.curvature.kfac_factors(model, x)


@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical", "batched"])
def test_the_bits_are_the_same_for_any_number_of_threads(kind, rng):
    model = nn.Sequential(nn.Linear(30, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 10))
    x, y = rng.standard_normal((1500, 30)).astype("float32"), rng.integers(0, 10, 1500)
    model.recalibrate(x)
    before, found = tw.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            tw.set_num_threads(threads)
            found.append(fisher_diagonal(model, x, y, kind=kind))
    finally:
        tw.set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


ODD = nn.Sequential(nn.Linear(6, 3))


def test_a_part_of_the_samples_will_do(rng):
    model, x = make("deep"), rng.standard_normal((50, 6))
    part = fisher_diagonal(model, x, n_samples=20, seed=4)
    chosen = np.sort(np.random.default_rng(4).choice(50, 20, replace=False))
    np.testing.assert_array_equal(part, fisher_diagonal(model, x[chosen]))
    np.testing.assert_array_equal(
        fisher_diagonal(model, x, n_samples=99), fisher_diagonal(model, x)
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "fisher"}, tw.ArgumentError, 'kind must be one of "exact"'),
        ({"kind": "empirical"}, tw.ArgumentError, "y is None"),
        ({"kind": "empirical", "y": [0, 1]}, tw.ShapeError, "x has 3 rows but y has 2"),
        ({"kind": "batched", "y": [0, 1, 4]}, tw.DataError, r"y\[2\] is 4"),
        ({"kind": "empirical", "y": [0, 1, 2], "classes": (0, 1)}, tw.ArgumentError, r"\[2\] is 2"),
        ({"classes": (0, 4)}, tw.ArgumentError, "outputs from 0 to 3"),
        ({"classes": (1, 1)}, tw.ArgumentError, "different outputs"),
        ({"classes": 3}, tw.ArgumentError, r"e\.g\. \[0, 1\]; got 3"),
        ({"kind": "predicted", "classes": (0, 4)}, tw.ArgumentError, "outputs from 0 to 3"),
        ({"n_samples": 0}, tw.ArgumentError, "n_samples"),
        ({"loss": nn.L1Loss()}, tw.UnsupportedError, 'got L1Loss.*Use kind="empirical"'),
        ({"loss": nn.L1Loss(), "kind": "empirical"}, tw.ArgumentError, "y is None"),
        *(
            ({"loss": nn.GaussianNLLLoss(), "kind": kind, "model": ODD},
             tw.ShapeError, "takes an even number of outputs.* has 3 outputs")
            for kind in ("exact", "sampled")
        ),
        ({"loss": nn.L1Loss(), "kind": "batched", "y": np.ones((3, 3))}, tw.ShapeError, "4"),
        ({"loss": nn.L1Loss(), "kind": "batched", "y": np.ones((2, 4))}, tw.ShapeError, "3.*2"),
        ({"loss": nn.CustomLoss(len), "kind": "empirical"}, tw.UnsupportedError,
         'kind="empirical" or "batched" for the other losses of thalweg.nn'),
        ({"loss": nn.CustomLoss(len)}, tw.UnsupportedError, "only supported for .*; got Custom"),
        ({"loss": nn.CrossEntropyLoss(heads=(2, 2))}, tw.ArgumentError, "pass y, or the outputs"),
        ({"loss": nn.CrossEntropyLoss(heads=(2, 1)), "y": [0, 1, 2]}, tw.ShapeError, "3 .* has 4"),
        ({"loss": nn.CrossEntropyLoss(heads=(2, 2)), "y": np.ones((3, 4))}, tw.UnsupportedError,
         r"y\[0\] has shares in several heads"),
        ({"loss": nn.CrossEntropyLoss(heads=(2, 2), active=(0, 1, 2)), "y": [0, 2, 3]},
         tw.DataError, r"y\[2\] is 3, but only \[0, 1, 2\] compete"),
        ({"loss": nn.CrossEntropyLoss(heads=(2, 2)), "y": [0, 1, 2], "classes": (0, 2, 4)},
         tw.ArgumentError, "outputs from 0 to 3"),
        ({"loss": nn.CrossEntropyLoss(heads=(2, 2)), "y": np.zeros(0, int), "x": np.zeros((0, 6))},
         tw.DataError, "no rows"),
        ({"y": [-100, -100, -100]}, tw.DataError, "no row counts: each of 3 has the ignored label"),
        ({"kind": "weighted"}, tw.ArgumentError, "y is None"),
        ({"loss": "mse"}, tw.ArgumentError, r"got 'mse'; did you mean nn\.MSELoss\(\.\.\.\)\?"),
        *(
            ({"kind": kind, "loss": loss, "y": y}, tw.ShapeError, "x has 3 rows but y has 2; they")
            for kind in ("exact", "sampled", "empirical")
            for loss, y in (
                (nn.CrossEntropyLoss(), [0, 1]),
                (nn.MSELoss(), np.zeros((2, 4))),
                (nn.BCEWithLogitsLoss(), np.zeros((2, 4))),
            )
        ),
        ({"kind": "predicted", "loss": nn.MSELoss()}, tw.UnsupportedError, "needs classes"),
        ({"kind": "weighted", "y": np.eye(4)[:3]}, tw.ThalwegError, "to be class labels"),
        ({"kind": "weighted", "y": np.eye(4)[:3], "loss": nn.BCEWithLogitsLoss()},
         tw.UnsupportedError, "needs nn.CrossEntropyLoss.*got a bernoulli"),
        ({"x": np.zeros((3, 5))}, tw.ShapeError, "expected .3, 6."),
        ({"x": np.full((3, 6), np.nan)}, tw.DataError, r"x\[0, 0\] is NaN"),
        ({"x": np.zeros((0, 6))}, tw.DataError, "no rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(options, error, message):
    arguments = {"model": make("deep"), "x": np.ones((3, 6)), **options}
    with pytest.raises(error, match=message):
        fisher_diagonal(**arguments)


def test_only_models_have_one():
    with pytest.raises(tw.ArgumentError, match=r"model must be an nn\.Sequential; got 3"):
        fisher_diagonal(3, np.ones((2, 2)))
