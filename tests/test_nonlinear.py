"""Nonlinear least squares beside the certified values of NIST, and beside scipy."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim, solve

# Statistical Reference Datasets, https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml: works of
# the United States government, in the public domain. Each file has the data, two starting points
# and the certified parameters with their standard deviations.
FOLDER = Path(__file__).parent / "data" / "nist"

exp, cos, sin, arctan, pi = np.exp, np.cos, np.sin, np.arctan, np.pi


def gauss(b, x):
    peaks = b[2] * exp(-((x - b[3]) ** 2) / b[4] ** 2) + b[5] * exp(-((x - b[6]) ** 2) / b[7] ** 2)
    return b[0] * exp(-b[1] * x) + peaks


def cubics(b, x):
    above = b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3
    return above / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def lanczos(b, x):
    return b[0] * exp(-b[1] * x) + b[2] * exp(-b[3] * x) + b[4] * exp(-b[5] * x)


def enso(b, x):
    year = b[1] * cos(2 * pi * x / 12) + b[2] * sin(2 * pi * x / 12)
    second = b[4] * cos(2 * pi * x / b[3]) + b[5] * sin(2 * pi * x / b[3])
    return b[0] + year + second + b[7] * cos(2 * pi * x / b[6]) + b[8] * sin(2 * pi * x / b[6])


MODELS = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Chwirut1": lambda b, x: exp(-b[0] * x) / (b[1] + b[2] * x),
    "Chwirut2": lambda b, x: exp(-b[0] * x) / (b[1] + b[2] * x),
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": enso,
    "Eckerle4": lambda b, x: b[0] / b[1] * exp(-(((x - b[2]) / b[1]) ** 2) / 2),
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "Hahn1": cubics,
    "Kirby2": lambda b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * exp(-x * b[3]) + b[2] * exp(-x * b[4]),
    "Misra1a": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[0] * exp(-b[2] * x[1]),  # of log(y)
    "Rat42": lambda b, x: b[0] / (1 + exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - arctan(b[2] / (x - b[3])) / pi,
    "Thurber": cubics,
}


def load(name):
    """Data, two starting points, the certified parameters, sum of squares and deviations."""
    lines = (FOLDER / f"{name}.dat").read_text().splitlines()
    table = [line.split("=")[1].split() for line in lines if re.match(r"\s*b\d+ *=", line)]
    table = np.array(table, float)  # start 1, start 2, value, deviation
    squares = next(line for line in lines if "Residual Sum of Squares" in line)
    data = np.array([line.split() for line in lines[60:] if line.strip()], float).T
    y, x = (np.log(data[0]), data[1:]) if name == "Nelson" else data[:2]
    return x, y, table[:, :2].T, table[:, 2], float(squares.split(":")[1]), table[:, 3]


def of_complex_steps(residual):
    """The exact Jacobian of a function that accepts complex numbers."""
    return lambda b: np.stack([residual(b + e).imag / 1e-30 for e in 1e-30j * np.eye(len(b))], 1)


def functions(name):
    """Residuals and their Jacobian."""
    (x, y, *_), model = load(name), MODELS[name]
    return lambda b: model(b, x) - y, of_complex_steps(lambda b: model(b, x))


def digits(found, certified):
    """How many are right, of the worst parameter: the LRE of NIST's."""
    return -np.log10(np.max(np.abs(found - certified) / np.abs(certified)) + 1e-16)


