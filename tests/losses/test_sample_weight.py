"""Weights of samples."""

import itertools

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .cases import LOSSES, K, N, W, identity, network, targets


@pytest.mark.parametrize("case", LOSSES)
def test_integer_weights_are_repeated_rows(case, rng):
    loss, kind = LOSSES[case]
    x, y = rng.standard_normal((N, 6)), targets(kind, rng)
    weight = rng.integers(0, 4, N)
    weighted, repeated = (
        tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.01)) for _ in range(2)
    )
    for _ in range(4):
        a = weighted.step(x, y, weight)
        b = repeated.step(np.repeat(x, weight, axis=0), np.repeat(y, weight, axis=0))
        assert a == pytest.approx(b, rel=1e-12)
    np.testing.assert_allclose(
        weighted.model.flat_parameters, repeated.model.flat_parameters, rtol=1e-11, atol=1e-13
    )
    a = weighted.evaluate(x, y, sample_weight=weight)
    b = repeated.evaluate(np.repeat(x, weight, axis=0), np.repeat(y, weight, axis=0))
    assert a == {key: pytest.approx(value, rel=1e-11) for key, value in b.items()}


@pytest.mark.parametrize("case", ["MSE", "CE", "BCE", "Gaussian", "CE of shares"])
def test_weights_of_one_are_no_weights_and_only_ratios_matter(case, rng):
    loss, kind = LOSSES[case]
    x, y = rng.standard_normal((N, 6)), targets(kind, rng)
    ends = []
    for weight in (None, np.ones(N), np.full(N, 8.0), np.full(N, 0.25, np.float32)):
        trainer = tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.1))
        history = trainer.fit(x, y, epochs=3, batch_size=5, sample_weight=weight)
        ends.append(np.append(trainer.model.flat_parameters, history["loss"]))
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=1e-12, atol=1e-14)


def test_class_weights_are_weights_of_samples(rng):
    x, y = rng.standard_normal((N, 6)), targets("labels", rng)
    one = tw.Trainer(network(), loss=nn.CrossEntropyLoss(W), optimizer=optim.SGD(lr=0.1))
    other = tw.Trainer(network(), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    for _ in range(3):
        assert one.step(x, y) == pytest.approx(other.step(x, y, np.array(W)[y]), rel=1e-13)


def test_rates_weighted_by_exposures_are_a_poisson_regression_with_an_offset(rng):
    """Its log-likelihood is Σ n (Xw + log e) − e exp(Xw), for counts n and exposures e."""
    x, exposure = rng.standard_normal((60, 3)), rng.uniform(0.1, 2, 60)
    count = rng.poisson(exposure * np.exp(x[:, 0]))
    model = nn.Sequential(nn.Linear(3, 1), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.PoissonNLLLoss(), optimizer=optim.SGD(lr=0.1))
    trainer.backward(x, count / exposure, exposure)
    state = model.state_dict()
    expected = np.exp(x @ state["0.weight"][0] + state["0.bias"] + np.log(exposure))
    slope = np.column_stack([x, np.ones(60)]).T @ (expected - count) / exposure.sum()
    np.testing.assert_allclose(model.flat_gradients, slope, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_only_sums_of_weights_over_the_batch_size_are_unbiased(size, rng):
    """Over all batches, their gradients' mean is that of all rows; a mean's is another's."""
    output, y, weight = rng.standard_normal((6, 2)), [0, 1, 1, 1, 1, 1], np.r_[10, np.ones(5)]
    kinds = {
        "sum": (nn.CrossEntropyLoss(reduction="sum"), weight / size),
        "class weights": (nn.CrossEntropyLoss([10 / size, 1 / size], reduction="sum"), None),
        "mean": (nn.CrossEntropyLoss(), weight),
    }
    found = {}
    for name, (loss, w) in kinds.items():
        found[name] = 0
        batches = [list(rows) for rows in itertools.combinations(range(6), size)]
        for rows in batches:
            of_batch = None if w is None else w[rows]
            gradient = loss.gradient(output[rows], np.take(y, rows), of_batch)
            # Those of parameters are these, times the Jacobian, which is the same in all batches.
            spread = np.zeros_like(output)
            spread[rows] = gradient
            found[name] = found[name] + spread / len(batches)
    whole = nn.CrossEntropyLoss().gradient(output, y, weight)
    for name, gradient in found.items():
        ratio = gradient / whole
        assert (np.ptp(ratio) < 1e-12 * ratio.max()) == (name != "mean")
    # The rare row counts for less: with batches of one, weights cancel.
    least, usual = found["mean"][0] / whole[0], found["mean"][1] / whole[1]
    assert (least < 0.9 * usual).all()
    if size == 1:
        np.testing.assert_allclose(least / usual, 0.1)


def test_factors_of_positive_targets_are_unbiased_in_a_mean(rng):
    output, y = rng.standard_normal((6, 1)), np.array([1.0, 0, 0, 0, 0, 0])
    loss = nn.BCEWithLogitsLoss(pos_weight=10)
    rows = [loss.gradient(output[i : i + 1], y[i : i + 1])[0] for i in range(6)]
    np.testing.assert_allclose(np.divide(rows, 6), loss.gradient(output, y), rtol=1e-14)


def test_the_formula(rng):
    x, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K))
    weight = rng.uniform(0, 3, N)
    squares = (network()(x) - y) ** 2
    for reduction, expected in [
        ("mean", (weight @ squares).sum() / (weight.sum() * K)),
        ("sum", (weight @ squares).sum()),
    ]:
        trainer = tw.Trainer(
            network(), loss=nn.MSELoss(reduction=reduction), optimizer=optim.SGD(lr=0)
        )
        assert trainer.evaluate(x, y, weight)["loss"] == pytest.approx(expected, rel=1e-13)
        assert trainer.step(x, y, weight) == pytest.approx(expected, rel=1e-13)
        history = trainer.fit(
            x, y, batch_size=6, sample_weight=weight, validation_data=(x, y, weight)
        )
        assert history["loss"][0] == pytest.approx(expected, rel=1e-13)  # nothing moves
        assert history["val_loss"][0] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("case", ["MSE", "CE", "CE, all at once", "CE of shares"])
