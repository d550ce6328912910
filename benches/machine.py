"""What is measured, and where: CPUs and caches, and whether other processes use them."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import time
from pathlib import Path

BUSY = 0.5  # beyond this load from others, threads start to wait for each other

# Idle threads of OpenMP and OpenBLAS spin for a while after their last work, and would take CPUs
# from the next library. A rest lasts until this process uses almost no CPU for a moment.
REST_SECONDS, LONGEST_REST_SECONDS, QUIET = 0.02, 1.0, 0.1

CPUS = Path("/sys/devices/system/cpu")


def rest() -> None:
    """Wait until the threads of the previous library have gone to sleep."""
    deadline = time.perf_counter() + LONGEST_REST_SECONDS
    while time.perf_counter() < deadline:
        start = time.process_time()
        time.sleep(REST_SECONDS)
        if time.process_time() - start < QUIET * REST_SECONDS:
            return


def allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def confine(cpus: list[int]) -> None:
    """Let this process and its children run on these CPUs only, if the system supports that.

    Existing threads are not affected: call it before a library is imported.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_line() -> str:
    return f"{cpu_name()}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}"


# What people set to make a library faster or slower, or to have it use another code path.
TELLING = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "XLA_FLAGS", "LD_PRELOAD", "THALWEG_")


# As this process was started: libraries set some of them when they are imported.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name.startswith(TELLING)}


def environment() -> str:
    """Return the environment variables that may change the speed of a library, without folders."""
    told = [
        f"{name}={' '.join(Path(part).name for part in value.split())}"
        for name, value in sorted(ENVIRONMENT.items())
    ]
    return ", ".join(told) or "no variable that concerns speed is set"


def blas_line() -> str:
    """Return the kind of NumPy's BLAS, and the CPU architecture that OpenBLAS chose, if known."""
    import numpy

    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return str(blas.get("openblas configuration", blas["name"]))
    found = {
        f"{pool['internal_api']} {pool.get('version')}, {pool.get('architecture', '?')}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return "; ".join(sorted(found)) or "unknown"


def commit() -> str:
    """Return the commit of this checkout, with a + if it was modified; a ? if unknown."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "?"


def caches(cpu: int) -> tuple[int, int] | None:
    """Return the sizes in bytes of a core's largest private cache, and of the largest it can use.

    None where the system does not tell.
    """
    private = largest = 0
    for index in CPUS.glob(f"cpu{cpu}/cache/index*"):
        if (index / "type").read_text().strip() == "Instruction":
            continue
        size = int((index / "size").read_text().strip().removesuffix("K")) << 10
        largest = max(largest, size)
        core = (CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        if (index / "shared_cpu_list").read_text() == core:
            private = max(private, size)
    return (private, largest) if private else None


class Others:
    """How many of these CPUs were busy, on average, with other processes, since creation.

    Children count as part of this process once they have ended. The load average would not do: it
    covers a minute, and does not tell whose load it was.
    """

    def __init__(self, cpus: list[int]) -> None:
        self._names = {f"cpu{cpu}" for cpu in cpus}
        self._wall, self._foreign = self._now()

    def used(self) -> float:
        """Return the number of busy CPUs; NaN if the system does not count."""
        wall, foreign = self._now()
        return max(0.0, foreign - self._foreign) / (wall - self._wall)

    def _now(self) -> tuple[float, float]:
        """Return a clock's seconds, and the CPU seconds of these CPUs less our own."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return time.perf_counter(), math.nan
        worked = 0
        for line in stat.read_text(encoding="utf-8").splitlines():
            name, *fields = line.split()
            if name in self._names:
                user, nice, system, _idle, _wait, irq, soft, stolen = map(int, fields[:8])
                worked += user + nice + system + irq + soft + stolen
        own = sum(os.times()[:4])  # with children
        return time.perf_counter(), worked / os.sysconf("SC_CLK_TCK") - own