@pytest.mark.parametrize("name", MODELS)
def test_certified_parameters_of_nist_are_found_from_both_starts(name):
    _, _, starts, certified, squares, deviations = load(name)
    residual, jacobian = functions(name)
    for start in starts:
        fit = solve.nonlinear_least_squares(residual, jacobian, start)
        assert digits(fit.theta, certified) >= 6, fit
        assert fit.converged, fit
        # Lanczos1 is without noise: its certified sum of squares, 1e-25, is that of rounding.
        assert name == "Lanczos1" or fit.sum_of_squares <= squares * (1 + 1e-9)
        errors = np.sqrt(np.diag(fit.covariance()))
        assert digits(errors, deviations) >= (2 if name == "Lanczos1" else 6), fit
        assert (np.diff(fit.history["sum_of_squares"]) <= 0).all()
        assert len(fit.history["damping"]) == len(fit.history["rejected"])
        assert fit.evaluations < (1700 if name == "MGH10" else 600)


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="needs scipy")
@pytest.mark.parametrize("geodesic", [True, False])
def test_fits_are_those_of_scipy(geodesic):
    from scipy.optimize import least_squares

    for name in ("Chwirut2", "Gauss1", "Hahn1", "Thurber"):
        residual, jacobian = functions(name)
        start = load(name)[2][1]
        theirs = least_squares(residual, start, jacobian, method="lm", xtol=1e-15, ftol=1e-15)
        fit = solve.nonlinear_least_squares(residual, jacobian, start, geodesic=geodesic)
        np.testing.assert_allclose(fit.theta, theirs.x, rtol=1e-5)
        assert fit.sum_of_squares == pytest.approx(2 * theirs.cost, rel=1e-10)


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="needs scipy")
@pytest.mark.parametrize("known", [False, True])
def test_covariances_are_those_of_scipy(known):
    """Of residuals divided by their deviations, which are right, or right up to a factor."""
    from scipy.optimize import curve_fit

    x, y, starts, *_ = load("Misra1a")
    sigma = np.linspace(0.1, 0.2, len(y))
    model = MODELS["Misra1a"]
    _, theirs = curve_fit(
        lambda x, *b: model(b, x), x, y, starts[1], sigma, absolute_sigma=known,
        jac=lambda x, *b: of_complex_steps(lambda b: model(b, x))(np.array(b)), ftol=1e-15,
    )  # fmt: skip
    fit = solve.nonlinear_least_squares(
        lambda b: (model(b, x) - y) / sigma, of_complex_steps(lambda b: model(b, x) / sigma),
        starts[1],
    )  # fmt: skip
    np.testing.assert_allclose(fit.covariance(1.0 if known else None), theirs, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-120, 1.0, 1e120])
def test_a_covariance_does_not_depend_on_units(size):
    """Nor on parameters of very different sizes, whose JᵀJ would have no inverse in float64."""
    t, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 1.0, 3.0])
    units = np.array([size, 1.0])
    jacobian = np.stack([t, np.ones(4)], axis=1) * units
    fit = solve.nonlinear_least_squares(
        lambda b: jacobian @ b - y, lambda b: jacobian, np.zeros(2), ftol=0
    )
    line = solve.least_squares(t[:, np.newaxis], y)
    found = fit.covariance() * units * units[:, np.newaxis]
    np.testing.assert_allclose(found, line.covariance(), rtol=1e-10)
    np.testing.assert_array_equal(fit.jacobian, jacobian)


def test_what_residuals_do_not_determine_has_no_covariance():
    def fitted(rows, matrix):
        return solve.nonlinear_least_squares(
            lambda b: matrix @ b - np.arange(rows), lambda b: matrix, np.ones(matrix.shape[1])
        )

    t = np.arange(4.0)
    twins = fitted(4, np.stack([t, np.ones(4), 2 * t, t**2], axis=1))
    with pytest.raises(
        tw.ArgumentError, match=r"determine 3 of 4 parameters at theta: .* at 0, 2 "
    ):
        twins.covariance()
    idle = fitted(4, np.stack([t, np.zeros(4)], axis=1))
    with pytest.raises(tw.ArgumentError, match=r"determine 1 of 2 parameters .* at 1 can change"):
        idle.covariance(noise=1.0)
    few = fitted(1, np.ones((1, 2)))
    with pytest.raises(tw.ArgumentError, match=r"determine 1 of 2 parameters .* at 0, 1 can"):
        few.covariance()
    exact = fitted(2, np.array([[1.0, 1.0], [0.0, 1.0]]))
    message = r"2 rows and 2 degrees of freedom leave nothing .* by: pass .* covariance\(noise="
    with pytest.raises(tw.ArgumentError, match=message):
        exact.covariance()
    np.testing.assert_allclose(exact.covariance(2.0), 4 * np.array([[2.0, -1.0], [-1.0, 1.0]]))


