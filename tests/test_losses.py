"""Losses, weights of samples and custom losses.

Values and gradients are compared with PyTorch's where it is installed, and with formulas in float64
where it has no such loss.
"""

import copy
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

N, K = 23, 4

# --- beside PyTorch -----------------------------------------------------------------------------


def gaussian(torch, **options):
    loss = torch.nn.GaussianNLLLoss(**options)

    def f(o, t):
        k = t.shape[1]
        return loss(o[:, :k], t, o[:, k:].exp())

    return f


def pinball(torch, *quantiles):
    def f(o, t):
        k = t.shape[1]
        parts = []
        for i, q in enumerate(quantiles):
            u = t - o[:, i * k : (i + 1) * k]
            parts.append(torch.maximum(q * u, (q - 1) * u))
        return torch.cat(parts, dim=1).mean()

    return f


def distillation(torch, temperature):
    f = torch.nn.functional

    def loss(o, t):
        p, q = (o / temperature).log_softmax(1), (t / temperature).softmax(1)
        return temperature**2 * f.kl_div(p, q, reduction="batchmean")

    return loss


W = [0.5, 2.0, 0.0, 1.25]


def heads(torch, sizes=(K,), active=None, **options):
    """Masks logits with -inf, of all classes that do not compete with the label."""
    loss = torch.nn.CrossEntropyLoss(reduction="none", **options)
    weight = options.get("weight")

    def f(o, t):
        k = o.shape[1]
        of_column = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        competes = torch.zeros(k, dtype=torch.bool)
        competes[list(range(k) if active is None else active)] = True
        counts = t != loss.ignore_index
        row = of_column[torch.where(counts, t, 0)]
        o = o.masked_fill(~(competes & (of_column == row[:, None])), -torch.inf)
        divisor = (weight[t[counts]] if weight is not None else torch.ones(int(counts.sum()))).sum()
        return loss(o, t).sum() / divisor

    return f


