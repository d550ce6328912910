"""Saving, loading and copying a trainer, so that training continues unchanged."""

import copy
import dataclasses
import os
from types import FunctionType, MethodType
from typing import Any, BinaryIO, Self, TypeAlias, TypeVar

from thalweg import _arrays, _checks, _habits, _safetensors, _spec, optim
from thalweg._arrays import Array
from thalweg._history import History
from thalweg._trainer._base import ATTRIBUTES, PRECISIONS, Precision, TrainerBase
from thalweg._trainer._penalties import OWN, Penalties, Penalty
from thalweg._trainer._rates import Rates
from thalweg.errors import ArgumentError, DataError
from thalweg.nn import CustomLoss, DerivativeLoss, Loss, Sequential, _losses
from thalweg.nn._losses import FunctionLoss, LossFunction, NoLoss, loss_of
from thalweg.optim._optimizer import NOT_KEPT

#: Marks a file whose loss is a function, which the file does not contain.
_FUNCTION = "function"

#: Losses that a copy shares: what they refer to is not theirs alone, or cannot be copied.
_SHARED = FunctionType, MethodType

#: Arguments that other libraries' loading functions take.
_OF_LOAD = {
    **dict.fromkeys(("loss_fn", "criterion", "custom_objects"), "it is loss, for a custom loss"),
    **dict.fromkeys(
        ("map_location", "device", "weights_only"), "a file holds plain arrays: leave it out"
    ),
    **dict.fromkeys(
        ("model", "optimizer", "schedule"), "it comes from the file; trainer.model is the model"
    ),
}


#: The average and its number of updates; the penalties by their places; the accumulated gradients
#: and their number of batches.
Held: TypeAlias = tuple[tuple[Array, int] | None, dict[int, Penalty], tuple[Array, int] | None]


