"""The base class of all strategies."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import _checks, _core
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.continual import _ask, _batches, _gathered, _joins
from thalweg.continual._buffers import Buffer, ReservoirBuffer
from thalweg.continual._elsewhere import ARGUMENTS, ELSEWHERE, OF_FITS, called, no_attribute
from thalweg.continual._task import Task, check_rows, not_begun
from thalweg.errors import ArgumentError, ThalwegError, UnsupportedError
from thalweg.nn import BCEWithLogitsLoss, CrossEntropyLoss, CustomLoss, DistillationLoss, Sequential
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim.schedules import ReduceLROnPlateau

if TYPE_CHECKING:
    from thalweg.continual._result import Result

#: Losses whose largest output is, or may be, the class.
_OF_CLASSES = (CrossEntropyLoss, BCEWithLogitsLoss, DistillationLoss, CustomLoss)
#: The key under which a copy or pickle carries what `Strategy.state_dict` returned.
_GATHERED = "state_dict()"


class Strategy:
    """A way of learning tasks one after another; by itself it does nothing against forgetting.

    Strategies are wrapped around a trainer, or around each other: ``EWC(Replay(trainer, 200), 1)``.
    A new strategy overrides `begin`, `learn` or `end`, and calls ``super()`` there, which calls the
    inner strategy. A task is learned by one `begin`, any number of `learn` calls, each of which
    takes some steps, and one `end`. `state_dict` returns everything that the next call depends on,
    anywhere in a task: a strategy that has loaded it continues with `learn`, without another
    `begin`. A new strategy lists in `gathers` the attributes that hold what it gathers, which makes
    them part of that state.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.

    Attributes
    ----------
    trainer : Trainer
        The innermost trainer.
    needs_task : bool
        Whether it must be told which task a sample is from, also when the sample is judged.
    result : Result or None
        The figures of the latest `run` with it, even if an error or Ctrl-C ended that run.
    gathers : tuple of str
        Class attribute: names of attributes that belong to its state, in addition to those of its
        bases: arrays, plain data, random generators, and anything with `state_dict` and
        `load_state_dict`, such as a `Buffer`. The latter two must be created in ``__init__``.
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

    result: "Result | None" = None
    gathers: tuple[str, ...] = ("_ended", "_begun")
    replays: bool = False
    #: What else its own `state_dict` adds to the state.
    _holds: tuple[str, ...] = ()
    #: What it does that others may not tolerate: see `_joins`.
    _does: tuple[str, ...] = ()
    #: Why it can only learn tasks, by `learn`, and takes no `step`; empty if it takes some.
    _only_learns: str = ""
    #: Why it takes a `step` only between `begin` and `end`; empty if it takes any.
    _only_in_tasks: str = ""
    #: The task that begins or ends now and was checked, here or by the strategy outside.
    _admitted: Task | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the signature of user-defined classes; make ours explain wrong arguments."""
        super().__init_subclass__(**options)
        if not cls.__module__.startswith("thalweg."):
            _ask.check_learn(cls)
        elif "__init__" in vars(cls):
            _guide(cls)

    def __init__(self, inner: "Trainer | Strategy") -> None:
        _check_inner(inner)
        self.inner: Strategy | None = inner if isinstance(inner, Strategy) else None
        self.trainer: Trainer = inner.trainer if isinstance(inner, Strategy) else inner
        self.needs_task: bool = self.inner is not None and self.inner.needs_task
        _joins.check(self)
        self._ended = 0  # tasks
        self._begun = False  # whether a task is being learned
        self._told_of_waiting = False
        # Whether any strategy of the chain learns samples of earlier tasks again.
        self._rehearses: bool = self.replays or (self.inner is not None and self.inner._rehearses)
        link = self.inner
        while self.replays and link is not None:
            link._rehearses, link = True, link.inner
        if self.inner is None:
            _check_steps(self.trainer)

    def __repr__(self) -> str:
        attributes = vars(self) | {"inner": vars(self).get("inner") or vars(self).get("trainer")}
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
            if name in ("inner", "trainer", "needs_task", "_ended", "_begun"):
                raise AttributeError(
                    f"{type(self).__name__} has no {name} yet: its __init__ must call"
                    " super().__init__(inner) before anything else is asked of it",
                    name=name, obj=self,
                )  # fmt: skip
            raise no_attribute(self, name, ELSEWHERE)

    def begin(self, task: Task) -> None:
        """Get ready for a task; this also sets which classes compete in the loss."""
        self._admit(task)
        self._admitted = None
        if self.inner is not None:
            self.inner._admitted = task
            _ask.begin(self.inner, task)
        self._begun = True

    def _admit(self, task: Task) -> None:
        """Let the classes of a task compete, or refuse it before anything is changed for it.

        This also checks all strategies inside, which then need not check the same task again.
        """
        if task is self._admitted:
            return
        _check_task(task)
        self._check(task)
        trainer = self.trainer
        before: Any = trainer.loss
        try:
            if task.active is not None and hasattr(before, "active"):
                active = None if task.active == "all" else task.active
                trainer.loss = dataclasses.replace(before, active=active)
            self._look_at(task)
            self._check_kept(task)
        except ThalwegError:
            trainer.loss = before
            raise
        self._admitted = task

    def _look_at(self, task: Task) -> None:
        """Refuse rows that the trainer cannot take."""
        check_rows(task, task.index)
        trainer: Any = self.trainer
        # Preparing a fit, without running it, checks all rows.
        x, y, weight = trainer._ready(task.x, task.y, task.sample_weight)
        trainer._arrays_fit(x, y, weight, None, None, None, 1, len(x), False)

    def _check(self, task: Task) -> None:
        """Refuse a task that this strategy, or one inside, cannot learn."""
        plain = {"plain rows", "plain tasks"} & {*self._does}
        if task.sample_weight is not None and plain:
            raise UnsupportedError(
                f"{type(self).__name__} does not take tasks with sample_weight: to it, all samples"
                " count alike"
            )
        if self.inner is not None:
            self.inner._check(task)

    def _check_kept(self, task: Task) -> None:
        """Refuse a task, whose classes compete now, that does not match what is kept."""
        if self.inner is not None:
            self.inner._check_kept(task)

    def _admit_end(self, task: Task) -> None:
        """Refuse the end of a task before anything is changed for it."""
        if task is not self._admitted:
            self._check_end(task)
            self._admitted = task

    def _check_end(self, task: Task) -> None:
        """Refuse a task that this strategy, or one inside, could not consolidate."""
        if self.inner is not None:
            self.inner._check_end(task)
        else:
            _check_task(task)
            self._look_at(task)

    def _check_begun(self, task: Task, what: str) -> None:
        """Refuse a call that needs `begin` to have been called first."""
        if not self._begun:
            raise not_begun(task, what)

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
            One entry for these steps.

        Raises
        ------
        ArgumentError
            If no task has begun: strategies that act when it begins would have no effect.
        ThalwegError
            If an argument or the data are invalid, as for `Trainer.fit`, or training diverges.

        Notes
        -----
        A custom strategy that overrides this must accept all five options by name, or
        ``**options``, since it is called with all of them. It must return a mapping of figures,
        such as ``{"loss": 0.5}``, or what ``super().learn(task, ...)`` returns.
        """
        _check_task(task)
        self._check_begun(task, "is to be learned")
        return self._learn(
            task,
            steps=_checks.integer("steps", steps, 1),
            start=_checks.integer("start", start, 0),
            batch_size=_checks.integer("batch_size", batch_size, 1),
            shuffle=_checks.flag("shuffle", shuffle),
            drop_last=_checks.flag("drop_last", drop_last),
        )

    def _learn(
        self, task: Task, *, steps: int, start: int, batch_size: int, shuffle: bool, drop_last: bool
    ) -> History:
        """Take some steps, with arguments that `learn` has checked; for our own overrides."""
        options: dict[str, Any] = {
            "steps": steps,
            "start": start,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "drop_last": drop_last,
        }
        if self.inner is not None:
            return _ask.learn(self.inner, task, **options)
        fixed = task.with_data(np.asarray(task.x), np.asarray(task.y), task.sample_weight)
        _batches.check_last(self.trainer, len(fixed.x), steps, start, batch_size, drop_last)
        return mean_history(list(self._parts(fixed, **options)))

    def _parts(
        self, task: Task, *, steps: int, start: int, batch_size: int, shuffle: bool, drop_last: bool
    ) -> Iterator[tuple[int, History]]:
        """Train, and yield rows and history of each call of the core."""
        trainer, rows = self.trainer, len(task.x)
        batches = _batches.per_pass(rows, batch_size, drop_last)
        # A complete pass is one fit of the trainer, which gathers rows batch by batch. Passes that
        # are not complete, or leave rows out, are gathered here.
        uneven = drop_last and rows > batch_size and rows % batch_size > 0
        in_core = shuffle and not uneven and isinstance(trainer._core, _core.Trainer)
        at, end = start, start + steps
        while at < end:
            number, place = divmod(at, batches)
            take = min(batches - place, end - at)
            if in_core and take == batches:
                order = _batches.order_number(task, number)
                weight = task.sample_weight
                yield rows, trainer._pass(task.x, task.y, weight, batch_size, order)
            else:
                for x, y, weight in _batches.chunks(
                    task, seed=trainer.model.seed, steps=take, start=at, batch_size=batch_size,
                    shuffle=shuffle, drop_last=drop_last,
                    most=_batches.steps_of_chunk(trainer, batch_size),
                ):  # fmt: skip
                    history = trainer.fit(
                        x, y, batch_size=batch_size, shuffle=False, sample_weight=weight
                    )
                    yield len(x), history
            at += take

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        self._admit_end(task)
        self._admitted = None
        if self.inner is not None:
            self.inner._admitted = task
            _ask.end(self.inner, task)
        self._ended, self._begun = self._ended + 1, False

    def _abandon(self) -> None:
        """Drop what is held for a task that will not be learned to its end."""
        if self.inner is not None:
            self.inner._abandon()
        self._begun, self._admitted = False, None

    @called("strategy.fit", OF_FITS, lambda task: _check_task(task))
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
        """
        _check_task(task)
        check_rows(task, task.index)
        batch_size = _checks.integer("batch_size", batch_size, 1)
        drop_last = _checks.flag("drop_last", drop_last)
        per_pass = _batches.per_pass(len(task.y), batch_size, drop_last)
        count = _checks.integer("epochs", epochs, 1)
        if steps is not None:
            count, per_pass = 1, _checks.integer("steps", steps, 1)
        # Holding a reference keeps samples that are made on demand from being made again.
        _held = task.x
        _ask.begin(self, task)
        history = History()
        try:
            for number in range(count):
                part = _ask.learn(
                    self,
                    task,
                    steps=per_pass,
                    start=number * per_pass,
                    batch_size=batch_size,
                    drop_last=drop_last,
                )
                history.append({key: values[-1] for key, values in part.items()})
            _ask.end(self, task)
        except BaseException:
            self._abandon()
            raise
        return history

    def step(self, x: Any, y: Any) -> float:
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
        return (self.trainer if self.inner is None else self.inner).step(x, y)

    def _check_step(self) -> None:
        """Refuse a step that this strategy could never affect, and warn if it has no effect yet."""
        if self._only_learns:
            raise UnsupportedError(
                f"{type(self).__name__} cannot take a step of a stream: {self._only_learns}; use"
                " fit, or begin, learn and end, with a Task"
            )
        if self._begun:
            return
        if self._only_in_tasks:
            raise UnsupportedError(
                f"{type(self).__name__} cannot take a step of a stream outside of a task:"
                f" {self._only_in_tasks}; call begin and end, with a Task, around the steps of each"
                " task, or use fit or run"
            )
        if not self._told_of_waiting and self._waits():
            self._told_of_waiting = True
            warn(
                f"{type(self).__name__} protects nothing yet: it gathers when a task ends, and none"
                " has ended, so that a step of a stream is the same without it. Call begin and end,"
                " with a Task, around the steps of each task, or use fit or run, which do",
            )

    def _waits(self) -> bool:
        """Whether its steps do nothing of their own until it has gathered something from a task."""
        return False

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

    def predict(
        self, x: Any, classes: Sequence[int] | None = None, *, task: int | None = None
    ) -> Any:
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
        return self._judge(self.network(task), x, classes)

    def _judge(self, network: Sequential, x: Any, classes: Sequence[int] | None) -> Any:
        """Classify samples with a network, as the strategies inside do."""
        if self.inner is not None:
            return self.inner._judge(network, x, classes)
        outputs = network(x)
        if outputs.shape[1] == 1 and isinstance(self.trainer.loss, BCEWithLogitsLoss):
            return (outputs[:, 0] > 0).astype(np.int64)
        if classes is None and not isinstance(self.trainer.loss, _OF_CLASSES):
            raise UnsupportedError(
                f"predict gives classes, and {self.trainer.loss!r} is of numbers: the outputs are"
                " strategy.network()(x). If they are of classes, say so by"
                f" predict(x, range({outputs.shape[1]}))"
            )
        return largest(outputs, classes)

    def __getstate__(self) -> dict[str, Any]:
        # Some of the state is in the core's trainer, which copies and pickles leave out.
        plain = {
            name for name in self._names_gathered() if not _gathered.has_state(getattr(self, name))
        }
        others = {name: value for name, value in vars(self).items() if name not in plain}
        return {**others, _GATHERED: self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        gathered = state.pop(_GATHERED)
        vars(self).update(state)
        self.load_state_dict(gathered)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trainer and everything gathered, such as by steps on a stream, to one file.

        Parameters
        ----------
        path : str or path-like
            The file, in the safetensors format; `Trainer.load` and `nn.Sequential.load` read their
            parts of it.

        Raises
        ------
        OSError
            If the file cannot be written.
        UnsupportedError
            If the trainer has a custom function, such as a loss, or a custom strategy gathers
            anything other than arrays and plain data.
        DivergedError
            If a number of model or optimizer is infinite or NaN; no file is changed then.
        """
        from thalweg.continual import _resume

        _resume.save(path, self, _resume.chosen(self), {})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Restore what `save`, or a checkpoint of `run`, has written.

        Parameters
        ----------
        path : str or path-like
            The file. Model, trainer, strategies and buffers must be created like those that it was
            written from.

        Raises
        ------
        OSError
            If the file cannot be read.
        DataError
            If it holds no run or strategy.
        ArgumentError
            If it was written from others: the message lists what differs, with both values, and
            nothing is loaded.
        UnsupportedError
            If a version of thalweg with another format wrote it.
        """
        from thalweg.continual import _resume

        _resume.load(path, self, _resume.chosen(self))

    def state_dict(self) -> dict[str, Any]:
        """Return what this strategy has gathered (not the trainer's), as arrays and plain data.

        All of it is copied, here and by `load_state_dict`.
        """
        state = {
            name.strip("_"): _gathered.given(getattr(self, name)) for name in self._names_gathered()
        }
        return state if self.inner is None else {**state, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises
        ------
        ArgumentError
            If it is not from such a strategy around such others; nothing is loaded then.
        """
        self._check_state(state)
        for name in self._names_gathered():
            setattr(self, name, _gathered.taken(state[name.strip("_")], vars(self).get(name)))
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])

    def _check_state(self, state: Any) -> None:
        """Refuse the state of a different strategy, or chain, before anything is loaded."""
        name = type(self).__name__
        if not isinstance(state, Mapping):
            raise ArgumentError(f"a state is a dict, as of {name}.state_dict(); got {state!r}")
        needed = [name.strip("_") for name in self._names_gathered()]
        needed += [part for kind in type(self).__mro__ for part in vars(kind).get("_holds", ())]
        needed += [] if self.inner is None else ["inner"]
        missing = [part for part in needed if part not in state]
        if missing:
            raise ArgumentError(
                f"this is not the state of such a {name}: it has no {', '.join(missing)}"
            )
        if self.inner is None and "inner" in state:
            raise ArgumentError(
                f"this is not the state of such a {name}: it is of one around another strategy"
            )
        for attribute in self._names_gathered():
            value, there = state[attribute.strip("_")], vars(self).get(attribute)
            _gathered.check(name, attribute, value, there)
        if self.inner is not None:
            self.inner._check_state(state["inner"])

    @classmethod
    def _names_gathered(cls) -> list[str]:
        """Return the names of the attributes that belong to the state, with those of all bases."""
        return [name for kind in cls.__mro__ for name in vars(kind).get("gathers", ())]


