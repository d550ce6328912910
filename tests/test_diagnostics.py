"""Diagnostics against closed forms, sampling theory, and what the textbook says too simply."""

import itertools
import sys

import numpy as np
import pytest

import thalweg as tw
from thalweg import diagnostics, nn, optim

# --- conditioning -------------------------------------------------------------------------------


def stretched(rng, angle, n=4000):
    """Points with deviations 10 and 1 along axes turned by an angle; otherwise uncorrelated."""
    q, _ = np.linalg.qr(rng.standard_normal((n, 3)))
    q = q - q.mean(axis=0)
    q, _ = np.linalg.qr(q)
    c, s = np.cos(angle), np.sin(angle)
    return np.sqrt(n) * q[:, :2] * [10, 1] @ np.array([[c, s], [-s, c]])


def test_batch_normalization_undoes_a_stretch_along_the_axes_and_not_a_rotated_one(rng):
    """The textbook sentence is about diag(10, 1); turned by π/5, 10 becomes 9.5 and not 1."""
    model = nn.Sequential(nn.BatchNorm1d(2, eps=1e-12), nn.Linear(2, 3))
    straight = diagnostics.conditioning(model, stretched(rng, 0))
    assert straight[0].condition == pytest.approx(10, rel=1e-10)
    assert straight[0].standardized == pytest.approx(1, rel=1e-10)
    assert straight[1].condition == pytest.approx(1, rel=1e-10)
    # Training divides by the biased deviations, which are 10 and 1.
    np.testing.assert_allclose(straight[1].jacobian, [1, 0.1], rtol=1e-10)

    turned = diagnostics.conditioning(model, stretched(rng, np.pi / 5))
    assert turned[0].condition == pytest.approx(10, rel=1e-10)
    # Closed form: the correlation r of the two columns leaves sqrt((1 + r) / (1 - r)).
    c, s = np.cos(np.pi / 5) ** 2, np.sin(np.pi / 5) ** 2
    r = 99 * np.sqrt(c * s) / np.sqrt((100 * c + s) * (100 * s + c))
    left = np.sqrt((1 + r) / (1 - r))
    assert left == pytest.approx(9.52, abs=0.01)
    assert turned[0].standardized == pytest.approx(left, rel=1e-10)
    assert turned[1].condition == pytest.approx(left, rel=1e-10)
    assert turned[1].name == "0 BatchNorm1d"
    assert "BatchNorm1d" in str(turned)

    x = stretched(rng, np.pi / 5)
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    white = diagnostics.conditioning(model, x @ axes / np.sqrt(values))
    assert white[0].condition == pytest.approx(1, rel=1e-10)


def test_other_scalings_of_columns_are_better_than_unit_variances_by_a_root_at_most(rng):
    """Van der Sluis 1969: for p columns, by no more than the square root of p."""
    white = rng.standard_normal((400, 5))
    white, _ = np.linalg.qr(white - white.mean(axis=0))
    mixed = white @ [
        [0, -1, -2, 0, -2], [0, 1, -1, -1, 0], [0, 0, 2, 2, 1], [-1, 1, 0, -2, 2],
        [1, -2, -2, 1, -2],
    ]  # fmt: skip
    x = mixed / mixed.std(axis=0)
    net = nn.Sequential(nn.Linear(5, 1))
    standardized = diagnostics.conditioning(net, x)[0].standardized
    other = diagnostics.conditioning(net, x * [0.666, 0.901, 1.700, 1.797, 1.124])[0]
    assert other.standardized == pytest.approx(standardized, rel=1e-9)
    assert standardized / np.sqrt(5) < other.condition < 0.85 * standardized


def test_the_hessian_of_a_layer_counts_scales_and_offsets(rng):
    scale, offset = np.geomspace(1, 100, 6), np.linspace(-300, 300, 6)
    x = rng.standard_normal((500, 6)) * scale + offset
    report = diagnostics.conditioning(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)), x)
    ones = np.column_stack([x, np.ones(500)])
    values = np.linalg.svd(ones, compute_uv=False)
    assert report[0].hessian == pytest.approx((values[0] / values[-1]) ** 2, rel=1e-6)
    assert report[0].hessian > 1e6
    assert report[1].hessian < 2


