"""Limits and unique names under races of real processes, which are killed, frozen and replaced."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from contextlib import suppress

import pytest
import redis
from audit import check_audit
from helpers import SOON, in_time, taken, until
from proxy import Do, FaultProxy, Request
from race import (
    ALL_SORTS,
    CHORUS,
    INSISTS,
    LEASE,
    PUBLISHER,
    WHIMS,
    WORKERS,
    Crew,
    Ledger,
    Sung,
    most_at_once,
    sing,
    witnessed,
)
from stage import Process, until_quiet, until_waiting

from thoonk_jobs import EACH_KEY, Broker, Claim, LimitReached, Queue, State, TransitionRefused
from thoonk_jobs.machine import LIVE
from thoonk_jobs.scripts import SCRIPTS

CLAIM = SCRIPTS["claim"]
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
                self.crew.strike(now, self._busy)
                strike = now + random.uniform(*every)
            assert status.running <= self.limit
            assert status.running + len(status.available) <= self.limit
            self.ledger.read()
            if now >= audit:
                check_audit(self.client, self.namespace, self.queue.name)
                audit = now + 1.5
            time.sleep(0.02)  # a sample of what others do: there is nothing to await

    def _busy(self) -> list[int]:
        """The workers that hold claims."""
        workers = [self.queue.job(id).worker for id in self.queue.key(KEY).holders]
        return [int(worker.rpartition(":")[2]) for worker in workers if worker]

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


# 2. A claim that was lost frees nothing


LATE = """
from thoonk_jobs import calls
say("ready")
claim = queue.get(lease=0.6)
say(claim.id)
keys, id, token = claim.keys, claim.id, claim.token
heed()
for call in (
    calls.finish(keys, id, token, b""), calls.fail(keys, id, token, b"e", final=True, delay=0),
    calls.fail(keys, id, token, b"e", final=False, delay=0), calls.cancel(keys, id, token, "late", 0),
    calls.give_back(keys, id, token), calls.stall(keys, id, "late", token), calls.renew(keys, [(id, token, 30)]),
):
    [refusal] = broker.session.run(call)
    say(type(refusal).__name__)
