"""What `Strategy.fit` restores after an error, and what errors say about it."""

import contextlib
import copy
import re
from collections.abc import Iterator
from typing import Any

from thalweg._trainer._snapshot import Snapshot
from thalweg.errors import DivergedError

#: What an error of the trainer says of the call that it came from: a fit or step of the trainer,
#: many of which make up a task.
_AS_BEFORE = re.compile(r"Weights and optimizer are as they were (before this call|after \d+ .*)")

STEPS_REMAIN = "The steps that were taken remain, but "


class Gathered:
    """What a strategy has gathered."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._state: Any = None
        try:
            self._state = strategy.state_dict()
        except Exception as error:  # a user's: only matters if there is something to restore
            self._failed = error

    def restore(self, error: BaseException, otherwise: str) -> bool:
        """Restore it, or note with an error that this failed, after what is so otherwise."""
        try:
            if self._state is None:
                raise self._failed
            self._strategy.load_state_dict(self._state)
        except Exception as failed:  # the error that led here is what matters
            name = type(self._strategy).__name__
            error.add_note(f"{otherwise}what {name} has gathered could not be restored: {failed}")
            return False
        return True


class Before:
    """A strategy and its trainer as they are before a task, or before a file is loaded."""

    def __init__(self, strategy: Any) -> None:
        self._trainer = trainer = strategy.trainer
        self._gathered = Gathered(strategy)
        self._snapshot = Snapshot(trainer._core, trainer.model, trainer.optimizer)
        self._loss, self._held = trainer.loss, trainer._held()
        self._counts = {**copy.deepcopy(trainer._counts()), "groups": []}  # which stay

    def restore(self, error: BaseException) -> None:
        """Restore everything, and let an error say so."""
        trainer = self._trainer
        self._snapshot.restore()
        trainer._continue(None, self._counts, self._held)
        trainer.loss = self._loss
        if not self._gathered.restore(error, "The trainer is as it was before this call, but "):
            return
        if isinstance(error, DivergedError) and not _say(error, "before this call"):
            error.add_note("Strategy and trainer are as they were before this call.")


@contextlib.contextmanager
def saying_after_which_step(trainer: Any) -> Iterator[None]:
    """Let errors of several fits of a trainer say what is left of the earlier ones."""
    try:
        yield
    except DivergedError as error:
        steps = trainer.optimizer.steps
        _say(error, f"after {steps} optimizer step{'' if steps == 1 else 's'}")
        raise


def _say(error: DivergedError, when: str) -> bool:
    """Let an error say when weights were as they are now, if it says anything about that."""
    text, count = _AS_BEFORE.subn(f"Weights and optimizer are as they were {when}", str(error))
    if count:
        error.args = (text,)
    return bool(count)
