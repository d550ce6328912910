"""Training beside PyTorch, from the same weights over the same batches: the curves are the same.

Skipped where PyTorch is not installed.
"""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.nn._layers import Activation

from .helpers import kinds_in, types

torch = pytest.importorskip("torch")

torch.set_num_threads(1)  # its threads and ours would only be in each other's way here

STEPS = 200
ROWS, BATCH = 192, 24


def data(loss, rng):
    x = rng.standard_normal((ROWS, 12))
    if isinstance(loss, nn.CrossEntropyLoss):
        return x, (np.abs(x[:, :4]).argmax(axis=1)).astype(np.int64)
    return x, np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2], x[:, 3], x.sum(axis=1)], axis=1)


OPTIMIZERS = {
    "SGD": (
        lambda: optim.SGD(lr=0.05, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    ),
    "SGD, damped, decay": (
        lambda: optim.SGD(lr=0.05, momentum=0.9, dampening=0.3, weight_decay=1e-3),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=1e-3),
    ),
    "SGD, Nesterov": (
        lambda: optim.SGD(lr=0.02, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    ),
    "Adam": (lambda: optim.Adam(), lambda p: torch.optim.Adam(p)),
    "Adam, decay": (
        lambda: optim.Adam(lr=3e-3, betas=(0.8, 0.99), weight_decay=1e-2),
        lambda p: torch.optim.Adam(p, lr=3e-3, betas=(0.8, 0.99), weight_decay=1e-2),
    ),
    "AdamW": (lambda: optim.AdamW(), lambda p: torch.optim.AdamW(p)),
}
LOSSES = {
    "MSE": (nn.MSELoss(), torch.nn.MSELoss()),
    "cross-entropy": (nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()], ids=repr)
def test_two_hundred_steps(activation, optimizer, loss, rng):
    ours, theirs = LOSSES[loss]
    model = nn.Sequential(
        nn.Linear(12, 32), activation, nn.Linear(32, 16), activation, nn.Linear(16, 4),
        dtype="float64", seed=11,
    )  # fmt: skip
    twin = tw.torch.to_torch(model).train()
    make, make_torch = OPTIMIZERS[optimizer]
    trainer = tw.Trainer(model, loss=ours, optimizer=make())
    torch_optimizer = make_torch(twin.parameters())
    x, y = data(ours, rng)
    curve, expected = [], []
    for step in range(STEPS):
        start = step * BATCH % ROWS
        xb, yb = x[start : start + BATCH], y[start : start + BATCH]
        curve.append(trainer.step(xb, yb))
        torch_optimizer.zero_grad()
        value = theirs(twin(torch.tensor(xb)), torch.tensor(yb))
        value.backward()
        torch_optimizer.step()
        expected.append(value.item())
    assert np.mean(curve[-8:]) < 0.97 * np.mean(curve[:8])  # something was learned
    np.testing.assert_allclose(curve, expected, rtol=1e-10)
    for name, values in twin.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[name], values.numpy(), rtol=1e-8, atol=1e-10, err_msg=name
        )


