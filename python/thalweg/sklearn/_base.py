"""What both estimators have in common: arguments, `fit`, and the underlying network."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from thalweg import Trainer, _habits, _warn, nn, optim
from thalweg._arrays import Array, Samples
from thalweg.callbacks._watch import Inner
from thalweg.errors import ArgumentError, DataError, DivergedError, ShapeError
from thalweg.nn._losses import CoreLoss, FunctionLoss
from thalweg.nn._sequential._base import dtype_name
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.sklearn import _arguments, _data, _network, _rates
from thalweg.sklearn._stopping import Stopping

#: Accepted formats of sparse samples, which convert to dense rows directly.
_SPARSE = ("csr", "csc")

#: Rows of sparse samples that are dense at a time in a prediction.
_BLOCK = 16384


class Objective(NamedTuple):
    """A loss, and how it relates to scikit-learn's."""

    loss: CoreLoss | FunctionLoss
    #: scikit-learn's gradient divided by that of the loss.
    scale: float = 1.0
    #: scikit-learn's reported loss divided by this loss. For squared errors of several outputs, it
    #: reports the mean, but uses the gradient of the sum.
    factor: float = 1.0
    #: What is added to that; it depends only on the targets.
    offset: float = 0.0

    def shown(self, loss: float, penalty: float) -> float:
        """Return the loss as scikit-learn reports it, including its penalty."""
        return self.factor * loss + self.offset + penalty


class FitDivergedError(DivergedError, ValueError):
    """The `DivergedError` of an estimator, as scikit-learn's users expect a `ValueError`."""


