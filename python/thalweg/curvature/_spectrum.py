r"""The whole spectrum of a symmetric matrix, by stochastic Lanczos quadrature.

For a random start :math:`q` of length 1, :math:`q^\top f(A) q` is an integral of :math:`f` over
the spectrum, weighted by :math:`q`. Lanczos' method gives its Gauss quadrature: with the
eigenvalues :math:`\theta_i` of the tridiagonal matrix and the squares :math:`\tau_i` of the first
components of its eigenvectors, :math:`q^\top f(A) q \approx \sum_i \tau_i f(\theta_i)`, exact for
polynomials up to degree :math:`2m - 1`. The mean over starts is :math:`\operatorname{tr} f(A) / n`
(Golub & Meurant 1994, "Matrices, moments and quadrature"; Ubaru, Chen & Saad 2017, "Fast estimation
of tr(f(A)) via stochastic Lanczos quadrature"; for networks Ghorbani, Krishnan & Xiao 2019,
arXiv:1901.10159).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Targets
from thalweg._habits import takes
from thalweg._norms import length
from thalweg._warn import warn
from thalweg.curvature._eigenvalues import matrix_of
from thalweg.curvature._lanczos import apply, lanczos
from thalweg.curvature._operator import Kind, Matvec, Operator
from thalweg.errors import ArgumentError, DataError
from thalweg.nn import Loss, Sequential
from thalweg.nn._losses import LossFunction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # what typing.get_type_hints finds
    Axes = Any

Vector = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean over random probes, and its standard error."""

    #: The mean.
    value: float
    #: Its standard error; NaN for a single probe.
    standard_error: float


