"""What a trainer does with one batch: a step, gradients only, an update, an evaluation."""

from typing import Any, Never

from thalweg import _habits
from thalweg._figures import complete
from thalweg._trainer._base import TrainerBase
from thalweg.errors import ArgumentError, ShapeError, UnsupportedError
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim._sam import SAM

#: The arguments that make a batch, and those that other libraries' steps take besides.
_OF_BATCH = ("x", "y", "sample_weight")
_OF_STEPS = {
    **dict.fromkeys(("weight", "weights"), "it is sample_weight, a number for each row"),
    **dict.fromkeys(("epochs", "batch_size", "callbacks"), "trainer.fit takes it; this is a batch"),
    "class_weight": _habits.CLASS_WEIGHT,
    "closure": "the loss is computed here: trainer.step(x, y)",
    "lr": "it is trainer.optimizer.lr",
}

#: Arguments that other libraries' evaluations take.
_OF_EVALUATE = {
    **_OF_STEPS,
    "batch_size": "all rows are one batch, in any number; without y, x is an iterable of batches",
    "metrics": "evaluate gives the loss, and of classifiers the accuracy; others are functions of "
    "trainer.model(x) and y",
    **dict.fromkeys(("verbose", "return_dict", "steps"), "leave it out; a dict is returned"),
}


