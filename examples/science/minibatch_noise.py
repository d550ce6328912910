"""How noisy the gradients of batches are, and what that says about the size of a batch.

Writes minibatch-noise.png.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import diagnostics, nn, optim

rng = np.random.default_rng(0)

# All 56 batches of 3 of 8 rows: their mean is the gradient, their scatter the textbook's.
model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1), dtype="float64")
trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
x, y = rng.standard_normal((8, 3)), rng.standard_normal(8)
noise = diagnostics.gradient_noise(trainer, x, y)
batches = []
for rows in itertools.combinations(range(8), 3):
    model.zero_grad()
    trainer.backward(x[list(rows)], y[list(rows)])
    batches.append(model.flat_gradients.copy())
off = np.array(batches) - noise.gradient
bias = np.linalg.norm(off.mean(axis=0)) / np.linalg.norm(noise.gradient)
ratio = (off**2).sum(axis=1).mean() / noise.variance(3)
print(f"all {len(batches)} batches: bias {bias:.1e}, variance {ratio:.12f} of (S/b)(N-b)/N")

# The noise scale grows as training goes on: small batches first, large ones later.
x = rng.standard_normal((1024, 10))
y = np.tanh(x @ rng.standard_normal(10)) + 0.3 * rng.standard_normal(1024)
model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05))
epochs, scales = [0, 1, 2, 4, 8, 16, 32], []
for before, now in itertools.pairwise([0, *epochs]):
    if now > before:
        trainer.fit(x, y, epochs=now - before, batch_size=64)
    noise = diagnostics.gradient_noise(trainer, x, y)
    scales.append(noise.noise_scale)
print(f"noise scale: {scales[0]:.1f} rows at the start, {scales[-1]:.0f} after {epochs[-1]} epochs")
print(f"critical batch size now: {noise.critical_batch_size}")

# What the formula says of batches, beside batches that were drawn.
sizes = 2 ** np.arange(0, 10)
measured = []
double = nn.Sequential.astype(model, "float64")
judge = tw.Trainer(double, loss=nn.MSELoss(), optimizer=optim.SGD())
for size in sizes:
    squares = []
    for _ in range(300):
        rows = rng.choice(1024, size, replace=False)
        double.zero_grad()
        judge.backward(x[rows], y[rows])
        squares.append(((double.flat_gradients - noise.gradient) ** 2).sum())
    measured.append(np.mean(squares))
predicted = np.array([noise.variance(int(size)) for size in sizes])
print(f"drawn batches: {np.mean(measured / predicted):.2f} of the predicted variance")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
left.loglog(sizes, predicted, label="tr S/b · (N − b)/N, N = 1024 rows")
left.loglog(sizes, predicted[0] / sizes, "k:", lw=1, label="tr S/b, as if drawn with repetition")
left.loglog(sizes, measured, "o", ms=4, label="300 drawn batches each")
left.set(
    title="how far a batch's gradient is off", xlabel="rows b of a batch",
    ylabel="mean square distance from that of all rows",
)  # fmt: skip
left.set_xscale("log", base=2)
left.legend()
right.plot(epochs, scales, "o-", ms=3, label="noise scale, tr S/‖g‖²")
right.axhline(64, color="k", ls="--", lw=0.8, label="the batch that is trained with")
right.set(title="the noise scale grows in training", xlabel="epoch", ylabel="rows", yscale="log")
right.legend(loc="lower right")
figure.savefig("minibatch-noise.png", dpi=120)
