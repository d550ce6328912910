"""What a custom loss cannot do: take other derivatives, call forward, or be complex."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

X = np.linspace(0, 1, 32)[:, np.newaxis]
Y = np.sin(3 * X)


def small():
    return nn.Sequential(
        nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1),
        dtype="float64", seed=0,
    )  # fmt: skip


def smooth():
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1), dtype="float64", seed=0)


@pytest.mark.parametrize(
    ("order", "function", "advice"),
    [
        (1, lambda u, du, d2u, y: None, "pass order=2, or remove d2u"),
        ((1, 1), lambda u, du, d2u, y: None, "pass order=2, or remove d2u"),
        (1, lambda u, du, d2u, y, weight=None: None, "pass order=2, or remove d2u"),
        (1, lambda u, du, d2u, y, weight: None, "pass order=2, or remove d2u"),
        (2, lambda u, du, y: None, "pass order=1"),
        (2, lambda u, du, y, weight: None, "pass order=1"),
        (2, lambda u, du, y, sample_weight=None: None, "pass order=1"),
    ],
)
def test_a_function_of_another_order_is_refused_at_once(order, function, advice):
    """The last argument would be taken for another one, and the loss would be of nonsense."""
    with pytest.raises(tw.ArgumentError, match=rf"order=.* calls f\(u, du, .*{advice}$"):
        nn.DerivativeLoss(function, order=order)


@pytest.mark.parametrize("function", [lambda u: None, lambda u, du, a, b, c, d: None])
@pytest.mark.parametrize("order", [1, 2])
def test_a_function_of_no_order_is_refused_at_once(order, function):
    with pytest.raises(tw.ArgumentError, match=r"is called as f\(u, du, .*but <lambda> takes"):
        nn.DerivativeLoss(function, order=order)


@pytest.mark.parametrize(
    ("order", "function"),
    [
        (1, lambda u, du, y: None),
        (1, lambda u, du, y, w: None),
        (1, lambda u, du, y, weight=None: None),
        (1, lambda *arrays: None),
        (2, lambda u, du, d2u, y: None),
        (2, lambda u, du, d2u, y, w: None),
        (2, lambda *arrays, **options: None),
        ((2, 1), lambda u, du, d2u, y: None),
    ],
)
def test_other_functions_are_accepted(order, function):
    assert nn.DerivativeLoss(function, order=order).function is function


def test_second_derivatives_by_another_name_are_mentioned():
    loss = nn.DerivativeLoss(lambda u, du, u_xx, y: None, order=1)
    trainer = tw.Trainer(smooth(), loss=loss, optimizer=optim.SGD(lr=0.1))
    with pytest.raises(tw.ArgumentError, match="If its third argument is d2u, pass order=2"):
        trainer.step(X, Y)


@pytest.mark.parametrize("rows", [32, 5])
@pytest.mark.parametrize(
    "make",
    [lambda: optim.SGD(lr=0.1), lambda: optim.SAM(optim.SGD(lr=0.1)), optim.LBFGS],
    ids=["SGD", "SAM", "LBFGS"],
)
@pytest.mark.parametrize("method", ["step", "backward", "fit"])
def test_a_pass_inside_a_loss_is_an_error(method, make, rows):
    """The gradient went back through the rows of that pass instead, without a word."""
    model = small()

    def loss(output, target):
        model.forward(X[:rows] + 5)
        d = output - target
        return np.mean(d**2), 2 * d / d.size

    trainer = tw.Trainer(model, loss=loss, optimizer=make())
    before = {name: value.copy() for name, value in model.state_dict().items()}
    gradients = model.flat_gradients.copy()
    with pytest.raises(tw.ArgumentError, match=r"called model\.forward.* Use model\(x\)"):
        getattr(trainer, method)(X, Y)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    if method != "fit":
        np.testing.assert_array_equal(model.flat_gradients, gradients)
    assert model._core.passes() == 0


def test_a_pass_inside_a_loss_of_derivatives_is_an_error_and_a_jet_is_not():
    def update(inside):
        model = smooth()

        def loss(u, du, target):
            inside(model)
            r = du[0] - target
            return np.mean(r**2), (None, (2 * r / r.size)[np.newaxis])

        given = nn.DerivativeLoss(loss, order=1)
        tw.Trainer(model, loss=given, optimizer=optim.SGD(lr=0.1)).step(X, Y)
        return model.flat_parameters

    with pytest.raises(tw.ArgumentError, match=r"called model\.forward"):
        update(lambda model: model.forward(X + 5))
    expected = update(lambda model: None)
    np.testing.assert_array_equal(update(lambda model: model(X + 5)), expected)
    np.testing.assert_array_equal(update(lambda model: tw.curvature.jet(model, X + 5)), expected)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda o, t: (np.mean(o) * 1j, o), "the loss"),
        (lambda o, t: (complex(1, 1), o), "the loss"),
        (lambda o, t: (1.0, o * 1j), "the gradient of the loss"),
    ],
)
def test_what_is_complex_is_told_to_be_real(loss, what):
    trainer = tw.Trainer(smooth(), loss=loss, optimizer=optim.SGD(lr=0.1))
    with pytest.raises(tw.DtypeError, match=f"^{what} must be real; got complex numbers"):
        trainer.step(X, Y)