class Resumable(TrainerBase):
    """The part of a trainer that saves everything further training depends on."""

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Write everything that further training depends on to a file.

        The file holds the model, the loss, the optimizer with its averages, the schedule, counts,
        and the history of the latest fit. A training that is saved between two fits, or by a
        callback at the end of an epoch, and loaded again continues bit for bit as if it had never
        stopped. Between steps of a hand-written loop, this includes gradients accumulated for the
        next update (``accumulate_grad_batches``), but not those that `backward` has added up in the
        model: save after the `update`. What a callback saves in the middle of an epoch, by
        `on_step_end`, keeps the updates made so far, but the next fit begins that epoch again, with
        the same batches. What a signal handler saves during a fit may also lack whole epochs of
        that fit in its counts and history: let the handler raise, and save after the fit. A
        schedule without a length of its own starts anew with each fit, as it would have without
        saving. The function of a custom loss is not saved; pass it to `load` again. (Pickles store
        such a function by name, if it can be imported.) Nor are callbacks, whose counts begin anew
        unless you keep them.

        Parameters
        ----------
        path : str, path-like or file object
            As for `nn.Sequential.save`, with the same format: `nn.Sequential.load` can read it.

        Raises
        ------
        ArgumentError
            If `path` is none of these.
        OSError
            If the file cannot be written.
        UnsupportedError
            If anything else in it is a user-defined function or class, for instance a schedule.
        DivergedError
            If a number in the model or optimizer is infinite or NaN. No file is changed then.

        Notes
        -----
        Whenever the process is killed or the power fails, there is either the earlier file or the
        new one, complete: the new file is on the disk before it gets the name, and so is the name
        when this returns, except on Windows. (But a file that is mounted by itself, as in
        containers, cannot be replaced: it is overwritten.) A killed process leaves its unfinished
        file in the folder, as ``"<name>.<process>-<16 hexadecimal digits>.part"``. The next save to
        the folder, by whatever name, removes such files that are more than an hour old.
        """
        _safetensors.save(path, *self._content())

    def _content(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the arrays and the text of a file."""
        import json

        spec, state = self._description(), self._optimizer.state_dict()
        self._optimizer._check_finite(state["arrays"], NOT_KEPT)
        arrays = {f"optimizer.{name}": array for name, array in state.pop("arrays").items()}
        average, penalties, gathered = self._held()
        if average is not None:
            arrays["optimizer.average"], state["averaged"] = average
        for place, (importance, anchor, strength) in penalties.items():
            suffix = _suffix(place)
            arrays[f"optimizer.importance{suffix}"] = importance
            arrays[f"optimizer.anchor{suffix}"] = anchor
            state[f"penalty{suffix}"] = strength
        if gathered is not None:
            arrays["optimizer.gathered"], state["gathered"] = gathered
        described = {"loss": _described(spec.pop("loss")), **_spec.describe(spec)}
        mine = {"spec": described, "counts": self._counts(), "optimizer_state": state}
        text = {
            "thalweg": json.dumps(self._model._description()),
            "thalweg.trainer": json.dumps(mine),
        }
        return self._model._finite_state_dict() | arrays, text

    @_habits.on_the_class("trainer = tw.Trainer.load(path) continues from the file")
    @classmethod
    @_habits.takes("Trainer.load()", _OF_LOAD)
    def load(
        cls,
        path: str | os.PathLike[str] | BinaryIO,
        *,
        precision: Precision | None = None,
        loss: Loss | LossFunction | None = None,
    ) -> Self:
        """Read a file written by `save`.

        Parameters
        ----------
        path : str, path-like or file object
            As for `nn.Sequential.load`.
        precision : str, keyword only, optional
            Continue in a different precision from the file's, which this machine may not support.
        loss : callable, keyword only, optional
            The function of a custom loss, or an `nn.CustomLoss` or `nn.DerivativeLoss` made from
            it, if the file is of a training with one. It must be the function used before; for a
            bare function, `order` and `along` of an `nn.DerivativeLoss` come from the file.

        Returns
        -------
        Trainer
            With a model and an optimizer of its own.

        Raises
        ------
        OSError
            If the file cannot be read.
        DataError
            If it is not a complete file of a trainer.
        ArgumentError
            If `path` is none of these, or the precision is unknown; or if a loss is missing, is of
            a different kind from the file's, or is given although the file has its own. Or if it is
            called on a trainer instead of the class: it would not change that trainer.
        UnsupportedError
            If a later version of thalweg wrote it, or this machine does not support the precision.
        """
        import json

        if precision is not None:
            _checks.one_of("precision", precision, PRECISIONS)
        arrays, text = _safetensors.load(path)
        if "thalweg.trainer" not in text:
            raise DataError(
                f"{_safetensors.named(path)} holds no trainer; nn.Sequential.load reads models"
            )
        of_optimizer = {
            name.removeprefix("optimizer."): arrays.pop(name)
            for name in list(arrays)
            if name.startswith("optimizer.")
        }
        # A strategy for continual learning adds arrays of its own to these.
        arrays = {n: array for n, array in arrays.items() if not n.startswith("strategy.")}
        with _safetensors.whole(path):
            saved = json.loads(text["thalweg.trainer"])
            of_file = saved["spec"]["loss"]
            if is_own := of_file["type"] == _FUNCTION:
                saved["spec"]["loss"] = None
        if not is_own and loss is not None:
            has, then = f"an nn.{of_file['type']}", "set trainer.loss to change it"
            if of_file["type"] == NoLoss.__name__:
                has, then = "none", "make a Trainer with it of trainer.model and trainer.optimizer"
            raise ArgumentError(
                "loss is for files of trainers with a custom loss; "
                f"{_safetensors.named(path)} has {has}: leave loss out, and {then}"
            )
        own = _with_function(path, of_file, loss) if is_own else None
        with _safetensors.whole(path):
            model = Sequential._from_description(json.loads(text["thalweg"]), arrays)
            spec = _spec.rebuild(saved["spec"], _spec.classes(_losses, optim, optim.schedules))
            state, counts = saved["optimizer_state"], saved["counts"]
            _check_counts(counts)

            def taken(name: str) -> Array:
                array = of_optimizer.pop(name)
                return _arrays.flat(array, model.dtype, model.num_parameters, name)

            average = None
            if "averaged" in state:
                average = taken("average"), _checks.integer("averaged", state.pop("averaged"), 0)
            penalties = {}
            for name in [name for name in state if name.split(".")[0] == "penalty"]:
                suffix = name.removeprefix("penalty")
                strength = _checks.real(name, state.pop(name))
                place = int(suffix[1:]) if suffix else OWN
                both = taken(f"importance{suffix}"), taken(f"anchor{suffix}")
                penalties[place] = *both, strength
            gathered = None
            if "gathered" in state:
                gathered = taken("gathered"), _checks.integer("gathered", state.pop("gathered"), 1)
            state["arrays"] = of_optimizer
            model.load_state_dict(arrays)
            if precision is not None:
                spec["precision"] = precision
            if own is not None:
                spec["loss"] = own
            return cls(model, **spec)._continue(state, counts, (average, penalties, gathered))

    def __reduce__(self) -> Any:
        # `copy.deepcopy` uses this too. Model and optimizer are passed as objects, so that anything
        # else that refers to them refers to the same copies afterwards.
        state = {**self._counts(), "groups": []}, self._held()  # the optimizer has them
        arguments = type(self), self._model, self._description(), state
        return _again, arguments, self._added() or None

    def _added(self) -> dict[str, Any]:
        """Return the attributes that a user's subclass has added."""
        return {name: value for name, value in vars(self).items() if name not in ATTRIBUTES}

    def __copy__(self) -> Self:
        return self.copy()

    def copy(self) -> Self:
        """Make a trainer that continues from here with its own model and optimizer.

        Returns
        -------
        Trainer
            Neither trainer affects the other. `copy.deepcopy` does the same, and pickles hold the
            same. For a subclass, the copy has the same class and the attributes that were added to
            the trainer; its ``__init__`` is not called. A loss of your own that is an object
            with a ``__call__`` is copied, too; functions and methods are shared.

        Raises
        ------
        DivergedError
            If a number in the model or optimizer is infinite or NaN.
        """
        memo: dict[int, Any] = {}
        twin = memo[id(self)] = self._twin(memo)
        loss = self._loss
        if isinstance(loss, FunctionLoss) and not isinstance(loss.function, _SHARED):
            twin._set_loss(copy.deepcopy(loss, memo))
        vars(twin).update(copy.deepcopy(self._added(), memo))
        return twin

    def _twin(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy thalweg's own part, for trials, which need nothing else."""
        # Loss and schedule are shared: a user's may be large.
        make, (kind, model, spec, (counts, held)), _ = self.__reduce__()
        model, spec["optimizer"] = copy.deepcopy((model, self._optimizer), memo)
        twin: Self = make(kind, model, spec, (copy.deepcopy(counts), held))
        return twin

    def _description(self) -> dict[str, Any]:
        """Return the arguments that make this trainer, besides the model."""
        return {
            "loss": self._loss,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
            "clip_grad_norm": self._clip_norm,
            "clip_grad_value": self._clip_value,
            "accumulate_grad_batches": self._accumulate,
            "average": self._average,
        } | ({} if self._precision is None else {"precision": self._precision})

    def _settings(self, *, any_loss: bool = False) -> dict[str, Any]:
        """Return what determines how training continues, besides the model, as plain data.

        With `any_loss`, a custom loss is described without its function, instead of refused.
        """
        spec = self._description()
        if any_loss:
            spec["loss"] = _described(self._loss)
        found: dict[str, Any] = _spec.describe(spec)
        optimizer = found["optimizer"]
        stepping = optimizer.get("base", optimizer)  # SAM's rate is that of its base
        if "lr" in stepping:
            # The rate may have been set later; under a schedule, it varies.
            stepping["lr"] = self._optimizer.lr if self._schedule is None else self._base_lr
        groups = [repr(group) for group in self._optimizer._groups]
        return found | {"groups": groups}

    def _counts(self) -> dict[str, Any]:
        """Return what changed since construction, besides model and optimizer, as plain data."""
        return {
            "groups": self._optimizer._groups,
            "base_lr": self._base_lr,
            "epochs": self._epochs,
            "plateau": self._plateau,
            "history": dict(self._history),
        }

    def _held(self) -> Held:
        """Return the core's other state: the average, penalties, accumulated gradients."""
        gathered = self._core.gathered()
        if gathered is not None:  # a file of infinite sums could not be read
            arrays = {"accumulated gradients": gathered[0]}
            self._optimizer._check_finite(arrays, NOT_KEPT)
        return self._core.average(), self._penalties.terms, gathered

    def _become(self, other: Self) -> None:
        """Take over the state of another trainer that was made in the same way."""
        self._model.load_state_dict(other._model.state_dict())
        self._model._core.set_passes(other._model._core.passes())
        counts = {**copy.deepcopy(other._counts()), "groups": []}  # this one has them already
        self._continue(other._optimizer.state_dict(), counts, other._held())

    def _continue(
        self,
        optimizer_state: dict[str, Any] | None,
        counts: dict[str, Any],
        held: Held,
    ) -> Self:
        """Give a trainer that was made in the same way the state of another one."""
        average, penalties, gathered = held
        if average is not None:
            self._core.set_average(*average)
        if (core := self._updating()) is not None:
            self._penalties = Penalties(penalties, self._penalties.counts)
            core.set_penalty(self._penalties.total)
        self._core.forget()
        if gathered is not None:
            self._core.set_gathered(*gathered)
        for group in counts["groups"]:
            self._optimizer.add_group(**group)
        if optimizer_state is not None:  # else it was passed as an object, with its state
            try:
                self._optimizer.load_state_dict(optimizer_state, self._model)
            except ArgumentError:
                options = optimizer_state["options"]
                if self._optimizer.state_dict() | {"options": options} != optimizer_state:
                    raise
                # It refuses the model, like Muon without a weight to work on, and has no state yet.
                self._optimizer._put_back(self._optimizer._given_in(options))
        self._base_lr = counts["base_lr"]
        if self._rates is not None:
            self._rates = Rates(self._rates.schedule, self._base_lr)
        self._epochs = counts["epochs"]
        self._plateau = counts["plateau"]
        self._history = History(counts["history"])
        return self


_Kind = TypeVar("_Kind", bound=Resumable)


def _suffix(place: int) -> str:
    """Return how the names of a penalty in a file end."""
    return "" if place == OWN else f".{place}"


def _described(loss: Loss) -> Any:
    """Describe a loss as plain data; for a user-defined one, everything but the function."""
    if isinstance(loss, NoLoss):
        return {"type": NoLoss.__name__}
    if type(loss) not in (CustomLoss, DerivativeLoss):
        return _spec.describe(loss)
    fields = [field.name for field in dataclasses.fields(loss) if field.name != "function"]
    options = {name: _spec.describe(getattr(loss, name)) for name in fields}
    # Versions that cannot restore functions do not know this type, and say so.
    return {"type": _FUNCTION, "of": type(loss).__name__, **options}


def _with_function(
    path: str | os.PathLike[str] | BinaryIO, described: dict[str, Any], given: Any
) -> FunctionLoss:
    """Restore the function of a loss whose other fields come from a file."""
    with _safetensors.whole(path):
        options = _spec.rebuild({k: v for k, v in described.items() if k != "type"}, {})
        kinds: dict[str, type[FunctionLoss]] = {
            kind.__name__: kind for kind in (CustomLoss, DerivativeLoss)
        }
        kind = kinds[options.pop("of")]
    if given is None:
        raise ArgumentError(
            f"{_safetensors.named(path)} is of a trainer with a custom loss, an "
            f"nn.{kind.__name__}, whose function is not in the file: pass it again, "
            "Trainer.load(path, loss=function)"
        )
    loss = loss_of(given)
    if isinstance(loss, CustomLoss) and not isinstance(given, Loss):
        with _safetensors.whole(path):
            return kind(loss.function, **options)
    if not isinstance(loss, kind):
        raise ArgumentError(
            f"{_safetensors.named(path)} is of a trainer with an nn.{kind.__name__}: loss must be "
            f"its function, or an nn.{kind.__name__} of it; got {loss!r}"
        )
    return loss


def _check_counts(counts: dict[str, Any]) -> None:
    """Raise unless the counts in a file are valid."""
    _checks.integer("epochs", counts["epochs"], 0)
    _checks.real("base_lr", counts["base_lr"], 0)
    plateau = [value for value in counts["plateau"].values() if value is not None]
    figures = {"plateau": plateau, **counts["history"]}
    for name, values in figures.items():  # may be NaN, e.g. the accuracy of no rows
        if not all(isinstance(value, (int, float)) for value in values):
            raise DataError(f"{name} must hold numbers; got {values!r}")


def _again(kind: type[_Kind], model: Sequential, spec: dict[str, Any], state: Any) -> _Kind:
    """Reconstruct a trainer from a pickle or copy."""
    trainer = kind.__new__(kind)
    # Not through the __init__ of a subclass, whose arguments may differ.
    TrainerBase.__init__(trainer, model, **spec)
    return trainer._continue(None, *state)
