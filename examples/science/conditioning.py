"""What normalization does for conditioning, and what it cannot do.

Writes conditioning.png.
"""

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import nn

rng = np.random.default_rng(0)


def stretched(angle):
    """Points with deviations of exactly 10 and 1 along axes turned by an angle."""
    points = rng.standard_normal((2000, 2))
    points, _ = np.linalg.qr(points - points.mean(axis=0))  # without correlation
    c, s = np.cos(angle), np.sin(angle)
    return np.sqrt(2000) * points * [10, 1] @ np.array([[c, s], [-s, c]])


model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
for name, angle in (("along the axes", 0.0), ("turned by pi/5", np.pi / 5)):
    report = tw.diagnostics.conditioning(model, stretched(angle))
    print(f"{name}: condition {report[0].condition:.2f}, normalized {report[1].condition:.3f}")

x = stretched(np.pi / 5)
values, axes = np.linalg.eigh(np.cov(x.T))
white = tw.diagnostics.conditioning(model, (x - x.mean(0)) @ axes / np.sqrt(values))
print(f"whitened: condition {white[0].condition:.3f}")

# Scales and offsets of features, as the next layer's least squares sees them.
scales, offsets = np.geomspace(1, 100, 8), np.linspace(-500, 500, 8)
data = rng.standard_normal((1000, 8)) * scales + offsets
report = tw.diagnostics.conditioning(nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1)), data)
print(f"Hessian of least squares: {report[0].hessian:.1e}, normalized {report[1].hessian:.3f}")

# Over the batch, a normalization is a projection: rank N - 2, and 1 on what is left.
jacobian = tw.diagnostics.batch_jacobian(nn.BatchNorm1d(1, eps=1e-12), rng.standard_normal((30, 1)))
singular = np.linalg.svd(jacobian[0], compute_uv=False)
rank = int((singular > 1e-6 * singular[0]).sum())
print(f"batch Jacobian of 30 rows: rank {rank}, condition {singular[0] / singular[rank - 1]:.6f}")

# A deep network, with and without.
deep, normal = [], []
for _ in range(6):
    deep += [nn.Linear(32, 32), nn.Tanh()]
    normal += [nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Tanh()]
inputs = rng.standard_normal((300, 32))
curves = {
    name: tw.diagnostics.conditioning(nn.Sequential(*layers), inputs, samples=4)
    for name, layers in (("plain", deep), ("with BatchNorm1d", normal))
}

angles = np.linspace(0, np.pi / 2, 19)
reports = [tw.diagnostics.conditioning(model, stretched(angle), samples=1) for angle in angles]
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
left.plot(np.degrees(angles), [r[0].condition for r in reports], label="data")
left.plot(np.degrees(angles), [r[1].condition for r in reports], label="after BatchNorm1d")
left.axhline(white[0].condition, color="C2", label="after whitening")
at = tw.diagnostics.conditioning(model, stretched(np.pi / 5), samples=1)[1].condition
left.plot(36, at, "o", color="C1", ms=5)
left.annotate(f"{at:.2f} at 36°", (36, at), (20, 5.2), arrowprops={"arrowstyle": "-", "lw": 0.6})
left.set(
    title="a stretch of 10 to 1, by its angle to the axes",
    xlabel="angle, degrees", ylabel="condition number", yscale="log", ylim=(0.9, 14),
    yticks=(1, 2, 5, 10), yticklabels=("1", "2", "5", "10"),
)  # fmt: skip
left.legend(loc="lower center", bbox_to_anchor=(0.5, 0.15))
for (name, curve), color in zip(curves.items(), ("C3", "C0"), strict=True):
    stages = [s for s in curve.stages if "Tanh" in s.name]
    number = np.arange(1, len(stages) + 1)
    strong, weak = ([s.spread[k] for s in stages] for k in (0, -1))
    right.semilogy(number, strong, "o-", ms=3, color=color, label=f"{name}: strongest direction")
    right.semilogy(number, weak, "s:", ms=3, color=color, label=f"{name}: weakest direction")
    right.fill_between(number, weak, strong, color=color, alpha=0.1)
right.set(
    title="six tanh layers of 32, before training", xlabel="hidden layer",
    ylabel="standard deviation of the activations",
)  # fmt: skip
right.legend(fontsize="small", loc="lower left")
figure.savefig("conditioning.png", dpi=120)
