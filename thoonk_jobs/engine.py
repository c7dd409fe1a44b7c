"""What a process does on its event loop for one broker: says and hears everything over one connection, made anew after
every failure; what waits is told to look again then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from copy import copy
from typing import Any, TypeVar

from thoonk_jobs import calls, faults, news
from thoonk_jobs.attention import Attention
from thoonk_jobs.commit import GroupCommit
from thoonk_jobs.config import Config
from thoonk_jobs.elapsed import Elapsed
from thoonk_jobs.errors import CLOSED, CLOSED_MEANWHILE, BrokerClosed, ThoonkError
from thoonk_jobs.faults import FIRST_PAUSE, LONGEST_PAUSE, Asked
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log
from thoonk_jobs.request import Call, Command, Reply
from thoonk_jobs.roster import Roster
from thoonk_jobs.server import Server
from thoonk_jobs.stream import Stream
from thoonk_jobs.timing import LOOK_AGAIN

T = TypeVar("T")


class Engine:
    """Belongs to one event loop; other threads reach it by `post`."""

    def __init__(
        self, config: Config, process: str, worker: str, elapsed: Elapsed, server: Server, listener: news.Listener
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.process = process
        self.worker = worker
        self.listener = listener
        self.closed = False
        self._config = config
        self._elapsed = elapsed
        self._server = server
        self._stream: Stream | None = None
        self._over = False
        self._opening = asyncio.Lock()
        self._attended: dict[str, Attention] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reconnecting: asyncio.Task[Any] | None = None
        self.roster = Roster(self, config.namespace)
        self._commit = GroupCommit(self._run, self.start)

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does something beside; its errors are logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, BrokerClosed):
            log.warning("engine_failed", error=repr(error))

    # Calls.

    async def run(self, call: Call[T] | Command[T]) -> T:
        """The answer to a call, which goes out with others of the same turn. Raises as `Wire.run`."""
        if isinstance(call, Call) and call.width:
            answer: T = await self._commit.join(call)
            return answer
        return await self._run(call)

    async def run_last(self, call: Call[T]) -> T:
        """The answer to a call that is sent once, also when the broker is being closed."""
        try:
            return call.read(await self._exchange(call))
        except (*faults.BROKEN, ThoonkError) as error:
            raise faults.final(error, self._config, call) or faults.unavailable(error, self._config, call) from None

    async def _run(self, call: Call[T] | Command[T]) -> T:
        until = time.monotonic() + self._config.retry_for
        pause = FIRST_PAUSE
        while True:
            if self.closed:
                raise BrokerClosed(CLOSED)
            reused = self._stream is not None and not self._stream.closed
            try:
                return call.read(await self._exchange(call))
            except (*faults.BROKEN, ThoonkError) as error:
                failure = faults.final(error, self._config, call)
                if reused and not failure and not isinstance(error, faults.REFUSED):
                    continue  # the connection was broken, and that says nothing of the server as it is now
                if failure or time.monotonic() + pause > until:
                    raise failure or faults.unavailable(error, self._config, call) from None
                log.debug("server_unreachable", error=str(error), retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def give_back(self, keys: QueueKeys, job: Any) -> None:
        """Nobody will get to see this claim: it goes back, at no cost."""
        self.start(self.run_last(calls.give_back(keys, job.id, job.token)))

    def post(self, act: Callable[..., Any], *args: Any) -> None:
        """Does something in the loop, from any thread."""
        try:
            self.loop.call_soon_threadsafe(act, *args)
        except RuntimeError:
            pass  # the loop has ended: there is nothing left to do

    async def _exchange(self, call: Asked) -> Any:
        stream = await self._connected()
        if isinstance(call, Command):
            return await stream.say(*call.args)
        self._server.wrote()
        sent, base = time.monotonic(), call.keys.base
        evaluate = faults.evaluation(call, self._elapsed.head(base, call.back), self.process)
        try:
            raw = await stream.say(*evaluate)
        except faults.REFUSED as error:
            if faults.code_of(error) != "NOSCRIPT":
                raise
            await stream.say("SCRIPT", "LOAD", call.script.source)
            raw = await stream.say(*evaluate)
        reply = Reply(*raw)
        self._elapsed.heard(base, sent, reply.now, reply.skew)
        if base in self._attended:
            self._attended[base].replied(reply)
        return reply.answer

    # The connection.

    async def _connected(self) -> Stream:
        if self._stream and not self._stream.closed:
            return self._stream
        async with self._opening:
            if self._stream and not self._stream.closed:
                return self._stream
            url = await self._server.reach()
            stream = self._stream = await Stream.open(url, self._config, self._hear, self._lost)
            if self._over:  # closed meanwhile: nobody would close this one
                stream.close()
                raise BrokerClosed(CLOSED)
            for attention in self._attended.values():
                self._subscribe(stream, attention)
            self.roster.begin(stream)
            return stream

    def _lost(self, error: Exception) -> None:
        for attention in self._attended.values():
            attention.confirmed.clear()
        if (self._attended or self.roster) and not self.closed:
            log.info("subscription_lost", error=str(error))
            self._reconnect()

    def _reconnect(self) -> None:
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = self.loop.create_task(self._connect_again())

    async def _connect_again(self) -> None:
        pause = FIRST_PAUSE
        while not self.closed and (self._attended or self.roster):
            try:
                await self._connected()
                return
            except (*faults.BROKEN, ThoonkError) as error:
                if failure := faults.hopeless(error, self._config):
                    for attention in self._attended.values():
                        attention.fail(failure)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    # Subscriptions.

    def attend(self, keys: QueueKeys) -> Attention:
        """From now on this process hears what concerns it in a queue, and looks after its time."""
        attention = self._attended.get(keys.base)
        if attention is None:
            attention = self._attended[keys.base] = Attention(keys, self)
            if self.closed:
                attention.fail(BrokerClosed(CLOSED_MEANWHILE))
            elif self._stream and not self._stream.closed:
                self._subscribe(self._stream, attention)
            else:
                self._reconnect()
        return attention

    def attention(self, keys: QueueKeys) -> Attention | None:
        """What this process minds of a queue, if it attends to it; for any thread."""
        return self._attended.get(keys.base)

    async def attended(self, keys: QueueKeys) -> None:
        """Returns once this process hears its channel of a queue. Raises ConfigError where it may not."""
        attention = None
        while attention is None or self._attended.get(keys.base) is not attention:  # left meanwhile: attends anew
            attention = self.attend(keys)
            await attention.confirmed.wait()
            if attention.failure:
                raise copy(attention.failure)

    async def followed(self, keys: QueueKeys) -> None:
        """As `attended`; from now on this process hears of all that happens in a queue, too."""
        await self.attended(keys)
        self.attend(keys).follows = True  # a new connection begins with its channel, too
        await self.subscribed(keys.events_channel)

    async def subscribed(self, channel: str) -> None:
        """Returns once this process hears a channel. Raises ConfigError where it may not."""
        while True:
            try:
                return await (await self._connected()).subscribe(channel)  # type: ignore[no-any-return]
            except faults.BROKEN as error:
                if failure := faults.hopeless(error, self._config):
                    raise failure from None
                await asyncio.sleep(LOOK_AGAIN)

    def unfollow(self, keys: QueueKeys) -> None:
        """Nobody in this process wants to hear all that happens in a queue any more."""
        if attention := self._attended.get(keys.base):
            attention.follows = False
            if self._stream and not self._stream.closed:
                self._stream.unsubscribe(keys.events_channel)

    def _subscribe(self, stream: Stream, attention: Attention) -> None:
        if stream.closed or self._attended.get(attention.keys.base) is not attention:
            return
        confirmed = stream.subscribe(*attention.channels)
        confirmed.add_done_callback(lambda future: self._subscribed(stream, attention, future))

    def _subscribed(self, stream: Stream, attention: Attention, future: asyncio.Future[Any]) -> None:
        if future.cancelled() or self._attended.get(attention.keys.base) is not attention:
            return
        if error := future.exception():
            if isinstance(error, Exception) and (failure := faults.hopeless(error, self._config)):
                attention.fail(failure)
            else:
                self.loop.call_later(LOOK_AGAIN, self._subscribe, stream, attention)
            return
        attention.begin()
        self.listener.may_have_missed(attention.keys)

    def drop_connection(self, why: str) -> None:
        """It does not carry notices any more."""
        if self._stream:
            self._stream.close(faults.broken(why))

    def leave(self, attention: Attention) -> None:
        """Nothing in this process waits for news of this queue any more; who comes next attends anew."""
        keys = attention.keys
        del self._attended[keys.base]
        attention.end()
        attention.confirmed.set()
        if self._stream and not self._stream.closed:
            self._stream.unsubscribe(*attention.channels)
        self.start(self._run(calls.leave_line(keys)))
        if self.listener.attends(keys):  # another thread came just now, and took this for attended to
            self.attend(keys)

    def _hear(self, message: list[Any]) -> None:
        channel = message[1].decode()
        base, _, kind = channel.rpartition("}")
        if channel == self.roster.channel:
            self.roster.heard()
        elif attention := self._attended.get(base + "}"):
            attention.heard(kind, message[2])

    # The end.

    def stop(self) -> None:
        """Waiting gets end with BrokerClosed, and nothing is begun any more."""
        self.closed = True
        for attention in self._attended.values():
            attention.fail(BrokerClosed(CLOSED_MEANWHILE))
            attention.end()

    async def close(self, spared: asyncio.Task[Any] | None = None) -> None:
        """After `stop`: leaves all lines, and ends the connection. spared: the task that waits for this."""
        try:
            if self._stream and not self._stream.closed:
                leaving = [self.run_last(calls.leave_line(attention.keys)) for attention in self._attended.values()]
                await asyncio.gather(*leaving, return_exceptions=True)
            self._attended.clear()
            until = self.loop.time() + 1
            while (others := self._tasks - {spared}) and (left := until - self.loop.time()) > 0:
                await asyncio.wait(others, timeout=left)  # one may begin another, as to give a job back
            rest = {*self._tasks, *filter(None, [self._reconnecting])} - {spared}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
        finally:
            self.end()
            if self._stream:
                await self._stream.ended()

    def end(self) -> None:
        """Ends the connection for good, whatever is still on its way."""
        self._over = True
        self.drop_connection("the broker was closed")
