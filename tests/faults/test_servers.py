"""The server is killed, emptied, full, frozen or refuses to write: what was acknowledged stays, who waits goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from helpers import SOON, in_thread, taken, until
from stage import GETS, Clocked, Server, until_waiting

from thoonk_jobs import (
    Broker,
    BrokerClosed,
    BrokerUnavailable,
    EmbeddedServer,
    JobNotFound,
    Outcome,
    Queue,
    State,
    ThoonkError,
)

RESTART = 10.0
"""Seconds after a restarted server answers until who waited goes on."""
PROBE = 25.0
"""Seconds after which data that was lost is noticed, by the probe of 20 s."""


# Killed and started again


def some_work(queue) -> list[str]:
    """Jobs in every state, each acknowledged."""
    jobs = queue.publish_many(range(10), keep=3600)
    for claim in queue.get_many(4, timeout=0, lease=60):
        if claim.data < 2:
            claim.finish({"done": claim.data})
        elif claim.data == 2:
            claim.stall("odd")
    return [job.id for job in jobs]


def assert_nothing_lost(queue, ids) -> None:
    found = [queue.job(id) for id in ids]
    assert [job.data for job in found] == list(range(10))
    assert [str(job.state) for job in found] == ["finished"] * 2 + ["stalled", "claimed"] + ["available"] * 6
    assert [job.result for job in found[:2]] == [{"done": 0}, {"done": 1}]


@pytest.fixture
def impatient(server: Server) -> Iterator[Queue]:
    """The queue as a process has it that sends no call again for longer than 0.1 s."""
    with Broker(server.url, namespace="own", retry_for=0.1) as broker:
        yield broker.queue("letters")


def test_a_killed_server_loses_nothing_acknowledged_and_who_waits_goes_on(server, impatient, other, heard):
    """Fault 25: who waits does so through an outage longer than `retry_for`."""
    work = other._broker.queue("work")
    ids = some_work(work)
    watched = other.publish("watched", delay=3600, on_finish=heard)
    waits = [in_thread(impatient.get), in_thread(impatient.job(watched.id).wait)]
    until_waiting(server.client, 2)

    server.kill()
    time.sleep(0.5)  # some tries find nothing
    server.start()

    with Clocked() as clocked:
        other.retract(watched.id)
        job = other.publish("letter")
        assert waits[0].get(timeout=SOON).id == job.id
        assert waits[1].get(timeout=SOON).outcome is Outcome.RETRACTED
        assert heard.news.get(timeout=SOON).outcome is Outcome.RETRACTED
    assert clocked.seconds <= RESTART
    assert_nothing_lost(work, ids)


def test_a_killed_embedded_server_is_started_by_who_waits_and_has_lost_nothing(tmp_path):
    """Fault 25."""
    with (
        EmbeddedServer(tmp_path) as server,
        Broker(f"embedded:{tmp_path}") as waiting,
        Broker(f"embedded:{tmp_path}") as broker,
        redis.Redis.from_url(server.url) as client,
    ):
        ids = some_work(broker.queue("work"))
        got = in_thread(waiting.queue("letters").get)
        until_waiting(client)
        os.kill(server.status().pid, signal.SIGKILL)

        with Clocked() as clocked:
            job = broker.queue("letters").publish("letter")
            assert got.get(timeout=SOON).id == job.id
        assert clocked.seconds <= RESTART
        assert_nothing_lost(broker.queue("work"), ids)


def test_a_claim_outlives_a_restart_of_the_server(server, near, other):
    """Fault 25: its holder finishes it as ever."""
    near.publish("letter")
    claim = taken(near, lease=30)
    finished = in_thread(lambda: other.job(claim.id).wait(timeout=SOON))
    until_waiting(server.client, 2)
    server.kill()
    done = in_thread(lambda: claim.finish("sent"))
    server.start()

    assert done.get(timeout=SOON) is None
    assert (finished.get(timeout=SOON).result, other.job(claim.id).claims) == ("sent", 1)


def test_a_job_that_came_due_while_the_server_was_away_runs_once(server, near, other):
    """Fault 39."""
    got = in_thread(near.get)
    job = other.publish("letter", delay=0.5)
    until_waiting(server.client)
    server.kill()
    due = time.monotonic() + 0.6
    until(lambda: time.monotonic() > due)
    server.start()

    with Clocked() as clocked:
        claim = got.get(timeout=SOON)
    assert (claim.id, claim.claims, clocked.seconds <= RESTART) == (job.id, 1, True)
    claim.finish("sent")
    assert other.get(timeout=0) is None


# Emptied


def test_what_is_asked_about_jobs_that_were_lost_is_refused_and_new_ones_run(server, near, other, heard):
    """Fault 29: no crash, and no token is drawn twice."""
    near.publish_many(["a", "b"], max_attempts=3, on_finish=heard)
    claims = near.get_many(2)
    server.client.flushall()

    for act in (lambda: claims[0].finish("sent"), lambda: claims[1].renew(), lambda: claims[1].set_progress(1)):
        with pytest.raises(ThoonkError):
            act()
    with pytest.raises(JobNotFound):
        near.job(claims[0].id)
    job = near.publish("letter", on_finish=heard)
    claim = taken(other)
    claim.finish("sent")

    assert claim.token > max(lost.token for lost in claims)
    assert heard.news.get(timeout=SOON).id == job.id
    assert other._broker.queues() == ["letters"]


@pytest.mark.slow
def test_a_get_that_waits_gets_what_is_published_after_all_data_was_lost(server, near, other):
    """Fault 29."""
    got = in_thread(near.get)
    other.publish("before", delay=3600)
    until_waiting(server.client)
    server.client.flushall()

    job = other.publish("letter")

    assert got.get(timeout=PROBE).id == job.id


@pytest.mark.slow
def test_a_wait_for_a_job_that_was_lost_ends(server, near, other):
    """Fault 29."""
    job = other.publish("letter")
    ended = in_thread(near.job(job.id).wait)
    until_waiting(server.client)

    server.client.flushall()

    assert isinstance(ended.get(timeout=PROBE), JobNotFound)


# Frozen


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def test_a_call_to_a_frozen_server_waits_and_is_answered(server, near):
    """Fault 19: nothing is done twice."""
    near.publish("first")
    with frozen(server):
        answer = in_thread(lambda: near.publish("letter"))
        pause = time.monotonic() + 0.5
        until(lambda: time.monotonic() > pause)
        assert answer.empty()

    assert answer.get(timeout=SOON).data == "letter"
    assert near.counts()[State.AVAILABLE] == 2


@pytest.mark.slow
def test_a_server_that_stood_still_for_twice_the_lease_takes_no_claim_away(server, near, other, process):
    """Fault 9, on the server's side: holders renew first. Another process waits for whatever becomes free."""
    jobs = other.publish_many(["a", "b", "c"], max_attempts=3)
    claims = near.get_many(3, lease=5)
    rival = process(GETS, server.url, "own", 30)
    assert rival.hear() == "ready"
    until_waiting(server.client, 2)

    with frozen(server):
        time.sleep(10)
    renewed = time.monotonic() + 6
    until(lambda: time.monotonic() > renewed)

    assert [claim.aborted for claim in claims] == [False] * 3
    assert [(other.job(job.id).state, other.job(job.id).lost) for job in jobs] == [(State.CLAIMED, 0)] * 3
    for claim in claims:
        claim.finish("sent")
    assert rival._heard.empty()


