"""Everything a user can get wrong: each is a clear error that changes nothing, or it works.

Every case names the error's class and what its message must contain, so that a reader of the
message knows which argument is meant, what it is, and what to do.
"""

import datetime
import decimal
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import Frame, FrameOfTypes, Series, Temporal, Zoned

NAN, INF = float("nan"), float("inf")


def x_with(value, place=(7, 2)):
    x = np.ones((20, 5), np.float32)
    x[place] = value
    return x


def y_with(value, place=11):
    y = np.arange(20) % 3
    y[place] = value
    return y


class NAType:
    """As pandas' ``pd.NA``."""

    def __repr__(self):
        return "<NA>"


X = np.ones((20, 5), np.float32)
Y = np.arange(20) % 3
T = np.ones((20, 2))

# (x, class of the error, what the message says)
BAD_X = {
    "a vector": (X[0], tw.ShapeError, [r"x must be 2-D", r"\(5,\)", r"reshape\(1, -1\)"]),
    "a number": (3.0, tw.ShapeError, [r"x must be 2-D", r"\(\)"]),
    "three axes": (X[None], tw.ShapeError, [r"x must be 2-D", r"\(1, 20, 5\)"]),
    "too narrow": (X[:, :4], tw.ShapeError, [r"layer 0", r"20, 4", r"20, 5"]),
    "too wide": (np.ones((20, 6)), tw.ShapeError, [r"layer 0", r"20, 6", r"20, 5"]),
    "no columns": (X[:, :0], tw.ShapeError, [r"layer 0", r"20, 0", r"20, 5"]),
    "no rows": (X[:0], tw.DataError, ["no rows"]),
    "an empty list": ([], tw.ShapeError, [r"x must be 2-D", r"\(0,\)"]),
    "None": (None, tw.DtypeError, [r"x is None"]),
    "None in an array": (np.array(None), tw.DtypeError, [r"x is None; an array is needed"]),
    "an object": (object(), tw.DtypeError, [r"x is an object; an array of numbers is needed"]),
    "a missing value of pandas": (
        np.where(x_with(9) == 9, NAType(), X.astype(object)),
        tw.DtypeError,
        [r"dtype object", r"x\[7, 2\] is <NA>, a missing value: fill it"],
    ),
    "NaN among objects": (x_with(NAN).astype(object), tw.DataError, [r"x\[7, 2\] is NaN"]),
    "NaN in a named column": (
        Frame(x_with([NAN, np.inf], ([7, 9], [2, 2]))),
        tw.DataError,
        [r"x\[7, 2\] \(column 'c'\) is NaN; 2 of its 20 rows are NaN or infinite: fill them"],
    ),
    "text in a named column": (
        Frame(np.where(x_with(9) == 9, "Rome", X.astype(object))),
        tw.DtypeError,
        [r"x\[7, 2\] \(column 'c'\) is 'Rome': encode text"],
    ),
    "complex objects": (
        np.where(x_with(9) == 9, 1j, X.astype(object)),
        tw.DtypeError,
        [r"x\[7, 2\] is 1j, of type complex"],
    ),
    "an integer beyond all floats": (
        np.where(x_with(9) == 9, 10**400, X.astype(object)),
        tw.DataError,
        ["x holds a number that is too large for float64"],
    ),
    "an object that cannot be converted": (
        np.where(x_with(9) == 9, decimal.Decimal("sNaN"), X.astype(object)),
        tw.DataError,
        ["x cannot be converted to float64: cannot convert signaling NaN"],
    ),
    "a missing object": (
        np.where(x_with(9) == 9, None, X),
        tw.DtypeError,
        [r"x\[7, 2\] is None, a missing value"],
    ),
    "an object of text": (
        np.where(x_with(9) == 9, "blue", X.astype(object)),
        tw.DtypeError,
        [r"x\[7, 2\] is 'blue'", "TabularInput"],
    ),
    "an object of another kind": (
        np.where(x_with(9) == 9, {1}, X.astype(object)),
        tw.DtypeError,
        [r"x\[7, 2\] is \{1\}, of type set"],
    ),
    "three axes with features last": (
        np.ones((2, 10, 5)),
        tw.ShapeError,
        [r"x\.reshape\(-1, 5\)", r"nn\.Flatten\(\)"],
    ),
    "a list of numbers": ([1.0] * 5, tw.ShapeError, [r"np\.array\(x\)\.reshape\(1, -1\)"]),
    "text": (X.astype(str), tw.DtypeError, [r"x has dtype <U", r"real numbers"]),
    "a string": ("digits.csv", tw.DtypeError, [r"x has dtype <U"]),
    "complex": (X + 1j, tw.DtypeError, [r"complex", r"x\.real"]),
    "dates": (
        X.astype("datetime64[s]"),
        tw.DtypeError,
        [
            r"x has dtype datetime64",
            r'pass \(x - np\.datetime64\("2020-01-01"\)\) / np\.timedelta64\(1, "s"\)',
        ],
    ),
    "dates beside numbers": (
        FrameOfTypes(X, Temporal("Date")),
        tw.DtypeError,
        [
            r"x has a column 'd' of type Date, which is not a number",
            r"x\['d'\]\.dt\.epoch\(\"s\"\)$",
        ],
    ),
    "durations beside numbers": (
        FrameOfTypes(X, Temporal("Duration(time_unit='us')")),
        tw.DtypeError,
        [r"x has a column 'd' of type Duration", r"such as x\['d'\]\.dt\.total_seconds\(\)$"],
    ),
    "times of day beside numbers": (
        FrameOfTypes(X, Temporal("Time")),
        tw.DtypeError,
        [r"x has a column 'd' of type Time", r"such as x\['d'\]\.to_physical\(\) / 1e9$"],
    ),
    "a named column of dates": (
        FrameOfTypes(
            np.where(np.arange(5) == 3, np.datetime64("2020-01-01"), X.astype(object)),
            np.dtype("datetime64[ns]"),
        ),
        tw.DtypeError,
        [r"column 'd' of type datetime64\[ns\]", r"such as \(x\['d'\] - np\.datetime64"],
    ),
    "a named column of dates with a time zone": (
        FrameOfTypes(X, Zoned(in_arrow=False)),
        tw.DtypeError,
        [r"such as \(x\['d'\] - pd\.Timestamp\(\"2020-01-01\", tz=\"UTC\"\)\) / np\.timedelta64"],
    ),
    "a named column of dates of Arrow with a time zone": (
        FrameOfTypes(X, Zoned(in_arrow=True)),
        tw.DtypeError,
        [r"such as \(x\['d'\] - pd\.Timestamp\(\"2020-01-01\", tz=\"UTC\"\)\) / np\.timedelta64"],
    ),
    "durations": (
        X.astype("timedelta64[h]"),
        tw.DtypeError,
        [r'pass x / np\.timedelta64\(1, "s"\)'],
    ),
    "records": (np.zeros((20, 5), "f4,f4"), tw.DtypeError, [r"pass .*to_unstructured\(x\)"]),
    "ragged": ([[1, 2], [3]], tw.ShapeError, [r"x cannot be made an array", r"inhomogeneous"]),
    "a mapping": ({"a": 1}, tw.DtypeError, [r"x is a dict"]),
    "masked": (
        np.ma.masked_equal(x_with(9), 9),
        tw.DataError,
        [r"x has 1 masked entry; fill it first, e\.g\. with x\.filled\(0\)"],
    ),
    "many masked": (np.ma.masked_equal(x_with(9, [1, 2]), 9), tw.DataError, ["10 masked entries"]),
    "NaN": (x_with(NAN), tw.DataError, [r"x\[7, 2\] is NaN"]),
    "infinity": (x_with(INF), tw.DataError, [r"x\[7, 2\] is inf"]),
    "minus infinity": (x_with(-INF), tw.DataError, [r"x\[7, 2\] is -inf"]),
    "NaN in the last place": (x_with(NAN, (19, 4)), tw.DataError, [r"x\[19, 4\]"]),
    "NaN in float64": (x_with(NAN).astype(float), tw.DataError, [r"x\[7, 2\]"]),
    "NaN in Fortran order": (np.asfortranarray(x_with(NAN)), tw.DataError, [r"x\[7, 2\]"]),
    "too large for float32": (
        np.where(x_with(9) == 9, 1e39, 1.0),
        tw.DataError,
        [r"x\[7, 2\] = 1e\+?39", r"float32", r"3\.40282\d*e\+?38"],
    ),
}

