"""The compiled core, as Python sees it. Private: use the names in ``thalweg``.

Arrays passed to the core are C-contiguous, of the model's dtype, and 2-D (rows, features);
``thalweg._arrays`` makes them so. Samples may also be uint8, float16, float32 or float64, whatever
the model's dtype: they are converted batch by batch. Labels are 1-D int64. Anything wrong raises a
subclass of ``thalweg.ThalwegError`` and leaves the model unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "Fit",
    "Jet",
    "Model",
    "Optimizer",
    "Point",
    "Slopes",
    "Trainer",
    "__version__",
    "after_fork",
    "before_fork",
    "central_differences",
    "central_differences_of",
    "config",
    "curvature_product",
    "epoch_order",
    "get_num_threads",
    "importance",
    "jvp",
    "kronecker",
    "limit_own_threads",
    "loss_of",
    "losses_along",
    "losses_along_of",
    "set_num_threads",
    "threads_from",
]

_Array: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
_Samples: TypeAlias = _Array | npt.NDArray[np.uint8] | npt.NDArray[np.float16]
_Labels: TypeAlias = npt.NDArray[np.int64]
# ("linear", in, out, bias, init) | ("batch_norm", features, eps, momentum, affine)
# | ("layer_norm", features, eps, scale, shift) | ("rms_norm", features, eps or None, scale)
# | ("fourier", in, count, sigma, bands or [])
# | ("standardize", mean, std, inverse) | ("tabular", in, [(column, codes, dim)], [(column, edges)])
# | ("residual", [specs of its layers]) | ("concatenate", [specs of its layers])
# | (name of an element-wise layer, *its parameters): ("relu",), ("leaky_relu", slope) ...
_LayerSpec: TypeAlias = tuple[Any, ...]
# (kind, "mean" | "sum", numbers by column, ...): ("mse",) | ("l1",) | ("huber", delta)
# | ("cross_entropy", label_smoothing, ignore_index, [where heads end]) | ("bce_with_logits",)
# | ("gaussian_nll", full, eps) | ("poisson_nll", log_input, full, eps) | ("quantile",)
# | ("distillation", temperature), where what follows the kind follows the three
_LossSpec: TypeAlias = tuple[Any, ...]
# (epoch from 1, loss, accuracy, penalty, val_loss, val_accuracy, seconds); None where there is no
# such figure
_EpochRecord: TypeAlias = tuple[
    int, float, float | None, float | None, float | None, float | None, float
]

__version__: str

@final
class Model:
    def __new__(cls, layers: Sequence[_LayerSpec], dtype: str, seed: int) -> Model: ...
    @property
    def dtype(self) -> Literal["float32", "float64"]: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def num_parameters(self) -> int: ...
    # ("0.weight", (out, in)) in flat order
    def blocks(self) -> list[tuple[str, tuple[int, ...]]]: ...
    # ("1.running_mean", (features,)) in the order of averages()
    def average_blocks(self) -> list[tuple[str, tuple[int, ...]]]: ...
    # number of training passes so far, on which dropout depends
    def passes(self) -> int: ...
    def set_passes(self, passes: int) -> None: ...
    # number of forward passes so far that were kept for backward
    def kept(self) -> int: ...
    def averages(self) -> _Array: ...
    def set_averages(self, values: _Array) -> None: ...
    def parameters(self) -> _Array: ...
    def set_parameters(self, values: _Array) -> None: ...
    # parameters and averages of one moment
    def numbers(self) -> tuple[_Array, _Array]: ...
    def set_numbers(self, parameters: _Array, averages: _Array) -> None: ...
    def follow(self, other: Model, tau: float) -> None: ...
    def gradients(self) -> _Array: ...
    def set_gradients(self, values: _Array) -> None: ...
    # With one of the two limits; returns the norm before.
    def clip_gradients(self, norm: float | None, value: float | None) -> float: ...
    def zero_grad(self) -> None: ...
    # None if the array is not as required: convert it first
    def predict(self, x: Any) -> _Array | None: ...
    def forward(self, x: _Samples, training: bool = True) -> _Array: ...
    # Lets no backward pass follow the last forward pass.
    def forget(self) -> None: ...
    # (outputs, their Jacobian with respect to the parameters: a row per output and row of x)
    def jacobian(self, x: _Samples, training: bool) -> tuple[_Array, _Array]: ...
    # for each row, its slopes of the outputs times their derivatives with respect to the parameters
    def row_gradients(self, x: _Samples, slopes: _Array) -> _Array: ...
    def recalibrate(self, x: _Samples, batch_rows: int) -> None: ...
    # the gradient with respect to the input, if requested
    def backward(self, grad_output: _Array, parameters: bool, inputs: bool) -> _Array | None: ...

@final
class Optimizer:
    def __new__(cls, kind: str, options: dict[str, float | bool | str]) -> Optimizer: ...
    @property
    def lr(self) -> float: ...
    # Whether each parameter moves by its own gradient and state alone.
    @property
    def is_elementwise(self) -> bool: ...
    @property
    def steps(self) -> int: ...
    def add_group(
        self,
        pattern: str,
        changes: Mapping[str, float | bool | str],
        lr_scale: float | None = None,
        frozen: bool | None = None,
    ) -> None: ...
    def set_lr(self, lr: float) -> None: ...
    def set_options(self, changes: Mapping[str, float | bool | str]) -> None: ...
    # With one of the two limits; returns the norm before.
    def clip(self, model: Model, norm: float | None, value: float | None) -> float: ...
    def step(self, model: Model) -> None: ...
    # Whether it has stepped this model.
    def belongs(self, model: Model) -> bool: ...
    # (steps taken, {"mu_product": number, ...}, {"exp_avg": flat, ...})
    def state(self) -> tuple[int, dict[str, float], dict[str, _Array]]: ...
    def set_state(
        self,
        model: Model,
        changes: dict[str, float | bool | str],  # of hyper-parameters
        steps: int,
        scalars: dict[str, float],
        arrays: dict[str, _Array],
    ) -> None: ...

@final
class Trainer:
    def __new__(
        cls,
        model: Model,
        loss: _LossSpec,
        optimizer: Optimizer,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        accumulate: int = 1,
        sam: tuple[float, bool] | None = None,  # rho, adaptive
        precision: str | None = None,  # one that splits numbers
    ) -> Trainer: ...
    def set_loss(self, loss: _LossSpec) -> None: ...
    # None if the arrays are not as required: convert them first
    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float | None: ...
    # Adds gradients to the model's; returns loss and accuracy.
    def backward(
        self, x: _Samples, y: _Array | _Labels, sample_weight: _Array | None = None
    ) -> tuple[float, float | None]: ...
    def evaluate(
        self, x: _Samples, y: _Array | _Labels, sample_weight: _Array | None = None
    ) -> tuple[float, float | None]: ...
    # Trains on one batch of an epoch; returns the sums of losses, of correct rows, and of weights
    # for the two means, or None if every weight is 0.
    def train(
        self, x: _Samples, y: _Array | _Labels, sample_weight: _Array | None = None
    ) -> tuple[float, float, float, float] | None: ...
    # The same sums for `backward` and `evaluate`; a loss that `evaluate` would refuse because it is
    # not finite, although the data are, is infinite.
    def backward_sums(
        self, x: _Samples, y: _Array | _Labels, sample_weight: _Array | None = None
    ) -> tuple[float, float, float, float] | None: ...
    def evaluate_sums(
        self, x: _Samples, y: _Array | _Labels, sample_weight: _Array | None = None
    ) -> tuple[float, float, float, float] | None: ...
    # Uses the gradients in the model as those of one batch: accumulates them, or makes an update.
    def take(self) -> None: ...
    # Makes an update from accumulated gradients.
    def flush(self) -> None: ...
    @property
    def has_accuracy(self) -> bool: ...
    # Discards gradients accumulated for the next update.
    def forget(self) -> None: ...
    # decay None: equal weights
    def start_average(self, decay: float | None, start: int, every: int) -> None: ...
    # (parameters, number of updates), if there is an average
    def average(self) -> tuple[_Array, int] | None: ...
    def set_average(self, values: _Array, count: int) -> None: ...
    def grad_norm(self) -> float | None: ...
    # (gradients, number of batches), if any are accumulated
    def gathered(self) -> tuple[_Array, int] | None: ...
    def set_gathered(self, values: _Array, batches: int) -> None: ...
    # Importance, anchor and strength of the quadratic penalty; None removes it.
    def set_penalty(self, penalty: tuple[_Array, _Array, float] | None) -> None: ...
    def penalty(self) -> tuple[_Array, _Array, float] | None: ...
    # Whether there is a penalty that couples parameters.
    def has_coupled_penalty(self) -> bool: ...
    def penalty_value(self) -> float | None: ...
    # The integral of -gradient along the path of each parameter; with_penalty=None ends it.
    def start_path(self, with_penalty: bool | None) -> None: ...
    def path(self) -> _Array | None: ...
    def set_path(self, values: _Array) -> None: ...
    # 1 where a parameter may move, 0 where it is fixed.
    def set_mask(self, free: _Array | None) -> None: ...
    # Blocks (weight, bias, rows, columns, [(A, G)]), matrices as vectors; anchor and strength.
    def set_coupled(
        self,
        penalty: tuple[
            list[tuple[int, int | None, int, int, list[tuple[_Array | None, _Array]]]],
            _Array,
            float,
        ]
        | None,
    ) -> None: ...
    # (alpha, eps, every); None ends it.
    def start_walk(self, options: tuple[float, float, int] | None) -> None: ...
    # [F, gain, score, place], the optimizer's steps when it began, and whether F was nothing then
    def walk(self) -> tuple[list[_Array], int, bool] | None: ...
    def set_walk(self, parts: list[_Array], begun: int, fresh: bool) -> None: ...
    # ("average", 0, eps), ("each", margin, eps) or ("bound", margin, eps); samples and targets
    def project(
        self, rule: tuple[str, float, float], memories: list[tuple[_Samples, _Array | _Labels]]
    ) -> None: ...
    # Rows of a memory for the next updates, `size` each.
    def recall(self, memory: int, rows: Sequence[int], size: int) -> None: ...
    # Orthonormal rows; None ends any projection.
    def project_out(self, directions: _Array | None = None) -> None: ...
    # Updates, and those whose gradient was changed.
    def projected(self) -> tuple[int, int] | None: ...
    # a description of what a step will run, and the bytes of its workspace
    def plan(self, batch_size: int) -> tuple[str, int]: ...

@final
class Fit:
    """One call of ``Trainer.fit``, in slices, so that Python can show progress and interrupt it."""

    def __new__(
        cls,
        trainer: Trainer,
        x: _Samples,
        y: _Array | _Labels,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        validation_x: _Samples | None = None,
        validation_y: _Array | _Labels | None = None,
        sample_weight: _Array | None = None,
        validation_weight: _Array | None = None,
        rates: Sequence[float] | None = None,  # a learning rate for each update, or epoch
        rates_by_epoch: bool = False,
        earlier_epochs: int = 0,  # of previous fits: row orders continue from there
    ) -> Fit: ...
    # Runs until everything is done, max_epochs more epochs have ended, max_seconds have passed, or
    # max_batches more are done; returns the epochs that ended.
    def run(
        self,
        max_epochs: int | None = None,
        max_seconds: float | None = None,
        max_batches: int | None = None,
    ) -> list[_EpochRecord]: ...
    # Epochs that ended but were not returned, because run() was interrupted.
    def take_ended(self) -> list[_EpochRecord]: ...
    # Whether an error has undone everything.
    @property
    def undone(self) -> bool: ...
    @property
    def done(self) -> bool: ...
    # Loss of the last batch, before its update.
    @property
    def last_loss(self) -> float: ...
    # (epochs ended, batches done in this epoch, batches per epoch, mean loss so far in this epoch,
    # accuracy so far or None)
    @property
    def progress(self) -> tuple[int, int, int, float, float | None]: ...

# Gradient of the loss by backpropagation, the same by central differences at the (representable)
# step h * max(1, |theta_i|), and whether a ReLU-like kink was crossed between the two points;
# float64 models only.
def central_differences(
    model: Model,
    loss: _LossSpec,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64] | _Labels,
    h: float,
    sample_weight: _Array | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]: ...

# The same for a function of the outputs that returns (loss, gradient with respect to the outputs),
# and must not use the model.
def central_differences_of(
    model: Model,
    function: Callable[[npt.NDArray[np.float64]], tuple[float, npt.NDArray[np.float64]]],
    x: npt.NDArray[np.float64],
    h: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]: ...

# Gradient of the loss by backpropagation; loss values at theta + step * direction, where direction
# is for the parameters from `start` on; and whether a ReLU-like kink lies between there and theta.
# float64 models only.
def losses_along(
    model: Model,
    loss: _LossSpec,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64] | _Labels,
    start: int,
    direction: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
    sample_weight: _Array | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]: ...

# The same for a function of the outputs.
def losses_along_of(
    model: Model,
    function: Callable[[npt.NDArray[np.float64]], tuple[float, npt.NDArray[np.float64]]],
    x: npt.NDArray[np.float64],
    start: int,
    direction: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]: ...

# Intermediate results that products with the same matrix share.
@final
class Point:
    def __new__(cls) -> Point: ...

# "hessian", "gauss_newton" or "fisher" of the loss on a batch, times v; all in public order.
def curvature_product(
    point: Point,
    model: Model,
    loss: _LossSpec,
    x: _Array,
    y: _Array | _Labels,
    v: _Array,
    matrix: str,
    training: bool,
    sample_weight: _Array | None = None,
) -> _Array: ...

# Outputs, and their derivative along v for the parameters and dx for the inputs.
def jvp(
    model: Model, x: _Array, v: _Array, training: bool, dx: _Array | None = None
) -> tuple[_Array, _Array]: ...

# Outputs with derivatives along the rows of `along`, up to order 1 or 2. `forward` stacks outputs,
# first derivatives, direction by direction, and second derivatives; `backward` takes the gradient
# with respect to all of them.
@final
class Jet:
    def __new__(cls, model: Model, along: _Array, orders: list[int]) -> Jet: ...
    def forward(self, x: _Array) -> _Array: ...
    def backward(self, gradient: _Array) -> None: ...

# Outputs, and derivatives of each with respect to the inputs, (outputs * n, inputs).
@final
class Slopes:
    def __new__(cls, model: Model) -> Slopes: ...
    def forward(self, x: _Array) -> tuple[_Array, _Array]: ...
    def backward(self, by_output: _Array, by_slopes: _Array) -> None: ...

# The mean over samples, in public order, of squared derivatives of ln p under the likelihood, or
# for kind "norm", of absolute derivatives of the outputs' squared norm; "batched" is over batches.
def importance(
    model: Model,
    x: _Samples,
    y: _Array | _Labels | None,
    likelihood: str,  # "categorical" | "bernoulli" | "gaussian"
    kind: str,  # "exact" | "sampled" | "empirical" | "batched" | "norm"
    classes: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 1,
    sample_weight: _Array | None = None,
) -> _Array: ...

# For each dense layer: its position, and second moments of its inputs and of its output gradients.
def kronecker(
    model: Model,
    x: _Samples,
    y: _Array | _Labels | None,
    likelihood: str,  # as above
    kind: str,  # "exact" | "sampled" | "empirical"
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> list[tuple[str, _Array, _Array]]: ...

# The loss of precomputed outputs, the losses of their rows, and if requested the gradient with
# respect to the outputs.
def loss_of(
    loss: tuple[Any, ...],
    output: _Array,
    target: Any,
    sample_weight: _Array | None = None,
    *,
    gradient: bool,
) -> tuple[float, _Array, _Array | None]: ...

# The order of rows in an epoch, counted from 0.
def epoch_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...

# Where that number comes from.
def threads_from() -> str: ...
def limit_own_threads(n: int) -> None: ...
def before_fork() -> None: ...
def after_fork(child: bool) -> None: ...

# isa, isas_available, isa_cap, kernels: {dtype: name}, threads, threads_from, cpus, version
def config() -> dict[str, Any]: ...
