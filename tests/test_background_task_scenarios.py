"""The scenarios B2 to B61 of node-background-task (`requirements/seeds.md`, section 3): time-outs, waits, claims, ends.

Its creator is a publisher here, its worker whoever calls `get`, its task type and channel the name of a queue. Those on
limits and blocked keys are in test_background_task_limits.py; broadcast, events, roles and connections come elsewhere.
"""

from __future__ import annotations

import os
import queue as queues
import signal
import string
import threading
import time
from collections import defaultdict
from typing import Any

import pytest
from helpers import SOON, Heard, count_of_commands, in_thread, quiet, taken, until, waiting

from thoonk_jobs import (
    BrokerClosed,
    InvalidArgument,
    Job,
    JobFailed,
    Outcome,
    PayloadError,
    StaleClaim,
    State,
    TransitionRefused,
)

pytestmark = pytest.mark.asyncio_on("valkey")

MIB = 1024 * 1024


WORKER = """
import os, sys
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    claim = broker.queue("letters").get()
    claim.finish({"by": os.getpid(), "data": claim.data})
"""

# Completions


def test_b2_the_callback_is_called_when_everybody_can_read_the_completion(queue, elsewhere):
    """The order of callback and TASK_DONE at subscribers is in test_event_scenarios.py."""
    read: queues.SimpleQueue[Job] = queues.SimpleQueue()
    queue.publish("letter", on_finish=lambda job: read.put(elsewhere.job(job.id)))

    taken(elsewhere).finish("sent")

    job = read.get(timeout=SOON)
    assert (job.state, job.outcome, job.result) == (State.FINISHED, Outcome.SUCCESS, "sent")


def test_b3_of_two_jobs_each_is_told_at_its_own_completion(broker, queue, elsewhere, heard):
    jobs = [queue.publish(n, on_finish=heard) for n in range(2)]
    claims = elsewhere.get_many(2)

    claims[0].finish()
    assert heard.news.get(timeout=SOON).id == jobs[0].id
    with pytest.raises(TimeoutError):
        broker.join(timeout=0.2)
    assert heard.once_each([jobs[0].id])
    claims[1].finish()
    broker.join(timeout=SOON)

    assert heard.once_each([job.id for job in jobs])


def test_b4_a_new_job_wakes_a_worker_in_another_process_and_its_completion_calls_back(
    queue, client, url, namespace, start, heard
):
    worker = start(WORKER, url, namespace)
    until(lambda: waiting(client, queue) == 1)

    queue.publish("letter", on_finish=heard)

    assert heard.news.get(timeout=SOON).result == {"by": worker.pid, "data": "letter"}


def test_b6_one_report_calls_back_once_and_before_the_completion(broker, queue, elsewhere):
    told: list[Any] = []
    queue.publish(
        "letter",
        on_progress=lambda job, progress: told.append(progress.percent),
        on_finish=lambda job: told.append(job.result),
    )

    claim = taken(elsewhere)
    claim.set_progress(1, 2)
    claim.finish("sent")
    broker.join(timeout=SOON)

    assert told == [50, "sent"]


FAILING = """
import sys
from thoonk_jobs import Broker
class Torn(Exception):
    def __init__(self, message, page):
        super().__init__(message)
        self.page = page
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    broker.queue("letters").get().fail(Torn("the letter is torn", page=3), final=sys.argv[3] == "final")
"""


@pytest.mark.parametrize("how", ["final", "last attempt"])
def test_b8_a_failure_in_another_process_is_heard_with_its_message_and_its_fields(
    queue, url, namespace, start, heard, how
):
    """A final failure finishes the job; the last attempt that fails stalls it, so `on_stall` hears it."""
    job = queue.publish("letter", **{"on_finish" if how == "final" else "on_stall": heard})

    start(FAILING, url, namespace, how)

    error = heard.news.get(timeout=SOON).error
    assert (error.type, error.message, error.data) == ("Torn", "the letter is torn", {"page": 3})
    with pytest.raises(JobFailed, match="the letter is torn"):
        job.value(timeout=SOON)


