"""Many claims at once, leases, the end of a broker, data that cannot be read, and what claimants report."""

from __future__ import annotations

import contextlib
import gc
import queue as queues
import threading
import time
from typing import Any

import pytest
import redis
from helpers import INF, SOON, in_thread, taken, until

from thoonk_jobs import (
    BrokerClosed,
    BrokerUnavailable,
    Claim,
    InvalidArgument,
    PayloadError,
    Queue,
    StaleClaim,
    State,
    calls,
)
from thoonk_jobs.claiming import ClaimCore

pytestmark = pytest.mark.asyncio_on("valkey")


def test_get_many_waits_for_the_first_then_takes_what_is_there(queue):
    got = in_thread(lambda: queue.get_many(5, timeout=SOON))
    queue.publish_many(["a", "b", "c"])

    assert [claim.data for claim in got.get(timeout=SOON)] == ["a", "b", "c"]
    assert queue.get_many(5, timeout=0) == []


def test_get_many_takes_more_than_one_call_carries_in_order(queue):
    queue.publish_many(range(1205))

    claims = queue.get_many(1200, timeout=0)

    assert [claim.data for claim in claims] == list(range(1200))
    assert queue.counts()[State.CLAIMED] == 1200
    assert [claim.data for claim in queue.get_many(1200)] == list(range(1200, 1205))


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3"])
def test_what_is_no_number_of_jobs_is_refused(queue, n):
    with pytest.raises(InvalidArgument):
        queue.get_many(n)


@pytest.mark.parametrize("span", [INF, 1e300])
def test_a_get_and_a_wait_of_any_length_wait(queue, span):
    got = in_thread(lambda: queue.get(timeout=span))
    with pytest.raises(queues.Empty):
        got.get(timeout=0.1)
    job = queue.publish("letter")
    waits = in_thread(lambda: job.wait(timeout=span))

    got.get(timeout=SOON).finish("sent")

    assert waits.get(timeout=SOON).result == "sent"
    queue._broker.join(timeout=span)


def lease_end(client: redis.Redis, claim: Claim) -> float:
    return float(client.zscore(f"{claim.keys.base}:claimed", claim.id))


def test_a_lease_is_renewed_in_the_background_until_the_claim_ends(queue, elsewhere, client):
    queue.publish_many(["renewed", "left alone"])
    claim = taken(queue, lease=0.6)
    left = taken(queue, lease=0.6, renew=False)
    first = lease_end(client, claim)

    until(lambda: lease_end(client, claim) > first + 800)
    assert elsewhere.get(timeout=0).id == left.id

    claim.finish("sent")
    assert claim.refresh().result == "sent"


def test_a_lease_renewed_by_hand_runs_from_now(queue, clock, client):
    queue.publish("letter")
    claim = taken(queue, lease=30, renew=False)
    clock.advance(29)

    claim.renew()
    assert lease_end(client, claim) == clock.now + 30_000
    claim.renew(5)

    assert lease_end(client, claim) == clock.now + 5_000
    assert claim.refresh().state is State.CLAIMED


def test_a_lease_cut_short_by_hand_is_noticed_by_those_who_wait(queue, elsewhere, client):
    job = queue.publish("letter")
    claim = taken(queue, lease=30, renew=False)
    got = in_thread(lambda: elsewhere.get(timeout=SOON))
    until(lambda: client.zcard(f"{queue.keys.base}:waiters"))

    claim.renew(0.2)

    assert got.get(timeout=4).id == job.id


def test_a_lease_cut_short_by_hand_is_renewed_in_time(queue, client):
    assert queue.get(timeout=0) is None
    until(lambda: queue.session.hears(queue.keys))
    queue.publish("letter")
    claim = taken(queue, lease=300)

    claim.renew(0.6)

    first = lease_end(client, claim)
    until(lambda: lease_end(client, claim) > first + 800, 5)
    assert not claim.aborted


# A call that is sent again


def claimed_by(queue: Queue, ticket: str) -> list[tuple[str, int]]:
    call = calls.claim(queue.keys, "lane", ticket, 2, 30, "worker")
    return [(taken.id, taken.token) for taken in queue.session.run(call).taken]


