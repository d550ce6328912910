"""The peak memory of a process that trains, with thalweg and with PyTorch.

Each in a fresh process; everything is counted, including the interpreter and the batches, as a
user's system counts it. All import the same up to NumPy, so what exceeds that is the library's own.
"""

from __future__ import annotations

import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..workloads import SGD, Data, Training
from .child import fresh
from .report import Options, say, section, verdict

WORKS = {
    "small": Training("sklearn", (64, 100, 10), 200, "MLPClassifier's defaults on its digits"),
    "mnist": Training(
        "mnist400-sgd", (784, 400, 400, 10), 128, "continual learning", optimizer=SGD
    ),
}
SHARE = 0.25
LIBRARIES = ("thalweg", "torch")
PROCESSES, QUICK_PROCESSES = 5, 1
PASSES = 20
TIMED = False  # load from other processes does not matter here


@dataclass(frozen=True)
class Row:
    """One library on one net; bytes, medians over processes.

    numpy : with NumPy and the workload's module imported; imported : with the library, too
    peak : the peak at the end of training; workspace : the trainer's, if it tells
    """

    label: str
    library: str
    numpy: float = 0
    imported: float = 0
    peak: float = 0
    workspace: int | None = None
    missing: str = ""


def measure(options: Options) -> list[Row]:
    rows = []
    for key, work in WORKS.items():
        for library in LIBRARIES:
            say(f"  {work.label}, {library}")
            got = [
                fresh("memory", library=library, key=key, threads=options.threads)
                for _ in range(QUICK_PROCESSES if options.quick else PROCESSES)
            ]
            if missing := got[0].get("missing"):
                rows.append(Row(work.label, library, missing=missing))
                continue
            numpy, imported, peak = (
                statistics.median(one[key] for one in got) for key in ("numpy", "imported", "peak")
            )
            workspace = got[0]["workspace"]
            rows.append(Row(work.label, library, numpy, imported, peak, workspace))
    return rows


def in_child(library: str, key: str, threads: int) -> dict[str, Any]:
    work = WORKS[key]
    numpy = peak_bytes()

    from .. import peers

    loaded = peers.load(library)
    if not loaded.modes:
        return {"missing": loaded.missing}
    imported = peak_bytes()
    contestant: Any = loaded.modes[0].make(work, Data(work), threads)
    contestant.train(PASSES)
    plan = str(contestant.trainer.plan(work.batch)) if library == "thalweg" else ""
    return {
        "numpy": numpy,
        "imported": imported,
        "peak": peak_bytes(),
        "workspace": workspace_bytes(plan),
    }


def peak_bytes() -> int:
    """Return the largest resident set of this process so far.

    On Linux, a process inherits `ru_maxrss` from its parent, so this reads VmHWM, which restarts
    with each program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) << 10
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def workspace_bytes(plan: str) -> int | None:
    """What the last line of a plan tells: the bytes that the trainer keeps for a step."""
    found = re.search(r"^workspace: ([\d ,_]+) bytes", plan, re.MULTILINE)
    return int(re.sub(r"\D", "", found[1])) if found else None


def markdown(rows: list[Row]) -> str:
    def mib(size: float) -> str:
        return f"{size / (1 << 20):.1f} MiB"

    body, misses, judged = [], [], 0
    peaks = {(row.label, row.library): row.peak for row in rows if not row.missing}
    for row in rows:
        if row.missing:
            body.append([row.label, row.library, row.missing, "-", "-", "-", "-"])
            continue
        own, other = peaks[row.label, LIBRARIES[0]], peaks.get((row.label, LIBRARIES[1]))
        workspace = "-" if row.workspace is None else mib(row.workspace)
        body.append(
            [
                row.label,
                row.library,
                mib(row.peak),
                mib(row.peak - row.numpy),
                mib(row.imported - row.numpy),
                workspace,
                f"{row.peak / own:.2f}x",
            ]
        )
        if row.library == LIBRARIES[0] and other is not None:
            judged += 1
            if own > SHARE * other:
                misses.append(f"{row.label}, {mib(own)} against {mib(other)}")
    about = [
        "Peak resident memory of a process that imports one library and trains. `above NumPy`",
        "excludes what was in use after NumPy had been imported; `import alone` is the part taken",
        "by importing the library.",
    ]
    head = ["workload", "library", "peak", "above NumPy", "import alone", "workspace"]
    return section(
        "Memory",
        about,
        [*head, "peak / thalweg's"],
        body,
        verdict(f"at most {SHARE:.2f} of PyTorch's peak", misses, judged),
    )
