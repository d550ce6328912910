"""Whether a strategy, a scenario and a trainer fit together, checked before any training."""

import numpy as np

from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.continual import _protocol
from thalweg.continual._balanced import BalancedBuffer, classes_of
from thalweg.continual._memory import as_kept
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Scenario, counted, naming
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
            f"{type(strategy).__name__} is told which task a sample is from, even at evaluation,"
            f' but in a scenario of kind="{scenario.kind}" that is not known. Compare its scores'
            ' with those for kind="task" only',
        )


def _classes_known(trainer: Trainer, scenario: Scenario) -> None:
    heads = trainer._loss._competition.heads
    for task in scenario:
        if task.classes is None and (heads or task.active not in (None, "all")):
            what = f"the loss has heads={heads}" if heads else f"it has active={task.active}"
            raise ArgumentError(
                f"task {task.index} ({task.name!r}) has class probabilities as y, which do not tell"
                f" its classes, but {what}: pass classes, such as Task(..., classes=(0, 1)), or"
                " labels as y"
            )


def _room(strategy: Strategy, scenario: Scenario) -> None:
    """Check that buffers have room for the classes of all tasks, not only of the first."""
    trainer = strategy.trainer
    for link in _protocol.links(strategy):
        for buffer in vars(link).values():
            if isinstance(buffer, BalancedBuffer):
                classes = 0
                for task in scenario:
                    with naming(task, "was being looked at"):
                        y = as_kept(buffer, trainer, task.y)
                    classes += len(np.unique(classes_of(counted(trainer.loss, y, y)[1])))
                buffer.check_room(classes)


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
    competition = strategy.trainer._loss._competition
    heads = competition.heads
    if scenario.kind != "task":
        if heads:
            warn(
                f"{chain(strategy)}: the loss has heads={heads}, so only the outputs of one task"
                " compete while it is learned, but all compete at evaluation: in a scenario of"
                f' kind="{scenario.kind}" the task is not known. Use nn.CrossEntropyLoss() without'
                " heads",
            )
        return
    if not heads:
        if len({task.classes for task in scenario}) > 1:
            warn(
                f'{chain(strategy)}: the scenario is of kind="task", but all outputs compete in the'
                " loss: learning a task lowers the outputs of all others. Use"
                f" nn.CrossEntropyLoss(heads=scenario.heads), here heads={scenario.heads}",
            )
        return
    head_of = competition.heads_of(strategy.trainer.model.out_features)
    used: set[int] = set()
    for task in scenario:
        mine = sorted({int(head_of[c]) for c in task.classes or ()})
        if len(mine) > 1:
            raise ArgumentError(
                f"task {task.index} ({task.name!r}) has the classes {task.classes}, which are in"
                f" the heads {mine} of heads={heads}; all classes of a task must be in one head."
                f" {_advice(heads, scenario)}"
            )
        used.update(mine)
    # Tasks may share heads, and leave some for later tasks, but all in one is a likely mistake.
    if len(scenario) > 1 and len(used) == 1 < len(heads):
        raise ArgumentError(
            f"all {len(scenario)} tasks have their classes in head {used.pop()} of heads={heads}:"
            " number the labels on from task to task, so that those of the second task begin where"
            " those of the first end"
        )


def _advice(heads: tuple[int, ...], scenario: Scenario) -> str:
    """Say how each task gets a head."""
    if heads != scenario.heads:
        return f"Use heads=scenario.heads, which is {scenario.heads}"
    return (
        "Number the labels on from task to task, as continual.split(order=...) does, so that those"
        " of each task follow those of the one before; tasks that have some classes in common, but"
        " not all, cannot have heads of their own: give them different labels"
    )
