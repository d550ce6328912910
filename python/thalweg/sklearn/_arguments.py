"""Checks of the arguments that both estimators share."""

import functools
import inspect
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from thalweg import _checks, _habits, optim
from thalweg.errors import ArgumentError

#: Names that other libraries use.
ELSEWHERE = {
    **dict.fromkeys(("lr", "learning_rate_value", "eta0"), "it is learning_rate_init"),
    **dict.fromkeys(("epochs", "max_epochs", "n_epochs"), "it is max_iter"),
    **dict.fromkeys(("seed", "key"), "it is random_state"),
    **dict.fromkeys(("optimizer", "optim"), "it is solver, a name or optim.AdamW(lr=1e-3)"),
    **dict.fromkeys(("hidden", "layers", "units"), "it is hidden_layer_sizes"),
    **dict.fromkeys(("weight_decay", "l2"), "it is alpha"),
    **dict.fromkeys(("betas", "beta1"), "they are beta_1 and beta_2"),
    "progress": "it is verbose",
    "eps": "it is epsilon",
    "patience": "it is n_iter_no_change",
    "nesterov": "it is nesterovs_momentum",
    "dropout": "hidden_layer_sizes takes layers, too: (100, nn.Dropout(0.5))",
    "class_weight": "fit(X, y, sample_weight=...) weights samples",
    **dict.fromkeys(("criterion", "loss_fn", "loss_function", "objective"), "it is loss"),
    **dict.fromkeys(("quantile", "quantiles"), "use MLPRegressor(loss=nn.QuantileLoss(0.9))"),
    **_habits.OF_THREADS,
    "label_smoothing": "use MLPClassifier(loss=nn.CrossEntropyLoss(label_smoothing=0.1))",
}

#: Arguments that `fit` takes in other libraries.
OF_FIT = {
    **dict.fromkeys(
        ("validation_data", "eval_set"),
        "with early_stopping=True, pass separate data as fit(X, y, X_val=..., y_val=...)",
    ),
    "validation_split": "early_stopping=True holds out validation_fraction of the data",
    **dict.fromkeys(("epochs", "max_epochs"), "it is max_iter of the estimator"),
    **dict.fromkeys(("batch_size", "shuffle", "verbose"), "it is an argument of the estimator"),
    "class_weight": "it is an argument of MLPClassifier",
    "callbacks": "tw.Trainer.fit(..., callbacks=[...]) takes them",
    **_habits.OF_THREADS,
}

#: Numeric arguments: minimum, maximum, and which of the two are allowed.
_NUMBERS = {
    "alpha": (0, math.inf, "[)"),
    "learning_rate_init": (0, math.inf, "()"),
    "power_t": (0, math.inf, "[)"),
    "tol": (0, math.inf, "[)"),
    "momentum": (0, 1, "[)"),
    "validation_fraction": (0, 1, "()"),
    "beta_1": (0, 1, "[)"),
    "beta_2": (0, 1, "[)"),
    "epsilon": (0, math.inf, "()"),
}
_FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping")
_SOLVERS = ("lbfgs", "sgd", "adam")
_RATES = ("constant", "invscaling", "adaptive")
_SCHEDULES = (optim.schedules.Schedule, optim.schedules.ReduceLROnPlateau)
#: Arguments of solvers given by name, which an optimizer ignores.
_OF_NAMED_SOLVERS = (
    "learning_rate_init", "learning_rate", "power_t", "momentum", "nesterovs_momentum", "beta_1",
    "beta_2", "epsilon", "alpha",
)  # fmt: skip


def check(estimator: Any) -> None:
    """Raise if an argument is out of range; `_network` checks those of layers."""
    for name, (low, high, closed) in _NUMBERS.items():
        _checks.real(name, getattr(estimator, name), low, high, closed)
    for name in _FLAGS:
        _checks.flag(name, getattr(estimator, name))
    if not isinstance(estimator.verbose, (bool, np.bool_)):  # scikit-learn takes both
        _checks.integer("verbose", estimator.verbose, 0, also="True, False")
    solver, batch_size = estimator.solver, estimator.batch_size
    if not isinstance(solver, optim.Optimizer):
        named_or_made("solver", solver, _SOLVERS, optim.Optimizer, "optim")
    rate = estimator.learning_rate
    if not isinstance(rate, _SCHEDULES):
        named_or_made("learning_rate", rate, _RATES, optim.schedules.Schedule, "optim.schedules")
    elif isinstance(solver, str) and solver == "lbfgs":
        raise ArgumentError(
            f'learning_rate is {rate!r}, but solver="lbfgs" has no rate: leave it out, or choose '
            "another solver"
        )
    if not (isinstance(batch_size, str) and batch_size == "auto"):
        _checks.integer("batch_size", batch_size, 1, also='"auto"')
    for name in ("max_iter", "max_fun"):
        _checks.integer(name, getattr(estimator, name), 1)
    scoring, patience = estimator.scoring, estimator.n_iter_no_change
    if not (scoring is None or (isinstance(scoring, str) and scoring == "loss")):
        raise ArgumentError(
            'scoring must be None (early stopping follows the accuracy or R²) or "loss" (it '
            f"follows the loss); got {_checks.given(scoring)}"
        )
    if not (isinstance(patience, numbers.Real) and patience == math.inf):
        _checks.integer("n_iter_no_change", patience, 1)
    if isinstance(solver, optim.Optimizer):
        _refuse_unused(estimator)


