"""Averages of parameters over the steps of a training."""

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY
from typing import ClassVar, Literal, TypeAlias

from thalweg import _checks
from thalweg._description import Description, description
from thalweg.errors import ArgumentError

Definition: TypeAlias = Literal["sum", "mean_age", "time_constant", "half_life", "equal_variance"]
#: Definitions of an average's memory, as functions of the decay.
_MEMORIES: dict[str, Callable[[float], float]] = {
    "sum": lambda b: 1 / (1 - b),
    "mean_age": lambda b: b / (1 - b),
    "time_constant": lambda b: -1 / math.log(b),
    "half_life": lambda b: -math.log(2) / math.log(b),
    "equal_variance": lambda b: (1 + b) / (1 - b),
}
#: Those that are ages; the others are numbers of terms.
_AGES = ("mean_age", "time_constant", "half_life")


@description
class EMA(Description):
    r"""An exponential moving average of the parameters, usually better and nearly free.

    .. math:: \bar\theta \leftarrow \beta\,\bar\theta + (1 - \beta)\,\theta

    after every update. The first one sets :math:`\bar\theta = \theta`, as in PyTorch's
    ``AveragedModel``, so there is no bias to correct. Pass it to `thalweg.Trainer` as ``average``;
    the training itself does not change.

    Parameters
    ----------
    decay : float, default 0.999
        :math:`\beta`, between 0 and 1.
    start : int, keyword only, default 0
        Number of initial updates to skip.
    every : int, keyword only, default 1
        Include every n-th update after these, where this is n.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Examples
    --------
    >>> from thalweg import optim
    >>> round(optim.EMA(0.99).memory("half_life"), 1)
    69.0
    >>> round(optim.EMA(0.99, every=10).memory("half_life"), 1)
    689.7

    References
    ----------
    Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging";
    Morales-Brotons, Vogels & Hendrikx 2024, arXiv:2411.18704.
    """

    _arguments_elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("beta", "momentum", "alpha"), "it is decay"
    )

    decay: float = 0.999
    _: KW_ONLY
    start: int = 0
    every: int = 1

    _goes_to: ClassVar[str] = "tw.Trainer(model, loss=..., optimizer=..., average=...)"

    def __post_init__(self) -> None:
        self._set(  # plain Python numbers can be saved
            decay=_checks.real("EMA: decay", self.decay, 0, 1, "()"),
            start=_checks.integer("EMA: start", self.start, 0),
            every=_checks.integer("EMA: every", self.every, 1),
        )

    def memory(self, definition: Definition = "sum") -> float:
        r"""Return how many updates this averages over, by one of the common definitions.

        Parameters
        ----------
        definition : {"sum", "mean_age", "time_constant", "half_life", "equal_variance"}
            With :math:`\beta` the decay:

            - ``"sum"``: :math:`1/(1-\beta)`, the sum of all weights relative to the newest;
            - ``"mean_age"``: :math:`\beta/(1-\beta)`, the mean age of the updates;
            - ``"time_constant"``: :math:`-1/\ln\beta`, after which a weight is 1/e;
            - ``"half_life"``: :math:`-\ln 2/\ln\beta`, after which a weight is one half;
            - ``"equal_variance"``: :math:`(1+\beta)/(1-\beta)`, the number of independent updates
              whose plain mean would have the same variance.

        Returns
        -------
        float
            Number of updates. With `every`, ``"sum"`` and ``"equal_variance"`` count only those
            included; the others are ages in all updates, just after one that is included.

        Raises
        ------
        ArgumentError
            If the definition is unknown.
        """
        known = _checks.one_of("definition", definition, _MEMORIES)
        return _MEMORIES[known](self.decay) * (self.every if known in _AGES else 1)


@description
class SWA(Description):
    r"""Stochastic weight averaging: the plain mean of the parameters at several times.

    .. math:: \bar\theta \leftarrow \bar\theta + (\theta - \bar\theta)/n

    for the `n`-th. Pass it to `thalweg.Trainer` as ``average``.

    Parameters
    ----------
    start : int, keyword only, default 0
        Number of initial updates to skip; usually three quarters of the training.
    every : int, keyword only, default 1
        Include every n-th update after these, where this is n; usually the number of updates per
        epoch or, with restarts, per cycle, at whose end the learning rate is lowest. If that also
        divides `start`, then what is averaged are the ends of epochs or cycles.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization",
    arXiv:1803.05407.
    """

    _: KW_ONLY
    start: int = 0
    every: int = 1

    _goes_to: ClassVar[str] = "tw.Trainer(model, loss=..., optimizer=..., average=...)"

    def __post_init__(self) -> None:
        self._set(
            start=_checks.integer("SWA: start", self.start, 0),
            every=_checks.integer("SWA: every", self.every, 1),
        )


def check(average: object) -> None:
    """Raise unless `average` is one of these, or None."""
    if average is not None and not isinstance(average, (EMA, SWA)):
        raise ArgumentError(f"average must be optim.EMA(...) or optim.SWA(...); got {average!r}")
