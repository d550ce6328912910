r"""Which frequencies of a target a network learns first.

Networks learn low frequencies before high ones: the kernel of gradient descent has its large
eigenvalues there. Rahaman et al. 2019, arXiv:1806.08734.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _parts
from thalweg._habits import takes
from thalweg._trainer import Trainer
from thalweg._warn import warn
from thalweg.callbacks import Callback
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError
from thalweg.nn import Sequential

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # what typing.get_type_hints finds
    Axes = Any

_Vector = npt.NDArray[np.float64]

#: A larger share of a target's energy above the Nyquist frequency causes a warning.
_FOLDED = 1e-3


class SpectralBias(Callback):
    r"""Records, during a fit, how much of each frequency of the target is still missing.

    For `N` equally spaced samples :math:`x_n` over one period `T`, this is the complex residual

    .. math:: R_k = \frac{\sum_n (f(x_n) - y_n)\, e^{-2\pi i k x_n / T}}
                         {\left| \sum_n y_n\, e^{-2\pi i k x_n / T} \right|}

    whose magnitude is 1 for a network that knows nothing of the frequency `k` and 0 for one that
    has learned it. It uses the difference and not the prediction alone, as the amplitude may be
    right and the phase wrong.

    If passed to another fit of the same model, it continues, with updates counted from the first.

    Parameters
    ----------
    x : array_like, shape (n,) or (n, 1)
        Positions of the samples: increasing, equally spaced, the last one step short of a whole
        period, as from ``np.linspace(-1, 1, n, endpoint=False)``.
    y : array_like, shape (n,) or (n, 1); or callable
        The target there. A function is also evaluated between the samples, to check whether
        content above the Nyquist frequency folds back onto lower ones.
    frequencies : sequence of int
        In periods over the whole range, at least 1.
    inputs : array_like, shape (n, in_features), keyword only, optional
        The network's inputs for each sample, if not `x`: encoded features, for example.
    every : int, keyword only, default 10
        Updates between two records. There is one more at the end of the fit, unless that coincides
        with one.

    Attributes
    ----------
    frequencies : ndarray, shape (k,)
    y : array_like
        The target; values at `x` if it was a function.
    steps : list of int
        Updates before each record; the first is 0.
    residuals : list of ndarray, shape (k,), complex
        :math:`R_k` at each record.

    Warns
    -----
    UserWarning
        If a frequency is at or above the Nyquist frequency, n / 2, where samples cannot distinguish
        it from a lower one; or if a target function has more than 0.1% of its energy there, as also
        one has whose first sample is repeated at the end of the period.

    Raises
    ------
    DataError
        If `x` is not equally spaced, or the target has nothing at a frequency.
    ArgumentError, ShapeError, DtypeError
        If an argument is not as above.
    """

    @takes("SpectralBias", {})
    def __init__(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | Callable[[Any], Any],
        frequencies: Sequence[int] | npt.NDArray[np.integer],
        *,
        inputs: npt.ArrayLike | None = None,
        every: int = 10,
    ) -> None:
        place = _column(x, "x")
        n = len(place)
        if n < 4:
            raise DataError(f"x has {n} samples; at least 4 are needed")
        distances = np.diff(place)
        # Positions are rounded, perhaps to float32, so distances may differ by that much.
        kind = np.asarray(x).dtype
        eps = float(np.finfo(kind if kind.kind == "f" else np.float64).eps)
        uneven = float(np.abs(distances - distances.mean()).max())
        slack = max(1e-6 * abs(float(distances.mean())), eps * float(np.abs(place).max()))
        if uneven > slack or (distances <= 0).any():
            raise DataError(
                "x must be increasing and equally spaced; otherwise a Fourier sum mixes frequencies"
            )
        given = _checks.sequence("frequencies", frequencies)
        self.frequencies = np.array([_checks.integer("frequencies", k, 1) for k in given])
        if self.frequencies.size == 0:
            raise ArgumentError("frequencies must have at least one entry; got none")
        period = float(distances.mean()) * n
        if (high := self.frequencies[2 * self.frequencies >= n]).size:
            lower = [int(min(k % n, -k % n)) for k in high]
            warn(
                f"frequencies {high.tolist()} are not below the Nyquist frequency, {n / 2:g} of "
                f"{n} samples: they look the same as {lower} there. Use more samples"
            )
        height = 0.0
        if callable(y):
            height = _warn_of_folding(y, place[0], period, n)
            y = y(place)
        self.x, self.y, self.inputs = x, y, inputs  # not a function, which pickles might refuse
        self._target = _column(y, "y")
        if len(self._target) != n:
            raise ShapeError(f"x has {n} rows but y has {len(self._target)}")
        self._inputs = place[:, np.newaxis]
        if inputs is not None:
            self._inputs = _arrays.as_numeric(inputs, "inputs")
        if self._inputs.ndim < 2:
            raise ShapeError(
                f"inputs must have shape (n, in_features); got shape {self._inputs.shape}"
            )
        if len(self._inputs) != n:
            raise ShapeError(f"x has {n} rows but inputs has {len(self._inputs)}")
        phases = np.outer(self.frequencies, place - place[0]) / period
        self._waves = np.exp(-2j * np.pi * phases)
        self._size = np.abs(self._waves @ self._target)
        floor = 1e-12 * max(float(np.abs(self._target).sum()), n * height)
        if (missing := self.frequencies[self._size <= floor]).size:
            raise DataError(
                f"the target has no component at the frequencies {missing.tolist()}: leave them out"
            )
        self.every: int = _checks.integer("every", every, 1)
        self.steps: list[int] = []
        self.residuals: list[npt.NDArray[np.complex128]] = []
        self._updates = 0
        self._model: Sequential | None = None

    def __repr__(self) -> str:
        """Show what is recorded, and the latest record."""
        text = f"SpectralBias(frequencies={self.frequencies.tolist()}, every={self.every}; "
        text += f"{len(self.steps)} records"
        if self.residuals:
            text += f"; latest: {np.array2string(self.relative[-1], precision=2)}"
        return text + ")"

    @property
    def relative(self) -> _Vector:
        """The magnitudes of the residuals, shape (records, k)."""
        return np.abs(np.array(self.residuals)).reshape(-1, len(self.frequencies))

    @property
    def _edges(self) -> npt.NDArray[np.int64]:
        """Where records begin and end, shape (records + 1,), for `thalweg.plot.spectral_bias`.

        A record covers the updates until the next one. The last gets the width of the one before
        it; a single one, from a fit that ended early, gets the planned interval.
        """
        last = self.steps[-1] - self.steps[-2] if len(self.steps) > 1 else self.every
        return np.array([*self.steps, self.steps[-1] + last])

    def learned_at(self, below: float = 0.1) -> npt.NDArray[np.float64]:
        """Return the first update at which each frequency's residual is small.

        Parameters
        ----------
        below : float, default 0.1
            The magnitude below which a residual counts as small.

        Returns
        -------
        ndarray, shape (k,)
            Updates; infinity for frequencies that were not learned.

        Raises
        ------
        ArgumentError
            If `below` is not above 0.
        """
        small = self.relative < _checks.real("below", below, 0, closed="()")
        # Append a record at infinity, where all are learned.
        small = np.vstack([small, np.ones(len(self.frequencies), bool)])
        steps = np.array([*self.steps, np.inf])
        found: _Vector = steps[small.argmax(axis=0)]
        return found

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Record the start, unless it was recorded as the end of a previous fit.

        Raises
        ------
        ArgumentError
            If there are records of another model.
        """
        if self._model is not None and self._model is not trainer.model:
            raise ArgumentError(
                f"this SpectralBias has {len(self.steps)} records of another model: make a new one "
                "for each model"
            )
        self._model = trainer.model
        if self._updates not in self.steps[-1:]:
            self._record(trainer)

    def on_step_end(self, trainer: Trainer, record: dict[str, float]) -> None:
        """Record, if a record is due."""
        self._updates += 1
        if self._updates % self.every == 0:
            self._record(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Record the end, too.

        Callbacks listed before this one have already acted on the model: `EarlyStopping`, which
        restores weights, should come after it.
        """
        if self._updates != self.steps[-1]:
            self._record(trainer)

    def _record(self, trainer: Trainer) -> None:
        output = trainer.model(self._inputs)
        if output.shape[1] != 1:
            raise ShapeError(f"SpectralBias needs a model of one output; got {output.shape[1]}")
        self.steps.append(self._updates)
        self.residuals.append(self._waves @ (output[:, 0] - self._target) / self._size)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw residuals over updates and frequencies; the same as `thalweg.plot.spectral_bias`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ArgumentError
            If nothing was recorded yet.
        """
        from thalweg import plot

        return plot.spectral_bias(self, ax)


@takes("diagnostics.spectral_bias", {})
def spectral_bias(
    trainer: Trainer,
    x: npt.ArrayLike,
    y: npt.ArrayLike | Callable[[Any], Any],
    frequencies: Sequence[int] | npt.NDArray[np.integer],
    *,
    steps: int = 1000,
    inputs: npt.ArrayLike | None = None,
    every: int = 10,
) -> SpectralBias:
    """Train on a sampled function, in full-batch steps, and record which frequencies come first.

    Parameters
    ----------
    trainer : Trainer
        The trainer of a model with one output, which is trained.
    x, y, frequencies, inputs, every
        As for `SpectralBias`.
    steps : int, keyword only, default 1000
        The number of updates.

    Returns
    -------
    SpectralBias
        Its ``plot()`` shows the residuals over updates and frequencies.

    Warns
    -----
    UserWarning
        As for `SpectralBias`.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError
        As for `SpectralBias` and `Trainer.fit`.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.arange(64) / 64
    >>> model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=1e-3))
    >>> found = tw.diagnostics.spectral_bias(
    ...     trainer, x, lambda x: np.sin(2 * np.pi * x) + np.sin(10 * np.pi * x), [1, 5], steps=50)
    >>> found.relative.shape
    (6, 2)
    """
    if not isinstance(trainer, Trainer):
        raise ArgumentError(f"trainer must be a Trainer; got {_checks.given(trainer)}")
    watch = SpectralBias(x, y, frequencies, inputs=inputs, every=every)
    steps = _checks.integer("steps", steps, 1)
    target = watch._target[:, np.newaxis]
    trainer.fit(
        watch._inputs,
        target,
        epochs=steps,
        batch_size=len(target),
        shuffle=False,
        callbacks=[watch],
    )
    return watch


@takes("diagnostics.ntk_eigenvalues", {})
def ntk_eigenvalues(model: Sequential, x: npt.ArrayLike) -> _Vector:
    r"""Compute the eigenvalues of a network's neural tangent kernel on some samples.

    .. math:: K_{ij} = \frac1N \nabla_\theta f(x_i)^\top \nabla_\theta f(x_j)

    For small steps, gradient descent on :math:`\frac{1}{2N} \sum (f(x_i) - y_i)^2` multiplies the
    error along the eigenvector of :math:`\lambda` by :math:`1 - \eta \lambda` in each step.
    (`nn.MSELoss` has no ½, and divides by the number of outputs k, too: by
    :math:`1 - 2 \eta \lambda / k`.) Jacot, Gabriel & Hongler 2018, arXiv:1806.07572.

    Parameters
    ----------
    model : Sequential
        Left unchanged, and used as in evaluation. Outputs count as additional samples.
    x : array_like, shape (n, in_features)
        The samples, at least one; each takes one backward pass per output.

    Returns
    -------
    ndarray, shape (n * out_features,)
        Descending, in float64; exact up to rounding relative to the largest.

    Raises
    ------
    ArgumentError
        If `model` is not an `nn.Sequential`.
    ShapeError, DataError, DtypeError
        If `x` does not fit the model.
    UnsupportedError
        If the model has an `nn.BatchNorm1d`.

    Notes
    -----
    They are the eigenvalues of :math:`\frac1N J J^\top`, computed from :math:`\frac1N J^\top J` if
    there are fewer parameters. J is formed, and takes 8 n out_features num_parameters bytes.
    Dropout is inactive.
    """
    averages = _parts.checked(model)._core.average_blocks()
    if any(name.endswith(".running_mean") for name, _ in averages):
        raise UnsupportedError(
            "the tangent kernel of a model with BatchNorm1d depends on the whole batch, which is "
            "not supported; fold it into the Linear before it with model.fold()"
        )
    copy = _parts.frozen(model)
    x = copy._matrix(x, "x")
    if len(x) == 0:
        raise ShapeError(f"x must have at least one row; got shape {x.shape}")
    _, gradients = copy._core.jacobian(x, False)
    return _eigenvalues(gradients.astype(np.float64, copy=False), len(x))


def _eigenvalues(gradients: _Vector, rows: int) -> _Vector:
    """Use the smaller of J Jᵀ and Jᵀ J, which takes a tenth of the time of an SVD."""
    values = np.zeros(len(gradients))
    wide = len(gradients) <= gradients.shape[1]
    found = np.linalg.eigvalsh(gradients @ gradients.T if wide else gradients.T @ gradients)
    values[: len(found)] = np.maximum(found[::-1], 0) / rows
    return values


def _warn_of_folding(y: Callable[[Any], Any], start: float, period: float, n: int) -> float:
    """Warn if a target has energy above the Nyquist frequency; return its mean magnitude."""
    share, height = _above(y, start, period, n)
    if share > _FOLDED:
        if _above(y, start, period * (n - 1) / n, n - 1)[0] <= _FOLDED:  # hence a jump at the end
            advice = (
                f". It has a period of {n - 1} steps, so the last sample repeats the first: leave "
                "it out, as np.linspace(..., endpoint=False) does"
            )
        else:
            advice = ", and folds back onto lower frequencies. Use more samples"
        warn(
            f"{share:.1%} of the target's energy is at or above the Nyquist frequency, {n / 2:g} "
            f"of {n} samples{advice}"
        )
    return height


def _above(y: Callable[[Any], Any], start: float, period: float, n: int) -> tuple[float, float]:
    """Return the share of energy above the Nyquist frequency, and the mean magnitude."""
    fine = 16 * n
    values = _column(y(start + period * np.arange(fine) / fine), "y")
    energy = np.abs(np.fft.rfft(values)) ** 2
    energy[0] = 0
    above, whole = float(energy[(n + 1) // 2 :].sum()), float(energy.sum())
    return above / whole if whole > 0 else 0.0, float(np.abs(values).mean())


def _column(values: Any, name: str) -> _Vector:
    array = _arrays.as_numeric(values, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeError(f"{name} must be 1-D, or one column; got shape {array.shape}")
    column = _arrays.as_dtype(array, np.dtype(np.float64), name)
    result: _Vector = _arrays.finite(column, name)
    return result