def calls_that_wait(queue, number) -> list:
    """Threads that ask a server that does not answer; of each, what it heard and after how long."""
    began = time.monotonic()

    def call():
        with suppress(BrokerUnavailable, BrokerClosed):
            queue.publish("letter")
        return time.monotonic() - began

    return [in_thread(call) for _ in range(number)]


def test_many_threads_hear_in_time_that_a_server_does_not_answer(server):
    """One waits for the other, and none begins anew because another one has a connection."""
    with Broker(server.url, namespace="own", retry_for=0.5, socket_timeout=0.2) as broker:
        broker.queue("letters").publish("first")
        server.client.execute_command("CLIENT", "PAUSE", "30000", "WRITE")

        ends = [call.get(timeout=SOON) for call in calls_that_wait(broker.queue("letters"), 30)]

    assert max(ends) < 7.5


def test_closing_waits_for_one_of_many_calls_that_get_no_answer(server):
    broker = Broker(server.url, namespace="own", retry_for=SOON, socket_timeout=1)
    broker.ping()
    with frozen(server):
        calls = calls_that_wait(broker.queue("letters"), 8)
        time.sleep(0.2)
        with Clocked() as clocked:
            broker.close()
        for call in calls:
            call.get(timeout=3)

    assert clocked.seconds < 3


