"""Ridge's penalty chosen from the data, and truncation: against formulas written out."""

import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, solve

optimize = pytest.importorskip("scipy.optimize")


def gcv(x, y, penalty, intercept=True, weight=None):
    """The score of Golub, Heath and Wahba, with the matrix A of ŷ = A y written out."""
    v = np.ones(len(x)) if weight is None else np.asarray(weight)
    x, y = (np.sqrt(v)[:, np.newaxis] * a for a in (x, y.reshape(len(y), -1)))
    columns, penalties = x, np.full(x.shape[1], penalty)
    if intercept:  # a column that is not penalized
        columns, penalties = np.column_stack([np.sqrt(v), x]), np.r_[0.0, penalties]
    a = columns @ np.linalg.solve(columns.T @ columns + np.diag(penalties), columns.T)
    n = len(x)
    return n * np.linalg.norm(y - a @ y) ** 2 / (n - np.trace(a)) ** 2


def blurred(rng, noise=1e-3, n=50):
    """An ill-posed problem: a matrix that blurs, a picture, and what is seen of it."""
    t = np.linspace(0, 1, n)
    blur = np.exp(-(((t[:, np.newaxis] - t) / 0.1) ** 2)) / n
    picture = np.sin(np.pi * t) ** 2 + (t > 0.6) * (t < 0.8)
    return blur, picture, blur @ picture + noise * rng.standard_normal(n)


#: For tests of many draws of the noise.
ANY_DRAW = pytest.mark.filterwarnings('ignore:alpha="gcv" is uncertain here')


@ANY_DRAW
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shape", [(40, 10), (12, 10), (10, 30)])
def test_cross_validation_chooses_the_least_score(shape, intercept, weighted, targets, rng):
    x = rng.standard_normal(shape) * np.geomspace(1, 0.1, shape[1]) + 3
    y = x @ rng.standard_normal((shape[1], targets)) + 2 * rng.standard_normal((shape[0], targets))
    v = rng.uniform(0.5, 2, shape[0]) if weighted else None
    options = {"intercept": intercept, "sample_weight": v}
    fit = solve.ridge(x, y, alpha="gcv", **options)

    def score(log):
        return gcv(x, y, np.exp(log), intercept, v)

    chosen = score(np.log(fit.alpha))
    logs = np.linspace(-12, 12, 241)
    assert chosen <= min(map(score, logs)) * (1 + 1e-6)
    if 1e-5 < fit.alpha < 1e5:  # a minimum, not an end of the range
        near = np.log(fit.alpha) + np.array([-0.2, 0.2])
        theirs = optimize.minimize_scalar(
            score, bounds=near, options={"xatol": 1e-9}, method="bounded"
        )
        assert np.log(fit.alpha) == pytest.approx(theirs.x, abs=1e-3)
    np.testing.assert_allclose(solve.ridge(x, y, alpha=fit.alpha, **options).coef, fit.coef)
    mean = solve.ridge(x, y, alpha="gcv", reduction="mean", **options)
    total = len(x) if v is None else v.sum()
    assert mean.alpha == pytest.approx(fit.alpha / total)
    np.testing.assert_allclose(mean.coef, fit.coef)


