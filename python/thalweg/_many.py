"""Training several models at once: ensembles, seeds, sweeps."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _checks, _core, _habits
from thalweg._arrays import Batches, Targets
from thalweg._config import get_num_threads
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg._trainer._fit import OF_FITS
from thalweg._trainer._hooked import HookedTrainer
from thalweg.callbacks import Callback, ModelCheckpoint, _watch
from thalweg.callbacks._base import AnyCallback
from thalweg.errors import ArgumentError, DivergedError, ShapeError

#: What becomes of the histories if a fit diverges.
Diverged: TypeAlias = Literal["raise", "keep"]

#: Arguments of other libraries' searches, and of their fit methods.
_OF_SWEEPS = {
    **OF_FITS,
    **dict.fromkeys(
        ("n_jobs", "num_workers", "max_workers", "n_workers", "num_threads", "n_threads", "threads",
         "processes", "nthreads"),
        "it is workers, how many fits run at the same time",
    ),
    **dict.fromkeys(
        ("lrs", "learning_rate", "learning_rates"),
        "each trainer's own optimizer has its rate, optim.AdamW(lr=rate)",
    ),
    "seeds": "each trainer's model has its seed, nn.Sequential(..., seed=seed)",
}  # fmt: skip


def train_many(
    trainers: Sequence[Trainer],
    x: npt.ArrayLike | Batches | list[Any],
    y: Targets | list[Any] | None,
    *,
    workers: int | None = None,
    callbacks: Callable[[Trainer], Sequence[AnyCallback]] | None = None,
    diverged: Diverged = "raise",
    **options: Any,
) -> list[History]:
    """Fit several trainers, each on a thread of its own, to the same data or to different data.

    Small networks gain little from several threads each; this keeps all CPUs busy with them. Every
    fit gives bit for bit the result it would give alone. Each has its share of the threads given by
    `get_num_threads`, which by default is one.

    Parameters
    ----------
    trainers : sequence of Trainer
        Each with its own model, for instance made with different seeds.
    x, y : array_like, or list with one entry per trainer
        As for `Trainer.fit`; they are shared, not copied. Batches, with None for `y`, come from a
        function, or from an iterable that several fits can go through at the same time. If both `x`
        and `y` are lists of arrays, whose rows are samples and targets, or `x` is a list of sources
        of batches and `y` is None, each trainer has its own data. Then a list as
        ``validation_data`` also has one entry per trainer; a single tuple of validation data is for
        all. ``sample_weight`` may be a list of arrays, one per trainer, with any arrays, and must
        be one if the data are lists.
    workers : int, keyword only, optional
        How many fits run at the same time; by default `get_num_threads`.
    callbacks : callable, keyword only, optional
        Returns the callbacks of a trainer, e.g. ``lambda trainer: [EarlyStopping(patience=5)]``.
        Each fit needs its own; they are called from its thread.
    diverged : {"raise", "keep"}, keyword only
        What to do if fits diverge, as some of a sweep may. The others finish in any case, and each
        that diverges is undone, as `Trainer.fit` undoes it. Then "raise" raises the error of the
        first one, and "keep" returns for each of them the history up to then, which is shorter, or
        empty: ``history.epochs`` is 0 if the first epoch diverged.
    **options
        Other arguments of `Trainer.fit`; ``epochs`` and ``batch_size`` may also be lists with one
        entry per trainer.

    Returns
    -------
    list of History
        In the order of `trainers`.

    Raises
    ------
    ArgumentError
        If something is not a trainer; if two trainers share a model, an optimizer, a callback or
        the path of a `callbacks.ModelCheckpoint`; if the data are an iterator, or lists differ in
        length from `trainers`; if `callbacks` returns something else; or if ``lr`` is a list.
        Nothing is trained then.
    ThalwegError
        If the data or options of a fit are invalid, with a note that says whose; nothing is trained
        then. Or the first error of a fit in progress: other fits end after their current batch, and
        what they have learned is kept.
    DivergedError
        If fits diverged, once all others are over; its ``index`` is the place of the first one in
        `trainers`, and a note names all.

    Notes
    -----
    After Ctrl-C, all fits end after their current batch, and only then is `KeyboardInterrupt`
    raised; what they have learned is kept. A list as ``epochs`` goes on from there, ``[10 -
    trainer.epochs for trainer in trainers]``; 0 is allowed. A schedule needs a length for that:
    without one, it starts anew in what is left.

    For a sweep over thousands of options, fit some hundred trainers at a time, and keep only each
    ``trainer.model``: a trainer also has the averages of its optimizer, and memory for its steps.

    Where the system allows fewer threads, there are fewer fits at a time; without any, the fits run
    one after another on the calling thread.

    Wide networks use all threads by themselves, so fit them one after another. Do the same with
    fits shorter than a millisecond or two, which end before another thread has begun.

    Trainers that are identical, including the seeds of their models (0 if not given), learn the
    same from the same data; this gives a warning.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> def make(seed):
    ...     model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1), seed=seed)
    ...     return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.01))
    >>> trainers = [make(seed) for seed in range(4)]
    >>> histories = tw.train_many(trainers, x, np.sin(3 * x), epochs=200)
    >>> spread = np.std([t.model(x) for t in trainers], axis=0)
    >>> spread.shape
    (64, 1)

    Train each trainer on its own half of the data:

    >>> halves = np.array_split(x, 2)
    >>> histories = tw.train_many(trainers[:2], halves, [np.sin(3 * half) for half in halves])
    """
    ours = [name for name in _habits.argument_names(train_many) if name != "options"]
    known = dict.fromkeys((*ours, *_habits.argument_names(Trainer.fit)))
    _habits.refuse_unknown("train_many", known, options, _OF_SWEEPS)
    trainers = _checks.sequence("trainers", trainers)
    if _is_list(options.get("lr")):
        raise ArgumentError(
            "lr is one rate for all fits; each trainer's own optimizer has its own rate, as in "
            f"tw.Trainer(..., optimizer=optim.AdamW(lr=rate)); got {_checks.short(options['lr'])}"
        )
    if callbacks is not None and not callable(callbacks):
        raise ArgumentError(
            "callbacks must be a function that returns a trainer's callbacks, since each fit "
            f"needs its own: lambda trainer: [...]; got {_checks.short(callbacks)}"
        )
    for index, trainer in enumerate(trainers):
        if not isinstance(trainer, Trainer):
            got = _checks.given(trainer)
            raise ArgumentError(f"trainers[{index}] must be a Trainer; got {got}")
    for what in ("model", "optimizer"):
        if len({id(getattr(trainer, what)) for trainer in trainers}) < len(trainers):
            raise ArgumentError(f"two of the trainers share their {what}; each needs its own")
    if workers is None:
        workers = get_num_threads()
    workers = _checks.integer("workers", workers, 1)
    _checks.one_of("diverged", diverged, get_args(Diverged))
    if not trainers:
        return []
    shared = {"x": x, "y": y, **options}
    each = _data_of_each(len(trainers), shared)
    for name in ("x", "validation_data"):
        sources = [given.get(name) for given in each]
        twice = len({id(source) for source in sources}) < len(sources)
        if twice and any(isinstance(source, Iterator) for source in sources):
            raise ArgumentError(
                f"{name} is an iterator, and each trainer would get only some of its batches: "
                "pass a function that returns a new iterator for each"
            )
    of = [_watch.check(callbacks(trainer)) if callbacks else () for trainer in trainers]
    # List each callback once per fit, although it may appear twice there.
    all_of = [callback for mine in of for callback in {id(c): c for c in mine}.values()]
    for index, callback in enumerate(all_of):
        if any(callback is other for other in all_of[:index]):
            raise ArgumentError(
                f"two of the fits share the callback {callback!r}; each needs its own: create a "
                "new one in each call of the function"
            )
    _refuse_shared_files(of)
    if all(given is each[0] for given in each):
        _warn_of_twins(trainers)
    try:
        _check_data(trainers, each, of)
    except ShapeError:
        if advice := _how_to_unstack(len(trainers), shared):
            raise ShapeError(advice) from None
        raise
    cancel = _watch.Cancel()
    told = vars(cancel)  # set without a call, where Ctrl-C could come in between
    workers = min(workers, len(trainers))
    # Otherwise, the fits would compete for CPUs.
    own = max(1, get_num_threads() // workers)
    todo = iter(list(enumerate(zip(trainers, each, of, strict=True))))
    running: set[int] = set()
    outcomes: dict[int, History | BaseException] = {}
    bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # rung by each thread that has finished

    def work() -> None:
        """Run fits that nothing else has begun, until one of them has an error."""
        for index, (trainer, given, mine) in todo:
            try:
                running.add(index)  # before looking at `cancel`: who sets it then looks here
                if not cancel.now:
                    outcomes[index] = trainer.fit(**{**given, "callbacks": (*mine, cancel)})
            except BaseException as error:
                outcomes[index] = error
                if not isinstance(error, DivergedError):
                    told["now"] = True
            finally:  # or the error, in its traceback, would keep data and itself alive
                del trainer, given, mine
                running.discard(index)

    def begin() -> None:
        """Work on a thread of its own."""
        _core.limit_own_threads(own)
        work()
        bell.put(None)

    # An executor would keep a daemon's process from ending. After Ctrl-C in `start` or `join`, it
    # is not known what became of a thread, so `running` decides: who begins later is cancelled.
    threads: list[threading.Thread] = []
    handled = sys.exception()
    try:
        for number in range(workers):
            thread = threading.Thread(target=begin, name=f"thalweg-fit_{number}", daemon=True)
            threads.append(thread)
            try:
                thread.start()
            except RuntimeError as error:
                if error.__context__ not in (None, handled):  # Ctrl-C, which made this one
                    raise error.__context__ from None
                break  # no other thread can be started: systems limit their number
        if not any(thread.is_alive() for thread in threads):
            work()
        while running or not (cancel.now or len(outcomes) == len(trainers)):
            _listen(bell)
    finally:  # only the calling thread receives Ctrl-C
        told["now"] = True
        while running:  # also after Ctrl-C again
            try:  # noqa: SIM105  # Ctrl-C could keep `suppress` from being entered
                _listen(bell)
            except BaseException:  # the first one is on its way
                pass
        for thread in threads:
            if thread.is_alive():
                thread.join()
    # Nothing but this list keeps errors, which know where they come from.
    found = [outcomes.pop(index, None) for index in range(len(trainers))]
    failed: dict[int, DivergedError] = {}
    for index, outcome in enumerate(found):
        if isinstance(outcome, DivergedError):
            failed[index] = outcome
        elif isinstance(outcome, BaseException):
            raise _noted(outcome, index)
    if failed and diverged == "raise":
        index, first = next(iter(failed.items()))
        first.index = index
        if len(failed) > 1:
            those = ", ".join(f"trainers[{k}]" for k in failed)
            first.add_note(f"{len(failed)} of the {len(found)} fits diverged, those of {those}.")
        raise _noted(first, index)
    return [
        outcome if isinstance(outcome, History) else trainer.history
        for trainer, outcome in zip(trainers, found, strict=True)
    ]


def _listen(bell: queue.SimpleQueue[None]) -> None:
    """Wait until the bell rings, or for a moment.

    A signal handler that restarts system calls, such as that of Polars, would keep Ctrl-C waiting
    until the bell rings.
    """
    with contextlib.suppress(queue.Empty):
        bell.get(timeout=0.1)


def _noted(error: BaseException, index: int) -> BaseException:
    """Let an error say whose it is."""
    error.add_note(f"This happened in the fit of trainers[{index}].")
    return error


def _refuse_shared_files(of: list[tuple[AnyCallback, ...]]) -> None:
    """Raise if a fit would replace the files of another."""
    owner: dict[str, int] = {}
    for index, mine in enumerate(of):
        for callback in mine:
            if isinstance(callback, ModelCheckpoint):
                path = os.path.realpath(callback.path)
                if (other := owner.setdefault(path, index)) != index:
                    raise ArgumentError(
                        f"the fits of trainers[{other}] and trainers[{index}] would replace each "
                        f"other's file, {callback.path!r}; each needs its own, for instance "
                        'lambda t: [ModelCheckpoint(f"best-{trainers.index(t)}.safetensors")]'
                    )


class _Checked(Exception):
    """Ends a fit before it begins."""


class _Stop(Callback):
    """Lets a fit check everything, and do nothing."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        raise _Checked


