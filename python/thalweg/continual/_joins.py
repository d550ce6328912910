"""Which strategies cannot be wrapped around which, checked when they are combined.

Each lists in `Strategy._does` what it does to training that others may not tolerate. The
combinations refused here would fail in the middle of a run, silently do nothing, or break a
promise.

- ``"penalty"`` sets the trainer's penalty, from an ``"importance"`` computed from the network;
  ``"projection"`` changes the gradients; ``"loss"`` takes its steps with its own loss;
- ``"rows"`` learns rows other than a task's, in addition or instead; ``"own rows"`` chooses them
  regardless of what it is given; ``"pieces"`` passes them on in pieces that each start anew;
  ``"weights"`` passes them on with weights; ``"plain rows"`` takes no rows with weights, ``"plain
  tasks"`` no tasks with weights; ``"whole"`` needs all rows of a task, ``"place"`` the position in
  it;
- ``"part"`` gives each task a part of the network: by ``"gates"``, which are open between tasks, or
  as ``"owner"`` of parameters, which stay as they are; ``"replays"`` includes samples of earlier
  tasks in its steps (`Strategy.replays`);
- ``"restart"`` starts every task with the initial parameters; ``"shrink"`` starts each but the
  first with changed parameters; ``"renew"`` resets some after each step;
- ``"looks"`` relies on the network as it is when a task begins or ends; ``"teacher"`` on the
  network as it is when a task begins, with what earlier tasks taught it.
"""

from typing import Any

from thalweg.errors import UnsupportedError

#: What the outer strategy does, what the inner one does, and why they cannot be combined.
_CLASHES = (
    ("penalty", "loss", "{inner} cannot be joined with a strategy that sets a penalty: it takes its"
     " steps with a loss of its own, which knows of none"),
    ("penalty", "penalty", "a trainer has one penalty, so that {inner}'s would be lost"),
    ("projection", "loss", "{inner} cannot be joined with a strategy that projects gradients: it"
     " takes its steps with a loss of its own"),
    ("projection", "projection", "{outer} cannot be joined with another strategy that projects"
     " gradients"),
    ("rows", "own rows", "{inner} chooses the rows that are learned, and those of {outer} would be"
     " left out"),
    ("own rows", "own rows", "{inner} chooses the rows that are learned, and those of {outer} would"
     " be left out"),
    ("weights", "plain rows", "{inner} does not take rows with weights, which {outer} gives them"),
    ("gates", "looks", "{inner} would go by the whole network, as it is between tasks, not by the"
     " part that learns a task"),
    ("looks", "gates", "{outer} would go by the whole network, as it is between tasks, not by the"
     " part that learns a task"),
    ("part", "replays", "{inner} has samples of earlier tasks in its steps, which would go through"
     " the latest task's part of the network, not through their own; take {outer} without it"),
    ("replays", "part", "{outer} has samples of earlier tasks in its steps, which would go through"
     " the latest task's part of the network, not through their own; take {inner} without it"),
    ("pieces", "whole", "{inner} goes by the rows of a whole task, and {outer} would give it others"
     " with them, piece by piece"),
    ("pieces", "pieces", "{inner} goes by the place in a task, and {outer} would give it pieces"
     " that begin anew; one with a larger buffer, or batch_size, replays as much"),
    ("pieces", "place", "{inner} goes by the place in a task, and {outer} would give it pieces that"
     " begin anew; {inner} goes outside, around {outer}"),
    ("penalty", "restart", "{inner} begins every task with the parameters of the beginning, and the"
     " penalty would end with that"),
    ("restart", "penalty", "{outer} begins every task with the parameters of the beginning, and"
     " the penalty would end with that"),
    ("shrink", "restart", "{inner} begins every task with the parameters of the beginning, and"
     " {outer} would change what is not used"),
    ("part", "part", "both give each task a part of the network, and only one's would count"),
    ("penalty", "gates", "importances would be those of the whole network, not of the part that"
     " learns a task; {inner} goes outside, around SynapticIntelligence"),
    ("gates", "importance", "importances would be those of the whole network, not of the part that"
     " learns a task; use SynapticIntelligence"),
    ("gates", "renew", "{inner} would begin the silent units anew, whose parameters belong to other"
     " tasks"),
    ("renew", "gates", "{outer} would begin the silent units anew, whose parameters belong to other"
     " tasks"),
    ("owner", "restart", "{inner} begins every task with the parameters of the beginning, also"
     " those that belong to earlier tasks"),
    ("restart", "owner", "{outer} begins every task with the parameters of the beginning, also"
     " those that belong to earlier tasks"),
    ("owner", "shrink", "{inner} changes all parameters between tasks, also those that belong to"
     " earlier tasks"),
    ("shrink", "owner", "{outer} changes all parameters between tasks, also those that belong to"
     " earlier tasks"),
    ("owner", "renew", "{inner} begins units anew, also those that belong to earlier tasks"),
    ("renew", "owner", "{outer} begins units anew, also those that belong to earlier tasks"),
    ("restart", "renew", "{outer} begins every task with the parameters of the beginning, and"
     " {inner} would go by the age of units that are gone"),
    ("renew", "restart", "{inner} begins every task with the parameters of the beginning, and"
     " {outer} would go by the age of units that are gone"),
    ("restart", "teacher", "{outer} begins every task with the parameters of the beginning, and"
     " {inner} would hold on to what these say, not to what was learned"),
    ("shrink", "teacher", "{outer} changes all parameters between tasks, and {inner} would hold on"
     " to what they say then, not to what was learned"),
)  # fmt: skip


def _deeds(strategy: Any) -> set[str]:
    return {*strategy._does, *(("replays",) if strategy.replays else ())}


def check(strategy: Any) -> None:
    """Refuse a strategy around one that it cannot be combined with.

    Raises
    ------
    UnsupportedError
        If there is such a strategy inside.
    """
    mine, link = _deeds(strategy), strategy.inner
    while link is not None:
        theirs = _deeds(link)
        for outer, inner, why in _CLASHES:
            if outer in mine and inner in theirs:
                names = {"outer": type(strategy).__name__, "inner": type(link).__name__}
                raise UnsupportedError(
                    f"{names['outer']} around {names['inner']} is not there: {why.format(**names)}"
                )
        link = link.inner
