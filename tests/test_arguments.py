"""What arguments mean that other tests leave at their defaults."""

import copy
import math
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import callbacks, curvature, diagnostics, nn, optim, solve

# --- weights of samples, and evaluation ---------------------------------------------------------

CLASSES = nn.CrossEntropyLoss()


def classifier(*between, seed=3):
    layers = [nn.Linear(4, 5), nn.Tanh(), *between, nn.Linear(5, 3)]
    return nn.Sequential(*layers, dtype="float64", seed=seed)


def sharpness(model, x, y, **options):
    """Of the weights that a fit begins with."""
    trainer = tw.Trainer(copy.deepcopy(model), loss=CLASSES, optimizer=optim.SGD(lr=1e-3))
    monitor = callbacks.StabilityMonitor(x, y, **options)
    trainer.fit(x, y, callbacks=[monitor])
    return monitor.reports[0].sharpness


def checked_gradient(*batch, **options):
    """The norm of the gradient, whose differences the products must be."""
    report = tw.gradgradcheck(*batch, loss=CLASSES, **options)
    assert report.passed
    return report.value


def density(*batch, **options):
    found = curvature.spectral_density(*batch, loss=CLASSES, steps=6, **options)
    return found.nodes, found.weights


V = np.linspace(-1, 1, 43)
#: What is measured on a batch; the first seven also in evaluation.
MEASURED = {
    "hvp": lambda *batch, **options: curvature.hvp(*batch, V, loss=CLASSES, **options),
    "gnvp": lambda *batch, **options: curvature.gnvp(*batch, V, loss=CLASSES, **options),
    "fisher_vp": lambda *batch, **options: curvature.fisher_vp(*batch, V, loss=CLASSES, **options),
    "top_eigenvalues": lambda *batch, **options: (
        curvature.top_eigenvalues(*batch, loss=CLASSES, k=2, **options).values
    ),
    "spectral_density": density,
    "trace": lambda *batch, **options: curvature.trace(*batch, loss=CLASSES, **options),
    "logdet": lambda *batch, **options: (
        curvature.logdet(*batch, loss=CLASSES, kind="fisher", shift=1.0, **options).value
    ),
    "StabilityMonitor": sharpness,
    "gradgradcheck": checked_gradient,
    "last_layer": lambda model, x, y, **options: (
        solve.last_layer(copy.deepcopy(model), x, np.eye(3)[y], alpha=0.1, **options).coef
    ),
}


@pytest.fixture
def batch(rng):
    return rng.standard_normal((12, 4)), rng.integers(0, 3, 12)


def relative(found, expected):
    found, expected = np.ravel(found), np.ravel(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", MEASURED)
def test_a_sample_of_weight_two_counts_as_two(name, batch, rng):
    measure, model, (x, y) = MEASURED[name], classifier(), batch
    times = rng.integers(0, 4, 12)
    weighted = measure(model, x, y, sample_weight=times)
    assert relative(weighted, measure(model, x.repeat(times, axis=0), y.repeat(times))) < 1e-6
    assert relative(weighted, measure(model, x, y)) > 1e-3


@pytest.mark.parametrize("name", list(MEASURED)[:7])
def test_nothing_is_dropped_in_evaluation(name, batch):
    measure, dropping, whole = MEASURED[name], classifier(nn.Dropout(0.5)), classifier()
    whole.flat_parameters = dropping.flat_parameters
    in_evaluation = measure(dropping, *batch, training=False)
    assert relative(in_evaluation, measure(whole, *batch)) < 1e-9
    assert relative(in_evaluation, measure(dropping, *batch, training=True)) > 1e-3


# --- tolerances and directions of checks --------------------------------------------------------


def plane(error):
    """A loss whose gradient, by each of two weights, is 1 and told to be 1 + `error`."""
    return lambda output, target: (float(output.sum()), np.full(output.shape, 1 + error))


def check_plane(error, **options):
    model = nn.Sequential(nn.Linear(2, 1, bias=False), dtype="float64")
    return tw.gradcheck(model, np.eye(2), np.zeros((2, 1)), loss=plane(error), **options)


def check_product(error, **options):
    return tw.check_hvp(
        np.cos, lambda theta, v: -(1 + error) * np.sin(theta) * v, np.ones(4), **options
    )


def check_own_product(error, **options):
    class Mistaken(curvature.Operator):
        def matvec(self, v):
            return (1 + error) * super().matvec(v)

        __matmul__ = matvec

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curvature, "Operator", Mistaken)
        return tw.gradgradcheck(classifier(), np.eye(4), [0, 1, 2, 0], loss=CLASSES, **options)


@pytest.mark.parametrize("check", [check_plane, check_product, check_own_product])
def test_a_relative_error_passes_up_to_rtol(check):
    assert check(1e-4, rtol=1.01e-4).passed
    assert not check(1e-4, rtol=0.99e-4).passed


