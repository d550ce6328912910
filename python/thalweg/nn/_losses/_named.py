"""What is accepted as a loss."""

from typing import Any

from thalweg import _checks, _habits
from thalweg._description import Description
from thalweg._habits import Guided
from thalweg.errors import ArgumentError
from thalweg.nn._losses._base import OWN, CoreLoss, Loss
from thalweg.nn._losses._custom import CustomLoss, FunctionLoss


def loss_of(value: Any) -> CoreLoss | FunctionLoss:
    """Return `value` as a loss: it may be one, or a function.

    Raises
    ------
    ArgumentError
        If it is neither; the error suggests the name that may have been meant.
    """
    if isinstance(value, (CoreLoss, FunctionLoss)):
        return value
    # Schedules are callable too, but neither they nor models are losses.
    function = callable(value) and not isinstance(value, (type, Description, Guided))
    name = _elsewhere(value) if function else value
    if function and name is None:
        return CustomLoss(value)
    own = f": {OWN}" if isinstance(value, Loss) else ""
    hint = own or _habits.kind_meant(name, Loss, "nn", aliases=_ALIASES)
    if isinstance(value, str) and value.lower().replace("_", "").startswith(_FUNCTIONS):
        hint = f": {OWN}"
    elif not hint and isinstance(value, str):
        hint = (
            f"; there are {', '.join(sorted(kind.__name__ for kind in CoreLoss.__subclasses__()))}"
        )
    raise ArgumentError(
        "loss must be a Loss, e.g. nn.CrossEntropyLoss() or nn.MSELoss(), or a function "
        f"(output, target) -> (loss, gradient); got {_checks.given(value)}{hint}"
    )


def _elsewhere(value: Any) -> str | None:
    """Return the name of another library's loss, which would not return its gradient, or None."""
    maker = value if hasattr(value, "__name__") else type(value)
    home = str(maker.__module__).partition(".")[0]
    return maker.__name__ if home in ("torch", "keras", "tensorflow", "optax") else None


#: Beginnings of the names of losses that only exist as user-defined functions here.
_FUNCTIONS = ("focal", "triplet", "contrastive", "cosine", "hinge", "dice", "logcosh", "ctc")

#: Other libraries' names for the losses, in lower case without spaces and underscores.
_ALIASES = {
    "mae": "L1Loss",
    "meanabsoluteerror": "L1Loss",
    "meansquarederror": "MSELoss",
    "squarederror": "MSELoss",
    "smoothl1": "HuberLoss",
    "logloss": "CrossEntropyLoss",
    "categoricalcrossentropy": "CrossEntropyLoss",
    "sparsecategoricalcrossentropy": "CrossEntropyLoss",
    "softmax": "CrossEntropyLoss",
    "binarycrossentropy": "BCEWithLogitsLoss",
    "bce": "BCEWithLogitsLoss",
    "nll": "CrossEntropyLoss",
    "pinball": "QuantileLoss",
    "kldiv": "DistillationLoss",
    "kldivergence": "DistillationLoss",
}