def test_jacobians_are_products_of_the_layers(rng):
    model = nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.5), nn.LayerNorm(7), nn.Linear(7, 3),
        dtype="float64",
    )  # fmt: skip
    x = rng.standard_normal((6, 5))
    found = diagnostics.jacobian(model, x)
    h = 1e-6
    for k in range(5):
        e = h * np.eye(5)[k]
        numeric = (model(x + e) - model(x - e)) / (2 * h)
        np.testing.assert_allclose(found[:, :, k], numeric, atol=1e-8)
    report = diagnostics.conditioning(model, x)
    singular = np.linalg.svd(found, compute_uv=False)
    np.testing.assert_allclose(report.jacobian, np.sqrt((singular**2).mean(axis=0)), rtol=1e-10)
    weight = model.state_dict()["0.weight"]
    np.testing.assert_allclose(report[1].jacobian, np.linalg.svd(weight)[1], rtol=1e-12)
    assert report[1].jacobian_condition == pytest.approx(np.linalg.cond(weight), rel=1e-12)


def test_the_jacobian_of_batch_normalization_is_that_of_evaluation(rng):
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Residual(nn.Linear(6, 6), nn.BatchNorm1d(6)),
        dtype="float64",
    )  # fmt: skip
    for _ in range(3):
        model.forward(rng.standard_normal((20, 4)) * 2 + 1)
    x, h = rng.standard_normal((3, 4)), 1e-6
    found = diagnostics.jacobian(model, x)
    for k in range(4):
        e = h * np.eye(4)[k]
        numeric = (model(x + e) - model(x - e)) / (2 * h)
        np.testing.assert_allclose(found[:, :, k], numeric, atol=1e-8)


def test_over_the_batch_normalization_is_a_projection(rng):
    """Rank N - 2, and the condition 1 on what is left: shifts and scalings of the batch vanish."""
    n = 12
    x = rng.standard_normal((n, 2)) * [1, 50] + [0, 7]
    jacobians = diagnostics.batch_jacobian(nn.BatchNorm1d(2, eps=1e-14), x)
    for column, found in zip(x.T, jacobians, strict=True):
        z = (column - column.mean()) / column.std()
        closed = (np.eye(n) - 1 / n - np.outer(z, z) / n) / column.std()
        np.testing.assert_allclose(found, closed, atol=1e-11 / column.std())
        values = np.linalg.svd(found, compute_uv=False)
        assert (values > 1e-9 * values[0]).sum() == n - 2
        assert values[0] / values[n - 3] == pytest.approx(1, rel=1e-9)


def test_over_the_batch_a_large_eps_is_left_out_of_x_hat(rng):
    x, eps = rng.standard_normal(8), 0.5
    found = diagnostics.batch_jacobian(nn.BatchNorm1d(1, eps=eps), x[:, np.newaxis])[0]
    z, variance = (x - x.mean()) / x.std(), x.var()
    shrunk = variance / (variance + eps) * np.outer(z, z)
    closed = (np.eye(8) - 1 / 8 - shrunk / 8) / np.sqrt(variance + eps)
    np.testing.assert_allclose(found, closed, atol=1e-12)


