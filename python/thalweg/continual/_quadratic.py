"""Strategies that pull parameters back to where earlier tasks left them."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._history import History
from thalweg._likelihood import likelihood_of
from thalweg._trainer import Trainer
from thalweg.continual._fisher import check_kind, importance, some_samples
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import DivergedError, UnsupportedError
from thalweg.nn import CrossEntropyLoss

_Flat = npt.NDArray[np.float64]

#: Which Fisher information belongs to a convention.
_FISHER = {"paper": "exact", "avalanche": "batched", "mammoth": "weighted"}

#: Below this share of the loss, a penalty is reported as one that hardly matters.
NEGLIGIBLE = 1e-4


class Quadratic(Strategy):
    """What they share: one penalty s/2 sum A (theta - a)^2, which `add` makes stronger.

    Several tasks' penalties are one, with the sum of their importances and the mean of their
    anchors in those weights; so the memory does not grow with the number of tasks.
    """

    _does = ("penalty",)

    def __init__(self, inner: "Trainer | Strategy", strength: float) -> None:
        super().__init__(inner)
        link = self.inner
        while link is not None:
            self._check_joined(link)
            link = link.inner
        self.trainer._elementary("penalty")  # what there is none for is refused before it trains
        self.strength = _checks.real("strength", strength, 0)
        #: What the formula's strength is, in terms of the half that the trainer's penalty has.
        self._factor = 1.0
        #: Penalty over loss, at the end of each part of a task in which there was a penalty.
        self.ratios: list[float] = []
        self._importance: _Flat | None = None
        self._anchor: _Flat | None = None
        self._seen: set[int] = set()
        self._told = self._told_of_averages = False

    def _check_joined(self, link: Strategy) -> None:
        """Refuse what would silently lose a penalty, or weigh what was not trained."""
        mine, other = type(self).__name__, type(link).__name__
        if isinstance(link, Quadratic):
            raise UnsupportedError(
                f"{mine} around {other} is not there: a trainer has one penalty, so that {other}'s"
                " would be lost"
            )
        if link._opens:
            raise UnsupportedError(
                f"{mine} around {other} is not there: importances would be those of the whole"
                f" network, not of the part that learns a task; {other} goes outside, around"
                " SynapticIntelligence"
            )

    @property
    def importance(self) -> _Flat | None:
        """How much each parameter matters for the tasks so far; None before the first."""
        return self._importance

    @property
    def anchor(self) -> _Flat | None:
        """Where each parameter is pulled to."""
        return self._anchor

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        new = set(task.classes or ()) - self._seen
        loss = self.trainer.loss
        if (
            self._seen
            and new
            and not self._told
            and not self._rehearses
            and isinstance(loss, CrossEntropyLoss)
            and loss.heads is None
            and (loss.active is None or self._seen & set(loss.active))
        ):
            self._told = True
            warnings.warn(
                f"task {task.index} brings new classes {sorted(new)} that compete with those of "
                f"earlier tasks: {type(self).__name__} keeps weights, but nothing tells old classes"
                " from new ones, and accuracy falls to that of the latest task (about 20 % on split"
                " MNIST, in every publication). Replay of earlier samples is what helps; or let the"
                " task be known (one head for each task)",
                stacklevel=3,
            )
        self._seen |= set(task.classes or ())

        if self._importance is not None and not self._told_of_averages and self._has_averages():
            self._told_of_averages = True
            warnings.warn(
                "the running averages of nn.BatchNorm1d go on with every task, and no penalty holds"
                f" them: what the model gives for earlier tasks changes even where"
                f" {type(self).__name__} keeps all weights. nn.LayerNorm has none",
                stacklevel=3,
            )

    def _has_averages(self) -> bool:
        return any("running_" in name for name in self.trainer.model.state_dict())

    def _kind(self) -> str:
        """Say more about importances that are too small."""
        return ""

    def learn(self, task: Task, **options: Any) -> History:
        """Take some steps on a task."""
        try:
            history = super().learn(task, **options)
        except DivergedError as error:
            if self._importance is not None:
                most = self._factor * self.strength * float(self._importance.max())
                rate = 2 / (most or np.inf)
                error.add_note(
                    f"The penalty of {type(self).__name__} curves by up to {most:.1e}: on it, plain"
                    f" gradient descent diverges above a rate of {rate:.1e}. Take a smaller"
                    " strength or rate, or an optimizer that scales, as optim.Adam."
                )
            raise
        if "penalty" in history and history["loss"][-1] != 0:
            self.ratios.append(history["penalty"][-1] / abs(history["loss"][-1]))
        return history

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        if self.ratios and self.strength > 0 and 0 <= self.ratios[-1] < NEGLIGIBLE:
            mean = 0.0 if self._importance is None else float(self._importance.mean())
            kind = self._kind()
            warnings.warn(
                f"the penalty of {type(self).__name__} was {self.ratios[-1]:.1e} of the loss at the"
                f" end of task {task.index}, less than {NEGLIGIBLE:g}: if earlier tasks are being"
                f" forgotten, strength={self.strength:g} is too small for importances of this size"
                f" (the mean is {mean:.1e}{kind})",
                stacklevel=3,
            )
        super().end(task)

    def _parameters(self) -> _Flat:
        return self.trainer.model.flat_parameters.astype(np.float64)

    def _add(self, importance: _Flat, theta: _Flat) -> None:
        """Add the penalty of a task."""
        if self._importance is None or self._anchor is None:
            self._set(importance, theta)
            return
        total = self._importance + importance
        pulled = np.where(total == 0, 1, total)
        weight = np.where(total == 0, 1, importance / pulled)
        self._set(total, self._anchor + weight * (theta - self._anchor))

    def _set(self, importance: _Flat | None, anchor: _Flat | None) -> None:
        self._importance, self._anchor = importance, anchor
        trainer = self.trainer
        if importance is None or anchor is None:
            trainer.set_penalty(None)
            return
        dtype = trainer.model.dtype
        trainer._pull(importance.astype(dtype), anchor.astype(dtype), self._factor * self.strength)

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered (not the trainer's), as arrays and plain data."""
        return super().state_dict() | {
            "importance": self._importance,
            "anchor": self._anchor,
            "ratios": list(self.ratios),
            "seen": sorted(self._seen),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self.ratios, self._seen = list(state["ratios"]), set(state["seen"])
        self._set(state["importance"], state["anchor"])


class EWC(Quadratic):
    r"""Elastic weight consolidation: every task keeps the parameters that it depends on.

    .. math:: \frac{\lambda}{2} \sum_k \sum_j F_{k,j} (\theta_j - \theta^*_{k,j})^2

    is added to the loss of each task, with the diagonal Fisher information F of the tasks k before
    and the parameters that they ended with.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. It depends on the kind of Fisher information, whose sizes differ by orders
        of magnitude: a value from a publication is good for its kind only. Look for it in powers of
        10, e.g. from 1 to 1e6, and at `ratios`, the penalty over the loss.
    fisher : str, keyword only, optional
        Its kind, see `fisher_diagonal`; by default that of the convention.
    n_samples : int, keyword only, optional
        Compute it from so many samples of each task.
    batch_size : int, keyword only, default 128
        Of ``fisher="batched"``.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above with ``fisher="exact"``, as van de Ven has it.
        ``"avalanche"`` and ``"mammoth"`` leave the half out, so that the same strength pulls twice
        as much, with ``fisher="batched"`` (give it the batch size of the training) and
        ``fisher="weighted"``. mammoth divides by the samples rounded up to whole batches, this by
        their number. The code of the GEM paper squares the mean gradient of some samples: that is
        ``fisher="batched"`` with as many as one batch.
    seed : int, keyword only, default 0
        Decides what is drawn for the Fisher information.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If the trainer's loss is no likelihood that `fisher_diagonal` knows, or its optimizer takes
        all data at once.

    Notes
    -----
    The tasks' penalties are added up exactly, to one: memory does not grow with their number.

    With new classes in each task that compete with the old ones (class-incremental learning), EWC
    forgets about as much as plain training does; it says so in a warning.

    References
    ----------
    J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017,
    arXiv:1612.00796. F. Huszár, "Note on the quadratic penalties in elastic weight consolidation",
    PNAS 2018, on the sum over tasks.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((400, 2))
    >>> tasks = [continual.Task(x * s, x[:, k] > 0, x * s, x[:, k] > 0, k)
    ...          for k, s in enumerate(([1, 0], [0, 1]))]
    >>> ewc = continual.EWC(trainer, strength=100)
    >>> for task in tasks:
    ...     history = ewc.fit(task, epochs=10)
    >>> [bool(np.mean(ewc.predict(t.x_test) == t.y_test) > 0.9) for t in tasks]
    [True, True]
    """

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        fisher: str | None = None,
        n_samples: int | None = None,
        batch_size: int = 128,
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(inner, strength)
        self.convention = _checks.one_of("convention", convention, tuple(_FISHER))
        if fisher is None:
            fisher = _FISHER[convention]
        # What the first task's end would refuse is refused before it trains.
        self.fisher = check_kind("fisher", fisher, likelihood_of(self.trainer.loss))
        self.n_samples = some_samples(n_samples)
        self.batch_size = _checks.integer("batch_size", batch_size, 1)
        self.seed = _checks.integer("seed", seed, 0)
        self._factor = 1.0 if convention == "paper" else 2.0

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        super().end(task)
        self._add(self._fisher(task), self._parameters())

    def _kind(self) -> str:
        return (
            f', of fisher="{self.fisher}"; a strength that is good for one kind of Fisher'
            " information is not for another, whose size differs by orders of magnitude"
        )

    def _fisher(self, task: Task) -> _Flat:
        return importance(
            self.trainer.model,
            task.x,
            task.y,
            self.fisher,
            self.trainer.loss,
            n_samples=self.n_samples,
            classes=competing(self.trainer, task),
            batch_size=self.batch_size,
            seed=self.seed,
        ).astype(np.float64)


class OnlineEWC(EWC):
    r"""Elastic weight consolidation with one anchor: the parameters after the latest task.

    .. math:: \frac{\lambda}{2} \sum_j \gamma \tilde F_j (\theta_j - \theta^*_j)^2, \qquad
              \tilde F \leftarrow F_{\text{new}} + \gamma \tilde F

    Parameters
    ----------
    inner, strength, fisher, n_samples, batch_size, seed
        As for `EWC`.
    decay : float, keyword only, default 1.0
        :math:`\gamma`, from 0 to 1: how much of earlier tasks' importance is left after each.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above, also van de Ven's. ``"avalanche"`` and ``"mammoth"`` have
        neither the half nor the :math:`\gamma` before the sum, and other kinds of Fisher
        information by default, see `EWC`.

    References
    ----------
    J. Schwarz et al., "Progress & compress", ICML 2018, arXiv:1805.06370.
    """

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        decay: float = 1.0,
        fisher: str | None = None,
        n_samples: int | None = None,
        batch_size: int = 128,
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(
            inner, strength, fisher=fisher, n_samples=n_samples, batch_size=batch_size,
            convention=convention, seed=seed,
        )  # fmt: skip
        self.decay = _checks.real("decay", decay, 0, 1, "[]")
        self._factor = self.decay if convention == "paper" else 2.0

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        Quadratic.end(self, task)
        fisher = self._fisher(task)
        if self._importance is not None:
            fisher = fisher + self.decay * self._importance
        self._set(fisher, self._parameters())


class L2(Quadratic):
    r"""Every parameter is kept alike: what importances are worth is seen beside this.

    .. math:: \frac{\lambda}{2} \lVert \theta - \theta^* \rVert^2

    with the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. Hsu et al., whose baseline it is, leave the half out.

    References
    ----------
    Y.-C. Hsu, Y.-C. Liu, A. Ramasamy and Z. Kira, "Re-evaluating continual learning scenarios",
    2018, arXiv:1810.12488.
    """

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        super().end(task)
        theta = self._parameters()
        self._set(np.ones_like(theta), theta)


class L2Init(Quadratic):
    r"""Pulls all parameters to where they began, so that the network stays able to learn.

    .. math:: \frac{\lambda}{2} \lVert \theta - \theta_0 \rVert^2

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`; the publication leaves the half out.

    References
    ----------
    S. Kumar, H. Marklund and B. Van Roy, "Maintaining plasticity in continual learning via
    regenerative regularization", 2023, arXiv:2308.11958.
    """

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        if self._anchor is None:
            theta = self._parameters()
            self._set(np.ones_like(theta), theta)


class MAS(Quadratic):
    r"""Memory aware synapses: what changes the output when it changes is kept. Needs no labels.

    .. math:: \lambda \sum_j \Omega_j (\theta_j - \theta^*_j)^2, \qquad
              \Omega_j = \sum_k \frac{1}{N_k} \sum_n
              \left| \frac{\partial \lVert f(x_n) \rVert^2}{\partial \theta_j} \right|

    with the outputs f, and the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. Mind that there is no half.
    n_samples : int, keyword only, optional
        Use so many samples of each task.
    seed : int, keyword only, default 0
        Decides which.
    batch_size : int, keyword only, default 128
        Of ``convention="avalanche"``.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above. ``"avalanche"``: the size of the mean slope of each batch
        instead of each sample's, and :math:`\Omega \leftarrow \frac12 \Omega + \frac12
        \Omega_k` from the second task on, its ``alpha=0.5``.

    References
    ----------
    R. Aljundi et al., "Memory aware synapses", ECCV 2018, arXiv:1711.09601.
    """

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        n_samples: int | None = None,
        seed: int = 0,
        batch_size: int = 128,
        convention: str = "paper",
    ) -> None:
        super().__init__(inner, strength)
        self.convention = _checks.one_of("convention", convention, ("paper", "avalanche"))
        self.n_samples = some_samples(n_samples)
        self.seed = _checks.integer("seed", seed, 0)
        self.batch_size = _checks.integer("batch_size", batch_size, 1)
        self._factor = 2.0

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        super().end(task)
        by_batch = self.convention == "avalanche"
        omega = importance(
            self.trainer.model, task.x, None, "batched_norm" if by_batch else "norm", None,
            n_samples=self.n_samples, classes=competing(self.trainer, task),
            batch_size=self.batch_size, seed=self.seed,
        ).astype(np.float64)  # fmt: skip
        if self._importance is not None:
            omega = 0.5 * (omega + self._importance) if by_batch else omega + self._importance
        self._set(omega, self._parameters())


