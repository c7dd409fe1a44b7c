"""What an asyncio broker has in one event loop: everything goes over the connection of its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from thoonk_jobs import news
from thoonk_jobs.config import Config
from thoonk_jobs.elapsed import Elapsed
from thoonk_jobs.engine import Engine
from thoonk_jobs.errors import CLOSED_MEANWHILE, BrokerClosed, BrokerUnavailable, ThoonkError
from thoonk_jobs.expected import Expectations, MakeJob, Stalls
from thoonk_jobs.flows import Flow
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.line import Demand
from thoonk_jobs.logs import log
from thoonk_jobs.request import Call, Command, Look, Taken
from thoonk_jobs.server import Server
from thoonk_jobs.session import Session, no_subscription

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a flow waits for."""

    wait: Callable[[], Awaitable[Any]]


_teller: ContextVar[asyncio.Task[Any] | None] = ContextVar("teller", default=None)
"""In a callback, and in tasks that it makes: the task that calls it."""


class LoopExpectations(Expectations):
    """Expectations that are told in tasks of the loop: of one job in order, of several beside each other."""

    def __init__(self, session: AsyncSession, make_job: MakeJob) -> None:
        super().__init__(make_job, self._put, session.wanted)
        self._session = session
        self._telling: dict[tuple[QueueKeys, str], float | None] = {}
        self._tellers: set[asyncio.Task[Any] | None] = set()

    def _put(self, keys: QueueKeys, stalls: Stalls) -> None:
        """What comes while a job is told of is told of next."""
        for id, since in stalls.items():
            told = (keys, id) in self._telling
            self._telling[keys, id] = max(since, self._telling.get((keys, id)) or 0.0) if told else None
            if not told:
                self._session.engine.start(self._tell_all(keys, id, since))

    async def _tell_all(self, keys: QueueKeys, id: str, since: float | None) -> None:
        teller = self._session.calls_back()
        self._tellers.add(teller)
        try:
            while since is not None:
                self._telling[keys, id] = None
                try:
                    await self._session.follow(self.tell(keys, {id: since}))
                except BrokerUnavailable as error:
                    log.warning("callbacks_delayed", queue=keys.queue, error=str(error))
                    await asyncio.sleep(1)
                    continue
                since = self._telling[keys, id]
        finally:
            del self._telling[keys, id]
            self._tellers.discard(teller)

    async def join(self, timeout: float | None) -> bool:
        """Waits until every on_finish was called or its job is stalled; False when the time was over first."""
        if _teller.get() in self._tellers:
            raise ThoonkError("join() in a callback would wait for itself: it is over when the callback is")
        self.look_at_stalled()
        try:
            async with asyncio.timeout(timeout):
                while not self.over() and not self._session.closed:
                    self._session.changed.clear()
                    await self._session.changed.wait()
        except TimeoutError:
            return False
        return True


