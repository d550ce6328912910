"""Strategies that keep a network able to learn: remedies for the loss of plasticity."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _hidden_units
from thalweg.continual._passes import mean_history, were_skipped
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task
from thalweg.errors import ShapeError, UnsupportedError


class ContinualBackprop(Strategy):
    r"""Continual backpropagation: resets the least useful hidden units, a few at a time.

    After every step, for each hidden unit `i` of a layer,

    .. math:: u_i \leftarrow \eta u_i + (1 - \eta)\, \overline{|h_i|} \sum_k |w_{ki}|

    with the mean magnitude of its outputs for the step's samples and the weights that lead out of
    it. Of the units that are older than `maturity` steps, the share `replacement_rate` is replaced,
    the least useful first: weights that lead into the unit are drawn anew, those that lead out of
    it are set to 0, so that the network's outputs change by no more than the unit contributed.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    replacement_rate : float, keyword only, default 1e-4
        :math:`\rho`, the share of a layer's mature units that is replaced in each step, from 0 to
        1; fractions of a unit add up over the steps.
    maturity : int, keyword only, default 100
        For how many steps a new unit is protected.
    decay : float, keyword only, default 0.99
        :math:`\eta`, from 0 up to, but not including, 1.
    seed : int, keyword only, default 0
        Seed of the new weights.

    Attributes
    ----------
    replaced : int
        The number of units replaced so far.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or the model has no hidden units.
    UnsupportedError
        If the model has `nn.Residual` or `nn.Concatenate`, or an `nn.FourierFeatures` between
        units, or the trainer accumulates gradients; together with strategies that give each task a
        part of the network, whose units would be replaced, or that start every task with the
        initial parameters.

    Notes
    -----
    Around `Replay`, `Cumulative` or `Joint`, the step's samples are only those of the task; inside
    them, all that they add.

    The optimizer's state of a replaced parameter restarts at 0, too. Its count of steps is one for
    all parameters and goes on, so `optim.Adam` no longer corrects the bias of these restarted
    means: with the default betas and a constant gradient, the first 50 updates of a renewed unit
    are 3 to 6.5 times the learning rate. The authors' remedy, an Adam that counts steps for each
    element (AdamGnT), is not implemented; how this affects accuracy was not measured.

    In two things the authors' code differs: it ranks units by utilities whose bias is corrected,
    :math:`u_i / (1 - \eta^{a_i})` at age :math:`a_i`, where here those that are just mature rank
    lower; and it adds the mean contribution of a replaced unit to the biases that follow.

    Units with a frozen parameter
    (``optimizer.add_group(..., frozen=True)``) that leads in or out are not replaced.

    Every step returns to Python, to inspect the units, and copies all parameters three times. That
    takes 9 times as long as a plain step of one sample for 784-100-10 (0.6 ms instead of 0.07), and
    3 times as long as one of 128 samples for 784-256-256-10. With `fit` and small batches, where
    plain steps are not separate calls, the factor is larger. Use larger batches to reduce it.

    References
    ----------
    S. Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024,
    algorithm 1.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 1))
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.01))
    >>> learner = continual.ContinualBackprop(trainer, replacement_rate=0.01, maturity=10)
    >>> x = np.random.default_rng(0).standard_normal((100, 2))
    >>> losses = [learner.step(row[None], row[:1]) for row in x]
    >>> learner.replaced  # 90 steps of at most 20 mature units, one in a hundred
    16
    """

    gathers = ("_utility", "_age", "_due", "replaced")
    _does = ("renew",)

    def __init__(
        self,
        inner: Trainer | Strategy,
        *,
        replacement_rate: float = 1e-4,
        maturity: int = 100,
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        self.replacement_rate: float = _checks.real(
            "replacement_rate", replacement_rate, 0, 1, "[]"
        )
        self.maturity: int = _checks.integer("maturity", maturity, 0)
        self.decay: float = _checks.real("decay", decay, 0, 1, "[)")
        self.seed: int = _checks.integer("seed", seed, 0)
        self.replaced: int = 0
        self._units = _hidden_units.hidden(self.trainer.model)
        self._given = _hidden_units.Given(self.trainer.model, self._units)
        self._utility = [np.zeros(units.width) for units in self._units]
        self._age = [np.zeros(units.width, dtype=np.int64) for units in self._units]
        if self.trainer._accumulate > 1:
            raise UnsupportedError(
                "ContinualBackprop runs each step as a fit of its own, which cannot accumulate"
                f" gradients over {self.trainer._accumulate} batches: leave accumulate_grad_batches"
                " at 1"
            )
        self._due = np.zeros(len(self._units))  # fractions of units due for replacement

    def _learn(self, task: Task, *, steps: int, start: int, **options: Any) -> History:
        seed, parts = self.trainer.model.seed, []
        x = np.asarray(task.x)
        for at, rows in enumerate(
            _batches.rows_of_steps(
                task, len(x), seed=seed, steps=steps, start=start, most=1, **options
            )
        ):
            hidden = self._given(x[rows])
            history = super()._learn(task, steps=1, start=start + at, **options)
            parts.append(history)
            if not were_skipped(history):
                self._renew(hidden)
        return mean_history(self.trainer.loss, parts)

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step on a batch of a stream, and renew units."""
        hidden = self._given(x)
        loss = super().step(x, y)
        self._renew(hidden)
        return loss

    def _check_state(self, state: Any) -> None:
        super()._check_state(state)
        mine = [units.width for units in self._units]
        theirs = [len(utility) for utility in state["utility"]]
        ages = [len(age) for age in state["age"]]
        if theirs != mine or ages != mine or len(state["due"]) != len(mine):
            raise ShapeError(
                f"the utilities in the state are of {theirs} hidden units, but the model of this"
                f" {type(self).__name__} has {mine}"
            )

    def _renew(self, hidden: list[Any]) -> None:
        """Update the utility of units, and replace those that are due."""
        theta = self.trainer.model.flat_parameters
        frozen = _hidden_units.frozen(self.trainer)
        renewed = []
        for layer, (units, rows) in enumerate(zip(self._units, hidden, strict=True)):
            utility, age = self._utility[layer], self._age[layer]
            age += 1
            out = np.abs(units.weights_out(theta)).sum(axis=0, dtype=np.float64)
            utility *= self.decay
            utility += (1 - self.decay) * np.abs(rows).mean(axis=0, dtype=np.float64) * out
            mature = age > self.maturity
            if frozen.any():
                mature &= ~units.having(frozen)
            self._due[layer] += self.replacement_rate * mature.sum()
            while self._due[layer] >= 1 and mature.any():
                self._due[layer] -= 1
                worst = int(np.where(mature, utility, np.inf).argmin())
                mature[worst], utility[worst], age[worst] = False, 0, 0
                leading = [places[worst].ravel() for places in units.incoming]
                renewed.append((np.concatenate(leading), units.outgoing[:, worst]))
        if renewed:
            self._replace(theta, renewed)

    def _replace(self, theta: Any, renewed: list[tuple[Any, Any]]) -> None:
        model, optimizer = self.trainer.model, self.trainer.optimizer
        state = optimizer.state_dict()
        gathered = [a for a in state["arrays"].values() if a.shape == theta.shape]
        for incoming, outgoing in renewed:
            self.replaced += 1
            drawn = int(np.random.default_rng([self.seed, self.replaced]).integers(1 << 62))
            theta[incoming] = _hidden_units.fresh(model, drawn)[incoming]
            theta[outgoing] = 0
            for array in gathered:
                array[incoming] = 0
                array[outgoing] = 0
        model.flat_parameters = theta
        if gathered:
            optimizer.load_state_dict(state, model)