# (ours, how to make theirs, which targets)
TWINS = {
    "MSE": (nn.MSELoss(), lambda t: t.nn.MSELoss(), "numbers"),
    "MSE, sum": (nn.MSELoss(reduction="sum"), lambda t: t.nn.MSELoss(reduction="sum"), "numbers"),
    "L1": (nn.L1Loss(), lambda t: t.nn.L1Loss(), "numbers"),
    "L1, sum": (nn.L1Loss(reduction="sum"), lambda t: t.nn.L1Loss(reduction="sum"), "numbers"),
    "Huber": (nn.HuberLoss(), lambda t: t.nn.HuberLoss(), "numbers"),
    "Huber, delta": (nn.HuberLoss(delta=0.3), lambda t: t.nn.HuberLoss(delta=0.3), "numbers"),
    "Huber, sum": (
        nn.HuberLoss(delta=2, reduction="sum"),
        lambda t: t.nn.HuberLoss(delta=2, reduction="sum"),
        "numbers",
    ),
    "CE": (nn.CrossEntropyLoss(), lambda t: t.nn.CrossEntropyLoss(), "labels"),
    "CE, sum": (
        nn.CrossEntropyLoss(reduction="sum"),
        lambda t: t.nn.CrossEntropyLoss(reduction="sum"),
        "labels",
    ),
    "CE, weighted": (
        nn.CrossEntropyLoss(W),
        lambda t: t.nn.CrossEntropyLoss(t.tensor(W, dtype=t.float64)),
        "labels",
    ),
    "CE, some ignored": (nn.CrossEntropyLoss(), lambda t: t.nn.CrossEntropyLoss(), "some labels"),
    "CE, a class ignored": (
        nn.CrossEntropyLoss(ignore_index=1),
        lambda t: t.nn.CrossEntropyLoss(ignore_index=1),
        "labels",
    ),
    "CE, smoothed": (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda t: t.nn.CrossEntropyLoss(label_smoothing=0.1),
        "labels",
    ),
    "CE, all at once": (
        nn.CrossEntropyLoss(W, ignore_index=-1, label_smoothing=0.3),
        lambda t: t.nn.CrossEntropyLoss(
            t.tensor(W, dtype=t.float64), ignore_index=-1, label_smoothing=0.3
        ),
        "labels, some -1",
    ),
    "CE, all at once, sum": (
        nn.CrossEntropyLoss(W, ignore_index=-1, label_smoothing=0.3, reduction="sum"),
        lambda t: t.nn.CrossEntropyLoss(
            t.tensor(W, dtype=t.float64), ignore_index=-1, label_smoothing=0.3, reduction="sum"
        ),
        "labels, some -1",
    ),
    "CE, heads": (
        nn.CrossEntropyLoss(heads=(1, 3)),
        lambda t: heads(t, (1, 3)),
        "labels",
    ),
    "CE, heads, all at once": (
        nn.CrossEntropyLoss(W, ignore_index=-1, heads=(2, 2)),
        lambda t: heads(t, (2, 2), weight=t.tensor(W, dtype=t.float64), ignore_index=-1),
        "labels, some -1",
    ),
    "CE, active": (
        nn.CrossEntropyLoss(active=(3, 0)),
        lambda t: heads(t, active=(0, 3)),
        "labels 0 and 3",
    ),
    "CE, heads, active, weighted": (
        nn.CrossEntropyLoss(W, heads=(3, 1), active=(3, 0, 2)),
        lambda t: heads(t, (3, 1), (0, 2, 3), weight=t.tensor(W, dtype=t.float64)),
        "labels 0 and 3",
    ),
    "CE of shares": (nn.CrossEntropyLoss(), lambda t: t.nn.CrossEntropyLoss(), "shares"),
    "CE of shares, weighted, smoothed": (
        nn.CrossEntropyLoss(W, label_smoothing=0.2),
        lambda t: t.nn.CrossEntropyLoss(t.tensor(W, dtype=t.float64), label_smoothing=0.2),
        "shares",
    ),
    "CE of shares, sum": (
        nn.CrossEntropyLoss(reduction="sum"),
        lambda t: t.nn.CrossEntropyLoss(reduction="sum"),
        "shares",
    ),
    "BCE": (nn.BCEWithLogitsLoss(), lambda t: t.nn.BCEWithLogitsLoss(), "probabilities"),
    "BCE of zeros and ones": (
        nn.BCEWithLogitsLoss(reduction="sum"),
        lambda t: t.nn.BCEWithLogitsLoss(reduction="sum"),
        "bits",
    ),
    "BCE, weighted": (
        nn.BCEWithLogitsLoss(pos_weight=W),
        lambda t: t.nn.BCEWithLogitsLoss(pos_weight=t.tensor(W, dtype=t.float64)),
        "probabilities",
    ),
    "BCE, one weight": (
        nn.BCEWithLogitsLoss(pos_weight=3),
        lambda t: t.nn.BCEWithLogitsLoss(pos_weight=t.tensor(3.0, dtype=t.float64)),
        "bits",
    ),
    "Gaussian": (nn.GaussianNLLLoss(), gaussian, "half"),
    "Gaussian, full": (
        nn.GaussianNLLLoss(full=True, eps=0.5),  # so large that some variances are below
        lambda t: gaussian(t, full=True, eps=0.5),
        "half",
    ),
    "Gaussian, sum": (
        nn.GaussianNLLLoss(reduction="sum"),
        lambda t: gaussian(t, reduction="sum"),
        "half",
    ),
    "Poisson": (nn.PoissonNLLLoss(), lambda t: t.nn.PoissonNLLLoss(), "counts"),
    "Poisson, full": (
        nn.PoissonNLLLoss(full=True, reduction="sum"),
        lambda t: t.nn.PoissonNLLLoss(full=True, reduction="sum"),
        "counts",
    ),
    "Poisson of rates": (  # with so large an eps that the rate may be any of those that occur
        nn.PoissonNLLLoss(log_input=False, full=True, eps=30),
        lambda t: t.nn.PoissonNLLLoss(log_input=False, full=True, eps=30),
        "counts",
    ),
    "quantile": (nn.QuantileLoss(0.9), lambda t: pinball(t, 0.9), "numbers"),
    "quantiles": (nn.QuantileLoss([0.1, 0.8]), lambda t: pinball(t, 0.1, 0.8), "half"),
    "distillation": (nn.DistillationLoss(), lambda t: distillation(t, 2.0), "numbers"),
    "distillation, hot": (nn.DistillationLoss(5), lambda t: distillation(t, 5), "numbers"),
}


#: Losses with a weight for each of K outputs.
NEEDS_K = [
    loss
    for loss, *_ in TWINS.values()
    if tuple(W) in loss._spec(K) or getattr(loss, "heads", None) or getattr(loss, "active", None)
]


