"""The regressor."""

from __future__ import annotations

import math
from typing import Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from thalweg import _arrays, _checks, _habits, nn
from thalweg._arrays import Array, Samples
from thalweg.errors import ArgumentError
from thalweg.nn._losses import CoreLoss, FunctionLoss
from thalweg.sklearn import _arguments, _losses
from thalweg.sklearn._base import MLP, Objective

# Made once, as every `partial_fit` needs them.
_SQUARED_ERROR, _POISSON = nn.MSELoss(), nn.PoissonNLLLoss()
#: How far from 0.5 the median of a grid of quantiles may be, as by np.linspace(0.05, 0.95, 19).
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


class MLPRegressor(RegressorMixin, MLP):  # type: ignore[misc]  # as that of MLP
    r"""A regressor: scikit-learn's `MLPRegressor`, trained in the core.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, Loss or callable, default "squared_error"
        What is minimized. With "poisson", for non-negative targets, outputs are logarithms of what
        `predict` returns. As in scikit-learn since 1.7, it is the first argument. Here it can also
        be `nn.MSELoss`, `nn.L1Loss`, `nn.HuberLoss`, `nn.PoissonNLLLoss` (whose outputs are such
        logarithms, too), `nn.QuantileLoss` with one quantile or several, or `nn.GaussianNLLLoss`,
        with which `predict` also returns standard deviations; or a function ``(output, target) ->
        (loss, gradient)``, see `nn.CustomLoss`, whose arrays both have shape (n, n_outputs).
    hidden_layer_sizes, activation, solver, alpha, ..., dtype
        All other arguments are as for `MLPClassifier`.
    scoring : {"loss"} or None, keyword only, default None
        What early stopping follows: R², or with "loss" the loss on the held-out data.

    Attributes
    ----------
    validation_scores_, best_validation_score_ : list of float and float, or None
        With early stopping, R² on the held-out data; with ``scoring="loss"``, or if `loss` is not
        one of scikit-learn's names, minus the loss. Not with "lbfgs".
    n_outputs_ : int
        The number of targets. The network has one output for each quantile of each, and with
        `nn.GaussianNLLLoss` two.
    loss_, loss_curve_, n_iter_, coefs_, ..., model_
        All others are as for `MLPClassifier`.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.

    Notes
    -----
    Steps and penalty are those of `MLPClassifier`, with :math:`l_i = \frac12 \sum_j
    (y_{ij} - t_{ij})^2`, or for "poisson" :math:`l_i = \sum_j (e^{y_{ij}} - t_{ij} y_{ij})`. As in
    scikit-learn, reported losses contain the mean over outputs `j` of the squares, and, for
    "poisson", half of the deviance, :math:`l_i + \sum_j (t_{ij} \log t_{ij} - t_{ij})`. An
    optimizer given as `solver` sees the losses of `thalweg.nn`, `nn.MSELoss` or
    `nn.PoissonNLLLoss`. A `loss` that is not one of the names is used as it is: steps follow its
    gradient and that of the penalty, and it is reported together with the penalty.

    `score` is R² whatever the loss, as in scikit-learn's ``QuantileRegressor``. To search for a
    quantile, use ``scoring=make_scorer(mean_pinball_loss, alpha=0.9, greater_is_better=False)``.
    To search for several quantiles or deviations, score what `predict` returns, as below: that also
    works in a pipeline.

    ``tw.onnx.export(network.model_)`` makes an ONNX graph of the network, without a scaler that
    precedes it in a pipeline; with "poisson", ``loss=network.trainer_.loss`` turns its outputs into
    rates. With `warm_start` and `partial_fit`, `loss` must be unchanged, like `dtype`.

    For streams and single rows, ``network.trainer_.step(x, y)`` and ``network.model_(x)`` skip
    an estimator's checks and records, which take longer than the work there, see `MLPClassifier`.

    Targets are used as they are: if they are far from 0 and 1 in magnitude, let
    ``sklearn.compose.TransformedTargetRegressor`` standardize them, which also transforms the
    quantiles of one target back. It does not know standard deviations, nor how to score quantiles:
    there, standardize the targets yourself.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.sklearn import MLPRegressor
    >>> x = np.linspace(-1, 1, 100).reshape(-1, 1)
    >>> network = MLPRegressor(hidden_layer_sizes=(20,), activation="tanh", solver="lbfgs",
    ...                        random_state=0, dtype="float64").fit(x, np.sin(3 * x).ravel())
    >>> network.score(x, np.sin(3 * x)) > 0.99
    True

    A search for means and deviations by their likelihood, and for quantiles by the mean of their
    pinball losses:

    >>> from scipy.stats import norm
    >>> from sklearn.metrics import make_scorer
    >>> from sklearn.model_selection import GridSearchCV
    >>> from thalweg import nn
    >>> def likelihood(network, x, y):
    ...     mean, deviation = network.predict(x, return_std=True)
    ...     return norm.logpdf(y, mean, deviation).mean()
    >>> levels = np.array([0.1, 0.5, 0.9])
    >>> def pinball(y, quantiles):
    ...     above = np.expand_dims(y, -1) - quantiles
    ...     return np.maximum(levels * above, (levels - 1) * above).mean()
    >>> by_pinball = make_scorer(pinball, greater_is_better=False)
    >>> random = np.random.default_rng(0)
    >>> x = random.uniform(-1, 1, (200, 1))
    >>> y = np.sin(3 * x).ravel() + 0.1 * random.standard_normal(200)
    >>> for loss, scoring in ((nn.GaussianNLLLoss(), likelihood),
    ...                       (nn.QuantileLoss(levels), by_pinball)):
    ...     network = MLPRegressor(loss, (20,), learning_rate_init=0.01, tol=0.01, random_state=0)
    ...     search = GridSearchCV(network, {"alpha": [0.001, 10]}, scoring=scoring, cv=2)
    ...     search.fit(x, y).best_params_
    {'alpha': 0.001}
    {'alpha': 0.001}
    """

    _stratifies = False

    @_habits.takes("MLPRegressor", _arguments.ELSEWHERE)
    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dtype: Any = "float32",
        scoring: str | None = None,
    ) -> None:
        self._keep(locals())

    @available_if(MLP._takes_batches)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one pass over these data, continuing from what was learned before.

        Parameters
        ----------
        X, y, sample_weight : array_like
            As for `fit`.

        Returns
        -------
        self
            This estimator.

        Raises
        ------
        ValueError
            As for `fit`.
        AttributeError
            If the solver needs all data at once: the method does not exist then.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    @overload
    def predict(self, X: Any, return_std: Literal[False] = False) -> Array: ...

    @overload
    def predict(self, X: Any, return_std: Literal[True]) -> tuple[Array, Array]: ...

    def predict(self, X: Any, return_std: bool = False) -> Array | tuple[Array, Array]:
        r"""Predict the targets of each row.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples, as for `fit`; but sparse ones are made dense 16,384 at a time.
        return_std : bool, default False
            Whether to return standard deviations, too, as scikit-learn's ``BayesianRidge`` and
            ``GaussianProcessRegressor`` do. That takes ``loss=nn.GaussianNLLLoss()``, and they are
            those of the noise in the targets, :math:`\sqrt v` there: what the network does not know
            for lack of data is not in them.

        Returns
        -------
        y : ndarray, shape (n,) or (n, n_outputs), of the model's dtype
            The predictions: means with `nn.GaussianNLLLoss`. With m > 1 quantiles, there is one
            more axis, the last, of length m. Rates of "poisson" are exponentials: infinite, without
            a warning, where the dtype has no number as large, far from all that was learned.
        y_std : ndarray, shape (n,) or (n, n_outputs)
            The standard deviations, only with `return_std`; exponentials, as are rates.

        Raises
        ------
        ValueError
            If the samples do not fit, or `return_std` is set and the loss has no deviations.
        """
        output = self._outputs(X)
        predicted = self._numbers(output)
        if not _checks.flag("return_std", return_std):
            return predicted
        loss = self._network_of["loss"]  # as it was given to this fit
        if not isinstance(loss, nn.GaussianNLLLoss):
            raise ArgumentError(
                "return_std=True needs a regressor fitted with loss=nn.GaussianNLLLoss(), which "
                f"predicts deviations beside means; this one has {loss!r}"
            )
        log_variance = output[:, self.n_outputs_ :]
        deviation = np.maximum(_exp(log_variance / 2), math.sqrt(loss.eps))
        return predicted, deviation.reshape(predicted.shape)

    def _numbers(self, output: Array) -> Array:
        """Turn outputs into predictions."""
        loss, targets = self.trainer_.loss, self.n_outputs_
        if self.out_activation_ == "exp":
            output = _exp(output)
        if isinstance(loss, nn.GaussianNLLLoss):
            output = output[:, :targets]
        elif _losses.outputs_per_target(loss) > 1:  # the targets of one quantile after the other
            output = output.reshape(len(output), -1, targets).swapaxes(1, 2)
        return np.ascontiguousarray(output[:, 0] if targets == 1 else output)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute R², the coefficient of determination, of what `predict` returns.

        Parameters
        ----------
        X, y, sample_weight : array_like
            As for `fit`.

        Returns
        -------
        float
            For several quantiles, R² of the median, which must be one of them, up to rounding.

        Raises
        ------
        ValueError
            If the data do not fit, or no quantile of several is 0.5: none of them is then to be
            close to the targets.
        """
        predicted, loss = self.predict(X), self.trainer_.loss
        if isinstance(loss, nn.QuantileLoss) and len(loss.quantiles) > 1:
            off = np.abs(np.subtract(loss.quantiles, 0.5))
            if off.min() > _ROUNDING:
                raise ArgumentError(
                    f"score is R² of the median, but the quantiles are {loss.quantiles}: add 0.5, "
                    "or score all of them, scoring=make_scorer(pinball, greater_is_better=False), "
                    "where pinball(y, quantiles) is the mean of their losses: see the examples of "
                    "MLPRegressor"
                )
            predicted = predicted[..., off.argmin()]
        return float(r2_score(y, predicted, sample_weight=sample_weight))

    def _learn(self, y: npt.NDArray[Any], classes: npt.NDArray[Any] | None) -> None:
        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
        given = self._given_loss()
        rates = given == "poisson" or isinstance(given, nn.PoissonNLLLoss)
        self.out_activation_ = "exp" if rates else "identity"

    def _width(self) -> int:
        return self.n_outputs_ * _losses.outputs_per_target(self._given_loss())

    def _encode(self, y: Any, dtype: np.dtype[Any]) -> Array:
        target = _arrays.as_dtype(_arrays.as_numeric(y, "y").reshape(len(y), -1), dtype, "y")
        if target.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has shape {y.shape}, but this regressor was fitted with "
                f"n_outputs_={self.n_outputs_}"
            )
        return target

    def _given_loss(self) -> str | CoreLoss | FunctionLoss:
        return _losses.of_regressor(self.loss)

    def _objective(self, target: Any, sample_weight: Array | None) -> Objective:
        outputs, given = self.n_outputs_, self._given_loss()
        if not isinstance(given, str):
            return Objective(given)
        if given == "squared_error":
            return Objective(_SQUARED_ERROR, scale=outputs / 2, factor=0.5)
        t: npt.NDArray[np.float64] = target.astype(np.float64)
        least = np.average(xlogy(t, t) - t, axis=0, weights=sample_weight).sum()
        return Objective(_POISSON, scale=outputs, factor=outputs, offset=float(least))

    def _score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        if not isinstance(self.loss, str):  # for a quantile, R² is not the goal
            return self._minus_loss(x, target, sample_weight)
        predicted = self._numbers(self.model_(x))
        if not np.isfinite(predicted).all():  # as in scikit-learn
            return math.nan
        return float(r2_score(target, predicted, sample_weight=sample_weight))


def _exp(output: Array) -> Array:
    """Compute exponentials, whatever a network puts out: the nearest are 0 and infinity."""
    with np.errstate(over="ignore", under="ignore"):
        found: Array = np.exp(output)
    return found
