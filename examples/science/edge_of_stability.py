"""Which learning rate is too large, and where training with all data settles: at the edge.

Writes edge-of-stability.png.
"""

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import nn, optim

x = np.linspace(-1, 1, 20).reshape(-1, 1)


def train(optimizer, *, degree=5, seed=0, steps=20_000):
    """A net of 100 hidden units learns a Chebyshev polynomial from 20 points, all at each step."""
    y = np.cos(degree * np.arccos(x))
    model = nn.Sequential(
        nn.Linear(1, 100, init="xavier_normal"),
        nn.Tanh(),
        nn.Linear(100, 1, init="xavier_normal"),
        dtype="float64",
        seed=seed,
    )
    plain = {k: v if k.endswith("weight") else 0 * v for k, v in model.state_dict().items()}
    model.load_state_dict(plain)  # biases begin at 0
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    monitor = tw.callbacks.StabilityMonitor(x, y, every=steps // 80, action="record")
    history = trainer.fit(x, y, epochs=steps, batch_size=20, shuffle=False, callbacks=[monitor])
    ratios = np.array([report.ratio for report in monitor.reports])
    return ratios, np.array(history["loss"]), monitor


# Rates are halves of those for half of the mean square.
RUNS = {
    "GD 0.2, degree 5": lambda: train(optim.SGD(lr=0.2)),
    "GD 0.1, degree 5": lambda: train(optim.SGD(lr=0.1), steps=30_000),
    "GD 0.2, degree 4, seed 0": lambda: train(optim.SGD(lr=0.2), degree=4),
    "GD 0.2, degree 4, seed 1": lambda: train(optim.SGD(lr=0.2), degree=4, seed=1),
    "GD 0.2, degree 4, seed 2": lambda: train(optim.SGD(lr=0.2), degree=4, seed=2),
    "heavy ball 0.5": lambda: train(optim.SGD(lr=0.1, momentum=0.5)),
    "Nesterov 0.9": lambda: train(optim.SGD(lr=0.025, momentum=0.9, nesterov=True)),
    "Adam": lambda: train(optim.Adam(lr=0.01)),
    "RMSprop": lambda: train(optim.RMSprop(lr=0.001, alpha=0.999)),
}
curves = {}
for name, run in RUNS.items():
    ratios, loss, monitor = run()
    late = ratios[len(ratios) // 2 :]
    curves[name] = ratios, loss
    print(
        f"{name}: start {ratios[0]:.2f}, then mean {late.mean():.3f} "
        f"({late.min():.3f} to {late.max():.3f}), loss {loss[0]:.2f} -> {loss[-1]:.1e}"
    )

# On a quadratic there is no edge to settle at: what is beyond diverges, and is told why.
linear = nn.Sequential(nn.Linear(2, 1, bias=False), dtype="float64")
data, target = np.diag([1.0, 10.0]), np.ones(2)
trainer = tw.Trainer(linear, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05))
monitor = tw.callbacks.StabilityMonitor(data, target, action="record")
try:
    trainer.fit(data, target, epochs=1000, batch_size=2, callbacks=[monitor])
except tw.DivergedError as error:
    print("a quadratic:", *error.__notes__)
trainer.optimizer.lr = 0.9 * tw.curvature.max_stable_lr(trainer, data, target).max_lr
loss = trainer.fit(data, target, epochs=1000, batch_size=2)["loss"]
print(f"at 0.9 of the largest stable rate: loss {loss[-1]:.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
shown = {
    "GD 0.2, degree 5": "gradient descent",
    "heavy ball 0.5": "heavy ball, β = 0.5",
    "Nesterov 0.9": "Nesterov, β = 0.9",
    "Adam": "Adam (preconditioned)",
    "RMSprop": "RMSprop (preconditioned)",
}
for name, label in shown.items():
    ratios, loss = curves[name]
    left.plot(np.linspace(0, len(loss), len(ratios)), ratios, lw=1, label=label)
    # Losses oscillate from step to step: their median, and how far they reach, in each 250.
    parts = loss.reshape(-1, 250)
    middle = 250 * np.arange(len(parts)) + 125
    (line,) = right.plot(middle, np.median(parts, axis=1), lw=1.2)
    right.fill_between(
        middle, parts.min(axis=1), parts.max(axis=1), color=line.get_color(), alpha=0.15, lw=0
    )
left.axhline(1, color="k", ls="--", lw=0.8, label="beyond, steps diverge on a quadratic")
left.set(
    title="sharpness settles at the threshold of the optimizer", xlabel="step",
    ylabel="sharpness as a part of the threshold", ylim=(0, 1.5),
)  # fmt: skip
right.set(
    title="while the loss falls, not monotonically", xlabel="step",
    ylabel="loss: median and range of 250 steps", yscale="log",
)  # fmt: skip
left.legend(loc="lower right", fontsize="small")
figure.savefig("edge-of-stability.png", dpi=120)