def _guide(cls: type[Strategy]) -> None:
    """Let the constructor of a class explain wrong arguments before Python does."""
    make: Any = vars(cls)["__init__"]

    @functools.wraps(make)
    def init(self: Strategy, *args: Any, **kwargs: Any) -> None:
        # The class may inherit this constructor; and `inner` may be a model, followed by optimizer
        # and loss, rather than a trainer.
        called(type(self).__name__, ARGUMENTS, _check_inner)(make)(self, *args, **kwargs)

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


def _check_task(task: Any) -> None:
    if not isinstance(task, Task):
        raise ArgumentError(
            f"a strategy learns a Task, as Task(x, y, x_test, y_test); got {type(task).__name__}"
        )


def _check_inner(inner: Any) -> None:
    if not isinstance(inner, Trainer | Strategy):
        raise ArgumentError(
            "inner must be a Trainer, which has model, loss and optimizer, or a Strategy; got "
            f"{inner!r}"
        )


def _check_steps(trainer: Trainer) -> None:
    """Refuse trainers that take no steps on batches, or miscount them over many short fits."""
    if isinstance(trainer.optimizer, FullBatchOptimizer):
        raise UnsupportedError(
            f"{type(trainer.optimizer).__name__} takes all data at once, but a strategy learns a"
            " task by steps on batches: take an optimizer that makes those, as optim.Adam"
        )
    schedule, why = trainer._schedule, None
    if isinstance(schedule, ReduceLROnPlateau):
        why = "waits for epochs of a fit"
    elif schedule is not None and schedule.per == "epoch":
        why = 'counts epochs of a fit (use per="step")'
    elif schedule is not None and schedule.is_open:
        why = "is as long as a fit (give it its length, in steps)"
    if why is not None:
        raise UnsupportedError(
            f"{schedule!r} {why}, but a strategy learns a task by many short fits"
        )


def largest(outputs: Any, classes: Sequence[int] | None) -> Any:
    """Return the index of each row's largest output, among `classes` if they are given."""
    if classes is None:
        return outputs.argmax(axis=1)
    places = np.asarray(classes)
    whole = places.ndim == 1 and places.dtype.kind in "iu" and places.size > 0
    if not whole or not 0 <= places.min() <= places.max() < outputs.shape[1]:
        raise ArgumentError(
            f"classes must name some of the outputs 0 to {outputs.shape[1] - 1}; got {classes!r}"
        )
    return places[outputs[:, places].argmax(axis=1)]


def mean_history(parts: list[tuple[int, History]]) -> History:
    """Merge several fits into one entry: means weighted by rows, and the sum of seconds."""
    rows = np.array([count for count, _ in parts], dtype=np.float64)
    history = History()
    for key in parts[0][1] if parts else ():
        values = np.array([one[key][-1] for _, one in parts])
        history[key] = [float(values.sum() if key == "seconds" else values @ rows / rows.sum())]
    return history


_guide(Strategy)  # subclasses get it from __init_subclass__
