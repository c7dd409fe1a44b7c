"""What a blocking broker has in one process: a connection for the calls of its threads, and an engine beside them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from thoonk_jobs import news
from thoonk_jobs.callbacks import CallbackThread
from thoonk_jobs.config import Config
from thoonk_jobs.drive import Wire
from thoonk_jobs.engine import Engine
from thoonk_jobs.errors import CLOSED, CLOSED_MEANWHILE, BrokerClosed, BrokerUnavailable
from thoonk_jobs.expected import MakeJob
from thoonk_jobs.flows import Flow
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.line import Demand
from thoonk_jobs.request import Call, Command, Look, Taken
from thoonk_jobs.server import Server
from thoonk_jobs.session import EngineThread, Session, no_subscription

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a flow waits for."""

    block: Callable[[], Any]


def _span(timeout: float | None) -> float | None:
    return None if timeout is None else min(timeout, threading.TIMEOUT_MAX)


class BlockingSession(Session):
    """Threads call over one connection, in turn; what must be heard at any time is the engine's, on its own."""

    looks_first = True
    callbacks: CallbackThread

    def __init__(self, config: Config, make_job: MakeJob, clock: Callable[[], int | None]) -> None:
        super().__init__(config)
        self.server = Server(config)
        self.wire = Wire(config, self.process, self.server)
        self.wire.elapsed.passed = clock
        self.wire.replied = self.replied
        self.callbacks = CallbackThread(self.wire, make_job, self.wanted)
        self._thread: EngineThread | None = None

    @property
    def engine(self) -> Engine:
        """Started on first use."""
        with self._lock:
            if self._thread is None:
                if self.wire.closed.is_set():
                    raise BrokerClosed(CLOSED)
                self._thread = EngineThread(
                    lambda: Engine(self.config, self.process, self.worker, self.wire.elapsed, self.server, self)
                )
        return self._thread.engine

    def run(self, call: Call[T] | Command[T]) -> T:
        """The answer to a call."""
        return self.wire.run(call)

    def follow(self, flow: Flow[T]) -> T:
        """Runs a conversation."""
        return self.wire.follow(flow)

    def post(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does something beside, in the loop of the engine, unless that is at its end."""
        if self.wire.closed.is_set():
            work.close()
        else:
            self.engine.post(self.engine.start, work)

    def check_open(self) -> None:
        """Raises BrokerClosed once the broker is closed."""
        if self.wire.closed.is_set():
            raise BrokerClosed(CLOSED_MEANWHILE)

    # Steps of flows.

    def look(self, call: Call[Look]) -> Any:
        """A look at the queue."""
        return call

    def stand_in_line(self, keys: QueueKeys, n: int, lease: float, timeout: float | None) -> Step:
        """Waits for jobs; answers none when the time is over."""
        return Step(lambda: self._stand_in_line(keys, Demand(n, lease, Future()), timeout))

    def _stand_in_line(self, keys: QueueKeys, demand: Demand, timeout: float | None) -> list[Taken]:
        engine = self.engine
        engine.post(lambda: engine.attend(keys).join(demand))
        self.check_open()
        try:
            jobs: list[Taken] = demand.future.result(_span(timeout))
            return jobs
        except (TimeoutError, CancelledError):
            return [] if demand.future.cancel() else self._delivered(demand)
        except BaseException:
            if not demand.future.cancel() and not demand.future.exception():
                for job in demand.future.result():
                    self.give_back_taken(keys, job)
            raise
        finally:
            if demand.future.cancelled():
                engine.post(lambda: engine.attend(keys).line.withdraw(demand))

    def _delivered(self, demand: Demand) -> list[Taken]:
        jobs: list[Taken] = demand.future.result()
        return jobs

    def give_back_taken(self, keys: QueueKeys, job: Any) -> None:
        """Nobody will get to see this claim."""
        engine = self.engine
        engine.post(engine.give_back, keys, job)

    def listen(self, keys: QueueKeys, id: str, timeout: float | None) -> Step:
        """Answers a bell that rings at news of a job; its subscription is confirmed, if that is in time."""
        return Step(lambda: self._listen(keys, id, timeout))

    def _listen(self, keys: QueueKeys, id: str, timeout: float | None) -> threading.Event:
        bell = threading.Event()
        self.bells.hang(keys, id, bell)
        try:
            self.subscribe(keys, timeout)
        except BrokerUnavailable:
            pass  # the time is over: the caller's last look tells
        except BaseException:
            self.bells.take_down(keys, id, bell)
            raise
        return bell

    def follow_events(self, keys: QueueKeys, bell: Any, patience: float) -> Step:
        """From its end on the bell rings at every event of a queue."""
        self.bells.hang(keys, news.EVENTS, bell)
        return Step(lambda: self._confirm(keys.queue, self.engine.followed(keys), patience))

    def pause(self, bell: threading.Event, timeout: float | None) -> Step:
        """Waits until the bell rings, or the time is over."""

        def wait() -> None:
            bell.wait(_span(timeout))
            self.check_open()

        return Step(wait)

    def want(self, keys: QueueKeys) -> None:
        """Attends to a queue, without waiting for the confirmation."""
        engine = self.engine
        if engine.attention(keys) is None:
            engine.post(engine.attend, keys)

    def confirmed(self, keys: QueueKeys, patience: float) -> Step:
        """Attends to a queue; answers once the subscription is confirmed."""
        return Step(lambda: self.subscribe(keys, patience))

    def subscribe(self, keys: QueueKeys, patience: float | None) -> None:
        """Returns once this process hears its channel of a queue. patience: seconds, then BrokerUnavailable."""
        engine = self.engine
        if self.hears(keys):
            return
        self._confirm(keys.queue, engine.attended(keys), patience)

    def confirm(self, work: Coroutine[Any, Any, None]) -> None:
        """Does what a subscription needs, in the loop of the engine, and waits for its end."""
        self._confirm("*", work, self.config.patience)

    def _confirm(self, queue: str, work: Coroutine[Any, Any, None], patience: float | None) -> None:
        waiting = asyncio.run_coroutine_threadsafe(work, self.engine.loop)
        try:
            waiting.result(_span(patience))
        except TimeoutError:
            waiting.cancel()
            raise no_subscription(queue, patience) from None
        except CancelledError:
            self.check_open()
            raise

    def close(self) -> None:
        """Ends all that waits, gives back what is held, then ends the rest."""
        self.wire.closed.set()
        with self._lock:
            thread = self._thread
        if thread:
            thread.engine.post(thread.engine.stop)
        self.bells.ring_all()
        self.callbacks.close()
        if thread:
            thread.wait_for(self._farewell(thread.engine), 10)
            thread.stop()
        self.wire.close()
        self.server.close()

    async def _farewell(self, engine: Engine) -> None:
        await self.leases.give_back(engine)
        await engine.close()
