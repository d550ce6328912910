"""Warnings that name the line of the user's, however many calls of ours are between."""

import sys
import warnings


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the innermost line on the stack that is not of thalweg."""
    frame, level = sys._getframe(1), 2
    # From Python 3.12 on, `skip_file_prefixes` of `warnings.warn` does that.
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module == "thalweg" or module.startswith("thalweg.")
