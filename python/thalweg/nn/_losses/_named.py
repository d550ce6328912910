"""What is taken for a loss."""

from typing import Any

from thalweg.errors import ArgumentError
from thalweg.nn._losses._base import CoreLoss, Loss
from thalweg.nn._losses._custom import CustomLoss


def loss_of(value: Any) -> CoreLoss | CustomLoss:
    """`value` as a loss: what is one, or a function.

    Raises
    ------
    ArgumentError
        If it is neither; with the name that may have been meant.
    """
    if isinstance(value, (CoreLoss, CustomLoss)):
        return value
    if callable(value) and not isinstance(value, type):
        return CustomLoss(value)
    what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    hint = ""
    if isinstance(value, type) and issubclass(value, Loss):
        hint = f"; make one: nn.{value.__name__}(...)"
    elif isinstance(value, str):
        hint = _meant(value)
    raise ArgumentError(
        "loss must be a Loss, e.g. nn.CrossEntropyLoss() or nn.MSELoss(), or a function "
        f"(output, target) -> (loss, gradient); got {what}{hint}"
    )


#: What other libraries call the losses, without case, spaces and underscores.
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


def _meant(text: str) -> str:
    """``'; did you mean nn.MSELoss()?'`` if a loss has nearly that name, else all names."""
    import difflib  # only needed once something is wrong already

    names = {kind.__name__: kind.__name__ for kind in CoreLoss.__subclasses__()}
    known = {n.lower(): n for n in names} | {n.lower().removesuffix("loss"): n for n in names}
    known |= _ALIASES
    plain = "".join(c for c in text.lower() if c.isalnum())
    close = difflib.get_close_matches(plain, list(known), n=1)
    if close:
        return f"; did you mean nn.{known[close[0]]}()?"
    return f"; there are {', '.join(sorted(names))}"
