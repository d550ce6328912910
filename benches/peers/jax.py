"""JAX on the CPU: one jitted step per batch, and one jitted `lax.scan` over all batches of a pass.

Weights and optimizer state are trees of arrays, as usual, or one flat array each, which takes fewer
buffers per call and is faster for small networks: the faster of the two is timed.

Parameters and optimizer state are donated, so that updates happen in place. Steps are dispatched
without waiting, as JAX's guides advise; `block_until_ready` comes at the end of each pass, where
the losses are read. The optimizers are written out (they compile to the same code as optax's).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..workloads import Data, Optimizer, Training, Update, Work
from . import Mode

VERSION = jax.__version__
MISSING = ""

LAYERS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": partial(jax.nn.gelu, approximate=False)}


def linear(x, weight, bias):
    return x @ weight if bias is None else x @ weight + bias


def batchnorm(x, scale, shift):
    """Normalize by batch statistics; unlike the others, this keeps no running averages."""
    mean, variance = x.mean(axis=0), x.var(axis=0)
    return (x - mean) * (scale * jax.lax.rsqrt(variance + 1e-5)) + shift


def outputs(hidden, weights, x):
    *first, last = weights
    for weight, bias, *norm in first:
        x = linear(x, weight, bias)
        for kind in hidden:
            x = batchnorm(x, *norm) if kind == "batchnorm" else LAYERS[kind](x)
    return linear(x, *last)


def cross_entropy(z, labels):
    # Products with one-hot rows: about as fast as picking by index, and faster in narrow networks.
    picked = jax.nn.one_hot(labels, z.shape[1]) * jax.nn.log_softmax(z)
    return -picked.sum(axis=1).mean()


def mse(z, target):
    return jnp.square(z - target).mean()


LOSSES = {"cross_entropy": cross_entropy, "mse": mse}


def update_rule(o: Optimizer):
    """Return `(zeros(weights) -> state, update(weights, state, gradients) -> weights, state)`."""
    tree = jax.tree_util.tree_map

    def zeros(weights):
        return tree(jnp.zeros_like, weights)

    def sgd(weights, velocity, gradients):
        velocity = tree(lambda v, g: o.momentum * v + g, velocity, gradients)
        return tree(lambda w, v: w - o.lr * v, weights, velocity), velocity

    def adam(weights, state, gradients):
        t, m, v = state
        (b1, b2), t = o.betas, t + 1
        m = tree(lambda m, g: b1 * m + (1 - b1) * g, m, gradients)
        v = tree(lambda v, g: b2 * v + (1 - b2) * g * g, v, gradients)
        c1, root_c2 = 1 - b1**t, jnp.sqrt(1 - b2**t)
        keep = 1 - o.lr * o.weight_decay if o.kind == "adamw" else 1
        weights = tree(
            lambda w, m, v: w * keep - (o.lr / c1) * m / (jnp.sqrt(v) / root_c2 + o.eps),
            weights,
            m,
            v,
        )
        return weights, (t, m, v)

    if o.kind == "sgd":
        return zeros, sgd
    return lambda weights: (jnp.float32(0), zeros(weights), zeros(weights)), adam


class Jax:
    """Batches are device arrays from the start; weights are (in, out), as usual in JAX."""

    def __init__(
        self, work: Work, data: Data, threads: int, scan: bool = False, flat: bool = False
    ) -> None:
        # JAX has no call that sets its threads: it uses the CPUs that the process may use.
        self.work, self.data, self.scan, self.flat = work, data, scan, flat
        self.xs = jnp.array(data.xs)
        tree_of = self.tree_of = (
            ravel_pytree(self.initial())[1] if flat else lambda weights: weights
        )

        def net(weights, x):
            return outputs(work.hidden, tree_of(weights), x)

        self.outputs = jax.jit(net)
        if isinstance(work, Training):
            self.ys = jnp.array(data.ys)
            self.zeros, update = update_rule(work.optimizer)
            loss = LOSSES[work.loss]

            def step(weights, state, x, y):
                value, gradients = jax.value_and_grad(lambda w: loss(net(w, x), y))(weights)
                return *update(weights, state, gradients), value

            def epoch(weights, state, xs, ys):
                def body(carry, batch):
                    *carry, value = step(*carry, *batch)
                    return tuple(carry), value

                (weights, state), losses = jax.lax.scan(body, (weights, state), (xs, ys))
                return weights, state, losses.mean()

            self.targets = [self.ys[i] for i in range(work.batches)]
            self.step = jax.jit(step, donate_argnums=(0, 1))
            self.epoch = jax.jit(epoch, donate_argnums=(0, 1))
        elif isinstance(work, Update):
            self.zeros, update = update_rule(work.optimizer)
            self.gradients = [(jnp.array(data.xs[0].T @ data.ys[0]), None)]
            self.step = jax.jit(update, donate_argnums=(0, 1))
        self.batches = [self.xs[i] for i in range(work.batches)]
        self.reset()

    def initial(self) -> list[tuple]:
        # Copies: a buffer that shares memory with NumPy cannot be donated.
        *first, last = [
            (jnp.array(w.T), None if b is None else jnp.array(b)) for w, b in self.data.weights
        ]
        if "batchnorm" in self.work.hidden:
            first = [(w, b, jnp.ones(w.shape[1]), jnp.zeros(w.shape[1])) for w, b in first]
        return [*first, last]

    def reset(self) -> None:
        weights = self.initial()
        self.weights = ravel_pytree(weights)[0] if self.flat else weights
        if isinstance(self.work, Training | Update):
            self.state = self.zeros(self.weights)

    def train(self, passes: int) -> float:
        weights, state = self.weights, self.state
        if self.scan:
            for _ in range(passes):
                weights, state, mean = self.epoch(weights, state, self.xs, self.ys)
        else:
            batches = list(zip(self.batches, self.targets, strict=True))
            for _ in range(passes):
                losses = []
                for x, y in batches:
                    weights, state, loss = self.step(weights, state, x, y)
                    losses.append(loss)
                mean = np.mean(jax.block_until_ready(losses))
        self.weights, self.state = jax.block_until_ready((weights, state))
        return float(mean)

    def predict(self, passes: int) -> np.ndarray:
        for _ in range(passes):
            for x in self.batches:
                # A caller would wait for each answer.
                out = self.outputs(self.weights, x).block_until_ready()
        return np.asarray(out)

    def update(self, passes: int) -> None:
        for _ in range(passes):
            self.weights, self.state = self.step(self.weights, self.state, self.gradients)
        jax.block_until_ready(self.weights)

    def first_weight(self) -> np.ndarray:
        return np.asarray(self.tree_of(self.weights)[0][0]).T


def supports(work: Work) -> bool:
    kinds = {*LAYERS, "batchnorm"} if isinstance(work, Training) else {*LAYERS}
    return kinds.issuperset(work.hidden)


MODES = (
    Mode("jax", Jax, supports, also={Training: partial(Jax, flat=True)}),
    Mode(
        "jax.scan",
        partial(Jax, scan=True),
        lambda work: isinstance(work, Training) and supports(work),
        whole_epochs=True,
        also={Training: partial(Jax, scan=True, flat=True)},
    ),
)
