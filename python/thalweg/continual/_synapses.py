"""Importances without labels, and from the way that parameters took."""

from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.continual._elements import check_elementwise
from thalweg.continual._fisher import importance, some_samples
from thalweg.continual._outputs import outputs_of
from thalweg.continual._quadratic import Consolidating, Flat
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task


class MAS(Consolidating):
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

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        When a task begins that has weights of samples.

    References
    ----------
    R. Aljundi et al., "Memory aware synapses", ECCV 2018, arXiv:1711.09601.
    """

    _does = (*Consolidating._does, "plain tasks")

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
            n_samples=self.n_samples, classes=outputs_of(self.trainer, task),
            batch_size=self.batch_size, seed=self.seed,
        ).astype(np.float64)  # fmt: skip
        if self._importance is not None:
            omega = 0.5 * (omega + self._importance) if by_batch else omega + self._importance
        self._set(omega, self._parameters())


class SynapticIntelligence(Consolidating):
    r"""What a parameter's moves have gained, it is worth.

    .. math:: c \sum_j \Omega_j (\theta_j - \theta^*_j)^2, \qquad
              \Omega_j = \sum_k \frac{\omega_{k,j}}{\Delta_{k,j}^2 + \xi}

    with :math:`\omega_{k,j} = -\sum_t g_{t,j} (\theta_{t+1,j} - \theta_{t,j})` over the steps t of
    task k, gathered by the core in the step itself, :math:`\Delta_k` the way from the beginning to
    the end of the task, and the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training. With accumulation, g is the mean gradient of the batches; limits and
        projections of the gradient that the update uses do not change it.
    strength : float
        c.
    xi : float, keyword only, optional
        :math:`\xi`, above 0; by default 0.1, and 1e-7 with ``convention="avalanche"``, its ``eps``.
    convention : str, keyword only, default "paper"
        ``"paper"``, also mammoth's: g is that of the task's loss alone. ``"van_de_ven"``: the
        penalty's is a part of it. ``"avalanche"``: that too, with c/2 and
        :math:`\min(\Omega_j, 0.001)` in the penalty; the sum itself goes on without that bound.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If the optimizer looks at whole layers, as `optim.Muon`.

    Notes
    -----
    Where moves have lost more than they gained, :math:`\Omega` is negative, and drives the
    parameter away. Nobody's code clips that.

    References
    ----------
    F. Zenke, B. Poole and S. Ganguli, "Continual learning through synaptic intelligence",
    ICML 2017, arXiv:1703.04200.
    """

    gathers = ("_start", "_gained")
    _holds = ("path",)
    _does = ("penalty",)

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        xi: float | None = None,
        convention: str = "paper",
    ) -> None:
        super().__init__(inner, strength)
        check_elementwise(self.trainer, type(self).__name__)
        if xi is None:
            xi = 1e-7 if convention == "avalanche" else 0.1
        self.xi = _checks.real("xi", xi, 0, closed="()")
        self.convention = _checks.one_of(
            "convention", convention, ("paper", "van_de_ven", "avalanche")
        )
        self._factor = 1.0 if convention == "avalanche" else 2.0
        self._start: Flat | None = None
        self._gained: Flat | None = None  # the sum over the tasks

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        self._start = self._parameters()
        self.trainer._follow(self.convention != "paper")

    def _check_end(self, task: Task) -> None:
        self._check_begun(task, "ends")
        super()._check_end(task)

    def _abandon(self) -> None:
        self.trainer._follow(None)
        super()._abandon()

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        super().end(task)  # a strategy inside may train on, or set parameters to 0
        path, theta = self.trainer._path(), self._parameters()
        assert path is not None
        assert self._start is not None
        self.trainer._follow(None)
        gained = path.astype(np.float64) / ((theta - self._start) ** 2 + self.xi)
        self._gained = gained if self._gained is None else gained + self._gained
        omega = np.minimum(self._gained, 0.001) if self.convention == "avalanche" else self._gained
        self._set(omega, theta)

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered (not the trainer's), as arrays and plain data."""
        return {**super().state_dict(), "path": self.trainer._path()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        path = state["path"]
        self.trainer._follow(None if path is None else self.convention != "paper", path)
