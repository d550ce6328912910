"""Two nearly equal data sets, two trainings: how far apart are the weights, and the functions?

Writes ill-posedness.png.
"""

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import diagnostics, nn, optim

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (60, 2))
y = np.sin(3 * x[:, 0]) * x[:, 1]
grid = rng.uniform(-1, 1, (400, 2))


def train(noise, decay, seed):
    """Train on targets that are moved a little."""
    model = nn.Sequential(nn.Linear(2, 48), nn.ReLU(), nn.Linear(48, 1), dtype="float64", seed=seed)
    optimizer = optim.AdamW(lr=0.01, weight_decay=0.0)
    if decay:
        optimizer = optim.Adam(lr=0.01, weight_decay=decay)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    trainer.fit(x, y + noise, epochs=600, batch_size=60)
    return trainer


small = 0.01 * rng.standard_normal(60)
rows = {}
for decay in (0.0, 1e-3):
    for name, seed, noise in (
        ("same start, moved data", 1, small),
        ("other start, same data", 2, 0),
    ):
        one, other = train(0.0, decay, 1), train(noise, decay, seed)
        d = diagnostics.distance(other.model, one.model, grid)
        rows[f"{name}, L2 {decay:g}"] = d
        print(
            f"{name}, L2 {decay:g}: raw {d.raw:.3f}, modulo scale {d.scaled:.3f}, "
            f"and permutation {d.aligned:.3f}, function {d.function:.3f}"
        )

# The same function with other weights, to the last bit.
model = one.model
twin = diagnostics.rescale(model, 2.0 ** rng.integers(-5, 6, 48))
d = diagnostics.distance(twin, model, grid)
print(f"rescaled by powers of two: raw {d.raw:.1f}, scaled {d.scaled:.1e}, function {d.function}")

# What plain descent conserves drifts in proportion to its rate; Adam does not conserve it.
rates = 0.08 / 2.0 ** np.arange(5)
drifts = {"SGD": [], "Adam": []}
for k, rate in enumerate(rates):
    for name, optimizer in (("SGD", optim.SGD(lr=rate)), ("Adam", optim.Adam(lr=rate / 4))):
        net = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 1), dtype="float64", seed=3)
        monitor = diagnostics.BalanceMonitor()
        trainer = tw.Trainer(net, loss=nn.MSELoss(), optimizer=optimizer)
        trainer.fit(x, y, epochs=200 * 2**k, batch_size=60, callbacks=[monitor])
        drifts[name].append(monitor.drift)
slope = np.polyfit(np.log(rates), np.log(drifts["SGD"]), 1)[0]
print(f"drift of the balance: slope {slope:.2f} in the rate for SGD")
print(f"at the smallest rate: SGD {drifts['SGD'][-1]:.4f}, Adam {drifts['Adam'][-1]:.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
places = np.arange(len(rows))
for k, (field, label) in enumerate(
    {
        "raw": "weights, as they are",
        "scaled": "modulo scale of units",
        "aligned": "and modulo their order",
        "function": "functions",
    }.items()
):
    left.barh(places + 0.2 * k, [getattr(d, field) for d in rows.values()], 0.2, label=label)
left.set(
    title="how far apart two trainings end", xlabel="relative distance",
    yticks=places + 0.3, yticklabels=[name.replace(", ", "\n") for name in rows],
)  # fmt: skip
left.invert_yaxis()
left.legend()
for name, values in drifts.items():
    label = "gradient descent" if name == "SGD" else "Adam, at a quarter of the rate"
    right.loglog(rates, values, "o-", ms=3, label=label)
right.loglog(rates, drifts["SGD"][0] * rates / rates[0], "k:", lw=1, label="slope 1")
right.set(
    title="drift of what gradient flow conserves", xlabel="learning rate",
    ylabel="change of ‖w in‖² + b² − ‖w out‖², equal time",
)  # fmt: skip
right.set_xticks(rates, [f"{rate:g}" for rate in rates])
right.minorticks_off()
right.legend(loc="center left")
figure.savefig("ill-posedness.png", dpi=120)