def test_cross_validation_is_that_of_scikit_learn_where_rows_have_the_same_leverage(rng):
    """In a circulant matrix: leaving one row out, as RidgeCV does, then has the same score."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    row = np.exp(-(np.minimum(np.arange(40), 40 - np.arange(40)) ** 2) / 8)
    x = np.stack([np.roll(row, k) for k in range(40)])
    y = x @ np.sin(2 * np.pi * np.arange(40) / 40) + 0.3 * rng.standard_normal(40)
    grid = np.geomspace(1e-4, 1e4, 801)
    theirs = linear_model.RidgeCV(alphas=grid, fit_intercept=False, store_cv_results=True)
    theirs.fit(x, y)
    ours = solve.ridge(x, y, alpha="gcv", intercept=False)
    assert abs(np.log(ours.alpha / theirs.alpha_)) <= np.log(grid[1] / grid[0])
    np.testing.assert_allclose(
        theirs.cv_results_.mean(axis=0),
        [gcv(x, y, penalty, intercept=False) for penalty in grid],
        rtol=1e-6,
    )


def test_cross_validation_is_close_to_the_best_penalty_for_new_samples(rng):
    """Over fifty draws of the noise, the error on the noiseless targets."""
    x, w = rng.standard_normal((30, 20)), np.linspace(-1, 1, 20)
    ratios = []
    for _ in range(50):
        y = x @ w + 2 * rng.standard_normal(30)
        errors = [
            np.linalg.norm(fit.predict(x) - x @ w)
            for fit in solve.ridge(x, y, alpha=np.geomspace(1e-3, 1e3, 61))
        ]
        fit = solve.ridge(x, y, alpha="gcv")
        ratios.append(np.linalg.norm(fit.predict(x) - x @ w) / min(errors))
    assert np.median(ratios) < 1.2


def test_without_noise_there_is_no_penalty_and_of_noise_alone_nothing_is_left(rng):
    x = rng.standard_normal((50, 5))
    exact = solve.ridge(x, x @ np.arange(5.0) + 3, alpha="gcv")
    np.testing.assert_allclose(exact.coef, np.arange(5.0), atol=1e-5)
    noise = rng.standard_normal(50)
    centred = x - x.mean(axis=0)
    noise -= centred @ np.linalg.lstsq(centred, noise, rcond=None)[0]  # nothing x could explain
    nothing = solve.ridge(x, noise, alpha="gcv")
    np.testing.assert_allclose(nothing.coef, 0, atol=1e-6)
    assert nothing.intercept == pytest.approx(noise.mean())


def corner(x, y, low, high):
    """The most convex point of the L-curve, from scikit-learn's fits and a spline through them."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    interpolate = pytest.importorskip("scipy.interpolate")
    logs = np.linspace(np.log(low), np.log(high), 400)
    points = []
    for log in logs:
        fit = linear_model.Ridge(alpha=np.exp(log), fit_intercept=False, solver="svd").fit(x, y)
        residual = np.linalg.norm(y - x @ fit.coef_)
        points.append([np.log(residual), np.log(np.linalg.norm(fit.coef_))])
    spline = interpolate.make_interp_spline(logs, np.array(points), k=5)
    x1, y1 = spline(logs, 1).T
    x2, y2 = spline(logs, 2).T
    bend = (x1 * y2 - y1 * x2) / (x1**2 + y1**2) ** 1.5
    best = int(bend[5:-5].argmax()) + 5
    return np.exp(logs[best]), np.exp(logs[1] - logs[0])


@pytest.mark.parametrize("noise", [1e-4, 1e-3, 1e-2])
def test_the_corner_of_the_l_curve_is_its_most_convex_point(noise, rng):
    x, _, y = blurred(rng, noise, n=20)
    x, y = 1e3 * x, 1e3 * y
    s = np.linalg.svd(x, compute_uv=False)
    fit = solve.ridge(x, y, alpha="l_curve", intercept=False)
    expected, factor = corner(x, y, max(s[-1] ** 2, 1e-9 * s[0] ** 2), s[0] ** 2)
    assert abs(np.log(fit.alpha / expected)) <= 1.5 * np.log(factor)