def test_b13_publish_returns_the_id_that_the_callback_receives(queue, elsewhere, heard):
    job = queue.publish("letter", on_finish=heard)

    taken(elsewhere).finish()

    assert heard.news.get(timeout=SOON).id == job.id


@pytest.mark.parametrize("reports", [1, 2, 5])
@pytest.mark.parametrize("jobs", [1, 2])
def test_b23_every_report_of_every_job_calls_back(broker, queue, elsewhere, heard, jobs, reports):
    told: dict[str, list[float]] = defaultdict(list)
    for n in range(jobs):
        queue.publish(n, on_progress=lambda job, progress: told[job.id].append(progress.value), on_finish=heard)

    claims = elsewhere.get_many(jobs)
    for n in range(reports):
        for claim in claims:
            claim.set_progress(n)
    for claim in claims:
        claim.finish()
    broker.join(timeout=SOON)

    assert told == {claim.id: list(range(reports)) for claim in claims}


def test_b34_half_a_mebibyte_is_claimed_and_comes_back_unchanged(queue, elsewhere, heard):
    body = {"text": (string.printable * 6000)[: MIB // 2 - 10] + "äß\0"}
    queue.publish(body, on_finish=heard)

    claim = taken(elsewhere)
    claim.finish(claim.data)

    assert claim.data == body
    assert heard.news.get(timeout=SOON).result == body


def test_b45_two_mebibytes_are_refused_on_both_sides_until_the_queue_allows_three(queue, elsewhere, heard):
    """The bound is a setting of the queue, the same for publisher and worker; a refused result costs no claim."""
    large = "x" * (2 * MIB)
    job = queue.publish("letter", on_finish=heard)
    claim = taken(elsewhere)

    with pytest.raises(PayloadError, match="max_payload"):
        queue.publish(large)
    with pytest.raises(PayloadError, match="max_payload"):
        claim.finish(large)
    assert queue.ids() == [job.id]
    assert job.refresh().state is State.CLAIMED

    queue.configure(max_payload=3 * MIB)
    queue.publish(large)
    claim.finish(large)
    assert heard.news.get(timeout=SOON).result == large
    assert taken(elsewhere).data == large


def test_b46_five_publishes_at_once_are_all_stored_and_all_completed(broker, queue, elsewhere, heard):
    together = threading.Barrier(5)

    def publish(n: int) -> Job:
        together.wait(SOON)
        return queue.publish(n, on_finish=heard)

    answers = [in_thread(lambda n=n: publish(n)) for n in range(5)]
    jobs = [answer.get(timeout=SOON) for answer in answers]
    assert sorted(elsewhere.ids()) == sorted(job.id for job in jobs)
    for claim in elsewhere.get_many(5):
        claim.finish()
    broker.join(timeout=SOON)

    assert heard.once_each([job.id for job in jobs])
    assert sorted(job.data for job in heard.jobs) == [0, 1, 2, 3, 4]


CREATOR = """
import sys
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker:
    broker.queue("letters").publish({"to": "Ann"}, on_finish=lambda job: print(job.result, flush=True))
    broker.join()
"""


def test_b49_the_first_example_works_between_two_processes_with_nothing_but_a_queue_name(url, namespace, start):
    creator, worker = start(CREATOR, url, namespace), start(WORKER, url, namespace)

    told, _ = creator.communicate(timeout=SOON)

    assert told == repr({"by": worker.pid, "data": {"to": "Ann"}}) + "\n"
    assert (creator.returncode, worker.wait(SOON)) == (0, 0)


@pytest.mark.parametrize("result", [0, False, "", [], {}, None])
def test_b60_a_falsy_result_is_delivered(queue, elsewhere, heard, result):
    job = queue.publish("letter", on_finish=heard)

    taken(elsewhere).finish(result)

    for value in (heard.news.get(timeout=SOON).result, job.value(timeout=SOON)):
        assert (value, type(value)) == (result, type(result))


def test_b61_a_job_without_options_and_callbacks_is_completed(queue, elsewhere):
    job = queue.publish("letter")

    claim = taken(elsewhere)
    claim.set_progress(1)
    claim.finish("sent")

    assert job.value(timeout=SOON) == "sent"


# Time-outs


def test_b14_without_a_worker_the_publisher_hears_after_the_time_given_that_it_is_over(broker, queue, heard):
    job = queue.publish("letter", expires_in=0.2, on_finish=heard)

    told = heard.news.get(timeout=2)

    assert (told.id, told.outcome, told.result) == (job.id, Outcome.EXPIRED, None)
    assert (told.finished_at - told.published_at).total_seconds() >= 0.2
    broker.join(timeout=SOON)
    assert heard.once_each([job.id])
    assert queue.get(timeout=0) is None


def test_b14_without_a_worker_a_wait_ends_when_the_time_of_the_job_is_over(queue):
    job = queue.publish("letter", expires_in=0.2)

    assert job.wait(timeout=2).outcome is Outcome.EXPIRED
    with pytest.raises(JobFailed):
        job.value(timeout=SOON)


def test_b14_a_result_that_comes_after_the_time_out_is_refused_and_not_heard(broker, queue, elsewhere, clock, heard):
    job = queue.publish("letter", expires_in=10, on_finish=heard)
    late = taken(elsewhere)
    clock.advance(11)
    assert queue.get(timeout=0) is None
    assert heard.news.get(timeout=SOON).outcome is Outcome.EXPIRED
    until(lambda: late.aborted)

    with pytest.raises(StaleClaim):
        late.finish("late")

    broker.join(timeout=SOON)
    assert heard.once_each([job.id])
    assert (job.refresh().outcome, job.refresh().result) == (Outcome.EXPIRED, None)


def test_b14_a_wait_that_times_out_leaves_the_job_to_be_done(queue, elsewhere):
    """`timeout` of a wait is the caller's own; only `expires_in` takes the job away."""
    job = queue.publish("letter")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 1

    taken(elsewhere).finish("sent")

    assert job.value(timeout=SOON) == "sent"


def test_b16_without_a_time_of_its_own_a_job_has_that_of_the_queue(queue, clock, heard):
    queue.configure(expires_in=5)
    job = queue.publish("letter", on_finish=heard)
    assert (job.expires_at - job.published_at).total_seconds() == 5

    clock.advance(4.999)
    taken(queue).cancel()
    clock.advance(0.002)

    assert queue.get(timeout=0) is None
    assert heard.news.get(timeout=SOON).outcome is Outcome.EXPIRED


def test_b16_the_time_of_the_queue_is_over_when_it_is_over_and_not_much_later(queue, heard, capsys):
    queue.configure(expires_in=0.5)
    queue.publish("letter", on_finish=heard)

    told = heard.news.get(timeout=2)

    took = (told.finished_at - told.published_at).total_seconds()
    with capsys.disabled():
        print(f"[B16: {1000 * (took - 0.5):.1f} ms late]", end=" ")
    assert 0.5 <= took < 1


@pytest.mark.parametrize(("usual", "own"), [(60, 5), (5, 60)])
def test_b17_the_time_of_a_job_goes_before_that_of_the_queue(queue, clock, heard, usual, own):
    queue.configure(expires_in=usual)
    jobs = {usual: queue.publish("usual", on_finish=heard), own: queue.publish("own", expires_in=own, on_finish=heard)}

    clock.advance(6)

    assert taken(queue).id == jobs[60].id
    assert heard.news.get(timeout=SOON).id == jobs[5].id
    assert jobs[5].refresh().outcome is Outcome.EXPIRED


# Waiting


def test_b11_a_worker_that_waits_for_jobs_of_another_type_gets_none(broker, queue, elsewhere, client):
    parcels = broker.queue("parcels")
    other = in_thread(lambda: parcels.get(timeout=0.8))
    right = in_thread(elsewhere.get)
    until(lambda: waiting(client, parcels) == waiting(client, elsewhere) == 1)

    job = queue.publish("letter")

    assert right.get(timeout=SOON).id == job.id
    assert other.get(timeout=SOON) is None


def test_b25_each_worker_gets_all_jobs_of_its_own_channel_and_no_other(broker, connect):
    with connect() as workers:
        for n in range(6):
            broker.queue("default" if n % 2 else "worker-7").publish(n)

        got = {name: [claim.data for claim in workers.queue(name).get_many(6)] for name in ("default", "worker-7")}

    assert got == {"default": [1, 3, 5], "worker-7": [0, 2, 4]}


def test_b51_workers_and_publishers_that_wait_send_nothing(broker, queue, elsewhere, client, heard):
    """`get` on three queues, `wait` and `join`, all without a job to do."""
    queue.publish("letter", on_finish=heard)
    held = taken(elsewhere, lease=3600)
    empty = [broker.queue(f"empty{n}") for n in range(3)]
    ends = [in_thread(one.get) for one in empty] + [in_thread(queue.job(held.id).wait), in_thread(broker.join)]
    until(lambda: all(waiting(client, one) == 1 for one in empty) and quiet(client))

    before = count_of_commands(client)
    with pytest.raises(queues.Empty):
        ends[-1].get(timeout=1)
    asked_for_info = 1
    assert count_of_commands(client) - before == asked_for_info

    held.finish("sent")
    for one in empty:
        one.publish("letter")
    assert [end.get(timeout=SOON) for end in ends[:3]] == [one.jobs(State.CLAIMED).jobs[0] for one in empty]
    assert ends[3].get(timeout=SOON).result == "sent"
    assert ends[4].get(timeout=SOON) is None


def test_b52_a_job_that_one_worker_declines_goes_to_another_that_waits(queue, elsewhere, client):
    job = queue.publish("letter")
    claim = taken(elsewhere)
    other = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 1)

    claim.cancel("not mine")

    got = other.get(timeout=SOON)
    assert (got.id, got.cancels, got.failures) == (job.id, 1, 0)


def test_b52_a_job_goes_to_another_worker_when_the_one_that_waits_longest_does_not_come(
    queue, elsewhere, client, url, namespace, start
):
    stuck = start(WORKER, url, namespace)
    until(lambda: waiting(client, queue) == 1)
    os.kill(stuck.pid, signal.SIGSTOP)
    other = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 2)

    job = elsewhere.publish("letter")

    allowed = 3.0  # the 2 s in which who was told may come, and a slow machine
    assert other.get(timeout=allowed).id == job.id