def test_an_error_passes_up_to_atol():
    assert check_plane(1e-4, atol=1.01e-4).passed
    assert not check_plane(1e-4, atol=0.99e-4).passed


def test_the_largest_relative_error_is_that_of_the_worst_block():
    """Slopes are 2; relative to the larger number, 3 is off by a third and 4 by a half."""
    wrong = {"a": np.array([2.0, 3.0]), "b": np.array([4.0]), "c": np.array([2.0])}
    theta = {name: np.ones(len(slope)) for name, slope in wrong.items()}
    report = tw.check_gradient(lambda t: sum((a**2).sum() for a in t.values()), wrong, theta)
    assert [round(block.max_rel_error, 6) for block in report.blocks[:2]] == [0.333333, 0.5]
    assert report.max_rel_error == pytest.approx(0.5, rel=1e-9)


def directions_of(seed):
    seen = []
    tw.check_hvp(lambda t: t, lambda t, v: seen.append(v) or v, np.ones(4), seed=seed)
    return np.array(seen).tolist()


def numbers_along(seed):
    return str(check_own_product(1e-4, seed=seed))


@pytest.mark.parametrize("drawn", [directions_of, numbers_along])
def test_a_seed_determines_directions(drawn):
    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("directions", [1, 4])
def test_products_are_checked_along_so_many_directions_of_each_block(directions):
    report = check_own_product(0.0, directions=directions)
    # Each of the four blocks is compared along those of all four.
    assert [block.directions for block in report.blocks] == [4 * directions] * 5


# --- solvers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rcond", "rank"), [(None, 3), (1e-6, 2), (1e-2, 1)])
def test_singular_values_below_rcond_count_as_zero(rcond, rank, rng):
    """As in NumPy's function of the same argument."""
    u = np.linalg.qr(rng.standard_normal((9, 3)))[0]
    v = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    x, y = u * [1, 1e-4, 1e-8] @ v.T, rng.standard_normal(9)
    options = {"intercept": False, "rcond": rcond}
    fit = solve.least_squares(x, y, rank_deficient="min_norm", **options)
    theirs, _, their_rank, _ = np.linalg.lstsq(x, y, rcond=rcond)
    assert fit.rank == their_rank == rank
    assert relative(fit.coef, theirs) < 1e-6


def test_columns_are_dependent_if_a_singular_value_is_below_rcond():
    """Of columns of length 1: with the cosine 0.8, singular values are √1.8 and √0.2."""
    x = np.array([[1.0, 800.0], [0.0, 600.0], [0.0, 0.0]])
    fit = solve.least_squares(x, [1, 0, 0], intercept=False, rcond=0.33)
    np.testing.assert_allclose(fit.coef, [1, 0], atol=1e-12)
    with pytest.raises(tw.ArgumentError, match="the rank of x is 1, but it has 2 columns"):
        solve.least_squares(x, [1, 0, 0], intercept=False, rcond=0.34)


@pytest.mark.parametrize("name", ["xtol", "gtol"])
def test_nonlinear_least_squares_ends_at_the_tolerance(name):
    """Residuals are θ - 3 and 1: a step leaves μ / (1 + μ) of the first, and μ / 3 of μ.

    For xtol, what counts is the step without μ, from where none was rejected.
    """

    def fit(tolerance):
        return solve.nonlinear_least_squares(
            lambda theta: np.array([theta[0] - 3, 1.0]), lambda theta: np.array([[1.0], [0.0]]),
            [2.0], damping=1.0, geodesic=False, **{name: tolerance},
        )  # fmt: skip

    error, damping = -1.0, 1.0
    for steps in range(6):
        step = abs(error) / (3 + error)
        size = {"xtol": step, "gtol": abs(error) / math.hypot(error, 1)}[name]
        ended, goes_on = fit(1.001 * size), fit(0.999 * size)
        assert ended.converged
        assert ended.theta[0] - 3 == pytest.approx(error, rel=1e-9)
        assert [len(found.history["damping"]) for found in (ended, goes_on)] == [
            steps + 1,
            steps + 2,
        ]
        error, damping = error * damping / (1 + damping), damping / 3


