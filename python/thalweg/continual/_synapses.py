"""Importances that need no labels, or follow from the path that parameters took."""

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.continual._admission import check_elementwise
from thalweg.continual._fisher import importance
from thalweg.continual._outputs import outputs_of
from thalweg.continual._quadratic import Consolidating, Flat
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, counted

OfMAS: TypeAlias = Literal["paper", "avalanche"]
OfSI: TypeAlias = Literal["paper", "van_de_ven", "avalanche"]


class MAS(Consolidating):
    r"""Memory aware synapses: protects the parameters that affect the outputs; needs no labels.

    .. math:: \lambda \sum_j \Omega_j (\theta_j - \theta^*_j)^2, \qquad
              \Omega_j = \sum_k \frac{1}{N_k} \sum_n
              \left| \frac{\partial \lVert f(x_n) \rVert^2}{\partial \theta_j} \right|

    with the outputs f, and the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. Note that there is no factor ½.
    n_samples : int, keyword only, optional
        Use this many samples of each task; all by default.
    seed : int, keyword only, default 0
        Determines which samples.
    batch_size : int, keyword only, default 128
        The batch size of ``convention="avalanche"``.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above. ``"avalanche"``: the magnitude of each batch's mean
        gradient instead of each sample's, and :math:`\Omega \leftarrow \frac12 \Omega + \frac12
        \Omega_k` from the second task on, as with its ``alpha=0.5``.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

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
        convention: OfMAS = "paper",
    ) -> None:
        super().__init__(inner, strength)
        self.convention: str = _checks.one_of("convention", convention, get_args(OfMAS))
        self.n_samples: int | None = _checks.optional_integer("n_samples", n_samples, 1)
        self.seed: int = _checks.integer("seed", seed, 0)
        self.batch_size: int = _checks.integer("batch_size", batch_size, 1)
        self._factor = 2.0

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        super().end(task)
        by_batch = self.convention == "avalanche"
        x, _, weight = counted(self.trainer.loss, task.x, task.y, task.sample_weight)
        omega = importance(
            self.trainer.model, x, None, "batched_norm" if by_batch else "norm", None,
            n_samples=self.n_samples, classes=outputs_of(self.trainer, task),
            batch_size=self.batch_size, seed=self.seed, sample_weight=weight,
        ).astype(np.float64)  # fmt: skip
        if self._importance is not None:
            omega = 0.5 * (omega + self._importance) if by_batch else omega + self._importance
        self._set(omega, self._parameters())


class SynapticIntelligence(Consolidating):
    r"""Synaptic intelligence: a parameter matters as much as its moves reduced the loss.

    .. math:: c \sum_j \Omega_j (\theta_j - \theta^*_j)^2, \qquad
              \Omega_j = \sum_k \frac{\omega_{k,j}}{\Delta_{k,j}^2 + \xi}

    with :math:`\omega_{k,j} = -\sum_t g_{t,j} (\theta_{t+1,j} - \theta_{t,j})` over the steps t of
    task k, which the core accumulates during the steps, the displacement :math:`\Delta_k` from the
    start to the end of the task, and the parameters after the latest task.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training. With accumulation, g is the mean gradient of the batches; clipping
        and projections affect the update, but not g.
    strength : float
        `c` in the formula.
    xi : float, keyword only, optional
        :math:`\xi`, above 0; by default 0.1, and 1e-7 with ``convention="avalanche"``, its ``eps``.
    convention : str, keyword only, default "paper"
        ``"paper"``: g is the gradient of the task's loss alone. ``"van_de_ven"``: g includes the
        penalty's gradient. ``"avalanche"``: that too, with c/2 and :math:`\min(\Omega_j, 0.001)`
        in the penalty; the sum itself is not bounded. mammoth sums the learning rate times
        :math:`g^2`, with the penalty's gradient in g: for `optim.SGD` without momentum, that is
        ``"van_de_ven"``. It also clips each component of g to the range from -1 to 1, before the
        sum.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If the optimizer does not work element by element, like `optim.Muon`.

    Notes
    -----
    Where moves increased the loss more than they reduced it, :math:`\Omega` is negative and drives
    the parameter away. Neither van de Ven's code nor Avalanche's clips that. mammoth's sum of
    squares is never negative.

    References
    ----------
    F. Zenke, B. Poole and S. Ganguli, "Continual learning through synaptic intelligence",
    ICML 2017, arXiv:1703.04200.
    """

    gathers = _by_parameter = ("_start", "_gained", "_path")
    _does = ("penalty", "path")

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        xi: float | None = None,
        convention: OfSI = "paper",
    ) -> None:
        super().__init__(inner, strength)
        check_elementwise(self.trainer, type(self).__name__)
        self.convention: str = _checks.one_of("convention", convention, get_args(OfSI))
        if xi is None:
            xi = 1e-7 if convention == "avalanche" else 0.1
        self.xi: float = _checks.real("xi", xi, 0, closed="()")
        self._factor = 1.0 if convention == "avalanche" else 2.0
        self._start: Flat | None = None
        self._gained: Flat | None = None  # the sum over the tasks

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        self._start = self._parameters()
        self.trainer._follow(self.convention != "paper")

    @property
    def _path(self) -> Any:
        """The path integral of the current task, which the trainer holds; None between tasks."""
        return self.trainer._path()

    @_path.setter
    def _path(self, path: Any) -> None:
        self.trainer._follow(None if path is None else self.convention != "paper", path)

    def _abandon(self) -> None:
        self._path = None
        super()._abandon()

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        super().end(task)  # first: a strategy inside may train further, or set parameters to 0
        path, theta = self._path, self._parameters()
        assert path is not None
        assert self._start is not None
        self._path = None
        gained = path.astype(np.float64) / ((theta - self._start) ** 2 + self.xi)
        self._gained = gained if self._gained is None else gained + self._gained
        omega = np.minimum(self._gained, 0.001) if self.convention == "avalanche" else self._gained
        self._set(omega, theta)
