"""Help with names that are nearly right, or another library's.

This covers names of attributes, where Python would only say that there is no such name, and would
silently allow an assignment such as ``trainer.lr = 0.1`` that has no effect; methods of a user's
class that a fit would never call; names as values, as in ``mode="mni"``; and names in place of the
thing itself, ``optimizer="adam"``.
"""

import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from thalweg.errors import ArgumentError

_F = TypeVar("_F", bound=Callable[..., Any])
_M = TypeVar("_M")
_T = TypeVar("_T")

#: Advice on names from other libraries, by the modules in which they are looked up.
_OF_MODULES: dict[str, Mapping[str, str]] = {}


class Extended:
    """Base of classes that reject methods of a user's subclass which would never be called."""

    __slots__ = ()

    #: Such methods, and what to use instead.
    _uncalled: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the methods of a subclass, and of the classes it is mixed with."""
        super().__init_subclass__(**options)
        for name, instead in cls._uncalled.items():
            owner = next((kind for kind in cls.__mro__ if name in vars(kind)), cls)
            if name in vars(owner) and not is_ours(owner):
                raise TypeError(
                    f"{cls.__name__}.{name} would not be called, and training would silently go "
                    f"on without it: {instead}"
                )


def is_ours(kind: type) -> bool:
    """Return whether a class is one of thalweg's."""
    return kind.__module__.startswith("thalweg.")


def our_kind(kind: type[_T]) -> type[_T]:
    """Return the nearest of a class and its bases that is thalweg's."""
    return next(base for base in kind.__mro__ if is_ours(base))


def is_own(thing: Any, name: str) -> bool:
    """Whether the class of `thing` has something of this name, such as a property.

    Python also calls ``__getattr__`` if a property has raised an `AttributeError`, perhaps about
    another name. That error is lost, and only `object.__getattribute__` raises it again.
    """
    return any(name in vars(kind) for kind in type(thing).__mro__)


