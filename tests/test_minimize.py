"""Paths of the optimizers on plain functions: against closed forms and torch.optim."""

import copy

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.optim import schedules

LAMBDA = np.array([1.0, 4.0, 10.0])
START = np.array([3.0, -2.0, 1.0])


def bowl(theta):
    """A quadratic with the curvatures LAMBDA."""
    return (LAMBDA * theta**2).sum() / 2, LAMBDA * theta


def rosenbrock(theta):
    a, b = theta
    bend = b - a * a
    return (1 - a) ** 2 + 100 * bend**2, np.array([-2 * (1 - a) - 400 * a * bend, 200 * bend])


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [0.05, 0.15, 0.2, 0.25], ids=["slow", "flips", "edge", "diverges"])
def test_gradient_descent_multiplies_errors_by_one_minus_rate_times_curvature(lr):
    descent = optim.minimize(bowl, START, optim.SGD(lr=lr), 40)
    k = np.arange(41)[:, np.newaxis]
    expected = (1 - lr * LAMBDA) ** k * START
    np.testing.assert_allclose(descent.path, expected, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(descent.values, (LAMBDA * expected**2).sum(axis=1) / 2, rtol=1e-12)
    assert descent.path.dtype == descent.values.dtype == np.float64
    np.testing.assert_array_equal(descent.theta, descent.path[-1])


@pytest.mark.parametrize(("lr", "beta"), [(0.1, 0.9), (0.3, 0.5), (0.05, 0.3)])
def test_heavy_ball_is_a_linear_recurrence_of_second_order(lr, beta):
    """θ_k = c₁ r₁ᵏ + c₂ r₂ᵏ, with the roots of r² − (1 + β − ηλ) r + β and θ_{−1} = θ₀."""
    descent = optim.minimize(bowl, START, optim.SGD(lr=lr, momentum=beta), 60)
    trace = (1 + beta - lr * LAMBDA).astype(complex)
    root = np.sqrt(trace**2 / 4 - beta)
    first, second = trace / 2 + root, trace / 2 - root
    after = (1 - lr * LAMBDA) * START
    c1 = (after - second * START) / (first - second)
    c2 = START - c1
    k = np.arange(61)[:, np.newaxis]
    expected = (c1 * first**k + c2 * second**k).real
    np.testing.assert_allclose(descent.path, expected, atol=1e-12 * np.abs(START).max())


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_sam_takes_its_gradient_uphill(rho):
    descent = optim.minimize(bowl, START, optim.SAM(optim.SGD(lr=0.05), rho=rho), 30)
    theta = START
    for found in descent.path[1:]:
        g = LAMBDA * theta
        theta = theta - 0.05 * LAMBDA * (theta + rho * g / (np.linalg.norm(g) + 1e-12))
        np.testing.assert_allclose(found, theta, rtol=1e-11)


def test_the_first_step_of_adam_has_the_length_of_the_rate():
    descent = optim.minimize(bowl, START, optim.Adam(lr=0.01, eps=0.0), 1)
    np.testing.assert_allclose(descent.theta - START, -0.01 * np.sign(START), rtol=1e-12)


def test_schedules_set_the_rate_of_each_step():
    rates = np.repeat([0.05, 0.005, 0.0005], [10, 10, 5])
    factors = np.cumprod(1 - rates[:, np.newaxis] * LAMBDA, axis=0)
    for schedule in (schedules.StepLR(10), schedules.StepLR(10, per="epoch")):
        descent = optim.minimize(bowl, START, optim.SGD(lr=0.05), 25, schedule=schedule)
        np.testing.assert_allclose(descent.path[1:], factors * START, rtol=1e-12)
    # One that is as long as the whole, and one that follows the value.
    cosine = schedules.CosineAnnealingLR()
    rates = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20)) / 2
    descent = optim.minimize(bowl, START, optim.SGD(lr=0.05), 20, schedule=cosine)
    expected = np.prod(1 - rates[:, np.newaxis] * LAMBDA, axis=0) * START
    np.testing.assert_allclose(descent.theta, expected, rtol=1e-12)
    plateau = schedules.ReduceLROnPlateau(monitor="loss", factor=0.4, patience=2)
    descent = optim.minimize(bowl, START, optim.SGD(lr=0.25), 50, schedule=plateau)
    assert descent.values[-1] < 0.1 < descent.values[0] < descent.values.max()


