"""The protocol of strategies: the base class of all of them.

What it is made of has its own modules: `_admission` refuses tasks and steps, `_passes` trains,
`_state` is what a strategy gathers, and `_protocol` calls the strategies inside.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._fixed import Fixed
from thalweg._habits import is_ours, is_own, takes
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.continual import (
    _batches,
    _compatibility,
    _hidden_units,
    _passes,
    _protocol,
    _resume,
    _undo,
)
from thalweg.continual._admission import Admission, check_task, check_trainer
from thalweg.continual._buffers import Buffer, ReservoirBuffer
from thalweg.continual._elsewhere import (
    ARGUMENTS,
    ELSEWHERE,
    OF_FITS,
    OF_PREDICTIONS,
    no_attribute,
)
from thalweg.continual._incomplete import called
from thalweg.continual._outputs import largest
from thalweg.continual._state import Stateful, note_arrays, note_made
from thalweg.continual._task import Task, check_rows
from thalweg.errors import ArgumentError, DataError, UnsupportedError
from thalweg.nn import BCEWithLogitsLoss, CrossEntropyLoss, CustomLoss, DistillationLoss, Sequential

if TYPE_CHECKING:
    from thalweg.continual._result import Result
else:  # what typing.get_type_hints finds
    Result = Any

#: Losses whose largest output is, or may be, the class.
_OF_CLASSES = (CrossEntropyLoss, BCEWithLogitsLoss, DistillationLoss, CustomLoss)


class Strategy(Admission, Stateful, Fixed):
    """A way of learning tasks one after another; by itself it does nothing against forgetting.

    Strategies are wrapped around a trainer, or around each other: ``EWC(Replay(trainer, 200), 1)``.
    A new strategy overrides `begin`, `learn`, `step` or `end`, and calls ``super()`` there, which
    calls the inner strategy. If it overrides `step` but not `learn`, a task is learned by its
    `step`, batch after batch.

    A task is learned by one `begin`, any number of `learn` calls, each of which takes some steps,
    and one `end`. `state_dict` returns everything that the next call depends on, anywhere in a
    task: a strategy that has loaded it continues with `learn`, without another `begin`. A new
    strategy lists in `gathers` the attributes that hold what it gathers, which makes them part of
    that state.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.

    Attributes
    ----------
    inner : Strategy or None
        The strategy inside; None around a trainer. This and the other arguments of a strategy can
        be read under their names. They cannot be set, except for the ``strength`` of penalties.
    trainer : Trainer
        The innermost trainer.
    needs_task : bool
        Whether it must be told which task a sample is from, also when the sample is judged.
    result : Result or None
        The figures of the latest `run` with it, even if an error or Ctrl-C ended that run.
    gathers : tuple of str
        Class attribute: names of attributes that belong to its state, in addition to those of its
        bases: arrays, plain data, random generators, trainers, and anything with `state_dict` and
        `load_state_dict`, such as a `Buffer`. All but arrays and plain data must be created in
        ``__init__``. An optimizer is kept with its model, in a trainer.
    replays : bool
        Class attribute: whether its steps include samples of earlier tasks. If so, penalties do not
        warn about new classes that nothing else distinguishes from old ones, and `XdG` and
        `PackNet`, whose latest part would learn those samples, refuse it.

    Raises
    ------
    ArgumentError
        If `inner` is neither.
    UnsupportedError
        If the trainer's schedule counts epochs, or is as long as a fit: a task is learned by many
        short fits; if its optimizer needs all data at once.
    """

    result: Result | None = None
    gathers: tuple[str, ...] = ("_ended", "_begun")
    replays: bool = False
    #: Whether it is a user's, and learns a task by its own `step`.
    _by_step: bool = False
    #: Whether `learn` or `step` was called since the strategy around it was last asked to learn.
    _asked: bool = False
    #: Whether it has looked at the rows of its `task_to_learn` since the task began.
    _looked: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the signature of user-defined classes; make ours explain wrong arguments."""
        super().__init_subclass__(**options)
        if not is_ours(cls):
            _protocol.check_learn(cls)
            cls._by_step = _protocol.learns_by(cls) == "step" and not cls._only_learns
            _protocol.noting(cls, "__init__", note_made)
            _protocol.noting(cls, "learn", _protocol.note)
            _protocol.noting(cls, "step", _protocol.note, first=note_arrays)
        elif "__init__" in vars(cls):
            _guide(cls)

    def __init__(self, inner: Trainer | Strategy) -> None:
        _check_inner(inner)
        self.inner: Strategy | None = inner if isinstance(inner, Strategy) else None
        self.trainer: Trainer = inner.trainer if isinstance(inner, Strategy) else inner
        self.needs_task: bool = self.inner is not None and self.inner.needs_task
        if self._by_step:
            self._does = (*self._does, "step", "plain rows")  # which is what `step` takes
        if _protocol.overrides(type(self), "task_to_learn"):
            self._does = (*self._does, "choice")
        _compatibility.check(self)
        self._ended = 0  # tasks
        self._begun: int | None = None  # the index of the task that is being learned
        self._told_of_waiting = self._told_of_averages = False
        # What the strategies of the chain do, one set for all of them: see `_compatibility`.
        self._among: set[str] = set() if self.inner is None else self.inner._among
        self._among |= _compatibility.deeds(self)
        if self.inner is None:
            check_trainer(self.trainer)

    def __repr__(self) -> str:
        attributes = {**vars(self), **self._made_with}
        attributes["inner"] = attributes.get("inner") or attributes.get("trainer")
        given = []
        for it in inspect.signature(type(self).__init__).parameters.values():
            kept = [attributes[name] for name in (it.name, f"_{it.name}") if name in attributes]
            # Leave out arguments that are not kept under their names, or equal their defaults.
            if not kept or _short(it.default) == _short(kept[0]):
                continue
            named = it.default is not it.empty or it.kind is it.KEYWORD_ONLY
            given.append(f"{it.name}={_short(kept[0])}" if named else _short(kept[0]))
        return f"{type(self).__name__}({', '.join(given)})"

    if not TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name

        def __getattr__(self, name: str) -> Any:
            """Raise an error that says where to find what was asked for."""
            if is_own(self, name):
                return object.__getattribute__(self, name)
            if name in ("inner", "trainer", "needs_task", "_ended", "_begun"):
                raise AttributeError(
                    f"{type(self).__name__} has no {name} yet: its __init__ must call"
                    " super().__init__(inner) before the strategy is used",
                    name=name, obj=self,
                )  # fmt: skip
            raise no_attribute(self, name, ELSEWHERE)

    def begin(self, task: Task) -> None:
        """Get ready for a task; this also sets which classes compete in the loss.

        Parameters
        ----------
        task : Task
            The task that is learned next.
        """
        note_arrays(self)
        self._admit(task)
        self._admitted = None
        if self.inner is not None:
            self.inner._admitted = task
            _protocol.begin(self.inner, task)
        self._begun, self._looked = task.index, False
        if (
            not any(link._told_of_averages for link in _protocol.links(self))
            and self._preserves()
            and _hidden_units.has_averages(self.trainer.model)
        ):
            self._told_of_averages = True
            warn(
                "the running averages of nn.BatchNorm1d are updated in every task, and"
                f" {type(self).__name__} does not preserve them: the outputs for earlier tasks"
                " change even if all weights stay. Use nn.LayerNorm, which has none",
            )

    def _preserves(self) -> bool:
        """Whether weights or outputs of earlier tasks should stay: for those that see to that."""
        return False

    def learn(
        self,
        task: Task,
        *,
        steps: int,
        start: int = 0,
        batch_size: int = 32,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> History:
        """Take some steps on a task, between `begin` and `end`.

        Parameters
        ----------
        task : Task
            The task, or another one with the same index: see `Task.with_data`.
        steps : int, keyword only
            The number of steps.
        start : int, keyword only, default 0
            How many steps have been taken on this task before; this determines which rows come
            next.
        batch_size : int, keyword only, default 32
            Rows of a step.
        shuffle : bool, keyword only, default True
            Whether every pass over the rows has a random order.
        drop_last : bool, keyword only, default False
            Whether to leave out a short last batch of a pass.

        Returns
        -------
        History
            One entry for these steps. It has no figures if no row counts in any of them, because of
            weights of 0 or labels that the loss ignores: such steps are skipped.

        Raises
        ------
        ArgumentError
            If no task has begun, or one with another index: strategies that act when it begins
            would have no effect.
        ThalwegError
            If an argument or the data are invalid, as for `Trainer.fit`, or training diverges.
        UnsupportedError
            If the strategy, or one inside, does not support such data, such as sample weights.

        Notes
        -----
        A custom strategy that overrides this must accept all five options by name, or
        ``**options``, since it is called with all of them. It must return a mapping of figures,
        such as ``{"loss": 0.5}``, or what ``super().learn(task, ...)`` returns. `fit` and `run`
        raise an error if it calls neither ``super().learn`` nor ``super().step`` although a
        strategy inside takes part in every step, like `Replay`.

        A custom strategy that overrides `step` but not this takes each of the steps by its `step`.

        One that learns other rows than the task's overrides `task_to_learn`, and not this: `run`
        then knows where its passes end.

        With ``accumulate_grad_batches``, an update is of the batches at its positions in the pass,
        also where no row of some of them counts; `Trainer.fit` passes over those, and takes the
        next ones instead. If gradients of earlier calls of `step` still wait for an update, it is
        made first.
        """
        check_task(task)
        self._check_begun(task, "cannot be learned")
        self._check_data(task)  # `begin` may have seen other data
        self._asked = True
        # Those inside are only asked for steps if this one learns by `step`.
        given = task
        task = _protocol.learned(_protocol.links(self) if self._by_step else [self], given)
        options: dict[str, Any] = {
            "steps": _checks.integer("steps", steps, 1),
            "start": _checks.integer("start", start, 0),
            "batch_size": _checks.integer("batch_size", batch_size, 1),
            "shuffle": _checks.flag("shuffle", shuffle),
            "drop_last": _checks.flag("drop_last", drop_last),
        }
        if task is not given:
            self._check_data(task)
            if not self._looked:  # errors in steps would name rows of a batch
                _passes.look(self, task)
                self._looked = True
        with _undo.saying_after_which_step(self.trainer):
            if self._by_step:
                return _passes.by_step(self, task, **options)
            return self._learn(task, **options)

    def _learn(
        self, task: Task, *, steps: int, start: int, batch_size: int, **others: Any
    ) -> History:
        """Take some steps, with arguments that `learn` has checked; for our own overrides."""
        options = {"steps": steps, "start": start, "batch_size": batch_size, **others}
        if self.inner is not None:
            return _protocol.learn(self.inner, task, **options)
        return _passes.train(self, task, **options)

    def task_to_learn(self, task: Task) -> Task:
        """Return the task whose rows `learn` takes: by default the one that it is called with.

        Parameters
        ----------
        task : Task
            The task that has begun, or what a strategy around this one makes of it.

        Returns
        -------
        Task
            One with the same index, such as `Task.with_data` returns. It must not depend on how
            many steps have been taken. It is asked for at each part of the task, and where `run`
            pauses, so one that takes long to make is better kept.

        Notes
        -----
        A custom strategy that overrides this goes around `Replay`, which would give it pieces of a
        task otherwise. It cannot go around `Cumulative`, `Joint` and `GDumb`, which learn rows of
        their own. Such combinations raise `UnsupportedError` when they are created.
        """
        return task

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned.

        If gradients of some batches still wait for an update, with ``accumulate_grad_batches``, it
        is made first.

        Parameters
        ----------
        task : Task
            The task that has begun, or another one with the same index: see `Task.with_data`.

        Raises
        ------
        ArgumentError
            If no task has begun, the latest one has ended already, or it has another index;
            nothing is changed then.
        """
        self._ready_to_end(task)
        self._admitted = None
        if self.inner is not None:
            self.inner._admitted = task
            _protocol.end(self.inner, task)
        self._ended, self._begun = self._ended + 1, None

    def _abandon(self) -> None:
        """Drop what is held for a task that will not be learned to its end."""
        if self.inner is not None:
            self.inner._abandon()
        elif self._begun is not None:
            self.trainer._core.forget()  # gradients for an update that is not made any more
        self._begun, self._admitted = None, None

    @called("strategy.fit", OF_FITS, check_task)
    def fit(
        self,
        task: Task,
        *,
        epochs: int = 1,
        steps: int | None = None,
        batch_size: int = 32,
        drop_last: bool = False,
    ) -> History:
        """Learn one task: `begin`, `learn`, `end`.

        Parameters
        ----------
        task : Task
            The task.
        epochs : int, keyword only, default 1
            Passes over the rows of the task.
        steps : int, keyword only, optional
            Steps to take, instead of epochs.
        batch_size, drop_last
            As in `learn`.

        Returns
        -------
        History
            One entry per epoch, or one for all steps.

        Raises
        ------
        ThalwegError
            If an argument or the data are invalid, or training diverges. After any error, also one
            of a later epoch, strategy and trainer are as they were before; after Ctrl-C, the steps
            that were taken remain, and weights that `end` has changed, such as those that `PackNet`
            has pruned, but the task has not ended, for any strategy.

        Notes
        -----
        To restore it after an error, what strategies have gathered is copied, with all buffers,
        when the task begins and when it ends.
        """
        check_task(task)
        check_rows(task, task.index)
        batch_size = _checks.integer("batch_size", batch_size, 1)
        drop_last = _checks.flag("drop_last", drop_last)
        per_pass = _batches.per_pass(len(task.y), batch_size, drop_last)
        count = _checks.integer("epochs", epochs, 1)
        if steps is not None:
            count, per_pass = 1, _checks.integer("steps", steps, 1)
        # Holding a reference keeps samples that are made on demand from being made again.
        _held = task.x
        links = _protocol.links(self)
        for link in links:
            link._refused = False
        before, ending = _undo.Before(self), None
        history = History()
        try:
            _protocol.begin(self, task)
            for number in range(count):
                part = _protocol.learn(
                    self,
                    task,
                    steps=per_pass,
                    start=number * per_pass,
                    batch_size=batch_size,
                    drop_last=drop_last,
                )
                if _passes.were_skipped(part):
                    raise DataError(
                        f"no row counts in {per_pass} steps on task {task.index}: each has a"
                        " sample_weight of 0, an ignored label, or a label whose class has weight 0"
                    )
                history.append({key: values[-1] for key, values in part.items()})
            ending = _undo.Gathered(self)
            _protocol.end(self, task)
        except BaseException as error:
            if any(link._refused for link in links):
                raise  # nothing has changed, also not what another strategy has left in the trainer
            if ending is not None and not isinstance(error, Exception):
                ending.restore(error, _undo.STEPS_REMAIN)
            self._abandon()
            if isinstance(error, Exception):
                before.restore(error)
            raise
        return history

    def step(self, x: npt.ArrayLike, y: Targets) -> float:
        """Take a step on a batch of a stream or, between `begin` and `end`, of that task.

        Parameters
        ----------
        x, y : array_like
            As in `Trainer.step`.

        Returns
        -------
        float
            The loss of the batch before the step.

        Raises
        ------
        ThalwegError
            If the arrays do not fit, or the loss is not finite, as for `Trainer.step`.
        UnsupportedError
            If this strategy, or one inside, does not support such a step: some only learn whole
            tasks, others only act when a task begins.

        Notes
        -----
        Strategies that use what they gathered at the end of tasks warn, once, if there is nothing
        yet and no task has begun: such steps are just those of the strategy inside.
        """
        self._check_step()
        self._asked = True
        return (self.trainer if self.inner is None else self.inner).step(x, y)

    @takes("strategy.network", OF_PREDICTIONS)
    def network(self, task: int | None = None) -> Sequential:
        """Return the network that samples are judged by.

        Parameters
        ----------
        task : int, optional
            The index of the task that the samples are from, for strategies that have a part of the
            network for each task; others always return the trainer's model.

        Returns
        -------
        Sequential
            Do not train it.
        """
        return self.trainer.model if self.inner is None else self.inner.network(task)

    @takes("strategy.predict", OF_PREDICTIONS)
    def predict(
        self,
        x: npt.ArrayLike,
        classes: Sequence[int] | None = None,
        *,
        task: int | None = None,
    ) -> npt.NDArray[np.integer[Any]]:
        """Predict the class of each sample.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            The samples.
        classes : sequence of int, optional
            The classes that compete; all by default.
        task : int, keyword only, optional
            The index of the task that the samples are from, if known; see `network`.

        Returns
        -------
        ndarray of int, shape (n,)
            The index of the largest output, the first of equal ones. For a single output with
            `nn.BCEWithLogitsLoss`, 1 where it is above 0.

        Raises
        ------
        UnsupportedError
            If the loss is for regression, like `nn.MSELoss`, and `classes` does not name the
            outputs that stand for classes.
        """
        found: npt.NDArray[np.integer[Any]] = self._judge(self.network(task), x, classes)
        return found

    def _judge(self, network: Sequential, x: Any, classes: Sequence[int] | None) -> Any:
        """Classify samples with a network, as the strategies inside do."""
        if self.inner is not None:
            return self.inner._judge(network, x, classes)
        outputs = network(x)
        if outputs.shape[1] == 1 and isinstance(self.trainer.loss, BCEWithLogitsLoss):
            return (outputs[:, 0] > 0).astype(np.int64)
        if classes is None and not isinstance(self.trainer.loss, _OF_CLASSES):
            raise UnsupportedError(
                f"predict returns classes, but {self.trainer.loss!r} is a loss for regression:"
                " strategy.network()(x) returns the outputs. If these stand for classes, name them:"
                f" predict(x, range({outputs.shape[1]}))"
            )
        return largest(outputs, classes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trainer and everything gathered, such as by steps on a stream, to one file.

        Parameters
        ----------
        path : str or path-like
            The file, in the safetensors format; `Trainer.load` and `nn.Sequential.load` read their
            parts of it.

        Warns
        -----
        UserWarning
            If a custom strategy has an array that is not in `gathers`, and has changed since it
            began to learn; once for each. (Names that begin with an underscore stand for arrays
            that serve a moment only.)

        Raises
        ------
        ArgumentError
            If `path` is neither.
        OSError
            If the file cannot be written.
        UnsupportedError
            If the trainer has a custom function, such as a loss; if a custom strategy gathers
            something that no file can hold, such as an optimizer without its model, or has a
            buffer, a random generator, or a changed model or trainer that is not in `gathers`.
        DivergedError
            If a number of model or optimizer is infinite or NaN; no file is changed then.
        """
        _resume.save(_checks.path("path", path), self, _resume.chosen(self), {})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Restore what `save`, or a checkpoint of `run`, has written.

        After an error, strategy and trainer are as they were before.

        Parameters
        ----------
        path : str or path-like
            The file. Model, trainer, strategies and buffers must be created like those that it was
            written from. A learning rate that was set later is restored; a strength must be what
            it was when `save` was called, or when the run began.

        Raises
        ------
        OSError
            If the file cannot be read.
        DataError
            If it holds no run or strategy, or is damaged.
        ArgumentError
            If `path` is neither; or if the file was written from others: the message lists what
            differs, with both values.
        UnsupportedError
            If a version of thalweg with another format wrote it.
        """
        _resume.load(_checks.path("path", path), self, _resume.chosen(self), lambda progress: None)


def _guide(cls: type[Strategy]) -> None:
    """Let the constructor of a class explain wrong arguments before Python does."""
    make: Any = vars(cls)["__init__"]

    @functools.wraps(make)
    def init(self: Strategy, *args: Any, **kwargs: Any) -> None:
        # The class may inherit this constructor; and `inner` may be a model, followed by optimizer
        # and loss, rather than a trainer.
        called(type(self).__name__, ARGUMENTS, _check_inner)(make)(self, *args, **kwargs)
        note_made(self)  # a user's class may inherit all of it

    cls.__init__ = init  # type: ignore[method-assign]


def _short(value: Any) -> str:
    """Show an argument in short form."""
    if isinstance(value, Strategy):
        return repr(value)
    if isinstance(value, Trainer):
        return "Trainer(...)"
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float):
        return f"{value:g}"
    if type(value) is ReservoirBuffer:  # made from a number
        return f"{value.capacity}"
    return f"{type(value).__name__}({value.capacity if isinstance(value, Buffer) else '...'})"


def _check_inner(inner: Any) -> None:
    if not isinstance(inner, Trainer | Strategy):
        raise ArgumentError(
            "inner must be a Trainer, which has model, loss and optimizer, or a Strategy; got "
            f"{type(inner).__name__}"
        )


_guide(Strategy)  # subclasses get it from __init_subclass__
