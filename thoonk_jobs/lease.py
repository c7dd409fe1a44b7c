"""The claims a process holds: renewed in the background, told when lost, given back at the end."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from thoonk_jobs import calls, request
from thoonk_jobs.errors import JobNotFound, StaleClaim, ThoonkError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log
from thoonk_jobs.request import AT_ONCE

if TYPE_CHECKING:
    from thoonk_jobs.engine import Engine


class Held(Protocol):
    """What is known of a claim that this process holds."""

    id: str
    token: int
    keys: QueueKeys
    lease: float
    renewed: bool

    def lose(self) -> None: ...


class Leases:
    """All claims of a process; those with `renewed` are renewed when a third of their lease is over.

    Any thread may hold and drop claims; renewals are the engine's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str, int], Held] = {}
        self._next: dict[tuple[str, str, int], float] = {}
        self._planned = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, claim: Held, engine: Engine) -> None:
        """Keeps a new claim."""
        name = (claim.keys.base, claim.id, claim.token)
        with self._lock:
            self._held[name] = claim
            if claim.renewed:
                self._next[name] = math.inf
        self.renewed(claim, engine)

    def renewed(self, claim: Held, engine: Engine) -> None:
        """A lease starts now, of whatever length: the next renewal is due when a third of it is over."""
        name = (claim.keys.base, claim.id, claim.token)
        with self._lock:
            if name not in self._next:
                return
            self._next[name] = at = time.monotonic() + claim.lease / 3
            sooner = at < self._planned
            self._planned = min(at, self._planned)
        if sooner:
            engine.post(self._plan, engine)

    def drop(self, keys: QueueKeys, id: str, token: int) -> Held | None:
        """The claim ended; returns it if it was held."""
        with self._lock:
            self._next.pop((keys.base, id, token), None)
            return self._held.pop((keys.base, id, token), None)

    def lost(self, keys: QueueKeys, id: str, token: int) -> None:
        """Somebody else ended the claim: its holder is told."""
        if claim := self.drop(keys, id, token):
            log.warning("claim_lost", queue=keys.queue, job_id=id)
            claim.lose()

    def holds(self, keys: QueueKeys) -> bool:
        """Whether a claim of a job of this queue is held."""
        with self._lock:
            return any(base == keys.base for base, _, _ in self._held)

    async def give_back(self, engine: Engine) -> None:
        """Returns all claims that are still held, at no cost to their jobs."""
        with self._lock:
            held = list(self._held.values())
        by_queue: dict[QueueKeys, list[Held]] = defaultdict(list)
        for claim in held:
            self.drop(claim.keys, claim.id, claim.token)
            claim.lose()
            by_queue[claim.keys].append(claim)
        parts = [
            (keys, some[at : at + AT_ONCE]) for keys, some in by_queue.items() for at in range(0, len(some), AT_ONCE)
        ]
        await asyncio.gather(*(self._return(engine, keys, part) for keys, part in parts))

    async def _return(self, engine: Engine, keys: QueueKeys, claims: list[Held]) -> None:
        try:
            await engine.run_last(request.merged([calls.give_back(keys, claim.id, claim.token) for claim in claims]))
        except ThoonkError as error:
            log.warning("claims_left_to_their_leases", queue=keys.queue, error=str(error))

    def look_at_all(self, keys: QueueKeys, engine: Engine) -> None:
        """News may have been missed: renews what is renewed anyway at once, which tells what was lost."""
        with self._lock:
            for name in self._next:
                if name[0] == keys.base:
                    self._next[name] = 0.0
        self._plan(engine)

    def _plan(self, engine: Engine) -> None:
        with self._lock:
            self._planned = min(self._next.values(), default=math.inf)
        if self._timer:
            self._timer.cancel()
        if self._planned < math.inf:
            self._timer = engine.loop.call_at(self._planned, self._renew_due, engine)

    def _renew_due(self, engine: Engine) -> None:
        due: dict[QueueKeys, list[Held]] = defaultdict(list)
        now = time.monotonic()
        with self._lock:
            for name, at in self._next.items():
                if at <= now:
                    claim = self._held[name]
                    self._next[name] = now + claim.lease / 3
                    due[claim.keys].append(claim)
        for keys, claims in due.items():
            for at_once in range(0, len(claims), AT_ONCE):
                engine.start(self._renew(engine, keys, claims[at_once : at_once + AT_ONCE]))
        self._plan(engine)

    async def _renew(self, engine: Engine, keys: QueueKeys, claims: list[Held]) -> None:
        call = calls.renew(keys, [(claim.id, claim.token, claim.lease) for claim in claims])
        try:
            refusals = await engine.run(call)
        except ThoonkError as error:
            log.warning("renewal_failed", queue=keys.queue, error=str(error))
            return
        for claim, refusal in zip(claims, refusals, strict=True):
            if isinstance(refusal, StaleClaim | JobNotFound):
                self.lost(keys, claim.id, claim.token)
            elif refusal:  # it ended while this call was on its way, or its end was cancelled on its way
                self.drop(keys, claim.id, claim.token)
