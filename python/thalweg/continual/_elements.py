"""Which optimizers work element by element, as masks and integrals along the way need."""

from thalweg._trainer import Trainer
from thalweg.errors import UnsupportedError
from thalweg.optim import SAM


def check_elementwise(trainer: Trainer, who: str) -> None:
    """Refuse an optimizer that looks at a whole layer, or at all parameters, before it moves one.

    Raises
    ------
    UnsupportedError
        If it is such a one.
    """
    optimizer = trainer.optimizer
    if optimizer._core.is_elementwise:
        return
    named = optimizer.base if isinstance(optimizer, SAM) else optimizer
    raise UnsupportedError(
        f"{who} follows or holds each parameter by itself, and {type(named).__name__} moves"
        " those of a layer together: take an optimizer that works element by element, as"
        " optim.Adam or optim.SGD"
    )