class ShrinkAndPerturb(Strategy):
    r"""Shrinks parameters towards 0 and adds some noise, before each task but the first.

    .. math:: \theta \leftarrow \lambda \theta + \gamma \theta'

    with :math:`\theta'` drawn like the initial parameters of such a network.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    shrink : float, keyword only, default 0.4
        :math:`\lambda`, from 0 to 1.
    perturb : float, keyword only, default 0.1
        :math:`\gamma`, at least 0.
    seed : int, keyword only, default 0
        Seed of the noise.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        Around strategies that start every task with the initial parameters, and around `LwF`, whose
        teacher it would shrink; together with `PackNet`, whose parameters belong to tasks; in
        `step`, outside a task.

    Notes
    -----
    This keeps a network able to learn new tasks; what it has learned is remembered less, not
    better. ``shrink=0, perturb=1`` is a new network for each task, ``shrink=1, perturb=0`` plain
    training. Scales of normalizations, which start at 1, are treated like all other parameters;
    frozen ones (``optimizer.add_group(..., frozen=True)``) stay. The optimizer is left as it is.
    The paper describes noise with a given standard deviation; using a new network's parameters as
    noise follows the authors' code.

    References
    ----------
    J. Ash and R. Adams, "On warm-starting neural network training", NeurIPS 2020, arXiv:1910.08475.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
    >>> strategy = continual.ShrinkAndPerturb(trainer, shrink=0.4, perturb=0.1)
    """

    _does = ("shrink",)
    _only_in_tasks = "it only acts when a task begins, by changing the parameters"

    def __init__(
        self,
        inner: Trainer | Strategy,
        *,
        shrink: float = 0.4,
        perturb: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        self.shrink: float = _checks.real("shrink", shrink, 0, 1, "[]")
        self.perturb: float = _checks.real("perturb", perturb, 0)
        self.seed: int = _checks.integer("seed", seed, 0)

    def begin(self, task: Task) -> None:
        """Shrink and perturb, unless it is the first task."""
        self._admit(task)
        if self._ended:
            model = self.trainer.model
            drawn = int(np.random.default_rng([self.seed, self._ended]).integers(1 << 62))
            fresh = _hidden_units.fresh(model, drawn)
            theta = model.flat_parameters
            changed = self.shrink * theta + self.perturb * fresh
            model.flat_parameters = np.where(_hidden_units.frozen(self.trainer), theta, changed)
        super().begin(task)
