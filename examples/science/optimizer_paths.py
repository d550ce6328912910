"""How optimizers descend: on a quadratic, where theory has a formula, and in Rosenbrock's valley.

Writes optimizer-paths.png.
"""

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import optim

# A quadratic: along each axis, gradient descent multiplies the error by 1 - lr * curvature.
curvatures = np.array([1.0, 10.0])


def bowl(theta):
    """Return the value at theta and the gradient."""
    return float(curvatures @ theta**2 / 2), curvatures * theta


start, steps = np.array([10.0, 1.0]), 40
descent = optim.minimize(bowl, start, optim.SGD(lr=0.18), steps)
formula = start * (1 - 0.18 * curvatures) ** np.arange(steps + 1)[:, np.newaxis]
print(f"gradient descent is its formula to {np.abs(descent.path - formula).max():.1e}")

# Just above 2 / curvature, steps grow along the steep axis; just below, they shrink.
for name, lr in (("below", 0.199), ("above", 0.201)):
    last = optim.minimize(bowl, start, optim.SGD(lr=lr), 200).path[-1, 1]
    print(f"{name} the stable rate: the steep coordinate goes from 1 to {abs(last):.3g}")

# Momentum: the best rate and momentum for these curvatures (Polyak 1964).
low, high = np.sqrt(curvatures)
best = optim.SGD(lr=4 / (high + low) ** 2, momentum=((high - low) / (high + low)) ** 2)
heavy = optim.minimize(bowl, start, best, 40)
plain = optim.minimize(bowl, start, optim.SGD(lr=2 / curvatures.sum()), 40)
for name, found in (("gradient descent", plain), ("heavy ball", heavy)):
    rate = (np.linalg.norm(found.path[40]) / np.linalg.norm(found.path[20])) ** (1 / 20)
    print(f"{name} at its best rate: error times {rate:.3f} a step")


def valley(theta):
    """Return Rosenbrock's function and its gradient; the minimum is at (1, 1)."""
    a, b = 1 - theta[0], theta[1] - theta[0] ** 2
    return float(a**2 + 100 * b**2), np.array([-2 * a - 400 * theta[0] * b, 200 * b])


optimizers = {
    "gradient descent": (optim.SGD(lr=1e-3), 400),
    "momentum 0.9": (optim.SGD(lr=1e-3, momentum=0.9), 400),
    "Adam": (optim.Adam(lr=0.2), 150),
    "L-BFGS": (optim.LBFGS(max_iter=1, max_eval=25), 30),
}
bend = np.array([-1.2, 1.0])
paths = {name: optim.minimize(valley, bend, *setting) for name, setting in optimizers.items()}
for name, found in paths.items():
    print(f"{name}: value {found.values[-1]:.1e} after {len(found.values) - 1} steps")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
tw.plot.path({"gradient descent": plain, "heavy ball": heavy}, bowl, left)
left.set_title("at their best rates, curvatures 1 and 10")
tw.plot.path(paths, valley, right)
right.set_title("Rosenbrock's valley")
figure.savefig("optimizer-paths.png", dpi=90)