class Guided(Extended):
    """Base of classes that explain wrong names, and do not allow assigning to them."""

    __slots__ = ()

    #: Advice on names from other libraries.
    _elsewhere: ClassVar[Mapping[str, str]] = {}

    def _advice(self, name: str) -> str:
        """Say what a wrong name may have meant, or return an empty string."""
        there = (known for known in dir(type(self)) if not known.startswith("_"))
        return advice(name, self._elsewhere, there)

    if not TYPE_CHECKING:  # type checkers would take every name for one that is there

        def __getattr__(self, name: str) -> Any:
            """Say where to find it."""
            if is_own(self, name):
                return object.__getattribute__(self, name)
            what = type(self).__name__
            # Python's protocols look up their own names, which need no advice.
            more = "" if name.startswith("_") else self._advice(name)
            raise AttributeError(f"{what} has no attribute {name!r}{more}", name=name, obj=self)

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an existing attribute; a user's subclass may set anything.

            Methods may be replaced, as in tests, but not those that thalweg would not call then.
            """
            if name.startswith("_"):  # thalweg's own, set in every fit
                return object.__setattr__(self, name, value)
            there = getattr(type(self), name, None)
            if isinstance(there, property) and there.fset is not None:  # the usual case, in loops
                return object.__setattr__(self, name, value)
            what, said = type(self).__name__, self._elsewhere.get(name) or self._uncalled.get(name)
            more = f": {said}" if said else ""
            if isinstance(there, property):
                text = f"{what}.{name} can only be read{more}"
            elif not is_ours(type(self)) or (there is not None and not (callable(there) and said)):
                return object.__setattr__(self, name, value)
            elif there is None:
                text = f"{what} has no attribute {name!r} that could be set{self._advice(name)}"
            else:
                text = f"{what}.{name} is a method, which cannot be set{more}"
            raise AttributeError(text, name=name, obj=self)


#: Advice where other libraries take metrics.
METRICS = (
    "trainer.evaluate returns the loss and, for classifiers, the accuracy; a callback's "
    'on_epoch_end can add others to the history: record["auc"] = ...'
)

#: Advice where other libraries take class weights.
CLASS_WEIGHT = "nn.CrossEntropyLoss(weight=[...]) takes class weights"

#: Advice where other libraries compute the gradient of each sample.
PER_SAMPLE = (
    "gradients of single samples are tw.curvature.sample_gradients(model, x, y, loss=...), with a "
    'loss of reduction="sum"'
)

#: Advice where other libraries compute the neural tangent kernel.
NTK = (
    'the kernel of rows x and z is np.einsum("ikp,jlp->ijkl", a, b), with a and b = '
    "tw.curvature.jacobian(model, x) and (model, z); tw.diagnostics.ntk_eigenvalues(model, x) "
    "gives its eigenvalues, divided by the number of rows"
)

#: Advice where other libraries multiply by the transposed Jacobian.
VJP = (
    "model.forward(x) and then model.backward(v) give the product with respect to the inputs, and "
    "add the one with respect to the parameters to model.flat_gradients"
)

#: Advice where other libraries have classes for the uncertainty of predictions.
LAPLACE = (
    'Laplace\'s approximation is a few lines, in the section "Uncertainty of a prediction" of the '
    "page on science"
)
SWAG = (
    "tw.Trainer(..., average=optim.SWA()) averages the weights, without their spread; for the "
    f"uncertainty of predictions, tw.train_many trains ensembles, and {LAPLACE}"
)

#: Other libraries' arguments for the number of threads.
OF_THREADS: Mapping[str, str] = dict.fromkeys(
    ("n_jobs", "num_threads", "n_threads", "num_workers"),
    "tw.set_num_threads(n), or the environment variable THALWEG_NUM_THREADS, sets the number of "
    "threads",
)

#: Other libraries' names for arguments of layers, losses and schedules.
OF_LAYERS: Mapping[str, str] = {
    **dict.fromkeys(("units", "out_dim"), "it is out_features"),
    **dict.fromkeys(("input_dim", "input_shape"), "it is in_features"),
    **dict.fromkeys(
        ("dtype", "device"),
        "nn.Sequential(..., dtype=...) sets the dtype of all layers, and everything runs on "
        "the CPU",
    ),
    **dict.fromkeys(("kernel_initializer", "weight_init"), "it is init, a name of nn.init"),
    **dict.fromkeys(("size_average", "reduce"), 'it is reduction="mean" or "sum"'),
    **dict.fromkeys(("class_weight", "class_weights"), "it is weight, in the order of the classes"),
    **dict.fromkeys(
        ("steps_per_epoch", "epochs"),
        "leave the length of a schedule out, and it is that of the fit",
    ),
    "activation": "activations are layers of their own, e.g. nn.ReLU()",
    "inplace": "leave it out: memory is reused automatically",
    "use_bias": "it is bias",
    "epsilon": "it is eps",
    "rate": "it is p",
    "from_logits": "outputs are always logits",
    "cycle_momentum": (
        "schedules do not change the momentum; a callback can: trainer.optimizer.momentum = ..."
    ),
    "optimizer": "tw.Trainer(..., optimizer=..., schedule=...) takes both",
    **dict.fromkeys(
        ("kernel_regularizer", "bias_regularizer", "activity_regularizer"),
        "optim.AdamW(weight_decay=...) pulls parameters to 0, and trainer.set_penalty each with "
        "its own strength",
    ),
    "padding_idx": "not supported: the vectors of all codes are trained",
    **dict.fromkeys(("omega_0", "omega0", "w0"), "it is omega"),
}


def name_methods(whole: str, *parts: type) -> None:
    """Make Python's errors name the class that users know, and not the part of it."""
    for part in parts:
        for name, thing in vars(part).items():
            method = getattr(thing, "__func__", thing)
            while isinstance(method, types.FunctionType):
                method.__qualname__ = f"{whole}.{name}"
                method = getattr(method, "__wrapped__", None)


def argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's arguments that users pass, ``*layers`` for any number."""
    return tuple(
        f"*{name}" if it.kind is it.VAR_POSITIONAL else name
        for name, it in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    )


