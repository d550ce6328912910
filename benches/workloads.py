"""The timed workloads, as plain data: what every library gets, and nothing about any library.

A new workload is one entry in one of the three tables at the end. A layer that the libraries do not
know yet ("batchnorm", "dropout") is named in `hidden` here and gets one entry in the layer table of
each peer that has it; a peer without the entry is left out of that row.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

# Enough different batches that no library can benefit from one cached batch, few enough that the
# slowest workload still passes over all of them within a turn.
MOST_BATCHES = 16
FEWEST_BATCHES = 2
MOST_FLOP_A_PASS = 4e9
MOST_BYTES_A_PASS = 64 << 20


@dataclass(frozen=True)
class Optimizer:
    """Hyperparameters under PyTorch's names; `kind` is "sgd", "adam" or "adamw"."""

    kind: str
    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


SGD = Optimizer("sgd", lr=0.01, momentum=0.9)
ADAM = Optimizer("adam", lr=1e-3)
# At a rate of 1e-3, wide or deep nets change so much at first that rounding alone makes the
# libraries diverge, which could not be told from different work. Time does not depend on the rate.
ADAM_WIDE = Optimizer("adam", lr=1e-5)
ADAMW = Optimizer("adamw", lr=1e-3, weight_decay=0.1)
ADAMW_WIDE = Optimizer("adamw", lr=1e-5, weight_decay=0.1)


@dataclass(frozen=True)
class Work:
    """A float32 dense network and a batch size; subclasses define what is done with them.

    `widths` are the features before, between and after the Linear layers; `hidden` is what follows
    each Linear but the last. `source` tells where users run it.
    """

    name: str
    widths: tuple[int, ...]
    batch: int
    source: str
    hidden: tuple[str, ...] = ("relu",)
    bias: bool = True
    # The best peer's time for a step divided by thalweg's should be at least this, if there is one.
    target: float | None = None

    @property
    def parameters(self) -> int:
        return sum((i + self.bias) * o for i, o in pairwise(self.widths))

    @property
    def flop(self) -> int:
        """Count multiplications and additions of the matrix products in a batch's forward pass."""
        return (
            2 * self.batch * sum(i * o for i, o in zip(self.widths, self.widths[1:], strict=False))
        )

    @property
    def batches(self) -> int:
        """Return how many different batches one pass goes over."""
        by_flop = MOST_FLOP_A_PASS // self.flop
        by_bytes = MOST_BYTES_A_PASS // (4 * self.batch * (self.widths[0] + self.widths[-1]))
        return int(max(FEWEST_BATCHES, min(MOST_BATCHES, by_flop, by_bytes)))

    @property
    def label(self) -> str:
        hidden = "+".join(self.hidden)
        return f"{'-'.join(map(str, self.widths))} {hidden} B{self.batch}"


@dataclass(frozen=True)
class Training(Work):
    """Forward, mean loss ("cross_entropy" of integer labels, or "mse"), backward, update."""

    loss: str = "cross_entropy"
    optimizer: Optimizer = ADAM

    @property
    def flop(self) -> int:
        forward = super().flop
        # Backward takes twice the work of forward, except the first layer's input gradient.
        return 3 * forward - 2 * self.batch * self.widths[0] * self.widths[1]

    @property
    def label(self) -> str:
        loss = {"cross_entropy": "CE", "mse": "MSE"}[self.loss]
        return f"{super().label} {self.optimizer.kind} {loss}"


@dataclass(frozen=True)
class Inference(Work):
    """The network's outputs for a batch, with dropout and statistics in evaluation mode."""

    @property
    def label(self) -> str:
        return f"inference {super().label}"


@dataclass(frozen=True)
class Update(Work):
    """The optimizer alone, with constant gradients: a test of memory bandwidth."""

    optimizer: Optimizer = ADAMW
    # AdamW reads p, g, m, v and writes p, m, v: seven float32.
    bytes_per_parameter: int = 28

    @property
    def label(self) -> str:
        return f"{self.optimizer.kind} update of {self.parameters / 1e6:.1f} M parameters"


