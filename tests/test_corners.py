"""Cases that a random history seldom meets, each in its shortest form."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import redis
from desk import STATES, Desk, plain

from thoonk_jobs import Broker, calls, flows, request
from thoonk_jobs.codec import pack
from thoonk_jobs.limits import EACH_KEY
from thoonk_jobs.machine import State


@pytest.fixture
def desk(broker: Broker, client: redis.Redis, namespace: str) -> Desk:
    return Desk(broker.session.wire, client, namespace)


def _finish(desk: Desk, id: str) -> None:
    desk.do(calls.finish(desk.keys, id, desk.take(id), b""))


def _states(desk: Desk) -> dict[str, State]:
    return {id.decode(): STATES[job.state] for id, job in desk.audit().jobs.items()}


# Unique names.


def test_a_job_that_is_purged_leaves_its_former_name_to_the_new_holder(desk: Desk):
    desk.do(desk.publish("old", unique="name", keep=0))
    _finish(desk, "old")
    desk.do(desk.publish("new", unique="name"))

    desk.advance(60)
    desk.settle()

    assert list(desk.audit()["names"].items()) == [(b"name", b"new")]


def test_a_replacement_that_is_sent_again_later_does_not_postpone_again(desk: Desk):
    desk.do(desk.publish("holder", unique="name"))
    call = desk.publish("newer", "newer data", unique="name", conflict=2, delay=5)
    desk.do(call)
    due = desk.contents().jobs[b"holder"].until

    desk.advance(2)
    desk.do(call)

    assert desk.audit().jobs[b"holder"].until == due


def test_a_job_that_is_replaced_in_the_call_that_published_it_was_published_first(desk: Desk):
    desk.do(desk.publish("a", unique="first"))
    later = {"conflict": 2, "delay": 5}

    desk.do(
        request.merged(
            [
                desk.publish("b", "newer", unique="first", **later),
                desk.publish("c", unique="second"),
                desk.publish("d", "newer", unique="second", **later),
            ]
        )
    )

    assert desk.audit().rows_of("c") == ["publish", "postpone"]


def test_a_job_that_takes_a_forgotten_id_comes_after_it_in_the_log(desk: Desk):
    desk.do(desk.publish("old", keep=0))
    _finish(desk, "old")
    desk.advance(60.5)

    desk.do(request.merged([desk.publish("new"), desk.publish("old")]))

    assert desk.audit().rows_of("old") == ["publish", "claim", "finish", "purge", "publish"]


@pytest.mark.parametrize("held", [False, True])
def test_a_replacement_that_starts_at_once_keeps_place_and_state(desk: Desk, held: bool):
    if held:
        desk.do(desk.limit(None, 0))
    for id in "abc":
        desk.do(desk.publish(id, unique=f"name of {id}"))
    before = desk.audit()

    desk.do(desk.publish("newer", "newer data", unique="name of a", conflict=2))

    after = desk.audit()
    assert desk.do(calls.read(desk.keys, ["a"])).data == pack("newer data")[0]
    changed_only = {"digest": after.jobs[b"a"].digest, "request": after.jobs[b"a"].request}
    assert after.jobs == {**before.jobs, b"a": before.jobs[b"a"]._replace(**changed_only)}
    assert after["events"] == before["events"]


def test_a_replacement_that_starts_at_once_is_started_at_once_where_its_holder_was_due_later(desk: Desk):
    desk.do(desk.publish("holder", unique="name", delay=60))

    desk.do(desk.publish("newer", "newer data", unique="name", conflict=2))

    desk.settle()
    assert desk.audit().rows_of("holder") == ["schedule", "postpone", "promote"]


def test_a_probe_forgets_jobs_of_a_limited_queue(desk: Desk):
    desk.do(desk.limit("blue", 1))
    desk.do(desk.publish("a", keep=0, key="blue"))
    _finish(desk, "a")
    desk.advance(61)

    desk.do(calls.probe(desk.keys, "nonce"))

    assert desk.audit().jobs == {}


def test_failures_count_for_nothing_once_no_number_of_them_blocks(desk: Desk):
    desk.do(desk.limit("blue", None, block_after=(3, 60, 60)))
    desk.do(desk.publish("a", key="blue", max_attempts=9))
    desk.do(calls.fail(desk.keys, "a", desk.take("a"), b"e", final=False, delay=0))
    assert desk.do(calls.key(desk.keys, "blue")).failures == 1

    desk.do(desk.limit("blue", None, block_after=None))

    assert desk.do(calls.key(desk.keys, "blue")).failures == 0


# Lists.


def _between_looks(desk: Desk, flow: Any, act: Callable[[], object]) -> Any:
    """What a conversation returns, where this happens after each of its steps that found something."""
    answer = None
    while True:
        try:
            call = flow.send(answer)
        except StopIteration as end:
            return end.value
        answer = desk.wire.run(call)
        if answer:
            act()


def test_a_job_that_comes_due_while_all_are_listed_is_named_once(desk: Desk):
    desk.do(desk.publish("a", delay=5))

    def comes_due() -> None:
        desk.advance(5)
        desk.settle()

    assert _between_looks(desk, flows.live_ids(desk.keys), comes_due) == ["a"]
    assert desk.state("a") is State.AVAILABLE


def test_a_job_whose_lease_is_renewed_while_its_page_is_read_is_on_it_once(desk: Desk):
    desk.do(desk.publish("a"))
    token, leases = desk.take("a"), itertools.count(2000)

    def renewed() -> None:
        desk.do(calls.renew(desk.keys, [("a", token, next(leases))]))

    looks = itertools.count()
    page = flows.jobs_page(desk.keys, (State.CLAIMED,), 100, None)
    found, cursor = _between_looks(desk, page, lambda: next(looks) < 9 and renewed())

    assert ([id for id, _ in found], cursor) == (["a"], None)


# Limits.


def test_who_is_next_in_line_behind_a_job_that_was_withdrawn_is_not_forgotten(desk: Desk):
    """Of a key with room the first waits for the queue only; the second is to be the first when that one is gone."""
    desk.do(desk.limit(None, 1))
    desk.do(desk.limit("blue", 1))
    desk.do(desk.publish("holder", key="blue"))
    token = desk.take("holder")
    desk.do(desk.publish("first", key="blue"))
    desk.do(desk.publish("second", key="blue"))
    desk.do(desk.publish("urgent", priority=1))
    desk.do(calls.finish(desk.keys, "holder", token, b""))
    assert _states(desk) | {"holder": None} == {
        "holder": None, "first": State.WAITING, "second": State.WAITING, "urgent": State.AVAILABLE,
    }  # fmt: skip

    desk.do(calls.operate(desk.keys, "retract", ["first"]))
    _finish(desk, "urgent")

    assert _states(desk)["second"] is State.AVAILABLE


def test_a_slot_of_the_queue_goes_to_the_first_that_can_use_it(desk: Desk):
    """Whose key is full gives way to whoever is behind."""
    desk.do(desk.limit(None, 2))
    desk.do(desk.limit("blue", 1))
    for id, key in (("a", ""), ("b", ""), ("blue 1", "blue"), ("blue 2", "blue"), ("plain", "")):
        desk.do(desk.publish(id, key=key))
    look = desk.do(desk.claim(2))

    for taken in look.taken:
        desk.do(calls.finish(desk.keys, taken.id, taken.token, b""))

    states = _states(desk)
    assert (states["blue 1"], states["plain"], states["blue 2"]) == ("available", "available", "waiting")


@pytest.mark.parametrize("way_out", ["retract", "stall", "lapse", "postpone"])
def test_a_job_that_leaves_the_line_lets_the_next_of_its_key_through(desk: Desk, way_out: str):
    """It held the place of its key without a slot, because the queue was full."""
    desk.do(desk.limit("blue", 1))
    desk.do(desk.publish("first", key="blue", unique="name", expires_in=50))
    desk.do(desk.publish("second", key="blue"))
    desk.do(desk.limit(None, 0))
    assert set(_states(desk).values()) == {State.WAITING}

    if way_out == "lapse":
        desk.advance(50)
        desk.settle()
    elif way_out == "stall":
        desk.do(calls.stall(desk.keys, "first", "odd"))
    elif way_out == "retract":
        desk.do(calls.operate(desk.keys, "retract", ["first"]))
    else:
        desk.do(desk.publish("other", "newer", unique="name", conflict=2, delay=900))
    desk.do(desk.limit(None, None))

    assert _states(desk)["second"] is State.AVAILABLE


@pytest.mark.parametrize("way_back", ["cancel", "reattempt", "expire"])
@pytest.mark.parametrize("key", [None, "blue"])
def test_a_lowered_limit_is_not_exceeded_by_a_job_that_came_back(desk: Desk, key: str | None, way_back: str):
    for id in "abc":
        desk.do(desk.publish(id, key="blue", max_attempts=5))
    first = desk.do(desk.claim(1, lease=9)).taken[0]
    desk.do(desk.claim(2))
    desk.do(desk.limit(key, 1))

    if way_back == "cancel":
        desk.do(calls.cancel(desk.keys, first.id, first.token, "busy", 0))
    elif way_back == "reattempt":
        desk.do(calls.fail(desk.keys, first.id, first.token, b"e", final=False, delay=0))
    desk.advance(9)

    assert desk.do(desk.claim(9)).taken == []
    assert len(desk.contents().in_state(State.CLAIMED)) == 2


def test_a_limit_on_more_jobs_than_one_call_may_park_says_that_there_are_more(desk: Desk):
    for first in (0, 400):
        desk.do(desk.raw("publish", *(arg for at in range(first, first + 400) for arg in _item(desk, f"job {at}"))))

    calls_made = 1
    while desk.do(desk.limit(None, 0)):
        calls_made += 1

    assert calls_made == 2
    assert len(desk.audit().in_state(State.WAITING)) == 800


def test_no_more_are_claimed_than_a_new_limit_allows_before_all_others_are_parked(desk: Desk):
    for first in (0, 400):
        desk.do(desk.raw("publish", *(arg for at in range(first, first + 400) for arg in _item(desk, f"job {at}"))))
    desk.do(desk.limit(None, 10))

    assert len(desk.do(desk.claim(50)).taken) <= 10


def test_what_comes_due_does_not_overtake_what_waits_for_a_slot(desk: Desk):
    desk.do(desk.limit(None, 1))
    desk.do(desk.publish("runs", expires_in=50))
    desk.do(desk.publish("waits"))
    desk.do(desk.publish("comes due", delay=50))

    desk.advance(50)
    desk.settle()

    assert (_states(desk)["waits"], _states(desk)["comes due"]) == (State.AVAILABLE, State.WAITING)


def test_a_job_whose_key_has_room_again_takes_a_slot_of_the_queue_from_a_less_urgent_one(desk: Desk):
    desk.do(desk.limit(None, 1))
    desk.do(desk.limit("blue", 0))
    desk.do(desk.publish("plain"))
    desk.do(desk.publish("urgent", key="blue", priority=5))

    desk.do(desk.limit("blue", 1))

    assert _states(desk) == {"urgent": State.AVAILABLE, "plain": State.WAITING}


def test_a_job_that_was_held_has_no_reason_but_its_own(desk: Desk):
    desk.do(desk.limit(None, 0))
    desk.do(desk.publish("a"))
    desk.do(desk.limit(None, None))
    desk.do(calls.fail(desk.keys, "a", desk.take("a"), b'e"no"', final=True, delay=0))

    assert desk.audit().jobs[b"a"].reason == b""


# Counts.


def test_a_retry_starts_counts_anew_and_keeps_the_totals(desk: Desk):
    desk.do(desk.publish("a", max_attempts=2))
    desk.do(calls.cancel(desk.keys, "a", desk.take("a"), "busy", 0))
    desk.do(calls.cancel(desk.keys, "a", desk.take("a"), "no cost", 0, counted=False))
    desk.take("a", lease=5)
    desk.advance(5)
    desk.do(calls.fail(desk.keys, "a", desk.take("a"), b"e", final=False, delay=0))
    desk.do(calls.fail(desk.keys, "a", desk.take("a"), b"e", final=False, delay=0))
    job = desk.audit().jobs[b"a"]
    assert (job.claims, job.failures, job.cancels, job.lost) == (5, 2, 1, 1)

    desk.do(calls.operate(desk.keys, "retry", ["a"]))

    job = desk.audit().jobs[b"a"]
    assert (job.failures, job.cancels, job.lost) == (0, 0, 0)
    assert (job.claims, job.total_failures, job.total_cancels) == (5, 2, 1)


# Tickets.


def test_a_claim_that_is_sent_again_after_it_was_lost_looks_anew(desk: Desk):
    """Else the process would wait, registered nowhere."""
    desk.do(desk.publish("a"))
    desk.do(desk.limit(None, 1))
    call = desk.claim(1, lease=5, wanted=1)
    desk.do(call)
    desk.advance(5)
    desk.do(desk.claim(1, lane="another"))  # the reply to the first never came

    again = desk.do(call)

    assert again.taken == []
    assert [process for process, _ in desk.contents()["waiters"]] == [desk.wire.process.encode()]


def test_a_claim_that_is_sent_again_gets_what_is_left_of_it(desk: Desk):
    for id in "abc":
        desk.do(desk.publish(id))
    call = desk.claim(3)
    tokens = {taken.id: taken.token for taken in desk.do(call).taken}
    desk.do(calls.finish(desk.keys, "b", tokens["b"], b""))
    desk.do(desk.publish("d"))

    assert {taken.id: taken.token for taken in desk.do(call).taken} == {"a": tokens["a"], "c": tokens["c"]}


def test_a_ticket_is_kept_for_ten_minutes_at_least(desk: Desk):
    for id in "abcd":
        desk.do(desk.publish(id))
    desk.do(desk.claim(1, lane="another"))
    desk.advance(599)
    call = desk.claim(1, lane="one", lease=2000)
    first = desk.do(call)
    for _ in range(2):
        desk.advance(300)
        desk.do(desk.claim(1, lane="another", lease=2000))

    assert plain(desk.do(call)) == plain(first)


# Waiting for jobs. Who waits is registered, until it is told to look.


def _look_and_wait(desk: Desk) -> None:
    assert desk.do(desk.claim(1, wanted=1)).taken == []
    assert desk.contents()["waiters"]


@pytest.mark.parametrize("ends", ["finish", "renew", "lapse"])
def test_after_an_alarm_that_came_to_nothing_the_next_due_job_sets_another(desk: Desk, ends: str):
    desk.do(desk.publish("a", expires_in=20))
    token = desk.take("a", lease=30 if ends == "lapse" else 20)
    with desk.ear() as ear:
        _look_and_wait(desk)
        if ends == "finish":
            desk.do(calls.finish(desk.keys, "a", token, b""))
        elif ends == "renew":
            desk.do(calls.cancel(desk.keys, "a", token, "busy", 0))
            desk.do(calls.operate(desk.keys, "retract", ["a"]))
        desk.advance(20)
        desk.do(calls.settle(desk.keys, keeper=True))
        ear.heard()

        desk.do(desk.publish("b", delay=5))

        assert ear.alarms() == [(5000, desk.wire.process)]
    assert desk.audit().meta("alarm") == desk.now + 5000


@pytest.mark.parametrize("running", [None, 2])
def test_who_waits_is_told_when_a_lowered_limit_is_raised_again(desk: Desk, running: int | None):
    for id in "ab":
        desk.do(desk.publish(id))
    tokens = {taken.id: taken.token for taken in desk.do(desk.claim(2)).taken}
    desk.do(desk.limit(None, 1))
    desk.do(calls.cancel(desk.keys, "a", tokens["a"], "busy", 0))
    with desk.ear() as ear:
        _look_and_wait(desk)

        desk.do(desk.limit(None, running))

        assert len(ear.told()) == 1
    desk.audit()


def test_who_waits_is_told_when_a_lowered_limit_lets_a_job_run_again(desk: Desk):
    for id in "ab":
        desk.do(desk.publish(id))
    tokens = {taken.id: taken.token for taken in desk.do(desk.claim(2)).taken}
    desk.do(desk.limit(None, 1))
    desk.do(calls.cancel(desk.keys, "a", tokens["a"], "busy", 0))
    with desk.ear() as ear:
        _look_and_wait(desk)

        desk.do(calls.finish(desk.keys, "b", tokens["b"], b""))

        assert len(ear.told()) == 1
    desk.audit()


# Retention.


def test_a_rerun_job_keeps_its_data_when_who_waited_for_its_first_end_has_read_it(desk: Desk):
    own = desk.wire.process
    desk.do(desk.publish("a", home=own, keep=0))
    _finish(desk, "a")
    desk.do(calls.operate(desk.keys, "rerun", ["a"]))

    desk.do(calls.watch(desk.keys, ["a"], on=False))

    assert _states(desk) == {"a": State.AVAILABLE}
    assert desk.take("a")


def test_counts_do_not_count_what_can_no_longer_be_read(desk: Desk):
    desk.do(desk.publish("a", home="somebody", keep=0))
    _finish(desk, "a")

    desk.advance(3600)

    assert desk.do(calls.read(desk.keys, ["a"])) is None
    assert desk.do(calls.counts(desk.keys))[State.FINISHED] == 0


def test_a_finish_that_comes_again_after_a_minute_is_answered_twice_alike(desk: Desk):
    desk.do(desk.publish("a", keep=0))
    call = calls.finish(desk.keys, "a", desk.take("a"), b"")
    desk.do(call)
    desk.advance(61)

    first, second = desk.ask(call), desk.ask(call)

    assert plain(first) == plain(second)


# Time.


def test_a_clock_that_goes_back_draws_no_token_twice(desk: Desk):
    desk.do(desk.publish("a"))
    first = desk.take("a")
    desk.do(calls.cancel(desk.keys, "a", first, "busy", 0))

    desk.advance(-3600)

    assert desk.take("a") > first


def test_what_is_due_in_thousands_is_settled_in_parts_until_nothing_is_left(desk: Desk):
    for first in range(0, 1200, 400):
        items = (arg for at in range(first, first + 400) for arg in _item(desk, f"job {at}", delay=5))
        desk.do(desk.raw("publish", *items))
    desk.advance(5)

    desk.settle()

    found = desk.audit()
    assert len(found.in_state(State.AVAILABLE)) == 1200
    ids = [member[8:] for member, _ in found["available"]]
    assert ids == [b"job %d" % at for at in sorted(range(1200), key=lambda at: b"job %d" % at)]


def _item(desk: Desk, id: str, **spec: Any) -> tuple[Any, ...]:
    return desk.publish(id, **spec).args


def test_a_change_of_each_key_moves_the_jobs_of_many_keys_in_one_entry_of_the_log_each(desk: Desk):
    for number in range(600):
        desk.do(desk.publish(f"{number}", key=f"key {number % 200}"))
    desk.do(desk.limit(None, 250))

    for running, available in ((1, 200), (2, 250), (0, 0), (3, 250)):
        before = len(desk.contents()["events"])
        more = desk.do(desk.limit(EACH_KEY, running))
        desk.audit()
        while more:
            more = desk.do(calls.settle(desk.keys))
            desk.audit()

        assert len(desk.contents().in_state(State.AVAILABLE)) == available
        assert len(desk.contents()["events"]) - before < 20