def test_cross_validation_warns_where_it_is_flat_and_the_coefficients_are_noise(rng):
    """The shares of 500 draws that docs/science.md states: errors relative to those of the best."""
    ratios, corners, warned = [], [], []
    x, picture, _ = blurred(rng)
    u, s, vt = np.linalg.svd(x)
    for draw in range(500):
        *_, y = blurred(rng)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            fit = solve.ridge(x, y, alpha="gcv", intercept=False)
        warned.append(len(told))
        assert all('ridge with alpha="discrepancy"' in str(one.message) for one in told)
        damped = s / (s**2 + np.geomspace(1e-8, 1e-3, 50)[:, np.newaxis])
        best = np.linalg.norm((damped * (u.T @ y)) @ vt - picture, axis=1).min()
        ratios.append(np.linalg.norm(fit.coef - picture) / best)
        if draw < 100:
            fit = solve.ridge(x, y, alpha="l_curve", intercept=False)
            corners.append(np.linalg.norm(fit.coef - picture) / best)
    ratios, warned = np.array(ratios), np.array(warned)
    assert np.mean(ratios > 1.1) == pytest.approx(0.3, abs=0.05)
    assert np.mean(ratios > 10) == pytest.approx(0.09, abs=0.03)
    useless = ratios > 1000
    assert np.mean(useless) == pytest.approx(0.04, abs=0.02)
    assert np.mean(warned[useless]) > 0.9
    assert not warned[ratios < 10].any()
    assert max(corners) < 4


@pytest.mark.parametrize("noise", [0.01, 1.0, 10.0])
def test_cross_validation_does_not_warn_of_data_that_are_merely_noisy(noise, rng):
    """Even if they are nothing but noise: coefficients are then as small as what they explain."""
    for n, p in ((100, 5), (25, 20), (40, 60)):
        for _ in range(10):
            x = rng.standard_normal((n, p))
            solve.ridge(x, x @ np.linspace(-1, 1, p) + noise * rng.standard_normal(n), alpha="gcv")


@ANY_DRAW
@pytest.mark.parametrize("method", ["gcv", "l_curve"])
def test_both_undo_a_blur_where_least_squares_cannot(method, rng):
    ratios = []
    for _ in range(30):
        x, picture, y = blurred(rng)
        fits = solve.ridge(x, y, alpha=np.geomspace(1e-10, 1, 101), intercept=False)
        best = min(np.linalg.norm(fit.coef - picture) for fit in fits)
        fit = solve.ridge(x, y, alpha=method, intercept=False)
        ratios.append(np.linalg.norm(fit.coef - picture) / best)
        assert f"alpha {fit.alpha:.3g})" in repr(fit)
        smallest = solve.least_squares(x, y, intercept=False, rank_deficient="min_norm")
        assert np.linalg.norm(smallest.coef - picture) > 100 * best
    assert np.median(ratios) < (1.1 if method == "gcv" else 1.4)
    # The score of cross-validation may be flat; it then chooses far too small a penalty.
    assert np.sum(np.array(ratios) > 3) <= (6 if method == "gcv" else 0)


@ANY_DRAW
def test_correlated_noise_misleads_cross_validation_but_not_the_l_curve(rng):
    x, picture, seen = blurred(rng, noise=0)
    t = np.linspace(0, 1, len(x))
    root = np.linalg.cholesky(np.exp(-np.abs(t[:, np.newaxis] - t) / 0.02))
    ratios = {"gcv": [], "l_curve": []}
    for _ in range(30):
        y = seen + 1e-3 * root @ rng.standard_normal(len(x))
        fits = solve.ridge(x, y, alpha=np.geomspace(1e-10, 1, 101), intercept=False)
        best = min(np.linalg.norm(fit.coef - picture) for fit in fits)
        for method, found in ratios.items():
            fit = solve.ridge(x, y, alpha=method, intercept=False)
            found.append(np.linalg.norm(fit.coef - picture) / best)
    assert max(ratios["l_curve"]) < 6
    assert np.sum(np.array(ratios["gcv"]) > 10) >= 3


@pytest.mark.parametrize("method", ["gcv", "l_curve"])
@pytest.mark.parametrize("scale", [1e-140, 1e-3, 1e100])
def test_units_change_the_penalty_by_their_square_and_nothing_else(method, scale, rng):
    x, _, y = blurred(rng)
    fit = solve.ridge(x, y, alpha=method)
    for size in (1e-200, 1.0, 1e150):
        other = solve.ridge(scale * x, size * y, alpha=method)
        assert other.alpha / scale**2 == pytest.approx(fit.alpha, rel=1e-4)
        np.testing.assert_allclose(other.coef * scale / size, fit.coef, rtol=1e-3, atol=1e-3)


