"""What trainer and strategies were made with, by which a run that is continued is recognized."""

from typing import Any

from thalweg.continual._buffers import Buffer
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Scenario

#: What a strategy remembers of its life, and was not made with.
_PASSING = ("_told", "_ended", "_rehearses")


def links(strategy: Strategy) -> list[Strategy]:
    """Give a strategy and those inside, the outermost first."""
    inside = [] if strategy.inner is None else links(strategy.inner)
    return [strategy, *inside]


def chosen(strategy: Strategy, scenario: Scenario) -> dict[str, Any]:
    """Give what trainer and strategies were made with: what would silently be the file's."""
    found = strategy.trainer._made_with()
    if any(task.active is not None for task in scenario):
        found["loss"].pop("active", None)  # it is the latest task's
    for link in links(strategy):
        name = type(link).__name__
        if not type(link).__module__.startswith("thalweg."):
            continue
        found |= {f"{name}.{key}": value for key, value in _plain(link).items()}
        for key, buffer in vars(link).items():
            if isinstance(buffer, Buffer):
                made = {"type": type(buffer).__name__, **_plain(buffer)}
                found[f"{name}.{key.strip('_')}"] = made
    return found


def _plain(thing: Strategy | Buffer) -> dict[str, Any]:
    """Give the plain values of a thing of ours that its state does not hold."""
    gathered = thing.state_dict()
    return {
        name.strip("_"): value
        for name, value in vars(thing).items()
        if isinstance(value, bool | int | float | str)
        and not name.startswith(_PASSING)
        and name.strip("_") not in gathered
    }
