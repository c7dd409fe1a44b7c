"""Handing over work: what is stored, in which order, for how long, and what is refused before anything is sent."""

from __future__ import annotations

import queue as queues
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from helpers import INF, SOON, in_thread, taken

from thoonk_jobs import (
    InvalidArgument,
    Job,
    JobExists,
    JobNotFound,
    Outcome,
    PayloadError,
    Publish,
    PublishFailed,
    Queue,
    State,
    calls,
)

pytestmark = pytest.mark.asyncio_on("valkey")


def drained(queue: Queue) -> list[Any]:
    return [claim.data for claim in queue.get_many(1000, timeout=0)]


# Ids


def test_ids_that_are_made_differ_and_sort_by_time(queue):
    ids = [queue.publish(n).id for n in range(50)]

    assert ids == sorted(set(ids))


@pytest.mark.parametrize("id", ["a", "x" * 200, "\N{PILE OF POO}" * 200, "a\0b", "{x}*?[\r\n", " ", "\\0", "None"])
def test_any_text_of_1_to_200_characters_is_an_id(queue, id):
    queue.publish("letter", id=id)

    assert queue.ids() == [id]
    taken(queue).finish()
    assert queue.job(id).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("data", [{"b": 1, "a": [2, {"d": 1, "c": 2}]}, b"\0\xff", "", b"", None, 0])
def test_publishing_equal_data_under_one_id_again_makes_no_second_job(queue, data):
    first = queue.publish(data, id="l1")
    turned = {"a": [2, {"c": 2, "d": 1}], "b": 1} if isinstance(data, dict) else data

    again = queue.publish(turned, id="l1")

    assert (again, again.data, again.state) == (first, data, State.AVAILABLE)
    assert queue.counts()[State.AVAILABLE] == 1


@pytest.mark.parametrize(
    ("data", "other"), [("a", "b"), (b"a", "a"), ("", None), (0, False), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2})]
)
def test_other_data_under_a_taken_id_is_refused_and_changes_nothing(queue, everything, data, other):
    queue.publish(data, id="l1")
    before = everything()

    with pytest.raises(JobExists) as refused:
        queue.publish(other, id="l1")

    assert (refused.value.job_id, refused.value.transition, refused.value.state) == ("l1", "publish", State.AVAILABLE)
    assert everything() == before


def end_by(verb: str, queue: Queue) -> None:
    if verb == "finish":
        taken(queue).finish("sent")
    elif verb == "fail":
        taken(queue).fail("torn", final=True)
    elif verb == "stall":
        taken(queue).stall()
    else:
        queue.retract("l1")


@pytest.mark.parametrize("verb", ["finish", "fail", "stall", "retract"])
def test_an_id_stays_taken_whatever_became_of_its_job(queue, everything, verb):
    queue.publish("letter", id="l1")
    end_by(verb, queue)
    before, became = everything(), queue.job("l1")

    again = queue.publish("letter", id="l1")

    assert (again.state, again.outcome) == (became.state, became.outcome)
    with pytest.raises(JobExists):
        queue.publish("another", id="l1")
    assert everything() == before


def test_publishing_a_finished_job_again_answers_its_result(queue):
    queue.publish("letter", id="l1")
    taken(queue).finish("sent")

    again = queue.publish("letter", id="l1")

    assert again.value(timeout=SOON) == "sent"
    assert again.wait().result == "sent"


def test_one_id_twice_in_one_call_is_one_job(queue):
    jobs = queue.publish_many([Publish("letter", id="l1"), Publish("letter", id="l1")])

    assert [job.id for job in jobs] == ["l1", "l1"]
    assert drained(queue) == ["letter"]


# Order


def test_words_and_numbers_order_jobs_the_higher_first(queue):
    ranks = ["low", -10.5, "high", 0.1, "critical", 1e300, "normal", -1e300, 10.000000000000002, "front", False]
    for rank in ranks:
        queue.publish(str(rank), priority=rank)

    assert drained(queue) == [
        "front", "1e+300", "critical", "10.000000000000002", "high", "0.1", "normal", "False", "low", "-10.5",
        "-1e+300",
    ]  # fmt: skip


