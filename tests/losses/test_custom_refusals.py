"""What a custom loss cannot do: write to its targets, train inside, be complex, and so on."""

import contextlib

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
        (1, lambda u, du, d2u: None, "pass order=2, or remove d2u"),
        (2, lambda u, du, d2u: None, "add target after d2u, for the rows of y"),
        (2, lambda u, du, d2u, weight=None: None, "add target after d2u, for the rows of y"),
        (1, lambda u, du: None, "add target after du, for the rows of y"),
        (1, lambda u, du, sample_weight=None: None, "add target after du, for the rows of y"),
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [32, 5])
@pytest.mark.parametrize(
    "make",
    [lambda: optim.SGD(lr=0.1), lambda: optim.SAM(optim.SGD(lr=0.1)), optim.LBFGS],
    ids=["SGD", "SAM", "LBFGS"],
)
@pytest.mark.parametrize("method", ["step", "backward", "fit"])
def test_a_pass_inside_a_loss_is_an_error(method, make, rows, training):
    """The gradient went back through the rows of that pass instead, without a word."""
    model = small()

    def loss(output, target):
        model.forward(X[:rows] + 5, training)
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


def test_passes_inside_a_loss_of_derivatives_leave_its_own_alone():
    def update(inside):
        model = smooth()

        def loss(u, du, target):
            inside(model)
            r = du[0] - target
            return np.mean(r**2), (None, (2 * r / r.size)[np.newaxis])

        given = nn.DerivativeLoss(loss, order=1)
        tw.Trainer(model, loss=given, optimizer=optim.SGD(lr=0.1)).step(X, Y)
        return model.flat_parameters

    expected = update(lambda model: None)
    np.testing.assert_array_equal(update(lambda model: model(X + 5)), expected)
    np.testing.assert_array_equal(update(lambda model: model.forward(X + 5)), expected)
    np.testing.assert_array_equal(update(lambda model: tw.curvature.jet(model, X + 5)), expected)


@pytest.mark.parametrize("order", [1, 2])
def test_an_evaluation_inside_a_loss_leaves_its_pass_alone(order):
    """It replaced that of derivatives, and gradients went back through its rows."""

    def update(inside):
        def loss(u, du, *others):
            calls.append(None)
            if len(calls) == 1:  # the evaluation calls it, too
                inside(trainer)
            r = du - others[-1]
            return np.mean(r**2), (None, 2 * r / r.size, None)[: 1 + order]

        calls = []
        given = nn.DerivativeLoss(loss, order=order)
        trainer = tw.Trainer(smooth(), loss=given, optimizer=optim.SGD(lr=0.1))
        trainer.step(X, Y)
        return trainer.model.flat_parameters

    expected = update(lambda trainer: None)
    np.testing.assert_array_equal(update(lambda trainer: trainer.evaluate(X + 5, Y)), expected)


def squares(output, target):
    return np.mean((output - target) ** 2), 2 * (output - target) / output.size


def values(u, du, target):
    loss, gradient = squares(u, target)
    return loss, (gradient, None)


def slopes(u, du, target):
    return np.mean(du**2), (None, 2 * du / du.size)


OF_DERIVATIVES = nn.DerivativeLoss(values, order=1)
#: A loss, and one of which a second trainer computes the gradients within it.
PAIRS = {
    "derivatives in derivatives": (nn.DerivativeLoss(slopes, order=1), OF_DERIVATIVES),
    "a loss of the core in derivatives": (nn.DerivativeLoss(slopes, order=1), nn.MSELoss()),
    "a function in derivatives": (nn.DerivativeLoss(slopes, order=1), nn.CustomLoss(squares)),
    "derivatives in a function": (nn.CustomLoss(squares), OF_DERIVATIVES),
    "a loss of the core in a function": (nn.CustomLoss(squares), nn.MSELoss()),
}


def with_another(outer, inside):
    """A loss that also calls a function each time."""

    def both(*arrays):
        return outer.function(*arrays)[0] + inside(), outer.function(*arrays)[1]

    if isinstance(outer, nn.DerivativeLoss):
        return nn.DerivativeLoss(both, order=1)
    return nn.CustomLoss(both)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", ["step", "backward", "fit", "fit with SAM", "fit with a hook"])
def test_gradients_added_inside_a_loss_are_part_of_its_own(method, pair):
    """Steps discarded them, although `backward` did not."""
    outer, inner = PAIRS[pair]
    model, edge = smooth(), X[:5] + 1
    sgd = optim.SGD(lr=1.0)
    other = tw.Trainer(model, loss=inner, optimizer=optim.SGD())
    loss = with_another(outer, lambda: other.backward(edge, Y[:5]))
    optimizer = optim.SAM(sgd, rho=0.0) if method == "fit with SAM" else sgd
    trainer = tw.Trainer(model, loss=loss, optimizer=optimizer)
    alone = smooth()
    for each, x, y in ((outer, X, Y), (inner, edge, Y[:5])):
        tw.Trainer(alone, loss=each, optimizer=optim.SGD()).backward(x, y)

    before = model.flat_parameters
    if method == "backward":
        trainer.backward(X, Y)
        found = model.flat_gradients
    elif method == "step":
        trainer.step(X, Y)
        found = before - model.flat_parameters
    elif method == "fit with a hook":
        with trainer.gradient_hook(lambda gradient: gradient):
            trainer.fit(X, Y, batch_size=None)
        found = before - model.flat_parameters
    else:
        trainer.fit(X, Y, batch_size=None)
        found = before - model.flat_parameters
    np.testing.assert_allclose(found, alone.flat_gradients, rtol=1e-12, atol=1e-14)