def test_choices_that_cannot_be_made_are_refused(rng):
    x, y = rng.standard_normal((8, 3)), rng.standard_normal(8)
    for kind, message, call in [
        (tw.ArgumentError, 'must be one of "gcv", "l_curve", "discrepancy"; got .cv',
         lambda: solve.ridge(x, y, alpha="cv")),
        (tw.ArgumentError, "nothing to choose by", lambda: solve.ridge(x[:1], y[:1], alpha="gcv")),
        (tw.ArgumentError, "x does not vary",
         lambda: solve.ridge(np.ones((8, 2)), y, alpha="l_curve")),
        (tw.ArgumentError, "finds no corner", lambda: solve.ridge(x, 0 * y, alpha="l_curve")),
        (tw.DataError, "for float64; scale x", lambda: solve.ridge(1e200 * x, y, alpha="gcv")),
        (tw.ArgumentError, r"alpha\[0\]", lambda: solve.ridge(x, y, alpha=["gcv"])),
    ]:  # fmt: skip
        with pytest.raises(kind, match=message):
            call()
    assert (solve.ridge(x, 0 * y, alpha="gcv").coef == 0).all()


def test_results_tell_their_penalty(rng):
    x, y = rng.standard_normal((8, 3)), rng.standard_normal(8)
    assert solve.least_squares(x, y).alpha == solve.ridge(x, y, alpha=0).alpha == 0
    for reduction in ("sum", "mean"):
        fits = solve.ridge(x, y, alpha=[0, 0.3, 2], reduction=reduction)
        assert [fit.alpha for fit in fits] == [0, 0.3, 2]
        model = nn.Sequential(nn.Linear(3, 1))
        fit = solve.last_layer(model, x, y, alpha=0.3, reduction=reduction)
        assert fit.alpha == 0.3
    assert "alpha" not in repr(solve.least_squares(x, y))


# --- truncation -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@pytest.mark.parametrize("intercept", [True, False])
def test_truncation_fits_the_nearest_matrix_of_its_rank(shape, intercept, rng):
    x, y = rng.standard_normal(shape) + 2, rng.standard_normal((shape[0], 2)) + 5
    mean = (x.mean(axis=0), y.mean(axis=0)) if intercept else (0, 0)
    u, s, vt = np.linalg.svd(x - mean[0], full_matrices=False)
    for rank in (1, 3, 7):
        fit = solve.least_squares(x, y, rank=rank, intercept=intercept)
        nearest = u[:, :rank] * s[:rank] @ vt[:rank]
        expected = np.linalg.pinv(nearest, rcond=1e-10) @ (y - mean[1])
        np.testing.assert_allclose(fit.coef, expected, atol=1e-12)
        np.testing.assert_allclose(fit.intercept, mean[1] - mean[0] @ expected if intercept else 0)
        assert (fit.rank, fit.method) == (rank, "SVD")
        assert fit.condition == pytest.approx(s[0] / s[rank - 1])
        squares = ((fit.predict(x) - y) ** 2).sum()
        assert fit.sum_of_squares == pytest.approx(squares)


def test_truncation_ends_at_the_smallest_least_squares_fit(rng):
    x, y = rng.standard_normal((20, 6)), rng.standard_normal(20)
    full = solve.least_squares(x, y, rank=6)
    np.testing.assert_allclose(full.coef, solve.least_squares(x, y).coef, rtol=1e-10)
    x = np.column_stack([x, x[:, 0]])
    full = solve.least_squares(x, y, rank=6)
    smallest = solve.least_squares(x, y, rank_deficient="min_norm")
    np.testing.assert_allclose(full.coef, smallest.coef, rtol=1e-10)
    with pytest.raises(tw.ArgumentError, match="rank of x minus its mean is 6, less than rank=7"):
        solve.least_squares(x, y, rank=7)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(tw.ArgumentError, match="rank must be an integer >= 1"):
            solve.least_squares(x, y, rank=wrong)


