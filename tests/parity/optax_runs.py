"""Optax' paths for every row of the table, as a program: ``python -m parity.optax_runs``.

Of its own, because no process that has JAX in it can fork, as other tests do.
"""

import pickle
import sys

import numpy as np

from .runs import jolt, slope_of_network, start
from .tables import CHANGED, CHAOTIC, FACTOR, OPTAX, STEPS, blocks

#: How often a chaotic reference is run.
JOLTS = 3


def paths(row, slopes, slope):
    """Give the path for gradients, and in the network; that is jolted, too, if it is chaotic."""
    import jax
    import optax

    _, options, theirs = OPTAX[row]
    lr = options["lr"]
    peer = theirs(optax, lambda t: jax.numpy.where(t < CHANGED, lr, lr * FACTOR))
    update = jax.jit(peer.update)

    def run(gradient, disturb=lambda theta: theta):
        path = [start()]
        theta = blocks(path[0])
        state = peer.init(theta)
        for t in range(STEPS):
            step, state = update(blocks(gradient(t, path[-1])), state, theta)
            theta = optax.apply_updates(theta, step)
            flat = disturb(np.concatenate([np.ravel(part) for part in theta]))
            theta = blocks(flat)
            path.append(flat)
        return np.array(path)

    def jolted(dtype, seed):
        rng = np.random.default_rng(seed)
        return run(lambda _, theta: slope(theta), lambda theta: jolt(theta, rng, dtype))

    given, network = run(lambda t, _: slopes[t]), run(lambda _, theta: slope(theta))
    dtypes = CHAOTIC["optax"].get(row, ())
    return given, network, {d: [jolted(d, seed) for seed in range(JOLTS)] for d in dtypes}


if __name__ == "__main__":
    slopes, slope = pickle.load(sys.stdin.buffer), slope_of_network()
    pickle.dump([paths(row, slopes, slope) for row in range(len(OPTAX))], sys.stdout.buffer)
