"""What the estimators accept as `loss`: scikit-learn's names, losses of thalweg.nn, functions.

They accept those whose outputs they can turn into predictions, and refuse others.
"""

from typing import Any

from thalweg import _checks, _habits, nn
from thalweg._description import Description
from thalweg._habits import Guided
from thalweg.errors import ArgumentError
from thalweg.nn._losses import CoreLoss, FunctionLoss, loss_of
from thalweg.nn._losses._named import _ALIASES

#: scikit-learn's names.
NAMES = ("squared_error", "poisson")


def _all(outputs: str) -> tuple[type[CoreLoss], ...]:
    """List the losses of `nn` with such outputs."""
    kinds = (it for it in vars(nn).values() if isinstance(it, type) and issubclass(it, CoreLoss))
    return tuple(kind for kind in kinds if kind._outputs == outputs)


#: Of the losses that it names, the regressor knows how to convert outputs into predictions.
_OF_NUMBERS = (
    *_all("predictions"), nn.QuantileLoss, nn.GaussianNLLLoss, nn.PoissonNLLLoss,
)  # fmt: skip
_OF_CLASSES = _all("logits")
_TRAIN = "train with tw.Trainer(model, loss=..., optimizer=...)"
#: Why neither estimator accepts these losses.
_UNUSABLE: dict[type, str] = {
    nn.DistillationLoss: f"its targets are the outputs of a teacher; {_TRAIN}",
    nn.DerivativeLoss: f"it needs derivatives with respect to the samples; {_TRAIN}",
}
#: What scikit-learn and others call regression losses.
_OTHERS = {**_ALIASES, "absoluteerror": "L1Loss"}
_FUNCTION = "a function (output, target) -> (loss, gradient)"


def of_regressor(value: Any) -> str | CoreLoss | FunctionLoss:
    """Return one of `NAMES`, or a loss whose outputs are numbers, or raise."""
    if not _is_loss(value):
        if isinstance(value, str) and value in NAMES:
            return value
        meant = _habits.did_you_mean(value, NAMES)
        if str(value).lower() not in NAMES:  # "absolute_error" resembles "squared_error"
            meant = _meant(value, _OF_NUMBERS) or meant
        if not isinstance(value, (str, type)):
            meant = (
                "; loss is the first argument, and hidden_layer_sizes the second: write "
                "MLPRegressor(hidden_layer_sizes=...)"
            )
        raise ArgumentError(
            f'loss must be one of "squared_error", "poisson", {_listed(_OF_NUMBERS)} or '
            f"{_FUNCTION}; got {_checks.given(value)}{meant}"
        )
    loss = _usable("MLPRegressor", value, _OF_NUMBERS)
    if isinstance(loss, _OF_CLASSES):
        raise ArgumentError(
            f"loss is {loss!r}, a loss for classes, which MLPClassifier takes; MLPRegressor takes "
            f"{_listed(_OF_NUMBERS)} or {_FUNCTION}"
        )
    if isinstance(loss, nn.PoissonNLLLoss) and not loss.log_input:
        raise ArgumentError(
            "loss is nn.PoissonNLLLoss(log_input=False), which is undefined for negative outputs, "
            "but the last layer may give some: use nn.PoissonNLLLoss(), for which outputs are "
            "logarithms of rates, and predict gives rates"
        )
    return loss


def outputs_per_target(loss: Any) -> int:
    """Return how many outputs a regressor's loss has for each target."""
    if isinstance(loss, nn.GaussianNLLLoss):
        return 2
    return len(loss.quantiles) if isinstance(loss, nn.QuantileLoss) else 1


def of_classifier(value: Any) -> CoreLoss | FunctionLoss | None:
    """Return a loss whose outputs are logits, or None, or raise."""
    if value is None:
        return None
    if not _is_loss(value):
        raise ArgumentError(
            f"loss must be None, {_listed(_OF_CLASSES)} or {_FUNCTION}; got "
            f"{_checks.given(value)}{_meant(value, _OF_CLASSES)}"
        )
    loss = _usable("MLPClassifier", value, _OF_CLASSES)
    if isinstance(loss, _OF_NUMBERS):
        raise ArgumentError(
            f"loss is {loss!r}, a loss for numbers, which MLPRegressor takes; MLPClassifier takes "
            f"{_listed(_OF_CLASSES)} or {_FUNCTION}"
        )
    if isinstance(loss, nn.CrossEntropyLoss):
        for name, usual in (("heads", None), ("active", None), ("ignore_index", -100)):
            if getattr(loss, name) != usual:
                raise ArgumentError(
                    f"loss has {name}={getattr(loss, name)!r}, but in MLPClassifier all classes "
                    f"share one softmax, and all rows count: leave {name} out, or {_TRAIN}"
                )
    return loss


def _is_loss(value: Any) -> bool:
    """Whether a value is a loss or a function, rather than a name, class or layer."""
    ours = isinstance(value, (type, Description, Guided))  # layers are callable, too
    return isinstance(value, nn.Loss) or (callable(value) and not ours)


def _usable(estimator: str, value: Any, taken: tuple[type, ...]) -> CoreLoss | FunctionLoss:
    """Return a loss that one of the estimators accepts, or raise."""
    loss = loss_of(value)
    if isinstance(loss, (*_OF_NUMBERS, *_OF_CLASSES, nn.CustomLoss)):
        return loss
    reason = next(
        (reason for kind, reason in _UNUSABLE.items() if isinstance(loss, kind)),
        f"they cannot make predictions of its outputs; {_TRAIN}",
    )
    raise ArgumentError(
        f"loss is {loss!r}, which no estimator takes: {reason}. {estimator} takes "
        f"{_listed(taken)} or {_FUNCTION}"
    )


def _meant(value: Any, taken: tuple[type, ...]) -> str:
    """Suggest which of these losses a name or a class may have meant, if any."""
    meant = _habits.kind_meant(value, nn.Loss, "nn", aliases=_OTHERS)
    return meant if any(kind.__name__ in meant for kind in taken) else ""


def _listed(kinds: tuple[type, ...]) -> str:
    return ", ".join(f"nn.{kind.__name__}" for kind in kinds)
