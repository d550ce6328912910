"""PyTorch on the CPU: eager, and with `torch.compile`.

Compiled training is written in two ways, of which the faster is timed: the forward pass and the
loss compiled (with their backward pass) and the fused optimizer; or the whole step as one graph.
Eager inference, likewise: by calling the module, or the kernels themselves.

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
from torch.func import functional_call, grad_and_value

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


def updated(o: Optimizer, weights, gradients, first, second, t) -> None:
    """Take an optimizer's step in place, written out for `torch.compile`."""
    if o.kind == "sgd":
        for w, v, g in zip(weights, first, gradients, strict=True):
            v.mul_(o.momentum).add_(g)
            w.sub_(o.lr * v)
        return
    (b1, b2), keep = o.betas, 1 - o.lr * o.weight_decay if o.kind == "adamw" else 1
    t.add_(1)
    c1, root_c2 = 1 - b1**t, torch.sqrt(1 - b2**t)
    for w, m, v, g in zip(weights, first, second, gradients, strict=True):
        m.mul_(b1).add_((1 - b1) * g)
        v.mul_(b2).add_((1 - b2) * g * g)
        w.mul_(keep).sub_((o.lr / c1) * m / (torch.sqrt(v) / root_c2 + o.eps))


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


class ByKernels(Torch):
    """Outputs without modules, activations in place: takes less time per call, for few rows."""

    def __init__(self, work: Inference, data: Data, threads: int) -> None:
        super().__init__(work, data, threads)
        in_place = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_}
        parts = [
            partial(torch.addmm, layer.bias.detach(), mat2=layer.weight.detach().t())
            if isinstance(layer, nn.Linear) and work.bias
            else in_place.get(type(layer), layer)
            for layer in self.model
        ]

        def outputs(x):
            for part in parts:
                x = part(x)
            return x

        self.outputs = outputs


class WholeStep(Torch):
    """Forward, backward and update compiled as one graph, without autograd's engine at run time."""

    def __init__(self, work: Training, data: Data, threads: int) -> None:
        super().__init__(work, data, threads)
        torch.compiler.reset()  # as above
        model, loss, o = self.model, LOSSES[work.loss](), work.optimizer

        def loss_of(weights, buffers, x, y):
            # A transform must not change what it is given: running statistics go into copies.
            buffers = {name: b.clone() for name, b in buffers.items()}
            return loss(functional_call(model, (weights, buffers), x), y), buffers

        def step(weights, buffers, first, second, t, x, y):
            gradients, (value, after) = grad_and_value(loss_of, has_aux=True)(
                weights, buffers, x, y
            )
            for name, buffer in buffers.items():
                buffer.copy_(after[name])
            updated(o, weights.values(), gradients.values(), first, second, t)
            return value

        self.step = torch.compile(step, fullgraph=True, dynamic=False)

    def reset(self) -> None:
        super().reset()
        self.weights = {name: p.detach() for name, p in self.model.named_parameters()}
        zeros = [torch.zeros_like(w) for w in self.weights.values()]
        self.state = zeros, [torch.zeros_like(z) for z in zeros], torch.zeros(())

    def train(self, passes: int) -> float:
        self.model.train()
        step, weights, buffers = self.step, self.weights, dict(self.model.named_buffers())
        batches = list(zip(self.xs, self.ys, strict=True))
        with torch.no_grad():
            for _ in range(passes):
                total = 0.0
                for x, y in batches:
                    total += step(weights, buffers, *self.state, x, y).item()
        return total / len(batches)


EAGER = Mode("torch", Torch, supports, also={Inference: ByKernels})
COMPILED = Mode(
    "torch.compile",
    partial(Torch, compiled=True),
    lambda work: isinstance(work, Training | Inference) and supports(work),
    also={Training: WholeStep},
)
MODES = (EAGER,) if MISSING else (EAGER, COMPILED)
