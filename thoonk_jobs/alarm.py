"""The timer of one queue in one process: the one that keeps the time acts on the moment, the others a little later."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

from thoonk_jobs.timing import STAND_BY

_FAR = 24 * 3600.0


class Alarm:
    """ring: called when something is due, and whoever keeps the time has not acted."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def set(self, seconds: float, *, keeper: bool) -> None:
        """Something is due in so many seconds; infinite for never. keeper: this process keeps the time."""
        self.stop()
        if seconds < math.inf:
            self._due = self._loop.time() + max(0.0, seconds) + (0.0 if keeper else random.uniform(*STAND_BY))
            self._wait()

    def _wait(self) -> None:
        left = self._due - self._loop.time()
        if left <= 0:
            self._timer = self._loop.call_soon(self._ring)  # type: ignore[assignment]
        else:
            self._timer = self._loop.call_later(min(left, _FAR), self._wait)

    def stop(self) -> None:
        """Nothing is due any more."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