def _check_data(
    trainers: Sequence[Trainer],
    each: list[dict[str, Any]],
    callbacks: list[tuple[AnyCallback, ...]],
) -> None:
    """Raise what any of the fits would raise before its first step."""
    seen = set()
    for index, (trainer, given, mine) in enumerate(zip(trainers, each, callbacks, strict=True)):
        model, rate = trainer.model, given.get("lr")
        parts = model.layers, model.dtype, trainer.loss, mine, _of_schedule(trainer)
        kind = id(given), type(trainer.optimizer), repr(parts)
        if kind in seen:  # as in an ensemble or a sweep on the same data
            continue
        seen.add(kind)
        try:
            with warnings.catch_warnings():  # they come again
                warnings.simplefilter("ignore")
                trainer.fit(
                    **{
                        **given,
                        "lr": None if isinstance(rate, str) else rate,  # "auto" would train
                        "callbacks": (_Stop(), *mine),
                        "progress": False,
                    }
                )
        except _Checked:
            pass
        except Exception as error:
            raise _noted(error, index) from None


def _of_schedule(trainer: Trainer) -> Any:
    """Return what decides whether a schedule has rates for a fit: also when and how it begins."""
    if trainer.schedule is None:
        return None
    begin = trainer.optimizer.steps, trainer.epochs, trainer._base_lr
    return trainer.schedule, trainer._accumulate, begin