class MLP(BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no type information
    """Base of the estimators; `MLPClassifier` documents the arguments."""

    # Arguments, which the estimators' signatures give.

    hidden_layer_sizes: Any
    activation: Any
    solver: Any
    alpha: float
    batch_size: int | str
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: bool
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    dtype: Any
    scoring: str | None
    loss: Any

    def _keep(self, given: dict[str, Any]) -> None:
        """Keep arguments, the ``locals()`` of a constructor, as they are."""
        # By scikit-learn's convention, nothing is checked before `fit`.
        del given["self"]
        for name, value in given.items():
            setattr(self, name, value)

    # What differs between the two.

    n_outputs_: int
    out_activation_: str
    #: What the network was made with, which cannot change while its training continues.
    _network_of: dict[str, Any]
    #: The `learning_rate_init` that the optimizer has, and the `learning_rate` of the trainer.
    _rate: float
    _course: Any
    #: The strength of the trainer's current penalty.
    _strength: float
    #: The `scoring` of the scores recorded so far.
    _followed: str | None
    #: Whether held-out data are stratified by class.
    _stratifies: bool

    @abstractmethod
    def _given_loss(self) -> Any:
        """Return the argument `loss` in the form that is compared and used, or raise."""

    @abstractmethod
    def _learn(self, y: npt.NDArray[Any], classes: npt.NDArray[Any] | None) -> None:
        """Determine from targets, and classes if given, the number and kind of outputs."""

    def _width(self) -> int:
        """Return the number of the network's outputs, once targets are known."""
        return self.n_outputs_

    @abstractmethod
    def _encode(self, y: npt.NDArray[Any], dtype: np.dtype[Any]) -> Any:
        """Convert targets to what the loss takes."""

    def _weigh(
        self, y: npt.NDArray[Any], weight: Array | None, dtype: np.dtype[Any], incremental: bool,
        trained_on: npt.NDArray[Any] | None = None,
    ) -> Array | None:  # fmt: skip
        """Return sample weights, from the given ones and from what depends on the targets.

        For a validation set, `trained_on` are the targets of the training data.
        """
        return weight

    @abstractmethod
    def _objective(self, target: Any, sample_weight: Array | None) -> Objective:
        """Return the objective for encoded targets."""

    @abstractmethod
    def _score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        """Compute the score of samples and encoded targets."""

    def _doubts_of_score(self, target: Any, sample_weight: Array | None) -> list[Warning]:
        """Say if the best score on held-out data says little about the weights that were kept."""
        return []

    # What is available after fitting.

    @property
    def model_(self) -> nn.Sequential:
        """The network; its outputs are before `out_activation_`."""
        return self.trainer_.model

    @property
    def coefs_(self) -> list[Array]:
        """Weights of the dense layers, each of shape (in, out): copies."""
        state = self.model_.state_dict()
        return [state[f"{place}.weight"].T for place in _network.dense(self.model_)]

    @property
    def intercepts_(self) -> list[Array]:
        """Biases of the dense layers, each of shape (out,): copies; zeros if there is none."""
        state = self.model_.state_dict()
        return [
            state.get(f"{place}.bias", np.zeros(layer.out_features, self.model_.dtype))
            for place, layer in _network.dense(self.model_).items()
        ]

    @property
    def n_layers_(self) -> int:
        """How many layers there are, as scikit-learn counts: dense ones, plus the input."""
        return len(_network.dense(self.model_)) + 1

    @_habits.takes("fit", _arguments.OF_FIT)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:  # fmt: skip
        """Train, from new weights unless `warm_start` is set.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples; converted to `dtype`. Sparse ones are made dense, all at once: that takes
            4 n n_features bytes, or 8 in float64.
        y : array_like, shape (n,) or (n, n_outputs)
            Labels, or zeros and ones for several labels at once; or numbers.
        sample_weight : array_like, shape (n,), or number, optional
            How much each sample counts, not negative; see the notes of `MLPClassifier`.
        X_val, y_val : array_like, keyword only, optional
            A validation set for ``early_stopping=True``; then nothing is held out of `X` and `y`.
            As in scikit-learn's ``HistGradientBoostingClassifier``; in a pipeline, `X_val` passes
            through the same steps as `X` with ``Pipeline(..., transform_input=["X_val"])``. A
            ``TransformedTargetRegressor`` transforms `y` alone: pass `y_val` already transformed.
        sample_weight_val : array_like or number, keyword only, optional
            How much each sample of the validation set counts.

        Returns
        -------
        self
            This estimator.

        Raises
        ------
        ValueError
            If the data do not fit, or an argument is out of range; if only one of `X_val` and
            `y_val` is given, or early stopping does not use them.
        DivergedError
            If the loss or a parameter becomes infinite or NaN; here it is also a `ValueError`.

        Notes
        -----
        After an error, the estimator is as it was before: not fitted, or fitted to earlier data.
        Only if a signal handler raises one while a network learns on (`partial_fit`, or
        ``warm_start=True``), its weights are the latest. Warnings come last: one that a filter
        turns into an error leaves a complete estimator.

        Ctrl-C ends a fit as in scikit-learn's networks, with what it has learned and the warning
        "Training interrupted by user.", but ``solver="lbfgs"`` with `KeyboardInterrupt`. A search
        in this process goes on with its next fit. With ``error_score="raise"``, and after
        ``warnings.filterwarnings("error", "Training interrupted")``, it ends.
        """
        validation = X_val, y_val, sample_weight_val
        return self._fit(X, y, sample_weight, incremental=False, validation=validation)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, *, incremental: bool, classes: Any = None,
        validation: tuple[Any, Any, Any] = (None, None, None),
    ) -> Self:  # fmt: skip
        before = dict(vars(self))
        # Figures of epochs are lists that grow.
        curves = [before.get(name) for name in ("loss_curve_", "validation_scores_")]
        lengths = [0 if curve is None else len(curve) for curve in curves]
        optimizer = self.trainer_.optimizer if "trainer_" in before else None
        rate: Any = getattr(optimizer, "lr", None)
        try:
            doubts = self._train(X, y, sample_weight, incremental, classes, validation)
        except BaseException as error:
            self.__dict__ = before
            if optimizer is not None:
                self._strength = math.nan  # the trainer's may have changed
            for curve, length in zip(curves, lengths, strict=True):
                if curve is not None:
                    del curve[length:]
            if optimizer is not None and getattr(optimizer, "lr", None) != rate:
                optimizer.lr = rate  # undo a new `learning_rate_init`
            if not isinstance(error, DivergedError):
                raise
            # The message names a rate, which for "sgd" is a multiple of the user's.
            more = f"; learning_rate_init is {self.learning_rate_init:g}"
            if self.solver == "lbfgs":
                more = "; lbfgs has no lr to lower: scale the data"
            elif isinstance(self.solver, optim.Optimizer):
                more = ""
            raise FitDivergedError(f"{error}{more}") from error
        for doubt in doubts:  # only now: a filter may turn a warning into an error
            _warn.warn(str(doubt), type(doubt))
        return self

    def _train(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool, classes: Any,
        validation: tuple[Any, Any, Any],
    ) -> list[Warning]:  # fmt: skip
        """Train; return what to warn of."""
        self._check_arguments()
        validates = _arguments.check_validation(self, validation)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        _arguments.check_course(self, incremental)
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
            _refuse_changes(self._network_of, made_with)
        ready = None if fresh or not _data.plain(y) else self._ready(X, dtype)
        if ready is not None and len(ready) == len(y):
            X = ready
        else:
            X, y = self._checked(X, y, dtype, reset=fresh)
        y = _data.flat(y)
        if fresh:
            self._learn(y, classes)
        target = self._encode(y, dtype)
        weight = self._weigh(y, _data.weights(sample_weight, dtype, len(X)), dtype, incremental)
        held_out = self._validation(validation, dtype, y) if validates else None
        objective = self._objective(target, weight)
        random = check_random_state(self.random_state)
        if fresh:
            layers, made = _network.layers(X.shape[1], hidden, behind, self._width())
            factor = 2.0 if self.activation == "logistic" else 6.0
            model = _network.build(layers, made, factor, dtype, random)
            self._network_of = made_with
        else:
            model = self.model_
        if fresh or not self._goes_on():
            self._begin()
        rate = None
        if fresh or not incremental or self._solver != self.solver:
            self._solver: Any = self.solver
            self._make_trainer(model, objective, self._optimizer(objective))
        elif self._course != self.learning_rate:  # changed between calls of partial_fit
            optimizer = self.trainer_.optimizer
            optimizer.lr = self._optimizer(objective).lr
            self._make_trainer(model, objective, optimizer)
        elif self._rate != self.learning_rate_init:
            rate = self._optimizer(objective).lr
        self._rate, self._course = self.learning_rate_init, self.learning_rate
        if self.solver == "lbfgs":
            return self._fit_lbfgs(objective, X, target, weight)
        return self._fit_batches(objective, X, target, weight, held_out, random, incremental, rate)

    def _checked(self, X: Any, y: Any, dtype: np.dtype[Any], *, reset: bool) -> tuple[Any, Any]:
        """Return dense samples and targets after scikit-learn's checks."""
        _data.refuse_lost(X, y)
        X, y = validate_data(
            self, X, y, accept_sparse=_SPARSE, dtype=dtype, order="C", multi_output=True,
            reset=reset,
        )  # fmt: skip
        return _data.dense(X), _data.dense(y)

    def _validation(
        self, given: tuple[Any, Any, Any], dtype: np.dtype[Any], trained_on: npt.NDArray[Any]
    ) -> tuple[Samples, Any, Array | None]:
        """Return a validation set as samples, encoded targets and weights."""
        X, y, sample_weight = given
        try:
            X, y = self._checked(X, y, dtype, reset=False)
            if len(X) < 2:
                raise ShapeError("there is 1 sample, but early stopping needs at least 2")
            y = _data.flat(y)
            target = self._encode(y, dtype)
            weight = _data.weights(sample_weight, dtype, len(X))
            weight = self._weigh(y, weight, dtype, incremental=False, trained_on=trained_on)
            return X, target, weight
        except (TypeError, ValueError) as error:  # these checks speak of X, y and sample_weight
            error.args = (f"in the validation set (X_val, y_val, sample_weight_val): {error}",)
            raise

    def _ready(self, X: Any, dtype: np.dtype[Any]) -> Array | None:
        """Return samples as the network takes them, or None if scikit-learn has to check them.

        Its checks handle much more than arrays, and take far longer than a step on one row.
        Anything but a matching float array is left to them, so that they name what is wrong.
        """
        if not self._fits(X):
            return None
        with np.errstate(over="ignore"):  # infinity is checked next
            X = np.ascontiguousarray(X, dtype)
        return X if np.isfinite(X).all() else None

    def _fits(self, X: Any) -> bool:
        """Whether these are floats of the right shape, which may be infinite or NaN."""
        return (
            type(X) is np.ndarray
            and X.dtype.kind == "f"
            and X.ndim == 2
            and X.shape[1] == self.n_features_in_
            and len(X) > 0
            and not hasattr(self, "feature_names_in_")
        )

    def _goes_on(self) -> bool:
        """Whether this fit keeps the same kind of figures as an earlier one."""
        scores = getattr(self, "validation_scores_", None) is not None
        return hasattr(self, "loss_curve_") != (self.solver == "lbfgs") and (
            scores == bool(self.early_stopping) and self._followed == self.scoring
        )

    def _begin(self) -> None:
        """Discard the figures of an earlier fit."""
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
        """Make the optimizer whose updates with our loss equal scikit-learn's."""
        if isinstance(self.solver, optim.Optimizer):
            return copy.deepcopy(self.solver)  # an optimizer belongs to one model
        if self.solver == "adam":
            # A factor of the gradient does not affect Adam, except relative to its epsilon.
            return optim.Adam(
                self.learning_rate_init, (self.beta_1, self.beta_2),
                self.epsilon / objective.scale, convention="keras",
            )  # fmt: skip
        return optim.SGD(  # "lbfgs" takes gradients only
            objective.scale * self.learning_rate_init, self.momentum,
            nesterov=self.nesterovs_momentum and self.momentum > 0, convention="keras",
        )  # fmt: skip

    def _make_trainer(
        self, model: nn.Sequential, objective: Objective, optimizer: optim.Optimizer
    ) -> None:
        """Make the trainer, whose rates follow `learning_rate` if that is a schedule."""
        scale = objective.scale if self.solver == "sgd" else 1.0
        self.trainer_ = Trainer(
            model, loss=objective.loss, optimizer=optimizer,
            schedule=_rates.schedule(self.learning_rate, scale),
        )  # fmt: skip
        self._strength = 0.0

    def _decay(self, rows: int, weight: Array | None) -> float:
        """Return the strength of scikit-learn's penalty in batches of `rows` rows."""
        mean = 1.0 if weight is None else float(weight.mean(dtype=np.float64))
        return self.alpha / (rows * mean)

    def _fit_lbfgs(
        self, objective: Objective, x: Samples, target: Any, weight: Any
    ) -> list[Warning]:  # fmt: skip
        from thalweg.sklearn import _lbfgs

        decay = self._decay(len(x), weight) * _network.penalized(self.model_).astype(np.float64)
        self.loss_, self.n_iter_, doubts = _lbfgs.train(
            self.trainer_, objective, (x, target, weight), decay,
            tol=self.tol, max_iter=self.max_iter, max_fun=self.max_fun,
        )  # fmt: skip
        return doubts

    def _fit_batches(
        self, objective: Objective, x: Samples, target: Any, weight: Array | None,
        held_out: tuple[Samples, Any, Array | None] | None, random: Any, incremental: bool,
        rate: float | None,
    ) -> list[Warning]:  # fmt: skip
        trainer = self.trainer_
        if self.early_stopping and held_out is None:
            x, target, weight, held_out = self._hold_out(x, target, weight, random)
        size = min(200 if self.batch_size == "auto" else int(self.batch_size), len(x))
        if trainer.model._core.average_blocks():  # BatchNorm1d needs at least two rows
            while len(x) % size == 1:
                size += 1
        penalty = 0.0
        if not isinstance(self.solver, optim.Optimizer):
            # Weight decay would not do: Adam's is different in this convention, and the batches of
            # partial_fit vary.
            strength = self._decay(size, weight) / objective.scale
            if strength != self._strength:
                marks = _network.penalized(trainer.model)
                trainer.set_penalty(marks if strength else None, np.zeros_like(marks), strength)
                self._strength = strength
            penalty = trainer.penalty
        self.n_iter_ = 0
        stopping = Stopping(self, objective, len(x), penalty, held_out)
        follows = isinstance(self.learning_rate, optim.schedules.ReduceLROnPlateau)
        doubts: list[Warning] = []
        try:
            trainer.fit(
                x, target, epochs=1 if incremental else self.max_iter,
                batch_size=None if self._at_once() else size, shuffle=self.shuffle,
                sample_weight=weight, callbacks=[stopping, Inner()], lr=rate,
                validation_data=held_out if follows else None,
            )  # fmt: skip
        except KeyboardInterrupt:
            doubts.append(UserWarning("Training interrupted by user."))
        if stopping.best is not None:
            trainer.model.load_state_dict(stopping.best)
            if held_out is not None and self.scoring is None:
                doubts += self._doubts_of_score(*held_out[1:])
        if self.n_iter_ == self.max_iter and not (stopping.stopped or incremental):
            text = (
                f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet: increase max_iter or tol, or scale the data"
            )
            doubts.append(ConvergenceWarning(text))
        return doubts

    def _validation_score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        """Compute what early stopping follows, on held-out data: higher is better."""
        score = self._score if self.scoring is None else self._minus_loss
        return score(x, target, sample_weight)

    def _minus_loss(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        """Compute minus the loss of samples and encoded targets, without the penalty."""
        loss = self.trainer_.evaluate(x, target, sample_weight)["loss"]
        return -self._objective(target, sample_weight).shown(loss, 0.0)

    def _hold_out(
        self, x: Samples, target: Any, weight: Array | None, random: Any
    ) -> tuple[Samples, Any, Array | None, tuple[Samples, Any, Array | None]]:
        """Split the data: return what is left, and the part that is held out."""
        arrays = [x, target] if weight is None else [x, target, weight]
        parts = train_test_split(
            *arrays, random_state=random, test_size=self.validation_fraction,
            stratify=target if self._stratifies else None,
        )  # fmt: skip
        train, test = parts[::2], parts[1::2]
        if len(test[0]) < 2:
            raise ValueError(
                f"early_stopping holds out {len(test[0])} of {len(x)} samples, but needs at least "
                "2: increase validation_fraction, or pass more data"
            )
        if weight is None:
            train, test = [*train, None], [*test, None]
        return train[0], train[1], train[2], (test[0], test[1], test[2])

    def _outputs(self, X: Any) -> Array:
        """Compute the network's outputs for any data, without a converted copy of all of it."""
        check_is_fitted(self, "trainer_")
        model = self.model_
        if self._fits(X):
            try:
                return model(X)  # converted in the core, batch by batch
            except DataError:
                pass  # scikit-learn's checks tell, in their words, if it is not finite
        _data.refuse_lost(X)
        dtypes = [model.dtype, np.float64, np.float32, np.float16]
        X = validate_data(
            self, X, accept_sparse=_SPARSE, dtype=model.dtype if issparse(X) else dtypes,
            reset=False,
        )  # fmt: skip
        return self._outputs_of_sparse(X.tocsr()) if issparse(X) else model(X)

    def _outputs_of_sparse(self, X: Any) -> Array:
        """Compute the network's outputs for sparse rows, which are made dense block by block."""
        outputs = []
        for start in range(0, X.shape[0], _BLOCK):
            try:
                outputs.append(self.model_(_data.dense(X[start : start + _BLOCK])))
            except DataError as error:
                error.args = (f"in the rows from {start} on, counted from 0: {error}",)
                raise
        return np.concatenate(outputs)

    def _at_once(self) -> bool:
        """Whether every step uses all data."""
        return isinstance(self.solver, FullBatchOptimizer) or bool(self.solver == "lbfgs")

    def _takes_batches(self) -> bool:
        """Whether `partial_fit` is available."""
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
        """Raise if an argument is out of range."""
        _arguments.check(self)


_habits.name_methods("estimator", MLP)  # for errors about arguments: users do not know MLP


def _refuse_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise if training cannot continue because the network would have to be different."""
    for name, value in now.items():
        if value != before[name]:
            raise ArgumentError(
                f"{name} is {value!r}, but was {before[name]!r} when training began, and training "
                f"continues with the same network: restore {name}, or fit with warm_start=False "
                "for a new network"
            )
