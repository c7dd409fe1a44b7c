"""The broker: where queues come from."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Self

from thoonk_jobs import arguments, calls
from thoonk_jobs.blocking import BlockingSession
from thoonk_jobs.claim import Job
from thoonk_jobs.config import Config
from thoonk_jobs.errors import CLOSED, BrokerClosed
from thoonk_jobs.job import Stored
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import State
from thoonk_jobs.publication import Callback
from thoonk_jobs.queue import Queue
from thoonk_jobs.subscription import EveryQueue

_brokers: weakref.WeakSet[Broker] = weakref.WeakSet()


class Broker:
    """A job broker on a Redis or Valkey server; connects to nothing until it is used.

    url            None is env THOONK_URL, else `embedded:`, a private server that is started on demand.
                   `embedded:/some/dir`, `redis://`, `rediss://`, `valkey://`, `unix:///path`.
    namespace      brokers of different namespaces see nothing of each other.
    publisher      a durable name for this publisher.
    retry_for      seconds in which a call is sent again, with the same id, while the server does not answer.
    redis_options  further options for redis-py, as `password` or `ssl_ca_certs`.

    May be shared by threads, and used on both sides of a fork. As a context manager it is closed at the end.
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
        self._lock = threading.Lock()
        self._session: BlockingSession | None = None
        self._closed = False
        _brokers.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Broker {self.config.url!r} namespace {self.config.namespace!r}>"

    @property
    def session(self) -> BlockingSession:
        """What this process has of the broker; made on first use."""
        with self._lock:
            if self._closed:
                raise BrokerClosed(CLOSED)
            if self._session is None:
                self._session = BlockingSession(self.config, self._make_job, lambda: self._clock())
            return self._session

    def _make_job(self, keys: QueueKeys, id: str, stored: Stored | None) -> Job:
        return Job(self.queue(keys.queue), id, stored)

    @property
    def url(self) -> str:
        """With which another process, and any Redis client, reaches the same server; starts an embedded one."""
        return self.session.server.start()

    def queue(self, name: str) -> Queue:
        """A queue by its name, 1-200 characters; it need not exist."""
        return Queue(self, name)

    def queues(self) -> list[str]:
        """The names of all queues that were published to or configured, sorted."""
        return self.session.run(calls.queues(self.config.namespace))

    def counts(self) -> dict[str, dict[State, int]]:
        """How many jobs are in each state of each queue."""
        return {name: self.queue(name).counts() for name in self.queues()}

    def on(self, event: str | None, handler: Callback) -> Callable[[], None]:
        """As `Queue.on`, for every queue; of one that comes later all events are told, from its first."""
        return EveryQueue(self, event, handler).stop

    def ping(self) -> None:
        """Returns when the server answered. Raises BrokerUnavailable, ConfigError or IncompatibleServer."""
        self.session.run(calls.ping())

    def join(self, timeout: Any = None) -> None:
        """Wait until for every on_finish registered here it has been called, or its job is stalled.

        timeout  seconds; None waits for ever. Raises TimeoutError.
        """
        span = arguments.seconds(timeout, "timeout")
        if not self.session.callbacks.join(span):
            raise TimeoutError(f"jobs of this publisher are neither finished nor stalled after {span:g} s")

    def close(self, wait: Any = 0) -> None:
        """End what this broker does in this process; may be called twice.

        wait  seconds of `join` before; None waits for ever.

        Waiting calls end with BrokerClosed, held claims are given back at no cost, renewals stop.
        """
        span = arguments.seconds(wait, "wait")
        with self._lock:
            session = self._session
        if session and not self._closed and span != 0:
            session.callbacks.join(span)
        with self._lock:
            session, self._closed, self._session = self._session, True, None
        if session:
            session.close()

    def forked(self) -> None:
        """In a forked child: connections, threads, callbacks and claims are the parent's."""
        self._lock = threading.Lock()
        self._session = None


def _after_fork() -> None:
    for broker in list(_brokers):
        broker.forked()


os.register_at_fork(after_in_child=_after_fork)
