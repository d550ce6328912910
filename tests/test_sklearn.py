"""Estimators of scikit-learn: they are taken for such, and train as scikit-learn's own."""

import contextlib
import inspect
import math
import pickle
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

pytest.importorskip("sklearn", minversion="1.7")  # that of what is compared with

import sklearn
from scipy.sparse import csr_array, random_array
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from thalweg.sklearn import MLPClassifier, MLPRegressor
from thalweg.sklearn import _base as sklearn_base

from .helpers import FrameOfTypes, Series, Temporal

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: Ours and theirs, by the kind of targets.
PAIRS = {
    "two classes": (MLPClassifier, TheirClassifier),
    "three classes": (MLPClassifier, TheirClassifier),
    "several labels": (MLPClassifier, TheirClassifier),
    "a number": (MLPRegressor, TheirRegressor),
    "several numbers": (MLPRegressor, TheirRegressor),
}


def data(kind, rows=120):
    """Samples of five columns, and targets of this kind."""
    x = np.random.default_rng(5).standard_normal((rows, 5))
    targets = {
        "two classes": np.where(x[:, 0] * x[:, 1] > 0, "yes", "no"),
        "three classes": np.digitize(x[:, 0], [-0.5, 0.5]),
        "several labels": (x[:, :3] + x[:, 2:] > 0).astype(int),
        "a number": np.sin(x[:, 0]) + x[:, 1],
        "several numbers": np.stack([np.sin(x[:, 0]), x[:, 1], x[:, 2] ** 2], axis=1),
    }
    return x, targets[kind]


def pair(kind, **options):
    """An estimator of ours and one of theirs, which are to do the same."""
    small = {"hidden_layer_sizes": (8, 7), "batch_size": 30, "max_iter": 8, "random_state": 3}
    ours, theirs = PAIRS[kind]
    options = {"shuffle": False, **small, **options}
    return ours(**options, dtype="float64"), theirs(**options)


def assert_same_weights(ours, theirs, tolerance=1e-12):
    assert len(ours.coefs_) == len(theirs.coefs_) == ours.n_layers_ - 1
    for a, b in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# --- what scikit-learn does ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 1.0, "activation": "tanh"},
        {"activation": "logistic", "beta_1": 0.5, "epsilon": 1e-3},
        {"activation": "identity", "hidden_layer_sizes": 6, "batch_size": "auto"},
        {"solver": "sgd", "learning_rate_init": 0.05, "alpha": 0.1},
        {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
        {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.0},
        {"solver": "sgd", "learning_rate_init": 0.3, "learning_rate": "invscaling"},
        {"solver": "sgd", "learning_rate_init": 0.1, "learning_rate": "adaptive", "tol": 0.05,
         "n_iter_no_change": 1, "hidden_layer_sizes": ()},
        {"early_stopping": True, "batch_size": 54, "tol": 0.02, "n_iter_no_change": 2},
    ],
    ids=lambda options: ", ".join(map(str, options.values())) or "defaults",
)  # fmt: skip
@pytest.mark.parametrize("kind", PAIRS)
def test_training_is_scikit_learns(kind, options):
    """First weights, updates, penalty, rates, what is held out, when it ends: all is the same."""
    x, y = data(kind)
    ours, theirs = (estimator.fit(x, y) for estimator in pair(kind, **options))
    assert_same_weights(ours, theirs)
    # The penalty of an epoch is not the mean over its batches, but that of both ends.
    close = 5e-3 if "alpha" in options else 1e-4
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=close)
    if "early_stopping" in options:
        np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_)
        assert ours.best_validation_score_ == pytest.approx(theirs.best_validation_score_)
        assert ours.best_loss_ is theirs.best_loss_ is None
    else:
        assert ours.best_loss_ == min(ours.loss_curve_)
        assert ours.validation_scores_ is theirs.validation_scores_ is None
    for name in ("n_iter_", "t_", "n_outputs_", "n_layers_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    if kind not in ("a number", "several numbers"):
        np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-12)
    else:
        np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=1e-12)
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y))


@pytest.mark.parametrize("kind", ["two classes", "three classes", "several labels", "a number"])
def test_lbfgs_is_scikit_learns(kind):
    """While no step of a line search goes so far that scikit-learn clips its loss."""
    x, y = data(kind)
    options = {"solver": "lbfgs", "alpha": 0.1, "max_iter": 12, "activation": "tanh"}
    ours, theirs = (estimator.fit(x, y) for estimator in pair(kind, **options))
    assert_same_weights(ours, theirs, tolerance=1e-9)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-8)
    assert ours.n_iter_ == theirs.n_iter_
    assert not hasattr(ours, "loss_curve_")


def test_lbfgs_finds_the_minimum_of_several_outputs():
    """There scikit-learn's loss is the mean over outputs, and its gradient that of their sum."""
    x, y = data("several numbers")
    options = {"solver": "lbfgs", "hidden_layer_sizes": (), "max_iter": 500, "tol": 1e-8}
    ours = MLPRegressor(**options, alpha=0.0, random_state=0, dtype="float64").fit(x, y)
    best = tw.solve.least_squares(x, y)
    np.testing.assert_allclose(ours.predict(x), best.predict(x), atol=1e-5)


def test_counts_are_fitted_as_by_scikit_learn():
    x, _ = data("a number")
    y = np.random.default_rng(1).poisson(np.exp(x[:, :2]))
    ours, theirs = (e.fit(x, y) for e in pair("several numbers", loss="poisson", alpha=0.1))
    assert_same_weights(ours, theirs)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=2e-4)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-12)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 1.0, "batch_size": 120}])
def test_weights_of_samples_are_scikit_learns(kind, options):
    x, y = data(kind)
    weight = np.random.default_rng(2).uniform(0.5, 3, len(x))
    ours, theirs = (e.fit(x, y, sample_weight=weight) for e in pair(kind, **options))
    assert_same_weights(ours, theirs)


def test_a_smaller_last_batch_is_not_pulled_more():
    """The one difference of the penalty: scikit-learn divides it by the rows of each batch."""
    x, y = np.zeros((120, 5)), np.zeros(120)  # nothing but the penalty changes weights
    options = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1, "max_iter": 1}
    options |= {"hidden_layer_sizes": (), "batch_size": 100, "alpha": 10.0}
    ours, theirs = (e.fit(x, y) for e in pair("a number", **options))
    whole, rest = 1 - 0.1 * 10 / 100, 1 - 0.1 * 10 / 20
    np.testing.assert_allclose(ours.coefs_[0] * rest, theirs.coefs_[0] * whole, rtol=1e-12)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_is_scikit_learns(kind, solver):
    """Also with batches of several sizes, in each of which the penalty counts otherwise."""
    x, y = data(kind)
    estimators = pair(kind, solver=solver, alpha=0.5, batch_size="auto")
    classes = range(3) if kind == "several labels" else np.unique(y)
    for estimator in estimators:
        more = {"classes": classes} if hasattr(estimator, "predict_proba") else {}
        for rows in (slice(40), slice(40, 50), slice(50, 120)):
            estimator.partial_fit(x[rows], y[rows], **more)
            more = {}
    assert_same_weights(*estimators)
    assert len(estimators[0].loss_curve_) == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", PAIRS)
def test_arrays_that_fit_go_without_scikit_learns_checks(kind, dtype, monkeypatch):
    """Which take far longer than a step; results are the same to the bit."""
    x, y = data(kind)
    more = {}
    if PAIRS[kind][0] is MLPClassifier:
        more = {"classes": range(3) if kind == "several labels" else np.unique(y)}
    checked, quick = (
        PAIRS[kind][0](hidden_layer_sizes=8, random_state=3).partial_fit(x, y, **more)
        for _ in range(2)
    )
    x = x.astype(dtype)
    for rows in (slice(1), slice(0, 90, 3), slice(40)):
        checked.partial_fit(x[rows].tolist(), y[rows].tolist())
    expected = checked.predict(x.tolist())
    with monkeypatch.context() as patch:
        patch.setattr("thalweg.sklearn._base.validate_data", None)  # not called
        for rows in (slice(1), slice(0, 90, 3), slice(40)):
            quick.partial_fit(x[rows], y[rows])
        np.testing.assert_array_equal(quick.predict(x), expected)
    assert_same_weights(quick, checked, tolerance=0)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((2, 4)), np.ones(2), "X has 4 features, but MLPRegressor is expecting 5"),
        (np.ones(5), np.ones(1), "Expected 2D array"),
        (np.ones((0, 5)), np.ones(0), "0 sample"),
        (np.full((2, 5), np.nan), np.ones(2), "X contains NaN"),
        (np.full((2, 5), 1e300), np.ones(2), "X contains infinity"),
        (np.ones((2, 5)), np.full(2, np.inf), "y contains infinity"),
        (np.ones((2, 5)), np.ones(3), "inconsistent numbers of samples"),
        (np.ones((2, 5)) + 0j, np.ones(2), "Complex data not supported"),
    ],
)
def test_arrays_that_do_not_fit_are_told_in_scikit_learns_words(x, y, message):
    network = MLPRegressor(hidden_layer_sizes=3).partial_fit(*data("a number"))
    before = network.model_.flat_parameters
    with pytest.raises(ValueError, match=message):
        network.partial_fit(x, y)
    np.testing.assert_array_equal(network.model_.flat_parameters, before)
    if "y" not in message.split() and "inconsistent" not in message:
        told = {"X contains infinity": "too large for float32"}.get(message, message)  # the core's
        with pytest.raises(ValueError, match=told):
            network.predict(x)


def test_the_penalty_is_that_of_the_batch_after_an_error_too():
    """It depends on the number of rows, and is set only where that changes."""
    x, y = data("a number")
    options = {"solver": "sgd", "alpha": 0.5, "hidden_layer_sizes": 8, "random_state": 3}
    network, twin = (MLPRegressor(**options).partial_fit(x[:40], y[:40]) for _ in range(2))
    with pytest.raises(tw.DivergedError):
        network.partial_fit(x[:10], np.full(10, 1e30))
    for it in (network, twin):
        it.partial_fit(x[:40], y[:40])
    assert_same_weights(network, twin, tolerance=0)
    assert network.loss_curve_ == twin.loss_curve_


@pytest.mark.parametrize(
    ("ours", "theirs"), [(MLPClassifier, TheirClassifier), (MLPRegressor, TheirRegressor)]
)
def test_arguments_are_scikit_learns(ours, theirs):
    mine, known = (
        {name: (p.default, p.kind) for name, p in inspect.signature(kind).parameters.items()}
        for kind in (ours, theirs)
    )
    ours_alone = ["dtype", "scoring"]
    if ours is MLPClassifier:
        ours_alone = ["dtype", "loss", "class_weight", "scoring"]
    assert list(mine)[-len(ours_alone) :] == ours_alone  # after all of theirs, by name only
    for name in ours_alone:
        default = "float32" if name == "dtype" else None
        assert mine.pop(name) == (default, inspect.Parameter.KEYWORD_ONLY)
    assert mine == known
    for method in ("fit", "partial_fit", "predict", "score"):
        names = [list(inspect.signature(getattr(k, method)).parameters) for k in (ours, theirs)]
        # What other estimators of theirs take in addition.
        ours_alone = ["X_val", "y_val", "sample_weight_val"] if method == "fit" else []
        if (ours, method) == (MLPRegressor, "predict"):
            ours_alone = ["return_std"]
        assert names[0] == names[1] + ours_alone
    theirs_with_it = inspect.signature(HistGradientBoostingClassifier.fit).parameters
    fit = inspect.signature(ours.fit).parameters
    assert [(p.name, p.kind) for p in fit.values()] == [
        (p.name, p.kind) for p in theirs_with_it.values()
    ]


