"""Unique names: one live job has each; what becomes of a second publish, when the name is free again, debouncing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers import SOON, Heard, in_thread, taken, until, waiting

from thoonk_jobs import (
    Claim,
    Job,
    JobNotFound,
    NotUnique,
    Outcome,
    Publish,
    PublishFailed,
    Queue,
    State,
    Unique,
)

pytestmark = pytest.mark.asyncio_on("valkey")

RETURN = Unique("name", on_conflict="return")
REPLACE = Unique("name", on_conflict="replace")
LATEST = Unique("name", on_conflict="replace", until="claimed")


def startable(queue: Queue) -> list[Any]:
    return [claim.data for claim in queue.get_many(1000, timeout=0)]


def publish_all_at_once(queues: list[Queue], unique: str | Unique) -> list[Job | NotUnique]:
    """What each publish answered or raised."""
    together = threading.Barrier(len(queues))

    def publish(n: int) -> Job:
        together.wait(SOON)
        return queues[n].publish(n, unique=unique)

    answers = [in_thread(lambda n=n: publish(n)) for n in range(len(queues))]
    return [answer.get(timeout=SOON) for answer in answers]


# The second publish


def test_a_second_publish_with_the_name_of_a_live_job_is_refused_and_names_that_job(queue, elsewhere, everything):
    holder = queue.publish("first", unique="name")
    before = everything()

    with pytest.raises(NotUnique) as refused:
        elsewhere.publish("second", unique="name")

    assert (refused.value.job_id, refused.value.transition, refused.value.state) == (
        holder.id, "publish", State.AVAILABLE,
    )  # fmt: skip
    assert everything() == before


def test_other_names_jobs_without_one_and_other_queues_are_not_in_the_way(broker, queue):
    broker.queue("parcels").publish("parcel", unique="name")
    for data, unique in (("first", "name"), ("second", "other name"), ("third", None), ("fourth", None)):
        queue.publish(data, unique=unique)

    assert startable(queue) == ["first", "second", "third", "fourth"]


def test_with_return_the_holder_is_the_answer_and_stays_as_it_is(queue, elsewhere):
    holder = queue.publish("first", unique="name", priority=3)

    answer = elsewhere.publish("second", id="s2", unique=RETURN, priority=9)

    assert (answer.id, answer.data, answer.priority) == (holder.id, "first", 3)
    assert startable(queue) == ["first"]
    with pytest.raises(JobNotFound):
        queue.job("s2")


def test_what_return_answers_can_be_waited_for(queue, elsewhere):
    queue.publish("first", unique="name")
    answer = elsewhere.publish("second", unique=RETURN)
    value = in_thread(lambda: answer.value(timeout=SOON))

    taken(queue).finish("sent")

    assert value.get(timeout=SOON) == "sent"


def test_with_replace_the_holder_gets_the_newer_data_and_headers_and_keeps_its_other_options(queue, elsewhere):
    holder = queue.publish("old", unique="name", priority=3, max_attempts=2, headers={"trace": "t1"})

    answer = elsewhere.publish("new", id="s2", unique=REPLACE, priority=9, headers={"trace": "t2"})

    assert (answer.id, answer.data) == (holder.id, "new")
    claim = taken(queue)
    assert (claim.id, claim.data, claim.headers, claim.priority) == (holder.id, "new", {"trace": "t2"}, 3)
    claim.fail("torn")
    assert startable(queue) == ["new"]


@pytest.mark.parametrize("state", [State.CLAIMED, State.STALLED])
def test_a_job_that_is_claimed_or_stalled_is_not_replaced(queue, everything, state):
    holder = queue.publish("old", unique="name")
    claim = taken(queue, renew=False)
    if state is State.STALLED:
        claim.stall()
    before = everything()

    with pytest.raises(NotUnique) as refused:
        queue.publish("new", unique=REPLACE)

    assert (refused.value.job_id, refused.value.state) == (holder.id, state)
    assert everything() == before
    assert queue.publish("new", unique=RETURN).id == holder.id


def test_a_job_that_waits_for_a_slot_is_replaced_and_goes_on_waiting(queue):
    queue.limit("ann", running=1)
    queue.publish("first", key="ann")
    queue.publish("old", key="ann", unique="name")

    queue.publish("new", key="ann", unique=REPLACE)

    claim = taken(queue)
    assert queue.get(timeout=0) is None
    claim.finish()
    assert startable(queue) == ["new"]


@pytest.mark.parametrize("on_conflict", ["raise", "return", "replace"])
def test_of_publishes_at_once_in_several_processes_one_makes_the_job(connect, queue, on_conflict):
    with connect() as one, connect() as other:
        places = [one.queue("letters"), other.queue("letters")] * 3

        answers = publish_all_at_once(places, Unique("name", on_conflict=on_conflict))

    [job] = queue.jobs().jobs
    refused = [answer for answer in answers if isinstance(answer, NotUnique)]
    assert {answer.job_id if isinstance(answer, NotUnique) else answer.id for answer in answers} == {job.id}
    assert len(refused) == (5 if on_conflict == "raise" else 0)


def test_of_many_in_one_call_the_refused_ones_are_told_by_position_and_the_rest_is_published(queue):
    with pytest.raises(PublishFailed) as failed:
        queue.publish_many(Publish(n, unique="even" if n % 2 == 0 else None) for n in range(5))

    assert [job and job.data for job in failed.value.jobs] == [0, 1, None, 3, None]
    holder = failed.value.jobs[0].id
    assert {at: (type(error), error.job_id) for at, error in failed.value.errors.items()} == {
        2: (NotUnique, holder),
        4: (NotUnique, holder),
    }
    assert startable(queue) == [0, 1, 3]


def test_of_many_in_one_call_return_answers_the_first_and_replace_keeps_the_last(queue):
    returned = queue.publish_many(range(3), unique=RETURN)
    replaced = queue.publish_many(range(3), unique=Unique("other name", on_conflict="replace"))

    assert [job.id for job in returned] == [returned[0].id] * 3
    assert [job.id for job in replaced] == [replaced[0].id] * 3
    assert startable(queue) == [0, 2]


def test_a_publish_that_is_sent_again_is_answered_by_its_own_job(queue):
    job = queue.publish("letter", id="l1", unique="name")

    assert queue.publish("letter", id="l1", unique="name") == job
    taken(queue)
    assert queue.publish("letter", id="l1", unique="name") == job


# Until when


def finish(queue: Queue, claim: Claim, clock: Any) -> None:
    claim.finish()


WAYS_OUT: dict[str, Callable[[Queue, Claim, Any], object]] = {
    "finish": finish,
    "a final failure": lambda queue, claim, clock: claim.fail("torn", final=True),
    "retract while claimed": lambda queue, claim, clock: queue.retract(claim.id),
    "retract while stalled": lambda queue, claim, clock: (claim.stall(), queue.retract(claim.id)),
    "retract while available": lambda queue, claim, clock: (claim.cancel(), queue.retract(claim.id)),
    "retract while scheduled": lambda queue, claim, clock: (claim.cancel(delay=5), queue.retract(claim.id)),
    "lapse": lambda queue, claim, clock: (clock.advance(101), queue.get(timeout=0)),
    "more stalled than are kept": lambda queue, claim, clock: (queue.configure(keep_stalled=0), claim.stall()),
    "delete": lambda queue, claim, clock: queue.delete(),
}


@pytest.mark.parametrize("keep", [0, 60])
@pytest.mark.parametrize("way", WAYS_OUT)
def test_the_name_is_free_once_the_life_of_its_job_ends_whichever_way(queue, clock, way, keep):
    queue.publish("first", unique="name", expires_in=100, keep=keep)
    claim = taken(queue, lease=9000, renew=False)
    assert queue.holder("name").id == claim.id

    WAYS_OUT[way](queue, claim, clock)

    assert queue.holder("name") is None
    second = queue.publish("second", unique="name")
    assert second.id != claim.id
    assert startable(queue) == ["second"]


WAYS_THAT_KEEP: dict[str, Callable[[Queue, Claim, Any], object]] = {
    "claimed": lambda queue, claim, clock: None,
    "stalled": lambda queue, claim, clock: claim.stall(),
    "the last attempt failed": lambda queue, claim, clock: (claim.fail("torn"), taken(queue).fail("torn")),
    "to be tried again": lambda queue, claim, clock: claim.fail("torn"),
    "cancelled": lambda queue, claim, clock: claim.cancel(),
    "deferred": lambda queue, claim, clock: claim.cancel(delay=5),
    "its claim lost": lambda queue, claim, clock: (clock.advance(31), queue.get(timeout=0)),
    "retried": lambda queue, claim, clock: (claim.stall(), queue.retry(claim.id)),
}


@pytest.mark.parametrize("way", WAYS_THAT_KEEP)
def test_the_name_is_kept_as_long_as_its_job_lives(queue, clock, way):
    queue.publish("first", unique="name", max_attempts=2)
    claim = taken(queue, renew=False)

    WAYS_THAT_KEEP[way](queue, claim, clock)

    assert queue.holder("name").id == claim.id
    with pytest.raises(NotUnique):
        queue.publish("second", unique="name")


def test_a_rerun_takes_its_name_again_and_is_refused_while_another_job_has_it(queue):
    old = queue.publish("old", unique="name")
    taken(queue).finish()
    new = queue.publish("new", unique="name")

    with pytest.raises(NotUnique) as refused:
        queue.rerun(old.id)
    assert refused.value.job_id == new.id
    taken(queue).finish()
    queue.rerun(old.id)

    assert queue.holder("name") == old
    assert startable(queue) == ["old"]


def test_holder_is_the_job_as_it_is_now_and_none_where_the_name_is_free(queue, elsewhere):
    assert queue.holder("name") is None
    job = queue.publish("letter", unique="name", delay=60)

    holder = elsewhere.holder("name")

    assert (holder.id, holder.data, holder.state) == (job.id, "letter", State.SCHEDULED)
    assert isinstance(holder, Job)


# Until claimed


def test_until_claimed_the_name_is_free_for_the_next_one_while_the_first_runs(queue):
    first = queue.publish("first", unique=LATEST)
    claim = taken(queue)

    assert queue.holder("name") is None
    second = queue.publish("second", unique=LATEST)

    assert (second.id != first.id, queue.holder("name")) == (True, second)
    claim.finish()
    assert queue.holder("name") == second


def test_with_a_key_that_runs_one_at_most_one_more_waits_and_it_has_the_newest_data(queue):
    queue.limit("page", running=1)
    queue.publish("first", key="page", unique=LATEST)
    ran = []
    for turn in range(3):
        claim = taken(queue)
        ran.append(claim.data)
        for n in range(4):
            queue.publish(f"{turn}.{n}", key="page", unique=LATEST)
            assert queue.key("page").pending == 2
        assert queue.get(timeout=0) is None
        claim.finish()

    assert ran + startable(queue) == ["first", "0.3", "1.3", "2.3"]


@pytest.mark.parametrize("way", ["cancel", "fail", "stall and retry"])
def test_a_job_that_gave_its_name_up_runs_again_without_it(queue, way):
    queue.publish("first", unique=LATEST, max_attempts=2)
    claim = taken(queue)
    second = queue.publish("second", unique=LATEST)

    if way == "cancel":
        claim.cancel()
    elif way == "fail":
        claim.fail("torn")
    else:
        claim.stall()
        queue.retry(claim.id)

    assert queue.holder("name") == second
    assert startable(queue) == ["second", "first"]


# Whom it tells


@pytest.mark.parametrize("on_conflict", ["return", "replace"])
def test_every_publisher_that_was_answered_with_the_holder_hears_of_its_end_once(queue, connect, on_conflict):
    unique = Unique("name", on_conflict=on_conflict)
    with connect() as one, connect() as other:
        hears = [Heard() for _ in range(4)]
        for n, (place, heard) in enumerate(zip((one, one, other, other), hears, strict=True)):
            job = place.queue("letters").publish(n, unique=unique, on_finish=heard)

        claim = queue.get(timeout=SOON)
        claim.finish("sent")
        one.join(timeout=SOON)
        other.join(timeout=SOON)

    newest = 3 if on_conflict == "replace" else 0
    assert [[(told.id, told.data, told.result) for told in heard.jobs] for heard in hears] == [
        [(job.id, newest, "sent")]
    ] * 4


def test_a_publisher_that_was_refused_hears_nothing_and_waits_for_nothing(broker, queue, elsewhere, heard):
    elsewhere.publish("first", unique="name")
    with pytest.raises(NotUnique):
        queue.publish("second", unique="name", on_finish=heard)

    broker.join(timeout=SOON)
    taken(elsewhere).finish()

    assert heard.jobs == []


def test_a_publisher_that_is_answered_with_a_stalled_job_hears_that_and_later_its_end(broker, queue, elsewhere):
    elsewhere.publish("first", unique="name")
    taken(elsewhere).stall("no stamp")
    stalled, finished = Heard(), Heard()

    job = queue.publish("second", unique=RETURN, on_stall=stalled, on_finish=finished)
    assert stalled.news.get(timeout=SOON).reason == "no stamp"
    elsewhere.retry(job.id)
    taken(elsewhere).finish("sent")

    assert finished.news.get(timeout=SOON).result == "sent"
    broker.join(timeout=SOON)
    assert (len(stalled.jobs), len(finished.jobs)) == (1, 1)


def work_until_told(queue: Queue) -> None:
    """A worker that gives every fifth claim back."""
    at = 0
    while (claim := queue.get()).data != "leave":
        at += 1
        claim.finish() if at % 5 else claim.cancel()
    claim.finish()


def test_in_a_storm_each_publisher_hears_once_of_the_job_that_it_was_answered_with(connect, queue):
    hears: dict[str, list[Heard]] = {}

    def publish(place: Queue, turn: int) -> None:
        for n in range(40):
            heard, unique = Heard(), Unique(f"name {n % 3}", ("return", "replace")[(turn + n) % 2], until="claimed")
            job = place.publish([turn, n], unique=unique, keep=(0, None)[n % 2], on_finish=heard)
            hears.setdefault(job.id, []).append(heard)

    with connect() as one, connect() as other:
        workers = [in_thread(lambda: work_until_told(queue)) for _ in range(2)]
        ends = [
            in_thread(lambda turn=turn: publish((one, other)[turn % 2].queue("letters"), turn)) for turn in range(4)
        ]
        assert [end.get(timeout=SOON) for end in ends] == [None] * 4
        for place in (one, other):
            place.join(timeout=SOON)
        queue.publish_many(["leave"] * 2)
        assert [worker.get(timeout=SOON) for worker in workers] == [None] * 2

    assert sum(map(len, hears.values())) == 160
    assert len(hears) < 160, "nobody was answered with the job of another"
    for id, those in hears.items():
        assert [[job.id for job in heard.jobs] for heard in those] == [[id]] * len(those)


@pytest.mark.blocking_only
@pytest.mark.parametrize("keep", [0, None])
def test_an_end_that_comes_before_publish_returned_is_heard_also_when_the_job_is_another(
    queue, elsewhere, heard, monkeypatch, keep
):
    """The news names the holder's id, of which this process does not know yet that it waits for it."""
    elsewhere.publish("first", unique="name", keep=keep)
    callbacks = queue.session.callbacks
    published, news, known = callbacks.published, callbacks.news, threading.Event()

    def heard_already(*args: Any) -> None:
        news(*args)
        known.set()

    def too_late(*args: Any) -> None:
        ended = in_thread(lambda: taken(elsewhere).finish("sent"))
        assert known.wait(SOON)
        published(*args)
        ended.get(timeout=SOON)

    monkeypatch.setattr(callbacks, "news", heard_already)
    monkeypatch.setattr(callbacks, "published", too_late)
    queue.publish("second", unique=RETURN, on_finish=heard)

    told = heard.news.get(timeout=SOON / 4)
    assert (told.outcome, told.result) == (Outcome.SUCCESS, "sent")