# --- optimizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("geodesic", [True, False])
def test_a_step_of_levenberg_marquardt_is_bent_by_half_its_acceleration(geodesic, rng):
    """For f(x) = a·Wx, whose second derivative along (δW, δa) is 2 δa·δW x."""
    x, y = rng.standard_normal((20, 2)), rng.standard_normal((20, 1))
    model = nn.Sequential(
        nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False), dtype="float64", seed=1
    )
    theta = model.flat_parameters
    w, a = theta[:6].reshape(3, 2), theta[6:]
    residual = x @ w.T @ a - y[:, 0]
    jacobian = np.concatenate([np.einsum("i,nj->nij", a, x).reshape(20, 6), x @ w.T], axis=1)
    damped = jacobian.T @ jacobian
    damped += 0.5 * np.diag(np.diag(damped))
    step = -np.linalg.solve(damped, jacobian.T @ residual)
    second = 2 * x @ step[:6].reshape(3, 2).T @ step[6:]
    if geodesic:
        step = step - np.linalg.solve(damped, jacobian.T @ second) / 2
    optimizer = optim.LevenbergMarquardt(damping=0.5, geodesic=geodesic)
    history = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer).fit(
        x, y, epochs=1, batch_size=None
    )
    assert history["rejected"] == [0]
    np.testing.assert_allclose(model.flat_parameters - theta, step, rtol=1e-9, atol=1e-12)


def three_layers():
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)]
    return nn.Sequential(*layers, dtype="float64", seed=3)


def beside_adamw(optimizer, rng, **options):
    """Moves of all parameters in five steps with the same gradients: ours, and PyTorch's AdamW."""
    torch = pytest.importorskip("torch")
    model = three_layers()
    thetas = {
        name: torch.tensor(array, requires_grad=True) for name, array in model.state_dict().items()
    }
    peer = torch.optim.AdamW(thetas.values(), **options)
    for _ in range(5):
        before = model.state_dict(), {n: t.detach().numpy().copy() for n, t in thetas.items()}
        slopes = {name: rng.standard_normal(theta.shape) for name, theta in thetas.items()}
        model.flat_gradients = np.concatenate([slope.ravel() for slope in slopes.values()])
        for name, theta in thetas.items():
            theta.grad = torch.tensor(slopes[name])
        optimizer.step(model)
        peer.step()
        after = model.state_dict()
        yield {
            name: (after[name] - before[0][name], theta.detach().numpy() - before[1][name])
            for name, theta in thetas.items()
        }


@pytest.mark.parametrize(
    ("method", "betas", "own"),
    [
        (optim.Muon, {"adam_betas": (0.8, 0.7)}, {"2.weight"}),
        (
            optim.Shampoo, {"betas": (0.8, 0.95), "adam_beta2": 0.7},
            {"0.weight", "2.weight", "4.weight"},
        ),
    ],
    ids=["Muon", "Shampoo"],
)  # fmt: skip
def test_other_parameters_take_adamws_steps_with_options_of_their_own(method, betas, own, rng):
    optimizer = method(lr=0.02, weight_decay=0.3, adam_lr_scale=0.25, adam_eps=0.1, **betas)
    options = {"lr": 0.02 * 0.25, "betas": (0.8, 0.7), "eps": 0.1, "weight_decay": 0.3}
    for moves in beside_adamw(optimizer, rng, **options):
        same = {name for name, move in moves.items() if np.allclose(*move, rtol=1e-9, atol=1e-13)}
        assert same == set(moves) - own


def test_steps_of_shampoo_are_as_long_as_those_of_adam_with_options_of_its_own(rng):
    optimizer = optim.Shampoo(
        lr=0.02, betas=(0.8, 0.95), grafting="adam", adam_beta2=0.7, adam_eps=0.1
    )
    options = {"lr": 0.02, "betas": (0.8, 0.7), "eps": 0.1, "weight_decay": 0.0}
    for moves in beside_adamw(optimizer, rng, **options):
        for name, (ours, theirs) in moves.items():
            assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(theirs), rel=1e-9), name


