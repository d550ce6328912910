"""What both estimators have in common: arguments, `fit`, and the network behind them."""

import copy
import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from thalweg import Trainer, _arrays, _habits, nn, optim
from thalweg._arrays import Array, Samples
from thalweg.errors import ArgumentError, DataError
from thalweg.nn._losses import CoreLoss
from thalweg.nn._sequential._base import dtype_name
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.sklearn import _arguments, _network
from thalweg.sklearn._stopping import Stopping


class Objective(NamedTuple):
    """A loss, and what scikit-learn makes of it."""

    loss: CoreLoss
    #: scikit-learn's gradient over that of the loss.
    scale: float = 1.0
    #: scikit-learn's figure over the loss. Of squares of several outputs its figure is the mean,
    #: but its gradient that of the sum.
    factor: float = 1.0
    #: And what is added to it, of targets alone.
    offset: float = 0.0

    def shown(self, loss: float, penalty: float) -> float:
        """Give scikit-learn's figure, with the penalty in it."""
        return self.factor * loss + self.offset + self.scale * penalty

    def rate(self, lr: float) -> float:
        """Give the learning rate at which descent does the same."""
        return self.scale * lr


class MLP(BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no type information
    """Base of the estimators; `MLPClassifier` documents the arguments."""

    @_habits.takes("MLPClassifier", _arguments.ELSEWHERE)
    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
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
    ) -> None:
        # As scikit-learn wants it: nothing is looked at before `fit`.
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dtype = dtype

    # What the two differ in.

    n_outputs_: int
    out_activation_: str

    @abstractmethod
    def _learn(self, y: npt.NDArray[Any]) -> None:
        """Learn from targets, or classes, how many outputs there are, and of what kind."""

    @abstractmethod
    def _encode(self, y: npt.NDArray[Any], dtype: np.dtype[Any]) -> Any:
        """Make targets what the loss takes."""

    @abstractmethod
    def _objective(self, target: Any, sample_weight: Array | None) -> Objective:
        """Give the loss of targets that are ready."""

    @abstractmethod
    def _score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        """Give the score of samples and targets that are ready."""

    # What can be asked once it is fitted.

    @property
    def model_(self) -> nn.Sequential:
        """The network; its outputs are those before `out_activation_`."""
        return self.trainer_.model

    @property
    def coefs_(self) -> list[Array]:
        """Weights of the dense layers, each of shape (in, out): copies."""
        state = self.model_.state_dict()
        return [state[f"{i}.weight"].T for i in _network.linear_layers(self.model_)]

    @property
    def intercepts_(self) -> list[Array]:
        """Biases of the dense layers, each of shape (out,): copies."""
        state = self.model_.state_dict()
        places = _network.linear_layers(self.model_)
        return [state[f"{i}.bias"] for i in places if f"{i}.bias" in state]

    @property
    def n_layers_(self) -> int:
        """How many layers there are, by scikit-learn's way to count: dense ones, and the input."""
        return len(_network.linear_layers(self.model_)) + 1

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train, from new weights if `warm_start` does not say otherwise.

        Parameters
        ----------
        X : array_like, shape (n, n_features)
            Samples; converted to `dtype`.
        y : array_like, shape (n,) or (n, n_outputs)
            Labels, or for several labels at once zeros and ones; or numbers.
        sample_weight : array_like, shape (n,), optional
            How much each sample counts, numbers from 0 on; see the notes of `MLPClassifier`.

        Returns
        -------
        self
            This estimator.

        Raises
        ------
        ValueError
            If data are not such, or an argument is out of range.
        DivergedError
            If the loss, or a parameter, becomes infinite or NaN.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, *, incremental: bool, classes: Any = None
    ) -> Self:
        self._check_arguments()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        fresh = not hasattr(self, "trainer_") or not (self.warm_start or incremental)
        dtype = np.dtype(dtype_name(self.dtype)) if fresh else self.model_.dtype
        X, y = validate_data(
            self, X, y, dtype=dtype, order="C", multi_output=True, reset=fresh,
            y_numeric=isinstance(self, RegressorMixin),
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if fresh:
            self._learn(y if classes is None else np.asarray(classes))
        target = self._encode(y, dtype)
        weight = _weights(sample_weight, dtype)
        objective = self._objective(target, weight)
        random = check_random_state(self.random_state)
        layers, made = _network.layers(
            X.shape[1], self.hidden_layer_sizes, self.activation, self.n_outputs_
        )
        if fresh:
            factor = 2.0 if self.activation == "logistic" else 6.0
            model = _network.build(layers, made, factor, dtype.name, random)
        elif (model := self.model_).layers != tuple(layers):
            raise ArgumentError(
                "hidden_layer_sizes or activation are others than when training began: it goes on "
                "with the network that there is; fit with warm_start=False makes a new one"
            )
        if fresh or not self._goes_on():
            self._begin()
        if fresh or not incremental or self._solver != self.solver:
            self._solver: Any = self.solver
            optimizer = self._optimizer(objective)
            self.trainer_ = Trainer(model, loss=objective.loss, optimizer=optimizer)
        if self.solver == "lbfgs":
            self._fit_lbfgs(objective, X, target, weight)
        else:
            self._fit_batches(objective, X, target, weight, random, incremental)
        return self

    def _goes_on(self) -> bool:
        """Whether the figures of an earlier fit are those that this one keeps."""
        scores = getattr(self, "validation_scores_", None) is not None
        return hasattr(self, "loss_curve_") != (self.solver == "lbfgs") and (
            scores == bool(self.early_stopping)
        )

    def _begin(self) -> None:
        """Forget the figures of an earlier fit."""
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
            self.__dict__.pop(name, None)
        if self.solver == "lbfgs":
            return
        stops = self.early_stopping
        self.loss_curve_: list[float] = []
        self.best_loss_ = None if stops else math.inf
        self.validation_scores_: list[float] | None = [] if stops else None
        self.best_validation_score_ = -math.inf if stops else None

    def _optimizer(self, objective: Objective) -> optim.Optimizer:
        """Make the optimizer whose updates are scikit-learn's, of this loss of ours."""
        if isinstance(self.solver, optim.Optimizer):
            return copy.deepcopy(self.solver)  # an optimizer belongs to one model
        if self.solver == "adam":
            # Adam does not see a factor of the gradient, beside its epsilon.
            return optim.Adam(
                self.learning_rate_init, (self.beta_1, self.beta_2),
                self.epsilon / objective.scale, convention="keras",
            )  # fmt: skip
        return optim.SGD(  # "lbfgs" takes gradients only
            objective.rate(self.learning_rate_init), self.momentum,
            nesterov=self.nesterovs_momentum and self.momentum > 0, convention="keras",
        )  # fmt: skip

    def _decay(self, objective: Objective, batch_size: int, weight: Array | None) -> float:
        """Give the strength of the penalty, beside the loss of ours."""
        mean = 1.0 if weight is None else float(weight.mean(dtype=np.float64))
        return self.alpha / (batch_size * mean * objective.scale)

    def _fit_lbfgs(self, objective: Objective, x: Samples, target: Any, weight: Any) -> None:
        from thalweg.sklearn import _lbfgs

        decay = objective.scale * self._decay(objective, len(x), weight)
        self.loss_, self.n_iter_ = _lbfgs.train(
            self.trainer_, objective, (x, target, weight),
            decay * _network.matrices(self.model_).astype(np.float64),
            tol=self.tol, max_iter=self.max_iter, max_fun=self.max_fun,
        )  # fmt: skip

    def _fit_batches(
        self, objective: Objective, x: Samples, target: Any, weight: Array | None, random: Any,
        incremental: bool,
    ) -> None:  # fmt: skip
        trainer, held_out = self.trainer_, None
        if self.early_stopping:
            x, target, weight, held_out = self._hold_out(x, target, weight, random)
        size = min(200 if self.batch_size == "auto" else int(self.batch_size), len(x))
        if not isinstance(self.solver, optim.Optimizer):
            # Weight decay cannot do it: Adam's of this convention is another one, and batches of
            # partial_fit differ.
            matrices = _network.matrices(trainer.model)
            strength = self._decay(objective, size, weight)
            trainer._pull(matrices, np.zeros_like(matrices), strength)
        self.n_iter_ = 0
        stopping = Stopping(self, objective, len(x), trainer.penalty, held_out)
        try:
            trainer.fit(
                x, target, epochs=1 if incremental else self.max_iter,
                batch_size=None if self._at_once() else size, shuffle=self.shuffle,
                sample_weight=weight, callbacks=[stopping],
            )  # fmt: skip
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        if stopping.best is not None:
            trainer.model.load_state_dict(stopping.best)
        if self.n_iter_ == self.max_iter and not (stopping.stopped or incremental):
            warnings.warn(
                f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet: increase max_iter, or tol",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _hold_out(
        self, x: Samples, target: Any, weight: Array | None, random: Any
    ) -> tuple[Samples, Any, Array | None, tuple[Samples, Any, Array | None]]:
        """Set a part of the data aside: what is left, and that part."""
        arrays = [x, target] if weight is None else [x, target, weight]
        # As scikit-learn does it: shares of classes are kept of two.
        binary = isinstance(self, ClassifierMixin) and self.n_outputs_ == 1
        parts = train_test_split(
            *arrays, random_state=random, test_size=self.validation_fraction,
            stratify=target if binary else None,
        )  # fmt: skip
        train, test = parts[::2], parts[1::2]
        if len(test[0]) < 2:
            raise ValueError(
                f"{len(test[0])} of {len(x)} samples is held out, and two are needed: increase "
                "validation_fraction, or give more data"
            )
        if weight is None:
            train, test = [*train, None], [*test, None]
        return train[0], train[1], train[2], (test[0], test[1], test[2])

    def _outputs(self, X: Any) -> Array:
        """Give the network's outputs of any data."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=self.model_.dtype, order="C", reset=False)
        return self.model_(X)

    def _at_once(self) -> bool:
        """Whether every step is of all data."""
        return isinstance(self.solver, FullBatchOptimizer) or bool(self.solver == "lbfgs")

    def _takes_batches(self) -> bool:
        """Whether there is `partial_fit`."""
        if self._at_once():
            raise AttributeError(
                f"partial_fit is only available for solvers that take batches; solver is "
                f"{self.solver!r}, which takes all data at once"
            )
        return True

    def _check_arguments(self) -> None:
        """Raise if one of them is out of range."""
        _arguments.check(self)


def _weights(value: Any, dtype: np.dtype[Any]) -> Array | None:
    """Give weights of samples; the penalty depends on their mean, so they are looked at first."""
    weight = _arrays.weights(value, dtype, "sample_weight")
    if weight is None:
        return None
    _arrays.finite(weight, "sample_weight")
    if (weight < 0).any():
        row = int((weight < 0).argmax())
        raise DataError(f"sample_weight[{row}] is {weight[row]:g}; numbers from 0 on are needed")
    if not weight.any():
        raise DataError("sample_weight is zero for all samples; some must count")
    return weight
