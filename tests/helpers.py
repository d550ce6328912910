"""What several test files compute with."""

import functools
from itertools import pairwise

import numpy as np

import thalweg as tw
from thalweg import continual, nn, optim


def off(found, expected):
    """How far arrays are apart, relative to what is expected."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def squares(output, target):
    """`nn.MSELoss` as a loss of the user's own."""
    return float(((output - target) ** 2).mean()), 2 * (output - target) / output.size


def cut(*arrays, size=16):
    """Cut arrays into batches: of 50 rows, 16, 16, 16 and 2."""
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


@functools.cache  # of plain training, which several compare with
def accuracy_on_permuted_digits(make, optimizer=optim.Adam, hidden=(64,), epochs=10):
    """The mean accuracy over three tasks and seeds of a strategy around a trainer."""
    means, widths = [], (64, *hidden)
    for seed in range(3):
        scenario = continual.permuted(*tw.datasets.digits(), tasks=3, seed=seed)
        layers = [it for pair in pairwise(widths) for it in (nn.Linear(*pair), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(widths[-1], 10), seed=seed)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer())
        means.append(continual.run(make(trainer), scenario, epochs=epochs).r[-1].mean())
    return np.mean(means)


class Frame:
    """As pandas' DataFrame: what becomes an array, and names of its columns."""

    def __init__(self, array):
        self.array, self.columns = array, list("abcde")

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


class FrameOfTypes(Frame):
    """A frame whose fourth column has a given type. Polars makes numbers of dates among numbers."""

    def __init__(self, array, fourth):
        super().__init__(array)
        number = Temporal("Float64")
        self.dtypes = [number, number, number, fourth, number]


class Temporal:
    """As a type of Polars."""

    def __init__(self, name):
        self.name, self.looks = name, 0

    def __str__(self):
        return self.name

    def is_temporal(self):
        self.looks += 1
        return self.name != "Float64"


class Zoned:
    """As a type of pandas: times in a zone, in arrays of its own or of Arrow."""

    kind = "M"

    def __init__(self, *, in_arrow):
        vars(self).update({"pyarrow_dtype": Zoned(in_arrow=False)} if in_arrow else {"tz": "UTC"})

    def __str__(self):
        return "times in UTC"


class Series:
    """As of pandas and Polars: a type of their own beside what becomes an array."""

    ndim = 1

    def __init__(self, array, dtype, **entries):
        self.array, self.dtype = np.asarray(array), dtype
        vars(self).update(entries)  # pandas: what the index names

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


def kinds_in(module, base):
    """The public classes of a module that are derived from a base."""
    kinds = {kind for kind in vars(module).values() if isinstance(kind, type)}
    return {kind for kind in kinds if issubclass(kind, base)} - {base}


def types(things):
    return {type(thing) for thing in things}
