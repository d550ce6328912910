"""Final activations that restrict the range of what the loss takes as logits."""

from typing import Any

from thalweg import nn
from thalweg._warn import warn_maker

#: The range of each activation's outputs.
_RANGES: dict[type, str] = {
    nn.Sigmoid: "from 0 to 1",
    nn.Hardsigmoid: "from 0 to 1",
    nn.ReLU: ">= 0",
    nn.ReLU6: "from 0 to 6",
}

#: What the losses that take logits apply to get probabilities.
_INSIDE = {
    nn.CrossEntropyLoss: "the softmax",
    nn.BCEWithLogitsLoss: "the logistic function",
}


def check(model: nn.Sequential, loss: Any) -> None:
    """Warn if a final activation restricts the logits of a loss, which may be any numbers."""
    layers = [it for it in enumerate(model.layers) if not isinstance(it[1], nn.Identity)]
    if not layers or type(loss) not in _INSIDE or type(layers[-1][1]) not in _RANGES:
        return
    index, last = layers[-1]
    name = type(loss).__name__
    warn_maker(
        f"layer {index}, {last!r}, gives numbers {_RANGES[type(last)]}, but {name} takes logits, "
        f"which are any numbers, and applies {_INSIDE[type(loss)]} itself: leave the layer out. "
        "loss.probabilities(model(x)) gives probabilities"
    )
