"""Values, gradients and training, beside PyTorch."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.nn._losses import CoreLoss

from ..helpers import kinds_in, types
from .cases import NEEDS_K, TWINS, K, N, gradient, network, targets


def test_every_loss_is_here():
    assert types(loss for loss, *_ in TWINS.values()) == kinds_in(nn, CoreLoss)


@pytest.mark.parametrize("case", TWINS)
def test_training_is_pytorchs(case, rng):
    """Losses of some steps, and the weights after them; so its gradients too."""
    torch = pytest.importorskip("torch")
    ours, make, kind = TWINS[case]
    theirs = make(torch)
    model = network()
    twin = tw.torch.to_torch(model)
    lr = 1e-3 if ours.reduction == "sum" else 0.05
    trainer = tw.Trainer(model, loss=ours, optimizer=optim.SGD(lr=lr, momentum=0.5))
    optimizer = torch.optim.SGD(twin.parameters(), lr=lr, momentum=0.5)
    x, y = 2 * rng.standard_normal((N, 6)), targets(kind, rng)
    for _ in range(12):
        optimizer.zero_grad()
        value = theirs(twin(torch.tensor(x)), torch.tensor(y))
        value.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(value.item(), rel=1e-12, abs=1e-13)
    for name, values in twin.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[name], values.numpy(), rtol=1e-12, atol=1e-13, err_msg=name
        )
    with torch.no_grad():
        value = theirs(twin(torch.tensor(x)), torch.tensor(y)).item()
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(value, rel=1e-12, abs=1e-13)


WIDTHS = (1, 2, 3, 7, 8, 9, 16, 17, 33, 35)


@pytest.mark.parametrize(
    ("case", "k"),
    [
        (case, k)
        for case, (loss, *_) in TWINS.items()
        for k in ((K,) if loss in NEEDS_K else WIDTHS)
        if k > 1 or case != "CE, a class ignored"  # which is class 1
    ],
)
def test_values_and_gradients_are_pytorchs_for_odd_widths(case, k, rng):
    torch = pytest.importorskip("torch")
    ours, make, kind = TWINS[case]
    if kind == "half":
        k *= 2
    o, y = rng.standard_normal((5, k)), targets(kind, rng, 5, k)
    twin = torch.tensor(o, requires_grad=True)
    expected = make(torch)(twin, torch.tensor(y))
    expected.backward()
    value, slope = gradient(ours, o, y)
    assert value == pytest.approx(expected.item(), rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(slope, twin.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_distillation_with_labels_is_the_sum_of_two_losses(rng):
    """As the docstring of `DistillationLoss` does it."""
    torch = pytest.importorskip("torch")
    F, a, T = torch.nn.functional, 0.3, 4.0
    hard, soft = nn.CrossEntropyLoss(), nn.DistillationLoss(T)

    def both(output, target):
        y, t = target["y"], target["t"]
        loss = a * hard(output, y) + (1 - a) * soft(output, t)
        return loss, a * hard.gradient(output, y) + (1 - a) * soft.gradient(output, t)

    x, t, y = rng.standard_normal((N, 6)), rng.standard_normal((N, K)), rng.integers(0, K, N)
    model = network()
    twin = tw.torch.to_torch(model)
    trainer = tw.Trainer(model, loss=both, optimizer=optim.SGD(lr=0.1))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(5):
        output, teacher = twin(torch.tensor(x)), torch.tensor(t)
        divergence = F.kl_div(
            (output / T).log_softmax(1), (teacher / T).softmax(1), reduction="batchmean"
        )
        value = a * F.cross_entropy(output, torch.tensor(y)) + (1 - a) * T**2 * divergence
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert trainer.step(x, {"y": y, "t": t}) == pytest.approx(value.item(), rel=1e-12)
    for name, values in twin.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], values.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_smooth_l1_is_hubers_divided(beta, rng):
    torch = pytest.importorskip("torch")
    o, y = 3 * rng.standard_normal((20, 3)), rng.standard_normal((20, 3))
    expected = torch.nn.SmoothL1Loss(beta=beta)(torch.tensor(o), torch.tensor(y)).item()
    assert nn.HuberLoss(delta=beta)(o, y) / beta == pytest.approx(expected, rel=1e-12)


def test_a_number_may_be_an_array_without_axes():
    torch = pytest.importorskip("torch")
    plain = nn.BCEWithLogitsLoss(pos_weight=3.0)
    for three in (np.array(3.0), np.float32(3), torch.tensor(3.0)):
        assert nn.BCEWithLogitsLoss(pos_weight=three) == plain
    with pytest.raises(tw.ArgumentError, match=r"pos_weight must be numbers.*got '3'"):
        nn.BCEWithLogitsLoss(pos_weight=np.array("3"))
