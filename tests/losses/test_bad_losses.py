"""Options, outputs and targets that a loss cannot have, and what is said then."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .cases import network

BAD_LOSSES = {
    "reduction": (lambda: nn.MSELoss(reduction="maen"), ["reduction", 'did you mean "mean"']),
    "no reduction": (lambda: nn.L1Loss(reduction=None), ["reduction", "None"]),
    "delta": (lambda: nn.HuberLoss(delta=0), ["delta", "0"]),
    "weights": (lambda: nn.CrossEntropyLoss([1, -1]), [r"weight\[1\]", "-1"]),
    "a table of weights": (lambda: nn.CrossEntropyLoss([[1, 2]]), ["weight", r"\(1, 2\)"]),
    "no weights": (lambda: nn.CrossEntropyLoss([]), ["weight", r"\(0,\)"]),
    "masked weights": (
        lambda: nn.CrossEntropyLoss(np.ma.masked_equal([1, 9], 9)),
        [r"weight has 1 masked entry; fill it first"],
    ),
    "text weights": (lambda: nn.CrossEntropyLoss("balanced"), ["weight", "balanced"]),
    "smoothing": (lambda: nn.CrossEntropyLoss(label_smoothing=1.1), ["label_smoothing", r"1\.1"]),
    "a number of heads": (lambda: nn.CrossEntropyLoss(heads=5), ["heads must be a sequence", "5"]),
    "heads without an order": (
        lambda: nn.CrossEntropyLoss(heads={2, 3}),
        ["heads must be a sequence"],
    ),
    "an empty head": (lambda: nn.CrossEntropyLoss(heads=[2, 0]), [r"heads\[1\]", "0"]),
    "no active": (lambda: nn.CrossEntropyLoss(active=[]), ["active", "at least one"]),
    "twice active": (lambda: nn.CrossEntropyLoss(active=[1, 1]), ["active", r"\(1, 1\)"]),
    "ignored": (lambda: nn.CrossEntropyLoss(ignore_index=0.5), ["ignore_index", r"0\.5"]),
    "pos_weight": (lambda: nn.BCEWithLogitsLoss(pos_weight=-1), ["pos_weight", "-1"]),
    "eps": (lambda: nn.GaussianNLLLoss(eps=0), ["eps", "0"]),
    "full": (lambda: nn.PoissonNLLLoss(full="yes"), ["full", "yes"]),
    "a masked pos_weight": (
        lambda: nn.BCEWithLogitsLoss(pos_weight=np.ma.masked_equal([1, 9], 9)),
        ["pos_weight has 1 masked entry"],
    ),
    "masked quantiles": (
        lambda: nn.QuantileLoss(np.ma.masked_equal([0.1, 0.9], 0.9)),
        ["quantiles has 1 masked entry"],
    ),
    "quantile": (lambda: nn.QuantileLoss(1), ["quantiles", "1"]),
    "quantiles": (lambda: nn.QuantileLoss([0.1, 90]), [r"quantiles\[1\]", "90"]),
    "temperature": (lambda: nn.DistillationLoss(0), ["temperature", "0"]),
    "no function": (lambda: nn.CustomLoss("mse"), ["function", "mse"]),
}


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_bad_options_of_losses(case):
    make, patterns = BAD_LOSSES[case]
    with pytest.raises(tw.ArgumentError) as caught:
        make()
    for pattern in patterns:
        assert caught.match(pattern)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mse", "MSELoss"), ("mae", "L1Loss"), ("cross_entropy", "CrossEntropyLoss"),
        ("BCEWithLogits", "BCEWithLogitsLoss"), ("huber", "HuberLoss"), ("CrossEntropy",
        "CrossEntropyLoss"), ("pinball", "QuantileLoss"), ("poisson_nll", "PoissonNLLLoss"),
        ("binary_crossentropy", "BCEWithLogitsLoss"), ("GaussianNLLLos", "GaussianNLLLoss"),
    ],
)  # fmt: skip
def test_a_loss_by_name_is_told_what_to_write(name, meant):
    with pytest.raises(tw.ArgumentError, match=rf"did you mean nn\.{meant}\(...\)\?"):
        tw.Trainer(network(), loss=name, optimizer=optim.SGD(lr=0.1))


def test_a_loss_that_is_none():
    for loss in ("xyzzy", 3, nn.Loss):
        with pytest.raises(tw.ArgumentError, match="loss must be a Loss"):
            tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.1))


@pytest.mark.parametrize(
    ("loss", "patterns"),
    [
        (nn.CrossEntropyLoss([1, 2, 3]), ["weight has 3 values", "4 outputs"]),
        (nn.CrossEntropyLoss(heads=[2, 3]), ["heads have 5 columns", "4 outputs"]),
        (nn.CrossEntropyLoss(active=[0, 4]), ["active has class 4", "4 outputs"]),
        (nn.CrossEntropyLoss([1, 2], active=[0, 1]), ["weight has 2 values", "4 outputs"]),
        (nn.BCEWithLogitsLoss(pos_weight=[1, 2]), ["pos_weight has 2 values", "4 outputs"]),
        (nn.QuantileLoss([0.1, 0.5, 0.9]), ["3 quantiles", "4 outputs"]),
    ],
    ids=repr,
)
def test_losses_that_do_not_suit_the_outputs(loss, patterns):
    with pytest.raises(tw.ShapeError) as caught:
        tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.1))
    for pattern in patterns:
        assert caught.match(pattern)


def test_an_odd_number_of_outputs_has_no_means_and_variances():
    with pytest.raises(tw.ShapeError, match="even number of outputs"):
        tw.Trainer(network(3), loss=nn.GaussianNLLLoss(), optimizer=optim.SGD(lr=0.1))


@pytest.mark.parametrize(
    ("loss", "y", "pattern"),
    [
        (nn.BCEWithLogitsLoss(), [[0, 1, 2, 0]], r"y\[0, 2\] is 2, but BCE.* from 0 to 1"),
        (nn.PoissonNLLLoss(), [[0, 1, 2, -3]], r"y\[0, 3\] is -3, but Poisson.* >= 0"),
        (nn.CrossEntropyLoss(), [[0.5, -0.5, 1, 0]], r"y\[0, 1\] is -0\.5, but Cross.* >= 0"),
    ],
    ids=["BCE", "Poisson", "CE"],
)
def test_targets_out_of_range(loss, y, pattern):
    model = network()
    before = model.flat_parameters
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    x = np.ones((1, 6))
    for call in (trainer.step, trainer.fit, trainer.evaluate):
        with pytest.raises(tw.DataError, match=pattern):
            call(x, y)
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_targets_of_another_width():
    trainer = tw.Trainer(network(), loss=nn.GaussianNLLLoss(), optimizer=optim.SGD(lr=0.1))
    with pytest.raises(
        tw.ShapeError, match="4 columns, but GaussianNLLLoss needs 2 for a network with 4"
    ):
        trainer.step(np.ones((3, 6)), np.ones((3, 4)))
    trainer = tw.Trainer(network(2), loss=nn.QuantileLoss([0.1, 0.9]), optimizer=optim.SGD(lr=0.1))
    assert np.isfinite(trainer.step(np.ones((3, 6)), np.ones(3)))  # one column
