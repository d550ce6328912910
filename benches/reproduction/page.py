"""The page of the manual, made from the figures alone."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from benches.reproduction.protocol import PROTOCOLS, SEEDS

FIELDS = (
    "protocol", "data", "scenario", "method", "seed", "steps",
    "accuracy", "forgetting", "seconds", "version",
)  # fmt: skip

HEAD = """# Published figures, and ours

<!-- Made by `make reproduce` from results.csv and published.csv: change those, or
     benches/reproduction/. -->

Figures are the mean accuracy over all tasks at the end, in per cent, ± the standard error over
seeds. Our seeds are {first} to {last}, fixed before the first run; `n` is the number of them that
have been run so far. The last column is the distance from the published figure, in standard errors
of the difference. Seconds are medians of whole runs on one thread, often while other runs used the
same CPUs.

```sh
make reproduce DATA=mnist.npz             # or a directory with MNIST's own four files
make reproduce DATA=download              # fetches those into benches/reproduction/mnist
make reproduce                            # Fashion-MNIST from Debian's dataset-fashion-mnist
make reproduce ARGS="--protocols split --methods er,lwf --seeds 1-5"
```

A run that was stopped continues where it was; existing figures are not computed again.
"""

#: What was done about a published figure: how it is marked, and what that means.
CHECKED = {
    "yes": ("", ""),
    "copy": (" ‡", "Checked against a copy of the article's table in another repository."),
    "no": (" †", "Noted from memory, not yet checked against the article."),
}

TAIL = """
## How to read it

- EWC and SI near 20 % in class-incremental learning are not a mistake: penalties on weights
  preserve what was known of the old classes, but nothing tells these from the new ones. The
  published figures show the same. `class_all` is also class-incremental learning, with all outputs
  in the softmax from the beginning.
- {uncertain}
- Without any strategy, task-incremental figures vary by several per cent between seeds; compare
  means, with their standard errors.
"""


def uncertain(n):
    """How far to trust a standard error from n seeds, the least behind any figure."""
    if n < 2:
        return "A single seed has no standard error."
    share = 100 / np.sqrt(2 * (n - 1))  # of normally distributed figures
    return (
        f"A standard error from {n} seeds is itself uncertain by about {share:.0f} %, and so are\n"
        "  distances in units of it."
    )


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


def distance(ours, published):
    """How many standard errors of the difference lie between two means, if both have some."""
    if len(ours) < 2 or not published["error"]:
        return "-"
    ours = 100 * np.asarray(ours)
    error = np.hypot(ours.std(ddof=1) / np.sqrt(len(ours)), float(published["error"]))
    return f"{(ours.mean() - float(published['mean'])) / error:+.1f}" if error > 0 else "-"


def table(name, data, ours, published):
    """One table: a protocol on a data set."""
    lines = [
        "| method | scenario | published | ours | n | forgetting | seconds | distance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    protocol = PROTOCOLS[name]
    for method, (title, *_) in protocol.methods.items():
        for kind in protocol.kinds:
            key = (name, data, kind, method)
            there, rows = published.get(key), ours.get(key)
            if not rows:
                continue
            accuracy = [float(row["accuracy"]) for row in rows]
            said = "-"
            if there:
                error = f" ± {there['error']}" if there["error"] else ""
                said = f"{there['mean']}{error}{CHECKED[there['checked']][0]}"
            forgetting = figure([float(row["forgetting"]) for row in rows])
            seconds = f"{np.median([float(row['seconds']) for row in rows]):.0f}"
            cells = title, kind, said, figure(accuracy), str(len(rows)), forgetting, seconds
            lines.append(f"| {' | '.join(cells)} | {distance(accuracy, there) if there else '-'} |")
    return "\n".join(lines)


def write(directory):
    """Make reproduction.md from the figures in `directory`."""
    directory = Path(directory)
    ours = defaultdict(list)
    for row in read(directory / "results.csv"):
        if not row["steps"] and int(row["seed"]) in SEEDS:  # others are trials
            ours[row["protocol"], row["data"], row["scenario"], row["method"]].append(row)
    published = {
        (row["protocol"], row["data"], row["scenario"], row["method"]): row
        for row in read(directory / "published.csv")
    }
    parts = [HEAD.format(first=SEEDS[0], last=SEEDS[-1])]
    for name, protocol in PROTOCOLS.items():
        data = sorted({key[1] for key in ours if key[0] == name}, reverse=True)
        parts.append(f"\n## {protocol.title}\n\n{protocol.text}\n")
        parts += [f"\n### {each}\n\n{table(name, each, ours, published)}\n" for each in data]
        if not data:
            parts.append("\nNot run yet.\n")
        if protocol.remarks:
            parts.append(f"\n{protocol.remarks}\n")
    for name, (mark, meaning) in CHECKED.items():
        if mark and any(row["checked"] == name for row in published.values()):
            parts.append(f"\n{mark.strip()} {meaning}\n")
    parts.append(TAIL.format(uncertain=uncertain(min(map(len, ours.values()), default=0))))
    (directory / "reproduction.md").write_text("".join(parts), encoding="utf-8")
