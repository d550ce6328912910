"""Warnings that point to the user's line, however many calls of thalweg's are in between."""

import sys
import warnings
from types import FrameType

#: Functions between the user's call that constructs something, or sets a loss, and its checks.
_MAKING = ("__init__", "guided", "__setattr__", "loss", "_set_loss", "at_once", "set_loss")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn about the innermost line on the stack that is not thalweg's."""
    frame, level = sys._getframe(1), 2
    # From Python 3.12 on, `skip_file_prefixes` of `warnings.warn` does this.
    while frame.f_back is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def warn_maker(message: str) -> None:
    """Warn a user who constructs something doubtful, but not about copies made within thalweg."""
    frame = sys._getframe(2)  # the caller of the check
    while frame.f_back is not None and _is_ours(frame) and frame.f_code.co_name in _MAKING:
        frame = frame.f_back
    if not _is_ours(frame):
        warn(message)


def _is_ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module == "thalweg" or module.startswith("thalweg.")
