"""Metrics against matrices that were worked through by hand."""

import numpy as np
import pytest

from thalweg import continual, nn
from thalweg.continual import metrics
from thalweg.errors import ArgumentError, DtypeError, ShapeError

# Task 0 is forgotten and comes back a little, task 1 peaks in between, task 2 only lasts.
R = np.array(
    [
        [0.90, 0.20, 0.10, 0.30],
        [0.60, 0.80, 0.25, 0.35],
        [0.40, 0.85, 0.70, 0.05],
        [0.50, 0.75, 0.72, 0.95],
    ]
)
BASELINE = [0.10, 0.15, 0.20, 0.25]
# Two tasks of which the second helps the first: forgetting is negative where it may be.
HELPED = np.array([[0.6, 0.5], [0.7, 0.9]])


@pytest.mark.parametrize(
    ("metric", "by_hand"),
    [
        (metrics.average_accuracy, (0.50 + 0.75 + 0.72 + 0.95) / 4),
        (
            metrics.incremental_accuracy,
            (0.90 + (0.60 + 0.80) / 2 + (0.40 + 0.85 + 0.70) / 3 + 2.92 / 4) / 4,
        ),
        # Last row minus diagonal: -0.40, -0.05, +0.02.
        (lambda r: metrics.bwt(r, "gem"), -0.43 / 3),
        (lambda r: metrics.bwt(r, "gem_code"), -0.43 / 4),
        # Below the diagonal, minus the diagonal: -0.30, -0.50, -0.40; +0.05, -0.05; +0.02.
        (lambda r: metrics.bwt(r, "diaz"), (-1.20 + 0.00 + 0.02) / 6),
        # Best before the last row: 0.90, 0.85, 0.70.
        (lambda r: metrics.forgetting(r, "max"), (0.40 + 0.10 - 0.02) / 3),
        (lambda r: metrics.forgetting(r, "first"), 0.43 / 3),
        # Best of all rows: 0.90, 0.85, 0.72.
        (lambda r: metrics.forgetting(r, "max_all"), (0.40 + 0.10 + 0.00) / 3),
        # One above the diagonal: 0.20, 0.25, 0.05, minus 0.15, 0.20, 0.25.
        (lambda r: metrics.fwt(r, BASELINE, "gem"), -0.10 / 3),
        (lambda r: metrics.fwt(r, BASELINE, "gem_code"), -0.10 / 4),
        (lambda r: metrics.fwt(r, np.zeros(4)), 0.50 / 3),
        # Reference minus diagonal: 0.05, 0.17, 0.26, 0.00.
        (lambda r: metrics.intransigence(r, [0.95, 0.97, 0.96, 0.95]), 0.48 / 4),
    ],
)
def test_by_hand(metric, by_hand):
    assert metric(R) == pytest.approx(by_hand, abs=1e-12)


def test_the_worst_moments_are_between_the_ends_of_tasks():
    """Three tasks that end after 4, 8 and 12 steps, judged every second one."""
    curve = [
        [0.3, 0.3, 0.3],
        [0.1, 0.3, np.nan],  # before they were learned
        [0.9, 0.3, 0.3],  # the end of task 0 is not after it
        [0.5, 0.2, 0.3],
        [0.7, 0.8, 0.3],
        [0.2, 0.4, 0.6],
        [0.6, 0.7, 0.9],
    ]
    result = continual.Result(
        ("a", "b", "c"), "task", "accuracy", [0, 2, 4, 6, 8, 10, 12], curve, ends=[4, 8, 12]
    )
    lowest = (0.2 + 0.4) / 2
    assert metrics.min_accuracy(result) == pytest.approx(lowest)
    assert metrics.worst_case_accuracy(result) == pytest.approx(0.9 / 3 + 2 / 3 * lowest)
    for metric in (metrics.min_accuracy, metrics.worst_case_accuracy):
        with pytest.raises(ArgumentError, match=r"result must be a Result.* got array"):
            metric(R)
        result.ends = [4, 8]
        with pytest.raises(ArgumentError, match=r"has ended; got Result\(2 of 3 tasks"):
            metric(result)
        result.ends = [4, 8, 12]
        result.scores = [*curve[:-1], [0.6, np.nan, 0.9]]  # which is after it
        with pytest.raises(ArgumentError, match=r"result\.curve: all .* must be finite"):
            metric(result)
        result.scores = curve


def test_a_task_that_helps_an_earlier_one():
    assert metrics.bwt(HELPED) == pytest.approx(0.1)
    assert metrics.forgetting(HELPED, "max") == pytest.approx(-0.1)
    assert metrics.forgetting(HELPED, "first") == pytest.approx(-0.1)
    assert metrics.forgetting(HELPED, "max_all") == 0


def test_first_forgetting_is_minus_backward_transfer(rng):
    r = rng.random((6, 6))
    assert metrics.forgetting(r, "first") == pytest.approx(-metrics.bwt(r, "gem"), abs=1e-15)


