"""Warnings that name the line of the user's, however many calls of ours are between."""

import sys
import warnings
from types import FrameType

#: Functions that are between the user's call that makes something, or sets a loss, and its checks.
_MAKING = ("__init__", "guided", "loss", "set_loss")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the innermost line on the stack that is not of thalweg."""
    frame, level = sys._getframe(1), 2
    # From Python 3.12 on, `skip_file_prefixes` of `warnings.warn` does that.
    while frame.f_back is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def warn_maker(message: str) -> None:
    """Warn who makes what is doubtful, and nobody of the copies that are made of it in here."""
    frame = sys._getframe(2)  # who called what checks it
    while frame.f_back is not None and _is_ours(frame) and frame.f_code.co_name in _MAKING:
        frame = frame.f_back
    if not _is_ours(frame):
        warn(message)


def _is_ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module == "thalweg" or module.startswith("thalweg.")
