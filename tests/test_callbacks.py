"""What a publisher hears: each end once, each report in order, whatever is lost on the way."""

from __future__ import annotations

import logging
import queue as queues
import threading
import time
from typing import Any

import pytest
from helpers import SOON, Heard, in_thread, taken, until

from thoonk_jobs import Broker, Job, JobExists, JobFailed, JobNotFound, Outcome, Queue, State

pytestmark = pytest.mark.asyncio_on("valkey")


def settled(broker: Broker) -> None:
    """Returns when every callback that is due by now was called: they run one at a time, in order."""
    mark = threading.Event()
    queue = broker.queue("mark")
    queue.publish("mark", on_finish=lambda job: mark.set())
    queue.get().finish()
    assert mark.wait(SOON)


# One call for every end


def end(how: str, queue: Queue, clock: Any) -> None:
    if how == "expired":
        clock.advance(11)
        assert queue.get(timeout=0) is None
    elif how == "retracted":
        queue.retract("l1")
    elif how == "error":
        taken(queue).fail("torn", final=True)
    else:
        taken(queue).finish("sent")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_on_finish_is_called_once_for_every_outcome(broker, queue, elsewhere, clock, heard, outcome):
    elsewhere._broker._clock = clock
    queue.publish("letter", id="l1", expires_in=10, on_finish=heard)

    end(outcome, elsewhere, clock)
    broker.join(timeout=SOON)
    settled(broker)

    [job] = heard.jobs
    assert (job.id, job.queue, job.data, job.state, job.outcome) == ("l1", "letters", "letter", State.FINISHED, outcome)
    assert job.result == ("sent" if outcome == "success" else None)
    assert (job.error.message if job.error else None) == ("torn" if outcome == "error" else None)


@pytest.mark.parametrize("result", [0, False, "", [], {}, b"", None, 0.0, "\0", b"\xff\0", "ü"])
def test_a_result_is_delivered_as_it_was_given(broker, queue, heard, result):
    job = queue.publish("letter", on_finish=heard)

    taken(queue).finish(result)
    broker.join(timeout=SOON)

    for value in (heard.jobs[0].result, job.value(timeout=SOON)):
        assert (value, type(value)) == (result, type(result))


@pytest.mark.parametrize("keep", [None, 0])
def test_publishing_an_id_that_is_finished_already_calls_back_once(broker, queue, elsewhere, heard, keep):
    elsewhere.publish("letter", id="l1", keep=keep)
    taken(elsewhere).finish("sent")

    queue.publish("letter", id="l1", on_finish=heard)
    broker.join(timeout=SOON)
    settled(broker)

    assert [(job.id, job.outcome, job.data) for job in heard.jobs] == [("l1", Outcome.SUCCESS, "letter")]
    assert heard.jobs[0].result == (None if keep == 0 else "sent")


def test_each_publish_of_one_id_has_its_own_call_in_every_process(broker, queue, elsewhere):
    hears = [Heard(), Heard(), Heard()]
    for hear, there in zip(hears, (queue, queue, elsewhere), strict=True):
        there.publish("letter", id="l1", on_finish=hear)

    taken(queue).finish()
    broker.join(timeout=SOON)
    elsewhere._broker.join(timeout=SOON)

    assert [len(hear.jobs) for hear in hears] == [1, 1, 1]


def test_the_callback_of_a_publish_that_was_refused_is_not_called(broker, queue, heard):
    queue.publish("letter", id="l1")
    with pytest.raises(JobExists):
        queue.publish("another", id="l1", on_finish=heard)

    taken(queue).finish()
    broker.join(timeout=SOON)
    settled(broker)

    assert heard.jobs == []


def test_a_rerun_calls_no_plain_callback(broker, queue, heard):
    queue.publish("letter", id="l1", on_finish=heard)
    taken(queue).finish("first")
    broker.join(timeout=SOON)

    queue.rerun("l1")
    taken(queue).finish("second")
    settled(broker)

    assert [job.result for job in heard.jobs] == ["first"]


def test_a_wait_that_timed_out_does_not_silence_the_callback_of_its_process(broker, queue, elsewhere, heard):
    job = queue.publish("letter", on_finish=heard)
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.05)

    taken(elsewhere).finish("sent")

    assert heard.news.get(timeout=SOON / 4).result == "sent"


def test_a_wait_that_timed_out_does_not_silence_another_wait_of_its_process(queue, elsewhere, client):
    job = queue.publish("letter")
    value = in_thread(job.value)
    until(
        lambda: job.refresh() and client.hget(f"{queue.keys.base}:record", job.id).count(queue.session.process.encode())
    )
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.05)

    taken(elsewhere).finish("sent")

    assert value.get(timeout=SOON / 4) == "sent"


