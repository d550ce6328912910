"""Minima that have a formula: against certified values, closed forms, and long gradient descent."""

import json
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim, solve

EPS = np.finfo(float).eps

# --- linear least squares ---------------------------------------------------------------------

#: Data, certified coefficients and their standard deviations of NIST's Statistical Reference
#: Datasets, "linear regression".
NIST = json.loads((Path(__file__).parent / "data" / "nist_linear.json").read_text())

#: Digits (-log10 of the largest relative error) that float64 must reach: at least ten, but for
#: Wampler's with noise of up to ten million times what is to be found, and his first and third,
#: polynomials of degree 5 whose matrix has the condition 6e6; Filip's of degree 10 has 2e15.
DIGITS = {
    "Norris": 11,
    "Pontius": 11,
    "NoInt1": 13,
    "NoInt2": 14,
    "Filip": 7,
    "Longley": 10,
    "Wampler1": 9,
    "Wampler2": 12,
    "Wampler3": 9,
    "Wampler4": 7,
    "Wampler5": 5,
}

#: Lines through the origin.
WITHOUT_INTERCEPT = ("NoInt1", "NoInt2")


def problem_of(name):
    """Samples without a column of ones, targets, and the certified coefficients."""
    data = NIST[name]
    x = np.array(data["x"], float)
    if x.ndim == 1:
        x = np.vander(x, data["degree"] + 1, increasing=True)[:, 1:]
    return x, np.array(data["y"], float), np.array(data["beta"], float)


def digits(found, certified):
    return -np.log10(np.abs(found / certified - 1).max() + 1e-17)


@pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "column of ones"])
@pytest.mark.parametrize("name", DIGITS)
def test_certified_digits(name, intercept):
    x, y, certified = problem_of(name)
    if name in WITHOUT_INTERCEPT:
        fit = solve.least_squares(x, y, intercept=False)
        found = fit.coef
    elif intercept:
        fit = solve.least_squares(x, y)
        found = np.r_[fit.intercept, fit.coef]
    else:
        fit = solve.least_squares(np.column_stack([np.ones(len(y)), x]), y, intercept=False)
        found = fit.coef
    assert digits(found, certified) >= DIGITS[name]
    assert fit.sum_of_squares == pytest.approx(NIST[name]["ssr"], rel=1e-7, abs=1e-15 * (y @ y))
    assert fit.method == "QR"
    errors = np.sqrt(np.diag(fit.covariance()))
    if intercept and name not in WITHOUT_INTERCEPT:
        errors = np.roll(errors, 1)  # the intercept is last
    certified = np.array(NIST[name]["sd"], float)
    if certified.any():
        assert digits(errors, certified) >= (7 if name == "Filip" else 12)
    else:  # an exact fit
        assert errors.max() <= 1e-12 * np.abs(y).max()


def test_ten_digits_are_more_than_the_usual_shortcuts_have():
    """On Longley's data: the normal equations have seven, QR in float32 five or so."""
    x, y, certified = problem_of("Longley")
    x = np.column_stack([np.ones(len(y)), x])
    assert digits(np.linalg.solve(x.T @ x, x.T @ y), certified) < 9
    q, r = np.linalg.qr(x.astype(np.float32))
    assert digits(np.linalg.solve(r, q.T @ y.astype(np.float32)), certified) < 6


def with_condition(rng, rows, columns, condition):
    u, _ = np.linalg.qr(rng.standard_normal((rows, columns)))
    v, _ = np.linalg.qr(rng.standard_normal((columns, columns)))
    return u * np.geomspace(1, 1 / condition, columns) @ v.T


@pytest.mark.parametrize(("condition", "tolerance"), [(1e6, 1e-10), (1e9, 1e-7)])
def test_ill_conditioned_problems_keep_their_digits(condition, tolerance, rng):
    """The normal equations have 7e-6 at 1e6, and break down at 1e9."""
    x = with_condition(rng, 200, 30, condition)
    w = rng.standard_normal((30, 2))
    fit = solve.least_squares(x, x @ w, intercept=False)
    assert np.linalg.norm(fit.coef - w) <= tolerance * np.linalg.norm(w)
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(with_condition(rng, 200, 30, 1e9).T @ with_condition(rng, 200, 30, 1e9))


def test_units_do_not_matter(rng):
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    fit = solve.least_squares(x, y)
    units = np.array([1e-12, 1.0, 1e12])
    scaled = solve.least_squares(x * units, y)
    np.testing.assert_allclose(scaled.coef * units, fit.coef, rtol=1e-12)
    assert scaled.condition == pytest.approx(fit.condition, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-250, 1e-200, 1e200, 1e250])
def test_samples_of_any_size_are_solved(scale, rng):
    """Their squares are 0 or infinite: columns were called constant, and ridge gave 0."""
    x, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    expected = solve.least_squares(x, y)
    found = solve.least_squares(scale * x, y)
    assert found.rank == 3
    np.testing.assert_allclose(scale * found.coef, expected.coef, rtol=1e-12)
    assert not solve.ridge(min(scale, 1e-200) * x, y, alpha=1e200).coef.any()  # without a warning
    penalty = 1e-6 if scale > 1 else 0
    found = solve.ridge(scale * x, y, alpha=penalty)
    np.testing.assert_allclose(scale * found.coef, expected.coef, rtol=1e-12)