def test_truncation_undoes_a_blur(rng):
    x, picture, y = blurred(rng)
    errors = [
        np.linalg.norm(solve.least_squares(x, y, rank=k, intercept=False).coef - picture)
        for k in range(1, 20)
    ]
    best = min(
        np.linalg.norm(fit.coef - picture)
        for fit in solve.ridge(x, y, alpha=np.geomspace(1e-10, 1, 101), intercept=False)
    )
    assert min(errors) < 1.5 * best
    assert errors[-1] > 5 * min(errors)  # too many let the noise in


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
def test_degrees_of_freedom_are_the_trace_of_what_maps_targets_to_fitted_values(
    intercept, weighted, rng
):
    """Column by column: what the fit makes of a unit vector, at its own place."""
    x, y = rng.standard_normal((12, 4)) + 1, rng.standard_normal(12)
    v = rng.uniform(0.5, 2, 12) if weighted else None
    options = {"intercept": intercept, "sample_weight": v}
    for alpha in (0, 0.3, 10):
        columns = solve.ridge(x, np.eye(12), alpha=alpha, **options).predict(x)
        fit = solve.ridge(x, y, alpha=alpha, **options)
        assert fit.dof == pytest.approx(np.trace(columns), rel=1e-12)
        score = 12 * fit.sum_of_squares / (12 - fit.dof) ** 2
        assert score == pytest.approx(gcv(x, y, alpha, intercept, v), rel=1e-10)
    assert solve.least_squares(x, y, **options).dof == 4 + intercept
    assert solve.least_squares(x, y, rank=2, **options).dof == 2 + intercept


def maps(x, v, intercept, solver):
    """What maps targets to coefficients and intercept: column by column, of unit vectors."""
    fit = solver(x, np.eye(len(x)), intercept=intercept, sample_weight=v)
    return np.vstack([fit.coef, fit.intercept]) if intercept else fit.coef


