"""The compiled core, as the Python face sees it. Private: use the names in ``thalweg``.

Arrays that cross this border are C-contiguous, of the model's dtype, and 2-D (rows, features);
``thalweg._arrays`` makes them so. Samples may also be uint8, float16, float32 or float64 whatever
the model is: they are converted batch by batch. Labels are 1-D int64. Whatever is wrong raises a
subclass of ``thalweg.ThalwegError`` and leaves the model as it was.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "Fit",
    "Model",
    "Optimizer",
    "Trainer",
    "__version__",
    "after_fork",
    "central_differences",
    "config",
    "get_num_threads",
    "set_num_threads",
]

_Array: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
_Samples: TypeAlias = _Array | npt.NDArray[np.uint8] | npt.NDArray[np.float16]
_Labels: TypeAlias = npt.NDArray[np.int64]
# ("linear", in, out, bias, init) | ("batch_norm", features, eps, momentum, affine)
# | ("layer_norm", features, eps, scale, shift) | ("rms_norm", features, eps or None, scale)
# | (name of an element-wise layer, *its parameters): ("relu",), ("leaky_relu", slope) ...
_LayerSpec: TypeAlias = tuple[Any, ...]
# (epoch from 1, loss, accuracy, val_loss, val_accuracy, seconds); None where there is no such
# figure
_EpochRecord: TypeAlias = tuple[int, float, float | None, float | None, float | None, float]

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
    # training passes so far, which dropout counts on
    def passes(self) -> int: ...
    def set_passes(self, passes: int) -> None: ...
    def averages(self) -> _Array: ...
    def set_averages(self, values: _Array) -> None: ...
    def parameters(self) -> _Array: ...
    def set_parameters(self, values: _Array) -> None: ...
    def gradients(self) -> _Array: ...
    def set_gradients(self, values: _Array) -> None: ...
    def zero_grad(self) -> None: ...
    # None if the array is not as it must be: convert it first
    def predict(self, x: Any) -> _Array | None: ...
    def forward(self, x: _Samples) -> _Array: ...
    def backward(self, grad_output: _Array) -> _Array: ...

@final
class Optimizer:
    def __new__(cls, kind: str, options: dict[str, float | bool]) -> Optimizer: ...
    @property
    def lr(self) -> float: ...
    def set_lr(self, lr: float) -> None: ...
    def step(self, model: Model) -> None: ...
    def state(self) -> tuple[int, dict[str, _Array]]: ...  # (steps taken, {"exp_avg": flat, ...})
    def set_state(self, model: Model, steps: int, arrays: dict[str, _Array]) -> None: ...

@final
class Trainer:
    def __new__(cls, model: Model, loss: str, optimizer: Optimizer) -> Trainer: ...
    # None if the arrays are not as they must be: convert them first
    def step(self, x: Any, y: Any) -> float | None: ...
    def evaluate(self, x: _Samples, y: _Array | _Labels) -> tuple[float, float | None]: ...
    def plan(self, batch_size: int) -> str: ...

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
    ) -> Fit: ...
    # Runs until all is done, or max_epochs more epochs have ended, or max_seconds have passed;
    # gives the epochs that ended.
    def run(
        self, max_epochs: int | None = None, max_seconds: float | None = None
    ) -> list[_EpochRecord]: ...
    # Epochs that ended and were not handed out, because run() was interrupted.
    def take_ended(self) -> list[_EpochRecord]: ...
    @property
    def done(self) -> bool: ...
    # (epochs ended, batches done in this epoch, batches an epoch, mean loss so far in this epoch,
    # accuracy so far or None)
    @property
    def progress(self) -> tuple[int, int, int, float, float | None]: ...

# Gradient of the loss by backpropagation, the same by central differences at the (representable)
# step h * max(1, |theta_i|), and whether a ReLU-like kink was crossed between the two points;
# float64 models only.
def central_differences(
    model: Model,
    loss: str,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64] | _Labels,
    h: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def after_fork() -> None: ...

# isa, isas_available, isa_cap, kernels: {dtype: name}, threads, threads_from, cpus, version
def config() -> dict[str, Any]: ...
