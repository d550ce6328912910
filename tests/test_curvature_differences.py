"""Curvature of losses that are functions, beside the exact one of the same loss in the core.

Of a function of the outputs, only its own second derivatives are differences, of its gradient; of a
function of derivatives, whole gradients are. With the best step, that loses a third of the digits.
"""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.curvature import (
    Operator,
    StabilityMonitor,
    gnvp,
    hvp,
    max_stable_lr,
    top_eigenvalues,
)

TOLERANCE = 1e-8


def net(dtype="float64"):
    """A net whose training steps differ from evaluation."""
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4),
        dtype=dtype, seed=1,
    )  # fmt: skip


def batch(rng, loss):
    x = rng.standard_normal((20, 3))
    labels = isinstance(loss, nn.CrossEntropyLoss)
    y = rng.integers(0, 4, 20) if labels else rng.standard_normal((20, 4)) ** 2
    return x, y, rng.uniform(0.5, 2, 20)


def by_hand(loss):
    """The same loss, as a function."""

    def function(output, target, weight=None):
        return loss(output, target, sample_weight=weight), loss.gradient(
            output, target, sample_weight=weight
        )

    return nn.CustomLoss(function)


def far(found, expected):
    """Return the error relative to the size of what was expected."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


LOSSES = [
    nn.MSELoss(), nn.MSELoss(reduction="sum"), nn.CrossEntropyLoss(), nn.PoissonNLLLoss(),
    nn.HuberLoss(delta=10.0),
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_products_are_those_of_the_same_loss_in_the_core(loss, weighted, rng):
    """With statistics of the batch, and the units that the next pass would drop."""
    model = net()
    x, y, weight = batch(rng, loss)
    weight = weight if weighted else None
    model._core.set_passes(3)
    for scale in (1e-6, 1.0, 1e6):
        v = scale * rng.standard_normal(model.num_parameters)
        for product in (hvp, gnvp):
            for training in (True, False):
                options = {"sample_weight": weight, "training": training}
                exact = product(model, x, y, v, loss=loss, **options)
                found = product(model, x, y, v, loss=by_hand(loss), **options)
                assert far(found, exact) < TOLERANCE


#: By what inputs and weights are multiplied, and an activation: how sharply the network bends.
SCALES = [
    (1.0, 1.0, nn.Tanh()), (1e3, 1.0, nn.Sine()), (1e3, 1.0, nn.Tanh()), (1e-3, 1.0, nn.GELU()),
    (1.0, 30.0, nn.Sine()), (1e3, 1e-3, nn.ReLU()),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "weights", "layer"), SCALES, ids=str)
def test_a_network_may_bend_on_any_scale(inputs, weights, layer, rng):
    """Of losses on outputs, differences do not even see it; of others, they take smaller steps."""
    model = nn.Sequential(nn.Linear(3, 8), layer, nn.Linear(8, 4), dtype="float64", seed=0)
    model.load_state_dict({name: weights * value for name, value in model.state_dict().items()})
    x, y = inputs * rng.standard_normal((30, 3)), rng.standard_normal((30, 4))

    def on_derivatives(u, du, y):
        return np.mean((u - y) ** 2), (2 * (u - y) / u.size, None)

    for _ in range(5):
        v = rng.standard_normal(model.num_parameters)
        exact = hvp(model, x, y, v, loss=nn.MSELoss())
        assert far(hvp(model, x, y, v, loss=by_hand(nn.MSELoss())), exact) < 1e-10
        other = nn.DerivativeLoss(on_derivatives, order=1)
        assert far(hvp(model, x, y, v, loss=other), exact) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-14, 1.0, 1e20])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_losses_and_outputs_may_have_any_scale(scale, offset, rng):
    """In SI units, errors of nanometres are squared beside outputs of metres."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), dtype="float64", seed=0)
    parts = model.state_dict()
    parts["2.bias"] += offset
    model.load_state_dict(parts)
    x = rng.standard_normal((20, 3))
    y = offset + rng.standard_normal((20, 2))

    def squares(output, target):
        off = output - target
        return scale * np.mean(off**2), scale * 2 * off / off.size

    for v in rng.standard_normal((3, model.num_parameters)):
        for product in (hvp, gnvp):
            exact = scale * product(model, x, y, v, loss=nn.MSELoss())
            assert far(product(model, x, y, v, loss=squares), exact) < (1e-9 if offset else 1e-10)


def squares_of(output, target):
    """A mean of squares and its gradient, in any kind of array."""
    return ((output - target) ** 2).mean(), 2 * (output - target) / output.size


