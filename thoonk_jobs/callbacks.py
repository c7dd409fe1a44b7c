"""The thread of the blocking client on which callbacks run, one after the other."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from thoonk_jobs.drive import Wire
from thoonk_jobs.errors import BrokerClosed, BrokerUnavailable, ThoonkError
from thoonk_jobs.expected import Expectations, Expected, MakeJob, Stalls
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log
from thoonk_jobs.publication import Callbacks
from thoonk_jobs.request import AT_ONCE


class CallbackThread(Expectations):
    """Expectations, and the thread that tells them; started with the first one."""

    def __init__(self, wire: Wire, make_job: MakeJob, wanted: Callable[[QueueKeys, str], bool]) -> None:
        super().__init__(make_job, self._put, wanted)
        self._wire = wire
        self._news: SimpleQueue[tuple[QueueKeys, Stalls] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def _put(self, keys: QueueKeys, stalls: Stalls) -> None:
        self._news.put((keys, stalls))

    def expect(self, keys: QueueKeys, id: str, callbacks: Callbacks) -> Expected:
        """Registers callbacks, before the publish goes out that they are for."""
        expected = super().expect(keys, id, callbacks)
        with self.changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="thoonk-callbacks", daemon=True)
                self._thread.start()
        return expected

    def join(self, timeout: float | None) -> bool:
        """Waits until every on_finish was called or its job is stalled; False when the time was over first."""
        if threading.current_thread() is self._thread:
            raise ThoonkError("join() in a callback would wait for itself: callbacks run one after the other")
        self.look_at_stalled()
        with self.changed:
            span = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
            return self.changed.wait_for(lambda: self._wire.closed.is_set() or self.over(), span)

    def close(self) -> None:
        """Ends the thread after the callback that runs."""
        self._news.put(None)
        with self.changed:
            self.changed.notify_all()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(5)

    def _run(self) -> None:
        while (gathered := self._gather()) is not None:
            for keys, stalls in gathered.items():
                ids = list(stalls)
                for at in range(0, len(ids), AT_ONCE):
                    try:
                        self._wire.follow(self.tell(keys, {id: stalls[id] for id in ids[at : at + AT_ONCE]}))
                    except BrokerClosed:
                        return
                    except BrokerUnavailable as error:
                        log.warning("callbacks_delayed", queue=keys.queue, error=str(error))
                        self._wire.closed.wait(1)
                        self._put(keys, {id: stalls[id] for id in ids[at:]})
                        break
                    except Exception:
                        log.exception("callbacks_failed", queue=keys.queue)

    def _gather(self) -> dict[QueueKeys, dict[str, float]] | None:
        """Waits for news, then takes what there is, so that one read answers for many; None at the end."""
        gathered: dict[QueueKeys, Any] = defaultdict(dict)
        item = self._news.get()
        while item is not None:
            keys, stalls = item
            for id, since in stalls.items():
                gathered[keys][id] = max(since, gathered[keys].get(id, 0.0))
            if self._news.empty() or len(gathered[keys]) >= AT_ONCE:
                return gathered
            item = self._news.get()
        return None