# --- what scikit-learn expects ------------------------------------------------------------------


def expected_failures(estimator):
    if estimator.dtype == "float64":
        return {}
    reason = "it allows for 1e-7, and float32 for less"
    return {
        f"check_sample_weight_equivalence_on_{kind}_data": reason for kind in ("dense", "sparse")
    }


@parametrize_with_checks(
    [
        kind(max_iter=50, dtype=d)
        for kind in (MLPClassifier, MLPRegressor)
        for d in ("float32", "float64")
    ]
    + [MLPRegressor(nn.GaussianNLLLoss(), max_iter=50, dtype="float64")],
    expected_failed_checks=expected_failures,
)
def test_it_is_an_estimator_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever the checks themselves do
        check(estimator)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_a_derived_estimator_has_the_arguments_of_its_own_constructor(kind):
    class Wide(kind):
        def __init__(self, width=64, alpha=0.0):
            super().__init__(hidden_layer_sizes=(width,), alpha=alpha)
            self.width = width

    made = clone(Wide(32).set_params(alpha=0.1))
    assert made.get_params() == {"width": 32, "alpha": 0.1}
    assert made.hidden_layer_sizes == (32,)
    assert made.learning_rate == kind().learning_rate
    assert repr(made) == "Wide(alpha=0.1, width=32)"


def test_pipelines_and_searches_take_it():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    network = MLPClassifier(max_iter=30, random_state=0)
    sizes = {"mlpclassifier__hidden_layer_sizes": [4, (32,), (32, nn.Dropout(0.1))]}
    grid = [
        {**sizes, "mlpclassifier__learning_rate_init": [0.02]},
        {**sizes, "mlpclassifier__solver": [optim.AdamW(lr=0.02)]},
    ]
    search = GridSearchCV(make_pipeline(StandardScaler(), network), grid, cv=3)
    search.fit(x, names)
    assert search.best_score_ > 0.9
    assert set(search.predict(x)) == set(names)


def test_a_search_in_several_processes_finds_the_same():
    x, y = data("three classes")
    network = MLPClassifier(max_iter=5, random_state=0)
    grid = {"hidden_layer_sizes": [4, (8, nn.Dropout(0.1))], "solver": ["adam", optim.AdamW()]}
    alone, together = (GridSearchCV(network, grid, cv=2, n_jobs=n).fit(x, y) for n in (1, 2))
    scores = [search.cv_results_["mean_test_score"] for search in (alone, together)]
    np.testing.assert_array_equal(scores[0], scores[1])


def test_sparse_samples_and_labels_are_what_they_are_dense():
    x, y = np.random.default_rng(1).integers(0, 3, (60, 4)), data("three classes", 60)[1]
    network = MLPClassifier(max_iter=5, random_state=0)
    pipe = make_pipeline(OneHotEncoder(), clone(network)).fit(x, y)
    wide = OneHotEncoder(sparse_output=False).fit_transform(x)
    np.testing.assert_array_equal(pipe.predict_proba(x), network.fit(wide, y).predict_proba(wide))
    several = np.stack([y == 0, y > 0], axis=1).astype(int)
    labels = clone(network).fit(wide, csr_array(several))
    assert_same_weights(labels, network.fit(wide, several), tolerance=0)


@pytest.mark.parametrize("kind", ["csr", "csc", "float64", "float16"])
def test_predictions_need_no_converted_copy_of_all_samples(kind):
    """Sparse ones are made dense block by block; the core converts arrays of other floats."""
    wide = random_array((50_000, 40), density=0.05, format="csr", rng=np.random.default_rng(0))
    network = MLPRegressor(hidden_layer_sizes=4, max_iter=1).fit(wide[:100], np.arange(100) / 100)
    x = wide.asformat(kind) if kind in ("csr", "csc") else wide.toarray().astype(kind)
    expected = network.model_(x if isinstance(x, np.ndarray) else x.toarray()).ravel()
    tracemalloc.start()
    try:
        found = network.predict(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)
    assert peak < 0.8 * 50_000 * 40 * 4  # bytes of all of them in float32


def test_a_code_in_sparse_samples_that_is_none_is_told_by_its_row(monkeypatch):
    monkeypatch.setattr(sklearn_base, "_BLOCK", 2)
    codes = csr_array([[0.0], [1.0], [2.0], [2.0], [0.0]])
    layers = nn.TabularInput(1, {0: (3, 2)}), 4
    network = MLPRegressor(hidden_layer_sizes=layers, max_iter=1).fit(codes, np.arange(5))
    np.testing.assert_array_equal(network.predict(codes), network.predict(codes.toarray()))
    codes[3, 0] = 7
    with pytest.raises(tw.DataError, match=r"rows from 2 on, counted from 0: x\[1, 0\] is 7"):
        network.predict(codes)


@pytest.mark.parametrize("label", ["yes", 7])
def test_one_class_is_fitted_as_by_scikit_learn(label):
    x, y = data("two classes")[0], np.full(120, label)
    ours, theirs = (estimator.fit(x, y) for estimator in pair("two classes"))
    assert_same_weights(ours, theirs)
    far = 1e3 * np.concatenate([x, -x])  # where outputs have either sign
    assert ours.predict(far).tolist() == theirs.predict(far).tolist() == [label] * 240
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-12)
    folds = cross_validate(
        MLPClassifier(max_iter=2), x, np.sort(data("two classes")[1]), cv=KFold(2)
    )
    assert np.isfinite(folds["test_score"]).all()