# Claims


@pytest.mark.parametrize("headers", [{"trace": "t1", "hops": [1, None]}, None])
def test_b5_headers_come_with_the_claim_and_none_without(queue, elsewhere, headers):
    queue.publish("letter", headers=headers)

    assert taken(elsewhere).headers == (headers or {})


def test_b9_a_claim_has_exactly_the_data_that_was_published(queue, elsewhere):
    data = {"to": ["Ann", "Bob"], "n": 2**53 + 1, "empty": [{}, [], "", None], "text": "ü\0\u2028", "share": 0.1}
    queue.publish(data)

    assert taken(elsewhere).data == data


@pytest.mark.parametrize("verb", ["finish", "fail", "cancel", "stall"])
@pytest.mark.parametrize("id", ["", None])
def test_b28_b31_a_verb_without_an_id_is_refused(queue, verb, id):
    queue.publish("letter")
    claim = taken(queue)

    with pytest.raises(InvalidArgument):
        getattr(queue, verb)(id, "torn")

    assert claim.refresh().state is State.CLAIMED


@pytest.mark.parametrize("option", ["on_finish", "on_stall", "on_progress"])
def test_b28_what_cannot_be_called_is_no_callback_and_nothing_is_published(queue, option):
    with pytest.raises(InvalidArgument, match=option):
        queue.publish("letter", **{option: "print"})

    assert queue.ids() == []