def test_columns_of_any_scale_are_solved_by_qr():
    """Through JᵀJ, whose condition number is the square of 1e10, not a digit would be left."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((40, 6)))
    mixed, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    matrix = q * np.logspace(0, -10, 6) @ mixed.T
    exact = rng.standard_normal(6)
    fit = solve.nonlinear_least_squares(
        lambda b: matrix @ (b - exact), lambda b: matrix, np.zeros(6), ftol=1e-32
    )
    assert np.linalg.norm(fit.theta - exact) <= 1e-4 * np.linalg.norm(exact), fit


def test_fits_need_not_be_determined_nor_defined_everywhere():
    one = solve.nonlinear_least_squares(
        lambda b: np.array([b[0] * b[1] - 6.0]), lambda b: b[None, ::-1], [1.0, 1.0]
    )
    assert one.theta.prod() == pytest.approx(6)
    log = solve.nonlinear_least_squares(  # the first step is beyond 0
        lambda b: np.log(b) + 2, lambda b: np.diag(1 / b), [5.0]
    )
    assert log.theta == pytest.approx(np.exp(-2))
    assert sum(log.history["rejected"]) > 0
    flat = solve.nonlinear_least_squares(lambda b: np.ones(3), lambda b: np.zeros((3, 2)), [1, 2])
    assert flat.converged
    assert flat.theta.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"theta": [[1.0]]}, tw.ShapeError, r"theta must have shape \(p,\)"),
        ({"theta": [np.nan]}, tw.DataError, r"theta\[0\] is nan"),
        ({"residual": lambda b: [[1.0]]}, tw.ShapeError, "residual must have shape"),
        ({"residual": lambda b: [np.inf, 1.0]}, tw.DataError, r"residual\(theta\)\[0\] is inf"),
        ({"jacobian": lambda b: np.ones((1, 2))}, tw.ShapeError, r"shape \(2, 1\); got \(1, 2\)"),
        ({"jacobian": lambda b: np.full((2, 1), np.nan)}, tw.DataError, "Jacobian at theta"),
        # These three "converged" where they began.
        ({"residual": lambda b: [1e200, 1.0]}, tw.DataError, r"up to 1\.0e\+200, .*scale them"),
        ({"jacobian": lambda b: np.full((2, 1), 1e200)}, tw.DataError, "scale the residuals"),
        ({"residual": lambda b: 1e-170 * (b - [1, 2])}, tw.DataError, "too small for float64"),
        ({"damping": 0.0}, tw.ArgumentError, "damping"),
        ({"max_evaluations": 0}, tw.ArgumentError, "max_evaluations"),
    ],
)
def test_what_cannot_be_fitted_is_named(change, error, message):
    fine = {
        "residual": lambda b: np.array([b[0] - 1, b[0] - 2]),
        "jacobian": lambda b: np.ones((2, 1)),
        "theta": [0.0],
    }
    with pytest.raises(error, match=message):
        solve.nonlinear_least_squares(**(fine | change))


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize("signs", [[-1, -1], [1, -1]])
@pytest.mark.parametrize("start", [[3, 4], [0, 0]])
def test_a_jacobian_of_the_wrong_sign_does_not_converge(start, signs, geodesic):
    """Its steps lead uphill, and were rejected until they were shorter than xtol."""
    fit = solve.nonlinear_least_squares(
        lambda b: b - 1, lambda b: np.diag(signs), start, geodesic=geodesic
    )
    assert not fit.converged
    assert "the Jacobian says so: check it with tw.check_gradient" in fit.message
    assert sum(fit.history["rejected"]) > 5


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize("factors", [[1, 1, 1, 1], [1.5, 0.4, 1.2, 0.7], [0.3, 2, 1, 1.8]])
def test_columns_that_almost_vanish_do_not_hold_the_others(factors, geodesic):
    """Problem 16 of Moré, Garbow & Hillstrom 1981, Brown and Dennis's: it gave up after 10,000.

    The curvature along two parameters is that of the residuals, not of their tiny columns.
    """
    t = np.arange(1, 21) / 5
    left, right = np.stack([t**0, t], axis=1), np.stack([t**0, sin(t)], axis=1)

    def parts(b):
        return left @ b[:2] - exp(t), right @ b[2:] - cos(t)

    def jacobian(b):
        first, second = parts(b)
        return 2 * np.hstack([first[:, None] * left, second[:, None] * right])

    start = np.multiply([25, 5, -5, -1], factors)
    fit = solve.nonlinear_least_squares(
        lambda b: parts(b)[0] ** 2 + parts(b)[1] ** 2, jacobian, start, geodesic=geodesic
    )
    assert fit.converged, fit
    assert fit.sum_of_squares == pytest.approx(85822.2016264, rel=1e-11)
    assert fit.evaluations < 3000  # 350 to 1300


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize("factor", [1, 10, 100])
def test_a_jacobian_that_is_singular_at_the_solution_does_not_stop_the_method(factor, geodesic):
    """Problem 13 of Moré, Garbow & Hillstrom, Powell's singular function.

    Each step halves the parameters. Below 1e-10 the least damping held them, for 10,000
    evaluations.
    """

    def residual(b):
        linear = b[0] + 10 * b[1], np.sqrt(5) * (b[2] - b[3])
        return np.array([*linear, (b[1] - 2 * b[2]) ** 2, np.sqrt(10) * (b[0] - b[3]) ** 2])

    fit = solve.nonlinear_least_squares(
        residual, of_complex_steps(residual), np.multiply([3, -1, 0, 1], factor), geodesic=geodesic
    )
    assert fit.converged, fit
    assert fit.sum_of_squares < 1e-50
    assert fit.evaluations < 300


def box(b):
    """Problem 12: three exponentials through ten points."""
    t = np.arange(1, 11) / 10
    return exp(-t * b[0]) - exp(-t * b[1]) - b[2] * (exp(-t) - exp(-10 * t))


def beale(b):
    """Problem 5."""
    return np.array([1.5, 2.25, 2.625]) - b[0] * (1 - b[1] ** np.arange(1, 4))


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize(
    ("residual", "start", "valleys"),
    [
        # Its second column is 1e-45 at first, and the first step leads to 1e45, where it is 0.
        (box, [0, 1000, 2000], (0, 0.07558874)),
        # From columns as long as 1e6 to one of 0.1 in three steps, faster than damping falls.
        (beale, [100, 100], (0, 0.452)),
    ],
)
def test_steps_that_only_the_damping_makes_short_do_not_count_as_converged(
    residual, start, valleys, geodesic
):
    """It "converged" after two to seven evaluations, to sums of squares of 7 to 5000."""
    fit = solve.nonlinear_least_squares(
        residual, of_complex_steps(residual), start, geodesic=geodesic
    )
    assert fit.converged, fit
    assert any(fit.sum_of_squares == pytest.approx(v, rel=1e-3, abs=1e-20) for v in valleys), fit


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"BoxBOD"}))
def test_steps_that_are_not_bent_find_them_too(name):
    """But for BoxBOD from its first start, whence MINPACK, too, leaves for infinity."""
    residual, jacobian = functions(name)
    _, _, starts, certified, *_ = load(name)
    for start in starts:
        fit = solve.nonlinear_least_squares(residual, jacobian, start, geodesic=False)
        assert digits(fit.theta, certified) >= 6, fit
        assert fit.converged, fit
        # MGH10's first takes 5628: along a valley in which b[0] falls to 1e-53 and returns.
        assert fit.evaluations < (6000 if name == "MGH10" else 700)


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize(
    ("residual", "slope", "minimum"),
    [
        (lambda b: b**2 + 1, lambda b: 2 * b, [0]),
        (lambda b: (1e6 * b) ** 2 + 1, lambda b: 2e12 * b, [0]),  # in other units
        (np.cosh, np.sinh, [0]),
        (lambda b: np.cosh(b - [1, 2]), lambda b: np.sinh(b - [1, 2]), [1, 2]),
    ],
)
def test_a_correct_jacobian_is_not_blamed_at_a_minimum(residual, slope, minimum, geodesic):
    """As many residuals as parameters: no angle but 0, and the cost does not vanish."""
    for start in (0.3, 1.7, 5.0):
        fit = solve.nonlinear_least_squares(
            residual, lambda b: np.diag(slope(b)), np.full(len(minimum), start), geodesic=geodesic
        )
        assert fit.converged, fit
        np.testing.assert_allclose(fit.theta, minimum, atol=1e-7)


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize("most", range(1, 7))
def test_the_residual_is_called_no_more_often_than_allowed(most, geodesic):
    calls = []

    def residual(b):
        calls.append(b)
        return np.array([b[0] - 100, b[0] ** 2 / 10])

    fit = solve.nonlinear_least_squares(
        residual, lambda b: np.array([[1.0], [b[0] / 5]]), [0.0], damping=1e3, geodesic=geodesic,
        max_evaluations=most,
    )  # fmt: skip
    assert fit.evaluations == len(calls) <= most
    assert not fit.converged
    assert "another step would call residual more than max_evaluations times" in fit.message


def test_after_a_search_in_vain_other_residuals_are_fitted_with_the_damping_from_before(rng):
    """A float32 network at its minimum: the damping stayed at 1e14, and no step was made again."""
    x = rng.standard_normal((60, 2))
    y = np.sin(2 * x[:, :1]) * x[:, 1:] + 0.1 * rng.standard_normal((60, 1))
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1), seed=1)
    optimizer = optim.LevenbergMarquardt()
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    with pytest.warns(RuntimeWarning, match="changed no parameter"):
        first = trainer.fit(x, y, epochs=300, batch_size=None)
    there = model.flat_parameters
    assert first["loss"][-1] == first["loss"][-2]
    assert sum(first["rejected"][-2:]) == 0  # the search is not repeated
    assert optimizer.damping < 1e6
    with pytest.warns(RuntimeWarning, match="changed no parameter"):
        trainer.fit(x, y, epochs=2, batch_size=None)
    np.testing.assert_array_equal(model.flat_parameters, there)
    other = trainer.fit(x, y + 1, epochs=3, batch_size=None)["loss"]
    assert other[-1] < 1.01 * first["loss"][-1] < other[0] / 10