@pytest.mark.parametrize(
    ("rows", "asked", "taken"), [(41, 40, 41), (61, 20, 21), (7, 2, 4), (60, 20, 20), (1, 1, 1)]
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_batch_norm_is_not_left_with_one_row(method, rows, asked, taken):
    """Batches have a row more then, or two; without one, and else, they are as asked for."""
    x, y = data("a number", rows)
    options = {"batch_size": asked, "max_iter": 1}
    plain = MLPRegressor(hidden_layer_sizes=8, **options)
    getattr(plain, method)(x, y)
    assert plain.trainer_.optimizer.steps == -(-rows // asked)
    normed = MLPRegressor(hidden_layer_sizes=(8, nn.BatchNorm1d(8)), **options)
    if rows == 1:
        with pytest.raises(tw.ArgumentError, match="x is 1 row to train on"):
            getattr(normed, method)(x, y)
        return
    getattr(normed, method)(x, y)
    assert normed.trainer_.optimizer.steps == -(-rows // taken)


def test_an_onnx_graph_has_what_an_estimator_predicts():
    pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    x = data("a number")[0].astype(np.float32)
    for estimator, y, method, columns in (
        (MLPClassifier(), data("two classes")[1], "predict_proba", [1]),
        (MLPClassifier(), data("three classes")[1], "predict_proba", [0, 1, 2]),
        (MLPClassifier(), data("several labels")[1], "predict_proba", [0, 1, 2]),
        (MLPRegressor("poisson"), abs(data("several numbers")[1]), "predict", [0, 1, 2]),
    ):
        network = estimator.set_params(max_iter=5).fit(x, y)
        graph = tw.onnx.export(network.model_, loss=network.trainer_.loss)
        (found,) = ReferenceEvaluator(graph).run(None, {"input": x})
        expected = getattr(network, method)(x)[:, columns]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(tw.ArgumentError, match=r"got a MLPRegressor: pass its \.model_$"):
        tw.onnx.export(network)


def test_names_of_columns_are_kept():
    pandas = pytest.importorskip("pandas")
    x, y = data("a number")
    frame = pandas.DataFrame(x, columns=list("abcde"))
    network = MLPRegressor(max_iter=2).fit(frame, pandas.Series(y))
    assert network.feature_names_in_.tolist() == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        network.predict(frame[list("abced")])


@pytest.mark.parametrize("solver", ["adam", optim.Lion(lr=1e-3)])
def test_a_pickle_goes_on_as_if_nothing_had_been(solver):
    x, y = data("three classes")
    network = MLPClassifier(solver=solver, random_state=0)
    if solver == "adam":  # others see none
        network.set_params(alpha=0.1)
    network.partial_fit(x, y, classes=[0, 1, 2])
    again = pickle.loads(pickle.dumps(network))
    for one in (network, again):
        one.partial_fit(x, y)
    assert_same_weights(again, network, tolerance=0)
    assert again.loss_curve_ == network.loss_curve_


# --- what is thalweg's --------------------------------------------------------------------------


def test_it_trains_in_float32_and_otherwise_if_asked():
    x, y = data("three classes")
    for dtype in ("float32", "float64"):
        network = MLPClassifier(max_iter=2, dtype=dtype).fit(x, y)
        assert network.model_.dtype == network.predict_proba(x).dtype == dtype


def test_layers_stand_for_themselves():
    x, y = data("three classes")
    hidden = (nn.Dropout(0.1), 8, nn.LayerNorm(8), nn.Linear(8, 6, bias=False), nn.SiLU())
    network = MLPClassifier(hidden, nn.GELU(), max_iter=50, random_state=0).fit(x, y)
    assert [type(layer).__name__ for layer in network.model_.layers] == [
        "Dropout", "Linear", "GELU", "LayerNorm", "Linear", "SiLU", "Linear",
    ]  # fmt: skip
    assert [w.shape for w in network.coefs_] == [(5, 8), (8, 6), (6, 3)]
    assert [b.shape for b in network.intercepts_] == [(8,), (6,), (3,)]
    assert not network.intercepts_[1].any()  # it has none
    assert network.loss_curve_[-1] < network.loss_curve_[0]


def test_dense_layers_in_a_residual_are_counted():
    x, y = data("a number")
    hidden = (8, nn.Residual(nn.Linear(8, 4), nn.Residual(nn.ReLU(), nn.Linear(4, 4, bias=False)),
                             nn.Linear(4, 8)))  # fmt: skip
    network = MLPRegressor(hidden_layer_sizes=hidden, max_iter=2).fit(x, y)
    assert network.n_layers_ == 6
    assert [w.shape for w in network.coefs_] == [(5, 8), (8, 4), (4, 4), (4, 8), (8, 1)]
    assert [b.shape for b in network.intercepts_] == [(8,), (4,), (4,), (8,), (1,)]
    inner = network.model_.state_dict()["2.1.1.weight"]
    np.testing.assert_array_equal(network.coefs_[2], inner.T)


def test_the_penalty_is_on_weights_of_dense_layers_alone():
    x, y = np.zeros((40, 5)), np.zeros(40)
    options = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1, "max_iter": 1}
    options |= {"alpha": 40.0, "batch_size": 40, "random_state": 0}
    network = MLPRegressor(hidden_layer_sizes=(nn.LayerNorm(5),), **options)
    before = clone(network).set_params(alpha=0.0).fit(x, y)
    network.fit(x, y)
    np.testing.assert_allclose(network.coefs_[0], 0.9 * before.coefs_[0], rtol=1e-6)
    np.testing.assert_array_equal(network.intercepts_[0], before.intercepts_[0])
    state = network.model_.state_dict()
    np.testing.assert_array_equal(state["0.weight"], np.ones(5))
    # A table is a matrix, too. The second code is never there, so that nothing but a penalty
    # would change its vector.
    network.set_params(hidden_layer_sizes=(nn.TabularInput(5, {0: (2, 3)}),))
    before = clone(network).set_params(alpha=0.0).fit(x, y).model_.state_dict()["0.0.weight"]
    after = network.fit(x, y).model_.state_dict()["0.0.weight"]
    np.testing.assert_array_equal(after[1], before[1])


def test_an_optimizer_is_copied_and_does_what_it_does_in_a_trainer():
    x, y = data("several numbers")
    given = optim.AdamW(lr=0.01, weight_decay=0.1)
    network = MLPRegressor(
        hidden_layer_sizes=(), solver=given, batch_size=30, max_iter=3, random_state=0
    )
    network.fit(x, y).fit(x, y)
    assert given.steps == 0
    assert network.trainer_.optimizer.steps == 12
    model = nn.Sequential(nn.Linear(5, 3), seed=network.model_.seed)
    rng = np.random.RandomState(0)
    bound = np.sqrt(6 / 8)
    weight, bias = rng.uniform(-bound, bound, (5, 3)), rng.uniform(-bound, bound, 3)
    model.load_state_dict({"0.weight": weight.T, "0.bias": bias})
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.AdamW(lr=0.01, weight_decay=0.1))
    trainer.fit(x, y, epochs=3, batch_size=30)
    np.testing.assert_array_equal(network.model_.flat_parameters, model.flat_parameters)


def test_an_optimizer_of_all_data_takes_a_step_per_epoch():
    x, y = data("a number")
    solver = optim.LevenbergMarquardt()
    network = MLPRegressor(
        hidden_layer_sizes=(6,), activation="tanh", solver=solver, max_iter=40, dtype="float64"
    )
    assert network.fit(x, y).score(x, y) > 0.99
    assert network.trainer_.optimizer.steps == network.n_iter_
    assert not hasattr(network, "partial_fit")


@pytest.mark.parametrize("kind", ["two classes", "three classes", "several labels"])
def test_logarithms_of_small_probabilities_are_finite(kind):
    x, y = data(kind)
    network = MLPClassifier(max_iter=20, random_state=0).fit(x, y)
    logs, probabilities = network.predict_log_proba(x), network.predict_proba(x)
    np.testing.assert_allclose(logs, np.log(probabilities), rtol=1e-5, atol=1e-6)
    assert (network.predict_proba(1e3 * x) == 0).any()
    assert np.isfinite(network.predict_log_proba(1e3 * x)).all()


def test_early_stopping_keeps_the_best_weights():
    x, y = data("a number")
    network = MLPRegressor(
        early_stopping=True, learning_rate_init=0.05, n_iter_no_change=5, random_state=0
    ).fit(x, y)
    scores = network.validation_scores_
    assert network.best_validation_score_ == max(scores) > scores[-1]
    assert network.n_iter_ == len(scores) < 200
    again = clone(network).set_params(max_iter=int(np.argmax(scores)) + 1).fit(x, y)
    assert_same_weights(network, again, tolerance=0)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("scoring", [None, "loss"])
@pytest.mark.parametrize("kind", PAIRS)
def test_a_validation_set_is_used_like_held_out_data(kind, scoring, weighted, monkeypatch):
    """Passing what would have been held out gives the same network and scores."""
    x, y = data(kind)
    given = {"sample_weight": np.random.default_rng(0).uniform(0.1, 3.0, 120)} if weighted else {}
    options = {"scoring": scoring, "early_stopping": True, "n_iter_no_change": 2, "shuffle": True}
    network = pair(kind)[0].set_params(**options)
    split, parts = sklearn_base.train_test_split, []

    def recorded(*arrays, **how):
        parts.extend(split(np.arange(len(arrays[0])), **how))
        return [array[part] for array in arrays for part in parts]

    monkeypatch.setattr(sklearn_base, "train_test_split", recorded)
    network.fit(x, y, **given)
    train, test = parts
    weights = [given["sample_weight"][part] if weighted else None for part in parts]
    monkeypatch.setattr(sklearn_base, "train_test_split", None)  # nothing is held out
    own = clone(network).fit(
        x[train], y[train], weights[0], X_val=x[test], y_val=y[test], sample_weight_val=weights[1]
    )
    assert own.validation_scores_ == network.validation_scores_
    assert own.loss_curve_ == network.loss_curve_
    assert_same_weights(own, network, tolerance=0)


@pytest.mark.parametrize("balanced", ["balanced", {"no": 0.75, "yes": 1.5}])
def test_classes_weigh_as_much_in_a_validation_set_as_in_training(balanced):
    """With "balanced", by their frequencies there, whatever those of the validation set."""
    x, y = data("two classes", 300)
    rows = np.concatenate([np.flatnonzero(y == "no")[:100], np.flatnonzero(y == "yes")[:50]])
    x_val, y_val = x[200:], y[200:]
    network = MLPClassifier(early_stopping=True, max_iter=3, class_weight=balanced, random_state=0)
    network.fit(x[rows], y[rows], X_val=x_val, y_val=y_val)
    plain = clone(network).set_params(class_weight=None)
    weight, weight_val = (np.where(labels == "yes", 1.5, 0.75) for labels in (y[rows], y_val))
    plain.fit(x[rows], y[rows], weight, X_val=x_val, y_val=y_val, sample_weight_val=weight_val)
    np.testing.assert_allclose(network.validation_scores_, plain.validation_scores_, rtol=1e-6)
    assert_same_weights(network, plain, tolerance=1e-6)


def test_a_validation_set_may_be_sparse_or_a_column_and_goes_on_with_a_warm_start():
    x, y = data("a number")
    network = MLPRegressor(early_stopping=True, max_iter=3, warm_start=True, random_state=0)
    twin = clone(network)
    for _ in range(2):
        network.fit(x[:100], y[:100], X_val=x[100:], y_val=y[100:])
        with pytest.warns(sklearn.exceptions.DataConversionWarning):
            twin.fit(x[:100], y[:100], X_val=csr_array(x[100:]), y_val=y[100:, np.newaxis])
    assert network.validation_scores_ == twin.validation_scores_
    assert len(network.validation_scores_) == 6


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, {"y_val": None}, "fit was given X_val, but not y_val"),
        ({}, {"X_val": None}, "fit was given y_val, but not X_val"),
        ({}, {"X_val": None, "y_val": None, "sample_weight_val": 1.0}, "not X_val.*needs both"),
        ({"early_stopping": False}, {}, "early_stopping is False: set early_stopping=True"),
        ({"solver": "lbfgs"}, {}, 'solver="lbfgs" does not do'),
        ({}, {"X_val": np.ones((20, 4))}, "in the validation set.*has 4 features.*expecting 5"),
        ({}, {"X_val": np.full((20, 5), np.nan)}, "in the validation set.*NaN"),
        ({}, {"y_val": np.arange(20) % 4}, r"in the validation set.*\[3\], which are not among"),
        ({}, {"y_val": np.ones((20, 3))}, "in the validation set.*one class per row"),
        ({}, {"y_val": [0, 1]}, "in the validation set.*inconsistent numbers of samples"),
        ({}, {"X_val": np.ones((1, 5)), "y_val": [0]}, "in the validation set.*at least 2"),
        ({}, {"sample_weight_val": -1.0}, "in the validation set.*>= 0"),
        ({}, {"sample_weight_val": [1.0]}, "in the validation set.*1 values.*20 rows"),
    ],
    ids=lambda it: it[:30] if isinstance(it, str) else "",
)
def test_a_validation_set_that_does_not_fit_is_an_error(options, change, message):
    x, y = data("three classes")
    network = MLPClassifier(early_stopping=True, max_iter=2).set_params(**options)
    with pytest.raises(ValueError, match=message):
        network.fit(x[:100], y[:100], **{"X_val": x[100:], "y_val": y[100:]} | change)
    with pytest.raises(NotFittedError):
        network.predict(x)


def test_a_pipeline_transforms_the_validation_set():
    x, y = data("three classes")
    x_val, y_val = x[100:], y[100:]
    network = MLPClassifier(early_stopping=True, max_iter=3, random_state=0)
    scaler = StandardScaler().fit(1000 + x[:100])
    expected = clone(network).fit(
        scaler.transform(1000 + x[:100]), y[:100], X_val=scaler.transform(1000 + x_val), y_val=y_val
    )
    with sklearn.config_context(enable_metadata_routing=True):
        network.set_fit_request(X_val=True, y_val=True)
        steps = [("scale", StandardScaler()), ("net", network)]
        pipe = Pipeline(steps, transform_input=["X_val"])
        pipe.fit(1000 + x[:100], y[:100], X_val=1000 + x_val, y_val=y_val)
    assert pipe["net"].validation_scores_ == expected.validation_scores_
    assert_same_weights(pipe["net"], expected, tolerance=0)


def rare_class(rows=1500):
    """Two classes, of which one has 3 % of the rows."""
    x, y = make_classification(
        rows, 20, n_informative=6, weights=[0.97], class_sep=0.6, flip_y=0, random_state=1
    )
    return x, y


@pytest.mark.parametrize(("seed", "infinite"), [(6, 12), (17, 20)])
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_infinite_predictions_have_the_score_nan(seed, infinite):
    """Training goes on, and for as many epochs as in scikit-learn, even if all scores are NaN."""
    x, y = data("a number", 100)
    x[0] *= 1e5  # far off, and held out by these seeds; its rate becomes infinite
    ours, theirs = pair(
        "a number", loss="poisson", early_stopping=True, random_state=seed, max_iter=20,
        validation_fraction=0.5, batch_size=50, learning_rate_init=0.02, hidden_layer_sizes=(8,),
        n_iter_no_change=4, shuffle=True,
    )  # fmt: skip
    for network in (ours, theirs):
        network.fit(x, np.abs(y))
    assert np.isnan(theirs.validation_scores_).sum() == infinite
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-9)
    if infinite < 20:  # else theirs returns to its initial weights
        assert_same_weights(ours, theirs)


def test_early_stopping_can_follow_the_loss():
    """Accuracy is near its end from the first epochs on where a class is rare; the loss is not."""
    x, y = rare_class()
    network = MLPClassifier(
        (16,), early_stopping=True, learning_rate_init=0.01, n_iter_no_change=5, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match=r'most frequent answer alone.*scoring="loss"'):
        network.fit(x, y)
    poor = roc_auc_score(y, network.predict_proba(x)[:, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.set_params(scoring="loss").fit(x, y)
    assert roc_auc_score(y, network.predict_proba(x)[:, 1]) > poor + 0.03
    assert network.best_validation_score_ == max(network.validation_scores_) < 0
    network.set_params(scoring=None, warm_start=True, max_iter=1).fit(x, y)  # scores begin anew
    assert network.best_validation_score_ == network.validation_scores_[0] > 0.9


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("several labels", None), ("several numbers", "squared_error"), ("counts", "poisson")],
)
def test_a_score_that_is_the_loss_has_the_scale_of_loss_curve(kind, loss):
    """Each row twenty times: the held out are like those that an epoch leaves as they were."""
    x, y = data("several numbers" if kind == "counts" else kind)
    x, y = np.tile(x, (20, 1)), np.tile(y, (20, 1))
    y = np.floor(np.abs(y)) if kind == "counts" else y
    network = (MLPClassifier if loss is None else MLPRegressor)(
        hidden_layer_sizes=8, loss=loss, early_stopping=True, scoring="loss", alpha=0.0,
        solver="sgd", learning_rate_init=1e-9, validation_fraction=0.5, max_iter=1, random_state=0,
    ).fit(x, y)  # fmt: skip
    assert -network.validation_scores_[0] == pytest.approx(network.loss_curve_[0], rel=0.1)


