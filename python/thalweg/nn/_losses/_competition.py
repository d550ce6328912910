"""Which outputs of a network compete for a label."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Competition:
    """What `CrossEntropyLoss` documents; without arguments, all outputs compete for all labels."""

    #: Number of columns of each head; None for one head of all.
    heads: tuple[int, ...] | None = None
    #: The classes that compete; None for all.
    active: tuple[int, ...] | None = None
    #: The label whose rows do not count.
    ignored: int | None = None

    def heads_of(self, outputs: int) -> npt.NDArray[np.int64]:
        """Return the head of each column, for a network with this many outputs."""
        sizes = self.heads or (outputs,)
        return np.repeat(np.arange(len(sizes)), sizes)

    def takes_part(self, outputs: int) -> npt.NDArray[np.bool_]:
        """Return whether each column is an active class."""
        if self.active is None:
            return np.ones(outputs, dtype=bool)
        return np.isin(np.arange(outputs), self.active)


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the softmax of each row, without overflow; columns of -inf do not take part."""
    with np.errstate(under="ignore"):  # to 0, the nearest number
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: npt.NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return shares
