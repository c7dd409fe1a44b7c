"""Subscriptions to the events of a queue: each move once, in order, from the log, however slow who listens is."""

from __future__ import annotations

import queue as queues
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from helpers import SOON, in_thread, taken, until

from thoonk_jobs import Broker, BrokerClosed, Event, EventsLost, InvalidArgument, Queue, Subscription

pytestmark = pytest.mark.asyncio_on("valkey")


def names(subscription: Subscription) -> list[str]:
    """Of the events that are there."""
    return [event.name for event in all_of(subscription)]


def all_of(subscription: Subscription) -> list[Event]:
    found = []
    while (event := subscription.get(timeout=0)) is not None:
        found.append(event)
    return found


# What is heard.


def test_each_move_of_a_job_is_heard_once_in_order(queue: Queue, elsewhere: Queue):
    with elsewhere.subscribe() as subscription:
        job = queue.publish("letter", max_attempts=2)
        taken(queue).cancel("busy")
        taken(queue).fail("torn")
        taken(queue).stall("odd")
        queue.retry(job.id)
        taken(queue).finish()
        queue.rerun(job.id)
        queue.retract(job.id)
        queue.publish("later", delay=60)

        heard = all_of(subscription)

    assert [event.name for event in heard] == [
        "TASK_AVAILABLE", "TASK_CLAIMED", "TASK_CANCELLED", "TASK_CLAIMED", "TASK_FAILED", "TASK_CLAIMED",
        "TASK_STALLED", "TASK_RETRIED", "TASK_CLAIMED", "TASK_DONE", "TASK_RETRIED", "TASK_RETRACTED", "TASK_SCHEDULED",
    ]  # fmt: skip
    assert [event.seq for event in heard] == list(range(heard[0].seq, heard[0].seq + len(heard)))
    assert {event.job_id for event in heard[:-1]} == {job.id}
    assert {event.queue for event in heard} == {"letters"}


def test_an_event_tells_the_row_who_asked_why_and_when(queue: Queue, elsewhere: Queue):
    with elsewhere.subscribe("TASK_STALLED") as subscription:
        queue.publish("letter")
        taken(queue).stall("no address\0")

        event = subscription.get(timeout=SOON)

    assert event.data == {"row": "stall", "by": queue.session.process, "reason": "no address\0"}
    assert abs(datetime.now(UTC) - event.at) < timedelta(seconds=SOON)


def test_an_error_is_heard_as_done_and_as_error_with_one_number(queue: Queue):
    with queue.subscribe("TASK_DONE", "TASK_ERROR") as subscription:
        queue.publish("letter")
        taken(queue).fail("torn", final=True)

        done, error = all_of(subscription)

    assert (done.name, error.name) == ("TASK_DONE", "TASK_ERROR")
    assert done.seq == error.seq


def test_progress_and_what_a_claimant_emits_are_events_a_log_line_is_none(queue: Queue):
    with queue.subscribe() as subscription:
        queue.publish("letter")
        claim = taken(queue)
        claim.set_progress(1, 4, "a quarter")
        claim.log("a line")
        claim.emit("stamped", {"place": [1, None, "ü"]})
        claim.emit("TASK_DONE", False)

        heard = all_of(subscription)[2:]

    assert [(event.name, event.data) for event in heard] == [
        ("TASK_PROGRESS", {"value": 1, "total": 4, "message": "a quarter"}),
        ("stamped", {"place": [1, None, "ü"]}),
        ("TASK_DONE", False),
    ]


def test_names_choose_among_what_happens(queue: Queue):
    with queue.subscribe("TASK_CLAIMED", "stamped") as subscription:
        queue.publish("letter")
        claim = taken(queue)
        claim.emit("posted")
        claim.emit("stamped")
        claim.finish()

        assert names(subscription) == ["TASK_CLAIMED", "stamped"]