def test_a_rate_that_was_changed_holds_from_the_next_partial_fit_on():
    """A constant one; and the optimizer's state goes on."""
    x, y = data("a number")
    for solver, factor in (("adam", 1), ("sgd", 0.5)):
        network = MLPRegressor(solver=solver, random_state=0).partial_fit(x, y)
        network.set_params(learning_rate_init=0.5)
        with pytest.raises(ValueError, match="NaN"):
            network.partial_fit(x, np.full(len(x), np.nan))
        assert network.trainer_.optimizer.lr == pytest.approx(0.001 * factor)
        network.partial_fit(x, y)
        assert network.trainer_.optimizer.lr == pytest.approx(0.5 * factor)
        network.loss_curve_.clear()
        with pytest.raises(tw.DivergedError):
            network.set_params(learning_rate_init=0.1).partial_fit(x, 1e38 * y)
        assert network.loss_curve_ == []
        assert network.trainer_.optimizer.lr == pytest.approx(0.5 * factor)
        assert network.trainer_.optimizer.steps == 2


@pytest.mark.parametrize("kind", ["a number", "several numbers", "three classes"])
def test_a_schedule_is_based_on_the_rates_that_scikit_learn_counts_in(kind):
    """scikit-learn's own "invscaling", written as a schedule, also where our rates differ."""
    x, y = data(kind)
    options = {"hidden_layer_sizes": 8, "solver": "sgd", "learning_rate_init": 0.1, "max_iter": 4}
    options |= {"random_state": 0, "dtype": "float64"}
    fall = optim.schedules.LambdaLR(lambda epoch: (epoch * len(x) + 1) ** -0.5, per="epoch")
    ours = PAIRS[kind][0](**options, learning_rate=fall).fit(x, y)
    assert_same_weights(
        ours, PAIRS[kind][0](**options, learning_rate="invscaling").fit(x, y), tolerance=1e-12
    )
    flat = optim.schedules.CosineAnnealingLR(eta_min=0.1)  # an absolute rate
    ours = PAIRS[kind][0](**options, learning_rate=flat).fit(x, y)
    assert_same_weights(ours, PAIRS[kind][0](**options).fit(x, y), tolerance=1e-12)


@pytest.mark.parametrize("solver", ["sgd", "adam", optim.AdamW(lr=1e-2)])
def test_a_schedule_goes_on_from_one_partial_fit_to_the_next(solver):
    x, y = data("a number")
    rate = optim.schedules.CosineAnnealingLR(T_max=5, per="epoch")
    options = {"solver": solver, "random_state": 0, "shuffle": False, "dtype": "float64"}
    whole = MLPRegressor(**options, learning_rate=rate, max_iter=3).fit(x, y)
    parts = MLPRegressor(**options, learning_rate=rate)
    for _ in range(3):
        parts.partial_fit(x, y)
    assert_same_weights(parts, whole, tolerance=1e-12)
    base = parts.trainer_.optimizer.lr / (0.5 * (1 + math.cos(math.pi * 2 / 5)))
    if isinstance(solver, str):
        parts.set_params(learning_rate_init=0.1).partial_fit(x, y)
        assert parts.trainer_.optimizer.lr == pytest.approx(
            100 * base * 0.5 * (1 + math.cos(math.pi * 3 / 5))
        )
        parts.set_params(learning_rate_init=0.001)
    steps = parts.trainer_.optimizer.steps
    parts.set_params(learning_rate="constant").partial_fit(x, y)
    assert parts.trainer_.optimizer.lr == pytest.approx(base)
    assert parts.trainer_.optimizer.steps == steps + 1, "its state is kept"


def test_a_rate_follows_the_held_out_data():
    x, y = data("two classes")
    plateau = optim.schedules.ReduceLROnPlateau(patience=0, threshold=0.9, factor=0.5)
    network = clone(MLPClassifier(max_iter=3, early_stopping=True, learning_rate=plateau))
    network.fit(x, y)
    assert network.trainer_.optimizer.lr == pytest.approx(0.001 / 4), "not in the first epoch"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": "cosine"}, r"did you mean schedules.CosineAnnealingLR"),
        ({"learning_rate": optim.schedules.CosineAnnealingLR}, "pass an instance"),
        (
            {"learning_rate": optim.schedules.CosineAnnealingLR(), "solver": "lbfgs"},
            r'learning_rate is CosineAnnealingLR\(.*\), but solver="lbfgs" has no rate',
        ),
        (
            {"learning_rate": optim.schedules.ReduceLROnPlateau()},
            "follows 'val_loss', but no data are held out: set early_stopping=True",
        ),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(options, says):
    network = MLPRegressor(**options)
    with pytest.raises(tw.errors.ArgumentError, match=says):
        network.fit(*data("a number"))
    assert not hasattr(network, "trainer_")


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (optim.schedules.CosineAnnealingLR(), "say how long it lasts"),
        (optim.schedules.ReduceLROnPlateau(), 'partial_fit holds out no data.*monitor="loss"'),
    ],
    ids=["as long as the fit", "held out"],
)
def test_a_schedule_that_partial_fit_cannot_follow_is_refused(rate, says):
    network = MLPRegressor(learning_rate=rate)
    with pytest.raises(tw.errors.ArgumentError, match=says):
        network.partial_fit(*data("a number"))


def test_a_trainer_with_a_schedule_is_saved_as_any_other(tmp_path):
    """Also where its rates are a multiple of scikit-learn's."""
    x, y = data("a number")
    schedules = optim.schedules
    cosine = schedules.CosineAnnealingLR(T_max=9, eta_min=1e-4)
    rates = [
        (cosine, schedules.CosineAnnealingLR(T_max=9, eta_min=0.5e-4)),
        (schedules.OneCycleLR(0.1, total_steps=9), schedules.OneCycleLR(0.05, total_steps=9)),
        (
            schedules.SequentialLR([schedules.LinearWarmup(2, then=cosine), cosine], [5]),
            schedules.SequentialLR(
                [
                    schedules.LinearWarmup(2, then=replace(cosine, eta_min=0.5e-4)),
                    replace(cosine, eta_min=0.5e-4),
                ],
                [5],
            ),
        ),
    ]
    for given, expected in rates:
        network = MLPRegressor(solver="sgd", learning_rate=given, max_iter=2).fit(x, y)
        network.trainer_.save(tmp_path / "file")
        assert tw.Trainer.load(tmp_path / "file").schedule == expected


def test_a_warm_start_goes_on():
    x, y = data("a number")
    options = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "random_state": 0}
    parts = MLPRegressor(**options, max_iter=3, warm_start=True).fit(x, y).fit(x, y)
    whole = MLPRegressor(**options, max_iter=6).fit(x, y)
    assert_same_weights(parts, whole, tolerance=1e-6)
    assert parts.n_iter_ == 3
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-5)
    parts.set_params(solver="lbfgs").fit(x, y)
    assert parts.loss_ < whole.loss_
    assert not hasattr(parts, "loss_curve_")
    parts.set_params(solver="adam", early_stopping=True).fit(x, y)
    assert len(parts.validation_scores_) == len(parts.loss_curve_) == 3


def test_another_solver_goes_on_where_one_ended():
    x, y = data("a number")
    network = MLPRegressor(solver="lbfgs", max_iter=20, random_state=0).fit(x, y)
    score = network.score(x, y)
    network.set_params(solver="adam").partial_fit(x, y)
    assert isinstance(network.trainer_.optimizer, optim.Adam)
    assert network.trainer_.optimizer.steps == len(network.loss_curve_) == 1
    assert network.score(x, y) == pytest.approx(score, abs=0.05)


@pytest.mark.filterwarnings("error")
def test_what_has_not_converged_is_told_on_the_users_line():
    x, y = data("three classes")
    for solver in ("adam", "lbfgs"):
        with pytest.warns(ConvergenceWarning, match="max_iter") as found:
            MLPClassifier(solver=solver, max_iter=2).fit(x, y)
        assert [it.filename for it in found] == [__file__]
    MLPClassifier(max_iter=5000, tol=10, n_iter_no_change=1).fit(x, y)
    MLPClassifier().partial_fit(x, y, classes=[0, 1, 2])


def test_each_epoch_can_be_printed(capsys):
    x, y = data("two classes")
    network = MLPClassifier(
        verbose=True, early_stopping=True, tol=1.0, n_iter_no_change=1, random_state=0
    ).fit(x, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Iteration 1, loss = {network.loss_curve_[0]:.8f}"
    assert lines[1] == f"Validation score: {network.validation_scores_[0]:f}"
    assert lines[-1].endswith("for 1 consecutive epochs. Stopping.")


def test_an_interruption_leaves_what_was_learned(monkeypatch):
    x, y = data("two classes")

    def interrupt(text):
        if text.startswith("Iteration 3"):
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupt)
    network = MLPClassifier(verbose=True, random_state=0)
    with pytest.warns(UserWarning, match="interrupted") as found:
        network.fit(x, y)
    assert [it.filename for it in found] == [__file__]
    assert network.n_iter_ == len(network.loss_curve_) == 3
    assert network.predict(x).shape == (120,)


@pytest.mark.parametrize("ends", [False, True])
def test_an_interruption_ends_a_fit_and_if_asked_a_search(ends, monkeypatch):
    x, y = data("two classes")
    left = [1]

    def interrupt(text):
        if text.startswith("Iteration 3") and left:
            left.clear()
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupt)
    network = MLPClassifier(verbose=True, max_iter=5, random_state=0)
    search = GridSearchCV(network, {"alpha": [0.1, 0.2]}, cv=2, error_score="raise")
    with warnings.catch_warnings():
        warnings.filterwarnings("error" if ends else "ignore", "Training interrupted")
        with pytest.raises(UserWarning) if ends else contextlib.nullcontext():
            search.fit(x, y)
    assert not left
    assert hasattr(search, "best_estimator_") != ends


# --- losses and weights of classes --------------------------------------------------------------


def half_squares(output, target, weight=None):
    """scikit-learn's loss of numbers, but for the sum over outputs."""
    weight = np.ones(len(output)) if weight is None else weight
    share = (weight / weight.sum())[:, np.newaxis]
    d = output - target
    return 0.5 * (share * d**2).sum(), share * d


