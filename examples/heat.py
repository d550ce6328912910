"""How well does a rod conduct heat? Found from noisy measurements, with a physics-informed network.

The network is u(x, t), the temperature. It is to agree with measurements, and to obey the heat
equation u_t = k u_xx, whose k from 0 to 1 nobody knows: for each u the best k is that of a line
through the origin, and at a minimum over k the gradient by u is as if k stood still.
"""

import numpy as np

import thalweg as tw
from thalweg import nn, optim

TRUE_K = 0.2
NOISE, LEFT_OVER = 0.01, 0.3  # what measurements, and the equation, may be off by
MEASURED, INSIDE = 200, 400
ORDER = 2, 1  # the highest derivatives by x and by t


def temperature(points):
    """What the rod does, from the sine of the beginning on, with both ends kept cold."""
    x, t = points[:, :1], points[:, 1:]
    return np.exp(-TRUE_K * np.pi**2 * t) * np.sin(np.pi * x)


def best_k(u_t, u_xx):
    return float(np.clip(np.sum(u_t * u_xx) / np.sum(u_xx**2), 0, 1))


def loss(u, du, d2u, measured):
    """Squares of what is off the measurements, and off the equation, in units of what may be."""
    u_t, u_xx = du[1], d2u[0]
    k = best_k(u_t, u_xx)
    off, left_over = (u - measured)[:MEASURED] / NOISE, (u_t - k * u_xx) / LEFT_OVER
    by_u, by = np.zeros_like(u), 2 * left_over / LEFT_OVER / len(u)
    by_u[:MEASURED] = 2 * off / NOISE / len(u)
    value = (np.sum(off**2) + np.sum(left_over**2)) / len(u)
    return value, (by_u, np.stack([0 * by, by]), np.stack([-k * by]))


def main():
    rng = np.random.default_rng(0)
    points = rng.random((MEASURED + INSIDE, 2))  # x and t, both from 0 to 1
    measured = temperature(points) + NOISE * rng.standard_normal((len(points), 1))
    model = nn.Sequential(
        nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1),
        dtype="float64",
    )  # fmt: skip
    trainer = tw.Trainer(model, loss=nn.DerivativeLoss(loss, order=ORDER), optimizer=optim.LBFGS())
    # Rows belong together: all at once, in their order.
    trainer.fit(points, measured, epochs=60, batch_size=None, progress=True)
    u, du, d2u = tw.curvature.jet(model, points, order=ORDER)
    error = np.sqrt(np.mean((u - temperature(points)) ** 2))
    print(
        f"k = {best_k(du[1], d2u[0]):.4f}, and is {TRUE_K}; off the true temperature by {error:.4f}"
    )


if __name__ == "__main__":
    main()