def test_identities_of_batch_normalization(rng):
    """With ε = 0: gradients are orthogonal to shifts, scalings, and the weights before."""
    x, g = rng.standard_normal((16, 5)), rng.standard_normal((16, 4))
    model = nn.Sequential(
        nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, eps=1e-300, affine=False), dtype="float64"
    )
    y = model.forward(x)
    model.zero_grad()
    dx = model.backward(g)
    weight = model.state_dict()["0.weight"]
    dz = np.linalg.lstsq(weight.T, dx.T, rcond=None)[0].T  # dx = dz W
    np.testing.assert_allclose(dz.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((dz * y).sum(axis=0), 0, atol=1e-12)
    gradient = model.flat_gradients.reshape(4, 5)
    np.testing.assert_allclose((gradient * weight).sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=0), 1, rtol=1e-12)
    model.flat_parameters = 10 * model.flat_parameters
    np.testing.assert_allclose(model.forward(x), y, atol=1e-12)
    # So a step of gradient descent makes the weights longer, always.
    after = weight - 0.1 * gradient
    np.testing.assert_allclose(
        (after**2).sum(axis=1), (weight**2).sum(axis=1) + 0.01 * (gradient**2).sum(axis=1)
    )


@pytest.mark.parametrize("rows", [100, 100_000])
def test_many_rows_make_no_column_constant(rows, rng):
    """The second, with five digits, was one to 100 000 rows; the third always is."""
    far = 1e8 + 1e-3 * rng.uniform(size=rows)
    x = np.c_[1e-3 * rng.uniform(size=rows), far, np.full(rows, 1e8 + 0.1)]
    report = diagnostics.conditioning(nn.Sequential(nn.Linear(3, 1), dtype="float64"), x)
    assert report[0].rank == 2
    np.testing.assert_allclose(report[0].spread[:2], 1e-3 / np.sqrt(12), rtol=0.2)
    assert report[0].spread[2] == 0


def test_what_conditioning_says_of_missing_directions():
    model = nn.Sequential(nn.Linear(3, 3))
    x = np.c_[np.arange(9.0), np.arange(9.0) * 2, np.full(9, 5.0)]
    report = diagnostics.conditioning(model, x)
    assert report[0].condition == np.inf
    assert [stage.rank for stage in report.stages] == [1, 1]  # which says why
    assert str(report).splitlines()[1].split()[:4] == ["input", "3", "1", "inf"]
    for bad in (np.ones((1, 3)), np.ones((5, 2))):
        with pytest.raises(tw.ShapeError, match="at least 2 rows of 3"):
            diagnostics.conditioning(model, bad)
    with pytest.raises(tw.ArgumentError, match="BatchNorm1d"):
        diagnostics.batch_jacobian(nn.LayerNorm(3), x)


# --- symmetry -----------------------------------------------------------------------------------


def relu_net(*widths, seed=0, dtype="float64"):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1], dtype=dtype, seed=seed)


def gradients(model, x, y):
    model.zero_grad()
    output = model.forward(x)
    model.backward(2 * (output - y) / y.size)
    return model.unflatten(model.flat_gradients)


def test_rescaling_keeps_the_function_and_turns_the_gradients_round(rng):
    model, x, y = relu_net(6, 20, 10, 3), rng.standard_normal((50, 6)), rng.standard_normal((50, 3))
    c = np.exp(rng.uniform(-3, 3, 20))
    other = diagnostics.rescale(model, c)
    assert np.linalg.norm(other(x) - model(x)) <= 1e-14 * np.linalg.norm(model(x))
    a, b = gradients(model, x, y), gradients(other, x, y)
    for name, factor in [("0.weight", 1 / c[:, None]), ("0.bias", 1 / c), ("2.weight", c)]:
        np.testing.assert_allclose(b[name], a[name] * factor, rtol=1e-11, atol=1e-15)
    for dtype in ("float32", "float64"):  # powers of two: to the last bit
        model = relu_net(6, 20, 10, 3, dtype=dtype)
        other = diagnostics.rescale(model, 2.0 ** rng.integers(-9, 9, 10), layer=1)
        np.testing.assert_array_equal(other(x), model(x))


