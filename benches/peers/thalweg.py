"""thalweg, in the two ways that users train: `Trainer.step` per batch, and `Trainer.fit`."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np

import thalweg as tw
from thalweg import nn, optim

from ..workloads import Data, Optimizer, Training, Update, Work
from . import Mode

VERSION = tw.__version__
MISSING = ""

LAYERS = {
    "relu": lambda width: nn.ReLU(),
    "tanh": lambda width: nn.Tanh(),
    "gelu": lambda width: nn.GELU(),
    "batchnorm": nn.BatchNorm1d,
    "layernorm": nn.LayerNorm,
}
LOSSES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss}


def optimizer_of(o: Optimizer):
    if o.kind == "sgd":
        return optim.SGD(lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[o.kind]
    return kind(lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay)


def model_of(work: Work) -> nn.Sequential:
    layers: list[nn.Layer] = []
    for i, o in pairwise(work.widths):
        layers.append(nn.Linear(i, o, bias=work.bias))
        layers += [LAYERS[kind](o) for kind in work.hidden]
    del layers[-len(work.hidden) :]  # none after the last Linear
    return nn.Sequential(*layers, dtype="float32", seed=0)


class Thalweg:
    """Inputs and results are NumPy arrays, as for users: there is no other form."""

    def __init__(self, work: Work, data: Data, threads: int, fit: bool = False) -> None:
        tw.set_num_threads(threads)
        self.work, self.data, self.fit = work, data, fit
        self.model = model_of(work)
        self.first = self.model.state_dict()
        linears = [i for i, layer in enumerate(self.model.layers) if isinstance(layer, nn.Linear)]
        for i, (weight, bias) in zip(linears, data.weights, strict=True):
            self.first[f"{i}.weight"] = weight
            if bias is not None:
                self.first[f"{i}.bias"] = bias
        if fit:
            self.x = data.xs.reshape(-1, work.widths[0])
            self.y = data.ys.reshape(-1, *data.ys.shape[2:])
        self.reset()

    def reset(self) -> None:
        self.model.load_state_dict(self.first)
        if isinstance(self.work, Training):
            self.optimizer = optimizer_of(self.work.optimizer)
            self.trainer = tw.Trainer(
                self.model, loss=LOSSES[self.work.loss](), optimizer=self.optimizer
            )
        elif isinstance(self.work, Update):
            self.optimizer = optimizer_of(self.work.optimizer)
            self.model.zero_grad()
            self.model.forward(self.data.xs[0], training=True)
            self.model.backward(self.data.ys[0])

    def train(self, passes: int) -> float:
        if self.fit:
            # Batches in order, as the peers do not shuffle either.
            size = self.work.batch
            fit = self.trainer.fit(self.x, self.y, epochs=passes, batch_size=size, shuffle=False)
            return fit["loss"][-1]
        step, batches = self.trainer.step, list(zip(self.data.xs, self.data.ys, strict=True))
        for _ in range(passes):
            total = 0.0
            for x, y in batches:
                total += step(x, y)
        return total / len(batches)

    def predict(self, passes: int) -> np.ndarray:
        model, xs = self.model, list(self.data.xs)
        for _ in range(passes):
            for x in xs:
                out = model(x)
        return out

    def update(self, passes: int) -> None:
        for _ in range(passes):
            self.optimizer.step(self.model)

    def first_weight(self) -> np.ndarray:
        return self.model.state_dict()["0.weight"]


def supports(work: Work) -> bool:
    return all(kind in LAYERS for kind in work.hidden)


MODES = (
    Mode("thalweg", Thalweg, supports),
    Mode(
        "thalweg.fit",
        partial(Thalweg, fit=True),
        lambda work: isinstance(work, Training) and supports(work),
        whole_epochs=True,
    ),
)
