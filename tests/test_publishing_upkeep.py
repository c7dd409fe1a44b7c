"""Queues as their operators see them: settings, pauses, deletion, names, and looking through the jobs."""

from __future__ import annotations

import queue as queues
import time
from typing import Any

import pytest
import redis
from helpers import INF, SOON, in_thread, taken

from thoonk_jobs import InvalidArgument, Outcome, Publish, Queue, StaleClaim, State

pytestmark = pytest.mark.asyncio_on("valkey")


def until_it_waits(client: redis.Redis, queue: Queue) -> None:
    deadline = time.monotonic() + SOON
    while not client.zcard(f"{queue.keys.base}:waiters"):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.005)


# Settings

CHANGED = {
    "max_lost": 5, "max_cancels": 4, "max_attempts": 3, "backoff": [1, 2.5], "keep": 60.0, "keep_last": 7,
    "keep_stalled": 8, "keep_events": 9, "expires_in": 90.0, "priority": 10.0, "max_payload": 500,
}  # fmt: skip


def test_every_setting_is_stored_and_seen_by_other_processes(queue, elsewhere):
    assert set(elsewhere.settings()) == set(CHANGED)

    queue.configure(**CHANGED)

    assert elsewhere.settings() == CHANGED


def test_a_setting_that_is_left_out_stays(queue, elsewhere):
    queue.configure(**CHANGED)

    elsewhere.configure(keep=INF, max_attempts=INF)

    assert queue.settings() == {**CHANGED, "keep": INF, "max_attempts": INF}


@pytest.mark.parametrize("setting", ["max_lost", "max_cancels", "keep_last", "keep_stalled", "max_payload"])
def test_inf_lifts_a_bound(queue, setting):
    queue.configure(**CHANGED)

    queue.configure(**{setting: INF})
    job = queue.publish("letter")
    taken(queue).stall()

    assert queue.settings()[setting] == INF
    assert queue.job(job.id).state is State.STALLED


def test_settings_hold_for_jobs_published_from_then_on(queue, elsewhere):
    queue.publish("before")
    elsewhere.configure(max_attempts=2, expires_in=60)
    queue.publish("after")

    first, second = taken(queue), taken(queue)
    first.fail("torn")
    second.fail("torn")

    assert (queue.job(first.id).state, first.expires_at) == (State.STALLED, None)
    assert queue.job(second.id).state is State.AVAILABLE
    assert second.expires_at is not None


# Pausing


def test_a_paused_queue_hands_out_nothing_in_any_process_until_it_is_resumed(queue, elsewhere):
    queue.publish("letter")
    elsewhere.pause()
    elsewhere.pause()
    queue.publish("another")

    assert queue.get(timeout=0) is None
    assert elsewhere.get(timeout=0.1) is None
    assert queue.counts()[State.AVAILABLE] == 2

    queue.resume()
    queue.resume()
    assert [claim.data for claim in elsewhere.get_many(5, timeout=0)] == ["letter", "another"]


def test_resume_wakes_a_get_that_waits_in_another_process(queue, elsewhere, client):
    queue.pause()
    got = in_thread(lambda: elsewhere.get(timeout=SOON))
    until_it_waits(client, queue)
    queue.publish("letter")
    with pytest.raises(queues.Empty):
        got.get(timeout=0.1)

    queue.resume()

    assert got.get(timeout=SOON / 2).data == "letter"


def test_a_claim_from_before_a_pause_is_finished_as_ever(queue):
    job = queue.publish("letter")
    claim = taken(queue)
    queue.pause()

    claim.finish("sent")

    assert queue.job(job.id).result == "sent"


# Deleting


def test_delete_removes_all_keys_and_takes_the_queue_off_the_list_and_leaves_others(broker, queue, client, namespace):
    other = broker.queue("letters2")
    for one in (queue, other):
        one.configure(keep=5)
        one.publish_many(range(600))
        taken(one).finish()
        taken(one).stall()
        one.publish("later", delay=9)
        one.pause()

    queue.delete()

    assert broker.queues() == ["letters2"]
    assert list(client.scan_iter(match=f"{queue.keys.base}*")) == []
    assert other.counts()[State.AVAILABLE] == 598


def test_a_deleted_queue_begins_anew_with_the_next_publish(broker, queue):
    queue.publish("old", id="l1")
    queue.pause()
    queue.delete()

    queue.publish("new", id="l1")

    assert taken(queue).data == "new"
    assert broker.queues() == ["letters"]