@pytest.mark.parametrize("keep", [0, 3600])
def test_a_callback_and_a_wait_of_one_process_both_get_the_result(broker, queue, elsewhere, heard, keep):
    busy, go = threading.Event(), threading.Event()
    queue.publish("first", on_finish=lambda job: (busy.set(), go.wait(SOON)))
    job = queue.publish("letter", keep=keep, on_finish=heard)
    value = in_thread(job.value)
    taken(elsewhere).finish()
    assert busy.wait(SOON)

    taken(elsewhere).finish("sent")
    assert value.get(timeout=SOON) == "sent"
    go.set()
    broker.join(timeout=SOON)

    assert [(job.state, job.result) for job in heard.jobs] == [(State.FINISHED, "sent")]


# Callbacks that do things


def test_a_callback_may_wait_for_another_job(broker, queue, elsewhere):
    other = queue.publish("other")
    values: queues.SimpleQueue[Any] = queues.SimpleQueue()
    queue.publish("letter", on_finish=lambda job: values.put(other.value(timeout=SOON)), priority=1)
    taken(elsewhere).finish()

    taken(elsewhere).finish("sent")

    assert values.get(timeout=SOON) == "sent"


def test_a_callback_may_publish_with_a_callback(broker, queue, heard):
    queue.publish("first", on_finish=lambda job: queue.publish("second", on_finish=heard))
    taken(queue).finish()

    queue.get(timeout=SOON).finish("sent")

    assert heard.news.get(timeout=SOON).result == "sent"


def test_a_callback_may_close_the_broker(connect):
    closed = threading.Event()
    closing = connect()
    queue = closing.queue("letters")
    queue.publish("letter", on_finish=lambda job: (closing.close(), closed.set()))

    taken(queue).finish()

    assert closed.wait(SOON)


