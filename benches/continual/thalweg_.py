"""The experiment in thalweg."""

import itertools
import time
import warnings

import numpy as np

import thalweg as tw
from thalweg import continual, nn, optim


def versions():
    return [f"thalweg {tw.__version__}"]


def network(tasks, args, seed):
    """Make the network that both libraries start from."""
    x, y, _, _ = tasks[0]
    widths = [x.shape[1], *args.hidden, int(y.max()) + 1]
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1], seed=seed)


def run(tasks, args, seed):
    tw.set_num_threads(args.threads)
    trainer = tw.Trainer(
        network(tasks, args, seed), loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=1e-3)
    )
    strategy = continual.EWC(
        trainer, args.strength, fisher="batched", batch_size=args.batch_size, convention="avalanche"
    )
    scenario = continual.from_arrays(tasks)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a strength that is too small
        for task in scenario:
            strategy.fit(task, epochs=args.epochs, batch_size=args.batch_size)
    seconds = time.perf_counter() - start
    return [np.mean(strategy.predict(task.x_test) == task.y_test) for task in scenario], seconds