class SynapticIntelligence(Quadratic):
    r"""What a parameter's moves have gained, it is worth.

    .. math:: c \sum_j \Omega_j (\theta_j - \theta^*_j)^2, \qquad
              \Omega_j = \sum_k \frac{\omega_{k,j}}{\Delta_{k,j}^2 + \xi}

    with :math:`\omega_{k,j} = -\sum_t g_{t,j} (\theta_{t+1,j} - \theta_{t,j})` over the steps t of
    task k, gathered by the core in the step itself, :math:`\Delta_k` the way from the beginning to
    the end of the task, and the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training. With clipping or accumulation, g is the gradient that is used.
    strength : float
        c.
    xi : float, keyword only, default 0.1
        :math:`\xi`, above 0.
    convention : str, keyword only, default "paper"
        ``"paper"``, also mammoth's: g is that of the task's loss alone. ``"van_de_ven"``: the
        penalty's is a part of it. ``"avalanche"``: c/2, and :math:`\Omega` is at most 0.001.

    Notes
    -----
    Where moves have lost more than they gained, :math:`\Omega` is negative, and drives the
    parameter away. Neither the paper nor van de Ven's code clips it.

    References
    ----------
    F. Zenke, B. Poole and S. Ganguli, "Continual learning through synaptic intelligence",
    ICML 2017, arXiv:1703.04200.
    """

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        xi: float = 0.1,
        convention: str = "paper",
    ) -> None:
        super().__init__(inner, strength)
        self.xi = _checks.real("xi", xi, 0, closed="()")
        self.convention = _checks.one_of(
            "convention", convention, ("paper", "van_de_ven", "avalanche")
        )
        self._factor = 1.0 if convention == "avalanche" else 2.0
        self._start: _Flat | None = None

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        self._start = self._parameters()
        self.trainer._follow(self.convention == "van_de_ven")

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        super().end(task)
        path, theta = self.trainer._path(), self._parameters()
        if path is None or self._start is None:
            return
        self.trainer._follow(None)
        omega = path.astype(np.float64) / ((theta - self._start) ** 2 + self.xi)
        if self._importance is not None:
            omega = omega + self._importance
        if self.convention == "avalanche":
            omega = np.minimum(omega, 0.001)
        self._set(omega, theta)

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered (not the trainer's), as arrays and plain data."""
        return super().state_dict() | {"start": self._start, "path": self.trainer._path()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self._start = state["start"]
        path = state["path"]
        self.trainer._follow(None if path is None else self.convention == "van_de_ven", path)


def competing(trainer: Trainer, task: Task) -> Sequence[int] | None:
    """Give the outputs that competed while a task was learned; None is all."""
    if getattr(trainer.loss, "heads", None) is not None:
        return task.classes
    return getattr(trainer.loss, "active", None)
