"""The libraries, one module each, behind one small interface.

A module `peers/<library>.py` imports the library at its top (so a missing one is an ImportError)
and defines `VERSION` and `MODES`, the ways in which a user of that library would do the work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..workloads import Data, Work

LIBRARIES = ("thalweg", "torch", "jax", "sklearn")


class Contestant(Protocol):
    """One library, set up for one workload. A mode needs only the methods of the work it supports.

    All libraries must agree on the results before anything is timed.
    """

    def reset(self) -> None:
        """Restore the initial weights and a fresh optimizer."""

    def train(self, passes: int) -> float:
        """Take `passes * work.batches` steps, in order; return the last pass's mean loss."""

    def predict(self, passes: int) -> np.ndarray:
        """Predict every batch `passes` times, complete on return; return the last result."""

    def update(self, passes: int) -> None:
        """Take `passes` optimizer steps with the gradients made by `reset`."""

    def first_weight(self) -> np.ndarray:
        """Return the first layer's weight, shape (out, in)."""


@dataclass(frozen=True)
class Mode:
    """A column of the table.

    `make(work, data, threads)` returns a Contestant. `whole_epochs` marks modes with one call for
    many batches, rather than one call per batch. `also` gives, by kind of work, other ways to write
    the same, since none is the fastest for every network: all are tried, the fastest is timed.
    """

    name: str
    make: Callable[[Work, Data, int], Contestant]
    supports: Callable[[Work], bool]
    whole_epochs: bool = False
    also: dict[type[Work], Callable[[Work, Data, int], Contestant]] = field(default_factory=dict)


@dataclass(frozen=True)
class Library:
    name: str
    version: str
    modes: tuple[Mode, ...]
    missing: str = ""  # why there are no modes, or fewer than there could be


def load(name: str) -> Library:
    """Import one peer; a library that is not installed has no modes and says so."""
    try:
        module = importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith(f"{__name__}."):
            raise
        return Library(name, "", (), f"not installed ({error})")
    return Library(name, module.VERSION, module.MODES, module.MISSING)
