"""What a process minds of one queue: its line, its alarm, and whether its subscription lives."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from thoonk_jobs import calls, news
from thoonk_jobs.alarm import Alarm
from thoonk_jobs.errors import BrokerUnavailable
from thoonk_jobs.ids import new_id
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.line import Demand, Line
from thoonk_jobs.request import Probe, Reply
from thoonk_jobs.timing import LOOK_AGAIN, PACE, PROBE_BACK, PROBE_EVERY

if TYPE_CHECKING:
    from thoonk_jobs.engine import Engine


class Attention:
    """Of one queue, in the loop of the engine, from the first subscription on."""

    def __init__(self, keys: QueueKeys, engine: Engine) -> None:
        self.keys = keys
        self.line = Line(keys, engine)
        self.alarm = Alarm(self._rang)
        self.confirmed = asyncio.Event()
        self.failure: Exception | None = None
        self.follows = False
        self._engine = engine
        self._nonce = ""
        self._settled = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._replied: tuple[int, int] | None = None
        self._probed: Probe | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """What this process hears of the queue."""
        own = (self.keys.process_channel(self._engine.process), self.keys.alarm_channel)
        return (*own, self.keys.events_channel) if self.follows else own

    def begin(self) -> None:
        """The subscription is confirmed, for the first time or again: what was told before may be lost."""
        self.failure = None
        self.confirmed.set()
        self.line.missed()
        if not self.line.waiting:
            self._engine.start(self._probe())
        self._later("probe", PROBE_EVERY, self._look_after)

    def join(self, demand: Demand) -> None:
        """A get waits in line, unless nothing can be heard here."""
        if self.failure:
            demand.fail(self.failure)
        else:
            self.line.join(demand)

    def fail(self, error: Exception) -> None:
        """Nobody hears anything here, for good: who waits is told, also who waits for a bell."""
        known, self.failure = self.failure, error
        self.confirmed.set()
        self.line.fail(error)
        if not known and not self._engine.closed:
            self._engine.listener.may_have_missed(self.keys)

    def end(self) -> None:
        """Nobody waits here any more."""
        self.alarm.stop()
        for timer in self._timers.values():
            timer.cancel()

    def replied(self, reply: Reply) -> None:
        """Every reply tells the place in line and the next moment at which something is due."""
        self.line.place.taken(reply.number)
        due = (reply.now + reply.alarm if reply.alarm >= 0 else -1, reply.keeper)
        if due != self._replied:
            self._replied = due
            self.alarm.set(reply.alarm / 1000 if reply.alarm >= 0 else math.inf, keeper=bool(reply.keeper))

    def proclaimed(self, seconds: float, *, keeper: bool) -> None:
        """To all who look after the time: when something is due next."""
        self._replied = None
        self.alarm.set(seconds, keeper=keeper)

    def _later(self, name: str, seconds: float, act: Callable[[], object]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._engine.loop.call_later(seconds, act)

    def _rang(self) -> None:
        # At once, but not again and again: what is due may be left to others for a while.
        self._later("settle", max(0.0, self._settled + PACE - self._engine.loop.time()), self._settle_now)

    def _settle_now(self) -> None:
        self._engine.start(self._settle())

    async def _settle(self) -> None:
        try:
            while await self._engine.run(calls.settle(self.keys, keeper=True)):
                pass
        except BrokerUnavailable:
            if self._engine.attention(self.keys) is self:  # the server may have answered that it cannot at present
                self.alarm.set(LOOK_AGAIN, keeper=False)
        finally:
            self._settled = self._engine.loop.time()

    def _look_after(self) -> None:
        """Once in a while: is anybody still interested, and does the subscription carry?"""
        self._later("probe", PROBE_EVERY, self._look_after)
        if self.line.waiting or self._engine.listener.attends(self.keys):
            self._engine.start(self._probe())
        else:
            self._engine.leave(self)

    async def _probe(self) -> None:
        self._nonce = nonce = new_id()
        self._later("nonce", PROBE_BACK, lambda: self._missing(nonce))
        place = self.line.place.number
        try:
            probe = await self._engine.run(calls.probe(self.keys, nonce))
        except BrokerUnavailable:
            return
        if place and place == self.line.place.number != probe.number:
            self.line.missed()
        self._compare(probe)
        if probe.late:
            await self._settle()

    def _compare(self, probe: Probe) -> None:
        """With the probe before: all data may be gone, or a notice may have been lost."""
        known, self._probed = self._probed, probe
        if self.follows and known and known.event != probe.event:
            self._engine.listener.moved(self.keys)
        if known and (known.born != probe.born or (known.event != probe.event and probe.unheard)):
            self._engine.listener.may_have_missed(self.keys)

    def heard(self, channel: str, told: bytes) -> None:
        """A notice on one of the channels of the queue."""
        if channel == ":events":
            self._engine.listener.moved(self.keys)
        elif channel == ":alarm":
            seconds, keeper = news.alarm(told)
            self.proclaimed(seconds, keeper=keeper == self._engine.process)
        else:
            self._route(told[:1], told[1:])

    def _route(self, kind: bytes, told: bytes) -> None:
        listener = self._engine.listener
        if kind == news.WAKE:
            self.line.told(news.place(told))
        elif kind == news.JOBS:
            listener.job_news(self.keys, dict.fromkeys(news.job_news(told), 0.0))
        elif kind == news.STALLED:
            listener.job_news(self.keys, dict(news.stalls(told)))
        elif kind == news.CLAIMS:
            for id, token in news.lost_claims(told):
                listener.claim_lost(self.keys, id, token)
        elif kind == news.NONCE and told.decode() == self._nonce:
            self._nonce = ""

    def _missing(self, nonce: str) -> None:
        if self._nonce == nonce:
            self._engine.drop_connection(f"a notice did not come back in {PROBE_BACK:g} s")