@pytest.mark.parametrize("solver", ["adam", "lbfgs", optim.LBFGS(max_iter=4)])
@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("calls", [1, 3])
def test_a_loss_that_fails_leaves_the_estimator_as_it_was(solver, warm_start, calls):
    """Its trainer would keep what it has learned, of which the figures knew nothing."""
    x, y = data("a number")
    left = [math.inf]

    def loss(output, target, weight=None):
        left[0] -= 1
        if left[0] == 0:
            raise OSError("the disk is gone")
        return half_squares(output, target, weight)

    options = {"loss": nn.CustomLoss(loss), "solver": solver, "warm_start": warm_start}
    options |= {"max_iter": 2, "batch_size": 40, "random_state": 0}
    failing, other = (MLPRegressor(**options) for _ in range(2))
    methods = ["fit", "partial_fit"] if solver == "adam" else ["fit"]
    for one in (failing, other):
        one.fit(x, y)
    for method in methods:
        left[0] = calls
        with pytest.raises(OSError, match="the disk is gone") as error:
            getattr(failing, method)(x, y)
        assert not hasattr(error.value, "__notes__")
        left[0] = math.inf
        assert_same_weights(failing, other, tolerance=0)
        for one in (failing, other):
            getattr(one, method)(x, y)
        assert_same_weights(failing, other, tolerance=0)
        assert failing.n_iter_ == other.n_iter_
        assert failing.trainer_.epochs == other.trainer_.epochs


def log_loss(output, target, weight=None):
    """Cross-entropy of a softmax, of labels."""
    share = np.ones(len(output)) if weight is None else weight
    share = (share / share.sum())[:, np.newaxis]
    right = np.eye(output.shape[1])[target]
    logs = output - np.logaddexp.reduce(output, axis=1, keepdims=True)
    return -(share * right * logs).sum(), share * (np.exp(logs) - right)


def logistic_loss(output, target, weight=None):
    """Cross-entropy of logistic functions, a sum over outputs."""
    share = np.ones(len(output)) if weight is None else weight
    share = (share / share.sum())[:, np.newaxis]
    loss = np.logaddexp(0, output) - target * output
    return (share * loss).sum(), share * (1 / (1 + np.exp(-output)) - target)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("several numbers", half_squares),
        ("three classes", log_loss),
        ("two classes", logistic_loss),
        ("several labels", logistic_loss),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 1.0},
        {"alpha": 0.1, "solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.3},
        {"alpha": 0.1, "solver": "lbfgs", "activation": "tanh"},
    ],
    ids=lambda options: options.get("solver", "adam"),
)
def test_a_loss_that_is_a_function_trains_as_that_of_the_core(kind, function, options):
    """With weights of samples, the penalty and its figures, and over several batches and calls."""
    x, y = data(kind)
    weight = np.random.default_rng(2).uniform(0.5, 3, len(x))
    known, _ = pair(kind, **options)
    own = clone(known).set_params(loss=function)
    for network in (known, own):
        network.fit(x, y, sample_weight=weight)
    assert_same_weights(own, known, tolerance=1e-9)
    if kind != "several numbers":  # of which scikit-learn's figure is the mean over outputs
        assert own.loss_ == pytest.approx(known.loss_, rel=1e-9)
        if options.get("solver") != "lbfgs":
            np.testing.assert_allclose(own.loss_curve_, known.loss_curve_, rtol=1e-9)
        np.testing.assert_array_equal(own.predict(x), known.predict(x))
        np.testing.assert_allclose(own.predict_proba(x), known.predict_proba(x), atol=1e-8)
    if options.get("solver") != "lbfgs":
        own = pickle.loads(pickle.dumps(own))
        for network in (known, own):
            network.partial_fit(x[:40], y[:40], sample_weight=weight[:40])
        assert_same_weights(own, known, tolerance=1e-9)


@pytest.mark.parametrize("loss", [nn.L1Loss(), nn.HuberLoss(delta=0.5), nn.QuantileLoss(0.9)])
def test_a_regressor_takes_losses_of_numbers(loss):
    """It trains as a trainer does; `loss_curve_` and early stopping are of that loss."""
    x, y = data("several numbers")
    options = {"hidden_layer_sizes": (), "solver": optim.SGD(lr=0.1), "batch_size": 30}
    network = MLPRegressor(loss, **options, max_iter=3, random_state=0).fit(x, y)
    model = nn.Sequential(nn.Linear(5, 3), seed=network.model_.seed)
    rng, bound = np.random.RandomState(0), np.sqrt(6 / 8)
    drawn = {
        "0.weight": rng.uniform(-bound, bound, (5, 3)).T,
        "0.bias": rng.uniform(-bound, bound, 3),
    }
    model.load_state_dict(drawn)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    history = trainer.fit(x, y, epochs=3, batch_size=30)
    np.testing.assert_array_equal(network.predict(x), model(x.astype(np.float32)))
    assert network.loss_curve_ == history["loss"]
    network.set_params(early_stopping=True, max_iter=20).fit(x, y, sample_weight=np.arange(120))
    scores = network.validation_scores_
    assert network.best_validation_score_ == max(scores) < 0
    assert len(scores) == len(network.loss_curve_)


def test_a_quantile_is_what_is_predicted():
    """Also where early stopping keeps the best weights, which are not those of the best R²."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 1))
    y = x[:, 0] + rng.exponential(size=2000)
    network = MLPRegressor(
        nn.QuantileLoss(0.9), (16,), learning_rate_init=0.01, early_stopping=True, random_state=0
    ).fit(x, y)
    assert (y <= network.predict(x)).mean() == pytest.approx(0.9, abs=0.03)


def uneven(rows, seed=0):
    """Samples of one column, targets of which the deviation grows, and means and deviations."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 1))
    mean, deviation = 2 * x[:, 0], 0.3 + 0.2 * x[:, 0]
    return x, mean + deviation * rng.standard_normal(rows), mean, deviation


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_normal_distribution_is_predicted_by_mean_and_deviation(dtype):
    """As by scikit-learn's regressors that know one: with `return_std`, and without the mean."""
    x, y, mean, deviation = uneven(4000)
    options = {"hidden_layer_sizes": (), "solver": "lbfgs", "alpha": 0.0, "dtype": dtype}
    network = MLPRegressor(nn.GaussianNLLLoss(), **options, random_state=0).fit(x, y)
    found, spread = network.predict(x, return_std=True)
    assert found.shape == spread.shape == y.shape
    assert found.dtype == spread.dtype == dtype
    np.testing.assert_allclose(found, mean, atol=0.03)
    # The logarithm of this deviation is not quite linear: that leaves up to 0.08.
    np.testing.assert_allclose(spread, deviation, atol=0.1)
    assert ((y - found) / spread).std() == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(network.predict(x), found)
    assert network.score(x, y) == pytest.approx(1 - ((y - found) ** 2).sum() / len(y) / y.var())
    log_likelihood = -np.log(spread) - ((y - found) / spread) ** 2 / 2
    assert network.loss_ == pytest.approx(-log_likelihood.mean(), rel=1e-5)
    bounded = MLPRegressor(nn.GaussianNLLLoss(eps=0.04), **options).fit(x, y)
    assert bounded.predict(x, return_std=True)[1].min() == pytest.approx(0.2)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_several_quantiles_are_columns_of_a_prediction(early_stopping):
    """Those of 0.9, 0.1 and the median, in the order of the loss."""
    x, y, mean, deviation = uneven(4000)
    network = MLPRegressor(
        nn.QuantileLoss([0.9, 0.1, 0.5]), (16,), learning_rate_init=0.01, max_iter=40,
        learning_rate=optim.schedules.CosineAnnealingLR(), n_iter_no_change=math.inf,
        random_state=0, early_stopping=early_stopping,
    ).fit(x, y)  # fmt: skip
    found = network.predict(x)
    assert found.shape == (4000, 3)
    assert network.n_outputs_ == 1
    for column, quantile in enumerate((0.9, 0.1, 0.5)):
        assert (y <= found[:, column]).mean() == pytest.approx(quantile, abs=0.02)
    exact = mean[:, np.newaxis] + deviation[:, np.newaxis] * [1.2816, -1.2816, 0]
    assert np.abs(found - exact).mean() < 0.05
    assert network.score(x, y) == pytest.approx(sklearn.metrics.r2_score(y, found[:, 2]))
    one = MLPRegressor(nn.QuantileLoss([0.9]), (), max_iter=2).fit(x, y)
    assert one.predict(x).shape == (4000,)


@pytest.mark.parametrize("loss", [nn.GaussianNLLLoss(), nn.QuantileLoss([0.1, 0.5, 0.9])])
def test_each_of_several_targets_has_its_own_distribution(loss):
    """Outputs are where the loss reads them; `predict` has targets in the second axis."""
    x = np.random.default_rng(0).uniform(-1, 1, (2000, 1))
    noise = np.random.default_rng(1).standard_normal((2000, 3))
    y = x + [0.0, 1.0, 2.0] + [0.5, 1.0, 1.5] * noise
    network = MLPRegressor(loss, (), learning_rate_init=0.02, random_state=0, dtype="float64")
    network.fit(x, y)
    assert network.n_outputs_ == 3
    if isinstance(loss, nn.GaussianNLLLoss):
        found, spread = network.predict(x, return_std=True)
        assert found.shape == spread.shape == (2000, 3)
        np.testing.assert_allclose(spread.mean(axis=0), [0.5, 1.0, 1.5], rtol=0.1)
        outputs = np.hstack([found, 2 * np.log(spread)])
    else:
        quantiles = network.predict(x)
        assert quantiles.shape == (2000, 3, 3)
        for place, quantile in enumerate(loss.quantiles):
            below = (y <= quantiles[..., place]).mean(axis=0)
            np.testing.assert_allclose(below, quantile, atol=0.03)
        found = quantiles[..., 1]
        outputs = np.hstack([quantiles[..., place] for place in range(3)])
    np.testing.assert_allclose(network.model_(x), outputs, atol=1e-12)
    assert loss(outputs, y) == pytest.approx(network.trainer_.evaluate(x, y)["loss"])
    assert network.score(x, y) == pytest.approx(sklearn.metrics.r2_score(y, found))


