"""Three methods of Hsu et al. 2018 as the authors' code has them, trained in PyTorch alone.

``python -m benches.reproduction.in_torch --data mnist.npz`` prints what they reach: where a figure
of the page is not the published one, this tells whose the difference is. Half a minute a run.
"""

import argparse

import numpy as np
import torch
from torch import nn

from benches.reproduction import data, protocol
from benches.reproduction.__main__ import seeds

EPOCHS, ROWS, WIDTH = 4, 128, 400
MEMORY = 1100  # samples that rehearsal keeps
cross_entropy = nn.CrossEntropyLoss()


class Network(nn.Module):
    """A head for each task, or one whose outputs are of the classes so far, or of both classes."""

    def __init__(self, kind):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(1024, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        outputs = {"task": [2] * 5, "domain": [2], "class": [10]}[kind]
        self.heads = nn.ModuleList(nn.Linear(WIDTH, n) for n in outputs)
        self.kind = kind

    def forward(self, x, task):
        head = self.heads[task if self.kind == "task" else 0]
        return head(self.body(x))[:, : 2 * task + 2 if self.kind == "class" else 2]


def batches(x, y):
    order = torch.randperm(len(x))
    for part in order.split(ROWS):
        yield x[part], y[part]


def run(method, kind, strength, tasks, seed):
    """Accuracy in per cent on all tasks after the last, their mean."""
    torch.manual_seed(seed)
    network = Network(kind)
    params = list(network.parameters())
    optimizer = torch.optim.Adam(params, lr=1e-3)
    importance = [torch.zeros_like(p) for p in params]
    path = [torch.zeros_like(p) for p in params]
    anchor = [p.detach().clone() for p in params]
    memory = []
    for index, (x, y, _, _) in enumerate(tasks):
        new = x, y
        if memory:  # old samples as often as makes them about as many as new ones
            times = max(len(x) // MEMORY, 1)
            x, y = (torch.cat([part[i] for part in memory] * times + [new[i]]) for i in (0, 1))
        for _ in range(EPOCHS):
            for batch, labels in batches(x, y):
                before = [p.detach().clone() for p in params]
                optimizer.zero_grad(set_to_none=False)
                cross_entropy(network(batch, index), labels).backward()
                slopes = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in params]
                if strength and index:
                    parts = zip(importance, params, anchor, strict=True)
                    (strength * sum((w * (p - a) ** 2).sum() for w, p, a in parts)).backward()
                optimizer.step()
                for total, slope, p, old in zip(path, slopes, params, before, strict=True):
                    total -= slope * (p.detach() - old)
        if method == "si":
            for w, total, p, a in zip(importance, path, params, anchor, strict=True):
                w += total / ((p.detach() - a) ** 2 + 0.1)
                total.zero_()
        elif method == "mas":
            for batch, _ in batches(*new):
                loss = network(batch, index).pow(2).mean()
                slopes = torch.autograd.grad(loss, params, allow_unused=True)
                for w, slope in zip(importance, slopes, strict=True):
                    w += 0 if slope is None else slope.abs() / -(-len(new[0]) // ROWS)
        elif method == "rehearsal":
            keep = MEMORY // (index + 1)
            memory = [(old[:keep], labels[:keep]) for old, labels in memory]
            chosen = torch.randperm(len(new[0]))[:keep]
            memory.append((new[0][chosen], new[1][chosen]))
        anchor = [p.detach().clone() for p in params]
    with torch.no_grad():
        last = len(tasks) - 1
        right = [
            network(x, index if kind == "task" else last).argmax(1) == y
            for index, (_, _, x, y) in enumerate(tasks)
        ]
    return 100 * np.mean([part.float().mean().item() for part in right])


#: The scenario and the strength of the authors' script.
METHODS = {"si": ("task", 300.0), "mas": ("class", 1.0), "rehearsal": ("domain", None)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--seeds", type=seeds, default=list(range(1, 11)))
    args = parser.parse_args()
    scenario = protocol.split_in_order(data.load(args.data), "class", 0)
    for method in args.methods:
        kind, strength = METHODS[method]
        tasks = []
        for index, task in enumerate(scenario):
            first = 0 if kind == "class" else 2 * index
            x, y, x_test, y_test = map(np.asarray, (task.x, task.y, task.x_test, task.y_test))
            tasks.append([torch.from_numpy(a) for a in (x, y - first, x_test, y_test - first)])
        found = []
        for seed in args.seeds:
            found.append(run(method, kind, strength, tasks, seed))
            print(f"{method} {kind} {seed}: {found[-1]:.2f} %", flush=True)
        if len(found) > 1:
            error = np.std(found, ddof=1) / len(found) ** 0.5
            print(f"{method} {kind}: {np.mean(found):.2f} ± {error:.2f} %, {len(found)} seeds")


if __name__ == "__main__":
    main()
