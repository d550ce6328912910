"""What a trainer does with one batch: a step, gradients only, an update, an evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Never

import numpy.typing as npt

from thalweg import _core, _habits
from thalweg._arrays import Batches, Targets
from thalweg._figures import complete
from thalweg._trainer import _steps
from thalweg._trainer._base import TrainerBase
from thalweg._trainer._hooked import Block
from thalweg._trainer._undefined import explain
from thalweg.errors import ArgumentError, ShapeError, ThalwegError, UnsupportedError
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim._sam import SAM

#: The arguments that make a batch, and those that other libraries' steps take besides.
_OF_BATCH = ("x", "y", "sample_weight")
_OF_STEPS = {
    **dict.fromkeys(("weight", "weights"), "it is sample_weight, a number for each row"),
    **dict.fromkeys(
        ("epochs", "batch_size", "callbacks"), "trainer.fit takes it; this method takes one batch"
    ),
    "class_weight": _habits.CLASS_WEIGHT,
    "closure": "the loss is computed here: trainer.step(x, y)",
    "lr": "it is trainer.optimizer.lr",
}

#: Arguments that other libraries' evaluations take.
_OF_EVALUATE = {
    **_OF_STEPS,
    "batch_size": "all rows are one batch, however many; without y, x is an iterable of batches",
    "metrics": "evaluate returns the loss and, for classifiers, the accuracy; compute others from "
    "trainer.model(x) and y",
    **dict.fromkeys(("verbose", "return_dict", "steps"), "leave it out; a dict is returned"),
}


class Batching(TrainerBase):
    """The part of a trainer that handles one batch at a time."""

    @_habits.knows_no_unknown
    def step(
        self,
        x: npt.ArrayLike,
        y: Targets,
        sample_weight: npt.ArrayLike | None = None,
        **unknown: Never,
    ) -> float:
        """Take one step on one batch: forward, backward and update in a single pass.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            As in `fit`.
        y : array_like
            As in `fit`.
        sample_weight : array_like, shape (n,), optional
            As in `fit`. In a mean, the weight of a single row cancels: to let such rows count
            differently, use a loss with ``reduction="sum"``.

        Returns
        -------
        float
            The loss of the batch before the step.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If the arrays do not fit, or every row has weight 0; the model is unchanged.
        ArgumentError
            If the schedule counts epochs, and there has been no `fit` yet. Or while another thread
            is in a step of this model with a custom loss, a gradient hook or an optimizer that
            takes all samples at once; or if such a step of this trainer calls a function that calls
            this method.
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
        if self._model._steps:  # which are under way
            _steps.check(self._model, self._core, "step")
        before = None
        if self._schedule is not None:
            before = self._optimizer._core.lr
            self._set_rate()
        core, loss = self._core, None
        try:
            if isinstance(core, _core.Trainer):
                loss = core.step(x, y, sample_weight)  # None if it takes no such arrays
            if loss is None:
                loss = core.step(*self._ready(x, y, sample_weight))
                assert loss is not None  # prepared above
        except Exception as error:
            if before is not None:
                self._optimizer._core.set_lr(before)
            if isinstance(error, ShapeError):
                self._model._samples(x, "x")  # the first layer may explain the error better
            explain(self, error, x, sample_weight)
            raise
        return loss

    @_habits.knows_no_unknown
    def backward(
        self,
        x: npt.ArrayLike,
        y: Targets,
        sample_weight: npt.ArrayLike | None = None,
        **unknown: Never,
    ) -> float:
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
        ArgumentError
            While another thread is in a step as in `step`, or if the loss function calls this.
        DivergedError
            If the loss is infinite or NaN; the gradients are unchanged.

        Notes
        -----
        Gradients with respect to the parameters are *added* to ``model.flat_gradients``, as in
        `model.backward`. They are those of the loss alone: this trainer's penalty, clipping,
        accumulation and schedule are applied by `update`. `step` does all of this faster, since it
        uses each gradient while it is in cache.

        If the loss is an `nn.CustomLoss`, its forward pass takes the place of an earlier
        `model.forward`, and `model.backward` then raises an error: call that before. Other losses
        leave such a pass alone.

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
        if self._model._steps:
            _steps.check(self._model, None, "backward")  # hooks may call it
        try:
            return self._core.backward(*self._ready(x, y, sample_weight))[0]
        except ThalwegError as error:
            explain(self, error, x, sample_weight)
            raise

    def update(self) -> None:
        """Update the parameters from the gradients in the model, as `step` does from its own.

        Everything between a batch's gradient and the update is the same: the penalty's gradient,
        clipping, accumulation, projection, the schedule's rate, the optimizer, the average. So you
        can first add up the gradients of several losses, or of a function that this trainer does
        not know, with `backward` and `nn.Sequential.backward`. ``optimizer.step(model)`` applies
        none of these.

        Raises
        ------
        ArgumentError
            If the schedule counts epochs, and there has been no `fit` yet; or while a step is under
            way, as in `step`.
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
                f"{type(optimizer).__name__} evaluates the loss more than once per update, so it "
                "cannot use gradients that were computed before: use step, or another optimizer"
            )
        if self._model._steps:
            _steps.check(self._model, self._core, "update")
        before = optimizer.lr
        if self._schedule is not None:
            self._set_rate()
        try:
            self._core.take()
        except Exception:
            optimizer._core.set_lr(before)
            raise

    def _set_rate(self) -> None:
        """Set the rate of a manual step, by a schedule.

        Raises
        ------
        ArgumentError
            If the schedule waits for epochs, and nothing has counted any.
        """
        rates = self._rates
        if (rates is None or rates.by_epoch) and not self._epochs and not self._fitting:
            others = "" if rates is None else ', make the schedule with per="step"'
            raise ArgumentError(
                f"{self._schedule!r} counts epochs of fit, and there have been none, so it would "
                "never change the rate of steps: call fit(..., epochs=1) for each epoch"
                f"{others}, or leave the schedule out and set optimizer.lr"
            )
        if rates is not None:
            self._optimizer._core.set_lr(rates.at(self._optimizer.steps, self._epochs))

    def gradient_hook(
        self, hook: Callable[[Any], Any]
    ) -> contextlib.AbstractContextManager[None, None]:
        """Let a function change the gradient of every batch until the block ends.

        Parameters
        ----------
        hook : callable
            ``hook(gradient)`` gets the gradient of a batch's loss, an array of shape
            (num_parameters,) in the order of ``model.flat_parameters``, 0 where these are frozen,
            and returns the gradient to be used: the same array, changed in place, or another. Then
            follow accumulation, the penalty, the projection of strategies such as `continual.AGEM`,
            clipping and the update.

        Returns
        -------
        context manager
            For a ``with`` statement.

        Raises
        ------
        ArgumentError
            If `hook` is not callable or returns None, or if a fit is in progress.
        ShapeError, DtypeError, DataError
            By steps and fits, if the returned gradient does not fit the model or is not finite; the
            model is unchanged.
        UnsupportedError
            For `optim.SAM`, `optim.LBFGS` and `optim.LevenbergMarquardt`, which evaluate the loss
            more than once per update.

        Notes
        -----
        `step` and `fit` call it, also those of strategies of `thalweg.continual`; `backward` and
        `update` do not. Several hooks are called in the order in which their blocks begin. Batches
        of a fit take longer, since their gradients pass through Python. Those of the update remain
        in ``model.flat_gradients``, as with an `nn.CustomLoss`. Copies and files of the trainer are
        without the hook, and so are the trials of `find_lr` and ``fit(lr="auto")``.

        Examples
        --------
        Gradient noise (Neelakantan et al. 2015, arXiv:1511.06807):

        >>> import numpy as np, thalweg as tw
        >>> from thalweg import nn, optim
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((64, 2))
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), seed=0)
        >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
        >>> def noisy(gradient):
        ...     return gradient + 0.01 * rng.standard_normal(len(gradient))
        >>> with trainer.gradient_hook(noisy):
        ...     history = trainer.fit(x, x[:, :1] * x[:, 1:], epochs=50)
        >>> history["loss"][-1] < history["loss"][0]
        True
        """
        if not callable(hook):
            raise ArgumentError(f"hook must be a function of the gradient; got {hook!r}")
        if isinstance(self._optimizer, (SAM, FullBatchOptimizer)):
            raise UnsupportedError(
                f"gradient_hook is not supported with {type(self._optimizer).__name__}, which "
                "evaluates the loss more than once per update: use another optimizer"
            )
        return Block(self, hook)

    @_habits.takes("Trainer.evaluate()", _OF_EVALUATE)
    def evaluate(
        self,
        x: npt.ArrayLike | Batches,
        y: Targets | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> dict[str, float]:
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
            If the arrays do not fit, every row has weight 0, or `x` without `y` yields no batches;
            of frames in batches, if their columns differ, as in `fit`.
        ArgumentError
            If `x` without `y` is not an iterable of batches.
        """
        if y is None:
            from thalweg._trainer import _evaluation, _frames, _stream

            source = _stream.batches_of(x, 1, method="evaluate")
            if sample_weight is not None:
                raise ArgumentError(
                    "sample_weight is for arrays; an iterable yields its own batches, (x, y) or "
                    "(x, y, sample_weight)"
                )
            loss, accuracy, figures = _evaluation.evaluate(self, source, _frames.Columns())
        else:
            ready = self._ready(x, y, sample_weight)
            try:
                loss, accuracy, figures = complete(self._core.evaluate(*ready))
            except ThalwegError as error:
                explain(self, error, x, sample_weight)
                raise
        return {"loss": loss, **({} if accuracy is None else {"accuracy": accuracy}), **figures}
