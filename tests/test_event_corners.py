"""Subscriptions and handlers where threads, tasks and the end of the broker meet."""

from __future__ import annotations

import asyncio
import os
import queue as queues
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis
from helpers import SOON, in_thread, soon, taken, until

from thoonk_jobs import AsyncBroker, Broker, BrokerUnavailable, Event, Queue, calls
from thoonk_jobs.subscription import EveryQueue, Handler


class SlowlyNone(frozenset[str]):
    """Names, none of which is chosen; it takes a while to see that."""

    def __bool__(self) -> bool:
        time.sleep(0.0005)
        return False


@pytest.mark.asyncio_on("valkey")
def test_what_listened_may_be_ended_after_the_broker(connect: Callable[..., Broker]):
    broker = connect()
    queue = broker.queue("letters")
    ends = [queue.subscribe().close, queue.on(None, print), broker.on(None, print)]

    broker.close()

    for end in ends:
        end()


def test_a_handler_that_closes_the_broker_is_called_no_more(connect: Callable[..., Broker], queue: Queue):
    listening = connect()
    heard: list[Event] = []

    def hear(event: Event) -> None:
        heard.append(event)
        listening.close()

    listening.queue("letters").on(None, hear)
    queue.publish_many(range(50))

    until(lambda: not any(thread.name == "thoonk-callbacks" for thread in threading.enumerate()))
    assert len(heard) == 1


def test_an_asyncio_handler_may_close_the_broker(url: str, namespace: str):
    async def listen() -> tuple[int, float, bool]:
        heard: list[Event] = []
        took = asyncio.get_running_loop().create_future()

        async def hear(event: Event) -> None:
            heard.append(event)
            began = time.monotonic()
            try:
                await broker.close()
            finally:
                took.set_result(time.monotonic() - began)

        broker = AsyncBroker(url, namespace=namespace)
        queue = broker.queue("letters")
        await queue.on(None, hear)
        await queue.publish_many(range(50))
        span = await asyncio.wait_for(took, SOON)
        await asyncio.sleep(0.05)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        return len(heard), span, bool(others)

    heard, took, others = asyncio.run(listen())

    assert (heard, others) == (1, False)
    assert took < 0.9


def test_a_handler_with_much_to_hear_leaves_room_for_other_callbacks(queue: Queue, elsewhere: Queue):
    queue.publish_many(range(300))
    claim = taken(queue)
    finished, heard = threading.Event(), []

    def slow(event: Event) -> None:
        heard.append(event)
        time.sleep(0.01)

    elsewhere.publish("letter", id="mine", priority="front", on_finish=lambda job: finished.set())
    Handler(elsewhere, None, slow, 0)
    taken(queue).finish()

    assert finished.wait(1)
    assert len(heard) < 150
    claim.finish()


def test_threads_that_share_a_subscription_get_each_event_once(queue: Queue, elsewhere: Queue):
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()
    subscription = elsewhere.subscribe()
    subscription._names = SlowlyNone()

    def iterate() -> str:
        for event in subscription:
            heard.put(event)
        return "ended"

    ended = [in_thread(iterate) for _ in range(8)]
    for _ in range(100):
        queue.publish_many(range(3))

    seqs = [heard.get(timeout=SOON).seq for _ in range(300)]
    subscription.close()
    assert [each.get(timeout=SOON) for each in ended] == ["ended"] * 8
    assert sorted(seqs) == list(range(1, 301))
    assert heard.empty()


def test_a_handler_of_the_broker_that_is_stopped_while_it_meets_a_queue_hears_nothing(
    broker: Broker, elsewhere: Queue, monkeypatch: pytest.MonkeyPatch
):
    every = EveryQueue(broker, None, print)
    made: list[Handler] = []

    def make(*args: Any) -> Handler:
        made.append(Handler(*args))
        every.stop()
        return made[-1]

    monkeypatch.setattr("thoonk_jobs.subscription.Handler", make)
    elsewhere.publish("letter")

    until(lambda: made and made[0]._closed)


def test_an_asyncio_handler_of_the_broker_that_is_stopped_while_it_meets_a_queue_hears_nothing(
    url: str, namespace: str
):
    async def meet() -> list[str]:
        heard: list[str] = []
        async with AsyncBroker(url, namespace=namespace) as broker:
            stop = await broker.on(None, lambda event: heard.append(event.name))
            every = stop.__self__  # type: ignore[attr-defined]
            listen = every._listen

            async def slowly(*args: Any) -> Any:
                stop()
                return await listen(*args)

            every._listen = slowly
            await broker.queue("letters").publish("letter")
            await asyncio.sleep(0.2)
        return heard

    assert asyncio.run(meet()) == []


