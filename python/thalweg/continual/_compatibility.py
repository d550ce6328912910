"""Which strategies cannot be wrapped around which, checked when they are combined.

Each lists in `Strategy._does` what it does to training that others may not tolerate. The
combinations refused here would fail in the middle of a run, silently do nothing, or break a
promise.

- ``"penalty"`` adds to the trainer's penalty, from an ``"importance"`` computed from the network,
  or a ``"coupled"`` one; ``"path"`` follows the parameters while they are trained;
  ``"projection"`` changes the gradients; ``"loss"`` takes its steps with its own loss;
- ``"rows"`` learns rows other than a task's, in addition or instead; ``"own rows"`` chooses them
  regardless of what it is given; ``"choice"`` makes them, by a user's `task_to_learn`, from those
  that it is given, which must be all of a task; ``"pieces"`` passes them on in pieces that each
  start anew; ``"weights"`` passes them on with weights; ``"plain rows"`` takes no rows with
  weights, ``"plain tasks"`` no tasks with weights, ``"step"`` neither, as it is a user's `step`
  that learns; ``"whole"`` needs all rows of a task, ``"place"`` the position in it;
- ``"part"`` gives each task a part of the network: by ``"gates"``, which are open between tasks, or
  as ``"owner"`` of parameters, which stay as they are; ``"replays"`` includes samples of earlier
  tasks in its steps (`Strategy.replays`);
- ``"restart"`` starts every task with the initial parameters; ``"shrink"`` starts each but the
  first with changed parameters; ``"renew"`` resets some after each step;
- ``"looks"`` relies on the network as it is when a task begins or ends; ``"teacher"`` on the
  network as it is when a task begins, with what earlier tasks taught it.
"""

from typing import Any

from thalweg.continual import _protocol
from thalweg.errors import UnsupportedError

#: What two strategies do, and why they cannot be combined, whichever of them is outside.
_TOGETHER = (
    ("coupled", "penalty", "the penalty of {one}, which couples parameters, cannot be told from"
     " that of {other}; use one of them"),
    ("gates", "looks", "{other} would use the whole network, as it is between tasks, instead of the"
     " part that learns a task"),
    ("part", "replays", "{other} uses samples of earlier tasks in its steps, which would go through"
     " the latest task's part of the network instead of their own; use {one} without {other}"),
    ("restart", "penalty", "{one} starts every task with the initial parameters, which makes the"
     " penalty of {other} useless"),
    ("gates", "renew", "{other} would reset silent units, whose parameters belong to other tasks"),
    ("owner", "restart", "{other} starts every task with the initial parameters, and would reset"
     " even those that belong to earlier tasks"),
    ("owner", "shrink", "{other} would change all parameters between tasks, even those that belong"
     " to earlier tasks"),
    ("owner", "projection", "{one} keeps a part of each update that {other} has projected, which"
     " then does affect earlier tasks; {one} alone keeps these as they are"),
    ("owner", "renew", "{other} would reset units, even those that belong to earlier tasks"),
    ("restart", "renew", "{one} starts every task with the initial parameters, and {other} would"
     " use the ages of units that are gone"),
)  # fmt: skip
#: What the outer strategy does, what the inner one does, and why they cannot be combined.
_AROUND = (
    ("path", "path", "both follow the path of each parameter, but the core follows it for one; use"
     " one of them"),
    ("projection", "projection", "only one strategy can project the gradients; use one of them"),
    ("rows", "own rows", "{inner} chooses which rows are learned, and those of {outer} would be"
     " left out"),
    ("own rows", "own rows", "{inner} chooses which rows are learned, and those of {outer} would be"
     " left out"),
    ("choice", "own rows", "{inner} chooses which rows are learned, and those of {outer} would be"
     " left out"),
    ("weights", "step", "{inner} learns by step, which does not support rows with weights, which"
     " {outer} would pass to it: put {inner} around {outer} instead, or let {inner} override learn"
     " and call super().learn there"),
    ("weights", "plain rows", "{inner} does not support rows with weights, which {outer} would pass"
     " to it"),
    ("pieces", "whole", "{inner} needs the rows of a whole task, but {outer} would pass them on in"
     " pieces, with other rows"),
    ("pieces", "pieces", "{inner} needs the position in a task, but {outer} would pass on pieces"
     " that each start anew; a single one with a larger buffer or batch_size replays as much"),
    ("pieces", "place", "{inner} needs the position in a task, but {outer} would pass on pieces"
     " that each start anew; put {inner} around {outer} instead"),
    ("pieces", "choice", "{inner} chooses among the rows of a whole task, but {outer} would pass"
     " them on in pieces, with other rows; put {inner} around {outer} instead"),
    ("shrink", "restart", "{inner} starts every task with the initial parameters, which undoes the"
     " changes of {outer}"),
    ("part", "part", "both give each task a part of the network, but only one of them can"),
    ("penalty", "gates", "the penalty of {outer} would be for the whole network instead of the part"
     " that learns a task; put {inner} around SynapticIntelligence instead"),
    ("gates", "importance", "the importances of {inner} would be for the whole network instead of"
     " the part that learns a task; use SynapticIntelligence"),
    ("restart", "teacher", "{outer} starts every task with the initial parameters, and {inner}"
     " would preserve their outputs instead of what was learned"),
    ("shrink", "teacher", "{outer} changes all parameters between tasks, and {inner} would preserve"
     " the outputs after that change instead of what was learned"),
)  # fmt: skip
_CLASHES = (
    *((one, other, why.format(one="{outer}", other="{inner}")) for one, other, why in _TOGETHER),
    *((other, one, why.format(one="{inner}", other="{outer}")) for one, other, why in _TOGETHER),
    *_AROUND,
)


def deeds(strategy: Any) -> set[str]:
    """Return what a strategy does that others may not tolerate."""
    return {*strategy._does, *(("replays",) if strategy.replays else ())}


def check(strategy: Any) -> None:
    """Refuse a strategy around one that it cannot be combined with.

    Raises
    ------
    UnsupportedError
        If there is such a strategy inside.
    """
    mine = deeds(strategy)
    for link in _protocol.inside(strategy):
        theirs = deeds(link)
        for outer, inner, why in _CLASHES:
            if outer in mine and inner in theirs:
                names = {"outer": type(strategy).__name__, "inner": type(link).__name__}
                raise UnsupportedError(
                    f"{names['outer']} around {names['inner']} is not supported:"
                    f" {why.format(**names)}"
                )
