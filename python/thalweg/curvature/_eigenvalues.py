"""The outermost eigenvalues of a symmetric matrix that is seen through products."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _parts
from thalweg._norms import length
from thalweg.curvature._lanczos import Tridiagonal, apply, lanczos
from thalweg.curvature._operator import Matvec, Operator
from thalweg.errors import ArgumentError, DataError, DivergedError
from thalweg.nn import Loss, Sequential

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Eigenpairs:
    r"""Some eigenvalues of a symmetric matrix.

    Attributes
    ----------
    values : ndarray, shape (k,)
        The largest first; the smallest first if those were asked for; first the largest, then the
        smallest if both were.
    vectors : ndarray, shape (n, k)
        Their eigenvectors, columns of length 1.
    residuals : ndarray, shape (k,)
        :math:`|A v - \lambda v|`: there is an eigenvalue as close as this to each value.
    products : int
        Products with the matrix that it took.
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
    kind: str | None,
    size: Any,
    sample_weight: Any = None,
    training: bool | None = None,
    *,
    symmetric: bool = True,
) -> tuple[Matvec, int, float]:
    """Give what multiplies by the matrix that is meant, its size, and its precision.

    An array that is to be `symmetric` is seen to be so.
    """
    of_model = {
        "x": x, "y": y, "loss=": loss, "kind=": kind, "sample_weight=": sample_weight,
        "training=": training,
    }  # fmt: skip
    if isinstance(model, Sequential):
        if loss is None or x is None or y is None:
            raise ArgumentError("for a model, x, y and loss= are needed")
        if size is not None:
            raise ArgumentError("size= goes with a matvec; a model has its own")
        kind = "hessian" if kind is None else kind
        training = True if training is None else training
        model = Operator(
            model, x, y, loss=loss, kind=kind, sample_weight=sample_weight, training=training
        )
    elif not (callable(model) or hasattr(model, "matvec")) and (
        hasattr(model, "model") or hasattr(model, "model_")
    ):
        _parts.checked(model)  # a trainer or an estimator has one
    elif given := [name for name, value in of_model.items() if value is not None]:
        raise ArgumentError(
            "x, y, loss=, kind=, sample_weight= and training= go with a model, not with a matrix"
            + (" (an Operator is made with its own)" if isinstance(model, Operator) else "")
            + f"; leave out {', '.join(given)}"
        )
    if isinstance(model, np.ndarray):
        model = _arrays.as_numeric(model, "the matrix")
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
    if not callable(model):
        raise ArgumentError(
            "an nn.Sequential, an Operator, a square array, or a function v -> A v with size= is "
            f"needed; got {model!r}"
        )
    return model, _checks.integer("size", size, 1), float(np.finfo(float).eps)


def _expect_symmetric(a: npt.NDArray[Any]) -> None:
    """Raise unless an array is symmetric, as nearly as its dtype lets products of others be."""
    rounding = float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0
    a = a.astype(np.float64)  # differences of unsigned numbers are none
    with np.errstate(over="ignore", invalid="ignore"):  # infinite is unequal; products find NaN
        unequal = np.abs(a - a.T)
    if unequal.max() > max(1e-10, 100 * rounding) * np.abs(a).max():
        i, j = (int(k) for k in np.unravel_index(int(unequal.argmax()), a.shape))
        raise ArgumentError(
            f"the matrix must be symmetric, but at [{i}, {j}] it is {a[i, j]:g} and at [{j}, {i}] "
            f"{a[j, i]:g}; if rounding made them differ, pass (a + a.T) / 2, and else "
            "numpy.linalg.eigvals finds its eigenvalues"
        )