def test_weights_of_samples_are_repetitions(rng):
    x, y, times = rng.standard_normal((20, 3)), rng.standard_normal((20, 2)), np.arange(20) % 4
    again = np.repeat(x, times, axis=0), np.repeat(y, times, axis=0)
    for intercept in (True, False):
        a = solve.least_squares(x, y, sample_weight=times, intercept=intercept)
        b = solve.least_squares(*again, intercept=intercept)
        np.testing.assert_allclose(a.coef, b.coef, rtol=1e-12)
        np.testing.assert_allclose(a.intercept, b.intercept, rtol=1e-12)
        assert a.sum_of_squares == pytest.approx(b.sum_of_squares, rel=1e-12)
        options = {"alpha": 0.3, "reduction": "mean", "intercept": intercept}
        a = solve.ridge(x, y, sample_weight=times, **options)
        b = solve.ridge(*again, **options)
        np.testing.assert_allclose(a.coef, b.coef, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_columns_far_from_zero_are_fitted_like_those_around_it(weighted, rng):
    """Times in seconds: their mean, added up row by row, was off by 1e-5, and the fit with it."""
    rows, start = 200_000, np.array([1.7e9, 0])
    x = start + np.c_[100 * rng.uniform(size=rows), rng.standard_normal(rows)]
    since = x - start
    y = 3 * since[:, :1] + 1e9 + 1e-3 * rng.standard_normal((rows, 2))
    weight = rng.uniform(size=rows) if weighted else None
    options = {"sample_weight": weight}
    for solver in (
        lambda x, y: solve.least_squares(x, y, **options),
        lambda x, y: solve.least_squares(x, y, rank_deficient="min_norm", **options),
        lambda x, y: solve.ridge(x, y, alpha=1e-3, **options),
    ):
        found, expected = solver(x, y), solver(since, y - 1e9)
        assert found.sum_of_squares == pytest.approx(expected.sum_of_squares, rel=1e-9)
        np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rows", [100, 100_000])
def test_what_counts_as_constant_does_not_depend_on_the_number_of_rows(rows, rng):
    """With 100 000 rows, ridge returned 0 for the first column, whose values have five digits."""
    x = 1e8 + 1e-3 * rng.uniform(size=(rows, 1))
    y = 1000 * (x - 1e8)
    model = nn.Sequential(nn.Linear(1, 1), dtype="float64")
    for found in (
        solve.least_squares(x, y),
        solve.least_squares(x, y, rank_deficient="min_norm"),
        solve.ridge(x, y, alpha=1e-9 * rows / 100_000),
        solve.network(model, x, y),
        solve.last_layer(model, x, y),
    ):
        assert found.rank == 1
        assert found.coef.item() == pytest.approx(1000, rel=1e-3)
    # What differs in the last place only, as the same sum in another order, is constant.
    ulp = np.spacing(1e8)
    for column in (np.full(rows, 1e8 + 0.1), 1e8 + ulp * rng.integers(-1, 2, rows)):
        both = np.column_stack([rng.standard_normal(rows), column])
        with pytest.raises(tw.ArgumentError, match=r"columns \[1\] are constant"):
            solve.least_squares(both, y)
        assert solve.ridge(both, y, alpha=1e-300).coef[1] == 0
        assert solve.least_squares(both, y, rank_deficient="min_norm").coef[1] == 0


@pytest.mark.parametrize("rank_deficient", ["raise", "min_norm"])
def test_a_unit_that_varies_by_rounding_to_float32_is_constant(rank_deficient, rng):
    """The smallest fit gave it a weight of thousands, by which the model multiplies rounding."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    state = model.state_dict()
    state["0.weight"] *= 1e-4
    state["0.bias"][2] = 1e3
    model.load_state_dict(state)
    x, y = rng.standard_normal((1000, 3)), 100 * rng.standard_normal((1000, 1))
    assert len(np.unique(model[:1](x)[:, 2])) < 20
    if rank_deficient == "raise":
        with pytest.raises(tw.ArgumentError, match=r"columns \[2\] are constant"):
            solve.last_layer(model, x, y)
        return
    fit = solve.last_layer(model, x, y, rank_deficient=rank_deficient)
    assert fit.rank == 2
    assert fit.coef[2] == 0
    assert solve.last_layer(model, x, y, rank_deficient=rank_deficient, rcond=0).rank == 3


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (np.arange(6.0).reshape(2, 3), "2 rows do not determine 3 coefficients and an intercept"),
        (np.eye(3), "3 rows do not determine 3"),
        (np.c_[np.arange(9.0), np.full(9, 0.1)], r"columns \[1\] are constant"),
        (
            np.c_[np.arange(9.0) ** 2, np.arange(9.0), 3 - 1e6 * np.arange(9.0)],
            "rank of x minus its mean is 2, but it has 3 columns: columns 1, 2 depend",
        ),
    ],
)
def test_samples_that_do_not_determine_the_fit_are_refused(x, reason):
    y = np.arange(float(len(x)))
    with pytest.raises(tw.ArgumentError, match=reason):
        solve.least_squares(x, y)
    with pytest.raises(tw.ArgumentError, match=reason):
        solve.ridge(x, y, alpha=0)
    fit = solve.least_squares(x, y, rank_deficient="min_norm")
    assert fit.rank < x.shape[1]
    best = np.linalg.pinv(x - x.mean(0), rcond=1e-13) @ (y - y.mean())
    np.testing.assert_allclose(fit.coef, best, rtol=1e-9, atol=1e-12)


def test_bad_fits_are_refused(rng):
    x, y = rng.standard_normal((5, 2)), rng.standard_normal(5)
    for kind, pattern, call in [
        (
            tw.ShapeError,
            "5 rows but y has 4; they must have",
            lambda: solve.least_squares(x, y[:4]),
        ),
        (tw.ShapeError, "2-D", lambda: solve.least_squares(y, y)),
        (tw.DataError, r"x\[0, 0\] is nan", lambda: solve.least_squares(x * np.nan, y)),
        (tw.DataError, "nothing to fit", lambda: solve.least_squares(x[:0], y[:0])),
        (tw.DataError, "0 in every row", lambda: solve.least_squares(x, y, sample_weight=0 * y)),
        (tw.ShapeError, "weight", lambda: solve.least_squares(x, y, sample_weight=[1.0])),
        (tw.ArgumentError, "alpha must be", lambda: solve.ridge(x, y, alpha=-1)),
        (tw.ArgumentError, r"alpha\[0\] must", lambda: solve.ridge(x, y, alpha=[[1, 2], [3]])),
        (tw.ArgumentError, "alpha must be a seq", lambda: solve.ridge(x, y, alpha={1, 2})),
        (tw.ArgumentError, "reduction", lambda: solve.ridge(x, y, alpha=1, reduction="men")),
        (tw.ArgumentError, "rank_def", lambda: solve.least_squares(x, y, rank_deficient="pinv")),
        (tw.ShapeError, "columns", lambda: solve.least_squares(x, y).predict(np.ones((1, 3)))),
    ]:
        with pytest.raises(kind, match=pattern):
            call()


# --- ridge --------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_ridge_is_that_of_scikit_learn(shape, alpha, intercept, rng):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = rng.standard_normal(shape) + 3, rng.standard_normal((shape[0], 2)) + 5
    theirs = linear_model.Ridge(alpha=alpha, fit_intercept=intercept, solver="svd").fit(x, y)
    ours = solve.ridge(x, y, alpha=alpha, intercept=intercept)
    np.testing.assert_allclose(ours.coef.T, theirs.coef_, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, rtol=1e-10, atol=1e-13)
    mean = solve.ridge(x, y, alpha=alpha / len(x), reduction="mean", intercept=intercept)
    np.testing.assert_allclose(mean.coef, ours.coef, rtol=1e-12)


def test_the_intercept_is_not_penalized(rng):
    x, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    fit = solve.ridge(x, y, alpha=2.0)
    moved = solve.ridge(x + 100, y + 1e4, alpha=2.0)
    np.testing.assert_allclose(moved.coef, fit.coef, rtol=1e-10)
    huge = solve.ridge(x, y + 7, alpha=1e15)
    assert np.abs(huge.coef).max() < 1e-12
    assert huge.intercept == pytest.approx(y.mean() + 7, rel=1e-12)


def test_several_penalties_give_what_each_gives(rng):
    x, y, v = rng.standard_normal((20, 6)), rng.standard_normal((20, 2)), rng.uniform(1, 2, 20)
    alphas = np.array([0, 0.1, 3.0])
    for options in ({}, {"reduction": "mean", "sample_weight": v}, {"intercept": False}):
        fits = solve.ridge(x, y, alpha=alphas, **options)
        assert [fit.method for fit in fits] == ["QR", "SVD", "SVD"]
        for fit, alpha in zip(fits, alphas, strict=True):
            one = solve.ridge(x, y, alpha=alpha, **options)
            np.testing.assert_array_equal(fit.coef, one.coef)
            np.testing.assert_array_equal(fit.intercept, one.intercept)
    with pytest.raises(tw.ArgumentError, match=r"alpha\[1\] must be .*; got -1"):
        solve.ridge(x, y, alpha=[1, -1])


def test_ridge_tends_to_the_smallest_fit_linearly_in_the_penalty(rng):
    x, y = rng.standard_normal((10, 25)), rng.standard_normal(10)
    smallest = np.linalg.pinv(x) @ y
    off = [
        np.linalg.norm(solve.ridge(x, y, alpha=a, intercept=False).coef - smallest)
        for a in (1e-2, 1e-4, 1e-6)
    ]
    assert off[0] / off[1] == pytest.approx(100, rel=0.01)
    assert off[1] / off[2] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("shape", [(30, 4), (4, 30)])
def test_no_penalty_is_too_small_for_columns_that_depend_on_each_other(shape, rng):
    """At 1e-14, a tenth or more of the coefficients was rounding, multiplied; at 1e-18, all."""
    x, y = rng.standard_normal(shape), rng.standard_normal(shape[0])
    x = np.column_stack([x, x[:, 0], 3 * x[:, 1]])
    smallest = solve.least_squares(x, y, rank_deficient="min_norm")
    for alpha in (1e-10, 1e-14, 1e-18, 1e-30, 1e-300):
        fit = solve.ridge(x, y, alpha=alpha)
        off = np.linalg.norm(fit.coef - smallest.coef) / np.linalg.norm(smallest.coef)
        assert off <= alpha + 1e-12
        assert fit.dof == pytest.approx(smallest.dof, rel=1e-9)
        assert fit.rank == smallest.rank


def test_targets_move_the_solution_by_at_most_half_the_inverse_root_of_the_penalty(rng):
    """Over singular values around √λ the bound is reached."""
    for penalty in (1e-4, 1.0, 100.0):
        x = with_condition(rng, 40, 20, 1e3) * 30 * np.sqrt(penalty)
        columns = np.eye(40)  # all targets at once: the coefficients are the map itself
        found = solve.ridge(x, columns, alpha=penalty, intercept=False).coef
        norm = np.linalg.norm(found, 2)
        assert 0.9 <= norm * 2 * np.sqrt(penalty) <= 1 + 1e-12


def test_training_with_weight_decay_ends_at_ridge(rng):
    """The docstring's rule for the penalty: half the decay, times the number of outputs."""
    x, y = rng.standard_normal((40, 5)), rng.standard_normal((40, 3)) + 2
    model = nn.Sequential(nn.Linear(5, 3), dtype="float64")
    descent = optim.SGD(lr=0.3)
    descent.add_group("*.weight", weight_decay=0.2)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=descent)
    trainer.fit(x, y, epochs=2000, batch_size=40)
    fit = solve.ridge(x, y, alpha=0.2 * 3 / 2, reduction="mean")
    np.testing.assert_allclose(model.state_dict()["0.weight"], fit.coef.T, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(model.state_dict()["0.bias"], fit.intercept, rtol=1e-12)


# --- quadratics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e8, 1e12])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_the_gradient_at_the_minimum_is_zero(n, condition, rng):
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.geomspace(1, condition, n) if n > 1 else np.ones(1)
    h, b = q * values @ q.T, rng.standard_normal(n)
    found = solve.quadratic(h, b, 2.0)
    size = np.linalg.norm(h, 2) * np.linalg.norm(found.x) + np.linalg.norm(b)
    assert np.linalg.norm((h + h.T) / 2 @ found.x + b) <= 1e-12 * size
    assert found.gradient_norm <= 1e-12 * size
    if condition < 1e10:
        value = 2 - ((q.T @ b) ** 2 / values).sum() / 2
        assert found.value == pytest.approx(value, rel=10 * EPS * condition + 1e-13)
        assert found.condition == pytest.approx(values[-1] / values[0], rel=1e-6)
    # Nothing around it is lower.
    around = found.x + 1e-3 * np.linalg.norm(found.x) * rng.standard_normal((20, n))
    assert ((np.einsum("ki,ij,kj->k", around, h, around) / 2 + around @ b + 2) > found.value).all()


def test_what_has_no_minimum_is_refused_and_says_which_eigenvalue(rng):
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    for values, message in [
        ([-0.25, 1, 2, 3, 4], "^h is indefinite: its smallest eigenvalue is -0.25, 1 of 5 are"),
        ([-2, -1, 2, 3, 4], "indefinite: its smallest eigenvalue is -2, 2 of 5"),
        ([-5, -4, -3, -2, -1], "negative: its smallest eigenvalue is -5"),
        ([0, 1, 2, 3, 4], "^h is singular"),
        ([1e-17, 1, 2, 3, 4], "singular"),
    ]:
        with pytest.raises(tw.ArgumentError, match=message):
            solve.quadratic(q * values @ q.T, np.ones(5))
    for kind, message, h, b in [
        (tw.ArgumentError, r"h\[0, 1\] = 1 and h\[1, 0\] = 0", [[1, 1], [0, 1]], [0, 0]),
        (tw.ShapeError, "square", np.ones((2, 3)), [0, 0]),
        (tw.ShapeError, r"\(2,\)", np.eye(2), [0, 0, 0]),
        (tw.DataError, "nan", np.eye(2) * np.nan, [0, 0]),
    ]:
        with pytest.raises(kind, match=message):
            solve.quadratic(h, b)


def test_the_largest_eigenvalue_bounds_the_learning_rate(rng):
    """Gradient descent at 0.99 and 1.01 times 2/λ, from the minimum that was found."""
    h = np.diag([1.0, 5.0, 20.0])
    found = solve.quadratic(h, [1, 2, 3])
    for factor, shrinks in ((0.99, True), (1.01, False)):
        x = found.x + 1
        for _ in range(2000):
            x = x - factor * 2 / found.eigenvalues[-1] * (h @ x + [1, 2, 3])
        assert bool(np.linalg.norm(x - found.x) < 1e-8) is shrinks


# --- networks -----------------------------------------------------------------------------------


def product(model):
    """The affine map of a linear network: weight (out, in) and bias."""
    zero, eye = np.zeros((1, model.in_features)), np.eye(model.in_features)
    bias = model(zero)[0]
    return (model(eye) - bias).T, bias


def trained(model, x, y, lr, steps):
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=lr))
    trainer.fit(x, y, epochs=steps, batch_size=len(x))
    return trainer


