"""Matrices of second derivatives, as operators that multiply vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _core, _parts
from thalweg._arrays import Array, Targets
from thalweg._habits import takes
from thalweg.curvature import _differences
from thalweg.errors import ShapeError, UnsupportedError
from thalweg.nn import DerivativeLoss, Loss, Sequential
from thalweg.nn._losses import FunctionLoss, LossFunction, NoLoss, loss_of

#: The names of the available matrices.
Kind: TypeAlias = Literal["hessian", "gauss_newton", "fisher"]

Vector = npt.NDArray[np.float64]
#: What `hvp`, `gnvp` and `fisher_vp` keep for the next call on the same model, if that is less than
#: about `_LEFT` numbers: loops over them are then as fast as an operator.
_POINTS: WeakKeyDictionary[Sequential, _core.Point] = WeakKeyDictionary()
_LEFT = 4_000_000
#: Multiplies a vector of shape (n,) by a symmetric matrix.
Matvec = Callable[[Any], Any]


class Operator:
    r"""A symmetric matrix over a model's parameters that multiplies vectors without being formed.

    Parameters
    ----------
    model : Sequential
        Left unchanged, but read in every product: after a training step, the matrix differs.
    x : array_like, shape (n, in_features)
        As in `Trainer.fit`. All rows form one batch.
    y : array_like, or dict of these
        As in `Trainer.fit`. Of `x`, `y` and `sample_weight`, what needs no conversion is not
        copied: products see later changes of such arrays, but not of others. After changing one in
        place, make a new operator.
    loss : Loss or callable, keyword only
        As for `Trainer`, e.g. ``nn.CrossEntropyLoss()``.
    kind : {"hessian", "gauss_newton", "fisher"}, keyword only
        See the notes.
    sample_weight : array_like, shape (n,), keyword only, optional
        As in `Trainer.fit`.
    training : bool, keyword only, default True
        Whether the network behaves as in a training step: `nn.BatchNorm1d` uses statistics of the
        batch, which are differentiated through, and `nn.Dropout` drops what the next pass would
        drop, the same in every product. With False, it behaves as in evaluation.

    Attributes
    ----------
    shape : tuple of two int
        (num_parameters, num_parameters)
    dtype : numpy.dtype
        The model's, in which products are computed: in float32, to about six digits. For a custom
        loss it is that of the function's gradient, see the notes.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError
        If an argument is not as above. That shapes, labels, weights and numbers of rows fit the
        model and each other, and that the loss is defined for the outputs, is checked by the
        products; of a custom loss, already when the operator is made.
    UnsupportedError
        For the Fisher information of a custom loss, or one that is not a negative log-likelihood;
        and for "gauss_newton" of an `nn.DerivativeLoss`.

    Warns
    -----
    UserWarning
        If the differences that a custom loss needs, see the notes, are uncertain.

    Notes
    -----
    With the loss :math:`L(\theta)` of the batch, the outputs :math:`f(\theta)` and their Jacobian
    :math:`J`,

    .. math::

        H = \nabla_\theta^2 L, \qquad G = J^\top (\nabla_f^2 L)\, J, \qquad
        F = J^\top\, \mathbb{E}_{y \sim p(y | f)}[\nabla_f^2 L]\, J

    are "hessian", "gauss_newton" and "fisher". :math:`H` differs from :math:`G` by the curvature of
    the network. :math:`F = G` for `nn.MSELoss` (up to a constant factor the negative log-likelihood
    of a normal distribution), `nn.CrossEntropyLoss`, `nn.BCEWithLogitsLoss` and
    `nn.PoissonNLLLoss` of logarithms; but not for `nn.GaussianNLLLoss`, whose :math:`G` may have
    negative eigenvalues. :math:`F` is the expectation over labels drawn from the model, never the
    "empirical Fisher" of the true ones. Kinks, as of `nn.ReLU` or `nn.L1Loss`, are ignored: the
    second derivative there is that next to them. Where `nn.GaussianNLLLoss` bounds a variance,
    derivatives pass through the bound, as its gradient does: :math:`H` is what differentiating
    twice gives in PyTorch, and not a second derivative of the loss, which is constant along that
    variance.

    A product is exact, by forward-over-reverse differentiation [1]_ and, for :math:`G`, as in [2]_,
    and takes about twice as long as a gradient. What depends only on the point, such as
    outputs and gradients of layers, is computed by the first product, which takes about half as
    long again, and kept (up to 256 MB; beyond that, every product is a first one) until parameters
    or data change. They are compared each time, so that an operator is never out of date. Its
    memory is reused at the next point, while a new operator has to allocate it.

    Of a custom loss, :math:`\nabla_f^2 L` is not known. In each product it multiplies one vector,
    :math:`J v`; that is a difference of gradients with respect to the outputs, and all the rest is
    exact. Of an `nn.DerivativeLoss`, a product is such a difference of gradients with respect to
    the parameters. Two central differences, of which one step is ten times the other, are combined
    so that errors of second order cancel. The larger step is about :math:`\varepsilon^{1/5}` times
    the size of the outputs or parameters, or times 1 if they are smaller; both become smaller until
    the two differences agree, for losses that bend on a smaller scale. The function is called four
    times or more.

    All this happens on a float64 copy of the model, whatever its dtype, and loses about four of the
    digits that the gradient has. Of the sixteen of float64, ten or more are usually left; of the
    seven of float32, in which JAX computes by default, three to five. Fewer are left if the
    gradient itself has lost digits, as p - 1 where a classifier is certain, or sines of large
    arguments; and second derivatives below its rounding errors are lost without a warning. The
    function must be deterministic, and depend on the parameters only through what it is called
    with.

    SciPy accepts it as a linear operator: ``scipy.sparse.linalg.aslinearoperator(operator)``.

    References
    ----------
    .. [1] Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6.
    .. [2] Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient
       descent", Neural Computation 14.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 1, bias=False), dtype="float64")
    >>> x, y = np.diag([1.0, 2.0, 3.0]), np.zeros(3)
    >>> h = tw.curvature.Operator(model, x, y, loss=nn.MSELoss())
    >>> (h @ np.ones(3)).round(3)  # 2/n X'X
    array([0.667, 2.667, 6.   ])
    """

    @takes("Operator", {})
    def __init__(
        self,
        model: Sequential,
        x: npt.ArrayLike,
        y: Targets,
        *,
        loss: Loss | LossFunction,
        kind: Kind = "hessian",
        sample_weight: npt.ArrayLike | None = None,
        training: bool = True,
    ) -> None:
        _parts.checked(model)
        self.kind = _checks.one_of("kind", kind, get_args(Kind))
        self._training = _checks.flag("training", training)
        self._model = model
        self.shape = (model.num_parameters, model.num_parameters)
        found = loss_of(loss)
        self._differences: _differences.Differences | None = None
        if isinstance(found, FunctionLoss):
            _expect_known(found, self.kind)
            self._differences = _differences.of(model, x, y, found, sample_weight, self._training)
            self.dtype = np.dtype(np.float32 if self._differences.single else np.float64)
            return
        self._loss = found
        self._spec = found._spec(model.out_features)
        self._point = _core.Point()
        self._x = model._matrix(x, "x")
        self._y: Any = found._ready(y, model.dtype, model.out_features, "y")
        self._weight = _arrays.weights(sample_weight, model.dtype, "sample_weight")
        self.dtype = model.dtype

    def __repr__(self) -> str:
        n = self.shape[0]
        rows = len(self._x) if self._differences is None else self._differences.rows
        return f"Operator({self.kind}, {n} x {n}, {self.dtype.name}, over {rows} rows)"

    def __getstate__(self) -> dict[str, Any]:
        # A copy computes again what products share.
        return {name: value for name, value in self.__dict__.items() if name != "_point"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._point = _core.Point()

    @property
    def model(self) -> Sequential:
        """The model whose parameters the matrix refers to."""
        return self._model

    def matvec(self, v: npt.ArrayLike) -> Array:
        """Multiply a vector by the matrix.

        Parameters
        ----------
        v : array_like, shape (num_parameters,)
            In the order of `Sequential.flat_parameters`.

        Returns
        -------
        ndarray, shape (num_parameters,), of `dtype`

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `v` or the data do not fit.
        """
        v = _arrays.flat(v, self.dtype, self.shape[0], "v")
        if self._differences is not None:
            whole = self.kind == "hessian"
            return self._differences.product(v.astype(np.float64), whole).astype(self.dtype)
        core = self._model._core
        product = _core.curvature_product(
            self._point,
            core,
            self._spec,
            self._x,
            self._y,
            v,
            self.kind,
            self._training,
            self._weight,
        )
        if self._loss._why_nan("", None, None):  # is undefined for some outputs: derivatives exist
            output, _ = _core.jvp(core, self._x, np.zeros_like(v), self._training)
            self._loss(output, self._y, self._weight)  # raises there
        return product

    def __matmul__(self, v: npt.ArrayLike) -> Array:
        """Multiply a vector, or the columns of a matrix, by the matrix."""
        v = _arrays.as_numeric(v, "v")
        if v.ndim == 1:
            return self.matvec(v)
        if v.ndim != 2:
            raise ShapeError(f"v must be of shape (n,) or (n, k); got shape {v.shape}")
        into = np.empty(v.shape, self.dtype)
        for j, column in enumerate(v.T):
            into[:, j] = self.matvec(column)
        return into

    def dense(self) -> Array:
        """Form the matrix, by one product for each column: for small models.

        Returns
        -------
        ndarray, shape (num_parameters, num_parameters), of `dtype`
        """
        return self @ np.eye(self.shape[0], dtype=self.dtype)


def _expect_known(loss: FunctionLoss, kind: str) -> None:
    """Raise unless `kind` can be computed for a loss that is a function."""
    if isinstance(loss, NoLoss):
        loss.function()  # says so
    if kind == "fisher" or (kind == "gauss_newton" and isinstance(loss, DerivativeLoss)):
        what = "a custom loss is not known to be a negative log-likelihood"
        if kind == "gauss_newton":
            what = "a loss on derivatives has no Gauss-Newton matrix of the outputs"
        raise UnsupportedError(
            f'kind="{kind}" is not available: {what}. Use kind="hessian", or a loss that the core '
            "computes, nn.MSELoss(), nn.CrossEntropyLoss() and so on"
        )


@takes("curvature.hvp", {})
def hvp(
    model: Sequential,
    x: npt.ArrayLike,
    y: Targets,
    v: npt.ArrayLike,
    *,
    loss: Loss | LossFunction,
    sample_weight: npt.ArrayLike | None = None,
    training: bool = True,
) -> Array:
    """Multiply a vector by the Hessian of the loss with respect to the parameters.

    Parameters
    ----------
    model : Sequential
        Left unchanged.
    x, y, loss, sample_weight, training
        As for `Operator`.
    v : array_like, shape (num_parameters,)
        In the order of `Sequential.flat_parameters`.

    Returns
    -------
    ndarray, shape (num_parameters,)
        Of the model's dtype; for a custom loss, of that of its gradient, as for `Operator`.

    Raises
    ------
    ArgumentError, ShapeError, DataError, DtypeError, UnsupportedError
        As for `Operator`.

    See Also
    --------
    Operator : for many products, and for the formulas. For small batches (up to about 20 MB), this
        function, too, keeps what it computes for the next call, as long as the model lives.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), dtype="float64")
    >>> tw.curvature.hvp(model, np.eye(2), [0, 0], [3, 4], loss=nn.MSELoss())
    array([3., 4.])
    """
    return _product("hessian", model, x, y, v, loss, sample_weight, training)


@takes("curvature.gnvp", {})
def gnvp(
    model: Sequential,
    x: npt.ArrayLike,
    y: Targets,
    v: npt.ArrayLike,
    *,
    loss: Loss | LossFunction,
    sample_weight: npt.ArrayLike | None = None,
    training: bool = True,
) -> Array:
    """Multiply a vector by the Gauss-Newton matrix of the loss; everything as for `hvp`."""
    return _product("gauss_newton", model, x, y, v, loss, sample_weight, training)


@takes("curvature.fisher_vp", {})
def fisher_vp(
    model: Sequential,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    loss: Loss,
    sample_weight: npt.ArrayLike | None = None,
    training: bool = True,
) -> Array:
    """Multiply a vector by the Fisher information of the parameters; else as for `hvp`.

    Only the shape of `y` matters, and which labels are ignored: expectations are over targets drawn
    from the model. (A row of probabilities that do not sum to 1 counts as many times as its sum.)
    For a loss that is a mean, so is the Fisher information.
    """
    return _product("fisher", model, x, y, v, loss, sample_weight, training)


def _product(
    kind: Kind, model: Sequential, x: Any, y: Any, v: Any, loss: Any, weight: Any, training: bool
) -> Array:
    operator = Operator(model, x, y, loss=loss, kind=kind, sample_weight=weight, training=training)
    if operator._differences is not None:
        return operator.matvec(v)
    # The memory needed: about ten numbers for each unit and row, and three for each parameter.
    units = sum(shape[0] for _, shape in model._core.blocks() if len(shape) == 2)
    if 10 * len(operator._x) * units + 3 * operator.shape[0] < _LEFT:
        operator._point = _POINTS.setdefault(model, operator._point)
    else:
        _POINTS.pop(model, None)
    return operator.matvec(v)