def test_b29_of_two_processes_that_race_for_a_job_one_gets_it_and_the_other_waits_on(
    broker, queue, client, url, namespace, start, heard
):
    pids = {start(WORKER, url, namespace).pid for _ in range(2)}
    until(lambda: waiting(client, queue) == 2)

    first = queue.publish("first", on_finish=heard)
    winner = heard.news.get(timeout=SOON).result["by"]
    with pytest.raises(queues.Empty):
        heard.news.get(timeout=0.2)
    second = queue.publish("second", on_finish=heard)
    loser = heard.news.get(timeout=SOON).result["by"]

    assert {winner, loser} == pids
    assert heard.once_each([first.id, second.id])
    assert [job.refresh().claims for job in (first, second)] == [1, 1]


@pytest.mark.parametrize("verb", ["finish", "fail", "cancel"])
@pytest.mark.parametrize("state", [State.AVAILABLE, State.CLAIMED])
def test_b30_a_worker_cannot_answer_for_a_job_that_it_did_not_claim(queue, elsewhere, everything, verb, state):
    job = queue.publish("letter")
    if state is State.CLAIMED:
        taken(elsewhere, renew=False)
    before = everything()

    with pytest.raises(TransitionRefused) as refused:
        getattr(queue, verb)(job.id, "sent")

    assert (refused.value.job_id, refused.value.transition, refused.value.state) == (job.id, verb, state)
    assert everything() == before


