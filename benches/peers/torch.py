"""PyTorch on the CPU: eager, and with `torch.compile`.

As its guides advise: fused optimizers, `zero_grad(set_to_none=True)`, `inference_mode`, one
intra-op pool of the given size, denormals flushed. The only synchronization in a step is the
`loss.item()` that passes the loss to Python, which thalweg's step does, too.
"""

from __future__ import annotations

import shutil
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ..workloads import Data, Inference, Optimizer, Training, Update, Work
from . import Mode

VERSION = torch.__version__
MISSING = (
    "" if shutil.which("g++") or shutil.which("clang++") else "no C++ compiler, so no torch.compile"
)

LAYERS = {
    "relu": lambda width: nn.ReLU(),
    "tanh": lambda width: nn.Tanh(),
    "gelu": lambda width: nn.GELU(),
    "batchnorm": nn.BatchNorm1d,
}
LOSSES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss}


def optimizer_of(o: Optimizer, parameters) -> torch.optim.Optimizer:
    if o.kind == "sgd":
        return torch.optim.SGD(
            parameters, lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay, fused=True
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[o.kind]
    return kind(
        parameters, lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay, fused=True
    )


class Torch:
    """Batches are tensors from the start."""

    def __init__(self, work: Work, data: Data, threads: int, compiled: bool = False) -> None:
        # Before the pool's first use: its threads inherit the mode of the thread that creates them.
        torch.set_flush_denormal(True)
        torch.set_num_threads(threads)
        self.work, self.data = work, data
        layers = []
        for i, o in pairwise(work.widths):
            layers.append(nn.Linear(i, o, bias=work.bias))
            layers += [LAYERS[kind](o) for kind in work.hidden]
        del layers[-len(work.hidden) :]  # none after the last Linear
        self.model = nn.Sequential(*layers)
        self.linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.xs = list(torch.from_numpy(data.xs))
        self.outputs = self.model
        if isinstance(work, Training):
            loss, model = LOSSES[work.loss](), self.model
            self.ys = list(torch.from_numpy(data.ys))
            self.loss = lambda x, y: loss(model(x), y)
        if compiled:
            # Graphs of earlier workloads count against the recompilation limit, beyond which torch
            # would silently run eager code.
            torch.compiler.reset()
            if isinstance(work, Training):
                self.loss = torch.compile(self.loss, fullgraph=True)
            self.outputs = torch.compile(self.model, fullgraph=True)
        self.reset()

    def reset(self) -> None:
        with torch.no_grad():
            for layer, (weight, bias) in zip(self.linears, self.data.weights, strict=True):
                layer.weight.copy_(torch.from_numpy(weight))
                if bias is not None:
                    layer.bias.copy_(torch.from_numpy(bias))
            for layer in self.model:
                if isinstance(layer, nn.BatchNorm1d):
                    layer.reset_parameters()  # and its running averages
        if isinstance(self.work, Training):
            self.optimizer = optimizer_of(self.work.optimizer, self.model.parameters())
        elif isinstance(self.work, Update):
            self.optimizer = optimizer_of(self.work.optimizer, self.model.parameters())
            self.optimizer.zero_grad(set_to_none=True)
            self.model(self.xs[0]).backward(torch.from_numpy(self.data.ys[0]))

    def train(self, passes: int) -> float:
        self.model.train()
        loss_of, optimizer = self.loss, self.optimizer
        batches = list(zip(self.xs, self.ys, strict=True))
        for _ in range(passes):
            total = 0.0
            for x, y in batches:
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(x, y)
                loss.backward()
                optimizer.step()
                total += loss.item()
        return total / len(batches)

    def predict(self, passes: int) -> np.ndarray:
        self.model.eval()
        with torch.inference_mode():
            for _ in range(passes):
                for x in self.xs:
                    out = self.outputs(x)
        return out.numpy()

    def update(self, passes: int) -> None:
        for _ in range(passes):
            self.optimizer.step()

    def first_weight(self) -> np.ndarray:
        return self.linears[0].weight.detach().numpy()


def supports(work: Work) -> bool:
    return all(kind in LAYERS for kind in work.hidden)


EAGER = Mode("torch", Torch, supports)
COMPILED = Mode(
    "torch.compile",
    partial(Torch, compiled=True),
    lambda work: isinstance(work, Training | Inference) and supports(work),
)
MODES = (EAGER,) if MISSING else (EAGER, COMPILED)