def test_a_group_of_muons_decays_at_its_own_rate():
    """Without a gradient, the decay is all that moves a parameter: by a factor of 1 - ηλ."""
    optimizer = optim.Muon(lr=0.5, weight_decay=0.1)
    optimizer.add_group("2.weight", weight_decay=0.4).add_group("4.*", weight_decay=0.0)
    model = three_layers()
    for array in (before := model.state_dict()).values():
        array += 1  # biases are 0
    model.load_state_dict(before)
    model.flat_gradients = np.zeros(model.num_parameters)
    optimizer.step(model)
    kept = {"2.weight": 0.8, "4.weight": 1.0, "4.bias": 1.0}
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(array, kept.get(name, 0.95) * before[name], rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "adam", "beta_2": 0.5},
        {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.2, "learning_rate_init": 0.3},
        {"solver": "lbfgs", "max_fun": 6, "max_iter": 50},
    ],
    ids=["beta_2", "power_t", "max_fun"],
)
def test_estimators_are_scikit_learns(options, rng):
    pytest.importorskip("sklearn")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    x = rng.standard_normal((60, 4))
    y = np.sin(x[:, 0]) + x[:, 1]
    small = {"hidden_layer_sizes": 6, "batch_size": 20, "max_iter": 6, "random_state": 1}
    options = {"shuffle": False, **small, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = tw.sklearn.MLPRegressor(**options, dtype="float64").fit(x, y)
        theirs = MLPRegressor(**options).fit(x, y)
    assert ours.n_iter_ == theirs.n_iter_
    for one, other in zip(ours.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


# --- diagnostics, callbacks and pictures --------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 5])
def test_conditioning_takes_jacobians_at_so_many_of_the_first_rows(samples, rng):
    model, x = classifier(), rng.standard_normal((40, 4))
    report = diagnostics.conditioning(model, x, samples=samples)
    state = model.state_dict()
    h = np.tanh(x[:samples] @ state["0.weight"].T + state["0.bias"])
    bends = [np.diag(1 - row**2) for row in h]
    for found, jacobians in [
        (report[2].jacobian, bends),
        (report.jacobian, [state["2.weight"] @ bend @ state["0.weight"] for bend in bends]),
    ]:
        singular = np.linalg.svd(np.array(jacobians), compute_uv=False)
        np.testing.assert_allclose(found, np.sqrt((singular**2).mean(axis=0)), rtol=1e-10)


def test_a_seed_determines_the_order_of_alignment(rng):
    """With several hidden layers it leads to different local optima, of the same function."""
    pytest.importorskip("scipy")
    sides = (nn.Linear(4, 9), nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 3))
    layers = [layer for side in sides for layer in (side, nn.Tanh())]
    one, other = (nn.Sequential(*layers, dtype="float64", seed=seed) for seed in (1, 2))
    found = [diagnostics.align(one, other, seed=seed) for seed in (0, 0, 1, 2, 3)]
    x = rng.standard_normal((10, 4))
    for model in found:
        np.testing.assert_allclose(model(x), one(x), rtol=0, atol=1e-12)
    first, again, *others = (model.flat_parameters.tolist() for model in found)
    assert first == again
    assert any(first != order for order in others)


def frequencies():
    """What a fit of three records leaves; the residuals shrink by frequency."""
    x = np.arange(16) / 16
    found = diagnostics.SpectralBias(
        x, sum(np.sin(2 * np.pi * k * x) for k in (1, 2, 3)), [1, 2, 3]
    )
    found.steps += [0, 10, 15]
    found.residuals += [np.array(row) for row in ([1, 1, 1], [0.05j, 0.4, -1], [0.01, 0.2, 0.9])]
    return found


@pytest.mark.parametrize(
    ("below", "steps"),
    [(0.1, [10, math.inf, math.inf]), (0.03, [15, math.inf, math.inf]), (0.95, [10, 10, 15])],
)
def test_frequencies_are_learned_where_residuals_are_below_a_limit(below, steps):
    assert frequencies().learned_at(below=below).tolist() == steps


@pytest.mark.parametrize(("mode", "saved"), [("min", [1, 3]), ("max", [1, 2])])
def test_the_best_is_the_smallest_or_the_largest_figure(mode, saved, classifier, blobs, tmp_path):
    class Figure(callbacks.Callback):
        def on_epoch_end(self, trainer, record):
            record["height"] = [5.0, 7.0, 4.0][int(record["epoch"]) - 1]

    checkpoint = callbacks.ModelCheckpoint(
        tmp_path / "{epoch}", monitor="height", save_best_only=True, mode=mode
    )
    classifier.fit(blobs.x, blobs.y, epochs=3, callbacks=[Figure(), checkpoint])
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == saved
    assert checkpoint.best == {"min": 4.0, "max": 7.0}[mode]


PICTURES = {
    "GradcheckReport.plot": lambda ax: check_plane(0.0).plot(ax=ax),
    "LRFinder.plot": lambda ax: tw.LRFinder(
        *np.ones((4, 2)), suggestion=1.0, diverged_at=None
    ).plot(ax=ax),
    "Result.plot_matrix": lambda ax: tw.continual.Result(
        ("a", "b"), "task", "accuracy", [0, 1, 2], [[0, 0], [1, 0], [0, 1]], [1, 2]
    ).plot_matrix(ax=ax),
    "SpectralDensity.plot": lambda ax: curvature.spectral_density(np.eye(3)).plot(ax=ax),
    "SpectralBias.plot": lambda ax: frequencies().plot(ax=ax),
    "Descent.plot": lambda ax: optim.minimize(
        lambda t: (t @ t, 2 * t), [1.0, 2.0], optim.SGD(lr=0.1), 3
    ).plot(ax=ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_on_the_axes_given(name):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    figure, (mine, _) = plt.subplots(1, 2)
    there = plt.get_fignums()  # other tests may have left some
    try:
        assert PICTURES[name](mine) is mine
        assert mine.has_data()
        assert plt.get_fignums() == there
    finally:
        plt.close(figure)
