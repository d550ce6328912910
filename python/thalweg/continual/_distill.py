"""A strategy that holds on to what the network said before."""

import copy
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _mixed
from thalweg.continual._innermost import Innermost
from thalweg.continual._outputs import outputs_of
from thalweg.continual._strategy import mean_history
from thalweg.continual._task import Task
from thalweg.nn import Sequential


class LwF(Innermost):
    r"""Learning without forgetting: on new samples, what the network said before stays said.

    .. math:: L = L_\mathrm{new} + \lambda \sum_{h} D_h, \qquad
              D_h = -\frac1n \sum_i \sum_{j \in h} q_{ij} \log p_{ij}

    with :math:`q` and :math:`p` the softmax, over the outputs of a head `h` and at the temperature
    `T`, of the logits before the task and now. Which heads there are, follows from the trainer's
    loss:

    - ``nn.CrossEntropyLoss(heads=...)``: the sum is over the heads of the tasks before, and
      :math:`\lambda = 1`;
    - no heads, no active classes (domain-incremental): one head of all outputs, and
      :math:`\lambda = k - 1` on the `k`-th task; :math:`\lambda = 1` if all classes of the task are
      new (class-incremental, with all outputs competing from the beginning);
    - classes that become active (class-incremental): one head of the active classes,
      :math:`q = 0` for the new ones, and :math:`\lambda = 1`.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss is an `nn.CrossEntropyLoss`.
    strength : float, keyword only, default 1.0
        A factor of :math:`\lambda`.
    temperature : float, keyword only, default 2.0
        `T`. There is no factor :math:`T^2`.

    Raises
    ------
    ArgumentError
        If an argument is out of range; if a task's active classes leave earlier ones out.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; inside of strategies that
        change the network between tasks (`FromScratch`, `GDumb`, `ShrinkAndPerturb`); when a task
        begins, if it has weights of samples, labels that do not count, or none; during a task, if
        there is a penalty.

    Notes
    -----
    Factors, temperature and heads are those of van de Ven's code. The old network's logits are
    computed once per task. The loss is computed by NumPy: a step is not fused.

    References
    ----------
    Li & Hoiem 2017, "Learning without forgetting"; van de Ven, Tuytelaars & Tolias 2022, "Three
    types of incremental learning".
    """

    gathers = ("_learned", "_seen")
    _holds = ("teacher",)
    _does = (*Innermost._does, "looks", "teacher", "whole")

    def __init__(self, inner: Trainer, *, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(inner)
        self._strength = _checks.real("strength", strength, 0)
        self._temperature = _checks.real("temperature", temperature, 0, closed="()")
        self._teacher: Sequential | None = None
        self._learned: list[int] = []  # outputs that are held on to
        self._seen: list[int] = []  # classes of the tasks so far
        #: What the teacher says of a task's rows, and which task that is.
        self._logits: tuple[Task, Any] | None = None

    def _check_kept(self, task: Task) -> None:
        super()._check_kept(task)
        _mixed.check_active(self, self._learned)

    def begin(self, task: Task) -> None:
        """Take a copy of the network as it is."""
        super().begin(task)
        self._logits = None
        if self._learned:
            self._teacher = copy.deepcopy(self.trainer.model)

    def _learn(self, task: Task, *, batch_size: int, **options: Any) -> History:
        options["batch_size"] = batch_size
        self._check(task)
        if not self._learned:
            return super()._learn(task, **options)
        self._check_begun(task, "is to be learned")
        assert self._teacher is not None
        if self._logits is None or self._logits[0] is not task:
            self._logits = task, self._teacher(task.x)
        # What belongs to a row goes with its target: its label, then the old logits.
        both = task.with_data(
            task.x, np.column_stack([np.asarray(task.y), self._logits[1].astype(np.float64)])
        )
        _batches.check_last(
            self.trainer, len(both.x), options["steps"], options["start"], batch_size,
            options["drop_last"],
        )  # fmt: skip
        twin = _mixed.with_loss(self.trainer, self._loss(task), "LwF")
        parts = []
        for x, y, _ in _batches.chunks(both, seed=self.trainer.model.seed, **options):
            parts.append((len(x), twin.fit(x, y, batch_size=batch_size, shuffle=False)))
        return mean_history(parts)

    def step(self, x: Any, y: Any) -> float:
        """Take a step on a batch of a stream: only before there is something to hold on to."""
        if self._learned:
            raise self._no_step("what it holds on to, and how much, follows from the task")
        return super().step(x, y)

    def _loss(self, task: Task) -> Any:
        """Make the loss of a task."""
        outputs = self.trainer.model.out_features
        heads, factor = self._heads(task, outputs)
        competing = _mixed.competing(self.trainer, outputs)
        old = np.isin(np.arange(outputs), self._learned)
        temperature = self._temperature

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            labels, teacher = target[:, 0].astype(np.int64), target[:, 1:]
            weights = np.full(len(labels), 1 / len(labels))
            value, gradient = _mixed.cross_entropy(output, labels, weights, competing(labels))
            teacher = np.where(old, teacher, -np.inf)
            for head in heads:
                more, by_head = _mixed.distillation(output[:, head], teacher[:, head], temperature)
                value += factor * more
                gradient[:, head] += factor * by_head
            return value, gradient

        return loss

    def _heads(self, task: Task, outputs: int) -> tuple[list[Any], float]:
        """Give the columns of each head that is held on to, and the factor of its term."""
        sizes = getattr(self.trainer.loss, "heads", None)
        if sizes:
            parts = np.split(np.arange(outputs), np.cumsum(sizes)[:-1])
            return [p for p in parts if np.isin(p, self._learned).all()], self._strength
        active = getattr(self.trainer.loss, "active", None)
        if active is not None:
            return [np.array(active)], self._strength
        mine, seen = task.classes or (), set(self._seen)
        classes_are_new = bool(mine and seen) and seen.isdisjoint(mine)
        return [np.arange(outputs)], self._strength * (1 if classes_are_new else self._ended)

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

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered."""
        teacher = None if self._teacher is None else self._teacher.state_dict()
        return {**super().state_dict(), "teacher": teacher}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self._logits = self._teacher = None
        if state["teacher"] is not None:
            self._teacher = copy.deepcopy(self.trainer.model)
            self._teacher.load_state_dict(state["teacher"])
