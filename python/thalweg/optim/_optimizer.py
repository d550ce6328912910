"""Base of the optimizers: options, learning rate, single steps, saving the state."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeAlias, TypeVar

import numpy as np

from thalweg import _arrays, _checks, _core
from thalweg._arrays import Array
from thalweg._at_once import at_once
from thalweg._fixed import refuse_hidden
from thalweg._habits import (
    Guided,
    argument_names,
    is_ours,
    named,
    our_kind,
    refuse_unknown,
    refuse_unnamed,
    takes,
)
from thalweg.errors import ArgumentError, DivergedError
from thalweg.nn import Sequential, _names
from thalweg.optim import _given
from thalweg.optim._arguments import (
    CHECKS,
    Checks,
    for_core,
    non_negative,
    of_core,
    same,
    without_auto,
)

#: The conventions of a method, each with the defaults of arguments that are None.
Conventions: TypeAlias = Mapping[str, Mapping[str, float]]
#: Hyper-parameters as the core takes them.
Options: TypeAlias = Mapping[str, float | bool | str]
#: The constructor's arguments, and what the core takes for them.
Given: TypeAlias = tuple[dict[str, Any], dict[str, float | bool | str]]

#: What to say about update rules of the user's own.
OWN = (
    "updates are computed in the core; write your own rule as a hand-written loop: loss = "
    "trainer.backward(x, y), or model.forward and model.backward, and then set "
    "model.flat_parameters from model.flat_gradients; or as a function of the gradient, whose "
    "result optim.SGD takes as a step: with trainer.gradient_hook(rule): trainer.fit(x, y)"
)

#: Other libraries' names for options of a group.
OF_GROUPS = {
    **dict.fromkeys(("lr", "learning_rate"), "it is lr_scale, times the optimizer's rate"),
    **dict.fromkeys(("requires_grad", "trainable"), "frozen=True leaves parameters as they are"),
    **dict.fromkeys(("params", "name"), "it is pattern, which matches names such as 0.weight"),
}


class ByHand:
    """What the user has done to an optimizer without its trainer."""

    #: A rate set since a trainer last looked, which a schedule would override.
    lr: float | None = None
    #: Calls of `Optimizer.step`, which bypass a trainer's penalties.
    steps = 0


class Optimizer(Guided):
    """Base of all optimizers.

    An optimizer belongs to the first model it is used with, in a `thalweg.Trainer` or in its first
    manual step: its averages are that model's. Using it with another model is an immediate error;
    only `load_state_dict` can give it another model. Copies and pickles of an object that holds
    both, e.g. by `copy.deepcopy`, contain a model and an optimizer that belongs to it.

    Every argument of its constructor is an attribute, ``optimizer.weight_decay``, and nearly all
    can be set. A convention, which is what its averages mean, can only be read, and so can a few
    others; their descriptions say so. A new value takes effect from the next step; one that needs
    averages that are not kept, such as a momentum after steps without, is an error. Groups keep
    what they were given.
    """

    _uncalled: ClassVar[Mapping[str, str]] = dict.fromkeys(("step", "update_step"), OWN)
    _elsewhere: ClassVar[Mapping[str, str]] = {
        "zero_grad": "gradients are the model's: model.zero_grad()",
        "param_groups": (
            "options are attributes, such as optimizer.lr and optimizer.weight_decay; add_group "
            "treats some parameters differently"
        ),
        "learning_rate": "it is optimizer.lr",
        **dict.fromkeys(
            ("save", "load"),
            "trainer.save(path) writes it with its model; pickle.dumps((model, optimizer)) also "
            "keeps both, and optimizer.state_dict() returns its state",
        ),
        "reset": "optimizer.load_state_dict(fresh, model), with fresh = optimizer.state_dict() "
        "from before the first step, makes it forget its averages",
        "minimize": (
            "optimizer.step(model) takes a step along the model's gradients; without a model, "
            "optim.minimize(function, theta, optimizer, steps) takes steps on any function"
        ),
        **dict.fromkeys(
            ("set_params", "get_params"),
            "options are attributes, optimizer.lr = ...; a search over an estimator's solver lists "
            'optimizers: {"solver": [optim.AdamW(lr=r) for r in rates]}',
        ),
        "apply_gradients": "set model.flat_gradients, then call optimizer.step(model)",
    }
    _conventions: ClassVar[Conventions] = {}
    #: Arguments that can only be read.
    _fixed: ClassVar[Collection[str]] = ("convention",)
    #: Figures that it adds to those of an epoch.
    _figures: ClassVar[tuple[str, ...]] = ()
    #: Checks of arguments that share a name with other methods' arguments but differ in kind.
    _own_checks: ClassVar[Checks] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Make thalweg's constructors explain what to do with PyTorch's first argument."""
        super().__init_subclass__(**options)
        make = vars(cls).get("__init__")
        if not is_ours(cls):
            refuse_hidden(cls, argument_names(our_kind(cls).__init__))
            return
        if make is None:
            return
        known = argument_names(make)
        any_name = "arguments" in known  # a base of several optimizers
        parameters = inspect.signature(make).parameters.values()

        @functools.wraps(make)
        def init(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            _given.refuse_parameters(type(self), args, kwargs, Optimizer)
            if not any_name:
                refuse_unknown(type(self).__name__, known, kwargs, _given.THEIRS)
                refuse_unnamed(type(self).__name__, parameters, args)
            make(self, *args, **kwargs)

        cls.__init__ = init  # type: ignore[method-assign]
        for name in () if any_name else known:
            if not hasattr(cls, name):
                setattr(cls, name, _option(name, can_be_set=name not in cls._fixed))

    # `kind` is the core's name of the method; `arguments` are those of the constructor.
    def __init__(self, kind: str, **arguments: Any) -> None:
        defaults: Mapping[str, float] = {}
        if "convention" in arguments:
            known = _checks.one_of("convention", arguments["convention"], self._conventions)
            defaults = self._conventions[known]
        checks = {**CHECKS, **self._own_checks}
        self._arguments = {
            name: checks[name](name, defaults.get(name) if value is None else value)
            for name, value in arguments.items()
        }
        self._options: dict[str, float | bool | str] = {}
        for name, value in self._arguments.items():
            self._options |= for_core(name, value)
        self._kind = kind
        self._by_hand = ByHand()
        self._core = _core.Optimizer(kind, self._options)
        self._groups: list[dict[str, Any]] = []
        #: What the core was told of each group, and the model whose names differ in the core.
        self._told: list[tuple[str, Options, float | None, bool | None]] = []
        self._renamed: Sequential | None = None
        #: The model that it belongs to, if any.
        self._owner: Sequential | None = None

    def _set_option(self, name: str, value: Any) -> None:
        """Set an argument other than the rate, as the constructor would."""
        new = made(type(self), {**self._arguments, name: value})._arguments[name]
        changes = for_core(name, new)
        try:
            # This one only: another thread may set another one at the same time.
            at_once(
                *self._telling_options(changes),
                partial(self._arguments.__setitem__, name, new),
                partial(self._options.update, changes),
            )
        except ArgumentError as error:
            raise ArgumentError(
                f"{name} cannot change from {self._arguments[name]!r} to {new!r}: {error}"
            ) from None

    def _given(self) -> Given:
        """Return all arguments, with the rate of this moment, to be put back after an error."""
        rate = {"lr": self.lr} if "lr" in self._arguments else {}
        return {**self._arguments, **rate}, {**self._options, **rate}

    def _put_back(self, given: Given) -> None:
        """Set them again."""
        at_once(*self._telling_options(given[1]), *self._keeping(given))

    def _keeping(self, given: Given) -> list[Callable[[], None]]:
        """Return what notes that the core has these arguments."""
        names = zip(("_arguments", "_options"), given, strict=True)
        return [partial(object.__setattr__, self, name, dict(of)) for name, of in names]

    def _telling_options(self, options: dict[str, Any]) -> list[Callable[[], None]]:
        """Return what sets options in the core."""
        return [partial(self._core.set_options, options)]

    @takes("add_group()", OF_GROUPS)
    def add_group(
        self,
        pattern: str,
        *,
        lr_scale: float | None = None,
        weight_decay: float | None = None,
        frozen: bool | None = None,
    ) -> Self:
        """Treat the parameters whose names match a pattern differently from the rest.

        Parameters
        ----------
        pattern : str
            A pattern for names in `nn.Sequential.state_dict`: ``"*.bias"``, ``"0.*"``,
            ``"2.weight"``; ``*`` stands for any characters, ``?`` for one. Of several groups that
            match, each says what it is given, and the last one that says something counts.
        lr_scale : float, keyword only, optional
            Their learning rate as a multiple of the optimizer's, also when that changes; by default
            as in earlier groups that match, else 1.
        weight_decay : float, keyword only, optional
            Their weight decay; by default as in earlier groups, else the optimizer's.
        frozen : bool, keyword only, optional
            Whether to leave them unchanged; by default as in earlier groups, else False. Frozen
            parameters have no gradient, also for a trainer's clipping. (`nn.utils.clip_grad_norm_`
            does not know about optimizers.) Layers still work as in training: `nn.BatchNorm1d` uses
            each batch's statistics and updates its running averages, and `nn.Dropout` drops. For
            features that stay fixed, call the frozen part, ``features = body(x)``, and train a
            model of the rest on them; or first merge `nn.BatchNorm1d` into the layer before it with
            `nn.Sequential.fold`. Parameters that a later group unfreezes count their own steps, as
            in PyTorch.

        Returns
        -------
        Optimizer
            This optimizer.

        Raises
        ------
        ArgumentError
            If an option is outside its range, or the pattern matches no parameter. The latter is
            detected when a trainer is made with the optimizer, or at its first manual step, unless
            it already belongs to a model.

        Examples
        --------
        No weight decay on biases, as is common, and a slower first layer (its bias is both):

        >>> from thalweg import optim
        >>> optimizer = optim.AdamW(weight_decay=0.05)
        >>> optimizer = optimizer.add_group("*.bias", weight_decay=0.0)
        >>> optimizer = optimizer.add_group("0.*", lr_scale=0.1)

        By shape, here no decay on vectors, which are biases and what layers such as `nn.LayerNorm`
        call their weights:

        >>> from thalweg import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
        >>> optimizer = optim.AdamW(weight_decay=0.05)
        >>> for name, values in model.unflatten(model.flat_parameters).items():
        ...     if values.ndim == 1:
        ...         _ = optimizer.add_group(name, weight_decay=0.0)
        """
        return self._add_group(pattern, lr_scale, weight_decay, frozen)

    # `choices` are arguments of a subclass, and `overrides` the core's options that they imply.
    def _add_group(
        self,
        pattern: str,
        lr_scale: float | None,
        weight_decay: float | None,
        frozen: bool | None,
        choices: Mapping[str, Any] | None = None,
        overrides: Options | None = None,
    ) -> Self:
        if not isinstance(pattern, str):
            raise ArgumentError(
                f"pattern must be text such as '*.bias'; got {pattern!r}. To choose by shape or "
                "value, call add_group(name, ...) for some of the names and arrays in "
                "model.unflatten(model.flat_parameters).items()"
            )
        if lr_scale is not None:
            lr_scale = _checks.real("lr_scale", lr_scale, 0)
        if frozen is not None:
            frozen = _checks.flag("frozen", frozen)
        changes = dict(overrides or {})
        if weight_decay is not None:
            if "weight_decay" not in self._options:
                raise ArgumentError(f"{type(self).__name__} has no weight_decay")
            changes["weight_decay"] = _checks.real("weight_decay", weight_decay, 0)
        told = pattern, changes, lr_scale, frozen
        group = {"pattern": pattern, "weight_decay": changes.get("weight_decay")}
        group |= {"lr_scale": lr_scale, "frozen": frozen} | dict(choices or {})
        at_once(
            *self._telling(self._core, self._renamed, *told),
            partial(self._told.append, told),
            partial(self._groups.append, group),
        )
        return self

    def _telling(
        self, core: _core.Optimizer, renamed: Sequential | None, pattern: str, *options: Any
    ) -> list[Callable[[], None]]:
        """Return what makes a group in the core, or several where its names are not the model's."""
        names = [pattern] if renamed is None else _names.of_core(renamed, pattern)
        return [partial(core.add_group, name, *options) for name in names]

    def _meet(self, model: Sequential) -> None:
        """Bind the groups to the public names of a model's parameters.

        Raises
        ------
        ArgumentError
            If this optimizer belongs to another model, or a group's pattern matches no name.
        """
        owner = self._bound_to()
        if owner is model:
            return
        if owner is not None:
            kind = type(self).__name__
            keep = ""
            if owner.num_parameters == model.num_parameters:
                keep = (
                    ". If it is a copy of the same model, made without this optimizer, "
                    f"optim.{kind}(...).load_state_dict(optimizer.state_dict(), model) with the "
                    "options of this one keeps the averages; next time, copy or pickle both "
                    "together, pickle.dumps((model, optimizer))"
                )
            raise ArgumentError(
                f"optimizer {kind} belongs to another model, with {owner.num_parameters} "
                "parameters, and its averages are those of that model; this model has "
                f"{model.num_parameters}: make a new optimizer for it{keep}"
            )
        self._name_groups(model)

    def _name_groups(self, model: Sequential) -> None:
        for group in self._groups:
            _names.of_core(model, group["pattern"])  # raises
        renamed, core = model if model._renamed else None, self._core
        if self._told and renamed is not self._renamed:
            core = _core.Optimizer(self._kind, self._options)
            for told in self._told:
                at_once(*self._telling(core, renamed, *told))
            core.set_lr(self._core.lr)
        self._renamed, self._core = renamed, core

    def _belong(self, model: Sequential) -> None:
        """Belong to a model from now on, once nothing can fail any more."""
        at_once(*self._belonging(model))

    def _belonging(self, model: Sequential) -> list[Callable[[], None]]:
        """Return what makes it belong to a model."""
        return [partial(object.__setattr__, self, "_owner", model)]

    if not TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name

        def __getattr__(self, name: str) -> Any:
            """Say why there are no options."""
            if name in ("_arguments", "_core"):
                raise AttributeError(
                    f"{type(self).__name__} has no options yet: its __init__ must call "
                    "super().__init__ before it sets or reads any",
                    name=name, obj=self,
                )  # fmt: skip
            return super().__getattr__(name)

    @property
    def lr(self) -> float:
        """The learning rate; a new value takes effect from the next step.

        A trainer's schedule sets it before each step, so a new value has no effect then: in a fit
        with a warning, in `Trainer.step` and `Trainer.update` without. ``trainer.fit(..., lr=...)``
        bases the schedule on another rate.
        """
        return self._core.lr

    @lr.setter
    def lr(self, value: float) -> None:
        lr = non_negative("lr", value)
        at_once(partial(self._core.set_lr, lr), partial(setattr, self._by_hand, "lr", lr))

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return self._core.steps

    def step(self, model: Sequential) -> None:
        """Take one step along ``model.flat_gradients``, for hand-written training loops.

        Parameters
        ----------
        model : Sequential
            Its parameters are changed; its gradients are not.

        Raises
        ------
        ArgumentError
            If this optimizer belongs to another model.
        DataError, DivergedError
            If a gradient is infinite or NaN, or a number becomes so in this step. Parameters and
            averages are then unchanged.
        """
        expect_model(model)
        if model is self._owner:
            self._core.step(model._core)
        else:
            self._meet(model)
            # Both or neither: after infinite gradients, it may still step another model.
            at_once(partial(self._core.step, model._core), *self._belonging(model))
        self._by_hand.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next steps depend on, besides the model.

        Returns
        -------
        dict
            ``"steps"`` (steps taken), ``"options"`` (the hyper-parameters), ``"groups"`` (from
            `add_group`), ``"scalars"`` and ``"arrays"`` (running averages and the like by name:
            single numbers, and arrays of shape (num_parameters,), or shorter where a method says
            so; none before the first step). Parameters that were frozen during some steps have
            scalars of their own, as ``"steps of 0.weight"``.
        """
        steps, scalars, arrays = self._state()
        options = {**without_auto(self._options), "lr": self.lr}
        groups = [dict(group) for group in self._groups]
        return {
            "steps": steps,
            "options": options,
            "groups": groups,
            "scalars": scalars,
            "arrays": arrays,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], model: Sequential) -> None:
        """Continue from a saved state, as if this optimizer had taken those steps itself.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict` of an optimizer of the same kind. The options are taken from it, as
            in PyTorch, except those that can only be read, which must be the same.
        model : Sequential
            The model that this optimizer belongs to from now on. (Unlike PyTorch's optimizers,
            these are not given parameters when they are made.)

        Raises
        ------
        ArgumentError
            If options that can only be read differ, or the groups, or entries are missing or of the
            wrong kind.
        ShapeError, DataError, DtypeError
            If an array does not fit the model. After any error, nothing has changed.
        """
        _expect("state_dict", state_dict, Mapping, "what optimizer.state_dict() returns")
        _expect("model", model, Sequential, "the nn.Sequential that this optimizer will belong to")
        keys = ("steps", "options", "groups", "scalars", "arrays")
        missing = [key for key in keys if key not in state_dict]
        if missing:
            theirs = "param_groups" in state_dict  # in PyTorch
            raise ArgumentError(
                f"state_dict lacks {missing}; it must be what optimizer.state_dict() returns"
                + (
                    ', with PyTorch\'s "step" as "steps", and each average in "arrays", those of '
                    "all parameters one after another as in model.flat_parameters"
                    if theirs
                    else ""
                )
            )
        for key in ("options", "scalars", "arrays"):
            _expect(f"state_dict[{key!r}]", state_dict[key], Mapping, "a dict")
        _expect('state_dict["groups"]', state_dict["groups"], Sequence, "a list of groups")
        given = self._given_in(state_dict["options"])
        groups = state_dict["groups"]
        if len(groups) != len(self._groups) or not all(map(same, groups, self._groups)):
            raise ArgumentError(
                f"state_dict was saved with the groups {_checks.clipped(repr(groups))}, but this "
                f"{type(self).__name__} has {self._groups}; call add_group for them first"
            )
        # The core checks their lengths.
        arrays = {
            name: _arrays.flat(values, model.dtype, np.size(values), name)
            for name, values in state_dict["arrays"].items()
        }
        scalars = {name: _checks.real(name, value) for name, value in state_dict["scalars"].items()}
        steps = _checks.integer("steps", state_dict["steps"], 0)
        self._take(model, given, steps, scalars, arrays)

    def _given_in(self, options: Mapping[str, Any]) -> Given:
        """Return the arguments, and the options with the rate, that a state was saved with."""
        if {*options} != {*self._options, "lr"}:
            raise ArgumentError(
                f"state_dict was saved with the options {sorted(options)}, but those of "
                f"{type(self).__name__} are {sorted(self._options)}"
            )
        saved = {name: of_core(name, x, options) for name, x in self._arguments.items()}
        given = made(type(self), saved)._given()  # checks them
        for name in filter(saved.__contains__, self._fixed):
            if given[0][name] != self._arguments[name]:
                self._refuse_saved(name, given[0][name], self._arguments[name])
        settable = {part for name, x in self._arguments.items() for part in for_core(name, x)}
        for name in self._options.keys() - settable:
            if not same(options[name], self._options[name]):
                self._refuse_saved(name, options[name], self._options[name])
        return given

    def _refuse_saved(self, name: str, saved: Any, here: Any) -> NoReturn:
        """Raise for an option of a state that can only be read here, and differs."""
        raise ArgumentError(
            f"state_dict was saved with {name}={_checks.short(saved)}, but this one has {here!r}, "
            f"which {type(self).__name__}.load_state_dict cannot change"
        )

    def _take(self, model: Sequential, given: Given, *state: Any) -> None:
        """Belong to a model, with a state; after an error, nothing has changed."""
        before = self._core, self._renamed
        try:
            self._name_groups(model)
            self._set_state(model, given, *state)
        except BaseException:
            self._core, self._renamed = before
            raise
        self._belong(model)

    def _bound_to(self) -> Sequential | None:
        """Return the model that this optimizer belongs to, if any."""
        return self._owner

    def _fresh(self) -> "Optimizer":
        """Make a new optimizer of this kind, without groups and before its first step."""
        return made(type(self), self._arguments)

    def _state(self) -> tuple[int, dict[str, float], dict[str, Array]]:
        # After an error undid the first steps, the core has arrays as they begin: none, as before.
        return self._core.state() if self._core.steps else (0, {}, {})

    def _check_finite(self, arrays: Mapping[str, Array], then: str) -> None:
        """Raise `DivergedError` if an array of the state is not finite; `then` ends the message."""
        for name, array in arrays.items():
            if found := _arrays.not_finite(array, f"the optimizer's {name}"):
                wider = "" if array.dtype == np.float64 else ', or use dtype="float64"'
                raise DivergedError(
                    f"{found} in step {self.steps} with lr={self.lr}: gradients, or their "
                    "squares, are too large; standardize inputs and targets, clip "
                    f"gradients{wider}. {then}"
                )

    def _set_state(
        self,
        model: Sequential,
        given: Given,
        steps: int,
        scalars: dict[str, float],
        arrays: dict[str, Array],
    ) -> None:
        set_state = self._core.set_state
        at_once(
            partial(set_state, model._core, given[1], steps, scalars, arrays),
            *self._keeping(given),
        )

    def __repr__(self) -> str:
        arguments = {**self._arguments, "lr": self.lr}
        text = f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
        for group in self._groups:
            given = (f"{k}={v!r}" for k, v in group.items() if v is not None)
            text += f".add_group({', '.join(given)})"
        return text

    def __reduce__(self) -> Any:
        # `copy.deepcopy` uses this too. The model is passed as an object, so that anything else
        # that refers to it refers to the same copy afterwards.
        model, state = self._bound_to(), None
        if model is not None:
            state = self._state()
            self._check_finite(state[2], NOT_KEPT)
        arguments = type(self), self._arguments, self._groups, self.lr, model, state
        return _again, arguments, self._own()

    def _own(self) -> dict[str, Any] | None:
        """Return the attributes added by a user's subclass; None for thalweg's own classes."""
        kind = our_kind(type(self))
        if type(self) is kind:
            return None
        ours = vars(made(kind, self._arguments))
        return {k: v for k, v in vars(self).items() if k not in ours and not hasattr(kind, k)}


#: What to say of a state that has overflowed when it is to be saved or copied.
NOT_KEPT = "Such a state cannot be saved or copied: train again, or continue from an earlier file"


def _option(name: str, *, can_be_set: bool) -> property:
    """Make a property of an argument."""

    def get(self: Optimizer) -> Any:
        return self._arguments[name]

    def put(self: Optimizer, value: Any) -> None:
        self._set_option(name, value)

    then = "; a new value takes effect from the next step" if can_be_set else ""
    return property(get, put if can_be_set else None, doc=f"The argument of this name{then}.")


def _expect(name: str, value: Any, kind: type, what: str) -> None:
    """Raise unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{name} must be {what}; got {type(value)!r}")


def expect_model(model: Any) -> None:
    """Raise unless a step is given a model."""
    if not isinstance(model, Sequential):
        raise ArgumentError(f"step takes the model, an nn.Sequential; got {named(model)}")


_Kind = TypeVar("_Kind", bound=Optimizer)


def made(kind: type[_Kind], arguments: Mapping[str, Any]) -> _Kind:
    """Make an optimizer, bypassing the ``__init__`` of subclasses, whose arguments may differ."""
    optimizer = kind.__new__(kind)
    make: Any = our_kind(kind).__init__
    make(optimizer, **arguments)
    return optimizer


def _again(
    kind: type[_Kind],
    arguments: Mapping[str, Any],
    groups: list[dict[str, Any]],
    lr: float,
    model: Sequential | None,
    state: Any,
) -> _Kind:
    """Reconstruct an optimizer from a pickle or copy."""
    optimizer = made(kind, arguments)
    for group in groups:
        optimizer.add_group(**group)
    optimizer._core.set_lr(lr)
    if model is not None:
        if any(state):
            optimizer._take(model, optimizer._given(), *state)
        else:  # nothing to take, from which Muon without a weight to work on would be kept
            optimizer._name_groups(model)
            optimizer._belong(model)
    return optimizer