def test_the_front_is_ahead_of_all_and_the_latest_of_it_first(queue):
    queue.publish("usual", priority=1e308)
    for data, front in [("first", "front"), ("second", True), ("third", "front")]:
        queue.publish(data, priority=front)

    assert drained(queue) == ["third", "second", "first", "usual"]


def test_three_hundred_jobs_of_few_priorities_keep_their_order_within_each(queue):
    chance = random.Random(7)
    jobs = [(chance.choice([-1, 0, 3]), n) for n in range(300)]
    ids = [f"{chance.random()}" for _ in jobs]
    for at in range(0, 300, 3):
        queue.publish_many(
            Publish([rank, n], id=id, priority=rank)
            for (rank, n), id in zip(jobs[at : at + 3], ids[at : at + 3], strict=True)
        )

    assert drained(queue) == [[rank, n] for rank, n in sorted(jobs, key=lambda job: -job[0])]


@pytest.mark.parametrize("rank", [3, "front"])
def test_a_cancelled_job_goes_to_the_back_of_its_class(queue, rank):
    queue.publish("lower", priority=2)
    for data in ("b", "a") if rank == "front" else ("a", "b"):
        queue.publish(data, priority=rank)

    taken(queue).cancel()

    assert drained(queue) == ["b", "a", "lower"]


def test_the_usual_priority_of_the_queue_holds_for_jobs_without_one(queue):
    queue.configure(priority="high")
    queue.publish("own", priority=5)
    queue.publish("usual")

    assert drained(queue) == ["usual", "own"]


# Times


@pytest.mark.parametrize("delay", [5, 5.0, timedelta(seconds=5)])
def test_a_delayed_job_is_scheduled_and_not_handed_out_before_its_time(queue, clock, delay):
    job = queue.publish("letter", delay=delay)
    assert (job.state, job.due_at.timestamp()) == (State.SCHEDULED, (clock.now + 5000) / 1000)

    clock.advance(4.999)
    assert queue.get(timeout=0) is None

    clock.advance(0.001)
    assert taken(queue).id == job.id


def test_a_job_with_a_date_waits_for_it(queue, clock):
    when = datetime.fromtimestamp(clock.now / 1000 + 3600, UTC)
    job = queue.publish("letter", run_at=when)
    assert abs(job.due_at - when) < timedelta(milliseconds=2)

    clock.advance(3599)
    assert queue.get(timeout=0) is None
    clock.advance(2)
    assert taken(queue).due_at is None


@pytest.mark.parametrize("option", [{"delay": 0}, {"run_at": datetime(2001, 1, 1, tzinfo=UTC)}])
def test_a_time_that_is_over_means_now(queue, option):
    assert queue.publish("letter", **option).state is State.AVAILABLE


def test_a_waiting_get_is_woken_when_a_job_falls_due(queue):
    got = in_thread(lambda: queue.get(timeout=SOON))
    job = queue.publish("letter", delay=0.3)
    with pytest.raises(queues.Empty):
        got.get(timeout=0.2)

    assert got.get(timeout=SOON).id == job.id


def test_a_delayed_job_takes_its_place_in_line_when_its_time_comes(queue, clock):
    queue.publish("delayed", delay=5)
    queue.publish("early")
    clock.advance(6)
    queue.publish("high", priority=1)

    assert drained(queue) == ["high", "early", "delayed"]


@pytest.mark.parametrize("delay", [1e10, 1e15, 1e300, INF])
def test_a_delay_beyond_the_calendar_neither_breaks_its_snapshot_nor_a_waiting_get(queue, client, delay):
    try:
        job = queue.publish("never", delay=delay)
    except InvalidArgument:
        return
    assert job.due_at is None or job.due_at.year > 2100
    got = in_thread(queue.get)
    with pytest.raises(queues.Empty):
        got.get(timeout=0.2)
    queue.publish("letter")
    assert got.get(timeout=SOON).data == "letter"


