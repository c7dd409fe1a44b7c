"""Worker processes are killed, stopped and forked: their jobs go to others, in time, and each has one result."""

from __future__ import annotations

import os
import signal
import time

import pytest
from helpers import SOON, in_thread, taken, until
from proxy import Do, FaultProxy, Request
from stage import CROWD, GETS, Clocked, ended, in_child, until_waiting

from thoonk_jobs import Broker, Queue, State

TOLD = 3.0
"""Seconds after which a job is with another process although the one that was told hangs (2 s, and its timekeeper)."""
PROBE = 25.0
"""Seconds after which a lost notice is made good by the probe of 20 s."""


def is_claim(request: Request) -> bool:
    """It carries the ticket of a claim: its lane begins with the name of the process, a dot, a number."""
    process = request.words[3 + int(request.words[2]) + 1] if request.name == "EVALSHA" else b"?"
    return any(word.startswith(process + b".") for word in request.words)


def until_seen(proxy: FaultProxy, name: str) -> None:
    until(lambda: any(request.name == name for request in proxy.requests))


def test_a_worker_killed_before_its_claim_is_sent_changes_nothing(proxy, queue, namespace, process, everything):
    """Fault 1."""
    job = queue.publish("letter")
    before = everything()
    fault = proxy.fault(Do.HOLD_REQUEST, is_claim)
    victim = process(GETS, proxy.url, namespace, 30)
    assert fault.hit.wait(SOON)

    victim.kill()

    assert everything() == before
    assert (queue.get(timeout=0).id, queue.job(job.id).lost) == (job.id, 0)


def test_the_job_of_a_worker_killed_before_it_heard_of_its_claim_is_taken_after_the_lease(
    proxy, queue, namespace, process
):
    """Fault 2: a claim was lost, and is counted."""
    job = queue.publish("letter")
    fault = proxy.fault(Do.HOLD_REPLY, is_claim)
    victim = process(GETS, proxy.url, namespace, 0.6)
    assert fault.hit.wait(SOON)
    waits = in_thread(lambda: queue.get(timeout=SOON))
    victim.kill()
    assert queue.job(job.id).state is State.CLAIMED

    claim = waits.get(timeout=SOON)

    assert (claim.id, claim.claims, claim.lost, claim.failures) == (job.id, 2, 1, 0)
    claim.finish("second")
    assert queue.job(job.id).result == "second"


def test_a_worker_killed_after_its_work_and_before_the_finish_costs_one_more_run(proxy, queue, namespace, process):
    """Fault 4: at least once; one result."""
    job = queue.publish("letter")
    victim = process(GETS, proxy.url, namespace, 0.6)
    assert victim.hear() == "ready"
    assert victim.hear() == f"{job.id} 0 1"
    fault = proxy.fault(Do.HOLD_REQUEST, lambda request: b"of the first" in request.raw)
    victim.tell("finish")
    assert fault.hit.wait(SOON)
    victim.kill()

    claim = queue.get(timeout=SOON)

    assert (claim.id, claim.lost) == (job.id, 1)
    claim.finish("of the second")
    assert (queue.job(job.id).result, queue.job(job.id).claims) == ("of the second", 2)


def work_until_poisoned(queue: Queue) -> None:
    while True:
        claim = queue.get(timeout=SOON, lease=0.2)
        if claim.data == "poison":
            os._exit(9)
        claim.finish("done")


def test_a_job_that_kills_every_worker_is_set_aside_and_the_others_go_on(queue):
    """Fault 7: after `max_lost` claims that were lost."""
    queue.configure(max_lost=3)
    poison = queue.publish("poison", priority="high")
    others = queue.publish_many(["a", "b", "c"])

    for _ in range(3):
        assert ended(in_child(lambda: work_until_poisoned(queue))) == 9
    assert queue.get(timeout=0.5) is None

    assert (queue.job(poison.id).state, queue.job(poison.id).lost) == (State.STALLED, 3)
    assert [queue.job(job.id).result for job in others] == ["done"] * 3