# Debouncing


def test_what_is_replaced_again_and_again_runs_once_a_delay_after_the_last_one_with_its_data(queue, clock):
    began = clock.now
    for n in range(5):
        job = queue.publish(n, unique=REPLACE, delay=10)
        assert job.due_at.timestamp() == clock.now / 1000 + 10
        clock.advance(9)
        assert queue.get(timeout=0) is None

    clock.advance(1)

    claim = taken(queue, lease=100, renew=False)
    assert (claim.data, clock.now - began) == (4, 46_000)
    claim.finish()
    assert (queue.get(timeout=0), len(queue.jobs().jobs)) == (None, 1)


def test_the_newer_start_holds_also_where_it_is_earlier(queue, clock):
    queue.publish("later", unique="name", delay=100)

    queue.publish("sooner", unique=REPLACE, delay=1)

    clock.advance(1)
    assert startable(queue) == ["sooner"]


def test_without_a_delay_a_replaced_job_may_start_at_once(queue, elsewhere, client):
    queue.publish("later", unique="name", delay=3600)
    got = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 1)

    elsewhere.publish("now", unique=REPLACE)

    assert got.get(timeout=SOON).data == "now"


def test_a_real_delay_debounces_for_a_worker_that_waits(queue, elsewhere):
    got = in_thread(queue.get)
    for n in range(5):
        last = elsewhere.publish(n, unique=REPLACE, delay=0.1)

    claim = got.get(timeout=SOON)
    assert (claim.id, claim.data) == (last.id, 4)
    assert claim.claimed_at >= last.due_at
