"""Checking gradients: the best step of each difference, and what a mistake looks like.

Writes gradient-checking.png.
"""

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg import nn

rng = np.random.default_rng(0)

# The error of a difference over its step is a V: truncation falls, round-off rises.
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
for method in ("forward", "central", "fourth"):
    report = tw.check_gradient(lambda t: np.exp(t).sum(), np.exp, [1.0], method=method)
    curve = report.curve()
    print(
        f"{method}: slopes {curve.truncation_slope:+.2f} and {curve.round_off_slope:+.2f}, "
        f"best step {curve.best_h:.1e} (theory {curve.theory_h:.1e}), "
        f"error {report.max_abs_error:.1e}"
    )
    (line,) = left.loglog(curve.h, np.maximum(curve.error, 1e-17), ".-", ms=3, lw=0.8)
    line.set_label(f"{method}, order {curve.order}")
    left.axvline(report.blocks[0].h[0], color=line.get_color(), ls="--", lw=0.8)
left.plot([], [], "k--", lw=0.8, label="the step that is taken")
left.set(
    title="three differences for the derivative of exp at 1", xlabel="step h",
    ylabel="relative error",
)  # fmt: skip
left.legend(loc="upper center")

# A network: every parameter, then random directions in each block, as large networks are checked.
model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
x, y = rng.standard_normal((32, 20)), rng.integers(0, 10, 32)
report = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss())
print(report)
along = tw.gradcheck(model, x, y, loss=nn.CrossEntropyLoss(), directions=3)
print(f"along 3 directions a block: {along!r}")


# A mistake of one part in a million, in one of two blocks, has a plateau instead of a V.
def f(t):
    return np.sin(t["right"]).sum() + np.sin(t["wrong"]).sum()


def grad(t):
    return {"right": np.cos(t["right"]), "wrong": np.cos(t["wrong"]) * (1 + 1e-6)}


theta = {"right": rng.standard_normal(5), "wrong": rng.standard_normal(5)}
wrong = tw.check_gradient(f, grad, theta)
print(f"a mistake of 1e-6 is found in {wrong.failed}")
wrong.plot(right).set_title("a block that is right, and one that is wrong by 1e-6")
figure.savefig("gradient-checking.png", dpi=120)
