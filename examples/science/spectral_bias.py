"""Networks learn low frequencies first; with Fourier features they learn all of them at once.

Writes spectral-bias.png.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import diagnostics, nn, optim

frequencies, n = (1, 3, 5, 10), 128
x = 2 * np.arange(n) / n - 1


def target(x):
    """Four sines of one size."""
    return sum(np.sin(np.pi * k * x) for k in frequencies)


def network(activation, *encoder):
    """Three hidden layers of 128, behind an encoder of 32 features if there is one."""
    layers = [*encoder, nn.Linear(32 if encoder else 1, 128), activation]
    layers += [nn.Linear(128, 128), activation] * 2
    return nn.Sequential(*layers, nn.Linear(128, 1), seed=0)


# sin(pi k x) and cos(pi k x) for k = 1 ... 16: bands are in periods per unit of x.
features = nn.FourierFeatures(1, bands=np.arange(1, 17) / 2)
cases = {
    "ReLU": (network(nn.ReLU()), 600),
    "ReLU on Fourier features": (network(nn.ReLU(), features), 100),
}
figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
for ax, (name, (model, steps)) in zip(axes, cases.items(), strict=False):
    encoded = "features" in name
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=1e-3))
    found = diagnostics.spectral_bias(trainer, x, target, frequencies, steps=steps, every=5)
    learned = ", ".join(f"{step:g}" for step in found.learned_at())
    print(f"{name}: frequencies {list(frequencies)} learned at {learned}")
    found.plot(ax).set_title(name if encoded else f"{name} on x")

# The same is seen in the eigenvalues of the tangent kernel.
for name, model in (
    ("x", network(nn.ReLU())),
    ("Fourier features", network(nn.ReLU(), features)),
):
    values = diagnostics.ntk_eigenvalues(model, x[:, None])
    print(f"tangent kernel on {name}: eigenvalue 30 is {values[29] / values[0]:.1e} of the first")
    axes[2].semilogy(range(1, 61), values[:60] / values[0], label=f"ReLU on {name}")
axes[2].set(
    title="eigenvalues of the tangent kernel", xlabel="number, from the largest on",
    ylabel="part of the largest",
)  # fmt: skip
axes[2].legend()

# Twenty samples cannot tell 23 periods from 3, and say so.
few = np.arange(20) / 20
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    diagnostics.SpectralBias(few, np.sin(2 * np.pi * 3 * few), [3, 23])
print(f"warned: {said[0].message}")
figure.savefig("spectral-bias.png", dpi=120)