try: claim.finish()
except StaleClaim: say("refused")
"""
"""Comes back with every verb there is: as the server answers, whatever this process knows of its claim by then."""
LATE_VERBS = 7


@pytest.mark.parametrize("when", ["while another has it", "after another has finished it"])
def test_a_worker_stopped_past_its_lease_frees_no_slot(queue, url, namespace, process, when):
    """Solid Queue 761: a slot that was freed twice let a limit of 1 run 11 times."""
    queue.limit(KEY, running=1)
    late = process(LATE, url, namespace)
    assert late.hear() == "ready"
    first, second, third = (queue.publish(data, key=KEY) for data in ("first", "second", "third"))
    assert late.hear() == first.id
    late.freeze()
    holder = queue.get(timeout=SOON)
    assert (holder.id, holder.lost) == (first.id, 1)
    waiting = [second.id, third.id]
    if when.startswith("after"):
        holder.finish("of the second")
        holder, waiting = taken(queue), [third.id]

    late.tell("go on")
    late.thaw()

    assert [late.hear() for _ in range(LATE_VERBS + 1)] == ["StaleClaim"] * LATE_VERBS + ["refused"]
    status = queue.key(KEY)
    assert (status.holders, status.available, status.waiting) == ([holder.id], [], waiting)
    assert queue.get(timeout=0) is None
    while waiting:
        holder.finish("in time")
        holder = taken(queue)
        assert holder.id == waiting.pop(0)
        assert queue.get(timeout=0) is None
    holder.finish("in time")
    assert queue.job(first.id).outcome == "success"
    nothing_is_held(queue)


# 3. Unique names


@pytest.fixture
def choir(url, namespace, process):
    """4 processes that publish 50 at once."""
    return chorus(url, namespace, process)


def chorus(url: str, namespace: str, process, voices=(13, 13, 12, 12)) -> list:
    choir = [process(CHORUS, url, namespace, each) for each in voices]
    assert [each.hear() for each in choir] == ["ready"] * len(voices)
    return choir


def newest(sung: list[Sung]) -> set[str]:
    """The data of those after whose end none began."""
    latest = max(each.began for each in sung)
    return {each.data for each in sung if each.ended >= latest}


ROUNDS = 3


def test_of_many_publishes_of_one_unique_name_one_is_accepted(queue, choir):
    for _ in range(ROUNDS):
        sung = sing(choir, "unique='one'")

        [accepted] = [each for each in sung if each.how == "published"]
        assert Counter((each.how, each.id) for each in sung) == {
            ("published", accepted.id): 1,
            ("NotUnique", accepted.id): 49,
        }
        assert (queue.holder("one").id, queue.ids()) == (accepted.id, [accepted.id])
        claim = taken(queue)
        assert (claim.id, claim.data) == (accepted.id, accepted.data)
        assert {(each.how, each.id) for each in sing(choir, "unique='one'")} == {("NotUnique", claim.id)}
        claim.finish()
        assert (queue.holder("one"), queue.ids()) == (None, [])


def test_all_publishes_of_one_unique_name_that_return_have_one_job(queue, choir):
    former: set[str | None] = set()
    for _ in range(ROUNDS):
        sung = sing(choir, "unique=Unique('one', on_conflict='return')")

        [(how, id)] = {(each.how, each.id) for each in sung}
        assert (how, queue.ids(), id in former) == ("published", [id], False)
        claim = taken(queue)
        assert (claim.id, claim.data in {each.data for each in sung}) == (id, True)
        former.add(id)
        claim.finish()


def test_of_many_publishes_that_replace_one_job_is_left_with_the_newest_data(queue, choir, client, namespace):
    former: set[str | None] = set()
    for _ in range(ROUNDS):
        sung = sing(choir, "unique=Unique('one', on_conflict='replace')")

        [(how, id)] = {(each.how, each.id) for each in sung}
        assert (how, queue.ids(), id in former) == ("published", [id], False)
        claim = queue.get(timeout=SOON)
        assert (claim.id, claim.data in newest(sung)) == (id, True)
        check_audit(client, namespace, "letters")
        former.add(id)
        claim.finish()
        assert queue.get(timeout=0) is None


def test_a_unique_name_passes_to_one_job_when_its_holder_is_claimed(queue, choir):
    options = "unique=Unique('one', until='claimed')"
    running: list[Claim] = []
    for _ in range(ROUNDS):
        sung = sing(choir, options)

        [accepted] = [each for each in sung if each.how == "published"]
        assert {each.id for each in sung} == {accepted.id}
        running.append(taken(queue))
        assert running[-1].id == accepted.id
        assert queue.get(timeout=0) is None
    for claim in running:
        claim.finish()


@pytest.mark.parametrize("conflict", ["raise", "return", "replace"])
def test_a_unique_name_is_held_across_the_end_of_the_server(server, near, process, conflict):
    """The server is killed while the name is held, and while its holder is claimed."""
    choir = chorus(server.url, "own", process, (7, 6))
    options = f"unique=Unique('one', on_conflict={conflict!r})"

    def restarted() -> None:
        server.kill()
        server.start()

    held = near.publish("first", unique="one")
    restarted()
    again = sing(choir, options)

    assert {each.id for each in again} == {held.id}
    assert {each.how for each in again} == {"NotUnique" if conflict == "raise" else "published"}
    assert near.ids() == [held.id]
    claim = near.get(timeout=SOON)
    assert claim.data in (newest(again) if conflict == "replace" else {"first"})
    restarted()
    again = sing(choir, options)
    assert {(each.how, each.id) for each in again} == {("published" if conflict == "return" else "NotUnique", held.id)}
    claim.finish()
    restarted()
    later = sing(choir, options)
    assert len({each.id for each in later}) == 1
    assert held.id not in {each.id for each in later}
    assert len(near.ids()) == 1


# 4. Waking


WAITS = """
say("ready")
while claim := queue.get():
    say(claim.id)
    heed()
    claim.finish()