CHANGES = {
    "SGD": ({"lr": 0.05, "momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.01}),
    "Adam": ({}, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    "AdamW": ({}, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.5}),
    "NAdam": ({}, {"betas": (0.5, 0.9), "momentum_decay": 0.1}),
    "RAdam": ({}, {"betas": (0.5, 0.9), "weight_decay": 0.1}),
    "Adamax": ({}, {"betas": (0.5, 0.9), "weight_decay": 0.1}),
    "RMSprop": ({"momentum": 0.5}, {"alpha": 0.5, "momentum": 0.9}),
    "Adagrad": ({}, {"lr_decay": 0.1, "weight_decay": 0.1}),
    "Adadelta": ({}, {"rho": 0.5, "weight_decay": 0.1}),
    "Rprop": ({}, {"etas": (0.3, 1.1), "step_sizes": (1e-3, 0.01)}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_options_that_change_during_training(kind, rng):
    """Attributes here are entries of ``param_groups`` there."""
    options, changes = CHANGES[kind]
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4), dtype="float64", seed=11)
    twin = tw.torch.to_torch(model).train()
    optimizer = getattr(optim, kind)(**options)
    peer = getattr(torch.optim, kind)(twin.parameters(), **options)
    optimizer.lr = peer.param_groups[0]["lr"]
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    x, y = data(nn.MSELoss(), rng)
    for step in range(60):
        if step == 30:
            peer.param_groups[0].update(changes)
            for name, value in changes.items():
                setattr(optimizer, name, value)
        trainer.step(x, y)
        peer.zero_grad()
        torch.nn.functional.mse_loss(twin(torch.tensor(x)), torch.tensor(y)).backward()
        peer.step()
    for name, values in twin.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[name], values.numpy(), rtol=1e-8, atol=1e-10, err_msg=name
        )


NORMALIZED = {
    "before the activation": [nn.Linear(12, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 4)],
    "behind it": [nn.Linear(12, 33), nn.GELU(), nn.BatchNorm1d(33, momentum=0.3), nn.Linear(33, 4)],
    "first, bare, last": [
        nn.BatchNorm1d(12, eps=1e-3), nn.Linear(12, 20), nn.BatchNorm1d(20, affine=False),
        nn.Tanh(), nn.Linear(20, 4), nn.BatchNorm1d(4),
    ],
}  # fmt: skip


@pytest.mark.parametrize("layers", NORMALIZED.values(), ids=NORMALIZED)
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_normalization(layers, threads, rng):
    """Steps, running averages, evaluation, and the gradients of hand-written loops."""
    model = nn.Sequential(*layers, dtype="float64", seed=5)
    twin = tw.torch.to_torch(model).train()
    trainer = tw.Trainer(
        model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.02, momentum=0.9)
    )
    torch_optimizer = torch.optim.SGD(twin.parameters(), lr=0.02, momentum=0.9)
    x, y = data(nn.CrossEntropyLoss(), rng)
    if not isinstance(layers[1], nn.GELU):  # whose layer before it would blow such numbers up
        x = 5 * x + 100  # far from a mean of 0, where a variance in one pass would cancel
    loss = torch.nn.CrossEntropyLoss()
    # Not Adam, which makes full steps of the gradients that are nothing but rounding.
    tw.set_num_threads(threads)
    for step in range(STEPS):
        start = step * BATCH % ROWS
        xb, yb = x[start : start + BATCH], y[start : start + BATCH]
        torch_optimizer.zero_grad()
        value = loss(twin(torch.tensor(xb)), torch.tensor(yb))
        value.backward()
        torch_optimizer.step()
        assert trainer.step(xb, yb) == pytest.approx(value.item(), rel=1e-9)
    for name, values in model.state_dict().items():
        theirs = twin.state_dict()[name].numpy()
        np.testing.assert_allclose(values, theirs, rtol=1e-7, atol=1e-9, err_msg=name)

    x_torch = torch.tensor(x[:50], requires_grad=True)
    y_torch = twin(x_torch)  # still training: statistics of this batch
    out = model.forward(x[:50])
    np.testing.assert_allclose(out, y_torch.detach().numpy(), rtol=1e-6, atol=1e-8)
    g = rng.standard_normal(out.shape)
    twin.zero_grad()
    y_torch.backward(torch.tensor(g))
    model.zero_grad()
    np.testing.assert_allclose(model.backward(g), x_torch.grad.numpy(), rtol=1e-5, atol=1e-8)
    expected = np.concatenate([p.grad.numpy().ravel() for p in twin.parameters()])
    np.testing.assert_allclose(model.flat_gradients, expected, rtol=1e-5, atol=1e-7)

    twin.eval()
    with torch.no_grad():
        np.testing.assert_allclose(model(x), twin(torch.tensor(x)).numpy(), rtol=1e-6, atol=1e-8)
        one = twin(torch.tensor(x[:1])).numpy()
    np.testing.assert_allclose(model(x[:1]), one, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [70, 3000])  # the latter in several waves
def test_normalization_of_rows(threads, rows, rng):
    tw.set_num_threads(threads)
    model = nn.Sequential(
        nn.Linear(5, 130), nn.LayerNorm(130), nn.Tanh(), nn.Linear(130, 67), nn.SiLU(),
        nn.RMSNorm(67), nn.Linear(67, 3), nn.LayerNorm(3, eps=1e-3), dtype="float64", seed=5,
    )  # fmt: skip
    twin = tw.torch.to_torch(model).train()
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    torch_optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    x, y = 5 * rng.standard_normal((rows, 5)) + 20, rng.integers(0, 3, rows)
    for _ in range(20):
        torch_optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        value.backward()
        torch_optimizer.step()
        assert trainer.step(x, y) == pytest.approx(value.item(), rel=1e-12)
    for name, values in model.state_dict().items():
        theirs = twin.state_dict()[name].numpy()
        np.testing.assert_allclose(values, theirs, rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_fit_is_an_epoch_in_pytorch(rng):
    """Through `fit`, short last batch included: 192 rows in batches of 25."""
    ours, theirs = LOSSES["cross-entropy"]
    model = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 4), dtype="float64", seed=1)
    twin = tw.torch.to_torch(model).train()
    x, y = data(ours, rng)
    trainer = tw.Trainer(model, loss=ours, optimizer=optim.AdamW(lr=2e-3))
    history = trainer.fit(x, y, epochs=5, batch_size=25, shuffle=False)
    torch_optimizer = torch.optim.AdamW(twin.parameters(), lr=2e-3)
    for epoch in range(5):
        total = 0.0
        for start in range(0, ROWS, 25):
            xb, yb = torch.tensor(x[start : start + 25]), torch.tensor(y[start : start + 25])
            torch_optimizer.zero_grad()
            value = theirs(twin(xb), yb)
            value.backward()
            torch_optimizer.step()
            total += value.item() * len(xb)
        assert history["loss"][epoch] == pytest.approx(total / ROWS, rel=1e-10)