@pytest.mark.parametrize("loss", [nn.GaussianNLLLoss(), nn.QuantileLoss([0.1, 0.5, 0.9])])
def test_distributions_are_estimated_as_numbers_are(loss):
    """Streams, copies, files, warm starts, searches, scalers of targets."""
    x, y, *_ = uneven(300)
    network = MLPRegressor(loss, (8,), learning_rate_init=0.01, max_iter=30, random_state=0)
    stream = clone(network)
    for _ in range(3):
        stream.partial_fit(x, y)
    again = pickle.loads(pickle.dumps(stream))
    for one in (stream, again):
        one.partial_fit(x, y)
    np.testing.assert_array_equal(again.predict(x), stream.predict(x))
    warm = clone(network).set_params(max_iter=2, warm_start=True).fit(x, y)
    before = warm.loss_
    assert warm.fit(x, y).loss_ < before
    # A loss set for the next fit does not change what this one's outputs mean.
    found = warm.predict(x)
    np.testing.assert_array_equal(warm.set_params(loss="poisson").predict(x), found)

    network.set_params(early_stopping=True).fit(x[:200], y[:200], X_val=x[200:], y_val=y[200:])
    held_out = network.trainer_.evaluate(x[200:], y[200:])["loss"]
    assert network.best_validation_score_ == pytest.approx(-held_out)

    grid = {"hidden_layer_sizes": [(), (8,)]}
    search = GridSearchCV(network, grid, cv=2, error_score="raise").fit(x, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    scaled = TransformedTargetRegressor(network, transformer=StandardScaler()).fit(x, 1000 + 50 * y)
    inner = scaled.regressor_.predict(x)
    scaler = scaled.transformer_
    np.testing.assert_allclose(scaled.predict(x), scaler.mean_ + scaler.scale_ * inner, rtol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("loss", [nn.GaussianNLLLoss(), nn.QuantileLoss([0.1, 0.5, 0.9])])
def test_searches_can_score_distributions_behind_other_steps(loss, kind):
    """By functions of what is predicted, which are minus the loss, up to log(2π) / 2."""
    x, y, *_ = uneven(300)
    x = csr_array(x) if kind == "sparse" else x

    def likelihood(network, x, y):
        return norm.logpdf(y, *network.predict(x, return_std=True)).mean()

    def pinball(y, quantiles):
        above = np.expand_dims(y, -1) - quantiles
        return np.maximum(loss.quantiles * above, np.subtract(loss.quantiles, 1) * above).mean()

    gaussian = isinstance(loss, nn.GaussianNLLLoss)
    scoring = likelihood if gaussian else make_scorer(pinball, greater_is_better=False)
    network = MLPRegressor(loss, (8,), learning_rate_init=0.01, max_iter=30, random_state=0)
    steps = make_pipeline(MaxAbsScaler(), network)
    grid = {"mlpregressor__alpha": [1e-4, 1000]}
    search = GridSearchCV(steps, grid, cv=2, scoring=scoring, error_score="raise").fit(x, y)
    assert search.best_params_ == {"mlpregressor__alpha": 1e-4}
    scaler, best = search.best_estimator_
    rows = scaler.transform(x)
    rows = rows.toarray() if kind == "sparse" else rows
    value = best.trainer_.evaluate(rows, y)["loss"] + gaussian * math.log(2 * math.pi) / 2
    assert search.score(x, y) == pytest.approx(-value, rel=1e-5)


@pytest.mark.parametrize("quantiles", [np.linspace(0.05, 0.95, 19), np.arange(1, 20) / 20])
def test_the_median_of_a_grid_is_one_half_up_to_rounding(quantiles):
    x, y, *_ = uneven(50)
    network = MLPRegressor(nn.QuantileLoss(quantiles), max_iter=2).fit(x, y)
    assert (0.5 in network.loss.quantiles) == (quantiles[9] == 0.5)
    r2 = sklearn.metrics.r2_score(y, network.predict(x)[:, 9])
    assert network.score(x, y) == pytest.approx(r2)


@pytest.mark.parametrize("loss", [nn.GaussianNLLLoss(), "poisson"])
def test_exponentials_far_from_the_data_are_0_or_infinite(loss):
    """Whatever NumPy does about that otherwise: no warning, and no error."""
    x = np.random.default_rng(0).standard_normal((200, 1))
    y = np.exp(x[:, 0])
    if loss != "poisson":
        y *= np.random.default_rng(1).standard_normal(200)
    network = MLPRegressor(loss, (), solver="lbfgs", random_state=0, alpha=0.0).fit(x, y)
    with np.errstate(all="raise"):
        found = network.predict([[-300.0], [300.0]], return_std=loss != "poisson")
    rates, least = (found, 0.0) if loss == "poisson" else (found[1], 1e-3)  # √eps
    np.testing.assert_allclose(rates, [least, np.inf])


def test_what_a_loss_does_not_predict_is_told():
    x, y, *_ = uneven(50)
    with pytest.raises(NotFittedError):
        MLPRegressor(nn.GaussianNLLLoss()).predict(x, return_std=True)
    number = MLPRegressor(max_iter=2).fit(x, y)
    message = (
        r"return_std=True needs .* loss=nn\.GaussianNLLLoss\(\).*; this one has 'squared_error'"
    )
    with pytest.raises(tw.ArgumentError, match=message):
        number.predict(x, return_std=True)
    ends = MLPRegressor(nn.QuantileLoss([0.1, 0.9]), max_iter=2).fit(x, y)
    assert ends.predict(x).shape == (50, 2)
    with pytest.raises(tw.ArgumentError, match=r"quantiles are \(0\.1, 0\.9\): add 0\.5, or s"):
        ends.score(x, y)


def test_logarithms_of_rates_become_rates():
    x, _ = data("a number")
    y = np.random.default_rng(1).poisson(np.exp(x[:, 0]))
    named, given = (
        MLPRegressor(loss, random_state=0, alpha=0.0).fit(x, y)
        for loss in ("poisson", nn.PoissonNLLLoss())
    )
    assert given.out_activation_ == "exp"
    np.testing.assert_allclose(given.predict(x), named.predict(x), rtol=1e-3)
    assert given.score(x, y) == pytest.approx(named.score(x, y), abs=1e-3)


@pytest.mark.parametrize("kind", ["two classes", "three classes"])
def test_a_classifier_takes_a_smoothed_cross_entropy(kind):
    x, y = data(kind)
    options = {"random_state": 0, "max_iter": 100, "learning_rate_init": 0.02}
    plain = MLPClassifier(loss=nn.CrossEntropyLoss(), **options).fit(x, y)
    smooth = clone(plain).set_params(loss=nn.CrossEntropyLoss(label_smoothing=0.5)).fit(x, y)
    classes = len(plain.classes_)
    for network in (plain, smooth):
        shares = network.predict_proba(x)
        assert shares.shape == (120, classes)
        assert network.n_outputs_ == classes
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(np.exp(network.predict_log_proba(x)), shares, rtol=1e-5)
        np.testing.assert_array_equal(network.predict(x), network.classes_[shares.argmax(axis=1)])
        assert network.score(x, y) > 0.9
    assert plain.predict_proba(x).max() > 0.95
    assert smooth.predict_proba(x).max() < 0.9
    stopped = clone(smooth).set_params(early_stopping=True).fit(x, y)
    assert 0 <= stopped.best_validation_score_ <= 1
    if kind == "two classes":  # as many of each are held out as where there is one output
        for seed in range(9):
            *_, held_out = stopped._hold_out(x, np.arange(120) % 12 // 11, None, seed)
            assert held_out[1].sum() == 1
    one = clone(smooth).set_params(max_iter=2).fit(x, np.full(120, "only"))
    assert set(one.predict(x)) == {"only"}


def test_log_loss_is_the_cross_entropy():
    x, y = data("three classes")
    ours, theirs = (e.fit(x, y) for e in pair("three classes"))
    given = clone(ours).set_params(loss=nn.CrossEntropyLoss()).fit(x, y)
    assert_same_weights(given, theirs)
    assert given.loss_curve_ == ours.loss_curve_
    x, y = data("several labels")  # of which it is a mean, and the sum in scikit-learn
    given = MLPClassifier(loss=nn.BCEWithLogitsLoss(pos_weight=50.0), max_iter=300).fit(x, y)
    assert given.predict(x).mean() > MLPClassifier(max_iter=300).fit(x, y).predict(x).mean()
    assert given.predict_proba(x).shape == (120, 3)


@pytest.mark.parametrize(
    ("kind", "weights", "factors"),
    [
        ("two classes", {"yes": 5.0}, lambda y: np.where(y == "yes", 5.0, 1.0)),
        ("three classes", {0: 0.0, 2: 3}, lambda y: np.array([0.0, 1.0, 3.0])[y]),
        ("three classes", "balanced", lambda y: 120 / 3 / np.bincount(y)[y]),
        (
            "several labels",
            [{1: 2.0}, {0: 3.0, 1: 1.0}, {}],
            lambda y: (1 + y[:, 0]) * np.where(y[:, 1], 1, 3),
        ),
    ],
    ids=["two", "three", "balanced", "several"],
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights_of_classes_are_weights_of_samples(kind, weights, factors, early_stopping):
    x, y = data(kind)
    given = np.random.default_rng(2).uniform(0.5, 3, len(x))
    network, _ = pair(kind, alpha=1.0, early_stopping=early_stopping)
    weighted = clone(network).set_params(class_weight=weights)
    for weight, sample_weight in ((factors(y), None), (factors(y) * given, given)):
        network.fit(x, y, sample_weight=weight)
        weighted.fit(x, y, sample_weight=sample_weight)
        assert_same_weights(weighted, network)
        np.testing.assert_allclose(weighted.loss_curve_, network.loss_curve_, rtol=1e-12)
        if early_stopping:
            np.testing.assert_allclose(weighted.validation_scores_, network.validation_scores_)


def test_weights_of_classes_are_those_of_all_that_are_known():
    """A batch of `partial_fit` need not have them all."""
    x, y = data("three classes")
    network = MLPClassifier(class_weight={0: 3.0, 1: 2.0}, random_state=0, dtype="float64")
    twin = clone(network).set_params(class_weight=None)
    for rows in (y > 0, y < 2):
        network.partial_fit(x[rows], y[rows], classes=[0, 1, 2])
        twin.partial_fit(x[rows], y[rows], np.array([3.0, 2.0, 1.0])[y[rows]], classes=[0, 1, 2])
    assert_same_weights(network, twin)
    with pytest.raises(ValueError, match=r"not supported by partial_fit.*compute_class_weight"):
        network.set_params(class_weight="balanced").partial_fit(x, y)


def test_steps_and_outputs_without_checks_are_those_of_the_estimator():
    x, y = data("two classes")
    network = MLPClassifier(alpha=0.1, random_state=0, shuffle=False, batch_size=50)
    network.partial_fit(x[:50], y[:50], classes=["no", "yes"])
    twin = pickle.loads(pickle.dumps(network))
    network.partial_fit(x[:50], y[:50])
    twin.trainer_.step(x[:50], np.searchsorted(twin.classes_, y[:50]))
    assert_same_weights(network, twin, tolerance=0)
    np.testing.assert_array_equal(network.model_(x) > 0, network.predict_proba(x)[:, 1:] > 0.5)


def test_losses_and_weights_of_classes_can_be_searched():
    x, y = data("three classes")
    network = MLPClassifier(max_iter=20, learning_rate_init=0.02, random_state=0)
    grid = {
        "loss": [None, nn.CrossEntropyLoss(label_smoothing=0.1), log_loss],
        "class_weight": [None, "balanced", {0: 1.0, 1: 9.0, 2: 1.0}],
    }
    search = GridSearchCV(network, grid, cv=2, error_score="raise").fit(x, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores)) > 2
    x, y = data("a number")
    grid = {"loss": ["squared_error", nn.HuberLoss(), nn.QuantileLoss(0.9), half_squares]}
    search = GridSearchCV(MLPRegressor(max_iter=20), grid, cv=2, error_score="raise").fit(x, y)
    assert len(set(search.cv_results_["mean_test_score"])) > 2


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes\[1\] must be an integer >= 1; got 0"),
        (
            {"hidden_layer_sizes": "100"},
            r"hidden_layer_sizes\[0\].*may also be a layer of thalweg\.nn",
        ),
        (
            {"hidden_layer_sizes": (8, nn.LayerNorm(9))},
            r"layer 2 \(LayerNorm 9\): its input has 8 features, expected 9",
        ),
        (
            {"hidden_layer_sizes": (nn.Dropout, 16)},
            r"layer of thalweg\.nn; pass an instance: nn\.Dropout\(...\)",
        ),
        ({"hidden_layer_sizes": nn.Sequential(nn.Linear(5, 8))}, r"got a model.*=model\.layers"),
        (
            {"activation": "swish"},
            'activation must be one of "identity", "logistic", .*or one from thalweg.nn',
        ),
        ({"activation": "gelu"}, r"got 'gelu'; did you mean nn\.GELU\(...\)\?"),
        ({"activation": "linear"}, r"did you mean nn\.Identity\(...\)\?"),
        ({"activation": "ReLU"}, r'did you mean "relu"\?'),
        ({"activation": nn.GELU}, r"got the class GELU; pass an instance: nn\.GELU\(...\)"),
        ({"solver": "AdamW"}, r"got 'AdamW'; did you mean optim\.AdamW\(...\)\?"),
        ({"solver": optim.AdamW}, r"pass an instance: optim\.AdamW\(...\)"),
        ({"alpha": -1.0}, "alpha must be a finite number"),
        ({"batch_size": "all"}, """^batch_size must be "auto" or an integer >= 1; got 'all'$"""),
        ({"batch_size": 0}, '^batch_size must be "auto" or an integer >= 1; got 0$'),
        ({"learning_rate": "falling"}, "learning_rate must be one of"),
        ({"learning_rate_init": 0.0}, "learning_rate_init"),
        ({"max_iter": 0}, "max_iter"),
        ({"shuffle": "yes"}, "shuffle must be True or False"),
        ({"momentum": 1.0}, "momentum"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"validation_fraction": 0.001, "early_stopping": True}, "validation_fraction"),
        ({"beta_1": 1.0}, "beta_1"),
        ({"n_iter_no_change": 0.5}, "n_iter_no_change"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"hidden_layer_sizes": {8, 4}}, "hidden_layer_sizes must be a sequence; got"),
        ({"verbose": np.array([1, 2])}, "verbose must be True, False or an integer >= 0"),
        ({"verbose": "no"}, "verbose must be True, False or an integer >= 0; got 'no'"),
        ({"scoring": "roc_auc"}, "scoring must be None .* or \"loss\" .*; got 'roc_auc'"),
    ],
)
@pytest.mark.parametrize("kind", ["a number", "three classes"])
def test_wrong_arguments_are_told(kind, options, message):
    """When it is fitted: scikit-learn wants to make any, and to change it."""
    network = PAIRS[kind][0](**options)
    with pytest.raises(ValueError, match=message):
        network.fit(*data(kind))


