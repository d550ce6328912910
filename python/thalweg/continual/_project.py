"""Strategies that keep gradients from going against earlier tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _protocol
from thalweg.continual._buffers import Buffer
from thalweg.continual._memory import (
    Drawing,
    KeepingTasks,
    buffer_of,
    check_competing,
    kept_rows,
)
from thalweg.continual._passes import counting_steps, finish, mean_history, were_skipped
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, are_labels, counted
from thalweg.errors import UnsupportedError
from thalweg.nn._losses import FunctionLoss
from thalweg.optim import SAM

Convention: TypeAlias = Literal["paper", "avalanche"]
_T = TypeVar("_T")
#: Steps whose reference rows are chosen at once.
_CHUNK = 64


class Projecting(Strategy):
    """Base of strategies that change gradients between the pass and the update, in the core."""

    _does: tuple[str, ...] = ("projection",)
    #: Rows of the latest `step`.
    _rows_of_latest: int = 0

    def __init__(self, inner: Trainer | Strategy) -> None:
        super().__init__(inner)
        if isinstance(self.trainer.optimizer, SAM):
            raise UnsupportedError(
                f"{type(self).__name__} changes the gradient of each step, but SAM computes it at"
                " perturbed parameters: use SAM's base optimizer instead"
            )

    def _check(self, task: Task) -> None:
        """Refuse what cannot be projected before the first task, which needs no projection."""
        self._projectable()
        super()._check(task)

    def _learn(self, task: Task, **options: Any) -> History:
        learned = _protocol.learned(_protocol.inside(self), task)
        if self.inner is not None and learned is not task:
            self.inner._check_data(learned)
        finish(self, learned)  # before the core is told of the reference rows of these steps
        if not self._remembers():
            return super()._learn(task, **options)

        def take(core: Any) -> tuple[History, int, int]:
            history = self._projected(core, task, **options)
            updates, changed = core.projected()
            return history, updates, changed

        history, updates, changed = self._projecting(None, take)
        if not were_skipped(history):
            history["projected"] = [changed / max(updates, 1)]
        if history._counts is not None:
            history._counts = *history._counts[:2], updates
        return history

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step on a batch that does not go against what is remembered."""
        take = super().step
        samples: Any = x
        if self._remembers():
            samples = self.trainer.model._samples(x, "x")
            loss = self._projecting(len(samples), lambda _: take(samples, y))
        else:
            loss = take(x, y)
        self._rows_of_latest = len(samples)
        return loss

    def _project_rest(self) -> None:
        """Make the update for which gradients of some batches wait, projected like the others."""
        flush = self.trainer._core.flush
        if self._remembers():
            self._projecting(self._rows_of_latest or None, lambda _: flush())
        else:
            flush()

    def _projecting(self, rows: int | None, take: Callable[[Any], _T]) -> _T:
        """Call a function with the core's trainer, which projects gradients until it returns.

        Not a context manager: Ctrl-C could keep the end of one from being reached.
        """
        core = self._projectable()
        try:
            self._hand_over(core, rows)
            return take(core)
        finally:
            core.project_out()

    def _projectable(self) -> Any:
        """Return the core's trainer if it can project gradients."""
        core = self.trainer._updating()
        if core is None or isinstance(self.trainer.loss, FunctionLoss):
            raise UnsupportedError(
                f"{type(self).__name__} cannot project the gradients of custom losses, nor of"
                " optimizers that take all data at once: use a loss of nn, and an optimizer for"
                " batches"
            )
        return core

    def _remembers(self) -> bool:
        """Whether there is anything yet that gradients must not go against."""
        raise NotImplementedError

    def _preserves(self) -> bool:
        return self._remembers()

    def _waits(self) -> bool:
        return not self._remembers()

    def _hand_over(self, core: Any, rows: int | None) -> None:
        """Pass that to the core: for a step of a stream on `rows` rows, or for a task if None."""
        raise NotImplementedError

    def _projected(
        self, core: Any, task: Task, *, steps: int, start: int, batch_size: int, **options: Any
    ) -> History:
        """Take steps whose gradients are projected."""
        return super()._learn(task, steps=steps, start=start, batch_size=batch_size, **options)

    def _ready(self, rows: Mapping[str, Any]) -> tuple[Any, Any]:
        """Make remembered samples ready for the core."""
        samples, targets, _ = self.trainer._ready(rows["x"], rows["y"], None)
        return samples, targets