@pytest.mark.parametrize("when", ["while another has it", "after another has finished it"])
def test_a_worker_stopped_past_its_lease_finishes_in_vain(queue, url, namespace, process, when):
    """Fault 9: it hears StaleClaim, and the result of the new owner is kept."""
    job = queue.publish("letter")
    stopped = process(GETS, url, namespace, 0.6)
    assert [stopped.hear(), stopped.hear()] == ["ready", f"{job.id} 0 1"]
    stopped.freeze()
    claim = queue.get(timeout=SOON)
    assert (claim.id, claim.lost) == (job.id, 1)
    if when.startswith("after"):
        claim.finish("of the second")

    stopped.tell("finish")
    stopped.thaw()

    assert stopped.hear() == "StaleClaim"
    if when.startswith("while"):
        assert queue.job(job.id).state is State.CLAIMED
        claim.finish("of the second")
    assert (queue.job(job.id).result, queue.job(job.id).claims) == ("of the second", 2)


@pytest.mark.parametrize("fate", ["stopped", "killed"])
def test_a_job_told_to_a_process_that_hangs_or_dies_is_got_by_another_that_waits(
    queue, client, url, namespace, process, fate
):
    """Fault 9 for who waits: the oldest waiter is told, and does not come."""
    oldest = process(GETS, url, namespace, 30)
    assert oldest.hear() == "ready"
    until_waiting(client, 1)
    other = process(GETS, url, namespace, 30)
    assert other.hear() == "ready"
    until_waiting(client, 2)
    oldest.freeze() if fate == "stopped" else oldest.kill()

    with Clocked() as clocked:
        job = queue.publish("letter")
        assert other.hear(within=SOON) == f"{job.id} 0 1"

    assert clocked.seconds <= TOLD


def test_a_job_whose_wake_up_was_lost_is_got_by_another_that_waits(proxy, far, queue, client, url, namespace, process):
    """Fault 20: the oldest waiter lives, and the message to it does not arrive."""
    unheard = in_thread(far.get)
    until_waiting(client, 1)
    other = process(GETS, url, namespace, 30)
    assert other.hear() == "ready"
    until_waiting(client, 2)
    loss = proxy.lose_message()

    with Clocked() as clocked:
        job = queue.publish("letter")
        got = in_thread(lambda: other.hear(within=SOON))
        until(lambda: not got.empty() or not unheard.empty())

    assert (loss.hit.is_set(), clocked.seconds <= TOLD, queue.job(job.id).state) == (True, True, State.CLAIMED)


@pytest.mark.slow
def test_a_lone_waiter_whose_wake_up_was_lost_gets_the_job(proxy, far, queue, client):
    """Fault 20."""
    got = in_thread(far.get)
    until_waiting(client, 1)
    loss = proxy.lose_message()

    job = queue.publish("letter")

    assert loss.hit.wait(SOON)
    assert got.get(timeout=PROBE).id == job.id


@pytest.mark.slow
def test_a_publisher_to_whom_the_end_of_its_job_was_not_told_calls_back(proxy, far, queue, heard):
    """Fault 20."""
    job = far.publish("letter", on_finish=heard)
    until_seen(proxy, "SSUBSCRIBE")
    loss = proxy.lose_message()
    taken(queue).finish("sent")
    assert loss.hit.wait(SOON)

    assert heard.news.get(timeout=PROBE).id == job.id
    assert heard.times == {job.id: 1}


def hang(process, client, url: str, namespace: str, hung: int) -> None:
    """So many processes that waited for a job stand still."""
    crowd = process(CROWD, url, namespace, hung)
    assert crowd.hear() == "ready"
    until_waiting(client, hung)
    crowd.freeze()


