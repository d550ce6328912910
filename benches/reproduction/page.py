"""The page of the manual, made from the figures alone."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from benches.reproduction.protocol import METHODS, SCENARIOS, SEEDS, STEPS

FIELDS = (
    "data", "scenario", "method", "seed", "steps", "accuracy", "forgetting", "seconds", "version",
)  # fmt: skip

HEAD = """# Published figures, and ours

<!-- Made by `make reproduce` from results.csv and published.csv: change those, or
     benches/reproduction/page.py. -->

Split MNIST by the protocol of van de Ven, Tuytelaars & Tolias 2022 ("Three types of incremental
learning", Nature Machine Intelligence 4, Table 2): five tasks of two classes, a network
784-400-400 with ReLU, {steps} steps per task on batches of 128, Adam with rate 0.001. Figures are
the mean accuracy on all tasks at the end, in per cent, ± the standard error over seeds. Our seeds
are {first} to {last}, fixed before the first run; `n` says how many of them have been run so far.

```sh
make reproduce DATA=mnist.npz             # or a directory with MNIST's own four files
make reproduce DATA=download              # fetches those into benches/reproduction/mnist
make reproduce                            # Fashion-MNIST from Debian's dataset-fashion-mnist
make reproduce ARGS="--methods er,lwf --seeds 1-5"
```

A run that is stopped goes on where it was; a figure that is there is not computed again.
"""

TAIL = """
## How to read it

- EWC and SI near 20 % in class-incremental learning are no mistake: penalties on weights keep what
  was known of the old classes, but nothing tells them from the new ones. The published figures say
  the same.
- Without any strategy, task-incremental figures vary by several per cent between seeds; compare
  means with their standard errors.
- λ is 1e5, 1e10, 1e9 for EWC (exact Fisher information, one penalty per task) and c is 10, 5e4, 5e3
  for SI, in task-, domain- and class-incremental learning, as in the authors' code.
- What differs from it: replay draws from all the earlier tasks' samples together, also where the
  authors draw as many of each task; random numbers are others, of course.
"""


def read(path):
    """Rows of a CSV file, none if there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figure(values):
    """Mean and standard error, in per cent."""
    values = 100 * np.asarray(values)
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def table(data, ours, published):
    """One table for a data set."""
    lines = [
        "| method | scenario | published | ours | n | forgetting | seconds per run |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        for kind in SCENARIOS:
            rows = ours.get((data, kind, name), [])
            there = published.get((data, kind, name))
            if not rows and there is None:
                continue
            cells = [method.title, kind, there or "-"]
            if rows:
                cells += [
                    figure([float(row["accuracy"]) for row in rows]),
                    str(len(rows)),
                    figure([float(row["forgetting"]) for row in rows]),
                    f"{np.mean([float(row['seconds']) for row in rows]):.0f}",
                ]
            else:
                cells += ["not run yet", "0", "-", "-"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(directory):
    """Make reproduction.md from the figures in `directory`."""
    directory = Path(directory)
    ours = defaultdict(list)
    for row in read(directory / "results.csv"):
        if int(row["steps"]) == STEPS:  # shorter runs are trials
            ours[row["data"], row["scenario"], row["method"]].append(row)
    published, unchecked = {}, False
    for row in read(directory / "published.csv"):
        mark = "" if row["checked"] == "yes" else " †"
        unchecked |= bool(mark)
        error = f" ± {row['error']}" if row["error"] else ""
        published[row["data"], row["scenario"], row["method"]] = f"{row['mean']}{error}{mark}"
    parts = [HEAD.format(steps=STEPS, first=SEEDS[0], last=SEEDS[-1])]
    for data in sorted({key[0] for key in (*ours, *published)}, reverse=True):
        parts.append(f"\n## Split {data}\n\n{table(data, ours, published)}\n")
        if data == "MNIST" and unchecked:
            parts.append("\n† Noted from memory, not yet compared with the article.\n")
    parts.append(TAIL)
    (directory / "reproduction.md").write_text("".join(parts), encoding="utf-8")
