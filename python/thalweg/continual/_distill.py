"""Strategies that hold on to the outputs of the network as it was."""

import copy
import time
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _mixed
from thalweg.continual._buffers import Buffer
from thalweg.continual._replay import buffer_of
from thalweg.continual._strategy import Strategy, mean_history
from thalweg.continual._task import Task
from thalweg.errors import DataError, UnsupportedError
from thalweg.nn import Sequential


class _Innermost(Strategy):
    """Base of strategies that train with a loss of their own."""

    _does = ("loss", "plain rows")

    def __init__(self, inner: Trainer) -> None:
        if not isinstance(inner, Trainer):
            raise UnsupportedError(
                f"{type(self).__name__} trains with a loss of its own: it goes around a Trainer, "
                f"not around {type(inner).__name__}"
            )
        super().__init__(inner)
        # That the trainer can take such a loss is seen now, not after the first task.
        _mixed.with_loss(inner, lambda output, target: (0.0, output), type(self).__name__)

    def _check(self, task: Task) -> None:
        name = type(self).__name__
        if task.sample_weight is not None:
            raise UnsupportedError(f"{name} does not take tasks with sample_weight")
        y = np.asarray(task.y)
        if y.ndim != 1 or y.dtype.kind not in "iub":
            raise UnsupportedError(
                f"{name} needs labels: y of shape (n,) and of an integer type; got shape {y.shape} "
                f"of {y.dtype}"
            )
        outputs = self.trainer.model.out_features
        if len(y) and not 0 <= y.min() <= y.max() < outputs:
            raise DataError(
                f"y has labels from {y.min()} to {y.max()}, but the network has {outputs} outputs: "
                f"labels must be from 0 to {outputs - 1}"
            )


