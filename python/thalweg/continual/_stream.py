"""Streams of samples that do not tell where one task ends and the next begins."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from thalweg import _checks
from thalweg._habits import takes
from thalweg.continual._task import Scenario
from thalweg.errors import ArgumentError

#: Rows that are gathered at once.
_BLOCK = 4096


@takes("continual.stream", {})
def stream(
    scenario: Scenario, *, batch_size: int = 1, fuzziness: float = 0, seed: int = 0
) -> Iterator[tuple[Any, Any]]:
    r"""Yield the samples of a scenario one after another, each once, without its tasks.

    Parameters
    ----------
    scenario : Scenario
        Its tasks follow each other, each in a random order.
    batch_size : int, keyword only, default 1
        Samples per batch; the last batch may have fewer.
    fuzziness : float, keyword only, default 0
        Over how many samples one task blends into the next: sample `i` of the concatenated tasks
        is moved to :math:`i + f u`, with `u` uniform in [-1/2, 1/2], and all are sorted by that
        position. The share of the next task therefore rises linearly, over `fuzziness` samples if
        tasks are longer than that.
    seed : int, keyword only, default 0
        Seed of the orders.

    Yields
    ------
    x, y : ndarray, shapes (batch_size, in_features) and (batch_size,) or (batch_size, k)
        Batches for `Trainer.step`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Notes
    -----
    Samples and targets have dtypes that can hold those of all tasks. Use samples of the model's
    dtype, so that a step reads them in place.

    Examples
    --------
    Each sample is first predicted and then learned, once:

    >>> import numpy as np, thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 4)).astype(np.float32)
    >>> drifting = continual.from_arrays([(x, x @ [1, 2, 3, 4]), (x, x @ [4, 3, 2, 1])])
    >>> trainer = tw.Trainer(
    ...     nn.Sequential(nn.Linear(4, 1)), loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05)
    ... )
    >>> losses = [trainer.step(x, y) for x, y in continual.stream(drifting, fuzziness=200)]
    >>> len(losses), bool(np.mean(losses[-100:]) < 0.01 * np.mean(losses[:100]))
    (2000, True)
    """
    if not isinstance(scenario, Scenario):
        raise ArgumentError(f"scenario must be a Scenario; got {type(scenario).__name__}")
    batch_size = _checks.integer("batch_size", batch_size, 1)
    fuzziness = _checks.real("fuzziness", fuzziness, 0)
    generator = np.random.default_rng(_checks.integer("seed", seed, 0))
    return _chunks(scenario, batch_size, *_order(scenario, fuzziness, generator))


def _order(scenario: Scenario, fuzziness: float, generator: np.random.Generator) -> Any:
    """Return the task and the row of every sample, in the order of the stream."""
    sizes = [len(task.y) for task in scenario]
    tasks = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.concatenate([generator.permutation(size) for size in sizes])
    places = np.arange(len(rows)) + fuzziness * generator.uniform(-0.5, 0.5, len(rows))
    order = np.argsort(places, kind="stable")
    return tasks[order], rows[order]


def _chunks(
    scenario: Scenario, batch_size: int, tasks: Any, rows: Any
) -> Iterator[tuple[Any, Any]]:
    """Gather blocks of samples and cut them into batches."""
    x_type = np.result_type(*(task._row() for task in scenario))
    y_type = np.result_type(*(np.asarray(task.y) for task in scenario))
    last = {index: int(np.flatnonzero(tasks == index)[-1]) for index in range(len(scenario))}
    data: dict[int, tuple[Any, Any]] = {}
    block = max(_BLOCK // batch_size, 1) * batch_size
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        mine = tasks[start:stop]
        x: Any = None
        y: Any = None
        for index in np.unique(mine).tolist():
            if index not in data:  # samples of a task may be made on demand
                data[index] = np.asarray(scenario[index].x), np.asarray(scenario[index].y)
            samples, targets = data[index]
            if x is None:
                x = np.empty((len(mine), samples.shape[1]), x_type)
                y = np.empty((len(mine), *targets.shape[1:]), y_type)
            here = mine == index
            x[here] = samples[rows[start:stop][here]]
            y[here] = targets[rows[start:stop][here]]
        for first in range(0, len(mine), batch_size):
            yield x[first : first + batch_size], y[first : first + batch_size]
        data = {index: pair for index, pair in data.items() if last[index] >= stop}
