"""The proxy itself does what the tests of faults rely on."""

from __future__ import annotations

import queue as queues

import pytest
import redis
from helpers import in_thread, until
from proxy import Do, FaultProxy
from redis.backoff import NoBackoff
from redis.retry import Retry
from resp import frame_end, words


def connect(proxy: FaultProxy, **options):
    once = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5, "protocol": 2, **options}
    return redis.Redis.from_url(proxy.url, **once)


@pytest.fixture(params=["unix", "tcp"])
def through(request, url):
    with FaultProxy(url, tcp=request.param == "tcp") as proxy, connect(proxy) as there:
        there.ping()
        yield proxy, there


@pytest.mark.parametrize(
    "frame",
    [
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"*-1\r\n",
        b"*2\r\n$2\r\n\r\n\r\n*1\r\n:7\r\n",
        b"%1\r\n+a\r\n_\r\n",
    ],
)
def test_a_frame_ends_where_it_ends(frame):
    assert frame_end(frame + b"+next\r\n") == len(frame)
    assert [frame_end(frame[:size]) for size in range(len(frame))] == [None] * len(frame)


def test_the_words_of_a_request_are_its_arguments():
    assert words(b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n:12\r\n") == [b"SET", b"\r\n", b"12"]


def test_what_no_fault_meets_passes_and_is_counted(through, client, namespace):
    proxy, there = through
    before = len(proxy.requests)

    with there.pipeline(transaction=False) as pipe:
        results = pipe.set(namespace, b"\0\r\n" * 100_000).get(namespace).execute()

    assert results[1] == b"\0\r\n" * 100_000 == client.get(namespace)
    assert [request.name for request in proxy.requests[before:]] == ["SET", "GET"]
    assert [request.number for request in proxy.requests] == list(range(1, before + 3))


@pytest.mark.parametrize(("do", "executed"), [(Do.DROP_REPLY, 1), (Do.CUT_REQUEST, 0), (Do.RESET, 0)])
def test_a_fault_meets_the_nth_request_that_matches_and_no_other(through, client, namespace, do, executed):
    proxy, there = through
    fault = proxy.fault(do, lambda request: request.name == "INCRBY", nth=3)

    there.incr(namespace)
    there.ping()
    there.incr(namespace)
    with pytest.raises(redis.ConnectionError):
        there.incr(namespace)

    assert (fault.hit.is_set(), fault.request.words) == (True, [b"INCRBY", namespace.encode(), b"1"])
    assert int(client.get(namespace)) == 2 + executed
    assert there.incr(namespace) == 3 + executed


@pytest.mark.parametrize(("do", "executed"), [(Do.HOLD_REPLY, b"1"), (Do.HOLD_REQUEST, None)])
def test_a_held_request_leaves_its_connection_half_open(proxy, client, namespace, do, executed):
    fault = proxy.fault(do, lambda request: request.name == "INCRBY")
    with connect(proxy, socket_timeout=0.2) as there:
        with pytest.raises(redis.TimeoutError):
            there.incr(namespace)

        assert (fault.hit.is_set(), client.get(namespace)) == (True, executed)
        assert there.ping()
        assert not fault.request.link.server.transport.is_closing()


def test_a_black_hole_swallows_one_direction_or_both(proxy, client, namespace):
    with connect(proxy, socket_timeout=0.1) as there:
        there.ping()
        proxy.black_hole(proxy.open_links(), up=False)
        with pytest.raises(redis.TimeoutError):
            there.incr(namespace)
        there.ping()
        proxy.black_hole(proxy.open_links(), down=False)
        with pytest.raises(redis.TimeoutError):
            there.incr(namespace)

        assert client.get(namespace) == b"1"


@pytest.mark.parametrize("end", ["cut", "reset"])
def test_connections_end_and_new_ones_pass_unless_they_are_refused(through, end):
    proxy, there = through
    before = proxy.open_links()
    getattr(proxy, end)(before)
    until(lambda: not proxy.open_links())
    assert there.ping()  # the pool of redis-py looks whether a connection is alive before it uses it
    [link] = proxy.open_links()
    assert link not in before

    proxy.refuse()
    proxy.cut(proxy.open_links())
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            there.ping()
    proxy.refuse(False)

    assert there.ping()


def test_a_reset_over_tcp_is_one(url):
    with FaultProxy(url, tcp=True) as proxy, connect(proxy) as there:
        there.ping()
        proxy.fault(Do.RESET)
        with pytest.raises(redis.ConnectionError, match="reset"):
            there.ping()


def test_a_delay_holds_for_each_direction(proxy):
    with connect(proxy) as there:
        there.ping()
        proxy.delay(0.15)
        answer = in_thread(lambda: there.ping())

        with pytest.raises(queues.Empty):
            answer.get(timeout=0.25)
        assert answer.get(timeout=5) is True


def test_messages_of_a_subscription_pass_and_can_be_lost(proxy, client, namespace):
    with connect(proxy) as there, there.pubsub() as listener:
        listener.ssubscribe(namespace)
        until(lambda: listener.get_sharded_message(timeout=0.1))
        loss = proxy.lose_message(lambda said: said[2] == b"b")
        for text in "abc":
            client.spublish(namespace, text)

        assert [listener.get_sharded_message(timeout=5)["data"] for _ in "ac"] == [b"a", b"c"]
        assert loss.hit.is_set()
        assert proxy.open_links(subscribed=True) == [link for link in proxy.open_links() if link.subscribed] != []


def test_without_a_server_a_client_is_refused(tmp_path):
    with FaultProxy(f"unix://{tmp_path}/none") as proxy, connect(proxy) as there, pytest.raises(redis.ConnectionError):
        there.ping()
