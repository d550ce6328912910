"""How the benchmarks are timed and reported: options, the order of turns, and the final table.

pytest-benchmark times one function after another. On a shared or throttling machine, that compares
the first minute with the tenth. Every test here is therefore one short turn of one library
(`benchmark.pedantic`, one round), and tests are ordered in rounds that alternate between the
libraries, each round starting with the next one. The table takes the median over rounds, so that
drift affects all alike. pytest-benchmark's own listing would have a line per turn and is omitted;
`--benchmark-json` still writes all of it.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import pytest

from . import machine

# The peers' modules import their libraries; they contain no doctests or tests to collect.
collect_ignore = ["peers", "properties"]

ROUNDS, HEAVY_ROUNDS, QUICK_ROUNDS = 15, 7, 5
TURN_SECONDS, QUICK_TURN_SECONDS = 0.05, 0.02

TABLE = pytest.StashKey()
LIBRARIES = pytest.StashKey()
STARTED = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("thalweg")
    group.addoption("--workloads", metavar="NAMES", help="only these, comma-separated")
    group.addoption(
        "--threads", type=int, metavar="N", help="threads of every library [all CPUs allowed]"
    )
    group.addoption("--quick", action="store_true", help="small workloads, few and short turns")
    group.addoption("--table", metavar="PATH", help="also write PATH.md and PATH.json")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "work(*workloads): what a benchmark is run on")
    # A peer's own warnings are not failures.
    config.addinivalue_line("filterwarnings", "default")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Before any library is imported, so that all see the same CPUs, including JAX and BLAS, which
    # cannot be configured otherwise.
    allowed = machine.allowed_cpus()
    threads = config.getoption("threads") or len(allowed)
    if not 1 <= threads <= len(allowed):
        raise pytest.UsageError(f"--threads must be from 1 to {len(allowed)}; got {threads}")
    machine.confine(allowed[:threads])
    config.option.threads = threads
    _check_workloads(config.getoption("workloads"))
    if not _libraries(config)[0].modes:
        raise pytest.UsageError("thalweg itself is not installed in this environment")
    config.stash[STARTED] = machine.Others(allowed[:threads])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per workload, round and mode, in this order, rotating modes by round."""
    marker = metafunc.definition.get_closest_marker("work")
    if marker is None:
        return
    config = metafunc.config
    turns, names = [], []
    for work in _selected(config, marker.args):
        modes = [m for lib in _libraries(config) for m in lib.modes if m.supports(work)]
        for turn in range(_rounds(config, work)):
            shift = turn % len(modes)
            for mode in modes[shift:] + modes[:shift]:
                turns.append((work, mode))
                names.append(f"{work.name}-{turn}-{mode.name}")
    metafunc.parametrize(("work", "mode"), turns, ids=names)


@pytest.fixture(scope="session")
def field_of(pytestconfig):
    """Return `field_of(work)`, which gives a workload's contestants and frees the previous ones."""
    from .field import Field

    fields: dict[str, Field] = {}
    seconds = QUICK_TURN_SECONDS if pytestconfig.getoption("quick") else TURN_SECONDS
    thalweg = next(lib for lib in _libraries(pytestconfig) if lib.name == "thalweg")

    def field_of(work):
        if work.name not in fields:
            fields.clear()
            threads = pytestconfig.getoption("threads")
            fields[work.name] = Field(work, thalweg.modes[0], threads, seconds)
        return fields[work.name]

    return field_of


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_group_stats(config: pytest.Config, benchmarks: list[dict]) -> list:
    """Make the table when all turns are done, and leave pytest-benchmark nothing to list."""
    from .table import Row, Table
    from .workloads import INFERENCE, TRAINING, UPDATE

    rows = {work.name: Row(work) for work in TRAINING + INFERENCE + UPDATE}
    for turn in benchmarks:
        info = turn["extra_info"]
        seconds = turn["mean"] / info["steps"]
        rows[info["work"]].turns.setdefault(info["mode"], []).append(seconds)
    ran = [row for row in rows.values() if row.turns]
    modes = [m for lib in _libraries(config) for m in lib.modes]
    present = [m for m in modes if any(m.name in row.turns for row in ran)]
    table = config.stash[TABLE] = Table(
        ran,
        [m.name for m in present],
        {m.name for m in present if m.whole_epochs},
        _about(config),
        {lib.name: lib.missing for lib in _libraries(config) if lib.missing},
    )
    if path := config.getoption("table"):
        Path(f"{path}.md").write_text(table.markdown() + "\n", encoding="utf-8")
        Path(f"{path}.json").write_text(
            json.dumps(table.as_dict(), indent=1) + "\n", encoding="utf-8"
        )
    return []


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if TABLE in config.stash:
        terminalreporter.section("thalweg beside its peers")
        terminalreporter.write_line(config.stash[TABLE].markdown())


def _check_workloads(wanted: str | None) -> None:
    from .workloads import INFERENCE, TRAINING, UPDATE

    known = [work.name for work in TRAINING + INFERENCE + UPDATE]
    if unknown := [name for name in (wanted or "").split(",") if name and name not in known]:
        raise pytest.UsageError(
            f"--workloads: unknown: {', '.join(unknown)}; known are {', '.join(known)}"
        )


def _selected(config: pytest.Config, works: tuple) -> list:
    from .workloads import QUICK_MOST_FLOP

    if wanted := config.getoption("workloads"):
        return [work for work in works if work.name in wanted.split(",")]
    quick = config.getoption("quick")
    return [work for work in works if not quick or work.flop <= QUICK_MOST_FLOP]


def _rounds(config: pytest.Config, work) -> int:
    from .workloads import QUICK_MOST_FLOP

    if config.getoption("quick"):
        return QUICK_ROUNDS
    return HEAVY_ROUNDS if work.flop > QUICK_MOST_FLOP else ROUNDS


def _libraries(config: pytest.Config) -> list:
    from . import peers

    if LIBRARIES not in config.stash:
        config.stash[LIBRARIES] = [peers.load(name) for name in peers.LIBRARIES]
    return config.stash[LIBRARIES]


def _about(config: pytest.Config) -> dict[str, str]:
    import numpy

    import thalweg

    own = thalweg.show_config("dicts")
    versions = [f"{lib.name} {lib.version}" for lib in _libraries(config) if lib.modes]
    return {
        "CPU": machine.cpu_line(),
        "ISA": f"{own['isa']} (thalweg's choice of {', '.join(own['isas_available'])})",
        "Threads": f"{config.getoption('threads')} for every library",
        "Load": _told(config.stash[STARTED].used(), config.getoption("threads")),
        "BLAS": machine.blas_line(),
        "Environment": machine.environment(),
        "Commit": machine.commit(),
        "Versions": f"{', '.join(versions)}, NumPy {numpy.__version__},"
        f" Python {platform.python_version()}",
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _told(others: float, threads: int) -> str:
    told = f"others used {others:.2f} of {threads} CPUs meanwhile"
    if others > machine.BUSY:
        told += "; THE MACHINE WAS BUSY, do not rely on these ratios"
    return told
