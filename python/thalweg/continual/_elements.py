"""Which optimizers work element by element, as masks and integrals along the way need."""

from thalweg._trainer import Trainer
from thalweg.errors import UnsupportedError
from thalweg.optim import LAMB, SAM, Adafactor, Muon, Optimizer, Prodigy, Shampoo

#: Those that look at a whole layer, or at all parameters, before they move one.
_WHOLE = (Adafactor, LAMB, Muon, Prodigy, Shampoo)


def check_elementwise(trainer: Trainer, who: str) -> None:
    """Refuse an optimizer that looks at whole layers.

    Raises
    ------
    UnsupportedError
        If it is such a one.
    """
    optimizer: Optimizer = trainer.optimizer
    if isinstance(optimizer, SAM):
        optimizer = optimizer.base
    if isinstance(optimizer, _WHOLE):
        raise UnsupportedError(
            f"{who} follows or holds each parameter by itself, and {type(optimizer).__name__} moves"
            " those of a layer together: take an optimizer that works element by element, as"
            " optim.Adam or optim.SGD"
        )