def test_b31_a_result_that_cannot_be_sent_is_refused_and_the_claim_can_still_be_finished(queue, elsewhere, heard):
    """A missing result is one here, and no status can be wrong: each end of a claim is a verb of its own."""
    queue.publish("letter", on_finish=heard)
    claim = taken(elsewhere)

    with pytest.raises(PayloadError, match="result"):
        claim.finish(object())
    claim.finish()

    told = heard.news.get(timeout=SOON)
    assert (told.outcome, told.result) == (Outcome.SUCCESS, None)


def test_b31_after_its_completion_a_job_may_not_be_answered_again(queue, elsewhere, heard):
    queue.publish("letter", on_finish=heard)
    claim = taken(elsewhere)
    claim.finish("sent")

    for again in (lambda: claim.finish("again"), lambda: claim.fail("torn"), lambda: claim.set_progress(1)):
        with pytest.raises(TransitionRefused):
            again()

    assert heard.news.get(timeout=SOON).result == "sent"
    assert claim.refresh().result == "sent"


# After the end


def test_b12_a_closed_broker_publishes_nothing_and_may_be_closed_again(connect, queue):
    closing = connect()
    there = closing.queue("letters")
    before = there.publish("before")
    closing.close()

    with pytest.raises(BrokerClosed):
        there.publish("after", on_finish=Heard())
    closing.close()

    assert queue.ids() == [before.id]


def test_b44_a_closed_worker_cannot_answer_and_its_job_is_for_another(connect, queue, heard):
    job = queue.publish("letter", on_finish=heard)
    closing = connect()
    claim = taken(closing.queue("letters"))
    closing.close()

    with pytest.raises(BrokerClosed):
        claim.finish("late")
    taken(queue).finish("sent")

    told = heard.news.get(timeout=SOON)
    assert (told.id, told.result, told.failures, told.cancels, told.lost) == (job.id, "sent", 0, 0, 0)


@pytest.mark.parametrize("data", [object(), {1, 2}, {"at": float("nan")}], ids=["object", "set", "nan"])
def test_b44_data_that_cannot_be_written_is_refused_and_nothing_is_published(queue, heard, data):
    with pytest.raises(PayloadError):
        queue.publish(data, on_finish=heard)

    assert queue.ids() == []
