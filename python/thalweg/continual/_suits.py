"""Whether a strategy, a scenario and a trainer fit together, checked before any training."""

import numpy as np

from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.continual._buffers import BalancedBuffer
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Scenario, are_labels, counted
from thalweg.errors import ArgumentError
from thalweg.nn import CrossEntropyLoss


def chain(strategy: Strategy) -> str:
    """Return the nested names of a chain of strategies, to identify a run in warnings."""
    name, inner = type(strategy).__name__, strategy.inner
    if type(strategy) is Strategy and inner is None:  # made for a bare trainer
        return "Trainer"
    return name if inner is None else f"{name}({chain(inner)})"


def suit(strategy: Strategy, scenario: Scenario) -> None:
    """Refuse what would fail, and warn if tasks would be judged differently from how they train.

    Raises
    ------
    ArgumentError
        If there are too few outputs, heads that do not match the tasks, tasks whose classes are
        unknown although only some compete, or a buffer without room for all classes.
    """
    trainer = strategy.trainer
    if isinstance(trainer.loss, CrossEntropyLoss):
        _classes_known(trainer, scenario)
        _outputs(trainer, scenario)
        _heads(strategy, scenario)
    _room(strategy, scenario)
    if scenario.kind != "task" and strategy.needs_task:
        warn(
            f"{type(strategy).__name__} is told which task a sample is from, also when it is judged"
            f' here; in a scenario of kind="{scenario.kind}" nobody knows that. Its figures can be'
            ' compared with those of kind="task" only',
        )


def _classes_known(trainer: Trainer, scenario: Scenario) -> None:
    heads = getattr(trainer.loss, "heads", None)
    for task in scenario:
        if task.classes is None and (heads or task.active not in (None, "all")):
            what = f"the loss has heads={heads}" if heads else f"it has active={task.active}"
            raise ArgumentError(
                f"task {task.index} ({task.name!r}) has shares of classes, which do not say whose"
                f" outputs are its own, and {what}: give it classes, as"
                " Task(..., classes=(0, 1)), or labels in the place of shares"
            )


def _room(strategy: Strategy, scenario: Scenario) -> None:
    """Check that buffers have room for the classes of all tasks, not only of the first."""
    link: Strategy | None = strategy
    while link is not None:
        for buffer in vars(link).values():
            if isinstance(buffer, BalancedBuffer):
                kept = [counted(strategy.trainer.loss, t.y, t.y)[1] for t in scenario]
                buffer.check_room(sum(len(np.unique(y)) if are_labels(y) else 1 for y in kept))
        link = link.inner


def _outputs(trainer: Trainer, scenario: Scenario) -> None:
    outputs = trainer.model.out_features
    for task in scenario:
        most = max(task.classes or (0,))
        if most >= outputs:
            raise ArgumentError(
                f"task {task.index} ({task.name!r}) has the class {most}, but the network has"
                f" {outputs} outputs, for the classes 0 to {outputs - 1}; it needs at least"
                f" {1 + max(max(t.classes or (0,)) for t in scenario)}"
            )


def _heads(strategy: Strategy, scenario: Scenario) -> None:
    heads = getattr(strategy.trainer.loss, "heads", None)
    if scenario.kind != "task":
        if heads:
            warn(
                f"{chain(strategy)}: the loss has heads={heads}, so that only the outputs of one"
                " task compete while it is learned, but all do when it is judged: the scenario is"
                f' of kind="{scenario.kind}", where nobody knows the task. nn.CrossEntropyLoss() is'
                " for that",
            )
        return
    if not heads:
        if len({task.classes for task in scenario}) > 1:
            warn(
                f'{chain(strategy)}: the scenario is of kind="task", but all outputs compete in the'
                " loss: learning a task drives the outputs of all others down. Give the trainer"
                f" nn.CrossEntropyLoss(heads={scenario.heads}), scenario.heads",
            )
        return
    head_of = np.repeat(np.arange(len(heads)), heads)
    used: dict[int, int] = {}
    for task in scenario:
        mine = sorted({int(head_of[c]) for c in task.classes or ()})
        if len(mine) > 1:
            raise ArgumentError(
                f"task {task.index} ({task.name!r}) has the classes {task.classes}, which are in"
                f" the heads {mine} of heads={heads}; those of a task must be in one:"
                f" scenario.heads is {scenario.heads}"
            )
        for head in mine:
            if head in used and len({*head_of[_classes(scenario)]}) < len(heads):
                raise ArgumentError(
                    f"tasks {used[head]} and {task.index} both have their classes in head {head} of"
                    f" heads={heads}, and other heads have none: labels go on from task to task, so"
                    " that those of the second begin where those of the first end"
                )
            used.setdefault(head, task.index)


def _classes(scenario: Scenario) -> list[int]:
    return [label for task in scenario for label in task.classes or ()]