@pytest.mark.parametrize("state", [State.AVAILABLE, State.SCHEDULED, State.CLAIMED])
def test_a_job_that_is_not_done_in_time_finishes_as_expired(queue, clock, state):
    job = queue.publish("letter", expires_in=10, delay=20 if state is State.SCHEDULED else None)
    assert job.expires_at.timestamp() == (clock.now + 10_000) / 1000
    if state is State.CLAIMED:
        taken(queue)
    clock.advance(9.9)
    queue.get(timeout=0) if state is State.SCHEDULED else None
    assert queue.job(job.id).state is state

    clock.advance(0.2)
    assert queue.get(timeout=0) is None

    assert queue.job(job.id).outcome is Outcome.EXPIRED


@pytest.mark.parametrize("end", ["finish", "stall"])
def test_a_job_that_is_done_or_stalled_in_time_does_not_expire(queue, clock, end):
    job = queue.publish("letter", expires_in=10)
    getattr(taken(queue), end)()
    before = queue.job(job.id).state

    clock.advance(11)
    queue.get(timeout=0)

    assert (queue.job(job.id).state, queue.job(job.id).outcome is Outcome.EXPIRED) == (before, False)


# Refusals that send nothing

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"to": [1, {2}]}, 'data["to"][1]'),
        ([0.5, float("nan")], "data[1]"),
        ({"a": INF}, 'data["a"]'),
        ({"a": {1: 2}}, 'data["a"]'),
        (["\ud800"], "data[0]"),
        ((1, 2), "data"),
        ([2**64], "data[0]"),
        (-(2**63) - 1, "data"),
        (CIRCLE, "data[0]"),
        ([b"x"], "data[0]"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, 'data["at"]'),
        (object(), "data"),
        ("x" * 1_048_576, "data"),
        (b"x" * 1_048_576, "data"),
    ],
    ids=lambda value: None if isinstance(value, str) and value[:4] == "data" else type(value).__name__,
)  # fmt: skip
def test_data_that_cannot_be_sent_is_refused_with_its_place_and_nothing_is_sent(queue, everything, data, place):
    with pytest.raises(PayloadError) as refused:
        queue.publish(data)

    assert place in str(refused.value)
    assert everything() == {}


