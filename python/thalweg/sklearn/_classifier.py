"""The classifier."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit, log_softmax
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from thalweg import _arrays, _checks, _habits, nn
from thalweg._arrays import Array, Samples
from thalweg.errors import ArgumentError, DataError
from thalweg.nn._losses import CoreLoss, FunctionLoss
from thalweg.sklearn import _arguments, _losses
from thalweg.sklearn._base import MLP, Objective

# Made once, as every `partial_fit` needs one.
_SOFTMAX, _LOGISTIC = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()


class MLPClassifier(ClassifierMixin, MLP):  # type: ignore[misc]  # as that of MLP
    r"""A classifier: scikit-learn's `MLPClassifier`, trained in the core.

    Names, arguments and defaults are scikit-learn's, and so are the initial weights drawn for a
    `random_state`, and every update; only the order of shuffled rows differs. It trains in float32
    unless `dtype` says otherwise; scikit-learn does so only for float32 data.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int or layers of thalweg.nn, default (100,)
        The layers between input and output. A number is a dense layer of that many units followed
        by the activation; a layer stands for itself, as in ``(100, nn.Dropout(0.5), 50)``. The
        widths of consecutive layers must match, as in `nn.Sequential`, and the last layer, to the
        outputs, is always added. A single number or layer is accepted, too.
    activation : {"identity", "logistic", "tanh", "relu"} or a layer, default "relu"
        What follows each of the numbers; layers such as ``nn.GELU()`` are accepted, too.
    solver : {"adam", "sgd", "lbfgs"} or an optimizer, keyword only, default "adam"
        "lbfgs" is SciPy's, on all data at once. An optimizer of `thalweg.optim`, such as
        ``optim.AdamW(lr=1e-2)``, is copied for each fit. It ignores `alpha` and the arguments that
        belong to "sgd" or "adam": there is no penalty then, and these arguments must keep their
        defaults. A search lists optimizers, ``{"solver": [optim.AdamW(lr=r) for r in rates]}``. One
        that needs all data at once takes one step per epoch.
    alpha : float, keyword only, default 1e-4
        :math:`\alpha` of the penalty, see the notes. It applies to the weights of dense layers,
        including those in blocks, but not to biases, scales and tables.
    batch_size : int or "auto", keyword only, default "auto"
        Rows of a batch; "auto" is 200. At most the number of rows. If there is a `BatchNorm1d`,
        which cannot take a single row, batches are enlarged until the last one is not a single row.
    learning_rate : {"constant", "invscaling", "adaptive"} or schedule, default "constant"
        Keyword only. The names are for "sgd": after each epoch, "invscaling" divides
        `learning_rate_init` by :math:`(t + 1)^p`, with `t` the rows used so far and `p` `power_t`;
        "adaptive" divides the rate by 5 where training would otherwise end, down to 1e-6. A
        schedule of `thalweg.optim.schedules` is for any solver that has a rate, and based on
        `learning_rate_init` or the rate of the given optimizer: ``CosineAnnealingLR()`` falls over
        `max_iter` epochs. `partial_fit` takes one only if it says how long it lasts.
    learning_rate_init : float, keyword only, default 1e-3
        Learning rate of "sgd" and "adam". A new value applies from the next `partial_fit` on.
    power_t : float, keyword only, default 0.5
        See `learning_rate`.
    max_iter : int, keyword only, default 200
        The maximum number of epochs; with "lbfgs", of iterations.
    shuffle : bool, keyword only, default True
        Whether each epoch has its own order of rows.
    random_state : int, RandomState or None, keyword only
        Draws weights, orders of rows, and the held-out data.
    tol : float, keyword only, default 1e-4
        Smaller gains are not an improvement, see `n_iter_no_change`; with "lbfgs", training ends
        when no component of the gradient is larger.
    verbose : bool, keyword only, default False
        Whether to print the figures of each epoch.
    warm_start : bool, keyword only, default False
        Whether `fit` continues with the current weights. `hidden_layer_sizes`, `activation`, `loss`
        and `dtype` must be unchanged, and labels must be among `classes_`, of which some may be
        missing (not so in scikit-learn).
    momentum : float, keyword only, default 0.9
        For "sgd", in [0, 1).
    nesterovs_momentum : bool, keyword only, default True
        Whether the momentum of "sgd" is Nesterov's.
    early_stopping : bool, keyword only, default False
        Whether to hold out part of the data, and to stop when its score no longer improves; the
        weights with the best score are kept. `scoring` chooses the score. A validation set of your
        own takes the place of held-out data, ``fit(X, y, X_val=..., y_val=...)``. Ignored by
        "lbfgs".
    validation_fraction : float, keyword only, default 0.1
        The share of data to hold out.
    beta_1, beta_2 : float, keyword only, default 0.9 and 0.999
        For "adam", in [0, 1).
    epsilon : float, keyword only, default 1e-8
        For "adam", above 0.
    n_iter_no_change : int, keyword only, default 10
        Training ends after more than this many epochs without an improvement.
    max_fun : int, keyword only, default 15000
        The maximum number of evaluations of the loss in "lbfgs".
    dtype : {"float32", "float64"}, keyword only, default "float32"
        Precision of data, weights and arithmetic. scikit-learn's estimator has neither this
        argument nor those that follow.
    scoring : {"loss"} or None, keyword only, default None
        What early stopping follows: the accuracy, as in scikit-learn's MLP, or with "loss" the loss
        on the held-out data, as in its ``HistGradientBoostingClassifier``. If a class is rare, the
        accuracy is nearly complete from the first epochs on, and training would end then.
    loss : Loss, callable or None, keyword only
        What is minimized; by default scikit-learn's log loss, see the notes. A loss of thalweg.nn
        is used as it is: ``nn.CrossEntropyLoss(label_smoothing=0.1)`` for one class per row, also
        for two classes, which then have two outputs; `nn.BCEWithLogitsLoss` for two classes or
        several labels at once. Or a function ``(output, target) -> (loss, gradient)``, see
        `nn.CustomLoss`, whose outputs are taken as logits of a softmax, or, for two classes (with
        one output) and for several labels at once, of a logistic function. Its target is the
        positions of labels in `classes_`, of shape (n,), or zeros and ones, of the outputs' shape.
        With weights, including those of `class_weight`, it is called as
        ``function(output, target, weight)``.
    class_weight : dict, list of dict, "balanced" or None, keyword only
        Weights of classes, which multiply those of samples, also in the score of early stopping. As
        in other scikit-learn classifiers, ``{label: weight}``, 1 for missing labels, or "balanced",
        as in scikit-learn's ``compute_sample_weight``. For several labels at once, a list with a
        dict ``{0: weight, 1: weight}`` for each. `partial_fit` does not accept "balanced". As each
        batch is divided by its own sum of weights, rare classes gain less in small batches.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels, sorted; for several labels at once, their column numbers. A single class is
        learned as the first of two, and always predicted, as in scikit-learn.
    loss_ : float
        The loss of the last epoch: the mean over its rows, by their weights, each before the update
        that used it, and the mean of the penalty before and after the epoch. (In scikit-learn,
        batches of equal size count equally, whatever their weights, and the penalty is that before
        each update; so `loss_curve_` may differ with sample weights or a large `alpha`, and with it
        the epoch in which training ends.)
    best_loss_ : float or None
        The smallest of them; None with early stopping. Not with "lbfgs".
    loss_curve_ : list of float
        The loss of each epoch. Not with "lbfgs". Each `partial_fit` adds one, as in scikit-learn;
        in an endless stream, ``network.loss_curve_.clear()`` discards them.
    validation_scores_, best_validation_score_ : list of float and float, or None
        With early stopping, the accuracy on held-out data; with ``scoring="loss"``, minus its loss,
        without the penalty. Not with "lbfgs".
    n_iter_ : int
        Epochs, or iterations of "lbfgs", of the latest fit.
    t_ : int
        Rows used so far.
    n_features_in_, feature_names_in_, n_outputs_, n_layers_, out_activation_
        As in scikit-learn. Two classes have one output, or two with `nn.CrossEntropyLoss`.
    coefs_, intercepts_ : list of ndarray
        Weights, each of shape (in, out), and biases of the dense layers, including those in blocks:
        copies. Layers without biases have zeros.
    trainer_, model_ : Trainer and nn.Sequential
        The underlying trainer and network.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` ends training that still improves; or if the best accuracy of early stopping
        is within a standard error of that of always giving the most frequent answer.

    Notes
    -----
    With the loss `l` of a row, sample weights :math:`w_i` (1 by default) and the weights `W` of
    dense layers, a batch `B` takes a step along the gradient of

    .. math::

        \frac{1}{\sum_{i \in B} w_i} \sum_{i \in B} w_i\, l_i
        + \frac{\alpha}{2\, b\, \bar w} \sum_W \lVert W \rVert^2

    where `b` is the number of rows of a full batch and :math:`\bar w` the mean weight of all rows.
    In scikit-learn, :math:`b \bar w` is the sum of the weights in the batch itself, so that the
    penalty counts more in the last batch of an epoch if it is smaller. `l` is the cross-entropy of
    a softmax, or, for two classes and several labels at once, the sum over outputs of that of a
    logistic function. A given `loss` replaces the first term, with a mean over outputs if it has
    one, and `loss_` reports it as it is; an optimizer given as `solver` sees only that first term.

    In the losses that it reports, scikit-learn clips probabilities from below, at 2e-16, or 1e-7 in
    float32: while outputs are far off, as at the start on unscaled data, its `loss_curve_` shows
    smaller values than this one. Gradients are the same.

    Sparse data is made dense, with all its zeros. Rates and epsilon of ``trainer_.optimizer`` are
    chosen to give scikit-learn's updates with a loss of `thalweg.nn`, which is a mean over outputs
    where scikit-learn's is a sum. The optimizer continues between calls of ``partial_fit``; each
    ``fit`` starts with a new one, also with `warm_start`.

    For streams and single rows, checks and records take longer than the work: on one CPU, for 20
    columns, ``partial_fit`` of one row takes about 70 us, of which the step is 3 us, and
    ``predict_proba`` 10 us. That is for arrays of floats; anything else goes through scikit-learn's
    checks, and takes 180 and 60 us as lists. ``network.trainer_.step(x, y)`` and
    ``network.model_(x)``, 1 us, skip all that. They take and return what the loss does: positions
    in `classes_`, and outputs before `out_activation_`.

    ``tw.onnx.export(network.model_, loss=network.trainer_.loss)`` makes an ONNX graph of the
    network, without a scaler that precedes it in a pipeline. For two classes with one output, the
    graph has one column, the probability of ``classes_[1]``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from thalweg.sklearn import MLPClassifier
    >>> network = MLPClassifier((32,), learning_rate_init=0.01, tol=1e-3, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), network)
    >>> bool(cross_val_score(pipe, *load_iris(return_X_y=True)).mean() > 0.9)
    True
    """

    class_weight: Any
    classes_: npt.NDArray[Any]

    @_habits.takes("MLPClassifier", _arguments.ELSEWHERE)
    def __init__(
        self,
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
        loss: Any = None,
        class_weight: Any = None,
        scoring: str | None = None,
    ) -> None:
        self._keep(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @available_if(MLP._takes_batches)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one pass over these data, continuing from what was learned before.

        Parameters
        ----------
        X, y, sample_weight : array_like
            As for `fit`.
        classes : array_like, shape (n_classes,), optional
            All labels that will ever occur; required in the first call only. For several labels at
            once, the numbers of the columns, ``range(n_outputs)``.

        Returns
        -------
        self
            This estimator.

        Raises
        ------
        ValueError
            If `classes` are missing or have changed; otherwise as for `fit`.
        AttributeError
            If the solver needs all data at once: the method does not exist then.
        """
        first = not hasattr(self, "trainer_")
        if classes is not None:
            classes = np.asarray(classes)
            if classes.ndim != 1 or len(classes) == 0:
                raise ArgumentError(
                    "classes must be 1-D and not empty, with every label of this and all later "
                    f"calls, such as np.unique(y) of all data; got shape {classes.shape}"
                )
            if not first and set(classes.tolist()) != set(self.classes_.tolist()):
                raise ValueError(
                    f"classes={np.unique(classes)} must be the same as in the first call, "
                    f"{self.classes_}"
                )
        elif first:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Predict the class of each row.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples, as for `fit`; but sparse ones are made dense 16,384 at a time.

        Returns
        -------
        ndarray, shape (n,), or (n, n_outputs) of int64
            One of `classes_`; for several labels at once, zeros and ones.
        """
        output: Any = self._outputs(X)
        answer = self._loss().predict(output)
        if self._multilabel:
            return answer.astype(np.int64)
        # A single class has one output, as two classes have, and is always the answer.
        places = answer.ravel().astype(np.intp).clip(max=len(self.classes_) - 1)
        return self.classes_[places]  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples, as for `fit`; but sparse ones are made dense 16,384 at a time.

        Returns
        -------
        ndarray, shape (n, n_classes), of the model's dtype
            In the order of `classes_`. Rows sum to 1, except for several labels at once. A single
            class has two columns, as in scikit-learn.
        """
        output: Any = self._outputs(X)
        if self.n_outputs_ == 1:
            output = np.hstack([-output, output])
        return self._loss().probabilities(output)

    def predict_log_proba(self, X: Any) -> Array:
        """Predict log-probabilities, which stay finite however small the probabilities are.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples, as for `fit`; but sparse ones are made dense 16,384 at a time.

        Returns
        -------
        ndarray, shape (n, n_classes), of the model's dtype
            As in `predict_proba`.
        """
        output: Any = self._outputs(X)
        if self.out_activation_ == "softmax":
            return log_softmax(output, axis=1)  # type: ignore[no-any-return]
        if self.n_outputs_ == 1:
            output = np.hstack([-output, output])
        return log_expit(output)  # type: ignore[no-any-return]

    @property
    def _stratifies(self) -> bool:  # type: ignore[override]  # it depends on what was learned
        return self.n_outputs_ == 1 or (self.n_outputs_ == 2 and not self._multilabel)

    @property
    def _multilabel(self) -> bool:
        return self.n_outputs_ > 1 and self.out_activation_ == "logistic"

    def _given_loss(self) -> CoreLoss | FunctionLoss | None:
        return _losses.of_classifier(self.loss)

    def _loss(self) -> nn.CrossEntropyLoss | nn.BCEWithLogitsLoss:
        """Return scikit-learn's loss for such outputs, which also defines their meaning."""
        several = self.out_activation_ == "softmax"
        return _SOFTMAX if several else _LOGISTIC

    def _encode(self, y: Any, dtype: np.dtype[Any]) -> Any:
        if y.ndim != (2 if self._multilabel else 1) or y.shape[1:] not in ((), (self.n_outputs_,)):
            kind = f"{self.n_outputs_} labels" if self._multilabel else "one class"
            raise ValueError(f"y has shape {y.shape}; this classifier was fitted to {kind} per row")
        if self._multilabel:
            y = _arrays.as_numeric(y, "y")
            if not np.isin(y, (0, 1)).all():
                raise ValueError("y of several labels per row must contain only 0 and 1")
            return y.astype(dtype)
        places = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if not np.array_equal(self.classes_[places], y):
            unknown = np.setdiff1d(y, self.classes_)
            raise ValueError(
                f"y has the classes {unknown}, which are not among {self.classes_}, and the "
                "network has no outputs for them: pass all classes to the first call of "
                "partial_fit, classes=[...], or let fit train a new network on data that has them"
            )
        return places.astype(dtype)[:, np.newaxis] if self.n_outputs_ == 1 else places

    def _learn(self, y: npt.NDArray[Any], classes: npt.NDArray[Any] | None) -> None:
        """Determine which labels there are."""
        kind = type_of_target(y, input_name="y")
        check_classification_targets(y)
        several = kind == "multilabel-indicator"
        if y.ndim != (2 if several else 1):
            raise ValueError(
                "y must have shape (rows,), or, for several labels per row, contain only 0 and 1; "
                f"got shape {y.shape}"
            )
        found = np.arange(y.shape[1]) if several else np.unique(y if classes is None else classes)
        if several and not (classes is None or np.array_equal(np.unique(classes), found)):
            raise ValueError(
                f"classes={np.unique(classes)}, but y has {len(found)} labels per row: for such y, "
                f"classes must be its column numbers, {found}"
            )
        given = self._given_loss()
        softmax = isinstance(given, nn.CrossEntropyLoss)
        if softmax and several:
            raise ValueError(
                f"y has {len(found)} labels per row, but loss={given!r} is for one class per row: "
                "leave loss out, or use nn.BCEWithLogitsLoss()"
            )
        if isinstance(given, nn.BCEWithLogitsLoss) and not several and len(found) > 2:
            raise ValueError(
                f"y has {len(found)} classes, one per row, but loss={given!r} is for two classes, "
                "or for several labels per row: leave loss out, or use nn.CrossEntropyLoss()"
            )
        self.classes_ = found
        self.n_outputs_ = len(found) if several or len(found) > 2 else 1 + softmax
        self.out_activation_ = "softmax" if self.n_outputs_ > 1 and not several else "logistic"

    def _weigh(
        self, y: npt.NDArray[Any], weight: Array | None, dtype: np.dtype[Any], incremental: bool,
        trained_on: npt.NDArray[Any] | None = None,
    ) -> Array | None:  # fmt: skip
        given = self.class_weight
        if given is None:
            return weight
        if incremental and given == "balanced":
            raise ValueError(
                'class_weight="balanced" is not supported by partial_fit, which sees only a part '
                "of the data: pass a dict {label: weight} with the weights that "
                "sklearn.utils.class_weight.compute_class_weight gives for all labels, or for a "
                "sample of them"
            )
        if given != "balanced" and isinstance(given, list) != self._multilabel:
            kind, needed = "one class", "a dict {label: weight}"
            if self._multilabel:
                kind = f"{self.n_outputs_} labels"
                needed = "a list with a dict {0: weight, 1: weight} for each label"
            raise ValueError(
                f'class_weight must be "balanced" or {needed}, since y has {kind} per row; got '
                f"{given!r}"
            )
        if given == "balanced" and trained_on is not None:  # the classes weigh what they did there
            rows = np.arange(len(trained_on))
            every = np.concatenate([trained_on, y])
            factor = compute_sample_weight(given, every, indices=rows)[len(rows) :]
        elif self._multilabel or given == "balanced":
            factor = compute_sample_weight(given, y)
        else:  # for all classes, as part of the data may lack some
            of_class = compute_class_weight(given, classes=self.classes_, y=y)
            factor = of_class[np.searchsorted(self.classes_, y)]
        product: Array = (factor if weight is None else factor * weight).astype(dtype)
        if not product.any():
            raise DataError(
                "class_weight makes all sample weights zero; at least one must be above zero"
            )
        return product

    def _check_arguments(self) -> None:
        super()._check_arguments()
        given = self.class_weight
        if given is None or (isinstance(given, str) and given == "balanced"):
            return
        parts = given if isinstance(given, list) else [given]
        if not all(isinstance(part, dict) for part in parts):
            raise ArgumentError(
                'class_weight must be None, "balanced" or a dict {label: weight}, or, for several '
                f"labels per row, a list of such dicts; got {given!r}"
            )
        for place, part in enumerate(parts):
            name = f"class_weight[{place}]" if isinstance(given, list) else "class_weight"
            for label, value in part.items():
                _checks.real(f"{name}[{label!r}]", value, 0)

    def _objective(self, target: Any, sample_weight: Array | None) -> Objective:
        given = self._given_loss()
        if given is not None:
            return Objective(given)
        outputs = self.n_outputs_ if self.out_activation_ == "logistic" else 1
        return Objective(self._loss(), scale=outputs, factor=outputs)

    def _score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        right = self._loss().predict(self.model_(x)) == target
        return float(np.average(right.reshape(len(x), -1).all(axis=1), weights=sample_weight))

    def _doubts_of_score(self, target: Any, sample_weight: Array | None) -> list[Warning]:
        _, answers = np.unique(target.reshape(len(target), -1), axis=0, return_inverse=True)
        counts = np.bincount(answers.ravel(), sample_weight)
        share = counts.max() / counts.sum()
        best: Any = self.best_validation_score_
        if best < 1 and best - share < math.sqrt(share * (1 - share) / len(target)):
            text = (
                f"the best accuracy on the held-out data, {best:.3f}, is not clearly better than "
                f"{share:.3f}, which the most frequent answer alone achieves, so that the weights "
                'kept may have learned little. Use scoring="loss" to follow the loss, to which '
                "rare classes count as well"
            )
            return [ConvergenceWarning(text)]
        return []
