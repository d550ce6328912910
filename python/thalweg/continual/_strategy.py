"""The form of every strategy."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import _checks, _core
from thalweg._habits import advice, argument_names, refuse_unknown
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _joins
from thalweg.continual._elsewhere import ARGUMENTS, ELSEWHERE
from thalweg.continual._task import Task, check_rows
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import BCEWithLogitsLoss, Sequential
from thalweg.optim.schedules import ReduceLROnPlateau

#: Where a copy on its way has what `Strategy.state_dict` gave.
_GATHERED = "state_dict()"


class Strategy:
    """A way of learning tasks one after another; by itself it does nothing against forgetting.

    Strategies are wrapped around a trainer, or around each other: ``EWC(Replay(trainer, 200), 1)``.
    A new one overrides `begin`, `learn` or `end`, and calls ``super()`` in it, which asks the inner
    one. A task is learned by one `begin`, any number of `learn`, each of which takes some steps,
    and one `end`. What `state_dict` gives is all that the next call depends on, wherever in a task
    that is: a strategy that has loaded it goes on with `learn`, without another `begin`.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.

    Attributes
    ----------
    trainer : Trainer
        The innermost trainer.
    needs_task : bool
        Whether it must be told which task a sample is from, also when that is judged.

    Raises
    ------
    ArgumentError
        If `inner` is neither.
    UnsupportedError
        If the trainer's schedule counts epochs, or is as long as a fit: a task is learned by many
        short fits.
    """

    #: Whether another network than the one that has learned a task is there after its end.
    _opens = False
    #: What it does that others may not bear: see `_joins`.
    _does: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the makers of ours say what other libraries' arguments become here."""
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and cls.__module__.startswith("thalweg."):
            _guide(cls)

    def __init__(self, inner: "Trainer | Strategy") -> None:
        _check_inner(inner)
        self.inner: Strategy | None = inner if isinstance(inner, Strategy) else None
        self.trainer: Trainer = inner.trainer if isinstance(inner, Strategy) else inner
        self.needs_task: bool = self.inner is not None and self.inner.needs_task
        _joins.check(self)
        # Whether samples of earlier tasks are learned again, by any strategy of the chain.
        self._ended = 0  # tasks
        self._rehearses: bool = self.inner is not None and self.inner._rehearses
        if self.inner is None:
            _check_schedule(self.trainer)

    def _rehearse(self) -> None:
        """Say, also to the strategies inside, that earlier samples are learned again."""
        link: Strategy | None = self
        while link is not None:
            link._rehearses = True
            link = link.inner

    if not TYPE_CHECKING:  # type checkers would take every name for one that is there

        def __getattr__(self, name: str) -> Any:
            """Say where it is."""
            more = ""
            if not name.startswith("_"):  # as the names that Python's protocols look for
                there = [known for known in dir(type(self)) if not known.startswith("_")]
                more = advice(name, ELSEWHERE, there)
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}{more}", name=name, obj=self
            )

    def begin(self, task: Task) -> None:
        """Get ready for a task; the innermost sets which classes compete in the loss."""
        if self.inner is not None:
            self.inner.begin(task)
        elif task.active is not None and hasattr(self.trainer.loss, "active"):
            trainer: Any = self.trainer
            trainer.loss = dataclasses.replace(trainer.loss, active=task.active)

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
        """Take some steps on a task.

        Parameters
        ----------
        task : Task
            The task, or another one with its index: `Task.with_data`.
        steps : int, keyword only
            How many.
        start : int, keyword only, default 0
            How many have been taken on this task before; which rows come next follows from it.
        batch_size : int, keyword only, default 32
            Rows of a step.
        shuffle : bool, keyword only, default True
            Whether every pass over the rows has a random order.
        drop_last : bool, keyword only, default False
            Whether a last batch of a pass that would be short is left out.

        Returns
        -------
        History
            One entry for these steps.
        """
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "drop_last": drop_last,
        }
        if self.inner is not None:
            return self.inner.learn(task, steps=steps, start=start, **options)
        fixed = task.with_data(np.asarray(task.x), np.asarray(task.y), task.sample_weight)
        return mean_history(list(self._parts(fixed, steps=steps, start=start, **options)))

    def _parts(
        self, task: Task, *, steps: int, start: int, batch_size: int, shuffle: bool, drop_last: bool
    ) -> Iterator[tuple[int, History]]:
        """Train, and give rows and history of each call of the core."""
        trainer, rows = self.trainer, len(task.x)
        batches = _batches.per_pass(rows, batch_size, drop_last)
        # A pass over all rows is a fit of the trainer's own, which gathers them batch by batch.
        # What begins or ends within one, or leaves rows out, is gathered here.
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
        """Take to heart what must not be forgotten of a task that was learned."""
        self._ended += 1
        if self.inner is not None:
            self.inner.end(task)

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
        if not isinstance(task, Task):
            raise ArgumentError(
                "a strategy learns a Task, as Task(x, y, x_test, y_test); got "
                f"{type(task).__name__}"
            )
        check_rows(task, task.index)
        batch_size = _checks.integer("batch_size", batch_size, 1)
        per_pass = _batches.per_pass(len(task.y), batch_size, drop_last)
        count = _checks.integer("epochs", epochs, 1) if steps is None else 1
        steps = per_pass if steps is None else _checks.integer("steps", steps, 1)
        self.begin(task)
        history = History()
        for number in range(count):
            part = self.learn(
                task,
                steps=steps,
                start=number * steps,
                batch_size=batch_size,
                drop_last=drop_last,
            )
            history.append({key: values[-1] for key, values in part.items()})
        self.end(task)
        return history

    def step(self, x: Any, y: Any) -> float:
        """Take a step on a batch of a stream, which belongs to no task.

        Parameters
        ----------
        x, y : array_like
            As in `Trainer.step`.

        Returns
        -------
        float
            The loss of the batch before the step.
        """
        return (self.trainer if self.inner is None else self.inner).step(x, y)

    def _no_step(self, why: str) -> UnsupportedError:
        """Say that there is no step of a stream, rather than to forget what was gathered."""
        return UnsupportedError(
            f"{type(self).__name__} cannot take a step of a stream here: {why}; use fit, or begin,"
            " learn and end, with a Task"
        )

    def network(self, task: int | None = None) -> Sequential:
        """Give the network that samples are judged by.

        Parameters
        ----------
        task : int, optional
            The index of the task that they are from, for strategies that have a part of the network
            for each; others give the trainer's model whatever it is.

        Returns
        -------
        Sequential
            Not to be trained.
        """
        return self.trainer.model if self.inner is None else self.inner.network(task)

    def predict(
        self, x: Any, classes: Sequence[int] | None = None, *, task: int | None = None
    ) -> Any:
        """Give the class of each sample.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            The samples.
        classes : sequence of int, optional
            The classes that compete; all by default.
        task : int, keyword only, optional
            The index of the task that the samples are from, if that is known; see `network`.

        Returns
        -------
        ndarray of int, shape (n,)
            The place of the largest output, the first of equal ones. Of a single output of
            `nn.BCEWithLogitsLoss`, 1 where it is above 0.
        """
        if self.inner is not None:
            return self.inner.predict(x, classes, task=task)
        return self._decide(self.network(task)(x), classes)

    def _decide(self, outputs: Any, classes: Sequence[int] | None) -> Any:
        """Give the class that the outputs of each sample speak for."""
        if outputs.shape[1] == 1 and isinstance(self.trainer.loss, BCEWithLogitsLoss):
            return (outputs[:, 0] > 0).astype(np.int64)
        return largest(outputs, classes)

    def __getstate__(self) -> dict[str, Any]:
        # Some of what was gathered is in the core's trainer, which copies and pickles leave out.
        return {**vars(self), _GATHERED: self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        gathered = state.pop(_GATHERED)
        vars(self).update(state)
        self.load_state_dict(gathered)

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered (not the trainer's), as arrays and plain data."""
        return {} if self.inner is None else {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])


def _guide(cls: type[Strategy]) -> None:
    """Let the maker of a class say what is wrong with its arguments before Python does."""
    make: Any = vars(cls)["__init__"]
    known = argument_names(make)

    @functools.wraps(make)
    def init(self: Strategy, *args: Any, **kwargs: Any) -> None:
        refuse_unknown(type(self).__name__, known, kwargs, ARGUMENTS)
        if args:
            _check_inner(args[0])  # it may be one of a model, an optimizer and a loss
        make(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[method-assign]


def _check_inner(inner: Any) -> None:
    if not isinstance(inner, Trainer | Strategy):
        raise ArgumentError(
            "inner must be a Trainer, which has model, loss and optimizer, or a Strategy; got "
            f"{inner!r}"
        )


def _check_schedule(trainer: Trainer) -> None:
    """Refuse what a task that is learned by many short fits would count wrongly."""
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
    """Give the places of the largest outputs, among some if `classes` are given."""
    if classes is None:
        return outputs.argmax(axis=1)
    places = np.asarray(classes)
    if not places.size or not 0 <= places.min() <= places.max() < outputs.shape[1]:
        raise ArgumentError(
            f"classes must name some of the outputs 0 to {outputs.shape[1] - 1}; got {classes!r}"
        )
    return places[outputs[:, places].argmax(axis=1)]


def mean_history(parts: list[tuple[int, History]]) -> History:
    """Give one entry from several fits: means by their rows, and the sum of seconds."""
    rows = np.array([count for count, _ in parts], dtype=np.float64)
    history = History()
    for key in parts[0][1] if parts else ():
        values = np.array([one[key][-1] for _, one in parts])
        history[key] = [float(values.sum() if key == "seconds" else values @ rows / rows.sum())]
    return history


_guide(Strategy)  # subclasses come to it by themselves