def test_gradient_descent_on_a_linear_network_ends_where_the_formula_is(rng):
    """8-16-3: the product of the weights is the least-squares fit, and the loss the same."""
    x, y = rng.standard_normal((60, 8)), rng.standard_normal((60, 3))
    layers = nn.Linear(8, 16), nn.Linear(16, 3)
    descended = nn.Sequential(*layers, dtype="float64", seed=1)
    trainer = trained(descended, x, y, 0.2, 4000)
    solved = nn.Sequential(*layers, dtype="float64")
    fit = solve.network(solved, x, y)
    for ours, theirs in zip(product(solved), product(descended), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    loss = trainer.evaluate(x, y)["loss"]
    assert loss == pytest.approx(fit.sum_of_squares / y.size, abs=1e-14)
    np.testing.assert_allclose(product(solved)[0], fit.coef.T, rtol=1e-12, atol=1e-14)


def test_descent_from_zero_finds_the_smallest_fit(rng):
    x, y = rng.standard_normal((6, 15)), rng.standard_normal((6, 2))
    model = nn.Sequential(nn.Linear(15, 2, bias=False), dtype="float64")
    model.flat_parameters = np.zeros(30)
    trained(model, x, y, 0.2, 5000)
    fit = solve.least_squares(x, y, intercept=False, rank_deficient="min_norm")
    np.testing.assert_allclose(model.state_dict()["0.weight"], fit.coef.T, rtol=1e-12, atol=1e-14)
    # A bias is a weight to descent, for a column of ones; the fit does not count its size.
    model = nn.Sequential(nn.Linear(15, 2), dtype="float64")
    model.flat_parameters = np.zeros(32)
    trained(model, x, y, 0.2, 5000)
    both = solve.least_squares(
        np.c_[x, np.ones(6)], y, intercept=False, rank_deficient="min_norm"
    ).coef
    fit = solve.least_squares(x, y, rank_deficient="min_norm")
    descended = model.state_dict()["0.weight"].T
    np.testing.assert_allclose(descended, both[:-1], rtol=1e-12, atol=1e-14)
    assert np.linalg.norm(fit.coef) < (1 - 1e-6) * np.linalg.norm(descended)


def test_fits_of_the_same_residual_differ_in_norm_and_a_little_decay_chooses(rng):
    """What no row sees is free: with it the fit is as good, and descent leaves it as it is."""
    x, y = rng.standard_normal((6, 15)), rng.standard_normal((6, 1))
    best = solve.least_squares(x, y, intercept=False, rank_deficient="min_norm").coef.T
    unseen = np.linalg.svd(x)[2][6:]
    other = best + 6 * np.linalg.norm(best) * unseen[:1]
    np.testing.assert_allclose(x @ best.T, y, rtol=1e-12)
    np.testing.assert_allclose(x @ other.T, y, rtol=1e-12)
    # At right angles: Pythagoras.
    assert np.linalg.norm(other) / np.linalg.norm(best) == pytest.approx(np.sqrt(37), rel=1e-12)

    model = nn.Sequential(nn.Linear(15, 1, bias=False), dtype="float64")
    model.flat_parameters = other.ravel()
    trained(model, x, y, 0.1, 1000)
    np.testing.assert_allclose(model.flat_parameters, other.ravel(), rtol=1e-12, atol=1e-13)
    # With decay λ, T steps leave (1 - ηλ)^T of what no row sees.
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1, weight_decay=0.01))
    trainer.fit(x, y, epochs=1000, batch_size=None)
    left = unseen @ model.flat_parameters
    np.testing.assert_allclose(left, 0.999**1000 * (unseen @ other[0]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(6, 4),),
        (nn.Linear(6, 4, bias=False),),
        (nn.Linear(6, 9), nn.Identity(), nn.Linear(9, 5), nn.Linear(5, 4)),
        (nn.Linear(6, 9), nn.Linear(9, 7, bias=False), nn.Linear(7, 4, bias=False)),
        (nn.Linear(6, 4), nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)),
    ],
    ids=["one", "no bias", "deep", "first bias", "bias before wide layers"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_networks_become_the_fit(layers, dtype, rng):
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, 4)) + 3
    model = nn.Sequential(*layers, dtype=dtype)
    fit = solve.network(model, x, y)
    bias = any(getattr(layer, "bias", False) for layer in layers)
    best = solve.least_squares(x, y, intercept=bias)
    assert fit.sum_of_squares == pytest.approx(best.sum_of_squares, rel=1e-12)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(model(x), best.predict(x), rtol=tolerance, atol=tolerance)


