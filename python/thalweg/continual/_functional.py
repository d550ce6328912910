"""A penalty on changes of the network's outputs for memorable samples."""

import time
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _losses
from thalweg.continual._admission import check_derivatives
from thalweg.continual._fisher import fisher_diagonal
from thalweg.continual._innermost import Innermost
from thalweg.continual._outputs import outputs_of
from thalweg.continual._passes import entry, mean_history
from thalweg.continual._quadratic import LATEST, warn_if_negligible
from thalweg.continual._task import Task
from thalweg.nn._losses._competition import softmax


class FROMP(Innermost):
    r"""Functional regularization of the memorable past: a penalty on probabilities, not weights.

    .. math:: L = L_\text{new} + \frac{\lambda}{2} \sum_k \sum_c
              (p_c - p^*_c)^T K_{k,c}^{-1} (p_c - p^*_c), \qquad
              K_{k,c} = P_c\, \Sigma\, P_c^T

    with the probabilities :math:`p_c` of class c for the memorable samples of each earlier task k,
    their values :math:`p^*` at the end of the latest task, their derivatives :math:`P_c` with
    respect to the parameters at that time, and :math:`\Sigma^{-1} = \delta I + \sum_k N_k
    \operatorname{diag} F_k`, the precision of a diagonal Laplace approximation. Where parameters
    are well determined, K is small and probabilities are held tightly. The samples of a task are
    penalized jointly.

    The memorable samples of a task are those whose class is least certain when it ends: those with
    the largest :math:`\sum_c p_c (1 - p_c)`.

    Parameters
    ----------
    inner : Trainer
        What does the training; its loss must be an `nn.CrossEntropyLoss`.
    per_task : int
        The number of memorable samples of each task.
    strength : float
        :math:`\lambda`. For the paper's objective, a sum over samples, it is :math:`\tau / N`.
        Begin the search with 1: with 20 samples of each of three permutations of 8 x 8 digits,
        values from 1 to 10 are best, and 0.01 or less has no effect.
    delta : float, keyword only, default 1e-5
        :math:`\delta`, above 0: the precision of the prior.
    jitter : float, keyword only, default 1e-3
        What is added to the diagonal of each K, relative to the mean of that diagonal; above 0.

    Raises
    ------
    ArgumentError
        If an argument is out of range; if a task's active classes leave earlier ones out.
    UnsupportedError
        If `inner` is another strategy, the trainer has another loss, or the model has
        `nn.BatchNorm1d` or `nn.Dropout`; for tasks with sample weights, ignored labels, or no
        labels; always in `step`.

    Notes
    -----
    `ratios` holds the penalty over the rest of the loss, as for `EWC`; histories have the sum of
    both as the loss. A larger ratio need not be a larger effect: in that search it ends at 0.09 for
    0.01, where little is remembered, and at 0.03 for 1.

    The softmax of a penalty is over the outputs of a sample's head; where a task has several, the
    samples of each are penalized jointly. Without heads, it is for all tasks over the outputs that
    competed in the latest one, so that its columns grow as classes become active. Two things differ
    from the authors' code: every step uses all memorable samples, and the jitter.

    Each step is a call from Python with `per_task` additional rows for each task so far, and its
    loss is computed in NumPy. With 20 rows of one task, a step takes 0.5 ms more than the 0.1 ms of
    plain training for 784-100-10 and single samples, and 2.6 ms instead of 1.4 for 784-256-256-10
    and batches of 128.
    At the end of a task, the derivatives of one task's memorable samples are held at once:
    ``per_task * classes * num_parameters`` numbers of the model's dtype.

    References
    ----------
    P. Pan, S. Swaroop, A. Immer, R. Eschenhagen, R. E. Turner and M. E. Khan, "Continual deep
    learning by functional regularisation of memorable past", NeurIPS 2020, arXiv:2004.14070.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
    >>> strategy = continual.FROMP(trainer, 20, strength=1.0)
    """

    gathers = ("_past", "_precision", "ratios")
    _by_parameter = ("_precision",)
    replays = True
    _does = (*Innermost._does, "looks")
    _only_learns = "its penalty for earlier tasks is added only while a task is learned"

    def __init__(
        self,
        inner: Trainer,
        per_task: int,
        strength: float,
        *,
        delta: float = 1e-5,
        jitter: float = 1e-3,
    ) -> None:
        super().__init__(inner)
        self.per_task: int = _checks.integer("per_task", per_task, 1)
        self.strength: float = _checks.real("strength", strength, 0)
        self.delta: float = _checks.real("delta", delta, 0, closed="()")
        self.jitter: float = _checks.real("jitter", jitter, 0, closed="()")
        check_derivatives(self.trainer.model, "FROMP")
        self._precision: Any = None
        #: For each head of each task: samples, outputs that competed, their probabilities, and
        #: inverses of K.
        self._past: list[dict[str, Any]] = []
        #: The penalty over the rest of the loss, at the end of each of the latest thousand calls of
        #: `learn` in which there was a penalty.
        self.ratios: list[float] = []

    def _learn(self, task: Task, **options: Any) -> History:
        if not self._past:
            return super()._learn(task, **options)
        penalty, of_new = [0.0], list[float]()
        twin = _losses.with_loss(self.trainer, self._loss(penalty), "FROMP")
        memory = np.concatenate([past["x"] for past in self._past])
        marks = np.full(len(memory), -1)  # instead of labels
        seed, parts = self.trainer.model.seed, []
        for x, y, _ in _batches.chunks(task, seed=seed, most=1, **options):
            begin = time.perf_counter()
            loss = twin.step(np.concatenate([x, memory]), np.concatenate([y, marks])[:, None])
            seconds = time.perf_counter() - begin
            parts.append(entry(loss, seconds, len(x)))
            of_new.append(loss - penalty[0])
        if mean := np.mean(of_new):
            self.ratios.append(penalty[0] / float(mean))
            del self.ratios[:-LATEST]
        return mean_history(twin.loss, parts)

    def _loss(self, penalty: list[float]) -> Any:
        """Make the loss of new rows, each with a label, and the memorable ones after them.

        It notes in `penalty` what it includes of that.
        """
        competes = _losses.competing(self.trainer, self.trainer.model.out_features)

        def loss(output: Any, target: Any) -> tuple[float, Any]:
            labels = target[:, 0].astype(np.int64)
            new = int((labels >= 0).sum())
            gradient = np.zeros_like(output)
            weights = np.full(new, 1 / new)
            value, gradient[:new] = _losses.cross_entropy(
                output[:new], labels[:new], weights, competes(labels[:new])
            )
            at, penalty[0] = new, 0.0
            for past in self._past:
                rows = slice(at, at + len(past["x"]))
                columns = past["columns"]
                p = softmax(output[rows][:, columns])
                difference = p - past["p"]
                slopes = np.einsum("cij,jc->ic", past["inverse"], difference)
                penalty[0] += self.strength / 2 * float((difference * slopes).sum())
                slopes -= (p * slopes).sum(axis=1, keepdims=True)
                gradient[rows, columns] += self.strength * p * slopes
                at = rows.stop
            return value + penalty[0], gradient

        return loss

    def _check_kept(self, task: Task) -> None:
        super()._check_kept(task)
        held = [past["columns"] for past in self._past]
        _losses.check_active(self, np.concatenate(held) if held else [])

    def end(self, task: Task) -> None:
        """Choose memorable samples of the task, and update the targets of all of them."""
        self._ready_to_end(task)
        warn_if_negligible(self, task, lambda: f"strength={self.strength:g} is too small")
        super().end(task)
        model = self.trainer.model
        chosen = outputs_of(self.trainer, task)
        fisher = fisher_diagonal(model, task.x, task.y, loss=self.trainer.loss, classes=chosen)
        precision = self._precision
        if precision is None:
            precision = np.full(model.num_parameters, self.delta)
        precision = precision + len(task.y) * fisher.astype(np.float64)
        columns = np.arange(model.out_features) if chosen is None else np.array(chosen)
        competition, x = self.trainer._loss._competition, np.asarray(task.x)
        of_column = competition.heads_of(model.out_features)
        # A label tells in which head outputs compete.
        of_row = of_column[np.asarray(task.y, np.int64)]
        heads = {head: columns[of_column[columns] == head] for head in np.unique(of_row)}
        unsure = np.empty(len(x))
        for head, among in heads.items():
            p = self._probabilities(model(x[of_row == head]), among)
            unsure[of_row == head] = (p * (1 - p)).sum(axis=1)
        kept = np.sort(np.argsort(-unsure, kind="stable")[: self.per_task])
        mine = [
            {"x": x[rows], "columns": among}
            for head, among in heads.items()
            if len(rows := kept[of_row[kept] == head])
        ]
        known = []
        for past in (*self._past, *mine):
            among = columns if competition.heads is None else past["columns"]
            p, inverse = self._known(past["x"], among, precision)
            known.append({"x": past["x"], "columns": among, "p": p, "inverse": inverse})
        self._past, self._precision = known, precision

    @staticmethod
    def _probabilities(outputs: Any, columns: Any) -> Any:
        return softmax(outputs[:, columns].astype(np.float64))

    def _known(self, x: Any, columns: Any, precision: Any) -> tuple[Any, Any]:
        """Return the probabilities of samples, and the inverse of K for each class."""
        model = self.trainer.model
        samples = model._samples(x, "x")
        outputs, p, slopes = model.out_features, [], []
        for row in range(len(samples)):
            output, jacobian = model._core.jacobian(samples[row : row + 1], True)
            one = self._probabilities(output.reshape(1, outputs), columns)[0]
            mine = jacobian.reshape(outputs, -1)[columns]
            p.append(one)
            # The derivative of p_c is p_c (f_c' - sum_j p_j f_j').
            slopes.append((one[:, None] * (mine - one @ mine)).astype(model.dtype))
        inverses = []
        for c in range(len(columns)):
            part = np.stack([s[c] for s in slopes]).astype(np.float64)
            kernel = (part / precision) @ part.T
            size = kernel.trace() / len(kernel)
            if size > 0:
                inverses.append(np.linalg.inv(kernel + self.jitter * size * np.eye(len(kernel))))
            else:  # a class whose probability is exactly 0
                inverses.append(np.zeros_like(kernel))
        return np.stack(p), np.stack(inverses)