# --- other libraries --------------------------------------------------------------------------

PAIRS = {
    "SGD": {"lr": 1e-3},
    "SGD, momentum": {"lr": 2e-4, "momentum": 0.9},
    "SGD, Nesterov": {"lr": 2e-4, "momentum": 0.9, "nesterov": True},
    "SGD, decay": {"lr": 2e-4, "momentum": 0.5, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.5},
    "RMSprop": {"lr": 0.01},
    "Adadelta": {"lr": 0.1},
    "Adam": {"lr": 0.05},
    "AdamW": {"lr": 0.05, "weight_decay": 0.1},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 1e-4},
    "Adamax": {"lr": 0.05},
    "Rprop": {"lr": 0.01},
    "Adafactor": {"lr": 1e-3},
}


@pytest.mark.parametrize("name", PAIRS)
def test_paths_on_rosenbrocks_function_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    kind, options = name.partition(",")[0], PAIRS[name]
    descent = optim.minimize(rosenbrock, [-1.2, 1.0], getattr(optim, kind)(**options), 300)
    theta = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torch.optim, kind)([theta], **options)
    path, values = [theta.detach().numpy().copy()], []
    for _ in range(300):
        optimizer.zero_grad()
        value = (1 - theta[0]) ** 2 + 100 * (theta[1] - theta[0] ** 2) ** 2
        value.backward()
        optimizer.step()
        path.append(theta.detach().numpy().copy())
        values.append(value.item())
    np.testing.assert_allclose(descent.path, path, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(descent.values[:-1], values, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(descent.values[-1], rosenbrock(path[-1])[0], rtol=1e-7, atol=1e-12)


def test_lbfgs_finds_rosenbrocks_minimum_as_scipy_does():
    scipy = pytest.importorskip("scipy.optimize")
    optimizer = optim.LBFGS(max_iter=1, max_eval=25, tolerance_change=0)
    with pytest.warns(RuntimeWarning, match="changed no parameter"):  # it is there
        descent = optim.minimize(rosenbrock, [-1.2, 1.0], optimizer, 50)
    found = scipy.minimize(rosenbrock, [-1.2, 1.0], jac=True, method="L-BFGS-B")
    np.testing.assert_allclose(descent.theta, found.x, atol=1e-4)
    np.testing.assert_allclose(descent.theta, [1, 1], atol=1e-6)
    assert (np.diff(descent.values) <= 0).all()


@pytest.mark.filterwarnings("ignore:a step of LBFGS changed no parameter")  # it is there
@pytest.mark.parametrize("unit", [1e-10, 1e14, 1e100])
def test_lbfgs_does_not_depend_on_the_unit_of_the_value(unit):
    """In large units it rejected all pairs, and was gradient descent."""

    def scaled(theta):
        value, gradient = rosenbrock(theta)
        return unit * value, unit * gradient

    optimizer = optim.LBFGS(tolerance_change=0, tolerance_grad=0)
    descent = optim.minimize(scaled, [-1.2, 1.0], optimizer, 5)
    np.testing.assert_allclose(descent.theta, [1, 1], rtol=1e-9)


def test_lbfgs_goes_on_where_squares_underflow():
    """It divided by the square of a difference of gradients that was 0."""
    options = {"max_iter": 400, "history_size": 5, "tolerance_change": 0, "tolerance_grad": 0}

    def cubic(theta):
        return (np.abs(theta) ** 3).sum(), 3 * theta * np.abs(theta)

    descent = optim.minimize(cubic, [1.0, 0.7], optim.LBFGS(**options), 1)
    assert descent.values[-1] < 1e-230


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("slopes", [[-2.0, -2.0], [2.0, -2.0]])
def test_a_line_search_tells_a_wrong_gradient_from_a_minimum(slopes, steps):
    """It said that it had stopped at a tolerance, and could go on without."""
    wrong = r"does not fall along -Hg, although the gradient, up to 4, .* tw\.check_gradient"
    with pytest.warns(RuntimeWarning, match=wrong):
        optim.minimize(lambda t: (t @ t, slopes * t), [1.0, 2.0], optim.LBFGS(), steps)


def test_a_line_search_that_was_cut_short_accuses_no_gradient():
    """The second evaluation lies beyond a hill: the value is higher, and the slope negative."""

    def hilly(t):
        return 0.1 * t @ t - 2 * np.cos(t).sum(), 0.2 * t + 2 * np.sin(t)

    with pytest.warns(RuntimeWarning, match="found in max_eval=2 evaluations; a larger max_eval"):
        optim.minimize(hilly, [1.0], optim.LBFGS(lr=8, max_eval=2), 9)


def test_the_last_point_must_also_have_a_value():
    """No step begins there, so that nothing else would notice."""

    def cliff(theta):
        return (theta.sum() if theta[0] > 0 else np.inf), np.ones_like(theta)

    with pytest.raises(tw.DivergedError, match=r"is inf at theta = \[0\.\] after 2 steps"):
        optim.minimize(cliff, [1.0], optim.SGD(lr=0.5), 2)
    descent = optim.minimize(cliff, [1.0], optim.SGD(lr=0.5), 1)
    np.testing.assert_array_equal(descent.values, [1.0, 0.5])


def test_infinite_values_shorten_the_steps_of_a_line_search():
    lowest = []

    def barrier(theta):  # only above 0; its minimum is at 1
        lowest.append(theta.min())
        return (theta - np.log(theta)).sum(), 1 - 1 / theta

    with pytest.raises(tw.DivergedError, match=r"value of the function is nan at theta = \[-"):
        optim.minimize(barrier, [3.0], optim.SGD(lr=5.0), 5)
    optimizer = optim.LBFGS(20.0, 1, 25, tolerance_grad=0, tolerance_change=0)
    lowest.clear()
    descent = optim.minimize(barrier, [3.0], optimizer, 4)
    assert min(lowest) < 0 < descent.path.min()
    np.testing.assert_allclose(descent.theta, 1, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        optim.Lion, optim.LAMB, optim.Shampoo, optim.Prodigy, optim.ScheduleFreeAdamW,
        optim.Adam, optim.Adafactor,
    ],
)  # fmt: skip
def test_steps_are_those_of_a_hand_written_loop(make):
    descent = optim.minimize(bowl, START, make(), 50)
    model = nn.Sequential(nn.Linear(1, 3, init="zeros"), dtype="float64")
    model.flat_parameters = np.r_[np.zeros(3), START]
    optimizer = make()
    for theta in descent.path[1:]:
        model.flat_gradients = np.r_[np.zeros(3), LAMBDA * model.flat_parameters[3:]]
        optimizer.step(model)
        np.testing.assert_array_equal(model.flat_parameters, np.r_[np.zeros(3), theta])


# --- what it takes ----------------------------------------------------------------------------


def test_the_optimizer_is_not_changed_and_can_start_again():
    optimizer = optim.Adam(lr=0.1)
    optimizer.lr = 0.05
    first = optim.minimize(rosenbrock, [-1.2, 1.0], optimizer, 20)
    assert optimizer.steps == 0
    second = optim.minimize(rosenbrock, [-1.2, 1.0], optimizer, 20)
    np.testing.assert_array_equal(first.path, second.path)
    np.testing.assert_allclose(np.abs(first.path[1] - first.path[0]), 0.05, rtol=1e-6)
    model = nn.Sequential(nn.Linear(2, 1))
    optimizer.step(model)  # it does not belong to anything yet


def test_start_and_function_may_be_of_many_kinds():
    start = np.array([3, -2, 1])
    for given in (start, start.tolist(), start.astype(np.float32), tuple(start)):
        descent = optim.minimize(bowl, given, optim.SGD(lr=0.05), 5)
        np.testing.assert_allclose(descent.theta, (1 - 0.05 * LAMBDA) ** 5 * start)
    np.testing.assert_array_equal(start, [3, -2, 1])

    def overwrites(theta):
        value = [float((LAMBDA * theta**2).sum() / 2)]
        theta *= LAMBDA
        return [value, theta]

    again = optim.minimize(overwrites, start, optim.SGD(lr=0.05), 5)
    np.testing.assert_array_equal(again.path, descent.path)
    one = optim.minimize(lambda t: (t[0] ** 2, 2 * t), [1.0], optim.SGD(lr=0.25), 3)
    assert one.path.tolist() == [[1.0], [0.5], [0.25], [0.125]]
    assert one.values.tolist() == [1.0, 0.25, 0.0625, 0.015625]
    assert repr(one) == "Descent(3 steps, value 1 -> 0.015625, theta=[0.125])"


def test_a_thousand_parameters_are_shown_as_a_few():
    descent = optim.minimize(lambda t: (t @ t, 2 * t), np.ones(1000), optim.SGD(lr=0.25), 1)
    assert repr(descent).endswith("theta=[0.5 0.5 0.5 ... 0.5 0.5 0.5])")


def used():
    optimizer = optim.SGD(lr=0.1)
    optimizer.step(nn.Sequential(nn.Linear(2, 1)))
    return optimizer


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"function": 3}, tw.ArgumentError, "function must be a function of theta; got 3"),
        ({"function": lambda t: t @ t}, tw.ArgumentError, r"a tuple \(value, gradient\)"),
        ({"function": lambda t: (0.0, t, t)}, tw.ArgumentError, "it returned 3 items"),
        ({"function": lambda t: (t, t)}, tw.ShapeError, r"must be one number; got \(3,\)"),
        ({"function": lambda t: (0.0, t[:2])}, tw.ShapeError, r"theta, \(3,\); got \(2,\)"),
        ({"function": lambda t: (0.0, 1j * t)}, tw.DtypeError, "the gradient has dtype complex"),
        ({"function": lambda t: (np.nan, t)}, tw.DataError, "is nan at the start"),
        ({"function": lambda t: (1.0, t / 0)}, tw.DataError, r"gradient\[0\] is inf at the start"),
        ({"theta": [[1.0]]}, tw.ShapeError, r"got \(1, 1\): pass theta.ravel\(\)"),
        ({"theta": 1.0}, tw.ShapeError, r"shape \(n,\), n at least 1; got \(\)"),
        ({"theta": []}, tw.ShapeError, r"got \(0,\)"),
        ({"theta": [1.0, np.nan, 0.0]}, tw.DataError, r"theta\[1\] is nan"),
        ({"theta": "start"}, tw.DtypeError, "theta"),
        ({"optimizer": optim.SGD}, tw.ArgumentError, "got the class SGD"),
        ({"optimizer": "adam"}, tw.ArgumentError, "got 'adam'"),
        ({"optimizer": optim.LevenbergMarquardt()}, tw.UnsupportedError, "nonlinear_least_squares"),
        ({"optimizer": optim.SGD(lr=0.1).add_group("*")}, tw.ArgumentError, "has groups"),
        ({"optimizer": optim.SAM(used())}, tw.ArgumentError, "SAM belongs to a model"),
        ({"optimizer": used()}, tw.ArgumentError, "SGD belongs to a model"),
        ({"optimizer": optim.Muon()}, tw.ArgumentError, "Muon has no weight to work on"),
        ({"steps": 0}, tw.ArgumentError, "steps must be an integer >= 1; got 0"),
        ({"schedule": 0.1}, tw.ArgumentError, "schedule must be"),
        ({"schedule": schedules.ReduceLROnPlateau()}, tw.ArgumentError, 'or monitor="loss"'),
    ],
)
def test_what_does_not_fit_is_refused(changed, error, message):
    arguments = {"function": bowl, "theta": START, "optimizer": optim.SGD(lr=0.1), "steps": 5}
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        optim.minimize(**{**arguments, **copy.copy(changed)})