# (y for class labels, class of the error, what the message says)
BAD_LABELS = {
    "negative": (y_with(-1), tw.DataError, [r"y\[11\] is -1", "3 outputs", "0 to 2"]),
    "too large": (y_with(3), tw.DataError, [r"y\[11\] is 3", r"0 to 2"]),
    "far too large": (y_with(2**62), tw.DataError, [r"y\[11\]", str(2**62)]),
    "beyond int64": (
        np.where(np.arange(20) == 4, np.uint64(2**64 - 1), np.uint64(0)),
        tw.DataError,
        [r"y\[4\] = 18446744073709551615"],
    ),
    "floats": (Y.astype(float), tw.DtypeError, [r"y has dtype float64", r"astype\(\"int64\"\)"]),
    "a column": (Y[:, None], tw.ShapeError, [r"\(20, 1\)", r"y\.ravel\(\)"]),
    "too few shares": (np.eye(3)[Y][:, :2], tw.ShapeError, ["2 columns", "3 outputs"]),
    "a negative share": (np.eye(3)[Y] - 0.5, tw.DataError, [r"y\[0, 1\] is -0\.5", ">= 0"]),
    "three axes": (np.eye(3)[Y][None], tw.ShapeError, [r"\(1, 20, 3\)", r"1-D"]),
    "a number": (1, tw.ShapeError, [r"1-D", r"\(\)"]),
    "too short": (Y[:19], tw.ShapeError, [r"20 rows", r"y has 19"]),
    "too long": (np.append(Y, 0), tw.ShapeError, [r"20 rows", r"y has 21"]),
    "none": (Y[:0], tw.ShapeError, ["20 rows", "y has 0"]),
    "text": (Y.astype(str), tw.DtypeError, [r"y has dtype <U", r"np\.unique\(y, return_inverse"]),
    "objects of text": (
        Y.astype(str).astype(object),
        tw.DtypeError,
        [r"y\[0\] is '0'", r"np\.unique\(y, return_inverse"],
    ),
    "floats among objects": (
        np.where(Y == 2, 2.0, Y.astype(object)),
        tw.DtypeError,
        [r"y has dtype float64", r"astype\(\"int64\"\)"],
    ),
    "a missing label of pandas": (
        np.where(Y == 1, NAType(), Y.astype(object)),
        tw.DtypeError,
        [r"y\[1\] is <NA>, a missing value"],
    ),
    "missing ones": (
        np.where(Y == 1, NAN, Y),
        tw.DtypeError,
        [r"y\[1\] is NaN, a missing label", "integers"],
    ),
    "an empty list": ([], tw.ShapeError, ["20 rows", "y has 0"]),
    "None": (None, tw.DtypeError, [r"y is None"]),
}

# (y for MSELoss, class of the error, what the message says)
BAD_TARGETS = {
    "too narrow": (T[:, :1], tw.ShapeError, [r"1 column but", r"2 outputs"]),
    "too wide": (np.ones((20, 3)), tw.ShapeError, [r"3 columns", r"2 outputs"]),
    "a vector": (
        T[:, 0],
        tw.ShapeError,
        [r"y must have shape .*; got shape \(20,\)", r"\(rows, 2\)"],
    ),
    "a number": (1.0, tw.ShapeError, [r"y must have shape .*; got shape \(\)", r"\(rows, 2\)"]),
    "too short": (T[:19], tw.ShapeError, [r"20 rows", r"y has 19"]),
    "NaN": (np.where(np.arange(40).reshape(20, 2) == 7, NAN, T), tw.DataError, [r"y\[3, 1\]"]),
    "infinity": (np.where(np.arange(40).reshape(20, 2) == 7, INF, T), tw.DataError, [r"y\[3, 1\]"]),
    "complex": (T * 1j, tw.DtypeError, [r"y has dtype complex"]),
    "none": (T[:0], tw.ShapeError, ["20 rows", "y has 0"]),
}