def targets(kind, rng, n=N, k=K):
    """Targets of a kind for k outputs."""
    labels = rng.integers(0, k, n)
    return {
        "numbers": 2 * rng.standard_normal((n, k)),
        "half": rng.standard_normal((n, k // 2)),
        "labels": labels,
        "labels 0 and 3": np.where(labels < 2, 0, 3),
        "some labels": np.where(np.arange(n) % 5 == 2, -100, labels),
        "labels, some -1": np.where(np.arange(n) % 5 == 2, -1, labels),
        "shares": rng.dirichlet(np.ones(k), n),
        "probabilities": rng.uniform(size=(n, k)),
        "bits": rng.integers(0, 2, (n, k)).astype(float),
        "counts": rng.poisson(3.0, (n, k)).astype(float),
    }[kind]


def network(k=K, dtype="float64"):
    layers = nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, k)
    return nn.Sequential(*layers, dtype=dtype, seed=3)


@pytest.mark.parametrize("case", TWINS)
def test_training_is_pytorchs(case, rng):
    """Losses of some steps, and the weights after them; so its gradients too."""
    torch = pytest.importorskip("torch")
    ours, make, kind = TWINS[case]
    theirs = make(torch)
    model = network()
    twin = torch.nn.Sequential(
        torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, K)
    ).double()
    twin.load_state_dict({k: torch.tensor(v) for k, v in model.state_dict().items()})
    lr = 1e-3 if ours.reduction == "sum" else 0.05
    trainer = tw.Trainer(model, loss=ours, optimizer=optim.SGD(lr=lr, momentum=0.5))
    optimizer = torch.optim.SGD(twin.parameters(), lr=lr, momentum=0.5)
    x, y = 2 * rng.standard_normal((N, 6)), targets(kind, rng)
    for _ in range(12):
        optimizer.zero_grad()
        value = theirs(twin(torch.tensor(x)), torch.tensor(y))
        value.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(value.item(), rel=1e-12, abs=1e-13)
    for name, values in twin.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[name], values.numpy(), rtol=1e-12, atol=1e-13, err_msg=name
        )
    with torch.no_grad():
        value = theirs(twin(torch.tensor(x)), torch.tensor(y)).item()
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(value, rel=1e-12, abs=1e-13)


def identity(k, dtype="float64"):
    """A model whose output is its input, so that a step shows the gradient of the loss."""
    model = nn.Sequential(nn.Linear(k, k, bias=False), dtype=dtype)
    model.flat_parameters = np.eye(k).ravel()
    return model


def gradient(loss, o, y, weight=None, dtype="float64"):
    """Value, and gradient by the outputs, of a loss of a batch of one row per output.

    With x the unit matrix the weight is the output, transposed, and so is its gradient.
    """
    n, k = o.shape
    model = nn.Sequential(nn.Linear(n, k, bias=False), dtype=dtype)
    model.flat_parameters = o.T.ravel()
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=1.0))
    value = trainer.step(np.eye(n), y, weight)
    return value, (o.astype(dtype) - model.flat_parameters.reshape(k, n).T).astype(float)


WIDTHS = (1, 2, 3, 7, 8, 9, 16, 17, 33, 35)


