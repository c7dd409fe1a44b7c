"""The scenarios T1 to T37 of Thoonk Jobs, the oldest system this one replaces (`requirements/seeds.md`, section 3)."""

from __future__ import annotations

import os
import queue as queues
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from helpers import SOON, in_thread, taken, until, waiting

from thoonk_jobs import (
    InvalidArgument,
    Job,
    JobNotFound,
    Outcome,
    StaleClaim,
    State,
    TransitionRefused,
)

pytestmark = pytest.mark.asyncio_on("valkey")


class Process:
    """A real process of its own, told line by line what to do."""

    def __init__(self, code: str, *args: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> str:
        assert self.popen.stdout
        return self.popen.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self.popen.stdin
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.communicate()


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(code: str, *args: str) -> Process:
        started.append(Process(code, *args))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def test_t1_an_item_published_without_an_id_gets_one_and_is_claimed_and_finished_with_a_result(queue):
    job = queue.publish({"to": "Ann"})

    claim = taken(queue)
    claim.finish({"sent": True})

    assert (job.data, claim.data, claim.id) == ({"to": "Ann"}, {"to": "Ann"}, job.id)
    assert 1 <= len(job.id) <= 16
    assert queue.job(job.id).result == {"sent": True}


def test_t2_a_stalled_job_that_is_retried_is_claimed_again_under_its_id_and_finished(queue):
    job = queue.publish("letter")
    queue.stall(taken(queue).id)
    queue.retry(job.id)

    again = taken(queue)
    again.finish()

    assert again.id == job.id
    assert queue.job(job.id).outcome is Outcome.SUCCESS


def test_t3_a_cancelled_job_that_is_retracted_leaves_the_queue_empty(queue):
    """The verbs return None instead of the id; the id stays taken, as the outcome `retracted`."""
    job = queue.publish("letter")
    queue.cancel(taken(queue))

    queue.retract(job.id)

    assert queue.ids() == []
    assert queue.get(timeout=0) is None
    assert queue.job(job.id).outcome is Outcome.RETRACTED


def test_t4_put_get_finish_keeps_id_and_content_counts_no_cancel_and_leaves_no_id(queue):
    assert queue.ids() == []
    job = queue.publish({"n": 1})

    claim = queue.get(timeout=3)
    claim.finish()

    assert (claim.id, claim.data, claim.cancels) == (job.id, {"n": 1}, 0)
    assert queue.ids() == []


def test_t5_two_cancels_are_counted_one_by_one_and_retract_leaves_no_id(queue):
    job = queue.publish({"n": 1})
    counted = []

    claim = taken(queue)
    for _ in range(2):
        claim.cancel()
        claim = taken(queue)
        counted.append((claim.id, claim.data, claim.cancels))
    queue.retract(job.id)

    assert counted == [(job.id, {"n": 1}, 1), (job.id, {"n": 1}, 2)]
    assert queue.ids() == []


def test_t6_get_with_a_timeout_of_one_second_ends_after_one_second(queue):
    """It returns None; nothing is raised."""
    queue.get(timeout=0)
    before = time.monotonic()

    claim = queue.get(timeout=1)

    assert claim is None
    assert 1 <= time.monotonic() - before < 1.5


def test_t7_a_listener_hears_queue_id_and_result_of_a_finish_within_a_second(queue, elsewhere):
    """As `on_finish` of the publisher; listeners of a whole queue are in test_event_scenarios.py."""
    heard: queues.SimpleQueue[Job] = queues.SimpleQueue()
    queue.publish("letter", id="l1", on_finish=heard.put)

    taken(elsewhere).finish("myresult")

    job = heard.get(timeout=1)
    assert (job.queue, job.id, job.result) == ("letters", "l1", "myresult")
    assert queue.ids() == []


def test_t9_jobs_come_in_the_order_in_which_they_were_put(queue):
    for data in (10, 20, 30, 40):
        queue.publish(data)

    assert [taken(queue).data for _ in range(4)] == [10, 20, 30, 40]


def test_t10_a_queue_is_listed_by_its_name_from_its_first_publish_until_it_is_deleted(broker, queue):
    """The list of queues stands for the create and delete notices; handlers are in test_event_scenarios.py."""
    listed = [broker.queues()]
    queue.publish("letter")
    listed.append(broker.queues())
    queue.delete()
    listed.append(broker.queues())

    assert listed == [[], ["letters"], []]


def test_t11_deleting_a_queue_removes_all_of_its_keys(queue, client, namespace):
    queue.configure(max_attempts=2)
    queue.publish_many(range(5))
    claim = taken(queue)
    claim.set_progress(1)
    claim.finish("done")
    queue.stall(taken(queue))
    queue.publish("later", delay=60)
    assert list(client.scan_iter(match=f"{{{namespace}:*"))

    queue.delete()

    assert list(client.scan_iter(match=f"{{{namespace}:*")) == []


def test_t12_a_custom_id_is_the_one_that_get_returns(queue):
    queue.publish("letter", id="my own id")

    assert taken(queue).id == "my own id"


@pytest.mark.parametrize(("given", "heard"), [((), None), (("sent",), "sent"), ((None,), None)])
def test_t14_on_finish_is_called_once_with_the_result_when_another_process_ends_the_job(
    broker, queue, elsewhere, given, heard
):
    calls: list[Job] = []
    job = queue.publish("letter", on_finish=calls.append)

    taken(elsewhere).finish(*given)
    broker.join(timeout=SOON)

    assert [(call.id, call.outcome, call.error, call.result) for call in calls] == [
        (job.id, Outcome.SUCCESS, None, heard)
    ]


def test_t16_of_two_waiting_workers_exactly_one_gets_the_job_and_the_other_waits_until_its_timeout(
    queue, elsewhere, client
):
    began = time.monotonic()
    answers = [in_thread(lambda worker=worker: worker.get(timeout=0.8)) for worker in (queue, elsewhere)]
    until(lambda: waiting(client, queue) == 2)

    job = queue.publish("letter")

    claims = [answer.get(timeout=SOON) for answer in answers]
    assert sorted(claim.id for claim in claims if claim) == [job.id]
    assert time.monotonic() - began >= 0.8


PUBLISHER = """
import sys, time
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    queue = broker.queue("letters")
    broker.ping()
    queue.counts()
    print("ready", flush=True)
    sys.stdin.readline()
    queue.publish("letter")
    print(time.time(), flush=True)
    sys.stdin.readline()
"""


def test_t17_a_get_that_waits_for_ever_sends_nothing_and_returns_promptly_when_another_process_publishes(
    queue, client, url, namespace, process, capsys
):
    """`get()` waits for ever; `get(timeout=0)` looks once, as any 0 here."""
    publisher = process(PUBLISHER, url, namespace)
    assert publisher.hear() == "ready"
    got = in_thread(lambda: (queue.get(), time.time()))
    until(lambda: waiting(client, queue) == 1)

    before = client.info("stats")["total_commands_processed"]
    with pytest.raises(queues.Empty):
        got.get(timeout=0.5)
    asked_for_info = 1
    assert client.info("stats")["total_commands_processed"] - before == asked_for_info

    publisher.tell("go")
    claim, at = got.get(timeout=SOON)

    late = at - float(publisher.hear())
    with capsys.disabled():
        print(f"[T17: {1000 * late:.1f} ms after the publish returned]", end=" ")
    assert claim.data == "letter"
    assert late < 1


@pytest.mark.parametrize("state", [State.AVAILABLE, State.CLAIMED, State.FINISHED])
def test_t19_retry_of_a_job_that_is_not_stalled_is_refused_and_makes_no_second_copy(queue, state):
    job = queue.publish("letter")
    if state is not State.AVAILABLE:
        claim = taken(queue)
    if state is State.FINISHED:
        claim.finish()
    before = queue.counts()

    with pytest.raises(TransitionRefused) as refused:
        queue.retry(job.id)

    assert (refused.value.job_id, refused.value.transition, refused.value.state) == (job.id, "retry", state)
    assert queue.counts() == before


@pytest.mark.parametrize("state", [State.SCHEDULED, State.AVAILABLE, State.CLAIMED, State.STALLED])
def test_t20_retract_works_from_every_live_state(queue, state):
    job = queue.publish("letter", delay=60 if state is State.SCHEDULED else None)
    if state in (State.CLAIMED, State.STALLED):
        claim = taken(queue)
    if state is State.STALLED:
        claim.stall()
    assert queue.job(job.id).state is state

    queue.retract(job.id)

    assert queue.job(job.id).outcome is Outcome.RETRACTED
    assert queue.ids() == []


def test_t20_retracting_an_unknown_id_raises(queue):
    with pytest.raises(JobNotFound):
        queue.retract("nobody")


def test_t20_the_claimant_of_a_retracted_job_cannot_finish_it(queue, elsewhere):
    job = queue.publish("letter")
    claim = taken(queue)
    elsewhere.retract(job.id)

    with pytest.raises(StaleClaim):
        claim.finish("late")

    assert queue.job(job.id).outcome is Outcome.RETRACTED
    assert queue.job(job.id).result is None


def test_t20_the_id_of_a_retracted_job_stays_taken(queue):
    """Publishing it again gives that job, and no second run; `rerun` runs it again."""
    job = queue.publish("letter")
    queue.retract(job.id)

    again = queue.publish("letter", id=job.id)

    assert (again.state, again.outcome) == (State.FINISHED, Outcome.RETRACTED)
    assert queue.get(timeout=0) is None
    queue.rerun(job.id)
    assert taken(queue).id == job.id


def test_t21_a_stalled_job_is_not_handed_out_by_an_otherwise_empty_queue(queue):
    queue.publish("letter")
    taken(queue).stall("no address")

    assert queue.get(timeout=0.2) is None
    assert queue.counts()[State.STALLED] == 1


def test_t22_an_available_job_can_be_stalled_and_is_not_handed_out(queue):
    """Adopted from the README's diagram: an operator may set aside a job in any live state."""
    job = queue.publish("letter")

    queue.stall(job.id, "wrong address")

    assert (queue.job(job.id).state, queue.job(job.id).reason) == (State.STALLED, "wrong address")
    assert queue.get(timeout=0) is None


def test_t25_item_and_result_stay_readable_for_the_time_given_and_then_are_gone(queue, clock):
    """The time is `keep` of the publish, and `job(id)` stands for get_result."""
    job = queue.publish({"n": 6}, keep=30)
    taken(queue).finish(36)

    clock.advance(29)
    kept = queue.job(job.id)
    assert (kept.data, kept.result) == ({"n": 6}, 36)

    clock.advance(2)
    with pytest.raises(JobNotFound):
        queue.job(job.id)


def test_t26_ids_lists_every_live_state_and_no_finished_job(queue):
    for state in ("finished", "retracted", "stalled", "claimed", "available"):
        queue.publish(state, id=state)
    queue.publish("scheduled", id="scheduled", delay=60)
    taken(queue).finish()
    queue.retract(taken(queue).id)
    taken(queue).stall()
    taken(queue)

    assert sorted(queue.ids()) == ["available", "claimed", "scheduled", "stalled"]


def test_t29_each_move_of_a_job_is_logged_once_in_order(queue, client):
    """Read from the log of the queue; subscribers by name and to all are in test_event_scenarios.py."""
    job = queue.publish("letter")
    taken(queue).cancel()
    taken(queue).stall()
    queue.retry(job.id)
    taken(queue).fail("torn", final=True)
    queue.rerun(job.id)
    queue.retract(job.id)

    rows = [entry[b"row"].decode() for _, entry in client.xrange(f"{queue.keys.base}:events")]
    assert rows == [
        "publish", "claim", "cancel", "claim", "stall", "retry", "claim", "fail", "rerun", "retract",
    ]  # fmt: skip


def test_t29_the_log_names_every_job_of_a_move(queue, client):
    ids = [job.id for job in queue.publish_many(range(3))]

    [(_, entry)] = client.xrange(f"{queue.keys.base}:events")

    assert entry[b"ids"] == b"".join(len(id).to_bytes(2, "big") + id.encode() for id in ids)


def test_t30_configure_merges_its_fields_into_the_settings_of_a_queue_that_need_not_exist(queue):
    """There is no create: a queue begins with its first publish or setting, and neither call can fail for it."""
    usual = queue.settings()

    queue.configure(max_attempts=3)
    queue.configure(keep=60)

    assert queue.settings() == {**usual, "max_attempts": 3, "keep": 60}


def test_t30_a_field_that_there_is_not_is_refused_and_nothing_is_set(queue):
    usual = queue.settings()

    with pytest.raises(TypeError):
        queue.configure(max_length=5)
    with pytest.raises(InvalidArgument):
        queue.configure(keep=60, max_lost=0)

    assert queue.settings() == usual


WORKER = """
import sys, time
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    claim = broker.queue("letters").get(lease=float(sys.argv[3]))
    print(claim.id, claim.lost, flush=True)
    sys.stdin.readline()
"""


def test_t34_the_job_of_a_worker_killed_after_its_claim_is_run_by_a_worker_that_waits(queue, url, namespace, process):
    job = queue.publish("letter")
    victim = process(WORKER, url, namespace, "0.6")
    assert victim.hear() == f"{job.id} 0"
    waits = in_thread(queue.get)

    os.kill(victim.popen.pid, signal.SIGKILL)

    claim = waits.get(timeout=SOON)
    claim.finish("second")
    assert (claim.id, claim.lost, claim.claims) == (job.id, 1, 2)
    assert queue.job(job.id).result == "second"


def test_t34_a_worker_killed_while_it_waits_takes_no_job_with_it(queue, client, url, namespace, process):
    """A claim is one script: between taking a job and recording who has it there is no moment to die in."""
    victim = process(WORKER, url, namespace, "30")
    until(lambda: waiting(client, queue) == 1)
    victim.kill()

    job = queue.publish("letter")

    assert queue.get(timeout=SOON).id == job.id


@pytest.mark.parametrize("priority", [10, "front"])
def test_t37_cancel_keeps_the_priority(queue, priority):
    queue.publish("slow")
    urgent = queue.publish("fast", priority=priority)

    taken(queue).cancel()

    again = taken(queue)
    assert (again.id, again.priority) == (urgent.id, urgent.priority)


def test_t37_the_cancel_that_reaches_max_cancels_stalls_the_job(queue):
    queue.configure(max_cancels=2)
    job = queue.publish("letter")
    taken(queue).cancel()
    assert queue.job(job.id).state is State.AVAILABLE

    taken(queue).cancel("no stamp")

    stalled = queue.job(job.id)
    assert (stalled.state, stalled.cancels) == (State.STALLED, 2)
    assert "no stamp" in stalled.reason