def test_a_claim_sent_again_with_its_ticket_gets_the_same_claims_while_they_are_valid(queue):
    jobs = queue.publish_many(range(4))
    first = claimed_by(queue, "t1")
    assert [id for id, _ in first] == [job.id for job in jobs[:2]]

    assert claimed_by(queue, "t1") == first
    queue.session.run(calls.finish(queue.keys, *first[0], b""))
    assert claimed_by(queue, "t1") == first[1:]

    assert [id for id, _ in claimed_by(queue, "t2")] == [job.id for job in jobs[2:]]


@pytest.mark.parametrize("verb", ["finish", "fail", "final fail", "cancel", "defer", "stall", "progress"])
def test_a_verb_sent_again_by_its_claimant_counts_once(queue, everything, verb):
    queue.publish("letter", max_attempts=9)
    claim = taken(queue, renew=False)
    name = (queue.keys, claim.id, claim.token)
    call = {
        "finish": lambda: calls.finish(*name, b"j1"),
        "fail": lambda: calls.fail(*name, b"e{}", final=False, delay=0),
        "final fail": lambda: calls.fail(*name, b"e{}", final=True, delay=0),
        "cancel": lambda: calls.cancel(*name, "", 0),
        "defer": lambda: calls.cancel(*name, "", 5),
        "stall": lambda: calls.stall(queue.keys, claim.id, "", claim.token),
        "progress": lambda: calls.report(*name, "progress", 1, b"j[1,2,null,0]"),
    }[verb]()
    assert queue.session.run(call) == [None]
    before = everything()

    assert queue.session.run(call) == [None]

    assert everything() == before


# Closing


def test_closing_gives_held_claims_back_at_no_cost(connect, queue):
    with connect() as closing:
        queue.publish_many(range(3))
        claims = closing.queue("letters").get_many(3)

    assert all(claim.aborted for claim in claims)
    for job in queue.jobs(State.AVAILABLE).jobs:
        assert (job.cancels, job.total_cancels, job.failures, job.lost) == (0, 0, 0, 0)
    assert queue.counts()[State.AVAILABLE] == 3
    with pytest.raises(BrokerClosed):
        closing.ping()
    closing.close()


def test_closing_ends_waiting_calls_and_leaves_no_job_with_them(connect, queue, client):
    for _ in range(10):
        closing = connect()
        there = closing.queue("letters")
        queue.publish("letter")
        held = there.get()
        waits = [in_thread(there.get), in_thread(there.job(held.id).wait)]
        until(lambda: client.zcard(f"{queue.keys.base}:waiters"))

        closing.close()

        assert [type(answer.get(timeout=SOON)) for answer in waits] == [BrokerClosed] * 2
        queue.get(timeout=1).finish()


def test_a_wait_that_ends_after_its_broker_was_closed_leaves_nothing_to_do(connect):
    closing = connect()
    queue = closing.queue("letters")
    session, job = queue.session, queue.publish("letter")
    with pytest.raises(TimeoutError):
        job.wait(timeout=0)
    closing.close()

    session.unlisten(queue.keys, job.id, threading.Event())  # a coroutine that nobody awaits is a warning
    gc.collect()


def test_closing_does_not_wait_for_a_thread_that_missed_it(connect, queue):
    for _ in range(40):
        queue.publish("letter")
        closing = connect()
        closing.queue("letters").get().finish()
        began = time.monotonic()
        closing.close()
        assert time.monotonic() - began < 3


def test_closing_does_not_wait_for_a_get_that_is_just_connecting(connect):
    for n in range(40):
        closing = connect()
        ended = in_thread(closing.queue("letters").get)
        time.sleep(n / 8000)
        began = time.monotonic()

        closing.close()

        assert isinstance(ended.get(timeout=SOON), BrokerClosed)
        assert time.monotonic() - began < 3


# Data that cannot be read