@pytest.mark.parametrize(
    ("case", "k"),
    [
        (case, k)
        for case, (loss, *_) in TWINS.items()
        for k in ((K,) if loss in NEEDS_K else WIDTHS)
        if k > 1 or case != "CE, a class ignored"  # which is class 1
    ],
)
def test_values_and_gradients_are_pytorchs_for_odd_widths(case, k, rng):
    torch = pytest.importorskip("torch")
    ours, make, kind = TWINS[case]
    if kind == "half":
        k *= 2
    o, y = rng.standard_normal((5, k)), targets(kind, rng, 5, k)
    twin = torch.tensor(o, requires_grad=True)
    expected = make(torch)(twin, torch.tensor(y))
    expected.backward()
    value, slope = gradient(ours, o, y)
    assert value == pytest.approx(expected.item(), rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(slope, twin.grad.numpy(), rtol=1e-12, atol=1e-14)


# --- by themselves ------------------------------------------------------------------------------

LOSSES = {name: (loss, kind) for name, (loss, _, kind) in TWINS.items()}


@pytest.mark.parametrize("case", LOSSES)
def test_float32_is_float64_rounded(case, rng):
    loss, kind = LOSSES[case]
    x, y = rng.standard_normal((N, 6)).astype(np.float32), targets(kind, rng)
    if y.dtype == float:
        y = y.astype(np.float32)
    single, double = network(dtype="float32"), network()
    double.flat_parameters = single.flat_parameters
    losses = [
        tw.Trainer(m, loss=loss, optimizer=optim.SGD(lr=0)).evaluate(x, y)["loss"]
        for m in (single, double)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_gradients_agree_with_differences(case, weighted, rng):
    loss, kind = LOSSES[case]
    if case == "Gaussian, full":
        loss = nn.GaussianNLLLoss(full=True)  # the bound is no kink of which a side would be right
    x, y = rng.standard_normal((N, 6)), targets(kind, rng)
    weight = rng.uniform(0, 2, N) if weighted else None
    report = tw.gradcheck(network(), x, y, loss=loss, sample_weight=weight)
    assert report.passed, f"\n{report}"
    assert report.kinks < 9


def test_kinks_of_losses_are_left_out_and_counted():
    """An output that is just where the loss has its kink, and one that is not."""
    model = identity(2)
    for loss, y in [
        (nn.L1Loss(), [[1.0, 5.0]]),
        (nn.QuantileLoss(0.3), [[1.0, 5.0]]),
        (nn.HuberLoss(delta=3), [[4.0, 5.5]]),
        (nn.GaussianNLLLoss(eps=1.0), [[2.0]]),
    ]:
        x = [[1.0, 1.0]] if not isinstance(loss, nn.GaussianNLLLoss) else [[1.0, 0.0]]
        report = tw.gradcheck(model, x, y, loss=loss)
        assert report.kinks == (1 if isinstance(loss, nn.GaussianNLLLoss) else 2), loss
        assert report.passed, f"\n{loss}\n{report}"


@pytest.mark.parametrize("case", LOSSES)
def test_a_step_is_its_parts(case, rng):
    """The fused step does what forward, backward and the optimizer's step do."""
    loss, kind = LOSSES[case]
    x, y = rng.standard_normal((N, 6)), targets(kind, rng)
    model = network()
    by_hand = copy.deepcopy(model)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=0.01))
    optimizer = optim.Adam(lr=0.01)
    for _ in range(3):
        trainer.step(x, y)
        output = by_hand.forward(x)
        _, slope = gradient(loss, output, y)
        by_hand.zero_grad()
        by_hand.backward(slope)
        optimizer.step(by_hand)
    np.testing.assert_allclose(
        model.flat_parameters, by_hand.flat_parameters, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_outputs_have_finite_losses_and_gradients(dtype):
    o = np.array([[1e4, -1e4, 0.0, 1e4]])
    for loss, y in [
        (nn.MSELoss(), -o),
        (nn.L1Loss(), -o),
        (nn.HuberLoss(), -o),
        (nn.CrossEntropyLoss(), [1]),
        (nn.CrossEntropyLoss(label_smoothing=0.1), [1]),
        (nn.CrossEntropyLoss(), np.full((1, 4), 0.25)),
        (nn.BCEWithLogitsLoss(), [[0.0, 1.0, 0.5, 1.0]]),
        (nn.GaussianNLLLoss(), [[0.0, 1.0]]),
        (nn.QuantileLoss(0.9), -o),
        (nn.DistillationLoss(1), -o),
    ]:
        value, slope = gradient(loss, o, y, dtype=dtype)
        assert np.isfinite(value), loss
        assert np.isfinite(slope).all(), loss
    # Neither is lost what is small: ln(1 + e^-50) is about e^-50.
    confident = np.array([[50.0, -50.0]])
    value, _ = gradient(nn.BCEWithLogitsLoss(reduction="sum"), confident, [[1.0, 0.0]])
    assert value == pytest.approx(2 * np.exp(-50), rel=1e-14)


def test_a_rate_beyond_all_numbers_is_an_error():
    model = identity(1)
    trainer = tw.Trainer(model, loss=nn.PoissonNLLLoss(), optimizer=optim.SGD(lr=0.1))
    with pytest.raises(tw.DivergedError):
        trainer.step([[1e4]], [1.0])
    trainer = tw.Trainer(
        model, loss=nn.PoissonNLLLoss(log_input=False), optimizer=optim.SGD(lr=0.1)
    )
    with pytest.raises(tw.DivergedError):
        trainer.step([[-1.0]], [1.0])
    np.testing.assert_array_equal(model.flat_parameters, [1.0])


def test_quantiles_of_a_sample_are_learned(rng):
    """Of a constant output the loss is least at the sample's quantiles."""
    y = rng.exponential(size=(999, 1))
    model = nn.Sequential(nn.Linear(1, 3, init="zeros"), dtype="float64")
    loss = nn.QuantileLoss([0.1, 0.5, 0.9])
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.5))
    x = np.zeros((999, 1))
    for _ in range(3000):
        trainer.step(x, y)
    trainer.optimizer.lr = 0.01
    for _ in range(300):
        trainer.step(x, y)
    np.testing.assert_allclose(model([[0.0]])[0], np.quantile(y, [0.1, 0.5, 0.9]), atol=0.02)
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(
        np.mean([np.maximum(q * u, (q - 1) * u).mean() for q, u in zip(
            (0.1, 0.5, 0.9), (y - model([[0.0]])).T, strict=True)]), rel=1e-12
    )  # fmt: skip


# --- accuracy -----------------------------------------------------------------------------------