def test_only_what_a_definition_uses_need_be_known():
    lower = np.where(np.tri(4, dtype=bool), R, np.nan)
    assert metrics.bwt(lower, "diaz") == metrics.bwt(R, "diaz")
    assert metrics.forgetting(lower) == metrics.forgetting(R)
    with pytest.raises(ArgumentError, match="must be finite numbers"):
        metrics.fwt(lower, BASELINE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.bwt(R[:3]), ShapeError, r"got \(3, 4\)"),
        (lambda: metrics.bwt([[1.0]]), ArgumentError, "at least 2 tasks; r has 1"),
        (lambda: metrics.bwt(R, "gem-code"), ArgumentError, 'did you mean "gem_code"'),
        (lambda: metrics.forgetting(R, "maximum"), ArgumentError, "definition must be one of"),
        (lambda: metrics.fwt(R, [0.1]), ShapeError, "each of 4 tasks"),
        (lambda: metrics.average_accuracy(R * np.nan), ArgumentError, "must be finite numbers"),
    ],
)
def test_what_is_wrong_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (np.eye(5), 5),
        (np.ones((4, 7)), 1),
        (np.zeros((3, 3)), 0),
        # Singular values 3 and 1: shares 3/4 and 1/4.
        (np.diag([3.0, 1.0]), np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))),
    ],
)
def test_effective_rank(matrix, rank):
    assert metrics.effective_rank(matrix) == pytest.approx(rank, abs=1e-9)


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.ones(3), ShapeError, r"must be 2-D, \(n, k\); got shape \(3,\)"),
        ([[1, np.nan]], ArgumentError, "must be finite numbers"),
        ([["a"]], DtypeError, "matrix must be numbers"),
    ],
)
def test_what_has_no_effective_rank_is_said(matrix, error, message):
    with pytest.raises(error, match=message):
        metrics.effective_rank(matrix)


def of_run(r, names=("a", "b")):
    return continual.Result(names, "domain", "accuracy", [0, 1, 2], [[0.5, 0.5], *r], [1, 2])


def test_a_summary_is_the_mean_and_the_deviation_of_each_metric():
    runs = [of_run(r) for r in ([[0.9, 0.1], [0.5, 0.8]], [[0.8, 0.3], [0.8, 1.0]], HELPED)]
    found = metrics.summary(runs)
    assert found.keys() == runs[0].metrics().keys()
    for name, (mean, deviation) in found.items():
        values = [run.metrics()[name] for run in runs]
        assert mean == pytest.approx(np.mean(values))
        assert deviation == pytest.approx(np.std(values) * np.sqrt(3 / 2))
    for wrong, message in (
        (runs[:1], "needs at least 2 runs; got 1"),
        ([runs[0], of_run(R[:2, :2], ("a", "c"))], r"same tasks and metric; got \('a', 'b'\)"),
        ([R, R], "must be a sequence of Result"),
        (3, "results must be a sequence"),
    ):
        with pytest.raises(ArgumentError, match=message):
            metrics.summary(wrong)


def test_plasticity_of_a_network_made_by_hand():
    model = nn.Sequential(
        nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1), dtype="float64"
    )
    first = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]  # the last one never fires on positive samples
    state = {
        "0.weight": first, "0.bias": [0, 0, 0],
        "2.weight": [[1, 0, 5], [0, 1, 5]], "2.bias": [0, 0],
        "4.weight": [[1, 1]], "4.bias": [0],
    }  # fmt: skip
    model.load_state_dict({key: np.array(value, float) for key, value in state.items()})
    x = np.array([[2.0, 0.5], [0.5, 2.0], [1.0, 3.0]])
    measured = continual.metrics.plasticity(model, x)
    assert measured.dead_units == pytest.approx(1 / 5)  # of three and two hidden units
    # The last hidden layer gives the samples themselves.
    assert measured.effective_rank == pytest.approx(metrics.effective_rank(x))
    assert measured.weight_norm == pytest.approx(np.sqrt(4 * 1 + 2 * 1 + 2 * 25 + 2 * 1))
    assert measured.mean_weight == pytest.approx((4 + 2 + 10 + 2) / 20)


def test_a_unit_that_is_always_the_same_is_dead_whatever_it_says():
    model = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1), dtype="float64")
    model.flat_parameters = np.array([1, 0, 0, 0.5, 1, 1, 0])  # the second unit is tanh(0.5)
    assert metrics.plasticity(model, np.linspace(-1, 1, 9)[:, None]).dead_units == 0.5


def test_one_sample_does_not_tell_which_units_are_dead():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(ArgumentError, match=r"at least 2 samples.*got 1"):
        metrics.plasticity(model, np.ones((1, 2)))


def test_plasticity_needs_hidden_units():
    with pytest.raises(ArgumentError, match="no hidden layer"):
        metrics.plasticity(nn.Sequential(nn.Linear(2, 1)), np.ones((2, 2)))


@pytest.mark.parametrize(
    "between",
    [
        [nn.ReLU(), nn.LayerNorm(6), nn.Tanh()],
        [nn.ReLU(), nn.Dropout(0.5), nn.Sigmoid()],
        [nn.BatchNorm1d(6), nn.ReLU(), nn.Identity(), nn.Tanh(), nn.Softplus()],
    ],
)
def test_activations_may_follow_each_other(between):
    """Each is the output of the layers up to it; those before the first linear layer are inputs."""
    layers = [nn.Tanh(), nn.Linear(3, 6), *between, nn.Linear(6, 5), nn.ELU(), nn.Linear(5, 2)]
    model = nn.Sequential(*layers, dtype="float64", seed=1)
    x = np.random.default_rng(0).standard_normal((9, 3))
    model.forward(x, training=True)  # which sets running averages
    found = metrics.activations(model, x)
    kinds = nn.ReLU | nn.Tanh | nn.Sigmoid | nn.Softplus | nn.ELU
    places = [i for i, layer in enumerate(layers) if i and isinstance(layer, kinds)]
    assert len(found) == len(places)
    for rows, place in zip(found, places, strict=True):
        np.testing.assert_allclose(rows, model[: place + 1](x), rtol=1e-12, atol=1e-15)
    assert metrics.plasticity(model, x).dead_units == 0