class AGEM(Projecting, KeepingTasks):
    r"""Averaged gradient episodic memory: no step against the average of what is remembered.

    Before every update, :math:`g_\mathrm{ref}` is the gradient of the loss on a batch from the
    buffer, and

    .. math:: g \leftarrow g - \frac{g^T g_\mathrm{ref}}
              {\lVert g_\mathrm{ref} \rVert^2 + \varepsilon}\, g_\mathrm{ref}
              \quad\text{if}\quad g^T g_\mathrm{ref} < 0

    so that, to first order and apart from :math:`\varepsilon`, the loss on that batch does not
    grow.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`. A task's samples
        are stored when the task ends.
    batch_size : int, keyword only, optional
        Buffer samples in each reference batch; by default as many as new ones. If fewer are kept,
        all of them.
    eps : float, keyword only, default 0.0
        :math:`\varepsilon`, at least 0. The paper and Avalanche have none, van de Ven's code has
        1e-7.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        If an argument is out of range; otherwise as for `Replay`.
    UnsupportedError
        If the optimizer is `optim.SAM`; for tasks with sample weights; during a task, if another
        strategy projects gradients, or the loss is a custom one; for steps on a stream with a
        buffer that selects by ``"herding"``.

    Notes
    -----
    The core does all of this between the pass and the update: a step costs one more pass, and is
    not fused. The whole gradient is projected, including that of a penalty if there is one, before
    it is clipped. An optimizer with momentum or a scale for each parameter, such as `optim.Adam`,
    receives the projected gradient; its step need not satisfy the condition of the formula, nor
    does it in van de Ven's code. ``history["projected"]`` is the share of updates that were
    changed.

    Passes over the buffer are those of `Replay`. Running averages of `nn.BatchNorm1d` include new
    samples only.

    References
    ----------
    A. Chaudhry, M. Ranzato, M. Rohrbach and M. Elhoseiny, "Efficient lifelong learning with A-GEM",
    ICLR 2019, arXiv:1812.00420, equation 11.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    >>> strategy = continual.AGEM(trainer, continual.BalancedBuffer(100, per_class=True))
    """

    gathers = ("_rows_of_latest",)
    _does = ("projection", "plain rows", "place")

    def __init__(
        self,
        inner: Trainer | Strategy,
        buffer: Buffer | int,
        *,
        batch_size: int | None = None,
        eps: float = 0.0,
    ) -> None:
        super().__init__(inner)
        self._keep_in(buffer_of(buffer))
        self.batch_size: int | None = _checks.optional_integer("batch_size", batch_size, 1)
        self.eps: float = _checks.real("eps", eps, 0)

    def _remembers(self) -> bool:
        return len(self.buffer) > 0

    def _waits(self) -> bool:
        return False  # its steps store samples, too

    def _hand_over(self, core: Any, rows: int | None) -> None:
        kept = self.buffer.rows() if rows is None else self.buffer.sample(self.batch_size or rows)
        core.project(("average", 0.0, self.eps), [self._ready(kept)])

    def _projected(
        self, core: Any, task: Task, *, steps: int, start: int, batch_size: int, **options: Any
    ) -> History:
        # Create samples that are made on demand once, not for every chunk.
        task = task.with_data(task.x, task.y)
        size, seed = min(self.batch_size or batch_size, len(self.buffer)), self.trainer.model.seed
        # Batches in an update; the last update of a pass may have fewer.
        each = self.trainer._accumulate
        # A strategy inside may learn other rows than the task's, in passes of another length.
        learned = _protocol.learned(_protocol.inside(self), task)
        per_pass = _batches.per_pass(len(learned.y), batch_size, options["drop_last"])
        counting = counting_steps(
            self.trainer, learned, steps=steps, start=start, batch_size=batch_size, **options
        )
        cuts = _cuts(counting, start, per_pass, each)
        at, end, parts = start, start + steps, []
        while at < end:
            stop = min(_batches.end_of_update(at + _CHUNK, per_pass, each, start), end)
            if each > 1:  # updates in a pass that this call begins within may be fewer
                stop = min(stop, at - at % per_pass + per_pass)
            stop = min(stop, int(cuts[np.searchsorted(cuts, at, "right")]))
            count = stop - at
            update = at // per_pass * -(-per_pass // each) + at % per_pass // each
            rows = kept_rows(len(self.buffer), task.index, seed, update, -(-count // each), size)
            core.recall(0, rows.ravel().tolist(), size)
            part = super()._projected(
                core, task, steps=count, start=at, batch_size=batch_size, **options
            )
            parts.append(part)
            at += count
        return mean_history(self.trainer.loss, parts)

    def _project_rest(self) -> None:
        with Drawing(self.buffer):
            super()._project_rest()

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step on new samples, not against kept ones; those of a stream are kept then.

        Parameters
        ----------
        x, y : array_like
            New samples, as `Trainer.step` takes them; between `begin` and `end`, as for
            `Replay.step`.

        Returns
        -------
        float
            The loss of the new samples before the step.

        Raises
        ------
        ShapeError, DataError, DtypeError, ArgumentError
            As for `Replay.step`.
        """
        new = self._new_rows(x, y)
        with Drawing(self.buffer):
            loss = super().step(new["x"], new["y"])
        self._keep_new(new)
        return loss


class GEM(Projecting):
    r"""Gradient episodic memory: no step against the memory of any task.

    Before every update, row `k` of `R` is the gradient of the loss on everything remembered of task
    `k`. If :math:`r_k^T g < 0` for one of them,

    .. math:: g \leftarrow g + R^T v, \qquad
              v = \gamma + \operatorname*{argmin}_{u \ge 0} \tfrac12 u^T R R^T u + (R g)^T u

    which for :math:`\gamma = 0` gives the nearest g with :math:`R g \ge 0`.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    per_task : int
        The number of samples kept of each task, drawn without replacement when it ends.
    margin : float, keyword only, default 0.5
        :math:`\gamma`, at least 0.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above. ``"avalanche"``, also the authors' code, is
        :math:`v = \operatorname{argmin}_{v \ge \gamma} \tfrac12 v^T (R R^T + 10^{-3} I) v + (Rg)^T
        v`.
    seed : int, keyword only, default 0
        Determines which samples are kept.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        As for `AGEM`.

    Notes
    -----
    The core does all of this. Each step costs a pass over the memory of each earlier task, as in
    the paper. Everything else is as in `AGEM`, of which this is the exact counterpart.

    References
    ----------
    D. Lopez-Paz and M. Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017,
    arXiv:1706.08840, equation 11. The problem for v is solved by the method of Lawson and Hanson.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    >>> strategy = continual.GEM(trainer, per_task=256)
    """

    gathers = ("_memories",)
    replays = True
    _does = ("projection", "plain rows")

    def __init__(
        self,
        inner: Trainer | Strategy,
        per_task: int,
        *,
        margin: float = 0.5,
        convention: Convention = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        self.per_task: int = _checks.integer("per_task", per_task, 1)
        self.margin: float = _checks.real("margin", margin, 0)
        self.convention: str = _checks.one_of("convention", convention, get_args(Convention))
        self.seed: int = _checks.integer("seed", seed, 0)
        self._memories: list[dict[str, Any]] = []

    def _remembers(self) -> bool:
        return bool(self._memories)

    def _hand_over(self, core: Any, rows: int | None) -> None:
        paper = self.convention == "paper"
        rule = ("each", self.margin, 0.0) if paper else ("bound", self.margin, 1e-3)
        core.project(rule, [self._ready(memory) for memory in self._memories])

    def end(self, task: Task) -> None:
        """Remember some samples of the task."""
        super().end(task)
        x, y = counted(self.trainer.loss, task.x, task.y)
        rows = sample(len(y), self.per_task, self.seed, task.index)
        if len(rows):
            self._memories.append({"x": x[rows], "y": y[rows]})

    def _check_kept(self, task: Task) -> None:
        super()._check_kept(task)
        kept = [memory["y"] for memory in self._memories if are_labels(memory["y"])]
        check_competing(self, np.concatenate(kept) if kept else None)


def _cuts(counting: Any, start: int, per_pass: int, accumulate: int) -> Any:
    """Return the steps before and after updates in which no row counts, and the end.

    They are skipped, and so must be their reference rows, unless a strategy inside adds rows to
    them that count, which is not known here. Each must therefore be on its own.
    """
    steps = np.arange(start, start + len(counting))
    since = steps - np.maximum(start, steps - steps % per_pass)  # an update begins with each part
    firsts = np.flatnonzero(since % accumulate == 0)
    none = ~np.logical_or.reduceat(counting, firsts)
    edges = np.append(firsts, len(counting))
    return start + np.unique([*edges[:-1][none], *edges[1:][none], len(counting)])


def sample(rows: int, size: int, seed: int, index: int) -> Any:
    """Draw rows of a task, in their order; all of them if there are fewer."""
    generator = np.random.default_rng((seed, index))
    return np.sort(generator.choice(rows, min(size, rows), replace=False))
