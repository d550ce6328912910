"""Which optimizers work element by element, as masks and path integrals require."""

from thalweg._trainer import Trainer
from thalweg.errors import UnsupportedError
from thalweg.optim import SAM


def check_elementwise(trainer: Trainer, who: str) -> None:
    """Refuse an optimizer whose update of a parameter depends on others.

    Raises
    ------
    UnsupportedError
        If the trainer's optimizer does not work element by element.
    """
    optimizer = trainer.optimizer
    if optimizer._core.is_elementwise:
        return
    named = optimizer.base if isinstance(optimizer, SAM) else optimizer
    raise UnsupportedError(
        f"{who} tracks or freezes each parameter separately, but {type(named).__name__} updates"
        " those of a layer together: use an optimizer that works element by element, such as"
        " optim.Adam or optim.SGD"
    )
