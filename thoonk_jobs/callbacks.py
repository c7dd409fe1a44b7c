"""The thread of the blocking client on which callbacks run, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

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
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._gathering = threading.Lock()
        self._gathered: dict[QueueKeys, Stalls] = {}

    def _put(self, keys: QueueKeys, stalls: Stalls) -> None:
        """What comes until it is told of is told of together."""
        with self._gathering:
            first = not self._gathered
            gathered = self._gathered.setdefault(keys, {})
            for id, since in stalls.items():
                gathered[id] = max(since, gathered.get(id, 0.0))
        if first:
            self._work.put(self._tell_gathered)

    def expect(self, keys: QueueKeys, id: str, callbacks: Callbacks) -> Expected:
        """Registers callbacks, before the publish goes out that they are for."""
        expected = super().expect(keys, id, callbacks)
        self.start()
        return expected

    def start(self) -> None:
        """Starts the thread, where it does not run."""
        with self.changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="thoonk-callbacks", daemon=True)
                self._thread.start()

    def do_by_and_by(self, work: Callable[[], None]) -> None:
        """Does something on this thread; again, where the server does not answer."""
        self.start()
        self._work.put(work)

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
        self._work.put(None)
        with self.changed:
            self.changed.notify_all()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(5)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BrokerClosed:
                return
            except BrokerUnavailable as error:
                log.warning("callbacks_delayed", error=str(error))
                self._wire.closed.wait(1)
                self._work.put(work)
            except Exception:
                log.exception("callbacks_failed")

    def _tell_gathered(self) -> None:
        with self._gathering:
            gathered, self._gathered = self._gathered, {}
        for keys, stalls in gathered.items():
            ids = list(stalls)
            for at in range(0, len(ids), AT_ONCE):
                self._tell_part(keys, {id: stalls[id] for id in ids[at : at + AT_ONCE]})

    def _tell_part(self, keys: QueueKeys, stalls: Stalls) -> None:
        try:
            self._wire.follow(self.tell(keys, stalls))
        except BrokerClosed:
            raise
        except BrokerUnavailable as error:
            log.warning("callbacks_delayed", queue=keys.queue, error=str(error))
            self._wire.closed.wait(1)
            self._put(keys, stalls)
        except Exception:
            log.exception("callbacks_failed", queue=keys.queue)
