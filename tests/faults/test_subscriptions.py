"""Subscribers to events while connections are lost, notices are lost, servers die: nothing is missed, nothing twice."""

from __future__ import annotations

import queue as queues

import pytest
from helpers import SOON, in_thread, until
from stage import Clocked
from test_connections import RESET

from thoonk_jobs import Broker, Event, EventsLost, Queue

SEVERAL = 20


def numbers(subscription, count: int) -> list[int]:
    found = [subscription.get(timeout=SOON) for _ in range(count)]
    return [event.seq for event in found]


def publish(queue: Queue, count: int) -> None:
    for _ in range(count):
        queue.publish("letter")


@pytest.mark.parametrize("how", ["killed", "reset"])
def test_events_while_a_subscription_is_lost_are_heard_once_it_is_back(proxy, far, queue, client, how):
    subscription = far.subscribe()
    heard = in_thread(lambda: numbers(subscription, SEVERAL))
    links = proxy.open_links(subscribed=True)
    proxy.refuse()
    if how == "killed":
        client.client_kill_filter(_type="pubsub")
    else:
        proxy.reset(links)
    until(lambda: all(link.ended for link in links))
    publish(queue, SEVERAL)
    proxy.refuse(False)

    with Clocked() as clocked:
        assert heard.get(timeout=SOON) == list(range(1, SEVERAL + 1))
    assert clocked.seconds <= RESET


def test_a_notice_that_is_lost_is_made_up_for_by_the_next(proxy, far, queue):
    with far.subscribe() as subscription:
        proxy.lose_message(lambda said: said[1].endswith(b":events"))
        publish(queue, 2)

        assert numbers(subscription, 2) == [1, 2]


@pytest.mark.slow
def test_a_last_notice_that_is_lost_is_made_up_for_by_a_probe(proxy, far, queue):
    """At most 20 s later."""
    with far.subscribe() as subscription:
        publish(queue, 1)
        assert numbers(subscription, 1) == [1]
        proxy.lose_message(lambda said: said[1].endswith(b":events"))
        publish(queue, 1)

        with Clocked() as clocked:
            event = subscription.get(timeout=60)

        assert (event.seq, clocked.seconds < 45) == (2, True)


def test_a_handler_hears_each_event_once_through_many_lost_connections(proxy, far, queue):
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()
    far.on("TASK_AVAILABLE", heard.put)

    for _ in range(10):
        publish(queue, SEVERAL)
        proxy.reset(proxy.open_links())

    assert [heard.get(timeout=SOON).seq for _ in range(10 * SEVERAL)] == list(range(1, 10 * SEVERAL + 1))
    assert heard.empty()


def test_a_handler_of_all_queues_hears_of_one_that_came_while_its_subscription_was_lost(proxy, far, queue, client):
    heard: queues.SimpleQueue[Event] = queues.SimpleQueue()
    far._broker.on("TASK_AVAILABLE", heard.put)
    links = proxy.open_links(subscribed=True)
    proxy.refuse()
    proxy.reset(links)
    until(lambda: all(link.ended for link in links))
    queue.publish("letter")
    proxy.refuse(False)

    with Clocked() as clocked:
        assert heard.get(timeout=SOON).queue == "letters"
    assert clocked.seconds <= RESET


def test_events_go_on_after_the_server_was_killed(server, near, other):
    """No acknowledged move is lost with the server, so no number is, and none comes twice."""
    with other.subscribe() as subscription:
        publish(near, SEVERAL)
        assert numbers(subscription, SEVERAL) == list(range(1, SEVERAL + 1))

        server.kill()
        server.start()
        publish(near, SEVERAL)

        assert numbers(subscription, SEVERAL) == list(range(SEVERAL + 1, 2 * SEVERAL + 1))


def test_a_flush_of_all_data_is_told_to_the_subscriber(server, near, other):
    with other.subscribe() as subscription, Broker(server.url, namespace="own") as third:
        publish(near, SEVERAL)
        assert numbers(subscription, SEVERAL)[-1] == SEVERAL
        waiting = in_thread(lambda: subscription.get(timeout=60))

        server.client.flushall()
        publish(third.queue("letters"), 2)

        assert isinstance(waiting.get(timeout=60), EventsLost)
        assert numbers(subscription, 2) == [1, 2]