def test_a_step_of_descent_changes_the_balance_by_its_square(rng):
    model, x, y = relu_net(4, 12, 2), rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    lr = 0.05
    for _ in range(5):
        g = gradients(model, x, y)
        come = (g["0.weight"] ** 2).sum(axis=1) + g["0.bias"] ** 2
        go = (g["2.weight"] ** 2).sum(axis=0)
        (before,) = diagnostics.balancedness(model)
        model.flat_parameters = model.flat_parameters - lr * model.flat_gradients
        (after,) = diagnostics.balancedness(model)
        np.testing.assert_allclose(after - before, lr**2 * (come - go), rtol=0, atol=1e-14)


def drift(optimizer, rng, epochs):
    rng = np.random.default_rng(0)
    model, x = relu_net(3, 24, 1, seed=3), rng.standard_normal((40, 3))
    monitor = diagnostics.BalanceMonitor()
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    y = np.sin(x.sum(axis=1))
    trainer.fit(x, y, epochs=epochs, batch_size=40, callbacks=[monitor])
    assert len(monitor.values) == epochs + 1
    assert repr(monitor) == f"BalanceMonitor({epochs + 1} records; drift: {monitor.drift:.3g})"
    return monitor.drift


def test_the_drift_of_the_balance_halves_with_the_learning_rate_and_adams_does_not(rng):
    plain = [drift(optim.SGD(lr=0.08 / 2**k), rng, 200 * 2**k) for k in range(4)]
    for large, small in itertools.pairwise(plain):
        assert large / small == pytest.approx(2, abs=0.25)
    # An average of gradients is longer on its way: it drifts more, and in proportion, too.
    average = [
        drift(optim.SGD(lr=0.08 / 2**k, momentum=0.9, convention="ema"), rng, 200 * 2**k)
        for k in range(1, 4)
    ]
    for large, small in itertools.pairwise(average):
        assert large / small == pytest.approx(2, abs=0.25)
    assert min(a / p for a, p in zip(average, plain[1:], strict=True)) > 5
    adam = [drift(optim.Adam(lr=0.02 / 2**k), rng, 200 * 2**k) for k in range(2)]
    assert min(adam) > 10 * max(plain)
    assert adam[0] / adam[1] < 1.3


def test_weight_decay_shrinks_the_balance_at_a_known_rate(rng):
    """With (λ/2)‖θ‖² the flow has D(t) = D(0) exp(-2λt)."""
    model, x = relu_net(3, 16, 1), rng.standard_normal((30, 3))
    model = diagnostics.rescale(model, np.exp(rng.uniform(-1, 1, 16)))
    lr, decay = 1e-3, 0.25
    monitor = diagnostics.BalanceMonitor()
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=lr, weight_decay=decay))
    y = 0.1 * x.sum(axis=1)
    trainer.fit(x, y, epochs=2000, batch_size=30, callbacks=[monitor])
    (first,), (last,) = monitor.values[0], monitor.values[-1]
    assert np.linalg.norm(last) / np.linalg.norm(first) == pytest.approx(
        np.exp(-2 * decay * 2), rel=0.01
    )


def test_the_balanced_model_is_the_smallest_of_its_orbit(rng):
    model, x = relu_net(4, 10, 8, 2), rng.standard_normal((30, 4))
    small = diagnostics.balance(model)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-12, atol=1e-14)
    for values in diagnostics.balancedness(small):
        np.testing.assert_allclose(values, 0, atol=1e-12)
    size = np.linalg.norm(small.flat_parameters)
    assert size < np.linalg.norm(model.flat_parameters)
    for layer, units in ((0, 10), (1, 8)):
        c = np.exp(rng.uniform(-1, 1, units))
        other = diagnostics.rescale(model, c, layer=layer)
        assert np.linalg.norm(diagnostics.rescale(small, c, layer=layer).flat_parameters) > size
        # Whatever the scale, one and the same representative.
        np.testing.assert_allclose(
            diagnostics.balance(other).flat_parameters, small.flat_parameters, atol=1e-12
        )


