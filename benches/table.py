"""From timed turns to one table: medians, ratios, and where thalweg is slower."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from .workloads import Update, Work

STEP, FIT = "thalweg", "thalweg.fit"


@dataclass
class Row:
    """One workload; `turns` has seconds per step of every turn, by mode."""

    work: Work
    turns: dict[str, list[float]] = field(default_factory=dict)

    def seconds(self, mode: str) -> float | None:
        return statistics.median(self.turns[mode]) if mode in self.turns else None

    def rival(self, mode: str, whole_epochs: Iterable[str]) -> str:
        """Return the thalweg mode that a peer is compared with: calls per batch, or per epoch."""
        return FIT if mode in whole_epochs and FIT in self.turns else STEP

    def ratio(self, peer: str, own: str) -> float | None:
        """Return the peer's time divided by that of `own`: above 1, thalweg is faster."""
        a, b = self.seconds(peer), self.seconds(own)
        return None if a is None or b is None else a / b

    def best(self, own: str, peers: Iterable[str]) -> float | None:
        ratios = [r for p in peers if (r := self.ratio(p, own)) is not None]
        return min(ratios, default=None)


@dataclass
class Table:
    """All rows, and what must accompany them.

    modes : the columns' names, thalweg's first; whole_epochs : those with many batches per call
    about : what was measured on what, one line each; missing : why columns are missing
    """

    rows: list[Row]
    modes: list[str]
    whole_epochs: set[str]
    about: dict[str, str]
    missing: dict[str, str]

    @property
    def peers(self) -> list[str]:
        return [m for m in self.modes if m not in (STEP, FIT)]

    def headline(self, row: Row) -> dict[str, float | None]:
        """Return best peer / thalweg: a step against calls per batch, fit against every peer."""
        per_call = [p for p in self.peers if row.rival(p, self.whole_epochs) == STEP]
        return {STEP: row.best(STEP, per_call), FIT: row.best(FIT, self.peers)}

    def losses(self) -> list[str]:
        """List where the best peer is faster, worst first."""
        found = []
        for row in self.rows:
            for own, ratio in self.headline(row).items():
                if ratio is not None and ratio < 1:
                    found.append((ratio, f"{row.work.label}, {own}: {ratio:.2f}x"))
        return [text for _, text in sorted(found)]

    def targets(self) -> tuple[int, list[str]]:
        """Return how many steps have a target, and which ones miss it."""
        found = []
        for row in self.rows:
            ratio = self.headline(row)[STEP]
            if row.work.target is not None and ratio is not None:
                found.append((row.work.target, ratio, row.work.label))
        missed = [
            f"{what}: {ratio:.2f}x of {target:g}x"
            for target, ratio, what in found
            if ratio < target
        ]
        return len(found), missed

    def markdown(self) -> str:
        own = [m for m in self.modes if m in (STEP, FIT)]
        head = ["workload", "best peer / step", "best peer / fit", *own, *self.peers]
        body = []
        for row in self.rows:
            headline = self.headline(row)
            cells = [
                row.work.label,
                *(f"{r:.2f}x" if r else "-" for r in (headline[STEP], headline[FIT])),
                *(duration(row.seconds(m)) for m in own),
            ]
            for peer in self.peers:
                ratio = row.ratio(peer, row.rival(peer, self.whole_epochs))
                cells.append(f"{duration(row.seconds(peer))} ({ratio:.2f}x)" if ratio else "-")
            body.append(cells)
        lines = [*grid([head, *body]), ""]
        epochs = ", ".join(p for p in self.peers if p in self.whole_epochs)
        lines += [
            "Times are medians, of one step or one call. In brackets: the peer's time over",
            "thalweg's, so above 1x thalweg is faster. Peers called once per batch are set against",
            "`thalweg`, those called once for many batches"
            f" ({epochs or 'none here'}) against `thalweg.fit`.",
            "`best peer / step` takes the best of the former, `best peer / fit` the best of all.",
            "",
        ]
        for row in self.rows:
            if isinstance(row.work, Update):
                lines.append(f"{row.work.label}: {self._bandwidth(row)}")
        losses = self.losses()
        if losses:
            lines += ["Where thalweg loses, worst first:", "", *(f"- {loss}" for loss in losses)]
        else:
            lines.append("thalweg loses nowhere here.")
        count, missed = self.targets()
        if count:
            kept = f"Targets of a step against the best peer: {count - len(missed)} of {count} met."
            lines += [
                "",
                kept,
                *([] if not missed else ["Missed:", "", *(f"- {m}" for m in missed)]),
            ]
        lines += [
            "",
            *(f"- {key}: {value}" for key, value in {**self.about, **self.missing}.items()),
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict:
        """Return the same for programs, with times in seconds."""
        rows = []
        for row in self.rows:
            rows.append(
                {
                    "name": row.work.name,
                    "label": row.work.label,
                    "source": row.work.source,
                    "parameters": row.work.parameters,
                    "flop": row.work.flop,
                    "median_seconds": {m: row.seconds(m) for m in row.turns},
                    "fastest_seconds": {m: min(t) for m, t in row.turns.items()},
                    "turns": {m: len(t) for m, t in row.turns.items()},
                    "best_peer_over_thalweg": self.headline(row),
                }
            )
        return {"about": self.about, "missing": self.missing, "rows": rows}

    def _bandwidth(self, row: Row) -> str:
        traffic = row.work.parameters * row.work.bytes_per_parameter
        rates = [f"{m} {traffic / row.seconds(m) / 1e9:.1f}" for m in self.modes if m in row.turns]
        return f"{', '.join(rates)} GB/s at {row.work.bytes_per_parameter} B a parameter."


def duration(seconds: float | None) -> str:
    """Format a duration in a suitable unit, with three digits."""
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:  # what rounds to 1000 of the smaller unit, too
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def grid(rows: list[list[str]]) -> list[str]:
    """Format a Markdown table whose columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *rest = (
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    )
    return [first, "|" + "|".join("-" * (w + 2) for w in widths) + "|", *rest]
