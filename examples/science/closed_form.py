"""What has a formula needs no search: least squares, ridge, linear networks, and how far GD is.

Writes closed-form.png.
"""

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import nn, optim, solve

rng = np.random.default_rng(0)

# Ill-conditioned least squares, where the normal equations lose twice the digits.
conditions = np.geomspace(1e1, 1e9, 17)
errors: dict[str, list[float]] = {"QR": [], "normal equations": []}
for condition in conditions:
    u, _ = np.linalg.qr(rng.standard_normal((200, 30)))
    v, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    x, w = u * np.geomspace(1, 1 / condition, 30) @ v.T, rng.standard_normal(30)
    y = x @ w
    found = solve.least_squares(x, y, intercept=False).coef
    errors["QR"].append(float(np.linalg.norm(found - w) / np.linalg.norm(w)))
    normal = np.linalg.solve(x.T @ x, x.T @ y)
    errors["normal equations"].append(float(np.linalg.norm(normal - w) / np.linalg.norm(w)))
at_a_million = {name: values[10] for name, values in errors.items()}
print("condition 1e6: " + ", ".join(f"{k} {v:.1e}" for k, v in at_a_million.items()))

# A linear network is one matrix: descent ends where the formula begins.
x, y = rng.standard_normal((100, 8)), rng.standard_normal((100, 3))
layers = nn.Linear(8, 16), nn.Linear(16, 3)
descended = nn.Sequential(*layers, dtype="float64", seed=1)
trainer = tw.Trainer(descended, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.2))
solved = nn.Sequential(*layers, dtype="float64")
best = solve.network(solved, x, y).sum_of_squares / y.size
history = trainer.fit(x, y, epochs=3000, batch_size=100)
gaps = np.array(history["loss"]) - best
print(f"loss of gradient descent above the formula's after 3000 steps: {abs(gaps[-1]):.1e}")

# Ridge tends to the smallest of all exact fits, linearly in the penalty.
x, y = rng.standard_normal((10, 25)), rng.standard_normal(10)
smallest = solve.least_squares(x, y, intercept=False, rank_deficient="min_norm").coef
penalties = np.geomspace(1e-8, 1e2, 21)
distances = [
    float(np.linalg.norm(solve.ridge(x, y, alpha=a, intercept=False).coef - smallest))
    for a in penalties
]
slope = np.polyfit(np.log(penalties[4:11]), np.log(distances[4:11]), 1)[0]
print(f"ridge to the smallest fit: slope {slope:.3f} in the penalty")

# And what is no minimum is not solved to one.
try:
    solve.quadratic([[1.0, 0.0], [0.0, -3.0]], [1.0, 1.0])
except tw.ArgumentError as error:
    print(f"refused: {error}")

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for (name, values), power in zip(errors.items(), (1, 2), strict=True):
    (line,) = left.loglog(conditions, np.maximum(values, 1e-17), "o-", ms=3, label=name)
    theory = np.minimum(np.finfo(float).eps * conditions**power, 1)
    label = f"rounding, times the condition{' squared' if power == 2 else ''}"
    left.loglog(conditions, theory, ":", color=line.get_color(), lw=1, label=label)
left.set(
    title="least squares: QR or normal equations",
    xlabel="condition number of the samples", ylabel="relative error of the coefficients",
    ylim=(1e-16, 1e5),
)  # fmt: skip
left.legend(fontsize="small", loc="upper left")
shown = 700
middle.semilogy(np.maximum(gaps[:shown], 1e-17), lw=1.2)
middle.axhspan(1e-17, 1e-15, color="0.9", zorder=0)
middle.text(shown, 2e-15, "rounding of the loss", ha="right", fontsize="small")
middle.set(
    title="gradient descent on a linear network", xlabel="steps",
    ylabel="loss above that of solve.network", ylim=(1e-17, 1),
)  # fmt: skip
right.loglog(penalties, distances, "o-", ms=3, label="ridge")
guide = distances[4] * penalties / penalties[4]
right.loglog(penalties[:16], guide[:16], "k:", lw=1, label="slope 1")
right.set(
    title="ridge with a vanishing penalty", xlabel="penalty",
    ylabel="distance to the smallest of all exact fits",
)  # fmt: skip
right.legend()
figure.savefig("closed-form.png", dpi=120)
