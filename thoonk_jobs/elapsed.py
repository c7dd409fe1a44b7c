"""What a process knows of each queue's elapsed clock, so that the server can tell a clock that jumped from time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from struct import Struct

from thoonk_jobs.timing import EXPECTED_FOR, QUICK, UNKNOWN_SKEW

_HEAD = Struct(">dddd")
_UNKNOWN = (math.nan, 0.0)


class Elapsed:
    """The last quick reply of each queue tells what its clock shows now, by this machine's monotonic clock.

    passed  the time to pass to scripts instead of the server's, in ms since the epoch: for tests; None leaves it.
    """

    def __init__(self) -> None:
        self.passed: Callable[[], int | None] = lambda: None
        self._known: dict[str, tuple[float, float, float]] = {}

    def head(self, queue: str, back: int) -> bytes:
        """The first argument of a script: the time to use, what the elapsed clock should show, jobs to wait for."""
        passed = self.passed()
        expected, skew = _UNKNOWN if passed is not None else self._expected(queue)
        if passed is None and not back and expected != expected:
            return b""
        return _HEAD.pack(math.nan if passed is None else passed, expected, skew, back)

    def _expected(self, queue: str) -> tuple[float, float]:
        known = self._known.get(queue)
        if known is None:
            return _UNKNOWN
        shown, skew, at = known
        since = time.monotonic() - at
        return (math.floor(shown + 1000 * since), skew) if since < EXPECTED_FOR else _UNKNOWN

    def heard(self, queue: str, sent: float, shown: int, skew: int) -> None:
        """A reply: what the queue's clock showed, and when the request was sent, by the monotonic clock."""
        now = time.monotonic()
        if now - sent < QUICK and skew != UNKNOWN_SKEW:
            self._known[queue] = (shown, skew, now)
        elif (known := self._known.get(queue)) and known[1] != skew:
            self._known.pop(queue, None)  # another thread may have done so just now
