r"""Lanczos' method: reduces a symmetric matrix, through products alone, to a small tridiagonal one.

A start :math:`q_1` yields orthonormal :math:`Q = (q_1, \dots, q_m)` and a tridiagonal
:math:`T = Q^\top A Q` whose eigenvalues tend to those of :math:`A`, the outermost first.

In exact arithmetic, a three-term recurrence keeps the basis orthogonal. In floating point it does
not, and eigenvalues that have converged return as ghosts. Every new vector is therefore
orthogonalized against all before it, twice, which leaves nothing above rounding ("twice is enough":
Giraud, Langou, Rozložník & van den Eshof 2005). All of this is in float64, whatever the dtype of
the products.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays
from thalweg._norms import length
from thalweg.errors import DataError, ShapeError

Vector = npt.NDArray[np.float64]

#: Sums of squares of larger numbers may overflow.
_LARGEST = 1e145
#: How many vectors there is room for at first.
_FIRST = 32


@dataclass(frozen=True)
class Tridiagonal:
    """The result of some steps of Lanczos' method."""

    #: The diagonal of T, shape (m,).
    alpha: Vector
    #: The off-diagonal, shape (m,); the last element is the length of the remainder.
    beta: Vector
    #: Orthonormal rows, shape (m, n).
    basis: npt.NDArray[np.float64]

    def eigh(self) -> tuple[Vector, npt.NDArray[np.float64]]:
        """Compute the eigenvalues of T, in ascending order, and its eigenvectors as columns."""
        t = np.diag(self.alpha) + np.diag(self.beta[:-1], 1) + np.diag(self.beta[:-1], -1)
        values, vectors = np.linalg.eigh(t)
        return values, vectors

    def half(self) -> "Tridiagonal":
        """Return the result of half as many steps, at least one."""
        m = (len(self.alpha) + 1) // 2
        return Tridiagonal(self.alpha[:m], self.beta[:m], self.basis[:m])


def apply(matvec: Callable[[Any], Any], q: Vector) -> Vector:
    """Compute the product as float64, checked to be a finite vector of the same shape.

    Raises
    ------
    ShapeError
        If it has another shape.
    DtypeError
        If it does not consist of real numbers.
    DataError
        If it is not finite, or too large for its length to be finite.
    """
    product = _arrays.as_numeric(matvec(q), "the product").astype(np.float64)
    if product.shape != q.shape:
        raise ShapeError(f"matvec must return shape {q.shape}; got {product.shape}")
    if not np.isfinite(product).all():
        raise DataError("matvec returned NaN or infinity")
    if (size := float(np.abs(product).max(initial=0.0))) > _LARGEST:
        raise DataError(
            f"a product with the matrix is of size {size:.1e}, whose square is too large for "
            "float64: scale the data or the loss"
        )
    return product


def orthogonalize(w: Vector, rows: npt.NDArray[np.float64]) -> Vector:
    """Remove the components of `w` along orthonormal rows, in two passes."""
    for _ in range(2):
        w = w - rows.T @ (rows @ w)
    return w


def lanczos(
    matvec: Callable[[Any], Any],
    start: Vector,
    steps: int,
    *,
    against: npt.NDArray[np.float64] | None = None,
    done: Callable[[Tridiagonal], bool] | None = None,
) -> Tridiagonal:
    """Run some steps, fewer if the Krylov space of the start is exhausted.

    Parameters
    ----------
    matvec : callable
        Multiplies a vector of shape (n,) by the matrix.
    start : ndarray, shape (n,)
        Not 0.
    steps : int
        The largest number of steps, each with one product.
    against : ndarray, shape (k, n), keyword only, optional
        Eigenvectors as orthonormal rows: the method runs in their orthogonal complement.
    done : callable, keyword only, optional
        Called now and then; stops the method if it returns True.
    """
    n = start.size
    locked = np.empty((0, n)) if against is None else against
    steps = min(steps, n - len(locked))
    basis = np.empty((min(steps, _FIRST), n))
    alpha, beta = np.empty(steps), np.empty(steps)
    q = orthogonalize(start, locked)
    q = q / np.linalg.norm(q)
    scale, ask = 0.0, 5
    for j in range(steps):
        if j == len(basis):  # most searches end long before
            basis = np.concatenate([basis, np.empty((min(steps - j, j), n))])
        basis[j] = q
        w = apply(matvec, q)
        alpha[j] = q @ w
        scale = max(scale, length(w))
        w = orthogonalize(w, basis[: j + 1])
        if len(locked):
            w = orthogonalize(w, locked)
        beta[j] = length(w)
        # Nothing but rounding is left: the space is invariant.
        ended = beta[j] <= 10 * np.finfo(float).eps * np.sqrt(n) * scale
        if ended:
            beta[j] = 0.0
        so_far = j + 1
        if ended or (done is not None and so_far >= ask):
            found = Tridiagonal(alpha[:so_far], beta[:so_far], basis[:so_far])
            if ended or (done is not None and done(found)):
                return found
            ask = so_far + max(5, so_far // 5)  # a check takes time cubic in the steps
        q = w / beta[j]
    return Tridiagonal(alpha, beta, basis)
