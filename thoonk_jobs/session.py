"""What a broker has in one process, made on first use and made anew in a forked child."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from copy import copy
from typing import Any

from thoonk_jobs import calls, flows, news, request
from thoonk_jobs.bells import Bells
from thoonk_jobs.config import Config
from thoonk_jobs.engine import Engine
from thoonk_jobs.errors import BrokerUnavailable, ThoonkError
from thoonk_jobs.expected import Expectations
from thoonk_jobs.flows import Flow, new_ticket
from thoonk_jobs.ids import new_id
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.lease import Leases
from thoonk_jobs.request import Call, Reply


class Session(ABC):
    """What the blocking and the asyncio broker have alike: names, held claims, bells, who wants the news."""

    looks_first: bool
    callbacks: Expectations

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """What hears, started on first use."""

    @abstractmethod
    def post(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does something beside, in the loop of the engine."""

    @abstractmethod
    def look(self, call: Call[request.Look]) -> Any:
        """A step: a look at the queue."""

    @abstractmethod
    def stand_in_line(self, keys: QueueKeys, n: int, lease: float, timeout: float | None) -> Any:
        """A step: waits for jobs; answers none when the time is over."""

    @abstractmethod
    def listen(self, keys: QueueKeys, id: str, timeout: float | None) -> Any:
        """A step: answers a bell that rings at news of a job; its subscription is confirmed, if that is in time."""

    @abstractmethod
    def follow_events(self, keys: QueueKeys, bell: Any, patience: float) -> Any:
        """A step: from its end on the bell rings at every event of a queue."""

    @abstractmethod
    def pause(self, bell: Any, timeout: float | None) -> Any:
        """A step: waits until the bell rings, or the time is over."""

    @abstractmethod
    def confirmed(self, keys: QueueKeys, patience: float) -> Any:
        """A step: attends to a queue; answers once the subscription is confirmed."""

    @abstractmethod
    def want(self, keys: QueueKeys) -> None:
        """Attends to a queue, without waiting for the confirmation."""

    @abstractmethod
    def give_back_taken(self, keys: QueueKeys, job: Any) -> None:
        """Nobody will get to see this claim (an id and a token): it goes back, at no cost."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.process = new_id()[4:]
        self.worker = f"{self.process}@{socket.gethostname()}:{os.getpid()}"
        self.leases = Leases()
        self.bells = Bells()
        self._entered: set[str] = set()
        self._entering: set[str] = set()
        self._lanes: list[str] = []
        self._lanes_made = 0
        self._lock = threading.Lock()

    # The names of claims.

    def look_call(self, keys: QueueKeys, most: int, lease: float, lane: str) -> Call[request.Look]:
        """A claim of a get that does not wait."""
        return calls.claim(keys, lane, new_ticket(), most, lease, self.worker)

    def borrow_lane(self) -> str:
        """A name under which no other claim call is on its way."""
        with self._lock:
            if self._lanes:
                return self._lanes.pop()
            self._lanes_made += 1
            return f"{self.process}.{self._lanes_made}"

    def return_lane(self, lane: str) -> None:
        """The claim call under this name was answered."""
        with self._lock:
            self._lanes.append(lane)

    # The list of queues.

    def enter(self, keys: QueueKeys, *, again: bool = False) -> Flow[None]:
        """Enters a queue in the list of queues, once, or again; of several at a time one does."""
        if keys.base in self._entering or (keys.base in self._entered and not again):
            return
        self._entering.add(keys.base)
        try:
            yield calls.lay_out(keys)
            yield from flows.listed(keys, calls.enter(keys))
            self._entered.add(keys.base)
        finally:
            self._entering.discard(keys.base)

    def leave(self, keys: QueueKeys) -> None:
        """The queue was deleted."""
        self._entered.discard(keys.base)

    # The line.

    def placed(self, keys: QueueKeys) -> bool:
        """For flows: whether this process waits for jobs of the queue and was told of none."""
        attention = self.engine.attention(keys)
        return bool(attention and attention.line.place.number)

    def back(self, keys: QueueKeys) -> int:
        """For calls that end a claim: how many jobs this process would be told of."""
        attention = self.engine.attention(keys)
        return attention.line.back if attention else 0

    def replied(self, keys: QueueKeys, reply: Reply) -> None:
        """Every reply tells the place in line."""
        if reply.number and (attention := self.engine.attention(keys)):
            attention.line.place.taken(reply.number)

    def hears(self, keys: QueueKeys) -> bool:
        """For flows: whether bells of a queue can ring at present. Raises why they never will."""
        attention = self.engine.attention(keys)
        if attention and attention.failure:
            raise copy(attention.failure)
        return bool(attention and attention.confirmed.is_set())

    def wanted(self, keys: QueueKeys, id: str) -> bool:
        """Whether anything in this process still waits for a job."""
        return self.bells.hangs(keys, id) or self.callbacks.expects(keys, id)

    def unfollow(self, keys: QueueKeys, bell: Any) -> None:
        """For flows: this bell is to ring at events no more."""
        self.bells.take_down(keys, news.EVENTS, bell)
        if not self.bells.hangs(keys, news.EVENTS):
            self.engine.post(self._unfollow, keys)

    def _unfollow(self, keys: QueueKeys) -> None:
        if not self.bells.hangs(keys, news.EVENTS):  # else another one follows meanwhile
            self.engine.unfollow(keys)

    def unlisten(self, keys: QueueKeys, id: str, bell: Any) -> None:
        """For flows: this wait is over; the server is told by and by, where no other goes on."""
        self.bells.take_down(keys, id, bell)
        if not self.wanted(keys, id):
            self.post(self._unwatch(keys, id))

    async def _unwatch(self, keys: QueueKeys, id: str) -> None:
        if not self.wanted(keys, id):
            await self.engine.run(calls.watch(keys, [id], on=False))
            if self.wanted(keys, id):  # a wait or a callback began meanwhile
                await self.engine.run(calls.watch(keys, [id], on=True))

    # What the engine hears.

    def job_news(self, keys: QueueKeys, stalls: dict[str, float]) -> None:
        """Something happened to these jobs; those that were stalled, since when."""
        for id in stalls:
            self.bells.ring(keys, id)
        self.callbacks.news(keys, stalls)

    def moved(self, keys: QueueKeys) -> None:
        """Something happened in a queue that is followed."""
        self.bells.ring(keys, news.EVENTS)

    def claim_lost(self, keys: QueueKeys, id: str, token: int) -> None:
        """This process lost a claim."""
        self.leases.lost(keys, id, token)

    def may_have_missed(self, keys: QueueKeys) -> None:
        """The subscription was made anew."""
        self.bells.ring_all(keys)
        self.callbacks.look_at_all(keys)
        self.leases.look_at_all(keys, self.engine)

    def attends(self, keys: QueueKeys) -> bool:
        """Whether anything in this process wants the news of a queue."""
        return self.bells.hang_for(keys) or self.callbacks.expects_of(keys) or self.leases.holds(keys)


def no_subscription(queue: str, patience: float | None) -> BrokerUnavailable:
    """The error for a subscription that was not confirmed in time."""
    return BrokerUnavailable(f"no subscription to queue {queue!r} in {patience:g} s; is the server up?")


def verb_result(refusals: list[Any]) -> None:
    """Raises the refusal of a call about one job, if there is one."""
    if refusals[0] is not None:
        raise refusals[0]


class EngineThread:
    """An engine in an event loop of its own thread, for callers that block."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._ready = threading.Event()
        self._ended: asyncio.Event
        self.engine: Engine
        self.thread = threading.Thread(target=self._run, name="thoonk-engine", daemon=True)
        self.thread.start()
        self._ready.wait()

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._ended = asyncio.Event()
        self.engine = self._make()
        self._ready.set()
        await self._ended.wait()

    def wait_for(self, work: Coroutine[Any, Any, Any], timeout: float) -> None:
        """Does something and waits for its end, so long at most."""
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self.engine.loop)
        except RuntimeError:  # the loop has ended
            work.close()
            return
        with suppress(TimeoutError, CancelledError, ThoonkError):
            waiting.result(timeout)

    def stop(self) -> None:
        """Ends the loop and the thread."""
        self.engine.post(self._ended.set)
        if self.thread is not threading.current_thread():
            self.thread.join(5)
