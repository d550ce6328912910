"""The result of a run of continual learning."""

import csv
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from thalweg import _checks, _habits
from thalweg._atomic import replacing
from thalweg._history import History
from thalweg.continual import metrics
from thalweg.continual._elsewhere import OF_RESULTS, no_attribute
from thalweg.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # what typing.get_type_hints finds
    Axes = Any


@dataclass
class Result:
    """The figures of a run; see `thalweg.continual.run`.

    Attributes
    ----------
    names : tuple of str
        The names of the tasks.
    kind : str
        The kind of the scenario.
    metric : str
        ``"accuracy"``, ``"r2"`` or the name of a custom function.
    r : ndarray, shape (tasks, tasks)
        ``r[i, j]`` is the score on task `j` after task `i` was learned, from 0; NaN for tasks that
        have not been learned yet.
    baseline : ndarray, shape (tasks,)
        The scores before anything was learned, each among the outputs that compete just before the
        task is learned: see `Scenario.competing`.
    steps : list of int
        When the tasks were judged, in steps since the start.
    scores : list of list of float
        The scores at those times, one for each task.
    curve : ndarray, shape (len(steps), tasks)
        The same as an array. The first row is `baseline`.
    ends : list of int
        When each task ended, in steps since the start.
    histories : list of History
        One for each task, with an entry for each epoch; if the run was given ``steps``, or tasks
        were judged more often, with an entry for each interval between judgements. Its figures are
        NaN if no row counts in any of its steps, which are skipped then.
    """

    names: tuple[str, ...]
    kind: str
    metric: str
    steps: list[int] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = _checks.sequence("names", self.names)

    if not TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name

        def __getattr__(self, name: str) -> Any:
            """Raise an error that says where to find what was asked for."""
            raise no_attribute(self, name, OF_RESULTS)

    @property
    def r(self) -> npt.NDArray[np.float64]:
        """The matrix of scores."""
        matrix = np.full((len(self.names), len(self.names)), np.nan)
        for task, end in enumerate(self.ends):
            matrix[task] = self.scores[self.steps.index(end)]
        return matrix

    @property
    def curve(self) -> npt.NDArray[np.float64]:
        """The scores over time."""
        return np.array(self.scores, dtype=np.float64).reshape(-1, len(self.names))

    @property
    def baseline(self) -> npt.NDArray[np.float64]:
        """The scores before anything was learned."""
        first: npt.NDArray[np.float64] = self.curve[0]
        return first

    @property
    def seconds(self) -> float:
        """The time spent on training, without that spent on judging."""
        return float(sum(sum(history.get("seconds", ())) for history in self.histories))

    def metrics(self) -> dict[str, float]:
        """Compute all metrics that follow from this run, by the names of their definitions.

        Returns
        -------
        dict of str to float
            ``"average_accuracy"`` and, with two tasks or more, ``"bwt_gem"``, ``"forgetting_max"``
            and so on; see `thalweg.continual.metrics`.

        Raises
        ------
        ArgumentError
            If the run has not ended.
        """
        r = self.r
        found = {"average_accuracy": metrics.average_accuracy(r)}
        found["incremental_accuracy"] = metrics.incremental_accuracy(r)
        if len(r) > 1:
            for name in get_args(metrics.Bwt):
                found[f"bwt_{name}"] = metrics.bwt(r, name)
            for name in get_args(metrics.Forgetting):
                found[f"forgetting_{name}"] = metrics.forgetting(r, name)
            for name in get_args(metrics.Fwt):
                found[f"fwt_{name}"] = metrics.fwt(r, self.baseline, name)
        return found

    def records(self) -> list[dict[str, Any]]:
        """Return one record for each time and task, as written to the log.

        Returns
        -------
        list of dict
            With the keys ``"step"``, ``"learned"`` (the task that was being learned, from 0; -1 at
            the start), ``"task"`` (the one that was judged), ``"name"`` (its name) and
            ``"score"``.
        """
        found = []
        for step, scores in zip(self.steps, self.scores, strict=True):
            learned = sum(end < step for end in self.ends) if step else -1
            for task, (name, score) in enumerate(zip(self.names, scores, strict=True)):
                found.append(
                    {"step": step, "learned": learned, "task": task, "name": name, "score": score}
                )
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a JSON file, or the records to a file whose name ends in ``.csv``.

        `load` reads the former.

        Parameters
        ----------
        path : str or path-like
            The file; an existing one is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        text = io.StringIO(newline="")
        path = as_path("path", path)
        if path.endswith(".csv"):
            records = self.records()
            writer = csv.DictWriter(text, records[0] if records else ["step"])
            writer.writeheader()
            writer.writerows(records)
        else:
            json.dump(self._plain(), text, indent=1)
        with replacing(path) as file:
            file.write(text.getvalue().encode())

    @_habits.on_the_class("result = Result.load(path) reads the file")
    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """Read a JSON file that `save` or ``continual.run(..., log=path)`` has written.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        Result

        Raises
        ------
        ArgumentError
            If it is called on a result instead of the class: it would not change that result.
        OSError
            If the file cannot be read.
        DataError
            If it holds no such figures; a CSV file has only the scores, for tables.
        """
        path = as_path("path", path)
        text = Path(path).read_bytes()
        try:
            result = cls._of_plain(json.loads(text))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise DataError(
                f"{path!r} does not contain the result of a run: Result.load reads the"
                " JSON files that Result.save and continual.run(..., log=path) write"
            ) from None
        return result

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the scores over time; the same as `thalweg.plot.tasks`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from thalweg import plot

        return plot.tasks(self, ax)

    def plot_matrix(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the matrix of scores; the same as `thalweg.plot.task_matrix`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from thalweg import plot

        return plot.task_matrix(self, ax)

    def __repr__(self) -> str:
        done = f"{len(self.ends)} of {len(self.names)} tasks"
        if not self.ends:
            return f"Result({done})"
        learned = len(self.ends)
        mean = float(np.mean(self.r[learned - 1, :learned]))
        return f"Result({done}, {self.metric} {mean:.4f}, {self.seconds:.2f} s)"

    def _plain(self) -> dict[str, Any]:
        """Return everything as plain data; JSON has no NaN, so None stands for it."""
        return {
            "names": list(self.names),
            "kind": self.kind,
            "metric": self.metric,
            "steps": self.steps,
            "scores": [[_or_none(score) for score in scores] for scores in self.scores],
            "ends": self.ends,
            "histories": [
                {key: [_or_none(value) for value in values] for key, values in history.items()}
                for history in self.histories
            ],
        }

    @classmethod
    def _of_plain(cls, plain: dict[str, Any]) -> "Result":
        """Return what was described; raise one of several errors if it was not by `_plain`."""
        histories = [
            History({key: [_or_nan(value) for value in values] for key, values in history.items()})
            for history in plain["histories"]
        ]
        scores = [[_or_nan(score) for score in scores] for scores in plain["scores"]]
        given = {"names": tuple(plain["names"]), "scores": scores, "histories": histories}
        result = cls(**{**plain, **given})
        values = [value for history in histories for values in history.values() for value in values]
        wrong = not all(isinstance(it, (int, float)) for it in [*values, *result.steps])
        wrong = wrong or result.curve.shape != (len(result.steps), len(result.names))
        if wrong or result.r.ndim != 2 or len(result.ends) > len(result.names):
            raise ValueError("its figures do not match its steps and tasks")
        return result


def _or_none(value: float) -> float | None:
    return value if value == value else None


def _or_nan(value: Any) -> Any:
    return np.nan if value is None else value


def of_the_same_tasks(results: Any, name: str) -> tuple[Result, ...]:
    """Return one or several runs of the same tasks as a tuple; `name` is the argument's name.

    For functions that take either: those of `metrics` and `thalweg.plot`.
    """
    found = (results,) if isinstance(results, Result) else _checks.sequence(name, results)
    for one in found:
        if not isinstance(one, Result):
            raise ArgumentError(
                f"{name} must be a sequence of Result, as returned by continual.run; got"
                f" {_checks.given(one)} in it"
            )
        if (one.names, one.metric) != (found[0].names, found[0].metric):
            raise ArgumentError(
                f"all runs must have the same tasks and metric; got {found[0].names} with"
                f" {found[0].metric} and {one.names} with {one.metric}"
            )
    if not found:
        raise ArgumentError(f"{name} must hold at least one Result; got none")
    return tuple(found)


def as_path(name: str, path: Any) -> str:
    """Return the path of a file as text, if it is one; bytes may stand for text."""
    return _checks.path(name, os.fsdecode(path) if isinstance(path, bytes) else path)
