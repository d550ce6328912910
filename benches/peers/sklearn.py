"""scikit-learn's MLP: its own epoch loop inside one `fit`, quiet, without shuffling.

Its squared error is half the mean over outputs, while its gradient is the sum over them: compared
with the mean squared error of the others, that is a factor of outputs / 2. Dividing SGD's rate by
that factor, or multiplying Adam's eps by it, gives exactly the same updates. Its Adam adds eps to
sqrt(v) before correcting v's bias: eps * sqrt(1 - beta2) corresponds to the others' eps at the
first step, and to a smaller one later.
"""

from __future__ import annotations

import warnings

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from ..workloads import Data, Inference, Training, Work
from . import Mode

VERSION = sklearn.__version__
MISSING = ""

ACTIVATIONS = {("relu",): "relu", ("tanh",): "tanh"}
NEVER = 10**9


class Sklearn:
    """Threads are those of NumPy's BLAS: the CPUs available to the process when it started."""

    def __init__(self, work: Work, data: Data, threads: int) -> None:
        self.work, self.data = work, data
        options = {
            "hidden_layer_sizes": work.widths[1:-1],
            "activation": ACTIVATIONS[work.hidden],
            "batch_size": work.batch,
            "alpha": 0.0,
            "shuffle": False,
            "warm_start": True,  # fit starts from the weights that reset sets
            "n_iter_no_change": NEVER,
            "max_iter": 1,
        }
        self.x = data.xs.reshape(-1, work.widths[0])
        self.y = data.ys.reshape(-1, *data.ys.shape[2:])
        classifies = isinstance(work, Training) and work.loss == "cross_entropy"
        factor = 1 if classifies else work.widths[-1] / 2
        self.loss_factor = 1 if classifies else 2
        if isinstance(work, Training):
            o = work.optimizer
            if o.kind == "sgd":
                options |= {
                    "solver": "sgd",
                    "learning_rate_init": o.lr / factor,
                    "momentum": o.momentum,
                    "nesterovs_momentum": False,
                }
            else:
                options |= {
                    "solver": "adam",
                    "learning_rate_init": o.lr,
                    "beta_1": o.betas[0],
                    "beta_2": o.betas[1],
                    "epsilon": o.eps * factor * (1 - o.betas[1]) ** 0.5,
                }
        if not classifies and work.widths[-1] == 1:
            self.y = self.y.ravel()
        self.model = (MLPClassifier if classifies else MLPRegressor)(**options)
        self._fit(1)  # creates its weights
        self.reset()

    def _fit(self, passes: int) -> None:
        self.model.max_iter = passes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self.x, self.y)

    def reset(self) -> None:
        model, weights = self.model, self.data.weights
        for w, b, (weight, bias) in zip(model.coefs_, model.intercepts_, weights, strict=True):
            w[...], b[...] = weight.T, bias

    def train(self, passes: int) -> float:
        self._fit(passes)
        return self.model.loss_ * self.loss_factor

    def first_weight(self) -> np.ndarray:
        return self.model.coefs_[0].T

    def predict(self, passes: int) -> np.ndarray:
        model, xs = self.model, list(self.data.xs)
        for _ in range(passes):
            for x in xs:
                out = model.predict(x)
        return out


def supports(work: Work) -> bool:
    if work.hidden not in ACTIVATIONS or not work.bias:
        return False
    if isinstance(work, Training):
        return work.optimizer.kind in ("sgd", "adam") and not work.optimizer.weight_decay
    return isinstance(work, Inference)


MODES = (Mode("sklearn", Sklearn, supports, whole_epochs=True),)