def test_a_handler_of_the_broker_that_cannot_hear_all_queues_hears_none(
    broker: Broker, elsewhere: Queue, monkeypatch: pytest.MonkeyPatch
):
    elsewhere.publish("letter")
    elsewhere._broker.queue("parcels").publish("parcel")
    made: list[Handler] = []

    def make(*args: Any) -> Handler:
        if made:
            raise BrokerUnavailable("gone")
        made.append(Handler(*args))
        return made[0]

    monkeypatch.setattr("thoonk_jobs.subscription.Handler", make)
    with pytest.raises(BrokerUnavailable):
        broker.on(None, print)

    assert made[0]._closed
    until(lambda: not broker.session.engine.roster)


def test_an_asyncio_handler_of_the_broker_meets_a_queue_after_an_outage(url: str, namespace: str):
    async def meet() -> str:
        heard: asyncio.Queue[Event] = asyncio.Queue()
        async with AsyncBroker(url, namespace=namespace) as broker:
            stop = await broker.on(None, heard.put)
            every = stop.__self__  # type: ignore[attr-defined]
            listen, tries = every._listen, []

            async def fails_once(*args: Any) -> Any:
                tries.append(args)
                if len(tries) == 1:
                    raise BrokerUnavailable("gone")
                return await listen(*args)

            every._listen = fails_once
            await broker.queue("letters").publish("letter")
            return (await asyncio.wait_for(heard.get(), SOON)).name

    assert asyncio.run(meet()) == "TASK_AVAILABLE"


def test_a_part_of_the_log_is_bounded_whatever_was_emitted(broker: Broker, queue: Queue):
    queue.publish("letter")
    claim = taken(queue)
    for _ in range(20):
        claim.emit("page", "x" * 50_000)

    log = broker.session.run(calls.events(queue.keys, 0))

    assert sum(len(entry[5]) for entry in log.entries) < 200_000


def test_a_subscription_that_is_closed_by_another_thread_ends_who_is_about_to_wait(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
):
    subscription = queue.subscribe()
    bell = subscription._bell
    clear = bell.clear

    def closed_just_before() -> None:
        subscription.close()
        clear()

    monkeypatch.setattr(bell, "clear", closed_just_before)

    assert in_thread(subscription.get).get(timeout=SOON) is None


def test_a_forked_child_hears_what_its_parent_subscribed_to(queue: Queue, elsewhere: Queue):
    subscription = queue.subscribe("TASK_DONE")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(5)  # the end of one that hears nothing
            os.write(writing, b"%d" % next(subscription).seq)
        finally:
            os._exit(0)
    os.close(writing)
    time.sleep(0.3)  # it waits by now
    elsewhere.publish("letter")
    taken(elsewhere).finish()

    event = subscription.get(timeout=SOON)
    with os.fdopen(reading, "rb") as told:
        assert told.read() == b"%d" % event.seq
    os.waitpid(child, 0)


def test_a_get_that_is_cancelled_takes_no_event(url: str, namespace: str):
    async def listen() -> list[int]:
        async with AsyncBroker(url, namespace=namespace) as broker:
            queue = broker.queue("letters")
            subscription = await queue.subscribe()
            heard: list[int] = []

            async def publish() -> None:
                for n in range(100):
                    await queue.publish(n)

            publishing = asyncio.create_task(publish())
            while len(heard) < 100:
                getting = asyncio.create_task(subscription.get(timeout=SOON))
                for _ in range(len(heard) % 7):
                    await asyncio.sleep(0)
                if len(heard) % 2 and not getting.cancel():
                    heard.append(getting.result().seq)
                    continue
                with suppress(asyncio.CancelledError):
                    heard.append((await getting).seq)
                if getting.cancelled():
                    heard.append((await subscription.get(timeout=SOON)).seq)
            await publishing
            return heard

    assert asyncio.run(listen()) == list(range(1, 101))


def test_a_subscribe_that_is_cancelled_leaves_nothing_behind(url: str, namespace: str, client: redis.Redis):
    async def listen() -> None:
        async with AsyncBroker(url, namespace=namespace) as broker:
            queue = broker.queue("letters")
            await queue.publish("letter")
            for turns in range(12):
                subscribing = asyncio.create_task(queue.subscribe())
                for _ in range(turns):
                    await asyncio.sleep(0.0005)
                subscribing.cancel()
                [subscription] = await asyncio.gather(subscribing, return_exceptions=True)
                if not isinstance(subscription, BaseException):
                    await subscription.close()
            assert not broker.session.bells.hang_for(queue.keys)
            channel = queue.keys.events_channel
            await soon(lambda: client.pubsub_shardnumsub(channel)[0][1] == 0)

    asyncio.run(listen())


def test_the_log_keeps_the_last_events_though_they_came_many_at_once(queue: Queue, elsewhere: Queue):
    queue.configure(keep_events=10)
    with elsewhere.subscribe() as subscription:
        queue.publish_many(range(300))
        assert len([subscription.get(timeout=0) for _ in range(300)]) == 300

        queue.publish("letter")

    with elsewhere.subscribe(since=301 - 10) as subscription:
        assert [subscription.get(timeout=0).seq for _ in range(10)] == list(range(292, 302))