class Unchanged:
    """A trainer at work, and a promise: what happens inside changes no bit of it."""

    def __init__(self, loss):
        labels = isinstance(loss, nn.CrossEntropyLoss)
        layers = nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 3 if labels else 2)
        self.model = nn.Sequential(*layers, seed=1)
        self.trainer = tw.Trainer(
            self.model,
            loss=loss,
            optimizer=optim.Adam(lr=0.01),
            schedule=optim.schedules.ReduceLROnPlateau(monitor="loss", patience=0),
        )
        self.trainer.fit(X, Y if labels else T, epochs=2)
        self.model.forward(X[:2])
        self.model.backward(np.ones((2, self.model.out_features)))

    def state(self):
        optimizer = self.trainer.optimizer.state_dict()
        arrays = optimizer.pop("arrays")
        return (
            self.model.flat_parameters.tobytes(),
            self.model.flat_gradients.tobytes(),
            {name: array.tobytes() for name, array in arrays.items()},
            optimizer,
            # What decides how training goes on: masks of dropout, orders of rows, learning rates.
            self.model._core.passes(),
            self.trainer._epochs,
            dict(self.trainer._plateau),
        )

    def __enter__(self):
        self.before = self.state()
        return self

    def __exit__(self, kind, error, trace):
        assert self.state() == self.before, "an error changed the model or the optimizer"


@pytest.fixture
def classifier():
    with Unchanged(nn.CrossEntropyLoss()) as unchanged:
        yield unchanged.trainer


@pytest.fixture
def regressor():
    with Unchanged(nn.MSELoss()) as unchanged:
        yield unchanged.trainer


def expect(kind, patterns, call, *arguments, **options):
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert isinstance(caught.value, tw.ThalwegError)
    for pattern in patterns:
        assert caught.match(pattern)


@pytest.mark.parametrize("case", BAD_X)
@pytest.mark.parametrize("method", ["step", "fit", "evaluate"])
def test_bad_x_of_training(classifier, method, case):
    x, kind, patterns = BAD_X[case]
    expect(kind, patterns, getattr(classifier, method), x, Y)


@pytest.mark.parametrize("case", BAD_X)
@pytest.mark.parametrize("method", ["__call__", "forward"])
def test_bad_x_of_the_model(classifier, method, case):
    x, kind, patterns = BAD_X[case]
    if (method, case) == ("__call__", "no rows"):
        assert classifier.model(x).shape == (0, 3)  # as in NumPy
        return
    expect(kind, patterns, getattr(classifier.model, method), x)


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize("method", ["step", "fit", "evaluate"])
def test_bad_labels(classifier, method, case):
    y, kind, patterns = BAD_LABELS[case]
    expect(kind, patterns, getattr(classifier, method), X, y)


@pytest.mark.parametrize("case", BAD_TARGETS)
@pytest.mark.parametrize("method", ["step", "fit", "evaluate"])
def test_bad_targets(regressor, method, case):
    y, kind, patterns = BAD_TARGETS[case]
    expect(kind, patterns, getattr(regressor, method), X, y)


DAY = datetime.datetime(2024, 5, 6)
SERIES_OF_TIMES = {
    "in a zone": (DAY, Zoned(in_arrow=False), r'\(y - pd\.Timestamp\("2020-01-01", tz="UTC"\)\) /'),
    "of Arrow": (DAY.date(), np.dtype("M8[D]"), r'\(y - np\.datetime64\("2020-01-01"\)\) /'),
    "of Polars": (DAY.time(), Temporal("Time"), r"y\.to_physical\(\) / 1e9$"),
}


@pytest.mark.parametrize("case", SERIES_OF_TIMES)
def test_times_that_become_objects_are_told_how_to_be_converted(regressor, case):
    """As those are that NumPy has no type for."""
    item, dtype, advice = SERIES_OF_TIMES[case]
    y = Series([item] * 20, dtype)
    expect(tw.DtypeError, [f"y has dtype {re.escape(str(dtype))}, .*; pass {advice}"],
           regressor.step, X, y)  # fmt: skip


def test_each_type_of_a_frame_is_looked_at_once(classifier):
    """A frame of 300 columns cost more than the model."""
    frame = FrameOfTypes(X, Temporal("Float64"))
    classifier.model(frame)
    assert [dtype.looks for dtype in frame.dtypes] == [1] * 5  # two types, the one of four columns


def test_only_frames_have_columns(classifier):
    """A Series of pandas has what its index names, and a matrix may have a number of columns."""
    y = Series(Y, Y.dtype, columns=3, dtypes=3)
    assert classifier.evaluate(X, y) == classifier.evaluate(X, Y)
    assert classifier.evaluate([(X, y), (X, y)]) == classifier.evaluate([(X, Y), (X, Y)])
    matrix = Frame(X.tolist())
    matrix.columns = 5
    np.testing.assert_array_equal(classifier.model(matrix), classifier.model(X))
    matrix.array[7][2] = NAN
    expect(tw.DataError, [r"x\[7, 2\] is NaN"], classifier.model, matrix)


@pytest.mark.parametrize("kind", ["bfloat16", "int4"])
def test_numbers_of_other_packages_are_told_how_to_be_converted(classifier, kind):
    """As JAX makes them: arrays whose dtypes NumPy itself does not have."""
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), kind))
    x, y = X.astype(kind), Y.astype(kind)
    told = rf"dtype {kind}.* pass x\.astype\(\"float32\"\)"
    expect(tw.DtypeError, [told], classifier.model, x)
    assert classifier.model(x.astype("float32")).shape == (20, 3)
    expect(tw.DtypeError, [r"pass y\.astype\(\"int64\"\)"], classifier.evaluate, X, y)


@pytest.mark.parametrize("case", BAD_X)
def test_bad_validation_data_is_found_before_training(classifier, case):
    x, kind, patterns = BAD_X[case]
    expect(kind, ["validation", patterns[0]], classifier.fit, X, Y, validation_data=(x, Y))


def test_bad_validation_labels_are_found_before_training(classifier):
    fit = classifier.fit
    expect(
        tw.DataError, ["validation", r"\[11\] is -1"], fit, X, Y, validation_data=(X, y_with(-1))
    )
    expect(tw.ShapeError, ["validation", "20", "19"], fit, X, Y, validation_data=(X, Y[:19]))


@pytest.mark.parametrize("data", [X, (X,), (X, Y, Y, Y), "xyzw", {"x": X, "y": Y}], ids=type)
def test_validation_data_that_is_no_pair(classifier, data):
    expect(
        tw.ArgumentError, ["validation_data", "tuple"], classifier.fit, X, Y, validation_data=data
    )