def _warn_of_twins(trainers: tuple[Trainer, ...]) -> None:
    """Warn if two fits to the same data are identical."""
    from thalweg._warn import warn  # rarely needed

    seen: dict[str, list[int]] = {}
    for index, trainer in enumerate(trainers):
        if trainer._penalties.terms or isinstance(trainer._core, HookedTrainer):
            continue  # these are not shown
        like = seen.setdefault(repr(trainer), [])
        for other in like:
            theirs, parameters = (
                trainers[other].model.flat_parameters,
                trainer.model.flat_parameters,
            )
            if np.array_equal(theirs, parameters):
                warn(
                    f"trainers[{other}] and trainers[{index}] will train identically: they have "
                    f"the same settings and parameters, and the seed {trainer.model.seed}; give "
                    "each model its own seed, nn.Sequential(..., seed=...)"
                )
                return
        like.append(index)


def _data_of_each(trainers: int, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of each fit, where lists have one entry per fit."""
    x, y, weight = shared["x"], shared["y"], shared.get("sample_weight")
    own: dict[str, Any] = {}
    if _is_of_arrays(x, 2) and _is_of_arrays(y, 1):
        own = {"x": x, "y": y}
    elif y is None and _is_of_sources(x):
        own = {"x": x}
    if own and isinstance(shared.get("validation_data"), list):
        own["validation_data"] = shared["validation_data"]
    if weight is not None and ("y" in own or _is_of_arrays(weight, 1)):
        own["sample_weight"] = weight
    for name in ("epochs", "batch_size"):
        values: Any = shared.get(name)
        if _is_list(values):
            own[name] = list(values)
    for name, values in own.items():
        if not isinstance(values, list):
            way = f"list({name})" if len(_shape(values)) > 1 else f"[{name}] * {trainers}"
            raise ArgumentError(
                f"x and y are lists with one entry for each trainer, so {name} must be a list of "
                f"{trainers}, {way}; got {type(values)!r}"
            )
        if len(values) != trainers:
            raise ArgumentError(
                f"a list has one entry for each trainer, so {name} must be a list of {trainers}; "
                f"got {len(values)}"
            )
    if not own:
        return [shared] * trainers
    made: dict[tuple[int | str, ...], dict[str, Any]] = {}  # one for all that have the same
    each = [dict(zip(own, mine, strict=True)) for mine in zip(*own.values(), strict=True)]
    # Equal numbers are the same, but data only if they are the same object.
    by = {"epochs": repr, "batch_size": repr}
    return [
        made.setdefault(tuple(by.get(name, id)(mine[name]) for name in own), shared | mine)
        for mine in each
    ]


def _how_to_unstack(trainers: int, shared: dict[str, Any]) -> str:
    """Say how to pass data that seem to be stacked, as for `jax.vmap`; "" if they are not."""
    names = [name for name in ("x", "y", "sample_weight") if shared.get(name) is not None]
    shapes = {name: _shape(shared[name]) for name in names}
    x = shapes.get("x", ())
    if len(x) < 2:
        return ""
    rows = x[1] if len(x) > 2 and x[0] == trainers else x[0]
    stacked = [
        name
        for name, shape in shapes.items()
        if shape[:2] == (trainers, rows) and len(shape) > (2 if name == "x" else 1)
    ]
    if not stacked or any(shapes[n][:1] != (rows,) for n in names if n not in stacked):
        return ""
    ways = {
        name: f"list({name})" if name in stacked else f"[{name}] * {trainers}"
        for name in (names if stacked != ["sample_weight"] else stacked)
        if not _is_of_arrays(shared[name], 1)
    }
    return bool(ways) * (
        "data of each trainer come in lists with one entry for each: pass "
        + ", ".join(f"{name}={way}" for name, way in ways.items())
        + "; got "
        + ", ".join(f"{name} of shape {shapes[name]}" for name in ways)
    )


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of an array, or of a list or tuple of arrays like the first."""
    value = list(value) if isinstance(value, tuple) else value
    if _is_of_arrays(value, 1):
        return (len(value), *np.shape(value[0]))
    return tuple(getattr(value, "shape", ()))


def _is_list(value: Any) -> bool:
    """Return whether `value` is several numbers."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _is_of_sources(value: Any) -> bool:
    """Return whether `value` is a list of sources of batches."""
    from thalweg._trainer._evaluation import is_source  # most data are arrays

    return isinstance(value, list) and len(value) > 0 and all(map(is_source, value))


def _is_of_arrays(value: Any, least: int) -> bool:
    """Return whether `value` is a list of arrays of `least` or more dimensions, or of dicts."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(item, Mapping) or (hasattr(item, "__array__") and np.ndim(item) >= least)
            for item in value
        )
    )