def test_functions_in_float32_leave_the_digits_that_they_have(rng):
    """As those of JAX do, unless it is told otherwise."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), seed=0)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))

    def single(output, target):
        return squares_of(output.astype(np.float32), target.astype(np.float32))

    operator = Operator(model, x, y, loss=single)
    assert operator.dtype == np.float32
    v = rng.standard_normal(model.num_parameters)
    assert far(operator @ v, hvp(model, x, y, v, loss=nn.MSELoss())) < 1e-3
    trainer = tw.Trainer(model, loss=single, optimizer=optim.SGD(lr=0.1))
    twin = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    found, exact = max_stable_lr(trainer, x, y), max_stable_lr(twin, x, y)
    assert found.sharpness == pytest.approx(exact.sharpness, rel=1e-3)


def test_threads_may_share_an_operator_and_copies_are_their_own(rng):
    model, loss = net(), nn.CustomLoss(squares_of)
    x, y, _ = batch(rng, nn.MSELoss())
    operator = Operator(model, x, y, loss=loss)
    directions = rng.standard_normal((40, model.num_parameters))
    expected = [operator @ v for v in directions]
    with ThreadPoolExecutor(4) as pool:
        for found, exact in zip(pool.map(operator.matvec, directions), expected, strict=True):
            np.testing.assert_array_equal(found, exact)
    for other in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        np.testing.assert_array_equal(other @ directions[0], expected[0])


@pytest.mark.parametrize("size", [1e-300, 1e160, 1e300])
def test_directions_may_have_any_length(size, rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), dtype="float64")
    x, v = rng.standard_normal((20, 3)), rng.standard_normal(model.num_parameters)

    def on_derivatives(u, du, y):
        return np.mean(u**2), (2 * u / u.size, None)

    for loss in (squares_of, nn.DerivativeLoss(on_derivatives, order=1)):
        operator = Operator(model, x, np.zeros((20, 4)), loss=loss)
        assert far(operator @ (size * v) / size, operator @ v) < 1e-9


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # in the function
@pytest.mark.parametrize("product", [hvp, gnvp])
def test_where_the_loss_is_not_finite_there_are_no_second_derivatives(product, rng):
    model = nn.Sequential(nn.Linear(3, 4), dtype="float64")
    x, y, _ = batch(rng, nn.MSELoss())
    v = np.ones(model.num_parameters)
    for loss, scale in (
        (lambda output, target: (np.nan, np.full_like(output, np.nan)), 1.0),
        (lambda output, target: (1.0, np.full_like(output, np.inf)), 1.0),
        (squares_of, 1e160),
    ):
        words = r"the loss or its gradient is infinite or NaN|gradient of the loss\[0, 0\] is inf"
        with pytest.raises(tw.DataError, match=words):
            product(model, scale * x, y, v, loss=loss)


@pytest.mark.filterwarnings("ignore:StabilityMonitor", "ignore:overflow:RuntimeWarning")
def test_a_monitor_survives_a_fit_that_diverges(rng):
    """Its measurements end where the weights are too large; the fit says why."""
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2), dtype="float64", seed=0)
    trainer = tw.Trainer(model, loss=squares_of, optimizer=optim.SGD(lr=30))
    x, y = rng.standard_normal((60, 3)), rng.standard_normal((60, 2))
    monitor = StabilityMonitor(x, y, action="record")
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=20, batch_size=None, callbacks=[monitor])


@pytest.mark.parametrize(
    "loss", [squares_of, nn.DerivativeLoss(lambda u, du, y: (0.0, (0 * u, None)), order=1)]
)
def test_data_that_do_not_fit_are_refused_before_anything_is_computed(loss, rng):
    model = nn.Sequential(nn.Linear(3, 4), dtype="float64")
    x, y, weight = batch(rng, nn.MSELoss())
    for data, weights, words in (
        (y[:1], None, "x has 20 rows but y has 1"),
        (y, weight[:1], "sample_weight has 1"),
        (y, 0 * weight, "no row counts"),
    ):
        with pytest.raises(tw.ThalwegError, match=words):
            Operator(model, x, data, loss=loss, sample_weight=weights)
        with pytest.raises(tw.ThalwegError, match=words):
            tw.gradcheck(model, x, data, loss=loss, sample_weight=weights)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    with pytest.raises(tw.ShapeError):
        trainer.fit(x, y, callbacks=[StabilityMonitor(x, y[:3])])
    assert trainer.optimizer.steps == 0


def test_a_function_without_second_derivatives_is_doubted(rng):
    model = nn.Sequential(nn.Linear(3, 2), dtype="float64")
    x, v = rng.standard_normal((10, 3)), rng.standard_normal(model.num_parameters)

    def noise(output, target):
        return 0.0, rng.standard_normal(output.shape)

    with pytest.warns(UserWarning, match="second derivatives of the loss are uncertain"):
        hvp(model, x, x[:, :2], v, loss=noise)


def test_a_float32_model_has_the_products_of_its_float64_copy(rng):
    model, loss = net("float32"), nn.MSELoss()
    x, y, _ = batch(rng, loss)
    operator = Operator(model, x, y, loss=by_hand(loss))
    copy = model.astype("float64")
    v = rng.standard_normal(model.num_parameters)
    assert operator.dtype == np.float64
    assert far(operator @ v, hvp(copy, x, y, v, loss=loss)) < TOLERANCE


def test_parameters_are_read_in_each_product_and_left_as_they_are(rng):
    model, loss = net(), nn.MSELoss()
    x, y, _ = batch(rng, loss)
    operator = Operator(model, x, y, loss=by_hand(loss))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.5))
    v = rng.standard_normal(model.num_parameters)
    products = []
    for _ in range(3):
        state, passes = model.state_dict(), model._core.passes()
        products.append(operator @ v)
        assert far(products[-1], hvp(model, x, y, v, loss=loss)) < TOLERANCE
        assert all((model.state_dict()[name] == value).all() for name, value in state.items())
        assert model._core.passes() == passes
        trainer.step(x, y)
    assert far(products[1], products[0]) > 0.01


def test_a_hessian_of_derivatives_is_that_of_the_closed_form(rng):
    """For u = wx + b and the mean of x u'^2 + u^2."""
    x = rng.uniform(0, 1, (9, 1))

    def loss(u, du, x):
        value = np.mean(x * du[0] ** 2 + u**2)
        return value, (2 * u / len(x), 2 * (x * du[0])[np.newaxis] / len(x))

    model = nn.Sequential(nn.Linear(1, 1), dtype="float64")
    operator = Operator(model, x, x, loss=nn.DerivativeLoss(loss, order=1))
    m1, m2 = x.mean(), (x**2).mean()
    expected = 2 * np.array([[m1 + m2, m1], [m1, 1]])
    np.testing.assert_allclose(operator.dense(), expected, rtol=1e-9)


