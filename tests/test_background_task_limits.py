"""The scenarios B20 to B55 of node-background-task on limits and its blacklist (`requirements/seeds.md`, section 3).

Its maxTasksPerKey is `limit(EACH_KEY, pending=…)`, its blacklist are the blocked keys, its cleanup nobody has to call.
"""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime

import pytest
from helpers import INF, SOON, in_thread, taken

from thoonk_jobs import EACH_KEY, InvalidArgument, KeyBlocked, LimitReached, Outcome, State

pytestmark = pytest.mark.asyncio_on("valkey")


def test_b20_with_two_tasks_a_key_the_third_one_outstanding_is_too_many(queue, elsewhere):
    queue.limit(EACH_KEY, pending=2)
    for n in range(2):
        queue.publish(n, key="ann@example.com")

    with pytest.raises(LimitReached) as refused:
        elsewhere.publish(2, key="ann@example.com")

    assert (refused.value.key, refused.value.limit) == ("ann@example.com", 2)
    queue.publish(2, key="bob@example.com")


def test_b20_of_ten_at_once_exactly_as_many_as_may_are_taken(queue, connect):
    """The old one took three of ten with a limit of two, as it counted first and added then."""
    queue.limit(EACH_KEY, pending=2)
    with connect() as one, connect() as other:
        places = [one.queue("letters"), other.queue("letters")] * 5
        taken_in = []
        for n, answer in enumerate([in_thread(lambda place=place: place.publish("n", key="ann")) for place in places]):
            taken_in += [n] if not isinstance(answer.get(timeout=SOON), LimitReached) else []

    assert len(taken_in) == len(queue.ids()) == 2


def test_b21_two_tasks_of_one_key_that_may_have_two_are_both_completed(broker, queue, elsewhere, heard):
    queue.limit(EACH_KEY, pending=2)
    jobs = [queue.publish(n, key="ann@example.com", on_finish=heard) for n in range(2)]

    for claim in elsewhere.get_many(2):
        claim.finish(claim.data)
    broker.join(timeout=SOON)

    assert heard.once_each([job.id for job in jobs])
    assert sorted(job.result for job in heard.jobs) == [0, 1]
    queue.publish(2, key="ann@example.com")


def test_b22_a_task_of_a_blacklisted_key_is_refused_with_the_reason_and_the_seconds_that_remain(queue, elsewhere):
    elsewhere.block("ann@example.com", 3600, "mail bounces")

    with pytest.raises(
        KeyBlocked, match=r"'ann@example.com' is blocked for 3[56]\d\d.* s more: mail bounces"
    ) as refused:
        queue.publish("letter", key="ann@example.com")

    assert refused.value.reason == "mail bounces"
    assert 3590 < refused.value.seconds_left <= 3600


def test_b33_the_number_of_blacklisted_keys_is_0_then_1_then_3(queue, elsewhere):
    counted = [len(queue.blocked_keys())]
    for keys in (["ann"], ["bob", "cleo", "ann"]):
        for key in keys:
            elsewhere.block(key, 3600, "mail bounces")
        counted.append(len(queue.blocked_keys()))

    assert counted == [0, 1, 3]


def test_b35_the_status_of_a_blacklisted_key_has_a_reason_and_an_end_within_the_time_and_an_unknown_one_has_none(queue):
    queue.block("ann", 60, "mail bounces")

    status, unknown = queue.key("ann"), queue.key("nobody")

    assert status.reason == "mail bounces"
    assert 0 < (status.blocked_until - datetime.now(UTC)).total_seconds() <= 60
    assert (unknown.reason, unknown.blocked_until) == (None, None)


def test_b35_the_failure_over_the_threshold_blacklists_for_the_timeout(queue):
    """There it was the 11th within a second, for an hour; `block_after` counts the failures that it takes."""
    queue.limit(EACH_KEY, block_after=(11, 60, 3600))
    queue.publish_many(range(11), key="ann")
    *claims, last = queue.get_many(11)

    for claim in claims:
        claim.fail("torn")
    assert (queue.blocked_keys(), queue.key("ann").failures) == ([], 10)
    last.fail("torn")

    assert queue.blocked_keys() == ["ann"]


def test_b38_each_blacklisting_is_logged_once_in_the_log_of_its_key(queue):
    """Always: a log that is bounded costs nothing worth a switch."""
    assert queue.key("ann").log == []

    for key, reason in (("ann", "first"), ("bob", "bob's"), ("ann", "second")):
        queue.block(key, 60, reason)

    assert [entry.reason for entry in queue.key("ann").log] == ["second", "first"]
    assert [entry.reason for entry in queue.key("bob").log] == ["bob's"]


