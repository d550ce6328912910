"""Curvature of losses that are functions, beside the exact one of the same loss in the core.

Of a function of the outputs, only its own second derivatives are differences, of its gradient; of a
function of derivatives, whole gradients are. With the best steps, that loses about four digits.
"""

import copy
import multiprocessing
import os
import pickle
import sys
import threading
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
    jvp,
    max_stable_lr,
    top_eigenvalues,
)

TOLERANCE = 1e-10


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


#: By what inputs and weights are multiplied, and an activation: how sharply the network bends. And
#: four digits less than a gradient has: arguments of sines and tanh near 3e4 and 1e3 have rounding
#: errors of 1e-12 and 1e-13, those near 1 of 1e-16.
SCALES = [
    (1.0, 1.0, nn.Tanh(), 1e-10), (1e3, 1.0, nn.Sine(), 1e-6), (1e3, 1.0, nn.Tanh(), 1e-8),
    (1e-3, 1.0, nn.GELU(), 1e-10), (1.0, 30.0, nn.Sine(), 1e-8), (1e3, 1e-3, nn.ReLU(), 1e-9),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "weights", "layer", "tolerance"), SCALES, ids=str)
def test_a_network_may_bend_on_any_scale(inputs, weights, layer, tolerance, rng):
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
        assert far(hvp(model, x, y, v, loss=other), exact) < tolerance


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


#: A loss's slopes, and its second derivatives, element by element, whose third derivatives are not
#: 0; and the size of outputs and targets, around a value.
BENDS = {
    **{f"pseudo-Huber on a scale of {size}": (
        lambda f, y, s=size: (f - y) / np.sqrt(1 + ((f - y) / s) ** 2),
        lambda f, y, s=size: (1 + ((f - y) / s) ** 2) ** -1.5,
        size, 0.0,
    ) for size in (1e-12, 1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e6)},
    **{f"exp({k} f)": (
        lambda f, y, k=k: k * np.exp(k * f), lambda f, y, k=k: k**2 * np.exp(k * f), 1.0, 0.0
    ) for k in (1, 3, 10, 30, 70)},
    **{f"counts of logarithm {log}": (
        lambda f, y: np.exp(f) - y, lambda f, y: np.exp(f), 1.0, log
    ) for log in (0.0, 10.0, 60.0)},
    **{f"f - y log f near {near}": (
        lambda f, y: 1 - y / f, lambda f, y: y / f**2, near / 10, near
    ) for near in (1e-4, 1e4)},
    "columns of unlike sizes": (
        lambda f, y: np.sinh(f / [1e7, 1]) / [1e7, 1],
        lambda f, y: np.cosh(f / [1e7, 1]) / [1e14, 1],
        1.0, np.array([1e7, 0.0]),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("bend", "dtype", "tolerance"),
    [(bend, "float64", 2e-10) for bend in BENDS]
    + [(bend, "float32", 1e-3) for bend in BENDS if bend != "exp(70 f)"],  # which overflows
)
def test_losses_may_bend_on_any_scale(bend, dtype, tolerance, rng):
    """Steps adapt: the error is that of a gradient with four digits less."""
    slopes, second, size, near = BENDS[bend]
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), dtype="float64", seed=0)
    parts = model.state_dict()
    parts["2.weight"] *= size
    parts["2.bias"] = near + size * parts["2.bias"]
    model.load_state_dict(parts)
    x, y = rng.standard_normal((20, 3)), near + size * np.abs(rng.standard_normal((20, 2)))
    f = model(x)
    jacobian = np.stack([jvp(model, x, e)[1].ravel() for e in np.eye(model.num_parameters)], 1)

    def loss(output, target):
        return 0.0, slopes(output.astype(dtype), target.astype(dtype)).astype(dtype)

    for v in rng.standard_normal((5, model.num_parameters)):
        exact = jacobian.T @ (second(f, y).ravel() * (jacobian @ v))
        assert far(gnvp(model, x, y, v, loss=loss), exact) < tolerance


