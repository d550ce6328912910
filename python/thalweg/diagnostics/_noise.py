"""How much the gradients of batches differ from the gradient of all samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg.errors import ArgumentError, DataError
from thalweg.nn._losses import FunctionLoss
from thalweg.optim import SGD


@dataclass(frozen=True, eq=False)
class GradientNoise:
    r"""The gradient of all samples, and how the samples' gradients scatter around it.

    Attributes
    ----------
    rows : int
        The number of samples, `N`.
    gradient : ndarray, shape (num_parameters,)
        :math:`g = \frac1N \sum_i g_i`, the gradient of the mean loss, in the order of
        ``flat_parameters``.
    trace : float
        :math:`\operatorname{tr} S` of the covariance of the samples' gradients,
        :math:`S = \frac{1}{N-1} \sum_i (g_i - g)(g_i - g)^\top`.
    blocks : dict of str to tuple of two floats
        :math:`\lVert g \rVert^2` and :math:`\operatorname{tr} S` for each block of parameters.
    batch_size : int
        The batch size of the measurement. With 1, the trace is exact, otherwise an unbiased
        estimate.
    """

    rows: int
    gradient: npt.NDArray[np.float64]
    trace: float
    blocks: dict[str, tuple[float, float]]
    batch_size: int

    @property
    def noise_scale(self) -> float:
        r""":math:`B = \operatorname{tr} S / \lVert g \rVert^2`, a number of samples.

        The "simple noise scale" of McCandlish et al. 2018, arXiv:1812.06162. Batches much smaller
        than this step in a direction that is mostly noise; much larger ones waste samples. It grows
        during training, as the gradient shrinks.
        """
        squared = float(self.gradient @ self.gradient)
        return self.trace / squared if squared > 0 else float("inf")

    @property
    def critical_batch_size(self) -> int:
        """The noise scale as a batch size: from 1 to all samples."""
        return int(np.clip(np.ceil(min(self.noise_scale, self.rows)), 1, self.rows))

    def variance(self, batch_size: int) -> float:
        r"""Compute the mean squared error of a batch's gradient, :math:`E \lVert g_B - g \rVert^2`.

        Parameters
        ----------
        batch_size : int
            Rows `b` of a batch, drawn without replacement as in `Trainer.fit`.

        Returns
        -------
        float
            :math:`\frac{\operatorname{tr} S}{b} \frac{N - b}{N}`; 0 for a batch of all rows.

        Raises
        ------
        ArgumentError
            If there are not that many rows.
        """
        b = _checks.integer("batch_size", batch_size, 1, self.rows)
        return self.trace / b * (self.rows - b) / self.rows

    def efficiency(self, batch_size: int) -> float:
        r"""Compute the progress of a step with such a batch, relative to the full gradient.

        Parameters
        ----------
        batch_size : int
            Rows of a batch.

        Returns
        -------
        float
            :math:`1 / (1 + E \lVert g_B - g \rVert^2 / \lVert g \rVert^2)`, for the best learning
            rate of each and equal curvature in all directions: ½ near the noise scale.

        Raises
        ------
        ArgumentError
            If there are not that many rows.
        """
        squared = float(self.gradient @ self.gradient)
        noise = self.variance(batch_size)
        return squared / (squared + noise) if squared + noise > 0 else 1.0

    def __repr__(self) -> str:
        return (
            f"GradientNoise({self.rows} rows, gradient {np.linalg.norm(self.gradient):.3g}, "
            f"noise scale {self.noise_scale:.3g})"
        )


@takes("diagnostics.gradient_noise", {})
def gradient_noise(
    trainer: Trainer, x: npt.ArrayLike, y: Targets, *, batch_size: int = 1
) -> GradientNoise:
    r"""Measure how the gradients of batches scatter around the gradient of all samples.

    Every sample is used once, in batches of `batch_size`. The covariance of batches drawn without
    replacement is :math:`\frac{S}{b} \frac{N - b}{N}`, which yields :math:`\operatorname{tr} S`
    (Cochran 1977, "Sampling techniques", section 2.5).

    Parameters
    ----------
    trainer : Trainer
        Its model and loss are used; the loss must be a mean. It is left unchanged.
    x, y : array_like
        As for `Trainer.fit`, at least 2 rows.
    batch_size : int, keyword only, default 1
        With 1, every sample's gradient is computed separately and the result is exact. Larger
        batches are faster, and needed for `nn.BatchNorm1d`, which has no gradient for a single
        sample: the result is then the noise at that batch size, and the mean over batches in one
        random order serves as the gradient.

    Returns
    -------
    GradientNoise

    Raises
    ------
    ArgumentError
        If the model needs larger batches; if the loss is not a plain mean over the samples (a sum,
        or with class weights); or if `batch_size` leaves fewer than two whole batches.
    ShapeError, DataError, DtypeError
        If the arrays do not fit, or there are labels that the loss ignores.

    Notes
    -----
    Computed in float64. Dropout drops different elements in each batch, which is part of the noise.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    >>> noise = tw.diagnostics.gradient_noise(trainer, x, np.sin(3 * x))
    >>> noise.variance(64)
    0.0
    """
    if not isinstance(trainer, Trainer):
        raise ArgumentError(f"trainer must be a Trainer; got {_checks.given(trainer)}")
    if not isinstance(trainer._loss, FunctionLoss) and trainer._loss.reduction != "mean":
        raise ArgumentError(
            f'gradient_noise needs a loss with reduction="mean"; got {trainer._loss.reduction!r}'
        )
    if getattr(trainer._loss, "weight", None) is not None:
        raise ArgumentError("gradient_noise needs a loss without class weights: leave weight out")
    model = trainer.model.astype("float64")
    own = Trainer(model, loss=trainer.loss, optimizer=SGD(lr=0.0))
    samples, targets, _ = own._ready(x, y, None)
    samples = model._matrix(samples, "x")
    own.evaluate(samples, targets)  # raises if they do not fit
    ignored = own._loss._competition.ignored
    if ignored is not None and (rows_ignored := np.flatnonzero(targets == ignored)).size:
        raise DataError(
            f"y[{rows_ignored[0]}] is {ignored}, which the loss ignores, so that it is not a mean "
            f"over all rows. Leave out the {rows_ignored.size} rows with this label"
        )
    rows = len(samples)
    b = _checks.integer("batch_size", batch_size, 1)
    if rows // b < 2:
        raise ArgumentError(
            f"batch_size must give at least two whole batches, so at most half of the {rows} rows; "
            f"got {b}"
        )
    if b == 1 and model._core.average_blocks():
        raise ArgumentError(
            "a single row has no statistics for BatchNorm1d: batch_size must be >= 2; got 1"
        )
    order = np.random.default_rng(model.seed).permutation(rows)

    def gradient(part: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        model.zero_grad()
        own.backward(samples[part], targets[part])
        return np.asarray(model.flat_gradients, np.float64)

    # Two passes through the batches: the second subtracts the mean before squaring.
    batches = [order[start : start + b] for start in range(0, rows, b)]
    if len(batches[-1]) == 1 < b and model._core.average_blocks():
        batches.pop()  # a single row has no statistics; it is left out of the mean
    passes, averages = model._core.passes(), model._core.averages()
    used = sum(map(len, batches))
    mean = np.zeros(model.num_parameters)
    for part in batches:
        mean += gradient(part) * (len(part) / used)
    model._core.set_passes(passes)
    model._core.set_averages(averages)
    squares = np.zeros_like(mean)
    whole = [part for part in batches if len(part) == b]
    with np.errstate(over="ignore"):  # checked below
        for part in whole:
            squares += (gradient(part) - mean) ** 2
    if not np.isfinite(squares).all():
        raise DataError("the gradients are too large for float64; scale the data")
    # E (g_B - g)² = S/b (N - b)/N for each of them.
    spread = squares / len(whole) * (b * rows / (rows - b))
    spreads = model.unflatten(spread)
    blocks = {
        name: (float(np.vdot(here, here)), float(spreads[name].sum()))
        for name, here in model.unflatten(mean).items()
    }
    return GradientNoise(rows, mean, float(spread.sum()), blocks, b)
