"""Strategies that keep gradients from going against earlier tasks."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches
from thalweg.continual._buffers import Buffer
from thalweg.continual._memory import Keeping, buffer_of, keep, kept_rows
from thalweg.continual._strategy import Strategy, mean_history
from thalweg.continual._task import Task
from thalweg.errors import UnsupportedError
from thalweg.optim import SAM

#: Steps whose reference rows are chosen at once.
_CHUNK = 64


class Projecting(Strategy):
    """Base of strategies that change gradients between the pass and the update, in the core."""

    _does: tuple[str, ...] = ("projection",)

    def __init__(self, inner: Trainer | Strategy) -> None:
        super().__init__(inner)
        if isinstance(self.trainer.optimizer, SAM):
            raise UnsupportedError(
                f"{type(self).__name__} changes the gradient of each step, and SAM takes its "
                "gradients elsewhere than at the parameters: use the optimizer inside of it"
            )

    @contextlib.contextmanager
    def _projecting(self) -> Iterator[Any]:
        """Give the core's trainer, whose projection ends when the block does."""
        core = self.trainer._elementary("projection of gradients")
        try:
            yield core
        finally:
            core.project_out()

    def _ready(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Make remembered samples ready for the core."""
        samples, targets, _ = self.trainer._ready(x, y, None)
        return samples, targets

    def _check(self, task: Task) -> None:
        if task.sample_weight is not None:
            raise UnsupportedError(f"{type(self).__name__} does not take tasks with sample_weight")


def with_share(history: History, core: Any) -> History:
    """Add the share of the updates whose gradient was changed."""
    updates, changed = core.projected()
    history["projected"] = [changed / max(updates, 1)]
    return history


class AGEM(Projecting, Keeping):
    r"""Averaged gradient episodic memory: no step against what is remembered, on average.

    Before every update, :math:`g_\mathrm{ref}` is the gradient of the loss of a batch out of the
    buffer, and

    .. math:: g \leftarrow g - \frac{g^T g_\mathrm{ref}}
              {\lVert g_\mathrm{ref} \rVert^2 + \varepsilon}\, g_\mathrm{ref}
              \quad\text{if}\quad g^T g_\mathrm{ref} < 0

    so that, to first order and but for :math:`\varepsilon`, the loss of that batch does not grow.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    buffer : Buffer or int
        Where samples are kept; a number is the capacity of a `ReservoirBuffer`. It takes a task's
        samples in when the task ends.
    batch_size : int, keyword only, optional
        Samples of the buffer in each reference batch; by default as many as new ones. If fewer are
        kept, all of them.
    eps : float, keyword only, default 0.0
        :math:`\varepsilon`, from 0 on. The paper and Avalanche have none, van de Ven's code has
        1e-7.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If the optimizer is `optim.SAM`. During a task, if it has weights of samples, another
        strategy projects gradients, the loss is one of your own, or the optimizer takes all data
        at once.

    Notes
    -----
    The core does it all, between the pass and the update: a step costs one more pass, and is not
    fused. What is projected is all of the gradient, with a penalty's if there is one, before it is
    clipped. An optimizer with momentum or a scale for each parameter, such as `optim.Adam`, takes
    the projected gradient in; its step need not be in the direction that the formula speaks of, in
    van de Ven's code neither. ``history["projected"]`` is the share of the updates that it changed.

    Passes over the buffer are those of `Replay`. Running averages of `nn.BatchNorm1d` are of new
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

    _does = ("projection", "plain rows")

    def __init__(
        self,
        inner: Trainer | Strategy,
        buffer: Buffer | int,
        *,
        batch_size: int | None = None,
        eps: float = 0.0,
    ) -> None:
        super().__init__(inner)
        self._keep_in(buffer_of(buffer), batch_size)
        self._eps = _checks.real("eps", eps, 0)

    def learn(
        self, task: Task, *, steps: int, start: int = 0, batch_size: int = 32, **options: Any
    ) -> History:
        """Take some steps; see `Strategy.learn`."""
        if not len(self.buffer):
            return super().learn(task, steps=steps, start=start, batch_size=batch_size, **options)
        self._check(task)
        # Samples that are made when they are asked for are made once, not for every chunk.
        task = task.with_data(task.x, task.y, task.sample_weight)
        memory, parts = self.buffer.rows(), []
        size = min(self._batch or batch_size, len(self.buffer))
        with self._projecting() as core:
            core.project(("average", 0.0, self._eps), [self._ready(memory["x"], memory["y"])])
            chunk = _batches.whole_updates(self.trainer, _CHUNK)
            for first in range(start, start + steps, chunk):
                count = min(chunk, start + steps - first)
                seed = self.trainer.model.seed
                rows = kept_rows(len(self.buffer), task.index, seed, first, count, size)
                core.recall(0, rows.ravel().tolist(), size)
                part = super().learn(
                    task, steps=count, start=first, batch_size=batch_size, **options
                )
                parts.append((count, part))
            return with_share(mean_history(parts), core)

    def end(self, task: Task) -> None:
        """Let the buffer take samples of the task in."""
        super().end(task)
        keep(self.buffer, self.trainer, task)

    def step(self, x: Any, y: Any) -> float:
        """Take a step of a stream on new samples, not against kept ones; then keep some.

        Parameters
        ----------
        x, y : array_like
            New samples, as `Trainer.step` takes them.

        Returns
        -------
        float
            The loss of the new samples before the step.
        """
        if len(self.buffer):
            kept = self.buffer.sample(self._batch or len(x))
            with self._projecting() as core:
                core.project(("average", 0.0, self._eps), [self._ready(kept["x"], kept["y"])])
                loss = super().step(x, y)
        else:
            loss = super().step(x, y)
        self.buffer.add(x=x, y=y)
        return loss


class GEM(Projecting):
    r"""Gradient episodic memory: no step against the memory of any task.

    Before every update, row `k` of `R` is the gradient of the loss of all that is remembered of
    task `k`. If :math:`r_k^T g < 0` for one of them,

    .. math:: g \leftarrow g + R^T v, \qquad
              v = \gamma + \operatorname*{argmin}_{u \ge 0} \tfrac12 u^T R R^T u + (R g)^T u

    which for :math:`\gamma = 0` is the nearest g with :math:`R g \ge 0`.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    per_task : int
        Samples that are kept of each task, drawn without replacement when it ends.
    margin : float, keyword only, default 0.5
        :math:`\gamma`, from 0 on.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above. ``"avalanche"``, also the authors' code:
        :math:`v = \operatorname{argmin}_{v \ge \gamma} \tfrac12 v^T (R R^T + 10^{-3} I) v + (Rg)^T
        v`.
    seed : int, keyword only, default 0
        Decides which samples are kept.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        As by `AGEM`.

    Notes
    -----
    The core does it all. Each step costs a pass over the memory of each earlier task, as in the
    paper. The rest is as in `AGEM`, to which this is the exact counterpart.

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

    _does = ("projection", "plain rows")

    def __init__(
        self,
        inner: Trainer | Strategy,
        per_task: int,
        *,
        margin: float = 0.5,
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        self._rehearse()
        self.per_task = _checks.integer("per_task", per_task, 1)
        self.margin = _checks.real("margin", margin, 0)
        self.convention = _checks.one_of("convention", convention, ("paper", "avalanche"))
        self.seed = _checks.integer("seed", seed, 0)
        self._memories: list[dict[str, Any]] = []

    def learn(self, task: Task, **options: Any) -> History:
        """Take some steps; options as of `Strategy.learn`."""
        if not self._memories:
            return super().learn(task, **options)
        self._check(task)
        with self._projecting() as core:
            self._remember(core)
            return with_share(super().learn(task, **options), core)

    def step(self, x: Any, y: Any) -> float:
        """Take a step on a batch, not against what is remembered; see `Strategy.step`."""
        if not self._memories:
            return super().step(x, y)
        with self._projecting() as core:
            self._remember(core)
            return super().step(x, y)

    def _remember(self, core: Any) -> None:
        """Hand the memories to the core."""
        paper = self.convention == "paper"
        rule = ("each", self.margin, 0.0) if paper else ("bound", self.margin, 1e-3)
        core.project(rule, [self._ready(m["x"], m["y"]) for m in self._memories])

    def end(self, task: Task) -> None:
        """Remember some samples of the task."""
        super().end(task)
        rows = sample(len(task.y), self.per_task, self.seed, task.index)
        self._memories.append({"x": np.asarray(task.x)[rows], "y": np.asarray(task.y)[rows]})

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered."""
        return {**super().state_dict(), "memories": list(self._memories)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self._memories = list(state["memories"])


def sample(rows: int, size: int, seed: int, index: int) -> Any:
    """Draw rows of a task, in their order; all of them, if there are fewer."""
    generator = np.random.default_rng((seed, index))
    return np.sort(generator.choice(rows, min(size, rows), replace=False))
