"""Runs: a strategy learns a scenario, and is judged on all tasks after each."""

import contextlib
import math
import os
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thalweg import _checks
from thalweg._history import History
from thalweg._trainer import Trainer, _progress
from thalweg._trainer._penalties import OWN
from thalweg._warn import warn
from thalweg.continual import _batches, _protocol, _resume, _undo
from thalweg.continual._baselines import Naive
from thalweg.continual._elsewhere import OF_RUNS
from thalweg.continual._incomplete import called
from thalweg.continual._passes import mean_history, were_skipped
from thalweg.continual._quadratic import Quadratic
from thalweg.continual._result import Result, as_path
from thalweg.continual._scores import Metric, learner, metric_of, score
from thalweg.continual._strategy import Strategy
from thalweg.continual._suitable import chain, suit
from thalweg.continual._task import Scenario, Task, naming
from thalweg.errors import ArgumentError, DataError

#: Trainers that have learned in a run.
_TRAINED: "weakref.WeakSet[Trainer]" = weakref.WeakSet()


@called("continual.run", OF_RUNS)
def run(
    strategy: Strategy | Trainer,
    scenario: Scenario,
    *,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 32,
    drop_last: bool = False,
    evaluate_every: int | None = None,
    metric: Metric | None = None,
    progress: bool = False,
    log: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    resume: bool = False,
) -> Result:
    """Learn the tasks of a scenario one after another, and judge all of them after each.

    Parameters
    ----------
    strategy : Strategy or Trainer
        What learns; a trainer by itself does nothing against forgetting.
    scenario : Scenario
        What is learned.
    epochs : int, keyword only, default 1
        Passes over the rows of each task. A strategy that learns from more than the task's own rows
        takes the same number of steps.
    steps : int, keyword only, optional
        Steps on each task, instead of epochs; van de Ven's "iterations".
    batch_size : int, keyword only, default 32
        Rows of a step, not counting those from a buffer.
    drop_last : bool, keyword only, default False
        Whether to leave out the last batch of a pass if it would be short, as in van de Ven's code.
    evaluate_every : int, keyword only, optional
        Also judge all tasks each time this many steps of a task have been taken. With
        ``accumulate_grad_batches``, an update that is under way is finished first, here as for
        `save_every`.
    metric : callable, keyword only, optional
        Called as ``metric(strategy, task, classes)``, where only `classes` compete (all if None);
        returns a score, higher being better. By default, if the trainer's loss is
        `nn.CrossEntropyLoss` or `nn.BCEWithLogitsLoss`, the accuracy (of rows whose label is not
        ignored); for others the coefficient of determination R² of the outputs, for which they
        must be predictions of the targets: `nn.GaussianNLLLoss`, `nn.QuantileLoss` with several
        quantiles, and `nn.PoissonNLLLoss`, whose outputs are logarithms, need a metric of your own.
    progress : bool, keyword only, default False
        Whether to show a progress bar with the latest scores; needs tqdm.
    log : str or path-like, keyword only, optional
        A ``.csv`` or ``.json`` file that is rewritten after each judgement: see `Result.save`.
    checkpoint : str or path-like, keyword only, optional
        A file that holds everything the run depends on: weights, optimizer, buffers, importances,
        position in the task, figures. It is written after each task and after every `save_every`
        steps of one, and can be read by `Trainer.load`, too.
    save_every : int, keyword only, optional
        See `checkpoint`.
    resume : bool, keyword only, default False
        Whether to resume from `checkpoint`, if the file exists. Strategy, trainer and scenario must
        be created as for the run that wrote it, with the same learning rate, strength and all
        other settings; the rest of the run is then identical to the last bit to an uninterrupted
        run.

    Returns
    -------
    Result
        Also available as ``strategy.result`` from the start: after an error or Ctrl-C, that has the
        scores so far. The task that was being learned then has not ended, for any strategy; if a
        metric raised after its end, it has ended, but has no scores. To restore what strategies
        have gathered, it is copied, with all buffers, at the end of each task.

    Raises
    ------
    ArgumentError
        If an argument is out of range, the network has too few outputs or other heads than the
        tasks, or the checkpoint is from another run: the message lists what differs, with both
        values.
    FileNotFoundError, IsADirectoryError
        If the checkpoint's folder does not exist, or the checkpoint is a folder.
    UnsupportedError
        If a checkpoint is wanted for a trainer with a custom function, such as a loss, or for a
        custom strategy that gathers something that no file can hold, or does not gather a buffer,
        a random generator, or a changed model or trainer that it has.
    ThalwegError
        If the data do not fit the model, or training diverges.
    ImportError
        If ``progress=True`` and tqdm is not installed.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(4, size=800)
    >>> x = rng.standard_normal((800, 2)) + 4 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])[y]
    >>> scenario = continual.split(x[:600], y[:600], x[600:], y[600:], tasks=2, kind="task")
    >>> model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> loss = nn.CrossEntropyLoss(heads=scenario.heads)
    >>> trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=0.01))
    >>> result = continual.run(trainer, scenario, epochs=10)
    >>> result.r.shape, bool(result.r[0, 0] > 0.95), bool(result.r[1, 1] > 0.95)
    ((2, 2), True, True)
    """
    strategy = learner(strategy, metric)
    if not isinstance(scenario, Scenario):
        raise ArgumentError(
            "scenario must be a Scenario, such as continual.split(...) or"
            f" continual.Scenario(tasks); got {type(scenario).__name__}"
        )
    if save_every is not None and checkpoint is None:
        raise ArgumentError("save_every needs a checkpoint to write: pass checkpoint=path")
    if _checks.flag("resume", resume) and checkpoint is None:
        raise ArgumentError(
            "resume=True needs the checkpoint to continue from: pass checkpoint=path"
        )
    log = None if log is None else as_path("log", log)
    checkpoint = None if checkpoint is None else as_path("checkpoint", checkpoint)
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        raise FileNotFoundError(
            f"the folder of checkpoint={checkpoint!r} does not exist: create it first,"
            " since the file is written after each task"
        )
    if checkpoint is not None and Path(checkpoint).is_dir():
        raise IsADirectoryError(
            f"checkpoint={checkpoint!r} is a folder: give it the name of a file"
        )
    if metric is None:
        metric = metric_of(strategy, scenario[0])
    suit(strategy, scenario)
    plan = _Plan(
        epochs=_checks.integer("epochs", epochs, 1),
        steps=_checks.optional_integer("steps", steps, 1),
        batch_size=_checks.integer("batch_size", batch_size, 1),
        drop_last=_checks.flag("drop_last", drop_last),
        evaluate_every=_checks.optional_integer("evaluate_every", evaluate_every, 1),
        save_every=_checks.optional_integer("save_every", save_every, 1),
        accumulate=strategy.trainer._accumulate,
    )
    return _Run(strategy, scenario, metric, plan, log=log, checkpoint=checkpoint).go(
        resume, _checks.flag("progress", progress)
    )


