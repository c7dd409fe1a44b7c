"""Runs calls and flows for the blocking client. Only this file and `notices` see connections of redis-py."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from thoonk_jobs import calls
from thoonk_jobs.calls import Call, Command
from thoonk_jobs.config import Config
from thoonk_jobs.elapsed import Elapsed
from thoonk_jobs.embedded import EmbeddedServer
from thoonk_jobs.errors import BrokerClosed, BrokerUnavailable, ConfigError, IncompatibleServer, ThoonkError
from thoonk_jobs.keys import LAYOUT_VERSION, layout_key
from thoonk_jobs.logs import log
from thoonk_jobs.sync import DiskSync

T = TypeVar("T")

OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
# A server that answers so may do what was asked a little later, or another one does.
PASSING = ("LOADING", "BUSY", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "UNBLOCKED", "NOSCRIPT")
FULL = ("OOM", "MISCONF", "NOREPLICAS")
FORBIDDEN = ("NOAUTH", "NOPERM", "WRONGPASS")
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
BROKEN = (redis.RedisError, OSError)
"""What a connection that failed may raise."""


class Wire:
    """The connections of one process to one server: sends calls, and again after a failure, until `retry_for` is over."""

    def __init__(self, config: Config, process: str) -> None:
        self.process = process
        self.elapsed = Elapsed()
        self.closed = threading.Event()
        self._config = config
        self._server = EmbeddedServer(config.directory) if config.embedded else None
        self._sync = DiskSync(self._server.directory) if self._server else None
        self._idle: deque[Any] = deque()
        self._pool: tuple[str, redis.ConnectionPool] | None = None

    @property
    def url(self) -> str:
        """Where the server is; starts an embedded one."""
        return self._server.start() if self._server else str(self._config.server_url)

    def connect(self) -> Any:
        """A new connection that passed the checks of `_check`."""
        url = self.url
        if self._pool is None or self._pool[0] != url:
            self._pool = (url, self._new_pool(url))
        connection: Any = self._pool[1].make_connection()
        try:
            connection.connect()
            _check(connection, self._config.namespace)
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _new_pool(self, url: str) -> redis.ConnectionPool:
        options = {"socket_timeout": 5, "socket_connect_timeout": 5, **self._config.redis_options}
        ours = {
            "protocol": 2, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "decode_responses": False,
            "health_check_interval": 0,
        }  # fmt: skip
        try:
            pool = redis.ConnectionPool.from_url(url, **options, **ours)
            pool.connection_kwargs.update(ours)  # not for options in the URL to change
            pool.make_connection()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"cannot connect to {self._config.url}: {error}") from error
        return pool

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection for one exchange; one that failed in between is dropped, for its next reply is not ours."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connect()
        try:
            yield connection
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)

    def run_last(self, call: Call[T]) -> T:
        """`run`, once, of a broker that is being closed."""
        try:
            return call.read(self._exchange(call))
        except (*BROKEN, ValueError) as error:
            raise self._failure(error, call) or self._unavailable(error, call) from error

    def run(self, call: Call[T] | Command[T]) -> T:
        """The answer to a call. Raises BrokerUnavailable, BrokerClosed or ConfigError if there is none."""
        until = time.monotonic() + self._config.retry_for
        pause = FIRST_PAUSE
        while True:
            if self.closed.is_set():
                raise BrokerClosed("this broker was closed; make another one")
            reused = bool(self._idle)
            try:
                return call.read(self._exchange(call))
            except BROKEN as error:
                failure = self._failure(error, call)
                if reused and not failure and not isinstance(error, redis.ResponseError):
                    self._drop_idle()  # they broke together, and that says nothing of the server as it is now
                    continue
                if failure or time.monotonic() + pause > until:
                    raise failure or self._unavailable(error, call) from None
                log.debug("server_unreachable", error=str(error), retry_in=pause)
            self.closed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _exchange(self, call: Call[Any] | Command[Any]) -> Any:
        with self._connection() as connection:
            if isinstance(call, Command):
                connection.send_command(*call.args)
                return connection.read_response()
            if self._sync:
                self._sync.wrote()
            sent, keys = time.monotonic(), call.keys.keys
            head = self.elapsed.head(call.keys.base, call.back)
            evaluate = ("EVALSHA", call.script.sha, len(keys), *keys, head, self.process, *call.args)
            connection.send_command(*evaluate)
            try:
                reply = calls.Reply(*connection.read_response())
            except redis.exceptions.NoScriptError:
                connection.send_command("SCRIPT", "LOAD", call.script.source)
                connection.read_response()
                connection.send_command(*evaluate)
                reply = calls.Reply(*connection.read_response())
            self.elapsed.heard(call.keys.base, sent, reply.now, reply.skew)
            return reply.answer

    def _failure(self, error: Exception, call: Call[Any] | Command[Any]) -> Exception | None:
        """What to raise at once; None where the call may be sent again."""
        if isinstance(error, BrokerUnavailable):
            return None  # an embedded server that did not start: it may at the next try
        if isinstance(error, ThoonkError):
            return error
        code = code_of(error)
        if code in FORBIDDEN:
            return ConfigError(f"{self._config.url} refuses this user or password: {error}")
        if code in FULL:
            return self._unavailable(error, call)
        if isinstance(error, redis.ResponseError) and code not in PASSING:
            return ThoonkError(f"{self._config.url} did not understand: {error}; is it a Redis or Valkey server?")
        return None

    def _unavailable(self, error: Exception, call: Call[Any] | Command[Any]) -> BrokerUnavailable:
        if isinstance(error, BrokerUnavailable):
            error.job_ids = list(getattr(call, "job_ids", ()))
            return error
        code, config = code_of(error), self._config
        if code in FULL:
            told = f"{config.url} is full or cannot write: {error}; make room, then try again"
        else:
            told = f"no answer from {config.url} in {config.retry_for:g} s: {error}; start it, or mend the URL"
        return BrokerUnavailable(told, code=code, job_ids=getattr(call, "job_ids", ()))

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

    def _drop_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().disconnect()

    def close(self) -> None:
        """Ends all idle connections, and puts the last writes on the disk."""
        if self._sync:
            self._sync.close()
        self._drop_idle()


def code_of(error: BaseException) -> str:
    """The server's own word for an error, as `OOM`; "" for one that is not the server's."""
    if not isinstance(error, redis.RedisError):
        return ""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return str(code) if str(code).isupper() else ""


def _check(connection: Any, namespace: str) -> None:
    """Refuses, before any write, a server that would lose or misread jobs."""
    connection.send_packed_command(connection.pack_commands([("INFO",), ("GET", layout_key(namespace))]))
    try:
        info = _parse_info(connection.read_response())
    except redis.exceptions.NoPermissionError:
        info = {}
    layout = connection.read_response()
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "")
    where = f"the {kind} server {version}"
    if version and tuple(map(int, version.split(".")[:2])) < OLDEST[kind]:
        oldest = ".".join(map(str, OLDEST[kind]))
        raise IncompatibleServer(f"{where} is too old; use {kind} {oldest} or newer, or the embedded server")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise IncompatibleServer(
            f"{where} may evict jobs when memory is full (maxmemory-policy {policy}); "
            "set it to noeviction with CONFIG SET maxmemory-policy noeviction")  # fmt: skip
    if layout is not None and int(layout) > LAYOUT_VERSION:
        raise IncompatibleServer(
            f"namespace {namespace!r} has key layout {int(layout)}, this thoonk-jobs knows {LAYOUT_VERSION}; "
            "upgrade thoonk-jobs here")  # fmt: skip


def _parse_info(raw: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in raw.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}
