"""A part of the network for each task, so that tasks cannot disturb each other."""

from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks, nn
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.continual import _hidden_units
from thalweg.continual._admission import check_elementwise
from thalweg.continual._outputs import outputs_of
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Sequential
from thalweg.nn._layers import Block, kind_of


def _with(model: Sequential, parameters: Any) -> Sequential:
    """Copy a model, with other parameters."""
    copy = model[:]
    copy.flat_parameters = parameters
    return copy


class _Parts(Strategy):
    """Common base: a sample is judged by the part of the network that belongs to its task."""

    gathers: tuple[str, ...] = ("_learned",)
    _only_in_tasks = "it trains only the part of the network that belongs to the current task"

    def __init__(self, inner: Trainer | Strategy) -> None:
        super().__init__(inner)
        check_elementwise(self.trainer, type(self).__name__)
        self.needs_task: bool = True
        self._learned: list[int] = []  # the tasks' indices, in the order they were learned
        self.trainer._elementary("mask")  # refuse trainers without masks before training

    def _check(self, task: Task) -> None:
        if task.index in self._learned:
            raise ArgumentError(
                f"task {task.index} was learned already, and {type(self).__name__} gives each index"
                " its own part of the network: give this task a new index, such as"
                f" Task(..., index={1 + max(self._learned)}). A Scenario numbers its tasks itself"
            )
        super()._check(task)

    def _preserves(self) -> bool:
        return bool(self._learned)

    def end(self, task: Task) -> None:
        """Record that the task was learned."""
        super().end(task)
        self._learned.append(task.index)


class XdG(_Parts):
    r"""Context-dependent gating: silences a different random part of the hidden units in each task.

    The output of a unit is multiplied by its gate, 0 or 1, while a task is learned and when it is
    judged. Parameters leading into or out of a silent unit stay as they are.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    share : float, keyword only, default 0.8
        The share of silent units among the inputs of each `nn.Linear` but the first, from 0 up to,
        but not including, 1. The paper uses 0.8; van de Ven's code, 0.9.
    seed : int, keyword only, default 0
        Seed of the gates; together with the task's index it determines which units are silent.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or the model has no hidden units; if a task's index was
        learned already.
    UnsupportedError
        If the model has `nn.Residual` or `nn.Concatenate`, or an `nn.FourierFeatures` between
        units, or the optimizer does not work element by element. If a strategy inside uses the
        whole network when a task begins or ends, which is not the network that was trained: `EWC`
        and other penalties except `SynapticIntelligence`, `LwF`, `FROMP`, `OGD`. If a strategy
        inside or outside includes samples of earlier tasks in its steps, like `Replay`: they would
        go through the latest task's part.

    Notes
    -----
    The task of a sample must be known; `predict` and `network` take the task's index, and use the
    latest task without it. A gate of 0 is equivalent to zeros for all weights that lead out of the
    unit: between `begin` and `end` the trainer's model has those, and after `end` the whole network
    again. Biases of outputs, and weights of units that are not silent, are shared; so forgetting is
    reduced but not eliminated, and the paper combines this with `SynapticIntelligence`, as
    ``XdG(SynapticIntelligence(trainer, 0.1))``.

    References
    ----------
    N. Masse, G. Grant and D. Freedman, "Alleviating catastrophic forgetting using context-dependent
    gating and synaptic stabilization", PNAS 2018, arXiv:1802.01569.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
    >>> strategy = continual.XdG(trainer, share=0.8)
    >>> int((strategy.network(3).state_dict()["2.weight"] == 0).all(axis=0).sum())
    80
    """

    gathers = ("_task", "_whole")
    _by_parameter = ("_whole",)
    _does = ("part", "gates")

    def __init__(self, inner: Trainer | Strategy, *, share: float = 0.8, seed: int = 0) -> None:
        super().__init__(inner)
        self.share: float = _checks.real("share", share, 0, 1, "[)")
        self.seed: int = _checks.integer("seed", seed, 0)
        self._units = _hidden_units.hidden(self.trainer.model)
        self._task: int | None = None  # the task whose gates are set
        self._whole: Any = None  # the parameters before the gates were set

    def _gates(self, task: int) -> tuple[Any, Any]:
        """Return for each parameter whether it counts in a task, and whether it is trained."""
        count = self.trainer.model.num_parameters
        counts, trained = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
        generator = np.random.default_rng([self.seed, task])
        for units in self._units:
            silent = generator.permutation(units.width)[: round(self.share * units.width)]
            counts[units.outgoing[:, silent]] = False
            for leading in units.incoming:
                trained[leading[silent]] = False
        return counts, trained & counts

    def _ungated(self) -> Any:
        """Return the parameters of the whole network."""
        now = self.trainer.model.flat_parameters
        if self._task is None:
            return now
        return np.where(self._gates(self._task)[0], now, self._whole)

    def begin(self, task: Task) -> None:
        """Get ready for a task, and set its gates."""
        before = self._task
        self._open()  # the gates of a task that has not ended
        try:
            super().begin(task)
        except BaseException:
            if before is not None:
                self._close(before)
            raise
        self._close(task.index)

    def end(self, task: Task) -> None:
        """Open all gates."""
        self._ready_to_end(task)
        self._open()
        super().end(task)

    def _abandon(self) -> None:
        self._open()
        super()._abandon()

    def _close(self, task: int) -> None:
        """Set the gates of a task."""
        self._whole, self._task = self.trainer.model.flat_parameters, task
        counts, _ = self._gates(task)
        self.trainer.model.flat_parameters = np.where(counts, self._whole, 0)
        self._hold()

    def _open(self) -> None:
        """Restore the whole network."""
        if self._task is not None:
            self.trainer.model.flat_parameters = self._ungated()
            self._whole = self._task = None
            self._hold()

    def _hold(self) -> None:
        """Restrict training and penalties to the part of the network that is used now.

        Weights that are 0 only for this task are far from the anchors of penalties.
        """
        counts, trained = (None, None) if self._task is None else self._gates(self._task)
        self.trainer._hold(trained)
        self.trainer._count(counts)

    def network(self, task: int | None = None) -> Sequential:
        """Return the part of the network that a task is judged by; the latest task by default."""
        if task is not None:
            task = _checks.integer("task", task, 0)
        elif self._task is not None:
            task = self._task
        elif self._learned:
            task = self._learned[-1]
        else:
            return super().network(task)
        return _with(super().network(task), np.where(self._gates(task)[0], self._ungated(), 0))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        super().load_state_dict(state)
        self._hold()


