"""Elastic weight consolidation: importances are the Fisher information."""

from typing import Literal, TypeAlias, get_args

import numpy as np

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.continual._fisher import Kind, check_kind, importance
from thalweg.continual._outputs import outputs_of
from thalweg.continual._quadratic import Consolidating, Flat
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, counted

Convention: TypeAlias = Literal["paper", "avalanche", "mammoth"]
#: Which Fisher information belongs to a convention.
_FISHER: dict[Convention, Kind] = {
    "paper": "exact",
    "avalanche": "batched",
    "mammoth": "weighted",
}


class EWC(Consolidating):
    r"""Elastic weight consolidation: protects the parameters that each task depends on.

    .. math:: \frac{\lambda}{2} \sum_k \sum_j F_{k,j} (\theta_j - \theta^*_{k,j})^2

    is added to the loss of each task, with the diagonal Fisher information F of each earlier task k
    and the parameters at its end.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. It depends on the kind of Fisher information, whose magnitudes differ
        widely: a published value is good for its kind only. Search in powers of 10, e.g. from 1 to
        1e6, and watch `ratios`, the penalty over the loss.
    fisher : str, keyword only, optional
        The kind of Fisher information, see `fisher_diagonal`; by default that of the convention.
    n_samples : int, keyword only, optional
        Compute the Fisher information from this many samples of each task; all by default.
    batch_size : int, keyword only, default 128
        The batch size of ``fisher="batched"``.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above with ``fisher="exact"``, as in van de Ven's code.
        ``"avalanche"`` and ``"mammoth"`` omit the factor ½, so that the same strength pulls twice
        as hard; their kinds are ``fisher="batched"`` (pass the batch size of the training) and
        ``fisher="weighted"``. mammoth divides by the number of samples rounded up to whole batches,
        thalweg by their number. The code of the GEM paper squares the mean gradient of some
        samples: that is ``fisher="batched"`` with all of them as one batch.
    seed : int, keyword only, default 0
        Seed of what is drawn for the Fisher information.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If `fisher_diagonal` does not support the trainer's loss with this kind, or its optimizer
        needs all data at once.

    Notes
    -----
    The tasks' penalties are combined into one: memory does not grow with their number. That is
    exact, up to a constant, which ``trainer.penalty``, histories and `ratios` leave out.

    If each task brings new classes that compete with the old ones (class-incremental learning), EWC
    forgets about as much as plain training does, and warns about it.

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
        fisher: Kind | None = None,
        n_samples: int | None = None,
        batch_size: int = 128,
        convention: Convention = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(inner, strength)
        self.convention: str = _checks.one_of("convention", convention, get_args(Convention))
        if fisher is None:
            fisher = _FISHER[convention]
        # Refuse here what would otherwise be refused only after the first task's training.
        self.fisher: str = check_kind("fisher", fisher, self.trainer.loss)
        self.n_samples: int | None = _checks.optional_integer("n_samples", n_samples, 1)
        self.batch_size: int = _checks.integer("batch_size", batch_size, 1)
        self.seed: int = _checks.integer("seed", seed, 0)
        self._factor = 1.0 if convention == "paper" else 2.0

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        super().end(task)
        self._add(self._fisher(task), self._parameters())

    def _kind(self) -> str:
        return (
            f', from fisher="{self.fisher}"; the kinds of Fisher information differ by orders of'
            " magnitude, and each needs a strength of its own"
        )

    def _fisher(self, task: Task) -> Flat:
        x, y, weight = counted(self.trainer.loss, task.x, task.y, task.sample_weight)
        return importance(
            self.trainer.model, x, y, self.fisher, self.trainer.loss, n_samples=self.n_samples,
            classes=outputs_of(self.trainer, task), batch_size=self.batch_size, seed=self.seed,
            sample_weight=weight,
        ).astype(np.float64)  # fmt: skip


class OnlineEWC(EWC):
    r"""Elastic weight consolidation with one anchor: the parameters after the latest task.

    .. math:: \frac{\lambda}{2} \sum_j \gamma \tilde F_j (\theta_j - \theta^*_j)^2, \qquad
              \tilde F \leftarrow F_{\text{new}} + \gamma \tilde F

    Parameters
    ----------
    inner, strength, fisher, n_samples, batch_size, seed
        As for `EWC`.
    decay : float, keyword only, default 1.0
        :math:`\gamma`, from 0 to 1: the share of earlier tasks' importance that is left after each
        task.
    convention : str, keyword only, default "paper"
        ``"paper"`` is the formula above, also van de Ven's. ``"avalanche"`` and ``"mammoth"`` have
        neither the ½ nor the :math:`\gamma` in the penalty, and other kinds of Fisher information
        by default, see `EWC`.

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
        fisher: Kind | None = None,
        n_samples: int | None = None,
        batch_size: int = 128,
        convention: Convention = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(
            inner, strength, fisher=fisher, n_samples=n_samples, batch_size=batch_size,
            convention=convention, seed=seed,
        )  # fmt: skip
        self.decay: float = _checks.real("decay", decay, 0, 1, "[]")
        self._factor = self.decay if convention == "paper" else 2.0

    def _why_negligible(self) -> str:
        if self._factor == 0:
            return "decay=0 is the cause: it removes the penalty for them. Use a larger decay"
        return super()._why_negligible()

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        Consolidating.end(self, task)
        fisher = self._fisher(task)
        if self._importance is not None:
            fisher = fisher + self.decay * self._importance
        self._set(fisher, self._parameters())
