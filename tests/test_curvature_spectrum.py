"""Eigenvalues and spectra through products only, beside what NumPy finds for the formed matrix."""

import tracemalloc
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import curvature, nn
from thalweg.curvature import Operator, top_eigenvalues
from thalweg.curvature._lanczos import lanczos


@pytest.fixture
def mlp(rng):
    """A 6-12-8-4 net, a batch, and its Hessian, which has negative eigenvalues."""
    model = nn.Sequential(
        nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4),
        dtype="float64", seed=2,
    )  # fmt: skip
    return model, rng.standard_normal((224, 6)), rng.integers(0, 4, 224)


def symmetric(rng, values):
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return (q * values) @ q.T


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_both_ends_are_those_of_the_dense_matrix(kind, mlp):
    model, x, y = mlp
    loss = nn.CrossEntropyLoss()
    dense = np.linalg.eigvalsh(Operator(model, x, y, loss=loss, kind=kind).dense())
    # The smallest of a Gauss-Newton matrix are a cluster at 0.
    k, which = (3, "both") if kind == "hessian" else (6, "largest")
    found = top_eigenvalues(model, x, y, loss=loss, kind=kind, k=k, which=which)
    wanted = dense[::-1][:6] if which == "largest" else np.r_[dense[::-1][:3], dense[:3]]
    assert abs(found.values - wanted).max() <= 1e-8 * dense[-1]
    assert found.residuals.max() <= 1e-8 * dense[-1]
    assert abs(found.vectors.T @ found.vectors - np.eye(6)).max() < 1e-8
    if kind == "hessian":
        assert dense[0] < -1e-3


def test_thirty_steps_are_enough_for_both_ends(mlp, rng):
    model, x, y = mlp
    operator = Operator(model, x, y, loss=nn.CrossEntropyLoss())
    values, _ = lanczos(operator.matvec, rng.standard_normal(operator.shape[0]), 30).eigh()
    dense = np.linalg.eigvalsh(operator.dense())
    assert max(abs(values[0] - dense[0]), abs(values[-1] - dense[-1])) <= 1e-8 * dense[-1]


