"""What `Queue.key` tells of a key, keys that look alike, and what `limit`, `block` and `holder` refuse to send."""

from __future__ import annotations

from datetime import timedelta

import pytest
from helpers import INF, taken

from thoonk_jobs import EACH_KEY, Block, InvalidArgument, KeyBlocked, KeyStatus, Limit, LimitReached, Publish, Unique

pytestmark = pytest.mark.asyncio_on("valkey")

NOTHING = KeyStatus(
    name="ann", running=0, pending=0, failures=0, blocked_until=None, reason=None, holders=[], available=[], waiting=[],
    limit=Limit(), log=[],
)  # fmt: skip


def test_a_key_that_nobody_used_has_nothing(queue):
    assert queue.key("ann") == NOTHING


def test_a_key_without_limits_has_its_jobs_all_the_same(queue):
    for id in ("done", "runs", "next"):
        queue.publish(id, id=id, key="ann")
    taken(queue).finish()
    taken(queue)

    status = queue.key("ann")

    assert (status.running, status.pending, status.holders, status.available) == (1, 2, ["runs"], ["next"])


def test_the_status_tells_who_runs_who_may_start_who_waits_and_what_is_pending(queue):
    queue.limit("ann", running=2)
    for id, options in (
        ("stalled", {}), ("finished", {}), ("runs", {}), ("may start", {}), ("third", {}), ("second", {"priority": 1}),
        ("first", {"priority": "front"}), ("later", {"delay": 60}), ("bob's", {"key": "bob"}),
    ):  # fmt: skip
        queue.publish(id, id=id, **{"key": "ann", **options})
        if id in ("stalled", "finished"):
            queue.stall(taken(queue)) if id == "stalled" else queue.finish(taken(queue))
        if id == "runs":
            taken(queue)
    queue.retract("may start")

    status = queue.key("ann")

    assert (status.name, status.running, status.pending) == ("ann", 1, 5)
    assert (status.holders, status.available, status.waiting) == (["runs"], ["first"], ["second", "third"])
    assert (status.failures, status.blocked_until, status.reason, status.log) == (0, None, None, [])
    assert status.limit == Limit(running=2)


def test_the_status_of_a_blocked_key_has_until_when_and_why_and_its_log(queue, clock):
    queue.limit("ann", block_after=(2, 60, 600))
    queue.publish_many(range(3), key="ann")
    first, second, third = queue.get_many(3, lease=1000, renew=False)

    first.fail("torn")
    assert (queue.key("ann").failures, queue.key("ann").blocked_until) == (1, None)
    clock.advance(1)
    second.fail("torn")
    blocked = clock.now
    clock.advance(1)
    third.fail("torn")
    status = queue.key("ann")

    assert (status.failures, status.reason) == (0, "2 failures within 60 s")
    assert status.blocked_until.timestamp() == blocked / 1000 + 600
    at = status.blocked_until - timedelta(seconds=600)
    assert status.log == [Block(at, status.blocked_until, "2 failures within 60 s")]


def test_lists_of_a_key_have_the_first_100_and_the_numbers_count_all(queue):
    queue.limit("ann", running=150)
    ids = [job.id for job in queue.publish_many(range(300), key="ann")]
    queue.get_many(120, timeout=0)

    status = queue.key("ann")

    assert (status.running, status.pending) == (120, 300)
    assert (len(status.holders), set(status.holders) <= set(ids[:120])) == (100, True)
    assert status.available == ids[120:150]
    assert status.waiting == ids[150:250]


def test_jobs_that_wait_for_a_slot_of_the_queue_are_ahead_of_those_that_wait_for_their_key(queue):
    queue.limit("ann", running=1)
    queue.publish("runs", id="runs")
    queue.limit(running=1)
    queue.publish("first", id="first", key="ann")
    queue.publish("second", id="second", key="ann")

    assert queue.key("ann").waiting == ["first", "second"]


# Keys that look alike

ODD = [
    "a", "ab", "a\0", "a\0b", "\0", "\0\1", "é", "e\u0301", "{a}", "{a}*?[", "\\0", "\\", "k", "q", "e", " ", "x" * 200,
    "x" * 199, "\N{PILE OF POO}" * 200, "\r\n$5", "None", "A", "\x7f", "\xff", "\uffff",
]  # fmt: skip


def test_no_key_takes_a_slot_of_another_however_alike_they_look(queue):
    queue.limit(EACH_KEY, running=1, pending=2)
    queue.publish_many(Publish([key, n], key=key) for key in ODD for n in range(2))

    claims = queue.get_many(1000, timeout=0)

    assert [claim.data for claim in claims] == [[key, 0] for key in ODD]
    assert [claim.key for claim in claims] == ODD
    for claim in claims:
        status = queue.key(claim.key)
        assert (status.name, status.running, status.pending, status.holders) == (claim.key, 1, 2, [claim.id])
        with pytest.raises(LimitReached) as refused:
            queue.publish("one too many", key=claim.key)
        assert refused.value.key == claim.key


@pytest.mark.parametrize("odd", ["a", "a\0", "\0", "{a}", "e", "x" * 199], ids=ascii)
def test_limits_and_blocks_of_one_key_are_not_those_of_another(queue, odd):
    queue.limit(odd, running=1, block_after=(1, 60, 60))
    queue.block(odd, 60, "mail bounces")

    others = [key for key in ODD if key != odd]
    queue.publish_many(Publish(n, key=key) for key in others for n in range(2))

    assert len(queue.get_many(1000, timeout=0)) == 2 * len(others)
    assert queue.blocked_keys() == [odd]
    with pytest.raises(KeyBlocked) as refused:
        queue.publish("letter", key=odd)
    assert (refused.value.key, refused.value.reason) == (odd, "mail bounces")
    assert queue.key(odd).log[0].reason == "mail bounces"


