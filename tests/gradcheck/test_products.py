"""Products with the Hessian are checked by differences of the gradient."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn


class Product:
    """f = sum(sin(a)) * exp(b · c) / 2, whose Hessian couples a and b; it may have a mistake."""

    C = np.array([0.3, -0.7])

    def grad(self, t):
        e = np.exp(t["b"] @ self.C) / 2
        return {"a": np.cos(t["a"]) * e, "b": np.sin(t["a"]).sum() * e * self.C}

    def hvp(self, t, v, mistake=None):
        e, s = np.exp(t["b"] @ self.C) / 2, np.sin(t["a"]).sum()
        along = self.C @ v["b"]
        coupled = 0 if mistake == "blocks apart" else 1
        a = -np.sin(t["a"]) * v["a"] * e + coupled * np.cos(t["a"]) * e * along
        b = (coupled * np.cos(t["a"]) @ v["a"] + s * along) * e * self.C
        if mistake == "not symmetric":
            b = b + np.array([1e-3 * v["b"][1], 0])
        if mistake == "scaled":
            a = a * (1 + 1e-5)
        if mistake == "diagonal squared":
            a = np.cos(t["a"]) ** 2 * v["a"] + coupled * np.cos(t["a"]) * e * along
        return {"a": a, "b": b}


@pytest.mark.parametrize("method", ["forward", "central", "fourth"])
def test_right_products_pass(method, rng):
    product, theta = Product(), {"a": rng.standard_normal(6), "b": rng.standard_normal(2)}
    report = tw.check_hvp(product.grad, product.hvp, theta, method=method)
    assert report.passed, f"\n{report}"
    assert [block.name for block in report.blocks] == ["a", "b", "symmetry"]
    assert report.blocks[-1].max_abs_error < 1e-14
    if method != "forward":
        assert max(block.max_abs_error for block in report.blocks) < 1e-8


@pytest.mark.parametrize(
    ("mistake", "blocks"),
    {
        "blocks apart": {"a", "b"},
        "not symmetric": {"b", "symmetry"},
        "scaled": {"a", "symmetry"},
        "diagonal squared": {"a"},
    }.items(),
)
def test_wrong_products_fail_in_their_blocks(mistake, blocks, rng):
    product, theta = Product(), {"a": rng.standard_normal(6), "b": rng.standard_normal(2)}
    report = tw.check_hvp(product.grad, lambda t, v: product.hvp(t, v, mistake), theta)
    assert set(report.failed) == blocks, f"\n{report}"


def test_products_that_are_no_vectors_are_refused():
    for kind, pattern, options in [
        (tw.ShapeError, r"hvp must have shape \(3,\), .*; got \(2,\)", {}),
        (tw.ArgumentError, "directions", {"directions": 0}),
        (tw.ArgumentError, "method", {"method": "complex"}),
    ]:
        with pytest.raises(kind, match=pattern):
            tw.check_hvp(np.cos, lambda t, v: v[:2], np.ones(3), **options)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.ReLU()], ids=repr)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=["classes", "numbers"])
def test_the_hessian_of_models_passes(deep, activation, loss, rng):
    model = deep("float32", activation)
    labels = isinstance(loss, nn.CrossEntropyLoss)
    y = rng.integers(0, 10, 32) if labels else rng.standard_normal((32, 10))
    report = tw.gradgradcheck(model, rng.standard_normal((32, 20)), y, loss=loss)
    assert report.passed, f"\n{report}"
    assert report.kinks == 0
    assert [block.name for block in report.blocks] == [
        *(name for name, _ in model._core.blocks()), "symmetry",
    ]  # fmt: skip


def test_the_hessian_of_a_custom_loss_passes(deep, rng):
    """Its products are differences themselves, but only of the function."""
    loss, y = nn.CrossEntropyLoss(), rng.integers(0, 10, 32)
    model = deep("float32", nn.Tanh())
    by_hand = lambda output, y: (loss(output, y), loss.gradient(output, y))  # noqa: E731
    report = tw.gradgradcheck(model, rng.standard_normal((32, 20)), y, loss=by_hand)
    assert report.passed, f"\n{report}"


def test_a_gauss_newton_product_is_no_hessian(rng, monkeypatch):
    from thalweg import curvature

    class Mistaken(curvature.Operator):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options, kind="gauss_newton")

    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    assert tw.gradgradcheck(model, x, y, loss=nn.MSELoss())
    monkeypatch.setattr(curvature, "Operator", Mistaken)
    report = tw.gradgradcheck(model, x, y, loss=nn.MSELoss())
    # The last layer is linear in its own weights: only what couples with the first is wrong there.
    assert {"0.weight", "0.bias"} <= set(report.failed)
    assert "symmetry" not in report.failed


def test_there_are_no_curves_of_products_and_no_empty_blocks():
    report = tw.check_hvp(np.cos, lambda t, v: -np.sin(t) * v, np.ones(3))
    with pytest.raises(tw.ArgumentError, match=r"no function .* products with a Hessian"):
        report.curve()
    theta = {"a": np.ones(2), "b": np.ones(0)}
    with pytest.raises(tw.DataError, match=r"theta\['b'\] is empty"):
        tw.check_hvp(lambda t: t, lambda t, v: v, theta)
