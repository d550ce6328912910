"""The outermost eigenvalues of a symmetric matrix that is only available through products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _habits, _parts
from thalweg._arrays import Targets
from thalweg._norms import length
from thalweg.curvature._lanczos import Tridiagonal, apply, lanczos
from thalweg.curvature._operator import Kind, Matvec, Operator
from thalweg.errors import ArgumentError, DataError, DivergedError
from thalweg.nn import Loss, Sequential
from thalweg.nn._losses import LossFunction

Which: TypeAlias = Literal["largest", "smallest", "both"]
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Eigenpairs:
    r"""Some eigenvalues of a symmetric matrix.

    Attributes
    ----------
    values : ndarray, shape (k,), float64, as are all
        The largest first, or the smallest first if those were requested; first the largest, then
        the smallest, if both were.
    vectors : ndarray, shape (n, k)
        Their eigenvectors, as columns of length 1.
    residuals : ndarray, shape (k,)
        :math:`|A v - \lambda v|`: an eigenvalue lies within this distance of each value.
    products : int
        The number of products with the matrix that were needed.
    """

    values: Vector
    vectors: npt.NDArray[np.float64]
    residuals: Vector
    products: int

    def __repr__(self) -> str:
        values = np.array2string(self.values, precision=6, separator=", ", threshold=12)
        error = f"residuals up to {self.residuals.max():.1e}"
        return f"Eigenpairs({values}, {error}, {self.products} products)"


def matrix_of(
    model: Any,
    x: Any,
    y: Any,
    loss: Any,
    kind: Kind | None,
    size: Any,
    sample_weight: Any = None,
    training: bool | None = None,
    *,
    symmetric: bool = True,
) -> tuple[Matvec, int, float]:
    """Return a function that multiplies by the given matrix, its size, and its precision.

    An array that must be `symmetric` is checked to be so.
    """
    of_model = {
        "x": x, "y": y, "loss=": loss, "kind=": kind, "sample_weight=": sample_weight,
        "training=": training,
    }  # fmt: skip
    if isinstance(model, Sequential):
        if loss is None or x is None or y is None:
            raise ArgumentError("x, y and loss= must be given with a model")
        if size is not None:
            raise ArgumentError("size= is for a function v -> A v; leave it out for a model")
        kind = "hessian" if kind is None else kind
        training = True if training is None else training
        model = Operator(
            model, x, y, loss=loss, kind=kind, sample_weight=sample_weight, training=training
        )
    else:
        if not (callable(model) or hasattr(model, "matvec")):
            if hasattr(model, "model") or hasattr(model, "model_"):
                _parts.checked(model)  # a trainer or an estimator has one
            if not (isinstance(model, (list, tuple)) or hasattr(model, "__array__")):
                raise ArgumentError(
                    "model must be an nn.Sequential, an Operator, a square array, or a function "
                    f"v -> A v with size=; got {_habits.shown(model)}"
                )
            model = _arrays.as_numeric(model, "the matrix")
        if given := [name for name, value in of_model.items() if value is not None]:
            raise ArgumentError(
                "x, y, loss=, kind=, sample_weight= and training= go with a model, not with a "
                "matrix"
                + (" (an Operator already has its own)" if isinstance(model, Operator) else "")
                + f"; leave out {', '.join(given)}"
            )
    if hasattr(model, "shape") and (hasattr(model, "matvec") or isinstance(model, np.ndarray)):
        shape = tuple(model.shape)
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
            raise ArgumentError(f"a matrix must be square; got shape {shape}")
        if size is not None and size != shape[0]:
            raise ArgumentError(f"size={size!r}, but the matrix has shape {shape}")
        if symmetric and isinstance(model, np.ndarray):
            _expect_symmetric(model)
        dtype = np.dtype(getattr(model, "dtype", None) or np.float64)
        eps = float(np.finfo(dtype).eps) if dtype.kind == "f" else float(np.finfo(float).eps)
        matvec = model.matvec if hasattr(model, "matvec") else model.__matmul__
        return matvec, shape[0], eps
    return model, _checks.integer("size", size, 1), float(np.finfo(float).eps)


def _expect_symmetric(a: npt.NDArray[Any]) -> None:
    """Raise unless an array is symmetric up to the rounding that its dtype may have caused."""
    rounding = float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0
    a = a.astype(np.float64)  # differences of unsigned integers would wrap
    with np.errstate(over="ignore", invalid="ignore"):  # infinite is unequal; products find NaN
        unequal = np.abs(a - a.T)
    if unequal.max() > max(1e-10, 100 * rounding) * np.abs(a).max():
        i, j = (int(k) for k in np.unravel_index(int(unequal.argmax()), a.shape))
        raise ArgumentError(
            f"the matrix must be symmetric, but a[{i}, {j}] = {a[i, j]:g} and a[{j}, {i}] = "
            f"{a[j, i]:g}. If only rounding makes them differ, pass (a + a.T) / 2; otherwise use "
            "numpy.linalg.eigvals"
        )


@_habits.takes("curvature.top_eigenvalues", {})
def top_eigenvalues(
    model: Any,
    x: npt.ArrayLike | None = None,
    y: Targets | None = None,
    *,
    loss: Loss | LossFunction | None = None,
    k: int = 1,
    which: Which = "largest",
    kind: Kind | None = None,
    size: int | None = None,
    tol: float = 1e-9,
    max_products: int = 1000,
    seed: int = 0,
    sample_weight: npt.ArrayLike | None = None,
    training: bool | None = None,
) -> Eigenpairs:
    r"""Find the largest or the smallest eigenvalues, ordered with their sign, not by magnitude.

    Parameters
    ----------
    model : Sequential, Operator, array_like or callable
        A model, with the batch given by the next arguments; or any symmetric matrix of shape (n, n)
        (an array, an `Operator`, SciPy's ``LinearOperator``); or a function that returns the
        product with a vector, together with `size`.
    x, y, loss, kind, sample_weight, training
        As for `Operator`, with its defaults where they are None; for a model only. All of `x` is
        one batch: for the eigenvalues over a data set, pass the whole data set.
    k : int, keyword only, default 1
        The number of eigenvalues, counted with multiplicity.
    which : {"largest", "smallest", "both"}, keyword only
        The most positive, the most negative, or `k` of each, `2 k` different ones.
    size : int, keyword only, optional
        n, for a function.
    tol : float, keyword only, default 1e-9
        Tolerance of the residuals, relative to the largest absolute eigenvalue; in float32, at
        least ten units in the last place.
    max_products : int, keyword only, default 1000
        The largest number of products allowed. At most as many vectors are kept.
    seed : int, keyword only, default 0
        Seed of the random starts.

    Returns
    -------
    Eigenpairs

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError, UnsupportedError
        If an argument is not as above. An array that is not symmetric to 1e-10 of its largest
        element (1e-5 in float32) raises `ArgumentError`, any other such matrix `DataError`.
    DivergedError
        If `max_products` do not suffice.

    Notes
    -----
    Lanczos' method, with every vector orthogonalized twice against all others, so that no
    eigenvalue is found twice. A single start can never reveal that an eigenvalue is multiple, as
    for a network with several outputs and `nn.MSELoss`: for ``k > 1``, the search continues in the
    orthogonal complement of the eigenvectors found, until it finds nothing further out. Power
    iteration, which finds the largest magnitude, could return a negative eigenvalue as the largest.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> tw.curvature.top_eigenvalues(np.diag([1.0, -5.0, 3.0])).values.round(6)
    array([3.])
    >>> tw.curvature.top_eigenvalues(lambda v: 2 * v, size=4, k=2).values.round(6)
    array([2., 2.])
    """
    k = _checks.integer("k", k, 1)
    _checks.one_of("which", which, get_args(Which))
    tol = _checks.real("tol", tol, 0, 1, "()")
    limit = _checks.integer("max_products", max_products, 1)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    matvec, n, eps = matrix_of(model, x, y, loss, kind, size, sample_weight, training)
    wanted = 2 * k if which == "both" else k
    if wanted > n:
        raise ArgumentError(
            f"k={k} with which={which!r} asks for more than the {n} eigenvalues of the matrix"
        )
    search = _Search(matvec, n, max(tol, 10 * eps), limit, rng)
    signs = {"largest": [1], "smallest": [-1], "both": [1, -1]}[which]
    search.run(k, signs)
    columns = [index for sign in signs for index in search.outermost(k, sign)]
    return Eigenpairs(
        search.values[columns],
        np.ascontiguousarray(search.vectors[columns].T),
        search.residuals[columns],
        search.products,
    )


class _Search:
    """Eigenpairs found so far, and runs that find more, orthogonal to them."""

    def __init__(
        self, matvec: Matvec, n: int, tol: float, limit: int, rng: np.random.Generator
    ) -> None:
        self.matvec, self.n, self.tol, self.limit, self.rng = matvec, n, tol, limit, rng
        self.values = np.empty(0)
        self.vectors = np.empty((0, n))
        self.residuals = np.empty(0)
        self.products = 0
        self.scale = 0.0

    def outermost(self, k: int, sign: int) -> list[int]:
        """Return the indices of the `k` outermost values, in order; of 2k values, others each."""
        ascending = np.argsort(self.values, kind="stable")
        return [int(i) for i in ascending[::-sign][:k]]

    def run(self, k: int, signs: list[int]) -> None:
        wanted = k * len(signs)
        while True:
            known = len(self.values)
            before = [self.values[self.outermost(k, sign)] for sign in signs]
            self._once(k, signs)
            after = [self.values[self.outermost(k, sign)] for sign in signs]
            if len(self.values) == self.n:
                return
            # Any start finds the outermost eigenvalue; copies of it may hide behind each other.
            if k == 1 and len(self.values) >= wanted:
                return
            slack = self.tol * self.scale
            if known >= wanted and all(
                (abs(a - b) <= slack).all() for a, b in zip(after, before, strict=True)
            ):
                return

    def _once(self, k: int, signs: list[int]) -> None:
        """Run once, orthogonal to what is known, and add the outermost values found."""

        def count(t: Tridiagonal) -> int:
            return min(k, len(t.alpha))

        def converged(t: Tridiagonal) -> bool:
            values, small = t.eigh()
            bound = self.tol * max(self.scale, float(np.abs(values).max()))
            error = np.abs(t.beta[-1] * small[-1])
            ends = {1: slice(len(values) - count(t), None), -1: slice(0, count(t))}
            return len(values) >= k and all((error[ends[sign]] <= bound).all() for sign in signs)

        left = self.limit - self.products
        start = self.rng.standard_normal(self.n)
        t = lanczos(self.matvec, start, max(left, 1), against=self.vectors, done=converged)
        self.products += len(t.alpha)
        complete = t.beta[-1] == 0.0 or len(t.alpha) + len(self.values) == self.n
        if not complete and not converged(t):
            raise DivergedError(
                f"the eigenvalues have not converged to tol={self.tol:g} after {self.limit} "
                "products with the matrix: increase max_products or tol"
            )
        values, small = t.eigh()
        self.scale = max(self.scale, float(np.abs(values).max()))
        chosen = sorted(
            {i if sign < 0 else len(values) - 1 - i for sign in signs for i in range(count(t))}
        )
        vectors = small[:, chosen].T @ t.basis
        self.vectors = np.concatenate([self.vectors, vectors])
        self.values = np.concatenate([self.values, values[chosen]])
        errors = [
            length(apply(self.matvec, v) - value * v)
            for v, value in zip(vectors, values[chosen], strict=True)
        ]
        self.products += len(errors)
        # By Lanczos' own estimate they are below tol, which holds only for symmetric matrices.
        if (worst := max(errors)) > self.tol**0.5 * self.scale:
            raise DataError(
                f"the product with a computed eigenvector is off by {worst:.1e}, with eigenvalues "
                f"up to {self.scale:.1e}: the matrix is not symmetric, or changes between products"
            )
        self.residuals = np.concatenate([self.residuals, errors])