def raises_in_a_callback(error: BaseException, queue: Queue, heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    def broken(job: Job) -> None:
        raise error

    queue.publish("first", on_finish=broken)
    queue.publish("second", on_finish=heard)

    with caplog.at_level(logging.ERROR, logger="thoonk_jobs"):
        for claim in queue.get_many(2):
            claim.finish()
        heard.news.get(timeout=SOON / 4)

    [record] = caplog.records
    assert "callback_failed" in record.getMessage()
    assert repr(error).split("(")[0] in record.getMessage()


def test_a_callback_that_raises_is_logged_and_the_others_go_on(queue, heard, caplog):
    raises_in_a_callback(ValueError("torn"), queue, heard, caplog)


@pytest.mark.blocking_only  # in a task it ends the loop, as asyncio has it
def test_a_callback_that_would_end_its_thread_is_logged_and_the_others_go_on(queue, heard, caplog):
    raises_in_a_callback(SystemExit(1), queue, heard, caplog)


# Stalls and reports


def test_each_stall_is_told_once_and_the_finish_after_it(broker, queue, heard):
    stalls = Heard()
    job = queue.publish("letter", on_stall=stalls, on_finish=heard)
    for reason in ("first", "second"):
        taken(queue).stall(reason)
        assert stalls.news.get(timeout=SOON).reason == reason
        queue.retry(job.id)

    taken(queue).finish("sent")
    broker.join(timeout=SOON)

    assert (len(stalls.jobs), [job.result for job in heard.jobs]) == (2, ["sent"])


def test_a_last_failure_is_told_as_a_stall_with_its_error(queue):
    stalls = Heard()
    queue.publish("letter", on_stall=stalls)

    taken(queue).fail("torn")

    assert stalls.news.get(timeout=SOON).error.message == "torn"


def test_join_tells_no_stall_again(broker, queue, heard):
    stalls = Heard()
    queue.publish("letter", on_stall=stalls, on_finish=heard)
    taken(queue).stall()
    stalls.news.get(timeout=SOON)

    for _ in range(3):
        broker.join(timeout=SOON)
    settled(broker)

    assert (len(stalls.jobs), heard.jobs) == (1, [])


def test_a_stall_that_is_seen_before_its_notice_is_told_once(broker, queue):
    stalls, busy, go = Heard(), threading.Event(), threading.Event()
    queue.publish("first", on_finish=lambda job: (busy.set(), go.wait(SOON)))
    queue.publish("letter", on_stall=stalls, on_progress=lambda job, progress: None)
    first, claim = queue.get_many(2)
    first.finish()
    assert busy.wait(SOON)
    claim.set_progress(1)

    claim.stall("no address")
    go.set()
    settled(broker)

    assert len(stalls.jobs) == 1


def test_every_report_is_told_in_order_and_before_the_finish(broker, queue, elsewhere):
    told: list[Any] = []
    job = queue.publish(
        "letter",
        on_progress=lambda job, progress: told.append((progress.value, progress.percent, progress.message)),
        on_finish=lambda job: told.append(job.result),
    )
    claim = taken(elsewhere)

    for n in range(100):
        claim.set_progress(n, 50, f"step {n}")
    claim.finish("sent")
    broker.join(timeout=SOON)

    assert told == [*((n, min(2.0 * n, 100), f"step {n}") for n in range(100)), "sent"]
    assert job.refresh().progress.value == 99


# Waiting


def test_wait_answers_a_finished_or_a_stalled_job(queue, elsewhere):
    job = queue.publish("letter")
    answers = [in_thread(lambda: job.wait(timeout=SOON).state), in_thread(lambda: job.value(timeout=SOON))]

    taken(elsewhere).stall("no address")

    assert answers[0].get(timeout=SOON) is State.STALLED
    failed = answers[1].get(timeout=SOON)
    assert isinstance(failed, JobFailed)
    assert failed.job.state is State.STALLED
    assert "no address" in str(failed)


@pytest.mark.parametrize(("verb", "args"), [("fail", ("torn",)), ("retract", ())])
def test_value_raises_for_an_end_without_a_result(queue, verb, args):
    job = queue.publish("letter")
    claim = taken(queue)
    claim.fail(*args, final=True) if verb == "fail" else queue.retract(job.id)

    with pytest.raises(JobFailed) as failed:
        job.value(timeout=SOON)

    assert failed.value.job.outcome is (Outcome.ERROR if verb == "fail" else Outcome.RETRACTED)


def test_wait_raises_when_the_time_is_over(queue):
    job = queue.publish("letter")
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        job.wait(timeout=0.2)

    assert 0.2 <= time.monotonic() - began < 2
    with pytest.raises(TimeoutError):
        job.value(timeout=0)


def test_wait_raises_when_the_queue_is_deleted_meanwhile(queue, elsewhere, client):
    job = queue.publish("letter")
    answer = in_thread(job.wait)
    until(lambda: client.hget(f"{queue.keys.base}:record", job.id).count(queue.session.process.encode()))

    elsewhere.delete()

    error_or_job = answer.get(timeout=SOON)
    assert isinstance(error_or_job, JobNotFound) or error_or_job.outcome is Outcome.RETRACTED
    with pytest.raises(JobNotFound):
        job.wait(timeout=SOON)


def test_join_waits_for_every_on_finish_to_have_been_called(broker, queue, elsewhere, heard):
    def slow(job: Job) -> None:
        elsewhere.counts()
        heard(job)

    jobs = [queue.publish(n, on_finish=slow) for n in range(20)]
    with pytest.raises(TimeoutError):
        broker.join(timeout=0.1)
    for claim in elsewhere.get_many(20):
        claim.finish()

    broker.join(timeout=SOON)

    assert heard.once_each([job.id for job in jobs])


@pytest.mark.parametrize("wait", [SOON, None])
def test_close_with_a_wait_hears_first(connect, queue, heard, wait):
    closing = connect()
    closing.queue("letters").publish("letter", on_finish=heard)
    closed = in_thread(lambda: closing.close(wait=wait))
    with pytest.raises(queues.Empty):
        closed.get(timeout=0.1)

    taken(queue).finish("sent")

    assert closed.get(timeout=SOON) is None
    assert [job.result for job in heard.jobs] == ["sent"]


# A queue that is just being left


@pytest.mark.blocking_only
def test_a_queue_that_is_left_just_when_a_callback_is_registered_is_heard_of(queue, elsewhere, heard, monkeypatch):
    session, keys = queue.session, queue.keys
    session.subscribe(keys, SOON)
    expect = session.callbacks.expect

    def just_left(*args):
        session.engine.post(session.engine.attention(keys)._look_after)
        until(lambda: session.engine.attention(keys) is None)
        return expect(*args)

    monkeypatch.setattr(session.callbacks, "expect", just_left)
    queue.publish("letter", on_finish=heard)
    taken(elsewhere).finish("sent")

    assert heard.news.get(timeout=SOON / 4).result == "sent"


@pytest.mark.blocking_only
def test_who_comes_just_when_a_queue_is_left_hears_of_it(queue, elsewhere, monkeypatch):
    session, keys = queue.session, queue.keys
    job = queue.publish("letter")
    session.subscribe(keys, SOON)
    attends, ended = session.attends, []

    def too_early(keys):
        if ended:
            return attends(keys)
        ended.append(in_thread(lambda: queue.job(job.id).wait(timeout=SOON)))
        until(lambda: session.bells.hang_for(keys))
        time.sleep(0.1)  # it goes on to believe that this queue is attended to
        return False

    monkeypatch.setattr(session, "attends", too_early)
    session.engine.post(session.engine.attention(keys)._look_after)
    until(lambda: ended)
    time.sleep(0.3)
    taken(elsewhere).finish("sent")

    assert ended[0].get(timeout=SOON / 4).result == "sent"