def refuse_unknown(
    what: str, known: Iterable[str], given: Iterable[str], elsewhere: Mapping[str, str]
) -> None:
    """Raise if a given name is unknown, and say what it may have meant."""
    for name in given:
        if name not in known:
            hint = advice(name, elsewhere, known)
            raise TypeError(
                f"{what} has no argument {name!r}{hint}{'' if hint.endswith('?') else '.'} {what} "
                f"takes {', '.join(known) or 'no arguments'}"
            )


def refuse_unnamed(
    what: str, parameters: Iterable[inspect.Parameter], args: tuple[Any, ...]
) -> None:
    """Raise if arguments are given without a name that must be named."""
    kinds = [(it.name, it.kind) for it in parameters if it.name not in ("self", "cls")]
    placed = [name for name, kind in kinds if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    by_name = [f"{name}=..." for name, kind in kinds if kind is inspect.Parameter.KEYWORD_ONLY]
    any_number = any(kind is inspect.Parameter.VAR_POSITIONAL for _, kind in kinds)
    if len(args) > len(placed) and by_name and not any_number:
        which = "no argument without a name: pass"
        if placed:
            which = f"only {', '.join(placed)} without a name; pass the rest by name:"
        raise TypeError(f"{what} takes {which} {', '.join(by_name)}")


def takes(what: str, elsewhere: Mapping[str, str]) -> Callable[[_F], _F]:
    """Make a function explain wrong argument names, and arguments that must be named."""

    def decorate(function: _F) -> _F:
        known = argument_names(function)
        arguments = inspect.signature(function).parameters.values()
        first = 1 if {"self", "cls"} & {it.name for it in arguments} else 0
        most = sum(it.kind is it.POSITIONAL_OR_KEYWORD for it in arguments)

        @functools.wraps(function)
        def guided(*args: Any, **kwargs: Any) -> Any:
            if len(args) > most:
                refuse_unnamed(what, arguments, args[first:])
            refuse_unknown(what, known, kwargs, elsewhere)
            return function(*args, **kwargs)

        return cast("_F", guided)

    return decorate


class _OfTheClass(classmethod):  # type: ignore[type-arg]  # Python 3.11 takes none here
    """A class method that explains itself when it is called on an object."""

    def __init__(self, method: "classmethod[Any, Any, Any]", instead: str) -> None:
        super().__init__(method.__func__)
        self._instead = instead

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        bound = super().__get__(instance, owner)
        if instance is None:
            return bound

        @functools.wraps(bound)
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise ArgumentError(
                f"{bound.__qualname__} returns a new object, and leaves the one that it is called "
                f"on as it is: {self._instead}"
            )

        return refuse


def on_the_class(instead: str) -> Callable[[_M], _M]:
    """Make a class method refuse to be called on an object, where it would seem to change that."""

    def decorate(method: _M) -> _M:
        return cast("_M", _OfTheClass(cast("classmethod[Any, Any, Any]", method), instead))

    return decorate


def knows_no_unknown(function: _F) -> _F:
    """Hide ``**unknown``, which only serves to explain wrong names, from a function's signature.

    Functions that are called very often catch wrong names this way, without the overhead of
    `takes`.
    """
    signature = inspect.signature(function)
    kept = [it for it in signature.parameters.values() if it.kind is not it.VAR_KEYWORD]
    vars(function)["__signature__"] = signature.replace(parameters=kept)
    return function


def is_part(value: Any) -> bool:
    """Return whether `value` is a model, trainer or optimizer, thalweg's or another library's."""
    theirs = ("parameters", "param_groups", "trainable_variables")
    return isinstance(value, Guided) or any(hasattr(value, name) for name in theirs)


def is_parameters(value: Any) -> bool:
    """Return whether `value` is what PyTorch's optimizers take: parameters, or a model."""
    number = isinstance(value, (str, bytes)) or hasattr(value, "__float__")  # or is meant as one
    return is_part(value) or (isinstance(value, Iterable) and not number)


def named(value: Any) -> str:
    """Return how an error refers to an object too long to show."""
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOaeio' or kind == 'ndarray' else 'a'} {kind}"


def shown(value: Any) -> str:
    """Return how an error shows a value, or refers to it if it is too long to show."""
    short = value is None or isinstance(value, (str, bytes, bool, int, float))
    return repr(value) if short else named(value)


def of_module(
    module: types.ModuleType,
    elsewhere: Mapping[str, str],
    lazy: Mapping[str, str | None] | None = None,
) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module, which says what a wrong name may have meant.

    It imports names in `lazy` when they are used, each from the module given there, or if that is
    None, as a submodule.
    """
    _OF_MODULES[module.__name__] = elsewhere
    lazy = lazy or {}

    def missing(name: str) -> Any:
        if name in lazy:
            home = importlib.import_module(lazy[name] or f".{name}", module.__name__)
            value = getattr(home, name) if lazy[name] else home
            setattr(module, name, value)  # found directly the next time
            return value
        public = (known for known in (*vars(module), *lazy) if not known.startswith("_"))
        text = "" if name.startswith("_") else advice(name, elsewhere, public)
        raise AttributeError(
            f"module {module.__name__!r} has no attribute {name!r}{text}", name=name, obj=module
        )

    return missing


def said_of(name: str, module: str) -> str:
    """Return the advice of a module, such as ``"nn"``, on another library's name, or nothing."""
    return advice(name, _OF_MODULES.get(f"thalweg.{module}", {}), ())


def advice(name: str, elsewhere: Mapping[str, str], there: Iterable[str]) -> str:
    """Return ``'; did you mean fit?'``, the advice on `name` in `elsewhere`, or nothing."""
    if name in elsewhere:
        return f": {elsewhere[name]}"
    # There are many attributes: any name resembles some of them a little.
    meant = nearest(name, there, cutoff=0.75)
    return f"; did you mean {meant}?" if meant else ""


def did_you_mean(value: Any, known: Iterable[str]) -> str:
    """Return ``'; did you mean "mean"?'`` if a known name is close to `value`, or nothing."""
    meant = nearest(str(value), known)
    return f'; did you mean "{meant}"?' if meant else ""


def kind_meant(
    value: Any, base: type, module: str, *more: type, aliases: Mapping[str, str] | None = None
) -> str:
    """Return ``'; did you mean optim.Adam(...)?'`` for a name or class instead of a `base`.

    Otherwise return the module's advice on a name from another library, or nothing. `module` is
    where users find the kinds, such as ``"optim"``; `more` are kinds that are accepted without
    being derived from `base`; `aliases` are other libraries' names, in lower case without
    underscores.
    """
    place = module.rpartition(".")[2]
    if isinstance(value, type) and issubclass(value, (base, *more)):
        return f"; pass an instance: {place}.{value.__name__}(...)"
    name = value if isinstance(value, str) else str(getattr(value, "__name__", ""))
    if not isinstance(value, str) and not name.isidentifier():  # such as "<lambda>"
        return ""
    kinds = [
        kind
        for kind, thing in vars(sys.modules[f"thalweg.{module}"]).items()
        if isinstance(thing, type) and issubclass(thing, (base, *more)) and thing is not base
    ]
    suffix = base.__name__  # MSE is short for MSELoss
    known = {kind.removesuffix(suffix): kind for kind in kinds} | {kind: kind for kind in kinds}
    known |= aliases or {}
    said = _OF_MODULES.get(f"thalweg.{module}", {})
    theirs = next((it for it in said if _plain(it) == _plain(name)), None)
    if theirs is not None and _plain(name) not in (aliases or {}):
        return f": {said[theirs]}"
    meant = nearest(name, known)
    return f"; did you mean {place}.{known[meant]}(...)?" if meant else ""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that equals `name` up to spelling, begins with it, or resembles it.

    Resemblance is the fraction of common letters, which must be at least `cutoff`.
    """
    import difflib  # only needed for errors

    plain = {_plain(it): it for it in known}
    short = _plain(name)
    if short in plain:
        return plain[short]
    # One or two letters begin too many names.
    whole = [it for it in plain if len(short) > 2 and it.startswith(short)]
    close = sorted(whole, key=len) or difflib.get_close_matches(short, list(plain), 1, cutoff)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    """Return a name in lower case, without underscores and spaces."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
