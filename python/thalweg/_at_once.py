"""Several changes that Ctrl-C cannot separate."""

import collections
import operator
from collections.abc import Callable
from typing import Any


def at_once(*changes: Callable[[], Any]) -> None:
    """Call compiled functions one after the other, up to the first that raises.

    Python looks for signals between its own instructions, and the loop below is within a single
    one: Ctrl-C raises before all changes or after all. So what the core was told and what Python
    knows of it agree. A function that is written in Python may be interrupted as it begins, so an
    attribute is set with `object.__setattr__`, which `Guided` overrides.
    """
    collections.deque(map(operator.call, changes), maxlen=0)