def test_bad_data_late_in_the_set_is_found_before_the_first_step(classifier):
    """Not in its own batch, after the model has moved: before anything happens."""
    expect(tw.DataError, [r"x\[19, 4\]"], classifier.fit, x_with(NAN, (19, 4)), Y, batch_size=1)
    expect(tw.DataError, [r"y\[19\]"], classifier.fit, X, y_with(3, 19), batch_size=1)


BAD_OPTIONS = {
    "negative epochs": ({"epochs": -3}, ["epochs", "-3"]),
    "too many epochs": ({"epochs": 2**70}, ["epochs", str(2**70), "more than"]),
    "too large a batch": ({"batch_size": 2**63}, ["batch_size", str(2**63), "more than"]),
    "half epochs": ({"epochs": 1.5}, ["epochs", "integer", r"1\.5"]),
    "true epochs": ({"epochs": True}, ["epochs", "integer", "True"]),
    "text for epochs": ({"epochs": "10"}, ["epochs", "integer", "'10'"]),
    "no batch": ({"batch_size": 0}, ["batch_size", ">= 1", "0"]),
    "a negative batch": ({"batch_size": -1}, ["batch_size", "-1"]),
    "shuffle": ({"shuffle": "yes"}, ["shuffle", "True or False", "yes"]),
    "progress": ({"progress": 1}, ["progress", "True or False", "1"]),
    "callbacks": ({"callbacks": 3}, ["callbacks", "sequence", "3"]),
    "a function": ({"callbacks": [print]}, ["on_epoch_end", "print"]),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_of_fit(classifier, case):
    options, patterns = BAD_OPTIONS[case]
    expect(tw.ArgumentError, patterns, classifier.fit, X, Y, **options)


def test_a_single_callback_is_not_a_sequence_of_them(classifier):
    class Callback:
        def on_epoch_end(self, trainer, record): ...

    expect(tw.ArgumentError, [r"\[\.\.\.\]"], classifier.fit, X, Y, callbacks=Callback())
    expect(tw.ArgumentError, ["on_epoch_end"], classifier.fit, X, Y, callbacks=[Callback])


BAD_OPTIMIZERS = {
    "negative lr": (lambda: optim.SGD(lr=-0.1), ["lr", ">= 0", r"-0\.1"]),
    "NaN lr": (lambda: optim.Adam(lr=NAN), ["lr", "finite", "nan"]),
    "infinite lr": (lambda: optim.Adam(lr=INF), ["lr", "finite", "inf"]),
    "text lr": (lambda: optim.Adam(lr="1e-3"), ["lr", "1e-3"]),
    "no lr": (lambda: optim.SGD(lr=None), ["lr", "None"]),
    "momentum": (lambda: optim.SGD(lr=1, momentum=-0.9), ["momentum", r"-0\.9"]),
    "dampening": (lambda: optim.SGD(lr=1, dampening=NAN), ["dampening", "nan"]),
    "nesterov alone": (lambda: optim.SGD(lr=1, nesterov=True), ["nesterov", "momentum > 0"]),
    "nesterov damped": (
        lambda: optim.SGD(lr=1, momentum=0.9, dampening=0.1, nesterov=True),
        ["nesterov", "dampening = 0"],
    ),
    "nesterov of text": (lambda: optim.SGD(lr=1, momentum=0.9, nesterov="no"), ["nesterov", "no"]),
    "weight decay": (lambda: optim.AdamW(weight_decay=-1), ["weight_decay", "-1"]),
    "beta1 of one": (lambda: optim.Adam(betas=(1, 0.9)), [r"betas\[0\]", r"\[0, 1\)", "1"]),
    "beta2 of one": (lambda: optim.Adam(betas=(0.9, 1.0)), [r"betas\[1\]", r"\[0, 1\)", r"1\.0"]),
    "negative beta": (lambda: optim.Adam(betas=(-0.1, 0.9)), [r"betas\[0\]", r"-0\.1"]),
    "one beta": (lambda: optim.Adam(betas=0.9), ["betas", "two numbers", r"0\.9"]),
    "betas without an order": (lambda: optim.Adam(betas={0.9, 0.99}), ["betas must be a sequence"]),
    "three betas": (lambda: optim.Adam(betas=(0.9, 0.9, 0.9)), ["betas", "two numbers"]),
    "eps": (lambda: optim.AdamW(eps=-1e-8), ["eps", "-1e-08"]),
}


@pytest.mark.parametrize("case", BAD_OPTIMIZERS)
def test_bad_options_of_optimizers(case):
    make, patterns = BAD_OPTIMIZERS[case]
    expect(tw.ArgumentError, patterns, make)


def test_a_bad_learning_rate_later_on(classifier):
    for value in (-1, NAN, INF, "fast"):
        with pytest.raises(tw.ArgumentError, match="lr"):
            classifier.optimizer.lr = value


BAD_MODELS = {
    "no layers": (lambda: nn.Sequential(), tw.ArgumentError, ["at least one Linear"]),
    "no Linear": (lambda: nn.Sequential(nn.ReLU()), tw.ArgumentError, ["at least one Linear"]),
    "a list": (lambda: nn.Sequential([nn.ReLU()]), tw.ArgumentError, ["layer 0", "unpack"]),
    "a class": (lambda: nn.Sequential(nn.ReLU), tw.ArgumentError, ["layer 0", r"ReLU\(\.\.\.\)"]),
    "a function": (
        lambda: nn.Sequential(nn.Linear(1, 1), np.tanh),
        tw.ArgumentError,
        ["layer 1", "tanh"],
    ),
    "a misfit": (
        lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(64, 10)),
        tw.ShapeError,
        ["layer 2", "Linear", "32", "64"],
    ),
    "dtype": (
        lambda: nn.Sequential(nn.Linear(1, 1), dtype="float16"),
        tw.ArgumentError,
        ["dtype", "float32", "float64", "float16"],
    ),
    "misspelt dtype": (
        lambda: nn.Sequential(nn.Linear(1, 1), dtype="flaot64"),
        tw.ArgumentError,
        ['did you mean "float64"'],
    ),
    "no dtype": (lambda: nn.Sequential(nn.Linear(1, 1), dtype=3), tw.ArgumentError, ["dtype", "3"]),
    "seed": (lambda: nn.Sequential(nn.Linear(1, 1), seed=-1), tw.ArgumentError, ["seed", "-1"]),
    "large seed": (lambda: nn.Sequential(nn.Linear(1, 1), seed=2**64), tw.ArgumentError, ["seed"]),
    "no inputs": (lambda: nn.Linear(0, 3), tw.ArgumentError, ["in_features", ">= 1", "0"]),
    "too many inputs": (
        lambda: nn.Linear(2**70, 1),
        tw.ArgumentError,
        ["in_features", "more than"],
    ),
    "no outputs": (lambda: nn.Linear(3, 0), tw.ArgumentError, ["out_features", ">= 1", "0"]),
    "a float width": (lambda: nn.Linear(3.0, 1), tw.ArgumentError, ["in_features", r"3\.0"]),
    "bias": (lambda: nn.Linear(3, 1, "yes"), tw.ArgumentError, ["bias", "yes"]),
    "misspelt init": (
        lambda: nn.Linear(3, 1, init="kaiming_unifrom"),
        tw.ArgumentError,
        ["init", 'did you mean "kaiming_uniform"'],
    ),
    "slope": (lambda: nn.LeakyReLU(NAN), tw.ArgumentError, ["negative_slope", "nan"]),
    "alpha": (lambda: nn.ELU(alpha=-1), tw.ArgumentError, ["ELU: alpha", "-1"]),
    "zero alpha": (lambda: nn.CELU(alpha=0), tw.ArgumentError, ["CELU: alpha", "> 0", "0"]),
    "beta": (lambda: nn.Softplus(beta=0), tw.ArgumentError, ["Softplus: beta", "> 0", "0"]),
    "omega": (lambda: nn.Sine(INF), tw.ArgumentError, ["Sine: omega", "inf"]),
    "a clamp upside down": (
        lambda: nn.Hardtanh(2, 1),
        tw.ArgumentError,
        ["Hardtanh: max_val", "> 2", "1"],
    ),
    "approximate": (
        lambda: nn.GELU("tahn"),
        tw.ArgumentError,
        ["GELU: approximate", 'did you mean "tanh"'],
    ),
    "probability": (lambda: nn.Dropout(1.5), tw.ArgumentError, ["Dropout: p", r"1\.5"]),
    "two widths": (
        lambda: nn.LayerNorm((3, 4)),
        tw.ArgumentError,
        ["normalized_shape", r"\(3, 4\)"],
    ),
    "no width": (lambda: nn.RMSNorm(0), tw.ArgumentError, ["normalized_shape", "0"]),
    "a misfit of a normalization": (
        lambda: nn.Sequential(nn.Linear(4, 32), nn.LayerNorm(33)),
        tw.ShapeError,
        ["layer 1", "LayerNorm", "32", "33"],
    ),
    "no epsilon": (lambda: nn.LayerNorm(3, eps=0), tw.ArgumentError, ["LayerNorm: eps", "0"]),
    "negative slope": (lambda: nn.LeakyReLU(-1), tw.ArgumentError, ["negative_slope", "-1"]),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(case):
    make, kind, patterns = BAD_MODELS[case]
    expect(kind, patterns, make)


@pytest.mark.parametrize("width", [2**40, 2**24], ids=["beyond usize", "2 PiB"])
def test_a_model_too_large_for_any_memory(width):
    """An error, and neither a panic nor the death of the process; hence in one of its own."""
    script = f"""
import thalweg as tw
try:
    tw.nn.Sequential(tw.nn.Linear({width}, {width}))
except (tw.ThalwegError, MemoryError) as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(width) in done.stdout or "memory" in done.stdout


def test_parts_of_a_trainer_that_are_something_else(classifier):
    model, loss = classifier.model, classifier.loss

    def make(**parts):
        whole = {"model": model, "loss": loss, "optimizer": optim.Adam(), **parts}
        tw.Trainer(whole.pop("model"), **whole)

    expect(tw.ArgumentError, ["loss", "CrossEntropyLoss", "'mse'"], make, loss="mse")
    expect(tw.ArgumentError, ["loss", "the class MSELoss"], make, loss=nn.MSELoss)
    expect(tw.ArgumentError, ["optimizer", "AdamW", "'adam'"], make, optimizer="adam")
    expect(tw.ArgumentError, ["optimizer", "the class Adam"], make, optimizer=optim.Adam)
    expect(tw.ArgumentError, ["model", "Sequential", "None"], make, model=None)


@pytest.mark.parametrize(
    ("write", "meant"),
    [
        (lambda t: nn.Sequential(nn.Linear(5, 3), "relu"), "did you mean nn.ReLU("),
        (lambda t: nn.Sequential(nn.Linear(5, 3), "batch_norm"), "did you mean nn.BatchNorm1d("),
        (lambda t: t(optimizer="adam"), "did you mean optim.Adam("),
        (lambda t: t(optimizer="sgdd"), "did you mean optim.SGD("),
        (lambda t: t(optimizer=optim.LBFGS), "pass an instance: optim.LBFGS("),
        (lambda t: t(schedule="cosine"), "did you mean schedules.CosineAnnealingLR("),
        (lambda t: t(schedule="one_cycle"), "did you mean schedules.OneCycleLR("),
        (lambda t: t().fit(X, T, lr="atuo"), 'lr, if it is not a number, .*did you mean "auto"'),
        (lambda t: t().fit(X, T)["los"], 'there are loss, seconds; did you mean "loss"'),
        (
            lambda t: t().fit(X, T, callbacks=[tw.callbacks.EarlyStopping("val_los")]),
            'did you mean "val_loss"',
        ),
        (lambda t: nn.Linear(5, 3, init="kaimin_normal"), 'did you mean "kaiming_normal"'),
        (lambda t: nn.MSELoss(reduction="men"), 'did you mean "mean"'),
        (lambda t: optim.SGD(convention="tourch"), 'did you mean "torch"'),
    ],
)
def test_a_name_that_is_none_is_told_the_nearest(write, meant):
    def trainer(**options):
        model = nn.Sequential(nn.Linear(5, 2))
        return tw.Trainer(model, loss=nn.MSELoss(), **{"optimizer": optim.SGD()} | options)

    with pytest.raises((tw.ArgumentError, KeyError)) as caught:
        write(trainer)
    assert caught.match(meant.replace("(", r"\("))


def test_an_optimizer_that_came_apart_from_its_model_is_told_how_to_keep_its_averages():
    model = nn.Sequential(nn.Linear(5, 3))
    optimizer = optim.Adam(lr=0.01)
    tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer).step(X, np.ones((len(X), 3)))
    other, apart = pickle.loads(pickle.dumps(model)), pickle.loads(pickle.dumps(optimizer))
    with pytest.raises(
        tw.ArgumentError,
        match=r"optim\.Adam\(\.\.\.\)\.load_state_dict\(optimizer\.state_dict\(\), model\).*"
        r"pickle\.dumps\(\(model, optimizer\)\)$",
    ):
        tw.Trainer(other, loss=nn.MSELoss(), optimizer=apart)
    # And both ways do.
    again = optim.Adam(lr=0.01)
    again.load_state_dict(apart.state_dict(), other)
    both = pickle.loads(pickle.dumps((model, optimizer)))
    ends = []
    for of, by in ((model, optimizer), (other, again), both):
        tw.Trainer(of, loss=nn.MSELoss(), optimizer=by).step(X, np.ones((len(X), 3)))
        ends.append(of.flat_parameters)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])


def test_an_optimizer_belongs_to_one_model(classifier):
    other = nn.Sequential(nn.Linear(5, 3))
    expect(tw.ThalwegError, ["another model"], classifier.optimizer.step, other)
    with pytest.raises(
        tw.ArgumentError, match=r"Adam belongs .* with 39 .* has 18: make a new optimizer for it$"
    ):
        tw.Trainer(other, loss=nn.CrossEntropyLoss(), optimizer=classifier.optimizer)


@pytest.mark.filterwarnings("ignore:a step of LBFGS changed no parameter")
@pytest.mark.parametrize("make", [optim.Adam, lambda: optim.SAM(optim.SGD()), optim.LBFGS])
@pytest.mark.parametrize("taken", ["by a trainer", "after steps", "by a state"])
def test_a_trainer_refuses_the_optimizer_of_another_model(make, taken):
    """Not its first step does, after who knows how much preparation."""
    mine, other = (nn.Sequential(nn.Linear(5, k)) for k in (3, 4))
    optimizer = make()

    def trainer(model, optimizer):
        return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)

    first = trainer(mine, optimizer)
    if taken != "by a trainer":
        first.fit(X, np.ones((len(X), 3)), batch_size=None)
    if taken == "by a state":
        restored = make()
        restored.load_state_dict(optimizer.state_dict(), mine)
        optimizer = restored
    state = repr(optimizer.state_dict())
    for model in (other, nn.Sequential(nn.Linear(5, 3))):  # of the same shape, too
        with pytest.raises(tw.ArgumentError, match="another model"):
            trainer(model, optimizer)
    assert repr(optimizer.state_dict()) == state
    trainer(mine, optimizer).fit(X, np.ones((len(X), 3)), batch_size=None)


def test_an_optimizer_is_still_free_after_a_trainer_that_could_not_be_made():
    optimizer = optim.Adam()
    with pytest.raises(tw.ShapeError, match="heads"):
        tw.Trainer(
            nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3)),
            loss=nn.CrossEntropyLoss(heads=(2, 2)),
            optimizer=optimizer.add_group("0.weight", frozen=True),
        )
    model = nn.Sequential(nn.Linear(5, 3))  # whose names are others in the core
    kept = model.state_dict()
    tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer).step(X, Y)
    np.testing.assert_array_equal(model.state_dict()["0.weight"], kept["0.weight"])
    assert (model.state_dict()["0.bias"] != kept["0.bias"]).all()


def test_a_state_that_does_not_fit_another_model_leaves_the_optimizer_with_its_own():
    optimizer = optim.Adam().add_group("0.weight", lr_scale=0.5)
    model = nn.Sequential(nn.Linear(5, 3))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer)
    trainer.step(X, Y)
    state = repr(optimizer.state_dict())
    other = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3))
    expect(tw.ShapeError, ["exp_avg"], optimizer.load_state_dict, optimizer.state_dict(), other)
    assert repr(optimizer.state_dict()) == state
    trainer.step(X, Y)
    assert optimizer.steps == 2


BAD_STATES = {
    "missing": (lambda s: s.pop("3.bias"), tw.ArgumentError, [r"missing \['3.bias'\]"]),
    "unexpected": (lambda s: s.update(x=1), tw.ArgumentError, [r"unexpected \['x'\]"]),
    "transposed": (
        lambda s: s.update({"0.weight": s["0.weight"].T}),
        tw.ShapeError,
        ["0.weight", r"\(5, 4\)", r"\(4, 5\)"],
    ),
    "NaN": (
        lambda s: s["3.weight"].__setitem__((1, 2), NAN),
        tw.DataError,
        [r"3.weight\[1, 2\] is nan"],
    ),
    "text": (lambda s: s.update({"0.bias": list("abcd")}), tw.DtypeError, ["0.bias", "<U1"]),
    "too large": (
        lambda s: s.update({"0.bias": [0, 1e39, 0, 0]}),
        tw.DataError,
        [r"0.bias\[1\] = 1e\+?39"],
    ),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_bad_state_dicts(classifier, case):
    spoil, kind, patterns = BAD_STATES[case]
    state = classifier.model.state_dict()
    spoil(state)
    expect(kind, patterns, classifier.model.load_state_dict, state)


@pytest.mark.parametrize("name", ["flat_parameters", "flat_gradients"])
def test_bad_flat_arrays(classifier, name):
    model = classifier.model
    good = getattr(model, name)
    for bad, kind in [
        (good[:-1], tw.ShapeError),
        (good[:, None], tw.ShapeError),
        (1.0, tw.ShapeError),
        (np.where(np.arange(good.size) == 3, NAN, good), tw.DataError),
        (good.astype(complex), tw.DtypeError),
    ]:
        expect(kind, [name], setattr, model, name, bad)


def test_bad_optimizer_states(classifier):
    optimizer, model = classifier.optimizer, classifier.model
    state = optimizer.state_dict()
    size = model.num_parameters
    for change, kind, pattern in [
        ({"steps": -1}, tw.ArgumentError, "steps"),
        ({"options": {**state["options"], "beta1": 1.5}}, tw.ArgumentError, "betas"),
        ({"options": {**state["options"], "convention": "optax"}}, tw.ArgumentError, "convention"),
        ({"options": {**state["options"], "rho": 0.5}}, tw.ArgumentError, "rho"),
        ({"options": {**state["options"], "lr": -1}}, tw.ArgumentError, "lr"),
        ({"arrays": {**state["arrays"], "exp_avg": np.zeros(size - 1)}}, tw.ShapeError, "exp_avg"),
        ({"arrays": {**state["arrays"], "exp_avg": np.full(size, NAN)}}, tw.DataError, "exp_avg"),
        ({"arrays": {"exp_avg": np.zeros(size)}}, tw.ThalwegError, "exp_avg_sq"),
        ({"arrays": {**state["arrays"], "speed": np.zeros(size)}}, tw.ThalwegError, "speed"),
        (
            {"arrays": {"exp_avg": np.zeros(size), "speed": np.zeros(size)}},
            tw.ThalwegError,
            "exp_avg_sq",
        ),
    ]:
        expect(kind, [pattern], optimizer.load_state_dict, {**state, **change}, model)
    expect(tw.ArgumentError, ["lacks"], optimizer.load_state_dict, {"steps": 3}, model)


@pytest.mark.parametrize(
    ("make", "option", "name"),
    [
        (optim.Adam, "convention", "convention"),
        (optim.Adam, "beta1", r"betas\[0\]"),
        (optim.AdamW, "decoupled_weight_decay", "decoupled_weight_decay"),
        (optim.ScheduleFreeAdamW, "beta1", r"betas\[0\]"),
        (lambda: optim.Muon(matrices="all"), "matrices", "matrices"),
        (lambda: optim.SAM(optim.SGD()), "sam_rho", "rho"),
        (lambda: optim.SAM(optim.SGD()), "sam_adaptive", "adaptive"),
        (optim.LBFGS, "max_iter", "max_iter"),
    ],
)
def test_arrays_as_options_of_a_state(make, option, name):
    """Also under those that can only be read, which are compared."""
    optimizer, model = make(), nn.Sequential(nn.Linear(2, 2))
    state = optimizer.state_dict()
    state["options"][option] = np.ones(2)
    before = repr(optimizer)
    expect(tw.ArgumentError, [name, r"array\("], optimizer.load_state_dict, state, model)
    assert repr(optimizer) == before


def test_arrays_in_groups_of_a_state():
    optimizer, model = optim.SGD().add_group("*.bias", lr_scale=0.5), nn.Sequential(nn.Linear(2, 2))
    groups = optimizer.state_dict()["groups"]
    for wrong in ([np.ones(2)], [groups[0] | {"lr_scale": np.ones(2)}], [groups[0], groups[0]], []):
        state = optimizer.state_dict() | {"groups": wrong}
        expect(tw.ArgumentError, ["groups", "add_group"], optimizer.load_state_dict, state, model)


@pytest.mark.parametrize("run", ["step", "fit"])
def test_divergence_is_an_error_and_not_a_silent_nan(run):
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 2))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e6))

    def train():
        if run == "fit":
            trainer.fit(X, T, epochs=200)
        for _ in range(200):
            trainer.step(X, T)

    before = model.flat_parameters
    expect(tw.DivergedError, ["lr=1000000"], train)
    assert np.isfinite(model.flat_parameters).all()
    if run == "fit":  # all of it is undone
        np.testing.assert_array_equal(model.flat_parameters, before)
        assert trainer.optimizer.state_dict()["steps"] == 0


@pytest.mark.parametrize("optimizer", [optim.SGD(lr=1e10), optim.Adam()], ids=repr)
def test_a_step_by_hand_that_overflows_is_an_error(optimizer):
    """The gradient is finite, but its product with the learning rate, or its square, is not."""
    model = nn.Sequential(nn.Linear(5, 2))
    model.flat_gradients = np.full(12, 3e38)
    before = model.flat_parameters
    expect(tw.DivergedError, ["lr="], optimizer.step, model)
    np.testing.assert_array_equal(model.flat_parameters, before)
    assert optimizer.state_dict()["steps"] == 0


def test_averages_of_an_optimizer_that_overflow_are_an_error_and_nothing_is_lost(rng):
    """Gradients of 1e20 are finite, and their squares are not: training would stand still."""
    x = np.c_[rng.normal(size=(40, 3)), 1.7e18 + 1e15 * rng.random(40)].astype(np.float32)
    y = 100 * rng.normal(size=(40, 1))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), seed=0)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=1e-3))
    before = model.flat_parameters.copy()
    expect(
        tw.DivergedError, ["average kept by the optimizer", "clip"], trainer.fit, x, y, epochs=20
    )
    assert np.array_equal(model.flat_parameters, before)
    assert trainer.optimizer.steps == 0
    assert trainer.history.epochs == 0


def test_gradients_that_overflowed_are_named_by_their_place():
    model = nn.Sequential(nn.Linear(5, 2))
    model.forward(np.full((3, 5), 1e20))
    model.backward(np.full((3, 2), 1e20))
    optimizer = optim.SGD(lr=1e-3)
    expect(tw.DataError, [r"gradients\[0\] is inf: scale the data"], optimizer.step, model)


def test_labels_that_are_changed_during_a_fit_are_an_error(classifier):
    """Labels are checked once, when a fit begins; a callback may write to them."""
    y = Y.copy()

    class Relabel:
        def on_epoch_end(self, trainer, record):
            y[3] = 99

    with pytest.raises(tw.DataError, match=r"y\[3\] is 99"):
        classifier.fit(X, y, epochs=3, batch_size=5, callbacks=[Relabel()])


def resize(name, *shape):
    return lambda data: data[name].resize(shape, refcheck=False)


def retype(name, dtype):
    return lambda data: setattr(data[name], "dtype", dtype)


# What a callback does to an array, and the message.
CHANGED = {
    "x shorter": (resize("x", 10, 5), r"^x has shape \(10, 5\), but had \(20, 5\) when the fit"),
    "x narrower": (resize("x", 20, 4), r"^x has shape \(20, 4\), but had \(20, 5\) when the fit"),
    "x of bytes": (retype("x", "u1"), r"^x has shape \(20, 20\), but had \(20, 5\) when the fit"),
    "x of int32": (retype("x", "i4"), r"^x must be a .*float32 array.* since the fit began"),
    "x in depth": (resize("x", 20, 5, 1), r"^x must be a .*\(rows, features\).* the fit began"),
    "y shorter": (resize("y", 10), r"^y has shape \(10,\), but had \(20,\) when the fit"),
    "y of int32": (retype("y", "i4"), r"^y must be a .* since the fit began"),
    "weights shorter": (resize("w", 10), r"^sample_weight has shape \(10,\), but had \(20,\)"),
    "weights of float16": (retype("w", "f2"), r"^sample_weight must be a .* since the fit began"),
    "validation": (resize("v", 10), r"^validation_data: y has shape \(10,\), but had \(20,\)"),
    "validation of int32": (retype("v", "i4"), r"^validation_y must be a .* since the fit began"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Setting the dtype:DeprecationWarning")  # NumPy 2.5 or later
@pytest.mark.parametrize("case", CHANGED)
def test_arrays_that_change_their_shape_during_a_fit_undo_it(classifier, case):
    """Otherwise threads would read or write what is no longer there."""
    change, message = CHANGED[case]
    data = {"x": X.copy(), "y": Y.copy(), "w": np.ones(20, np.float32), "v": Y.copy()}

    class Change:
        def on_epoch_end(self, trainer, record):
            change(data)

    options = {"sample_weight": data["w"], "validation_data": (X, data["v"])}
    with pytest.raises(tw.ArgumentError, match=message):
        classifier.fit(
            data["x"], data["y"], epochs=3, batch_size=5, callbacks=[Change()], **options
        )


def test_targets_that_change_their_width_during_a_fit_undo_it(regressor):
    targets = T.astype(np.float32)

    class Change:
        def on_epoch_end(self, trainer, record):
            targets.resize((20, 1), refcheck=False)

    with pytest.raises(tw.ArgumentError, match=r"y has shape \(20, 1\), but had \(20, 2\)"):
        regressor.fit(X, targets, epochs=3, batch_size=5, callbacks=[Change()])


@pytest.mark.parametrize("late", [0, 1, 7])
def test_a_bad_batch_of_a_stream_undoes_all_epochs(classifier, late):
    """The first, the second, or one of the second epoch."""
    batches = [(X[k : k + 5], Y[k : k + 5]) for k in range(0, 20, 5)] * 2
    batches[late] = (X[:5], Y[:5] - 1)
    epochs = iter([batches[:4], batches[4:]])
    with pytest.raises(tw.DataError, match=f"batch {late % 4 + 1} of epoch {late // 4 + 1}: .* -1"):
        classifier.fit(lambda: next(epochs), epochs=2)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_epoch_that_diverges_undoes_those_before(regressor, streamed):
    class Hurry:
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                trainer.optimizer.lr = 1e30

    data = ([(X, T)],) if streamed else (X, T)
    with pytest.raises(tw.DivergedError):
        regressor.fit(*data, epochs=5, callbacks=[Hurry()])


def test_a_jacobian_too_large_for_any_memory():
    model = nn.Sequential(nn.Linear(500, 2000), nn.Linear(2000, 1000))
    with pytest.raises(MemoryError, match="Jacobian"):
        tw.curvature.jacobian(model, np.zeros((100_000, 500), np.float32))


def test_threads_that_make_no_sense():
    before = tw.get_num_threads()
    for n in (0, -1, 1.5, None, "2"):
        expect(tw.ArgumentError, ["n must be an integer >= 1"], tw.set_num_threads, n)
    assert tw.get_num_threads() == before


def test_more_threads_than_there_can_be_are_all_of_them():
    """As os.cpu_count() gives them on a large machine."""
    before = tw.get_num_threads()
    for n in (256, 257, 384, 10**9):
        tw.set_num_threads(n)
        assert tw.get_num_threads() == 256
    tw.set_num_threads(before)


def test_a_batch_of_one_works(classifier):
    Unchanged(nn.CrossEntropyLoss()).trainer.fit(X[:1], Y[:1])
    assert classifier.model(X[:1]).shape == (1, 3)


def test_a_batch_larger_than_the_data_works():
    trainer = Unchanged(nn.CrossEntropyLoss()).trainer
    trainer.fit(X, Y, batch_size=10**9)
    assert trainer.history.epochs == 1


def test_boolean_labels_are_two_classes():
    one, other = (Unchanged(nn.CrossEntropyLoss()).trainer for _ in range(2))
    assert one.step(X, Y == 1) == other.step(X, (Y == 1).astype(int))


def test_every_error_is_also_the_built_in_one_that_people_catch():
    for kind, builtin in [
        (tw.ShapeError, ValueError),
        (tw.DataError, ValueError),
        (tw.ArgumentError, ValueError),
        (tw.DtypeError, TypeError),
        (tw.DivergedError, ArithmeticError),
        (tw.UnsupportedError, RuntimeError),
    ]:
        assert issubclass(kind, builtin)
        assert issubclass(kind, tw.ThalwegError)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: nn.Sequential(nn.Linear(5, 3), dtype=np.ones(3)), r"dtype must be one of"),
        (
            lambda t: tw.Trainer(
                t.model, loss=t.loss, optimizer=optim.SGD(0.1), precision=np.ones(3)
            ),
            "precision must be one of",
        ),
        (lambda t: nn.CrossEntropyLoss(active=np.array(3)), r"must be a sequence; got array\(3\)"),
        (
            lambda t: t.optimizer.load_state_dict(
                {
                    **t.optimizer.state_dict(),
                    "options": {**t.optimizer.state_dict()["options"], "eps": np.ones(3)},
                },
                t.model,
            ),
            "eps must be a finite number >= 0; got array",
        ),
    ],
)
def test_arrays_where_there_are_none(classifier, call, message):
    """Neither the truth of several numbers nor a loop over a single one is tried."""
    with pytest.raises(tw.ArgumentError, match=message):
        call(classifier)


def test_an_average_of_no_steps_is_none(classifier):
    """Also where the optimizer already belongs to the model: in a copy, after a failed step."""

    def made():
        return tw.Trainer(
            nn.Sequential(nn.Linear(5, 3)),
            loss=nn.CrossEntropyLoss(), optimizer=optim.ScheduleFreeAdamW(),
        )  # fmt: skip

    failed = made()
    with pytest.raises(tw.ShapeError):
        failed.step(X, Y[:3])
    for trainer in (made(), made().copy(), failed):
        with pytest.raises(tw.ArgumentError, match="has taken no step with this model"):
            trainer.average_model()
        trainer.step(X, Y)
        assert trainer.average_model().num_parameters == 18