def test_one_subscriber_takes_nothing_from_another(queue: Queue, elsewhere: Queue):
    with queue.subscribe() as one, queue.subscribe() as same, elsewhere.subscribe() as other:
        queue.publish("letter")

        assert names(one) == names(same) == names(other) == ["TASK_AVAILABLE"]


def test_what_happened_before_is_not_heard_and_another_queue_is_not(broker: Broker, queue: Queue):
    queue.publish("before")
    with queue.subscribe() as subscription:
        broker.queue("parcels").publish("elsewhere")
        queue.publish("after")

        assert names(subscription) == ["TASK_AVAILABLE"]


# Waiting.


def test_who_waits_hears_at_once(queue: Queue, elsewhere: Queue):
    with queue.subscribe("TASK_DONE") as subscription:
        waiting = in_thread(lambda: subscription.get(timeout=SOON))
        elsewhere.publish("letter")
        claim = taken(elsewhere)
        claim.finish()

        assert waiting.get(timeout=SOON / 2).job_id == claim.id


def test_who_waits_in_vain_gets_none(queue: Queue):
    with queue.subscribe() as subscription:
        assert subscription.get(timeout=0.1) is None


def test_it_is_iterated_until_it_is_closed(queue: Queue):
    subscription = queue.subscribe("TASK_AVAILABLE")
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()

    def iterate() -> str:
        for event in subscription:
            heard.put(event)
        return "ended"

    ended = in_thread(iterate)
    jobs = [queue.publish(n) for n in range(3)]

    assert [heard.get(timeout=SOON).job_id for _ in jobs] == [job.id for job in jobs]
    subscription.close()
    assert ended.get(timeout=SOON) == "ended"


def test_a_closed_one_hears_nothing_and_is_subscribed_to_no_more(queue: Queue, client: redis.Redis):
    subscription = queue.subscribe()
    channel = queue.keys.events_channel
    assert client.pubsub_shardnumsub(channel)[0][1] == 1

    subscription.close()

    assert subscription.get() is None
    until(lambda: client.pubsub_shardnumsub(channel)[0][1] == 0)


def test_the_end_of_the_broker_ends_who_waits(connect: Callable[..., Broker]):
    broker = connect()
    subscription = broker.queue("letters").subscribe()
    waiting = in_thread(subscription.get)

    broker.close()

    assert isinstance(waiting.get(timeout=SOON), BrokerClosed)


# From a number on.


def test_since_replays_what_is_kept_and_goes_on_without_gap_or_double(queue: Queue):
    queue.publish_many(range(250))
    with queue.subscribe(since=100) as subscription:
        queue.publish_many(range(50))

        assert [event.seq for event in all_of(subscription)] == list(range(101, 301))


@pytest.mark.parametrize("since", [0, 1, 2, 3])
def test_since_may_lie_within_the_jobs_of_one_call(queue: Queue, since: int):
    queue.publish_many("abc")

    with queue.subscribe(since=since) as subscription:
        assert [event.seq for event in all_of(subscription)] == list(range(since + 1, 4))


def test_a_number_above_the_present_one_was_lost_with_the_data(queue: Queue):
    queue.publish("letter")

    with pytest.raises(EventsLost, match="the last one is 1") as lost:
        queue.subscribe(since=2)

    assert lost.value.seq == 0


def test_what_the_log_does_not_keep_any_more_cannot_be_replayed(queue: Queue):
    queue.configure(keep_events=10)
    for _ in range(150):
        queue.publish_many("letters")

    with pytest.raises(EventsLost, match="keep_events") as lost:
        queue.subscribe(since=3)

    with queue.subscribe(since=lost.value.seq) as subscription:
        assert all_of(subscription)[-1].seq == 150 * 7


def test_who_was_too_slow_is_told_once_and_goes_on_with_what_is_kept(queue: Queue, elsewhere: Queue):
    with elsewhere.subscribe() as slow, elsewhere.subscribe() as quick:
        queue.configure(keep_events=10)
        numbers = []
        for _ in range(150):
            queue.publish_many("letters")
            numbers += [quick.get(timeout=SOON).seq for _ in "letters"]

        with pytest.raises(EventsLost) as lost:
            slow.get(timeout=0)

        assert [event.seq for event in all_of(slow)] == list(range(lost.value.seq + 1, 1051))
        assert numbers == list(range(1, 1051))