class AsyncSession(Session):
    """Belongs to the event loop in which it is first used."""

    looks_first = False
    callbacks: LoopExpectations

    def __init__(self, config: Config, make_job: MakeJob, clock: Callable[[], int | None]) -> None:
        super().__init__(config)
        self.closed = False
        self.changed = asyncio.Event()
        self.server = Server(config)
        self.elapsed = Elapsed()
        self.elapsed.passed = clock
        self.loop = asyncio.get_running_loop()
        self.callbacks = LoopExpectations(self, make_job)
        self.callbacks.on_change = self.changed.set
        self._lanes_on_their_way: set[str] = set()
        self._engine = Engine(config, self.process, self.worker, self.elapsed, self.server, self)

    @property
    def engine(self) -> Engine:
        """What says and hears everything."""
        return self._engine

    def post(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does something beside, unless the broker is closed."""
        if self.closed:
            work.close()
        else:
            self._engine.start(work)

    async def run(self, call: Call[T] | Command[T]) -> T:
        """The answer to a call."""
        return await self._engine.run(call)

    async def follow(self, flow: Flow[T]) -> T:
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
                answer = await (self._engine.run(step) if isinstance(step, Call | Command) else step.wait())
            except BaseException as raised:
                error = raised

    def calls_back(self) -> asyncio.Task[Any] | None:
        """Answers the present task, which calls back; a callback that closes the broker does not wait for it."""
        task = asyncio.current_task()
        _teller.set(task)
        return task

    # Steps of flows.

    def look(self, call: Call[Look]) -> Step:
        """A look at the queue; what a cancelled one gets is given back."""
        return Step(lambda: self._look(call))

    async def _look(self, call: Call[Look]) -> Look:
        looking = self.loop.create_task(self._engine.run(call))
        try:
            return await asyncio.shield(looking)
        except asyncio.CancelledError:
            lane = str(call.args[0])
            self._lanes_on_their_way.add(lane)
            self._engine.start(self._return_all(call.keys, lane, looking))
            raise

    async def _return_all(self, keys: QueueKeys, lane: str, looking: asyncio.Task[Look]) -> None:
        try:
            with suppress(ThoonkError):
                for job in (await looking).taken:
                    self.give_back_taken(keys, job)
        finally:
            self._lanes_on_their_way.discard(lane)
            self.return_lane(lane)

    def return_lane(self, lane: str) -> None:
        """The claim call under this name was answered; or it was cancelled, and its reply is still to come."""
        if lane not in self._lanes_on_their_way:
            super().return_lane(lane)

    def stand_in_line(self, keys: QueueKeys, n: int, lease: float, timeout: float | None) -> Step:
        """Waits for jobs; answers none when the time is over."""
        return Step(lambda: self._stand_in_line(keys, Demand(n, lease, self.loop.create_future()), timeout))

    async def _stand_in_line(self, keys: QueueKeys, demand: Demand, timeout: float | None) -> list[Taken]:
        self.check_open()
        attention = self._engine.attend(keys)
        attention.join(demand)
        try:
            await asyncio.wait({demand.future}, timeout=timeout)
        except asyncio.CancelledError:
            if demand.future.done() and not demand.future.exception():
                for job in demand.future.result():
                    self.give_back_taken(keys, job)
            raise
        finally:
            attention.line.withdraw(demand)
            demand.future.cancel()
        return [] if demand.future.cancelled() else demand.future.result()

    def give_back_taken(self, keys: QueueKeys, job: Any) -> None:
        """Nobody will get to see this claim."""
        self._engine.give_back(keys, job)

    def check_open(self) -> None:
        """Raises BrokerClosed once the broker is closed."""
        if self.closed:
            raise BrokerClosed(CLOSED_MEANWHILE)

    def listen(self, keys: QueueKeys, id: str, timeout: float | None) -> Step:
        """Answers a bell that rings at news of a job; its subscription is confirmed, if that is in time."""
        return Step(lambda: self._listen(keys, id, timeout))

    async def _listen(self, keys: QueueKeys, id: str, timeout: float | None) -> asyncio.Event:
        bell = asyncio.Event()
        self.bells.hang(keys, id, bell)
        try:
            await self._confirm(keys.queue, self._engine.attended(keys), timeout)
        except BrokerUnavailable:
            pass  # the time is over: the caller's last look tells
        except BaseException:
            self.bells.take_down(keys, id, bell)
            raise
        return bell

    def follow_events(self, keys: QueueKeys, bell: Any, patience: float) -> Step:
        """From its end on the bell rings at every event of a queue."""
        self.bells.hang(keys, news.EVENTS, bell)
        return Step(lambda: self._confirm(keys.queue, self._engine.followed(keys), patience))

    def pause(self, bell: asyncio.Event, timeout: float | None) -> Step:
        """Waits until the bell rings, or the time is over."""

        async def wait() -> None:
            try:
                await asyncio.wait_for(bell.wait(), timeout)
            except TimeoutError:
                pass
            self.check_open()

        return Step(wait)

    def want(self, keys: QueueKeys) -> None:
        """Attends to a queue, without waiting for the confirmation."""
        self._engine.attend(keys)

    def confirmed(self, keys: QueueKeys, patience: float) -> Step:
        """Attends to a queue; answers once the subscription is confirmed."""
        return Step(lambda: self._confirm(keys.queue, self._engine.attended(keys), patience))

    async def confirm(self, work: Coroutine[Any, Any, None]) -> None:
        """Does what a subscription needs."""
        await self._confirm("*", work, self.config.patience)

    async def _confirm(self, queue: str, work: Coroutine[Any, Any, None], patience: float | None) -> None:
        try:
            await asyncio.wait_for(work, patience)
        except TimeoutError:
            raise no_subscription(queue, patience) from None
        self.check_open()

    async def close(self) -> None:
        """Ends all that waits, gives back what is held, then ends the rest."""
        self.closed = True
        self._engine.stop()
        self.bells.ring_all()
        self.changed.set()
        try:
            await self.leases.give_back(self._engine)
            await self._engine.close(spared=_teller.get())
        finally:  # also when it is cancelled
            self._engine.end()
            await asyncio.to_thread(self.server.close)