@dataclass(frozen=True)
class _Plan:
    """How long a task is learned, and where training pauses to judge or save."""

    epochs: int
    steps: int | None
    batch_size: int
    drop_last: bool
    evaluate_every: int | None
    save_every: int | None
    accumulate: int

    def per_pass(self, task: Task) -> int:
        """Return the number of steps in one pass over a task."""
        return _batches.per_pass(len(task.y), self.batch_size, self.drop_last)

    def steps_of(self, task: Task) -> int:
        """Return the number of steps on a task."""
        return self.epochs * self.per_pass(task) if self.steps is None else self.steps

    def epoch_of(self, task: Task, taken: int) -> tuple[int, int]:
        """Return the steps at which the current epoch begins and ends, or all steps if none do."""
        if self.steps is not None:
            return 0, self.steps
        begin = taken - taken % self.per_pass(task)
        return begin, begin + self.per_pass(task)

    def next_stop(self, task: Task, rows: int, taken: int) -> int:
        """Return the step at which training next pauses; its passes are over `rows` rows."""
        begin, end = self.epoch_of(task, taken)
        stops = [every for every in (self.evaluate_every, self.save_every) if every is not None]
        nearest = min([end, *(taken + every - taken % every for every in stops)])
        # Never split an update, which would change the training; all pause where an epoch ends.
        per_pass = _batches.per_pass(rows, self.batch_size, self.drop_last)
        return min(end, _batches.end_of_update(nearest, per_pass, self.accumulate, begin))


