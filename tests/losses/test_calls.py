"""Losses that are called with outputs, and those of each sample."""

import dataclasses
from typing import get_args

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.nn._losses import _base, _named

from ..helpers import kinds_in, types
from .cases import LOSSES, NEEDS_K, TWINS, K, N, W, gradient, network, targets


@pytest.mark.parametrize("case", TWINS)
def test_a_call_is_pytorchs(case, rng):
    torch = pytest.importorskip("torch")
    ours, make, kind = TWINS[case]
    o, y = 2 * rng.standard_normal((N, K)), targets(kind, rng)
    expected = make(torch)(torch.tensor(o), torch.tensor(y)).item()
    assert ours(o, y) == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert ours(o.tolist(), y.tolist()) == ours(o, y)


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_call_is_what_evaluate_says_of_a_model(dtype, case, rng):
    loss, kind = LOSSES[case]
    model, x, y = network(dtype=dtype), rng.standard_normal((N, 6)), targets(kind, rng)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    rtol = 1e-6 if dtype == "float32" else 1e-14
    assert trainer.loss(model(x), y) == pytest.approx(trainer.evaluate(x, y)["loss"], rel=rtol)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_by_outputs_is_that_of_training(dtype, case, weighted, rng):
    loss, kind = LOSSES[case]
    o, y = (2 * rng.standard_normal((N, K))).astype(dtype), targets(kind, rng)
    weight = rng.uniform(0.5, 2, N) if weighted else None
    ours = loss.gradient(o, y, weight)
    assert ours.dtype == dtype
    _, expected = gradient(loss, o.astype(float), y, weight)
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(loss.gradient(o.tolist(), y.tolist(), weight), loss.gradient(
        o.astype(float), y, weight
    ))  # fmt: skip


def test_the_gradient_of_a_function_is_its_own(rng):
    o, y = rng.standard_normal((N, K)), rng.standard_normal((N, K))

    def squares(output, target, weight=None):
        output -= target  # it may
        return 0.0, output if weight is None else weight[:, None] * output

    loss, weight = nn.CustomLoss(squares), np.arange(N)
    np.testing.assert_array_equal(loss.gradient(o, y), o - y)
    np.testing.assert_array_equal(loss.gradient(o, y, weight), weight[:, None] * (o - y))
    np.testing.assert_array_equal(loss.gradient(np.ones((2, 2), int), 0.5 * np.ones(2)), 0.5)

    def slopes(u, du, target):
        return 0.0, (None, 2 * du)

    by_u, by_du = nn.DerivativeLoss(slopes, order=1).gradient((o, o[np.newaxis]), y)
    np.testing.assert_array_equal(by_u, 0 * o)
    np.testing.assert_array_equal(by_du, 2 * o[np.newaxis])


def test_what_has_no_gradient_is_said(rng):
    o, y = rng.standard_normal((5, K)), rng.standard_normal((5, K))
    for call, kind, text in [
        (lambda: nn.MSELoss(reduction="none").gradient(o, y), tw.ArgumentError, "one number"),
        (lambda: nn.MSELoss().gradient(o, y[1:]), tw.ShapeError, "output has 5 .* target has 4"),
        (lambda: nn.MSELoss().gradient(o, y, np.ones(4)), tw.ShapeError, "sample_weight has 4"),
        (lambda: nn.MSELoss().gradient(o, y, np.zeros(5)), tw.DataError, "no row counts"),
        (lambda: nn.MSELoss().gradient(o * np.nan, y), tw.DataError, r"output\[0, 0\] is nan"),
        (lambda: nn.MSELoss().gradient(o, y * np.nan), tw.DataError, r"target\[0, 0\] is"),
        (lambda: nn.CrossEntropyLoss().gradient(o, [9] * 5), tw.DataError, r"target\[0\] is 9"),
    ]:
        with pytest.raises(kind, match=text):
            call()


def rows(f):
    """Of what PyTorch has for elements, the means over rows."""
    return lambda torch: lambda o, t: f(torch)(o, t).mean(1)