def poisson(u, du, d2u, x):
    """The loss of -u'' = sin x with u = 0 at both ends."""
    left, ends = -d2u[0] - np.sin(x), u * ((x == 0) | (x == np.pi))
    loss = np.mean(left**2 + 50 * ends**2)
    return loss, (100 * ends / len(x), None, -2 * left[np.newaxis] / len(x))


def test_a_physics_informed_network_diverges_beyond_the_rate_that_was_measured():
    """On the quadratic model of its loss, whose gradient is linear: H is that of the network."""
    x = np.linspace(0, np.pi, 30).reshape(-1, 1)
    model = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1), dtype="float64", seed=0)
    trainer = tw.Trainer(model, loss=nn.DerivativeLoss(poisson), optimizer=optim.SGD(lr=1e-3))
    found = max_stable_lr(trainer, x, x)
    h = Operator(model, x, x, loss=trainer.loss).dense()
    np.testing.assert_allclose(h, h.T, atol=1e-8 * np.abs(h).max())
    assert found.sharpness == pytest.approx(np.linalg.eigvalsh(h)[-1], rel=1e-6)
    # And to its gradient: to first order, moving by d changes it by H d.
    theta, d = model.flat_parameters, 1e-5 * np.linalg.eigh(h)[1][:, -1]
    gradients = []
    for step in (d, -d):
        model.load_state_dict(model.unflatten(theta + step))
        model.zero_grad()
        trainer.backward(x, x)
        gradients.append(model.flat_gradients)
    assert far((gradients[0] - gradients[1]) / 2, h @ d) < 1e-6


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_what_measures_curvature_takes_custom_losses(kind, rng):
    loss = nn.MSELoss()
    x, y, _ = batch(rng, loss)
    reports = []
    for each in (loss, by_hand(loss)):
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), dtype="float64", seed=1)
        trainer = tw.Trainer(model, loss=each, optimizer=kind(lr=0.01))
        trainer.fit(x, y, batch_size=None)
        trainer.set_penalty(np.ones(model.num_parameters), np.zeros(model.num_parameters), 0.5)
        monitor = StabilityMonitor(x, y, action="record")
        history = trainer.fit(x, y, epochs=3, batch_size=None, callbacks=[monitor], lr="auto")
        figures = tw.curvature.trace(model, x, y, loss=each).value
        top = top_eigenvalues(model, x, y, loss=each, k=2).values
        reports.append([*history["sharpness"], trainer.optimizer.lr, figures, *top])
    np.testing.assert_allclose(reports[1], reports[0], rtol=1e-5)


def test_what_differences_of_gradients_do_not_show_is_refused(rng):
    x, y, _ = batch(rng, nn.MSELoss())
    loss = by_hand(nn.MSELoss())
    with pytest.raises(tw.UnsupportedError, match=r'kind="fisher".*not known to be a negative log'):
        Operator(net(), x, y, loss=loss, kind="fisher")
    for kind in ("fisher", "gauss_newton"):
        with pytest.raises(tw.UnsupportedError, match=f'kind="{kind}".*Use kind="hessian"'):
            Operator(net(), x, y, loss=nn.DerivativeLoss(poisson), kind=kind)
    with pytest.raises(tw.ThalwegError):
        hvp(net(), 1e200 * x, y, np.ones(net().num_parameters), loss=loss)
