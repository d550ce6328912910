"""Riemannian walk: importance from how far moves have carried."""

from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.continual._elements import check_elementwise
from thalweg.continual._quadratic import Consolidating, Flat
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task


class RWalk(Consolidating):
    r"""Riemannian walk: the Fisher information, and what a move has gained for its length.

    .. math:: \lambda \sum_j \Big(\frac{F_j}{\max F} + \frac{\max(s_j, 0)}{\max s}\Big)
              (\theta_j - \theta^*_j)^2

    with the parameters after the latest task. Over the updates, with the gradient g of the loss of
    a batch,

    .. math:: F \leftarrow \alpha g^2 + (1 - \alpha) F, \qquad
              \sigma \leftarrow \sigma + \frac{-\sum_{\Delta t} g\, \Delta\theta}
              {\tfrac12 F (\theta_t - \theta_{t - \Delta t})^2 + \varepsilon}

    where the sum is over the latest :math:`\Delta t` updates; after a task
    :math:`s \leftarrow \tfrac12 (s + \sigma)`, after the first one :math:`s = \sigma`, and
    :math:`\sigma` begins at 0 again, while F goes on. All of it is gathered by the core in the step
    itself.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. Mind that there is no half.
    alpha : float, keyword only, default 0.9
        :math:`\alpha`, above 0, at most 1: how much of F the latest batch makes.
    every : int, keyword only, default 10
        :math:`\Delta t`, counted from the beginning of each task. Updates after the last whole one
        count for F alone.
    eps : float, keyword only, default 1e-7
        :math:`\varepsilon`, above 0. In Avalanche it is that of the number format, 1.2e-7 for
        float32.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If the optimizer looks at whole layers, as `optim.Muon`.

    Notes
    -----
    Conventions are those of Avalanche, where the paper leaves them open: both terms are divided by
    their largest element, so that importances are from 0 to 2; scores that are negative count as 0
    after tasks are averaged; g is without the penalty. Avalanche takes g in a pass of its own,
    without dropout; here it is that of the step. F is of gradients of batches: see
    `fisher_diagonal` for what that is.

    References
    ----------
    A. Chaudhry, P. K. Dokania, T. Ajanthan and P. H. S. Torr, "Riemannian walk for incremental
    learning: understanding forgetting and intransigence", ECCV 2018, arXiv:1801.10112.
    """

    gathers = ("_fisher", "_scores")
    _holds = ("walk",)

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
        self.alpha = _checks.real("alpha", alpha, 0, 1, "(]")
        self.every = _checks.integer("every", every, 1)
        self.eps = _checks.real("eps", eps, 0, closed="()")
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

    def _check_end(self, task: Task) -> None:
        self._check_begun(task, "ends")
        super()._check_end(task)

    def _abandon(self) -> None:
        self.trainer._elementary("walk").start_walk(None)
        super()._abandon()

    def end(self, task: Task) -> None:
        """Take to heart what must not be forgotten of a task that was learned."""
        super().end(task)  # a strategy inside may train on, or set parameters to 0
        core = self.trainer._elementary("walk")
        walk = core.walk()
        assert walk is not None
        core.start_walk(None)
        self._fisher = walk[0][0]
        new = walk[0][2].astype(np.float64)
        self._scores = new if self._scores is None else (self._scores + new) / 2
        fisher = self._fisher.astype(np.float64)
        parts = [fisher, np.maximum(self._scores, 0)]
        total = sum(part / (part.max() or 1.0) for part in parts)
        self._set(np.asarray(total), self._parameters())

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered (not the trainer's), as arrays and plain data."""
        walk = self.trainer._elementary("walk").walk()
        return {**super().state_dict(), "walk": None if walk is None else list(walk)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        core = self.trainer._elementary("walk")
        core.start_walk(None if state["walk"] is None else (self.alpha, self.eps, self.every))
        if state["walk"] is not None:
            core.set_walk(*state["walk"])
