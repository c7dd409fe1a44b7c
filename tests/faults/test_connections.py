"""Connections are lost, half-open, slow: nothing is done twice, nobody waits for ever."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from helpers import SOON, in_thread, taken, until
from proxy import FaultProxy
from stage import Clocked, until_quiet, until_waiting

from thoonk_jobs import Broker, BrokerUnavailable, State

RESET, HALF_OPEN = 2.0, 30.0
"""Seconds in which a subscription is healed that was reset, or that is half-open."""


@contextmanager
def gap(proxy: FaultProxy, client, how: str):
    """The subscription through the proxy is lost, and no new one is made before the end of the block."""
    until_waiting(client)
    [link] = proxy.open_links(subscribed=True)
    proxy.refuse()
    if how == "killed":
        client.client_kill_filter(_type="pubsub")
    else:
        proxy.reset([link])
    until(lambda: link.ended)
    yield
    proxy.refuse(False)


@pytest.mark.parametrize("how", ["killed", "reset"])
def test_a_job_published_while_a_subscription_is_lost_is_got(proxy, far, queue, client, how):
    """Fault 22."""
    got = in_thread(far.get)
    with gap(proxy, client, how):
        job = queue.publish("letter")

    with Clocked() as clocked:
        assert got.get(timeout=SOON).id == job.id
    assert clocked.seconds <= RESET


@pytest.mark.parametrize("how", ["killed", "reset"])
def test_a_completion_while_a_subscription_is_lost_is_called_back(proxy, far, queue, client, heard, how):
    """Fault 22."""
    job = far.publish("letter", on_finish=heard)
    with gap(proxy, client, how):
        taken(queue).finish("sent")

    with Clocked() as clocked:
        assert heard.news.get(timeout=SOON).result == "sent"
    far._broker.join(timeout=SOON)
    assert (heard.times, clocked.seconds <= RESET) == ({job.id: 1}, True)


def test_a_wait_hears_of_an_end_while_its_subscription_is_lost(proxy, far, queue, client):
    """Fault 22."""
    job = far.publish("letter")
    done = in_thread(lambda: job.wait(timeout=SOON))
    with gap(proxy, client, "killed"):
        taken(queue).finish("sent")

    with Clocked() as clocked:
        assert done.get(timeout=SOON).result == "sent"
    assert clocked.seconds <= RESET


def test_a_claimant_is_told_that_its_job_was_taken_while_its_subscription_was_lost(proxy, far, queue, client):
    """Fault 22."""
    queue.publish("letter")
    claim = taken(far)
    with gap(proxy, client, "killed"):
        queue.retract(claim.id)

    until(lambda: claim.aborted, RESET)


@pytest.mark.slow
def test_a_half_open_subscription_is_noticed_and_the_job_got(proxy, far, queue, client):
    """Fault 20."""
    got = in_thread(far.get)
    until_waiting(client)
    [link] = proxy.open_links(subscribed=True)
    proxy.black_hole([link])

    job = queue.publish("letter")

    assert got.get(timeout=HALF_OPEN).id == job.id
    assert link not in proxy.open_links()


@pytest.mark.slow
def test_a_half_open_subscription_is_noticed_and_the_completion_called_back(proxy, far, queue, client, heard):
    """Fault 20."""
    job = far.publish("letter", on_finish=heard)
    until_waiting(client)
    proxy.black_hole(proxy.open_links(subscribed=True))

    taken(queue).finish("sent")

    assert heard.news.get(timeout=HALF_OPEN).result == "sent"
    assert heard.times == {job.id: 1}


@pytest.fixture
def hasty(proxy, namespace):
    """A broker through the proxy that gives a silent connection up after 0.15 s."""
    with Broker(proxy.url, namespace=namespace, retry_for=SOON, socket_timeout=0.15) as broker:
        yield broker.queue("letters")


VERBS = {
    "publish": lambda queue, claim: queue.publish("letter"),
    "get": lambda queue, claim: queue.get(timeout=0).claims,
    "finish": lambda queue, claim: claim.finish("sent"),
    "fail": lambda queue, claim: claim.fail("torn"),
    "cancel": lambda queue, claim: claim.cancel(),
    "stall": lambda queue, claim: claim.stall(),
    "set_progress": lambda queue, claim: claim.set_progress(1),
}


@pytest.mark.parametrize("up", [True, False], ids=["nothing arrives", "no reply comes"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_half_open_connection_is_given_up_and_the_call_made_once_on_another(proxy, hasty, queue, verb, up):
    """Fault 19."""
    queue.publish_many(["a", "b", "c"], max_attempts=5)
    claim = taken(hasty)
    until_quiet(proxy)
    proxy.black_hole(proxy.open_links(subscribed=False), up=up)

    with Clocked() as clocked:
        VERBS[verb](hasty, claim)

    assert 0.15 <= clocked.seconds < 3
    counts = {state: number for state, number in queue.counts().items() if number}
    assert (
        counts
        == {
            "publish": {State.AVAILABLE: 3, State.CLAIMED: 1},
            "get": {State.AVAILABLE: 1, State.CLAIMED: 2},
            "finish": {State.AVAILABLE: 2, State.FINISHED: 1},
            "fail": {State.AVAILABLE: 3},
            "cancel": {State.AVAILABLE: 3},
            "stall": {State.AVAILABLE: 2, State.STALLED: 1},
            "set_progress": {State.AVAILABLE: 2, State.CLAIMED: 1},
        }[verb]
    )
    job = queue.job(claim.id)
    assert (job.claims, job.failures, job.cancels) == (1, int(verb == "fail"), int(verb == "cancel"))


def test_with_every_connection_half_open_a_call_ends_in_time(proxy, namespace, queue):
    """Fault 19: after `retry_for`, and what the last try took."""
    with Broker(proxy.url, namespace=namespace, retry_for=0.5, socket_timeout=0.3) as far:
        far.ping()
        proxy.black_hole_all()
        with Clocked() as clocked, pytest.raises(BrokerUnavailable) as lost:
            far.queue("letters").publish("letter", id="l1")

    assert (lost.value.job_ids, clocked.seconds < 3) == (["l1"], True)
    assert sum(queue.counts().values()) == 0


def test_bytes_that_come_one_by_one_are_understood(proxy, far, queue, heard):
    """Fault 18."""
    proxy.drip()
    job = far.publish({"text": "ü\r\n$5\r\n"}, on_finish=heard)
    claim = taken(far)
    claim.finish(claim.data)
    far._broker.join(timeout=SOON)

    assert [(it.id, it.result) for it in heard.jobs] == [(job.id, {"text": "ü\r\n$5\r\n"})]


def hold(far, elsewhere, *, lease: float, seconds: float):
    """Jobs are held for a while by way of a slow line, and nobody else gets them."""
    far.publish_many(range(2), max_attempts=3)
    claims = far.get_many(2, lease=lease)
    assert len(claims) == 2
    assert elsewhere.get(timeout=seconds) is None
    assert not any(claim.aborted for claim in claims)
    for claim in claims:
        claim.finish("sent")
    for claim in claims:
        job = elsewhere.job(claim.id)
        assert (job.result, job.claims, job.lost) == ("sent", 1, 0)


@pytest.mark.slow
def test_latency_below_a_third_of_the_lease_costs_no_claim(proxy, far, elsewhere):
    """Fault 18: 200 ms there and back."""
    far._broker.ping()
    proxy.delay(0.1)

    hold(far, elsewhere, lease=0.9, seconds=1.2)


@pytest.mark.slow
@pytest.mark.parametrize("there_and_back", [0.2, 1.0])
def test_latency_costs_no_claim_with_a_lease_of_5_seconds(proxy, far, elsewhere, there_and_back):
    """Fault 18."""
    proxy.delay(there_and_back / 2)

    hold(far, elsewhere, lease=5, seconds=11)
