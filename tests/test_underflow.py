"""Programs that let NumPy raise (``np.seterr``): rounding to 0 is no error of theirs."""

import numpy as np
import pytest

from thalweg import curvature, nn, solve
from thalweg.optim import schedules

TINY, FAR = np.full((2, 3), 1e-60), np.array([[1000.0, -1000.0]])
MODEL = nn.Sequential(nn.Linear(3, 1), seed=0)  # in float32, which has no 1e-60
#: A column of which the second block, too, deviates from its mean by less than a square can tell.
COLUMN = np.r_[-1.0, 1.0, np.zeros(40_000), 1e-190][:, None]
#: Targets whose squares are no numbers, and samples.
FAINT, LINE = np.array([1e-170, 3e-170, 2e-170, 5e-170]), np.arange(4.0)[:, None]
#: A direction, and a loss that is a function: second derivatives are differences.
STEEP = np.array([1e-310, 100.0, 1.0, 1.0])
SQUARES = nn.CustomLoss(lambda output, target: ((output**2).sum(), 2 * output))
#: The fit of an exponential; the last row of its Jacobian is nearly 0.
TIMES = np.array([0.0, 1.0, 2.0, 720.0])
DECAY = solve.nonlinear_least_squares(
    lambda b: b[0] * np.exp(-b[1] * TIMES) - [3, 1.1, 0.4, 0],
    lambda b: np.stack([np.exp(-b[1] * TIMES), -b[0] * TIMES * np.exp(-b[1] * TIMES)], axis=1),
    [3.0, 1.0],
)
WEIGHTS = np.array([1.0, 1e-300, 1.0, 1.0])

CALLS = {
    "probabilities of classes": lambda: nn.CrossEntropyLoss().probabilities(FAR),
    "probabilities of labels": lambda: nn.BCEWithLogitsLoss().probabilities(FAR),
    "parameters": lambda: MODEL.load_state_dict({"0.weight": TINY[:1], "0.bias": TINY[0, :1]}),
    "rows of objects": lambda: MODEL(TINY.astype(object)),
    "a falling rate": lambda: [schedules.ExponentialLR(1e-60).lr(t, base=0.1) for t in (5, 6)],
    "deviations": lambda: nn.Standardize.of(COLUMN),
    "residuals": lambda: solve.least_squares(LINE, FAINT).sum_of_squares,
    "predictions": lambda: solve.least_squares(LINE, FAINT).predict(1e-200 * LINE),
    "covariances": lambda: solve.least_squares(LINE, LINE[:, 0] ** 2).covariance(noise=1e-155),
    "weighted targets": lambda: solve.ridge(LINE, FAINT, alpha=1, sample_weight=WEIGHTS).coef,
    "curves": lambda: curve(FAINT).theta,
    "covariances of curves": lambda: curve(1.0).covariance(noise=1e-155),
    "estimated covariances": lambda: solve.least_squares(LINE, 1e15 * FAINT).covariance(),
    "covariances of decays": lambda: DECAY.covariance(),
    "eigenvalues": lambda: curvature.top_eigenvalues(np.diag([1.0, 1e-200, 0.0])),
    "densities": lambda: curvature.spectral_density(np.diag(LINE[:, 0])).density([0, 1.5, 3]),
    "second derivatives": lambda: curvature.hvp(MODEL, [[1, 1, 1]], [0], STEEP, loss=SQUARES),
}


def curve(y):
    """Return the fit of a function, a line through 0."""
    return solve.nonlinear_least_squares(lambda t: LINE[:, 0] * t - y, lambda t: LINE, [0.5])


@pytest.mark.parametrize("call", CALLS)
def test_an_underflow_is_no_error(call):
    with np.errstate(all="ignore"):
        expected = repr(CALLS[call]())
    with np.errstate(all="raise"):
        assert repr(CALLS[call]()) == expected