class Data:
    """The arrays of a workload, the same for every library, seeded by the workload's name.

    weights : list of (weight, bias) float32, shapes (out, in) and (out,); a bias may be None
    xs : float32 (batches, batch, features)
    ys : int64 (batches, batch) class labels, or float32 (batches, batch, outputs) targets
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._rng = np.random.default_rng(zlib.crc32(work.name.encode()))
        self.weights = [
            (self._uniform(i, o, i), self._uniform(i, o) if work.bias else None)
            for i, o in pairwise(work.widths)
        ]
        self.xs = self._normal(work.widths[0])

    @cached_property
    def ys(self) -> np.ndarray:
        work = self.work
        if isinstance(work, Training) and work.loss == "cross_entropy":
            return self._rng.integers(work.widths[-1], size=(work.batches, work.batch))
        return self._normal(work.widths[-1])

    def _uniform(self, fan_in: int, *shape: int) -> np.ndarray:
        """Draw from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for Linear layers."""
        bound = fan_in**-0.5
        return self._rng.uniform(-bound, bound, shape).astype(np.float32)

    def _normal(self, features: int) -> np.ndarray:
        shape = (self.work.batches, self.work.batch, features)
        return self._rng.standard_normal(shape, dtype=np.float32)


TANH = ("tanh",)
GELU = ("gelu",)
NORM = ("batchnorm", "relu")
ROW_NORM = ("layernorm", "relu")
SB3 = "Stable-Baselines3"

TRAINING = (
    Training("sklearn", (64, 100, 10), 200, "MLPClassifier's defaults on its digits", target=4.0),
    Training("w45", (10, 45, 45, 10), 128, "pytorch issue 144633"),
    Training("w46", (10, 46, 46, 10), 128, "pytorch issue 144633"),
    Training("ppo", (4, 64, 64, 2), 64, f"{SB3} PPO policy", TANH, loss="mse", target=6.0),
    Training("sac", (23, 256, 256, 1), 256, f"{SB3} SAC critic", loss="mse"),
    Training(
        "tabular", (54, 256, 256, 7), 256, "forest cover types", NORM, optimizer=ADAMW, target=2.5
    ),
    Training("td3", (23, 400, 300, 1), 256, f"{SB3} TD3 critic", loss="mse", optimizer=ADAM_WIDE),
    Training("pinn", (1, 20, 20, 20, 1), 128, "DeepXDE, full batch", TANH, loss="mse"),
    Training("pinn8", (3, *[20] * 8, 2), 5000, "PINN, Navier-Stokes", TANH, loss="mse"),
    Training("mnist128", (784, 128, 10), 64, "MNIST tutorials"),
    Training("mnist128-sgd", (784, 128, 10), 128, "MNIST tutorials", optimizer=SGD, target=2.5),
    Training(
        "mnist400-sgd", (784, 400, 400, 10), 128, "continual learning", optimizer=SGD, target=1.35
    ),
    Training("mnist512", (784, 512, 512, 10), 128, "MNIST tutorials"),
    Training(
        "mnist2000",
        (784, 2000, 2000, 10),
        256,
        "continual learning",
        optimizer=ADAM_WIDE,
        target=1.05,
    ),
    Training(
        "inr",
        (2, 256, 256, 256, 256, 3),
        4096,
        "images as coordinates",
        loss="mse",
        optimizer=ADAM_WIDE,
        target=1.35,
    ),
    Training("tcnn64x2", (32, 64, 64, 16), 1 << 18, "tiny-cuda-nn", loss="mse"),
    Training("tcnn64x4", (32, *[64] * 4, 16), 1 << 14, "tiny-cuda-nn", loss="mse"),
    Training(
        "dlrm-bottom", (13, 512, 256, 128), 2048, "MLPerf DLRM", loss="mse", optimizer=ADAM_WIDE
    ),
    Training(
        "dlrm-top",
        (479, 1024, 1024, 512, 256, 1),
        2048,
        "MLPerf DLRM",
        loss="mse",
        optimizer=ADAM_WIDE,
    ),
    Training("wide640", (640,) * 5, 512, "mlx issue 322", loss="mse", optimizer=ADAM_WIDE),
    Training("wide1024", (1024,) * 5, 512, "wide", GELU, loss="mse", optimizer=ADAM_WIDE),
    Training(
        "wide4096",
        (1024, 4096, 4096, 1024),
        512,
        "wide",
        loss="mse",
        optimizer=ADAMW_WIDE,
        target=1.0,
    ),
)

INFERENCE = (
    Inference("act", (4, 64, 64, 2), 1, "one action of an agent", TANH, target=6.0),
    Inference("one-image", (784, 400, 400, 10), 1, "one request of a service", target=1.2),
    Inference("many-images", (784, 400, 400, 10), 1024, "scoring a data set", target=1.1),
)

UPDATE = (Update("adamw", (4096, 4096), 1, "optimizers of large models", bias=False, target=1.35),)

# With --quick, workloads with long passes are left out; the optimizer's row stays.
QUICK_MOST_FLOP = 5e9
