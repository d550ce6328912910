"""The contestants of one workload: same setup, checked for same answers, timed in short turns."""

from __future__ import annotations

import time

import numpy as np
import pytest

from .machine import rest
from .peers import Contestant, Mode
from .workloads import Data, Inference, Training, Update, Work

# Losses and outputs of float32 sums in different orders differ by some 1e-6. The optimizer's effect
# on the weights is more sensitive: a rate that is 2 % off changes it by 1e-2 to 8e-2, but hardly
# the losses. Adam takes full steps even for tiny gradients, so rounding alone causes up to 6e-3.
AGREEMENT = {"losses": 1e-4, "outputs": 1e-4, "steps in the first weight": 1.5e-2}
# An update with given gradients leaves little to rounding.
UPDATE_AGREEMENT = {"steps in the first weight": 1e-4}
STEPS_TO_AGREE_ON = 8
UPDATES_TO_AGREE_ON = 4


class Field:
    """One workload, and its contestants, made on demand.

    Parameters
    ----------
    work : Work
    reference : Mode
        The mode whose answers all others must match.
    threads : int
    turn_seconds : float
        How long one timed turn should take; a turn has at least one pass over the batches.
    """

    def __init__(self, work: Work, reference: Mode, threads: int, turn_seconds: float) -> None:
        self.work, self.threads, self.turn_seconds = work, threads, turn_seconds
        self.data = Data(work)
        self.expected = self._answers(reference.make(work, self.data, threads))
        self._ready: dict[str, tuple[Contestant, int]] = {}
        self._refused: set[str] = set()

    def turn(self, mode: Mode, benchmark) -> None:
        """Run one timed turn: rest, restart from the initial weights, warm up, start the clock.

        Restarting keeps the numbers typical: after many thousand steps on a few batches, a fast
        library would be timed on a fitted net and decayed moments, a slow one on fresh ones.
        """
        contestant, passes = self._contestant(mode)
        run = self._run(contestant)

        def warm() -> None:
            rest()
            contestant.reset()
            run(max(1, passes // 4))

        # A call of `update` is one step, whatever the number of batches.
        batches = self.work.batches if isinstance(self.work, Training | Inference) else 1
        benchmark.group = self.work.label
        benchmark.extra_info.update(work=self.work.name, mode=mode.name, steps=passes * batches)
        benchmark.pedantic(run, args=(passes,), setup=warm)

    def _run(self, contestant: Contestant):
        if isinstance(self.work, Training):
            return contestant.train
        return contestant.predict if isinstance(self.work, Inference) else contestant.update

    def _contestant(self, mode: Mode) -> tuple[Contestant, int]:
        """Return the contestant, made, checked and calibrated at its first turn.

        Of a mode's several forms, it is the one with the fastest pass.
        """
        if mode.name in self._refused:
            pytest.skip(f"{mode.name} computed something else than the rest, see its first turn")
        if mode.name not in self._ready:
            self._refused.add(mode.name)
            forms = []
            for make in filter(None, (mode.make, mode.also.get(type(self.work)))):
                contestant = make(self.work, self.data, self.threads)
                self._check(mode, self._answers(contestant))
                forms.append((self._fastest_pass(contestant), contestant))
            seconds, contestant = min(forms, key=lambda form: form[0])
            self._refused.remove(mode.name)
            self._ready[mode.name] = contestant, max(1, round(self.turn_seconds / seconds))
        return self._ready[mode.name]

    def _answers(self, contestant: Contestant) -> dict[str, np.ndarray]:
        """Compute what all must agree on: first losses and steps, outputs, or update effects."""
        work, start = self.work, self.data.weights[0][0]
        if isinstance(work, Inference):
            return {"outputs": np.array(contestant.predict(1)).reshape(work.batch, -1)}
        answers = {}
        if isinstance(work, Training):
            first = contestant.train(1)
            contestant.reset()
            later = contestant.train(1 + STEPS_TO_AGREE_ON // work.batches)
            answers["losses"] = np.array([first, later])
        else:
            contestant.update(UPDATES_TO_AGREE_ON)
        return answers | {"steps in the first weight": contestant.first_weight() - start}

    def _check(self, mode: Mode, answers: dict[str, np.ndarray]) -> None:
        bounds = UPDATE_AGREEMENT if isinstance(self.work, Update) else AGREEMENT
        for what, got in answers.items():
            expected = self.expected[what]
            error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
            assert error <= bounds[what], (
                f"{mode.name} computes something else on {self.work.label}: its {what} differ by"
                f" {error:.1e}; expected {expected.ravel()[:4]}, got {got.ravel()[:4]}"
            )

    def _fastest_pass(self, contestant: Contestant) -> float:
        """Return the seconds of the fastest of some single passes, three or a turn's worth."""
        run, times = self._run(contestant), []
        rest()
        contestant.reset()
        while len(times) < 3 or sum(times) < self.turn_seconds:
            start = time.perf_counter()
            run(1)
            times.append(time.perf_counter() - start)
        return min(times)