def test_the_parts_are_balanced(rng):
    model = nn.Sequential(
        nn.Linear(5, 7, bias=False), nn.Linear(7, 6, bias=False), nn.Linear(6, 4), dtype="float64"
    )
    solve.network(model, rng.standard_normal((30, 5)), rng.standard_normal((30, 4)))
    first, second, third = (model.state_dict()[f"{i}.weight"] for i in range(3))
    np.testing.assert_allclose(second.T @ second, first @ first.T, atol=1e-14)
    np.testing.assert_allclose(third.T @ third, second @ second.T, atol=1e-14)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_bottleneck_has_the_best_fit_of_its_rank(rank, rng):
    x = rng.standard_normal((80, 6)) @ rng.standard_normal((6, 6))
    y = x @ rng.standard_normal((6, 4)) + rng.standard_normal((80, 4)) + 2
    layers = nn.Linear(6, 10), nn.Linear(10, rank), nn.Linear(rank, 4)
    solved = nn.Sequential(*layers, dtype="float64")
    fit = solve.network(solved, x, y)
    assert fit.rank == rank
    assert np.linalg.matrix_rank(product(solved)[0]) == rank
    mse = tw.Trainer(solved, loss=nn.MSELoss(), optimizer=optim.SGD()).evaluate(x, y)["loss"]
    assert mse == pytest.approx(fit.sum_of_squares / y.size, rel=1e-12)
    # Descent cannot go lower, and gets there.
    descended = nn.Sequential(*layers, dtype="float64", seed=5)
    reached = trained(descended, x, y, 0.01, 8000).evaluate(x, y)["loss"]
    assert mse <= reached * (1 + 1e-12)
    assert reached == pytest.approx(mse, rel=1e-6)


