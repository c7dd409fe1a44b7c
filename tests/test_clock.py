"""The queue's two clocks, while the server's is set to another time, or the server stands still."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from audit import Contents
from desk import Desk, Ear, head

from thoonk_jobs import Broker, calls
from thoonk_jobs.elapsed import Elapsed
from thoonk_jobs.machine import State
from thoonk_jobs.request import Call, Reply
from thoonk_jobs.timing import UNKNOWN_SKEW

JUMPS = pytest.mark.parametrize("jump", [3600, -3600, 10], ids=["an hour on", "an hour back", "stood still for 10 s"])
LEASE = 5.0


class Times(Desk):
    """A desk whose server's clock is set: now stays what a clock that nobody sets would show."""

    jumped = 0
    skew = 0

    def jump(self, seconds: float) -> None:
        self.jumped += round(seconds * 1000)

    def vouched(self, call: Call[object], process: str = "p1") -> Reply:
        """Asked by a process that knows what the elapsed clock should show."""
        at = head(self.now + self.jumped, self.now, self.skew, back=call.back)
        reply = self.reply(call, process, at=at)
        self.skew = reply.skew
        return reply

    def unvouched(self, call: Call[object], process: str = "stranger") -> Reply:
        """Asked by a process that cannot tell."""
        return self.reply(call, process, at=head(self.now + self.jumped, 0, math.inf, back=call.back))

    def found(self) -> Contents:
        return self.audit()


@pytest.fixture
def desk(broker: Broker, client: redis.Redis, namespace: str) -> Times:
    """A queue with a claimed job, a delayed one, one for a date, and a finished one."""
    desk = Times(broker.session.wire, client, namespace)
    desk.vouched(desk.publish("done", keep=600, home="somebody"))
    desk.vouched(desk.publish("bare", keep=0))
    for taken in desk.vouched(desk.claim(2)).answer.taken:
        desk.vouched(calls.finish(desk.keys, taken.id, taken.token, b""))
    desk.vouched(calls.watch(desk.keys, ["done"], on=False), "somebody")
    desk.vouched(desk.publish("claimed"))
    desk.vouched(desk.claim(1, lease=LEASE))
    desk.vouched(desk.publish("delayed", delay=LEASE))
    desk.vouched(desk.publish("dated", run_at=desk.now / 1000 + 600))
    return desk


@pytest.fixture
def ear(desk: Times) -> Iterator[Ear]:
    with desk.ear("p1") as ear:
        yield ear


def _states(desk: Times) -> dict[str, State]:
    return {id: desk.state(id) for id in ("claimed", "delayed", "done", "bare")}


UNMOVED = {
    "claimed": State.CLAIMED, "delayed": State.SCHEDULED, "done": State.FINISHED, "bare": State.FINISHED,
}  # fmt: skip


@JUMPS
def test_no_lease_ends_by_a_jump_that_a_process_can_tell(desk: Times, jump: float):
    desk.jump(jump)

    for _ in range(2):
        assert desk.vouched(calls.settle(desk.keys, keeper=True)).now == desk.now

    assert _states(desk) == UNMOVED
    assert desk.found().meta("skew") == -round(jump * 1000)


@JUMPS
def test_time_goes_on_after_a_jump(desk: Times, jump: float):
    desk.jump(jump)
    desk.vouched(calls.settle(desk.keys, keeper=True))

    desk.advance(LEASE - 0.001)
    desk.vouched(calls.settle(desk.keys, keeper=True))
    assert _states(desk) == UNMOVED
    desk.advance(0.001)
    desk.vouched(calls.settle(desk.keys, keeper=True))

    assert (desk.state("claimed"), desk.state("delayed")) == (State.AVAILABLE, State.AVAILABLE)


@JUMPS
def test_a_date_follows_the_servers_clock(desk: Times, jump: float):
    desk.jump(jump)
    desk.vouched(calls.settle(desk.keys, keeper=True))
    assert (desk.state("dated") is State.AVAILABLE) == (jump > 600)

    desk.advance(600 - jump)
    desk.vouched(calls.settle(desk.keys, keeper=True))

    assert desk.state("dated") is State.AVAILABLE


@JUMPS
def test_the_alarm_for_a_date_is_set_anew_after_a_jump(desk: Times, ear: Ear, jump: float):
    desk.jump(jump)
    desk.vouched(desk.publish("new", delay=9))
    assert ear.alarms()[-1][0] == 0

    desk.vouched(calls.settle(desk.keys, keeper=True))

    assert 0 < ear.alarms()[-1][0] <= LEASE * 1000


@JUMPS
@pytest.mark.parametrize("act", ["settle", "alarm", "claim", "probe", "publish", "finish"])
def test_who_cannot_tell_a_jump_leaves_it_to_those_who_keep_the_time(desk: Times, ear: Ear, jump: float, act: str):
    desk.jump(jump)

    desk.unvouched(_acts(desk)[act])

    assert _states(desk) == UNMOVED
    desk.vouched(calls.settle(desk.keys, keeper=True))
    assert _states(desk) == UNMOVED


