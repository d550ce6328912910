"""What a strategy gathers, as arrays and plain data: exported, checked and restored."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg.continual._buffers import Buffer
from thalweg.errors import ArgumentError

#: The key of the state of something that has its own `state_dict`.
_STATE = "its state"


def has_state(value: Any) -> bool:
    """Whether something has a state that it can load, such as a buffer or a model."""
    both = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    return both or isinstance(value, np.random.Generator)


def given(value: Any) -> Any:
    """Return a copy of what was gathered, or of its state."""
    if not has_state(value):
        return copy.deepcopy(value)
    is_generator = isinstance(value, np.random.Generator)
    state = value.bit_generator.state if is_generator else value.state_dict()
    return {"of": type(value).__name__, _STATE: copy.deepcopy(state)}


def check(owner: str, name: str, value: Any, there: Any) -> None:
    """Refuse what `given` returned, if `there` cannot take it.

    Raises
    ------
    ArgumentError
        If one has its own state and the other does not, or one of another kind.
    """
    if value is None:
        return
    is_state = isinstance(value, Mapping) and _STATE in value
    was = f"the state of a {value['of']}" if is_state else "plain data"
    now = f"the state of a {type(there).__name__}" if has_state(there) else "plain data"
    if was != now:
        raise ArgumentError(
            f"this is not the state of such a {owner}: its {name} is {was}, and here it is {now};"
            " what has a state of its own is made in __init__"
        )
    if isinstance(there, Buffer):
        there._check_state(value[_STATE])


def taken(value: Any, there: Any) -> Any:
    """Return a copy of what `given` returned, or `there` itself after it has loaded its state."""
    value = copy.deepcopy(value)
    if value is None or not has_state(there):
        return value
    if isinstance(there, np.random.Generator):
        there.bit_generator.state = value[_STATE]
    else:
        there.load_state_dict(value[_STATE])
    return there