def test_a_queue_deleted_elsewhere_is_listed_again_with_the_next_publish(broker, queue, elsewhere):
    queue.publish("old")
    elsewhere.delete()

    queue.publish("new")

    assert broker.queues() == ["letters"]


def test_a_get_that_waits_hears_of_jobs_published_after_a_delete(queue, elsewhere, client):
    got = in_thread(lambda: elsewhere.get(timeout=SOON))
    until_it_waits(client, queue)
    queue.delete()

    queue.publish("letter")

    assert got.get(timeout=2).data == "letter"


def test_deleting_a_queue_that_there_is_not_does_nothing(queue, everything):
    queue.delete()

    assert everything() == {}


def test_the_claimant_of_a_deleted_queue_is_refused_and_writes_nothing(queue, elsewhere, everything):
    queue.publish("letter")
    claim = taken(queue)
    elsewhere.delete()
    before = everything()

    with pytest.raises(StaleClaim):
        claim.finish("late")

    assert everything() == before
    assert claim.aborted


def test_a_publisher_hears_that_its_job_was_withdrawn_by_a_delete(broker, queue, elsewhere):
    heard = []
    job = queue.publish("letter", on_finish=heard.append)

    elsewhere.delete()
    broker.join(timeout=SOON)

    assert [one.id for one in heard] == [job.id]


# Names

NAMES = [
    "a", "a}", "{a}", "{a", "}{", "a*", "a?", "[ab]", "*", "a\r\nb", "a\nb", "\r\n", "a\0b", "\0", "a:b", "a%00b",
    "a%2Ab", " ", "a b", "/", "..", "a:meta", "A", "ä", "a\u0308", "\N{PILE OF POO}", "\N{PILE OF POO}" * 200,
    "x" * 200, "x" * 199,
]  # fmt: skip


def test_queues_of_any_name_share_nothing(broker):
    heard = []
    made = [broker.queue(name) for name in NAMES]
    for queue in made:
        queue.configure(keep_last=len(queue.name))
        queue.publish(queue.name, id="l1", on_finish=heard.append)

    for queue in reversed(made):
        with taken(queue) as claim:
            assert (claim.queue, claim.data) == (queue.name, queue.name)
        assert queue.get(timeout=0) is None
    broker.join(timeout=SOON)

    assert sorted(job.queue for job in heard) == sorted(NAMES)
    assert broker.queues() == sorted(NAMES)
    assert [queue.settings()["keep_last"] for queue in made] == [len(name) for name in NAMES]


def test_deleting_a_queue_whose_name_is_a_pattern_leaves_the_others(broker):
    for name in NAMES:
        broker.queue(name).publish(name)

    for name in ("*", "a*", "{a}", "\0"):
        broker.queue(name).delete()

    assert broker.queues() == sorted(set(NAMES) - {"*", "a*", "{a}", "\0"})
    assert all(counts[State.AVAILABLE] == 1 for counts in broker.counts().values())


def test_a_get_that_waits_is_not_woken_by_another_queue(broker, client):
    waits = in_thread(lambda: broker.queue("a").get(timeout=SOON))
    until_it_waits(client, broker.queue("a"))
    for name in ("a*", "{a}", "a}", "*", "A"):
        broker.queue(name).publish(name)
    with pytest.raises(queues.Empty):
        waits.get(timeout=0.1)

    broker.queue("a").publish("mine")

    assert waits.get(timeout=SOON).data == "mine"


# Looking


def fill(queue: Queue, state: State, n: int) -> list[str]:
    """Puts n jobs into a state, all at one moment; their ids."""
    if state is State.WAITING:
        queue.limit(running=0)
    delay = 60 if state is State.SCHEDULED else None
    ids = [f"l{at:03}" for at in range(n)]
    queue.publish_many(Publish(id, id=id, delay=delay, priority=["front", 5][at % 2]) for at, id in enumerate(ids))
    if state not in (State.WAITING, State.AVAILABLE, State.SCHEDULED):
        for claim in queue.get_many(n, timeout=0, renew=False):
            {State.STALLED: claim.stall, State.FINISHED: claim.finish}.get(state, claim.renew)()
    assert queue.counts()[state] == n
    return ids


def pages(queue: Queue, *args: Any, **options: Any) -> list[str]:
    seen: list[str] = []
    cursor = None
    while True:
        page = queue.jobs(*args, cursor=cursor, **options)
        seen += [job.id for job in page.jobs]
        assert len(page.jobs) <= options["limit"]
        assert len(seen) <= 100, "a page leads nowhere"
        cursor = page.cursor
        if cursor is None:
            return seen


