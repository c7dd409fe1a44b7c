"""A key that runs one job at a time: its jobs take turns in the order in which they were published, whatever happens.

Whoever starts another time at once keeps the turn; whoever is put off for a while lets the next one pass.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from helpers import SOON, in_thread, taken, until, waiting

from thoonk_jobs import EACH_KEY, Claim, Publish, Queue, StaleClaim, State

pytestmark = pytest.mark.asyncio_on("valkey")


@pytest.fixture(autouse=True)
def one_at_a_time(queue):
    queue.limit(EACH_KEY, running=1)


def take(queue: Queue) -> Claim:
    return taken(queue, lease=30, renew=False)


def order(queue: Queue) -> list[Any]:
    """Data of the jobs as they come, each run to its end."""
    ran = []
    while claim := queue.get(timeout=0, lease=30, renew=False):
        ran.append(claim.data)
        claim.finish()
    return ran


def lose(queue: Queue, claim: Claim, clock: Any) -> None:
    clock.advance(31)


STAYS: dict[str, Callable[[Queue, Claim, Any], object]] = {
    "cancel": lambda queue, claim, clock: claim.cancel(),
    "another attempt at once": lambda queue, claim, clock: claim.fail("torn"),
    "a lease that ran out": lose,
}


@pytest.mark.parametrize("way", STAYS)
def test_who_starts_again_at_once_keeps_its_turn(queue, clock, way):
    queue.publish_many(range(4), key="file", max_attempts=9)
    order_of_claims = []
    for _ in range(2):
        claim = take(queue)
        order_of_claims.append(claim.data)
        assert queue.get(timeout=0) is None
        STAYS[way](queue, claim, clock)

    assert order_of_claims + order(queue) == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("way", STAYS)
def test_somebody_more_urgent_takes_the_turn_of_one_that_starts_again(queue, clock, way):
    for data in ("usual", "next"):
        queue.publish(data, key="file", max_attempts=9)
    claim = take(queue)
    queue.publish("urgent", key="file", priority="high")

    STAYS[way](queue, claim, clock)

    behind = ["usual", "next"] if way == "a lease that ran out" else ["next", "usual"]  # the others lose their place
    assert order(queue) == ["urgent", *behind]


PASSES: dict[str, Callable[[Queue, Claim, Any], object]] = {
    "cancel with a delay": lambda queue, claim, clock: claim.cancel(delay=5),
    "an attempt after a while": lambda queue, claim, clock: claim.fail("torn"),
    "stall": lambda queue, claim, clock: claim.stall(),
    "retract": lambda queue, claim, clock: queue.retract(claim.id),
    "the last attempt failed": lambda queue, claim, clock: claim.fail("torn"),
    "a final failure": lambda queue, claim, clock: claim.fail("torn", final=True),
    "too many claims were lost": lose,
    "a deadline that passed": lambda queue, claim, clock: clock.advance(10),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "an attempt after a while": {"max_attempts": 9, "backoff": 5},
    "a deadline that passed": {"expires_in": 9},
}
COMES_BACK = {"cancel with a delay", "an attempt after a while"}


@pytest.mark.parametrize("way", PASSES)
def test_who_is_put_off_or_ended_lets_the_next_one_pass(queue, clock, way):
    queue.configure(max_lost=1)
    queue.publish("first", key="file", **OPTIONS.get(way, {}))
    queue.publish_many(["second", "third"], key="file")
    claim = take(queue)

    PASSES[way](queue, claim, clock)

    assert order(queue) == ["second", "third"]
    clock.advance(5)
    assert order(queue) == (["first"] if way in COMES_BACK else [])


@pytest.mark.parametrize("way", sorted(COMES_BACK))
def test_who_comes_back_while_another_one_runs_waits_behind_those_that_wait(queue, clock, way):
    queue.publish("first", key="file", **OPTIONS.get(way, {}))
    queue.publish_many(["second", "third"], key="file")
    PASSES[way](queue, take(queue), clock)
    second = take(queue)

    clock.advance(5)

    assert queue.get(timeout=0) is None
    assert [queue.job(id).data for id in queue.key("file").waiting] == ["third", "first"]
    second.finish()
    assert order(queue) == ["third", "first"]


def test_a_stalled_job_that_is_retried_waits_for_its_turn_at_the_back(queue):
    queue.publish_many(["first", "second", "third"], key="file")
    stalled = take(queue)
    stalled.stall()
    second = take(queue)

    queue.retry(stalled.id)

    assert queue.get(timeout=0) is None
    second.finish()
    assert order(queue) == ["third", "first"]


def test_a_delayed_job_takes_no_turn_before_it_is_due(queue, clock):
    queue.publish("later", key="file", delay=5)
    queue.publish("now", key="file")

    assert order(queue) == ["now"]
    clock.advance(5)
    assert order(queue) == ["later"]


def test_a_job_that_an_operator_stalls_while_it_runs_lets_the_next_one_pass(queue, elsewhere):
    queue.publish_many(["first", "second"], key="file")
    claim = take(queue)

    elsewhere.stall(claim.id, "hangs")

    assert order(queue) == ["second"]


def test_a_job_that_is_retracted_or_stalled_before_its_turn_is_passed_over(queue):
    queue.publish_many([Publish(id, id=id, key="file") for id in ("runs", "retracted", "stalled", "next")])
    runs = take(queue)
    queue.retract("retracted")
    queue.stall("stalled")

    runs.finish()

    assert order(queue) == ["next"]


def test_a_job_whose_data_cannot_be_read_does_not_keep_the_turn(queue, client):
    job, *_ = queue.publish_many(["torn", "next"], key="file")
    client.hset(f"{queue.keys.base}:payload", job.id, b"j{")

    assert order(queue) == ["next"]
    assert queue.job(job.id).state is State.STALLED


def test_who_lost_its_claim_cannot_end_it_and_takes_no_turn_from_who_has_it_now(queue, clock):
    queue.publish_many(range(3), key="file")
    lost = take(queue)
    clock.advance(31)
    again = take(queue)
    assert again.id == lost.id

    for verb in (lost.finish, lost.cancel, lost.stall, lambda: lost.fail("late")):
        with pytest.raises(StaleClaim):
            verb()

    assert queue.get(timeout=0) is None
    assert queue.key("file").holders == [again.id]
    again.finish()
    assert order(queue) == [1, 2]


def test_turns_of_several_keys_are_taken_side_by_side_in_the_order_of_each(queue):
    queue.publish_many(Publish(f"{key}{n}", key=key) for n in range(3) for key in "ab")

    rounds = []
    while claims := queue.get_many(9, timeout=0):
        rounds.append([claim.data for claim in claims])
        for claim in reversed(claims):
            claim.finish()

    assert rounds == [["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]


WORKER = """
import signal, sys
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    claim = broker.queue("letters").get(lease=0.5)
    print(claim.data, flush=True)
    signal.pause()
"""


def test_the_turn_of_a_killed_process_is_taken_by_its_own_job_again_and_then_by_the_next(
    queue, client, url, namespace, start
):
    queue.publish_many(range(3), key="file")
    victim = start(WORKER, url, namespace)
    assert victim.stdout.readline() == "0\n"
    got = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 1)

    os.kill(victim.pid, signal.SIGKILL)

    ran = [got.get(timeout=SOON)]
    assert (ran[0].lost, queue.get(timeout=0)) == (1, None)
    while len(ran) < 3:
        ran[-1].finish()
        ran.append(taken(queue))
    assert [claim.data for claim in ran] == [0, 1, 2]


def test_a_broker_that_is_closed_gives_its_turn_back_to_its_own_job(queue, connect):
    queue.publish_many(range(3), key="file")
    with connect() as closing:
        assert taken(closing.queue("letters")).data == 0

    assert order(queue) == [0, 1, 2]