def shuffled(model, rng):
    state = model.state_dict()
    places = [i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Linear)]
    for a, b in itertools.pairwise(places):
        order = rng.permutation(len(state[f"{a}.weight"]))
        for name in (f"{a}.weight", f"{a}.bias"):
            state[name] = state[name][order]
        state[f"{b}.weight"] = state[f"{b}.weight"][:, order]
    other = model.astype(model.dtype.name)
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("seed", range(20))
def test_planted_permutations_are_found(seed):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(seed)
    model = relu_net(20, 64, 48, 5, seed=seed)
    other = shuffled(model, rng)
    assert not np.array_equal(other.flat_parameters, model.flat_parameters)
    found = diagnostics.align(other, model)
    np.testing.assert_array_equal(found.flat_parameters, model.flat_parameters)
    # Rescaled as well: raw weights are far apart, and the models the same.
    scaled = diagnostics.rescale(other, np.exp(rng.uniform(-3, 3, 64)))
    d = diagnostics.distance(scaled, model, rng.standard_normal((30, 20)))
    assert d.raw > 1
    assert d.scaled > 0.5
    assert d.aligned < 1e-12
    assert d.function < 1e-12
    # Functions are compared at any scale: of these outputs, the squares overflow.
    x = rng.standard_normal((30, 20))
    shape = diagnostics.distance(model, relu_net(20, 64, 48, 5, seed=9), 1e150 * x)
    far = diagnostics.distance(model, relu_net(20, 64, 48, 5, seed=9), 1e200 * x)
    assert far.function == pytest.approx(shape.function)


def test_aligned_networks_have_a_lower_barrier(blobs):
    """Two networks from different seeds: what lies between them is better after alignment."""
    pytest.importorskip("scipy")

    def train(seed):
        model = relu_net(5, 64, 3, seed=seed)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))
        trainer.fit(blobs.x, blobs.y, epochs=30, batch_size=30)
        return trainer

    for seed in (1, 2, 3):
        one, other = train(seed), train(seed + 10)
        raw = diagnostics.barrier(one.model, other.model, one, blobs.x, blobs.y)
        matched = diagnostics.align(one.model, other.model)
        aligned = diagnostics.barrier(matched, other.model, one, blobs.x, blobs.y)
        assert 0 <= aligned <= raw
    assert diagnostics.barrier(one.model, one.model, one, blobs.x, blobs.y) < 1e-12


def test_symmetries_that_are_not_there_are_refused(rng):
    tanh = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    norm = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
    relu = relu_net(2, 3, 1)
    for kind, pattern, call in [
        (tw.UnsupportedError, "Tanh", lambda: diagnostics.rescale(tanh, 2)),
        (tw.UnsupportedError, "fold", lambda: diagnostics.balancedness(norm)),
        (tw.UnsupportedError, "at least two Linear", lambda: diagnostics.balance(relu_net(2, 1))),
        (tw.ArgumentError, "above 0", lambda: diagnostics.rescale(relu, [1, -1, 1])),
        (tw.ShapeError, "factors", lambda: diagnostics.rescale(relu, [1, 1])),
        (tw.ArgumentError, "layer", lambda: diagnostics.rescale(relu, 1, layer=1)),
    ]:
        with pytest.raises(kind, match=pattern):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: diagnostics.conditioning("model", np.ones((3, 2))),
        lambda: diagnostics.jacobian("model", np.ones((3, 2))),
        lambda: diagnostics.ntk_eigenvalues("model", np.ones((3, 2))),
        lambda: diagnostics.balance("model"),
        lambda: diagnostics.align("model", relu_net(2, 3, 1)),
    ],
)
def test_what_is_no_model_is_refused(call):
    with pytest.raises(tw.ArgumentError, match=r"^model must be an nn.Sequential; got 'model'"):
        call()


def test_of_two_models_the_one_that_is_none_is_named():
    model, x = relu_net(2, 3, 1), np.ones((3, 2))
    for name, call in {
        "reference": lambda: diagnostics.align(model, "other"),
        "a": lambda: diagnostics.distance("other", model, x),
        "b": lambda: diagnostics.barrier(model, "other", None, x, x),
    }.items():
        with pytest.raises(tw.ArgumentError, match=f"^{name} must be an nn.Sequential; got 'other"):
            call()