def test_a_bottleneck_as_wide_as_the_rank_of_the_samples_is_none(rng):
    x = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 5))
    y = rng.standard_normal((30, 4))
    for width, rank, dof in ((1, 1, np.nan), (2, 2, 3), (3, 2, 3)):
        model = nn.Sequential(nn.Linear(5, width), nn.Linear(width, 4), dtype="float64")
        fit = solve.network(model, x, y, rank_deficient="min_norm")
        assert fit.rank == rank
        np.testing.assert_equal(fit.dof, dof)
        assert ((model(x) - y) ** 2).sum() == pytest.approx(fit.sum_of_squares, rel=1e-12)


def test_networks_that_have_no_formula_are_refused_and_left_alone(rng):
    x, y = rng.standard_normal((30, 5)), rng.standard_normal((30, 4))
    for layers, pattern in [
        ((nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)), r"layer 1, Tanh\(\), is not linear"),
        ((nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)), "fold"),
        ((nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(2, 4, bias=False)), "last Linear a bias"),
    ]:
        model = nn.Sequential(*layers)
        before = model.flat_parameters
        with pytest.raises(tw.UnsupportedError, match=pattern):
            solve.network(model, x, y)
        np.testing.assert_array_equal(model.flat_parameters, before)
    model = nn.Sequential(nn.Linear(5, 4))
    for kind, data in [
        (tw.ShapeError, (x[:, :4], y)),
        (tw.ShapeError, (x, y[:, :3])),
        (tw.ArgumentError, (x[:3], y[:3])),
    ]:
        with pytest.raises(kind):
            solve.network(model, *data)


