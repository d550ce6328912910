"""The progress bar of `Trainer.fit`, drawn by tqdm."""

import contextlib
import sys
from types import TracebackType
from typing import Any, Self

from thalweg import _core
from thalweg._history import KEYS, History
from thalweg._trainer._evaluation import ValidatedFit
from thalweg._trainer._python_fit import PythonFit
from thalweg._trainer._stream import StreamFit


class _Stream:
    """A stream whose errors are ignored: training goes on when the terminal or pipe is gone."""

    def __init__(self, stream: Any) -> None:
        self._wrapped = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __eq__(self, other: object) -> bool:  # `tqdm.write` moves the bars of its stream
        return bool(self._wrapped == other)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._wrapped.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._wrapped.flush()


def bar(total: int | None, unit: str) -> Any:
    """Make a bar of tqdm, which draws nothing without a standard error stream (pythonw)."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from None
    shown = {"total": total, "unit": unit, "miniters": 1, "dynamic_ncols": True}
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # of what others wrote before, which tqdm flushes first
            return tqdm(**shown, file=_Stream(sys.stderr))
    return tqdm(**shown, disable=True)


class ProgressBar:
    """One bar for a whole fit: batches done, the epoch, and the latest figures.

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """

    def __init__(self, fit: _core.Fit | PythonFit | StreamFit | ValidatedFit, epochs: int) -> None:
        self._fit = fit
        self._epochs = epochs
        total = epochs * fit.progress[2] or None  # unknown for an iterable
        self._bar = bar(total, "batch")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, history: History) -> None:
        """Show the fit's progress; `history` has the completed epochs."""
        ended, batch, batches, loss, accuracy = self._fit.progress
        # Validation figures exist only at the end of an epoch.
        figures = {key: values[-1] for key, values in history.items()}
        if batch:
            figures["loss"] = loss
            if accuracy is not None:
                figures["accuracy"] = accuracy
        self._bar.set_description(
            f"epoch {min(ended + 1, self._epochs)}/{self._epochs}", refresh=False
        )
        shown = {key: f"{figures[key]:.4f}" for key in KEYS[:-1] if key in figures}
        self._bar.set_postfix(shown, refresh=False)
        # tqdm itself redraws at most ten times a second, and once more at the end.
        self._bar.update(ended * batches + batch - self._bar.n)