def test_data_that_was_lost_is_told(queue: Queue, client: redis.Redis):
    queue.publish("letter")
    with queue.subscribe() as subscription:
        client.delete(*queue.keys.keys)
        queue.publish("another")
        queue.publish("third")

        with pytest.raises(EventsLost, match="lost"):
            subscription.get(timeout=SOON)

        assert [event.seq for event in all_of(subscription)] == [1, 2]


@pytest.mark.parametrize("since", [-1, 1.5, True, "5"])
def test_a_number_that_cannot_be_is_refused(queue: Queue, since: Any):
    with pytest.raises(InvalidArgument, match="since="):
        queue.subscribe(since=since)


@pytest.mark.parametrize("name", ["TASK_DON", "", 5, "x" * 201])
def test_a_name_that_cannot_be_heard_is_refused(queue: Queue, name: Any):
    with pytest.raises(InvalidArgument, match="event="):
        queue.subscribe(name)


# Handlers.


def test_a_handler_is_called_for_each_event_of_its_name_in_order(queue: Queue, elsewhere: Queue):
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()
    elsewhere.on("TASK_DONE", heard.put)
    jobs = queue.publish_many(range(30))

    for claim in queue.get_many(30, timeout=0):
        claim.finish()

    assert [heard.get(timeout=SOON).job_id for _ in jobs] == [job.id for job in jobs]


def test_a_handler_that_was_stopped_hears_nothing_more(queue: Queue):
    stopped: queues.SimpleQueue[Event] = queues.SimpleQueue()
    other: queues.SimpleQueue[Event] = queues.SimpleQueue()
    stop = queue.on("TASK_AVAILABLE", stopped.put)
    queue.on(None, other.put)
    queue.publish("heard by both")
    assert stopped.get(timeout=SOON).seq == other.get(timeout=SOON).seq

    stop()
    queue.publish("heard by one")

    assert other.get(timeout=SOON).seq == 2
    assert stopped.empty()


def test_an_error_of_a_handler_hurts_nobody(queue: Queue):
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()

    def fails(event: Event) -> None:
        raise ValueError(event.seq)

    queue.on(None, fails)
    queue.on(None, heard.put)

    queue.publish_many(range(3))

    assert [heard.get(timeout=SOON).seq for _ in range(3)] == [1, 2, 3]


def test_a_handler_may_call_the_broker(queue: Queue, elsewhere: Queue):
    answered: queues.SimpleQueue[Any] = queues.SimpleQueue()
    elsewhere.on("TASK_DONE", lambda event: answered.put(elsewhere.job(event.job_id).result))

    queue.publish("letter")
    taken(queue).finish(["sent"])

    assert answered.get(timeout=SOON) == ["sent"]


def test_a_handler_of_the_broker_hears_every_queue_also_one_that_comes_later(broker: Broker, elsewhere: Queue):
    elsewhere.publish("before")
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()
    stop = broker.on("TASK_AVAILABLE", heard.put)
    parcels = elsewhere._broker.queue("parcels")

    elsewhere.publish("a letter")
    assert (heard.get(timeout=SOON).queue, parcels.publish("a parcel").queue) == ("letters", "parcels")

    event = heard.get(timeout=SOON)
    assert (event.queue, event.seq) == ("parcels", 1)
    stop()


def test_a_queue_that_was_deleted_and_made_anew_is_heard_from_its_beginning(broker: Broker, elsewhere: Queue):
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()
    broker.on("TASK_AVAILABLE", heard.put)
    first = elsewhere.publish("letter")
    assert heard.get(timeout=SOON).job_id == first.id

    elsewhere.delete()
    again = elsewhere.publish("another")

    assert heard.get(timeout=SOON).job_id == again.id
