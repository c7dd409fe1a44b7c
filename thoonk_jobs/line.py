"""The gets of one process that wait for jobs of one queue: to the server they are one, with a place in line."""

from __future__ import annotations

import threading
from asyncio import InvalidStateError as _LoopInvalidState
from collections import deque
from concurrent.futures import InvalidStateError
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoonk_jobs import calls, request
from thoonk_jobs.errors import BrokerUnavailable, ThoonkError
from thoonk_jobs.flows import new_ticket
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log
from thoonk_jobs.request import AT_ONCE, Taken
from thoonk_jobs.timing import LOOK_AGAIN

if TYPE_CHECKING:
    from thoonk_jobs.engine import Engine


@dataclass(eq=False, slots=True)
class Demand:
    """One get that waits. future: of a thread or a loop; gets the jobs, at least one and at most n, or an error."""

    n: int
    lease: float
    future: Any

    def deliver(self, jobs: list[Taken]) -> bool:
        """False where nobody waits any more: the jobs are another's."""
        try:
            self.future.set_result(jobs)
        except (InvalidStateError, _LoopInvalidState):
            return False
        return True

    def fail(self, error: Exception) -> None:
        """There will be no jobs."""
        try:
            self.future.set_exception(copy(error))  # an error raised in many places gathers all their tracebacks
        except (InvalidStateError, _LoopInvalidState):
            pass


class Place:
    """Where this process stands in the line of a queue, as far as it knows; for any thread.

    The number of a place comes with a reply, and again with the notice that tells to look; the notice may be first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: deque[int] = deque(maxlen=64)
        self.number = 0

    def taken(self, number: int) -> None:
        """A reply: this process waits there."""
        with self._lock:
            if number and number not in self._told:
                self.number = number

    def told(self, number: int) -> None:
        """A notice: whoever waits there is to look."""
        with self._lock:
            self._told.append(number)
            if self.number == number:
                self.number = 0

    def lost(self) -> None:
        """A notice may have been missed."""
        with self._lock:
            self.number = 0


class Line:
    """The demands of a process, and the looks on their behalf: one look at a time, in the loop of the engine."""

    def __init__(self, keys: QueueKeys, engine: Engine) -> None:
        self.keys = keys
        self.place = Place()
        self.used = False
        self._engine = engine
        self._demands: deque[Demand] = deque()
        self._looking = False
        self._told = False

    @property
    def back(self) -> int:
        """The jobs that this process is to be told of once a claim of it ends; 0: it waits already, or will not."""
        return 1 if self.used and not self.place.number and not self._looking else 0

    @property
    def waiting(self) -> bool:
        """Whether a get waits here."""
        return bool(self._demands)

    def join(self, demand: Demand) -> None:
        """Waits for jobs: with no command where this process has a place and was not told."""
        self.used = True
        self._demands.append(demand)
        if not self.place.number:
            self.look()

    def withdraw(self, demand: Demand) -> None:
        """A get that waits no more; it sends nothing."""
        try:
            self._demands.remove(demand)
        except ValueError:
            pass

    def told(self, number: int) -> None:
        """There is something to look at."""
        self.place.told(number)
        self._told = True
        self.look()

    def missed(self) -> None:
        """What was told may have been lost: who waits looks again."""
        self.place.lost()
        if self._demands:
            self.look()

    def look(self) -> None:
        """Looks, if no look is on its way."""
        if not self._looking:
            self._looking = True
            self._engine.start(self._look_until_placed())

    def _look_again(self) -> None:
        if self._demands:
            self.look()

    async def _look_until_placed(self) -> None:
        try:
            while self._told or (self._demands and not self.place.number):
                self._told = False
                if not self._demands:
                    self.used = False  # passes on what it was told
                await self._look()
        except BrokerUnavailable as error:
            log.debug("look_failed", queue=self.keys.queue, error=str(error))
            # Also where the connection lives on, as to a server that was busy or could not write.
            self._engine.loop.call_later(LOOK_AGAIN, self._look_again)
        except ThoonkError as error:
            self.fail(error)
        finally:
            self._looking = False

    async def _look(self) -> None:
        engine = self._engine
        lease = self._demands[0].lease if self._demands else 1.0
        wanted = sum(demand.n for demand in self._demands)
        most = min(AT_ONCE, sum(demand.n for demand in self._demands if demand.lease == lease))
        call = calls.claim(self.keys, f"{engine.process}.line", new_ticket(), most, lease, engine.worker, wanted=wanted)
        found: request.Look = await engine.run(call)
        for job in self._hand_out(found.taken, lease):
            engine.give_back(self.keys, job)
        self._told = self._told or found.more

    def _hand_out(self, jobs: list[Taken], lease: float) -> list[Taken]:
        """Gives the jobs to those who asked for claims of this lease, in their order; returns what nobody takes."""
        for demand in [demand for demand in self._demands if demand.lease == lease]:
            if not jobs:
                break
            if demand.deliver(jobs[: demand.n]):
                jobs = jobs[demand.n :]
            self.withdraw(demand)
        return jobs

    def fail(self, error: Exception) -> None:
        """Nobody will get jobs here."""
        while self._demands:
            self._demands.popleft().fail(error)
