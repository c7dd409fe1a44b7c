"""Limits on running and pending jobs, of the queue, of each key, of one key: set, changed, lifted while jobs wait."""

from __future__ import annotations

import queue as queues
from typing import Any

import pytest
from helpers import INF, SOON, count_of_commands, in_thread, quiet, taken, until, waiting

from thoonk_jobs import EACH_KEY, Limit, LimitReached, Publish, PublishFailed, Queue, State

pytestmark = pytest.mark.asyncio_on("valkey")

WHOSE = pytest.mark.parametrize("whose", [None, EACH_KEY, "ann"], ids=["queue", "each key", "one key"])


def startable(queue: Queue) -> list[Any]:
    return [claim.data for claim in queue.get_many(1000, timeout=0)]


def states(queue: Queue) -> dict[Any, str]:
    return {job.data: str(job.state) for job in queue.jobs(limit=500).jobs}


# Running


@WHOSE
def test_no_more_jobs_run_at_once_than_the_limit_and_the_end_of_one_lets_the_next_go(queue, whose):
    queue.limit(whose, running=2)
    queue.publish_many(range(4), key="ann")

    first, second = queue.get_many(4, timeout=0)
    assert queue.get(timeout=0) is None
    second.finish()

    assert startable(queue) == [2]
    assert states(queue) == {0: "claimed", 1: "finished", 2: "claimed", 3: "waiting"}
    assert first.data == 0


def test_a_limit_of_each_key_counts_each_key_for_itself_and_jobs_without_a_key_not_at_all(queue):
    queue.limit(EACH_KEY, running=1)
    queue.publish_many(Publish(f"{key} {n}", key=key) for key in ("ann", "bob", None) for n in range(2))

    assert startable(queue) == ["ann 0", "bob 0", "None 0", "None 1"]


def test_a_limit_of_one_key_holds_for_that_key_only(queue):
    queue.limit("ann", running=1)
    queue.publish_many(Publish(f"{key} {n}", key=key) for key in ("ann", "bob") for n in range(2))

    assert startable(queue) == ["ann 0", "bob 0", "bob 1"]


def test_a_job_needs_a_slot_of_its_key_and_one_of_the_queue(queue):
    queue.limit(running=2)
    queue.limit(EACH_KEY, running=1)
    queue.publish_many(Publish(f"{key} {n}", key=key) for key in ("ann", "bob", "cleo") for n in range(2))

    claims = queue.get_many(9, timeout=0)
    assert [claim.data for claim in claims] == ["ann 0", "bob 0"]
    claims[1].finish()

    assert startable(queue) == ["bob 1"], "it was published before cleo's"


def test_a_limit_of_0_lets_nothing_start(queue):
    queue.limit("ann", running=0)
    queue.publish("ann's", key="ann")
    queue.publish("bob's", key="bob")

    assert startable(queue) == ["bob's"]


def test_a_less_urgent_job_beside_a_full_key_is_not_held_back(queue):
    queue.limit("ann", running=1)
    for n in range(3):
        queue.publish(f"ann {n}", key="ann", priority="critical")
    queue.publish("bob", key="bob", priority="low")
    queue.publish("no key", priority=-99)

    assert startable(queue) == ["ann 0", "bob", "no key"]


# Whose numbers hold


def test_a_number_of_its_own_wins_over_that_of_each_key_number_by_number(queue):
    queue.limit(EACH_KEY, running=1, pending=3, when_full="reject", block_after=(2, 60, 600))
    queue.limit("ann", running=2, when_full="wait")

    assert queue.key("ann").limit == Limit(running=2, pending=3, when_full="wait", block_after=(2, 60, 600))
    assert queue.key("bob").limit == Limit(running=1, pending=3, when_full="reject", block_after=(2, 60, 600))
    for n in range(3):
        queue.publish(n, key="ann")
    with pytest.raises(LimitReached):
        queue.publish(3, key="ann")
    assert startable(queue) == [0, 1]


def test_inf_lifts_a_number_for_one_key_whatever_each_key_says(queue):
    queue.limit(EACH_KEY, running=1, pending=2, block_after=(1, 60, 60))
    queue.limit("ann", running=INF, pending=INF, block_after=INF)

    for n in range(3):
        queue.publish(n, key="ann")

    assert queue.key("ann").limit == Limit()
    assert startable(queue) == [0, 1, 2]


def test_none_takes_back_what_was_set_so_that_each_key_holds_again(queue):
    queue.limit(EACH_KEY, running=1, pending=2, when_full="reject", block_after=(1, 60, 60))
    of_each = queue.key("ann").limit
    queue.limit("ann", running=5, pending=INF, when_full="wait", block_after=(9, 9, 9))

    for name in ("running", "pending", "when_full", "block_after"):
        queue.limit("ann", **{name: None})

    assert queue.key("ann").limit == of_each
    for name in ("running", "pending", "when_full", "block_after"):
        queue.limit(EACH_KEY, **{name: None})
    assert queue.key("ann").limit == Limit()


