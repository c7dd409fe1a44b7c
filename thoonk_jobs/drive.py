"""Runs calls and flows for the blocking client: one connection, for one call at a time, whichever thread asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from thoonk_jobs import connections, faults
from thoonk_jobs.config import Config
from thoonk_jobs.elapsed import Elapsed
from thoonk_jobs.errors import CLOSED, BrokerClosed
from thoonk_jobs.faults import BROKEN, FIRST_PAUSE, LONGEST_PAUSE, Asked
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log
from thoonk_jobs.request import Call, Command, Reply
from thoonk_jobs.server import Server

T = TypeVar("T")


class Wire:
    """Sends calls, and again after a failure, until `retry_for` is over. replied: hears of every reply of a script."""

    def __init__(self, config: Config, process: str, server: Server) -> None:
        self.process = process
        self.elapsed = Elapsed()
        self.closed = threading.Event()
        self.replied: Callable[[QueueKeys, Reply], None] = lambda keys, reply: None
        self._config = config
        self._server = server
        self._lock = threading.Lock()
        self._connection: Any = None

    def _connect(self) -> Any:
        retry = Retry(NoBackoff(), 0)
        connection = connections.make(redis.ConnectionPool, self._server.start(), self._config, 2, retry)
        try:
            connection.connect()
            info, layout = connections.questions(self._config.namespace)
            connection.send_packed_command(connection.pack_commands([info, layout]))
            try:
                told = connection.read_response()
            except redis.exceptions.NoPermissionError:
                told = None
            connections.check(self._config.namespace, told, connection.read_response())
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def run(self, call: Call[T] | Command[T]) -> T:
        """The answer to a call. Raises BrokerUnavailable, BrokerClosed or ConfigError if there is none."""
        until = time.monotonic() + self._config.retry_for
        in_line = max(until, time.monotonic() + 5)
        pause = FIRST_PAUSE
        reused = self._connection is not None
        while True:
            self._check_open()
            try:
                return call.read(self._exchange(call, in_line))
            except BROKEN as error:
                failure = faults.final(error, self._config, call)
                if reused and not failure and not isinstance(error, redis.ResponseError):
                    reused = False  # what others connect meanwhile gives no further try
                    continue  # the connection was broken, and that says nothing of the server as it is now
                if failure or time.monotonic() + pause > until:
                    raise failure or faults.unavailable(error, self._config, call) from None
                log.debug("server_unreachable", error=str(error), retry_in=pause)
            self.closed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise BrokerClosed(CLOSED)

    def _exchange(self, call: Asked, until: float) -> Any:
        """One request and its reply. A connection that failed in between is dropped: its next reply is not ours."""
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise redis.TimeoutError("other threads of this broker wait for the server, too")
        try:
            self._check_open()  # again: closing waits for all who wait for this lock
            if self._connection is None:
                self._connection = self._connect()
            return self._say(call)
        except redis.ResponseError:
            raise
        except BaseException:
            self._drop()
            raise
        finally:
            self._lock.release()

    def _say(self, call: Asked) -> Any:
        connection = self._connection
        if isinstance(call, Command):
            connection.send_command(*call.args)
            return connection.read_response()
        self._server.wrote()
        sent = time.monotonic()
        evaluate = faults.evaluation(call, self.elapsed.head(call.keys.base, call.back), self.process)
        connection.send_command(*evaluate)
        try:
            raw = connection.read_response()
        except redis.exceptions.NoScriptError:
            connection.send_command("SCRIPT", "LOAD", call.script.source)
            connection.read_response()
            connection.send_command(*evaluate)
            raw = connection.read_response()
        reply = Reply(*raw)
        self.elapsed.heard(call.keys.base, sent, reply.now, reply.skew)
        self.replied(call.keys, reply)
        return reply.answer

    def follow(self, flow: Generator[Any, Any, T]) -> T:
        """Runs a conversation: it yields calls and waits, and gets their answers."""
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = flow.throw(error) if error else flow.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = error = None
            try:
                answer = self.run(step) if isinstance(step, Call | Command) else step.block()
            except BaseException as raised:
                error = raised

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.disconnect()

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._drop()