@pytest.mark.parametrize("stored", [b"j{", b"?", b"", b"J\0\0\0\xff", None])
def test_a_job_whose_stored_data_cannot_be_read_is_stalled_and_get_goes_on(queue, client, stored):
    bad = queue.publish("bad")
    queue.publish("good")
    if stored is None:
        client.hdel(f"{queue.keys.base}:payload", bad.id)
    else:
        client.hset(f"{queue.keys.base}:payload", bad.id, stored)

    assert queue.get(timeout=0).data == "good"

    stalled = queue.job(bad.id)
    assert (stalled.state, "cannot be read" in stalled.reason) == (State.STALLED, True)
    assert queue.jobs(State.STALLED).jobs[0].id == bad.id


def test_a_get_that_fails_while_it_stalls_what_cannot_be_read_gives_all_back(queue, elsewhere, client, monkeypatch):
    jobs = elsewhere.publish_many(range(3))
    client.hset(f"{queue.keys.base}:payload", jobs[1].id, b"j{")

    def unavailable(claim: Claim, reason: str) -> Any:
        raise BrokerUnavailable("as if the server were gone")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(ClaimCore, "_stall", unavailable)
        with pytest.raises(BrokerUnavailable):
            queue.get_many(3, timeout=0)

    assert {elsewhere.get(timeout=SOON / 4).data for _ in range(2)} == {0, 2}
    until(lambda: elsewhere.get(timeout=0) is None and jobs[1].refresh().state is State.STALLED, SOON / 4)
    assert jobs[1].refresh().cancels == 0


# Reports


def reports(queue: Queue, id: str, kind: str) -> list[bytes]:
    return [data for _, data in queue.session.run(calls.reports(queue.keys, id, kind, b"", 5000))]


def test_reports_of_each_kind_are_kept_in_order_and_the_last_thousand_of_them(queue):
    queue.publish("letter")
    claim = taken(queue)

    for n in range(1005):
        claim.set_progress(n, 1000, "on its way")
    for n in range(3):
        claim.log(f"line {n}")
        claim.emit("alert", {"n": n})

    kept = reports(queue, claim.id, "progress")
    assert [data[: len(f"j[{n}")] for n, data in enumerate(kept, 5)] == [f"j[{n}".encode() for n in range(5, 1005)]
    assert [b"line %d" % n in data for n, data in enumerate(reports(queue, claim.id, "log"))] == [True] * 3
    assert reports(queue, claim.id, "emit") == [b'j["alert",{"n":%d}]' % n for n in range(3)]
    progress = claim.refresh().progress
    assert (progress.value, progress.percent, progress.message) == (1004, 100, "on its way")
    assert claim.refresh().state is State.CLAIMED


def test_what_reports_say_goes_when_the_job_goes(queue, client):
    queue.publish("letter", keep=0)
    claim = taken(queue)
    claim.log("line")
    claim.set_progress(1)

    claim.finish()

    assert client.zcard(f"{queue.keys.base}:reports") == 0


@pytest.mark.parametrize(
    "report",
    [
        lambda claim, text: claim.log(text),
        lambda claim, text: claim.set_progress(1, 2, text),
        lambda claim, text: claim.emit("alert", text),
    ],
    ids=["log", "progress", "emit"],
)
def test_no_report_is_larger_than_a_payload_may_be(queue, report):
    queue.configure(max_payload=1000)
    queue.publish("letter")
    claim = taken(queue)

    with contextlib.suppress(PayloadError):
        report(claim, "x" * 2_000_000)

    kept = [data for kind in ("log", "progress", "emit") for data in reports(queue, claim.id, kind)]
    assert all(len(data) <= 1_048_576 for data in kept)


def test_reports_of_a_lost_claim_are_refused_and_those_before_it_stay(queue, elsewhere):
    queue.publish("letter")
    claim = taken(queue, renew=False)
    claim.log("before")
    elsewhere.stall(claim.id)
    elsewhere.retry(claim.id)
    taken(elsewhere).log("by the next")

    with pytest.raises(StaleClaim):
        claim.log("after")

    assert [data.split(b'"')[1] for data in reports(queue, claim.id, "log")] == [b"before", b"by the next"]