MATRICES = {
    "largest in size is negative": [3.0, 1.0, 0.5, -8.0, -2.0],
    "all negative": [-1.0, -2.0, -3.0, -4.0],
    "triple": [5.0, 5.0, 5.0, 4.0, 1.0, -2.0, -2.0],
    "zero": [0.0, 0.0, 0.0],
    "one": [7.0],
    "tiny": [2e-100, 1e-100, -1e-100],
    "close": [1.0, 1.0 - 1e-7, 0.5, 0.2, 0.1],
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
def test_awkward_spectra(name, which, rng):
    values = np.sort(MATRICES[name])
    matrix = symmetric(rng, values)
    k = max(1, len(values) // 2) if which == "both" else len(values)
    if which == "both" and len(values) < 2:
        return
    found = top_eigenvalues(matrix, k=k, which=which).values
    down, up = values[::-1][:k], values[:k]
    wanted = {"largest": down, "smallest": up, "both": np.r_[down, up]}[which]
    assert abs(found - wanted).max() <= 1e-8 * abs(values).max()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("others", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("first", [1.0, 5.0, -5.0])
def test_no_eigenvector_is_at_both_ends(first, others, k, rng):
    """The same vectors were the largest and the smallest of a matrix with few eigenvalues."""
    for n in (2 * k, 2 * k + 1, 12):
        values = np.full(n, others)
        values[0] = first
        matrix = symmetric(rng, values)
        found = top_eigenvalues(matrix, k=k, which="both")
        values = np.sort(values)
        np.testing.assert_allclose(found.values, np.r_[values[::-1][:k], values[:k]], atol=1e-8)
        np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(2 * k), atol=1e-10)
        np.testing.assert_allclose(matrix @ found.vectors, found.vectors * found.values, atol=1e-8)


def test_outputs_of_a_linear_model_have_the_same_eigenvalues_each(rng):
    """The Hessian of MSE is a block for each output: every eigenvalue comes as often."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False), dtype="float64")
    x = rng.standard_normal((20, 4))
    found = top_eigenvalues(model, x, np.zeros((20, 3)), loss=nn.MSELoss(), k=6).values
    block = np.linalg.eigvalsh(2 * x.T @ x / 60)[::-1]
    assert abs(found - np.repeat(block[:2], 3)).max() < 1e-8


def test_no_ghosts_after_many_steps(rng):
    """Without orthogonalization, the isolated eigenvalue would be found again and again."""
    values = np.r_[np.linspace(0, 1, 199), 100.0]
    found, _ = lanczos(lambda v: values * v, rng.standard_normal(200), 120).eigh()
    assert (found > 50).sum() == 1
    basis = lanczos(lambda v: values * v, rng.standard_normal(200), 120).basis
    assert abs(basis @ basis.T - np.eye(120)).max() < 1e-13


def test_there_is_room_for_the_vectors_that_are_needed_not_for_all_that_are_allowed():
    """Twenty thousand parameters and a thousand products would be 160 MB."""
    n = 20_000
    values = np.linspace(0, 1, n)
    values[-1] = 1.2
    tracemalloc.start()
    try:
        found = top_eigenvalues(lambda v: values * v, size=n)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.values[0] == pytest.approx(1.2, abs=1e-3)
    assert 32 < found.products < 100
    assert most < 4 * found.products * n * 8 < 1000 * n * 8


def test_quadrature_is_exact_up_to_degree_2m_minus_1(rng):
    m, n = 8, 300
    values = rng.uniform(-1, 1, n)
    q = rng.standard_normal(n)
    q /= np.linalg.norm(q)
    nodes, small = lanczos(lambda v: values * v, q, m).eigh()
    errors = [
        abs(small[0] ** 2 @ nodes**k - q**2 @ values**k) / (q**2 @ np.abs(values) ** k)
        for k in range(2 * m + 1)
    ]
    assert max(errors[: 2 * m]) < 1e-12
    assert errors[2 * m] > 1e-8


def test_the_spectrum_of_marchenko_and_pastur(rng):
    """Sample covariances of white noise: density, edges, trace and determinant are known."""
    n, d = 4000, 1000
    x = rng.standard_normal((n, d))

    covariance = x.T @ x / n
    found = curvature.spectral_density(covariance, steps=60, probes=10)
    low, high = (1 - np.sqrt(d / n)) ** 2, (1 + np.sqrt(d / n)) ** 2
    assert abs(found.range[0] - low) < 0.01
    assert abs(found.range[1] - high) < 0.02
    grid = np.linspace(low, high, 2001)
    density = np.sqrt((high - grid) * (grid - low)) / (2 * np.pi * d / n * grid)
    cdf = np.r_[0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))]
    assert abs(cdf[-1] - 1) < 1e-3
    assert abs(found.cdf(grid) - cdf).max() <= 0.03
    exact = np.linalg.eigvalsh(covariance)
    assert abs(curvature.trace(covariance, probes=10).value / exact.sum() - 1) <= 0.02
    assert abs(d * found.mean(lambda t: t).value / exact.sum() - 1) <= 0.02
    assert abs(curvature.logdet(covariance).value / np.log(exact).sum() - 1) <= 0.05


def test_nan_is_no_number_that_all_eigenvalues_are_below():
    found = curvature.spectral_density(np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_equal(found.cdf([np.nan, -np.inf, np.inf])[:2], [np.nan, 0])
    assert found.cdf(np.inf) == pytest.approx(1)


def test_means_of_functions_that_are_not_finite_there_are_refused():
    """They were NaN."""
    found = curvature.spectral_density(np.diag([-1.0, 2.0, 3.0]))
    with pytest.raises(tw.DataError, match=r"f is nan at -1, near an eigenvalue"):
        found.mean(np.log)
    assert found.mean(np.ones_like).value == pytest.approx(1)


def test_estimates_tell_how_far_off_they_are(rng):
    matrix = symmetric(rng, np.linspace(1, 3, 80))
    for estimate, exact in (
        (curvature.trace(matrix, probes=50), 160.0),
        (curvature.logdet(matrix, probes=50), np.log(np.linspace(1, 3, 80)).sum()),
    ):
        assert 0 < estimate.standard_error < 0.05 * exact
        assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert np.isnan(curvature.trace(matrix, probes=1).standard_error)


def test_too_few_steps_for_a_logdet_are_noticed():
    """It was ten standard errors too large, and nothing was said."""
    values = np.logspace(-8, 0, 300)
    exact = np.log(values).sum()
    with pytest.warns(RuntimeWarning, match=r"too few steps make it too large.* use more steps"):
        few = curvature.logdet(values.__mul__, size=300, steps=60)
    assert few.value > exact + 8 * few.standard_error
    with pytest.warns(RuntimeWarning, match="with half of them, a change by more than 1%: too few"):
        curvature.logdet(values.__mul__, size=300, steps=60, probes=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = curvature.logdet(values.__mul__, size=300, steps=300)
        curvature.logdet(values.__mul__, size=300, steps=300, probes=1)
        shifted = curvature.logdet(values.__mul__, size=300, shift=1e-2)
        single = curvature.logdet(np.diag([1.0, 2.0]), steps=1)  # half of it is one, too
    assert abs(enough.value - exact) < 3 * enough.standard_error
    assert abs(shifted.value - np.log(values + 1e-2).sum()) < 3 * shifted.standard_error
    assert single.value > 0


def test_logdet_needs_a_positive_matrix_or_a_shift(mlp):
    model, x, y = mlp
    loss = nn.CrossEntropyLoss()
    with pytest.raises(tw.ArgumentError, match="shift above"):
        curvature.logdet(model, x, y, loss=loss)
    dense = Operator(model, x, y, loss=loss).dense()
    wanted = np.linalg.slogdet(dense + np.eye(len(dense)))[1]
    found = curvature.logdet(model, x, y, loss=loss, shift=1.0, probes=10)
    assert abs(found.value - wanted) < max(4 * found.standard_error, 0.05 * wanted)


def test_whatever_multiplies_is_a_matrix(rng):
    matrix = symmetric(rng, np.arange(1.0, 9.0))
    scipy = pytest.importorskip("scipy.sparse.linalg")
    forms = [(matrix, {}), (matrix.__matmul__, {"size": 8}), (scipy.aslinearoperator(matrix), {})]
    values = {float(top_eigenvalues(form, **more).values[0]).hex() for form, more in forms}
    assert len(values) == 1
    model = nn.Sequential(nn.Linear(2, 1), dtype="float64")
    operator = Operator(model, np.eye(2), np.zeros(2), loss=nn.MSELoss())
    dense = operator.dense()
    ours = top_eigenvalues(operator).values[0]
    assert abs(ours - np.linalg.eigvalsh(dense)[-1]) < 1e-12
    theirs = scipy.eigsh(scipy.aslinearoperator(operator), k=1, return_eigenvectors=False)[0]
    assert abs(ours - theirs) < 1e-8


def test_a_model_in_float32_has_its_digits(mlp):
    model, x, y = mlp
    loss = nn.CrossEntropyLoss()
    double = top_eigenvalues(model, x, y, loss=loss, k=2).values
    single = top_eigenvalues(model.astype("float32"), x, y, loss=loss, k=2).values
    assert abs(single - double).max() < 1e-5 * double[0]


def test_results_are_equal_to_themselves_only(rng):
    """Arrays do not tell whether they are equal by one truth value."""
    a = symmetric(rng, np.arange(5.0))
    for measure in (top_eigenvalues, curvature.spectral_density):
        one, other = measure(a), measure(a)
        assert one != other
        assert len({one, other, one}) == 2


def test_a_density_is_drawn(rng):
    plt = pytest.importorskip("matplotlib.pyplot")
    found = curvature.spectral_density(symmetric(rng, np.arange(20.0)), steps=10, probes=3)
    assert found.nodes.shape == (3, 10)
    assert repr(found).startswith("SpectralDensity(20 eigenvalues from ")
    assert repr(top_eigenvalues(np.diag([3.0, 1.0]))).startswith("Eigenpairs([3.], residuals up to")
    assert abs(found.weights.sum(axis=1) - 1).max() < 1e-12
    grid = np.linspace(-5, 25, 3000)
    assert abs(found.density(grid).sum() * (grid[1] - grid[0]) - 1) < 1e-6
    ax = found.plot()
    assert ax.get_xlabel() == "eigenvalue"
    plt.close(ax.figure)


BAD = [
    (lambda a: top_eigenvalues(a, k=9), "ArgumentError", "more than the 8"),
    (lambda a: top_eigenvalues(a, k=0), "ArgumentError", "k must be"),
    (lambda a: top_eigenvalues(a, which="LM"), "ArgumentError", '"largest"'),
    (lambda a: top_eigenvalues(a[:4]), "ArgumentError", "square"),
    (lambda a: top_eigenvalues(a.__matmul__), "ArgumentError", "size must be"),
    (lambda a: top_eigenvalues("A"), "ArgumentError", "with size=; got 'A'"),
    (lambda a: top_eigenvalues(None, a, a, loss=nn.MSELoss()), "ArgumentError", "size=; got None"),
    (lambda a: top_eigenvalues([[1.0], [1, 2]]), "ShapeError", "the matrix cannot be made an arr"),
    (lambda a: top_eigenvalues([[1, 2], [3, 4]]), "ArgumentError", "must be symmetric"),
    (lambda a: top_eigenvalues(a, loss=nn.MSELoss()), "ArgumentError", "go with a model"),
    (lambda a: top_eigenvalues(nn.Sequential(nn.Linear(1, 1))), "ArgumentError", "loss="),
    (lambda a: top_eigenvalues(a, max_products=2), "DivergedError", "max_products"),
    (lambda a: top_eigenvalues(lambda v: v[1:], size=3), "ShapeError", r"\(3,\); got \(2,\)"),
    (lambda a: top_eigenvalues(lambda v: v * np.nan, size=3), "DataError", "NaN"),
    (lambda a: curvature.spectral_density(a, steps=0), "ArgumentError", "steps"),
    (lambda a: curvature.trace(a, probes=0), "ArgumentError", "probes"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_what_is_wrong_is_said(call, error, words, rng):
    with pytest.raises(getattr(tw, error), match=words):
        call(symmetric(rng, np.arange(8.0)))


def test_products_whose_length_overflows_are_refused(rng):
    """The largest eigenvalue was found to be negative, and every rate to be stable."""
    a = 1e160 * symmetric(rng, np.linspace(1, 2, 8))
    with pytest.raises(tw.DataError, match=r"of size \d\.\de\+160, .* scale"):
        top_eigenvalues(lambda v: a @ v, size=8)
    a *= 1e-40
    np.testing.assert_allclose(top_eigenvalues(lambda v: a @ v, size=8).values, 2e120, rtol=1e-8)


def test_products_of_no_symmetric_matrix_are_noticed(rng):
    """Lanczos' method would give numbers all the same."""
    a = rng.standard_normal((9, 9))
    with pytest.raises(tw.DataError, match="the matrix is not symmetric"):
        top_eigenvalues(lambda v: a @ v, size=9)
    with pytest.raises(tw.DataError, match="or changes between products"):
        top_eigenvalues(lambda v: v * rng.standard_normal(9), size=9)


def test_spectra_of_what_is_not_symmetric_are_refused(rng):
    """[[1, 5], [0, 2]] had eigenvalues from -3 to 6."""
    a = np.array([[1.0, 5.0], [0.0, 2.0]])
    for call in (curvature.spectral_density, curvature.logdet, top_eigenvalues):
        with pytest.raises(
            tw.ArgumentError, match=r"symmetric, but a\[0, 1\] = 5 and a\[1, 0\] = 0"
        ):
            call(a)
        with pytest.raises(tw.DataError, match="the matrix is not symmetric"):
            call(lambda v: a @ v, size=2)
    assert curvature.trace(a, probes=2) == curvature.Estimate(3.0, 0.0)  # any has one
    # Rounding is none: of sums in another order, and of products in float32.
    x = rng.standard_normal((50, 30))
    near = x.T @ x * (1 + 1e-12 * rng.standard_normal((30, 30)))
    single = near.astype(np.float32) * (1 + 1e-6 * rng.standard_normal((30, 30)))
    want = curvature.spectral_density(near).range
    for form in (near, single.astype(np.float32)):
        assert curvature.spectral_density(form).range == pytest.approx(want, rel=1e-3, abs=1e-3)
        assert curvature.logdet(form.__matmul__, size=30, shift=1.0).value > 0


@pytest.mark.parametrize(
    "call",
    [top_eigenvalues, curvature.spectral_density, curvature.trace, curvature.logdet],
)
def test_a_matrix_may_be_a_nested_list(call):
    matrix = [[2, 1], [1, 5]]
    found, expected = (str(call(it, seed=3)) for it in (matrix, np.array(matrix, float)))
    assert found == expected


@pytest.mark.parametrize(
    "call",
    [top_eigenvalues, curvature.spectral_density, curvature.trace, curvature.logdet],
)
def test_what_an_operator_is_made_with_is_not_changed_in_passing(call, mlp):
    """It was left out of account, and not even looked at."""
    model, x, y = mlp
    loss = nn.CrossEntropyLoss()
    for matrix in (Operator(model, x, y, loss=loss), np.eye(3)):
        for wrong in ({"kind": "fisher"}, {"kind": "nonsense"}, {"training": True}):
            with pytest.raises(tw.ArgumentError, match=f"leave out {next(iter(wrong))}="):
                call(matrix, **wrong)
    with pytest.raises(tw.ArgumentError, match="kind must be one of"):
        call(model, x, y, loss=loss, kind="nonsense")


def test_a_trainer_in_place_of_its_model_is_met_with_the_same_words(mlp):
    model, x, y = mlp
    loss = nn.CrossEntropyLoss()
    trainer, v = tw.Trainer(model, loss=loss, optimizer=tw.optim.SGD()), model.flat_parameters
    for call in (
        *(curvature.top_eigenvalues, curvature.spectral_density, curvature.trace),
        *(curvature.logdet, Operator),
    ):
        with pytest.raises(tw.ArgumentError, match="got a Trainer: pass its"):
            call(trainer, x, y, loss=loss)
    for of in (curvature.hvp, curvature.gnvp, curvature.fisher_vp):
        with pytest.raises(tw.ArgumentError, match="got a Trainer: pass its"):
            of(trainer, x, y, v, loss=loss)
    for plain in (curvature.jvp, curvature.jet, curvature.kfac_factors, top_eigenvalues):
        with pytest.raises(tw.ArgumentError, match="got a Trainer: pass its"):
            plain(trainer, *(() if plain is top_eigenvalues else (x,)))


def test_matrices_of_any_size_have_their_eigenvalues(rng):
    """The squares of the smallest numbers are 0: the largest eigenvalue was a negative one."""
    a = symmetric(rng, np.array([-5.0, 1, 2, 3]))
    for scale in 1e-200, 1e-100, 1e100:
        found = top_eigenvalues(scale * a, which="both").values
        np.testing.assert_allclose(found, [3 * scale, -5 * scale], rtol=1e-8)
        low, high = curvature.spectral_density(scale * a).range
        np.testing.assert_allclose([low, high], [-5 * scale, 3 * scale], rtol=1e-8)


def test_a_density_is_as_sharp_on_every_scale(rng):
    """Below 1e-10 the default blur was wider than the spectrum."""
    a = symmetric(rng, np.linspace(1, 2, 20))
    for scale in 1e-15, 1.0:
        found = curvature.spectral_density(scale * a, steps=20)
        peak = found.density([1.5 * scale])[0] * scale
        assert found.density([3 * scale])[0] * scale < 1e-6 * peak
    assert curvature.spectral_density(np.zeros((3, 3))).density([0.0])[0] > 1


@pytest.mark.parametrize(
    "call",
    [top_eigenvalues, curvature.spectral_density, curvature.trace, curvature.logdet],
)
def test_seeds_and_products_that_are_none_are_refused(call):
    for seed in -1, "a", 0.5, None:
        with pytest.raises(tw.ArgumentError, match="seed must be an integer >= 0"):
            call(np.eye(3), seed=seed)
    with pytest.raises(tw.DtypeError, match="the matrix has dtype <U1"):
        call(np.array([["a"]]))
    with pytest.raises(tw.DtypeError, match="the product has dtype complex128"):
        call(lambda v: 1j * v, size=3)
    with pytest.raises(tw.DtypeError, match="the product is None"):
        call(lambda v: None, size=3)
