"""What both estimators have in common: arguments, `fit`, and the network behind them."""

import copy
import math
import numbers
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from thalweg import Trainer, _arrays, _habits, _warn, nn, optim
from thalweg._arrays import Array, Samples
from thalweg.errors import ArgumentError, DataError, DivergedError, ShapeError
from thalweg.nn._losses import CoreLoss, FunctionLoss
from thalweg.nn._sequential._base import dtype_name
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.sklearn import _arguments, _network
from thalweg.sklearn._stopping import Stopping

#: Formats in which sparse samples are taken, from which rows are made as they are.
_SPARSE = ("csr", "csc")


class Objective(NamedTuple):
    """A loss, and what scikit-learn makes of it."""

    loss: CoreLoss | FunctionLoss
    #: scikit-learn's gradient over that of the loss.
    scale: float = 1.0
    #: scikit-learn's figure over the loss. Of squares of several outputs its figure is the mean,
    #: but its gradient that of the sum.
    factor: float = 1.0
    #: And what is added to it, of targets alone.
    offset: float = 0.0

    def shown(self, loss: float, penalty: float) -> float:
        """Give scikit-learn's figure of this loss, with its penalty in it."""
        return self.factor * loss + self.offset + penalty


class FitDivergedError(DivergedError, ValueError):
    """`DivergedError` of an estimator, where scikit-learn's users expect a `ValueError`."""


