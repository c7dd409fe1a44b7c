"""The callbacks `on_finish`, `on_stall`, `on_progress`: one thread reads the keys and calls, one after the other."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from thoonk_jobs import calls
from thoonk_jobs.calls import AT_ONCE
from thoonk_jobs.drive import Wire
from thoonk_jobs.errors import BrokerClosed, BrokerUnavailable, PayloadError, ThoonkError
from thoonk_jobs.job import Progress, Snapshot, Stored
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log
from thoonk_jobs.machine import LIVE, State
from thoonk_jobs.publication import Callbacks

MakeJob = Callable[[QueueKeys, str, Stored | None], Snapshot]
Topic = tuple[QueueKeys, str]


@dataclass(slots=True)
class Expected:
    """What one publish asked to hear of its job."""

    keys: QueueKeys
    id: str
    callbacks: Callbacks
    published: bool = False
    known: Stored | None = None
    stalled: bool = False
    told_stall: float = 0.0
    reported: bytes = b""


class CallbackThread:
    """Who wants to hear of which jobs, and the thread that tells them."""

    def __init__(self, wire: Wire, make_job: MakeJob, wanted: Callable[[QueueKeys, str], bool]) -> None:
        self._wire = wire
        self._wanted = wanted
        self._make_job = make_job
        self._expected: dict[Topic, list[Expected]] = {}
        self._news: SimpleQueue[tuple[QueueKeys, dict[str, float]] | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def expect(self, keys: QueueKeys, id: str, callbacks: Callbacks) -> Expected:
        """Registers callbacks, before the publish goes out that they are for."""
        expected = Expected(keys, id, callbacks)
        with self._changed:
            self._expected.setdefault((keys, id), []).append(expected)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="thoonk-callbacks", daemon=True)
                self._thread.start()
        return expected

    def published(self, expected: Expected, id: str, stored: Stored) -> None:
        """The answer to the publish: the id that the job really has, and its record."""
        expected.published = True
        state = Snapshot(id, expected.keys.queue, stored).state
        if state is State.FINISHED:
            expected.known = stored  # its data may be gone already
        if id != expected.id:
            self.forget(expected)
            expected.id = id
            with self._changed:
                self._expected.setdefault((expected.keys, id), []).append(expected)
        if state in (State.FINISHED, State.STALLED):
            self._news.put((expected.keys, {id: 0.0}))

    def forget(self, expected: Expected) -> None:
        """The publish was refused, or its end was told."""
        with self._changed:
            topic = (expected.keys, expected.id)
            others = [other for other in self._expected.get(topic, []) if other is not expected]
            if others:
                self._expected[topic] = others
            else:
                self._expected.pop(topic, None)
            self._changed.notify_all()

    def expects(self, keys: QueueKeys, id: str) -> bool:
        """Whether a callback of this process is still to be called for a job."""
        with self._changed:
            return (keys, id) in self._expected

    def news(self, keys: QueueKeys, stalls: dict[str, float]) -> None:
        """These jobs are worth a look; the time in ms since when one was stalled, if that is what happened to it."""
        with self._changed:
            wanted = {id: since for id, since in stalls.items() if (keys, id) in self._expected}
        if wanted:
            self._news.put((keys, wanted))

    def look_at_all(self, keys: QueueKeys | None = None) -> None:
        """News may have been missed."""
        by_queue = defaultdict(list)
        with self._changed:
            for queue, id in self._expected:
                if keys is None or queue == keys:
                    by_queue[queue].append(id)
        for queue, ids in by_queue.items():
            self._news.put((queue, dict.fromkeys(ids, 0.0)))

    def join(self, timeout: float | None) -> bool:
        """Waits until every on_finish was called or its job is stalled; False when the time was over first."""
        if threading.current_thread() is self._thread:
            raise ThoonkError("join() in a callback would wait for itself: callbacks run one after the other")
        with self._changed:
            stalled = [expected for some in self._expected.values() for expected in some if expected.stalled]
        for expected in stalled:
            expected.stalled = False  # it may have been retried since: look again
            self.news(expected.keys, {expected.id: 0.0})
        with self._changed:
            return self._changed.wait_for(self._idle, None if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def _idle(self) -> bool:
        return self._wire.closed.is_set() or all(
            expected.stalled or not expected.callbacks.on_finish
            for some in self._expected.values() for expected in some
        )  # fmt: skip

    def close(self) -> None:
        """Ends the thread after the callback that runs."""
        self._news.put(None)
        with self._changed:
            self._changed.notify_all()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(5)

    def _run(self) -> None:
        while (gathered := self._gather()) is not None:
            for keys, stalls in gathered.items():
                ids = list(stalls)
                for at in range(0, len(ids), AT_ONCE):
                    try:
                        self._tell(keys, {id: stalls[id] for id in ids[at : at + AT_ONCE]})
                    except BrokerClosed:
                        return
                    except BrokerUnavailable as error:
                        log.warning("callbacks_delayed", queue=keys.queue, error=str(error))
                        self._wire.closed.wait(1)
                        self._news.put((keys, {id: stalls[id] for id in ids[at:]}))
                        break
                    except Exception:
                        log.exception("callbacks_failed", queue=keys.queue)

    def _gather(self) -> dict[QueueKeys, dict[str, float]] | None:
        """Waits for news, then takes what there is, so that one read answers for many; None at the end."""
        gathered: dict[QueueKeys, dict[str, float]] = defaultdict(dict)
        item = self._news.get()
        while item is not None:
            keys, stalls = item
            for id, since in stalls.items():
                gathered[keys][id] = max(since, gathered[keys].get(id, 0.0))
            if self._news.empty() or len(gathered[keys]) >= AT_ONCE:
                return gathered
            item = self._news.get()
        return None

    def _tell(self, keys: QueueKeys, stalls: dict[str, float]) -> None:
        """Reads these jobs once, calls back, and says which ends were heard."""
        heard = []
        with self._changed:
            # Before the read: what is not there yet, as its publish is on its way, must not pass for gone.
            published = {id: [it for it in self._expected.get((keys, id), ()) if it.published] for id in stalls}
        found = self._wire.run(calls.read(keys, list(stalls)))
        for (id, since), stored in zip(stalls.items(), found, strict=True):
            for expected in list(self._expected.get((keys, id), ())) if stored else published[id]:
                if self._tell_one(expected, stored, since):
                    heard.append(id)
        with self._changed:
            self._changed.notify_all()
        heard = [id for id in heard if not self._wanted(keys, id)]
        if heard:
            self._wire.run(calls.watch(keys, heard, on=False))
        if again := [id for id in heard if self._wanted(keys, id)]:  # a wait began meanwhile
            self._wire.run(calls.watch(keys, again, on=True))

    def _tell_one(self, expected: Expected, stored: Stored | None, since: float) -> bool:
        """Calls back what is new of a job; True once its end was told."""
        job = self._make_job(expected.keys, expected.id, stored or expected.known)
        if stored and expected.callbacks.on_progress:
            self._tell_progress(expected, job)
        since = max(since, job.stalled_since)
        if since > expected.told_stall:
            expected.told_stall = since
            self._call("on_stall", expected.callbacks.on_stall, job)
        expected.stalled = job.state is State.STALLED
        if job.state in LIVE:
            return False
        self._call("on_finish", expected.callbacks.on_finish, job)
        self.forget(expected)
        return True

    def _tell_progress(self, expected: Expected, job: Snapshot) -> None:
        while found := self._wire.run(calls.reports(expected.keys, job.id, "progress", expected.reported, AT_ONCE)):
            for place, data in found:
                expected.reported = place
                try:
                    progress = Progress.read(data)
                except (PayloadError, TypeError, ValueError) as error:
                    log.warning("report_unreadable", queue=job.queue, job_id=job.id, error=str(error))
                else:
                    self._call("on_progress", expected.callbacks.on_progress, job, progress)

    def _call(self, name: str, callback: Callable[..., Any] | None, job: Snapshot, *more: Any) -> None:
        if callback is None:
            return
        try:
            callback(job, *more)
        except BaseException:  # also SystemExit: this thread is not the callback's to end
            log.exception("callback_failed", callback=name, queue=job.queue, job_id=job.id)
