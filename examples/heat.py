"""How well does a rod conduct heat? A physics-informed network finds out from noisy measurements.

The network is u(x, t), the temperature. It is to agree with measurements and obey the heat
equation u_t = k u_xx, whose k is unknown. A second output is log k: as this is one number, the loss
takes its mean over the rows, and adds its variance, or k would depend on the rows. It is trained,
saved and evaluated with the rest of the network.
"""

import numpy as np

import thalweg as tw
from thalweg import nn, optim

TRUE_K = 0.2
NOISE, LEFT_OVER = 0.01, 0.3  # tolerated errors of measurements and equation
UNEVEN = 0.01  # tolerated deviation of log k from its mean
MEASURED, INSIDE = 200, 400
ORDER = 2, 1  # the highest derivatives with respect to x and t


def temperature(points):
    """The true temperature, starting from a sine, with both ends kept cold."""
    x, t = points[:, :1], points[:, 1:]
    return np.exp(-TRUE_K * np.pi**2 * t) * np.sin(np.pi * x)


def loss(outputs, slopes, curvatures, measured):
    """Squared errors of the measurements, the equation and log k, in units of tolerated ones.

    Accepts any rows, in any order: `measured` is NaN where nothing was measured.
    """
    u, u_t, u_xx = outputs[:, :1], slopes[1, :, :1], curvatures[0, :, :1]
    k, known = np.exp(outputs[:, 1].mean()), ~np.isnan(measured)
    off, left_over = np.where(known, u - measured, 0) / NOISE, (u_t - k * u_xx) / LEFT_OVER
    figures = {"off": np.sum(off**2) / len(u), "left_over": np.sum(left_over**2) / len(u), "k": k}
    uneven = (outputs[:, 1] - outputs[:, 1].mean()) / UNEVEN
    # The backward pass, to all inputs.
    by_off, by_left_over = 2 * off / NOISE / len(u), 2 * left_over / LEFT_OVER / len(u)
    by_outputs, by_slopes, by_curvatures = map(np.zeros_like, (outputs, slopes, curvatures))
    by_outputs[:, :1] = by_off
    by_outputs[:, 1] = (2 * uneven / UNEVEN - k * np.sum(by_left_over * u_xx)) / len(u)
    by_slopes[1, :, :1] = by_left_over
    by_curvatures[0, :, :1] = -k * by_left_over
    gradients = by_outputs, by_slopes, by_curvatures
    return figures["off"] + figures["left_over"] + np.mean(uneven**2), gradients, figures


def main():
    rng = np.random.default_rng(0)
    points = rng.random((MEASURED + INSIDE, 2))  # x and t, both from 0 to 1
    measured = temperature(points) + NOISE * rng.standard_normal((len(points), 1))
    measured[MEASURED:] = np.nan  # only the equation applies there
    model = nn.Sequential(
        nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 2),
        dtype="float64",
    )  # fmt: skip
    trainer = tw.Trainer(model, loss=nn.DerivativeLoss(loss, order=ORDER), optimizer=optim.LBFGS())
    # This optimizer needs all rows at once; with others, shuffled batches work as well.
    trainer.fit(points, measured, epochs=60, batch_size=None, progress=True)
    figures = trainer.evaluate(points, measured)
    error = np.sqrt(np.mean((model(points)[:, :1] - temperature(points)) ** 2))
    elsewhere = np.exp(model(rng.random((1000, 2)))[:, 1])
    print(f"k = {figures['k']:.4f}, true value {TRUE_K}; temperatures are off by {error:.4f}")
    print(f"at other points, k is {elsewhere.min():.4f} to {elsewhere.max():.4f}")


if __name__ == "__main__":
    main()