@pytest.mark.parametrize(
    "option",
    [
        {"id": ""}, {"id": "x" * 201}, {"id": 5}, {"id": b"x"}, {"id": "\ud800"},
        {"priority": "urgent"}, {"priority": float("nan")}, {"priority": INF}, {"priority": [1]}, {"priority": 10**400},
        {"delay": -1}, {"delay": "5"}, {"delay": float("nan")}, {"delay": True}, {"delay": timedelta(seconds=-1)},
        {"run_at": datetime(2030, 1, 1)}, {"run_at": "tomorrow"}, {"run_at": INF},
        {"delay": 1, "run_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"expires_in": 0}, {"expires_in": -1}, {"keep": -1}, {"keep": "1 h"},
        {"max_attempts": 0}, {"max_attempts": 1.5}, {"max_attempts": True}, {"max_attempts": 65_536},
        {"backoff": -1}, {"backoff": [1, -1]}, {"backoff": "1"}, {"backoff": INF},
        {"key": ""}, {"key": 5}, {"key": "x" * 201}, {"headers": "x"},
        {"on_finish": "print"}, {"on_stall": 1}, {"on_progress": []},
    ],
    ids=str,
)  # fmt: skip
def test_an_argument_out_of_range_is_refused_and_nothing_is_sent(queue, everything, option):
    with pytest.raises(InvalidArgument, match=next(iter(option))):
        queue.publish("letter", **option)

    assert everything() == {}


@pytest.mark.parametrize(
    "option",
    [{"keep": -1}, {"max_lost": 0}, {"max_payload": -1}, {"priority": "urgent"}, {"expires_in": 0}, {"keep_last": 0.5},
     {"backoff": [-1]}, {"backoff": INF}, {"max_attempts": 65_536, "keep": 5}],
    ids=str,
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_and_nothing_is_sent(queue, everything, option):
    with pytest.raises(InvalidArgument):
        queue.configure(**option)

    assert everything() == {}


@pytest.mark.parametrize("name", ["", "x" * 201, 5, None, "\ud800"])
def test_what_is_no_name_of_a_queue_is_refused(broker, name):
    with pytest.raises(InvalidArgument):
        broker.queue(name)


# Many at once


def test_publish_many_answers_the_jobs_in_order_each_with_its_own_options_before_the_common_ones(queue):
    jobs = queue.publish_many(["a", Publish("b", priority=5, id="b"), Publish("c", max_attempts=4)], priority=1, keep=9)

    assert [(job.data, job.priority) for job in jobs] == [("a", 1), ("b", 5), ("c", 1)]
    assert drained(queue) == ["b", "a", "c"]


def test_publish_many_takes_what_a_generator_yields_and_more_than_one_call_carries(queue):
    jobs = queue.publish_many(n for n in range(1200))

    assert [job.data for job in jobs] == list(range(1200))
    assert len(queue.ids()) == 1200
    assert queue.publish_many([]) == []


def test_when_one_of_many_cannot_be_sent_none_is(queue, everything):
    with pytest.raises(PayloadError):
        queue.publish_many([*range(600), {1, 2}])

    assert everything() == {}


def test_refusals_name_their_positions_and_the_rest_is_published(queue):
    queue.publish("taken", id="l1")

    with pytest.raises(PublishFailed) as failed:
        queue.publish_many([*range(600), Publish("other", id="l1"), "last"])

    assert list(failed.value.errors) == [600]
    assert isinstance(failed.value.errors[600], JobExists)
    assert failed.value.jobs[600] is None
    assert [job.data for job in failed.value.jobs if job] == [*range(600), "last"]
    assert queue.counts()[State.AVAILABLE] == 602


def test_a_limit_on_payloads_that_was_lowered_elsewhere_refuses_just_what_is_too_large(queue, elsewhere):
    queue.publish("x" * 200)
    elsewhere.configure(max_payload=100)

    with pytest.raises((PublishFailed, PayloadError)) as failed:
        queue.publish_many(["small", "x" * 200])

    assert isinstance(failed.value.errors[1], PayloadError)
    assert drained(queue) == ["x" * 200, "small"]


def test_a_limit_on_payloads_holds_at_once_in_every_process(queue, elsewhere):
    elsewhere.configure(max_payload=10)
    with pytest.raises(PayloadError, match="10"):
        queue.publish("x" * 10)
    queue.publish("x" * 7)

    elsewhere.configure(max_payload=3_000_000)
    queue.publish("x" * 2_000_000)

    elsewhere.configure(max_payload=10)
    with pytest.raises(PayloadError):
        queue.publish("x" * 2_000_000)
    assert queue.counts()[State.AVAILABLE] == 2


# How long things stay


@pytest.mark.parametrize("of_queue", [False, True])
def test_after_its_keep_a_finished_job_is_gone_but_its_record_answers_for_60_seconds(queue, clock, client, of_queue):
    queue.configure(keep=5 if of_queue else 50)
    job = queue.publish("letter", id="l1", keep=None if of_queue else 5)
    claim = taken(queue)
    claim.finish("sent")
    clock.advance(4.9)
    assert queue.job(job.id).result == "sent"

    clock.advance(0.2)
    with pytest.raises(JobNotFound):
        queue.job(job.id)
    assert queue.jobs().jobs == []
    queue.session.run(calls.probe(queue.keys, "nonce"))
    assert client.exists(f"{queue.keys.base}:payload", f"{queue.keys.base}:result") == 0

    clock.advance(59)
    queue.session.run(calls.probe(queue.keys, "nonce"))
    repeated = calls.finish(queue.keys, job.id, claim.token, b"")
    assert queue.session.run(repeated) == [None]
    assert queue.publish("letter", id="l1").outcome is Outcome.SUCCESS
    assert queue.counts() == dict.fromkeys(State, 0)


@pytest.mark.parametrize("keep", [0, 5])
def test_once_its_record_is_forgotten_an_id_can_be_published_anew(queue, clock, keep):
    queue.publish("letter", id="l1", keep=keep)
    taken(queue).finish()
    clock.advance(keep + 1)
    queue.get(timeout=0)
    clock.advance(70)

    queue.publish("another", id="l1")

    assert drained(queue) == ["another"]


@pytest.mark.parametrize("gathered", [0, 1])
def test_a_publish_that_is_acknowledged_is_stored_or_answered_by_a_record_that_stays(queue, clock, gathered):
    """Also in the script call that sweeps the old record away."""
    queue.publish_many(Publish("old", id=f"l{n}", keep=0) for n in range(1 + gathered))
    for claim in queue.get_many(10):
        claim.finish()
    clock.advance(70)

    job = queue.publish("old", id="l0")

    assert job.state in (State.AVAILABLE, State.FINISHED)
    assert queue.counts()[State.AVAILABLE] == (job.state is State.AVAILABLE)
    assert queue.publish("old", id="l0").state is job.state


@pytest.mark.parametrize("verb", ["publish", "finish"])
def test_old_records_are_swept_along_with_a_publish_and_with_a_finish(queue, clock, client, verb):
    queue.publish_many(range(5), keep=0)
    *ended, held = queue.get_many(5, lease=1000, renew=False)
    for claim in ended:
        claim.finish()
    clock.advance(70)

    held.finish() if verb == "finish" else queue.publish("letter")

    assert client.hlen(f"{queue.keys.base}:record") == (1 if verb == "finish" else 2)


def test_keep_0_drops_the_job_at_its_end(queue):
    job = queue.publish("letter", keep=0)

    taken(queue).finish("sent")

    with pytest.raises(JobNotFound):
        queue.job(job.id)
    assert queue.counts()[State.FINISHED] == 0


def test_keep_inf_keeps_for_ever(queue, clock):
    job = queue.publish("letter", keep=INF)
    taken(queue).finish("sent")

    clock.advance(100 * 365 * 86400)
    queue.get(timeout=0)

    assert queue.job(job.id).result == "sent"
    assert queue.counts()[State.FINISHED] == 1


def test_keep_last_bounds_how_many_finished_jobs_are_readable(queue):
    queue.configure(keep_last=3)
    queue.publish_many(range(8))
    for claim in queue.get_many(8):
        claim.finish()

    assert queue.counts()[State.FINISHED] == 3
    assert [job.data for job in queue.jobs(State.FINISHED).jobs] == [5, 6, 7]


def test_keep_stalled_retracts_the_oldest_beyond_it(queue, clock):
    queue.configure(keep_stalled=2)
    for n in range(4):
        queue.publish(n, id=str(n))
        taken(queue).stall()
        clock.advance(1)

    assert [job.data for job in queue.jobs(State.STALLED).jobs] == [2, 3]
    assert queue.job("0").outcome is Outcome.RETRACTED
    assert "keep_stalled" in queue.job("0").reason


def test_a_publish_answers_a_snapshot_with_what_was_given(queue, clock):
    job = queue.publish({"n": 1}, priority=2, key="a\0b\\", headers={"trace": "t1"}, expires_in=60)

    for seen in (job, queue.job(job.id), taken(queue)):
        assert (seen.data, seen.priority, seen.key, seen.headers) == ({"n": 1}, 2, "a\0b\\", {"trace": "t1"})
        assert seen.published_at.timestamp() == clock.now / 1000
    assert isinstance(job, Job)


def test_a_backoff_is_stored_to_the_millisecond(queue):
    queue.configure(backoff=[0.001, 1234567, 86400.125])

    assert queue.settings()["backoff"] == [0.001, 1234567, 86400.125]
