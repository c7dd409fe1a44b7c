"""The limits of a queue in plain Python: what holds for a key, who is refused, who may have lost or got a slot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from thoonk_jobs.errors import KeyBlocked, LimitReached
from thoonk_jobs.limits import Limit
from thoonk_jobs.machine import LIVE, SLOTTED, State

INF = float("inf")
PENDING = tuple(state for state in LIVE if state is not State.STALLED)
USUAL: dict[str, Any] = {"running": INF, "pending": INF, "when_full": "wait", "block_after": INF}


@dataclass
class LimitBook:
    """What was set, by field as `limits` names them, blocks and failures by key. Times are of the elapsed clock, ms."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    blocks: dict[str, tuple[float, str]] = field(default_factory=dict)
    failures: dict[str, list[float]] = field(default_factory=dict)
    log: list[tuple[str, float, str]] = field(default_factory=list)

    def change(self, field: str, given: dict[str, Any]) -> None:
        """None forgets a number."""
        stored = {**self.numbers.get(field, {}), **given}
        self.numbers[field] = {name: value for name, value in stored.items() if value is not None}

    def number(self, key: str, name: str) -> Any:
        """What holds for a key, "" being the queue: its own number, else that of each key."""
        fields = (f"k{key}", "e") if key else ("q",)
        return next((self.numbers[each][name] for each in fields if name in self.numbers.get(each, {})), USUAL[name])

    def of(self, key: str) -> Limit:
        values = {name: self.number(key, name) for name in USUAL}
        return Limit(**{**values, "block_after": None if values["block_after"] == INF else values["block_after"]})

    def may_hold(self) -> bool:
        """Whether some job may have to wait."""
        return any(numbers.get("running", INF) < INF for numbers in self.numbers.values())

    # Refusals.

    def block(self, key: str, now: float, seconds: float, reason: str) -> None:
        self.blocks[key] = (now + seconds * 1000, reason)
        self.failures.pop(key, None)
        self.log.insert(0, (key, seconds, reason))

    def unblock(self, key: str) -> None:
        self.failures.pop(key, None)
        self.blocks.pop(key, None)

    def blocked(self, key: str, now: float) -> tuple[Any, ...] | None:
        """The refusal to publish with a key, if it is blocked."""
        until, reason = self.blocks.get(key, (now, ""))
        return (KeyBlocked, key, reason, (until - now) / 1000) if until > now else None

    def recent(self, key: str, now: float) -> list[float]:
        after = self.number(key, "block_after")
        return [] if after == INF else [time for time in self.failures.get(key, []) if time > now - after[1] * 1000]

    def failed(self, key: str, now: float) -> None:
        after = self.number(key, "block_after")
        if not key or after == INF or self.blocked(key, now):
            return
        most, window, seconds = after
        self.failures[key] = [*self.recent(key, now), now]
        if len(self.failures[key]) >= most:
            self.block(key, now, seconds, f"{most} failure{'s' * (most > 1)} within {window:g} s")

    def full(self, jobs: Iterable[Any], key: str, *, at_once: bool) -> tuple[Any, ...] | None:
        """The refusal of one more job with this key, or with none."""
        jobs = list(jobs)
        for each in dict.fromkeys((key, "")):
            limit = self.of(each)
            if _count(jobs, each, PENDING) >= limit.pending:
                return LimitReached, each or None, limit.pending
            if at_once and limit.when_full == "reject" and _count(jobs, each, SLOTTED) >= limit.running:
                return LimitReached, each or None, limit.running
        return None


def _count(jobs: Iterable[Any], key: str, states: tuple[State, ...]) -> int:
    return sum(job.state in states and key in ("", job.key) for job in jobs)


class Step:
    """What a call may do to those who have slots and those who wait, beyond what holds at any time (see `audit`)."""

    def __init__(self, jobs: Iterable[Any]) -> None:
        """jobs: as they are before it."""
        jobs = list(jobs)
        self._slotted = {job.id: job for job in jobs if job.state in SLOTTED}
        self._waited = {job.id for job in jobs if job.state == State.WAITING}
        self._held = {key: _count(jobs, key, SLOTTED) for key in {"", *(job.key for job in jobs)}}

    def wrongs(self, jobs: Iterable[Any], book: LimitBook) -> Iterator[str]:
        """jobs: as they are after it."""
        jobs = list(jobs)
        came = [job for job in jobs if job.state in SLOTTED and job.id not in self._slotted]
        waiting = [job for job in jobs if job.state == State.WAITING]
        for job in waiting:
            exceeded = any(self._held.get(key, 0) > book.number(key, "running") for key in ("", job.key))
            if job.id in self._slotted and not exceeded and not any(job.priority < each.priority for each in came):
                yield f"{job.id} lost its slot to nobody more urgent"
        for job in came:
            for other in waiting:
                ahead = {job.id, other.id} <= self._waited and other.urgency < job.urgency
                if ahead and (job.key == other.key or book.number(other.key, "running") == INF or not other.key):
                    yield f"{job.id} was let go before {other.id}, which is ahead of it"
