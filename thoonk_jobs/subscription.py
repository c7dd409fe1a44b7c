"""A subscription to the events of a queue, for threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from thoonk_jobs.callbacks import CallbackThread
from thoonk_jobs.event import Event
from thoonk_jobs.flows import Flow
from thoonk_jobs.following import SubscriptionCore
from thoonk_jobs.publication import Callback

if TYPE_CHECKING:
    from thoonk_jobs.queue import Queue


class Handler(SubscriptionCore):
    """Calls a function for every event, on the thread of the callbacks; stands for the bell of its subscription."""

    def __init__(self, queue: Queue, name: str | None, handler: Callback) -> None:
        super().__init__(queue, () if name is None else (name,), None, self)
        self._handler = handler
        self._callbacks = cast(CallbackThread, queue.session.callbacks)
        self._rung = threading.Lock()
        queue.do(self._open())

    def set(self) -> None:
        """There may be events. Those that come until they are read are read together."""
        if self._rung.acquire(blocking=False):
            self._callbacks.tell_by_and_by(self._tell)

    def clear(self) -> None:
        """The look comes next."""

    def _tell(self) -> Flow[None]:
        if self._rung.locked():
            self._rung.release()
        return self._tell_all(self._handler)

    def stop(self) -> None:
        """Calls the function no more."""
        self._leave()


class Subscription(SubscriptionCore):
    """The events of a queue from the moment `Queue.subscribe` returned, in order, none missing and none twice.

    An iterator over events, which waits for the next one and ends when it is closed; a context manager.
    """

    def __init__(self, queue: Queue, names: Sequence[str], since: int | None) -> None:
        super().__init__(queue, names, since, threading.Event())
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
