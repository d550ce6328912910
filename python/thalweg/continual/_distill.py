"""A strategy that preserves the network's earlier outputs (distillation)."""

import copy
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.callbacks._watch import Inner
from thalweg.continual import _batches, _losses
from thalweg.continual._innermost import Innermost
from thalweg.continual._outputs import outputs_of
from thalweg.continual._passes import mean_history
from thalweg.continual._task import Task


class LwF(Innermost):
    r"""Learning without forgetting: preserves, on new samples, the network's earlier outputs.

    .. math:: L = L_\mathrm{new} + \lambda \sum_{h} D_h, \qquad
              D_h = -\frac1n \sum_i \sum_{j \in h} q_{ij} \log p_{ij}

    where :math:`q` and :math:`p` are the softmax, over the outputs of a head `h` and at temperature
    `T`, of the logits before the task and now. The trainer's loss determines the heads:

    - ``nn.CrossEntropyLoss(heads=...)``: the sum is over the heads of earlier tasks, and
      :math:`\lambda = 1`;
    - no heads, no active classes (domain-incremental): one head of all outputs, and
      :math:`\lambda = k - 1` on the `k`-th task; :math:`\lambda = 1` if all classes of the task are
      new (class-incremental, with all outputs competing from the start);
    - classes that become active (class-incremental): one head of the active classes,
      :math:`q = 0` for the new ones, and :math:`\lambda = 1`.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss must be an `nn.CrossEntropyLoss`.
    strength : float, keyword only, default 1.0
        Multiplies :math:`\lambda`.
    temperature : float, keyword only, default 2.0
        `T`. There is no factor :math:`T^2`.

    Raises
    ------
    ArgumentError
        If an argument is out of range; if a task's active classes leave earlier ones out.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; inside strategies that
        change the network between tasks (`FromScratch`, `GDumb`, `ShrinkAndPerturb`); for tasks
        with sample weights, ignored labels, or no labels; always in `step`.

    Notes
    -----
    Factors, temperature and heads are those of van de Ven's code. The old network's logits are
    computed once per task. The loss is computed in NumPy, so steps are not fused.

    References
    ----------
    Li & Hoiem 2017, "Learning without forgetting"; van de Ven, Tuytelaars & Tolias 2022, "Three
    types of incremental learning".
    """

    gathers = ("_learned", "_seen", "_teacher")
    _does = (*Innermost._does, "looks", "teacher", "whole")
    _only_learns = "what it preserves, and how strongly, depends on the whole task"

    def __init__(self, inner: Trainer, *, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(inner)
        self.strength: float = _checks.real("strength", strength, 0)
        self.temperature: float = _checks.real("temperature", temperature, 0, closed="()")
        #: The state of the network before the task, during one that is not the first.
        self._teacher: dict[str, Any] | None = None
        self._learned: list[int] = []  # outputs that are distilled
        self._seen: list[int] = []  # classes of the tasks so far
        #: A task, and the teacher's logits for its rows.
        self._logits: tuple[Task, Any] | None = None

    def _check_kept(self, task: Task) -> None:
        super()._check_kept(task)
        _losses.check_active(self, self._learned)

    def begin(self, task: Task) -> None:
        """Copy the network as it is, to be the teacher."""
        super().begin(task)
        self._logits = None
        if self._learned:
            self._teacher = self.trainer.model.state_dict()

    def _preserves(self) -> bool:
        return bool(self._learned)

    def _learn(self, task: Task, *, batch_size: int, **options: Any) -> History:
        options["batch_size"] = batch_size
        if not self._learned:
            return super()._learn(task, **options)
        assert self._teacher is not None
        if self._logits is None or self._logits[0] is not task:
            teacher = copy.deepcopy(self.trainer.model)
            teacher.load_state_dict(self._teacher)
            self._logits = task, teacher(task.x)
        # The target carries what belongs to a row: its label, then the old logits.
        both = task.with_data(
            task.x, np.column_stack([np.asarray(task.y), self._logits[1].astype(np.float64)])
        )
        _batches.check_last(
            self.trainer, len(both.x), options["steps"], options["start"], batch_size,
            options["drop_last"],
        )  # fmt: skip
        twin = _losses.with_loss(self.trainer, self._loss(task), "LwF")
        parts = []
        for x, y, _ in _batches.chunks(both, seed=self.trainer.model.seed, **options):
            history = twin.fit(x, y, batch_size=batch_size, shuffle=False, callbacks=[Inner()])
            history._counts = len(x), len(x), 0
            parts.append(history)
        return mean_history(twin.loss, parts)

    def _loss(self, task: Task) -> Any:
        """Make the loss of a task."""
        outputs = self.trainer.model.out_features
        heads, factor = self._heads(task, outputs)
        competing = _losses.competing(self.trainer, outputs)
        old = np.isin(np.arange(outputs), self._learned)
        temperature = self.temperature

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            labels, teacher = target[:, 0].astype(np.int64), target[:, 1:]
            weights = np.full(len(labels), 1 / len(labels))
            value, gradient = _losses.cross_entropy(output, labels, weights, competing(labels))
            teacher = np.where(old, teacher, -np.inf)
            for head in heads:
                more, by_head = _losses.distillation(output[:, head], teacher[:, head], temperature)
                value += factor * more
                gradient[:, head] += factor * by_head
            return value, gradient

        return loss

    def _heads(self, task: Task, outputs: int) -> tuple[list[Any], float]:
        """Return the columns of each head that is distilled, and the factor of its term."""
        competition = self.trainer._loss._competition
        if competition.heads is not None:
            parts = np.split(np.arange(outputs), np.cumsum(competition.heads)[:-1])
            return [p for p in parts if np.isin(p, self._learned).all()], self.strength
        if competition.active is not None:
            return [np.array(competition.active)], self.strength
        mine, seen = task.classes or (), set(self._seen)
        classes_are_new = bool(mine and seen) and seen.isdisjoint(mine)
        return [np.arange(outputs)], self.strength * (1 if classes_are_new else self._ended)

    def end(self, task: Task) -> None:
        """Note which outputs have been learned."""
        super().end(task)
        self._teacher = None
        outputs = outputs_of(self.trainer, task)
        mine = range(self.trainer.model.out_features) if outputs is None else outputs
        self._learned = sorted({*self._learned, *mine})
        self._seen = sorted({*self._seen, *(task.classes or ())})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_logits": None}  # they are computed again

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        super().load_state_dict(state)
        self._logits = None
