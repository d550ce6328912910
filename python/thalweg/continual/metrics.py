r"""Measures of how well a sequence of tasks was learned, each by a named definition.

Most take the matrix `R` of T rows and T columns, where `R[i, j]` is the accuracy (or any score for
which higher is better) on task `j` after task `i` was learned. Libraries disagree about what they
call backward transfer and forgetting, so figures are comparable only under the same definition.
In formulas, tasks count from 1, as in the papers, and the last is T.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._habits import takes
from thalweg.continual._features import activations
from thalweg.errors import ArgumentError, DtypeError, ShapeError
from thalweg.nn import Sequential

if TYPE_CHECKING:
    from thalweg.continual._result import Result
else:  # what typing.get_type_hints finds
    Result = Any

__all__ = [
    "Plasticity",
    "activations",
    "average_accuracy",
    "bwt",
    "effective_rank",
    "forgetting",
    "fwt",
    "incremental_accuracy",
    "intransigence",
    "min_accuracy",
    "plasticity",
    "summary",
    "worst_case_accuracy",
]

Bwt: TypeAlias = Literal["gem", "gem_code", "diaz"]
Forgetting: TypeAlias = Literal["max", "first", "max_all"]
Fwt: TypeAlias = Literal["gem", "gem_code"]


def __dir__() -> list[str]:
    return __all__


@takes("metrics.average_accuracy", {})
def average_accuracy(r: npt.ArrayLike) -> float:
    r"""Compute the mean score at the end, :math:`\frac1T \sum_j R_{Tj}`; all libraries agree.

    Parameters
    ----------
    r : array_like, shape (T, T)
        The matrix.

    Returns
    -------
    float

    Raises
    ------
    ShapeError, DtypeError, DataError, ArgumentError
        If the matrix is not square, has masked entries, or a required element is not a number.

    Examples
    --------
    >>> from thalweg.continual import metrics
    >>> metrics.average_accuracy([[0.9, 0.1], [0.5, 0.8]])
    0.65
    """
    matrix = _matrix(r, 1)
    return float(_finite("r", matrix[-1]).mean())


@takes("metrics.incremental_accuracy", {})
def incremental_accuracy(r: npt.ArrayLike) -> float:
    r"""Compute the average incremental accuracy: the mean over time of that over tasks seen.

    .. math:: \frac1T \sum_{i=1}^{T} \frac1i \sum_{j \le i} R_{ij}

    Parameters
    ----------
    r : array_like, shape (T, T)
        The matrix.

    Returns
    -------
    float

    Raises
    ------
    ShapeError, DtypeError, DataError, ArgumentError
        As for `average_accuracy`.

    Notes
    -----
    All tasks count equally. iCaRL (Rebuffi et al. 2017) and continuum replace the inner mean by the
    mean over all test samples seen, which is the same if tasks have equally many.
    """
    matrix = _matrix(r, 1)
    return float(np.mean([_finite("r", row[: i + 1]).mean() for i, row in enumerate(matrix)]))


@takes("metrics.bwt", {})
def bwt(r: npt.ArrayLike, definition: Bwt = "gem") -> float:
    r"""Compute backward transfer: how much later tasks changed what was learned; mostly negative.

    Parameters
    ----------
    r : array_like, shape (T, T)
        The matrix; T is at least 2.
    definition : {"gem", "gem_code", "diaz"}, default "gem"
        ``"gem"``, from the GEM paper (Lopez-Paz & Ranzato 2017, equation 3) and mammoth:
        :math:`\frac{1}{T-1} \sum_{j<T} (R_{Tj} - R_{jj})`.

        ``"gem_code"``, from the code of that paper: the same sum divided by T.

        ``"diaz"``, from Díaz-Rodríguez et al. 2018 ("Don't forget, there is more than forgetting")
        and continuum: :math:`\frac{2}{T(T-1)} \sum_{i>j} (R_{ij} - R_{jj})`, over all times.

    Returns
    -------
    float

    Raises
    ------
    ShapeError, DtypeError, DataError, ArgumentError
        If the matrix is not square or too small or has masked entries, a required element is not a
        number, or there is no such definition.

    Examples
    --------
    >>> from thalweg.continual import metrics
    >>> metrics.bwt([[0.9, 0.1], [0.5, 0.8]])
    -0.4
    """
    _checks.one_of("definition", definition, get_args(Bwt))
    matrix = _matrix(r, 2)
    tasks = len(matrix)
    learned = matrix.diagonal()
    if definition == "diaz":
        later, task = np.tril_indices(tasks, -1)
        return float(_finite("r", matrix[later, task] - learned[task]).mean())
    change = _finite("r", matrix[-1, :-1] - learned[:-1])
    return float(change.sum() / (tasks - 1 if definition == "gem" else tasks))


@takes("metrics.forgetting", {})
def forgetting(r: npt.ArrayLike, definition: Forgetting = "max") -> float:
    r"""Compute forgetting: how much of what was known is lost; higher is worse.

    Parameters
    ----------
    r : array_like, shape (T, T)
        The matrix; T is at least 2.
    definition : {"max", "first", "max_all"}, default "max"
        ``"max"``, from Chaudhry et al. 2018 ("Riemannian walk") and continuum:
        :math:`\frac{1}{T-1} \sum_{j<T} (\max_{j \le l < T} R_{lj} - R_{Tj})`. It is negative where
        the last task has helped.

        ``"first"``, from Avalanche: :math:`R_{jj}` in place of the maximum; this is minus `bwt`.

        ``"max_all"``, from mammoth: the maximum is over :math:`j \le l \le T`, so it is never
        negative.

    Returns
    -------
    float

    Raises
    ------
    ShapeError, DtypeError, DataError, ArgumentError
        As for `bwt`.

    Examples
    --------
    >>> from thalweg.continual import metrics
    >>> metrics.forgetting([[0.9, 0.1], [0.5, 0.8]])
    0.4
    """
    _checks.one_of("definition", definition, get_args(Forgetting))
    matrix = _matrix(r, 2)
    tasks = len(matrix)
    lost = []
    for task in range(tasks - 1):
        last = {"max": tasks - 1, "first": task + 1, "max_all": tasks}[definition]
        known = _finite("r", matrix[task:last, task]).max()
        lost.append(known - _finite("r", matrix[-1, task]))
    return float(np.mean(lost))


@takes("metrics.fwt", {})
def fwt(r: npt.ArrayLike, baseline: npt.ArrayLike, definition: Fwt = "gem") -> float:
    r"""Compute forward transfer: how much of a task is known before it is learned.

    Parameters
    ----------
    r : array_like, shape (T, T)
        The matrix; T is at least 2.
    baseline : array_like, shape (T,)
        The accuracies `b` of a network with random weights on all tasks, each judged among the same
        outputs as in :math:`R_{j-1,j}`: `Result.baseline`. Zeros give what continuum reports.
    definition : {"gem", "gem_code"}, default "gem"
        ``"gem"``, from the GEM paper, Avalanche and mammoth:
        :math:`\frac{1}{T-1} \sum_{j \ge 2} (R_{j-1,j} - b_j)`; ``"gem_code"``, from the code of
        that paper: the same sum divided by T.

    Returns
    -------
    float

    Raises
    ------
    ShapeError, DtypeError, DataError, ArgumentError
        As for `bwt`; also if the baseline has another length.

    Examples
    --------
    >>> from thalweg.continual import metrics
    >>> round(metrics.fwt([[0.9, 0.3], [0.5, 0.8]], [0.1, 0.1]), 9)
    0.2
    """
    _checks.one_of("definition", definition, get_args(Fwt))
    matrix = _matrix(r, 2)
    random = _vector("baseline", baseline, len(matrix))
    known = _finite("r, baseline", matrix.diagonal(1) - random[1:])
    return float(known.sum() / (len(known) if definition == "gem" else len(matrix)))


@takes("metrics.intransigence", {})
def intransigence(r: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    r"""Compute intransigence: the deficit to a network that sees all data so far; higher is worse.

    .. math:: \frac1T \sum_k (a^*_k - R_{kk})

    Parameters
    ----------
    r : array_like, shape (T, T)
        The matrix.
    reference : array_like, shape (T,)
        :math:`a^*_k`, the accuracy on task `k` of a network trained on the tasks up to `k`
        together: the diagonal of the matrix of `Cumulative`.

    Returns
    -------
    float

    Raises
    ------
    ShapeError, DtypeError, DataError, ArgumentError
        As for `bwt`; also if the reference has another length.

    Notes
    -----
    Chaudhry et al. 2018 define it for each task; this is the mean over tasks.
    """
    matrix = _matrix(r, 1)
    best = _vector("reference", reference, len(matrix))
    return float(_finite("r, reference", best - matrix.diagonal()).mean())


@takes("metrics.min_accuracy", {})
def min_accuracy(result: Result) -> float:
    r"""Compute the mean over earlier tasks of the lowest score since each was learned.

    .. math:: \frac{1}{T-1} \sum_{j<T} \min_{n > n_j} A_{nj}

    where :math:`A_{nj}` is the score on task `j` after step `n`, and :math:`n_j` the step at which
    learning that task ended: min-ACC at the end of the last task.

    Parameters
    ----------
    result : Result
        A run of at least 2 tasks that has ended. The minimum is over the times at which the tasks
        were judged: for that after each step, pass ``evaluate_every=1`` to `run`.

    Returns
    -------
    float

    Raises
    ------
    ArgumentError
        If it is anything else, or a score that is used is not a number.

    References
    ----------
    De Lange, van de Ven & Tuytelaars 2023, "Continual evaluation for lifelong learning: identifying
    the stability gap", arXiv:2205.13452.

    Examples
    --------
    >>> from thalweg.continual import Result, metrics
    >>> scores = [[0.5, 0.5], [0.9, 0.5], [0.2, 0.6], [0.7, 0.8]]
    >>> run = Result(("a", "b"), "task", "accuracy", [0, 10, 15, 20], scores, ends=[10, 20])
    >>> metrics.min_accuracy(run)  # forgotten for a while, which the matrix does not show
    0.2
    """
    curve, steps = _ended(result).curve, np.array(result.steps)
    lowest = [curve[steps > end, task].min() for task, end in enumerate(result.ends[:-1])]
    return float(np.mean(_finite("result.curve", lowest)))


@takes("metrics.worst_case_accuracy", {})
def worst_case_accuracy(result: Result) -> float:
    r"""Compute a trade-off between the last task and the worst moments of the earlier ones: WC-ACC.

    .. math:: \frac1T A_{n_T T} + \Bigl(1 - \frac1T\Bigr) \operatorname{min-ACC}

    Parameters
    ----------
    result : Result
        As for `min_accuracy`, which has symbols and source.

    Returns
    -------
    float

    Raises
    ------
    ArgumentError
        As for `min_accuracy`.
    """
    lowest, share = min_accuracy(result), 1 / len(result.names)
    last = _finite("result.curve", result.curve[-1, -1])
    return float(share * last + (1 - share) * lowest)


def _ended(result: Result) -> Result:
    """Return the result of a run, if that has ended and has at least 2 tasks."""
    from thalweg.continual._result import Result  # here, as it imports this module

    if not isinstance(result, Result):
        raise ArgumentError(
            f"result must be a Result, as returned by continual.run; got {_checks.given(result)}"
        )
    if len(result.ends) < len(result.names) or len(result.names) < 2:
        raise ArgumentError(
            f"this metric needs a run of at least 2 tasks that has ended; got {result!r}"
        )
    return result


@takes("metrics.summary", {})
def summary(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    r"""Compute mean and standard deviation of all metrics over several runs, as for several seeds.

    .. math:: \bar m = \frac1n \sum_i m_i, \qquad
              s = \sqrt{\frac{1}{n-1} \sum_i (m_i - \bar m)^2}

    Parameters
    ----------
    results : sequence of Result
        The results of n runs of the same tasks, at least 2.

    Returns
    -------
    dict of str to tuple of float
        By the names of `Result.metrics`, :math:`(\bar m, s)`. The standard error of the mean is
        :math:`s / \sqrt n`.

    Raises
    ------
    ArgumentError
        If there are fewer, the tasks differ, or a run has not ended.

    Examples
    --------
    >>> from thalweg.continual import Result, metrics
    >>> run = ("a", "b"), "task", "accuracy", [0, 5, 10]
    >>> one = Result(*run, [[0.5, 0.5], [1, 0.5], [0.8, 1]], ends=[5, 10])
    >>> two = Result(*run, [[0.5, 0.5], [1, 0.5], [0.6, 1]], ends=[5, 10])
    >>> mean, deviation = metrics.summary([one, two])["average_accuracy"]
    >>> f"{mean:.3f} ± {deviation:.3f}"
    '0.850 ± 0.071'
    """
    from thalweg.continual._result import of_the_same_tasks  # here, as it imports this module

    runs = of_the_same_tasks(results, "results")
    if len(runs) < 2:
        raise ArgumentError(f"a standard deviation needs at least 2 runs; got {len(runs)}")
    found = [run.metrics() for run in runs]
    values = {name: [one[name] for one in found] for name in found[0]}
    return {name: (float(np.mean(v)), float(np.std(v, ddof=1))) for name, v in values.items()}


@dataclass(frozen=True)
class Plasticity:
    """Measures of a network's ability to keep learning; see `plasticity`.

    Attributes
    ----------
    dead_units : float
        Share of the hidden units whose output is the same for every sample.
    effective_rank : float
        Effective rank of the last hidden layer's outputs.
    weight_norm : float
        Euclidean norm of all parameters.
    mean_weight : float
        Mean of the absolute values of all parameters.
    """

    dead_units: float
    effective_rank: float
    weight_norm: float
    mean_weight: float


@takes("metrics.plasticity", {})
def plasticity(model: Sequential, x: npt.ArrayLike) -> Plasticity:
    r"""Measure correlates of the loss of plasticity.

    Parameters
    ----------
    model : Sequential
        The network, used in evaluation mode.
    x : array_like, shape (n, in_features)
        Samples, at least 2; a few hundred suffice.

    Returns
    -------
    Plasticity

    Raises
    ------
    ThalwegError
        If the samples do not fit the model.
    ArgumentError
        If `model` is not a model or has no hidden layer with an activation, or there is only one
        sample.

    Notes
    -----
    A unit is dead if its activation is the same number for all samples; for ReLU, 0.
    Units inside `nn.Residual` and `nn.Concatenate` are not considered. The effective rank is that
    of Roy & Vetterli 2007, :math:`\exp(-\sum_k p_k \log p_k)`, where `p` are the singular values of
    the matrix of activations divided by their sum.

    References
    ----------
    Dohare et al. 2024, "Loss of plasticity in deep continual learning", Nature 632.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import continual, nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> model.flat_parameters = -abs(model.flat_parameters)
    >>> continual.metrics.plasticity(model, np.random.default_rng(0).random((50, 2))).dead_units
    1.0
    """
    hidden = activations(model, x)
    if not hidden:
        raise ArgumentError("the model has no hidden layer with an activation, such as nn.ReLU")
    if len(hidden[0]) < 2:
        raise ArgumentError(
            "x must have at least 2 samples: a unit is dead if its output is the same for all;"
            f" got {len(hidden[0])}"
        )
    constant = np.concatenate([np.ptp(layer, axis=0) == 0 for layer in hidden])
    weights = model.flat_parameters.astype(np.float64)
    return Plasticity(
        dead_units=float(constant.mean()),
        effective_rank=effective_rank(hidden[-1]),
        weight_norm=float(np.linalg.norm(weights)),
        mean_weight=float(abs(weights).mean()),
    )


@takes("metrics.effective_rank", {})
def effective_rank(matrix: npt.ArrayLike) -> float:
    """Compute the effective rank of Roy & Vetterli 2007, see `plasticity`.

    Parameters
    ----------
    matrix : array_like, shape (n, k)
        Any matrix.

    Returns
    -------
    float
        From 1 to min(n, k); 0 for a matrix of zeros.

    Raises
    ------
    ShapeError, DtypeError, DataError, ArgumentError
        If `matrix` is not 2-D or has masked entries, or an element is not a finite number.
    """
    numbers = _numbers("matrix", matrix)
    if numbers.ndim != 2:
        raise ShapeError(f"matrix must be 2-D, (n, k); got shape {numbers.shape}")
    values = np.linalg.svd(_finite("matrix", numbers), compute_uv=False)
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _numbers(name: str, values: Any) -> npt.NDArray[np.float64]:
    if hasattr(values, "curve"):
        raise ArgumentError(
            f"{name} must be a matrix of scores; got a Result: pass its matrix, result.r"
        )
    array = _arrays.as_array(values, name)
    if array.dtype.kind in "biufO":
        with contextlib.suppress(TypeError, ValueError):
            return array.astype(np.float64)
    raise DtypeError(f"{name} must be numbers; got {_checks.given(values)}")


def _matrix(r: npt.ArrayLike, least: int) -> npt.NDArray[np.float64]:
    """Return `r` as a square matrix of at least `least` tasks."""
    matrix = _numbers("r", r)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(f"r must have shape (tasks, tasks); got {matrix.shape}")
    if len(matrix) < least:
        raise ArgumentError(f"this metric needs at least {least} tasks; r has {len(matrix)}")
    return matrix


def _vector(name: str, values: npt.ArrayLike, tasks: int) -> npt.NDArray[np.float64]:
    vector = _numbers(name, values)
    if vector.shape != (tasks,):
        raise ShapeError(f"{name} must have one number for each of {tasks} tasks; got {vector!r}")
    return vector


def _finite(name: str, values: Any) -> Any:
    if not np.isfinite(values).all():
        raise ArgumentError(
            f"{name}: all elements that are used must be finite numbers; got {values}"
        )
    return values
