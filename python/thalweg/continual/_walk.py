"""Riemannian walk: importance from the Fisher information and the gain of moves."""

from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.continual._admission import check_elementwise
from thalweg.continual._quadratic import Consolidating, Flat
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task


class RWalk(Consolidating):
    r"""Riemannian walk: importance from the Fisher information and the gain of moves per length.

    .. math:: \lambda \sum_j \Big(\frac{F_j}{\max F} + \frac{\max(s_j, 0)}{\max s}\Big)
              (\theta_j - \theta^*_j)^2

    with the parameters after the latest task. Over the updates, with the gradient g of a batch's
    loss,

    .. math:: F \leftarrow \alpha g^2 + (1 - \alpha) F, \qquad
              \sigma \leftarrow \sigma + \frac{-\sum_{\Delta t} g\, \Delta\theta}
              {\tfrac12 F (\theta_t - \theta_{t - \Delta t})^2 + \varepsilon}

    where the sum is over the latest :math:`\Delta t` updates. After each task,
    :math:`s \leftarrow \tfrac12 (s + \sigma)` (after the first, :math:`s = \sigma`), and
    :math:`\sigma` restarts at 0, while F continues. At the first update of all, F is
    :math:`g^2`. The core accumulates all of this during the steps.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. Note that there is no factor ½.
    alpha : float, keyword only, default 0.9
        :math:`\alpha`, above 0, at most 1: the weight of the latest batch in F.
    every : int, keyword only, default 10
        :math:`\Delta t`, counted from the start of each task. Updates after the last complete
        interval count only for F.
    eps : float, keyword only, default 1e-7
        :math:`\varepsilon`, above 0. Avalanche uses the machine epsilon, 1.2e-7 for float32.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If the optimizer does not work element by element, like `optim.Muon`.

    Notes
    -----
    Where the paper leaves conventions open, they are those of Avalanche: both terms are divided by
    their largest element, so that importances are from 0 to 2; negative scores count as 0 after
    averaging over tasks; g does not include the penalty. Avalanche computes g in a separate pass,
    without dropout; here it is the gradient of the step. F is computed from gradients of batches:
    see `fisher_diagonal` for what that means.

    References
    ----------
    A. Chaudhry, P. K. Dokania, T. Ajanthan and P. H. S. Torr, "Riemannian walk for incremental
    learning: understanding forgetting and intransigence", ECCV 2018, arXiv:1801.10112.
    """

    gathers = ("_fisher", "_scores", "_walk")
    _by_parameter = ("_fisher", "_scores")
    _does = (*Consolidating._does, "path")

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        alpha: float = 0.9,
        every: int = 10,
        eps: float = 1e-7,
    ) -> None:
        super().__init__(inner, strength)
        check_elementwise(self.trainer, type(self).__name__)
        self.alpha: float = _checks.real("alpha", alpha, 0, 1, "(]")
        self.every: int = _checks.integer("every", every, 1)
        self.eps: float = _checks.real("eps", eps, 0, closed="()")
        self._factor = 2.0
        self._fisher: Any = None
        self._scores: Flat | None = None

    def begin(self, task: Task) -> None:
        """Get ready for a task."""
        super().begin(task)
        core = self.trainer._elementary("walk")
        core.start_walk((self.alpha, self.eps, self.every))
        if self._fisher is not None and (walk := core.walk()) is not None:
            (_, *others), begun, _ = walk
            core.set_walk([self._fisher, *others], begun, False)

    @property
    def _walk(self) -> list[Any] | None:
        """The sums over the current task's updates, which the trainer holds; None between tasks."""
        walk = self.trainer._elementary("walk").walk()
        return None if walk is None else list(walk)

    @_walk.setter
    def _walk(self, walk: list[Any] | None) -> None:
        core = self.trainer._elementary("walk")
        core.start_walk(None if walk is None else (self.alpha, self.eps, self.every))
        if walk is not None:
            core.set_walk(*walk)

    def _check_state(self, state: Any) -> None:
        super()._check_state(state)
        for array in state["walk"][0] if state["walk"] else ():
            self._check_by_parameter("walk", array)

    def _abandon(self) -> None:
        self._walk = None
        super()._abandon()

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        super().end(task)  # first: a strategy inside may train further, or set parameters to 0
        walk = self._walk
        assert walk is not None
        self._walk = None
        fisher, _, new, _ = (part.astype(np.float64) for part in walk[0])
        if fisher.any():  # else there was no update yet, and the first one is still to come
            self._fisher = walk[0][0]
        self._scores = new if self._scores is None else (self._scores + new) / 2
        parts = [fisher, np.maximum(self._scores, 0)]
        total = sum(part / (part.max() or 1.0) for part in parts)
        self._set(np.asarray(total), self._parameters())
