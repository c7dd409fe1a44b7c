"""The broker of the asyncio client."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from typing import Any, Self

from thoonk_jobs import arguments, calls
from thoonk_jobs.aio_claim import AsyncJob
from thoonk_jobs.aio_queue import AsyncQueue
from thoonk_jobs.aio_session import AsyncSession
from thoonk_jobs.aio_subscription import AsyncEveryQueue
from thoonk_jobs.config import Config
from thoonk_jobs.errors import CLOSED, BrokerClosed, ThoonkError
from thoonk_jobs.job import Stored
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import State
from thoonk_jobs.publication import Callback

_brokers: weakref.WeakSet[AsyncBroker] = weakref.WeakSet()


class AsyncBroker:
    """A job broker for asyncio, with the arguments of `Broker`; belongs to the event loop in which it is first used.

    What tasks ask of a queue in the same turn of the loop goes out as one call; cancelling one of them takes nothing
    from the others. A call that was cancelled on its way may or may not have happened; asking again does it once.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "thoonk",
        publisher: str | None = None,
        retry_for: Any = 10.0,
        **redis_options: Any,
    ) -> None:
        self.config = Config.make(url, namespace, publisher, retry_for, redis_options)
        self._clock: Callable[[], int | None] = lambda: None
        self._session: AsyncSession | None = None
        self._closed = False
        self._url: str | None = None
        _brokers.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncBroker {self.config.url!r} namespace {self.config.namespace!r}>"

    @property
    def session(self) -> AsyncSession:
        """What this process has of the broker in the running loop; made on first use."""
        if self._closed:
            raise BrokerClosed(CLOSED)
        loop = asyncio.get_running_loop()
        if self._session and self._session.loop is not loop:
            if not self._session.loop.is_closed():
                raise ThoonkError("this broker is used in another event loop; make one for each loop")
            self._session.server.close()
            self._session = None
        if self._session is None:
            self._session = AsyncSession(self.config, self._make_job, lambda: self._clock())
        return self._session

    def _make_job(self, keys: QueueKeys, id: str, stored: Stored | None) -> AsyncJob:
        job: AsyncJob = self.queue(keys.queue).make_job(id, stored)
        return job

    async def start(self) -> None:
        """Starts an embedded server, where it does not run; after that `url` can be read."""
        self._url = await self.session.server.reach()

    @property
    def url(self) -> str:
        """With which another process, and any Redis client, reaches the same server; an embedded one after `start`."""
        if self._url is None and self.config.embedded:
            raise ThoonkError("the URL of an embedded server is known once it runs; await broker.start() first")
        return self._url or str(self.config.server_url)

    def queue(self, name: str) -> AsyncQueue:
        """A queue by its name, 1-200 characters; it need not exist."""
        return AsyncQueue(self, name)

    async def queues(self) -> list[str]:
        """As `Broker.queues`."""
        return await self.session.run(calls.queues(self.config.namespace))

    async def counts(self) -> dict[str, dict[State, int]]:
        """As `Broker.counts`."""
        return {name: await self.queue(name).counts() for name in await self.queues()}

    async def on(self, event: str | None, handler: Callback) -> Callable[[], None]:
        """As `Broker.on`; the handler may be a coroutine function. What it answers is called without await."""
        return (await AsyncEveryQueue(self, event, handler).open()).stop

    async def ping(self) -> None:
        """As `Broker.ping`."""
        await self.session.run(calls.ping())

    async def join(self, timeout: Any = None) -> None:
        """As `Broker.join`."""
        span = arguments.seconds(timeout, "timeout")
        if not await self.session.callbacks.join(span):
            raise TimeoutError(f"jobs of this publisher are neither finished nor stalled after {span:g} s")

    async def close(self, wait: Any = 0) -> None:
        """As `Broker.close`."""
        span = arguments.seconds(wait, "wait")
        session, closed = self._session, self._closed
        if session and not closed and span != 0:
            await session.callbacks.join(span)
        self._closed, self._session = True, None
        if session and session.loop is asyncio.get_running_loop():
            await session.close()

    def forked(self) -> None:
        """In a forked child: connections, tasks, callbacks and claims are the parent's."""
        self._session = None


def _after_fork() -> None:
    for broker in list(_brokers):
        broker.forked()


os.register_at_fork(after_in_child=_after_fork)
