"""What a process hears on its channels: kinds of news, and how what they carry is read."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Protocol

from thoonk_jobs.keys import QueueKeys

WAKE, JOBS, STALLED, CLAIMS, NONCE = b"w", b"j", b"s", b"c", b"n"
EVENTS = ""
"""Stands in place of a job's id where any event of a queue is news."""
_NUMBER = Struct(">d")


class Listener(Protocol):
    """Who else wants the news: bells, callbacks and held claims."""

    def job_news(self, keys: QueueKeys, stalls: dict[str, float]) -> None: ...
    def moved(self, keys: QueueKeys) -> None: ...
    def claim_lost(self, keys: QueueKeys, id: str, token: int) -> None: ...
    def may_have_missed(self, keys: QueueKeys) -> None: ...
    def attends(self, keys: QueueKeys) -> bool: ...


def place(told: bytes) -> int:
    """The place in line at which somebody is to look."""
    return int(_NUMBER.unpack(told)[0])


def alarm(told: bytes) -> tuple[float, str]:
    """On the alarm's channel: seconds until something is due, infinite for never, and who keeps the time."""
    return _NUMBER.unpack_from(told)[0] / 1000, told[_NUMBER.size :].decode()


def lost_claims(told: bytes) -> Iterator[tuple[str, int]]:
    """The claims that a process lost: id and token of each."""
    return ((id, int(token)) for id, token in _pairs(told))


def stalls(told: bytes) -> Iterator[tuple[str, float]]:
    """The jobs that were stalled: the id of each, and since when, in ms."""
    return _pairs(told)


def job_news(told: bytes) -> Iterator[str]:
    """The ids of jobs to look at."""
    at = 0
    while at < len(told):
        id, at = _framed(told, at)
        yield id


def _pairs(told: bytes) -> Iterator[tuple[str, float]]:
    at = 0
    while at < len(told):
        id, at = _framed(told, at)
        yield id, _NUMBER.unpack_from(told, at)[0]
        at += _NUMBER.size


def _framed(raw: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
    return raw[at + 2 : end].decode(), end
