"""What all optimizers share: options, the learning rate, steps by hand, state to be saved."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from thalweg import _arrays, _checks, _core, _habits
from thalweg._arrays import Array
from thalweg._habits import Guided
from thalweg.errors import ArgumentError
from thalweg.nn import Sequential, _names

#: The conventions that a method has, and in each the defaults of arguments that are None.
Conventions: TypeAlias = Mapping[str, Mapping[str, float]]
#: How arguments are checked, by name.
Checks: TypeAlias = Mapping[str, Callable[[str, Any], Any]]


class Optimizer(Guided):
    """Base of all optimizers.

    An optimizer belongs to the first model that it steps, by hand or in a `thalweg.Trainer`: its
    averages are that model's. Using it with another model is an error.
    """

    _elsewhere: ClassVar[Mapping[str, str]] = {
        "zero_grad": "gradients are the model's: model.zero_grad()",
        "param_groups": "optimizer.lr is the learning rate; add_group treats parameters otherwise",
        "learning_rate": "it is optimizer.lr",
        "minimize": "optimizer.step(model) takes a step along the model's gradients",
        "apply_gradients": "set model.flat_gradients, and optimizer.step(model) goes along them",
    }
    _conventions: ClassVar[Conventions] = {}
    #: Checks of arguments that other methods have under the same name, but not of the same kind.
    _own_checks: ClassVar[Checks] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the makers of ours say what the habit of PyTorch's first argument becomes here."""
        super().__init_subclass__(**options)
        make = vars(cls).get("__init__")
        if make is None or not cls.__module__.startswith("thalweg."):
            return

        @functools.wraps(make)
        def init(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            _refuse_parameters(type(self), args, kwargs)
            _refuse_unknown(type(self), make, kwargs)
            make(self, *args, **kwargs)

        cls.__init__ = init  # type: ignore[method-assign]

    # `kind` is the core's name of the method; the arguments are the constructor's.
    def __init__(self, kind: str, **arguments: Any) -> None:
        defaults: Mapping[str, float] = {}
        if "convention" in arguments:
            known = _checks.one_of("convention", arguments["convention"], self._conventions)
            defaults = self._conventions[known]
        checks = {**_CHECKS, **self._own_checks}
        self._arguments = {
            name: checks[name](name, defaults.get(name) if value is None else value)
            for name, value in arguments.items()
        }
        # Pairs go apart: betas are beta1 and beta2.
        self._options: dict[str, float | bool | str] = {}
        for name, value in self._arguments.items():
            if isinstance(value, tuple):
                stem = name if name == "eps" else name.removesuffix("s")
                parts = enumerate(value, start=1)
                self._options |= {f"{stem}{i}": _AUTO if x is None else x for i, x in parts}
            else:
                self._options[name] = _AUTO if value is None else value
        self._kind = kind
        self._core = _core.Optimizer(kind, self._options)
        self._groups: list[dict[str, Any]] = []
        #: What the core was told of each group; and names that it has for others of a model's.
        self._told: list[tuple[str, dict[str, float | bool | str], float, bool]] = []
        self._renamed: Sequential | None = None

    def add_group(
        self,
        pattern: str,
        *,
        lr_scale: float = 1.0,
        weight_decay: float | None = None,
        frozen: bool = False,
    ) -> Self:
        """Treat the parameters whose names match a pattern otherwise than the rest.

        Parameters
        ----------
        pattern : str
            Which names of `nn.Sequential.state_dict`: ``"*.bias"``, ``"0.*"``, ``"2.weight"``;
            ``*`` stands for any characters, ``?`` for one. Where several groups match, the last
            one counts.
        lr_scale : float, keyword only, default 1
            Their learning rate is so many times the optimizer's, also when that changes.
        weight_decay : float, keyword only, optional
            Their weight decay; by default the optimizer's.
        frozen : bool, keyword only, default False
            Whether they stay as they are: they have no gradient then, for a trainer's clipping
            either. (`nn.utils.clip_grad_norm_` knows no optimizer.)

        Returns
        -------
        Optimizer
            This one.

        Raises
        ------
        ArgumentError
            If an option is outside its range, or the pattern matches no parameter; the latter is
            found out when the optimizer is first used, unless it has been.

        Examples
        --------
        No weight decay on biases, as is usual, and a slower first layer:

        >>> from thalweg import optim
        >>> optimizer = optim.AdamW(weight_decay=0.05)
        >>> optimizer = optimizer.add_group("*.bias", weight_decay=0.0)
        >>> optimizer = optimizer.add_group("0.*", lr_scale=0.1)
        """
        return self._add_group(pattern, lr_scale, weight_decay, frozen)

    # `choices` are arguments of a subclass, and `overrides` the core's options that they stand for.
    def _add_group(
        self,
        pattern: str,
        lr_scale: float,
        weight_decay: float | None,
        frozen: bool,
        choices: Mapping[str, Any] | None = None,
        overrides: Mapping[str, float | bool | str] | None = None,
    ) -> Self:
        if not isinstance(pattern, str):
            raise ArgumentError(f"pattern must be text such as '*.bias'; got {pattern!r}")
        lr_scale, frozen = _checks.real("lr_scale", lr_scale, 0), _checks.flag("frozen", frozen)
        options = {**self._options, **(overrides or {})}
        if weight_decay is not None:
            if "weight_decay" not in options:
                raise ArgumentError(f"{type(self).__name__} has no weight_decay")
            options["weight_decay"] = _checks.real("weight_decay", weight_decay, 0)
        told = pattern, options, lr_scale, frozen
        self._tell(self._core, *told)
        self._told.append(told)
        group = {"pattern": pattern, "weight_decay": weight_decay}
        self._groups.append(group | {"lr_scale": lr_scale, "frozen": frozen} | dict(choices or {}))
        return self

    def _tell(
        self,
        core: _core.Optimizer,
        pattern: str,
        options: dict[str, float | bool | str],
        lr_scale: float,
        frozen: bool,
    ) -> None:
        """Make a group of the core's, or of a model whose names are others there, several."""
        names = [pattern]
        if self._renamed is not None:
            names = _names.of_core(self._renamed, pattern)
        for name in names:
            core.add_group(name, self._kind, options, lr_scale, frozen)

    def _meet(self, model: Sequential) -> None:
        """Before a first step: let groups be those of the names that the model's users know."""
        if not model._renamed or self._renamed is not None:
            return
        self._renamed = model
        if not self._told:
            return
        core = _core.Optimizer(self._kind, self._options)
        try:
            for told in self._told:
                self._tell(core, *told)
        except ArgumentError:
            self._renamed = None
            raise
        core.set_lr(self._core.lr)
        self._core = core

    def _advice(self, name: str) -> str:
        """Say what a wrong name may have meant: an option too, though it cannot be changed."""
        if name in vars(self).get("_arguments", ()):
            return (
                f': make another {type(self).__name__}; state_dict()["options"] tells what this '
                "one has"
            )
        return super()._advice(name)

    @property
    def lr(self) -> float:
        """The learning rate; assigning changes it from the next step on."""
        return self._core.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._core.set_lr(_non_negative("lr", value))

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._core.steps

    def step(self, model: Sequential) -> None:
        """One step along ``model.flat_gradients``, for training loops written by hand.

        Parameters
        ----------
        model : Sequential
            Its parameters are changed; its gradients stay as they are.

        Raises
        ------
        ThalwegError
            If this optimizer belongs to another model.
        """
        if model._renamed:
            self._meet(model)
        self._core.step(model._core)

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, besides the model.

        Returns
        -------
        dict
            ``"steps"`` (steps taken), ``"options"`` (the hyper-parameters), ``"groups"`` (of
            `add_group`), ``"scalars"`` and ``"arrays"`` (running averages and the like by name:
            single numbers, and arrays of shape (num_parameters,), or shorter where a method says
            so; none before the first step).
        """
        steps, scalars, arrays = self._state()
        options = {**self._options, "lr": self.lr}
        groups = [dict(group) for group in self._groups]
        return {
            "steps": steps,
            "options": options,
            "groups": groups,
            "scalars": scalars,
            "arrays": arrays,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], model: Sequential) -> None:
        """Continues from a saved state, as if this optimizer had taken those steps itself.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict` of an optimizer of the same kind with the same options; only the
            learning rate may differ, and is taken from it.
        model : Sequential
            The model that this optimizer belongs to from now on. (PyTorch's optimizers are given
            their parameters when they are made; these are not.)

        Raises
        ------
        ArgumentError
            If options differ or entries are missing.
        ShapeError, DataError, DtypeError
            If an array does not fit the model. After any error nothing has changed.
        """
        keys = ("steps", "options", "groups", "scalars", "arrays")
        missing = [key for key in keys if key not in state_dict]
        if missing:
            raise ArgumentError(f"state_dict lacks {missing}; it must come from an optimizer")
        saved = dict(state_dict["options"])
        lr = _non_negative("lr", saved.pop("lr", None))
        mine = {key: value for key, value in self._options.items() if key != "lr"}
        if saved != mine:
            raise ArgumentError(
                f"state_dict was saved with the options {saved}, but this {type(self).__name__} "
                f"has {mine}"
            )
        if list(state_dict["groups"]) != self._groups:
            raise ArgumentError(
                f"state_dict was saved with the groups {state_dict['groups']}, but this "
                f"{type(self).__name__} has {self._groups}; add_group them first"
            )
        # How long each is to be, the core knows.
        arrays = {
            name: _arrays.flat(values, model.dtype, np.size(values), name)
            for name, values in state_dict["arrays"].items()
        }
        scalars = {name: _checks.real(name, value) for name, value in state_dict["scalars"].items()}
        steps = _checks.integer("steps", state_dict["steps"], 0)
        self._meet(model)
        self._set_state(model, lr, steps, scalars, arrays)

    def _fresh(self) -> "Optimizer":
        """Make another one, without groups and before its first step."""
        return type(self)(**self._arguments)

    def _state(self) -> tuple[int, dict[str, float], dict[str, Array]]:
        return self._core.state()

    def _set_state(
        self,
        model: Sequential,
        lr: float,
        steps: int,
        scalars: dict[str, float],
        arrays: dict[str, Array],
    ) -> None:
        self._core.set_state(model._core, lr, steps, scalars, arrays)

    def __repr__(self) -> str:
        arguments = {**self._arguments, "lr": self.lr}
        text = f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
        for group in self._groups:
            text += f".add_group({', '.join(f'{k}={v!r}' for k, v in group.items())})"
        return text

    def __reduce__(self) -> Any:
        raise TypeError(
            "an optimizer belongs to a model and cannot be pickled or copied alone; "
            "save optimizer.state_dict()"
        )


#: An option that the core finds itself.
_AUTO = "auto"


def _refuse_parameters(
    kind: type[Optimizer], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Raise if an optimizer is given parameters, or a model, as PyTorch's are."""
    rest = dict(kwargs)
    theirs = [name for name in ("params", "parameters", "model") if name in kwargs]
    if theirs:
        given = rest.pop(theirs[0])
    elif args and _habits.is_parameters(args[0]) and not isinstance(args[0], Optimizer):
        given, args = args[0], args[1:]
    else:
        return
    options = ", ".join([repr(x) for x in args] + [f"{name}={x!r}" for name, x in rest.items()])
    if kind.__name__ == "SAM":
        options = "optim.SGD(lr=0.1), rho=0.05"
    raise ArgumentError(
        f"{kind.__name__} is given no parameters when it is made; got {_habits.named(given)}. Make "
        f"optimizer = optim.{kind.__name__}({options}), and give model and optimizer to "
        "tw.Trainer(model, loss=..., optimizer=optimizer), or in a loop by hand call "
        "optimizer.step(model); optimizer.add_group(pattern, ...) treats some parameters otherwise"
    )


def _refuse_unknown(
    kind: type[Optimizer], make: Callable[..., None], kwargs: Mapping[str, Any]
) -> None:
    """Raise if there is no such argument, with what it is here."""
    parameters = inspect.signature(make).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name != "self"]
    for name in kwargs:
        if name not in known:
            raise TypeError(
                f"{kind.__name__} has no argument {name!r}{_habits.advice(name, _THEIRS, known)}; "
                f"it takes {', '.join(known)}"
            )


#: What other libraries call arguments of optimizers, and where here is what they do.
_CLIPPING = "tw.Trainer(..., {}=...) clips gradients"
_NOT_NEEDED = "there is nothing to choose: every step is a fused pass of the compiled core"
_THEIRS = {
    **dict.fromkeys(("learning_rate", "learning_rate_init", "step_size"), "it is lr"),
    **dict.fromkeys(("beta_1", "beta_2", "b1", "b2"), "they are betas=(beta1, beta2)"),
    **dict.fromkeys(
        ("fused", "foreach", "capturable", "differentiable", "jit_compile"), _NOT_NEEDED
    ),
    **dict.fromkeys(("clipnorm", "global_clipnorm"), _CLIPPING.format("clip_grad_norm")),
    "clipvalue": _CLIPPING.format("clip_grad_value"),
    "epsilon": "it is eps",
    "decay": "it is weight_decay; schedules of the learning rate are in optim.schedules",
    "maximize": "let the loss be what is to be small: minus what is to be large",
    "use_ema": "tw.Trainer(..., average=optim.EMA()) averages parameters",
    "gradient_accumulation_steps": "it is tw.Trainer(..., accumulate_grad_batches=...)",
}


def _non_negative(name: str, value: Any) -> float:
    return _checks.real(name, value, 0)


def _fraction(name: str, value: Any) -> float:
    return _checks.real(name, value, 0, 1)


def _pair(
    low: tuple[float, float], high: tuple[float, float], closed: str, text: str
) -> Callable[[str, Any], tuple[float, float]]:
    """Make a check of two numbers; `text` says in which ranges they are."""

    def check(name: str, value: Any) -> tuple[float, float]:
        try:
            first, second = value
        except (TypeError, ValueError):
            raise ArgumentError(f"{name} must be two numbers {text}; got {value!r}") from None
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


#: How each argument of an optimizer is checked.
_CHECKS: Checks = {
    "lr": _non_negative,
    "lr_decay": _non_negative,
    "weight_decay": _non_negative,
    "initial_accumulator_value": _non_negative,
    "eps": _non_negative,
    "momentum_decay": _non_negative,
    "momentum": _fraction,
    "alpha": _fraction,
    "rho": _fraction,
    "dampening": _checks.real,
    "betas": _pair((0, 0), (1, 1), "[)", "in [0, 1)"),
    "etas": _pair((0, 1), (1, math.inf), "()", "in (0, 1) and above 1"),
    "step_sizes": _pair((0, 0), (math.inf, math.inf), "[)", "from 0 on"),
    "nesterov": _checks.flag,
    "centered": _checks.flag,
    "amsgrad": _checks.flag,
    "decoupled_weight_decay": _checks.flag,
    "convention": lambda _, value: value,
    "weight_lr_power": _non_negative,
    "beta2_decay": lambda name, value: _checks.real(name, value, -math.inf, 0, "(]"),
    "d": lambda name, value: _checks.real(name, value, 1),
    "min_dim_size_to_factor": lambda name, value: _checks.integer(name, value, 1),
    "ns_coefficients": _coefficients,
    "ns_steps": lambda name, value: _checks.integer(name, value, 0),
    "adjust_lr_fn": lambda name, value: _checks.one_of(
        name, value, ("original", "match_rms_adamw")
    ),
    "matrices": lambda name, value: _checks.one_of(name, value, ("hidden", "all", "none")),
    "adam_betas": _pair((0, 0), (1, 1), "[)", "in [0, 1)"),
    "adam_eps": _non_negative,
    "adam_lr_scale": _non_negative,
    "beta3": lambda name, value: None if value is None else _fraction(name, value),
    "d0": _positive,
    "d_coef": _positive,
    "use_bias_correction": _checks.flag,
    "safeguard_warmup": _checks.flag,
}