def test_accuracies():
    o = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 3.0], [-1.0, -2.0, 0.5], [1.0, 1.0, 1.0]])
    trainer = tw.Trainer(identity(3), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0))
    accuracy = lambda *a: trainer.evaluate(*a)["accuracy"]  # noqa: E731
    assert accuracy(o, [0, 1, 2, 0]) == 1
    assert accuracy(o, [0, 2, 2, 1]) == 0.5  # of equal outputs the first counts
    assert accuracy(o, [0, 2, -100, 1]) == 1 / 3  # ignored rows do not count
    assert accuracy(o, [0, 2, 2, 1], [3, 1, 0, 0]) == 0.75  # weights do
    shares = [[0.4, 0.3, 0.3], [0.2, 0.4, 0.4], [0, 1, 0], [1, 0, 0]]
    assert accuracy(o, shares) == 0.75
    for smooth in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss([0, 1, 5])):
        trainer = tw.Trainer(identity(3), loss=smooth, optimizer=optim.SGD(lr=0))
        assert trainer.evaluate(o, [0, 2, 2, 1])["accuracy"] == 0.5
    trainer = tw.Trainer(identity(3), loss=nn.BCEWithLogitsLoss(), optimizer=optim.SGD(lr=0))
    y = [[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert trainer.evaluate(o, y)["accuracy"] == pytest.approx((3 + 2 + 2 + 0) / 12)
    history = trainer.fit(o, y, validation_data=(o, y))
    assert history["accuracy"] == history["val_accuracy"] == [pytest.approx(7 / 12)]
    for loss in (nn.L1Loss(), nn.DistillationLoss()):
        trainer = tw.Trainer(identity(3), loss=loss, optimizer=optim.SGD(lr=0))
        assert set(trainer.evaluate(o, o)) == {"loss"}


def test_one_hot_rows_are_labels(rng):
    x, labels = rng.standard_normal((N, 6)), rng.integers(0, K, N)
    losses = []
    for y in (
        labels,
        np.eye(K)[labels],
        np.eye(K, dtype=int)[labels],
        np.eye(K, dtype=bool)[labels],
    ):
        trainer = tw.Trainer(network(), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
        losses.append([trainer.step(x, y) for _ in range(3)])
    np.testing.assert_allclose(losses, np.tile(losses[0], (4, 1)), rtol=1e-13)


# --- weights of samples -------------------------------------------------------------------------


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


def test_all_labels_ignored_is_an_error():
    trainer = tw.Trainer(identity(2), loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    for call in (trainer.step, trainer.fit, trainer.evaluate):
        with pytest.raises(tw.DataError, match="ignored label"):
            call(np.ones((2, 2)), [-100, -100])


# --- what can be wrong --------------------------------------------------------------------------

BAD_LOSSES = {
    "reduction": (lambda: nn.MSELoss(reduction="maen"), ["reduction", 'did you mean "mean"']),
    "no reduction": (lambda: nn.L1Loss(reduction="none"), ["reduction", "none"]),
    "delta": (lambda: nn.HuberLoss(delta=0), ["delta", "0"]),
    "weights": (lambda: nn.CrossEntropyLoss([1, -1]), [r"weight\[1\]", "-1"]),
    "a table of weights": (lambda: nn.CrossEntropyLoss([[1, 2]]), ["weight", r"\(1, 2\)"]),
    "no weights": (lambda: nn.CrossEntropyLoss([]), ["weight", r"\(0,\)"]),
    "text weights": (lambda: nn.CrossEntropyLoss("balanced"), ["weight", "balanced"]),
    "smoothing": (lambda: nn.CrossEntropyLoss(label_smoothing=1.1), ["label_smoothing", r"1\.1"]),
    "a number of heads": (lambda: nn.CrossEntropyLoss(heads=5), ["heads must be a sequence", "5"]),
    "an empty head": (lambda: nn.CrossEntropyLoss(heads=[2, 0]), [r"heads\[1\]", "0"]),
    "no active": (lambda: nn.CrossEntropyLoss(active=[]), ["active", "at least one"]),
    "twice active": (lambda: nn.CrossEntropyLoss(active=[1, 1]), ["active", r"\(1, 1\)"]),
    "ignored": (lambda: nn.CrossEntropyLoss(ignore_index=0.5), ["ignore_index", r"0\.5"]),
    "pos_weight": (lambda: nn.BCEWithLogitsLoss(pos_weight=-1), ["pos_weight", "-1"]),
    "eps": (lambda: nn.GaussianNLLLoss(eps=0), ["eps", "0"]),
    "full": (lambda: nn.PoissonNLLLoss(full="yes"), ["full", "yes"]),
    "quantile": (lambda: nn.QuantileLoss(1), ["quantiles", "1"]),
    "quantiles": (lambda: nn.QuantileLoss([0.1, 90]), [r"quantiles\[1\]", "90"]),
    "temperature": (lambda: nn.DistillationLoss(0), ["temperature", "0"]),
    "no function": (lambda: nn.CustomLoss("mse"), ["function", "mse"]),
}


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_bad_options_of_losses(case):
    make, patterns = BAD_LOSSES[case]
    with pytest.raises(tw.ArgumentError) as caught:
        make()
    for pattern in patterns:
        assert caught.match(pattern)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mse", "MSELoss"), ("mae", "L1Loss"), ("cross_entropy", "CrossEntropyLoss"),
        ("BCEWithLogits", "BCEWithLogitsLoss"), ("huber", "HuberLoss"), ("CrossEntropy",
        "CrossEntropyLoss"), ("pinball", "QuantileLoss"), ("poisson_nll", "PoissonNLLLoss"),
        ("binary_crossentropy", "BCEWithLogitsLoss"), ("GaussianNLLLos", "GaussianNLLLoss"),
    ],
)  # fmt: skip
def test_a_loss_by_name_is_told_what_to_write(name, meant):
    with pytest.raises(tw.ArgumentError, match=rf"did you mean nn\.{meant}\(\)"):
        tw.Trainer(network(), loss=name, optimizer=optim.SGD(lr=0.1))


def test_a_loss_that_is_none():
    for loss in ("xyzzy", 3, None, nn.Loss):
        with pytest.raises(tw.ArgumentError, match="loss must be a Loss"):
            tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.1))


