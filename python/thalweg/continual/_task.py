"""What is learned: tasks, and sequences of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Task:
    """Data that come together: something to learn, and something to be judged by.

    Parameters
    ----------
    x, y : array_like
        What is learned, as `Trainer.fit` takes it.
    x_test, y_test : array_like
        What it is judged by.
    index : int
        Its place in the scenario, from 0.
    name : str
        For tables and pictures.
    classes : tuple of int or None
        The labels that occur in it; None in regression.
    """

    x: Any
    y: Any
    x_test: Any
    y_test: Any
    index: int = 0
    name: str = ""
    classes: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Scenario(Sequence[Task]):
    """Tasks in their order.

    Parameters
    ----------
    tasks : sequence of Task
        The tasks.
    kind : str
        What is known when a sample is judged: ``"task"`` (which task it is from, so that only that
        task's outputs compete), ``"domain"`` (all tasks share the outputs) or ``"class"`` (all
        classes seen so far compete).
    """

    tasks: tuple[Task, ...]
    kind: str = "domain"

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: Any) -> Any:
        return self.tasks[index]