LAYERS = [
    nn.Linear(9, 9, bias=False),
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    nn.ELU(),
    nn.ELU(0.3),
    nn.CELU(0.5),  # whose inverse is exact: PyTorch rounds it to single precision
    nn.SELU(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Softplus(),
    nn.Softplus(0.5),
    nn.Softsign(),
    nn.Sine(2.0),
    nn.Hardtanh(),
    nn.Hardtanh(-2.0, 0.5),
    nn.ReLU6(),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Identity(),
    nn.LayerNorm(9),
    nn.LayerNorm((9,), eps=1e-3, bias=False),
    nn.LayerNorm(9, elementwise_affine=False),
    nn.RMSNorm(9),
    nn.RMSNorm((9,), eps=1e-2),
    nn.RMSNorm(9, elementwise_affine=False),
    nn.Dropout(0.0),
]
PLACES = {
    "first": lambda layer: [layer, nn.Linear(9, 5)],
    "in the middle": lambda layer: [nn.Linear(9, 9), layer, nn.Linear(9, 5)],
    "last": lambda layer: [nn.Linear(9, 9), layer],
    "twice": lambda layer: [nn.Linear(9, 9), layer, layer],
}


def test_every_activation_is_here():
    """And every layer is in `exchange`, whose models are compared with PyTorch's, too."""
    assert kinds_in(nn, Activation) - {nn.Flatten} <= types(LAYERS)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_and_gradients_of_a_layer(layer, place, rows, threads, rng):
    tw.set_num_threads(threads)
    model = nn.Sequential(*PLACES[place](layer), dtype="float64", seed=2)
    state = model.state_dict()  # with scales and shifts that are not 1 and 0
    vectors = {k: rng.standard_normal(v.shape) for k, v in state.items() if v.ndim == 1}
    model.load_state_dict(state | vectors)
    twin = tw.torch.to_torch(model).train()
    x = 3 * rng.standard_normal((rows, 9))
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = twin(x_torch)
    y = model.forward(x)
    g = rng.standard_normal(y.shape)
    y_torch.backward(torch.tensor(g))
    np.testing.assert_allclose(y, y_torch.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(model(x), y, rtol=1e-12, atol=1e-13)
    # PyTorch rounds the 1/6 of this derivative to single precision.
    rtol = 1e-7 if isinstance(layer, nn.Hardsigmoid) else 1e-12
    np.testing.assert_allclose(model.backward(g), x_torch.grad.numpy(), rtol=rtol, atol=1e-13)
    expected = [p.grad.numpy().ravel() for p in twin.parameters()]
    np.testing.assert_allclose(
        model.flat_gradients, np.concatenate([np.empty(0), *expected]), rtol=rtol, atol=1e-12
    )


def test_derivatives_at_exactly_zero_are_pytorchs():
    for layer in (nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.SELU(), nn.ReLU6()):
        model = nn.Sequential(nn.Linear(3, 3, bias=False), layer, dtype="float64")
        x = torch.zeros((1, 3), dtype=torch.float64, requires_grad=True)
        tw.torch.to_torch(model)(x).sum().backward()
        model.forward(np.zeros((1, 3)))
        found, theirs = model.backward(np.ones((1, 3))), x.grad.numpy()
        # Sums of three: to the last bit, but for their order.
        np.testing.assert_allclose(found, theirs, rtol=1e-14, atol=0)


def test_float32_training_stays_close(rng):
    ours, theirs = LOSSES["cross-entropy"]
    model = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 4), seed=3)
    twin = tw.torch.to_torch(model).train()
    trainer = tw.Trainer(model, loss=ours, optimizer=optim.SGD(lr=0.1, momentum=0.9))
    torch_optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    x, y = data(ours, rng)
    x = x.astype(np.float32)
    for step in range(100):
        start = step * BATCH % ROWS
        xb, yb = x[start : start + BATCH], y[start : start + BATCH]
        torch_optimizer.zero_grad()
        value = theirs(twin(torch.tensor(xb)), torch.tensor(yb))
        value.backward()
        torch_optimizer.step()
        assert trainer.step(xb, yb) == pytest.approx(value.item(), rel=1e-4)


def test_tensors_are_read_as_arrays(rng):
    model = nn.Sequential(nn.Linear(4, 2), dtype="float64")
    x = rng.standard_normal((3, 4))
    np.testing.assert_array_equal(model(torch.tensor(x)), model(x))