@pytest.mark.parametrize(("hung", "within"), [(1, TOLD), pytest.param(10, 4.0, marks=pytest.mark.slow)])
def test_hung_waiters_do_not_keep_a_job_from_one_that_lives(
    queue, elsewhere, client, url, namespace, process, hung, within
):
    """Fault 9 for who waits: those that hang were first, and still count as receivers."""
    hang(process, client, url, namespace, hung)
    got = in_thread(elsewhere.get)
    until_waiting(client, hung + 1)

    with Clocked() as clocked:
        job = queue.publish("letter")
        claim = got.get(timeout=SOON)

    assert (claim.id, clocked.seconds <= within) == (job.id, True)


def test_hung_waiters_do_not_keep_a_job_from_one_that_comes_later(queue, elsewhere, client, url, namespace, process):
    """Fault 9 for who waits: a look takes what is there, whoever was told of it."""
    hang(process, client, url, namespace, 1)
    job = queue.publish("letter")

    with Clocked() as clocked:
        claim = elsewhere.get(timeout=SOON)

    assert (claim.id, clocked.seconds < 1) == (job.id, True)


def test_a_frozen_timekeeper_does_not_keep_what_comes_due_from_those_that_wait(queue, client, url, namespace, process):
    """Fault 39: the process that waits longest is the likely timekeeper; 1 s for what is due."""
    oldest = process(GETS, url, namespace, 30)
    assert oldest.hear() == "ready"
    until_waiting(client, 1)
    other = process(GETS, url, namespace, 30)
    assert other.hear() == "ready"
    until_waiting(client, 2)
    job = queue.publish("letter", delay=1)
    until_waiting(client, 2)
    oldest.freeze()

    said = other.hear(within=SOON)
    late = time.time() - queue.job(job.id).published_at.timestamp() - 1

    assert said == f"{job.id} 0 1"
    # Due, within 1 s moved although the timekeeper hangs; told first to the one that hangs, that is 2 s more.
    assert late <= 1 + TOLD


def works_in_child(queue: Queue) -> bool:
    """Publishes, takes and finishes with connections of its own."""
    mine = queue._broker.queue("of the child")
    job = mine.publish("childs")
    claim = mine.get(timeout=SOON)
    claim.finish("by child")
    return claim.id == job.id and job.wait(timeout=SOON).result == "by child"


def test_a_fork_while_a_thread_waits_leaves_both_sides_working(queue, elsewhere, client):
    """Fault 55."""
    got = in_thread(queue.get)
    until_waiting(client, 1)

    child = in_child(lambda: works_in_child(queue))

    assert ended(child) == 0
    with Clocked() as clocked:
        job = elsewhere.publish("letter")
        claim = got.get(timeout=SOON)
    assert (claim.id, clocked.seconds <= 2) == (job.id, True)
    claim.finish("by parent")
    assert queue.job(job.id).result == "by parent"


def test_a_child_that_waits_beside_its_parent_shares_the_work(queue, elsewhere, client):
    """Fault 55: each gets a job, and neither hears the news of the other."""
    got = in_thread(queue.get)
    until_waiting(client, 1)
    child = in_child(lambda: queue.get(timeout=SOON).finish("by child") is None)
    until_waiting(client, 2)

    jobs = elsewhere.publish_many(["a", "b"])

    assert ended(child) == 0
    got.get(timeout=SOON).finish("by parent")
    assert sorted(job.wait(timeout=SOON).result for job in jobs) == ["by child", "by parent"]


def test_a_publisher_killed_before_the_end_leaves_the_result_to_be_read(url, namespace, queue, process):
    """Fault 44."""
    publisher = process("say(queue.publish('letter', on_finish=print).id); heed()", url, namespace)
    id = publisher.hear()
    os.killpg(publisher.popen.pid, signal.SIGKILL)

    taken(queue).finish("sent")

    with Broker(url, namespace=namespace) as returned:
        assert returned.queue("letters").job(id).wait(timeout=SOON).result == "sent"