def test_alignment_without_scipy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    model = relu_net(2, 3, 1)
    with pytest.raises(ImportError, match="pip install scipy"):
        diagnostics.align(model, model)


def test_units_of_any_activation_can_be_permuted(rng):
    pytest.importorskip("scipy")
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2), dtype="float64")
    other = shuffled(model, rng)
    np.testing.assert_array_equal(
        diagnostics.align(other, model).flat_parameters, model.flat_parameters
    )
    with pytest.raises(tw.ShapeError, match="same layers"):
        diagnostics.align(model, relu_net(6, 11, 2))


def test_layers_with_other_arguments_are_other_layers(blobs):
    """The second model was judged with the first one's activation."""
    pytest.importorskip("scipy")

    def make(activation, **options):
        return nn.Sequential(
            nn.Linear(5, 8, **options), nn.Residual(nn.Linear(8, 8), activation), activation,
            nn.Linear(8, 3), seed=1,
        )  # fmt: skip

    a, b = make(nn.LeakyReLU(0.01)), make(nn.LeakyReLU(0.9))
    trainer = tw.Trainer(a, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD())
    for call in (
        lambda: diagnostics.align(a, b),
        lambda: diagnostics.distance(a, b, blobs.x),
        lambda: diagnostics.barrier(a, b, trainer, blobs.x, blobs.y),
    ):
        with pytest.raises(tw.ShapeError, match=r"layer 1 is Residual.*0\.01.* and .*0\.9"):
            call()
    with pytest.raises(tw.ShapeError, match=r"layer 1 is ReLU\(\) and none"):
        diagnostics.align(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2)))
    # How weights are drawn is nothing that a trained model has.
    c = make(nn.LeakyReLU(0.01), init="xavier_uniform")
    assert diagnostics.barrier(a, c, trainer, blobs.x, blobs.y) >= 0


def test_no_rows_are_no_samples():
    """The functions were as far apart as nothing from nothing, and there were no eigenvalues."""
    pytest.importorskip("scipy")
    model, nothing = relu_net(2, 3, 1), np.ones((0, 2))
    for call in (
        lambda: diagnostics.distance(model, model, nothing),
        lambda: diagnostics.ntk_eigenvalues(model, nothing),
    ):
        with pytest.raises(tw.ShapeError, match=r"at least one row; got shape \(0, 2\)"):
            call()


# --- noise of gradients -------------------------------------------------------------------------


def every_gradient(trainer, x, y):
    model = trainer.model
    found = []
    for i in range(len(x)):
        model.zero_grad()
        trainer.backward(x[i : i + 1], y[i : i + 1])
        found.append(model.flat_gradients.copy())
    return np.array(found)


@pytest.fixture
def eight(rng):
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    return trainer, rng.standard_normal((8, 3)), rng.standard_normal((8, 2))


def test_batches_are_unbiased_with_the_covariance_of_sampling_theory(eight):
    """Over all 56 batches of 3 of 8 rows: mean g, covariance (S/b)(N-b)/N."""
    trainer, x, y = eight
    each = every_gradient(trainer, x, y)
    noise = diagnostics.gradient_noise(trainer, x, y)
    np.testing.assert_allclose(noise.gradient, each.mean(axis=0), rtol=1e-12, atol=1e-15)

    batches = [list(rows) for rows in itertools.combinations(range(8), 3)]
    assert len(batches) == 56
    means = []
    for rows in batches:
        trainer.model.zero_grad()
        trainer.backward(x[rows], y[rows])
        means.append(trainer.model.flat_gradients.copy())
    means = np.array(means)
    np.testing.assert_allclose(means.mean(axis=0), noise.gradient, rtol=1e-12, atol=1e-15)
    s = np.cov(each.T)  # with 1 / (N - 1)
    off = means - noise.gradient
    np.testing.assert_allclose(off.T @ off / 56, s / 3 * (8 - 3) / 8, rtol=1e-11, atol=1e-15)
    assert noise.trace == pytest.approx(np.trace(s), rel=1e-12)
    assert noise.variance(3) == pytest.approx((off**2).sum(axis=1).mean(), rel=1e-12)
    assert noise.variance(8) == 0
    squared = noise.gradient @ noise.gradient
    assert noise.noise_scale == pytest.approx(np.trace(s) / squared, rel=1e-12)
    assert sum(g for g, _ in noise.blocks.values()) == pytest.approx(squared, rel=1e-12)
    assert sum(t for _, t in noise.blocks.values()) == pytest.approx(noise.trace, rel=1e-12)


