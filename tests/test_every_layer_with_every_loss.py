"""Every layer before every loss: gradients in float64 agree with differences.

A layer or a loss that is new to `thalweg.nn` has to be entered here, or the first test fails.
"""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn

N, WIDTH, OUT = 6, 4, 4

LAYERS = {
    nn.Linear: nn.Linear(WIDTH, WIDTH),
    nn.BatchNorm1d: nn.BatchNorm1d(WIDTH),
    nn.LayerNorm: nn.LayerNorm(WIDTH),
    nn.RMSNorm: nn.RMSNorm(WIDTH),
    nn.Dropout: nn.Dropout(0.3),
    nn.Residual: nn.Residual(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, WIDTH)),
    nn.Concatenate: nn.Concatenate(nn.Linear(WIDTH, 3), nn.Tanh()),
    nn.FourierFeatures: nn.FourierFeatures(WIDTH, 3, sigma=0.3),
    nn.TabularInput: nn.TabularInput(WIDTH, {1: (3, 2), 3: (5, 3)}, pieces={0: [-0.5, 0.1, 0.7]}),
    nn.Embedding: nn.Embedding(4, 3),
    nn.Standardize: nn.Standardize([0.5, -0.2, 0.1, 0], [0.5, 0.7, 1.5, 2]),
    nn.Sine: nn.Sine(2.0),
}
LAYERS |= {
    kind: kind()
    for kind in vars(nn).values()
    if isinstance(kind, type) and issubclass(kind, nn.Layer) and kind not in (*LAYERS, nn.Layer)
}  # all others can be made without arguments

# Each with targets.
LOSSES = {
    "mse": (nn.MSELoss(), "numbers"),
    "l1": (nn.L1Loss(), "numbers"),
    "huber": (nn.HuberLoss(), "numbers"),
    "cross-entropy": (nn.CrossEntropyLoss([1, 2, 3, 4], label_smoothing=0.1), "labels"),
    "cross-entropy, heads": (nn.CrossEntropyLoss(heads=(2, 2)), "labels"),
    "cross-entropy, active": (nn.CrossEntropyLoss(active=(0, 1, 3)), "active"),
    "cross-entropy of shares, heads": (
        nn.CrossEntropyLoss(heads=(1, 3), label_smoothing=0.1),
        "shares",
    ),
    "bce": (nn.BCEWithLogitsLoss(), "shares"),
    "gaussian": (nn.GaussianNLLLoss(), "half"),
    "poisson": (nn.PoissonNLLLoss(), "counts"),
    "quantile": (nn.QuantileLoss([0.2, 0.7]), "half"),
    "distillation": (nn.DistillationLoss(), "numbers"),
    "custom": (nn.CustomLoss(lambda o, t: (np.cosh(o - t).sum(), np.sinh(o - t))), "numbers"),
}


def targets(kind, rng):
    labels = np.arange(N) % OUT
    return {
        "numbers": rng.standard_normal((N, OUT)),
        "half": rng.standard_normal((N, OUT // 2)),
        "labels": labels,
        "active": np.where(labels == 2, 0, labels),
        "shares": rng.dirichlet(np.ones(OUT), N),
        "counts": rng.poisson(2.0, (N, OUT)),
    }[kind]


def test_every_loss_is_here():
    losses = {x for x in vars(nn).values() if isinstance(x, type) and issubclass(x, nn.Loss)}
    assert losses - {nn.Loss, nn.DerivativeLoss} == {type(loss) for loss, _ in LOSSES.values()}


def width_after(layer):
    if isinstance(layer, nn.Concatenate):
        return WIDTH + layer.layers[0].out_features
    return getattr(layer, "out_features", WIDTH)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: type(layer).__name__)
def test_gradients_agree_with_differences(layer, loss, rng):
    width = width_after(layer)
    first = isinstance(layer, (nn.Embedding, nn.TabularInput))
    behind = [] if first else [nn.Linear(WIDTH, WIDTH)]
    model = nn.Sequential(*behind, layer, nn.Linear(width, OUT), dtype="float64", seed=5)
    x = rng.standard_normal((N, WIDTH))
    x[:, [1, 3]] = rng.integers(0, 3, (N, 2))  # codes, for the layer that has them
    if isinstance(layer, nn.Embedding):
        x = x[:, 1]
    loss, kind = LOSSES[loss]
    report = tw.gradcheck(model, x, targets(kind, rng), loss=loss)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: type(layer).__name__)
def test_the_jacobian_has_the_derivatives_in_all_directions(layer, rng):
    """In evaluation, also of layers that couple rows in training; on any number of threads."""
    width = width_after(layer)
    behind = nn.Linear(width, 40), nn.Tanh(), nn.Linear(40, OUT)
    model = nn.Sequential(layer, *behind, dtype="float64")
    state = {name: 1.2 * v + 0.1 for name, v in model.state_dict().items()}
    model.load_state_dict(state)
    x = rng.integers(0, 3, (200, model.in_features))  # codes, for the layers that have them
    jacobian = tw.curvature.jacobian(model, x)
    for k, direction in enumerate(np.eye(model.num_parameters)):
        products = tw.curvature.jvp(model, x, direction)[1]
        np.testing.assert_allclose(jacobian[:, :, k], products, rtol=1e-12, atol=1e-13)
    threads = tw.get_num_threads()
    try:
        tw.set_num_threads(1 if threads > 1 else 2)
        np.testing.assert_array_equal(tw.curvature.jacobian(model, x), jacobian)
    finally:
        tw.set_num_threads(threads)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: type(layer).__name__)
def test_samples_have_the_gradients_that_they_have_alone(layer, loss, rng):
    width = width_after(layer)
    model = nn.Sequential(layer, nn.Linear(width, OUT), dtype="float64", seed=5)
    x = rng.integers(0, 3, (N, model.in_features))  # codes, for the layers that have them
    (loss, kind), weight = LOSSES[loss], rng.uniform(0.5, 2, N)
    y, weight = targets(kind, rng), None if isinstance(loss, nn.CustomLoss) else weight
    each = tw.curvature.sample_gradients(model, x, y, loss=loss, sample_weight=weight)
    slopes = loss.gradient(model(x), y, weight)
    for i in range(N):
        model.zero_grad()
        model.forward(x[i : i + 1], training=False)
        model.backward(slopes[i : i + 1], inputs=False)
        np.testing.assert_allclose(each[i], model.flat_gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: type(layer).__name__)
def test_the_first_layers_of_a_model_are_a_model(layer, rng):
    """With the same numbers, also of what is not trained.

    And a model that follows a fresh one of its layers is as new, but for scales that were set.
    """
    width = width_after(layer)
    whole = nn.Sequential(layer, nn.Linear(width, 3), nn.Linear(3, OUT), dtype="float64", seed=5)
    state = {name: 1.5 * values + 0.1 for name, values in whole.state_dict().items()}
    whole.load_state_dict(state)
    part = whole[:2]
    x = rng.integers(0, 3, (N, whole.in_features))  # codes, for the layers that have them
    np.testing.assert_allclose(
        whole(x), part(x) @ state["2.weight"].T + state["2.bias"], rtol=1e-12
    )
    fresh = nn.Sequential(layer, *whole.layers[1:], dtype="float64", seed=9).state_dict()
    whole.follow(nn.Sequential(*whole.layers, dtype="float64", seed=9))
    for name, values in whole.state_dict().items():
        kept = name in ("0.mean", "0.std")
        np.testing.assert_array_equal(values, (state if kept else fresh)[name], err_msg=name)