@pytest.mark.parametrize(
    ("loss", "patterns"),
    [
        (nn.CrossEntropyLoss([1, 2, 3]), ["weight has 3 values", "4 outputs"]),
        (nn.CrossEntropyLoss(heads=[2, 3]), ["heads have 5 columns", "4 outputs"]),
        (nn.CrossEntropyLoss(active=[0, 4]), ["active has class 4", "4 outputs"]),
        (nn.CrossEntropyLoss([1, 2], active=[0, 1]), ["weight has 2 values", "4 outputs"]),
        (nn.BCEWithLogitsLoss(pos_weight=[1, 2]), ["pos_weight has 2 values", "4 outputs"]),
        (nn.QuantileLoss([0.1, 0.5, 0.9]), ["3 quantiles", "4 outputs"]),
    ],
    ids=repr,
)
def test_losses_that_do_not_suit_the_outputs(loss, patterns):
    with pytest.raises(tw.ShapeError) as caught:
        tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.1))
    for pattern in patterns:
        assert caught.match(pattern)


def test_an_odd_number_of_outputs_has_no_means_and_variances():
    with pytest.raises(tw.ShapeError, match="even number of outputs"):
        tw.Trainer(network(3), loss=nn.GaussianNLLLoss(), optimizer=optim.SGD(lr=0.1))


@pytest.mark.parametrize(
    ("loss", "y", "pattern"),
    [
        (nn.BCEWithLogitsLoss(), [[0, 1, 2, 0]], r"y\[0, 2\] is 2, but BCE.* from 0 to 1"),
        (nn.PoissonNLLLoss(), [[0, 1, 2, -3]], r"y\[0, 3\] is -3, but Poisson.* >= 0"),
        (nn.CrossEntropyLoss(), [[0.5, -0.5, 1, 0]], r"y\[0, 1\] is -0\.5, but Cross.* >= 0"),
    ],
    ids=["BCE", "Poisson", "CE"],
)
def test_targets_out_of_range(loss, y, pattern):
    model = network()
    before = model.flat_parameters
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    x = np.ones((1, 6))
    for call in (trainer.step, trainer.fit, trainer.evaluate):
        with pytest.raises(tw.DataError, match=pattern):
            call(x, y)
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_targets_of_another_width():
    trainer = tw.Trainer(network(), loss=nn.GaussianNLLLoss(), optimizer=optim.SGD(lr=0.1))
    with pytest.raises(tw.ShapeError, match="4 columns, but GaussianNLLLoss compares 2 with"):
        trainer.step(np.ones((3, 6)), np.ones((3, 4)))
    trainer = tw.Trainer(network(2), loss=nn.QuantileLoss([0.1, 0.9]), optimizer=optim.SGD(lr=0.1))
    assert np.isfinite(trainer.step(np.ones((3, 6)), np.ones(3)))  # one column


@pytest.mark.parametrize("case", LOSSES)
def test_losses_can_be_compared_hashed_and_pickled(case):
    loss, _ = LOSSES[case]
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(copy.deepcopy(loss)) == hash(loss)
    assert eval(repr(loss), vars(nn)) == loss


