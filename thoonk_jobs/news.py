"""What a process hears on its channel: kinds of news, and how the ids in them are read."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

WAKE, JOBS, STALLED, CLAIMS = b"w", b"j", b"s", b"c"
_TOKEN = Struct(">d")


def lost_claims(news: bytes) -> Iterable[tuple[str, int]]:
    """The claims (id, token) that a process is told it lost."""
    at = 0
    while at < len(news):
        id, at = _framed(news, at)
        yield id, int(_TOKEN.unpack_from(news, at)[0])
        at += _TOKEN.size


def job_news(news: bytes) -> Iterable[str]:
    """The ids of jobs that a process is told to look at."""
    at = 0
    while at < len(news):
        id, at = _framed(news, at)
        yield id


def _framed(raw: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
    return raw[at + 2 : end].decode(), end