def _acts(desk: Times) -> dict[str, Call[object]]:
    return {
        "settle": calls.settle(desk.keys),
        "alarm": calls.settle(desk.keys, keeper=True),
        "claim": desk.claim(1, lane="another"),
        "probe": calls.probe(desk.keys, "nonce"),
        "publish": desk.publish("new"),
        "finish": calls.finish(desk.keys, "nobody", 7, b""),
    }


def test_those_who_keep_the_time_hear_when_somebody_else_finds_something_due(desk: Times, ear: Ear):
    desk.jump(3600)
    ear.heard()

    desk.unvouched(desk.claim(1, lane="another"))

    assert ear.alarms()[0][0] <= 0


def test_where_nobody_keeps_the_time_whoever_comes_settles(desk: Times):
    desk.advance(LEASE)

    desk.unvouched(calls.settle(desk.keys))

    assert (desk.state("claimed"), desk.state("delayed")) == (State.AVAILABLE, State.AVAILABLE)


def test_a_clock_that_goes_back_stands_for_strangers_where_it_was(desk: Times):
    desk.jump(-3600)

    reply = desk.unvouched(desk.publish("new", delay=1))

    assert reply.now == desk.now
    assert desk.found().jobs[b"new"].until == desk.now + 1000


@JUMPS
def test_who_only_reads_tells_a_jump_and_leaves_it_to_be_told_by_others(desk: Times, jump: float):
    desk.jump(jump)

    for _ in range(2):
        assert desk.vouched(calls.counts(desk.keys)).now == desk.now
    desk.vouched(calls.settle(desk.keys, keeper=True))

    assert _states(desk) == UNMOVED


def test_one_who_expects_what_was_before_others_were_here_sets_nothing_back(desk: Times):
    """It waited for its turn while time passed for all."""
    late = head(desk.now + 9000, desk.now, 0)
    desk.advance(9)
    desk.vouched(desk.publish("new"))

    reply = desk.reply(desk.publish("newer"), "slow", at=late)

    assert (reply.now, reply.skew) == (desk.now, 0)


def test_who_knew_another_skew_cannot_tell(desk: Times):
    before = head(desk.now + 3_600_000, desk.now, 0)
    desk.jump(3600)
    desk.vouched(desk.publish("new"))

    reply = desk.reply(desk.publish("newer"), "other", at=before)

    assert (reply.now, reply.skew) == (desk.now, -3_600_000)


@JUMPS
def test_a_queue_that_is_deleted_after_a_jump_leaves_nothing(desk: Times, jump: float):
    desk.vouched(calls.operate(desk.keys, "retract", ["claimed", "delayed", "dated"]))
    desk.jump(jump)

    assert desk.vouched(calls.delete(desk.keys)).answer == 0

    assert desk.client.keys(f"{desk.keys.base}*") == []


def test_a_keeper_who_cannot_tell_is_known_as_the_keeper(desk: Times, ear: Ear):
    desk.unvouched(calls.settle(desk.keys, keeper=True), "p2")

    assert ear.alarms()[-1][1] == "p2"
    assert desk.found()["meta"][b"keeper"] == b"p2"


def test_a_newcomer_after_a_jump_learns_nothing_while_others_know_better(desk: Times, ear: Ear):
    desk.jump(3600)

    for _ in range(2):
        reply = desk.unvouched(desk.claim(0))
        assert reply.skew == UNKNOWN_SKEW

    assert ear.alarms()[-1][0] == 0
    assert desk.state("claimed") is State.CLAIMED


def test_a_newcomer_learns_what_the_clock_shows_where_nobody_knows_better(desk: Times):
    desk.jump(3600)

    assert desk.unvouched(desk.claim(0)).skew == 0


def test_what_those_who_keep_the_time_do_not_do_a_newcomer_does_after_3_seconds(desk: Times, ear: Ear):
    desk.advance(LEASE)
    desk.unvouched(calls.settle(desk.keys))
    desk.advance(2.9)
    desk.unvouched(calls.settle(desk.keys))
    assert desk.state("claimed") is State.CLAIMED

    desk.advance(0.1)
    desk.unvouched(calls.settle(desk.keys))

    assert desk.state("claimed") is State.AVAILABLE


class ForgottenMeanwhile(dict[str, Any]):
    """Between two looks another thread forgets what is there."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        self.clear()
        return found

    def get(self, key: str, default: Any = None) -> Any:
        found = super().get(key, default)
        self.clear()
        return found


def test_threads_that_hear_of_a_jump_at_the_same_time_do_not_disturb_each_other():
    """As after the server stood still: all replies are late, and tell of another skew."""
    elapsed = Elapsed()
    elapsed.heard("letters", time.monotonic(), 0, 0)
    elapsed._known = ForgottenMeanwhile(elapsed._known)

    elapsed.heard("letters", -math.inf, 0, 1)

    assert not elapsed._known