WRITES = {
    "a step of derivatives": lambda model: tw.Trainer(
        model, loss=OF_DERIVATIVES, optimizer=optim.SGD(lr=0.1)
    ).step(X[:5], Y[:5]),
    "a step of the core": lambda model: tw.Trainer(
        model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1)
    ).step(X[:5], Y[:5]),
    "parameters": lambda model: setattr(model, "flat_parameters", 2 * model.flat_parameters),
}


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("outer", [nn.CustomLoss(squares), OF_DERIVATIVES], ids=["u", "du"])
@pytest.mark.parametrize("method", ["step", "backward", "fit"])
def test_other_parameters_inside_a_loss_are_an_error(method, outer, what):
    """The gradient is that of a point that the model has left."""
    model = smooth()
    loss = with_another(outer, lambda: WRITES[what](model) or 0.0)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    model.flat_gradients = np.arange(model.num_parameters)
    before, gradients = model.flat_parameters, model.flat_gradients
    with pytest.raises(
        tw.ArgumentError, match=r"changed the model's parameters.* the model is as it was"
    ):
        getattr(trainer, method)(X, Y)
    np.testing.assert_array_equal(model.flat_parameters, before)
    np.testing.assert_array_equal(model.flat_gradients, gradients)
    assert trainer.optimizer.steps == 0


@pytest.mark.parametrize("method", ["step", "backward", "fit"])
def test_averages_and_dropout_are_as_before_such_an_error(method):
    model = small()
    loss = with_another(nn.CustomLoss(squares), lambda: WRITES["parameters"](model) or 0.0)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    with pytest.raises(tw.ArgumentError, match="changed the model's parameters"):
        getattr(trainer, method)(X, Y)
    for name, array in small().state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    assert model._core.passes() == 0


def test_a_function_in_a_function_is_an_error():
    """Both are of the last pass through the model."""
    model, custom = smooth(), nn.CustomLoss(squares)
    other = tw.Trainer(model, loss=custom, optimizer=optim.SGD())
    loss = with_another(custom, lambda: other.backward(X[:5], Y[:5]))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD())
    with pytest.raises(tw.ArgumentError, match="or another trainer with a custom loss, which repl"):
        trainer.step(X, Y)
    np.testing.assert_array_equal(model.flat_parameters, smooth().flat_parameters)


AGAIN = {
    "step": lambda trainer: trainer.step(X[:5], Y[:5]),
    "update": lambda trainer: trainer.update(),
    "backward": lambda trainer: trainer.backward(X[:5], Y[:5]),
    "fit": lambda trainer: trainer.fit(X[:5], Y[:5], lr=3.0),
    "fit with batches": lambda trainer: trainer.fit([(X[:5], Y[:5])], lr=3.0),
}
OPTIMIZERS = {
    "Adam": lambda: optim.Adam(),
    "SAM": lambda: optim.SAM(optim.Adam()),
    "LBFGS": lambda: optim.LBFGS(max_iter=2),
    "a hook": lambda: optim.Adam(),
}


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("outer", [nn.CustomLoss(squares), OF_DERIVATIVES], ids=["u", "du"])
@pytest.mark.parametrize("method", ["step", "backward", "fit"])
def test_a_trainer_inside_its_own_loss_is_refused(method, outer, kind, again):
    """Before anything has changed: a function that goes on without it trains as without it."""
    refused = []

    def inside(trainer):
        with pytest.raises(tw.ThalwegError) as found:
            AGAIN[again](trainer)
        refused.append(str(found.value))
        return 0.0

    def trained(call):
        loss = with_another(outer, lambda: call(trainer))
        options = {"accumulate_grad_batches": 2, "average": optim.EMA(0.5)}
        trainer = tw.Trainer(
            smooth(), loss=loss, optimizer=OPTIMIZERS[kind](), **options if kind != "LBFGS" else {}
        )
        hook = trainer.gradient_hook(lambda g: g) if kind == "a hook" else contextlib.nullcontext()
        with hook:
            for rows in (32, 20, 10):
                data = X[:rows], Y[:rows]
                if method == "fit":
                    trainer.fit(*data, batch_size=None, epochs=2)
                else:
                    getattr(trainer, method)(*data)
        trainer.history.pop("seconds", None)
        model, core = trainer.model, trainer._core
        return (
            model.flat_parameters.tolist(), model.flat_gradients.tolist(), trainer.optimizer.steps,
            trainer.optimizer.lr, repr(core.gathered()), repr(core.average()), trainer.history,
        )  # fmt: skip

    assert trained(inside) == trained(lambda trainer: 0.0)
    name = again.split()[0]
    expected = f"trainer.{name} was called by a function within a step of the same trainer"
    if name == "fit" and method == "fit":
        expected = "this trainer is already in a fit"
    elif name == "update" and kind in ("SAM", "LBFGS"):
        expected = f"{kind} evaluates the loss more than once"
    assert refused
    assert all(expected in message for message in refused), refused[0]


