"""Constructing a trainer and preparing data for it."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from thalweg import _arrays, _checks, _core, _habits
from thalweg._arrays import Array, Samples
from thalweg._at_once import at_once
from thalweg._habits import Guided
from thalweg._history import History
from thalweg._targets import targets
from thalweg._trainer import _logits
from thalweg._trainer._custom import CustomTrainer
from thalweg._trainer._full_batch import FullBatchTrainer
from thalweg._trainer._penalties import Penalties
from thalweg._trainer._rates import Rates
from thalweg._trainer._stepper import Stepper, innermost
from thalweg.errors import ArgumentError, ThalwegError, UnsupportedError
from thalweg.nn import Loss, MSELoss, Sequential
from thalweg.nn._losses import CoreLoss, FunctionLoss, LossFunction, NoLoss, loss_of
from thalweg.optim import EMA, SAM, SWA, Optimizer, ScheduleFreeAdamW, _averages
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim._optimizer import OWN
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule

#: Precisions that split the operands of matrix products.
_SPLIT = ("bfloat16", "bf16x3", "bf16x6")
#: All precisions of a trainer.
Precision: TypeAlias = Literal["float32", "float64", "bfloat16", "bf16x3", "bf16x6"]
PRECISIONS = get_args(Precision)

#: Where the arguments of a trainer are given.
WHEN_MADE = "it is fixed when a trainer is made: Trainer(..., {})"


_OF_FITS = "trainer.fit(..., {}=...) takes it"

#: Arguments that trainers in other libraries take.
_OF_TRAINERS = {
    **dict.fromkeys(("criterion", "loss_fn", "loss_function"), "it is loss"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "it is schedule"),
    **dict.fromkeys(("lr", "learning_rate"), "it is the optimizer's: optim.AdamW(lr=...)"),
    **dict.fromkeys(("gradient_clip_val", "max_grad_norm"), "it is clip_grad_norm"),
    **dict.fromkeys(("seed", "random_state"), "it is the model's: nn.Sequential(..., seed=...)"),
    **dict.fromkeys(
        ("dtype", "device"),
        "it is the model's: nn.Sequential(..., dtype=...), and everything runs on the CPU",
    ),
    **dict.fromkeys(("ema", "use_ema"), "it is average=optim.EMA()"),
    **{
        name: _OF_FITS.format(name)
        for name in ("epochs", "batch_size", "callbacks", "validation_data", "sample_weight")
    },
    "gradient_accumulation_steps": "it is accumulate_grad_batches",
    "max_epochs": _OF_FITS.format("epochs"),
    "metrics": _habits.METRICS,
}


#: The attributes that a trainer sets.
ATTRIBUTES = (
    "_model", "_loss", "_optimizer", "_schedule", "_clip_norm", "_clip_value", "_accumulate",
    "_average", "_averaging", "_precision", "_core", "_history", "_fits_in", "_untouched",
    "_epochs", "_base_lr", "_plateau", "_rates", "_penalties",
)  # fmt: skip


class TrainerBase(Guided):
    """Base of `thalweg.Trainer`, which documents the arguments."""

    _uncalled: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("step", "train_step", "training_step"),
        "fit takes its steps in the core; follow them in a callback with on_step_end or "
        "on_epoch_end, use nn.CustomLoss for a custom loss, and a hand-written loop for other "
        "steps: trainer.backward(x, y) and trainer.update()",
    )
    _elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("predict", "forward"), "call the model: trainer.model(x)"),
        **dict.fromkeys(("score", "test", "validate"), "trainer.evaluate(x, y) does that"),
        **dict.fromkeys(("lr", "learning_rate"), "it is trainer.optimizer.lr"),
        **dict.fromkeys(("train_on_batch", "partial_fit"), "trainer.step(x, y) does that"),
        **dict.fromkeys(("loss_curve_", "history_"), 'it is trainer.history["loss"]'),
        **{
            name: WHEN_MADE.format(f"{name}=...")
            for name in (
                "clip_grad_norm", "clip_grad_value", "accumulate_grad_batches", "average",
            )
        },
        "train": "trainer.fit(x, y) trains, and trainer.step(x, y) one batch",
        "model": "make another Trainer for another model",
        "optimizer": "a second Trainer of the same model continues with another optimizer: "
        "tw.Trainer(trainer.model, loss=trainer.loss, optimizer=optim.LBFGS())",
        **dict.fromkeys(
            ("schedule", "precision"),
            "it is fixed when a trainer is made; a second Trainer of the same model can have the "
            "same optimizer",
        ),
        "zero_grad": "trainer.step leaves no gradients to reset; those of trainer.backward are "
        "the model's: trainer.model.zero_grad()",
        **dict.fromkeys(
            ("save_model", "save_weights", "save_checkpoint"),
            "trainer.save(path) writes everything, trainer.model.save(path) only the model",
        ),
        **dict.fromkeys(("parameters", "weights"), "they are in trainer.model.flat_parameters"),
        **dict.fromkeys(
            ("stop_training", "should_stop"),
            "a callback whose on_step_end or on_epoch_end returns True stops a fit",
        ),
        "summary": "trainer.model.summary() returns it",
        "current_epoch": "it is trainer.epochs",
        "global_step": "it is trainer.optimizer.steps",
        "reset": "twin = trainer.copy(), before training, keeps the beginning; or make another "
        "model and Trainer",
        "learn_one": "trainer.step([x], [y]) does that",
        "predict_one": "trainer.model([x])[0] does that",
        "predict_proba": "trainer.loss.probabilities(trainer.model(x)) does that",
        "compile": "a trainer is ready once it is made",
        "state_dict": "trainer.save(path) writes everything to a file",
        "load_state_dict": "Trainer.load(path) reads what trainer.save wrote",
        "callbacks": "pass them to trainer.fit(..., callbacks=[...])",
        "gradient_hook": "with trainer.gradient_hook(function): trainer.fit(x, y)",
    }  # fmt: skip

    @_habits.takes("Trainer", _OF_TRAINERS)
    def __init__(
        self,
        model: Sequential,
        *,
        loss: Loss | LossFunction | None,
        optimizer: Optimizer,
        schedule: Schedule | ReduceLROnPlateau | None = None,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        accumulate_grad_batches: int = 1,
        average: EMA | SWA | None = None,
        precision: Precision | None = None,
    ) -> None:
        _expect(
            "model", model, Sequential, "nn.Sequential(...) or tw.torch.from_torch(module)", "nn"
        )
        loss = NoLoss() if loss is None else loss_of(loss)
        _expect("optimizer", optimizer, Optimizer, "optim.AdamW(lr=1e-3)", "optim")
        if isinstance(precision, str) and precision.lower() == "bf16":
            raise ArgumentError(f'precision must be the full name, "bfloat16"; got "{precision}"')
        self._precision = (
            None if precision is None else _checks.one_of("precision", precision, PRECISIONS)
        )
        if precision in ("float32", "float64") and precision != model.dtype.name:
            raise UnsupportedError(
                f"precision {precision!r} must be the dtype of the model; got a model of dtype "
                f'"{model.dtype.name}": convert it with model.astype({precision!r})'
            )
        none = isinstance(loss, NoLoss)
        if precision in _SPLIT and isinstance(loss, FunctionLoss):
            of_model = "a custom loss", "in the precision of the model"
            kind, whose = ("loss=None", "yours") if none else of_model
            raise UnsupportedError(
                f"precision {precision!r} is not supported with {kind}, whose passes are {whose}: "
                "leave precision out"
            )
        if none and isinstance(optimizer, (SAM, FullBatchOptimizer)):
            raise UnsupportedError(
                f"{type(optimizer).__name__} evaluates the loss more than once per update, so it "
                "cannot be used with loss=None: pass a loss, or another optimizer"
            )
        _expect_schedule(schedule)
        if clip_grad_norm is not None and clip_grad_value is not None:
            raise ArgumentError(
                "give clip_grad_norm or clip_grad_value, not both; with clip_grad_norm, "
                "trainer.gradient_hook(lambda gradient: gradient.clip(-c, c)) clips each value "
                "before the norm"
            )
        _logits.check(model, loss)  # before anything changes: a warning may be raised
        self._model = model
        self._loss: CoreLoss | FunctionLoss = loss
        self._optimizer = optimizer
        self._schedule = schedule
        self._clip_norm = self._clip_value = None
        if clip_grad_norm is not None:
            self._clip_norm = _checks.norm_limit("clip_grad_norm", clip_grad_norm)
        if clip_grad_value is not None:
            self._clip_value = _checks.real("clip_grad_value", clip_grad_value, 0, closed="()")
        self._accumulate = _checks.integer("accumulate_grad_batches", accumulate_grad_batches, 1)
        _averages.check(average)
        base = optimizer.base if isinstance(optimizer, SAM) else optimizer
        self._averaging = base if isinstance(base, ScheduleFreeAdamW) else None
        if average is not None and self._averaging is not None:
            raise ArgumentError("ScheduleFreeAdamW averages by itself: leave average out")
        self._average = average
        self._core: _core.Trainer | Stepper
        sam = None
        # With a user-defined loss, the core sees only gradients.
        if isinstance(optimizer, SAM) and not isinstance(loss, FunctionLoss):
            sam = optimizer.rho, optimizer.adaptive
        spec = (MSELoss() if isinstance(loss, FunctionLoss) else loss)._spec(model.out_features)
        optimizer._meet(model)
        split = precision if precision in _SPLIT else None
        step = (self._clip_norm, self._clip_value, self._accumulate, sam, split)
        core = _core.Trainer(model._core, spec, optimizer._core, *step)
        if average is not None:
            decay = average.decay if isinstance(average, EMA) else None
            core.start_average(decay, average.start, average.every)
        self._core = core
        self._penalties = Penalties()
        if isinstance(loss, FunctionLoss):
            self._core = CustomTrainer(core, model, optimizer, loss)
        if isinstance(optimizer, FullBatchOptimizer):
            self._core = self._full_batch(self._core, optimizer)
        self._history = History()
        #: The process in which a fit is under way: a forked one has none of its parent's threads.
        self._fits_in: int | None = None
        #: Whether the current fit has trained nothing yet, or has rolled everything back.
        self._untouched = True
        self._epochs = 0  # ended so far; decides the order of rows and the rate
        self._base_lr = optimizer.lr
        self._plateau = schedule.start() if isinstance(schedule, ReduceLROnPlateau) else {}
        self._rates = Rates(schedule, self._base_lr) if isinstance(schedule, Schedule) else None
        optimizer._belong(model)  # nothing can fail after this
        optimizer._by_hand.lr = None  # the current rate is the base rate

    @property
    def _fitting(self) -> bool:
        """Whether a fit is under way."""
        return self._fits_in == os.getpid()

    def _set_loss(self, loss: CoreLoss | FunctionLoss) -> None:
        """Set a loss of the same kind."""
        core: Any = self._core
        outputs = self._model.out_features
        told = loss if isinstance(loss, FunctionLoss) else loss._spec(outputs)
        at_once(partial(core.set_loss, told), partial(object.__setattr__, self, "_loss", loss))

    def _updating(self) -> _core.Trainer | None:
        """Return the core's trainer if each update uses one gradient, whatever its source."""
        return None if isinstance(self._optimizer, FullBatchOptimizer) else innermost(self._core)

    def _full_batch(
        self, core: _core.Trainer | Stepper, optimizer: FullBatchOptimizer
    ) -> FullBatchTrainer:
        """Combine an optimizer that compares losses with what computes them."""
        kind = type(optimizer).__name__
        options = (self._clip_norm, self._clip_value, self._average)
        if options != (None, None, None) or self._accumulate > 1:
            raise UnsupportedError(
                "clip_grad_norm, clip_grad_value, accumulate_grad_batches and average are not "
                f"supported with {kind}: its steps follow from the loss of all data and its "
                "gradient"
            )
        if not optimizer._has_lr and self._schedule is not None:
            raise UnsupportedError(f"{kind} has no learning rate that a schedule could change")
        if optimizer._needs_squares and not isinstance(self._loss, MSELoss):
            raise ArgumentError(
                f"{kind} needs a sum of squares: loss must be nn.MSELoss(); got {self._loss!r}. "
                "Other sums of squares: solve.nonlinear_least_squares"
            )
        return FullBatchTrainer(core, self._model, optimizer, self._loss)

    def _ready(
        self, x: Any, y: Any, sample_weight: Any, prefix: str = ""
    ) -> tuple[Samples, Any, Array | None]:
        """Prepare samples, targets and weights for the core, or a custom loss."""
        model, loss = self._model, self._loss
        samples = model._samples(x, f"{prefix}x")
        name = f"{prefix}y"
        if isinstance(loss, FunctionLoss):
            if isinstance(loss, NoLoss):
                loss.function()  # says so
            y = targets(y, name, len(samples))
        else:
            y = loss._ready(y, model.dtype, model.out_features, name)
        return samples, y, _arrays.weights(sample_weight, model.dtype, f"{prefix}sample_weight")

    def _ready_to_validate(self, data: Any) -> tuple[Samples | None, Any, Array | None]:
        """Prepare the validation data for the core; three times None if there is none."""
        if data is None:
            return None, None, None
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ArgumentError(
                "validation_data must be a tuple (x, y) or (x, y, sample_weight) of arrays, or an "
                f"iterable of such batches, e.g. a list of tuples; got {_checks.how_many(data)}"
            )
        x, y, *weight = data
        try:
            return self._ready(x, y, weight[0] if weight else None, "validation ")
        except ThalwegError as error:
            if not all(isinstance(part, tuple) for part in data):
                raise
            raise type(error)(f"{error} (of batches, pass a list, not a tuple)") from None