def cross_entropy(output, target):
    """The usual formula: for certain predictions, digits of the gradient cancel."""
    e = np.exp(output - output.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    true = np.eye(output.shape[1])[target]
    return -np.log((p * true).sum(axis=1)).mean(), (p - true) / len(output)


@pytest.mark.parametrize("factor", [1.0, 10.0, 20.0])
def test_a_classifier_that_is_certain_leaves_the_digits_that_its_gradient_has(factor, rng):
    """Nothing is said of a direction without curvature: adding the same number to all logits."""
    model = nn.Sequential(nn.Linear(2, 3), dtype="float64")
    x = rng.standard_normal((50, 2))
    centers = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    model.load_state_dict({"0.weight": factor * centers, "0.bias": np.zeros(3)})
    labels = (x @ centers.T).argmax(axis=1)
    largest = 0.0
    for v in rng.standard_normal((5, 9)):
        exact = hvp(model, x, labels, v, loss=nn.CrossEntropyLoss())
        largest = max(largest, np.abs(exact).max())
        assert far(hvp(model, x, labels, v, loss=cross_entropy), exact) < 1e-9
    null = np.repeat([0.0, 1.0], [6, 3])
    assert np.abs(hvp(model, x, labels, null, loss=cross_entropy)).max() < 1e-9 * largest


def test_a_direction_in_which_a_loss_is_straight_is_not_doubted(rng):
    """The gradient of a norm does not change along the outputs themselves, but for rounding."""
    model = nn.Sequential(nn.Linear(3, 2), dtype="float64")
    x, theta = rng.standard_normal((20, 3)), model.flat_parameters

    def norm(output, target):
        size = np.linalg.norm(output)
        return size, output / size

    size = np.abs(hvp(model, x, x, rng.standard_normal(8), loss=norm)).max()
    assert np.abs(hvp(model, x, x, theta, loss=norm)).max() < 1e-9 * size


def test_steps_end_where_the_loss_does(rng):
    """Some outputs are smaller than the first step, beyond which there is no logarithm."""
    model = nn.Sequential(nn.Linear(1, 1), dtype="float64")
    model.load_state_dict({"0.weight": [[1.0]], "0.bias": [0.0]})
    x = np.geomspace(1e-7, 1, 20).reshape(-1, 1)  # and so are the outputs

    def logarithm(output, target):
        return -np.log(output).sum(), -1 / output

    jacobian = np.hstack([x, np.ones_like(x)])
    for v in rng.standard_normal((5, 2)):
        exact = jacobian.T @ (x.ravel() ** -2 * (jacobian @ v))
        for product in (hvp, gnvp):
            assert far(product(model, x, x, v, loss=logarithm), exact) < 1e-9


def squares_of(output, target):
    """A mean of squares and its gradient, in any kind of array."""
    return ((output - target) ** 2).mean(), 2 * (output - target) / output.size


def test_functions_in_float32_leave_the_digits_that_they_have(rng):
    """As those of JAX do, unless it is told otherwise."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), seed=0)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))

    def single(output, target):
        return squares_of(output.astype(np.float32), target.astype(np.float32))

    def on_derivatives(u, du, target):
        value, gradient = single(u, target)
        return value, (gradient, None)

    other = Operator(model, x, y, loss=nn.DerivativeLoss(on_derivatives, order=1))
    operator = Operator(model, x, y, loss=single)
    assert operator.dtype == other.dtype == np.float32
    v = rng.standard_normal(model.num_parameters)
    for it in (operator, other):
        assert far(it @ v, hvp(model, x, y, v, loss=nn.MSELoss())) < 1e-3
    trainer = tw.Trainer(model, loss=single, optimizer=optim.SGD(lr=0.1))
    twin = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    found, exact = max_stable_lr(trainer, x, y), max_stable_lr(twin, x, y)
    assert found.sharpness == pytest.approx(exact.sharpness, rel=1e-3)


def test_tensors_in_float32_leave_the_digits_that_they_have(rng):
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(3, 2), seed=0)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))

    def loss(output, target):
        output = torch.tensor(output, dtype=torch.float32, requires_grad=True)
        value = ((output - torch.tensor(target, dtype=torch.float32)) ** 2).mean()
        value.backward()
        return value.item(), output.grad

    operator, v = Operator(model, x, y, loss=loss), rng.standard_normal(8)
    assert operator.dtype == np.float32
    assert far(operator @ v, hvp(model, x, y, v, loss=nn.MSELoss())) < 1e-4


@pytest.mark.parametrize("rows", [2, 30, 1000])
def test_numbers_that_were_in_float32_are_not_taken_for_a_loss_without_curvature(rows, rng):
    """With small steps, such a gradient does not change at all."""
    model = nn.Sequential(nn.Linear(3, 1), dtype="float64", seed=0)
    x, y = rng.standard_normal((rows, 3)), rng.standard_normal((rows, 1))

    def loss(output, target):
        value, gradient = squares_of(output, target)
        return value, gradient.astype(np.float32).astype(np.float64)

    v = rng.standard_normal(4)
    with pytest.warns(UserWarning, match="in float32 are that are returned in float64"):
        found = hvp(model, x, y, v, loss=loss)
    assert far(found, hvp(model, x, y, v, loss=nn.MSELoss())) < 0.01


def test_a_function_may_return_the_same_array_each_time(rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), dtype="float64")
    x, y, _ = batch(rng, nn.MSELoss())
    into = np.empty_like(y)

    def loss(output, target):
        np.multiply(2 / output.size, output - target, out=into)
        return ((output - target) ** 2).mean(), into

    v = rng.standard_normal(model.num_parameters)
    for product in (hvp, gnvp):
        exact = product(model, x, y, v, loss=nn.MSELoss())
        assert far(product(model, x, y, v, loss=loss), exact) < TOLERANCE


class Times:
    """A loss with a state of its own, which it copies and pickles by itself."""

    def __init__(self, function, factor):
        self._function, self.factor, self._calls = function, factor, threading.Lock()

    def __getstate__(self):
        return self._function, self.factor

    def __setstate__(self, state):
        self.__init__(*state)

    def __call__(self, output, target):
        with self._calls:
            value, gradient = self._function(output, target)
            return self.factor * value, self.factor * gradient


def test_a_function_may_be_an_object(rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), dtype="float64")
    x, y, _ = batch(rng, nn.MSELoss())
    v = rng.standard_normal(model.num_parameters)
    operator = Operator(model, x, y, loss=Times(squares_of, 10.0))
    for it in (operator, copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        assert far(it @ v, 10 * hvp(model, x, y, v, loss=nn.MSELoss())) < TOLERANCE


def test_a_function_that_cannot_be_called_is_told_what_it_is_called_with(rng):
    """As in training."""
    model = nn.Sequential(nn.Linear(3, 4), dtype="float64")
    x, y, weight = batch(rng, nn.MSELoss())

    def weighted(output, target, weight):
        return squares_of(output, target)

    for loss, weights, words in (
        (
            squares_of,
            weight,
            r"f\(output, target, weight\), but squares_of takes \(output, target\)",
        ),
        (lambda output: squares_of(output, 0), None, r"f\(output, target\), but <lambda> takes"),
        (weighted, None, r"f\(output, target\), but weighted takes .*: pass sample_weight"),
    ):
        with pytest.raises(tw.ArgumentError, match=words):
            Operator(model, x, y, loss=loss, sample_weight=weights)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_does_not_wait_for_a_product_of_its_parent(rng):
    model = nn.Sequential(nn.Linear(3, 4), dtype="float64")
    x, y, _ = batch(rng, nn.MSELoss())
    parent, inside, over = os.getpid(), threading.Event(), threading.Event()
    over.set()

    def loss(output, target):
        if os.getpid() == parent:
            inside.set()
            over.wait()
        return squares_of(output, target)

    operator, v = Operator(model, x, y, loss=loss), np.ones(model.num_parameters)
    inside.clear()
    over.clear()
    thread = threading.Thread(target=operator.matvec, args=(v,))
    thread.start()
    inside.wait()
    child = multiprocessing.get_context("fork").Process(target=operator.matvec, args=(v,))
    try:
        child.start()
        child.join(20)
        assert child.exitcode == 0
    finally:
        child.kill()
        over.set()
        thread.join()


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
