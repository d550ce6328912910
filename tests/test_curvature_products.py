"""Products with second derivatives are exact: beside PyTorch's, for every layer and loss.

PyTorch differentiates its own gradient, in float64 and from the same weights. What is compared are
whole matrices, so that no direction is left out; a product by differences would be off by 1e-9 and
fail. Skipped where PyTorch is not installed.
"""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn
from thalweg.curvature import (
    Operator,
    fisher_vp,
    gnvp,
    hvp,
    jacobian,
    jvp,
    sample_gradients,
)
from thalweg.nn._losses import CoreLoss

from .helpers import kinds_in, types

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

N, FEATURES, OUTPUTS = 11, 3, 4
TOLERANCE = 1e-12


class TorchResidual(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        for i, layer in enumerate(inner):
            self.add_module(str(i), layer)

    def forward(self, x):
        y = x
        for layer in self.children():
            y = layer(y)
        return x + y


class TorchConcatenate(torch.nn.Sequential):
    def __init__(self, inner):
        super().__init__(*inner)

    def forward(self, x):
        return torch.hstack([x, super().forward(x)])


class TorchFourier(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        frequencies = torch.zeros(layer.in_features, layer.out_features // 2)
        self.register_buffer("frequencies", frequencies)

    def forward(self, x):
        z = 2 * torch.pi * x @ self.frequencies
        return torch.cat([z.sin(), z.cos()], dim=1)


class TorchTable(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        columns = [column for column, _, _ in layer.categories]
        self.numbers = [i for i in range(layer.in_features) if i not in columns]
        for column, codes, dim in layer.categories:
            self.add_module(str(column), torch.nn.Embedding(codes, dim))

    def forward(self, x):
        embedded = [table(x[:, int(name)].long()) for name, table in self.named_children()]
        return torch.cat([x[:, self.numbers], *embedded], dim=1)


class TorchScales(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.mean, self.std = torch.tensor(layer.mean).double(), torch.tensor(layer.std).double()
        self.inverse = layer.inverse

    def forward(self, x):
        return x * self.std + self.mean if self.inverse else (x - self.mean) / self.std


class Lambda(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def twin(layers, masks=None):
    """The same layers in PyTorch; `masks` are the factors of dropout."""
    made = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            made.append(torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias))
        elif isinstance(layer, nn.BatchNorm1d):
            made.append(torch.nn.BatchNorm1d(layer.num_features, layer.eps, affine=layer.affine))
        elif isinstance(layer, nn.LayerNorm):
            made.append(torch.nn.LayerNorm(layer.normalized_shape, layer.eps))
        elif isinstance(layer, nn.RMSNorm):
            made.append(torch.nn.RMSNorm(layer.normalized_shape, layer.eps))
        elif isinstance(layer, nn.FourierFeatures):
            made.append(TorchFourier(layer))
        elif isinstance(layer, nn.Standardize):
            made.append(TorchScales(layer))
        elif isinstance(layer, nn.TabularInput):
            made.append(TorchTable(layer))
        elif isinstance(layer, nn.Residual):
            made.append(TorchResidual(twin(layer.layers)))
        elif isinstance(layer, nn.Concatenate):
            made.append(TorchConcatenate(twin(layer.layers)))
        elif isinstance(layer, nn.Dropout):
            made.append(Lambda(lambda x: x * masks))
        elif isinstance(layer, nn.Sine):
            made.append(Lambda(lambda x, omega=layer.omega: torch.sin(omega * x)))
        elif isinstance(layer, nn.Hardsigmoid):  # theirs has no second derivative
            made.append(Lambda(lambda x: torch.clamp(x / 6 + 0.5, 0, 1)))
        else:
            arguments = [getattr(layer, name) for name in layer.__dataclass_fields__]
            made.append(getattr(torch.nn, type(layer).__name__)(*arguments))
    return made


def matrices(model, loss, x, masks=None, training=True):
    """PyTorch's Hessian and Gauss-Newton matrix of loss(f(x)) by all parameters in our order."""
    net = torch.nn.Sequential(*twin(model.layers, masks)).double().train(training)
    state = {k: torch.tensor(v) for k, v in model.state_dict().items()}
    names = [k for k, _ in net.named_parameters()]
    shapes = [state[k].shape for k in names]
    buffers = {k: v for k, v in state.items() if k not in names}
    x = torch.tensor(x)

    def output(flat):
        parts = torch.split(flat, [s.numel() for s in shapes])
        values = {k: p.reshape(s) for k, p, s in zip(names, parts, shapes, strict=True)}
        kept = {k: v.clone() for k, v in buffers.items()}
        return torch.func.functional_call(net, {**values, **kept}, (x,))

    flat = torch.tensor(model.flat_parameters, requires_grad=True)
    hessian = torch.autograd.functional.hessian(lambda t: loss(output(t)), flat)
    jacobian = torch.autograd.functional.jacobian(output, flat).reshape(-1, flat.numel())
    out = output(flat).detach()
    inner = torch.autograd.functional.hessian(loss, out).reshape(out.numel(), out.numel())
    return hessian.numpy(), (jacobian.T @ inner @ jacobian).numpy()


def net(*middle, last=None):
    """A float64 model with these layers of width 5 in the middle."""
    layers = [nn.Linear(FEATURES, 5), *middle, nn.Linear(5, OUTPUTS), *([last] if last else [])]
    return nn.Sequential(*layers, dtype="float64", seed=4)


def batch(rng):
    x = rng.standard_normal((N, FEATURES))
    return x, rng.integers(0, OUTPUTS, N)


def agree(ours, theirs):
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


ACTIVATIONS = [
    nn.Identity(), nn.ReLU(), nn.LeakyReLU(0.1), nn.ReLU6(), nn.ELU(0.7), nn.CELU(0.5), nn.SELU(),
    nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Tanh(), nn.Softsign(), nn.Sigmoid(),
    nn.LogSigmoid(), nn.Softplus(2.0), nn.Hardtanh(-0.5, 0.7), nn.Hardsigmoid(), nn.Hardswish(),
    nn.Sine(2.0),
]  # fmt: skip
OTHERS = {
    "BatchNorm1d": (nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 5), nn.BatchNorm1d(5, affine=False)),
    "LayerNorm": (nn.LayerNorm(5), nn.Tanh()),
    "RMSNorm": (nn.RMSNorm(5), nn.Tanh(), nn.Linear(5, 5), nn.RMSNorm(5)),
    "Residual": (nn.Tanh(), nn.Residual(nn.LayerNorm(5), nn.Linear(5, 5), nn.Sigmoid())),
    "Residual of BatchNorm1d": (nn.Residual(nn.BatchNorm1d(5), nn.GELU()), nn.Linear(5, 5)),
    "Concatenate": (
        nn.Concatenate(nn.Tanh(), nn.Concatenate(nn.Linear(5, 2), nn.GELU()), nn.Linear(7, 3)),
        nn.Sigmoid(),
        nn.Linear(8, 5),
    ),
    "Concatenate of BatchNorm1d": (nn.Concatenate(nn.BatchNorm1d(5), nn.SiLU()), nn.Linear(10, 5)),
    "two activations": (nn.Tanh(), nn.SiLU()),
    "no activation": (),
}


@pytest.mark.parametrize("middle", [(a,) for a in ACTIVATIONS] + list(OTHERS.values()), ids=repr)
def test_every_layer_has_the_hessian_that_torch_finds(middle, rng):
    model = net(*middle)
    # Scales, shifts and biases that are not their first values, which hide mistakes.
    model.flat_parameters = model.flat_parameters + 0.3 * rng.standard_normal(model.num_parameters)
    x, y = batch(rng)
    cross_entropy = lambda o: torch.nn.functional.cross_entropy(o, torch.tensor(y))  # noqa: E731
    for training in (True, False):
        hessian, gauss_newton = matrices(model, cross_entropy, x, training=training)
        arguments = {"loss": nn.CrossEntropyLoss(), "training": training}
        agree(Operator(model, x, y, **arguments).dense(), hessian)
        agree(Operator(model, x, y, **arguments, kind="gauss_newton").dense(), gauss_newton)


#: Layers for inputs of other kinds; behind others they are differentiated by what they take.
ENCODERS = {
    "Fourier features": (nn.FourierFeatures(FEATURES, 4, sigma=0.7), nn.Linear(8, 5)),
    "Fourier features inside": (
        nn.Linear(FEATURES, 5), nn.Tanh(), nn.FourierFeatures(5, 3, sigma=0.2), nn.Linear(6, 5),
    ),
    "Fourier features in a block": (
        nn.Linear(FEATURES, 5),
        nn.Residual(nn.FourierFeatures(5, 3, sigma=0.2), nn.Linear(6, 5), nn.Tanh()),
    ),
    "scales": (nn.Standardize([0.5] * FEATURES, [0.3] * FEATURES), nn.Linear(FEATURES, 5)),
    "scales in a block": (
        nn.Linear(FEATURES, 5),
        nn.Residual(nn.Standardize([0.5, 0, 1, 2, 3], [0.3, 1, 3, 5, 2]), nn.Linear(5, 5)),
        nn.Tanh(),
        nn.Standardize([0.5, 0, 1, 2, 3], [0.3, 1, 3, 1, 2], inverse=True),
    ),
    "tables": (nn.TabularInput(FEATURES, {0: (4, 2), 2: (3, 1)}), nn.Linear(4, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_has_the_hessian_and_the_tangent_that_torch_finds(name, rng):
    layers = *ENCODERS[name], nn.Tanh(), nn.Linear(5, OUTPUTS)
    model = nn.Sequential(*layers, dtype="float64", seed=4)
    x, y = batch(rng)
    if name == "tables":
        x[:, 0], x[:, 2] = rng.integers(0, 4, N), rng.integers(0, 3, N)
    cross_entropy = lambda o: torch.nn.functional.cross_entropy(o, torch.tensor(y))  # noqa: E731
    hessian, gauss_newton = matrices(model, cross_entropy, x)
    agree(Operator(model, x, y, loss=nn.CrossEntropyLoss()).dense(), hessian)
    agree(
        Operator(model, x, y, loss=nn.CrossEntropyLoss(), kind="gauss_newton").dense(), gauss_newton
    )
    # Forward mode, in a direction of inputs and parameters.
    v, dx = rng.standard_normal(model.num_parameters), rng.standard_normal(x.shape)
    net = torch.nn.Sequential(*twin(model.layers)).double()
    state = {k: torch.tensor(p) for k, p in model.state_dict().items()}
    names = [k for k, _ in net.named_parameters()]
    fixed = {k: p for k, p in state.items() if k not in names}
    parts = torch.split(torch.tensor(v), [state[k].numel() for k in names])
    tangents = tuple(part.reshape(state[k].shape) for k, part in zip(names, parts, strict=True))

    def theirs(x, *values):
        values = dict(zip(names, values, strict=True))
        return torch.func.functional_call(net, {**values, **fixed}, (x,))

    _, want = torch.autograd.functional.jvp(
        theirs, (torch.tensor(x), *(state[k] for k in names)), (torch.tensor(dx), *tangents)
    )
    agree(jvp(model, x, v, dx=dx)[1], want.numpy())


def _labels(rng):
    return rng.integers(0, OUTPUTS, N)


def _numbers(rng):
    return rng.standard_normal((N, OUTPUTS))


def _shares(rng):
    return rng.dirichlet(np.ones(OUTPUTS), N)


def _counts(rng):
    return rng.poisson(3.0, (N, OUTPUTS)).astype(float)


F = torch.nn.functional
CLASS_WEIGHTS = np.array([0.5, 1.0, 2.0, 3.0])
#: Ours, the targets, theirs.
LOSSES = {
    "mse": (nn.MSELoss(), _numbers, F.mse_loss),
    "mse, sum": (
        nn.MSELoss(reduction="sum"),
        _numbers,
        lambda o, y: F.mse_loss(o, y, reduction="sum"),
    ),
    "l1": (nn.L1Loss(), _numbers, F.l1_loss),
    "huber": (nn.HuberLoss(delta=0.8), _numbers, lambda o, y: F.huber_loss(o, y, delta=0.8)),
    "cross-entropy": (nn.CrossEntropyLoss(), _labels, F.cross_entropy),
    "cross-entropy, weighted and smoothed": (
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.2),
        _labels,
        lambda o, y: F.cross_entropy(
            o, y, weight=torch.tensor(CLASS_WEIGHTS), label_smoothing=0.2
        ),
    ),
    "cross-entropy, ignoring": (
        nn.CrossEntropyLoss(ignore_index=1),
        _labels,
        lambda o, y: F.cross_entropy(o, y, ignore_index=1),
    ),
    "cross-entropy of shares": (nn.CrossEntropyLoss(), _shares, F.cross_entropy),
    "cross-entropy, heads": (
        nn.CrossEntropyLoss(CLASS_WEIGHTS, heads=(1, 3)),
        _labels,
        lambda o, y: F.cross_entropy(
            # Classes of the other head as if their logits were -inf.
            o.masked_fill((torch.arange(OUTPUTS) == 0) != (y == 0)[:, None], -torch.inf),
            y,
            weight=torch.tensor(CLASS_WEIGHTS),
        ),
    ),
    "cross-entropy of shares, heads": (
        nn.CrossEntropyLoss(heads=(2, OUTPUTS - 2), label_smoothing=0.2),
        _shares,
        lambda o, y: sum(
            F.cross_entropy(o[:, part], y[:, part], label_smoothing=0.2)
            for part in (slice(0, 2), slice(2, None))
        ),
    ),
    "cross-entropy, active": (
        nn.CrossEntropyLoss(active=(0, 2), label_smoothing=0.2),
        lambda rng: 2 * rng.integers(0, 2, N),
        lambda o, y: F.cross_entropy(o[:, [0, 2]], y // 2, label_smoothing=0.2),
    ),
    "bce": (nn.BCEWithLogitsLoss(), _shares, F.binary_cross_entropy_with_logits),
    "bce, weighted": (
        nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS),
        _shares,
        lambda o, y: F.binary_cross_entropy_with_logits(
            o, y, pos_weight=torch.tensor(CLASS_WEIGHTS)
        ),
    ),
    "gaussian": (
        nn.GaussianNLLLoss(),
        lambda rng: rng.standard_normal((N, 2)),
        lambda o, y: F.gaussian_nll_loss(o[:, :2], y, torch.exp(o[:, 2:])),
    ),
    "gaussian, mostly at its bound": (
        nn.GaussianNLLLoss(eps=1.0),
        lambda rng: rng.standard_normal((N, 2)),
        lambda o, y: F.gaussian_nll_loss(o[:, :2], y, torch.exp(o[:, 2:]), eps=1.0),
    ),
    "poisson": (nn.PoissonNLLLoss(), _counts, F.poisson_nll_loss),
    "poisson, rates": (
        nn.PoissonNLLLoss(log_input=False, eps=4.0),
        _counts,
        lambda o, y: F.poisson_nll_loss(o, y, log_input=False, eps=4.0),
    ),
    "quantile": (
        nn.QuantileLoss([0.1, 0.9]),
        lambda rng: rng.standard_normal((N, 2)),
        lambda o, y: torch.maximum(
            torch.tensor([[0.1], [0.9]], dtype=torch.float64) * (y[:, None] - o.reshape(N, 2, 2)),
            torch.tensor([[-0.9], [-0.1]], dtype=torch.float64) * (y[:, None] - o.reshape(N, 2, 2)),
        ).mean(),
    ),
    "distillation": (
        nn.DistillationLoss(temperature=3.0),
        _numbers,
        lambda o, y: 9 * F.kl_div(
            F.log_softmax(o / 3, 1), F.softmax(y / 3, 1), reduction="batchmean"
        ),
    ),
}  # fmt: skip


def test_every_layer_and_loss_is_here():
    lists = ACTIVATIONS, *OTHERS.values(), *ENCODERS.values()
    there = types(layer for layers in lists for layer in layers)
    # The first has tests of its own, and the others say what an input means.
    assert there | {nn.Dropout, nn.Embedding, nn.Flatten} == kinds_in(nn, nn.Layer)
    assert types(loss for loss, *_ in LOSSES.values()) == kinds_in(nn, CoreLoss)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_the_hessian_that_torch_finds(name, rng):
    loss, targets, theirs = LOSSES[name]
    model, (x, _) = net(nn.Tanh()), batch(rng)
    y = targets(rng)
    hessian, gauss_newton = matrices(model, lambda o: theirs(o, torch.tensor(y)), x)
    agree(Operator(model, x, y, loss=loss).dense(), hessian)
    ours = Operator(model, x, y, loss=loss, kind="gauss_newton").dense()
    assert np.abs(ours - gauss_newton).max() <= TOLERANCE * max(1, np.abs(gauss_newton).max())


def test_weights_of_samples_count(rng):
    model, (x, y) = net(nn.Tanh()), batch(rng)
    weight = np.r_[np.zeros(4), np.ones(4), 2 * np.ones(3)]
    repeated = np.repeat(np.arange(N), weight.astype(int))
    weighted = Operator(model, x, y, loss=nn.CrossEntropyLoss(), sample_weight=weight).dense()
    agree(weighted, Operator(model, x[repeated], y[repeated], loss=nn.CrossEntropyLoss()).dense())


def test_dropout_drops_what_the_next_pass_drops(rng):
    model, (x, y) = net(nn.Dropout(0.4), nn.Tanh()), batch(rng)
    # The factors are a function of seed, pass and place alone: a model of the same layers whose
    # output they are, shows them.
    seen = nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.4), dtype="float64", seed=4)
    seen.flat_parameters = np.r_[np.zeros(5 * FEATURES), np.ones(5)]
    masks = seen.forward(x, training=True)
    assert 0 < (masks == 0).mean() < 1
    theirs = lambda o: F.cross_entropy(o, torch.tensor(y))  # noqa: E731
    hessian, gauss_newton = matrices(model, theirs, x, masks=torch.tensor(masks))
    agree(Operator(model, x, y, loss=nn.CrossEntropyLoss()).dense(), hessian)
    agree(
        Operator(model, x, y, loss=nn.CrossEntropyLoss(), kind="gauss_newton").dense(), gauss_newton
    )


def wide(rng, *middle, dtype="float64"):
    """A net of several panels and tiles, and a batch of several blocks and waves."""
    model = nn.Sequential(
        nn.Linear(300, 70), *middle, nn.Tanh(), nn.Linear(70, 41), nn.GELU(), nn.Linear(41, 3),
        dtype=dtype, seed=1,
    )  # fmt: skip
    x = rng.standard_normal((2500, 300)).astype(dtype)
    return model, x, rng.integers(0, 3, 2500)


@pytest.mark.parametrize("middle", [(), (nn.BatchNorm1d(70),)], ids=["plain", "BatchNorm1d"])
def test_wide_nets_and_long_batches_are_exact_too(middle, rng):
    model, x, y = wide(rng, *middle)
    u, v = rng.standard_normal((2, model.num_parameters))
    net = torch.nn.Sequential(*twin(model.layers)).double()
    names = [k for k, _ in net.named_parameters()]
    values = tuple(torch.tensor(model.state_dict()[k]) for k in names)
    buffers = dict(net.named_buffers())

    def theirs(*p):
        state = {**dict(zip(names, p, strict=True)), **{k: b.clone() for k, b in buffers.items()}}
        out = torch.func.functional_call(net, state, (torch.tensor(x),))
        return F.cross_entropy(out, torch.tensor(y))

    parts = np.split(v, np.cumsum([p.numel() for p in values])[:-1])
    direction = tuple(torch.tensor(d).reshape(p.shape) for d, p in zip(parts, values, strict=True))
    _, want = torch.autograd.functional.hvp(theirs, values, direction)
    want = np.concatenate([w.numpy().ravel() for w in want])
    ours = hvp(model, x, y, v, loss=nn.CrossEntropyLoss())
    assert np.linalg.norm(ours - want) <= 1e-12 * np.linalg.norm(want)
    # Symmetric, as far as rounding goes.
    other = hvp(model, x, y, u, loss=nn.CrossEntropyLoss())
    scale = np.linalg.norm(u) * np.linalg.norm(ours)
    assert abs(u @ ours - v @ other) <= 1e-12 * scale
    # In float32 it is the same to the digits that there are.
    single = hvp(model.astype("float32"), x, y, v, loss=nn.CrossEntropyLoss())
    assert single.dtype == np.float32
    assert np.linalg.norm(single - want) <= 1e-5 * np.linalg.norm(want)


def test_results_have_the_same_bits_for_any_number_of_threads(rng):
    model, x, y = wide(rng, nn.BatchNorm1d(70))
    v = rng.standard_normal(model.num_parameters)
    before, results = tw.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            tw.set_num_threads(threads)
            results.append(hvp(model, x, y, v, loss=nn.CrossEntropyLoss()).tobytes())
    finally:
        tw.set_num_threads(before)
    assert len(set(results)) == 1


def test_a_product_by_differences_would_not_pass(rng):
    """The bound of these tests tells exact products from differences."""
    model, (x, y) = net(nn.Tanh()), batch(rng)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=tw.optim.SGD(lr=0.0))
    theta, v = model.flat_parameters, rng.standard_normal(model.num_parameters)

    def gradient(at):
        model.flat_parameters = at
        model.zero_grad()
        out = model.forward(x, training=True)
        p = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        p[np.arange(N), y] -= 1
        model.backward(p / N)
        return model.flat_gradients.copy()

    h = 1e-5 / np.linalg.norm(v)
    numeric = (gradient(theta + h * v) - gradient(theta - h * v)) / (2 * h)
    model.flat_parameters = theta
    exact = hvp(trainer.model, x, y, v, loss=nn.CrossEntropyLoss())
    distance = np.linalg.norm(numeric - exact) / np.linalg.norm(exact)
    assert TOLERANCE * 10 < distance < 1e-7


@pytest.mark.parametrize("active", [None, (0, 2, 3)])
def test_the_fisher_information_is_the_gauss_newton_matrix_where_links_are_canonical(rng, active):
    """For softmax it is sum over all labels c of p_c g_c g_c', formed here from gradients."""
    model, (x, y) = net(nn.Tanh()), batch(rng)
    loss, among = nn.CrossEntropyLoss(active=active), np.ones(OUTPUTS)
    if active is not None:
        among = np.isin(np.arange(OUTPUTS), active) * 1.0
        y = np.array(active)[y % len(active)]
    fisher = Operator(model, x, y, loss=loss, kind="fisher").dense()
    gauss_newton = Operator(model, x, y, loss=loss, kind="gauss_newton").dense()
    expected, empirical = np.zeros_like(fisher), np.zeros_like(fisher)
    for i in range(N):
        logits = model(x[i : i + 1])
        p = (among * np.exp(logits) / (among * np.exp(logits)).sum())[0]
        for c in range(OUTPUTS):
            model.zero_grad()
            model.forward(x[i : i + 1], training=True)
            model.backward((p - np.eye(OUTPUTS)[c])[np.newaxis])
            g = model.flat_gradients
            expected += p[c] * np.outer(g, g) / N
            if c == y[i]:
                empirical += np.outer(g, g) / N
    agree(fisher, expected)
    agree(fisher, gauss_newton)
    # The empirical one, of the true labels, is another matrix.
    assert np.linalg.norm(empirical - fisher) > 0.3 * np.linalg.norm(fisher)


def test_probabilities_that_do_not_sum_to_one_weight_their_rows(rng):
    model, (x, _) = net(nn.Tanh()), batch(rng)
    v, loss = rng.standard_normal(model.num_parameters), nn.CrossEntropyLoss()
    y, sums = rng.dirichlet(np.ones(OUTPUTS), N), rng.uniform(size=N)
    found = fisher_vp(model, x, sums[:, np.newaxis] * y, v, loss=loss)
    weighted = fisher_vp(model, x, y, v, loss=loss, sample_weight=sums)
    np.testing.assert_allclose(found, sums.mean() * weighted, rtol=1e-12, atol=1e-15)


def test_the_fisher_information_of_a_normal_distribution_is_positive(rng):
    """Its Gauss-Newton matrix need not be: the mean over targets is another matrix."""
    model, (x, _) = net(nn.Tanh()), batch(rng)
    y = 10 * rng.standard_normal((N, 2))
    of = {
        kind: Operator(model, x, y, loss=nn.GaussianNLLLoss(), kind=kind).dense()
        for kind in ("fisher", "gauss_newton")
    }
    lowest = {kind: np.linalg.eigvalsh(m)[0] for kind, m in of.items()}
    assert lowest["fisher"] > -1e-12
    assert lowest["gauss_newton"] < -1e-3
    # diag(1/v, 1/2) in the outputs, over the 2 N elements of the mean.
    inner = np.concatenate([np.exp(-model(x)[:, 2:]), np.full((N, 2), 0.5)], axis=1).ravel()
    slopes = jacobian(model, x).reshape(4 * N, -1)
    agree(of["fisher"], slopes.T @ (inner[:, None] * slopes) / (2 * N))


def test_relu_nets_have_gauss_newton_blocks_on_the_diagonal(rng):
    """ReLU is straight, so that a layer alone is no source of curvature; two together are."""
    model, (x, y) = net(nn.ReLU(), nn.Linear(5, 5), nn.ReLU()), batch(rng)
    hessian, gauss_newton = (
        Operator(model, x, y, loss=nn.CrossEntropyLoss(), kind=kind).dense()
        for kind in ("hessian", "gauss_newton")
    )
    at = 0
    for _, value in model.state_dict().items():
        block = slice(at, at := at + value.size)
        agree(hessian[block, block], gauss_newton[block, block])
    assert np.linalg.norm(hessian - gauss_newton) > 0.1 * np.linalg.norm(hessian)
    assert np.linalg.eigvalsh(gauss_newton)[0] > -1e-12 > np.linalg.eigvalsh(hessian)[0]


def test_forward_mode_goes_through_parameters_and_inputs(rng):
    model, (x, _) = net(nn.BatchNorm1d(5), nn.Tanh()), batch(rng)
    v, dx = rng.standard_normal(model.num_parameters), rng.standard_normal(x.shape)
    net_ = torch.nn.Sequential(*twin(model.layers)).double()
    state = {k: torch.tensor(p) for k, p in model.state_dict().items()}
    names = [k for k, _ in net_.named_parameters()]
    parts = np.split(v, np.cumsum([state[k].numel() for k in names])[:-1])
    values = tuple(state[k] for k in names)
    tangents = (
        *(torch.tensor(d).reshape(p.shape) for d, p in zip(parts, values, strict=True)),
        torch.tensor(dx),
    )
    buffers = {k: b for k, b in state.items() if k not in names}

    def theirs(*arguments):
        kept = {k: b.clone() for k, b in buffers.items()}
        parameters = dict(zip(names, arguments, strict=False))
        return torch.func.functional_call(net_, {**parameters, **kept}, (arguments[-1],))

    for training in (True, False):
        net_.train(training)
        want = torch.autograd.functional.jvp(theirs, (*values, torch.tensor(x)), tangents)
        for ours, expected in zip(jvp(model, x, v, dx=dx, training=training), want, strict=True):
            agree(ours, expected.numpy())
    # One direction at a time: it is linear.
    both = jvp(model, x, v, dx=dx)[1]
    agree(jvp(model, x, v)[1] + jvp(model, x, dx=dx)[1], both)


def test_nothing_of_the_model_is_changed(rng):
    model, (x, y) = net(nn.BatchNorm1d(5), nn.Dropout(0.5)), batch(rng)
    model.forward(x, training=True)
    model.backward(np.ones((N, OUTPUTS)))
    before = {k: v.copy() for k, v in model.state_dict().items()}
    gradients, passes = model.flat_gradients.copy(), model._core.passes()
    for product in (hvp, gnvp, fisher_vp):
        product(model, x, y, model.flat_parameters, loss=nn.CrossEntropyLoss())
    assert all((model.state_dict()[k] == v).all() for k, v in before.items())
    assert (model.flat_gradients == gradients).all()
    assert model._core.passes() == passes


CROSS_ENTROPY = nn.CrossEntropyLoss()
SMOOTH = nn.CrossEntropyLoss(label_smoothing=0.1)
#: What is called with a model, a batch and a vector; what it raises; what it says.
OWN = nn.CustomLoss(lambda output, target, weight=None: (output.sum(), np.ones_like(output)))
RATES = nn.PoissonNLLLoss(log_input=False)  # undefined for negative outputs
SLOPES = nn.DerivativeLoss(lambda u, du, d2u, target: (0.0, (None, None, None)))


def with_large_weights():
    model = net(nn.ReLU())
    model.flat_parameters = np.full(model.num_parameters, 1e200)
    return model


BAD = [
    (
        lambda m, x, y, v: fisher_vp(m, x, y, v, loss=lambda o, t: (0.0, o)),
        "UnsupportedError",
        "custom",
    ),
    (lambda m, x, y, v: hvp(m, x, y, v, loss=lambda o, t: 0.0), "ArgumentError", "loss, gradient"),
    (lambda m, x, y, v: hvp(m, x, y, v, loss=None), "ArgumentError", "loss"),
    (lambda m, x, y, v: hvp(m, x, y, v, loss="mse"), "ArgumentError", "MSELoss"),
    (lambda m, x, y, v: fisher_vp(m, x, m(x), v, loss=nn.L1Loss()), "UnsupportedError", "Fisher"),
    (lambda m, x, y, v: fisher_vp(m, x, y, v, loss=SMOOTH), "UnsupportedError", "label smoothing"),
    (lambda m, x, y, v: hvp(m, x, y, v[1:], loss=CROSS_ENTROPY), "ShapeError", "v must have"),
    (lambda m, x, y, v: hvp(m, x[:, 1:], y, v, loss=CROSS_ENTROPY), "ShapeError", "Linear"),
    (lambda m, x, y, v: hvp(m, x, y + 9, v, loss=CROSS_ENTROPY), "DataError", "label"),
    (lambda m, x, y, v: hvp(m, x, y, v * np.inf, loss=CROSS_ENTROPY), "DataError", "v"),
    (lambda m, x, y, v: hvp(m, x[:1], y[:1], v, loss=CROSS_ENTROPY), "ArgumentError", "2 rows"),
    (lambda m, x, y, v: hvp(m, x * np.nan, y, v, loss=CROSS_ENTROPY), "DataError", "x"),
    (lambda m, x, y, v: hvp(m, 1e200 * x, y, v, loss=CROSS_ENTROPY), "ThalwegError", "finite"),
    (lambda m, x, y, v: Operator(m, x, y, loss=SMOOTH, kind="hess"), "ArgumentError", "hessian"),
    (lambda m, x, y, v: jvp(m, x, v, dx=x[1:]), "ShapeError", "dx"),
    (lambda m, x, y, v: jvp("model", x, v), "ArgumentError", "model"),
    (lambda m, x, y, v: jacobian("model", x), "ArgumentError", "model"),
    (lambda m, x, y, v: jacobian(m, x[:, 1:]), "ShapeError", "Linear"),
    (lambda m, x, y, v: jacobian(m, x * np.inf), "DataError", "x"),
    (lambda m, x, y, v: jacobian(with_large_weights(), x), "ThalwegError", "finite"),
    (lambda m, x, y, v: sample_gradients(m, x, y[1:], loss=SMOOTH), "ShapeError", "x has 11 rows"),
    (lambda m, x, y, v: sample_gradients(m, x, y[:1], loss=OWN), "ShapeError", "y has 1"),
    (
        lambda m, x, y, v: sample_gradients(m, x, y, loss=OWN, sample_weight=np.zeros(N)),
        "DataError",
        "no row counts",
    ),
    (
        lambda m, x, y, v: sample_gradients(m, x, y, loss=lambda o, t: (np.nan, o)),
        "ArgumentError",
        "the loss is nan",
    ),
    (
        lambda m, x, y, v: sample_gradients(m, x, y, loss=lambda o, t: (1.0, np.nan * o)),
        "DataError",
        "gradient of the loss",
    ),
    (lambda m, x, y, v: sample_gradients(m, x, y + 9, loss=SMOOTH), "DataError", "label"),
    (lambda m, x, y, v: sample_gradients(m, x, y, loss="mse"), "ArgumentError", "MSELoss"),
    (lambda m, x, y, v: sample_gradients(m, x, y, loss=SLOPES), "UnsupportedError", "alone"),
    (
        lambda m, x, y, v: sample_gradients(m, x, 0 * m(x), loss=RATES),
        "ArgumentError",
        r"model\(x\)\[\d, \d\] is -.* outputs are rates",
    ),
    *(
        (
            lambda m, x, y, v, product=product: product(m, x, 0 * m(x), v, loss=RATES),
            "DataError",
            r"loss is nan: output\[\d, \d\] is -.* outputs are rates",
        )
        for product in (hvp, gnvp, fisher_vp)
    ),
    (lambda m, x, y, v: jvp(m, x), "ArgumentError", "needs a direction: v, .* or dx"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_what_is_wrong_is_said(call, error, words, rng):
    model, (x, y) = net(nn.BatchNorm1d(5), nn.Tanh()), batch(rng)
    v = rng.standard_normal(model.num_parameters)
    with pytest.raises(getattr(tw, error), match=words):
        call(model, x, y, v)


def operator(dtype="float32", kind="hessian", rows=150):
    """A net with everything in it, more than two blocks of rows, and an operator."""
    rng = np.random.default_rng(5)
    model = nn.Sequential(
        nn.Linear(FEATURES, 40), nn.BatchNorm1d(40), nn.GELU(), nn.Dropout(0.2),
        nn.Residual(nn.Linear(40, 40), nn.LayerNorm(40), nn.Tanh()), nn.Linear(40, OUTPUTS),
        dtype=dtype, seed=3,
    )  # fmt: skip
    x = rng.standard_normal((rows, FEATURES)).astype(dtype)
    y = rng.integers(0, OUTPUTS, rows)
    v = rng.standard_normal((3, model.num_parameters)).astype(dtype)
    return model, x, y, v, Operator(model, x, y, loss=nn.CrossEntropyLoss(), kind=kind)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton", "fisher"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_and_what_is_kept_change_no_bit(kind, dtype):
    found = []
    for threads in (1, 2, 3, 8):
        tw.set_num_threads(threads)
        model, x, y, v, matrix = operator(dtype, kind)
        product = {"hessian": hvp, "gauss_newton": gnvp, "fisher": fisher_vp}[kind]
        fresh = [product(model, x, y, u, loss=nn.CrossEntropyLoss()) for u in v]
        found += [[matrix @ u for u in v], [matrix @ u for u in v], fresh, list((matrix @ v.T).T)]
    tw.set_num_threads(1)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_an_operator_is_never_out_of_date():
    """Whatever changes, the next product is that of a new operator."""
    model, x, y, v, matrix = operator()
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=tw.optim.SGD(0.1))

    def change_parameters():
        model.flat_parameters = 1.01 * model.flat_parameters

    def change_data():
        x[3] *= -1

    def change_targets():
        y[0] = (y[0] + 1) % OUTPUTS

    last = matrix @ v[0]
    for change in (
        change_parameters, change_data, change_targets, lambda: trainer.step(x, y),
        lambda: model.forward(x, training=True),  # the next pass drops others
    ):  # fmt: skip
        change()
        now = matrix @ v[0]
        assert (now != last).any()
        np.testing.assert_array_equal(now, hvp(model, x, y, v[0], loss=nn.CrossEntropyLoss()))
        last = now


def test_products_one_by_one_share_what_they_have_in_common():
    """And go with the model."""
    from thalweg.curvature._operator import _LEFT, _POINTS

    model, x, y, v, matrix = operator()
    loss = nn.CrossEntropyLoss()
    for product, kind in [(hvp, "hessian"), (gnvp, "gauss_newton"), (hvp, "hessian")]:
        expected = Operator(model, x, y, loss=loss, kind=kind) @ v[0]
        for _ in range(2):
            np.testing.assert_array_equal(product(model, x, y, v[0], loss=loss), expected)
    assert model in _POINTS
    many = np.tile(x, (_LEFT // x.size, 1))
    hvp(model, many[:40_000], np.tile(y, 300)[:40_000], v[0], loss=loss)
    assert model not in _POINTS
    hvp(model, x, y, v[0], loss=loss)
    before = len(_POINTS)
    del model, matrix
    gc.collect()
    assert len(_POINTS) == before - 1


def test_operators_can_be_copied_and_used_by_several_threads():
    _, _, _, v, matrix = operator()
    expected = [matrix @ u for u in v]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: matrix @ v[i % 3], range(24)))
    for i, product in enumerate(found):
        np.testing.assert_array_equal(product, expected[i % 3])
    twin = copy.deepcopy(matrix)
    np.testing.assert_array_equal(twin @ v[1], expected[1])


def test_what_products_share_takes_memory_within_limits():
    """Batches that are too large to be kept give the same, wave by wave: rows are independent."""
    rng = np.random.default_rng(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), dtype="float64", seed=1)
    x, y = rng.standard_normal((5000, 3)), rng.standard_normal((5000, 2))
    v = rng.standard_normal(model.num_parameters)
    matrix = Operator(model, x, y, loss=nn.MSELoss())
    parts = [hvp(model, x[i : i + 1000], y[i : i + 1000], v, loss=nn.MSELoss())
             for i in range(0, 5000, 1000)]  # fmt: skip
    for _ in range(2):
        np.testing.assert_allclose(matrix @ v, np.mean(parts, axis=0), rtol=1e-12, atol=1e-15)


def test_gradients_of_samples_add_up_to_that_of_the_loss(rng):
    model, (x, y) = net(nn.Tanh()), batch(rng)
    weight = rng.uniform(0.5, 2, N)
    for loss in (CROSS_ENTROPY, nn.CrossEntropyLoss([1, 2, 3, 4], reduction="sum")):
        trainer = tw.Trainer(model, loss=loss, optimizer=tw.optim.SGD(0.1))
        model.zero_grad()
        trainer.backward(x, y, sample_weight=weight)
        each = sample_gradients(model, x, y, loss=loss, sample_weight=weight)
        agree(each.sum(axis=0), model.flat_gradients)


def test_gradients_of_samples_take_losses_that_are_functions(rng):
    def squares(output, target):
        return ((output - target["value"]) ** 2).sum(), 2 * (output - target["value"])

    model, (x, _) = net(nn.Tanh()), batch(rng)
    value = rng.standard_normal((N, OUTPUTS))
    each = sample_gradients(model, x, {"value": value}, loss=squares)
    agree(each, sample_gradients(model, x, value, loss=nn.MSELoss(reduction="sum")))
