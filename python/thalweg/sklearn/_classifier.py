"""The classifier."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit, log_softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from thalweg import _arrays, nn
from thalweg._arrays import Array, Samples
from thalweg.errors import ArgumentError
from thalweg.sklearn._base import MLP, Objective


class MLPClassifier(ClassifierMixin, MLP):  # type: ignore[misc]  # as that of MLP
    r"""Tells classes apart: scikit-learn's `MLPClassifier`, trained in the core.

    Names, arguments and defaults are scikit-learn's, and so are the first weights that a
    `random_state` draws and every update; only the order of shuffled rows is another one. It trains
    in float32 if `dtype` does not say otherwise, which scikit-learn does for data of float32 only.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int or layers of thalweg.nn, default (100,)
        What stands between input and output. A number is a dense layer of so many units and the
        activation behind it; a layer stands for itself, as in ``(100, nn.Dropout(0.5), 50)``. One
        behind the other, such layers have the widths that `nn.Sequential` asks for, and the last
        layer, to the outputs, is added always. A single number or layer is taken, too.
    activation : {"identity", "logistic", "tanh", "relu"} or a layer, default "relu"
        What stands behind each of the numbers, e.g. also ``nn.GELU()``.
    solver : {"adam", "sgd", "lbfgs"} or an optimizer, keyword only, default "adam"
        "lbfgs" is SciPy's, on all data at once. An optimizer of `thalweg.optim`, such as
        ``optim.AdamW(lr=1e-2)``, is copied for each fit; `alpha` and all that is said to be of
        "sgd" or "adam" is not for it. One that takes all data at once takes a step per epoch.
    alpha : float, keyword only, default 1e-4
        :math:`\alpha` of the penalty, see the notes; on the weights of dense layers, also of those
        in a `Residual`, not on biases, scales and tables.
    batch_size : int or "auto", keyword only, default "auto"
        Rows of a batch; "auto" is 200. Never more than there are. If there is a `BatchNorm1d`,
        batches have a row more where one row would be left for the last, which it cannot take.
    learning_rate : {"constant", "invscaling", "adaptive"}, keyword only, default "constant"
        Of "sgd". After an epoch "invscaling" divides `learning_rate_init` by
        :math:`(t + 1)^p`, with `t` the rows that were used so far and `p` `power_t`. "adaptive"
        divides by 5 where the training would end, down to 1e-6.
    learning_rate_init : float, keyword only, default 1e-3
        Learning rate of "sgd" and "adam".
    power_t : float, keyword only, default 0.5
        See `learning_rate`.
    max_iter : int, keyword only, default 200
        Epochs at most; with "lbfgs", iterations.
    shuffle : bool, keyword only, default True
        Whether each epoch has an order of rows of its own.
    random_state : int, RandomState or None, keyword only
        Draws weights, orders of rows, and what is held out.
    tol : float, keyword only, default 1e-4
        What is better by less is no improvement, see `n_iter_no_change`; with "lbfgs", training
        ends when no component of the gradient is larger.
    verbose : bool, keyword only, default False
        Whether to print the figures of each epoch.
    warm_start : bool, keyword only, default False
        Whether `fit` goes on with the weights that there are. `hidden_layer_sizes`, `activation`
        and `dtype` must be what they were, and labels those of `classes_`, of which some may be
        missing (in scikit-learn none).
    momentum : float, keyword only, default 0.9
        Of "sgd", in [0, 1).
    nesterovs_momentum : bool, keyword only, default True
        Whether momentum of "sgd" is Nesterov's.
    early_stopping : bool, keyword only, default False
        Whether to hold out a part of the data, and to stop when its score does not improve any
        more; the weights of the best score are kept. "lbfgs" does not look at it.
    validation_fraction : float, keyword only, default 0.1
        The part that is held out.
    beta_1, beta_2 : float, keyword only, default 0.9 and 0.999
        Of "adam", in [0, 1).
    epsilon : float, keyword only, default 1e-8
        Of "adam", above 0.
    n_iter_no_change : int, keyword only, default 10
        After more epochs than these without an improvement the training ends.
    max_fun : int, keyword only, default 15000
        Evaluations of the loss in "lbfgs" at most.
    dtype : {"float32", "float64"}, keyword only, default "float32"
        Precision of data, weights and arithmetic. scikit-learn has no such argument.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels, sorted; of several labels at once their numbers. A single class is learned as
        the first of two, and always predicted, as in scikit-learn.
    loss_ : float
        The loss of the last epoch, with the penalty: the mean over its batches, before updates.
    best_loss_ : float or None
        The smallest of them; None with early stopping. Not with "lbfgs".
    loss_curve_ : list of float
        The loss of each epoch. Not with "lbfgs".
    validation_scores_, best_validation_score_ : list of float and float, or None
        The accuracy of what is held out, with early stopping. Not with "lbfgs".
    n_iter_ : int
        Epochs, or iterations of "lbfgs", of the latest fit.
    t_ : int
        Rows that were used so far.
    n_features_in_, feature_names_in_, n_outputs_, n_layers_, out_activation_
        As in scikit-learn. Of two classes there is one output.
    coefs_, intercepts_ : list of ndarray
        Weights, each of shape (in, out), and biases of the dense layers, also of those in a
        `Residual`: copies. Of layers without biases there are zeros.
    trainer_, model_ : Trainer and nn.Sequential
        What is behind all this.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.

    Notes
    -----
    With the loss `l` of a row, weights :math:`w_i` of samples (1 by default) and the weights `W` of
    dense layers, a batch `B` makes a step along the gradient of

    .. math::

        \frac{1}{\sum_{i \in B} w_i} \sum_{i \in B} w_i\, l_i
        + \frac{\alpha}{2\, b\, \bar w} \sum_W \lVert W \rVert^2

    where `b` is the number of rows of a whole batch and :math:`\bar w` the mean weight of all rows.
    In scikit-learn, :math:`b \bar w` is the sum of the weights in the batch itself, so that the
    penalty counts more in the last batch of an epoch, if it is smaller. `l` is the cross-entropy of
    a softmax, or for two classes and several labels at once the sum over outputs of that of a
    logistic function.

    In the losses that it shows scikit-learn clips probabilities, to 2e-16 and more, or 1e-7 in
    float32: while outputs are far wrong, as at the beginning on data that is not scaled, its
    `loss_curve_` shows less than this one. Gradients are the same.

    Sparse data is made dense, with all its zeros. Rates and epsilon of ``trainer_.optimizer`` are
    those that make scikit-learn's updates of the loss of `thalweg.nn`, which is a mean over outputs
    where scikit-learn's is a sum. While ``partial_fit`` trains, the optimizer goes on; each ``fit``
    begins with a new one, also with `warm_start`.

    ``tw.onnx.export(network.model_, loss=network.trainer_.loss)`` makes an ONNX graph of the
    network, without a scaler that stands before it in a pipeline. Of two classes it has one column,
    the probability of ``classes_[1]``.

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

    classes_: npt.NDArray[Any]
    _stratifies = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @available_if(MLP._takes_batches)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one pass over these data, and keep what was learned before.

        Parameters
        ----------
        X, y, sample_weight : array_like
            As for `fit`.
        classes : array_like, shape (n_classes,), optional
            All labels that will ever come; needed at the first call, and not again. Of several
            labels at once they are the numbers of the columns, ``range(n_outputs)``.

        Returns
        -------
        self
            This estimator.

        Raises
        ------
        ValueError
            If `classes` are missing or have changed, or as from `fit`.
        AttributeError
            If the solver takes all data at once: there is no such method then.
        """
        first = not hasattr(self, "trainer_")
        if classes is not None:
            classes = np.asarray(classes)
            if classes.ndim != 1:
                raise ArgumentError(
                    "classes must be 1-D, all labels that will ever come, as np.unique(y) gives "
                    f"them; got shape {classes.shape}"
                )
            if not first and set(classes.tolist()) != set(self.classes_.tolist()):
                raise ValueError(
                    f"classes={np.unique(classes)} are others than at the first call, "
                    f"{self.classes_}"
                )
        elif first:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Give the class of each row.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples, as for `fit`.

        Returns
        -------
        ndarray, shape (n,), or (n, n_outputs) of int64
            One of `classes_`; of several labels at once, zeros and ones.
        """
        output: Any = self._outputs(X)
        answer = self._loss().predict(output)
        if self._multilabel:
            return answer.astype(np.int64)
        # One class has an output, as two have, and is the answer always.
        places = answer.ravel().astype(np.intp).clip(max=len(self.classes_) - 1)
        return self.classes_[places]  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:
        """Give the probability of each class.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples, as for `fit`.

        Returns
        -------
        ndarray, shape (n, n_classes), of the model's dtype
            In the order of `classes_`. Rows sum to 1, but not those of several labels at once. Of a
            single class there are two columns, as in scikit-learn.
        """
        output: Any = self._outputs(X)
        if self.n_outputs_ == 1:
            output = np.hstack([-output, output])
        return self._loss().probabilities(output)

    def predict_log_proba(self, X: Any) -> Array:
        """Give the logarithms of what `predict_proba` gives; finite, however small that is.

        Parameters
        ----------
        X : array_like or sparse, shape (n, n_features)
            Samples, as for `fit`.

        Returns
        -------
        ndarray, shape (n, n_classes), of the model's dtype
            As `predict_proba`.
        """
        output: Any = self._outputs(X)
        if self.out_activation_ == "softmax":
            return log_softmax(output, axis=1)  # type: ignore[no-any-return]
        if self.n_outputs_ == 1:
            output = np.hstack([-output, output])
        return log_expit(output)  # type: ignore[no-any-return]

    @property
    def _multilabel(self) -> bool:
        return self.n_outputs_ > 1 and self.out_activation_ == "logistic"

    def _loss(self) -> nn.CrossEntropyLoss | nn.BCEWithLogitsLoss:
        several = self.out_activation_ == "softmax"
        return nn.CrossEntropyLoss() if several else nn.BCEWithLogitsLoss()

    def _encode(self, y: Any, dtype: np.dtype[Any]) -> Any:
        if y.ndim != (2 if self._multilabel else 1) or y.shape[1:] not in ((), (self.n_outputs_,)):
            kind = f"{self.n_outputs_} labels at once" if self._multilabel else "one class"
            raise ValueError(f"y has shape {y.shape}; this classifier has learned {kind} a row")
        if self._multilabel:
            y = _arrays.as_numeric(y, "y")
            if not np.isin(y, (0, 1)).all():
                raise ValueError("y of several labels at once must have zeros and ones only")
            return y.astype(dtype)
        places = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if not np.array_equal(self.classes_[places], y):
            unknown = np.setdiff1d(y, self.classes_)
            raise ValueError(f"y has the classes {unknown}, which are not among {self.classes_}")
        return places.astype(dtype)[:, np.newaxis] if self.n_outputs_ == 1 else places

    def _learn(self, y: npt.NDArray[Any], classes: npt.NDArray[Any] | None) -> None:
        """Learn which labels there are."""
        kind = type_of_target(y, input_name="y")
        check_classification_targets(y)
        several = kind == "multilabel-indicator"
        if y.ndim != (2 if several else 1):
            raise ValueError(f"y of shape {y.shape} must have zeros and ones only, or be (rows,)")
        found = np.arange(y.shape[1]) if several else np.unique(y if classes is None else classes)
        if several and not (classes is None or np.array_equal(np.unique(classes), found)):
            raise ValueError(
                f"classes={np.unique(classes)}; y has {len(found)} labels at once, whose classes "
                f"are the numbers of its columns, {found}"
            )
        self.classes_ = found
        self.n_outputs_ = len(found) if several or len(found) > 2 else 1
        self.out_activation_ = "softmax" if self.n_outputs_ > 1 and not several else "logistic"

    def _objective(self, target: Any, sample_weight: Array | None) -> Objective:
        outputs = self.n_outputs_ if self.out_activation_ == "logistic" else 1
        return Objective(self._loss(), scale=outputs, factor=outputs)

    def _score(self, x: Samples, target: Any, sample_weight: Array | None) -> float:
        right = self._loss().predict(self.model_(x)) == target
        return float(np.average(right.reshape(len(x), -1).all(axis=1), weights=sample_weight))
