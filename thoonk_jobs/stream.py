"""One connection for all that a process says and hears on an event loop: calls in a row, and notices in between.

It is made and greeted by redis-py. What it says then goes out at once, many commands before the first reply; RESP3 lets
the notices of its subscriptions come over the same connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from thoonk_jobs import connections, faults
from thoonk_jobs.config import Config
from thoonk_jobs.scripts import SCRIPTS

REPLY_IN = 5.0
"""Seconds in which a server answers, where socket_timeout does not say so; else the connection is taken for dead."""
_PART = 1 << 16


@dataclass(slots=True)
class _Awaited:
    """A reply that is to come; of a subscription and of its end, a push of this kind for each channel."""

    future: asyncio.Future[Any]
    since: float
    push: bytes
    parts: int


class Stream:
    """A greeted connection.

    hear  called with every notice, as [kind, channel, message].
    lost  called once, with the error, when the connection is no more.
    """

    def __init__(
        self, connection: Any, reply_in: float, hear: Callable[[list[Any]], None], lost: Callable[[Exception], None]
    ) -> None:
        self._reply_in = reply_in
        self._reader: asyncio.StreamReader = connection._reader
        self._writer: asyncio.StreamWriter = connection._writer
        connection._reader = connection._writer = None  # it is not redis-py's to close any more
        self._hear = hear
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._awaited: deque[_Awaited] = deque()
        self._answered = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.closed = False
        self._task = self._loop.create_task(self._read())

    @classmethod
    async def open(cls, url: str, config: Config, hear: Any, lost: Any) -> Stream:
        """A connection that passed the checks of `connections.check`."""
        connection = connections.make(redis.asyncio.ConnectionPool, url, config, 3, Retry(NoBackoff(), 0))
        await connection.connect()
        stream = cls(connection, config.redis_options.get("socket_timeout") or REPLY_IN, hear, lost)
        try:
            info, layout = (stream.say(*command) for command in connections.questions(config.namespace))
            loaded = stream.say("SCRIPT", "EXISTS", *(script.sha for script in SCRIPTS.values()))
            try:
                told = await info
            except redis.ResponseError as error:
                if faults.code_of(error) != "NOPERM":
                    raise
                told = None
            connections.check(config.namespace, told, await layout)
            await stream._load_scripts(loaded)
        except BaseException:
            stream.close()
            await stream.ended()
            raise
        return stream

    async def _load_scripts(self, loaded: asyncio.Future[list[int]]) -> None:
        """All that the server lacks: a renewal that waits in a server that stands still must not miss its script."""
        with suppress(redis.ResponseError):  # where it is not allowed, each is loaded when it is missed
            for script, there in zip(SCRIPTS.values(), await loaded, strict=True):
                if not there:
                    self.say("SCRIPT", "LOAD", script.source).add_done_callback(_heed)

    def say(self, *command: Any, push: bytes = b"", parts: int = 1) -> asyncio.Future[Any]:
        """Sends a command; its reply comes in the future, an error of the server as an exception."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.closed:
            future.set_exception(redis.ConnectionError("the connection was lost"))
            return future
        self._awaited.append(_Awaited(future, self._loop.time(), push, parts))
        self._writer.write(_packed(*command))
        if self._watch is None:
            self._watch = self._loop.call_later(self._reply_in, self._check)
        return future

    def subscribe(self, *channels: str) -> asyncio.Future[Any]:
        """Subscribes; the future is done when all of them are confirmed."""
        return self.say("SSUBSCRIBE", *channels, push=b"ssubscribe", parts=len(channels))

    def unsubscribe(self, *channels: str) -> None:
        """Hears these channels no more."""
        self.say("SUNSUBSCRIBE", *channels, push=b"sunsubscribe", parts=len(channels)).add_done_callback(_heed)

    def _check(self) -> None:
        """For how long does the oldest command wait for its reply, since all before it were answered?"""
        self._watch = None
        if not self._awaited:
            return
        left = max(self._awaited[0].since, self._answered) + self._reply_in - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._check)
        else:
            self.close(redis.TimeoutError(f"no reply in {self._reply_in:g} s"))

    async def _read(self) -> None:
        replies = hiredis.Reader(replyError=redis.ResponseError)
        try:
            while part := await self._reader.read(_PART):
                replies.feed(part)
                while (reply := replies.gets()) is not False:
                    self._take(reply)
            raise redis.ConnectionError("the server closed the connection")
        except (*faults.BROKEN, hiredis.HiredisError) as error:
            self.close(error)
        finally:  # also when the loop ends without a close
            self._writer.transport.abort()

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
            if reply[0] == b"smessage":
                # Who awaits a reply that came before goes on first: what the reply says is older.
                self._loop.call_soon(self._hear, reply)
            elif self._awaited and reply[0] == self._awaited[0].push:
                self._awaited[0].parts -= 1
                if self._awaited[0].parts == 0:
                    self._answer(None)
            return
        self._answer(reply)

    def _answer(self, reply: Any) -> None:
        future = self._awaited.popleft().future
        self._answered = self._loop.time()
        if future.done():  # nobody waits for it any more
            return
        if isinstance(reply, redis.ResponseError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def close(self, error: Exception | None = None) -> None:
        """Ends the connection; who waits for a reply hears that there will be none."""
        if self.closed:
            return
        self.closed = True
        if self._watch:
            self._watch.cancel()
        if self._task is not asyncio.current_task():
            self._task.cancel()
        self._writer.transport.abort()
        failure = error or redis.ConnectionError("the connection was closed")
        for awaited in self._awaited:
            if not awaited.future.done():
                awaited.future.set_exception(failure)
                awaited.future.exception()  # of some the reply does not matter; that is no trouble for the loop
        self._awaited.clear()
        self._lost(failure)

    async def ended(self) -> None:
        """After `close`: returns when nothing of it runs any more."""
        await asyncio.wait({self._task})


def _packed(*command: Any) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _heed(future: asyncio.Future[Any]) -> None:
    """A refusal is no concern: a script is loaded when it is missed, a channel that is heard on is not listened to."""
    if not future.cancelled():
        future.exception()
