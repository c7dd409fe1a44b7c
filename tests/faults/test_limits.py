"""Limits and unique names under races of real processes, which are killed, frozen and replaced."""

from __future__ import annotations

import random
import time

import pytest
import redis
from audit import check_audit
from helpers import SOON, taken, until
from proxy import Do, FaultProxy, Request
from race import CHORUS, LEASE, PUBLISHER, WORKERS, Crew, Ledger, most_at_once, sing, witnessed
from stage import until_quiet, until_waiting

from thoonk_jobs import Broker, Claim, LimitReached, Queue, State

KEY = "tenant"


TOLD = 3.0
"""Seconds after which a job is with another process although the one that was told of it is gone."""


# 1. A race on one key.


def nothing_is_held(queue: Queue, key: str = KEY) -> None:
    """No slot is taken by nobody, nobody waits for one that is free."""
    status = queue.key(key)
    assert (status.running, status.pending, status.holders, status.available, status.waiting) == (0, 0, [], [], [])
    assert {state: number for state, number in queue.counts().items() if number and state is not State.FINISHED} == {}


class Race:
    """4 publishers and 4 workers on one key, looked at throughout."""

    def __init__(self, queue: Queue, client: redis.Redis, namespace: str, process, limit: int, seconds: float) -> None:
        self.queue, self.client, self.namespace, self.limit = queue, client, namespace, limit
        self.ledger = Ledger(client, queue, [(0, limit)])
        self.witnesses = f"witnesses of {namespace}"
        url = queue._broker.config.url
        self._publishers = [process(PUBLISHER, url, namespace) for _ in range(4)]
        self._nursery = process(WORKERS, url, namespace, LEASE, self.witnesses)
        assert [each.hear() for each in self._publishers] == ["ready"] * 4
        self.crew = Crew(self._nursery, 4)
        for number, each in enumerate(self._publishers):
            each.tell(f"p{number} {seconds} {KEY}")

    def watch(self, seconds: float, every: tuple[float, float] | None) -> None:
        """Nothing is ever over the limit or out of order; every: so often a worker is struck."""
        now = time.monotonic()
        over, strike, audit = now + seconds, now, now
        while (now := time.monotonic()) < over:
            status = self.queue.key(KEY)
            if every and now >= strike:
                self.crew.strike(now, [self._pid(id) for id in status.holders])
                strike = now + random.uniform(*every)
            assert status.running <= self.limit
            assert status.running + len(status.available) <= self.limit
            self.ledger.read()
            if now >= audit:
                check_audit(self.client, self.namespace, self.queue.name)
                audit = now + 1.5
            time.sleep(0.02)  # a sample of what others do: there is nothing to await

    def _pid(self, id: str) -> int:
        return int((self.queue.job(id).worker or "of nobody:0").rpartition(":")[2])

    def published(self) -> list[str]:
        """The ids of all jobs, once the publishers have heard that all are finished."""
        made = [int(each.hear()) for each in self._publishers]
        self.ledger.read()
        assert self._nursery.silent(), self._nursery.hear()
        return [f"p{number}-{job}" for number, jobs in enumerate(made) for job in range(jobs)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on", "limit", "seconds"),
    [("valkey", 1, 60), ("redis", 2, 60), ("valkey", 5, 60), ("redis", 1, 12), ("valkey", 2, 12), ("redis", 5, 12)],
)
def test_no_limit_is_exceeded_and_no_slot_leaks_while_workers_die(request, namespace, process, on, limit, seconds):
    """Rows 47-53 and 761: killed and replaced, or frozen past the lease; what they held goes to others, once."""
    url = request.getfixturevalue(f"{on}_url")
    with Broker(url, namespace=namespace) as broker, redis.Redis.from_url(url) as client:
        queue = broker.queue("letters")
        queue.limit(KEY, running=limit)
        queue.configure(max_lost=1000)
        race = Race(queue, client, namespace, process, limit, seconds)
        ledger = race.ledger

        race.watch(seconds / 2, every=(0.1, 0.8))
        race.crew.thaw()
        race.watch(LEASE + TOLD, None)  # what they left behind
        calm, done = time.monotonic(), len(ledger.finished)
        race.watch(seconds / 2 - LEASE - TOLD, None)
        rate = (len(ledger.finished) - done) / (time.monotonic() - calm)
        ids = race.published()

        held, how = witnessed(client, race.witnesses)
        print(
            f"limit {limit} on {on}: {len(ids)} jobs, {rate:.0f} a second in the end; {race.crew.killed} killed, "
            f"{race.crew.frozen} frozen; {dict(how)}; {ledger.counts()}"
        )
        assert (ledger.wrong, ledger.most) == ([], limit)
        assert most_at_once(held) <= limit
        assert {id: ledger.moves["finish", id] for id in ids} == dict.fromkeys(ids, 1)
        assert ledger.counts().keys() <= {"publish", "hold", "release", "claim", "expire", "finish", "purge"}
        nothing_is_held(queue)
        check_audit(client, namespace, "letters")
        assert min(race.crew.killed, ledger.counts()["expire"], how["finished"]) > 0
        assert rate > 10 * limit / LEASE, "work goes on no faster than leases run out"