class PackNet(_Parts):
    r"""Gives each task the weights that earlier tasks left free, and frees some again afterwards.

    A task trains all free weights; then the smallest of them in each layer are set to 0 and left to
    later tasks, and the others are trained for a while longer and never change again. A task is
    judged with the weights that it and earlier tasks own, so nothing of it is ever forgotten.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    prune : float, keyword only, default 0.5
        The share of a task's trained weights that is freed again in each `nn.Linear`, above 0 and
        below 1. The paper uses 0.5 and 0.75.
    retrain : float, keyword only, default 0.5
        The number of retraining steps, as a multiple of the task's, which `learn` or `step` took.
        The paper uses half. At most 1e6.

    Raises
    ------
    ArgumentError
        If an argument is out of range; if a task's index was learned already.
    UnsupportedError
        If the model has `nn.Residual` or `nn.Concatenate`, or the optimizer does not work element
        by element. With strategies that would change what belongs to earlier tasks
        (`ContinualBackprop`, `ShrinkAndPerturb`, `FromScratch`, `GDumb`), with `OGD`, of whose
        updates it would keep a part, and with those that include samples of earlier tasks in their
        steps (`Replay`, `DER`, `GEM`, `Cumulative` and others), which would go through the latest
        task's part.

    Notes
    -----
    The task of a sample must be known; `predict` and `network` take the task's index. A warning
    tells when a layer has no free weights left.
    Biases and normalizations are trained in the first task only, as in the paper. Frozen parameters
    (``optimizer.add_group(..., frozen=True)``) belong to no task and are used by all. Outputs that
    do not compete while a task is learned (``nn.CrossEntropyLoss(heads=...)``) are left to other
    tasks; those that compete then belong to the task, and are not pruned. The running averages of
    `nn.BatchNorm1d` are updated in every task, which changes the outputs for earlier tasks;
    `nn.LayerNorm` has none. Retraining steps are not part of a run's histories.

    References
    ----------
    A. Mallya and S. Lazebnik, "PackNet: adding multiple tasks to a single network by iterative
    pruning", CVPR 2018, arXiv:1711.05769.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> loss = nn.CrossEntropyLoss(heads=(5, 5))
    >>> trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    >>> strategy = continual.PackNet(trainer, prune=0.5)
    """

    gathers = ("owner", "_free", "_taken", "_options")
    _by_parameter = ("owner", "_free")
    _does = ("part", "owner", "place")

    def __init__(
        self, inner: Trainer | Strategy, *, prune: float = 0.5, retrain: float = 0.5
    ) -> None:
        super().__init__(inner)
        self.prune: float = _checks.real("prune", prune, 0, 1, "()")
        # Bounded, so that the number of steps is finite.
        self.retrain: float = _checks.real("retrain", retrain, 0, 1e6, "[]")
        model = self.trainer.model
        if blocks := [layer for layer in model.layers if isinstance(layer, Block)]:
            name = kind_of(blocks[0]).__name__
            raise UnsupportedError(f"PackNet does not support models with nn.{name} yet")
        at = _hidden_units.places(model)
        linear = [i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Linear)]
        if not linear:
            raise ArgumentError("PackNet needs a model with an nn.Linear")
        self._last = [at[name] for name in at if name.startswith(f"{linear[-1]}.")]
        self._weights = [at[f"{place}.weight"] for place in linear]
        #: The index of the task that owns each parameter; -1 if it is free.
        self.owner: npt.NDArray[np.int64] = np.full(model.num_parameters, -1)
        self._taken, self._options = 0, dict[str, Any]()
        self._free: Any = None  # what the current task trains

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        frozen = _hidden_units.frozen(self.trainer)
        free = (self.owner < 0) & ~frozen
        outputs = outputs_of(self.trainer, task)
        if outputs is not None:
            for array in self._last:
                others = np.setdiff1d(np.arange(len(array)), outputs)
                free[array[others]] = False
        full = sum(not (free | frozen)[weight].any() for weight in self._weights)
        if full:
            warn(
                f"PackNet has no free weights left in {full} of {len(self._weights)} layers: there,"
                f" task {task.index} can only use the weights of earlier tasks. A larger network or"
                " a larger prune leaves more free weights",
            )
        self._taken, self._options = 0, {}
        self._hold(free)

    def _learn(self, task: Task, *, steps: int, start: int, **options: Any) -> History:
        history = super()._learn(task, steps=steps, start=start, **options)
        self._taken, self._options = self._taken + steps, options
        return history

    def step(self, x: Any, y: Any) -> float:
        """Take a step on a batch of the task; `end` retrains in batches as large as the largest."""
        loss = super().step(x, y)
        largest = max(len(x), self._options.get("batch_size", 0))
        # A short last batch may have too few rows for `nn.BatchNorm1d`; these steps had their own.
        usual = {"shuffle": True, "drop_last": True}
        self._options = {**usual, **self._options, "batch_size": largest}
        self._taken += 1
        return loss

    def end(self, task: Task) -> None:
        """Free the smallest weights, and retrain the others."""
        self._ready_to_end(task)
        model = self.trainer.model
        theta, mine = model.flat_parameters, self._free.copy()
        own_outputs = outputs_of(self.trainer, task) is not None
        for weight in self._weights[:-1] if own_outputs else self._weights:
            trained = weight.ravel()[mine[weight.ravel()]]
            sizes = np.abs(theta[trained])
            least = trained[np.argsort(sizes, kind="stable")[: round(self.prune * len(trained))]]
            theta[least], mine[least] = 0, False
        model.flat_parameters = theta
        self._hold(mine)
        steps = round(self.retrain * self._taken)
        if steps:
            super()._learn(task, steps=steps, start=self._taken, **self._options)
        self.owner[mine] = task.index
        self._hold(None)
        super().end(task)

    def _abandon(self) -> None:
        self._hold(None)
        super()._abandon()

    def _hold(self, free: Any) -> None:
        self._free = free
        self.trainer._hold(free)

    def network(self, task: int | None = None) -> Sequential:
        """Return the network with the weights of a task and earlier ones; all by default."""
        model = super().network(task)
        if task is not None:
            task = _checks.integer("task", task, 0)
        if task is None or task not in self._learned:
            return model
        known = self._learned[: self._learned.index(task) + 1]
        theta = model.flat_parameters
        belongs = np.isin(self.owner, known) | (
            _hidden_units.frozen(self.trainer) & (self.owner < 0)
        )
        for weight in self._weights:
            theta[weight[~belongs[weight]]] = 0
        return _with(model, theta)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        super().load_state_dict(state)
        self._hold(None if self._free is None else self._free.astype(bool))