def test_what_is_left_out_stays_as_it_is(queue):
    queue.limit("ann", running=1, pending=2)
    queue.limit("ann", when_full="reject")
    queue.limit("ann", pending=3)
    queue.limit("ann")

    assert queue.key("ann").limit == Limit(running=1, pending=3, when_full="reject")


# Pending


@WHOSE
def test_a_publish_beyond_the_pending_jobs_is_refused_and_says_of_whom_and_how_many(queue, whose):
    queue.limit(whose, pending=2)
    queue.publish("first", key="ann")
    queue.publish("second", key="ann")

    with pytest.raises(LimitReached, match="2 pending") as refused:
        queue.publish("third", key="ann")

    assert (refused.value.key, refused.value.limit) == (None if whose is None else "ann", 2)
    assert len(queue.ids()) == 2
    taken(queue).finish()
    queue.publish("third", key="ann")


@pytest.mark.parametrize("whose", [None, "ann"], ids=["queue", "key"])
def test_scheduled_waiting_available_and_claimed_jobs_are_pending_and_stalled_and_finished_ones_are_not(queue, whose):
    queue.limit("ann", running=2)
    for data in ("stalled", "finished", "claimed", "available", "waiting"):
        queue.publish(data, key="ann")
        if data in ("stalled", "finished"):
            claim = taken(queue)
            claim.stall() if data == "stalled" else claim.finish()
    taken(queue)
    queue.publish("scheduled", key="ann", delay=60)
    assert all(data == state for data, state in states(queue).items())

    queue.limit(whose, pending=5)
    queue.publish("one more", key="ann", delay=60)

    with pytest.raises(LimitReached):
        queue.publish("one too many", key="ann", delay=60)


def test_publishing_a_job_again_that_is_there_is_answered_however_full_it_is(queue):
    queue.limit(pending=1)
    job = queue.publish("letter", id="l1")

    assert queue.publish("letter", id="l1") == job
    with pytest.raises(LimitReached):
        queue.publish("letter", id="l2")


def test_a_retry_is_no_publish_and_is_not_refused(queue):
    queue.limit("ann", pending=1, when_full="reject", running=1)
    job = queue.publish("old", key="ann")
    taken(queue).stall()
    queue.publish("new", key="ann")

    queue.retry(job.id)

    assert states(queue) == {"new": "available", "old": "waiting"}


def test_of_many_those_that_fit_are_published_and_each_refusal_is_told_by_its_position(queue):
    queue.limit("ann", pending=2)

    with pytest.raises(PublishFailed) as failed:
        queue.publish_many(Publish(n, key="bob" if n == 3 else "ann") for n in range(5))

    assert [job and job.data for job in failed.value.jobs] == [0, 1, None, 3, None]
    assert {at: (type(error), error.key) for at, error in failed.value.errors.items()} == {
        2: (LimitReached, "ann"),
        4: (LimitReached, "ann"),
    }


# Reject


@WHOSE
def test_with_reject_a_publish_is_refused_while_the_running_jobs_are_as_many_as_may(queue, whose):
    queue.limit(whose, running=1, when_full="reject")
    queue.publish("first", key="ann")

    with pytest.raises(LimitReached, match="1 running") as refused:
        queue.publish("second", key="ann")

    assert (refused.value.key, refused.value.limit) == (None if whose is None else "ann", 1)
    taken(queue).finish()
    queue.publish("second", key="ann")
    assert startable(queue) == ["second"]


def test_with_reject_a_job_that_is_due_later_is_taken_and_waits_when_it_is_due(queue, clock):
    queue.limit("ann", running=1, when_full="reject")
    queue.publish("now", key="ann")
    queue.publish("later", key="ann", delay=5)
    claim = taken(queue, lease=100, renew=False)

    clock.advance(5)
    assert queue.get(timeout=0) is None
    assert states(queue) == {"now": "claimed", "later": "waiting"}
    claim.finish()

    assert startable(queue) == ["later"]


def test_reject_taken_back_lets_the_next_wait(queue):
    queue.limit("ann", running=1, when_full="reject")
    queue.publish("first", key="ann")
    queue.limit("ann", when_full="wait")

    queue.publish("second", key="ann")

    assert states(queue) == {"first": "available", "second": "waiting"}


# Changed while jobs are there


@WHOSE
def test_a_lowered_limit_parks_the_last_of_those_that_did_not_start(queue, elsewhere, whose):
    queue.publish_many(range(4), key="ann")

    elsewhere.limit(whose, running=2)

    assert states(queue) == {0: "available", 1: "available", 2: "waiting", 3: "waiting"}
    assert startable(queue) == [0, 1]


