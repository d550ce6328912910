"""The same experiment with EWC in thalweg and in Avalanche, side by side in one run.

Permuted images, one head; the same arrays, permutations, initial weights, batch size, number of
steps, Adam, and the same penalty: lambda times the sum over all earlier tasks, with the Fisher
information computed as Avalanche does, from batches in its own order. Each library shuffles rows by
its own random numbers. Times include training and importances, but not evaluation; each library
runs once for each seed, in turns.
"""

import argparse
import importlib
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benches import machine
from benches.reproduction import data

LIBRARIES = ("thalweg", "avalanche")


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benches.continual", description=__doc__)
    parser.add_argument(
        "--data", default=data.FASHION, help="an .npz file, or a directory with IDX files"
    )
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000, help="training rows per task")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256], help="units per layer")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--strength", type=float, default=1e4, help="lambda; 0 is plain training")
    parser.add_argument("--threads", type=int, default=len(machine.allowed_cpus()))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    return parser.parse_args()


def tasks_of(arrays, args, seed):
    """Return (x, y, x_test, y_test) for each task; the first one keeps the order of pixels."""
    x, y, x_test, y_test = arrays
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(x))[: args.rows]
    orders = [np.arange(x.shape[1])]
    orders += [rng.permutation(x.shape[1]) for _ in range(args.tasks - 1)]
    # `take`, as indexing columns would give arrays in column-major order.
    x, y = x[rows], y[rows]
    return [(x.take(order, 1), y, x_test.take(order, 1), y_test) for order in orders]


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    modules = {
        name: importlib.import_module(f"benches.continual.{name}_") for name in args.libraries
    }
    arrays = data.load(Path(args.data))
    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    versions += [version for module in modules.values() for version in module.versions()]
    print(f"- CPU: {machine.cpu_line()}, {args.threads} threads")
    print(f"- Versions: {', '.join(versions)}")
    print(f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M UTC}")
    print(
        f"- {args.tasks} permutations of {Path(args.data).stem}, {args.rows} rows each,"
        f" {args.epochs} epochs of batches of {args.batch_size}, hidden units {args.hidden},"
        f" ReLU, Adam 0.001, lambda {args.strength:g}\n"
    )
    print("| seed | library | accuracy | seconds |\n|---|---|---|---|", flush=True)
    figures = {name: [] for name in modules}
    for seed in range(1, args.seeds + 1):
        tasks = tasks_of(arrays, args, seed)
        for name, module in modules.items():
            machine.rest()
            accuracies, seconds = module.run(tasks, args, seed)
            figures[name].append((np.mean(accuracies), seconds))
            print(f"| {seed} | {name} | {np.mean(accuracies):.2%} | {seconds:.2f} |", flush=True)
    for name, values in figures.items():
        (mean, seconds), error = np.mean(values, axis=0), 0.0
        if len(values) > 1:
            error = np.std(values, axis=0, ddof=1)[0] / np.sqrt(len(values))
        print(f"| mean | {name} | {mean:.2%} ± {error:.2%} | {seconds:.2f} |")
    if len(figures) == 2:
        ours, theirs = (sum(seconds for _, seconds in values) for values in figures.values())
        print(f"\nthalweg is {theirs / ours:.1f} times as fast.")


if __name__ == "__main__":
    main()