def _estimate(samples: Vector) -> Estimate:
    n = len(samples)
    error = float(np.std(samples, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Estimate(float(np.mean(samples)), error)


@dataclass(frozen=True, eq=False, repr=False)
class SpectralDensity:
    """The distribution of the eigenvalues of a matrix, estimated from random probes.

    Attributes
    ----------
    nodes : ndarray, shape (probes, steps)
        Where each probe sees eigenvalues; padded with NaN if a probe ended early, having seen all.
    weights : ndarray, shape (probes, steps)
        The share of eigenvalues at each node; each row sums to 1.
    size : int
        The number of eigenvalues.
    """

    nodes: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    size: int

    def __repr__(self) -> str:
        (low, high), (probes, steps) = self.range, self.nodes.shape
        return (
            f"SpectralDensity({self.size} eigenvalues from {low:.4g} to {high:.4g}, estimated with "
            f"{probes} probes of {steps} steps)"
        )

    def mean(self, f: Callable[[Vector], Any]) -> Estimate:
        """Estimate the mean of a function over the eigenvalues, the trace of f(A) divided by n.

        Parameters
        ----------
        f : callable
            Takes and returns an array. For polynomials up to degree 2 steps - 1, the only error is
            that of the probes.

        Returns
        -------
        Estimate

        Raises
        ------
        DataError
            If the function is not finite at a node.
        """
        there = np.isfinite(self.nodes)
        values = np.zeros_like(self.nodes)
        with np.errstate(all="ignore"):  # checked below
            values[there] = f(self.nodes[there])
        if not np.isfinite(values).all():
            place = tuple(np.argwhere(~np.isfinite(values))[0])
            raise DataError(
                f"f is {values[place]:g} at {self.nodes[place]:.6g}, near an eigenvalue; it must "
                "be finite at every node"
            )
        return _estimate((self.weights * values).sum(axis=1))

    def cdf(self, at: Any) -> Vector:
        """Compute the share of eigenvalues up to given numbers.

        Parameters
        ----------
        at : array_like
            The numbers.

        Returns
        -------
        ndarray
            Of the same shape. Exactly at a node, half of its weight is counted.
        """
        at = _arrays.as_numeric(at, "at").astype(np.float64)
        nodes, weights = self.nodes.ravel(), self.weights.ravel() / len(self.nodes)
        order = np.argsort(nodes)  # NaN last, with no weight
        nodes, weights = nodes[order], weights[order]
        total = np.concatenate([[0.0], np.cumsum(weights)])
        left, right = (total[np.searchsorted(nodes, at, side=side)] for side in ("left", "right"))
        result: Vector = np.where(np.isnan(at), np.nan, (left + right) / 2)
        return result

    def density(self, at: Any, sigma: float | None = None) -> Vector:
        """Compute the density, with its nodes smoothed.

        Parameters
        ----------
        at : array_like, shape (k,)
            Where to compute it.
        sigma : float, optional
            Standard deviation of the normal distribution that replaces each node; by default a
            hundredth of the width of the spectrum.

        Returns
        -------
        ndarray, shape (k,)
        """
        at = _arrays.as_numeric(at, "at").astype(np.float64)
        low, high = self.range
        if sigma is None:  # above rounding, even if all eigenvalues are equal
            sigma = max((high - low) / 100, 1e-12 * max(abs(low), abs(high))) or 1e-12
        sigma = _checks.real("sigma", sigma, 0, closed="()")
        result = np.zeros(at.shape)
        with np.errstate(over="ignore", under="ignore"):  # far from a node
            for node, weight in zip(self.nodes.ravel(), self.weights.ravel(), strict=True):
                if weight > 0:
                    result += weight * np.exp(-0.5 * ((at - node) / sigma) ** 2)
        result /= len(self.nodes) * sigma * np.sqrt(2 * np.pi)
        return result

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest node, which are close to the outermost eigenvalues."""
        return float(np.nanmin(self.nodes)), float(np.nanmax(self.nodes))

    def plot(self, ax: Axes | None = None, *, sigma: float | None = None) -> Axes:
        """Draw the density on a logarithmic scale; the same as `thalweg.plot.spectrum`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        sigma : float, keyword only, optional
            As for `density`.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from thalweg import plot

        return plot.spectrum(self, ax, sigma=sigma)


@takes("curvature.spectral_density", {})
def spectral_density(
    model: Any,
    x: npt.ArrayLike | None = None,
    y: Targets | None = None,
    *,
    loss: Loss | LossFunction | None = None,
    steps: int = 60,
    probes: int = 10,
    kind: Kind | None = None,
    size: int | None = None,
    seed: int = 0,
    sample_weight: npt.ArrayLike | None = None,
    training: bool | None = None,
) -> SpectralDensity:
    """Estimate the distribution of the eigenvalues, by stochastic Lanczos quadrature.

    Parameters
    ----------
    model, x, y, loss, kind, size, sample_weight, training
        The matrix, as for `top_eigenvalues`.
    steps : int, keyword only, default 60
        Nodes of each quadrature, which takes as many products and keeps as many vectors at once.
    probes : int, keyword only, default 10
        The number of random starts to average over.
    seed : int, keyword only, default 0
        Seed of the random starts.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError, UnsupportedError
        If an argument is not as above. For a function, two products check whether it is symmetric:
        `DataError` if it is not, to 1e-6.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> found = tw.curvature.spectral_density(np.diag(np.arange(100.0)), steps=20)
    >>> bool(abs(found.cdf(25.0) - 0.25) < 0.05)
    True
    """
    found, _ = _quadratures(
        model, x, y, loss, steps, probes, kind, size, seed, sample_weight, training
    )
    return found


def _quadratures(
    model: Any,
    x: Any,
    y: Any,
    loss: Any,
    steps: int,
    probes: int,
    kind: Kind | None,
    size: int | None,
    seed: int,
    sample_weight: Any,
    training: bool | None,
) -> tuple[SpectralDensity, SpectralDensity]:
    """Compute the density with all steps, and with half of them, which takes no more products."""
    steps = _checks.integer("steps", steps, 1)
    probes = _checks.integer("probes", probes, 1)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    matvec, n, _ = matrix_of(model, x, y, loss, kind, size, sample_weight, training)
    if not isinstance(model, (Sequential, Operator, np.ndarray)):
        _expect_symmetric(matvec, n)
    shape = probes, min(steps, n)
    full, half = (SpectralDensity(np.full(shape, np.nan), np.zeros(shape), n) for _ in range(2))
    for p in range(probes):
        found = lanczos(matvec, rng.standard_normal(n), steps)
        ended = found.beta[-1] == 0  # so the quadrature is exact
        for density, share in ((full, found), (half, found if ended else found.half())):
            values, small = share.eigh()
            density.nodes[p, : len(values)] = values
            density.weights[p, : len(values)] = small[0] ** 2
    return full, half


def _expect_symmetric(matvec: Matvec, n: int) -> None:
    """Raise unless u·Av is v·Au for two random vectors; nothing else here would notice."""
    u, v = np.random.default_rng(0).standard_normal((2, n))
    dtypes = []

    def product(q: Vector) -> Any:
        found = _arrays.as_numeric(matvec(q), "the product")
        dtypes.append(found.dtype)
        return found

    au, av = apply(product, u), apply(product, v)
    eps = max(float(np.finfo(kind).eps) if kind.kind == "f" else 0.0 for kind in dtypes)
    # Products may be computed by finite differences, which have about half of the digits.
    size = length(u) * length(av) + length(v) * length(au)
    if (off := abs(float(u @ av - v @ au))) > max(1e-6, 1000 * eps) * size:
        raise DataError(
            f"for two random vectors, u @ A(v) and v @ A(u) differ by {off:.1e}, with lengths of "
            f"{size:.1e}: the matrix is not symmetric, or changes between products"
        )


@takes("curvature.trace", {})
def trace(
    model: Any,
    x: npt.ArrayLike | None = None,
    y: Targets | None = None,
    *,
    loss: Loss | LossFunction | None = None,
    probes: int = 100,
    kind: Kind | None = None,
    size: int | None = None,
    seed: int = 0,
    sample_weight: npt.ArrayLike | None = None,
    training: bool | None = None,
) -> Estimate:
    r"""Estimate the sum of the eigenvalues, by Hutchinson's method.

    The mean of :math:`v^\top A v` over vectors of random signs is the trace; for a diagonal matrix,
    the first vector already gives it exactly (Hutchinson 1990, "A stochastic estimator of the trace
    of the influence matrix"). The matrix need not be symmetric. If it has no more rows than there
    are probes, they are the unit vectors, with which the trace is exact.

    Parameters
    ----------
    model, x, y, loss, kind, size, sample_weight, training
        The matrix, as for `top_eigenvalues`.
    probes : int, keyword only, default 100
        The largest number of random vectors, with one product for each.
    seed : int, keyword only, default 0
        Seed of the random vectors.

    Returns
    -------
    Estimate
        The standard error is 0 if the trace is exact.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError, UnsupportedError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> tw.curvature.trace(np.diag([1.0, 2.0]), probes=3)
    Estimate(value=3.0, standard_error=0.0)
    """
    probes = _checks.integer("probes", probes, 1)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    matvec, n, _ = matrix_of(
        model, x, y, loss, kind, size, sample_weight, training, symmetric=False
    )
    if n <= probes:
        return Estimate(float(sum(apply(matvec, v) @ v for v in np.eye(n))), 0.0)
    signs = (rng.choice([-1.0, 1.0], n) for _ in range(probes))
    return _estimate(np.array([v @ apply(matvec, v) for v in signs]))


@takes("curvature.logdet", {})
def logdet(
    model: Any,
    x: npt.ArrayLike | None = None,
    y: Targets | None = None,
    *,
    loss: Loss | LossFunction | None = None,
    shift: float = 0.0,
    steps: int = 60,
    probes: int = 10,
    kind: Kind | None = None,
    size: int | None = None,
    seed: int = 0,
    sample_weight: npt.ArrayLike | None = None,
    training: bool | None = None,
) -> Estimate:
    r"""Estimate the logarithm of the determinant of a positive definite :math:`A + sI`.

    Parameters
    ----------
    model, x, y, loss, kind, size, sample_weight, training
        The matrix A, as for `top_eigenvalues`.
    shift : float, keyword only, default 0
        s, e.g. the precision of a prior.
    steps, probes, seed
        As for `spectral_density`.

    Returns
    -------
    Estimate
        The standard error is that of the probes only. (Of a matrix that fits into memory,
        ``np.linalg.slogdet`` gives the exact value.)

    Raises
    ------
    ArgumentError
        If a node of the quadrature is not positive, so that the matrix is not positive definite; or
        an argument is out of range.
    ShapeError, DataError, DtypeError, UnsupportedError
        If an argument is not as above.

    Notes
    -----
    Too few steps make it too large, as every Gauss quadrature of the logarithm is; the standard
    error does not include this. It takes at most on the order of :math:`\sqrt\kappa` of them, with
    the condition :math:`\kappa` of :math:`A + sI`. If half of the steps give a value that is larger
    by more than the standard error (with a single probe, 1%), a `RuntimeWarning` says so.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> a = np.diag(np.linspace(1, 2, 50))
    >>> estimate = tw.curvature.logdet(a, probes=100)
    >>> bool(abs(estimate.value / np.log(np.diag(a)).sum() - 1) < 0.05)
    True
    """
    shift = _checks.real("shift", shift)
    found, half = _quadratures(
        model, x, y, loss, steps, probes, kind, size, seed, sample_weight, training
    )
    lowest = found.range[0] + shift
    if lowest <= 0:
        raise ArgumentError(
            f"with shift={shift:g}, the matrix has an eigenvalue of {lowest:g} or below, so that "
            f"its log-determinant is undefined; use a shift above {-found.range[0]:g}"
        )
    (value, error), (rough, _) = (
        tuple(found.size * part for part in of.mean(lambda nodes: np.log(nodes + shift)))
        for of in (found, half)
    )
    noise = f"the standard error of {error:.2g}"
    limit = error
    if np.isnan(error):  # of a single probe
        noise, limit = "1%", abs(value) / 100
    if rough - value > limit:
        warn(
            f"logdet is {value:.5g} with steps={steps} and {rough:.5g} with half of them, a change "
            f"by more than {noise}: too few steps make it too large, and "
            "the standard error does not include this; use more steps, or a larger shift",
            RuntimeWarning,
        )
    return Estimate(value, error)
