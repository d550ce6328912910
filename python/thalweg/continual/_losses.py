"""Losses that are sums of several terms, as functions of the outputs, for `nn.CustomLoss`.

They are computed in NumPy on one batch of outputs, some tens of microseconds for a hundred rows;
the passes through the network are the core's. The cost is that passes and update are not fused.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from thalweg._trainer import Trainer
from thalweg._trainer._custom import CustomTrainer
from thalweg._trainer._hooked import HookedTrainer
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import CrossEntropyLoss, CustomLoss
from thalweg.nn._losses import FunctionLoss
from thalweg.nn._losses._competition import softmax
from thalweg.optim import SAM


def log_softmax(outputs: Any) -> Any:
    """Compute the log-softmax of each row; columns of -inf do not take part."""
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(outputs: Any, labels: Any, weights: Any, competes: Any = None) -> tuple[Any, Any]:
    """Return the sum over the rows of ``weights * -log p[label]``, and its gradient.

    `competes` tells, by row and column, which outputs the softmax is over; all by default.
    """
    if competes is not None:
        outputs = np.where(competes, outputs, -np.inf)
    logs = log_softmax(outputs)
    rows = np.arange(len(labels))
    gradient = np.exp(logs)
    gradient[rows, labels] -= 1
    return -(weights * logs[rows, labels]).sum(), gradient * weights[:, None]


def distillation(outputs: Any, teacher: Any, temperature: float) -> tuple[Any, Any]:
    r"""Return :math:`-\frac1n \sum_{ij} q_{ij} \log p_{ij}` and its gradient.

    `q` and `p` are the softmax of the teacher's outputs and of `outputs`, both divided by the
    temperature. There is no factor :math:`T^2`.
    """
    shares = softmax(teacher / temperature)
    logs = log_softmax(outputs / temperature)
    rows = len(outputs)
    # Where the teacher leaves a class out, its share is 0 and the term is 0, even for log p = -inf.
    value = -np.where(shares > 0, shares * logs, 0).sum() / rows
    return value, (np.exp(logs) - shares) / (temperature * rows)


def competing(trainer: Trainer, outputs: int) -> Callable[[Any], Any]:
    """Make the function that tells which outputs compete with each label in a trainer's loss."""
    competition = trainer._loss._competition
    takes_part, of_column = competition.takes_part(outputs), competition.heads_of(outputs)
    return lambda labels: takes_part & (of_column[labels][:, None] == of_column)


def with_loss(trainer: Trainer, function: Callable[..., Any], who: str) -> Trainer:
    """Make a trainer with the same model and optimizer, but another loss.

    Raises
    ------
    UnsupportedError
        If the trainer's loss is not plain cross-entropy, which is a term of all these losses; if
        the trainer accumulates gradients; or if its optimizer is `optim.SAM`.
    """
    loss = trainer.loss
    if not isinstance(loss, CrossEntropyLoss) or (
        loss.weight is not None or loss.label_smoothing or loss.reduction != "mean"
    ):
        raise UnsupportedError(
            f"{who} needs a trainer with nn.CrossEntropyLoss() without weight or label_smoothing,"
            f' and with reduction="mean"; got {loss!r}'
        )
    if trainer._accumulate > 1:
        raise UnsupportedError(
            f"{who} trains with its own loss, for which gradients are not accumulated: leave out"
            " accumulate_grad_batches"
        )
    if isinstance(trainer.optimizer, SAM):
        raise UnsupportedError(
            f"{who} uses the outputs of a step's only pass, but SAM makes two passes, at different"
            " parameters: use SAM's base optimizer instead"
        )
    changed = {"loss": CustomLoss(function), "average": None}  # which is the core's
    twin = Trainer(trainer.model, **{**trainer._description(), **changed})
    twin._base_lr, twin._epochs = trainer._base_lr, trainer._epochs
    if twin._rates is not None:
        twin._rates.base = trainer._base_lr
    update_like(twin, trainer)
    return twin


def update_like(twin: Trainer, trainer: Trainer) -> None:
    """Let a trainer with another loss make its updates as the original one does now.

    It hands its gradients to the same core, which adds the penalties, projects, masks and follows,
    after the original's hooks.
    """
    loss, common = twin._loss, trainer._updating()
    assert isinstance(loss, FunctionLoss)
    assert common is not None
    core = CustomTrainer(common, twin.model, twin.optimizer, loss)
    twin._core, twin._penalties = core, trainer._penalties
    if isinstance(trainer._core, HookedTrainer):
        twin._core = HookedTrainer(core, twin.model, twin.optimizer, trainer._core.hooks)


def check_active(strategy: Any, held: Iterable[int]) -> None:
    """Refuse active classes of a trainer's loss that leave out outputs to be preserved.

    Raises
    ------
    ArgumentError
        If they do.
    """
    competition = strategy.trainer._loss._competition
    active = competition.active
    if active is None or competition.heads is not None:
        return
    left_out = sorted({int(output) for output in held} - {*active})
    if left_out:
        raise ArgumentError(
            f"{type(strategy).__name__} preserves the network's outputs for the classes {left_out}"
            f" of earlier tasks, but active={active} leaves them out: let all classes so far"
            ' compete, as in continual.Scenario(tasks, kind="class"), or give each task a head,'
            " nn.CrossEntropyLoss(heads=...)"
        )
