"""What the tables share: options, progress, and the form of the Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..table import grid


@dataclass(frozen=True)
class Options:
    """Command-line options; `threads` equals the number of CPUs that this process may use."""

    quick: bool
    threads: int


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def section(
    title: str,
    about: Iterable[str],
    head: Sequence[str],
    body: Iterable[Sequence[str]],
    target: str,
) -> str:
    """Return a heading, lines on how to read it, the table, and whether the target is met."""
    lines = [f"## {title}", "", *about, "", *grid([list(head), *map(list, body)]), "", target]
    return "\n".join(lines)


def verdict(target: str, misses: Sequence[str], judged: int) -> str:
    """Return the table's last line.

    target : what is wanted; misses : where it is missed; judged : how many could be judged at all
    """
    if not judged:
        return f"Target: {target}. NOT JUDGED: there is nothing to compare here."
    if not misses:
        return f"Target: {target}. Met, {judged} of {judged}."
    return f"Target: {target}. MISSED, {len(misses)} of {judged}: {'; '.join(misses)}."