def test_weighted_by_their_rows_batches_average_to_the_full_gradient(eight):
    trainer, x, y = eight
    full = diagnostics.gradient_noise(trainer, x, y).gradient
    parts = []
    for rows in (slice(0, 3), slice(3, 6), slice(6, 8)):  # the last is short
        trainer.model.zero_grad()
        trainer.backward(x[rows], y[rows])
        parts.append(trainer.model.flat_gradients * len(x[rows]) / 8)
    np.testing.assert_allclose(np.sum(parts, axis=0), full, rtol=1e-12, atol=1e-16)


def test_noise_measured_with_batches_is_unbiased(rng):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1), dtype="float64")
    x, y = rng.standard_normal((600, 4)), rng.standard_normal((600, 1))
    found = {}
    for batch_size in (1, 4, 20):
        estimates = []
        for seed in range(12):
            twin = nn.Sequential(*model.layers, dtype="float64", seed=seed)
            twin.flat_parameters = model.flat_parameters
            trainer = tw.Trainer(twin, loss=nn.MSELoss(), optimizer=optim.SGD())
            noise = diagnostics.gradient_noise(trainer, x, y, batch_size=batch_size)
            estimates.append(noise.trace)
        found[batch_size] = np.mean(estimates)
        if batch_size == 1:
            assert np.ptp(estimates) < 1e-12
    assert found[4] == pytest.approx(found[1], rel=0.05)
    assert found[20] == pytest.approx(found[1], rel=0.1)


def test_the_noise_of_a_known_problem():
    """y = 0 + noise of variance 1, fitted by a bias alone: g_i = 2 (b - y_i), so S = 4 var y."""
    rng = np.random.default_rng(1)
    y = rng.standard_normal(500)
    model = nn.Sequential(nn.Linear(1, 1), dtype="float64")
    model.load_state_dict({"0.weight": [[0]], "0.bias": [3]})
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    noise = diagnostics.gradient_noise(trainer, np.zeros((500, 1)), y)
    trace, gradient = 4 * y.var(ddof=1), 2 * (3 - y.mean())
    assert noise.trace == pytest.approx(trace, rel=1e-12)
    assert noise.noise_scale == pytest.approx(trace / gradient**2, rel=1e-12)
    assert noise.critical_batch_size == 1
    assert noise.efficiency(500) == 1
    assert noise.efficiency(1) == pytest.approx(1 / (1 + noise.variance(1) / gradient**2))


@pytest.mark.parametrize("batch_size", [3, 4, 8])
def test_an_epoch_takes_every_row_once(batch_size):
    """A loss that writes down its targets sees each in every epoch, in another order."""
    seen = []

    def loss(output, target):
        seen.extend(target[:, 0].tolist())
        return float((output**2).mean()), 2 * output / output.size

    model = nn.Sequential(nn.Linear(1, 1), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.0))
    rows = np.arange(16.0).reshape(-1, 1)
    trainer.fit(rows, rows, epochs=3, batch_size=batch_size)
    epochs = np.array(seen).reshape(3, 16)
    for order in epochs:
        assert sorted(order) == list(range(16))
    assert len({tuple(order) for order in epochs}) == 3


