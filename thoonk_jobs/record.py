"""How a job's record is packed: one layout, from which both the Lua scripts and Python read and write it.

A record is a fixed head, some texts that end with NUL, and, once the job was claimed, a second fixed part. A job that
waits is the one there are millions of: everything it does not need yet is in the second part or an empty text.
"""

from __future__ import annotations

import math
from collections import namedtuple
from dataclasses import dataclass
from struct import Struct
from typing import Any

from thoonk_jobs.machine import LIVE, SLOTTED, State

# name, format in Lua and in Python, meaning
HEAD = (
    ("ran", "B", "1 once the job was claimed: the second part follows the texts"),
    ("state", "B", "number of the state"),
    ("via", "B", "number of the last row that somebody asked for"),
    ("dated", "B", "1: until is wall-clock time (run_at); 0: elapsed time"),
    ("held", "B", "waiting only: 1 held by the queue's limit, 2 by the key's"),
    ("watched", "B", "1: processes besides home wait for the end (key watchers)"),
    ("reported", "B", "1: has progress, log lines or emitted events (key reports)"),
    ("unheard", "B", "1: finished, and a process still waits for it"),
    ("bare", "B", "1: finished, data dropped; only answers repeated requests"),
    ("passing", "B", "1: the unique name is given up at the claim, 0: at the end"),
    ("priority", "d", "higher first; +inf is the front"),
    ("order", "d", "place within the priority, lower first"),
    ("until", "d", "ms: due (scheduled), end of lease (claimed), end of keep (finished), since when (stalled)"),
    ("published_at", "d", "ms, wall clock"),
    ("digest", "8", "8 bytes over the canonical data"),
    ("keep", "f", "seconds the finished job stays readable; +inf for ever"),
    ("max_attempts", "H", "failures allowed; 0 without bound"),
)
TEXTS = (
    ("expires", "ms, elapsed clock, as digits: not done by then, it lapses; empty for never"),
    ("key", "what limits count by"),
    ("unique", "the unique name it holds"),
    ("home", "process that hears of the end, the stalls and the progress"),
    ("backoff", "seconds before each further attempt: numbers with commas"),
    ("worker", "claimant: process@host:pid"),
    ("reason", "why it was stalled, cancelled, retracted ..."),
    ("request", "16 digits that name the last replacement, retry or rerun, to know it when it is repeated"),
)
RUN = (
    ("outcome", "B", "number of the outcome; 0 while there is none"),
    ("token", "d", "fencing token of the last claim"),
    ("claimed_at", "d", "ms, wall clock"),
    ("finished_at", "d", "ms, wall clock"),
    ("claims", "H", "how often it was claimed"),
    ("failures", "H", "failed attempts since the last retry or rerun"),
    ("cancels", "H", "cancels since the last retry or rerun"),
    ("lost", "H", "claims lost since the last retry or rerun"),
    ("total_failures", "H", "failed attempts in all"),
    ("total_cancels", "H", "cancels in all"),
    ("ended", "d", "fencing token of the last claim that ended"),
    ("ended_by", "B", "number of the row by which it ended"),
)  # counts stop at 65535
COUNT_LIMIT = 65_535


# What the publisher asks for one job, packed once for all jobs that share it. NaN: the queue's setting decides.
SPEC = (
    ("priority", "d", "NaN: the queue's"),
    ("delay", "d", "ms; -1 for none"),
    ("run_at", "d", "ms since the epoch; -1 for none"),
    ("expires_in", "d", "ms; +inf for never; NaN: the queue's"),
    ("keep", "d", "seconds; NaN: the queue's"),
    ("max_attempts", "d", "0 without bound; NaN: the queue's"),
    ("passing", "B", "1: the unique name is given up at the claim"),
    ("conflict", "B", "a unique name that is taken: 0 refuse, 1 answer the holder, 2 replace its data"),
)
SPEC_TEXTS = ("key", "unique", "home", "backoff")
NO_BACKOFF = "-"

FIELDS = tuple(name for name, *_ in (*HEAD, *TEXTS, *RUN))
_named: Any = namedtuple
Record = _named("Record", FIELDS)

_PYTHON = {"8": "8s"}
_LUA = {"8": "c8"}
_HEAD = Struct(">" + "".join(_PYTHON.get(kind, kind) for _, kind, _ in HEAD))
_RUN = Struct(">" + "".join(_PYTHON.get(kind, kind) for _, kind, _ in RUN))
_SPEC = Struct(">" + "".join(kind for _, kind, _ in SPEC))
_NOT_RUN = (0,) * len(RUN)
_SHORT = ">" + "".join(_LUA.get(kind, kind) for _, kind, _ in HEAD) + "s" * len(TEXTS)
_FULL = _SHORT + "".join(_LUA.get(kind, kind) for _, kind, _ in RUN)

BLANK = bytes(_HEAD.size + len(TEXTS))
"""The record of a job that there is not."""


def unpack(raw: bytes) -> Any:
    """The fields of a packed record; texts as bytes."""
    *texts, run = raw[_HEAD.size :].split(b"\0", len(TEXTS))
    return Record(*_HEAD.unpack_from(raw), *texts, *(_RUN.unpack(run) if run else _NOT_RUN))


@dataclass(frozen=True, slots=True)
class Spec:
    """What a publisher asks for a job; None leaves it to the queue's settings."""

    priority: float | None = None
    delay: float | None = None
    run_at: float | None = None
    expires_in: float | None = None
    keep: float | None = None
    max_attempts: float | None = None
    passing: bool = False
    conflict: int = 0
    key: str = ""
    unique: str = ""
    home: str = ""
    backoff: str = ""

    def pack(self) -> bytes:
        """The bytes the publish script reads; see `SPEC`."""

        def number(value: float | None, absent: float, scale: float = 1.0) -> float:
            return absent if value is None else value * scale

        head = _SPEC.pack(
            number(self.priority, math.nan), number(self.delay, -1, 1000), number(self.run_at, -1, 1000),
            number(self.expires_in, math.nan, 1000), number(self.keep, math.nan), number(self.max_attempts, math.nan),
            self.passing, self.conflict,
        )  # fmt: skip
        return head + b"".join(text.encode() + b"\0" for text in (self.key, self.unique, self.home, self.backoff))


def constants() -> dict[str, str]:
    """What the names in capitals of the Lua files stand for: a field's place, a state's number, the formats."""

    def members(states: tuple[State, ...]) -> str:
        return "{" + ", ".join(f"[{list(State).index(state)}]=true" for state in states) + "}"

    return {
        **{name.upper(): str(place) for place, name in enumerate(FIELDS, 1)},
        **{state.name: str(number) for number, state in enumerate(State)},
        "LIVE_STATES": members(LIVE),
        "SLOTTED_STATES": members(SLOTTED),
        "SHORT_FORMAT": f"'{_SHORT}'",
        "FULL_FORMAT": f"'{_FULL}'",
        "SPEC_FORMAT": f"'>{''.join(kind for _, kind, _ in SPEC)}{'s' * len(SPEC_TEXTS)}'",
        "NOT_RUN_SIZE": str(_RUN.size),
        "BLANK_SIZE": str(_HEAD.size + len(TEXTS) + _RUN.size),
        "COUNT_LIMIT": str(COUNT_LIMIT),
    }
