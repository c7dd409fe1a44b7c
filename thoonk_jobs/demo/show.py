"""What the demo puts on the screen: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from thoonk_jobs.demo.checks import Check

PLAIN_STEPS = 4


class Show:
    """Says what happens, and how far it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None
        self._total = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str, style: str = "") -> None:
        """A line, above the bar."""
        self._console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    def expect(self, total: int) -> None:
        """So many results are to come."""
        self._total = total
        if self._bar:
            self._task = self._bar.add_task("results", total=total)

    def arrived(self, number: int) -> None:
        """So many results are here."""
        if self._bar:
            self._bar.update(self._task, completed=number)
        elif number * PLAIN_STEPS // self._total != (number - 1) * PLAIN_STEPS // self._total:
            self.say(f"{number} of {self._total} results")

    def end(self, report: dict[str, Any], checks: list[Check]) -> None:
        """The table of all that was found, and what the checks say."""
        self._console.print(_table(report))
        for check in checks:
            verdict, style = ("ok", "green") if check.passed else ("FAILED", "bold red")
            self.say(f"{verdict}: {check.name}" + ("" if check.passed else f" ({check.found})"), style)


def _table(report: dict[str, Any]) -> Table:
    table = Table(title="thoonk-jobs demo", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    longest = report["longest"]
    named = f"{longest['name']}, {longest['lines']:,} lines\n{longest['file']}" if longest else "none"
    parts = (
        [(f"jobs {state}", f"{number:,}") for state, number in report["jobs"].items()],
        [(name, f"{report[name]:,}") for name in ("files", "lines", "words")],
        [("files that do not parse", f"{report['unparsed']:,}"), ("longest function", named)],
        [(f"files of {worker}", f"{number:,}") for worker, number in report["workers"].items()],
        [("seconds", f"{report['seconds']:.1f}"), ("jobs a second", f"{report['jobs_per_second']:,.0f}")],
    )
    for part in parts:
        for name, value in part:
            table.add_row(name, escape("".join(char if char.isprintable() or char == "\n" else "?" for char in value)))
        table.add_section()
    return table
