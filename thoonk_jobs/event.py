"""What subscribers hear: one move or report of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from thoonk_jobs import arguments, codec, keys
from thoonk_jobs.errors import InvalidArgument, PayloadError
from thoonk_jobs.machine import ROWS, EventName

ENTRY_WIDTH = 6
"""Values of an entry of the log, as it is read."""


@dataclass(frozen=True, slots=True)
class Event:
    """A move of a job, a progress report, or what a claimant emitted.

    seq   its number in the queue: contiguous, in the order in which things happened. A move that is heard under two
          names (TASK_DONE and TASK_ERROR) has one.
    at    when, by the server's clock, UTC.
    data  of a move {"row", "by", "reason"}: the row of the state machine, the process that asked, why (or None). Of
          TASK_PROGRESS {"value", "total", "message"}. Of an emitted event what was emitted.
    """

    name: str
    job_id: str
    queue: str
    seq: int
    at: datetime
    data: Any


def chosen(names: Sequence[Any]) -> frozenset[str]:
    """The names to hear; none stands for all. Raises InvalidArgument for one that cannot be heard."""
    for name in names:
        arguments.text(name, "event")
        if name.startswith("TASK_") and name not in list(EventName):
            raise InvalidArgument(f"event={name!r} is not known; give one of {', '.join(EventName)}, or an emitted one")
    return frozenset(map(str, names))


def of_entry(queue: str, entry: Sequence[Any]) -> Iterator[list[Event]]:
    """The events of each number of an entry of the log, in order."""
    first, row, at, by, ids, reasons = entry
    moment = datetime.fromtimestamp(float(at) / 1000, UTC)
    told = list(_frames(reasons, 4)) if reasons else []
    for place, id in enumerate(_frames(ids, 2)):
        named = _named(row.decode(), by.decode(), told[place] if told else b"")
        yield [Event(name, id.decode(), queue, first + place, moment, data) for name, data in named]


def _named(row: str, by: str, reason: bytes) -> list[tuple[str, Any]]:
    if row in ROWS:
        data = {"row": row, "by": by, "reason": keys.unescape(reason.decode()) or None}
        return [(name, data) for name in ROWS[row].events]
    try:
        if row == "progress":
            value, total, message, _ = codec.decode(reason)
            return [(EventName.TASK_PROGRESS, {"value": value, "total": total, "message": message})]
        name, data = codec.decode(reason)
        return [(str(name), data)]
    except (PayloadError, TypeError, ValueError):  # written by another client, and nobody can read it
        return []


def _frames(raw: bytes, width: int) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = at + width + int.from_bytes(raw[at : at + width], "big")
        yield raw[at + width : end]
        at = end