# --- custom losses ------------------------------------------------------------------------------


def mse(output, target, weight=None):
    d = output - target
    if weight is not None:
        d *= weight[:, None]
        return float((d * (output - target)).sum() / weight.sum() / d.shape[1]), (
            2 * d / weight.sum() / d.shape[1]
        )
    return float((d**2).mean()), 2 * d / d.size


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_custom_loss_trains_as_the_same_in_the_core(dtype, weighted, shuffle, rng):
    x, y = rng.standard_normal((40, 6)).astype(dtype), rng.standard_normal((40, K)).astype(dtype)
    weight = rng.uniform(0.5, 1, 40).astype(dtype) if weighted else None
    runs = []
    for loss in (nn.MSELoss(), mse, nn.CustomLoss(mse)):
        model = nn.Sequential(
            nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, K), dtype=dtype, seed=3
        )
        # Not Adam, which makes full steps of gradients that are nothing but rounding.
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.05, momentum=0.9))
        trainer.fit(x, y, epochs=2, batch_size=12, sample_weight=weight, shuffle=shuffle)
        history = trainer.fit(
            x, y, epochs=2, batch_size=12, sample_weight=weight, shuffle=shuffle,
            validation_data=(x, y) if weight is None else (x, y, weight),
        )  # fmt: skip
        state = np.concatenate([v.ravel() for v in model.state_dict().values()])
        runs.append([state, history["val_loss"], trainer.step(x, y, weight)])
        runs[-1].append(trainer.evaluate(x, y, weight)["loss"])
        if weight is None:
            runs[-1].append(history["loss"])
    rtol = 1e-9 if dtype == "float64" else 1e-3
    for a, b, c in zip(*runs, strict=True):
        np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * 1e-2)
        np.testing.assert_array_equal(b, c)


def test_a_custom_loss_gets_the_rows_of_y_as_they_are(rng):
    """Whatever y holds: here records, and in the same shuffled order as x."""
    x = rng.standard_normal((10, 6))
    y = np.array([(i, f"row {i}") for i in range(10)], dtype="i8,U8")
    lookup = {row["f1"]: x[i] for i, row in enumerate(y)}
    seen = []

    def loss(output, target):
        np.testing.assert_array_equal(output, model(np.stack([lookup[r["f1"]] for r in target])))
        seen.extend(target["f0"])
        return 0.0, np.zeros_like(output)

    model = network()
    tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1)).fit(x, y, epochs=2, batch_size=4)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_callbacks_progress_and_history_of_a_fit_with_a_custom_loss(rng):
    pytest.importorskip("tqdm")
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, K))

    class Stop:
        def on_epoch_end(self, trainer, record):
            assert set(record) == {"epoch", "loss", "seconds"}
            return record["epoch"] == 3

    trainer = tw.Trainer(network(), loss=mse, optimizer=optim.SGD(lr=0.01))
    history = trainer.fit(x, y, epochs=10, callbacks=[Stop()], progress=True)
    assert history.epochs == 3
    assert history["loss"][2] < history["loss"][0]
    assert "CustomLoss" in repr(trainer)
    with pytest.raises(tw.UnsupportedError, match="custom loss"):
        trainer.plan(3)


def test_gradcheck_of_a_custom_loss(rng):
    # In float32 from the start: the library rounds what a float32 model's own loss is given, but
    # leaves what a custom one is given as it came.
    x, y = rng.standard_normal((8, 6)), rng.standard_normal((8, K))
    weight = rng.uniform(size=8)
    x, y, weight = (a.astype(np.float32) for a in (x, y, weight))
    layers = nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, K)
    model = nn.Sequential(*layers, seed=3)
    assert tw.gradcheck(model, x, y, loss=mse)
    ours = tw.gradcheck(model, x, y, loss=mse, sample_weight=weight)
    cores = tw.gradcheck(model, x, y, loss=nn.MSELoss(), sample_weight=weight)
    assert ours.passed
    assert ours.value == pytest.approx(cores.value, rel=1e-13)

    def wrong(output, target):
        value, slope = mse(output, target)
        return value, 1.001 * slope

    assert not tw.gradcheck(model, x, y, loss=wrong)

    def failing(output, target):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tw.gradcheck(model, x, y, loss=failing)