def test_a_limit_lowered_below_what_runs_interrupts_nobody_and_lets_the_next_go_when_it_fits_again(queue, elsewhere):
    queue.publish_many(range(4), key="ann")
    claims = queue.get_many(3, timeout=0)

    elsewhere.limit("ann", running=1)
    ends = []
    for claim in claims:
        ends.append(queue.get(timeout=0))
        claim.finish("in peace")

    assert ends == [None, None, None]
    assert startable(queue) == [3]
    assert {queue.job(claim.id).result for claim in claims} == {"in peace"}


HOW = {
    "raised": lambda queue, whose: queue.limit(whose, running=2),
    "lifted": lambda queue, whose: queue.limit(whose, running=INF),
    "taken back": lambda queue, whose: queue.limit(whose, running=None),
}


@WHOSE
@pytest.mark.parametrize("how", HOW)
def test_a_limit_that_is_raised_or_lifted_wakes_a_worker_that_waits(queue, elsewhere, client, whose, how):
    queue.limit(whose, running=1)
    queue.publish_many(range(2), key="ann")
    taken(queue)
    got = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 1)

    HOW[how](elsewhere, whose)

    assert got.get(timeout=SOON).data == 1


@WHOSE
def test_a_job_that_ends_in_another_process_wakes_a_worker_that_waits_for_its_slot(queue, elsewhere, client, whose):
    queue.limit(whose, running=1)
    queue.publish_many(range(2), key="ann")
    claim = taken(elsewhere)
    got = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 1)

    claim.finish()

    assert got.get(timeout=SOON).data == 1


def test_a_limit_holds_in_every_process_from_the_next_call_on(queue, elsewhere):
    elsewhere.publish("before", key="ann")
    queue.limit("ann", pending=1)
    with pytest.raises(LimitReached):
        elsewhere.publish("after", key="ann")

    elsewhere.limit("ann", pending=2, running=1)
    queue.publish("after", key="ann")

    assert startable(elsewhere) == ["before"]
    assert queue.key("ann").limit == elsewhere.key("ann").limit == Limit(running=1, pending=2)


@pytest.mark.parametrize("key", [None, "ann"], ids=["queue", "key"])
def test_more_jobs_than_one_script_may_move_are_parked_and_let_go_when_limit_returns(queue, key):
    queue.publish_many(range(1100), key="ann")

    queue.limit(key, running=0)
    parked = queue.counts()
    queue.limit(key, running=INF)

    assert (parked[State.WAITING], parked[State.AVAILABLE]) == (1100, 0)
    assert startable(queue) == list(range(1000))
    assert queue.counts()[State.AVAILABLE] == 100


# Who is next


@WHOSE
def test_jobs_that_wait_run_in_the_order_in_which_they_were_published_the_urgent_ones_first(queue, whose):
    queue.limit(whose, running=1)
    queue.publish("holds the slot", key="ann", priority="critical")
    claim = taken(queue)
    for data, priority in (("a", 0), ("b", -5), ("c", 7), ("d", 0), ("e", "front"), ("f", -5), ("g", 7)):
        queue.publish(data, key="ann", priority=priority)

    order = []
    while claim:
        claim.finish()
        if claim := queue.get(timeout=0):
            order.append(claim.data)

    assert order == ["e", "c", "g", "a", "d", "b", "f"]


@WHOSE
def test_a_more_urgent_job_takes_the_slot_of_a_less_urgent_one_that_did_not_start(queue, whose):
    queue.limit(whose, running=1)
    queue.publish("usual", key="ann")
    queue.publish("as urgent", key="ann")

    queue.publish("urgent", key="ann", priority="high")

    assert states(queue) == {"urgent": "available", "usual": "waiting", "as urgent": "waiting"}
    taken(queue).finish()
    assert startable(queue) == ["usual"]


def test_a_job_that_runs_keeps_its_slot_however_urgent_the_next_one_is(queue):
    queue.limit("ann", running=1)
    queue.publish("usual", key="ann")
    claim = taken(queue)

    queue.publish("urgent", key="ann", priority="front")

    assert queue.get(timeout=0) is None
    claim.finish("in peace")
    assert startable(queue) == ["urgent"]


def test_a_limited_queue_that_is_idle_sends_nothing(queue, elsewhere, client):
    """One job runs, others wait for its slot, and a worker waits for them."""
    queue.limit(EACH_KEY, running=1)
    queue.limit(running=5)
    queue.publish_many(range(3), key="ann")
    claim = taken(elsewhere, lease=3600)
    got = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 1 and quiet(client))

    before = count_of_commands(client)
    with pytest.raises(queues.Empty):
        got.get(timeout=0.3)
    asked_for_info = 1
    assert count_of_commands(client) - before == asked_for_info

    claim.finish()
    assert got.get(timeout=SOON).data == 1
