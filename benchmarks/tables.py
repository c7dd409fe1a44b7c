"""A table of figures as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PAYLOAD = "x" * 98
"""100 bytes of JSON."""


class Table(NamedTuple):
    """What one topic found.

    notes  how the figures were taken.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [_line(row, widths) for row in (self.columns, ["-" * width for width in widths], *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, "", *self.notes])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which that part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
