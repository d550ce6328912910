"""Models with many parameters are checked along random directions of each block."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn


def squared(output, target):
    return float(((output - target) ** 2).mean()), 2 * (output - target) / output.size


@pytest.mark.parametrize("loss", [nn.MSELoss(), squared], ids=["core", "custom"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_directions_of_each_block_pass(deep, loss, dtype, rng):
    model = deep(dtype)
    x, y = rng.standard_normal((64, 20)), rng.standard_normal((64, 10))
    before = model.state_dict()
    report = tw.gradcheck(model, x, y, loss=loss, directions=3)
    assert report.passed, f"\n{report}"
    assert report.norm_rel_error <= 1e-7
    assert {block.directions for block in report.blocks} == {3}
    assert [block.shape for block in report.blocks] == [s for _, s in model._core.blocks()]
    assert "random directions" in str(report)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    if dtype == "float32":
        assert 0 < report.float32_error <= 2e-6 * np.sqrt(3)
    else:
        assert report.float32_error is None


def test_large_models_are_checked_along_directions_by_themselves(rng):
    model = nn.Sequential(nn.Linear(100, 256), nn.ReLU(), nn.Linear(256, 300), seed=1)
    assert model.num_parameters > 100_000
    x, y = rng.standard_normal((16, 100)), rng.integers(0, 300, 16)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    assert report.passed, f"\n{report}"
    assert {block.directions for block in report.blocks} == {3}


@pytest.mark.parametrize("seed", range(4))
def test_a_right_gradient_that_is_tiny_is_no_false_alarm(seed):
    """Through twenty layers of tanh: three differences a block, near what they can resolve."""
    rng = np.random.default_rng(seed)
    layers = [layer for _ in range(20) for layer in (nn.Linear(20, 20), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(20, 5), seed=seed)
    x, y = rng.standard_normal((64, 20)), rng.integers(0, 5, 64)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss(), directions=3)
    assert report.passed, f"\n{report}"
    assert "ok to resolution" in {block.verdict for block in report.blocks}


def test_directions_that_cross_a_kink_are_drawn_anew_or_left_out():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), dtype="float64")
    model.load_state_dict({"0.weight": [[0]], "0.bias": [0]})
    report = tw.gradcheck(model, [[1]], [[5]], loss=nn.MSELoss(), directions=3)
    assert {block.verdict for block in report.blocks} == {"all kinks"}
    assert report.kinks == 6


@pytest.mark.parametrize("block", ["0.weight", "1.bias", "3.weight", "3.bias", "6.bias"])
@pytest.mark.parametrize("entries", ["all", "one"])
def test_directions_see_a_mistake_in_one_block(deep, block, entries, rng, monkeypatch):
    """All of a block by 1e-6 of itself, or a single entry of it by its own size."""
    from thalweg import _core

    model = deep()
    truth = _core.losses_along

    def mutated(*arguments):
        gradient, values, crossed = truth(*arguments)
        start = 0
        for name, shape in model._core.blocks():
            stop = start + int(np.prod(shape))
            if name == block and entries == "all":
                gradient[start:stop] *= 1 + 1e-6
            elif name == block:
                gradient[start + np.abs(gradient[start:stop]).argmax()] *= 2
            start = stop
        return gradient, values, crossed

    x, y = rng.standard_normal((64, 20)), rng.integers(0, 10, 64)
    monkeypatch.setattr(_core, "losses_along", mutated)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss(), directions=5)
    assert report.failed == (block,), f"\n{report}"


def test_a_wrong_float32_gradient_fails_though_that_in_float64_is_right(rng, monkeypatch):
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3), seed=4)
    x, y = rng.standard_normal((30, 5)), rng.integers(0, 3, 30)
    truth = tw.Trainer.backward

    def mutated(self, *arguments):
        value = truth(self, *arguments)
        gradients = self.model.flat_gradients
        gradients[40:48] *= 1 + 1e-4  # 0.bias
        self.model.flat_gradients = gradients
        return value

    assert tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    monkeypatch.setattr(tw.Trainer, "backward", mutated)
    report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
    assert report.failed == ("0.bias",)
    assert report.blocks[1].verdict == "FAILED in float32"
    assert report.blocks[1].float32_error == pytest.approx(1e-4, rel=0.01)


def test_a_kink_within_rounding_is_no_mistake_in_float32():
    """0.1 * 3 - 0.3 is 0 in one precision and not in the other: so is the mask of the ReLU."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), dtype="float32")
    model.load_state_dict({"0.weight": [[0.1]], "0.bias": [-0.3], "2.weight": [[1]], "2.bias": [0]})
    report = tw.gradcheck(model, [[3.0], [5.0]], [[5.0], [6.0]], loss=nn.MSELoss())
    assert "FAILED in float32" not in {block.verdict for block in report.blocks}


@pytest.mark.parametrize("directions", [-1, 1.5])
def test_what_gradcheck_refuses(directions):
    model = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(tw.ArgumentError, match="directions"):
        tw.gradcheck(model, [[1]], [[1]], loss=nn.MSELoss(), directions=directions)