def test_the_last_layer_is_refit_for_what_the_others_give(rng):
    x = rng.standard_normal((80, 5))
    y = np.sin(x @ rng.standard_normal((5, 2)))
    model = nn.Sequential(
        nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 2),
        nn.Identity(), dtype="float64",
    )  # fmt: skip
    trainer = trained(model, x, y, 0.1, 5)
    before, loss = model.state_dict(), trainer.evaluate(x, y)["loss"]
    fit = solve.last_layer(model, x, y)
    after = model.state_dict()
    for name in before:
        if not name.startswith("4."):
            np.testing.assert_array_equal(after[name], before[name])
    best = trainer.evaluate(x, y)["loss"]
    assert best == pytest.approx(fit.sum_of_squares / y.size, rel=1e-12)
    assert best < loss
    # At the minimum the gradient of the last layer is zero, in evaluation mode.
    z = x @ after["0.weight"].T + after["0.bias"]
    z = (z - after["1.running_mean"]) / np.sqrt(after["1.running_var"] + 1e-5)
    hidden = np.tanh(z * after["1.weight"] + after["1.bias"])
    np.testing.assert_allclose(hidden.T @ (model(x) - y), 0, atol=1e-11)
    np.testing.assert_allclose(
        solve.last_layer(model, x, y, alpha=0.5).coef,
        solve.ridge(hidden, y, alpha=0.5).coef,
        rtol=1e-10,
    )
    np.testing.assert_allclose(
        solve.last_layer(model, x, y, alpha=0.5 / 80, reduction="mean").coef,
        solve.ridge(hidden, y, alpha=0.5).coef,
        rtol=1e-10,
    )