def gaussian(torch):
    loss = torch.nn.GaussianNLLLoss(reduction="none", full=True)
    return lambda o, t: loss(o[:, : K // 2], t, o[:, K // 2 :].exp()).mean(1)


def pinball(torch):
    def f(o, t):
        u = torch.cat([t, t], 1) - o
        q = torch.tensor([0.1, 0.1, 0.8, 0.8], dtype=o.dtype)
        return torch.maximum(q * u, (q - 1) * u).mean(1)

    return f


def distillation(torch):
    f = torch.nn.functional
    return lambda o, t: (
        9 * f.kl_div((o / 3).log_softmax(1), (t / 3).softmax(1), reduction="none").sum(1)
    )


def cross_entropy(**options):
    def make(torch):
        weight = torch.tensor(W, dtype=torch.float64)
        return torch.nn.CrossEntropyLoss(weight, reduction="none", **options)

    return make


# (ours, PyTorch's of each sample, which targets)
EACH = {
    "MSE": (nn.MSELoss(), rows(lambda t: t.nn.MSELoss(reduction="none")), "numbers"),
    "L1": (nn.L1Loss(), rows(lambda t: t.nn.L1Loss(reduction="none")), "numbers"),
    "Huber": (
        nn.HuberLoss(delta=0.3),
        rows(lambda t: t.nn.HuberLoss(delta=0.3, reduction="none")),
        "numbers",
    ),
    "quantiles": (nn.QuantileLoss([0.1, 0.8]), pinball, "half"),
    "CE": (nn.CrossEntropyLoss(), lambda t: t.nn.CrossEntropyLoss(reduction="none"), "labels"),
    "CE, weighted": (nn.CrossEntropyLoss(W), cross_entropy(), "some labels"),  # one weighs 0
    "CE, smoothed": (
        nn.CrossEntropyLoss(W, ignore_index=-1, label_smoothing=0.3),
        cross_entropy(ignore_index=-1, label_smoothing=0.3),
        "labels, some -1",
    ),
    "CE of shares": (nn.CrossEntropyLoss(W), cross_entropy(), "shares"),
    "BCE": (
        nn.BCEWithLogitsLoss(pos_weight=W),
        rows(
            lambda t: t.nn.BCEWithLogitsLoss(
                pos_weight=t.tensor(W, dtype=t.float64), reduction="none"
            )
        ),
        "probabilities",
    ),
    "Gaussian": (nn.GaussianNLLLoss(full=True), gaussian, "half"),
    "Poisson": (
        nn.PoissonNLLLoss(full=True),
        rows(lambda t: t.nn.PoissonNLLLoss(full=True, reduction="none")),
        "counts",
    ),
    "distillation": (nn.DistillationLoss(3), distillation, "numbers"),
}


def test_every_loss_is_here():
    losses = kinds_in(nn, nn.Loss) - {nn.CustomLoss, nn.DerivativeLoss}
    assert losses == types(loss for loss, *_ in EACH.values())


def test_every_loss_says_what_its_outputs_are_and_has_no_name_of_a_function():
    """The estimators and ONNX ask the one; an error would advise writing the other."""
    for loss, *_ in EACH.values():
        assert loss._outputs in get_args(_base.Outputs)
        assert not type(loss).__name__.lower().startswith(_named._FUNCTIONS)


@pytest.mark.parametrize("case", EACH)
def test_the_losses_of_samples_are_pytorchs(case, rng):
    torch = pytest.importorskip("torch")
    loss, make, kind = EACH[case]
    o, y = 2 * rng.standard_normal((N, K)), targets(kind, rng)
    expected = make(torch)(torch.tensor(o), torch.tensor(y)).numpy()
    each = dataclasses.replace(loss, reduction="none")
    found = each(o, y)
    assert found.shape == (N,)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    single = each(o.astype(np.float32), y)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case", [case for case, (loss, *_) in TWINS.items() if loss not in NEEDS_K]
)
def test_their_mean_is_the_loss_where_all_rows_count_alike(case, rng):
    loss, _, kind = TWINS[case]
    o, y = rng.standard_normal((N, K)), targets(kind, rng)
    each = dataclasses.replace(loss, reduction="none")(o, y)
    counted = np.ones(N, bool) if y.ndim > 1 else y != loss.ignore_index
    mean = dataclasses.replace(loss, reduction="mean")(o, y)
    assert each[counted].mean() == pytest.approx(mean, rel=1e-12)
    assert (each[~counted] == 0).all()


@pytest.mark.parametrize(
    "loss",
    [
        *(loss for loss, kind in LOSSES.values() if "label" in kind and loss.active is None),
        nn.CrossEntropyLoss([2, 1, 0, 3], label_smoothing=0.2, heads=(1, 3)),
    ],
    ids=repr,
)
def test_of_labels_their_sum_is_the_sum(loss, rng):
    """Also of those whose class weighs 0, which smoothing counts in others."""
    o, y = rng.standard_normal((N, K)), targets("labels", rng)
    each = dataclasses.replace(loss, reduction="none")(o, y)
    total = dataclasses.replace(loss, reduction="sum")(o, y)
    assert each.sum() == pytest.approx(total, rel=1e-13)


def test_rows_that_do_not_count_have_none():
    each = nn.CrossEntropyLoss([1, 0, 1], ignore_index=2, reduction="none")
    np.testing.assert_array_equal(each(np.zeros((2, 3)), [1, 2]), [0, 0])
    assert each(np.zeros((2, 3)), [0, 1]) == pytest.approx([np.log(3), 0])
    with pytest.raises(tw.DataError, match="no row counts"):  # a mean of nothing
        dataclasses.replace(each, reduction="mean")(np.zeros((2, 3)), [1, 2])


def test_a_loss_of_ones_own_is_called_as_the_others_are(rng):
    def mse(output, target):
        output -= target  # which it may overwrite
        return (output**2).mean(), 2 * output / output.size

    o, y = rng.standard_normal((5, 2)), rng.standard_normal((5, 2))
    before = o.copy()
    assert nn.CustomLoss(mse)(o, y) == pytest.approx(nn.MSELoss()(o, y), rel=1e-14)
    np.testing.assert_array_equal(o, before)
    with pytest.raises(tw.ArgumentError, match="function must be callable"):
        nn.CustomLoss(nn.CustomLoss(mse))


@pytest.mark.parametrize("case", LOSSES)
def test_a_call_takes_weights_as_evaluate_does(case, rng):
    loss, kind = LOSSES[case]
    model, x, y = network(), rng.standard_normal((N, 6)), targets(kind, rng)
    weight = rng.uniform(0.5, 2, N)
    evaluated = tw.Trainer(model, loss=loss, optimizer=optim.SGD()).evaluate(x, y, weight)
    assert loss(model(x), y, weight) == pytest.approx(evaluated["loss"], rel=1e-13)
    assert loss(model(x), y, sample_weight=weight) == loss(model(x), y, weight)
    with pytest.raises(tw.ArgumentError, match="multiply the returned numbers"):
        dataclasses.replace(loss, reduction="none")(model(x), y, weight)
    with pytest.raises(tw.DataError, match=r"sample_weight\[0\] is -.*custom loss"):
        loss(model(x), y, -weight)


def test_a_call_of_ones_own_loss_takes_weights():
    loss = nn.CustomLoss(lambda o, t, w=None: (float((w * (o - t)[:, 0]).sum()), o))
    assert loss([[1.0], [2.0]], np.zeros((2, 1)), [3, 4]) == 11


# --- what is refused ----------------------------------------------------------------------------


def refusals():
    model = network()
    x, y = np.ones((4, 6)), np.ones((4, K))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    v = np.ones(model.num_parameters)
    return {
        "Trainer": lambda loss: tw.Trainer(model, loss=loss, optimizer=optim.SGD()),
        "Trainer.loss": lambda loss: setattr(trainer, "loss", loss),
        "gradcheck": lambda loss: tw.gradcheck(model, x, y, loss=loss),
        "hvp": lambda loss: tw.curvature.hvp(model, x, y, v, loss=loss),
        "LBFGS": lambda loss: tw.Trainer(model, loss=loss, optimizer=optim.LBFGS()),
        "LevenbergMarquardt": lambda loss: tw.Trainer(
            model, loss=loss, optimizer=optim.LevenbergMarquardt()
        ),
    }


@pytest.mark.parametrize("where", refusals())
def test_training_needs_one_number(where):
    with pytest.raises(
        tw.ArgumentError,
        match=r'MSELoss has reduction="none".*use reduction="mean" or "sum".*loss\(model\(x\), y\)',
    ):
        refusals()[where](nn.MSELoss(reduction="none"))


BAD = {
    "rows": (
        nn.MSELoss(),
        np.ones((3, 2)),
        np.ones((4, 2)),
        tw.ShapeError,
        "3 rows but target has 4",
    ),
    "columns": (
        nn.MSELoss(),
        np.ones((3, 2)),
        np.ones((3, 3)),
        tw.ShapeError,
        r"\(3, 2\) and target \(3, 3\)",
    ),
    "a row": (nn.MSELoss(), np.ones(3), np.ones(3), tw.ShapeError, r"output must be 2-D.*\(3,\)"),
    "no rows": (nn.MSELoss(), np.ones((0, 2)), np.ones((0, 2)), tw.ShapeError, "output is empty"),
    "NaN": (nn.MSELoss(), [[1, np.nan]], [[1, 1]], tw.DataError, r"output\[0, 1\] is nan"),
    "target": (nn.MSELoss(), np.ones((3, 1)), [1, 1, np.inf], tw.DataError, r"^target\[2, 0\] is"),
    "label": (
        nn.CrossEntropyLoss(),
        np.ones((3, 2)),
        [0, 1, 2],
        tw.DataError,
        r"^target\[2\] is 2",
    ),
    "column": (
        nn.CrossEntropyLoss(),
        np.ones((3, 2)),
        [[0], [1], [1]],
        tw.ShapeError,
        "target must",
    ),
    "text": (nn.MSELoss(), [["a"]], [[1]], tw.DtypeError, "output has dtype"),
    "quantiles": (
        nn.QuantileLoss([0.1, 0.9]),
        np.ones((5, 3)),
        np.ones((5, 2)),
        tw.ShapeError,
        r"for each of its 2 quantiles, but output has shape \(5, 3\)$",
    ),
    "fewer than quantiles": (
        nn.QuantileLoss([0.1, 0.5, 0.9]),
        np.ones((4, 2)),
        np.ones((4, 2)),
        tw.ShapeError,
        r"each of its 3 quantiles, but output has shape \(4, 2\)$",
    ),
    "variances": (
        nn.GaussianNLLLoss(),
        np.ones((4, 3)),
        np.ones((4, 2)),
        tw.ShapeError,
        r"even number of outputs.* but output has shape \(4, 3\)$",
    ),
    **{
        f"PyTorch's means and targets, {len(shape)}-D": (
            nn.GaussianNLLLoss(),
            np.ones(shape),
            np.ones(shape),
            tw.ShapeError,
            r"loss\(mean, target, var\) is loss\(np\.column_stack\(\[mean, np\.log\(var\)\]\), ",
        )
        for shape in [(3,), (3, 2)]
    },
    "heads": (
        nn.CrossEntropyLoss(heads=(2, 2)),
        np.ones((3, 2)),
        [0, 1, 1],
        tw.ShapeError,
        "heads",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_is_wrong_is_named(reduction, case):
    loss, output, target, kind, pattern = BAD[case]
    with pytest.raises(kind, match=pattern):
        dataclasses.replace(loss, reduction=reduction)(output, target)


@pytest.mark.parametrize("width", [1, 2])
def test_pytorchs_call_with_variances_is_told_where_they_go(width):
    """Its third argument would be taken for weights."""
    mean, target, var = np.zeros((3, width)), np.ones((3, width)), np.full((3, width), 4.0)
    loss = nn.GaussianNLLLoss()
    for call in (loss, loss.gradient):
        with pytest.raises(tw.ShapeError, match=r"np\.column_stack\(\[mean, np\.log\(var\)\]\)"):
            call(mean, target, var)
    advised = loss(np.column_stack([mean, np.log(var)]), target)
    assert advised == pytest.approx((np.log(4) + 1 / 4) / 2, rel=1e-14)


def test_targets_are_read_before_a_call_of_pytorch_is_recognized():
    class Tensor:  # whose size is a method, as that of PyTorch's
        def __array__(self, dtype=None, copy=None):
            return np.ones((3, 2))

        def size(self):
            return 3, 2

    loss = nn.GaussianNLLLoss()
    with pytest.raises(tw.ShapeError, match="PyTorch's loss"):
        loss(np.zeros((3, 2)), Tensor(), np.full((3, 2), 4.0))
    with pytest.raises(tw.ShapeError, match="target"):
        loss(np.ones((2, 2)), [[1], [1, 2]])