def test_a_fit_takes_the_weight_of_each_row_with_it(case, shuffle, rng):
    """Rows of weight 0 hold nonsense; in whatever order, nothing of it is learned."""
    loss, kind = LOSSES[case]
    x, y = rng.standard_normal((40, 6)), targets(kind, rng, 40)
    weight = (np.arange(40) % 3).astype(float)
    ends = []
    for nonsense in (0.0, 100.0):
        trainer = tw.Trainer(network(), loss=loss, optimizer=optim.Adam(lr=0.01))
        spoilt = np.where((weight == 0)[:, None], x + nonsense, x)
        history = trainer.fit(
            spoilt, y, epochs=3, batch_size=7, shuffle=shuffle, sample_weight=weight
        )
        ends.append(np.append(trainer.model.flat_parameters, history["loss"]))
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_bits_for_any_number_of_threads(threads, rng):
    x, y = rng.standard_normal((500, 6)).astype(np.float32), targets("some labels", rng, 500)
    weight = rng.uniform(size=500).astype(np.float32)

    def train(n):
        tw.set_num_threads(n)
        model = nn.Sequential(nn.Linear(6, 300), nn.GELU(), nn.Linear(300, K), seed=1)
        loss = nn.CrossEntropyLoss(W, label_smoothing=0.1)
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.AdamW())
        history = trainer.fit(x, y, epochs=2, batch_size=200, sample_weight=weight)
        return model.flat_parameters.tobytes(), history["loss"]

    before = tw.get_num_threads()
    try:
        assert train(1) == train(threads)
    finally:
        tw.set_num_threads(before)


def test_a_batch_of_rows_that_weigh_nothing_is_passed_over():
    x, y = np.eye(4), np.ones((4, 1))
    model = nn.Sequential(nn.Linear(4, 1, bias=False, init="zeros"), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.25))
    history = trainer.fit(x, y, batch_size=1, sample_weight=[1, 0, 3, 0])
    np.testing.assert_array_equal(model.flat_parameters, [0.5, 0, 0.5, 0])
    assert trainer.optimizer.state_dict()["steps"] == 2
    assert history["loss"] == [1.0]
    model = nn.Sequential(nn.Linear(4, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.25))
    trainer.fit(x, [0, -100, 1, -100], batch_size=1)
    assert trainer.optimizer.state_dict()["steps"] == 2


