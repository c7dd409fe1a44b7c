"""Puts each Lua script together: the keys, the record's layout, its own rows of the table, the shared parts, its body.

A body says in its first lines which rows it follows, as `-- finish: claimed -> finished`, and `-- with:` which shared
parts it needs; a row that is not in the table as it stands there stops the program on import.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from thoonk_jobs import limits, record, timing
from thoonk_jobs.keys import LAYOUT
from thoonk_jobs.machine import CODES, ROWS, Outcome, State, Transition

# Names in capitals become numbers before the server sees them: each local that a function refers to costs every call.
_CONSTANTS = record.constants() | limits.constants() | timing.constants()
_CONSTANT = re.compile(rf"\b({'|'.join(_CONSTANTS)})\b")
# A top-level function of a shared part, with the comment above it.
_FUNCTION = re.compile(
    r"(?:^--.*\n)*^(?:local )?function ([\w.]+)\((?:.* end\n|.*\n(?:(?!end\n).*\n)*?end\n)\n?", re.MULTILINE
)
_TABLE = "local T = {\n"
_NAME = re.compile(r"[\w.]+")
_KEY = re.compile(r"\bK\.(\w+)")
_PLACES = {name: place for place, (name, *_) in enumerate(LAYOUT, 1)}
_ALWAYS = ("lib", "places", "move", "commit", "waiting")
SHARED = (*_ALWAYS, "limits", "lines", "adjusting", "blocking", "watching", "retention", "due")
_ROW = re.compile(r"-- (\w+): ([\w, ]+) -> (\w+)")
_HEADER = re.compile(r"-- (with|flags|args|replies): (.*)")
_MORE = re.compile(r"-- (.*)")


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server runs it; `sha` is its name and its version."""

    name: str
    rows: tuple[Transition, ...]
    args: str
    replies: str
    source: str
    sha: str


def _lua_row(row: Transition) -> str:
    number = list(State).index
    sources = ", ".join(f"[{number(source)}] = true" for source in row.sources)
    outcome = list(Outcome).index(row.outcome) + 1 if row.outcome else 0
    silent = str(row.silent).lower()
    return (
        f"  {row.name} = {{{sources}, to = {number(row.target)}, code = {CODES[row.name]}, "
        f"silent = {silent}, outcome = {outcome}}},"
    )


def _parse_row(name: str, sources: str, target: str, where: str) -> Transition:
    row = ROWS.get(name)
    if row is None or sources != ", ".join(row.sources) or target != row.target:
        raise RuntimeError(f"{where} says {name}: {sources} -> {target}, which is not a row of the table")
    return row


def _read(name: str) -> str:
    return (resources.files("thoonk_jobs") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _numbered(code: str) -> str:
    """The code with numbers for the names of keys and constants."""
    code = _KEY.sub(lambda found: f"KEYS[{_PLACES[found[1]]}]", code)
    return _CONSTANT.sub(lambda found: _CONSTANTS[found[1]], code)


@cache
def _functions(shared: str) -> tuple[dict[str, str], dict[str, frozenset[str]], str]:
    """The functions, the names in each, and what is outside of all."""
    code = {found[1]: found[0] for found in _FUNCTION.finditer(shared)}
    return code, {name: frozenset(_NAME.findall(text)) for name, text in code.items()}, _FUNCTION.sub("", shared)


def _joined(shared: str, body: str) -> str:
    """The shared parts for this body, arranged so that a call of the script costs little.

    What it does not need is left out. The functions of T become fields of its constructor, which makes the table as
    large as it is to be: it would be made anew each time that it doubles.
    """
    code, named, rest = _functions(shared)
    needed: set[str] = set()
    wanted = set(_NAME.findall(body + rest))
    while found := (wanted & named.keys()) - needed:
        needed |= found
        wanted.update(*(named[name] for name in found))
    local = [text for name, text in code.items() if name in needed and not name.startswith("T.")]
    fields = [
        text.replace(f"function {name}(", f"{name[2:]} = function(", 1).rstrip() + ",\n"
        for name, text in code.items()
        if name in needed and name.startswith("T.")
    ]
    return rest.replace(_TABLE, "".join(("local T\n", *local, "T = {\n", *fields)), 1)


def _compose(name: str) -> Script:
    body, rows, last = _read(name), [], ""
    header = {"with": "", "flags": "", "args": "none", "replies": ""}
    for line in body.splitlines():
        if found := _HEADER.fullmatch(line):
            last = found[1]
            header[last] = found[2]
        elif found := _ROW.fullmatch(line):
            rows.append(_parse_row(found[1], found[2], found[3], f"{name}.lua"))
        elif found := _MORE.fullmatch(line):
            header[last] += " " + found[1]
        else:
            break
    shared = (*_ALWAYS, *(part for part in SHARED if part in header["with"].split(", ")))
    reads = "no-writes" in header["flags"]
    end = "return T.reply(answer())" if reads else "return T.close(answer())"
    parts = _joined("\n".join(map(_read, shared)), body + end)
    source = "\n".join((
        f"#!lua flags={header['flags']}" if header["flags"] else "#!lua",
        "local EDGES = {",
        *map(_lua_row, rows),
        "}",
        _numbered(parts.replace("WRITES", str(not reads).lower())),
        "local function answer()",
        _numbered(body),
        "end",
        end,
    ))  # fmt: skip
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, tuple(rows), header["args"], header["replies"], source, sha)


def _load() -> dict[str, Script]:
    folder = resources.files("thoonk_jobs") / "lua"
    names = sorted(file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    return {name: _compose(name) for name in names if name not in SHARED}


SCRIPTS = _load()