def top_eigenvalues(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    loss: Loss | None = None,
    k: int = 1,
    which: str = "largest",
    kind: str | None = None,
    size: int | None = None,
    tol: float = 1e-9,
    max_products: int = 1000,
    seed: int = 0,
    sample_weight: Any = None,
    training: bool | None = None,
) -> Eigenpairs:
    r"""Find the largest or the smallest eigenvalues, by their sign and not by their size.

    Parameters
    ----------
    model : Sequential, Operator, ndarray or callable
        A model with the batch that follows; or any symmetric matrix of shape (n, n) that multiplies
        (an array, an `Operator`, SciPy's ``LinearOperator``); or a function that gives the product
        with a vector, with `size`.
    x, y, loss, kind, sample_weight, training
        As for `Operator`, with its defaults where they are None, and for a model only. All of `x`
        is one batch: for the eigenvalues over a data set, give the whole data set.
    k : int, keyword only, default 1
        How many, each as often as it occurs.
    which : {"largest", "smallest", "both"}, keyword only
        The most positive, the most negative, or `k` of each.
    size : int, keyword only, optional
        n, for a function.
    tol : float, keyword only, default 1e-9
        Residuals go down to this part of the largest absolute eigenvalue; in float32 to ten
        units in its last place if that is more.
    max_products : int, keyword only, default 1000
        How many products are too many. As many vectors are kept at most.
    seed : int, keyword only, default 0
        Where random starts come from.

    Returns
    -------
    Eigenpairs

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError, UnsupportedError
        If an argument is not as above; an array that is not symmetric to 1e-10 of its largest
        number is an `ArgumentError` (in float32 to 1e-5), any other such matrix a `DataError`.
    DivergedError
        If `max_products` do not suffice.

    Notes
    -----
    Lanczos' method, with every vector orthogonalized twice against all others, so that no
    eigenvalue is found twice. A single start can never show that an eigenvalue is a double one, as
    those of a network with several outputs and `nn.MSELoss` are: for ``k > 1`` the search goes on,
    beside the eigenvectors that were found, until it finds nothing that is further out. Power
    iteration, which finds what is largest in size, would give a negative one for the largest.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> tw.curvature.top_eigenvalues(np.diag([1.0, -5.0, 3.0])).values.round(6)
    array([3.])
    >>> tw.curvature.top_eigenvalues(lambda v: 2 * v, size=4, k=2).values.round(6)
    array([2., 2.])
    """
    k = _checks.integer("k", k, 1)
    which = _checks.one_of("which", which, ("largest", "smallest", "both"))
    tol = _checks.real("tol", tol, 0, 1, "()")
    limit = _checks.integer("max_products", max_products, 1)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    matvec, n, eps = matrix_of(model, x, y, loss, kind, size, sample_weight, training)
    wanted = 2 * k if which == "both" else k
    if wanted > n:
        raise ArgumentError(f"k={k} with which={which!r} is more than the {n} there are")
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
    """Eigenpairs found so far, and runs that find more beside them."""

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
        """Give the places of the `k` values that are furthest out, in order."""
        return [int(i) for i in np.argsort(-sign * self.values, kind="stable")[:k]]

    def run(self, k: int, signs: list[int]) -> None:
        while True:
            before = [self.values[self.outermost(k, sign)] for sign in signs]
            self._once(k, signs)
            after = [self.values[self.outermost(k, sign)] for sign in signs]
            # One eigenvalue is the outermost of any start; more may hide behind each other.
            if k == 1 or len(self.values) == self.n:
                return
            slack = self.tol * self.scale
            enough = all(len(b) == k for b in before)
            if enough and all(
                (abs(a - b) <= slack).all() for a, b in zip(after, before, strict=True)
            ):
                return

    def _once(self, k: int, signs: list[int]) -> None:
        """One run beside what is known: adds the outermost values that it finds."""

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
                f"{self.limit} products with the matrix have not brought the eigenvalues to "
                f"tol={self.tol:g}: allow more (max_products), or a larger tol"
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
        # By Lanczos' own estimate they are below tol; that holds for symmetric matrices.
        if (worst := max(errors)) > self.tol**0.5 * self.scale:
            raise DataError(
                f"a product with an eigenvector found is off by {worst:.1e}, beside eigenvalues up "
                f"to {self.scale:.1e}: not a symmetric matrix, or "
                "another one each time"
            )
        self.residuals = np.concatenate([self.residuals, errors])
