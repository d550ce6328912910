"""Several trainings at once: ensembles, seeds, sweeps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import _checks, _core
from thalweg import callbacks as _callbacks
from thalweg._config import get_num_threads
from thalweg._history import History
from thalweg._trainer import Trainer
from thalweg.callbacks import Callback
from thalweg.errors import ArgumentError

if TYPE_CHECKING:
    from thalweg.callbacks import AnyCallback


def train_many(
    trainers: Sequence[Trainer],
    x: Any,
    y: Any,
    *,
    workers: int | None = None,
    callbacks: "Callable[[Trainer], Sequence[AnyCallback]] | None" = None,
    **options: Any,
) -> list[History]:
    """Fit several trainers, to the same data or each to its own, each on a thread of its own.

    Small networks gain little from several threads each; this is how to keep all CPUs busy with
    them. Every fit is, to the last bit, what it would have been alone. It has its share of the
    threads that `get_num_threads` says, which is one by default.

    Parameters
    ----------
    trainers : sequence of Trainer
        With models of their own, made with different seeds, for instance.
    x, y : array_like, or list of arrays
        As for `Trainer.fit`; they are shared, not copied. Batches, with None for `y`, come from a
        function, or from an iterable that several fits can go through at a time. If both are lists
        of arrays with rows of samples and of targets, one for each trainer, then each has its own
        data; and of its own are then ``sample_weight``, a list of arrays too, and
        ``validation_data``, if it is a list of tuples. A tuple of validation data is for all.
    workers : int, keyword only, optional
        How many fits run at a time; by default as many as `get_num_threads` says.
    callbacks : callable, keyword only, optional
        Gives the callbacks of a trainer, e.g. ``lambda trainer: [EarlyStopping(patience=5)]``: each
        fit needs its own, which are called from its thread.
    **options
        Other arguments of `Trainer.fit`.

    Returns
    -------
    list of History
        In the order of the trainers.

    Raises
    ------
    ArgumentError
        If something is no trainer, or two of them share a model, an optimizer or a callback, or
        data are an iterator, or such of their own are not as many as the trainers, or `callbacks`
        gives something else. Nothing is trained then.
    ThalwegError
        The first error of a fit, with a note of whose it was. Other fits end after their current
        epoch; what they have learned stays.

    Notes
    -----
    Wide networks use all threads by themselves: fit those one after another. So do with fits of
    less than a millisecond or two, which are over before another thread has begun.

    Trainers that differ in nothing, the seeds of their models included (which are 0 if they were
    left out), learn the same from the same data: that is a warning.

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

    Each half of the data for a trainer of its own:

    >>> halves = np.array_split(x, 2)
    >>> histories = tw.train_many(trainers[:2], halves, [np.sin(3 * half) for half in halves])
    """
    trainers = _checks.sequence("trainers", trainers)
    if callbacks is not None and not callable(callbacks):
        raise ArgumentError(
            "callbacks must be a function that gives a trainer's callbacks, since each fit needs "
            f"its own: lambda trainer: [...]; got {callbacks!r}"
        )
    for index, trainer in enumerate(trainers):
        if not isinstance(trainer, Trainer):
            raise ArgumentError(f"trainers[{index}] must be a Trainer; got {trainer!r}")
    for what in ("model", "optimizer"):
        if len({id(getattr(trainer, what)) for trainer in trainers}) < len(trainers):
            raise ArgumentError(f"two of the trainers share their {what}; each needs its own")
    if workers is None:
        workers = get_num_threads()
    workers = _checks.integer("workers", workers, 1)
    if not trainers:
        return []
    each = _data_of_each(len(trainers), {"x": x, "y": y, **options})
    cancel = _Cancel()
    for name in ("x", "validation_data"):
        sources = [given.get(name) for given in each]
        shared = len({id(source) for source in sources}) < len(sources)
        if shared and any(isinstance(source, Iterator) for source in sources):
            raise ArgumentError(
                f"{name} is an iterator, of which each trainer would get some batches only: pass a "
                "function that makes a new one for each"
            )
    of = [_callbacks.check(callbacks(trainer)) if callbacks else () for trainer in trainers]
    # Each only once per fit, where it may stand twice.
    all_of = [callback for mine in of for callback in {id(c): c for c in mine}.values()]
    for index, callback in enumerate(all_of):
        if any(callback is other for other in all_of[:index]):
            raise ArgumentError(
                f"two of the fits share the callback {callback!r}; each needs its own: let the "
                "function make one in each call"
            )
    if all(given is each[0] for given in each):
        _warn_of_twins(trainers)
    workers = min(workers, len(trainers))
    # They would take CPUs from each other.
    own = max(1, get_num_threads() // workers)
    with ThreadPoolExecutor(workers, "thalweg-fit", _core.limit_own_threads, (own,)) as pool:
        fits = [
            pool.submit(cancel.guard, trainer, {**given, "callbacks": (*mine, cancel)})
            for trainer, given, mine in zip(trainers, each, of, strict=True)
        ]
        try:
            wait(fits, return_when=FIRST_EXCEPTION)
        finally:  # Ctrl-C comes to this thread only
            cancel.now = any(not fit.done() for fit in fits)
            for fit in fits:
                fit.cancel()
    for index, fit in enumerate(fits):
        if not fit.cancelled() and (error := fit.exception()) is not None:
            error.add_note(f"This was in the fit of trainers[{index}].")
            raise error
    return [fit.result() for fit in fits]


def _warn_of_twins(trainers: tuple[Trainer, ...]) -> None:
    """Warn if two fits to the same data are the same."""
    from thalweg._warn import warn  # few have reason to

    seen: dict[str, list[int]] = {}
    for index, trainer in enumerate(trainers):
        like = seen.setdefault(repr(trainer), [])
        for other in like:
            theirs, parameters = (
                trainers[other].model.flat_parameters,
                trainer.model.flat_parameters,
            )
            if np.array_equal(theirs, parameters):
                warn(
                    f"trainers[{other}] and trainers[{index}] will learn the same: they are alike, "
                    f"and their models have the seed {trainer.model.seed}; give each model a seed "
                    "of its own, nn.Sequential(..., seed=...)"
                )
                return
        like.append(index)


def _data_of_each(trainers: int, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the arguments of each fit, where lists of data have one for each."""
    x, y = shared["x"], shared["y"]
    if not (_is_of_arrays(x, 2) and _is_of_arrays(y, 1)):
        return [shared] * trainers
    own = {"x": x, "y": y}
    if (weight := shared.get("sample_weight")) is not None:
        own["sample_weight"] = weight
    if isinstance(shared.get("validation_data"), list):
        own["validation_data"] = shared["validation_data"]
    for name, values in own.items():
        if not isinstance(values, list) or len(values) != trainers:
            got = f"{len(values)}" if isinstance(values, list) else repr(type(values))
            raise ArgumentError(
                f"x and y are lists of arrays, one for each trainer, and so {name} must be a list "
                f"of {trainers}; got {got}"
            )
    return [shared | {name: own[name][i] for name in own} for i in range(trainers)]


def _is_of_arrays(value: Any, least: int) -> bool:
    """Whether `value` is a list of arrays of so many dimensions or more, or of dicts of arrays."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(item, Mapping) or (hasattr(item, "__array__") and np.ndim(item) >= least)
            for item in value
        )
    )


class _Cancel(Callback):
    """Ends all fits at their next epoch."""

    def __init__(self) -> None:
        self.now = False

    def guard(self, trainer: Trainer, arguments: dict[str, Any]) -> History:
        return History() if self.now else trainer.fit(**arguments)

    def on_epoch_end(self, trainer: Trainer, record: dict[str, float]) -> bool:
        return self.now
