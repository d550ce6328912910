"""The arguments of optimizers by name: checks, and how the core takes them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from thalweg import _checks
from thalweg.errors import ArgumentError

#: The choices of `Muon`.
AdjustLr: TypeAlias = Literal["original", "match_rms_adamw"]
Matrices: TypeAlias = Literal["hidden", "all", "none"]

#: Checks of arguments, by name.
Checks: TypeAlias = Mapping[str, Callable[[str, Any], Any]]


def non_negative(name: str, value: Any) -> float:
    return _checks.real(name, value, 0)


def _fraction(name: str, value: Any) -> float:
    return _checks.real(name, value, 0, 1)


def _pair(
    low: tuple[float, float], high: tuple[float, float], closed: str, text: str
) -> Callable[[str, Any], tuple[float, float]]:
    """Make a check for two numbers; `text` describes their ranges."""

    def check(name: str, value: Any) -> tuple[float, float]:
        first, second = _checks.two(name, value, f" {text}")
        return (
            _checks.real(f"{name}[0]", first, low[0], high[0], closed),
            _checks.real(f"{name}[1]", second, low[1], high[1], closed),
        )

    return check


def _positive(name: str, value: Any) -> float:
    return _checks.real(name, value, 0, closed="()")


def _coefficients(name: str, value: Any) -> tuple[float, ...]:
    given = _checks.sequence(name, value)
    if len(given) != 3:
        raise ArgumentError(f"{name} must be three numbers; got {value!r}")
    return tuple(_checks.real(f"{name}[{i}]", x) for i, x in enumerate(given))


#: The check for each argument of an optimizer.
CHECKS: Checks = {
    "lr": non_negative,
    "lr_decay": non_negative,
    "weight_decay": non_negative,
    "initial_accumulator_value": non_negative,
    "eps": non_negative,
    "momentum_decay": non_negative,
    "momentum": _fraction,
    "alpha": _fraction,
    "rho": _fraction,
    "dampening": _checks.real,
    "betas": _pair((0, 0), (1, 1), "[)", "in [0, 1)"),
    "etas": _pair((0, 1), (1, math.inf), "()", "in (0, 1) and above 1"),
    "step_sizes": _pair((0, 0), (math.inf, math.inf), "[)", ">= 0"),
    "nesterov": _checks.flag,
    "centered": _checks.flag,
    "amsgrad": _checks.flag,
    "decoupled_weight_decay": _checks.flag,
    "convention": lambda _, value: value,
    "weight_lr_power": non_negative,
    "beta2_decay": lambda name, value: _checks.real(name, value, -math.inf, 0, "(]"),
    "d": lambda name, value: _checks.real(name, value, 1),
    "min_dim_size_to_factor": lambda name, value: _checks.integer(name, value, 1),
    "ns_coefficients": _coefficients,
    "ns_steps": lambda name, value: _checks.integer(name, value, 0),
    "adjust_lr_fn": lambda name, value: (
        "original"
        if value is None
        else _checks.one_of(name, value, get_args(AdjustLr), also="None")
    ),
    "matrices": lambda name, value: _checks.one_of(name, value, get_args(Matrices)),
    "adam_betas": _pair((0, 0), (1, 1), "[)", "in [0, 1)"),
    "adam_eps": non_negative,
    "adam_lr_scale": non_negative,
    "beta3": lambda name, value: None if value is None else _fraction(name, value),
    "d0": _positive,
    "d_coef": _positive,
    "use_bias_correction": _checks.flag,
    "safeguard_warmup": _checks.flag,
}

#: An option that the core determines itself.
_AUTO = "auto"


def for_core(name: str, value: Any) -> dict[str, float | bool | str]:
    """Return an argument as the core takes it; pairs are split: betas become beta1 and beta2."""
    parts = value if isinstance(value, tuple) else (value,)
    return dict(zip(_parts(name, value), (_AUTO if x is None else x for x in parts), strict=True))


def without_auto(options: Mapping[str, float | bool | str]) -> dict[str, Any]:
    """Return options of the core with None where it determines one itself, as in constructors."""
    return {name: None if value == _AUTO else value for name, value in options.items()}


def of_core(name: str, like: Any, options: Mapping[str, Any]) -> Any:
    """Return an argument of the same kind as another one from what the core took."""
    taken = (options[part] for part in _parts(name, like))
    parts = [None if isinstance(x, str) and x == _AUTO else x for x in taken]
    return tuple(parts) if isinstance(like, tuple) else parts[0]


def same(saved: Any, here: Any) -> bool:
    """Whether a number, flag or text, or a dict of these, is the one in a state: any object."""
    if isinstance(here, dict):
        there = isinstance(saved, dict) and saved.keys() == here.keys()
        return there and all(same(saved[name], value) for name, value in here.items())
    plain = saved is None or isinstance(saved, (bool, int, float, str, np.generic))
    return plain and bool(saved == here)


def _parts(name: str, value: Any) -> list[str]:
    if not isinstance(value, tuple):
        return [name]
    stem = name if name == "eps" else name.removesuffix("s")
    return [f"{stem}{i}" for i in range(1, 1 + len(value))]
