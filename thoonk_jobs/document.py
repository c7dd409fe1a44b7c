"""Writes what statemachine.md takes from the code, between its markers. Run as a module it rewrites the file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from thoonk_jobs import keys, limits, machine, record, settings
from thoonk_jobs.machine import TRANSITIONS, Outcome, State, Transition
from thoonk_jobs.scripts import SCRIPTS, Script

_MARKED = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CLAIMANT = "finish, fail, cancel, stall, renew, report"
_OPERATOR = "stall, retry, rerun, retract"
REFUSALS = (
    ("absent", "no job has this id, or an operator asks for one whose data is no longer kept",
     f"{_CLAIMANT}, {_OPERATOR}", "JobNotFound"),
    ("stale", "the token is not the job's: the claim was lost", _CLAIMANT, "StaleClaim"),
    ("refused", "the table has no such row from the job's state", f"{_CLAIMANT}, {_OPERATOR}", "TransitionRefused"),
    ("exists", "the id is taken by a job with another digest", "publish", "JobExists"),
    ("not-unique", "a live job has the unique name; the detail is its id", "publish, rerun", "NotUnique"),
    ("full", "a limit that rejects is reached; the detail is the key (nothing: the queue), NUL, the number, NUL, which",
     "publish", "LimitReached"),
    ("blocked", "the key is blocked; the detail is the key, NUL, ms left, NUL, the reason", "publish", "KeyBlocked"),
    ("too-large", "the data is over max_payload; the detail is that number of bytes", "publish", "PayloadError"),
)  # fmt: skip


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def mermaid() -> str:
    """The picture of the table; rows that lead the same way share an arrow."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for row in TRANSITIONS:
        for source in row.sources:
            arrows.setdefault((source, row.target), []).append(row.name)
    lines = [f"    {source} --> {target}: {', '.join(names)}" for (source, target), names in arrows.items()]
    return "\n".join(("stateDiagram-v2", "    [*] --> absent", *lines)) + "\n"


def _picture() -> str:
    return f"```mermaid\n{mermaid()}```\n"


def _states() -> str:
    rows = ((number, f"**{state}**", machine.MEANINGS[state]) for number, state in enumerate(State))
    return _table(("number", "state", "meaning"), rows)


def _outcomes() -> str:
    return _table(("number", "outcome"), ((number, outcome) for number, outcome in enumerate(Outcome, 1)))


def _carriers(row: Transition) -> str:
    return ", ".join(script.name for script in SCRIPTS.values() if row in script.rows)


def _rows() -> str:
    head = ("code", "row", "from", "to", "who", "event", "scripts", "meaning")
    rows = (
        (row.code, f"**{row.name}**", ", ".join(row.sources), _target(row), row.who, ", ".join(row.events),
         _carriers(row), row.meaning)
        for row in TRANSITIONS
    )  # fmt: skip
    return _table(head, rows)


def _target(row: Transition) -> str:
    return f"{row.target} ({row.outcome})" if row.outcome else str(row.target)


def _script(script: Script) -> str:
    rows = ", ".join(row.name for row in script.rows) or "none; changes no state"
    lines = (f"**{script.name}**  ", f"rows: {rows}  ", f"arguments: `{script.args}`  ", f"reply: `{script.replies}`  ")
    return "\n".join(lines) + "\n"


def _scripts() -> str:
    return "\n".join(_script(script) for script in SCRIPTS.values())


def _keys() -> str:
    return _table(("key", "type", "holds"), ((f"`{name}`", kind, meaning) for name, kind, meaning in keys.LAYOUT))


def _record() -> str:
    kinds = {"B": "1 byte", "H": "2 bytes", "f": "float, 4 bytes", "d": "float, 8 bytes", "8": "8 bytes"}
    parts = [(name, kinds[kind], meaning) for name, kind, meaning in record.HEAD]
    parts += [(name, "text, then NUL", meaning) for name, meaning in record.TEXTS]
    parts += [(name, kinds[kind], meaning) for name, kind, meaning in record.RUN]
    return _table(("field", "stored as", "meaning"), parts)


def _spec() -> str:
    kinds = {"B": "1 byte", "d": "float, 8 bytes"}
    parts = [(name, kinds[kind], meaning) for name, kind, meaning in record.SPEC]
    parts += [(name, "text, then NUL", "as in the record") for name in record.SPEC_TEXTS]
    return _table(("field", "stored as", "meaning"), parts)


def _limit() -> str:
    return _table(("number", "meaning"), limits.NUMBERS)


def _refusals() -> str:
    return _table(("why", "when", "answered by", "error in Python"), REFUSALS)


def _settings() -> str:
    usual = ((f"`{name}`", "" if value is None else value) for name, value in settings.DEFAULTS.items())
    return _table(("setting", "usual value"), usual)


def _layout() -> str:
    return f"The version of the layout is {keys.LAYOUT_VERSION}.\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "states": _states, "outcomes": _outcomes, "picture": _picture, "rows": _rows, "scripts": _scripts, "keys": _keys,
    "record": _record, "spec": _spec, "limit": _limit, "refusals": _refusals, "settings": _settings, "layout": _layout,
}  # fmt: skip


def renewed(text: str) -> str:
    """The text with every marked block made anew."""
    return _MARKED.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}{found[3]}", text)


def write_scripts(folder: str) -> None:
    """Writes each script as the server is given it: what a client in another language loads."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for script in SCRIPTS.values():
        (Path(folder) / f"{script.name}.lua").write_text(script.source, encoding="utf-8")


def main(*words: str) -> None:
    """Rewrites statemachine.md; with `scripts FOLDER` writes the scripts there instead."""
    if words[:1] == ("scripts",):
        write_scripts(*words[1:])
        return
    file = Path(*words or ("statemachine.md",))
    file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
