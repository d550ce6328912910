"""Which strategies do not go around which, seen when they are put together.

Each says in `Strategy._does` what it does to the training that others may not bear. What is refused
here would fail in the middle of a run, or do nothing without a word.
"""

from typing import Any

from thalweg.errors import UnsupportedError

#: What the outer one does, what the inner one does, and why that is not there.
_CLASHES = (
    ("penalty", "loss", "{inner} cannot be joined with a strategy that sets a penalty: it takes its"
     " steps with a loss of its own, which knows of none"),
    ("projection", "loss", "{inner} cannot be joined with a strategy that projects gradients: it"
     " takes its steps with a loss of its own"),
    ("projection", "projection", "{outer} cannot be joined with another strategy that projects"
     " gradients"),
    ("weights", "plain rows", "{inner} does not take rows with weights, which {outer} gives them"),
    ("rows", "own rows", "{inner} chooses the rows that are learned, and those of {outer} would be"
     " left out"),
    ("penalty", "restart", "{inner} begins every task with the parameters of the beginning, and the"
     " penalty would end with that"),
    ("restart", "penalty", "{outer} begins every task with the parameters of the beginning, and"
     " the penalty would end with that"),
    ("parts", "restart", "{inner} begins every task with the parameters of the beginning, also"
     " those that belong to earlier tasks"),
    ("restart", "parts", "{outer} begins every task with the parameters of the beginning, also"
     " those that belong to earlier tasks"),
)  # fmt: skip


def check(strategy: Any) -> None:
    """Refuse a strategy around one that it does not go with.

    Raises
    ------
    UnsupportedError
        If there is such a one inside.
    """
    link = strategy.inner
    while link is not None:
        for outer, inner, why in _CLASHES:
            if outer in strategy._does and inner in link._does:
                names = {"outer": type(strategy).__name__, "inner": type(link).__name__}
                raise UnsupportedError(
                    f"{names['outer']} around {names['inner']} is not there: {why.format(**names)}"
                )
        link = link.inner