BAD_WEIGHTS = {
    "negative": ([1.0, -2.0, 1.0], tw.DataError, [r"sample_weight\[1\] is -2", ">= 0"]),
    "NaN": ([1.0, 1.0, np.nan], tw.DataError, [r"sample_weight\[2\] is NaN"]),
    "infinite": ([np.inf, 1.0, 1.0], tw.DataError, [r"sample_weight\[0\] is inf"]),
    "all zero": ([0, 0, 0], tw.DataError, ["no row counts", "sample_weight"]),
    "too short": ([1, 2], tw.ShapeError, ["3 rows", "sample_weight has 2"]),
    "a column": ([[1], [1], [1]], tw.ShapeError, ["sample_weight must be 1-D", r"\(3, 1\)"]),
    "a number": (1.0, tw.ShapeError, ["sample_weight must be 1-D"]),
    "text": (["a", "b", "c"], tw.DtypeError, ["sample_weight has dtype"]),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("method", ["step", "fit", "evaluate", "validation"])
def test_bad_weights(method, case):
    weight, kind, patterns = BAD_WEIGHTS[case]
    model = identity(2)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    x = np.ones((3, 2))
    options = {"sample_weight": weight}
    if method == "validation":
        method, options = "fit", {"validation_data": (x, x, weight)}
        patterns = [*patterns, "validation"]
    with pytest.raises(kind) as caught:
        getattr(trainer, method)(x, 0 * x, **options)
    for pattern in patterns:
        assert caught.match(pattern)
    np.testing.assert_array_equal(model.flat_parameters, np.eye(2).ravel())


SMALL = {
    "one rounds to 0": ([1.0, 1e-46, 0.0], "float32", 1),
    "all round to 0": ([1e-60, 1e-60, 1e-60], "float32", 0),
    "subnormal, ready for the core": (np.array([1, 1, 1e-45], np.float32), "float32", 2),
    "all subnormal": (np.full(3, 1e-40, np.float32), "float32", 0),
    "in float64": ([0.0, 0.0, 1e-310], "float64", 2),
}


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("method", ["step", "fit", "evaluate", "backward", "validation", "batches"])
def test_weights_that_would_count_as_nothing_are_named(method, case):
    """The core flushes subnormal numbers: such a loss was 0, or such a row was passed over."""
    weight, dtype, row = SMALL[case]
    model = identity(2, dtype)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    x = np.ones((3, 2), dtype)
    arguments, options = (x, 0 * x), {"sample_weight": weight}
    if method == "validation":
        method, options = "fit", {"validation_data": (x, x, weight)}
    if method == "batches":
        method, arguments, options = "fit", ([(x, 0 * x, weight)],), {}
    message = rf"sample_weight\[{row}\] is [\d.]+e-\d+, which {dtype} .* treats as 0.* multiply all"
    with pytest.raises(tw.DataError, match=message):
        getattr(trainer, method)(*arguments, **options)
    np.testing.assert_array_equal(model.flat_parameters, np.eye(2).ravel())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_weights_that_count_count(dtype, rng):
    x, y = rng.standard_normal((2, 4, 2))
    least = float(np.finfo(dtype).tiny)
    losses = [
        tw.Trainer(identity(2, dtype), loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1)).step(x, y, w)
        for w in (None, np.full(4, least), [least, 0, least, 0])
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    half = tw.Trainer(identity(2, dtype), loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    assert losses[2] == pytest.approx(half.step(x[::2], y[::2]), rel=1e-6)


def test_rows_that_do_not_count_are_still_in_the_statistics_of_their_batch(rng):
    x, y, out = rng.standard_normal((8, 3)), rng.integers(0, 2, 8), np.arange(8) < 3
    for labels, weight in ((np.where(out, -100, y), None), (y, np.where(out, 0.0, 1.0))):
        layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        model = nn.Sequential(*layers, dtype="float64", seed=0)
        mean = model[:1](x).mean(axis=0)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        trainer.step(x, labels, weight)
        found = model.state_dict()["1.running_mean"]
        np.testing.assert_allclose(found, 0.1 * mean, rtol=1e-12, atol=1e-15)


def test_all_labels_ignored_is_an_error():
    trainer = tw.Trainer(identity(2), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    for call in (trainer.step, trainer.fit, trainer.evaluate):
        with pytest.raises(tw.DataError, match="ignored label"):
            call(np.ones((2, 2)), [-100, -100])