def test_b39_a_missing_empty_or_impossible_key_is_refused_where_a_key_is_needed(queue, everything):
    before = everything()

    for key in ("", None, 7):
        with pytest.raises(InvalidArgument, match="key"):
            queue.block(key, 60, "mail bounces")
        with pytest.raises(InvalidArgument, match="key"):
            queue.key(key)
    for key in ("", 7):
        with pytest.raises(InvalidArgument, match="key"):
            queue.publish("letter", key=key)
        with pytest.raises(InvalidArgument, match="key"):
            queue.limit(key, running=1)
    assert everything() == before


def test_b39_a_task_without_a_key_needs_none(queue):
    """There, any task without the field that taskKey names was refused."""
    queue.limit(EACH_KEY, running=1, pending=1)
    queue.publish_many(range(3))

    assert len(queue.get_many(9, timeout=0)) == 3


def test_b40_each_task_counts_until_it_ends_and_the_sixth_of_five_is_refused(queue):
    queue.limit("ann", pending=5)
    counted = []
    for n in range(5):
        queue.publish(n, key="ann")
        counted.append(queue.key("ann").pending)
    with pytest.raises(LimitReached):
        queue.publish(5, key="ann")

    taken(queue).finish()
    counted.append(queue.key("ann").pending)
    queue.publish(5, key="ann")
    counted.append(queue.key("ann").pending)

    assert counted == [1, 2, 3, 4, 5, 4, 5]


def test_b40_without_a_limit_no_number_of_tasks_is_too_many(queue):
    queue.limit(EACH_KEY, pending=5)
    queue.limit("ann", pending=INF)

    queue.publish_many(range(50), key="ann")

    assert len(queue.get_many(100, timeout=0)) == 50


def test_b42_a_creator_that_starts_or_ends_frees_no_slot_of_another_one(connect, queue):
    """There a second creator on one host set the counts of the first to 0; here a slot is a job's, not a process's."""
    queue.limit("ann", pending=2)
    for n in range(2):
        queue.publish(n, key="ann")

    with connect() as second:
        second.queue("letters").key("ann")
    with connect() as third, pytest.raises(LimitReached):
        third.queue("letters").publish(2, key="ann")

    assert queue.key("ann").pending == 2


def test_b42_a_worker_that_ends_gives_back_its_own_slots_and_no_others(connect, queue):
    queue.limit("ann", running=2)
    queue.publish_many(range(3), key="ann")
    stays = taken(queue)
    with connect() as leaving:
        leaves = taken(leaving.queue("letters"))
        assert queue.key("ann").holders == sorted([stays.id, leaves.id])

    assert queue.key("ann").holders == [stays.id]
    assert taken(queue).id == leaves.id
    assert queue.get(timeout=0) is None


def test_b42_deleting_a_queue_that_holds_nothing_is_harmless(queue):
    queue.delete()
    queue.unblock("ann")

    assert (queue.key("ann").pending, queue.blocked_keys()) == (0, [])


CREATOR = """
import signal, sys
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    job = broker.queue("letters").publish("letter", key="ann", expires_in=60, on_finish=print)
    print(job.id, flush=True)
    signal.pause()
"""


@pytest.fixture
def left_behind(url, namespace, start):
    """The id of a task whose creator was killed."""
    creator = start(CREATOR, url, namespace)
    id = creator.stdout.readline().strip()
    os.kill(creator.pid, signal.SIGKILL)
    creator.wait(SOON)
    return id


def test_b55_the_slot_of_a_killed_creator_is_free_when_the_time_of_its_task_is_over(queue, clock, left_behind):
    queue.limit("ann", pending=1)
    with pytest.raises(LimitReached):
        queue.publish("another", key="ann")

    clock.advance(60 + SOON)
    assert queue.get(timeout=0) is None

    assert queue.job(left_behind).outcome is Outcome.EXPIRED
    queue.publish("another", key="ann")


def test_b55_the_task_of_a_killed_creator_is_done_all_the_same(queue, left_behind):
    queue.limit("ann", pending=1)

    taken(queue).finish("sent")

    assert (queue.job(left_behind).result, queue.key("ann").pending) == ("sent", 0)
    assert queue.publish("another", key="ann").state is State.AVAILABLE
