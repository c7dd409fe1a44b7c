"""Changes of limits that one call cannot carry out: more jobs than it may move, with claims and new jobs in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from audit import Contents
from desk import Desk

from thoonk_jobs import EACH_KEY, Broker, calls, limits
from thoonk_jobs.codec import pack
from thoonk_jobs.machine import SLOTTED, State
from thoonk_jobs.publication import Publication
from thoonk_jobs.record import Spec
from thoonk_jobs.request import AT_ONCE, Call

MANY = 1500
KEYS = 1200
LONGEST = 1.0
"""Seconds that a call may take on a busy machine; on a quiet one none takes a twentieth of it."""


class TimedDesk(Desk):
    """A desk that notes how long the server needs."""

    longest = 0.0

    def ask(self, call: Call[Any]) -> Any:
        begun = time.perf_counter()
        try:
            return super().ask(call)
        finally:
            self.longest = max(self.longest, time.perf_counter() - begun)


@pytest.fixture
def desk(broker: Broker, client: redis.Redis, namespace: str) -> Iterator[TimedDesk]:
    desk = TimedDesk(broker.session.wire, client, namespace)
    yield desk
    assert desk.longest < LONGEST


def _publish(desk: Desk, ids: list[str], key: Callable[[str], str] = lambda id: "", **spec: Any) -> None:
    body, digest = pack("data")
    jobs = [Publication(id, digest, Spec(**spec, key=key(id)).pack(), body) for id in ids]
    for first in range(0, len(jobs), AT_ONCE):
        desk.do(calls.publish(desk.keys, jobs[first : first + AT_ONCE]))


def _names(count: int, word: str = "job") -> list[str]:
    return [f"{word} {at:04}" for at in range(count)]


def _key(id: str) -> str:
    """One of KEYS, of which the ids with the same number share one."""
    return f"key {id.split()[-1]}"


def _settle_once(desk: Desk) -> bool:
    return bool(desk.do(calls.settle(desk.keys)))


def _take(desk: Desk, most: int = 50) -> list[str]:
    return [taken.id for taken in desk.do(desk.claim(most)).taken]


def _claimed(found: Contents) -> Counter[str]:
    """How many jobs of each key are claimed, and in all."""
    keys = [found.jobs[id].key.decode() for id in found.in_state(State.CLAIMED)]
    return Counter(each for key in keys for each in {"", key})


def _carry_on(desk: Desk, meanwhile: Callable[[int], None], most: int = 20) -> int:
    """Settles until nothing is left; how many calls that took."""
    for rounds in range(most):
        meanwhile(rounds)
        desk.audit()
        if not _settle_once(desk):
            return rounds + 1
    raise AssertionError(f"there is more to settle after {most} calls")


LOWERED = [
    pytest.param(None, 10, lambda id: "", "", id="queue"),
    pytest.param("blue", 10, lambda id: "blue", "blue", id="one key"),
    pytest.param(EACH_KEY, 1, _key, "key 0007", id="each key"),
]


@pytest.mark.parametrize(("limited", "running", "key", "watched"), LOWERED)
def test_a_limit_that_was_lowered_is_not_exceeded_while_the_rest_is_parked(
    desk: TimedDesk, limited: limits.Limited, running: int, key: Callable[[str], str], watched: str
):
    ids = [*_names(KEYS), *_names(KEYS, "other")]
    _publish(desk, ids, key)
    assert desk.do(desk.limit(limited, running))

    def meanwhile(round: int) -> None:
        _publish(desk, [f"late {round} 0007"], key)
        _take(desk, 500)
        claimed = _claimed(desk.contents())
        over = {each: runs for each, runs in claimed.items() if runs > running and (each == "") == (limited is None)}
        assert not over

    _carry_on(desk, meanwhile)

    found = desk.audit()
    assert _claimed(found)[watched] == running
    held = Counter(found.jobs[id].key.decode() if watched else "" for id in found.in_state(*SLOTTED))
    assert max(held.values()) == running


@pytest.mark.parametrize("limited", [None, "blue", EACH_KEY])
@pytest.mark.parametrize("running", [None, 700])
def test_a_limit_that_was_raised_lets_go_in_order_as_many_as_fit(
    desk: TimedDesk, limited: limits.Limited, running: int | None
):
    desk.do(desk.limit(limited, 0))
    _publish(desk, _names(MANY), lambda id: "blue")
    desk.do(desk.limit(limited, running))

    taken: list[str] = []
    _carry_on(desk, lambda round: taken.extend(_take(desk)))
    while more := _take(desk, 500):
        taken.extend(more)

    assert taken == _names(MANY)[: running or MANY]
    assert len(desk.audit().in_state(State.WAITING)) == MANY - len(taken)


def test_each_of_many_keys_gets_its_slot_when_their_limit_is_raised(desk: TimedDesk):
    desk.do(desk.limit(EACH_KEY, 0))
    _publish(desk, [*_names(KEYS), *_names(KEYS, "other")], _key)

    assert desk.do(desk.limit(EACH_KEY, 1))
    _carry_on(desk, lambda round: None)

    found = desk.audit()
    assert sorted(found.in_state(State.AVAILABLE)) == [id.encode() for id in _names(KEYS)]


def test_what_is_published_meanwhile_finds_the_limit_that_was_set_last(desk: TimedDesk):
    """A limit is lowered and lifted again before the alarm has carried out either."""
    _publish(desk, _names(MANY), lambda id: "blue")
    desk.do(desk.limit("blue", 0))
    _publish(desk, ["refused a slot"], lambda id: "blue")
    desk.do(desk.limit("blue", None))
    _publish(desk, ["late"], lambda id: "blue")

    _carry_on(desk, lambda round: None)

    assert len(desk.audit().in_state(State.AVAILABLE)) == MANY + 2


def test_two_limits_that_change_at_once_are_both_carried_out(desk: TimedDesk):
    _publish(desk, _names(KEYS), _key)
    _publish(desk, _names(MANY, "blue"), lambda id: "blue")
    desk.do(desk.limit(EACH_KEY, 0))
    desk.do(desk.limit(None, 20))
    desk.do(desk.limit("blue", 15))
    desk.do(desk.limit(EACH_KEY, 1))

    _carry_on(desk, lambda round: None)

    found = desk.audit()
    held = Counter(found.jobs[id].key.decode() for id in found.in_state(*SLOTTED))
    assert held.total() == 20
    assert max(held.values()) <= 15


# Who asked for the change is gone after its first part.


@pytest.mark.parametrize("running", [5, None])
def test_the_alarm_goes_on_where_the_client_died(desk: TimedDesk, running: int | None):
    desk.do(desk.limit(None, 0 if running is None else MANY))
    _publish(desk, _names(MANY))
    with desk.ear("another") as ear:
        reply = desk.reply(desk.limit(None, running))
        assert (reply.answer, reply.alarm) == (True, 0)
        desk.look("another")
        ear.heard()
        while desk.reply(calls.settle(desk.keys, keeper=True), "another").answer:
            assert desk.audit().meta("alarm") <= desk.now

    assert len(desk.audit().in_state(*SLOTTED)) == (MANY if running is None else running)


def test_claims_alone_carry_out_a_change(desk: TimedDesk):
    desk.do(desk.limit(None, 0))
    _publish(desk, _names(MANY))
    desk.do(desk.limit(None, None))

    taken = [id for _ in range(3) for id in _take(desk, 500)]

    assert taken == _names(MANY)
    assert not desk.audit()["behind"]


def test_a_change_that_is_sent_again_is_carried_out_once(desk: TimedDesk):
    _publish(desk, _names(MANY))
    call = desk.limit(None, 1)
    while desk.do(call):
        pass

    found = desk.audit()
    assert found.in_state(State.AVAILABLE) == [b"job 0000"]
    assert sum(row == "park" for _, row, _ in found.events()) == MANY - 1


# Long lines.


@pytest.mark.parametrize("urgent", [0.0, 5.0])
def test_a_slot_of_the_queue_passes_by_hundreds_whose_key_is_full(desk: TimedDesk, urgent: float):
    desk.do(desk.limit(None, 1))
    desk.do(desk.limit("blue", 1))
    desk.do(desk.publish("first"))
    first = desk.take("first")
    _publish(desk, _names(600, "blue"), lambda id: "blue", priority=urgent)
    desk.do(desk.publish("plain", key="red"))
    assert {job.held for id, job in desk.contents().jobs.items() if id != b"first"} == {1}

    desk.do(desk.limit(None, 2))
    desk.do(calls.finish(desk.keys, "first", first, b""))
    _carry_on(desk, lambda round: None)

    assert sorted(desk.audit().in_state(State.AVAILABLE)) == [b"blue 0000", b"plain"]


def test_a_job_that_came_back_keeps_its_slot_before_hundreds_whose_key_is_full(desk: TimedDesk):
    desk.do(desk.limit(None, 1))
    desk.do(desk.limit("blue", 1))
    desk.do(desk.publish("first"))
    first = desk.take("first")
    _publish(desk, _names(600, "blue"), lambda id: "blue", priority=5)
    desk.do(desk.limit(None, 2))
    _take(desk, 1)

    desk.do(calls.cancel(desk.keys, "first", first, "busy", 0))
    _carry_on(desk, lambda round: None)

    assert desk.audit().in_state(State.AVAILABLE) == [b"first"]


def test_no_call_moves_thousands_to_the_line_of_a_full_queue(desk: TimedDesk):
    desk.do(desk.limit(None, 0))
    desk.do(desk.limit(EACH_KEY, 0))
    _publish(desk, _names(2000), lambda id: f"key {id[-1]}")

    assert desk.do(desk.limit(EACH_KEY, None))
    assert 400 < len(desk.audit()["waiting"]) <= 500
    _carry_on(desk, lambda round: None)

    assert len(desk.audit()["waiting"]) == 2000


def test_hundreds_that_are_lost_at_once_give_way_to_as_many_that_are_more_urgent(desk: TimedDesk):
    desk.do(desk.limit("blue", 400))
    _publish(desk, _names(400), lambda id: "blue")
    assert len(desk.do(desk.claim(500, lease=5)).taken) == 400
    _publish(desk, _names(400, "urgent"), lambda id: "blue", priority=5)

    desk.advance(5)
    _carry_on(desk, lambda round: None)

    assert sorted(desk.audit().in_state(State.AVAILABLE)) == [id.encode() for id in _names(400, "urgent")]


def test_hundreds_of_urgent_jobs_take_the_slots_of_as_many_others(desk: TimedDesk):
    desk.do(desk.limit(None, 500))
    desk.do(desk.limit(EACH_KEY, 1))
    _publish(desk, _names(500), _key)

    _publish(desk, _names(500, "urgent"), _key, priority=5)

    assert sorted(desk.audit().in_state(State.AVAILABLE)) == [id.encode() for id in _names(500, "urgent")]


def test_pending_is_counted_among_thousands(desk: TimedDesk):
    desk.do(desk.limit("blue", pending=MANY))
    _publish(desk, _names(MANY), lambda id: "blue")

    answer = desk.ask(desk.publish("one more", key="blue"))

    assert (answer.key, answer.limit) == ("blue", MANY)
    desk.audit()
