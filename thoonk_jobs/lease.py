"""The claims a process holds: renewed in the background, told when lost, given back at the end."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from thoonk_jobs import calls
from thoonk_jobs.calls import AT_ONCE
from thoonk_jobs.drive import Wire
from thoonk_jobs.errors import BrokerClosed, JobNotFound, StaleClaim, ThoonkError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.logs import log


class Held(Protocol):
    """What is known of a claim that this process holds."""

    id: str
    token: int
    keys: QueueKeys
    lease: float
    renewed: bool

    def lose(self) -> None: ...


class Leases:
    """All claims of a process; those with `renewed` are renewed when a third of their lease is over."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._held: dict[tuple[str, str, int], Held] = {}
        self._next: dict[tuple[str, str, int], float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def hold(self, claim: Held) -> None:
        """Keeps a new claim. Raises BrokerClosed, and gives it back, if the broker was closed while it was taken."""
        name = (claim.keys.base, claim.id, claim.token)
        if self._wire.closed.is_set():
            self._return(claim)
            raise BrokerClosed("the broker was closed while this call waited")
        with self._changed:
            self._held[name] = claim
            if not claim.renewed:
                return
            self._next[name] = time.monotonic() + claim.lease / 3
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="thoonk-leases", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drop(self, keys: QueueKeys, id: str, token: int) -> Held | None:
        """The claim ended; returns it if it was held."""
        with self._changed:
            self._next.pop((keys.base, id, token), None)
            return self._held.pop((keys.base, id, token), None)

    def lost(self, keys: QueueKeys, id: str, token: int) -> None:
        """Somebody else ended the claim: its holder is told."""
        if claim := self.drop(keys, id, token):
            log.warning("claim_lost", queue=keys.queue, job_id=id)
            claim.lose()

    def give_back(self, claims: Iterable[Held] | None = None) -> None:
        """Returns these claims, or all that are still held, at no cost to their jobs."""
        with self._changed:
            held = list(self._held.values()) if claims is None else claims
        for claim in held:
            self.drop(claim.keys, claim.id, claim.token)
            self._return(claim)

    def _return(self, claim: Held) -> None:
        claim.lose()
        try:
            self._wire.run_last(calls.cancel(claim.keys, claim.id, claim.token, "its broker closed", 0, counted=False))
        except ThoonkError as error:
            log.warning("claim_left_to_its_lease", queue=claim.keys.queue, job_id=claim.id, error=str(error))

    def look_at_all(self, keys: QueueKeys) -> None:
        """News may have been missed: renews what is renewed anyway at once, which tells what was lost."""
        with self._changed:
            for name in self._next:
                if name[0] == keys.base:
                    self._next[name] = 0.0
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._wire.closed.is_set():
            due = self._due()
            try:
                for claims in due.values():
                    for at in range(0, len(claims), AT_ONCE):
                        self._renew(claims[at : at + AT_ONCE])
            except BrokerClosed:
                return
            except ThoonkError as error:
                log.warning("renewal_failed", error=str(error))

    def _due(self) -> dict[str, list[Held]]:
        """Waits until renewals are due, then returns those claims, by queue; nothing when the broker closes."""
        by_queue: dict[str, list[Held]] = defaultdict(list)
        with self._changed:
            if self._wire.closed.is_set():
                return by_queue
            now = time.monotonic()
            soonest = min(self._next.values(), default=None)
            if soonest is None or soonest > now:
                self._changed.wait(None if soonest is None else soonest - now)
                return by_queue
            for name, at in self._next.items():
                if at <= now:
                    claim = self._held[name]
                    self._next[name] = now + claim.lease / 3
                    by_queue[name[0]].append(claim)
        return by_queue

    def _renew(self, claims: list[Held]) -> None:
        keys = claims[0].keys
        refusals = self._wire.run(calls.renew(keys, [(claim.id, claim.token, claim.lease) for claim in claims]))
        for claim, refusal in zip(claims, refusals, strict=True):
            if isinstance(refusal, StaleClaim | JobNotFound):  # any other: it ended while this call was on its way
                self.lost(keys, claim.id, claim.token)

    def close(self) -> None:
        """Ends the thread. The wire is closed first."""
        with self._changed:
            self._changed.notify_all()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(5)