@pytest.mark.parametrize(
    ("function", "optimizer"),
    [
        (rosenbrock, optim.SGD(lr=0.1)),  # the value becomes infinite
        (lambda t: (0.0, t**3), optim.SGD(lr=10.0)),  # the gradient does
        (lambda t: (0.0, 1e300 * t), optim.SGD(lr=1e10)),  # theta does
        (lambda t: (0.0, 1e200 * t), optim.Adam()),  # the average of squares does
        (rosenbrock, optim.SAM(optim.SGD(lr=0.1))),
    ],
    ids=["value", "gradient", "theta", "average", "uphill"],
)
def test_divergence_says_when(function, optimizer):
    with pytest.raises(tw.DivergedError, match=r"after \d+ steps? of S?\w+ with lr=") as caught:
        optim.minimize(function, [2.0, 1.0], optimizer, 100)
    text = str(caught.value)
    if "returns the path until then" in text:
        steps = int(text.partition("steps=")[2].split()[0])
        descent = optim.minimize(function, [2.0, 1.0], optimizer, steps)
        assert np.isfinite(descent.path).all()
        assert np.isfinite(descent.values).all()
    else:
        assert "after 1 step of" in text


def test_errors_of_the_function_are_its_own():
    def broken(theta):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        optim.minimize(broken, START, optim.SGD(lr=0.1), 5)
