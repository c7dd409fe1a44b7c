"""Bells that ring when it is time to look at a job again; hung up by any thread, rung by the engine."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Protocol

from thoonk_jobs.keys import QueueKeys

Topic = tuple[str, str]


class Rings(Protocol):
    """What a bell is made of: `threading.Event`, `asyncio.Event`."""

    def set(self) -> None: ...


class Bells:
    """Which bells hang for which jobs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hung: dict[Topic, list[Rings]] = defaultdict(list)

    def hang(self, keys: QueueKeys, id: str, bell: Rings) -> None:
        """The bell rings at news of this job."""
        with self._lock:
            self._hung[keys.base, id].append(bell)

    def take_down(self, keys: QueueKeys, id: str, bell: Rings) -> None:
        """It rings no more."""
        with self._lock:
            bells = self._hung.get((keys.base, id), [])
            if bell in bells:
                bells.remove(bell)
            if not bells:
                self._hung.pop((keys.base, id), None)

    def ring(self, keys: QueueKeys, id: str) -> None:
        """There is news of a job."""
        with self._lock:
            for bell in self._hung.get((keys.base, id), ()):
                bell.set()

    def ring_all(self, keys: QueueKeys | None = None) -> None:
        """There may have been news of any job, of one queue or of all."""
        with self._lock:
            for (base, _), bells in self._hung.items():
                if keys is None or base == keys.base:
                    for bell in bells:
                        bell.set()

    def hangs(self, keys: QueueKeys, id: str) -> bool:
        """Whether a bell hangs for a job."""
        with self._lock:
            return (keys.base, id) in self._hung

    def hang_for(self, keys: QueueKeys) -> bool:
        """Whether a bell hangs for any job of a queue."""
        with self._lock:
            return any(base == keys.base for base, _ in self._hung)
