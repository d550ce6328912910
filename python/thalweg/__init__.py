"""Dense neural networks on CPUs: layers, losses, optimizers and training in a compiled core.

Importing this needs only NumPy; modules that need more, such as `thalweg.plot`, are loaded on use.
"""

import os as _os
import typing as _typing

try:
    from thalweg._core import __version__ as __version__
except ImportError as _error:
    raise ImportError(
        f"thalweg's compiled core cannot be loaded ({_error}): a checkout must be built first "
        "(pip install .), a wheel must be one for this Python and platform, and neither can be a "
        "zip file or in a subinterpreter"
    ) from _error
from thalweg import _core
from thalweg import callbacks as callbacks
from thalweg import errors as errors
from thalweg import nn as nn
from thalweg import optim as optim
from thalweg._config import check_environment as _check_environment
from thalweg._config import get_num_threads as get_num_threads
from thalweg._config import set_num_threads as set_num_threads
from thalweg._config import show_config as show_config
from thalweg._history import History as History
from thalweg._trainer import Trainer as Trainer
from thalweg.errors import ArgumentError as ArgumentError
from thalweg.errors import DataError as DataError
from thalweg.errors import DivergedError as DivergedError
from thalweg.errors import DtypeError as DtypeError
from thalweg.errors import ShapeError as ShapeError
from thalweg.errors import ThalwegError as ThalwegError
from thalweg.errors import UnsupportedError as UnsupportedError

if _typing.TYPE_CHECKING:  # at run time, these come from __getattr__ below
    from thalweg import continual as continual
    from thalweg import curvature as curvature
    from thalweg import datasets as datasets
    from thalweg import diagnostics as diagnostics
    from thalweg import onnx as onnx
    from thalweg import plot as plot
    from thalweg import sklearn as sklearn
    from thalweg import solve as solve
    from thalweg import torch as torch
    from thalweg._gradcheck import BlockReport as BlockReport
    from thalweg._gradcheck import ErrorCurve as ErrorCurve
    from thalweg._gradcheck import GradcheckReport as GradcheckReport
    from thalweg._gradcheck import check_gradient as check_gradient
    from thalweg._gradcheck import check_hvp as check_hvp
    from thalweg._gradcheck import gradcheck as gradcheck
    from thalweg._gradcheck import gradgradcheck as gradgradcheck
    from thalweg._lr_finder import LRFinder as LRFinder
    from thalweg._lr_finder import find_lr as find_lr
    from thalweg._many import train_many as train_many

# Not every program plots or checks gradients: what few need is imported on first use.
_LAZY: dict[str, str | None] = {
    **dict.fromkeys(
        ("continual", "curvature", "datasets", "diagnostics", "onnx", "plot", "sklearn", "solve",
         "torch")
    ),
    **dict.fromkeys(
        ("BlockReport", "ErrorCurve", "GradcheckReport", "check_gradient", "check_hvp", "gradcheck",
         "gradgradcheck"),
        "._gradcheck",
    ),
    **dict.fromkeys(("LRFinder", "find_lr"), "._lr_finder"),
    "train_many": "._many",
}  # fmt: skip


if not _typing.TYPE_CHECKING:  # type checkers would take every name for one that is there
    # A star import must not hide the packages that these modules are about.
    __all__ = [
        name for name in sorted({*globals(), *_LAZY} - {"onnx", "sklearn", "torch"})
        if not name.startswith("_")
    ]  # fmt: skip

    import sys as _sys

    from thalweg import _habits

    _SEED = "models have a seed: nn.Sequential(..., seed=0)"
    _BY_HAND = "model.forward(x) and model.backward(gradient) are the passes of a hand-written loop"

    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            "no_grad": (
                "calling a model records nothing; only model.forward records what backward needs"
            ),
            "manual_seed": _SEED,
            **dict.fromkeys(
                ("tensor", "Tensor", "from_numpy", "as_tensor"),
                "pass NumPy arrays",
            ),
            **dict.fromkeys(("set_seed", "seed", "seed_everything"), _SEED),
            **dict.fromkeys(("jvp", "hvp"), "it is in tw.curvature"),
            **dict.fromkeys(
                ("jacobian", "jacrev", "jacfwd"),
                "tw.diagnostics.jacobian(model, x) is with respect to the inputs, "
                "tw.curvature.jacobian(model, x) with respect to the parameters",
            ),
            "vjp": _habits.VJP,
            "value_and_grad": "trainer.backward(x, y) returns the loss, and adds its gradient to "
            f"model.flat_gradients; {_BY_HAND}",
            "hessian": "tw.curvature.Operator(model, x, y, loss=...) multiplies by it",
            "optimizers": "they are in optim",
            **dict.fromkeys(("schedulers", "lr_scheduler"), "it is optim.schedules"),
            **dict.fromkeys(("Model", "Module", "model", "models"), "a model is an nn.Sequential"),
            **dict.fromkeys(("to_onnx", "export"), "tw.onnx.export(model, path) writes a graph"),
            **dict.fromkeys(
                ("to_torch", "from_torch"),
                "they are in tw.torch: tw.torch.to_torch(model), tw.torch.from_torch(module)",
            ),
            **dict.fromkeys(
                ("quantize", "quantization"),
                'tw.Trainer(..., precision="bfloat16") multiplies matrices in lower precision',
            ),
            **dict.fromkeys(("scikit_learn", "wrappers"), "estimators are in tw.sklearn"),
            **dict.fromkeys(("grad", "autograd", "backward"), _BY_HAND),
            **dict.fromkeys(
                ("DataLoader", "Dataset", "data"),
                "trainer.fit(x, y, batch_size=32) shuffles and batches; it also takes an iterable",
            ),
            **dict.fromkeys(
                ("compile", "jit"),
                "everything is compiled already; tw.Trainer(model, loss=..., optimizer=...) trains",
            ),
            "losses": "they are in nn",
            "layers": "they are in nn",
            "metrics": _habits.METRICS,
            "distributions": "log-probabilities and their gradients are a few lines of NumPy in a "
            "custom loss, see nn.CustomLoss, or in a hand-written loop",
            "vmap": f"tw.train_many trains several models at a time; {_habits.PER_SAMPLE}",
            **dict.fromkeys(("per_sample_gradients", "grad_sample"), _habits.PER_SAMPLE),
            **dict.fromkeys(
                ("load", "load_model", "from_pretrained"),
                "nn.Sequential.load reads models, tw.Trainer.load reads trainers",
            ),
            **dict.fromkeys(("save", "save_model"), "models and trainers have a method save"),
            "keras": "nn.Sequential is the model, tw.Trainer compiles and fits it",
            **dict.fromkeys(("Laplace", "laplace", "LaplaceApproximation"), _habits.LAPLACE),
            "SWAG": _habits.SWAG,
            "MLPClassifier": "it is tw.sklearn.MLPClassifier",
            "MLPRegressor": "it is tw.sklearn.MLPRegressor",
            **{
                name: f"it is {part}.{name}"
                for part in ("nn", "optim", "callbacks")
                for name in vars(globals()[part])
                if not name.startswith("_")
            },
        },
        _LAZY,
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


_check_environment()

# A child process has none of its parent's threads: no call may be in progress at the fork, and the
# core must start its own threads in the child.
if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(
        before=_core.before_fork,
        after_in_parent=lambda: _core.after_fork(False),
        after_in_child=lambda: _core.after_fork(True),
    )