def _expect(name: str, value: Any, kind: type, example: str, place: str) -> None:
    """Raise unless `value` is a `kind`, and say what to write instead."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise ArgumentError(
            f"{name} must be {article} {kind.__name__}, e.g. {example}; got {_checks.given(value)}"
            f"{_habits.kind_meant(value, kind, place) or _own(value, kind)}"
        )


def _own(value: Any, kind: type) -> str:
    """Say what to use instead, if `value` looks like an optimizer from elsewhere."""
    if kind is not Optimizer or isinstance(value, type) or not hasattr(value, "step"):
        return ""
    theirs = type(value).__module__.partition(".")[0] in ("torch", "keras")
    return _habits.kind_meant(type(value).__name__, kind, "optim") if theirs else f": {OWN}"


def _expect_schedule(value: Any) -> None:
    """Raise unless `value` is a schedule, or None."""
    if value is None or isinstance(value, (Schedule, ReduceLROnPlateau)):
        return
    if callable(value) and not isinstance(value, type):
        hint = "; schedules.LambdaLR turns a function into a schedule"
    else:
        hint = _habits.kind_meant(value, Schedule, "optim.schedules", ReduceLROnPlateau)
    raise ArgumentError(
        "schedule must be one of thalweg.optim.schedules, e.g. schedules.CosineAnnealingLR(); "
        f"got {_checks.given(value)}{hint}"
    )
