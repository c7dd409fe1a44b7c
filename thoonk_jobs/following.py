"""Following the events of a queue, as flows for both clients: a notice says that there is more, the log is read."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from thoonk_jobs import arguments, calls, event
from thoonk_jobs.base import QueueBase
from thoonk_jobs.errors import BrokerClosed, BrokerUnavailable, EventsLost, InvalidArgument
from thoonk_jobs.event import Event
from thoonk_jobs.expected import Say
from thoonk_jobs.flows import Flow
from thoonk_jobs.logs import log
from thoonk_jobs.publication import Callback
from thoonk_jobs.request import Log
from thoonk_jobs.timing import LOOK_AGAIN


class SubscriptionCore:
    """A place in the log of a queue from which on events are read. What it holds is one part of the log, bounded.

    seq  number of the last event that was read.
    """

    _looking: AbstractContextManager[Any] = nullcontext()
    """Of several callers one looks at a time."""

    def __init__(self, queue: QueueBase, names: Sequence[Any], since: Any, bell: Any) -> None:
        if since is not None and (isinstance(since, bool) or not isinstance(since, int) or since < 0):
            raise InvalidArgument(f"since={since!r} is no number of an event; give a whole number from 0, or None")
        self.queue = queue.name
        self.seq: int = since if since is not None else -1
        self._queue = queue
        self._session = queue.session
        self._names = event.chosen(names)
        self._bell = bell
        self._born = 0
        self._read: deque[Event] = deque()
        self._closed = True  # until it is open

    def _open(self) -> Flow[None]:
        yield from self._follow()
        try:
            found: Log = yield calls.events(self._queue.keys, None)
            self._born = found.born
            if self.seq < 0:
                self.seq = found.last
            elif self.seq > found.last or self.seq + 1 < found.first:
                raise self._missed(found.last, found.first)
        except BaseException:
            self._unfollow()
            raise
        self._closed = False

    def _follow(self) -> Flow[None]:
        session = self._queue.session
        try:
            yield session.follow_events(self._queue.keys, self._bell, self._queue.patience)
        except BaseException:
            self._unfollow()
            raise
        self._session = session

    def _missed(self, last: int, oldest: int) -> EventsLost:
        """The error for a gap, after which it goes on with the oldest event that is kept."""
        asked, self.seq = self.seq, oldest - 1
        if asked > last:
            why = f"the last one is {last}: the data was lost, or it is another queue's number"
        else:
            why = f"those before {oldest} are not kept any more; read faster, or raise keep_events with configure"
        return EventsLost(
            f"cannot read the events of queue {self.queue!r} after {asked}: {why}; since={self.seq} begins with what "
            "there is", seq=self.seq)  # fmt: skip

    def _get(self, timeout: Any) -> Flow[Event | None]:
        span = arguments.seconds(timeout, "timeout")
        until = None if span is None else time.monotonic() + span
        while not self._closed:
            patience = None
            try:
                with self._looking:
                    if event := (yield from self._next()):
                        return event
            except BrokerUnavailable:
                if span == 0:
                    raise
                patience = LOOK_AGAIN
            left = None if until is None else max(0.0, until - time.monotonic())
            if left == 0:
                return None
            yield self._session.pause(self._bell, left if patience is None else min(patience, left or patience))
        return None

    def _next(self) -> Flow[Event | None]:
        """The next event, if there is one now."""
        if self._session is not self._queue.session:  # this is a forked child, where nothing is heard yet
            yield from self._follow()
        self._bell.clear()
        if self._closed:  # by another thread, whose ring must not be lost
            self._bell.set()
            return None
        while not self._read:
            if not (yield from self._read_on()):
                return None
        event = self._read.popleft()
        if self._read:
            self._bell.set()  # for another caller
        return event

    def _read_on(self) -> Flow[bool]:
        """Reads a part of the log; whether there was one. Raises EventsLost, once, where a part is missing."""
        found: Log = yield calls.events(self._queue.keys, self.seq)
        born, self._born = self._born, found.born
        if self.seq > found.last or (born and born != found.born):
            raise self._missed(-1, found.first)
        if self.seq + 1 < found.first:
            raise self._missed(found.last, found.first)
        for entry in found.entries:
            self._take(entry)
        return bool(found.entries)

    def _take(self, entry: Sequence[Any]) -> None:
        number = entry[0]
        for events in event.of_entry(self.queue, entry):
            if number > self.seq:
                self._read.extend(one for one in events if not self._names or one.name in self._names)
                self.seq = number
            number += 1

    def _tell_next(self, handler: Callback) -> Flow[bool]:
        """Calls back for the next event; False where there is none."""
        try:
            event = yield from self._get(0)
        except EventsLost as lost:
            log.warning("events_lost", queue=self.queue, seq=lost.seq)
            return True
        if event:
            yield Say(event.name, handler, event.queue, event.job_id, (event,))
        return event is not None

    def _leave(self) -> None:
        if not self._closed:
            self._closed = True
            self._unfollow()
            self._bell.set()

    def _unfollow(self) -> None:
        with suppress(BrokerClosed):  # then nothing is heard anyway
            self._queue.session.unfollow(self._queue.keys, self._bell)