def test_noise_leaves_the_trainer_alone_and_refuses_what_has_no_mean(eight, rng):
    trainer, x, y = eight
    before = trainer.model.flat_parameters
    trainer.model.flat_gradients = np.ones(trainer.model.num_parameters)
    diagnostics.gradient_noise(trainer, x, y)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert (trainer.model.flat_gradients == 1).all()
    summed = tw.Trainer(trainer.model, loss=nn.MSELoss(reduction="sum"), optimizer=optim.SGD())
    with pytest.raises(tw.ArgumentError, match="\"mean\"; got 'sum'"):
        diagnostics.gradient_noise(summed, x, y)
    with pytest.raises(tw.ArgumentError, match=r"two whole batches.*; got 5"):
        diagnostics.gradient_noise(trainer, x, y, batch_size=5)
    normal = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    normal = tw.Trainer(normal, loss=nn.MSELoss(), optimizer=optim.SGD())
    with pytest.raises(tw.ArgumentError, match="BatchNorm1d: batch_size must be >= 2; got 1"):
        diagnostics.gradient_noise(normal, x, y)
    assert diagnostics.gradient_noise(normal, x, y, batch_size=4).trace > 0
    with pytest.raises(tw.ArgumentError, match="must be a Trainer"):
        diagnostics.gradient_noise(trainer.model, x, y)


def test_labels_that_do_not_count_are_refused(rng):
    """The mean loss is over fewer rows then, and each batch has another number of them."""
    x, y = rng.standard_normal((12, 3)), rng.integers(0, 2, 12)
    y[[4, 7]] = -100
    model = nn.Sequential(nn.Linear(3, 2))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD())
    for batch_size in 1, 4:
        with pytest.raises(tw.DataError, match=r"y\[4\] is -100.* the 2 rows"):
            diagnostics.gradient_noise(trainer, x, y, batch_size=batch_size)
    kept = y >= 0
    assert diagnostics.gradient_noise(trainer, x[kept], y[kept]).trace > 0


def test_a_barrier_is_between_models_with_their_own_running_averages(rng):
    """Those of the first model stood for all, so that the second one's end was not its loss."""
    x, y = rng.standard_normal((40, 4)), rng.standard_normal((40, 1))
    models = []
    for seed in 0, 1:
        model = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1),
            dtype="float64", seed=seed,
        )  # fmt: skip
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.01))
        trainer.fit((1 + 5 * seed) * x + 3 * seed, y, epochs=20, batch_size=20)
        models.append(model)
    one, other = models
    there = diagnostics.barrier(one, other, trainer, x, y)
    assert there == pytest.approx(diagnostics.barrier(other, one, trainer, x, y), rel=1e-10)
    # Alone on the way there is the middle.
    middle = one.astype("float64")
    ends = one.state_dict(), other.state_dict()
    middle.load_state_dict({name: (ends[0][name] + ends[1][name]) / 2 for name in ends[0]})
    losses = [
        tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD()).evaluate(x, y)["loss"]
        for model in (one, middle, other)
    ]
    found = diagnostics.barrier(one, other, trainer, x, y, points=3)
    assert found == pytest.approx(max(0, losses[1] - (losses[0] + losses[2]) / 2), abs=1e-12)
    with pytest.raises(tw.ArgumentError, match="trainer must be a Trainer"):
        diagnostics.barrier(one, other, None, x, y)
    with pytest.raises(tw.ArgumentError, match=r"trainer must be a Trainer; got a list$"):
        diagnostics.barrier(one, other, x.tolist(), x, y)


def test_models_of_other_layers_are_not_compared():
    """Activations have no parameters to tell them apart by."""
    one = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    other = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    with pytest.raises(tw.ShapeError, match="the same layers"):
        diagnostics.align(one, other)


def test_the_balance_of_what_is_no_model_is_refused():
    with pytest.raises(tw.ArgumentError, match=r"must be an nn\.Sequential"):
        diagnostics.balancedness(None)