def test_closing_on_a_frozen_server_leaves_claims_to_their_leases(server, other):
    broker = Broker(server.url, namespace="own")
    queues = [broker.queue(name) for name in "abc"]
    for queue in queues:
        queue.publish("letter")
        taken(queue)
    until_waiting(server.client)
    with frozen(server), Clocked() as clocked:
        broker.close()

    assert clocked.seconds < 9
    assert all(other._broker.queue(name).counts()[State.CLAIMED] <= 1 for name in "abc")


# Full


@contextmanager
def full_memory(server: Server) -> Iterator[None]:
    server.client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        server.client.config_set("maxmemory", 0)


def test_with_full_memory_a_publish_is_refused_at_once_and_everything_that_drains_works(server, near, other):
    """Fault 31."""
    near.publish_many(range(6), max_attempts=3)
    watched = other.job(near.ids()[0])
    done = in_thread(lambda: watched.wait(timeout=SOON))
    until_waiting(server.client)

    with full_memory(server):
        with Clocked() as clocked, pytest.raises(BrokerUnavailable) as refused:
            near.publish("one too many", id="l1")
        first, second, third, fourth = near.get_many(4, timeout=0)
        first.finish("sent")
        second.cancel()
        third.fail("torn")
        fourth.renew()
        near.stall(fourth.id)
        near.retry(fourth.id)
        near.retract(fourth.id)

    assert (refused.value.code, refused.value.job_ids, clocked.seconds < 1) == ("OOM", ["l1"], True)
    assert done.get(timeout=SOON).result == "sent"
    counts = near.counts()
    assert (counts[State.AVAILABLE], counts[State.FINISHED]) == (4, 2)
    assert near.publish("one too many", id="l1").state is State.AVAILABLE


def test_with_full_memory_a_process_that_starts_may_take_jobs(server, near, process):
    """Fault 31: a queue that cannot be claimed from cannot drain."""
    job = near.publish("letter")
    with full_memory(server):
        worker = process(GETS, server.url, "own", 30)

        assert [worker.hear(), worker.hear()] == ["ready", f"{job.id} 0 1"]
        worker.tell("finish")
        assert worker.hear() == "done"


