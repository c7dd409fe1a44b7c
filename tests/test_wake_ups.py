"""The protocol by which who waits for jobs is told of them, step by step, on real servers and real subscriptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis
from desk import Desk, Line

from thoonk_jobs import Broker, calls
from thoonk_jobs.request import Call, Reply
from thoonk_jobs.timing import GONE_AT_ONCE, TOLD_FOR


@pytest.fixture
def desk(broker: Broker, client: redis.Redis, namespace: str) -> Desk:
    return Desk(broker.session.wire, client, namespace)


@pytest.fixture
def line(desk: Desk) -> Iterator[Line]:
    with ExitStack() as stack:
        yield Line(desk, stack)


def _ids(reply: Reply) -> list[str]:
    return [taken.id for taken in reply.answer.taken]


def _publish(desk: Desk, *ids: str, **spec: Any) -> None:
    """All in one call."""
    desk.do(desk.raw("publish", *(arg for id in ids for arg in desk.publish(id, **spec).args)))


# 2. Looking.


def test_a_look_that_finds_enough_does_not_wait(desk: Desk):
    _publish(desk, "a", "b")

    reply = desk.look("p1", 2)

    assert (_ids(reply), reply.number) == (["a", "b"], 0)
    assert desk.audit()["waiters"] == []


def test_a_look_that_finds_too_little_waits_for_the_rest(desk: Desk):
    _publish(desk, "a")

    reply = desk.look("p1", 3)

    found = desk.audit()
    assert _ids(reply) == ["a"]
    assert found["waiters"] == [(b"p1", reply.number)]
    assert found["room"] == {b"p1": b"2"}


def test_a_second_look_keeps_the_place_in_line(desk: Desk):
    first = desk.look("p1", 1)
    desk.look("p2", 1)

    second = desk.look("p1", 5)

    assert second.number == first.number
    assert [process for process, _ in desk.audit()["waiters"]] == [b"p1", b"p2"]
    assert desk.contents()["room"][b"p1"] == b"5"


def test_a_look_settles_what_is_due(desk: Desk):
    _publish(desk, "a", delay=5)
    desk.advance(5)

    assert _ids(desk.look("p1")) == ["a"]


def test_a_look_that_may_take_fewer_than_are_wanted_and_leaves_some_does_not_wait(desk: Desk):
    """It looks again at once: there is more for it."""
    _publish(desk, "a", "b", "c")

    reply = desk.look("p1", 3, most=2)

    assert (_ids(reply), reply.number) == (["a", "b"], 0)


# 3. Telling.


def test_as_many_are_told_as_the_jobs_need_the_oldest_first(desk: Desk, line: Line):
    line.wait("p1", "p2", "p3", wanted=2)

    _publish(desk, "a", "b", "c")

    assert line.told() == ["p1", "p2"]
    assert [process for process, _ in desk.audit()["waiters"]] == [b"p3"]


def test_one_job_and_500_waiters_make_no_herd(desk: Desk, line: Line):
    line.wait("p0")
    for number in range(1, 500):
        desk.look(f"p{number}")
    line.wait("p500")

    _publish(desk, "a")

    found = desk.audit()
    assert [process for process, _ in found["told"]] == [b"p0"]
    assert len(found["waiters"]) == 500
    assert line.told() == ["p0"]


def test_who_is_told_hears_the_number_of_its_place(desk: Desk):
    with desk.ear("p1") as ear:
        number = desk.look("p1").number

        _publish(desk, "a")

        assert ear.told() == [number]


def test_who_was_told_and_has_room_left_is_told_once(desk: Desk, line: Line):
    line.wait("p1", wanted=3)
    line.wait("p2")

    for id in "abc":
        _publish(desk, id)

    assert len([told for told in line.ears["p1"].heard() if told[0] == "w"]) == 1
    assert line.told() == []


def test_who_is_gone_is_forgotten_and_the_next_is_told(desk: Desk, line: Line):
    desk.look("gone", 5)
    line.wait("p1")

    _publish(desk, "a")

    assert line.told() == ["p1"]
    assert desk.audit()["room"].keys() == {b"p1"}


@pytest.mark.parametrize("act", ["alarm", "look"])
def test_more_who_are_gone_than_one_call_may_find_are_left_to_the_alarm(desk: Desk, line: Line, act: str):
    for number in range(GONE_AT_ONCE + 1):
        desk.look(f"gone {number}")
    line.wait("p1")

    _publish(desk, "a", "b")

    found = desk.contents()
    assert (len(found["waiters"]), found.meta("alarm")) == (2, desk.now)
    if act == "alarm":
        desk.reply(calls.settle(desk.keys, keeper=True), "p1")
    else:
        assert _ids(desk.look("p2")) == ["a"]
    assert line.told() == ["p1"]
    desk.audit()


@pytest.mark.parametrize("comes", ["retry", "rerun", "cancel", "reattempt", "promote", "expire", "release", "resume"])
def test_whatever_makes_a_job_available_tells(desk: Desk, line: Line, comes: str):
    keys = desk.keys
    _publish(desk, "a", max_attempts=2, delay=9 if comes == "promote" else None)
    if comes == "release":
        desk.do(desk.limit(None, 0))
    elif comes == "resume":
        desk.do(calls.pause(keys, on=True))
    elif comes == "retry":
        desk.do(calls.stall(keys, "a", "odd"))
    token = desk.take("a", lease=9) if comes in ("rerun", "cancel", "reattempt", "expire") else 0
    if comes == "rerun":
        desk.do(calls.finish(keys, "a", token, b""))
    line.wait("p1")

    acts = {
        "retry": calls.operate(keys, "retry", ["a"]),
        "rerun": calls.operate(keys, "rerun", ["a"]),
        "cancel": calls.cancel(keys, "a", token, "busy", 0),
        "reattempt": calls.fail(keys, "a", token, b"e", final=False, delay=0),
        "release": desk.limit(None, None),
        "resume": calls.pause(keys, on=False),
    }
    desk.advance(9)
    desk.do(acts.get(comes, calls.settle(keys)))

    assert line.told() == ["p1"]
    desk.audit()


def test_nobody_is_told_while_the_queue_is_paused(desk: Desk, line: Line):
    line.wait("p1")
    desk.do(calls.pause(desk.keys, on=True))

    _publish(desk, "a")

    assert line.told() == []


def test_jobs_that_a_lowered_limit_holds_send_nobody_round_in_circles(desk: Desk, line: Line):
    """Nobody is told of what may not run."""
    _publish(desk, "a", "b")
    tokens = {taken.id: taken.token for taken in desk.do(desk.claim(2)).taken}
    desk.do(desk.limit(None, 1))
    line.wait("p1", "p2")
    desk.do(calls.cancel(desk.keys, "a", tokens["a"], "busy", 0))

    assert line.told() == []
    desk.do(calls.finish(desk.keys, "b", tokens["b"], b""))
    assert line.told() == ["p1"]
    desk.audit()


# 4. The audited invariant: who looks again, its reply lost, misses nothing.


def test_a_look_that_is_sent_again_waits_for_no_job_that_is_there(desk: Desk, line: Line):
    line.listen("p1")
    _publish(desk, "a")
    call = desk.claim(2, lane="p1", wanted=2)
    desk.reply(call, "p1", back=2)
    _publish(desk, "b")  # it is told, and sends the call again: the reply never came

    again = desk.reply(call, "p1", back=2)

    assert (_ids(again), again.number) == (["a"], 0)
    desk.audit()
    assert _ids(desk.look("p1")) == ["b"]


# 6. Told.


def test_who_is_told_looks_and_takes(desk: Desk, line: Line):
    line.wait("p1")
    _publish(desk, "a")

    reply = desk.look("p1")

    found = desk.audit()
    assert (_ids(reply), reply.number) == (["a"], 0)
    assert (found["told"], found["room"], found.meta("told_room")) == ([], {}, 0)


def test_who_is_told_and_wants_nothing_any_more_passes_it_on(desk: Desk, line: Line):
    line.wait("p1", "p2")
    _publish(desk, "a")
    assert line.told() == ["p1"]

    desk.look("p1", 0)

    assert line.told() == ["p2"]
    assert desk.audit()["room"].keys() == {b"p2"}


def test_a_claim_that_does_not_wait_leaves_the_told_as_they_are(desk: Desk, line: Line):
    line.wait("p1")
    _publish(desk, "a")

    desk.reply(desk.claim(0), "p1")

    assert [process for process, _ in desk.audit()["told"]] == [b"p1"]


# 7. Going back in line.


def _ends(desk: Desk) -> dict[str, Call[Any]]:
    token = desk.take("a")
    keys = desk.keys
    return {
        "finish": calls.finish(keys, "a", token, b""),
        "fail": calls.fail(keys, "a", token, b"e", final=True, delay=0),
        "cancel": calls.cancel(keys, "a", token, "busy", 5),
        "stall": calls.stall(keys, "a", "odd", token),
    }


@pytest.mark.parametrize("verb", ["finish", "fail", "cancel", "stall"])
def test_the_end_of_a_claim_takes_its_process_back_in_line(desk: Desk, verb: str):
    _publish(desk, "a")

    reply = desk.reply(replace(_ends(desk)[verb], back=2), "p1")

    found = desk.audit()
    assert reply.number > 0
    assert (found["waiters"], found["room"]) == ([(b"p1", reply.number)], {b"p1": b"2"})


def test_nobody_goes_back_in_line_for_what_is_there(desk: Desk):
    _publish(desk, "a", "b")
    token = desk.do(desk.claim(1)).taken[0].token

    reply = desk.reply(replace(calls.finish(desk.keys, "a", token, b""), back=1), "p1")

    assert reply.number == 0
    assert desk.audit()["waiters"] == []


def test_who_goes_back_in_line_for_what_others_were_told_of_waits(desk: Desk, line: Line):
    _publish(desk, "a")
    token = desk.take("a")
    line.wait("p2")
    _publish(desk, "b")

    reply = desk.reply(replace(calls.finish(desk.keys, "a", token, b""), back=1), "p1")

    assert reply.number > 0
    assert desk.audit()["waiters"] == [(b"p1", reply.number)]


def test_who_was_told_and_ends_a_claim_stays_told(desk: Desk, line: Line):
    _publish(desk, "a")
    token = desk.take("a")
    line.wait("p1")
    _publish(desk, "b")

    reply = desk.reply(replace(calls.finish(desk.keys, "a", token, b""), back=3), "p1")

    found = desk.audit()
    assert reply.number == 0
    assert ([process for process, _ in found["told"]], found["room"]) == ([b"p1"], {b"p1": b"1"})


def test_whose_claims_end_by_a_refused_call_is_in_line_all_the_same(desk: Desk):
    call = replace(calls.finish(desk.keys, "nobody", 7, b""), back=1)

    assert desk.reply(call, "p1").number > 0


# 8. The alarm.


def test_the_alarm_is_set_anew_only_for_what_is_due_earlier(desk: Desk, line: Line):
    line.wait("p1")
    ear = line.ears["p1"]
    for delay in (20, 30, 10):
        _publish(desk, f"in {delay}", delay=delay)

    assert ear.alarms() == [(20_000, "p1"), (10_000, "p1")]
    assert desk.audit().meta("alarm") == desk.now + 10_000


def test_an_alarm_that_nobody_heard_gives_way_to_the_next_that_is_needed(desk: Desk):
    _publish(desk, "a")
    desk.do(calls.finish(desk.keys, "a", desk.take("a", lease=5), b""))
    desk.advance(6)

    with desk.ear("p1") as ear:
        _publish(desk, "b", delay=9)

        assert ear.alarms() == [(9000, "")]
    assert desk.audit().meta("alarm") == desk.now + 9000


def test_every_reply_tells_when_something_is_due(desk: Desk):
    assert desk.look("p1").alarm == -1

    _publish(desk, "a", delay=10)
    desk.advance(4)

    assert desk.look("p1").alarm == 6_000


def test_who_is_told_is_waited_for_for_two_seconds(desk: Desk, line: Line):
    line.wait("p1")

    _publish(desk, "a")

    assert desk.audit()["told"] == [(b"p1", desk.now + TOLD_FOR)]
    assert line.ears["p1"].alarms() == [(TOLD_FOR, "p1")]


def test_what_is_due_within_a_millisecond_is_due_when_the_alarm_rings(desk: Desk):
    _publish(desk, "a", delay=0.0101)
    alarm = desk.look("p1").alarm

    desk.advance(alarm / 1000)

    assert _ids(desk.look("p1")) == ["a"]


# 9 and 10. Who keeps the time, and what it does.


def test_the_first_who_waits_keeps_the_time(desk: Desk, line: Line):
    line.wait("p1", "p2")

    assert [desk.look(process).keeper for process in ("p1", "p2")] == [1, 0]


def test_who_waits_when_the_keeper_is_gone_keeps_the_time(desk: Desk, line: Line):
    desk.look("gone")

    line.wait("p1")

    assert desk.audit()["meta"][b"keeper"] == b"p1"


def test_who_acts_on_an_alarm_keeps_the_time_from_now_on(desk: Desk, line: Line):
    line.wait("p1", "p2")

    reply = desk.reply(calls.settle(desk.keys, keeper=True), "p2")

    assert reply.keeper == 1
    assert line.ears["p1"].alarms()[-1][1] == "p2"
    assert desk.audit()["meta"][b"keeper"] == b"p2"


def test_a_keeper_that_leaves_names_the_next_in_line(desk: Desk, line: Line):
    line.wait("p1", "p2")
    _publish(desk, "later", delay=9)

    desk.reply(calls.leave_line(desk.keys), "p1")

    assert line.ears["p2"].alarms()[-1] == (9000, "p2")


def test_a_keeper_that_leaves_nobody_in_line_rings_for_those_who_hold_claims(desk: Desk, line: Line):
    line.wait("p1")
    _publish(desk, "later", delay=9)
    with desk.ear("p2") as holder:
        desk.reply(calls.leave_line(desk.keys), "p1")

        assert holder.alarms() == [(0, "")]


def test_a_keeper_that_is_gone_is_followed_by_the_first_who_acts(desk: Desk, line: Line):
    line.wait("p1", "p2")
    _publish(desk, "a", delay=5)
    line.ears.pop("p1").close()
    desk.advance(5.5)

    reply = desk.reply(calls.settle(desk.keys, keeper=True), "p2")

    assert reply.keeper == 1
    assert line.told() == ["p2"]


def test_who_never_comes_delays_a_job_by_two_seconds(desk: Desk, line: Line):
    line.wait("hung", "p2", "p3")
    _publish(desk, "a")
    assert line.told() == ["hung"]

    desk.advance(1.999)
    desk.reply(calls.settle(desk.keys, keeper=True), "p2")
    assert line.told() == []
    desk.advance(0.001)
    desk.reply(calls.settle(desk.keys, keeper=True), "p2")

    assert line.told() == ["p2", "p3"]
    found = desk.audit()
    assert found["room"].keys() == {b"p2", b"p3"}
    assert found["waiters"] == []


def test_ten_who_never_come_delay_a_job_by_two_seconds_together(desk: Desk, line: Line):
    hung = [f"hung {number}" for number in range(10)]
    line.wait(*hung, "p1")
    _publish(desk, "a")

    desk.advance(2)
    desk.reply(calls.settle(desk.keys, keeper=True), "p1")

    assert line.told() == [*hung, "p1"]


def test_who_never_came_is_told_no_more_until_it_waits_again(desk: Desk, line: Line):
    line.wait("hung")
    _publish(desk, "a")
    desk.advance(2)

    desk.reply(calls.settle(desk.keys, keeper=True), "p2")

    found = desk.audit()
    assert (found["told"], found["waiters"], found["room"]) == ([], [], {})


# 11. What is due, and the next alarm.


def test_after_an_alarm_the_next_one_is_set(desk: Desk, line: Line):
    line.wait("p1", wanted=5)
    _publish(desk, "a", delay=5)
    _publish(desk, "b", delay=9)
    desk.advance(5)
    line.ears["p1"].heard()

    reply = desk.reply(calls.settle(desk.keys, keeper=True), "p1")

    assert reply.answer is False
    assert line.ears["p1"].alarms()[-1] == (TOLD_FOR, "p1")
    assert reply.alarm == TOLD_FOR


def test_an_alarm_that_leaves_nothing_due_sets_none(desk: Desk):
    _publish(desk, "a", expires_in=5)
    desk.advance(5)

    assert desk.reply(calls.settle(desk.keys, keeper=True), "p1").alarm == -1
    assert desk.audit()["meta"][b"alarm"] == b"never"


def test_more_than_one_call_may_settle_rings_again_at_once(desk: Desk):
    for first in (0, 300):
        _publish(desk, *(f"job {number}" for number in range(first, first + 300)), delay=5)
    desk.advance(5)

    first = desk.reply(calls.settle(desk.keys, keeper=True), "p1")
    second = desk.reply(calls.settle(desk.keys, keeper=True), "p1")

    assert (first.answer, first.alarm) == (True, 0)
    assert (second.answer, second.alarm) == (False, -1)


# 12. The probe.


def test_a_probe_comes_back_on_the_own_channel(desk: Desk):
    with desk.ear("p1") as ear, desk.ear("p2") as other:
        desk.reply(calls.probe(desk.keys, "nonce"), "p1")

        assert ("n", b"nonce") in ear.heard()
        assert ("n", b"nonce") not in other.heard()


def test_a_probe_tells_whether_its_process_waits(desk: Desk):
    number = desk.look("p1").number

    assert desk.reply(calls.probe(desk.keys, "nonce"), "p1").answer.number == number
    assert desk.reply(calls.probe(desk.keys, "nonce"), "p2").answer.number == 0


def test_a_probe_tells_of_data_that_was_lost(desk: Desk):
    desk.look("p1")
    desk.client.delete(*desk.keys.keys)

    reply = desk.reply(calls.probe(desk.keys, "nonce"), "p1")

    assert (reply.answer.number, reply.keeper) == (0, 1)


def test_a_probe_tells_whether_the_alarm_is_late(desk: Desk):
    _publish(desk, "a", delay=5)
    assert desk.reply(calls.probe(desk.keys, "nonce"), "p1").answer.late == 0

    desk.advance(5)

    assert desk.reply(calls.probe(desk.keys, "nonce"), "p1").answer.late == 1


def test_a_probe_forgets_what_was_kept_long_enough(desk: Desk):
    _publish(desk, "a", keep=0)
    desk.do(calls.finish(desk.keys, "a", desk.take("a"), b""))
    desk.advance(60)

    desk.reply(calls.probe(desk.keys, "nonce"), "p1")

    assert desk.audit().jobs == {}


# Leaving, and queues that end.


def test_who_leaves_is_told_nothing(desk: Desk, line: Line):
    line.wait("p1", "p2")

    desk.reply(calls.leave_line(desk.keys), "p1")
    _publish(desk, "a")

    assert line.told() == ["p2"]


def test_who_leaves_when_told_passes_it_on(desk: Desk, line: Line):
    line.wait("p1", "p2")
    _publish(desk, "a")
    line.told()

    desk.reply(calls.leave_line(desk.keys), "p1")

    assert line.told() == ["p2"]
    desk.audit()


def test_a_queue_that_is_deleted_tells_all_who_wait_to_look_again(desk: Desk, line: Line):
    line.wait("p1", "p2")

    desk.do(calls.delete(desk.keys))

    assert line.told() == ["p1", "p2"]
    assert desk.client.keys(f"{desk.keys.base}*") == []
