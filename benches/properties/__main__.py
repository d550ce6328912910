"""The command line: which tables, on how many CPUs, and where the output goes."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from .. import machine
from . import TABLES


def main() -> None:
    arguments = _arguments()
    cpus = machine.allowed_cpus()
    threads = arguments.threads or len(cpus)
    if not 1 <= threads <= len(cpus):
        raise SystemExit(f"--threads must be from 1 to {len(cpus)}; got {threads}")
    cpus = cpus[:threads]
    # Before NumPy is imported here or in a child: its BLAS reads only these variables, once.
    machine.confine(cpus)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)

    from .report import Options, say

    options = Options(arguments.quick, threads)
    parts, raw = [_about(threads, arguments.quick)], {}
    for name in arguments.names or TABLES:
        say(f"{name} ...")
        table = importlib.import_module(f".{name}", __package__)
        watch = machine.Others(cpus)
        rows = table.measure(options)
        others = watch.used()
        text = table.markdown(rows)
        if others > machine.BUSY and getattr(table, "TIMED", True):
            text += (
                f"\n\nTHE MACHINE WAS BUSY: others used {others:.1f} of {threads} CPUs meanwhile;"
                " do not rely on this table."
            )
        raw[name] = {"used_by_others": others, "rows": [dataclasses.asdict(row) for row in rows]}
        parts.append(text)
        # Each table as soon as it is done; the last ones may take a while.
        print(parts[-1] if len(parts) > 2 else "\n\n".join(parts), end="\n\n", flush=True)
    if arguments.table:
        Path(f"{arguments.table}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        text = json.dumps({"about": parts[0].splitlines(), **raw}, indent=1)
        Path(f"{arguments.table}.json").write_text(text + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benches.properties", description="Properties of thalweg, a table each."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"tables [all]: {', '.join(TABLES)}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes, rounds and repetitions")
    parser.add_argument("--threads", type=int, metavar="N", help="threads [all CPUs allowed]")
    parser.add_argument("--table", metavar="PATH", help="also write PATH.md and PATH.json")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in TABLES]:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(TABLES)}")
    return arguments


def _about(threads: int, quick: bool) -> str:
    import numpy

    import thalweg

    config = thalweg.show_config("dicts")
    assert config is not None
    lines = [
        f"- CPU: {machine.cpu_line()}",
        f"- ISA: {config['isa']} (thalweg's choice of {', '.join(config['isas_available'])})",
        f"- Threads: {threads}, unless a table says otherwise",
        f"- BLAS: {machine.blas_line()}",
        f"- Environment: {machine.environment()}",
        f"- Commit: {machine.commit()}",
        f"- Versions: thalweg {thalweg.__version__}, NumPy {numpy.__version__},"
        f" Python {platform.python_version()}",
        f"- Date: {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}",
    ]
    if quick:
        lines.append("- QUICK: few and short measurements, to see that it works; not to be quoted")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
