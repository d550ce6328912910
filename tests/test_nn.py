"""Layers, losses and initializations against their formulas, written out in NumPy."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn
from thalweg.nn._layers import Activation

from .helpers import kinds_in, types

erf = np.vectorize(math.erf)

ACTIVATIONS = {
    nn.ReLU(): lambda x: np.maximum(x, 0),
    nn.LeakyReLU(): lambda x: np.where(x > 0, x, 0.01 * x),
    nn.LeakyReLU(0.5): lambda x: np.where(x > 0, x, 0.5 * x),
    nn.Tanh(): np.tanh,
    nn.Sigmoid(): lambda x: 1 / (1 + np.exp(-x)),
    nn.GELU(): lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    nn.SiLU(): lambda x: x / (1 + np.exp(-x)),
    nn.Softplus(): lambda x: np.logaddexp(0, x),
    nn.Softplus(2.5): lambda x: np.logaddexp(0, 2.5 * x) / 2.5,
    nn.ELU(): lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    nn.ELU(0.7): lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0))),
    nn.CELU(0.7): lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0) / 0.7)),
    nn.SELU(): lambda x: (
        1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))
    ),
    nn.GELU("tanh"): lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    nn.Mish(): lambda x: x * np.tanh(np.logaddexp(0, x)),
    nn.LogSigmoid(): lambda x: -np.logaddexp(0, -x),
    nn.Softsign(): lambda x: x / (1 + abs(x)),
    nn.Sine(2.0): lambda x: np.sin(2 * x),
    nn.Hardtanh(): lambda x: np.clip(x, -1, 1),
    nn.Hardtanh(-0.5, 1.25): lambda x: np.clip(x, -0.5, 1.25),
    nn.ReLU6(): lambda x: np.clip(x, 0, 6),
    nn.Hardsigmoid(): lambda x: np.clip(x / 6 + 0.5, 0, 1),
    nn.Hardswish(): lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    nn.Identity(): lambda x: x,
}


def test_every_activation_is_here():
    others = {nn.Dropout, nn.Flatten}  # which have tests of their own
    assert types(ACTIVATIONS) | others == kinds_in(nn, Activation)


@pytest.mark.parametrize(("layer", "formula"), ACTIVATIONS.items(), ids=map(repr, ACTIVATIONS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_activation_follows_its_formula(layer, formula, dtype):
    x = np.concatenate([np.linspace(-30, 30, 1201), [0.0, -0.0, 1e-30, -1e-30]])[:, None]
    x = x.astype(dtype)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), layer, dtype=dtype)
    model.load_state_dict({"0.weight": [[1]]})
    y = model(x)
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(y, formula(x.astype(float)), rtol=tolerance, atol=tolerance)


def test_linear_is_a_matrix_product_with_the_weight_out_by_in(rng):
    model = nn.Sequential(nn.Linear(7, 3), dtype="float64")
    state = model.state_dict()
    assert state["0.weight"].shape == (3, 7)
    assert state["0.bias"].shape == (3,)
    x = rng.standard_normal((11, 7))
    np.testing.assert_allclose(
        model(x), x @ state["0.weight"].T + state["0.bias"], rtol=0, atol=1e-14
    )


def test_linear_without_bias_has_none(rng):
    model = nn.Sequential(nn.Linear(7, 3, bias=False), dtype="float64")
    assert list(model.state_dict()) == ["0.weight"]
    assert model.num_parameters == 21
    x = rng.standard_normal((1, 7))
    np.testing.assert_allclose(model(x), x @ model.state_dict()["0.weight"].T, atol=1e-14)


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss()], ids=repr)
def test_gradients_of_every_layer_and_loss_are_right(layer, loss, rng):
    model = nn.Sequential(nn.Linear(5, 6), layer, nn.Linear(6, 3), layer, dtype="float64", seed=2)
    x = rng.standard_normal((9, 5))
    y = rng.standard_normal((9, 3)) if isinstance(loss, nn.MSELoss) else np.arange(9) % 3
    report = tw.gradcheck(model, x, y, loss=loss)
    assert report.passed, f"\n{report}"
    assert report.max_abs_error < 1e-8


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_the_gradient_of_the_input_is_right(layer, rng):
    model = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3), dtype="float64", seed=2)
    weights = rng.standard_normal((5, 3))

    def grad(x):
        model.forward(x)
        return model.backward(weights)

    report = tw.check_gradient(
        lambda x: float((weights * model(x)).sum()), grad, rng.standard_normal((5, 4))
    )
    assert report.passed, f"\n{report}"


# --- normalizations -----------------------------------------------------------------------------


def normalized(layer, x, g):
    """The output of a normalization alone, and the gradient of its input."""
    n = x.shape[1]
    model = nn.Sequential(layer, nn.Linear(n, n, bias=False), dtype="float64")
    model.load_state_dict(model.state_dict() | {"1.weight": np.eye(n)})
    return model.forward(x), model.backward(g)


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("shape", [(7, 5), (64, 33), (130, 9)])
def test_identities_of_normalizations(make, shape, rng):
    """They hold exactly where epsilon does not matter."""
    axis = 0 if make is nn.BatchNorm1d else 1
    centred = make is not nn.RMSNorm
    x, g = 3 * rng.standard_normal(shape) + 2, rng.standard_normal(shape)
    y, back = normalized(make(shape[1], eps=1e-30), x, g)
    size = np.abs(back).max() * shape[axis]
    if centred:
        assert np.abs(y.mean(axis=axis)).max() < 1e-12
        assert np.abs(back.sum(axis=axis)).max() < 1e-12 * size
    np.testing.assert_allclose((y**2).mean(axis=axis), 1, rtol=1e-12)
    assert np.abs((back * y).sum(axis=axis)).max() < 1e-12 * size
    # Neither scale nor, if the mean is taken away, place matter; the gradient goes with 1/scale.
    moved, moved_back = normalized(make(shape[1], eps=1e-30), 10 * x + (5 if centred else 0), g)
    np.testing.assert_allclose(moved, y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(10 * moved_back, back, rtol=0, atol=1e-12 * size)
    # With an epsilon that does, the variance is what it leaves.
    spread = x.var(axis=axis) if centred else (x**2).mean(axis=axis)
    y, _ = normalized(make(shape[1], eps=0.5), x, g)
    np.testing.assert_allclose((y**2).mean(axis=axis), spread / (spread + 0.5), rtol=1e-12)


def test_a_normalization_of_rows_needs_no_batch(rng):
    for layer in (nn.LayerNorm(5), nn.RMSNorm(5)):
        model = nn.Sequential(nn.Linear(4, 5), layer, nn.ReLU(), nn.Linear(5, 2), dtype="float64")
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=tw.optim.SGD(lr=0.1))
        x = rng.standard_normal((9, 4))
        one = np.concatenate([model(x[i : i + 1]) for i in range(9)])
        np.testing.assert_allclose(one, model(x), rtol=0, atol=1e-14)
        assert np.isfinite(trainer.step(x[:1], np.ones((1, 2))))


def test_rms_norm_takes_the_epsilon_of_its_precision():
    for dtype in ("float32", "float64"):
        x = np.full((1, 3), np.sqrt(np.finfo(dtype).eps), dtype)
        model = nn.Sequential(nn.RMSNorm(3), nn.Linear(3, 3, bias=False), dtype=dtype)
        model.load_state_dict(model.state_dict() | {"1.weight": np.eye(3)})
        np.testing.assert_allclose(model(x), math.sqrt(0.5), rtol=1e-6)


def test_a_variance_that_overflows_is_an_error_and_not_a_row_of_zeros():
    model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=tw.optim.SGD(lr=0.1))
    before = model.flat_parameters
    for call in (model, model.forward, lambda x: trainer.step(x, np.ones((1, 3)))):
        with pytest.raises(tw.ThalwegError, match=r"nan|NaN"):
            call([[1e30, -1e30, 0]])
    np.testing.assert_array_equal(model.flat_parameters, before)


# --- dropout ------------------------------------------------------------------------------------


def dropping(p, n=64, **options):
    """Dropout alone."""
    model = nn.Sequential(nn.Dropout(p), nn.Linear(n, n, bias=False), **options)
    model.load_state_dict({"1.weight": np.eye(n)})
    return model


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 67, 300])
def test_dropout_drops_its_share(p, n):
    model = dropping(p, n, dtype="float64")
    rows = 100_000 // n
    deviation = math.sqrt(p * (1 - p))
    for _ in range(3):
        m = model.forward(np.ones((rows, n)))
        np.testing.assert_allclose(np.unique(m), [0, 1 / (1 - p)], rtol=1e-15)
        # Five standard errors of all, and of each column, which has 333 elements or more.
        assert abs((m == 0).mean() - p) < 5 * deviation / math.sqrt(m.size)
        assert np.abs((m == 0).mean(axis=0) - p).max() < 5 * deviation / math.sqrt(rows)


def test_elements_are_dropped_independently():
    m = dropping(0.5, 256).forward(np.ones((256, 256))) - 1  # of -1 and 1
    assert abs((m[1:] * m[:-1]).mean()) < 5 / 255
    for apart in (1, 4, 16, 64):
        assert abs((m[:, apart:] * m[:, :-apart]).mean()) < 5 / math.sqrt(256 * (256 - apart))
    two = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, 256, bias=False), nn.Dropout(0.5))
    two.load_state_dict({"1.weight": np.eye(256)})
    both = (two.forward(np.ones((256, 256))) > 0).mean()
    assert abs(both - 0.25) < 5 * math.sqrt(0.25 * 0.75) / 256


def test_dropout_is_off_in_evaluation_and_without_probability(rng):
    x = rng.standard_normal((9, 64))
    model = dropping(0.7, dtype="float64")
    np.testing.assert_array_equal(model(x), x)
    np.testing.assert_array_equal(model.forward(x, training=False), x)
    np.testing.assert_array_equal(dropping(0.0, dtype="float64").forward(x), x)
    everything = dropping(1.0, dtype="float64")
    assert not everything.forward(x).any()
    assert not everything.backward(x).any()


def test_the_gradient_is_dropped_where_the_output_was(rng):
    x, g = rng.standard_normal((50, 64)), rng.standard_normal((50, 64))
    model = dropping(0.4, dtype="float64")
    factors = model.forward(x) / x
    np.testing.assert_allclose(model.backward(g), g * factors, rtol=1e-15)


def test_dropout_follows_from_the_seed_and_the_number_of_the_pass():
    x = np.ones((20, 64), np.float32)
    model, other = dropping(0.5, seed=3), dropping(0.5, seed=4)
    first, second = model.forward(x), model.forward(x)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other.forward(x))
    model(x)  # an evaluation draws nothing
    later = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.forward(x), later.forward(x))
    again = dropping(0.5, seed=3)
    np.testing.assert_array_equal(again.forward(x), first)
    np.testing.assert_array_equal(again.astype("float64").forward(x), second)


def test_a_training_with_dropout_goes_on_from_a_copy_as_if_it_had_not_stopped(rng):
    def fit(model, lr=0.01, epochs=1):
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=tw.optim.SGD(lr=lr))
        trainer.fit(x, y, batch_size=10, epochs=epochs)

    x, y = rng.standard_normal((60, 8)), rng.standard_normal((60, 2))
    model = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Dropout(0.3), nn.Linear(30, 2))
    fit(model)
    copy = pickle.loads(pickle.dumps(model))
    fit(model)
    fit(copy)
    np.testing.assert_array_equal(model.flat_parameters, copy.flat_parameters)
    with pytest.raises(tw.DivergedError):
        fit(model, lr=1e9, epochs=99)
    np.testing.assert_array_equal(model.forward(x), copy.forward(x))


def test_mse_is_the_mean_over_all_elements(regressor, rng):
    x, y = rng.standard_normal((7, 5)), rng.standard_normal((7, 2))
    expected = ((regressor.model(x) - y) ** 2).mean()
    assert regressor.evaluate(x, y) == {"loss": pytest.approx(expected, rel=1e-14)}


def test_cross_entropy_is_the_mean_log_likelihood(classifier, blobs):
    logits = classifier.model(blobs.x).astype(float)
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(likelihood[np.arange(90), blobs.y]).mean()
    found = classifier.evaluate(blobs.x, blobs.y)
    assert found["loss"] == pytest.approx(expected, rel=1e-6)
    assert found["accuracy"] == pytest.approx((logits.argmax(axis=1) == blobs.y).mean())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_huge_logits_is_finite_and_right(dtype):
    model = nn.Sequential(nn.Identity(), nn.Linear(3, 3, bias=False), dtype=dtype)
    model.load_state_dict({"1.weight": np.eye(3)})
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=tw.optim.SGD(lr=0.0))
    logits = [[1e4, 0, -1e4], [-1e4, 1e4, 0]]
    assert trainer.evaluate(logits, [0, 1])["loss"] == 0
    assert trainer.evaluate(logits, [1, 0])["loss"] == pytest.approx((1e4 + 2e4) / 2)


# For in_features = 400, out_features = 300: standard deviation, and bound of the uniform ones.
INITIALIZATIONS = {
    "kaiming_uniform": (1 / math.sqrt(3 * 400), 1 / math.sqrt(400)),
    "kaiming_normal": (math.sqrt(2 / 400), None),
    "xavier_uniform": (math.sqrt(2 / 700), math.sqrt(6 / 700)),
    "xavier_normal": (math.sqrt(2 / 700), None),
    "lecun_normal": (math.sqrt(1 / 400), None),
    "siren_first": (1 / 400 / math.sqrt(3), 1 / 400),
    "siren": (math.sqrt(2 / 400) / 30, math.sqrt(6 / 400) / 30),
}


@pytest.mark.parametrize(("name", "expected"), INITIALIZATIONS.items())
def test_an_initialization_has_the_distribution_of_its_name(name, expected):
    deviation, bound = expected
    state = nn.Sequential(nn.Linear(400, 300, init=name), dtype="float64", seed=5).state_dict()
    weight = state["0.weight"].ravel()
    n = weight.size
    # Five standard errors: the seed is fixed, so this is decided once and for all.
    assert abs(weight.mean()) < 5 * deviation / math.sqrt(n)
    assert weight.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * n))
    kurtosis = ((weight - weight.mean()) ** 4).mean() / weight.var() ** 2
    assert kurtosis == pytest.approx(3 if bound is None else 1.8, rel=0.05)
    if bound is not None:
        assert bound * 0.999 < np.abs(weight).max() <= bound
    else:
        assert np.abs(weight).max() > 4 * deviation
    # The bias is uniform up to 1/sqrt(in_features) whatever the name.
    assert 0.9 / 20 < np.abs(state["0.bias"]).max() <= 1 / 20


def test_the_spread_before_the_sines_of_a_siren():
    """1, as in the paper, and in its code, which has biases, 300 over the width more.

    Before a sine of another omega, its weights are multiplied by 30 / omega, whatever the omega of
    the sine that they come from.
    """
    width, sines = 100, np.sin(np.linspace(-np.pi, np.pi, 40, endpoint=False))  # of variance 1/2
    model = nn.Sequential(nn.Linear(width, 4000, init="siren"), dtype="float64", seed=3)
    x, variances = np.random.default_rng(0).choice(sines, (300, width)), []
    for bias in (1, 0):
        state = model.state_dict()
        model.load_state_dict(state | {"0.bias": bias * state["0.bias"]})
        variances.append(np.var(30 * model(x)))
    np.testing.assert_allclose(variances, [1 + 300 / width, 1], rtol=0.05)
    for omega in (1, 30, 1000):
        before = nn.Linear(1, width, init="siren_first"), nn.Sine(200)  # as in the recipe for sound
        model = nn.Sequential(
            *before, nn.Linear(width, 4000, init="siren", bias=False), dtype="float64"
        )
        state = model.state_dict()
        state["2.weight"] *= 30 / omega
        model.load_state_dict(state)
        coordinates = np.random.default_rng(0).uniform(-1, 1, (300, 1))
        np.testing.assert_allclose(np.var(omega * model(coordinates)), 1, rtol=0.05)


def test_a_siren_whose_first_layer_is_drawn_as_the_others_is_told():
    """It would have low frequencies only; models that go on from others are none of it."""
    hidden = nn.Linear(2, 64, init="siren"), nn.Sine(), nn.Linear(64, 1, init="siren")
    with pytest.warns(
        UserWarning, match=r'layer 0 .* 8\.7 times lower .* init="siren_first"'
    ) as told:
        nn.Sequential(*hidden)
    assert told[0].filename == __file__
    scaled = nn.Standardize([0, 5], [1, 2])
    for before in ([scaled], [nn.Flatten(), scaled, nn.Identity()]):
        with pytest.warns(UserWarning, match=f"layer {len(before)} is .* times lower"):
            nn.Sequential(*before, *hidden)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.Sequential(nn.FourierFeatures(2, 1), *hidden)
        nn.Sequential(scaled, nn.Linear(2, 64, init="siren_first"), *hidden[1:])
        nn.Sequential(nn.Linear(2, 64, init="siren_first"), *hidden[1:])
        nn.Sequential(nn.Linear(64, 64, init="siren"), *hidden[1:])
        nn.Sequential(nn.Linear(2, 64, init="siren"), nn.Tanh(), *hidden[2:])


def test_copies_of_what_was_doubtful_are_not_told_again(tmp_path):
    """Who made the model knows."""
    with pytest.warns(UserWarning, match="siren_first"):
        model = nn.Sequential(nn.Linear(2, 8, init="siren"), nn.Sine(), nn.Linear(8, 1))
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.fold()):
            twin.astype("float64")
        nn.Sequential.load(tmp_path / "model")
        assert tw.gradcheck(model, [[0.1, 0.2]], [[1.0]], loss=nn.MSELoss())


def test_zeros_are_zero_in_the_bias_too():
    assert not nn.Sequential(nn.Linear(4, 3, init="zeros")).flat_parameters.any()


def test_every_name_that_is_documented_exists_and_is_tested():
    assert {*INITIALIZATIONS, "zeros"} == set(nn.init.NAMES)
    for name in nn.init.NAMES:
        assert f"``{name}``" in nn.init.__doc__


def test_weights_of_different_layers_and_neurons_are_not_the_same_numbers():
    values = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50), dtype="float64").flat_parameters
    assert len(np.unique(values)) == values.size


def test_the_representation_is_what_one_would_type():
    layers = [
        nn.Linear(2, 3), nn.Linear(2, 3, False, init="zeros"), nn.BatchNorm1d(3), nn.LayerNorm(3),
        nn.RMSNorm((3,)), nn.Dropout(0.1), *ACTIVATIONS,
    ]  # fmt: skip
    assert repr(nn.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True)"
    assert repr(nn.LeakyReLU()) == "LeakyReLU(negative_slope=0.01)"
    assert repr(nn.ReLU()) == "ReLU()"
    for layer in layers:
        assert eval(repr(layer), vars(nn).copy()) == layer


def test_layers_are_frozen_hashable_and_can_be_pickled():
    for layer in [nn.Linear(2, 3), *ACTIVATIONS, nn.MSELoss(), nn.CrossEntropyLoss()]:
        assert pickle.loads(pickle.dumps(layer)) == layer
        assert hash(layer) == hash(pickle.loads(pickle.dumps(layer)))
    with pytest.raises(AttributeError):
        nn.Linear(2, 3).in_features = 4


@pytest.mark.parametrize("batch_size", [16, 33, 100])
def test_running_averages_are_recalibrated_as_by_pytorch(batch_size, rng):
    torch = pytest.importorskip("torch")
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Tanh(), nn.BatchNorm1d(8),
        dtype="float64", seed=2,
    )  # fmt: skip
    x = 3 * rng.standard_normal((100, 5)) + 2
    model.forward(x[:10])  # what was there before does not matter
    twin = tw.torch.to_torch(model)
    # A single row, which is left of 33 + 33 + 33 + 1, has no statistics.
    batches = [b for b in torch.tensor(x).split(batch_size) if len(b) > 1]
    torch.optim.swa_utils.update_bn(batches, twin)
    before = model.flat_parameters
    model.recalibrate(x, batch_size=batch_size)
    np.testing.assert_array_equal(model.flat_parameters, before)
    for name, values in model.state_dict().items():
        theirs = twin.state_dict()[name].numpy()
        np.testing.assert_allclose(values, theirs, rtol=1e-12, atol=1e-14, err_msg=name)


def test_a_recalibration_that_fails_changes_nothing(rng):
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8))
    before = model.state_dict()
    x = rng.standard_normal((100, 5)).astype(np.float32)
    bad = x.copy()
    bad[70, 2] = np.nan
    for wrong, options in [(bad, {}), (1e30 * x, {}), (x[:, :4], {}), (x[:1], {})]:
        with pytest.raises(tw.ThalwegError):
            model.recalibrate(wrong, **options)
    with pytest.raises(tw.ArgumentError, match="batch_size must be an integer >= 2; got 1"):
        model.recalibrate(x, batch_size=1)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    plain = nn.Sequential(nn.Linear(5, 3))
    plain.recalibrate(x[:1])  # nothing to do
