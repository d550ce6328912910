"""The form of every strategy."""

from typing import Any

from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual._task import Task


class Strategy:
    """A way of learning tasks one after another; by itself it does nothing against forgetting.

    Strategies are wrapped around a trainer, or around each other: ``EWC(Replay(trainer, 200), 1e3)``.
    A new one overrides `begin`, `learn` or `end`, and calls ``super()`` in it, which asks the inner
    one.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.

    Attributes
    ----------
    trainer : Trainer
        The innermost trainer.
    """

    def __init__(self, inner: "Trainer | Strategy") -> None:
        self.inner: Strategy | None = inner if isinstance(inner, Strategy) else None
        self.trainer: Trainer = inner.trainer if isinstance(inner, Strategy) else inner

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        if self.inner is not None:
            self.inner.begin(task)

    def learn(self, task: Task, **options: Any) -> History:
        """Train on a task; `options` are those of `Trainer.fit`."""
        if self.inner is not None:
            return self.inner.learn(task, **options)
        return self.trainer.fit(task.x, task.y, **options)

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        if self.inner is not None:
            self.inner.end(task)

    def fit(self, task: Task, **options: Any) -> History:
        """Learn one task: `begin`, `learn`, `end`."""
        self.begin(task)
        history = self.learn(task, **options)
        self.end(task)
        return history

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered (not the trainer's), as arrays and plain data."""
        return {} if self.inner is None else {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])
