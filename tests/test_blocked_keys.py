"""Keys that nobody may publish with for a while: by an operator, or after too many failures."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import INF, SOON, in_thread, taken

from thoonk_jobs import EACH_KEY, Claim, KeyBlocked, Publish, PublishFailed, Queue, State

pytestmark = pytest.mark.asyncio_on("valkey")

WHY = "mail bounces"


def blocked(queue: Queue, key: str = "ann") -> bool:
    try:
        queue.publish("is it blocked", key=key, delay=9000)
    except KeyBlocked:
        return True
    return False


def attempt(queue: Queue, key: str = "ann", **options: Any) -> Claim:
    """A job of the key that is about to fail."""
    job = queue.publish("letter", key=key, **options)
    claim = taken(queue, lease=9000, renew=False)
    assert claim.id == job.id
    return claim


def test_publishing_with_a_blocked_key_is_refused_with_the_key_the_reason_and_the_time_left(queue, clock):
    queue.block("ann", 60, WHY)
    clock.advance(20)

    with pytest.raises(KeyBlocked, match="'ann' is blocked for 40 s more: mail bounces") as refused:
        queue.publish("letter", key="ann")

    assert (refused.value.key, refused.value.reason, refused.value.seconds_left) == ("ann", WHY, 40)
    assert queue.ids() == []


def test_other_keys_and_jobs_without_a_key_are_published_meanwhile(queue):
    queue.block("ann", 60, WHY)

    with pytest.raises(PublishFailed) as failed:
        queue.publish_many(Publish(key, key=key) for key in ("ann", "bob", None))

    assert list(failed.value.errors) == [0]
    assert isinstance(failed.value.errors[0], KeyBlocked)
    assert [job.data for job in queue.jobs().jobs] == ["bob", None]


def test_a_block_ends_by_itself(queue, clock):
    queue.block("ann", 60, WHY)

    clock.advance(59.999)
    assert blocked(queue)
    assert queue.blocked_keys() == ["ann"]
    clock.advance(0.001)

    assert not blocked(queue)
    assert queue.blocked_keys() == []
    assert (queue.key("ann").blocked_until, queue.key("ann").reason) == (None, None)


def test_unblock_ends_it_at_once_in_every_process_and_may_be_repeated(queue, elsewhere):
    queue.block("ann", 60, WHY)
    assert blocked(elsewhere)

    elsewhere.unblock("ann")
    elsewhere.unblock("ann")
    elsewhere.unblock("nobody")

    assert not blocked(queue)
    assert queue.blocked_keys() == []


@pytest.mark.parametrize("seconds", [10, 100])
def test_a_later_block_replaces_the_earlier_one(queue, clock, seconds):
    queue.block("ann", 60, WHY)
    queue.block("ann", seconds, "moved away")

    with pytest.raises(KeyBlocked) as refused:
        queue.publish("letter", key="ann")

    assert (refused.value.reason, refused.value.seconds_left) == ("moved away", seconds)


def test_jobs_that_are_there_are_not_touched(queue, clock):
    queue.limit("ann", running=1)
    jobs = {name: queue.publish(name, key="ann", delay=5 if name == "due" else None) for name in ("a", "b", "c", "due")}
    claim = taken(queue, lease=1000, renew=False)

    queue.block("ann", 60, WHY)
    clock.advance(6)
    done = []
    while claim:
        done.append(claim.data)
        claim.finish()
        claim = queue.get(timeout=0, lease=1000, renew=False)

    assert done == ["a", "b", "c", "due"]
    assert {job.refresh().state for job in jobs.values()} == {State.FINISHED}


def test_a_stalled_job_of_a_blocked_key_may_be_retried_and_a_finished_one_rerun(queue):
    for name in ("stalled", "finished"):
        queue.publish(name, id=name, key="ann")
    queue.stall(taken(queue))
    queue.finish(taken(queue))
    queue.block("ann", 60, WHY)

    queue.retry("stalled")
    queue.rerun("finished")

    assert [claim.id for claim in queue.get_many(9)] == ["stalled", "finished"]


def test_publishing_a_job_again_that_is_there_is_answered_however_blocked_its_key_is(queue):
    job = queue.publish("letter", id="l1", key="ann")
    queue.block("ann", 60, WHY)

    assert queue.publish("letter", id="l1", key="ann") == job
    with pytest.raises(KeyBlocked):
        queue.publish("letter", id="l2", key="ann")


def test_a_callback_of_a_publish_that_was_refused_is_not_waited_for(broker, queue, heard):
    queue.block("ann", 60, WHY)
    with pytest.raises(KeyBlocked):
        queue.publish("letter", key="ann", on_finish=heard)

    broker.join(timeout=SOON)

    assert heard.jobs == []


def test_blocked_keys_lists_the_one_that_is_free_again_first_ahead(queue, clock):
    for key, seconds in (("ann", 60), ("bob", 20), ("cleo", 40), ("dan", 10)):
        queue.block(key, seconds, WHY)
    clock.advance(15)

    assert queue.blocked_keys() == ["bob", "cleo", "ann"]


# After failures


@pytest.mark.parametrize("whose", ["ann", EACH_KEY], ids=["one key", "each key"])
def test_the_failure_that_reaches_the_number_blocks_the_key(queue, clock, whose):
    queue.limit(whose, block_after=(3, 60, 600))
    claims = [attempt(queue) for _ in range(3)]

    for claim in claims[:2]:
        claim.fail("torn")
    assert not blocked(queue)
    claims[2].fail("torn")

    with pytest.raises(KeyBlocked) as refused:
        queue.publish("letter", key="ann")
    assert (refused.value.reason, refused.value.seconds_left) == ("3 failures within 60 s", 600)
    assert queue.blocked_keys() == ["ann"]


def test_only_failures_within_the_window_count(queue, clock):
    queue.limit("ann", block_after=(2, 60, 600))
    first, second, third = (attempt(queue) for _ in range(3))

    first.fail("torn")
    clock.advance(60)
    second.fail("torn")
    assert (blocked(queue), queue.key("ann").failures) == (False, 1)
    clock.advance(59.999)
    third.fail("torn")

    assert blocked(queue)


WAYS = {
    "an attempt that stalls the job": lambda claim: claim.fail("torn"),
    "a final failure": lambda claim: claim.fail("torn", final=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attempts", [1, 5])
def test_every_failed_attempt_counts_also_one_that_will_be_made_again(queue, way, attempts):
    queue.limit("ann", block_after=(1, 60, 600))

    WAYS[way](attempt(queue, max_attempts=attempts))

    assert blocked(queue)


def test_an_exception_inside_a_claim_counts(queue):
    queue.limit("ann", block_after=(1, 60, 600))

    with pytest.raises(ZeroDivisionError), attempt(queue):
        raise ZeroDivisionError

    assert blocked(queue)


NO_FAILURES = {
    "finish": lambda queue, claim, clock: claim.finish(),
    "cancel": lambda queue, claim, clock: claim.cancel(),
    "defer": lambda queue, claim, clock: claim.cancel(delay=5),
    "stall": lambda queue, claim, clock: claim.stall(),
    "retract": lambda queue, claim, clock: queue.retract(claim.id),
    "a lost claim": lambda queue, claim, clock: clock.advance(9001) or queue.get(timeout=0, lease=9000),
}


@pytest.mark.parametrize("way", NO_FAILURES)
def test_nothing_else_counts_as_a_failure(queue, clock, way):
    queue.limit("ann", block_after=(1, 90000, 600))

    NO_FAILURES[way](queue, attempt(queue), clock)

    assert (blocked(queue), queue.key("ann").failures) == (False, 0)


def test_failures_of_other_keys_and_of_jobs_without_one_do_not_count(queue):
    queue.limit(EACH_KEY, block_after=(2, 60, 600))
    for key in ("ann", "bob", None, None):
        attempt(queue, key=key).fail("torn")

    assert queue.blocked_keys() == []
    attempt(queue, key="bob").fail("torn")
    assert queue.blocked_keys() == ["bob"]


def test_failures_during_a_block_do_not_prolong_it_and_count_for_nothing_afterwards(queue, clock):
    queue.limit("ann", block_after=(1, 600, 60))
    claims = [attempt(queue) for _ in range(3)]
    claims[0].fail("torn")
    clock.advance(30)

    claims[1].fail("torn")

    assert queue.key("ann").blocked_until.timestamp() == clock.now / 1000 + 30
    clock.advance(30)
    assert (blocked(queue), queue.key("ann").failures) == (False, 0)
    claims[2].fail("torn")
    assert blocked(queue)


def test_unblock_forgets_the_failures(queue):
    queue.limit("ann", block_after=(2, 60, 600))
    attempt(queue).fail("torn")

    queue.unblock("ann")

    assert queue.key("ann").failures == 0
    attempt(queue).fail("torn")
    assert not blocked(queue)


@pytest.mark.parametrize("back", [None, INF], ids=str)
def test_block_after_that_is_taken_back_counts_no_more_and_leaves_the_block_that_there_is(queue, back):
    queue.limit("ann", block_after=(1, 60, 600))
    claims = [attempt(queue) for _ in range(2)]
    claims[0].fail("torn")

    queue.limit("ann", block_after=back)

    assert blocked(queue)
    queue.unblock("ann")
    claims[1].fail("torn")
    assert not blocked(queue)


def test_failures_at_once_in_several_processes_block_once(queue, elsewhere):
    queue.limit("ann", block_after=(3, 60, 600))
    queue.publish_many(range(6), key="ann")
    claims = [claim for pair in zip(queue.get_many(3), elsewhere.get_many(3), strict=True) for claim in pair]

    answers = [in_thread(lambda claim=claim: claim.fail("torn")) for claim in claims]

    assert [answer.get(timeout=SOON) for answer in answers] == [None] * 6
    assert [entry.reason for entry in queue.key("ann").log] == ["3 failures within 60 s"]


# The log


def test_the_log_has_one_entry_a_block_the_latest_first_also_after_the_end(queue, clock):
    assert queue.key("ann").log == []
    queue.block("ann", 10, "first")
    clock.advance(20)
    queue.limit("ann", block_after=(1, 60, 30))
    attempt(queue).fail("torn")
    queue.unblock("ann")
    queue.block("bob", 10, "bob's")

    log = queue.key("ann").log

    assert [entry.reason for entry in log] == ["1 failure within 60 s", "first"]
    assert [entry.at.timestamp() for entry in log] == [clock.now / 1000, clock.now / 1000 - 20]
    assert [(entry.until - entry.at).total_seconds() for entry in log] == [30, 10]
    assert [entry.reason for entry in queue.key("bob").log] == ["bob's"]


def test_a_reason_may_be_any_text(queue):
    for reason in ("é\0\n{}%s", "\N{PILE OF POO}", "x" * 1000):
        queue.block("ann", 60, reason)

        with pytest.raises(KeyBlocked) as refused:
            queue.publish("letter", key="ann")

        assert (refused.value.reason, queue.key("ann").reason, queue.key("ann").log[0].reason) == (reason,) * 3


def test_of_a_reason_the_first_1000_characters_are_kept_and_what_cannot_be_written_is_a_question_mark(queue):
    queue.block("ann", 60, "\ud800" + "x" * 5000)

    assert queue.key("ann").reason == "?" + "x" * 999


def test_a_block_of_a_queue_that_nobody_used_yet_holds_and_goes_with_the_queue(broker, queue):
    queue.block("ann", 60, WHY)
    assert broker.queues() == ["letters"]

    queue.delete()

    assert not blocked(queue)
    assert queue.key("ann").log == []
