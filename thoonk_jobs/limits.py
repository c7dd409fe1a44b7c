"""Limits of a queue and of the keys of its jobs: how they are asked for, packed and shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from struct import Struct
from typing import Any, Final, Literal

from thoonk_jobs import arguments, keys
from thoonk_jobs.errors import InvalidArgument

# name, meaning; each a float of 8 bytes, NaN where it is not set
NUMBERS = (
    ("running", "jobs of which each is available or claimed; +inf without bound"),
    ("pending", "jobs that are neither finished nor stalled; +inf without bound"),
    ("rejects", "1: publish is refused while running is reached; 0: the job waits"),
    ("failures", "failed attempts that block the key; +inf: none do"),
    ("window", "ms within which these failures count"),
    ("block", "ms for which the key is blocked then"),
)
_PACKED = Struct(">" + "d" * len(NUMBERS))
_LOGGED = Struct(">ddH")
MOST_FAILURES = 1000
WHEN_FULL = ("wait", "reject")


class EachKey(Enum):
    """The type of `EACH_KEY`."""

    EACH_KEY = "each key"

    def __repr__(self) -> str:
        return self.name


EACH_KEY: Final = EachKey.EACH_KEY
"""Stands for every key that has no limit of its own."""
Limited = str | Literal[EachKey.EACH_KEY] | None


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "..."


UNCHANGED: Final = Unchanged.UNCHANGED
"""An argument that was left out: what is set stays."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What holds for a queue or a key. `inf`: no bound.

    running      jobs claimed at once.
    pending      jobs that are neither finished nor stalled, claimed ones included.
    when_full    what becomes of a job that is published while `running` is reached: "wait" or "reject".
    block_after  (failures, seconds, block_seconds): so many failed attempts in that time block the key; None: never.
    """

    running: float = math.inf
    pending: float = math.inf
    when_full: str = "wait"
    block_after: tuple[int, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A time in which nobody could publish with a key: from, until (unless it was unblocked), and why."""

    at: datetime
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What there is of a key; lists have its first 100, and each job is in one of them at most.

    running        jobs that are claimed; their ids are holders.
    available      ids of jobs that may be claimed next: where `running` is limited, these have their slots already.
    waiting        ids of jobs that wait for a slot, the next one first.
    pending        jobs that are neither finished nor stalled.
    failures       failed attempts in the window of `block_after`, since the last block.
    blocked_until  when publishing with the key is possible again; None: it is.
    reason         why it is blocked; None: it is not.
    limit          the numbers in force, its own or those of EACH_KEY.
    log            its latest blocks, the last one first; a queue keeps 1000 in all.
    """

    name: str
    running: int
    pending: int
    failures: int
    blocked_until: datetime | None
    reason: str | None
    holders: list[str]
    available: list[str]
    waiting: list[str]
    limit: Limit
    log: list[Block]


def field(key: Limited) -> str:
    """Where the limit is stored: of the queue, of each key, of one key."""
    if key is None:
        return "q"
    return "e" if key is EACH_KEY else "k" + key_text(key)


def key_text(key: Any) -> str:
    """A key as the server has it."""
    return keys.escape(arguments.text(key, "key"))


def asked(key: Limited, given: Mapping[str, Any]) -> bytes:
    """What `Queue.limit` was given, packed: NaN leaves a number as it is, -1 forgets it. Raises InvalidArgument."""
    numbers = {name: math.nan for name, _ in NUMBERS}
    for name in ("running", "pending"):
        if given[name] is not UNCHANGED:
            numbers[name] = _count(given[name], name)
    if (when_full := given["when_full"]) is not UNCHANGED:
        if when_full is not None and when_full not in WHEN_FULL:
            raise InvalidArgument(f"when_full={when_full!r} is not known; give one of {', '.join(WHEN_FULL)}")
        numbers["rejects"] = -1 if when_full is None else WHEN_FULL.index(when_full)
    if (block_after := given["block_after"]) is not UNCHANGED:
        if key is None:
            raise InvalidArgument("block_after counts the failures of a key; give limit a key, or EACH_KEY")
        numbers |= zip(("failures", "window", "block"), _block_after(block_after), strict=True)
    return _PACKED.pack(*numbers.values())


def _count(value: Any, name: str) -> float:
    if value is None:
        return -1
    if value == math.inf:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise InvalidArgument(f"{name}={value!r} is no number of jobs; give a whole number from 0, or inf to lift it")
    return value


def _block_after(value: Any) -> tuple[float, float, float]:
    if value is None:
        return -1, -1, -1
    if value == math.inf:
        return math.inf, 0, 0
    try:
        failures, window, block = value
    except (TypeError, ValueError):
        raise InvalidArgument(
            f"block_after={value!r} is not (failures, seconds, block_seconds); give these three, or inf to lift it"
        ) from None
    if isinstance(failures, bool) or not isinstance(failures, int) or not 1 <= failures <= MOST_FAILURES:
        raise InvalidArgument(
            f"block_after counts {failures!r} failures; give a whole number from 1 to {MOST_FAILURES}"
        )
    return failures, span(window, "block_after's seconds"), span(block, "block_after's block_seconds")


def span(value: Any, name: str) -> float:
    """A length of time that ends, in ms."""
    seconds = arguments.seconds(value, name, open_below=True, ends=True)
    if seconds is None:
        raise InvalidArgument(f"{name} must be a time that ends; give seconds")
    return math.ceil(seconds * 1000)


def _limit(raw: bytes) -> Limit:
    running, pending, rejects, failures, window, block = _PACKED.unpack(raw)
    blocks = (int(failures), window / 1000, block / 1000) if failures < math.inf else None
    return Limit(_whole(running), _whole(pending), WHEN_FULL[rejects == 1], blocks)


def _whole(number: float) -> float:
    return number if math.isinf(number) else int(number)


def _block(raw: bytes) -> Block:
    at, span, width = _LOGGED.unpack_from(raw)
    moment = datetime.fromtimestamp(at / 1000, UTC)
    reason = keys.unescape(raw[_LOGGED.size + width :].decode())
    return Block(moment, moment + timedelta(milliseconds=span), reason)


def status(name: str, reply: list[Any]) -> KeyStatus:
    """What the script `key` answered."""
    running, _, _, pending, failures, until, reason, numbers, claimed, available, waiting, log = reply
    ends = float(until)
    return KeyStatus(
        name=name, running=running, pending=pending, failures=failures,
        blocked_until=None if ends < 0 else datetime.fromtimestamp(ends / 1000, UTC),
        reason=keys.unescape(reason.decode()) or None, limit=_limit(numbers), log=[_block(each) for each in log],
        holders=_ids(claimed), available=_ids(available), waiting=_ids(waiting),
    )  # fmt: skip


def _ids(found: list[bytes]) -> list[str]:
    return [id.decode() for id in found]


def constants() -> dict[str, str]:
    """What the names in capitals of the Lua files stand for: a number's place, their format."""
    places = {f"LIMIT_{name.upper()}": str(place) for place, (name, _) in enumerate(NUMBERS, 1)}
    return {**places, "LIMIT_FORMAT": f"'{_PACKED.format}'", "LIMIT_SIZE": str(len(NUMBERS))}
