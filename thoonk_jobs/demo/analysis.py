"""What a worker of the demo finds out about one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict


class Longest(TypedDict):
    """A function: its name, and its length in lines."""

    name: str
    lines: int


class Finding(TypedDict):
    """What is sent back; trouble says why a file could not be read or parsed."""

    lines: int
    words: int
    longest: Longest | None
    trouble: str | None


def analyse(path: Path) -> Finding:
    """Counts a file's lines and words, and finds its longest function; trouble is told, not raised."""
    found: Finding = {"lines": 0, "words": 0, "longest": None, "trouble": None}
    try:
        source = path.read_bytes()
        found["lines"], found["words"] = len(source.splitlines()), len(source.split())
        found["longest"] = max(functions(ast.parse(source, path.name)), key=lambda one: one["lines"], default=None)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # Python 3.11 has a ValueError for NUL bytes, and nesting too deep is one of the last two.
        found["trouble"] = f"{type(error).__name__}: {error}"
    return found


def functions(tree: ast.Module) -> Iterator[Longest]:
    """Every function with its length; only statements are walked, which is several times quicker than `ast.walk`."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield {"name": node.name, "lines": (node.end_lineno or node.lineno) - node.lineno + 1}
        for part in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, part, None)
            if isinstance(inner, list):  # that of a lambda is an expression
                waiting += inner