def check_course(estimator: Any, incremental: bool) -> None:
    """Raise if `learning_rate` is a schedule that a fit, or `partial_fit`, cannot follow."""
    rate = estimator.learning_rate
    if incremental and isinstance(rate, optim.schedules.Schedule) and rate.is_open:
        raise ArgumentError(
            f"learning_rate is {rate!r}, which lasts as long as the fit, but each partial_fit is "
            "a fit of one epoch: say how long it lasts, e.g. CosineAnnealingLR(T_max=10_000)"
        )
    if isinstance(rate, optim.schedules.ReduceLROnPlateau) and rate.monitor.startswith("val_"):
        hint = 'follow the training, ReduceLROnPlateau(monitor="loss")'
        if incremental:
            raise ArgumentError(
                f"learning_rate follows {rate.monitor!r}, but partial_fit holds out no data: {hint}"
            )
        if not estimator.early_stopping:
            raise ArgumentError(
                f"learning_rate follows {rate.monitor!r}, but no data are held out: set "
                f"early_stopping=True, or {hint}"
            )


def check_validation(estimator: Any, given: tuple[Any, Any, Any]) -> bool:
    """Return whether there is a validation set; raise if it is incomplete or would not be used."""
    names = ("X_val", "y_val", "sample_weight_val")
    there = [name for name, value in zip(names, given, strict=True) if value is not None]
    if not there:
        return False
    for name in names[:2]:
        if name not in there:
            raise ArgumentError(
                f"fit was given {' and '.join(there)}, but not {name}: a validation set needs both "
                "X_val and y_val"
            )
    if not estimator.early_stopping:
        raise ArgumentError(
            "X_val and y_val decide when training stops early, but early_stopping is False: set "
            "early_stopping=True, or leave them out"
        )
    if estimator.solver == "lbfgs":
        raise ArgumentError(
            'X_val and y_val decide when training stops early, which solver="lbfgs" does not do: '
            "choose another solver, or leave them out"
        )
    return True


def _refuse_unused(estimator: Any) -> None:
    """Raise if an argument was set that an optimizer ignores: searching over it would be futile."""
    kind: Any = type(estimator)
    usual = _defaults(kind)
    for name in _OF_NAMED_SOLVERS:
        value = getattr(estimator, name)
        # alpha=0, no penalty, is what an optimizer does anyway.
        if value == usual.get(name, value) or (name == "alpha" and value == 0):
            continue
        if isinstance(value, _SCHEDULES):  # which changes the optimizer's rate
            continue
        instead = "optim.AdamW(weight_decay=...)" if name == "alpha" else "optim.AdamW(lr=...)"
        raise ArgumentError(
            f"{name} is {value!r}, but solver is an optimizer, {type(estimator.solver).__name__}, "
            f'which ignores it: only solvers given by name, such as "adam", use {name}. Leave '
            f"{name} out, and set the optimizer's own arguments, as in {instead}; to search over "
            'them, list optimizers: {"solver": [optim.AdamW(lr=r) for r in rates]}'
        )


@functools.cache  # called in each partial_fit
def _defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of an estimator's arguments."""
    return {name: it.default for name, it in inspect.signature(kind).parameters.items()}


def named_or_made(
    name: str, value: Any, known: Iterable[str], base: type, module: str,
    aliases: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return `value` if it is one of the `known` names; it is not a `base` of `module`."""
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    listed = ", ".join(f'"{k}"' for k in known)
    meant = _habits.did_you_mean(value, known)
    if not (isinstance(value, str) and value.lower() in known):
        meant = _habits.kind_meant(value, base, module, aliases=aliases) or meant
    raise ArgumentError(
        f"{name} must be one of {listed}, or one from thalweg.{module}; got "
        f"{_checks.given(value)}{meant}"
    )
