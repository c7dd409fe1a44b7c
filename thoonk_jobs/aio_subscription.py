"""A subscription to the events of a queue, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from thoonk_jobs.aio_session import AsyncSession
from thoonk_jobs.errors import BrokerUnavailable, EventsLost
from thoonk_jobs.event import Event
from thoonk_jobs.following import SubscriptionCore
from thoonk_jobs.logs import log
from thoonk_jobs.publication import Callback
from thoonk_jobs.timing import LOOK_AGAIN

if TYPE_CHECKING:
    from thoonk_jobs.aio import AsyncBroker
    from thoonk_jobs.aio_queue import AsyncQueue


class AsyncHandler(SubscriptionCore):
    """Calls a function, which may be a coroutine function, for every event, in order; the bell of its subscription."""

    _session: AsyncSession

    def __init__(self, queue: AsyncQueue, name: str | None, handler: Callback, since: int | None = None) -> None:
        super().__init__(queue, () if name is None else (name,), since, self)
        self._handler = handler
        self._telling = self._again = False

    async def open(self) -> Self:
        """Listens from here on."""
        await self._session.follow(self._open())
        self.set()  # for what was before
        return self

    def set(self) -> None:
        """There may be events."""
        self._again = True
        if not self._telling and not self._session.closed:
            self._telling = True
            self._session.engine.start(self._tell())

    def clear(self) -> None:
        """The look comes next."""
        self._again = False

    async def _tell(self) -> None:
        self._session.calls_back()
        try:
            while self._again:
                self._again = False
                try:
                    if await self._session.follow(self._tell_next(self._handler)):
                        self._again = True
                except BrokerUnavailable as error:
                    log.warning("callbacks_delayed", queue=self.queue, error=str(error))
                    self._again = True
                    await asyncio.sleep(LOOK_AGAIN)
        finally:
            self._telling = False

    def stop(self) -> None:
        """Calls the function no more."""
        self._leave()


class AsyncSubscription(SubscriptionCore):
    """As `Subscription`, with `async for` and `async with`."""

    def __init__(self, queue: AsyncQueue, names: Sequence[str], since: int | None) -> None:
        super().__init__(queue, names, since, asyncio.Event())
        self._do = queue.do

    async def open(self) -> Self:
        """Listens from here on; `AsyncQueue.subscribe` has done so."""
        await self._do(self._open())
        return self

    async def get(self, timeout: Any = None) -> Event | None:
        """As `Subscription.get`."""
        return await self._do(self._get(timeout))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """As `Subscription.close`."""
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class AsyncEveryQueue:
    """As `EveryQueue`."""

    def __init__(self, broker: AsyncBroker, name: str | None, handler: Callback) -> None:
        self._broker, self._name, self._handler = broker, name, handler
        self._session = broker.session
        self._lock = asyncio.Lock()
        self._handlers: dict[str, AsyncHandler] = {}
        self._names: list[str] = []
        self._open = False

    async def open(self) -> Self:
        """Listens from here on."""
        try:
            await self._session.confirm(self._session.engine.roster.follow(self._changed))
            async with self._lock:
                for queue in self._names:
                    await self._listen(queue, None)
                self._open = True
            await self._meet()
        except BaseException:
            self.stop()
            raise
        return self

    async def _listen(self, queue: str, since: int | None) -> None:
        while queue not in self._handlers:
            try:
                handler = AsyncHandler(self._broker.queue(queue), self._name, self._handler, since)
                self._handlers[queue] = await handler.open()
            except EventsLost as lost:
                since = lost.seq

    def _changed(self, names: list[str]) -> None:
        self._names = names
        if self._open:
            self._session.engine.start(self._meet_by_and_by())

    async def _meet_by_and_by(self) -> None:
        while True:
            try:
                return await self._meet()
            except BrokerUnavailable as error:
                log.warning("callbacks_delayed", error=str(error))
                await asyncio.sleep(LOOK_AGAIN)

    async def _meet(self) -> None:
        """Of a new queue all events are told, from its first."""
        async with self._lock:
            for queue in self._handlers.keys() - set(self._names):
                self._handlers.pop(queue).stop()
            for queue in list(self._names):
                if self._open:
                    await self._listen(queue, 0)
            if not self._open:  # stopped meanwhile, before it could know of the last one
                self._stop_all()

    def stop(self) -> None:
        """Calls the function no more."""
        self._session.engine.roster.leave(self._changed)
        self._open = False
        self._stop_all()

    def _stop_all(self) -> None:
        for handler in self._handlers.values():
            handler.stop()