class Batching(TrainerBase):
    """The part of a trainer that handles one batch at a time."""

    @_habits.knows_no_unknown
    def step(self, x: Any, y: Any, sample_weight: Any = None, **unknown: Never) -> float:
        """Take one step on one batch: forward, backward and update in a single pass.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            As in `fit`.
        y : array_like
            As in `fit`.
        sample_weight : array_like, shape (n,), optional
            As in `fit`.

        Returns
        -------
        float
            The loss of the batch before the step.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays do not fit, or every row has weight 0; the model is unchanged.
        DivergedError
            If the loss is infinite or NaN; the model is unchanged.

        Notes
        -----
        An update that makes a parameter infinite, which takes a huge learning rate, is detected by
        the next step; squared gradients that overflow in the optimizer are detected by `save`.
        `fit` checks for both at the end of each epoch, and can roll back.

        C-contiguous arrays of the model's dtype (also weights, and int64 labels) are read in place.
        C-contiguous uint8, float16, float32 and float64 samples are converted by the core, one
        batch at a time; others are converted on every call, so convert data once if many steps use
        it.
        """
        # No detours in the usual case: this may be called thousands of times per second.
        if unknown:
            _habits.refuse_unknown("Trainer.step()", _OF_BATCH, unknown, _OF_STEPS)
        before = None
        if self._rates is not None:
            before = self._optimizer._core.lr
            rate = self._rates.at(self._optimizer.steps, self._epochs)
            self._optimizer._core.set_lr(rate)
        try:
            loss = self._core.step(x, y, sample_weight)
            if loss is None:
                loss = self._core.step(*self._ready(x, y, sample_weight))
                assert loss is not None  # prepared above
        except Exception as error:
            if before is not None:
                self._optimizer._core.set_lr(before)
            if isinstance(error, ShapeError):
                self._model._samples(x, "x")  # the first layer may explain the error better
            raise
        return loss

    @_habits.knows_no_unknown
    def backward(self, x: Any, y: Any, sample_weight: Any = None, **unknown: Never) -> float:
        """Compute the loss of a batch and its gradients, without updating the parameters.

        Parameters
        ----------
        x, y, sample_weight : array_like
            As in `fit`.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays do not fit; the gradients are unchanged.
        DivergedError
            If the loss is infinite or NaN; the gradients are unchanged.

        Notes
        -----
        Gradients with respect to the parameters are *added* to ``model.flat_gradients``, as in
        `model.backward`. They are those of the loss alone: this trainer's penalty, clipping,
        accumulation and schedule are applied by `update`. `step` does all of this faster, since it
        uses each gradient while it is in cache.

        Examples
        --------
        >>> import numpy as np, thalweg as tw
        >>> from thalweg import nn, optim
        >>> x = np.linspace(-1, 1, 32).reshape(-1, 1)
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
        >>> for _ in range(100):
        ...     model.zero_grad()
        ...     loss = trainer.backward(x, np.sin(x))
        ...     trainer.update()
        >>> loss < 0.01
        True
        """
        if unknown:
            _habits.refuse_unknown("Trainer.backward()", _OF_BATCH, unknown, _OF_STEPS)
        return self._core.backward(*self._ready(x, y, sample_weight))[0]

    def update(self) -> None:
        """Update the parameters from the gradients in the model, as `step` does from its own.

        Everything between a batch's gradient and the update is the same: the penalty's gradient,
        clipping, accumulation, projection, the schedule's rate, the optimizer, the average. So you
        can first add up the gradients of several losses, or of a function that this trainer does
        not know, with `backward` and `nn.Sequential.backward`. ``optimizer.step(model)`` applies
        none of these.

        Raises
        ------
        DivergedError
            If a gradient is infinite or NaN; the model is unchanged.
        UnsupportedError
            For `optim.SAM`, `optim.LBFGS` and `optim.LevenbergMarquardt`, which evaluate the loss
            more than once per update.

        Notes
        -----
        The gradients remain in the model, as they entered the update; clear them with
        `nn.Sequential.zero_grad` before the next one.

        Examples
        --------
        Two losses, on two sets of samples:

        >>> import numpy as np, thalweg as tw
        >>> from thalweg import nn, optim
        >>> x, ends = np.linspace(-1, 1, 32).reshape(-1, 1), np.array([[-1.0], [1.0]])
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> trainer = tw.Trainer(
        ...     model, loss=nn.MSELoss(), optimizer=optim.Adam(1e-2), clip_grad_norm=1.0
        ... )
        >>> for _ in range(300):
        ...     model.zero_grad()
        ...     loss = trainer.backward(x, np.sin(3 * x)) + trainer.backward(ends, np.sin(3 * ends))
        ...     trainer.update()
        >>> loss < 0.05
        True
        """
        optimizer = self._optimizer
        if isinstance(optimizer, (SAM, FullBatchOptimizer)):
            raise UnsupportedError(
                f"{type(optimizer).__name__} looks at the loss more than once for an update, which "
                "gradients that are there cannot serve: use step, or another optimizer"
            )
        before = optimizer.lr
        if self._rates is not None:
            optimizer._core.set_lr(self._rates.at(optimizer.steps, self._epochs))
        try:
            self._core.take()
        except Exception:
            optimizer._core.set_lr(before)
            raise

    @_habits.takes("Trainer.evaluate()", _OF_EVALUATE)
    def evaluate(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, float]:
        """Compute the loss, and the accuracy of classifiers, without training.

        Parameters
        ----------
        x, y, sample_weight : array_like
            As in `fit`; without `y`, `x` is an iterable of batches, or a function that returns one.

        Returns
        -------
        dict of str to float
            ``"loss"``, that of all rows as one batch, and with `nn.CrossEntropyLoss` and
            `nn.BCEWithLogitsLoss` also ``"accuracy"``, as those losses define it. If the loss is a
            function, also the figures it returns.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays do not fit, every row has weight 0, or `x` without `y` yields no batches.
        ArgumentError
            If `x` without `y` is not an iterable of batches.
        """
        if y is None:
            from thalweg import _stream, _validation

            source = _stream.batches_of(x, 1, method="evaluate")
            if sample_weight is not None:
                raise ArgumentError(
                    "sample_weight is of arrays; an iterable yields its own batches, (x, y) or "
                    "(x, y, sample_weight)"
                )
            loss, accuracy, figures = _validation.evaluate(self, source)
        else:
            ready = self._ready(x, y, sample_weight)
            loss, accuracy, figures = complete(self._core.evaluate(*ready))
        return {"loss": loss, **({} if accuracy is None else {"accuracy": accuracy}), **figures}