ESTIMATES = {
    "least squares": solve.least_squares,
    "smallest": lambda *a, **o: solve.least_squares(*a, rank_deficient="min_norm", **o),
    "truncated": lambda *a, **o: solve.least_squares(*a, rank=2, **o),
    "ridge": lambda *a, **o: solve.ridge(*a, alpha=0.7, **o),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", ESTIMATES)
def test_the_covariance_is_that_of_what_maps_targets_to_estimates(name, intercept, weighted, rng):
    """σ² A V⁻¹ Aᵀ, with the σ² of each column's residuals, or the one that is known."""
    x, y = rng.standard_normal((12, 4)) + 1, rng.standard_normal((12, 2)) * [1, 10]
    if name == "smallest":
        x[:, 3] = x[:, 0] - x[:, 1]
    v = rng.uniform(0.5, 2, 12) if weighted else None
    a, ones = maps(x, v, intercept, ESTIMATES[name]), np.ones(12) if v is None else v
    exact = a / ones @ a.T
    options = {"intercept": intercept, "sample_weight": v}
    fit = ESTIMATES[name](x, y, **options)
    size = 4 + intercept
    known = fit.covariance(noise=3)
    assert known.shape == (2, size, size)
    np.testing.assert_allclose(known, [9 * exact, 9 * exact], atol=1e-13)
    squares = ones @ (y - fit.predict(x)) ** 2
    estimated = squares[:, np.newaxis, np.newaxis] / (12 - fit.dof) * exact
    np.testing.assert_allclose(fit.covariance(), estimated, rtol=1e-9, atol=1e-13)
    one = ESTIMATES[name](x, y[:, 1], **options)
    assert one.covariance().shape == (size, size)
    np.testing.assert_allclose(one.covariance(), estimated[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("unit", "noise"), [(1e-60, 1e-170), (1e60, 1e160)])
def test_the_noise_may_have_any_unit(unit, noise, rng):
    """The square of its deviation is no number; the variance of the coefficients is one."""
    x, y = rng.standard_normal((9, 2)), rng.standard_normal(9)
    exact = solve.least_squares(x, y, intercept=False).covariance(noise=1)
    found = solve.least_squares(unit * x, y, intercept=False).covariance(noise=noise)
    np.testing.assert_allclose(found * (unit / noise) ** 2, exact, rtol=1e-12)


def test_covariances_are_the_spread_over_draws_of_the_noise(rng):
    """With a penalty less than without: the noise pulls less, and the prior is not in it."""
    x, w = rng.standard_normal((30, 5)), np.arange(5.0)
    y = (x @ w + 2)[:, np.newaxis] + 0.5 * rng.standard_normal((30, 20000))
    for fit in solve.ridge(x, y, alpha=[0, 10]):
        drawn = np.cov(np.vstack([fit.coef, fit.intercept]))
        exact = fit.covariance(noise=0.5)[0]
        np.testing.assert_allclose(drawn, exact, atol=0.05 * exact.diagonal().max())
        one = solve.ridge(x, y[:, 0], alpha=fit.alpha)
        posterior = 0.25 * np.linalg.inv(
            (x - x.mean(0)).T @ (x - x.mean(0)) + fit.alpha * np.eye(5)
        )
        larger = posterior - one.covariance(0.5)[:5, :5]
        assert np.linalg.eigvalsh(larger).min() > (1e-6 if fit.alpha else -1e-12)


def test_covariances_are_numpys_with_its_order_and_factor(rng):
    t, y = rng.uniform(-1, 1, 20), rng.standard_normal(20)
    fit = solve.least_squares(np.stack([t**2, t], axis=1), y)  # highest powers first, as there
    _, scaled = np.polyfit(t, y, 2, cov=True)
    np.testing.assert_allclose(fit.covariance(), scaled, rtol=1e-10)
    _, unscaled = np.polyfit(t, y, 2, cov="unscaled")
    np.testing.assert_allclose(fit.covariance(noise=1), unscaled, rtol=1e-10)
    # Deviations of a model's own last layer, and those of predictions.
    model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1), dtype="float64")
    last = solve.last_layer(model, t[:, np.newaxis], y)
    features = np.column_stack([model[:2](t[:, np.newaxis]), np.ones(20)])
    inverse = np.linalg.inv(features.T @ features)
    np.testing.assert_allclose(last.covariance(1)[0], inverse, rtol=1e-6)


def test_covariances_that_would_be_nonsense_are_refused(rng):
    x, y = rng.standard_normal((5, 4)), rng.standard_normal(5)
    exact = solve.least_squares(x, y)
    message = r"5 rows and 5 degrees of freedom leave nothing .* noise by: .* covariance\(noise="
    with pytest.raises(tw.ArgumentError, match=message):
        exact.covariance()
    assert np.isfinite(exact.covariance(noise=0.1)).all()
    with pytest.raises(tw.ArgumentError, match="degrees of freedom leave nothing"):
        solve.ridge(x, y, alpha=1e-14).covariance()
    assert np.isfinite(solve.ridge(x, y, alpha=1).covariance()).all()
    with pytest.raises(tw.DataError, match="covariance is too large for float64"):
        exact.covariance(noise=1e200)
    for noise in (-1.0, np.nan, "known"):
        with pytest.raises(tw.ArgumentError, match="noise must be a finite number >= 0; got"):
            exact.covariance(noise)
    small = solve.least_squares(1e-170 * x[:, :2], y)
    with pytest.raises(tw.DataError, match="covariance is too large for float64"):
        small.covariance()
    narrow = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 2), dtype="float64")
    fit = solve.network(narrow, rng.standard_normal((9, 3)), rng.standard_normal((9, 2)))
    message = r"no covariance: through a bottleneck, .*; or it was not made by thalweg\.solve"
    by_hand = solve.LinearFit(np.ones(2), np.array(0.0), 1.0, 2, 1.0, "QR")
    for other in (fit, by_hand):
        with pytest.raises(tw.ArgumentError, match=message):
            other.covariance()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("rank", [None, 2])
