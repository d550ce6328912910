"""The form of every strategy."""

import copy
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import _checks, _core
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.continual import _batches, _joins
from thalweg.continual._elsewhere import ARGUMENTS, ELSEWHERE, OF_FITS, called, no_attribute
from thalweg.continual._task import Task, check_rows, not_begun
from thalweg.errors import ArgumentError, ThalwegError, UnsupportedError
from thalweg.nn import BCEWithLogitsLoss, Sequential
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim.schedules import ReduceLROnPlateau

#: Where a copy on its way has what `Strategy.state_dict` gave.
_GATHERED = "state_dict()"


class Strategy:
    """A way of learning tasks one after another; by itself it does nothing against forgetting.

    Strategies are wrapped around a trainer, or around each other: ``EWC(Replay(trainer, 200), 1)``.
    A new one overrides `begin`, `learn` or `end`, and calls ``super()`` in it, which asks the inner
    one. A task is learned by one `begin`, any number of `learn`, each of which takes some steps,
    and one `end`. What `state_dict` gives is all that the next call depends on, wherever in a task
    that is: a strategy that has loaded it goes on with `learn`, without another `begin`. A new one
    names the attributes that hold what it gathers in `gathers`, and they are part of that.

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
    gathers : tuple of str
        Of the class: attributes of arrays and plain data that belong to its state, besides those of
        its bases.

    Raises
    ------
    ArgumentError
        If `inner` is neither.
    UnsupportedError
        If the trainer's schedule counts epochs, or is as long as a fit: a task is learned by many
        short fits. If its optimizer takes all data at once.
    """

    gathers: tuple[str, ...] = ("_ended", "_begun")
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
        self._ended = 0  # tasks
        self._begun = False  # whether a task is being learned
        # Whether samples of earlier tasks are learned again, by any strategy of the chain.
        self._rehearses: bool = self.inner is not None and self.inner._rehearses
        if self.inner is None:
            _check_steps(self.trainer)

    def _rehearse(self) -> None:
        """Say, also to the strategies inside, that earlier samples are learned again."""
        link: Strategy | None = self
        while link is not None:
            link._rehearses = True
            link = link.inner

    if not TYPE_CHECKING:  # type checkers would take every name for one that is there

        def __getattr__(self, name: str) -> Any:
            """Say where it is."""
            raise no_attribute(self, name, ELSEWHERE)

    def begin(self, task: Task) -> None:
        """Get ready for a task; which classes compete in the loss is set, too."""
        self._admit(task)
        if self.inner is not None:
            self.inner.begin(task)
        self._begun = True

    def _admit(self, task: Task) -> None:
        """Let the classes of a task compete, or refuse it before anything is changed for it."""
        _check_task(task)
        self._check(task)
        check_rows(task, task.index)
        trainer: Any = self.trainer
        before = trainer.loss
        try:
            if task.active is not None and hasattr(before, "active"):
                trainer.loss = dataclasses.replace(before, active=task.active)
            # A fit that is made, and not run, looks at all rows.
            x, y, weight = trainer._ready(task.x, task.y, task.sample_weight)
            trainer._arrays_fit(x, y, weight, None, None, None, 1, len(x), False)
        except ThalwegError:
            trainer.loss = before
            raise

    def _check(self, task: Task) -> None:
        """Refuse a task that this strategy, or one inside, cannot learn."""
        if task.sample_weight is not None and "plain rows" in self._does:
            raise UnsupportedError(f"{type(self).__name__} does not take tasks with sample_weight")
        if self.inner is not None:
            self.inner._check(task)

    def _check_begun(self, task: Task, what: str) -> None:
        """Refuse what follows from the beginning of a task, if there was none."""
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
        _check_task(task)
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
        """Take some steps, by arguments that `learn` has looked at; ours override this."""
        options: dict[str, Any] = {
            "steps": steps,
            "start": start,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "drop_last": drop_last,
        }
        if self.inner is not None:
            return self.inner.learn(task, **options)
        fixed = task.with_data(np.asarray(task.x), np.asarray(task.y), task.sample_weight)
        return mean_history(list(self._parts(fixed, **options)))

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
        _check_task(task)
        if self.inner is not None:
            self.inner.end(task)
        self._ended, self._begun = self._ended + 1, False

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
        count = _checks.integer("epochs", epochs, 1) if steps is None else 1
        steps = per_pass if steps is None else _checks.integer("steps", steps, 1)
        # As long as somebody has them, samples that are made on demand are not made again.
        _held = task.x
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
        return self._judge(self.network(task), x, classes)

    def _judge(self, network: Sequential, x: Any, classes: Sequence[int] | None) -> Any:
        """Give the class of each sample by a network, as the strategies inside have it."""
        if self.inner is not None:
            return self.inner._judge(network, x, classes)
        outputs = network(x)
        if outputs.shape[1] == 1 and isinstance(self.trainer.loss, BCEWithLogitsLoss):
            return (outputs[:, 0] > 0).astype(np.int64)
        return largest(outputs, classes)

    def __getstate__(self) -> dict[str, Any]:
        # Some of what was gathered is in the core's trainer, which copies and pickles leave out.
        gathered = set(self._gathered())
        others = {name: value for name, value in vars(self).items() if name not in gathered}
        return {**others, _GATHERED: self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        gathered = state.pop(_GATHERED)
        vars(self).update(state)
        self.load_state_dict(gathered)

    def state_dict(self) -> dict[str, Any]:
        """Give what this strategy has gathered (not the trainer's), as arrays and plain data.

        All of it is copied, here and by `load_state_dict`.
        """
        state = {name.strip("_"): copy.deepcopy(getattr(self, name)) for name in self._gathered()}
        return state if self.inner is None else {**state, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        needed = [name.strip("_") for name in self._gathered()]
        needed += [] if self.inner is None else ["inner"]
        missing = [name for name in needed if name not in state]
        if missing:
            raise ArgumentError(
                f"this is not the state of such a {type(self).__name__}: it has no"
                f" {', '.join(missing)}"
            )
        for name in self._gathered():
            setattr(self, name, copy.deepcopy(state[name.strip("_")]))
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])

    @classmethod
    def _gathered(cls) -> list[str]:
        """Give the names of the attributes that belong to the state, with those of all bases."""
        return [name for kind in cls.__mro__ for name in vars(kind).get("gathers", ())]


def _guide(cls: type[Strategy]) -> None:
    """Let the maker of a class say what is wrong with its arguments before Python does."""
    make: Any = vars(cls)["__init__"]

    @functools.wraps(make)
    def init(self: Strategy, *args: Any, **kwargs: Any) -> None:
        # The class may be one that inherits this; `inner` may be one of a model, an optimizer and
        # a loss.
        called(type(self).__name__, ARGUMENTS, _check_inner)(make)(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[method-assign]


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
    """Refuse what takes no steps on batches, or would count them wrongly over many short fits."""
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
    """Give the places of the largest outputs, among some if `classes` are given."""
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
    """Give one entry from several fits: means by their rows, and the sum of seconds."""
    rows = np.array([count for count, _ in parts], dtype=np.float64)
    history = History()
    for key in parts[0][1] if parts else ():
        values = np.array([one[key][-1] for _, one in parts])
        history[key] = [float(values.sum() if key == "seconds" else values @ rows / rows.sum())]
    return history


_guide(Strategy)  # subclasses come to it by themselves