def test_wrong_losses_are_told():
    x, y = data("a number")
    with pytest.raises(tw.ArgumentError, match='loss must be one of "squared_error", "poisson"'):
        MLPRegressor(loss="huber").fit(x, y)
    with pytest.raises(tw.ArgumentError, match=r"got \(20, 20\); .*hidden_layer_sizes the second"):
        MLPRegressor((20, 20)).fit(x, y)
    for loss, message in (
        ("quantile", r"got 'quantile'; did you mean nn\.QuantileLoss\(...\)\?"),
        ("absolute_error", r"did you mean nn\.L1Loss\(...\)\?"),
        ("Poisson", r'did you mean "poisson"\?'),
        (nn.HuberLoss, r"got the class HuberLoss; pass an instance: nn\.HuberLoss\(...\)"),
        (nn.CrossEntropyLoss(), "a loss for classes, which MLPClassifier takes"),
        (nn.PoissonNLLLoss(log_input=False), r"negative outputs.*nn\.PoissonNLLLoss\(\)"),
        (nn.DerivativeLoss(half_squares, order=1), "derivatives with respect to the samples"),
        (nn.MSELoss(reduction="none"), 'reduction="none"'),
        (nn.ReLU(), "loss must be one of"),
    ):
        with pytest.raises(tw.ArgumentError, match=message):
            MLPRegressor(loss).fit(x, y)
    with pytest.raises(tw.DataError, match=r"y\[0, 0\] is -1\.5, but .* numbers >= 0"):
        MLPRegressor(loss="poisson").fit(x, np.full(120, -1.5))


@pytest.mark.parametrize(
    ("kind", "loss", "message"),
    [
        (
            "two classes",
            "log_loss",
            r"must be None, nn\.BCEWith.*, nn\.CrossEnt.* or .*mean nn\.CrossEntropyLoss\(...\)",
        ),
        ("two classes", nn.MSELoss(), "a loss for numbers, which MLPRegressor takes"),
        ("two classes", nn.DistillationLoss(), "its targets are the outputs of a teacher"),
        (
            "three classes",
            nn.CrossEntropyLoss(heads=(1, 2)),
            r"heads=\(1, 2\), but in MLPClassifier all classes",
        ),
        ("three classes", nn.CrossEntropyLoss(ignore_index=1), "leave ignore_index out"),
        ("three classes", nn.CrossEntropyLoss([1.0, 2.0]), "weight"),
        ("three classes", nn.BCEWithLogitsLoss(), r"3 classes, one per row.*nn\.CrossEntropyLoss"),
        ("several labels", nn.CrossEntropyLoss(), r"3 labels per row.*nn\.BCEWithLogitsLoss"),
    ],
)
def test_losses_that_do_not_fit_classes_are_told(kind, loss, message):
    network = MLPClassifier(loss=loss)
    with pytest.raises(ValueError, match=message):
        network.fit(*data(kind))
    assert vars(network) == vars(clone(network))


def test_a_loss_whose_outputs_they_do_not_know_is_refused(monkeypatch):
    """As a new one would be: its predictions might be wrong."""
    monkeypatch.setattr("thalweg.sklearn._losses._OF_NUMBERS", (nn.MSELoss,))
    for kind, what in ((MLPRegressor, "a number"), (MLPClassifier, "two classes")):
        with pytest.raises(tw.ArgumentError, match=r"no estimator takes: they cannot make pred"):
            kind(loss=nn.HuberLoss()).fit(*data(what))


@pytest.mark.parametrize(
    ("kind", "weights", "message"),
    [
        ("two classes", "balance", 'must be None, "balanced" or a dict'),
        ("two classes", [1.0, 2.0], 'must be None, "balanced" or a dict'),
        ("two classes", {"yes": -1.0}, r"class_weight\['yes'\] must be a finite number"),
        ("two classes", [{"yes": 2.0}], r"a dict .* one class per row; got \[\{'yes': 2\.0\}\]"),
        ("two classes", {"yes": 0.0, "no": 0}, "makes all sample weights zero"),
        ("two classes", {"yes": 2.0, "never": 1.0}, "not in class_weight"),
        ("several labels", {0: 2.0}, r"a list with a dict .* 3 labels per row; got \{0: 2\.0\}"),
        ("several labels", [{}, {1: np.nan}, {}], r"class_weight\[1\]\[1\] must be"),
        ("several labels", [{}], "number of outputs"),
    ],
)
def test_wrong_weights_of_classes_are_told(kind, weights, message):
    network = MLPClassifier(class_weight=weights)
    with pytest.raises(ValueError, match=message):
        network.fit(*data(kind))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate_init", 0.1),
        ("learning_rate", "adaptive"),
        ("power_t", 0.1),
        ("momentum", 0.5),
        ("nesterovs_momentum", False),
        ("beta_1", 0.5),
        ("beta_2", 0.5),
        ("epsilon", 1e-3),
        ("alpha", 0.1),
    ],
)
def test_what_an_optimizer_does_not_see_is_told(name, value):
    """Else a search over it would find that it makes no difference."""
    x, y = data("a number")
    network = MLPRegressor(solver=optim.AdamW(lr=0.01), max_iter=2, **{name: value})
    with pytest.raises(tw.ArgumentError, match=rf"^{name} is {value!r}.*AdamW.*\{{\"solver\": \["):
        network.fit(x, y)
    network.set_params(solver="adam").fit(x, y)
    MLPRegressor(solver=optim.AdamW(), max_iter=2, alpha=0.0).fit(x, y)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("lr", "it is learning_rate_init"),
        ("criterion", "it is loss"),
        ("label_smoothing", r"loss=nn\.CrossEntropyLoss\(label_smoothing=0\.1\)"),
        ("epochs", "it is max_iter"),
        ("optimizer", "it is solver"),
        ("dropout", r"\(100, nn.Dropout\(0.5\)\)"),
        ("hidden_layers", "did you mean hidden_layer_sizes"),
        ("n_jobs", r"tw\.set_num_threads\(n\), or .* THALWEG_NUM_THREADS"),
    ],
)
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_names_of_others_are_told(kind, name, advice):
    with pytest.raises(TypeError, match=f"{kind.__name__} has no argument '{name}'.*{advice}"):
        kind(**{name: 1})


def test_options_of_a_solver_are_searched_as_solvers():
    x, y = data("two classes")
    grid = {"solver__lr": [0.1, 0.2]}
    with pytest.raises(AttributeError, match=r'lists optimizers: \{"solver": \[optim\.AdamW\('):
        GridSearchCV(MLPClassifier(solver=optim.AdamW()), grid, cv=2).fit(x, y)


def test_arguments_of_fit_are_told_by_names_that_users_know():
    x, y = data("a number")
    for name, advice in (
        ("validation_data", r"with early_stopping=True.* fit\(X, y, X_val=..., y_val=...\)"),
        ("validation_split", "early_stopping=True holds out"),
        ("epochs", "it is max_iter"),
        ("num_threads", r"tw\.set_num_threads\(n\), or .* THALWEG_NUM_THREADS"),
    ):
        with pytest.raises(TypeError, match=f"^fit has no argument '{name}': {advice}"):
            MLPRegressor().fit(x, y, **{name: 1})
    with pytest.raises(TypeError, match=r"^estimator\.fit\(\) missing"):
        MLPRegressor().fit(x)


def test_wrong_targets_are_told():
    x, y = data("three classes")
    several = data("several labels")[1]
    with pytest.raises(ValueError, match="continuous"):
        MLPClassifier().fit(x, x[:, 0])
    with pytest.raises(ValueError, match="contain only 0 and 1"):
        MLPClassifier().fit(x, several + np.arange(3))
    one, many = MLPClassifier(max_iter=1).fit(x, y), MLPClassifier(max_iter=1).fit(x, several)
    with pytest.raises(ValueError, match=r"\[7\], which are not among \[0 1 2\].*classes=\[...\]"):
        one.partial_fit(x, np.where(y == 2, 7, y))
    with pytest.raises(ValueError, match="was fitted to one class per row"):
        one.partial_fit(x, several)
    with pytest.raises(ValueError, match="was fitted to 3 labels per row"):
        many.partial_fit(x, y)
    with pytest.raises(ValueError, match="was fitted to 3 labels per row"):
        many.partial_fit(x, several[:, :2])
    with pytest.raises(ValueError, match="must contain only 0 and 1"):
        many.partial_fit(x, 2 * several)
    with pytest.raises(ValueError, match=r"was fitted with n_outputs_=1"):
        MLPRegressor(max_iter=1).fit(x, y).partial_fit(x, several)
    for words in (["1.5", "2.5"] * 60, np.array(["1.5", "2.5"] * 60, object)):
        with pytest.raises(tw.DtypeError, match=r"y has dtype .*encode text as numbers"):
            MLPRegressor().fit(x, words)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: np.ma.masked_less(x, -2), r"X has \d+ masked entries; fill them first"),
        (lambda x: FrameOfTypes(x, Temporal("Date")), "X has a column 'd' of type Date"),
        (lambda x: x.astype("timedelta64[h]"), r"pass X / np.timedelta64\(1, \"s\"\)"),
    ],
    ids=["masked", "dates among numbers", "durations"],
)
@pytest.mark.parametrize("kind", ["a number", "three classes"])
def test_masks_and_dates_are_not_taken_for_numbers(kind, bad, message):
    """As scikit-learn's checks take them, some in `fit` alone."""
    x, y = data(kind)
    fitted, network = PAIRS[kind][0](max_iter=1).fit(x, y), PAIRS[kind][0](early_stopping=True)
    for call in (
        lambda: network.fit(bad(x), y),
        lambda: network.fit(x, y, X_val=bad(x), y_val=y),
        lambda: fitted.partial_fit(bad(x), y),
        lambda: fitted.predict(bad(x)),
    ):
        with pytest.raises((tw.DataError, tw.DtypeError), match=message):
            call()