class _Run:
    """One run: its progress and its figures."""

    def __init__(
        self,
        strategy: Strategy,
        scenario: Scenario,
        metric: Metric,
        plan: _Plan,
        *,
        log: str | os.PathLike[str] | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self.strategy, self.scenario, self.metric, self.plan = strategy, scenario, metric, plan
        self.log, self.checkpoint = log, checkpoint
        name = getattr(metric, "__name__", type(metric).__name__)
        self.result = Result(tuple(task.name for task in scenario), scenario.kind, name)
        self.task = self.taken = self.total = 0
        #: What the latest entry counts, see `History`.
        self.counts: tuple[float, float, float] | None = None
        self.bar: Any = None
        #: What was gathered before the end of the task that is ending.
        self.ending: _undo.Gathered | None = None
        # Recorded before the first task, as training changes some of it.
        self.chosen: dict[str, Any] = {}
        if checkpoint is not None:
            self.chosen = _resume.chosen(strategy, scenario)
            _resume.packed(strategy, {})  # fail now if no file can hold it

    def go(self, resume: bool, progress: bool) -> Result:
        """Learn what is left."""
        with contextlib.ExitStack() as stack:
            if progress:
                total = sum(self.plan.steps_of(task) for task in self.scenario)
                self.bar = stack.enter_context(_progress.bar(total, "step"))
            if resume and self.checkpoint is not None and Path(self.checkpoint).exists():
                self.load()
            else:
                self.strategy.result = self.result  # available even if the run fails
                self.begin_anew()
            while self.task < len(self.scenario):
                with naming(self.scenario[self.task], "was being learned"):
                    try:
                        self.learn(self.scenario[self.task])
                    except BaseException as error:
                        if self.ending is not None:
                            self.ending.restore(error, _undo.STEPS_REMAIN)
                        self.strategy._abandon()
                        raise
                self.task, self.taken = self.task + 1, 0
                self.save()
        return self.result

    def begin_anew(self) -> None:
        """Judge the untrained network before the first task."""
        links = _protocol.links(self.strategy)
        mine = [link for link in links if type(link) not in (Strategy, Naive)]
        ended = max((link._ended for link in mine), default=0)
        if ended or self.strategy.trainer in _TRAINED:
            what = (
                f"{type(mine[0]).__name__} has learned {ended} tasks before this run: the weights,"
                " and what it keeps of those tasks, are still there, and tasks are numbered from 0"
                " again"
                if ended
                else f"{chain(self.strategy)}: the trainer has been trained in another run before,"
                " and starts with the weights and the optimizer state that are left from it"
            )
            warn(
                f"{what}. To start afresh, create a new model, trainer and strategy; to continue a"
                " run that was stopped, pass resume=True",
            )
        # Its value does not tell: that of a penalty whose anchor is the current parameters is 0.
        trainer = self.strategy.trainer
        penalized = trainer._core.penalty_value() is not None
        apart = not any(isinstance(link, Quadratic) for link in links)
        if OWN in trainer._penalties.terms or (penalized and apart):
            warn(
                f"{chain(self.strategy)}: the trainer has a penalty already, from set_penalty or a"
                " strategy that was around it before, and keeps it in this run;"
                " trainer.set_penalty(None) removes it",
            )
        self.judge(-1)

    def learn(self, task: Task) -> None:
        """Learn the rest of a task, in parts that end where training pauses."""
        plan = self.plan
        # Holding a reference keeps samples that are made on demand from being made again.
        _held = task.x
        _TRAINED.add(self.strategy.trainer)
        if self.taken == 0:
            _protocol.begin(self.strategy, task)
            self.result.histories.append(History())
        while self.taken < plan.steps_of(task):
            before, learned = self.taken, _protocol.learned(_protocol.links(self.strategy), task)
            part = plan.next_stop(task, len(learned.y), before) - before
            history = _protocol.learn(
                self.strategy,
                task,
                steps=part,
                start=before,
                batch_size=plan.batch_size,
                drop_last=plan.drop_last,
            )
            self.note(task, history, part)
            self.taken += part
            self.total += part
            if self.bar is not None:
                self.bar.set_description(f"task {task.index + 1}/{len(self.scenario)} {task.name}")
                self.bar.update(part)
            if self.taken == plan.steps_of(task):
                self.ending = _undo.Gathered(self.strategy)
                _protocol.end(self.strategy, task)
                self.ending = None
                self.judge(task.index, ended=True)
            else:
                if self.is_time(plan.evaluate_every, before):
                    self.judge(task.index)
                if self.is_time(plan.save_every, before):
                    self.save()

    def note(self, task: Task, part: History, steps: int) -> None:
        """Merge a part's figures with those of the same epoch, so that saving leaves no trace."""
        plan, found, at = self.plan, self.result.histories[-1], self.taken
        judged = self.result.steps[-1] - (self.total - at)  # since the start of the task
        begins = max(0, judged, plan.epoch_of(task, at)[0])
        latest = History({key: values[-1:] for key, values in found.items()})
        latest._counts = self.counts
        if were_skipped(part):
            if begins == at:  # until a row counts in this epoch
                found.append({"loss": math.nan} | dict.fromkeys(found, math.nan) | {"seconds": 0.0})
                self.counts = part._counts
            return
        if begins < at and (latest.keys() == part.keys() or were_skipped(latest)):
            if latest._counts is None or part._counts is None:  # of a strategy of the user's own
                latest._counts, part._counts = (at - begins,) * 3, (steps,) * 3
            part = mean_history(self.strategy.trainer.loss, [latest, part])
            for values in found.values():
                values.pop()
        found.append({key: values[-1] for key, values in part.items()})
        self.counts = part._counts

    def is_time(self, every: int | None, before: int) -> bool:
        """Whether something that is done every `every` steps is due after a part."""
        return every is not None and self.taken // every > before // every

    def judge(self, learned: int, ended: bool = False) -> None:
        """Score every task, and record whether one has ended."""
        scores = []
        for task in self.scenario:
            classes = self.scenario.competing(task.index, learned)
            with naming(task, "was being evaluated on x_test"):
                scores.append(score(self.metric(self.strategy, task, classes)))
        self.result.steps.append(self.total)
        self.result.scores.append(scores)
        if ended:
            self.result.ends.append(self.total)
        if self.bar is not None:
            self.bar.set_postfix_str(" ".join(f"{score:.3f}" for score in scores))
        if self.log is not None:
            self.result.save(self.log)

    def setting(self) -> dict[str, Any]:
        """Return what must be the same when the run is resumed."""
        plan = asdict(self.plan)
        # Saving changes nothing, and accumulation is among the trainer's settings.
        del plan["save_every"], plan["accumulate"]
        return {
            **self.chosen,
            "kind": self.scenario.kind,
            "metric": self.result.metric,
            **plan,
        }

    def save(self) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint is not None:
            place = {
                "task": self.task,
                "taken": self.taken,
                "total": self.total,
                "counts": self.counts,
                "result": self.result._plain(),
            }
            _resume.save(self.checkpoint, self.strategy, self.setting(), place)

    def load(self) -> None:
        """Resume from the checkpoint."""
        assert self.checkpoint is not None
        setting = self.setting()
        self.result, self.task, self.taken, self.counts = _resume.load(
            self.checkpoint, self.strategy, setting, self.place
        )
        self.total = self.steps_before(self.task) + self.taken
        self.strategy.result = self.result
        if self.bar is not None:
            self.bar.update(self.total)

    def steps_before(self, task: int) -> int:
        """Return the number of steps on all tasks before one."""
        return sum(self.plan.steps_of(one) for one in self.scenario[:task])

    def place(self, saved: dict[str, Any]) -> tuple[Result, int, int, Any]:
        """Return what a checkpoint says of its run: result, task, steps taken on it, and counts.

        Raises
        ------
        DataError
            If no run of these tasks was ever there.
        """
        task = _checks.integer("task", saved["task"], 0, len(self.scenario))
        here = self.scenario[task : task + 1]
        most = self.plan.steps_of(here[0]) - 1 if here else 0  # after the last one, a task ends
        taken = _checks.integer("taken", saved["taken"], 0, most)
        total, counts = self.steps_before(task) + taken, saved["counts"]
        result = Result._of_plain(saved["result"])
        if counts is not None:
            counts = tuple(_checks.real("counts", count) for count in counts)
        if (
            saved["total"] != total
            or len(counts or range(3)) != 3
            or (result.names, result.metric) != (self.result.names, self.result.metric)
            or len(result.ends) != task
            or len(result.histories) != task + (taken > 0)
            or not result.steps
            or result.steps[-1] > total
        ):
            raise DataError("its progress is not that of a run of these tasks")
        return result, task, taken, counts