def test_odd_unique_names_are_not_those_of_another(queue):
    jobs = queue.publish_many(Publish(name, unique=name) for name in ODD)

    assert [queue.holder(name) for name in ODD] == jobs


# What is refused before anything is sent

BAD = [
    ("running", lambda queue: queue.limit(running=-1)),
    ("running", lambda queue: queue.limit(running=1.5)),
    ("running", lambda queue: queue.limit(running=True)),
    ("running", lambda queue: queue.limit(running="many")),
    ("running", lambda queue: queue.limit(running=float("nan"))),
    ("running", lambda queue: queue.limit(running=-INF)),
    ("running", lambda queue: queue.limit(running=2**53)),
    ("pending", lambda queue: queue.limit(EACH_KEY, pending=-1)),
    ("pending", lambda queue: queue.limit("ann", pending=[])),
    ("when_full", lambda queue: queue.limit(when_full="drop")),
    ("when_full", lambda queue: queue.limit(when_full=True)),
    ("when_full", lambda queue: queue.limit(when_full=[])),
    ("block_after", lambda queue: queue.limit(block_after=(1, 1, 1))),
    ("block_after", lambda queue: queue.limit(None, block_after=None)),
    ("block_after", lambda queue: queue.limit("ann", block_after=3)),
    ("block_after", lambda queue: queue.limit("ann", block_after=(1, 1))),
    ("block_after", lambda queue: queue.limit("ann", block_after=(0, 1, 1))),
    ("block_after", lambda queue: queue.limit("ann", block_after=(1001, 1, 1))),
    ("block_after", lambda queue: queue.limit("ann", block_after=(True, 1, 1))),
    ("block_after", lambda queue: queue.limit("ann", block_after=(1.5, 1, 1))),
    ("block_after's seconds", lambda queue: queue.limit("ann", block_after=(1, 0, 1))),
    ("block_after's seconds", lambda queue: queue.limit("ann", block_after=(1, INF, 1))),
    ("block_after's block_seconds", lambda queue: queue.limit("ann", block_after=(1, 1, None))),
    ("block_after's block_seconds", lambda queue: queue.limit("ann", block_after=(1, 1, -1))),
    ("key", lambda queue: queue.limit("", running=1)),
    ("key", lambda queue: queue.limit("x" * 201, running=1)),
    ("key", lambda queue: queue.limit(b"ann", running=1)),
    ("key", lambda queue: queue.limit("\ud800", running=1)),
    ("key", lambda queue: queue.block("", 60, "mail bounces")),
    ("key", lambda queue: queue.block(None, 60, "mail bounces")),
    ("key", lambda queue: queue.block(EACH_KEY, 60, "mail bounces")),
    ("seconds", lambda queue: queue.block("ann", 0, "mail bounces")),
    ("seconds", lambda queue: queue.block("ann", -1, "mail bounces")),
    ("seconds", lambda queue: queue.block("ann", None, "mail bounces")),
    ("seconds", lambda queue: queue.block("ann", INF, "mail bounces")),
    ("seconds", lambda queue: queue.block("ann", "an hour", "mail bounces")),
    ("reason", lambda queue: queue.block("ann", 60, "")),
    ("reason", lambda queue: queue.block("ann", 60, None)),
    ("reason", lambda queue: queue.block("ann", 60, 7)),
    ("key", lambda queue: queue.unblock("")),
    ("key", lambda queue: queue.unblock(None)),
    ("key", lambda queue: queue.key(EACH_KEY)),
    ("key", lambda queue: queue.key(None)),
    ("key", lambda queue: queue.key("")),
    ("key", lambda queue: queue.publish("letter", key="")),
    ("key", lambda queue: queue.publish("letter", key=7)),
    ("key", lambda queue: queue.publish("letter", key=EACH_KEY)),
    ("unique", lambda queue: queue.holder("")),
    ("unique", lambda queue: queue.holder(None)),
    ("unique", lambda queue: queue.publish("letter", unique="")),
    ("unique", lambda queue: queue.publish("letter", unique=7)),
    ("unique", lambda queue: queue.publish("letter", unique="x" * 201)),
    ("unique", lambda queue: queue.publish_many([1, Publish(2, unique=True)])),
    ("on_conflict", lambda queue: queue.publish("letter", unique=Unique("name", on_conflict="drop"))),
    ("until", lambda queue: queue.publish("letter", unique=Unique("name", until="started"))),
    ("unique", lambda queue: Unique("")),
]


@pytest.fixture(scope="module")
def unreachable():
    """Whatever is sent from here raises BrokerUnavailable."""
    return {"url": "redis://127.0.0.1:1", "retry_for": 0}


@pytest.mark.parametrize(("named", "act"), BAD, ids=[f"{named}-{at}" for at, (named, _) in enumerate(BAD)])
def test_a_bad_argument_is_named_and_nothing_is_sent(connect, unreachable, named, act):
    with connect(**unreachable) as broker, pytest.raises(InvalidArgument, match=rf"^{named}\b"):
        act(broker.queue("letters"))
