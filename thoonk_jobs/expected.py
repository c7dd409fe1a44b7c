"""Who wants to hear of which jobs, and the conversation that tells them: what happened is read from the keys."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thoonk_jobs import calls
from thoonk_jobs.errors import PayloadError
from thoonk_jobs.flows import Flow
from thoonk_jobs.job import Progress, Snapshot, Stored
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log
from thoonk_jobs.machine import LIVE, State
from thoonk_jobs.publication import Callbacks
from thoonk_jobs.request import AT_ONCE

MakeJob = Callable[[QueueKeys, str, Stored | None], Snapshot]
Topic = tuple[QueueKeys, str]
Stalls = dict[str, float]
"""Ids of jobs that are worth a look, with the time in ms since when one was stalled, if that is what happened."""


@dataclass(eq=False, slots=True)
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


@dataclass(frozen=True, slots=True)
class Say:
    """A step that calls back; an error of a callback is logged and hurts nothing."""

    name: str
    callback: Callable[..., Any]
    queue: str
    job_id: str
    told: tuple[Any, ...]

    def block(self) -> None:
        """Calls a plain function."""
        try:
            self.callback(*self.told)
        except BaseException:  # also SystemExit: this thread is not the callback's to end
            self._failed()

    async def wait(self) -> None:
        """Calls a function that may be a coroutine function."""
        try:
            called = self.callback(*self.told)
            if inspect.isawaitable(called):
                await called
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():  # else it was something that the callback awaited
                raise
            self._failed()
        except Exception:
            self._failed()

    def _failed(self) -> None:
        log.exception("callback_failed", callback=self.name, queue=self.queue, job_id=self.job_id)


def _say(name: str, callback: Callable[..., Any], job: Snapshot, *more: Any) -> Say:
    return Say(name, callback, job.queue, job.id, (job, *more))


class Expectations:
    """All that this process wants to hear. hear: takes what is worth a look, to `tell` it."""

    def __init__(
        self, make_job: MakeJob, hear: Callable[[QueueKeys, Stalls], None], wanted: Callable[..., bool]
    ) -> None:
        self._make_job = make_job
        self._hear = hear
        self._wanted = wanted
        self._expected: dict[Topic, list[Expected]] = {}
        self.changed = threading.Condition()
        self.on_change: Callable[[], None] = lambda: None

    def expect(self, keys: QueueKeys, id: str, callbacks: Callbacks) -> Expected:
        """Registers callbacks, before the publish goes out that they are for."""
        expected = Expected(keys, id, callbacks)
        with self.changed:
            self._expected.setdefault((keys, id), []).append(expected)
        return expected

    def published(self, expected: Expected, id: str, stored: Stored) -> None:
        """The answer to the publish: the id that the job really has, and its record."""
        expected.published = True
        state = Snapshot(id, expected.keys.queue, stored).state
        if state is State.FINISHED:
            expected.known = stored  # its data may be gone already
        if moved := id != expected.id:
            self.forget(expected)
            expected.id = id
            with self.changed:
                self._expected.setdefault((expected.keys, id), []).append(expected)
        if moved or state in (State.FINISHED, State.STALLED):  # news of another id than its own was not for it so far
            self._hear(expected.keys, {id: 0.0})

    def forget(self, expected: Expected) -> None:
        """The publish was refused, or its end was told."""
        with self.changed:
            topic = (expected.keys, expected.id)
            others = [other for other in self._expected.get(topic, []) if other is not expected]
            if others:
                self._expected[topic] = others
            else:
                self._expected.pop(topic, None)
            self.changed.notify_all()
        self.on_change()

    def expects(self, keys: QueueKeys, id: str) -> bool:
        """Whether a callback of this process is still to be called for a job."""
        with self.changed:
            return (keys, id) in self._expected

    def expects_of(self, keys: QueueKeys) -> bool:
        """Whether a callback of this process is still to be called for any job of a queue."""
        with self.changed:
            return any(queue == keys for queue, _ in self._expected)

    def news(self, keys: QueueKeys, stalls: Stalls) -> None:
        """These jobs are worth a look, where somebody wants to hear of them."""
        with self.changed:
            wanted = {id: since for id, since in stalls.items() if (keys, id) in self._expected}
        if wanted:
            self._hear(keys, wanted)

    def look_at_all(self, keys: QueueKeys) -> None:
        """News of a queue may have been missed."""
        with self.changed:
            ids = [id for queue, id in self._expected if queue == keys]
        if ids:
            self._hear(keys, dict.fromkeys(ids, 0.0))

    def look_at_stalled(self) -> None:
        """What was stalled may have been retried since."""
        by_queue: dict[QueueKeys, Stalls] = defaultdict(dict)
        with self.changed:
            for expected in (expected for some in self._expected.values() for expected in some if expected.stalled):
                expected.stalled = False
                by_queue[expected.keys][expected.id] = 0.0
        for keys, stalls in by_queue.items():
            self._hear(keys, stalls)

    def over(self) -> bool:
        """Whether every on_finish was called, or its job is stalled."""
        return all(
            expected.stalled or not expected.callbacks.on_finish
            for some in self._expected.values() for expected in some
        )  # fmt: skip

    def tell(self, keys: QueueKeys, stalls: Stalls) -> Flow[None]:
        """Reads these jobs once, calls back, and says which ends were heard."""
        heard = []
        with self.changed:
            # Before the read: what is not there yet, as its publish is on its way, must not pass for gone.
            published = {id: [it for it in self._expected.get((keys, id), ()) if it.published] for id in stalls}
        found = yield calls.read(keys, list(stalls))
        for (id, since), stored in zip(stalls.items(), found, strict=True):
            for expected in list(self._expected.get((keys, id), ())) if stored else published[id]:
                if (yield from self._tell_one(expected, stored, since)):
                    heard.append(id)
        with self.changed:
            self.changed.notify_all()
        self.on_change()
        heard = [id for id in heard if not self._wanted(keys, id)]
        if heard:
            yield calls.watch(keys, heard, on=False)
        if again := [id for id in heard if self._wanted(keys, id)]:  # a wait began meanwhile
            yield calls.watch(keys, again, on=True)

    def _tell_one(self, expected: Expected, stored: Stored | None, since: float) -> Flow[bool]:
        """Calls back what is new of a job; True once its end was told."""
        job = self._make_job(expected.keys, expected.id, stored or expected.known)
        asked = expected.callbacks
        if stored and asked.on_progress:
            yield from self._tell_progress(expected, job)
        since = max(since, job.stalled_since)
        if since > expected.told_stall:
            expected.told_stall = since
            if asked.on_stall:
                yield _say("on_stall", asked.on_stall, job)
        expected.stalled = job.state is State.STALLED
        if job.state in LIVE or not self.expects(expected.keys, expected.id):
            return False
        if asked.on_finish:
            yield _say("on_finish", asked.on_finish, job)
        self.forget(expected)
        return True

    def _tell_progress(self, expected: Expected, job: Snapshot) -> Flow[None]:
        while found := (yield calls.reports(expected.keys, job.id, "progress", expected.reported, AT_ONCE)):
            for place, data in found:
                expected.reported = place
                try:
                    progress = Progress.read(data)
                except (PayloadError, TypeError, ValueError) as error:
                    log.warning("report_unreadable", queue=job.queue, job_id=job.id, error=str(error))
                else:
                    assert expected.callbacks.on_progress
                    yield _say("on_progress", expected.callbacks.on_progress, job, progress)
