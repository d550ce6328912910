"""One measurement in a separate process, started by `fresh`, which runs this module by `python -m`.

The result of a table's `in_child(**arguments)` is passed back as JSON. The module is imported in
the child before any library is, so it can observe those imports.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 300
ROOT = Path(__file__).parents[2]  # `-m` finds this package from there


def fresh(
    table: str, environment: dict[str, str] | None = None, **arguments: Any
) -> dict[str, Any]:
    """Run `in_child(**arguments)` of a table in a new process on the same CPUs.

    environment : what differs from this process's environment
    """
    command = [sys.executable, "-m", __name__, table, json.dumps(arguments)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        timeout=LONGEST_SECONDS,
        check=True,
    )
    # Libraries may print, too; ours is the last line.
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    _, name, text = sys.argv
    module = importlib.import_module(f"benches.properties.{name}")
    print(json.dumps(module.in_child(**json.loads(text))))
