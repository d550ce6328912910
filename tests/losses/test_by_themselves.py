"""What every loss must do, whatever its formula."""

import copy
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .cases import LOSSES, N, gradient, identity, network, targets


@pytest.mark.parametrize("case", LOSSES)
def test_float32_is_float64_rounded(case, rng):
    loss, kind = LOSSES[case]
    x, y = rng.standard_normal((N, 6)).astype(np.float32), targets(kind, rng)
    if y.dtype == float:
        y = y.astype(np.float32)
    single, double = network(dtype="float32"), network()
    double.flat_parameters = single.flat_parameters
    losses = [
        tw.Trainer(m, loss=loss, optimizer=optim.SGD(lr=0)).evaluate(x, y)["loss"]
        for m in (single, double)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_gradients_agree_with_differences(case, weighted, rng):
    loss, kind = LOSSES[case]
    if case == "Gaussian, full":
        loss = nn.GaussianNLLLoss(full=True)  # the bound is no kink of which a side would be right
    x, y = rng.standard_normal((N, 6)), targets(kind, rng)
    weight = rng.uniform(0, 2, N) if weighted else None
    report = tw.gradcheck(network(), x, y, loss=loss, sample_weight=weight)
    assert report.passed, f"\n{report}"
    assert report.kinks < 9


def test_kinks_of_losses_are_left_out_and_counted():
    """An output that is just where the loss has its kink, and one that is not."""
    model = identity(2)
    for loss, y in [
        (nn.L1Loss(), [[1.0, 5.0]]),
        (nn.QuantileLoss(0.3), [[1.0, 5.0]]),
        (nn.HuberLoss(delta=3), [[4.0, 5.5]]),
        (nn.GaussianNLLLoss(eps=1.0), [[2.0]]),
    ]:
        x = [[1.0, 1.0]] if not isinstance(loss, nn.GaussianNLLLoss) else [[1.0, 0.0]]
        report = tw.gradcheck(model, x, y, loss=loss)
        assert report.kinks == (1 if isinstance(loss, nn.GaussianNLLLoss) else 2), loss
        assert report.passed, f"\n{loss}\n{report}"


@pytest.mark.parametrize("case", LOSSES)
def test_a_step_is_its_parts(case, rng):
    """The fused step does what forward, backward and the optimizer's step do."""
    loss, kind = LOSSES[case]
    x, y = rng.standard_normal((N, 6)), targets(kind, rng)
    model = network()
    by_hand = copy.deepcopy(model)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=0.01))
    optimizer = optim.Adam(lr=0.01)
    for _ in range(3):
        trainer.step(x, y)
        output = by_hand.forward(x)
        _, slope = gradient(loss, output, y)
        by_hand.zero_grad()
        by_hand.backward(slope)
        optimizer.step(by_hand)
    np.testing.assert_allclose(
        model.flat_parameters, by_hand.flat_parameters, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_outputs_have_finite_losses_and_gradients(dtype):
    o = np.array([[1e4, -1e4, 0.0, 1e4]])
    for loss, y in [
        (nn.MSELoss(), -o),
        (nn.L1Loss(), -o),
        (nn.HuberLoss(), -o),
        (nn.CrossEntropyLoss(), [1]),
        (nn.CrossEntropyLoss(label_smoothing=0.1), [1]),
        (nn.CrossEntropyLoss(), np.full((1, 4), 0.25)),
        (nn.BCEWithLogitsLoss(), [[0.0, 1.0, 0.5, 1.0]]),
        (nn.GaussianNLLLoss(), [[0.0, 1.0]]),
        (nn.QuantileLoss(0.9), -o),
        (nn.DistillationLoss(1), -o),
    ]:
        value, slope = gradient(loss, o, y, dtype=dtype)
        assert np.isfinite(value), loss
        assert np.isfinite(slope).all(), loss
    # Neither is lost what is small: ln(1 + e^-50) is about e^-50.
    confident = np.array([[50.0, -50.0]])
    value, _ = gradient(nn.BCEWithLogitsLoss(reduction="sum"), confident, [[1.0, 0.0]])
    assert value == pytest.approx(2 * np.exp(-50), rel=1e-14)


def test_a_rate_beyond_all_numbers_is_an_error():
    model = identity(1)
    trainer = tw.Trainer(model, loss=nn.PoissonNLLLoss(), optimizer=optim.SGD(lr=0.1))
    with pytest.raises(tw.DivergedError):
        trainer.step([[1e4]], [1.0])
    np.testing.assert_array_equal(model.flat_parameters, [1.0])
    with pytest.raises(tw.DataError, match=r"the loss is inf although .* too large for it"):
        nn.PoissonNLLLoss()([[1e4]], [1.0])


RATES = nn.PoissonNLLLoss(log_input=False)
WITH_ZERO = [[1.0], [0.0], [-0.5]], [1.0, 0.0, 0.0]
#: What a trainer's method says of a rate below 0; `identity` outputs what it is given.
NEGATIVE = {
    "step": (lambda t: t.step(*WITH_ZERO), tw.DivergedError, r": model\(x\)\[2, 0\] is -0\.5,"),
    "backward": (lambda t: t.backward(*WITH_ZERO), tw.DivergedError, r"\[2, 0\] is -0\.5,"),
    "evaluate": (lambda t: t.evaluate(*WITH_ZERO), tw.ArgumentError, r"\[2, 0\] is -0\.5,"),
    "evaluate batches": (
        lambda t: t.evaluate([([[1.0]], [1.0]), WITH_ZERO]),
        tw.ArgumentError,
        r"^batch 2: .*\[2, 0\] is -0\.5,",
    ),
    "weighted": (
        lambda t: t.step([[-9.0], [1.0], [-2.0]], [1.0, 1, 1], [0.0, 1, 1]),
        tw.DivergedError,
        r"\[2, 0\] is -2,",
    ),
    "fit": (lambda t: t.fit(*WITH_ZERO), tw.DivergedError, "an output was negative or not finite"),
    "fit to batches": (lambda t: t.fit([WITH_ZERO]), tw.DivergedError, "an output was negative"),
    "train_many": (
        lambda t: tw.train_many([t], *WITH_ZERO),
        tw.DivergedError,
        "an output was negative",
    ),
}


@pytest.mark.parametrize("case", NEGATIVE)
def test_a_rate_below_0_is_said_to_be_the_reason(case):
    call, kind, pattern = NEGATIVE[case]
    model, told = identity(1), []

    class Notes:
        def on_diverged(self, trainer, error):
            told.append(str(error))

    trainer = tw.Trainer(model, loss=RATES, optimizer=optim.SGD(lr=0.1))
    with pytest.raises(kind, match=rf"{pattern}.* rates.* nn\.Softplus\(\)") as caught:
        call(trainer)
    assert "learning rate" not in str(caught.value)
    assert "scaled" not in str(caught.value)
    np.testing.assert_array_equal(model.flat_parameters, [1.0])
    with pytest.raises(tw.DivergedError):
        trainer.fit(*WITH_ZERO, callbacks=[Notes()])
    assert "nn.Softplus()" in told[0]


def test_a_loss_of_nan_has_other_reasons_where_rates_cannot_be_negative():
    """Infinity minus infinity, behind a Softplus."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Softplus())
    trainer = tw.Trainer(model, loss=RATES, optimizer=optim.SGD(lr=0.1))
    model.flat_parameters = [3e38, 0]
    with pytest.raises(tw.DivergedError, match=r"\(a\) the learning rate") as caught:
        trainer.step([[10.0]], [3.0])
    assert "Softplus" not in str(caught.value)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_rate_below_0_is_named_in_a_call(reduction):
    loss = nn.PoissonNLLLoss(log_input=False, reduction=reduction)
    calls = [loss] if reduction == "none" else [loss, loss.gradient]
    for call in calls:
        with pytest.raises(tw.DataError, match=r"is nan: output\[2, 0\] is -0\.5, but with log_"):
            call(*WITH_ZERO)
        assert np.isfinite(call([[1.0], [0.0], [-1e-9]], [1.0, 0.0, 0.0])).all()


def test_quantiles_of_a_sample_are_learned(rng):
    """Of a constant output the loss is least at the sample's quantiles."""
    y = rng.exponential(size=(999, 1))
    model = nn.Sequential(nn.Linear(1, 3, init="zeros"), dtype="float64")
    loss = nn.QuantileLoss([0.1, 0.5, 0.9])
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.5))
    x = np.zeros((999, 1))
    for _ in range(3000):
        trainer.step(x, y)
    trainer.optimizer.lr = 0.01
    for _ in range(300):
        trainer.step(x, y)
    np.testing.assert_allclose(model([[0.0]])[0], np.quantile(y, [0.1, 0.5, 0.9]), atol=0.02)
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(
        np.mean([np.maximum(q * u, (q - 1) * u).mean() for q, u in zip(
            (0.1, 0.5, 0.9), (y - model([[0.0]])).T, strict=True)]), rel=1e-12
    )  # fmt: skip


@pytest.mark.parametrize("case", LOSSES)
def test_losses_can_be_compared_hashed_and_pickled(case):
    loss, _ = LOSSES[case]
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(copy.deepcopy(loss)) == hash(loss)
    assert eval(repr(loss), vars(nn)) == loss


@pytest.mark.parametrize("call", ["step", "backward", "evaluate"])
def test_an_error_about_a_loss_with_nothing_to_add_is_left_as_it_is(call, rng):
    """Outputs that overflow are an error themselves, which took its place."""
    x, y = rng.standard_normal((64, 4)), rng.integers(0, 3, 64)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=1e3))
    model.flat_parameters = np.full(model.num_parameters, 1e38)
    with pytest.raises(tw.ThalwegError, match=r"the loss (became|is) NaN|the learning rate"):
        getattr(trainer, call)(np.abs(x), y)