"""
"""Takes jobs one after the other, and finishes each when it is told to."""


def is_claim(request: Request) -> bool:
    return request.name == "EVALSHA" and request.words[1] == CLAIM.sha.encode()


def claims(proxy: FaultProxy) -> int:
    return sum(map(is_claim, proxy.requests))


def waiters(proxy: FaultProxy, client: redis.Redis, namespace: str, process) -> list[Process]:
    """5 processes that wait for jobs, behind the proxy."""
    crowd = [process(WAITS, proxy.url, namespace) for _ in range(5)]
    assert [each.hear() for each in crowd] == ["ready"] * 5
    until_waiting(client, 5)
    return crowd


def hearer(crowd: list[Process], id: str) -> Process:
    """Which one got the job; the others say nothing."""
    until(lambda: any(not each.silent() for each in crowd))
    [got] = [each for each in crowd if not each.silent()]
    assert got.hear() == id
    return got


def full(queue: Queue) -> Claim:
    """The key has a limit of 1, which this claim fills."""
    queue.limit(KEY, running=1)
    queue.publish("first", key=KEY)
    return taken(queue)


def test_a_less_urgent_job_is_not_held_back_beside_a_full_key(queue, client, proxy, namespace, process):
    holder = full(queue)
    crowd = waiters(proxy, client, namespace, process)
    looked = claims(proxy)
    held = [queue.publish(number, key=KEY, priority="critical") for number in range(20)]
    assert {job.state for job in held} == {State.WAITING}

    for number in (1, 2, 3):
        job = queue.publish("low", priority="low")
        hearer(crowd, job.id)
        until_quiet(proxy)
        assert claims(proxy) - looked == number

    assert queue.key(KEY).holders == [holder.id]
    assert [queue.job(job.id).state for job in held] == [State.WAITING] * 20


def test_a_slot_that_is_freed_wakes_one_process(queue, client, proxy, namespace, process):
    """No herd: of those that wait one looks, and finds the job."""
    holder = full(queue)
    crowd = waiters(proxy, client, namespace, process)
    line = [queue.publish(number, key=KEY).id for number in range(4)]
    until_quiet(proxy)
    looked = claims(proxy)

    holder.finish()
    got = hearer(crowd, line[0])
    until_quiet(proxy)
    assert claims(proxy) - looked == 1

    for id in line[1:]:
        looked = claims(proxy)
        got.tell("finish")
        got = hearer(crowd, id)
        until_quiet(proxy)
        assert claims(proxy) - looked <= 2, "the one that was told, and the finisher's own next get"
        assert queue.key(KEY).running == 1


# 5. Changes while others work


@pytest.mark.slow
def test_limits_may_change_while_others_work(queue, url, client, namespace, process):
    """Raised, lowered, lifted, closed, rejecting: no claim begins beyond a limit that was in force."""
    queue.configure(max_lost=1000)
    queue.limit(KEY, running=3)
    ledger = Ledger(client, queue, [(0, 3)])
    witnesses = f"witnesses of {namespace}"
    seconds = 15
    publishers = [process(INSISTS, url, namespace) for _ in range(4)]
    nursery = process(WORKERS, url, namespace, LEASE, witnesses)
    assert [each.hear() for each in publishers] == ["ready"] * 4
    Crew(nursery, 4)
    for number, each in enumerate(publishers):
        each.tell(f"p{number} {seconds} {KEY}")

    over, changes = time.monotonic() + seconds - 1, 0
    while time.monotonic() < over:
        limit, when_full = random.choice([0, 1, 1, 2, 3, 5, 7, math.inf]), random.choice(["wait", "reject"])
        ledger.change(KEY, limit, when_full)
        changes += 1
        ledger.read_until(ledger.last + random.randint(1, 60), within=0.3)
        check_audit(client, namespace, "letters")
    ledger.change(KEY, 2, "wait")

    heard = [each.hear().split() for each in publishers]
    ids = [f"p{number}-{id}" for number, (_, *made) in enumerate(heard) for id in made]
    refused = sum(int(rejected) for rejected, *_ in heard)
    ledger.read()
    assert nursery.silent(), nursery.hear()
    print(f"{changes} changes, {len(ids)} jobs, {refused} refused, at most {ledger.most} at once; {ledger.counts()}")
    assert ledger.wrong == []
    assert {id: ledger.moves["finish", id] for id in ids} == dict.fromkeys(ids, 1)
    assert ledger.counts()["finish"] == len(ids)
    assert min(changes, refused, ledger.counts()["park"], ledger.counts()["release"]) > 0
    nothing_is_held(queue)
    check_audit(client, namespace, "letters")


@pytest.mark.slow
def test_whatever_becomes_of_jobs_no_slot_leaks_and_nobody_is_forgotten(queue, url, client, namespace, process):
    """Every verb, row, limit and kind of job at once, by processes that are killed; then all of it comes to an end."""
    seconds, keys = 20, ["a", "b", "c", "d"]
    publishers = [process(ALL_SORTS, url, namespace) for _ in range(3)]
    nursery = process(WHIMS, url, namespace, LEASE)
    assert [each.hear() for each in publishers] == ["ready"] * 3
    crew = Crew(nursery, 4)
    queue.limit(None, pending=300)
    for each in publishers:
        each.tell(str(seconds))

    over = time.monotonic() + seconds
    while (now := time.monotonic()) < over:
        random.choice(
            [
                lambda: queue.limit(None, running=random.choice([1, 3, math.inf, None])),
                lambda: queue.limit(EACH_KEY, running=random.choice([1, 2, math.inf, None])),
                lambda: queue.limit(random.choice(keys), running=random.choice([0, 1, 3, math.inf, None])),
                lambda: queue.limit(None, pending=random.choice([20, 300])),
                lambda: queue.limit(random.choice(keys), pending=random.choice([20, math.inf, None])),
                lambda: queue.limit(random.choice([None, *keys]), when_full=random.choice(["wait", "reject", None])),
                lambda: queue.limit(random.choice(keys), block_after=random.choice([(2, 5, 0.2), None])),
                lambda: queue.block(random.choice(keys), 0.2, "odd"),
                lambda: queue.unblock(random.choice(keys)),
                lambda: queue.retract_all(random.choice(LIVE)),
                lambda: stall_some(queue),
                queue.retry_all,
                queue.pause,
                queue.resume,
                queue.resume,
                lambda: crew.strike(now, list),
                lambda: crew.strike(now, list),
                crew.thaw,
            ]
        )()
        check_audit(client, namespace, "letters")

    assert [each.hear().split()[0] for each in publishers] == ["made"] * 3
    crew.thaw()
    queue.resume()
    for key in (None, EACH_KEY, *keys):
        queue.limit(key, running=2, pending=None, when_full=None)
    in_time(lambda: not queue.retract_all("stalled") and not queue.ids())
    assert [str(queue.job(id)) for id in queue.ids()] == []
    assert nursery.silent(), nursery.hear()
    for key in keys:
        nothing_is_held(queue, key)
    check_audit(client, namespace, "letters")


def stall_some(queue: Queue) -> None:
    for id in random.sample(ids := queue.ids(), min(5, len(ids))):
        with suppress(TransitionRefused):
            queue.stall(id)


@pytest.mark.parametrize("lost", [Do.HOLD_REQUEST, Do.HOLD_REPLY])
def test_a_publish_that_is_repeated_after_its_publisher_was_killed_takes_one_slot(
    queue, client, proxy, namespace, process, lost
):
    """Whether the server had it or not."""
    queue.limit(KEY, running=1, pending=2)
    fault = proxy.fault(lost, lambda request: b"of the killed" in request.raw)
    victim = process(f"queue.publish('of the killed', id='a', key={KEY!r})", proxy.url, namespace)
    assert fault.hit.wait(SOON)
    victim.kill()
    came = lost is Do.HOLD_REPLY
    assert queue.key(KEY).pending == came

    for _ in range(3):
        again = process(f"say(queue.publish('of the killed', id='a', key={KEY!r}).state)", proxy.url, namespace)
        assert again.hear() == "available"
    other = queue.publish("other", key=KEY)

    status = queue.key(KEY)
    assert (status.available, status.waiting, status.pending) == (["a"], [other.id], 2)
    with pytest.raises(LimitReached):
        queue.publish("third", key=KEY)
    taken(queue).finish()
    assert taken(queue).id == other.id
    assert queue.get(timeout=0) is None
    check_audit(client, namespace, "letters")


# 6. A limit on pending jobs


@pytest.mark.parametrize("key", [KEY, None])
def test_a_limit_on_pending_jobs_admits_so_many_of_parallel_publishers(queue, url, client, namespace, process, key):
    """Node's background-task admitted 3 of 2."""
    queue.limit(key, pending=5)
    choir = chorus(url, namespace, process, (3, 3, 2, 2))
    options = f"key={KEY!r}"
    for _ in range(ROUNDS):
        sung = sing(choir, options)

        assert Counter(each.how for each in sung) == {"published": 5, "LimitReached": 5}
        assert sorted(queue.ids()) == sorted(each.id for each in sung if each.how == "published")
        # Each end makes room for one, whether it was claimed or not.
        claim = taken(queue)
        assert {each.how for each in sing(choir, options)} == {"LimitReached"}
        claim.finish()
        queue.retract(queue.ids()[0])
        assert Counter(each.how for each in sing(choir, options)) == {"published": 2, "LimitReached": 8}
        assert queue.key(KEY).pending == 5
        queue.retract_all("available")
        many = sing(choir, options + ", many=4")
        assert Counter(each.how for each in many) == {"published": 5, "LimitReached": 35}
        for id in queue.ids():
            queue.retract(id)
        nothing_is_held(queue)
        check_audit(client, namespace, "letters")