STATES = [state for state in State if state is not State.ABSENT]


@pytest.mark.parametrize("limit", [1, 7, 24, 100])
@pytest.mark.parametrize("state", STATES)
def test_paging_visits_each_job_of_a_state_once_even_when_all_have_one_time(queue, clock, state, limit):
    ids = fill(queue, state, 24)

    seen = pages(queue, state, limit=limit)

    assert sorted(seen) == ids


def test_paging_visits_what_is_kept_for_ever_and_both_kinds_of_scheduled_jobs(queue, clock):
    for n in range(20):
        queue.publish(n, id=f"f{n:02}", keep=INF)
        taken(queue).finish()
        queue.publish(n, id=f"s{n:02}", delay=5 if n % 2 else None, run_at=None if n % 2 else clock.now / 1000 + 60)

    assert sorted(pages(queue, "finished", limit=3)) == [f"f{n:02}" for n in range(20)]
    assert sorted(pages(queue, "scheduled", limit=3)) == [f"s{n:02}" for n in range(20)]
    assert len(pages(queue, limit=7)) == 40


def test_available_jobs_are_listed_in_the_order_in_which_they_will_be_taken(queue, clock):
    fill(queue, State.AVAILABLE, 24)

    listed = pages(queue, State.AVAILABLE, limit=5)

    assert listed == [claim.id for claim in queue.get_many(24)]


@pytest.mark.parametrize("state", STATES)
def test_a_cursor_leads_on_when_its_job_is_gone(queue, clock, state):
    ids = fill(queue, state, 24)
    page = queue.jobs(state, limit=10)
    last = page.jobs[-1].id
    if state is State.FINISHED:
        queue.rerun(last)
    else:
        queue.retract(last)

    rest = queue.jobs(state, limit=100, cursor=page.cursor)

    assert sorted(job.id for job in page.jobs + rest.jobs) == ids
    assert rest.cursor is None


def test_a_page_holds_snapshots_with_data_and_result(queue):
    queue.publish({"n": 1}, id="l1")
    taken(queue).finish({"n": 2})

    [job] = queue.jobs().jobs

    assert (job.id, job.data, job.result, job.outcome) == ("l1", {"n": 1}, {"n": 2}, Outcome.SUCCESS)


def test_absent_jobs_are_an_empty_page(queue):
    assert (queue.jobs("absent").jobs, queue.jobs("absent").cursor) == ([], None)


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": True}, {"state": "asleep"}, {"cursor": "é"}])
def test_what_cannot_be_listed_is_refused(queue, options):
    with pytest.raises(InvalidArgument):
        queue.jobs(**options)


def test_a_cursor_of_another_state_is_refused(queue):
    queue.publish_many(range(3))
    cursor = queue.jobs(State.AVAILABLE, limit=1).cursor

    with pytest.raises(InvalidArgument):
        queue.jobs(State.STALLED, cursor=cursor)


def test_counts_and_ids_know_every_state(broker, queue):
    for end in ("finish", "stall", "renew"):
        queue.publish(end, id=end)
        getattr(taken(queue), end)()
    queue.publish("scheduled", id="scheduled", delay=60)
    queue.publish("available", id="available")

    expected = {
        State.ABSENT: 0, State.SCHEDULED: 1, State.WAITING: 0, State.AVAILABLE: 1, State.CLAIMED: 1, State.STALLED: 1,
        State.FINISHED: 1,
    }  # fmt: skip
    assert queue.counts() == expected
    assert broker.counts() == {"letters": expected}
    assert queue.ids() == ["scheduled", "available", "renew", "stall"]
    assert queue.counts()["stalled"] == 1


@pytest.mark.parametrize("verb", ["retry_all", "retract_all"])
def test_a_verb_on_all_moves_every_job_of_the_state_and_answers_how_many(queue, verb):
    fill(queue, State.STALLED, 1100)
    queue.publish("available", id="available")

    moved = queue.retry_all() if verb == "retry_all" else queue.retract_all("stalled")

    assert moved == 1100
    assert queue.counts()[State.STALLED] == 0
    assert queue.counts()[State.AVAILABLE] == (1101 if verb == "retry_all" else 1)


@pytest.mark.parametrize("state", [State.FINISHED, State.ABSENT, "asleep"])
def test_jobs_that_are_not_live_cannot_be_withdrawn(queue, state):
    with pytest.raises(InvalidArgument):
        queue.retract_all(state)