class MLP(BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no type information
    """Base of the estimators; `MLPClassifier` documents the arguments."""

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
        scoring: str | None = None,
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
        self.scoring = scoring

    # What the two differ in.

    n_outputs_: int
    out_activation_: str
    #: What the network was made with, which cannot change while it goes on.
    _made_with: dict[str, Any]
    #: `learning_rate_init`, as the optimizer has it.
    _rate: float
    #: `scoring`, of the scores that there are.
    _followed: str | None
    #: Whether what is held out has the shares of two classes that the data have.
    _stratifies: bool

    @abstractmethod
    def _given_loss(self) -> Any:
        """Give the argument `loss` as it is compared and used, or raise."""

    @abstractmethod
    def _learn(self, y: npt.NDArray[Any], classes: npt.NDArray[Any] | None) -> None:
        """Learn from targets, and classes if given, how many outputs there are, of what kind."""

    @abstractmethod
    def _encode(self, y: npt.NDArray[Any], dtype: np.dtype[Any]) -> Any:
        """Make targets what the loss takes."""

    def _weigh(
        self, y: npt.NDArray[Any], weight: Array | None, dtype: np.dtype[Any], incremental: bool
    ) -> Array | None:
        """Give weights of samples, from those that were given, and of what their targets are."""
        return weight

    @abstractmethod
    def _objective(self, target: Any, sample_weight: Array | None) -> Objective:
        """Give the loss of targets that are ready."""

    @abstractmethod
    def _score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        """Give the score of samples and targets that are ready."""

    def _doubt_score(self, target: Any, sample_weight: Array | None) -> None:
        """Warn if the best score of what was held out says little about the weights it kept."""

    # What can be asked once it is fitted.

    @property
    def model_(self) -> nn.Sequential:
        """The network; its outputs are those before `out_activation_`."""
        return self.trainer_.model

    @property
    def coefs_(self) -> list[Array]:
        """Weights of the dense layers, each of shape (in, out): copies."""
        state = self.model_.state_dict()
        return [state[f"{place}.weight"].T for place in _network.dense(self.model_)]

    @property
    def intercepts_(self) -> list[Array]:
        """Biases of the dense layers, each of shape (out,): copies; zeros where there is none."""
        state = self.model_.state_dict()
        return [
            state.get(f"{place}.bias", np.zeros(layer.out_features, self.model_.dtype))
            for place, layer in _network.dense(self.model_).items()
        ]

    @property
    def n_layers_(self) -> int:
        """How many layers there are, by scikit-learn's way to count: dense ones, and the input."""
        return len(_network.dense(self.model_)) + 1

    @_habits.takes("fit", _arguments.OF_FIT)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train, from new weights if `warm_start` does not say otherwise.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples; converted to `dtype`. Sparse ones are made dense, all at once: that takes
            4 n n_features bytes, in float64 8.
        y : array_like, shape (n,) or (n, n_outputs)
            Labels, or for several labels at once zeros and ones; or numbers.
        sample_weight : array_like, shape (n,), or number, optional
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
            If the loss, or a parameter, becomes infinite or NaN; here it is a `ValueError`, too.

        Notes
        -----
        After an error the estimator is as it was: not fitted, or fitted to what it was before.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, *, incremental: bool, classes: Any = None
    ) -> Self:
        before = dict(vars(self))
        # Figures of epochs are lists that grow.
        curves = [before.get(name) for name in ("loss_curve_", "validation_scores_")]
        lengths = [0 if curve is None else len(curve) for curve in curves]
        optimizer = self.trainer_.optimizer if "trainer_" in before else None
        rate: Any = getattr(optimizer, "lr", None)
        try:
            self._train(X, y, sample_weight, incremental, classes)
        except BaseException as error:
            self.__dict__ = before
            for curve, length in zip(curves, lengths, strict=True):
                if curve is not None:
                    del curve[length:]
            if optimizer is not None and getattr(optimizer, "lr", None) != rate:
                optimizer.lr = rate  # that of another `learning_rate_init`
            if not isinstance(error, DivergedError):
                raise
            # It names a rate, which for "sgd" is a multiple of that of the user's.
            more = f"; learning_rate_init is {self.learning_rate_init:g}"
            if self.solver == "lbfgs":
                more = "; lbfgs has no lr: scale the data"
            elif isinstance(self.solver, optim.Optimizer):
                more = ""
            raise FitDivergedError(f"{error}{more}") from error
        return self

    def _train(self, X: Any, y: Any, sample_weight: Any, incremental: bool, classes: Any) -> None:
        self._check_arguments()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        hidden = _network.hidden_layers(self.hidden_layer_sizes)
        behind = _network.activation(self.activation)
        dtype = np.dtype(dtype_name(self.dtype))
        made_with = {
            "hidden_layer_sizes": hidden,
            "activation": behind,
            "loss": self._given_loss(),
            "dtype": dtype,
        }
        fresh = not hasattr(self, "trainer_") or not (self.warm_start or incremental)
        if not fresh:
            _refuse_changes(self._made_with, made_with)
        X, y = validate_data(
            self, X, y, accept_sparse=_SPARSE, dtype=dtype, order="C", multi_output=True,
            reset=fresh,
        )  # fmt: skip
        X, y = _dense(X), _dense(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if fresh:
            self._learn(y, classes)
        target = self._encode(y, dtype)
        weight = self._weigh(y, _weights(sample_weight, dtype, len(X)), dtype, incremental)
        objective = self._objective(target, weight)
        random = check_random_state(self.random_state)
        if fresh:
            layers, made = _network.layers(X.shape[1], hidden, behind, self.n_outputs_)
            factor = 2.0 if self.activation == "logistic" else 6.0
            model = _network.build(layers, made, factor, dtype.name, random)
            self._made_with = made_with
        else:
            model = self.model_
        if fresh or not self._goes_on():
            self._begin()
        if fresh or not incremental or self._solver != self.solver:
            self._solver: Any = self.solver
            optimizer = self._optimizer(objective)
            self.trainer_ = Trainer(model, loss=objective.loss, optimizer=optimizer)
        elif self._rate != self.learning_rate_init:  # of one that goes on
            self.trainer_.optimizer.lr = self._optimizer(objective).lr
        self._rate = self.learning_rate_init
        if self.solver == "lbfgs":
            self._fit_lbfgs(objective, X, target, weight)
        else:
            self._fit_batches(objective, X, target, weight, random, incremental)

    def _goes_on(self) -> bool:
        """Whether the figures of an earlier fit are those that this one keeps."""
        scores = getattr(self, "validation_scores_", None) is not None
        return hasattr(self, "loss_curve_") != (self.solver == "lbfgs") and (
            scores == bool(self.early_stopping) and self._followed == self.scoring
        )

    def _begin(self) -> None:
        """Forget the figures of an earlier fit."""
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        self._followed = self.scoring
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
            objective.scale * self.learning_rate_init, self.momentum,
            nesterov=self.nesterovs_momentum and self.momentum > 0, convention="keras",
        )  # fmt: skip

    def _decay(self, rows: int, weight: Array | None) -> float:
        """Give the strength of scikit-learn's penalty in batches of so many rows."""
        mean = 1.0 if weight is None else float(weight.mean(dtype=np.float64))
        return self.alpha / (rows * mean)

    def _fit_lbfgs(self, objective: Objective, x: Samples, target: Any, weight: Any) -> None:
        from thalweg.sklearn import _lbfgs

        decay = self._decay(len(x), weight) * _network.penalized(self.model_).astype(np.float64)
        self.loss_, self.n_iter_ = _lbfgs.train(
            self.trainer_, objective, (x, target, weight), decay,
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
        if trainer.model._core.average_blocks():  # a BatchNorm1d needs two rows at least
            while len(x) % size == 1:
                size += 1
        penalty = 0.0
        if not isinstance(self.solver, optim.Optimizer):
            # Weight decay cannot do it: Adam's of this convention is another one, and batches of
            # partial_fit differ.
            marks = _network.penalized(trainer.model)
            strength = self._decay(size, weight) / objective.scale
            trainer.set_penalty(marks, np.zeros_like(marks), strength)
            penalty = trainer.penalty
        self.n_iter_ = 0
        stopping = Stopping(self, objective, len(x), penalty, held_out)
        try:
            trainer.fit(
                x, target, epochs=1 if incremental else self.max_iter,
                batch_size=None if self._at_once() else size, shuffle=self.shuffle,
                sample_weight=weight, callbacks=[stopping],
            )  # fmt: skip
        except KeyboardInterrupt:
            _warn.warn("Training interrupted by user.")
        if stopping.best is not None:
            trainer.model.load_state_dict(stopping.best)
            if held_out is not None and self.scoring is None:
                self._doubt_score(*held_out[1:])
        if self.n_iter_ == self.max_iter and not (stopping.stopped or incremental):
            _warn.warn(
                f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet: increase max_iter or tol, or scale the data",
                ConvergenceWarning,
            )

    def _validation_score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        """Give what early stopping follows, of data that were held out: more is better."""
        score = self._score if self.scoring is None else self._minus_loss
        return score(x, target, sample_weight)

    def _minus_loss(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        """Give minus the loss of samples and targets that are ready, without the penalty."""
        loss = self.trainer_.evaluate(x, target, sample_weight)["loss"]
        return -self._objective(target, sample_weight).shown(loss, 0.0)

    def _hold_out(
        self, x: Samples, target: Any, weight: Array | None, random: Any
    ) -> tuple[Samples, Any, Array | None, tuple[Samples, Any, Array | None]]:
        """Set a part of the data aside: what is left, and that part."""
        arrays = [x, target] if weight is None else [x, target, weight]
        parts = train_test_split(
            *arrays, random_state=random, test_size=self.validation_fraction,
            stratify=target if self._stratifies else None,
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
        check_is_fitted(self, "trainer_")
        X = validate_data(
            self, X, accept_sparse=_SPARSE, dtype=self.model_.dtype, order="C", reset=False
        )
        return self.model_(_dense(X))

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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_arguments(self) -> None:
        """Raise if one of them is out of range."""
        _arguments.check(self)


_habits.name_methods("estimator", MLP)  # errors of arguments: users know no MLP


def _dense(array: Any) -> Any:
    """Give an array whose zeros are there."""
    return array.toarray(order="C") if issparse(array) else array


def _refuse_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise if a network that is there would have to be another one to go on."""
    for name, value in now.items():
        if value != before[name]:
            raise ArgumentError(
                f"{name} is {value!r}, and was {before[name]!r} when training began: it goes on "
                "with the network that there is; fit with warm_start=False makes a new one"
            )


def _weights(value: Any, dtype: np.dtype[Any], rows: int) -> Array | None:
    """Give weights of samples; the penalty depends on their mean, so they are looked at first."""
    if isinstance(value, numbers.Real):
        value = np.full(rows, value)
    weight = _arrays.weights(value, dtype, "sample_weight")
    if weight is None:
        return None
    if len(weight) != rows:
        raise ShapeError(f"sample_weight has {len(weight)} numbers, and X {rows} rows")
    _arrays.finite(weight, "sample_weight")
    if (weight < 0).any():
        row = int((weight < 0).argmax())
        raise DataError(f"sample_weight[{row}] is {weight[row]:g}; numbers from 0 on are needed")
    if not weight.any():
        raise DataError("sample_weight is zero for all samples; some must count")
    return weight