BAD_RESULTS = {
    "a number": (lambda o, t: 1.0, tw.ArgumentError, [r"\(loss, gradient\)", "float"]),
    "three things": (lambda o, t: (1.0, o, t), tw.ArgumentError, ["3 items"]),
    "losses of rows": (lambda o, t: (o[:, 0], o), tw.ShapeError, ["one number", r"\d+,\)"]),
    "a text": (lambda o, t: ("1", o), tw.DtypeError, ["the loss has dtype"]),
    "a gradient of rows": (
        lambda o, t: (1.0, o[:, 0]),
        tw.ShapeError,
        [r"\(\d+,\)", r"\(\d+, 4\)"],
    ),
    "an integer gradient": (lambda o, t: (1.0, o.astype(int)), tw.DtypeError, ["int64", "floats"]),
    "no gradient": (lambda o, t: (1.0, None), tw.DtypeError, ["gradient of the loss"]),
    "a NaN": (lambda o, t: (1.0, o * np.nan), tw.DataError, [r"gradient of the loss\[0, 0\]"]),
    "a loss of NaN": (lambda o, t: (np.nan, o), tw.DivergedError, ["loss became nan"]),
    "an infinite loss": (lambda o, t: (np.inf, o * np.nan), tw.DivergedError, ["became inf"]),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
@pytest.mark.parametrize("method", ["step", "fit"])
def test_bad_results_of_a_custom_loss_change_nothing(method, case, rng):
    bad, kind, patterns = BAD_RESULTS[case]
    calls = 0

    def loss(output, target):
        nonlocal calls
        calls += 1
        return mse(output, target) if calls < 4 else bad(output, target)

    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, K), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    x, y = rng.standard_normal((15, 6)), rng.standard_normal((15, K))
    for _ in range(2):
        trainer.step(x, y)
    if method == "step":
        trainer.step(x, y)

    def state():
        optimizer = trainer.optimizer.state_dict()
        arrays = {k: v.tobytes() for k, v in optimizer.pop("arrays").items()}
        return {k: v.tobytes() for k, v in model.state_dict().items()}, optimizer, arrays

    before = state()
    options = {"batch_size": 5, "shuffle": False} if method == "fit" else {}
    with pytest.raises(kind) as caught:
        getattr(trainer, method)(x, y, **options)
    for pattern in patterns:
        assert caught.match(pattern)
    assert state() == before


def test_bad_data_of_a_custom_loss(rng):
    x, y = rng.standard_normal((9, 6)), rng.standard_normal((9, K))
    called = []
    model = network()
    trainer = tw.Trainer(model, loss=lambda o, t: called.append(1), optimizer=optim.SGD(lr=0.1))
    bad = x.copy()
    bad[8, 5] = np.nan
    for call, kind, pattern in [
        (lambda: trainer.fit(bad, y, batch_size=1), tw.DataError, r"x\[8, 5\]"),
        (lambda: trainer.fit(x[:, :5], y), tw.ShapeError, "9, 5"),
        (lambda: trainer.fit(x, y[:8]), tw.ShapeError, "y has 8"),
        (lambda: trainer.fit(x, y, validation_data=(bad, y)), tw.DataError, "validation x"),
        (lambda: trainer.fit(x, y, sample_weight=-np.ones(9)), tw.DataError, r"weight\[0\] is -1"),
        (lambda: trainer.step(x, 3.0), tw.ShapeError, "y must have a row"),
        (lambda: trainer.step(bad, y), tw.DataError, r"x\[8, 5\]"),
        (lambda: trainer.evaluate(x, y[1:]), tw.ShapeError, "y has 8"),
    ]:
        with pytest.raises(kind, match=pattern):
            call()
    assert not called


def test_a_loss_of_ones_own_follows_schedules_and_limits(rng):
    """As the core's does."""
    from thalweg.optim import schedules

    x, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 2))

    def mean_square(output, target):
        return np.mean((output - target) ** 2), 2 * (output - target) / output.size

    ends, seen = [], []

    class Rates:
        def on_step_end(self, trainer, record):
            seen.append((trainer.optimizer.lr, record["epoch"], record["batch"]))

    for loss in (nn.MSELoss(), nn.CustomLoss(mean_square)):
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2), dtype="float64")
        trainer = tw.Trainer(
            model, loss=loss, optimizer=optim.Adam(lr=0.1), clip_grad_norm=0.1,
            schedule=schedules.LinearWarmup(4, then=schedules.CosineAnnealingLR()),
        )  # fmt: skip
        for epochs in (2, 3):
            trainer.fit(x, y, epochs=epochs, batch_size=6, callbacks=[Rates()])
        ends.append(model.flat_parameters)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-12)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    with pytest.raises(tw.UnsupportedError, match="accumulate_grad_batches"):
        tw.Trainer(
            model, loss=nn.CustomLoss(mean_square), optimizer=optim.Adam(),
            accumulate_grad_batches=2,
        )  # fmt: skip
