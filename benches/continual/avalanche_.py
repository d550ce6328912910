"""The experiment in Avalanche; needs `pip install avalanche-lib`."""

import time

import avalanche
import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils.classification_dataset import (
    _make_taskaware_tensor_classification_dataset as tensor_dataset,
)
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import EWC

import thalweg as tw

from .thalweg_ import network


def versions():
    return [f"avalanche-lib {avalanche.__version__}", f"torch {torch.__version__}"]


def network_of(model):
    """Make the same network in PyTorch."""
    net = torch.nn.Sequential(
        *(
            torch.nn.Linear(layer.in_features, layer.out_features)
            if isinstance(layer, tw.nn.Linear)
            else torch.nn.ReLU()
            for layer in model.layers
        )
    )
    state = model.state_dict()
    net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
    return net


def dataset(x, y):
    y = torch.from_numpy(y)
    return tensor_dataset(torch.from_numpy(x), y, targets=y, task_labels=0)


def run(tasks, args, seed):
    torch.set_num_threads(args.threads)
    torch.manual_seed(seed)
    net = network_of(network(tasks, args, seed))
    benchmark = benchmark_from_datasets(
        train=[dataset(x, y) for x, y, _, _ in tasks],
        test=[dataset(x, y) for _, _, x, y in tasks],
    )
    strategy = EWC(
        model=net,
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
        criterion=torch.nn.CrossEntropyLoss(),
        ewc_lambda=args.strength,
        train_mb_size=args.batch_size,
        train_epochs=args.epochs,
        evaluator=EvaluationPlugin(),  # no metrics or output while the clock runs
    )
    start = time.perf_counter()
    for experience in benchmark.train_stream:
        strategy.train(experience)
    seconds = time.perf_counter() - start
    net.eval()
    with torch.no_grad():
        found = [net(torch.from_numpy(x)).argmax(1).numpy() for _, _, x, _ in tasks]
    return [np.mean(f == y) for f, (_, _, _, y) in zip(found, tasks, strict=True)], seconds