class LwF(_Innermost):
    r"""Learning without forgetting: on new samples, what the network said before stays said.

    .. math:: L = L_\mathrm{new} + \lambda \sum_{h} D_h, \qquad
              D_h = -\frac1n \sum_i \sum_{j \in h} q_{ij} \log p_{ij}

    with :math:`q` and :math:`p` the softmax, over the outputs of a head `h` and at the temperature
    `T`, of the logits before the task and now. Which heads there are, follows from the trainer's
    loss:

    - ``nn.CrossEntropyLoss(heads=...)``: the sum is over the heads of the tasks before, and
      :math:`\lambda = 1`;
    - no heads, no active classes (domain-incremental): one head of all outputs, and
      :math:`\lambda = k - 1` on task `k`;
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
        If an argument is out of range.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; during a task, if it has a
        penalty, or the task has weights of samples or no labels.

    Notes
    -----
    Factors, temperature and heads are those of van de Ven's code. The old network's logits are
    computed once per task. The loss is computed by NumPy: a step is not fused.

    References
    ----------
    Li & Hoiem 2017, "Learning without forgetting"; van de Ven, Tuytelaars & Tolias 2022, "Three
    types of incremental learning".
    """

    def __init__(self, inner: Trainer, *, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(inner)
        self._strength = _checks.real("strength", strength, 0)
        self._temperature = _checks.real("temperature", temperature, 0, closed="()")
        self._teacher: Sequential | None = None
        self._learned: list[int] = []
        self._logits: tuple[int, Any] | None = None

    def begin(self, task: Task) -> None:
        """Take a copy of the network as it is."""
        super().begin(task)
        if self._learned:
            self._teacher = copy.deepcopy(self.trainer.model)

    def learn(
        self,
        task: Task,
        *,
        steps: int,
        start: int = 0,
        batch_size: int = 32,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> History:
        """Take some steps; see `Strategy.learn`."""
        options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle}
        options["drop_last"] = drop_last
        self._check(task)
        if self._teacher is None:
            return super().learn(task, steps=steps, start=start, **options)
        if self._logits is None or self._logits[0] != task.index:
            self._logits = task.index, self._teacher(task.x)
        # What belongs to a row goes with its target: its label, then the old logits.
        both = task.with_data(
            task.x, np.column_stack([np.asarray(task.y), self._logits[1].astype(np.float64)])
        )
        twin = _mixed.with_loss(self.trainer, self._loss(task), "LwF")
        parts = []
        for x, y, _ in _batches.chunks(
            both, seed=self.trainer.model.seed, steps=steps, start=start, **options
        ):
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
        return [np.arange(outputs)], self._strength * task.index

    def end(self, task: Task) -> None:
        """Note which classes have been learned."""
        super().end(task)
        outputs = range(self.trainer.model.out_features)
        one_head = not any(getattr(self.trainer.loss, name, None) for name in ("heads", "active"))
        mine = outputs if one_head else task.classes or ()
        self._learned = sorted({*self._learned, *mine})

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered."""
        teacher = None if self._teacher is None else self._teacher.state_dict()
        return {**super().state_dict(), "teacher": teacher, "learned": self._learned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self._learned, self._logits, self._teacher = list(state["learned"]), None, None
        if state["teacher"] is not None:
            self._teacher = copy.deepcopy(self.trainer.model)
            self._teacher.load_state_dict(state["teacher"])


class _Stepwise(_Innermost):
    """Base of strategies whose buffer takes part in every step, and takes samples in after it."""

    def __init__(self, inner: Trainer, buffer: Buffer | int, batch_size: int | None) -> None:
        super().__init__(inner)
        self._rehearse()
        self.buffer = buffer_of(buffer)
        self._batch = None if batch_size is None else _checks.integer("batch_size", batch_size, 1)

    def learn(
        self,
        task: Task,
        *,
        steps: int,
        start: int = 0,
        batch_size: int = 32,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> History:
        """Take some steps; see `Strategy.learn`."""
        self._check(task)
        stepper = self._stepper(task)
        seed, parts = self.trainer.model.seed, []
        for x, y, _ in _batches.chunks(
            task, seed=seed, steps=steps, start=start, batch_size=batch_size, shuffle=shuffle,
            drop_last=drop_last, most=1,
        ):  # fmt: skip
            begin = time.perf_counter()
            loss = stepper(x, np.asarray(y, dtype=np.int64))
            seconds = time.perf_counter() - begin
            parts.append((len(x), History(loss=[loss], seconds=[seconds])))
        return mean_history(parts)

    def step(self, x: Any, y: Any) -> float:
        """Take a step of a stream: learn new samples with kept ones, then keep the new ones.

        Parameters
        ----------
        x, y : array_like
            New samples and their labels, as `Trainer.step` takes them. In the buffer they are all
            of one group.

        Returns
        -------
        float
            The loss before the step, with all its terms.
        """
        x, y = np.asarray(x), np.asarray(y)
        batch = Task(x, y, x, y, classes=tuple(np.unique(y).tolist()))
        self._check(batch)
        return float(self._stepper(batch)(x, y.astype(np.int64)))

    def _stepper(self, task: Task) -> Any:
        """Make the function of a batch that takes one step and gives the loss."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered."""
        return {**super().state_dict(), "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self.buffer.load_state_dict(state["buffer"])


class DER(_Stepwise):
    r"""Dark experience replay: kept samples are to give the logits that they gave when they came.

    .. math:: L = \mathrm{CE}(\text{new}) + \alpha\, \mathrm{MSE}(y(x'), z')
              + \beta\, \mathrm{CE}(x'', t'')

    with two independent draws from the buffer. The mean of squares is over all rows and outputs.
    Samples enter the buffer after each step, with the logits that the step computed, before its
    update. `DERpp` is the same with another default of `beta`.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss is an `nn.CrossEntropyLoss`.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`.
    alpha : float, keyword only, default 0.1
        Factor of the logits' term.
    beta : float, keyword only
        Factor of the labels' term; 0, and 0.5 for `DERpp`.
    batch_size : int, keyword only, optional
        Samples in each draw; by default as many as new ones.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; during a task, if it has a
        penalty, or the task has weights of samples or no labels.

    Notes
    -----
    New and kept rows go through the network as one batch, which matters to `nn.BatchNorm1d` alone.
    Each step is a call from Python, and its loss is computed by NumPy.

    References
    ----------
    Buzzega et al. 2020, "Dark experience for general continual learning: a strong, simple
    baseline". Defaults are Avalanche's.
    """

    def __init__(
        self,
        inner: Trainer,
        buffer: Buffer | int,
        *,
        alpha: float = 0.1,
        beta: float = 0.0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(inner, buffer, batch_size)
        self._alpha = _checks.real("alpha", alpha, 0)
        self._beta = _checks.real("beta", beta, 0)

    def _stepper(self, task: Task) -> Any:
        outputs = self.trainer.model.out_features
        competing = _mixed.competing(self.trainer, outputs)
        seen: list[Any] = []
        alpha, beta = self._alpha, self._beta

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            # Columns of the target: label, weight of its cross-entropy, of squares, old logits.
            labels, weights, squares = target[:, 0].astype(np.int64), target[:, 1], target[:, 2]
            seen[:] = [output.copy()]
            value, gradient = _mixed.cross_entropy(output, labels, weights, competing(labels))
            difference = output - target[:, 3:]
            value += (squares[:, None] * difference**2).sum()
            return value, gradient + 2 * squares[:, None] * difference

        twin = _mixed.with_loss(self.trainer, loss, type(self).__name__)

        def packed(y: Any, weight: float, square: float, logits: Any) -> Any:
            columns = np.empty((len(y), 3 + outputs))
            columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3:] = y, weight, square, logits
            return columns

        def step(x: Any, y: Any) -> float:
            rows, targets = [x], [packed(y, 1 / len(y), 0, 0)]
            size = self._batch or len(x)
            if len(self.buffer):
                if alpha:
                    kept = self.buffer.sample(size)
                    square = alpha / (len(kept["y"]) * outputs)
                    rows.append(kept["x"])
                    targets.append(packed(kept["y"], 0, square, kept["logits"]))
                if beta:
                    kept = self.buffer.sample(size)
                    rows.append(kept["x"])
                    targets.append(packed(kept["y"], beta / len(kept["y"]), 0, 0))
            value = twin.step(np.concatenate(rows), np.concatenate(targets))
            self.buffer.add(group=task.index, x=x, y=y, logits=seen[0][: len(x)])
            return value

        return step


class DERpp(DER):
    r"""Dark experience replay with labels: `DER` with :math:`\beta = 1/2`.

    Parameters
    ----------
    inner, buffer, alpha, batch_size
        As of `DER`.
    beta : float, keyword only, default 0.5
        Factor of the labels' term.

    Raises
    ------
    ArgumentError, UnsupportedError
        As by `DER`.
    """

    def __init__(
        self,
        inner: Trainer,
        buffer: Buffer | int,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(inner, buffer, alpha=alpha, beta=beta, batch_size=batch_size)


class ERACE(_Stepwise):
    r"""Replay with an asymmetric cross-entropy: new samples do not push the old classes away.

    .. math:: L = \mathrm{CE}_{C}(\text{new}) + \mathrm{CE}(\text{kept})

    where the softmax of new samples is over the classes `C` of the task alone, and that of kept
    ones over those that compete in the trainer's loss. Samples enter the buffer after each step.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss is an `nn.CrossEntropyLoss`.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`.
    batch_size : int, keyword only, optional
        Samples of the buffer in each step; by default as many as new ones.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If `inner` is another strategy, or the trainer has another loss; during a task, if it has a
        penalty, or the task has weights of samples or no labels.

    Notes
    -----
    The paper's `C` are the classes of the batch; a task's batches have them all but for chance.
    Each step is a call from Python, and its loss is computed by NumPy.

    References
    ----------
    Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual
    learning".
    """

    def __init__(
        self, inner: Trainer, buffer: Buffer | int, *, batch_size: int | None = None
    ) -> None:
        super().__init__(inner, buffer, batch_size)

    def _stepper(self, task: Task) -> Any:
        outputs = self.trainer.model.out_features
        competing = _mixed.competing(self.trainer, outputs)
        mine = np.isin(np.arange(outputs), task.classes or range(outputs))

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            # Columns of the target: label, weight, whether it is new.
            labels, new = target[:, 0].astype(np.int64), target[:, 2:].astype(bool)
            competes = competing(labels) & (mine | ~new)
            return _mixed.cross_entropy(output, labels, target[:, 1], competes)

        twin = _mixed.with_loss(self.trainer, loss, "ERACE")

        def step(x: Any, y: Any) -> float:
            ones = np.ones(len(y))
            rows, targets = [x], [np.column_stack([y, ones / len(y), ones])]
            if len(self.buffer):
                kept = self.buffer.sample(self._batch or len(x))
                ones = np.ones(len(kept["y"]))
                rows.append(kept["x"])
                targets.append(np.column_stack([kept["y"], ones / len(ones), 0 * ones]))
            value = twin.step(np.concatenate(rows), np.concatenate(targets))
            self.buffer.add(group=task.index, x=x, y=y)
            return value

        return step