def test_a_last_layer_behind_dead_units_and_for_classes(rng):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), dtype="float64")
    state = model.state_dict()
    state["0.bias"][2] = -1e3  # never above 0
    model.load_state_dict(state)
    x, labels = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)
    with pytest.raises(tw.ShapeError, match=r"columns of 0 and 1 with np.eye\(3\)\[y\]"):
        solve.last_layer(model, x, labels)
    y = np.eye(3)[labels]
    with pytest.raises(
        tw.ArgumentError, match=r"outputs of the earlier layers as x.* \[2\] are constant"
    ):
        solve.last_layer(model, x, y)
    fit = solve.last_layer(model, x, y, rank_deficient="min_norm")
    assert fit.rank == 5
    np.testing.assert_allclose(fit.coef[2], 0, atol=1e-13)
    assert ((model(x) - y) ** 2).sum() == pytest.approx(fit.sum_of_squares, rel=1e-12)


@pytest.mark.parametrize("rows", [30, 30_000])
def test_units_that_depend_on_each_other_but_for_rounding_to_float32_are_found(rows, rng):
    """The rank was 4, and the model's squares those of weights of 1e6 that were rounded."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), seed=1)
    state = model.state_dict()
    for name in ("0.weight", "0.bias"):
        state[name][1] = 3 * state[name][0]
    model.load_state_dict(state)
    x, y = rng.standard_normal((rows, 3)), rng.standard_normal((rows, 1))
    before = model.flat_parameters
    with pytest.raises(tw.ArgumentError, match=r"columns 0, 1 depend .* use a penalty \(alpha="):
        solve.last_layer(model, x, y)
    np.testing.assert_array_equal(model.flat_parameters, before)
    assert solve.last_layer(model, x, y, alpha=1e-3).rank == 3
    smallest = solve.last_layer(model, x, y, rank_deficient="min_norm").coef
    damped = solve.last_layer(model, x, y, alpha=1e-13).coef
    np.testing.assert_allclose(damped, smallest, rtol=1e-9)
    assert solve.last_layer(model, x, y, rcond=1e-12).condition > 1e6
    fit = solve.last_layer(model, x, y, rank_deficient="min_norm")
    assert fit.rank == 3
    assert ((model(x) - y) ** 2).sum() == pytest.approx(fit.sum_of_squares, rel=1e-6)
    with pytest.raises(tw.ArgumentError, match="rcond must be"):
        solve.last_layer(model, x, y, rcond=2)


def test_many_rows_make_no_features_of_float32_dependent(rng):
    """Rounding is random: what it does to columns of length 1 does not grow with the rows."""
    x = with_condition(rng, 50_000, 3, 1e3) * 100
    y = x @ [[1.0], [2.0], [3.0]]
    model = nn.Sequential(nn.Linear(3, 1), dtype="float32")
    assert solve.network(model, x, y).rank == 3
    assert solve.last_layer(model, x, y).rank == 3
    twice = np.column_stack([x, 3 * x[:, 0]]).astype(np.float32)
    wide = nn.Sequential(nn.Linear(4, 1), dtype="float32")
    with pytest.raises(tw.ArgumentError, match="columns 0, 3 depend"):
        solve.network(wide, twice, y)
    assert solve.network(wide, twice, y, rcond=0).rank == 4


@pytest.mark.parametrize("solver", [solve.network, solve.last_layer])
def test_weights_too_large_for_the_model_are_said_in_terms_of_y(solver, rng):
    """It said to scale 2.weight, which is not given."""
    model = nn.Sequential(nn.Linear(3, 1))
    before = model.flat_parameters
    with pytest.raises(tw.DataError, match=r"too large for a float32 model; scale y"):
        solver(model, rng.standard_normal((30, 3)), 1e40 * rng.standard_normal(30))
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_networks_take_weights_and_the_smallest_of_many_fits(rng):
    x, y, weight = rng.standard_normal((5, 8)), rng.standard_normal(5), np.arange(5.0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 1), dtype="float64")
    options = {"sample_weight": weight, "rank_deficient": "min_norm"}
    fit = solve.network(model, x, y, **options)
    best = solve.least_squares(x, y, **options)
    np.testing.assert_allclose(fit.coef[:, 0], best.coef, rtol=1e-12)
    np.testing.assert_allclose(model(x)[1:, 0], y[1:], rtol=1e-11)  # the first row weighs nothing


@pytest.mark.parametrize("solver", [solve.network, solve.last_layer])
def test_what_is_no_model_is_refused(solver):
    with pytest.raises(tw.ArgumentError, match=r"must be an nn\.Sequential"):
        solver("model", np.ones((3, 2)), np.ones(3))


def test_a_last_layer_before_a_scale_of_raw_targets_is_fitted_to_standardized_ones(rng):
    x, y = rng.standard_normal((60, 3)), 1000 + 20 * rng.standard_normal((60, 2))
    inner = [nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)]
    plain = nn.Sequential(*inner, dtype="float64", seed=1)
    raw = nn.Standardize.of(y, inverse=True)
    scaled = nn.Sequential(*inner, raw, nn.Identity(), dtype="float64", seed=1)
    # By hand: the same least squares problem for (y - mean) / std, column by column.
    features = np.tanh(x @ plain.state_dict()["0.weight"].T + plain.state_dict()["0.bias"])
    centered = features - features.mean(axis=0)
    standard = (y - y.mean(axis=0)) / y.std(axis=0)
    normal = centered.T @ centered + 0.1 * np.eye(8)
    fit = tw.solve.last_layer(scaled, x, y, alpha=0.1)
    np.testing.assert_allclose(fit.coef, np.linalg.solve(normal, centered.T @ standard), atol=1e-12)
    expected = y.mean(axis=0) + y.std(axis=0) * (centered @ fit.coef)
    np.testing.assert_allclose(scaled(x), expected, rtol=1e-12)
    # Without a penalty, the predictions are those of a fit to y itself.
    tw.solve.last_layer(scaled, x, y)
    tw.solve.last_layer(plain, x, y)
    np.testing.assert_allclose(scaled(x), plain(x), rtol=1e-10)


def test_a_last_layer_that_is_not_linear_is_refused(rng):
    with pytest.raises(tw.UnsupportedError, match="Sigmoid"):
        solve.last_layer(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()), np.ones((3, 2)), np.ones(3))


def test_a_last_layer_is_not_fitted_to_rows_of_different_lengths():
    with pytest.raises(tw.ShapeError, match="y cannot be made an array"):
        solve.last_layer(nn.Sequential(nn.Linear(2, 1)), np.ones((2, 2)), [[1, 2], [3]])


@pytest.mark.parametrize("size", [1e-34, 1e-12, 1.0, 1e12])
def test_the_size_of_all_weights_does_not_matter(size, rng):
    """Small ones made every column a constant one, large ones made rounding a feature."""
    x = rng.standard_normal((30, 2)) + 5
    y, weight = x @ [1, -2] + 3, rng.uniform(0.5, 2, 30)
    fit = solve.least_squares(x, y, sample_weight=size * weight)
    np.testing.assert_allclose(fit.coef, [1, -2], rtol=1e-11)
    x[:, 1] = 0.1
    with pytest.raises(tw.ArgumentError, match=r"columns \[1\] are constant"):
        solve.least_squares(x, y, sample_weight=size * weight)


@pytest.mark.parametrize(
    "solver",
    [
        lambda x, y: solve.least_squares(x, y, rank_deficient="min_norm"),
        lambda x, y: solve.ridge(x, y, alpha=1e-30),
    ],
    ids=["min_norm", "ridge"],
)
def test_rounding_of_a_constant_column_is_no_feature(solver, rng):
    """1e8 + 0.1 differs from its mean by more than the other column is large."""
    x = np.column_stack([1e-9 * rng.standard_normal(30), np.full(30, 1e8 + 0.1)])
    fit = solver(x, 1e9 * x[:, 0])
    assert fit.rank == 1
    assert fit.coef[1] == 0
    assert fit.sum_of_squares < 1e-15


def test_the_largest_numbers_are_solved_or_refused():
    assert solve.quadratic([[1.7e308]], [-1.7e308]).x == pytest.approx(1)
    assert solve.quadratic([[0.8]], [-1.5e154]).value == pytest.approx(-(1.5e154 / 1.6 * 1.5e154))
    for h, b in ((1, 1e200), (1e-300, 1e5)):  # it was -inf
        with pytest.raises(tw.DataError, match="the value at the minimum is too low for float64"):
            solve.quadratic([[h]], [b])
    with pytest.raises(tw.DataError, match="squared residuals is too large for float64; scale y"):
        solve.least_squares([[1.0], [2.0], [3.0]], [1e200, 0, 1e200])
    assert solve.least_squares([[1.0], [2.0], [3.0]], [1e153, 0, 1e153]).sum_of_squares > 6e305
    x = np.array([[1e308], [1.5e308], [1.2e308]])
    for options in {}, {"rank_deficient": "min_norm"}:
        with pytest.raises(tw.DataError, match="the sum of x is too large"):
            solve.least_squares(x, [1, 2, 3], **options)
    with pytest.raises(tw.DataError, match="the sum of y is too large"):
        solve.least_squares([[1], [2], [3]], x[:, 0])
    with pytest.raises(tw.DataError, match="the sum of sample_weight is too large"):
        solve.ridge([[1], [2], [3]], [1, 2, 3], alpha=1, sample_weight=x[:, 0])
    options = {"intercept": False, "sample_weight": np.full(3, 1e10)}
    with pytest.raises(tw.DataError, match=r"x is too large .* or sample_weight"):
        solve.least_squares(x, [1, 2, 3], **options)