def test_undetermined_directions_count_as_known(rank, intercept, rng):
    """The pseudoinverse: with an intercept that of the centred samples, not of (x, 1)."""
    x = rng.standard_normal((7, 3)) + 5
    x = np.c_[x, x[:, 0] - x[:, 2] + rng.standard_normal(7)]
    x[:, 3] = x[:, 0] - 2 * x[:, 2] if rank is None else x[:, 3]
    fit = solve.least_squares(x, x[:, 1], intercept=intercept, rank=rank, rank_deficient="min_norm")
    u, s, vt = np.linalg.svd(x - x.mean(axis=0) if intercept else x)
    a = vt[: fit.rank].T / s[: fit.rank] @ u[:, : fit.rank].T
    np.testing.assert_allclose(fit.covariance(1)[:4, :4], a @ a.T, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("how", ["rank", "min_norm", "ridge"])
def test_a_fit_keeps_no_more_directions_than_it_has(how, rng):
    """They were a view into all of them: of many truncated fits, as many copies of x."""
    x = np.repeat(rng.standard_normal((20, 5)), 40, axis=1)  # of rank 5
    options = {"rank": {"rank": 3}, "min_norm": {"rank_deficient": "min_norm"}}
    if how == "ridge":
        fits = solve.ridge(x, x[:, 0], alpha=[1, 2], intercept=False)
        assert np.shares_memory(*(fit._spread.v for fit in fits))
    else:
        fits = [solve.least_squares(x, x[:, 0], intercept=False, **options[how])]
    for fit in fits:
        kept = fit._spread.v
        while kept.base is not None:
            kept = kept.base
        assert kept.size == 200 * fit.rank


def test_covariances_count_rows_of_a_weight_and_not_their_weights(rng):
    """R's lm likewise; a weight of 2 is a row of half the variance, not two rows."""
    x, y = rng.standard_normal((9, 2)), rng.standard_normal(9)
    v = np.array([0.0, 2, 2, 1, 1, 1, 1, 1, 1])
    fit, without = solve.least_squares(x, y, sample_weight=v), v > 0
    expected = solve.least_squares(x[without], y[without], sample_weight=v[without])
    np.testing.assert_allclose(fit.covariance(), expected.covariance(), rtol=1e-12)
    assert fit.covariance()[0, 0] / fit.covariance(1)[0, 0] == pytest.approx(
        fit.sum_of_squares / (8 - 3)
    )
    rows = np.repeat(np.arange(9), v.astype(int))
    twice = solve.least_squares(x[rows], y[rows])
    np.testing.assert_allclose(fit.covariance(1), twice.covariance(1), rtol=1e-12)
    np.testing.assert_allclose(fit.covariance() * (8 - 3) / (10 - 3), twice.covariance())


def test_a_fit_through_a_bottleneck_is_not_linear_and_has_no_degrees_of_freedom(rng):
    x, y = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
    wide = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), dtype="float64")
    assert solve.network(wide, x, y).dof == 5
    narrow = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3), dtype="float64")
    assert np.isnan(solve.network(narrow, x, y).dof)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("method", ["gcv", "l_curve"])