@pytest.fixture
def small(binary: str) -> Iterator[Server]:
    """A server on a disk of 8 MB."""
    folder = Path(tempfile.mkdtemp(prefix="fd-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("a small disk cannot be mounted here")
    server = Server(binary, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        server.client.close()
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 65536):
                pass
        except OSError:
            pass
    return ballast


def refusal(queue) -> BrokerUnavailable:
    """Publishes until that is refused."""
    for _ in range(1000):
        try:
            queue.publish("x" * 10_000)
        except BrokerUnavailable as error:
            return error
    raise AssertionError("nothing was refused")


def test_with_a_full_disk_a_publish_is_refused_at_once_and_resumes_when_there_is_room(small):
    """Fault 33."""
    with Broker(small.url, namespace="own") as broker:
        queue = broker.queue("letters")
        before = [job.id for job in queue.publish_many(["a", "b", "c"])]
        ballast = fill(small.folder)

        with Clocked() as clocked:
            refused = refusal(queue)
        known = queue.ids()
        ballast.unlink()
        until(lambda: small.client.info("persistence")["aof_last_write_status"] != "err")

        assert (refused.code, clocked.seconds < 5) == ("MISCONF", True)
        assert refused.job_ids[0] not in known
        claim = taken(queue)
        claim.finish("sent")
        small.kill()
        small.start()
        assert queue.job(before[0]).result == "sent"
        assert queue.ids() == known[1:]


# Refuses for a while


@contextmanager
def read_only(server: Server) -> Iterator[None]:
    server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        server.client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """A script that does not end, until it is killed."""
    server.client.config_set("busy-reply-threshold", 1)
    with redis.Redis.from_url(server.url, retry=None) as looping:
        ended = in_thread(lambda: looping.eval("while true do end", 0))
        with redis.Redis.from_url(server.url, retry=None) as client:
            until(lambda: answers_busy(client))
            try:
                yield
            finally:
                client.script_kill()
                ended.get(timeout=SOON)


def answers_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY") or type(error).__name__ == "BusyError"
    return False


VERBS = {
    "publish": lambda queue, claim: queue.publish("letter"),
    "get": lambda queue, claim: queue.get(timeout=0),
    "finish": lambda queue, claim: claim.finish("sent"),
    "cancel": lambda queue, claim: claim.cancel(),
    "renew": lambda queue, claim: claim.renew(),
    "pause": lambda queue, claim: queue.pause(),
}
FAULTS = {"READONLY": read_only, "BUSY": busy}


@pytest.mark.parametrize("code", FAULTS)
def test_calls_to_a_server_that_refuses_for_a_while_wait_and_succeed(server, near, code):
    """Fault 35."""
    near.publish_many(range(5))
    claims = dict(zip(VERBS, [None, None, *near.get_many(3), None], strict=True))
    with FAULTS[code](server):
        answers = {verb: in_thread(lambda verb=verb: VERBS[verb](near, claims[verb])) for verb in VERBS}
        pause = time.monotonic() + 0.3
        until(lambda: time.monotonic() > pause)
        assert [verb for verb, answer in answers.items() if not answer.empty()] == []

    found = {verb: answer.get(timeout=SOON) for verb, answer in answers.items()}
    assert [verb for verb, answer in found.items() if isinstance(answer, Exception)] == []
    near.resume()
    assert near.job(claims["finish"].id).result == "sent"
    assert (claims["renew"].aborted, sum(near.counts().values())) == (False, 6)


@pytest.mark.parametrize("code", FAULTS)
def test_calls_to_a_server_that_goes_on_to_refuse_say_so(server, near, code):
    """Fault 35: after `retry_for`, with the server's own word; the claims are still valid then."""
    near.publish_many(range(5))
    with Broker(server.url, namespace="own", retry_for=0.2) as hasty:
        queue = hasty.queue("letters")
        claims = dict(zip(VERBS, [None, None, *queue.get_many(3), None], strict=True))
        with FAULTS[code](server), Clocked() as clocked:
            answers = {verb: in_thread(lambda verb=verb: VERBS[verb](queue, claims[verb])) for verb in VERBS}
            refused = {verb: answer.get(timeout=SOON) for verb, answer in answers.items()}

        assert clocked.seconds < 2
        assert [type(answer) for answer in refused.values()] == [BrokerUnavailable] * len(VERBS)
        assert [answer.code for answer in refused.values()] == [code] * len(VERBS)
        for verb in VERBS:
            VERBS[verb](queue, claims[verb])


@pytest.mark.parametrize("code", FAULTS)
def test_a_get_that_waits_goes_on_after_a_server_refused_for_a_while(server, near, other, code):
    """Fault 35."""
    got = in_thread(near.get)
    until_waiting(server.client)
    with FAULTS[code](server):
        job = in_thread(lambda: other.publish("letter"))
        pause = time.monotonic() + 0.3
        until(lambda: time.monotonic() > pause)

    with Clocked() as clocked:
        claim = got.get(timeout=SOON)
    assert (claim.id, clocked.seconds <= RESTART) == (job.get(timeout=SOON).id, True)


def test_with_no_connection_to_be_had_a_new_broker_says_so_and_one_that_has_one_works(server, near, other):
    """Fault 60."""
    near.publish("letter")
    claim = taken(near)
    until_waiting(server.client)
    server.client.config_set("maxclients", len(server.client.client_list()))
    with Broker(server.url, namespace="own", retry_for=0.2) as late, pytest.raises(BrokerUnavailable):
        late.queue("letters").publish("late")
    claim.finish("sent")
    server.client.config_set("maxclients", 100)

    assert other.job(claim.id).result == "sent"
