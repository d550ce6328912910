"""From logits to classes and probabilities: ``predict`` and ``predict_proba`` of scikit-learn."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

LOGITS = np.array([[0.0, np.log(3.0), -np.inf], [1e4, -1e4, 0.0], [1.0, 1.0, 1.0]])


def test_softmax():
    shares = nn.CrossEntropyLoss().probabilities(LOGITS)
    np.testing.assert_allclose(shares, [[1 / 4, 3 / 4, 0], [1, 0, 0], [1 / 3] * 3], rtol=1e-15)


def test_only_classes_that_compete_have_a_share():
    loss = nn.CrossEntropyLoss(heads=(2, 2), active=(0, 1, 3))
    logits = np.log([[1.0, 3.0, 9.0, 4.0]] * 2)
    np.testing.assert_allclose(loss.probabilities(logits)[0], [1 / 8, 3 / 8, 0, 4 / 8])
    by_head = loss.probabilities(logits, head=[0, 1])
    np.testing.assert_allclose(by_head, [[1 / 4, 3 / 4, 0, 0], [0, 0, 0, 1]])
    # They are those that the loss is made of: its value is -log p of the label.
    model = nn.Sequential(nn.Linear(4, 4, bias=False), dtype="float64")
    model.load_state_dict({"0.weight": np.eye(4)})
    trainer = tw.Trainer(model, loss=loss, optimizer=tw.optim.SGD())
    assert trainer.evaluate(logits[:1], [1])["loss"] == pytest.approx(-np.log(3 / 4), rel=1e-14)


def test_the_softmax_within_each_of_several_equal_heads(rng):
    """As the page on getting started takes it, for distributions over returns (C51)."""
    loss, z = nn.CrossEntropyLoss(heads=[5] * 4), np.arange(5)
    out = 3 * rng.standard_normal((9, 20))
    values = nn.CrossEntropyLoss().probabilities(out.reshape(-1, 5)).reshape(-1, 4, 5) @ z
    for head in range(4):
        one = loss.probabilities(out, head=head) @ np.tile(z, 4)
        np.testing.assert_allclose(values[:, head], one, rtol=1e-13)
    together = loss.probabilities(out)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-13)  # not 4


def test_logistic_function():
    loss = nn.BCEWithLogitsLoss()
    logits = np.array([[-1e4, -np.log(3.0)], [0.0, 1e4]])
    np.testing.assert_allclose(loss.probabilities(logits), [[0, 1 / 4], [1 / 2, 1]], rtol=1e-15)
    np.testing.assert_array_equal(loss.predict(logits), [[False, False], [False, True]])


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()], ids=["CE", "BCE"])
def test_the_dtype_is_that_of_the_outputs(loss):
    assert loss.probabilities(np.zeros((2, 3), np.float32)).dtype == np.float32
    assert loss.probabilities([[0, 1, 2]]).dtype == np.float64
    assert loss.probabilities(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({0: 1.0, 1: 5.0}, r"in the order of the columns, e\.g\. \[1\.0, 5\.0\]; got \{0"),  # Keras
        ("balanced", "got 'balanced'"),  # scikit-learn
        ([1.0, "5"], r"weight\[1\] must be a finite number"),
    ],
)
def test_weights_of_classes_are_a_sequence(weight, message):
    with pytest.raises(tw.ArgumentError, match=message):
        nn.CrossEntropyLoss(weight)


def test_one_output_for_two_classes_says_what_to_do():
    model = nn.Sequential(nn.Linear(2, 1))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=tw.optim.SGD())
    with pytest.raises(tw.DataError, match=r"y\[1\] is 1, .* 1 output.*BCEWithLogitsLoss"):
        trainer.fit(np.zeros((2, 2)), [0, 1])


def test_the_accuracy_of_several_outputs_is_a_count_over_a_count(rng):
    """Exactly: of rows first, thirds would not add up."""
    x, y = rng.standard_normal((80, 4)), rng.integers(0, 2, (80, 3))
    model = nn.Sequential(nn.Linear(4, 3))
    loss = nn.BCEWithLogitsLoss()
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.0))
    right = (loss.predict(model(x)) == y).sum()
    assert trainer.evaluate(x, y)["accuracy"] == right / 240
    weight = rng.integers(0, 3, 80)
    weighed = (weight[:, None] * (loss.predict(model(x)) == y)).sum()
    assert trainer.evaluate(x, y, weight)["accuracy"] == weighed / (3 * weight.sum())
    assert trainer.fit(x, y, epochs=1, batch_size=7)["accuracy"] == [right / 240]


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()], ids=repr)
def test_what_has_no_probability_is_named(loss):
    """They were NaN, and the prediction of NaN was False."""
    for meaning in (loss.probabilities, loss.predict):
        with pytest.raises(tw.DataError, match=r"output\[1, 0\] is NaN"):
            meaning([[1, 2], [np.nan, 0]])
    assert loss.predict([[-np.inf, np.inf]]).any()


def test_infinite_outputs_leave_no_shares_but_logistic_ones():
    for largest in (np.inf, -np.inf):
        with pytest.raises(tw.DataError, match=rf"the largest output of row 1 is {largest}"):
            nn.CrossEntropyLoss().probabilities([[1, 2], [largest, -np.inf]])
    some = nn.CrossEntropyLoss(active=(0, 1)).probabilities([[1, 1, np.inf]])  # which has no part
    assert some.tolist() == [[0.5, 0.5, 0]]
    assert nn.CrossEntropyLoss().probabilities([[-np.inf, 3]]).tolist() == [[0, 1]]
    assert nn.BCEWithLogitsLoss().probabilities([[np.inf, -np.inf]]).tolist() == [[1, 0]]
