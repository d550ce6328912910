"""Values, gradients and training, beside PyTorch."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import optim

from .cases import NEEDS_K, TWINS, K, N, gradient, network, targets


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
