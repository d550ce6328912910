"""All losses with their twins of PyTorch, targets for them, and small models that have them."""

import numpy as np

import thalweg as tw
from thalweg import nn, optim

from . import _classes, _densities, _numbers
from ._classes import K as K
from ._classes import W as W

N = 23

# (ours, how to make theirs, which targets)
TWINS = _numbers.TWINS | _classes.TWINS | _densities.TWINS
LOSSES = {name: (loss, kind) for name, (loss, _, kind) in TWINS.items()}

#: Losses with a weight for each of K outputs.
NEEDS_K = [
    loss
    for loss, *_ in TWINS.values()
    if tuple(W) in loss._spec(K) or getattr(loss, "heads", None) or getattr(loss, "active", None)
]


def targets(kind, rng, n=N, k=K):
    """Targets of a kind for k outputs."""
    labels = rng.integers(0, k, n)
    return {
        "numbers": 2 * rng.standard_normal((n, k)),
        "half": rng.standard_normal((n, k // 2)),
        "labels": labels,
        "labels 0 and 3": np.where(labels < 2, 0, 3),
        "some labels": np.where(np.arange(n) % 5 == 2, -100, labels),
        "labels, some -1": np.where(np.arange(n) % 5 == 2, -1, labels),
        "shares": rng.dirichlet(np.ones(k), n),
        "probabilities": rng.uniform(size=(n, k)),
        "bits": rng.integers(0, 2, (n, k)).astype(float),
        "counts": rng.poisson(3.0, (n, k)).astype(float),
    }[kind]


def network(k=K, dtype="float64"):
    layers = nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, k)
    return nn.Sequential(*layers, dtype=dtype, seed=3)


def identity(k, dtype="float64"):
    """A model whose output is its input, so that a step shows the gradient of the loss."""
    model = nn.Sequential(nn.Linear(k, k, bias=False), dtype=dtype)
    model.flat_parameters = np.eye(k).ravel()
    return model


def gradient(loss, o, y, weight=None, dtype="float64"):
    """Value, and gradient by the outputs, of a loss of a batch of one row per output.

    With x the unit matrix the weight is the output, transposed, and so is its gradient.
    """
    n, k = o.shape
    model = nn.Sequential(nn.Linear(n, k, bias=False), dtype=dtype)
    model.flat_parameters = o.T.ravel()
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=1.0))
    value = trainer.step(np.eye(n), y, weight)
    return value, (o.astype(dtype) - model.flat_parameters.reshape(k, n).T).astype(float)