def test_what_a_trainer_inside_its_own_loss_raises_ends_the_step():
    trainer = tw.Trainer(
        smooth(),
        loss=with_another(nn.CustomLoss(squares), lambda: trainer.step(X, Y)),
        optimizer=optim.Adam(),
    )
    for train in (trainer.step, trainer.backward, trainer.fit):
        with pytest.raises(
            tw.ArgumentError, match=r"^trainer\.step was called by a function within"
        ):
            train(X, Y)
        np.testing.assert_array_equal(trainer.model.flat_parameters, smooth().flat_parameters)
        assert not trainer.model.flat_gradients.any()
        assert trainer.optimizer.steps == 0


@pytest.mark.parametrize("kind", ["an array", "a dict", "weights"])
@pytest.mark.parametrize("order", [None, 1, 2])
@pytest.mark.parametrize(
    "method", ["step", "backward", "evaluate", "fit", "batches", "validation", "LBFGS", "gradcheck"]
)
def test_targets_and_weights_cannot_be_written_to(method, order, kind):
    """They may be the user's own memory, and what a pass destroyed, the next one would miss."""

    def write(*arrays):
        target = arrays[-1] if kind != "a dict" else arrays[-1]["a"]
        target[0] = 0
        return 0.0, np.zeros_like(arrays[0]) if order is None else (None,) * (1 + order)

    y = {"a": Y.copy(), "b": Y} if kind == "a dict" else Y.copy()
    w = np.ones(len(X)) if kind == "weights" else None
    loss = nn.CustomLoss(write) if order is None else nn.DerivativeLoss(write, order=order)
    trainer = tw.Trainer(smooth(), loss=loss, optimizer=optim.SGD(lr=0.1))
    if method == "LBFGS":
        trainer = tw.Trainer(smooth(), loss=loss, optimizer=optim.LBFGS())
    data = (X, y) if w is None else (X, y, w)
    call = {
        "fit": lambda: trainer.fit(X, y, sample_weight=w, batch_size=8),
        "batches": lambda: trainer.fit([data]),
        "validation": lambda: trainer.fit(X, y, sample_weight=w, validation_data=data),
        "LBFGS": lambda: trainer.fit(X, y, sample_weight=w, batch_size=None),
        "gradcheck": lambda: tw.gradcheck(trainer.model, X, y, loss=loss, sample_weight=w),
    }.get(method, lambda: getattr(trainer, method)(*data))
    with pytest.raises(ValueError, match="read-only"):
        call()
    np.testing.assert_array_equal(y["a"] if kind == "a dict" else y, Y)
    assert (y["a"] if kind == "a dict" else y).flags.writeable
    assert w is None or (w == 1).all()


@pytest.mark.parametrize("method", ["step", "evaluate", "gradcheck"])
@pytest.mark.parametrize("loss", [nn.CustomLoss(squares), OF_DERIVATIVES], ids=["u", "du"])
def test_outputs_can_be_written_to(loss, method):
    """They are the function's own."""

    def writing(*arrays):
        found = loss.function(*(array.copy() for array in arrays))
        for array in arrays[:-1]:
            array[:] = np.nan
        return found

    own = nn.CustomLoss(writing)
    if isinstance(loss, nn.DerivativeLoss):
        own = nn.DerivativeLoss(writing, order=1)
    if method == "gradcheck":
        assert tw.gradcheck(smooth(), X, Y, loss=own)
        return
    ends = []
    for each in (loss, own):
        trainer = tw.Trainer(smooth(), loss=each, optimizer=optim.SGD(lr=0.1))
        ends.append([getattr(trainer, method)(X, Y), trainer.model.flat_parameters.tolist()])
    assert ends[0] == ends[1]


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


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (nn.CustomLoss(lambda o, t: (1.0, [[1], [2, 3]])), "the gradient of the loss"),
        (nn.CustomLoss(lambda o, t: ([[1], [2, 3]], o)), "the loss"),
        (
            nn.DerivativeLoss(lambda u, du, t: (1.0, ([[1], [2, 3]], du)), order=1),
            "the gradient of the loss with respect to u",
        ),
    ],
)
def test_what_is_ragged_is_told_by_its_name(loss, what):
    """NumPy's own error would be taken for one of the function, and keep what was learned."""
    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=loss, optimizer=optim.SGD())
    with pytest.raises(tw.ShapeError, match=f"^{what} cannot be made an array"):
        trainer.fit(np.ones((4, 2)), np.ones((4, 1)))
