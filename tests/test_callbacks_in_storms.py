"""Callbacks while many things happen at once: races, lost subscriptions, flushed scripts, threads, forks, masses."""

from __future__ import annotations

import os
import queue as queues
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from helpers import SOON, Heard, in_time, until

from thoonk_jobs import Broker, Job, Outcome, Publish, Queue, State, TransitionRefused

pytestmark = [pytest.mark.slow, pytest.mark.asyncio_on("valkey")]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.000005)
    yield
    sys.setswitchinterval(usual)


def once(jobs: list[Job]) -> Counter[str]:
    return Counter(job.id for job in jobs)


def echo(queue: Queue, stop: threading.Event) -> None:
    """A worker that answers with the data."""
    while not stop.is_set():
        for claim in queue.get_many(50, timeout=0.2):
            claim.finish(claim.data)


@pytest.fixture
def worker(elsewhere: Queue) -> Iterator[None]:
    """A thread with a broker of its own that finishes whatever comes."""
    stop = threading.Event()
    thread = threading.Thread(target=echo, args=(elsewhere, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


WORKER = """
import sys
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    queue = broker.queue("letters")
    print("ready", flush=True)
    while True:
        for claim in queue.get_many(10):
            claim.finish(claim.data)
"""


def test_of_1000_jobs_finished_by_another_process_at_once_each_calls_back_once(
    broker, queue, url, namespace, start, heard
):
    process = start(WORKER, url, namespace)
    assert process.stdout.readline() == "ready\n"

    jobs = [queue.publish(n, on_finish=heard, keep=0) for n in range(1000)]
    broker.join(timeout=SOON)

    assert heard.times == once(jobs)
    assert all(job.result == job.data for job in heard.jobs)


@pytest.mark.usefixtures("hasty")
def test_the_first_publish_to_a_queue_calls_back_only_at_the_end(broker, heard):
    for n in range(80):
        queue = broker.queue(f"letters{n}")
        queue.publish(n, on_finish=heard)

    with pytest.raises(TimeoutError):
        broker.join(timeout=0.2)

    assert heard.jobs == []


@pytest.mark.usefixtures("worker")
def test_a_subscription_that_is_lost_while_results_come_loses_and_invents_none(broker, queue, client, heard):
    jobs = []

    for n in range(200):
        jobs.append(queue.publish(n, on_finish=heard))
        if n % 10 == 5:
            client.client_kill_filter(_type="pubsub")
    broker.join(timeout=SOON)

    assert heard.times == once(jobs)
    assert heard.outcomes == {Outcome.SUCCESS}


def test_a_subscription_made_anew_while_a_publish_is_sent_again_calls_nothing_back_before_the_end(
    broker, queue, client, heard
):
    """As in a failover: the look at what may have been missed must not take a job for gone that is not there yet."""
    queue.publish("first", on_finish=Heard())
    client.execute_command("REPLICAOF", "127.0.0.1", "1")  # from here on it answers READONLY to what writes
    published = threading.Thread(target=lambda: queue.publish("letter", id="l1", on_finish=heard))
    published.start()
    try:
        until(lambda: queue.session.callbacks.expects(queue.keys, "l1"))
        client.client_kill_filter(_type="pubsub")
        early = in_time(lambda: heard.jobs, seconds=0.5)
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
        published.join()

    assert not early
    for claim in queue.get_many(2):
        claim.finish(claim.data)
    broker.join(timeout=SOON)
    assert [(job.id, job.result) for job in heard.jobs] == [("l1", "letter")]


def test_a_wait_goes_on_when_its_subscription_is_lost(queue, elsewhere, client):
    got: queues.SimpleQueue[Any] = queues.SimpleQueue()
    job = queue.publish("other", delay=60)
    threads = [
        threading.Thread(target=lambda: got.put(queue.get(timeout=SOON))),
        threading.Thread(target=lambda: got.put(job.wait(timeout=SOON))),
    ]
    for thread in threads:
        thread.start()
    while not client.zcard(f"{queue.keys.base}:waiters"):
        time.sleep(0.005)

    client.client_kill_filter(_type="pubsub")
    elsewhere.retract(job.id)
    assert got.get(timeout=SOON).outcome is Outcome.RETRACTED
    elsewhere.publish("letter")

    assert got.get(timeout=SOON).data == "letter"
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("worker")
def test_scripts_that_are_flushed_again_and_again_hurt_no_call(broker, queue, client, heard):
    stop = threading.Event()

    def flush() -> None:
        while not stop.wait(0.005):
            client.script_flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        jobs = [queue.publish(n, on_finish=heard) for n in range(200)]
        broker.join(timeout=SOON)
    finally:
        stop.set()
        flusher.join()

    assert heard.times == once(jobs)


def test_brokers_of_one_process_hear_their_own_jobs(broker, queue, elsewhere):
    own, others = Heard(), Heard()
    jobs = [queue.publish(n, on_finish=own) for n in range(50)]
    more = [elsewhere.publish(n, on_finish=others) for n in range(50)]

    for there in (queue, elsewhere):
        for claim in there.get_many(50):
            claim.finish()
    broker.join(timeout=SOON)
    elsewhere._broker.join(timeout=SOON)

    assert (own.times, others.times) == (once(jobs), once(more))


@pytest.mark.usefixtures("hasty")
def test_of_500_jobs_of_many_threads_each_is_done_once_and_told_once(broker, queue, heard):
    done: list[str] = []
    published: list[Job] = []
    troubles: list[BaseException] = []

    def publish(which: int) -> None:
        published.extend(queue.publish([which, n], on_finish=heard) for n in range(125))

    def work() -> None:
        while claim := queue.get(timeout=0.3):
            done.append(claim.id)
            claim.finish(claim.data)

    def guarded(act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=guarded, args=(publish, n)) for n in range(4)]
    threads += [threading.Thread(target=guarded, args=(work,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    broker.join(timeout=SOON)

    assert troubles == []
    assert Counter(done) == once(published) == heard.times
    assert len(done) == 500
    assert all(job.result == job.data for job in heard.jobs)


# Forks


def in_child(act: Callable[[], Any]) -> int:
    """Runs it in a forked child; the exit status: 0 if it returned True."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if act() is True else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + SOON
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return -9
        time.sleep(0.01)


@pytest.mark.blocking_only
def test_a_forked_child_works_with_connections_of_its_own_and_the_parent_hears_its_results(broker, queue, heard):
    jobs = [queue.publish(n, on_finish=heard) for n in range(20)]
    parents_worker = queue.session.worker

    def child() -> bool:
        own = Heard()
        job = queue.publish("childs", priority=1, on_finish=own)
        mine = queue.get(timeout=SOON)
        mine.finish("by child")
        broker.join(timeout=SOON)
        for claim in queue.get_many(10, timeout=0):
            claim.finish(claim.data)
        told = [(one.id, one.result) for one in own.jobs] == [(job.id, "by child")]
        return told and mine.worker != parents_worker and queue.session.worker != parents_worker

    assert in_child(child) == 0
    for claim in queue.get_many(20, timeout=0):
        claim.finish(claim.data)
    broker.join(timeout=SOON)

    assert heard.times == once(jobs)
    assert Counter(job.refresh().worker == parents_worker for job in jobs) == {True: 10, False: 10}


@pytest.mark.blocking_only
def test_a_child_forked_while_a_subscription_lives_takes_none_of_its_news(broker, queue, elsewhere, heard):
    jobs = [queue.publish(n, on_finish=heard) for n in range(200)]
    ready_in, ready_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            queue.get(timeout=0)
            os.write(ready_out, b"x")
            time.sleep(SOON)
        finally:
            os._exit(0)
    try:
        assert os.read(ready_in, 1) == b"x"
        for claim in elsewhere.get_many(200, timeout=0):
            claim.finish()
        child_holds = 1
        while len(heard.jobs) < 200 - child_holds:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.01)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(ready_in)
        os.close(ready_out)

    assert heard.times - once(jobs) == Counter()
    assert elsewhere.counts()[State.CLAIMED] == 1


@pytest.mark.blocking_only
def test_a_child_does_not_end_the_claims_of_its_parent(broker, queue):
    queue.publish("letter")
    claim = queue.get()

    def child() -> bool:
        with pytest.raises(TransitionRefused):
            queue.finish(claim.id, "by child")
        broker.close()
        return True

    assert in_child(child) == 0
    claim.finish("sent")

    assert queue.job(claim.id).result == "sent"


# Masses


def run_many(broker: Broker, queue: Queue, client: redis.Redis, clock: Any, n: int) -> None:
    heard = Heard()
    queue.publish("warm", keep=0, on_finish=Heard())
    queue.get().finish()
    broker.join(timeout=SOON)
    before = client.info("memory")["used_memory"]

    for at in range(0, n, 1000):
        queue.publish_many((Publish(at + m, on_finish=heard) for m in range(1000)), keep=0)
        for claim in queue.get_many(1000, renew=False):
            claim.finish(claim.data)
    broker.join(timeout=SOON + n / 500)
    assert Counter(job.result for job in heard.jobs) == Counter(range(n))
    del heard
    clock.advance(61)
    assert queue.get(timeout=0) is None

    base = queue.keys.base
    assert client.hlen(f"{base}:record") == 0
    assert client.exists(*(f"{base}:{name}" for name in ("payload", "result", "finished", "bare", "watchers"))) == 0
    assert queue.session.callbacks._expected == {}
    log_of_moves = 2_000_000
    assert client.info("memory")["used_memory"] - before < log_of_moves


def test_of_5000_jobs_without_keep_every_result_arrives_and_nothing_is_left_after_a_minute(
    broker, queue, client, clock
):
    run_many(broker, queue, client, clock, 5_000)


@pytest.mark.slow
def test_of_100_000_jobs_without_keep_every_result_arrives_and_nothing_is_left_after_a_minute(
    broker, queue, client, clock
):
    run_many(broker, queue, client, clock, 100_000)


def test_a_publish_after_a_minute_forgets_all_that_is_over(queue, client, clock):
    queue.publish_many(range(1600), keep=0)
    for claim in queue.get_many(1600):
        claim.finish()
    clock.advance(62)

    queue.publish("one further call")

    assert client.hlen(f"{queue.keys.base}:record") == 1