def test_the_last_layer_s_penalty_is_chosen_as_that_of_ridge(method, reduction, rng):
    model = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 1), dtype="float64")
    x = rng.standard_normal((50, 3))
    y = np.sin(x).sum(axis=1) + 0.1 * rng.standard_normal(50)
    features = np.tanh(x @ model.state_dict()["0.weight"].T + model.state_dict()["0.bias"])
    expected = solve.ridge(features, y, alpha=method, reduction=reduction)
    fit = solve.last_layer(model, x, y, alpha=method, reduction=reduction)
    assert fit.alpha == pytest.approx(expected.alpha, rel=1e-6)
    np.testing.assert_allclose(model(x)[:, 0], expected.predict(features), rtol=1e-6)
    with pytest.raises(tw.ArgumentError, match='one of "gcv", "l_curve"; got \'cv\''):
        solve.last_layer(model, x, y, alpha="cv")


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shape", [(40, 10), (10, 30)])
def test_the_discrepancy_principle_leaves_a_residual_of_the_size_of_the_noise(
    shape, intercept, weighted, targets, rng
):
    """The weights of rows are what divides the variances of their noise."""
    x = rng.standard_normal(shape) * np.geomspace(1, 0.01, shape[1]) + 3
    y = 5 * x @ rng.standard_normal((shape[1], targets)) + rng.standard_normal((shape[0], targets))
    v = rng.uniform(0.5, 2, shape[0]) if weighted else None
    options = {"intercept": intercept, "sample_weight": v}
    for noise in (1.2, 3.0):
        fit = solve.ridge(x, y, alpha="discrepancy", noise=noise, **options)
        residual = y - x @ fit.coef - fit.intercept
        left = ((1 if v is None else v[:, np.newaxis]) * residual**2).sum()
        assert left == pytest.approx((shape[0] - intercept) * targets * noise**2)
        mean = solve.ridge(x, y, alpha="discrepancy", noise=noise, reduction="mean", **options)
        assert mean.alpha * (shape[0] if v is None else v.sum()) == pytest.approx(fit.alpha)
        np.testing.assert_allclose(mean.coef, fit.coef, rtol=1e-9, atol=1e-12)
        again = solve.ridge(x, y, alpha=fit.alpha, **options)
        assert (again.coef == fit.coef).all()


def test_the_discrepancy_principle_undoes_a_blur_in_every_draw_with_a_fifth_more_noise(rng):
    """The shares that docs/science.md states; with exactly the noise there are draws that fail."""
    far = {1.0: [], 1.2: []}
    for _ in range(1500):
        blur, picture, seen = blurred(rng)
        for factor, errors in far.items():
            noise = factor * 1e-3
            fit = solve.ridge(blur, seen, alpha="discrepancy", noise=noise, intercept=False)
            errors.append(np.linalg.norm(fit.coef - picture) / np.linalg.norm(picture))
    assert max(far[1.2]) < 1
    assert 0.005 < np.mean(np.array(far[1.0]) > 1) < 0.04
    assert max(np.median(errors) for errors in far.values()) < 0.15


def test_noise_that_no_penalty_leaves_is_refused(rng):
    x = rng.standard_normal((20, 3))
    y = x @ [1.0, 2.0, 3.0] + 0.1 * rng.standard_normal(20)
    least = solve.least_squares(x, y).sum_of_squares
    for noise, words in (
        (0.9 * np.sqrt(least / 19), f"least squares leaves more, {np.sqrt(least / 19):.3g}"),
        (1.1 * y.std() * np.sqrt(20 / 19), "coefficients of 0 explain it"),
        (1e300, "coefficients of 0 explain it"),
        (0.0, "noise"),
        (np.nan, "noise"),
    ):
        with pytest.raises(tw.errors.ArgumentError, match=words):
            solve.ridge(x, y, alpha="discrepancy", noise=noise)
    with pytest.raises(tw.errors.ArgumentError, match="needs noise=, the standard deviation"):
        solve.ridge(x, y, alpha="discrepancy")
    with pytest.raises(tw.errors.ArgumentError, match='noise= is for alpha="discrepancy"'):
        solve.ridge(x, y, alpha=1.0, noise=0.1)
    with pytest.raises(tw.errors.ArgumentError, match="leaves more"):
        solve.ridge(np.ones((20, 3)), y, alpha="discrepancy", noise=0.1)
