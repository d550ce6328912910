"""Losses of numbers, beside PyTorch's, or its formula for quantiles."""

from thalweg import nn


def pinball(torch, *quantiles):
    def f(o, t):
        k = t.shape[1]
        parts = []
        for i, q in enumerate(quantiles):
            u = t - o[:, i * k : (i + 1) * k]
            parts.append(torch.maximum(q * u, (q - 1) * u))
        return torch.cat(parts, dim=1).mean()

    return f


# (ours, how to make theirs, which targets)
TWINS = {
    "MSE": (nn.MSELoss(), lambda t: t.nn.MSELoss(), "numbers"),
    "MSE, sum": (nn.MSELoss(reduction="sum"), lambda t: t.nn.MSELoss(reduction="sum"), "numbers"),
    "L1": (nn.L1Loss(), lambda t: t.nn.L1Loss(), "numbers"),
    "L1, sum": (nn.L1Loss(reduction="sum"), lambda t: t.nn.L1Loss(reduction="sum"), "numbers"),
    "Huber": (nn.HuberLoss(), lambda t: t.nn.HuberLoss(), "numbers"),
    "Huber, delta": (nn.HuberLoss(delta=0.3), lambda t: t.nn.HuberLoss(delta=0.3), "numbers"),
    "Huber, sum": (
        nn.HuberLoss(delta=2, reduction="sum"),
        lambda t: t.nn.HuberLoss(delta=2, reduction="sum"),
        "numbers",
    ),
    "quantile": (nn.QuantileLoss(0.9), lambda t: pinball(t, 0.9), "numbers"),
    "quantiles": (nn.QuantileLoss([0.1, 0.8]), lambda t: pinball(t, 0.1, 0.8), "half"),
}
