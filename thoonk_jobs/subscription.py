"""A subscription to the events of a queue, for threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from thoonk_jobs.blocking import BlockingSession
from thoonk_jobs.errors import EventsLost
from thoonk_jobs.event import Event
from thoonk_jobs.following import SubscriptionCore
from thoonk_jobs.publication import Callback

if TYPE_CHECKING:
    from thoonk_jobs.client import Broker
    from thoonk_jobs.queue import Queue


class Handler(SubscriptionCore):
    """Calls a function for every event, on the thread of the callbacks; stands for the bell of its subscription."""

    _session: BlockingSession

    def __init__(self, queue: Queue, name: str | None, handler: Callback, since: int | None = None) -> None:
        super().__init__(queue, () if name is None else (name,), since, self)
        self._handler = handler
        self._rung = threading.Lock()
        queue.do(self._open())
        self.set()  # for what was before

    def set(self) -> None:
        """There may be events. Those that come until they are read are read together."""
        if self._rung.acquire(blocking=False):
            self._session.callbacks.do_by_and_by(self._tell)

    def clear(self) -> None:
        """The look comes next."""

    def _tell(self) -> None:
        if self._rung.locked():
            self._rung.release()
        if self._session.follow(self._tell_next(self._handler)):
            self.set()  # other callbacks have their turn before the next event

    def stop(self) -> None:
        """Calls the function no more."""
        self._leave()


class Subscription(SubscriptionCore):
    """The events of a queue from the moment `Queue.subscribe` returned, in order, none missing and none twice.

    An iterator over events, which waits for the next one and ends when it is closed; a context manager. Threads may
    share it: each event goes to one of them. A forked child goes on by itself from where its parent was.
    """

    def __init__(self, queue: Queue, names: Sequence[str], since: int | None) -> None:
        super().__init__(queue, names, since, threading.Event())
        self._looking = threading.Lock()
        self._do = queue.do
        self._do(self._open())

    def get(self, timeout: Any = None) -> Event | None:
        """The next event, or None if there is none in time, or the subscription is closed.

        timeout  seconds to wait; 0 looks once, None waits for ever.

        Raises EventsLost, once, where events are not kept any more that this subscriber did not read in time; it goes
        on with the oldest that is. Raises BrokerClosed when the broker is closed.
        """
        return self._do(self._get(timeout))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Hears no more; who waits in `get` returns."""
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class EveryQueue:
    """A handler on every queue, those that come later too."""

    def __init__(self, broker: Broker, name: str | None, handler: Callback) -> None:
        self._broker, self._name, self._handler = broker, name, handler
        self._session = broker.session
        self._lock = threading.Lock()
        self._handlers: dict[str, Handler] = {}
        self._names: list[str] = []
        self._open = False
        try:
            self._session.confirm(self._session.engine.roster.follow(self._changed))
            with self._lock:
                for queue in self._names:
                    self._listen(queue, None)
                self._open = True
            self._meet()
        except BaseException:
            self.stop()
            raise

    def _listen(self, queue: str, since: int | None) -> None:
        while queue not in self._handlers:
            try:
                self._handlers[queue] = Handler(self._broker.queue(queue), self._name, self._handler, since)
            except EventsLost as lost:
                since = lost.seq

    def _changed(self, names: list[str]) -> None:
        self._names = names
        if self._open:
            self._session.callbacks.do_by_and_by(self._meet)

    def _meet(self) -> None:
        """Of a new queue all events are told, from its first."""
        with self._lock:
            for queue in self._handlers.keys() - set(self._names):
                self._handlers.pop(queue).stop()
            for queue in self._names:
                if self._open:
                    self._listen(queue, 0)
            if not self._open:  # stopped meanwhile, maybe before it could know of the last one
                self._stop_all()

    def stop(self) -> None:
        """Calls the function no more."""
        engine = self._session.engine
        engine.post(engine.roster.leave, self._changed)
        self._open = False
        self._stop_all()

    def _stop_all(self) -> None:
        for handler in list(self._handlers.values()):
            handler.stop()