def test_targets_are_not_taken_from_under_a_mask():
    x, y = data("a number")
    with pytest.raises(tw.DataError, match=r"y has \d+ masked entries"):
        MLPRegressor().fit(x, np.ma.masked_less(y, 0))
    with pytest.raises(tw.DtypeError, match="y has a column 'd' of type Date"):
        MLPRegressor().fit(x, FrameOfTypes(x, Temporal("Date")))
    named = Series(y, y.dtype, columns=3)  # an entry of its index
    np.testing.assert_array_equal(
        *(MLPRegressor(max_iter=1, random_state=0).fit(x, it).predict(x) for it in (y, named))
    )
    days = np.where(y > 0, np.datetime64("2020-01-01"), np.datetime64("2020-01-02"))
    assert MLPClassifier(max_iter=1).fit(x, days).predict(x).dtype == days.dtype  # classes


def test_partial_fit_needs_the_classes_once():
    x, y = data("three classes")
    network = MLPClassifier()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        network.partial_fit(x, y)
    network.partial_fit(x[y > 0], y[y > 0], classes=[0, 1, 2]).partial_fit(x, y)
    assert network.predict_proba(x).shape == (120, 3)
    with pytest.raises(ValueError, match=r"must be the same as in the first call, \[0 1 2\]"):
        network.partial_fit(x, y, classes=[0, 1])
    for wrong in (2, "01", [[0, 1, 2]], {0, 1, 2}, []):
        with pytest.raises(tw.ArgumentError, match=r"classes must be 1-D.*np\.unique\(y\)"):
            MLPClassifier().partial_fit(x, y, classes=wrong)
    several = data("several labels")[1]
    with pytest.raises(ValueError, match=r"classes=\[0 1\], but y has 3 labels per row.*\[0 1 2\]"):
        MLPClassifier().partial_fit(x, several, classes=[0, 1])
    with pytest.raises(ValueError, match="early_stopping"):
        network.set_params(early_stopping=True).partial_fit(x, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_layer_sizes": (50,)}, r"hidden_layer_sizes is \(50,\), but was \(8, Dropout"),
        ({"activation": "tanh"}, r"activation is Tanh\(\), but was ReLU\(\)"),
        ({"loss": "poisson"}, "loss is 'poisson', but was 'squared_error'"),
        ({"loss": nn.L1Loss()}, r"loss is L1Loss\(.*, but was 'squared_error'"),
        ({"dtype": "float64"}, "dtype is dtype.'float64'., but was dtype.'float32'."),
    ],
    ids=lambda it: str(it)[:30],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_network_is_not_changed_while_it_goes_on(method, change, message):
    x, y = data("a number")
    hidden = [8, nn.Dropout(0.1)]
    network = MLPRegressor(hidden_layer_sizes=hidden, max_iter=2, warm_start=True).fit(x, abs(y))
    before = network.predict(x)
    network.set_params(**change)
    with pytest.raises(tw.ArgumentError, match=f"{message}.* when training began"):
        getattr(network, method)(x, abs(y))
    np.testing.assert_array_equal(network.predict(x), before)
    same = {"hidden_layer_sizes": (np.int64(8), nn.Dropout(0.1)), "activation": nn.ReLU()}
    same |= {"loss": "squared_error", "dtype": np.float32}
    getattr(network.set_params(**same), method)(x, abs(y))
    assert network.set_params(warm_start=False, **change).fit(x, abs(y)).n_iter_ == 2


#: What is wrong, at one stage of a fit after the other: arguments, what becomes of good samples,
#: targets and weights, and the error.
WRONG_FITS = {
    "arguments": ({"alpha": -1.0}, {}, "alpha"),
    "samples": ({}, {"x": lambda x: np.where(x > 1, np.inf, x)}, "infinity"),
    "targets": ({}, {"y": lambda y: y / 7}, "continuous|not among"),
    "weights": ({}, {"weight": -1.0}, "sample_weight"),
    "layers": ({"hidden_layer_sizes": (8, nn.LayerNorm(9))}, {}, "LayerNorm"),
    "what is held out": (
        {"early_stopping": True, "validation_fraction": 0.001}, {}, "validation_fraction",
    ),
    "training": ({"solver": "sgd", "learning_rate_init": 1e30}, {}, "learning_rate_init is 1e"),
}  # fmt: skip


@pytest.mark.parametrize("stage", WRONG_FITS)
@pytest.mark.parametrize("warm_start", [False, True])
def test_after_an_error_an_estimator_is_as_it_was(stage, warm_start):
    x, y = data("three classes")
    options, wrong, message = WRONG_FITS[stage]
    network = MLPClassifier(max_iter=3, random_state=0, warm_start=warm_start).fit(x, y)
    twin = pickle.loads(pickle.dumps(network))
    # Where nothing goes on, the refit is of other columns and classes.
    other_x, other_y = (x, y) if warm_start else (x[:, :2], np.arange(120) % 4)
    other_x, other_y = wrong.get("x", np.array)(other_x), wrong.get("y", np.array)(other_y)
    network.set_params(**options)
    with pytest.raises(ValueError, match=message):
        network.fit(other_x, other_y, sample_weight=wrong.get("weight"))
    network.set_params(**twin.get_params())
    assert set(vars(network)) == set(vars(twin))
    for name in ("classes_", "n_outputs_", "n_features_in_", "loss_curve_", "n_iter_", "t_"):
        np.testing.assert_array_equal(getattr(network, name), getattr(twin, name), err_msg=name)
    np.testing.assert_array_equal(network.predict_proba(x), twin.predict_proba(x))
    for it in (network, twin):
        it.partial_fit(x, y)
    assert_same_weights(network, twin, tolerance=0)


def test_where_lbfgs_is_interrupted_weights_are_as_they_were(monkeypatch):
    x, y = data("a number")
    network = MLPRegressor(solver="lbfgs", warm_start=True, max_iter=5, random_state=0).fit(x, y)
    before, backward, calls = network.predict(x), tw.Trainer.backward, []

    def interrupt(trainer, *data):
        loss = backward(trainer, *data)
        calls.append(loss)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(tw.Trainer, "backward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        network.fit(x, y)
    np.testing.assert_array_equal(network.predict(x), before)
    assert not network.model_.flat_gradients.any()


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 3}, "Maximum iterations"),
        ({"max_iter": 3, "solver": "lbfgs"}, "lbfgs failed to converge"),
        ({"learning_rate_init": 1e-9, "early_stopping": True}, "is not clearly better"),
        ({"verbose": True}, "interrupted by user"),
    ],
)
def test_a_warning_that_is_an_error_comes_when_the_fit_is_complete(
    options, message, warm_start, monkeypatch
):
    """Or weights would be of this fit, but the figures of the one before."""
    x, y = data("two classes")

    def interrupt(text):
        if text.startswith("Iteration 3"):
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupt)
    warned, raised = (
        MLPClassifier(random_state=0, warm_start=warm_start, **options) for _ in range(2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if warm_start:  # following another score, so that scores begin anew
            warned.set_params(scoring="loss").fit(x, y).set_params(scoring=None)
            raised.set_params(scoring="loss").fit(x, y).set_params(scoring=None)
        warned.fit(x, y)
        warnings.filterwarnings("error", f".*{message}")
        with pytest.raises(Warning, match=message):
            raised.fit(x, y)
    assert set(vars(raised)) == set(vars(warned))
    for name in ("n_iter_", "t_", "loss_", "loss_curve_", "validation_scores_"):
        assert getattr(raised, name, None) == getattr(warned, name, None), name
    assert_same_weights(raised, warned, tolerance=0)


def test_after_an_error_in_a_first_fit_nothing_is_fitted():
    x, y = data("three classes")
    network = MLPClassifier(solver="sgd", learning_rate_init=1e30)
    with pytest.raises(tw.DivergedError):
        network.fit(1e3 * x, y)
    assert vars(network) == vars(clone(network))
    with pytest.raises(NotFittedError):
        network.predict(x)


def test_weights_of_samples_must_be_such():
    x, y = data("a number")
    network = MLPRegressor(max_iter=1)
    for weight, message in (
        (np.ones(7), "sample_weight has 7 values, but X has 120 rows"),
        (np.zeros(120), "sample_weight is zero for all samples"),
        (-np.ones(120), r"sample_weight\[0\] is -1"),
        (-1.0, r"sample_weight\[0\] is -1"),
        (np.ones((120, 2)), r"sample_weight must be 1-D.*\(120, 2\)"),
        (np.full(120, np.nan), r"sample_weight\[0\] is nan"),
    ):
        with pytest.raises((tw.ShapeError, tw.DataError), match=message):
            network.fit(x, y, sample_weight=weight)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_weights_and_alpha_can_be_multiplied_together(solver):
    """As the error about weights that are too small says."""
    x, y = data("a number")
    weight = 1e-40 * np.arange(1.0, 121.0)
    network = MLPRegressor(max_iter=3, alpha=1e-37, solver=solver, random_state=0)
    with pytest.raises(tw.DataError, match=r"multiply all weights \(and an estimator's alpha\)"):
        network.fit(x, y, sample_weight=weight)
    scaled = clone(network).set_params(alpha=1e3).fit(x, y, sample_weight=1e40 * weight)
    network.set_params(dtype="float64").fit(x, y, sample_weight=weight)  # as it says, too
    assert_same_weights(scaled, network, tolerance=1e-4)
    plain = clone(network).set_params(alpha=0.0).fit(x, y, sample_weight=weight)
    assert np.abs(plain.coefs_[0] - network.coefs_[0]).max() > 1e-3


def test_one_weight_is_that_of_all_samples():
    x, y = data("a number")
    network = MLPRegressor(max_iter=3, alpha=5.0, random_state=0)
    one = clone(network).fit(x, y, sample_weight=2.5)
    assert_same_weights(one, network.fit(x, y, sample_weight=np.full(120, 2.5)), tolerance=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"solver": "sgd", "learning_rate_init": 1e6},
            r"lr=500000.*; learning_rate_init is 1e\+06$",
        ),
        ({"learning_rate_init": 1e30}, r"; learning_rate_init is 1e\+30$"),
        ({"solver": optim.SGD(lr=1e6)}, r"lr=1000000.*before this call$"),
    ],
)
def test_what_diverges_is_told(options, message):
    """By scikit-learn's kind of error, too, and with the rate that the user knows."""
    x, y = data("a number")
    for kind in (tw.DivergedError, ValueError):
        with pytest.raises(kind, match=message):
            MLPRegressor(**options).fit(x, y)
    with pytest.raises(tw.DivergedError, match="lbfgs has no lr to lower: scale the data"):
        MLPRegressor(solver="lbfgs").fit(1e20 * x, y)
