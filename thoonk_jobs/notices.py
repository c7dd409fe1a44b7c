"""One subscription connection for all a process waits for. Its thread only routes: notices ring, keys tell."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from thoonk_jobs import news
from thoonk_jobs.drive import BROKEN, FIRST_PAUSE, FORBIDDEN, LONGEST_PAUSE, Wire, code_of
from thoonk_jobs.errors import BrokerClosed, BrokerUnavailable, ConfigError, ThoonkError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log


class Listener(Protocol):
    """Who else wants the news: the callbacks and the held claims."""

    def job_news(self, keys: QueueKeys, stalls: dict[str, float]) -> None: ...
    def claim_lost(self, keys: QueueKeys, id: str, token: int) -> None: ...
    def may_have_missed(self, keys: QueueKeys) -> None: ...


@dataclass(frozen=True, slots=True)
class Pause:
    """Waits until the bell rings, or the time is over."""

    bell: ThreadBell
    timeout: float | None

    def block(self) -> None:
        """Raises BrokerClosed if the broker was closed meanwhile."""
        self.bell.rung.wait(None if self.timeout is None else min(self.timeout, threading.TIMEOUT_MAX))
        self.bell.notices.check_open()


class ThreadBell:
    """A bell for one waiting thread."""

    def __init__(self, notices: Notices, topic: tuple[str, str | None]) -> None:
        self.notices = notices
        self.topic = topic
        self.rung = threading.Event()
        self.clear = self.rung.clear

    def pause(self, timeout: float | None) -> Pause:
        """A step that waits for a ring."""
        return Pause(self, timeout)

    def close(self) -> None:
        """Listens no more."""
        self.notices.dismiss(self)


@dataclass(frozen=True, slots=True)
class Listen:
    """Makes a bell; the subscription behind it is confirmed before anything is looked at, if that is in time."""

    notices: Notices
    keys: QueueKeys
    id: str | None
    timeout: float | None

    def block(self) -> ThreadBell:
        """Waits through an outage, until the time is over."""
        return self.notices.bell(self.keys, self.id, self.timeout)


class Notices:
    """The subscriptions of one process, one channel a queue, made anew after every failure."""

    def __init__(self, wire: Wire, listener: Listener) -> None:
        self._wire = wire
        self._listener = listener
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._connection: Any = None
        self._queues: dict[str, QueueKeys] = {}
        self._confirmed: set[str] = set()
        self._bells: dict[tuple[str, str | None], set[ThreadBell]] = defaultdict(set)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def listen(self, keys: QueueKeys, id: str | None, timeout: float | None) -> Listen:
        """A step that answers a bell: for jobs of the queue, or for news of one job."""
        return Listen(self, keys, id, timeout)

    def hears(self, keys: QueueKeys) -> bool:
        """Whether the channel of a queue is subscribed at present."""
        with self._lock:
            return keys.process_channel(self._wire.process) in self._confirmed

    def want(self, keys: QueueKeys) -> None:
        """Subscribes to this process's channel of a queue, without waiting for the confirmation."""
        with self._changed:
            channel = keys.process_channel(self._wire.process)
            if channel not in self._queues:
                self._queues[channel] = keys
                if self._connection:
                    self._send(channel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="thoonk-notices", daemon=True)
                self._thread.start()

    def bell(self, keys: QueueKeys, id: str | None, timeout: float | None) -> ThreadBell:
        """A bell that is hung before the subscription is confirmed, so it misses nothing after."""
        bell = ThreadBell(self, (keys.base, id))
        with self._lock:
            self._bells[bell.topic].add(bell)
        try:
            with suppress(BrokerUnavailable):  # the time is over: the caller's last look tells
                self.subscribe(keys, patience=timeout)
        except BaseException:
            self.dismiss(bell)
            raise
        return bell

    def dismiss(self, bell: ThreadBell) -> None:
        """Forgets a bell."""
        with self._lock:
            bells = self._bells.get(bell.topic, set())
            bells.discard(bell)
            if not bells:
                self._bells.pop(bell.topic, None)

    def check_open(self) -> None:
        """Raises BrokerClosed once the broker is closed."""
        if self._wire.closed.is_set():
            raise BrokerClosed("the broker was closed while this call waited")

    def subscribe(self, keys: QueueKeys, patience: float | None) -> None:
        """Returns once this process hears its channel of a queue.

        patience  seconds to wait through an outage, then BrokerUnavailable; None for ever.
        """
        channel = keys.process_channel(self._wire.process)
        self.want(keys)
        with self._changed:
            patience = patience if patience is None else min(patience, threading.TIMEOUT_MAX)
            self._changed.wait_for(
                lambda: channel in self._confirmed or self._error or self._wire.closed.is_set(), patience
            )
            self.check_open()
            if channel in self._confirmed:
                return
            if self._error:
                raise self._error
        raise BrokerUnavailable(f"no subscription to queue {keys.queue!r} in {patience:g} s; is the server up?")

    def waits_for(self, keys: QueueKeys, id: str) -> bool:
        """Whether a bell of this process listens for news of a job."""
        with self._lock:
            return (keys.base, id) in self._bells

    def _send(self, channel: str) -> None:
        try:
            self._connection.send_command("SSUBSCRIBE", channel)
        except BROKEN:
            log.debug("subscribe_failed", channel=channel)  # the reading thread meets the same and connects anew

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._wire.closed.is_set():
            try:
                self._connect()
                pause = FIRST_PAUSE
                while True:
                    self._hear(self._connection.read_response(disable_decoding=True, timeout=None))
            except (*BROKEN, ThoonkError, AttributeError, ValueError) as error:
                self._disconnected(error)
            self._wire.closed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _connect(self) -> None:
        connection = self._wire.connect()
        with self._lock:
            self._connection = connection
            self._error = None
            self.check_open()
            for channel in self._queues:
                self._send(channel)

    def _disconnected(self, error: Exception) -> None:
        with self._changed:
            connection, self._connection = self._connection, None
            self._confirmed.clear()
            if code_of(error) in FORBIDDEN:
                self._error = ConfigError(f"the server lets this user not subscribe: {error}; allow its channels")
            elif isinstance(error, ThoonkError) and not isinstance(error, BrokerUnavailable):
                self._error = error
            self._changed.notify_all()
        if connection:
            connection.disconnect()
        if not self._wire.closed.is_set():
            log.info("subscription_lost", error=str(error))

    def _hear(self, message: list[Any]) -> None:
        kind, channel = message[0], message[1].decode()
        keys = self._queues[channel]
        if kind == b"ssubscribe":
            with self._changed:
                self._confirmed.add(channel)
                self._changed.notify_all()
            self._ring_all(keys)
            self._listener.may_have_missed(keys)
        elif kind == b"smessage":
            self._route(keys, message[2][:1], message[2][1:])

    def _route(self, keys: QueueKeys, kind: bytes, told: bytes) -> None:
        if kind == news.WAKE:
            self._ring(keys, None)
        elif kind in (news.JOBS, news.STALLED):
            stalls = dict(news.stalls(told) if kind == news.STALLED else ((id, 0.0) for id in news.job_news(told)))
            for id in stalls:
                self._ring(keys, id)
            self._listener.job_news(keys, stalls)
        elif kind == news.CLAIMS:
            for id, token in news.lost_claims(told):
                self._listener.claim_lost(keys, id, token)

    def _ring(self, keys: QueueKeys, id: str | None) -> None:
        with self._lock:
            for bell in self._bells.get((keys.base, id), ()):
                bell.rung.set()

    def _ring_all(self, keys: QueueKeys | None = None) -> None:
        with self._lock:
            for (base, _), bells in self._bells.items():
                if keys is None or base == keys.base:
                    for bell in bells:
                        bell.rung.set()

    def close(self) -> None:
        """Wakes all that wait, to find the broker closed, and ends the thread. The wire is closed first."""
        self._ring_all()
        with self._changed:
            connection, self._connection = self._connection, None
            self._changed.notify_all()
        if connection:
            connection.disconnect()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(5)
